"""Rows back from columns, as plain Python in the source's number style: the other way of `_rows`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema


def python_numbers(flat: NDArray[np.float64], style: str | None) -> list[Any]:
    """Numbers as Python writes them: integral ones as int, unless the source writes 1.0 (`style` float)."""
    items: list[Any] = flat.tolist()
    if style == "float":
        return items
    with np.errstate(invalid="ignore"):
        integral = (flat == np.floor(flat)) & (np.abs(flat) < 2.0**63)
    if integral.all():
        whole: list[Any] = flat.astype(np.int64).tolist()
        return whole
    where = np.flatnonzero(integral)
    for position, number in zip(where.tolist(), flat[where].astype(np.int64).tolist(), strict=True):
        items[position] = number
    return items


def python_lists(column: pa.ChunkedArray, style: str | None) -> list[list[Any]]:
    """A list<float64> column as lists of Python numbers; a null row gives an empty list."""
    flat, offsets = schema.ragged(column)
    items = python_numbers(flat, style)
    edges = offsets.tolist()
    return [items[a:b] for a, b in pairwise(edges)]


def python_polygons(column: pa.ChunkedArray, style: str | None) -> list[list[list[Any]]]:
    """A list<list<float64>> column as lists of polygons; a null row gives an empty list."""
    array = schema.chunk(column)
    if len(array) == 0:
        return []
    polygons = python_lists(array.flatten(), style)
    edges = np.concatenate([[0], np.cumsum(schema.lengths(array))]).tolist()
    return [polygons[a:b] for a, b in pairwise(edges)]


def scalars(column: pa.ChunkedArray, style: str | None) -> list[Any]:
    """A column of numbers or booleans as Python values in the source's style; null rows hold anything."""
    data = schema.values(column, missing=0)
    if data.dtype == np.float64 or style == "float":
        return python_numbers(data.astype(np.float64), style)
    items: list[Any] = (data if data.dtype != bool or style == "bool" else data.astype(np.int64)).tolist()
    return items


def assemble(
    count: int, columns: Sequence[tuple[str, Sequence[Any], NDArray[np.bool_]]], extras: pa.ChunkedArray | None
) -> list[dict[str, Any]]:
    """Rows as dicts from (key, values, present) columns; each row's extras come last: the source's own words."""
    dense = [(key, items) for key, items, present in columns if present.all()]
    keys = [key for key, _ in dense]
    if dense:
        out = [dict(zip(keys, row, strict=True)) for row in zip(*(items for _, items in dense), strict=True)]
    else:
        out = [{} for _ in range(count)]
    for key, items, present in columns:
        if not present.all():
            for row in np.flatnonzero(present).tolist():
                out[row][key] = items[row]
    if extras is not None:
        texts = [(row, text) for row, text in enumerate(schema.texts(extras)) if text is not None]
        objects = parsed(f"[{','.join(text for _, text in texts)}]")
        for (row, _), item in zip(texts, objects, strict=True):
            out[row].update(item)
    return out


def parsed(text: str) -> Any:
    """The value of a JSON text of ours. orjson reads no NaN, and integers above 64 bits as floats: json does both."""
    data = text.encode()
    try:
        return json.loads(data) if _long_number(data) else orjson.loads(data)
    except ValueError:
        return json.loads(data)


def _long_number(data: bytes) -> bool:
    """Whether 19 digits stand in a row, as in every integer above 63 bits."""
    digits = np.frombuffer(data, np.uint8)
    count = np.cumsum((digits >= ord("0")) & (digits <= ord("9")), dtype=np.int64)
    return bool((count[19:] - count[:-19] == 19).any()) or bool(len(count) and count[:19][-1] == 19)
