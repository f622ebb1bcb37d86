"""Of a picture file only what a crop shows: the rows above its lower edge, at half size where the crop shrinks it.

A JPEG's rows of blocks follow each other in one stream of bits. What lies above a crop must be read to get to it, what
lies below need not: the picture is decoded as if it were less high, which leaves the rows that remain as they are, bit
by bit. And a decoder makes a picture of half the size from half of each block's frequencies, in less time, which is
what a crop wants that would average 2 x 2 pixels anyway.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdata.augment import kernels
from kpdata.augment.image import Border, seen, shrinks
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.reading import LARGEST, Jpeg, Orientation, Pixels, file_bytes, jpeg_facts, read_image

_BLOCK = 16  # rows of the largest common block (ITU-T T.81, A.2; 4:2:0): heights are cut to whole ones
_MARGIN = 2  # rows: colours of 4:2:0 are interpolated from the row of blocks below
_END = b"\xff\xd9"


class Part(NamedTuple):
    """Some rows of a picture, or a smaller one. matrix: (3, 3) px of it to px of the whole picture."""

    pixels: Pixels  # (h, w, 3) RGB
    matrix: Floats


def read_part(
    source: Path | str | bytes,
    size: Size,
    matrix: ArrayLike,
    target: Size,
    border: Border | None = None,
    *,
    antialias: bool = True,
    reduce: bool = False,
    orientation: Orientation = "annotation",
    name: str | None = None,
) -> Part:
    """What a map (3, 3) to `target` (W, H) px needs of a picture file of `size` (W, H) px.

    `image.warp(part.pixels, matrix @ part.matrix, target, border, antialias=…)` is then the warp of the whole picture,
    bit by bit. Rows below what the target shows are not decoded.

    reduce: where `antialias` averages 2, 4 or 8 pixels, or multiples, the decoder makes the picture that much smaller.
    Pixel i of one half as large covers pixels 2 i and 2 i + 1: its centre is x = 2 i + 0.5, points stay where they are.
    Pixels differ: 0.35 levels in the mean on COCO's photographs. From the average over each pixel's area (8 x 8 places)
    they are 2.96 levels off (rms), those of the whole picture 2.90, the official recipe's, which averages nothing, 4.9:
    so it is an option, not the default.

    The whole picture, as `read_image` gives it: of files that are no plain JPEG, have an EXIF turn or end early,
    without simplejpeg, and for border "reflect". Of a JPEG that is progressive or has restart markers no rows are left
    out. Damage below the crop is not seen; otherwise FormatError as `read_image`.
    """
    data, label = file_bytes(source, name)
    m, facts = kernels.check_matrix(matrix), jpeg_facts(data)
    if facts is not None and border != "reflect" and _plain(data, facts, size):
        x_y = shrinks(m, target) if antialias else (1, 1)
        _, top, _, rows = seen(size, m, target, x_y)
        found = _decoded(data, facts, top + rows + _MARGIN, _reduction(x_y) if reduce else 1)
        if found is not None:
            return found
    return Part(read_image(data, size, orientation=orientation, name=label), kernels.identity())


def _plain(data: bytes, facts: Jpeg, size: Size) -> bool:
    whole = facts.components in (1, 3) and not facts.tagged and facts.size == tuple(size)
    return whole and facts.pixels <= LARGEST and data[-2:] == _END and _fills_the_buffer()


def _reduction(factors: tuple[int, int]) -> int:
    """8, 4 or 2 where so many pixels, or a multiple, would be averaged in x and y; else 1."""
    return next(n for n in (8, 4, 2, 1) if factors[0] % n == 0 and factors[1] % n == 0)


def _decoded(data: bytes, facts: Jpeg, rows: int, factor: int) -> Part | None:
    """The first `rows` rows and more, made smaller by `factor`; None where the decoder found something wrong."""
    width, height = facts.size
    kept = min(height, -(-rows // _BLOCK) * _BLOCK)
    if not facts.sequential or _restarts(data, facts.frame):
        kept = height
    if kept < height:
        at = facts.frame + 5  # two bytes: the number of rows (ITU-T T.81, B.2.2)
        data = b"".join([data[:at], kept.to_bytes(2, "big"), data[at + 2 :]])
    elif factor == 1:
        return None  # nothing to save
    pixels = np.empty((-(-kept // factor), -(-width // factor), 3), np.uint8)
    if not _decode_into(pixels, data, cut=kept < height):
        return None
    middle = (factor - 1) / 2
    return Part(pixels, np.array([[factor, 0.0, middle], [0, factor, middle], [0, 0, 1]]))


def _restarts(data: bytes, place: int) -> bool:
    """The bits begin anew every few blocks (a DRI segment): what is left over cannot be told from damage then."""
    while place + 4 < len(data) and data[place] == 0xFF and data[place + 1] not in (0xDD, 0xDA):  # DRI, or the pixels
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return data[place + 1 : place + 2] != b"\xda"


def _decode_into(pixels: NDArray[np.uint8], data: bytes, *, cut: bool) -> bool:
    """Decode at the size of `pixels`. cut: rows are left over. Whether all was as expected."""
    import simplejpeg  # type: ignore[import-untyped, unused-ignore]

    smallest: dict[str, Any] = {"min_height": pixels.shape[0], "min_width": pixels.shape[1], "min_factor": 1.0}
    try:
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels, **smallest)
    except ValueError as error:  # the first thing that is wrong: what is left over comes last
        return cut and "extraneous bytes before marker 0xd9" in str(error)
    return not cut


@cache
def _fills_the_buffer() -> bool:
    """simplejpeg is there, and its pixels are in the buffer when it finds bytes left over: not said in its manual."""
    try:
        import simplejpeg
    except ImportError:
        return False
    steps = np.arange(64 * 24 * 3).reshape(64, 24, 3) * 7 % 251
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(steps, np.uint8), 90, "RGB", "420")
    facts, whole, part = jpeg_facts(data), simplejpeg.decode_jpeg(data, "RGB"), np.zeros((32, 24, 3), np.uint8)
    if facts is None:
        return False
    at = facts.frame + 5
    fine = _decode_into(part, data[:at] + (32).to_bytes(2, "big") + data[at + 2 :], cut=True)
    return fine and bool((part[:30] == whole[:30]).all())
