"""The shapes of LabelMe files: what each one is, which belong to one person, and how a keypoint is named and marked.

Shape keys and their history: wkentaro/labelme labelme/_label_file.py; X-AnyLabeling (CVHub520/X-AnyLabeling) adds
`score`, `difficult`, `attributes` and rectangles of four corners.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kpdata import skeleton as skeletons
from kpdata.errors import FormatError, SkeletonError
from kpdata.skeleton import Skeleton

PERSON = "person"
IGNORED = "__ignore__"  # labelme's own label for regions to leave out (examples/semantic_segmentation/labels.txt)
_WORDS = {"1": 1, "occluded": 1, "hidden": 1, "2": 2, "visible": 2}


_EMPTY: tuple[Any, ...] = ("", None, {}, [], False)
_STRUCTURE = ("label", "points", "group_id", "shape_type", "visible")


def informative(rest: Mapping[str, Any]) -> bool:
    """A shape's keys say more than LabelMe and X-AnyLabeling write of themselves; occlusion is visibility's."""
    flags, said = rest.get("flags"), rest.get("description")
    if rest.get("label") is not None or rest.get("points") is not None:
        return True
    if isinstance(flags, dict) and set(flags) - {"occluded"}:
        return True
    known = (*_STRUCTURE, "flags", "description", "difficult")
    others = [value for key, value in rest.items() if key not in known]
    return any(value not in _EMPTY for value in others) or (said not in _EMPTY and str(said).lower() not in _WORDS)


@dataclass(slots=True)
class Shape:
    """One shape of a file: its place in the list, the object itself, its label and flat x, y coordinates."""

    position: int
    raw: dict[str, Any]
    label: str
    xy: list[float]

    @property
    def group(self) -> tuple[str, Any] | None:
        """A key for its group_id (an integer or text); None without one."""
        found = self.raw.get("group_id")
        return (type(found).__name__, found) if type(found) in (int, str, float) else None

    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax: corners come in drawing order."""
        return min(self.xy[::2]), min(self.xy[1::2]), max(self.xy[::2]), max(self.xy[1::2])


@dataclass(slots=True)
class Group:
    """The shapes of one person: at most one box, points, and polygons with the person's label."""

    box: Shape | None = None
    points: list[Shape] = field(default_factory=list)
    polygons: list[Shape] = field(default_factory=list)

    @property
    def label(self) -> str | None:
        return self.box.label if self.box else None

    def first(self) -> int:
        return min(shape.position for shape in (*self.points, *([self.box] if self.box else [])))


@dataclass
class File:
    """One parsed LabelMe file: its path below the source, the document, its shapes by kind, and then its people."""

    path: str
    where: str
    document: dict[str, Any]
    boxes: list[Shape] = field(default_factory=list)
    points: list[Shape] = field(default_factory=list)
    polygons: list[Shape] = field(default_factory=list)
    people: list[Group] = field(default_factory=list)


class Findings(list[dict[str, Any]]):
    """What a reader noticed, in the order of the files."""

    def note(self, level: str, code: str, message: str, **facts: Any) -> None:
        self.append({"level": level, "code": code, **facts, "message": message})


# ------------------------------------------------------------------------------------------------------------ parsing


def parse(path: str, where: str, document: Any, image_id: int, findings: Findings) -> File:
    """A file's shapes by kind. FormatError where the document is no LabelMe object or has text for coordinates."""
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise FormatError(where, "no list 'shapes' in it", hint="is it a LabelMe file?")
    file = File(path, where, document)
    by_kind = {"rectangle": file.boxes, "point": file.points, "polygon": file.polygons}
    facts = {"image_id": image_id, "file": path}
    for position, raw in enumerate(document["shapes"]):
        label = raw.get("label") if isinstance(raw, dict) else None
        if not isinstance(label, str):
            message = f"shape {position + 1}: no text 'label', the shape is kept and not used"
            findings.note("error", "bad-shape", message, **facts)
            continue
        kind = raw.get("shape_type") or "polygon"  # absent means polygon up to labelme 5.8
        if not isinstance(kind, str) or kind not in by_kind or label in ("", IGNORED):
            continue
        if "group_id" in raw and type(raw["group_id"]) not in (int, str, float, type(None)):
            message = f"shape {position + 1} ({label!r}): group_id is {raw['group_id']!r}, expected an integer or null"
            findings.note("error", "bad-group-id", message, **facts)
        xy, fault = _coordinates(raw.get("points"), kind)
        if fault.startswith("text"):
            message = f"shape {position + 1} ({label!r}): 'points' holds {fault}, expected [x, y] numbers"
            raise FormatError(where, message, hint="mend the file in a text editor")
        if fault and kind != "polygon":
            message = f"shape {position + 1} ({label!r}): 'points' holds {fault}; the shape is kept and not used"
            findings.note("error", "bad-shape", message, **facts)
        elif not fault:
            by_kind[kind].append(Shape(position, raw, label, xy))
    return file


def _coordinates(points: Any, kind: str) -> tuple[list[float], str]:
    """Flat x, y of a shape and what is wrong with them, "" for nothing."""
    if not isinstance(points, list):
        return [], "no list"
    flat: list[Any] = []
    for point in points:
        if isinstance(point, str):
            return [], f"text {point[:40]!r}"
        if not isinstance(point, list) or len(point) != 2:
            return [], f"{str(point)[:40]}, not a pair"
        flat += point
    if texts := [item for item in flat if isinstance(item, str)]:
        return [], f"text {texts[0][:40]!r}"
    try:
        xy = [float(item) for item in flat if type(item) in (int, float)]
    except OverflowError:
        return [], "a number too large"
    if len(xy) < len(flat) or not all(map(math.isfinite, xy)):
        return [], "something that is no finite number"
    wanted = {"point": len(points) == 1, "rectangle": len(points) >= 2, "polygon": len(points) >= 1}
    return xy, "" if wanted[kind] else f"{len(points)} points"


# ----------------------------------------------------------------------------------------------------------- grouping


def group_by_id(files: Sequence[File], classes: Iterable[str], findings: Findings) -> set[str]:
    """Fill `people` by group_id. Returns the labels that boxes of people have."""
    named = {PERSON, *classes}
    labels = set(named)
    for file in files:
        used = {point.group for point in file.points} - {None}
        labels |= {box.label for box in file.boxes if box.group in used}
    for number, file in enumerate(files, 1):
        _group_file(file, labels, named, {"image_id": number, "file": file.path}, findings)
    return labels


def _group_file(file: File, labels: set[str], named: set[str], facts: dict[str, Any], findings: Findings) -> None:
    members: dict[Any, Group] = {}
    for point in file.points:
        if point.group is not None:
            members.setdefault(point.group, Group()).points.append(point)
    loose = [point for point in file.points if point.group is None]
    _report_loose(loose, "without a group_id", "--group-by box takes the box that contains each", facts, findings)
    people = list(members.values())
    for key, group in members.items():
        boxes = [box for box in file.boxes if box.group == key]
        group.box = min(boxes, key=lambda box: (box.label not in named, box.position), default=None)
        if len(boxes) > 1:
            message = f"group_id {key[1]!r}: {len(boxes)} rectangles, the first one that names a person is used"
            findings.note("error", "several-boxes", message, **facts)
        if not boxes:
            message = f"group_id {key[1]!r}: points without a rectangle, the box is the extent of the points"
            findings.note("warning", "group-without-box", message, **facts)
    people += [Group(box) for box in file.boxes if box.group not in members and box.label in labels]
    file.people = sorted(people, key=Group.first)
    owners: dict[tuple[Any, str | None], Group] = {}
    for person in file.people:
        anchor = person.box or person.points[0]
        if anchor.group is not None:
            owners.setdefault((anchor.group, person.label), person)
    for polygon in file.polygons:
        owner = owners.get((polygon.group, polygon.label))
        if owner is None and polygon.label in labels:
            owner = owners.get((polygon.group, None))
        if owner is not None:
            owner.polygons.append(polygon)


def group_by_box(files: Sequence[File], classes: Iterable[str], findings: Findings) -> set[str]:
    """Fill `people` by containment: a point belongs to the smallest rectangle around it; group_id plays no part."""
    labels = {PERSON, *classes}
    owned: list[dict[int, Group]] = []
    for number, file in enumerate(files, 1):
        owned.append(_contained(file, {"image_id": number, "file": file.path}, findings))
        labels |= {group.label for group in owned[-1].values() if group.label is not None}
    for file, groups in zip(files, owned, strict=True):
        empty = [Group(box) for i, box in enumerate(file.boxes) if i not in groups and box.label in labels]
        file.people = sorted([*groups.values(), *empty], key=Group.first)
    return labels


def _contained(file: File, facts: dict[str, Any], findings: Findings) -> dict[int, Group]:
    """Group by the number of its rectangle."""
    if not file.points:
        return {}
    bounds = np.array([box.bounds() for box in file.boxes]).reshape(-1, 4)  # (R, 4)
    xy = np.array([point.xy for point in file.points])  # (P, 2)
    inside = ((xy[:, None] >= bounds[None, :, :2]) & (xy[:, None] <= bounds[None, :, 2:])).all(2)  # (P, R)
    area = (bounds[:, 2:] - bounds[:, :2]).prod(1)
    owner = np.where(inside, area, np.inf).argmin(1) if len(bounds) else np.zeros(len(xy), np.intp)
    count = inside.sum(1).tolist()
    groups: dict[int, Group] = {}
    for point, box, hits in zip(file.points, owner.tolist(), count, strict=True):
        if hits:
            groups.setdefault(box, Group(file.boxes[box])).points.append(point)
    _report_loose(
        [point for point, hits in zip(file.points, count, strict=True) if not hits],
        "in no rectangle", "draw a rectangle around each person", facts, findings,
    )  # fmt: skip
    several = [point for point, hits in zip(file.points, count, strict=True) if hits > 1]
    if several:
        message = f"{_count(several)} in several rectangles ({_names(several)}): each goes to the smallest one"
        findings.note("warning", "ambiguous-points", message, **facts)
    return groups


def _report_loose(points: list[Shape], what: str, hint: str, facts: dict[str, Any], findings: Findings) -> None:
    if points:
        message = f"{_count(points)} {what} ({_names(points)}): kept, part of no person; {hint}"
        findings.note("warning", "ungrouped-points", message, **facts)


def _count(points: Sequence[Shape]) -> str:
    return f"{len(points)} point{'s' * (len(points) > 1)}"


def _names(points: Sequence[Shape]) -> str:
    names = list(dict.fromkeys(point.label for point in points))
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


# ---------------------------------------------------------------------------------------------- names and visibility


class Names:
    """Labels as columns of a skeleton: exact names first, then usual spellings and aliases; then without the suffix."""

    def __init__(self, skeleton: Skeleton, suffix: str) -> None:
        self.skeleton, self.suffix = skeleton, suffix
        self._exact = {name: column for column, name in enumerate(skeleton.keypoint_names)}
        self._spelled = {spelling(name): column for name, column in reversed(self._exact.items())}
        for name, alias in skeleton.aliases:
            self._spelled.setdefault(spelling(alias), self._exact[name])
        self._found: dict[str, tuple[int | None, bool]] = {}

    def column(self, label: str) -> tuple[int | None, bool]:
        """(column or None, whether the occluded suffix was stripped)."""
        if label not in self._found:
            self._found[label] = self._look_up(clean(label))
        return self._found[label]

    def _look_up(self, label: str) -> tuple[int | None, bool]:
        found = self._exact.get(label, self._spelled.get(spelling(label)))
        if found is None and (short := without_suffix(label, self.suffix)) != label:
            return self._exact.get(short, self._spelled.get(spelling(short))), True
        return found, False


def spelling(name: str) -> str:
    """One spelling for all the usual ones (`RShoulder`, `right-shoulder`), or the name itself where none is left."""
    return skeletons._spelling(name) or name


def without_suffix(label: str, suffix: str) -> str:
    """The label without the occluded suffix, where it ends in it and something is left."""
    return label.removesuffix(suffix) if suffix and len(label) > len(suffix) else label


def mark(raw: Mapping[str, Any], suffixed: bool) -> int | None:
    """1 occluded, 2 visible, None: the shape says nothing. Flags win over suffix, description and `difficult`.

    `difficult: false` says nothing: X-AnyLabeling writes it on every shape.
    """
    flags = raw.get("flags")
    occluded = flags.get("occluded") if isinstance(flags, dict) else None
    if isinstance(occluded, bool):
        return 1 if occluded else 2
    if suffixed:
        return 1
    text = raw.get("description")
    if isinstance(text, str) and (word := _WORDS.get(text.strip().lower())) is not None:
        return word
    return 1 if raw.get("difficult") is True else None


def choose(labels: Sequence[str], suffix: str, title: str) -> Skeleton | None:
    """The skeleton of a source that does not name one: a built-in whose keypoints hold all labels, else one of its own.

    COCO's 17 come first, then a built-in with exactly these keypoints, then the only built-in that holds them all.
    Labels that no built-in holds become a skeleton of their own, in the order in which they occur first.
    """
    bases = list(dict.fromkeys(without_suffix(clean(label), suffix) for label in labels))
    if not bases:
        return None
    holding = []
    for name in ("coco_17", *skeletons.names()):
        names = Names(skeletons.load(name), "")
        columns = {names.column(base)[0] for base in bases}
        if None not in columns:
            holding.append((names.skeleton, len(columns) == len(names.skeleton)))
    if holding and holding[0][0].name == "coco_17":
        return holding[0][0]
    full = [skeleton for skeleton, exact in holding if exact]
    candidates = full or [skeleton for skeleton, _ in holding]
    return candidates[0] if len(candidates) == 1 else custom(bases, title)


def custom(names: Sequence[str], title: str) -> Skeleton:
    """A skeleton of these keypoint names, a built-in where they are its own; twins from left/right names."""
    try:
        return skeletons.from_category({"name": title, "keypoints": list(names)}, num_keypoints=len(names))
    except SkeletonError:  # two names of one landmark, or names that twins cannot be told from
        plain = skeletons._spelling(title) or "skeleton"
        return Skeleton(f"{plain}_{len(names)}", tuple(names), landmarks=("",) * len(names))


def common_label(files: Iterable[File]) -> str:
    """The most common label of people with points: it names a skeleton of the source's own."""
    counts = Counter(group.label for file in files for group in file.people if group.points and group.label)
    return counts.most_common(1)[0][0] if counts else PERSON


# -------------------------------------------------------------------------------------------------------------- paths


def clean(text: str) -> str:
    """The text as UTF-8 can hold it: a lone surrogate becomes `?`."""
    return text.encode("utf-8", "replace").decode()


def is_absolute(path: str) -> bool:
    """A path from the root, of POSIX or Windows."""
    return path.startswith("/") or re.match(r"[A-Za-z]:/", path) is not None


def photo(document_path: str, image_path: Any) -> str | None:
    """file_name of an imagePath: `/` separators, relative to the source's folder instead of the JSON file's."""
    if not isinstance(image_path, str) or not image_path:
        return None
    path = clean(image_path).replace("\\", "/")
    return path if is_absolute(path) else posixpath.normpath(posixpath.join(posixpath.dirname(document_path), path))


def image_path(document_path: str, file_name: str) -> str:
    """The imagePath of a file_name, seen from a JSON file."""
    if is_absolute(file_name):
        return file_name
    return posixpath.relpath(posixpath.join("/", file_name), posixpath.join("/", posixpath.dirname(document_path)))


# -------------------------------------------------------------------------------------------------------------- boxes


def corner_code(shape: Shape) -> list[int]:
    """Which corner each point of a rectangle is: 1 right, 2 bottom, 3 both, 0 neither."""
    left, top, _, _ = shape.bounds()
    return [(x > left) + 2 * (y > top) for x, y in zip(shape.xy[::2], shape.xy[1::2], strict=True)]


def corners(bbox: Sequence[float], code: Sequence[int]) -> list[list[float]]:
    """Points of a rectangle from its x, y, w, h."""
    x, y, w, h = bbox
    return [[x + w if corner & 1 else x, y + h if corner & 2 else y] for corner in code]


# ------------------------------------------------------------------------------------------------------- new shapes


def is_id(value: Any) -> bool:
    """A value that groups shapes."""
    return type(value) in (int, str, float)


def new_shape(kind: str, group: Any) -> dict[str, Any]:
    """A shape with every key of labelme 5.5, label and points still open."""
    return {
        "label": None,
        "points": None,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def pairs(flat: Sequence[float]) -> list[list[float]]:
    """Points of flat x, y."""
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]


def own_points(original: Any, flat: Sequence[float], points: list[list[float]]) -> Any:
    """The source's own points where they are still what the columns hold."""
    if original is not None and [float(x) for point in original for x in point] == list(flat):
        return original
    return points


def scored(shape: dict[str, Any], score: float | None) -> dict[str, Any]:
    """The shape with a score where it is known."""
    return {**shape, "score": score} if score is not None and np.isfinite(score) else shape
