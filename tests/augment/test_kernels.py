"""Maps of the plane against the official numbers, OpenCV, Pillow-free loops and pycocotools."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from kpdata import geometry
from kpdata.augment import kernels
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, load

SKELETONS = sorted(file.stem for file in (Path(kernels.__file__).parents[1] / "skeletons").glob("*.toml"))
SIZES = st.tuples(st.integers(2, 40), st.integers(2, 40))
FLOATS = st.floats(-50, 50, allow_subnormal=False)


@st.composite
def affine_maps(draw: st.DrawFn) -> np.ndarray:
    """Well-conditioned affine maps, mirrors among them."""
    m = kernels.rotate(draw(st.floats(-180, 180)), about=(draw(FLOATS), draw(FLOATS)))
    m = kernels.scale(draw(st.floats(0.2, 4)), draw(st.floats(0.2, 4))) @ m
    m = kernels.shear(draw(st.floats(-30, 30))) @ m
    if draw(st.booleans()):
        m = kernels.flip_horizontal((draw(st.integers(1, 99)), 1)) @ m
    return kernels.translate(draw(FLOATS), draw(FLOATS)) @ m


@pytest.fixture(scope="module")
def reference(real_data: Path) -> dict[str, np.ndarray]:
    """Numbers of the official code: get_affine_transform of HRNet, get_warpmatrix of UDP."""
    file = real_data.parent / "reference" / "codec_reference.npz"
    if not file.is_file():
        pytest.skip("reference numbers not found beside the real data")
    return dict(np.load(file))


@pytest.mark.parametrize("size", [(192, 256), (288, 384)])
def test_official_crop_matrix(reference: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Equal to get_affine_transform and its inverse, within what its float32 loses."""
    expected, inverse = (reference[f"affine_official_{kind}{size[0]}x{size[1]}"] for kind in ("", "inv_"))
    rows = zip(reference["affine_center"], reference["affine_scale_div200"], reference["affine_rot_deg"], strict=True)
    found = np.stack([kernels.crop_matrix(c, s * 200, r, size) for c, s, r in rows])
    np.testing.assert_allclose(found[:, :2], expected, atol=2e-4)
    np.testing.assert_allclose(found[:, :2, :2], expected[:, :, :2], atol=1e-6)
    np.testing.assert_allclose([kernels.invert(m)[:2] for m in found], inverse, atol=2e-4)


@pytest.mark.parametrize("size", [(192, 256), (288, 384)])
def test_udp_crop_matrix(reference: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Equal to get_warpmatrix, whose angle runs the other way round, within float32."""
    rows = zip(reference["affine_center"], reference["affine_scale_div200"], reference["affine_rot_deg"], strict=True)
    for (c, s, r), expected in zip(rows, reference[f"affine_udp_{size[0]}x{size[1]}"], strict=True):
        np.testing.assert_allclose(kernels.crop_matrix(c, s * 200, -r, size, "udp")[:2], expected, atol=1e-4)


def test_rotation_is_opencvs() -> None:
    """Counter-clockwise as seen, as cv2.getRotationMatrix2D."""
    for angle, x, y in ((30, 3.5, -2), (-100, 0, 7), (180, 1, 1)):
        np.testing.assert_allclose(
            kernels.rotate(angle, (x, y))[:2], cv2.getRotationMatrix2D((x, y), angle, 1), atol=1e-9
        )


@given(SIZES, st.integers(0, 7))
def test_d4_moves_pixels_as_numpy_does(size: tuple[int, int], element: int) -> None:
    """Every pixel lands where np.rot90 and a flip put it."""
    picture = np.arange(size[0] * size[1]).reshape(size[1], size[0])
    expected = np.rot90(picture[:, ::-1] if element >= 4 else picture, element % 4)
    matrix, after = kernels.d4(size, element)
    assert after == expected.shape[::-1]
    y, x = np.mgrid[: size[1], : size[0]]
    moved = kernels.warp_keypoints(np.stack([x, y], axis=-1), matrix).astype(int)
    np.testing.assert_array_equal(expected[moved[..., 1], moved[..., 0]], picture)
    assert kernels.mirrors(matrix) == (element >= 4)


def test_flips_keep_the_projects_convention() -> None:
    """x becomes W - 1 - x, a box W - x - w: the same as kpdata.geometry."""
    xy, boxes = np.array([[3.0, 4.5], [np.nan, 1]]), np.array([[2.0, 3, 5, 6.5], [0, 0, 640, 480]])
    m = kernels.flip_horizontal((640, 480))
    np.testing.assert_array_equal(kernels.warp_keypoints(xy, m)[0], geometry.flip_keypoints(xy, 640)[0])
    np.testing.assert_allclose(kernels.warp_boxes(boxes, m), geometry.flip_boxes(boxes, 640))
    np.testing.assert_array_equal(kernels.transpose(), kernels.d4((640, 480), 5)[0])
    np.testing.assert_array_equal(kernels.flip_vertical((640, 480)), kernels.d4((640, 480), 6)[0])


def test_resize_keeps_edges() -> None:
    """A box of the whole picture becomes one of the whole new picture, and a letterbox is centred."""
    whole = np.array([0.0, 0, 640, 480])
    np.testing.assert_allclose(
        kernels.warp_boxes(whole, kernels.resize((640, 480), (192, 256))), [0, 0, 192, 256], atol=1e-9
    )
    np.testing.assert_allclose(
        kernels.warp_boxes(whole, kernels.letterbox((640, 480), (320, 320))), [0, 40, 320, 240], atol=1e-9
    )


@given(affine_maps(), st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
def test_points_go_there_and_back(m: np.ndarray, points: list[tuple[float, float]]) -> None:
    """The inverse takes every point home, and NaN stays NaN."""
    xy = np.array([*points, (np.nan, np.nan)])
    back = kernels.warp_keypoints(kernels.warp_keypoints(xy, m), kernels.invert(m))
    np.testing.assert_allclose(back, xy, atol=1e-6)


@given(affine_maps(), st.tuples(FLOATS, FLOATS, st.floats(0, 50), st.floats(0, 50)))
def test_boxes_hold_their_warped_outline(m: np.ndarray, box: tuple[float, float, float, float]) -> None:
    """The box is the extent of its four corners, taken as continuous edges (half a pixel off keypoints)."""
    x, y, w, h = box
    corners = np.array([[x, y, 1], [x + w, y, 1], [x, y + h, 1], [x + w, y + h, 1]]) - (0.5, 0.5, 0)
    moved = (m @ corners.T).T[:, :2] + 0.5
    low, high = moved.min(axis=0), moved.max(axis=0)
    np.testing.assert_allclose(kernels.warp_boxes(box, m), [*low, *(high - low)], atol=1e-6)


@given(affine_maps(), st.integers(3, 9), st.integers(0, 99))
def test_area_follows_the_polygon(m: np.ndarray, corners: int, seed: int) -> None:
    """The area by determinant is the shoelace area of the warped polygon."""

    def shoelace(p: np.ndarray) -> float:
        x, y = p.T
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    polygon = np.random.default_rng(seed).uniform(0, 50, (corners, 2))
    (moved,) = kernels.warp_polygons([polygon.reshape(-1)], m)
    assert float(kernels.warp_area(shoelace(polygon), m)) == pytest.approx(shoelace(moved), rel=1e-6, abs=1e-6)


def test_perspective_area_and_extent_are_local() -> None:
    """A tiny square's area and sides after a perspective map, measured on its warped corners."""
    corners = np.array([[0, 0], [100, 0], [100, 80], [0, 80]])
    m = kernels.perspective(np.add(corners, [[5, 9], [-20, 3], [-8, -6], [2, -15]]), corners)
    at, half = np.array([40.0, 30]), 1e-4
    square = kernels.warp_keypoints(at + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), m)
    x, y = square.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    assert float(kernels.warp_area(4 * half**2, m, at=at)) == pytest.approx(area, rel=1e-4)
    step = (square[1:3].mean(axis=0) - square[[0, 3]].mean(axis=0), square[2:].mean(axis=0) - square[:2].mean(axis=0))
    np.testing.assert_allclose(kernels.warp_extent([2 * half] * 2, m, at=at), np.hypot(*step), rtol=1e-4)
    with pytest.raises(SchemaError, match="give `at`"):
        kernels.warp_area(1.0, m)


def test_extents_of_exact_maps() -> None:
    """Quarter turns exchange the sides, scaling scales them, and a square keeps its size under any turn."""
    np.testing.assert_allclose(kernels.warp_extent([10, 20], kernels.rotate90((5, 5), 1)), [20, 10])
    np.testing.assert_allclose(kernels.warp_extent([10, 20], kernels.scale(2, 3)), [20, 60])
    np.testing.assert_allclose(kernels.warp_extent([10, 10], kernels.rotate(33)), [10, 10])


@pytest.mark.parametrize("name", SKELETONS)
def test_swap_on_every_skeleton(name: str) -> None:
    """Each column gets its twin's value, by name; twice is nothing."""
    skeleton = load(name)
    columns = np.arange(len(skeleton))[None]
    swapped = kernels.swap(columns, skeleton)
    twin = {a: b for pair in skeleton.flip_pairs or () for a, b in (pair, pair[::-1])}
    names = skeleton.keypoint_names
    assert [names[c] for c in swapped[0]] == [twin.get(n, n) for n in names]
    np.testing.assert_array_equal(kernels.swap(swapped, skeleton), columns)


def test_there_are_sixteen_skeletons() -> None:
    """The test above ran on all of them."""
    assert len(SKELETONS) == 16


def test_unknown_twins_refuse_and_no_twins_do_not() -> None:
    """ "Not known" is not "none"."""
    with pytest.raises(SkeletonError, match="twins are not known"):
        kernels.swap(np.zeros((1, 2)), Skeleton("mystery", ("a", "b")))
    assert kernels.swap(np.array([[1, 2]]), Skeleton("one_sided", ("a", "b"), flip_pairs=frozenset())).tolist() == [
        [1, 2]
    ]


def test_absent_outside_is_exact_at_the_edge() -> None:
    """A keypoint on the last pixel is in, half a pixel further out; NaN and occluded ones stay as they are."""
    xy = np.array([[[-0.5, 0], [-0.51, 0], [9.49, 0], [9.5, 0], [np.nan, np.nan], [0, 7.5]]])
    seen = np.array([[2, 2, 1, 2, 0, 3]], np.int8)
    assert kernels.absent_outside(xy, seen, (10, 8)).tolist() == [[2, 0, 1, 0, 0, 0]]


@given(affine_maps(), st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(0, 9))
def test_masks_take_the_nearest_pixel(m: np.ndarray, size: tuple[int, int], seed: int) -> None:
    """Against a loop over target pixels."""
    masks = np.random.default_rng(seed).random((2, 9, 11)) < 0.5
    back = np.linalg.inv(m)
    expected = np.zeros((2, size[1], size[0]), bool)
    for y in range(size[1]):
        for x in range(size[0]):
            column, row = (np.floor(v + 0.5) for v in (back @ [x, y, 1])[:2])
            if 0 <= column < 11 and 0 <= row < 9:
                expected[:, y, x] = masks[:, int(row), int(column)]
    differ = kernels.warp_masks(masks, m, size) != expected
    assert differ.mean() <= 0.02  # a place half-way between two pixels may round either way


@pytest.mark.parametrize("counts", ["text", "bytes", "list"])
def test_run_lengths_are_decoded_warped_and_encoded(counts: str) -> None:
    """A flipped mask, as pycocotools encodes it; the kind of counts stays."""
    mask = np.random.default_rng(0).random((7, 9)) < 0.4
    coded = coco.encode(np.asfortranarray(mask, np.uint8))
    rle = {"size": [7, 9], "counts": coded["counts"]}
    if counts == "text":
        rle["counts"] = coded["counts"].decode()
    if counts == "list":
        rle = kernels.encode_rle(mask, like={"counts": []})
        assert coco.frPyObjects(dict(rle), 7, 9)["counts"] == coded["counts"]
    flipped = kernels.warp_rle(rle, kernels.flip_horizontal((9, 7)), (9, 7))
    assert type(flipped["counts"]) is type(rle["counts"])
    np.testing.assert_array_equal(kernels.decode_rle(flipped), mask[:, ::-1])


@pytest.mark.parametrize("rle", [{"size": [2, 2], "counts": [1, 9]}, {"size": [2, 2]}, {"size": [2], "counts": []}])
def test_broken_run_lengths_are_refused(rle: dict[str, object]) -> None:
    """In words, not by a crash of the C code."""
    with pytest.raises(SchemaError, match=r"run-length mask of size .* cannot be decoded"):
        kernels.decode_rle(rle)


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=3))
def test_cut_polygons_cover_what_is_in_the_picture(corners: list[tuple[float, float]]) -> None:
    """Points of a triangle that lie in the picture lie in the cut polygon and no others, on a grid of places."""
    from matplotlib.path import Path as Outline

    triangle = np.array(corners)
    a, b, c = triangle
    if abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) < 1:
        return  # nearly flat
    cut = kernels.cut_polygons([triangle], (20, 15))
    places = np.stack(np.meshgrid(np.arange(-4.37, 25), np.arange(-4.37, 25)), axis=-1).reshape(-1, 2)
    inside = (places > 0).all(axis=1) & (places < (20, 15)).all(axis=1)

    def held(polygon: np.ndarray, slack: float) -> np.ndarray:
        closed = Outline(np.concatenate([polygon, polygon[:1]]))
        grown, shrunk = (closed.contains_points(places, radius=r) for r in (slack, -slack))
        return grown & shrunk

    found = held(cut[0], 1e-6) if cut else np.zeros(len(places), bool)
    near_edge = held(triangle, 1e-6) != Outline(np.concatenate([triangle, triangle[:1]])).contains_points(places)
    np.testing.assert_array_equal(found[~near_edge], (held(triangle, 1e-6) & inside)[~near_edge])


@pytest.mark.parametrize(
    "box, ratio, expected",
    [((10, 20, 30, 80), 0.75, (60, 80)), ((0, 0, 90, 40), 0.75, (90, 120)), ((0, 0, 3, 4), 0.75, (3, 4))],
)
def test_aspect_grows_the_short_side(box: tuple[float, ...], ratio: float, expected: tuple[float, float]) -> None:
    """Numbers by hand: width above ratio * height grows the height, below it the width; then times 1.25."""
    center, sides = kernels.box_to_center_scale(np.array(box, float), ratio)
    np.testing.assert_allclose(sides, np.array(expected) * 1.25)
    np.testing.assert_allclose(center, (box[0] + box[2] / 2, box[1] + box[3] / 2))


def test_clean_boxes_lose_a_pixel() -> None:
    """As the official COCO loader: x2 = min(W - 1, x1 + max(0, w - 1))."""
    boxes = np.array([[10, 20, 30, 40], [-5, 470, 700, 30], [700, 0, 10, 10]], float)
    expected = [[10, 20, 29, 39], [0, 470, 639, 9], [700, 0, -61, 9]]
    np.testing.assert_array_equal(kernels.clean_boxes(boxes, (640, 480)), expected)


def test_mpii_crop() -> None:
    """Official: y + 15 * scale, scale * 1.25, in units of 200 px."""
    center, sides = kernels.mpii_crop([[100.0, 50]], [2.0])
    assert center.tolist() == [[100, 80]]
    assert sides.tolist() == [[500, 500]]


@pytest.mark.parametrize("crop", [(0.0, 10.0), (np.nan, 10.0), (10.0, -1.0)])
def test_degenerate_crops_are_refused(crop: tuple[float, float]) -> None:
    """There is no map from a crop without extent."""
    with pytest.raises(SchemaError, match="expected finite numbers and an extent above 0"):
        kernels.crop_matrix((5, 5), crop, 0, (192, 256))


@pytest.mark.parametrize("matrix", [np.eye(2), np.zeros((3, 3)), np.diag([1, np.nan, 1]), np.diag([1.0, 0, 1])])
def test_maps_without_inverse_are_refused(matrix: np.ndarray) -> None:
    """Singular, of another shape, or not finite."""
    with pytest.raises(SchemaError, match="matrix"):
        kernels.invert(matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([5e-324, 1, 1]), np.diag([1e-160, 1e-160, 1e200]), np.diag([1e-200, 1e-200, 1]),  # beyond float64
        [[1, 2, 0], [2, 4, 1], [1e-3, 0, 1]],  # the pixel (0, 0) comes from infinity
        [[1, 0, 5], [0, 1e-300, 7], [0, 0, 1e200]],
    ],
)  # fmt: skip
def test_ways_back_that_floats_cannot_hold_are_refused(matrix: object) -> None:
    """Where a product underflows, in the determinant or after the division by the last number, it is a sentence: no
    ZeroDivisionError, no infinity, no NaN."""
    with pytest.raises(SchemaError, match="has no inverse"):
        kernels.invert(matrix)


@given(affine_maps(), st.integers(-500, 400), st.integers(-300, 300))
def test_the_inverse_does_not_depend_on_units(m: np.ndarray, shift: int, depth: int) -> None:
    """Of very small and large maps too, whose determinant alone no float holds: powers of 2 come out exactly."""
    known = np.linalg.inv(m)
    small = m.copy()
    small[:2] *= 2.0**shift
    try:
        found = kernels.invert(small * 2.0**depth)
    except SchemaError:
        assert shift < -150 or abs(depth) > 50  # refused before, where the whole determinant underflows
        return
    np.testing.assert_allclose(found[:2, :2] * 2.0**shift, known[:2, :2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[:2, 2], known[:2, 2], rtol=1e-9, atol=1e-9)
