"""What a Sample refuses, and that changing one is making a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kpdata.augment.sample import Sample
from kpdata.errors import KpdataError, SchemaError
from kpdata.skeleton import Skeleton

EYES = Skeleton("eyes_2", ("left_eye", "right_eye"), flip_pairs=frozenset({("left_eye", "right_eye")}))


def sample(**changed: Any) -> Sample:
    """One person in a picture of 8 x 6 px."""
    values = {
        "image": np.zeros((6, 8, 3), np.uint8),
        "keypoints": np.array([[[1.0, 2], [np.nan, np.nan]]]),
        "visibility": np.array([[2, 0]], np.int8),
        "skeleton": EYES,
    }
    return Sample(**{**values, **changed})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image": np.zeros((6, 8), np.uint8)}, r"image: uint8 of shape \(6, 8\), expected uint8 \(H, W, 3\)"),
    ({"image": np.zeros((6, 8, 3), np.uint16)}, "image: uint16"),
    ({"image": None}, "image: object"),
    ({"keypoints": np.zeros((1, 3, 2))}, r"keypoints: shape \(1, 3, 2\), expected \(1, 2, 2\) \('eyes_2'\)"),
    ({"keypoints": None}, "keypoints"),
    ({"keypoints": [[["a", "b"]] * 2]}, "keypoints: could not convert .* expected an array of float64"),
    ({"keypoints": [[[1, 2]], [[1, 2, 3]]]}, "keypoints: .*expected an array of float64"),
    ({"visibility": np.array([[2.5, 0]])}, r"visibility: float64 such as \[0.0, 2.5\], expected int8, 0 to 3"),
    ({"visibility": [[300, 0]]}, r"visibility: int64 such as \[0, 300\]"),
    ({"visibility": np.array([[9, -1]], np.int8)}, r"visibility: \[-1, 9\], expected 0 to 3"),
    ({"visibility": np.array([[np.nan, 0]])}, "visibility: float64"),
    ({"bbox": np.zeros((1, 3))}, r"bbox: shape \(1, 3\), expected \(1, 4\)"),
    ({"annotation_ids": [1.5]}, "annotation_ids: float64"),
    ({"masks": np.full((1, 6, 8), 7)}, "masks: int64 such as .*0 to 1"),
    ({"masks": np.zeros((1, 3, 3), bool)}, r"masks: shape \(1, 3, 3\), expected \(1, 6, 8\)"),
    ({"matrix": np.eye(2)}, "matrix: shape"),
    ({"polygons": ()}, "polygons: of 0 people, expected 1"),
    ({"skeleton": None}, "skeleton: a NoneType, expected a"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=[f"{next(iter(w))}-{i}" for i, (w, _) in enumerate(WRONG)])
def test_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    """By the constructor and by `changed` alike; nothing is cut to fit a type."""
    with pytest.raises(SchemaError, match=words):
        sample(**wrong)
    if "visibility: [" not in words.replace("\\", ""):  # `changed` looks at types and shapes
        with pytest.raises(KpdataError):
            sample().changed(**wrong)


def test_changed_is_a_new_one() -> None:
    """Every field but those that are named is the very object; the old sample stays as it was."""
    before = sample(masks=np.zeros((1, 6, 8), bool), extras={"a": 1})
    after = before.changed(area=[5], mirrored=True)
    assert after.area.dtype == np.float64 and after.area.tolist() == [5] and np.isnan(before.area).all()
    assert after.mirrored and after.masks is before.masks and after.keypoints is before.keypoints
    assert before.changed(bbox=None).bbox.shape == (1, 4)
    with pytest.raises(TypeError, match=r"no field .*colour"):
        before.changed(colour=1)


def test_masks_follow_the_picture() -> None:
    """A picture of another size with the old masks is refused, with new ones taken."""
    before = sample(masks=np.zeros((1, 6, 8), bool))
    small = np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(SchemaError, match=r"masks: shape \(1, 6, 8\), expected \(1, 3, 4\)"):
        before.changed(image=small)
    assert before.changed(image=small, masks=np.ones((1, 3, 4), bool)).size == (4, 3)


def test_another_number_of_people() -> None:
    """All columns must come along."""
    with pytest.raises(SchemaError, match="visibility"):
        sample().changed(keypoints=np.zeros((2, 2, 2)))
    two = sample().changed(
        keypoints=np.zeros((2, 2, 2)), visibility=np.zeros((2, 2), np.int8), bbox=None, area=None,
        center=None, scale=None,
    )  # fmt: skip
    assert two.bbox.shape == (2, 4)


def test_star() -> None:
    """`from kpdata.augment import *` gives the public names."""
    names: dict[str, Any] = {}
    exec("from kpdata.augment import *", names)
    assert {"Sample", "hrnet", "TopDown", "generator", "people", "Pixels"} <= names.keys()
