"""`kpdata predict`: a trained network on a dataset, and how much worse pictures make it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kpdata.cli import console, options, reading, sides

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.train.predict import Job, Predicted
    from kpdata.train.predictor import Predictor
    from kpdata.train.robustness import Robustness

KINDS = ("blur", "noise", "compression", "occlusion")
ENDINGS = (".kp", ".json", ".json.gz")

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT", help="A checkpoint of kpdata, or a published file of HRNet or SimpleBaseline.",
        show_default=False,
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="PREDS", help="What to write: COCO results (.json) or a .kp folder.", show_default=False
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        "--boxes", metavar="FILE", help="A detector's boxes with scores: COCO results or .kp. SRC's own unless given.",
        show_default=False,
    ),
]  # fmt: skip
Above = Annotated[
    float | None,
    typer.Option("--box-score-above", metavar="S", help="Of --boxes, those with a higher score; 0 unless given."),
]
FlipTest = Annotated[bool, typer.Option("--flip-test/--no-flip-test", help="The mean with the mirrored crop.")]
NmsOption = Annotated[
    Literal["oks", "soft", "soft-order", "none"] | None,
    typer.Option(
        "--nms", metavar="oks|soft|soft-order|none",
        help="Poses of one person: oks drops the worse, soft lowers their scores, soft-order keeps the 20 that soft "
        "puts first. oks unless given, if there are sigmas.",
        show_default=False,
    ),
]  # fmt: skip
NmsThreshold = Annotated[float, typer.Option("--nms-threshold", metavar="OKS", help="Of --nms.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:1; a GPU if there is one.")
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Crops at once.")]
Colour = Annotated[
    Literal["rgb", "bgr"] | None,
    typer.Option("--colour", metavar="rgb|bgr", help="Colour order of a CKPT that does not tell it."),
]
SkeletonOption = Annotated[
    str | None,
    typer.Option("--skeleton", metavar="S", help="Skeleton of a CKPT or SRC that names none: a name, TOML or JSON."),
]
MissingImages = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--missing-images", metavar="DO", help="Pictures that are not there, or broken: refuse, skip."),
]
Corrupt = Annotated[
    list[str] | None,
    typer.Option(
        "--corrupt", metavar="KIND",
        help=f"Score worse pictures too, five severities each: all, {', '.join(KINDS)}; repeatable.",
    ),
]  # fmt: skip
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Of --corrupt; 0 unless given.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw the curves of --corrupt.", show_default=False)
]


def predict(
    checkpoint: Checkpoint,
    source: options.Source,
    images: options.Images = None,
    out: Out = None,
    boxes: Boxes = None,
    box_score_above: Above = None,
    flip_test: FlipTest = True,
    nms: NmsOption = None,
    nms_threshold: NmsThreshold = 0.9,
    device: Device = None,
    batch: Batch = 64,
    colour: Colour = None,
    skeleton: SkeletonOption = None,
    missing_images: MissingImages = "refuse",
    unknown_images: sides.UnknownImages = "refuse",
    corrupt: Corrupt = None,
    seed: Seed = None,
    plot: Plot = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Predict the keypoints of everybody in a dataset's pictures, in their true boxes or in a detector's.

    The checkpoint says how its network wants crops, colours and decoding. Beside PREDS lies a note that lets
    `kpdata eval PREDS` find SRC as its ground truth. With --corrupt also how much the network loses on worse pictures:
    kpdata's own corruptions after the idea of COCO-C, to compare networks by, not with published numbers.

    Example: kpdata predict best.pt person_keypoints_val2017.json --images val2017 -o preds.json
    """
    _expect(out, boxes, box_score_above, unknown_images, corrupt, seed, plot)
    inputs = [path for path in (checkpoint, source, boxes) if path is not None]
    sides.refuse_outputs({"--out": out, "--plot": plot}, inputs, force)
    dataset = reading.read(source, skeleton=skeleton, images=images)
    started = time.perf_counter()
    predictor = _predictor(checkpoint, skeleton, device=device, flip_test=flip_test, batch=batch, colour=colour)
    with reading.naming(source):
        job = _job(predictor, dataset, images or _beside(source, dataset), {
            "boxes": boxes or "truth", "box_score_above": box_score_above or 0.0, "nms": nms,
            "nms_threshold": nms_threshold, "missing": missing_images, "unknown_images": unknown_images,
        })  # fmt: skip
        found, report = _run(predictor, job, corrupt, seed or 0)
    seconds = time.perf_counter() - started
    if out is not None:
        _write(found, out, source, force)
    if report is not None and plot is not None:
        _draw(report, plot, force)
    _say(found, report, {"out": str(out) if out else None, "seconds": round(seconds, 3)}, as_json)


def _expect(
    out: Path | None, boxes: Path | None, above: float | None, unknown_images: str, corrupt: list[str] | None,
    seed: int | None, plot: Path | None,
) -> None:  # fmt: skip
    """Wrong usage: nothing to be made, options that would do nothing, names that nothing has."""
    if out is None and not corrupt:
        raise typer.BadParameter("nothing to write: give -o PREDS, or --corrupt")
    if out is not None and not out.name.endswith(ENDINGS):
        raise typer.BadParameter(f"-o {out}: expected a name that ends in {', '.join(ENDINGS)}")
    if boxes is None and (above is not None or unknown_images != "refuse"):
        raise typer.BadParameter("--box-score-above and --unknown-images belong to --boxes")
    if not corrupt and (plot is not None or seed is not None):
        raise typer.BadParameter("--plot and --seed belong to --corrupt")
    sides.expect_choices("strict", unknown_images)
    for kind in corrupt or []:
        if kind != "all" and kind not in KINDS:
            raise typer.BadParameter(f"--corrupt {kind!r}, expected all, {', '.join(KINDS)}")


def _predictor(checkpoint: Path, skeleton: str | None, **values: Any) -> Predictor:
    from kpdata.errors import MissingExtra
    from kpdata.skeleton import load

    try:
        import torch  # noqa: F401  # only to say what is missing
    except ImportError as error:
        raise MissingExtra("torch", "train", "predicting") from error
    from kpdata.train.predictor import Predictor

    with console.working(f"loading {checkpoint}"):
        return Predictor(checkpoint, skeleton=load(skeleton) if skeleton else None, **values)


def _beside(source: Path, dataset: Dataset) -> Path | None:
    """The folder of the pictures where none is named, found as `kpdata train` finds it."""
    from kpdata.train.lint import picture_folder

    return picture_folder(source, dataset)


def _job(predictor: Predictor, dataset: Dataset, images: Path | None, values: dict[str, Any]) -> Job:
    from kpdata.train.predict import gather

    return gather(predictor, dataset, images, **values)


def _run(predictor: Predictor, job: Job, corrupt: list[str] | None, seed: int) -> tuple[Predicted, Robustness | None]:
    def watch(items: Any, total: int) -> Any:
        return console.progress(items, "predicting", total)

    if not corrupt:
        from kpdata.train.predict import run, told

        return told(predictor, job, run(predictor, job, watch=watch)), None
    from kpdata.train.robustness import robustness

    kinds: Any = KINDS if "all" in corrupt else corrupt
    report = robustness(predictor, job, kinds=kinds, seed=seed, watch=watch)
    return report.predicted, report


def _write(found: Predicted, out: Path, source: Path, force: bool) -> None:
    """The predictions, then the note that leads back to the ground truth."""
    if out.suffix == ".kp":
        found.people.save(out, force=force)
    else:
        from kpdata.converters import coco_results

        losses = coco_results.write(found.people, out, allow_lossy=True, force=force)
        if "skeleton" in losses.losses:
            name = next(iter(found.people.skeletons))
            console.warn(f"{out}: results name no keypoints; a .kp folder remembers that they are {name!r}")
    place, folder = source.resolve(), out.resolve().parent
    try:
        way = os.path.relpath(place, folder)
    except ValueError:  # on another drive (Windows)
        way = str(place)
    sides.leave_note(out, way, force=True)
    console.status("Wrote", f"{out}: {len(found.people):,} people")


def _draw(report: Robustness, target: Path, force: bool) -> None:
    from kpdata.train.robustness import plot

    plot(report, target, force=force)
    console.status("Wrote", f"{target}: {report.metric} over severities")


def _say(found: Predicted, report: Robustness | None, facts: dict[str, Any], as_json: bool) -> None:
    people = len(found.people)
    if as_json:
        more = {"robustness": report.to_json()} if report else {}
        facts = {"people": people, "boxes": found.boxes, **facts, "notes": list(found.notes)}
        console.print_json({**facts, **more})
        return
    print(f"{people:,} people in {found.boxes}, {facts['seconds']:.1f} s")
    if report is not None:
        headers = (report.metric, *map(str, range(1, 6)), "mean")
        title = f"{report.metric} by corruption and severity (kpdata's own, seed {report.seed})"
        console.table(headers, report.rows(), title=title, right=tuple(range(1, 7)))
        share = f"{report.rpc:.1%}" if report.clean > 0 else "– (nothing to take a share of)"
        print(f"clean {report.clean:.3f}, mPC {report.mpc:.3f}, rPC {share}")
    for note in found.notes:
        console.warn(note)
