"""The rows of COCO's `annotations`, and of a results file, as person columns."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import pairs
from kpdata.converters import _json, _rows
from kpdata.errors import FormatError, SkeletonError
from kpdata.skeleton import Skeleton, from_category
from kpdata.threads import in_threads, workers

# COCO-WholeBody's nested layout: body 17, then these groups in this order (data_format.md); numbers a group = 3 x
# keypoints.
WHOLEBODY = "coco_wholebody_133"
WHOLEBODY_PARTS = {"foot_kpts": 18, "face_kpts": 204, "lefthand_kpts": 63, "righthand_kpts": 63}
_WIDTHS = {"bbox": 4, "head_bbox": 4, "center": 2}
_STRICT_LISTS = ("keypoints", "bbox", *WHOLEBODY_PARTS)
_LISTS = ("keypoints", "bbox", "head_bbox", "center", *WHOLEBODY_PARTS)
_NUMBERS = ("area", "score", "scale")
_INTEGERS = {"num_keypoints": pa.int32(), "track_id": pa.int64(), "person_index": pa.int32()}
# Keys that are no part of COCO: where another tool uses one for something else, it goes to extras and is not refused.
_LENIENT = dict.fromkeys(("score", "scale", "track_id", "person_index"), (int, float)) | {"bbox_source": (str,)}
# Results hold their writers' own `center` and `scale` (HRNet: a list): those stay in extras.
_NOT_IN_RESULTS = ("head_bbox", "center", "scale", "person_index", "bbox_source")


@dataclass(eq=False)
class People:
    """Person columns, the skeletons they use and the layout they came in."""

    columns: dict[str, pa.Array]
    skeletons: list[Skeleton]
    variant: str


class Annotations:
    """The rows of `annotations` (or of a results file) as collected columns."""

    def __init__(self, rows: Any, source: str, *, results: bool = False) -> None:
        self.rows, self.source, self.results = rows, source, results
        self.extras = _rows.Extras()
        self.ids = {key: _rows.Scalars(key, self.extras) for key in ("id", "image_id", "category_id")}
        self.lists = {
            key: _rows.NumberLists(
                key, self.extras, source, self.where, strict=key in _STRICT_LISTS,
                triples=results and key == "keypoints",
            )
            for key in _LISTS
        }  # fmt: skip
        names = (*_NUMBERS, *_INTEGERS, "iscrowd", "bbox_source")
        self.scalars = {key: _rows.Scalars(key, self.extras) for key in names}
        self.polygons = _rows.Polygons(self.extras)
        self.count = self._collect()
        self._spill_odd()
        self.assigned = not len(self.ids["id"].rows)
        self._require("image_id")
        if not self.assigned:
            self._require("id")
        self.image_numbers: dict[Any, int] = {}
        self.listed: set[Any] = set()

    def _collect(self) -> int:
        # The ids first: every later complaint names the annotation.
        handlers: dict[str, Any] = {**self.ids, **self.lists, **self.scalars, "segmentation": self.polygons}
        handlers = {key: handler for key, handler in handlers.items() if not self.results or key not in _NOT_IN_RESULTS}

        def refuse(row: int, found: Any) -> FormatError:
            return FormatError(self.source, f"row {row + 1}: a JSON {_json.kind(found)}, expected an object")

        count = _rows.collect(self.rows, handlers, self.extras, refuse)
        texts = [*self.ids.values(), self.scalars["bbox_source"]]
        _rows.require_flat(self.rows, [*self.lists.values(), self.polygons], texts, self.extras)
        return count

    def _spill_odd(self) -> None:
        """Empty lists, lists of another length than their column's, and other uses of our own keys go to extras."""
        for key, kinds in _LENIENT.items():
            self.scalars[key].only(*kinds)
        for key, column in self.lists.items():
            width, lengths = _WIDTHS.get(key), column.lengths
            odd = (lengths == 0) if width is None else (lengths != width)
            if key == "bbox" and (odd & (lengths > 0)).any():
                row = int(np.flatnonzero(odd & (lengths > 0))[0])
                found = (
                    f"{self.where(int(column.rows[row]))}: {lengths[row]} numbers in 'bbox', expected 4 (x, y, w, h)"
                )
                raise FormatError(self.source, found)
            column.spill(odd, self.rows)

    def where(self, row: int) -> str:
        """Words for a row: annotation 17, or row 3 where the annotation has no id."""
        ids = dict(zip(self.ids["id"].rows.tolist(), self.ids["id"].items, strict=True))
        return f"annotation {ids[row]!r}" if row in ids else f"row {row + 1}"

    def _require(self, key: str) -> None:
        column = self.ids[key]
        if len(column.rows) < self.count:
            row = int(np.setdiff1d(np.arange(self.count), column.rows)[0])
            raise FormatError(self.source, f"{self.where(row)}: no {key!r}, expected an integer or a text")
        column.refuse((int, str, float), "an integer or a text", self.source, self.where)

    # ------------------------------------------------------------------------------------------------------ ids

    def number_images(self, listed: list[Any]) -> dict[Any, int]:
        """int64 number of every image id that is listed or used; texts are numbered in sorted order."""
        self.listed = set(listed)
        self.image_numbers = number_ids([*listed, *self.ids["image_id"].different()], self.source)
        return self.image_numbers

    def _id_columns(self) -> dict[str, pa.Array]:
        images, annotations = self.ids["image_id"], self.ids["id"]
        built = {"image_id": _numbered(images, self.image_numbers)}
        if self.assigned:
            built["annotation_id"] = np.arange(1, self.count + 1)
        elif annotations.array is not None and annotations.types() == {int}:
            built["annotation_id"] = annotations.array
        else:
            built["annotation_id"] = _numbered(annotations, number_ids(annotations.items, self.source))
        if str in images.types():  # the images' own rows say it of those that are listed
            self._keep(images, lambda item: type(item) is not str or item in self.listed)
        if str in annotations.types():
            self._keep(annotations, lambda item: type(item) is not str)
        return {key: schema.fixed(numbers, pa.int64()) for key, numbers in built.items()}

    def _keep(self, column: _rows.Scalars, fits: Any) -> None:
        """The source's own ids that a column of integers only numbers."""
        for row, item in zip(column.rows.tolist(), column.items, strict=True):
            if not fits(item):
                self.extras.add(row, column.key, item)

    def _category_column(self) -> tuple[pa.Array, NDArray[np.int64], list[Any]]:
        """The column, and each row's place (count,) in the list of the ids that occur (None: the row has none)."""
        column = self.ids["category_id"]
        column.refuse((int, str, float), "an integer or a text", self.source, self.where)
        if column.array is not None and column.types() == {int} and len(column.rows) == self.count:
            ids = column.array
            if len(ids) and (ids == ids[0]).all():
                known, place = ids[:1], np.zeros(len(ids), np.int64)
            else:
                known, place = np.unique(ids, return_inverse=True)
            return schema.fixed(ids, pa.int64()), place, known.tolist()
        by_row: list[Any] = [None] * self.count
        for row, item in zip(column.rows.tolist(), column.items, strict=True):
            by_row[row] = item
        fits = [type(item) is int and abs(item) < 2**63 for item in by_row]
        self._keep(column, lambda item: type(item) is int and abs(item) < 2**63)
        numbers = [item if fit else 0 for item, fit in zip(by_row, fits, strict=True)]
        unique = {item: number for number, item in enumerate(dict.fromkeys(by_row))}
        place = np.array([unique[item] for item in by_row], np.int64)
        return schema.fixed(np.array(numbers, np.int64), pa.int64(), np.array(fits, bool)), place, list(unique)

    # -------------------------------------------------------------------------------------------------- columns

    def people(self, categories: Mapping[Any, dict[str, Any]], override: Skeleton | None) -> People:
        """All person columns; `override` takes the place of the categories' skeletons."""
        category_id, place, known = self._category_column()
        columns = {**self._id_columns(), "category_id": category_id, **self.polygons.columns(self.count)}
        if categories:
            names = {c: row["name"] for c, row in categories.items() if isinstance(row.get("name"), str)}
            columns["category"] = _texts_of([names.get(c) for c in known], place)
        for key in _NUMBERS:
            columns[key] = self.scalars[key].floats(self.count, self.source, self.where)
        for key, kind in _INTEGERS.items():
            columns[key] = self.scalars[key].integers(self.count, kind, self.source, self.where)
        columns["iscrowd"] = self.scalars["iscrowd"].booleans(self.count, self.source, self.where)
        columns["bbox_source"] = self._bbox_source()
        for key in _WIDTHS:
            columns[key] = self._list_column(key)
        keypoints, skeletons, variant = self._keypoints(place, known, categories, override)
        return People({**columns, **keypoints, "extras": self.extras.column(self.count)}, skeletons, variant)

    def _bbox_source(self) -> pa.Array:
        given, boxes = self.scalars["bbox_source"], self.lists["bbox"].rows
        if not len(given.rows) and len(boxes) in (0, self.count):
            return schema.constant("annotated" if len(boxes) else None, self.count)
        found: list[str | None] = [None] * self.count
        for row in boxes.tolist():
            found[row] = "annotated"
        for row, item in zip(given.rows.tolist(), given.items, strict=True):
            found[row] = item
            if not _rows.utf8(item):
                self.extras.add(row, "bbox_source", item)
        return schema.repeated(found)

    def _list_column(self, key: str) -> pa.Array:
        column = self.lists[key]
        present = np.zeros(self.count, bool)
        present[column.rows] = True
        lengths = np.where(present, _WIDTHS[key], 0)
        return schema.lists(column.flat(), lengths, present)

    def _keypoints(
        self,
        place: NDArray[np.int64],
        known: list[Any],
        categories: Mapping[Any, dict[str, Any]],
        override: Skeleton | None,
    ) -> tuple[dict[str, pa.Array], list[Skeleton], str]:
        whole = self._wholebody_rows()
        groups = self._skeleton_groups(place, known, categories, override, whole)
        coordinates, flags, thirds = [], [], []
        names = np.zeros(self.count, np.int64)
        for number, (skeleton, rows) in enumerate(groups, start=1):
            xy, visibility, third = self._split(rows, whole, len(skeleton))
            coordinates.append((rows, xy.reshape(len(rows), -1)))
            flags.append((rows, visibility))
            # The source's own third numbers stay where one of a person's is no flag.
            kept = np.ones(len(rows), bool) if self.results else ~np.isin(third, (0, 1, 2)).all(1)
            thirds.append((rows, third) if kept.all() else (rows[kept], third[kept]))
            names[rows] = number
        thirds = [part for part in thirds if len(part[0])]
        columns = {
            "skeleton": _texts_of([None, *(skeleton.name for skeleton, _ in groups)], names),
            "keypoints": schema.lists(*_rows.spread(coordinates, self.count)),
            "visibility": schema.lists(*_rows.spread(flags, self.count), kind=pa.int8()),
            "keypoint_scores" if self.results else "visibility_raw": schema.lists(*_rows.spread(thirds, self.count)),
        }
        unique = {skeleton.name: skeleton for skeleton, _ in groups} or _declared(categories, override, self.source)
        flat = any(skeleton.name == WHOLEBODY for skeleton, _ in groups)
        variant = "wholebody_nested" if whole.any() else "wholebody_flat" if flat else "keypoints"
        return columns, list(unique.values()), variant

    def _wholebody_rows(self) -> NDArray[np.bool_]:
        """(count,) bool: the row has the 17 body keypoints and all four groups; an incomplete set goes to extras."""
        full = np.zeros((self.count, 1 + len(WHOLEBODY_PARTS)), bool)
        for number, (key, width) in enumerate([("keypoints", 51), *WHOLEBODY_PARTS.items()]):
            column = self.lists[key]
            full[column.rows, number] = column.lengths == width
        whole = np.asarray(full.all(1))
        for key in WHOLEBODY_PARTS:
            self.lists[key].spill(~whole[self.lists[key].rows], self.rows)
        return whole

    def _skeleton_groups(
        self,
        place: NDArray[np.int64],
        known: list[Any],
        categories: Mapping[Any, dict[str, Any]],
        override: Skeleton | None,
        whole: NDArray[np.bool_],
    ) -> list[tuple[Skeleton, NDArray[np.int64]]]:
        """(skeleton, rows in file order) of the people with keypoints."""
        column = self.lists["keypoints"]
        rows, lengths = column.rows, column.lengths
        code = place[rows] * 2 + whole[rows]
        same = len(code) > 0 and bool((code == code[0]).all())
        codes, first = (code[:1], np.zeros(1, np.int64)) if same else np.unique(code, return_index=True)
        groups: dict[str, tuple[Skeleton, list[NDArray[np.int64]]]] = {}
        for number in codes[np.argsort(first)].tolist():  # in the order of first appearance
            category, is_whole = known[number // 2], number % 2
            chosen = code == number if len(codes) > 1 else slice(None)
            mine = rows[chosen]
            theirs = lengths[chosen] + is_whole * sum(WHOLEBODY_PARTS.values())
            skeleton = self._skeleton(categories.get(category, {}), mine, theirs, override)
            self._check_lengths(mine, theirs, skeleton)
            if skeleton.name in groups and groups[skeleton.name][0] != skeleton:
                skeleton = replace(skeleton, name=f"{skeleton.name}_{category}")
            groups.setdefault(skeleton.name, (skeleton, []))[1].append(mine)
        return [(skeleton, np.sort(np.concatenate(parts))) for skeleton, parts in groups.values()]

    def _skeleton(
        self,
        category: Mapping[str, Any],
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        override: Skeleton | None,
    ) -> Skeleton:
        """The skeleton of a category's people, whose lists have these lengths: most of them decide."""
        known, counts = np.unique(lengths, return_counts=True) if (lengths != lengths[0]).any() else (lengths, lengths)
        numbers = int(known[counts.argmax()])
        # A results file names no keypoints: what the user says fits it, or the user means a remap.
        if override is not None and (not self.results or 3 * len(override) == numbers):
            return override
        first = self.where(int(rows[np.flatnonzero(lengths == numbers)[0]]))
        if numbers % 3:
            names = category.get("keypoints") or ()
            wanted = f"{3 * len(names)} ({len(names)} keypoints)" if names else "x, y, v of each keypoint"
            raise FormatError(self.source, f"{first}: {numbers} numbers in 'keypoints', expected {wanted}")
        try:
            return from_category(category, num_keypoints=numbers // 3)
        except SkeletonError as error:
            raise FormatError(self.source, f"{first}: {error.message}", hint=error.hint) from error

    def _check_lengths(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], skeleton: Skeleton) -> None:
        wrong = np.flatnonzero(lengths != 3 * len(skeleton))
        if len(wrong):
            raise FormatError(
                self.source,
                f"{self.where(int(rows[wrong[0]]))}: {lengths[wrong[0]]} numbers in 'keypoints', "
                f"expected {3 * len(skeleton)} ({len(skeleton)} keypoints of {skeleton.name!r}; "
                f"{len(wrong):,} such annotations)",
                hint="every person of a category needs the same keypoints; mend or remove those annotations",
            )

    def _split(
        self, rows: NDArray[np.int64], whole: NDArray[np.bool_], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.float64]]:
        """xy (n, K, 2), visibility (n, K) and the third numbers (n, K) of these rows.

        Results: coordinates as they are, visibility unknown everywhere, the third number is a score. Annotations: as
        `mark_empty`.
        """
        shape, column = (len(rows), count), self.lists["keypoints"]
        flags = np.full(shape, schema.Visibility.UNKNOWN, np.int8)
        if len(rows) == len(column.rows) and not whole[rows].any() and (apart := column.apart()):
            return apart[0].reshape(*shape, 2), flags, apart[1].reshape(shape)
        xy, thirds = np.empty((*shape, 2)), np.empty(shape)
        blocks, lock, start = self._blocks(rows, whole, count), threading.Lock(), 0

        def work() -> None:
            nonlocal start
            while True:
                with lock:
                    if (block := next(blocks, None)) is None:
                        return
                    place = slice(start, start := start + len(block))
                pairs(xy[place])[:], thirds[place] = pairs(block[..., :2]), block[..., 2]
                if not self.results:
                    flags[place] = mark_empty(xy[place], thirds[place])

        in_threads([work] * workers(), size=len(rows))
        return xy, flags, thirds

    def _blocks(self, rows: NDArray[np.int64], whole: NDArray[np.bool_], count: int) -> Iterator[NDArray[np.float64]]:
        """(n, K, 3) numbers of these rows: WholeBody's groups side by side where a row has them apart."""
        apart, column = whole[rows], self.lists["keypoints"]
        if not apart.any() and len(rows) == len(column.rows):
            yield from (block.reshape(-1, count, 3) for block in column.blocks(3 * count))
            return
        if not apart.any():
            yield column.block(rows).reshape(len(rows), count, 3)
            return
        block = np.empty((len(rows), 3 * count))
        if not apart.all():
            block[~apart] = self.lists["keypoints"].block(rows[~apart])
        parts = [self.lists[key].block(rows[apart]) for key in ("keypoints", *WHOLEBODY_PARTS)]
        block[apart] = np.concatenate(parts, axis=1)
        yield block.reshape(len(rows), count, 3)

    # --------------------------------------------------------------------------------------------- provenance

    def area_kind(self) -> str:
        """What `area` measures: the whole box, a mask, nothing, or unknown."""
        area, box = self.scalars["area"], self.lists["bbox"]
        if not len(area.rows):
            return "none"
        if np.array_equal(area.rows, box.rows):
            mine = theirs = np.arange(len(area.rows))
        else:
            _, mine, theirs = np.intersect1d(area.rows, box.rows, assume_unique=True, return_indices=True)
        values = np.array(area.items if area.array is None else area.array, np.float64)
        areas, boxes = values[mine], box.flat().reshape(-1, 4)[theirs]
        with np.errstate(all="ignore"):
            whole = boxes[:, 2] * boxes[:, 3]
            equal = np.abs(areas - whole) <= 1e-3 * np.maximum(np.abs(whole), 1)
        if len(mine) and equal.all():
            return "box"
        return "mask" if len(self.polygons.rows) or self.polygons.masks else "unknown"

    def number_style(self) -> dict[str, str]:
        """Style of the fields that do not write whole numbers as integers."""
        lists = [column for column in self.lists.values() if len(column.rows)]
        found = _rows.styles(self.rows, [*lists, self.polygons], [*self.scalars.values()])
        return {f"annotations.{key}": style for key, style in found.items()}


def mark_empty(xy: NDArray[np.float64], third: NDArray[np.float64]) -> NDArray[np.int8]:
    """Visibility (n, K) of annotations from their third numbers; COCO's empty value 0, 0, 0 becomes NaN in `xy`.

    A third number that is no flag but above 0 is "labelled, visibility unknown".
    """
    with np.errstate(invalid="ignore"):
        flag = np.where((third == 1) | (third == 2), third, np.where(third > 0, schema.Visibility.UNKNOWN, 0))
    xy[(pairs(xy) == 0) & (third == 0)] = np.nan
    return flag.astype(np.int8)


def _numbered(ids: _rows.Scalars, numbers: Mapping[Any, int]) -> NDArray[np.int64]:
    """(N,) the number of each id: itself where all are integers."""
    if ids.array is not None and ids.types() == {int}:
        return ids.array
    return np.array([numbers[item] for item in ids.items], np.int64)


def _texts_of(texts: list[str | None], place: NDArray[np.int64]) -> pa.Array:
    """The text at each place, as a column."""
    if len(place) and (place == place[0]).all():
        return schema.constant(texts[int(place[0])], len(place))
    return schema.strings([texts[number] for number in place.tolist()])


def number_ids(items: Iterable[Any], source: str) -> dict[Any, int]:
    """int64 of each id: integers as they are, texts numbered in sorted order above the largest integer."""
    unique = dict.fromkeys(items)
    if set(map(type, unique)) <= {int} and -(2**63) <= min(unique, default=0) <= max(unique, default=0) < 2**63:
        return dict(zip(unique, unique, strict=True))
    found: dict[Any, int] = {}
    for item in unique:
        if isinstance(item, str):
            continue
        if item != item or item in (float("inf"), float("-inf")) or item != int(item) or not -(2**63) <= item < 2**63:
            raise FormatError(source, f"id {item!r} is not an integer of 64 bits")
        found[item] = int(item)
    texts = sorted(item for item in unique if isinstance(item, str))
    start = max([0, *found.values()]) + 1
    if start + len(texts) > 2**63:
        raise FormatError(
            source, f"ids that are texts beside the id {start - 1}: no integer of 64 bits is left for them"
        )
    return found | {text: start + position for position, text in enumerate(texts)}


def _declared(categories: Mapping[Any, dict[str, Any]], override: Skeleton | None, source: str) -> dict[str, Skeleton]:
    """Skeletons of a file without people: what its categories declare."""
    if override is not None:
        return {override.name: override}
    found: dict[str, Skeleton] = {}
    for number, row in categories.items():
        if row.get("keypoints"):
            try:
                skeleton = from_category(row, num_keypoints=len(row["keypoints"]))
            except SkeletonError as error:
                raise FormatError(source, f"category {number!r}: {error.message}", hint=error.hint) from error
            found[skeleton.name] = skeleton
    return found
