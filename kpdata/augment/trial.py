"""People of a dataset taken through a preset one after the other: the pass of preview, statistics, writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.augment.crops import upper_body
from kpdata.augment.kernels import outside
from kpdata.augment.measured import Draws
from kpdata.augment.presets import Preset, PresetDraw
from kpdata.augment.preview import decompose
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.augment.samples import Samples, people
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError
from kpdata.geometry import box_from_keypoints
from kpdata.schema import Visibility

MARGIN = 0.2
"""What is added to the extent of the keypoints where a person has no box."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One person, as annotated and after each of its augmentations."""

    row: int  # of the person in `dataset.persons`
    split: str | None  # of the image
    before: Sample  # the whole picture, this person alone
    plain: Sample  # as evaluation sees it
    drawn: tuple[PresetDraw, ...]
    after: tuple[Sample, ...]


@dataclass
class Trial:
    """`samples` augmentations of each person: number k of row r is drawn with `generator(seed, k, r)`, so that a person
    gets the same ones however many others are taken.

    Pictures that cannot be used are left out and stand in `unusable` (file name, reason), people without a box, or
    anything to make one from, are left out and counted in `boxless`. pictures: those that were used. masks: take the
    people's masks along, where the dataset has them.
    """

    preset: Preset
    samples: int = 4
    seed: int = 0
    masks: bool = False
    pictures: int = 0
    boxless: int = 0
    unusable: list[tuple[str, str]] = field(default_factory=list)

    def cases(self, dataset: Dataset, rows: NDArray[np.int64], images_dir: Path | str) -> Iterator[Case]:
        """The people in these rows of `dataset.persons`, skeleton by skeleton, image by image."""
        for name, members in dataset.groups():
            chosen = np.intersect1d(rows, members)
            if name is not None and len(chosen):
                yield from self._alike(dataset.select(persons=chosen), chosen, images_dir)

    def shares(self, dataset: Dataset, rows: NDArray[np.int64], images: int) -> list[NDArray[np.int64]]:
        """These rows in parts of so many images: `cases` of the parts, one after the other, are those of all."""
        parts: list[NDArray[np.int64]] = []
        where = dataset.image_rows()
        for name, members in dataset.groups():
            chosen = np.intersect1d(rows, members)
            if name is None or not len(chosen):
                continue
            chosen = chosen[np.argsort(where[chosen], kind="stable")]
            number = np.unique(where[chosen], return_inverse=True)[1]  # of the image, within the group
            parts += np.split(chosen, np.flatnonzero(np.diff(number // images)) + 1)
        return parts

    def add(self, other: Trial) -> None:
        """Count what another one met, too."""
        self.pictures += other.pictures
        self.boxless += other.boxless
        self.unusable += other.unusable

    def _alike(self, part: Dataset, rows: NDArray[np.int64], images_dir: Path | str) -> Iterator[Case]:
        """People of one skeleton; rows: theirs in the whole dataset."""
        images = np.unique(part.image_rows())
        table = schema.take(part.images, images)
        names, splits = schema.texts(table["file_name"]), schema.texts(table["split"])
        whole = Samples(part, images_dir, images, masks=self.masks)
        for place, name in enumerate(names):
            try:
                found = people(whole[place])
            except FormatError as problem:
                self.unusable.append((name or "", problem.message))
                continue
            self.pictures += 1
            for one in map(with_box, found):
                if one is None:
                    self.boxless += 1
                else:
                    yield self._case(int(rows[one.extras["rows"][0]]), splits[place], one)

    def _case(self, row: int, split: str | None, before: Sample) -> Case:
        drawn = tuple(self.preset.draw(before, generator(self.seed, k, row)) for k in range(self.samples))
        after = tuple(self.preset.apply(before, numbers) for numbers in drawn)
        return Case(row, split, before, self.preset.evaluation(before), drawn, after)


def with_box(person: Sample) -> Sample | None:
    """The sample of one person, who has a crop (MPII's centre and scale) or a box, or gets one: the extent of the
    labelled keypoints, a fifth larger. None where these are one point."""
    assert person.bbox is not None and person.scale is not None
    if np.isfinite(person.scale).all() or (np.isfinite(person.bbox).all() and (person.bbox[:, 2:] > 0).any()):
        return person
    box = box_from_keypoints(person.keypoints, person.visibility)
    if not (box[:, 2:] > 0).any():
        return None
    margin = box[:, 2:] * (MARGIN / 2)
    return person.changed(bbox=np.concatenate([box[:, :2] - margin, box[:, 2:] + 2 * margin], axis=1))


def usable(dataset: Dataset) -> NDArray[np.int64]:
    """Rows of `dataset.persons` with a labelled keypoint, in a listed image, no crowds. SchemaError where nobody is."""
    flags, starts = schema.ragged(dataset.persons["visibility"])
    labelled = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags > 0)])
    posed = (labelled[starts[1:]] > labelled[starts[:-1]]) & ~schema.values(dataset.persons["iscrowd"])
    rows = np.flatnonzero(posed & (dataset.image_rows() >= 0))
    if not len(rows):
        raise SchemaError(f"nobody to augment: of {len(dataset):,} people none has a labelled keypoint")
    return rows


def spread_out(rows: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """`count` of these, evenly spread over their order; all where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def measure(preset: Preset, case: Case) -> Draws:
    """What happened to one person's samples. Turn, flip and scale are read off the maps that the samples went through;
    the scale of a half body, whose box is another, is what was drawn, and its shift is NaN."""
    crops = [numbers.crop for numbers in case.drawn]
    base = preset.plain.draw(case.before, np.random.default_rng(0))
    maps = [decompose(sample.matrix @ np.linalg.inv(case.plain.matrix)) for sample in case.after]
    zoom, turn, flipped = (np.array(column) for column in zip(*maps, strict=True))
    half = np.array([crop.half_body != "" for crop in crops])
    shift = (np.array([crop.center for crop in crops]) - base.center) / base.scale
    labelled = case.before.visibility[0] > 0
    enough = int(labelled.sum()) > preset.recipe.half_body_above
    return Draws(
        flipped=flipped,
        turn=turn,
        scale=np.where(half, [crop.factor for crop in crops], 1 / zoom),
        shift=np.where(half[:, None], np.nan, shift),
        half=half,
        upper=np.array([crop.half_body == "upper" for crop in crops]),
        may_half=np.full(len(crops), enough),
        either=np.full(
            len(crops),
            preset.recipe.half_body > 0 and _both_halves(labelled, case.before, preset.recipe.half_body_least),
        ),
        labelled=np.full(len(crops), labelled.sum()),
        lost=np.array([_outside(sample) for sample in case.after]),
        lost_plain=np.full(len(crops), _outside(case.plain)),
        covered=np.array([_occluded(sample) - _occluded(case.before) for sample in case.after]),
    )


def _both_halves(labelled: NDArray[np.bool_], sample: Sample, least: tuple[int, int]) -> bool:
    """Enough labelled keypoints in each half: either may be chosen."""
    upper = upper_body(sample.skeleton)
    return int((labelled & upper).sum()) >= least[0] and int((labelled & ~upper).sum()) >= least[1]


def _outside(sample: Sample) -> int:
    return int((outside(sample.keypoints, sample.size) & (sample.visibility > 0)).sum())


def _occluded(sample: Sample) -> int:
    return int((sample.visibility == Visibility.OCCLUDED).sum())
