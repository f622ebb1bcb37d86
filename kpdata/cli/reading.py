"""Sources as commands read them: the format from content, the skeleton where they name none, errors with the file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kpdata.cli import console
from kpdata.errors import FormatError, KpdataError, SkeletonError

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.skeleton import Skeleton

# These never name their keypoints: the reader itself has to be told the skeleton.
_NAMELESS = ("coco_results", "yolo", "labelme")


@contextmanager
def naming(*paths: Path) -> Iterator[None]:
    """Errors raised inside name these files, from whatever depth they come."""
    where = " and ".join(map(str, paths))
    try:
        yield
    except KpdataError as problem:
        if not any(str(path) in problem.message or path.name in problem.message for path in paths):
            problem.message = f"{where}: {problem.message}"
        raise
    except OSError as problem:
        raise FormatError(problem.filename or where, f"cannot be read ({problem.strerror or problem})") from problem
    except Exception as problem:
        problem.add_note(where)
        raise


def detected(source: Path) -> str:
    """The format that a source's content says."""
    from kpdata import converters

    with naming(source):
        return converters.detect(source)[0]


def read(
    source: Path,
    format: str | None = None,
    *,
    skeleton: str | None = None,
    images: Path | None = None,
    hashed: bool = False,
    **options: Any,
) -> Dataset:
    """A source of any format. skeleton: a name or file, for keypoints that the source does not name.

    Where the source names its keypoints `skeleton` changes nothing: the caller remaps to it, or refuses it. images: the
    folder of the photographs, for formats that look into them. options: the format's own.
    """
    from kpdata import converters
    from kpdata.converters._source import Source
    from kpdata.skeleton import load

    goal = load(skeleton) if skeleton else None
    opened = Source(source)  # detection and reading share its bytes
    with console.working(f"reading {source}"), naming(source):
        name = format or converters.detect(opened)[0]
        reader = inspect.signature(converters.module(name).read).parameters
        told = {"skeleton": skeleton} if goal and "skeleton" in reader else {}
        options |= {"images": images} if images and "images" in reader else {}
        try:
            first = told if name in _NAMELESS else {}
            found = converters.read(opened, name, hashed=hashed, **first, **options)
        except FormatError as problem:
            # Names that do not fit the annotations: the skeleton takes their place.
            if not isinstance(problem.__cause__, SkeletonError) or not told or name in _NAMELESS:
                raise
            found = converters.read(opened, name, hashed=hashed, **told, **options)
        return _named(found, goal) if goal else found


def expect_images(sources: Sequence[Path], formats: Sequence[str], images: Path | None) -> None:
    """Wrong usage where a folder of photographs was named for formats that do not look into them."""
    from kpdata import converters

    takers = [f for f in converters.FORMATS if "images" in inspect.signature(converters.module(f).read).parameters]
    if images and not set(formats) & set(takers):
        named = ", ".join(f"{source} is {format}" for source, format in zip(sources, formats, strict=True))
        raise typer.BadParameter(f"--images: only {' and '.join(takers)} are read with photographs; {named}")


def _named(dataset: Dataset, goal: Skeleton) -> Dataset:
    """The dataset with `goal` in the place of a skeleton of as many keypoints without names (`keypoints_K`)."""
    from kpdata import schema

    anonymous = f"keypoints_{len(goal)}"
    if anonymous not in dataset.skeletons:
        return dataset
    names = [goal.name if name == anonymous else name for name in schema.texts(dataset.persons["skeleton"])]
    index = dataset.persons.schema.get_field_index("skeleton")
    skeletons = {goal.name if name == anonymous else name: s for name, s in dataset.skeletons.items()}
    persons = dataset.persons.set_column(index, "skeleton", schema.repeated(names))
    renamed = replace(dataset, persons=persons, skeletons={**skeletons, goal.name: goal})
    return renamed.with_history("name keypoints", skeleton=goal.name)


def expect_skeleton(dataset: Dataset, source: Path, skeleton: str | None) -> None:
    """SkeletonError where the user named a skeleton for a source that names its own keypoints."""
    from kpdata.skeleton import load

    if skeleton and (goal := load(skeleton)).name not in dataset.skeletons:
        own = ", ".join(f"{name} ({len(s)} keypoints)" for name, s in dataset.skeletons.items()) or "none"
        raise SkeletonError(
            f"{source}: --skeleton {goal.name} ({len(goal)} keypoints), but the file's own is {own}",
            hint="leave it out here; `kpdata convert --skeleton` remaps",
        )
