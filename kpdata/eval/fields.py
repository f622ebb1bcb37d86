"""Fields that a COCO file lacks, repeats or has in vain, and what becomes of them: a sentence each, where pycocotools
stops or is silent and a number changes or is another than one would think."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.eval.oks import Bools
from kpdata.eval.part import Part
from kpdata.eval.prepare import Sides
from kpdata.eval.wording import many

_COCO = ("coco", "crowdpose")  # formats in which these fields are expected
_IGNORE = r'"ignore":(?!0[,}]|false|null)'  # in the JSON of extras, which has no blanks
_SIZES = (32**2, 96**2)  # px², between COCO's small, medium and large


def odd_fields(sides: Sides) -> list[str]:
    """Sentences about iscrowd, ignore, bbox, categories and images of the ground truth, and about infinite predictions
    and predictions that say how large they are."""
    facts = list(sides.gt.datasets.values())
    found = [*_infinite(sides), *_own_sizes(sides)]
    if not facts or not all(of.get("source_format") in _COCO for of in facts):
        return found
    return [*_absent(sides), *_ignored(sides), *_lists(sides, facts), *found]


def _absent(sides: Sides) -> Iterator[str]:
    if crowds := int(_missing(sides.gt, "iscrowd").sum()):
        who = many(crowds, "person has", "people have")
        yield f"{who} no iscrowd: none of them is taken for a crowd (pycocotools stops)"
    if lost := sum(_without_keypoints(sides.gt, part) for part in sides.parts):
        yield (
            f"{many(lost, 'person has', 'people have')} num_keypoints above 0 and no keypoints: whatever lies in their "
            "box matches them (pycocotools stops); label them, or set num_keypoints to 0"
        )
    boxes = _missing(sides.gt, "bbox")
    if not boxes.any():
        return
    bare = sum(int((boxes[part.truth_rows] & ~_labelled(part)).sum()) for part in sides.parts)
    if bare:
        yield (
            f"{many(bare, 'person has', 'people have')} neither labelled keypoints nor a bbox: where they are is not "
            "known, and predictions of them count as wrong (pycocotools stops)"
        )


def _missing(gt: Dataset, field: str) -> Bools:
    """(N,) rows of the persons table without this field."""
    column = gt.persons[field]
    return ~schema.valid(column) if column.null_count else np.zeros(len(gt), bool)


def _without_keypoints(gt: Dataset, part: Part) -> int:
    return int((_missing(gt, "keypoints")[part.truth_rows] & (part.truth.num_keypoints > 0)).sum())


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
        entries = many(repeats, "entry", "entries")
        yield f"the ground truth lists images more than once ({entries} too many): each counts once"


def _infinite(sides: Sides) -> Iterator[str]:
    """Predictions with infinite coordinates. (A sum is finite where all are, and takes a third of the time.)"""
    rows = 0
    for part in sides.parts:
        places = part.detections.keypoints
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isfinite(places.sum()):
                rows += int(np.isinf(places).any(axis=(1, 2)).sum())
    if rows:
        who = many(rows, "prediction holds", "predictions hold")
        yield f"{who} infinite coordinates: those keypoints have an OKS term of 0"


def _own_sizes(sides: Sides) -> Iterator[str]:
    """Masks and areas of results, where COCO's APm, APl, ARm and ARl go by the size of a prediction.

    pycocotools coco.py, loadRes: the first result decides for all. With a bbox its area is theirs; else with a mask the
    mask's (polygons stop it); else the extent of the keypoints. A result's own `area` is written over, and so is its
    `id`, which enters no number.
    """
    people, facts = sides.predictions.persons, sides.facts
    if not len(people) or not (facts.get("protocol") in ("oks", "wholebody") or facts.get("like")):
        return
    boxed, polygons, mask = (schema.valid(people[key].slice(0, 1))[0] for key in ("bbox", "segmentation", "rle"))
    if (polygons or mask) and not boxed:
        theirs = "takes the mask's area" if mask else "stops at polygons"
        yield f"results carry a segmentation and no bbox: pycocotools {theirs}; here their size is {_SIZE_WORDS}"
    elif people["area"].null_count < len(people) and (moved := sum(_of_another_size(people, p) for p in sides.parts)):
        who = many(moved, "prediction says it is", "predictions say they are")
        counts = facts["detection_area"]
        yield f"{who} of another size by an area of their own, written over as in pycocotools: {counts}"


_SIZE_WORDS = "the extent of their keypoints (APm, APl, ARm, ARl)"


def _of_another_size(people: pa.Table, part: Part) -> int:
    """Predictions whose own area lies in another of COCO's size ranges than the area that counts."""
    own = schema.values(people["area"])[part.detection_rows]
    told = np.isfinite(own)
    return int((np.digitize(own, _SIZES) != np.digitize(part.detections.area, _SIZES))[told].sum())


def _ignored(sides: Sides) -> Iterator[str]:
    """People with `ignore`, which pycocotools writes over (cocoeval.py, _prepare), as its descendants do."""
    column = sides.gt.persons["extras"]
    if column.null_count == len(column) or not re.search(_IGNORE.encode(), schema.chunk(column).buffers()[2]):
        return
    texts = schema.texts(column)
    flagged = np.array([bool(text and re.search(_IGNORE, text) and json.loads(text).get("ignore")) for text in texts])
    if rows := sum(int((part.counted() & flagged[part.truth_rows]).sum()) for part in sides.parts):
        who = many(rows, "person with 'ignore' counts", "people with 'ignore' count")
        yield f"{who} all the same: as in pycocotools iscrowd and num_keypoints alone say who is ignored"
