"""What a file says of augmented samples: labels within their pictures, areas and masks of what is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from kpdata import schema
from kpdata.augment.sample import Sample
from kpdata.augment.written import Written, save_picture, to_dataset, written
from kpdata.draw import load_image
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

EYES = Skeleton("eyes_2", ("left_eye", "right_eye"), flip_pairs=frozenset({("left_eye", "right_eye")}))


def sample(**changed) -> Sample:
    """Two people in a picture of 20 x 10 px; each has a point on, and a point beyond, the right edge."""
    values = {
        "image": np.zeros((10, 20, 3), np.uint8),
        "keypoints": np.array([[[19.4, 5], [19.6, 5]], [[3, 3], [np.nan, np.nan]]]),
        "visibility": np.array([[2, 2], [1, 0]], np.int8),
        "skeleton": EYES,
        "bbox": np.array([[15.0, 2, 10, 6], [-2, -2, 6, 6]]),
        "area": np.array([40.0, 30]),
    }
    return Sample(**{**values, **changed})


def test_outside_is_absent() -> None:
    """x = 19.4 is on the last pixel of 20, x = 19.6 is not: it is absent and has no coordinate."""
    found = written(sample(), "a.jpg", {})
    assert found.visibility.tolist() == [[2, 0], [1, 0]]
    assert np.isnan(found.keypoints[0, 1]).all()
    assert found.keypoints[0, 0].tolist() == [19.4, 5]
    assert found.bbox.tolist() == [[15, 2, 5, 6], [0, 0, 4, 4]]
    assert found.area.tolist() == [40, 30]


def test_masks_give_the_area() -> None:
    """A mask's area is its pixels; a person without one keeps the area. pycocotools decodes what is written."""
    masks = np.zeros((2, 10, 20), bool)
    masks[0, 2:8, 15:] = True
    found = written(sample(masks=masks), "a.jpg", {})
    assert found.area.tolist() == [30, 30]
    assert found.rle[1] is None
    code = json.loads(found.rle[0])
    assert np.array_equal(coco_masks.decode({**code, "counts": code["counts"].encode()}).astype(bool), masks[0])


def test_a_dataset_of_them() -> None:
    """Ids from 1, counts anew, provenance in the extras; the picture's people stay together."""
    pair = [written(sample(), "a.jpg", {"image_id": 5}, "train"), written(sample(), "b.jpg", {"image_id": 6})]
    made = to_dataset(pair, {"licence": "CC0-1.0"})
    assert schema.values(made.persons["annotation_id"]).tolist() == [1, 2, 3, 4]
    assert schema.values(made.persons["image_id"]).tolist() == [1, 1, 2, 2]
    assert schema.values(made.persons["num_keypoints"]).tolist() == [1, 1, 1, 1]
    assert schema.texts(made.images["file_name"]) == ["a.jpg", "b.jpg"]
    assert schema.texts(made.images["split"]) == ["train", None]
    facts = [json.loads(text)["augmented_from"] for text in schema.texts(made.images["extras"])]
    assert [fact["image_id"] for fact in facts] == [5, 6]
    assert facts[0]["matrix"] == np.eye(3).tolist()
    np.testing.assert_array_equal(made.visibility, np.concatenate([p.visibility for p in pair]))


def test_two_skeletons() -> None:
    """People of several skeletons stand beside each other; two skeletons of one name are refused."""
    one = Skeleton("nose_1", ("nose",), flip_pairs=frozenset())
    nose = sample(skeleton=one, keypoints=np.zeros((2, 1, 2)), visibility=np.full((2, 1), 2, np.int8))
    made = to_dataset([written(sample(), "a.jpg", {}), written(nose, "b.jpg", {})], {})
    assert [(name, rows.tolist()) for name, rows in made.groups()] == [("eyes_2", [0, 1]), ("nose_1", [2, 3])]
    impostor = sample(skeleton=Skeleton("eyes_2", ("a", "b")))
    with pytest.raises(SchemaError, match="two different skeletons are named 'eyes_2'"):
        to_dataset([written(sample(), "a.jpg", {}), written(impostor, "b.jpg", {})], {})


def test_nothing() -> None:
    """No pictures, and pictures without people, make a dataset without people."""
    nobody = sample(keypoints=np.zeros((0, 2, 2)), visibility=np.zeros((0, 2), np.int8), bbox=None, area=None)
    empty: list[Written] = []
    for pictures in (empty, [written(nobody, "a.jpg", {})]):
        assert len(to_dataset(pictures, {})) == 0


def test_pictures_lose_little(tmp_path) -> None:
    """A saved picture comes back within a few grey levels, colours at full resolution."""
    gradient = np.stack(np.broadcast_arrays(np.arange(0, 200, 2)[None], np.arange(0, 200, 2)[:, None], 90), -1)
    save_picture(sample(image=gradient.astype(np.uint8)), tmp_path / "a.jpg")
    assert np.abs(load_image(tmp_path / "a.jpg").astype(int) - gradient).max() <= 6


def test_a_mosaic_is_json() -> None:
    """It has no one map: what is written is null and the maps of its tiles, never a NaN that JSON does not know."""
    tiles = {
        "image_ids": (3, None), "tiles": np.array([[0, 0, 10, 10], [10, 0, 20, 10]]),
        "matrices": np.stack([np.eye(3)] * 2), "mirrored": np.array([False, True]),
        "tile": np.array([0, 1]), "row": np.array([0, 0]), "extras": ({}, {}),
    }  # fmt: skip
    for extras in ({"mosaic": tiles}, {}):
        found = written(sample(matrix=np.full((3, 3), np.nan), extras=extras), "a.jpg", {"image_id": None})
        facts = json.loads(json.dumps(found.origin, allow_nan=False))
        assert facts["matrix"] is None
    mosaic = written(sample(matrix=np.full((3, 3), np.nan), extras={"mosaic": tiles}), "a.jpg", {}).origin["mosaic"]
    assert mosaic["image_ids"] == [3, None] and mosaic["mirrored"] == [False, True] and mosaic["tile"] == [0, 1]
