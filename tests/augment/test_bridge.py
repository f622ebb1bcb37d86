"""Albumentations on samples: what is taken keeps every keypoint on its pixels, what does not is refused by name."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import pickle
import random
import socket
import subprocess
import sys
import types
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import skeleton
from kpdata.augment import bridge
from kpdata.augment.bridge import EXACT, MIRRORING, REFUSED, Pixels, Spatial
from kpdata.augment.sample import Sample
from kpdata.errors import KpdataError, MissingExtra, SchemaError, SkeletonError
from kpdata.skeleton import Skeleton

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:albumentations", "ignore::DeprecationWarning:albumentations"
)
A = bridge.albumentations()
COCO, MPII = skeleton.load("coco_17"), skeleton.load("mpii_16")
WIDTH, HEIGHT = 321, 242

# Every transform of the list, with options that move much; several a name where options change the arithmetic.
CASES = [
    lambda: A.NoOp(p=1),
    lambda: A.HorizontalFlip(p=1),
    lambda: A.VerticalFlip(p=1),
    lambda: A.Transpose(p=1),
    lambda: A.D4(p=1),
    lambda: A.SquareSymmetry(p=1),
    lambda: A.RandomRotate90(p=1),
    lambda: A.Affine(scale=(0.7, 1.4), rotate=(-180, 180), translate_percent=(-0.1, 0.1), shear=(-10, 10), p=1),
    lambda: A.Affine(scale=(0.7, 1.4), rotate=(-90, 90), fit_output=True, p=1),
    lambda: A.Affine(scale=(0.7, 1.4), rotate=(-180, 180), interpolation=cv2.INTER_CUBIC, p=1),
    lambda: A.Rotate((-180, 180), p=1),
    lambda: A.Rotate((-30, 30), crop_border=True, p=1),
    lambda: A.SafeRotate((-180, 180), p=1),
    lambda: A.ShiftScaleRotate(rotate_limit=180, scale_limit=0.3, p=1),
    lambda: A.Perspective(p=1),
    lambda: A.Perspective(keep_size=False, fit_output=True, p=1),
    lambda: A.Crop(10, 20, 300, 230, p=1),
    lambda: A.Crop(10, 20, 400, 330, pad_if_needed=True, p=1),
    lambda: A.CenterCrop(181, 240, p=1),
    lambda: A.RandomCrop(180, 240, p=1),
    lambda: A.RandomCrop(300, 340, pad_if_needed=True, p=1),
    lambda: A.RandomCropFromBorders(p=1),
    lambda: A.CropNonEmptyMaskIfExists(180, 240, p=1),
    lambda: A.BBoxSafeRandomCrop(p=1),
    lambda: A.AtLeastOneBBoxRandomCrop(180, 240, p=1),
    lambda: A.CropAndPad(px=(-20, 20), keep_size=False, p=1),
    lambda: A.Pad((5, 11, 3, 8), p=1),
    lambda: A.PadIfNeeded(400, 500, position="random", p=1),
]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(xy: np.ndarray, colours: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W, 3): a Gaussian blob of each colour (n, 3) at each point (n, 2)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.zeros((HEIGHT, WIDTH, 3))
    for (px, py), colour in zip(xy, colours, strict=True):
        blob = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
        image = np.maximum(image, blob[..., None] * colour)
    return image.round().astype(np.uint8)


def centroid(image: np.ndarray, at: np.ndarray, radius: int) -> np.ndarray | None:
    """Where the intensity around a point lies; None near the border or where nothing is left."""
    x, y = np.floor(at + 0.5).astype(int)
    height, width = image.shape[:2]
    if not (radius <= x < width - radius and radius <= y < height - radius):
        return None
    window = image[y - radius : y + radius + 1, x - radius : x + radius + 1].astype(float).sum(2)
    rows, columns = np.mgrid[y - radius : y + radius + 1, x - radius : x + radius + 1]
    return np.array([(window * columns).sum(), (window * rows).sum()]) / max(window.sum(), 1e-9)


@cache
def person(kind: Skeleton = COCO, sigma: float = 2.0) -> Sample:
    """One person whose keypoints are blobs 45 px apart: left ones red, right ones green, the others blue."""
    columns, rows = np.meshgrid(np.arange(6), np.arange(3))
    grid = np.stack([columns, rows], -1).reshape(-1, 2)[: len(kind)]
    xy = grid * 45.0 + [45.3, 60.6] + rng(0).uniform(-3, 3, (len(kind), 2))
    name = np.array(kind.keypoint_names)
    left, right = np.char.startswith(name, "left"), np.char.startswith(name, "right")
    colours = np.stack([left, right, ~left & ~right], 1) * 240.0
    box = np.array([[xy[:, 0].min(), xy[:, 1].min(), *np.ptp(xy, axis=0)]])
    masks = np.zeros((1, HEIGHT, WIDTH), bool)
    masks[0, 80:160, 100:220] = True
    seen = np.full((1, len(kind)), 2, np.int8)
    return Sample(
        blobs(xy, colours, sigma), xy[None], seen, kind, bbox=box, area=np.array([9600.0]), masks=masks,
        center=box[:, :2] + box[:, 2:] / 2, scale=box[:, 2:],
    )  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda make: type(make()).__name__)
def test_keypoints_stay_on_their_blobs(make: Any) -> None:
    """Each transform of the list moves picture and keypoints alike: 0.2 px at most, and what the table says."""
    name = type(make()).__name__
    before, transform = person(sigma=1.5), Spatial([make()])

    errors = []
    for seed in range(4):
        after = transform(before, rng(seed))
        found = [(centroid(after.image, at, 6), at) for at in after.keypoints[0]]
        errors += [float(np.hypot(*(c - at))) for c, at in found if c is not None]

    assert len(errors) > 20
    assert max(errors) <= min(0.2, EXACT[name] + 0.03)


# Those that fit a picture of any size.
CHAINED = [make for make in CASES if "Crop" not in (name := type(make()).__name__) or name.startswith("RandomCropFrom")]


@settings(max_examples=15)
@given(st.lists(st.sampled_from(CHAINED), min_size=2, max_size=3), st.integers(0, 2**32))
def test_chains_stay_exact(makes: list[Any], seed: int) -> None:
    """Whatever is chained: keypoints on their blobs, and the sample's matrix takes all of them back."""
    before = person(sigma=1.5)
    after = Spatial([A.RandomOrder([make() for make in makes], n=len(makes))])(before, rng(seed))

    points = np.concatenate([after.keypoints[0], np.ones((17, 1))], 1) @ np.linalg.inv(after.matrix).T
    twins = COCO.flip_index() if after.mirrored else np.arange(17)
    assert (points[:, :2] / points[:, 2:])[twins] == pytest.approx(before.keypoints[0], abs=1e-6)
    found = [(centroid(after.image, at, 6), at) for at in after.keypoints[0]]
    seen = [float(np.hypot(*(c - at))) for c, at in found if c is not None and after.image.any()]
    assert np.median(seen or [0]) <= 0.2  # not the largest: a border may cut a blob in half before the next member


def test_the_list_is_tested() -> None:
    """No transform is allowed without a case above, and every spatial transform of the package has a verdict."""
    dual = {
        name
        for name, kind in vars(A).items()
        if inspect.isclass(kind) and issubclass(kind, A.DualTransform) and not issubclass(kind, A.Transform3D)
    }
    unlisted = {"DualTransform", "TimeReverse"}

    assert {type(make()).__name__ for make in CASES} == set(EXACT)
    assert {name for name in dual - set(EXACT) - set(REFUSED) if not name.startswith("Base")} == unlisted
    assert not set(EXACT) & set(REFUSED)


@pytest.mark.parametrize("kind", [COCO, MPII], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", sorted(MIRRORING))
def test_a_mirror_swaps_left_and_right(name: str, kind: Skeleton) -> None:
    """In the mirrored picture the columns of the left side lie on what was drawn for the right one."""
    before, transform = person(kind), Spatial([getattr(A, name)(p=1)])
    names = np.array(kind.keypoint_names)
    mirrored = []
    for seed in range(12):
        after = transform(before, rng(seed))
        x, y = after.keypoints[0].round().astype(int).T
        channel = after.image[y, x].argmax(1)  # 0 red, 1 green, 2 blue

        swapped = after.mirrored
        assert (channel[np.char.startswith(names, "left")] == (1 if swapped else 0)).all()
        assert (channel[np.char.startswith(names, "right")] == (0 if swapped else 1)).all()
        assert swapped == (np.linalg.det(after.matrix) < 0)
        mirrored.append(swapped)

    assert any(mirrored)


def test_the_mirroring_ones_are_known() -> None:
    """None but those of MIRRORING ever mirrors; each of them does."""
    seen = {
        type(make()).__name__ for make in CASES for seed in range(8) if Spatial([make()])(person(), rng(seed)).mirrored
    }
    assert seen == MIRRORING


def test_unknown_twins_refuse_to_mirror() -> None:
    """A pipeline that could mirror is refused whatever the dice say; others run; declared "none" mirrors unswapped."""
    unknown = Skeleton("two", ("a", "b"))
    image, xy = np.zeros((20, 30, 3), np.uint8), np.array([[[3.0, 4], [5, 6]]])
    sample = Sample(image, xy, np.full((1, 2), 2, np.int8), unknown)

    with pytest.raises(SkeletonError, match="twins are not known"):
        Spatial([A.OneOf([A.HorizontalFlip(p=0.001), A.NoOp(p=1)])])(sample, rng(0))
    assert Spatial([A.Pad(3, p=1)])(sample, rng(0)).keypoints.tolist() == (xy + 3).tolist()
    none = sample.changed(skeleton=Skeleton("two", ("a", "b"), flip_pairs=frozenset()))
    assert Spatial([A.HorizontalFlip(p=1)])(none, rng(0)).keypoints.tolist() == [[[26.0, 4], [24, 6]]]


def test_absent_points_stay_absent() -> None:
    """NaN stays NaN, a coordinate with visibility 0 moves as data, and visibility follows its keypoint only."""
    before = person()
    xy, seen = before.keypoints.copy(), before.visibility.copy()
    xy[0, 0], seen[0, 0] = np.nan, 0  # the nose
    seen[0, 9], seen[0, 10] = 0, 1  # left wrist absent with a coordinate, right wrist occluded
    sample = before.changed(keypoints=xy, visibility=seen)

    after = Spatial([A.HorizontalFlip(p=1)])(sample, rng(0))

    assert np.isnan(after.keypoints[0, 0]).all()
    assert after.visibility[0, [0, 9, 10]].tolist() == [0, 1, 0]
    assert after.keypoints[0, 10].tolist() == [WIDTH - 1 - xy[0, 9, 0], xy[0, 9, 1]]
    turned = Spatial([A.Rotate((40, 40), p=1)])(sample, rng(0))
    assert turned.visibility.tolist() == seen.tolist() and np.isnan(turned.keypoints[0, 0]).all()


def test_all_targets_follow() -> None:
    """A flip moves box, crop centre, mask and area as kpdata's convention says, to the last bit."""
    before = person()
    after = Spatial([A.HorizontalFlip(p=1)])(before, rng(0))

    box = before.bbox[0]
    assert after.bbox[0] == pytest.approx([WIDTH - box[0] - box[2], *box[1:]])
    assert after.center[0] == pytest.approx([WIDTH - 1 - before.center[0, 0], before.center[0, 1]])
    assert np.array_equal(after.masks, before.masks[:, :, ::-1]) and after.area.tolist() == [9600.0]
    assert np.array_equal(after.image, before.image[:, ::-1])
    flipped = before.keypoints[:, COCO.flip_index()]
    assert np.array_equal(after.keypoints[..., 0], WIDTH - 1 - flipped[..., 0])
    assert np.array_equal(after.keypoints[..., 1], flipped[..., 1])


def test_rows_outside_the_picture_stay() -> None:
    """A crop leaves every row and its visibility; the map takes all of them back to where they were."""
    before = person()
    pipeline = Spatial([A.RandomCrop(40, 50, p=1), A.Rotate((-60, 60), p=1), A.Pad(7, p=1)])

    after = pipeline(before, rng(3))

    homogeneous = np.concatenate([after.keypoints[0], np.ones((17, 1))], 1) @ np.linalg.inv(after.matrix).T
    assert homogeneous[:, :2] / homogeneous[:, 2:] == pytest.approx(before.keypoints[0], abs=1e-6)
    assert after.visibility.tolist() == before.visibility.tolist() and after.size == (64, 54)


def test_nobody_in_the_picture() -> None:
    """A sample without people is transformed like any other."""
    empty = Sample(person().image, np.zeros((0, 17, 2)), np.zeros((0, 17), np.int8), COCO)
    after = Spatial([A.Rotate((20, 20), p=1)])(empty, rng(0))
    assert after.keypoints.shape == (0, 17, 2) and not np.array_equal(after.image, empty.image)


PIPELINES = [
    lambda: Pixels([A.ColorJitter(p=0.8), A.OneOf([A.GaussNoise(), A.ISONoise()], p=0.9), A.ImageCompression()]),
    lambda: Pixels([A.RandomRain(p=1), A.RandomFog(p=0.5), A.PlasmaShadow(p=0.5), A.SaltAndPepper(), A.ShotNoise(p=1)]),
    lambda: Spatial([A.D4(), A.SomeOf([A.Rotate(p=1), A.Affine(p=1), A.Blur(p=1)], n=2), A.RandomCrop(100, 120, p=1)]),
]


@pytest.mark.parametrize("make", PIPELINES)
def test_the_generator_alone_decides(make: Any) -> None:
    """Equal generators give equal samples, in a fresh object, after other calls, and in a pickled copy."""
    before, first = person(), make()
    expected = first(before, rng(7))
    first(before, rng(8))
    copied = pickle.loads(pickle.dumps(first))

    for transform in (first, copied, make()):
        again = transform(before, rng(7))
        assert np.array_equal(again.image, expected.image) and np.array_equal(again.keypoints, expected.keypoints)
    others = [make()(before, rng(seed)).image for seed in range(8, 12)]
    assert any(other.shape != expected.image.shape or (other != expected.image).any() for other in others)


SCRIPT = """
import hashlib, sys
import numpy as np
from kpdata import skeleton
from kpdata.augment.sample import Sample
from kpdata.augment.bridge import Pixels, Spatial, albumentations
assert "albumentations" not in sys.modules, "imported before it is needed"
import os, socket
def refuse(*a, **k): raise SystemExit("asked the network")
socket.create_connection = socket.getaddrinfo = refuse
A = albumentations()
assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
image = np.arange(60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
s = Sample(image, np.full((1, 17, 2), 9.0), np.full((1, 17), 2, np.int8), skeleton.load("coco_17"))
for t in (Pixels([A.ColorJitter(), A.GaussNoise(p=1)]), Spatial([A.D4(p=1), A.Rotate(p=1)])):
    s = t(s, np.random.default_rng(5))
print(hashlib.sha256(s.image.tobytes() + s.keypoints.tobytes()).hexdigest())
"""


def test_every_process_gives_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process, with another hash seed, agrees; neither asks the network, and the package is imported late."""
    inherited = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**inherited, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, getattr(socket, name))  # put back what the script replaces
    exec("\n".join(line for line in SCRIPT.splitlines() if "sys.modules" not in line), {})
    assert len(other.strip()) == hashlib.sha256().digest_size * 2
    assert capsys.readouterr().out == other


def test_members_draw_numbers_of_their_own() -> None:
    """Two coins of one pipeline are two coins: albumentations' own seeding would give both the same one."""
    pipeline = Spatial([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    signs = {tuple(np.diag(pipeline(person(), rng(seed)).matrix)[:2]) for seed in range(40)}
    assert signs == {(1, 1), (-1, 1), (1, -1), (-1, -1)}


def test_pixels_leave_all_but_the_picture() -> None:
    """Keypoints and all else are the very objects that went in."""
    before = person()
    after = Pixels([A.HueSaturationValue(p=1)])(before, rng(0))
    assert not np.array_equal(after.image, before.image)
    assert after.keypoints is before.keypoints and after.masks is before.masks and after.matrix is before.matrix


@cache
def texture(low: int = 50, high: int = 200) -> np.ndarray:
    """A picture of soft grey noise."""
    noise = cv2.GaussianBlur(rng(0).normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2.5)
    grey = (noise - noise.min()) / np.ptp(noise) * (high - low) + low
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def displacement(before: np.ndarray, after: np.ndarray) -> float:
    """Median distance, px, at which patches of the picture correlate best with what was there; tone does not matter."""
    one, two = (image.astype(np.float32).mean(2) for image in (before, after))
    moved = []
    for y in (50, 120, 190):
        for x in (50, 110, 210, 270):
            patch, around = one[y - 20 : y + 21, x - 20 : x + 21], two[y - 26 : y + 27, x - 26 : x + 27]
            score = np.abs(cv2.matchTemplate(around, patch, cv2.TM_CCOEFF_NORMED))
            row, column = np.unravel_index(score.argmax(), score.shape)
            moved.append(np.hypot(row - 6, column - 6))
    return float(np.median(moved))


def pixel_transforms() -> list[str]:
    names = [n for n, k in vars(A).items() if inspect.isclass(k) and issubclass(k, A.ImageOnlyTransform)]
    return sorted(set(names) - set(REFUSED) - {"ImageOnlyTransform"})


@pytest.mark.parametrize("name", pixel_transforms())
def test_allowed_pixel_transforms_stay_in_place(name: str) -> None:
    """A dark or a bright textured picture correlates best with itself where it was."""
    transform, seeds = Pixels([getattr(A, name)(p=1)]), 1 if name == "Superpixels" else 2  # it is slow
    moved = []
    for image in (texture(20, 110), texture(130, 250)):  # Solarize and RandomSnow blot one of the two out
        sample = Sample(image, np.zeros((0, 17, 2)), np.zeros((0, 17), np.int8), COCO)
        moved.append([displacement(image, transform(sample, rng(seed)).image) for seed in range(seeds)])
    assert [0] * seeds in moved


def test_symmetric_motion_blur_is_taken() -> None:
    """The one form of MotionBlur whose kernel is even about its middle."""
    blur = Pixels([A.MotionBlur((7, 15), allow_shifted=False, direction_range=(0, 0), p=1)])
    sample = Sample(texture(), np.zeros((0, 17, 2)), np.zeros((0, 17), np.int8), COCO)
    assert [displacement(texture(), blur(sample, rng(seed)).image) for seed in range(4)] == [0] * 4
    for options in ({"allow_shifted": False}, {"direction_range": (0, 0)}):
        with pytest.raises(SchemaError, match="MotionBlur is refused"):
            Pixels([A.MotionBlur((7, 15), **options)])


@pytest.mark.parametrize("name", ["MotionBlur", "ZoomBlur", "GlassBlur", "Downscale", "Emboss"])
def test_refused_pixel_transforms_move(name: str) -> None:
    """Their refusal is a measurement, not a taste."""
    transform = A.Compose([A.MotionBlur((7, 15), p=1) if name == "MotionBlur" else getattr(A, name)(p=1)])
    moved = []
    for seed in range(5):
        transform.set_random_state(rng(seed), random.Random(seed))
        moved.append(displacement(texture(), transform(image=texture())["image"]))
    assert max(moved) >= 1


@pytest.mark.parametrize(
    "make", [lambda: A.Resize(484, 642), lambda: A.SmallestMaxSize(400), lambda: A.ElasticTransform()]
)
def test_refused_spatial_transforms_are_off(make: Any) -> None:
    """albumentations' own keypoints are more than 0.2 px off the blobs under them."""
    sample, transform = person(sigma=3), make()
    transform.p = 1.0
    pipeline = A.Compose([transform], keypoint_params=A.KeypointParams("xy", remove_invisible=False))
    out = pipeline(image=sample.image, keypoints=sample.keypoints[0])
    found = [(centroid(out["image"], at, 13), at) for at in out["keypoints"]]
    assert max(np.hypot(*(c - at)) for c, at in found if c is not None) > 0.2


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        (Spatial, lambda: A.Resize(9, 9), r"Resize is refused: .*half pixel.*kpdata.augment.Resize or Letterbox"),
        (Spatial, lambda: A.RandomResizedCrop((9, 9)), r"RandomResizedCrop is refused.*RandomCropAroundPeople"),
        (Spatial, lambda: A.ElasticTransform(), r"ElasticTransform is refused: it bends.*RandomAffine or Perspective"),
        (Spatial, lambda: A.CropAndPad(px=3), r"keep_size=True resizes"),
        (Spatial, lambda: A.Rotate(border_mode=cv2.BORDER_REFLECT_101), r"shows people a second time.*BORDER_CONSTANT"),
        (Spatial, lambda: A.Lambda(), r"Lambda is refused"),
        (Spatial, lambda: A.SelectiveChannelTransform([A.HorizontalFlip()]), r"some channels only"),
        (Spatial, lambda: A.RandomCrop3D((3, 3, 3)), r"nobody has proven.*proven are .*Rotate"),
        (Spatial, lambda: A.CoarseDropout(), r"silently stay visible.*kpdata.augment.CoarseDropout turns"),
        (Pixels, lambda: A.CoarseDropout(), r"silently stay visible.*kpdata.augment.CoarseDropout turns"),
        (Pixels, lambda: A.GridDropout(), r"kpdata.augment.GridMask"),
        (Pixels, lambda: A.XYMasking((1, 1), (1, 1), 3, 3), r"kpdata.augment.CoarseDropout"),
        (Pixels, lambda: A.HorizontalFlip(), r"HorizontalFlip is refused: it moves pixels. Spatial"),
        (Pixels, lambda: A.MotionBlur(), r"MotionBlur is refused: it moves the picture.*allow_shifted=False"),
        (Pixels, lambda: A.Normalize(), r"Normalize is refused: it gives floats"),
        (Pixels, lambda: A.FDA(reference_images=[]), r"FDA is refused: it needs other pictures"),
        (Pixels, lambda: A.OneOf([A.Blur(), A.Sequential([A.SomeOf([A.Downscale()], n=1)])]), r"Downscale is refused"),
        (Spatial, lambda: "HorizontalFlip", r"str is refused: it is no transform"),
    ],
)
def test_refusals_say_what_to_use(kind: type, make: Any, words: str) -> None:
    """What is not proven is refused when the pipeline is made, however deep it is nested."""
    with pytest.raises(SchemaError, match=words):
        kind([A.NoOp() if kind is Spatial else A.Blur(), make()])


@pytest.mark.parametrize("nothing", [[], (), None])
def test_a_pipeline_needs_members(nothing: Any) -> None:
    """Neither nothing nor None is a pipeline."""
    for kind in (Pixels, Spatial):
        with pytest.raises(SchemaError, match="at least one transform"):
            kind(nothing)


def test_replacements_exist() -> None:
    """Every name of kpdata that a refusal recommends can be imported."""
    import kpdata.augment.mosaic
    import kpdata.augment.occlusion
    import kpdata.augment.paste
    import kpdata.augment.transforms

    rooms = (kpdata.augment.mosaic, kpdata.augment.occlusion, kpdata.augment.paste, kpdata.augment.transforms)
    words = " ".join(refusal.instead for refusal in REFUSED.values()).replace(",", " ").split()
    named = {word.removeprefix("kpdata.augment.") for word in words if word.startswith("kpdata.augment.")}
    assert named and not {name for name in named if not any(hasattr(room, name) for room in rooms)}


def test_your_objects_are_left_alone() -> None:
    """Transforms are copied: the same object can be a member of two pipelines, and of your own."""
    mine = A.Rotate((10, 10), p=1)
    before = copy.deepcopy(mine.__dict__)
    Spatial([mine])(person(), rng(0))
    assert {k: v for k, v in mine.__dict__.items() if k not in ("random_generator", "py_random", "_key2func")} == {
        k: v for k, v in before.items() if k not in ("random_generator", "py_random", "_key2func")
    }


def test_failures_are_told_in_one_line() -> None:
    """What albumentations raises on a picture becomes a KpdataError that names the size."""
    with pytest.raises(KpdataError, match=r"albumentations failed on a picture of \(321, 242\) px: Crop size"):
        Spatial([A.RandomCrop(1000, 1000, p=1)])(person(), rng(0))


def test_a_pipeline_that_is_no_map_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keypoints are not those of one map, nothing comes back: the list above is not trusted blindly."""
    for name in ("ElasticTransform", "Lambda"):
        monkeypatch.setitem(bridge.EXACT, name, 0.0)
        monkeypatch.delitem(bridge.REFUSED, name)

    def nudge(points: np.ndarray, **_: Any) -> np.ndarray:
        return points + np.where(np.arange(len(points)) == 9, 1.0, 0.0)[:, None] * np.eye(points.shape[1])[0]

    with pytest.raises(KpdataError, match=r"22 points went in, rows .* came back"):
        Spatial([A.ElasticTransform(alpha=200, sigma=10, p=1)])(person(), rng(0))
    with pytest.raises(KpdataError, match=r"row 9 came back at .*, 1\.00 px from where the picture went"):
        Spatial([A.Lambda(keypoints=nudge, p=1)])(person(), rng(0))


def test_the_package_and_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without albumentations the extra is named; another version is refused, because the tables hold for one."""
    bridge.albumentations.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "albumentations", None)
        with pytest.raises(MissingExtra, match=r"kpdata\[augment\]"):
            Pixels([object()])
        other = types.ModuleType("albumentations")
        other.__version__ = "2.5.1"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "albumentations", other)
        with pytest.raises(KpdataError, match=r"2\.5\.1 is installed.*pip install 'albumentations==2\.0\.8'"):
            Pixels([object()])
    finally:
        bridge.albumentations.cache_clear()
