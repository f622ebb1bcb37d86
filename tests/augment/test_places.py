"""Where the picture's content goes, to a fiftieth of a pixel, whatever 8 bits do to it (`blobs.place_errors`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kpdata.augment import crops, kernels
from kpdata.augment import image as im
from kpdata.augment import transforms as t

from . import blobs

affine_options = st.fixed_dictionaries(
    {
        "rotation": st.floats(-180, 180),
        "scale": st.floats(0.55, 1.2),
        "translate": st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
        "shear": st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    }
)


@settings(max_examples=30, derandomize=True)
@given(affine_options, st.sampled_from([1.0, 2.5]), st.sampled_from([0.0, 0.3, 45.0, 90.0, 180.0, None]))
def test_affine_places(options: dict[str, Any], enlarged: float, rotation: float | None) -> None:
    """A dot drawn at a keypoint is under it to 0.02 px after any affine map, also one that keeps rows and enlarges."""
    scale, turn = options["scale"] * enlarged, options["rotation"] if rotation is None else rotation
    shear = (0.0, 0.0) if rotation == 0 else options["shear"]
    side = int(190 * max(scale, 1))
    transform = t.Affine(turn, scale, options["translate"], shear, (side, side))
    errors = blobs.place_errors(transform)
    assume(len(errors))
    assert errors.max() <= 0.02


def test_the_test_of_places_sees_the_rounding_of_places() -> None:
    """OpenCV's own rounding to 1 / 32 px is more than that where it falls on the same side in all columns."""
    plain = t.Geometry([t.Affine(0, 2.0, (0.03, 0.03), size=(400, 400))], antialias=False)
    even = t.Geometry(plain.transforms)
    assert blobs.place_errors(plain).min() > 0.02 > blobs.place_errors(even).max()


@settings(max_examples=30, derandomize=True)
@given(st.floats(60, 200), st.floats(0, 1), st.booleans())
def test_crops_have_the_official_places(width: float, part: float, flip: bool) -> None:
    """Top-down crops round places as the recipe does: up to 1 / 64 px of the picture off in x and in y, no more."""
    start = blobs.blob_sample()
    crop = crops.Crop((80 + part, 60 + part), (width, width * 4 / 3), flip=flip)

    class Fixed(crops.TopDown):
        def draw(self, sample: Any, rng: Any) -> crops.Crop:
            return crop

    transform = Fixed((192, 256))
    errors = blobs.place_errors(transform)
    scale = float(transform.matrix(start, crop)[1, 1])
    assume(len(errors))
    assert errors.max() <= np.hypot(1, 1) / 64 * scale + 0.02


@pytest.mark.parametrize("border", [(0, 0, 0), (9, 200, 30), "replicate", "reflect"])
@pytest.mark.parametrize("turn", [0.0, 90.0, 1.0, 181.0])
def test_pixels_are_those_of_opencv_to_a_32nd(border: Any, turn: float) -> None:
    """With errors carried on, each pixel is still what lies within 1 / 32 px of its place; the mean does not change."""
    rng = np.random.default_rng(0)
    slopes = (3 * np.arange(80) % 256)[:, None] // 2 + (2 * np.arange(60) % 256) // 2
    image = np.repeat(slopes[..., None], 3, 2).astype(np.uint8)
    image[::9] += rng.integers(0, 3, (9, 60, 3), np.uint8)
    m = kernels.rotate(turn, (30, 40)) @ kernels.scale(1.7) @ kernels.translate(*rng.uniform(-9, 9, 2))
    even, plain = (im.warp(image, m, (90, 70), border, diffuse=diffuse).astype(int) for diffuse in (True, False))
    assert 0 < np.abs(even - plain).max() <= 12
    assert np.abs(even - plain).mean() < 0.6


def test_whole_pixels_are_copied() -> None:
    """A move by whole pixels changes no value, carried on or not."""
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for diffuse in (True, False):
        moved = im.warp(image, kernels.translate(-7, -3), (43, 37), diffuse=diffuse)
        np.testing.assert_array_equal(moved, image[3:, 7:])


def test_turned_maps_are_opencvs() -> None:
    """Where rounding averages out by itself, nothing changes."""
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    m = kernels.rotate(20, (20, 20)) @ kernels.scale(1.3)
    np.testing.assert_array_equal(im.warp(image, m, (60, 60), diffuse=True), im.warp(image, m, (60, 60)))
