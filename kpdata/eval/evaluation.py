"""Ground truth and predictions (two Datasets) to numbers, with what is scored against what said in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval import protocols, remarks
from kpdata.eval.average_precision import Curves, accumulate, summarize
from kpdata.eval.lines import lines
from kpdata.eval.oks import Mode, Params
from kpdata.eval.part import Pairing, Part, pair
from kpdata.eval.prepare import Sides, UnknownImages, prepare
from kpdata.eval.protocols import Protocol
from kpdata.eval.sanity import findings, told
from kpdata.skeleton import Skeleton, load
from kpdata.threads import both

if TYPE_CHECKING:
    import pandas as pd

    from kpdata.eval.bootstrap import Intervals
    from kpdata.eval.calibration import Calibration
    from kpdata.eval.errors import KeypointErrors
    from kpdata.eval.points import PointsEvaluation
    from kpdata.eval.points.lengths import Normalize
    from kpdata.eval.report.sections import PartReport

METRIC = protocols.OKS.title


@dataclass(frozen=True)
class Evaluation:
    """One set of predictions scored by OKS.

    stats: numbers in [0, 1], -1 where there is nothing to average (a note says why). Their names by metric:
      oks        AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl
      crowdpose  AP, AP50, AP75, AR, AR50, AR75, AP(E), AP(M), AP(H)
      wholebody  the ten of oks behind body_, foot_, face_, lefthand_, righthand_, whole_
      aic        mAP, mAP50, mAP75 (like xtcocotools: the ten of oks)
    curves: precision (T, R, C, A, M), recall (T, C, A, M), scores (T, R, C, A, M) over all images and keypoints, as
    pycocotools' `eval`; groups: the same for CrowdPose's easy, medium, hard and WholeBody's groups of keypoints.
    sides: the two datasets, brought together, with the arrays and matches of each skeleton.
    notes: a sentence for each thing that changes what the numbers mean.
    """

    stats: dict[str, float]
    curves: Curves
    sides: Sides
    notes: tuple[str, ...] = ()
    metric: str = "oks"
    groups: Mapping[str, Curves] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The numbers, and of how many: the arrays behind them would fill pages."""
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in self.stats.items())
        people, found = len(self.sides.gt), len(self.sides.predictions)
        return f"<Evaluation by {self.metric}: {numbers}; {people:,} people, {found:,} predictions>"

    @property
    def summary(self) -> dict[str, float]:
        """The numbers: `stats` by another name."""
        return self.stats

    @property
    def facts(self) -> dict[str, Any]:
        """What was scored against what: `metric` and `protocol`, `sigmas` and `skeletons` (by name, with the source of
        the sigmas), `category_ids` (those of C), `counts`, `area` (words) and `area_rules` (names),
        `box_sources` of the ground truth, `detection_area`, `matching` (words), `mode`, `like`, `max_dets`."""
        return self.sides.facts

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`, numbers at full precision."""
        return {**self.facts, "stats": self.stats, "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For a terminal, in the form of the metric's own evaluator (`lines.lines`)."""
        return lines(self.stats, self.facts["max_dets"][-1])

    # ------------------------------------------------------------------------------------------------------- why

    @cached_property
    def pairings(self) -> tuple[Pairing, ...]:
        """Who was found by which prediction at OKS 0.1, of each part: what all analyses share."""
        return tuple(pair(part) for part in self.sides.parts)

    @cached_property
    def keypoint_errors(self) -> tuple[KeypointErrors, ...]:
        """The kind of error of every keypoint of every pairing (`errors.classify`)."""
        from kpdata.eval.errors import classify

        return tuple(classify(part, found) for part, found in zip(self.sides.parts, self.pairings, strict=True))

    @property
    def matches(self) -> pa.Table:
        """One row a detection and one a ground truth, with ids, OKS, error and class per keypoint (`failures`)."""
        from kpdata.eval.failures import matches

        return matches(self.sides, self.pairings, self.keypoint_errors)

    def failures(self) -> pa.Table:
        """One row a person that was counted, or prediction of nobody, worst first (`failures.FAILURES`)."""
        from kpdata.eval.failures import failures

        return failures(self.sides, self.pairings, self.keypoint_errors)

    def per_keypoint(self) -> pd.DataFrame:
        """A row a keypoint and visibility: labelled, found, OKS term, PCK, errors in pixels, √area and sigmas, bias
        (`keypoints.per_keypoint`); a `skeleton` column where there are several."""
        return self._frame(self._per_keypoint)

    def keypoint_ap(self) -> pd.DataFrame:
        """`keypoint` and `ap`: COCO's AP of a skeleton of this keypoint only (`keypoints.keypoint_ap`)."""
        from kpdata.eval.keypoints import keypoint_ap_table

        return self._frame([keypoint_ap_table(part) for part in self.sides.parts])

    def plot_keypoints(self, path: Path | str, *, force: bool = False) -> None:
        """Write a picture of `per_keypoint`, .png, .pdf, .svg … (`report.figures.plot_keypoints`)."""
        from kpdata.eval.report.figures import plot_keypoints

        plot_keypoints(joined(self.sides, self._per_keypoint), Path(path), force=force)

    def errors(self) -> pd.DataFrame:
        """Good, jitter, inversion, swap, miss: counts and shares (Ronchi & Perona; `errors.count_errors`)."""
        from kpdata.eval.errors import count_errors

        return self._frame([count_errors(*of) for of in self._analysed()])

    def people(self) -> pd.DataFrame:
        """People found and missed, predictions of nobody, duplicates, wrong scores (`errors.count_people`)."""
        from kpdata.eval.errors import count_people

        return self._frame([count_people(*of) for of in zip(self.sides.parts, self.pairings, strict=True)])

    def missed_people(self) -> pd.DataFrame:
        """Whom nobody found, by size, labelled keypoints and crowding (`errors.missed_people`)."""
        from kpdata.eval.errors import missed_people

        return self._frame([missed_people(*of) for of in zip(self.sides.parts, self.pairings, strict=True)])

    def opportunity(self) -> pd.DataFrame:
        """What correcting each kind of error would add to AP and AR (`opportunity.opportunity`)."""
        return self._frame(self._gains)

    def opportunity_by_size(self) -> pd.DataFrame:
        """The same for people of all sizes, medium and large ones (`opportunity.opportunity_by_size`)."""
        return self._frame(self._gains_by_size)

    def calibration(self, bins: int = 15) -> tuple[Calibration, ...]:
        """What scores of people and keypoints are worth, the numbers at every score threshold, and precision-recall
        curves (`calibration.calibration`): one for each of `sides.parts`, that is, for each skeleton."""
        from kpdata.eval.calibration import calibration

        both = zip(self.sides.parts, self.pairings, strict=True)
        return tuple(calibration(part, found, bins) for part, found in both)

    def slices(
        self, by: str | Sequence[str] | None = None, *, n: int = 0, seed: int = 0, level: float = 0.95
    ) -> pd.DataFrame:
        """AP, AR and OKS of each kind of people, worst first, with `n` resamples for intervals (`slices.slices`); of
        `aic` the metric's own mAP instead (`shares.share_slices`)."""
        return self._frame(self.slice_tables(by, n=n, seed=seed, level=level))

    def slice_tables(
        self, by: str | Sequence[str] | None = None, *, n: int = 0, seed: int = 0, level: float = 0.95
    ) -> list[pa.Table]:
        """As `slices`, an Arrow table for each part."""
        from kpdata.eval.shares import share_slices
        from kpdata.eval.slices import slices

        both, of = zip(self.sides.parts, self.pairings, strict=True), share_slices if "mAP" in self.stats else slices
        return [of(p, self.sides.gt, by, n=n, seed=seed, level=level, pairing=found) for p, found in both]

    def bootstrap(self, n: int = 1000, *, seed: int = 0, level: float = 0.95) -> Intervals:
        """Percentile intervals of the numbers over resampled images (`bootstrap.bootstrap`), by their names in `stats`.

        CrowdPose's levels are resampled each over its own images.
        """
        from kpdata.eval.bootstrap import NAMES, bootstrap, side_by_side

        if "mAP" in self.stats:
            return self._shares_bootstrap(n, seed, level)
        whole = bootstrap(self.sides.parts, n, seed, level)
        places = {name: (whole, at) for at, name in enumerate(NAMES) if name in self.stats}
        groups = _groups(self.sides, protocols.protocol(self.metric, self.facts["like"]), [])
        if self.metric == "crowdpose":
            known = [(name, of) for name, of in protocols.CROWD_LEVELS.items() if self.stats[name] >= 0]
            places |= {name: (bootstrap(groups[of], n, seed, level), 0) for name, of in known}
        elif self.metric == "wholebody":
            found = {**{group: bootstrap(parts, n, seed, level) for group, parts in groups.items()}, "whole": whole}
            places = {f"{of}_{name}": (drawn, at) for of, drawn in found.items() for at, name in enumerate(NAMES)}
        return side_by_side(places)

    def _shares_bootstrap(self, n: int, seed: int, level: float) -> Intervals:
        """`bootstrap` of AI Challenger's own measure: a ratio of sums over images."""
        from kpdata.eval import bootstrap

        bootstrap.check_settings(n, seed, level)
        shares = bootstrap.of_shares(*protocols.ai_challenger_images(self.sides.parts), n, seed)
        samples = np.array([list(row.values()) for row in protocols.ai_challenger_numbers(shares)])
        counted = [part.truth.image_id[part.counted()] for part in self.sides.parts]
        images = np.full(len(self.stats), len(np.unique(np.concatenate([[], *counted]))))
        low, high = bootstrap.percentiles(samples, level, images)
        estimate = np.array(list(self.stats.values()))
        return bootstrap.Intervals(tuple(self.stats), estimate, low, high, samples, level, seed, images)

    def suspects(self, *, least: float = 0.2, limit: int | None = 1000) -> pd.DataFrame:
        """Labels that confident predictions contradict, most suspicious first (`suspects.suspects`)."""
        return self._frame(self.suspect_tables(least=least, limit=limit))

    def suspect_tables(self, *, least: float = 0.2, limit: int | None = 1000) -> list[pa.Table]:
        """As `suspects`, an Arrow table for each part."""
        from kpdata.eval.suspects import suspects

        both = zip(self.sides.parts, self.pairings, strict=True)
        gt, predictions = self.sides.gt, self.sides.predictions
        return [suspects(p, found, gt, predictions, least=least, limit=limit) for p, found in both]

    def helps(self, top: int = 3) -> list[str]:
        """The corrections that would add most to AP, in plain words, most first."""
        from kpdata.eval.opportunity import worst

        several = len(self.sides.parts) > 1
        return [
            f"{of[0].skeleton.name}: {words}" if several else words
            for of, gains in zip(self._analysed(), self._gains, strict=True)
            for words in worst(*of, gains, top=top)
        ]

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
        """Write the report: one self-contained page (`report.report`). `by`: the slices it shows, with intervals of `n`
        resamples. Gives a sentence about the people whose picture is not in `images`, if there are any."""
        from kpdata.eval import report

        fields = {"subtitle": subtitle, "helps": self.helps(), "failures": self.failures()}
        data = report.from_evaluation(self, intervals=intervals, parts=self._sections(by, n, seed), **fields)
        return report.report(data, path, images=images, limit=limit, force=force)

    @cached_property
    def _per_keypoint(self) -> tuple[pa.Table, ...]:
        from kpdata.eval.keypoints import per_keypoint

        return tuple(per_keypoint(*of) for of in zip(self.sides.parts, self.pairings, strict=True))

    @cached_property
    def _gains_by_size(self) -> tuple[pa.Table, ...]:
        from kpdata.eval.opportunity import opportunity_by_size

        return tuple(opportunity_by_size(*of) for of in self._analysed())

    @property
    def _gains(self) -> tuple[pa.Table, ...]:
        from kpdata.eval.opportunity import of_size

        return tuple(of_size(table, "all") for table in self._gains_by_size)

    def _analysed(self) -> list[tuple[Part, Pairing, KeypointErrors]]:
        return list(zip(self.sides.parts, self.pairings, self.keypoint_errors, strict=True))

    def _sections(self, by: str | Sequence[str] | None, n: int, seed: int) -> list[PartReport]:
        from kpdata.eval import errors, keypoints
        from kpdata.eval.report import figures
        from kpdata.eval.report.sections import PartReport

        tables = (
            self._per_keypoint,
            self._gains_by_size,
            self.slice_tables(by, n=n, seed=seed),
            self.calibration(),
        )
        return [
            PartReport(
                skeleton=part.skeleton,
                places=figures.layout(part.skeleton, part.truth.keypoints, part.truth.labelled),
                per_keypoint=each,
                keypoint_ap=keypoints.keypoint_ap(part),
                errors=errors.count_errors(part, pairing, kinds),
                people=errors.count_people(part, pairing),
                opportunity=gains,
                slices=sliced,
                calibration=scores,
            )
            for (part, pairing, kinds), each, gains, sliced, scores in zip(self._analysed(), *tables, strict=True)
        ]

    def _frame(self, tables: Sequence[pa.Table]) -> pd.DataFrame:
        frame: pd.DataFrame = joined(self.sides, tables).to_pandas(integer_object_nulls=True)
        return frame


def joined(sides: Sides, tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of the parts as one; with several skeletons a first column says which."""
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise EvaluationError("nothing to analyse: the ground truth has no people with keypoints")
    names = [part.skeleton.name for part in sides.parts]
    return pa.concat_tables(
        table.add_column(0, "skeleton", schema.constant(name, table.num_rows))
        for name, table in zip(names, tables, strict=True)
    )


def evaluate(
    gt: Dataset,
    predictions: Dataset,
    *,
    metric: str | None = None,
    skeleton: str | Skeleton | None = None,
    unknown_images: UnknownImages = "refuse",
    mode: Mode = "strict",
    area: str | None = None,
    like: str | None = None,
    max_dets: int = 20,
    threshold: float | None = None,
    normalize: Normalize = None,
    variant: str | None = None,
) -> Evaluation | PointsEvaluation:
    """Score predictions by the metric asked for, else by the one that the ground truth stands for.

    metric: one of `protocols.OKS_METRICS` ("oks", "crowdpose", "wholebody", "aic") gives what `evaluate_oks` gives,
    with its options mode, area, like, max_dets; one of `protocols.POINT_METRICS` ("pckh", "pck", "pcp", "auc", "epe",
    "nme") what `points.evaluate_points` gives, with its options threshold, normalize, variant. None: `protocols.choose`
    (MPII: pckh, LSP: pck, CrowdPose, WholeBody and AI Challenger their own, the rest oks).
    skeleton, unknown_images: as there. Raises EvaluationError for an option that the metric does not have, and where
    the two datasets cannot be scored together.
    """
    _expect_datasets(gt, predictions)
    bones = load(skeleton) if isinstance(skeleton, str) else skeleton
    name = protocols.choose(gt, predictions, metric, bones)
    if name in protocols.POINT_METRICS:
        from kpdata.eval.points import evaluate_points

        changed = {"mode": mode != "strict", "area": area, "like": like, "max_dets": max_dets != 20}
        _refuse_options(name, metric, changed)
        return evaluate_points(
            gt, predictions, metric=name, threshold=threshold, normalize=normalize, variant=variant, skeleton=bones,
            unknown_images=unknown_images,
        )  # fmt: skip
    _refuse_options(name, metric, {"threshold": threshold, "normalize": normalize, "variant": variant})
    return evaluate_oks(
        gt, predictions, metric=name, skeleton=bones, mode=mode, area=area, unknown_images=unknown_images, like=like,
        max_dets=max_dets,
    )  # fmt: skip


def _expect_datasets(gt: object, predictions: object) -> None:
    for what, given in (("ground truth", gt), ("predictions", predictions)):
        if not isinstance(given, Dataset):
            found = f"{given}" if isinstance(given, str | Path) else f"a {type(given).__name__}"
            raise EvaluationError(f"{what}: {found}, expected a Dataset", hint="kpdata.read(path) gives one")


_OPTIONS = {"like": "like (--as)", "variant": "variant (--as)"}


def _refuse_options(name: str, metric: str | None, options: Mapping[str, object]) -> None:
    """EvaluationError for options that are given and mean nothing to this metric: none is taken and ignored."""
    if found := [_OPTIONS.get(key, key) for key, value in options.items() if value not in (None, False)]:
        why = "" if metric else ", which this ground truth stands for,"
        raise EvaluationError(
            f"the metric {name!r}{why} has no option {' and '.join(found)}",
            hint=f"leave {'them' if len(found) > 1 else 'it'} out, or name another metric",
        )


def evaluate_oks(
    gt: Dataset,
    predictions: Dataset,
    *,
    metric: str | None = None,
    skeleton: str | Skeleton | None = None,
    mode: Mode = "strict",
    area: str | None = None,
    unknown_images: UnknownImages = "refuse",
    like: str | None = None,
    max_dets: int = 20,
) -> Evaluation:
    """Score predictions by OKS: AP and AR, for COCO bit-equal to pycocotools where that gives a number.

    metric: "oks", "crowdpose", "wholebody", "aic" (`protocols` says what each means); None: `protocols.choose`.
    skeleton: a name, a file or a Skeleton whose sigmas stand in for those of the ground truth's skeleton with as many
    keypoints. Categories are scored one by one, each with the sigmas of its people's skeleton, and averaged.
    mode: "strict", the evaluator's outcome with its traps, or "fixed" (`Params` lists the differences). Where strict
    meets annotation id 0, repeated ids or NaN coordinates, a note says what AP would be without.
    area: a rule of `areas.RULES` for everyone instead of the metric's own. Without one, people for whom the ground
    truth has no area get 0.53 × w × h of their box, else the extent of their labelled keypoints, and a note.
    unknown_images: what becomes of predictions for images that the ground truth does not list: "refuse" or "ignore".
    like: "xtcocotools" for the rules of mmpose's evaluator. max_dets: predictions of an image that count.
    Raises EvaluationError where the two cannot be scored together: images that the ground truth does not list, another
    number of keypoints, no keypoints, no scores, no sigmas, somebody without area, box and keypoints; and where the
    metric is one of single people.
    """
    _expect_datasets(gt, predictions)
    bones = load(skeleton) if isinstance(skeleton, str) else skeleton
    name = protocols.choose(gt, predictions, metric, bones)
    if name not in protocols.OKS_METRICS:
        raise EvaluationError(
            f"the metric is {name!r}, expected one by OKS ({', '.join(protocols.OKS_METRICS)})",
            hint="name one, and give a skeleton with sigmas",
        )
    protocol = protocols.protocol(name, like)
    if protocol.greedy_by_person:
        _refuse_options(name, metric, {"mode": mode != "strict", "max_dets": max_dets != 20})
    options: dict[str, Any] = {"skeleton": bones, "area": area, "unknown_images": unknown_images, "max_dets": max_dets}
    notes: list[str] = []
    sides = prepare(gt, predictions, notes, protocol=protocol, mode=mode, **options)
    # What makes numbers meaningless is looked for while they are computed.
    result, found = both(partial(_scored, sides, protocol, notes), partial(findings, sides), size=len(predictions))
    result = replace(result, notes=(*told(sides, found, result.stats), *result.notes))
    if mode == "strict" and not protocol.greedy_by_person and (trap := remarks.trapped(sides)):
        mended = _scored(prepare(gt, predictions, [], protocol=protocol, mode="fixed", **options), protocol, [])
        return replace(result, notes=(*result.notes, remarks.on_mending(trap, result.stats, mended.stats)))
    return result


def _scored(sides: Sides, protocol: Protocol, notes: list[str]) -> Evaluation:
    """The numbers by one protocol; sentences come to those of `prepare`."""
    whole = _joined(sides, sides.parts)
    groups = {name: _joined(sides, parts) for name, parts in _groups(sides, protocol, notes).items()}
    stats = _stats(sides, protocol, whole, groups)
    notes.extend(remarks.on_missing(stats))
    return Evaluation(stats, whole, sides, tuple(dict.fromkeys(notes)), protocol.name, groups)


def _groups(sides: Sides, protocol: Protocol, notes: list[str]) -> dict[str, tuple[Part, ...]]:
    """Parts of CrowdPose's levels and WholeBody's groups; the last of those is the whole, which has its own already."""
    if protocol.name == "crowdpose":
        levels = protocols.crowd_levels(sides.gt, notes)
        return {level: tuple(protocols.of_images(part, ids) for part in sides.parts) for level, ids in levels.items()}
    if protocol.name == "wholebody":
        people = sides.predictions.persons
        return {
            group: tuple(protocols.of_group(part, people, group, notes) for part in sides.parts)
            for group in protocols.GROUPS
            if group != "whole"
        }
    return {}


def _stats(sides: Sides, protocol: Protocol, whole: Curves, groups: Mapping[str, Curves]) -> dict[str, float]:
    if protocol.greedy_by_person:
        return protocols.ai_challenger(sides.parts)
    most = sides.facts["max_dets"][-1]
    grid = _grid(most)
    if protocol.name == "wholebody":
        every = {**groups, "whole": whole}
        return {
            f"{group}_{name}": value
            for group, curves in every.items()
            for name, value in summarize(curves, grid, max_dets=most).items()
        }
    stats = summarize(whole, grid, max_dets=most)
    return protocols.crowdpose_stats(stats, dict(groups)) if protocol.name == "crowdpose" else stats


def _grid(max_dets: int) -> Params:
    # Thresholds and ranges are the same for every skeleton.
    return Params(sigmas=np.ones(1), max_dets=(max_dets,))


def _joined(sides: Sides, parts: Iterable[Part]) -> Curves:
    """The curves of all `sides.parts`, or of what became of them, each at the place of its categories; a category
    without people keeps its -1."""
    whole = _nothing(len(sides.category_ids), _grid(sides.facts["max_dets"][-1]))
    for part in parts:
        curves = accumulate(part.matches, part.params)
        place = np.searchsorted(sides.category_ids, part.category_ids)
        whole.precision[:, :, place], whole.scores[:, :, place] = curves.precision, curves.scores
        whole.recall[:, place] = curves.recall
    return whole


def _nothing(categories: int, params: Params) -> Curves:
    """Curves of -1 for so many categories: what pycocotools gives where there is no ground truth."""
    t, r = len(params.iou_thresholds), len(params.recall_thresholds)
    cells = (categories, len(params.area_labels), len(params.max_dets))
    return Curves(np.full((t, r, *cells), -1.0), np.full((t, *cells), -1.0), np.full((t, r, *cells), -1.0))
