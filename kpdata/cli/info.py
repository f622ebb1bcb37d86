"""`kpdata info`: what is in a dataset, as numbers and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading
from kpdata.errors import WriteError

if TYPE_CHECKING:
    from kpdata.dataset import Dataset

_PICTURES = (".png", ".svg", ".pdf", ".jpg")
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="OUT.png", help="Draw it: visibility, people per image, sizes.", show_default=False),
]


def info(
    source: options.Source,
    from_: options.From = None,
    skeleton: options.OwnSkeleton = None,
    images: options.Images = None,
    plot: Plot = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Show what a dataset holds: counts, visibility per keypoint, sizes, people per image, provenance.

    Example: kpdata info people.kp --plot people.png
    """
    from kpdata import converters, files
    from kpdata.statistics import statistics

    if plot:
        files.refuse_existing(plot, force)
        if plot.suffix.lower() not in _PICTURES:
            raise WriteError(
                f"{plot}: no picture format that is known", hint=f"its name ends in {', '.join(_PICTURES)}"
            )
    seen = None
    if from_ is None:
        with reading.naming(source):
            from_, seen = converters.detect(source)
    reading.expect_images([source], [from_], images)
    dataset = reading.read(source, from_, skeleton=skeleton, images=images)
    reading.expect_skeleton(dataset, source, skeleton)
    with reading.naming(source):
        facts = statistics(dataset)
        if plot:
            _draw(dataset, plot, force)
    if as_json:
        console.print_json({"source": str(source), "format": from_, **facts})
        return
    print(f"{source}: {from_}" + (f" ({seen})" if seen else ""))
    _print(dataset, facts)


def _draw(dataset: Dataset, plot: Path, force: bool) -> None:
    from kpdata.plots import plot_statistics

    plot_statistics(dataset, plot, force=force)
    console.status("Wrote", str(plot))


def _print(dataset: Dataset, facts: dict[str, Any]) -> None:
    counts = [(what, f"{number:,}") for what, number in facts["counts"].items()]
    console.table(("what", "count"), counts, title="Counts", right=(1,))
    states = ("absent", "occluded", "visible", "unknown")
    for name, rows in facts["visibility"].items():
        cells = [(key, *(f"{row[state]:,}" for state in states), f"{row['labelled']:.0%}") for key, row in rows.items()]
        title = f"Visibility: {name}, {facts['people_by_skeleton'][name]:,} people"
        console.table(("keypoint", *states, "labelled"), cells, title=title, right=(1, 2, 3, 4, 5))
    quantiles = ("min", "p10", "median", "p90", "max")
    sizes = [(what, *(f"{row[q]:,.0f}" for q in quantiles)) for what, row in facts["sizes"].items() if row["count"]]
    if sizes:
        console.table(("what", "min", "10 %", "median", "90 %", "max"), sizes, title="Sizes", right=(1, 2, 3, 4, 5))
    print()
    for name, provenance in dataset.datasets.items():
        told = {k: v for k, v in provenance.items() if isinstance(v, str | int | float | bool)}
        print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in told.items()))
    if facts["findings"]:
        console.warn(f"{facts['findings']:,} findings while reading: `kpdata validate` lists them with the rest")
