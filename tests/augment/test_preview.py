"""The preview shows what is so: colours by side, rings for occluded, nothing for absent, and maps told right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.augment import kernels
from kpdata.augment.preview import decompose, describe, preview, sheet
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import Affine, HorizontalFlip
from kpdata.draw import LEFT, RIGHT
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

EYES = Skeleton("eyes_2", ("left_eye", "right_eye"), flip_pairs=frozenset({("left_eye", "right_eye")}))
GREY = 128


def eyes(visibility: tuple[int, int] = (2, 2), xy: tuple = ((40.0, 60), (80, 60))) -> Sample:
    """The left eye at x = 40, the right one at 80, in a grey square of 128 px."""
    return Sample(np.full((128, 128, 3), GREY, np.uint8), np.array([xy], float), np.array([visibility], np.int8), EYES)


def place(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Mean x of the pixels of about this colour; NaN without any."""
    x = np.nonzero((np.abs(picture.astype(int) - colour) < 40).all(-1))[1]
    return float(x.mean()) if len(x) else float("nan")


def cells(rows: list, count: int, height: int = 128) -> list[np.ndarray]:
    """The pictures of the first row of a sheet of squares."""
    found = sheet(rows, height=height)
    return [found[30 : 30 + height, 10 + i * (height + 10) : 10 + i * (height + 10) + height] for i in range(count)]


def test_a_flip_exchanges_the_eyes() -> None:
    """What was the right eye, at 80, is seen at W - 1 - 80 after a mirror, and is the left eye there: blue."""
    one = eyes()
    before, after = cells([(one, [HorizontalFlip(p=1)(one, np.random.default_rng(0))])], 2)
    assert place(before, LEFT) == pytest.approx(40, abs=1)
    assert place(before, RIGHT) == pytest.approx(80, abs=1)
    assert place(after, LEFT) == pytest.approx(47, abs=1)
    assert place(after, RIGHT) == pytest.approx(87, abs=1)


def test_a_forgotten_swap_is_seen() -> None:
    """Keypoints that were mirrored without their columns have the colours exchanged: what the sheet is for."""
    one = eyes()
    flip = kernels.flip_horizontal(one.size)
    wrong = one.changed(image=one.image[:, ::-1], keypoints=kernels.warp_keypoints(one.keypoints, flip))
    _, after = cells([(one, [wrong])], 2)
    assert place(after, LEFT) == pytest.approx(87, abs=1)
    assert place(after, RIGHT) == pytest.approx(47, abs=1)


def test_rings_and_nothing() -> None:
    """An occluded keypoint is a ring with the picture in its middle; an absent one is not drawn."""
    _, ring = cells([(eyes(), [eyes((1, 0))])], 2)
    assert tuple(ring[60, 40]) == (GREY, GREY, GREY)
    assert place(ring, LEFT) == pytest.approx(40, abs=1)
    assert np.isnan(place(ring, RIGHT))


def test_enlarged_pictures_keep_their_points() -> None:
    """Pixel centres map to pixel centres when a picture is drawn at another height: (x + 0.5) · 2 - 0.5."""
    before, _ = cells([(eyes(), [eyes()])], 2, height=256)
    assert place(before, LEFT) == pytest.approx(80.5, abs=1)


@given(st.floats(0.05, 20), st.floats(-179, 179), st.booleans())
def test_maps_are_told_right(scale: float, degrees: float, flip: bool) -> None:
    """Scale, turn and flip of a composed map come back."""
    m = kernels.translate(5, -3) @ kernels.scale(scale) @ kernels.rotate(degrees)
    m = m @ kernels.flip_horizontal((50, 40)) if flip else m
    found = decompose(m)
    assert found[:2] == pytest.approx((scale, degrees), abs=1e-6)
    assert found[2] is flip


def test_texts() -> None:
    """What became of a sample is told: the map, and how many points are hidden and outside."""
    one = eyes((1, 2))
    turned = Affine(rotation=90, translate=(0, 0))(one, np.random.default_rng(0))
    assert describe(one, turned) == ("x1.00  +90°", "2 points, 1 hidden")
    moved = Affine(translate=(100, 0))(one, np.random.default_rng(0))
    assert describe(one, moved) == ("x1.00", "2 points, 1 hidden, 2 outside")
    assert describe(one, HorizontalFlip(p=1)(one, np.random.default_rng(0)))[0] == "x1.00  flipped"


def test_the_same_seed_gives_the_same_sheet() -> None:
    """Columns are drawn from the seed; another seed gives another sheet, another number of columns another width."""
    rows = [eyes(), eyes((1, 2))]
    one, two, other = (preview(rows, HorizontalFlip(), n=3, seed=s, height=64) for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.shape == (30 + 2 * (64 + 40), 10 + 4 * 74, 3)


def test_nobody_in_the_picture() -> None:
    """A sample without people is a picture without a skeleton."""
    empty = Sample(np.full((64, 64, 3), GREY, np.uint8), np.zeros((0, 2, 2)), np.zeros((0, 2), np.int8), EYES)
    assert preview([empty], HorizontalFlip(), n=1, height=64).shape == (30 + 104, 158, 3)


@pytest.mark.parametrize(
    ("rows", "options"), [(0, {}), (1, {"titles": ["a", "b"]}), (1, {"height": 20})], ids=["rows", "titles", "height"]
)
def test_bad_sheets(rows: int, options: dict) -> None:
    """No samples, titles that do not fit, pictures too small to judge."""
    with pytest.raises(SchemaError, match="expected a sample, a title for each or none, and 64 px or more"):
        sheet([(eyes(), [eyes()])] * rows, **options)
