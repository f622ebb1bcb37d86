"""Pictures of numbers, by matplotlib: what `kpdata info --plot` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.statistics import labelled_per_person, people_per_image, visibility_by_keypoint

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = {"visible": "#0072B2", "occluded": "#E69F00", "unknown": "#56B4E9", "absent": "#DDDDDD"}


def plot_statistics(dataset: Dataset, target: Path, *, force: bool = False) -> None:
    """Visibility of every keypoint, people per image, labelled keypoints per person and sizes, in one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(name, rows) for name, rows in visibility_by_keypoint(dataset).items() if rows]
    longest = max((len(rows) for _, rows in shown), default=1)
    columns = max(len(shown[:3]), 1)
    figure = Figure(figsize=(4.5 + 6.5 * columns, min(max(6.0, 0.27 * longest + 2), 30)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, len(shown[:3]) + 1, width_ratios=[1.5] * len(shown[:3]) + [1])
    for column, (name, rows) in enumerate(shown[:3]):
        _visibility(figure.add_subplot(grid[:, column]), name, rows)
    _histograms(dataset, [figure.add_subplot(grid[row, -1]) for row in range(3)])
    figure.suptitle(
        f"{dataset.images.num_rows:,} images, {len(dataset):,} people" + _unseen(len(shown)),
        fontsize=14,
        x=0.01,
        ha="left",
        weight="bold",
    )
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if found:
        figure.legend(list(found.values()), list(found), loc="outside upper right", ncols=4, frameon=False, fontsize=11)
    with files.replacing(target, force=force) as temporary:
        canvas.print_figure(temporary, format=target.suffix.lstrip(".") or "png", dpi=110)


def _unseen(skeletons: int) -> str:
    return f" (3 of {skeletons} skeletons shown)" if skeletons > 3 else ""


def _visibility(axes: Any, name: str, rows: dict[str, dict[str, float]]) -> None:
    places, left = np.arange(len(rows)), np.zeros(len(rows))
    for state, colour in COLOURS.items():
        width = np.array([row[state] for row in rows.values()], float)
        if width.any():
            axes.barh(places, width, left=left, color=colour, label=state, height=0.78)
        left += width
    axes.set_yticks(places, list(rows), fontsize=9 if len(rows) < 40 else 6)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(f"Keypoints of {name}", loc="left", fontsize=11)
    axes.set_xlabel("people")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _calm(axes, "x")


def _histograms(dataset: Dataset, axes: list[Any]) -> None:
    boxes = schema.matrix(dataset.persons["bbox"], 4)[:, 3]
    labelled = labelled_per_person(dataset)
    panels = [
        (people_per_image(dataset), "People in an image", True),
        (labelled[labelled > 0], "Labelled keypoints of a person", True),
        (boxes[np.isfinite(boxes) & (boxes > 0)], "Height of a person's box, px", False),
    ]
    for place, (data, title, whole) in zip(axes, panels, strict=True):
        place.set_title(title, loc="left", fontsize=11)
        _calm(place, "y")
        if not len(data):
            place.text(
                0.5, 0.5, "none in this dataset", ha="center", va="center", transform=place.transAxes, color="#666666"
            )
            place.set_xticks([])
            place.set_yticks([])
            continue
        for axis in (place.xaxis, place.yaxis):
            axis.get_major_locator().set_params(integer=True)
        top = float(np.quantile(data, 0.995))
        edges = np.arange(-0.5, max(int(top), 1) + 1.5, max(1, int(top) // 30)) if whole else np.linspace(0, top, 31)
        place.hist(np.minimum(data, edges[-1] - 1e-9), bins=edges, color="#0072B2", rwidth=0.9)


def _calm(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#EEEEEE")
    axes.set_axisbelow(True)
