"""Transforms move the picture and everything that belongs to it together, or refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from kpdata.augment import kernels, maps
from kpdata.augment import transforms as t
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, load

SKELETONS = sorted(file.stem for file in (Path(kernels.__file__).parents[1] / "skeletons").glob("*.toml"))
COCO = load("coco_17")


def _blobs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blobs", Path(__file__).with_name("blobs.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blobs = _blobs()


def person(
    skeleton: Skeleton = COCO, size: tuple[int, int] = (64, 48), people: int = 2, seed: int = 0, **more: Any
) -> Sample:
    """People with random keypoints in and around a random picture, absent ones among them, with all columns."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-0.2, 1.2, (people, len(skeleton), 2)) * size
    seen = rng.integers(0, 4, (people, len(skeleton))).astype(np.int8)
    xy[(seen == 0) & (rng.random(seen.shape) < 0.5)] = np.nan
    box = np.concatenate([rng.uniform(0, 20, (people, 2)), rng.uniform(5, 25, (people, 2))], axis=1)
    values: dict[str, Any] = {
        "bbox": box, "area": box[:, 2] * box[:, 3] * 0.6, "center": box[:, :2] + box[:, 2:] / 2,
        "scale": box[:, 2:] * 1.25, "annotation_ids": np.arange(people), "image_id": 7, **more,
    }  # fmt: skip
    image = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Sample(image, xy, seen, skeleton, **values)


def same(a: Sample, b: Sample, atol: float = 1e-9) -> None:
    """Every field equal; numbers within atol, NaN equal to NaN."""
    for name in ("keypoints", "bbox", "area", "center", "scale", "matrix"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=atol, err_msg=name)
    for name in ("image", "visibility", "annotation_ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    if a.masks is not None or b.masks is not None:
        np.testing.assert_array_equal(a.masks, b.masks)
    for own, other in zip(a.polygons or (), b.polygons or (), strict=True):
        for p, q in zip(own, other, strict=True):
            np.testing.assert_allclose(p, q, atol=atol)
    assert (a.mirrored, a.size, a.image_id) == (b.mirrored, b.size, b.image_id)


# ---------------------------------------------------------------------------------------------- does the picture follow


affine_options = st.fixed_dictionaries(
    {
        "rotation": st.floats(-180, 180),
        "scale": st.floats(0.55, 1.2),
        "translate": st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
        "shear": st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    }
)


@settings(max_examples=80, derandomize=True)
@given(affine_options)
def test_affine_blobs(options: dict[str, Any]) -> None:
    """A dot drawn at a keypoint in a black picture is under it after any affine map: to 0.02 px, 0.03 where rows stay.

    Whole rows get alike weights then, and neither rounding to 8 bits averages out (test_places.py looks at places
    alone), nor what bilinear weights do to a blob, which is up to 0.02 px in exact arithmetic.
    """
    transform = t.Affine(**options, size=(150, 150))
    error = blobs.blob_error(transform, sigma=4.0)
    assume(not np.isnan(error))
    linear = np.abs(transform.matrix(blobs.blob_sample(), None)[:2, :2])
    assert error <= (0.02 if linear.min() > 0.05 else 0.03)


MIRRORS: list[Any] = [t.HorizontalFlip(1.0), t.VerticalFlip(1.0), t.Transpose(1.0)]
SINGLE: list[Any] = [*MIRRORS, t.Rotate90((1,)), t.Rotate90((2,)), t.D4()]


@pytest.mark.parametrize("transform", SINGLE, ids=repr)
def test_flip_blobs(transform: Any) -> None:
    """Flips and quarter turns move nothing beside its pixel: 1e-9 px."""
    for seed in range(4):
        assert len(blobs.blob_errors(transform, seed=seed)) == 5
        assert blobs.blob_error(transform, seed=seed) <= 1e-9


chain = st.lists(
    st.one_of(
        st.sampled_from(SINGLE),
        st.builds(t.Affine, st.floats(-60, 60), st.floats(0.8, 1.1)),
        st.builds(t.RandomAffine, rotation=st.floats(0, 30), scale=st.floats(0, 0.15), translate=st.floats(0, 0.05)),
        st.builds(t.RandomCropAroundPeople),
        st.sampled_from([t.Letterbox((140, 150)), t.Letterbox((130, 130)), t.Maybe(t.HorizontalFlip(1.0))]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, derandomize=True)
@given(chain, st.integers(0, 9))
def test_chains_of_maps_are_one_warp(members: list[Any], seed: int) -> None:
    """A chain, fused, keeps the dot under its keypoint, as exactly as one map alone does."""
    fused, start = t.Geometry(members), blobs.blob_sample((160, 130), seed)
    error = blobs.blob_error(fused, size=(160, 130), seed=seed, sigma=5.0)  # it survives a chain that shrinks
    assume(not np.isnan(error))
    linear = np.abs(fused.matrix(start, fused.draw(start, np.random.default_rng(seed)))[:2, :2])
    assert error <= (0.02 if linear.min() > 0.05 else 0.03)
    places = blobs.place_errors(fused, size=(160, 130), seed=seed, sigma=5.0)
    assert not len(places) or places.max() <= 0.02


@pytest.mark.parametrize("factor", [0.9, 0.6, 0.49, 0.4, 0.3, 0.2])
def test_shrinking_blobs(factor: float) -> None:
    """The averaging before a strong shrink moves nothing: blobs large enough to survive it stay within 0.02 px."""
    assert blobs.blob_error(t.Affine(7.0, factor), size=(400, 300), sigma=3 / factor) <= 0.02


@pytest.mark.parametrize("size", [(80, 60), (50, 40), (77, 60), (160, 90), (41, 120)])
def test_resize_blobs(size: tuple[int, int]) -> None:
    """Resizing and letterboxing keep the half pixel that others lose (0.25 to 0.5 px).

    0.02 px; in a black picture of 8 bits 0.03 px, where rounding does not average out.
    """
    large = (3 * size[0], 3 * size[1])
    for kind in (t.Resize, t.Letterbox):
        assert blobs.blob_error(kind(size), sigma=6) <= 0.03
        errors = blobs.place_errors(kind(large), size=(480, 360), sigma=12)
        assert len(errors) == 5 and errors.max() <= 0.02


def test_perspective_blobs() -> None:
    """A blob's centroid is not its projected centre, but nearly, for a small blob."""
    errors = np.concatenate([blobs.blob_errors(t.Perspective(0.2), seed=seed, sigma=2) for seed in range(8)])
    assert len(errors) >= 8
    assert errors.max() <= 0.15


def test_the_blob_test_sees_half_a_pixel() -> None:
    """A keypoint that is half a pixel off is caught: the test above can fail."""

    class Wrong(t.Resize):
        def matrix(self, sample: Sample, drawn: Any) -> Any:
            return kernels.scale(self.size[0] / sample.size[0], self.size[1] / sample.size[1])

        def apply(self, sample: Sample, drawn: Any) -> Sample:
            right = t.Resize(self.size).apply(sample, None)
            return right.changed(keypoints=kernels.warp_keypoints(sample.keypoints, self.matrix(sample, drawn)))

    assert blobs.blob_error(Wrong((320, 240))) > 0.4


# ------------------------------------------------------------------------------------------------- mirrors and columns


@pytest.mark.parametrize("name", SKELETONS)
@pytest.mark.parametrize("flip", MIRRORS, ids=repr)
def test_mirror_twice_is_nothing(name: str, flip: Any) -> None:
    """Every field comes back, with masks and polygons, on each of the 16 skeletons."""
    masks = np.random.default_rng(0).random((2, 48, 64)) < 0.3
    polygons = ((np.array([[1.0, 2], [30, 5], [9, 40]]),), ())
    start = person(load(name), masks=masks, polygons=polygons)
    once = flip(start, generator(0))
    assert once.mirrored
    same(flip(once, generator(0)), start)


@pytest.mark.parametrize("name", SKELETONS)
@pytest.mark.parametrize("mirror", [*MIRRORS, t.Affine(20.0)], ids=repr)
def test_left_and_right_change_places_in_a_mirror_only(name: str, mirror: Any) -> None:
    """The left wrist of the mirrored person is where the right one's pixels went, with its visibility; by name."""
    skeleton = load(name)
    start = person(skeleton)
    after = mirror(start, generator(0))
    moved = kernels.warp_keypoints(start.keypoints, mirror.matrix(start, mirror.draw(start, generator(0))))
    twin = {a: b for pair in skeleton.flip_pairs or () for a, b in (pair, pair[::-1])}
    names = skeleton.keypoint_names
    for column, keypoint in enumerate(names):
        origin = names.index(twin.get(keypoint, keypoint)) if after.mirrored else column
        np.testing.assert_allclose(after.keypoints[:, column], moved[:, origin])
        np.testing.assert_array_equal(after.visibility[:, column], start.visibility[:, origin])
    assert after.mirrored == (not isinstance(mirror, t.Affine))


def test_flip_by_hand() -> None:
    """W - 1 - x for keypoints and the crop's centre, W - x - w for boxes, and pixels as NumPy mirrors them."""
    start = person()
    after = t.HorizontalFlip(1.0)(start, generator(0))
    order = COCO.flip_index()
    np.testing.assert_allclose(after.keypoints[..., 0], 63 - start.keypoints[:, order, 0])
    np.testing.assert_allclose(after.bbox[:, 0], 64 - start.bbox[:, 0] - start.bbox[:, 2])
    np.testing.assert_allclose(after.center[:, 0], 63 - start.center[:, 0])
    np.testing.assert_array_equal(after.scale, start.scale)
    np.testing.assert_allclose(after.area, start.area)
    np.testing.assert_array_equal(after.image, start.image[:, ::-1])


@pytest.mark.parametrize("flip", [t.HorizontalFlip(0.01), t.VerticalFlip(0.01), t.Transpose(0.01), t.D4()], ids=repr)
def test_unknown_twins_refuse_at_the_first_sample(flip: Any) -> None:
    """Not only when the dice fall so: a run does not stop after an hour."""
    with pytest.raises(SkeletonError, match="twins are not known: no flipping"):
        flip(person(Skeleton("mystery", ("a", "b"))), generator(0))
    assert not t.Rotate90()(person(Skeleton("mystery", ("a", "b"))), generator(0)).mirrored
    with pytest.raises(SkeletonError, match="twins are not known"):
        maps.move(person(Skeleton("mystery", ("a", "b"))), kernels.transpose(), (48, 64))


def test_declared_none_mirrors_without_swapping() -> None:
    """ "No twins" is an answer: the columns stay."""
    start = person(Skeleton("tail", ("root", "tip"), flip_pairs=frozenset()))
    after = t.HorizontalFlip(1.0)(start, generator(0))
    np.testing.assert_allclose(after.keypoints[..., 0], 63 - start.keypoints[..., 0])
    np.testing.assert_array_equal(after.visibility, start.visibility)


# --------------------------------------------------------------------------------------------------- all targets, fused


@settings(max_examples=40)
@given(chain, st.integers(0, 99))
def test_fused_equals_one_after_the_other(members: list[Any], seed: int) -> None:
    """Geometry draws and moves as its members do in turn, in everything but the pixels and the boxes' growth."""
    start, fused = person(seed=seed), t.Geometry(members)
    after = fused(start, generator(seed))
    state, rng = start, generator(seed)
    for member in members:
        state = member(state, rng)
    np.testing.assert_allclose(after.keypoints, state.keypoints, atol=1e-6)
    np.testing.assert_array_equal(after.visibility, state.visibility)
    np.testing.assert_allclose(after.matrix, state.matrix, atol=1e-6)
    np.testing.assert_allclose(after.area, state.area, rtol=1e-6)
    np.testing.assert_allclose(after.center, state.center, atol=1e-6)
    assert (after.size, after.mirrored) == (state.size, state.mirrored)


def test_the_picture_is_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five maps, one call of OpenCV; Compose fuses neighbours by itself, around what is not a map."""
    calls = []
    real = cv2.warpAffine
    monkeypatch.setattr(cv2, "warpAffine", lambda *a, **k: calls.append(a) or real(*a, **k))
    five: list[Any] = [
        t.HorizontalFlip(1.0), t.RandomAffine(30, 0.2), t.OneOf([t.Affine(3.0), t.Affine(4.0)]), t.Maybe(t.D4(), 1.0),
        t.Letterbox((50, 50)),
    ]  # fmt: skip
    t.Geometry(five)(person(), generator(0))
    assert len(calls) == 1
    t.Compose([*five, t.ColorJitter(), t.Affine(3.0)])(person(), generator(0))
    assert len(calls) == 3
    steps = t.Compose([*five, t.ColorJitter(), t.Affine(3.0)]).steps
    assert [type(step).__name__ for step in steps] == ["Geometry", "ColorJitter", "Affine"]


def test_absent_points_stay_absent() -> None:
    """NaN stays NaN, and a coordinate under visibility 0 moves as data; nothing becomes visible."""
    start = person()
    assert np.isnan(start.keypoints).any()
    after = t.Geometry([t.HorizontalFlip(1.0), t.Affine(20.0, 0.8), t.Resize((30, 40))])(start, generator(0))
    order = COCO.flip_index()
    np.testing.assert_array_equal(np.isnan(after.keypoints), np.isnan(start.keypoints[:, order]))
    np.testing.assert_array_equal(after.visibility, start.visibility[:, order])


def test_points_that_leave_keep_coordinates_and_visibility() -> None:
    """The codec weighs them; losing them is a step of its own for written data."""
    start = person()
    after = t.Affine(translate=(1000.0, 0))(start, generator(0))
    np.testing.assert_array_equal(after.visibility, start.visibility)
    np.testing.assert_allclose(after.keypoints[..., 0], start.keypoints[..., 0] + 1000)
    assert not kernels.absent_outside(after.keypoints, after.visibility, after.size)[
        ~np.isnan(after.keypoints[..., 0])
    ].any()


def test_a_cropped_mask_gives_its_own_area() -> None:
    """Half of the mask left: half of the area; a person without a mask follows the determinant."""
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 10:20, 30:40] = True
    masks[2, :, 60:] = True
    start = person(people=3, masks=masks, area=np.array([100.0, 70, 190]))
    after = maps.move(start, kernels.translate(-35, 0), (20, 48))
    np.testing.assert_allclose(after.area, [50, 70, 0])
    twice = maps.move(start, kernels.resize((64, 48), (128, 96)), (128, 96))
    np.testing.assert_allclose(twice.area, [400, 280, 760])


def test_the_matrix_leads_back_to_the_file() -> None:
    """After any chain, the inverse of `matrix` takes every keypoint to where it was in the picture as read."""
    start = person()
    after = t.Compose(
        [t.D4(), t.RandomAffine(40, 0.3, 0.1, 10), t.Perspective(0.3), t.ColorJitter(), t.Resize((33, 77))]
    )(start, generator(5))
    back = kernels.warp_keypoints(after.keypoints, kernels.invert(after.matrix))
    order = COCO.flip_index() if after.mirrored else np.arange(17)
    np.testing.assert_allclose(back, start.keypoints[:, order], atol=1e-6)


@pytest.mark.parametrize("people", [0, 1])
def test_nobody_is_fine(people: int) -> None:
    """A picture without people goes through everything; so does a person of whom nothing is known."""
    start = person(people=people)
    blank = np.full((people, 17, 2), np.nan)
    start = start.changed(
        keypoints=blank, visibility=np.zeros((people, 17), np.int8), bbox=None, area=None, center=None, scale=None
    )
    members = [
        t.D4(), t.RandomAffine(30, 0.2, 0.1, 5), t.Perspective(), t.RandomCropAroundPeople("one"), t.BoxJitter(),
        t.Letterbox((40, 40)), t.ColorJitter(hue=10), t.OneOf([t.HorizontalFlip(), t.VerticalFlip()]),
    ]  # fmt: skip
    after = t.Compose(members)(start, generator(1))
    assert after.size == (40, 40)
    assert np.isnan(after.keypoints).all()
    assert not after.visibility.any()


def test_the_same_sample_in_any_worker() -> None:
    """Equal seed, epoch and index give an equal sample, another index another one; what was drawn can be used again."""
    transform = t.Compose([t.HorizontalFlip(), t.RandomAffine(40, 0.3), t.ColorJitter(), t.BoxJitter()])
    start = person()
    same(transform(start, generator(1, 2, 3)), transform(start, generator(1, 2, 3)), atol=0)
    assert not np.array_equal(transform(start, generator(1, 2, 3)).image, transform(start, generator(1, 2, 4)).image)
    drawn = transform.draw(start, generator(9))
    same(transform.apply(start, drawn), transform.apply(start, drawn), atol=0)


# ------------------------------------------------------------------------------------------------------- distributions


def test_random_affine_as_the_recipe() -> None:
    """HRNet: rotation with p 0.6 from a normal of 45 clipped at 90; scale 1 + normal of 0.35, clipped there."""
    transform, start = t.RandomAffine(45, 0.35, rotation_p=0.6), person()
    drawn = [transform.draw(start, generator(0, 0, i)) for i in range(6000)]
    turn, factor = np.array([d.rotation for d in drawn]), np.array([d.scale for d in drawn])
    assert (turn != 0).mean() == pytest.approx(0.6, abs=0.02)
    assert np.abs(turn).max() == 90
    assert (np.abs(turn) == 90).mean() == pytest.approx(0.6 * 2 * stats.norm.sf(2), abs=0.006)
    inner = turn[(turn != 0) & (np.abs(turn) < 90)]
    assert stats.kstest(inner / 45, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    assert (factor == 1.35).mean() == pytest.approx(stats.norm.sf(1), abs=0.015)
    assert factor.min() == pytest.approx(0.65)


def test_choices_have_their_weights() -> None:
    """OneOf and Maybe, and each turn and symmetry, come as often as they should."""
    start = person()
    one, maybe = t.OneOf([t.Affine(1.0), t.Affine(2.0), t.Affine(3.0)], (1, 0, 3)), t.Maybe(t.Affine(), 0.25)
    drawn = [one.draw(start, generator(0, 0, i))[0] for i in range(3000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 3000, [0.25, 0, 0.75], atol=0.03)
    assert np.mean([len(maybe.draw(start, generator(0, 1, i))) for i in range(3000)]) == pytest.approx(0.25, abs=0.03)
    turns = np.bincount([t.D4().draw(start, generator(0, 2, i)) for i in range(3000)], minlength=8)
    assert stats.chisquare(turns).pvalue > 0.01


@given(st.integers(0, 99), st.sampled_from(["all", "one"]))
def test_crops_hold_people_whole(seed: int, people: str) -> None:
    """`all`: every box that lies in the picture lies in the crop; `one`: at least one does; pixels are copied."""
    start = person(seed=seed, people=3)
    cut = t.RandomCropAroundPeople(people)  # type: ignore[arg-type]
    x, y, width, height = drawn = cut.draw(start, generator(seed))
    assert 0 <= x < x + width <= 64
    assert 0 <= y < y + height <= 48
    low, high = np.maximum(start.bbox[:, :2], 0), np.minimum(start.bbox[:, :2] + start.bbox[:, 2:], (64, 48))
    whole = ((low >= (x, y)) & (high <= (x + width, y + height))).all(axis=1)
    assert whole.all() if people == "all" else whole.any()
    np.testing.assert_array_equal(cut.apply(start, drawn).image, start.image[y : y + height, x : x + width])


def test_crops_vary_from_tight_to_the_whole_picture() -> None:
    """The cut reaches every place between the box and the picture's edge."""
    start = person(people=1, bbox=np.array([[20.0, 15, 20, 10]]))
    drawn = np.array([t.RandomCropAroundPeople().draw(start, generator(0, 0, i)) for i in range(2000)])
    left, right = drawn[:, 0], drawn[:, 0] + drawn[:, 2]
    assert (left.min(), left.max(), right.min(), right.max()) == (0, 19, 41, 64)
    assert left.mean() == pytest.approx(9.5, abs=0.5)


def test_crops_without_boxes_hold_the_labelled_points() -> None:
    """Also the pixel of the last keypoint; absent points do not count."""
    xy = np.full((1, 17, 2), np.nan)
    xy[0, :3] = [[10, 10], [30, 20], [60, 40]]
    seen = np.zeros((1, 17), np.int8)
    seen[0, :2] = 2
    start = person(people=1, bbox=None).changed(keypoints=xy, visibility=seen)
    np.testing.assert_array_equal(t.people_boxes(start), [[10, 10, 21, 11]])


def test_box_jitter() -> None:
    """Centres move by up to 0.1 of the sides, sides change by up to 0.2; picture, keypoints and areas stay."""
    start = person(people=2)
    after = t.BoxJitter(shift=0.1, scale=0.2)(start, generator(0))
    same(after.changed(bbox=start.bbox, center=start.center, scale=start.scale), start)
    drawn = np.array([t.BoxJitter(0.1, 0.2).draw(start, generator(0, 0, i)) for i in range(1000)]).reshape(-1, 4)
    assert stats.kstest(drawn[:, 0], stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01
    assert stats.kstest(drawn[:, 3], stats.uniform(0.8, 0.4).cdf).pvalue > 0.01
    moved = after.bbox[:, :2] + after.bbox[:, 2:] / 2 - start.bbox[:, :2] - start.bbox[:, 2:] / 2
    assert (np.abs(moved) <= 0.1 * start.bbox[:, 2:] + 1e-9).all()
    np.testing.assert_array_equal(t.BoxJitter(p=0.0)(start, generator(0)).bbox, start.bbox)


# -------------------------------------------------------------------------------------------------------------- borders


def test_one_border_in_one_map() -> None:
    """Members that want different ones are refused; Geometry's own decides."""
    members: list[Any] = [t.Affine(3.0, border=(1, 2, 3)), t.Maybe(t.Letterbox((90, 90), border="replicate"))]
    with pytest.raises(SchemaError, match=r"borders .* in one map, expected one"):
        t.Compose(members)
    fused = t.Geometry(members, border=(9, 9, 9))
    assert fused.border == (9, 9, 9)
    assert t.Geometry([t.HorizontalFlip(), members[0]]).border == (1, 2, 3)
    after = t.Letterbox((90, 48), border=(7, 8, 9))(person(), generator(0))
    assert after.image[0, 0].tolist() == [7, 8, 9]
    assert t.Letterbox((90, 48))(person(), generator(0)).image[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: t.HorizontalFlip(1.5), "HorizontalFlip: p 1.5, expected a probability"),
        (lambda: t.Rotate90((4,)), "Rotate90: turns"),
        (lambda: t.Affine(scale=0.0), "a scale above 0"),
        (lambda: t.Affine(shear=(45.0, 45.0)), "flattens the picture to a line"),
        (lambda: t.Affine(size=(10.0, 5)), "Affine: size"),  # type: ignore[arg-type]
        (lambda: t.Affine(border="mirror"), "Affine: border 'mirror', expected a colour"),  # type: ignore[arg-type]
        (lambda: t.RandomAffine(rotation=-3), "RandomAffine: rotation -3, expected 0 or more"),
        (lambda: t.RandomAffine(scale=1.0), "expected below 1"),
        (lambda: t.RandomAffine(distribution="gauss"), "distribution 'gauss', expected one of"),  # type: ignore[arg-type]
        (lambda: t.Perspective(1.0), "distortion 1.0"),
        (lambda: t.Resize((0, 5)), "Resize: size"),
        (lambda: t.RandomCropAroundPeople("some"), "people 'some'"),  # type: ignore[arg-type]
        (lambda: t.BoxJitter(scale=1.0), "BoxJitter: scale 1.0"),
        (lambda: t.Maybe(t.D4(), -1), "Maybe: p -1"),
        (lambda: t.OneOf([]), "OneOf: 0 transforms"),
        (lambda: t.OneOf([t.D4()], (1, 2)), "OneOf: 1 transforms, weights"),
        (lambda: t.Geometry([t.ColorJitter()]), "ColorJitter is not a map of the plane"),  # type: ignore[list-item]
        (lambda: t.Geometry([t.Maybe(t.BoxJitter())]), "Maybe is not a map of the plane"),
        (lambda: t.ColorJitter(brightness=2.0), "expected amounts up to 1"),
    ],
)
def test_bad_options_are_refused_when_made(make: Any, words: str) -> None:
    """In words that name the transform."""
    with pytest.raises(SchemaError, match=words):
        make()


def test_colour_jitter_touches_the_picture_only() -> None:
    """Within its amounts: the drawn factors are even in 1 ± amount."""
    start = person()
    after = t.ColorJitter(0.3, 0.2, 0.1, 20)(start, generator(0))
    assert not np.array_equal(after.image, start.image)
    same(after.changed(image=start.image), start, atol=0)
    drawn = np.array([t.ColorJitter(0.3, 0.2, 0.1, 20).draw(start, generator(0, 0, i)) for i in range(1500)])
    for column, (low, high) in enumerate([(0.7, 1.3), (0.8, 1.2), (0.9, 1.1), (-20, 20)]):
        assert stats.kstest(drawn[:, column], stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_members_that_are_no_transforms() -> None:
    """Refused when the chain is made."""
    for make in (lambda: t.Compose([3]), lambda: t.OneOf([len]), lambda: t.Maybe(None)):  # type: ignore[list-item,arg-type]
        with pytest.raises(SchemaError, match="is no transform: it needs draw"):
            make()


def test_a_box_without_extent_is_no_box() -> None:
    """A crop around people then goes by their keypoints."""
    start = person()
    for box in ([50.0, 40, 0, 0], [50.0, 40, -9, -9]):
        boxes = t.people_boxes(start.changed(bbox=np.tile(np.array(box), (len(start.keypoints), 1))))
        labelled = np.where((start.visibility > 0)[..., None], start.keypoints, np.nan)
        np.testing.assert_allclose(boxes[:, :2], np.nanmin(labelled, axis=1))
