"""Is one model of single people better than another? Means over people, both on the same resamples of the images.

The paired bootstrap of `kpdata.eval.comparison`. PCKh, PCK, PCP, AUC, EPE and NME of a keypoint are means over people,
so that a resample is a weight an image; means over keypoints are made of these as in the score. Medians are not
compared. All differences are B minus A: above 0 B is better, of EPE and NME below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap
from kpdata.eval.comparison import KEYPOINTS, Differences, as_columns, clear, differences, points, verdict
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.points import PointsEvaluation

PEOPLE = pa.schema(
    [
        ("annotation_id", pa.int64()),
        ("image_id", pa.int64()),
        ("measured", pa.int64()),
        ("value_a", pa.float64()),
        ("value_b", pa.float64()),
        ("predicted_a", pa.bool_()),
        ("predicted_b", pa.bool_()),
        ("change", pa.float64()),
    ]
)
_LESS = ("EPE", "NME")  # metrics of which less is better
_CHANGED = {"EPE": 1.0, "NME": 0.01}  # px, lengths; of shares 0.05: less does not count as better or worse


@dataclass(frozen=True)
class PointsComparison:
    """Two sets of predictions for the same single people, by one metric.

    names, numbers: every number that is a mean, by the names of `PointsEvaluation.stats` without medians; shares, EPE
    in pixels. keypoints: table of `comparison.KEYPOINTS`, the metric's first number of each keypoint (or limb). people:
    table of `PEOPLE`: everybody with a measured keypoint, those that B lost most first: mean of the first number over
    their `measured` keypoints in A and in B, null where nothing was predicted (EPE, NME), and whether they have a
    prediction at all. p-values are each of one test.
    """

    metric: str
    names: tuple[str, ...]
    numbers: Differences
    keypoints: pa.Table
    people: pa.Table
    images: int
    resamples: int
    seed: int
    level: float
    notes: tuple[str, ...] = ()

    def verdict(self) -> str:
        """The answer in one sentence, by the first number."""
        if np.isnan(self.numbers.delta[0]):
            return f"no {self.names[0]} to compare: nothing was measured in both"
        return verdict(
            self.names[0], self.numbers, self.resamples, self.images, self.level, shown=self.shown,
            less_is_better=self.metric in _LESS,
        )  # fmt: skip

    def shown(self, difference: float) -> str:
        """A difference with its sign: points of 100, EPE in pixels."""
        return f"{difference:+.2f} px".replace("-", "−") if self.metric == "EPE" else points(difference)

    def lines(self) -> list[str]:
        """The verdict, then the keypoints that differ beyond chance, and how many people changed."""
        better, worse = self._changed()
        least = _CHANGED.get(self.metric, 0.05)
        step = f"{least:g} px" if self.metric == "EPE" else f"{100 * least:g} points"
        alone = [schema.values(self.people[f"predicted_{side}"]) for side in "ab"]
        return [
            self.verdict(),
            *clear("keypoint", self.keypoints, ("keypoint",), self.level, self.shown),
            f"{self.people.num_rows:,} people: {self.names[0]} more than {step} better in B for {better:,}, worse for "
            f"{worse:,}; predicted by A alone {int((alone[0] & ~alone[1]).sum()):,}, by B alone "
            f"{int((alone[1] & ~alone[0]).sum()):,}",
        ]

    def _changed(self) -> tuple[int, int]:
        """People who got better, and worse."""
        change = schema.values(self.people["change"]) * (-1 if self.metric in _LESS else 1)
        least = _CHANGED.get(self.metric, 0.05)
        return int((change > least).sum()), int((change < -least).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the keys of `Comparison.to_json`: of the people counts and the ten that changed most."""
        columns = {name: values.tolist() for name, values in self.numbers.columns().items()}
        rows = [row for row in self.people.to_pylist() if row["change"]]
        sign = -1 if self.metric in _LESS else 1
        better, worse = self._changed()
        return {
            "verdict": self.verdict(),
            "stats": {name: {k: v[i] for k, v in columns.items()} for i, name in enumerate(self.names)},
            "keypoints": self.keypoints.to_pylist(),
            "people": {
                "count": self.people.num_rows,
                "better": better,
                "worse": worse,
                "most_worse": [row for row in rows[:10] if sign * row["change"] < 0],
                "most_better": [row for row in rows[:-11:-1] if sign * row["change"] > 0],
            },
            "images": self.images,
            "resamples": self.resamples,
            "seed": self.seed,
            "level": self.level,
            "notes": list(self.notes),
        }


def compare_points(
    a: PointsEvaluation, b: PointsEvaluation, n: int = 1000, seed: int = 0, level: float = 0.95
) -> PointsComparison:
    """Two evaluations of one ground truth by one metric: every mean's difference, its interval and p-value.

    n: resamples of the images of scored people. Raises EvaluationError where metric, its variant, length or threshold,
    or the people are not the same.
    """
    bootstrap.check_settings(n, seed, level)
    notes = _same(a, b)
    people = schema.take(a.points.gt.persons, a.points.truth_rows)
    image_id = schema.values(people["image_id"])
    images, row = np.unique(image_id, return_inverse=True)
    sums = [_sums(side, row, len(images)) for side in (a, b)]
    once = np.ones((1, len(images)))
    drawn = [(_numbers(side, sums_of, once), _Samples(side, n)) for side, sums_of in zip((a, b), sums, strict=True)]
    for start, weight in bootstrap.drawn(n, len(images), seed):
        for side, sums_of, (_, samples) in zip((a, b), sums, drawn, strict=True):
            samples.put(start, _numbers(side, sums_of, weight.astype(np.float64)))
    of_a, of_b = ((value, samples) for value, samples in drawn)
    means, each = (
        differences((of_a[0][at][0], of_a[1].values[at]), (of_b[0][at][0], of_b[1].values[at]), level) for at in (0, 1)
    )
    return PointsComparison(
        metric=a.metric,
        names=tuple(_names(a)),
        numbers=means,
        keypoints=_keypoints(a, each),
        people=_people(a, b, people),
        images=len(images),
        resamples=n,
        seed=seed,
        level=level,
        notes=notes,
    )


def _same(a: PointsEvaluation, b: PointsEvaluation) -> tuple[str, ...]:
    """Notes about what makes the two less than comparable. EvaluationError where they are not at all."""
    if a.metric != b.metric:
        raise EvaluationError(f"A was scored by {a.metric}, B by {b.metric}", hint="score both by one metric")
    for key in ("variant", "thresholds", "normalizer", "skeleton"):
        if a.facts[key] != b.facts[key]:
            raise EvaluationError(
                f"A and B were scored by other rules: {key} {a.facts[key]!r} and {b.facts[key]!r}",
                hint="score both with the same options",
            )
    ids = [schema.values(side.points.gt.persons["annotation_id"])[side.points.truth_rows] for side in (a, b)]
    if not np.array_equal(ids[0], ids[1]) or not np.array_equal(a.points.truth, b.points.truth, equal_nan=True):
        raise EvaluationError(
            "A and B were scored on other people, so that their numbers cannot be compared",
            hint="evaluate both against one ground truth",
        )
    notes = []
    if not np.array_equal(a.points.labelled, b.points.labelled):
        notes.append("A and B were scored on other keypoints (one of them lacks some): their numbers differ in kind")
    if a.metric in _LESS and a.stats["missing"] != b.stats["missing"]:
        shares = [f"{side.stats['missing']:.1%}" for side in (a, b)]
        notes.append(
            f"{a.metric} does not see what was not predicted: {shares[0]} of the labelled keypoints in A, {shares[1]} "
            "in B"
        )
    return tuple(notes)


# -------------------------------------------------------------------------------------------------------------- numbers

_Sums = dict[str, tuple[Floats, Floats]]  # by number: sums and counts (I, L) of the images' people


def _sums(side: PointsEvaluation, row: Ints, images: int) -> _Sums:
    found = {}
    for name, values in side.measured.each.items():
        totals = np.zeros((2, images, values.shape[1]))
        np.add.at(totals[0], row, np.nan_to_num(values))
        np.add.at(totals[1], row, ~np.isnan(values))
        found[name] = totals[0], totals[1]
    return found


def _names(side: PointsEvaluation) -> list[str]:
    """Of the numbers: each headline, then the other columns of the first one."""
    return [*side.measured.each, "mean", "total", *side.measured.columns.groups, *side.measured.pooled]


class _Samples:
    """The numbers (n, C) and the keypoints (n, L) of all resamples, filled block by block."""

    def __init__(self, side: PointsEvaluation, n: int) -> None:
        keypoints = len(side.measured.columns.names)
        self.values = np.empty((n, len(_names(side)))), np.empty((n, keypoints))

    def put(self, start: int, found: tuple[Floats, Floats]) -> None:
        """Take the next resamples."""
        for store, block in zip(self.values, found, strict=True):
            store[start : start + len(block)] = block


def _numbers(side: PointsEvaluation, sums: _Sums, weight: Floats) -> tuple[Floats, Floats]:
    """(B, C) numbers of `_names`, (B, L) values of each keypoint in the first; weight (B, I). As `Measured.summary`."""
    measured = side.measured
    scored = measured.columns.in_mean
    headlines, first = [], None
    for total, count in sums.values():
        many = weight @ total, weight @ count
        mean, overall = _mean(*many, scored), _total(*many, scored)
        headlines.append(mean if measured.headline == "mean" else overall)
        first = first or (many, mean, overall)
    assert first is not None  # every metric has a number
    (total, count), mean, overall = first
    with np.errstate(invalid="ignore"):
        values = total / count
    groups = [values[:, members].mean(axis=1) for members in measured.columns.groups.values()]
    chosen = (np.isin(np.arange(values.shape[1]), members) for members in measured.pooled.values())
    pooled = [_total(total, count, members) for members in chosen]
    return np.stack([*headlines, mean, overall, *groups, *pooled], axis=1), values


def _mean(total: Floats, count: Floats, scored: Bools) -> Floats:
    """(B,) mean over the scored keypoints that somebody has, each weighing the same."""
    used = scored & (count > 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(used, total / count, 0).sum(axis=1) / used.sum(axis=1))


def _total(total: Floats, count: Floats, scored: Bools) -> Floats:
    """(B,) mean over all measured keypoints of all people."""
    with np.errstate(invalid="ignore"):
        return np.asarray(total[:, scored].sum(axis=1) / count[:, scored].sum(axis=1))


# ---------------------------------------------------------------------------------------------------------- where it is


def _keypoints(a: PointsEvaluation, found: Differences) -> pa.Table:
    names = a.measured.columns.names
    columns = {
        "skeleton": schema.constant(a.points.skeleton.name, len(names)),
        "keypoint": schema.strings(names),
        "labelled": schema.fixed(a.measured.labelled, pa.int64()),
    }
    return schema.table(KEYPOINTS, len(names), columns | as_columns(found))


def _people(a: PointsEvaluation, b: PointsEvaluation, people: pa.Table) -> pa.Table:
    """Everybody with a measured keypoint in one of the two, those that B lost most first, unknown changes last."""
    columns = {name: schema.chunk(people[name]) for name in ("annotation_id", "image_id")}
    values, measured = [], np.zeros(len(people), np.int64)
    for name, side in (("a", a), ("b", b)):
        each = next(iter(side.measured.each.values()))[:, side.measured.columns.in_mean]
        known = ~np.isnan(each)
        measured = np.maximum(measured, known.sum(axis=1))
        with np.errstate(invalid="ignore"):
            values.append(np.where(known, each, 0).sum(axis=1) / known.sum(axis=1))
        columns[f"value_{name}"] = schema.fixed(values[-1], pa.float64(), ~np.isnan(values[-1]))
        columns[f"predicted_{name}"] = schema.fixed(side.points.prediction_rows >= 0, pa.bool_())
    change = values[1] - values[0]
    columns["measured"] = schema.fixed(measured, pa.int64())
    columns["change"] = schema.fixed(change, pa.float64(), ~np.isnan(change))
    rows = np.argsort(-change if a.metric in _LESS else change, kind="stable")
    return schema.take(schema.table(PEOPLE, len(people), columns), rows[measured[rows] > 0])
