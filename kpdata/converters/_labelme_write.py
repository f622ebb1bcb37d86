"""LabelMe files out of a Dataset: what a LabelMe source said comes back as it was, others get LabelMe's own keys."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import files, schema
from kpdata.converters import _image_sizes, _json, _uncarried
from kpdata.converters import _labelme_shapes as shapes
from kpdata.converters._labelme_files import POSE_CLASSES
from kpdata.errors import SchemaError, WriteError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton

FORMAT = "labelme"
VERSION = "5.5.0"  # of labelme: the first 5.x whose files have every key that is written here
_PERSONS = (
    "category_id",
    "visibility_raw",
    "area",
    "iscrowd",
    "head_bbox",
    "center",
    "scale",
    "rle",
    "track_id",
    "person_index",
)
_IMAGES = ("split", "video_id", "frame_index", "crowd_index")
Placed = tuple[float, dict[str, Any]]  # position in the file's list of shapes, the shape


def write(
    dataset: ds.Dataset,
    path: Path,
    *,
    allow_lossy: bool = False,
    force: bool = False,
    images: str | Path | None = None,
) -> LossReport:
    """Write a folder of LabelMe files, one an image, or one file where `path` ends in `.json` and there is one image.

    A new folder appears whole or not at all; in an existing one (with `force`) each file is replaced atomically and
    all others stay. `imagePath` is relative to the folder: put it beside the photographs, or them into it. images:
    their folder; widths and heights that the dataset does not know are read there. LossyWrite before a byte is written.
    """
    files.refuse_existing(path, force)
    if images is not None:
        dataset = _image_sizes.fill(dataset, Path(images))
    raw, losses = encode(dataset)
    single = path.suffix == ".json"
    if single and len(raw["files"]) != 1:
        message = f"{path}: {len(raw['files'])} images, a .json file of LabelMe holds one"
        raise SchemaError(message, hint="name a folder instead: each image gets a file in it")
    if not single and path.exists() and not path.is_dir():
        raise WriteError(f"{path}: is a file, expected a folder to write")
    if single and raw["pose_classes"] is not None:
        _lone_file(dataset, next(iter(raw["files"].values())), losses)
    losses.require(allow_lossy, path)
    odd = any("NaN" in text or "Infinity" in text for text in _extras_texts(dataset))
    content = {name: _json.dump(document, nonfinite=odd, indent=True) for name, document in raw["files"].items()}
    if single:
        files.write_bytes(path, next(iter(content.values())), force=force)
        return losses
    if raw["pose_classes"] is not None:
        content[POSE_CLASSES] = _yaml(raw["pose_classes"])
    _write_files(path, content)
    return losses


def _write_files(path: Path, content: dict[str, bytes]) -> None:
    """A new folder as a whole; in an existing one each file by itself."""
    if path.is_dir():
        for name, data in content.items():
            files.write_bytes(path / name, data, force=True)
        return
    with files.replacing_folder(path) as fresh:
        for name, data in content.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(data)


def _lone_file(dataset: ds.Dataset, document: dict[str, Any], losses: LossReport) -> None:
    """Lose a skeleton that the labels of a file without pose_classes.yaml beside it do not give back."""
    labels = [shape["label"] for shape in document["shapes"] if shape.get("shape_type") == "point"]
    found = shapes.choose(labels, "", shapes.PERSON)
    lost = sum(found is None or not _equal(found, skeleton) for skeleton in dataset.skeletons.values())
    losses.lose("skeleton", lost, f"a single file has no {POSE_CLASSES} beside it: labels alone name the keypoints")


def _extras_texts(dataset: ds.Dataset) -> Iterator[str]:
    for table in (dataset.images, dataset.persons):
        yield from (text for text in schema.texts(table["extras"]) if text is not None)


def _yaml(document: Any) -> bytes:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8", "replace")


def encode(dataset: ds.Dataset) -> tuple[dict[str, Any], LossReport]:
    """`{"files": {path: document}, "pose_classes": document or None}` of a dataset, and what is lost. Pure.

    Paths are sorted, as a reader takes them. Absent keypoints are left out; v = 1 is the flag `occluded: true`, v = 2
    is `occluded: false` where the source's own words do not say it, unknown is no flag.
    """
    losses = LossReport(FORMAT)
    people = _People(dataset, losses)
    paths = _paths(dataset, losses)
    order = sorted(range(len(paths)), key=lambda row: paths[row])
    of_image = dataset.image_rows()
    members = _members(of_image, len(paths))
    losses.lose("people without an image", int((of_image < 0).sum()), "their image is not listed")
    pictures = _pictures(dataset, losses)
    table = dataset.images
    names = schema.texts(table["file_name"])
    sizes = [
        [
            item if ok else None
            for item, ok in zip(schema.values(table[key], 0).tolist(), schema.valid(table[key]).tolist(), strict=True)
        ]
        for key in ("width", "height")
    ]
    own = _image_extras(dataset, losses)
    ids = schema.values(table["image_id"]).tolist()
    documents = {}
    for row in order:
        extras = own[row]
        kept = [(float(place), shape) for place, shape in extras.get("shapes", {}).items()]
        facts = _Image(paths[row], names[row], sizes[0][row], sizes[1][row], pictures.get(ids[row]))
        documents[facts.path] = _document(facts, extras.get("top"), people.shapes(members[row], kept))
    person_order = [person for row in order for person in members[row]]
    _count_losses(dataset, np.array(order, np.int64), np.array(person_order, np.int64), losses)
    losses.add("imagePath", sum(name is None for name in names), "images without a file_name get an empty imagePath")
    return {"files": documents, "pose_classes": people.pose_classes(losses)}, losses


# -------------------------------------------------------------------------------------------------------------- images


@dataclass
class _Image:
    path: str
    file_name: str | None
    width: int | None
    height: int | None
    picture: str | None


def _document(image: _Image, top: dict[str, Any] | None, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The file's object: a source's own keys in their order, or LabelMe's."""
    own = top is not None
    if top is None:
        top = dict.fromkeys(("version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"))
        top |= {"version": VERSION, "flags": {}}
    values: dict[str, Any] = {
        "shapes": listed,
        "imagePath": _image_path(image, top.get("imagePath")),
        "imageData": image.picture if image.picture is not None else top.get("imageData"),
        "imageHeight": image.height,
        "imageWidth": image.width,
    }
    if own:  # a key that the source did not have stays away unless there is something to say by now
        values = {key: value for key, value in values.items() if key in top or value is not None}
    elif values["imagePath"] is None:
        values["imagePath"] = ""  # LabelMe refuses null
    return {**top, **values}


def _image_path(image: _Image, original: Any) -> Any:
    if image.file_name is None or (original is not None and shapes.photo(image.path, original) == image.file_name):
        return original
    return shapes.image_path(image.path, image.file_name)


def _image_extras(dataset: ds.Dataset, losses: LossReport) -> list[dict[str, Any]]:
    """Each image's own LabelMe keys; {} for images of another source, whose extras are counted."""
    own = _uncarried.native(dataset, dataset.images["dataset"], FORMAT).tolist()
    texts = schema.texts(dataset.images["extras"])
    foreign = _uncarried.informative(dataset.images["extras"]) & ~np.array(own, bool)
    losses.lose("extras of images", int(foreign.sum()), "keys of another format")
    return [json.loads(text) if text is not None and mine else {} for text, mine in zip(texts, own, strict=True)]


def _paths(dataset: ds.Dataset, losses: LossReport) -> list[str]:
    """The JSON file of each image: a LabelMe source's own, else by the stem of file_name; a taken one moves."""
    names, own = schema.texts(dataset.images["file_name"]), _image_extras(dataset, LossReport(FORMAT))
    ids = schema.values(dataset.images["image_id"]).tolist()
    taken: set[str] = set()
    found, moved = [], 0
    for name, extras, image_id in zip(names, own, ids, strict=True):
        wanted = _below(extras.get("file")) or _stem(name, image_id) + ".json"
        path, number = wanted, 1
        while path.casefold() in taken:
            number, path = number + 1, f"{number + 1}/{wanted}"
        moved += path != wanted
        taken.add(path.casefold())
        found.append(path)
    losses.add(
        "file in a sub-folder", moved, "two images of one name: the later one's file is put into a folder 2, 3, …"
    )
    return found


def _stem(file_name: str | None, image_id: int) -> str:
    return posixpath.splitext(_below(file_name))[0] or f"image_{image_id}"


def _below(path: str | None) -> str:
    """A path that stays below the target, whatever it says; "" where nothing is left."""
    name = (path or "").replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts[-1:] if shapes.is_absolute(name) else parts)


def _pictures(dataset: ds.Dataset, losses: LossReport) -> dict[int, str]:
    """imageData by image_id."""
    blobs = dataset.blobs
    names, ids = schema.texts(blobs["name"]), schema.values(blobs["image_id"]).tolist()
    data = schema.chunk(blobs["data"])
    rows = [row for row, name in enumerate(names) if name == "imageData"]
    losses.lose("embedded pictures", len(names) - len(rows), "only 'imageData' has a place in the file")
    return {ids[row]: data[row].as_py().decode("utf-8", "surrogatepass") for row in rows}


def _members(of_image: NDArray[np.int64], count: int) -> list[list[int]]:
    order = np.argsort(of_image, kind="stable")
    edges = np.searchsorted(of_image[order], np.arange(count + 1)).tolist()
    rows = order.tolist()
    return [rows[a:b] for a, b in pairwise(edges)]


# -------------------------------------------------------------------------------------------------------------- people


class _People:
    """The shapes of each person from the columns, and from what a LabelMe source said besides."""

    def __init__(self, dataset: ds.Dataset, losses: LossReport) -> None:
        persons = dataset.persons
        self.dataset, self.losses = dataset, losses
        own = _uncarried.native(dataset, persons["dataset"], FORMAT).tolist()
        self.extras = [
            json.loads(t) if t is not None and mine else {}
            for t, mine in zip(schema.texts(persons["extras"]), own, strict=True)
        ]
        foreign = _uncarried.informative(persons["extras"]) & ~np.array(own, bool)
        losses.lose("extras of people", int(foreign.sum()), "keys of another format")
        self.suffix = {name: str(facts.get("occluded_suffix", "")) for name, facts in dataset.datasets.items()}
        self.source = schema.texts(persons["dataset"])
        self.bbox, self.boxed = schema.matrix(persons["bbox"], 4).tolist(), schema.valid(persons["bbox"]).tolist()
        self.bbox_source = schema.texts(persons["bbox_source"])
        self.score = schema.values(persons["score"]).tolist()
        self.polygons = [polygons or [] for polygons in schema.chunk(persons["segmentation"]).to_pylist()]
        self.skeleton = schema.texts(persons["skeleton"])
        self.xy: list[list[float]] = [[]] * len(dataset)
        self.visibility: list[list[int]] = [[]] * len(dataset)
        self.scores: list[list[float]] = [[]] * len(dataset)
        self._spread()
        self.label = self._labels()
        self.written_labels: dict[str, dict[str, None]] = {}
        self.in_use = self._convention()

    def _spread(self) -> None:
        """Keypoint lists of each person; a labelled keypoint without a coordinate cannot be a shape."""
        lost = hidden = 0
        for name, rows in self.dataset.groups():
            if name is None:
                continue
            people, count = schema.take(self.dataset.persons, rows), len(self.dataset.skeletons[name])
            xy = schema.matrix(people["keypoints"], 2 * count).reshape(len(rows), count, 2)
            visibility = schema.matrix(people["visibility"], count)
            scores = schema.matrix(people["keypoint_scores"], count)
            finite = np.isfinite(xy).all(2)
            lost += int((~finite & (visibility > 0)).sum())
            hidden += int((np.isfinite(xy).any(2) & (visibility == 0)).sum())
            visibility = np.where(finite, visibility, 0)
            for place, row in enumerate(rows.tolist()):
                self.xy[row] = xy[place].reshape(-1).tolist()
                self.visibility[row] = visibility[place].tolist()
                self.scores[row] = scores[place].tolist()
        self.losses.lose("keypoints without a coordinate", lost, "labelled keypoints that are not finite: no shape")
        self.losses.lose("coordinates of absent keypoints", hidden, "an absent keypoint has no shape")

    def _labels(self) -> list[str]:
        """The label of each person's rectangle: the category, "person" where there is none; one skeleton a label."""
        categories = schema.texts(self.dataset.persons["category"])
        self.losses.add(
            "label", sum(not text for text in categories), 'people without a category are labelled "person"'
        )
        self.skeleton_of: dict[str, str] = {}
        labels, renamed = [], 0
        for category, skeleton in zip(categories, self.skeleton, strict=True):
            label = category or shapes.PERSON
            if skeleton is not None and self.skeleton_of.setdefault(label, skeleton) != skeleton:
                label, renamed = f"{label}_{skeleton}", renamed + 1
                self.skeleton_of.setdefault(label, skeleton)
            labels.append(label)
        self.losses.lose(
            "category", renamed, "people of one category with two skeletons: the later one's name is added"
        )
        return labels

    def _convention(self) -> bool:
        """Whether some keypoint that is written will say that it is visible or occluded."""
        occluded = unknown = 0
        told = False
        for row, flags in enumerate(self.visibility):
            occluded += flags.count(1)
            unknown += flags.count(3)
            told = told or (2 in flags and not self.extras[row])
        for row, extras in enumerate(self.extras):
            names = self._columns(row) if extras else {}
            for entry in extras.get("shapes", ()):
                if isinstance(entry[1], str) and entry[1] in names and self.visibility[row][names[entry[1]]] == 2:
                    rest = extras["rests"][entry[2]]
                    told = told or shapes.mark(rest, self._suffixed(row, entry[1], rest)) == 2
        in_use = told or occluded > 0
        if in_use or any(2 in flags for flags in self.visibility):
            self.losses.lose(
                "visibility unknown", unknown, "beside others that say it, a keypoint without a flag is visible"
            )
        return in_use

    def _columns(self, row: int) -> dict[str, int]:
        name = self.skeleton[row]
        return {} if name is None else {n: i for i, n in enumerate(self.dataset.skeletons[name].keypoint_names)}

    def _suffixed(self, row: int, name: str, rest: dict[str, Any]) -> bool:
        suffix, label = self.suffix[self.source[row] or ""], rest["label"]
        return bool(suffix) and isinstance(label, str) and label != name and label.endswith(suffix)

    # --------------------------------------------------------------------------------------------------- one image

    def shapes(self, rows: Sequence[int], kept: list[Placed]) -> list[dict[str, Any]]:
        """All shapes of an image in order: those of its people and the kept ones of other kinds."""
        taken = {
            shape.get("group_id")
            for _, shape in kept
            if isinstance(shape, dict) and shapes.is_id(shape.get("group_id"))
        }
        taken |= {
            rest["group_id"]
            for row in rows
            for rest in self.extras[row].get("rests", ())
            if shapes.is_id(rest.get("group_id"))
        }
        free = (number for number in range(len(taken) + len(rows) + 1) if number not in taken)
        placed = list(kept)
        for row in rows:
            rests = self.extras[row].get("rests", ())
            group = rests[0].get("group_id") if rests else next(free)
            mine = [*self._known(row), *self._new(row, group)]
            if not mine:
                self.losses.lose(
                    "people without shapes", 1, "no box, no labelled keypoint, no polygon: nothing to draw"
                )
            elif not rests and not self.boxed[row]:
                self.losses.add("people without a box", 1, "a reader takes the extent of their keypoints")
            placed += mine
        return [shape for _, shape in sorted(placed, key=lambda item: item[0])]

    def _known(self, row: int) -> Iterator[Placed]:
        """The shapes that the source had, with the columns' values."""
        extras, columns = self.extras[row], self._columns(row)
        for place, part, number, *code in extras.get("shapes", ()):
            rest = dict(extras["rests"][number])
            if part is None and self.boxed[row]:
                yield place, self._rectangle(row, rest, code[0])
            elif isinstance(part, int) and part < len(self.polygons[row]):
                label = rest["label"] if rest["label"] is not None else self.label[row]
                flat = self.polygons[row][part]
                yield (
                    place,
                    {**rest, "label": label, "points": shapes.own_points(rest["points"], flat, shapes.pairs(flat))},
                )
            elif isinstance(part, str) and part in columns and self.visibility[row][columns[part]]:
                yield place, self._keypoint(row, part, columns[part], rest)

    def _new(self, row: int, group: Any) -> Iterator[Placed]:
        """Shapes for what the columns hold and the source had not: box, keypoints, polygons."""
        extras = self.extras[row]
        parts = [entry[1] for entry in extras.get("shapes", ())]
        place = max((entry[0] for entry in extras.get("shapes", ())), default=float("inf"))
        derived = bool(extras) and self.bbox_source[row] == "keypoints"
        if self.boxed[row] and None not in parts and not derived:
            yield place, self._rectangle(row, shapes.new_shape("rectangle", group), [0, 3])
        for name, column in self._columns(row).items():
            if self.visibility[row] and self.visibility[row][column] and name not in parts:
                yield place, self._keypoint(row, name, column, shapes.new_shape("point", group))
        for number in range(sum(isinstance(part, int) for part in parts), len(self.polygons[row])):
            points = shapes.pairs(self.polygons[row][number])
            yield place, {**shapes.new_shape("polygon", group), "label": self.label[row], "points": points}

    def _rectangle(self, row: int, rest: dict[str, Any], code: list[int]) -> dict[str, Any]:
        box, label = self.bbox[row], self.label[row]
        if rest["points"] is not None:
            bounds = shapes.Shape(0, {}, "", [float(x) for point in rest["points"] for x in point]).bounds()
            same = [bounds[0], bounds[1], bounds[2] - bounds[0], bounds[3] - bounds[1]] == box
            rest["points"] = rest["points"] if same else None
        if rest["label"] is None or shapes.clean(rest["label"]) != label:
            rest["label"] = label
        return shapes.scored({**rest, "points": rest["points"] or shapes.corners(box, code)}, self.score[row])

    def _keypoint(self, row: int, name: str, column: int, rest: dict[str, Any]) -> dict[str, Any]:
        xy = self.xy[row][2 * column : 2 * column + 2]
        rest["points"] = shapes.own_points(rest["points"], xy, [xy])
        self._set_visibility(row, name, self.visibility[row][column], rest)
        rest["label"] = name if rest["label"] is None else rest["label"]
        return shapes.scored(rest, self.scores[row][column] if self.scores[row] else np.nan)

    def _set_visibility(self, row: int, name: str, wanted: int, rest: dict[str, Any]) -> None:
        """Change the shape's own words only where they do not say what the column says."""
        suffixed = self._suffixed(row, name, rest)
        said = shapes.mark(rest, suffixed)
        if said == wanted or (said is None and (wanted == 3 or (wanted == 2 and self.in_use and self.extras[row]))):
            return
        flags = rest.get("flags") if isinstance(rest.get("flags"), dict) else {}
        if suffixed:
            rest["label"] = None
        if wanted == 3:
            rest["flags"] = {key: value for key, value in (flags or {}).items() if key != "occluded"}
            rest |= {"description": None} if "description" in rest else {}
            rest |= {"difficult": False} if "difficult" in rest else {}
        else:
            rest["flags"] = {**(flags or {}), "occluded": wanted == 1}

    # ------------------------------------------------------------------------------------------------- skeletons

    def pose_classes(self, losses: LossReport) -> Any:
        """A LabelMe source's own pose_classes.yaml, else one that keeps the keypoints' order of other sources."""
        facts = self.dataset.datasets.values()
        given = [
            d["pose_classes"] for d in facts if d.get("source_format") == FORMAT and d.get("pose_classes") is not None
        ]
        foreign = any(d.get("source_format") != FORMAT or d.get("remapped") for d in facts)
        if given and not foreign:
            losses.lose(POSE_CLASSES, sum(document != given[0] for document in given), "one folder has one")
            return given[0]
        if not foreign:
            return None
        skeletons = self.dataset.skeletons
        used = self.skeleton_of or dict(zip([shapes.PERSON], skeletons, strict=False))
        for label, name in used.items():
            changed = not _equal(shapes.custom(skeletons[name].keypoint_names, label), skeletons[name])
            losses.lose(
                "skeleton", int(changed), f"{POSE_CLASSES} keeps keypoint names, not edges, sigmas and the name"
            )
        return {"has_visible": True, "classes": {label: list(skeletons[n].keypoint_names) for label, n in used.items()}}


def _equal(left: Skeleton, right: Skeleton) -> bool:
    return left.to_json() == right.to_json()


def _count_losses(
    dataset: ds.Dataset, image_order: NDArray[np.int64], person_order: NDArray[np.int64], losses: LossReport
) -> None:
    _uncarried.columns(dataset, losses, persons=_PERSONS, images=_IMAGES)
    _uncarried.num_keypoints(dataset, losses)
    _uncarried.ids(dataset, image_order, person_order, losses)
    own = _uncarried.native(dataset, dataset.persons["dataset"], FORMAT)
    derived = np.array([text not in (None, "annotated") for text in schema.texts(dataset.persons["bbox_source"])], bool)
    losses.lose("bbox_source", int((derived & ~own).sum()), "a rectangle does not say what the box was made from")
    wanted = np.array([text is None for text in schema.texts(dataset.persons["skeleton"])], bool) & ~own
    losses.add("keypoints", int(wanted.sum()), "people without keypoints: a reader finds them absent")
    masks = sum(not all(mask) for d in dataset.datasets.values() for mask in d.get("keypoint_mask", {}).values())
    losses.lose("keypoint masks", masks, "which keypoints had a source in a remap")
    _uncarried.beside(dataset, losses, FORMAT)
