"""Evaluation of predicted keypoints against ground truth."""

from __future__ import annotations

from kpdata.eval.average_precision import Curves, accumulate, evaluate_arrays, summarize
from kpdata.eval.evaluation import Evaluation, evaluate
from kpdata.eval.matching import Matches, concatenate, match
from kpdata.eval.oks import Detections, GroundTruth, Params, detection_area, resolve_repeated_ids

__all__ = [
    "Curves",
    "Detections",
    "Evaluation",
    "GroundTruth",
    "Matches",
    "Params",
    "accumulate",
    "concatenate",
    "detection_area",
    "evaluate",
    "evaluate_arrays",
    "match",
    "resolve_repeated_ids",
    "summarize",
]
