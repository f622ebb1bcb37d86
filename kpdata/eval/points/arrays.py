"""Errors of one person's keypoints as plain arrays: distances, PCK, PCP, AUC, EPE, NME, and the lengths they are
measured in.

N people with K keypoints; row n of the predictions belongs to person n. Two odd values say all that is odd: **NaN** is
not measured and counts nowhere, **inf** is measured and missed. Rates and errors relative to a length are shares, not
percent; lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from kpdata.errors import EvaluationError
from kpdata.eval.oks import Bools, Floats, Ints

# 0.6 × the diagonal of the head box: MPII's head segment (anibali/eval-mpii-pose eval/util_get_head_size.m).
HEAD_SHARE = 0.6
Limb = tuple[Sequence[int], Sequence[int]]  # columns whose middle is one end, and the other end


# ------------------------------------------------------------------------------------------------------------ distances


def distances(gt_xy: Floats, dt_xy: Floats, labelled: Bools) -> Floats:
    """(N, K) Euclidean distance in pixels of predicted and true keypoints.

    gt_xy, dt_xy (N, K, 2); labelled (N, K). NaN where a keypoint is not labelled, or its label has no finite
    coordinate; inf where it is and the prediction has none (MPII: "only gt is allowed to have NaN",
    anibali/eval-mpii-pose evalMPII.m). EvaluationError where the shapes do not agree.

    >>> true, found = np.array([[[0.0, 0], [3, 4]]]), np.array([[[3.0, 4], [np.nan, 4]]])
    >>> distances(true, found, np.array([[True, True]])).tolist()
    [[5.0, inf]]
    """
    if gt_xy.shape != dt_xy.shape or gt_xy.ndim != 3 or gt_xy.shape[2] != 2 or labelled.shape != gt_xy.shape[:2]:
        raise EvaluationError(
            f"ground truth {gt_xy.shape}, predictions {dt_xy.shape}, labelled {labelled.shape}, "
            "expected (N, K, 2) twice and (N, K)"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        dx, dy = gt_xy[..., 0] - dt_xy[..., 0], gt_xy[..., 1] - dt_xy[..., 1]
        far = np.sqrt(dx * dx + dy * dy)
    far = np.where(np.isfinite(far), far, np.inf)
    return np.where(labelled & finite(gt_xy), far, np.nan)


def finite(xy: Floats) -> Bools:
    """(...) bool: both coordinates of points (..., 2) are numbers. (`.all(-1)` is slow on so short an axis.)"""
    return np.asarray(np.isfinite(xy[..., 0]) & np.isfinite(xy[..., 1]))


def normalized(distances: Floats, norms: Floats) -> Floats:
    """(N, K) distances (N, K) in units of each person's length `norms` (N,).

    A person without a length (NaN, inf, negative) is not measured: NaN. One with the length 0 is missed everywhere:
    inf, as MPII's and LSP's evaluation have it.
    """
    if norms.shape != distances.shape[:1]:
        raise EvaluationError(f"lengths {norms.shape} beside distances {distances.shape}, expected one a person")
    known = np.isfinite(norms) & (norms >= 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = distances / np.where(known, norms, np.nan)[:, None]
    return np.where((norms == 0)[:, None] & ~np.isnan(distances), np.inf, ratio)


# -------------------------------------------------------------------------------------------------------------- metrics


def pck(distances: Floats, norms: Floats, thresholds: Floats, *, inclusive: bool = True) -> tuple[Floats, Ints]:
    """Percentage of correct keypoints (Yang & Ramanan, PAMI 2013), as shares, at several thresholds.

    distances (N, K) of this module; norms (N,) the length of each person, whatever PCK it is: `head_sizes` gives PCKh
    (Andriluka et al., CVPR 2014), `pair_lengths` of a shoulder and the opposite hip the torso's (Sapp & Taskar, CVPR
    2013). thresholds (T,). A keypoint is correct at d / norm <= threshold; `inclusive=False`: at < threshold (mmpose).
    Returns rates (T, K), NaN where nobody is measured, and counts (K,) of the people measured.
    """
    ratio = normalized(distances, norms)
    counts = (~np.isnan(ratio)).sum(0)
    ordered = np.sort(ratio, axis=0)  # NaN last: a threshold's place among the first `counts` is its number of hits
    side: Literal["left", "right"] = "right" if inclusive else "left"
    limits = np.asarray(thresholds, np.float64)
    rates = np.full((len(limits), ratio.shape[1]), np.nan)
    for k in np.flatnonzero(counts).tolist():
        rates[:, k] = np.searchsorted(ordered[: counts[k], k], limits, side) / counts[k]
    return rates, counts


def auc(rates: Floats, thresholds: Floats) -> Floats:
    """(...,) area under PCK curves `rates` (T, ...) over `thresholds` (T,) ascending, as a share of the whole range.

    The curve is joined by straight lines: anibali/eval-mpii-pose eval/area_under_curve.m integrates numerically what
    this does exactly. EvaluationError for fewer than two thresholds.
    """
    limits = np.asarray(thresholds, np.float64)
    if len(limits) < 2 or not (np.diff(limits) > 0).all():
        raise EvaluationError(f"{len(limits)} thresholds, expected at least two, ascending: a curve has an area")
    steps = np.diff(limits).reshape(-1, *(1,) * (rates.ndim - 1))
    return np.asarray(((rates[1:] + rates[:-1]) / 2 * steps).sum(0) / (limits[-1] - limits[0]))


def auc_shares(ratio: Floats, thresholds: Floats, limits: Floats) -> Floats:
    """(N, K) what each keypoint adds to `auc` of its column, whose mean over people is the area; NaN not measured.

    ratio (N, K) of `normalized`; thresholds (T,) ascending, and limits (T,) what it is compared with (`pck`'s), with
    <=: correct from the first limit on that reaches it. The straight lines give the ends of the range half a step.
    """
    steps = np.diff(np.asarray(thresholds, np.float64))
    weights = (np.append(steps, 0) + np.append(0, steps)) / 2 / (thresholds[-1] - thresholds[0])
    rest = np.append(np.cumsum(weights[::-1])[::-1], 0)
    return np.where(np.isnan(ratio), np.nan, rest[np.searchsorted(limits, ratio, side="left")])


def mean_errors(errors: Floats) -> tuple[Floats, Floats, Ints]:
    """Means (K,), medians (K,) and counts (K,) of the finite errors (N, K) of each keypoint; NaN where there is none.

    Of `distances` these are EPE, the end-point error in pixels; of `normalized` distances NME, the normalised mean
    error (mmpose/evaluation/functional/keypoint_eval.py has both). A keypoint that was not predicted has no error:
    report how many beside them, or a model gains by staying silent.
    """
    finite = np.isfinite(errors)
    counts = finite.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(finite, errors, 0).sum(0) / counts
    ordered = np.sort(np.where(finite, errors, np.inf), axis=0)
    if not len(ordered):
        return means, means.copy(), counts
    low, high = (np.take_along_axis(ordered, place[None], 0)[0] for place in ((counts - 1).clip(0) // 2, counts // 2))
    return means, np.where(counts > 0, (low + np.where(counts > 0, high, 0)) / 2, np.nan), counts


def limb_errors(gt_xy: Floats, dt_xy: Floats, labelled: Bools, limbs: Sequence[Limb]) -> Floats:
    """(N, L, 2) distance of both ends of L limbs from their true places, in units of the true limb's length.

    An end is the middle of one or more keypoints and labelled where all of them are. Odd values as in `distances`, at
    both ends of a limb; a true limb of length 0 cannot be hit: inf (as in bearpaw/eval_pose utils/eval_pcp.m).
    """
    out = np.empty((len(gt_xy), len(limbs), 2))
    for number, limb in enumerate(limbs):
        true, found = (np.stack([xy[:, list(end)].mean(1) for end in limb], axis=1) for xy in (gt_xy, dt_xy))
        ends = np.repeat(labelled[:, [*limb[0], *limb[1]]].all(1, keepdims=True), 2, axis=1)  # all of these (N, 2, …)
        far = distances(true, found, ends)
        far[np.isnan(far).any(1)] = np.nan
        out[:, number] = normalized(far, pair_lengths(true, ends, 0, 1))
    return out


def pcp(errors: Floats, threshold: float = 0.5, *, strict: bool = True) -> tuple[Floats, Ints]:
    """Percentage of correct parts (Ferrari et al., CVPR 2008), as shares, of `limb_errors` (N, L, 2).

    strict: both ends lie within `threshold` of the limb's length. Loose (`strict=False`): the mean of both ends' errors
    does (Pishchulin et al., CVPR 2012, tell the two apart). Returns rates (L,), NaN where nobody is measured, and
    counts (L,).
    """
    worst = errors.max(2) if strict else errors.mean(2)
    counts = (~np.isnan(worst)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((worst <= threshold).sum(0) / counts), counts


def mean_and_total(values: Floats, counts: Ints, scored: Bools) -> tuple[float, float]:
    """The two means in use of values (K,) over the scored (K,) keypoints with a count (K,) above 0; NaN without any.

    mean: every keypoint weighs the same (bearpaw/pytorch-pose, mmpose's plain PCK). total: every labelled keypoint of a
    person does, so that rare ones weigh less (MPII's own "Total"; HRNet calls this one "Mean").
    """
    used = np.asarray(scored & (counts > 0))
    if not used.any():
        return np.nan, np.nan
    return float(values[used].mean()), float((values[used] * counts[used]).sum() / counts[used].sum())


# -------------------------------------------------------------------------------------------------------------- lengths


def head_sizes(head_bbox: Floats) -> Floats:
    """(N,) px: 0.6 × the diagonal of head boxes (N, 4) x, y, w, h; NaN where there is none."""
    return np.asarray(HEAD_SHARE * np.hypot(head_bbox[:, 2], head_bbox[:, 3]))


def pair_lengths(gt_xy: Floats, labelled: Bools, first: int, second: int) -> Floats:
    """(N,) px between two keypoints (columns) of the ground truth; NaN where one of them is not labelled."""
    with np.errstate(invalid="ignore"):
        length = np.hypot(*(gt_xy[:, first] - gt_xy[:, second]).T)
    return np.where(labelled[:, first] & labelled[:, second], length, np.nan)


def box_sides(bbox: Floats) -> Floats:
    """(N,) px: the longer side of boxes (N, 4) x, y, w, h, mmpose's length of PCK; NaN where there is none."""
    return np.maximum(bbox[:, 2], bbox[:, 3])


def box_roots(bbox: Floats) -> Floats:
    """(N,) px: √(w·h) of boxes (N, 4), the usual length of NME; NaN where there is none, or a side is negative."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.where((bbox[:, 2:] < 0).any(1), np.nan, bbox[:, 2] * bbox[:, 3]))


def extents(gt_xy: Floats, labelled: Bools) -> Floats:
    """(N,) px: the longer side of the tight box around each person's labelled keypoints (Yang & Ramanan, PAMI 2013);
    NaN where nothing is labelled."""
    used = (labelled & finite(gt_xy))[..., None]  # (N, K, 1)
    low = np.where(used, gt_xy, np.inf).min(1, initial=np.inf)
    high = np.where(used, gt_xy, -np.inf).max(1, initial=-np.inf)
    some = used.any((1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(some, (high - low).max(1), np.nan)
