"""What scores are worth: do they say how good a prediction is, and which of them to keep?

A score is calibrated when, of the predictions with score 0.8, 80 % are right. The reliability table bins predictions by
score; the expected calibration error (ECE) is the mean distance between score and share, weighed by the bins' sizes
(Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, equation 3; their 15 bins of equal width). A
person's prediction is right at OKS 0.5 (or 0.75), a keypoint's at an OKS term of 0.5, where Ronchi & Perona (ICCV 2017)
put the line between near and lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval.average_precision import accumulate, outcome
from kpdata.eval.keypoints import sigma_units
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Pairing, Part

BINS = 15
_STEPS = 101  # score thresholds to look at
_VALUES = ("mean_score", "mean_oks", "share_50", "share_75")

RELIABILITY = pa.schema(
    [
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("count", pa.int64()),
        ("mean_score", pa.float64()),
        ("mean_oks", pa.float64()),
        ("share_50", pa.float64()),
        ("share_75", pa.float64()),
    ]
)
THRESHOLDS = pa.schema(
    [(name, pa.float64()) for name in ("threshold", "kept", "AP", "AR", "precision", "recall", "f1")]
)


@dataclass(frozen=True)
class Reliability:
    """One kind of score, binned.

    table: of `RELIABILITY`, a row a bin that is not empty; a score belongs to the bin with low <= score < high, the
    highest to the last. `mean_oks` is the mean OKS (persons) or OKS term (keypoints), 0 for what matched nobody.
    ece_50, ece_75: distance between score and share of OKS (term) >= 0.5, 0.75; ece_oks between score and mean OKS.
    None where scores leave 0 … 1, are missing, or there are none: `why` says so.
    """

    table: pa.Table
    ece_50: float | None
    ece_75: float | None
    ece_oks: float | None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rest = {"ece_50": self.ece_50, "ece_75": self.ece_75, "ece_oks": self.ece_oks, "why": self.why}
        return {"bins": self.table.to_pylist(), **rest}


@dataclass(frozen=True)
class Calibration:
    """Of one Part. persons, keypoints: reliability of the two kinds of scores.

    thresholds: table of `THRESHOLDS`: what the numbers would be if predictions below the score were dropped. `kept` is
    the share of predictions; AP and AR as COCO's over all people; precision, recall, f1 at OKS 0.5, of all categories
    together. best: the row of the greatest f1 of all scores, among equal ones the lowest; None without people.
    recalls (R,), precision (T, R), scores (T, R): COCO's precision-recall curves at every OKS threshold, averaged over
    categories, and the score at which each recall is reached; NaN where it is not reached or there is nobody.
    """

    persons: Reliability
    keypoints: Reliability
    thresholds: pa.Table
    best: dict[str, float] | None
    oks_thresholds: Floats
    recalls: Floats
    precision: Floats
    scores: Floats

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        curves = {name: getattr(self, name).tolist() for name in ("oks_thresholds", "recalls", "precision", "scores")}
        return {
            "persons": self.persons.to_json(),
            "keypoints": self.keypoints.to_json(),
            "thresholds": self.thresholds.to_pylist(),
            "best": self.best,
            "curves": curves,
        }


def calibration(part: Part, pairing: Pairing, bins: int = BINS) -> Calibration:
    """Reliability of scores, the numbers at every score threshold, and precision-recall curves.

    Persons are the predictions that `pairing` matched with somebody who counts, at their OKS, and those that it matched
    with nobody, at 0; keypoints are the labelled ones of the former. Raises EvaluationError for bins below 1.
    """
    if bins < 1:
        raise EvaluationError(f"{bins} bins, expected at least 1", hint=f"{BINS} is usual")
    rows = np.concatenate([pairing.detection, pairing.spurious])
    oks = np.concatenate([pairing.oks, np.zeros(len(pairing.spurious))])
    labelled = part.truth.labelled[pairing.truth]
    with np.errstate(over="ignore"):
        terms = np.exp(-np.square(sigma_units(part, pairing)[labelled]) / 2)
    thresholds, best = _thresholds(part)
    recalls, precision, scores = _curves(part)
    return Calibration(
        persons=reliability(part.detections.score[rows], oks, bins),
        keypoints=reliability(part.keypoint_scores[pairing.detection][labelled], terms, bins),
        thresholds=thresholds,
        best=best,
        oks_thresholds=part.params.iou_thresholds,
        recalls=recalls,
        precision=precision,
        scores=scores,
    )


def reliability(scores: Floats, oks: Floats, bins: int = BINS) -> Reliability:
    """Scores (N,) beside what they stand for, OKS or terms (N,) in 0 … 1.

    Bins are equal parts of 0 … 1; where scores leave it, equal parts of the scores' own range, and no ECE. Scores that
    are NaN are left out.
    """
    known = ~np.isnan(scores)
    scores, oks = scores[known], np.nan_to_num(oks[known])
    if not len(scores):
        why = "there are no scores" if not known.any() and len(known) else "nothing was predicted"
        return Reliability(schema.table(RELIABILITY, 0, {}), None, None, None, why)
    low, high = float(scores.min()), float(scores.max())
    why = ""
    if not (low >= 0 and high <= 1):
        why = f"scores lie in {low:g} … {high:g}, not in 0 … 1: they are no probabilities, so there is no ECE"
        finite = scores[np.isfinite(scores)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    else:
        low, high = 0.0, 1.0
    edges = np.linspace(low, high, bins + 1)
    which = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    full = np.flatnonzero(count)
    with np.errstate(invalid="ignore"):
        values = {
            name: (np.bincount(which, data, bins)[full] / count[full])
            for name, data in zip(_VALUES, (scores, oks, oks >= 0.5, oks >= 0.75), strict=True)
        }
    columns = {name: schema.fixed(data, pa.float64()) for name, data in values.items()}
    columns |= {"low": schema.fixed(edges[full], pa.float64()), "high": schema.fixed(edges[full + 1], pa.float64())}
    columns["count"] = schema.fixed(count[full], pa.int64())
    table = schema.table(RELIABILITY, len(full), columns)
    if why:
        return Reliability(table, None, None, None, why)
    share = count[full] / len(scores)
    at_50, at_75, at_oks = (
        float(share @ np.abs(values["mean_score"] - values[name])) for name in ("share_50", "share_75", "mean_oks")
    )
    return Reliability(table, at_50, at_75, at_oks)


# ------------------------------------------------------------------------------------------------ score thresholds


def _thresholds(part: Part) -> tuple[pa.Table, dict[str, float] | None]:
    """The numbers without the predictions below each of about 100 scores, and those at the score of the greatest F1.

    Matching goes down the scores, so that dropping the lowest changes nothing for the others: the curves only end
    earlier. The scores are spread evenly over the predictions that are right at OKS 0.5.
    """
    whole = _whole(part)
    matches = part.matches
    people = np.bincount(matches.gt_category[~matches.gt_ignored[whole]], minlength=len(matches.category_ids))
    score, true, counted = _pooled(part, whole, people > 0)
    if not len(score) or not people.any():
        return schema.table(THRESHOLDS, 0, {}), None
    with np.errstate(invalid="ignore"):
        f1 = 2 * np.cumsum(true) / (np.cumsum(counted) + people.sum())
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of equal scores
    best = score[last[len(last) - 1 - f1[last][::-1].argmax()]]
    right = score[true] if true.any() else score
    steps = np.sort(right)[(np.linspace(0, 1, _STEPS) * (len(right) - 1)).astype(np.int64)]
    at = np.unique([score[-1], best, *steps])
    kept = np.searchsorted(-score, -at, side="right")
    found, all_of = np.cumsum(true)[kept - 1], np.cumsum(counted)[kept - 1]
    each = [_one_category(part, c, whole, at) for c in np.flatnonzero(people).tolist()]
    columns = {
        "threshold": at,
        "kept": kept / len(score),
        "AP": np.mean([ap for ap, _ in each], axis=0),
        "AR": np.mean([ar for _, ar in each], axis=0),
        "precision": np.divide(found, all_of, out=np.full(len(at), np.nan), where=all_of > 0),
        "recall": found / people.sum(),
        "f1": 2 * found / (all_of + people.sum()),
    }
    arrays = {name: schema.fixed(values, pa.float64(), ~np.isnan(values)) for name, values in columns.items()}
    row = int(np.flatnonzero(at == best)[0])
    return schema.table(THRESHOLDS, len(at), arrays), {name: float(values[row]) for name, values in columns.items()}


def _whole(part: Part) -> int:
    """The area range of people of all sizes."""
    return part.params.area_labels.index("all") if "all" in part.params.area_labels else 0


def _pooled(part: Part, a: int, categories: Bools) -> tuple[Floats, Bools, Bools]:
    """Scores (D,), best first, of the predictions of these categories (C,), and which are right and count at OKS 0.5.

    Predictions whose score is NaN come after all others and meet no threshold: left out.
    """
    matches, params = part.matches, part.params
    half = int(np.abs(params.iou_thresholds - 0.5).argmin())
    true, counted = outcome(matches, matches.matched[a, half], a, ~matches.dt_outside[a], params.mode)
    who = np.flatnonzero(categories[matches.dt_category] & ~np.isnan(matches.dt_score))
    who = who[np.argsort(-matches.dt_score[who], kind="stable")]
    return matches.dt_score[who], true[who], counted[who]


def _one_category(part: Part, c: int, a: int, at: Floats) -> tuple[Floats, Floats]:
    """AP and AR (S,) of the predictions with scores >= each of `at` (S,)."""
    matches, params = part.matches, part.params
    who = np.flatnonzero(matches.dt_category == c)
    who = who[np.argsort(-matches.dt_score[who], kind="stable")]
    people = int((~matches.gt_ignored[a, matches.gt_category == c]).sum())
    kept = np.searchsorted(-np.nan_to_num(matches.dt_score[who], nan=-np.inf), -at, side="right")  # (S,)
    ap, ar = np.zeros(len(at)), np.zeros(len(at))
    for matched in matches.matched[a]:
        true, counted = outcome(matches, matched[who], a, ~matches.dt_outside[a, who], params.mode)
        ap += _truncated_precision(true, np.cumsum(counted), people, kept, params.recall_thresholds)
        ar += np.append(0, np.cumsum(true))[kept] / people
    return ap / len(matches.matched[a]), ar / len(matches.matched[a])


def _truncated_precision(true: Bools, counted: Ints, people: int, kept: Ints, recalls: Floats) -> Floats:
    """(S,) mean precision over the recalls where only the first kept (S,) detections are there; as `accumulate`."""
    hits = np.flatnonzero(true)
    found = np.arange(1, len(hits) + 1)
    there = np.searchsorted(hits, kept)  # (S,) hits that are left
    precision = np.where(np.arange(len(hits)) < there[:, None], found / (counted[hits] + np.spacing(1)), 0)
    best = np.zeros((len(kept), len(hits) + 1))
    best[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    nth = np.searchsorted(found / people, recalls, side="left")
    reached = np.logical_and.accumulate((nth < there[:, None]) | (recalls <= 0) & (kept > 0)[:, None], axis=1)
    return np.asarray(np.where(reached, best[:, np.minimum(nth, len(hits))], 0).mean(axis=1))


def _curves(part: Part) -> tuple[Floats, Floats, Floats]:
    """recalls (R,), precision and scores (T, R) over all sizes, averaged over the categories that have people."""
    params = part.params
    curves = accumulate(part.matches, params)
    whole = _whole(part)
    precision, scores = curves.precision[:, :, :, whole, -1], curves.scores[:, :, :, whole, -1]  # (T, R, C)
    known = (precision > -1).any(axis=(0, 1))
    if not known.any():
        empty = np.full(precision.shape[:2], np.nan)
        return params.recall_thresholds, empty, empty
    reached = curves.recall[:, :, whole, -1][:, None, known] >= params.recall_thresholds[None, :, None]
    scores = np.where(reached.all(axis=2), scores[:, :, known].mean(axis=2), np.nan)
    return params.recall_thresholds, precision[:, :, known].mean(axis=2), scores
