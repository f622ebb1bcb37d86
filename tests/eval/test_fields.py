"""Fields that are missing or listed twice: one sentence each, and the number of a mended file."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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
    for words in (
        "iscrowd",
        "nor a bbox",
        "categories",
        "more than once",
        "infinite",
        "'ignore'",
        "segment",
        "their own",
    ):
        assert words not in said


def test_fields_that_are_missing(files):
    """iscrowd: nobody is a crowd, and the number is that of a file which says so; bbox: of people without labels."""
    truth, found = files
    plain = notes({**truth, "annotations": [{**row, "iscrowd": 0} for row in truth["annotations"]]}, found)[1]
    said, stats = notes(without(truth, "iscrowd"), found)
    assert f"{len(truth['annotations'])} people have no iscrowd" in said
    assert stats == plain
    assert "1 person has neither labelled keypoints nor a bbox" in notes(without(truth, "bbox"), found)[0]


def test_lists(files):
    """No categories, and an image that is listed twice: the same numbers, with a sentence."""
    truth, found = files
    said, stats = notes({**truth, "categories": []}, found)
    assert "lists no categories: its people are taken for coco_17" in said
    assert stats == notes(truth, found)[1]
    said, stats = notes({**truth, "images": [*truth["images"], truth["images"][0]]}, found)
    assert "lists images more than once (1 entry too many)" in said
    assert stats == notes(truth, found)[1]


def test_infinite_places(files):
    """A keypoint at infinity has the OKS term 0, and is counted."""
    truth, found = files
    odd = copy.deepcopy(found)
    odd[0]["keypoints"][3] = float("inf")
    assert "1 prediction holds infinite coordinates" in notes(truth, odd)[0]


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


def judged(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    """The ten numbers of pycocotools."""
    gt = COCO()
    gt.dataset = copy.deepcopy(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        judge = COCOeval(gt, gt.loadRes(copy.deepcopy(found)), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"), judge.stats, strict=True))


def test_ignore_is_written_over(files):
    """People with `ignore` count as in pycocotools, which is said of those who count; a 0 says nothing."""
    truth, found = files
    rows = [{**row, "ignore": int(i < 3)} for i, row in enumerate(truth["annotations"])]
    said, stats = notes({**truth, "annotations": rows}, found)
    assert stats == notes(truth, found)[1] == judged({**truth, "annotations": rows}, found)
    assert "2 people with 'ignore' count all the same" in said  # the first has no labels: ignored anyway
    rows = [{**row, "ignore": 0, "note": '"ignore":1'} for row in truth["annotations"]]
    assert "'ignore'" not in notes({**truth, "annotations": rows}, found)[0]


def test_areas_and_ids_of_results_are_written_over(files):
    """The numbers are pycocotools', which reads neither; an area is told where it is of another size, an id never."""
    truth, found = files
    odd = [{**row, "id": 7, "area": 10.0} for row in found]
    said, stats = notes(truth, odd)
    assert stats == notes(truth, found)[1] == judged(truth, odd)
    sizes = [(max(row["keypoints"][c::3]) - min(row["keypoints"][c::3])) for row in found for c in (0, 1)]
    moved = sum(w * h >= 32**2 for w, h in zip(sizes[::2], sizes[1::2], strict=True))
    assert f"{moved:,} predictions say they are of another size by an area of their own" in said
    same = [{**row, "area": w * h} for row, w, h in zip(found, sizes[::2], sizes[1::2], strict=True)]
    assert "their own" not in notes(truth, same)[0]


def test_masks_of_results(files):
    """Of a mask without a box pycocotools takes the area, and at polygons it stops; beside a box both are nothing."""
    truth, found = files
    mask = {"size": [10, 10], "counts": "0T3"}  # 100 px²: everybody small
    masked = [{**row, "segmentation": mask} for row in found]
    said, stats = notes(truth, masked)
    assert "results carry a segmentation and no bbox: pycocotools takes the mask's area" in said
    theirs = judged(truth, masked)
    assert stats["AP"] == theirs["AP"] and stats == notes(truth, found)[1]
    polygons = [{**row, "segmentation": [[0, 0, 10, 0, 10, 10]]} for row in found]
    assert "pycocotools stops at polygons" in notes(truth, polygons)[0]
    with pytest.raises(TypeError, match="list indices"):
        judged(truth, polygons)
    boxed = [{**row, "bbox": [1, 2, 30, 40]} for row in masked]
    assert "segmentation" not in notes(truth, boxed)[0]
    assert notes(truth, boxed)[1] == judged(truth, boxed)
    assert "segmentation" not in notes(truth, masked, metric="crowdpose", area="file")[0]
