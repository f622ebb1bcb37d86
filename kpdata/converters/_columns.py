"""Rows back from columns, as JSON text in the source's number style: the other way of `_rows`.

A whole column becomes text in one call, numbers with commas between, and `_scan.c` weaves the columns into rows where
it could be built; the same is done here without it. No number becomes a Python object on the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.converters import _scanning
from kpdata.converters._json import dump

Ints = NDArray[np.int64]
ONE, LIST, LISTS, RAW, MEMBERS = range(5)  # a row has one number, a list, a list of lists, any text, members of its own


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """The JSON text of a column. ONE, LIST and LISTS: numbers with commas between, and how they belong to rows."""

    kind: int
    body: bytes
    inner: Ints = field(
        default_factory=_none
    )  # how many numbers each list has; RAW, MEMBERS: where the text of each row ends
    outer: Ints = field(default_factory=_none)  # LISTS: how many lists each row has

    def pieces(self) -> list[bytes]:
        """The text of each row."""
        if self.kind in (RAW, MEMBERS):
            return [self.body[a:b] for a, b in pairwise([0, *self.inner.tolist()])]
        found = self.body.split(b",") if self.body else []
        for counts in () if self.kind == ONE else (self.inner,) if self.kind == LIST else (self.inner, self.outer):
            edges = [0, *np.cumsum(counts).tolist()]
            found = [b"[%b]" % b",".join(found[a:b]) for a, b in pairwise(edges)]
        return found


Column = tuple[str, Texts, NDArray[np.bool_]]  # key, the values, which rows have one


# ---------------------------------------------------------------------------------------------------------- columns


def scalars(data: NDArray[Any], style: str | None = None) -> Texts:
    """(N,) numbers or booleans. style `bool`: true and false; `float`: 1.0 for one; else integral ones as integers."""
    if data.dtype == np.float64 or style == "float":
        return Texts(ONE, _joined(data.astype(np.float64), style))
    return Texts(ONE, _dumped(data if data.dtype != bool or style == "bool" else data.astype(np.int64)))


def lists(flat: NDArray[np.float64], lengths: NDArray[Any], style: str | None) -> Texts:
    """A list of numbers a row, from the values of all rows, one after the other, and how many each has."""
    return Texts(LIST, _joined(flat, style), np.asarray(lengths, np.int64))


def matrix(numbers: NDArray[np.float64], style: str | None) -> Texts:
    """(N, L) numbers: a list a row; (N, M, L): a list of lists a row."""
    rows, width = numbers.shape[0], numbers.shape[-1]
    body = _joined(numbers.reshape(-1), style)
    if numbers.ndim == 2:
        return Texts(LIST, body, np.full(rows, width))
    return Texts(LISTS, body, np.full(rows * numbers.shape[1], width), np.full(rows, numbers.shape[1]))


def column_scalars(column: pa.ChunkedArray, style: str | None) -> Texts:
    """A column of numbers or booleans in the source's style; null rows hold anything."""
    return scalars(schema.values(column, missing=0), style)


def column_lists(column: pa.ChunkedArray, style: str | None) -> Texts:
    """A list<float64> column; a null row has an empty list."""
    flat, offsets = schema.ragged(column)
    return lists(flat, np.diff(offsets), style)


def column_polygons(column: pa.ChunkedArray, style: str | None) -> Texts:
    """A list<list<float64>> column as lists of polygons; a null row has none."""
    array = schema.chunk(column)
    polygons = schema.inner(array)
    return Texts(LISTS, _joined(schema.ragged(polygons)[0], style), schema.lengths(polygons), schema.lengths(array))


def raw(pieces: Sequence[bytes], kind: int = RAW) -> Texts:
    """Finished JSON text of each row."""
    ends = np.fromiter(accumulate(map(len, pieces)), np.int64, len(pieces))
    return Texts(kind, b"".join(pieces), ends)


def texts(items: Sequence[Any]) -> Texts:
    """Texts, ids or None."""
    strings = [item if isinstance(item, str) else "" for item in items]
    try:
        whole = orjson.dumps(strings)[2:-2]
    except TypeError:  # a lone surrogate
        return raw([dump(item) for item in items])
    # A quote inside of a text is written \", so that `","` stands between two texts only.
    found = [b'"%b"' % text for text in whole.split(b'","')] if strings else []
    for row in [row for row, item in enumerate(items) if not isinstance(item, str)]:
        found[row] = b"null" if items[row] is None else dump(items[row])
    return raw(found)


def _joined(flat: NDArray[np.float64], style: str | None) -> bytes:
    """The numbers with commas between, NaN as `NaN`."""
    with np.errstate(invalid="ignore"):  # NaN, and what is too large, become an integer that they do not equal
        small = bool((np.abs(flat) < 1e15).all())
        whole = flat.astype(np.int64) if small and style != "float" else None
    if not small:  # no finite number either, or one that orjson writes as 1e15
        return json.dumps(_python_numbers(flat, style), separators=(",", ":"))[1:-1].encode()
    if whole is None:
        return _dumped(flat)
    if (whole == flat).all():
        return _dumped(whole)
    # Integral numbers lose their ".0"; + 0.0 because no integer is -0.
    return (_dumped(flat + 0.0) + b",").replace(b".0,", b",")[:-1]


def _dumped(data: NDArray[Any]) -> bytes:
    return orjson.dumps(np.ascontiguousarray(data), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _python_numbers(flat: NDArray[np.float64], style: str | None) -> list[Any]:
    if style == "float":
        return list(flat.tolist())
    return [int(number) if abs(number) < 2.0**63 and number == number // 1 else number for number in flat.tolist()]


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """JSON objects with commas between."""

    body: Any  # bytes, or memory of the scanner's
    ends: Ints  # where each object ends

    def pieces(self) -> list[bytes]:
        """Each object."""
        starts = [0, *(self.ends[:-1] + 1).tolist()][: len(self.ends)]
        view = bytes(self.body)
        return [view[a:b] for a, b in zip(starts, self.ends.tolist(), strict=True)]


def of_pieces(pieces: Sequence[bytes]) -> Rows:
    """Objects of their own as rows."""
    ends = np.fromiter(accumulate(len(piece) + 1 for piece in pieces), np.int64, len(pieces)) - 1
    return Rows(b",".join(pieces), ends)


def assemble(count: int, columns: Sequence[Column], extras: pa.ChunkedArray | None) -> Rows:
    """The object of each row; its extras come last, the source's own words, and stand above a column's."""
    chosen = [column for column in columns if column[2].any()]
    members, mixed = _members(extras, [key for key, _, _ in chosen])
    chosen += [] if members is None else [members]
    rows = _weave(count, [(b'"%b":' % key.encode() if key else b"", *rest) for key, *rest in chosen])  # type: ignore[misc]
    if not mixed:
        return rows
    pieces = rows.pieces()
    for row, text in mixed:
        pieces[row] = dump({**parsed(pieces[row]), **parsed(text)})
    return of_pieces(pieces)


def _weave(count: int, columns: list[tuple[bytes, Texts, NDArray[np.bool_]]]) -> Rows:
    if _scanning.compiled is not None and not _scanning.pure():
        strands: list[Any] = [
            (name, t.kind, t.body, _whole(t.inner), _whole(t.outer), _mask(present)) for name, t, present in columns
        ]
        body, ends = _scanning.compiled.weave(count, strands)
        return Rows(body, np.frombuffer(memoryview(ends), np.int64))
    rows: list[list[bytes]] = [[] for _ in range(count)]
    for name, column, present in columns:
        pieces = column.pieces()
        for row in np.flatnonzero(present).tolist():
            rows[row].append(name + pieces[row])
    return of_pieces([b"{%b}" % b",".join(row) for row in rows])


def _whole(counts: NDArray[Any]) -> Ints:
    return np.ascontiguousarray(counts, np.int64)


def _mask(present: NDArray[np.bool_]) -> Any:
    return b"" if present.all() else np.ascontiguousarray(present).view(np.uint8)


def _members(extras: pa.ChunkedArray | None, keys: Sequence[str]) -> tuple[Column | None, list[tuple[int, bytes]]]:
    """The extras as a column of members, and those rows whose extras may hold one of the columns' keys too."""
    if extras is None or extras.null_count == len(extras):
        return None, []
    found = [b"" if text is None else text.encode() for text in schema.texts(extras)]
    everything = b"".join(found)
    # An escaped key could be any.
    double = [mark for mark in (b"\\", *(b'"%b"' % key.encode() for key in keys)) if mark in everything]
    mixed = [
        (row, text) for row, text in enumerate(found)
        if (double and any(mark in text for mark in double)) or (text and text[:1] + text[-1:] != b"{}")
    ]  # fmt: skip
    for row, _ in mixed:
        found[row] = b""
    present = np.array([len(text) > 2 for text in found], bool)
    return ("", raw([text[1:-1] for text in found], MEMBERS), present), mixed


def document(parts: Mapping[str, Any] | Rows) -> bytes:
    """The JSON text of rows as a list, or of an object of parts: rows, or plain Python of any kind."""
    if isinstance(parts, Rows):
        return b"".join([b"[", parts.body, b"]"])
    pieces: list[Any] = []
    for key, value in parts.items():
        text = [b"[", value.body, b"]"] if isinstance(value, Rows) else [dump(value)]
        pieces += [b",", dump(key), b":", *text]
    return b"".join([b"{", *pieces[1:], b"}"])


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text of ours. orjson reads no NaN, and integers above 64 bits as floats: json does both."""
    data = text.encode() if isinstance(text, str) else text
    try:
        return json.loads(data) if _long_number(data) else orjson.loads(data)
    except ValueError:
        return json.loads(data)


def _long_number(data: bytes) -> bool:
    """Whether 19 digits stand in a row, as in every integer above 63 bits."""
    digits = np.frombuffer(data, np.uint8)
    count = np.cumsum((digits >= ord("0")) & (digits <= ord("9")), dtype=np.int64)
    return bool((count[19:] - count[:-19] == 19).any()) or bool(len(count) and count[:19][-1] == 19)
