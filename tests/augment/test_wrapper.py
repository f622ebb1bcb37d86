"""kpdata's transforms inside albumentations' A.Compose: all targets together, left and right swapped."""

from __future__ import annotations

import pickle
from typing import Any

import albumentations as A
import numpy as np
import pytest

from kpdata import skeleton
from kpdata.augment.crops import HalfBody, TopDown
from kpdata.augment.occlusion import CoarseDropout
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import Affine, Compose, HorizontalFlip, RandomAffine, Transpose
from kpdata.augment.wrapper import for_albumentations
from kpdata.errors import KpdataError, SchemaError, SkeletonError
from kpdata.skeleton import Skeleton

COCO = skeleton.load("coco_17")
WIDTH, HEIGHT = 160, 120


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def people(count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.uniform(30, 90, (count, 17, 2)).round(), rng.integers(0, 3, (count, 17))


def pipeline(transform: Any, **options: Any) -> Any:
    return A.Compose(
        [for_albumentations(transform, COCO, **options)],
        keypoint_params=A.KeypointParams("xy", label_fields=["visibility", "name"], remove_invisible=False),
        bbox_params=A.BboxParams("coco", label_fields=["who"]),
        seed=4,
    )


def data(count: int = 2) -> dict[str, Any]:
    xy, seen = people(count)
    return {
        "image": picture(), "keypoints": xy.reshape(-1, 2), "visibility": seen.reshape(-1).tolist(),
        "name": list(COCO.keypoint_names) * count, "bboxes": np.array([[10, 20, 100, 80], [5, 5, 50, 60]])[:count],
        "who": ["ann", "bob"][:count], "mask": (np.arange(HEIGHT * WIDTH) % 7).reshape(HEIGHT, WIDTH).astype(np.uint8),
    }  # fmt: skip


def test_a_flip_swaps_inside_compose() -> None:
    """Points and visibility of the twins change places, names stay with their column, box and mask follow."""
    xy, seen = people()

    out = pipeline(HorizontalFlip(p=1))(**data())

    names = list(COCO.keypoint_names)
    twin = [names.index(n.replace("left", "\0").replace("right", "left").replace("\0", "right")) for n in names]
    expected = xy[:, twin]
    expected[..., 0] = WIDTH - 1 - expected[..., 0]
    assert np.array_equal(np.reshape(out["keypoints"], (2, 17, 2)), expected)
    assert np.array_equal(np.reshape(out["visibility"], (2, 17)), seen[:, twin])
    assert out["name"] == names * 2 and out["who"] == ["ann", "bob"]
    assert np.asarray(out["bboxes"]) == pytest.approx(np.array([[50, 20, 100, 80], [105, 5, 50, 60]]), abs=1e-4)
    assert np.array_equal(out["image"], picture()[:, ::-1]) and np.array_equal(out["mask"], data()["mask"][:, ::-1])


def test_albumentations_own_flip_does_not_swap() -> None:
    """Why ours is needed: theirs leaves the left wrist's row on the right wrist."""
    xy, _ = people()
    theirs = A.Compose([A.HorizontalFlip(p=1)], keypoint_params=A.KeypointParams("xy", remove_invisible=False))
    out = np.reshape(theirs(image=picture(), keypoints=xy.reshape(-1, 2))["keypoints"], (2, 17, 2))
    assert np.array_equal(out[..., 0], WIDTH - 1 - xy[..., 0])


def test_an_affine_follows_its_matrix() -> None:
    """A shift by whole pixels moves picture, points, boxes and a label mask by it, also where the size changes."""
    out = pipeline(Affine(translate=(8, -6)))(**data())

    assert np.asarray(out["keypoints"]) == pytest.approx(data()["keypoints"] + [8, -6], abs=1e-4)
    assert np.array_equal(out["image"][:-6, 8:], picture()[6:, :-8])
    assert np.array_equal(out["mask"][:-6, 8:], data()["mask"][6:, :-8])
    assert np.asarray(out["bboxes"]) == pytest.approx(np.array([[18, 14, 100, 80], [13, 0, 50, 59]]), abs=1e-3)
    turned = pipeline(Transpose(p=1))(**data())
    assert turned["image"].shape == (WIDTH, HEIGHT, 3) and np.array_equal(turned["mask"], data()["mask"].T)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("channels", [(), (1,), (6,)])
def test_masks_of_any_kind(dtype: type, channels: tuple[int, ...]) -> None:
    """Labels of every dtype and number of channels are moved, not mixed."""
    labels = np.random.default_rng(2).integers(0, 120, (HEIGHT, WIDTH, *channels)).astype(dtype)
    moved = A.Compose([for_albumentations(HorizontalFlip(p=1), COCO)])(image=picture(), mask=labels)["mask"]
    assert moved.dtype == dtype and np.array_equal(moved, labels[:, ::-1])


def test_half_body_and_crop() -> None:
    """The top-down crop of half a body: kpdata's own result for the same random numbers."""
    chain = Compose([HalfBody(p=1, more_than=2), TopDown((48, 64), rotation=30, flip=0.5)])
    xy, seen = people(1)
    out = pipeline(chain)(**{**data(1), "bboxes": np.array([[10, 20, 100, 80]])})

    sample = Sample(picture(), xy, seen.astype(np.int8), COCO, bbox=np.array([[10.0, 20, 100, 80]]))
    expected = chain(sample, np.random.default_rng(4))
    assert out["image"].shape == (64, 48, 3) == expected.image.shape
    assert np.asarray(out["keypoints"]) == pytest.approx(expected.keypoints[0], abs=1e-3)
    assert np.array_equal(out["image"], expected.image) and out["mask"].shape == (64, 48)


def test_occlusion_reaches_the_labels() -> None:
    """Covered points become occluded in the visibility field, which albumentations' own dropout never does."""
    whole = CoarseDropout(count=(1, 1), height=(1.0, 1.0), width=(1.0, 1.0))
    before = {**data(1), "keypoints": np.full((17, 2), 60.0)}
    out = pipeline(whole)(**before)
    assert out["visibility"] == np.minimum(before["visibility"], 1).tolist()


def test_absent_points_and_no_visibility_field() -> None:
    """NaN points stay NaN and absent; without the field, finite points count as visible."""
    xy, _ = people(1)
    xy[0, 0] = np.nan
    compose = A.Compose(
        [for_albumentations(HorizontalFlip(p=1), COCO)], keypoint_params=A.KeypointParams("xy", remove_invisible=False)
    )
    out = np.asarray(compose(image=picture(), keypoints=xy[0])["keypoints"])
    assert np.isnan(out[0]).all() and np.isfinite(out[1:]).all()
    assert compose(image=picture(), keypoints=np.zeros((0, 2)))["keypoints"].shape[0] == 0
    assert A.Compose([for_albumentations(HorizontalFlip(p=1), COCO)])(image=picture())["image"].shape == picture().shape


def test_random_numbers_are_the_pipelines() -> None:
    """Two pipelines of one seed agree, also after pickling for a worker; p is the chance to be applied."""
    first, second = pipeline(RandomAffine(rotation=40)), pipeline(RandomAffine(rotation=40))
    copied = pickle.loads(pickle.dumps(pipeline(RandomAffine(rotation=40))))
    a, b, c = (p(**data())["keypoints"] for p in (first, second, copied))
    assert np.array_equal(a, b) and np.array_equal(a, c)
    assert not np.array_equal(a, first(**data())["keypoints"])
    coin = pipeline(HorizontalFlip(p=1), p=0.5)
    flipped = [not np.array_equal(coin(**data())["image"], picture()) for _ in range(60)]
    assert 15 < sum(flipped) < 45


def test_inside_one_of() -> None:
    """It is a member like any other: nested, with a description that names it."""
    nested = A.Compose([A.OneOf([for_albumentations(HorizontalFlip(p=1), COCO), A.NoOp()], p=1)], seed=0)
    assert nested(image=picture())["image"].shape == picture().shape
    assert "HorizontalFlip(p=1)" in repr(nested) and "coco_17" in repr(nested)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keypoints": np.zeros((16, 2)), "visibility": [2] * 16, "name": ["a"] * 16}, SchemaError, "16 keypoints.*17"),
        ({"visibility": [7] * 34}, SchemaError, r"visibility \[7.0\], expected 0 to 3"),
        ({"image": picture().astype(np.float32)}, SchemaError, r"Sample.image: float32"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type, words: str) -> None:
    """What cannot be a sample is refused in words."""
    with pytest.raises(error, match=words):
        pipeline(HorizontalFlip(p=1))(**{**data(), **change})


def test_rows_that_could_be_dropped_are_refused() -> None:
    """remove_invisible=True, albumentations' default, loses count of the columns."""
    compose = A.Compose([for_albumentations(HorizontalFlip(p=1), COCO)], keypoint_params=A.KeypointParams("xy"))
    with pytest.raises(KpdataError, match="remove_invisible=True drops rows"):
        compose(image=picture(), keypoints=people(1)[0][0])


def test_other_refusals() -> None:
    """Second pictures, unknown twins, what is no transform of ours, a p that is no chance, another number of people."""
    with pytest.raises(KpdataError, match="additional target 'depth' of kind 'image'"):
        A.Compose([for_albumentations(HorizontalFlip(), COCO)], additional_targets={"depth": "image"})
    with pytest.raises(SkeletonError, match="twins are not known"):
        A.Compose([for_albumentations(HorizontalFlip(p=1), Skeleton("one", ("a",)))])(image=picture())
    with pytest.raises(SchemaError, match="expected a transform of kpdata"):
        for_albumentations(A.HorizontalFlip, COCO)
    with pytest.raises(SchemaError, match="p 2, expected a probability"):
        for_albumentations(HorizontalFlip(), COCO, p=2)

    class Nobody:
        def draw(self, sample: Sample, rng: np.random.Generator) -> None: ...

        def apply(self, sample: Sample, drawn: None) -> Sample:
            return Sample(sample.image, np.zeros((0, 17, 2)), np.zeros((0, 17), np.int8), COCO)

    with pytest.raises(KpdataError, match="made 0 people of 2"):
        pipeline(Nobody())(**data())
