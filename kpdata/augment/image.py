"""Pictures: warp them once, in other colours. OpenCV is imported when it is needed.

Reading them lives in `kpdata.augment.reading`, a dataset's images as Samples in `kpdata.augment.samples`; both are here
by name too.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdata.augment.kernels import Floats, Size, check_matrix, invert, is_affine, scale, translate, warp_keypoints
from kpdata.augment.reading import Orientation, Pixels, read_image
from kpdata.augment.samples import Samples, people, sample, samples
from kpdata.errors import MissingExtra, SchemaError

__all__ = [
    "BLACK", "Border", "Orientation", "Pixels", "Samples", "check_border", "opencv", "people", "read_image", "recolour",
    "sample", "samples", "warp",
]  # fmt: skip

Border = tuple[int, int, int] | Literal["replicate", "reflect"]
"""What lies beyond the picture: a colour (R, G, B), its edge pixels again, or the picture mirrored at its edge."""

BLACK = (0, 0, 0)
_LARGEST = 32_766  # OpenCV's warps keep coordinates in 16 bits


def opencv(purpose: str) -> ModuleType:
    """The module cv2; MissingExtra where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("opencv-python-headless", "augment", purpose) from error
    return cv2


def warp(
    image: Pixels,
    matrix: ArrayLike,
    size: Size,
    border: Border = BLACK,
    *,
    antialias: bool = True,
    diffuse: bool = False,
) -> Pixels:
    """The picture (H, W, 3) uint8 after the map, `size` (W, H) px: (H', W', 3). One bilinear resampling.

    Flips and quarter turns copy pixels exactly. antialias: where the map shrinks by 2 or more, pixels are averaged over
    whole blocks before the resampling, because bilinear weights would see only 4 pixels of each block. False gives the
    official recipes' plain `cv2.warpAffine`.

    diffuse: where rows or columns of the picture stay (nearly) such, OpenCV rounds each place to 1 / 32 px, alike for a
    whole row or column. That shifts things by up to 1 / 64 px of the picture, which a map that enlarges multiplies.
    With this, the rounding errors are carried on to the next pixel (`_diffused`), so that on average nothing is
    shifted; a single place is off by up to 1 / 32 px. It takes some 0.1 ms a crop. Other maps are warped alike either
    way.

    MissingExtra without OpenCV; SchemaError for a map without inverse, an empty picture or size.
    """
    array, m = np.asarray(image), check_matrix(matrix)
    if array.ndim != 3 or array.dtype != np.uint8 or min(*array.shape[:2], *size) < 1:
        raise SchemaError(
            f"{array.dtype} picture of shape {array.shape} to {size}: expected uint8 (H, W, 3), not empty"
        )
    copied = _lattice(array, m, size)
    if copied is not None:
        return copied
    cv2 = opencv("warping pictures")
    array, m = _prepared(array, m, size, antialias, reflecting=border == "reflect")
    mode = {"replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT, "borderValue": border}
    if isinstance(border, str):
        how = {"flags": cv2.INTER_LINEAR, "borderMode": mode[border]}
    if not is_affine(m):
        return np.asarray(cv2.warpPerspective(array, m, size, **how))
    if diffuse and (places := _diffused(invert(m), size)) is not None:
        how["interpolation"] = how.pop("flags")
        return np.asarray(cv2.remap(array, *places, **how))
    return np.asarray(cv2.warpAffine(array, m[:2] / m[2, 2], size, **how))


_STEPS = 32  # of a pixel: OpenCV's bilinear weights (INTER_TAB_SIZE)
_DRIFT = 0.05  # px a row or column: places that change faster are rounded differently from line to line anyway


def _diffused(back: Floats, size: Size) -> tuple[NDArray[np.int16], NDArray[np.uint16]] | None:
    """The maps of `cv2.remap`: for each pixel of the target its place in the source by `back` (3, 3), in 1 / 32 px.

    Errors of rounding are carried on along rows or columns: of n neighbours the sum is right to half a step. None
    where both x and y of a place depend on row and column: there rounding averages out by itself.
    """
    if np.abs(back[:2, :2]).min() >= _DRIFT:
        return None
    steps = [_carried(back[axis] * _STEPS, size) for axis in (0, 1)]  # (H, W), (1, W) or (H, 1) each
    whole, rest = np.empty((size[1], size[0], 2), np.int16), np.empty((size[1], size[0]), np.uint16)
    for axis in (0, 1):
        whole[..., axis] = np.clip(steps[axis] // _STEPS, -_LARGEST, _LARGEST)
    rest[:] = steps[0] % _STEPS
    rest += (steps[1] % _STEPS * _STEPS).astype(np.uint16)
    return whole, rest


def _carried(line: Floats, size: Size) -> NDArray[np.int64]:
    """`line[0] * column + line[1] * row + line[2]` in whole numbers, rounded so that sums over neighbours stay right.

    (H, W), or (1, W) and (H, 1) where one side is enough. Carried along the side on which more depends.
    """
    (across, down, start), (width, height) = line.tolist(), size
    across, down = (0.0 if abs(step) * max(size) < 1e-6 else step for step in (across, down))  # sines of 180 degrees
    column, row = np.arange(width)[None] * across, np.arange(height)[:, None] * down
    exact = start + (column if not down else row if not across else column + row)
    along = 1 if abs(across) >= abs(down) else 0
    sums = np.floor(np.cumsum(exact, axis=along) + 0.5).astype(np.int64)
    return np.diff(sums, axis=along, prepend=0)


def check_border(where: str, border: Border | None) -> None:
    """SchemaError that names `where`, unless it is a `Border` or None."""
    if border is None or border in ("replicate", "reflect"):
        return
    if isinstance(border, tuple) and len(border) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in border):
        return
    raise SchemaError(f"{where}: border {border!r}, expected a colour (R, G, B) of 0 to 255, 'replicate' or 'reflect'")


def _lattice(image: Pixels, m: Floats, size: Size) -> Pixels | None:
    """The picture where the map only flips or turns all of it; else None."""
    linear, parts = m[:2, :2], {abs(value) for value in m[:2, :2].ravel().tolist()}
    if parts != {0.0, 1.0} or abs(linear).sum() != 2 or not is_affine(m) or m[2, 2] != 1:
        return None
    turned = linear[0, 0] == 0
    height, width = image.shape[:2]
    if size != ((height, width) if turned else (width, height)):
        return None
    signs = linear.sum(axis=1)
    if not np.array_equal(m[:2, 2], np.where(signs < 0, np.array(size) - 1, 0)):
        return None
    moved = image.transpose(1, 0, 2) if turned else image
    return np.ascontiguousarray(moved[:: int(signs[1]), :: int(signs[0])])


def _prepared(image: Pixels, m: Floats, size: Size, antialias: bool, *, reflecting: bool) -> tuple[Pixels, Floats]:
    """The part of the picture that the target sees, averaged where the map shrinks it, and the map from there."""
    factors = shrinks(m, size) if antialias else (1, 1)
    if factors == (1, 1) and max(image.shape[:2]) <= _LARGEST:
        return image, m
    x, y, width, height = seen((image.shape[1], image.shape[0]), m, size, factors)
    if not reflecting:
        image, m = image[y : y + height, x : x + width], m @ translate(x, y)
    if factors == (1, 1):
        return image, m
    cv2 = opencv("warping pictures")
    across, down = (-image.shape[1] % factors[0], -image.shape[0] % factors[1])
    if across or down:  # whole blocks: OpenCV averages others ten times as slowly
        image = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, across, cv2.BORDER_REPLICATE))
    small = (image.shape[1] // factors[0], image.shape[0] // factors[1])
    reduced = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
    return reduced, m @ translate(-0.5, -0.5) @ scale(*factors) @ translate(0.5, 0.5)


def shrinks(m: Floats, size: Size) -> tuple[int, int]:
    """Whole pixels of the source in x and y for a pixel in the middle of the target, at least 1."""
    linear = m[:2, :2] / m[2, 2]
    if not is_affine(m):
        back = invert(m)
        middle = warp_keypoints([(size[0] - 1) / 2, (size[1] - 1) / 2], back)
        depth = m[2, 0] * middle[0] + m[2, 1] * middle[1] + m[2, 2]
        linear = (m[:2, :2] - warp_keypoints(middle, m)[:, None] * m[2, :2]) / depth
    (a, b), (c, d) = linear.tolist()
    return max(1, int(1 / math.hypot(a, c) + 1e-6)), max(1, int(1 / math.hypot(b, d) + 1e-6))


def seen(picture: Size, m: Floats, size: Size, factors: tuple[int, int]) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels of a picture of (W, H) that the target shows, in whole blocks of `factors`.

    Less than whole blocks only where the picture's own side is none of them.
    """
    right, bottom = size
    corners = warp_keypoints([[-1, -1], [right, -1], [-1, bottom], [right, bottom]], invert(m)).T.tolist()
    spans = []
    for places, side, factor in zip(corners, picture, factors, strict=True):
        low = min(max(math.floor(min(places)) - factor, 0), side - 1)
        high = min(max(math.ceil(max(places)) + factor + 1, low + 1), side)
        whole = -(-(high - low) // factor) * factor
        low = max(0, min(low, side - whole))
        spans.append((low, min(side - low, whole)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


# ------------------------------------------------------------------------------------------------------------ colour

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# R, G, B to Y, I, Q: FCC NTSC, 1953, as in Python's colorsys
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def recolour(
    image: Pixels, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Pixels:
    """The picture (H, W, 3) uint8 RGB with other colours: factors, and degrees of hue (see `transforms.ColorJitter`).

    One pass: a table of 256 values where only brightness and contrast change, else a 3 x 4 matrix.
    """
    cv2 = opencv("changing colours")
    mean = float(np.array(cv2.mean(image)[:3]) @ _LUMA) if contrast != 1 else 0.0
    offset = (1 - contrast) * brightness * mean
    gain = brightness * contrast
    if saturation == 1 and hue == 0:
        table = np.clip(np.rint(np.arange(256) * gain + offset), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(image, table))
    cos, sin = np.cos(np.radians(hue)), np.sin(np.radians(hue))
    turn = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
    grey = saturation * np.eye(3) + (1 - saturation) * _LUMA  # every row adds its share of the luma
    linear = turn @ grey
    return np.asarray(cv2.transform(image, np.column_stack([gain * linear, offset * linear.sum(axis=1)])))
