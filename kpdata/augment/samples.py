"""From a `Dataset` at rest to `Sample`s in flight: all people of an image together, its picture decoded once."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.augment.kernels import Size, decode_rle, mpii_crop
from kpdata.augment.reading import Orientation, Pixels, read_image
from kpdata.augment.sample import Sample
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError

PER_PERSON = ("iscrowd", "rows")
"""The entries of `Sample.extras` that have one value a person."""


class Samples(Sequence[Sample]):
    """The images of a dataset as `Sample`s, in the order of `rows`.

    images_dir: the folder that `file_name` starts from; None: the pictures embedded in the dataset (LabelMe's). rows:
    positions in `dataset.images`, all unless given. masks, polygons: also the people's masks (P, H, W), all False for a
    person without one, and outlines (none for a person with a run-length mask). orientation: of pictures with an EXIF
    turn, as `read_image`.

    Each Sample's `extras` hold `file_name`, `iscrowd` (P,) bool and `rows` (P,), the people's positions in
    `dataset.persons`. `center` and `scale` are MPII's, made into the crop of the official recipe (`kernels.mpii_crop`),
    where the dataset has them, else NaN. People whose image is not listed are left out.

    It can be sent to worker processes. SchemaError for a dataset with several skeletons and for rows outside its table;
    FormatError names a picture that is missing, broken or of another size than the dataset says.
    """

    def __init__(
        self,
        dataset: Dataset,
        images_dir: Path | str | None,
        rows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        masks: bool = False,
        polygons: bool = False,
        orientation: Orientation = "annotation",
    ) -> None:
        self.folder = None if images_dir is None else Path(images_dir)
        self.rows = _rows(rows, dataset.images.num_rows)
        self.masks, self.polygons, self.orientation = masks, polygons, orientation
        self._skeleton = dataset.skeleton
        self._columns = person_columns(dataset)
        self._order, self._starts = _by_image(dataset)
        self._image_ids = schema.values(dataset.images["image_id"])
        self._names = schema.texts(dataset.images["file_name"])
        self._sizes = np.stack([schema.values(dataset.images[side], -1) for side in ("width", "height")], axis=1)
        self._outlines = (dataset.persons["segmentation"], dataset.persons["rle"]) if masks or polygons else None
        self._blobs = dataset.blobs if images_dir is None else schema.no_blobs()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """The image at that place of `rows`; a slice gives a list."""
        if isinstance(index, slice):
            return [self._sample(row) for row in self.rows[index].tolist()]
        return self._sample(int(self.rows[index]))

    def __iter__(self) -> Iterator[Sample]:
        return map(self._sample, self.rows.tolist())

    def path(self, index: int) -> Path | None:
        """Where the picture of that place of `rows` should lie; None for embedded ones. FormatError without a name."""
        return None if self.folder is None else self.folder / self._name(int(self.rows[index]))

    def _sample(self, row: int) -> Sample:
        people = self._order[self._starts[row] : self._starts[row + 1]]
        values: dict[str, Any] = {name: column[people] for name, column in self._columns.items()}
        extras = {"file_name": self._names[row], "iscrowd": values.pop("iscrowd"), "rows": people}
        image = self._picture(row)
        return Sample(
            image, skeleton=self._skeleton, image_id=int(self._image_ids[row]), extras=extras,
            **values, **self._shapes(people, (image.shape[1], image.shape[0])),
        )  # fmt: skip

    def _name(self, row: int) -> str:
        name = self._names[row]
        if not name:
            raise FormatError(f"image {self._image_ids[row]}", "it has no file name")
        return name

    def _picture(self, row: int) -> Pixels:
        width, height = self._sizes[row].tolist()
        size: Size | None = (width, height) if width > 0 and height > 0 else None
        if self.folder is not None:
            return read_image(self.folder / self._name(row), size, orientation=self.orientation)
        name = self._names[row] or f"image {self._image_ids[row]}"
        return read_image(self._embedded(row, name), size, orientation=self.orientation, name=name)

    def _embedded(self, row: int, name: str) -> bytes:
        found = np.flatnonzero(schema.values(self._blobs["image_id"]) == self._image_ids[row])
        if not len(found):
            raise FormatError(name, "no picture is embedded in the dataset", hint="name the folder of the images")
        data: bytes = schema.chunk(self._blobs["data"])[int(found[0])].as_py()
        try:
            return base64.b64decode(data, validate=True)  # LabelMe's imageData: Base64 of a picture file
        except binascii.Error:
            return data

    def _shapes(self, people: NDArray[np.int64], size: Size) -> dict[str, Any]:
        """The outlines and masks that were asked for."""
        if self._outlines is None:
            return {}
        polygons, rles = (_cells(column, people) for column in self._outlines)
        found: dict[str, Any] = {}
        if self.polygons:
            found["polygons"] = tuple(
                tuple(np.array(p, np.float64).reshape(-1, 2) for p in own or ()) for own in polygons
            )
        if self.masks:
            masks = [_mask(own, rle, size) for own, rle in zip(polygons, rles, strict=True)]
            found["masks"] = np.stack(masks) if masks else np.zeros((0, size[1], size[0]), bool)
        return found


def samples(
    dataset: Dataset,
    images_dir: Path | str | None,
    rows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    *,
    masks: bool = False,
    polygons: bool = False,
    orientation: Orientation = "annotation",
) -> Iterator[Sample]:
    """The images one after the other; options and errors as of `Samples`."""
    return iter(Samples(dataset, images_dir, rows, masks=masks, polygons=polygons, orientation=orientation))


def sample(
    dataset: Dataset,
    image_row: int,
    images_dir: Path | str | None,
    *,
    masks: bool = False,
    polygons: bool = False,
    orientation: Orientation = "annotation",
) -> Sample:
    """One image, by its row in `dataset.images`; for many `Samples` is faster. Options and errors as of `Samples`."""
    return Samples(dataset, images_dir, [image_row], masks=masks, polygons=polygons, orientation=orientation)[0]


def people(sample: Sample) -> list[Sample]:
    """One Sample a person, in their order; all share the picture. Nobody: an empty list."""
    columns = ("keypoints", "visibility", "bbox", "area", "center", "scale", "masks", "polygons", "annotation_ids")
    given = {name: getattr(sample, name) for name in columns if getattr(sample, name) is not None}
    extras = {name: sample.extras[name] for name in PER_PERSON if name in sample.extras}
    return [
        sample.changed(
            **{name: column[i : i + 1] for name, column in given.items()},
            extras={**sample.extras, **{name: column[i : i + 1] for name, column in extras.items()}},
        )
        for i in range(len(sample.keypoints))
    ]


def _rows(rows: Sequence[int] | NDArray[np.integer[Any]] | None, count: int) -> NDArray[np.int64]:
    if rows is None:
        return np.arange(count)
    array = np.asarray(rows)
    chosen = np.asarray(rows, np.int64)
    if array.dtype == bool or chosen.ndim != 1 or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < count):
        raise SchemaError(f"image rows {array[:5].tolist()}…: expected positions in a table of {count} images")
    return chosen


def person_columns(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """The people's arrays (N, …) by the field of Sample that they fill, and `iscrowd`."""
    persons = dataset.persons
    center, scale = mpii_crop(schema.matrix(persons["center"], 2), schema.values(persons["scale"]))
    return {
        "keypoints": dataset.keypoints, "visibility": dataset.visibility,
        "bbox": schema.matrix(persons["bbox"], 4), "area": schema.values(persons["area"]),
        "center": center, "scale": scale,
        "annotation_ids": schema.values(persons["annotation_id"]), "iscrowd": schema.values(persons["iscrowd"]),
    }  # fmt: skip


def _by_image(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of people sorted by the row of their image, and where those of each image start (I + 1,)."""
    where = dataset.image_rows()
    order = np.argsort(where, kind="stable")
    return order, np.searchsorted(where[order], np.arange(dataset.images.num_rows + 1))


def _cells(column: Any, rows: NDArray[np.int64]) -> list[Any]:
    array = schema.chunk(column)
    return [array[row].as_py() for row in rows.tolist()]


def _mask(polygons: list[list[float]] | None, rle: str | None, size: Size) -> NDArray[np.bool_]:
    """(H, W) of a person as pycocotools draws it; all False without an outline."""
    if rle:
        mask = decode_rle(json.loads(rle))
        if mask.shape != (size[1], size[0]):
            raise SchemaError(f"run-length mask of {mask.shape[1]} x {mask.shape[0]} px, the picture has {size}")
        return mask
    drawable = [flat for flat in polygons or () if len(flat) >= 6]
    if not drawable:
        return np.zeros((size[1], size[0]), bool)
    from pycocotools import mask as coco

    merged = coco.merge(coco.frPyObjects(drawable, size[1], size[0]))
    return np.asarray(coco.decode(merged), bool)
