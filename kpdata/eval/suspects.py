"""Ground truth that confident predictions contradict, most suspicious first: a list for review.

A model that is right nearly everywhere, and sure, and disagrees with one label, is a witness. Every suspicion is

    score = confidence × improvement, in [0, 1]

**Confidence** is measured on these data, so that it means the same for every model. Of predictions of a similar score
some share w does not fit the labels: errors of the model or of the labels. If one keypoint's label in fifty is wrong
and one person in ten is not labelled (LABEL_ERRORS, PEOPLE_ERRORS), the label is to blame with probability 0.02 / w
or 0.1 / w, at most 1: that is the confidence. Keypoints fit with a similarity of at least 0.5 to the label, people with
an OKS of at least 0.5. A keypoint's score counts as it is and beside the person's other keypoints, the worse of the
two. Where keypoints have no scores the person's stands in.
**Improvement** is what the change of the label would add to the similarity `ks = exp(-d² / (2 area (2 sigma)²))` of
label and prediction, times how well the rest of the person agrees. The kinds:

left_right           labels of left and right exchanged, of all pairs of twins or of some: the twins' labels fit
shifted              the whole label lies aside: moved by one vector it fits
wrong_person         a keypoint that lies on the prediction for another person, and not on that for this one
misplaced            a keypoint that lies far from a sure prediction, unless that merely repeats another keypoint
unlabelled_keypoint  not labelled (visibility 0) where the model is so sure as it is of labelled keypoints only
unlabelled_person    a sure prediction where nobody is labelled, outside of crowds; improvement is the share of its box
                     that lies in no labelled person's

The same disagreements are errors of the model where the label is right: the list is for human eyes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.arrays import lookup, pairs_in_images
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Pairing, Part
from kpdata.geometry import box_area, box_from_keypoints, box_iou

KINDS = ("left_right", "shifted", "wrong_person", "misplaced", "unlabelled_keypoint", "unlabelled_person")
LEFT_RIGHT, SHIFTED, WRONG_PERSON, MISPLACED, UNLABELLED_KEYPOINT, UNLABELLED_PERSON = range(len(KINDS))
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("image_id", pa.int64()),
        ("annotation_id", pa.int64()),
        ("truth_row", pa.int64()),
        ("keypoint", pa.string()),
        ("score", pa.float64()),
        ("detection_id", pa.int64()),
        ("detection_row", pa.int64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("proposed_x", pa.float64()),
        ("proposed_y", pa.float64()),
        ("words", pa.string()),
    ]
)
LABEL_ERRORS = 0.02  # share of keypoints' labels that is taken to be wrong
PEOPLE_ERRORS = 0.1  # share of people that is taken to be unlabelled: annotators skip people more often than they err
_RIGHT = 0.5  # OKS or similarity from which on a prediction is right
_FAR = 0.1  # similarity below which a label lies elsewhere
_LABELS = 5  # labelled keypoints that a shift needs: fewer fit by chance
_INSIDE = 0.5  # share of a prediction inside a crowd's box from which on it belongs to the crowd


class _Pairs(NamedTuple):
    """People beside their predictions, with what every kind asks for."""

    g: Ints  # (P,) rows of Part.truth
    d: Ints  # (P,) rows of Part.detections
    ks: Floats  # (P, K) similarity of label and prediction
    labelled: Bools  # (P, K)
    confidence: Floats  # (P, K) that the label is wrong where the two do not fit


class _Rows(NamedTuple):
    """Suspicions of one kind; -1 or NaN where there is nothing."""

    kind: int
    g: Ints
    d: Ints
    k: Ints
    score: Floats
    xy: Floats  # (R, 2)
    proposed: Floats  # (R, 2)
    before: Floats  # similarity as it is, and after the change, for the words
    after: Floats
    which: Bools  # (R, K) keypoints that the suspicion is about


@np.errstate(invalid="ignore", over="ignore", divide="ignore")  # NaN and infinity are data here, and fit nothing
def suspects(
    part: Part,
    pairing: Pairing,
    gt: Dataset,
    predictions: Dataset,
    *,
    least: float = 0.2,
    limit: int | None = 1000,
) -> pa.Table:
    """Suspicious labels of a part as a table, best score first, at most `limit` rows of a score of at least `least`.

    Columns: kind (one of KINDS); image_id; annotation_id and truth_row (of `gt.persons`), null for an unlabelled
    person; keypoint, null where the whole person is meant; score; detection_id and detection_row (of
    `predictions.persons`); x, y of the label in px, null where there is none; proposed_x, proposed_y (of a person: the
    middle of the keypoints); words. pairing: `part.pair(part)`; gt, predictions: the datasets of `Sides`.
    Deterministic. EvaluationError for a `least` outside [0, 1] or a `limit` below 1.
    """
    if not 0 <= least <= 1 or (limit is not None and limit < 1):
        raise EvaluationError(f"least={least}, limit={limit}: expected a score from 0 to 1, and at least one row")
    pairs, lone = _pairs(part, pairing)
    explained = np.zeros(pairs.ks.shape, bool)
    found = [_left_right(part, pairs, least, explained), _shifted(part, pairs, least, explained)]
    found += _displaced(part, pairs, explained)
    found += [_unlabelled_keypoints(part, pairs, gt), _unlabelled_people(part, pairing, lone, least)]
    kind = np.concatenate([np.full(len(rows.score), rows.kind) for rows in found])
    joined = [np.concatenate(column) for column in zip(*(rows[1:] for rows in found), strict=True)]
    score, row = joined[3], np.arange(len(kind))
    kept = row[score >= least]
    kept = kept[np.lexsort((row[kept], -score[kept]))][:limit]
    everything = _Rows(0, *(column[kept] for column in joined))
    return _table(part, everything, kind[kept], predictions)


# ------------------------------------------------------------------------------------------- pairs and confidence


def _similarity(part: Part, g: Ints, gap: Floats) -> Floats:
    """(R, K) ks of gaps (R, K, 2) in px for people in rows g."""
    spread = 2 * np.square(2 * part.params.sigmas) * (part.truth.area[g, None] + np.spacing(1))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        ks: Floats = np.nan_to_num(np.exp(-np.square(gap).sum(-1) / spread))
    return ks


def _mean(values: Floats, mask: Bools) -> Floats:
    """(R,) mean of the masked values (R, K), 0 where none is."""
    mean: Floats = np.where(mask, values, 0).sum(1) / np.maximum(mask.sum(1), 1)
    return mean


def _twins(part: Part) -> Ints:
    """(K,) column of the twin; itself without one, or where twins are not known."""
    k = len(part.skeleton)
    return part.skeleton.flip_index().astype(np.int64) if part.skeleton.flip_pairs else np.arange(k)


def _pairs(part: Part, pairing: Pairing) -> tuple[_Pairs, Ints]:
    """Matched pairs and rescued ones; and the spurious detections that nobody of these explains.

    A label that was exchanged or shifted may not reach the OKS of the matching: a missed person and a spurious
    detection of its image belong together if the label fits, exchanged or moved.
    """
    g, d = _rescued(part, pairing)
    lone = pairing.spurious[~np.isin(pairing.spurious, d)]
    g, d = np.concatenate([pairing.truth, g]), np.concatenate([pairing.detection, d])
    labelled = part.truth.labelled[g]
    ks = _similarity(part, g, part.detections.keypoints[d] - part.truth.keypoints[g])
    right = np.concatenate([pairing.oks >= _RIGHT, np.zeros(len(g) - len(pairing.oks), bool)])
    scores = _keypoint_scores(part)[0][d]
    sure = labelled & right[:, None]
    confidence = _keypoint_confidence(scores, sure, ks >= _RIGHT)
    return _Pairs(g, d, ks, labelled, confidence), lone


def _keypoint_scores(part: Part) -> tuple[Floats, bool]:
    """(M, K) scores of keypoints; the person's, and False, where none or flags were written in their place."""
    scores, person = part.keypoint_scores, np.broadcast_to(part.detections.score[:, None], part.keypoint_scores.shape)
    known = scores[np.isfinite(scores)]
    if not len(known) or ((known == 0) | (known == 1) | (known == 2)).all():
        return person, False
    return np.where(np.isfinite(scores), scores, person), True


def _rescued(part: Part, pairing: Pairing) -> tuple[Ints, Ints]:
    """(R,) missed people and spurious detections, each other's best, that fit with twins exchanged or moved."""
    image, found_image = part.truth.image_id[pairing.missed], part.detections.image_id[pairing.spurious]
    ids = np.unique(image)
    a, b = pairs_in_images(lookup(ids, image), lookup(ids, found_image))
    g, d = pairing.missed[a], pairing.spurious[b]
    labelled = part.truth.labelled[g]
    gap = part.detections.keypoints[d] - part.truth.keypoints[g]
    turned = part.detections.keypoints[d][:, _twins(part)] - part.truth.keypoints[g]
    moved, step = _moved(part, g, gap, labelled)
    extent = box_from_keypoints(part.truth.keypoints[g], labelled.astype(np.int8))
    near = np.hypot(*step.T) < np.hypot(extent[:, 2], extent[:, 3])
    fit = np.maximum(_mean(_similarity(part, g, turned), labelled), np.where(near, moved, 0))
    fit = np.where((labelled.sum(1) >= _LABELS) & (fit >= _RIGHT), fit, 0)
    order = np.argsort(fit, kind="stable")
    best_a, best_b = np.full(len(image), -1), np.full(len(found_image), -1)
    best_a[a[order]], best_b[b[order]] = order, order  # the best is written last
    mutual = np.flatnonzero((fit > 0) & (best_a[a] == best_b[b]) & (best_a[a] == np.arange(len(a))))
    return g[mutual], d[mutual]


def _moved(part: Part, g: Ints, gap: Floats, labelled: Bools) -> tuple[Floats, Floats]:
    """(R,) OKS after the label was moved by the median gap, and that gap (R, 2)."""
    ordered = np.sort(np.where(labelled[..., None], gap, np.nan), axis=1)  # NaN last
    count = labelled.sum(1)[:, None, None]
    ends = [np.take_along_axis(ordered, np.maximum(at, 0), 1)[:, 0] for at in ((count - 1) // 2, count // 2)]
    middle = np.nan_to_num((ends[0] + np.where(count[:, 0] % 2, ends[0], ends[1])) / 2)
    return _mean(_similarity(part, g, gap - middle[:, None]), labelled), middle


def _keypoint_confidence(scores: Floats, judged: Bools, right: Bools) -> Floats:
    """(P, K) confidence of keypoints; judged, right (P, K): those that are counted, and of these the right ones."""
    beside = scores - np.median(scores, axis=1, keepdims=True)
    both = [_confidence(score[judged], right[judged], score, LABEL_ERRORS) for score in (scores, beside)]
    return np.minimum(*both)


def _confidence(score: Floats, right: Bools, wanted: Floats, errors: float) -> Floats:
    """`errors` over the share of wrong ones among those of similar score, at most 1, for `wanted` of any shape.

    score, right (N,): those that were judged. Similar: the nearest twentieth of all, at least 20 and at most 500; equal
    scores share one number. Half a success and half a failure are added, so that few never look sure. Scores that are
    not finite get the number of all.
    """
    known = np.isfinite(score)
    overall = np.minimum(1, errors * (len(right) + 1) / ((~right).sum() + 0.5))
    if not known.any():
        return np.full(wanted.shape, overall)
    order = np.argsort(score[known], kind="stable")
    values, misses = score[known][order], ~right[known][order]
    window = min(len(values), int(np.clip(len(values) // 20, 20, 500)))
    total = np.concatenate([[0], np.cumsum(misses)])
    start = np.clip(np.arange(len(values)) - window // 2, 0, len(values) - window)
    wrong = (total[start + window] - total[start] + 0.5) / (window + 1)
    levels, first, count = np.unique(values, return_index=True, return_counts=True)
    wrong = np.add.reduceat(wrong, first) / count
    share: Floats = np.interp(np.where(np.isfinite(wanted), wanted, levels[0]), levels, wrong)
    return np.where(np.isfinite(wanted), np.minimum(1, errors / share), overall)


# --------------------------------------------------------------------------------------------------- labels that exist


def _left_right(part: Part, pairs: _Pairs, least: float, explained: Bools) -> _Rows:
    """People whose twins' labels fit better exchanged; the keypoints of convincing ones are marked in `explained`."""
    twin = _twins(part)
    sided = twin != np.arange(len(twin))
    truth, found = part.truth.keypoints[pairs.g], part.detections.keypoints[pairs.d]
    turned = _similarity(part, pairs.g, found[:, twin] - truth)
    both = pairs.labelled & pairs.labelled[:, twin] & sided
    # Of a pair of twins together, so that both columns of it say the same.
    before, after = (pairs.ks + pairs.ks[:, twin]) / 2, (turned + turned[:, twin]) / 2
    which = both & (after > before + _RIGHT)
    gain, confidence = _mean(after - before, which), _mean(pairs.confidence[:, twin], which)
    agree = _mean(np.where(which, turned, pairs.ks), pairs.labelled)
    score = np.where(which.any(1), confidence * gain * agree, 0)
    explained |= which & (score >= least)[:, None]
    rows = np.flatnonzero(which.any(1))
    first = np.where(which[rows].sum(1) == 2, which[rows].argmax(1), -1)  # one pair of twins: name its first keypoint
    at, there = truth[rows, first], truth[rows, twin[first]]
    single = (first >= 0)[:, None]
    return _Rows(
        LEFT_RIGHT, pairs.g[rows], pairs.d[rows], first, score[rows], np.where(single, at, np.nan),
        np.where(single, there, np.nan), _mean(before, which)[rows], _mean(after, which)[rows], which[rows],
    )  # fmt: skip


def _shifted(part: Part, pairs: _Pairs, least: float, explained: Bools) -> _Rows:
    """People whose whole label fits when moved by one vector; all keypoints of convincing ones become explained."""
    gap = part.detections.keypoints[pairs.d] - part.truth.keypoints[pairs.g]
    after, step = _moved(part, pairs.g, gap, pairs.labelled)
    before = _mean(pairs.ks, pairs.labelled)
    free = ~explained.any(1) & (pairs.labelled.sum(1) >= _LABELS)
    score = np.where(free, _mean(pairs.confidence, pairs.labelled) * np.maximum(after - before, 0) * after, 0)
    explained |= (score >= least)[:, None]
    rows = np.flatnonzero(score >= least)
    labelled = pairs.labelled[rows]
    xy = part.truth.keypoints[pairs.g[rows]]
    centre = np.stack([_mean(xy[..., 0], labelled), _mean(xy[..., 1], labelled)], axis=1)
    nowhere = np.full(len(rows), -1)
    return _Rows(SHIFTED, pairs.g[rows], pairs.d[rows], nowhere, score[rows], centre, centre + step[rows],
                 before[rows], after[rows], labelled)  # fmt: skip


def _displaced(part: Part, pairs: _Pairs, explained: Bools) -> list[_Rows]:
    """Single labels far from a sure prediction: on another person's prediction, or anywhere.

    A prediction that repeats another keypoint (its twin, or a neighbour's) which is predicted in its place too is the
    model's error: the score falls with that likeness.
    """
    far = pairs.labelled & ~explained & (pairs.ks < _FAR)
    count = pairs.labelled.sum(1, keepdims=True) - 1
    total = np.where(pairs.labelled, pairs.ks, 0).sum(1, keepdims=True)
    others = np.where(pairs.labelled, total - pairs.ks, total) / np.maximum(count, 1)
    strange, repeated = _on_others(part, pairs, far)
    score = pairs.confidence * others * (1 - pairs.ks) * (1 - repeated)
    score = np.where(far & (count > 0), score, 0)
    p, k = np.nonzero(far)
    stranger = strange[p, k] >= _RIGHT
    found = []
    for kind, chosen in ((WRONG_PERSON, stranger), (MISPLACED, ~stranger)):
        i, j = p[chosen], k[chosen]
        g, d = pairs.g[i], pairs.d[i]
        xy, proposed = part.truth.keypoints[g, j], part.detections.keypoints[d, j]
        after = strange[i, j] if kind == WRONG_PERSON else others[i, j]
        found.append(_Rows(kind, g, d, j, score[i, j], xy, proposed, pairs.ks[i, j], after, _only(j, part)))
    return found


def _only(k: Ints, part: Part) -> Bools:
    return np.asarray(k[:, None] == np.arange(len(part.skeleton)))


def _on_others(part: Part, pairs: _Pairs, far: Bools) -> tuple[Floats, Floats]:
    """For far labels, (P, K) each: the label's similarity to another person's prediction, and the prediction's to a
    label of another keypoint, the twin's or another person's, that its own prediction fits too."""
    twin = _twins(part)
    strange, repeated = np.zeros(far.shape), np.zeros(far.shape)
    fits = np.where(pairs.labelled, pairs.ks, 0)
    some = np.flatnonzero(far.any(1))
    image = part.truth.image_id[pairs.g]
    ids = np.unique(image[some])
    a, b = pairs_in_images(lookup(ids, image[some]), lookup(ids, image))
    a = some[a]
    truth, found = part.truth.keypoints[pairs.g], part.detections.keypoints[pairs.d]
    for columns in (np.arange(len(twin)), twin):
        own = (a == b)[:, None] & (columns == np.arange(len(twin)))  # a keypoint beside itself
        label = _similarity(part, pairs.g[a], found[b][:, columns] - truth[a])
        np.maximum.at(strange, a, np.where((a == b)[:, None], 0, label))
        place = _similarity(part, pairs.g[a], truth[b][:, columns] - found[a])
        np.maximum.at(repeated, a, np.where(own, 0, place * fits[b][:, columns]))
    return np.where(far, strange, 0), np.where(far, repeated, 0)


# ------------------------------------------------------------------------------------------------------ labels missing


def _unlabelled_keypoints(part: Part, pairs: _Pairs, gt: Dataset) -> _Rows:
    """Keypoints with visibility 0 where the model scores as it does where keypoints are labelled, and is right.

    Only inside the image, for people with an OKS of at least 0.5 and 3 labels; keypoint scores are the only witness, so
    that without them nothing is found.
    """
    oks = _mean(pairs.ks, pairs.labelled)
    right = (oks >= _RIGHT) & (pairs.labelled.sum(1) >= 3)
    scores, told = _keypoint_scores(part)
    known = right[:, None] & part.mask & told
    scores = scores[pairs.d]
    confidence = _keypoint_confidence(scores, known, pairs.labelled & (pairs.ks >= _RIGHT))
    size = _image_sizes(part, pairs.g, gt)[:, None]
    xy = part.detections.keypoints[pairs.d]
    inside = ((xy >= 0) & ~(xy > size - 1)).all(-1)  # an unknown size is NaN: not outside
    p, k = np.nonzero(known & (part.visibility[pairs.g] == 0) & inside)
    score = confidence[p, k] * oks[p]
    nothing = np.full((len(p), 2), np.nan)
    return _Rows(UNLABELLED_KEYPOINT, pairs.g[p], pairs.d[p], k, score, nothing, xy[p, k], np.zeros(len(p)),
                 confidence[p, k], _only(k, part))  # fmt: skip


def _image_sizes(part: Part, g: Ints, gt: Dataset) -> Floats:
    """(P, 2) width and height of each person's image, NaN where not known."""
    rows = lookup(schema.values(gt.images["image_id"]), part.truth.image_id[g])
    sides = (np.where(schema.valid(gt.images[n]), schema.values(gt.images[n]), np.nan) for n in ("width", "height"))
    return np.stack([side[rows] for side in sides], axis=1)


def _unlabelled_people(part: Part, pairing: Pairing, lone: Ints, least: float) -> _Rows:
    """Sure predictions where nobody is labelled; of several that overlap by half, the surest."""
    judged = part.detections.score[np.concatenate([pairing.detection, pairing.spurious])]
    right = np.concatenate([pairing.oks >= _RIGHT, np.zeros(len(pairing.spurious), bool)])
    confidence = _confidence(judged, right, part.detections.score[lone], PEOPLE_ERRORS)
    lone, confidence = lone[confidence >= least], confidence[confidence >= least]
    box = _found_boxes(part, lone)
    covered, crowded = _covered(part, lone, box)
    score = np.where((crowded < _INSIDE) & (box_area(box) > 0), confidence * (1 - covered), 0)
    image = part.detections.image_id[lone]
    a, b = pairs_in_images(*[lookup(np.unique(image), image)] * 2)
    better = (score[b] > score[a]) | ((score[b] == score[a]) & (b < a))
    again = np.zeros(len(lone), bool)
    again[a[better & (box_iou(box[a], box[b]) >= _INSIDE)]] = True
    rows = np.flatnonzero(~again & (score > 0))
    nowhere = np.full(len(rows), -1)
    centre = box[rows, :2] + box[rows, 2:] / 2
    return _Rows(UNLABELLED_PERSON, nowhere, lone[rows], nowhere, score[rows], np.full((len(rows), 2), np.nan), centre,
                 covered[rows], score[rows], np.zeros((len(rows), len(part.skeleton)), bool))  # fmt: skip


def _found_boxes(part: Part, rows: Ints) -> Floats:
    """(R, 4) extents of predictions; keypoints at 0, 0 are those that results write for none."""
    xy = part.detections.keypoints[rows]
    placed = part.mask & (xy != 0).any(-1)
    return np.nan_to_num(box_from_keypoints(xy, placed.astype(np.int8)))


def _covered(part: Part, rows: Ints, box: Floats) -> tuple[Floats, Floats]:
    """(R,) greatest share of each prediction's box inside one person's box, and inside one crowd's."""
    truth = part.truth
    extent = box_from_keypoints(truth.keypoints, truth.labelled.astype(np.int8))
    people = np.where((truth.bbox[:, 2:] > 0).all(1, keepdims=True), truth.bbox, np.nan_to_num(extent))
    image = part.detections.image_id[rows]
    ids = np.unique(image)
    a, b = pairs_in_images(lookup(ids, image), lookup(ids, truth.image_id))
    share, crowd = _inside(box[a], people[b]), truth.iscrowd[b]
    covered, crowded = np.zeros(len(rows)), np.zeros(len(rows))
    np.maximum.at(covered, a, np.where(crowd, 0, share))
    np.maximum.at(crowded, a, np.where(crowd, share, 0))
    return covered, crowded


def _inside(boxes: Floats, others: Floats) -> Floats:
    """(P,) share of each box that lies in the other."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    common = np.maximum(high - low, 0).prod(1)
    area = box_area(boxes)
    share: Floats = np.divide(common, area, out=np.zeros(len(boxes)), where=area > 0)
    return share


# -------------------------------------------------------------------------------------------------------------- table


def _table(part: Part, rows: _Rows, kind: Ints, predictions: Dataset) -> pa.Table:
    n, names = len(rows.score), part.skeleton.keypoint_names
    real, pointed = rows.g >= 0, rows.k >= 0
    g, d = np.maximum(rows.g, 0), rows.d
    detection_rows = part.detection_rows[d]
    ids = schema.values(predictions.persons["annotation_id"])[detection_rows] if n else np.empty(0, np.int64)
    people = [np.where(real, column[g], 0) if n and len(column) else np.zeros(n, np.int64)
              for column in (part.truth.annotation_id, part.truth_rows)]  # fmt: skip
    columns = [
        schema.strings([KINDS[number] for number in kind.tolist()]),
        schema.fixed(part.detections.image_id[d], pa.int64()),
        schema.fixed(people[0], pa.int64(), real),
        schema.fixed(people[1], pa.int64(), real),
        schema.strings([names[k] if k >= 0 else None for k in np.where(pointed, rows.k, -1).tolist()]),
        schema.fixed(rows.score, pa.float64()),
        schema.fixed(ids, pa.int64()),
        schema.fixed(detection_rows, pa.int64()),
        *(schema.fixed(column, pa.float64(), np.isfinite(column)) for column in (*rows.xy.T, *rows.proposed.T)),
        schema.strings(_words(part, rows, kind)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _words(part: Part, rows: _Rows, kind: Ints) -> list[str]:
    """A sentence for each of the (at most `limit`) rows."""
    names = part.skeleton.keypoint_names
    which = [[names[k] for k in np.flatnonzero(row).tolist()] for row in rows.which]
    step = np.hypot(*(rows.proposed - rows.xy).T)
    numbers = (rows.before, rows.after, step, part.detections.score[rows.d])
    told = zip(kind.tolist(), which, *(column.tolist() for column in numbers), strict=True)
    return [_sentence(*row) for row in told]


def _sentence(kind: int, which: list[str], before: float, after: float, step: float, score: float) -> str:
    if kind == LEFT_RIGHT:
        return f"left and right look exchanged: {', '.join(which)} (similarity {before:.2f}, exchanged {after:.2f})"
    if kind == SHIFTED:
        return f"the whole label looks shifted by {step:.0f} px (similarity {before:.2f}, moved {after:.2f})"
    if kind == WRONG_PERSON:
        near = f"similarity {after:.2f}, to this one's {before:.2f}"
        return f"{which[0]} lies on another person's prediction ({near}), {step:.0f} px away"
    if kind == MISPLACED:
        return f"{which[0]} lies {step:.0f} px from a sure prediction; the others agree ({after:.2f})"
    if kind == UNLABELLED_KEYPOINT:
        return f"{which[0]} is not labelled, and scored as labelled ones are (confidence {after:.2f})"
    covered = f"{before:.0%} of it lies in somebody's box"
    sure = f" of score {score:.2f}" if np.isfinite(score) else ""
    return f"nobody is labelled at a prediction{sure} ({covered})"
