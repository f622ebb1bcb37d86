"""Small questions to arrays, answered without a loop and without the imports of NumPy's own answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def lookup(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) position of each `wanted` value in `keys` (unique, any order); -1 where it is not there."""
    if len(keys) == 0:
        return np.full(len(wanted), -1)
    once, back = runs(wanted)
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], once), len(keys) - 1)
    found = order[place]
    return back(np.where(keys[found] == once, found, -1))


def runs(values: NDArray[Any]) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """The values without neighbours that repeat, and what brings an answer to each of those back to all (N,).

    People of an image usually stand together, so that an answer an image is enough. The values as they are where not.
    """
    fresh = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    starts = np.flatnonzero(fresh)
    if 2 * len(starts) > len(values):
        return values, lambda answer: answer
    counts = np.diff(starts, append=len(values))
    return values[starts], lambda answer: np.repeat(answer, counts)


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The different values, sorted, of an array of any shape: `np.unique`, which imports numpy.ma for it (0.05 s)."""
    ordered = np.sort(values, axis=None)
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


def isin(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) bool: the value is one of `wanted`. `np.isin` of integers, which may import numpy.ma."""
    ordered = distinct(wanted)
    if len(ordered) < 4:
        found = np.zeros(len(values), bool)
        for number in ordered.tolist():
            found |= values == number
        return found
    once, back = runs(values)
    place = np.minimum(np.searchsorted(ordered, once), len(ordered) - 1)
    return back(ordered[place] == once)


def median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) of numbers (N, ...): `np.median` along the first axis (it imports numpy.ma). NaN of none, and with one."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, [low, high, len(values) - 1], axis=0)  # NaN last
    return np.asarray(np.where(np.isnan(ordered[-1]), np.nan, (ordered[low] + ordered[high]) / 2))


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers as if drawn, by the output function of SplitMix64 (Steele et al., OOPSLA 2014).

    Not `np.random`: importing it takes as long as all that an evaluation draws numbers for.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fold(extreme: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
    """(N, K, ...) -> (N, ...): `extreme.reduce(values, axis=1)` of np.minimum and its like, K at least 1.

    By halves: NumPy takes six times as long to reduce so short an axis.
    """
    while (k := values.shape[1]) > 1:
        values = extreme(values[:, : (k + 1) // 2], values[:, k // 2 :])  # the middle twice when k is odd: harmless
    return values[:, 0]


def pairs(xy: NDArray[np.float64]) -> NDArray[np.complex128]:
    """(..., 2), each pair contiguous -> (...) view of pairs as x + iy.

    NumPy fetches, copies, compares and subtracts two numbers at once, twice as fast.
    """
    return xy.view(np.complex128)[..., 0]


def any_nan(values: NDArray[np.float64]) -> bool:
    """Whether one of them is NaN. A sum is no number then; where it is one, a look at each is saved."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isnan(values.sum())) and bool(np.isnan(values).any())


def list_pairs(first: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(P,) row i and its partner of each pair: row i meets first[i] … first[i] + counts[i] - 1."""
    skip = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) + np.repeat(first - skip, counts)


def pairs_in_images(
    image_a: NDArray[np.int64], image_b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs (row of a, row of b) of one image, by row of a; images below 0 pair with nothing."""
    order = np.argsort(image_b, kind="stable")
    first = np.searchsorted(image_b[order], image_a)
    count = np.searchsorted(image_b[order], image_a, side="right") - first
    a, b = list_pairs(first, np.where(image_a >= 0, count, 0))
    return a, order[b]
