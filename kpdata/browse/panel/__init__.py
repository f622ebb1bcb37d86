"""The App's panel of keypoint errors. FiftyOne's server loads this folder as a plugin, by its path.

It draws the figures that the import left in the dataset's info (`kpdata.browse.samples.figures`), or of a view those
of its people, and, where a bar is clicked, shows exactly the people that the bar counts.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
from typing import Any

import numpy as np

NAME = "kpdata_keypoints"
COLOURS = {
    "jitter": "#56b4e9",
    "inversion": "#cc79a7",
    "swap": "#f0e442",
    "miss": "#d55e00",
    "occluded": "#e69f00",
    "visible": "#009e73",
    "unknown": "#999999",
}
_ALL = ""  # in the histogram: every keypoint
_BAR = "kpdata-bar"  # id of the stages of a view that a click on a bar has added
_MARGIN = {"l": 44, "r": 8, "t": 8, "b": 96}
_FLAT = {"l": 44, "r": 8, "t": 8, "b": 40}


class Keypoints:
    """Per-keypoint kinds of error and sizes of error, a histogram of one keypoint, precision and recall."""

    @property
    def config(self) -> Any:
        help_text = "Click a bar: the grid shows the people that it counts."
        return _module("operators").PanelConfig(
            name=NAME, label="Keypoints", icon="bar_chart", surfaces="grid", help_markdown=help_text
        )

    # ------------------------------------------------------------------------------------------------------- events

    def on_load(self, ctx: Any) -> None:
        """The panel is opened."""
        _keep(ctx, keypoint=_ALL)
        _draw(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        """Another dataset is shown."""
        _keep(ctx, keypoint=_ALL)
        _draw(ctx)

    def on_change_view(self, ctx: Any) -> None:
        """Other people are shown; those of a bar that was clicked are still the panel's.

        A filter of the sidebar becomes a stage of the view: when a panel draws anew, the App stores its layout, loads
        the page again, and forgets the filters of the sidebar.
        """
        if _figures(ctx) and ctx.request_params.get("filters"):
            ctx.ops.set_view(_present(ctx))
        elif _figures(ctx) and _identity(_base(ctx)) != ctx.panel.state.base:
            _draw(ctx)

    def on_kind(self, ctx: Any) -> None:
        """A bar of the kinds: its people, the worst first."""
        figures, F = _figures(ctx), _module().ViewField
        keypoint = _clicked(figures, ctx.params)
        kind = ctx.params.get("trace")
        if keypoint is None or kind not in figures["kinds"]:
            return
        stages = [_module().Match(F(f"kind.{keypoint['field']}") == kind)]
        if figures["predicted"]:
            stages.append(_module().SortBy(f"err.{keypoint['field']}", reverse=True))
        _choose(ctx, keypoint["field"], *stages)

    def on_error(self, ctx: Any) -> None:
        """A bar of the errors: the people with that keypoint, the farthest off first."""
        keypoint, F = _clicked(_figures(ctx), ctx.params), _module().ViewField
        if keypoint is None:
            return
        error = f"err.{keypoint['field']}"
        _choose(ctx, keypoint["field"], _module().Match(F(error) >= 0), _module().SortBy(error, reverse=True))

    def on_bin(self, ctx: Any) -> None:
        """A bar of the histogram: the people in it."""
        figures, F = _figures(ctx), _module().ViewField
        edges, fields = figures["histogram"]["edges"], [entry["field"] for entry in figures["keypoints"]]
        low, high = _bin(edges, int(ctx.params["idx"]))
        one = ctx.panel.state.keypoint or _ALL
        wanted = None
        for field in fields if one == _ALL else [one]:
            share = F(f"err.{field}") / F("area").sqrt()
            here = (F(f"err.{field}") >= 0) & (share >= low) & (share < high)
            wanted = here if wanted is None else wanted | here
        if wanted is not None:
            _show(ctx, _module().Match(wanted))

    def on_keypoint(self, ctx: Any) -> None:
        """Another keypoint is chosen for the histogram."""
        _keep(ctx, keypoint=_chosen(_figures(ctx), ctx.params.get("value")))
        _draw(ctx)

    def on_model(self, ctx: Any) -> None:
        """Another model's people of the same data are chosen."""
        name = ctx.params.get("value")
        if name and name != ctx.dataset.name:
            ctx.ops.open_dataset(name)

    def on_everybody(self, ctx: Any) -> None:
        """All people again."""
        _keep(ctx, keypoint=_ALL)
        _draw(ctx, ctx.dataset.view())
        ctx.ops.clear_view()

    # ------------------------------------------------------------------------------------------------------- layout

    def render(self, ctx: Any) -> Any:
        """What the panel shows now."""
        types = _module("operators.types")
        panel = types.Object()
        figures = _figures(ctx)
        if not figures:
            panel.md("This dataset was not made by `kpdata browse`: it has no keypoint errors.", name="nothing")
            return types.Property(panel, view=types.GridView(orientation="vertical"))
        panel.md(_numbers(figures, ctx.panel.state.people), name="numbers")
        _menu(self, ctx, panel, figures)
        predicted = figures["predicted"]
        what = "People by kind of error at each keypoint" if predicted else "People by visibility of each keypoint"
        panel.md(f"**{what}** · click a part of a bar: exactly these people", name="kinds_title")
        panel.plot("kinds", layout=_layout(300, _MARGIN, barmode="stack"), on_click=self.on_kind)
        if predicted:
            panel.md("**Error / √area**: median and 90th percentile · click: farthest off first", name="errors_title")
            layout = _layout(270, _MARGIN, y="error / √area", barmode="group")
            panel.plot("errors", layout=layout, on_click=self.on_error)
            one = ctx.panel.state.keypoint or _ALL
            panel.md(f"**Histogram of {_label(figures, one)}** · click a bar: its people", name="histogram_title")
            what = "people" if one else "keypoints"  # of all keypoints a person stands in several bars
            panel.plot("histogram", layout=_layout(230, _FLAT, "error / √area", what), on_click=self.on_bin)
        if figures["curves"]:
            panel.md("**Precision and recall** at each OKS threshold, of the whole evaluation", name="curves_title")
            panel.plot("curves", layout=_layout(280, _FLAT, "recall", "precision", [0, 1.01]))
        return types.Property(panel, view=types.GridView(orientation="vertical"))


def register(plugin: Any) -> None:
    """FiftyOne's way in."""
    plugin.register(type(Keypoints.__name__, (Keypoints, _module("operators").Panel), {}))


def _module(name: str = "") -> Any:
    """`fiftyone`, or a module of it, when it is needed: this file can be read where FiftyOne is not installed."""
    return importlib.import_module(f"fiftyone.{name}" if name else "fiftyone")


# ---------------------------------------------------------------------------------------------------------------- data


def _figures(ctx: Any) -> dict[str, Any]:
    """The figures of the dataset that is shown; empty where it is not of kpdata."""
    mark = (ctx.dataset.info or {}).get("kpdata") if ctx.dataset is not None else None
    found: dict[str, Any] = json.loads(mark["figures"]) if mark and "figures" in mark else {}
    return found


def _keep(ctx: Any, **facts: Any) -> None:
    """Facts for the events to come."""
    for name, value in facts.items():
        setattr(ctx.panel.state, name, value)


def _base(ctx: Any) -> Any:
    """The view that the reviewer has chosen, without the bar that was clicked last."""
    view = ctx.dataset.view()
    for stage in _present(ctx)._stages:
        if not str(stage._uuid).startswith(_BAR):
            view = view.add_stage(stage)
    return view


def _present(ctx: Any) -> Any:
    """What the grid shows: FiftyOne itself leaves out the sidebar's filters where a saved view is open."""
    asked = ctx.request_params
    filters = asked.get("filters")
    if not asked.get("view_name") or not filters:
        return ctx.view
    return _module("server.view").get_view(ctx.dataset, stages=ctx.view._serialize(), filters=filters)


def _identity(view: Any) -> str:
    """A short name of a view: the same stages of the same dataset give the same."""
    stages = json.dumps(view._serialize(include_uuids=False), default=str)
    return hashlib.sha256(f"{view.dataset_name} {stages}".encode()).hexdigest()[:16]


def _of_view(view: Any, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures with kinds, quantiles and histogram of the people of a view."""
    if not len(view._stages) or not view.has_field("kind"):  # patches and groups: not people
        return figures
    judged = figures["predicted"] and view.has_field("area")
    names = ["kind", *(["err", "area"] if judged else [])]
    kinds, *sizes = view.values(names, _raw=True)
    edges = np.array(figures["histogram"]["edges"])
    entries, counts = [], {}
    for entry in figures["keypoints"]:
        field = entry["field"]
        said = [(person or {}).get(field) for person in kinds]
        counted = {kind: said.count(kind) for kind in figures["kinds"]}
        shares = _shares([(person or {}).get(field) for person in sizes[0]], sizes[1]) if judged else np.empty(0)
        median, p90 = (round(float(q), 4) for q in np.quantile(shares, (0.5, 0.9))) if len(shares) else (None, None)
        entries.append({**entry, "kinds": counted, "median": median, "p90": p90})
        bins = np.clip(np.searchsorted(edges, shares, side="right") - 1, 0, len(edges) - 2)
        counts[field] = np.bincount(bins, minlength=len(edges) - 1)
    lists = {"": sum(counts.values(), np.zeros(len(edges) - 1, int)), **counts}
    histogram = {"edges": figures["histogram"]["edges"], "counts": {name: n.tolist() for name, n in lists.items()}}
    return {**figures, "people": len(kinds), "keypoints": entries, "histogram": histogram}


def _shares(errors: list[float | None], areas: list[float | None]) -> Any:
    """Errors / √area of those who have both."""
    known = [(error, area) for error, area in zip(errors, areas, strict=True) if error is not None and area]
    pairs = np.array(known, np.float64).reshape(-1, 2)
    return pairs[:, 0] / np.sqrt(pairs[:, 1])


def _draw(ctx: Any, view: Any = None) -> None:
    """Draw the people of the view that the reviewer has chosen, or of another."""
    figures = _figures(ctx)
    if not figures:
        return
    base = _base(ctx) if view is None else view
    figures = _of_view(base, figures)
    panel = ctx.panel
    _keep(ctx, base=_identity(base), people=figures["people"])
    names = [_label(figures, entry["field"]) for entry in figures["keypoints"]]
    _draw_bars(panel, figures, names)
    edges = figures["histogram"]["edges"]
    one = panel.state.keypoint or _ALL
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    counts = figures["histogram"]["counts"].get(one, [])
    panel.data.histogram = [{"type": "bar", "x": middles, "y": counts, "name": _label(figures, one)}]
    panel.data.curves = [
        {"type": "scatter", "mode": "lines", "name": line["name"], "x": line["x"], "y": line["y"]}
        for line in figures["curves"]
    ]


def _draw_bars(panel: Any, figures: dict[str, Any], names: list[str]) -> None:
    """Kinds and sizes of the errors of each keypoint."""
    entries = figures["keypoints"]
    panel.data.kinds = [
        {
            "type": "bar",
            "name": kind,
            "x": names,
            "y": [entry["kinds"][kind] for entry in entries],
            "marker": {"color": COLOURS[kind]},
        }
        for kind in figures["kinds"]
    ]
    panel.data.errors = [
        {"type": "bar", "name": name, "x": names, "y": [entry[key] for entry in entries]}
        for name, key in (("median", "median"), ("90 %", "p90"))
    ]


def _choose(ctx: Any, field: str, *stages: Any) -> None:
    _keep(ctx, keypoint=field)
    _draw(ctx)
    _show(ctx, *stages)


def _show(ctx: Any, *stages: Any) -> None:
    """Of the people whom the bars count, those of the bar that was clicked."""
    view = _base(ctx)
    for number, stage in enumerate(stages):
        stage._uuid = f"{_BAR}-{number}"  # stays with the stage on its way through the App
        view = view.add_stage(stage)
    ctx.ops.set_view(view)


def _label(figures: dict[str, Any], field: str) -> str:
    """The field's name where plots write it: a keypoint's own name might be taken for markup."""
    return field if field != _ALL else "all keypoints"


def _clicked(figures: dict[str, Any], params: dict[str, Any]) -> dict[str, Any] | None:
    """The keypoint of the bar that was clicked."""
    every, number = figures.get("keypoints", []), int(params.get("idx", -1))
    return every[number] if 0 <= number < len(every) else None


def _bin(edges: list[float], number: int) -> tuple[float, float]:
    """From where to where a bin goes; the last has no end."""
    return edges[number], edges[number + 1] if number + 2 < len(edges) else float(2**1000)


def _chosen(figures: dict[str, Any], value: Any) -> str:
    return value if value in [entry["field"] for entry in figures.get("keypoints", ())] else _ALL


# -------------------------------------------------------------------------------------------------------------- layout


def _layout(height: int, margin: dict[str, int], x: str = "", y: str = "people", span: Any = None, **more: Any) -> Any:
    axis = {"title": {"text": y}, **({"range": span} if span else {})}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"}
    out = {"height": height, "margin": {**margin, "t": 48}, "bargap": 0.12, "legend": legend, "showlegend": True}
    return {**out, "xaxis": {"title": {"text": x}, "automargin": True}, "yaxis": axis, **more}


def _numbers(figures: dict[str, Any], counted: int | None) -> str:
    """counted: people in the bars."""
    stats = " · ".join(f"{name} {value:.3f}" for name, value in list(figures["stats"].items())[:5] if value >= 0)
    whole = figures["people"]
    people = f"{whole:,} people" if counted in (None, whole) else f"{counted:,} of {whole:,} people, of this view"
    return f"{people} · {stats}" if stats else people


def _menu(panel: Keypoints, ctx: Any, into: Any, figures: dict[str, Any]) -> None:
    menu, types = into.menu("menu", variant="square"), _module("operators.types")
    if figures["predicted"]:
        choices = types.DropdownView()
        for field in [_ALL, *(entry["field"] for entry in figures["keypoints"])]:
            choices.add_choice(field or "all", label=_label(figures, field))
        now = ctx.panel.state.keypoint or "all"
        menu.enum("keypoint", choices.values(), default=now, view=choices, on_change=panel.on_keypoint)
    others = _models(ctx)
    if len(others) > 1:
        models = types.DropdownView()
        for name in others:
            models.add_choice(name, label=name)
        menu.enum("model", models.values(), default=ctx.dataset.name, view=models, on_change=panel.on_model)
    menu.btn("everybody", label="Everybody", on_click=panel.on_everybody)


def _models(ctx: Any) -> list[str]:
    """Names of the datasets of the same ground truth: one a model."""
    key = ctx.dataset.info["kpdata"]["key"]
    fo = _module()
    marks = {name: fo.load_dataset(name).info.get("kpdata", {}) for name in fo.list_datasets()}
    return sorted(name for name, mark in marks.items() if mark.get("key") == key)
