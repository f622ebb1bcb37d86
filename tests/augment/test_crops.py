"""Top-down crops against the official recipe, and the way back."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from kpdata.augment import crops, kernels
from kpdata.augment.crops import Crop, HalfBody, TopDown
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import Compose, HorizontalFlip
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, load

COCO, MPII = load("coco_17"), load("mpii_16")
OFFICIAL_UPPER = {"coco_17": set(range(11)), "mpii_16": set(range(7, 16))}  # upper_body_ids of coco.py and mpii.py


def _blobs() -> Any:
    spec = importlib.util.spec_from_file_location("blobs", Path(__file__).with_name("blobs.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blobs = _blobs()


def fits(sample: Any, distribution: Any) -> bool:
    """Kolmogorov and Smirnov's test does not refuse the distribution."""
    return bool(stats.kstest(sample, distribution.cdf, method="asymp").pvalue > 0.01)


def person(skeleton: Skeleton = COCO, visible: int | None = None, seed: int = 0, **more: Any) -> Sample:
    """One person in a random picture of 320 x 240; `visible`: how many keypoints are labelled, the first ones."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((100, 60), (220, 200), (1, len(skeleton), 2))
    seen = rng.integers(1, 4, (1, len(skeleton))).astype(np.int8)
    seen[:, len(skeleton) if visible is None else visible :] = 0
    image = rng.integers(0, 255, (240, 320, 3), np.uint8)
    values: dict[str, Any] = {"bbox": [[100.0, 60, 120, 140]], "area": [9000.0], "annotation_ids": [42], "image_id": 7}
    return Sample(image, xy, seen, skeleton, **{**values, **more})


# ------------------------------------------------------------------------------------- the official code, written out


def official_half_body(
    joints: np.ndarray, labelled: np.ndarray, upper_ids: set[int], ratio: float, normal: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """The rules of half_body_transform as a loop, its one normal number given; scale in px."""
    upper = [joints[k] for k in range(len(joints)) if labelled[k] and k in upper_ids]
    lower = [joints[k] for k in range(len(joints)) if labelled[k] and k not in upper_ids]
    chosen = upper if normal < 0.5 and len(upper) > 2 else lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    points = np.array(chosen)
    (w, h), center = points.max(axis=0) - points.min(axis=0), points.mean(axis=0)
    if w > ratio * h:
        h = w / ratio
    elif w < ratio * h:
        w = h * ratio
    return center, np.array([w, h]) * 1.5


def official_matrix(center: np.ndarray, scale: np.ndarray, rotation: float, size: tuple[int, int]) -> np.ndarray:
    """Three points and cv2.getAffineTransform, as get_affine_transform does it."""
    angle = math.radians(rotation)
    up = np.array([0, -scale[0] / 2])
    turned = np.array(
        [up[0] * math.cos(angle) - up[1] * math.sin(angle), up[0] * math.sin(angle) + up[1] * math.cos(angle)]
    )

    def third(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return b + np.array([-(a - b)[1], (a - b)[0]])

    middle, top = np.array([size[0] / 2, size[1] / 2]), np.array([size[0] / 2, size[1] / 2 - size[0] / 2])
    source = np.stack([center, center + turned, third(center, center + turned)]).astype(np.float32)
    target = np.stack([middle, top, third(middle, top)]).astype(np.float32)
    return cv2.getAffineTransform(source, target)


# --------------------------------------------------------------------------------------------------------- top-down


@settings(max_examples=60)
@given(st.floats(-80, 80), st.floats(0.6, 1.4), st.booleans(), st.floats(100, 200), st.floats(80, 160))
def test_the_crop_is_the_official_one(turn: float, factor: float, flip: bool, x: float, y: float) -> None:
    """Flip picture, joints and centre, then the affine map: keypoints as the official order gives them."""
    start = person()
    drawn = Crop((x, y), (90 * factor, 120 * factor), turn, flip, factor)
    after = TopDown((96, 128)).apply(start, drawn)
    joints, center = start.keypoints[0].copy(), np.array([x, y])
    if flip:
        joints[:, 0] = 320 - joints[:, 0] - 1
        joints = joints[COCO.flip_index()]
        center[0] = 320 - center[0] - 1
    m = official_matrix(center, np.array(drawn.scale), turn, (96, 128))
    np.testing.assert_allclose(after.keypoints[0], joints @ m[:, :2].T + m[:, 2], atol=1e-3)
    assert after.mirrored == flip
    assert after.size == (96, 128)


def test_pixels_are_the_official_ones() -> None:
    """antialias=False gives cv2.warpAffine of the flipped picture, but for rounding."""
    start = person(bbox=[[90.0, 40, 150, 180]])
    image = np.ascontiguousarray(cv2.GaussianBlur(start.image, (0, 0), 3))
    start = start.changed(image=image)
    drawn = Crop((150.0, 120), (180.0, 240), 20.0, True)
    after = TopDown((96, 128), antialias=False).apply(start, drawn)
    m = official_matrix(np.array([320 - 150 - 1, 120.0]), np.array([180, 240]), 20, (96, 128))
    expected = cv2.warpAffine(np.ascontiguousarray(image[:, ::-1]), m, (96, 128), flags=cv2.INTER_LINEAR)
    assert np.abs(after.image.astype(int) - expected).max() <= 3


@settings(max_examples=60)
@given(
    st.sampled_from(["official", "udp"]), st.floats(0, 60), st.floats(0, 0.4), st.floats(0, 0.2), st.booleans(),
    st.sampled_from([(96, 128), (128, 128), (80, 96)]), st.integers(0, 99),
)  # fmt: skip
def test_crop_blobs(
    convention: Any, rotation: float, scale: float, shift: float, flip: bool, size: tuple[int, int], seed: int
) -> None:
    """A dot drawn at a keypoint is under it in the crop, in both conventions: to 0.02 px, 0.05 where nothing turns.

    Along an axis, the recipe's warp rounds whole columns alike to 1 / 32 px of the picture (test_places.py), and what
    bilinear weights and 8 bits do to a blob does not average out.
    """
    crop = TopDown(
        size, rotation=rotation, rotation_p=1, scale=scale, shift=shift, flip=float(flip), convention=convention
    )
    error = blobs.blob_error(crop, seed=seed, sigma=4.0)
    assume(not np.isnan(error))
    turned = abs(crop.draw(blobs.blob_sample(seed=seed), np.random.default_rng(seed)).rotation)
    assert error <= (0.02 if turned > 3 else 0.05)


@given(st.sampled_from(["official", "udp"]), st.integers(0, 99), st.sampled_from([COCO, MPII]))
def test_there_and_back(convention: Any, seed: int, skeleton: Skeleton) -> None:
    """Predictions of a crop land on the annotated keypoints of the picture, sides and all."""
    start = person(skeleton)
    crop = TopDown(
        rotation=60, rotation_p=1, scale=0.4, shift=0.2, flip=0.5, half_body=HalfBody(), convention=convention
    )
    after = crop(start, generator(seed))
    np.testing.assert_allclose(crops.to_image(after.keypoints, after), start.keypoints, atol=1e-6)
    stacked = np.stack([after.keypoints, after.keypoints])
    np.testing.assert_allclose(crops.to_image(stacked, after)[1], start.keypoints, atol=1e-6)
    if after.mirrored:
        with pytest.raises(SchemaError, match="give the Sample itself"):
            crops.to_image(after.keypoints, after.matrix)
    else:
        np.testing.assert_allclose(crops.to_image(after.keypoints, after.matrix), start.keypoints, atol=1e-6)


def test_two_mirrors_on_the_way_back() -> None:
    """Flipped before and in the crop: not mirrored, and nothing is swapped."""
    start = person()
    after = Compose([HorizontalFlip(1.0), TopDown(flip=1.0)])(start, generator(0))
    assert not after.mirrored
    np.testing.assert_allclose(crops.to_image(after.keypoints, after), start.keypoints, atol=1e-6)


def test_points_out_of_the_crop_stay() -> None:
    """Coordinates and visibility are kept: the codec weighs them."""
    start = person(bbox=[[100.0, 60, 20, 20]])
    after = TopDown((48, 64))(start, generator(0))
    assert kernels.outside(after.keypoints, after.size).any()
    np.testing.assert_array_equal(after.visibility, start.visibility)
    assert np.isfinite(after.keypoints).all()


def test_nothing_is_random_by_default() -> None:
    """The evaluation's crop: the box, its proportions fixed, times 1.25."""
    drawn = TopDown((192, 256)).draw(person(), generator(0))
    assert drawn == Crop((160.0, 130.0), (150.0, 200.0))
    assert drawn == TopDown((192, 256)).draw(person(), generator(1))
    assert TopDown().apply(person(), drawn).extras["top_down"] == drawn


def test_a_given_crop_comes_before_the_box() -> None:
    """MPII has centre and scale: used as they are, their proportions fixed, not padded again."""
    start = person(center=[[150.0, 110]], scale=[[100.0, 100]])
    assert TopDown((192, 256)).draw(start, generator(0)) == Crop((150.0, 110.0), (100.0, 400 / 3))
    assert TopDown((64, 64), padding=2.0).draw(start, generator(0)) == Crop((150.0, 110.0), (100.0, 100.0))


def test_clean_is_the_official_loader() -> None:
    """The box loses a pixel and what lies outside, before the proportions are fixed."""
    start = person(bbox=[[300.0, 60, 50, 100]])
    drawn = TopDown((192, 256), clean=True).draw(start, generator(0))
    np.testing.assert_allclose(drawn.center, (300 + 19 / 2, 60 + 99 / 2))
    np.testing.assert_allclose(drawn.scale, (0.75 * 99 * 1.25, 99 * 1.25))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [[10.0, 10, 0, 0]]}, r"annotation 42 of image 7: bbox \[10.0, 10.0, 0.0, 0.0\]"),
        ({"bbox": [[10.0, 10, -5, 9]]}, "annotation 42 of image 7"),
        ({"bbox": None}, "expected a box in the picture with an extent. leave these people out"),
    ],
)
def test_degenerate_boxes_are_named(change: dict[str, Any], words: str) -> None:
    """By annotation and image."""
    with pytest.raises(SchemaError, match=words):
        TopDown()(person(**change), generator(0))


def test_a_box_outside_the_picture_is_refused_when_cleaned() -> None:
    """The official loader drops those people."""
    with pytest.raises(SchemaError, match="expected a box in the picture"):
        TopDown(clean=True)(person(bbox=[[400.0, 10, 20, 20]]), generator(0))


def test_a_line_is_an_extent() -> None:
    """A box of width 0 grows to the proportions, as the official rule has it."""
    np.testing.assert_allclose(TopDown().draw(person(bbox=[[10.0, 10, 0, 40]]), generator(0)).scale, (37.5, 50))


@pytest.mark.parametrize("people", [0, 2])
def test_one_person_a_crop(people: int) -> None:
    """More or none are refused with what to do; `people` splits."""
    one = person()
    several = one.changed(
        **{
            name: np.repeat(getattr(one, name), people, axis=0)
            for name in ("keypoints", "visibility", "bbox", "area", "center", "scale", "annotation_ids")
        }
    )
    with pytest.raises(SchemaError, match=rf"a sample of {people} people, expected one. crops.people"):
        TopDown()(several, generator(0))
    assert [TopDown()(s, generator(0)).size for s in crops.people(several)] == [(192, 256)] * people


def test_unknown_twins_refuse_before_the_dice() -> None:
    """A crop that may flip refuses at the first sample; one that may not does not care."""
    start = person(Skeleton("mystery", tuple("abcdef")))
    with pytest.raises(SkeletonError, match="twins are not known"):
        TopDown(flip=1e-9)(start, generator(0))
    assert not TopDown()(start, generator(0)).mirrored


def test_the_recipes_distributions() -> None:
    """HRNet on COCO: rotation with p 0.6, N(0, 45) clipped at 90; scale 1 + N(0, 0.35) clipped there; flip 0.5."""
    crop, start = TopDown(rotation=45, scale=0.35, flip=0.5), person()
    drawn = [crop.draw(start, generator(0, 0, i)) for i in range(5000)]
    turn, factor = np.array([d.rotation for d in drawn]), np.array([d.factor for d in drawn])
    sides = np.array([d.scale for d in drawn])
    np.testing.assert_allclose(sides, factor[:, None] * (150, 200))
    assert (turn != 0).mean() == pytest.approx(0.6, abs=0.025)
    assert np.abs(turn).max() == 90
    inner = turn[(turn != 0) & (np.abs(turn) < 90)]
    assert fits(inner / 45, stats.truncnorm(-2, 2))
    assert (factor.min(), factor.max()) == pytest.approx((0.65, 1.35))
    inside = factor[(factor > 0.65 + 1e-12) & (factor < 1.35 - 1e-12)]
    assert fits((inside - 1) / 0.35, stats.truncnorm(-1, 1))
    assert (factor == 1.35).mean() == pytest.approx(stats.norm.sf(1), abs=0.02)
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef([d.flip for d in drawn], turn)[0, 1] == pytest.approx(0, abs=0.05)


def test_mmposes_distributions() -> None:
    """mmpose: truncnorm(-1, 1) times 80 degrees, 0.5 and, with p 0.3, 0.16 of the crop's sides."""
    crop = TopDown(rotation=80, scale=0.5, shift=0.16, distribution="truncated")
    start = person()
    drawn = [crop.draw(start, generator(1, 0, i)) for i in range(5000)]
    turn = np.array([d.rotation for d in drawn])
    assert fits(turn[turn != 0] / 80, stats.truncnorm(-1, 1))
    assert fits([(d.factor - 1) / 0.5 for d in drawn], stats.truncnorm(-1, 1))
    shift = (np.array([d.center for d in drawn]) - (160, 130)) / (150, 200)
    moved = (shift != 0).any(axis=1)
    assert moved.mean() == pytest.approx(0.3, abs=0.025)
    assert fits(shift[moved][:, 0] / 0.16, stats.truncnorm(-1, 1))
    assert fits(shift[moved][:, 1] / 0.16, stats.truncnorm(-1, 1))


# --------------------------------------------------------------------------------------------------------- half body


@pytest.mark.parametrize("skeleton", [COCO, MPII], ids=lambda s: s.name)
def test_upper_body_is_the_official_list(skeleton: Skeleton) -> None:
    """upper_body_ids of HRNet's coco.py and mpii.py."""
    assert set(np.flatnonzero(crops.upper_body(skeleton))) == OFFICIAL_UPPER[skeleton.name]


def test_every_skeleton_has_two_halves() -> None:
    """Hips, knees and ankles are in the lower half of all 16."""
    for file in (Path(kernels.__file__).parents[1] / "skeletons").glob("*.toml"):
        skeleton = load(file.stem)
        below = [name for name, up in zip(skeleton.keypoint_names, crops.upper_body(skeleton), strict=True) if not up]
        assert {f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "ankle")} <= set(below)
        assert not any(word in name for name in below for word in ("shoulder", "elbow", "nose", "eye", "head"))


@settings(max_examples=150)
@given(st.sampled_from([COCO, MPII]), st.integers(0, 10_000), st.floats(0.1, 1), st.booleans(), st.sampled_from([3, 8]))
def test_half_body_is_the_official_one(skeleton: Skeleton, seed: int, share: float, upper: bool, above: int) -> None:
    """Whatever is labelled: the same half, centre and extent as the official rules written as a loop."""
    start = person(skeleton, seed=seed)
    seen = np.where(np.random.default_rng(seed).random(len(skeleton)) < share, 2, 0).astype(np.int8)[None]
    start = start.changed(visibility=seen)
    half = HalfBody(p=1.0, more_than=above, upper_p=float(upper))
    drawn = TopDown(half_body=half).draw(start, generator(seed))
    expected = None
    if (seen > 0).sum() > above:
        normal = 0.0 if upper else 1.0
        expected = official_half_body(start.keypoints[0], seen[0] > 0, OFFICIAL_UPPER[skeleton.name], 0.75, normal)
    if expected is None:
        assert drawn.half_body == ""
        assert drawn.center == (160, 130)
        return
    assert drawn.half_body
    np.testing.assert_allclose(drawn.center, expected[0])
    np.testing.assert_allclose(drawn.scale, expected[1])


@pytest.mark.parametrize(
    ("upper_p", "expected"), [(crops.UPPER_OFFICIAL, stats.norm.cdf(0.5)), (crops.UPPER_UNIFORM, 0.5), (0.7, 0.7)]
)
def test_half_body_chances(upper_p: float, expected: float) -> None:
    """p 0.3 of those with more than 8 labelled; of these the upper half in 0.69: `randn() < 0.5`, officially."""
    start = person()
    several = start.changed(
        **{
            name: np.repeat(getattr(start, name), 8000, axis=0)
            for name in ("keypoints", "visibility", "bbox", "area", "center", "scale", "annotation_ids")
        }
    )
    drawn = HalfBody(upper_p=upper_p).draw(several, generator(0))
    assert (drawn > 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (drawn[drawn > 0] == 1).mean() == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize("visible", [8, 9])
def test_more_than_eight(visible: int) -> None:
    """Eight are not enough; nine are."""
    drawn = HalfBody(p=1.0).draw(person(visible=visible), generator(0))
    assert bool(drawn[0]) == (visible > 8)


@pytest.mark.parametrize("at_least", [(3, 3), crops.LEAST_MMPOSE])
@pytest.mark.parametrize("prefers_upper", [False, True])
def test_which_half(at_least: tuple[int, int], prefers_upper: bool) -> None:
    """All numbers of labelled keypoints above and below: mmpose's RandomHalfBody, and the official code, in words."""
    skeleton = Skeleton(
        "many", (*(f"head_{i}" for i in range(6)), *(f"left_knee_{i}" for i in range(6))), landmarks=("",) * 12
    )
    upper = tuple(skeleton.keypoint_names[:6])
    option = HalfBody(1.0, 0, 1.0 if prefers_upper else 0.0, upper=upper, at_least=at_least)
    for above, below in itertools.product(range(7), range(7)):
        start = person(skeleton)
        seen = np.zeros((1, 12), np.int8)
        seen[0, :above], seen[0, 6 : 6 + below] = 2, 2
        drawn = int(option.draw(start.changed(visibility=seen), generator(0))[0])
        if at_least == (3, 3):  # official: lib/dataset/JointsDataset.py
            expected = 1 if prefers_upper and above > 2 else 2 if below > 2 else 1
            expected = 0 if (above, below)[expected - 1] < 2 else expected
        elif above < 2 and below < 3:  # mmpose: _random_select_half_body
            expected = 0
        elif below < 3 or above < 2:
            expected = 1 if below < 3 else 2
        else:
            expected = 1 if prefers_upper else 2
        assert drawn == expected, (above, below)


def test_half_body_changes_the_crop_only() -> None:
    """Keypoints, boxes and picture stay; others' crops stay, also NaN."""
    start = person()
    after = HalfBody(p=1.0, upper_p=1.0)(start, generator(0))
    points = start.keypoints[0, :11]
    np.testing.assert_allclose(after.center[0], points.mean(axis=0))
    np.testing.assert_allclose(after.scale[0], np.ptp(points, axis=0) * 1.5)
    np.testing.assert_array_equal(after.keypoints, start.keypoints)
    np.testing.assert_array_equal(after.bbox, start.bbox)
    assert np.isnan(HalfBody(p=0.0)(start, generator(0)).center).all()


def test_one_spot_is_no_half() -> None:
    """Keypoints all on one place have no extent: the person keeps the whole body's crop."""
    start = person().changed(keypoints=np.full((1, 17, 2), 50.0))
    assert HalfBody(p=1.0).draw(start, generator(0)).tolist() == [0]


def test_halves_of_a_skeleton_of_ones_own() -> None:
    """Named, or refused in words; never guessed."""
    start = person(Skeleton("horse", tuple(f"mark_{i}" for i in range(12)), flip_pairs=frozenset()))
    with pytest.raises(
        SchemaError, match=r"'horse': its names do not tell an upper from a lower body.*HalfBody\(upper="
    ):
        HalfBody()(start, generator(0))
    named = HalfBody(p=1.0, upper_p=1.0, upper=("mark_0", "mark_1", "mark_2"))(start, generator(0))
    np.testing.assert_allclose(named.center[0], start.keypoints[0, :3].mean(axis=0))
    with pytest.raises(SchemaError, match=r"upper names \['hoof'\]"):
        HalfBody(upper=("hoof",))(start, generator(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopDown((192, 0)), "TopDown: size"),
        (lambda: TopDown(padding=0), "padding 0"),
        (lambda: TopDown(scale=1.0), "expected above 0, and below 1"),
        (lambda: TopDown(flip=2), "TopDown: flip 2"),
        (lambda: TopDown(rotation=-1), "rotation -1"),
        (lambda: TopDown(convention="dark"), "convention 'dark', expected one of"),  # type: ignore[arg-type]
        (lambda: TopDown(distribution="x"), "distribution 'x'"),  # type: ignore[arg-type]
        (lambda: TopDown(border=(0, 0)), "TopDown: border"),  # type: ignore[arg-type]
        (lambda: HalfBody(p=-0.1), "HalfBody: p -0.1"),
        (lambda: HalfBody(padding=0), "HalfBody: padding 0"),
        (lambda: HalfBody(at_least=(0, 3)), r"HalfBody: at_least \(0, 3\)"),
        (lambda: HalfBody(at_least=3), "HalfBody: at_least 3"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused_when_made(make: Callable[[], Any], words: str) -> None:
    """In words."""
    with pytest.raises(SchemaError, match=words):
        make()
