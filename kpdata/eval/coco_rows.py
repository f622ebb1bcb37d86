"""Annotations and results as `COCO` objects hold them (dicts) to the arrays of the engine, and matches back to dicts.

Only rows that arrays can hold without a change come through: numbers that are Python's own (or 64-bit floats), all
fields there, the same number of keypoints. About anything else `to_arrays` says no, and `coco.COCOeval` goes one image
at a time, with whatever that raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import EvaluationError
from kpdata.eval.matching import Matches, match
from kpdata.eval.oks import (
    Bools,
    CompactKeypoints,
    Detections,
    Floats,
    GroundTruth,
    Ints,
    Params,
    pair_oks,
)

Row = dict[str, Any]
Table = Mapping[tuple[Any, Any], list[Row]]  # rows by (image id, category id)

PLAIN = {int, float, np.float64, np.int64}
EXACT = 2.0**53  # integers up to here are the same as a float
SQUARED = 2.0**25  # sums of two squares of differences up to here, too: NumPy computes with integers as integers


class NotPlain(Exception):
    """These rows are not what arrays can hold: not an error of the user's, and never seen by one."""


@dataclass(frozen=True)
class Evaluated:
    """One `evaluate()` in arrays: images i and categories c stand for image_ids[i] and category_ids[c]."""

    image_ids: list[Any]  # I
    category_ids: list[Any]  # C
    area_ranges: list[Any]  # A, as the user gave them
    max_det: Any
    gts: list[Row]  # in the order of GroundTruth
    dts: list[Row]  # in the order of Detections
    truth: GroundTruth
    detections: Detections
    params: Params
    matches: Matches  # its gt_annotation_id is 0 where pycocotools' float array holds a 0, else 1

    def cells(self) -> int:
        return len(self.image_ids) * len(self.category_ids) * len(self.area_ranges)


def to_arrays(gts: Table, dts: Table, p: Any) -> Evaluated | None:
    """Everyone of the listed images and categories matched, `p` being COCOeval's params; None: not by arrays."""
    try:
        params = _params(p)
        images = {image: i for i, image in enumerate(p.imgIds)}
        categories = {category: c for c, category in enumerate(p.catIds)}
        gt_rows, gt_group = _flatten(gts, images, categories)
        dt_rows, dt_group = _flatten(dts, images, categories)
        score = numbers([row["score"] for row in dt_rows])
        looked_at = np.isin(dt_group, gt_group) & (_ranks(score, dt_group) < params.max_dets[-1])
        truth, zero = _ground_truth(gt_rows, gt_group, np.isin(gt_group, dt_group), len(images), len(params.sigmas))
        found = _detections(dt_rows, dt_group, score, looked_at, len(images), len(params.sigmas))
    except (NotPlain, EvaluationError, LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
        return None
    matches = match(truth, found, np.arange(len(images)), np.arange(len(categories)), params)
    matches = replace(matches, gt_annotation_id=np.where(zero[matches.gt_row], 0, 1))
    return Evaluated(
        list(p.imgIds), list(p.catIds), list(p.areaRng), p.maxDets[-1], gt_rows, dt_rows, truth, found, params, matches
    )


# -------------------------------------------------------------------------------------------------------------- params


def _params(p: Any) -> Params:
    """COCOeval's params as the engine's. NotPlain where they are anything but arrays of plain numbers."""
    sigmas = p.kpt_oks_sigmas
    if not isinstance(sigmas, np.ndarray) or sigmas.dtype != np.float64 or sigmas.ndim != 1 or p.useCats != 1:
        raise NotPlain
    if not all(type(m) is int and m > 0 for m in p.maxDets) or len(p.areaRng) == 0:
        raise NotPlain
    ranges = np.stack([numbers(r) for r in p.areaRng])
    return Params(
        sigmas=sigmas,
        iou_thresholds=grid(p.iouThrs),
        area_ranges=ranges[:, :2],
        area_labels=tuple(map(str, range(len(ranges)))),
        max_dets=tuple(p.maxDets),
    )


def grid(values: Any) -> Floats:
    """(T,) thresholds. NotPlain unless they are at least one plain number, in a row."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype not in (np.float64, np.int64):
        raise NotPlain
    return array.astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------- rows


def _flatten(table: Table, images: Mapping[Any, int], categories: Mapping[Any, int]) -> tuple[list[Row], Ints]:
    """Rows of the listed images and categories by group (category index * number of images + image index), groups."""
    keys = ((key, categories.get(key[1]), images.get(key[0])) for key in table)
    groups = sorted(
        (c * len(images) + i, n, key) for n, (key, c, i) in enumerate(keys) if c is not None and i is not None
    )
    people = [table[key] for _, _, key in groups]
    return list(chain.from_iterable(people)), np.repeat(
        np.array([g for g, _, _ in groups], np.int64), np.array([len(rows) for rows in people], np.int64)
    )


def _ranks(score: Floats, group: Ints) -> Ints:
    """(M,) place of each row among those of its group, best score first; groups ascend."""
    order = np.lexsort((-score, group))  # stable
    starts = np.searchsorted(group, group)
    ranks = np.empty(len(score), np.int64)
    ranks[order] = np.arange(len(score)) - starts
    return ranks


def numbers(values: Sequence[Any]) -> Floats:
    """(N,) the same numbers as floats. NotPlain where one is not, or is an integer that a float cannot hold."""
    if not set(map(type, values)) <= PLAIN:
        raise NotPlain
    array = np.array(values, dtype=np.float64)
    large = np.flatnonzero(np.isfinite(array) & (np.abs(array) > EXACT)).tolist()
    if not all(isinstance(values[i], float) for i in large):
        raise NotPlain
    return array


def _ground_truth(rows: list[Row], group: Ints, met: Bools, images: int, k: int) -> tuple[GroundTruth, Bools]:
    """Arrays, and (N,) whose id is 0. People of images without detections (not `met`) need no keypoints."""
    poses = _poses(rows, met, k)
    ids = numbers([row["id"] for row in rows])
    truth = GroundTruth(
        image_id=group % max(1, images),
        category_id=group // max(1, images),
        annotation_id=np.arange(1, len(rows) + 1),  # repeated ids were looked up by COCO.loadAnns
        keypoints=_scatter(poses[..., :2], met),
        labelled=_scatter(poses[..., 2] > 0, met),
        num_keypoints=np.array([not row["ignore"] for row in rows], dtype=np.int64),
        bbox=_boxes(rows, met),
        area=numbers([row["area"] for row in rows]),
        iscrowd=np.array([int(row["iscrowd"]) != 0 for row in rows], dtype=np.bool_),
    )
    return truth, ids == 0


def _detections(rows: list[Row], group: Ints, score: Floats, looked_at: Bools, images: int, k: int) -> Detections:
    ids = numbers([row["id"] for row in rows])
    if not (ids > 0).all():  # a person found by such a detection would stay free (cocoeval.py:283)
        raise NotPlain
    return Detections(
        image_id=group % max(1, images),
        category_id=group // max(1, images),
        keypoints=_scatter(_poses(rows, looked_at, k)[..., :2], looked_at),
        score=score,
        area=numbers([row["area"] for row in rows]),
    )


def _poses(rows: list[Row], chosen: Bools, k: int) -> Floats:
    """(F, K, 3) of the chosen rows. NotPlain where NumPy would compute with them in another type than float."""
    flats = [row["keypoints"] for row, yes in zip(rows, chosen.tolist(), strict=True) if yes]
    if not {type(flat) for flat in flats} <= {list, tuple}:
        raise NotPlain
    if not {type(flat[0]) for flat in flats} <= {int, float, np.float64}:
        raise NotPlain
    pack = struct.Struct(f"{3 * k}d").pack
    poses = np.frombuffer(b"".join([pack(*flat) for flat in flats])).reshape(len(flats), 3 * k)
    if not (poses.max(initial=0) <= SQUARED and poses.min(initial=0) >= -SQUARED):  # also where there is a NaN
        large = (np.isfinite(poses) & (np.abs(poses) > SQUARED)).any(axis=1)
        if any(type(v) is not float for row in np.flatnonzero(large).tolist() for v in flats[row]):
            raise NotPlain
    return poses.reshape(len(flats), k, 3)


def _scatter(values: NDArray[Any], chosen: Bools) -> NDArray[Any]:
    """The chosen rows in their places, 0 for the others, whom nobody looks at."""
    whole = np.zeros((len(chosen), *values.shape[1:]), values.dtype)
    whole[chosen] = values
    return whole


def _boxes(rows: list[Row], chosen: Bools) -> Floats:
    """(N, 4) boxes of the chosen rows, 0 for the others."""
    boxes = [row["bbox"] if yes else (0.0,) * 4 for row, yes in zip(rows, chosen.tolist(), strict=True)]
    if not {type(box) for box in boxes} <= {list, tuple}:
        raise NotPlain
    return numbers([box[i] for box in boxes for i in range(4)]).reshape(-1, 4)


# ------------------------------------------------------------------------------------------------------- back to dicts


def mark_ignored(done: Evaluated) -> None:
    """Write `_ignore` into the annotations as evaluateImg leaves it: that of the last area range."""
    for row, ignored in zip(done.matches.gt_row.tolist(), done.matches.gt_ignored[-1].tolist(), strict=True):
        done.gts[row]["_ignore"] = int(ignored)


def eval_imgs(done: Evaluated) -> list[Row | None]:
    """The list that `COCOeval.evalImgs` is: a dict (or None) for each category, area range and image."""
    images, groups = len(done.image_ids), len(done.image_ids) * len(done.category_ids)
    m = done.matches
    sides = (
        _Side.of(done.gts, m.gt_row, m.gt_category * images + m.gt_image_id, groups),
        _Side.of(done.dts, m.dt_row, m.dt_category * images + m.dt_image_id, groups),
    )
    ranges = [_range_dicts(done, a, *sides) for a in range(len(done.area_ranges))]
    return [e for c in range(len(done.category_ids)) for dicts in ranges for e in dicts[c * images : (c + 1) * images]]


@dataclass(frozen=True)
class _Side:
    """People or detections in the order of Matches, with where each group starts."""

    ids: list[Any]
    as_float: Floats
    group: Ints
    bounds: list[int]  # groups + 1
    rows: list[Row]

    @classmethod
    def of(cls, rows: list[Row], order: Ints, group: Ints, groups: int) -> _Side:
        ordered = [rows[i] for i in order.tolist()]
        ids = [row["id"] for row in ordered]
        bounds = np.searchsorted(group, np.arange(groups + 1)).tolist()
        return cls(ids, np.array(ids, dtype=np.float64), group, bounds, ordered)


def _range_dicts(done: Evaluated, a: int, gt: _Side, dt: _Side) -> list[Row | None]:
    """One dict (or None) a group, at area range `a`."""
    gt_matches, dt_matches, dt_ignore = _match_arrays(done.matches, a, gt, dt)
    ignore = done.matches.gt_ignored[a]
    last = np.lexsort((ignore, gt.group))  # the ignored behind the others of their image
    gt_matches, gt_ignore = gt_matches[:, last], ignore[last].astype(np.int64)
    gt_ids = [gt.ids[i] for i in last.tolist()]
    scores = [row["score"] for row in dt.rows]
    images, dicts = len(done.image_ids), list[Row | None]()
    for group in range(len(gt.bounds) - 1):
        g, d = slice(*gt.bounds[group : group + 2]), slice(*dt.bounds[group : group + 2])
        if g.start == g.stop and d.start == d.stop:
            dicts.append(None)
            continue
        dicts.append({
            "image_id": done.image_ids[group % images], "category_id": done.category_ids[group // images],
            "aRng": done.area_ranges[a], "maxDet": done.max_det, "dtIds": dt.ids[d], "gtIds": gt_ids[g],
            "dtMatches": dt_matches[:, d], "gtMatches": gt_matches[:, g], "dtScores": scores[d],
            "gtIgnore": gt_ignore[g] if g.stop > g.start else np.array([]), "dtIgnore": dt_ignore[:, d],
        })  # fmt: skip
    return dicts


def _match_arrays(m: Matches, a: int, gt: _Side, dt: _Side) -> tuple[Floats, Floats, Bools]:
    """gtMatches (T, G), dtMatches (T, D) and dtIgnore (T, D) of all images, in the order of Matches."""
    matched: NDArray[np.int32] = m.matched[a]
    gt_matches, dt_matches = np.zeros((len(matched), len(gt.ids))), np.zeros(matched.shape)
    dt_ignore = np.zeros(matched.shape, np.bool_)
    t, d = np.nonzero(matched >= 0)
    person = m.pair_gt[matched[t, d]]
    dt_matches[t, d] = gt.as_float[person]
    gt_matches[t, person] = dt.as_float[d]  # in score order: the last detection of a crowd stays
    dt_ignore[t, d] = m.gt_ignored[a, person]
    return gt_matches, dt_matches, dt_ignore | (dt_matches == 0) & m.dt_outside[a]


def all_oks(done: Evaluated) -> dict[tuple[Any, Any], Any]:
    """What `COCOeval.ious` is: by image and category, OKS (D, G) of the best detections, [] where a side is empty."""
    m, images = done.matches, len(done.image_ids)
    gt_group, dt_group = m.gt_category * images + m.gt_image_id, m.dt_category * images + m.dt_image_id
    groups = np.arange(images * len(done.category_ids) + 1)
    gt_at, dt_at = np.searchsorted(gt_group, groups), np.searchsorted(dt_group, groups)
    width = np.diff(gt_at)[dt_group]
    first = np.cumsum(width) - width
    d = np.repeat(np.arange(len(dt_group)), width)
    g = np.arange(len(d)) + np.repeat(gt_at[dt_group] - first, width)
    people = CompactKeypoints.of(done.truth, m.gt_row)
    oks = pair_oks(people, g, done.detections.keypoints, m.dt_row[d], done.params.sigmas)
    ends = np.append(first, len(oks))
    return {
        (image, category): _matrix(oks, ends, dt_at[c * images + i :][:2], gt_at[c * images + i :][:2])
        for i, image in enumerate(done.image_ids)
        for c, category in enumerate(done.category_ids)
    }


def _matrix(oks: Floats, ends: Ints, dt: Iterable[int], gt: Iterable[int]) -> Any:
    (d0, d1), (g0, g1) = dt, gt
    return oks[ends[d0] : ends[d1]].reshape(d1 - d0, g1 - g0) if d1 > d0 and g1 > g0 else []
