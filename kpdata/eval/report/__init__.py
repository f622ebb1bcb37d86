"""One HTML file that says how good the predictions are and why: no network, no other file, no script.

`report` writes what `ReportData` holds; every part of that is optional, and what is not given is left out. The page is
`report.html.j2` (jinja2, everything escaped); `sections` say what it shows of keypoints, `cards` of people,
and `figures` draw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata import files, schema
from kpdata.eval.average_precision import Curves
from kpdata.eval.bootstrap import on_few_images
from kpdata.eval.oks import Params
from kpdata.eval.report import figures
from kpdata.eval.report.cards import Card, cards
from kpdata.eval.report.figures import Floats, Line
from kpdata.eval.report.sections import (
    KEYPOINT_KINDS,
    MANY,
    MEANINGS,
    PartReport,
    have_intervals,
    legend,
    section,
    text,
    text_of,
)
from kpdata.eval.wording import counted
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.evaluation import Evaluation

_CURVES = (0.5, 0.75, 0.9)  # OKS thresholds that get a curve, where they were evaluated
_FACTS = {  # how facts are called on the page; "": not shown
    "metric": "", "protocol": "", "category_ids": "", "area_rules": "",
    "box_sources": "boxes from", "detection_area": "area of predictions", "max_dets": "predictions an image",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report can show, in the order of the page."""

    stats: Mapping[str, float]  # by name; the first is the headline; -1 or NaN: nothing to average
    title: str = "Keypoint evaluation"
    subtitle: str = ""  # which files
    metric: str = ""
    digits: int | None = None  # of the numbers after the point; None: three of shares, one of what is greater than 1
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # low and high, by name
    level: float = 0.95  # of the intervals
    about: Mapping[str, str] = field(default_factory=dict)  # what was scored, and how: `describe`
    helps: Sequence[str] = ()  # the things that would help most, in words
    notes: Sequence[str] = ()  # what changes the meaning of the numbers
    curves: Sequence[Line] = ()  # precision over recall: `precision_recall`; or what the next lines say
    curves_title: str = "Precision and recall"
    curves_words: str = (
        "Going down the scores: how many of the people are found, and how many of the predictions are right."
    )
    curves_axes: tuple[str, str] = ("recall", "precision")
    parts: Sequence[PartReport] = ()
    failures: pa.Table | None = None  # failures.failures
    skeletons: Mapping[str, Skeleton] = field(default_factory=dict)  # of the failures; those of `parts` are known


def report(
    data: ReportData, path: Path | str, *, images: Path | str | None = None, limit: int = 50, force: bool = False
) -> list[str]:
    """Write the page, in one piece, gzip where the name ends in `.gz`.

    images: folder of the pictures; without it people are drawn on blank cards. limit: how many people are shown, the
    worst of each kind. Crops of up to 120 people are large (30 kB each), of more small (8 kB each, so that 1,000
    people make about 11 MB). Pictures that cannot be read are counted in a sentence, on the page and in what is given
    back. Raises DestinationExists without `force`, WriteError where the disk refuses.
    """
    files.refuse_existing(Path(path), force)
    context = _context(data, None if images is None else Path(images), limit)
    files.write_bytes(Path(path), _page(context).encode("utf-8", "replace"), force=force)
    return list(context["blank"])


def render(data: ReportData, *, images: Path | None = None, limit: int = 50) -> str:
    """The page as text; see `report`."""
    return _page(_context(data, images, limit))


def _page(context: dict[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["svg"] = Markup  # only for what `figures` made, which escapes its texts
    template = resources.files("kpdata.eval.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


# ----------------------------------------------------------------------------------------------- from an evaluation


def from_evaluation(evaluation: Evaluation, *, intervals: Intervals | None = None, **more: Any) -> ReportData:
    """`ReportData` with the numbers, intervals, notes, curves and what was scored; `more`: its other fields."""
    known: dict[str, tuple[float, float]] = {}
    if intervals is not None:
        rows = zip(intervals.names, intervals.low.tolist(), intervals.high.tolist(), strict=True)
        known = {name: (low, high) for name, low, high in rows if name in evaluation.stats}
        more = {"level": intervals.level, **more}
    tables = [part.slices for part in more.get("parts", ()) if part.slices is not None]
    drawn = [table for table in tables if intervals is not None or have_intervals(table)]
    few = on_few_images(intervals, [row for table in drawn for row in table.to_pylist()])
    fields = {
        "stats": _headline_first(evaluation.stats),
        "metric": str(evaluation.facts.get("metric", "")),
        "intervals": known,
        "about": describe(evaluation.facts),
        "notes": (*evaluation.notes, *few),
        "curves": precision_recall(evaluation.curves, evaluation.sides.parts[0].params)
        if evaluation.sides.parts
        else (),
    }
    return ReportData(**{**fields, **more})


def _headline_first(stats: Mapping[str, float]) -> dict[str, float]:
    """The numbers, of WholeBody those of all 133 keypoints before those of the groups."""
    whole = {name: value for name, value in stats.items() if name.startswith("whole_")}
    return {**whole, **stats}


def describe(facts: Mapping[str, Any]) -> dict[str, str]:
    """`ReportData.about` of an evaluation's facts: those that are texts, numbers or counts, each in words."""
    about = {}
    for key, value in facts.items():
        name = _FACTS.get(key, key.replace("_", " "))
        if not name or value is None:
            continue
        if key == "counts":
            about[name] = counted(value)
        elif key == "skeletons":
            about[name] = "; ".join(_skeleton_words(*item) for item in value.items())
        elif isinstance(value, str | bool | int | float):
            about[name] = str(value)
        elif isinstance(value, list | tuple) and 0 < len(value) <= 6:
            about[name] = ", ".join(str(item) for item in value)
    return about


def _skeleton_words(name: str, facts: Mapping[str, Any]) -> str:
    source = facts.get("sigma_source")
    return f"{name}, {facts.get('keypoints')} keypoints" + (f", sigmas: {source}" if source else "")


def precision_recall(curves: Curves, params: Params) -> tuple[Line, ...]:
    """Precision over recall at OKS 0.5, 0.75, 0.9 and their mean over all thresholds; all sizes of people.

    Categories are averaged where they have ground truth; of several `max_dets` the largest. Empty without any.
    """
    a = params.area_labels.index("all") if "all" in params.area_labels else 0
    whole = curves.precision[:, :, :, a, -1]  # (T, R, C)
    known = whole[..., (whole > -1).all((0, 1))]
    if not known.size:
        return ()
    return curve_lines(params.iou_thresholds, params.recall_thresholds, known.mean(2))


def curve_lines(thresholds: Floats, recalls: Floats, precision: Floats) -> tuple[Line, ...]:
    """Precision (T, R) over recalls (R,) at the chosen ones of the OKS thresholds (T,), and the mean of all."""
    lines = [
        Line(f"OKS {threshold:g}", recalls, precision[row])
        for threshold in _CURVES
        for row in np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-9))
    ]
    low, high = thresholds.min(), thresholds.max()
    return (*lines, Line(f"mean of {low:g} to {high:g}", recalls, precision.mean(0)))


# --------------------------------------------------------------------------------------------------------- the page


def _context(data: ReportData, images: Path | None, limit: int) -> dict[str, Any]:
    from kpdata import __version__

    shown: list[Card] = []
    blank: list[str] = []
    if data.failures is not None:
        known = {part.skeleton.name: part.skeleton for part in data.parts} | dict(data.skeletons)
        shown, blank = cards(data.failures, known, images=images, limit=limit)
    names = list(data.stats)
    return {
        "data": data,
        "version": __version__,
        "numbers": [_number(name, data) for name in names],
        "curves": _curves(data) if data.curves else "",
        "legend": legend(data.curves),
        "parts": [section(part, len(data.parts) > 1) for part in data.parts],
        "kinds": KEYPOINT_KINDS,
        "meanings": MEANINGS,
        "many": MANY,
        "cards": shown,
        "card_kinds": _card_kinds(data.failures, [card.kind for card in shown]),
        "people": 0 if data.failures is None else data.failures.num_rows,
        "blank": blank,
        "confident": any(" · score " in card.numbers or card.numbers.startswith("score") for card in shown),
    }


def _curves(data: ReportData) -> str:
    x = np.concatenate([line.x for line in data.curves])
    return figures.chart(data.curves, *data.curves_axes, x_range=(min(0.0, float(x.min())), float(x.max())))


def _number(name: str, data: ReportData) -> dict[str, str]:
    low, high = data.intervals.get(name, (np.nan, np.nan))
    known = np.isfinite(low) and np.isfinite(high)
    missing = name in data.intervals and data.stats[name] >= 0

    def shown(value: float) -> str:
        return text(value) if data.digits is None else text_of(value, data.digits)

    return {
        "name": name,
        "id": re.sub(r"[^A-Za-z0-9.-]+", "-", name),
        "value": shown(data.stats[name]),
        "interval": f"{shown(low)} – {shown(high)}" if known else "no interval" if missing else "",
    }


def _card_kinds(table: pa.Table | None, kinds: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """(class, kind, cards, people) of each kind that is shown, in the order of its first card."""
    if table is None:
        return []
    everybody = schema.texts(table["kind"])
    return [(css(kind), kind, kinds.count(kind), everybody.count(kind)) for kind in dict.fromkeys(kinds)]


def css(kind: str) -> str:
    """The class of a kind of `failures.KINDS`: no spaces."""
    return kind.replace(" ", "-")
