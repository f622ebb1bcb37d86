"""Which prediction belongs to whom, where each person has one: two Datasets to the arrays of `arrays`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError, SchemaError
from kpdata.eval import prepare
from kpdata.eval.matching import match
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Params
from kpdata.eval.points.arrays import finite
from kpdata.eval.wording import many
from kpdata.skeleton import Skeleton, load

# Falloff and threshold of the matching below, where a skeleton has no official sigmas (MPII, LSP): about COCO's hip.
# They decide who belongs to whom in images of several people, and no number else.
PAIRING_SIGMA, PAIRING_OKS = 0.1, 0.1
_FAR = 1e9  # px: a keypoint without coordinate is near nobody; NaN would match anybody


@dataclass(frozen=True, slots=True)
class Points:
    """N people of one skeleton and a prediction for each, or none, in the order of the ground truth's persons table.

    `predictions` is the Dataset that `prediction_rows` index: its images are the ground truth's.
    """

    skeleton: Skeleton
    mask: Bools  # (K,) keypoints that the predictions can have at all
    truth: Floats  # (N, K, 2)
    labelled: Bools  # (N, K); nothing of a crowd, and no keypoint outside the mask
    predicted: Floats  # (N, K, 2) NaN where there is no prediction
    truth_rows: Ints  # (N,)
    prediction_rows: Ints  # (N,) -1: unpaired
    gt: Dataset
    predictions: Dataset
    pairing: str  # the rule in words


def pair_people(
    gt: Dataset,
    predictions: Dataset,
    notes: list[str],
    *,
    skeleton: str | Skeleton | None = None,
    unknown_images: prepare.UnknownImages = "refuse",
) -> Points:
    """Find the prediction of each person by the first rule that the data allow.

    1. Predictions that are bare arrays (MPII's and LSP's `.mat` and `.h5`): the order of the file. They may be as many
       as all people, or as those of one split (of LSP's two of 1,000 the test people).
    2. Annotation ids, where every prediction has the id and the image of a person.
    3. Image and `person_index`, where both sides have one.
    4. Row by row, where both list the same images in the same order and nobody has a score.
    5. By score: in an image of one person the best, elsewhere as pycocotools matches at OKS 0.1, with the ground
       truth's area (else its box, else the extent of its keypoints) and the skeleton's sigmas, else 0.1 for all.

    skeleton: whose people, where the ground truth has several (predictions of the others' categories are left out, with
    a note); or a skeleton of as many keypoints that names them.
    unknown_images: `refuse` or `ignore` predictions for images that the ground truth does not list (rules 2 to 5).
    Raises EvaluationError where that does not come out: another number of keypoints (names both skeletons), arrays of
    another number of people, several skeletons, no keypoints, unknown images.
    """
    bones, rows = _people(gt, load(skeleton) if isinstance(skeleton, str) else skeleton)
    predictions = _of_these_categories(gt, bones, rows, predictions, notes)
    _same_keypoints(bones, predictions)
    by_order = _in_file_order(gt, rows, predictions, notes)
    if by_order is None:
        # ids of images that a reader numbered, or that are texts, are looked up by name
        predictions = prepare.on_the_same_images(gt, predictions, unknown_images, notes)
    else:
        rows = by_order
    mask = _mask(predictions, bones, notes)
    people = schema.take(gt.persons, rows)
    flags = schema.matrix(people["visibility"], len(bones))
    crowd = schema.values(people["iscrowd"], missing=False)
    truth = schema.matrix(people["keypoints"], 2 * len(bones)).reshape(-1, len(bones), 2)
    labelled = (flags > 0) & mask & ~crowd[:, None]
    found = _predicted(predictions, len(bones))
    if by_order is None:
        of_person, words = _pairing(people, truth, labelled, predictions, found, bones)
    else:
        of_person, words = np.arange(len(rows)), "the order of the two files"
    predicted = np.full_like(truth, np.nan)
    predicted[of_person >= 0] = found[of_person[of_person >= 0]]
    return Points(bones, mask, truth, labelled, predicted, rows, of_person, gt, predictions, words)


# ------------------------------------------------------------------------------------------------------------ skeletons


def _people(gt: Dataset, override: Skeleton | None) -> tuple[Skeleton, Ints]:
    """The skeleton to score and the rows of its people. EvaluationError where it is not clear which."""
    groups = {name: rows for name, rows in gt.groups() if name is not None}
    if not groups:
        problem = f"none of the ground truth's {len(gt):,} people has keypoints"
        raise EvaluationError(problem, hint="is it made of boxes?")
    if override is not None:
        fitting = [name for name in groups if name == override.name] or [
            name for name in groups if len(gt.skeletons[name]) == len(override)
        ]
        groups = {name: groups[name] for name in fitting} or groups
    if len(groups) > 1:
        names = " and ".join(f"{name!r}" for name in groups)
        raise EvaluationError(
            f"the ground truth has people of {names}: one metric for one skeleton", hint="--skeleton chooses one"
        )
    name, rows = next(iter(groups.items()))
    own = gt.skeletons[name]
    return own if override is None else _renamed(own, override), rows


def _renamed(own: Skeleton, override: Skeleton) -> Skeleton:
    if len(own) != len(override):
        raise EvaluationError(
            f"--skeleton {override.name!r} has {len(override)} keypoints, the ground truth's {own.name!r} {len(own)}",
            hint="`kpdata convert --skeleton` brings ground truth and predictions onto another skeleton",
        )
    _same_order(override, own, f"--skeleton {override.name!r}", f"the ground truth's {own.name!r}")
    return override


def _same_order(one: Skeleton, other: Skeleton, named: str, expected: str) -> None:
    """EvaluationError where two skeletons have the same keypoint names in another order."""
    a, b = one.keypoint_names, other.keypoint_names
    if a != b and set(a) == set(b):
        first = next(column for column, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
        raise EvaluationError(
            f"{named} has the keypoints of {expected} in another order: column {first} is {a[first]!r}, expected "
            f"{b[first]!r}",
            hint="`kpdata convert --skeleton` brings both onto one skeleton",
        )


def _of_these_categories(gt: Dataset, bones: Skeleton, rows: Ints, predictions: Dataset, notes: list[str]) -> Dataset:
    """The predictions without those of categories that only people of the ground truth's other skeletons have."""
    others = np.ones(len(gt), bool)
    others[rows] = False
    known, ids = schema.valid(gt.persons["category_id"]), schema.values(gt.persons["category_id"], missing=-1)
    foreign = np.unique(ids[known & others & schema.valid(gt.persons["skeleton"])])
    own = np.unique(ids[known & ~others])
    if not len(own) or not len(foreign):
        return predictions  # categories do not tell whose a prediction is
    column = predictions.persons["category_id"]
    of = schema.values(column, missing=-1)
    away = schema.valid(column) & np.isin(of, foreign) & ~np.isin(of, own)
    if not away.any():
        return predictions
    found = np.unique(of[away]).tolist()
    named = f"{'category' if len(found) == 1 else 'categories'} {' and '.join(str(number) for number in found)}"
    who = many(int(away.sum()), "prediction")
    notes.append(f"{who} of {named}, whose people have another skeleton than {bones.name!r}, left out")
    return replace(predictions, persons=schema.take(predictions.persons, np.flatnonzero(~away)))


def _same_keypoints(bones: Skeleton, predictions: Dataset) -> None:
    for name, rows in predictions.groups():
        if name is None:
            raise EvaluationError(
                f"{len(rows):,} of {len(predictions):,} predictions have no keypoints",
                hint="detector boxes cannot be scored as poses",
            )
        own = predictions.skeletons[name]
        if len(own) != len(bones):
            raise EvaluationError(
                f"the predictions have {len(own)} keypoints ({own.name}), expected {len(bones)} ({bones.name}, the "
                "ground truth's)",
                hint="`kpdata convert --skeleton` brings both onto one skeleton",
            )
        _same_order(own, bones, f"the predictions' {own.name!r}", f"the ground truth's {bones.name!r}")


def _mask(predictions: Dataset, bones: Skeleton, notes: list[str]) -> Bools:
    """(K,) bool: keypoints that the predictions can have: a remap leaves some without source."""
    mask = np.ones(len(bones), bool)
    for facts in predictions.datasets.values():
        for known in (facts.get("keypoint_mask") or {}).values():
            mask &= np.array(known, bool) if len(known) == len(bones) else True
    absent = [bones.keypoint_names[k] for k in np.flatnonzero(~mask).tolist()]
    if absent:
        notes.append(f"the predictions' own skeleton has no {', '.join(absent)}: left out of the score")
    return mask


def _predicted(predictions: Dataset, count: int) -> Floats:
    """(M, K, 2) NaN where a prediction says itself that a keypoint is absent, or has no finite coordinate."""
    try:
        xy = schema.matrix(predictions.persons["keypoints"], 2 * count).reshape(-1, count, 2)
        present = schema.matrix(predictions.persons["visibility"], count) > 0
    except SchemaError as error:
        raise EvaluationError(f"predictions: {error.message}", hint=error.hint) from error
    return np.where((present & finite(xy))[..., None], xy, np.nan)


# -------------------------------------------------------------------------------------------------------------- pairing


def _in_file_order(gt: Dataset, rows: Ints, predictions: Dataset, notes: list[str]) -> Ints | None:
    """Rows of the people that bare arrays are for, in their order; None where predictions name images.

    EvaluationError where they are neither as many as all people nor as those of one split.
    """
    sources = predictions.datasets.values()
    if not sources or not all(facts.get("join") == "order" for facts in sources):
        return None
    if len(predictions) == len(rows):
        return rows
    texts = np.array([*schema.texts(gt.images["split"]), None], object)[gt.image_rows()[rows]]
    sizes = {str(split): int((texts == split).sum()) for split in dict.fromkeys(texts.tolist()) if split}
    fitting = [split for split, size in sizes.items() if size == len(predictions)]
    if len(fitting) == 1 or "test" in fitting:  # LSP: 1,000 of both, and the test people are the benchmark
        split = "test" if "test" in fitting else fitting[0]
        notes.append(
            f"{len(predictions):,} predictions for {len(rows):,} people: taken for those of the split {split!r}, in "
            "their order"
        )
        return np.asarray(rows[texts == split])
    splits = "".join(f", {size:,} of them {split!r}" for split, size in sizes.items())
    raise EvaluationError(
        f"{len(predictions):,} predictions known by their order alone, expected one for each of the ground truth's "
        f"{len(rows):,} people{splits}",
        hint="are they of another split, or another version of the annotations?",
    )


def _pairing(
    people: pa.Table, truth: Floats, labelled: Bools, predictions: Dataset, found: Floats, bones: Skeleton
) -> tuple[Ints, str]:
    """(N,) row of each person's prediction, -1 for none, and the rule in words."""
    images, image_of = schema.values(people["image_id"]), schema.values(predictions.persons["image_id"])
    place = _by_annotation_id(people, predictions)
    if place is not None:
        return place, "annotation id"
    place = _by_person_index(people, predictions)
    if place is not None:
        return place, "image and person_index"
    scored = schema.valid(predictions.persons["score"]).any()
    if not scored and np.array_equal(images, image_of):
        return np.arange(len(images)), "row by row: both list the same images in the same order"
    alone = _alone(images)
    place = np.where(alone, _best_of_image(predictions, images), -1)
    if alone.all():
        return place, "the prediction of highest score of each image, which have one person each"
    crowded = np.flatnonzero(~alone)
    chosen, dt = _matched(schema.take(people, crowded), truth[crowded], labelled[crowded], predictions, found, bones)
    place[crowded[chosen]] = dt
    elsewhere = f"matched at OKS {PAIRING_OKS}, best score first, where an image has several people"
    return place, elsewhere + ("; the highest score where it has one" if alone.any() else "")


def _alone(images: Ints) -> Bools:
    """(N,) bool: nobody else is on the person's image."""
    _, inverse, counts = np.unique(images, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] == 1)


def _by_annotation_id(people: pa.Table, predictions: Dataset) -> Ints | None:
    """Where every prediction has id and image of a person, once. Results files number theirs: never theirs."""
    for facts in predictions.datasets.values():
        numbered = "assigned" in (facts.get("ids"), facts.get("annotation_ids"))
        if numbered or facts.get("source_format") == "coco_results":
            return None
    ids, own = (schema.values(table["annotation_id"]) for table in (people, predictions.persons))
    if not len(own) or any(len(np.unique(column)) < len(column) for column in (ids, own)):
        return None
    at = lookup(ids, own)
    same = schema.values(people["image_id"])[at] == schema.values(predictions.persons["image_id"])
    return lookup(own, ids) if ((at >= 0) & same).all() else None


def _by_person_index(people: pa.Table, predictions: Dataset) -> Ints | None:
    """Where everyone on both sides has an image and a number in it, once."""
    sides = (people, predictions.persons)
    if not len(predictions) or not all(schema.valid(side["person_index"]).all() for side in sides):
        return None
    known = np.unique(np.concatenate([schema.values(side["image_id"]) for side in sides]))
    keys = [
        np.searchsorted(known, schema.values(side["image_id"])) * (1 << 32) + schema.values(side["person_index"])
        for side in sides
    ]
    if any(len(np.unique(key)) < len(key) for key in keys):
        return None
    return lookup(keys[1], keys[0])


def _best_of_image(predictions: Dataset, images: Ints) -> Ints:
    """(N,) row of the best prediction on each of these images, the first of equals; -1 where there is none."""
    image_of, score = (schema.values(predictions.persons[name]) for name in ("image_id", "score"))
    order = np.lexsort((-score, image_of))  # NaN after all numbers
    listed, start = np.unique(image_of[order], return_index=True)
    at = lookup(listed, images)
    return np.where(at >= 0, np.append(order[start], -1)[at], -1)


def _matched(
    people: pa.Table, truth: Floats, labelled: Bools, predictions: Dataset, found: Floats, bones: Skeleton
) -> tuple[Ints, Ints]:
    """(P,) people and (P,) the rows of their predictions, as pycocotools matches."""
    boxes = np.nan_to_num(schema.matrix(people["bbox"], 4))
    ones = np.ones(len(people), np.int64)
    gt = GroundTruth(
        image_id=schema.values(people["image_id"]),
        category_id=ones,
        annotation_id=np.arange(1, len(people) + 1),
        keypoints=np.nan_to_num(truth),
        labelled=labelled & finite(truth),
        num_keypoints=labelled.sum(1),
        bbox=boxes,
        area=areas(people, truth, labelled, boxes),
        iscrowd=schema.values(people["iscrowd"], missing=False),
    )
    dt = Detections(
        image_id=schema.values(predictions.persons["image_id"]),
        category_id=np.ones(len(found), np.int64),
        keypoints=np.nan_to_num(found, nan=_FAR),
        score=schema.values(predictions.persons["score"], missing=0.0),
        area=np.zeros(len(found)),
    )
    params = Params(
        sigmas=np.array(bones.sigmas or [PAIRING_SIGMA] * len(bones)),
        iou_thresholds=np.array([PAIRING_OKS]),
        area_ranges=np.array([[-np.inf, np.inf]]),
        area_labels=("all",),
        max_dets=(max(1, len(found)),),
    )
    result = match(gt, dt, np.unique(gt.image_id), np.ones(1, np.int64), params)
    hit = np.flatnonzero(result.matched[0, 0] >= 0)
    person = result.pair_gt[result.matched[0, 0][hit]]
    counts = ~result.gt_ignored[0, person]
    return result.gt_row[person[counts]], result.dt_row[hit[counts]]


def areas(people: pa.Table, truth: Floats, labelled: Bools, boxes: Floats) -> Floats:
    """(N,) square px: the area of the file, else 0.53 of the box (CrowdPose's rule), else of the keypoints' extent."""
    area = schema.values(people["area"])
    used = (labelled & finite(truth))[..., None]
    span = np.where(used, truth, -np.inf).max(1, initial=-np.inf) - np.where(used, truth, np.inf).min(1, initial=np.inf)
    extent = np.where(used.any((1, 2)), span.clip(1).prod(1), 1.0)
    box = boxes[:, 2] * boxes[:, 3]
    return np.where(area > 0, area, 0.53 * np.where(box > 0, box, extent))
