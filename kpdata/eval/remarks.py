"""Sentences about what changes the meaning of a number: one for each trap that the data step into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kpdata import schema
from kpdata.arrays import any_nan, distinct, isin, lookup
from kpdata.dataset import Dataset
from kpdata.eval.areas import Areas
from kpdata.eval.oks import Bools, Detections, Ints, Mode
from kpdata.eval.protocols import Protocol
from kpdata.eval.wording import many
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.eval.part import Part
    from kpdata.eval.prepare import Sides

_RANGES = {"m": "medium (32² to 96² px)", "l": "large (96² px and more)"}
_LEVELS = {
    "E": "easy (crowdIndex < 0.2)",
    "M": "medium (crowdIndex of 0.2 to below 0.8)",
    "H": "hard (crowdIndex of 0.8 and more)",
}


def on_people(gt: Dataset, sizes: Areas, needed: Bools, scored: int, protocol: Protocol, mode: Mode) -> Iterable[str]:
    """About the ground truth: ids, areas, images. `needed` (N,) are those of listed categories."""
    ids = schema.values(gt.persons["annotation_id"])
    small = int((needed & (sizes.values <= 0)).sum())
    whole_boxes = "file" in sizes.rules and any(d.get("area_kind") == "box" for d in gt.datasets.values())
    if not scored:
        why = _why_nobody(gt, needed)
        yield f"no person of the ground truth can be scored{why}: nothing to average, so the numbers are -1"
    strict = mode == "strict" and not protocol.greedy_by_person
    if strict and not protocol.xtcocotools and (ids == 0).any():
        yield "a person has annotation id 0: as in pycocotools its match counts as unmatched"
    if strict and len(distinct(ids)) < len(ids):
        yield "annotation ids repeat: as in pycocotools the last person of an id counts for all"
    if (gt.image_rows() < 0).any():
        yield "people on images that the ground truth does not list are left out"
    if small:
        yield f"{many(small, 'person has', 'people have')} an area of 0 or less: nearly nothing matches them"
    if whole_boxes:
        yield "the ground truth's area is the whole box: OKS is larger than with mask areas, not comparable with COCO's"


def _why_nobody(gt: Dataset, needed: Bools) -> str:
    """In brackets, where one reason holds for everybody."""
    crowds = schema.values(gt.persons["iscrowd"], missing=False)
    reasons = {
        "it has nobody": not len(gt),
        "nobody has a labelled keypoint": not (schema.ragged(gt.persons["visibility"])[0] > 0).any(),
        "nobody is of a category that it lists": not needed.any(),
        "all are crowds": bool(crowds.all()),
    }
    return next((f" ({reason})" for reason, holds in reasons.items() if holds), "")


def on_predictions(
    gt: Dataset, predictions: Dataset, found: Ints, listed: Ints, scored: int, max_dets: int, protocol: Protocol
) -> Iterable[str]:
    """About the predictions: none, categories `found` (M,) that are not `listed`, more than count in an image."""
    if not len(predictions) and scored:
        yield f"no predictions: {'mAP is' if protocol.greedy_by_person else 'AP and AR are'} 0"
    unlisted = distinct(found[~isin(found, listed)]).tolist()
    if unlisted:
        yield f"predictions of categories {unlisted} are left out: the ground truth lists {listed.tolist()}"
    if protocol.greedy_by_person:
        return
    images = lookup(schema.values(gt.images["image_id"]), schema.values(predictions.persons["image_id"]))
    crowded = int((np.bincount(images * (len(listed) + 1) + lookup(listed, found) + 1) > max_dets).sum())
    if crowded:
        yield f"more than {max_dets} predictions in {many(crowded, 'image')}: the {max_dets} best of each count"
    if max_dets != 20:
        yield f"{max_dets} predictions of an image count, the benchmarks take 20: not comparable with a leaderboard"


def on_nan(found: Detections, protocol: Protocol, mode: Mode) -> Iterable[str]:
    """NaN coordinates and scores of predictions, and what becomes of them."""
    if any_nan(found.keypoints):
        rows = int(np.isnan(found.keypoints).any(axis=(1, 2)).sum())
        meaning = "those keypoints are infinitely far away" if mode == "fixed" else (
            "as in pycocotools such a person matches anything"
        )  # fmt: skip
        if protocol.greedy_by_person:
            meaning = "as in AI Challenger's evaluator nobody of their images is found"
        yield f"{many(rows, 'prediction holds', 'predictions hold')} NaN coordinates: {meaning}"
    if rows := int(np.isnan(found.score).sum()):
        one, several = "prediction has NaN for a score: it comes", "predictions have NaN for a score: they come"
        yield f"{many(rows, one, several)} last, after the least confident"
    if rows := int(np.isinf(found.score).sum()):
        one, several = "prediction has an infinite score: it comes", "predictions have an infinite score: they come"
        yield f"{many(rows, one, several)} before or after all others, in the file's order"


def on_nan_truth(parts: Iterable[Part], protocol: Protocol, mode: Mode) -> Iterable[str]:
    """People that count whose area or labelled keypoints are NaN or infinite, and what becomes of them."""
    rows = sum(int((_unmeasurable(part) & part.counted()).sum()) for part in parts)
    if not rows:
        return
    meaning = "as in pycocotools NaN matches any prediction"
    if mode == "fixed" or protocol.greedy_by_person:
        meaning = "nothing matches them"
    who = many(rows, "person of the ground truth has", "people of the ground truth have")
    yield f"{who} an area or labelled keypoints that are no numbers: {meaning}"


def _unmeasurable(part: Part) -> Bools:
    """(N,) people with NaN or infinity in their area or a labelled keypoint."""
    known = np.isfinite(part.truth.keypoints)
    nowhere = ~(known[..., 0] & known[..., 1]) & part.truth.labelled
    unmeasurable: Bools = nowhere.any(axis=1) | ~np.isfinite(part.truth.area)
    return unmeasurable


def on_counts(parts: Iterable[Part]) -> Iterable[str]:
    """People whose num_keypoints contradicts their keypoints."""
    left_out, kept = 0, 0
    for part in parts:
        labelled, none = (part.visibility > 0).any(axis=1), part.truth.num_keypoints == 0
        people = isin(part.truth.category_id, part.category_ids) & ~part.truth.iscrowd & part.mask.all()
        left_out, kept = (
            left_out + int((people & none & labelled).sum()),
            kept + int((people & ~none & ~labelled).sum()),
        )
    if left_out:
        who = many(left_out, "person whose num_keypoints is 0 has", "people whose num_keypoints is 0 have")
        yield f"{who} labelled keypoints: the field decides, and nobody has to find them"
    if kept:
        who = many(kept, "person whose num_keypoints is above 0 has", "people whose num_keypoints is above 0 have")
        yield f"{who} no labelled keypoint: the field decides, and whatever lies in their box finds them"


def trapped(sides: Sides) -> tuple[str, ...]:
    """What of `Params.mode` "strict" these data step into: names of the traps for `on_mending`."""
    zero = any((part.truth.annotation_id == 0).any() for part in sides.parts)
    twice = any(len(distinct(p.truth.annotation_id)) < len(p.truth.annotation_id) for p in sides.parts)
    nan = any(any_nan(part.detections.keypoints) for part in sides.parts)
    odd = any((_unmeasurable(part) & part.counted()).any() for part in sides.parts)
    found = {
        "annotation id 0": zero,
        "repeated annotation ids": twice,
        "NaN coordinates": nan,
        "NaN in the ground truth": odd,
    }
    return tuple(name for name, met in found.items() if met)


def on_mending(traps: tuple[str, ...], strict: Mapping[str, float], fixed: Mapping[str, float]) -> str:
    """What the traps did to the first number: AP, whole_AP or mAP."""
    name = "whole_AP" if "whole_AP" in strict else next(iter(strict))
    change = fixed[name] - strict[name]
    effect = (
        f"{name} is {fixed[name]:.4f} instead of {strict[name]:.4f}" if change else f"{name} stays {fixed[name]:.4f}"
    )
    return f"without the effect of {' and '.join(traps)} {effect} (mode 'fixed')"


def on_skeletons(chosen: Iterable[tuple[Skeleton, Skeleton]], protocol: Protocol) -> Iterable[str]:
    """Pairs of the skeleton to score with and the ground truth's own: other sigmas, or not the benchmark's."""
    for bones, own in chosen:
        if own.sigmas is not None and bones.sigmas != own.sigmas:
            yield f"sigmas of {bones.name!r} instead of those of {own.name!r}: not comparable with a leaderboard"
        if protocol.skeleton not in (None, own.name):
            yield f"{protocol.title} is defined for {protocol.skeleton}, this is {own.name}: not comparable with others"


def on_missing(stats: Mapping[str, float]) -> Iterable[str]:
    """Why single numbers are -1 where others are not: nobody of that size, that level, that group of keypoints."""
    absent = [name for name, value in stats.items() if value == -1]
    if not absent or len(absent) == len(stats):
        return
    groups = dict.fromkeys(name.rpartition("_")[0] for name in absent)
    for group in groups:
        mine = [name for name in absent if name.rpartition("_")[0] == group]
        of_group = [name for name in stats if name.rpartition("_")[0] == group]
        if group and len(mine) == len(of_group):
            yield f"{group}: -1, nobody has a labelled keypoint of it"
            continue
        where = f"{group}: " if group else ""
        for end, words in _RANGES.items():
            names = [name for name in mine if name.endswith((f"AP{end}", f"AR{end}"))]
            if names:
                yield f"{where}{' and '.join(n.rpartition('_')[2] for n in names)} are -1: nobody is {words}"
        for letter, words in _LEVELS.items():
            if f"AP({letter})" in mine:
                yield f"AP({letter}) is -1: nobody can be scored on images that are {words}"
