"""Columns from the rows of a parsed JSON array: one pass, raw buffers, nothing dropped. `_columns` is the way back.

A collector is fed rows and values, many at a time, for the rows that have its key. Every key without a collector, every
explicit null and every value that its column cannot hold goes to `extras` verbatim, so that present, null and absent
stay three things.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import simdjson
from numpy.typing import NDArray

from kpdata import schema
from kpdata.converters._columns import assemble as assemble
from kpdata.converters._columns import parsed as parsed
from kpdata.converters._columns import python_lists as python_lists
from kpdata.converters._columns import python_numbers as python_numbers
from kpdata.converters._columns import python_polygons as python_polygons
from kpdata.converters._columns import scalars as scalars
from kpdata.converters._json import OBJECTS, NotStreamable, Rows, chunks, plain, text
from kpdata.errors import FormatError

_STYLE_ROWS = 100  # rows looked at to tell whether a field writes 1 or 1.0
Where = Callable[[int], str]  # names a row in a message: "annotation 17"


class Extras:
    """JSON text, a row, of what has no column."""

    def __init__(self) -> None:
        self.parts: dict[int, list[str]] = {}

    def add(self, row: int, key: str, value: Any) -> None:
        """Keep one value of one row."""
        self.extend([row], key, [value])

    def extend(self, rows: Sequence[int], key: str, values: Sequence[Any]) -> None:
        """Keep the values of one key, a row each."""
        prefix, parts = json.dumps(key) + ":", self.parts
        for row, value in zip(rows, values, strict=True):
            parts.setdefault(row, []).append(prefix + text(value))

    def objects(self, rows: Sequence[int], values: Sequence[dict[str, Any]]) -> None:
        """Keep several keys of each row at once."""
        parts = self.parts
        for row, value in zip(rows, values, strict=True):
            parts.setdefault(row, []).append(text(value)[1:-1])

    def brackets(self) -> int:
        """How many `[` stand in it."""
        return sum(part.count("[") for parts in self.parts.values() for part in parts)

    def column(self, count: int) -> pa.Array:
        """(count,) texts: one JSON object a row that has any, else null."""
        if not self.parts:
            return pa.nulls(count, pa.string())
        texts: list[str | None] = [None] * count
        for row, parts in self.parts.items():
            texts[row] = "{" + ",".join(sorted(parts)) + "}"  # sorted: the same in chunks of any size
        return schema.strings(texts)


def collect(rows: Any, handlers: Mapping[str, Any], extras: Extras, refuse: Callable[[int, Any], Exception]) -> int:
    """Feed every value of every row to its key's handler, a column at a time, in the handlers' order; the row count.

    rows: a list of dicts or `_json.Rows`. A key without handler goes to extras. refuse: the error for a row that is no
    object. Raises NotStreamable where a key stands twice in an object: the standard library says which one counts.
    """
    start = 0
    for chunk in chunks(rows):
        _collect_chunk(chunk, start, handlers, extras, refuse)
        start += len(chunk)
        del chunk  # simdjson's parser waits for its objects to go
    return start


def _collect_chunk(
    chunk: list[Any], start: int, handlers: Mapping[str, Any], extras: Extras, refuse: Callable[[int, Any], Exception]
) -> None:
    if not set(map(type, chunk)) <= set(OBJECTS):
        place = next(i for i, row in enumerate(chunk) if type(row) not in OBJECTS)
        raise refuse(start + place, chunk[place])
    layouts: list[tuple[str, ...]] = list(map(tuple, chunk))
    sets = {layout: frozenset(layout) for layout in dict.fromkeys(layouts)}
    if any(len(keys) < len(layout) for layout, keys in sets.items()):
        raise NotStreamable
    everywhere = len(sets) == 1
    # Key by key over the rows in file order: collectors rely on rising row numbers.
    seen = frozenset().union(*sets.values())
    for key in [key for key in handlers if key in seen]:
        places = range(len(chunk)) if everywhere else [i for i, layout in enumerate(layouts) if key in sets[layout]]
        members = chunk if everywhere else [chunk[i] for i in places]
        handlers[key].extend([start + i for i in places], [row[key] for row in members])
    others = {layout: [key for key in layout if key not in handlers] for layout in sets}
    kept = [i for i, layout in enumerate(layouts) if others[layout]]
    extras.objects([start + i for i in kept], [{key: chunk[i][key] for key in others[layouts[i]]} for i in kept])


def _exact(item: Any) -> bool:
    """Whether a float64 holds a number of JSON exactly."""
    try:
        return type(item) is float or int(float(item)) == item
    except OverflowError:
        return False


def utf8(item: str) -> bool:
    """Whether UTF-8 can hold a text: broken JSON escapes leave lone surrogates, which it cannot."""
    return item.isascii() or item == item.encode("utf-8", "replace").decode()


class Scalars:
    """One optional value a row: a number, a boolean or a text."""

    def __init__(self, key: str, extras: Extras) -> None:
        self.key, self.extras = key, extras
        self.rows: list[int] = []
        self.items: list[Any] = []

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take values of these rows; an explicit null goes to extras."""
        if None in values:
            nulls = [value is None for value in values]
            self.extras.extend([r for r, null in zip(rows, nulls, strict=True) if null], self.key, [None] * sum(nulls))
            rows = [row for row, null in zip(rows, nulls, strict=True) if not null]
            values = [value for value in values if value is not None]
        self.rows.extend(rows)
        self.items.extend(values)

    def types(self) -> set[type]:
        """The Python types of the values."""
        return set(map(type, self.items))

    def refuse(self, allowed: tuple[type, ...], expected: str, source: str, where: Where) -> None:
        """FormatError for the first value of another type."""
        if not self.types() <= set(allowed):
            row, item = next((r, i) for r, i in zip(self.rows, self.items, strict=True) if type(i) not in allowed)
            raise FormatError(source, f"{where(row)}: {self.key!r} is {_short(item)}, expected {expected}")

    def only(self, *allowed: type) -> None:
        """Values of another type go to extras: a key that others use for something else."""
        if not self.types() <= set(allowed):
            self._spill(lambda item: type(item) in allowed)

    def integers(self, count: int, kind: pa.DataType, source: str, where: Where) -> pa.Array:
        """Column of integers; 640.0 is one, 640.5 and what `kind` is too narrow for go to extras."""
        self.refuse((int, float), "an integer", source, where)
        limits = np.iinfo(np.int32 if kind == pa.int32() else np.int64)
        if self.types() != {int} or not limits.min <= min(self.items) <= max(self.items) <= limits.max:
            self._spill(lambda item: item == item // 1 and limits.min <= item <= limits.max)
        return self._scatter(count, kind, np.array(list(map(int, self.items)), np.int64))

    def floats(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of numbers; integers that no float64 is equal to go to extras."""
        self.refuse((int, float), "a number", source, where)
        if any(type(item) is int and abs(item) > 2**53 for item in self.items):
            self._spill(_exact)
        return self._scatter(count, pa.float64(), np.array(self.items, np.float64))

    def booleans(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of booleans from true/false or 0/1; another number is true and stays in extras too."""
        self.refuse((int, float, bool), "0, 1, true or false", source, where)
        if not set(self.items) <= {0, 1}:
            for row, item in zip(self.rows, self.items, strict=True):
                if item not in (0, 1):
                    self.extras.add(row, self.key, item)
        return self._scatter(count, pa.bool_(), np.array(list(map(bool, self.items)), bool))

    def texts(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of texts; those with a lone surrogate, which UTF-8 cannot hold, stay in extras too."""
        self.refuse((str,), "a text", source, where)
        found: list[str | None] = [None] * count
        for row, item in zip(self.rows, self.items, strict=True):
            found[row] = item
            if not utf8(item):
                self.extras.add(row, self.key, item)
        return schema.strings(found)

    def _spill(self, fits: Callable[[Any], bool]) -> None:
        keep = [bool(fits(item)) for item in self.items]
        for row, item, stays in zip(self.rows, self.items, keep, strict=True):
            if not stays:
                self.extras.add(row, self.key, item)
        if not all(keep):
            self.rows = [row for row, stays in zip(self.rows, keep, strict=True) if stays]
            self.items = [item for item, stays in zip(self.items, keep, strict=True) if stays]

    def _scatter(self, count: int, kind: pa.DataType, data: NDArray[Any]) -> pa.Array:
        if len(self.rows) == count:
            return schema.fixed(data, kind)
        present = np.zeros(count, bool)
        present[self.rows] = True
        full = np.zeros(count, data.dtype)
        full[self.rows] = data
        return schema.fixed(full, kind, present)

    def style(self) -> str | None:
        """How the source writes these numbers: `bool`, `int`, `float` (1.0 for one) or None where it cannot be told."""
        types = self.types()
        if types == {bool}:
            return "bool"
        return "float" if types == {float} and any(item == item // 1 for item in self.items) else None


class NumberLists:
    """One optional flat list of numbers a row, copied as raw float64.

    where: names a row in a message. strict: anything but a flat list of numbers is refused; else it goes to extras.
    """

    def __init__(
        self, key: str, extras: Extras, source: str, where: Where | None = None, *, strict: bool = True
    ) -> None:
        self.key, self.extras, self.source, self.strict = key, extras, source, strict
        self.where = where or (lambda row: f"row {row + 1}")
        self.rows: list[int] = []
        self.lengths: list[int] = []
        self.data = bytearray()
        self.saw_integer = False

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take the lists of these rows; an explicit null goes to extras."""
        lengths, body, self.saw_integer = joined_numbers(values, self.saw_integer)
        if lengths is None:
            self._one_by_one(rows, values)
            return
        self.rows.extend(rows)
        self.lengths.extend(lengths)
        self.data += body

    def _one_by_one(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        for row, value in zip(rows, values, strict=True):
            lengths, body, saw_integer = joined_numbers([value], self.saw_integer)
            if lengths is None:
                if self.strict and value is not None:
                    found = f"{self.where(row)} ({self.key!r}): {_fault(value)}, expected a flat list of numbers"
                    raise FormatError(self.source, found)
                self.extras.add(row, self.key, value)
                continue
            self.saw_integer = saw_integer
            self.rows.append(row)
            self.lengths.extend(lengths)
            self.data += body

    def flat(self) -> NDArray[np.float64]:
        """All values, one row after the other."""
        return np.frombuffer(self.data, np.float64)

    def brackets(self) -> int:
        """How many `[` these lists were written with."""
        return len(self.rows)

    def block(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, L) values of these rows, which have one length."""
        lengths, flat = np.array(self.lengths, np.int64), self.flat()
        where = np.searchsorted(np.array(self.rows, np.int64), rows)
        width = int(lengths[where[0]]) if len(rows) else 0
        if len(rows) == len(self.rows):
            return flat.reshape(-1, width)
        chosen: NDArray[np.float64] = flat[(np.cumsum(lengths) - lengths)[where][:, None] + np.arange(width)]
        return chosen

    def spill(self, odd: NDArray[np.bool_], source: Any) -> None:
        """Move these of the collected lists (a mask over `rows`) to extras, verbatim from the rows that were read."""
        if not odd.any():
            return
        moved = np.array(self.rows)[odd].tolist()
        self.extras.extend(moved, self.key, reread(source, self.key, moved))
        self.data = bytearray(self.flat()[np.repeat(~odd, self.lengths)].tobytes())
        self.rows = [row for row, out in zip(self.rows, odd.tolist(), strict=True) if not out]
        self.lengths = [length for length, out in zip(self.lengths, odd.tolist(), strict=True) if not out]

    def undecided(self) -> NDArray[np.int64]:
        """Rows with an integral value while no integer was seen: only the source's own text tells 1 from 1.0."""
        return _integral_rows(self, np.array(self.lengths, np.int64))


class Polygons:
    """Segmentation: lists of polygons as numbers, run-length masks as JSON text, whatever else into extras."""

    def __init__(self, extras: Extras) -> None:
        self.key, self.extras = "segmentation", extras
        self.rows: list[int] = []
        self.polygons: list[int] = []  # of each row
        self.lengths: list[int] = []  # of each polygon
        self.data = bytearray()
        self.saw_integer = False
        self.masks: dict[int, str] = {}

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take the segmentations of these rows."""
        lists = [isinstance(value, simdjson.Array | list) for value in values]
        at_once = [(row, value) for row, value, yes in zip(rows, values, lists, strict=True) if yes]
        done = bool(at_once) and self._polygons(*zip(*at_once, strict=True))
        for row, value, is_list in zip(rows, values, lists, strict=True):
            if is_list:
                if not done and not self._polygons([row], [value]):
                    self.extras.add(row, self.key, value)
            elif isinstance(value, OBJECTS):
                self.masks[row] = text(value)
            else:
                self.extras.add(row, self.key, value)

    def _polygons(self, rows: Sequence[int], values: Sequence[Any]) -> bool:
        polygons = [polygon for value in values for polygon in value]
        lengths, body, saw_integer = joined_numbers(polygons, self.saw_integer)
        if lengths is None:
            return False
        self.saw_integer = saw_integer
        self.rows.extend(rows)
        self.polygons.extend(map(len, values))
        self.lengths.extend(lengths)
        self.data += body
        return True

    def flat(self) -> NDArray[np.float64]:
        """All values, one polygon after the other."""
        return np.frombuffer(self.data, np.float64)

    def brackets(self) -> int:
        """As `NumberLists.brackets`."""
        return len(self.rows) + sum(self.polygons) + sum(mask.count("[") for mask in self.masks.values())

    def undecided(self) -> NDArray[np.int64]:
        """As `NumberLists.undecided`."""
        edges = np.concatenate([[0], np.cumsum(self.lengths)])
        ends = np.cumsum(self.polygons).astype(np.int64)
        return _integral_rows(self, edges[ends] - edges[ends - np.array(self.polygons, np.int64)])

    def columns(self, count: int) -> dict[str, pa.Array]:
        """`segmentation` and `rle` of `count` rows."""
        present = np.zeros(count, bool)
        present[self.rows] = True
        lengths = np.zeros(count, np.int64)
        lengths[self.rows] = self.polygons
        inner = schema.lists(self.flat(), np.array(self.lengths, np.int64))
        texts = (
            schema.strings([self.masks.get(row) for row in range(count)])
            if self.masks
            else pa.nulls(count, pa.string())
        )
        return {"segmentation": schema.lists(inner, lengths, present), "rle": texts}


def reread(rows: Any, key: str, wanted: Sequence[int]) -> list[Any]:
    """The values of one key in these rows (rising), as plain Python."""
    found: list[Any] = []
    start = 0
    for chunk in chunks(rows):
        found += [plain(chunk[row - start][key]) for row in wanted if start <= row < start + len(chunk)]
        start += len(chunk)
        chunk = []  # simdjson's parser waits for its objects to go
    return found


def require_flat(
    rows: Any, lists: Sequence[NumberLists | Polygons], scalars: Sequence[Scalars], extras: Extras
) -> None:
    """NotStreamable where lists stood inside number lists: simdjson copies `[1, [2]]` as if it were flat.

    Called right after `collect`; every `[` in the text has to be one that a collector knows of.
    """
    if isinstance(rows, Rows):
        known = sum(column.brackets() for column in lists) + extras.brackets()
        known += sum(item.count("[") for column in scalars for item in column.items if type(item) is str)
        if known != rows.brackets():
            raise NotStreamable


def _integral_rows(column: NumberLists | Polygons, lengths: NDArray[Any]) -> NDArray[np.int64]:
    if column.saw_integer or not column.rows:
        return np.empty(0, np.int64)
    flat = column.flat()
    total = np.concatenate([[0], np.cumsum(flat == np.floor(flat))])
    ends = np.cumsum(lengths).astype(np.int64)
    return np.array(column.rows, np.int64)[total[ends] > total[ends - lengths.astype(np.int64)]]


def joined_numbers(values: Sequence[Any], saw_integer: bool) -> tuple[list[int] | None, bytes, bool]:
    """(lengths, float64 bytes, whether an integer was seen by now) of flat lists of numbers; None where one is another.

    simdjson copies a list of numbers in one go, integers as doubles, so only the first element of each list is asked
    for its type; what that misses is decided by `styles`.
    """
    try:
        if set(map(type, values)) <= {simdjson.Array}:
            lengths = list(map(len, values))
            seen = saw_integer or any(type(value[0]) is int for value in values[:_STYLE_ROWS] if len(value))
            body = b"".join([value.as_buffer(of_type="d") for value in values])
            return (lengths if len(body) == 8 * sum(lengths) else None), body, seen
        if set(map(type, values)) <= {list}:
            flat = [item for value in values for item in value]
            kinds = set(map(type, flat))
            if kinds <= {int, float}:
                return list(map(len, values)), np.array(flat, np.float64).tobytes(), saw_integer or int in kinds
    except (TypeError, ValueError, OverflowError):  # a text, a null, a huge integer: the caller words it row by row
        return None, b"", saw_integer
    return None, b"", saw_integer


def styles(rows: Any, columns: Sequence[NumberLists | Polygons], scalars: Sequence[Scalars]) -> dict[str, str]:
    """Number style of each key that does not write integral numbers as integers: `float` or `bool`.

    Where the first pass could not tell (it saw doubles only, some of them integral), the first of those rows are looked
    at again until an integer turns up. A field that mixes both and hides its integers further down is written as
    floats: the same numbers.
    """
    found = {column.key: style for column in scalars if (style := column.style()) is not None}
    open_keys = {column.key: set(column.undecided()[:_STYLE_ROWS].tolist()) for column in columns}
    open_keys = {key: where for key, where in open_keys.items() if where}
    wanted = set().union(*open_keys.values())
    start = 0
    for chunk in chunks(rows) if wanted else ():
        for place in wanted.intersection(range(start, start + len(chunk))):
            row = chunk[place - start]
            for key in [k for k, where in open_keys.items() if place in where and _holds_integer(row[k])]:
                del open_keys[key]
        start += len(chunk)
        if not open_keys or start > max(wanted):
            break
        chunk, row = [], None  # simdjson's parser waits for its objects to go
    return found | dict.fromkeys(sorted(open_keys), "float")


_INTEGER = re.compile(rb"[\[,]-?\d+[,\]]")  # in minified JSON: a number without point or exponent


def _holds_integer(value: Any) -> bool:
    if isinstance(value, simdjson.Array):
        text_of_list: Any = value.mini  # bytes, whatever its type hint says
        return _INTEGER.search(text_of_list) is not None
    if isinstance(value, list):
        return any(_holds_integer(item) for item in value)
    return type(value) is int


def spread(
    parts: Sequence[tuple[NDArray[Any], NDArray[Any]]], count: int
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
    """Matrices of different width, each with its rows, as (values in row order, lengths (count,), present (count,))."""
    lengths, present = np.zeros(count, np.int64), np.zeros(count, bool)
    for rows, block in parts:
        lengths[rows], present[rows] = block.shape[1], True
    if len(parts) == 1 and len(parts[0][0]) == count:
        return parts[0][1].reshape(-1), lengths, present
    starts = np.cumsum(lengths) - lengths
    flat = np.empty(int(lengths.sum()), parts[0][1].dtype if parts else np.float64)
    for rows, block in parts:
        flat[starts[rows][:, None] + np.arange(block.shape[1])] = block
    return flat, lengths, present


def _short(item: Any) -> str:
    found = plain(item)
    shown = repr(found) if isinstance(found, str | int | float | None) else text(found)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _fault(value: Any) -> str:
    """What is wrong with a list that should be flat numbers."""
    found = plain(value)
    if not isinstance(found, list):
        return f"found {_short(found)}"
    fits = (type(item) is float or (type(item) is int and abs(item) < 2**1023) for item in found)
    position = next((i for i, fit in enumerate(fits) if not fit), 0)
    return f"found {_short(found[position])} at position {position}" if found else "found a list"
