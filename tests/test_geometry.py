"""The pixel convention and boxes, against loops and the official C code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask

from kpdata import geometry

coordinates = st.integers(-4000, 4000).map(lambda quarter: quarter / 4)  # exact in binary: flips are exact too
keypoints = hnp.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 6), st.just(2)), elements=coordinates)
box_values = st.tuples(coordinates, coordinates, *[st.integers(0, 800).map(lambda q: q / 4)] * 2)


def boxes(count: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(box_values, min_size=count, max_size=count).map(lambda rows: np.array(rows).reshape(count, 4))


@given(keypoints, st.integers(1, 5000))
def test_flipping_keypoints_twice_changes_nothing(xy, width):
    """Flips are involutions, and y never moves."""
    flipped = geometry.flip_keypoints(xy, width)
    assert np.array_equal(geometry.flip_keypoints(flipped, width), xy)
    assert np.array_equal(flipped[..., 1], xy[..., 1])


@given(boxes(4), st.integers(1, 5000))
def test_flipping_boxes_twice_changes_nothing(rows, width):
    """A box comes back, and keeps its size on the way."""
    flipped = geometry.flip_boxes(rows, width)
    assert np.array_equal(geometry.flip_boxes(flipped, width), rows)
    assert np.array_equal(flipped[:, 1:], rows[:, 1:])


def test_flips_agree_with_a_flipped_picture():
    """A lit pixel, and the box of a mask, are where the mirrored array has them; per-image widths broadcast."""
    picture = np.zeros((6, 9), np.uint8)
    picture[2:5, 1:4] = 1
    there = mask.toBbox(mask.encode(np.asfortranarray(picture)))
    back = mask.toBbox(mask.encode(np.asfortranarray(picture[:, ::-1])))
    assert np.array_equal(geometry.flip_boxes(there, 9), back)
    (column,) = np.flatnonzero(np.eye(9)[4][::-1])
    assert geometry.flip_keypoints(np.array([[4.0, 0.0]]), 9)[0, 0] == column
    assert geometry.flip_keypoints(np.zeros((2, 3, 2)), np.array([[5], [9]]))[:, 0, 0].tolist() == [4, 8]


def test_inputs_are_not_changed():
    """Every function returns a new array."""
    xy, rows = np.ones((2, 3, 2)), np.ones((2, 4))
    geometry.flip_keypoints(xy, 100)
    geometry.flip_boxes(rows, 100)
    geometry.clip_boxes(rows, 1, 1)
    assert (xy == 1).all() and (rows == 1).all()


@given(keypoints, st.randoms())
def test_box_from_keypoints_is_the_extent_of_labelled_points(xy, random):
    """As a loop over people finds it; nobody labelled gives NaN."""
    visibility = np.array([[random.choice([0, 1, 2, 3]) for _ in person] for person in xy], int).reshape(xy.shape[:2])
    found = geometry.box_from_keypoints(xy, visibility)
    for person, seen, box in zip(xy, visibility, found, strict=True):
        points = person[seen > 0]
        if not len(points):
            assert np.isnan(box).all()
        else:
            expected = [min(points[:, 0]), min(points[:, 1]), np.ptp(points[:, 0]), np.ptp(points[:, 1])]
            assert box.tolist() == expected


def test_box_from_keypoints_leaves_nan_coordinates_out():
    """A labelled keypoint without a coordinate does not spoil the box."""
    xy = np.array([[[1.0, 2.0], [np.nan, 3.0], [4.0, 8.0]]])
    assert geometry.box_from_keypoints(xy, np.array([[2, 2, 1]])).tolist() == [[1, 2, 3, 6]]


@given(boxes(3), boxes(4))
def test_iou_agrees_with_pycocotools(a, b):
    """The C code's numbers, for all pairs and row by row."""
    expected = mask.iou(a, b, [False] * len(b))
    assert geometry.box_iou_matrix(a, b) == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(geometry.box_iou(a, b[:3]), np.diag(geometry.box_iou_matrix(a, b[:3])))


def test_iou_of_missing_boxes():
    """NaN stays NaN, and no boxes give an empty matrix."""
    assert np.isnan(geometry.box_iou(np.array([np.nan] * 4), np.array([0, 0, 1, 1.0])))
    assert geometry.box_iou_matrix(np.empty((0, 4)), np.ones((3, 4))).shape == (0, 3)


@given(boxes(3), st.integers(1, 300), st.integers(1, 300))
def test_clipped_boxes_cover_the_same_pixels_of_the_image(rows, width, height):
    """Clipping never leaves the image and keeps the common area."""
    found = geometry.clip_boxes(rows, width, height)
    assert (found[:, :2] >= 0).all() and (found[:, 2:] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= width).all() and (found[:, 1] + found[:, 3] <= height).all()
    for before, after in zip(rows, geometry.box_area(found), strict=True):
        x, y, w, h = before
        expected = max(min(x + w, width) - max(x, 0), 0) * max(min(y + h, height) - max(y, 0), 0)
        assert after == expected
