"""pycocotools' evaluation one image at a time, for rows that arrays cannot hold: what raises there raises here.

Only `coco.COCOeval` uses this, and only for input that is odd in a way that Python's own operations decide about: text
for numbers, missing fields, 14 of 17 keypoints, results whose ids are not above 0, `useCats` 0, numbers accumulated
over another set of images than was evaluated. The rules are those of cocoeval.py (pycocotools 2.0.11), in its order of
operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.eval.oks import MAX_THRESHOLD

Row = dict[str, Any]
Array = NDArray[Any]


def oks_matrix(gts: list[Row], dts: list[Row], p: Any) -> Any:
    """OKS (D, G) of the best maxDets[-1] detections; [] where a side is empty (cocoeval.py:192–233)."""
    dts = best_first(dts)
    if len(dts) > p.maxDets[-1]:
        dts = dts[: p.maxDets[-1]]
    if not gts or not dts:
        return []
    oks = np.zeros((len(dts), len(gts)))
    variances, k = (p.kpt_oks_sigmas * 2) ** 2, len(p.kpt_oks_sigmas)
    for j, gt in enumerate(gts):
        flat = np.array(gt["keypoints"])
        xy, labelled = (flat[0::3], flat[1::3]), flat[2::3] > 0
        some = np.count_nonzero(labelled) > 0
        box = gt["bbox"]
        edges = [(box[axis] - box[axis + 2], box[axis] + box[axis + 2] * 2) for axis in (0, 1)]
        for i, dt in enumerate(dts):
            found = np.array(dt["keypoints"])
            if some:
                dx, dy = found[0::3] - xy[0], found[1::3] - xy[1]
            else:
                dx, dy = (_outside(found[axis::3], *edges[axis], k) for axis in (0, 1))
            e = (dx**2 + dy**2) / variances / (gt["area"] + np.spacing(1)) / 2
            e = e[labelled] if some else e
            oks[i, j] = np.sum(np.exp(-e)) / e.shape[0]
    return oks


def _outside(x: Array, low: Any, high: Any, k: int) -> Array:
    """(K,) how far each coordinate lies outside of low … high, 0 inside."""
    zero = np.zeros(k)
    return np.asarray(np.max((zero, low - x), axis=0) + np.max((zero, x - high), axis=0))


def best_first(dts: list[Row]) -> list[Row]:
    """Detections by falling score; equals stay in their order, NaN comes last."""
    return [dts[i] for i in np.argsort([-d["score"] for d in dts], kind="mergesort")]


def evaluate_image(gts: list[Row], dts: list[Row], oks: Any, p: Any, area_range: Any, max_det: Any) -> Row | None:
    """Who is matched with whom in one image and area range (cocoeval.py:235–312), without the names of image and so on.

    Leaves `_ignore` in the annotations. None where there is nobody on either side.
    """
    if not gts and not dts:
        return None
    for gt in gts:
        gt["_ignore"] = int(bool(gt["ignore"] or gt["area"] < area_range[0] or gt["area"] > area_range[1]))
    last = np.argsort([gt["_ignore"] for gt in gts], kind="mergesort")
    gts, dts = [gts[i] for i in last], best_first(dts)[0:max_det]
    crowd = [int(gt["iscrowd"]) for gt in gts]
    oks = oks[:, last] if len(oks) > 0 else oks
    gt_ignore = np.array([gt["_ignore"] for gt in gts])
    gt_matches, dt_matches = np.zeros((len(p.iouThrs), len(gts))), np.zeros((len(p.iouThrs), len(dts)))
    dt_ignore = np.zeros(dt_matches.shape)
    if len(oks) > 0:
        for t, threshold in enumerate(p.iouThrs):
            for d, dt in enumerate(dts):
                g = _choose(oks[d], min([threshold, MAX_THRESHOLD]), gt_matches[t], crowd, gt_ignore)
                if g >= 0:
                    dt_ignore[t, d] = gt_ignore[g]
                    dt_matches[t, d] = gts[g]["id"]
                    gt_matches[t, g] = dt["id"]
    outside = np.array([dt["area"] < area_range[0] or dt["area"] > area_range[1] for dt in dts]).reshape(1, len(dts))
    return {
        "dtIds": [dt["id"] for dt in dts], "gtIds": [gt["id"] for gt in gts], "dtMatches": dt_matches,
        "gtMatches": gt_matches, "dtScores": [dt["score"] for dt in dts], "gtIgnore": gt_ignore,
        "dtIgnore": np.logical_or(dt_ignore, np.logical_and(dt_matches == 0, outside)),
    }  # fmt: skip


def _choose(oks: Array, least: Any, taken: Array, crowd: list[int], ignored: Array) -> int:
    """Which ground truth a detection takes, -1 for none: the best that is free, ignored ones only if no other is."""
    best = -1
    for g in range(len(ignored)):
        if taken[g] > 0 and not crowd[g]:
            continue
        if best >= 0 and ignored[best] == 0 and ignored[g] == 1:
            break
        if oks[g] < least:
            continue
        best, least = g, oks[g]
    return best


def accumulate(images: Sequence[Any], p: Any, evaluated: Any) -> tuple[Array, Array, Array]:
    """Precision (T, R, C, A, M), recall (T, C, A, M) and scores from dicts of images (cocoeval.py:330–416).

    `p` says what to accumulate, `evaluated` what was evaluated: places of the one count as places of the other.
    """
    shape = len(p.iouThrs), len(p.recThrs), len(p.catIds) if p.useCats else 1, len(p.areaRng), len(p.maxDets)
    precision, scores = -np.ones(shape), -np.ones(shape)
    recall = -np.ones((shape[0], *shape[2:]))
    many, areas = len(evaluated.imgIds), len(evaluated.areaRng)
    for (k, a, m), (category, area, max_det), places in selected(p, evaluated):
        start = category * areas * many + area * many
        cells = [cell for cell in (images[start + i] for i in places) if cell is not None]
        if not cells:
            continue
        for t, curve in enumerate(_curves(cells, max_det, p.recThrs)):
            recall[t, k, a, m], precision[t, :, k, a, m], scores[t, :, k, a, m] = curve
    return precision, recall, scores


Place = tuple[int, int, int]


def selected(p: Any, evaluated: Any) -> Iterator[tuple[Place, tuple[int, int, Any], list[int]]]:
    """Where to write, what to read (category, area range, number of detections), and the places of the images."""
    known = set(evaluated.catIds if evaluated.useCats else [-1])
    ranges, counts, listed = set(map(tuple, evaluated.areaRng)), set(evaluated.maxDets), set(evaluated.imgIds)
    categories = [n for n, category in enumerate(p.catIds) if category in known]
    max_dets = [m for m in p.maxDets if m in counts]
    areas = [n for n, r in enumerate(map(tuple, p.areaRng)) if r in ranges]
    places = [n for n, image in enumerate(p.imgIds) if image in listed]
    for k, category in enumerate(categories):
        for a, area in enumerate(areas):
            for m, max_det in enumerate(max_dets):
                yield (k, a, m), (category, area, max_det), places


def _curves(cells: list[Row], max_det: Any, recalls: Any) -> Iterator[tuple[float, Array, Array]]:
    """Recall, precision (R,) and scores (R,) at each threshold; nothing where nobody counts."""
    score = np.concatenate([cell["dtScores"][0:max_det] for cell in cells])
    order = np.argsort(-score, kind="mergesort")
    score = score[order]
    matched = np.concatenate([cell["dtMatches"][:, 0:max_det] for cell in cells], axis=1)[:, order]
    ignored = np.concatenate([cell["dtIgnore"][:, 0:max_det] for cell in cells], axis=1)[:, order]
    people = np.count_nonzero(np.concatenate([cell["gtIgnore"] for cell in cells]) == 0)
    if not people:
        return
    counted = np.logical_not(ignored)
    true = np.cumsum(np.logical_and(matched, counted), axis=1).astype(float)
    false = np.cumsum(np.logical_and(np.logical_not(matched), counted), axis=1).astype(float)
    for tp, fp in zip(true, false, strict=True):
        reached = tp / people
        best = np.maximum.accumulate((tp / (fp + tp + np.spacing(1)))[::-1])[::-1]
        precision, scores = np.zeros(len(recalls)), np.zeros(len(recalls))
        for r, place in enumerate(np.searchsorted(reached, recalls, side="left")):
            try:
                precision[r] = best[place]
                scores[r] = score[place]
            except (IndexError, TypeError, ValueError):  # not reached: neither are those behind it
                break
        yield (reached[-1] if len(tp) else 0.0), precision, scores
