"""Greedy matching of detections to ground truth, as `COCOeval.evaluateImg` does it, for all images at once.

The rules are those of cocoeval.py:235–312 (pycocotools 2.0.11). Per area range and threshold, detections choose in
score order. A choice is the free ground truth of greatest OKS, the later of equals, among those that count; only if
none of those reaches the threshold, among the ignored. A crowd is never taken.

Images do not influence each other, so that step r lets the detection of rank r choose in every image at once.
Matching is the map of map and reduce: `match` some images at a time, `concatenate`, then `accumulate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import isin
from kpdata.errors import EvaluationError
from kpdata.eval.kernels import greedy
from kpdata.eval.oks import (
    MAX_THRESHOLD,
    Bools,
    Detections,
    Floats,
    GroundTruth,
    Ints,
    Order,
    Pairs,
    Params,
    candidate_pairs,
    order_rows,
)

Rows = TypeVar("Rows", GroundTruth, Detections)
POOLED = -1  # the category that all become without `use_categories` (cocoeval.py:141)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Who was matched with whom. Sorted by category, image id, and then file order (G) or rank (D).

    `matched` holds a position in the pairs, -1 where a detection is unmatched: `pair_gt[matched]` is the position of
    the ground truth, `pair_oks[matched]` the similarity. Rows point into the arrays given to `match`.
    """

    category_ids: Ints  # (C,) ascending
    gt_row: Ints  # (G,) row of GroundTruth
    gt_image_id: Ints  # (G,)
    gt_category: Ints  # (G,) index into category_ids
    gt_annotation_id: Ints  # (G,)
    gt_ignored: Bools  # (A, G) a crowd, without keypoints, or of another size
    dt_row: Ints  # (D,) row of Detections; the best max_dets of each image and category
    dt_image_id: Ints  # (D,)
    dt_category: Ints  # (D,) index into category_ids
    dt_rank: Ints  # (D,) 0 for the best score of its image and category
    dt_score: Floats  # (D,)
    dt_outside: Bools  # (A, D) of another size: ignored when unmatched
    pair_gt: Ints  # (P,) position in gt_row
    pair_oks: Floats  # (P,)
    matched: NDArray[np.int32]  # (A, T, D)


def match(gt: GroundTruth, dt: Detections, image_ids: Ints, category_ids: Ints, params: Params) -> Matches:
    """Match the people of the listed images and categories at every area range and threshold of `params`.

    Rows of other images or categories are dropped. To work in batches give part of the images at a time, and `gt` as
    `oks.resolve_repeated_ids` returns it. Without `params.use_categories` the listed categories become one, numbered
    -1 as in pycocotools. Raises EvaluationError unless gt, dt and sigmas agree on K.
    """
    sizes = (gt.keypoints.shape[1], dt.keypoints.shape[1], len(params.sigmas))
    if len(set(sizes)) != 1:
        raise EvaluationError(
            f"{sizes[0]} keypoints in the ground truth, {sizes[1]} in the predictions, {sizes[2]} sigmas: "
            "expected the same number",
            hint="remap one of them to the other's skeleton",
        )
    if not params.use_categories:
        gt, dt, category_ids = _pool(gt, category_ids), _pool(dt, category_ids), np.array([POOLED])
    order = order_rows(gt, dt, image_ids, category_ids, params.max_dets[-1], mode=params.mode)
    pairs = _pairs(gt, dt, order, params)
    low, high = params.area_ranges[:, :1], params.area_ranges[:, 1:]
    gt_area, dt_area = gt.area[order.gt_rows], dt.area[order.dt_rows]
    crowd = gt.iscrowd[order.gt_rows]
    ignored = crowd | (gt.num_keypoints[order.gt_rows] == 0) | (gt_area < low) | (gt_area > high)  # (A, G)
    images = max(1, len(order.image_ids))
    return Matches(
        category_ids=order.category_ids,
        gt_row=order.gt_rows,
        gt_image_id=order.image_ids[order.gt_group % images],
        gt_category=order.gt_group // images,
        gt_annotation_id=gt.annotation_id[order.gt_rows],
        gt_ignored=ignored,
        dt_row=order.dt_rows,
        dt_image_id=order.image_ids[order.dt_group % images],
        dt_category=order.dt_group // images,
        dt_rank=order.dt_rank,
        dt_score=dt.score[order.dt_rows],
        dt_outside=(dt_area < low) | (dt_area > high),
        pair_gt=pairs.gt,
        pair_oks=pairs.oks,
        matched=match_pairs(pairs, order, ignored, crowd, params.iou_thresholds),
    )


def _pairs(gt: GroundTruth, dt: Detections, order: Order, params: Params) -> Pairs:
    """The pairs that can match: none for pycocotools without categories (`Params.use_categories`)."""
    if params.use_categories or params.mode == "fixed":
        return candidate_pairs(gt, dt, order, params)
    none = np.empty(0, np.int64)  # computeOks looks under category -1 and finds nobody (cocoeval.py:195)
    return Pairs(none, none, np.empty(0))


def _pool(rows: Rows, category_ids: Ints) -> Rows:
    """The same rows with the listed categories made one, and all others another that nobody lists."""
    pooled = np.where(isin(rows.category_id, category_ids), POOLED, POOLED - 1)
    return replace(rows, category_id=pooled)


def match_pairs(pairs: Pairs, order: Order, ignored: Bools, crowd: Bools, thresholds: Floats) -> NDArray[np.int32]:
    """(A, T, D) position in `pairs` of each detection's match, -1 for none; `ignored` (A, G), `crowd` (G,)."""
    matched = np.full((len(ignored), len(thresholds), len(order.dt_rows)), -1, dtype=np.int32)
    if greedy(pairs.dt, pairs.gt, pairs.oks, ignored, crowd, np.minimum(thresholds, MAX_THRESHOLD), matched):
        return matched
    preferred = np.lexsort((-pairs.gt, -pairs.oks, pairs.dt, order.dt_rank[pairs.dt]))  # NaN after all numbers
    turn = np.cumsum(np.diff(pairs.dt[preferred], prepend=-1) != 0)  # counts detections, rank by rank
    bounds = np.searchsorted(order.dt_rank[pairs.dt[preferred]], np.arange(order.dt_rank.max(initial=-1) + 2))
    limits = np.minimum(thresholds, MAX_THRESHOLD)[:, None]
    for a in range(len(ignored)):
        later = ignored[a, pairs.gt[preferred]]
        queue = preferred[np.argsort(turn * 2 + later, kind="stable")]
        taken = np.zeros((len(thresholds), len(crowd)), dtype=np.bool_)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            _choose(queue[start:stop], pairs, ignored[a], crowd, limits, taken, matched[a])
    return matched


def _choose(
    queue: Ints, pairs: Pairs, ignored: Bools, crowd: Bools, limits: Floats, taken: Bools, matched: NDArray[np.int32]
) -> None:
    """One detection of each image takes the first free pair of its part of `queue`; writes `taken` and `matched`."""
    g, d, oks = pairs.gt[queue], pairs.dt[queue], pairs.oks[queue]
    free = ~taken[:, g] | crowd[g]  # (T, Q)
    reaches = ~(oks < limits)
    if np.isnan(oks).any():
        reaches = _reaches_beside_nan(free, reaches, oks, g, d * 2 + ignored[g])
    t, q = np.nonzero(free & reaches)
    first = np.flatnonzero(np.diff(t * matched.shape[1] + d[q], prepend=-1))
    t, q = t[first], q[first]
    matched[t, d[q]] = queue[q]
    taken[t, g[q]] = True


def _reaches_beside_nan(free: Bools, reaches: Bools, oks: Floats, g: Ints, part: Ints) -> Bools:
    """(T, Q) which pairs can win where OKS is NaN. No comparison with NaN is true (cocoeval.py:290): a NaN is accepted,
    and whatever free ground truth comes next replaces it. So the last free NaN of a detection's counting (or ignored)
    ground truth starts the search anew, without a threshold: it and those after it in the file can win, none before."""
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    nan_at = np.where(free & np.isnan(oks), g, -1)
    last = np.maximum.reduceat(nan_at, starts, axis=1)
    last = np.repeat(last, np.diff(starts, append=len(part)), axis=1)
    return np.where(last >= 0, g >= last, reaches)


def concatenate(parts: Sequence[Matches]) -> Matches:
    """Join matches of disjoint sets of images into those of their union, whatever the order of the parts.

    Rows stay as they are. Raises EvaluationError where there is no part or the parts' categories differ.
    """
    if not parts or any(not np.array_equal(p.category_ids, parts[0].category_ids) for p in parts):
        raise EvaluationError(f"{len(parts)} parts to join: expected at least one, all with the same categories")
    gt_at = np.cumsum([0, *(len(p.gt_row) for p in parts)])
    pair_at = np.cumsum([0, *(len(p.pair_gt) for p in parts)])
    pair_gt = np.concatenate([p.pair_gt + at for p, at in zip(parts, gt_at, strict=False)])
    matched = np.concatenate(
        [
            np.where(p.matched >= 0, p.matched + np.int32(at), np.int32(-1))
            for p, at in zip(parts, pair_at, strict=False)
        ],
        axis=2,
    )
    joined = {name: np.concatenate([getattr(p, name) for p in parts], axis=-1) for name in _GT_COLUMNS + _DT_COLUMNS}
    g = np.lexsort((joined["gt_image_id"], joined["gt_category"]))
    d = np.lexsort((joined["dt_rank"], joined["dt_image_id"], joined["dt_category"]))
    place = np.empty(len(g), np.int64)
    place[g] = np.arange(len(g))
    columns = {name: joined[name][..., g] for name in _GT_COLUMNS} | {
        name: joined[name][..., d] for name in _DT_COLUMNS
    }
    oks = np.concatenate([p.pair_oks for p in parts])
    return replace(parts[0], **columns, pair_gt=place[pair_gt], pair_oks=oks, matched=matched[:, :, d])


def without_images(matches: Matches, image_ids: Ints) -> Matches:
    """The same matches without those of these images; rows stay as they are."""
    g, d = ~isin(matches.gt_image_id, image_ids), ~isin(matches.dt_image_id, image_ids)
    pairs = g[matches.pair_gt]
    matched = matches.matched[:, :, d]
    columns = {name: getattr(matches, name)[..., g] for name in _GT_COLUMNS} | {
        name: getattr(matches, name)[..., d] for name in _DT_COLUMNS
    }
    return replace(
        matches,
        **columns,
        pair_gt=(np.cumsum(g) - 1)[matches.pair_gt[pairs]],
        pair_oks=matches.pair_oks[pairs],
        # A detection and its ground truth are of the same image: what stays matched points at a pair that stays.
        matched=np.where(matched >= 0, np.append(np.cumsum(pairs, dtype=np.int32) - 1, -1)[matched], np.int32(-1)),
    )


_GT_COLUMNS = ("gt_row", "gt_image_id", "gt_category", "gt_annotation_id", "gt_ignored")
_DT_COLUMNS = ("dt_row", "dt_image_id", "dt_category", "dt_rank", "dt_score", "dt_outside")
