"""Fields that a COCO file lacks or repeats, and what becomes of them: a sentence each, where pycocotools stops or is
silent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.eval.oks import Bools
from kpdata.eval.part import Part
from kpdata.eval.prepare import Sides

_COCO = ("coco", "crowdpose")  # formats in which these fields are expected


def odd_fields(sides: Sides) -> list[str]:
    """Sentences about iscrowd, bbox, categories and images of the ground truth, and infinite predictions."""
    facts = list(sides.gt.datasets.values())
    found = list(_infinite(sides))
    if not facts or not all(of.get("source_format") in _COCO for of in facts):
        return found
    return [*_absent(sides), *_lists(sides, facts), *found]


def _absent(sides: Sides) -> Iterator[str]:
    if crowds := _missing(sides.gt, "iscrowd").sum():
        yield f"{crowds:,} people have no iscrowd: none of them is taken for a crowd (pycocotools stops)"
    boxes = _missing(sides.gt, "bbox")
    if not boxes.any():
        return
    bare = sum(int((boxes[part.truth_rows] & ~_labelled(part)).sum()) for part in sides.parts)
    if bare:
        yield (
            f"{bare:,} people have neither labelled keypoints nor a bbox: where they are is not known, and predictions "
            "of them count as wrong (pycocotools stops)"
        )


def _missing(gt: Dataset, field: str) -> Bools:
    """(N,) rows of the persons table without this field."""
    column = gt.persons[field]
    return ~schema.valid(column) if column.null_count else np.zeros(len(gt), bool)


def _labelled(part: Part) -> Bools:
    return np.asarray((part.truth.num_keypoints != 0) & part.truth.labelled.any(axis=1))


def _lists(sides: Sides, facts: list[dict[str, Any]]) -> Iterator[str]:
    if sides.parts and all(of.get("categories_raw") == [] for of in facts):
        names = " and ".join(part.skeleton.name for part in sides.parts)
        yield (
            f"the ground truth lists no categories: its people are taken for {names}, where pycocotools scores nobody "
            "(-1); list the category"
        )
    repeats = sum(len(of.get("image_order") or ()) for of in facts) - sides.gt.images.num_rows
    if repeats > 0 and len(facts) == 1:
        yield f"the ground truth lists images more than once ({repeats:,} entries too many): each counts once"


def _infinite(sides: Sides) -> Iterator[str]:
    """Predictions with infinite coordinates. (A sum is finite where all are, and takes a third of the time.)"""
    rows = 0
    for part in sides.parts:
        places = part.detections.keypoints
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isfinite(places.sum()):
                rows += int(np.isinf(places).any(axis=(1, 2)).sum())
    if rows:
        yield f"{rows:,} predictions hold infinite coordinates: those keypoints have an OKS term of 0"
