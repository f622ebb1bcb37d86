"""JSON of any size into rows: big arrays are parsed half a megabyte at a time and never become a list of dicts.

The fast path is simdjson over chunks cut between two objects of the array. A chunk parses only if the cut really lay at
the array's own level, so a wrong cut (a string that holds `}, {`, say) is noticed. Whatever the fast path does not take
(NaN, Infinity, integers above 64 bits, a key that stands twice in an object, a cut that failed) goes to the standard
library, which also words the error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import simdjson

from kpdata.errors import FormatError
from kpdata.files import Bytes

_CHUNK = 1 << 19  # small enough that simdjson's tape (16 bytes a number) stays in a few MB, big enough to be free
_WINDOW = 1 << 14
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_LAST = re.compile(rb"\}\s*\]")
_MARK = "kpdata: the rows of {}"
MAX_DEPTH = 200  # of lists and objects in each other; orjson stops at 254, simdjson and json near 1000

OBJECTS = (dict, simdjson.Object)


class NotStreamable(Exception):
    """The fast path does not take this file; the standard library decides."""


class NotScannable(NotStreamable):
    """The compiled scanner does not take these rows, found out half-way; they are read without it the next time."""


class Rows:
    """The objects of one big JSON array, between two positions of a document, parsed in chunks."""

    def __init__(self, data: bytes | Bytes, start: int, stop: int) -> None:
        self.data, self.start, self.stop = data, start, stop
        self.begun: Any = None  # a `_scanner.Scanning` of these rows that is on its way
        self.scannable = True  # as far as is known

    def chunks(self) -> Iterator[list[Any]]:
        """The objects as lists of simdjson objects. A list must be let go before the next but one is asked for."""
        # Two parsers take turns, because the caller's loop variable still holds the objects of the last chunk.
        parsers = (simdjson.Parser(), simdjson.Parser())
        for turn, (start, stop) in enumerate(self.cuts(_CHUNK)):
            try:
                parsed: Any = parsers[turn % 2].parse(b"[" + self.data[start:stop] + b"]")
                chunk = list(parsed)
            except (ValueError, RuntimeError) as error:
                raise NotStreamable from error
            yield chunk
            del chunk, parsed

    def cuts(self, size: int) -> Iterator[tuple[int, int]]:
        """Ranges of whole objects of about `size` bytes, if no text and no inner list looks like a border of two."""
        start = self.start
        while start < self.stop:
            stop, after = self._border(start + size)
            yield start, stop
            start = after

    def _border(self, at: int) -> tuple[int, int]:
        """Where the first object that ends behind `at` ends, and where the next one starts."""
        window = _WINDOW
        while at < self.stop:
            found = _BETWEEN.search(self.data[at : min(at + window, self.stop)])
            if found:
                return at + found.start() + 1, at + found.end() - 1
            if at + window >= self.stop:
                break
            window *= 4
        return self.stop, self.stop

    def buffer(self, size: int) -> bytearray:
        """What `view` reads ranges of about `size` bytes into: empty where the text is in memory."""
        return bytearray() if isinstance(self.data, bytes) else bytearray(min(size + _WINDOW, self.stop - self.start))

    def view(self, start: int, stop: int, buffer: bytearray) -> memoryview:
        """The text between two positions; of a file it is read into `buffer`, which grows where it is too small."""
        if isinstance(self.data, bytes):
            return memoryview(self.data)[start:stop]
        if len(buffer) < stop - start:
            buffer.extend(bytes(stop - start - len(buffer)))  # seldom: see `buffer`
        return self.data.into(memoryview(buffer)[: stop - start], start)

    def plain(self) -> list[Any]:
        """All rows as plain Python."""
        return [plain(row) for chunk in self.chunks() for row in chunk]

    def head(self, count: int) -> list[Any]:
        """The first rows as plain Python, as many as lie in the first chunk, at most `count`."""
        return next(([plain(row) for row in chunk[:count]] for chunk in self.chunks() if chunk), [])

    def brackets(self) -> int:
        """How many `[` stand in the text of the rows."""
        return sum(self.data[start:stop].count(b"[") for start, stop in self.cuts(_CHUNK))


def chunks(rows: Any) -> Iterator[list[Any]]:
    """The rows of a list, parsed or not, in lists of many."""
    return rows.chunks() if isinstance(rows, Rows) else iter([rows])


def plain(value: Any) -> Any:
    """A simdjson object or array as dicts and lists; anything else as it is."""
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def stream(data: bytes) -> Any:
    """A JSON document whose top-level array, or `images` and `annotations` arrays, are `Rows`. Raises NotStreamable."""
    start = len(data) - len(data.removeprefix(b"\xef\xbb\xbf").lstrip())
    try:
        if data[start : start + 1] == b"[":
            return _top_rows(data, start)
        people = _objects(data, "annotations")
        if not people:
            return plain(simdjson.Parser().parse(data[start:]))
        images = _objects(data, "images")
        if images and (images.stop < people.start or people.stop < images.start):
            try:
                return _without(data, start, {"images": images, "annotations": people})
            except ValueError:  # lists of objects in the images' own entries, say
                pass
        return _without(data, start, {"annotations": people})
    except (ValueError, RuntimeError) as error:
        raise NotStreamable from error


def stream_list(data: Bytes) -> Any:
    """As `stream`, for a document whose first character is `[`: only its ends are looked at."""
    head = data[:4096]
    return _top_rows(data, len(head) - len(head.removeprefix(b"\xef\xbb\xbf").lstrip()))


def _top_rows(data: bytes | Bytes, start: int) -> Any:
    tail = data[max(start + 1, len(data) - 4096) : len(data)].rstrip()
    stop = max(start + 1, len(data) - 4096) + len(tail) - 1
    if tail[-1:] != b"]":
        raise NotStreamable
    if data[start + 1 : min(stop, start + 4096)].strip():
        return Rows(data, start + 1, stop)
    if stop - start > 4096:  # thousands of blanks, and then?
        raise NotStreamable
    return []


def _objects(data: bytes, key: str) -> Rows | None:
    """The objects of the first array of this key, if it looks like one."""
    found = re.compile(rb'"%s"\s*:\s*\[\s*\{' % key.encode()).search(data)
    end = _LAST.search(data, found.end()) if found else None
    return Rows(data, found.end() - 1, end.end() - 1) if found and end else None


def _without(data: bytes, start: int, arrays: Mapping[str, Rows]) -> dict[str, Any]:
    """The document with `Rows` in the place of these arrays. ValueError where they are no arrays at its top.

    A mark stands in for the rows: it comes back only if they lay at the top, under a key that is there once.
    """
    parts = []
    for key, rows in sorted(arrays.items(), key=lambda item: item[1].start):
        parts += [data[start : rows.start], b'"', _MARK.format(key).encode(), b'"']
        start = rows.stop
    rest = orjson.loads(b"".join([*parts, data[start:]]))
    if not isinstance(rest, dict) or any(rest.get(key) != [_MARK.format(key)] for key in arrays):
        raise ValueError("no arrays at the top of the document")
    return {**rest, **arrays}


def load(data: bytes, source: Path | str) -> Any:
    """A JSON document as plain Python, by the standard library, NaN and Infinity too. FormatError says why not."""
    if not data.strip():
        raise FormatError(source, f"is empty ({len(data)} bytes)", hint="was the download or export interrupted?")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at position {error.start} is not UTF-8"
        raise FormatError(source, found, hint="save it as UTF-8 (is it UTF-16, cp1252 or gbk?)") from error
    except json.JSONDecodeError as error:
        end = " (the file ends there: is it cut off?)" if error.pos >= len(error.doc.rstrip()) else ""
        place = f"at line {error.lineno}, column {error.colno}"
        raise FormatError(source, f"not valid JSON: {error.msg} {place}{end}") from error
    except RecursionError as error:
        raise too_deep(source) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise FormatError(source, f"not JSON that can be read: {error}") from error


def too_deep(source: Path | str) -> FormatError:
    """The refusal of a document with lists in lists in lists …"""
    hint = "is it a keypoint annotation file at all?"
    return FormatError(source, f"its JSON is nested deeper than {MAX_DEPTH} levels", hint=hint)


def require_shallow(value: Any) -> None:
    """RecursionError where lists and objects are nested deeper than MAX_DEPTH, which neither repr nor json can take."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    raise RecursionError(f"nested deeper than {MAX_DEPTH} levels")


@contextmanager
def shallow(source: Path | str) -> Iterator[None]:
    """FormatError instead of RecursionError."""
    try:
        yield
    except RecursionError as error:
        raise too_deep(source) from error


def text(value: Any) -> str:
    """The one JSON text of a value, simdjson's own included: the same whichever parser read it; NaN stays NaN."""
    try:
        raw = orjson.dumps(value, default=plain)
        if b"null" not in raw or not _holds_nonfinite(value):
            return raw.decode()
    except TypeError:  # deep nesting, an integer above 64 bits, or a lone surrogate
        value = {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else plain(value)
        require_shallow(value)
    return json.dumps(value, separators=(",", ":"), default=plain)


def _holds_nonfinite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nonfinite, value.values()))
    if isinstance(value, list):
        return any(map(_holds_nonfinite, value))
    return isinstance(value, float) and not math.isfinite(value)


def dump(raw: Any, *, nonfinite: bool | None = None, indent: bool = False) -> bytes:
    """JSON text of plain Python data. nonfinite: NaN or Infinity stand in it, which orjson would write as null; None
    looks for them.

    Integers above 64 bits and lone surrogates, which orjson refuses, are written by the standard library too.
    """
    if not nonfinite:
        try:
            data = orjson.dumps(raw, option=orjson.OPT_INDENT_2 if indent else None)
        except TypeError:
            data = None
        if data is not None and (nonfinite is False or b"null" not in data or not _holds_nonfinite(raw)):
            return data
    return json.dumps(raw, indent=2 if indent else None).encode()


def kind(value: Any) -> str:
    """The JSON word for a Python value: "list", "object", "text", "number", "true/false" or "null"."""
    if isinstance(value, dict | simdjson.Object):
        return "object"
    if isinstance(value, list | Rows | simdjson.Array):
        return "list"
    names = {str: "text", bool: "true/false", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
