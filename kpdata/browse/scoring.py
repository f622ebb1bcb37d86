"""What `browse` shows of an evaluation, whichever metric it is by.

People, pairs and kinds of error are those of `kpdata.eval.evaluate`, so that `browse`, `kpdata eval --why` and the
report show the same people and count the same. Only where the metric of the data cannot be measured (OKS without
sigmas, PCKh without head boxes) and none is asked for, PCK stands in, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval import protocols
from kpdata.eval.errors import KeypointErrors, count_errors
from kpdata.eval.evaluation import Evaluation, evaluate
from kpdata.eval.keypoints import per_keypoint
from kpdata.eval.oks import Floats, Ints
from kpdata.eval.part import Pairing, Part
from kpdata.eval.points import PointsEvaluation
from kpdata.eval.report.figures import Line
from kpdata.skeleton import Skeleton, load

Found = Evaluation | PointsEvaluation
_UNSCORED = "the predictions have no scores: all count as equally sure"


def scored(gt: Dataset, predictions: Dataset, options: Mapping[str, Any]) -> tuple[Found, tuple[str, ...]]:
    """The evaluation and the sentences about it; options: those of `kpdata.eval.evaluate`.

    Where no metric is asked for, a skeleton without sigmas is judged by PCK instead of OKS; where the length of PCKh or
    PCK is missing, by PCK of the keypoints' extent, which everybody has. Where OKS judges, predictions none of which
    has a score count as equally sure. Raises EvaluationError as `evaluate`.
    """
    given = dict(options)
    own = given.get("skeleton")
    bones = given["skeleton"] = load(own) if isinstance(own, str) else own
    asked = given.get("metric")
    lacking = [] if asked else _without_sigmas(gt, bones)
    metric = protocols.choose(gt, predictions, asked, bones)
    if metric in protocols.OKS_METRICS and not lacking:
        return _by_oks(gt, predictions, given)
    why, flags = "", ""
    if metric in protocols.OKS_METRICS:
        given["metric"], flags = "pck", " --metric pck"
        names = " and ".join(repr(name) for name in lacking)
        why = f"{names} has no official sigmas (--skeleton FILE.toml brings some of your own): "
    try:
        found = evaluate(gt, predictions, **given)
    except EvaluationError as problem:
        found = _by_extent(gt, predictions, given, problem, asked)
        why, flags = why or f"{problem.message}: ", " --metric pck --normalize extent"
    return found, (*_rule(found, why, flags), *found.notes)


def _without_sigmas(gt: Dataset, bones: Skeleton | None) -> list[str]:
    """Names of the skeletons that would be scored and have no sigmas."""
    used = [gt.skeletons[name] for name, _ in gt.groups() if name is not None] if bones is None else [bones]
    return sorted({each.name for each in used if each.sigmas is None})


def _by_oks(gt: Dataset, predictions: Dataset, given: Mapping[str, Any]) -> tuple[Found, tuple[str, ...]]:
    if not len(predictions) or schema.valid(predictions.persons["score"]).any():
        found = evaluate(gt, predictions, **given)
        return found, found.notes
    at, ones = predictions.persons.schema.get_field_index("score"), np.ones(len(predictions))
    persons = predictions.persons.set_column(at, schema.PERSONS.field("score"), schema.fixed(ones, pa.float64()))
    found = evaluate(gt, replace(predictions, persons=persons), **given)
    told = [note for note in found.notes if "have the score 1:" not in note]  # of scores that are all ours
    return found, (_UNSCORED, *told)


def _by_extent(
    gt: Dataset, predictions: Dataset, given: Mapping[str, Any], problem: EvaluationError, asked: str | None
) -> Found:
    """PCK of the extent; the first `problem` where a metric was asked for, or where that does not work either."""
    if asked:
        raise problem
    try:
        return evaluate(gt, predictions, **{**given, "metric": "pck", "normalize": "extent"})
    except EvaluationError:
        raise problem from None


def _rule(found: Found, why: str, flags: str) -> list[str]:
    """By which rule a keypoint is good, and how `kpdata eval` is asked for the same."""
    if not isinstance(found, PointsEvaluation):
        return []
    same = f"as in `kpdata eval{flags} --why`"
    return [f"{why}people are judged by {found.metric}, {same}: a keypoint is good within {found.why.reach}"]


# ------------------------------------------------------------------------------------------------------ what is shown


def analysed(found: Found) -> list[tuple[Part, Pairing, KeypointErrors]]:
    """People, pairs and kinds of error of each skeleton."""
    if isinstance(found, PointsEvaluation):
        return [(found.why.part, found.why.pairing, found.why.errors)]
    return list(zip(found.sides.parts, found.pairings, found.keypoint_errors, strict=True))


def suspected(found: Found) -> list[tuple[Part, pa.Table]]:
    """All suspicious labels of each skeleton (`suspects.suspects`); of single people with similarity in reaches."""
    if isinstance(found, PointsEvaluation):
        return [(found.why.sized, found.suspects(limit=None))]
    return list(zip(found.sides.parts, found.suspect_tables(limit=None), strict=True))


def fits(gt: Dataset, found: Found) -> tuple[Ints, Floats]:
    """Annotation ids (P,) of the people that were found, and how well (P,): OKS, or the share of right keypoints."""
    ids = schema.values(gt.persons["annotation_id"])
    rows = [part.truth_rows[pairs.truth] for part, pairs, _ in analysed(found)]
    values = [pairs.oks for _, pairs, _ in analysed(found)]
    return ids[np.concatenate([*rows, np.empty(0, np.int64)])].astype(np.int64), np.concatenate([*values, np.empty(0)])


def bars(found: Found) -> dict[str, pa.Table]:
    """By skeleton a row a keypoint, then "all": `keypoints.per_keypoint` of all visibilities, and counts of kinds."""
    out = {}
    for part, pairs, errors in analysed(found):
        whole = found.distances() if isinstance(found, PointsEvaluation) else per_keypoint(part, pairs)
        measured = whole.slice(0, len(part.skeleton) + 1)  # of all visibilities together
        counts = count_errors(part, pairs, errors)
        for name in counts.schema.names:
            if name not in measured.schema.names:
                measured = measured.append_column(counts.schema.field(name), counts[name])
        out[part.skeleton.name] = measured
    return out


def curves(found: Found) -> tuple[Line, ...]:
    """Precision over recall at a few OKS thresholds; none of single people, whose predictions have no order."""
    from kpdata.eval.report import precision_recall

    if isinstance(found, PointsEvaluation) or not found.sides.parts:
        return ()
    return precision_recall(found.curves, found.sides.parts[0].params)
