"""Is one model of single people better than another? Means over people, both on the same resamples of the images.

The paired bootstrap of `kpdata.eval.comparison`, with the resamples of `points.resampling`. All differences are B minus
A: above 0 B is better, of EPE and NME (and of `missing`) below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap
from kpdata.eval.comparison import KEYPOINTS, SLICES, Differences, as_columns, clear, differences, points, verdict
from kpdata.eval.points import PointsEvaluation
from kpdata.eval.points.resampling import LESS, Resampler
from kpdata.eval.slices import Slicing, slicings
from kpdata.eval.wording import many

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
_CHANGED = {"EPE": 1.0, "NME": 0.01}  # px, lengths; of shares 0.05: less does not count as better or worse


@dataclass(frozen=True)
class PointsComparison:
    """Two sets of predictions for the same single people, by one metric.

    names, numbers: every number, by the names of `PointsEvaluation.stats`; shares, EPE in pixels. keypoints: table of
    `comparison.KEYPOINTS`, the metric's first number of each keypoint (or limb). slices: table of `comparison.SLICES`,
    that number of kinds of people, those that B lost most first. people:
    table of `PEOPLE`: everybody with a measured keypoint, those that B lost most first: mean of the first number over
    their `measured` keypoints in A and in B, null where nothing was predicted (EPE, NME), and whether they have a
    prediction at all. p-values are each of one test.
    """

    metric: str
    names: tuple[str, ...]
    numbers: Differences
    keypoints: pa.Table
    slices: pa.Table
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
            less_is_better=self.metric in LESS,
        )  # fmt: skip

    @property
    def what(self) -> str:
        """What the rows of `keypoints` are."""
        return "limb" if self.metric == "PCP" else "keypoint"

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
            *clear(self.what, self.keypoints, ("keypoint",), self, self.shown),
            *clear("slice", self.slices, ("by", "slice"), self, self.shown),
            f"{many(self.people.num_rows, 'person', 'people')}: {self.names[0]} more than {step} better in B for "
            f"{better:,}, worse for {worse:,}; predicted by A alone {int((alone[0] & ~alone[1]).sum()):,}, by B alone "
            f"{int((alone[1] & ~alone[0]).sum()):,}",
        ]

    def plot(self, path: Path | str, *, about: str = "", force: bool = False) -> None:
        """Write a picture of the differences with their intervals (`report.plots.plot_comparison`). Of EPE, in pixels,
        `missing` is left out: it is a share. about: further lines above it."""
        from kpdata.eval.report.plots import plot_comparison

        less = self.names if self.metric in LESS else ("missing",)
        pixels = self.metric == "EPE"
        plot_comparison(
            self,
            Path(path),
            about=about,
            measure=f"{self.what.capitalize()}s, {self.names[0]}",
            less=less,
            pixels=pixels,
            force=force,
        )

    def _changed(self) -> tuple[int, int]:
        """People who got better, and worse."""
        change = schema.values(self.people["change"]) * (-1 if self.metric in LESS else 1)
        least = _CHANGED.get(self.metric, 0.05)
        return int((change > least).sum()), int((change < -least).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the keys of `Comparison.to_json`: of the people counts and the ten that changed most."""
        columns = {name: values.tolist() for name, values in self.numbers.columns().items()}
        rows = [row for row in self.people.to_pylist() if row["change"]]
        sign = -1 if self.metric in LESS else 1
        better, worse = self._changed()
        return {
            "verdict": self.verdict(),
            "stats": {name: {k: v[i] for k, v in columns.items()} for i, name in enumerate(self.names)},
            "keypoints": self.keypoints.to_pylist(),
            "slices": self.slices.to_pylist(),
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
    a: PointsEvaluation,
    b: PointsEvaluation,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    by: str | Sequence[str] | None = None,
) -> PointsComparison:
    """Two evaluations of one ground truth by one metric: every number's difference, its interval and p-value.

    n: resamples of the images of scored people; by: slices as in `kpdata.eval.slices.slices`. Raises EvaluationError
    where metric, its variant, length or threshold, or the people are not the same, and as `slices`.
    """
    bootstrap.check_settings(n, seed, level)
    notes = _same(a, b)
    one, two = (Resampler(side.points, side.measured) for side in (a, b))
    of_a, of_b = (side.sampled(n, seed) for side in (one, two))
    means, each = (
        differences((of_a[0][at], of_a[1][at]), (of_b[0][at], of_b[1][at]), level, images)
        for at, images in enumerate(one.images_with())
    )
    return PointsComparison(
        metric=a.metric,
        names=tuple(one.names),
        numbers=means,
        keypoints=_keypoints(a, each),
        slices=_slices(a, b, slicings(a.why.part, a.points.gt, by), (n, seed, level)),
        people=_people(a, b, schema.take(a.points.gt.persons, a.points.truth_rows)),
        images=one.images,
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
    if a.metric in LESS and a.stats["missing"] != b.stats["missing"]:
        shares = [f"{side.stats['missing']:.1%}" for side in (a, b)]
        notes.append(
            f"{a.metric} does not see what was not predicted: {shares[0]} of the labelled keypoints in A, {shares[1]} "
            "in B"
        )
    return tuple(notes)


# ---------------------------------------------------------------------------------------------------------- where it is


def _keypoints(a: PointsEvaluation, found: Differences) -> pa.Table:
    names = a.measured.columns.names
    columns = {
        "skeleton": schema.constant(a.points.skeleton.name, len(names)),
        "keypoint": schema.strings(names),
        "labelled": schema.fixed(a.measured.labelled, pa.int64()),
    }
    return schema.table(KEYPOINTS, len(names), columns | as_columns(found))


def _slices(
    a: PointsEvaluation, b: PointsEvaluation, kinds: Sequence[Slicing], draws: tuple[int, int, float]
) -> pa.Table:
    """The first number of each slice that has people, those that B lost most first."""
    n, seed, level = draws
    someone = (a.measured.measured | b.measured.measured).any(axis=1)
    image = schema.values(a.points.gt.persons["image_id"])[a.points.truth_rows]
    names, people, images, found = [], [], [], []
    for kind in kinds:
        for number, label in enumerate(kind.labels):
            if (chosen := someone & (kind.person == number)).any():
                names.append((kind.name, label))
                people.append(int(chosen.sum()))
                images.append(len(np.unique(image[chosen])))
                found.append([Resampler(side.points, side.measured, chosen).sampled(n, seed) for side in (a, b)])
    if not found:
        return schema.table(SLICES, 0, {})
    one, two = (
        (np.array([side[i][0][0][0] for side in found]), np.stack([side[i][1][0][:, 0] for side in found], axis=1))
        for i in (0, 1)
    )
    change = differences(one, two, level, np.array(images))
    columns = {
        "skeleton": schema.constant(a.points.skeleton.name, len(names)),
        "by": schema.strings([name for name, _ in names]),
        "slice": schema.strings([label for _, label in names]),
        "people": schema.fixed(np.array(people), pa.int64()),
    }
    table = schema.table(SLICES, len(names), columns | as_columns(change))
    return schema.take(table, np.argsort(-change.delta if a.metric in LESS else change.delta, kind="stable"))


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
    rows = np.argsort(-change if a.metric in LESS else change, kind="stable")
    return schema.take(schema.table(PEOPLE, len(people), columns), rows[measured[rows] > 0])
