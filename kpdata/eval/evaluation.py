"""Ground truth and predictions (two Datasets) to numbers, with what is scored against what said in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kpdata.dataset import Dataset
from kpdata.eval.average_precision import Curves, accumulate, summarize
from kpdata.eval.oks import Params
from kpdata.eval.prepare import Sides, prepare
from kpdata.skeleton import Skeleton

METRIC = "COCO OKS AP/AR"
_ROWS = (
    ("all", "0.50:0.95", ""),
    ("all", "0.50", "50"),
    ("all", "0.75", "75"),
    ("medium", "0.50:0.95", "m"),
    ("large", "0.50:0.95", "l"),
)


@dataclass(frozen=True)
class Evaluation:
    """COCO OKS AP/AR of one set of predictions.

    stats: AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl in [0, 1]; -1 where there is nothing to average.
    curves: precision (T, R, C, A, M), recall (T, C, A, M), scores (T, R, C, A, M), as pycocotools' `eval`.
    sides: the two datasets, brought together, with the arrays and matches of each skeleton.
    notes: a sentence for each thing that changes what the numbers mean.
    """

    stats: dict[str, float]
    curves: Curves
    sides: Sides
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """`sigmas` and `skeletons` (by name), `category_ids` (those of C), `counts`, `area`, `detection_area`,
        `max_dets`."""
        return self.sides.facts

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`, numbers at full precision."""
        return {"metric": METRIC, "stats": self.stats, **self.facts, "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """The ten lines as pycocotools' `summarize` prints them (cocoeval.py:430–456)."""
        titles = {"AP": "Average Precision  (AP)", "AR": "Average Recall     (AR)"}
        most = self.facts["max_dets"][-1]
        return [
            f" {title} @[ IoU={iou:<9} | area={area:>6s} | maxDets={most:>3d} ] = {self.stats[key + suffix]:0.3f}"
            for key, title in titles.items()
            for area, iou, suffix in _ROWS
        ]


def evaluate(gt: Dataset, predictions: Dataset, *, skeleton: str | Skeleton | None = None) -> Evaluation:
    """COCO OKS AP/AR of predictions, bit-equal to pycocotools where that gives a number.

    skeleton: a name, a file or a Skeleton whose sigmas stand in for those of the ground truth's skeleton with as many
    keypoints. Categories are scored one by one, each with the sigmas of its people's skeleton, and averaged.
    Raises EvaluationError where the two cannot be scored together: images that the ground truth does not list, another
    number of keypoints, no keypoints, no scores, no sigmas, no areas.
    """
    notes: list[str] = []
    sides = prepare(gt, predictions, notes, skeleton=skeleton)
    # Thresholds and ranges are the same for every skeleton; a category without people keeps its -1.
    grid = Params(sigmas=np.ones(1))
    whole = _nothing(len(sides.category_ids), grid)
    for part in sides.parts:
        place = np.searchsorted(sides.category_ids, part.category_ids)
        curves = accumulate(part.matches, part.params)
        whole.precision[:, :, place], whole.scores[:, :, place] = curves.precision, curves.scores
        whole.recall[:, place] = curves.recall
    return Evaluation(summarize(whole, grid), whole, sides, tuple(dict.fromkeys(notes)))


def _nothing(categories: int, params: Params) -> Curves:
    """Curves of -1 for so many categories: what pycocotools gives where there is no ground truth."""
    t, r = len(params.iou_thresholds), len(params.recall_thresholds)
    cells = (categories, len(params.area_labels), len(params.max_dets))
    return Curves(np.full((t, r, *cells), -1.0), np.full((t, *cells), -1.0), np.full((t, r, *cells), -1.0))
