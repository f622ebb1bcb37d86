"""What `_rows.collect` feeds: one collector a key, values of many rows at a time, rows rising.

Every explicit null and every value that its column cannot hold goes to `extras` verbatim, so that present, null and
absent stay three things. `extend` takes parsed values, `take` what the compiled scanner found, once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import simdjson
from numpy.typing import NDArray

from kpdata import schema
from kpdata.converters import _scanner, _scanning
from kpdata.converters._extras import Extras as Extras
from kpdata.converters._json import OBJECTS, chunks, plain, text
from kpdata.converters._stores import Integers, Ints, Numbers, Triples, any_integral
from kpdata.errors import FormatError

STYLE_ROWS = 100  # rows looked at to tell whether a field writes 1 or 1.0
Where = Callable[[int], str]  # names a row in a message: "annotation 17"


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

    kind = _scanning.SCALAR

    def __init__(self, key: str, extras: Extras) -> None:
        self.key, self.extras = key, extras
        self._rows = Integers()
        self._items: list[Any] | None = []
        self._arrays: list[NDArray[Any]] = []  # the values where all are integers, or all reals, of the scanner

    @property
    def rows(self) -> Ints:
        """(V,) rows that have the key, rising."""
        return self._rows.array()

    @property
    def items(self) -> list[Any]:
        """Their values, as Python's."""
        if self._items is None:
            self._items = [] if self.array is None else self.array.tolist()
        return self._items

    @property
    def array(self) -> NDArray[Any] | None:
        """(V,) int64 or float64, where the scanner found nothing else."""
        if len(self._arrays) > 1:
            self._arrays = [np.concatenate(self._arrays)]
        return self._arrays[0] if self._arrays else None

    def different(self) -> list[Any]:
        """The different values in the order of first appearance."""
        if self.array is None:
            return list(dict.fromkeys(self.items))
        fresh = np.ones(len(self.array), bool)
        fresh[1:] = self.array[1:] != self.array[:-1]  # rows of an image usually stand together
        return list(dict.fromkeys(self.array[fresh].tolist()))

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take values of these rows; an explicit null goes to extras."""
        if None in values:
            nulls = [value is None for value in values]
            self.extras.extend([r for r, null in zip(rows, nulls, strict=True) if null], self.key, [None] * sum(nulls))
            rows = [row for row, null in zip(rows, nulls, strict=True) if not null]
            values = [value for value in values if value is not None]
        self._rows.add(rows)
        self.items.extend(values)

    def take(self, found: _scanning.Found) -> None:
        """As `extend`, many rows at once."""
        kind = found.kinds[0] if (found.kinds == found.kinds[0]).all() else None
        types = {np.dtype(np.int64): _scanner.INTEGER, np.dtype(np.float64): _scanner.REAL}
        fits = not self._rows.parts or (self._arrays and types[self._arrays[0].dtype] == kind)
        if fits and kind in types.values():
            self._arrays.append(found.first if kind == _scanner.INTEGER else found.first.view(np.float64))
            self._items = None
            self._rows.add(found.rows)
        else:
            self._items, self._arrays = self.items, []  # made of the arrays so far
            self.extend(found.rows.tolist(), found.items())

    def types(self) -> set[type]:
        """The Python types of the values."""
        if self.array is not None:
            return {int if self.array.dtype == np.int64 else float}
        return set(map(type, self.items))

    def refuse(self, allowed: tuple[type, ...], expected: str, source: str, where: Where) -> None:
        """FormatError for the first value of another type."""
        if not self.types() <= set(allowed):
            pairs = zip(self.rows.tolist(), self.items, strict=True)
            row, item = next((r, i) for r, i in pairs if type(i) not in allowed)
            raise FormatError(source, f"{where(row)}: {self.key!r} is {_short(item)}, expected {expected}")

    def only(self, *allowed: type) -> None:
        """Values of another type go to extras: a key that others use for something else."""
        if not self.types() <= set(allowed):
            self._spill(lambda item: type(item) in allowed)

    def integers(self, count: int, kind: pa.DataType, source: str, where: Where) -> pa.Array:
        """Column of integers; 640.0 is one, 640.5 and what `kind` is too narrow for go to extras."""
        self.refuse((int, float), "an integer", source, where)
        limits = np.iinfo(np.int32 if kind == pa.int32() else np.int64)
        values: Any = self.items if self.array is None else self.array
        if self.types() != {int} or not limits.min <= min(values) <= max(values) <= limits.max:
            self._spill(lambda item: item == item // 1 and limits.min <= item <= limits.max)
        if self.array is not None:
            return self._scatter(count, kind, self.array)
        return self._scatter(count, kind, np.array(list(map(int, self.items)), np.int64))

    def floats(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of numbers; integers that no float64 is equal to go to extras."""
        self.refuse((int, float), "a number", source, where)
        if self.array is not None and self.array.dtype == np.float64:
            return self._scatter(count, pa.float64(), self.array)
        if any(type(item) is int and abs(item) > 2**53 for item in self.items):
            self._spill(_exact)
        return self._scatter(count, pa.float64(), np.array(self.items, np.float64))

    def booleans(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of booleans from true/false or 0/1; another number is true and stays in extras too."""
        self.refuse((int, float, bool), "0, 1, true or false", source, where)
        if not set(self.items) <= {0, 1}:
            for row, item in zip(self.rows.tolist(), self.items, strict=True):
                if item not in (0, 1):
                    self.extras.add(row, self.key, item)
        return self._scatter(count, pa.bool_(), np.array(list(map(bool, self.items)), bool))

    def texts(self, count: int, source: str, where: Where) -> pa.Array:
        """Column of texts; those with a lone surrogate, which UTF-8 cannot hold, stay in extras too."""
        self.refuse((str,), "a text", source, where)
        found: list[str | None] = [None] * count
        for row, item in zip(self.rows.tolist(), self.items, strict=True):
            found[row] = item
            if not utf8(item):
                self.extras.add(row, self.key, item)
        return schema.strings(found)

    def _spill(self, fits: Callable[[Any], bool]) -> None:
        keep = [bool(fits(item)) for item in self.items]
        for row, item, stays in zip(self.rows.tolist(), self.items, keep, strict=True):
            if not stays:
                self.extras.add(row, self.key, item)
        if not all(keep):
            self._rows.parts = [self.rows[np.array(keep, bool)]]
            self._items = [item for item, stays in zip(self.items, keep, strict=True) if stays]
            self._arrays = []

    def _scatter(self, count: int, kind: pa.DataType, data: NDArray[Any]) -> pa.Array:
        rows = self.rows
        if len(rows) == count:
            return schema.fixed(data, kind)
        present = np.zeros(count, bool)
        present[rows] = True
        full = np.zeros(count, data.dtype)
        full[rows] = data
        return schema.fixed(full, kind, present)

    def style(self) -> str | None:
        """How the source writes these numbers: `bool`, `int`, `float` (1.0 for one) or None where it cannot be told."""
        types = self.types()
        if types == {bool}:
            return "bool"
        if self.array is not None:
            return "float" if types == {float} and any_integral(self.array) else None
        return "float" if types == {float} and any_integral(np.array(self.items)) else None


class NumberLists:
    """One optional flat list of numbers a row, copied as raw float64.

    where: names a row in a message. strict: anything but a flat list of numbers is refused; else it goes to extras.
    triples: as long as the lists allow it, what they hold is kept `apart`.
    """

    kind = _scanning.NUMBERS

    def __init__(
        self,
        key: str,
        extras: Extras,
        source: str,
        where: Where | None = None,
        *,
        strict: bool = True,
        triples: bool = False,
    ) -> None:
        self.key, self.extras, self.source, self.strict = key, extras, source, strict
        self.where = where or (lambda row: f"row {row + 1}")
        self._rows, self._lengths = Integers(), Integers()
        self.data: Numbers | Triples = Triples() if triples else Numbers()
        self.saw_integer = self.exact = False  # exact: an integer cannot have been overlooked
        self._integral: bool | None = None

    @property
    def rows(self) -> Ints:
        """(V,) rows that have a list, rising."""
        return self._rows.array()

    @property
    def lengths(self) -> Ints:
        """(V,) how many numbers each has."""
        return self._lengths.array()

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take the lists of these rows; an explicit null goes to extras."""
        lengths, body, self.saw_integer = joined_numbers(values, self.saw_integer)
        if lengths is None:
            self._one_by_one(rows, values)
            return
        self._rows.add(rows)
        self._lengths.add(lengths)
        self._add(np.frombuffer(body))

    def take(self, found: _scanning.Found) -> None:
        """As `extend`, many rows at once."""
        self._rows.add(found.rows)
        self._lengths.add(found.lengths)
        self._add(found.numbers, found.expected)
        self.saw_integer, self.exact = self.saw_integer or found.saw_integer, True

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
            self._rows.add([row])
            self._lengths.add(lengths)
            self._add(np.frombuffer(body))

    def _add(self, numbers: NDArray[np.float64], expected: int = 0) -> None:
        if isinstance(self.data, Triples):
            if len(numbers) % 3 == 0:
                self.data.add(numbers, expected)
                return
            self.data = Numbers(self.flat())
        self.data.add(numbers)

    def apart(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """x, y (N, 2) and the third numbers (N,) of all lists, where they are kept so."""
        return self.data.apart() if isinstance(self.data, Triples) else None

    def flat(self) -> NDArray[np.float64]:
        """All values, one row after the other."""
        return self.data.whole()

    def brackets(self) -> int:
        """How many `[` these lists were written with."""
        return len(self.rows)

    def block(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, L) values of these rows, which have one length."""
        lengths, flat = self.lengths, self.flat()
        if len(rows) == len(self.rows):
            return flat.reshape(-1, int(lengths[0]) if len(rows) else 0)
        where = np.searchsorted(self.rows, rows)
        width = int(lengths[where[0]]) if len(rows) else 0
        chosen: NDArray[np.float64] = flat[(np.cumsum(lengths) - lengths)[where][:, None] + np.arange(width)]
        return chosen

    def spill(self, odd: NDArray[np.bool_], source: Any) -> None:
        """Move these of the collected lists (a mask over `rows`) to extras, verbatim from the rows that were read."""
        if not odd.any():
            return
        moved = self.rows[odd].tolist()
        self.extras.extend(moved, self.key, reread(source, self.key, moved))
        self.data = Numbers(self.flat()[np.repeat(~odd, self.lengths)])
        self._rows.parts, self._lengths.parts = [self.rows[~odd]], [self.lengths[~odd]]

    def holds_integral(self) -> bool:
        """Whether there is an integral value while no integer was seen."""
        if self._integral is None:
            self._integral = not self.saw_integer and self.data.any_integral()
        return self._integral

    def blocks(self, width: int) -> Iterator[NDArray[np.float64]]:
        """All lists, which have this length, as (n, width), piece by piece.

        A piece is let go when the next is due: of the scanner's lists nothing but their style can be asked afterwards.
        """
        if not self.exact or isinstance(self.data, Triples):
            yield self.flat().reshape(-1, width)
            return
        self.holds_integral()
        self.data.parts.reverse()
        while self.data.parts:
            yield self.data.parts.pop().reshape(-1, width)

    def undecided(self) -> NDArray[np.int64]:
        """Rows with an integral value while no integer was seen: only the source's own text tells 1 from 1.0."""
        return _integral_rows(self, self.lengths)


class Polygons:
    """Segmentation: lists of polygons as numbers, run-length masks as JSON text, whatever else into extras."""

    kind = _scanning.POLYGONS

    def __init__(self, extras: Extras) -> None:
        self.key, self.extras = "segmentation", extras
        # Rows, how many polygons each has, and how many numbers each polygon.
        self._rows, self._polygons_of, self._lengths = Integers(), Integers(), Integers()
        self.data = Numbers()
        self.saw_integer = self.exact = False
        self.masks: dict[int, str] = {}

    @property
    def rows(self) -> Ints:
        """(V,) rows that have polygons, rising."""
        return self._rows.array()

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

    def take(self, found: _scanning.Found) -> None:
        """As `extend`, many rows at once."""
        masks = found.kinds == _scanning.OBJECT
        spans = zip(found.rows[masks].tolist(), found.first[masks].tolist(), found.second[masks].tolist(), strict=True)
        self.masks |= {row: text(json.loads(found.data[start:stop])) for row, start, stop in spans}
        self._rows.add(found.rows[~masks])
        self._polygons_of.add(found.first[~masks])
        self._lengths.add(found.lengths)
        self.data.add(found.numbers)
        self.saw_integer, self.exact = self.saw_integer or found.saw_integer, True

    def _polygons(self, rows: Sequence[int], values: Sequence[Any]) -> bool:
        polygons = [polygon for value in values for polygon in value]
        lengths, body, saw_integer = joined_numbers(polygons, self.saw_integer)
        if lengths is None:
            return False
        self.saw_integer = saw_integer
        self._rows.add(rows)
        self._polygons_of.add(list(map(len, values)))
        self._lengths.add(lengths)
        self.data.add(np.frombuffer(body))
        return True

    def flat(self) -> NDArray[np.float64]:
        """All values, one polygon after the other."""
        return self.data.whole()

    def brackets(self) -> int:
        """As `NumberLists.brackets`."""
        masks = sum(mask.count("[") for mask in self.masks.values())
        return len(self.rows) + int(self._polygons_of.array().sum()) + masks

    def holds_integral(self) -> bool:
        """As `NumberLists.holds_integral`."""
        return not self.saw_integer and self.data.any_integral()

    def undecided(self) -> NDArray[np.int64]:
        """As `NumberLists.undecided`."""
        edges = np.concatenate([[0], np.cumsum(self._lengths.array())])
        polygons = self._polygons_of.array()
        ends = np.cumsum(polygons)
        return _integral_rows(self, edges[ends] - edges[ends - polygons])

    def columns(self, count: int) -> dict[str, pa.Array]:
        """`segmentation` and `rle` of `count` rows."""
        present = np.zeros(count, bool)
        present[self.rows] = True
        lengths = np.zeros(count, np.int64)
        lengths[self.rows] = self._polygons_of.array()
        inner = schema.lists(self.flat(), self._lengths.array())
        texts = (
            schema.strings([self.masks.get(row) for row in range(count)])
            if self.masks
            else pa.nulls(count, pa.string())
        )
        return {"segmentation": schema.lists(inner, lengths, present), "rle": texts}


def _integral_rows(column: NumberLists | Polygons, lengths: Ints) -> Ints:
    if not column.holds_integral():
        return np.empty(0, np.int64)
    flat = column.flat()
    total = np.concatenate([[0], np.cumsum(flat == np.floor(flat))])
    ends = np.cumsum(lengths)
    rows: Ints = column.rows[total[ends] > total[ends - lengths]]
    return rows


def joined_numbers(values: Sequence[Any], saw_integer: bool) -> tuple[list[int] | None, bytes, bool]:
    """(lengths, float64 bytes, whether an integer was seen by now) of flat lists of numbers; None where one is another.

    simdjson copies a list of numbers in one go, integers as doubles, so only the first element of each list is asked
    for its type; what that misses is decided by `styles`.
    """
    try:
        if set(map(type, values)) <= {simdjson.Array}:
            lengths = list(map(len, values))
            seen = saw_integer or any(type(value[0]) is int for value in values[:STYLE_ROWS] if len(value))
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


def reread(rows: Any, key: str, wanted: Sequence[int]) -> list[Any]:
    """The values of one key in these rows (rising), as plain Python."""
    found: list[Any] = []
    start = 0
    for chunk in chunks(rows):
        found += [plain(chunk[row - start][key]) for row in wanted if start <= row < start + len(chunk)]
        start += len(chunk)
        chunk = []  # simdjson's parser waits for its objects to go
    return found


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
