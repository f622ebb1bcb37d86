"""LabelMe JSON: one file an image, a list of shapes; keypoints are points, a person is what shares a `group_id`.

LabelMe has no notion of a keypoint. The reading rule here:
- `group_by="group"`: points with one group_id are a person, the rectangle with that group_id is the person's box,
  polygons with that group_id and the box's label are the person's segmentation. `group_by="box"`: a point belongs to
  the smallest rectangle that contains it, for files without group_id. A rectangle without points is a person without
  keypoints where its label is that of other people's boxes, or "person". All other shapes are kept untouched.
- A keypoint's name is the label without `occluded_suffix`. Occluded or visible is said by the flag `occluded`, else by
  the suffix, the description ("1", "occluded", "hidden"; "2", "visible") or `difficult: true`. Where no keypoint of the
  whole source says it, visibility is 3 (unknown), else 2 for those that do not.
- `score` (X-AnyLabeling) is the score of a person (rectangle) or a keypoint (point).

Keys: wkentaro/labelme labelme/_label_file.py. Coordinates are mouse positions in px of the image as displayed
(EXIF-rotated); they are not shifted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _image_sizes, _labelme_files, _rows
from kpdata.converters import _labelme_shapes as shapes
from kpdata.converters._labelme_files import POSE_CLASSES
from kpdata.converters._labelme_shapes import File, Findings, Group, Names, Shape
from kpdata.converters._labelme_write import encode as encode
from kpdata.converters._labelme_write import write as write
from kpdata.converters._source import Source
from kpdata.errors import FormatError, SchemaError, SkeletonError
from kpdata.skeleton import Skeleton, from_category, load

FORMAT = "labelme"
_PLAIN = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}  # what every file has
_TRIED = 200  # JSON files of a folder that detection looks at


def detect(source: Source) -> str | None:
    """A JSON object with `shapes` and `imagePath`, or a folder with such a file somewhere below."""
    if not source.is_folder:
        raw = source.json if source.looks_like_json else None
        return "a JSON object with 'shapes' and 'imagePath'" if _labelme_files.is_labelme(raw) else None
    for path in _labelme_files.json_files(source.path)[:_TRIED]:
        if _labelme_files.sniff(path):
            return f"a folder with LabelMe files ({path.relative_to(source.path).as_posix()})"
    return None


def read(
    path: Path | Source,
    *,
    skeleton: str | None = None,
    group_by: str = "group",
    occluded_suffix: str = "_occluded",
    images: str | Path | None = None,
) -> ds.Dataset:
    """A LabelMe file, or a folder of them (all below it in sorted order; hidden ones are left out).

    skeleton: a name or file; else `pose_classes.yaml` beside the files, a built-in skeleton that has all labels, or the
    labels themselves. group_by, occluded_suffix: see this module. images: folder of the photographs, from which the
    width and height of files without them are read (they are not looked for unless told). `imageData` is kept as it is,
    never decoded. FormatError for files that cannot be read, SkeletonError for an unknown skeleton.
    """
    source = Source.of(path)
    raw = _labelme_files.load_folder(source.path) if source.is_folder else _labelme_files.load_file(source)
    found = decode(raw, source=str(source.path), skeleton=skeleton, group_by=group_by, occluded_suffix=occluded_suffix)
    return _image_sizes.fill(found, Path(images)) if images is not None else found


def decode(
    raw: Mapping[str, Any],
    *,
    source: str = "memory",
    skeleton: str | None = None,
    group_by: str = "group",
    occluded_suffix: str = "_occluded",
) -> ds.Dataset:
    """The dataset of parsed files: `{"files": {path: document}, "pose_classes": document or None}`. Pure.

    `raw["others"]` names JSON files that are not LabelMe's, for a note. Image and annotation ids are 1..N in the order
    of the files. FormatError names the file, the shape and the field.
    """
    if group_by not in ("group", "box"):
        raise SchemaError(f"group_by is {group_by!r}, expected 'group' or 'box'")
    findings = Findings()
    for other in raw.get("others", ()):
        findings.note("note", "not-labelme", f"{other} is JSON but no LabelMe file: left out", file=other)
    pose_classes = raw.get("pose_classes")
    classes = _classes(pose_classes, source)
    parsed = [
        shapes.parse(path, _where(source, path), document, number, findings)
        for number, (path, document) in enumerate(raw["files"].items(), 1)
    ]
    group = shapes.group_by_id if group_by == "group" else shapes.group_by_box
    labels = group(parsed, classes, findings)
    names = _Skeletons(parsed, classes, load(skeleton) if skeleton else None, occluded_suffix)
    rows = _Rows(names, labels, findings)
    for number, file in enumerate(parsed, 1):
        rows.add_file(number, file)
    provenance = {
        "source_format": FORMAT,
        "variant": group_by,
        "ids": "assigned",
        "area_kind": "none",
        "occluded_suffix": occluded_suffix,
        **({"pose_classes": pose_classes} if pose_classes is not None else {}),
        **({"findings": list(findings)} if findings else {}),
    }
    return rows.dataset(provenance)


def _where(source: str, path: str) -> str:
    """The file in a message: the source itself where it is that file."""
    return source if Path(source).name.removesuffix(".gz") == path else f"{source}/{path}"


def _classes(document: Any, source: str) -> dict[str, Skeleton]:
    """Skeleton of each class of a pose_classes.yaml (X-AnyLabeling): `classes: {person: [nose, …]}`."""
    if document is None:
        return {}
    where = f"{source} ({POSE_CLASSES})"
    table = document.get("classes") if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise FormatError(where, "no table 'classes' in it", hint="expected classes: {person: [nose, left_eye, …]}")
    found = {}
    for label, names in table.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise FormatError(where, f"class {label!r}: expected a list of keypoint names")
        try:
            found[str(label)] = from_category({"name": str(label), "keypoints": names}, num_keypoints=len(names))
        except SkeletonError as error:
            raise FormatError(where, f"class {label!r}: {error.message}", hint=error.hint) from error
    return found


# ----------------------------------------------------------------------------------------------------------- skeletons


class _Skeletons:
    """The skeleton of a person by the label of the box."""

    def __init__(self, parsed: list[File], classes: dict[str, Skeleton], told: Skeleton | None, suffix: str) -> None:
        self.classes = {} if told else {label: Names(skeleton, suffix) for label, skeleton in classes.items()}
        default = told
        if default is None and len(classes) == 1:
            default = next(iter(classes.values()))
        if default is None:
            people = [group for file in parsed for group in file.people if group.label not in classes]
            default = shapes.choose(
                [point.label for group in people for point in group.points], suffix, shapes.common_label(parsed)
            )
        self.default = None if default is None else Names(default, suffix)
        self._unique_names()

    def _unique_names(self) -> None:
        """Two classes whose skeletons differ under one name: the later one is renamed."""
        seen: dict[str, Skeleton] = {}
        for names in [*([self.default] if self.default else []), *self.classes.values()]:
            skeleton = names.skeleton
            while skeleton.name in seen and seen[skeleton.name] != skeleton:
                skeleton = replace(skeleton, name=f"{skeleton.name}_2")
            seen[skeleton.name] = names.skeleton = skeleton

    def of(self, label: str | None) -> Names | None:
        return self.classes.get(label, self.default) if label is not None else self.default


# ---------------------------------------------------------------------------------------------------------------- rows


@dataclass
class _Person:
    """One row of persons; marks: what each keypoint says of its visibility (0 absent, -1 nothing said)."""

    image_id: int
    label: str | None
    names: Names | None
    bbox: list[float] | None = None
    bbox_source: str | None = None
    score: float | None = None
    xy: list[float] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    polygons: list[list[float]] = field(default_factory=list)
    extras: str | None = None


class _Layout:
    """Where a person's shapes stood and what their keys said, without what has a column: for writing them back.

    shapes: [position, part, number of its rest(, corners)], part: null the box, a name a keypoint, a number a polygon.
    rests: the shapes' objects with null for a label, points or score that the columns give back as they were.
    """

    def __init__(self) -> None:
        self.shapes: list[list[Any]] = []
        self.rests: dict[str, int] = {}

    def add(self, shape: Shape, part: str | int | None, label: str, points: Any, code: list[int] | None = None) -> None:
        rest = dict(shape.raw)
        rest["label"] = None if rest["label"] == label else rest["label"]
        rest["points"] = None if rest["points"] == points else rest["points"]
        if _number(rest.get("score")) is not None and not isinstance(part, int):
            rest["score"] = None
        place = self.rests.setdefault(json.dumps(rest), len(self.rests))
        self.shapes.append([shape.position, part, place, *([code] if code is not None else [])])

    def text(self) -> str:
        mark = "" if any(shapes.informative(json.loads(rest)) for rest in self.rests) else '"layout": true, '
        return f'{{{mark}"shapes": {json.dumps(self.shapes)}, "rests": [{", ".join(self.rests)}]}}'


class _Rows:
    """Images and people, file by file."""

    def __init__(self, names: _Skeletons, labels: set[str], findings: Findings) -> None:
        self.names, self.labels, self.findings = names, labels, findings
        self.people: list[_Person] = []
        self.file_names: list[str | None] = []
        self.sizes: list[tuple[int | None, int | None]] = []
        self.extras: list[str | None] = []
        self.blobs: list[tuple[int, bytes]] = []

    def add_file(self, image_id: int, file: File) -> None:
        used: set[int] = set()
        for group in file.people:
            used |= self._add_person(image_id, file, group)
        self._note_polygons(image_id, file, used)
        document = file.document
        kept = {str(i): raw for i, raw in enumerate(document["shapes"]) if i not in used}
        file_name = shapes.photo(file.path, document.get("imagePath"))
        self.file_names.append(file_name)
        self.sizes.append((_size(document, "imageWidth", file.where), _size(document, "imageHeight", file.where)))
        if isinstance(picture := document.get("imageData"), str):
            self.blobs.append((image_id, picture.encode("utf-8", "surrogatepass")))
        top = {
            key: value if key not in _TYPED else _rest_of(document, key, file.path) for key, value in document.items()
        }
        plain = not kept and set(top) <= _PLAIN and not top.get("flags")
        facts = {
            **({"layout": True} if plain else {}),
            "file": file.path,
            "top": top,
            **({"shapes": kept} if kept else {}),
        }
        self.extras.append(json.dumps(facts))

    def _add_person(self, image_id: int, file: File, group: Group) -> set[int]:
        """Append the person; returns the positions of the shapes that it took."""
        names = self.names.of(group.label)
        person = _Person(image_id, group.label, names)
        facts: dict[str, Any] = {"image_id": image_id, "file": file.path}
        if group.box or (names and any(names.column(point.label)[0] is not None for point in group.points)):
            facts["annotation_id"] = len(self.people) + 1
        layout = _Layout()
        if names is not None:
            self._keypoints(person, names, group, layout, facts)
        if group.box is not None:
            left, top, right, bottom = group.box.bounds()
            person.bbox, person.bbox_source = [left, top, right - left, bottom - top], "annotated"
            person.score = _number(group.box.raw.get("score"))
            code = shapes.corner_code(group.box)
            layout.add(group.box, None, shapes.clean(group.box.label), shapes.corners(person.bbox, code), code)
        elif not layout.shapes:
            return set()  # a group of nothing but unknown labels is no person
        else:
            labelled = np.array(person.xy).reshape(-1, 2)[np.array(person.marks) != 0]
            low, high = labelled.min(0), labelled.max(0)
            person.bbox, person.bbox_source = [*low.tolist(), *(high - low).tolist()], "keypoints"
        for number, polygon in enumerate(group.polygons):
            person.polygons.append(polygon.xy)
            pairs = [list(pair) for pair in zip(polygon.xy[::2], polygon.xy[1::2], strict=True)]
            layout.add(polygon, number, shapes.clean(group.label or ""), pairs)
        layout.shapes.sort(key=lambda entry: entry[0])
        person.extras = layout.text()
        self.people.append(person)
        return {entry[0] for entry in layout.shapes}

    def _keypoints(self, person: _Person, names: Names, group: Group, layout: _Layout, facts: dict[str, Any]) -> None:
        count = len(names.skeleton)
        person.xy, person.marks, person.scores = [np.nan] * (2 * count), [0] * count, [np.nan] * count
        for point in group.points:
            column, suffixed = names.column(point.label)
            if column is None:
                message = f"{point.label!r} is no keypoint of {names.skeleton.name!r}: kept as it is, part of no person"
                self.findings.note("warning", "unknown-keypoint", message, **facts)
                continue
            name = names.skeleton.keypoint_names[column]
            if person.marks[column]:
                message = f"{name!r} twice in one person: the first one is used, the other kept as it is"
                self.findings.note("error", "duplicate-keypoint", message, keypoint=name, **facts)
                continue
            if point.xy == [0, 0]:
                message = f"{name!r} is labelled at 0, 0: leave out a point to say that it is absent"
                self.findings.note("warning", "keypoint-at-origin", message, keypoint=name, **facts)
            person.xy[2 * column : 2 * column + 2] = point.xy
            person.marks[column] = shapes.mark(point.raw, suffixed) or -1
            score = _number(point.raw.get("score"))
            person.scores[column] = np.nan if score is None else score
            layout.add(point, name, name, [point.xy])

    def _note_polygons(self, image_id: int, file: File, used: set[int]) -> None:
        """Polygons and lines with as many points as the skeleton: some draw a pose so, but that is not guessed."""
        for position, raw in enumerate(file.document["shapes"]):
            label = raw.get("label") if isinstance(raw, dict) and position not in used else None
            if not isinstance(label, str) or label not in self.labels:
                continue
            names, points = self.names.of(label), raw.get("points")
            if names is not None and isinstance(points, list) and len(points) == len(names.skeleton) > 2:
                message = f"shape {position + 1} ({label!r}) has as many points as the skeleton ({len(points)})"
                message += ": not taken as a pose, since nothing names them"
                self.findings.note("note", "polygon-like-a-pose", message, image_id=image_id, file=file.path)

    # -------------------------------------------------------------------------------------------------- columns

    def dataset(self, provenance: dict[str, Any]) -> ds.Dataset:
        count, people = len(self.file_names), self.people
        ids = np.arange(1, count + 1)
        images = {"image_id": schema.fixed(ids, pa.int64()), "file_name": schema.strings(self.file_names)}
        for place, key in enumerate(("width", "height")):
            images[key] = _optional([size[place] for size in self.sizes], pa.int32())
        images["extras"] = schema.strings(self.extras)
        blobs = schema.table(
            schema.BLOBS,
            len(self.blobs),
            {
                "image_id": schema.fixed(np.array([image for image, _ in self.blobs], np.int64), pa.int64()),
                "name": schema.constant("imageData", len(self.blobs)),
                "data": _binary([data for _, data in self.blobs]),
            },
        )
        used = {person.names.skeleton.name: person.names.skeleton for person in people if person.names}
        if not used and self.names.default:
            used = {self.names.default.skeleton.name: self.names.default.skeleton}
        return ds.build(
            images, self._person_columns(), num_images=count, num_persons=len(people), name=FORMAT,
            provenance=provenance, skeletons=used.values(), blobs=blobs,
        )  # fmt: skip

    def _person_columns(self) -> dict[str, pa.Array]:
        people, count = self.people, len(self.people)
        boxed = np.array([person.bbox is not None for person in people], bool)
        boxes = np.array([person.bbox or [0.0] * 4 for person in people], np.float64).reshape(-1, 4)
        polygons = [polygon for person in people for polygon in person.polygons]
        inner = schema.lists(
            np.array([x for xy in polygons for x in xy], np.float64), np.array([len(xy) for xy in polygons], np.int64)
        )
        lengths = np.array([len(person.polygons) for person in people], np.int64)
        return {
            "annotation_id": schema.fixed(np.arange(1, count + 1), pa.int64()),
            "image_id": schema.fixed(np.array([person.image_id for person in people], np.int64), pa.int64()),
            "category": schema.strings([person.label for person in people]),
            "skeleton": schema.strings([person.names.skeleton.name if person.names else None for person in people]),
            **self._keypoint_columns(),
            "score": _optional([person.score for person in people], pa.float64()),
            "bbox": schema.rows(boxes, boxed),
            "bbox_source": schema.strings([person.bbox_source for person in people]),
            "segmentation": schema.lists(inner, lengths, lengths > 0),
            "extras": schema.strings([person.extras for person in people]),
        }

    def _keypoint_columns(self) -> dict[str, pa.Array]:
        silent = 2 if any(mark > 0 for person in self.people for mark in person.marks) else 3
        by_width: dict[int, list[int]] = {}
        for row, person in enumerate(self.people):
            if person.names is not None:
                by_width.setdefault(len(person.marks), []).append(row)
        xy, visibility, scores = [], [], []
        for members in by_width.values():
            rows = np.array(members, np.int64)
            xy.append((rows, np.array([self.people[row].xy for row in members], np.float64)))
            marks = np.array([self.people[row].marks for row in members], np.int8)
            visibility.append((rows, np.where(marks < 0, np.int8(silent), marks)))
            block = np.array([self.people[row].scores for row in members], np.float64)
            told = ~np.isnan(block).all(1)
            if told.any():
                scores.append((rows[told], block[told]))
        count = len(self.people)
        return {
            "keypoints": schema.lists(*_rows.spread(xy, count)),
            "visibility": schema.lists(*_rows.spread(visibility, count), kind=pa.int8()),
            "keypoint_scores": schema.lists(*_rows.spread(scores, count)),
        }


_TYPED = ("shapes", "imagePath", "imageData", "imageWidth", "imageHeight")


def _rest_of(document: dict[str, Any], key: str, path: str) -> Any:
    """What the columns do not say of a typed key: null where they say it all."""
    value = document[key]
    if key == "imagePath":
        file_name = shapes.photo(path, value)
        return None if file_name is not None and shapes.image_path(path, file_name) == value else value
    return value if key == "imageData" and not isinstance(value, str) else None


def _size(document: dict[str, Any], key: str, where: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 2**31 or value != int(value):
        raise FormatError(where, f"{key!r} is {str(value)[:40]!r}, expected a whole number of pixels or null")
    return int(value)


def _number(value: Any) -> float | None:
    """A finite number as float; None for anything else (true and integers beyond float included)."""
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return float(value) if np.isfinite(value) else None
    return None


def _optional(items: list[Any], kind: pa.DataType) -> pa.Array:
    present = np.array([item is not None for item in items], bool)
    return schema.fixed(np.array([item or 0 for item in items], np.float64), kind, present)


def _binary(items: list[bytes]) -> pa.Array:
    """A large_binary column."""
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int64)
    return pa.Array.from_buffers(
        pa.large_binary(), len(items), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(items))]
    )
