"""What kind of mistake each keypoint is, and each person: the taxonomy of Ronchi and Perona.

M. R. Ronchi and P. Perona, *Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation*, ICCV 2017; their code
is matteorr/coco-analyze (pycocotools/cocoanalyze.py). The keypoint similarity of a predicted keypoint with a place is
`ks = exp(-d² / (2 area (2 sigma)²))`, with the area of the person whose place it is. A labelled keypoint of a matched
person (OKS 0.1, `part.pair`) is by the place of greatest similarity

    GOOD       its own, ks >= 0.85
    JITTER     its own, 0.5 <= ks < 0.85
    INVERSION  its left/right twin of the same person, ks >= 0.5
    SWAP       the same keypoint or its twin of another person in the image, ks >= 0.5
    MISS       none: every ks < 0.5

Equals go to the own place, then to others' keypoints, to the own twin, to others' twins, as in that code.

Where this differs from coco-analyze: any number of keypoints and any flip pairs; matches with crowds are left out (it
keeps those with keypoints); 0.85 itself is good (there it is nothing at all); a keypoint that is not finite is a miss.
Where each correction would lead is in `kpdata.eval.opportunity`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.eval.oks import Bools, Floats, Ints, Order, candidate_pairs, order_rows
from kpdata.eval.part import ANALYSIS_OKS, Pairing, Part
from kpdata.synth.predict import Kind as Kind

GOOD_KS, JITTER_KS = 0.85, 0.5  # cocoanalyze.py, Params.jitterKsThrs
KINDS = tuple(kind for kind in Kind if kind >= 0)
TERMS_PER_BLOCK = 1 << 17  # similarities computed at once: bounds memory where images are crowded

SIZES = (32**2, 64**2, 96**2, 128**2)  # square pixels; backgroundFalseNegErrors.py splits missed people so
SIZE_NAMES = ("below 32²", "32² to 64²", "64² to 96²", "96² to 128²", "128² and above")
CROWDED_IOU = 0.1  # occlusionAndCrowdingSensitivity.py: boxes that overlap so much crowd each other
CROWD_NAMES = ("nobody", "1 or 2 people", "3 people or more")
PROXIMITY_OKS = 0.5  # scoringErrors.py, min_match_oks


@dataclass(frozen=True, slots=True)
class KeypointErrors:
    """What is wrong with each keypoint of each matched prediction; rows are those of the `Pairing`."""

    kind: NDArray[np.int8]  # (P, K) Kind; UNLABELLED where the ground truth has no such keypoint
    similarity: Floats  # (P, K) ks to its own place; NaN where not labelled
    nearest: Floats  # (P, K) greatest ks to any of the places; NaN where not labelled
    other: Ints  # (P, K) row of `Part.truth` whose keypoint a SWAP is at; -1 elsewhere


def classify(part: Part, pairing: Pairing) -> KeypointErrors:
    """The kind of every keypoint of every matched prediction, by the rules at the top of this file.

    Everybody of this skeleton in the image can be swapped with, crowds and ignored people too. A skeleton whose twins
    are not known, or that has none, has no inversions.
    """
    skeleton, truth = part.skeleton, part.truth
    k, people = len(skeleton), len(pairing.truth)
    twin = np.arange(k) if skeleton.flip_pairs is None else skeleton.flip_index()
    order = np.argsort(truth.image_id, kind="stable")
    image = truth.image_id[pairing.truth]
    first = np.searchsorted(truth.image_id[order], image, side="left")
    count = np.searchsorted(truth.image_id[order], image, side="right") - first
    result = KeypointErrors(
        kind=np.full((people, k), Kind.UNLABELLED, np.int8),
        similarity=np.full((people, k), np.nan),
        nearest=np.full((people, k), np.nan),
        other=np.full((people, k), -1),
    )
    for start, stop in _blocks(count * k, TERMS_PER_BLOCK):
        rows = slice(start, stop)
        starts = np.cumsum(count[rows]) - count[rows]
        place = np.repeat(np.arange(stop - start), count[rows])
        person = order[np.arange(len(place)) + np.repeat(first[rows] - starts, count[rows])]
        _classify_block(part, pairing, twin, rows, (place, person, starts), result)
    return result


def _blocks(sizes: Ints, limit: int) -> list[tuple[int, int]]:
    """Ranges of consecutive rows whose sizes sum to about `limit`."""
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // limit, prepend=-1))
    return list(zip(cuts.tolist(), [*cuts[1:].tolist(), len(sizes)], strict=False))  # neither where there are no rows


def _classify_block(
    part: Part, pairing: Pairing, twin: Ints, rows: slice, pairs: tuple[Ints, Ints, Ints], result: KeypointErrors
) -> None:
    """Fill `rows` of the result. pairs: place in rows (L,) and person in its image (L,), where each place starts."""
    place, person, starts = pairs
    mine = person == pairing.truth[rows][place]
    same, turned = _similarities(part, pairing.detection[rows][place], person, twin)
    own = np.add.reduceat(np.where(mine[:, None], same, 0), starts)
    own_twin = np.add.reduceat(np.where(mine[:, None], turned, 0), starts)
    same[mine], turned[mine] = 0, 0
    others, others_twin = np.maximum.reduceat(same, starts), np.maximum.reduceat(turned, starts)
    strangers = np.maximum(others, others_twin)
    nearest = np.maximum(np.maximum(own, own_twin), strangers)
    kind = np.select(
        [nearest < JITTER_KS, own == nearest, others == nearest, own_twin == nearest],
        [Kind.MISS, np.where(own >= GOOD_KS, Kind.GOOD, Kind.JITTER), Kind.SWAP, Kind.INVERSION],
        Kind.SWAP,
    )
    labelled = part.truth.labelled[pairing.truth[rows]]
    result.kind[rows] = np.where(labelled, kind, Kind.UNLABELLED)
    result.similarity[rows] = np.where(labelled, own, np.nan)
    result.nearest[rows] = np.where(labelled, nearest, np.nan)
    swapped = labelled & (kind == Kind.SWAP)
    if swapped.any():
        reached = swapped[place] & (np.maximum(same, turned) == strangers[place])
        line, column = np.nonzero(reached)
        _, firsts = np.unique(place[line] * len(twin) + column, return_index=True)
        line, column = line[firsts], column[firsts]
        result.other[rows][place[line], column] = person[line]


def _similarities(part: Part, detection: Ints, person: Ints, twin: Ints) -> tuple[Floats, Floats]:
    """(L, K) ks of predicted keypoints with the person's keypoint, and with its twin; 0 where that is not labelled."""
    labelled, variances = part.truth.labelled[person], (part.params.sigmas * 2) ** 2
    # One complex number a keypoint: half the look-ups.
    places = np.ascontiguousarray(part.truth.keypoints).view(np.complex128)[..., 0][person]
    found = np.ascontiguousarray(part.detections.keypoints).view(np.complex128)[..., 0][detection]
    area = (part.truth.area[person] + np.spacing(1))[:, None]
    out = []
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for columns in (np.arange(len(twin)), twin):
            d = places[:, columns] - found
            ks = np.exp(-(d.real**2 + d.imag**2) / variances / area / 2)
            out.append(np.where(labelled[:, columns] & (ks > 0), ks, 0.0))  # NaN is not above 0
    return out[0], out[1]


# -------------------------------------------------------------------------------------------------------------- counts


def count_errors(part: Part, pairing: Pairing, errors: KeypointErrors) -> pa.Table:
    """How often each kind happens: one row a keypoint, then "all".

    keypoint: name. found: labelled keypoints of matched people, of which `good`, `jitter`, `inversion`, `swap` and
    `miss` are counts and `good_share`, … shares (NaN without any). undetected: labelled keypoints of missed people.
    """
    kinds = np.stack([(errors.kind == kind).sum(axis=0) for kind in KINDS])  # (5, K)
    kinds = np.concatenate([kinds, kinds.sum(axis=1, keepdims=True)], axis=1)
    lost = part.truth.labelled[pairing.missed].sum(axis=0)
    found = kinds.sum(axis=0)
    columns = {"keypoint": schema.strings([*part.skeleton.keypoint_names, "all"]), "found": _whole(found)}
    columns |= {kind.name.lower(): _whole(row) for kind, row in zip(KINDS, kinds, strict=True)}
    columns |= {f"{kind.name.lower()}_share": _share(row, found) for kind, row in zip(KINDS, kinds, strict=True)}
    columns["undetected"] = _whole(np.append(lost, lost.sum()))
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def _whole(values: NDArray[np.generic]) -> pa.Array:
    return schema.fixed(values, pa.int64())


def _share(part: NDArray[np.generic], whole: NDArray[np.generic]) -> pa.Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return schema.fixed(np.true_divide(part, whole), pa.float64())


# -------------------------------------------------------------------------------------------------------------- people


@dataclass(frozen=True, slots=True)
class Proximity:
    """Predictions beside counted people whom they resemble; by prediction in score order, image by image."""

    detection: Ints  # (L,) row of Part.detections
    truth: Ints  # (L,) row of Part.truth
    oks: Floats  # (L,) at least the threshold


def _looked_at(part: Part) -> Order:
    most = part.params.max_dets[-1]
    return order_rows(part.truth, part.detections, part.image_ids, part.category_ids, most, mode="fixed")


def proximity(part: Part, threshold: float = ANALYSIS_OKS) -> Proximity:
    """All pairs of a counted person and one of the best `max_dets` predictions of the image with so much OKS."""
    order = _looked_at(part)
    params = replace(part.params, iou_thresholds=np.array([threshold]), mode="fixed")
    pairs = candidate_pairs(part.truth, part.detections, order, params)
    truth = order.gt_rows[pairs.gt]
    kept = part.counted()[truth]
    return Proximity(order.dt_rows[pairs.dt[kept]], truth[kept], pairs.oks[kept])


def duplicates(part: Part, pairing: Pairing, near: Proximity) -> Bools:
    """(S,) for each of `pairing.spurious`: it resembles a person whom a better prediction has already found.

    The others are background: nobody there. coco-analyze does not tell the two apart. near: `proximity(part)`.
    """
    resembles = np.zeros(len(part.detection_rows), bool)
    resembles[near.detection] = True
    return np.asarray(resembles[pairing.spurious])


def score_errors(near: Proximity, detections_score: Floats, threshold: float = PROXIMITY_OKS) -> Ints:
    """Rows of `Part.truth` of the people for whom a worse pose has a higher score than the best one.

    A prediction belongs to the person whom it resembles most; among those of a person with OKS of at least
    `threshold`, the one of greatest OKS should have the greatest score. (scoringErrors.py lets people choose in turn
    instead: the same but where three or more predictions of two people mingle.) Ascending.
    """
    kept = near.oks >= threshold
    detection, truth, oks = near.detection[kept], near.truth[kept], near.oks[kept]
    best = np.lexsort((-oks, detection))
    best = best[np.diff(detection[best], prepend=-1) != 0]
    detection, truth, oks = detection[best], truth[best], oks[best]
    by_oks = np.lexsort((-detections_score[detection], -oks, truth))
    by_score = np.lexsort((-oks, -detections_score[detection], truth))
    first = np.diff(truth[by_oks], prepend=-1) != 0
    worse = oks[by_score[first]] < oks[by_oks[first]]
    return np.asarray(truth[by_oks[first]][worse])


def count_people(part: Part, pairing: Pairing) -> pa.Table:
    """What becomes of people and predictions, one row a kind.

    kind: "found" and "missed" of the counted people; "misscored" (`score_errors`) of the counted people; "duplicate"
    and "background" (`duplicates`) of the predictions that were looked at, the best `max_dets` of each image.
    count, of, share: so many of how many. median_score: of the predictions of that kind (NaN for missed and
    misscored). confident: how many of them are in the best fifth of all scores that were looked at
    (backgroundFalsePosErrors.py calls these high-score false positives); null for missed and misscored.
    """
    near, score = proximity(part), part.detections.score
    twice = duplicates(part, pairing, near)
    people = len(pairing.truth) + len(pairing.missed)
    seen = _looked_at(part).dt_rows
    told = np.nan_to_num(score[seen], nan=np.finfo(np.float64).min)  # the quantile of infinities is no number
    limit = float(np.quantile(told, 0.8)) if len(seen) else np.inf
    groups = [pairing.detection, pairing.spurious[twice], pairing.spurious[~twice]]
    empty = np.empty(0, np.int64)
    rows: list[tuple[str, int, int, Ints]] = [
        ("found", len(pairing.truth), people, groups[0]),
        ("missed", len(pairing.missed), people, empty),
        ("misscored", len(score_errors(near, score)), people, empty),
        ("duplicate", len(groups[1]), len(seen), groups[1]),
        ("background", len(groups[2]), len(seen), groups[2]),
    ]
    counts, wholes = (np.array([row[at] for row in rows]) for at in (1, 2))
    medians = np.array([float(np.median(score[row[3]])) if len(row[3]) else np.nan for row in rows])
    confident = np.array([int((score[row[3]] >= limit).sum()) for row in rows])
    has_scores = np.array([row[0] not in ("missed", "misscored") for row in rows])
    return pa.Table.from_arrays(
        [schema.strings([row[0] for row in rows]), _whole(counts), _whole(wholes), _share(counts, wholes),
         schema.fixed(medians, pa.float64()), schema.fixed(confident, pa.int64(), has_scores)],
        names=["kind", "count", "of", "share", "median_score", "confident"],
    )  # fmt: skip


def missed_people(part: Part, pairing: Pairing) -> pa.Table:
    """Whom nobody found: rows `by` "size" (area in square pixels), "labelled keypoints" (quarters of K), "crowding".

    group: in words. people: counted ones in it. missed: those without a prediction of OKS 0.1. share: missed / people,
    NaN without people. Crowding is the number of other people (no crowds) in the image whose box overlaps with the
    person's by more than 0.1 of their union, as in occlusionAndCrowdingSensitivity.py.
    """
    counted = np.flatnonzero(part.counted())
    missed = np.isin(counted, pairing.missed)
    k = len(part.skeleton)
    quarters = np.unique(np.ceil(np.arange(1, 5) * k / 4).astype(np.int64))
    steps = zip([1, *(quarters[:-1] + 1).tolist()], quarters.tolist(), strict=True)
    labels = [f"{low} to {high}" if low < high else str(low) for low, high in steps]
    number = part.truth.labelled[counted].sum(axis=1)
    groupings = [
        ("size", SIZE_NAMES, np.searchsorted(SIZES, part.truth.area[counted], side="right")),
        ("labelled keypoints", labels, np.minimum(np.searchsorted(quarters, number), len(quarters) - 1)),
        ("crowding", CROWD_NAMES, np.searchsorted([1, 3], crowding(part)[counted], side="right")),
    ]
    names, groups, people, lost = [], [], [], []
    for name, words, group in groupings:
        names += [name] * len(words)
        groups += list(words)
        people.append(np.bincount(group, minlength=len(words)))
        lost.append(np.bincount(group[missed], minlength=len(words)))
    whole, gone = np.concatenate(people), np.concatenate(lost)
    return pa.Table.from_arrays(
        [schema.strings(names), schema.strings(groups), _whole(whole), _whole(gone), _share(gone, whole)],
        names=["by", "group", "people", "missed", "share"],
    )


def crowding(part: Part, iou: float = CROWDED_IOU) -> Ints:
    """(N,) how many other people, no crowds, of the image have a box with more than `iou` with this one's."""
    truth = part.truth
    people = np.flatnonzero(~truth.iscrowd)
    people = people[np.argsort(truth.image_id[people], kind="stable")]
    image = truth.image_id[people]
    first = np.searchsorted(image, image, side="left")
    count = np.searchsorted(image, image, side="right") - first
    number = np.zeros(len(truth.image_id), np.int64)
    for start, stop in _blocks(count, TERMS_PER_BLOCK):
        n, f = count[start:stop], first[start:stop]
        a = np.repeat(np.arange(start, stop), n)
        b = np.arange(len(a)) + np.repeat(f - (np.cumsum(n) - n), n)
        near = (_iou(truth.bbox[people[a]], truth.bbox[people[b]]) > iou) & (a != b)
        number[people[start:stop]] = np.bincount(a[near] - start, minlength=stop - start)
    return number


def _iou(a: Floats, b: Floats) -> Floats:
    """(L,) intersection over union of boxes x, y, w, h; NaN where both are empty."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = np.maximum(high - low, 0).prod(axis=1)
        return np.asarray(shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared))
