"""What `kpdata eval` does with a metric of single people: its analyses, its tables, its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpdata.cli import console
from kpdata.errors import EvaluationError

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.points import PointsEvaluation

_MOST = 20  # keypoints that a table shows
_KINDS = ("good", "jitter", "inversion", "swap", "miss")


def refuse_analyses(result: PointsEvaluation, asked: dict[str, Any]) -> None:
    """EvaluationError for options that only matches by OKS have an answer to."""
    if wanted := [name for name, value in asked.items() if value]:
        raise EvaluationError(
            f"{result.metric} has no {' or '.join(wanted)}", hint="they analyse matches by OKS: --metric oks"
        )


def tables(
    result: PointsEvaluation, matches: Path | None, failures: Path | None, suspects: Path | None
) -> list[tuple[Path, pa.Table, str]]:
    """What is to be written: where, the rows, and what they are."""
    found = []
    if matches:
        found.append((matches, result.matches, "predictions and people"))
    if failures:
        found.append((failures, result.failures(), "people and predictions of nobody"))
    if suspects:
        found.append((suspects, result.suspects(), "suspicious labels"))
    return found


def show(
    result: PointsEvaluation,
    paths: dict[str, str],
    *,
    as_json: bool,
    why: bool | None,
    intervals: Intervals | None,
    slices: pa.Table | None,
) -> None:
    """Print the score, and what was asked for beside it. why: None is the tables' and not JSON's."""
    if as_json:
        console.print_json({**_json(result, why, intervals, slices), "files": paths})
        return
    from kpdata.eval.wording import counted

    facts = result.facts
    print(f"{paths['predictions']} against {paths['gt']}")
    print(f"{result.metric} on {facts['skeleton']}" + (f", as {result.rules}" if result.rules else ""))
    print(counted(facts["counts"]))
    if facts["normalizer"]:
        over = f"; AUC {result.auc_range}" if result.auc_range else ""
        print(f"length: {facts['normalizer']['words']}{over}")
    print(f"predictions found by: {facts['pairing']}")
    print("\n".join(result.lines()))
    if intervals:
        _print_intervals(result, intervals)
    if why is not False:
        _print_keypoints(result)
        _print_errors(result)
    if slices is not None:
        _print_slices(result, slices)
    if why is not False and (helps := result.helps()):
        print("\nWhat would help most")
        for number, words in enumerate(helps, start=1):
            print(f"{number}. {words}")
    for note in (*result.notes, *_few(intervals, slices)):
        console.warn(note)


def _json(
    result: PointsEvaluation, why: bool | None, intervals: Intervals | None, slices: pa.Table | None
) -> dict[str, Any]:
    found = result.to_json()
    if why is False:
        del found["per_keypoint"]
    if intervals:
        found["bootstrap"] = intervals.to_json()
        found["notes"] = [*result.notes, *_few(intervals, slices)]
    if slices is not None:
        found["slices"] = slices.to_pylist()
    if why:
        found |= {"helps": result.helps(), "distances": result.distances().to_pylist(),
                  "errors": result.errors().to_pylist(), "reach": result.why.reach}  # fmt: skip
        found |= {} if result.metric == "PCP" else {"opportunity": result.opportunity().to_pylist()}
    return found


def _few(intervals: Intervals | None, slices: pa.Table | None) -> list[str]:
    """The note about intervals of few images, as far as intervals were asked for."""
    if intervals is None:
        return []
    from kpdata.eval.bootstrap import on_few_images

    return on_few_images(intervals, [] if slices is None else slices.to_pylist())


def _interval(low: float | None, high: float | None, factor: float) -> str:
    """A dash where there is none."""
    return "–" if low is None or low != low else f"{_number(low, factor)} … {_number(high, factor)}"


def _unit(result: PointsEvaluation) -> tuple[str, float]:
    return ("px", 1.0) if result.metric == "EPE" else ("%", 100.0)


def _number(value: Any, factor: float = 1.0, form: str = "{:.2f}") -> str:
    """A dash for what nothing was measured of."""
    return "–" if value is None or value != value else form.format(factor * value)


def _print_intervals(result: PointsEvaluation, intervals: Intervals) -> None:
    unit, factor = _unit(result)
    columns = zip(intervals.names, intervals.estimate, intervals.low, intervals.high, strict=True)
    rows = []
    for name, value, low, high in columns:
        times = 100.0 if name == "missing" else factor
        rows.append((name, _number(value, times), _interval(low, high, times)))
    title = f"{100 * intervals.level:g} % intervals, {len(intervals.samples):,} resamples of the images"
    console.table(("", f"value [{unit}]", "interval"), rows, title=title, right=(1, 2))


def _print_keypoints(result: PointsEvaluation) -> None:
    """Each keypoint, or limb, the worst first: shares from below, errors from above."""
    table = result.per_keypoint()
    what, names = table.column_names[0], table.column_names[4:]  # after labelled, missing, in_mean
    unit, factor = _unit(result)
    sign = -1 if result.metric in ("EPE", "NME") else 1
    rows = [row for row in table.to_pylist() if row[names[0]] is not None]
    cells = [
        (row[what], f"{row['labelled']:,}", f"{row['missing']:,}", *(f"{factor * row[name]:.2f}" for name in names))
        for row in sorted(rows, key=lambda row: sign * float(row[names[0]]))[:_MOST]
    ]
    headers = (what, "labelled", "missing", *(f"{name} [{unit}]" for name in names))
    console.table(headers, cells, title=f"{what.capitalize()}s, the worst first", right=tuple(range(1, len(headers))))


def _print_errors(result: PointsEvaluation) -> None:
    """How far off keypoints are, and how they fail."""
    kinds = {row["keypoint"]: row for row in result.errors().to_pylist()}
    rows = [row for row in result.distances().to_pylist() if row["visibility"] == "all" and row["labelled"]]
    worst = sorted(rows, key=lambda row: (row["keypoint"] == "all", kinds[row["keypoint"]]["good_share"] or 0.0))
    worst = worst[:_MOST] + worst[-1:] if len(worst) > _MOST else worst
    cells = [
        (row["keypoint"], _number(row["error_px_median"], form="{:.1f}"), _number(row["error_px_p90"], form="{:.1f}"),
         _number(row["error_length_median"]),
         *(_number(kinds[row["keypoint"]][f"{kind}_share"], form="{:.0%}") for kind in _KINDS))
        for row in worst
    ]  # fmt: skip
    headers = ("keypoint", "px", "90 %", "length", "good", "jitter", "invert", "swap", "miss")
    title = f"How they fail: median and 90th percentile; good is within {result.why.reach}"
    console.table(headers, cells, title=title, right=tuple(range(1, len(headers))))


def _print_slices(result: PointsEvaluation, slices: pa.Table) -> None:
    unit, factor = _unit(result)
    name = next(iter(result.rows))
    table = slices.to_pylist()
    drawn = any(row["low"] is not None for row in table)
    rows = [
        (row["by"], row["slice"], f"{row['people']:,}", _number(row["value"], factor), _number(row["mean"], factor),
         _number(row["missing"], form="{:.1%}"), _number(row["error_px_median"], form="{:.1f}"),
         _number(row["error_px_p90"], form="{:.1f}"),
         *([_interval(row["low"], row["high"], factor)] if drawn else []))
        for row in table
    ]  # fmt: skip
    headers = ("by", "slice", "people", f"{name} [{unit}]", "mean", "missing", "px", "90 %",
               *(["95 % interval"] if drawn else []))  # fmt: skip
    title = "Slices, the worst first: the same people, some at a time (px: median error)"
    console.table(headers, rows, title=title, right=tuple(range(2, len(headers))))
