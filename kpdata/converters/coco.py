"""COCO keypoints annotations (JSON), COCO-WholeBody in both layouts, and every file of that shape with any keypoints.

v: 0 not labelled (x = y = 0), 1 labelled but hidden, 2 visible; WholeBody's face and hands carry a float above 0 there.
Edges of a category are 1-based. `area` is the mask's area in the official files and something else in many others.
Fields: cocodataset/cocoapi PythonAPI/pycocotools, jin-s13/COCO-WholeBody data_format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _json, _rows
from kpdata.converters._coco_people import Annotations as Annotations
from kpdata.converters._coco_write import encode as encode
from kpdata.converters._coco_write import write as write
from kpdata.converters._source import Source
from kpdata.errors import FormatError, SkeletonError
from kpdata.skeleton import Skeleton, from_category, load

FORMAT = "coco"
_IMAGE_COLUMNS = {
    "file_name": ("file_name", pa.string()),
    "width": ("width", pa.int32()),
    "height": ("height", pa.int32()),
    "crowdIndex": ("crowd_index", pa.float64()),
    "split": ("split", pa.string()),
    "video_id": ("video_id", pa.string()),
    "frame_index": ("frame_index", pa.int64()),
}
# Keys that COCO does not define: another use of one goes to extras and is not refused.
_LENIENT = {"split": (str,), "video_id": (str,), "frame_index": (int, float)}


def detect(source: Source) -> str | None:
    """COCO annotations: an object with `images` beside `annotations` or `categories`."""
    raw = source.json if source.looks_like_json else None
    if (
        isinstance(raw, dict)
        and isinstance(raw.get("images"), list | _json.Rows)
        and ("annotations" in raw or "categories" in raw)
    ):
        return "a JSON object with 'images' and 'annotations'"
    return None


def read(path: Path | Source, *, skeleton: str | None = None) -> ds.Dataset:
    """A COCO annotation file, `.json` or `.json.gz`. skeleton: a name or file that stands in for the category's.

    FormatError names the file, the row and the field of what the schema cannot hold.
    """
    source = Source.of(path)
    return source.decode(lambda raw: decode(raw, source=str(source.path), skeleton=skeleton))


def decode(
    raw: Any,
    *,
    source: str = "memory",
    skeleton: str | None = None,
    name: str = FORMAT,
    provenance: Mapping[str, Any] | None = None,
) -> ds.Dataset:
    """The dataset of a parsed COCO document. Pure: touches no file. Errors as `read`."""
    with _json.shallow(source):
        return _decode(raw, source, load(skeleton) if skeleton else None, name, provenance or {})


def _decode(raw: Any, source: str, skeleton: Skeleton | None, name: str, provenance: Mapping[str, Any]) -> ds.Dataset:
    top = _document(raw, source)
    annotations = Annotations(top["annotations"], source)
    images, order, findings = _images(top["images"], annotations, source)
    categories = _categories(top["categories"], source)
    people = annotations.people(categories, skeleton)
    findings += _keypoints_as_categories(categories)
    facts = {
        "source_format": name,
        "variant": people.variant,
        "ids": "source",
        "area_kind": annotations.area_kind(),
        "top_keys": list(raw),
        "top": {key: value for key, value in raw.items() if key not in ("images", "annotations", "categories")},
        "categories_raw": top["categories"],
        "number_style": annotations.number_style() | images.style,
        **({"annotation_ids": "assigned"} if annotations.assigned else {}),
        **({"image_order": order} if order else {}),
        **({"findings": findings} if findings else {}),
        **provenance,
    }
    _json.require_shallow([facts["top"], facts["categories_raw"], order])
    return ds.build(
        images.columns, people.columns, num_images=images.count, num_persons=annotations.count,
        name=name, provenance=facts, skeletons=people.skeletons,
    )  # fmt: skip


def _document(raw: Any, source: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise FormatError(source, f"a JSON {_json.kind(raw)}, expected an object with 'images' and 'annotations'")
    top = {key: raw.get(key, []) for key in ("images", "annotations", "categories")}
    for key, value in top.items():
        if not isinstance(value, list | _json.Rows):
            raise FormatError(source, f"{key!r} is a JSON {_json.kind(value)}, expected a list")
    if not ("images" in raw and ("annotations" in raw or "categories" in raw)):
        raise FormatError(source, "no 'images' and 'annotations' in it", hint="is it a COCO keypoints file?")
    return top


def _keypoints_as_categories(categories: Mapping[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """An error where no category has keypoints but their names are keypoints': an annotation tool's other export."""
    names = [str(row.get("name")) for row in categories.values()]
    if len(names) < 3 or len(set(names)) < len(names) or any(row.get("keypoints") for row in categories.values()):
        return []
    try:
        landmarks = from_category({"name": "", "keypoints": names}).landmarks
    except SkeletonError:  # "Left Eye" beside "left_eye", say: whatever these are, they make no skeleton
        return []
    if 2 * sum(map(bool, landmarks)) < len(names):
        return []
    shown = ", ".join(names[:3])
    message = (
        f"{len(names)} categories are named like keypoints ({shown}, …) and none lists any: an export with one "
        "category a keypoint, in which nothing says what belongs to a person; export as 'COCO Keypoints' instead"
    )
    return [{"level": "error", "code": "keypoints-as-categories", "message": message}]


def _categories(rows: Sequence[Any], source: str) -> dict[Any, dict[str, Any]]:
    """Category by id. FormatError where one is no object with an id, or its keypoints are no list of names."""
    found: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("id"), int | str):
            raise FormatError(source, f"category {number + 1}: found no 'id', expected an object with 'id' and 'name'")
        names = row.get("keypoints") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FormatError(source, f"category {row['id']}: 'keypoints' is not a list of names")
        found.setdefault(row["id"], row)
    return found


# ------------------------------------------------------------------------------------------------------------- images


@dataclass(eq=False)
class _Images:
    columns: dict[str, pa.Array]
    count: int
    style: dict[str, str]


def _images(
    rows: Iterable[Any], annotations: Annotations, source: str
) -> tuple[_Images, list[Any], list[dict[str, Any]]]:
    """Image columns (one row an id), the file's order where ids repeat, and findings about repeats that differ."""
    if isinstance(rows, _json.Rows):
        if once := _listed_once(rows, annotations, source):
            return once, [], []
        rows = rows.plain()
    entries: dict[Any, dict[str, Any]] = {}
    order: list[Any] = []
    for number, entry in enumerate(rows):
        key = entry.get("id") if isinstance(entry, dict) else None
        if type(key) not in (int, str):
            found = f"'id' is {key!r}" if isinstance(entry, dict) else f"a JSON {_json.kind(entry)}"
            raise FormatError(
                source, f"image {number + 1}: {found}, expected an object with an integer or a text as 'id'"
            )
        first = entries.setdefault(key, entry)
        order.append(key if first is entry or first == entry else [key, entry])
    numbers = annotations.number_images(list(entries))
    findings = [
        {"level": "error", "code": "image-repeated", "image_id": numbers[item[0]],
         "message": f"image {item[0]!r} is listed again with another content; the first entry is used"}
        for item in order if isinstance(item, list)
    ]  # fmt: skip
    repeated = len(order) > len(entries)
    if repeated and not findings:
        message = f"{len(order):,} image entries for {len(entries):,} images: identical repeats"
        findings.append({"level": "note", "code": "image-repeated", "message": message})
    order = [[numbers[i[0]], i[1]] if isinstance(i, list) else numbers[i] for i in order] if repeated else []
    return image_columns(list(entries.values()), numbers, source), order, findings


def _listed_once(rows: _json.Rows, annotations: Annotations, source: str) -> _Images | None:
    """The columns of images that the compiled scanner takes and that are each listed once; None for others."""
    extras, columns, own_id = _image_collectors()
    count = _rows.scan(rows, {**columns, "id": own_id}, extras)
    if count is None or len(own_id.rows) < count or not own_id.types() <= {int, str}:
        return None
    if len(dict.fromkeys(own_id.items)) < count:
        return None
    numbers = annotations.number_images(own_id.items)
    return _built(columns, own_id, extras, numbers, count, source)


def _image_collectors() -> tuple[_rows.Extras, dict[str, _rows.Scalars], _rows.Scalars]:
    extras = _rows.Extras()
    return extras, {key: _rows.Scalars(key, extras) for key in _IMAGE_COLUMNS}, _rows.Scalars("id", extras)


def image_columns(entries: list[dict[str, Any]], numbers: Mapping[Any, int], source: str) -> _Images:
    """Columns of image entries whose ids are numbered by `numbers`."""
    extras, columns, own_id = _image_collectors()
    count = _rows.collect(
        entries, {**columns, "id": own_id}, extras, lambda row, found: FormatError(source, f"image {row + 1}")
    )
    return _built(columns, own_id, extras, numbers, count, source)


def bare_images(ids: list[Any], numbers: Mapping[Any, int], source: str) -> _Images:
    """Columns of images of which nothing is known but the id."""
    if set(map(type, ids)) <= {int}:
        return _Images({"image_id": schema.fixed(np.array(ids, np.int64), pa.int64())}, len(ids), {})
    return image_columns([{"id": i} for i in ids], numbers, source)


def _built(
    columns: Mapping[str, _rows.Scalars],
    own_id: _rows.Scalars,
    extras: _rows.Extras,
    numbers: Mapping[Any, int],
    count: int,
    source: str,
) -> _Images:
    ids = own_id.items
    for key, kinds in _LENIENT.items():
        columns[key].only(*kinds)

    def where(row: int) -> str:
        return f"image {ids[row]!r}"

    built = {"image_id": schema.fixed(np.array([numbers[i] for i in ids], np.int64), pa.int64())}
    if str in own_id.types():
        built["source_image_id"] = schema.strings([i if isinstance(i, str) else None for i in ids])
        for row, item in enumerate(ids):
            if isinstance(item, str) and not _rows.utf8(item):
                extras.add(row, "id", item)
    for key, (name, kind) in _IMAGE_COLUMNS.items():
        column = columns[key]
        if kind == pa.string():
            built[name] = column.texts(count, source, where)
        elif kind == pa.float64():
            built[name] = column.floats(count, source, where)
        else:
            built[name] = column.integers(count, kind, source, where)
    style = {f"images.{key}": style for key, column in columns.items() if (style := column.style())}
    return _Images({**built, "extras": extras.column(count)}, count, style)
