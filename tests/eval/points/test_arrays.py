"""Distances, PCK, PCP, AUC, EPE and NME of plain arrays, against loops written from the papers and MATLAB sources."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.errors import EvaluationError
from kpdata.eval.points import arrays

LIMBS: list[arrays.Limb] = [([0], [1]), ([1], [2]), ([0, 1], [2, 3])]


@st.composite
def poses(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N, 4, 2) truth and prediction on a coarse grid, so that ties happen, labels, and lengths, some odd."""
    n, seed = draw(st.integers(0, 12)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, (n, 4, 2)).astype(float)
    found = truth + rng.integers(-3, 4, (n, 4, 2))
    found[rng.random((n, 4)) < 0.1] = np.nan
    found[rng.random((n, 4)) < 0.05, 1] = np.inf
    norms = rng.choice([np.nan, 0.0, 1.0, 5.0, 6.0, -1.0], n, p=[0.1, 0.1, 0.2, 0.3, 0.25, 0.05])
    return truth, found, rng.random((n, 4)) < 0.8, norms


def naive_distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.dist(a, b) if np.isfinite(b).all() else math.inf


@given(poses(), st.sampled_from([0.2, 0.5, 1.0]), st.booleans())
def test_pck_is_the_share_of_near_keypoints(drawn: Any, threshold: float, inclusive: bool) -> None:
    """One keypoint and one person at a time, as computePCK.m counts them."""
    truth, found, labelled, norms = drawn
    rates, counts = arrays.pck(
        arrays.distances(truth, found, labelled), norms, np.array([threshold, 1e9]), inclusive=inclusive
    )
    for k in range(4):
        hits = []
        for n in range(len(truth)):
            if not labelled[n, k] or not norms[n] >= 0:
                continue
            far = naive_distance(truth[n, k], found[n, k])
            ratio = far / norms[n] if norms[n] else math.inf
            hits.append(ratio <= threshold if inclusive else ratio < threshold)
        assert counts[k] == len(hits)
        assert rates[0, k] == sum(hits) / len(hits) if hits else np.isnan(rates[0, k])


@given(poses())
def test_pcp_is_the_share_of_limbs_with_right_ends(drawn: Any) -> None:
    """Both ends within half of the limb (strict), or their mean (loose), limb by limb and person by person."""
    truth, found, labelled, _ = drawn
    errors = arrays.limb_errors(truth, found, labelled, LIMBS)
    for number, (a, b) in enumerate(LIMBS):
        strict, loose = [], []
        for n in range(len(truth)):
            if not all(labelled[n, k] for k in (*a, *b)):
                continue
            ends = [(truth[n, list(e)].mean(0), found[n, list(e)].mean(0)) for e in (a, b)]
            length = math.dist(ends[0][0], ends[1][0])
            far = [naive_distance(*end) / length if length else math.inf for end in ends]  # as eval_pcp.m
            strict.append(all(share <= 0.5 for share in far))
            loose.append(sum(far) / 2 <= 0.5)
        for kind, hits in ((True, strict), (False, loose)):
            rates, counts = arrays.pcp(errors, 0.5, strict=kind)
            assert counts[number] == len(hits)
            assert rates[number] == (sum(hits) / len(hits) if hits else pytest.approx(np.nan, nan_ok=True))


@given(poses())
def test_epe_and_nme_are_means_over_what_was_predicted(drawn: Any) -> None:
    """Mean, median and count of a list of distances, by the standard library."""
    truth, found, labelled, norms = drawn
    far = arrays.distances(truth, found, labelled)
    for errors, scale in ((far, np.ones(len(truth))), (arrays.normalized(far, norms), norms)):
        means, medians, counts = arrays.mean_errors(errors)
        for k in range(4):
            listed = [
                math.dist(truth[n, k], found[n, k]) / scale[n]
                for n in range(len(truth))
                if labelled[n, k] and np.isfinite(found[n, k]).all() and scale[n] > 0
            ]
            assert counts[k] == len(listed)
            if listed:
                assert means[k] == pytest.approx(statistics.fmean(listed), rel=1e-12)
                assert medians[k] == pytest.approx(statistics.median(listed), rel=1e-12)
            else:
                assert np.isnan(means[k]) and np.isnan(medians[k])


@given(poses(), st.sampled_from([0.25, 2.0, 1024.0]), st.integers(-50, 50), st.integers(0, 2**32 - 1))
def test_size_place_and_order_of_people_do_not_matter(drawn: Any, scale: float, shift: int, seed: int) -> None:
    """Images twice as large, moved, or shuffled give the same PCK, PCP and NME, and EPE scales with them."""
    truth, found, labelled, norms = drawn
    order = np.random.default_rng(seed).permutation(len(truth))
    limits = np.array([0.2, 0.5])
    before = arrays.distances(truth, found, labelled)
    moved_truth, moved_found = ((xy[order] * scale + shift) for xy in (truth, found))
    after = arrays.distances(moved_truth, moved_found, labelled[order])
    np.testing.assert_array_equal(after, before[order] * scale)
    np.testing.assert_array_equal(
        arrays.pck(after, norms[order] * scale, limits)[0], arrays.pck(before, norms, limits)[0]
    )
    sides = arrays.limb_errors(truth, found, labelled, LIMBS)
    others = arrays.limb_errors(moved_truth, moved_found, labelled[order], LIMBS)
    np.testing.assert_array_equal(arrays.pcp(others)[0], arrays.pcp(sides)[0])
    np.testing.assert_allclose(
        arrays.mean_errors(arrays.normalized(after, norms[order] * scale))[0],
        arrays.mean_errors(arrays.normalized(before, norms))[0],
    )


@given(poses())
def test_pck_grows_with_the_threshold(drawn: Any) -> None:
    """Whoever is right within 0.1 is right within 0.5, and all that were predicted, of people with a size, at last."""
    truth, found, labelled, norms = drawn
    far = arrays.distances(truth, found, labelled)
    rates, counts = arrays.pck(far, norms, np.array([0.0, 0.1, 0.5, 1e300]))
    measured = counts > 0
    assert (np.diff(rates[:, measured], axis=0) >= 0).all()
    sized = norms > 0
    assert (rates[-1] * counts)[measured] == pytest.approx(np.isfinite(far[sized]).sum(0)[measured])


def test_area_under_the_curve() -> None:
    """area_under_curve.m's own example, x squared from 0 to 1: a third; and a step that is always right: 1."""
    grid = np.linspace(0, 1, 101)
    assert arrays.auc(np.square(grid), grid) == pytest.approx(1 / 3, abs=1e-4)
    assert arrays.auc(np.ones((3, 5)), np.array([0, 0.2, 0.5])).tolist() == [1.0] * 5
    # two triangles of unequal width, by hand: (0.2 × 0.5 / 2 + 0.8 × (0.5 + 1) / 2) / 1
    assert arrays.auc(np.array([0.0, 0.5, 1.0]), np.array([0, 0.2, 1.0])) == pytest.approx(0.65)
    for bad in ([0.5], [0.5, 0.5], [0.5, 0.1]):
        with pytest.raises(EvaluationError, match="at least two, ascending"):
            arrays.auc(np.zeros((len(bad), 2)), np.array(bad))


def test_both_means_have_their_names() -> None:
    """Two keypoints, one labelled nine times as often: 0.5 unweighted, 0.9 of all labelled keypoints."""
    values, counts = np.array([1.0, 0.0, 0.3]), np.array([9, 1, 0])
    assert arrays.mean_and_total(values, counts, np.ones(3, bool)) == (0.5, 0.9)
    assert arrays.mean_and_total(values, counts, np.array([False, True, True])) == (0.0, 0.0)
    assert np.isnan(arrays.mean_and_total(values, counts, np.array([False, False, True]))).all()


def test_lengths_of_known_shapes() -> None:
    """3-4-5 triangles: 0.6 × 5 for a head box of 3 × 4, and so on; NaN where there is nothing to measure."""
    boxes = np.array([[10.0, 10, 3, 4], [np.nan] * 4, [0, 0, -4, 4]])
    np.testing.assert_allclose(arrays.head_sizes(boxes)[:2], [3.0, np.nan])
    np.testing.assert_array_equal(arrays.box_sides(boxes)[:2], [4.0, np.nan])
    np.testing.assert_allclose(arrays.box_roots(boxes), [math.sqrt(12), np.nan, np.nan])
    xy = np.array([[[0.0, 0], [3, 4], [9, 1]]] * 3)
    labelled = np.array([[True, True, True], [True, True, False], [False, False, False]])
    np.testing.assert_array_equal(arrays.pair_lengths(xy, labelled, 0, 1), [5.0, 5.0, np.nan])
    np.testing.assert_array_equal(arrays.extents(xy, labelled), [9.0, 4.0, np.nan])


def test_shapes_that_contradict_each_other_are_refused() -> None:
    """The message has the shapes found and those expected."""
    xy = np.zeros((2, 3, 2))
    with pytest.raises(EvaluationError, match=r"\(2, 3, 2\), predictions \(2, 4, 2\)"):
        arrays.distances(xy, np.zeros((2, 4, 2)), np.ones((2, 3), bool))
    with pytest.raises(EvaluationError, match="expected one a person"):
        arrays.normalized(np.zeros((2, 3)), np.ones(3))
