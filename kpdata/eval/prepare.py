"""Two Datasets to Parts: the arrays of each skeleton, with what was decided on the way said in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.dataset import Dataset, lookup
from kpdata.errors import EvaluationError, SchemaError
from kpdata.eval.matching import match
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Params, detection_area
from kpdata.eval.part import Part
from kpdata.skeleton import Skeleton, load

# CrowdPose's evaluator takes 0.53 x w x h of the box for the area (crowdposetools/cocoeval.py): data sets marked so.
AREA_RULES = {"box×0.53": 0.53}
WHOLE, BODY = "coco_wholebody_133", "coco_17"


@dataclass(frozen=True, slots=True)
class Sides:
    """Ground truth and predictions brought together: `parts` index the tables of these two datasets."""

    gt: Dataset  # the body part where WholeBody meets 17 keypoints
    predictions: Dataset  # with the ground truth's image ids
    parts: tuple[Part, ...]
    category_ids: Ints  # (C,) ascending: all that the ground truth lists, also those without people
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(gt: Dataset, predictions: Dataset, notes: list[str], *, skeleton: str | Skeleton | None = None) -> Sides:
    """Match everyone: a Part a skeleton. Errors and arguments as `kpdata.evaluate`; sentences go to `notes`."""
    predictions = _on_the_same_images(gt, predictions, notes)
    gt = _body_part(gt, predictions, notes)
    categories = _category_ids(gt, 1)
    image_ids, listed = schema.values(gt.images["image_id"]), _listed_categories(gt, categories)
    chosen = _skeletons(gt, categories, listed, load(skeleton) if isinstance(skeleton, str) else skeleton)
    found = _category_ids(predictions, listed[0] if len(listed) == 1 else 1)
    parts = []
    for bones, name, ids in chosen:
        params = Params(sigmas=_sigmas(bones))
        mask = _mask(predictions, bones, notes)
        truth, visibility, truth_rows = _ground_truth(gt, categories, name, ids, bones, mask, notes)
        results, scores, rows = _detections(predictions, found, ids, bones, mask, notes)
        parts.append(Part(
            skeleton=bones, mask=mask, truth=truth, detections=results, visibility=visibility, keypoint_scores=scores,
            truth_rows=truth_rows, detection_rows=rows, image_ids=image_ids, category_ids=ids, params=params,
            matches=match(truth, results, image_ids, ids, params),
        ))  # fmt: skip
    scored = sum(int(part.counted().sum()) for part in parts)
    _mention(gt, predictions, found, listed, scored, notes)
    facts = {
        "sigmas": {bones.name: list(bones.sigmas or ()) for bones, _, _ in chosen},
        "skeletons": {s.name: {"keypoints": len(s), "sigma_source": s.sigma_source} for s, _, _ in chosen},
        "category_ids": listed.tolist(),
        "counts": {"images": gt.images.num_rows, "people": len(gt), "people scored": scored,
                   "predictions": len(predictions)},
        "area": _area_words(gt),
        "detection_area": "w × h of each result's bbox" if _first_has_box(predictions) else "extent of all keypoints",
        "max_dets": list(Params(sigmas=np.ones(1)).max_dets),
    }  # fmt: skip
    return Sides(gt, predictions, tuple(parts), listed, facts)


# ---------------------------------------------------------------------------------------------------- bringing together


def _on_the_same_images(gt: Dataset, predictions: Dataset, notes: list[str]) -> Dataset:
    """Predictions whose image ids are the ground truth's.

    Ids that are texts, or that a reader numbered, are looked up by source id and file name; other ids as they are.
    """
    texts = schema.valid(predictions.images["source_image_id"]).any()
    both_named = all(schema.valid(d.images["file_name"]).any() for d in (gt, predictions))
    if len(predictions) and (texts or (both_named and (_numbered(gt) or _numbered(predictions)))):
        predictions = _matched_by_name(gt, predictions, notes)
    ids = np.unique(schema.values(predictions.persons["image_id"]))
    strangers = ids[lookup(schema.values(gt.images["image_id"]), ids) < 0]
    if len(strangers):
        raise _unknown_images(len(strangers), int(strangers[0]), schema.values(gt.images["image_id"]).tolist())
    return predictions


def _numbered(dataset: Dataset) -> bool:
    """A reader numbered the images: ids of two such sources have nothing to do with each other."""
    return any(d.get("ids") == "assigned" for d in dataset.datasets.values())


def _matched_by_name(gt: Dataset, predictions: Dataset, notes: list[str]) -> Dataset:
    known = schema.values(gt.images["image_id"]).tolist()
    by_name = _names_to_ids(schema.texts(gt.images["file_name"]), known)
    by_id = {
        text: number for text, number in zip(schema.texts(gt.images["source_image_id"]), known, strict=True) if text
    }
    own, missing = schema.values(predictions.images["image_id"]), []
    used = np.isin(own, schema.values(predictions.persons["image_id"]))
    moved = own.copy()
    texts, files = (schema.texts(predictions.images[key]) for key in ("source_image_id", "file_name"))
    for row in np.flatnonzero(used).tolist():
        name = texts[row] or files[row]
        if name is None:
            continue  # an integer beside texts: it stands for itself
        found = by_id.get(name, by_name.get(name, by_name.get(_last_part(name))))
        missing += [name] if found is None else []
        moved[row] = own[row] if found is None else found
    if missing:
        listed = [*by_id, *by_name] or known
        raise _unknown_images(len(missing), missing[0], listed, gt.images.num_rows)
    notes.append("images were matched by source id or file name: the image ids of the two files are not the same kind")
    place = lookup(own, schema.values(predictions.persons["image_id"]))
    column = schema.fixed(moved[place], pa.int64())
    index = predictions.persons.schema.get_field_index("image_id")
    return replace(predictions, persons=predictions.persons.set_column(index, "image_id", column))


def _names_to_ids(names: list[str | None], ids: list[int]) -> dict[str, int]:
    """Image by file name, and by the name without its folder where that is unique."""
    full = {name: number for name, number in zip(names, ids, strict=True) if name}
    short: dict[str, set[int]] = {}
    for name, number in full.items():
        short.setdefault(_last_part(name), set()).add(number)
    return full | {name: min(found) for name, found in short.items() if len(found) == 1 and name not in full}


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _unknown_images(count: int, example: Any, listed: list[Any], total: int | None = None) -> EvaluationError:
    shown = f"{len(listed) if total is None else total:,}, such as {listed[0]!r}" if listed else "none"
    return EvaluationError(
        f"predictions for {count:,} images that the ground truth does not list, such as {example!r} (it lists {shown})",
        hint="is it the ground truth of another split?",
    )


def _body_part(gt: Dataset, predictions: Dataset, notes: list[str]) -> Dataset:
    """WholeBody ground truth against 17 keypoints: its body part, which is COCO's."""
    if set(gt.skeletons) != {WHOLE} or {len(s) for s in predictions.skeletons.values()} != {len(load(BODY))}:
        return gt
    from kpdata.remapping import remap

    told = gt.persons["num_keypoints"]
    body = remap(gt, BODY)[0]
    index = body.persons.schema.get_field_index("num_keypoints")
    notes.append("the ground truth is WholeBody (133 keypoints), the predictions are not: scored on the 17 of the body")
    # The files' own num_keypoints counts the body only, so it stays as it is.
    return replace(body, persons=body.persons.set_column(index, "num_keypoints", told))


# ------------------------------------------------------------------------------------------- categories and skeletons


def _category_ids(dataset: Dataset, missing: int) -> Ints:
    """(N,) category of each person; `missing` where the source has none (many formats know no categories)."""
    ids: Ints = schema.values(dataset.persons["category_id"])
    return np.where(schema.valid(dataset.persons["category_id"]), ids, missing)


def _listed_categories(gt: Dataset, categories: Ints) -> Ints:
    """Ascending ids that the ground truth lists; those of its people where it lists none (kpdata's own, LSP, …)."""
    raw = [row["id"] for d in gt.datasets.values() for row in d.get("categories_raw", ())]
    numbers = [number for number in raw if isinstance(number, int)]
    return np.unique(np.array(numbers, np.int64) if numbers else categories)


_Choice = tuple[Skeleton, str, Ints]


def _skeletons(gt: Dataset, categories: Ints, listed: Ints, override: Skeleton | None) -> list[_Choice]:
    """(skeleton to score with, its name in the table, listed category ids) of all people with keypoints."""
    groups: dict[str, Ints] = {}
    owner: dict[int, str] = {}
    for name, rows in gt.groups():
        if name is None:
            continue
        groups[name] = np.intersect1d(categories[rows], listed)
        for number in groups[name].tolist():
            if owner.setdefault(number, name) != name:
                raise EvaluationError(
                    f"the ground truth's category {number} has people of two skeletons, {owner[number]!r} and {name!r}",
                    hint="`kpdata convert --skeleton` brings them onto one",
                )
    if len(gt) and not groups:
        raise EvaluationError(
            f"none of the ground truth's {len(gt):,} people has keypoints", hint="is it made of boxes?"
        )
    chosen = [(_fitting(gt.skeletons[name], override), name, ids) for name, ids in groups.items() if len(ids)]
    if override is not None and chosen and not any(bones is override for bones, _, _ in chosen):
        has = " and ".join(f"{len(bones)} ({bones.name})" for bones, _, _ in chosen)
        raise EvaluationError(
            f"--skeleton {override.name!r} has {len(override)} keypoints, the ground truth {has}",
            hint="`kpdata convert --skeleton` brings ground truth and predictions onto another skeleton",
        )
    return chosen


def _fitting(own: Skeleton, override: Skeleton | None) -> Skeleton:
    """The skeleton to score with. EvaluationError where the override names the same keypoints in another order."""
    if override is None or len(override) != len(own):
        return own
    names, given = own.keypoint_names, override.keypoint_names
    if names != given and set(names) == set(given):
        first = next(i for i, pair in enumerate(zip(names, given, strict=True)) if pair[0] != pair[1])
        raise EvaluationError(
            f"--skeleton {override.name!r} has the keypoints of {own.name!r} in another order: column {first} is "
            f"{given[first]!r}, expected {names[first]!r}",
            hint="its sigmas would go to the wrong keypoints",
        )
    return override


def _sigmas(skeleton: Skeleton) -> Floats:
    if skeleton.sigmas is None:
        raise EvaluationError(
            f"the skeleton {skeleton.name!r} has no official OKS sigmas, and kpdata invents none",
            hint="--skeleton FILE.toml brings your own (values in a table [sigmas])",
        )
    return np.array(skeleton.sigmas)


def _mask(predictions: Dataset, bones: Skeleton, notes: list[str]) -> Bools:
    """(K,) bool: keypoints that the predictions can have at all: a remap leaves some without source."""
    mask = np.ones(len(bones), bool)
    for facts in predictions.datasets.values():
        for known in (facts.get("keypoint_mask") or {}).values():
            mask &= np.array(known, bool) if len(known) == len(bones) else True
    if not mask.all():
        absent = [name for name, has in zip(bones.keypoint_names, mask.tolist(), strict=True) if not has]
        notes.append(f"the predictions' own skeleton has no {', '.join(absent)}: left out of the score")
    return mask


# -------------------------------------------------------------------------------------------------------------- arrays


def _rows(table: pa.Table, chosen: Bools) -> pa.Table:
    """The chosen rows; the table itself, without a copy, where that is all."""
    return table if chosen.all() else schema.take(table, np.flatnonzero(chosen))


def _ground_truth(
    gt: Dataset, categories: Ints, name: str, ids: Ints, bones: Skeleton, mask: Bools, notes: list[str]
) -> tuple[GroundTruth, NDArray[np.int8], Ints]:
    """Arrays, visibility (N, K) and rows (N,) of everyone of this skeleton or none.

    Those of unlisted categories too: repeated ids find the last of all.
    """
    chosen = np.ones(len(gt), bool)
    for other, rows in gt.groups():
        chosen[rows] = other in (None, name)
    people, listed = _rows(gt.persons, chosen), np.isin(categories[chosen], ids)
    xy, visibility = _poses(people, bones, "the ground truth has people of")
    labelled = (visibility > 0) & mask
    counts, counted = schema.values(people["num_keypoints"]), schema.valid(people["num_keypoints"])
    if not counted.all():
        notes.append(f"{int((~counted).sum()):,} people have no num_keypoints: counted from their labelled keypoints")
    counts = np.where(counted & mask.all(), counts, labelled.sum(1))
    boxes = schema.matrix(people["bbox"], 4)
    truth = GroundTruth(
        image_id=schema.values(people["image_id"]),
        category_id=categories[chosen],
        annotation_id=schema.values(people["annotation_id"]),
        keypoints=xy,
        labelled=labelled,
        num_keypoints=counts,
        bbox=np.where(schema.valid(people["bbox"])[:, None], boxes, 0),
        area=_areas(gt, people, listed),
        iscrowd=schema.values(people["iscrowd"], missing=False),
    )
    return truth, visibility, np.flatnonzero(chosen)


def _poses(people: pa.Table, bones: Skeleton, who: str) -> tuple[Floats, NDArray[np.int8]]:
    """xy (N, K, 2) and visibility (N, K). EvaluationError where somebody has another number of keypoints."""
    try:
        xy = schema.matrix(people["keypoints"], 2 * len(bones)).reshape(-1, len(bones), 2)
        return xy, schema.matrix(people["visibility"], len(bones))
    except SchemaError as error:
        widths = np.unique(np.diff(schema.ragged(people["visibility"])[1])).tolist()
        names = ", ".join(name for name in dict.fromkeys(schema.texts(people["skeleton"])) if name)
        raise EvaluationError(
            f"{who} {' and '.join(str(width) for width in widths if width)} keypoints ({names}), expected {len(bones)} "
            f"({bones.name}, the ground truth's)",
            hint="`kpdata convert --skeleton` brings both onto one skeleton",
        ) from error


def _areas(gt: Dataset, people: pa.Table, needed: Bools) -> Floats:
    """(N,) square pixels: the file's, else by the data set's rule. EvaluationError where a needed one is missing."""
    area, present = schema.values(people["area"]), schema.valid(people["area"])
    if present.all():
        return area
    factors = {name: AREA_RULES.get(str(d.get("area_kind")), np.nan) for name, d in gt.datasets.items()}
    factor = np.array([factors.get(str(name), np.nan) for name in schema.texts(people["dataset"])])
    boxes = schema.matrix(people["bbox"], 4)
    area = np.where(present, area, boxes[:, 2] * boxes[:, 3] * factor)
    missing = ~present & ~schema.valid(people["bbox"]) | ~present & np.isnan(factor)
    if (missing & needed).any():
        first = int(schema.values(people["annotation_id"])[(missing & needed).argmax()])
        raise EvaluationError(
            f"the ground truth has no area for {int((missing & needed).sum()):,} of {len(people):,} people, such as "
            f"annotation {first}: OKS is a distance relative to it",
            hint="add 'area' (COCO: the mask's, in square pixels) to the ground truth",
        )
    return np.where(missing, 0, area)


def _area_words(gt: Dataset) -> str:
    has = schema.valid(gt.persons["area"])
    if has.all():
        return "the ground truth's area field"
    rule = " or ".join(
        sorted({f"{f} × w × h" for d in gt.datasets.values() if (f := AREA_RULES.get(str(d.get("area_kind"))))})
    )
    return f"{rule} of the ground truth's bbox, the data set's own rule" + (
        ", where it has no area" if has.any() else ""
    )


def _first_has_box(predictions: Dataset) -> bool:
    return len(predictions) > 0 and bool(schema.valid(predictions.persons["bbox"].slice(0, 1))[0])


def _detections(
    predictions: Dataset, categories: Ints, ids: Ints, bones: Skeleton, mask: Bools, notes: list[str]
) -> tuple[Detections, Floats, Ints]:
    """Arrays, keypoint scores (M, K) and rows (M,) of the predictions of these categories."""
    chosen = np.isin(categories, ids)
    people = _rows(predictions.persons, chosen)
    for column, hint in (("score", "are these annotations? every prediction needs a score"),
                         ("keypoints", "detector boxes cannot be scored as poses")):  # fmt: skip
        if not (present := schema.valid(people[column])).all():
            first = int(schema.values(people["image_id"])[present.argmin()])
            count = f"{int((~present).sum()):,} of {len(people):,} predictions have no {column}"
            raise EvaluationError(f"{count}, the first on image {first}", hint=hint)
    boxed = _first_has_box(predictions)
    if boxed and not schema.valid(people["bbox"]).all():
        raise EvaluationError("the first result has a bbox and others have none", hint="write it for all or for none")
    xy, visibility = _poses(people, bones, "the predictions have")
    labelled = visibility > 0
    if not labelled.all():
        # Results files write an absent keypoint as 0, 0; NaN would match anything.
        xy = np.where(np.isnan(xy) & ~labelled[..., None], 0, xy)
    if np.isnan(xy).any():
        notes.append("predictions hold NaN coordinates: as in pycocotools such a person matches anything")
    results = Detections(
        image_id=schema.values(people["image_id"]),
        category_id=categories[chosen],
        keypoints=xy,
        score=schema.values(people["score"]),
        area=detection_area(xy if mask.all() else xy[:, mask], schema.matrix(people["bbox"], 4) if boxed else None),
    )
    return results, schema.matrix(people["keypoint_scores"], len(bones)), np.flatnonzero(chosen)


# --------------------------------------------------------------------------------------------------------------- words


def _mention(gt: Dataset, predictions: Dataset, found: Ints, listed: Ints, scored: int, notes: list[str]) -> None:
    """A sentence for each trap that these data step into."""
    ids = schema.values(gt.persons["annotation_id"])
    area = schema.values(gt.persons["area"])
    unlisted = np.unique(found[~np.isin(found, listed)]).tolist()
    images = lookup(schema.values(gt.images["image_id"]), schema.values(predictions.persons["image_id"]))
    crowded = int((np.bincount(images * (len(listed) + 1) + lookup(listed, found) + 1) > 20).sum())
    small, box = int((area <= 0).sum()), any(d.get("area_kind") == "box" for d in gt.datasets.values())
    traps = [
        (not len(predictions) and scored > 0, "no predictions: AP and AR are 0"),
        (not scored, "no person of the ground truth can be scored: nothing to average, so the numbers are -1"),
        (
            bool(unlisted),
            f"predictions of categories {unlisted} are left out: the ground truth lists {listed.tolist()}",
        ),
        (_first_has_box(predictions), "results carry a bbox: as in pycocotools its area decides their size range"),
        (bool((ids == 0).any()), "a person has annotation id 0: as in pycocotools its match counts as unmatched"),
        (
            len(np.unique(ids)) < len(ids),
            "annotation ids repeat: as in pycocotools the last person of an id counts for all",
        ),
        (bool((gt.image_rows() < 0).any()), "people on images that the ground truth does not list are left out"),
        (small > 0, f"{small:,} people have an area of 0 or less: nearly nothing matches them"),
        (crowded > 0, f"more than 20 predictions in {crowded:,} images: the 20 best of each count"),
        (
            box,
            "the ground truth's area is the whole box: OKS is larger than with mask areas, not comparable with COCO's",
        ),
    ]
    notes.extend(sentence for so, sentence in traps if so)
