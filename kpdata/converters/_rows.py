"""Columns from the rows of a JSON array: one pass, raw buffers, nothing dropped. `_columns` is the way back.

A collector (`_collectors`) is fed rows and values, many at a time, for the rows that have its key. Every key without a
collector goes to `extras` verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from kpdata.converters import _scanning
from kpdata.converters._collectors import STYLE_ROWS
from kpdata.converters._collectors import Extras as Extras
from kpdata.converters._collectors import NumberLists as NumberLists
from kpdata.converters._collectors import Polygons as Polygons
from kpdata.converters._collectors import Scalars as Scalars
from kpdata.converters._collectors import Where as Where
from kpdata.converters._collectors import joined_numbers as joined_numbers
from kpdata.converters._collectors import reread as reread
from kpdata.converters._collectors import utf8 as utf8
from kpdata.converters._json import OBJECTS, NotScannable, NotStreamable, Rows, chunks


def collect(rows: Any, handlers: Mapping[str, Any], extras: Extras, refuse: Callable[[int, Any], Exception]) -> int:
    """Feed every value of every row to its key's handler, a column at a time, in the handlers' order; the row count.

    rows: a list of dicts or `_json.Rows`. A key without handler goes to extras. refuse: the error for a row that is no
    object. Raises NotStreamable where a key stands twice in an object: the standard library says which one counts.
    """
    if isinstance(rows, Rows) and (count := scan(rows, handlers, extras)) is not None:
        return count
    start = 0
    for chunk in chunks(rows):
        _collect_chunk(chunk, start, handlers, extras, refuse)
        start += len(chunk)
        del chunk  # simdjson's parser waits for its objects to go
    return start


def scan(rows: Rows, handlers: Mapping[str, Any], extras: Extras) -> int | None:
    """Feed the collectors from the compiled scanner; None, and nothing fed, where it does not take these rows.

    NotScannable where it takes some of them only: the collectors are of no use then.
    """
    if not all(hasattr(handler, "take") for handler in handlers.values()):
        if rows.begun:
            rows.begun.stop()
        return None
    scanned = _scanning.scan(rows, list(handlers), [handler.kind for handler in handlers.values()])
    if scanned is None:
        return None
    total = 0
    try:
        with closing(scanned):  # or a traceback that is kept would keep the scanning threads at work
            for count, found, members in scanned:
                for handler, values in zip(handlers.values(), found, strict=True):
                    if values is not None:
                        handler.take(values)
                extras.members(members)
                total += count
    except NotScannable:
        rows.scannable = False
        if total:
            raise
        return None
    return total


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


def require_flat(
    rows: Any, lists: Sequence[NumberLists | Polygons], scalars: Sequence[Scalars], extras: Extras
) -> None:
    """NotStreamable where lists stood inside number lists: simdjson copies `[1, [2]]` as if it were flat.

    Called right after `collect`; every `[` in the text has to be one that a collector knows of. The compiled scanner
    takes no such list.
    """
    if isinstance(rows, Rows) and not any(column.exact for column in lists):
        known = sum(column.brackets() for column in lists) + extras.brackets()
        known += sum(item.count("[") for column in scalars for item in column.items if type(item) is str)
        if known != rows.brackets():
            raise NotStreamable


def styles(rows: Any, columns: Sequence[NumberLists | Polygons], scalars: Sequence[Scalars]) -> dict[str, str]:
    """Number style of each key that does not write integral numbers as integers: `float` or `bool`.

    Where the first pass could not tell (it saw doubles only, some of them integral), the first of those rows are looked
    at again until an integer turns up. A field that mixes both and hides its integers further down is written as
    floats: the same numbers.
    """
    found = {column.key: style for column in scalars if (style := column.style()) is not None}
    exact = {column.key for column in columns if column.exact and column.holds_integral()}
    open_keys = {column.key: set(column.undecided()[:STYLE_ROWS].tolist()) for column in columns if not column.exact}
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
    return found | dict.fromkeys(sorted({*open_keys, *exact}), "float")


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
