"""Codecs against numbers of the official programs, against naive loops of the published formulas, and against truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import codec
from kpdata.codec import HeatmapCodec, SimCC, flip_heatmaps
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, load

Arrays = dict[str, np.ndarray]
TARGETS = {
    "gaussian": "official_sigma2",
    "dark": "unbiased_sigma2",
    "udp": "udp_sigma2",
}


@pytest.fixture(scope="module")
def reference(real_data: Path) -> Arrays:
    """Inputs and outputs of HRNet's, DARK's and UDP's own code, which lie beside the real data."""
    path = real_data.parent / "reference" / "codec_reference.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return dict(np.load(path))


def seen(*shape: int) -> np.ndarray:
    return np.full(shape, 2, np.int8)


# --- the official programs' numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "name"), TARGETS.items())
def test_targets_are_the_official_ones(reference: Arrays, target: Any, name: str) -> None:
    """17 keypoints in and around the map: maps within the last bit of a float32 near 1, weights equal."""
    visibility = (2 * reference["target_vis"]).astype(np.int8)[None]
    maps, weights = HeatmapCodec(target=target).encode(reference["target_kp"][None], visibility)
    assert maps.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(maps[0], reference[f"target_{name}"], rtol=0, atol=6e-8)
    key = "target_weight_" + name.removesuffix("_sigma2") if target != "gaussian" else f"target_weight_{name}"
    assert weights.ravel().tolist() == reference[key].ravel().tolist()


def test_targets_of_sigma_3_are_the_official_ones(reference: Arrays) -> None:
    """sigma 3 has an odd case among them: weight 1 with an empty map, exactly 3σ + 1 cells left of the map."""
    visibility = (2 * reference["target_vis"]).astype(np.int8)[None]
    maps, weights = HeatmapCodec(sigma=3).encode(reference["target_kp"][None], visibility)
    np.testing.assert_allclose(maps[0], reference["target_official_sigma3"], rtol=0, atol=6e-8)
    assert weights.ravel().tolist() == reference["target_weight_official_sigma3"].ravel().tolist()
    assert weights[0, 16] == 1
    assert not maps[0, 16].any()


@pytest.mark.parametrize(
    ("refine", "key", "tolerance"),
    [
        ("argmax", "argmax", 0),
        ("quarter", "quarter_heatmap", 0),
        ("dark", "dark_heatmap_k11", 4e-6),  # the reference is float32: 4e-6 is one bit of 60
        ("udp_dark", "dark_udp_heatmap_k11", 4e-6),
    ],
)
def test_decoding_is_the_official_one(reference: Arrays, refine: Any, key: str, tolerance: float) -> None:
    """34 noisy maps, some with the peak at the border, one without anything above 0: cells and scores."""
    found = HeatmapCodec(refine=refine)
    keypoints, scores = found.decode(reference["decode_heatmaps"])
    np.testing.assert_allclose(keypoints / found.cell, reference[f"decode_{key}"], rtol=0, atol=tolerance)
    assert np.array_equal(scores, reference["decode_max"][..., 0])


def test_decoded_pixels_lead_to_the_official_picture_coordinates(reference: Arrays) -> None:
    """A pixel of the crop is stride × cell: the official inverse crop then gives the official picture coordinates."""
    keypoints, _ = HeatmapCodec().decode(reference["decode_heatmaps"])
    box, centre = reference["affine_scale_div200"][:2] * 200, reference["affine_center"][:2]
    picture = (keypoints - [96, 128]) * (box / [192, 256])[:, None] + centre[:, None]
    np.testing.assert_allclose(picture, reference["decode_quarter_image"], rtol=0, atol=4e-5)  # float32 of 400


@pytest.mark.parametrize(("shift", "key"), [(False, "flip_back"), (True, "flip_back_shifted")])
def test_flipping_back_is_the_official_one(reference: Arrays, shift: bool, key: str) -> None:
    """Mirrored, left and right swapped, and shifted by one cell where asked: equal."""
    assert np.array_equal(flip_heatmaps(reference["decode_heatmaps"], load("coco_17"), shift=shift), reference[key])


# --- naive loops of the published formulas --------------------------------------------------------------------------


def naive_target(target: str, xy: np.ndarray, size: tuple[int, int], sigma: int) -> tuple[np.ndarray, float]:
    """One keypoint, in cells, drawn cell by cell as HRNet's, DARK's and UDP's papers and code say."""
    width, height = size
    plane = np.zeros((height, width))
    rounded = [int(v + 0.5) for v in xy]  # toward zero
    about = xy if target == "dark" else rounded
    centre = rounded if target == "gaussian" else xy
    if any(about[a] - 3 * sigma >= size[a] or about[a] + 3 * sigma + 1 < 0 for a in (0, 1)):
        return plane, 0.0
    for y in range(height):
        for x in range(width):
            near = abs(x - about[0]) <= 3 * sigma and abs(y - about[1]) <= 3 * sigma
            if target == "dark" or near:
                plane[y, x] = math.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return plane, 1.0


@pytest.mark.parametrize("target", TARGETS)
@given(x=st.floats(-60, 130), y=st.floats(-60, 130), sigma=st.sampled_from([1, 2, 3]))
def test_targets_equal_a_naive_loop(target: Any, x: float, y: float, sigma: int) -> None:
    """Anywhere in and around a 72×48 input: each cell, and the weight."""
    found = HeatmapCodec(input_size=(72, 48), target=target, sigma=sigma)
    maps, weights = found.encode(np.array([[[x, y]]]), seen(1, 1))
    plane, weight = naive_target(target, np.array([x, y]) / found.cell, (18, 12), sigma)
    np.testing.assert_allclose(maps[0, 0], plane, rtol=0, atol=2e-7)
    assert weights[0, 0] == weight


def test_the_odd_case_of_the_official_test() -> None:
    """int(x + 0.5) = −7 with sigma 2 is not refused left or top, and has nothing to draw; −8 is refused."""
    xy = np.array([[[-30.0, 100.0], [-34.0, 100.0], [90.0, -30.0], [90.0, -34.0], [216.0, 100.0], [215.0, 100.0]]])
    maps, weights = HeatmapCodec().encode(xy, seen(1, 6))
    assert weights.tolist() == [[1, 0, 1, 0, 0, 0]]  # at the right, cell 54 = 48 + 3σ is refused already
    assert not maps.any()


def neighbours(cv2: Any, heatmap: np.ndarray, kernel: int) -> np.ndarray:
    """DARK's blur with OpenCV, as its authors call it."""
    edge = kernel // 2
    padded = np.zeros((heatmap.shape[0] + 2 * edge, heatmap.shape[1] + 2 * edge), np.float32)
    padded[edge:-edge, edge:-edge] = heatmap
    smooth: np.ndarray = cv2.GaussianBlur(padded, (kernel, kernel), 0)[edge:-edge, edge:-edge]
    return smooth * (heatmap.max() / smooth.max())


@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 11, 17])
def test_blur_is_opencvs(kernel: int) -> None:
    """Every published kernel, the small ones with OpenCV's own weights, at the border too."""
    cv2 = pytest.importorskip("cv2")
    heatmap = np.random.default_rng(kernel).random((12, 18)).astype(np.float32)
    found = codec.blurred(heatmap[None, None], kernel)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], neighbours(cv2, heatmap, kernel), rtol=0, atol=1e-6)


def naive_quarter(h: np.ndarray, x: int, y: int) -> tuple[float, float]:
    if not (1 < x < h.shape[1] - 1 and 1 < y < h.shape[0] - 1):
        return x, y
    return x + np.sign(h[y, x + 1] - h[y, x - 1]) / 4, y + np.sign(h[y + 1, x] - h[y - 1, x]) / 4


def naive_dark(h: np.ndarray, x: int, y: int) -> tuple[float, float]:
    p = np.log(np.maximum(h, 1e-10))
    if not (1 < x < h.shape[1] - 2 and 1 < y < h.shape[0] - 2):
        return x, y
    gradient = np.array([p[y, x + 1] - p[y, x - 1], p[y + 1, x] - p[y - 1, x]]) / 2
    dxx, dyy = p[y, x + 2] - 2 * p[y, x] + p[y, x - 2], p[y + 2, x] - 2 * p[y, x] + p[y - 2, x]
    dxy = p[y + 1, x + 1] - p[y - 1, x + 1] - p[y + 1, x - 1] + p[y - 1, x - 1]
    step = np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]) / 4, gradient)
    return x - step[0], y - step[1]


def naive_udp_dark(h: np.ndarray, x: int, y: int) -> tuple[float, float]:
    p = np.pad(np.log(np.clip(h, 1e-3, 50)), 1, mode="edge")
    x, y = x + 1, y + 1
    gradient = np.array([p[y, x + 1] - p[y, x - 1], p[y + 1, x] - p[y - 1, x]]) / 2
    dxx, dyy = p[y, x + 1] - 2 * p[y, x] + p[y, x - 1], p[y + 1, x] - 2 * p[y, x] + p[y - 1, x]
    dxy = p[y + 1, x + 1] - p[y, x + 1] - p[y + 1, x] + 2 * p[y, x] - p[y, x - 1] - p[y - 1, x] + p[y - 1, x - 1]
    hessian = np.array([[dxx, dxy / 2], [dxy / 2, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
    step = np.linalg.solve(hessian, gradient)
    return x - 1 - step[0], y - 1 - step[1]


@pytest.mark.parametrize(
    ("refine", "naive"),
    [("quarter", naive_quarter), ("dark", naive_dark), ("udp_dark", naive_udp_dark)],
)
def test_decoding_equals_a_naive_loop(refine: Any, naive: Any) -> None:
    """200 noisy peaks, many at the border: every refinement, one keypoint at a time."""
    rng = np.random.default_rng(3)
    maps, _ = noisy_peaks(rng, people=20, keypoints=10, width=16, height=12, margin=0)
    found, _ = HeatmapCodec((64, 48), refine=refine, kernel=None if refine == "quarter" else 5).decode(maps)
    smooth = maps if refine == "quarter" else codec.blurred(maps, 5)
    for n, k in np.ndindex(20, 10):
        y, x = np.unravel_index(maps[n, k].argmax(), (12, 16))
        np.testing.assert_allclose(found[n, k] / 4, naive(smooth[n, k].astype(float), int(x), int(y)), atol=1e-9)


@given(x=st.floats(-40, 240), y=st.floats(-40, 300), normalize=st.booleans())
def test_simcc_equals_a_naive_loop(x: float, y: float, normalize: bool) -> None:
    """Labels of the nearest bin, with sigmas of their own, and the weight at the ends of both axes."""
    found = SimCC(sigma=(4.9, 5.66), normalize=normalize)
    labels = found.encode(np.array([[[x, y]]]), seen(1, 1))
    weight = 1
    for at, bins, sigma in ((x, 384, 4.9), (y, 512, 5.66)):
        centre = round(2 * at)  # Python's halves to even, as NumPy's
        weight &= centre - 3 * sigma < bins and centre + 3 * sigma + 1 >= 0
    for label, at, bins, sigma in ((labels[0], x, 384, 4.9), (labels[1], y, 512, 5.66)):
        line = [math.exp(-((b - round(2 * at)) ** 2) / (2 * sigma**2)) for b in range(bins)]
        by = sigma * math.sqrt(2 * math.pi) if normalize else 1
        np.testing.assert_allclose(label[0, 0], np.array(line) * weight / by, rtol=0, atol=1e-7)
    assert labels[2].tolist() == [[weight]]


# --- truth ----------------------------------------------------------------------------------------------------------


def noisy_peaks(
    rng: np.random.Generator, people: int, keypoints: int, width: int = 48, height: int = 64, margin: float = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (N, K, H, W) as a network says them, sigma 2 about a point between cells, and the points in cells."""
    low, high = np.full(2, margin), np.array([width, height]) - 1 - margin
    truth = rng.uniform(low, high, (people, keypoints, 2))
    across = np.exp(-np.square(np.arange(width) - truth[..., :1]) / 8)
    down = np.exp(-np.square(np.arange(height) - truth[..., 1:]) / 8)
    maps = 0.9 * down[..., :, None] * across[..., None, :]
    return (maps + np.abs(rng.normal(0, 0.005, maps.shape))).astype(np.float32), truth


@pytest.mark.parametrize(
    ("refine", "known"), [("argmax", 0.39), ("quarter", 0.21), ("dark", 0.035), ("udp_dark", 0.035)]
)
def test_decoding_finds_points_between_cells(refine: Any, known: float) -> None:
    """Mean error in cells on noisy maps: 0.38 is the mean distance to a cell's centre; the others as published."""
    maps, truth = noisy_peaks(np.random.default_rng(0), people=20, keypoints=17)
    found = HeatmapCodec(refine=refine)
    cells = found.decode(maps)[0] / found.cell
    error = np.linalg.norm(cells - truth, axis=-1).mean()
    assert error < known
    assert refine != "argmax" or error > 0.35


inside = st.tuples(st.floats(34, 157), st.floats(34, 221))  # 8 cells from the border: the blur reaches 5


@pytest.mark.parametrize(("target", "error"), [("gaussian", 2.83), ("dark", 0.002), ("udp", 0.001)])
@given(points=st.lists(inside, min_size=1, max_size=5))
def test_what_is_encoded_decodes_to_itself(target: Any, error: float, points: list[tuple[float, float]]) -> None:
    """px: rounding costs the official codec half a cell an axis; DARK and UDP keep the point."""
    found = HeatmapCodec(target=target)
    xy = np.array([points])
    maps, weights = found.encode(xy, seen(1, len(points)))
    keypoints, scores = found.decode(maps)
    assert np.linalg.norm(keypoints - xy, axis=-1).max() < error
    assert (weights == 1).all()
    assert (scores > 0.9).all()


@given(points=st.lists(st.tuples(st.floats(0, 191), st.floats(0, 255)), min_size=1, max_size=5))
def test_simcc_decodes_to_half_a_bin(points: list[tuple[float, float]]) -> None:
    """Anywhere in the input: within a quarter of a pixel an axis, half a bin."""
    xy = np.array([points])
    x, y, _ = SimCC().encode(xy, seen(1, len(points)))
    assert np.abs(SimCC().decode(x, y)[0] - xy).max() <= 0.25


def test_simcc_scores_are_the_smaller_maximum() -> None:
    """A keypoint is as sure as its less sure axis; one without a label is (0, 0) with score 0."""
    x, y, _ = SimCC(normalize=False).encode(np.array([[[50.0, 60.0], [1.0, 1.0]]]), np.array([[2, 0]]))
    keypoints, scores = SimCC().decode(x, 0.5 * y)
    assert keypoints.tolist() == [[[50, 60], [0, 0]]]
    assert scores.tolist() == [[0.5, 0]]


@pytest.mark.parametrize("target", ["dark", "udp"])
def test_flip_test_agrees_with_mirroring_the_input(target: Any) -> None:
    """The maps of a mirrored person, flipped back, lie on those of the person: UDP's exactly, DARK's with a shift of 1
    a quarter of a cell off (1 px: `width − 1 − x` is not the mirror of x / stride)."""
    skeleton, found = load("coco_17"), HeatmapCodec(target=target)
    xy = np.random.default_rng(1).uniform(40, 150, (3, 17, 2))
    mirrored = np.stack([191 - xy[..., 0], xy[..., 1]], axis=-1)[:, skeleton.flip_index()]
    back = flip_heatmaps(found.encode(mirrored, seen(3, 17))[0], skeleton, shift=target == "dark")
    off = found.decode(back)[0] - xy
    np.testing.assert_allclose(off, np.broadcast_to([1.0 if target == "dark" else 0.0, 0.0], off.shape), atol=0.25)
    assert target != "udp" or np.abs(back - found.encode(xy, seen(3, 17))[0]).max() < 0.15  # cut at another cell


# --- labels and weights ---------------------------------------------------------------------------------------------


def test_weights_follow_visibility() -> None:
    """Absent 0; occluded, visible and not known 1; an absent keypoint's coordinate is not looked at, NaN is outside."""
    xy = np.full((1, 6, 2), 50.0)
    xy[0, 4:] = np.nan
    maps, weights = HeatmapCodec().encode(xy, np.array([[0, 1, 2, 3, 0, 2]], np.int8))
    assert weights.tolist() == [[0, 1, 1, 1, 0, 0]]
    assert maps.max((2, 3)).tolist() == [[0, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("options", "weights", "peaks"),
    [
        ({"occluded": "ignore"}, [0, 0, 1], [0, 0, 1]),
        ({"occluded": "negative"}, [0, 1, 1], [0, 0, 1]),
        ({"absent": "negative"}, [1, 1, 1], [0, 1, 1]),
    ],
)
def test_policies_of_visibility(options: Any, weights: list[int], peaks: list[int]) -> None:
    """ignore: weight 0; negative: weight 1 on an empty map."""
    maps, found = HeatmapCodec(**options).encode(np.full((1, 3, 2), 50.0), np.array([[0, 1, 2]]))
    assert found.tolist() == [weights]
    assert maps.max((2, 3)).tolist() == [peaks]


def test_simcc_may_ignore_occluded_keypoints() -> None:
    """Labels of zeros with weight 0."""
    x, y, weights = SimCC(occluded="ignore").encode(np.full((1, 2, 2), 50.0), np.array([[1, 2]]))
    assert weights.tolist() == [[0, 1]]
    assert not x[0, 0].any()
    assert not y[0, 0].any()


def test_coordinates_of_any_size_are_taken() -> None:
    """Endless and huge coordinates are outside; nobody and no keypoints are fine."""
    xy = np.array([[[np.inf, 5.0], [1e300, 5.0], [5.0, -np.inf], [-1e30, np.nan]]])
    for target in TARGETS:
        maps, weights = HeatmapCodec(target=target).encode(xy, seen(1, 4))  # type: ignore[arg-type]
        assert not maps.any()
        assert not weights.any()
        empty, none = HeatmapCodec(target=target).encode(np.zeros((0, 17, 2)), seen(0, 17))  # type: ignore[arg-type]
        assert empty.shape == (0, 17, 64, 48)
        assert none.shape == (0, 17)
        assert HeatmapCodec(target=target).decode(empty)[0].shape == (0, 17, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("refine", ["argmax", "quarter", "dark", "udp_dark"])
def test_maps_that_say_nothing_have_no_keypoint(refine: Any) -> None:
    """All zero, all negative, NaN: (0, 0). Flat, endless: finite coordinates. Never a warning."""
    maps = np.zeros((1, 5, 64, 48), np.float32)
    maps[0, 1] = -0.1
    maps[0, 2, 20, 20] = np.nan
    maps[0, 3] = 0.7
    maps[0, 4, 20, 20] = np.inf
    with np.errstate(all="raise", under="ignore"):
        keypoints, scores = HeatmapCodec(refine=refine).decode(maps)
    assert not keypoints[0, :3].any()
    assert np.isfinite(keypoints).all()
    np.testing.assert_array_equal(scores, np.array([[0, np.float32(-0.1), np.nan, np.float32(0.7), np.inf]]))


def test_flipping_needs_known_twins() -> None:
    """Unknown twins are refused; a skeleton that declares none is mirrored without a swap."""
    maps = np.random.default_rng(0).random((2, 2, 4, 6))
    with pytest.raises(SkeletonError, match="not known: no flipping"):
        flip_heatmaps(maps, Skeleton("unknown", ("a", "b")), shift=False)
    alone = Skeleton("alone", ("a", "b"), flip_pairs=frozenset())
    assert np.array_equal(flip_heatmaps(maps, alone, shift=False), maps[..., ::-1])
    assert np.array_equal(flip_heatmaps(flip_heatmaps(maps, alone, shift=False), alone, shift=False), maps)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "msra"}, "target 'msra', expected one of gaussian, dark, udp"),
        ({"refine": "best"}, "refine 'best', expected one of argmax, quarter, dark, udp_dark"),
        ({"occluded": "hide"}, "occluded 'hide', expected one of target, ignore, negative"),
        ({"absent": "target"}, "absent 'target', expected one of ignore, negative"),
        ({"sigma": 0}, "sigma 0, expected a number above 0"),
        ({"sigma": math.nan}, "sigma nan"),
        ({"input_size": (190, 256)}, r"stride 4, expected a whole number that divides \(190, 256\)"),
        ({"input_size": (192.0, 256)}, "input_size .* whole numbers above 0"),
        ({"stride": 0}, "stride 0"),
        ({"kernel": 11}, "kernel 11: refine 'quarter' does not blur. leave it out"),
        ({"target": "dark", "kernel": 10}, "kernel 10, expected an odd whole number"),
        ({"target": "udp", "input_size": (4, 8)}, "UDP needs at least 2 cells"),
    ],
)
def test_options_are_checked(options: Any, words: str) -> None:
    """Every option that cannot be is refused when the codec is made, in words."""
    with pytest.raises(SchemaError, match=words):
        HeatmapCodec(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": (1.0, 2.0, 3.0)}, "expected a number or"),
        ({"sigma": -1.0}, "sigma -1.0"),
        ({"split": 0}, "split 0"),
        ({"occluded": "negative"}, "expected one of target, ignore"),
    ],
)
def test_simcc_options_are_checked(options: Any, words: str) -> None:
    """The same for SimCC."""
    with pytest.raises(SchemaError, match=words):
        SimCC(**options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.encode(np.zeros((17, 2)), seen(17)), r"keypoints of shape \(17, 2\)"),
        (lambda c: c.encode(np.zeros((1, 17, 2)), seen(1, 16)), r"visibility of \(1, 16\)"),
        (lambda c: c.encode(np.zeros((1, 2, 2)), np.array([[4, -1]])), r"visibility \[-1, 4\], expected 0 \(absent\)"),
        (lambda c: c.decode(np.zeros((17, 64, 48))), r"heatmaps: float64 of shape \(17, 64, 48\)"),
        (lambda c: c.decode(np.zeros((1, 17, 48, 64))), r"expected \(N, K, 64, 48\)"),
        (lambda c: c.decode(np.zeros((1, 17, 64, 48), int)), "heatmaps: int64"),
        (lambda c: flip_heatmaps(np.zeros((1, 16, 64, 48)), load("coco_17"), shift=True), "16 keypoints, expected 17"),
        (lambda c: SimCC().decode(np.zeros((1, 17, 384)), np.zeros((1, 17, 511))), r"expected \(N, K, 384\) and"),
    ],
)
def test_arrays_are_checked(call: Any, words: str) -> None:
    """A wrong shape or number is refused with what was found and what was expected."""
    with pytest.raises(SchemaError, match=words):
        call(HeatmapCodec())
