"""What stands around the annotations of a COCO document: categories, images, ids as the source wrote them, the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _columns, _json, _uncarried
from kpdata.converters._columns import Column
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton

# Formats whose rows and extras are COCO's own: written back verbatim.
FAMILY = ("coco", "crowdpose", "coco_results")
ANNOTATIONS = ("coco", "crowdpose")
_IMAGE_KEYS = {
    "file_name": "file_name",
    "width": "width",
    "height": "height",
    "crowdIndex": "crowd_index",
    "split": "split",
    "video_id": "video_id",
    "frame_index": "frame_index",
}


def of_formats(
    dataset: ds.Dataset, table: pa.Table, formats: tuple[str, ...], *, remapped: bool = False
) -> NDArray[np.bool_]:
    """(rows,) bool: the row comes from a file of one of these formats; remapped: also if it was remapped since."""
    chosen = {
        name
        for name, d in dataset.datasets.items()
        if d.get("source_format") in formats and (remapped or not d.get("remapped"))
    }
    return schema.among(table["dataset"], chosen)


def common_style(dataset: ds.Dataset) -> dict[str, str]:
    """Number style of each field: the sources' own where they agree."""
    found = [d.get("number_style", {}) for d in dataset.datasets.values() if d.get("source_format") in FAMILY]
    return {k: v for k, v in found[0].items() if all(f.get(k) == v for f in found)} if found else {}


def own_extras(column: pa.ChunkedArray, own: NDArray[np.bool_], kind: str, losses: LossReport) -> pa.Array:
    """Extras of these rows; those of other rows have no key here and are counted."""
    if own.all():
        return schema.chunk(column)
    losses.lose(kind, int((_uncarried.informative(column) & ~own).sum()), "keys of another format or skeleton")
    return schema.strings(
        [text if mine else None for text, mine in zip(schema.texts(column), own.tolist(), strict=True)]
    )


# ---------------------------------------------------------------------------------------------------------- categories


def categories(dataset: ds.Dataset) -> tuple[list[dict[str, Any]], NDArray[np.int64], NDArray[np.bool_]]:
    """The categories, each person's category id, and whether the person is written with one."""
    sources = [d for d in dataset.datasets.values() if d.get("source_format") in ANNOTATIONS and not d.get("remapped")]
    listed = [row for d in sources for row in d.get("categories_raw", ())]
    if len(sources) > 1:
        listed = list({json.dumps(row, sort_keys=True): row for row in listed}.values())
    ids = schema.values(dataset.persons["category_id"], missing=0)
    present = schema.valid(dataset.persons["category_id"])
    owners = {name for name, d in dataset.datasets.items() if "categories_raw" in d}
    told = schema.among(dataset.persons["dataset"], owners)
    native = of_formats(dataset, dataset.persons, ANNOTATIONS) & told
    needed = ~native & ~_known(dataset, ids, present, listed)
    if needed.any():
        ids, listed = _made_categories(dataset, ids, needed, listed)
    elif not len(dataset) and not sources:
        listed = [category(bones, number + 1, "person") for number, bones in enumerate(dataset.skeletons.values())]
    return listed, ids, present | ~native


def _known(
    dataset: ds.Dataset, ids: NDArray[np.int64], present: NDArray[np.bool_], listed: list[dict[str, Any]]
) -> NDArray[np.bool_]:
    """(N,) bool: a person's category id is listed with the keypoints of the person's skeleton."""
    known = np.zeros(len(dataset), bool)
    names = {row["id"]: row.get("keypoints") for row in listed}
    for name, rows in dataset.groups():
        wanted = list(dataset.skeletons[name].keypoint_names) if name else None
        fitting = [number for number, found in names.items() if found == wanted and isinstance(number, int)]
        known[rows] = present[rows] & np.isin(ids[rows], np.array(fitting, np.int64))
    return known


def _made_categories(
    dataset: ds.Dataset, ids: NDArray[np.int64], needed: NDArray[np.bool_], listed: list[dict[str, Any]]
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """One new category for each pair of name and skeleton that no listed one covers; people without skeleton take any
    of their name."""
    ids, made = ids.copy(), list(listed)
    titles: dict[str, int] = {}
    texts = [text or "person" for text in schema.texts(dataset.persons["category"])]
    code = np.array([titles.setdefault(text, len(titles)) for text in texts], np.int64)
    for name, rows in sorted(dataset.groups(), key=lambda group: group[0] is None):
        rows = rows[needed[rows]]
        for title in [text for text in titles if (code[rows] == titles[text]).any()]:
            mine = rows[code[rows] == titles[title]]
            named = [row["id"] for row in made if name is None and row.get("name") == title]
            number = named[0] if named else _number(ids[mine], {row["id"] for row in made})
            if not named:
                made.append(category(dataset.skeletons[name] if name else None, number, title))
            ids[mine] = number
    return ids, made


def _number(ids: NDArray[np.int64], taken: set[Any]) -> int:
    """The people's own category id where they agree on one that is free, else the next free number."""
    own = int(ids[0])
    if own > 0 and own not in taken and (ids == own).all():
        return own
    return free_number(taken)


def free_number(taken: Collection[Any]) -> int:
    """The number after the largest one taken, or the first free one where 64 bits end."""
    top = 1 + max((number for number in taken if isinstance(number, int)), default=0)
    return top if top < 2**63 else next(number for number in count(1) if number not in taken)


def category(skeleton: Skeleton | None, number: int, title: str) -> dict[str, Any]:
    """A COCO category: keypoint names and 1-based edges of a skeleton."""
    row: dict[str, Any] = {"supercategory": "person", "id": number, "name": title}
    if skeleton is not None:
        row["keypoints"] = list(skeleton.keypoint_names)
        row["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.edges]
    return row


# -------------------------------------------------------------------------------------------------------------- images


def written_ids(dataset: ds.Dataset) -> dict[int, str]:
    """Image ids that are written as the text of the source: where it had texts, and no two images share one."""
    if not schema.valid(dataset.images["source_image_id"]).any():
        return {}
    texts = schema.texts(dataset.images["source_image_id"])
    own = of_formats(dataset, dataset.images, FAMILY, remapped=True).tolist()
    times = Counter(texts)
    numbers = schema.values(dataset.images["image_id"]).tolist()
    top = max(*numbers, 0, int(schema.values(dataset.persons["image_id"]).max(initial=0)))
    if top + len(texts) >= 2**63:  # a reader numbers texts above the integers
        return {}
    found = zip(numbers, texts, own, strict=True)
    return {number: text for number, text, mine in found if text is not None and mine and times[text] == 1}


def id_texts(dataset: ds.Dataset, column: pa.ChunkedArray) -> _columns.Texts:
    """Image ids as they are written: the number, or the source's text."""
    texts, numbers = written_ids(dataset), schema.values(column)
    return _columns.texts([texts.get(n, n) for n in numbers.tolist()]) if texts else _columns.scalars(numbers)


def images(dataset: ds.Dataset, style: Mapping[str, str], losses: LossReport) -> _columns.Rows:
    """The entries of `images`, repeated and ordered as the source had them."""
    table, rows = dataset.images, dataset.images.num_rows
    own, texts = of_formats(dataset, table, FAMILY, remapped=True), written_ids(dataset)
    numbers = schema.values(table["image_id"]).tolist()
    columns: list[Column] = [("id", id_texts(dataset, table["image_id"]), np.ones(rows, bool))]
    for key, name in _IMAGE_KEYS.items():
        column, present = table[name], schema.valid(table[name])
        if column.type == pa.string():
            items = _columns.texts(schema.texts(column))
        else:
            items = _columns.column_scalars(column, style.get(f"images.{key}"))
        columns.append((key, items, present))
    unwritten = int(schema.valid(table["source_image_id"]).sum()) - len(texts)
    losses.lose("source_image_id", unwritten, "an image has one id: the number stays, the source's text goes")
    extras = own_extras(table["extras"], own, "extras of images", losses)
    return _in_order(dataset, numbers, _columns.assemble(rows, columns, extras))


def _in_order(dataset: ds.Dataset, numbers: list[int], entries: _columns.Rows) -> _columns.Rows:
    """The entries as the files listed them, repeats included: provenance has the order of those that had repeats."""
    orders = {name: d["image_order"] for name, d in dataset.datasets.items() if d.get("image_order")}
    if not orders:
        return entries
    by_id = dict(zip(numbers, entries.pieces(), strict=True))
    owners = schema.texts(dataset.images["dataset"])
    out, listed = [], set()
    for number, owner in zip(numbers, owners, strict=True):
        for item in orders.pop(owner or "", ()):
            first = item[0] if isinstance(item, list) else item
            if first in by_id:
                out.append(_json.dump(item[1]) if isinstance(item, list) else by_id[first])
                listed.add(first)
        if number not in listed:
            out.append(by_id[number])
            listed.add(number)
    return _columns.of_pieces(out)


def lose_variables(dataset: ds.Dataset, losses: LossReport) -> None:
    """Count what stood beside the people in files of other formats: variables of a .mat or .h5 file."""
    variables = sum(len(d.get("variables", ())) for d in dataset.datasets.values())
    losses.lose("other variables", variables, "variables that stood beside the people in the source file")


def top(dataset: ds.Dataset, losses: LossReport) -> dict[str, Any]:
    """`info`, `licenses` and whatever else stood at the top; of merged files the first one's, the rest is counted."""
    tops = [d["top"] for d in dataset.datasets.values() if "top" in d]
    for other in tops[1:]:
        differing = [key for key in other if other[key] != tops[0].get(key)]
        losses.lose("top-level keys of merged files", len(differing), f"one file holds one {', '.join(differing)}")
    return dict(tops[0]) if tops else {}
