"""What a reader is given: a file or folder, read and parsed once, however many formats look at it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kpdata import files
from kpdata.converters import _ahead, _json

T = TypeVar("T")


class Source:
    """A path with its bytes and its parsed JSON, each loaded on first use."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.__dict__ |= _ahead.known(self.path)

    @classmethod
    def of(cls, path: Path | str | Source) -> Source:
        """A source for a path; a source as it is."""
        return path if isinstance(path, Source) else cls(path)

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def data(self) -> bytes:
        """The file's bytes, unpacked where it is gzip. FormatError where it cannot be read."""
        return files.read_bytes(self.path)

    @cached_property
    def _slices(self) -> files.Bytes | None:
        """The file by slices, if it is big and its text starts like a JSON list."""
        found = None if "data" in self.__dict__ else files.sliced(self.path)
        listed = found is not None and found[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        return found if listed else None

    @cached_property
    def looks_like_json(self) -> bool:
        """The first character could start a JSON document. An empty file and UTF-16 are left to the JSON reader too,
        which words best what is wrong with them."""
        if self.is_folder:
            return False
        if self._slices is not None:
            return True
        start = self.data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
        return start[:1] in b'{["' or start[:2] in (b"\xff\xfe", b"\xfe\xff") if start else not self.data.strip()

    @cached_property
    def json(self) -> Any:
        """The document, big arrays as `_json.Rows`. FormatError where it is no JSON."""
        try:
            if self._slices is not None:
                return _json.stream_list(self._slices)
            return _json.stream(self.data)
        except _json.NotStreamable:
            return _json.load(self.data, self.path)

    def first_row(self) -> Any:
        """The first element of a top-level JSON list as plain Python; None where there is none."""
        return next(iter(self.first_rows(1)), None)

    def first_rows(self, count: int, key: str | None = None) -> list[Any]:
        """Up to `count` elements of the document's list, or of the list of that key, as plain Python."""
        rows = self.json if key is None else self.json[key]
        try:
            if isinstance(rows, _json.Rows):
                return rows.head(count)
        except _json.NotStreamable:
            self.json = _json.load(self.data, self.path)
            rows = self.json if key is None else self.json[key]
        return rows[:count] if isinstance(rows, list) else []

    def decode(self, decode: Callable[[Any], T]) -> T:
        """`decode` the document; the standard library parses it again where the fast path gives up half-way."""
        try:
            return decode(self.json)
        except _json.NotScannable:  # the rows know, so that this happens once for each list
            return self.decode(decode)
        except _json.NotStreamable:
            self.json = _json.load(self.data, self.path)
            return decode(self.json)
