"""Two Datasets to Parts: the arrays of each skeleton, with what was decided on the way said in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import distinct, isin, lookup
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError, SchemaError
from kpdata.eval import protocols, remarks
from kpdata.eval.areas import Areas, areas, rule_named
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Mode, Params, detection_area
from kpdata.eval.part import Part
from kpdata.eval.protocols import Protocol
from kpdata.eval.wording import many
from kpdata.skeleton import Skeleton, load

WHOLE, BODY = "coco_wholebody_133", "coco_17"
UnknownImages = Literal["refuse", "ignore"]


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Ground truth and predictions brought together: `parts` index the tables of these two datasets."""

    gt: Dataset  # the body part where WholeBody meets 17 keypoints
    predictions: Dataset  # with the ground truth's image ids
    parts: tuple[Part, ...]
    category_ids: Ints  # (C,) ascending: all that the ground truth lists, also those without people
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(
    gt: Dataset,
    predictions: Dataset,
    notes: list[str],
    *,
    skeleton: str | Skeleton | None = None,
    protocol: Protocol = protocols.OKS,
    area: str | None = None,
    unknown_images: UnknownImages = "refuse",
    max_dets: int = 20,
    mode: Mode = "strict",
) -> Sides:
    """Match everyone: a Part a skeleton. Errors and arguments as `kpdata.evaluate`; sentences go to `notes`."""
    predictions = on_the_same_images(gt, predictions, unknown_images, notes)
    if protocol.name == "oks":
        gt = _body_part(gt, predictions, notes)
    categories = _category_ids(gt, 1)
    image_ids, listed = schema.values(gt.images["image_id"]), _listed_categories(gt, categories)
    chosen = _skeletons(gt, categories, listed, load(skeleton) if isinstance(skeleton, str) else skeleton)
    _require_skeleton(gt, chosen, protocol, notes)
    found = _predicted_categories(gt, predictions, listed, notes)
    sizes = areas(gt, isin(categories, listed), rule_named(area) if area else protocol.area, notes)
    looked_up = None
    if mode == "strict" and len(chosen) > 1 and not protocol.greedy_by_person:
        looked_up = protocols.looked_up(gt, categories, image_ids, listed)
    parts = []
    for bones, name, ids in chosen:
        params = Params(sigmas=_sigmas(bones), max_dets=(max_dets,), mode=mode)
        mask = _mask(predictions, bones, notes)
        truth, visibility, truth_rows = _ground_truth(
            gt, categories, name, bones, mask, sizes, protocol, notes, looked_up
        )
        results, scores, rows = _detections(predictions, found, ids, bones, mask, protocol, mode, notes)
        parts.append(Part(
            skeleton=bones, mask=mask, truth=truth, detections=results, visibility=visibility, keypoint_scores=scores,
            truth_rows=truth_rows, detection_rows=rows, image_ids=image_ids, category_ids=ids, params=params,
        ))  # fmt: skip
    scored = sum(int(part.counted().sum()) for part in parts)
    notes.extend(remarks.on_people(gt, sizes, isin(categories, listed), scored, protocol, mode))
    notes.extend(remarks.on_counts(parts))
    notes.extend(remarks.on_nan_truth(parts, protocol, mode))
    notes.extend(remarks.on_predictions(gt, predictions, found, listed, scored, max_dets, protocol))
    if _first_has_box(predictions) and not protocol.greedy_by_person:
        notes.append("results carry a bbox: as in pycocotools its area decides their size range")
    if area and sizes.rules != (protocol.area or "file",):
        notes.append(f"area by the rule {rule_named(area)!r}, not {protocol.title}'s own: not comparable with others'")
    counts = {"images": gt.images.num_rows, "people": len(gt), "people scored": scored, "predictions": len(predictions)}
    facts = {
        "metric": protocol.title,
        "protocol": protocol.name,
        "sigmas": {bones.name: list(bones.sigmas or ()) for bones, _, _ in chosen},
        "skeletons": {s.name: {"keypoints": len(s), "sigma_source": s.sigma_source} for s, _, _ in chosen},
        "category_ids": listed.tolist(),
        "counts": counts,
        **_rules(gt, predictions, sizes, protocol, max_dets, mode),
    }
    return Sides(gt, predictions, tuple(parts), listed, facts)


def _rules(
    gt: Dataset, predictions: Dataset, sizes: Areas, protocol: Protocol, max_dets: int, mode: Mode
) -> dict[str, Any]:
    """The facts about areas, boxes and matching."""
    return {
        "area": sizes.words,
        "area_rules": list(sizes.rules),
        "box_sources": sorted({text for text in schema.texts(gt.persons["bbox_source"]) if text}),
        "detection_area": _detection_area_words(predictions, protocol),
        "matching": _matching_words(protocol, max_dets, mode),
        "mode": mode,
        "like": protocol.like,
        "max_dets": [max_dets],
    }


def _detection_area_words(predictions: Dataset, protocol: Protocol) -> str:
    """What decides the size range of a prediction, as `COCO.loadRes` measures it."""
    if _first_has_box(predictions):
        return "w × h of each result's bbox"
    return "extent of the 17 body keypoints" if protocol.name == "wholebody" else "extent of all keypoints"


def _matching_words(protocol: Protocol, max_dets: int, mode: Mode) -> str:
    if protocol.greedy_by_person:
        return f"{protocol.source}: everyone with the best of all predictions of the image"
    rules = f"{protocol.source}: greedy by score, the best {max_dets} of each image and category"
    return rules + ("" if mode == "strict" else ", its traps mended (mode 'fixed')")


# ---------------------------------------------------------------------------------------------------- bringing together


def on_the_same_images(gt: Dataset, predictions: Dataset, unknown: UnknownImages, notes: list[str]) -> Dataset:
    """Predictions whose image ids are the ground truth's; those of unlisted images are refused or left out.

    Ids that are texts, or that a reader numbered, are looked up by source id and file name; other ids as they are.
    """
    if unknown not in ("refuse", "ignore"):
        raise EvaluationError(f"unknown_images is {unknown!r}, expected 'refuse' or 'ignore'")
    texts = schema.valid(predictions.images["source_image_id"]).any()
    both_named = all(schema.valid(d.images["file_name"]).any() for d in (gt, predictions))
    if len(predictions) and (texts or (both_named and (_numbered(gt) or _numbered(predictions)))):
        predictions = _matched_by_name(gt, predictions, unknown, notes)
    of_person = schema.values(predictions.persons["image_id"])
    ids = distinct(of_person)
    strangers = ids[lookup(schema.values(gt.images["image_id"]), ids) < 0]
    if not len(strangers):
        return predictions
    if unknown == "refuse":
        listed = schema.values(gt.images["image_id"]).tolist()
        raise _unknown_images(len(strangers), int(strangers[0]), listed, why=_why_unmet(gt, predictions))
    return _without(predictions, isin(of_person, strangers), len(strangers), int(strangers[0]), notes)


def _without(predictions: Dataset, strange: Bools, images: int, example: Any, notes: list[str]) -> Dataset:
    """The predictions without those of images that the ground truth does not list."""
    out = f"{many(int(strange.sum()), 'prediction')} for {many(images, 'image')}"
    notes.append(f"{out} that the ground truth does not list, such as {example!r}, left out")
    return replace(predictions, persons=schema.take(predictions.persons, np.flatnonzero(~strange)))


def _numbered(dataset: Dataset) -> bool:
    """A reader numbered the images: ids of two such sources have nothing to do with each other."""
    return any(d.get("ids") == "assigned" for d in dataset.datasets.values())


def _matched_by_name(gt: Dataset, predictions: Dataset, unknown: UnknownImages, notes: list[str]) -> Dataset:
    known = schema.values(gt.images["image_id"]).tolist()
    by_name = _names_to_ids(schema.texts(gt.images["file_name"]), known)
    sources = schema.texts(gt.images["source_image_id"])
    by_id = {text: number for text, number in zip(sources, known, strict=True) if text}
    if not _numbered(gt):
        by_id |= {str(number): number for number, text in zip(known, sources, strict=True) if not text}
    own, missing, strange = schema.values(predictions.images["image_id"]), [], []
    used = isin(own, schema.values(predictions.persons["image_id"]))
    moved = own.copy()
    texts, files = (schema.texts(predictions.images[key]) for key in ("source_image_id", "file_name"))
    for row in np.flatnonzero(used).tolist():
        name = texts[row] or files[row]
        if name is None:
            continue  # an integer beside texts: it stands for itself
        found = by_id.get(name, by_name.get(name, by_name.get(_last_part(name))))
        if found is None:
            missing.append(name)
            strange.append(int(own[row]))
        moved[row] = own[row] if found is None else found
    if missing and unknown == "ignore":
        gone = isin(schema.values(predictions.persons["image_id"]), np.array(strange, np.int64))
        predictions = _without(predictions, gone, len(missing), missing[0], notes)
    elif missing:
        listed = [*by_name, *by_id]
        why = _why_unmet(gt, predictions)
        raise _unknown_images(len(missing), missing[0], listed, gt.images.num_rows, why=why)
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


def _why_unmet(gt: Dataset, predictions: Dataset) -> str:
    from kpdata.eval.sanity import unmet_ids

    return "; ".join(unmet_ids(gt, predictions))


def _unknown_images(
    count: int, example: Any, listed: list[Any], total: int | None = None, *, why: str = ""
) -> EvaluationError:
    shown = f"{len(listed) if total is None else total:,}, such as {listed[0]!r}" if listed else "none"
    found = f"predictions for {many(count, 'image')} that the ground truth does not list, such as {example!r}"
    return EvaluationError(
        f"{found} (it lists {shown})" + (f"; {why}" if why else ""),
        hint="is it the ground truth of another split? --unknown-images ignore (unknown_images) leaves them out",
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
    return distinct(np.array(numbers, np.int64) if numbers else categories)


def _predicted_categories(gt: Dataset, predictions: Dataset, listed: Ints, notes: list[str]) -> Ints:
    """(M,) category of each prediction: its own, else the only one that there is.

    YOLO counts its classes from 0 and other tools from 1: with one on each side they are the same.
    """
    found = _category_ids(predictions, listed[0] if len(listed) == 1 else 1)
    own = distinct(found)
    counted = any(facts.get("source_format") == "yolo" for facts in gt.datasets.values())
    if not counted or len(listed) != 1 or len(own) != 1 or own[0] == listed[0]:
        return found
    notes.append(f"the predictions' category {own[0]} is taken for the ground truth's only class {listed[0]}")
    return np.full(len(found), listed[0])


_Choice = tuple[Skeleton, str, Ints]


def _skeletons(gt: Dataset, categories: Ints, listed: Ints, override: Skeleton | None) -> list[_Choice]:
    """(skeleton to score with, its name in the table, listed category ids) of all people with keypoints."""
    groups: dict[str, Ints] = {}
    owner: dict[int, str] = {}
    for name, rows in gt.groups():
        if name is None:
            continue
        own = distinct(categories[rows])
        groups[name] = own[isin(own, listed)]
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


def _require_skeleton(gt: Dataset, chosen: list[_Choice], protocol: Protocol, notes: list[str]) -> None:
    """EvaluationError where WholeBody's groups find no 133 keypoints; notes where sigmas are not the benchmark's."""
    if protocol.name == "wholebody":
        for bones, _, _ in chosen:
            if len(bones) != len(load(WHOLE)):
                raise EvaluationError(
                    f"the metric 'wholebody' scores {len(load(WHOLE))} keypoints ({WHOLE}), the ground truth has "
                    f"{len(bones)} ({bones.name})",
                    hint="the metric 'oks' takes any skeleton",
                )
    notes.extend(remarks.on_skeletons(((bones, gt.skeletons[name]) for bones, name, _ in chosen), protocol))


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
            hint="--skeleton FILE.toml brings your own (values in a table [sigmas]); the metric 'pck' needs none",
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
        notes.append(f"the predictions' own skeleton has no {', '.join(absent)}: left out of the score: not comparable")
    return mask


# -------------------------------------------------------------------------------------------------------------- arrays


def _rows(table: pa.Table, chosen: Bools) -> pa.Table:
    """The chosen rows; the table itself, without a copy, where that is all."""
    return table if chosen.all() else schema.take(table, np.flatnonzero(chosen))


def _ground_truth(
    gt: Dataset,
    categories: Ints,
    name: str,
    bones: Skeleton,
    mask: Bools,
    sizes: Areas,
    protocol: Protocol,
    notes: list[str],
    looked_up: Ints | None,
) -> tuple[GroundTruth, NDArray[np.int8], Ints]:
    """Arrays, visibility (N, K) and rows (N,) of everyone of this skeleton or none, or of those that are `looked_up`.

    Those of unlisted categories too: repeated ids find the last of all.
    """
    chosen = np.ones(len(gt), bool)
    for other, rows in gt.groups():
        chosen[rows] = other in (None, name)
    rows = np.flatnonzero(chosen) if looked_up is None else looked_up[chosen[looked_up]]
    people = _rows(gt.persons, chosen) if looked_up is None else schema.take(gt.persons, rows)
    xy, visibility = _poses(people, bones, "the ground truth has people of")
    labelled = (visibility > 0) & mask
    counts, counted = schema.values(people["num_keypoints"]), schema.valid(people["num_keypoints"])
    if protocol.by_labels:
        counted = np.zeros(len(people), bool)
    elif not counted.all():
        bare = many(int((~counted).sum()), "person has", "people have")
        notes.append(f"{bare} no num_keypoints: counted from the labelled keypoints")
    boxes = schema.matrix(people["bbox"], 4)
    ids = schema.values(people["annotation_id"])
    truth = GroundTruth(
        image_id=schema.values(people["image_id"]),
        category_id=categories[rows],
        annotation_id=np.where(ids == 0, ids.max(initial=0) + 1, ids) if protocol.xtcocotools else ids,
        keypoints=xy,
        labelled=labelled,
        num_keypoints=np.where(counted & mask.all(), counts, labelled.sum(1)),
        bbox=np.where(schema.valid(people["bbox"])[:, None], boxes, 0),
        area=sizes.values[rows],
        iscrowd=schema.values(people["iscrowd"], missing=False),
    )
    return truth, visibility, rows


def _poses(people: pa.Table, bones: Skeleton, who: str) -> tuple[Floats, NDArray[np.int8]]:
    """xy (N, K, 2) and visibility (N, K). EvaluationError where somebody has another number of keypoints."""
    try:
        xy = schema.matrix(people["keypoints"], 2 * len(bones)).reshape(-1, len(bones), 2)
        return xy, schema.matrix(people["visibility"], len(bones))
    except SchemaError as error:
        widths = distinct(np.diff(schema.ragged(people["visibility"])[1])).tolist()
        names = ", ".join(name for name in dict.fromkeys(schema.texts(people["skeleton"])) if name)
        raise EvaluationError(
            f"{who} {' and '.join(str(width) for width in widths if width)} keypoints ({names}), expected {len(bones)} "
            f"({bones.name}, the ground truth's)",
            hint="`kpdata convert --skeleton` brings both onto one skeleton",
        ) from error


def _first_has_box(predictions: Dataset) -> bool:
    return len(predictions) > 0 and bool(schema.valid(predictions.persons["bbox"].slice(0, 1))[0])


def _detections(
    predictions: Dataset,
    categories: Ints,
    ids: Ints,
    bones: Skeleton,
    mask: Bools,
    protocol: Protocol,
    mode: Mode,
    notes: list[str],
) -> tuple[Detections, Floats, Ints]:
    """Arrays, keypoint scores (M, K) and rows (M,) of the predictions of these categories."""
    chosen = isin(categories, ids)
    people = _rows(predictions.persons, chosen)
    boxed = _first_has_box(predictions)
    _require_columns(people, boxed)
    xy, visibility = _poses(people, bones, "the predictions have")
    labelled = visibility > 0
    if not labelled.all():
        # Results files write an absent keypoint as 0, 0; NaN would match anything.
        xy = np.where(np.isnan(xy) & ~labelled[..., None], 0, xy)
    scores = schema.matrix(people["keypoint_scores"], len(bones))
    measured = xy[:, protocols.BODY] if protocol.name == "wholebody" else xy if mask.all() else xy[:, mask]
    results = Detections(
        image_id=schema.values(people["image_id"]),
        category_id=categories[chosen],
        keypoints=xy,
        score=_scores(people, protocol, notes),
        area=detection_area(measured, schema.matrix(people["bbox"], 4) if boxed else None, mode=mode),
    )
    rows = np.flatnonzero(chosen)
    blank = _blank(scores, labelled, protocol, notes)
    if blank is not None:
        kept = np.flatnonzero(~blank)
        results = Detections(**{name: getattr(results, name)[kept] for name in results.__slots__})
        scores, rows = scores[kept], rows[kept]
    notes.extend(remarks.on_nan(results, protocol, mode))
    return results, scores, rows


def _scores(people: pa.Table, protocol: Protocol, notes: list[str]) -> Floats:
    if protocol.name == "wholebody":
        return protocols.group_scores(people, "whole", notes)
    scores: Floats = schema.values(people["score"])
    return scores


def _require_columns(people: pa.Table, boxed: bool) -> None:
    """EvaluationError where a prediction has no score or no keypoints, or where some have a box and the first one."""
    for column, hint in (("score", "are these annotations? every prediction needs a number as 'score'"),
                         ("keypoints", "detector boxes cannot be scored as poses")):  # fmt: skip
        if not (present := schema.valid(people[column])).all():
            first = int(schema.values(people["image_id"])[present.argmin()])
            count = f"{int((~present).sum()):,} of {len(people):,} predictions have no {column}"
            raise EvaluationError(f"{count}, the first on image {first}", hint=hint)
    if boxed and not schema.valid(people["bbox"]).all():
        raise EvaluationError("the first result has a bbox and others have none", hint="write it for all or for none")


def _blank(scores: Floats, labelled: Bools, protocol: Protocol, notes: list[str]) -> Bools | None:
    """(M,) predictions whose third values are all 0, where the protocol drops them; else None, and a note on CrowdPose,
    whose two evaluators differ in it."""
    if not protocol.xtcocotools and protocol.name != "crowdpose":
        return None
    blank = protocols.without_scores(scores, labelled)
    if count := int(blank.sum()):
        kept = "are dropped, as xtcocotools does" if protocol.xtcocotools else (
            "are kept, as CrowdPose's own evaluator does: like='xtcocotools' (--as xtcocotools) drops them"
        )  # fmt: skip
        notes.append(f"{count:,} predictions whose keypoints' third values are all 0 {kept}")
    return blank if protocol.xtcocotools else None
