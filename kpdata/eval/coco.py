"""A drop-in for `pycocotools.cocoeval.COCOeval` with iouType="keypoints": the same bits, many times faster.

    from kpdata.eval.coco import COCOeval     # instead of: from pycocotools.cocoeval import COCOeval

It takes pycocotools' own `COCO` objects, or any with their `getImgIds`, `getCatIds`, `getAnnIds` and `loadAnns`.
Everything is as in pycocotools 2.0.11, traps included (`kpdata.eval.oks.Params` lists them): the printed lines, what
is written into the annotations (`ignore`, `_ignore`), and what raises. The rows go to arrays in one pass and through
the engine of `kpdata.evaluate`; rows that arrays cannot hold (`coco_rows`) are taken one image at a time, as slowly as
in pycocotools, and so are all of a subclass that has its own `computeOks` or `evaluateImg`.
"""

from __future__ import annotations

import copy
import datetime
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from kpdata.errors import EvaluationError
from kpdata.eval import coco_loops, coco_rows
from kpdata.eval.average_precision import accumulate as accumulate_matches
from kpdata.eval.coco_rows import Evaluated, Row


class Params:
    """What to evaluate, under pycocotools' names.

    imgIds, catIds: what to look at; iouThrs (T,), recThrs (R,): grids of OKS and of recall; maxDets: numbers of
    detections an image; areaRng, areaRngLbl: ranges of area in square pixels, bounds inclusive; useCats: 1 unless
    categories are to be ignored; kpt_oks_sigmas (K,): falloff constants. EvaluationError for an iouType that is none.
    """

    imgIds: Any
    catIds: Any
    iouThrs: Any
    recThrs: Any
    maxDets: Any
    areaRng: Any
    areaRngLbl: Any
    useCats: Any
    kpt_oks_sigmas: Any

    def __init__(self, iouType: str = "segm") -> None:
        if iouType in ("segm", "bbox"):
            self.setDetParams()
        elif iouType == "keypoints":
            self.setKpParams()
        else:
            raise EvaluationError(f"iouType {iouType!r}: expected 'keypoints', 'bbox' or 'segm'")
        self.iouType = iouType
        self.useSegm: Any = None

    def setDetParams(self) -> None:
        """pycocotools' defaults for boxes and masks, which `COCOeval` here refuses to score."""
        self._set([1, 10, 100], {"all": (0, 1e5), "small": (0, 32), "medium": (32, 96), "large": (96, 1e5)})

    def setKpParams(self) -> None:
        """The defaults for keypoints, with the constants of COCO's 17 (cocoeval.py:523, divided by 10.0)."""
        self._set([20], {"all": (0, 1e5), "medium": (32, 96), "large": (96, 1e5)})
        tenfold = [.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]  # fmt: skip
        self.kpt_oks_sigmas = np.array(tenfold) / 10.0

    def _set(self, max_dets: list[int], sides: dict[str, tuple[float, float]]) -> None:
        self.imgIds, self.catIds = [], []
        self.iouThrs, self.recThrs = np.linspace(0.5, 0.95, 10), np.linspace(0.0, 1.0, 101)
        self.maxDets = max_dets
        self.areaRng = [[low**2, high**2] for low, high in sides.values()]
        self.areaRngLbl = list(sides)
        self.useCats = 1


class COCOeval:
    """Evaluate results against ground truth: `evaluate()`, `accumulate()`, `summarize()`, then `stats`.

    params: what to evaluate; change it before `evaluate` (or, as far as pycocotools allows it, before `accumulate`).
    evalImgs: matches, a dict or None for each category, area range and image; built when first looked at.
    ious: {(image id, category id): OKS (D, G)}; built when first looked at.
    eval: params, counts [T, R, K, A, M], date, precision (T, R, K, A, M), recall (T, K, A, M), scores.
    stats (10,): AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl.
    Raises EvaluationError for boxes and masks, and else what pycocotools raises: KeyError for a missing field, …
    """

    def __init__(self, cocoGt: Any = None, cocoDt: Any = None, iouType: str = "segm") -> None:
        _keypoints_only(iouType)
        self.cocoGt = cocoGt
        self.cocoDt = cocoDt
        self._evaluated: Evaluated | None = None
        self._evalImgs: Any = defaultdict(list)  # None: not yet made from _evaluated
        self._ious: Any = {}
        self.eval: dict[str, Any] = {}
        self._gts: Any = defaultdict(list)
        self._dts: Any = defaultdict(list)
        self.params: Any = Params(iouType=iouType)
        self._paramsEval: Any = {}
        self.stats: Any = []
        if cocoGt is not None:
            self.params.imgIds = sorted(cocoGt.getImgIds())
            self.params.catIds = sorted(cocoGt.getCatIds())

    @property
    def evalImgs(self) -> Any:
        """What was matched, as pycocotools' list of dicts. A list that is set here is what `accumulate` reads."""
        if self._evalImgs is None and self._evaluated is not None:
            self._evalImgs = coco_rows.eval_imgs(self._evaluated)
        return self._evalImgs

    @evalImgs.setter
    def evalImgs(self, images: Any) -> None:
        self._evalImgs = images

    @property
    def ious(self) -> Any:
        """OKS by (image id, category id): (D, G), detections by score, people in the file's order; [] without both."""
        if self._ious is None and self._evaluated is not None:
            self._ious = coco_rows.all_oks(self._evaluated)
        return self._ious

    @ious.setter
    def ious(self, matrices: Any) -> None:
        self._ious = matrices

    def _prepare(self) -> None:
        """Fill `_gts` and `_dts`, rows by (image id, category id), and set `ignore` in the annotations."""
        p = self.params
        chosen = {"imgIds": p.imgIds, "catIds": p.catIds} if p.useCats else {"imgIds": p.imgIds}
        gts = self.cocoGt.loadAnns(self.cocoGt.getAnnIds(**chosen))
        dts = self.cocoDt.loadAnns(self.cocoDt.getAnnIds(**chosen))
        for gt in gts:
            gt["ignore"] = "iscrowd" in gt and gt["iscrowd"]
            gt["ignore"] = (gt["num_keypoints"] == 0) or gt["ignore"]
        self._gts, self._dts = defaultdict(list), defaultdict(list)
        for table, rows in ((self._gts, gts), (self._dts, dts)):
            for row in rows:
                table[row["image_id"], row["category_id"]].append(row)
        self.evalImgs, self.eval = defaultdict(list), {}

    def evaluate(self) -> None:
        """Match the people of every listed image and category."""
        start = time.time()
        print("Running per image evaluation...")
        p = self.params
        _keypoints_only(p.iouType if p.useSegm is None else "segm" if p.useSegm == 1 else "bbox")
        print(f"Evaluate annotation type *{p.iouType}*")
        p.imgIds = list(np.unique(p.imgIds))
        if p.useCats:
            p.catIds = list(np.unique(p.catIds))
        p.maxDets = sorted(p.maxDets)
        self._prepare()
        self._evaluated = None if self._has_own_rules() else coco_rows.to_arrays(self._gts, self._dts, p)
        if self._evaluated is not None:
            coco_rows.mark_ignored(self._evaluated)
            self._evalImgs = self._ious = None
        else:
            self._one_by_one()
        self._paramsEval = copy.deepcopy(self.params)
        print(f"DONE (t={time.time() - start:0.2f}s).")

    def _has_own_rules(self) -> bool:
        """Somebody replaced the similarity or the matching, in a subclass or on this object."""
        own = ((getattr(type(self), name), name) for name in ("computeOks", "evaluateImg"))
        return any(method is not getattr(COCOeval, name) or name in vars(self) for method, name in own)

    def _one_by_one(self) -> None:
        p = self.params
        categories = p.catIds if p.useCats else [-1]
        self.ious = {(i, c): self.computeOks(i, c) for i in p.imgIds for c in categories}
        most = p.maxDets[-1]
        self.evalImgs = [self.evaluateImg(i, c, r, most) for c in categories for r in p.areaRng for i in p.imgIds]

    def computeOks(self, imgId: Any, catId: Any) -> Any:
        """OKS (D, G) of one image and category, detections by score; [] where a side is empty."""
        return coco_loops.oks_matrix(self._gts[imgId, catId], self._dts[imgId, catId], self.params)

    def evaluateImg(self, imgId: Any, catId: Any, aRng: Any, maxDet: Any) -> Row | None:
        """One entry of `evalImgs`, from `ious`."""
        p = self.params
        categories = [catId] if p.useCats else p.catIds
        gts, dts = ([row for c in categories for row in table[imgId, c]] for table in (self._gts, self._dts))
        if not gts and not dts:
            return None
        found = coco_loops.evaluate_image(gts, dts, self.ious[imgId, catId], p, aRng, maxDet)
        return {"image_id": imgId, "category_id": catId, "aRng": aRng, "maxDet": maxDet, **(found or {})}

    def accumulate(self, p: Any = None) -> None:
        """Reduce the matches to precision, recall and scores, in `eval`. `p` stands in for `params`."""
        print("Accumulating evaluation results...")
        start = time.time()
        if not (self._evaluated.cells() if self._evalImgs is None and self._evaluated else self._evalImgs):
            print("Please run evaluate() first")
        p = self.params if p is None else p
        p.catIds = p.catIds if p.useCats == 1 else [-1]
        curves = self._accumulate_arrays(p)
        precision, recall, scores = curves or coco_loops.accumulate(self.evalImgs, p, self._paramsEval)
        self.eval = {
            "params": p,
            "counts": list(precision.shape),
            "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "precision": precision,
            "recall": recall,
            "scores": scores,
        }
        print(f"DONE (t={time.time() - start:0.2f}s).")

    def _accumulate_arrays(self, p: Any) -> tuple[Any, Any, Any] | None:
        """Precision, recall and scores from the arrays; None where `p` lists another set than was evaluated."""
        done, evaluated = self._evaluated, self._paramsEval
        if done is None or self._evalImgs is not None or not _lists_the_same(p, evaluated, done):
            return None
        try:
            recalls = coco_rows.grid(p.recThrs)
        except (coco_rows.NotPlain, ValueError):
            return None
        counts = [m for m in p.maxDets if m in set(evaluated.maxDets)]
        if not counts or not all(type(m) is int for m in counts):
            return None
        curves = accumulate_matches(
            done.matches, replace(done.params, recall_thresholds=recalls, max_dets=tuple(set(counts)))
        )
        columns = np.searchsorted(sorted(set(counts)), counts)
        whole = [-np.ones((*a.shape[:-1], len(p.maxDets))) for a in (curves.precision, curves.recall, curves.scores)]
        for array, values in zip(whole, (curves.precision, curves.recall, curves.scores), strict=True):
            array[..., : len(counts)] = values[..., columns]
        return whole[0], whole[1], whole[2]

    def summarize(self) -> None:
        """Print the ten lines and keep the numbers in `stats`. -1 where there is nothing to average."""
        if not self.eval:
            raise EvaluationError("nothing to summarize", hint="run accumulate() first")
        _keypoints_only(self.params.iouType)
        rows = ((None, "all"), (0.5, "all"), (0.75, "all"), (None, "medium"), (None, "large"))
        self.stats = np.array([self._line(kind, *row) for kind in ("precision", "recall") for row in rows], dtype=float)

    def _line(self, kind: str, threshold: float | None, label: str, most: int = 20) -> Any:
        """Print one line, return its number: the mean of all entries above -1 (cocoeval.py:427–462)."""
        p = self.params
        title = "Average Precision  (AP)" if kind == "precision" else "Average Recall     (AR)"
        span = f"{p.iouThrs[0]:0.2f}:{p.iouThrs[-1]:0.2f}" if threshold is None else f"{threshold:0.2f}"
        areas = [i for i, name in enumerate(p.areaRngLbl) if name == label]
        counts = [i for i, count in enumerate(p.maxDets) if count == most]
        values = self.eval[kind]
        if threshold is not None:
            values = values[np.where(threshold == p.iouThrs)[0]]
        values = values[..., areas, counts]
        known = values[values > -1]
        mean = np.mean(known) if len(known) else -1
        print(f" {title} @[ IoU={span:<9} | area={label:>6s} | maxDets={most:>3d} ] = {mean:0.3f}")
        return mean

    def __str__(self) -> str:
        """As in pycocotools: prints the ten lines, and there is no text to give, so that str() raises TypeError."""
        self.summarize()
        raise TypeError("COCOeval prints its summary and has no text", "call summarize()")


def _keypoints_only(kind: Any) -> None:
    if kind != "keypoints":
        raise EvaluationError(
            f"iouType {kind!r}: kpdata evaluates keypoints only",
            hint="pass iouType='keypoints'; for boxes and masks use pycocotools",
        )


def _lists_the_same(p: Any, evaluated: Any, done: Evaluated) -> bool:
    """`p` lists as many categories, ranges and thresholds as were evaluated, and all the images, in their places."""
    sizes = (len(done.category_ids), len(done.area_ranges), len(done.params.iou_thresholds))
    if (len(p.catIds), len(p.areaRng), len(p.iouThrs)) != sizes or (p.useCats, evaluated.useCats) != (1, 1):
        return False
    known = (set(evaluated.catIds), set(map(tuple, evaluated.areaRng)), set(evaluated.imgIds))
    return (
        all(category in known[0] for category in p.catIds)
        and all(tuple(r) in known[1] for r in p.areaRng)
        and (len(evaluated.areaRng), len(evaluated.imgIds)) == (sizes[1], len(done.image_ids))
        and [n for n, i in enumerate(p.imgIds) if i in known[2]] == list(range(len(done.image_ids)))
    )
