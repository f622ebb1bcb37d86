"""COCO annotations out of a Dataset: COCO's own come back as they were, other sources get what COCO demands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import files, geometry, schema
from kpdata.converters import _coco_parts, _columns, _rows
from kpdata.converters._coco_people import WHOLEBODY
from kpdata.converters._columns import Column
from kpdata.errors import SchemaError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton
from kpdata.statistics import labelled_per_person

_SCALARS = ("num_keypoints", "area", "iscrowd", "score", "scale", "track_id", "person_index")
WHOLEBODY_SPLITS = {
    "keypoints": (0, 17),
    "foot_kpts": (17, 23),
    "face_kpts": (23, 91),
    "lefthand_kpts": (91, 112),
    "righthand_kpts": (112, 133),
}


def write(
    dataset: ds.Dataset,
    path: Path,
    *,
    allow_lossy: bool = False,
    force: bool = False,
    unknown_as: str = "visible",
    layout: str | None = None,
) -> LossReport:
    """Write a COCO annotation file (`.json`, `.json.gz`). LossyWrite before a byte is written, unless allowed."""
    files.refuse_existing(path, force)
    text, losses = document(dataset, unknown_as=unknown_as, layout=layout)
    losses.require(allow_lossy, path)
    files.write_bytes(path, text, force=force)
    return losses


def encode(
    dataset: ds.Dataset, *, unknown_as: str = "visible", layout: str | None = None, name: str = "coco"
) -> tuple[dict[str, Any], LossReport]:
    """The COCO document of a dataset as plain Python, and what it could not hold. Pure. Arguments as `document`."""
    text, losses = document(dataset, unknown_as=unknown_as, layout=layout, name=name)
    return _columns.parsed(text), losses


def document(
    dataset: ds.Dataset, *, unknown_as: str = "visible", layout: str | None = None, name: str = "coco"
) -> tuple[bytes, LossReport]:
    """The JSON text of the COCO document of a dataset, and what it could not hold. Pure.

    unknown_as: what visibility "unknown" becomes: `visible` (v = 2) or `occluded` (v = 1).
    layout: `nested` or `flat` for WholeBody people; as the source had it unless told.
    """
    if unknown_as not in ("visible", "occluded"):
        raise SchemaError(f"unknown_as {unknown_as!r}, expected 'visible' or 'occluded'")
    losses = LossReport(name)
    native = _coco_parts.of_formats(dataset, dataset.persons, _coco_parts.ANNOTATIONS)
    style = _coco_parts.common_style(dataset)
    categories, category_id, categorised = _coco_parts.categories(dataset)
    columns = [
        *keypoint_columns(len(dataset), _blocks(dataset, unknown_as, _layout(dataset, layout), losses), style),
        *_box_columns(dataset, style, native, losses),
        *_id_columns(dataset),
        ("category_id", _columns.scalars(category_id), categorised),
        *_scalar_columns(dataset, style, native, losses),
    ]
    own = _coco_parts.of_formats(dataset, dataset.persons, _coco_parts.FAMILY)
    extras = _coco_parts.own_extras(dataset.persons["extras"], own, "extras of people", losses)
    annotations = _columns.assemble(len(dataset), columns, extras)
    _uncounted_losses(dataset, losses)
    top = _coco_parts.top(dataset, losses)
    images = _coco_parts.images(dataset, style, losses)
    parts: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories, **top}
    keys = [key for d in dataset.datasets.values() for key in d.get("top_keys", ())] or list(parts)
    # A part that no source had (results have no images) is added where there is something to put into it.
    there = {"images": dataset.images.num_rows, "annotations": len(dataset)}
    missing = [key for key, value in parts.items() if key not in keys and there.get(key, value)]
    chosen = [key for key in [*dict.fromkeys(keys), *missing] if key in parts]
    return _columns.document({key: parts[key] for key in chosen}), losses


def _layout(dataset: ds.Dataset, layout: str | None) -> str:
    if layout not in (None, "nested", "flat"):
        raise SchemaError(f"layout {layout!r}, expected 'nested' or 'flat'")
    variants = {d.get("variant") for d in dataset.datasets.values()}
    return layout or ("nested" if "wholebody_nested" in variants else "flat")


# ------------------------------------------------------------------------------------------------------------- columns


def posed(dataset: ds.Dataset) -> Iterator[tuple[Skeleton, NDArray[np.int64]]]:
    """(skeleton, rows) of the people that have keypoints."""
    present = schema.valid(dataset.persons["keypoints"])
    for name, rows in dataset.groups():
        rows = rows[present[rows]]
        if name is not None and len(rows):
            yield dataset.skeletons[name], rows


def keypoint_columns(
    count: int, blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float64], bool]], style: Mapping[str, str]
) -> list[Column]:
    """`keypoints` and, where a block is nested, WholeBody's groups. blocks: rows (n,), numbers (n, K, 3), nested."""
    parts: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for rows, block, nested in blocks:
        for key, (start, stop) in (WHOLEBODY_SPLITS if nested else {"keypoints": (0, block.shape[1])}).items():
            parts.setdefault(key, []).append((rows, block[:, start:stop].reshape(len(rows), -1)))
    spread = {key: _rows.spread(found, count) for key, found in parts.items()}
    return [
        (key, _columns.lists(flat, lengths, style.get(f"annotations.{key}")), present)
        for key, (flat, lengths, present) in spread.items()
    ]


def _blocks(
    dataset: ds.Dataset, unknown_as: str, layout: str, losses: LossReport
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], bool]]:
    """(rows, x y v as COCO writes them (n, K, 3), nested): absent without a coordinate is 0, 0, 0; the source's own v
    where it is kept."""
    as_flag = {"visible": 2, "occluded": 1}[unknown_as]
    for bones, rows in posed(dataset):
        people = dataset.persons.select(["keypoints", "visibility", "visibility_raw"])
        people = people if len(rows) == len(dataset) else schema.take(people, rows)
        xy = schema.matrix(people["keypoints"], 2 * len(bones)).reshape(len(rows), len(bones), 2)
        flags = schema.matrix(people["visibility"], len(bones))
        own = schema.valid(people["visibility_raw"])[:, None]
        unknown = (flags == schema.Visibility.UNKNOWN) & ~own
        sentence = f"labelled keypoints of unknown visibility are written as v = {as_flag}"
        losses.lose("visibility unknown", int(unknown.sum()), sentence)
        third = np.where(unknown, as_flag, flags).astype(np.float64)
        third = np.where(own, schema.matrix(people["visibility_raw"], len(bones)), third)
        block = np.concatenate([xy, third[..., None]], axis=2)
        block[np.isnan(xy).all(-1) & (flags == 0) & (third == 0)] = 0
        yield rows, block, layout == "nested" and bones.name == WHOLEBODY


def _box_columns(
    dataset: ds.Dataset, style: Mapping[str, str], native: NDArray[np.bool_], losses: LossReport
) -> list[Column]:
    persons = dataset.persons
    boxes, present, derived = derived_boxes(dataset, ~native)
    losses.add(
        "bbox",
        int(derived.sum()),
        "boxes made from centre and scale, or from the keypoints' extent; bbox_source says which",
    )
    lengths = np.where(present, 4, 0)
    texts = _columns.lists(boxes[present].reshape(-1), lengths, style.get("annotations.bbox"))
    sources, centred = schema.texts(persons["bbox_source"]), np.asarray(np.isfinite(_squares(persons)).all(1))
    for row in np.flatnonzero(derived).tolist():
        sources[row] = "center_scale" if centred[row] else "keypoints"
    told = np.array([text not in (None, "annotated") for text in sources], bool) & present
    return [
        *segmentations(persons, style),
        ("bbox", texts, present),
        ("bbox_source", _columns.texts(sources), told),
        *(list_column(persons, key, style) for key in ("head_bbox", "center")),
    ]


def segmentations(persons: pa.Table, style: Mapping[str, str]) -> list[Column]:
    """Polygons, and the run-length masks of those that have one."""
    masks = schema.valid(persons["rle"])
    shapes = _columns.column_polygons(persons["segmentation"], style.get("annotations.segmentation"))
    found: list[Column] = [("segmentation", shapes, schema.valid(persons["segmentation"]) & ~masks)]
    if masks.any():
        texts = [(text or "null").encode() for text in schema.texts(persons["rle"])]
        found.append(("segmentation", _columns.raw(texts), masks))
    return found


def list_column(persons: pa.Table, key: str, style: Mapping[str, str]) -> Column:
    """A column of lists of numbers under its own name."""
    return key, _columns.column_lists(persons[key], style.get(f"annotations.{key}")), schema.valid(persons[key])


def derived_boxes(
    dataset: ds.Dataset, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, 4) person boxes, (N,) present, (N,) derived: where `wanted` people have none, the square of side 200 x scale
    about the centre (MPII's definition of scale: person height / 200 px), else the extent of the labelled keypoints."""
    persons = dataset.persons
    boxes, present = schema.matrix(persons["bbox"], 4).copy(), schema.valid(persons["bbox"])
    open_rows = wanted & ~present
    if not open_rows.any():
        return boxes, present, np.zeros(len(dataset), bool)
    square = _squares(persons)
    extent = np.full((len(dataset), 4), np.nan)
    for name, rows in dataset.groups():
        if name is not None:
            part = schema.take(persons.select(["keypoints", "visibility"]), rows)
            count = len(dataset.skeletons[name])
            xy = schema.matrix(part["keypoints"], 2 * count).reshape(len(rows), count, 2)
            extent[rows] = geometry.box_from_keypoints(xy, schema.matrix(part["visibility"], count))
    made = np.where(np.isfinite(square).all(1, keepdims=True), square, extent)
    derived = np.asarray(open_rows & np.isfinite(made).all(1))
    boxes[derived] = made[derived]
    return boxes, present | derived, derived


def _squares(persons: pa.Table) -> NDArray[np.float64]:
    """(N, 4) squares of side 200 x scale about the centre; NaN where either is not known."""
    with np.errstate(over="ignore"):
        center, side = schema.matrix(persons["center"], 2), 200 * schema.values(persons["scale"])
        return np.column_stack([center - side[:, None] / 2, side, side])


def _id_columns(dataset: ds.Dataset) -> list[Column]:
    persons = dataset.persons
    # A COCO file without ids gets none; whatever else is written needs them.
    unnumbered = len(dataset.datasets) == 1 and all(
        d.get("annotation_ids") == "assigned" and d.get("source_format") in _coco_parts.ANNOTATIONS
        for d in dataset.datasets.values()
    )
    ids = _columns.scalars(schema.values(persons["annotation_id"]))
    return [
        ("image_id", _coco_parts.id_texts(dataset, persons["image_id"]), np.ones(len(dataset), bool)),
        ("id", ids, np.full(len(dataset), not unnumbered)),
    ]


def _scalar_columns(
    dataset: ds.Dataset, style: Mapping[str, str], native: NDArray[np.bool_], losses: LossReport
) -> list[Column]:
    persons = dataset.persons
    present = {key: schema.valid(persons[key]) for key in _SCALARS}
    data = {key: schema.values(persons[key], missing=0) for key in _SCALARS}
    open_rows = ~native & ~present["num_keypoints"]
    if open_rows.any():
        data["num_keypoints"] = np.where(open_rows, labelled_per_person(dataset), data["num_keypoints"])
    losses.add("num_keypoints", int(open_rows.sum()), "counted: labelled keypoints")
    losses.add("iscrowd", int((~native & ~present["iscrowd"]).sum()), "written as 0")
    unsized = int((~native & ~present["area"]).sum())
    losses.add("no area", unsized, "left out, never invented: COCO's own evaluator demands it")
    present["num_keypoints"] |= open_rows
    present["iscrowd"] |= ~native
    styles = {key: style.get(f"annotations.{key}") for key in _SCALARS}
    return [(key, _columns.scalars(data[key], styles[key]), present[key]) for key in _SCALARS]


def _uncounted_losses(dataset: ds.Dataset, losses: LossReport) -> None:
    both = schema.valid(dataset.persons["segmentation"]) & schema.valid(dataset.persons["rle"])
    losses.lose("segmentation", int(both.sum()), "a person's polygons where the run-length mask is written")
    scored = int(schema.valid(dataset.persons["keypoint_scores"]).sum())
    losses.lose("keypoint scores", scored, "annotations hold v where results hold a score")
    _coco_parts.lose_variables(dataset, losses)
    losses.lose("embedded pictures", dataset.blobs.num_rows, "COCO names files and holds no pixels")
    masks = sum(not all(mask) for d in dataset.datasets.values() for mask in d.get("keypoint_mask", {}).values())
    losses.lose("keypoint masks", masks, "which keypoints had a source in a remap: COCO cannot say it")
