"""`kpdata train --folds`: what predictions out of fold say of the labels, and how to look at them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kpdata.cli import console, sides

if TYPE_CHECKING:
    from kpdata.train.config import Config
    from kpdata.train.folds import Folds, OutOfFold

SHOWN = 10  # suspicious labels, and half as many hard people
FIRST = ("AP", "whole_AP", "mAP")  # the number that a metric is known by; else its first
NOBODY = "–"  # of a person whom no label means


def run_folds(
    config: Config, count: int, by: str | None, force: bool, as_json: bool, log: Callable[[dict[str, Any]], None]
) -> None:
    """Everybody predicted by a network that has not seen them, and what such predictions say of the labels."""
    from kpdata.train.folds import folds

    found = folds(config, count, by=by, log=log, force=force)
    if not found.finished:
        console.warn("interrupted: the same command goes on, and trains no finished fold again")
        raise typer.Exit(130)
    for part in found.parts:
        sides.leave_note(part.path, _way(part.source.path, part.path.parent), force=True)
    lines = [_look(part, config.out) for part in found.parts]
    if as_json:
        console.print_json(_in_json(found, lines))
    else:
        _tell(found, lines)


def _tell(found: Folds, lines: list[str]) -> None:
    names = [name for name in ("AP", "PCKh@0.5", "PCK@0.2") if name in found.folds[0].metrics]
    rows = [(f.number, f"{f.trained:,}", f"{f.held:,}", *(f"{f.metrics[n]:.3f}" for n in names)) for f in found.folds]
    console.table(
        ("fold", "learnt from", "held out", *names), rows, title="Pictures", right=tuple(range(3 + len(names)))
    )
    for part in found.parts:
        _tell_part(part)
    assert found.hardest is not None
    hard = found.hardest.slice(0, SHOWN // 2).to_pylist()
    cells = [(row["annotation_id"], row["image_id"], f"{row['loss']:.3g}") for row in hard]
    console.table(("person", "image", "loss"), cells, title="Hardest to learn", right=(0, 1, 2))
    for line in lines:
        console.status("Look", line)


def _tell_part(part: OutOfFold) -> None:
    """Numbers of one source, and the labels that its predictions contradict most."""
    if part.stats:
        first = next((name for name in FIRST if name in part.stats), next(iter(part.stats)))
        names = [first, *(["AR"] if "AR" in part.stats else [])]
        numbers = ", ".join(f"{name} {part.stats[name]:.3f}" for name in names)
        print(f"{part.source.path}: out of fold {numbers}")
    rows = part.suspects.slice(0, SHOWN).to_pylist()
    cells = [
        (NOBODY if row["annotation_id"] is None else row["annotation_id"], row["image_id"], f"{row['score']:.2f}",
         row["words"]) for row in rows
    ]  # fmt: skip
    if cells:
        console.table(("person", "image", "score", "what"), cells, title="Most suspicious labels", right=(0, 1, 2))
    for note in part.notes:
        console.warn(note)
    console.status("Wrote", f"{part.path}: {len(part.people):,} people")


def _way(source: Path, folder: Path) -> str:
    """The path of a file from a folder, for a note that moves with both."""
    place = source.resolve()
    try:
        return os.path.relpath(place, folder.resolve())
    except ValueError:  # on another drive (Windows)
        return str(place)


def _look(part: OutOfFold, out: Path) -> str:
    """The command that shows these people."""
    words = ["kpdata", "browse", part.path, "--ledger", out, "--train", part.source.path]
    words += ["--images", part.images] if part.images else []
    return shlex.join(map(str, words))


def _in_json(found: Folds, lines: list[str]) -> dict[str, Any]:
    assert found.hardest is not None
    parts = [
        {
            "source": str(part.source.path), "predictions": str(part.path), "people": len(part.people),
            "stats": part.stats, "suspects": part.suspects.to_pylist(), "notes": list(part.notes), "look": line,
        }
        for part, line in zip(found.parts, lines, strict=True)
    ]  # fmt: skip
    each = [{**asdict(fold), "checkpoint": str(fold.checkpoint)} for fold in found.folds]
    return {"folds": each, "parts": parts, "hardest": found.hardest.to_pylist(), "ledger": str(found.ledger)}
