"""How sure the numbers are: images drawn anew, with replacement, and every number computed again from the same matches.

Images do not influence each other's matches, so a resample is a weight an image (how often it was drawn) and nothing is
matched again: AP and AR of a resample are sums of weights along the detections, best score first. They equal the
evaluation of the drawn images as separate images up to rounding in the last mean (1e-12), with equal scores inside an
image decided as if its copies were drawn side by side.

The method is the percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). The
image is the unit, because people of one image share its light, camera and crowding: drawing people one by one would
make the intervals too narrow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import EvaluationError
from kpdata.eval import wording
from kpdata.eval.average_precision import outcome
from kpdata.eval.matching import Matches
from kpdata.eval.oks import Bools, Floats, Ints, Params
from kpdata.eval.part import Part

Weights = NDArray[np.int32]

FEW = 10  # images: percentile intervals of fewer are clearly too narrow (Hesterberg, The American Statistician, 2015)
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_CELLS: tuple[tuple[float | None, str], ...] = (
    (None, "all"),
    (0.5, "all"),
    (0.75, "all"),
    (None, "medium"),
    (None, "large"),
)
_BLOCK = 64  # resamples drawn from one generator: part of what a seed means
_CELLS_AT_ONCE = 1 << 18  # weights in the hand at once: half a megabyte, so that they stay in the cache


@dataclass(frozen=True)
class Intervals:
    """The C numbers (COCO's ten, unless they are of several groups) with what chance may have made of them.

    estimate, low, high (C,) in the order of `names`; samples (n, C), NaN where a resample has nothing to average (no
    large person drawn): such samples take no part in the interval. An interval of a number that is -1 is NaN, and so is
    that of people who are all on one image: its resamples are all alike, and say nothing about another image.
    """

    names: tuple[str, ...]
    estimate: Floats
    low: Floats
    high: Floats
    samples: Floats
    level: float
    seed: int
    images: Ints | None = None  # (C,) with people that each number counts; None: nobody said

    def to_json(self) -> dict[str, Any]:
        """Plain data: number, low and high of each name, with how they were made."""
        columns = (self.estimate.tolist(), self.low.tolist(), self.high.tolist())
        rows = {
            name: {"value": value, "low": low, "high": high}
            for name, value, low, high in zip(self.names, *columns, strict=True)
        }
        return {"resamples": len(self.samples), "seed": self.seed, "level": self.level, "intervals": rows}


def bootstrap(parts: Part | Sequence[Part], n: int = 1000, seed: int = 0, level: float = 0.95) -> Intervals:
    """Percentile intervals of the ten numbers over `n` resamples of the images; categories averaged as in `summarize`.

    parts: those of an evaluation (`Evaluation.sides.parts`), or one. level: share of resamples inside an interval.
    Counted are all detections that were matched, so the best 20 of each image unless `Params` says otherwise. The same
    seed gives the same intervals, however many cores there are. Raises EvaluationError for n below 1, a negative
    seed, and a level outside 0 … 1. Without parts every number is -1, as in the evaluation of nobody.
    """
    parts = [parts] if isinstance(parts, Part) else list(parts)
    check_settings(n, seed, level)
    if not parts:
        nothing = np.full(len(NAMES), np.nan)
        none = np.zeros(len(NAMES), np.int64)
        return Intervals(
            NAMES, np.full(len(NAMES), -1.0), nothing, nothing, np.tile(nothing, (n, 1)), level, seed, none
        )
    images = np.unique(np.concatenate([part.image_ids for part in parts]))
    params = parts[0].params
    curves = [c for part in parts for c in curves_of(part.matches, images, part.params)]
    cells = number_cells(params)
    estimate = pick(*resample(curves, np.ones((1, len(images)), np.int32), params.recall_thresholds), cells)[0]
    samples = pick(*resampled(curves, images, params.recall_thresholds, n, seed), cells)
    carrying = _carrying(curves, cells)
    low, high = percentiles(samples, level, carrying)
    return Intervals(NAMES, np.where(np.isnan(estimate), -1.0, estimate), low, high, samples, level, seed, carrying)


def _carrying(curves: Sequence[Curves], cells: Sequence[tuple[Ints, Ints]]) -> Ints:
    """(10,) on how many images the people are that each number counts."""
    counting = np.stack([[chosen.truths for chosen in category.ranges] for category in curves])
    some: Bools = np.any(counting > 0, axis=0)  # (A, I)
    return np.array(2 * [some[a].any(axis=0).sum() for a, _ in cells], np.int64)  # of precision, and of recall


def of_shares(hits: Floats, most: Ints, n: int, seed: int) -> Floats:
    """(n, T) `hits.sum(0) / most.sum()` of resamples of the images: hits (I, T), most (I,); NaN where most is 0."""
    out = np.full((n, hits.shape[1]), np.nan)
    for start, weight in drawn(n, len(most), seed):
        whole = (weight @ most).astype(np.float64)
        out[start : start + len(weight)] = weight @ hits / np.where(whole > 0, whole, np.nan)[:, None]
    return out


def side_by_side(numbers: Mapping[str, tuple[Intervals, int]]) -> Intervals:
    """Columns of several Intervals of the same settings as one, by new names."""
    first = next(iter(numbers.values()))[0]
    estimate, low, high = (
        np.array([getattr(of, field)[i] for of, i in numbers.values()]) for field in ("estimate", "low", "high")
    )
    samples = np.stack([of.samples[:, i] for of, i in numbers.values()], axis=1)
    counts = [None if of.images is None else int(of.images[i]) for of, i in numbers.values()]
    images = None if None in counts else np.array(counts, np.int64)
    fields: dict[str, Any] = {"estimate": estimate, "low": low, "high": high, "samples": samples, "images": images}
    return replace(first, names=tuple(numbers), **fields)


def on_few_images(intervals: Intervals | None, slices: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence where numbers, or rows of a table of slices that was made with resamples, rest on fewer than `FEW`
    images: how many do, and the fewest; none where all rest on more."""
    numbers: list[tuple[int, str]] = []
    if intervals is not None and intervals.images is not None:
        rows = zip(intervals.images.tolist(), intervals.names, intervals.estimate.tolist(), strict=True)
        numbers = [(images, name) for images, name, value in rows if value >= 0]
    kinds = [(row["images"], f"{row['by']} {row['slice']}") for row in slices]
    told = [
        f"{len(few)} of {wording.many(len(all_of), what)} ({min(few)[1]} on {wording.many(min(few)[0], 'image')})"
        for what, all_of in (("number", numbers), ("slice", kinds))
        if (few := [one for one in all_of if one[0] < FEW])
    ]
    why = f"intervals that rest on fewer than {FEW} images are too narrow, and one image gives none"
    return [f"{why}: {', '.join(told)}"] if told else []


def check_settings(n: int, seed: int, level: float) -> None:
    """EvaluationError unless there is a resample to make, the seed is one, and the level is a share."""
    if n < 1:
        raise EvaluationError(f"{n} resamples, expected at least 1", hint="1,000 is usual")
    if seed < 0:
        raise EvaluationError(f"seed {seed}, expected 0 or more")
    if not 0 < level < 1:
        raise EvaluationError(f"level {level}, expected a share between 0 and 1", hint="0.95 is usual")


def percentiles(samples: Floats, level: float, images: Ints | None = None) -> tuple[Floats, Floats]:
    """Low and high (C,) of each column of samples (n, C), NaN left out; NaN where a column has nothing else, and where
    its people are on fewer than two images (C,).

    Between two samples the quantile is interpolated linearly, as NumPy's does by default.
    """
    low, high = np.full(samples.shape[1], np.nan), np.full(samples.shape[1], np.nan)
    some = ~np.isnan(samples).all(axis=0)
    if images is not None:
        some &= images > 1
    tail = (1 - level) / 2
    if some.any():
        low[some], high[some] = np.nanquantile(samples[:, some], (tail, 1 - tail), axis=0)
    return low, high


def number_cells(params: Params) -> tuple[tuple[Ints, Ints], ...]:
    """(area ranges, thresholds) that each of AP, AP50, AP75, APm, APl averages over; the same for AR."""
    cells = []
    for threshold, label in _CELLS:
        a = np.flatnonzero(np.array(params.area_labels) == label)
        at = params.iou_thresholds
        cells.append((a, np.arange(len(at)) if threshold is None else np.flatnonzero(same(at, threshold))))
    return tuple(cells)


def same(thresholds: Floats, wanted: float) -> Bools:
    """(T,) which thresholds are this one, rounding aside (0.5 + 0.05 i misses 0.75)."""
    return np.isclose(thresholds, wanted, rtol=0, atol=1e-9)


def pick(precision: Floats, recall: Floats, cells: Sequence[tuple[Ints, Ints]]) -> Floats:
    """The ten numbers (n, 10) of precision and recall (n, A, T); NaN where there is nothing to average."""
    columns = [
        _mean(values[:, a][:, :, t].reshape(len(values), -1)) for values in (precision, recall) for a, t in cells
    ]
    return np.stack(columns, axis=1)


def _mean(values: Floats) -> Floats:
    """(n,) mean of each row of (n, C), NaN where C is 0."""
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)


# ------------------------------------------------------------------------------------------- what a resample weighs


@dataclass(frozen=True, slots=True)
class Range:
    """An area range, or any other choice of people, of one category, as images to look weights up for.

    Of its detections, best score first: `live` are right at one OKS threshold at least; `steady` count at each, right
    or wrong; `varying` count more at one than at another, from 0 (ignored) over the range's share of what is shared
    to 1. The rest never counts. A live detection is among the others too, unless it never counts where it is wrong.
    """

    truths: Weights  # (I,) counting people of each image
    live_image: Ints  # (L,)
    true: Weights  # (T, L) 1 where right
    steady_image: Ints  # (S,)
    steady_before: Ints  # (L,) how many of `steady` come at or before
    varying_image: Ints  # (V,)
    varying_by: Floats  # (T, V) 0 … 1
    varying_before: Ints  # (L,)
    share: float  # of each detection that is shared at every threshold
    shared_before: Ints  # (L,)


@dataclass(frozen=True, slots=True)
class Curves:
    """All ranges of one category. `shared_image` (S,): false positives that every range has its share of."""

    shared_image: Ints
    ranges: tuple[Range, ...]  # (A,)


def curves_of(
    matches: Matches,
    images: Ints,
    params: Params,
    shared: Bools | None = None,
    shares: Floats | None = None,
) -> list[Curves]:
    """What resampling `images` (I,) ascending needs to know of each category.

    shared (D,) detections of `matches` that are outside every range: where unmatched, range a takes shares[a, c] (A, C)
    of each as a false positive. None unless told.
    """
    bounds = np.searchsorted(matches.dt_category, np.arange(len(matches.category_ids) + 1))
    shared = np.zeros(len(matches.dt_row), np.bool_) if shared is None else shared
    shares = np.zeros((len(matches.gt_ignored), len(bounds) - 1)) if shares is None else shares
    out = []
    for c in range(len(matches.category_ids)):
        who = np.arange(bounds[c], bounds[c + 1])
        who = who[np.argsort(-matches.dt_score[who], kind="stable")]  # as `accumulate`
        image = np.searchsorted(images, matches.dt_image_id[who])
        loose = shared[who] & (matches.matched[0][:, who] < 0)  # (T, D): ranges that share have the same matches
        people = [np.flatnonzero(~ignored & (matches.gt_category == c)) for ignored in matches.gt_ignored]
        ranges = []
        for a, rows in enumerate(people):
            truths = np.bincount(np.searchsorted(images, matches.gt_image_id[rows]), minlength=len(images))
            counts = _outcomes(matches, params, a, who)
            ranges.append(_range(truths.astype(np.int32), image, *counts, loose, float(shares[a, c])))
        out.append(Curves(image[loose.all(axis=0)], tuple(ranges)))
    return out


def _outcomes(matches: Matches, params: Params, a: int, who: Ints) -> tuple[Bools, Bools]:
    """(T, D) which detections are right, and which count."""
    inside = ~matches.dt_outside[a, who]
    found = [outcome(matches, matched[who], a, inside, params.mode) for matched in matches.matched[a]]
    true, counted = zip(*found, strict=True)
    return np.stack(true), np.stack(counted)


def _range(truths: Weights, image: Ints, true: Bools, counted: Bools, loose: Bools, share: float) -> Range:
    everywhere = loose.all(axis=0)
    by = np.where(counted, 1.0, share * (loose & ~everywhere))
    steady = counted.all(axis=0)
    live, varying = np.flatnonzero(true.any(axis=0)), np.flatnonzero(by.any(axis=0) & ~steady)
    before = [np.cumsum(rows, dtype=np.int64)[live] for rows in (steady, everywhere)]
    return Range(
        truths=truths,
        live_image=image[live],
        true=true[:, live].astype(np.int32),
        steady_image=image[steady],
        steady_before=before[0],
        varying_image=image[varying],
        varying_by=by[:, varying],
        varying_before=np.searchsorted(varying, live, side="right"),
        share=share,
        shared_before=before[1],
    )


# ------------------------------------------------------------------------------------------------------- resampling


def drawn(n: int, images: int, seed: int) -> Iterator[tuple[int, Weights]]:
    """(first resample, weights (B, I)): how often each image was drawn, some resamples at a time."""
    for start in range(0, n, _BLOCK):
        yield start, weights(start, min(_BLOCK, n - start), images, seed)


def weights(start: int, count: int, images: int, seed: int) -> Weights:
    """(count, I) how often resamples from `start`, a multiple of the block, draw each of I images."""
    rng = np.random.default_rng([seed, start])
    rows = rng.integers(0, max(images, 1), (count, images)) + np.arange(count)[:, None] * images
    return np.bincount(rows.ravel(), minlength=count * images).reshape(count, images).astype(np.int32)


def resampled(
    curves: Sequence[Curves], images: Ints, recall_thresholds: Floats, n: int, seed: int
) -> tuple[Floats, Floats]:
    """Mean precision and final recall (n, A, T) of `n` resamples; NaN where none of a range's people was drawn."""
    shape = (n, len(curves[0].ranges), len(curves[0].ranges[0].true))
    precision, recall = np.empty(shape), np.empty(shape)

    def work(start: int) -> None:
        stop = min(start + _BLOCK, n)
        drawn_images = weights(start, stop - start, len(images), seed)
        precision[start:stop], recall[start:stop] = resample(curves, drawn_images, recall_thresholds)

    # NumPy lets go of the interpreter's lock in what takes the time; each block has a seed of its own.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(work, range(0, n, _BLOCK)))
    return precision, recall


def resample(curves: Sequence[Curves], weight: Weights, recall_thresholds: Floats) -> tuple[Floats, Floats]:
    """Mean precision and final recall (B, A, T), over the categories that have people; weight (B, I) of the images."""
    shape = (len(weight), len(curves[0].ranges), len(curves[0].ranges[0].true))
    total, known = np.zeros((2, *shape)), np.zeros(shape[:2])
    for category in curves:
        known += np.stack([weight @ chosen.truths > 0 for chosen in category.ranges], axis=1)
        for many in _pieces(0, len(weight), len(category.shared_image) // 32):
            shared = _running(weight[many], category.shared_image)
            for a, chosen in enumerate(category.ranges):
                for few in _pieces(many.start, many.stop, len(chosen.live_image)):
                    mine = shared[few.start - many.start : few.stop - many.start]
                    total[:, few, a] += _range_numbers(chosen, weight[few], mine, recall_thresholds)
    with np.errstate(invalid="ignore"):
        precision, recall = total / np.where(known, known, np.nan)[:, :, None]
    return precision, recall


def _pieces(start: int, stop: int, width: int) -> Iterator[slice]:
    """Rows start … stop, at least one at a time and so many that their `width` cells stay in the cache."""
    step = max(1, _CELLS_AT_ONCE // (width + 1))
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _running(weight: Weights, image: Ints) -> Weights:
    """(B, L + 1) weight of the first 0 … L of these detections."""
    out = np.zeros((len(weight), len(image) + 1), np.int32)
    np.cumsum(weight.take(image, axis=1), axis=1, out=out[:, 1:])
    return out


def _range_numbers(chosen: Range, weight: Weights, shared: Weights, recalls: Floats) -> Floats:
    """(2, B, T) mean precision over the recall thresholds, and final recall; 0 where nobody counts.

    An image drawn w times puts its true positive w times in a row, where precision rises: the last of them decides the
    envelope, so that one entry stands for all. Entries that are no true positives, or of weight 0, are never above the
    entry before them, so that they need not be told from the others.
    """
    count, live = len(weight), len(chosen.live_image)
    out = np.zeros((2, count, len(chosen.true)))
    truths = weight @ chosen.truths  # (B,)
    if not live or not truths.any():
        return out
    order = np.argsort(recalls, kind="stable")  # they need not ascend
    least = _needed(truths, recalls[order])  # (B, R)
    row = weight.take(chosen.live_image, axis=1)
    before = _running(weight, chosen.steady_image).take(chosen.steady_before, axis=1) + np.spacing(1.0)
    if chosen.share:
        before += chosen.share * shared.take(chosen.shared_before, axis=1)
    varying = np.zeros((count, len(chosen.varying_image) + 1))
    varying_row = weight.take(chosen.varying_image, axis=1)
    found, all_of = np.empty_like(row), np.empty_like(before)
    # One more column, of precision 0, is where a recall that is not reached is looked up.
    precision = np.zeros((count, live + 1))
    for t, true in enumerate(chosen.true):
        np.cumsum(np.multiply(row, true, out=found), axis=1, out=found)
        np.cumsum(varying_row * chosen.varying_by[t], axis=1, out=varying[:, 1:])
        varying.take(chosen.varying_before, axis=1, out=all_of, mode="clip")
        all_of += before
        np.divide(found, all_of, out=precision[:, :-1])
        out[0, :, t] = _at_recalls(precision, found, least, order)
        out[1, :, t] = found[:, -1] / np.maximum(truths, 1)
    out[:, truths == 0] = 0
    return out


def _at_recalls(precision: Floats, found: Weights, least: Weights, order: Ints) -> Floats:
    """(B,) mean over recalls of the greatest precision (B, L + 1) from where `least` (B, R) are `found` (B, L) on.

    `least` ascends; `order` (R,) is the place of each in the list of recalls, which ends at the first unreached.
    """
    count, live = found.shape
    # One search for all rows: each row's counts begin where the last one's cannot reach.
    reach = max(int(found[:, -1].max()), int(least[:, -1].max())) + 1
    offset = np.arange(count, dtype=np.int32)[:, None] * np.int32(reach)
    nth = np.searchsorted((found + offset).ravel(), (least + offset).ravel()).reshape(least.shape)
    row = np.arange(count)[:, None]
    nth -= row * live
    # Maxima of the pieces between these places, all rows in a row; a row's last piece is the added column's, and more.
    places = np.empty((count, least.shape[1] + 1), np.int64)
    np.add(nth, row * (live + 1), out=places[:, :-1])
    places[:, -1:] = row * (live + 1) + live
    pieces = np.maximum.reduceat(precision.ravel(), places.ravel()).reshape(places.shape)[:, :-1]
    best, reached = np.empty(least.shape), np.empty(least.shape, np.bool_)
    best[:, order] = np.maximum.accumulate(pieces[:, ::-1], axis=1)[:, ::-1]
    reached[:, order] = nth < live
    return np.asarray((best * np.logical_and.accumulate(reached, axis=1)).sum(axis=1) / least.shape[1])


def _needed(truths: Ints, recall_thresholds: Floats) -> Weights:
    """(B, R) the least number found of `truths` (B,) whose quotient, as a float, is not below each recall."""
    all_of = np.maximum(truths, 1)[:, None].astype(np.float64)
    least = np.maximum(np.ceil(recall_thresholds * all_of), 0)
    least -= ((least - 1) / all_of >= recall_thresholds) & (least > 0)
    least += least / all_of < recall_thresholds
    return least.astype(np.int32)
