"""Augmented samples as a dataset at rest, for trainers that read files: what left the picture is absent there.

A trainer that augments on the fly keeps the coordinates of points outside (a heatmap may hold a part of their blob);
in a file a label outside of its picture is a fault that `kpdata validate` reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as datasets
from kpdata import schema
from kpdata.augment.kernels import absent_outside, encode_rle
from kpdata.augment.sample import Floats, Sample
from kpdata.dataset import Dataset
from kpdata.errors import SchemaError
from kpdata.geometry import clip_boxes
from kpdata.skeleton import Skeleton

NAME = "augmented"  # of the dataset in provenance


@dataclass(frozen=True, slots=True)
class Written:
    """One picture of an augmented dataset with its P people, K keypoints each: what is left of a sample without pixels.

    origin: where it is from, JSON-ready; it stands in the image's `extras` under `augmented_from`.
    """

    file_name: str
    size: tuple[int, int]  # W, H px
    skeleton: Skeleton
    keypoints: Floats  # (P, K, 2) px; NaN where absent
    visibility: NDArray[np.int8]  # (P, K)
    bbox: Floats  # (P, 4) x, y, w, h, cut to the picture; NaN where there is none
    area: Floats  # (P,) square px; NaN where there is none
    rle: tuple[str | None, ...]  # of each person
    origin: Mapping[str, Any]
    split: str | None = None


def written(sample: Sample, file_name: str, origin: Mapping[str, Any], split: str | None = None) -> Written:
    """What a file says of a sample: labelled keypoints whose pixel is not in the picture become absent (NaN).

    `origin` gets the map that the picture went through: `matrix` (3 x 3) and `mirrored`. Of a mosaic `matrix` is None,
    and `mosaic` has its pictures, tiles and the maps into it.

    Boxes are cut to the picture. Masks become run-length codes, and then the area is their number of pixels; else it is
    the sample's. Polygons are left out: what the picture cuts off of them no file can say.
    """
    seen = absent_outside(sample.keypoints, sample.visibility, sample.size)
    people = len(seen)
    bbox = np.full((people, 4), np.nan) if sample.bbox is None else clip_boxes(sample.bbox, *sample.size)
    area = np.full(people, np.nan) if sample.area is None else sample.area
    rle: tuple[str | None, ...] = (None,) * people
    if sample.masks is not None:
        shown = sample.masks.any((1, 2))  # a person without a mask has an empty one
        area = np.where(shown, sample.masks.sum((1, 2)), area)
        rle = tuple(json.dumps(encode_rle(mask)) if mask.any() else None for mask in sample.masks)
    xy = np.where(seen[..., None] > 0, sample.keypoints, np.nan)
    return Written(
        file_name, sample.size, sample.skeleton, xy, seen, bbox, area, rle, {**origin, **_way(sample)}, split
    )


def _way(sample: Sample) -> dict[str, Any]:
    """The map from the picture as it was read, JSON-ready; of a mosaic, whose matrix is NaN, those of its tiles."""
    if np.isfinite(sample.matrix).all():
        return {"matrix": np.round(sample.matrix, 9).tolist(), "mirrored": sample.mirrored}
    tiles = sample.extras.get("mosaic")
    if tiles is None:
        return {"matrix": None, "mirrored": sample.mirrored}
    listed = {name: np.asarray(tiles[name]).tolist() for name in ("tiles", "mirrored", "tile", "row")}
    maps = np.round(tiles["matrices"], 9).tolist()
    return {"matrix": None, "mosaic": {"image_ids": list(tiles["image_ids"]), "matrices": maps, **listed}}


def save_picture(sample: Sample, path: Path) -> None:
    """The sample's picture as a JPEG with little loss (quality 95, colours at full resolution)."""
    from PIL import Image

    Image.fromarray(sample.image).save(path, "JPEG", quality=95, subsampling=0)


def to_dataset(pictures: Sequence[Written], provenance: Mapping[str, Any]) -> Dataset:
    """The dataset of these pictures: image_id and annotation_id count from 1, in the order given.

    SchemaError where two of them have different skeletons of one name.
    """
    skeletons: dict[str, Skeleton] = {}
    for picture in pictures:
        if skeletons.setdefault(picture.skeleton.name, picture.skeleton) != picture.skeleton:
            raise SchemaError(f"two different skeletons are named {picture.skeleton.name!r}", hint="rename one of them")
    people = np.array([len(picture.visibility) for picture in pictures], np.int64)
    return datasets.build(
        _images(pictures),
        _persons(pictures, people),
        num_images=len(pictures),
        num_persons=int(people.sum()),
        name=NAME,
        provenance=provenance,
        skeletons=skeletons.values(),
    )


def _images(pictures: Sequence[Written]) -> dict[str, pa.Array]:
    sizes = np.array([picture.size for picture in pictures], np.int32).reshape(-1, 2)
    return {
        "image_id": schema.fixed(np.arange(len(pictures)) + 1, pa.int64()),
        "file_name": schema.strings([picture.file_name for picture in pictures]),
        "width": schema.fixed(sizes[:, 0], pa.int32()),
        "height": schema.fixed(sizes[:, 1], pa.int32()),
        "split": schema.strings([picture.split for picture in pictures]),
        "extras": schema.strings([json.dumps({"augmented_from": dict(picture.origin)}) for picture in pictures]),
    }


def _persons(pictures: Sequence[Written], people: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Columns of everybody; a loop over pictures, none over people."""
    count = int(people.sum())
    names = np.repeat([picture.skeleton.name for picture in pictures], people).tolist()
    length = np.repeat([len(picture.skeleton) for picture in pictures], people)
    boxes = _joined([picture.bbox for picture in pictures], (0, 4))
    area = _joined([picture.area for picture in pictures])
    return {
        "annotation_id": schema.fixed(np.arange(count) + 1, pa.int64()),
        "image_id": schema.fixed(np.repeat(np.arange(len(pictures)) + 1, people), pa.int64()),
        "category_id": schema.fixed(np.ones(count), pa.int64()),
        "category": schema.constant("person", count),
        "skeleton": schema.repeated(names) if count else schema.strings([]),
        "keypoints": schema.lists(_joined([p.keypoints.reshape(-1) for p in pictures]), 2 * length),
        "visibility": schema.lists(_joined([p.visibility.reshape(-1) for p in pictures]), length, kind=pa.int8()),
        "num_keypoints": schema.fixed(_joined([(p.visibility > 0).sum(1) for p in pictures]), pa.int32()),
        "iscrowd": schema.fixed(np.zeros(count), pa.bool_()),
        "bbox": schema.rows(boxes, np.isfinite(boxes).all(1)),
        "bbox_source": schema.constant("warped", count),
        "area": schema.fixed(area, pa.float64(), np.isfinite(area)),
        "rle": schema.strings([code for picture in pictures for code in picture.rle]),
    }


def _joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...] = (0,)) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(empty)
