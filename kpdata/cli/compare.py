"""`kpdata compare`: two sets of predictions on one ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import _outputs, console, evaluate, options, reading, sides

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.comparison import Comparison
    from kpdata.eval.evaluation import Evaluation
    from kpdata.eval.points import PointsEvaluation
    from kpdata.eval.points.comparison import PointsComparison

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
        help="Save everybody with OKS (or PCK …) in A and in B, those that B lost most first.",
        show_default=False,
    ),
]


Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="OUT.png",
        help="Draw the differences of numbers, slices and keypoints with intervals; also .pdf, .svg.",
        show_default=False,
    ),
]


def compare(
    first: First,
    second: Second,
    gt: sides.Gt = None,
    metric: sides.Metric = None,
    skeleton: sides.Sigmas = None,
    area: sides.Area = None,
    like: evaluate.Like = None,
    mode: sides.Mode = "strict",
    unknown_images: sides.UnknownImages = "refuse",
    max_dets: sides.MaxDets = 20,
    threshold: evaluate.Threshold = None,
    normalize: evaluate.Normalize = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    by: By = None,
    people: People = None,
    plot: Plot = None,
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
    sides.refuse_outputs({"--people": people, "--plot": plot}, (first, second, truth), force)
    _outputs.expect_parquet(people)
    evaluate.expect_picture(plot)
    a, b = _scored((first, second), truth, {
        "metric": metric, "skeleton": skeleton, "area": area, "mode": mode, "unknown_images": unknown_images,
        "max_dets": max_dets, "threshold": threshold, "normalize": evaluate.length(normalize),
        **evaluate.variant(like),
    })  # fmt: skip
    with console.working(f"{resamples:,} resamples"), reading.naming(first, second):
        result = difference(a, b, n=resamples, seed=seed, by=by or None)
    if people:
        _save(result.people, people, force)
    if plot:
        a_name, b_name = _told_apart(first, second)
        result.plot(plot, about=f"A: {a_name}\nB: {b_name}, against {truth.name}", force=force)
        console.status("Wrote", str(plot))
    paths = {"a": str(first), "b": str(second), "gt": str(truth)}
    notes = [*result.notes, *_notes(a, b)]
    name = a.facts.get("metric", getattr(a, "metric", ""))
    if as_json:
        console.print_json({"metric": name, **result.to_json(), "notes": notes, "files": paths})
        return
    _print(result, paths, name)
    for note in notes:
        console.warn(note)


def _told_apart(first: Path, second: Path) -> tuple[str, str]:
    """The ends of both paths, as long as it takes to tell them apart: files of two runs often have one name.

    >>> _told_apart(Path("runs/1/val/predictions.json"), Path("runs/2/val/predictions.json"))
    ('1/val/predictions.json', '2/val/predictions.json')
    """
    a, b = first.absolute().parts, second.absolute().parts
    pairs = zip(reversed(a), reversed(b), strict=False)
    start = -next((i for i, (one, two) in enumerate(pairs, 1) if one != two), 1)
    return "/".join(a[start:]), "/".join(b[start:])


def _scored(predictions: tuple[Path, Path], truth: Path, given: dict[str, Any]) -> list[Any]:
    """Both files against one ground truth: two Evaluations, or two PointsEvaluations."""
    from kpdata.eval import evaluate as score

    found = [sides.predicted(path) for path in predictions]
    gt = sides.annotated(truth, given["skeleton"])
    scored = []
    for path, people in zip(predictions, found, strict=True):
        with console.working(f"scoring {path}"), reading.naming(path, truth):
            scored.append(score(gt, people, **given))
    return scored


def _notes(a: Evaluation | PointsEvaluation, b: Evaluation | PointsEvaluation) -> list[str]:
    """The notes of both; of one alone with its name."""
    of = {"A": a.notes, "B": b.notes}
    notes = []
    for note in dict.fromkeys((*a.notes, *b.notes)):
        whose = [name for name, said in of.items() if note in said]
        notes.append(note if len(whose) == 2 else f"{whose[0]}: {note}")
    return notes


def _print(result: Comparison | PointsComparison, paths: dict[str, str], metric: str) -> None:
    from kpdata.eval.wording import many

    print(f"A: {paths['a']}\nB: {paths['b']}\nagainst {paths['gt']}, by {metric}")
    pixels = metric == "EPE"
    headers = ("", "A", "B", "B − A", f"{100 * result.level:g} % interval", "p")
    numbers = result.numbers.columns().values()
    told = zip(result.names, *numbers, strict=True)
    shares = [pixels and name == "missing" for name in result.names]  # the one share among EPE's numbers
    rows = [
        (f"{name}, %" if share else name, *_cells(*values, pixels=pixels and not share))
        for share, (name, *values) in zip(shares, told, strict=True)
    ]
    unit = "pixels" if pixels else "points"
    title = f"Differences in {unit}, {many(result.resamples, 'resample')} of {many(result.images, 'image')}"
    console.table(headers, rows, title=title, right=(1, 2, 3, 4, 5))
    changed = [row for row in result.keypoints.to_pylist() if row["delta"]]
    if changed:
        shown = sorted(changed, key=lambda row: -abs(row["delta"]))[:5]
        keys = ("a", "b", "delta", "low", "high", "p")
        rows = [(row["keypoint"], *_cells(*(row[key] for key in keys), pixels=pixels)) for row in shown]
        what = f"s that changed most ({result.names[0] if hasattr(result, 'metric') else 'mean OKS term'})"
        title = getattr(result, "what", "keypoint").capitalize() + what
        console.table(headers, rows, title=title, right=(1, 2, 3, 4, 5))
    print()
    print("\n".join(result.lines()))


def _cells(a: float, b: float, delta: float, low: float, high: float, p: float, *, pixels: bool) -> tuple[str, ...]:
    """A row of numbers as text, in points unless they are pixels; a dash where there is nothing to average."""
    factor, digits = (1, 2) if pixels else (100, 1)
    single = ("–" if value != value else f"{factor * value:.{digits}f}" for value in (a, b))
    if delta != delta:
        return (*single, "–", "–", "–")
    change, least, most = (f"{factor * value:+.{digits}f}".replace("-", "−") for value in (delta, low, high))
    return (*single, change, f"{least} … {most}", f"{p:.2g}")


def _save(table: pa.Table, path: Path, force: bool) -> None:
    from kpdata.eval.failures import write_parquet
    from kpdata.eval.wording import many

    write_parquet(table, path, force=force)
    console.status("Wrote", f"{path}: {many(table.num_rows, 'person', 'people')}")
