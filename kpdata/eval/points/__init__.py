"""Metrics of single-person pose: PCKh, PCK, PCP, AUC, EPE and NME of two Datasets, with what was measured in words.

Each person has one prediction or none (`people` says how they are found); the numbers are those of the data sets'
own evaluations, or of HRNet's or mmpose's variant of them (`measures`), and no prediction is punished for being one
too many. `arrays` has the same metrics for plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.oks import Bools
from kpdata.eval.points.lengths import Length, Normalize, length_of
from kpdata.eval.points.measures import METRICS, Measured, measure
from kpdata.eval.points.people import Points, pair_people
from kpdata.eval.points.words import is_of_benchmark, range_of, sentences
from kpdata.eval.prepare import UnknownImages
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.points.why import Why


@dataclass(frozen=True)
class PointsEvaluation:
    """One metric of single-person pose.

    metric: PCKh, PCK, PCP, AUC, EPE or NME.
    stats: flat, in this order. The metric under its own name (`PCKh@0.5`, `PCK@0.2`, `PCP@0.5`, `AUC`, `EPE`, `NME`)
    and its companions (`PCKh@0.1`; HRNet's variant also `PCKh@0.11`; `PCP@0.5 loose`; `EPE median`, `NME median`);
    `mean`, over keypoints, unweighted; `total`, over all labelled keypoints of all people; the columns of the published
    table (`Head`, `Shoulder`, `Elbow`, `Wrist`, `Hip`, `Knee`, `Ankle`; of PCP `Lower leg`, `Upper leg`, `Lower arm`,
    `Upper arm`, `Head`, `Torso`; MPII's own variant also `UBody`), as far as the skeleton has them; `missing`, the
    share of labelled keypoints (or limbs) without a prediction. Shares in [0, 1] (NME may exceed it), EPE in pixels;
    NaN where nothing is measured.
    rows: the same columns for every one of the numbers, by its name.
    facts: `skeleton`, `variant`, `normalizer` (`name` and `words`; None where the metric has none), `comparison`,
    `thresholds`, `left_out` (keypoints in no mean), `pairing` (how predictions were found), `counts`.
    points: who was paired with what, as arrays. measured: every person's part in every number, as arrays. length: what
    distances are divided by, None for PCP and EPE.
    notes: a sentence for each thing that changes what the numbers mean.
    """

    metric: str
    stats: dict[str, float]
    rows: dict[str, dict[str, float]]
    table: pa.Table
    facts: dict[str, Any]
    points: Points
    measured: Measured
    notes: tuple[str, ...] = ()
    length: Length | None = None

    def per_keypoint(self) -> pa.Table:
        """A row a keypoint (of PCP: a limb): `keypoint` or `limb`, `labelled` and `missing` people, `in_mean`, and a
        column for each of the metric's numbers, null where nobody is measured."""
        return self.table

    @property
    def rules(self) -> str | None:
        """Whose number this is: `mmpose`, or the variant where skeleton, metric, length and thresholds are those of its
        benchmark; None where there is no such number, though the variant says how it was computed."""
        variant: str | None = self.facts["variant"]
        own = is_of_benchmark(self.points, self.measured, self.length, self.metric.lower())
        return variant if own or variant == "mmpose" else None

    @property
    def auc_range(self) -> str | None:
        """What an AUC is taken over, in words; None for the other metrics."""
        return range_of(self.measured, self.length)

    def plot_keypoints(self, path: Path | str, *, force: bool = False) -> None:
        """Write a picture of `per_keypoint` and `distances`, .png, .pdf, .svg … (`report.figures.plot_points`)."""
        from kpdata.eval.report.figures import plot_points

        far = None if self.metric == "PCP" else self.distances()  # limbs are no keypoints
        plot_points(self.table, Path(path), metric=self.metric, far=far, force=force)

    # ----------------------------------------------------------------------------------------------------------- why

    @cached_property
    def why(self) -> Why:
        """The arrays that all analyses share: kinds of error, distances, and what counts as right (`why.Why`)."""
        from kpdata.eval.points.why import explain

        return explain(self.points, self.measured, self.length)

    def distances(self) -> pa.Table:
        """A row a keypoint (and "all") and visibility: median and 90th percentile of the error in pixels, in lengths,
        in √area and in sigma units, PCK of √area, bias (`why.distances`, `keypoints.per_keypoint`)."""
        from kpdata.eval.points.why import distances

        return distances(self.why)

    def errors(self) -> pa.Table:
        """Good, jitter, inversion, swap, miss of the keypoints of people with a prediction (`errors.count_errors`)."""
        from kpdata.eval.errors import count_errors

        return count_errors(self.why.part, self.why.pairing, self.why.errors)

    def opportunity(self) -> pa.Table:
        """What putting each kind of error in its place would add (`why.opportunity`); EvaluationError for PCP."""
        from kpdata.eval.points.why import opportunity

        return opportunity(self.points, self.measured, self.why)

    def helps(self, top: int = 3) -> list[str]:
        """The corrections that would help the first number most, in plain words; none of PCP."""
        from kpdata.eval.points.why import helps

        return [] if self.metric == "PCP" else helps(self.opportunity(), self.measured, self.why, top)

    @property
    def matches(self) -> pa.Table:
        """A row a person and a row a prediction, with error and class per keypoint (`why.matches`)."""
        from kpdata.eval.points.why import matches

        return matches(self.points, self.why)

    def failures(self) -> pa.Table:
        """A row a person that counts, or prediction of nobody, worst first (`why.failures`)."""
        from kpdata.eval.points.why import failures

        return failures(self.points, self.why)

    def suspects(self, *, least: float = 0.2, limit: int | None = 1000) -> pa.Table:
        """Labels that confident predictions contradict, most suspicious first (`suspects.suspects`); how alike label
        and prediction are is measured in reaches (`why.Why.sized`) instead of by OKS."""
        from kpdata.eval.suspects import suspects

        why, points = self.why, self.points
        return suspects(why.sized, why.pairing, points.gt, points.predictions, least=least, limit=limit)

    def slices(
        self, by: str | Sequence[str] | None = None, *, n: int = 0, seed: int = 0, level: float = 0.95
    ) -> pa.Table:
        """The first number and the errors of kinds of people, worst first (`resampling.slices`); `by` as in
        `kpdata.eval.slices.slices`, with `n` resamples for intervals."""
        from kpdata.eval.points.resampling import LESS, slices
        from kpdata.eval.slices import slicings

        kinds, less = slicings(self.why.part, self.points.gt, by), self.metric in LESS
        return slices(self.points, self.measured, kinds, self.why.far, less, n=n, seed=seed, level=level)

    def bootstrap(self, n: int = 1000, *, seed: int = 0, level: float = 0.95) -> Intervals:
        """Percentile intervals of all of `stats` over resampled images (`resampling.intervals`)."""
        from kpdata.eval.points.resampling import intervals

        found = intervals(self.points, self.measured, n, seed, level)
        # The score's own last bits, which sums over images need not have.
        return replace(found, estimate=np.array([self.stats[name] for name in found.names]))

    def to_html(
        self,
        path: Path | str,
        *,
        images: Path | str | None = None,
        intervals: Intervals | None = None,
        subtitle: str = "",
        by: str | Sequence[str] | None = None,
        n: int = 0,
        seed: int = 0,
        limit: int = 50,
        force: bool = False,
    ) -> list[str]:
        """Write the report: one self-contained page (`report.report`). Arguments as of `Evaluation.to_html`."""
        from kpdata.eval.report import report
        from kpdata.eval.report.points import from_points

        data = from_points(self, intervals=intervals, subtitle=subtitle, slices=self.slices(by, n=n, seed=seed))
        return report(data, path, images=images, limit=limit, force=force)

    # ------------------------------------------------------------------------------------------------------- as text

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`, numbers at full precision; None for NaN."""
        return {
            "metric": self.metric,
            "stats": _plain(self.stats),
            **self.facts,
            "rows": {name: _plain(row) for name, row in self.rows.items()},
            "per_keypoint": self.table.to_pylist(),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The table as papers print it: a row a number, in percent (EPE in pixels)."""
        unit, factor = ("px", 1.0) if self.metric == "EPE" else ("%", 100.0)
        titles = [key.capitalize() if key in ("mean", "total") else key for key in next(iter(self.rows.values()))]
        cells = [
            [f"{name} [{unit}]", *(_cell(value, factor) for value in row.values())] for name, row in self.rows.items()
        ]
        grid = [[f"{self.facts['skeleton']}", *titles], *cells]
        widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
        return [
            "  ".join(
                [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
            )
            for line in grid
        ]


def evaluate_points(
    gt: Dataset,
    predictions: Dataset,
    *,
    metric: str = "pckh",
    threshold: float | None = None,
    normalize: Normalize = None,
    variant: str | None = None,
    skeleton: str | Skeleton | None = None,
    unknown_images: UnknownImages = "refuse",
) -> PointsEvaluation:
    """Score one prediction a person.

    metric: `pckh` (share of keypoints within a share of the head size), `pck` (of any length), `pcp` (share of limbs
    whose ends are right), `auc` (area under the PCK curve), `epe` (mean distance in pixels), `nme` (mean distance as a
    share of a length).
    threshold: of PCKh 0.5 and 0.1 unless told, PCK 0.2 (mmpose 0.05), PCP 0.5; of the AUC the end of its range: 0.5 of
    the head, 0.2 of another length, all of a length in pixels. EPE and NME have none.
    normalize: the length, see `lengths.length_of`. Unless told: PCKh and the AUC of data with head boxes `head`,
    LSP and sub-JHMDB `torso`, other PCK and AUC `bbox` (without boxes `torso`), NME `bbox_area` (else `head`).
    variant, of PCKh: `hrnet` (unless told: what papers print for MPII's validation set), `official`, `mmpose`; of PCK
    and AUC: `official` (MPII's and LSP's code) or `mmpose`. mmpose compares float32 distances with `<`, the others with
    `<=`; in `official` the Head column is the mean of upper neck and head top, in the others the head top alone.
    skeleton, unknown_images: as in `people.pair_people`.

    A labelled keypoint without a predicted coordinate is a miss, and so are all of an unpaired person (EPE and NME
    cannot count them: `stats["missing"]`). Raises EvaluationError for options that the metric does not have, lengths
    that nobody has (PCKh without head boxes), ground truth without a labelled keypoint, and what cannot be paired.
    """
    chosen = _checked(metric, threshold, normalize, variant)
    notes: list[str] = []
    points = pair_people(gt, predictions, notes, skeleton=skeleton, unknown_images=unknown_images)
    if not points.labelled.any():
        raise EvaluationError(
            f"none of the {len(points.truth):,} people of the ground truth has a labelled keypoint: nothing to measure",
            hint="`kpdata info` counts labelled keypoints",
        )
    length = length_of(points, normalize, metric, chosen) if METRICS[metric].length else None
    measured = measure(points, metric, chosen, threshold, length)
    rows = {name: measured.summary(name) for name in measured.values}
    facts = _facts(points, measured, length, chosen)
    notes += sentences(points, measured, length, metric, chosen, facts["counts"])
    title = METRICS[metric].title
    return PointsEvaluation(
        title, _stats(measured, rows), rows, _table(measured), facts, points, measured, tuple(notes), length
    )


def _checked(metric: str, threshold: float | None, normalize: Normalize, variant: str | None) -> str | None:
    """The variant. EvaluationError for a metric that is none, and for options that it does not have."""
    if metric not in METRICS:
        raise EvaluationError(f"no metric {metric!r}", hint=f"expected one of {', '.join(METRICS)}")
    rules = METRICS[metric]
    if threshold is not None and not (rules.threshold and 0 < threshold < math.inf):
        expected = "a number above 0" if rules.threshold else "none: it is a mean, not a share"
        raise EvaluationError(f"{rules.title} with threshold {threshold!r}, expected {expected}")
    if normalize is not None and not rules.length:
        own = "in pixels" if metric == "epe" else "in lengths of the limb itself"
        raise EvaluationError(f"{rules.title} is measured {own}, not by {normalize!r}", hint="leave normalize out")
    if variant is not None and variant not in rules.variants:
        known = ", ".join(rules.variants)
        raise EvaluationError(
            f"{rules.title} has no variant {variant!r}",
            hint=f"expected one of {known}" if known else "it has one definition: leave variant out",
        )
    return variant or (rules.variants[0] if rules.variants else None)


# -------------------------------------------------------------------------------------------------------------- results


def _stats(measured: Measured, rows: dict[str, dict[str, float]]) -> dict[str, float]:
    main = next(iter(rows.values()))
    columns = {name: value for name, value in main.items() if name not in ("mean", "total")}
    labelled, missing = (int(count[measured.columns.in_mean].sum()) for count in (measured.labelled, measured.missing))
    return {
        **{name: row[measured.headline] for name, row in rows.items()},
        "mean": main["mean"],
        "total": main["total"],
        **columns,
        "missing": missing / labelled if labelled else math.nan,
    }


def _table(measured: Measured) -> pa.Table:
    columns = {
        measured.columns.what: schema.strings(measured.columns.names),
        "labelled": schema.fixed(measured.labelled, pa.int64()),
        "missing": schema.fixed(measured.missing, pa.int64()),
        "in_mean": schema.fixed(measured.columns.in_mean, pa.bool_()),
    }
    for name, values in measured.values.items():
        columns[name] = schema.fixed(values, pa.float64(), ~np.isnan(values))
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def _facts(points: Points, measured: Measured, length: Length | None, variant: str | None) -> dict[str, Any]:
    names = measured.columns.names
    return {
        "skeleton": points.skeleton.name,
        "variant": variant,
        "normalizer": None if length is None else {"name": length.name, "words": length.words},
        "comparison": measured.comparison,
        "thresholds": list(measured.thresholds),
        "left_out": [names[k] for k in np.flatnonzero(~measured.columns.in_mean).tolist()],
        "pairing": points.pairing,
        "counts": _counts(points, measured, length),
    }


def _counts(points: Points, measured: Measured, length: Length | None) -> dict[str, int]:
    """People of the ground truth, those that are scored, those without a length, those without a prediction …"""
    someone = points.labelled.any(1)
    sized = _sized(points, length)
    paired = points.prediction_rows >= 0
    scored = measured.columns.in_mean
    return {
        "people": len(points.truth),
        "people scored": int((someone & sized).sum()),
        "people without a length": int((someone & ~sized).sum()),
        "people without a prediction": int((someone & sized & ~paired).sum()),
        "predictions": len(points.predictions),
        "predictions of nobody": len(points.predictions) - int(paired.sum()),
        f"{measured.columns.what}s labelled": int(measured.labelled[scored].sum()),
        f"{measured.columns.what}s missing": int(measured.missing[scored].sum()),
    }


def _sized(points: Points, length: Length | None) -> Bools:
    if length is None:
        return np.ones(len(points.truth), bool)
    return np.asarray(np.isfinite(length.px) & (length.px >= 0))


def _plain(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _cell(value: float, factor: float) -> str:
    return "–" if math.isnan(value) else f"{factor * value:.2f}"
