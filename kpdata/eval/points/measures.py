"""Paired people to numbers: PCKh, PCK, PCP, AUC, EPE and NME of each keypoint (or limb), and by whose rules."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import EvaluationError
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.points import arrays, groups
from kpdata.eval.points.lengths import Length
from kpdata.eval.points.people import Points

STEP = 0.01  # of the thresholds under an AUC: anibali/eval-mpii-pose evalMPII.m, bearpaw/eval_pose utils/eval_pck.m
MMPOSE_STEPS = 20  # thresholds of mmpose's AUC


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is called, whose rules it knows (the first unless told), and what can be chosen."""

    title: str
    variants: tuple[str, ...] = ()
    threshold: bool = True
    length: bool = True


METRICS = {
    "pckh": Metric("PCKh", ("hrnet", "official", "mmpose")),
    "pck": Metric("PCK", ("official", "mmpose")),
    "pcp": Metric("PCP", length=False),
    "auc": Metric("AUC", ("official", "mmpose")),
    "epe": Metric("EPE", threshold=False, length=False),
    "nme": Metric("NME", threshold=False),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """L keypoints or limbs, and what the published tables make of them."""

    what: str  # "keypoint" or "limb"
    names: tuple[str, ...]
    in_mean: Bools  # (L,)
    groups: dict[str, list[int]]  # a column of the table: the unweighted mean of these


@dataclass(frozen=True, slots=True)
class Measured:
    """L keypoints (or limbs) with a value each for every number of a metric, NaN where nobody is measured."""

    columns: Columns
    silent: Bools  # (N, L) measured, and without a prediction
    labelled: Ints  # (L,) people measured
    values: dict[str, Floats]  # (L,) by name; the first is the metric
    weights: Ints  # (L,) of the total
    each: dict[str, Floats]  # (N, L) by name, NaN not measured: `values` are their means over people; no medians
    medians: dict[str, str] = field(default_factory=dict)  # names of `values` that are medians of a name in `each`
    thresholds: tuple[float, ...] = ()
    comparison: str | None = None
    top: float | None = None  # of an AUC: where its range ends, in lengths
    headline: str = "total"  # the mean that goes by the metric's own name
    pooled: dict[str, list[int]] = field(default_factory=dict)  # further columns, weighted by count
    totals: dict[str, float] = field(default_factory=dict)  # of the names whose total is no weighted mean

    @property
    def missing(self) -> Ints:
        """(L,) people measured who have no prediction."""
        return np.asarray(self.silent.sum(0))

    @property
    def measured(self) -> Bools:
        """(N, L) keypoints (or limbs) that count; of EPE and NME also those that were not predicted."""
        return np.asarray(~np.isnan(next(iter(self.each.values()))) | self.silent)

    def summary(self, name: str) -> dict[str, float]:
        """The table's row of one number: groups, then both means (`arrays.mean_and_total`)."""
        values = self.values[name]
        row = {group: float(values[members].mean()) for group, members in self.columns.groups.items()}
        for group, members in self.pooled.items():
            chosen = np.isin(np.arange(len(values)), members)
            row[group] = arrays.mean_and_total(values, self.weights, chosen)[1]
        row["mean"], total = arrays.mean_and_total(values, self.weights, self.columns.in_mean)
        row["total"] = self.totals.get(name, total)
        return row


def measure(
    points: Points, metric: str, variant: str | None, threshold: float | None, length: Length | None
) -> Measured:
    """The metric `metric` of METRICS; `length` (None for PCP and EPE) as `length_of` gives it."""
    if metric == "pcp":
        return _parts(points, 0.5 if threshold is None else threshold)
    far = arrays.distances(points.truth, points.predicted, points.labelled)
    if length is None:
        return _errors(points, far, far, "EPE", None)
    ratio = arrays.normalized(far, length.px)
    if metric == "nme":
        return _errors(points, far, np.where((length.px > 0)[:, None], ratio, np.nan), "NME", length)
    mmpose = variant == "mmpose"
    if mmpose:  # it leaves out people of length 0, and keeps distances in float32
        ratio = np.where((length.px > 0)[:, None], ratio, np.nan).astype(np.float32).astype(np.float64)
    if metric == "auc":
        return _area(points, far, ratio, length, threshold, mmpose=mmpose)
    return _shares(points, far, ratio, length, metric, variant, threshold)


def _shares(
    points: Points,
    far: Floats,
    ratio: Floats,
    length: Length,
    metric: str,
    variant: str | None,
    threshold: float | None,
) -> Measured:
    """PCKh and PCK at one threshold, PCKh also at 0.1 (and at 0.11, which HRNet prints as 0.1)."""
    mmpose = variant == "mmpose"
    limits: tuple[float, ...] = (threshold,) if threshold is not None else (0.05 if mmpose else 0.2,)
    if metric == "pckh" and threshold is None:
        limits = (0.5, 0.1, 0.11) if variant == "hrnet" else (0.5, 0.1)
    compared = _as_compared(limits, mmpose)
    rates, counts = arrays.pck(ratio, np.ones(len(ratio)), compared, inclusive=not mmpose)
    official = metric == "pckh" and variant == "official"
    names = [f"{METRICS[metric].title}@{limit:g}" for limit in limits]
    reaches = np.less if mmpose else np.less_equal
    return Measured(
        columns=_columns(points, length, neck=variant == "official"),
        labelled=counts,
        silent=_silent(far, ratio),
        weights=counts,
        values=dict(zip(names, rates, strict=True)),
        each={name: _where_measured(ratio, reaches(ratio, at)) for name, at in zip(names, compared, strict=True)},
        thresholds=limits,
        comparison="<" if mmpose else "<=",
        headline="mean" if mmpose and metric == "pck" else "total",
        pooled={"UBody": groups.upper_body(points.skeleton)} if official else {},
    )


def _area(
    points: Points, far: Floats, ratio: Floats, length: Length, threshold: float | None, *, mmpose: bool
) -> Measured:
    """The area under the PCK curve; of mmpose the mean of the rates at 0, 1/20, … 19/20 of the range."""
    top = _top(length) if threshold is None else threshold
    if mmpose:
        limits = np.arange(MMPOSE_STEPS) / MMPOSE_STEPS * top
    else:
        limits = np.linspace(0, top, max(1, round(top / STEP)) + 1)
    compared = _as_compared(tuple(limits.tolist()), mmpose)
    rates, counts = arrays.pck(ratio, np.ones(len(ratio)), compared, inclusive=not mmpose)
    right = (len(limits) - np.searchsorted(compared, ratio, side="right")) / len(limits)  # of mmpose: limits above
    return Measured(
        columns=_columns(points, length, neck=not mmpose),
        labelled=counts,
        silent=_silent(far, ratio),
        weights=counts,
        values={"AUC": rates.mean(0) if mmpose else arrays.auc(rates, limits)},
        each={"AUC": _where_measured(ratio, right) if mmpose else arrays.auc_shares(ratio, limits, compared)},
        thresholds=tuple(limits.tolist()),
        comparison="<" if mmpose else "<=",
        top=top,
        headline="mean" if mmpose else "total",
    )


def _top(length: Length) -> float:
    """MPII integrates to 0.5 of the head, LSP to 0.2 of the torso; a length given in pixels is the range itself."""
    return {"head": 0.5, "constant": 1.0}.get(length.name, 0.2)


def _as_compared(limits: tuple[float, ...], mmpose: bool) -> Floats:
    return np.array(limits, np.float32 if mmpose else np.float64).astype(np.float64)


def _errors(points: Points, far: Floats, errors: Floats, name: str, length: Length | None) -> Measured:
    """EPE or NME: means and medians over the keypoints that were predicted."""
    means, medians, counts = arrays.mean_errors(errors)
    columns = _columns(points, length, neck=True)
    pooled = arrays.mean_errors(errors[:, columns.in_mean].reshape(-1, 1))[1]
    return Measured(
        columns=columns,
        labelled=(~np.isnan(errors)).sum(0),
        silent=_silent(far, errors),
        weights=counts,
        values={name: means, f"{name} median": medians},
        each={name: np.where(np.isfinite(errors), errors, np.nan)},
        medians={f"{name} median": name},
        totals={f"{name} median": float(pooled[0])},
    )


def _parts(points: Points, threshold: float) -> Measured:
    """Strict and loose PCP of the limbs."""
    limbs, together = groups.limbs(points.skeleton)
    if not limbs:
        raise EvaluationError(
            f"the skeleton {points.skeleton.name!r} has neither known limbs nor edges: there are no parts to score",
            hint="--skeleton FILE.toml brings a skeleton with edges",
        )
    errors = arrays.limb_errors(points.truth, points.predicted, points.labelled, list(limbs.values()))
    strict, counts = arrays.pcp(errors, threshold)
    loose, _ = arrays.pcp(errors, threshold, strict=False)
    silent = [np.isnan(points.predicted[:, [*a, *b]]).any((1, 2)) for a, b in limbs.values()]
    return Measured(
        columns=Columns("limb", tuple(limbs), np.ones(len(limbs), bool), together),
        labelled=counts,
        silent=np.column_stack(silent) & ~np.isnan(errors).any(2),
        values={f"PCP@{threshold:g}": strict, f"PCP@{threshold:g} loose": loose},
        each={
            f"PCP@{threshold:g}": _where_measured(errors.max(2), errors.max(2) <= threshold),
            f"PCP@{threshold:g} loose": _where_measured(errors.mean(2), errors.mean(2) <= threshold),
        },
        weights=counts,
        thresholds=(threshold,),
        comparison="<=",
    )


def _columns(points: Points, length: Length | None, *, neck: bool) -> Columns:
    """Every keypoint; in head sizes, as in MPII's evaluation, the means leave out the computed thorax and pelvis."""
    bones = points.skeleton
    left_out = groups.derived(bones) if length is not None and length.name == "head" else np.zeros(len(bones), bool)
    return Columns("keypoint", bones.keypoint_names, ~left_out, groups.keypoint_groups(bones, neck=neck))


def _where_measured(ratio: Floats, right: NDArray[np.generic]) -> Floats:
    """(N, L) as numbers, NaN where `ratio` (N, L) is."""
    return np.where(np.isnan(ratio), np.nan, right)


def _silent(far: Floats, measured: Floats) -> Bools:
    return np.asarray(np.isinf(far) & ~np.isnan(measured))
