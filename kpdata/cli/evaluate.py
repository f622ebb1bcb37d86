"""`kpdata eval`: predictions against ground truth, and why the numbers are what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from kpdata.cli import _outputs, console, options, reading, sides

if TYPE_CHECKING:
    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.calibration import Calibration
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
Calibrated = Annotated[
    bool,
    typer.Option("--calibration", help="What scores are worth: reliability, ECE, which to keep, precision-recall."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="OUT.png",
        help="Draw every keypoint's numbers, with --calibration its curves too; also .pdf, .svg.",
    ),
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
    typer.Option("--slice", metavar="BY", help="By size, keypoints, occlusion, crowding, …, or a column; repeatable."),
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
    calibration: Calibrated = False,
    resamples: Resamples = 0,
    seed: Seed = None,
    by: By = None,
    report: Report = None,
    images: options.Images = None,
    plot: Plot = None,
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
    sides.refuse_outputs({**outputs, "--plot": plot}, (predictions, truth), force)
    _outputs.expect_parquet(matches, failures, suspects)
    expect_picture(plot)
    result = _scored(predictions, truth, {
        "metric": metric, "skeleton": skeleton, "area": area, "mode": mode, "unknown_images": unknown_images,
        "max_dets": max_dets, "threshold": threshold, "normalize": length(normalize), **variant(like),
    })  # fmt: skip
    paths = {"predictions": str(predictions), "gt": str(truth)}
    if not hasattr(result, "sides"):
        files = {"matches": matches, "failures": failures, "suspects": suspects, "report": report, "images": images,
                 "plot": plot}  # fmt: skip
        refused = {"--arrays": arrays, "--calibration": calibration}
        _points(result, paths, files, refused, force=force, as_json=as_json, why=why, by=by, n=resamples,
                seed=seed or 0)  # fmt: skip
        return
    with console.working(f"analysing {predictions}"), reading.naming(predictions, truth):
        found = _analysed(result, not as_json if why is None else why, as_json, calibration, by, resamples, seed or 0)
        tables = _outputs.tables(result, matches, failures, suspects)
    if plot:
        _plot(result, plot, paths, force, found.calibration)
    _outputs.save(tables, force)
    if arrays:
        _outputs.save_arrays(result, arrays, force)
    if report:
        drawn: dict[str, Any] = {"by": by, "intervals": found.intervals, "n": resamples, "seed": seed or 0}
        drawn["images"] = images
        _outputs.write_report(result, report, f"{predictions.name} against {truth.name}", drawn, force)
    if as_json:
        console.print_json({**result.to_json(), **_json(result, found), "files": paths})
        return
    print(f"{predictions} against {truth}")
    _print(result, found)


def _expect_company(images: Path | None, report: Path | None, seed: int | None, resamples: int) -> None:
    """Wrong usage where an option would do nothing without another one, or names no folder."""
    if images and not report:
        raise typer.BadParameter("--images: only a --report shows pictures")
    if images and not images.is_dir():
        raise typer.BadParameter(f"--images {images}: there is no such folder")
    if seed is not None and not resamples:
        raise typer.BadParameter("--seed: only a --bootstrap N draws anything")


def _plot(result: Any, path: Path, paths: dict[str, str], force: bool, calibration: Sequence[Calibration] = ()) -> None:
    with console.working(f"drawing {path}"), reading.naming(*map(Path, paths.values())):
        if calibration:
            from kpdata.eval.report.plots import plot_scores

            plot_scores(result, calibration, path, force=force)
        else:
            result.plot_keypoints(path, force=force)
    console.status("Wrote", str(path))


def expect_picture(path: Path | None) -> None:
    """FormatError, before anything is read, where the file's ending is no picture's."""
    if path:
        from kpdata.eval.report import figures

        figures.expect_picture(path)


def _points(
    result: PointsEvaluation, paths: dict[str, str], files: dict[str, Path | None], refused: dict[str, Any], *,
    force: bool, as_json: bool, why: bool | None, by: list[str] | None, n: int, seed: int,
) -> None:  # fmt: skip
    """The analyses, files and tables of a metric of single people."""
    from kpdata.cli import _points

    _points.refuse_analyses(result, refused)
    predictions, truth = Path(paths["predictions"]), Path(paths["gt"])
    with console.working(f"analysing {predictions}"), reading.naming(predictions, truth):
        intervals = result.bootstrap(n, seed=seed) if n else None
        slices = result.slices(by, n=n, seed=seed) if by else None
        tables = _points.tables(result, files["matches"], files["failures"], files["suspects"])
    if files["plot"]:
        _plot(result, files["plot"], paths, force)
    _outputs.save(tables, force)
    if files["report"]:
        drawn = {"by": by, "intervals": intervals, "n": n, "seed": seed, "images": files["images"]}
        _outputs.write_report(result, files["report"], f"{predictions.name} against {truth.name}", drawn, force)
    _points.show(result, paths, as_json=as_json, why=why, intervals=intervals, slices=slices)


def _scored(predictions: Path, truth: Path, given: dict[str, Any]) -> Any:
    """The Evaluation or PointsEvaluation of two files."""
    from kpdata.eval import evaluate as score

    # Ground truth first: it is small, and `start` goes on reading predictions while it becomes columns.
    people = sides.annotated(truth, given["skeleton"])
    found = sides.predicted(predictions)
    with console.working(f"scoring {predictions}"), reading.naming(predictions, truth):
        return score(people, found, **given)


def variant(like: str | None) -> dict[str, str | None]:
    """`--as` is one option for two: evaluators that score OKS in their own way, and those of single people."""
    return {"variant": like} if like in ("hrnet", "official", "mmpose") else {"like": like}


def length(text: str | None) -> str | float | None:
    """`--normalize`: a name, or pixels."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


# ------------------------------------------------------------------------------------------------------------- tables


class _Found(NamedTuple):
    """What was asked for beside the numbers; empty or None where it was not."""

    explained: dict[str, Any]
    intervals: Intervals | None
    slices: Any
    calibration: Sequence[Calibration]


def _analysed(
    result: Evaluation, why: bool, as_json: bool, calibration: bool, by: list[str] | None, n: int, seed: int
) -> _Found:
    return _Found(
        explained=_explained(result, as_json) if why and result.sides.parts else {},
        intervals=result.bootstrap(n, seed=seed) if n else None,
        slices=result.slices(by, n=n, seed=seed) if by else None,
        calibration=result.calibration() if calibration else (),
    )


def _explained(result: Evaluation, whole: bool) -> dict[str, Any]:
    """What `--why` tells; `whole`: also what a terminal has no place for."""
    told = {
        "helps": result.helps(),
        "per_keypoint": result.per_keypoint(),
        "errors": result.errors(),
        "people": result.people(),
        "opportunity": result.opportunity(),
        "opportunity_by_size": result.opportunity_by_size(),
    }
    more = {"keypoint_ap": result.keypoint_ap(), "missed_people": result.missed_people()} if whole else {}
    return told | more


def _json(result: Evaluation, found: _Found) -> dict[str, Any]:
    """The keys that options add to `Evaluation.to_json`, and the notes with those about them."""
    names = [part.skeleton.name for part in result.sides.parts]
    scores = [{"skeleton": name, **of.to_json()} for name, of in zip(names, found.calibration, strict=False)]
    more: dict[str, Any] = {"notes": [*result.notes, *_on_few_images(found)]}
    more |= {"bootstrap": found.intervals.to_json()} if found.intervals else {}
    more |= {"slices": _records(found.slices)} if found.slices is not None else {}
    more |= {"calibration": scores} if found.calibration else {}
    return more | {key: of if isinstance(of, list) else _records(of) for key, of in found.explained.items()}


def _records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a frame as plain Python: lists for arrays."""
    return [
        {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _print(result: Evaluation, found: _Found) -> None:
    from kpdata.eval.wording import counted

    for name, facts in result.facts["skeletons"].items():
        sigmas = facts["sigma_source"] or "your own"
        print(f"{result.facts['metric']} on {name} ({facts['keypoints']} keypoints), sigmas: {sigmas}")
    if not result.facts["skeletons"]:
        print(f"{result.facts['metric']}, of nobody: the ground truth has no people with keypoints")
    print(counted(result.facts["counts"]))
    print(f"area: {result.facts['area']}; boxes: {', '.join(result.facts['box_sources']) or 'none'}")
    print(f"size of a prediction: {result.facts['detection_area']}")
    print(f"matching: {result.facts['matching']}")
    print("\n".join(result.lines()))
    explained = found.explained
    if found.intervals:
        _print_intervals(found.intervals)
    if explained:
        _print_keypoints(explained)
        _print_opportunity(explained["opportunity_by_size"])
    if found.slices is not None:
        _print_slices(found.slices, bool(found.intervals))
    for part, scores in zip(result.sides.parts, found.calibration, strict=False):
        _print_calibration(scores, f" of {part.skeleton.name}" if len(found.calibration) > 1 else "")
    if explained and explained["helps"]:
        print("\nWhat would help most")
        for number, words in enumerate(explained["helps"], start=1):
            print(f"{number}. {words}")
    for note in (*result.notes, *_on_few_images(found)):
        console.warn(note)


def _on_few_images(found: _Found) -> list[str]:
    """The note about intervals of few images, as far as intervals were asked for."""
    if found.intervals is None:
        return []
    from kpdata.eval.bootstrap import on_few_images

    return on_few_images(found.intervals, () if found.slices is None else found.slices.to_dict("records"))


def _print_intervals(intervals: Intervals) -> None:
    columns = zip(intervals.names, intervals.estimate, intervals.low, intervals.high, strict=True)
    rows = [(name, f"{value:.3f}", _interval(low, high)) for name, value, low, high in columns if value >= 0]
    title = f"{100 * intervals.level:g} % intervals, {len(intervals.samples):,} resamples of the images"
    console.table(("", "value", "interval"), rows, title=title, right=(1, 2))


def _interval(low: float, high: float) -> str:
    """A dash where there is none."""
    return "–" if low != low else f"{low:.3f} … {high:.3f}"


def _print_opportunity(table: Any) -> None:
    """Each correction alone, for people of all sizes and of each size that somebody has."""
    bones = ["skeleton"] if "skeleton" in table else []
    sizes = [size for size in table["size"].unique() if table[table["size"] == size]["ap"].notna().any()]
    if not sizes:
        return  # nobody to find
    wide = table[table["error"] != "baseline"].pivot(
        index=[*bones, "error"], columns="size", values=["count", "ap_gain"]
    )
    order = table[table["error"] != "baseline"][[*bones, "error"]].drop_duplicates()
    rows = []
    for keys in order.itertuples(index=False):
        row = wide.loc[keys if bones else keys[0]]
        gains = (_number(100 * row["ap_gain", size], "{:+.1f}") for size in sizes)
        rows.append((*keys[:-1], keys[-1].replace("_", " "), f"{int(row['count', sizes[0]]):,}", *gains))
    headers = (*bones, "error", "count", *(_COCO.get(size, size) for size in sizes))
    title = "Points that correcting one kind of error would add: AP of everybody, of medium, of large people"
    console.table(headers, rows, title=title, right=tuple(range(len(bones) + 1, len(headers))))


_COCO = {"all": "AP", "medium": "APm", "large": "APl"}
_CUTS = 9  # rows of the table of score thresholds


def _print_calibration(scores: Calibration, whose: str) -> None:
    """How far scores are from shares, and what cutting at some scores does."""
    for what, found in (("people", scores.persons), ("keypoints", scores.keypoints)):
        title = f"Are scores of {what}{whose} what they say?"
        if found.ece_50 is None or found.ece_75 is None:
            print(f"\n{title} {found.why}")
            continue
        term = "OKS" if what == "people" else "term"
        rows = [
            (f"{row['low']:.2f} … {row['high']:.2f}", f"{row['count']:,}",
             *(f"{row[key]:.3f}" for key in ("mean_score", "share_50", "share_75", "mean_oks")))
            for row in found.table.to_pylist()
        ]  # fmt: skip
        title += f" ECE {found.ece_50:.3f} at {term} 0.5, {found.ece_75:.3f} at 0.75"
        headers = ("score", what, "mean score", f"{term} ≥ 0.5", f"{term} ≥ 0.75", f"mean {term}")
        console.table(headers, rows, title=title, right=(1, 2, 3, 4, 5))
    _print_cuts(scores, whose)


def _print_cuts(scores: Calibration, whose: str) -> None:
    table, best = scores.thresholds.to_pylist(), scores.best
    if best is None:
        print(f"\nWhich scores to keep{whose}: nothing was predicted, or there is nobody to find")
        return
    steps = {round(step * (len(table) - 1) / (_CUTS - 1)) for step in range(_CUTS)}
    at = next(i for i, row in enumerate(table) if row["threshold"] == best["threshold"])
    rows = [
        (f"{row['threshold']:.3g}" + (" *" if i == at else ""),
         *(_number(row[key], form) for key, form in _CUT_COLUMNS.items()))
        for i, row in enumerate(table) if i in steps | {at}
    ]  # fmt: skip
    title = f"Which scores to keep{whose}: without those below; precision, recall, F1 at OKS 0.5 (* greatest F1)"
    console.table(("score", *_CUT_COLUMNS), rows, title=title, right=tuple(range(1, len(_CUT_COLUMNS) + 1)))


_CUT_COLUMNS = {
    "kept": "{:.0%}",
    "AP": "{:.3f}",
    "AR": "{:.3f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "f1": "{:.3f}",
}
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


def _print_slices(slices: Any, drawn: bool) -> None:
    """drawn: with intervals."""
    shares = "mAP" in slices
    keys = ("mAP", "mAP50", "mAP75") if shares else ("AP", "AP50", "AR")
    low, high = f"{keys[0]}_low", f"{keys[0]}_high"
    rows = [
        (row["by"], row["slice"], f"{row['people']:,}",
         *(_number(row[key], "{:.3f}") for key in (*keys, "mean_oks", "missed")),
         *([_interval(row[low], row[high])] if drawn else []))
        for row in slices.to_dict("records")
    ]  # fmt: skip
    headers = ("by", "slice", "people", *keys, "OKS", "missed", *([f"95 % of {keys[0]}"] if drawn else []))
    what = "shares of these people found" if shares else "the same matches, counted for these people"
    title = f"Slices, the worst first: {what} (OKS of those found)"
    console.table(headers, rows, title=title, right=tuple(range(2, len(headers))))


def _number(value: Any, form: str) -> str:
    """A dash for what nothing was measured of."""
    return "–" if value is None or value != value else form.format(value)
