"""The pixel convention, stated once, and the box arithmetic that follows from it. Pure NumPy.

**Pixels.** The origin is the top-left corner of the image, x grows to the right, y downwards, both 0-based.
- A **keypoint** is a pixel index: the integer x is the *centre* of pixel x. In an image of width W it flips to
  `W - 1 - x`.
- A **box** is `x, y, w, h` with continuous edges: pixel column c covers [c, c + 1), so a box that holds exactly the
  columns a..b has `x = a`, `w = b + 1 - a` (as pycocotools' `toBbox` gives it). Its left edge flips to `W - x - w`.
- A **crop centre** is a point, not an edge: `c = x + w / 2` of a box flips, as a keypoint, to `W - 1 - c`
  (leoxiaobin/deep-high-resolution-net.pytorch, `lib/dataset/JointsDataset.py`).

A keypoint and a box edge with the same number are therefore half a pixel apart in the image. No function here shifts
one to the other: annotations are compared as their files state them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import fold

Floats = NDArray[np.float64]


def flip_keypoints(xy: NDArray[np.floating], width: float | NDArray[np.number]) -> Floats:
    """Keypoints (..., 2) of the mirrored image: x becomes `width - 1 - x`. NaN stays NaN.

    width: in px, one number or any shape that broadcasts with `xy[..., 0]`. Left and right keep their columns: reorder
    them with `Skeleton.flip_index()`.
    """
    out = np.array(xy, np.float64)
    out[..., 0] = np.asarray(width) - 1 - out[..., 0]
    return out


def flip_boxes(boxes: NDArray[np.floating], width: float | NDArray[np.number]) -> Floats:
    """Boxes (..., 4) `x, y, w, h` of the mirrored image: x becomes `width - x - w`. NaN stays NaN."""
    out = np.array(boxes, np.float64)
    out[..., 0] = np.asarray(width) - out[..., 0] - out[..., 2]
    return out


def box_from_keypoints(xy: NDArray[np.floating], visibility: NDArray[np.integer]) -> Floats:
    """(N, 4) `x, y, w, h`: the tight extent of each person's labelled keypoints, without margin.

    xy (N, K, 2) px; visibility (N, K), labelled where above 0. The width is the difference of the coordinates: a
    person with one labelled keypoint has a box of width and height 0; one with none has a row of NaN. A labelled
    keypoint with a NaN coordinate is left out.
    """
    points = np.asarray(xy, np.float64)
    labelled = np.asarray(visibility, np.int64) > 0
    counted = labelled & np.isfinite(points[..., 0]) & np.isfinite(points[..., 1])  # (N, K)
    if not points.shape[1]:
        return np.full((len(points), 4), np.nan)
    low = fold(np.minimum, np.where(counted[..., None], points, np.inf))  # (N, 2)
    high = fold(np.maximum, np.where(counted[..., None], points, -np.inf))
    some = counted.sum(1, keepdims=True) > 0
    low, high = np.where(some, low, np.nan), np.where(some, high, np.nan)
    return np.concatenate([low, high - low], axis=1)


def box_area(boxes: NDArray[np.floating]) -> Floats:
    """(...,) area `w * h` in square px of boxes (..., 4). NaN where a side is NaN."""
    array = np.asarray(boxes, np.float64)
    area: Floats = array[..., 2] * array[..., 3]
    return area


def clip_boxes(
    boxes: NDArray[np.floating], width: float | NDArray[np.number], height: float | NDArray[np.number]
) -> Floats:
    """Boxes (..., 4) cut to the image, whose continuous edges are 0..width and 0..height.

    A box wholly outside gets width or height 0 at the nearest edge; NaN stays NaN. width, height: px, broadcast with
    `boxes[..., 0]`.
    """
    array = np.asarray(boxes, np.float64)
    x0, x1 = (np.clip(edge, 0, width) for edge in (array[..., 0], array[..., 0] + array[..., 2]))
    y0, y1 = (np.clip(edge, 0, height) for edge in (array[..., 1], array[..., 1] + array[..., 3]))
    return np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1)


def box_iou(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> Floats:
    """(...,) intersection over union in [0, 1] of boxes and others (..., 4), row by row, broadcast against each other.

    Two boxes without area give 0; NaN gives NaN.
    """
    a, b = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    far = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inner = np.maximum(far - np.maximum(a[..., :2], b[..., :2]), 0)  # (..., 2)
    common = inner[..., 0] * inner[..., 1]
    union = box_area(a) + box_area(b) - common
    iou: Floats = np.divide(common, union, out=np.where(np.isnan(union), np.nan, 0.0), where=union > 0)
    return iou


def box_iou_matrix(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> Floats:
    """Intersection over union of every box (N, 4) with every other (M, 4): (N, M)."""
    return box_iou(np.asarray(boxes)[:, None], np.asarray(others)[None])
