"""What has no column, as JSON text a row: kept verbatim, so that a file comes back with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from kpdata import schema
from kpdata.converters._json import text


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

    def members(self, texts: Sequence[tuple[int, str]]) -> None:
        """Keep what `objects` would, as text already: of each row its JSON members."""
        for row, value in texts:
            self.parts.setdefault(row, []).append(value)

    def brackets(self) -> int:
        """How many `[` stand in it."""
        return sum(part.count("[") for parts in self.parts.values() for part in parts)

    def column(self, count: int) -> pa.Array:
        """(count,) texts: one JSON object a row that has any, else null."""
        if not self.parts:
            return pa.nulls(count, pa.string())
        texts: list[str | None] = [None] * count
        for row, parts in self.parts.items():
            texts[row] = (
                "{" + (parts[0] if len(parts) == 1 else ",".join(sorted(parts))) + "}"
            )  # the same in chunks of any size
        return schema.strings(texts)
