"""The short way from the rows of a JSON array to columns: `_scan.c`, where it could be built when kpdata was installed.

It reads plain files only and gives None for all others; `_rows.collect` then reads them object by object, which needs
no compiler and comes to the same columns. KPDATA_PURE_PYTHON=1 in the environment turns it off.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from kpdata.converters._json import NotScannable, Rows, text
from kpdata.converters._scanner import (
    ESCAPED,
    FALSE,
    INTEGER,
    NULL,
    REAL,
    TEXT,
    TRUE,
    Scanning,
    asked,
    usable,
)
from kpdata.converters._scanner import NUMBERS as NUMBERS
from kpdata.converters._scanner import OBJECT as OBJECT
from kpdata.converters._scanner import POLYGONS as POLYGONS
from kpdata.converters._scanner import SCALAR as SCALAR
from kpdata.converters._scanner import compiled as compiled
from kpdata.converters._scanner import pure as pure

# How many rows, what each key holds (None: no row has it), other members of some rows.
_Part = tuple[int, list["Found | None"], list[tuple[int, str]]]


@dataclass(eq=False)
class Found:
    """The values of one key in some rows, in their order."""

    data: bytes
    rows: NDArray[np.int64]  # (V,) rising; not to be changed: keys that all rows have share them
    kinds: NDArray[np.uint8]  # (V,) NULL … OBJECT of scalars and of segmentations; empty for lists of numbers
    first: NDArray[np.int64]  # (V,) an integer, a real's bits, where a text or an object starts, how many polygons
    second: NDArray[np.int64]  # (V,) where it stops
    numbers: NDArray[np.float64]  # all numbers of all lists
    lengths: NDArray[np.int32]  # of each flat list
    saw_integer: bool
    expected: int  # how many numbers there are about in all parts

    def items(self) -> list[Any]:
        """The scalars as Python values."""
        if len(self.kinds) and (self.kinds == TEXT).all():
            spans = zip(self.first.tolist(), self.second.tolist(), strict=True)
            return [str(self.data[a:b], "utf-8") for a, b in spans]
        makers: dict[int, Any] = {
            NULL: lambda a, b: None,
            INTEGER: lambda a, b: a,
            FALSE: lambda a, b: False,
            TRUE: lambda a, b: True,
            TEXT: lambda a, b: self.data[a:b].decode(),
            ESCAPED: lambda a, b: json.loads(self.data[a - 1 : b + 1]),  # lone surrogates too
        }
        reals = iter(self.first[self.kinds == REAL].view(np.float64).tolist())
        makers[REAL] = lambda a, b: next(reals)
        values = zip(self.kinds.tolist(), self.first.tolist(), self.second.tolist(), strict=True)
        return [makers[kind](a, b) for kind, a, b in values]


def scan(rows: Rows, keys: Sequence[str], kinds: Sequence[int]) -> Generator[_Part, None, None] | None:
    """What the keys hold, in parts of consecutive rows; None: read it the long way.

    NotScannable, perhaps after some parts, where that turns out later.
    """
    if not usable() or not keys or not rows.scannable:
        return None
    wanted = asked(keys, kinds)
    begun, rows.begun = rows.begun, None
    if begun and begun.asked != wanted:
        begun.stop()
        begun = None
    return _parts(begun or Scanning(rows, wanted))


def _parts(begun: Scanning) -> Generator[_Part, None, None]:
    start = 0
    with closing(begun.parts()) as parts:
        for data, whole, (count, columns, *extras, _) in parts:
            every = np.arange(start, start + count)
            try:
                members = _extras(start, *extras)
            except ValueError as error:  # a lone surrogate among the extras, which orjson refuses
                raise NotScannable from error
            yield count, [_found(data, whole, column, every) for column in columns], members
            start += count


def _extras(start: int, rows: Any, ends: Any, raw: Any, body: Any) -> list[tuple[int, str]]:
    """(row, members) of the rows that have other keys; numbers and blanks in them as `text` writes them."""
    whole = bytes(body)
    pieces = [whole[a:b].decode() for a, b in pairwise([0, *np.frombuffer(ends, np.int64).tolist()])]
    for i in np.flatnonzero(np.frombuffer(raw, np.uint8)).tolist():
        pieces[i] = text(orjson.loads("{" + pieces[i] + "}"))[1:-1]
    return [(start + row, piece) for row, piece in zip(np.frombuffer(rows, np.int32).tolist(), pieces, strict=True)]


def _found(data: bytes, whole: float, column: Any, every: NDArray[np.int64]) -> Found | None:
    """One column of the rows `every`."""
    rows = np.frombuffer(column[0], np.int32)
    if not len(rows):
        return None
    kinds = np.frombuffer(column[1], np.uint8)
    numbers = _exact(data, column, 4, np.dtype(np.float64))
    return Found(
        data=data,
        rows=every if len(rows) == len(every) else every[rows],
        kinds=kinds,
        first=_exact(data, column, 2, np.dtype(np.int64)),
        second=np.frombuffer(column[3], np.int64),
        numbers=numbers,
        lengths=np.frombuffer(column[5], np.int32),
        saw_integer=bool(column[7]),
        expected=int(len(numbers) * whole),
    )


def _exact(data: bytes, column: Any, field: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """A field of a column with the numbers in it that were left to Python's float()."""
    values = np.frombuffer(column[field], kind)
    for index, start, stop in np.frombuffer(column[6], np.int64).reshape(-1, 3).tolist():
        if (index >= 0) == (field == 4):
            reals = values.view(np.float64)
            reals[index if index >= 0 else -1 - index] = float(data[start:stop])
    return values
