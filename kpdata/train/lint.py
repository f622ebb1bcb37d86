"""What a training asks of its data before it starts: sources as they are read, and what would make it meaningless.

A converter that writes areas of 0 gives an AP of 0 after a night of training (open-mmlab/mmpose#1795); a flip_idx that
is no involution teaches that left elbows are knees (ultralytics#17736). Such things stop a training here, with what to
do; all that `kpdata validate` finds besides is told in a line.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import checks, converters, schema
from kpdata.augment.crops import upper_body
from kpdata.augment.presets import Preset
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, KpdataError, SchemaError, TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.config import SourceConfig
from kpdata.train.mixed import Source, onto

_FATAL = ("category-flips",)
"""Codes of `kpdata.checks` that stop a training by themselves."""


@dataclass(frozen=True, slots=True)
class Read:
    """A source that was read, and the values that it was read with."""

    source: Source
    config: SourceConfig


def read_source(config: SourceConfig, skeleton: str | None = None) -> Read:
    """The dataset of a source and the folder of its pictures.

    skeleton: of keypoints that the source does not name (a name or a file). images: the folder that was named; else one
    that the dataset itself names; else none where pictures lie in the dataset; else `images`, the folder of the split
    (COCO's val2017) or the source's own folder, whichever has the first picture. FormatError and TrainError name the
    source.
    """
    try:
        name = config.format or converters.detect(config.path)[0]
        takes = inspect.signature(converters.module(name).read).parameters
        options: dict[str, Any] = {}
        if config.images and "images" in takes:
            options["images"] = config.images
        if skeleton and "skeleton" in takes and name in ("yolo", "labelme"):  # these name no keypoints
            options["skeleton"] = skeleton
        dataset = converters.read(config.path, name, **options)
    except KpdataError as problem:
        if str(config.path) not in problem.message and config.path.name not in problem.message:
            problem.message = f"{config.path}: {problem.message}"
        raise
    except OSError as problem:
        raise FormatError(config.path, f"cannot be read ({problem.strerror or problem})") from problem
    images = config.images or picture_folder(config.path, dataset)
    return Read(Source(dataset, images, config.share, str(config.path)), config)


def picture_folder(path: Path, dataset: Dataset) -> Path | None:
    """Where the pictures of a source are for which nobody names a folder; None: in the dataset itself.

    A folder that the dataset names; `images` beside the source or its folder; the folder of the split (COCO's val2017);
    the source's own: whichever has the first picture. TrainError lists them where none has.
    """
    roots = [Path(str(facts["images_root"])) for facts in dataset.datasets.values() if facts.get("images_root")]
    if not roots and dataset.blobs.num_rows:
        return None
    first = next((name for name in schema.texts(dataset.images["file_name"]) if name), None)
    beside = path.parent if path.is_file() or path.suffix == ".kp" else path
    split = path.stem.split("_")[-1]  # of annotations/person_keypoints_val2017.json the pictures lie in val2017
    candidates = [*roots, beside / "images", path.parent / "images", beside / split, beside.parent / split, beside]
    for folder in candidates:
        if first and (folder / first).is_file():
            return folder
    if dataset.blobs.num_rows:
        return None
    tried = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise TrainError(f"{path}: its pictures were not found in {tried}", hint="--images DIR says where they are")


def lint(read: Read, *, scored: bool = False) -> list[str]:
    """Remarks on a source; TrainError for what makes training on it, or measuring on it (`scored`), meaningless."""
    dataset, path = read.source.dataset, read.source.name
    labelled, crowd = _labelled(dataset), schema.values(dataset.persons["iscrowd"])
    posed = labelled & ~crowd
    if not len(dataset):
        raise TrainError(f"{path}: there are no people in it", hint=f"`kpdata info {path}` says what is")
    if not posed.any():
        raise TrainError(
            f"{path}: of {len(dataset):,} people none has a labelled keypoint",
            hint="only keypoints of visibility 1, 2 or 3 are learnt: are the flags all 0?",
        )
    notes = [*_areas(dataset, posed, path, scored), *_boxes(dataset, posed, path)]
    return [*notes, *_findings(dataset, path)]


def _labelled(dataset: Dataset) -> NDArray[np.bool_]:
    """(N,) bool: at least one keypoint of visibility above 0."""
    flags, starts = schema.ragged(dataset.persons["visibility"])
    count = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags > 0)])
    return np.asarray(count[starts[1:]] > count[starts[:-1]])


def _areas(dataset: Dataset, posed: NDArray[np.bool_], path: str, scored: bool) -> list[str]:
    area = schema.values(dataset.persons["area"])
    zero = posed & (area <= 0)
    if not zero.any():
        return []
    what = f"{int(zero.sum()):,} of {int(posed.sum()):,} people have an area of 0 or less"
    if zero.sum() == (posed & np.isfinite(area)).sum():
        told = "measured (their AP would be -1)" if scored else "trained on, by the official rule"
        raise TrainError(
            f"{path}: {what}: nobody would be {told}",
            hint="write width x height of the box, or the mask's area, into `area`, or leave `area` out",
        )
    return [f"{path}: {what}: they are left out, as the official loader does"]


def _boxes(dataset: Dataset, posed: NDArray[np.bool_], path: str) -> list[str]:
    boxes = schema.matrix(dataset.persons["bbox"], 4)
    flat = posed & (boxes[:, 2:] <= 0).any(axis=1)
    if not flat.any():
        return []
    ids = schema.values(dataset.persons["annotation_id"])[flat][:3].tolist()
    what = f"{int(flat.sum()):,} of {int(posed.sum()):,} people have a box of zero size (annotations {ids}…)"
    if flat.sum() == posed.sum():
        raise TrainError(
            f"{path}: {what}: there is nothing to crop",
            hint="leave `bbox` out, and crops are cut around the keypoints",
        )
    return [f"{path}: {what}: those of no extent are left out"]


def _findings(dataset: Dataset, path: str) -> list[str]:
    """The lint in a line; TrainError for findings of `_FATAL`."""
    found = checks.validate(dataset)
    if not found.num_rows:
        return []
    levels, codes = schema.texts(found["level"]), schema.texts(found["code"])
    messages = schema.texts(found["message"])
    for level, code, message in zip(levels, codes, messages, strict=True):
        if level == "error" and code in _FATAL:
            raise TrainError(f"{path}: {message}", hint="mend the file: a mirrored picture would get wrong labels")
    counts = checks.summary(found)
    told = [f"{code} ({n:,})" for level in ("error", "warning") for code, n in counts[level].items()]
    return [f"{path}: {', '.join(told)}: `kpdata validate {path}` tells each"] if told else []


def expect_recipe(skeleton: Skeleton, preset: Preset) -> None:
    """TrainError where a recipe flips people whose twins are not known, or halves bodies without halves."""
    if preset.crop.flip and skeleton.flip_pairs is None:
        raise TrainError(
            f"skeleton {skeleton.name!r}: which keypoints are left and right twins is not known, and the preset "
            f"{preset.recipe.name!r} mirrors people",
            hint="give a skeleton file with flip_pairs ([] where there are none): --skeleton FILE",
        )
    if preset.crop.half_body:
        try:
            upper_body(skeleton)
        except SchemaError as problem:
            raise TrainError(
                f"{problem.message}, and the preset {preset.recipe.name!r} cuts half bodies",
                hint="--preset finetune_small or simple_baseline cuts none",
            ) from problem


def expect_val(val: Read, skeleton: Skeleton) -> list[str]:
    """A remark where a source to measure on lacks keypoints of the network's skeleton.

    TrainError where it has none of them, so that nothing could be measured.
    """
    names = np.array(skeleton.keypoint_names)
    known = onto(val.source.dataset, skeleton).known.any(axis=0)
    own = ", ".join(f"{name} ({len(s)})" for name, s in val.source.dataset.skeletons.items())
    if not known.any():
        raise TrainError(
            f"{val.source.name}: its skeleton {own} has no keypoint of the network's {skeleton.name} ({len(skeleton)})",
            hint="measure on a dataset with the same keypoints, or `kpdata convert --skeleton` it",
        )
    if known.all():
        return []
    lacking = ", ".join(names[~known].tolist())
    return [f"{val.source.name}: its skeleton {own} lacks {lacking}: these are not measured"]


def same_people(data: Sequence[Read], val: Sequence[Read]) -> list[str]:
    """A remark for each source to measure on that shares pictures with one to learn from."""
    notes = []
    for one in val:
        seen = _pictures(one)
        for other in data:
            if shared := seen & _pictures(other):
                count = f"{len(shared):,} of {len(seen):,} pictures"
                notes.append(f"{one.source.name}: {count} are in {other.source.name} too: its numbers flatter")
    return notes


def _pictures(read: Read) -> set[str]:
    folder = "" if read.source.images is None else str(read.source.images.resolve())
    return {f"{folder}/{name}" for name in schema.texts(read.source.dataset.images["file_name"]) if name}
