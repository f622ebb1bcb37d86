"""The inner loops of evaluation, each twice and equal to the bit: compiled (`_kernels.c`, if it was built), in NumPy.

NumPy can pair people only by copying their keypoints pair by pair; the compiled loops read them where they are.
KPDATA_PURE_PYTHON=1 in the environment turns the compiled way off. No thread holds the interpreter while one runs.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import fold, list_pairs, pairs

try:
    from kpdata.eval import _kernels as _built
except ImportError:  # no C compiler when it was installed
    _built = None  # type: ignore[assignment]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TERMS_PER_BLOCK = 1 << 16  # OKS terms computed at once: half a megabyte a temporary, so that it stays in the cache


def compiled() -> Any:
    """The compiled loops; None where they were not built, or are not wanted."""
    return None if os.environ.get("KPDATA_PURE_PYTHON") else _built


def extents(keypoints: Floats, rows: Ints | None = None, *, skip_nan: bool = False) -> tuple[Floats, Floats]:
    """(N, K, 2) -> the least and greatest x, y of each row (or of `rows`), (N, 2) each; NaN where one is NaN.

    With `skip_nan` only where all are.
    """
    n, k = len(keypoints) if rows is None else len(rows), keypoints.shape[1]
    low, high = np.empty((n, 2)), np.empty((n, 2))
    plain = keypoints.flags.c_contiguous and keypoints.dtype == np.float64 and k > 0 and keypoints.shape[2:] == (2,)
    if plain and not skip_nan and (kernels := compiled()) is not None:
        # int64 by name: NumPy 1 counts in 32 bits on Windows.
        kernels.extents(keypoints, np.arange(n, dtype=np.int64) if rows is None else rows, low, high, k)
        return low, high
    # In blocks that fit the cache.
    least, greatest = (np.fmin, np.fmax) if skip_nan else (np.minimum, np.maximum)
    step = max(1, TERMS_PER_BLOCK // max(1, k))
    for s in range(0, n, step):
        block = keypoints[s : s + step] if rows is None else keypoints[rows[s : s + step]]
        low[s : s + step] = fold(least, block)
        high[s : s + step] = fold(greatest, block)
    return low, high


def near(first: Ints, counts: Ints, dt_box: Floats, gt_box: Floats) -> tuple[Ints, Ints]:
    """Pairs whose boxes x0, y0, x1, y1 are not apart: detection (P,) and ground truth (P,) of each.

    Detection i of `dt_box` (D, 4) meets first[i] … first[i] + counts[i] - 1 of `gt_box` (G, 4). Boxes are apart where
    they do not touch; a NaN is apart from nothing.
    """
    if (kernels := compiled()) is not None:
        d, g = np.empty((2, int(counts.sum())), np.int64)
        found = kernels.near(first, counts, dt_box, gt_box, d, g)
        return d[:found], g[:found]
    d, g = list_pairs(first, counts)
    a, b = dt_box[d].T, gt_box[g].T
    touching = np.flatnonzero(~((a[0] > b[2]) | (a[1] > b[3]) | (a[2] < b[0]) | (a[3] < b[1])))
    return d[touching], g[touching]


def minus_e(
    found: Floats, rows: Ints, people: Floats, g: Ints, joints: Ints, n: int, variances: Floats, areas: Floats
) -> Floats:
    """(P, n) -e of OKS = mean exp(-e), e = squared pixels / variance / area / 2 (cocoeval.py:192–233).

    found (M, K, 2), rows (P,): a detection's keypoints; people (G, K, 2), g (P,): the labelled keypoints of a person,
    which stand at the front, `joints` (G, K) their indices; variances (K,), areas (G,). n is at least 1.
    """
    if (kernels := compiled()) is not None:
        out = np.empty((len(g), n))
        kernels.terms(found, rows, people, g, joints, variances, areas, out, found.shape[1], n)
        return out
    which = joints[g, :n]
    d = pairs(found)[rows[:, None], which] - pairs(people)[g, :n]
    return np.asarray(-((d.real**2 + d.imag**2) / variances[which] / areas[g, None] / 2))


def minus_e_of_boxes(found: Floats, rows: Ints, boxes: Floats, g: Ints, variances: Floats, areas: Floats) -> Floats:
    """(P, K) as `minus_e` for people without labelled keypoints: the distance to their box (G, 4) x0, y0, x1, y1."""
    if (kernels := compiled()) is not None:
        out = np.empty((len(g), found.shape[1]))
        kernels.box_terms(found, rows, boxes, g, variances, areas, out, found.shape[1])
        return out
    xy, box = found[rows], boxes[g]
    d = np.maximum(0, box[:, None, :2] - xy) + np.maximum(0, xy - box[:, None, 2:])
    return np.asarray(-((d[..., 0] ** 2 + d[..., 1] ** 2) / variances / areas[g, None] / 2))


def greedy(
    d: Ints, g: Ints, oks: Floats, ignored: Bools, crowd: Bools, limits: Floats, matched: NDArray[np.int32]
) -> bool:
    """Write who is matched with whom into `matched` (A, T, D), the position of a pair; False where not compiled.

    Pairs (P,) of detections d, whose order is that of their turns; ignored (A, G), crowd (G,), limits (T,).
    A detection whose OKS may be NaN needs all its pairs: a NaN is accepted, and whatever comes next replaces it.
    """
    if (kernels := compiled()) is None:
        return False
    arrays = (np.ascontiguousarray(ignored), np.ascontiguousarray(crowd), np.ascontiguousarray(limits))
    taken = np.empty(len(crowd), np.bool_)
    turn = d * len(crowd) + g
    if (turn[1:] > turn[:-1]).all():
        kernels.greedy(d, g, oks, *arrays, matched, taken)
        return True
    order = np.argsort(turn, kind="stable")
    kernels.greedy(d[order], g[order], oks[order], *arrays, matched, taken)
    matched[:] = np.append(order, -1)[matched]
    return True
