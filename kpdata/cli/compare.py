"""`kpdata compare`: two sets of predictions on one ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import console, options, reading
from kpdata.cli.sides import Gt, Metric, Sigmas, annotated, ground_truth, predicted

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.comparison import Comparison

First = Annotated[
    Path, typer.Argument(metavar="A", help="Predictions of the one model, any format with scores.", show_default=False)
]
Second = Annotated[Path, typer.Argument(metavar="B", help="Predictions of the other.", show_default=False)]
Resamples = Annotated[
    int, typer.Option("--bootstrap", metavar="N", min=1, help="Resamples of the images, the same for both.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same intervals.")]
By = Annotated[
    list[str] | None,
    typer.Option("--slice", metavar="BY", help="Compare by size, occlusion, …, or a column; may be repeated."),
]
People = Annotated[
    Path | None,
    typer.Option(
        "--people",
        metavar="OUT.parquet",
        help="Save everybody with OKS in A and in B, those that B lost most first.",
        show_default=False,
    ),
]


def compare(
    first: First,
    second: Second,
    gt: Gt = None,
    metric: Metric = None,
    skeleton: Sigmas = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    by: By = None,
    people: People = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Tell whether one model is better than another or merely luckier.

    A paired bootstrap over the images gives each number's difference, B minus A, its 95 % interval and p-value; then
    keypoints, slices and people. The ground truth is found as `kpdata eval` finds it, beside A.

    Example: kpdata compare old.json new.json --gt person_keypoints_val2017.json --people changed.parquet
    """
    from kpdata import files
    from kpdata.eval.comparison import compare as difference
    from kpdata.eval.evaluation import evaluate_oks

    if people:
        files.refuse_existing(people, force)
    sides = predicted(first), predicted(second)
    truth_path = ground_truth(first, gt)
    truth = annotated(truth_path, skeleton)
    scored = []
    for path, found in zip((first, second), sides, strict=True):
        with console.working(f"scoring {path}"), reading.naming(path, truth_path):
            scored.append(evaluate_oks(truth, found, metric=metric, skeleton=skeleton))
    with console.working(f"{resamples:,} resamples"), reading.naming(first, second):
        result = difference(scored[0], scored[1], n=resamples, seed=seed, by=by or None)
    if people:
        _save(result.people, people, force)
    paths = {"a": str(first), "b": str(second), "gt": str(truth_path)}
    if as_json:
        console.print_json({"metric": scored[0].facts["metric"], **result.to_json(), "files": paths})
    else:
        _print(result, paths, scored[0].facts["metric"])
    said = {name: set(one.notes) for name, one in zip("AB", scored, strict=True)}
    for note in result.notes:
        console.warn(note)
    for note in dict.fromkeys((*scored[0].notes, *scored[1].notes)):
        whose = [name for name, notes in said.items() if note in notes]
        console.warn(note if len(whose) == 2 else f"{whose[0]}: {note}")


def _print(result: Comparison, paths: dict[str, str], metric: str) -> None:
    print(f"A: {paths['a']}\nB: {paths['b']}\nagainst {paths['gt']}, by {metric}")
    headers = ("", "A", "B", "B − A", f"{100 * result.level:g} % interval", "p")
    numbers = result.numbers.columns().values()
    rows = [(name, *_cells(*values)) for name, *values in zip(result.names, *numbers, strict=True)]
    title = f"Differences in points, {result.resamples:,} resamples of {result.images:,} images"
    console.table(headers, rows, title=title, right=(1, 2, 3, 4, 5))
    changed = [row for row in result.keypoints.to_pylist() if row["delta"]]
    if changed:
        shown = sorted(changed, key=lambda row: -abs(row["delta"]))[:5]
        keys = ("a", "b", "delta", "low", "high", "p")
        rows = [(row["keypoint"], *_cells(*(row[key] for key in keys))) for row in shown]
        console.table(headers, rows, title="Keypoints that changed most (mean OKS term)", right=(1, 2, 3, 4, 5))
    print()
    print("\n".join(result.lines()))


def _cells(a: float, b: float, delta: float, low: float, high: float, p: float) -> tuple[str, ...]:
    """A row of numbers as text; a dash where there is nothing to average."""
    if delta != delta:
        return (*("–" if value != value else f"{100 * value:.1f}" for value in (a, b)), "–", "–", "–")
    return (f"{100 * a:.1f}", f"{100 * b:.1f}", _signed(delta), f"{_signed(low)} … {_signed(high)}", f"{p:.2g}")


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _save(table: pa.Table, path: Path, force: bool) -> None:
    import pyarrow.parquet as pq

    from kpdata import files

    with files.replacing(path, force=force) as temporary:
        pq.write_table(table, temporary)
    console.status("Wrote", f"{path}: {table.num_rows:,} people")
