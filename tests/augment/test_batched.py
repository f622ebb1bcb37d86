"""The torch kernels give what the NumPy and OpenCV way gives on the same parameters, and never wait for the device."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the batched kernels are torch")
cv2 = pytest.importorskip("cv2", reason="the kernels are compared with OpenCV")

from kpdata.augment import batched, image, kernels  # noqa: E402
from kpdata.augment.occlusion import CoarseDropout, Rectangles  # noqa: E402
from kpdata.augment.sample import Sample  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402

from .blobs import blob, centroid  # noqa: E402

torch.set_num_threads(1)
Pixels = NDArray[np.uint8]
SIZE = (192, 256)


def crop_map(rng: np.random.Generator, source: tuple[int, int], size: tuple[int, int] = SIZE) -> NDArray[np.float64]:
    """A crop as training draws it: scaled by 0.55 to 2, turned, mirrored or not, its middle in the middle."""
    target, start = np.array(kernels.middle(size)), np.array(kernels.middle(source))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    linear = kernels.rotate(rng.uniform(-90, 90)) @ kernels.scale(rng.uniform(0.55, 2)) @ mirror
    shift = kernels.translate(*(target + rng.uniform(-9, 9, 2)))
    return np.asarray(shift @ linear @ kernels.translate(*-start), np.float64)


def warped(pictures: list[Pixels], maps: list[NDArray[np.float64]], size: tuple[int, int] = SIZE) -> Pixels:
    """(B, H, W, 3) uint8 of `batched.warp`; whole values are checked on the way."""
    out = batched.warp(torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(maps)).float(), size)
    assert out.dtype == torch.float32 and bool((out == out.round()).all())
    return np.ascontiguousarray(out.permute(0, 2, 3, 1).numpy().astype(np.uint8))


def smooth(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """A picture of soft shapes in all values."""
    coarse = rng.integers(0, 256, (size[1] // 12, size[0] // 12, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def differences(a: Pixels, b: Pixels) -> NDArray[np.int64]:
    return np.abs(a.astype(np.int64) - b)


def assert_close(a: Pixels, b: Pixels) -> None:
    """Within the tolerance: 99.9 % of the values within 2, all within 8 of 255."""
    apart = differences(a, b)
    assert np.percentile(apart, 99.9) <= 2, f"p99.9 {np.percentile(apart, 99.9)}"
    assert apart.max() <= 8, f"max {apart.max()}"


# ---------------------------------------------------------------------------------------------------------------- warp


@pytest.mark.parametrize("antialias", [False, True])
def test_warp_equals_opencv_on_soft_pictures(antialias: bool) -> None:
    """Below a shrinking by 2 both forms of `image.warp` are met, black beyond the picture included."""
    rng = np.random.default_rng(0)
    pictures = [smooth(rng, (260, 300)) for _ in range(12)]
    maps = [crop_map(rng, (260, 300)) for _ in pictures]
    assert_close(
        warped(pictures, maps),
        np.stack([image.warp(p, m, SIZE, antialias=antialias) for p, m in zip(pictures, maps, strict=True)]),
    )


def test_warp_equals_opencv_on_photographs(real_data: Path) -> None:
    """Photographs, cut to one size as packed crops are, under the maps of a training."""
    rng = np.random.default_rng(1)
    files = sorted((real_data / "coco_mini" / "train2017").glob("*.jpg"))
    pictures = [p[:320, :320] for f in files if min((p := image.read_image(f)).shape[:2]) >= 320][:24]
    assert len(pictures) == 24
    maps = [crop_map(rng, (320, 320)) for _ in pictures]
    assert_close(
        warped(pictures, maps), np.stack([image.warp(p, m, SIZE) for p, m in zip(pictures, maps, strict=True)])
    )


def test_warp_where_the_map_shrinks_by_more() -> None:
    """Beyond a shrinking by 2 it is the plain bilinear resampling of the official recipes."""
    rng = np.random.default_rng(2)
    picture = smooth(rng, (480, 480))
    m = kernels.translate(96, 128) @ kernels.rotate(20) @ kernels.scale(0.4) @ kernels.translate(-240, -240)
    assert_close(warped([picture], [m]), image.warp(picture, m, SIZE, antialias=False)[None])


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_pixels_go_where_keypoints_go(seed: int) -> None:
    """The centroid of a blob lies within 0.1 px of where the map takes it."""
    rng = np.random.default_rng(seed)
    place = (float(rng.uniform(130, 170)), float(rng.uniform(130, 190)))
    picture, m = blob(place, (300, 320), sigma=4.0), crop_map(rng, (300, 320))
    out = warped([picture], [m])[0]
    expected = kernels.warp_keypoints(centroid(picture), m)
    assert out.any()
    assert np.hypot(*(centroid(out) - expected)) <= 0.1


@pytest.mark.parametrize("size", [(7, 5), (64, 48), (1, 1), (191, 255)])
@pytest.mark.parametrize("element", range(8))
def test_flips_and_turns_copy_pixels(element: int, size: tuple[int, int]) -> None:
    """The 8 flips and quarter turns copy every pixel of noise, at odd sizes and of a picture of one pixel."""
    picture = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    m, after = kernels.d4(size, element)
    assert np.array_equal(warped([picture], [m], after)[0], image.warp(picture, m, after))


def test_a_shift_by_whole_pixels_copies_them() -> None:
    """Integers are the centres of pixels: a move by (3, -2) copies, and what comes from outside is black."""
    picture = np.random.default_rng(4).integers(1, 256, (20, 30, 3)).astype(np.uint8)
    out = warped([picture], [kernels.translate(3, -2)], (30, 20))[0]
    assert np.array_equal(out[:18, 3:], picture[2:, :27])
    assert not out[18:].any() and not out[:, :3].any()


def test_warp_takes_perspective_maps() -> None:
    """A map that is not affine is divided as it must be."""
    picture = smooth(np.random.default_rng(5), (200, 200))
    corners = np.array([[0.0, 0], [199, 0], [199, 199], [0, 199]])
    m = kernels.perspective(corners, corners + np.array([[10, 5], [-20, 12], [3, -9], [8, -4]]))
    ours, theirs = warped([picture], [m], (200, 200))[0], image.warp(picture, m, (200, 200), antialias=False)
    inside = np.s_[20:-20, 20:-20]  # the black beyond the edge is the sharpest edge there is, and bends here
    assert_close(ours[inside], theirs[inside])
    assert differences(ours, theirs).max() <= 8


def test_a_map_without_inverse_is_seen() -> None:
    """A flat map makes its own picture NaN, which a loop that looks at its loss finds; the others are whole."""
    images = torch.full((2, 8, 8, 3), 200, dtype=torch.uint8)
    out = batched.warp(images, torch.stack([torch.diag(torch.tensor([0.0, 0, 1])), torch.eye(3)]), (8, 8))
    assert out[0].isnan().all() and (out[1] == 200).all()


# -------------------------------------------------------------------------------------------------------------- colour


def recoloured(pictures: list[Pixels], colour: list[tuple[float, ...]]) -> Pixels:
    pixels = batched.planes(torch.from_numpy(np.stack(pictures)))
    out = batched.recolour(pixels, torch.tensor(colour, dtype=torch.float32))
    assert bool((out == out.round()).all())
    return out.permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.mark.parametrize("parts", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 1, 1)])
def test_recolour_equals_opencv(parts: tuple[int, ...]) -> None:
    """Each factor alone and all together: at most 1 from `image.recolour`, on noise of all values."""
    rng = np.random.default_rng(6)
    pictures = [rng.integers(low, 256, (40, 56, 3)).astype(np.uint8) for low in (0, 0, 90, 180)]
    on = np.array(parts)
    colour = [(1, 1, 1, 0) + on * (*rng.uniform(-0.6, 0.6, 3), rng.uniform(-60, 60)) for _ in pictures]
    colour = [tuple(np.float32(c).tolist()) for c in colour]
    expected = np.stack([image.recolour(p, *c) for p, c in zip(pictures, colour, strict=True)])
    assert differences(recoloured(pictures, colour), expected).max() <= 1
    assert differences(np.stack(pictures), expected).max() > 20


def test_recolour_leaves_a_row_of_ones() -> None:
    """Factors 1 and no hue copy the picture exactly, beside one that is changed."""
    picture = np.random.default_rng(7).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    out = recoloured([picture, picture], [(1, 1, 1, 0), (1.5, 1, 1, 0)])
    assert np.array_equal(out[0], picture) and not np.array_equal(out[1], picture)


def test_recolour_in_words() -> None:
    """Contrast 0 leaves the mean grey, saturation 0 each pixel's grey, brightness 2 doubles up to 255."""
    picture = np.array([[[200, 100, 0], [0, 100, 50]]], np.uint8)
    grey = picture @ np.array([0.299, 0.587, 0.114])
    assert (recoloured([picture], [(1, 0, 1, 0)])[0] == round(float(grey.mean()))).all()
    assert np.array_equal(recoloured([picture], [(1, 1, 0, 0)])[0], np.rint(grey)[..., None].repeat(3, 2))
    assert recoloured([picture], [(2, 1, 1, 0)])[0].tolist() == [[[255, 200, 0], [0, 200, 100]]]


# --------------------------------------------------------------------------------------------------------------- holes


@pytest.mark.parametrize("fill", [(0, 0, 0), (12, 200, 7), "mean"])
def test_holes_are_filled_as_coarse_dropout_does(fill: Any) -> None:
    """The same rectangles give the same pixels, overlapping ones and one as large as the picture included."""
    rng = np.random.default_rng(8)
    picture = rng.integers(0, 256, (40, 30, 3)).astype(np.uint8)
    sample = Sample(picture, np.zeros((0, 1, 2)), np.zeros((0, 1), np.int8), Skeleton("one", ("a",)))
    transform = CoarseDropout((1, 4), (0.1, 0.6), (0.1, 0.6), fill=fill)
    drawn = [transform.draw(sample, rng) for _ in range(6)]
    drawn += [Rectangles(np.array([[0, 0, 30, 40]]), 0), Rectangles(np.zeros((0, 4), np.int64), 0)]
    holes = np.full((len(drawn), 5, 4), np.nan, np.float32)
    for row, one in enumerate(drawn):
        holes[row, : len(one.edges), :2] = one.edges[:, :2]
        holes[row, : len(one.edges), 2:] = one.edges[:, 2:] - one.edges[:, :2]
    pixels = batched.planes(torch.from_numpy(picture)[None].expand(len(drawn), -1, -1, -1))
    out = batched.fill_holes(pixels, torch.from_numpy(holes), fill).permute(0, 2, 3, 1).numpy()
    expected = np.stack([np.asarray(transform.apply(sample, one).image) for one in drawn])
    assert np.array_equal(out, expected)
    assert np.array_equal(out[-1], picture) and not np.array_equal(out[0], picture)


def test_holes_are_cut_to_the_picture() -> None:
    """A rectangle that begins outside covers what of it lies inside."""
    holes = torch.tensor([[[-2.0, 3, 4, 10], [float("nan")] * 4]])
    out = batched.fill_holes(torch.full((1, 3, 6, 5), 9.0), holes, (1, 2, 3))
    assert out[0, :, 4, 1].tolist() == [1, 2, 3]
    assert int((out[0, 0] == 1).sum()) == 2 * 3


@pytest.mark.parametrize("bgr", [False, True])
def test_normalise_is_the_published_arithmetic(bgr: bool) -> None:
    """(value / 255 - mean) / std of each channel; BGR turns the channels and not the means."""
    pixels = np.random.default_rng(9).integers(0, 256, (2, 3, 4, 5)).astype(np.float32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    fed = pixels[:, ::-1] if bgr else pixels
    expected = (fed / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    out = batched.normalise(torch.from_numpy(pixels), mean, std, bgr=bgr)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- targets

TARGETS = [
    HeatmapCodec((192, 256)),
    HeatmapCodec((192, 256), target="dark"),
    HeatmapCodec((192, 256), target="udp"),
    HeatmapCodec((288, 384), sigma=3.0),
    HeatmapCodec((64, 96), sigma=1.7),
    HeatmapCodec((64, 96), sigma=1.7, target="dark"),
    HeatmapCodec((64, 96), sigma=1.5, target="udp"),
]


def odd_places(codec: HeatmapCodec) -> NDArray[np.float32]:
    """(n, 2) px: a fine grid across each border, where rounding and patches decide, ties and numbers that are none."""
    radius = 3 * codec.sigma
    places = []
    for axis, cells in enumerate(codec.heatmap_size):
        near = np.array(
            [-radius - 2, -radius - 1, -radius, -1, 0, cells - 1, cells, cells + radius, cells + radius + 1]
        )
        steps = (near[:, None] + np.arange(-6, 7) * 0.125).ravel() * codec.cell[axis]
        other = np.full_like(steps, codec.input_size[1 - axis] / 3)
        places.append(np.stack([steps, other] if axis == 0 else [other, steps], -1))
    places.append(np.array(list(product([np.nan, np.inf, -np.inf, 1e30, -1e30, 20.0], repeat=2))))
    return np.concatenate(places).astype(np.float32)


@pytest.mark.parametrize("codec", TARGETS, ids=lambda c: f"{c.target}-{c.input_size[0]}-{c.sigma}")
def test_targets_equal_the_codec(codec: HeatmapCodec) -> None:
    """Maps within 1e-6 and the same weights: across all borders, at ties, for NaN and endless coordinates."""
    rng = np.random.default_rng(10)
    usual = rng.uniform(-20, np.array(codec.input_size) + 20, (100, 2)).astype(np.float32)
    xy = np.concatenate([odd_places(codec), usual])[None]
    visibility = np.full(xy.shape[:2], 2, np.int8)
    expected, weights = codec.encode(xy, visibility)
    maps, ours = batched.heatmaps(torch.from_numpy(xy), batched.label_worth(torch.from_numpy(visibility)), codec)
    assert maps.dtype == ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), weights)
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6, rtol=0)
    assert 0 < weights.mean() < 1


def test_the_official_odd_case() -> None:
    """Exactly 3 sigma + 1 cells off the left edge: weight 1 with an empty map; a cell further: weight 0."""
    codec = HeatmapCodec((192, 256))
    xy = torch.tensor([[[-7 * 4 - 2.0, 100], [-8 * 4 - 2.0, 100], [-4.0, 100]]])
    maps, weights = batched.heatmaps(xy, batched.label_worth(torch.full((1, 3), 2)), codec)
    assert weights.tolist() == [[1, 0, 1]]
    assert not maps[0, :2].any()
    # int(-1 + 0.5) is 0 and floor(-1 + 0.5) is -1: the blob of x = -4 px peaks in the first column.
    assert maps[0, 2].max() == 1 and maps[0, 2, 25, 0] == 1


@pytest.mark.parametrize("occluded", ["target", "ignore", "negative"])
@pytest.mark.parametrize("absent", ["ignore", "negative"])
def test_policies_equal_the_codec(occluded: Any, absent: Any) -> None:
    """Every visibility under every policy, inside, outside and without a coordinate; also from a table of sources."""
    codec = HeatmapCodec((64, 64), occluded=occluded, absent=absent)
    xy = np.tile(np.array([[30.0, 30], [-500, 3], [np.nan, np.nan]], np.float32), (4, 1))[None]
    visibility = np.repeat(np.arange(4, dtype=np.int8), 3)[None]
    expected, weights = codec.encode(xy, visibility)
    seen = torch.from_numpy(visibility)
    table = batched.worth_table([("target", "ignore"), (occluded, absent)])
    for worth in (batched.label_worth(seen, occluded, absent), table[torch.tensor([[1]]), seen.long()]):
        maps, ours = batched.heatmaps(torch.from_numpy(xy), worth, codec)
        assert np.array_equal(ours.numpy(), weights)
        np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------- no wait, no constant


def test_kernels_keep_float32_under_autocast() -> None:
    """Autocast changes no pixel and no target: nothing goes through a shortened product."""
    rng = np.random.default_rng(11)
    images = torch.from_numpy(np.stack([smooth(rng, (96, 96)) for _ in range(2)]))
    matrix = torch.from_numpy(np.stack([crop_map(rng, (96, 96), (64, 64)) for _ in range(2)]))
    colour = torch.tensor([[1.2, 0.8, 1.1, 9.0], [1, 1, 1, 0]])

    def run() -> Any:
        return batched.recolour(batched.warp(images, matrix, (64, 64)), colour)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = run()
    assert short.dtype == torch.float32 and torch.equal(short, run())
