"""Where collectors keep values that come in pieces, until they are asked for as one array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import pairs

Ints = NDArray[np.int64]


class Integers:
    """Integers that come in lists and arrays and leave as one array."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def add(self, more: Any) -> None:
        self.parts.append(more)

    def array(self) -> Ints:
        if len(self.parts) != 1 or not isinstance(self.parts[0], np.ndarray):
            self.parts = [np.concatenate([np.empty(0, np.int64), *(np.asarray(p, np.int64) for p in self.parts)])]
        whole: Ints = self.parts[0]
        return whole


class Numbers:
    """float64 values that come in pieces."""

    def __init__(self, *parts: NDArray[np.float64]) -> None:
        self.parts = list(parts)

    def add(self, more: NDArray[np.float64]) -> None:
        self.parts.append(more)

    def whole(self) -> NDArray[np.float64]:
        if len(self.parts) != 1:
            self.parts = [np.concatenate([np.empty(0), *self.parts])]
        return self.parts[0]

    def any_integral(self) -> bool:
        return any(map(any_integral, self.parts))


class Triples:
    """As `Numbers`, x, y and a third number of keypoint after keypoint, put where they are going to stay.

    What a piece was in is free for the next one, which is scanned while this one is taken apart: on some machines new
    memory costs more than what is done with it.
    """

    def __init__(self) -> None:
        self._xy, self._third, self._count = np.empty((0, 2)), np.empty(0), 0

    def add(self, more: NDArray[np.float64], expected: int) -> None:
        """Take a piece of whole triples. expected: numbers in all pieces; memory that is not used is not there."""
        start, stop = self._count, self._count + len(more) // 3
        if stop > len(self._third):
            room = max(stop, 3 * start // 2)
            try:
                xy, third = _empty_triples(max(room, int(1.02 * expected / 3)))
            except MemoryError:  # a first piece that is much denser than the others expects too much
                xy, third = _empty_triples(room)
            xy[:start], third[:start] = self._xy[:start], self._third[:start]
            self._xy, self._third = xy, third
        block = more.reshape(-1, 3)
        pairs(self._xy)[start:stop], self._third[start:stop] = pairs(block[:, :2]), block[:, 2]
        self._count = stop

    def apart(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x, y (N, 2), and the third numbers (N,)."""
        return self._xy[: self._count], self._third[: self._count]

    def whole(self) -> NDArray[np.float64]:
        xy, third = self.apart()
        return np.concatenate([xy, third[:, None]], axis=1).reshape(-1)

    def any_integral(self) -> bool:
        xy, third = self.apart()
        return any_integral(xy.reshape(-1)) or any_integral(third)


def _empty_triples(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.empty((count, 2)), np.empty(count)


def any_integral(numbers: NDArray[np.float64]) -> bool:
    """Whether one of them is a whole number; looks at the first ones first."""
    step = 1 << 16
    parts = (numbers[start : start + step] for start in range(0, len(numbers), step))
    return any(bool((part == np.floor(part)).any()) for part in parts)
