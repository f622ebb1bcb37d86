"""Areas, the order of rows, which pairs are looked at, and OKS to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.arrays import list_pairs
from kpdata.errors import EvaluationError
from kpdata.eval import Detections, GroundTruth, Params, detection_area, oks

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("k", [1, 2, 5, 17, 133])
def test_area_is_the_extent_of_all_keypoints(k):
    """The area of a result without a box is what loadRes's loop over results gives, NaN included."""
    xy = np.random.default_rng(k).normal(0, 100, (300, k, 2))
    xy[7, 0, 1] = np.nan
    naive = [(np.max(p[:, 0]) - np.min(p[:, 0])) * (np.max(p[:, 1]) - np.min(p[:, 1])) for p in xy]
    assert np.array_equal(detection_area(xy), naive, equal_nan=True)


def test_area_of_boxes():
    """Where results have boxes the keypoints do not matter."""
    assert detection_area(np.zeros((1, 3, 2)), np.array([[5.0, 5.0, 4.0, 2.5]])).tolist() == [10.0]


def every_pair(case, coco):
    """{(image, category): matrix of OKS by rank and file order} from pycocotools, and the same pairs from kpdata."""
    gt, dt, params = coco.arrays(case)
    order = oks.order_rows(gt, dt, case.images(), case.categories(), params.max_dets[-1])
    first = np.searchsorted(order.gt_group, order.dt_group)
    counts = np.searchsorted(order.gt_group, order.dt_group, side="right") - first
    d, g = list_pairs(first, counts)
    people = oks.CompactKeypoints.of(gt, order.gt_rows)
    got = oks.pair_oks(people, g, dt.keypoints, order.dt_rows[d], params.sigmas)
    judge = coco.judge(case)
    blocks = [judge.ious[i, c] for c in judge.params.catIds for i in judge.params.imgIds if len(judge.ious[i, c])]
    want = np.concatenate([np.ravel(b) for b in blocks]) if blocks else np.empty(0)
    return (gt, dt, order, params), (d, g), want, got


@given(SEEDS, st.sampled_from([1, 2, 7, 8, 9, 17, 64, 133]), st.booleans())
def test_oks_to_the_bit(coco, seed, k, strange):
    """OKS of every pair has pycocotools' bits, whichever keypoints are labelled: the order of additions is the same."""
    _, _, want, got = every_pair(coco.random_case(seed, strange=strange, k=k), coco)
    assert np.array_equal(got, want, equal_nan=True)


@given(SEEDS, st.booleans())
def test_no_pair_is_lost(coco, seed, strange):
    """Pairs left out, for being far apart or below the least threshold, cannot have matched."""
    (gt, dt, order, params), (d, g), want, _ = every_pair(coco.random_case(seed, strange=strange), coco)
    kept = oks.candidate_pairs(gt, dt, order, params)
    least = min(params.iou_thresholds.min(), 1 - 1e-10)
    needed = {(i, j) for i, j, o in zip(d.tolist(), g.tolist(), want, strict=True) if not o < least}
    assert needed <= set(zip(kept.dt.tolist(), kept.gt.tolist(), strict=True))


def test_far_pairs_are_not_computed(coco, monkeypatch):
    """A crowded scene of people far from each other costs one OKS a detection, not one a pair."""
    n = 30
    xy = np.random.default_rng(0).random((n, 17, 2)) * 10 + np.arange(n)[:, None, None] * 1000
    one, none = np.ones(n), np.zeros((n, 4))
    gt = GroundTruth(one, one, np.arange(n) + 1, xy, np.ones((n, 17)), one * 17, none, one * 5000, one * 0)
    dt = Detections(one, one, xy, np.arange(n), one * 5000)
    computed = []
    whole = oks.pair_oks
    monkeypatch.setattr(
        oks, "pair_oks", lambda p, g, *rest, **more: computed.append(len(g)) or whole(p, g, *rest, **more)
    )
    params = Params(coco.sigmas, max_dets=(n,))
    oks.candidate_pairs(gt, dt, oks.order_rows(gt, dt, [1], [1], n), params)
    assert computed == [n]


@given(SEEDS, st.integers(1, 50), st.integers(1, 50))
def test_blocks_do_not_show(coco, seed, pairs, terms):
    """However little is worked on at once, the result has the same bits."""
    case = coco.random_case(seed, strange=True)
    gt, dt, params = coco.arrays(case)
    order = oks.order_rows(gt, dt, case.images(), case.categories(), params.max_dets[-1])
    whole = oks.candidate_pairs(gt, dt, order, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oks, "PAIRS_PER_BLOCK", pairs)
        patch.setattr(oks, "TERMS_PER_BLOCK", terms)
        parts = oks.candidate_pairs(gt, dt, order, params)
    assert all(np.array_equal(getattr(whole, n), getattr(parts, n), equal_nan=True) for n in ("dt", "gt", "oks"))


def test_blocks_are_bounded():
    """A block exceeds the limit only when one row does."""
    counts = np.array([3, 0, 2, 9, 1, 4, 0])
    blocks = list(oks._blocks(counts, 5))
    assert [i for start, stop in blocks for i in range(start, stop)] == list(range(7))
    assert all(counts[a:b].sum() <= 5 or b - a == 1 for a, b in blocks)


def test_unlabelled_person_takes_the_enlarged_box(coco):
    """Without a labelled keypoint, distances go to the box three times its size: inside it OKS is 1."""
    row = {"id": 5, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 1, "area": 100.0}
    person = row | {"keypoints": [0, 0, 0] * 17, "bbox": [100, 100, 10, 20]}
    found = {"image_id": 1, "category_id": 1, "score": 1.0}
    results = [
        found | {"keypoints": [90, 80, 1, *[120, 140, 1] * 16]},
        found | {"keypoints": [89, 80, 1, *[120, 140, 1] * 16]},
    ]
    truth = {"images": [{"id": 1}], "annotations": [person], "categories": [{"id": 1}]}
    _, _, want, got = every_pair(coco.Case(truth, results, {"sigmas": coco.sigmas}), coco)
    assert got.tolist() == want.tolist()
    assert got[0] == 1.0 > got[1]


def test_columns_must_agree():
    """Shapes that contradict each other are refused by name, before any number is computed."""
    one = np.ones(2)
    gt = GroundTruth(one, one, one, np.zeros((2, 3, 2)), np.ones((2, 3)), one, np.zeros((2, 4)), one, one)
    with pytest.raises(EvaluationError, match=r"GroundTruth\.area: shape \(3,\), expected 1 dimension.* 2 rows"):
        replace(gt, area=np.ones(3))
    with pytest.raises(EvaluationError, match=r"labelled \(2, 4\).*beside keypoints \(2, 3, 2\)"):
        replace(gt, labelled=np.ones((2, 4)))
    with pytest.raises(EvaluationError, match=r"Detections\.keypoints: shape \(2, 3, 3\), expected \(rows, K, 2\)"):
        Detections(one, one, np.zeros((2, 3, 3)), one, one)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"sigmas": []}, r"Params\.sigmas: shape \(0,\)"),
        ({"iou_thresholds": []}, r"Params\.iou_thresholds"),
        ({"recall_thresholds": [[0.5]]}, r"Params\.recall_thresholds: shape \(1, 1\)"),
        ({"area_ranges": [[0, 1]]}, r"area_ranges of shape \(1, 2\) with area_labels \('all', 'medium', 'large'\)"),
        ({"area_labels": ("all", "all", "large")}, "must differ"),
        ({"max_dets": ()}, r"Params\.max_dets: \(\)"),
        ({"max_dets": (20, 0)}, r"max_dets: \(20, 0\), expected .* at least 1"),
    ],
)
def test_params_that_mean_nothing_are_refused(setting, words):
    """Every unusable setting is named with what was found."""
    with pytest.raises(EvaluationError, match=words):
        Params(**({"sigmas": [0.1]} | setting))


def test_max_dets_are_sorted():
    """As COCOeval does with its own."""
    assert Params([0.1], max_dets=(20, 1, 5)).max_dets == (1, 5, 20)


def test_default_grids_are_those_of_pycocotools(coco):
    """np.linspace, bit by bit: 0.5 + 0.05 i would differ."""
    from pycocotools.cocoeval import Params as Official

    ours, theirs = Params(coco.sigmas), Official("keypoints")
    assert np.array_equal(ours.iou_thresholds, theirs.iouThrs)
    assert np.array_equal(ours.recall_thresholds, theirs.recThrs)
    assert np.array_equal(ours.area_ranges, theirs.areaRng)
    assert (list(ours.area_labels), list(ours.max_dets)) == (theirs.areaRngLbl, theirs.maxDets)


@given(st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, np.inf, -np.inf, np.nan]) | st.floats(), max_size=60))
def test_best_first_is_stable(scores):
    """Falling scores; equals, 0.0 and -0.0, and NaN (at the end) in the order in which they came."""
    scores = np.array(scores, dtype=float)
    assert np.array_equal(oks.best_first(scores), np.argsort(-scores, kind="stable"))
