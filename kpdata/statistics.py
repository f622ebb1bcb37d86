"""Counts and distributions of a dataset, as plain data: what `kpdata info` prints and draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.schema import Visibility


def statistics(dataset: Dataset) -> dict[str, Any]:
    """Counts, visibility per keypoint, sizes in pixels, people per image.

    visibility: skeleton -> keypoint -> people by state, and the share labelled. sizes: quantiles of image sizes, box
    heights, sqrt(area) and people per image; None where no row has the number.
    """
    persons = dataset.persons
    per_image = people_per_image(dataset)
    crowd = schema.values(persons["iscrowd"], missing=False)
    flags, _ = schema.ragged(persons["visibility"])
    counts = {
        "images": dataset.images.num_rows,
        "images without people": int((per_image == 0).sum()),
        "people": len(dataset),
        "people with a labelled keypoint": int((labelled_per_person(dataset) > 0).sum()),
        "crowds": int(crowd.sum()),
        "labelled keypoints": int((flags > 0).sum()),
        **{f"{state.name.lower()} keypoints": int((flags == state).sum()) for state in Visibility},
    }
    boxes, area = schema.matrix(persons["bbox"], 4), schema.values(persons["area"])
    sizes = {
        "image width": schema.values(dataset.images["width"]).astype(float)[schema.valid(dataset.images["width"])],
        "image height": schema.values(dataset.images["height"]).astype(float)[schema.valid(dataset.images["height"])],
        "box height": boxes[:, 3][np.isfinite(boxes[:, 3])],
        "√area": np.sqrt(np.maximum(area[np.isfinite(area)], 0)),
        "people in an image": per_image.astype(float),
        "labelled keypoints of a person": labelled_per_person(dataset).astype(float),
    }
    return {
        "counts": counts,
        "people_by_skeleton": {name: len(rows) for name, rows in dataset.groups() if name is not None},
        "visibility": visibility_by_keypoint(dataset),
        "sizes": {name: _quantiles(data) for name, data in sizes.items()},
        "datasets": {
            name: {k: v for k, v in d.items() if isinstance(v, str | int | float)}
            for name, d in dataset.datasets.items()
        },
        "findings": sum(len(d.get("findings", ())) for d in dataset.datasets.values()),
    }


def people_per_image(dataset: Dataset) -> NDArray[np.int64]:
    """(I,) people of each image; people on images that are not listed are left out."""
    rows = dataset.image_rows()
    return np.bincount(rows[rows >= 0], minlength=dataset.images.num_rows)


def labelled_per_person(dataset: Dataset) -> NDArray[np.int64]:
    """(N,) keypoints of each person whose visibility is not absent."""
    flat, offsets = schema.ragged(dataset.persons["visibility"])
    total = np.concatenate([[0], np.cumsum(flat > 0)])
    counts: NDArray[np.int64] = total[offsets[1:]] - total[offsets[:-1]]
    return counts


def visibility_by_keypoint(dataset: Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """skeleton -> keypoint -> {absent, occluded, visible, unknown: people; labelled: share of people with a pose}."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in dataset.groups():
        if name is None:
            continue
        people = schema.take(dataset.persons.select(["visibility"]), rows)
        names = dataset.skeletons[name].keypoint_names
        flags = schema.matrix(people["visibility"], len(names))
        posed = max(int((flags > 0).any(1).sum()), 1)
        states = {state.name.lower(): (flags == state).sum(0).tolist() for state in Visibility}
        labelled = ((flags > 0).sum(0) / posed).tolist()
        out[name] = {
            key: {**{s: n[i] for s, n in states.items()}, "labelled": labelled[i]} for i, key in enumerate(names)
        }
    return out


def _quantiles(data: NDArray[np.float64]) -> dict[str, float | int | None]:
    if not len(data):
        return {"count": 0, "min": None, "p10": None, "median": None, "p90": None, "max": None}
    low, tenth, middle, ninetieth, high = np.quantile(data, [0, 0.1, 0.5, 0.9, 1]).tolist()
    return {"count": len(data), "min": low, "p10": tenth, "median": middle, "p90": ninetieth, "max": high}
