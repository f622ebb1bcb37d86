"""The compiled loops and NumPy's are the same to the bit, and each equals pycocotools' loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.eval import kernels, match

pytestmark = [
    pytest.mark.filterwarnings("error::RuntimeWarning"),
    pytest.mark.skipif(kernels.compiled() is None, reason="no C compiler when kpdata was installed"),
]
SEEDS = st.integers(0, 2**32 - 1)
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e200, 5e-324])


def both(work):
    """What `work` gives with the compiled loops and without."""
    found = []
    for pure in ("", "1"):
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            patch.setenv("KPDATA_PURE_PYTHON", pure)
            assert (kernels.compiled() is None) == bool(pure)
            found.append(work())
    return found


def numbers(rng, shape, odd=0.1):
    """Numbers of which some are no ordinary ones."""
    values = rng.normal(0, 100, shape)
    where = rng.random(shape) < odd
    values[where] = rng.choice(ODD, int(where.sum()))
    return values


@given(SEEDS, st.sampled_from([1, 2, 3, 17, 133]), st.booleans())
def test_extents(seed, k, some):
    """Least and greatest coordinates, of all rows or of some, NaN where one is NaN, whatever else is infinite."""
    rng = np.random.default_rng(seed)
    xy = numbers(rng, (20, k, 2), rng.choice([0, 0.02, 0.5]))
    rows = rng.integers(0, 20, 7) if some else None
    compiled, pure = both(lambda: kernels.extents(xy, rows))
    naive = xy if rows is None else xy[rows]
    for found in (compiled, pure):
        assert np.array_equal(found[0], naive.min(1), equal_nan=True)
        assert np.array_equal(found[1], naive.max(1), equal_nan=True)


@given(SEEDS)
def test_near(seed):
    """Pairs whose boxes touch, by detection and then ground truth; NaN touches everything."""
    rng = np.random.default_rng(seed)
    boxes = [np.sort(np.abs(numbers(rng, (9, 2, 2), 0.05)), axis=1).reshape(-1, 4) for _ in range(2)]
    first = np.sort(rng.integers(0, 6, 9))
    counts = rng.integers(0, 4, 9)
    compiled, pure = both(lambda: kernels.near(first, counts, *boxes))
    naive = [
        (i, j)
        for i in range(9)
        for j in range(first[i], first[i] + counts[i])
        if not any((boxes[0][i, :2] > boxes[1][j, 2:]) | (boxes[0][i, 2:] < boxes[1][j, :2]))
    ]
    for d, g in (compiled, pure):
        assert list(zip(d.tolist(), g.tolist(), strict=True)) == naive


@given(SEEDS, st.sampled_from([1, 5, 17, 133]))
def test_terms(seed, k):
    """-e of labelled keypoints, and of all keypoints to the enlarged box: the same bits both ways."""
    rng = np.random.default_rng(seed)
    found, people, boxes = (numbers(rng, shape, 0.02) for shape in ((8, k, 2), (6, k, 2), (6, 4)))
    rows, g = rng.integers(0, 8, 30), rng.integers(0, 6, 30)
    joints = np.argsort(rng.random((6, k)), axis=1)
    variances, areas = rng.random(k), numbers(rng, 6, 0.1)
    n = int(rng.integers(1, k + 1))
    for work in (
        lambda: kernels.minus_e(found, rows, people, g, joints, n, variances, areas),
        lambda: kernels.minus_e_of_boxes(found, rows, boxes, g, variances, areas),
    ):
        compiled, pure = both(work)
        assert np.array_equal(compiled, pure, equal_nan=True)


def greedy_by_loop(pairs, ignored, crowd, limit):
    """cocoeval.py:272–299 for one threshold and range: {detection: ground truth}; pairs (detection, truth, OKS)."""
    matched, taken = {}, set()
    for d in sorted({pair[0] for pair in pairs}):
        iou, m = limit, -1
        for g, oks in sorted(((g, oks) for i, g, oks in pairs if i == d), key=lambda pair: ignored[pair[0]]):
            if g in taken and not crowd[g]:
                continue
            if m > -1 and not ignored[m] and ignored[g]:
                break
            if oks < iou:
                continue
            iou, m = oks, g
        if m > -1:
            matched[d] = m
            taken.add(m)
    return matched


@given(SEEDS, st.booleans())
def test_greedy(seed, nan):
    """Who is matched with whom is what pycocotools' loop says, with ties, crowds, ignored people and NaN, whatever the
    order in which the pairs come."""
    rng = np.random.default_rng(seed)
    pairs = [(d, g) for d in range(6) for g in range(5) if nan or rng.random() < 0.7]
    oks = rng.choice([0.2, 0.5, 0.5, 0.8, 0.9, np.nan if nan else 0.3], len(pairs))
    ignored, crowd = rng.random((2, 5)) < 0.4, rng.random(5) < 0.3
    limits = np.array([0.1, 0.5, 0.85])
    matched = np.full((2, 3, 7), -1, np.int32)
    order = rng.permutation(len(pairs))
    d, g = np.array(pairs, np.int64).reshape(-1, 2)[order].T.copy()
    assert kernels.greedy(d, g, oks[order], ignored, crowd, limits, matched)
    for a in range(2):
        for t in range(3):
            told = [(*pair, o) for pair, o in zip(pairs, oks.tolist(), strict=True)]
            naive = greedy_by_loop(told, ignored[a], crowd, limits[t])
            assert {i: int(g[p]) for i, p in enumerate(matched[a, t].tolist()) if p >= 0} == naive


@given(SEEDS, st.booleans())
def test_matches_are_the_same(coco, seed, strange):
    """A whole matching, whose pairs and OKS have the same bits; a rank's turn needs no order of the pairs."""
    case = coco.random_case(seed, strange=strange)
    gt, dt, params = coco.arrays(case)
    compiled, pure = both(lambda: match(gt, dt, case.images(), case.categories(), params))
    for name in ("pair_gt", "pair_oks", "matched", "gt_row", "dt_row"):
        assert np.array_equal(getattr(compiled, name), getattr(pure, name), equal_nan=name == "pair_oks")


@given(SEEDS, st.booleans())
def test_pure_python_is_pycocotools_to_the_bit(coco, seed, strange):
    """Where no compiler was there, everything has the same bits as pycocotools too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPDATA_PURE_PYTHON", "1")
        assert coco.differences(coco.random_case(seed, strange=strange)) == []


def test_arrays_that_do_not_fit_are_refused():
    """A kernel looks at lengths before it reads: too short an array is an error and no crash."""
    built, two = kernels.compiled(), np.zeros((2, 2))
    rows = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        built.extents(np.zeros((2, 3, 2)), rows, two[:1], two, 3)
    with pytest.raises(ValueError, match="do not fit"):
        built.near(rows, rows[:1], np.zeros((2, 4)), np.zeros((2, 4)), rows, rows)
    with pytest.raises(ValueError, match="do not fit"):
        built.terms(two, rows, two, rows, rows, np.ones(1), np.ones(2), np.zeros((2, 2)), 1, 1)
    with pytest.raises(ValueError, match="do not fit"):
        built.box_terms(two, rows, two, rows[:1], np.ones(1), np.ones(2), np.zeros((2, 1)), 1)
    with pytest.raises(ValueError, match="do not fit"):
        built.greedy(rows, rows[:1], np.ones(2), rows, rows, np.ones(1), np.zeros(2, np.int32), rows)


@pytest.mark.parametrize("odd", [-1, 2, 2**62, -(2**63)])
def test_positions_outside_are_refused(odd):
    """Nobody reads or writes beside an array, whatever number stands in another one."""
    built, two = kernels.compiled(), np.zeros((2, 2))
    rows, far, ones, flags = np.zeros(2, np.int64), np.array([0, odd]), np.ones(2), np.zeros((1, 2), bool)
    boxes, matched = np.zeros((2, 4)), np.zeros((1, 1, 2), np.int32)
    joints = np.zeros((2, 1), np.int64)
    for call in (
        lambda: built.extents(two, far, two, two, 1),
        lambda: built.near(far, ones.astype(np.int64), boxes, boxes, rows.copy(), rows.copy()),
        lambda: built.near(rows, far + (far > 0), boxes, boxes, rows.copy(), rows.copy()),
        lambda: built.terms(two, far, two, rows, joints, ones[:1], ones, np.zeros((2, 1)), 1, 1),
        lambda: built.terms(two, rows, two, far, joints, ones[:1], ones, np.zeros((2, 1)), 1, 1),
        lambda: built.terms(two, rows + 1, two, rows + 1, far[:, None], ones[:1], ones, np.zeros((2, 1)), 1, 1),
        lambda: built.box_terms(two, far, boxes, rows, ones[:1], ones, np.zeros((2, 1)), 1),
        lambda: built.box_terms(two, rows, boxes, far, ones[:1], ones, np.zeros((2, 1)), 1),
        lambda: built.greedy(far, rows, ones, flags, flags[0], ones[:1], matched, flags[0].copy()),
        lambda: built.greedy(rows, far, ones, flags, flags[0], ones[:1], matched, flags[0].copy()),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            call()


def test_extents_of_triples_are_refused():
    """x, y, v is no place: read as x, y it would give numbers that look right."""
    for work in (lambda: kernels.extents(np.ones((4, 3, 3))), lambda: kernels.extents(np.ones((4, 0, 2)))):
        with pytest.raises((ValueError, IndexError)):
            work()
    assert kernels.extents(np.ones((0, 0, 2)))[0].shape == (0, 2)
