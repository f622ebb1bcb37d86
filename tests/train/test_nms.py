"""OKS-NMS of all images at once: equal to the official functions' outcome, and to loops written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import skeleton
from kpdata.errors import TrainError
from kpdata.train.nms import oks, oks_nms, rescored, soft_oks_nms

SIGMAS = np.array(skeleton.load("coco_17").sigmas)


@pytest.fixture(scope="module")
def reference(real_data: Path) -> dict[str, np.ndarray]:
    path = real_data.parent / "reference" / "codec_reference.npz"
    if not path.is_file():
        pytest.skip(f"reference numbers not found: {path}")
    with np.load(path) as file:
        return {name: file[name] for name in file.files if "nms" in name or name == "oks_matrix"}


def test_oks_is_that_of_the_official_code(reference: dict[str, np.ndarray]) -> None:
    """All pairs of the twelve stored people, to the last bits."""
    points, areas = reference["nms_keypoints"], reference["nms_areas"]
    g, d = np.divmod(np.arange(144), 12)
    found = oks(points[g], points[d], areas[g], areas[d], SIGMAS).reshape(12, 12)
    np.testing.assert_allclose(found, reference["oks_matrix"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("threshold", ["0.5", "0.9"])
def test_who_stays_is_who_stays_in_the_official_code(reference: dict[str, np.ndarray], threshold: str) -> None:
    """Hard and soft, the same people in the same order."""
    given_ = reference["nms_keypoints"], reference["nms_scores"], reference["nms_areas"], SIGMAS
    hard = oks_nms(*given_, threshold=float(threshold))
    soft, scores = soft_oks_nms(*given_, threshold=float(threshold))
    assert hard.tolist() == reference[f"oks_nms_keep_{threshold}"].tolist()
    assert soft.tolist() == reference[f"soft_oks_nms_keep_{threshold}"].tolist()
    assert (np.diff(scores) <= 0).all()


def people(seed: int, count: int, images: int) -> tuple[np.ndarray, ...]:
    """Crowded poses: some near copies of others, scores that differ."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 100, (max(count // 3, 1), 17, 2))
    points = base[rng.integers(len(base), size=count)] + rng.normal(0, 3, (count, 17, 2))
    scores = rng.permutation(count) / 10 + 0.1
    return points, scores, rng.uniform(2000, 6000, count), rng.integers(images, size=count)


def naive_pair(a: np.ndarray, b: np.ndarray, area_a: float, area_b: float) -> float:
    total = 0.0
    for k in range(17):
        dx, dy = a[k] - b[k]
        total += np.exp(-(dx**2 + dy**2) / (2 * SIGMAS[k]) ** 2 / ((area_a + area_b) / 2 + np.spacing(1)) / 2)
    return float(total / 17)


@given(seed=st.integers(0, 10_000), count=st.integers(0, 14), images=st.integers(1, 4))
def test_images_do_not_meet(seed: int, count: int, images: int) -> None:
    """All images at once keep whom a loop over each image and each pair keeps, in that order."""
    points, scores, areas, image = people(seed, count, images)
    expected = []
    for number in range(images):
        left = sorted(np.flatnonzero(image == number).tolist(), key=lambda row: -scores[row])
        while left:
            best, *left = left
            expected.append(best)
            left = [row for row in left if naive_pair(points[best], points[row], areas[best], areas[row]) <= 0.7]
    assert oks_nms(points, scores, areas, SIGMAS, images=image, threshold=0.7).tolist() == expected


@given(seed=st.integers(0, 10_000), count=st.integers(0, 14), images=st.integers(1, 3), most=st.integers(1, 6))
def test_soft_scores_fall_with_each_better_one(seed: int, count: int, images: int, most: int) -> None:
    """Rows, order and lowered scores are those of a loop; an image keeps at most so many."""
    points, scores, areas, image = people(seed, count, images)
    rows, values = [], []
    for number in range(images):
        left = {row: scores[row] for row in np.flatnonzero(image == number).tolist()}
        for _ in range(most):
            if not left:
                break
            best = max(left, key=lambda row: left[row])
            rows.append(best)
            values.append(left.pop(best))
            for row in left:
                left[row] *= np.exp(-(naive_pair(points[best], points[row], areas[best], areas[row]) ** 2) / 0.9)
    kept, found = soft_oks_nms(points, scores, areas, SIGMAS, images=image, most=most)
    assert kept.tolist() == rows
    np.testing.assert_allclose(found, values, rtol=1e-12)


def test_a_person_scores_by_sure_keypoints_and_its_box() -> None:
    """The mean of what is above 0.2, times the box; 0.2 itself is not above, and nothing sure is 0."""
    each = np.array([[0.9, 0.5, 0.2], [0.1, 0.2, 0.0], [0.6, 0.6, 0.6]])
    np.testing.assert_allclose(rescored(each, np.array([0.5, 1.0, 0.25])), [0.35, 0, 0.15])
    np.testing.assert_allclose(rescored(each), [0.7, 0, 0.6])
    assert rescored(np.empty((0, 3)), np.empty(0)).shape == (0,)


def test_columns_that_do_not_fit_are_named() -> None:
    """Sixteen sigmas for seventeen keypoints are a sentence."""
    points, scores, areas, _ = people(0, 3, 1)
    with pytest.raises(TrainError, match=r"OKS-NMS of 3 people.*\(3, 17, 2\).*\(16,\)"):
        oks_nms(points, scores, areas, SIGMAS[:16])
