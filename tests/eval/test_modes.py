"""The mode "fixed": what pycocotools gives for the same people without the oddities that it trips over."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kpdata.errors import EvaluationError
from kpdata.eval import Curves, Params, detection_area, evaluate_arrays, match, summarize
from tests.eval.test_average_precision import every, scene

SEEDS = st.integers(0, 2**32 - 1)
FAR, NAN = 1e200, float("nan")


def fixed(coco, case, **settings):
    gt, dt, params = coco.arrays(case)
    params = replace(params, mode="fixed", **settings)
    dt = replace(dt, area=detection_area(dt.keypoints, boxes(case), mode="fixed"))
    curves = evaluate_arrays(gt, dt, case.images(), case.categories(), params)
    return curves, summarize(curves, params)


def boxes(case):
    return np.array([r["bbox"] for r in case.results]) if case.results and case.results[0].get("bbox") else None


def finite(values):
    """Without infinities, and without FAR itself, at which `clean` puts what is NaN."""
    return [v if np.isnan(v) or abs(v) < FAR / 1e100 else FAR / 1e101 for v in values]


def only_nan(case):
    """A strange case with NaN as its only strangeness: keypoints and scores; sizes are ordinary."""
    for row in case.truth["annotations"]:
        row.update(keypoints=finite(row["keypoints"]), bbox=np.nan_to_num(row["bbox"], posinf=9, neginf=9).tolist())
        row["area"] = float(np.clip(np.nan_to_num(row["area"], posinf=900), 0, None))
    for row in case.results:
        row["keypoints"] = finite(row["keypoints"])
    case.settings["sigmas"] = np.where(np.isfinite(case.settings["sigmas"]), case.settings["sigmas"], 0.1) + 0.01
    return case


def clean(case):
    """The same people as pycocotools has to see them: own ids above 0, and NaN keypoints far from everything.

    Its loadRes takes areas from keypoints, so that the extent of the ordinary ones is given as a box.
    """
    case = copy.deepcopy(case)
    for i, row in enumerate(case.truth["annotations"]):
        row["id"] = i + 1
        row["keypoints"] = [-FAR if np.isnan(v) else v for v in row["keypoints"]]
    plain = not any(np.isnan(r["keypoints"]).any() for r in case.results)
    for row in case.results if not plain and boxes(case) is None else ():
        x, y = (np.array([v for v in row["keypoints"][axis::3] if not np.isnan(v)] or [0.0]) for axis in (0, 1))
        row["bbox"] = [0.0, 0.0, x.max() - x.min(), y.max() - y.min()]
    for row in case.results:
        row["keypoints"] = [FAR if np.isnan(v) else v for v in row["keypoints"]]
    return case


def equal(a: Curves, b: Curves) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in ("precision", "recall", "scores"))


@settings(max_examples=50)
@example(18815563, True)  # a keypoint of the ground truth as far away as the stand-in for NaN
@given(SEEDS, st.booleans())
def test_fixed_is_strict_on_clean_data(coco, seed, strange):
    """Repeated ids, id 0, NaN keypoints: the numbers are pycocotools' once the files have none of them."""
    case = only_nan(coco.random_case(seed, strange=strange))
    assert equal(fixed(coco, case)[0], coco.by_pycocotools(clean(case))[0])


@settings(max_examples=40)
@given(SEEDS)
def test_both_modes_agree_on_clean_data(coco, seed):
    """Where none of the differences is met, "fixed" has the bits of "strict"."""
    case = clean(coco.random_case(seed))
    case.settings["max_dets"] = (20,)
    strict, numbers = coco.by_kpdata(case)
    curves, stats = fixed(coco, case)
    assert equal(curves, strict)
    assert list(stats.values()) == numbers


def test_id_zero_is_found(coco):
    """A perfect match with annotation id 0 counts; strict, it is worth less than the same with another id."""
    case = scene(coco)
    want = coco.by_pycocotools(case)[1]
    case.truth["annotations"][0]["id"] = 0
    assert list(fixed(coco, case)[1].values()) == want
    assert coco.by_kpdata(case)[1] == coco.by_pycocotools(case)[1] != want


def test_nan_keypoint_matches_nothing(coco):
    """Detections of NaN alone find nobody: they raise the AP of pycocotools and lower that of the mode "fixed"."""
    case = scene(coco)
    want = coco.by_pycocotools(case)[1][0]
    for row in case.results[:20]:
        row.update(keypoints=[NAN] * 51, score=1.0)
    assert fixed(coco, case)[1]["AP"] < want < coco.by_pycocotools(case)[1][0]


def test_one_nan_keypoint_costs_one_keypoint(coco):
    """A perfect detection with one NaN of 17 has OKS 16 / 17; strict, it has none."""
    case = scene(coco, people=1, per_person=1)
    person = case.truth["annotations"][0]
    person.update(keypoints=[5.0, 6.0, 2] * 17, num_keypoints=17)
    case.results[0]["keypoints"] = [5.0, 6.0, 1] * 16 + [NAN, 6.0, 1]
    gt, dt, params = coco.arrays(case)
    oks = [match(gt, dt, [1, 2], [1], replace(params, mode=mode)).pair_oks.tolist() for mode in ("fixed", "strict")]
    assert oks[0] == [16 / 17]
    assert np.isnan(oks[1]).all()


def test_area_without_nan():
    """The size of a person with NaN keypoints is the extent of the others; of nothing but NaN it is 0."""
    xy = np.array([[[1.0, 2.0], [NAN, 9.0], [4.0, NAN]], [[NAN, NAN]] * 3])
    assert detection_area(xy, mode="fixed").tolist() == [(4 - 1) * (9 - 2), 0]
    assert np.isnan(detection_area(xy)).all()
    assert detection_area(xy, np.array([[0, 0, NAN, 2], [0, 0, 3, 2.0]]), mode="fixed").tolist() == [0, 6]


def test_any_maximum_is_summarised(coco):
    """With at most 5 detections the ten numbers are means over what was evaluated, not -1."""
    case = scene(coco)
    case.settings["max_dets"] = (1, 5)
    judge = coco.judge(case)
    stats = fixed(coco, case)[1]
    assert set(judge.stats) == {-1}
    assert stats["AP"] == np.mean(judge.eval["precision"][..., 0, 1]) > 0
    assert stats["ARm"] == np.mean(judge.eval["recall"][..., 1, 1])


def test_thresholds_made_by_steps(coco):
    """np.arange misses 0.75 by a bit: AP75 is -1 in pycocotools, and that of the threshold meant here."""
    case = scene(coco)
    case.settings["iou_thresholds"] = np.arange(0.5, 1, 0.05)
    judge, stats = coco.judge(case), fixed(coco, case)[1]
    place = int(np.argmin(np.abs(case.settings["iou_thresholds"] - 0.75)))
    assert judge.stats[2] in (-1, stats["AP75"])
    assert stats["AP75"] == np.mean(judge.eval["precision"][place, :, :, 0, 0])


@settings(max_examples=25)
@given(SEEDS)
def test_categories_as_one(coco, seed):
    """Without categories "fixed" pools them: pycocotools' numbers after making them one. Strict gives its AP of 0."""
    case = clean(coco.random_case(seed))
    case.category_ids = None
    case.settings["max_dets"] = (20,)
    gt, dt, params = coco.arrays(case)
    strict = evaluate_arrays(gt, dt, case.images(), case.categories(), replace(params, use_categories=False))
    judge = coco.judge(case)
    curves = fixed(coco, case, use_categories=False)[0]
    listed = set(case.categories())
    for rows in (case.truth["annotations"], case.results):
        rows[:] = [r for r in rows if r["category_id"] in listed]
        every(rows, category_id=3)
    case.truth["categories"] = [{"id": 3}]
    assert equal(curves, coco.by_pycocotools(case)[0])
    assert strict.precision.shape == (*judge.eval["precision"].shape[:2], 1, *strict.precision.shape[3:])
    assert not (strict.precision > 0).any()


def test_mode_must_be_known(coco):
    """A misspelt mode is refused."""
    with pytest.raises(EvaluationError, match=r"Params\.mode: 'strickt', expected 'strict' or 'fixed'"):
        Params(coco.sigmas, mode="strickt")
