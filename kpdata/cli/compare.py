"""`kpdata compare`: two sets of predictions on one ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading, sides

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.comparison import Comparison
    from kpdata.eval.evaluation import Evaluation

Metric = Annotated[
    str | None,
    typer.Option("--metric", metavar="M", help="oks, crowdpose, wholebody: by OKS. GT's own unless given."),
]
First = Annotated[
    Path, typer.Argument(metavar="A", help="Predictions of the one model, any format with scores.", show_default=False)
]
Second = Annotated[Path, typer.Argument(metavar="B", help="Predictions of the other.", show_default=False)]
Like = Annotated[
    str | None,
    typer.Option("--as", metavar="TOOL", help="xtcocotools: score as mmpose's evaluator. The metric's official."),
]
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
    gt: sides.Gt = None,
    metric: Metric = None,
    skeleton: sides.Sigmas = None,
    area: sides.Area = None,
    like: Like = None,
    mode: sides.Mode = "strict",
    unknown_images: sides.UnknownImages = "refuse",
    max_dets: sides.MaxDets = 20,
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
    from kpdata.eval.comparison import compare as difference

    sides.expect_choices(mode, unknown_images)
    truth = sides.ground_truth(first, gt)
    sides.refuse_outputs({"--people": people}, (first, second, truth), force)
    a, b = _scored((first, second), truth, {
        "metric": metric, "skeleton": skeleton, "area": area, "like": like, "mode": mode,
        "unknown_images": unknown_images, "max_dets": max_dets,
    })  # fmt: skip
    with console.working(f"{resamples:,} resamples"), reading.naming(first, second):
        result = difference(a, b, n=resamples, seed=seed, by=by or None)
    if people:
        _save(result.people, people, force)
    paths = {"a": str(first), "b": str(second), "gt": str(truth)}
    notes = [*result.notes, *_notes(a, b)]
    if as_json:
        found = {**result.to_json(), "notes": notes}
        console.print_json({"metric": a.facts["metric"], **found, "files": paths})
        return
    _print(result, paths, a.facts["metric"])
    for note in notes:
        console.warn(note)


def _scored(predictions: tuple[Path, Path], truth: Path, given: dict[str, Any]) -> list[Evaluation]:
    """Both files against one ground truth."""
    from kpdata.eval.evaluation import evaluate_oks

    found = [sides.predicted(path) for path in predictions]
    gt = sides.annotated(truth, given["skeleton"])
    scored = []
    for path, people in zip(predictions, found, strict=True):
        with console.working(f"scoring {path}"), reading.naming(path, truth):
            scored.append(evaluate_oks(gt, people, **given))
    return scored


def _notes(a: Evaluation, b: Evaluation) -> list[str]:
    """The notes of both; of one alone with its name."""
    of = {"A": a.notes, "B": b.notes}
    notes = []
    for note in dict.fromkeys((*a.notes, *b.notes)):
        whose = [name for name, said in of.items() if note in said]
        notes.append(note if len(whose) == 2 else f"{whose[0]}: {note}")
    return notes


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
