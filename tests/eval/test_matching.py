"""Who is matched with whom, and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.errors import EvaluationError
from kpdata.eval import accumulate, concatenate, match, resolve_repeated_ids

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
SEEDS = st.integers(0, 2**32 - 1)


def our_matches(case, coco):
    gt, dt, params = coco.arrays(case)
    return match(gt, dt, case.images(), case.categories(), params), params


@given(SEEDS, st.booleans())
def test_matches_are_those_of_pycocotools(coco, seed, strange):
    """At every area range and threshold each detection finds the annotation that COCOeval's loops find."""
    case = coco.random_case(seed, strange=strange)
    ours, params = our_matches(case, coco)
    judge = coco.judge(case)
    person = np.where(ours.matched >= 0, np.append(ours.pair_gt, -1)[ours.matched], -1)
    ids = np.where(person >= 0, np.append(ours.gt_annotation_id, 0)[person], 0)
    for e in filter(None, judge.evalImgs):
        a = next(i for i, r in enumerate(params.area_ranges.tolist()) if r == list(e["aRng"]))
        here = (ours.dt_image_id == e["image_id"]) & (ours.category_ids[ours.dt_category] == e["category_id"])
        assert (ours.dt_row[here] + 1).tolist() == e["dtIds"]
        assert np.array_equal(ids[a][:, here], e["dtMatches"])
        gts = (ours.gt_image_id == e["image_id"]) & (ours.category_ids[ours.gt_category] == e["category_id"])
        assert np.array_equal(np.sort(ours.gt_ignored[a, gts]), e["gtIgnore"])


def people(coco, ids, **changes):
    """A case of one image with equal people, and one detection just on them for each of `scores`."""
    scores = changes.pop("scores", [0.9, 0.8, 0.7])
    keypoints = [10, 10, 2, *[50, 60, 2] * 16]
    row = {"image_id": 1, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17, "bbox": [0, 0, 50, 60]}
    rows = [row | {"id": i, "area": 2000.0, "iscrowd": 0} for i in ids]
    for name, values in changes.items():
        rows = [r | {name: v} for r, v in zip(rows, values, strict=True)]
    results = [{"image_id": 1, "category_id": 1, "keypoints": keypoints, "score": s} for s in scores]
    truth = {"images": [{"id": 1}], "annotations": rows, "categories": [{"id": 1}]}
    return coco.Case(truth, results, {"sigmas": coco.sigmas})


def matched_ids(case, coco):
    """Annotation ids at area "all" and threshold 0.5, in score order; None where unmatched."""
    ours, _ = our_matches(case, coco)
    places = ours.matched[0, 0].tolist()
    return [int(ours.gt_annotation_id[ours.pair_gt[p]]) if p >= 0 else None for p in places]


def test_later_of_equals_wins(coco):
    """Of people with the same OKS the last in the file is taken first."""
    assert matched_ids(people(coco, [5, 6]), coco) == [6, 5, None]


def test_ignored_only_after_all_that_count(coco):
    """A person without num_keypoints is taken only when nobody else is left, and once."""
    assert matched_ids(people(coco, [5, 6], num_keypoints=[17, 0]), coco) == [5, 6, None]


def test_crowd_takes_any_number(coco):
    """A crowd is never used up."""
    assert matched_ids(people(coco, [5, 6], iscrowd=[1, 0]), coco) == [6, 5, 5]


def test_id_zero_is_matched_here(coco):
    """That pycocotools reads id 0 as unmatched is a matter of counting: the match itself is kept for the reader."""
    assert matched_ids(people(coco, [0]), coco) == [0, None, None]


def test_similarity_of_a_match(coco):
    """Matches say how good they are: a perfect one has OKS 1."""
    ours, _ = our_matches(people(coco, [5], scores=[0.5]), coco)
    assert ours.pair_oks[ours.matched].tolist() == np.ones((3, 10, 1)).tolist()


@given(SEEDS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_batches_join_to_the_whole(coco, seed, batches, random):
    """Matching images in batches, in any order, gives the same matches and pycocotools' curves to the bit."""
    case = coco.random_case(seed, strange=True)
    gt, dt, params = coco.arrays(case)
    images = sorted(set(case.images()))
    random.shuffle(images)
    gt = resolve_repeated_ids(gt, images, case.categories())
    parts = [match(gt, dt, images[i::batches], case.categories(), params) for i in range(batches)]
    joined, whole = concatenate(parts), match(gt, dt, images, case.categories(), params)
    for name in whole.__slots__:
        if not name.startswith(("pair", "matched")):
            assert np.array_equal(getattr(joined, name), getattr(whole, name), equal_nan=True), name
    hit = whole.matched >= 0
    assert np.array_equal(joined.matched >= 0, hit)
    for name in ("pair_gt", "pair_oks"):
        got, want = getattr(joined, name)[joined.matched[hit]], getattr(whole, name)[whole.matched[hit]]
        assert np.array_equal(got, want, equal_nan=True)
    got, want = accumulate(joined, params), coco.by_pycocotools(case)[0]
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(getattr(got, name), getattr(want, name), equal_nan=True)


def test_parts_must_have_the_same_categories(coco):
    """Parts that do not fit are refused, and so is nothing at all."""
    ours, _ = our_matches(people(coco, [5]), coco)
    with pytest.raises(EvaluationError, match="2 parts to join: expected at least one, all with the same categories"):
        concatenate([ours, replace(ours, category_ids=np.array([2]))])
    with pytest.raises(EvaluationError, match="0 parts to join"):
        concatenate([])


def test_keypoint_counts_must_agree(coco):
    """14 sigmas for 17 keypoints: the message gives the three counts."""
    gt, dt, params = coco.arrays(people(coco, [5]))
    with pytest.raises(EvaluationError, match="17 keypoints in the ground truth, 17 in the predictions, 14 sigmas"):
        match(gt, dt, [1], [1], replace(params, sigmas=np.ones(14)))
