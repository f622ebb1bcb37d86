"""Pictures of numbers as SVG text: pure functions, no file, no network, no plotting library (`plot_…` apart).

Colours are left to the page that shows them: shapes carry the classes of `report.html.j2` (`good`, `jitter`,
`inversion`, `swap`, `miss` of the error kinds; `s0` … `s7` of lines), which has a light and a dark set of them. Every
text that comes from data is escaped here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.errors import FormatError
from kpdata.geometry import box_from_keypoints
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Edges = Sequence[tuple[int, int]]

_WIDE, _TALL = 420, 290  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 46  # margins for the axes' texts
_POINTS = 240  # of a line: more are not seen
_PEOPLE = 2000  # that a typical pose is looked for among

# A person who faces us, 100 units tall; x to our right, where the person's left is. The head is drawn large, so that
# its dots stay apart. The sided ones are mirrored for the right.
_MIDDLE = {
    "nose": (0, 12), "head_top": (0, 0), "upper_neck": (0, 19), "mid_shoulders": (0, 24), "mid_hips": (0, 54),
    "jhmdb_neck": (0, 21), "jhmdb_belly": (0, 42), "jhmdb_head": (0, 7), "openpose_mpi_chest": (0, 38),
    "ochuman_head": (0, 0), "ochuman_neck": (0, 20),
}  # fmt: skip
_SIDED = {
    "eye": (4.5, 7), "ear": (9.5, 10), "shoulder": (13, 25), "elbow": (19, 39), "wrist": (23, 53),
    "hip": (8, 55), "knee": (10, 75), "ankle": (11, 94), "heel": (9, 98), "big_toe": (14, 100), "small_toe": (18, 98),
}  # fmt: skip
_FRONT = _MIDDLE | {f"left_{name}": place for name, place in _SIDED.items()}
_FRONT |= {f"right_{name}": (-x, y) for name, (x, y) in _SIDED.items()}
_FRONT |= {"humanart_left_finger": (24, 59), "humanart_right_finger": (-24, 59)}
_FRONT |= {"humanart_left_toe": (14, 100), "humanart_right_toe": (-14, 100)}


@dataclass(frozen=True, slots=True)
class Line:
    """A named line of a chart: x and y (n,), NaN where it is broken."""

    name: str
    x: Floats
    y: Floats


# --------------------------------------------------------------------------------------------------------------- bars


def stacked_bar(parts: Sequence[tuple[str, float, str]]) -> str:
    """A bar of (class, share of the whole 0…1, words for the pointer) one after the other; it fills its container."""
    pieces, at = [], 0.0
    for css, share, words in parts:
        width = max(float(np.nan_to_num(share)), 0.0)
        if width > 0:
            pieces.append(_rect(f"k-{css}", 100 * at, 100 * width, words))
        at += width
    label = escape("; ".join(words for _, share, words in parts if share > 0), quote=True)
    return _strip("".join(pieces), label)


def bar(
    share: float, words: str, *, css: str = "s0", low: float = np.nan, high: float = np.nan, pale: bool = False
) -> str:
    """A bar of one share 0…1, with a whisker from `low` to `high` where these are known; it fills its container. pale:
    nobody knows how sure the share is, where that of others is known."""
    value, ends = float(np.clip(np.nan_to_num(share), 0, 1)), np.clip([low, high], 0, 1)
    body = _rect(f"f-{css} pale" if pale else f"f-{css}", 0, 100 * value, words) if value > 0 else ""
    if np.isfinite(ends).all():
        x0, x1 = 100 * ends
        body += f'<path class="whisker" d="M{x0:.2f} 5H{x1:.2f}M{x0:.2f} 2.5V7.5M{x1:.2f} 2.5V7.5"/>'
    return _strip(body, escape(words, quote=True))


def _rect(css: str, x: float, width: float, words: str) -> str:
    title = f"<title>{escape(words)}</title>"
    return f'<rect class="{css}" x="{x:.2f}" width="{width:.2f}" height="10">{title}</rect>'


def _strip(body: str, label: str) -> str:
    view = 'viewBox="0 0 100 10" preserveAspectRatio="none"'
    return f'<svg class="bar" {view} role="img" aria-label="{label}">{body}</svg>'


# -------------------------------------------------------------------------------------------------------------- charts


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
    diagonal: bool = False,
    dots: bool = False,
) -> str:
    """Lines over two axes. diagonal: draw the ideal y = x too; dots: mark the points of each line."""
    body = _axes(x_label, y_label, x_range, y_range)
    if diagonal:
        ideal = np.array(x_range)
        body += f'<path class="ideal" d="{_path(ideal, ideal, x_range, y_range)}"/>'
    for number, line in enumerate(lines):
        path = _path(line.x, line.y, x_range, y_range)
        title = f"<title>{escape(line.name)}</title>"
        body += f'<path class="line s{number % 8}" d="{path}">{title}</path>'
        body += _markers(line, number, x_range, y_range) if dots else ""
    label = escape(f"{y_label} over {x_label}: {', '.join(line.name for line in lines)}", quote=True)
    return f'<svg class="chart" viewBox="0 0 {_WIDE} {_TALL}" role="img" aria-label="{label}">{body}</svg>'


def _axes(x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    floor = _TALL - _BOTTOM
    body = []
    for tick in ticks(*y_range):
        y = _y(tick, y_range)
        body.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"/>')
        body.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(*x_range):
        x = _x(tick, x_range)
        body.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    body.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{_WIDE - _RIGHT}"/>')
    body.append(f'<text class="label" x="{middle}" y="{_TALL - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(13 {(_TOP + floor) / 2}) rotate(-90)"'
    body.append(f'<text class="label" {turned} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(body)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from low to high, both ends of a range like 0…1 among them.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not (np.isfinite(span) and span > 0):
        return [low] if np.isfinite(low) else []
    raw = span / 5
    size = 10.0 ** np.floor(np.log10(raw))
    step = next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= raw * 0.999)
    first = np.ceil(low / step - 1e-9)
    return [round(float(i * step), 12) + 0.0 for i in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _x(x: Floats | float, x_range: tuple[float, float]) -> Floats:
    span = max(x_range[1] - x_range[0], 1e-12)
    return np.asarray(_LEFT + (np.asarray(x) - x_range[0]) / span * (_WIDE - _LEFT - _RIGHT))


def _y(y: Floats | float, y_range: tuple[float, float]) -> Floats:
    floor, span = _TALL - _BOTTOM, max(y_range[1] - y_range[0], 1e-12)
    return np.asarray(floor - (np.asarray(y) - y_range[0]) / span * (floor - _TOP))


def _path(x: Floats, y: Floats, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    """`M … L …` of a line, broken where a coordinate is not finite; of very long lines, some of the points."""
    if len(x) > _POINTS:
        chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
        x, y = np.asarray(x)[chosen], np.asarray(y)[chosen]
    known = np.isfinite(x) & np.isfinite(y)
    start = known & ~np.concatenate([[False], known[:-1]])
    steps = zip(known.tolist(), start.tolist(), _x(x, x_range).tolist(), _y(y, y_range).tolist(), strict=True)
    return "".join(f"{'M' if first else 'L'}{px:.1f} {py:.1f}" for good, first, px, py in steps if good)


def _markers(line: Line, number: int, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    known = np.isfinite(line.x) & np.isfinite(line.y)
    places = zip(line.x[known].tolist(), line.y[known].tolist(), strict=True)
    return "".join(
        f'<circle class="f-s{number % 8}" cx="{_x(x, x_range):.1f}" cy="{_y(y, y_range):.1f}" r="3.5">'
        f"<title>{escape(line.name)}: {x:.3g}, {y:.3g}</title></circle>"
        for x, y in places
    )


# --------------------------------------------------------------------------------------------------------------- poses


def layout(skeleton: Skeleton, xy: Floats | None = None, labelled: Bools | None = None) -> Floats:
    """(K, 2) where to draw the keypoints of a skeleton: y downwards, 100 units tall.

    A person who faces us where every landmark is a known one. Otherwise somebody typical of xy (N, K, 2) and labelled
    (N, K): of those with most labelled keypoints the one nearest to the median pose, what it lacks taken from that.
    Without any of these the keypoints stand on a circle.
    """
    marks = [mark.split("/")[0] for mark in skeleton.landmarks]
    if all(mark in _FRONT for mark in marks):
        return np.array([_FRONT[mark] for mark in marks], np.float64)
    if xy is not None and labelled is not None and labelled.any():
        return _typical(xy, labelled)
    angle = 2 * np.pi * np.arange(len(skeleton)) / len(skeleton)
    return np.stack([50 * np.sin(angle), 50 - 50 * np.cos(angle)], axis=1)


def _typical(xy: Floats, labelled: Bools) -> Floats:
    """(K, 2) of somebody real, 100 units tall."""
    many = np.argsort(-labelled.sum(1), kind="stable")[:_PEOPLE]
    many = many[labelled[many].any(1)]
    box = box_from_keypoints(xy[many], labelled[many].astype(np.int8))
    scale = np.maximum(box[:, 2:].max(1), 1e-9)
    poses = np.where(labelled[many][..., None], xy[many] - box[:, None, :2], np.nan) / scale[:, None, None]
    known = labelled[many].any(0)
    median = np.full(poses.shape[1:], 0.5)
    median[known] = np.nanmedian(poses[:, known], axis=0)
    complete = labelled[many].sum(1) == labelled[many[0]].sum()
    apart = np.nanmean(np.hypot(*np.moveaxis(poses[complete] - median, -1, 0)), axis=1)
    best = poses[complete][apart.argmin()]
    pose = np.where(np.isnan(best), median, best)
    low = pose.min(0)
    return np.asarray((pose - low) * 100 / max(float((pose - low).max()), 1e-9))


def skeleton_figure(places: Floats, edges: Edges, values: Floats, words: Sequence[str], *, name: int = 3) -> str:
    """A stick figure whose dots grow and redden with `values` (K,) in 0…1 (NaN: a small grey dot).

    places (K, 2) as `layout` gives them; words (K,): what the pointer shows at each; the `name` highest are written
    beside their dots, up to the first ` – ` of their words.
    """
    low, high = places.min(0), places.max(0)
    size = max(float((high - low).max()), 1e-9)
    unit = size / 100
    dot = 2.6 if len(places) <= 30 else 1.0
    bones = "".join(f"M{places[a, 0]:.2f} {places[a, 1]:.2f}L{places[b, 0]:.2f} {places[b, 1]:.2f}" for a, b in edges)
    body = [f'<path class="bone" stroke-width="{unit * dot / 2:.3f}" d="{bones}"/>']
    order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable").tolist()
    for k in order:
        known = bool(np.isfinite(values[k]))
        radius = unit * dot * (0.75 + 0.75 * float(np.clip(values[k], 0, 1)) if known else 0.6)
        paint = f'fill="{heat(float(values[k]))}"' if known else 'class="unknown"'
        place = f'cx="{places[k, 0]:.2f}" cy="{places[k, 1]:.2f}" r="{radius:.3f}"'
        body.append(f"<circle {place} {paint}><title>{escape(words[k])}</title></circle>")
    body += _names(places, [k for k in order[::-1] if np.isfinite(values[k])][:name], words, unit)
    margin = np.array([30, 5]) * unit
    box = (*(low - margin), *(high - low + 2 * margin))
    view = " ".join(f"{number:.2f}" for number in box)
    return f'<svg class="figure" viewBox="{view}" role="img" aria-label="keypoints by error">{"".join(body)}</svg>'


def _names(places: Floats, chosen: Sequence[int], words: Sequence[str], unit: float) -> list[str]:
    """Texts beside dots, outwards from the middle, moved down where they would cover each other."""
    middle = (places[:, 0].min() + places[:, 0].max()) / 2
    texts, taken = [], {True: -np.inf, False: -np.inf}
    for k in sorted(chosen, key=lambda k: float(places[k, 1])):
        right = bool(places[k, 0] >= middle)
        y = max(float(places[k, 1]), taken[right] + 5.5 * unit)
        taken[right] = y
        x = float(places[k, 0]) + (5 if right else -5) * unit
        anchor = "start" if right else "end"
        texts.append(
            f'<text x="{x:.2f}" y="{y + 1.6 * unit:.2f}" font-size="{4.6 * unit:.2f}" text-anchor="{anchor}">'
            f"{escape(words[k].split(' – ')[0])}</text>"
        )
    return texts


def heat(share: float) -> str:
    """A colour from green (0) over yellow to red (1), of Okabe and Ito's palette, for light and dark pages.

    >>> heat(0.0), heat(1.0)
    ('#009e73', '#d55e00')
    """
    stops = np.array([(0, 158, 115), (230, 200, 60), (213, 94, 0)], np.float64)
    at = 2 * float(np.clip(share, 0, 1))
    first = min(int(at), 1)
    red, green, blue = np.rint(stops[first] + (at - first) * (stops[first + 1] - stops[first])).astype(int).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def spots(xy: Floats) -> list[str]:
    """(K,) the places xy (K, 2) as `x y` with one decimal, "" where they are not finite: for the three below."""
    shown = np.asarray(np.isfinite(xy).all(axis=1), np.bool_).tolist()
    return [f"{x:.1f} {y:.1f}" if known else "" for known, (x, y) in zip(shown, xy.tolist(), strict=True)]


def limbs(places: Sequence[str], edges: Edges) -> str:
    """Path data of the edges whose ends are both known."""
    return "".join(f"M{places[a]}L{places[b]}" for a, b in edges if places[a] and places[b])


def dots(places: Sequence[str], chosen: Iterable[int]) -> str:
    """Path data of lines without length, which round caps make dots of: the shortest way to write many."""
    return "".join(f"M{places[k]}h0" for k in chosen if places[k])


def links(places: Sequence[str], others: Sequence[str], chosen: Iterable[int]) -> str:
    """Path data of the lines from chosen places to their others, where both are known."""
    return "".join(f"M{places[k]}L{others[k]}" for k in chosen if places[k] and others[k])


# ---------------------------------------------------------------------------------------------------- a picture file


def plot_keypoints(table: pa.Table, target: Path, *, force: bool = False) -> None:
    """Write a picture of `keypoints.per_keypoint`, by matplotlib: OKS by visibility, and how far off in sigma units.

    The format is told by the ending (.png, .pdf, .svg, …). The worst keypoint stands at the top; with a column
    `skeleton` names begin with it. Raises FormatError for an ending that matplotlib does not write, DestinationExists
    without `force`, WriteError where the disk refuses.
    """
    figure = new_figure(target, 11, tall(keypoint_count(table)))
    draw_keypoints(figure, table)
    save(figure, target, force)


def keypoint_count(table: pa.Table) -> int:
    """Rows that `draw_keypoints` shows."""
    return schema.texts(table["visibility"]).count("all")


def draw_keypoints(figure: Any, table: pa.Table) -> None:
    """The two panels of `plot_keypoints` in a figure, or a part of one."""
    columns = {name: schema.chunk(table[name]).to_pylist() for name in table.schema.names}
    names = list(zip(columns.get("skeleton", [""] * table.num_rows), columns["keypoint"], strict=True))
    by: dict[str, dict[tuple[str, str], int]] = {}
    for row, visibility in enumerate(columns["visibility"]):
        by.setdefault(visibility, {})[names[row]] = row
    oks = np.array([columns["oks"][row] for row in by["all"].values()], np.float64)
    order = np.argsort(-np.nan_to_num(oks, nan=2.0), kind="stable").tolist()  # the last is drawn at the top
    shown = [list(by["all"])[k] for k in order]

    def of(name: str, visibility: str) -> Floats:
        rows = [by[visibility].get(key) for key in shown]
        return np.array([np.nan if row is None else columns[name][row] for row in rows], np.float64)

    left, right = panels = _panels(figure, 2)
    for visibility in by:
        marks = _MARKS.get(visibility, _MARKS["unknown"])
        left.plot(of("oks", visibility), np.arange(len(shown)), label=visibility, **marks)
    _far(right, [of(name, "all") for name in _FAR], "sigma units")
    left.set(xlim=(0, 1.02), title="OKS of found keypoints")
    finish(panels, [f"{bones} {name}".strip() for bones, name in shown])


def plot_points(
    table: pa.Table, target: Path, *, metric: str, far: pa.Table | None = None, force: bool = False
) -> None:
    """Write a picture of `PointsEvaluation.per_keypoint`: a panel for each number, the worst keypoint (by the first
    number) at the top, in percent. metric: its title; EPE is in pixels, and of EPE and NME less is better. far:
    `PointsEvaluation.distances` of the same keypoints, for a panel of pixels. Endings and errors as in
    `plot_keypoints`."""
    what, numbers = table.schema.names[0], table.schema.names[4:]  # after labelled, missing, in_mean
    rows = [row for row in table.to_pylist() if row[numbers[0]] is not None]
    errors, factor, unit = metric in ("EPE", "NME"), *((1, "px") if metric == "EPE" else (100, "%"))
    rows.sort(key=lambda row: float(row[numbers[0]]), reverse=not errors)
    count = len(numbers) + (far is not None)
    figure = new_figure(target, 3 + 4 * count, tall(len(rows)))
    panels = _panels(figure, count)
    for axes, number in zip(panels, numbers, strict=False):
        values = np.array([np.nan if row[number] is None else factor * row[number] for row in rows], np.float64)
        axes.barh(np.arange(len(rows)), values, color="#0072B2", height=0.7)
        axes.set(title=f"{number}, {unit}", xlim=(0, None) if errors else (0, 100))
    if far is not None:
        whole = {row["keypoint"]: row for row in far.to_pylist() if row["visibility"] == "all"}
        keys = ("error_px_median", "error_px_p90")
        pixels = [np.array([whole[row[what]][key] for row in rows], np.float64) for key in keys]
        _far(panels[-1], pixels, "px")
    finish(panels, [str(row[what]) for row in rows])
    save(figure, target, force)


def new_figure(target: Path, wide: float, high: float) -> Any:
    """An empty figure of so many inches. FormatError where the target's ending is no picture's."""
    from matplotlib.figure import Figure

    expect_picture(target)
    return Figure(figsize=(wide, high), layout="constrained")


def expect_picture(target: Path) -> None:
    """FormatError for an ending that matplotlib does not write."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if target.suffix.lower().removeprefix(".") not in FigureCanvasAgg(Figure()).get_supported_filetypes():
        raise FormatError(target, f"pictures are not written as {target.suffix!r}", hint="name it .png")


def tall(rows: int) -> float:
    """Inches for so many rows, closer together where they are many."""
    return max(3.5, 1.5 + (0.3 if rows <= MANY_ROWS else 0.17) * rows)


def _panels(figure: Any, columns: int) -> Sequence[Any]:
    """So many panels beside each other."""
    panels: Sequence[Any] = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    return panels


def finish(panels: Sequence[Any], names: Sequence[str]) -> None:
    """Names of the rows from below, grid and legends of panels that share them."""
    panels[0].set_yticks(np.arange(len(names)))
    panels[0].set_yticklabels([short(name.replace("_", " ")) for name in names])
    panels[0].tick_params(axis="y", labelsize=10 if len(names) <= MANY_ROWS else 8)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    for axes in panels:
        calm(axes, "x")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.2, ncols=4)


def calm(axes: Any, grid: str) -> None:
    """Few lines: no frame above and at the right, a pale grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#EEEEEE")
    axes.set_axisbelow(True)


def short(name: str, most: int = 30) -> str:
    """A text for a picture: beginning and end of one that is too long, and no formulas.

    >>> short("left hand little finger first joint of the hand")
    'left hand little…nt of the hand'
    """
    if len(name) > most:
        name = f"{name[: most - most // 2 + 1]}…{name[-(most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def save(figure: Any, target: Path, force: bool) -> None:
    """Write the file. DestinationExists without `force`, WriteError where the disk refuses."""
    with files.replacing(target, force=force) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is a box in the picture, and no news
        figure.savefig(temporary, format=target.suffix.lower().removeprefix("."), dpi=150)


MANY_ROWS = 40
_MARKS: dict[str, dict[str, Any]] = {
    "all": {"color": "#333333", "marker": "o", "linestyle": "none", "markersize": 7},
    "visible": {"color": "#0072B2", "marker": "|", "linestyle": "none", "markersize": 11, "markeredgewidth": 2.5},
    "occluded": {"color": "#E69F00", "marker": "|", "linestyle": "none", "markersize": 11, "markeredgewidth": 2.5},
    "unknown": {"color": "#56B4E9", "marker": "|", "linestyle": "none", "markersize": 11, "markeredgewidth": 2.5},
}
_FAR = ("error_sigma_median", "error_sigma_p90")


def _far(axes: Any, values: Sequence[Floats], unit: str) -> None:
    """Median and 90th percentile of the error of each keypoint; what is infinite ends at the edge."""
    median, high = values
    finite = np.concatenate([median[np.isfinite(median)], high[np.isfinite(high)]])
    edge = 1.05 * float(finite.max(initial=1.0))
    places = np.arange(len(median))
    axes.hlines(places, np.minimum(median, edge), np.minimum(high, edge), color="#BBBBBB", linewidth=3)
    axes.plot(np.minimum(median, edge), places, "o", color="#333333", markersize=7, label="median")
    axes.plot(np.minimum(high, edge), places, "|", color="#D55E00", markersize=11, markeredgewidth=2.5, label="90 %")
    axes.set(xlim=(0, edge), title=f"Distance from the label, {unit}")
