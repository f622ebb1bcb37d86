"""The numbers of single people on resampled images: how sure they are, of everybody and of kinds of people.

The percentile bootstrap of `kpdata.eval.bootstrap`, on the same resamples for the same seed. PCKh, PCK, PCP, AUC, EPE
and NME of a keypoint are means over people, so that a resample is a weight an image: sums of what the images' people
add. A median is the value in the middle of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.eval import bootstrap
from kpdata.eval.bootstrap import Intervals, Weights
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.points.measures import Measured
from kpdata.eval.points.people import Points
from kpdata.eval.slices import Slicing

SLICES = pa.schema(
    [
        ("by", pa.string()),
        ("slice", pa.string()),
        ("people", pa.int64()),
        ("images", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("mean", pa.float64()),
        ("missing", pa.float64()),
        ("error_px_median", pa.float64()),
        ("error_px_p90", pa.float64()),
    ]
)
LESS = ("EPE", "NME")  # metrics of which less is better


class Resampler:
    """What every image adds to every number of one evaluation, for all of its people or for some."""

    def __init__(self, points: Points, measured: Measured, chosen: Bools | None = None) -> None:
        """chosen (N,): the people that count."""
        ids = schema.values(points.gt.persons["image_id"])[points.truth_rows]
        images, row = np.unique(ids, return_inverse=True)
        self.images, self.measured, self._row = len(images), measured, row
        used = np.ones(len(row), bool) if chosen is None else chosen
        each = {name: np.where(used[:, None], values, np.nan) for name, values in measured.each.items()}
        self._sums = {name: self._summed(values) for name, values in each.items()}
        counted = measured.measured & used[:, None]
        self._silent = self._of_images(measured.silent & used[:, None]), self._of_images(counted)
        self._ranked = {name: self._sorted(each[of]) for name, of in measured.medians.items()}

    @property
    def names(self) -> list[str]:
        """(C,) the keys of `PointsEvaluation.stats`, in its order: headlines, columns of the first number, missing."""
        columns = (*self.measured.columns.groups, *self.measured.pooled)
        return [*self.measured.values, "mean", "total", *columns, "missing"]

    def numbers(self, weight: Weights) -> tuple[Floats, Floats]:
        """(B, C) numbers of `names`, (B, L) values of each keypoint in the first; weight (B, I). NaN: nobody."""
        measured, weights = self.measured, weight.astype(np.float64)
        scored = measured.columns.in_mean
        many = {name: (weights @ total, weights @ count) for name, (total, count) in self._sums.items()}
        headline = _mean if measured.headline == "mean" else _total
        heads = [
            self._median(name, weight) if name in self._ranked else headline(*many[name], scored)
            for name in measured.values
        ]
        total, count = next(iter(many.values()))
        with np.errstate(invalid="ignore"):
            values = total / count
        groups = [values[:, members].mean(axis=1) for members in measured.columns.groups.values()]
        chosen = (np.isin(np.arange(values.shape[1]), members) for members in measured.pooled.values())
        pooled = [_total(total, count, members) for members in chosen]
        silent, counted = (weights @ part for part in self._silent)
        missing = _total(silent, counted, scored)
        means = _mean(total, count, scored), _total(total, count, scored)
        return np.stack([*heads, *means, *groups, *pooled, missing], axis=1), values

    def sampled(self, n: int, seed: int) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """The numbers (C,) and (L,) as they are, and those of `n` resamples (n, C) and (n, L)."""
        once = self.numbers(np.ones((1, self.images), np.int32))
        drawn = tuple(np.empty((n, values.shape[1])) for values in once)
        for start, weight in bootstrap.drawn(n, self.images, seed):
            for store, block in zip(drawn, self.numbers(weight), strict=True):
                store[start : start + len(block)] = block
        return (once[0][0], once[1][0]), (drawn[0], drawn[1])

    def images_with(self) -> tuple[Ints, Ints]:
        """(C,) and (L,): on how many images something is measured of each of `numbers`."""
        some, columns = self._silent[1] > 0, self.measured.columns
        all_scored = np.flatnonzero(columns.in_mean)
        heads: list[Any] = [all_scored] * (len(self.measured.values) + 2)
        members = [*heads, *columns.groups.values(), *self.measured.pooled.values(), all_scored]
        return np.array([some[:, chosen].any(axis=1).sum() for chosen in members]), some.sum(axis=0)

    def _summed(self, values: Floats) -> tuple[Floats, Floats]:
        return self._of_images(np.nan_to_num(values)), self._of_images(~np.isnan(values))

    def _of_images(self, values: Floats | Bools) -> Floats:
        """(I, L) sums over the people (N, L) of each image."""
        total = np.zeros((self.images, values.shape[1]))
        np.add.at(total, self._row, values)
        return total

    def _sorted(self, values: Floats) -> tuple[Floats, Ints]:
        """All measured values in the means, ascending, and the image of each."""
        scored = values[:, self.measured.columns.in_mean]
        flat, image = scored.ravel(), np.repeat(self._row, scored.shape[1])
        known = np.flatnonzero(~np.isnan(flat))
        order = known[np.argsort(flat[known], kind="stable")]
        return flat[order], image[order]

    def _median(self, name: str, weight: Weights) -> Floats:
        """(B,) the mean of the two values in the middle, each standing as often as its image was drawn."""
        values, image = self._ranked[name]
        out = np.full(len(weight), np.nan)
        for b, row in enumerate(weight):  # one resample at a time: all together would not fit the cache
            reached = np.cumsum(row[image], dtype=np.int64)
            if len(reached) and (total := int(reached[-1])):
                low, high = np.searchsorted(reached, [(total - 1) // 2, total // 2], side="right")
                out[b] = (values[low] + values[high]) / 2
        return out


def _mean(total: Floats, count: Floats, scored: Bools) -> Floats:
    """(B,) mean over the scored keypoints that somebody has, each weighing the same."""
    used = scored & (count > 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(used, total / count, 0).sum(axis=1) / used.sum(axis=1))


def _total(total: Floats, count: Floats, scored: Bools) -> Floats:
    """(B,) mean over all measured keypoints of all people."""
    with np.errstate(invalid="ignore"):
        return np.asarray(total[:, scored].sum(axis=1) / count[:, scored].sum(axis=1))


def intervals(points: Points, measured: Measured, n: int, seed: int, level: float) -> Intervals:
    """Percentile intervals of every number; arguments and errors as of `kpdata.eval.bootstrap.bootstrap`."""
    bootstrap.check_settings(n, seed, level)
    resampler = Resampler(points, measured)
    (value, _), (samples, _) = resampler.sampled(n, seed)
    images = resampler.images_with()[0]
    low, high = bootstrap.percentiles(samples, level, images)
    return Intervals(tuple(resampler.names), value, low, high, samples, level, seed, images)


# --------------------------------------------------------------------------------------------------------------- slices


def slices(
    points: Points,
    measured: Measured,
    kinds: Sequence[Slicing],
    far: Floats,
    less_is_better: bool,
    *,
    n: int = 0,
    seed: int = 0,
    level: float = 0.95,
) -> pa.Table:
    """A row of `SLICES` a slice with measured people, the worst first.

    `value`, `low` … `high` (null without resamples `n`) are the metric's first number, `mean` its mean over keypoints,
    `missing` the share of labelled keypoints without a prediction; `error_px_median` and `_p90` of the distances far
    (N, K) of labelled keypoints that were predicted, in pixels (far is inf where they were not). A person outside a
    slice counts nowhere in it, so that the first number of the whole lies between those of its slices.
    """
    if n:
        bootstrap.check_settings(n, seed, level)
    someone = measured.measured.any(axis=1)
    image = schema.values(points.gt.persons["image_id"])[points.truth_rows]
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        for number, label in enumerate(kind.labels):
            chosen = someone & (kind.person == number)
            if chosen.any():
                told = {"people": int(chosen.sum()), "images": len(np.unique(image[chosen]))}
                of_slice = _of_slice(Resampler(points, measured, chosen), far[chosen], n, seed, level)
                rows.append({"by": kind.name, "slice": label, **told, **of_slice})
    worst = np.array([row["value"] for row in rows]) * (-1 if less_is_better else 1)
    rows = [rows[at] for at in np.argsort(worst, kind="stable").tolist()]
    columns = {}
    for field in SLICES:
        values = [row[field.name] for row in rows]
        if field.type == pa.string():
            columns[field.name] = schema.strings(values)
        else:
            numbers = np.array(values, np.float64 if field.type == pa.float64() else np.int64)
            columns[field.name] = schema.fixed(numbers, field.type, ~np.isnan(numbers))
    return schema.table(SLICES, len(rows), columns)


def _of_slice(resampler: Resampler, far: Floats, n: int, seed: int, level: float) -> dict[str, float]:
    """The numbers of one slice."""
    names = resampler.names
    once = resampler.numbers(np.ones((1, resampler.images), np.int32))[0][0]
    low = high = np.nan
    if n:
        _, (samples, _) = resampler.sampled(n, seed)
        ends = bootstrap.percentiles(samples[:, :1], level, resampler.images_with()[0][:1])
        low, high = (float(end[0]) for end in ends)
    predicted = np.sort(far[np.isfinite(far)])
    return {
        "value": float(once[0]),
        "low": low,
        "high": high,
        "mean": float(once[names.index("mean")]),
        "missing": float(once[names.index("missing")]),
        "error_px_median": quantile(predicted, 0.5),
        "error_px_p90": quantile(predicted, 0.9),
    }


def quantile(ordered: Floats, level: float) -> float:
    """Of finite ascending values, between neighbours as np.quantile does; NaN of none."""
    if not len(ordered):
        return np.nan
    place = (len(ordered) - 1) * level
    low, high = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
    return float(low + (high - low) * (place - int(place)))
