"""What the checks of `kpdata.checks` share: a dataset as arrays, each made once, and the faults they hand back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import geometry, schema
from kpdata.checks.files import Picture, probe_all
from kpdata.dataset import Dataset
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Level = Literal["error", "warning", "note"]
Table = Literal["datasets", "images", "persons"]  # in the order in which faults of one level are listed


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of one kind: `rows` (F,) of a table (for "datasets": positions in `View.names`), a message for each.

    keypoints: the name of the keypoint that each is about, or None for all.
    """

    level: Level
    table: Table
    rows: Ints
    messages: list[str]
    keypoints: list[str] | None = None


Check = Callable[["View"], Iterable[Faults]]


@dataclass(frozen=True, slots=True)
class Group:
    """The n people of one skeleton that have keypoints: rows (n,), xy (n, K, 2) px, visibility (n, K)."""

    skeleton: Skeleton
    rows: Ints
    xy: Floats
    visibility: NDArray[np.int8]

    @property
    def labelled(self) -> Bools:
        """(n, K) bool: visibility above 0, whatever the coordinate."""
        return np.greater(self.visibility, 0)

    def faults(self, level: Level, wrong: Bools, message: str, **facts: NDArray[Any]) -> Faults:
        """A fault for each True in `wrong` (n, K).

        message: a format string that may use x, y, v of the keypoint, and `facts`: arrays (n,) or (n, K) by name.
        """
        place = np.nonzero(wrong)
        x, y = self.xy[place].T
        used = {"x": x, "y": y, "v": self.visibility[place]}
        used |= {name: fact[place[: fact.ndim]] for name, fact in facts.items()}
        rows = zip(*(array.tolist() for array in used.values()), strict=True)
        words = [message.format(**dict(zip(used, row, strict=True))) for row in rows]
        names = self.skeleton.keypoint_names
        return Faults(level, "persons", self.rows[place[0]], words, [names[k] for k in place[1].tolist()])


@dataclass(frozen=True)
class View:
    """A dataset as arrays of N people and I images; NaN stands for null. folder: where its pictures are, if known."""

    dataset: Dataset
    folder: Path | None = None

    @cached_property
    def names(self) -> tuple[str | None, ...]:
        """Names of the datasets: those with provenance first, then others that rows name."""
        columns = (self.dataset.images["dataset"], self.dataset.persons["dataset"])
        used = [name for column in columns for name in _dictionary(column)[1]]
        return tuple(dict.fromkeys([*self.dataset.datasets, *used]))

    @cached_property
    def person_dataset(self) -> Ints:
        """(N,) position in `names`."""
        return self._dataset_of(self.dataset.persons["dataset"])

    @cached_property
    def image_dataset(self) -> Ints:
        """(I,) position in `names`."""
        return self._dataset_of(self.dataset.images["dataset"])

    def _dataset_of(self, column: Any) -> Ints:
        codes, found = _dictionary(column)
        return np.array([self.names.index(name) for name in found], np.int64)[codes]

    def facts(self, number: int) -> dict[str, Any]:
        """Provenance of the dataset at a position of `names`; empty where it has none."""
        name = self.names[number]
        return {} if name is None else self.dataset.datasets.get(name, {})

    def per_dataset(self, which: Callable[[dict[str, Any]], Any]) -> Bools:
        """(N,) bool: `which` holds of the provenance of the person's dataset."""
        return np.array([bool(which(self.facts(i))) for i in range(len(self.names))], bool)[self.person_dataset]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """People with keypoints, by skeleton."""
        persons = self.dataset.persons
        complete = schema.valid(persons["keypoints"]) & schema.valid(persons["visibility"])
        found = []
        for name, rows in self.dataset.groups():
            rows = rows[complete[rows]]
            if name is None or not len(rows):
                continue
            skeleton = self.dataset.skeletons[name]
            xy = schema.matrix(self.rows_of("keypoints", rows), 2 * len(skeleton)).reshape(len(rows), -1, 2)
            found.append(Group(skeleton, rows, xy, schema.matrix(self.rows_of("visibility", rows), len(skeleton))))
        return tuple(found)

    def rows_of(self, column: str, rows: Ints) -> Any:
        """Some rows of a column of persons; the column itself where that is all of them."""
        whole = schema.chunk(self.dataset.persons[column])
        return whole if len(rows) == len(whole) else whole.take(schema.fixed(rows, pa.int64()))

    @cached_property
    def labelled_count(self) -> Ints:
        """(N,) number of labelled keypoints; 0 for people without keypoints."""
        count = np.zeros(len(self.dataset), np.int64)
        for group in self.groups:
            count[group.rows] = group.labelled.sum(1)
        return count

    @cached_property
    def predicted(self) -> Bools:
        """(N,) bool: a model's output (it has scores), not an annotation."""
        persons = self.dataset.persons
        return schema.valid(persons["score"]) | schema.valid(persons["keypoint_scores"])

    @cached_property
    def crowd(self) -> Bools:
        """(N,) bool: marked as a crowd; null is no crowd."""
        column = self.dataset.persons["iscrowd"]
        marked: Bools = schema.values(column) & schema.valid(column)
        return marked

    @cached_property
    def bbox(self) -> Floats:
        """(N, 4) `x, y, w, h` as in the source."""
        return schema.matrix(self.dataset.persons["bbox"], 4).astype(np.float64, copy=False)

    @cached_property
    def tight_bbox(self) -> Bools:
        """(N,) bool: a finite box with positive sides that claims to hold the person.

        Not one made from MPII's rough centre and scale: a square around a guess.
        """
        box, sources = self.bbox, schema.texts(self.dataset.persons["bbox_source"])
        rough = np.array([source == "center_scale" for source in sources], bool)
        sound: Bools = np.isfinite(box).all(1) & (box[:, 2] > 0) & (box[:, 3] > 0) & ~rough
        return sound

    @cached_property
    def size_box(self) -> Floats:
        """(N, 4) how big a person is: its bbox, else the extent of its labelled keypoints, else NaN."""
        box = np.where(self.tight_bbox[:, None], self.bbox, np.nan)
        for group in self.groups:
            rest = ~self.tight_bbox[group.rows]
            if rest.any():
                box[group.rows[rest]] = geometry.box_from_keypoints(group.xy[rest], group.visibility[rest])
        return box

    @cached_property
    def image_row(self) -> Ints:
        """(N,) row of the person's image; -1 where it is not listed."""
        return self.dataset.image_rows()

    @cached_property
    def image_size(self) -> Floats:
        """(I, 2) width, height in px; NaN where null or not above 0."""
        images = self.dataset.images
        columns = [np.where(schema.valid(images[c]), schema.values(images[c]), 0) for c in ("width", "height")]
        size = np.stack(columns, axis=1).astype(np.float64)
        return np.where(size > 0, size, np.nan)

    @cached_property
    def person_size(self) -> Floats:
        """(N, 2) width, height of the person's image; NaN where not known."""
        known = np.concatenate([self.image_size, np.full((1, 2), np.nan)])  # row -1: the orphans
        return known[self.image_row]

    @cached_property
    def pictures(self) -> list[Picture | None]:
        """(I,) what each image's file says; None without folder or file name, and for embedded pictures."""
        names = schema.texts(self.dataset.images["file_name"])
        if self.folder is None:
            return [None] * len(names)
        embedded = np.isin(
            schema.values(self.dataset.images["image_id"]), schema.values(self.dataset.blobs["image_id"])
        )
        return probe_all(
            [None if n is None or e else self.folder / n for n, e in zip(names, embedded.tolist(), strict=True)]
        )


def _dictionary(column: Any) -> tuple[Ints, Sequence[str | None]]:
    """(codes (N,), the texts they stand for) of a text column; null is a text of its own, None."""
    encoded = schema.chunk(column).dictionary_encode(null_encoding="encode")
    return schema.values(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()
