"""MATLAB's `.mat` of version 5 into arrays, checked at every step: a damaged file raises ValueError and nothing else.

scipy's reader is not used, because it can crash the interpreter on flipped bytes. Layout: MathWorks, "MAT-File Format"
(version 5): a header of 128 bytes, then elements of a tag (type, length) and data padded to 8 bytes; a variable is an
element of type matrix, or a compressed one that holds it.

Values: numbers as arrays of the class that MATLAB declares (doubles, however narrow they are stored), 1x1 numbers as
Python floats; a text of one row as `str`, of several as an array; cells as object arrays; struct arrays as lists of
dicts, in MATLAB's (column) order.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAGIC = b"MATLAB 5.0 MAT-file"
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Storage types of data elements, and the letters of the `struct` module for one number of each.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_SCALAR = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_UNICODE = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Classes of a matrix.
_CELL, _STRUCT, _OBJECT, _CHAR = 1, 2, 3, 4
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX, _LOGICAL = 0x08, 0x02
_DEEPEST = 50  # structs in structs; MPII has 5


def load(data: bytes) -> dict[str, Any]:
    """Every variable of a file by name; a class that holds no data of its own (functions, objects, sparse) is None.

    ValueError says what does not fit.
    """
    order = _order(data)
    return dict(_matrix(body, 0, len(body), order, 0)[:2] for body in _variables(data, order, None))


def shapes(data: bytes) -> dict[str, tuple[int, ...]]:
    """Shape of each variable by name, from the first bytes of each. ValueError where the file does not allow that."""
    order = _order(data)
    return dict(_named(body, order) for body in _variables(data, order, 4096))


def _order(data: bytes) -> str:
    """The byte order's letter for `struct` and NumPy."""
    if not data.startswith(MAGIC) or len(data) < _HEADER:
        raise ValueError("the header of 128 bytes is not whole")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError(f"the byte order is given as {data[126:128]!r}, expected b'IM' or b'MI'")
    return order


def _variables(data: bytes, order: str, limit: int | None) -> Iterator[bytes]:
    """The matrix element of each variable, unpacked; of compressed ones the first `limit` bytes."""
    place = _HEADER
    while place + 8 <= len(data):
        kind, start, size, _ = _tag(data, place, order, limit is not None)
        body = data[start : start + size]
        place = start + size  # top-level elements are not padded
        if kind == _COMPRESSED:
            unpacked = _inflate(body, limit)
            kind, start, size, _ = _tag(unpacked, 0, order, limit is not None)
            body = unpacked[start : start + size]
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} at byte {place - size - 8}, expected a variable")
        yield body


def _inflate(body: bytes, limit: int | None) -> bytes:
    try:
        return zlib.decompressobj().decompress(body, limit) if limit else zlib.decompress(body)
    except zlib.error as error:
        raise ValueError(f"a compressed variable cannot be unpacked ({error})") from error


def _tag(data: bytes, place: int, order: str, open_end: bool = False) -> tuple[int, int, int, int]:
    """Type, first byte, length of the element at `place`, and where the next one starts."""
    if place + 8 > len(data):
        raise ValueError("it ends where an element should start")
    first, size = struct.unpack_from(order + "2I", data, place)
    if first >> 16:  # a small element: type and length share four bytes, the data the other four
        kind, size, start = first & 0xFFFF, first >> 16, place + 4
        if size > 4:
            raise ValueError(f"a short element of {size} bytes, at most 4 fit")
        return kind, start, size, place + 8
    if place + 8 + size > len(data) and not open_end:
        raise ValueError(f"it ends {place + 8 + size - len(data):,} bytes too early")
    return first, place + 8, size, place + 8 + size + -size % 8


def _numbers(data: bytes, place: int, order: str) -> tuple[np.ndarray[Any, Any], int]:
    """The numbers of a data element, and where the next one starts."""
    kind, start, size, after = _tag(data, place, order)
    if kind not in _STORED:
        raise ValueError(f"an element of type {kind}, expected numbers")
    stored = np.dtype(order + _STORED[kind])
    if size % stored.itemsize:
        raise ValueError(f"{size} bytes of numbers of {stored.itemsize} bytes each")
    return np.frombuffer(data, stored, size // stored.itemsize, start), after


def _named(data: bytes, order: str) -> tuple[str, tuple[int, ...]]:
    name, dims, _, _ = _head(data, 0, order)
    return name, dims


def _head(data: bytes, place: int, order: str) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape and flags of a matrix, and where its content starts."""
    if place + 40 <= len(data):  # two dimensions and no name, as in every field and cell: the short way
        head = struct.unpack_from(order + "10I", data, place)
        plain = head[:2] == (6, 8) and head[4:6] == (5, 8) and head[8:] == (1, 0)
        if plain and head[6] < 1 << 31 and head[7] < 1 << 31:
            return "", head[6:8], head[2] & 0xFFFF, place + 40
    flags, place = _numbers(data, place, order)
    dims, place = _numbers(data, place, order)
    name, place = _numbers(data, place, order)
    if (
        len(flags) < 1
        or flags.dtype.kind not in "iu"
        or dims.dtype.kind not in "iu"
        or (dims < 0).any()
        or len(dims) > 32
    ):
        raise ValueError("the head of a variable makes no sense")
    return name.tobytes().decode("latin-1"), tuple(map(int, dims)), int(flags[0]) & 0xFFFF, place


def _matrix(data: bytes, place: int, end: int, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of the matrix whose content is data[place:end]."""
    if place == end:
        return "", np.zeros((0, 0))
    name, dims, flags, place = _head(data, place, order)
    if depth > _DEEPEST:
        raise ValueError(f"structs nested deeper than {_DEEPEST}")
    kind, count = flags & 0xFF, math.prod(dims)
    if kind in _NUMERIC:
        return name, _numeric(data, place, order, dims, flags)
    if kind == _CHAR:
        return name, _chars(data, place, order, dims)
    if kind in (_STRUCT, _OBJECT):
        if kind == _OBJECT:
            _, place = _numbers(data, place, order)  # the class's name
        return name, _structs(data, place, order, count, depth)
    if kind == _CELL:
        _affordable(count, data, place)
        cells = np.empty(count, object)
        for number in range(count):
            cells[number], place = _inner(data, place, order, depth)
        return name, cells.reshape(dims, order="F")
    return name, None


def _affordable(count: int, data: bytes, place: int) -> None:
    """Each inner matrix takes 8 bytes at least: a false count would ask for all memory otherwise."""
    if count * 8 > len(data) - place:
        raise ValueError(f"{count:,} elements in {len(data) - place:,} bytes")


def _numeric(data: bytes, place: int, order: str, dims: tuple[int, ...], flags: int) -> Any:
    real, place = _numbers(data, place, order)
    count, kind = math.prod(dims), np.dtype(bool if flags >> 8 & _LOGICAL else _NUMERIC[flags & 0xFF])
    if len(real) != count:
        raise ValueError(f"{len(real):,} numbers for a shape of {'x'.join(map(str, dims))}")
    if flags >> 8 & _COMPLEX:
        imaginary, _ = _numbers(data, place, order)
        if len(imaginary) != count:
            raise ValueError("the imaginary part has another length than the real one")
        return (real + 1j * imaginary).reshape(dims, order="F")
    with np.errstate(invalid="ignore"):
        return real.astype(kind).reshape(dims, order="F")


def _chars(data: bytes, place: int, order: str, dims: tuple[int, ...]) -> Any:
    """`str` of one row, an array of several, an empty array of none."""
    count = math.prod(dims)
    if count == 0:
        return np.empty(dims, "U1")
    kind, start, size, _ = _tag(data, place, order)
    if kind in _UNICODE:
        codec = _UNICODE[kind] if kind == 16 else f"{_UNICODE[kind]}-{'le' if order == '<' else 'be'}"
        text = data[start : start + size].decode(codec, "replace")
    else:
        codes = _numbers(data, place, order)[0]
        if codes.dtype.kind not in "iu" or (codes.astype(np.int64) > 0x10FFFF).any() or (codes < 0).any():
            raise ValueError("a text of numbers that are no characters")
        text = "".join(map(chr, codes.tolist()))
    if len(text) != count:
        raise ValueError(f"{len(text):,} characters for a shape of {'x'.join(map(str, dims))}")
    rows = dims[0] if len(dims) > 1 else 1
    return text if rows == 1 else np.array([text[row::rows] for row in range(rows)])


def _structs(data: bytes, place: int, order: str, count: int, depth: int) -> list[dict[str, Any]]:
    width, place = _numbers(data, place, order)
    names, place = _numbers(data, place, order)
    if len(width) != 1 or width.dtype.kind not in "iu" or not 0 < width[0] <= 256 or names.nbytes % int(width[0]):
        raise ValueError("the field names of a struct make no sense")
    raw, step = names.tobytes(), int(width[0])
    fields = [raw[i : i + step].split(b"\0")[0].decode("latin-1") for i in range(0, len(raw), step)]
    _affordable(count * len(fields) if fields else count - 1, data, place)
    found = []
    for _ in range(count):
        row: dict[str, Any] = {}
        for field in fields:
            row[field], place = _inner(data, place, order, depth)
        found.append(row)
    return found


def _inner(data: bytes, place: int, order: str, depth: int) -> tuple[Any, int]:
    """The matrix of a field or cell, and where the next one starts."""
    kind, start, size, after = _tag(data, place, order)
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind}, expected a matrix")
    scalar = _scalar(data, start, size, order)
    return (_matrix(data, start, start + size, order, depth + 1)[1] if scalar is None else scalar), after


def _scalar(data: bytes, place: int, size: int, order: str) -> float | None:
    """The one number of an unnamed real 1x1 matrix as a float; None for anything else.

    MPII's struct holds two million of these: this is the short way through `_matrix`.
    """
    if size not in (48, 56):
        return None
    head = struct.unpack_from(order + "12I", data, place)
    if head[0] != 6 or head[1] != 8 or head[4:8] != (5, 8, 1, 1) or head[8] != 1 or head[9] != 0:
        return None
    if head[2] & 0xFF not in _NUMERIC or head[2] >> 8 & _COMPLEX:
        return None
    kind, start, length, _ = _tag(data, place + 40, order)
    letter = _SCALAR.get(kind)
    if letter is None or length != struct.calcsize(order + letter):
        return None
    return float(struct.unpack_from(order + letter, data, start)[0])
