"""Maps of pictures as 3 x 3 matrices, and what they do to keypoints, boxes, areas, outlines and masks. Arrays only.

A matrix takes (x, y, 1) of a pixel of the source to a pixel of the target, where, as everywhere in kpdata, the integer
x is the *centre* of a pixel (`kpdata.geometry`). Matrices compose from right to left: `second @ first`. Box edges and
outlines are continuous (pixel c covers [c, c + 1)), half a pixel off: the functions here take that into account.

A mirror: a flip in a picture W wide takes keypoint x to `W - 1 - x` and a box to `W - x - w`. A map with a negative
determinant (`mirrors`) exchanges left and right of a body: `swap` reorders the columns by the skeleton's twins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Size = tuple[int, int]
Convention = Literal["official", "udp"]
"""`official`: HRNet's, mmpose's `get_warp_matrix`; `udp`: scaled by (size - 1). See `crop_matrix`."""

_HALF = 0.5  # from a continuous edge to the pixel index at the same place: index = edge - 0.5


# ---------------------------------------------------------------------------------------------------------- matrices


def identity() -> Floats:
    """(3, 3) the map that changes nothing."""
    return np.eye(3)


def translate(x: float, y: float) -> Floats:
    """(3, 3) a move by (x, y) px."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scale(x: float, y: float | None = None, about: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """(3, 3) x and y times these factors (y: as x, unless given); the point `about` (px) stays where it is."""
    return around(np.diag([x, x if y is None else y, 1.0]), about)


def rotate(degrees: float, about: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """(3, 3) a turn about a point (px), counter-clockwise as one sees it (y points down), as OpenCV and HRNet count."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return around(np.array([[cos, sin, 0.0], [-sin, cos, 0], [0, 0, 1]]), about)


def shear(x: float, y: float = 0.0, about: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """(3, 3) a shear by angles in degrees: x grows by tan(x) of the distance in y, y by tan(y) of that in x."""
    return around(np.array([[1.0, math.tan(math.radians(x)), 0], [math.tan(math.radians(y)), 1, 0], [0, 0, 1]]), about)


def around(matrix: ArrayLike, about: tuple[float, float]) -> Floats:
    """(3, 3) the map with `about` (px) as its origin: that point stays where it is, if the map keeps (0, 0)."""
    return translate(*about) @ np.asarray(matrix, np.float64) @ translate(-about[0], -about[1])


def middle(size: Size) -> tuple[float, float]:
    """The pixel index in the middle of a picture of (W, H) px: ((W - 1) / 2, (H - 1) / 2)."""
    return (size[0] - 1) / 2, (size[1] - 1) / 2


def flip_horizontal(size: Size) -> Floats:
    """(3, 3) of a picture of (W, H) px: x becomes W - 1 - x. Mirrors."""
    return np.array([[-1.0, 0, size[0] - 1], [0, 1, 0], [0, 0, 1]])


def flip_vertical(size: Size) -> Floats:
    """(3, 3) of a picture of (W, H) px: y becomes H - 1 - y. Mirrors."""
    return np.array([[1.0, 0, 0], [0, -1, size[1] - 1], [0, 0, 1]])


def transpose() -> Floats:
    """(3, 3) x and y exchanged; a picture of (W, H) becomes one of (H, W). Mirrors."""
    return np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


def rotate90(size: Size, turns: int) -> Floats:
    """(3, 3) of a picture of (W, H) px: quarter turns counter-clockwise, as `np.rot90` turns pixels."""
    matrix, (width, height) = identity(), size
    for _ in range(turns % 4):
        matrix = np.array([[0.0, 1, 0], [-1, 0, width - 1], [0, 0, 1]]) @ matrix
        width, height = height, width
    return matrix


def d4(size: Size, element: int) -> tuple[Floats, Size]:
    """One of the 8 symmetries of a rectangle's grid, with the size of its picture: (3, 3), (W, H).

    element: 0 to 3 quarter turns counter-clockwise; 4 to 7 the same after a horizontal flip (they mirror).
    """
    turned = (size[1], size[0]) if element % 2 else size
    flip = flip_horizontal(size) if element >= 4 else identity()
    return rotate90(size, element % 4) @ flip, turned


def resize(size: Size, target: Size) -> Floats:
    """(3, 3) a picture of (W, H) stretched to `target`: edges go to edges, x to (x + 0.5) * factor - 0.5."""
    factors = target[0] / size[0], target[1] / size[1]
    return translate(-_HALF, -_HALF) @ scale(*factors) @ translate(_HALF, _HALF)


def letterbox(size: Size, target: Size) -> Floats:
    """(3, 3) a picture of (W, H) put whole into `target`, its proportions kept, in the middle."""
    factor = min(target[0] / size[0], target[1] / size[1])
    rest = (target[0] - size[0] * factor) / 2, (target[1] - size[1] * factor) / 2
    return translate(rest[0] - _HALF, rest[1] - _HALF) @ scale(factor) @ translate(_HALF, _HALF)


def crop_matrix(
    center: ArrayLike, crop: ArrayLike, rotation: float, size: Size, convention: Convention = "official"
) -> Floats:
    """(3, 3) picture px to px of a top-down crop of `size` (W, H).

    center (2,): the crop's centre in the picture, px. crop (2,): its width and height in the picture, px (the official
    `scale` times 200). rotation: degrees, the content turns counter-clockwise.

    - `official`: `get_affine_transform` of leoxiaobin/deep-high-resolution-net.pytorch (`lib/utils/transforms.py`):
      factor W / crop width in both directions (the crop's height plays no part: its proportions are those of `size`),
      and the centre goes to (W / 2, H / 2). That code works in float32: its numbers differ by up to 1e-4 px.
    - `udp`: `get_warpmatrix` of HuangJunJie2017/UDP-Pose (`deep-high-resolution-net.pytorch/lib/utils/transforms.py`):
      factors (W - 1) / crop width and (H - 1) / crop height, and the centre goes to ((W - 1) / 2, (H - 1) / 2). That
      code counts the angle the other way round.

    SchemaError for a crop without extent or with NaN: there is no such map.
    """
    (x, y), (width, height) = np.asarray(center, np.float64).tolist(), np.asarray(crop, np.float64).tolist()
    if not (math.isfinite(x + y + rotation) and 0 < width < math.inf and 0 < height < math.inf):
        raise SchemaError(
            f"crop of {width:g} x {height:g} px about ({x:g}, {y:g}), turned by {rotation:g}: "
            "expected finite numbers and an extent above 0"
        )
    if convention == "official":
        across = down = size[0] / width
        target = size[0] / 2, size[1] / 2
    else:
        across, down = (size[0] - 1) / width, (size[1] - 1) / height
        target = middle(size)
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    a, b, c, d = across * cos, across * sin, -down * sin, down * cos  # scale(across, down) @ rotate(rotation)
    return np.array([
        [a, b, target[0] - (a * x + b * y)],
        [c, d, target[1] - (c * x + d * y)],
        [0.0, 0.0, 1.0],
    ])  # fmt: skip


def perspective(source: ArrayLike, target: ArrayLike) -> Floats:
    """(3, 3) the map that takes four points (4, 2) px to four others. SchemaError where three lie on a line."""
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    one, zero = np.ones(4), np.zeros(4)
    x = np.stack([a[:, 0], a[:, 1], one, zero, zero, zero, -a[:, 0] * b[:, 0], -a[:, 1] * b[:, 0]], axis=1)
    y = np.stack([zero, zero, zero, a[:, 0], a[:, 1], one, -a[:, 0] * b[:, 1], -a[:, 1] * b[:, 1]], axis=1)
    try:
        solved = np.linalg.solve(np.concatenate([x, y]), np.concatenate([b[:, 0], b[:, 1]]))
    except np.linalg.LinAlgError as error:
        raise SchemaError(f"no map takes {a.tolist()} to {b.tolist()}: three of the points lie on a line") from error
    return np.append(solved, 1.0).reshape(3, 3)


def invert(matrix: ArrayLike) -> Floats:
    """(3, 3) the way back. SchemaError for a map that loses a dimension, that is not (3, 3) numbers, or whose way back
    float64 cannot hold: numbers beyond it, or one that sends the pixel (0, 0) to infinity."""
    array = check_matrix(matrix)
    found = _affine_inverse(array) if is_affine(array) else _perspective_inverse(array)
    if found is None or not all(map(math.isfinite, found.ravel().tolist())):
        hint = "it all but flattens the picture, or is a perspective that has the pixel (0, 0) come from infinity"
        raise SchemaError(f"matrix {array.tolist()} has no inverse in float64 that ends in 1", hint=hint)
    return found


def _affine_inverse(array: Floats) -> Floats | None:
    """By hand: LAPACK takes ten times as long to begin. None where the determinant is 0 in floats."""
    (a, b, c), (d, e, f), (_, _, depth) = array.tolist()
    a, b, c, d, e, f = a / depth, b / depth, c / depth, d / depth, e / depth, f / depth
    exponent = math.frexp(max(abs(a), abs(b), abs(d), abs(e)))[1]
    unit = math.ldexp(1.0, min(exponent, 1023))  # a power of 2: no digit is lost
    a, b, d, e = a / unit, b / unit, d / unit, e / unit
    det = a * e - b * d
    if det == 0:
        return None
    x, y = (b * f - c * e) / det, (c * d - a * f) / det
    return np.array([
        [e / det / unit, -b / det / unit, x / unit], [-d / det / unit, a / det / unit, y / unit], [0.0, 0.0, 1.0],
    ])  # fmt: skip


def _perspective_inverse(array: Floats) -> Floats | None:
    try:
        inverse = np.linalg.inv(array)
    except np.linalg.LinAlgError:  # its determinant underflows there
        return None
    with np.errstate(all="ignore"):
        return np.asarray(inverse / inverse[2, 2], np.float64)


def check_matrix(matrix: ArrayLike) -> Floats:
    """The matrix as (3, 3) float64. SchemaError unless its numbers are finite and it has an inverse."""
    array = np.asarray(matrix, np.float64)
    if array.shape != (3, 3):
        raise SchemaError(f"matrix of shape {array.shape}, expected (3, 3) numbers")
    if not all(map(math.isfinite, array.ravel().tolist())):
        hint = "that of a mosaic is NaN: it has no one picture to go back to"
        raise SchemaError(f"matrix {array.tolist()}, expected finite numbers", hint=hint)
    if _determinant(array) == 0 or array[2, 2] == 0:
        raise SchemaError(f"matrix {array.tolist()} has no inverse: it flattens the picture")
    return array


def is_affine(matrix: Floats) -> bool:
    """Straight lines stay parallel: the last row is (0, 0, 1) up to a factor."""
    return bool(matrix[2, 0] == 0 and matrix[2, 1] == 0)


def mirrors(matrix: ArrayLike) -> bool:
    """The map shows a body as in a mirror: its determinant is negative."""
    array = np.asarray(matrix, np.float64)
    return bool(_determinant(array) * array[2, 2] < 0)  # the sign after dividing by the last number, three times


def _determinant(matrix: Floats) -> float:
    """Of (3, 3); LAPACK takes ten times as long to begin."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    return float(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


# ------------------------------------------------------------------------------------------------- points and columns


def warp_keypoints(xy: ArrayLike, matrix: ArrayLike) -> Floats:
    """Keypoints (..., 2) px after the map; NaN stays NaN. Columns keep their order: `swap` exchanges left and right."""
    points, m = np.asarray(xy, np.float64), np.asarray(matrix, np.float64)
    (a, b, c), (d, e, f), (g, h, i) = m.tolist()
    x, y = points[..., 0], points[..., 1]
    out = np.empty(points.shape)
    with np.errstate(invalid="ignore"):  # endless coordinates become NaN
        out[..., 0] = a * x + b * y + c
        out[..., 1] = d * x + e * y + f
        if g or h or i != 1:
            out /= (g * x + h * y + i)[..., None]
    return out


def swap(array: NDArray[Any], skeleton: Skeleton, axis: int = 1) -> NDArray[Any]:
    """The keypoint columns (at `axis`) with left and right exchanged; applied twice, nothing.

    SkeletonError where the skeleton's twins are not known; one that declares none comes back unchanged.
    """
    order = skeleton.flip_index()
    return np.take(array, order, axis=axis)


def outside(xy: ArrayLike, size: Size) -> NDArray[np.bool_]:
    """(...,) bool: the keypoint (..., 2) lies on no pixel of a picture of (W, H): beyond -0.5..W-0.5. NaN: False."""
    points = np.asarray(xy, np.float64)
    with np.errstate(invalid="ignore"):
        x, y = points[..., 0], points[..., 1]
        beyond: NDArray[np.bool_] = (x < -_HALF) | (x >= size[0] - _HALF) | (y < -_HALF) | (y >= size[1] - _HALF)
    return beyond


def absent_outside(xy: ArrayLike, visibility: NDArray[np.int8], size: Size) -> NDArray[np.int8]:
    """Visibility with 0 (absent) for keypoints that left a picture of (W, H); a new array.

    For augmented data that is *written* only. Training needs the labels as they are: the official recipe still draws
    the part of a target that reaches into the map, and the codec gives the weight.
    """
    return np.where(outside(xy, size), 0, visibility).astype(np.int8)


# ------------------------------------------------------------------------------------------------ boxes and outlines


def warp_boxes(boxes: ArrayLike, matrix: ArrayLike) -> Floats:
    """Boxes (..., 4) `x, y, w, h`: the extent of their warped corners, not cut to the picture. NaN stays NaN.

    Under a turn the extent grows: the box of a turned outline would be smaller, but only the outline knows it.
    """
    array, m = np.asarray(boxes, np.float64), np.asarray(matrix, np.float64)
    low = array[..., :2] - _HALF
    if is_affine(m):  # each side of the new box is reached at a corner, and which one the signs tell for x and y alone
        linear, offset = m[:2, :2] / m[2, 2], m[:2, 2] / m[2, 2] + _HALF
        from_low, from_high = linear * low[..., None, :], linear * (low + array[..., 2:])[..., None, :]  # (..., 2, 2)
        first, last = np.minimum(from_low, from_high).sum(-1) + offset, np.maximum(from_low, from_high).sum(-1) + offset
    else:
        high = low + array[..., 2:]
        others = np.stack([low[..., 0], high[..., 1]], -1), np.stack([high[..., 0], low[..., 1]], -1)
        corners = warp_keypoints(np.stack([low, high, *others]), m) + _HALF  # (4, ..., 2)
        first, last = corners.min(axis=0), corners.max(axis=0)
    return np.concatenate([first, last - first], axis=-1)


def warp_outline(edges: ArrayLike, matrix: ArrayLike) -> Floats:
    """Points (..., 2) with continuous coordinates, as box corners and polygons have; half a pixel off keypoints."""
    return warp_keypoints(np.asarray(edges, np.float64) - _HALF, matrix) + _HALF


def warp_polygons(polygons: Sequence[ArrayLike], matrix: ArrayLike) -> tuple[Floats, ...]:
    """Polygons (n, 2) with continuous edges, or flat (2n,) as COCO writes them, after the map: (n, 2) each, not cut."""
    return tuple(warp_outline(np.asarray(polygon, np.float64).reshape(-1, 2), matrix) for polygon in polygons)


def warp_area(area: ArrayLike, matrix: ArrayLike, at: ArrayLike | None = None) -> Floats:
    """Areas (...,) in square px after the map: times the absolute determinant.

    at (..., 2) px: where each area lies, needed for a perspective map, whose scale differs from place to place
    (SchemaError without).
    """
    m = np.asarray(matrix, np.float64)
    if is_affine(m):
        return np.asarray(np.asarray(area, np.float64) * abs(_determinant(m) / m[2, 2] ** 3))
    if at is None:
        raise SchemaError("the area after a perspective map depends on the place: give `at`")
    place = np.asarray(at, np.float64)
    depth = m[2, 0] * place[..., 0] + m[2, 1] * place[..., 1] + m[2, 2]
    return np.asarray(np.asarray(area, np.float64) * np.abs(_determinant(m) / depth**3))


def warp_extent(extent: ArrayLike, matrix: ArrayLike, at: ArrayLike | None = None) -> Floats:
    """Widths and heights (..., 2) px of crops after the map: those of the ellipse that fills the crop.

    Exact for scaling, flips and quarter turns; a square keeps its size under any turn. at (..., 2): where they lie, for
    a perspective map (SchemaError without).
    """
    sides, m = np.asarray(extent, np.float64), np.asarray(matrix, np.float64)
    if is_affine(m):
        linear = m[:2, :2] / m[2, 2]
    elif at is None:
        raise SchemaError("the extent after a perspective map depends on the place: give `at`")
    else:
        place = np.asarray(at, np.float64)
        depth = (m[2, 0] * place[..., 0] + m[2, 1] * place[..., 1] + m[2, 2])[..., None, None]
        linear = (m[:2, :2] - warp_keypoints(place, m)[..., :, None] * m[2, :2]) / depth  # (..., 2, 2)
    return np.asarray(np.sqrt(np.square(linear * sides[..., None, :]).sum(-1)))


def cut_polygons(polygons: Sequence[ArrayLike], size: Size) -> tuple[Floats, ...]:
    """Polygons (n, 2) with continuous edges cut to a picture of (W, H); those wholly outside are left out.

    Sutherland and Hodgman, Reentrant polygon clipping (1974): parts that the cut separates stay joined along the edge,
    which encloses no area.
    """
    cut = []
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        for axis, edge, sign in ((0, 0.0, 1.0), (0, float(size[0]), -1.0), (1, 0.0, 1.0), (1, float(size[1]), -1.0)):
            points = _cut_half(points, axis, edge, sign)
        if len(points) >= 3:
            cut.append(points)
    return tuple(cut)


def _cut_half(points: Floats, axis: int, edge: float, sign: float) -> Floats:
    """What of the polygon (n, 2) lies where sign * (coordinate - edge) >= 0."""
    if not len(points):
        return points
    inside = sign * (points[:, axis] - edge) >= 0  # (n,)
    after, next_inside = np.roll(points, -1, axis=0), np.roll(inside, -1)
    crossing = inside != next_inside
    step = np.divide(
        edge - points[:, axis], after[:, axis] - points[:, axis], out=np.zeros(len(points)), where=crossing
    )
    met = points + step[:, None] * (after - points)
    met[:, axis] = edge
    both = np.stack([points, met], axis=1).reshape(-1, 2)  # vertex, crossing, vertex, crossing, …
    kept: Floats = both[np.stack([inside, crossing], axis=1).reshape(-1)]
    return kept


# ------------------------------------------------------------------------------------------------------------- crops


def fix_aspect(extent: ArrayLike, ratio: float) -> Floats:
    """Widths and heights (..., 2) with the short side grown until width / height is `ratio`. NaN stays NaN.

    `_xywh2cs` of leoxiaobin/deep-high-resolution-net.pytorch (`lib/dataset/coco.py`): width above ratio * height grows
    the height, below it the width.
    """
    sides = np.asarray(extent, np.float64)
    if sides.ndim == 1:  # of one person, many times: NumPy takes ten times as long
        one, other = sides.tolist()
        return np.array([one, one / ratio] if one > ratio * other else [ratio * other, other])
    width, height = sides[..., 0], sides[..., 1]
    wide = width > ratio * height
    return np.stack([np.where(wide, width, ratio * height), np.where(wide, width / ratio, height)], axis=-1)


def box_to_center_scale(boxes: ArrayLike, ratio: float, padding: float = 1.25) -> tuple[Floats, Floats]:
    """Crop centres (..., 2) and widths and heights (..., 2) px of boxes (..., 4): proportions fixed, then padded.

    The centre is `x + w / 2`, used as a pixel index, as the official recipe does (`_xywh2cs`, see `fix_aspect`; its
    `scale` is this in units of 200 px). mmpose pads first and fixes the proportions last: the same numbers.
    """
    array = np.asarray(boxes, np.float64)
    return array[..., :2] + array[..., 2:] / 2, fix_aspect(array[..., 2:], ratio) * padding


def clean_boxes(boxes: ArrayLike, size: Size) -> Floats:
    """Boxes (..., 4) as the official COCO loader cuts them to a picture of (W, H): also a whole box loses 1 px a side.

    `_load_coco_person_keypoint_annotation_kernal` of leoxiaobin/deep-high-resolution-net.pytorch
    (`lib/dataset/coco.py`): `x1 = max(0, x)`, `x2 = min(W - 1, x1 + max(0, w - 1))`, width `x2 - x1`. A box outside
    the picture gets a side of 0 or below: the recipe drops those people.
    """
    array = np.asarray(boxes, np.float64)
    first = np.maximum(array[..., :2], 0)
    last = np.minimum(np.array(size) - 1.0, first + np.maximum(array[..., 2:] - 1, 0))
    return np.concatenate([first, last - first], axis=-1)


def mpii_crop(center: ArrayLike, scale: ArrayLike, padding: float = 1.25) -> tuple[Floats, Floats]:
    """Crop centres (..., 2) and sides (..., 2) px from MPII's raw centre (..., 2) px and scale (...,) of 200 px.

    `lib/dataset/mpii.py` of leoxiaobin/deep-high-resolution-net.pytorch: 15 px * scale lower, times 1.25, square.
    """
    middle, units = np.array(center, np.float64), np.asarray(scale, np.float64)
    middle[..., 1] += 15 * units
    return middle, np.stack([units, units], axis=-1) * (200 * padding)


# ------------------------------------------------------------------------------------------------------------- masks


def warp_masks(masks: NDArray[np.bool_], matrix: ArrayLike, size: Size) -> NDArray[np.bool_]:
    """Masks (P, H, W) in a picture of (W, H) `size`: the nearest pixel, False beyond the old picture."""
    old, back = np.asarray(masks), invert(matrix)
    x, y = np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64)[:, None]
    depth = None if is_affine(back) else back[2, 0] * x + back[2, 1] * y + back[2, 2]  # (H, W); affine: 1 everywhere
    height, width = old.shape[1:]
    column, row = _nearest(back[0], x, y, depth, width), _nearest(back[1], x, y, depth, height)  # (H, W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = np.where(inside, row * width + column, 0)
    kept: NDArray[np.bool_] = old.reshape(len(old), height * width)[:, place].astype(bool, copy=False) & inside
    return kept


def _nearest(line: Floats, x: Floats, y: Floats, depth: Floats | None, side: int) -> NDArray[np.int64]:
    """(H, W) the row or column of the source nearest to where each pixel of the target is from; -1 or `side` beyond."""
    place = line[0] * x + (line[1] * y + line[2] + (0.0 if depth is not None else _HALF))
    if depth is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            place = np.where(depth > 0, place / depth + _HALF, -1.0)
    found: NDArray[np.int64] = np.clip(np.floor(place), -1, side).astype(np.int64)
    return found


def warp_rle(rle: dict[str, Any], matrix: ArrayLike, size: Size) -> dict[str, Any]:
    """A COCO run-length mask `{"size": [H, W], "counts": …}` decoded, warped and encoded again (pycocotools).

    counts: text or bytes (compressed), or a list of numbers (uncompressed); the same kind comes back, so that what a
    file held can be written as it was. SchemaError where it cannot be decoded.
    """
    mask = warp_masks(decode_rle(rle)[None], matrix, size)[0]
    return encode_rle(mask, like=rle)


def decode_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """(H, W) bool of a COCO run-length mask, compressed or not. SchemaError where it contradicts itself."""
    from pycocotools import mask as coco

    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, list):
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError(f"its runs add up to {sum(counts)}")
            coded = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            coded = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
            if int(coco.area(coded)) > height * width:
                raise ValueError("its runs are longer than the picture")
        mask: NDArray[np.bool_] = coco.decode(coded).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        message = f"run-length mask of size {rle.get('size')}: cannot be decoded ({error})"
        raise SchemaError(message, hint="expected {'size': [height, width], 'counts': …} as COCO writes it") from error
    return mask


def encode_rle(mask: NDArray[np.bool_], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """A mask (H, W) as a COCO run-length mask: counts of the same kind as `like` has (text unless given)."""
    counts = "" if like is None else like["counts"]
    height, width = mask.shape
    if isinstance(counts, list):
        flat = np.concatenate([[False], mask.T.reshape(-1), [not mask.T.reshape(-1)[-1]] if mask.size else []]).astype(
            bool
        )
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        return {"size": [height, width], "counts": np.diff(np.concatenate([[0], edges])).astype(int).tolist()}
    from pycocotools import mask as coco

    coded = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return {"size": [height, width], "counts": coded.decode() if isinstance(counts, str) else coded}
