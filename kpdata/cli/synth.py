"""`kpdata synth`: people made on the spot, with pictures and exact ground truth in every format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options
from kpdata.cli.sides import leave_note

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.dataset import Dataset

# format -> (skeleton that it holds, file or folder that is written)
TARGETS = {
    "kp": ("coco_17", "people.kp"),
    "coco": ("coco_17", "coco.json"),
    "crowdpose": ("crowdpose_14", "crowdpose.json"),
    "mpii": ("mpii_16", "mpii.h5"),
    "lsp": ("lsp_14", "joints.mat"),
    "labelme": ("coco_17", "labelme"),
    "yolo": ("coco_17", "yolo"),
}
_CROWDLESS = ("mpii_16", "lsp_14")  # these formats have nothing to mark a crowd with
_ALL = ", ".join(TARGETS)


def _share(name: str, text: str) -> Any:
    return typer.Option(name, min=0, max=1, metavar="SHARE", help=text)


Target = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.", show_default=False)]
Count = Annotated[int, typer.Option("--images", "-n", min=0, metavar="N", help="Number of images.")]
People = Annotated[str, typer.Option("--people", metavar="A-B", help="Fewest and most people in an image.")]
Size = Annotated[str, typer.Option("--size", metavar="WxH", help="Image size in pixels.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, metavar="N", help="The same seed gives the same people and pictures.")
]
Formats = Annotated[
    str, typer.Option("--formats", metavar="A,B,…", help=f"Ground truth to write: all, or some of {_ALL}.")
]
Pictures = Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw JPEG images.")]
Guesses = Annotated[
    bool, typer.Option("--predictions/--no-predictions", help="Write simulated predictions, errors known.")
]


def synth(
    target: Target,
    images: Count = 20,
    people: People = "1-5",
    size: Size = "640x480",
    seed: Seed = 0,
    formats: Formats = "coco",
    pictures: Pictures = True,
    predictions: Guesses = True,
    crowds: Annotated[float, _share("--crowds", "Share of images with a crowd; MPII and LSP cannot mark it.")] = 0.0,
    jitter: Annotated[float, _share("--jitter", "Predictions: share of keypoints slightly off.")] = 0.14,
    inversion: Annotated[float, _share("--inversion", "Predictions: share at the left/right twin.")] = 0.03,
    swap: Annotated[float, _share("--swap", "Predictions: share on another person.")] = 0.02,
    miss: Annotated[float, _share("--miss", "Predictions: share far from everything.")] = 0.04,
    missed_people: Annotated[float, _share("--missed-people", "Share of people without a prediction.")] = 0.05,
    false_positives: Annotated[
        float, typer.Option("--false-positives", min=0, metavar="SHARE", help="Predictions of nobody, per person.")
    ] = 0.05,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make people: articulated poses, several in an image, overlapping and cut by the edge, with exact visibility.

    Writes DIR/images, the ground truth in each of --formats, and DIR/predictions.json whose every error is recorded in
    DIR/predictions.truth.parquet.

    Example: kpdata synth people -n 50 --formats coco,mpii,labelme --seed 7
    """
    from kpdata.files import refuse_existing
    from kpdata.synth import simulate_predictions

    names = _names(formats)
    refuse_existing(target, force)
    scene: dict[str, Any] = {"people": _pair(people, "-", "--people"), "size": _pair(size.lower(), "x", "--size")}
    kinds = {"jitter": jitter, "inversion": inversion, "swap": swap, "miss": miss}
    rates = {**kinds, "missed_people": missed_people, "false_positives": false_positives}
    # All is made before anything is written: options that contradict each other leave nothing behind.
    with console.working(f"making {images} images"):
        made = {
            name: _make(images, seed, TARGETS[name][0], scene, crowds)
            for name in {"coco": None, **dict.fromkeys(names)}
        }
        guesses = simulate_predictions(made["coco"], seed=seed, **rates) if predictions else None
    if pictures:
        draw(made["coco"], target / "images", force)
    with console.working(f"writing {target}"):
        written = [_write(made[name], target, name, force, pictures) for name in names]
    if guesses:
        written += _predictions(guesses, target, names, force)
    if as_json:
        console.print_json({"folder": str(target), "images": images, "seed": seed, "written": written})
        return
    console.table(
        ("what", "written to", "people"), [(w["what"], w["path"], f"{w['people']:,}") for w in written], right=(2,)
    )
    for entry in written:
        if entry["losses"]:
            kinds_lost = ", ".join(f"{kind} ({n:,})" for kind, n in entry["losses"].items())
            console.warn(f"{entry['what']} cannot hold: {kinds_lost}")


def draw(dataset: Dataset, folder: Path, force: bool) -> None:
    """The pictures of synthetic people, one by one under a progress bar."""
    import numpy as np

    from kpdata.synth import write_images

    count = dataset.images.num_rows
    for row in console.progress(range(count), "drawing", count):
        write_images(dataset.select(images=np.array([row])), folder, force=force)


def _names(formats: str) -> list[str]:
    names = list(TARGETS) if formats == "all" else [name.strip() for name in formats.split(",")]
    if strangers := [name for name in names if name not in TARGETS]:
        raise typer.BadParameter(
            f"--formats: {', '.join(map(repr, strangers))} unknown, expected all or some of {_ALL}"
        )
    return list(dict.fromkeys(names))


def _pair(text: str, separator: str, option: str) -> tuple[int, int]:
    low, _, high = text.partition(separator)
    try:
        return int(low), int(high or low)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r}: expected two whole numbers as A{separator}B") from error


def _make(images: int, seed: int, skeleton: str, scene: dict[str, Any], crowds: float) -> Dataset:
    from kpdata.synth import synthesize

    return synthesize(images, seed=seed, skeleton=skeleton, crowds=0 if skeleton in _CROWDLESS else crowds, **scene)


def _write(dataset: Dataset, target: Path, name: str, force: bool, pictures: bool) -> dict[str, Any]:
    """One ground truth. What a format cannot hold is reported and not refused: it can be made again from the seed."""
    from kpdata import converters

    path = target / TARGETS[name][1]
    # YOLO's trainer wants the photographs in its own folder.
    own: dict[str, Any] = {"images": target / "images"} if name == "yolo" and pictures else {}
    report = converters.write(dataset, path, name, allow_lossy=True, force=force, **own)
    return {"what": name, "path": str(path), "people": len(dataset), "losses": report.losses}


def _predictions(
    guesses: tuple[Dataset, pa.Table], target: Path, names: list[str], force: bool
) -> list[dict[str, Any]]:
    """`predictions.json`, what is wrong with each keypoint, and the note that leads to the ground truth."""
    import pyarrow.parquet as pq

    from kpdata import converters, files

    found, truth = guesses
    path, errors = target / "predictions.json", target / "predictions.truth.parquet"
    report = converters.write(found, path, "coco_results", allow_lossy=True, force=force)
    with files.replacing(errors, force=force) as temporary:
        pq.write_table(truth, temporary)
    if own := next((TARGETS[name][1] for name in ("coco", "kp") if name in names), None):
        leave_note(path, own, force=force)
    return [
        {"what": "predictions", "path": str(path), "people": len(found), "losses": report.losses},
        {"what": "their errors", "path": str(errors), "people": truth.num_rows, "losses": {}},
    ]
