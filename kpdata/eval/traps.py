"""What is odd in the data of an evaluation, how often, and what it does to the numbers.

Each trap is something that pycocotools takes without a word and that changes what its numbers mean. For most, the
numbers are computed once more with this one trap taken away and all others left in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kpdata.eval.average_precision import evaluate_arrays, summarize
from kpdata.eval.oks import Bools, Detections, GroundTruth, Ints, Params, detection_area

SENTENCES = {
    "id_zero": "annotation id 0 ({count} of the people): a prediction matched with such a person counts as unmatched",
    "repeated_ids": "annotation ids that repeat ({count} of the people): the last row of an id stands in for all of it",
    "nan_keypoints": "NaN coordinates ({count} of the people and predictions): such a prediction matches anything",
    "nan_scores": "NaN scores ({count} of the predictions): they come after all others",
    "num_keypoints": "num_keypoints 0 beside labelled keypoints, or the reverse ({count} of the people): the field "
    "decides who counts",
    "small_areas": "areas of 1 square pixel or less ({count} of the people): nearly nothing matches them",
    "result_areas": "areas other than the extent of the keypoints ({count} of the predictions; with a bbox it is the "
    "box's): they decide the size range",
    "over_max_dets": "more predictions in an image than are looked at ({count} beyond the best {max_dets}): left out",
    "max_dets_not_20": "a maximum of detections other than 20 ({max_dets}): the summary looks for 20 and gives -1",
    "no_categories": "categories taken as one: OKS is looked up under a category that has nobody, and nothing matches",
    "unlisted_people": "images or categories that are not evaluated ({count} of the people): left out",
    "unlisted_predictions": "images or categories that are not evaluated ({count} of the predictions): left out",
}


@dataclass(frozen=True, slots=True)
class Trap:
    """One trap that the data step into. `count` people or predictions do (for the last settings: 1).

    `without`: the ten numbers if this trap alone were not there, None where that has no meaning.
    """

    code: str  # a key of SENTENCES
    count: int
    without: dict[str, float] | None
    says: str  # the sentence, with the count in it

    def changes(self, stats: dict[str, float]) -> dict[str, float]:
        """What the trap adds to each number of `stats` that it changes: {"AP": -0.003} where it costs 0.003."""
        without = self.without or {}
        return {
            name: value - without[name] for name, value in stats.items() if name in without and value != without[name]
        }


@dataclass(frozen=True, slots=True)
class _Inputs:
    gt: GroundTruth
    dt: Detections
    image_ids: Ints
    category_ids: Ints
    params: Params

    def numbers(self) -> dict[str, float]:
        curves = evaluate_arrays(self.gt, self.dt, self.image_ids, self.category_ids, self.params)
        return summarize(curves, self.params)


Found = tuple[str, int, Callable[[], dict[str, float]] | None]


def traps(
    gt: GroundTruth, dt: Detections, image_ids: Ints, category_ids: Ints, params: Params, *, measure: bool = True
) -> list[Trap]:
    """The traps that an evaluation of these arrays steps into, in the order of SENTENCES; arguments as evaluate_arrays.

    Costs some milliseconds and, to `measure` what each does, one evaluation for each trap that is met. With
    `params.mode` "fixed" those that it mends are none. What happened before there were arrays (images that nobody
    lists, third values) is not seen here.
    """
    images, categories = np.unique(np.asarray(image_ids, np.int64)), np.unique(np.asarray(category_ids, np.int64))
    inputs = _Inputs(gt, dt, images, categories, params)
    found = [*(_only_strict(inputs) if params.mode == "strict" else ()), *_in_any_mode(inputs)]
    met = []
    for code, count, without in found:
        says = SENTENCES[code].format(count=f"{count:,}", max_dets=params.max_dets[-1])
        met += [Trap(code, count, without() if without and measure else None, says)] if count else []
    return sorted(met, key=lambda trap: list(SENTENCES).index(trap.code))


def _listed(rows: GroundTruth | Detections, inputs: _Inputs) -> Bools:
    return np.isin(rows.image_id, inputs.image_ids) & np.isin(rows.category_id, inputs.category_ids)


def _only_strict(inputs: _Inputs) -> Iterator[Found]:
    gt, params = inputs.gt, inputs.params
    people = _listed(gt, inputs)
    fresh = gt.annotation_id.max(initial=0) + 1 + np.arange(len(people))
    zero = gt.annotation_id == 0
    own = np.where(zero, fresh, gt.annotation_id)
    yield "id_zero", int((zero & people).sum()), _again(inputs, gt={"annotation_id": own})
    _, inverse, counts = np.unique(gt.annotation_id, return_inverse=True, return_counts=True)
    shared = counts[inverse] > 1
    own = np.where(shared, fresh, gt.annotation_id)
    yield "repeated_ids", int((shared & people).sum()), _again(inputs, gt={"annotation_id": own})
    yield _nan_keypoints(inputs, people)
    yield "max_dets_not_20", int(20 not in params.max_dets), lambda: _largest(inputs)
    pooled = replace(params, mode="fixed")
    yield "no_categories", int(not params.use_categories), replace(inputs, params=pooled).numbers


def _largest(inputs: _Inputs) -> dict[str, float]:
    curves = evaluate_arrays(inputs.gt, inputs.dt, inputs.image_ids, inputs.category_ids, inputs.params)
    return summarize(curves, inputs.params, max_dets=inputs.params.max_dets[-1])


def _nan_keypoints(inputs: _Inputs, people: Bools) -> Found:
    """A NaN coordinate becomes an infinite one: infinitely far from anything, as in the mode "fixed"."""
    gt, dt = inputs.gt, inputs.dt
    odd_gt = (np.isnan(gt.keypoints).any(axis=2) & gt.labelled).any(axis=1) & people
    odd_dt = np.isnan(dt.keypoints).any(axis=(1, 2)) & _listed(dt, inputs)
    without = _again(
        inputs,
        gt={"keypoints": np.where(np.isnan(gt.keypoints), -np.inf, gt.keypoints)},
        dt={
            "keypoints": np.where(np.isnan(dt.keypoints), np.inf, dt.keypoints),
            "area": np.where(np.isnan(dt.area), detection_area(dt.keypoints, mode="fixed"), dt.area),
        },
    )
    return "nan_keypoints", int(odd_gt.sum() + odd_dt.sum()), without


def _in_any_mode(inputs: _Inputs) -> Iterator[Found]:
    gt, dt = inputs.gt, inputs.dt
    people, predictions = _listed(gt, inputs), _listed(dt, inputs)
    labelled = gt.labelled.sum(axis=1)
    odd = people & ~gt.iscrowd & ((gt.num_keypoints == 0) != (labelled == 0))
    yield "nan_scores", int((np.isnan(dt.score) & predictions).sum()), None
    yield "num_keypoints", int(odd.sum()), _again(inputs, gt={"num_keypoints": labelled})
    yield "small_areas", int((people & ~gt.iscrowd & (gt.num_keypoints != 0) & (gt.area <= 1)).sum()), None
    extent = detection_area(dt.keypoints, mode=inputs.params.mode)
    other = predictions & ~np.isclose(dt.area, extent, rtol=1e-6, atol=0, equal_nan=True)
    yield "result_areas", int(other.sum()), _again(inputs, dt={"area": extent})
    yield _over_max_dets(inputs, predictions)
    yield "unlisted_people", int((~people).sum()), None
    yield "unlisted_predictions", int((~predictions).sum()), None


def _over_max_dets(inputs: _Inputs, predictions: Bools) -> Found:
    most, dt = inputs.params.max_dets[-1], inputs.dt
    group = np.searchsorted(inputs.image_ids, dt.image_id[predictions])
    if inputs.params.use_categories:
        category = np.searchsorted(inputs.category_ids, dt.category_id[predictions])
        group = group * len(inputs.category_ids) + category
    counts = np.bincount(group, minlength=1)
    over = int(np.maximum(counts - most, 0).sum())

    def without() -> dict[str, float]:
        params = replace(inputs.params, max_dets=(int(counts.max()),))
        curves = evaluate_arrays(inputs.gt, dt, inputs.image_ids, inputs.category_ids, params)
        return summarize(curves, params, max_dets=params.max_dets[-1])

    return "over_max_dets", over, without


def _again(
    inputs: _Inputs, gt: dict[str, object] | None = None, dt: dict[str, object] | None = None
) -> Callable[[], dict[str, float]]:
    """The ten numbers with these columns replaced, when asked for."""

    def without() -> dict[str, float]:
        changed = replace(inputs, gt=replace(inputs.gt, **(gt or {})), dt=replace(inputs.dt, **(dt or {})))  # type: ignore[arg-type]
        return changed.numbers()

    return without
