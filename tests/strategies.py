"""Hypothesis strategies: every dataset that the schema can hold, and every COCO document that a reader may meet."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.skeleton import Skeleton, load

INTEGERS = st.one_of(
    st.integers(0, 5), st.integers(-(2**40), 2**40), st.sampled_from([2**31, 900100433998, 2**53, -1, 2**63 - 1])
)
FINITE = st.one_of(
    st.integers(-5, 700).map(float), st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.5, 1e-7, 1e16, 5e-324, 1.7e308])
)
NUMBERS = st.one_of(FINITE, st.sampled_from([float("nan"), float("inf"), float("-inf")]))
TEXTS = st.one_of(
    st.sampled_from(
        ["", "im 1.jpg", "C:\\bilder\\ä.jpg", "日本/写真.png", '"quoted"', "[1, {2}]", "}, {", "\x00", "🧍"]
    ),
    st.text(max_size=6),
)
KEYS = st.sampled_from(["note", "ünï", "", "a.b", "face_box", "license", 'k"ey', "[x]"])


def json_values(numbers: st.SearchStrategy[Any] = FINITE) -> st.SearchStrategy[Any]:
    """Any JSON value, nested a little."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), numbers, TEXTS)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=2)),
        max_leaves=4,
    )


# --------------------------------------------------------------------------------------------------------- any dataset

_SKELETONS = (
    load("coco_17"),
    load("crowdpose_14"),
    Skeleton("one_1", ("tip",)),
    Skeleton(
        "horse ä_3",
        ("left ear", "right ear", "tail"),
        edges=((0, 1),),
        flip_pairs=frozenset({("left ear", "right ear")}),
        sigmas=(0.1, 0.2, 1e-3),
    ),
)


def _nullable(draw: Any, values: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Values of a column: now and then none at all, or null in some rows."""
    if draw(st.booleans()):
        return [None] * count
    return draw(st.lists(st.none() | values, min_size=count, max_size=count))


def _column(field: pa.Field, items: list[Any]) -> pa.Array:
    return pa.array(items, field.type)  # the ordinary builder of Arrow, not ours


def _plain(draw: Any, field: pa.Field, count: int) -> pa.Array:
    small = {
        "width": st.integers(0, 2**31 - 1),
        "height": st.integers(0, 2**31 - 1),
        "num_keypoints": st.integers(0, 200),
    }
    kinds = {
        pa.string(): TEXTS,
        pa.int64(): INTEGERS,
        pa.int32(): small.get(field.name, st.integers(-(2**31), 2**31 - 1)),
        pa.float64(): NUMBERS,
        pa.bool_(): st.booleans(),
        pa.list_(pa.list_(pa.float64())): st.lists(st.lists(NUMBERS, max_size=6), max_size=3),
    }
    widths = {"bbox": 4, "head_bbox": 4, "center": 2}
    if field.name in widths:
        values: Any = st.lists(NUMBERS, min_size=widths[field.name], max_size=widths[field.name])
    else:
        values = kinds[field.type]
    return _column(field, _nullable(draw, values, count))


def _objects(draw: Any, count: int) -> list[str | None]:
    import json

    values = st.dictionaries(KEYS, json_values(), min_size=1, max_size=3).map(lambda value: json.dumps(value))
    return _nullable(draw, values, count)


def _rle(draw: Any, count: int) -> list[str | None]:
    return _nullable(
        draw, st.sampled_from(['{"size":[4,4],"counts":[1,2,13]}', '{"counts":"abc","size":[2,2]}']), count
    )


def _people(draw: Any, skeleton: Skeleton | None) -> dict[str, Any]:
    """keypoints, visibility, visibility_raw and keypoint_scores of one person."""
    if skeleton is None or draw(st.integers(0, 5)) == 0:
        return {}
    count, raw = len(skeleton), st.sampled_from([0.0, 1.0, 2.0, 7.0, 0.25, float("nan")])
    one = st.lists(
        st.tuples(NUMBERS, NUMBERS, st.integers(0, 3), raw, NUMBERS), min_size=min(count, 3), max_size=min(count, 3)
    )
    rows = (draw(one) * count)[:count]
    person: dict[str, Any] = {
        "skeleton": skeleton.name,
        "keypoints": [number for row in rows for number in row[:2]],
        "visibility": [row[2] for row in rows],
    }
    if draw(st.booleans()):
        person["visibility_raw"] = [row[3] for row in rows]
    if draw(st.booleans()):
        person["keypoint_scores"] = [row[4] for row in rows]
    return person


@st.composite
def datasets(draw: Any) -> Dataset:
    """Any dataset: orphans, several skeletons and sources or none, nulls anywhere, odd ids, texts and numbers."""
    names = draw(
        st.lists(st.sampled_from(["coco", "crowdpose", "mpii", "zweites ä"]), min_size=1, max_size=2, unique=True)
    )
    ids = draw(st.lists(INTEGERS, max_size=4, unique=True))
    skeletons = draw(st.lists(st.sampled_from(_SKELETONS), max_size=3, unique_by=lambda skeleton: skeleton.name))
    people = [_people(draw, draw(st.sampled_from([None, *skeletons]))) for _ in range(draw(st.integers(0, 4)))]
    count = len(people)
    images = {
        field.name: _plain(draw, field, len(ids))
        for field in schema.IMAGES
        if field.name not in ("image_id", "dataset")
    }
    images["extras"] = _column(schema.IMAGES.field("extras"), _objects(draw, len(ids)))
    images["image_id"] = pa.array(ids, pa.int64())
    images["dataset"] = pa.array(
        draw(st.lists(st.sampled_from(names), min_size=len(ids), max_size=len(ids))), pa.string()
    )
    given = ("skeleton", "keypoints", "visibility", "visibility_raw", "keypoint_scores")
    persons = {field.name: _plain(draw, field, count) for field in schema.PERSONS if field.name not in given}
    for name in given:
        persons[name] = _column(schema.PERSONS.field(name), [person.get(name) for person in people])
    persons["extras"] = _column(schema.PERSONS.field("extras"), _objects(draw, count))
    persons["rle"] = _column(schema.PERSONS.field("rle"), _rle(draw, count))
    persons["annotation_id"] = pa.array(draw(st.lists(INTEGERS, min_size=count, max_size=count)), pa.int64())
    choice = st.one_of(INTEGERS, st.sampled_from(ids)) if ids else INTEGERS
    persons["image_id"] = pa.array(draw(st.lists(choice, min_size=count, max_size=count)), pa.int64())
    persons["dataset"] = pa.array(draw(st.lists(st.sampled_from(names), min_size=count, max_size=count)), pa.string())
    facts = st.fixed_dictionaries(
        {"source_format": st.sampled_from(["coco", "mpii", "synthetic", "coco_results"]), "info": json_values(NUMBERS)}
    )
    blobs = schema.table(schema.BLOBS, 1, {
        "image_id": pa.array([ids[0]], pa.int64()), "name": pa.array(["imageData"]),
        "data": pa.array([draw(st.binary(max_size=8))], pa.large_binary()),
    }) if ids and draw(st.booleans()) else schema.no_blobs()  # fmt: skip
    return Dataset(
        images=schema.table(schema.IMAGES, len(ids), images),
        persons=schema.table(schema.PERSONS, count, persons),
        skeletons={skeleton.name: skeleton for skeleton in skeletons},
        datasets={name: draw(facts) for name in names},
        blobs=blobs,
    )


# ----------------------------------------------------------------------------------------------------- COCO documents

_ABSENT = object()
MIXED = st.one_of(st.integers(-5, 700), FINITE)
STYLES = {"int": st.integers(-5, 700), "float": FINITE, "mixed": MIXED}


def _entry(draw: Any, fields: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """An object with some of the fields, in any order, each present, null or absent, and now and then a foreign key."""
    found = {}
    for key in draw(st.permutations(list(fields))):
        value = draw(st.one_of(fields[key], fields[key], fields[key], st.just(_ABSENT), st.none()))
        if value is not _ABSENT:
            found[key] = value
    return found | draw(st.dictionaries(KEYS, json_values(), max_size=2))


def _segmentation(number: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    polygons = st.lists(st.lists(number, max_size=6), max_size=2)
    masks = st.sampled_from([{"counts": [1, 2, 13], "size": [4, 4]}, {"size": [2, 2], "counts": "a[b"}])
    return st.one_of(polygons, masks, st.sampled_from(["RLE", [[[1, 2], [3]]], [5]]))


def _category(draw: Any, number: Any) -> dict[str, Any]:
    row = {"id": number, "name": draw(st.sampled_from(["person", "horse", "ä"])), "supercategory": "s"}
    names = draw(st.sampled_from([None, [], ["a"], ["left_a", "right_a", "b"], list(load("coco_17").keypoint_names)]))
    if names is not None:
        row |= {"keypoints": names, "skeleton": [[1, 2], [2, 99]]}
    return row


def _annotation(draw: Any, category: dict[str, Any], images: list[Any], style: dict[str, Any]) -> dict[str, Any]:
    count = len(category.get("keypoints") or "ab")
    flags = draw(
        st.sampled_from([st.integers(0, 2), st.sampled_from([0, 1, 2, 3, 7, -1]), st.sampled_from([0.0, 0.3, 2.0])])
    )
    pairs = draw(st.lists(st.tuples(style["keypoints"], style["keypoints"], flags), min_size=1, max_size=3))
    keypoints = [number for triple in (pairs * count)[:count] for number in triple]
    number = style["bbox"]
    row = _entry(
        draw,
        {
            "keypoints": st.just(keypoints) if draw(st.integers(0, 7)) else st.just([]),
            "bbox": st.lists(number, min_size=4, max_size=4) | st.just([]),
            "segmentation": _segmentation(style["segmentation"]),
            "area": style["area"],
            "num_keypoints": st.integers(0, 17),
            "iscrowd": st.sampled_from(style["iscrowd"]),
            "score": FINITE | TEXTS,
            "track_id": INTEGERS | TEXTS,
            "scale": FINITE | st.just([1.5, 1.5]),
            "center": st.lists(FINITE, min_size=2, max_size=3),
            "head_bbox": st.lists(FINITE, min_size=4, max_size=4) | TEXTS,
        },
    )
    row["image_id"] = draw(st.sampled_from(images)) if images and draw(st.integers(0, 9)) else draw(INTEGERS)
    if draw(st.integers(0, 9)):
        row["category_id"] = category["id"] if draw(st.integers(0, 9)) else draw(st.sampled_from([77, None, "c"]))
        if row["category_id"] != category["id"]:
            row["keypoints"] = [1, 2, 2] * 2
    elif row.get("keypoints"):
        row["keypoints"] = [1, 2, 2] * 2
    return row


@st.composite
def coco_documents(draw: Any) -> dict[str, Any]:
    """A COCO annotation document that must come back as it is: any ids, keys, absences, styles and repeats."""
    texts = st.sampled_from(["a", "b", "im[1]", "ü", "10", ""])
    ids = draw(
        st.one_of(
            st.lists(st.integers(0, 9) | INTEGERS, max_size=3, unique=True), st.lists(texts, max_size=3, unique=True)
        )
    )
    if any(isinstance(number, str) for number in ids):
        ids = [number for number in ids if number != 2**63 - 1]
    style = {
        key: STYLES[draw(st.sampled_from(list(STYLES)))]
        for key in ("keypoints", "bbox", "segmentation", "area", "width")
    }
    style["iscrowd"] = draw(st.sampled_from([[0, 1], [False, True], [0, 1, 2, True]]))
    size = draw(st.sampled_from([st.integers(0, 2**31 - 1), st.sampled_from([640.0, 480.5]), st.integers(0, 2**33)]))
    fields = {
        "file_name": TEXTS, "width": size, "height": size, "crowdIndex": FINITE, "split": TEXTS | INTEGERS,
        "video_id": TEXTS | INTEGERS, "frame_index": INTEGERS,
    }  # fmt: skip
    images = [{"id": number, **_entry(draw, fields)} for number in ids]
    images += [draw(st.sampled_from(images)) for _ in range(draw(st.integers(0, 1)) if images else 0)]
    if images and draw(st.integers(0, 4)) == 0:
        images.append({"id": ids[0], "another": draw(json_values())})
    numbers = draw(st.lists(st.integers(0, 3) | st.sampled_from([900, -2, "c1", 2**40]), max_size=2, unique=True))
    categories = [_category(draw, number) for number in numbers]
    count = draw(st.integers(0, 4))
    use = [draw(st.sampled_from(categories)) if categories else {"id": None} for _ in range(count)]
    orphans = any(isinstance(number, str) for number in ids)
    rows = [_annotation(draw, category, ids, style) for category in use]
    if orphans:
        rows = [{**row, "image_id": draw(texts)} for row in rows]
    given = draw(st.sampled_from(["int", "text", "none", "repeated"]))
    for number, row in enumerate(rows):
        row.pop("id", None)
        if given != "none":
            row["id"] = {"int": number - 1, "text": f"n{number}", "repeated": 2**40}[given]
    parts = {"images": images, "annotations": rows, "categories": categories}
    top = draw(st.dictionaries(st.sampled_from(["info", "licenses", "ä", "note"]), json_values(), max_size=2))
    if not categories and draw(st.booleans()):
        del parts["categories"]
    document = {**parts, **top}
    return {key: document[key] for key in draw(st.permutations(list(document)))}
