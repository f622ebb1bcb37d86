"""pycocotools' COCOeval and kpdata's, side by side on the same `COCO` objects."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval as Judge

from kpdata.eval.coco import COCOeval

FIELDS = ("precision", "recall", "scores")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """What is printed, without what NumPy thinks of NaN and infinity."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield text


def load(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[COCO, COCO]:
    """Copies of both, as a user loads them. pycocotools cannot load an empty list: then results without annotations."""
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    gt, dt = COCO(), COCO()
    gt.dataset, dt.dataset = truth, {**truth, "annotations": []}
    gt.createIndex()
    dt.createIndex()
    return gt, gt.loadRes(results) if results else dt


Use = Callable[[Any], None]


def standard(judge: Any) -> None:
    judge.evaluate()
    judge.accumulate()
    judge.summarize()


def outcome(kind: Any, gt: COCO, dt: COCO, use: Use) -> dict[str, Any]:
    """All that a user can see afterwards: numbers, matches, what was printed, what was left in the annotations."""
    with quiet() as text:
        judge = kind(gt, dt, "keypoints")
        try:
            use(judge)
        except Exception as error:
            return {"raised": type(error)}
        seen = {name: judge.eval[name] for name in FIELDS if judge.eval}
        seen |= {"stats": np.asarray(judge.stats), "counts": judge.eval.get("counts")}
        seen |= {"evalImgs": judge.evalImgs, "ious": judge.ious, "truth": gt.dataset, "results": dt.dataset}
    seen["printed"] = [line for line in text.getvalue().splitlines() if not line.startswith(("DONE", "creat", "index"))]
    return seen


def compare(
    truth: dict[str, Any], results: list[dict[str, Any]], use: Use = standard
) -> tuple[list[str], dict[str, Any]]:
    """What differs between the two, and pycocotools' outcome; loading is its own, also where it raises."""
    try:
        with quiet():
            pairs = load(truth, results), load(truth, results)
    except Exception as error:
        return [], {"raised": type(error)}
    want, got = outcome(Judge, *pairs[0], use), outcome(COCOeval, *pairs[1], use)
    if "raised" in want or "raised" in got:
        return ([] if want.get("raised") == got.get("raised") else [f"{want.get('raised')} {got.get('raised')}"]), want
    return [name for name in want if not same(want[name], got[name])], want


def same(a: Any, b: Any) -> bool:
    """Equal in type, shape and value, all the way down; NaN equals NaN."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and (a == b or (a != a and b != b))
