"""A part of a picture file gives the crop that the whole picture gives."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kpdata.augment import kernels, partial
from kpdata.augment.image import read_image, warp
from kpdata.errors import FormatError

from .blobs import blob, centroid

SIZE = (97, 150)  # no whole blocks


def scene(size: tuple[int, int] = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth waves and noise in three colours, so that no row is like another."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    waves = [127 + 90 * np.sin(x / a + y / b) for a, b in ((5, 9), (13, 4), (7, 21))]
    noise = np.random.default_rng(seed).normal(0, 6, (size[1], size[0], 3))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", **{"quality": 88, **options})
    return file.getvalue()


def grey(**options: Any) -> bytes:
    return jpeg(scene()[..., 0], **options)


KINDS = {
    "4:2:0": jpeg(scene(), subsampling=2),
    "4:2:2": jpeg(scene(), subsampling=1),
    "4:4:4": jpeg(scene(), subsampling=0),
    "4:4:0": simplejpeg.encode_jpeg(scene(), 88, "RGB", "440"),
    "grey": grey(),
    "optimised": jpeg(scene(), optimize=True),
    "restarts": jpeg(scene(), restart_marker_rows=1),
    "progressive": jpeg(scene(), progressive=True),
}


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(KINDS)), st.floats(-20, 120), st.floats(-20, 170), st.floats(6, 200), st.floats(-90, 90),
    st.booleans(), st.sampled_from([(0, 0, 0), (9, 90, 200), "replicate", "reflect"]), st.booleans(),
)  # fmt: skip
def test_bit_by_bit(
    kind: str, x: float, y: float, side: float, turn: float, flip: bool, border: Any, antialias: bool
) -> None:
    """Whatever the crop shows, from every kind of JPEG: equal to the warp of the whole picture."""
    m = kernels.crop_matrix((x, y), (side, side * 4 / 3), turn, (48, 64))
    m = m @ kernels.flip_horizontal(SIZE) if flip else m
    part = partial.read_part(KINDS[kind], SIZE, m, (48, 64), border, antialias=antialias)
    whole = read_image(KINDS[kind], SIZE)
    expected = warp(whole, m, (48, 64), border, antialias=antialias)
    np.testing.assert_array_equal(warp(part.pixels, m @ part.matrix, (48, 64), border, antialias=antialias), expected)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"progressive", "restarts"}))
def test_rows_below_are_left_out(kind: str) -> None:
    """The crop of the top ends within two blocks of its lower edge; one of the bottom has all rows."""
    top, bottom = (kernels.crop_matrix((40, y), (30, 40), 0, (48, 64)) for y in (25, 130))
    assert 46 < len(partial.read_part(KINDS[kind], SIZE, top, (48, 64)).pixels) <= 80
    assert len(partial.read_part(KINDS[kind], SIZE, bottom, (48, 64)).pixels) == SIZE[1]


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "progressive"])
def test_made_smaller(factor: int, kind: str) -> None:
    """A JPEG is decoded at a half, a quarter or an eighth where so many pixels would be averaged, and looks alike."""
    size = (640, 488)
    smooth = np.repeat(np.repeat(scene((40, 61)), 8, 0), 16, 1)  # large flat tiles
    data = jpeg(smooth, subsampling=0 if kind == "4:4:4" else 2, progressive=kind == "progressive")
    m = kernels.crop_matrix((300, 250), (192 * factor * 0.9, 256 * factor * 0.9), 10, (192, 256))
    m = kernels.scale(0.85) @ m
    part = partial.read_part(data, size, m, (192, 256), reduce=True)
    assert part.pixels.shape == (-(-488 // factor), -(-640 // factor), 3)
    whole = warp(read_image(data, size), m, (192, 256)).astype(int)
    assert np.abs(warp(part.pixels, m @ part.matrix, (192, 256)) - whole).mean() < 4
    plain = partial.read_part(data, size, m, (192, 256), reduce=True, antialias=False)
    assert plain.pixels.shape == (488, 640, 3)  # the official recipe's pixels are asked for


@pytest.mark.parametrize(("factor", "shrink"), [(2, 2.3), (4, 4.4), (8, 8.2)])
def test_smaller_pictures_keep_points_in_place(factor: int, shrink: float) -> None:
    """A blob drawn at a point is under it to 0.02 px: the half pixel between the two grids is accounted for."""
    size, errors = (900, 700), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        place = rng.uniform(0.45, 0.55, 2) * size
        drawn = blob((place[0], place[1]), size, 3.5 * shrink)
        data = jpeg(drawn, quality=100, subsampling=0)
        m = kernels.crop_matrix(place + 5, np.array([192, 256]) * shrink, 12.0 * seed + 5, (192, 256))
        part = partial.read_part(data, size, m, (192, 256), reduce=True)
        assert part.matrix[0, 0] == factor
        made = warp(part.pixels, m @ part.matrix, (192, 256))
        errors.append(centroid(made) - kernels.warp_keypoints(centroid(drawn), m))
    assert np.abs(errors).max() <= 0.02


def test_damage() -> None:
    """In the rows that are decoded it is found, as in whole pictures; a file without its end is found anywhere."""
    data, top = bytearray(KINDS["4:2:0"]), kernels.crop_matrix((40, 60), (30, 40), 0, (48, 64))
    assert len(partial.read_part(bytes(data), SIZE, top, (48, 64)).pixels) < SIZE[1]
    with pytest.raises(FormatError, match="picture in memory"):
        partial.read_part(bytes(data[: len(data) * 9 // 10]), SIZE, top, (48, 64))
    start = len(data) // 3
    data[start : start + 40] = b"\xff\xd9" * 20
    with pytest.raises(FormatError, match="its pixels are damaged"):
        partial.read_part(bytes(data), SIZE, top, (48, 64))


def test_others_are_read_whole() -> None:
    """PNG, an EXIF turn, a wrong size and CMYK: what `read_image` does, or says."""
    m = kernels.crop_matrix((40, 25), (30, 40), 0, (48, 64))
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, "png")
    np.testing.assert_array_equal(partial.read_part(file.getvalue(), SIZE, m, (48, 64)).pixels, scene())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg(scene(), exif=exif.tobytes())
    part = partial.read_part(turned, SIZE[::-1], m, (48, 64))
    np.testing.assert_array_equal(part.pixels, read_image(turned, SIZE[::-1]))
    cmyk = io.BytesIO()
    Image.fromarray(scene()).convert("CMYK").save(cmyk, "jpeg")
    assert partial.read_part(cmyk.getvalue(), SIZE, m, (48, 64)).pixels.shape == scene().shape
    with pytest.raises(FormatError, match=r"a.jpg.*97 x 150 px, its annotation says 96 x 150"):
        partial.read_part(KINDS["4:2:0"], (96, 150), m, (48, 64), name="a.jpg")


@pytest.fixture
def fresh() -> Iterator[None]:
    partial._fills_the_buffer.cache_clear()
    yield
    partial._fills_the_buffer.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then, or with one that raises before it has written, pictures are read whole."""
    m = kernels.crop_matrix((40, 25), (30, 40), 0, (48, 64))
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert len(partial.read_part(KINDS["4:2:0"], SIZE, m, (48, 64)).pixels) == SIZE[1]
    monkeypatch.undo()
    partial._fills_the_buffer.cache_clear()
    decode = simplejpeg.decode_jpeg

    def empty(data: bytes, *options: Any, buffer: Any = None, **more: Any) -> Any:
        return decode(data, *options, **more)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", empty)
    assert len(partial.read_part(KINDS["4:2:0"], SIZE, m, (48, 64)).pixels) == SIZE[1]
