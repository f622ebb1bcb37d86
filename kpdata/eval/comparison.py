"""Is the difference between two models real? Both on the same resamples of the same images.

A paired bootstrap: each resample of the images gives both models' numbers, and their difference. Images that are hard
for both move both numbers alike and cancel, so that a difference shows which two separate intervals would hide (Efron &
Tibshirani, An Introduction to the Bootstrap, 1993). All differences are B minus A: above 0, B is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap
from kpdata.eval.evaluation import Evaluation
from kpdata.eval.keypoints import sigma_units
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Pairing, Part, pair
from kpdata.eval.shares import divided, resampled_shares, sliced_shares
from kpdata.eval.slices import Slicing, people_of, sliced_matches, slicings
from kpdata.eval.wording import many

if TYPE_CHECKING:
    from kpdata.eval.points import PointsEvaluation
    from kpdata.eval.points.comparison import PointsComparison

_DIFFERENCE = [(name, pa.float64()) for name in ("a", "b", "delta", "low", "high", "p")]
KEYPOINTS = pa.schema([("skeleton", pa.string()), ("keypoint", pa.string()), ("labelled", pa.int64()), *_DIFFERENCE])
SLICES = pa.schema(
    [("skeleton", pa.string()), ("by", pa.string()), ("slice", pa.string()), ("people", pa.int64()), *_DIFFERENCE]
)
PEOPLE = pa.schema(
    [
        ("annotation_id", pa.int64()),
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("oks_a", pa.float64()),
        ("oks_b", pa.float64()),
        ("score_a", pa.float64()),
        ("score_b", pa.float64()),
        ("change", pa.float64()),
    ]
)
CHANGED = 0.05  # OKS: a step of COCO's thresholds; people who change less are not counted as better or worse


def points(share: float) -> str:
    """A difference of shares in points of 100, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Differences:
    """Values a and b (C,), delta b - a, its percentile interval low … high, and the two-sided p-value; NaN where either
    has nothing to average."""

    a: Floats
    b: Floats
    delta: Floats
    low: Floats
    high: Floats
    p: Floats

    def columns(self) -> dict[str, Floats]:
        """By name, in order."""
        return {name: getattr(self, name) for name in ("a", "b", "delta", "low", "high", "p")}


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions on the same ground truth.

    numbers: the ten, or AI Challenger's three, in the order of `names`. keypoints, slices, people: tables of
    `KEYPOINTS` (mean OKS term of the labelled keypoints, 0 where the person was missed), `SLICES` (AP, or AI
    Challenger's mAP; see `kpdata.eval.slices`, `kpdata.eval.shares`) and `PEOPLE`, everybody that counts, those that B
    lost most first; OKS 0 and no score where nobody was predicted at OKS 0.1 or more.
    p-values of keypoints and slices are each of one test: of twenty without a difference one falls below 0.05.
    """

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
        """The answer in one sentence, by AP."""
        if np.isnan(self.numbers.delta[0]):
            return f"no {self.names[0]} to compare: nobody in the ground truth can be scored"
        return verdict(self.names[0], self.numbers, self.resamples, self.images, self.level)

    def lines(self) -> list[str]:
        """The verdict, then what differs beyond chance, and how many people changed."""
        change = schema.values(self.people["change"])
        better, worse = int((change > CHANGED).sum()), int((change < -CHANGED).sum())
        out = [self.verdict()]
        out += clear("keypoint", self.keypoints, ("keypoint",), self)
        out += clear("slice", self.slices, ("by", "slice"), self)
        out.append(
            f"{many(len(change), 'person', 'people')}: OKS more than {CHANGED} better in B for {better:,}, worse for "
            f"{worse:,}; found by A alone {_alone(self.people, 'a'):,}, by B alone {_alone(self.people, 'b'):,}"
        )
        return out

    def plot(self, path: Path | str, *, about: str = "", force: bool = False) -> None:
        """Write a picture of the differences of numbers, slices and keypoints with their intervals, .png, .pdf, .svg …
        (`report.plots.plot_comparison`). about: further lines above it."""
        from kpdata.eval.report.plots import plot_comparison

        plot_comparison(self, Path(path), about=about, measure="Keypoints, mean OKS term", force=force)

    def to_json(self) -> dict[str, Any]:
        """Plain data: numbers, keypoints and slices whole; of the people counts and the ten that changed most."""
        columns = {name: values.tolist() for name, values in self.numbers.columns().items()}
        rows = self.people.to_pylist()
        change = schema.values(self.people["change"])
        return {
            "verdict": self.verdict(),
            "stats": {name: {k: v[i] for k, v in columns.items()} for i, name in enumerate(self.names)},
            "keypoints": self.keypoints.to_pylist(),
            "slices": self.slices.to_pylist(),
            "people": {
                "count": len(rows),
                "better": int((change > CHANGED).sum()),
                "worse": int((change < -CHANGED).sum()),
                "most_worse": [row for row in rows[:10] if row["change"] < 0],
                "most_better": [row for row in rows[:-11:-1] if row["change"] > 0],
            },
            "images": self.images,
            "resamples": self.resamples,
            "seed": self.seed,
            "level": self.level,
            "notes": list(self.notes),
        }


def verdict(
    name: str,
    numbers: Differences,
    resamples: int,
    images: int,
    level: float,
    *,
    shown: Callable[[float], str] = points,
    less_is_better: bool = False,
) -> str:
    """Which model is better, if any, by the first of the numbers: one sentence."""
    delta, low, high, p = (float(getattr(numbers, column)[0]) for column in ("delta", "low", "high", "p"))
    sign = "≤" if p <= 2 / (resamples + 1) else "="
    interval = f"{100 * level:g} % interval {shown(low)} … {shown(high)}"
    told = f"{name} {shown(delta)} ({interval}, p {sign} {p:.2g})"
    if p >= 1 - level:
        return f"no difference that {many(images, 'image')} could show: {told}"
    return f"{'B' if (delta < 0) == less_is_better else 'A'} is better: {told}"


def clear(
    what: str,
    table: pa.Table,
    keys: tuple[str, ...],
    of: Comparison | PointsComparison,
    shown: Callable[[float], str] = points,
) -> list[str]:
    """One line about the rows of a table of `of` that differ (`beyond_chance`), the greatest difference first."""
    p = schema.values(table["p"])
    known = int((~np.isnan(p)).sum())
    if not known:
        return []
    chosen = np.flatnonzero(beyond_chance(p, of.level))
    if not len(chosen):
        few = np.nanmin(p) <= 2 / (1 + of.resamples)  # the least there can be of so many resamples
        why = f", as {many(of.resamples, 'resample is', 'resamples are')} too few to show for so many" if few else ""
        return [f"no {what} of {known} differs beyond chance{why}"]
    found = sorted(schema.take(table, chosen).to_pylist(), key=lambda row: -abs(float(row["delta"])))
    told = ", ".join(f"{' '.join(row[key] for key in keys)} {shown(row['delta'])}" for row in found[:5])
    return [f"{what}s that differ beyond chance, {len(found)} of {known}: {told}"]


def beyond_chance(p: Floats, level: float) -> Bools:
    """(R,) the tests, of these p-values, that differ: so many that at most 1 - level of them are chance (Benjamini &
    Hochberg, *Controlling the False Discovery Rate*, J. R. Stat. Soc. B 57, 1995). NaN is no test."""
    order = np.argsort(p, kind="stable")  # NaN last
    known = int((~np.isnan(p)).sum())
    passed = np.flatnonzero(p[order[:known]] <= (1 - level) * np.arange(1, known + 1) / max(known, 1))
    found = np.zeros(len(p), np.bool_)
    found[order[: passed.max(initial=-1) + 1]] = True
    return found


def _alone(people: pa.Table, who: str) -> int:
    """People whom only one of the two found."""
    found = {side: schema.valid(people[f"score_{side}"]) for side in "ab"}
    return int((found[who] & ~found["b" if who == "a" else "a"]).sum())


@overload
def compare(
    a: Evaluation, b: Evaluation, n: int = ..., seed: int = ..., *, level: float = ...,
    by: str | Sequence[str] | None = ...,
) -> Comparison: ...  # fmt: skip


@overload
def compare(
    a: PointsEvaluation,
    b: PointsEvaluation,
    n: int = ...,
    seed: int = ...,
    *,
    level: float = ...,
    by: str | Sequence[str] | None = ...,
) -> PointsComparison: ...


def compare(
    a: Evaluation | PointsEvaluation,
    b: Evaluation | PointsEvaluation,
    n: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
    by: str | Sequence[str] | None = None,
) -> Comparison | PointsComparison:
    """Two evaluations of one ground truth: every number's difference with its interval and p-value, and where it lies.

    n: resamples of the images, the same for both; by: slices as in `kpdata.eval.slices.slices`. The p-value is
    two-sided: twice the share of resamples on the other side of 0, (1 + count) / (1 + n), so that it is never 0. Two
    `PointsEvaluation`s give a `points.comparison.PointsComparison`. Few images show nothing: a number of people on m
    images has p ≥ 2 / 2ᵐ (`differences`), so that five images are too few for 0.05.
    Raises EvaluationError where the two were not scored against the same people, or not by the same metric, and as
    `bootstrap` and `slices`.
    """
    bootstrap.check_settings(n, seed, level)
    if isinstance(a, Evaluation) and isinstance(b, Evaluation):
        return _compare(a, b, n, seed, level, by)
    from kpdata.eval.points.comparison import compare_points

    if isinstance(a, Evaluation) or isinstance(b, Evaluation):
        names = [one.facts["metric"] if isinstance(one, Evaluation) else one.metric for one in (a, b)]
        raise EvaluationError(f"A was scored by {names[0]}, B by {names[1]}", hint="score both by one metric")
    return compare_points(a, b, n, seed, level, by)


def _compare(
    a: Evaluation, b: Evaluation, n: int, seed: int, level: float, by: str | Sequence[str] | None
) -> Comparison:
    parts = list(zip(a.sides.parts, b.sides.parts, strict=False))
    notes = _same_ground_truth(a, b)
    images = np.unique(np.concatenate([one.image_ids for one, _ in parts]))
    whole = [_whole(side, images, n, seed) for side in (a, b)]
    draws = _Draws(n, seed, level)
    pairings = [(pair(one), pair(two)) for one, two in parts]
    keypoints = [_keypoints(*both, *found, draws) for both, found in zip(parts, pairings, strict=True)]
    measure = _shares if "mAP" in a.stats else _precision
    slices = [
        _slices(*both, found[0], slicings(both[0], a.sides.gt, by), draws, measure)
        for both, found in zip(parts, pairings, strict=True)
    ]
    people = [_people(*both, *found) for both, found in zip(parts, pairings, strict=True)]
    return Comparison(
        names=tuple(a.stats) if "mAP" in a.stats else bootstrap.NAMES,
        numbers=differences(whole[0], whole[1], level, _with_people(a)),
        keypoints=pa.concat_tables(keypoints),
        slices=pa.concat_tables(slices),
        people=_sorted(pa.concat_tables(people)),
        images=len(images),
        resamples=n,
        seed=seed,
        level=level,
        notes=notes,
    )


def _same_ground_truth(a: Evaluation, b: Evaluation) -> tuple[str, ...]:
    """Notes about what makes the two less than comparable. EvaluationError where they are not at all."""
    if not a.sides.parts or not b.sides.parts:
        raise EvaluationError("nothing to compare: nobody in the ground truth has keypoints")
    if len(a.sides.parts) != len(b.sides.parts):
        raise EvaluationError("A and B were scored on other skeletons, so that their numbers cannot be compared")
    notes = ["AP and AR are those of all 133 keypoints (whole)"] if "whole_AP" in a.stats else []
    for one, two in zip(a.sides.parts, b.sides.parts, strict=True):
        names = one.skeleton.keypoint_names, two.skeleton.keypoint_names
        alike = names[0] == names[1] and np.array_equal(one.params.sigmas, two.params.sigmas)
        same = np.array_equal(one.image_ids, two.image_ids) and all(
            np.array_equal(getattr(one.truth, key), getattr(two.truth, key), equal_nan=True)
            for key in ("annotation_id", "image_id", "area")
        )
        if not alike or not same:
            what = "skeletons or sigmas" if not alike else "people"
            raise EvaluationError(
                f"A and B were scored on other {what}, so that their numbers cannot be compared",
                hint="evaluate both against one ground truth, with the same --skeleton",
            )
        if not np.array_equal(one.truth.labelled, two.truth.labelled):
            notes.append(
                "A and B were scored on other keypoints (one of them lacks some): their numbers differ in kind"
            )
    return tuple(dict.fromkeys(notes))


Sampled = tuple[Floats, Floats]  # the values (C,) and those of each resample (n, C)


class _Draws(NamedTuple):
    n: int
    seed: int
    level: float


def _whole(side: Evaluation, images: Ints, n: int, seed: int) -> Sampled:
    """The numbers of everybody: the ten, or AI Challenger's."""
    if "mAP" in side.stats:
        return np.array(list(side.stats.values())), side.bootstrap(n, seed=seed).samples
    params = side.sides.parts[0].params
    recalls, cells = params.recall_thresholds, bootstrap.number_cells(params)
    curves = [c for part in side.sides.parts for c in bootstrap.curves_of(part.matches, images, part.params)]
    once = np.ones((1, len(images)), np.int32)
    value = bootstrap.pick(*bootstrap.resample(curves, once, recalls), cells)[0]
    return value, bootstrap.pick(*bootstrap.resampled(curves, images, recalls, n, seed), cells)


def _with_people(side: Evaluation) -> Ints:
    """(C,) on how many images the people are that each of the numbers counts."""
    parts = side.sides.parts
    if "mAP" in side.stats:
        images = np.concatenate([part.truth.image_id[part.counted()] for part in parts])
        return np.full(len(side.stats), len(np.unique(images)))
    found = [
        np.concatenate([part.matches.gt_image_id[~part.matches.gt_ignored[a].all(axis=0)] for part in parts])
        for a, _ in bootstrap.number_cells(parts[0].params)
    ]
    return np.array(2 * [len(np.unique(images)) for images in found])  # of precision, and the same of recall


def differences(a: Sampled, b: Sampled, level: float, images: Ints) -> Differences:
    """b - a, with percentile intervals and two-sided p-values of the resamples. images (C,): those with people of it.

    No p is below 2 / 2ᵐ of m images, the least that a test can give that swaps A and B on any of them (Fisher, *The
    Design of Experiments*, 1935, §21): resamples of one image are all alike, and would call any difference certain.
    """
    delta = b[1] - a[1]
    low, high = bootstrap.percentiles(delta, level)
    count = (~np.isnan(delta)).sum(axis=0)
    other_side = np.minimum((delta <= 0).sum(axis=0), (delta >= 0).sum(axis=0))
    p = np.maximum(2 * (1 + other_side) / (1 + count), np.ldexp(1.0, 1 - images))
    p = np.where(count > 0, np.minimum(1.0, p), np.nan)
    return Differences(a[0], b[0], b[0] - a[0], low, high, p)


# ---------------------------------------------------------------------------------------------------------- where it is


def _keypoints(one: Part, two: Part, pair_one: Pairing, pair_two: Pairing, draws: _Draws) -> pa.Table:
    """Mean OKS term of each keypoint over the people that count. Resamples weigh images, sums and counts alike."""
    images = np.unique(one.image_ids)
    labelled = one.truth.labelled & two.truth.labelled & one.counted()[:, None]  # (N, K)
    row = np.searchsorted(images, one.truth.image_id[labelled.any(axis=1)])
    sums = np.zeros((3, len(images), labelled.shape[1]))
    for total, values in zip(sums, (labelled, _terms(one, pair_one), _terms(two, pair_two)), strict=True):
        np.add.at(total, row, (values * labelled)[labelled.any(axis=1)])
    sampled = np.empty((2, draws.n, labelled.shape[1]))
    with np.errstate(invalid="ignore"):
        for start, weight in bootstrap.drawn(draws.n, len(images), draws.seed):
            count, *terms = weight.astype(np.float64) @ sums
            sampled[:, start : start + len(weight)] = np.stack(terms) / count
        value = sums[1:].sum(axis=1) / sums[0].sum(axis=0)
    seen = (sums[0] > 0).sum(axis=0)
    found = differences((value[0], sampled[0]), (value[1], sampled[1]), draws.level, seen)
    k = len(one.skeleton)
    columns = {
        "skeleton": schema.constant(one.skeleton.name, k),
        "keypoint": schema.strings(one.skeleton.keypoint_names),
        "labelled": schema.fixed(labelled.sum(axis=0), pa.int64()),
    }
    return schema.table(KEYPOINTS, k, columns | as_columns(found))


def _terms(part: Part, pairing: Pairing) -> Floats:
    """(N, K) OKS term of each labelled keypoint, 0 where the person was missed or the keypoint is not labelled."""
    terms = np.zeros(part.truth.labelled.shape)
    with np.errstate(over="ignore"):
        terms[pairing.truth] = np.nan_to_num(np.exp(-np.square(sigma_units(part, pairing)) / 2))
    return terms


def _precision(part: Part, kinds: Sequence[Slicing], draws: _Draws) -> Sampled:
    """AP (S,) of each slice, and of the resamples."""
    images, recalls = np.unique(part.image_ids), part.params.recall_thresholds
    matches, shared, shares = sliced_matches(part, kinds)
    curves = bootstrap.curves_of(matches, images, part.params, shared, shares)
    value, _ = bootstrap.resample(curves, np.ones((1, len(images)), np.int32), recalls)
    drawn, _ = bootstrap.resampled(curves, images, recalls, draws.n, draws.seed)
    return value[0].mean(axis=1), drawn.mean(axis=2)


def _shares(part: Part, kinds: Sequence[Slicing], draws: _Draws) -> Sampled:
    """AI Challenger's mAP (S,) of each slice, and of the resamples."""
    hits, most = sliced_shares(part, kinds)
    value = divided(hits.sum(axis=0), most.sum(axis=0))
    return value.mean(axis=1), resampled_shares(hits, most, draws.n, draws.seed).mean(axis=2)


def _slices(
    one: Part,
    two: Part,
    pairing: Pairing,
    kinds: Sequence[Slicing],
    draws: _Draws,
    measure: Callable[[Part, Sequence[Slicing], _Draws], Sampled],
) -> pa.Table:
    """The first number of each slice, those that B lost most first; pairing: of `one`."""
    if not kinds or not one.counted().any():
        return schema.table(SLICES, 0, {})
    people, images = (people_of(one, kinds, pairing)[key].astype(np.int64) for key in ("people", "images"))
    found = differences(measure(one, kinds, draws), measure(two, kinds, draws), draws.level, images)
    names = [(kind.name, label) for kind in kinds for label in kind.labels]
    columns = {
        "skeleton": schema.constant(one.skeleton.name, len(names)),
        "by": schema.strings([name for name, _ in names]),
        "slice": schema.strings([label for _, label in names]),
        "people": schema.fixed(people, pa.int64()),
    }
    table = schema.table(SLICES, len(names), columns | as_columns(found))
    kept = np.flatnonzero(people > 0)
    return schema.take(table, kept[np.argsort(found.delta[kept], kind="stable")])


def as_columns(found: Differences) -> dict[str, pa.Array]:
    """The six columns of a table, null for NaN."""
    return {name: schema.fixed(values, pa.float64(), ~np.isnan(values)) for name, values in found.columns().items()}


def _people(one: Part, two: Part, pair_one: Pairing, pair_two: Pairing) -> pa.Table:
    rows = np.flatnonzero(one.counted())
    columns = {
        name: schema.fixed(getattr(one.truth, name)[rows], pa.int64())
        for name in ("annotation_id", "image_id", "category_id")
    }
    oks = []
    for side, part, pairing in (("a", one, pair_one), ("b", two, pair_two)):
        similarity, score = np.zeros(len(one.truth_rows)), np.zeros(len(one.truth_rows))
        found = np.zeros(len(one.truth_rows), np.bool_)
        similarity[pairing.truth], found[pairing.truth] = pairing.oks, True
        score[pairing.truth] = part.detections.score[pairing.detection]
        oks.append(similarity[rows])
        columns[f"oks_{side}"] = schema.fixed(similarity[rows], pa.float64())
        columns[f"score_{side}"] = schema.fixed(score[rows], pa.float64(), found[rows])
    columns["change"] = schema.fixed(oks[1] - oks[0], pa.float64())
    return schema.table(PEOPLE, len(rows), columns)


def _sorted(people: pa.Table) -> pa.Table:
    return schema.take(people, np.argsort(schema.values(people["change"]), kind="stable"))
