"""Predictions scored for looking at them, also where no benchmark by OKS exists: MPII, LSP, a skeleton of one's own.

`browse` sorts people and names errors by OKS, which needs sigmas, scores and the image of each prediction. Where data
have none of these, a rule stands in (`lent`, `_placed`); a note says which, and no AP is shown: the numbers
are then those of the data's own measure (PCKh, PCK), which need no sigmas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval import protocols
from kpdata.eval.evaluation import Evaluation, evaluate, evaluate_oks
from kpdata.eval.points.people import pair_people
from kpdata.skeleton import Skeleton, load

OTHER_SIGMA = 0.1  # about COCO's hip, the largest that it has: a keypoint of which nothing is known is judged mildly
_UNSCORED = "the predictions have no scores: all count as equally sure"
_HEADS = ("head_top", "upper_neck")  # landmarks of CrowdPose's head and neck, whatever the protocol after the slash
_MIDDLES = {"mid_hips": "left_hip", "mid_shoulders": "left_shoulder"}
RULE = (
    "COCO's and COCO-WholeBody's sigmas for the same points of the body, CrowdPose's for head and neck, "
    f"{OTHER_SIGMA:g} for the others"
)


def scored(gt: Dataset, predictions: Dataset, options: Mapping[str, Any]) -> Evaluation:
    """`evaluate_oks` of any two datasets that can be brought together; options: its own.

    Skeletons without sigmas get those of `lent`, predictions without scores count as equally sure, and arrays that are
    known by their order alone (MPII's and LSP's) get the images of their people. `notes` say so, and where sigmas were
    lent `stats` are those of the metric that the data stand for, else of PCK, without AP and curves of anybody's rule.
    Raises EvaluationError as `evaluate_oks`.
    """
    given, notes = dict(options), list[str]()
    metric = given.get("metric") or protocols.choose(gt, predictions, None)
    if metric in protocols.POINT_METRICS:
        given["metric"] = "oks"  # measures of single people: failures are told by OKS all the same
    ours, theirs = _placed(gt, predictions, given, notes)
    theirs = _sure(theirs, notes)
    own = given.get("skeleton")
    if own is not None:
        given["skeleton"] = bones = lent(load(own) if isinstance(own, str) else own)
        borrowed = [] if bones.sigma_source != RULE else [bones.name]
    else:
        used = {name for name, _ in ours.groups() if name is not None}
        borrowed = [name for name in used if ours.skeletons[name].sigmas is None]
        ours = replace(ours, skeletons={name: lent(bones) for name, bones in ours.skeletons.items()})
    found = evaluate_oks(ours, theirs, **given)
    sure = "have the score 1:"  # what evaluate_oks says of scores that are all ours
    notes += [note for note in found.notes if _UNSCORED not in notes or sure not in note]
    if not borrowed and metric not in protocols.POINT_METRICS:
        return replace(found, notes=tuple(notes))
    if borrowed:
        names = " and ".join(repr(name) for name in sorted(borrowed))
        notes.insert(
            0,
            f"{names} has no official sigmas: people are sorted, and errors named, by OKS with {RULE}. These OKS are "
            "comparable with nothing; --skeleton FILE.toml brings sigmas of your own",
        )
    notes = [note for note in notes if not note.startswith("AP")]  # of numbers that are not shown
    stats = _single_people(gt, predictions, metric, given, notes, asked=options.get("metric") is not None)
    return replace(found, stats=stats, notes=tuple(dict.fromkeys(notes)))


def lent(skeleton: Skeleton) -> Skeleton:
    """The skeleton with sigmas by RULE where it has none; `sigma_source` says so.

    >>> bones = lent(Skeleton("mine", ("left_wrist", "head_top", "antler")))
    >>> bones.sigmas
    (0.062, 0.079, 0.1)
    """
    if skeleton.sigmas is not None:
        return skeleton
    known = _known_sigmas()
    marks = zip(skeleton.landmarks, skeleton.keypoint_names, strict=True)
    values = [known.get(_point(mark or name), OTHER_SIGMA) for mark, name in marks]
    return replace(skeleton, sigmas=tuple(values), sigma_source=RULE)


def _point(landmark: str) -> str:
    """The landmark without its protocol; a middle is as sure as what it lies between."""
    plain = landmark.partition("/")[0]
    return _MIDDLES.get(plain, plain)


@cache
def _known_sigmas() -> dict[str, float]:
    """Sigma of each landmark, from the first skeleton that has it."""
    found: dict[str, float] = {}
    for name in ("coco_17", "coco_wholebody_133"):
        bones = load(name)
        for mark, sigma in zip(bones.landmarks, bones.sigmas or (), strict=True):
            found.setdefault(mark, sigma)
    bones = load("crowdpose_14")
    heads = {_point(mark): s for mark, s in zip(bones.landmarks, bones.sigmas or (), strict=True)}
    return found | {name: heads[name] for name in _HEADS}


# ------------------------------------------------------------------------------------------------- what arrays lack


def _placed(gt: Dataset, predictions: Dataset, options: Mapping[str, Any], notes: list[str]) -> tuple[Dataset, Dataset]:
    """Arrays known by their order: on the images of their people, and the ground truth of those people alone."""
    sources = predictions.datasets.values()
    if not sources or not all(facts.get("join") == "order" for facts in sources):
        return gt, predictions
    paired = pair_people(gt, predictions, notes, skeleton=options.get("skeleton"))
    rows = paired.truth_rows
    image = schema.values(gt.persons["image_id"])[rows]
    persons = _with(predictions.persons, "image_id", schema.fixed(image, pa.int64()))
    if len(rows) == len(gt):
        return gt, replace(predictions, persons=persons)
    images = np.isin(schema.values(gt.images["image_id"]), image)
    return gt.select(persons=rows).select(images=np.flatnonzero(images)), replace(predictions, persons=persons)


def _sure(predictions: Dataset, notes: list[str]) -> Dataset:
    """Predictions of which none has a score: all of score 1."""
    if not len(predictions) or schema.valid(predictions.persons["score"]).any():
        return predictions
    notes.append(_UNSCORED)
    ones = schema.fixed(np.ones(len(predictions)), pa.float64())
    return replace(predictions, persons=_with(predictions.persons, "score", ones))


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def _single_people(
    gt: Dataset, predictions: Dataset, metric: str, options: Mapping[str, Any], notes: list[str], *, asked: bool
) -> dict[str, float]:
    """The numbers of a measure of single people; where the data do not allow it, and nobody `asked`, a note."""
    name = metric if metric in protocols.POINT_METRICS else "pck"
    more = {key: options[key] for key in ("skeleton", "unknown_images") if key in options}
    try:
        found = evaluate(gt, predictions, metric=name, **more)
    except EvaluationError as problem:
        if asked:
            raise
        notes.append(f"no numbers by {name} either: {problem.message}")
        return {}
    return {key: number for key, number in found.stats.items() if key != "missing"}
