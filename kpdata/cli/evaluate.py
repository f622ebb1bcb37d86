"""`kpdata eval`: predictions against ground truth, and why the numbers are what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading, sides
from kpdata.errors import EvaluationError

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.evaluation import Evaluation
    from kpdata.eval.points import PointsEvaluation

Predictions = Annotated[
    Path,
    typer.Argument(metavar="PREDS", help="Predictions: COCO results, or any format with scores.", show_default=False),
]
Like = Annotated[
    str | None,
    typer.Option("--as", metavar="TOOL", help="xtcocotools; for PCKh: hrnet, official, mmpose. The metric's official."),
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", metavar="T", help="Of PCKh, PCK, PCP, AUC. The metric's usual one.")
]
Normalize = Annotated[
    str | None,
    typer.Option("--normalize", metavar="BY", help="Length of PCK …: head, torso, bbox, a:b (keypoints), pixels as 1."),
]
Why = Annotated[
    bool | None,
    typer.Option("--why/--no-why", help="Keypoints, errors and what would help. On in tables, off in --json."),
]
Resamples = Annotated[
    int,
    typer.Option("--bootstrap", metavar="N", min=0, help="Resamples of the images for 95 % intervals; 1000 is usual."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", min=0, help="Of --bootstrap: the same seed, the same intervals. 0 unless given."
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--slice", metavar="BY", help="AP by size, keypoints, occlusion, crowding, …, or a column; repeatable."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="OUT.html", help="Write a page with numbers, curves, errors and the worst people."
    ),
]
MatchesOut = Annotated[
    Path | None,
    typer.Option("--matches", metavar="OUT.parquet", help="Save a row a detection and a row a person, with errors."),
]
FailuresOut = Annotated[
    Path | None, typer.Option("--failures", metavar="OUT.parquet", help="Save a row a person, worst first.")
]
SuspectsOut = Annotated[
    Path | None,
    typer.Option("--suspects", metavar="OUT.parquet", help="Save labels that confident predictions contradict."),
]
Arrays = Annotated[
    Path | None,
    typer.Option(
        "--arrays", metavar="OUT.npz", help="Save the precision, recall and scores arrays.", show_default=False
    ),
]


def evaluate(
    predictions: Predictions,
    gt: sides.Gt = None,
    metric: sides.Metric = None,
    skeleton: sides.Sigmas = None,
    area: sides.Area = None,
    like: Like = None,
    mode: sides.Mode = "strict",
    unknown_images: sides.UnknownImages = "refuse",
    max_dets: sides.MaxDets = 20,
    threshold: Threshold = None,
    normalize: Normalize = None,
    why: Why = None,
    resamples: Resamples = 0,
    seed: Seed = None,
    by: By = None,
    report: Report = None,
    images: options.Images = None,
    matches: MatchesOut = None,
    failures: FailuresOut = None,
    suspects: SuspectsOut = None,
    arrays: Arrays = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Score predictions, and say which keypoints fail, how, and what mending that would be worth.

    COCO's ten numbers equal pycocotools to the last bit; CrowdPose, WholeBody, AI Challenger, MPII and LSP are scored
    by their own rules. The ground truth comes from --gt, else from `gt` in the nearest kpdata.toml, else from the note
    that was left beside the predictions (PREDS.note.json).

    Example: kpdata eval predictions.json --gt person_keypoints_val2017.json --report why.html
    """
    outputs = {"--report": report, "--matches": matches, "--failures": failures, "--suspects": suspects}
    outputs |= {"--arrays": arrays}
    sides.expect_choices(mode, unknown_images)
    _expect_company(images, report, seed, resamples)
    truth = sides.ground_truth(predictions, gt)
    sides.refuse_outputs(outputs, (predictions, truth), force)
    result = _scored(predictions, truth, {
        "metric": metric, "skeleton": skeleton, "area": area, "mode": mode, "unknown_images": unknown_images,
        "max_dets": max_dets, "threshold": threshold, "normalize": _length(normalize), **_variant(like),
    })  # fmt: skip
    paths = {"predictions": str(predictions), "gt": str(truth)}
    if not hasattr(result, "sides"):
        _refuse_analyses(result, {**outputs, "--bootstrap": resamples, "--slice": by})
        _print_points(result, paths, as_json, why is not False)
        return
    with console.working(f"analysing {predictions}"), reading.naming(predictions, truth):
        intervals = result.bootstrap(resamples, seed=seed or 0) if resamples else None
        slices = result.slices(by, n=resamples, seed=seed or 0) if by else None
        explained = _explained(result) if (not as_json if why is None else why) and result.sides.parts else {}
        tables = _tables(result, matches, failures, suspects)
    _save(tables, force)
    if arrays:
        _save_arrays(result, arrays, force)
    if report:
        drawn: dict[str, Any] = {"by": by, "intervals": intervals, "n": resamples, "seed": seed or 0, "images": images}
        _write_report(result, report, f"{predictions.name} against {truth.name}", drawn, force)
    if as_json:
        more = {"bootstrap": intervals.to_json()} if intervals else {}
        more |= {"slices": slices.to_dict("records")} if slices is not None else {}
        console.print_json({**result.to_json(), **more, **_plain(explained), "files": paths})
        return
    print(f"{predictions} against {truth}")
    _print(result, intervals, explained, slices)


def _expect_company(images: Path | None, report: Path | None, seed: int | None, resamples: int) -> None:
    """Wrong usage where an option would do nothing without another one, or names no folder."""
    if images and not report:
        raise typer.BadParameter("--images: only a --report shows pictures")
    if images and not images.is_dir():
        raise typer.BadParameter(f"--images {images}: there is no such folder")
    if seed is not None and not resamples:
        raise typer.BadParameter("--seed: only a --bootstrap N draws anything")


def _scored(predictions: Path, truth: Path, given: dict[str, Any]) -> Any:
    """The Evaluation or PointsEvaluation of two files."""
    from kpdata.eval import evaluate as score

    found = sides.predicted(predictions)
    people = sides.annotated(truth, given["skeleton"])
    with console.working(f"scoring {predictions}"), reading.naming(predictions, truth):
        return score(people, found, **given)


def _variant(like: str | None) -> dict[str, str | None]:
    """`--as` is one option for two: evaluators that score OKS in their own way, and those of single people."""
    return {"variant": like} if like in ("hrnet", "official", "mmpose") else {"like": like}


def _length(text: str | None) -> str | float | None:
    """A name, or pixels."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _refuse_analyses(result: PointsEvaluation, asked: dict[str, Any]) -> None:
    if wanted := [name for name, value in asked.items() if value]:
        raise EvaluationError(
            f"{result.metric} has no {' or '.join(wanted)}", hint="they analyse matches by OKS: --metric oks"
        )


# ------------------------------------------------------------------------------------------------------------- tables


def _explained(result: Evaluation) -> dict[str, Any]:
    """What `--why` tells."""
    return {
        "helps": result.helps(),
        "per_keypoint": result.per_keypoint(),
        "errors": result.errors(),
        "people": result.people(),
        "opportunity": result.opportunity(),
    }


def _plain(explained: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, list) else [_cells(row) for row in value.to_dict("records")]
        for key, value in explained.items()
    }


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a frame as plain Python: lists for arrays."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}


def _print(result: Evaluation, intervals: Intervals | None, explained: dict[str, Any], slices: Any) -> None:
    for name, facts in result.facts["skeletons"].items():
        sigmas = facts["sigma_source"] or "your own"
        print(f"{result.facts['metric']} on {name} ({facts['keypoints']} keypoints), sigmas: {sigmas}")
    print(", ".join(f"{number:,} {what}" for what, number in result.facts["counts"].items()))
    print(f"area: {result.facts['area']}; boxes: {', '.join(result.facts['box_sources']) or 'none'}")
    print(f"size of a prediction: {result.facts['detection_area']}")
    print(f"matching: {result.facts['matching']}")
    print("\n".join(result.lines()))
    if intervals:
        _print_intervals(intervals)
    if explained:
        _print_keypoints(explained)
    if slices is not None:
        _print_slices(slices)
    if explained and explained["helps"]:
        print("\nWhat would help most")
        for number, words in enumerate(explained["helps"], start=1):
            print(f"{number}. {words}")
    for note in result.notes:
        console.warn(note)


def _print_intervals(intervals: Intervals) -> None:
    columns = zip(intervals.names, intervals.estimate, intervals.low, intervals.high, strict=True)
    rows = [(name, f"{value:.3f}", f"{low:.3f} … {high:.3f}") for name, value, low, high in columns if value >= 0]
    title = f"{100 * intervals.level:g} % intervals, {len(intervals.samples):,} resamples of the images"
    console.table(("", "value", "interval"), rows, title=title, right=(1, 2))


_KINDS = ("good", "jitter", "inversion", "swap", "miss")
_MOST = 20  # keypoints that a table shows


def _print_keypoints(explained: dict[str, Any]) -> None:
    """The keypoints, the worst first, with how they fail."""
    table, kinds = explained["per_keypoint"], explained["errors"]
    both = ["keypoint"] + (["skeleton"] if "skeleton" in table else [])
    table = table[(table["visibility"] == "all") & (table["keypoint"] != "all")].merge(kinds, on=both)
    worst = table.sort_values("oks_with_missed", kind="stable").head(_MOST).to_dict("records")
    # Short words: nine columns have to fit a terminal of 80.
    headers = ("keypoint", "people", "OKS", "px", "good", "jitter", "invert", "swap", "miss")
    rows = [
        (row["keypoint"], f"{row['labelled_x']:,}" if "labelled_x" in row else f"{row['labelled']:,}",
         _number(row["oks_with_missed"], "{:.3f}"), _number(row["error_px_median"], "{:.1f}"),
         *(_number(row[f"{kind}_share"], "{:.0%}") for kind in _KINDS))
        for row in worst
    ]  # fmt: skip
    title = "Keypoints, the worst first (OKS: 0 where the person was missed; of those found: median px, kinds)"
    console.table(headers, rows, title=title, right=tuple(range(1, len(headers))))


def _print_slices(slices: Any) -> None:
    keys = ("AP", "AP50", "AR", "mean_oks", "missed")
    drawn = slices["AP_low"].notna().any()
    rows = [
        (row["by"], row["slice"], f"{row['people']:,}", *(_number(row[key], "{:.3f}") for key in keys),
         *([f"{row['AP_low']:.3f} … {row['AP_high']:.3f}" if row["AP_low"] == row["AP_low"] else "–"] if drawn else []))
        for row in slices.to_dict("records")
    ]  # fmt: skip
    headers = ("by", "slice", "people", "AP", "AP50", "AR", "OKS", "missed", *(["95 % of AP"] if drawn else []))
    title = "Slices, the worst first: the same matches, counted for these people (OKS of those found)"
    console.table(headers, rows, title=title, right=tuple(range(2, len(headers))))


def _number(value: Any, form: str) -> str:
    """A dash for what nothing was measured of."""
    return "–" if value is None or value != value else form.format(value)


def _print_points(result: PointsEvaluation, paths: dict[str, str], as_json: bool, why: bool) -> None:
    if as_json:
        found = result.to_json()
        found = found if why else {key: value for key, value in found.items() if key != "per_keypoint"}
        console.print_json({**found, "files": paths})
        return
    facts = result.facts
    print(f"{paths['predictions']} against {paths['gt']}")
    print(f"{result.metric} on {facts['skeleton']}" + (f", as {facts['variant']}" if facts["variant"] else ""))
    print(", ".join(f"{number:,} {what}" for what, number in facts["counts"].items()))
    if facts["normalizer"]:
        print(f"length: {facts['normalizer']['words']}")
    print(f"predictions found by: {facts['pairing']}")
    print("\n".join(result.lines()))
    if why:
        _print_point_keypoints(result)
    for note in result.notes:
        console.warn(note)


def _print_point_keypoints(result: PointsEvaluation) -> None:
    """Each keypoint, or limb, the worst first: shares from below, errors from above."""
    table = result.per_keypoint()
    what, names = table.column_names[0], table.column_names[4:]  # after labelled, missing, in_mean
    unit, factor = ("px", 1.0) if result.metric == "EPE" else ("%", 100.0)
    sign = -1 if result.metric in ("EPE", "NME") else 1
    rows = [row for row in table.to_pylist() if row[names[0]] is not None]
    cells = [
        (row[what], f"{row['labelled']:,}", f"{row['missing']:,}", *(f"{factor * row[name]:.2f}" for name in names))
        for row in sorted(rows, key=lambda row: sign * float(row[names[0]]))[:_MOST]
    ]
    headers = (what, "labelled", "missing", *(f"{name} [{unit}]" for name in names))
    console.table(headers, cells, title=f"{what.capitalize()}s, the worst first", right=tuple(range(1, len(headers))))


# -------------------------------------------------------------------------------------------------------------- files


def _tables(
    result: Evaluation, matches: Path | None, failures: Path | None, suspects: Path | None
) -> list[tuple[Path, pa.Table, str]]:
    """What is to be written: where, the rows, and what they are."""
    from kpdata.eval.evaluation import joined

    wanted: list[tuple[Path | None, Callable[[], pa.Table], str]] = [
        (matches, lambda: result.matches, "detections and people"),
        (failures, result.failures, "people and predictions of nobody"),
        (suspects, lambda: joined(result.sides, result.suspect_tables()), "suspicious labels"),
    ]
    return [(path, make(), what) for path, make, what in wanted if path]


def _save(tables: list[tuple[Path, pa.Table, str]], force: bool) -> None:
    for path, table, what in tables:
        from kpdata.eval.failures import write_parquet

        write_parquet(table, path, force=force)
        console.status("Wrote", f"{path}: {table.num_rows:,} {what}")


def _save_arrays(result: Evaluation, arrays: Path, force: bool) -> None:
    import numpy as np

    from kpdata import files

    with files.replacing(arrays, force=force) as temporary, temporary.open("wb") as handle:
        np.savez(handle, precision=result.curves.precision, recall=result.curves.recall, scores=result.curves.scores)
    console.status("Wrote", f"{arrays}: precision, recall, scores")


def _write_report(result: Evaluation, path: Path, subtitle: str, drawn: dict[str, Any], force: bool) -> None:
    """drawn: the other arguments of `Evaluation.to_html`."""
    with console.working(f"writing {path}"):
        blank = result.to_html(path, subtitle=subtitle, force=force, **drawn)
    console.status("Wrote", str(path))
    for sentence in blank:
        console.warn(sentence)
