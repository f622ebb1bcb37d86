"""The short way from the rows of a JSON array to columns: `_scan.c`, where it could be built when kpdata was installed.

It reads plain files only and gives None for all others; `_rows.collect` then reads them object by object, which needs
no compiler and comes to the same columns. KPDATA_PURE_PYTHON=1 in the environment turns it off.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from kpdata.converters._json import Rows, text

try:
    from kpdata.converters import _scan as compiled
except ImportError:  # no C compiler when it was installed
    compiled = None  # type: ignore[assignment]

SCALAR, NUMBERS, POLYGONS = range(3)
NULL, INTEGER, REAL, FALSE, TRUE, TEXT, ESCAPED, OBJECT = range(8)
_POWERS = range(-64, 65)
_BIG = 1 << 21  # bytes from which two threads are worth their while


@dataclass
class Found:
    """The values of one key, in the order of the rows."""

    data: bytes
    rows: NDArray[np.int64]  # (V,)
    kinds: NDArray[np.uint8]  # (V,) NULL … OBJECT of scalars and of segmentations; empty for lists of numbers
    first: NDArray[np.int64]  # (V,) an integer, a real's bits, where a text or an object starts, how many polygons
    second: NDArray[np.int64]  # (V,) where it stops
    numbers: NDArray[np.float64]  # all numbers of all lists
    lengths: NDArray[np.int64]  # of each flat list
    saw_integer: bool

    def items(self) -> list[Any]:
        """The scalars as Python values."""
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


def scan(rows: Rows, keys: Sequence[str], kinds: Sequence[int]) -> tuple[int, list[Found], dict[int, str]] | None:
    """(number of rows, what each key holds, the other keys of a row as JSON members), or None: read it the long way."""
    if compiled is None or os.environ.get("KPDATA_PURE_PYTHON") or not keys:
        return None
    cuts = rows.cuts(2 if rows.stop - rows.start > _BIG and (os.cpu_count() or 1) > 1 else 1)
    parts: list[Any] = [None] * len(cuts)
    names, wanted, table = tuple(key.encode() for key in keys), tuple(kinds), powers()

    def work(number: int) -> None:
        parts[number] = compiled.scan(rows.data, *cuts[number], names, wanted, table)

    others = [threading.Thread(target=work, args=(number,)) for number in range(1, len(cuts))]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
    if None in parts or (any(part[6] for part in parts) and not _utf8(rows)):
        return None
    try:
        starts = np.cumsum([0, *(part[0] for part in parts)])
        extras = {row: value for at, part in zip(starts, parts, strict=False) for row, value in _extras(int(at), part)}
        found = [_found(rows.data, [(int(at), part[1][i]) for at, part in zip(starts, parts, strict=False)])
                 for i in range(len(keys))]  # fmt: skip
    except ValueError:  # a lone surrogate among the extras, which orjson refuses
        return None
    return int(starts[-1]), found, extras


def _utf8(rows: Rows) -> bool:
    try:
        rows.data[rows.start : rows.stop].decode()
    except UnicodeDecodeError:
        return False
    return True


def _extras(start: int, part: Any) -> list[tuple[int, str]]:
    """(row, members) of the rows that have other keys; numbers and blanks in them as `text` writes them."""
    _, _, rows, ends, raw, body, _ = part
    texts = bytes(body).decode()
    stops = np.frombuffer(ends, np.int64)
    if len(texts) != len(memoryview(body)):  # positions are bytes
        pieces = [piece.decode() for piece in _split(bytes(body), stops)]
    else:
        pieces = _split(texts, stops)
    odd = np.frombuffer(raw, np.uint8)
    for i in np.flatnonzero(odd).tolist():
        pieces[i] = text(orjson.loads("{" + pieces[i] + "}"))[1:-1]
    return list(zip((np.frombuffer(rows, np.int32) + np.int64(start)).tolist(), pieces, strict=True))


def _split(body: Any, stops: NDArray[np.int64]) -> list[Any]:
    return [body[a:b] for a, b in pairwise([0, *stops.tolist()])]


def _found(data: bytes, parts: list[tuple[int, Any]]) -> Found:
    rows = _joined([np.frombuffer(column[0], np.int32) + np.int64(at) for at, column in parts])
    return Found(
        data=data,
        rows=rows.astype(np.int64, copy=False),
        kinds=_joined([np.frombuffer(column[1], np.uint8) for _, column in parts]),
        first=_joined([_exact(data, column, 2, np.dtype(np.int64)) for _, column in parts]),
        second=_joined([np.frombuffer(column[3], np.int64) for _, column in parts]),
        numbers=_joined([_exact(data, column, 4, np.dtype(np.float64)) for _, column in parts]),
        lengths=_joined([np.frombuffer(column[5], np.int32) for _, column in parts]).astype(np.int64),
        saw_integer=any(column[7] for _, column in parts),
    )


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _exact(data: bytes, column: Any, field: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """A field of a column with the numbers in it that were left to Python's float()."""
    values = np.frombuffer(column[field], kind)
    for index, start, stop in np.frombuffer(column[6], np.int64).reshape(-1, 3).tolist():
        if (index >= 0) == (field == 4):
            reals = values.view(np.float64)
            reals[index if index >= 0 else -1 - index] = float(data[start:stop])
    return values


@cache
def powers() -> bytes:
    """128 bits of 5^q for q in -64 … 64, high and low half of each, as Lemire's method takes them.

    Truncated for q >= 0, rounded up below (the reciprocal), from q = -27 downwards as far as is proven in the paper.
    """
    halves: list[int] = []
    for q in _POWERS:
        power = 5 ** abs(q)
        length = power.bit_length()
        if q >= 0:
            value = power << (128 - length) if length <= 128 else power >> (length - 128)
        else:
            value = (1 << (length + 127 if q >= -27 else 2 * length + 128)) // power + 1
            value >>= max(0, value.bit_length() - 128)
        halves += [value >> 64, value & (2**64 - 1)]
    return np.array(halves, np.uint64).tobytes()
