"""Suspicious people out to LabelMe, for correction by hand, and the corrected files back as a review.

One JSON file an image beside a copy of its picture; of each suspicious person the box and the labelled keypoints, with
the annotation id as `group_id` and what is suspicious as the description of the rectangle. In LabelMe points can be
moved, deleted (not labelled any more), added (the keypoint's name as label, the person's group_id) and marked with the
flag `occluded`. `review.json` in the folder says which data it came from.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import files, schema
from kpdata.browse import review as reviews
from kpdata.browse.applying import STILL
from kpdata.browse.facts import missing
from kpdata.browse.people import People, picture_path
from kpdata.browse.review import Review
from kpdata.converters import labelme
from kpdata.converters._labelme_files import POSE_CLASSES
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.schema import Visibility

KEY_FILE = "review.json"  # an empty review: it holds the key of the data
_NAME = "kpdata review"  # of the dataset in provenance: no LabelMe source, so that nothing of one is kept


def write_labelme(dataset: Dataset, people: People, folder: Path, *, force: bool = False) -> tuple[int, int]:
    """Write the suspicious people of what is shown for LabelMe; how many people, in how many files.

    Suspicious: with a `suspicion`, or with findings where there are no predictions. Pictures are copied from
    `people.images` where they are found; without them LabelMe asks for each. People whom nobody labelled are left out:
    the page adds them. BrowseError where nobody is suspicious; DestinationExists without `force`.
    """
    files.refuse_existing(folder, force)
    words = _suspicious(people)
    if not words:
        raise BrowseError("no label that is shown is suspicious: nothing to correct", hint="--all looks at everybody")
    chosen = np.flatnonzero(np.isin(missing(dataset.persons["annotation_id"]), np.array(list(words), np.int64)))
    images = np.unique(dataset.image_rows()[chosen])
    part = dataset.select(persons=chosen).select(images=images[images >= 0])
    raw, _ = labelme.encode(_plain(part))
    names, owners = schema.texts(part.images["file_name"]), _owners(part)
    paths = _paths(names, missing(part.images["image_id"]).tolist())
    with files.replacing_folder(folder, force=force) as fresh:
        for document, path, name, ids in zip(raw["files"].values(), paths, names, owners, strict=True):
            for shape in document["shapes"]:
                shape["group_id"] = ids[shape["group_id"]]
                if shape["shape_type"] == "rectangle":
                    shape["description"] = words[shape["group_id"]]
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            document["imagePath"] = _copied(people.images, name, target)
            target.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8", errors="replace")
        (fresh / POSE_CLASSES).write_text(_classes(raw["pose_classes"]), encoding="utf-8", errors="replace")
        image_ids = dict(zip(paths, missing(part.images["image_id"]).tolist(), strict=True))
        key = {"kpdata_review": reviews.VERSION, "key": people.key, "people": [], "images": image_ids}
        (fresh / KEY_FILE).write_text(json.dumps(key), encoding="utf-8")
    return len(part), len(raw["files"])


def _suspicious(people: People) -> dict[int, str]:
    """What is suspicious of each person, by annotation id."""
    table = people.table
    column = "suspect" if schema.valid(table["severity"]).any() else "findings"
    told = zip(missing(table["annotation_id"]).tolist(), schema.texts(table[column]), strict=True)
    return {person: text for person, text in told if person >= 0 and text is not None}


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


def _copied(images: Path | None, name: str | None, target: Path) -> str:
    """The picture copied beside its file, and what the file calls it; the name alone where it is not found."""
    picture = None if images is None else picture_path(images, name)
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
    annotation id of the image is a new person. People whose shapes are all gone stay as they are. BrowseError where the
    folder does not say which data it is of; FormatError where a file cannot be read.
    """
    if not (folder / KEY_FILE).is_file():
        raise BrowseError(f"{folder}: no {KEY_FILE}, expected a folder that `kpdata browse --to-labelme` wrote")
    told, image_of = reviews.read_review(folder / KEY_FILE), _image_ids(folder)
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
        for group, row, places, levels in zip(_group_ids(people), rows, xy, marks, strict=True):
            where = f"{folder / files_of[row]}: group_id {group!r}"
            if files_of[row] not in image_of:
                raise BrowseError(f"{where}: this file was not written by `kpdata browse --to-labelme`")
            drawn = {n: (*p, v) for n, p, v in zip(names, places, levels, strict=True) if v}
            entries.append(_entry(labels.of(group), image_of[files_of[row]], drawn, where, len(entries)))
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


def _image_ids(folder: Path) -> dict[str, int]:
    raw = json.loads((folder / KEY_FILE).read_bytes()).get("images")
    if not isinstance(raw, dict):
        raise BrowseError(f"{folder / KEY_FILE}: it does not name the images", hint="write the folder again")
    return raw


def _group_ids(people: pa.Table) -> list[Any]:
    """The group_id of each person of LabelMe files; None where there is none."""
    parsed = [json.loads(text or "{}").get("rests") or [{}] for text in schema.texts(people["extras"])]
    return [rests[0].get("group_id") for rests in parsed]


def _entry(label: _Label | None, image_id: int, drawn: Drawn, where: str, number: int) -> dict[str, Any]:
    """What a review says of a person: of a known one the differences, of a new one everything."""
    if label is None:
        keypoints = {name: _point(x, y, v) for name, (x, y, v) in drawn.items()}
        return {
            "annotation_id": None, "detection_id": -2 - number, "image_id": image_id, "decision": "accept",
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
