"""Picture files, by matplotlib, of what lines of text tell badly: two models beside each other, and what scores are
worth. Endings and errors are those of `figures.plot_keypoints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval.report import curve_lines, figures
from kpdata.eval.report.figures import Bools, Floats, Line, calm, finish, new_figure, save, short, tall
from kpdata.eval.report.sections import reliability_lines, threshold_lines
from kpdata.eval.wording import many

if TYPE_CHECKING:
    from kpdata.eval.calibration import Calibration, Reliability
    from kpdata.eval.comparison import Comparison
    from kpdata.eval.evaluation import Evaluation
    from kpdata.eval.points.comparison import PointsComparison

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#333333")  # of Okabe and Ito's palette
_BETTER, _WORSE, _CHANCE = "#0072B2", "#D55E00", "#AAAAAA"
_WORDS = {_BETTER: "B is better", _WORSE: "A is better", _CHANCE: "could be chance"}


# ---------------------------------------------------------------------------------------------------------- two models


@dataclass(frozen=True, slots=True)
class Rows:
    """Differences B − A to draw, the first at the top: as they are shown (points of 100, or pixels)."""

    title: str
    labels: Sequence[str]
    delta: Floats
    low: Floats
    high: Floats
    clear: Bools  # beyond chance
    less: Bools  # less is better

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows, in this order."""
        labels = [self.labels[i] for i in rows.tolist()]
        ends = self.low[rows], self.high[rows]
        return Rows(self.title, labels, self.delta[rows], *ends, self.clear[rows], self.less[rows])


def _table_rows(title: str, table: pa.Table, keys: Sequence[str], clear: Bools, factor: float, less: bool) -> Rows:
    """`Rows` of a table of differences in its order; keys: the columns that name a row."""
    told = schema.texts(table["skeleton"])
    several = len(set(told)) > 1
    names = zip(*(schema.texts(table[key]) for key in keys), strict=True)
    labels = [": ".join(str(text) for text in name) for name in names]
    labels = [f"{bones} {label}" for bones, label in zip(told, labels, strict=True)] if several else labels
    delta, low, high = (factor * schema.values(table[key]) for key in ("delta", "low", "high"))
    return Rows(title, labels, delta, low, high, clear, np.full(len(labels), less))


def _worst_first(rows: Rows) -> Rows:
    """Those that B lost most at the top; those without a difference are left out."""
    rows = rows.chosen(np.flatnonzero(~np.isnan(rows.delta)))
    return rows.chosen(np.argsort(np.where(rows.less, -rows.delta, rows.delta), kind="stable"))


def plot_comparison(
    result: Comparison | PointsComparison,
    target: Path,
    *,
    measure: str,
    about: str = "",
    less: Sequence[str] = (),
    pixels: bool = False,
    force: bool = False,
) -> None:
    """Write a picture of a comparison: its numbers, below them its slices, beside them its keypoints, those that B lost
    most at the top; in colour what differs beyond chance.

    measure: the title of the keypoints (or limbs); about: further lines above it; less: numbers of which less is better
    (with the first, keypoints and slices too); pixels: all but `missing` is in pixels, otherwise in shares. Raises
    EvaluationError where nothing was measured.
    """
    from kpdata.eval.comparison import beyond_chance

    worse_up, factor = result.names[0] in less, 1.0 if pixels else 100.0
    tables = [("Slices, " + result.names[0], result.slices, ("by", "slice")),
              (measure, result.keypoints, ("keypoint",))]  # fmt: skip
    slices, keypoints = (
        _table_rows(title, table, keys, beyond_chance(schema.values(table["p"]), result.level), factor, worse_up)
        for title, table, keys in tables
    )
    numbers = _number_rows(result, less, factor, "missing" if pixels else "")
    drawn = (
        f"bars: {100 * result.level:g} % intervals, {many(result.resamples, 'resample')} of "
        f"{many(result.images, 'image')}; slices and keypoints are judged as many tests at once"
    )
    if not len(numbers):
        raise EvaluationError(result.verdict(), hint="there is nothing to draw")
    words = [result.verdict(), *about.splitlines(), drawn]
    unit = f"B − A in {'px' if pixels else 'points'}"
    plot_differences(words, (numbers, _worst_first(slices)), _worst_first(keypoints), target, unit=unit, force=force)


def _number_rows(result: Comparison | PointsComparison, less: Sequence[str], factor: float, left_out: str) -> Rows:
    """The numbers, each with its value in A and in B; clear where its own test says so."""
    columns = result.numbers.columns()
    rows = [i for i, name in enumerate(result.names) if name != left_out and not np.isnan(columns["delta"][i])]
    names = [result.names[i] for i in rows]
    a, b, delta, low, high = (factor * columns[key][rows] for key in ("a", "b", "delta", "low", "high"))
    labels = [f"{name}  {one:.1f} → {two:.1f}" for name, one, two in zip(names, a, b, strict=True)]
    clear = columns["p"][rows] < 1 - result.level
    return Rows("Numbers", labels, delta, low, high, clear, np.isin(names, less))


def plot_differences(
    words: Sequence[str], left: Sequence[Rows], right: Rows, target: Path, *, unit: str, force: bool = False
) -> None:
    """Write a picture of paired differences with their intervals. words: the lines above it, the verdict first; left:
    below each other; right: beside them, in as many columns as their height needs; unit: of all."""
    left, gap = [rows for rows in left if len(rows)], 3
    height = max(sum(len(rows) + gap for rows in left) - gap, min(len(right), figures.MANY_ROWS), 1)
    columns = -(-len(right) // height)
    parts = [right.chosen(rows) for rows in np.array_split(np.arange(len(right)), columns)] if columns else []
    figure = new_figure(target, 6.5 + 4 * len(parts), tall(height) + 0.3 * len(words))
    whole = figure.add_gridspec(1, 1 + len(parts), width_ratios=[1.4] + [1] * len(parts))
    column = whole[0].subgridspec(len(left), 1, height_ratios=[len(rows) + gap - 1 for rows in left])
    axes = [figure.add_subplot(column[i]) for i in range(len(left))]
    for panel, rows in zip(axes, left, strict=True):
        _draw_rows(panel, rows, unit)
    for i, rows in enumerate(parts):
        panel = figure.add_subplot(whole[1 + i])
        _draw_rows(panel, replace(rows, title="") if i else rows, unit)
        panel.set_xlim(*_range(right.low, right.high))  # of all columns
    figure.suptitle("\n".join(short(line, 110) for line in words), x=0.01, ha="left", fontsize=11)
    _colours(figure, [*left, right])
    save(figure, target, force)


def _draw_rows(axes: Any, rows: Rows, unit: str) -> None:
    places, colours = np.arange(len(rows))[::-1], _of_rows(rows)
    axes.axvline(0, color="#333333", linewidth=1)
    for colour in dict.fromkeys(colours):
        chosen = np.array([one == colour for one in colours])
        axes.hlines(places[chosen], rows.low[chosen], rows.high[chosen], color=colour, linewidth=2.5, alpha=0.6)
        axes.plot(rows.delta[chosen], places[chosen], "o", color=colour, markersize=6)
    axes.set_xlim(*_range(rows.low, rows.high))
    axes.locator_params(axis="x", nbins=5)
    axes.set_title(f"{rows.title}, {unit}" if rows.title else "", fontsize=11)
    finish([axes], rows.labels[::-1])


def _of_rows(rows: Rows) -> list[str]:
    """The colour of each row."""
    better = (rows.delta < 0) == rows.less
    colours: list[str] = np.where(~rows.clear, _CHANCE, np.where(better, _BETTER, _WORSE)).tolist()
    return colours


def _range(low: Floats, high: Floats) -> tuple[float, float]:
    """The ends of an axis that holds all finite ones of these, and 0."""
    known = np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)], [0.0]])
    margin = max(0.05 * float(known.max() - known.min()), 0.1)
    return float(known.min()) - margin, float(known.max()) + margin


def _colours(figure: Any, shown: Sequence[Rows]) -> None:
    from matplotlib.lines import Line2D

    used = {colour for rows in shown for colour in _of_rows(rows)}
    marks = [
        Line2D([], [], color=colour, marker="o", label=words) for colour, words in _WORDS.items() if colour in used
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


# -------------------------------------------------------------------------------------------------------------- scores


def plot_scores(result: Evaluation, found: Sequence[Calibration], target: Path, *, force: bool = False) -> None:
    """Write a picture of `Evaluation.calibration`, a row a skeleton: reliability of people's and of keypoints' scores,
    the numbers over the lowest score that is kept, precision over recall; below them `keypoints.per_keypoint` as
    `figures.plot_keypoints` draws it."""
    from kpdata.eval.evaluation import joined
    from kpdata.eval.keypoints import per_keypoint

    sides = result.sides
    table = joined(sides, [per_keypoint(*of) for of in zip(sides.parts, result.pairings, strict=True)])
    below, each = tall(figures.keypoint_count(table)), 4.2
    figure = new_figure(target, 17, each * len(found) + below)
    parts = figure.subfigures(len(found) + 1, 1, height_ratios=[each] * len(found) + [below])
    for part, of, scores in zip(parts, sides.parts, found, strict=False):
        _draw_scores(part, scores, f" of {of.skeleton.name.replace('_', ' ')}" if len(found) > 1 else "")
    figures.draw_keypoints(parts[-1], table)
    save(figure, target, force)


def _draw_scores(figure: Any, scores: Calibration, whose: str) -> None:
    panels = figure.subplots(1, 4)
    _draw_reliability(panels[0], scores.persons, "OKS", f"Scores of people{whose}")
    _draw_reliability(panels[1], scores.keypoints, "term", f"Scores of keypoints{whose}")
    kept = threshold_lines(scores)
    title = f"Which scores to keep{whose}" + ("" if kept else "\nno finite scores, or nobody to find")
    _draw_lines(panels[2], kept, title, "lowest score that is kept", "")
    if scores.best is not None and np.isfinite(scores.best["threshold"]):
        panels[2].axvline(scores.best["threshold"], color="#AAAAAA", linestyle=":")
    curves = curve_lines(scores.oks_thresholds, scores.recalls, scores.precision)
    _draw_lines(panels[3], curves, f"Precision and recall{whose}", "recall", "precision")
    panels[3].set_xlim(-0.02, 1.02)


def _draw_reliability(axes: Any, found: Reliability, what: str, title: str) -> None:
    lines = reliability_lines(found, what)
    if found.ece_50 is not None:
        axes.plot([0, 1], [0, 1], color="#AAAAAA", linestyle="--")
        title += f"\nECE {found.ece_50:.3f} at {what} 0.5"
    else:
        title += f"\n{_no_ece(found.why)}"
    _draw_lines(axes, lines, title, "score", f"share with {what} ≥ …", marker="o")


def _no_ece(why: str) -> str:
    return "no ECE: no probabilities" if "probabilities" in why else why


def _draw_lines(axes: Any, lines: Sequence[Line], title: str, x_label: str, y_label: str, marker: str = "") -> None:
    for line, colour in zip(lines, _COLOURS, strict=False):
        axes.plot(line.x, line.y, label=line.name, color=colour, marker=marker, markersize=4, linewidth=1.8)
    axes.set_title("\n".join(short(line, 55) for line in title.splitlines()), fontsize=11)
    if lines:  # scores may be large: room for their digits
        axes.locator_params(axis="x", nbins=6)
        axes.ticklabel_format(axis="x", scilimits=(-3, 4))
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(-0.02, 1.02))
    calm(axes, "both")
    if lines:
        axes.legend(frameon=False, fontsize=9, loc="best")
