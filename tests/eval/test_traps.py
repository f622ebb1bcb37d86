"""What is odd in the data, and what it costs: judged by pycocotools on data without it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from kpdata.eval import Params, evaluate_arrays, summarize
from kpdata.eval.traps import SENTENCES, traps
from tests.eval.test_average_precision import every, scene

NAN = float("nan")


def met(coco, case, **settings):
    gt, dt, params = coco.arrays(case)
    return {trap.code: trap for trap in traps(gt, dt, case.images(), case.categories(), replace(params, **settings))}


def judged(coco, case):
    return dict(zip(coco.names, coco.by_pycocotools(case)[1], strict=True))


def far_away(case):
    """NaN becomes a place far from everyone; a box brings the extent of the others, which loadRes would lose."""
    for row in case.results:
        x, y = (np.array([v for v in row["keypoints"][axis::3] if v == v]) for axis in (0, 1))
        row["bbox"] = [0.0, 0.0, x.max() - x.min(), y.max() - y.min()]
        row["keypoints"] = [v if v == v else 1e200 for v in row["keypoints"]]


TRAPS = {  # what leads into the trap, and the same data without it
    "id_zero": (lambda c: c.truth["annotations"][0].update(id=0), lambda c: c.truth["annotations"][0].update(id=9)),
    "repeated_ids": (
        lambda c: every(c.truth["annotations"][:6:2], id=104),
        lambda c: [a.update(id=i + 900) for i, a in enumerate(c.truth["annotations"])],
    ),
    "nan_keypoints": (lambda c: [r["keypoints"].__setitem__(3, NAN) for r in c.results[:30]], lambda c: far_away(c)),
    "num_keypoints": (
        lambda c: every(c.truth["annotations"][::3], num_keypoints=0),
        lambda c: [
            a.update(num_keypoints=sum(v > 0 for v in a["keypoints"][2::3])) for a in c.truth["annotations"][::3]
        ],
    ),
    "result_areas": (
        lambda c: [r.update(bbox=[0, 0, 200, 200]) for r in c.results],
        lambda c: [r.pop("bbox") for r in c.results],
    ),
}


@pytest.mark.parametrize("code", TRAPS)
def test_what_a_trap_costs(coco, code):
    """`without` is what pycocotools gives once that one thing is put right in the files."""
    case = scene(coco)
    TRAPS[code][0](case)
    clean = copy.deepcopy(case)
    TRAPS[code][1](clean)
    trap = met(coco, case)[code]
    before, after = judged(coco, case), judged(coco, clean)
    assert trap.without == after
    assert trap.changes(before) == {n: before[n] - after[n] for n in before if before[n] != after[n]} != {}


def test_plain_data_step_into_none(coco):
    """Of an ordinary evaluation nothing is said but that some predictions are beyond the best 20 of their image."""
    found = met(coco, scene(coco))
    assert set(found) == {"over_max_dets"}
    assert found["over_max_dets"].says.startswith(
        "more predictions in an image than are looked at (40 beyond the best 20)"
    )
    assert met(coco, scene(coco, per_person=1)) == {}


def test_counts(coco):
    """Each trap counts the rows that are in it."""
    case = scene(coco)
    every(case.truth["annotations"][:3], id=0)
    every(case.truth["annotations"][3:5], area=1.0)
    every(case.truth["annotations"][5:9], image_id=99)
    every(case.results[:7], category_id=5)
    every(case.results[7:8], score=NAN)
    case.settings["max_dets"] = (15,)
    counts = {code: trap.count for code, trap in met(coco, case).items()}
    assert counts == {"id_zero": 3, "repeated_ids": 3, "nan_scores": 1, "small_areas": 2, "over_max_dets": 43,
                      "max_dets_not_20": 1, "unlisted_people": 4, "unlisted_predictions": 7}  # fmt: skip
    assert list(counts) == [code for code in SENTENCES if code in counts]


def test_other_maximum(coco):
    """With a maximum of 5 the ten numbers are -1; without that trap they are the means over what was evaluated."""
    case = scene(coco)
    case.settings["max_dets"] = (5,)
    judge = coco.judge(case)
    without = met(coco, case)["max_dets_not_20"].without
    assert without["AP"] == np.mean(judge.eval["precision"][:, :, :, 0]) > 0
    assert without["AR"] == np.mean(judge.eval["recall"][:, :, 0])


def test_all_detections(coco):
    """Without the cut at 20 the numbers are those of pycocotools with a maximum that nobody reaches."""
    case = scene(coco)
    without = met(coco, case)["over_max_dets"].without
    case.settings["max_dets"] = (40,)
    assert without["AP"] == np.mean(coco.judge(case).eval["precision"][:, :, :, 0])


def test_nothing_is_measured_unless_asked(coco):
    """`measure=False` says what there is, at no cost."""
    case = scene(coco)
    every(case.truth["annotations"][:1], id=0)
    gt, dt, params = coco.arrays(case)
    found = traps(gt, dt, case.images(), case.categories(), params, measure=False)
    assert [trap.without for trap in found] == [None, None]


def test_fixed_mode_mends(coco):
    """In the mode "fixed" id 0, repeated ids, NaN, another maximum and useCats 0 are no traps."""
    case = scene(coco, per_person=1)
    every(case.truth["annotations"][:2], id=0)
    case.results[0]["keypoints"][0] = NAN
    case.settings["max_dets"] = (50,)
    codes = set(met(coco, case, use_categories=False))
    assert codes == {"id_zero", "repeated_ids", "nan_keypoints", "max_dets_not_20", "no_categories"}
    case.results.pop(0)  # its area is NaN, as pycocotools' is
    assert met(coco, case, use_categories=False, mode="fixed") == {}


def test_strict_without_categories(coco):
    """Categories taken as one give 0 in pycocotools; without that trap people meet all results of their image."""
    case = scene(coco)
    every(case.results, category_id=2)
    case.truth["categories"].append({"id": 2})
    gt, dt, params = coco.arrays(case)
    params = Params(params.sigmas, use_categories=False)
    assert summarize(evaluate_arrays(gt, dt, [1, 2], [1, 2], params), params)["AP"] == 0
    every(case.results, category_id=1)
    assert met(coco, case, use_categories=False)["no_categories"].without == judged(coco, scene(coco))
