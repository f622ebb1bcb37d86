"""The page of a metric of single people: `ReportData` of a `PointsEvaluation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata.eval.bootstrap import on_few_images
from kpdata.eval.oks import Floats
from kpdata.eval.points.resampling import LESS
from kpdata.eval.report import ReportData, figures
from kpdata.eval.report.figures import Line
from kpdata.eval.report.sections import PartReport, as_lists, errors, figure, plain, text, text_of, times
from kpdata.eval.wording import counted

if TYPE_CHECKING:
    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.points import PointsEvaluation

_STEPS = 101  # points of a PCK curve
_NAMES = {"miss": "missed keypoints", "swap": "keypoints of other people", "inversion": "left and right",
          "jitter": "small offsets", "missing": "keypoints without a prediction"}  # fmt: skip


def from_points(
    result: PointsEvaluation, *, slices: pa.Table, intervals: Intervals | None = None, subtitle: str = ""
) -> ReportData:
    """`ReportData` with the numbers, what was scored, the curve of correct keypoints, kinds of error and people."""
    known: dict[str, tuple[float, float]] = {}
    level = 0.95
    factor = {name: 1.0 if result.metric == "EPE" and name != "missing" else 100.0 for name in result.stats}
    if intervals is not None:
        rows = zip(intervals.names, intervals.low.tolist(), intervals.high.tolist(), strict=True)
        known = {name: (low * factor[name], high * factor[name]) for name, low, high in rows}
        level = intervals.level
    limits = result.why.length
    unit = "pixels, missing in percent" if result.metric == "EPE" else "percent"
    return ReportData(
        stats={name: value * factor[name] for name, value in result.stats.items()},
        subtitle=subtitle,
        metric=f"{result.metric} on {result.facts['skeleton']}, {unit}",
        digits=1 if result.metric == "EPE" else 2,
        intervals=known,
        level=level,
        about=_about(result),
        helps=result.helps(),
        notes=(*result.notes, *([] if intervals is None else on_few_images(intervals, slices.to_pylist()))),
        curves=_curves(result),
        curves_title="Right keypoints over the tolerance",
        curves_words=f"Share of keypoints no farther off than so many × {limits.words if limits else ''}.",
        curves_axes=("tolerance", "share that is right"),
        parts=(_part(result, slices),),
        failures=result.failures(),
    )


def _about(result: PointsEvaluation) -> dict[str, str]:
    facts = result.facts
    length, counts = facts["normalizer"], facts["counts"]
    over = f", {result.auc_range}" if result.auc_range else ""
    told = {
        "skeleton": facts["skeleton"],
        "rules": result.rules,
        "length": length["words"] if length else None,
        "right where": f"distance {facts['comparison']} threshold{over}" if facts["comparison"] else None,
        "in no mean": ", ".join(plain(name) for name in facts["left_out"]) or None,
        "predictions found by": facts["pairing"],
        "kinds of error": f"good within {result.why.reach}",
        "counts": counted(counts),
    }
    return {name: words for name, words in told.items() if words}


def _curves(result: PointsEvaluation) -> tuple[Line, ...]:
    """Share of the measured keypoints of each column of the table within 0 … 1 (head: 0 … 0.5 would hide) lengths."""
    why = result.why
    if why.length is None:
        return ()
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = why.far / why.length.px[:, None]
    top = {"constant": 1.0, "head": 1.0}.get(why.length.name, 0.5)
    limits = np.linspace(0, top, _STEPS)
    columns = result.measured.columns
    keypoints = columns.what == "keypoint"
    scored = columns.in_mean if keypoints else np.ones(ratio.shape[1], bool)
    groups = dict(columns.groups) if keypoints else {}
    lines = [Line("all", limits, _shares(ratio[:, scored], limits))]
    return (*lines, *(Line(name, limits, _shares(ratio[:, members], limits)) for name, members in groups.items()))


def _shares(ratio: Floats, limits: Floats) -> Floats:
    """(T,) share of the known ratios that are within each limit."""
    known = np.sort(ratio[~np.isnan(ratio)])
    return np.asarray(np.searchsorted(known, limits, side="right") / max(len(known), 1))


def _part(result: PointsEvaluation, slices: pa.Table) -> PartReport:
    bones, points = result.points.skeleton, result.points
    first = next(iter(result.rows))
    words = {
        "keypoints": _loss_words(result, first),
        "errors": f"What the keypoints are that were predicted, after Ronchi and Perona (2017); good within "
        f"{result.why.reach}.",
        "opportunity": f"What {first} would gain if every keypoint of one kind were in its place.",
        "slices": "The same people and predictions, some of the people at a time. The worst come first.",
        "slices_value": first,
        "slices_head": ("mean", "missing %", "median px", "90 % px"),
    }
    places = figures.layout(bones, points.truth, points.labelled)
    made: dict[str, Any] = {
        "words": words,
        "keypoints": _keypoints(result, first, places),
        "errors": errors(result.errors()),
        "slices": _slices(slices, result.metric),
    }
    if result.metric != "PCP":
        made["opportunity"] = _opportunity(result.opportunity(), result.metric)
    return PartReport(skeleton=bones, made=made)


def _loss_words(result: PointsEvaluation, first: str) -> str:
    if result.metric in LESS:
        return f"{first} of each keypoint."
    if result.metric == "PCP":
        return f"Percent of a keypoint's people that are not within {result.why.reach}."
    return f"What each keypoint lacks of 100 % {first}."


def _keypoints(result: PointsEvaluation, first: str, places: Floats) -> dict[str, Any]:
    """The stick figure by what each keypoint loses, and the table of errors by keypoint."""
    far, less = as_lists(result.distances()), result.metric in LESS
    rows = [i for i, visibility in enumerate(far["visibility"]) if visibility == "all"]
    if result.metric == "PCP":
        share = as_lists(result.errors())["good_share"][: len(places)]
        loss = 1 - np.array([np.nan if value is None else value for value in share], np.float64)
    else:
        loss = result.measured.values[first] * (1 if less else -1) + (0 if less else 1)
    shown = [_value(value, result.metric) for value in loss.tolist()]
    words = [
        f"{plain(far['keypoint'][i])} – {shown[k]}, median {text_of(far['error_px_median'][i], 1)} px of "
        f"{far['labelled'][i]:,}"
        for k, i in enumerate(rows[: len(places)])
    ]
    values = result.measured.values if result.metric != "PCP" else {}
    return {
        **figure(result.points.skeleton, places, loss, words, shown),
        "head": ["Keypoint", "Labelled", *values, *_HEAD],
        "units": ["", "", *(_unit(result.metric) for _ in values), *_UNITS],
        "rows": [_row(far, i, values, k, result.metric) for k, i in enumerate(rows)],
    }


_HEAD = ("Found", "Median", "90 %", "Median", "90 %", "Median", "90 %", "Bias x", "Bias y")
_UNITS = ("%", "px", "px", "lengths", "lengths", "√area", "√area", "px", "px")


def _row(far: Mapping[str, list[Any]], i: int, values: Mapping[str, Floats], k: int, metric: str) -> list[str]:
    """k: place of the keypoint; the last row is of all together, whose number is in the page's first section."""
    single = [_value(float(of[k]), metric) if k < len(of) else "" for of in values.values()]
    return [
        plain(far["keypoint"][i]),
        f"{far['labelled'][i]:,}",
        *single,
        text(times(far["found_share"][i], 100), 1),
        *(text_of(far[f"error_{unit}_{which}"][i], digits) for unit, digits in (("px", 1), ("length", 3), ("area", 3))
          for which in ("median", "p90")),
        *(text_of(far[f"bias_{axis}_px"][i], 1) for axis in "xy"),
    ]  # fmt: skip


def _unit(metric: str) -> str:
    return "px" if metric == "EPE" else "%"


def _value(value: float, metric: str) -> str:
    """A number of the metric: percent, EPE in pixels."""
    if np.isnan(value):
        return "–"
    return f"{value:.1f} px" if metric == "EPE" else f"{100 * value:.1f}"


def _opportunity(table: pa.Table, metric: str) -> list[dict[str, str]]:
    rows = [row for row in table.to_pylist() if row["gain"] is not None and row["count"]]
    most = max((row["gain"] for row in rows), default=0.0)
    factor, unit = (1, "px") if metric == "EPE" else (100, "points")
    kinds = ("jitter", "inversion", "swap", "miss")
    return [
        {
            "name": plain(row["error"]),
            "what": _NAMES[row["error"]],
            "count": f"{row['count']:,}",
            "sizes": "",
            "bar": figures.bar(max(row["gain"], 0) / most if most > 0 else 0.0, f"{factor * row['gain']:+.1f} {unit}",
                               css=row["error"] if row["error"] in kinds else "s0"),
            "gain": f"{factor * row['gain']:+.1f}",
            "unit": unit,
            "more": "",
        }
        for row in sorted(rows, key=lambda row: -row["gain"])
    ]  # fmt: skip


def _slices(table: pa.Table, metric: str) -> list[dict[str, Any]]:
    """One row a slice; bars of errors are relative to the greatest."""
    rows = table.to_pylist()
    errors_, top = metric in LESS, max((row["value"] or 0.0 for row in rows), default=1.0) or 1.0
    scale = 1 / top if errors_ else 1.0
    drawn = any(row["low"] is not None for row in rows)
    out = []
    for row in rows:
        value, low, high = (np.nan if row[key] is None else row[key] for key in ("value", "low", "high"))
        sure = bool(np.isfinite([low, high]).all())
        pale = drawn and not sure
        interval = f" ({_value(low, metric)} – {_value(high, metric)})" if sure else " (no interval)" if pale else ""
        words = f"{_value(value, metric)}{interval}"
        bar = figures.bar(value * scale, words, low=low * scale, high=high * scale, pale=pale)
        numbers = [_value(row["mean"] if row["mean"] is not None else np.nan, metric),
                   text(times(row["missing"], 100), 1),
                   *(text_of(row[f"error_px_{which}"], 1) for which in ("median", "p90"))]  # fmt: skip
        out.append({"by": row["by"], "slice": row["slice"], "people": f"{row['people']:,}", "bar": bar,
                    "value": _value(value, metric), "numbers": numbers})  # fmt: skip
    return out
