"""Evaluation of predicted keypoints against ground truth.

`evaluate` takes two datasets; `kpdata.eval.coco.COCOeval` stands in for pycocotools' class; `StreamingEvaluation` takes
batches in a training loop.
"""

from __future__ import annotations

from kpdata.eval.average_precision import Curves, accumulate, evaluate_arrays, summarize
from kpdata.eval.evaluation import Evaluation, evaluate, evaluate_oks
from kpdata.eval.matching import Matches, concatenate, match
from kpdata.eval.oks import Detections, GroundTruth, Params, detection_area, resolve_repeated_ids
from kpdata.eval.part import Pairing, Part, pair

# Looked up when they are asked for: most runs need none of them.
_LATER = {
    "Comparison": "comparison",
    "Intervals": "bootstrap",
    "PointsEvaluation": "points",
    "SigmaEstimate": "sigmas",
    "StreamingEvaluation": "streaming",
    "compare": "comparison",
    "estimate_sigmas": "sigmas",
    "evaluate_points": "points",
}

__all__ = [
    "Comparison",
    "Curves",
    "Detections",
    "Evaluation",
    "GroundTruth",
    "Intervals",
    "Matches",
    "Pairing",
    "Params",
    "Part",
    "PointsEvaluation",
    "SigmaEstimate",
    "StreamingEvaluation",
    "accumulate",
    "compare",
    "concatenate",
    "detection_area",
    "estimate_sigmas",
    "evaluate",
    "evaluate_arrays",
    "evaluate_oks",
    "evaluate_points",
    "match",
    "pair",
    "resolve_repeated_ids",
    "summarize",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
