"""Presets draw what the published code draws: compared with that code's formulas, and with the official affine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kpdata.augment import presets
from kpdata.augment.crops import to_image
from kpdata.augment.measured import Draws, Line, compare
from kpdata.augment.recipes import HRNET, Spread
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, load

from .blobs import blob_error

COCO = load("coco_17")
UPPER = range(11)
DRAWN = 2000


def person(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Sample:
    """Somebody with 17 labelled keypoints in a grey picture, and a box around them."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((90, 50), (200, 190), (1, 17, 2))
    low, high = xy[0].min(0), xy[0].max(0)
    return Sample(
        np.full((size[1], size[0], 3), 120, np.uint8), xy, np.full((1, 17), 2, np.int8), COCO,
        bbox=np.concatenate([low, high - low])[None], annotation_ids=np.array([7]), image_id=3,
    )  # fmt: skip


def crops(preset: presets.Preset, count: int = DRAWN) -> list:
    one = person()
    return [preset.draw(one, generator(11, 0, i)).crop for i in range(count)]


def official(count: int, sf: float, rf: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale and rotation as `JointsDataset.__getitem__` of leoxiaobin/deep-high-resolution-net.pytorch draws them."""
    rng = np.random.default_rng(5)
    scale = np.clip(rng.standard_normal(count) * sf + 1, 1 - sf, 1 + sf)
    rotation = np.clip(rng.standard_normal(count) * rf, -rf * 2, rf * 2)
    return scale, np.where(rng.random(count) <= 0.6, rotation, 0)


def truncated(count: int, factor: float, p: float) -> np.ndarray:
    """An amount as `RandomBBoxTransform` of open-mmlab/mmpose 1.3.2 draws it."""
    rng = np.random.default_rng(5)
    return np.where(rng.random(count) < p, stats.truncnorm.rvs(-1, 1, size=count, random_state=rng) * factor, 0)


@pytest.mark.parametrize(
    ("name", "sf", "rf"), [("hrnet", 0.35, 45), ("simple_baseline", 0.3, 40), ("vitpose", 0.5, 40)]
)
def test_scale_and_rotation_of_the_official_code(name: str, sf: float, rf: float) -> None:
    """Both are spread as the official formulas spread them, their mass on the ends included."""
    found, (scale, rotation) = crops(presets.named(name)), official(100_000, sf, rf)
    for mine, theirs in (([c.factor for c in found], scale), ([c.rotation for c in found], rotation)):
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
        ends = [np.isclose(np.abs(np.asarray(a) - np.mean((theirs.min(), theirs.max()))), np.ptp(theirs) / 2).mean()
                for a in (mine, theirs)]  # fmt: skip
        assert ends[0] == pytest.approx(ends[1], abs=0.03)
        assert ends[1] > 0.02
    assert np.mean([c.flip for c in found]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("name", ["mmpose", "occlusion_heavy"])
def test_scale_rotation_and_shift_of_mmpose(name: str) -> None:
    """Normals cut at one, the shift too, in sides of the crop before it is scaled."""
    preset = presets.named(name)
    whole = replace(preset.crop, half_body=None)
    one = person()
    found = [whole.draw(one, generator(11, 0, i)) for i in range(DRAWN)]
    base = preset.plain.draw(one, generator(0))
    shift = (np.array([c.center for c in found]) - base.center) / base.scale
    pairs = (
        ([c.factor - 1 for c in found], truncated(100_000, 0.5, 1.0)),
        ([c.rotation for c in found], truncated(100_000, 80, 0.6)),
        (shift[:, 0], truncated(100_000, 0.16, 0.3)),
        (shift[:, 1], truncated(100_000, 0.16, 0.3)),
    )
    for mine, theirs in pairs:
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
    np.testing.assert_array_equal(shift[:, 0] == 0, shift[:, 1] == 0)  # one coin for both


@pytest.mark.parametrize(
    ("name", "upper"), [("hrnet", stats.norm.cdf(0.5)), ("mmpose", 0.7), ("vitpose", stats.norm.cdf(0.5))]
)
def test_half_bodies(name: str, upper: float) -> None:
    """Three in ten; the upper half as often as `randn() < 0.5` is true, or as mmpose says."""
    found = np.array([c.half_body for c in crops(presets.named(name))])
    assert (found != "").mean() == pytest.approx(0.3, abs=0.035)
    assert (found[found != ""] == "upper").mean() == pytest.approx(upper, abs=0.06)


@pytest.mark.parametrize("name", ["simple_baseline", "finetune_small"])
def test_no_half_bodies(name: str) -> None:
    """Simple Baseline has none, and neither has the recipe for few photographs."""
    assert {c.half_body for c in crops(presets.named(name), 300)} == {""}


@given(st.floats(0.1, 90), st.floats(0.3, 3), st.sampled_from(["normal", "truncated", "uniform"]))
def test_mean_sizes_are_the_integrals(factor: float, clip: float, distribution) -> None:
    """`Spread.size` equals numerical integration of the distribution."""
    end = clip if distribution == "normal" else 1.0
    density = (lambda z: 0.5) if distribution == "uniform" else stats.norm.pdf
    inside = integrate.quad(density, -end, end)[0]
    moments = [2 * integrate.quad(lambda z, n=n: z**n * density(z), 0, end)[0] for n in (1, 2)]
    if distribution == "normal":
        moments = [m + end**n * (1 - inside) for n, m in zip((1, 2), moments, strict=True)]
    else:
        moments = [m / inside for m in moments]
    expected = factor * moments[0], factor * np.sqrt(moments[1] - moments[0] ** 2)
    np.testing.assert_allclose(Spread(factor, 1, distribution, clip).size(), expected, rtol=1e-6)


def test_evaluation_is_the_official_crop() -> None:
    """The box fixed to 3:4 and padded by 1.25, its centre in the middle: the three points of `get_affine_transform`."""
    one = person()
    x, y, w, h = one.bbox[0]
    center = np.array([x + w * 0.5, y + h * 0.5])
    w, h = (w, w / 0.75) if w > 0.75 * h else (h * 0.75, h)
    width = w * 1.25
    source = [center, center - np.array([0, width * 0.5])]
    source.append(source[1] + np.array([-(source[0] - source[1])[1], (source[0] - source[1])[0]]))
    target = [np.array([96.0, 128.0]), np.array([96.0, 128 - 96.0])]
    target.append(target[1] + np.array([-(target[0] - target[1])[1], (target[0] - target[1])[0]]))
    cv2 = pytest.importorskip("cv2")
    affine = cv2.getAffineTransform(np.float32(source), np.float32(target))
    np.testing.assert_allclose(presets.hrnet().evaluation(one).matrix[:2], affine, atol=1e-3)


@pytest.mark.parametrize("name", presets.PRESETS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_predictions_find_their_way_back(name: str, seed: int) -> None:
    """The keypoints of any crop, taken back to the picture, are those of the annotation, left and right too."""
    one = person(seed % 7)
    crop = presets.named(name)(one, generator(seed))
    np.testing.assert_allclose(to_image(crop.keypoints, crop), one.keypoints, atol=1e-8)
    assert crop.image.shape == (256, 192, 3)
    assert (crop.visibility > 0).all()  # nothing becomes absent, wherever it lies


@pytest.mark.parametrize("name", presets.PRESETS)
def test_pixels_follow(name: str) -> None:
    """A blob drawn at a keypoint is under it in the crop."""
    preset = presets.named(name)
    geometry = presets.Preset(preset.recipe, replace(preset.crop, half_body=None))
    errors = [blob_error(geometry, seed=seed) for seed in range(6)]
    assert np.isfinite(errors).sum() >= 4  # else nothing was measured
    assert np.nanmax(errors) <= 0.03


def test_the_same_in_any_worker() -> None:
    """Equal seed, epoch and index give equal samples; another epoch gives another."""
    train, one = presets.occlusion_heavy(), person()
    first, again, other = (train(one, generator(3, epoch, 5)) for epoch in (0, 0, 1))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.keypoints, again.keypoints)
    assert not np.array_equal(first.keypoints, other.keypoints)
    drawn = train.draw(one, generator(3, 0, 5))
    assert np.array_equal(train.apply(one, drawn).image, first.image)


def test_covered_points_are_occluded() -> None:
    """Occluders that surely come hide visible keypoints: never silently visible, and absent only where asked for."""
    one = person()
    for covered, level in (("occluded", 1), ("absent", 0)):
        train = presets.occlusion_heavy(holes=1, cutouts=1, covered=covered)
        seen = np.concatenate([train(one, generator(1, 0, i)).visibility for i in range(20)])
        assert set(np.unique(seen)) == {level, 2}


def test_numbers_can_be_given() -> None:
    """A keyword changes the crop, and the recipe that statistics compare with."""
    mpii = presets.hrnet((256, 256), rotation=30, scale=0.25, half_body=0)
    assert (mpii.recipe.rotation.limit, mpii.recipe.scale.limit, mpii.recipe.half_body) == (60, 0.25, 0)
    assert max(abs(c.rotation) for c in crops(mpii, 1000)) == 60
    assert mpii(person(), generator(0)).size == (256, 256)
    assert presets.hrnet().recipe == HRNET


def test_unknown_presets_and_bad_numbers() -> None:
    """The error lists the names; numbers out of range are refused at birth."""
    with pytest.raises(
        SchemaError, match=r"no preset is named 'hrnett', expected one of hrnet, .* did you mean 'hrnet'"
    ):
        presets.named("hrnett")
    with pytest.raises(SchemaError, match="flip"):
        presets.hrnet(flip=1.5)
    with pytest.raises(SchemaError, match="padding"):
        presets.mmpose(padding=0)


def test_skeletons_of_other_creatures() -> None:
    """The recipe for few photographs takes any skeleton whose twins are known, and refuses one whose are not."""
    horse = Skeleton("horse_3", ("left_eye", "right_eye", "withers"), flip_pairs=frozenset({("left_eye", "right_eye")}))
    xy = np.array([[[100.0, 80], [130, 80], [110, 140]]])
    box = np.array([[95.0, 75, 50, 80]])
    one = Sample(np.zeros((240, 320, 3), np.uint8), xy, np.full((1, 3), 2, np.int8), horse, bbox=box)
    for i in range(8):
        crop = presets.finetune_small()(one, generator(i))
        np.testing.assert_allclose(to_image(crop.keypoints, crop), xy, atol=1e-8)
    unknown = one.changed(skeleton=replace(horse, flip_pairs=None))
    with pytest.raises(SkeletonError, match="twins are not known"):
        presets.finetune_small()(unknown, generator(0))


def test_importing_is_light() -> None:
    """Neither OpenCV nor albumentations nor Pillow is loaded with the presets."""
    code = "import sys, kpdata.augment.presets, kpdata.augment.preview\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"cv2", "albumentations", "PIL", "torch", "pandas"} & set(done.stdout.split())


# ---------------------------------------------------------------------------------------------- drawn beside the recipe


def draws(count: int = 4000, **changed) -> Draws:
    """What samples of HRNet's recipe look like, from the official formulas; `changed`: what is wrong with them."""
    rng = np.random.default_rng(2)
    scale, turn = official(count, 0.35, 45)
    half = rng.random(count) < 0.3
    columns = {
        "flipped": rng.random(count) < 0.5, "turn": turn, "scale": scale, "shift": np.zeros((count, 2)),
        "half": half, "upper": half & (rng.standard_normal(count) < 0.5), "may_half": np.ones(count, bool),
        "either": np.ones(count, bool), "labelled": np.full(count, 17), "lost": np.ones(count, int),
        "lost_plain": np.zeros(count, int), "covered": np.zeros(count, int),
    }  # fmt: skip
    return Draws(**{**columns, **changed})


def disagreeing(found: Draws) -> set[str]:
    return {line.what for line in compare(HRNET, found) if line.agrees is False}


def test_the_official_draws_agree() -> None:
    """Draws by the official formulas agree with the recipe in every line."""
    lines = compare(HRNET, draws())
    assert disagreeing(draws()) == set()
    assert Line("points outside of the crop", 1 / 17, None, 4000 * 17, None) in lines
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("wrong", "lines"),
    [
        ({"flipped": np.zeros(4000, bool)}, {"flipped"}),
        ({"turn": np.random.default_rng(0).normal(0, 45, 4000)}, {"turned", "turned: largest, degrees"}),
        ({"turn": official(4000, 0.35, 40)[1]}, {"turned: mean size, degrees"}),
        ({"scale": np.random.default_rng(0).uniform(0.65, 1.35, 4000)}, {"scaled: mean size, 1 ±"}),
        ({"shift": np.full((4000, 2), 0.1)}, {"shifted"}),
        ({"upper": np.random.default_rng(0).random(4000) < 0.5}, {"upper half, of half bodies"}),
        ({"half": np.zeros(4000, bool)}, {"half body, of those labelled enough"}),
    ],
)
def test_other_draws_differ(wrong: dict, lines: set[str]) -> None:
    """What is not the recipe is named: a flip left out, unclipped or uniform numbers, the coin where the quirk is."""
    assert disagreeing(draws(**wrong)) == lines
