"""The compiled scanner over the rows of a JSON array, by two threads. NumPy is not needed, so that it can run before.

`_scanning` makes arrays of what it finds, `_ahead` begins it while Python is still importing.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from kpdata.converters._json import Rows

try:
    from kpdata.converters import _scan as _compiled
except ImportError:  # no C compiler when it was installed
    _compiled = None  # type: ignore[assignment]
compiled = _compiled

SCALAR, NUMBERS, POLYGONS = range(3)
NULL, INTEGER, REAL, FALSE, TRUE, TEXT, ESCAPED, OBJECT = range(8)
_POWERS = range(-64, 65)
_CHUNK = 1 << 22  # bytes that one thread reads at a time
Raw = tuple[bytes, Any]  # the text, where something found points into it, and what `scan` found in it
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
        self._lock = threading.Lock()
        self._parts: dict[int, Raw] = {}
        self._taken, self._working, self._failed = 0, 0, False
        self._idle = threading.Condition(self._lock)

    def work(self) -> None:
        """Scan parts until none is left, or one is not taken."""
        buffer = bytearray()
        with self._lock:
            self._working += 1
        try:
            while (cut := self._next()) is not None:
                number, start, stop = cut
                part = self._scanned(start, stop, buffer)
                with self._lock:
                    if part is None:
                        self._failed = True
                    else:
                        self._parts[number] = part
        except Exception:  # in a thread nobody would hear of it: the long way meets it again, and says so
            self._failed = True
        finally:
            with self._idle:
                self._working -= 1
                self._idle.notify_all()

    def _next(self) -> tuple[int, int, int] | None:
        with self._lock:
            cut = None if self._failed else next(self._cuts, None)
            self._taken += cut is not None
            return None if cut is None else (self._taken - 1, *cut)

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
        return (bytes(data) if any(map(_points_into_text, columns)) else b""), found

    def result(self) -> Iterator[Raw] | None:
        """The parts in their order, each let go when the next is due; None where the scanner does not take the rows."""
        helper = threading.Thread(target=self.work) if not self._working and (os.cpu_count() or 1) > 1 else None
        if helper and self._rows.stop - self._rows.start > _CHUNK:
            helper.start()
        self.work()
        with self._idle:
            self._idle.wait_for(lambda: not self._working)
        if self._failed:
            return None
        return (self._parts.pop(number) for number in range(self._taken))


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
