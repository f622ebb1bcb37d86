"""Suspicious people out to LabelMe, for correction by hand, and the corrected files back as a review.

One JSON file an image beside a copy of its picture; of each suspicious person the box and the labelled keypoints, with
the annotation id as `group_id` and what is suspicious as the description of the rectangle. In LabelMe points can be
moved, deleted (not labelled any more), added (the keypoint's name as label, the person's group_id) and marked with the
flag `occluded`. Predictions that look right where nobody is labelled are drawn as people of a new group_id; their box
has the flag `accept`: such a person is added where it is set or something of the person was changed, else nothing is.
`review.json` in the folder says which data it came from, and who was proposed.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import files, schema
from kpdata.browse import review as reviews
from kpdata.browse.applying import STILL
from kpdata.browse.facts import missing
from kpdata.browse.people import People
from kpdata.browse.pictures import Pictures
from kpdata.browse.review import Review
from kpdata.converters import labelme
from kpdata.converters._labelme_files import POSE_CLASSES
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.geometry import box_from_keypoints
from kpdata.schema import Visibility

ACCEPT = "accept"  # the flag on the box of a proposed person
KEY_FILE = "review.json"  # an empty review: it holds the key of the data
_NAME = "kpdata review"  # of the dataset in provenance: no LabelMe source, so that nothing of one is kept


def write_labelme(dataset: Dataset, people: People, folder: Path, *, force: bool = False) -> tuple[int, int]:
    """Write the suspicious people of what is shown for LabelMe; how many people, in how many files.

    Suspicious: with a `suspicion`, or with findings where there are no predictions; and people whom nobody labelled.
    Pictures are copied where they are found; without them LabelMe asks for each. BrowseError where nobody is
    suspicious; DestinationExists without `force`.
    """
    files.refuse_existing(folder, force)
    words = _suspicious(people)
    whole, proposed = _with_proposed(dataset, people)
    if not words and not proposed:
        more = people.total > people.table.num_rows
        hint = "--all looks at everybody" if more else "the page of --html corrects any label"
        raise BrowseError("no label that is shown is suspicious: nothing to correct", hint=hint)
    words |= {number: said for number, (said, _) in proposed.items()}
    chosen = np.flatnonzero(np.isin(missing(whole.persons["annotation_id"]), np.array(list(words), np.int64)))
    images = np.unique(whole.image_rows()[chosen])
    part = whole.select(persons=chosen).select(images=images[images >= 0])
    raw, _ = labelme.encode(_plain(part))
    names, owners = schema.texts(part.images["file_name"]), _owners(part)
    ids = missing(part.images["image_id"]).tolist()
    paths = _paths(names, ids)
    with files.replacing_folder(folder, force=force) as fresh:
        for document, path, name, number, own in zip(raw["files"].values(), paths, names, ids, owners, strict=True):
            _mark(document, own, words, proposed)
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            document["imagePath"] = _copied(people.pictures, number, name, target)
            target.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8", errors="replace")
        (fresh / POSE_CLASSES).write_text(_classes(raw["pose_classes"]), encoding="utf-8", errors="replace")
        offers = {str(number): facts for number, (_, facts) in proposed.items()}
        image_of = dict(zip(paths, ids, strict=True))
        key = {"kpdata_review": reviews.VERSION, "key": people.key, "people": [], "images": image_of}
        (fresh / KEY_FILE).write_text(json.dumps({**key, "proposed": offers}), encoding="utf-8")
    return len(part), len(raw["files"])


def _mark(document: dict[str, Any], own: list[int], words: dict[int, str], proposed: Mapping[int, Any]) -> None:
    """Ids as groups; on the box what is suspicious, and of a proposed person the flag that accepts."""
    for shape in document["shapes"]:
        shape["group_id"] = own[shape["group_id"]]
        if shape["shape_type"] == "rectangle":
            shape["description"] = words[shape["group_id"]]
            if shape["group_id"] in proposed:
                shape["flags"] = {ACCEPT: False}


def _suspicious(people: People) -> dict[int, str]:
    """What is suspicious of each person, by annotation id."""
    table = people.table
    column = "suspect" if schema.valid(table["severity"]).any() else "findings"
    told = zip(missing(table["annotation_id"]).tolist(), schema.texts(table[column]), strict=True)
    return {person: text for person, text in told if person >= 0 and text is not None}


def _with_proposed(dataset: Dataset, people: People) -> tuple[Dataset, dict[int, tuple[str, dict[str, Any]]]]:
    """The dataset with the people whom nobody labelled, and of these by their new id: words, and what is proposed
    (detection_id, keypoints by name)."""
    table = people.table
    rows = np.flatnonzero((missing(table["annotation_id"]) < 0) & schema.valid(table["suspect"]))
    persons, top = dataset.persons, int(schema.values(dataset.persons["annotation_id"]).max(initial=0))
    first = {name: int(members[0]) for name, members in dataset.groups() if name is not None}
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    added: list[pa.Table] = []
    for row in schema.take(table, rows).to_pylist():
        name = row["skeleton"]
        xy = np.array(row["proposed_keypoints"] or [], np.float64).reshape(-1, 2)
        seen = np.asarray(np.isfinite(xy).all(axis=1))
        if name not in first or len(xy) != len(dataset.skeletons[name]) or not seen.any():
            continue
        number = top + 1 + len(found)
        bones = dataset.skeletons[name].keypoint_names
        places = {bones[k]: xy[k].tolist() for k in np.flatnonzero(seen).tolist()}
        found[number] = (str(row["suspect"]), {"detection_id": row["detection_id"], "keypoints": places})
        like = schema.take(persons, np.array([first[name]])).select(["category_id", "category", "dataset", "skeleton"])
        box = box_from_keypoints(np.nan_to_num(xy)[None], seen[None].astype(np.int8))
        columns = {key: like[key] for key in like.schema.names} | {
            "annotation_id": schema.fixed(np.array([number]), pa.int64()),
            "image_id": schema.fixed(np.array([row["image_id"]]), pa.int64()),
            "keypoints": schema.rows(np.where(seen[:, None], xy, np.nan)[None]),
            "visibility": schema.rows(seen[None] * 2, kind=pa.int8()),
            "bbox": schema.rows(box),
            "iscrowd": schema.fixed(np.zeros(1), pa.bool_()),
        }
        added.append(schema.table(schema.PERSONS, 1, columns))
    if not added:
        return dataset, found
    return replace(dataset, persons=pa.concat_tables([persons, *added]).combine_chunks()), found


def _plain(part: Dataset) -> Dataset:
    """The people without what LabelMe does not show here (masks, another LabelMe file's own shapes), in images that
    are named by their row: the writer sorts by name."""
    persons = part.persons
    for name in ("extras", "segmentation", "rle", "score", "keypoint_scores"):
        field = schema.PERSONS.field(name)
        persons = persons.set_column(persons.schema.get_field_index(name), field, pa.nulls(len(part), field.type))
    count = part.images.num_rows
    images = part.images
    for name, column in {
        "extras": schema.constant(None, count),
        "file_name": schema.strings([f"{row:09d}.jpg" for row in range(count)]),
    }.items():
        images = images.set_column(images.schema.get_field_index(name), schema.IMAGES.field(name), column)
    datasets = {name: {"source_format": _NAME} for name in part.datasets}
    return replace(part, persons=persons, images=images, datasets=datasets, blobs=schema.no_blobs())


def _owners(part: Dataset) -> list[list[int]]:
    """Annotation ids of each image's people, in the order in which the writer numbers them."""
    owners: list[list[int]] = [[] for _ in range(part.images.num_rows)]
    ids = missing(part.persons["annotation_id"]).tolist()
    for person, image in zip(ids, part.image_rows().tolist(), strict=True):
        owners[image].append(person)
    return owners


def _paths(names: list[str | None], ids: list[int]) -> list[str]:
    """A JSON file for each image, below the folder whatever the name says, with the image's id where one is taken."""
    found: list[str] = []
    taken = {KEY_FILE.casefold()}
    for name, number in zip(names, ids, strict=True):
        whole = (name or "").replace("\\", "/").split("/")
        parts = [part for part in whole if part not in ("", ".", "..") and ":" not in part]
        stem = PurePosixPath(*parts).with_suffix("") if parts else PurePosixPath(f"image_{number}")
        path = f"{stem}.json"
        if path.casefold() in taken:
            path = f"{stem}_{number}.json"
        taken.add(path.casefold())
        found.append(path)
    return found


def _copied(pictures: Pictures, image_id: int, name: str | None, target: Path) -> str:
    """The picture copied beside its file, and what the file calls it; the name alone where it is not found."""
    picture = pictures.find(image_id, name)
    if picture is None:
        return name or ""
    copy = target.with_suffix(picture.suffix)
    shutil.copyfile(picture, copy)
    return copy.name


def _classes(document: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text


# ----------------------------------------------------------------------------------------------------------------- back


def read_labelme(folder: Path, dataset: Dataset) -> Review:
    """What was corrected in a folder that `write_labelme` wrote, as a review of `dataset`.

    Places that moved by more than 1e-6 px, keypoints that were added, deleted or marked; a group_id that is no
    annotation id of the image is a new person, and so is somebody proposed who was accepted or changed. People whose
    shapes are all gone stay as they are. BrowseError where the folder does not say which data it is of; FormatError
    where a file cannot be read.
    """
    if not (folder / KEY_FILE).is_file():
        raise BrowseError(f"{folder}: no {KEY_FILE}, expected a folder that `kpdata browse --to-labelme` wrote")
    told, (image_of, proposed) = reviews.read_review(folder / KEY_FILE), _written(folder)
    found = labelme.read(folder)
    files_of = [json.loads(text or "{}").get("file", "") for text in schema.texts(found.images["extras"])]
    labels = _Labels(dataset)
    entries: list[dict[str, Any]] = []
    for name, members in found.groups():
        if name is None:
            continue
        people = schema.take(found.persons, members)
        names = found.skeletons[name].keypoint_names
        xy = schema.matrix(people["keypoints"], 2 * len(names)).reshape(len(members), len(names), 2).tolist()
        marks = schema.matrix(people["visibility"], len(names)).tolist()
        rows = found.image_rows()[members].tolist()
        told_of = zip(_group_ids(people), rows, xy, marks, strict=True)
        for (group, accepted), row, places, levels in told_of:
            where = f"{folder / files_of[row]}: group_id {group!r}"
            if files_of[row] not in image_of:
                raise BrowseError(f"{where}: this file was not written by `kpdata browse --to-labelme`")
            drawn = {n: (*p, v) for n, p, v in zip(names, places, levels, strict=True) if v}
            offer = proposed.get(str(group))
            if offer is not None and not accepted and _places(drawn) == offer["keypoints"]:
                continue  # nobody has looked at it, or it was left alone
            number = -2 - len(entries) if offer is None else offer["detection_id"]
            entries.append(_entry(labels.of(group), image_of[files_of[row]], drawn, where, number))
    changed = [entry for entry in entries if entry["keypoints"]]
    document = {"kpdata_review": reviews.VERSION, "key": told.key, "people": changed}
    return reviews.decode(document, source=str(folder))


Drawn = dict[str, tuple[float, float, int]]  # x, y, visibility of labelled keypoints by name


@dataclass(frozen=True, slots=True)
class _Label:
    annotation_id: int
    image_id: int
    keypoints: Drawn


class _Labels:
    """The labels of a dataset by annotation id."""

    def __init__(self, dataset: Dataset) -> None:
        persons = dataset.persons
        self.dataset = dataset
        self.row = {number: row for row, number in enumerate(missing(persons["annotation_id"]).tolist())}
        self.images = missing(persons["image_id"])
        self.skeletons = schema.texts(persons["skeleton"])
        self.xy, self.marks = (schema.ragged(persons[name]) for name in ("keypoints", "visibility"))

    def of(self, group: Any) -> _Label | None:
        """The label of a group_id; None where it is nobody's."""
        row = self.row.get(group) if isinstance(group, int) else None
        if row is None:
            return None
        name = self.skeletons[row]
        names = () if name is None else self.dataset.skeletons[name].keypoint_names
        xy, marks = (flat[at[row] : at[row + 1]].tolist() for flat, at in (self.xy, self.marks))
        told = zip(names, xy[::2], xy[1::2], marks, strict=False)
        return _Label(group, int(self.images[row]), {n: (x, y, v) for n, x, y, v in told if v})


def _written(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Image ids by file, and who was proposed by group_id."""
    raw = json.loads((folder / KEY_FILE).read_bytes())
    if not isinstance(raw.get("images"), dict):
        raise BrowseError(f"{folder / KEY_FILE}: it does not name the images", hint="write the folder again")
    return raw["images"], raw.get("proposed", {})


def _group_ids(people: pa.Table) -> list[tuple[Any, bool]]:
    """The group_id of each person of LabelMe files, None where there is none; and whether it is flagged `accept`."""
    parsed = [json.loads(text or "{}").get("rests") or [{}] for text in schema.texts(people["extras"])]
    return [
        (rests[0].get("group_id"), any((rest.get("flags") or {}).get(ACCEPT) for rest in rests)) for rests in parsed
    ]


def _places(drawn: Drawn) -> dict[str, list[float]]:
    return {name: [x, y] for name, (x, y, _) in drawn.items()}


def _entry(label: _Label | None, image_id: int, drawn: Drawn, where: str, number: int) -> dict[str, Any]:
    """What a review says of a person: of a known one the differences, of a new one everything."""
    if label is None:
        keypoints = {name: _point(x, y, v) for name, (x, y, v) in drawn.items()}
        return {
            "annotation_id": None, "detection_id": number, "image_id": image_id, "decision": "accept",
            "keypoints": keypoints,
        }  # fmt: skip
    if label.image_id != image_id:
        raise BrowseError(f"{where}: annotation {label.annotation_id} is in image {label.image_id}, not {image_id}")
    changes: dict[str, Any] = {}
    for name in {**label.keypoints, **drawn}:
        if difference := _difference(label.keypoints.get(name), drawn.get(name)):
            changes[name] = difference
    return {"annotation_id": label.annotation_id, "image_id": image_id, "keypoints": changes}


def _point(x: float, y: float, visibility: int) -> dict[str, Any]:
    return {"x": x, "y": y, "visibility": 1 if visibility == Visibility.OCCLUDED else 2}


def _difference(old: tuple[float, float, int] | None, new: tuple[float, float, int] | None) -> dict[str, Any]:
    """What changed of one keypoint; empty where nothing did. A label without a place had no shape to be deleted."""
    if new is None:
        return {"visibility": 0} if old is not None and math.isfinite(old[0] + old[1]) else {}
    if old is None or not math.isfinite(old[0] + old[1]):
        return _point(*new)
    moved = math.hypot(new[0] - old[0], new[1] - old[1]) > STILL
    hidden = new[2] == Visibility.OCCLUDED
    marked = hidden != (old[2] == Visibility.OCCLUDED)
    return ({"x": new[0], "y": new[1]} if moved else {}) | ({"visibility": 1 if hidden else 2} if marked else {})
