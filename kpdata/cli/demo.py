"""`kpdata demo`: the whole way in a minute, on people made on the spot."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options
from kpdata.cli.sides import leave_note
from kpdata.cli.synth import TARGETS, draw
from kpdata.errors import KpdataError

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.eval.evaluation import Evaluation

FORMATS = ("coco", "crowdpose", "mpii", "lsp", "labelme")


def demo(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")] = Path("kpdata-demo"),
    images: Annotated[int, typer.Option("--images", "-n", min=2, metavar="N", help="Number of images.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="The same seed gives the same demo.")] = 7,
    force: options.Force = False,
) -> None:
    """Try everything: make people, take them through five formats and back, check, evaluate, explain, draw, review.

    Example: kpdata demo my-demo
    """
    from kpdata import files

    files.refuse_existing(target, force)
    started = time.perf_counter()
    data = target / "data"
    truth = _make(data, images, seed)
    _round_trips(data, images, seed)
    _check(truth)
    labels, predictions, result = _score(data, truth, seed)
    _explain(target, data, result)
    _draw(target, data, truth, predictions)
    page = _review(target, data, labels, predictions)
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Open {page.resolve().as_uri()} in a browser, then try:")
    for line in (
        f"kpdata info {data}/people.kp",
        f"kpdata eval {data}/predictions.json --bootstrap 1000 --slice occlusion",
        f"kpdata convert {data}/labelme people.json --from labelme --to coco --allow-lossy",
    ):
        print(f"  {line}")


def _step(number: int, text: str) -> None:
    print(f"\n{number}. {text}")


def _make(data: Path, images: int, seed: int) -> Dataset:
    """Pictures and the ground truth as a `.kp` folder."""
    from kpdata import converters
    from kpdata.synth import synthesize

    _step(1, f"Make {images} pictures of people, with exact ground truth")
    truth = synthesize(images, seed=seed)
    converters.write(truth, data / "people.kp", "kp", force=True)
    draw(truth, data / "images", force=True)
    labelled, occluded = int((truth.visibility > 0).sum()), int((truth.visibility == 1).sum())
    print(f"   {len(truth)} people; {labelled:,} keypoints, {occluded:,} of them occluded -> {data / 'images'}")
    return truth


def _round_trips(data: Path, images: int, seed: int) -> None:
    """Each format's own people into its file and back: what comes back is compared number by number."""
    from kpdata import converters
    from kpdata.synth import synthesize

    _step(2, "Take them through five formats and back")
    rows = []
    for name in FORMATS:
        skeleton, file = TARGETS[name]
        made, path = synthesize(images, seed=seed, skeleton=skeleton), data / file
        given = {"dataset": "lsp"} if name == "lsp" else {}
        report = converters.write(made, path, name, allow_lossy=True, force=True)
        back = converters.read(path, name, hashed=False, **given)
        again = path.with_name(f"again-{file}")
        converters.write(back, again, name, force=True)
        same = converters.read(again, name, hashed=False, **given) == back
        rows.append(
            (name, file, len(back), *_compare(made, back), "equal" if same else "DIFFERENT", _lost(report.losses))
        )
    headers = ("format", "file", "people", "keypoints", "largest shift", "occlusion", "written again", "no place for")
    console.table(headers, rows, right=(2, 3, 4))
    if any(row[6] != "equal" for row in rows):
        raise KpdataError("a round trip changed data", hint="this is a bug: please report it")


def _compare(made: Dataset, back: Dataset) -> tuple[str, str, str]:
    """Labelled keypoints that came back, the largest distance of one before and after, and what became of occlusion."""
    import numpy as np

    labelled = (made.visibility > 0) & (back.visibility > 0)
    shift = np.abs(made.keypoints - back.keypoints)[labelled].max(initial=0)
    kept = np.array_equal((made.visibility == 1)[labelled], (back.visibility == 1)[labelled])
    return f"{int(labelled.sum()):,}", f"{shift:.1e} px" if shift else "0 px", "kept" if kept else "lost"


def _lost(losses: dict[str, int]) -> str:
    return ", ".join(losses) or "nothing"


def _check(truth: Dataset) -> None:
    from kpdata import checks

    _step(3, "Check the annotations")
    counts = {level: sum(kinds.values()) for level, kinds in checks.summary(checks.validate(truth)).items()}
    told = ", ".join(f"{n:,} {level}s" for level, n in counts.items())
    print(f"   {told} (`kpdata validate` says which)")


def _score(data: Path, truth: Dataset, seed: int) -> tuple[Dataset, Dataset, Evaluation]:
    """Ground truth and simulated predictions with known errors as files have them, and what the latter score.

    The official evaluator is asked too.
    """
    from kpdata import converters
    from kpdata.eval import evaluate_oks
    from kpdata.synth import simulate_predictions

    _step(4, "Evaluate a made-up model that jitters, swaps, inverts and misses")
    path = data / "predictions.json"
    converters.write(simulate_predictions(truth, seed=seed)[0], path, "coco_results", allow_lossy=True, force=True)
    leave_note(path, "coco.json", force=True)
    labels, predictions = (converters.read(file, hashed=False) for file in (data / "coco.json", path))
    result = evaluate_oks(labels, predictions)
    names = list(result.stats)
    console.table(names, [[f"{result.stats[name]:.3f}" for name in names]], right=range(len(names)))
    official = _official(data / "coco.json", path)
    same = official == list(result.stats.values())
    print(f"   pycocotools says {'the same, to the last bit' if same else f'something else: {official}'}")
    if not same:
        raise KpdataError("kpdata and pycocotools disagree", hint="this is a bug: please report it")
    return labels, predictions, result


def _official(gt: Path, results: Path) -> list[float]:
    """pycocotools' ten numbers for the same two files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(gt))
        scorer = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return [float(number) for number in scorer.stats]


def _explain(target: Path, data: Path, result: Evaluation) -> None:
    """Why the numbers are what they are: what would help most, and the page with everything."""
    _step(5, "Ask what would help the model most")
    for number, words in enumerate(result.helps(), start=1):
        print(f"   {number}. {words}")
    intervals = result.bootstrap(1000)
    low, high = float(intervals.low[0]), float(intervals.high[0])
    print(f"   AP is {result.stats['AP']:.3f}; another {result.facts['counts']['images']} pictures could as well have")
    print(f"   given anything from {low:.3f} to {high:.3f} (95 % interval)")
    page, subtitle = target / "report.html", "a made-up model against made-up people"
    result.to_html(page, images=data / "images", intervals=intervals, subtitle=subtitle, n=200, force=True)
    print(f"   {page}: every keypoint, how it fails, on whom, and the worst people")


def _draw(target: Path, data: Path, truth: Dataset, predictions: Dataset) -> None:
    from dataclasses import replace

    from kpdata.draw import draw_dataset
    from kpdata.plots import plot_statistics

    _step(6, "Draw what is in it")
    # Results name images by id only; the ground truth's table knows their files.
    named: Any = replace(predictions, images=truth.images, datasets={**truth.datasets, **predictions.datasets})
    draw_dataset(truth, data / "images", target / "people.png", limit=12, force=True)
    draw_dataset(named, data / "images", target / "predictions.png", limit=12, force=True)
    plot_statistics(truth, target / "statistics.png", force=True)
    for file, what in (
        ("people.png", "ground truth: filled dots are visible, hollow ones occluded"),
        ("predictions.png", "the made-up model's poses and scores"),
        ("statistics.png", "visibility, sizes, people per image"),
    ):
        print(f"   {target}/{file}: {what}")


def _review(target: Path, data: Path, labels: Dataset, predictions: Dataset) -> Path:
    """The page of everybody, the worst first; needs no package but the core's."""
    from kpdata.browse.page import write_page
    from kpdata.browse.people import gather

    _step(7, "Look at whom it failed, and decide about labels that it doubts")
    page = target / "failures.html"
    people = gather(labels, predictions, images=data / "images", title="a made-up model against made-up people")
    write_page(people, page, force=True)
    views = {view.name: len(view.rows) for view in people.views}
    some = ", ".join(
        f"{views[name]} {name}" for name in ("missed", "swaps", "inversions", "suspicious") if name in views
    )
    print(f"   {page}: {people.table.num_rows} people, the worst first ({some})")
    print("   Filter, drag keypoints, decide, download review.json: then the corrected data are")
    print(f"   kpdata browse {data}/predictions.json --pull corrected.kp --review review.json")
    return page
