"""Predictions with known errors: a made-up model whose every mistake is on record, to test evaluators with.

The kinds are those of Ronchi and Perona, *Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation* (ICCV
2017), by the keypoint similarity `ks = exp(-d² / (2 · area · (2 · sigma)²))`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.dataset import Dataset
from kpdata.errors import SchemaError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NAME = "synth_predictions"
_CHUNK = 4096  # people at once: bounds memory
_TRIES = 8
_NO_SIGMA = 0.08  # for skeletons without official sigmas: it only scales the errors
_BOX_TO_AREA = 0.53  # share of a box that a person covers: Jeff-sjtu/CrowdPose, crowdposetools/cocoeval.py
TRUTH = pa.schema(
    [("annotation_id", pa.int64()), ("gt_annotation_id", pa.int64()), ("kinds", pa.list_(pa.int8()))],
)


class Kind(IntEnum):
    """What is wrong with a predicted keypoint; `ks` is its similarity to the ground truth."""

    UNLABELLED = -1  # the ground truth has no such keypoint: nothing to be wrong about
    GOOD = 0  # ks >= 0.85
    JITTER = 1  # 0.5 <= ks < 0.85
    INVERSION = 2  # at the left/right twin of the same person
    SWAP = 3  # at another person's keypoint, the same or its twin
    MISS = 4  # near none of these: every ks < 0.5


# The similarity that a kind aims at, inside its class, and the mean keypoint score that the made-up model gives it.
_AIM = np.array([(0.87, 1.0), (0.53, 0.82), (0.88, 1.0), (0.88, 1.0), (1e-12, 0.02)])
_SCORE = np.array([0.88, 0.72, 0.66, 0.6, 0.35])


class _Truth(NamedTuple):
    """Ground truth as arrays: xy (N, K, 2), labelled (N, K), area (N,), image (N,), twin (K,), sigma (K,)."""

    xy: Floats
    labelled: NDArray[np.bool_]
    area: Floats
    image: Ints
    twin: NDArray[np.intp]
    sigma: Floats


def simulate_predictions(
    dataset: Dataset,
    *,
    seed: int = 0,
    jitter: float = 0.14,
    inversion: float = 0.03,
    swap: float = 0.02,
    miss: float = 0.04,
    missed_people: float = 0.05,
    false_positives: float = 0.05,
    score_noise: float = 0.08,
) -> tuple[Dataset, pa.Table]:
    """Predictions for a ground truth of one skeleton, and what is wrong with each of their keypoints.

    jitter, inversion, swap, miss: share of labelled keypoints with that error, drawn one by one. Where an error would
    be ambiguous (the twin lies as near as the keypoint itself, nobody else is in the image, flip pairs unknown) the
    keypoint is GOOD instead: the shares are upper limits, and every recorded kind is what geometry says.
    missed_people: share of people without a prediction (crowds and people without keypoints never have one).
    false_positives: poses in the wrong place, as a share of the number of people. score_noise: standard deviation of
    the scores, whose mean falls with the errors.

    Returns predictions as a results file reads them (visibility 3, `score`, `keypoint_scores`, no boxes), ordered by
    image, and a table with one row a prediction: `annotation_id`, `gt_annotation_id` (null: false positive), `kinds`
    (list of `Kind`; null: false positive). Areas are the ground truth's; without any, 0.53 × its box or the extent of
    its keypoints. SchemaError for shares out of range or a dataset of several skeletons.
    """
    shares = {"jitter": jitter, "inversion": inversion, "swap": swap, "miss": miss}
    _check(
        seed,
        {**shares, "missed_people": missed_people},
        {"false_positives": false_positives, "score_noise": score_noise},
    )
    rng = np.random.default_rng([seed, 2])
    truth = _truth(dataset)
    crowd = schema.values(dataset.persons["iscrowd"])
    can = np.flatnonzero(truth.labelled.any(1) & ~crowd)
    found = can[rng.random(len(can)) >= missed_people]
    xy, kinds = _predict(truth, found, np.array(list(shares.values())), rng)
    false_xy, false_image, false_row = _false_positives(truth, can, round(false_positives * len(can)), dataset, rng)
    everything = np.concatenate([xy, false_xy])
    row = np.concatenate([found, false_row])
    image_id = np.concatenate([schema.values(dataset.persons["image_id"])[found], false_image])
    real = np.arange(len(row)) < len(found)
    scores = _scores(kinds, len(false_row), score_noise, rng)
    order = np.lexsort((rng.random(len(row)), lookup(schema.values(dataset.images["image_id"]), image_id)))
    all_kinds = np.concatenate([kinds, np.zeros((len(false_row), kinds.shape[1]), np.int8)])
    predictions = _as_dataset(dataset, everything[order], scores[order], image_id[order], row[order])
    names = schema.fixed(np.arange(1, len(row) + 1), pa.int64())
    gt_ids = schema.fixed(schema.values(dataset.persons["annotation_id"])[row[order]], pa.int64(), real[order])
    columns = {
        "annotation_id": names,
        "gt_annotation_id": gt_ids,
        "kinds": schema.rows(all_kinds[order], real[order], pa.int8()),
    }
    options = {**shares, "missed_people": missed_people, "false_positives": false_positives}
    predictions = predictions.with_history("simulate_predictions", seed=seed, **options, score_noise=score_noise)
    return predictions, schema.table(TRUTH, len(row), columns)


def _check(seed: int, shares: dict[str, float], amounts: dict[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise SchemaError(f"{name}={share}: expected a share from 0 to 1")
    if (total := sum(list(shares.values())[:4])) > 1:
        raise SchemaError(f"jitter, inversion, swap and miss add up to {total:g}, expected at most 1")
    for name, amount in {"seed": seed, **amounts}.items():
        if not 0 <= amount < np.inf:
            raise SchemaError(f"{name}={amount}: expected a number from 0 on")


def _truth(dataset: Dataset) -> _Truth:
    from kpdata.geometry import box_area, box_from_keypoints

    skeleton = dataset.skeleton
    n, k = len(dataset), len(skeleton)
    xy = schema.matrix(dataset.persons["keypoints"], 2 * k).reshape(n, k, 2)
    visibility = schema.matrix(dataset.persons["visibility"], k)
    labelled = (visibility > 0) & np.isfinite(xy[..., 0] + xy[..., 1])
    area = schema.values(dataset.persons["area"])
    for boxes in (schema.matrix(dataset.persons["bbox"], 4), box_from_keypoints(xy, visibility)):
        area = np.where(area > 0, area, _BOX_TO_AREA * box_area(boxes))
    return _Truth(
        xy=xy,
        labelled=labelled,
        area=np.where(area > 1, area, 1.0),
        image=schema.values(dataset.persons["image_id"]),
        twin=np.arange(k) if skeleton.flip_pairs is None else skeleton.flip_index(),
        sigma=np.full(k, _NO_SIGMA) if skeleton.sigmas is None else np.array(skeleton.sigmas),
    )


# ------------------------------------------------------------------------------------------------------ keypoints


def _predict(truth: _Truth, found: Ints, shares: Floats, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int8]]:
    """(M, K, 2) positions and (M, K) kinds for the people in rows `found`."""
    k = truth.xy.shape[1]
    thresholds = np.cumsum(shares)
    order = np.argsort(truth.image, kind="stable")  # everybody, with and without prediction, by image
    parts = [
        _predict_chunk(truth, found[start : start + _CHUNK], order, thresholds, rng)
        for start in range(0, len(found), _CHUNK)
    ]
    xy = np.concatenate([*(p[0] for p in parts), np.empty((0, k, 2))])
    return xy, np.concatenate([*(p[1] for p in parts), np.empty((0, k), np.int8)])


def _predict_chunk(
    truth: _Truth, rows: Ints, order: Ints, thresholds: Floats, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.int8]]:
    """Draw a kind for each keypoint, then a position that is unmistakably of that kind; GOOD where none was found."""
    a, b, start = _pairs(truth.image, rows, order)
    draw = rng.random((len(rows), truth.xy.shape[1]))
    kind = np.searchsorted(thresholds, draw, side="right") + 1
    kind = np.where(kind > 4, int(Kind.GOOD), kind)
    own = truth.xy[rows]
    other = _someone_else(rows, b, start, rng)
    xy = own.copy()
    done = np.zeros(kind.shape, bool)
    smaller = np.minimum(truth.area[rows], truth.area[other])
    area = np.where(kind == Kind.SWAP, smaller[:, None], truth.area[rows, None])
    for _ in range(_TRIES):
        target = _targets(truth, rows, other, kind, rng)
        low, high = _AIM[kind][..., 0], _AIM[kind][..., 1]
        angle = 2 * np.pi * rng.random(kind.shape)
        ks = low + (high - low) * rng.random(kind.shape)
        reach = np.sqrt(-2 * np.log(ks) * area) * 2 * truth.sigma
        tried = np.round(target + reach[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1), 2)
        fits = _is_kind(truth, rows, a, b, start, tried, kind) & ~done
        xy[fits] = tried[fits]
        done |= fits
    labelled = truth.labelled[rows]
    middle = np.nanmean(np.where(labelled[..., None], own, np.nan), axis=1, keepdims=True)
    xy = np.where(
        labelled[..., None],
        xy,
        np.round(middle + 0.2 * np.sqrt(truth.area[rows])[:, None, None] * (rng.random(xy.shape) - 0.5), 2),
    )
    kind = np.where(done, kind, int(Kind.GOOD))
    return xy, np.where(labelled, kind, int(Kind.UNLABELLED)).astype(np.int8)


def _pairs(image: Ints, rows: Ints, order: Ints) -> tuple[Ints, Ints, Ints]:
    """All pairs (place in `rows`, row of somebody in the same image, himself included), and where each place starts."""
    sorted_images = image[order]
    first = np.searchsorted(sorted_images, image[rows])
    count = np.searchsorted(sorted_images, image[rows], side="right") - first
    start = np.cumsum(count) - count
    a = np.repeat(np.arange(len(rows)), count)
    b = order[np.arange(len(a)) + np.repeat(first - start, count)]
    return a, b, start


def _someone_else(rows: Ints, b: Ints, start: Ints, rng: np.random.Generator) -> Ints:
    """(M,) row of another person in the image; one's own where there is none."""
    stop = np.append(start[1:], len(b))
    pick = b[start + (rng.random(len(rows)) * (stop - start)).astype(np.int64)]
    second = b[np.minimum(start + (stop - start > 1), stop - 1)]
    other: Ints = np.where(pick == rows, np.where(second == rows, b[start], second), pick)
    return other


def _targets(truth: _Truth, rows: Ints, other: Ints, kind: Ints, rng: np.random.Generator) -> Floats:
    """(M, K, 2) where each prediction is aimed at; NaN where there is no such keypoint."""
    xy = np.where(truth.labelled[..., None], truth.xy, np.nan)
    twins = xy[:, truth.twin]
    swapped = np.where(rng.random(kind.shape)[..., None] < 0.5, xy[other], twins[other])
    out = np.where((kind == Kind.INVERSION)[..., None], twins[rows], xy[rows])
    return np.where((kind == Kind.SWAP)[..., None], swapped, out)


def _is_kind(truth: _Truth, rows: Ints, a: Ints, b: Ints, start: Ints, tried: Floats, kind: Ints) -> NDArray[np.bool_]:
    """(M, K) the position is of its kind with some margin.

    Ronchi & Perona measure a place with the area of the person whose place it is, others with that of the person who
    is meant. Both agree here: who is near is near by the smaller of the two areas, who is far is far by the larger.
    """
    twin = truth.twin
    has_twin = twin != np.arange(len(twin))
    xy = np.where(truth.labelled[..., None], truth.xy, np.inf)
    spread = 2 * np.square(2 * truth.sigma)
    stranger = (b != rows[a])[:, None]
    with np.errstate(invalid="ignore"):
        same = np.square(tried[a] - xy[b]).sum(-1) / spread  # (pairs, K), times an area
        turned = np.where(has_twin, np.square(tried[a] - xy[b][:, twin]).sum(-1) / spread, np.inf)
    # Distances grow where similarities fall, by either area.
    near, far = (size(truth.area[rows][a], truth.area[b])[:, None] for size in (np.minimum, np.maximum))
    own, own_twin = (np.add.reduceat(np.where(stranger, 0, _ks(distance / near)), start) for distance in (same, turned))
    nearest = np.where(stranger, np.fmin(same, turned), np.inf)
    surely, maybe = (np.maximum.reduceat(_ks(nearest / area), start) for area in (near, far))
    rivals = np.maximum(own_twin, maybe)
    own_best = own > 1.02 * rivals
    return np.select(
        [kind == k for k in Kind if k >= 0],
        [
            own_best & (own > 0.86),
            own_best & (own > 0.51) & (own < 0.84),
            (own < 0.45) & (own_twin > 0.86) & (own_twin > 1.02 * maybe),
            (own < 0.45) & (own_twin < 0.45) & (surely > 0.86),
            (own < 0.45) & (rivals < 0.45),
        ],
        default=np.zeros(kind.shape, bool),
    )


def _ks(distance: Floats) -> Floats:
    """exp(-distance), 0 where there is no such place."""
    return np.nan_to_num(np.exp(-distance))


# --------------------------------------------------------------------------------------------------- rows and scores


def _false_positives(
    truth: _Truth, can: Ints, count: int, dataset: Dataset, rng: np.random.Generator
) -> tuple[Floats, Ints, Ints]:
    """`count` poses of the dataset put into other places: (F, K, 2), image ids, rows that they were copied from.

    Of some random places each takes the one farthest from everybody in that image.
    """
    if not len(can) or not count:
        return np.empty((0, *truth.xy.shape[1:])), np.empty(0, np.int64), np.empty(0, np.int64)
    row = can[(rng.random(count) * len(can)).astype(np.int64)]
    where = (rng.random(count) * dataset.images.num_rows).astype(np.int64)
    size = np.stack([schema.values(dataset.images[name], 640)[where] for name in ("width", "height")], axis=1)
    centres = np.nanmean(np.where(truth.labelled[can][..., None], truth.xy[can], np.nan), axis=1)
    image_id = schema.values(dataset.images["image_id"])[where]
    in_order = np.argsort(truth.image[can], kind="stable")
    first = np.searchsorted(truth.image[can][in_order], image_id)
    people = np.searchsorted(truth.image[can][in_order], image_id, side="right") - first
    a = np.repeat(np.arange(count), people)
    b = in_order[np.arange(len(a)) + np.repeat(first - (np.cumsum(people) - people), people)]
    best, place = np.full(count, -1.0), np.zeros((count, 2))
    for _ in range(_TRIES):
        tried = rng.random((count, 2)) * size
        gap = np.full(count, np.inf)
        np.minimum.at(gap, a, np.hypot(*(tried[a] - centres[b]).T))
        place = np.where((gap > best)[:, None], tried, place)
        best = np.maximum(best, gap)
    own = np.where(truth.labelled[row][..., None], truth.xy[row], np.nan)
    middle = np.nanmean(own, axis=1, keepdims=True)
    pose = np.where(np.isnan(own), middle, own) - middle
    return np.round(pose + place[:, None], 2), image_id, row


def _scores(kinds: NDArray[np.int8], false: int, noise: float, rng: np.random.Generator) -> Floats:
    """(M + F, K) scores of keypoints; a person's score is their mean."""
    mean = np.concatenate([np.where(kinds < 0, 0.2, _SCORE[kinds]), np.full((false, kinds.shape[1]), 0.25)])
    person = rng.normal(0, 1, (len(mean), 1))
    noisy = mean + noise * (person + rng.normal(0, 1, mean.shape)) / np.sqrt(2)
    scores: Floats = np.round(np.clip(noisy, 0.001, 0.999), 4)
    return scores


def _as_dataset(dataset: Dataset, xy: Floats, scores: Floats, image_id: Ints, row: Ints) -> Dataset:
    """The people as a results file would hold them; row: the ground truth's row that lends its category."""
    n, k = scores.shape
    persons = {
        "annotation_id": schema.fixed(np.arange(1, n + 1), pa.int64()),
        "image_id": schema.fixed(image_id, pa.int64()),
        "dataset": schema.constant(NAME, n),
        "category_id": schema.chunk(schema.take(dataset.persons, row)["category_id"]),
        "category": schema.chunk(schema.take(dataset.persons, row)["category"]),
        "skeleton": schema.constant(dataset.skeleton.name, n),
        "keypoints": schema.rows(xy),
        "visibility": schema.rows(np.full((n, k), 3, np.int8), kind=pa.int8()),
        "score": schema.fixed(np.round(scores.mean(1), 4) if k else np.zeros(n), pa.float64()),
        "keypoint_scores": schema.rows(scores),
    }
    return Dataset(
        images=dataset.images,
        persons=schema.table(schema.PERSONS, n, persons),
        skeletons=dataset.skeletons,
        datasets={**dataset.datasets, NAME: {"source_format": "synth", "area_kind": "none", "licence": "CC0-1.0"}},
        history=dataset.history,
    )
