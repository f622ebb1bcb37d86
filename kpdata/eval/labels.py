"""The same people labelled more than once: who is who, in two annotators' files or in one data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup, pairs_in_images
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.areas import OWN_RULE, OWN_SHARE
from kpdata.geometry import box_area, box_from_keypoints, box_iou
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

OVERLAP = 0.5  # intersection over union from which on two boxes of one file are taken for one person's
# Of two files each box also has to be the other's best, so that a low bar does: a high one would leave out the people
# whose labels differ most, and make sigmas too small.
BEST_OVERLAP = 0.25
_SHARES = {OWN_RULE: OWN_SHARE}  # of the box, that data sets take whose own evaluator knows no other area


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """L labels of G people, each of whom has at least two.

    skeleton: of K keypoints. matching, area_rule: words. notes: sentences about what was left out.
    """

    skeleton: Skeleton
    xy: Floats  # (L, K, 2) px
    labelled: Bools  # (L, K)
    person: Ints  # (L,) 0 … G - 1
    area: Floats  # (G,) square px, the mean over the person's labels
    matching: str
    area_rule: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One annotator: N labels that are no crowds and have a labelled keypoint. `rows` lead back to the table."""

    xy: Floats  # (N, K, 2)
    labelled: Bools  # (N, K)
    area: Floats  # (N,) the field, NaN where there is none
    stand_in: Floats  # (N,) share of the box, NaN where no rule says so
    box: Floats  # (N, 4) annotated boxes, NaN where there is none
    boxed: bool  # everybody has one
    image: Ints  # (N,)
    rows: Ints  # (N,)


def two_annotators(a: Dataset, b: Dataset, skeleton: Skeleton | None = None, box_share: float | None = None) -> Labels:
    """Labels of the people whom both annotators labelled.

    Images are the same where their file names are (whole, else without folders), else where their ids are. People are
    the same where their annotation ids are, if boxes under equal ids overlap (median intersection over union of 0.5 or
    more: annotators who number from 1 share ids by chance); else where each is the other's best box, by 0.25 or more.
    Errors: see `sigmas.estimate_sigmas`.
    """
    bones = _common_skeleton(a, b, skeleton)
    one, two = (_side(dataset, len(bones), box_share) for dataset in (a, b))
    one_image, two_image = _images(a, b)
    boxed = one.boxed and two.boxed
    box = [side.box if boxed else _extents(side) for side in (one, two)]
    ids = [schema.values(d.persons["annotation_id"])[side.rows] for d, side in ((a, one), (b, two))]
    first, second = _by_id(ids[0], ids[1], one_image[one.rows], two_image[two.rows])
    overlap = box_iou(box[0][first], box[1][second])
    how = "annotation id"
    if not len(first) or not np.nanmedian(overlap) >= OVERLAP:
        first, second = _by_box(box[0], box[1], one_image[one.rows], two_image[two.rows])
        how = f"image and best {'box' if boxed else 'extent of the keypoints'}, overlapping by {BEST_OVERLAP:g} or more"
    if not len(first):
        shared = len(np.intersect1d(one_image[one.rows], two_image[two.rows]))
        raise EvaluationError(
            f"no person is labelled in both: {len(one.rows):,} labels in A, {len(two.rows):,} in B, on {shared:,} "
            "common images",
            hint="sigmas need the same people labelled twice; images meet by file name, or by id",
        )
    left = (len(one.rows) - len(first), len(two.rows) - len(first))
    notes = [f"{left[0]:,} labels of A and {left[1]:,} of B have no partner: left out"] if any(left) else []
    if schema.valid(a.persons["score"]).any() or schema.valid(b.persons["score"]).any():
        notes.append("one of the two has scores: the error of a model is no annotator's, and is not what sigmas mean")
    person = np.tile(np.arange(len(first)), 2)
    fields = ("xy", "labelled", "area", "stand_in")
    joined = [np.concatenate([getattr(one, name)[first], getattr(two, name)[second]]) for name in fields]
    return _labels(bones, joined, person, f"by {how}", _area_words((a, b), box_share), notes)


def repeated_labels(
    dataset: Dataset, skeleton: Skeleton | None = None, group: str | None = None, box_share: float | None = None
) -> Labels:
    """Labels of the people whom one data set holds several times.

    group: `track_id`, or a key of the people's extras, that is equal for labels of one person in one image. Without it
    the track id, where one repeats within an image; else labels in an image whose boxes (the extents of their
    keypoints where boxes are missing) all overlap one another by 0.5 or more. Boxes that form a chain, each overlapping
    only the next, are several people perhaps: they are left out and counted. Errors: see `sigmas.estimate_sigmas`.
    """
    bones = _named(dataset.skeleton, skeleton)
    side = _side(dataset, len(bones), box_share)
    key, how = _group_keys(dataset, side, group)
    notes = []
    if key is None:
        key, chained = _by_overlap(side)
        how = f"by image and {'box' if side.boxed else 'extent of the keypoints'}, overlapping by {OVERLAP:g} or more"
        notes += [f"{chained:,} labels overlap in chains, perhaps of several people: left out"] if chained else []
    known = np.flatnonzero(key >= 0)
    group_of, person, count = np.unique(key[known], return_inverse=True, return_counts=True)
    kept = count[person] >= 2
    if not kept.any():
        raise EvaluationError(
            f"nobody is labelled twice: {len(side.rows):,} labels of {len(group_of):,} people, told apart {how}",
            hint="give a second annotator's file, or the key that tells who is who",
        )
    rows = known[kept]
    _, person = np.unique(person[kept], return_inverse=True)
    single = int((~kept).sum())
    notes += [f"{single:,} people have one label only: left out"] if single else []
    arrays = [side.xy[rows], side.labelled[rows], side.area[rows], side.stand_in[rows]]
    return _labels(bones, arrays, person, how, _area_words((dataset,), box_share), notes)


def _labels(bones: Skeleton, arrays: list[NDArray[Any]], person: Ints, how: str, rule: str, notes: list[str]) -> Labels:
    """Labels with an area for each person, the field's where one of the labels has it; people without are left out."""
    xy, labelled, *areas = arrays
    field, stand_in = (_mean_of(person, area) for area in areas)
    mean = np.where(np.isnan(field), stand_in, field)
    count = np.isfinite(mean)
    if not count.any():
        raise EvaluationError(
            f"none of the {len(count):,} people labelled twice has an area above 0: a sigma is relative to its root",
            hint="add 'area' (the mask's, in square pixels), or give the share of the box that stands for it "
            "(--box-share, box_share)",
        )
    if absent := int((~count).sum()):
        notes.append(f"{absent:,} people without an area are left out")
    kept = count[person]
    _, renumbered = np.unique(person[kept], return_inverse=True)
    return Labels(bones, xy[kept], labelled[kept], renumbered, mean[count], how, rule, tuple(notes))


def _mean_of(person: Ints, area: Floats) -> Floats:
    """(G,) mean over each person's labels of the areas above 0; NaN where there is none."""
    known = np.isfinite(area) & (area > 0)
    total, count = np.bincount(person, np.where(known, area, 0)), np.bincount(person, known)
    mean: Floats = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


# ------------------------------------------------------------------------------------------------------------- one side


def _side(dataset: Dataset, k: int, box_share: float | None) -> _Side:
    people = dataset.persons
    xy = schema.matrix(people["keypoints"], 2 * k).reshape(len(people), k, 2)
    visibility = schema.matrix(people["visibility"], k)
    labelled = (visibility > 0) & np.isfinite(xy).all(-1)
    rows = np.flatnonzero(labelled.any(1) & ~schema.values(people["iscrowd"], missing=False))
    if not len(rows):
        raise EvaluationError(f"none of {len(people):,} people has a labelled keypoint", hint="is it made of boxes?")
    boxes = schema.matrix(people["bbox"], 4)[rows]
    extents = box_from_keypoints(xy[rows], labelled[rows].astype(np.int8))
    return _Side(
        xy=xy[rows],
        labelled=labelled[rows],
        area=schema.values(people["area"])[rows],
        stand_in=box_area(np.where(np.isnan(boxes), extents, boxes)) * _shares(dataset, rows, box_share),
        box=boxes,
        boxed=bool(schema.valid(people["bbox"])[rows].all()),
        image=schema.values(people["image_id"])[rows],
        rows=rows,
    )


def _extents(side: _Side) -> Floats:
    return box_from_keypoints(side.xy, side.labelled.astype(np.int8))


def _shares(dataset: Dataset, rows: Ints, box_share: float | None) -> Floats:
    """(N,) share of the box that stands for the area: the data set's own rule, else the given one, else NaN."""
    otherwise = np.nan if box_share is None else box_share
    names = np.array(schema.texts(dataset.persons["dataset"]), object)[rows]
    share = np.full(len(rows), otherwise)
    for name, facts in dataset.datasets.items():
        share[names == name] = _SHARES.get(str(facts.get("area_kind")), otherwise)
    return share


def _area_words(datasets: tuple[Dataset, ...], box_share: float | None) -> str:
    kinds = {str(facts.get("area_kind")) for d in datasets for facts in d.datasets.values()}
    has = [schema.valid(d.persons["area"]) for d in datasets]
    words = ["the area field"] if any(h.any() for h in has) else []
    if "box" in kinds and words:
        words = ["the area field (whole boxes: sigmas come out smaller than with masks)"]
    share = next((_SHARES[kind] for kind in kinds if kind in _SHARES), box_share)
    if not all(h.all() for h in has) and share is not None:
        boxed = all(schema.valid(d.persons["bbox"]).all() for d in datasets)
        words += [f"{share:g} × w × h of the box" + ("" if boxed else ", or of the keypoints' extent without one")]
    return ", else ".join(words) or "none"


# ------------------------------------------------------------------------------------------------- two annotators


def _named(own: Skeleton, given: Skeleton | None) -> Skeleton:
    """The data set's skeleton, or the given one, where that has as many keypoints and no other names."""
    if given is None:
        return own
    if len(given) != len(own) or not (_anonymous(own) or own.keypoint_names == given.keypoint_names):
        raise EvaluationError(
            f"the skeleton {given.name!r} ({len(given)} keypoints) was given, the labels have {own.name!r} "
            f"({len(own)})",
            hint="`kpdata convert --skeleton` brings labels onto another skeleton",
        )
    return given


def _anonymous(skeleton: Skeleton) -> bool:
    return skeleton.name == f"keypoints_{len(skeleton)}"


def _common_skeleton(a: Dataset, b: Dataset, given: Skeleton | None) -> Skeleton:
    one, two = a.skeleton, b.skeleton
    if len(one) != len(two):
        raise EvaluationError(
            f"A has {len(one)} keypoints ({one.name}), B {len(two)} ({two.name}): expected the same",
            hint="`kpdata convert --skeleton` brings both onto one skeleton",
        )
    if one.keypoint_names != two.keypoint_names and not (_anonymous(one) or _anonymous(two)):
        at = next(i for i in range(len(one)) if one.keypoint_names[i] != two.keypoint_names[i])
        raise EvaluationError(
            f"column {at} is {one.keypoint_names[at]!r} in A ({one.name}) and {two.keypoint_names[at]!r} in B "
            f"({two.name}): expected the same keypoints in the same order",
            hint="`kpdata convert --skeleton` brings both onto one skeleton",
        )
    return _named(two if _anonymous(one) else one, given)


def _images(a: Dataset, b: Dataset) -> tuple[Ints, Ints]:
    """A number for the image of each person, (N_a,) and (N_b,), equal where the image is; -1 for an unlisted one."""
    names = [schema.texts(d.images["file_name"]) for d in (a, b)]
    for cut in (False, True):
        short = [[_last(n) if n and cut else n for n in side] for side in names]
        told = [[n for n in side if n] for side in short]
        shared = set(told[0]) & set(told[1])
        if shared and all(len(set(side)) == len(side) for side in told):
            number = {name: i for i, name in enumerate(sorted(shared))}
            numbers = [np.array([number.get(n or "", -1 - i) for i, n in enumerate(side)], np.int64) for side in short]
            rows = [d.image_rows() for d in (a, b)]
            # Unshared images of the two sides are never the same: they stay unpaired below zero.
            return tuple(np.where((r >= 0) & (n[r] >= 0), n[r], -1) for n, r in zip(numbers, rows, strict=True))  # type: ignore[return-value]
    one, two = (schema.values(d.persons["image_id"]) for d in (a, b))
    keys = np.unique(np.concatenate([one, two]))
    return lookup(keys, one), lookup(keys, two)


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _by_id(a: Ints, b: Ints, image_a: Ints, image_b: Ints) -> tuple[Ints, Ints]:
    """Rows of labels with one annotation id in one image; nobody where ids repeat within a file."""
    nobody = np.empty(0, np.int64)
    if len(np.unique(a)) < len(a) or len(np.unique(b)) < len(b):
        return nobody, nobody
    place = lookup(b, a)
    first = np.flatnonzero(place >= 0)
    second = place[first]
    same = (image_a[first] == image_b[second]) & (image_a[first] >= 0)
    return first[same], second[same]


def _by_box(a: Floats, b: Floats, image_a: Ints, image_b: Ints) -> tuple[Ints, Ints]:
    """Rows of boxes that are each other's best in their image, overlapping by BEST_OVERLAP or more."""
    first, second = pairs_in_images(image_a, image_b)
    iou = box_iou(a[first], b[second])
    near = np.flatnonzero(iou >= BEST_OVERLAP)
    first, second, iou = first[near], second[near], iou[near]
    order = np.argsort(-iou, kind="stable")
    best_a, best_b = np.full(len(a), -1), np.full(len(b), -1)
    best_a[first[order[::-1]]] = second[order[::-1]]  # the best is written last
    best_b[second[order[::-1]]] = first[order[::-1]]
    rows = np.flatnonzero(best_a >= 0)
    mutual = rows[best_b[best_a[rows]] == rows]
    return mutual, best_a[mutual]


# --------------------------------------------------------------------------------------------------- one data set


def _group_keys(dataset: Dataset, side: _Side, group: str | None) -> tuple[Ints | None, str]:
    """(N,) number of the person of each label, -1 where not told, with words; None where boxes have to tell."""
    track = schema.values(dataset.persons["track_id"])[side.rows]
    tracked = schema.valid(dataset.persons["track_id"])[side.rows]
    if group is None or group == "track_id":
        key = _numbered(side.image, np.where(tracked, track, 0), tracked)
        if group or len(np.unique(key[tracked])) < int(tracked.sum()):
            return key, "by image and track_id"
        return None, ""
    texts = np.array(schema.texts(dataset.persons["extras"]), object)[side.rows].tolist()
    values = [None if text is None else json.loads(text).get(group) for text in texts]
    told = np.array([value is not None for value in values], bool)
    if not told.any():
        raise EvaluationError(
            f"none of {len(values):,} people has a key {group!r} in its extras", hint="expected track_id or such a key"
        )
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(json.dumps(value, sort_keys=True), len(numbers)) for value in values]
    return _numbered(side.image, np.array(codes, np.int64), told), f"by image and {group}"


def _numbered(image: Ints, key: Ints, told: Bools) -> Ints:
    _, number = np.unique(np.stack([image, key], axis=1), axis=0, return_inverse=True)
    return np.where(told, number.reshape(-1), -1)


def _by_overlap(side: _Side) -> tuple[Ints, int]:
    """(N,) number of the person of each label, -1 in chains; and how many labels are in chains."""
    box = side.box if side.boxed else _extents(side)
    a, b = pairs_in_images(side.image, side.image)
    once = a < b
    a, b = a[once], b[once]
    near = box_iou(box[a], box[b]) >= OVERLAP
    a, b = a[near], b[near]
    group = np.arange(len(box))
    while True:  # a pass a step of the longest chain
        least = group.copy()
        np.minimum.at(least, a, group[b])
        np.minimum.at(least, b, group[a])
        if np.array_equal(least, group):
            break
        group = least
    size, links = np.bincount(group, minlength=len(box)), np.bincount(group[a], minlength=len(box))
    chained = links[group] < size[group] * (size[group] - 1) // 2
    return np.where(chained, -1, group), int(chained.sum())
