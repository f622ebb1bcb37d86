"""The two sides of an evaluation, from the command line: predictions, and where their ground truth is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import reading
from kpdata.errors import EvaluationError, FormatError

if TYPE_CHECKING:
    from kpdata.dataset import Dataset

NOTE = ".note.json"  # beside predictions: {"gt": path}, relative to its folder
Gt = Annotated[Path | None, typer.Option("--gt", metavar="GT", help="Ground truth, any format.", show_default=False)]
Sigmas = Annotated[
    str | None,
    typer.Option("--skeleton", metavar="S", help="Skeleton whose sigmas to use: a name, a TOML or JSON file."),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="M",
        help="oks, crowdpose, wholebody, aic; pckh, pck, pcp, auc, epe, nme. The ground truth's own unless given.",
    ),
]  # fmt: skip
Area = Annotated[
    str | None,
    typer.Option("--area", metavar="RULE", help="Area of people: file, bbox, bbox*0.53, keypoints. The metric's own."),
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


def expect_choices(mode: str, unknown_images: str) -> None:
    """Wrong usage where one of the two options is none of its words."""
    for value, option, known in (
        (mode, "--mode", ("strict", "fixed")),
        (unknown_images, "--unknown-images", ("refuse", "ignore")),
    ):
        if value not in known:
            raise typer.BadParameter(f"{option} {value!r}, expected {' or '.join(known)}")


def refuse_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path], force: bool) -> None:
    """What is to be written is no input, no other output, and not there yet (unless with --force).

    outputs: by option; None where it is not given. EvaluationError, wrong usage, DestinationExists.
    """
    from kpdata import files

    sources = {path.resolve() for path in inputs}
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if place in sources:
            raise EvaluationError(f"{option} would overwrite {path}, which it is made from", hint="give another name")
        if place in taken:
            raise typer.BadParameter(f"{option} and {taken[place]} are both to be written to {path}")
        taken[place] = option
        files.refuse_existing(path, force)


def ground_truth(predictions: Path, given: Path | None) -> Path:
    """Where the ground truth is: the option, `kpdata.toml`, or the note beside the predictions.

    EvaluationError names all three; FormatError where the predictions are not there.
    """
    if given is not None:
        return given
    if not predictions.exists():
        raise FormatError(predictions, "there is no such file or folder")
    here = Path.cwd()
    for config in (folder / "kpdata.toml" for folder in (here, *here.parents)):
        if config.is_file() and (found := _configured(config)):
            return config.parent / found
    note = predictions.with_name(predictions.name + NOTE)
    if note.is_file():
        return note.parent / _noted(note)
    raise EvaluationError(
        f"{predictions}: no ground truth to score against",
        hint=f'give --gt GT, or write gt = "GT" into kpdata.toml, or keep {note.name} beside the predictions',
    )


def leave_note(predictions: Path, gt: str, *, force: bool) -> None:
    """Write the note beside predictions that lets `kpdata eval` find their ground truth, a path from their folder."""
    from kpdata import files

    files.write_bytes(predictions.with_name(predictions.name + NOTE), json.dumps({"gt": gt}).encode(), force=force)


def _configured(config: Path) -> str | None:
    import tomllib

    try:
        found = tomllib.loads(config.read_text(encoding="utf-8")).get("gt")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise FormatError(config, f"not TOML that can be read ({error})") from error
    if found is not None and not isinstance(found, str):
        raise FormatError(config, f"'gt' is {found!r}, expected a path")
    return found


def _noted(note: Path) -> str:
    try:
        found = json.loads(note.read_bytes())
    except (ValueError, OSError) as error:
        raise FormatError(note, f"not JSON that can be read ({error})", hint="give --gt GT") from error
    path = found.get("gt") if isinstance(found, dict) else None
    if not isinstance(path, str):
        raise FormatError(note, f"'gt' is {path!r}, expected a path", hint="give --gt GT")
    return path


def annotated(path: Path, skeleton: str | None) -> Dataset:
    """The ground truth. EvaluationError where these are results: PREDS and GT were swapped."""
    found = reading.read(path, skeleton=skeleton)
    if len(found) and all(d.get("source_format") == "coco_results" for d in found.datasets.values()):
        raise EvaluationError(f"{path}: these are predictions", hint="predictions come first, ground truth after --gt")
    return found


def predicted(path: Path) -> Dataset:
    """The predictions. EvaluationError where nobody has a score: these are annotations.

    Predictions for MPII and LSP are bare coordinates, and say so.
    """
    from kpdata import schema

    found = reading.read(path)
    facts = found.datasets.values()
    known = any(d.get("source_format") == "coco_results" or d.get("variant") == "predictions" for d in facts)
    if not known and not schema.valid(found.persons["score"]).any():
        raise EvaluationError(
            f"{path}: these are annotations, without scores", hint="predictions come first, ground truth after --gt"
        )
    return found
