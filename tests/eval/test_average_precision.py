"""Equal to pycocotools to the bit: precision, recall, scores and the ten numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kpdata import threads
from kpdata.eval import Params, evaluate_arrays, oks, summarize

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_random_cases(coco, seed):
    """Ties, crowds, unlabelled people, areas on the bounds, odd ids, many categories, custom settings: all bits."""
    assert coco.differences(coco.random_case(seed)) == []


@given(SEEDS)
def test_random_strange_cases(coco, seed):
    """The same with NaN and infinite keypoints, boxes, areas and scores, on either side."""
    assert coco.differences(coco.random_case(seed, strange=True)) == []


@pytest.mark.parametrize("k", [1, 5, 14, 17, 133])
@given(SEEDS, st.booleans())
def test_any_number_of_keypoints(coco, k, seed, strange):
    """133 keypoints are summed in halves, 7 one after the other: the order is NumPy's."""
    assert coco.differences(coco.random_case(seed, strange=strange, k=k)) == []


def scene(coco, people=40, per_person=2, seed=0):
    """Two images of people in COCO's proportions, found with errors, and some not found."""
    rng = np.random.default_rng(seed)
    rows, results = [], []
    for i in range(people):
        size = rng.choice([40, 96, 150])
        xy = rng.integers(0, 400, 2) + rng.integers(0, size, (17, 2))
        v = rng.choice([0, 1, 2], (17, 1))
        low, high = xy.min(0), xy.max(0)
        rows.append(
            {
                "id": 100 + i,
                "image_id": 1 + i % 2,
                "category_id": 1,
                "keypoints": np.hstack([xy * (v > 0), v]).ravel().tolist(),
                "num_keypoints": int((v > 0).sum()),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "area": float(np.prod(high - low)) * 0.5,
                "iscrowd": 0,
            }
        )
        for _ in range(per_person):
            found = np.hstack([xy + rng.normal(0, size * 0.04, (17, 2)), np.ones((17, 1))])
            row = {"image_id": 1 + i % 2, "category_id": 1, "keypoints": found.ravel().tolist()}
            results.append(row | {"score": float(np.round(rng.random(), 1))})
    truth = {"images": [{"id": 1}, {"id": 2}], "annotations": rows, "categories": [{"id": 1}]}
    return coco.Case(truth, results, {"sigmas": coco.sigmas})


def test_scene_is_worth_judging(coco):
    """The scene that the cases below change has people found and people missed at every size."""
    assert all(0.1 < number < 0.9 for number in coco.by_pycocotools(scene(coco))[1])


def every(rows, **fields):
    for row in rows:
        row.update(fields)


def first(rows, **fields):
    rows[0].update(fields)


def keypoint(rows, index, value):
    rows[index]["keypoints"][3] = value


def worst_first(case):
    case.results.reverse()
    case.results.sort(key=lambda r: r["score"])


CASES = {
    "no results": lambda c: c.results.clear(),
    "no ground truth": lambda c: c.truth["annotations"].clear(),
    "nothing at all": lambda c: (c.results.clear(), c.truth["annotations"].clear(), c.truth["images"].clear()),
    "no detection in one image": lambda c: c.results.__setitem__(
        slice(None), [r for r in c.results if r["image_id"] == 1]
    ),
    "nobody in one image": lambda c: every(c.truth["annotations"], image_id=2),
    "one id for all": lambda c: every(c.truth["annotations"], id=7),
    "id 0": lambda c: first(c.truth["annotations"], id=0),
    "all ids 0": lambda c: every(c.truth["annotations"], id=0),
    "id 0 in a crowd": lambda c: first(c.truth["annotations"], id=0, iscrowd=1),
    "negative ids": lambda c: [a.update(id=-a["id"]) for a in c.truth["annotations"]],
    "ids above 2**53": lambda c: [a.update(id=2**53 + a["id"]) for a in c.truth["annotations"]],
    "id repeated in the other image": lambda c: first(c.truth["annotations"], id=139, image_id=1),
    "id repeated on an unlisted image": lambda c: (first(c.truth["annotations"], id=139), c.truth["images"].pop()),
    "all crowds": lambda c: every(c.truth["annotations"], iscrowd=1),
    "half crowds": lambda c: every(c.truth["annotations"][::2], iscrowd=1),
    "num_keypoints 0 though labelled": lambda c: every(c.truth["annotations"][::3], num_keypoints=0),
    "num_keypoints given, none labelled": lambda c: every(c.truth["annotations"][::3], keypoints=[0, 0, 0] * 17),
    "areas on the lower bound": lambda c: every(c.truth["annotations"], area=1024),
    "areas on both ranges": lambda c: every(c.truth["annotations"], area=9216),
    "area 0": lambda c: every(c.truth["annotations"], area=0),
    "results' areas on the bound": lambda c: every(c.results, bbox=[0, 0, 96, 96]),
    "boxes decide the areas": lambda c: every(c.results, bbox=[0, 0, 33, 32]),
    "empty boxes": lambda c: every(c.results, bbox=[]),
    "all scores tie": lambda c: every(c.results, score=0.5),
    "0.0 and -0.0 tie": lambda c: (every(c.results, score=0.0), every(c.results[::2], score=-0.0)),
    "NaN scores": lambda c: every(c.results[::4], score=float("nan")),
    "infinite scores": lambda c: (every(c.results[::4], score=np.inf), every(c.results[1::4], score=-np.inf)),
    "worse detections first": worst_first,
    "NaN keypoint": lambda c: keypoint(c.results, 3, float("nan")),
    "NaN in every detection": lambda c: [keypoint(c.results, i, float("nan")) for i in range(len(c.results))],
    "NaN keypoint in the ground truth": lambda c: [keypoint(c.truth["annotations"], i, float("nan")) for i in range(9)],
    "infinite keypoint": lambda c: keypoint(c.results, 3, float("inf")),
    "infinite on both sides": lambda c: (
        [keypoint(c.results, i, np.inf) for i in range(40)],
        [keypoint(c.truth["annotations"], i, np.inf) for i in range(40)],
    ),
    "1e200": lambda c: keypoint(c.results, 3, 1e200),
    "third value 0": lambda c: c.results[0].update(keypoints=[0, 0, 0] * 17),
    "detections of an unlisted category": lambda c: every(c.results[::2], category_id=9),
    "a category without people": lambda c: c.truth["categories"].append({"id": 2}),
    "ground truth of an unlisted category": lambda c: every(c.truth["annotations"][::2], category_id=9),
    "ground truth on an unlisted image": lambda c: every(c.truth["annotations"][::2], image_id=9),
    "an image listed twice": lambda c: c.truth["images"].extend([{"id": 1}, {"id": 1}]),
    "one image evaluated": lambda c: setattr(c, "image_ids", [2]),
    "no image evaluated": lambda c: setattr(c, "image_ids", []),
    "no category evaluated": lambda c: setattr(c, "category_ids", []),
    "an unknown category evaluated": lambda c: setattr(c, "category_ids", [9, 1]),
    "at most 5": lambda c: c.settings.update(max_dets=(5,)),
    "at most 1, 5 and 20, unsorted": lambda c: c.settings.update(max_dets=(20, 1, 5)),
    "thresholds 1 and 0": lambda c: c.settings.update(iou_thresholds=[1.0, 0.0]),
    "threshold of a float": lambda c: c.settings.update(iou_thresholds=np.arange(0.5, 1, 0.05)),
    "unsorted recalls": lambda c: c.settings.update(recall_thresholds=[0.9, 0.0, 0.2, 1.5, 0.1]),
    "one range, no medium": lambda c: c.settings.update(area_ranges=[[0, 1e10]], area_labels=["all"]),
    "sigmas of another size": lambda c: c.settings.update(sigmas=np.full(17, 0.5)),
    "sigma 0": lambda c: c.settings.update(sigmas=np.zeros(17)),
}


@pytest.mark.parametrize("name", CASES)
def test_adversarial(coco, name):
    """Inputs on which evaluators are known to differ from pycocotools, each for the reason in its name."""
    case = scene(coco)
    CASES[name](case)
    listed = {i["id"] for i in case.truth["images"]}
    case.results = [r for r in case.results if r["image_id"] in listed]
    assert coco.differences(case) == []


@pytest.mark.parametrize("threshold", np.linspace(0.5, 0.95, 10).tolist())
def test_oks_just_on_the_threshold(coco, threshold):
    """A detection whose OKS is the threshold, or a neighbour of it: reaching counts, missing by a bit doesn't."""
    case = scene(coco, people=1, per_person=1)
    flat = [0, 0, 2] * 17
    case.truth["annotations"][0].update(keypoints=flat, area=5000.0, num_keypoints=17, bbox=[0, 0, 100, 50])
    share = -2 * np.log(threshold) * (2 * coco.sigmas) ** 2 * 5000.0
    for factor in 1 + np.arange(-8, 9) * 2.0**-53:
        spot = np.stack([np.sqrt(share * factor), np.zeros(17), np.ones(17)], axis=1)
        case.results[0]["keypoints"] = spot.ravel().tolist()
        assert coco.differences(case) == []


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [-1, 1])
def test_one_keypoint_just_on_the_least_threshold(coco, threshold, axis, side):
    """The farthest that a detection may be and still match: looking only at pairs near each other loses none.

    A threshold of 1 is met from 1 - 1e-10 on.
    """
    case = scene(coco, people=1, per_person=1)
    case.settings["iou_thresholds"] = [threshold]
    hip, flat = 11, np.zeros((17, 3))
    flat[hip, 2] = 2
    case.truth["annotations"][0].update(keypoints=flat.ravel().tolist(), area=5000.0, num_keypoints=1)
    share = -2 * np.log(min(threshold, 1 - 1e-10)) * (2 * coco.sigmas[hip]) ** 2 * 5000.0
    recalls = set()
    for factor in (0.5, *(1 + np.arange(-8, 9) * 2.0**-53), 1 - 1e-6, 1 + 1e-6, 2.0):
        flat[:, axis] = side * np.sqrt(share * factor)
        case.results[0]["keypoints"] = flat.ravel().tolist()
        assert coco.differences(case) == []
        recalls.add(float(coco.by_kpdata(case)[0].recall[0, 0, 0, 0]))
    assert recalls == {0.0, 1.0}


@given(SEEDS)
@example(0)
def test_order_of_images_and_categories_does_not_matter(coco, seed):
    """Ids may repeat and come in any order: they are a set."""
    case = coco.random_case(seed)
    again = copy.deepcopy(case)
    again.image_ids, again.category_ids = case.images()[::-1] * 2, case.categories()[::-1] * 2
    want, got = coco.by_kpdata(case)[0], coco.by_kpdata(again)[0]
    assert np.array_equal(want.precision, got.precision)


def test_what_was_given_is_left_alone(coco):
    """Evaluating changes none of its inputs."""
    gt, dt, params = coco.arrays(scene(coco))
    before = copy.deepcopy((gt, dt))
    evaluate_arrays(gt, dt, [1, 2], [1], params)
    for old, new in zip(before, (gt, dt), strict=True):
        assert all(np.array_equal(getattr(old, n), getattr(new, n)) for n in old.__slots__)


def test_numbers_at_another_count(coco):
    """pycocotools prints -1 unless 20 detections were evaluated; the real numbers are one argument away."""
    case = scene(coco)
    case.settings["max_dets"] = (5,)
    curves, params = coco.by_kpdata(case)[0], Params(**case.settings)
    assert set(summarize(curves, params).values()) == {-1.0}
    judge = coco.judge(case).eval["precision"]
    assert summarize(curves, params, max_dets=5)["AP"] == np.mean(judge[:, :, :, 0][judge[:, :, :, 0] > -1]) > 0


def test_numbers_are_plain_floats(coco):
    """The summary goes to JSON as it is, named and in the order of pycocotools."""
    numbers = summarize(*reversed((Params(coco.sigmas), coco.by_kpdata(scene(coco))[0])))
    assert tuple(numbers) == coco.names
    assert {type(value) for value in numbers.values()} == {float}


PUBLISHED = {
    (
        "coco_fakekeypoints100/DERIVED_person_keypoints_val2014_100",
        "person_keypoints_val2014_fakekeypoints100_results",
    ): (
        (0.372, 0.636, 0.348, 0.384, 0.386, 0.514, 0.734, 0.504, 0.508, 0.522),
        3,
    ),
    ("coco_mmpose4/test_coco", "hrnet_preds_xtcocoapi"): (
        (0.86089, 0.993145, 0.910891, 0.775578, 0.937252, 0.875, 1, 0.916667, 0.78, 0.942857),
        6,
    ),
}


@pytest.mark.parametrize("files", PUBLISHED, ids=lambda files: files[1])
def test_published_numbers(coco, real_data, files):
    """Real ground truth and real predictions give the numbers that their authors published, and pycocotools' bits."""
    truth, (expected, digits) = real_data / f"{files[0]}.json", PUBLISHED[files]
    case = coco.read_case(truth, truth.with_name(f"{files[1]}.json"))
    assert [round(n, digits) for n in coco.by_kpdata(case)[1]] == list(expected)
    assert coco.differences(case) == []


MOVENET = [f"{a}_{b}2017" for a in ("movenet_multipose", "movenet_thunder_gtbox") for b in ("train", "val")]


@pytest.mark.parametrize("name", MOVENET)
def test_movenet(coco, real_data, name):
    """A real estimator on original annotations: 17 keypoints, images without people, with boxes and without."""
    truth = real_data / "coco_mini" / f"person_keypoints_{name.rsplit('_', 1)[1]}.json"
    case = coco.read_case(truth, truth.with_name(f"{name}_results.json"))
    assert coco.by_kpdata(case)[1][0] > 0.1
    assert coco.differences(case) == []


def test_threads_do_not_show(coco, monkeypatch):
    """The curves have the same bits with one thread and with four, in however many pieces."""
    gt, dt, params = coco.arrays(scene(coco))
    whole = evaluate_arrays(gt, dt, [1, 2], [1], params)
    monkeypatch.setattr(threads, "WORTH_IT", 1)
    monkeypatch.setattr(threads, "workers", lambda: 4)
    monkeypatch.setattr(oks, "WORTH_IT", 1)
    monkeypatch.setattr(oks, "workers", lambda: 4)
    parts = evaluate_arrays(gt, dt, [1, 2], [1], params)
    assert all(np.array_equal(getattr(whole, n), getattr(parts, n)) for n in ("precision", "recall", "scores"))
