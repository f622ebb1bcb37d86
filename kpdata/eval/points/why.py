"""Why a score of single people is what it is: the analyses of `kpdata.eval` on people who have one prediction or none.

They read a `Part` and a `Pairing`; here both are made of who was paired with whom, whatever the rule. The taxonomy is
that of `kpdata.eval.errors` (Ronchi & Perona, ICCV 2017) with the metric's own reach in the place of the OKS falloff:
a keypoint is good where the metric counts it as right, and else what it is nearest to, in reaches of each person;
jitter and the other kinds end where a similarity that is 0.85 at the reach falls to 0.5, at 2.07 reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import errors as taxonomy
from kpdata.eval import failures as tables
from kpdata.eval.errors import GOOD_KS, KeypointErrors, Kind
from kpdata.eval.keypoints import per_keypoint
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Params
from kpdata.eval.opportunity import FIXES, KEYPOINT_ERRORS, most_often
from kpdata.eval.part import Pairing, Part
from kpdata.eval.points import arrays
from kpdata.eval.points.lengths import Length, length_of
from kpdata.eval.points.measures import Measured
from kpdata.eval.points.people import PAIRING_SIGMA, Points, areas
from kpdata.eval.points.resampling import LESS, Resampler
from kpdata.eval.prepare import Sides
from kpdata.eval.wording import many

_FALLOFF = 1 / np.sqrt(-8 * np.log(GOOD_KS))  # sigma of a similarity that is 0.85 at one reach, where area = reach²
_USUAL = {"head": 0.5}  # shares of a length within which a keypoint is right, where the metric has no threshold
OPPORTUNITY = pa.schema(
    [("error", pa.string()), ("count", pa.int64()), ("value", pa.float64()), ("gain", pa.float64())]
)


@dataclass(frozen=True, slots=True)
class Why:
    """What the analyses of one `PointsEvaluation` share."""

    part: Part
    sized: Part  # the same people by their ids, with their reach for a size: similarities are 0.85 at one reach
    pairing: Pairing  # `oks` is the share of a person's keypoints that are good
    errors: KeypointErrors  # in reaches
    far: Floats  # (N, K) px, inf where there is no prediction, NaN where not measured
    reach: str  # in words
    length: Length | None  # of the reach, and of errors in lengths


def explain(points: Points, measured: Measured, length: Length | None) -> Why:
    """The arrays of the analyses. length: the metric's, None for PCP and EPE, which then borrow PCK's."""
    far = arrays.distances(points.truth, points.predicted, points.labelled)
    borrowed = length is None
    limit, words, length = _reach(points, measured, length)
    name, each = next(iter(measured.each.items()))
    # Who has a length of 0 px is measured, and missed, by that metric's own rule.
    counts = measured.measured.any(axis=1) & np.isfinite(limit) & ((limit > 0) | (not borrowed))
    far = np.where(counts[:, None], far, np.nan)
    right = each == 1 if name.startswith("PCK") else far <= limit[:, None]
    part = _part(points, counts)
    sized = _in_reaches(part, limit, schema.values(points.gt.persons["annotation_id"])[points.truth_rows])
    pairing = _pairing(points, counts)
    found = _classified(sized, pairing, right[pairing.truth], ~np.isnan(far[pairing.truth]))
    known = (found.kind >= 0).sum(axis=1)
    good = (found.kind == Kind.GOOD).sum(axis=1) / np.maximum(known, 1)
    return Why(part, sized, replace(pairing, oks=good), found, far, words, length)


def _reach(points: Points, measured: Measured, length: Length | None) -> tuple[Floats, str, Length | None]:
    """(N,) px within which a keypoint is right, in words, and the length it is a share of."""
    told = measured.thresholds if length is not None and measured.columns.what == "keypoint" else ()
    if length is None:
        length = _borrowed(points)
    share = _USUAL.get(length.name, 0.2)
    if told:
        share = told[-1] if "AUC" in measured.each else told[0]
    words = f"{share:g} head sizes ({length.words})" if length.name == "head" else f"{share:g} × {length.words}"
    return share * length.px, words, length


def _borrowed(points: Points) -> Length:
    """The length that PCK would take, else the extent of the keypoints, which everybody has."""
    for metric in ("auc", "pck"):  # the AUC's is the head where there are head boxes
        try:
            return length_of(points, None, metric, "official")
        except EvaluationError:
            continue
    return length_of(points, "extent", "pck", None)


def _part(points: Points, counts: Bools) -> Part:
    """The people and predictions as the analyses of OKS take them. Who resembles whom is told by `PAIRING_SIGMA` where
    the skeleton has no sigmas, as in `people`; no number rests on it."""
    bones = points.skeleton
    people = schema.take(points.gt.persons, points.truth_rows)
    boxes = np.nan_to_num(schema.matrix(people["bbox"], 4))
    labelled = points.labelled & arrays.finite(points.truth)
    ones = np.ones(len(people), np.int64)
    truth = GroundTruth(
        image_id=schema.values(people["image_id"]),
        category_id=ones,
        annotation_id=np.arange(1, len(people) + 1),
        keypoints=np.nan_to_num(points.truth),
        labelled=labelled,
        num_keypoints=np.where(counts, labelled.sum(axis=1), 0),
        bbox=boxes,
        area=areas(people, points.truth, labelled, boxes),
        iscrowd=schema.values(people["iscrowd"], missing=False),
    )
    found, of_points = _detections(points, truth.image_id)
    params = Params(sigmas=np.array(bones.sigmas or [PAIRING_SIGMA] * len(bones)), max_dets=(max(1, len(of_points)),))
    images = np.unique(schema.values(points.gt.images["image_id"]))
    return Part(
        skeleton=bones,
        mask=points.mask,
        truth=truth,
        detections=found,
        visibility=schema.matrix(people["visibility"], len(bones)).astype(np.int8),
        keypoint_scores=of_points,
        truth_rows=points.truth_rows,
        detection_rows=np.arange(len(of_points)),
        image_ids=images,
        category_ids=np.ones(1, np.int64),
        params=params,
    )


def _detections(points: Points, images: Ints) -> tuple[Detections, Floats]:
    """All predictions, and (M, K) the scores of their keypoints; a paired one is on its person's image."""
    table = points.predictions.persons
    count, bones = len(points.predictions), len(points.skeleton)
    places = schema.matrix(table["keypoints"], 2 * bones).reshape(-1, bones, 2)
    image = schema.values(table["image_id"]).copy()
    paired = points.prediction_rows >= 0
    image[points.prediction_rows[paired]] = images[paired]
    places = places.copy()
    places[points.prediction_rows[paired]] = points.predicted[paired]
    found = Detections(
        image_id=image,
        category_id=np.ones(count, np.int64),
        keypoints=places,
        score=np.where(schema.valid(table["score"]), schema.values(table["score"]), np.nan),
        area=np.zeros(count),
    )
    return found, schema.matrix(table["keypoint_scores"], bones).reshape(count, bones)


def _pairing(points: Points, counts: Bools) -> Pairing:
    paired = points.prediction_rows >= 0
    truth = np.flatnonzero(counts & paired)
    free = np.ones(len(points.predictions), bool)
    free[points.prediction_rows[paired]] = False
    return Pairing(
        truth=truth,
        detection=points.prediction_rows[truth],
        oks=np.zeros(len(truth)),
        missed=np.flatnonzero(counts & ~paired),
        spurious=np.flatnonzero(free),
    )


def _in_reaches(part: Part, limit: Floats, ids: Ints) -> Part:
    """The part with each person's reach (N,) px for a size, and under their own annotation ids (N,)."""
    truth = replace(part.truth, annotation_id=ids, area=np.square(np.nan_to_num(limit)))
    return replace(part, truth=truth, params=replace(part.params, sigmas=np.full(len(part.mask), _FALLOFF)))


def _classified(sized: Part, pairing: Pairing, right: Bools, measured: Bools) -> KeypointErrors:
    """The kinds by the similarities of `sized`; right and measured (P, K) by the metric."""
    found = taxonomy.classify(sized, pairing)
    kind = np.where(right, Kind.GOOD, np.where(found.kind == Kind.GOOD, Kind.JITTER, found.kind))
    kind = np.where(measured, kind, Kind.UNLABELLED).astype(np.int8)
    return replace(found, kind=kind, other=np.where(kind == Kind.SWAP, found.other, -1))


# --------------------------------------------------------------------------------------------------------------- tables


def distances(why: Why) -> pa.Table:
    """`keypoints.per_keypoint` of these people, with the errors also in lengths (`error_length_median`, `_p90`).

    found: the person has a prediction. OKS and sigma columns are null where the skeleton has no sigmas; √area is of the
    file's area, else of 0.53 × the box, else of 0.53 × the keypoints' extent.
    """
    table = per_keypoint(why.part, why.pairing)
    if why.length is not None:
        size = np.square(np.where(np.isfinite(why.length.px), why.length.px, 0))
        sized = replace(why.part, truth=replace(why.part.truth, area=size))
        scaled = per_keypoint(sized, why.pairing)
        for which in ("median", "p90"):
            at = table.schema.get_field_index(f"error_area_{which}")
            table = table.add_column(at, f"error_length_{which}", scaled[f"error_area_{which}"])
    if why.part.skeleton.sigmas:
        return table
    unknown = [name for name in table.schema.names if name.startswith(("oks", "term_", "error_sigma"))]
    return _without(table, unknown)


def _without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with null in these columns."""
    nothing = np.zeros(table.num_rows, bool)
    for name in names:
        at, field = table.schema.get_field_index(name), table.schema.field(name)
        if pa.types.is_list(field.type):
            column = schema.rows(np.zeros((table.num_rows, 1)), nothing)
        else:
            column = schema.fixed(np.zeros(table.num_rows), field.type, nothing)
        table = table.set_column(at, field, column)
    return table


def failures(points: Points, why: Why) -> pa.Table:
    """`failures.FAILURES`, the worst first: severity is the share of a person's keypoints that are not good. OKS is
    null, and so are errors in sigma units where the skeleton has none, and scores where the predictions have none."""
    found = tables.failures(_sides(points, why), [why.pairing], [why.errors], by_confidence=False)
    return _without(found, _unknown(why))


def matches(points: Points, why: Why) -> pa.Table:
    """`failures.MATCHES`: a row a person and a row a prediction, with the same columns null."""
    return _without(tables.matches(_sides(points, why), [why.pairing], [why.errors]), _unknown(why))


def _unknown(why: Why) -> list[str]:
    sigmas = [] if why.part.skeleton.sigmas else ["error_sigma"]
    return ["oks", *sigmas, *(["score"] if np.isnan(why.part.detections.score).all() else [])]


def _sides(points: Points, why: Why) -> Sides:
    return Sides(points.gt, points.predictions, (why.part,), why.part.category_ids)


# ---------------------------------------------------------------------------------------------------------------- worth


def opportunity(points: Points, measured: Measured, why: Why) -> pa.Table:
    """What putting the keypoints of one kind in their place would make of the first number: rows of `OPPORTUNITY`.

    error: miss, swap, inversion, jitter, and missing (no prediction); count: keypoints in the means; value: the number
    then; gain: how much better it would be. Of EPE and NME missing keypoints have no part in the number. Raises
    EvaluationError for PCP, whose limbs have no kinds.
    """
    name, each = next(iter(measured.each.items()))
    if measured.columns.what != "keypoint":
        raise EvaluationError(f"{name}: limbs have no kinds of error", hint="--metric pck measures keypoints")
    less = name in LESS
    kinds = np.full(each.shape, int(Kind.UNLABELLED))
    kinds[why.pairing.truth] = why.errors.kind
    chosen = {error: (kinds == kind) & ~measured.silent for error, kind in KEYPOINT_ERRORS.items()}
    chosen["missing"] = measured.silent
    start = _headline(points, measured)
    values = [
        _headline(points, replace(measured, each={name: np.where(wrong & ~np.isnan(each), 0.0 if less else 1.0, each)}))
        for wrong in chosen.values()
    ]
    counts = [int(wrong[:, measured.columns.in_mean].sum()) for wrong in chosen.values()]
    gains = np.array([(start - value) if less else (value - start) for value in values])
    columns = {
        "error": schema.strings(list(chosen)),
        "count": schema.fixed(np.array(counts), pa.int64()),
        "value": schema.fixed(np.array(values), pa.float64(), ~np.isnan(values)),
        "gain": schema.fixed(gains, pa.float64(), ~np.isnan(gains)),
    }
    return schema.table(OPPORTUNITY, len(counts), columns)


def _headline(points: Points, measured: Measured) -> float:
    """The metric's first number, of these shares or errors."""
    first = next(iter(measured.each))
    one = replace(measured, values={first: measured.values[first]}, each={first: measured.each[first]}, medians={})
    resampler = Resampler(points, one)
    return float(resampler.numbers(np.ones((1, resampler.images), np.int32))[0][0, 0])


def helps(gains: pa.Table, measured: Measured, why: Why, top: int = 3) -> list[str]:
    """The corrections that would help the first number most, in plain words, most first."""
    name = next(iter(measured.each))
    errors = replace(why.errors, kind=np.where(measured.columns.in_mean, why.errors.kind, Kind.UNLABELLED))
    rows = sorted(gains.to_pylist(), key=lambda row: -(row["gain"] or 0.0))
    return [
        _sentence(row["error"], row["count"], row["gain"], name, why.part, errors)
        for row in rows[:top]
        if row["gain"] and row["gain"] >= 0.0005
    ]


def _sentence(error: str, count: int, gain: float, name: str, part: Part, errors: KeypointErrors) -> str:
    worth = {
        "EPE": f"take {gain:.2f} px off EPE",
        "NME": f"take {100 * gain:.1f} points off NME",
    }.get(name, f"add {100 * gain:.1f} points of {name}")
    if error == "missing":
        return f"Predicting {many(count, 'keypoint')} that have no prediction would {worth}, if they were right."
    start, what = FIXES[error]
    where = " and ".join(most_often(part, errors, KEYPOINT_ERRORS[error]))
    return f"{start} would {worth}: {many(count, 'keypoint')} {what}, most often {where}."
