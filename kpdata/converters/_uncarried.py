"""Columns that a target format has no place for, counted into a LossReport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata.losses import LossReport
from kpdata.statistics import labelled_per_person as labelled

# Extras that start so hold only how a source wrote its file (order of shapes, default keys): no target loses anything.
LAYOUT = '{"layout": true'


def informative(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(rows,) bool: the extras hold more than a file's layout."""
    return np.array([text is not None and not text.startswith(LAYOUT) for text in schema.texts(column)], bool)


def columns(
    dataset: ds.Dataset, losses: LossReport, *, persons: Iterable[str] = (), images: Iterable[str] = ()
) -> None:
    """Lose one of the column's name for each row that is not null (for `iscrowd`: that is true)."""
    for table, names in ((dataset.persons, persons), (dataset.images, images)):
        for name in names:
            present = schema.valid(table[name])
            if name == "iscrowd":
                present = present & schema.values(table[name], missing=False)
            losses.lose(name, int(present.sum()), f"the format has no place for {name!r}")


def beside(dataset: ds.Dataset, losses: LossReport, format: str) -> None:
    """Lose what stood beside images and people in the sources: COCO's `info`, `licenses` …, other variables of a .mat.

    Variables of a source of this format are its writer's to restore.
    """
    top = {key for d in dataset.datasets.values() for key in d.get("top", ())}
    losses.lose("top-level keys", len(top), f"what stood at the top of a JSON file: {', '.join(sorted(top))}")
    foreign = [d for d in dataset.datasets.values() if d.get("source_format") != format]
    count = sum(len(d.get("variables", ())) for d in foreign)
    losses.lose("other variables", count, "variables that stood beside the people in the source file")


def num_keypoints(dataset: ds.Dataset, losses: LossReport) -> None:
    """Lose a `num_keypoints` that is not simply the count of labelled keypoints (CrowdPose's)."""
    column = dataset.persons["num_keypoints"]
    differs = schema.valid(column) & (schema.values(column, missing=0) != labelled(dataset))
    losses.lose("num_keypoints", int(differs.sum()), "a count of its own that labels do not give")


def ids(
    dataset: ds.Dataset, image_order: NDArray[np.int64], person_order: NDArray[np.int64], losses: LossReport
) -> None:
    """Lose ids that a reader of the target, numbering images and people 1..N as they are written, gives differently.

    image_order, person_order: rows of the tables in the order of writing.
    """
    changed = 0
    for column, order in ((dataset.images["image_id"], image_order), (dataset.persons["annotation_id"], person_order)):
        changed += int((schema.values(column)[order] != np.arange(1, len(order) + 1)).sum())
    changed += int(schema.valid(dataset.images["source_image_id"]).sum())
    losses.lose("ids", changed, "the format has no ids: images and people are numbered in the order of the files")


def native(dataset: ds.Dataset, column: pa.ChunkedArray, format: str) -> NDArray[np.bool_]:
    """(rows,) bool: the row of a `dataset` column comes from a source of this format."""
    names = {name for name, facts in _formats(dataset.datasets).items() if facts == format}
    return schema.among(column, names)


def _formats(datasets: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {name: facts.get("source_format") for name, facts in datasets.items()}
