"""`kpdata eval`: predictions against ground truth, and why the numbers are what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kpdata.cli import console, options, reading
from kpdata.cli.sides import Gt, Metric, Sigmas, annotated, ground_truth, predicted
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
Area = Annotated[
    str | None,
    typer.Option("--area", metavar="RULE", help="Area of people: file, bbox, bbox*0.53, keypoints. The metric's own."),
]
Like = Annotated[
    str | None,
    typer.Option("--as", metavar="TOOL", help="xtcocotools; for PCKh: hrnet, official, mmpose. The metric's official."),
]
Mode = Annotated[
    str, typer.Option("--mode", metavar="MODE", help="strict: pycocotools with its traps; fixed: without them.")
]
UnknownImages = Annotated[
    str,
    typer.Option(
        "--unknown-images", metavar="DO", help="Predictions for images that GT does not list: refuse, ignore."
    ),
]
MaxDets = Annotated[int, typer.Option("--max-dets", metavar="N", min=1, help="Predictions of an image that count.")]
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
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same intervals.")]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--slice", metavar="BY", help="AP by size, labelled, occlusion, crowding, …, or a column; repeatable."
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
    gt: Gt = None,
    metric: Metric = None,
    skeleton: Sigmas = None,
    area: Area = None,
    like: Like = None,
    mode: Mode = "strict",
    unknown_images: UnknownImages = "refuse",
    max_dets: MaxDets = 20,
    threshold: Threshold = None,
    normalize: Normalize = None,
    why: Why = None,
    resamples: Resamples = 0,
    seed: Seed = 0,
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
    from kpdata import files
    from kpdata.eval import evaluate as score

    outputs = {
        "--report": report,
        "--matches": matches,
        "--failures": failures,
        "--suspects": suspects,
        "--arrays": arrays,
    }
    for path in filter(None, outputs.values()):
        files.refuse_existing(path, force)
    if images and not report:
        raise typer.BadParameter("--images: only a --report shows pictures")
    _expect(mode, "--mode", "strict", "fixed")
    _expect(unknown_images, "--unknown-images", "refuse", "ignore")
    truth = ground_truth(predictions, gt)
    sides = annotated(truth, skeleton), predicted(predictions)
    variant = like if like in ("hrnet", "official", "mmpose") else None
    with console.working(f"scoring {predictions}"), reading.naming(predictions, truth):
        result: Any = score(
            *sides, metric=metric, skeleton=skeleton, area=area, like=None if variant else like,
            variant=variant, mode=cast(Any, mode), max_dets=max_dets, threshold=threshold, normalize=_length(normalize),
            unknown_images=cast(Any, unknown_images),
        )  # fmt: skip
    paths = {"predictions": str(predictions), "gt": str(truth)}
    if not hasattr(result, "sides"):
        wanted = [name for name, value in (*outputs.items(), ("--bootstrap", resamples), ("--slice", by)) if value]
        if wanted:
            raise EvaluationError(f"{result.metric} has no {' and '.join(wanted)}", hint="--metric oks has")
        _print_points(result, paths, as_json)
        return
    with console.working(f"analysing {predictions}"), reading.naming(predictions, truth):
        intervals = result.bootstrap(resamples, seed=seed) if resamples else None
        slices = result.slices(by, n=resamples, seed=seed) if by else None
        explained = _explained(result) if (not as_json if why is None else why) and result.sides.parts else {}
        _save_tables(result, matches, failures, suspects, force)
        if report:
            subtitle = f"{predictions.name} against {truth.name}"
            result.to_html(report, images=images, intervals=intervals, subtitle=subtitle, by=by, force=force)
            console.status("Wrote", str(report))
    if arrays:
        _save_arrays(result, arrays, force)
    if as_json:
        more = {"bootstrap": intervals.to_json()} if intervals else {}
        more |= {"slices": slices.to_dict("records")} if slices is not None else {}
        console.print_json({**result.to_json(), **more, **_plain(explained), "files": paths})
        return
    print(f"{predictions} against {truth}")
    _print(result, intervals, explained, slices)


def _expect(value: str, option: str, *known: str) -> None:
    if value not in known:
        raise typer.BadParameter(f"{option} {value!r}, expected {' or '.join(known)}")


def _length(text: str | None) -> str | float | None:
    """A name, or pixels."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


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
    print(f"area: {result.facts['area']}")
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
    headers = ("keypoint", "labelled", "OKS", "median px", *_KINDS)
    rows = [
        (row["keypoint"], f"{row['labelled_x']:,}" if "labelled_x" in row else f"{row['labelled']:,}",
         _number(row["oks_with_missed"], "{:.3f}"), _number(row["error_px_median"], "{:.1f}"),
         *(_number(row[f"{kind}_share"], "{:.1%}") for kind in _KINDS))
        for row in worst
    ]  # fmt: skip
    title = "Keypoints, the worst first (OKS: 0 where the person was missed; errors: shares of those found)"
    console.table(headers, rows, title=title, right=tuple(range(1, len(headers))))


def _print_slices(slices: Any) -> None:
    keys = ("AP", "AP50", "AR", "mean_oks", "missed")
    rows = [
        (row["by"], row["slice"], f"{row['people']:,}", *(_number(row[key], "{:.3f}") for key in keys),
         f"{row['AP_low']:.3f} … {row['AP_high']:.3f}" if row["AP_low"] == row["AP_low"] else "")
        for row in slices.to_dict("records")
    ]  # fmt: skip
    headers = ("by", "slice", "people", "AP", "AP50", "AR", "mean OKS", "missed", "95 % of AP")
    console.table(headers, rows, title="Slices, the worst first", right=tuple(range(2, len(headers))))


def _number(value: Any, form: str) -> str:
    """A dash for what nothing was measured of."""
    return "–" if value is None or value != value else form.format(value)


def _print_points(result: PointsEvaluation, paths: dict[str, str], as_json: bool) -> None:
    if as_json:
        console.print_json({**result.to_json(), "files": paths})
        return
    print(f"{paths['predictions']} against {paths['gt']}")
    counts = ", ".join(f"{number:,} {what}" for what, number in result.facts["counts"].items())
    print(f"{result.metric}; {counts}")
    print(f"predictions found by: {result.facts['pairing']}")
    print("\n".join(result.lines()))
    for note in result.notes:
        console.warn(note)


# -------------------------------------------------------------------------------------------------------------- files


def _save_tables(
    result: Evaluation, matches: Path | None, failures: Path | None, suspects: Path | None, force: bool
) -> None:
    import pyarrow as pa

    tables: list[tuple[Path | None, Any, str]] = [
        (matches, lambda: result.matches, "detections and people"),
        (failures, result.failures, "people and predictions of nobody"),
        (suspects, lambda: pa.Table.from_pandas(result.suspects(), preserve_index=False), "suspicious labels"),
    ]
    for path, make, what in tables:
        if path:
            _save(make(), path, what, force)


def _save(table: pa.Table, path: Path, what: str, force: bool) -> None:
    from kpdata.eval.failures import write_parquet

    write_parquet(table, path, force=force)
    console.status("Wrote", f"{path}: {table.num_rows:,} {what}")


def _save_arrays(result: Evaluation, arrays: Path, force: bool) -> None:
    import numpy as np

    from kpdata import files

    with files.replacing(arrays, force=force) as temporary, temporary.open("wb") as handle:
        np.savez(handle, precision=result.curves.precision, recall=result.curves.recall, scores=result.curves.scores)
    console.status("Wrote", f"{arrays}: precision, recall, scores")
