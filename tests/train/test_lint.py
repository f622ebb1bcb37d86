"""What stops a training before it starts, and what is only said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

from kpdata.augment import presets
from kpdata.errors import KpdataError, TrainError
from kpdata.skeleton import Skeleton, load
from kpdata.train import lint
from kpdata.train.config import SourceConfig

NAMES = list(load("coco_17").keypoint_names)


def coco(folder: Path, *people: dict[str, Any], name: str = "a.json", **category: Any) -> lint.Read:
    """A COCO file of one picture with these people, who are like the first one but for the values given."""
    usual = {
        "image_id": 1, "category_id": 1, "keypoints": [v for k in range(17) for v in (10 + k, 12 + 2 * k, 2)],
        "num_keypoints": 17, "area": 900.0, "bbox": [5, 8, 30, 40], "iscrowd": 0,
    }  # fmt: skip
    rows = [{**usual, "id": i + 1, **changes} for i, changes in enumerate(people or ({},))]
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1.jpg").touch()
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}], "annotations": rows,
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, **category}],
    }  # fmt: skip
    path = folder / name
    path.write_text(json.dumps(document))
    return lint.read_source(SourceConfig(path))


def test_good_data_is_not_talked_about(tmp_path):
    """No remark, and the pictures were found beside the file."""
    read = coco(tmp_path, {}, {"keypoints": [30, 40, 2] * 17})
    assert [note for note in lint.lint(read) if "left out" in note] == []
    assert read.source.images == tmp_path / "images"


def test_areas_of_zero(tmp_path):
    """Everybody's: stopped, because the official loader takes nobody and AP is -1 (mmpose#1795). One: said."""
    with pytest.raises(TrainError, match="area of 0 or less: nobody would be trained on"):
        lint.lint(coco(tmp_path, {"area": 0}, {"area": 0.0}))
    with pytest.raises(TrainError, match="AP would be -1"):
        lint.lint(coco(tmp_path, {"area": 0}), scored=True)
    assert any("1 of 2 people have an area of 0" in note for note in lint.lint(coco(tmp_path, {"area": 0}, {})))


def test_crowds_do_not_count(tmp_path):
    """A good person beside a crowd of area 0 is no remark about areas."""
    notes = lint.lint(coco(tmp_path, {"area": 0, "iscrowd": 1}, {}))
    assert not any("left out" in note for note in notes)


def test_nobody_labelled(tmp_path):
    """All flags 0: said with the number of people."""
    with pytest.raises(TrainError, match="of 2 people none has a labelled keypoint"):
        lint.lint(coco(tmp_path, {"keypoints": [0] * 51}, {"keypoints": [0] * 51}))


def test_boxes_without_extent(tmp_path):
    """Everybody's: stopped; one: said, with its id."""
    with pytest.raises(TrainError, match="nothing to crop"):
        lint.lint(coco(tmp_path, {"bbox": [5, 8, 0, 0]}))
    notes = lint.lint(coco(tmp_path, {}, {"bbox": [5, 8, 0, 9]}))
    assert any("box of zero size (annotations [2]" in note for note in notes)


def test_a_flip_order_that_is_no_involution(tmp_path):
    """A 4-cycle (ultralytics#17736) would teach that elbows are knees."""
    cycle = [1, 2, 3, 0, *range(4, 17)]
    with pytest.raises(TrainError, match="flipping twice undoes"):
        lint.lint(coco(tmp_path, flip_indices=cycle))


def test_no_pictures(tmp_path):
    """The folders that were tried are named, and the option."""
    read = coco(tmp_path)
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(TrainError, match="pictures were not found") as told:
        lint.read_source(read.config)
    assert "--images DIR" in told.value.hint
    assert str(tmp_path / "images") in told.value.message


def test_a_source_that_is_not_there(tmp_path):
    """Named, whatever reader would have been asked."""
    with pytest.raises(KpdataError, match=r"gone\.json"):
        lint.read_source(SourceConfig(tmp_path / "gone.json"))


def test_a_recipe_asks_for_twins_and_halves():
    """Flips need left and right, half bodies need hips and knees; who has them passes."""
    horse = Skeleton("horse_2", ("withers", "tail"))
    with pytest.raises(TrainError, match="twins is not known"):
        lint.expect_recipe(horse, presets.finetune_small())
    twinless = Skeleton("horse_2", ("withers", "tail"), flip_pairs=frozenset())
    with pytest.raises(TrainError, match="half bodies") as told:
        lint.expect_recipe(twinless, presets.hrnet())
    assert "--preset" in told.value.hint
    lint.expect_recipe(twinless, presets.finetune_small())
    lint.expect_recipe(load("coco_17"), presets.hrnet())


def test_val_with_another_skeleton(tmp_path):
    """No keypoint in common: stopped; some: those that it lacks are named."""
    val = coco(tmp_path)
    with pytest.raises(TrainError, match="has no keypoint of the network's horse_1"):
        lint.expect_val(val, Skeleton("horse_1", ("withers",)))
    (note,) = lint.expect_val(val, load("mpii_16"))
    assert "head_top" in note
    assert "left_knee" not in note
    assert lint.expect_val(val, load("coco_17")) == []


def test_the_same_pictures_on_both_sides(tmp_path):
    """Measured on what was learnt: said, with the number of pictures."""
    (note,) = lint.same_people([coco(tmp_path)], [coco(tmp_path, name="b.json")])
    assert "1 of 1 pictures" in note
    (tmp_path / "other").mkdir()
    assert lint.same_people([coco(tmp_path)], [coco(tmp_path / "other")]) == []


def test_the_layout_of_coco(tmp_path):
    """annotations/person_keypoints_val2017.json with the pictures in val2017: no --images needed."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    read = coco(folder, name="person_keypoints_val2017.json")
    (folder / "images").rename(tmp_path / "val2017")
    assert lint.read_source(read.config).source.images == tmp_path / "val2017"
