"""The drop-in COCOeval beside pycocotools' own: every bit, every line, every error, everything left behind."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval as Judge

from kpdata.errors import EvaluationError
from kpdata.eval import coco_rows
from kpdata.eval.coco import COCOeval, Params
from tests.eval.dropin import compare, load, outcome, quiet, same, standard
from tests.eval.test_average_precision import CASES, every, scene

SEEDS = st.integers(0, 2**32 - 1)
NAN = float("nan")


def with_settings(case):
    """How a user would set the params of a case, then the three calls."""

    def use(judge):
        p, given = judge.params, case.settings
        p.kpt_oks_sigmas = np.asarray(given["sigmas"], float)
        p.imgIds, p.catIds = case.images(), case.categories()
        p.iouThrs = np.asarray(given.get("iou_thresholds", p.iouThrs))
        p.recThrs = np.asarray(given.get("recall_thresholds", p.recThrs))
        p.areaRng = [list(r) for r in given.get("area_ranges", p.areaRng)]
        p.areaRngLbl = list(given.get("area_labels", p.areaRngLbl))
        p.maxDets = list(given.get("max_dets", p.maxDets))
        standard(judge)

    return use


@settings(max_examples=25)
@given(SEEDS, st.booleans())
def test_random_cases(coco, seed, strange):
    """Numbers, matches, similarities, printed lines and what is left in the annotations are those of pycocotools."""
    case = coco.random_case(seed, strange=strange)
    assert compare(case.truth, case.results, with_settings(case))[0] == []


@pytest.mark.parametrize("name", CASES)
def test_adversarial(coco, name):
    """Inputs on which evaluators are known to differ from pycocotools, each for the reason in its name."""
    case = scene(coco)
    CASES[name](case)
    assert compare(case.truth, case.results, with_settings(case))[0] == []


ODD = [None, "0.5", "x", True, 0, -1, np.float32(0.3), 2**60, 2**70, NAN, float("inf"), [], np.int64(3), 1 + 2j]
FIELDS = ["keypoints", "score", "id", "area", "bbox", "num_keypoints", "iscrowd", "image_id", "category_id", "ignore"]


@settings(max_examples=40)
@given(SEEDS)
def test_odd_fields(coco, seed):
    """Missing fields, texts, None, wrong lengths, other kinds of numbers: the same numbers or the same exception."""
    rng = np.random.default_rng(seed)
    case = coco.random_case(seed)
    for _ in range(int(rng.integers(1, 4))):
        rows = case.truth["annotations"] if rng.random() < 0.5 else case.results
        if not rows:
            continue
        row, field, odd = rows[rng.integers(len(rows))], str(rng.choice(FIELDS)), ODD[rng.integers(len(ODD))]
        kind = rng.integers(4)
        if kind == 0:
            row.pop(field, None)
        elif kind == 1 or not isinstance(row.get(field), list) or not row[field]:
            row[field] = odd
        elif kind == 2:
            row[field][rng.integers(len(row[field]))] = odd
        else:
            row[field] = [row[field][:-3], [*row[field], 1], tuple(row[field]), np.array(row[field], object)][
                rng.integers(4)
            ]
    assert compare(case.truth, case.results, with_settings(case))[0] == []


def without(rows, field):
    for row in rows:
        del row[field]


ODD_CASES = {
    "no score": lambda t, r: without(r[3:4], "score"),
    "14 of 17 keypoints": lambda t, r: r[3].update(keypoints=r[3]["keypoints"][:42]),
    "14 of 17 in a detection that is cut": lambda t, r: r[3].update(keypoints=r[3]["keypoints"][:42], score=-1.0),
    "ground truth without area": lambda t, r: without(t["annotations"], "area"),
    "ground truth without bbox": lambda t, r: without(t["annotations"][:1], "bbox"),
    "ground truth without num_keypoints": lambda t, r: without(t["annotations"][-1:], "num_keypoints"),
    "ground truth without keypoints": lambda t, r: without(t["annotations"], "keypoints"),
    "ground truth without iscrowd": lambda t, r: without(t["annotations"][5:], "iscrowd"),
    "ignore in the file": lambda t, r: every(t["annotations"][::2], ignore=1),
    "texts as scores": lambda t, r: every(r, score="0.5"),
    "None as score": lambda t, r: every(r[:1], score=None),
    "True as scores": lambda t, r: every(r, score=True),
    "32-bit scores": lambda t, r: [row.update(score=np.float32(row["score"])) for row in r],
    "32-bit keypoints": lambda t, r: [row.update(keypoints=np.array(row["keypoints"], np.float32)) for row in r],
    "integers too large for a float": lambda t, r: every(r[::2], keypoints=[2**53 + 1, 7, 1] * 17),
    "integers whose squares overflow": lambda t, r: (
        every(r[::2], keypoints=[2**33, 7, 1] * 17),
        every(t["annotations"], keypoints=[1, 7, 1] * 17),
    ),
    "ground truth of 14 keypoints": lambda t, r: t["annotations"][0].update(keypoints=[1, 1, 2] * 14),
    "a category of 7 keypoints, none found": lambda t, r: (
        t["categories"].append({"id": 2}),
        every(t["annotations"][:4], category_id=2, keypoints=[1, 1, 2] * 7),
    ),
    "a category of 7 keypoints, some found": lambda t, r: (
        t["categories"].append({"id": 2}),
        every(t["annotations"][:4], category_id=2, keypoints=[1, 1, 2] * 7),
        every(r[:4], category_id=2, keypoints=[1, 1, 2] * 7),
    ),
    "texts as image ids": lambda t, r: [
        row.update({key: f"img{row[key]}"})
        for rows, key in ((t["images"], "id"), (t["annotations"], "image_id"), (r, "image_id"))
        for row in rows
    ],
    "texts as annotation ids": lambda t, r: [row.update(id=f"a{row['id']}") for row in t["annotations"]],
    "numbers in texts as annotation ids": lambda t, r: [row.update(id=str(row["id"])) for row in t["annotations"]],
    "fractions as annotation ids": lambda t, r: [row.update(id=row["id"] + 0.5) for row in t["annotations"]],
    "None as area": lambda t, r: every(t["annotations"][:1], area=None),
    "iscrowd 0.5": lambda t, r: every(t["annotations"][:9], iscrowd=0.5),
    "an unknown image": lambda t, r: every(r[:1], image_id=77),
    "a segmentation in the first result": lambda t, r: r[0].update(segmentation=[[1, 1, 2, 2, 3, 3]]),
    "no categories": lambda t, r: t.pop("categories"),
    "one keypoint for all": lambda t, r: every(r[:5], keypoints=[3, 3, 1]),
}


@pytest.mark.parametrize("name", ODD_CASES)
def test_odd_rows(coco, name):
    """What pycocotools makes of rows that no array can hold: often an exception, sometimes a number."""
    case = scene(coco, people=24)
    ODD_CASES[name](case.truth, case.results)
    assert compare(case.truth, case.results)[0] == []


def set_params(**changes):
    def use(judge):
        vars(judge.params).update(copy.deepcopy(changes))
        standard(judge)

    return use


def in_between(change):
    """Evaluate, change something, accumulate."""

    def use(judge):
        judge.evaluate()
        change(judge)
        judge.accumulate()
        judge.summarize()

    return use


def twice(judge):
    standard(judge)
    judge.params.imgIds, judge.params.maxDets = [2], [20, 5]
    standard(judge)


def other_params(judge):
    judge.evaluate()
    p = copy.deepcopy(judge.params)
    p.recThrs, p.maxDets = np.array([0.0, 0.5, 1.0]), [20]
    judge.accumulate(p)


USES = {
    "useCats 0": set_params(useCats=0),
    "useCats 2": set_params(useCats=2),
    "at most 5": set_params(maxDets=[5]),
    "at most 1, 20, 20 and 5": set_params(maxDets=[1, 20, 20, 5]),
    "at most 0": set_params(maxDets=[0]),
    "all but the last": set_params(maxDets=[-1]),
    "no maximum": set_params(maxDets=[]),
    "2.5 detections": set_params(maxDets=[2.5]),
    "an image twice": set_params(imgIds=[1, 1, 2, 1]),
    "one image": set_params(imgIds=[2]),
    "an unknown image": set_params(imgIds=[1, 2, 3]),
    "an unknown image among texts": set_params(imgIds=[1, "a"]),
    "no image": set_params(imgIds=[]),
    "no category": set_params(catIds=[]),
    "sigmas in a list": set_params(kpt_oks_sigmas=[0.1] * 17),
    "one sigma": set_params(kpt_oks_sigmas=np.array(0.1)),
    "16 sigmas": set_params(kpt_oks_sigmas=np.full(16, 0.1)),
    "32-bit sigmas": set_params(kpt_oks_sigmas=np.full(17, 0.1, np.float32)),
    "thresholds in a list": set_params(iouThrs=[0.5, 0.75]),
    "thresholds of 32 bits": set_params(iouThrs=np.linspace(0.5, 1, 6, dtype=np.float32)),
    "no threshold": set_params(iouThrs=np.array([])),
    "no recall": set_params(recThrs=np.array([])),
    "ranges with texts": set_params(areaRng=[[0, "many"]], areaRngLbl=["all"]),
    "no range": set_params(areaRng=[], areaRngLbl=[]),
    "ranges as arrays": set_params(areaRng=np.array([[0, 1e10], [0, 5000]]), areaRngLbl=["all", "medium"]),
    "evaluated twice": twice,
    "accumulated with others": other_params,
    "fewer detections": in_between(lambda j: setattr(j.params, "maxDets", [20])),
    "fewer images": in_between(lambda j: setattr(j.params, "imgIds", [2])),
    "more images": in_between(lambda j: setattr(j.params, "imgIds", [0, 1, 2, 3])),
    "ranges in another order": in_between(lambda j: j.params.areaRng.reverse()),
    "fewer thresholds": in_between(lambda j: setattr(j.params, "iouThrs", j.params.iouThrs[:2])),
    "more thresholds": in_between(lambda j: setattr(j.params, "iouThrs", np.linspace(0.1, 1, 12))),
    "other recalls": in_between(lambda j: setattr(j.params, "recThrs", np.array([0.9, 0.1, 0.2]))),
    "more categories": in_between(lambda j: setattr(j.params, "catIds", [0, 1])),
    "useCats changed": in_between(lambda j: setattr(j.params, "useCats", 0)),
    "matches taken away": in_between(lambda j: j.evalImgs.__setitem__(0, None)),
    "matches changed": in_between(lambda j: j.evalImgs[0]["dtMatches"].fill(0)),
    "no evaluate": lambda j: j.accumulate(),
    "no accumulate": lambda j: j.evaluate(),
    "two rounds of accumulate": in_between(lambda j: j.accumulate()),
}


@pytest.mark.parametrize("name", USES)
def test_odd_uses(coco, name):
    """Params changed before, between and after the calls, in ways that pycocotools takes or does not."""
    case = scene(coco, people=24)

    def use(judge):
        judge.params.maxDets = [1, 5, 20]
        USES[name](judge)

    assert compare(case.truth, case.results, use)[0] == []


@pytest.mark.parametrize("ids", [lambda i: i, lambda i: -i, lambda i: i // 2, lambda i: i + 0.5])
def test_results_with_ids_of_their_own(coco, ids):
    """Results that did not come through loadRes: a person matched with a result of id 0 or less stays free."""
    case = scene(coco, people=24)
    outcomes = []
    for kind in (Judge, COCOeval):
        gt, dt = load(case.truth, case.results)
        for i, row in enumerate(dt.dataset["annotations"]):
            row["id"] = ids(i)
        with quiet():
            dt.createIndex()
        outcomes.append(outcome(kind, gt, dt, standard))
    assert same(*outcomes)


def test_nothing_to_summarize(coco):
    """Both refuse to summarize before accumulating."""
    gt, dt = load(scene(coco).truth, scene(coco).results)
    for kind in (Judge, COCOeval):
        with pytest.raises(Exception, match="accumulate"):
            kind(gt, dt, "keypoints").summarize()


@pytest.mark.parametrize("kind", ["segm", "bbox", "poses", ""])
def test_keypoints_only(kind):
    """Boxes and masks are refused in a sentence, at once or when the params change to them."""
    with pytest.raises(EvaluationError, match=r"keypoints only\. pass iouType='keypoints'"):
        COCOeval(None, None, kind)
    judge = COCOeval(None, None, "keypoints")
    judge.params = Params("keypoints")
    judge.params.iouType = kind
    with quiet(), pytest.raises(EvaluationError, match="keypoints only"):
        judge.evaluate()


@pytest.mark.parametrize("kind", ["keypoints", "bbox", "segm"])
def test_defaults(kind):
    """The params have the names and the bits of pycocotools'."""
    assert same(vars(type(Judge(iouType=kind).params)(kind)), vars(Params(kind)))


def test_ordinary_rows_go_through_arrays(coco, monkeypatch):
    """Not one image at a time: the loops are not entered for what estimators write and annotators draw."""
    monkeypatch.setattr(COCOeval, "_one_by_one", lambda self: pytest.fail("one image at a time"))
    cases = [scene(coco) for _ in range(4)]
    every(cases[1].results, bbox=[0, 0, 96, 96])
    cases[2].results[0]["keypoints"][0] = NAN
    every(cases[3].truth["annotations"][:4], id=0, keypoints=[0] * 51, num_keypoints=0)
    assert [compare(case.truth, case.results)[0] for case in cases] == [[]] * 4


def test_own_similarity(coco):
    """A subclass with its own computeOks, and a function set on the object, are used as pycocotools uses them."""
    case = scene(coco)
    half = lambda self, *ids: 0.7 * np.asarray(original(self, *ids))  # noqa: E731
    stats = []
    for kind in (Judge, COCOeval):
        original = kind.computeOks
        child = type("Child", (kind,), {"computeOks": half})
        with quiet():
            judges = (
                child(*load(case.truth, case.results), "keypoints"),
                kind(*load(case.truth, case.results), "keypoints"),
            )
            judges[1].computeOks = lambda *ids, judge=judges[1]: half(judge, *ids)
            for judge in judges:
                standard(judge)
        stats += [judge.stats.tolist() for judge in judges]
    assert stats[0] == stats[1] == stats[2] == stats[3]
    assert stats[0][2] == 0 < stats[0][1]


def test_str_is_as_useful(coco):
    """pycocotools prints the summary and then raises, since it returns no text."""
    case = scene(coco)
    for kind in (Judge, COCOeval):
        with quiet() as text:
            judge = kind(*load(case.truth, case.results), "keypoints")
            standard(judge)
            with pytest.raises(TypeError):
                str(judge)
        assert text.getvalue().count("Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets= 20 ]") == 2


@pytest.mark.parametrize("kind", [Judge, COCOeval])
def test_as_detectron2_calls_it(coco, tmp_path, kind):
    """detectron2: loadRes of its results, sigmas as an array, a check of lengths, ten named numbers in percent."""
    case = scene(coco)
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(case.truth))
    with quiet():
        gt = COCO(str(file))
        dt = gt.loadRes(copy.deepcopy(case.results))
        judge = kind(gt, dt, "keypoints")
        judge.params.kpt_oks_sigmas = np.array(coco.sigmas.tolist())
        found = len(dt.anns[1]["keypoints"]) // 3
        assert found == len(judge.params.kpt_oks_sigmas) == len(next(iter(gt.anns.values()))["keypoints"]) // 3
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ["AP", "AP50", "AP75", "APm", "APl"]
    got = {name: float(judge.stats[i] * 100 if judge.stats[i] >= 0 else "nan") for i, name in enumerate(names)}
    want = coco.by_pycocotools(case)[1]
    assert list(got.values()) == [number * 100 for number in want[:5]]


@pytest.mark.parametrize("kind", [Judge, COCOeval])
def test_as_ultralytics_calls_it(coco, tmp_path, kind):
    """Ultralytics: results with boxes from a file, images by the names of theirs, `stats[:2]`."""
    case = scene(coco)
    every(case.results, bbox=[1.0, 2.0, 60.0, 60.0])
    (tmp_path / "instances.json").write_text(json.dumps(case.truth))
    (tmp_path / "predictions.json").write_text(json.dumps(case.results))
    with quiet():
        anno = COCO(str(tmp_path / "instances.json"))
        judge = kind(anno, anno.loadRes(str(tmp_path / "predictions.json")), "keypoints")
        judge.params.imgIds = [int(stem) for stem in ("000000000002",)]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    case.image_ids = [2]
    ap, ap50 = judge.stats[:2]
    assert [ap, ap50] == coco.by_pycocotools(case)[1][:2]


@pytest.mark.parametrize("kind", [Judge, COCOeval])
def test_as_torchvision_merges_it(coco, kind):
    """torchvision's and DETR's way over ranks: evalImgs of each as an array, put together, accumulated."""
    case = scene(coco)
    with quiet():
        gt, whole = load(case.truth, [])[0], kind(*load(case.truth, case.results), "keypoints")
        parts = []
        for image in (1, 2):
            judge = kind(gt, iouType="keypoints")
            judge.cocoDt = gt.loadRes([copy.deepcopy(r) for r in case.results if r["image_id"] == image])
            judge.params.imgIds = [image]
            judge.evaluate()
            parts.append(np.asarray(judge.evalImgs).reshape(-1, len(judge.params.areaRng), 1))
        merged = kind(gt, iouType="keypoints")
        merged.evalImgs = list(np.concatenate(parts, 2).flatten())
        merged.params.imgIds = [1, 2]
        merged._paramsEval = copy.deepcopy(merged.params)
        merged.accumulate()
        merged.summarize()
        standard(whole)
    assert merged.stats.tolist() == whole.stats.tolist() == coco.by_pycocotools(case)[1]


def test_lazy_lists_are_those_of_the_loops(coco):
    """What `evalImgs` and `ious` show after arrays is what going one image at a time makes."""
    case = scene(coco)
    every(case.truth["annotations"][::5], iscrowd=1)
    judges = []
    with quiet():
        for rules in (None, lambda *ids: COCOeval.computeOks(judges[1], *ids)):
            judges.append(COCOeval(*load(case.truth, case.results), "keypoints"))
            if rules:
                judges[1].computeOks = rules
            standard(judges[-1])
    assert judges[0]._evaluated is not None
    assert judges[1]._evaluated is None
    assert same(judges[0].evalImgs, judges[1].evalImgs)
    assert same(judges[0].ious, judges[1].ious)


def test_many_images_and_categories(coco):
    """Images and categories on which one side, or both, have nobody."""
    case = scene(coco)
    case.truth["images"] += [{"id": i} for i in range(3, 9)]
    case.truth["categories"] += [{"id": 2}, {"id": 3}, {"id": 4}]
    homes = itertools.cycle(itertools.product([1, 2, 5, 7], [1, 3, 4]))
    for row, (image, category) in zip([*case.truth["annotations"][3:], *case.results], homes, strict=False):
        row.update(image_id=image, category_id=category)
    assert compare(case.truth, case.results)[0] == []


def test_plain_numbers_only():
    """Texts, 32-bit floats, flags and integers that a float cannot hold do not go into arrays."""
    for values in (["1"], [np.float32(1)], [True], [2**53 + 2], [None]):
        with pytest.raises(coco_rows.NotPlain):
            coco_rows.numbers(values)
    assert coco_rows.numbers([1, 2.5, np.float64(NAN), 1e300]).tolist()[:2] == [1, 2.5]
