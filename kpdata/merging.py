"""Several datasets into one: ids change only where they collide, equal images become one row, duplicates are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata.arrays import lookup
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

Moves = tuple[NDArray[np.int64], NDArray[np.int64]]  # (old ids, new ids)


@dataclass(frozen=True)
class MergeReport:
    """What a merge changed and noticed; counts, and for duplicates the ids in the merged dataset.

    shared_images: rows that stood in several inputs under one id, name and size, now one row.
    shared_differ: those of them whose other columns differ (split, extras, …): the first input's are kept.
    reassigned: dataset -> table -> number of ids that collided and were given new ones.
    duplicate_images: pairs of ids whose file name and size are equal though their ids differ: kept, look at them.
    duplicate_people: pairs of ids of people of one image with the same keypoints.
    """

    shared_images: int
    reassigned: dict[str, dict[str, int]]
    duplicate_images: list[tuple[int, int]]
    duplicate_people: list[tuple[int, int]]
    shared_differ: int = 0


def merge(datasets: Sequence[ds.Dataset], *, drop_duplicates: bool = False) -> tuple[ds.Dataset, MergeReport]:
    """One dataset of all images and people, in order of the inputs.

    An image is the same in two inputs when id, file name, width and height are equal and both took their ids from the
    source (ids that a reader numbered mean nothing across inputs): it stays one row. Any other collision of image,
    annotation or category ids gives the later one a new id, recorded in the history.
    drop_duplicates: of people with equal keypoints in one image only the first stays.
    """
    if not datasets:
        raise SchemaError("nothing to merge", hint="name at least one dataset")
    merged = datasets[0]
    shared, differ, reassigned = 0, 0, {}
    for other in datasets[1:]:
        other = _apart_skeletons(merged, _prefixed(other, merged.datasets))
        other, changes = _apart_categories(merged, other)
        place = _same_images(merged, other)
        differ += _differing(merged, other, place)
        other, moves = _apart_ids(merged, other, place)
        changes.update(moves)
        shared += int((place >= 0).sum())
        merged = _appended(merged, other, place >= 0)
        if changes:
            owner = ", ".join(other.datasets)
            reassigned[owner] = {table: len(pairs[0]) for table, pairs in changes.items()}
            merged = merged.with_history("reassign", dataset=owner, **changes)
    people = _duplicate_people(merged)
    ids = schema.values(merged.persons["annotation_id"])
    pairs = [(int(ids[a]), int(ids[b])) for a, b in people]
    report = MergeReport(shared, reassigned, _duplicate_images(merged), pairs, differ)
    if drop_duplicates and len(people):
        merged = merged.select(np.setdiff1d(np.arange(len(merged)), people[:, 1]), op="drop duplicates")
    merged = merged.with_history("merge", inputs=[", ".join(d.datasets) for d in datasets], shared_images=shared)
    return merged, report


# ------------------------------------------------------------------------------------------------ names and categories


def _free(name: str, taken: Any) -> str:
    """`name`, or the first of `name_2`, `name_3`, … that is not taken."""
    fresh, number = name, 2
    while fresh in taken:
        fresh, number = f"{name}_{number}", number + 1
    return fresh


def _renamed(table: pa.Table, key: str, names: Mapping[str, str]) -> pa.Table:
    column = schema.strings([names.get(text or "", text) for text in schema.texts(table[key])])
    return table.set_column(table.schema.get_field_index(key), key, column)


def _prefixed(dataset: ds.Dataset, taken: Mapping[str, Any]) -> ds.Dataset:
    """The dataset under provenance names that are not taken: `coco`, `coco_2`, …"""
    names: dict[str, str] = {}
    for name in dataset.datasets:
        names[name] = _free(name, {*taken, *names.values(), *(set(dataset.datasets) - {name})})
    if all(old == new for old, new in names.items()):
        return dataset
    return replace(
        dataset,
        images=_renamed(dataset.images, "dataset", names),
        persons=_renamed(dataset.persons, "dataset", names),
        datasets={names[name]: d for name, d in dataset.datasets.items()},
    )


def _apart_skeletons(merged: ds.Dataset, other: ds.Dataset) -> ds.Dataset:
    """The other dataset with its skeletons renamed where the name is taken by a different one."""
    names: dict[str, str] = {}
    skeletons: dict[str, Skeleton] = {}
    for name, skeleton in other.skeletons.items():
        clash = name in merged.skeletons and merged.skeletons[name] != skeleton
        fresh = _free(name, {*merged.skeletons, *other.skeletons, *skeletons}) if clash else name
        names[name], skeletons[fresh] = fresh, replace(skeleton, name=fresh)
    if all(old == new for old, new in names.items()):
        return other
    datasets = {}
    for name, d in other.datasets.items():
        masks = {names.get(key, key): mask for key, mask in d.get("keypoint_mask", {}).items()}
        datasets[name] = {**d, "keypoint_mask": masks} if masks else d
    # __post_init__ wants tables and skeletons to agree, so both change in one step.
    return replace(other, persons=_renamed(other.persons, "skeleton", names), skeletons=skeletons, datasets=datasets)


def _apart_categories(merged: ds.Dataset, other: ds.Dataset) -> tuple[ds.Dataset, dict[str, Any]]:
    """The other dataset with new ids for categories whose id stands for something else in `merged`."""
    taken = {row["id"]: row for d in merged.datasets.values() for row in d.get("categories_raw", ())}
    theirs = [row for d in other.datasets.values() for row in d.get("categories_raw", ())]
    clashing = dict.fromkeys(row["id"] for row in theirs if row["id"] in taken and taken[row["id"]] != row)
    if not clashing:
        return other, {}
    used = [number for number in (*taken, *(row["id"] for row in theirs)) if isinstance(number, int)]
    fresh = _fresh(np.array([*used, 0], object), len(clashing))
    moved = dict(zip(clashing, fresh.tolist(), strict=True))
    datasets = {}
    for name, d in other.datasets.items():
        rows = [{**row, "id": moved.get(row["id"], row["id"])} for row in d.get("categories_raw", ())]
        datasets[name] = {**d, "categories_raw": rows} if rows else d
    changes = {"category_id": [list(moved), list(moved.values())]}
    return replace(other, persons=_recategorised(other.persons, moved), datasets=datasets), changes


def _recategorised(persons: pa.Table, moved: Mapping[Any, int]) -> pa.Table:
    """People with their new category ids; a text id stands in the extras, and becomes a number in the column."""
    column = persons["category_id"]
    ids, present = schema.values(column).copy(), schema.valid(column)
    numbers = {old: new for old, new in moved.items() if isinstance(old, int)}
    old, new = np.array(list(numbers), np.int64), np.array(list(numbers.values()), np.int64)
    place = lookup(old, ids)
    hit = present & (place >= 0)
    ids[hit] = new[place[hit]]
    extras = schema.texts(persons["extras"])
    for row, text in enumerate(extras if len(numbers) < len(moved) else ()):
        told = json.loads(text) if text is not None and '"category_id"' in text else {}
        if told.get("category_id") in moved:
            ids[row], present[row] = moved[told.pop("category_id")], True
            extras[row] = json.dumps(told, separators=(",", ":")) if told else None
    for key, values in {
        "category_id": schema.fixed(ids, pa.int64(), present),
        "extras": schema.strings(extras),
    }.items():
        persons = persons.set_column(persons.schema.get_field_index(key), key, values)
    return persons


# ---------------------------------------------------------------------------------------------------- images and ids


def _from_source(dataset: ds.Dataset) -> NDArray[np.bool_]:
    """(I,) bool: the image's id is the source's own and not one that a reader numbered."""
    own = {name for name, d in dataset.datasets.items() if d.get("ids") == "source"}
    return np.array([name in own for name in schema.texts(dataset.images["dataset"])], bool)


def _keys(dataset: ds.Dataset) -> list[Any]:
    """What makes an image the same in two inputs: its id (a text where the source had texts), file name and size."""
    images = dataset.images
    ids = zip(schema.values(images["image_id"]).tolist(), schema.texts(images["source_image_id"]), strict=True)
    sizes = [schema.values(images[key], missing=-1).tolist() for key in ("width", "height")]
    own = (number if text is None else text for number, text in ids)
    return list(zip(own, schema.texts(images["file_name"]), *sizes, strict=True))


def _same_images(merged: ds.Dataset, other: ds.Dataset) -> NDArray[np.int64]:
    """(I,) over the other's images: the row in `merged` of the same image, else -1."""
    known = {key: row for row, (key, own) in enumerate(zip(_keys(merged), _from_source(merged), strict=True)) if own}
    theirs = zip(_keys(other), _from_source(other), strict=True)
    return np.array([known.get(key, -1) if own else -1 for key, own in theirs], np.int64)


def _differing(merged: ds.Dataset, other: ds.Dataset, place: NDArray[np.int64]) -> int:
    """How many of the shared images differ in a column that is not their key."""
    rows = np.flatnonzero(place >= 0)
    columns = [name for name in schema.IMAGES.names if name not in ("image_id", "dataset")]
    mine = schema.take(merged.images.select(columns), place[rows]).to_pylist()
    return sum(a != b for a, b in zip(mine, schema.take(other.images.select(columns), rows).to_pylist(), strict=True))


def _fresh(taken: NDArray[Any], count: int) -> NDArray[np.int64]:
    """`count` ids above all that are taken; below them where 64 bits end."""
    top = int(taken.max(initial=0))
    if top + count < 2**63:
        return np.arange(top + 1, top + 1 + count)
    return np.setdiff1d(np.arange(1, len(taken) + count + 1), taken.astype(np.int64))[:count]


def _apart_ids(merged: ds.Dataset, other: ds.Dataset, place: NDArray[np.int64]) -> tuple[ds.Dataset, dict[str, Any]]:
    """The other dataset with new ids where `merged` has them; images that are the same take the id they have there."""
    mine, theirs = schema.values(merged.images["image_id"]), schema.values(other.images["image_id"])
    # Ids of people's images count too: an orphan must not get an image that happens to have its number.
    orphans = np.setdiff1d(schema.values(other.persons["image_id"]), theirs)
    same = place >= 0
    clash = np.unique(np.concatenate([theirs[~same], orphans]))
    clash = clash[np.isin(clash, np.concatenate([mine, schema.values(merged.persons["image_id"])]))]
    used = np.concatenate([mine, theirs, orphans, schema.values(merged.persons["image_id"])])
    old = np.concatenate([theirs[same], clash])
    new = np.concatenate([mine[place[same]], _fresh(used, len(clash))])
    old, new = old[old != new], new[old != new]
    changes: dict[str, Any] = {}
    images, persons, blobs, datasets = other.images, other.persons, other.blobs, dict(other.datasets)
    if len(old):
        changes["image_id"] = [old.tolist(), new.tolist()]
        images, persons, blobs = (_renumbered(t, "image_id", (old, new)) for t in (images, persons, blobs))
        moved = dict(zip(old.tolist(), new.tolist(), strict=True))
        datasets = {name: _moved_order(d, moved) for name, d in datasets.items()}
    ids, taken = schema.values(persons["annotation_id"]), schema.values(merged.persons["annotation_id"])
    old = np.unique(ids[np.isin(ids, taken)])
    if len(old):
        new = _fresh(np.concatenate([ids, taken]), len(old))
        changes["annotation_id"] = [old.tolist(), new.tolist()]
        persons = _renumbered(persons, "annotation_id", (old, new))
    return replace(other, images=images, persons=persons, blobs=blobs, datasets=datasets), changes


def _renumbered(table: pa.Table, key: str, moves: Moves) -> pa.Table:
    """The table with new ids; the source's own spelling of a moved id (a text) leaves the extras."""
    ids = schema.values(table[key])
    place = lookup(moves[0], ids)
    column = schema.fixed(np.where(place >= 0, moves[1][place], ids), pa.int64())
    table = table.set_column(table.schema.get_field_index(key), key, column)
    spelled = {"annotation_id": "id"}.get(key, key)
    if "annotation_id" not in table.schema.names or not table["extras"].null_count < len(table):
        return table
    extras = schema.texts(table["extras"])
    for row in np.flatnonzero(place >= 0).tolist():
        text = extras[row]
        if text is not None and f'"{spelled}"' in text:
            told = json.loads(text)
            told.pop(spelled, None)
            extras[row] = json.dumps(told, separators=(",", ":")) if told else None
    return table.set_column(table.schema.get_field_index("extras"), "extras", schema.strings(extras))


def _moved_order(provenance: dict[str, Any], moved: Mapping[int, int]) -> dict[str, Any]:
    if "image_order" not in provenance:
        return provenance
    order = provenance["image_order"]
    order = [[moved.get(e[0], e[0]), e[1]] if isinstance(e, list) else moved.get(e, e) for e in order]
    return {**provenance, "image_order": order}


def _appended(merged: ds.Dataset, other: ds.Dataset, same: NDArray[np.bool_]) -> ds.Dataset:
    """Both, without the images (and their embedded pictures and repeats) that `merged` has already."""
    shared = schema.values(other.images["image_id"])[same]
    blobs = schema.take(other.blobs, np.flatnonzero(~np.isin(schema.values(other.blobs["image_id"]), shared)))
    gone = set(shared.tolist())
    datasets = {name: _without(d, gone) for name, d in other.datasets.items()}
    return ds.Dataset(
        images=pa.concat_tables([merged.images, schema.take(other.images, np.flatnonzero(~same))]),
        persons=pa.concat_tables([merged.persons, other.persons]),
        skeletons={**merged.skeletons, **other.skeletons},
        datasets={**merged.datasets, **datasets},
        history=(*merged.history, *other.history),
        blobs=pa.concat_tables([merged.blobs, blobs]),
    )


def _without(provenance: dict[str, Any], gone: set[int]) -> dict[str, Any]:
    if "image_order" not in provenance or not gone:
        return provenance
    order = [e for e in provenance["image_order"] if (e[0] if isinstance(e, list) else e) not in gone]
    return {**provenance, "image_order": order}


# ---------------------------------------------------------------------------------------------------------- duplicates


def _duplicate_images(dataset: ds.Dataset) -> list[tuple[int, int]]:
    """Pairs of image ids with one file name and size."""
    ids = schema.values(dataset.images["image_id"]).tolist()
    names = schema.texts(dataset.images["file_name"])
    sizes = zip(*(schema.values(dataset.images[key]).tolist() for key in ("width", "height")), strict=True)
    first: dict[Any, int] = {}
    pairs = []
    for number, name, size in zip(ids, names, sizes, strict=True):
        if name is not None and first.setdefault((name, size), number) != number:
            pairs.append((first[(name, size)], number))
    return pairs


def _duplicate_people(dataset: ds.Dataset) -> NDArray[np.int64]:
    """(D, 2) rows of people of one image with the same labelled keypoints: the first, and each later one."""
    pairs = [np.empty((0, 2), np.int64)]
    _, image = np.unique(schema.values(dataset.persons["image_id"]), return_inverse=True)
    for name, rows in dataset.groups():
        if name is None:
            continue
        count = len(dataset.skeletons[name])
        people = schema.take(dataset.persons.select(["keypoints", "visibility"]), rows)
        xy, flags = schema.matrix(people["keypoints"], 2 * count), schema.matrix(people["visibility"], count)
        labelled = np.nan_to_num(np.where(np.repeat(flags > 0, 2, axis=1), xy, 0))
        _, first, inverse = np.unique(
            np.column_stack([image[rows], labelled, flags]), axis=0, return_index=True, return_inverse=True
        )
        leader = first[inverse.reshape(-1)]
        later = (leader != np.arange(len(rows))) & (flags > 0).any(1)
        pairs.append(np.column_stack([rows[leader[later]], rows[later]]))
    return np.concatenate(pairs)
