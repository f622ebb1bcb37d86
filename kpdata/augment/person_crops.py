"""People of a dataset as training crops, each straight from its picture's file: for loops that shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.augment.crops import Crop, TopDown, cut_out
from kpdata.augment.image import BLACK, warp
from kpdata.augment.partial import read_part
from kpdata.augment.presets import Preset
from kpdata.augment.reading import Orientation, read_image
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.augment.samples import person_columns
from kpdata.augment.trial import usable
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError


class PersonCrops:
    """People of a dataset, each augmented and cut out by a preset or `TopDown`: `crops[epoch, index]`.

    `crops[index]` is of epoch 0. What `rng.EpochSampler` yields are such places: it is a data set for any loader.

    images_dir: the folder that `file_name` starts from. rows: positions in `dataset.persons`; None: everybody with a
    labelled keypoint who is no crowd (`trial.usable`). seed: crop (epoch, index) is drawn from
    `generator(seed, epoch, index)`. orientation: as `read_image`.

    A crop equals `transform(person, generator(seed, epoch, index))` of the whole picture, bit by bit, but a JPEG's rows
    below it are not decoded (`partial.read_part`). reduce: a JPEG of which 2, 4 or 8 pixels would be averaged is
    decoded at that size, which saves time with large photographs; pixels differ by a level or two (`read_part` has the
    figures). `extras` hold `file_name`, `iscrowd` and `rows`, as those of `Samples`.

    It can be sent to worker processes. SchemaError for several skeletons and for rows outside the table; when a crop is
    made, FormatError that names a picture as `read_image`, SchemaError for a person without a box as `TopDown.draw`.
    """

    def __init__(
        self,
        dataset: Dataset,
        images_dir: Path | str,
        transform: Preset | TopDown,
        rows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        seed: int = 0,
        reduce: bool = False,
        orientation: Orientation = "annotation",
    ) -> None:
        if not isinstance(transform, Preset | TopDown):
            raise SchemaError(
                f"PersonCrops: {transform!r} is neither a preset nor a TopDown", hint="Samples takes any transform"
            )
        self.folder, self.transform, self.seed = Path(images_dir), transform, seed
        self.reduce, self.orientation = reduce, orientation
        self.rows = usable(dataset) if rows is None else np.asarray(rows, np.int64)
        if self.rows.ndim != 1 or (len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < len(dataset)):
            raise SchemaError(f"rows {self.rows[:5].tolist()}…: expected positions in a table of {len(dataset)} people")
        self._skeleton, self._columns = dataset.skeleton, person_columns(dataset)
        self._image = dataset.image_rows()
        if (self._image[self.rows] < 0).any():
            raise SchemaError("PersonCrops: rows of people whose image is not listed")
        self._names, self._ids = schema.texts(dataset.images["file_name"]), schema.values(dataset.images["image_id"])
        self._sizes = np.stack([schema.values(dataset.images[side], -1) for side in ("width", "height")], axis=1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int | tuple[int, int]) -> Sample:
        epoch, index = place if isinstance(place, tuple) else (0, place)
        row = int(self.rows[index])
        image = int(self._image[row])
        columns: dict[str, Any] = {name: column[row : row + 1] for name, column in self._columns.items()}
        name, (width, height) = self._names[image], self._sizes[image].tolist()
        if not name:
            raise FormatError(f"image {self._ids[image]}", "it has no file name")
        if width <= 0 or height <= 0:
            height, width = read_image(self.folder / name, orientation=self.orientation).shape[:2]
        blank = np.broadcast_to(np.uint8(0), (height, width, 3))  # the size of the picture, without its memory
        extras = {"file_name": name, "iscrowd": columns.pop("iscrowd"), "rows": self.rows[[index]]}
        person = Sample(blank, skeleton=self._skeleton, image_id=int(self._ids[image]), extras=extras, **columns)
        return self._cut(person, self.folder / name, generator(self.seed, epoch, index % len(self)))

    def _cut(self, person: Sample, path: Path, rng: np.random.Generator) -> Sample:
        if isinstance(self.transform, TopDown):
            return self._read(self.transform, person, self.transform.draw(person, rng), path)
        drawn = self.transform.draw(person, rng)
        return self.transform.finish(self._read(self.transform.crop, person, drawn.crop, path), drawn)

    def _read(self, crop: TopDown, person: Sample, drawn: Crop, path: Path) -> Sample:
        m, border = crop.matrix(person, drawn), crop.border or BLACK
        pixels, inner = read_part(
            path, person.size, m, crop.size, border,
            antialias=crop.antialias, reduce=self.reduce, orientation=self.orientation,
        )  # fmt: skip
        return cut_out(person, m, drawn, warp(pixels, m @ inner, crop.size, border, antialias=crop.antialias))
