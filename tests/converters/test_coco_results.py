"""COCO results: poses, boxes or both, scores that never blank a coordinate, and ground truth written as results."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from kpdata import converters, schema
from kpdata.converters import coco, coco_results
from kpdata.errors import FormatError, LossyWrite
from kpdata.merging import merge

POSE = [n for i in range(17) for n in (i + 0.5, i + 100, 0.0 if i else 3.25)]


def result(**more):
    return {"image_id": 7, "category_id": 1, "keypoints": POSE, "score": 0.5, **more}


def there_and_back(raw):
    """The dataset of results that come back as they were."""
    dataset = coco_results.decode(raw)
    back, losses = coco_results.encode(dataset)
    assert back == raw
    assert [sorted(row) for row in back] == [sorted(row) for row in raw]
    assert not losses.losses
    return dataset


def test_scores_are_not_visibility():
    """The third number is kept as it is; a score of 0 blanks nothing, and visibility is unknown throughout."""
    dataset = there_and_back([result()])
    assert dataset.keypoints[0].tolist() == [[i + 0.5, i + 100] for i in range(17)]
    assert dataset.keypoint_scores[0].tolist() == [3.25] + [0] * 16
    assert (dataset.visibility == schema.Visibility.UNKNOWN).all()
    assert dataset.persons["score"].to_pylist() == [0.5]


def test_zeros_stay_coordinates():
    """pycocotools takes 0, 0, 0 of a result into its extent: it is a coordinate here too."""
    dataset = there_and_back([result(keypoints=[0] * 51)])
    assert not np.isnan(dataset.keypoints).any()
    assert (dataset.keypoints == 0).all()


def test_boxes_present_and_absent():
    """A box in the first result changes the metric: which results have one is kept; boxes alone have no skeleton."""
    rows = [result(bbox=[1, 2, 3, 4.5]), result(), {"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]
    dataset = there_and_back(rows)
    assert dataset.persons["bbox"].to_pylist() == [[1, 2, 3, 4.5], None, [0, 0, 1, 1]]
    assert dataset.persons["skeleton"].to_pylist() == ["coco_17", "coco_17", None]


def test_images_in_order_of_first_use():
    """One image row an id; nothing else is known of it."""
    dataset = there_and_back([result(image_id=9), result(image_id=2), result(image_id=9)])
    assert dataset.images["image_id"].to_pylist() == [9, 2]
    assert dataset.images["width"].null_count == 2


def test_text_image_ids(real_data):
    """AlphaPose names images: the names come back, and are kept as the source's ids."""
    dataset = there_and_back([result(image_id="b.jpg"), result(image_id="a.jpg")])
    assert dataset.images["source_image_id"].to_pylist() == ["b.jpg", "a.jpg"]
    path = real_data / "alphapose" / "alphapose-results_old.json"
    found = converters.read(path)
    names = [row["image_id"] for row in json.loads(path.read_text())]
    of_row = np.array(found.images["source_image_id"].to_pylist())[found.image_rows()]
    assert of_row.tolist() == names


@pytest.mark.parametrize(
    "more",
    [
        {"id": 5}, {"center": [1.5, 2], "scale": [0.5, 0.5]}, {"idx": [0.0]}, {"score": None}, {"bbox": []},
        {"segmentation": {"size": [1, 1], "counts": "a"}}, {"category_id": None}, {"category_id": "person"},
        {"area": 3.5, "num_keypoints": 4.0, "iscrowd": False, "track_id": 3}, {"keypoints": []},
    ],
)  # fmt: skip
def test_keys_of_their_writers(more):
    """Ids, HRNet's centre and scale, AlphaPose's index, masks: every key comes back."""
    there_and_back([result(**more)])


def test_number_of_keypoints_decides():
    """17 and 133 are one data set's; 14 are several's, unless the user says which."""
    assert list(coco_results.decode([result(keypoints=[1, 2, 0.5] * 133)]).skeletons) == ["coco_wholebody_133"]
    fourteen = [result(keypoints=[1, 2, 0.5] * 14)]
    assert list(coco_results.decode(fourteen).skeletons) == ["keypoints_14"]
    assert list(coco_results.decode(fourteen, skeleton="crowdpose_14").skeletons) == ["crowdpose_14"]


def test_wholebody_parts(real_data):
    """Body, feet, face and hands side by side become 133 columns, and are written apart again."""
    path = real_data / "coco_mmpose4" / "wholebody_preds_5img.json"
    dataset, raw = converters.read(path), json.loads(path.read_text())
    parts = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    whole = np.array([[n for part in parts for n in row[part]] for row in raw]).reshape(-1, 133, 3)
    np.testing.assert_array_equal(dataset.keypoints, whole[..., :2])
    np.testing.assert_array_equal(dataset.keypoint_scores, whole[..., 2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([result(), result(keypoints=[1] * 48), result()], "row 2: 48 numbers in 'keypoints', expected 51"),
        ([result(keypoints=[1] * 50)], "row 1: 50 numbers in 'keypoints', expected x, y, v of each keypoint"),
        ([{"category_id": 1, "keypoints": POSE}], "row 1: no 'image_id'"),
        ([result(bbox=[1, 2])], r"row 1: 2 numbers in 'bbox', expected 4"),
        ([result(), 5], "row 2: a JSON number, expected an object"),
        ([result(id=4, keypoints=["a"] * 51)], r"annotation 4 \('keypoints'\): found 'a' at position 0"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, rows, message):
    """File, result, field, found and expected."""
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(FormatError, match=r"x\.json: " + message):
        converters.read(tmp_path / "x.json", "coco_results")


def test_other_json_is_refused():
    """An object is no list of results."""
    with pytest.raises(FormatError, match="memory: a JSON object, expected a list of results"):
        coco_results.decode({"images": []})


def test_empty_results():
    """No detections at all: a dataset without people, and an empty list again."""
    assert len(there_and_back([])) == 0


def test_ground_truth_as_results(real_data, tmp_path):
    """A perfect model's file: pycocotools loads it, every pose is there, and the losses are counted."""
    path = real_data / "coco_mini" / "person_keypoints_val2017.json"
    truth, raw = converters.read(path), json.loads(path.read_text())
    with pytest.raises(LossyWrite, match="area: 118"):
        converters.write(truth, tmp_path / "x.json", "coco_results")
    report = converters.write(truth, tmp_path / "x.json", "coco_results", allow_lossy=True)
    people = raw["annotations"]
    assert report.losses["segmentation"] == sum(isinstance(p["segmentation"], list) for p in people)
    assert report.losses["rle"] == sum(isinstance(p["segmentation"], dict) for p in people)
    assert report.losses["occluded keypoints"] == sum(v == 1 for p in people for v in p["keypoints"][2::3])
    assert report.losses["ids"] == report.losses["bbox"] == len(people)
    assert report.losses["images"] == len(raw["images"])
    assert report.losses["top-level keys"] == len(raw) - 3
    assert report.additions == {"score": len(people)}
    results = COCO(str(path)).loadRes(str(tmp_path / "x.json"))
    found = [
        (r["image_id"], [n for i, n in enumerate(r["keypoints"]) if i % 3 < 2]) for r in results.dataset["annotations"]
    ]
    assert found == [(p["image_id"], [n for i, n in enumerate(p["keypoints"]) if i % 3 < 2]) for p in people]


def test_text_ids_of_ground_truth_reach_the_results():
    """Ground truth whose images have texts as ids: results written from it carry the same texts."""
    row = {"id": 1, "image_id": "a", "category_id": 1, "keypoints": [1, 2, 2]}
    truth = coco.decode({"images": [{"id": "b"}, {"id": "a"}], "annotations": [row], "categories": []})
    assert [r["image_id"] for r in coco_results.encode(truth)[0]] == ["a"]


def test_merged_results_stay_readable():
    """Two models with other skeletons under one category: written, each skeleton has a category of its own."""
    one = coco_results.decode([result()])
    two = coco_results.decode([result(keypoints=[1, 2, 0.5] * 14)], skeleton="crowdpose_14")
    raw, _ = coco_results.encode(merge([one, two])[0])
    assert [row["category_id"] for row in raw] == [1, 2]
    assert sorted(len(s) for s in coco_results.decode(raw).skeletons.values()) == [14, 17]


def test_people_without_pose_and_box_are_left_out():
    """Other sources list people of whom nothing is known: no result, and counted."""
    rows = [{"id": i, "image_id": 1, "category_id": 1} for i in range(2)] + [
        {"id": 9, "image_id": 1, "bbox": [0, 0, 1, 1]}
    ]
    truth = coco.decode({"images": [{"id": 1}], "annotations": rows, "categories": []})
    raw, losses = coco_results.encode(truth)
    assert raw == [{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]
    assert losses.losses["people without keypoints"] == 2
