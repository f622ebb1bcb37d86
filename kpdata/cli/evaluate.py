"""`kpdata eval`: predictions against ground truth."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import console, options, reading
from kpdata.errors import EvaluationError, FormatError

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.eval import Evaluation

NOTE = ".note.json"  # beside predictions: {"gt": path}, relative to its folder
Predictions = Annotated[
    Path,
    typer.Argument(metavar="PREDS", help="Predictions: COCO results, or any format with scores.", show_default=False),
]
Gt = Annotated[Path | None, typer.Option("--gt", metavar="GT", help="Ground truth, any format.", show_default=False)]
Sigmas = Annotated[
    str | None,
    typer.Option("--skeleton", metavar="S", help="Skeleton whose sigmas to use: a name, a TOML or JSON file."),
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
    skeleton: Sigmas = None,
    arrays: Arrays = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Score predictions: COCO OKS AP and AR, the ten numbers, equal to pycocotools to the last bit.

    The ground truth comes from --gt, else from `gt` in the nearest kpdata.toml, else from the note that was left beside
    the predictions (PREDS.note.json).

    Example: kpdata eval predictions.json --gt person_keypoints_val2017.json
    """
    from kpdata import files
    from kpdata.eval import evaluate as score

    if arrays:
        files.refuse_existing(arrays, force)
    found = _scored(predictions)
    truth = ground_truth(predictions, gt)
    sides = _annotations(truth, skeleton), found
    with console.working(f"scoring {predictions}"), reading.naming(predictions, truth):
        result = score(*sides, skeleton=skeleton)
    if arrays:
        _save(result, arrays, force)
    if as_json:
        console.print_json({**result.to_json(), "files": {"predictions": str(predictions), "gt": str(truth)}})
        return
    print(f"{predictions} against {truth}")
    _print(result)


def ground_truth(predictions: Path, given: Path | None) -> Path:
    """Where the ground truth is: the option, `kpdata.toml`, or the note beside the predictions.

    EvaluationError names all three.
    """
    if given is not None:
        return given
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


def _annotations(path: Path, skeleton: str | None) -> Dataset:
    """The ground truth. EvaluationError where these are results: PREDS and GT were swapped."""
    found = reading.read(path, skeleton=skeleton)
    if len(found) and all(d.get("source_format") == "coco_results" for d in found.datasets.values()):
        raise EvaluationError(f"{path}: these are predictions", hint="predictions come first, ground truth after --gt")
    return found


def _scored(path: Path) -> Dataset:
    """The predictions. EvaluationError where nobody has a score: these are annotations."""
    from kpdata import schema

    found = reading.read(path)
    results = any(d.get("source_format") == "coco_results" for d in found.datasets.values())
    if not results and not schema.valid(found.persons["score"]).any():
        raise EvaluationError(
            f"{path}: these are annotations, without scores", hint="predictions come first, ground truth after --gt"
        )
    return found


def _print(result: Evaluation) -> None:
    for name, facts in result.facts["skeletons"].items():
        print(f"OKS AP/AR on {name} ({facts['keypoints']} keypoints), sigmas: {facts['sigma_source'] or 'your own'}")
    print(", ".join(f"{number:,} {what}" for what, number in result.facts["counts"].items()))
    print(f"area: {result.facts['area']}")
    print("\n".join(result.lines()))
    for note in result.notes:
        console.warn(note)


def _save(result: Evaluation, arrays: Path, force: bool) -> None:
    import numpy as np

    from kpdata import files

    with files.replacing(arrays, force=force) as temporary, temporary.open("wb") as handle:
        np.savez(handle, precision=result.curves.precision, recall=result.curves.recall, scores=result.curves.scores)
    console.status("Wrote", f"{arrays}: precision, recall, scores")
