"""Fields that are missing or listed twice: one sentence each, and the number of a mended file."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from kpdata.converters import coco, coco_results
from kpdata.eval import evaluate
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def files() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ten people on five images, the first without labels, and predictions of all."""
    gt = synthesize(5, seed=2, people=(2, 2))
    truth = json.loads(json.dumps(coco.encode(gt)[0]))
    found = json.loads(json.dumps(coco_results.encode(simulate_predictions(gt, seed=1)[0])[0]))
    bare = truth["annotations"][0]
    bare["keypoints"], bare["num_keypoints"] = [0] * 51, 0
    return truth, found


def notes(truth: Any, found: Any, **options: Any) -> tuple[str, dict[str, float]]:
    gt = coco.decode(copy.deepcopy(truth), source="gt.json")
    result = evaluate(gt, coco_results.decode(copy.deepcopy(found), source="dt.json"), **options)
    return "\n".join(result.notes), result.stats


def without(truth: dict[str, Any], field: str) -> dict[str, Any]:
    rows = [{key: value for key, value in row.items() if key != field} for row in truth["annotations"]]
    return {**truth, "annotations": rows}


def test_a_whole_file_says_nothing(files):
    """None of the sentences below stands under ordinary files."""
    said, _ = notes(*files)
    for words in ("iscrowd", "nor a bbox", "categories", "more than once", "infinite"):
        assert words not in said


def test_fields_that_are_missing(files):
    """iscrowd: nobody is a crowd, and the number is that of a file which says so; bbox: of people without labels."""
    truth, found = files
    plain = notes({**truth, "annotations": [{**row, "iscrowd": 0} for row in truth["annotations"]]}, found)[1]
    said, stats = notes(without(truth, "iscrowd"), found)
    assert f"{len(truth['annotations'])} people have no iscrowd" in said
    assert stats == plain
    assert "1 people have neither labelled keypoints nor a bbox" in notes(without(truth, "bbox"), found)[0]


def test_lists(files):
    """No categories, and an image that is listed twice: the same numbers, with a sentence."""
    truth, found = files
    said, stats = notes({**truth, "categories": []}, found)
    assert "lists no categories: its people are taken for coco_17" in said
    assert stats == notes(truth, found)[1]
    said, stats = notes({**truth, "images": [*truth["images"], truth["images"][0]]}, found)
    assert "lists images more than once (1 entries too many)" in said
    assert stats == notes(truth, found)[1]


def test_infinite_places(files):
    """A keypoint at infinity has the OKS term 0, and is counted."""
    truth, found = files
    odd = copy.deepcopy(found)
    odd[0]["keypoints"][3] = float("inf")
    assert "1 predictions hold infinite coordinates" in notes(truth, odd)[0]


def test_areas_in_no_range(files):
    """-1 everywhere has its reason: areas that are infinite."""
    truth, found = files
    rows = [{**row, "area": float("inf")} for row in truth["annotations"]]
    said, stats = notes({**truth, "annotations": rows}, found)
    assert stats["AP"] == -1
    assert "AP is -1 because the area of all" in said


def test_predictions_that_xtcocotools_drops(files):
    """Where all are dropped it is not the category's fault."""
    truth, found = files
    blank = [{**row, "keypoints": [v if i % 3 < 2 else 0 for i, v in enumerate(row["keypoints"])]} for row in found]
    said, stats = notes(truth, blank, like="xtcocotools")
    assert stats["AP"] == 0
    assert "AP is 0.000 because none of the" in said and "category_id" not in said
