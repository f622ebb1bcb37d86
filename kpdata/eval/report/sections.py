"""The sections of a report about one skeleton: tables of the analyses as texts and SVG for the page's template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.eval.errors import KINDS as ERROR_KINDS
from kpdata.eval.oks import Floats
from kpdata.eval.report import figures
from kpdata.eval.report.figures import Line
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.eval.calibration import Calibration, Reliability

KEYPOINT_KINDS = tuple(kind.name.lower() for kind in ERROR_KINDS)
MANY = 27  # bars of keypoints that are shown at once: those of 26 and "all"
_FAR = 12  # keypoints in the list beside the figure
_REPAIRS = {
    "miss": "missed keypoints put near their place",
    "swap": "keypoints of other people",
    "inversion": "left and right",
    "jitter": "small offsets",
    "score": "order of the scores",
    "false_positives": "detections of nobody",
    "false_negatives": "people not found",
}
_PEOPLE = {
    "found": "people found",
    "missed": "people missed",
    "misscored": "people for whom a worse pose has a better score",
    "duplicate": "further poses for somebody found",
    "background": "poses of nobody",
}
MEANINGS = {
    "good": "near its place",
    "jitter": "a little off",
    "inversion": "left taken for right",
    "swap": "at another person's",
    "miss": "near none of these",
}
_SLICES = {"AP": ("AP50", "AR", "mean_oks"), "mAP": ("mAP50", "mAP75", "mean_oks")}  # by the number of a slice
WORDS: dict[str, Any] = {  # what the page says of the sections of metrics by OKS
    "keypoints": "OKS that a keypoint loses on average, where its person was found.",
    "errors": "What the keypoints of found people are, after Ronchi and Perona (2017).",
    "opportunity": "Points of AP and AR (of 100) if every error of one kind were corrected and nothing else.",
    "slices": "The same matches, counted for some of the people. The lowest AP comes first.",
    "slices_value": "AP",
    "slices_head": ("AP50", "AR", "mean OKS", "missed %"),
}


@dataclass(frozen=True, slots=True)
class PartReport:
    """What is said of the keypoints of one skeleton. Tables are those of the functions named; each may be left out."""

    skeleton: Skeleton
    places: Floats | None = None  # (K, 2) of the stick figure; None: `figures.layout` of the skeleton alone
    per_keypoint: pa.Table | None = None  # keypoints.per_keypoint
    keypoint_ap: Floats | None = None  # (K,) keypoints.keypoint_ap
    errors: pa.Table | None = None  # errors.count_errors
    people: pa.Table | None = None  # errors.count_people
    opportunity: pa.Table | None = None  # opportunity.opportunity, or opportunity_by_size
    slices: pa.Table | None = None  # slices.slices
    calibration: Calibration | None = None  # calibration.calibration
    made: Mapping[str, Any] = field(default_factory=dict)  # parts of `section` that are made already


def section(part: PartReport, several: bool) -> dict[str, Any]:
    """What the template shows of a part; `several`: it is not the only one, so that its name is said."""
    return {
        "heading": f" of {part.skeleton.name}" if several else "",
        "id": f"-{re.sub(r'[^A-Za-z0-9.-]+', '-', part.skeleton.name)}" if several else "",
        "words": WORDS if part.slices is None else WORDS | _slices_words(part.slices),
        "keypoints": _keypoints(part),
        "people": _people(part.people),
        "errors": errors(part.errors),
        "opportunity": _opportunity(part.opportunity),
        "slices": _slices(part.slices),
        "charts": _calibration(part.calibration),
        **part.made,
    }


def as_lists(table: pa.Table) -> dict[str, list[Any]]:
    return {name: schema.chunk(table[name]).to_pylist() for name in table.schema.names}


def _keypoints(part: PartReport) -> dict[str, Any] | None:
    """The stick figure, the list of the worst, and the table."""
    if part.per_keypoint is None:
        return None
    table = as_lists(part.per_keypoint)
    rows = [i for i, visibility in enumerate(table["visibility"]) if visibility == "all"]
    names = [table["keypoint"][i] for i in rows]
    position = {name: place for place, name in enumerate(names)}
    loss = np.array([np.nan if (v := table["oks"][i]) is None else 1 - v for i in rows])[: len(part.skeleton)]
    words = [_words(table, i) for i in rows][: len(part.skeleton)]
    return {
        **figure(part.skeleton, part.places, loss, words, [f"{value:.3f}" for value in loss.tolist()]),
        "head": [*_HEAD, *(["AP alone"] if part.keypoint_ap is not None else [])],
        "units": UNITS,
        "rows": [_row(table, i, part.keypoint_ap, position[table["keypoint"][i]]) for i in rows],
    }


def figure(
    skeleton: Skeleton, places: Floats | None, loss: Floats, words: Sequence[str], shown: Sequence[str]
) -> dict[str, Any]:
    """The stick figure and the list of the worst, of what each keypoint loses (K,), NaN unknown; words and shown
    (K,) texts."""
    places = figures.layout(skeleton) if places is None else places
    most = float(np.nanmax(loss)) if np.isfinite(loss).any() else 0.0
    worst = [k for k in np.argsort(-np.nan_to_num(loss, nan=-1.0), kind="stable").tolist() if np.isfinite(loss[k])]
    share = loss / most if most > 0 else loss
    return {
        "figure": figures.skeleton_figure(places, skeleton.edges, share, words),
        "worst": [
            {
                "name": plain(skeleton.keypoint_names[k]),
                "loss": shown[k],
                "bar": figures.bar(share[k], words[k], css="heat"),
                "colour": figures.heat(float(share[k])),
            }
            for k in worst[:_FAR]
        ],
        "all": len(skeleton) <= _FAR,
    }


_HEAD = ("Keypoint", "Labelled", "Found", "OKS", "PCK 0.1", "Median", "90 %", "Median", "90 %", "Bias x", "Bias y")
UNITS = ("", "", "%", "", "√area", "px", "px", "σ", "σ", "px", "px", "")


def _row(table: Mapping[str, list[Any]], i: int, alone: Floats | None, place: int) -> list[str]:
    cells = [
        plain(table["keypoint"][i]),
        f"{table['labelled'][i]:,}",
        text(times(table["found_share"][i], 100), 1),
        text(table["oks"][i]),
        text(table["pck_10"][i]),
        *(text_of(table[f"error_{unit}_{which}"][i], digits) for unit, digits in (("px", 1), ("sigma", 2))
          for which in ("median", "p90")),
        *(text_of(table[f"bias_{axis}_px"][i], 1) for axis in "xy"),
    ]  # fmt: skip
    if alone is not None:
        cells.append(text(float(alone[place])) if place < len(alone) else "")
    return cells


def text_of(value: float | None, digits: int) -> str:
    """As `text`, for quantities that may well be -1."""
    if value is None or np.isnan(value):
        return "–"
    return "∞" if np.isinf(value) else f"{value:.{digits}f}"


def times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def plain(name: str) -> str:
    return name.replace("_", " ")


def _words(table: Mapping[str, list[Any]], i: int) -> str:
    lost = "–" if table["oks"][i] is None else text_of(1 - table["oks"][i], 3)
    return (
        f"{plain(table['keypoint'][i])} – loses {lost} OKS, median {text_of(table['error_px_median'][i], 1)} px "
        f"({text_of(table['error_sigma_median'][i], 2)} σ), found {text(times(table['found_share'][i], 100), 1)} % "
        f"of {table['labelled'][i]:,}"
    )


def errors(table: pa.Table | None) -> list[dict[str, str]]:
    """A bar of the kinds for each keypoint; "all" first, then the worst."""
    if table is None:
        return []
    columns = as_lists(table)
    rows = [i for i in range(table.num_rows) if columns["found"][i]]
    rows.sort(key=lambda i: (columns["keypoint"][i] != "all", columns["good_share"][i]))
    return [
        {
            "name": plain(columns["keypoint"][i]) if columns["keypoint"][i] != "all" else "all keypoints",
            "bar": figures.stacked_bar(
                [
                    (
                        kind,
                        columns[f"{kind}_share"][i],
                        f"{kind}: {columns[kind][i]:,}, {columns[f'{kind}_share'][i]:.1%}",
                    )
                    for kind in KEYPOINT_KINDS
                ]
            ),
            "good": f"{columns['good_share'][i]:.1%}",
        }
        for i in rows
    ]


def _opportunity(table: pa.Table | None) -> list[dict[str, str]]:
    """What each correction adds to AP and AR on its own, the greatest first; in points of 100."""
    if table is None:
        return []
    columns = as_lists(table)
    sizes = columns.get("size", ["all"] * table.num_rows)
    rows = [i for i, name in enumerate(columns["error"]) if name != "baseline" and sizes[i] == "all"]
    gain = {i: columns["ap_gain"][i] for i in rows}
    rows = [i for i in rows if gain[i] is not None and np.isfinite(gain[i])]
    most = max((gain[i] for i in rows), default=0.0)
    return [
        {
            "name": plain(columns["error"][i]),
            "what": _REPAIRS.get(columns["error"][i], ""),
            "count": f"{columns['count'][i]:,}",
            "sizes": _of_sizes(columns, sizes, columns["error"][i]),
            "bar": figures.bar(max(gain[i], 0) / most if most > 0 else 0.0, f"AP {100 * gain[i]:+.1f}",
                               css=columns["error"][i] if columns["error"][i] in KEYPOINT_KINDS else "s0"),
            "gain": f"{100 * gain[i]:+.1f}",
            "unit": "AP",
            "more": f"{100 * columns['ar_gain'][i]:+.1f} AR",
        }
        for i in sorted(rows, key=lambda i: -gain[i])
    ]  # fmt: skip


def _of_sizes(columns: Mapping[str, list[Any]], sizes: Sequence[str], error: str) -> str:
    """`; APm +1.2, APl +0.3`: what one correction adds for medium and large people, as far as there are some."""
    gains = {size: columns["ap_gain"][i] for i, size in enumerate(sizes) if columns["error"][i] == error}
    known = {size: gain for size, gain in gains.items() if size != "all" and gain is not None and np.isfinite(gain)}
    told = [f"AP{size[0]} {100 * gain:+.1f}" for size, gain in known.items()]
    return f"; {', '.join(told)}" if told else ""


def slices_value(table: pa.Table) -> str:
    """The number that a table of slices is sorted by: AP, or AI Challenger's mAP."""
    return "mAP" if "mAP" in table.schema.names else "AP"


def have_intervals(table: pa.Table) -> bool:
    """Whether any slice has an interval."""
    column = table[f"{slices_value(table)}_low"]
    return bool(column.null_count < table.num_rows)


def _slices_words(table: pa.Table) -> dict[str, Any]:
    name, told = slices_value(table), str(WORDS["slices"])
    if name != "AP":
        told = "AI Challenger's shares of people found, of some of the people. The lowest mAP comes first."
    if have_intervals(table) and table[f"{name}_low"].null_count:
        told += " A pale bar has no interval: all its people are on one image."
    return {"slices": told, "slices_value": name, "slices_head": (*_SLICES[name][:2], "mean OKS", "missed %")}


def _slices(table: pa.Table | None) -> list[dict[str, Any]]:
    """One row a slice, in the order of the table (the worst first)."""
    if table is None:
        return []
    columns, name = as_lists(table), slices_value(table)
    drawn = have_intervals(table)
    rows = []
    for i in range(table.num_rows):
        low, high = (np.nan if (v := columns[key][i]) is None else v for key in (f"{name}_low", f"{name}_high"))
        value = np.nan if columns[name][i] is None else columns[name][i]
        sure = bool(np.isfinite(low) and np.isfinite(high))
        pale = drawn and not sure
        interval = f" ({text(low)} – {text(high)})" if sure else " (no interval)" if pale else ""
        rows.append({
            "by": columns["by"][i], "slice": columns["slice"][i], "people": f"{columns['people'][i]:,}",
            "bar": figures.bar(value, f"{name} {text(value)}{interval}", low=low, high=high, pale=pale),
            "interval": interval.strip(), "value": text(value),
            "numbers": [*(text(columns[key][i]) for key in _SLICES[name]), text(times(columns["missed"][i], 100), 1)],
        })  # fmt: skip
    return rows


def _people(table: pa.Table | None) -> list[dict[str, str]]:
    """What becomes of people and predictions: a number and words for each kind."""
    if table is None:
        return []
    columns = as_lists(table)
    return [
        {"value": f"{columns['count'][i]:,}", "share": f"{text(times(columns['share'][i], 100), 1)} %",
         "name": _PEOPLE.get(kind, kind)}
        for i, kind in enumerate(columns["kind"])
    ]  # fmt: skip


def _calibration(found: Calibration | None) -> list[dict[str, Any]]:
    """Reliability of people's and keypoints' scores, and the numbers over the score threshold."""
    if found is None:
        return []
    charts = [
        _reliability("Scores of people", "share of right people", found.persons, "OKS"),
        _reliability("Scores of keypoints", "share of right keypoints", found.keypoints, "OKS term"),
        _thresholds(found),
    ]
    return [chart for chart in charts if chart is not None]


def _reliability(title: str, y_label: str, found: Reliability, what: str) -> dict[str, Any] | None:
    if not found.table.num_rows:
        return None
    low, high = schema.values(found.table["low"]).min(), schema.values(found.table["high"]).max()
    lines = reliability_lines(found, what)
    known = found.ece_50 is not None
    x_range = (0.0, 1.0) if known else (float(low), float(high))
    if not np.isfinite(x_range).all():
        return {"title": title, "svg": "", "legend": [], "words": [found.why]}
    words = [found.why] if found.why else []
    if found.ece_50 is not None and found.ece_75 is not None:
        words = [f"On average {100 * found.ece_50:.1f} points beside the dashed line at {what} 0.5, "
                 f"{100 * found.ece_75:.1f} at 0.75 (ECE)."]  # fmt: skip
    svg = figures.chart(lines, "score", y_label, x_range=x_range, diagonal=known, dots=True)
    return {"title": title, "svg": svg, "legend": legend(lines), "words": words}


def reliability_lines(found: Reliability, what: str) -> list[Line]:
    """Shares at OKS (or a term) of 0.5 and 0.75 over the mean score of each bin; none where nothing was binned."""
    if not found.table.num_rows:
        return []
    x = schema.values(found.table["mean_score"])
    return [Line(f"{what} ≥ {at / 100:g}", x, schema.values(found.table[f"share_{at}"])) for at in (50, 75)]


def threshold_lines(found: Calibration) -> list[Line]:
    """The numbers over the lowest score that is kept; none without people, predictions or finite scores."""
    x = schema.values(found.thresholds["threshold"])
    if not len(x) or not np.isfinite(x).all():
        return []
    return [Line(name.upper() if name == "f1" else name, x, schema.values(found.thresholds[name]))
            for name in ("precision", "recall", "f1", "AP")]  # fmt: skip


def _thresholds(found: Calibration) -> dict[str, Any] | None:
    lines = threshold_lines(found)
    if not lines:
        return None
    x, words = lines[0].x, []
    if found.best is not None:
        f1, precision, recall = (text(found.best[name]) for name in ("f1", "precision", "recall"))
        start = f"F1 is greatest, {f1}, for scores from {found.best['threshold']:.3g} on"
        words = [f"{start}: precision {precision}, recall {recall} at OKS 0.5."]
    svg = figures.chart(lines, "lowest score that is kept", "", x_range=(float(x.min()), float(x.max())))
    return {"title": "Which scores to keep", "svg": svg, "legend": legend(lines), "words": words}


def legend(lines: Sequence[Line]) -> list[tuple[str, str]]:
    return [(f"s{i % 8}", line.name) for i, line in enumerate(lines)]


def text(value: float | None, digits: int = 3) -> str:
    """A number for a reader: `–` where there is none (None, NaN, the -1 of an empty average).

    >>> text(0.61749), text(-1.0)
    ('0.617', '–')
    """
    if value is None or np.isnan(value) or value == -1:
        return "–"
    return f"{value:.{digits}f}" if abs(value) <= 1 else f"{value:.{min(digits, 1)}f}"
