"""The compiled scanner over the rows of a JSON array, by two threads. NumPy is not needed, so that it can run before.

`_scanning` makes arrays of what it finds, `_ahead` begins it while Python is still importing.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any

from kpdata.converters._json import NotScannable, Rows
from kpdata.threads import started, workers

try:
    from kpdata.converters import _scan as _compiled
except ImportError:  # no C compiler when it was installed
    _compiled = None  # type: ignore[assignment]
compiled = _compiled

SCALAR, NUMBERS, POLYGONS = range(3)
NULL, INTEGER, REAL, FALSE, TRUE, TEXT, ESCAPED, OBJECT = range(8)
_POWERS = range(-64, 65)
_CHUNK = 1 << 22  # bytes that one thread reads at a time
# The text, where something found points into it; how many times as much there is in all; what `scan` found in it.
Raw = tuple[bytes, float, Any]
Asked = tuple[tuple[bytes, ...], tuple[int, ...]]  # keys, and what each holds


def asked(keys: Sequence[str], kinds: Sequence[int]) -> Asked:
    """Columns in the words of the compiled module."""
    return tuple(key.encode() for key in keys), tuple(kinds)


class Scanning:
    """The parts of some rows, each scanned by whichever thread works on it. The scanner holds no lock of Python's."""

    def __init__(self, rows: Rows, asked: Asked) -> None:
        self.asked = asked
        self._rows = rows
        self._cuts = rows.cuts(_CHUNK)
        self._changed = threading.Condition()
        self._parts: dict[int, Raw] = {}
        self._taken, self._working, self._failed = 0, 0, False

    def work(self) -> None:
        """Scan parts until none is left, or one is not taken."""
        with self._changed:
            self._working += 1
        try:
            buffer = self._rows.buffer(_CHUNK)
            while self._scan_next(buffer):
                pass
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants the parts any more: whoever scans one ends with it."""
        with self._changed:
            self._failed = True
            self._parts.clear()
            self._changed.notify_all()

    def _scan_next(self, buffer: bytearray) -> bool:
        """Scan the next part; False where none is left, or where it is not taken."""
        part: Raw | None = None
        number = -1
        try:
            with self._changed:
                if self._failed or (cut := next(self._cuts, None)) is None:
                    return False
                number = self._taken
                self._taken += 1
            part = self._scanned(*cut, buffer)
        except Exception:  # in a thread nobody would hear of it: the long way meets it again, and says so
            part = None
        with self._changed:
            if part is None:
                self._failed = True
            elif not self._failed:
                self._parts[number] = part
            self._changed.notify_all()
        return part is not None

    def _scanned(self, start: int, stop: int, buffer: bytearray) -> Raw | None:
        data = self._rows.view(start, stop, buffer)
        found = compiled.scan(data, 0, len(data), *self.asked, powers())
        if found is None:
            return None
        columns, wide = found[1], found[-1]
        try:
            if wide:
                str(data, "utf-8")
        except ValueError:  # the long way says where
            return None
        whole = (self._rows.stop - self._rows.start) / max(1, stop - start)
        return (bytes(data) if any(map(_points_into_text, columns)) else b""), whole, found

    def parts(self) -> Generator[Raw, None, None]:
        """The parts in their order, each as soon as it is there; scans along. NotScannable where one is not taken.

        Whoever takes no more of them ends the scanning.
        """
        many = self._rows.stop - self._rows.start > _CHUNK and workers() > 1
        if many and not self._working:
            started(self.work, daemon=True)
        buffer, number = bytearray(), 0
        try:
            while True:
                with self._changed:
                    if self._failed:
                        raise NotScannable
                    part = self._parts.pop(number, None)
                if part is not None:
                    yield part
                    number += 1
                elif not self._scan_next(buffer := buffer or self._rows.buffer(_CHUNK)) and not self._awaited(number):
                    return
        finally:
            self.stop()

    def _awaited(self, number: int) -> bool:
        """Wait for a part that another thread scans; False where there is none."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._failed or number in self._parts or number >= self._taken or not self._working
            )
            if number < self._taken and number not in self._parts:
                self._failed = True  # whoever took it has died of it
            return self._failed or number in self._parts


def _points_into_text(column: Any) -> bool:
    """Texts and objects are positions; so are numbers that are left to Python's float()."""
    kinds = bytes(column[1])
    return any(kind in kinds for kind in (TEXT, ESCAPED, OBJECT)) or len(memoryview(column[6])) > 0


def usable() -> bool:
    """The compiled module is there and wanted."""
    return compiled is not None and not pure()


def pure() -> bool:
    """The user wants the way without the compiled module, or to see whether it is to blame."""
    return bool(os.environ.get("KPDATA_PURE_PYTHON"))


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
    return struct.pack(f"={len(halves)}Q", *halves)
