"""Rows back from columns, in the source's number style: the other way of `_rows`.

Rows are dicts whose lists of numbers are still arrays: one call of orjson writes them all, and no number becomes a
Python object on the way. What orjson would not write as JSON readers expect (NaN, lone surrogates, integers above 64
bits) stands in the rows as finished text (`orjson.Fragment`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.converters._json import dump

Column = tuple[str, Sequence[Any], NDArray[np.bool_]]  # key, each row's value, whether the row has it


def numbers(flat: NDArray[np.float64], style: str | None) -> list[Any]:
    """Numbers one by one: integral ones as int, unless the source writes 1.0 (`style` float)."""
    items: list[Any] = flat.tolist()
    if style != "float":
        integral = _integral(flat)
        if integral.all():
            whole: list[Any] = flat.astype(np.int64).tolist()
            return whole
        where = np.flatnonzero(integral)
        for position, number in zip(where.tolist(), flat[where].astype(np.int64).tolist(), strict=True):
            items[position] = number
    for position in np.flatnonzero(~np.isfinite(flat)).tolist():
        items[position] = _text(items[position])
    return items


def _integral(flat: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.asarray((flat == np.floor(flat)) & (np.abs(flat) < 2.0**63))


def _text(value: Any) -> orjson.Fragment:
    return orjson.Fragment(dump(value))


def lists(flat: NDArray[np.float64], edges: Sequence[int], style: str | None) -> list[Any]:
    """Lists of numbers: values `edges[i]` to `edges[i + 1]` of each row, as an array wherever that says it right."""
    starts, stops = np.array(edges[:-1], np.int64), np.array(edges[1:], np.int64)
    integral = np.zeros(len(flat), bool) if style == "float" else _integral(flat)
    whole = flat.astype(np.int64) if integral.all() else np.where(integral, flat, 0).astype(np.int64)
    source: NDArray[Any] = whole if integral.any() else flat
    rows: list[Any] = [source[a:b] for a, b in pairwise(edges)]
    if integral.all():
        return rows
    counts = np.concatenate([[0], np.cumsum(integral)])
    of_row = counts[stops] - counts[starts]
    for row in np.flatnonzero(of_row < stops - starts).tolist():
        part = flat[edges[row] : edges[row + 1]]
        rows[row] = numbers(part, style) if of_row[row] else part
    for row in _nonfinite_rows(flat, starts, stops):
        rows[row] = numbers(flat[edges[row] : edges[row + 1]], style)
    return rows


def _nonfinite_rows(flat: NDArray[np.float64], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[int]:
    finite = np.isfinite(flat)
    if finite.all():
        return []
    counts = np.concatenate([[0], np.cumsum(~finite)])
    return np.flatnonzero(counts[stops] > counts[starts]).tolist()


def matrix_lists(matrix: NDArray[np.float64], style: str | None) -> list[Any]:
    """(N, L) or (N, M, L) numbers: a list a row, of lists where there are three axes."""
    width = matrix.shape[-1]
    rows = lists(matrix.reshape(-1), range(0, matrix.size + 1, width) if width else [0] * (len(matrix) + 1), style)
    if matrix.ndim == 2:
        return rows
    return [rows[i : i + matrix.shape[1]] for i in range(0, len(rows), matrix.shape[1])]


def column_lists(column: pa.ChunkedArray, style: str | None) -> list[Any]:
    """A list<float64> column; a null row gives an empty list."""
    flat, offsets = schema.ragged(column)
    return lists(flat, offsets.tolist(), style)


def column_polygons(column: pa.ChunkedArray, style: str | None) -> list[Any]:
    """A list<list<float64>> column as lists of polygons; a null row gives an empty list."""
    array = schema.chunk(column)
    if len(array) == 0:
        return []
    polygons = column_lists(array.flatten(), style)
    edges = np.concatenate([[0], np.cumsum(schema.lengths(array))]).tolist()
    return [polygons[a:b] for a, b in pairwise(edges)]


def column_scalars(column: pa.ChunkedArray, style: str | None) -> list[Any]:
    """A column of numbers or booleans in the source's style; null rows hold anything."""
    return scalars(schema.values(column, missing=0), style)


def scalars(data: NDArray[Any], style: str | None = None) -> list[Any]:
    """(N,) numbers or booleans in the source's style (`bool`: true and false)."""
    if data.dtype == np.float64 or style == "float":
        return numbers(data.astype(np.float64), style)
    items: list[Any] = (data if data.dtype != bool or style == "bool" else data.astype(np.int64)).tolist()
    return items


def texts(items: Sequence[Any]) -> list[Any]:
    """Texts, ids or None; those with a lone surrogate, which UTF-8 cannot hold, as JSON escapes."""
    try:
        orjson.dumps(items)
    except TypeError:
        return [_text(item) for item in items]
    return list(items)


def finished(text: str | None) -> orjson.Fragment:
    """JSON text of ours as it is."""
    return orjson.Fragment(text or "null")


def assemble(count: int, columns: Sequence[Column], extras: pa.ChunkedArray | None) -> list[Any]:
    """Rows as dicts of (key, values, present) columns; each row's extras come last: the source's own words."""
    dense = [(key, items) for key, items, present in columns if present.all()]
    keys = [key for key, _ in dense]
    if dense:
        out: list[Any] = [dict(zip(keys, row, strict=True)) for row in zip(*(items for _, items in dense), strict=True)]
    else:
        out = [{} for _ in range(count)]
    for key, items, present in columns:
        if not present.all():
            for row in np.flatnonzero(present).tolist():
                out[row][key] = items[row]
    if extras is not None and extras.null_count < len(extras):
        _add_extras(out, schema.texts(extras))
    return out


def _add_extras(out: list[Any], extras: Sequence[str | None]) -> None:
    kept = [(row, text) for row, text in enumerate(extras) if text is not None]
    data = f"[{','.join(text for _, text in kept)}]"
    objects = parsed(data)
    try:
        orjson.dumps(objects)
        plain = not _long_number(data.encode()) and "NaN" not in data and "Infinity" not in data
    except TypeError:
        plain = False
    for (row, _), item in zip(kept, objects, strict=True):
        if plain:
            out[row].update(item)
        else:
            out[row] = _text({**parsed(document(out[row])), **item})


def document(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The JSON text of rows, or of an object of lists of rows."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def part(value: Any) -> orjson.Fragment:
    """Plain Python of any kind as a part of a document."""
    return _text(value)


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
