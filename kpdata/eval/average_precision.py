"""Average precision and recall of COCO keypoints: precision over recall from matches, and the ten numbers.

The rules are those of `COCOeval.accumulate` and `summarize` (cocoeval.py:314–500, pycocotools 2.0.11), bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from kpdata.eval.matching import Matches, match
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Mode, Params, best_first
from kpdata.threads import in_threads


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """T thresholds, R recalls, C categories, A area ranges, M numbers of detections; -1 without ground truth."""

    precision: Floats  # (T, R, C, A, M)
    recall: Floats  # (T, C, A, M)
    scores: Floats  # (T, R, C, A, M) score at which that recall is reached


def evaluate_arrays(gt: GroundTruth, dt: Detections, image_ids: Ints, category_ids: Ints, params: Params) -> Curves:
    """Curves equal to the bit to what COCOeval(iouType="keypoints") gives for the same rows, images and categories.

    That is with `params.mode` "strict"; `Params` says in what "fixed" differs.

    `image_ids` and `category_ids` may repeat and come in any order; rows that belong to none of them are dropped.
    An empty `dt` gives precision and recall 0 where there is ground truth. Annotation id 0 counts as unmatched and a
    NaN keypoint matches anything, as they do there. Raises EvaluationError unless gt, dt and sigmas have the same K.
    """
    return accumulate(match(gt, dt, image_ids, category_ids, params), params)


def accumulate(matches: Matches, params: Params) -> Curves:
    """Reduce matches to curves; `params` must be those that the matches were made with.

    Only its recall thresholds may be others, and its `max_dets` less.
    """
    shape = (len(params.iou_thresholds), len(params.recall_thresholds))
    cells = (len(matches.category_ids), len(params.area_ranges), len(params.max_dets))
    precision, scores = np.full((*shape, *cells), -1.0), np.full((*shape, *cells), -1.0)
    recall = np.full((shape[0], *cells), -1.0)
    truths = np.stack([np.bincount(matches.gt_category[~i], minlength=cells[0]) for i in matches.gt_ignored])  # (A, C)
    bounds = np.searchsorted(matches.dt_category, np.arange(cells[0] + 1))
    tasks = []
    for c in range(cells[0]):
        for m, max_det in enumerate(params.max_dets):
            who = np.arange(bounds[c], bounds[c + 1])
            who = who[matches.dt_rank[who] < max_det]
            who = who[best_first(matches.dt_score[who])]  # ties by image, then rank
            for a in np.flatnonzero(truths[:, c]).tolist():
                tasks.append(((c, a, m), partial(_curves, matches, who, a, int(truths[a, c]), params)))
    curves = in_threads([task for _, task in tasks], size=len(matches.dt_row))
    for ((c, a, m), _), curve in zip(tasks, curves, strict=True):
        precision[:, :, c, a, m], recall[:, c, a, m], scores[:, :, c, a, m] = curve
    return Curves(precision, recall, scores)


def _curves(matches: Matches, who: Ints, a: int, truths: int, params: Params) -> tuple[Floats, Floats, Floats]:
    """Precision (T, R), recall (T,) and scores (T, R) of detections `who`, best first, at area range `a`."""
    shape = (matches.matched.shape[1], len(params.recall_thresholds))
    precision, recall, scores = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape)
    inside = ~matches.dt_outside[a, who]
    inside_so_far = np.cumsum(inside)
    score = matches.dt_score[who]
    for t in range(shape[0]):
        # Few are matched: only they can differ from what `inside` says, and only they are looked at.
        at = np.flatnonzero((matches.matched[a, t] >= 0)[who])
        true, counted = outcome(matches, matches.matched[a, t, who[at]], a, inside[at], params.mode)
        counted_so_far = inside_so_far[at] + np.cumsum(counted.astype(np.int64) - inside[at])
        hits = at[true]
        found = np.arange(1, len(hits) + 1)
        recall[t] = len(hits) / truths
        # Precision falls between hits, so that its running maximum from the right is decided at the hits.
        at_hit = found / (counted_so_far[true] + np.spacing(1))
        best = np.maximum.accumulate(at_hit[::-1])[::-1]
        reached, place, nth = _sample(found / truths, hits, len(who), params.recall_thresholds)
        scores[t, reached] = score[place]
        if len(hits):
            precision[t, reached] = best[nth]
    return precision, recall, scores


def outcome(matches: Matches, matched: Ints, a: int, inside: Bools, mode: Mode) -> tuple[Bools, Bools]:
    """(D,) which detections are true positives, and which count at all (true or false positives).

    A match with an ignored person is ignored; an unmatched detection of another size too. pycocotools stores the
    matched annotation's id and reads 0 as "no match" (cocoeval.py:295, 299, 375): a person with id 0 is found, but the
    detection counts as unmatched. With `mode` "fixed" it is a match like any other.
    """
    true, counted = np.zeros(len(matched), np.bool_), inside.copy()
    hit = np.flatnonzero(matched >= 0)
    person = matches.pair_gt[matched[hit]]
    real = (matches.gt_annotation_id[person] != 0) | (mode == "fixed")
    kept = ~matches.gt_ignored[a, person]
    true[hit] = kept & real
    counted[hit] = kept & (real | inside[hit])
    return true, counted


def _sample(recall_at_hit: Floats, hits: Ints, n: int, thresholds: Floats) -> tuple[Bools, Ints, Ints]:
    """Where the curve reaches each recall: mask (R,) of those reached; of these, the place among all n and the hit.

    A recall of 0 is reached by the first detection, whatever it is. The list ends at the first unreached threshold:
    it matters when thresholds are not sorted (cocoeval.py:402–408 leaves its loop there).
    """
    nth = np.searchsorted(recall_at_hit, thresholds, side="left")
    at_once = thresholds <= 0
    reached = np.logical_and.accumulate(np.where(at_once, n > 0, nth < len(hits)))
    nth, at_once = nth[reached], at_once[reached]
    place = np.zeros(len(nth), np.int64)
    place[~at_once] = hits[nth[~at_once]]
    return reached, place, nth


def summarize(curves: Curves, params: Params, *, max_dets: int | None = None) -> dict[str, float]:
    """AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl: means over all entries above -1, -1.0 where there are none.

    `max_dets` None stands for 20 in the mode "strict", whatever was evaluated, so that another number gives -1
    (cocoeval.py:475–484), and for the largest number that was evaluated in the mode "fixed".
    APm and APl are the ranges labelled "medium" and "large", AP the one labelled "all".
    """
    rows: tuple[tuple[str, float | None, str], ...] = (
        ("", None, "all"),
        ("50", 0.5, "all"),
        ("75", 0.75, "all"),
        ("m", None, "medium"),
        ("l", None, "large"),
    )
    fixed = params.mode == "fixed"
    max_dets = max_dets or (params.max_dets[-1] if fixed else 20)
    m = [i for i, value in enumerate(params.max_dets) if value == max_dets]
    numbers: dict[str, float] = {}
    for kind, values in (("AP", curves.precision), ("AR", curves.recall)):
        for suffix, threshold, label in rows:
            a = [i for i, name in enumerate(params.area_labels) if name == label]
            at = params.iou_thresholds
            same = np.isclose(at, threshold or 0, rtol=0, atol=1e-9) if fixed else at == threshold
            t = np.flatnonzero(same) if threshold else np.arange(len(values))
            cell = values[t][..., a, :][..., m]
            known = cell[cell > -1]
            numbers[kind + suffix] = float(np.mean(known)) if len(known) else -1.0
    return numbers
