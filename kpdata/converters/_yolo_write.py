"""YOLO-pose labels out of a Dataset: one text file an image, and data.yaml; photographs only where asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import files, schema
from kpdata.converters import _coco_write, _image_sizes, _uncarried, _yolo_config, _yolo_files
from kpdata.converters._labelme_shapes import is_absolute
from kpdata.errors import SchemaError, WriteError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton

FORMAT = "yolo"
CONFIG = "data.yaml"
_DIGITS = 6  # as convert_coco writes (`%g`); at 1920 px that is 0.001 px
_PERSONS = (
    "score",
    "keypoint_scores",
    "area",
    "iscrowd",
    "head_bbox",
    "center",
    "scale",
    "segmentation",
    "rle",
    "track_id",
    "person_index",
)
_IMAGES = ("video_id", "frame_index", "crowd_index")


def write(
    dataset: ds.Dataset,
    path: Path,
    *,
    allow_lossy: bool = False,
    force: bool = False,
    unknown_as: str = "visible",
    images: str | Path | None = None,
) -> LossReport:
    """Write a folder: `labels/<split>/….txt` and `data.yaml`; Ultralytics takes the photographs from `images/<split>`.

    images: folder of the photographs, from which missing sizes are read and which are put into `images/<split>` (hard
    links where the disk can, else copies), so that the folder trains as it is. unknown_as: `visible` (2) or `occluded`
    (1) for keypoints of unknown visibility. A new folder appears whole or not at all; in an existing one (with `force`)
    each file is replaced and all others stay. LossyWrite before a byte is written, unless allowed.
    """
    files.refuse_existing(path, force)
    folder = None if images is None else _image_sizes.require_folder(Path(images))
    if folder is not None:
        dataset = _image_sizes.fill(dataset, folder)
    raw, losses = encode(dataset, unknown_as=unknown_as)
    photos = _photos(raw["files"], schema.texts(dataset.images["file_name"]), folder, losses)
    if path.exists() and not path.is_dir():
        raise WriteError(f"{path}: is a file, expected a folder to write")
    content = {entry["label"]: entry["text"].encode() for entry in raw["files"] if entry["text"] is not None}
    if path.is_dir():
        older = {text.relative_to(path).as_posix() for text in _yolo_files.label_texts(path / "labels")} - set(content)
        losses.add("older label files", len(older), f"stay in the folder and are read along: {min(older, default='')}")
    losses.require(allow_lossy, path)
    if raw["config"] is not None:
        content[CONFIG] = _yaml(raw["config"])
    _write_files(path, content, photos)
    return losses


def _write_files(path: Path, content: Mapping[str, bytes], photos: Mapping[str, Path]) -> None:
    """A new folder as a whole; in an existing one each file by itself."""
    if path.is_dir():
        for name, data in content.items():
            files.write_bytes(path / name, data, force=True)
        _place(photos, path)
        return
    with files.replacing_folder(path) as fresh:
        for name, data in content.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(data)
        _place(photos, fresh)


def _yaml(document: Any) -> bytes:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.encode("utf-8", "replace")


def _photos(
    entries: list[dict[str, Any]], names: list[str | None], folder: Path | None, losses: LossReport
) -> dict[str, Path]:
    """Photograph by its place in the data set."""
    if folder is None:
        return {}
    found, missing = {}, 0
    for entry in entries:
        photo = _image_sizes.find(folder, names[entry["row"]])
        if photo is None:
            missing += 1
        else:
            found[_yolo_files.image_path(entry["label"], photo.suffix)] = photo
    losses.add("photographs not found", missing, f"not in {folder}: these images have labels only")
    return found


def _place(photos: Mapping[str, Path], folder: Path) -> None:
    for name, photo in photos.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and photo.samefile(target):
            continue
        with files.replacing(target, force=True) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(photo.resolve(), temporary)
            except OSError:  # another disk, or one without hard links
                shutil.copyfile(photo, temporary)


def encode(dataset: ds.Dataset, *, unknown_as: str = "visible") -> tuple[dict[str, Any], LossReport]:
    """`{"config": …, "files": [{label, text, image, width, height, split, row}]}`, and what is lost. Pure.

    Files are sorted by label path; `row` is the image's row in the dataset. People without a box get one from centre
    and scale or from their keypoints; crowds, and people without any, are left out. SchemaError where an image with
    people has no size, or people have several skeletons.
    """
    if unknown_as not in ("visible", "occluded"):
        raise SchemaError(f"unknown_as is {unknown_as!r}, expected 'visible' or 'occluded'")
    losses = LossReport(FORMAT)
    own = _uncarried.native(dataset, dataset.images["dataset"], FORMAT)
    splits = _split_keys(dataset, own, losses)
    extras = _image_extras(dataset, own, losses)
    paths = _label_paths(dataset, splits, extras, losses)
    order = np.array(sorted(range(len(paths)), key=lambda row: paths[row]), np.int64)
    rows = _kept(dataset, order, losses)
    classes, numbers = _class_numbers(dataset, rows, losses)
    skeletons = _class_skeletons(dataset, rows, numbers)
    count = len(next(iter(skeletons.values()))) if skeletons else 0
    table, dimensions = _values(dataset, rows, numbers, count, unknown_as, losses)
    texts = _texts(table, dataset, dimensions)
    _note_rows(table, texts, dataset, rows, dimensions, losses)
    of_image = dataset.image_rows()[rows]
    place = np.empty(len(paths), np.int64)
    place[order] = np.arange(len(paths))
    edges = np.searchsorted(place[of_image], np.arange(len(paths) + 1)).tolist()
    entries = _entries(
        dataset, order.tolist(), paths, splits, extras, ["".join(texts[a:b]) for a, b in pairwise(edges)]
    )
    _uncarried.columns(dataset, losses, persons=[name for name in _PERSONS if name != "iscrowd"], images=_IMAGES)
    _uncarried.num_keypoints(dataset, losses)
    _uncarried.ids(dataset, order, rows, losses)
    foreign = ~_uncarried.native(dataset, dataset.persons["dataset"], FORMAT)
    lost = int((_uncarried.informative(dataset.persons["extras"]) & foreign).sum())
    losses.lose("extras of people", lost, "keys of another format")
    losses.lose("embedded pictures", dataset.blobs.num_rows, "the format has photographs as files")
    masks = sum(not all(mask) for d in dataset.datasets.values() for mask in d.get("keypoint_mask", {}).values())
    losses.lose("keypoint masks", masks, "which keypoints had a source in a remap")
    _uncarried.beside(dataset, losses, FORMAT)
    config = _yolo_config.config_of(dataset, classes, skeletons, dimensions, entries, losses)
    return {"config": config, "files": entries}, losses


# -------------------------------------------------------------------------------------------------------------- images


def _split_keys(dataset: ds.Dataset, own: NDArray[np.bool_], losses: LossReport) -> list[str | None]:
    """train, val or test for each image; a YOLO source's null stays null."""
    found: list[str | None] = []
    changed = missing = 0
    for text, mine in zip(schema.texts(dataset.images["split"]), own.tolist(), strict=True):
        lower = (text or "").lower()
        key = next((key for key in _yolo_files.SPLITS if lower.startswith(key)), "train")
        if mine and text in (None, *_yolo_files.SPLITS):
            found.append(text)
            continue
        missing += text is None
        changed += text is not None and text != key
        found.append(key)
    losses.add("split", missing, "images without a split are written as train")
    losses.lose("split names", changed, "the format has train, val and test; others are written as train")
    return found


def _image_extras(dataset: ds.Dataset, own: NDArray[np.bool_], losses: LossReport) -> list[dict[str, Any]]:
    texts = schema.texts(dataset.images["extras"])
    foreign = _uncarried.informative(dataset.images["extras"]) & ~own
    losses.lose("extras of images", int(foreign.sum()), "keys of another format")
    pairs = zip(texts, own.tolist(), strict=True)
    # An image that a YOLO source has no label file for is known by `own`, others get an empty one.
    return [{"own": mine, **(json.loads(text) if text is not None and mine else {})} for text, mine in pairs]


def _label_paths(
    dataset: ds.Dataset, splits: list[str | None], extras: list[dict[str, Any]], losses: LossReport
) -> list[str]:
    """The label file of each image: a YOLO source's own, else labels/<split>/<file_name>.txt; a taken one moves."""
    ids = schema.values(dataset.images["image_id"]).tolist()
    taken: set[str] = set()
    found, moved, renamed = [], 0, 0
    for name, image_id, split, own in zip(schema.texts(dataset.images["file_name"]), ids, splits, extras, strict=True):
        safe = _safe(name, image_id)
        if not own["own"] and "images" not in PurePosixPath(safe).parts[:-1]:
            safe = f"images/{split}/{safe}"
        renamed += not own["own"] and safe != name
        wanted = _safe(own["label"], image_id) if "label" in own else _yolo_files.label_path(safe)
        path, number = wanted, 1
        while path.casefold() in taken:
            number += 1
            path = str(PurePosixPath(wanted).parent / str(number) / PurePosixPath(wanted).name)
        moved += path != wanted
        taken.add(path.casefold())
        found.append(path)
    losses.add("file_name", renamed, "photographs belong into images/<split>/ of the folder")
    losses.add(
        "file in a sub-folder", moved, "two images of one name: the later one's labels are put into a folder 2, 3, …"
    )
    return found


def _safe(file_name: str | None, image_id: int) -> str:
    """A path below the target, whatever the file_name says."""
    name = (file_name or "").replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    parts = parts[-1:] if is_absolute(name) else parts
    return "/".join(parts) or f"image_{image_id}.jpg"


def _entries(
    dataset: ds.Dataset, order: list[int], paths: list[str], splits: list[str | None], extras: list[dict[str, Any]],
    texts: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    names = schema.texts(dataset.images["file_name"])
    sizes = [
        [
            item if ok else None
            for item, ok in zip(schema.values(column, 0).tolist(), schema.valid(column).tolist(), strict=True)
        ]
        for column in (dataset.images["width"], dataset.images["height"])
    ]
    entries = []
    for row, text in zip(order, texts, strict=True):
        name = names[row]
        if not extras[row]["own"]:
            name = _yolo_files.image_path(paths[row], PurePosixPath(_safe(name, 0)).suffix or ".jpg")
        label_file = bool(text) or not extras[row].get("no_label_file")
        entries.append({
            "label": paths[row], "text": text if label_file else None, "image": name, "width": sizes[0][row],
            "height": sizes[1][row], "split": splits[row], "row": row,
        })  # fmt: skip
    return entries


# -------------------------------------------------------------------------------------------------------------- people


def _kept(dataset: ds.Dataset, order: NDArray[np.int64], losses: LossReport) -> NDArray[np.int64]:
    """Rows of the people that are written, in the order of the files."""
    of_image = dataset.image_rows()
    crowd = schema.values(dataset.persons["iscrowd"], missing=False)
    losses.lose("crowds", int(crowd.sum()), "a row is one person: crowd regions are left out")
    losses.lose("people without an image", int((of_image < 0).sum()), "their image is not listed")
    boxes, boxed, derived = _coco_write.derived_boxes(dataset, np.ones(len(dataset), bool))
    boxed = boxed & np.isfinite(boxes).all(1)
    keep = boxed & ~crowd & (of_image >= 0)
    bare = ~boxed & ~crowd & (of_image >= 0)
    losses.lose("people without a box", int(bare.sum()), "no box and no labelled keypoint to take one from")
    losses.add("bbox", int((derived & keep).sum()), "boxes made from centre and scale, or from the keypoints' extent")
    told = np.array([text not in (None, "annotated") for text in schema.texts(dataset.persons["bbox_source"])], bool)
    losses.lose("bbox_source", int((told & keep).sum()), "a row does not say what its box was made from")
    place = np.empty(dataset.images.num_rows, np.int64)
    place[order] = np.arange(len(order))
    rows = np.flatnonzero(keep)
    return rows[np.argsort(place[of_image[rows]], kind="stable")]


def _class_numbers(
    dataset: ds.Dataset, rows: NDArray[np.int64], losses: LossReport
) -> tuple[dict[int, str] | None, NDArray[np.int64]]:
    """Names by class number (None: the source's own config stays) and the (n,) numbers of the people."""
    own = _uncarried.native(dataset, dataset.persons["dataset"], FORMAT)
    ids = schema.values(dataset.persons["category_id"], missing=0)[rows]
    if len(dataset.datasets) == 1 and own.all() and _yolo_config.native_config(dataset) is not False:
        return None, ids
    categories = schema.texts(dataset.persons["category"])
    titles = [categories[row] or "person" for row in rows.tolist()]
    losses.add("category", sum(not categories[row] for row in rows.tolist()), 'people without one are "person"')
    numbers = {title: number for number, title in enumerate(dict.fromkeys(titles))} or {"person": 0}
    found = np.array([numbers[title] for title in titles], np.int64)
    present: NDArray[np.bool_] = schema.valid(dataset.persons["category_id"])[rows]
    losses.lose("category_id", int((present & (ids != found)).sum()), "classes are numbered from 0")
    return {number: title for title, number in numbers.items()}, found


def _class_skeletons(dataset: ds.Dataset, rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> dict[int, Skeleton]:
    """Skeleton of each class. SchemaError where one class has two, or two have different numbers of keypoints."""
    names = schema.texts(dataset.persons["skeleton"])
    found: dict[int, Skeleton] = {}
    for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
        name = names[row]
        if name is None or found.setdefault(number, dataset.skeletons[name]).name == name:
            continue
        message = f"class {number}: people of the skeletons {found[number].name!r} and {name!r}, expected one"
        raise SchemaError(message, hint="--skeleton remaps all to one, or select the people of one")
    if len({len(skeleton) for skeleton in found.values()}) > 1:
        sizes = ", ".join(f"{skeleton.name} ({len(skeleton)})" for skeleton in found.values())
        message = f"skeletons of different sizes: {sizes}; YOLO's rows have one number of keypoints"
        raise SchemaError(message, hint="--skeleton remaps all to one")
    if not found and dataset.skeletons:
        found = {0: next(iter(dataset.skeletons.values()))}
    if len(rows) and not found:
        raise SchemaError("people without keypoints only: YOLO-pose rows need a number of keypoints")
    return found


def _values(
    dataset: ds.Dataset, rows: NDArray[np.int64], numbers: NDArray[np.int64], count: int, unknown_as: str,
    losses: LossReport,
) -> tuple[NDArray[np.float64], int]:  # fmt: skip
    """(n, 5 + K x dimensions) numbers of the rows, unrounded, and the dimensions."""
    size = _sizes(dataset, rows)
    box = _coco_write.derived_boxes(dataset, np.ones(len(dataset), bool))[0][rows]
    centre = np.concatenate([(box[:, :2] + box[:, 2:] / 2) / size, box[:, 2:] / size], axis=1)
    people = schema.take(dataset.persons, rows)
    xy = schema.matrix(people["keypoints"], 2 * count).reshape(len(rows), count, 2)
    flags, raw = schema.matrix(people["visibility"], count), schema.matrix(people["visibility_raw"], count)
    foreign = ~_uncarried.native(dataset, people["dataset"], FORMAT)
    losses.lose("visibility_raw", int((schema.valid(people["visibility_raw"]) & foreign).sum()), "v is 0, 1 or 2")
    raw = np.where(foreign[:, None], np.nan, raw)
    losses.add(
        "keypoints", int((~schema.valid(people["keypoints"])).sum()) if count else 0, "people without them: all absent"
    )
    broken = ~np.isfinite(xy).all(2) & (flags > 0)
    losses.lose("keypoints without a coordinate", int(broken.sum()), "labelled keypoints that are not finite: absent")
    flags = np.where(broken, 0, flags)
    fractions = xy / size[:, None]
    two = _two_dimensions(dataset) and not ((flags == 1) | (flags == 2) | ((flags == 0) & ~(xy < 0).any(2))).any()
    if two:
        block = fractions
    else:
        third = np.where(np.isnan(raw), np.where(flags == 3, 2 if unknown_as == "visible" else 1, flags), raw)
        third = np.where(broken, 0, third)
        unknown = (flags == 3) & np.isnan(raw)
        losses.lose(
            "visibility unknown", int(unknown.sum()), f"labelled keypoints of unknown visibility are {unknown_as}"
        )
        empty = ~np.isfinite(fractions.sum(2))
        block = np.concatenate([np.where(empty[..., None], 0, fractions), third[..., None]], axis=2)
        zero = np.all(fractions == 0, axis=2) & (third == 0) & ~empty
        losses.lose("coordinates of absent keypoints", int(zero.sum()), "0, 0 with v = 0 is the empty value")
    table = np.concatenate(
        [numbers[:, None], centre, block.reshape(len(rows), block.shape[1] * block.shape[2])], axis=1
    )
    return table, 2 if two else 3


def _sizes(dataset: ds.Dataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 2) width and height of the people's images. SchemaError names the first image without."""
    of_image, table = dataset.image_rows()[rows], dataset.images
    size = np.column_stack([schema.values(table["width"], 0), schema.values(table["height"], 0)])[of_image]
    unknown: NDArray[np.bool_] = np.logical_or(size[:, 0] <= 0, size[:, 1] <= 0)
    if unknown.any():
        row = int(of_image[unknown.argmax()])
        name, number = schema.texts(table["file_name"])[row], schema.values(table["image_id"])[row]
        images = len(np.unique(of_image[unknown]))
        message = f"image {number} ({name}): no width and height, which YOLO's fractions need ({images:,} such images)"
        raise SchemaError(message, hint="--images names the folder of the photographs: sizes are read there")
    return size.astype(np.float64)


def _two_dimensions(dataset: ds.Dataset) -> bool:
    facts = list(dataset.datasets.values())
    return bool(facts) and all(d.get("source_format") == FORMAT and d.get("dimensions") == 2 for d in facts)


def _texts(table: NDArray[np.float64], dataset: ds.Dataset, dimensions: int) -> list[str]:
    """A line of text for each row: as many significant digits as the source had, at least 6."""
    number = f"%.{_precision(dataset)}g"
    keypoint = " ".join([number] * 2 + ["%.6g"] * (dimensions - 2))
    line = " ".join(["%d"] + [number] * 4 + [keypoint] * ((table.shape[1] - 5) // dimensions)) + "\n"
    text = (line * len(table)) % tuple((table + 0.0).reshape(-1).tolist())  # + 0.0: no "-0"
    return text.splitlines(keepends=True)


def _precision(dataset: ds.Dataset) -> int:
    return max(
        [_DIGITS, *(int(d.get("digits", 0)) for d in dataset.datasets.values() if d.get("source_format") == FORMAT)]
    )


def _note_rows(
    table: NDArray[np.float64], texts: list[str], dataset: ds.Dataset, rows: NDArray[np.int64], dimensions: int,
    losses: LossReport,
) -> None:  # fmt: skip
    """Rounding, images that the trainer skips, repeated rows: not news where a YOLO source had them already."""
    if not len(rows):
        return
    written = np.array(" ".join(texts).split(), np.float64).reshape(table.shape)
    of_image, size = dataset.image_rows()[rows], _sizes(dataset, rows)
    xy = written[:, 5:].reshape(len(rows), -1, dimensions)[..., :2]
    error = np.abs(xy - table[:, 5:].reshape(len(rows), -1, dimensions)[..., :2]) * size[:, None]
    box_error = np.abs(written[:, 1:5] - table[:, 1:5]) * np.tile(size, 2)
    worst = max(error.max(initial=0), box_error.max(initial=0))
    rounded = int((error > 1e-9).sum() + (box_error > 1e-9).sum())
    losses.lose("precision", rounded, f"{_precision(dataset)} significant digits move numbers by up to {worst:.2g} px")
    own = _uncarried.native(dataset, dataset.persons["dataset"], FORMAT).all()
    report = losses.add if own else losses.lose
    outside = (xy > 1.01).any((1, 2)) | (written < -0.01).any(1)
    report(
        "images that training skips", len(np.unique(of_image[outside])),
        "a point beyond -1 % to 101 % of the image: Ultralytics leaves the whole image out",
    )  # fmt: skip
    distinct = len(np.unique(np.column_stack([of_image, written]), axis=0))
    report("repeated rows", len(rows) - distinct, "equal people in one image: Ultralytics keeps one")
