"""Batches in, the bits of one shot out."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata.errors import EvaluationError
from kpdata.eval import Params, evaluate_arrays, summarize
from kpdata.eval.streaming import StreamingEvaluation
from kpdata.skeleton import load
from tests.eval.test_average_precision import scene

SEEDS = st.integers(0, 2**32 - 1)


def own_ids(case):
    """The case as a stream can have it: no repeated annotation ids, and only images and categories that are scored."""
    case.image_ids = case.category_ids = None
    listed = set(case.images()), set(case.categories())
    for rows in (case.truth["annotations"], case.results):
        rows[:] = [r for r in rows if r["image_id"] in listed[0] and r["category_id"] in listed[1]]
    first = min((a["id"] for a in case.truth["annotations"]), default=0)
    for i, row in enumerate(case.truth["annotations"]):
        row["id"] = first + i
    return case


def columns(rows, chosen):
    return {field.name: getattr(rows, field.name)[chosen] for field in fields(rows)}


def batch(gt, dt, images):
    """The two arguments of `update` for these images."""
    truth = columns(gt, np.isin(gt.image_id, images))
    truth["visibility"] = truth.pop("labelled") * 2
    return truth, columns(dt, np.isin(dt.image_id, images))


def equal(a, b):
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(a))


@settings(max_examples=40)
@given(SEEDS, st.booleans(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_any_batches_in_any_order_on_any_ranks(coco, seed, strange, ranks, random):
    """Numbers and curves are those of one shot and of pycocotools, to the bit, however the images came."""
    case = own_ids(coco.random_case(seed, strange=strange))
    gt, dt, params = coco.arrays(case)
    images = sorted(set(case.images()))
    random.shuffle(images)
    parts = [StreamingEvaluation(params, category_ids=case.categories()) for _ in range(ranks)]
    while images:
        size = random.randint(1, len(images))
        random.choice(parts).update(*batch(gt, dt, images[:size]), image_ids=images[:size])
        images = images[size:]
    random.shuffle(parts)
    while len(parts) > 1:
        other = pickle.loads(pickle.dumps(parts.pop()))
        random.choice(parts).merge(other)
    stats, curves = parts[0].compute()
    want, numbers = coco.by_pycocotools(case)
    assert equal(curves, want)
    assert list(stats.values()) == numbers
    whole = evaluate_arrays(gt, dt, case.images(), case.categories(), params)
    assert equal(curves, whole)
    assert stats == summarize(whole, params)


def streamed(coco, case, mode="strict"):
    gt, dt, params = coco.arrays(case)
    scores = StreamingEvaluation(replace(params, mode=mode))
    for image in case.images():
        scores.update(*batch(gt, dt, [image]))
    return scores


def test_numbers_on_the_way(coco):
    """compute() may be called at any time, changes nothing, and counts what came so far."""
    case = scene(coco)
    gt, dt, params = coco.arrays(case)
    scores = StreamingEvaluation(params)
    assert set(scores.compute().stats.values()) == {-1.0}
    scores.update(*batch(gt, dt, [1]))
    case.image_ids = [1]
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]
    scores.update(*batch(gt, dt, [2]))
    case.image_ids = None
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]
    assert len(scores) == 2
    scores.reset()
    assert len(scores) == 0
    assert set(scores.compute().stats.values()) == {-1.0}


def test_plain_columns(coco):
    """Only what everybody has: keypoints with v, areas, scores. The rest is counted or taken as absent."""
    case = scene(coco)
    case.truth["annotations"] = [a for a in case.truth["annotations"] if a["num_keypoints"]]
    scores = StreamingEvaluation("coco_17")
    for image in (2, 1):
        people = [a for a in case.truth["annotations"] if a["image_id"] == image]
        results = [r for r in case.results if r["image_id"] == image]
        scores.update(
            {
                "image_id": [image] * len(people),
                "keypoints": np.reshape([a["keypoints"] for a in people], (-1, 17, 3)),
                "area": [a["area"] for a in people],
            },
            {
                "image_id": np.full(len(results), float(image)),
                "keypoints": np.reshape([r["keypoints"] for r in results], (-1, 17, 3)),
                "score": [r["score"] for r in results],
            },
        )
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]


def test_boxes_decide_areas(coco):
    """Results with boxes take their size range from them, as in pycocotools; then all batches must have them."""
    case = scene(coco)
    for row in case.results:
        row["bbox"] = [0.0, 0.0, 60.0, 50.0]
    gt, dt, params = coco.arrays(case)
    scores, plain = StreamingEvaluation(params), StreamingEvaluation(params)
    for image in (1, 2):
        truth, found = batch(gt, dt, [image])
        found.pop("area")
        if image == 1:
            plain.update(truth, found)
        found["bbox"] = np.tile([0.0, 0.0, 60.0, 50.0], (len(found["score"]), 1))
        scores.update(truth, found)
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]
    for way in (lambda: plain.update(truth, found), lambda: plain.merge(scores, skip_repeated=True)):
        with pytest.raises(
            EvaluationError, match=r"area is their bbox beside others whose area is their keypoints' extent"
        ):
            way()
    assert len(plain) == 1


class Tensor:
    """As much of torch.Tensor as a validation loop hands over: no array before it has left the device."""

    def __init__(self, values, home="cuda", bfloat16=False):
        self.values, self.home, self.bfloat16 = np.asarray(values), home, bfloat16

    def detach(self):
        return Tensor(self.values, "detached", self.bfloat16)

    def cpu(self):
        assert self.home == "detached"
        return Tensor(self.values, "cpu", self.bfloat16)

    def float(self):
        return Tensor(self.values.astype(np.float32), self.home)

    def numpy(self):
        if self.home != "cpu" or self.bfloat16:
            raise TypeError("can't convert")
        return self.values

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_tensors(coco):
    """Tensors on a device, with gradients or in bfloat16, go in as they are, and torch is not imported."""
    import sys

    case = scene(coco)
    gt, dt, params = coco.arrays(case)
    scores = StreamingEvaluation(params)
    truth, found = batch(gt, dt, [1, 2])
    found["score"] = Tensor(found["score"].astype(np.float32), bfloat16=True)
    for row in case.results:
        row["score"] = float(np.float32(row["score"]))
    before = "torch" in sys.modules
    scores.update(
        {name: Tensor(values) for name, values in truth.items()},
        {name: values if isinstance(values, Tensor) else Tensor(values) for name, values in found.items()},
        image_ids=Tensor([1, 2]),
    )
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]
    assert ("torch" in sys.modules) == before


def test_an_image_comes_once(coco):
    """A second batch with the same image is refused, and changes nothing."""
    case = scene(coco)
    scores = streamed(coco, case)
    gt, dt, _ = coco.arrays(case)
    with pytest.raises(EvaluationError, match=r"1 image ids that came before, such as 2\. an image must come whole"):
        scores.update(*batch(gt, dt, [2]))
    with pytest.raises(EvaluationError, match="1 image ids that came before"):
        scores.update(None, None, image_ids=[2, 3])
    assert len(scores) == 2
    assert list(scores.compute().stats.values()) == coco.by_pycocotools(case)[1]


def test_padded_ranks(coco):
    """Loaders repeat images so that each rank has as many: merging refuses them, or takes them once."""
    case = scene(coco)
    gt, dt, params = coco.arrays(case)
    a, b = StreamingEvaluation(params), StreamingEvaluation(params)
    a.update(*batch(gt, dt, [1]))
    b.update(*batch(gt, dt, [2, 1]))
    with pytest.raises(EvaluationError, match=r"1 images are in both, such as 1\. .*skip_repeated=True"):
        a.merge(b)
    a.merge(b, skip_repeated=True)
    assert list(a.compute().stats.values()) == coco.by_pycocotools(case)[1]
    a.merge(a, skip_repeated=True)
    assert list(a.compute().stats.values()) == coco.by_pycocotools(case)[1]
    assert len(b) == 2


def test_only_equals_merge(coco):
    """Other params or categories are refused."""
    params = Params(coco.sigmas)
    one = StreamingEvaluation(params)
    for other in (StreamingEvaluation(params, category_ids=[2]), StreamingEvaluation(replace(params, max_dets=(5,)))):
        with pytest.raises(EvaluationError, match="do not evaluate the same"):
            one.merge(other)


def test_repeated_annotation_ids(coco):
    """In pycocotools an id that repeats replaces people of other images: refused, unless the mode is "fixed"."""
    case = scene(coco)
    case.truth["annotations"][0]["id"] = 139
    with pytest.raises(
        EvaluationError, match=r"1 annotation ids that came before, such as 139\. leave annotation_id out"
    ):
        streamed(coco, case)
    fixed = streamed(coco, case, mode="fixed")
    case.truth["annotations"][0]["id"] = 100
    assert list(fixed.compute().stats.values()) == coco.by_pycocotools(case)[1]


def test_id_zero_is_a_trap_only_if_given(coco):
    """Without annotation ids nobody has id 0; with them it counts as pycocotools counts it."""
    case = scene(coco)
    clean = coco.by_pycocotools(case)[1]
    case.truth["annotations"][0]["id"] = 0
    assert list(streamed(coco, case).compute().stats.values()) == coco.by_pycocotools(case)[1] != clean
    gt, dt, params = coco.arrays(case)
    truth, found = batch(gt, dt, [1, 2])
    truth.pop("annotation_id")
    scores = StreamingEvaluation(params)
    scores.update(truth, found)
    assert list(scores.compute().stats.values()) == clean


def test_skeleton_or_sigmas(coco):
    """A skeleton's name, the Skeleton and its sigmas are the same; one without sigmas is refused."""
    for given_as in ("coco_17", load("coco_17"), coco.sigmas, coco.sigmas.tolist()):
        assert np.array_equal(StreamingEvaluation(given_as).params.sigmas, coco.sigmas)
    with pytest.raises(EvaluationError, match="has no official OKS sigmas"):
        StreamingEvaluation(replace(load("coco_17"), sigmas=None, sigma_source=None))


def changed(name, value):
    def change(truth, found):
        side = truth if name in truth and name != "score" else found
        side[name] = value(side.get(name)) if callable(value) else value

    return change


WRONG = {
    "no area": (lambda t, f: t.pop("area"), r"truth: no column 'area', found .*COCO takes the mask's area"),
    "no score": (lambda t, f: f.pop("score"), "found: no column 'score'"),
    "no image": (lambda t, f: f.pop("image_id"), "found: no column 'image_id'"),
    "a misspelt column": (changed("iscrowds", 0), r"found: unknown column 'iscrowds', expected some of image_id"),
    "14 keypoints": (
        changed("keypoints", lambda x: x[:, :14]),
        r"keypoints of shape \(40, 14, 2\), expected \(rows, 17",
    ),
    "flat keypoints": (changed("keypoints", lambda x: x.reshape(len(x), -1)), r"shape \(40, 34\), expected \(rows, 17"),
    "no visibility": (lambda t, f: t.pop("visibility"), "no third number, and there is no column 'visibility'"),
    "too few scores": (changed("score", lambda x: x[1:]), r"Detections.score: shape \(79,\)"),
    "texts as images": (changed("image_id", lambda x: x.astype(str)), r"column 'image_id' is <U\d+, expected numbers"),
    "half images": (changed("image_id", lambda x: x + 0.5), "expected whole numbers"),
    "an image a column": (
        changed("image_id", lambda x: x[:, None]),
        r"image_id: shape \(40, 1\), expected a number a row",
    ),
    "rows of different lengths": (changed("score", lambda x: [[1, 2], [3]]), "found: column 'score' is no array"),
    "boxes of two numbers": (
        changed("bbox", lambda x: x[:, :2]),
        r"truth: bbox of shape \(40, 2\), expected \(rows, 4\)",
    ),
    "another category": (changed("category_id", lambda x: x + 1), "ground truth of category 2, expected 1"),
    "no box for the unlabelled": (
        lambda t, f: (t.pop("bbox"), t.update(visibility=t["visibility"] * 0)),
        "40 people without a labelled keypoint and no column 'bbox'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_batches(coco, name):
    """Each is refused with what was found and what was expected, and nothing is added."""
    gt, dt, params = coco.arrays(scene(coco))
    truth, found = batch(gt, dt, [1, 2])
    WRONG[name][0](truth, found)
    scores = StreamingEvaluation(params)
    with pytest.raises(EvaluationError, match=WRONG[name][1]):
        scores.update(truth, found)
    assert len(scores) == 0
    scores.update(*batch(gt, dt, [1, 2]))


def test_rows_instead_of_columns(coco):
    """A list of dicts is refused with the names of the columns."""
    with pytest.raises(EvaluationError, match="truth: a list, expected columns by name: image_id"):
        StreamingEvaluation(coco.sigmas).update([{"image_id": 1}], None)


def test_annotation_ids_across_ranks(coco):
    """An id that two ranks give to different people is refused, also where repeated images are skipped."""
    case = scene(coco)
    case.truth["annotations"][0].update(id=139, image_id=1)
    gt, dt, params = coco.arrays(case)
    for mode, refused in (("strict", True), ("fixed", False)):
        one, other = (StreamingEvaluation(replace(params, mode=mode)) for _ in range(2))
        one.update(*batch(gt, dt, [1]))
        other.update(*batch(gt, dt, [2]))
        for skip in (False, True):
            if refused:
                with pytest.raises(EvaluationError, match="1 annotation ids that came before, such as 139"):
                    one.merge(other, skip_repeated=skip)
        if not refused:
            one.merge(other)
            assert len(one) == 2


def test_categories(coco):
    """Several categories need a column that says which."""
    gt, dt, params = coco.arrays(scene(coco))
    truth, found = batch(gt, dt, [1])
    truth.pop("category_id")
    with pytest.raises(EvaluationError, match="no column 'category_id', and 2 categories are scored"):
        StreamingEvaluation(params, category_ids=[1, 2]).update(truth, found)
    with pytest.raises(EvaluationError, match="no category ids"):
        StreamingEvaluation(params, category_ids=[])
