"""`Dataset`: views that copy nothing, selections and splits that lose nothing, a folder that is whole or not there."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import dataset as ds
from kpdata import schema
from kpdata.errors import DestinationExists, FormatError, KpdataError, SchemaError, WriteError
from kpdata.skeleton import Skeleton, load
from tests.strategies import datasets

DOT = Skeleton("dot_1", ("tip",))
PAIR = Skeleton("pair_2", ("left_a", "right_a"), ((0, 1),))
NAN = float("nan")
FEW = settings(max_examples=8)  # drawing a dataset takes longer than looking at it


def made(
    people, skeletons=(PAIR,), *, images=(1, 2, 3), name="mine", columns=None, image_columns=None, provenance=None
):
    """A dataset of (annotation id, image id, skeleton name or None, [(x, y, visibility)]) rows, by Arrow's builders."""
    fields = {"annotation_id": [p[0] for p in people], "image_id": [p[1] for p in people]}
    fields["skeleton"] = [p[2] for p in people]
    fields["keypoints"] = [p[3] and [n for point in p[3] for n in point[:2]] for p in people]
    fields["visibility"] = [p[3] and [point[2] for point in p[3]] for p in people]
    persons = {k: pa.array(v, schema.PERSONS.field(k).type) for k, v in {**fields, **(columns or {})}.items()}
    rows = {
        k: pa.array(v, schema.IMAGES.field(k).type) for k, v in {"image_id": images, **(image_columns or {})}.items()
    }
    return ds.build(
        rows, persons, num_images=len(images), num_persons=len(people), name=name,
        provenance={"source_format": "test"} if provenance is None else provenance, skeletons=skeletons,
    )  # fmt: skip


def pairs(count, *, image=1):
    """`count` people of PAIR, every number another."""
    return [(10 + i, image, "pair_2", [(i + 0.25, i + 0.5, 2), (i + 0.75, -float(i), i % 4)]) for i in range(count)]


def address(column):
    """Where a column's values lie in memory: [first, behind the last)."""
    array = schema.chunk(column)
    values = array.values if pa.types.is_list(array.type) else array
    buffer = values.buffers()[1]
    return buffer.address, buffer.address + buffer.size


def inside(array, column):
    start, end = address(column)
    first = array.__array_interface__["data"][0]
    return start <= first and first + array.nbytes <= end


def same_rows(table, expected):
    """Rows equal a list of plain rows; NaN equals NaN."""
    return repr(table.to_pylist()) == repr(expected)


# -------------------------------------------------------------------------------------------------------------- views


def test_views_are_the_arrow_memory():
    """Zero-copy: the arrays are the very memory of the table's columns."""
    dataset = made(pairs(4), columns={"keypoint_scores": [[0.5, 0.25]] * 4})
    for view, name in (
        (dataset.keypoints, "keypoints"),
        (dataset.visibility, "visibility"),
        (dataset.keypoint_scores, "keypoint_scores"),
    ):
        assert inside(view, dataset.persons[name])
        assert not view.flags.owndata


def test_views_of_a_slice():
    """A slice of a table is seen from its own first row, still without a copy."""
    dataset = made(pairs(5), columns={"keypoint_scores": [[i, i / 2] for i in range(5)]})
    part = dataclasses.replace(dataset, persons=dataset.persons.slice(2, 2))
    assert part.keypoints.tolist() == [[[2.25, 2.5], [2.75, -2]], [[3.25, 3.5], [3.75, -3]]]
    assert part.visibility.tolist() == [[2, 2], [2, 3]]
    assert part.keypoint_scores.tolist() == [[2, 1], [3, 1.5]]
    assert inside(part.keypoints, dataset.persons["keypoints"])
    assert part == dataset.select(np.array([2, 3]))


def test_views_of_people_without_a_pose():
    """No pose: NaN coordinates, visibility 0, NaN scores; the others keep their row."""
    dataset = made([(1, 1, "pair_2", None), *pairs(1)], columns={"keypoint_scores": [None, [0.5, 0.25]]})
    assert np.isnan(dataset.keypoints[0]).all()
    assert dataset.keypoints[1].tolist() == [[0.25, 0.5], [0.75, 0]]
    assert dataset.visibility.tolist() == [[0, 0], [2, 0]]
    assert np.isnan(dataset.keypoint_scores[0]).all()
    assert (dataset.keypoints.dtype, dataset.visibility.dtype) == (np.float64, np.int8)


@pytest.mark.parametrize("skeleton", [DOT, PAIR, load("coco_wholebody_133")])
def test_views_of_nobody(skeleton):
    """0 people: arrays of the usual shape, without rows."""
    nobody = made([], [skeleton])
    count = len(skeleton)
    assert len(nobody) == 0
    assert nobody.keypoints.shape == (0, count, 2)
    assert nobody.visibility.shape == nobody.keypoint_scores.shape == (0, count)
    assert (nobody.keypoints.dtype, nobody.visibility.dtype) == (np.float64, np.int8)
    assert nobody.image_rows().tolist() == []
    assert list(nobody.groups()) == []


def test_views_of_several_chunks():
    """Concatenated tables read as one."""
    dataset = made(pairs(4))
    chunks = pa.concat_tables([dataset.persons.slice(0, 1), dataset.persons.slice(1, 3)])
    split = dataclasses.replace(dataset, persons=chunks)
    assert split.persons["keypoints"].num_chunks == 2
    assert np.array_equal(split.keypoints, dataset.keypoints)
    assert split == dataset


@FEW
@given(datasets())
def test_views_say_what_the_table_says(dataset):
    """Whatever the data, a view is the table's rows one by one, as Arrow itself lists them."""
    used = {name for name, _ in dataset.groups()} - {None}
    if len(used or dataset.skeletons) != 1:
        with pytest.raises(SchemaError, match="skeletons in this dataset"):
            _ = dataset.keypoints
        return
    count = len(dataset.skeleton)
    assert dataset.skeleton.name in (used or dataset.skeletons)
    for row, person in enumerate(dataset.persons.to_pylist()):
        xy = person["keypoints"] or [NAN] * (2 * count)
        assert np.array_equal(dataset.keypoints[row].reshape(-1), xy, equal_nan=True)
        assert dataset.visibility[row].tolist() == (person["visibility"] or [0] * count)
        scores = person["keypoint_scores"] or [NAN] * count
        assert np.array_equal(dataset.keypoint_scores[row], scores, equal_nan=True)


@FEW
@given(datasets())
def test_groups_and_image_rows(dataset):
    """Every person is in one group, in the order of first use; image rows are a search by hand, -1 for orphans."""
    people, images = dataset.persons.to_pylist(), dataset.images.to_pylist()
    groups = [(name, rows.tolist()) for name, rows in dataset.groups()]
    first_use = list(dict.fromkeys(person["skeleton"] for person in people))
    assert groups == [(n, [i for i, p in enumerate(people) if p["skeleton"] == n]) for n in first_use]
    listed = [image["image_id"] for image in images]
    wanted = [listed.index(p["image_id"]) if p["image_id"] in listed else -1 for p in people]
    assert dataset.image_rows().tolist() == wanted


IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


@given(st.lists(IDS, max_size=9, unique=True), st.lists(IDS, max_size=9))
def test_lookup(keys, wanted):
    """The position of each value as a dict finds it, for ids of any size and sign."""
    found = ds.lookup(np.array(keys, np.int64), np.array(wanted, np.int64))
    places = {key: place for place, key in enumerate(keys)}
    assert found.tolist() == [places.get(key, -1) for key in wanted]


def test_skeleton_of_a_dataset():
    """One skeleton in use is the dataset's, whatever others are known; several or none are refused by name."""
    assert made(pairs(1), [PAIR, DOT]).skeleton is PAIR
    assert made([(1, 1, None, None)], [DOT]).skeleton is DOT
    both = made([*pairs(1), (3, 1, "dot_1", [(1, 2, 2)])], [PAIR, DOT])
    with pytest.raises(SchemaError, match=r"2 skeletons in this dataset \(pair_2, dot_1\).*remap"):
        _ = both.skeleton
    with pytest.raises(SchemaError, match=r"0 skeletons in this dataset \(none\)"):
        _ = made([], []).skeleton


def test_keypoint_mask():
    """All keypoints where nobody said otherwise; the recorded mask of this skeleton where somebody did."""
    dataset = made(pairs(1), provenance={"keypoint_mask": {"pair_2": [False, True]}})
    assert dataset.keypoint_mask("mine", "pair_2").tolist() == [False, True]
    assert dataset.keypoint_mask("another", "pair_2").tolist() == [True, True]
    assert made(pairs(1)).keypoint_mask("mine", "pair_2").tolist() == [True, True]


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_dataset_is_frozen():
    """Nothing can be assigned, and it is no key of a dict."""
    dataset = made(pairs(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.history = ()
    with pytest.raises(TypeError, match="unhashable"):
        hash(dataset)


def test_wrong_tables_are_refused():
    """Other columns, an image id twice, unknown skeletons and wrong lengths are named when the dataset is made."""
    good = made(pairs(2))
    with pytest.raises(SchemaError, match=r"columns of kpdata\.schema"):
        dataclasses.replace(good, persons=good.persons.drop_columns(["area"]))
    with pytest.raises(SchemaError, match="image_id 7 stands twice"):
        made([], images=(7, 8, 7))
    with pytest.raises(SchemaError, match=r"skeleton 'cube_8', known are \['pair_2'\]"):
        made([(1, 1, "cube_8", [(1, 2, 2)] * 8)])
    with pytest.raises(
        SchemaError, match=r"person row 1: 6 values in 'keypoints', expected 4 \(2 keypoints of 'pair_2'\)"
    ):
        made([*pairs(1), (2, 1, "pair_2", [(1, 2, 2)] * 3)])
    for column in ("visibility", "keypoint_scores"):
        with pytest.raises(SchemaError, match=f"person row 0: 1 values in '{column}', expected 2"):
            made(pairs(1), columns={column: [[1]]})


def test_build_refuses_other_columns():
    """`build` names columns that the schema does not have, and those of another type or length."""
    with pytest.raises(SchemaError, match=r"\['colour'\] are not in the schema"):
        ds.build({"colour": pa.nulls(1)}, {}, num_images=1, num_persons=0, name="a", provenance={})
    with pytest.raises(SchemaError, match="'width': 1 rows of double, expected 1 of int32"):
        ds.build({"width": pa.array([1.0])}, {}, num_images=1, num_persons=0, name="a", provenance={})
    with pytest.raises(SchemaError, match="'width': 2 rows of int32, expected 1"):
        ds.build({"width": pa.array([1, 2], pa.int32())}, {}, num_images=1, num_persons=0, name="a", provenance={})


def test_build_fills_dataset():
    """Every row says which source it is of."""
    dataset = made(pairs(2), name="ä")
    assert dataset.persons["dataset"].to_pylist() == ["ä"] * 2
    assert dataset.images["dataset"].to_pylist() == ["ä"] * 3


# ----------------------------------------------------------------------------------------------------------- equality


def test_nan_equals_nan():
    """Two readings of one file are equal though it has NaN in it, in tables and in provenance."""
    people = [(1, 1, "pair_2", [(NAN, 1.0, 2), (math.inf, NAN, 0)])]
    one, two = (
        made(people, columns={"area": [float("nan")]}, provenance={"info": {"scale": [float("nan")]}}) for _ in range(2)
    )
    assert one.select() == two.select()
    assert one == two


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"area": [0.0, None]}},
        {"columns": {"area": [NAN, 1.0]}},
        {"columns": {"segmentation": [[[1.0, 2.0], []], None]}},
        {"columns": {"segmentation": [[[1.0], [2.0]], None]}},
        {"columns": {"segmentation": [[], None]}},
        {"columns": {"iscrowd": [False, None]}},
        {"columns": {"extras": ["{}", None]}},
        {"image_columns": {"file_name": ["", None, None]}},
        {"images": (3, 2, 1)},
        {"provenance": {"source_format": "coco"}},
        {"skeletons": (Skeleton("pair_2", ("left_a", "right_a")),)},
        {"skeletons": (PAIR, DOT)},
    ],
)
def test_any_difference_is_a_difference(change):
    """A null is no 0, no NaN, no empty text and no empty list; order, skeletons and provenance count."""
    assert made(pairs(2)) == made(pairs(2))
    assert made(pairs(2)) != made(pairs(2), **change)
    assert made(pairs(2)) != "a dataset"


def test_origin_and_history_are_no_difference():
    """Where the same data came from and what was done on the way does not make it another dataset."""
    one = made(pairs(1), provenance={"source_format": "test", "files": [{"name": "a"}], "images_root": "/a"})
    assert one.with_history("read", source="b") == made(pairs(1))


# ------------------------------------------------------------------------------------------------------------- select


@FEW
@given(datasets(), st.data())
def test_select_people(dataset, data):
    """A mask and its positions choose the same rows, in the table's order; every image stays."""
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(dataset), max_size=len(dataset))), bool)
    positions = data.draw(st.permutations(np.flatnonzero(mask).tolist()))
    by_mask, by_position = dataset.select(mask), dataset.select(np.array(positions))
    assert by_mask == by_position
    rows = dataset.persons.to_pylist()
    assert same_rows(by_mask.persons, [row for row, kept in zip(rows, mask, strict=True) if kept])
    assert same_rows(by_mask.images, dataset.images.to_pylist())
    assert by_mask.history[-1] == {"op": "select", "persons": int(mask.sum()), "images": dataset.images.num_rows}


@FEW
@given(datasets(), st.data())
def test_select_images(dataset, data):
    """Images take their people and pictures with them; people of images that are not chosen, and orphans, leave."""
    count = dataset.images.num_rows
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    part = dataset.select(images=mask)
    images = [row for row, kept in zip(dataset.images.to_pylist(), mask, strict=True) if kept]
    ids = {row["image_id"] for row in images}
    assert same_rows(part.images, images)
    assert same_rows(part.persons, [row for row in dataset.persons.to_pylist() if row["image_id"] in ids])
    assert same_rows(part.blobs, [row for row in dataset.blobs.to_pylist() if row["image_id"] in ids])


def test_select_both():
    """People and images: people who are chosen and whose image is."""
    dataset = made([*pairs(2, image=1), *pairs(2, image=3), *pairs(1, image=99)])
    part = dataset.select(np.array([0, 2, 4]), np.array([False, False, True]))
    assert part.persons["annotation_id"].to_pylist() == [10]
    assert part.images["image_id"].to_pylist() == [3]


def test_select_keeps_the_order_of_repeats():
    """The file's order of repeated image entries loses the images that leave."""
    dataset = made([], provenance={"image_order": [1, 2, [1, {"id": 1, "other": True}], 3, 2]})
    assert dataset.select(images=np.array([0, 2])).datasets["mine"]["image_order"] == [
        1,
        [1, {"id": 1, "other": True}],
        3,
    ]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (np.array([True]), "a mask of 1 values for 3 rows"),
        (np.array([0, 3]), r"outside 0\.\.2"),
        (np.array([-1]), r"outside 0\.\.2"),
    ],
)
def test_select_refuses(choice, message):
    """A mask of another length and positions outside the table are no choice."""
    for part in ({"persons": choice}, {"images": choice}):
        with pytest.raises(SchemaError, match=message):
            made(pairs(3)).select(**part)


def test_select_a_position_twice():
    """Naming a row twice does not make two people of one."""
    assert len(made(pairs(3)).select(np.array([1, 1]))) == 1


# -------------------------------------------------------------------------------------------------------------- split


def many(count, **image_columns):
    """A dataset of `count` images with one person each, and one orphan."""
    people = [(i, i, "pair_2", [(1.0, 2.0, 2), (3.0, 4.0, 1)]) for i in range(count)]
    return made([*people, (count, 10**6, "pair_2", None)], images=tuple(range(count)), image_columns=image_columns)


def ids(dataset):
    return set(dataset.images["image_id"].to_pylist())


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 5),
    st.none() | st.integers(1, 12),
)
def test_split_is_a_partition(count, weights, seed, groups):
    """Each image in one part, its people with it, no group in two parts, no part empty, the split column says which."""
    videos = [None if groups is None else f"v{i * i % groups}" for i in range(count)]
    dataset = many(count, video_id=videos)
    shares = {f"part{i}": weight / sum(weights) for i, weight in enumerate(weights)}
    if len(shares) > (count if groups is None else len(set(videos))):
        with pytest.raises(SchemaError, match=f"expected at least {len(shares)} to split into"):
            dataset.split(shares, seed=seed, by="video_id")
        return
    parts = dataset.split(shares, seed=seed, by="video_id")
    assert list(parts) == list(shares)
    assert sorted(i for part in parts.values() for i in ids(part)) == list(range(count))
    for name, part in parts.items():
        assert part.images.num_rows > 0
        assert set(part.persons["image_id"].to_pylist()) == ids(part)
        assert len(part) == part.images.num_rows
        assert set(part.images["split"].to_pylist()) == {name}
        assert part.history[-1]["op"] == "split"
        assert part.history[-1]["seed"] == seed
    owners = Counter(v for part in parts.values() for v in set(part.images["video_id"].to_pylist()) if v is not None)
    assert set(owners.values()) <= {1}


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (1.0,), (0.995, 0.005)])
@pytest.mark.parametrize("count", [100, 997])
def test_split_sizes(weights, count):
    """Parts of single images are less than one image away from their share."""
    parts = many(count).split({f"p{i}": share for i, share in enumerate(weights)}, seed=3)
    for part, share in zip(parts.values(), weights, strict=True):
        assert abs(part.images.num_rows - share * count) < 1 + 1e-9


def test_split_is_seeded():
    """The same seed gives the same parts, another one others; images are drawn, not cut off the end."""
    dataset = many(60)
    drawn = [ids(dataset.split({"train": 0.5, "val": 0.5}, seed=seed)["val"]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] not in (set(range(30)), set(range(30, 60)))


def test_split_by_extras_and_by_dataset():
    """Groups come from `extras.KEY` or any image column; images that say nothing are groups of their own."""
    extras = [json.dumps({"scene": [i % 3]}) if i < 30 else '{"other": 1}' if i < 35 else None for i in range(40)]
    dataset = many(40, extras=extras)
    parts = dataset.split({"a": 0.5, "b": 0.5}, by="extras.scene", seed=1)
    scenes = [{i % 3 for i in ids(part) if i < 30} for part in parts.values()]
    assert not scenes[0] & scenes[1]
    assert scenes[0] | scenes[1] == {0, 1, 2}
    with pytest.raises(SchemaError, match="1 values of 'dataset', expected at least 2 to split into a, b"):
        dataset.split({"a": 0.5, "b": 0.5}, by="dataset")
    alone = dataset.split({f"p{i}": 1 / 40 for i in range(40)}, by="extras.nothing")
    assert {part.images.num_rows for part in alone.values()} == {1}


@pytest.mark.parametrize(
    "shares", [{}, {"a": 0.5}, {"a": 1.1, "b": -0.1}, {"a": 1.0, "b": 0.0}, {"a": NAN, "b": 0.5}, {"a": math.inf}]
)
def test_split_refuses_shares(shares):
    """Shares add up to 1, each above 0."""
    with pytest.raises(SchemaError, match="do not add up to 1, each above 0"):
        many(9).split(shares)


def test_split_refuses_columns():
    """A column that is not there is named, with those that are; no images cannot be split."""
    with pytest.raises(SchemaError, match=r"no column 'vidoe' in images.*video_id.*extras\.KEY"):
        many(9).split({"a": 1.0}, by="vidoe")
    with pytest.raises(SchemaError, match="0 images, expected at least 1"):
        made([], images=()).split({"a": 1.0})


# ------------------------------------------------------------------------------------------------------------- pandas


def test_to_pandas():
    """Frames of both tables with the table's columns; another name is refused."""
    dataset = made(pairs(2))
    persons, images = dataset.to_pandas(), dataset.to_pandas("images")
    assert list(persons.columns) == schema.PERSONS.names
    assert list(images["image_id"]) == [1, 2, 3]
    assert persons["keypoints"][1].tolist() == [1.25, 1.5, 1.75, -1.0]
    with pytest.raises(SchemaError, match=r"no table 'people'.*\['images', 'persons'\]"):
        dataset.to_pandas("people")


# --------------------------------------------------------------------------------------------------------------- disk


@FEW
@given(datasets())
def test_saved_and_opened_it_is_equal(dataset):
    """Nothing is lost on disk: tables, skeletons, provenance, history, pictures."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ä 日本.kp"
        dataset.with_history("made", by="test").save(target)
        opened = ds.open_dataset(target)
        assert opened == dataset
        assert opened.history == (*dataset.history, {"op": "made", "by": "test"})
        for name in dataset.skeletons:
            assert opened.skeletons[name] == dataset.skeletons[name]
        assert sorted(file.name for file in Path(folder).iterdir()) == [target.name]
        assert (target / "blobs.parquet").exists() == (dataset.blobs.num_rows > 0)
        opened.save(target, force=True)
        assert ds.open_dataset(target) == dataset


def test_saved_files_are_for_everyone(tmp_path):
    """pandas and DuckDB read the tables without kpdata, and `meta.json` says what the numbers mean."""
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    dataset = made(pairs(3), columns={"area": [1.5, None, 2.0], "segmentation": [[[1.0, 2.0]], None, []]})
    dataset.save(tmp_path / "x.kp")
    frame = pandas.read_parquet(tmp_path / "x.kp" / "persons.parquet")
    assert list(frame.columns) == schema.PERSONS.names
    assert frame["annotation_id"].tolist() == [10, 11, 12]
    assert frame["keypoints"][2].tolist() == [2.25, 2.5, 2.75, -2.0]
    query = f"""select annotation_id, visibility, area, keypoints[3], segmentation
        from '{tmp_path}/x.kp/persons.parquet' p join '{tmp_path}/x.kp/images.parquet' i using (image_id)
        where i.dataset = 'mine' order by annotation_id"""
    assert duckdb.sql(query).fetchall() == [
        (10, [2, 0], 1.5, 0.75, [[1.0, 2.0]]),
        (11, [2, 1], None, 1.75, None),
        (12, [2, 2], 2.0, 2.75, []),
    ]
    meta = json.loads((tmp_path / "x.kp" / "meta.json").read_text(encoding="utf-8"))
    stored = pq.read_schema(tmp_path / "x.kp" / "images.parquet").metadata[b"kpdata"]
    assert json.loads(stored) == meta
    assert meta["visibility"] == {"0": "absent", "1": "occluded", "2": "visible", "3": "unknown"}
    assert meta["coordinates"] == {
        "origin": "top-left", "unit": "px", "base": 0, "keypoints": "pixel_index", "boxes": "continuous"
    }  # fmt: skip
    assert meta["skeletons"]["pair_2"]["keypoints"] == ["left_a", "right_a"]


def rewritten(folder, name, change):
    """A table of a saved folder, changed and written again by Arrow alone."""
    path = folder / f"{name}.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table), path)


def test_tables_of_other_tools_open(tmp_path):
    """Rewritten with large types, without Arrow's own schema, columns in another order or more of them: still equal."""
    dataset = made(pairs(3), columns={"extras": ['{"a": 1}', None, None], "segmentation": [[[1.0, 2.0]], None, []]})
    dataset.save(tmp_path / "x.kp")

    def large(table):
        kinds = [
            pa.large_string()
            if f.type == pa.string()
            else pa.large_list(pa.float64())
            if f.name == "keypoints"
            else f.type
            for f in table.schema
        ]
        fields = [pa.field(f.name, kind) for f, kind in zip(table.schema, kinds, strict=True)]
        return table.cast(pa.schema(fields, metadata=table.schema.metadata))

    def foreign(path):
        table = pq.ParquetFile(path).read()
        table = table.select(table.schema.names[::-1]).append_column("my_note", pa.array(["x"] * len(table)))
        with pq.ParquetWriter(path, table.schema, store_schema=False, compression="none") as writer:
            writer.write_table(table, row_group_size=1)
            writer.add_key_value_metadata(table.schema.metadata)

    for name in ("persons", "images"):
        rewritten(tmp_path / "x.kp", name, large)
    assert ds.open_dataset(tmp_path / "x.kp") == dataset
    for name in ("persons", "images"):
        foreign(tmp_path / "x.kp" / f"{name}.parquet")
    assert ds.open_dataset(tmp_path / "x.kp") == dataset


def test_older_table_without_a_column_opens(tmp_path):
    """A column that a table lacks is all null."""
    dataset = made(pairs(2))
    dataset.save(tmp_path / "x.kp")
    rewritten(tmp_path / "x.kp", "persons", lambda table: table.drop_columns(["track_id"]))
    assert ds.open_dataset(tmp_path / "x.kp") == dataset


def test_existing_folder_needs_force(tmp_path):
    """A saved dataset is replaced with force only, and then none of its files stays."""
    blobs = schema.table(
        schema.BLOBS, 1,
        {"image_id": pa.array([1]), "name": pa.array(["a"]), "data": pa.array([b"x"], pa.large_binary())},
    )  # fmt: skip
    old, new = dataclasses.replace(made(pairs(1)), blobs=blobs), made(pairs(2))
    old.save(tmp_path / "x.kp")
    with pytest.raises(DestinationExists, match=r"exists already.*--force"):
        new.save(tmp_path / "x.kp")
    assert ds.open_dataset(tmp_path / "x.kp") == old
    new.save(tmp_path / "x.kp", force=True)
    assert ds.open_dataset(tmp_path / "x.kp") == new
    assert not (tmp_path / "x.kp" / "blobs.parquet").exists()


def test_foreign_folders_and_files_stay(tmp_path):
    """Force replaces datasets, not someone's photographs; an empty folder is nobody's."""
    photos, notes, empty = tmp_path / "photos", tmp_path / "notes.txt", tmp_path / "empty"
    photos.mkdir()
    empty.mkdir()
    (photos / "a.jpg").write_bytes(b"jpg")
    notes.write_text("notes")
    for target in (photos, notes):
        with pytest.raises(SchemaError, match=r"not a \.kp folder: not replaced"):
            made(pairs(1)).save(target, force=True)
    made(pairs(1)).save(empty, force=True)
    assert (photos / "a.jpg").read_bytes() == b"jpg"
    assert notes.read_text() == "notes"
    assert ds.is_kp_folder(empty)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "notes.txt", "photos"]


@pytest.mark.parametrize("failing", ["images", "persons"])
@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WriteError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_stopped_while_saving(tmp_path, monkeypatch, failing, error, told):
    """A full disk or Ctrl-C at either table: the old dataset opens, and no half of the new one lies around."""
    old, write = made(pairs(1)), pq.write_table
    old.save(tmp_path / "x.kp")

    def stopping(table, path, **options):
        if Path(path).stem == failing:
            Path(path).write_bytes(b"PAR1 half")
            raise error
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", stopping)
    for name in ("x.kp", "new.kp"):
        with pytest.raises(told):
            made(pairs(2)).save(tmp_path / name, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.kp"]
    assert ds.open_dataset(tmp_path / "x.kp") == old


def test_crash_between_the_renames(tmp_path):
    """A crash that left the old dataset renamed aside is mended by opening it."""
    old = made(pairs(2))
    old.save(tmp_path / "x.kp")
    (tmp_path / "x.kp").rename(tmp_path / ".x.kp.old")
    assert ds.open_dataset(tmp_path / "x.kp") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.kp"]


def test_not_a_dataset_is_a_sentence(tmp_path):
    """No folder, a file, a folder of something else, one table missing: each names the file and what is wrong."""
    (tmp_path / "file.kp").write_text("x")
    (tmp_path / "empty.kp").mkdir()
    (tmp_path / "foreign.kp").mkdir()
    for name in ("images", "persons"):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.kp" / f"{name}.parquet")
    made(pairs(1)).save(tmp_path / "half.kp")
    (tmp_path / "half.kp" / "persons.parquet").unlink()
    for name, message in {
        "none.kp": r"images\.parquet: there is no such file",
        "file.kp": r"images\.parquet: not a Parquet file",
        "empty.kp": r"images\.parquet: there is no such file.*holds images\.parquet and persons\.parquet",
        "foreign.kp": r"images\.parquet: its metadata has no key 'kpdata'.*rewritten by another tool",
        "half.kp": r"persons\.parquet: there is no such file",
    }.items():
        with pytest.raises(FormatError, match=message):
            ds.open_dataset(tmp_path / name)


def test_wrong_tables_on_disk_are_a_sentence(tmp_path):
    """A column of another type, a person of an unknown skeleton or of a wrong length: the folder is named."""

    def replaced(name, column):
        return lambda table: table.set_column(table.schema.names.index(name), name, column)

    for name, column, message in (
        ("area", pa.array(["x", "y"]), "persons.parquet"),
        ("skeleton", pa.array(["cube_8", "cube_8"]), "'cube_8', known are"),
        ("keypoints", pa.array([[1.0], [2.0]]), "person row 0: 1 values in 'keypoints'"),
    ):
        made(pairs(2)).save(tmp_path / "x.kp", force=True)
        rewritten(tmp_path / "x.kp", "persons", replaced(name, column))
        with pytest.raises(FormatError, match=message) as caught:
            ds.open_dataset(tmp_path / "x.kp")
        assert "x.kp" in str(caught.value)


def changed(**changes):
    return lambda meta: json.dumps({**meta, **changes}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda meta: b"",
        lambda meta: b"\xff\xfe",
        lambda meta: b"[]",
        lambda meta: b"3",
        lambda meta: b"[" * 100_000,
        lambda meta: json.dumps({k: v for k, v in meta.items() if k != "version"}).encode(),
        changed(version="2.0.0"),
        changed(datasets=3),
        changed(datasets={"mine": 3}),
        changed(datasets={"mine": None}),
        changed(skeletons={"pair_2": 3}),
        changed(skeletons={"pair_2": {"name": "pair_2"}}),
        changed(skeletons=[["pair_2"]]),
        changed(history=3),
        changed(history=[3]),
    ],
)
def test_damaged_metadata_is_a_sentence(tmp_path, damage):
    """The metadata document is checked: whatever stands in it, a FormatError or SchemaError names the folder."""
    dataset = made(pairs(1))
    dataset.save(tmp_path / "x.kp")
    document = damage(dataset.metadata())
    for name in ("images", "persons"):
        rewritten(tmp_path / "x.kp", name, lambda table: table.replace_schema_metadata({b"kpdata": document}))
    with pytest.raises((FormatError, SchemaError), match=r"x\.kp"):
        ds.open_dataset(tmp_path / "x.kp")


def test_flipped_bytes_are_a_sentence(tmp_path):
    """A byte flipped or a cut anywhere in a table: the same dataset, or a FormatError, never other numbers."""
    dataset = made(pairs(30), columns={"extras": [json.dumps({"name": f"ä{i}"}) for i in range(30)]})
    folder, rng = tmp_path / "x.kp", np.random.default_rng(0)
    dataset.save(folder)
    refused = 0
    for name in ("persons", "images"):
        path = folder / f"{name}.parquet"
        whole = path.read_bytes()
        for case in range(80):
            damaged = bytearray(whole)
            place = int(rng.integers(len(whole)))
            if case % 10 == 0:
                del damaged[place:]
            else:
                damaged[place] ^= int(rng.integers(1, 256))
            path.write_bytes(bytes(damaged))
            try:
                assert ds.open_dataset(folder) == dataset, (
                    f"{name}: byte {place} of {len(whole)} changed the data unseen"
                )
            except KpdataError as error:
                refused += 1
                assert "x.kp" in str(error)
        path.write_bytes(whole)
    assert refused > 60


def test_a_folder_that_was_begun(tmp_path):
    """People that a thread has read are those of the folder; a later opening reads it as it is then."""
    dataset = made([*pairs(2), (12, 2, *pairs(1)[0][2:])])
    dataset.save(tmp_path / "a.kp")
    ds.begin(tmp_path / "a.kp")
    assert ds.open_dataset(tmp_path / "a.kp") == dataset
    fewer = dataset.select(np.array([0]))
    fewer.save(tmp_path / "a.kp", force=True)
    assert ds.open_dataset(tmp_path / "a.kp") == fewer


def test_a_damaged_folder_that_was_begun(tmp_path):
    """The same sentence as without: the thread's error is told to whoever opens the folder."""
    made(pairs(1)).save(tmp_path / "a.kp")
    people = tmp_path / "a.kp" / "persons.parquet"
    people.write_bytes(people.read_bytes()[:-9])
    said = []
    for begun in (False, True):
        if begun:
            ds.begin(tmp_path / "a.kp")
        with pytest.raises(FormatError) as error:
            ds.open_dataset(tmp_path / "a.kp")
        said.append(str(error.value))
    assert said[0] == said[1]


def test_reals_are_stored_by_their_bytes(tmp_path):
    """Reals are packed byte by byte, inside of lists too; texts and ids keep their dictionary."""
    made(pairs(2)).save(tmp_path / "a.kp")
    group = pq.ParquetFile(tmp_path / "a.kp" / "persons.parquet").metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    for name in ("score", "keypoints.list.element", "segmentation.list.element.list.element"):
        assert "BYTE_STREAM_SPLIT" in columns[name]
    for name in ("image_id", "dataset", "visibility.list.element"):
        assert "RLE_DICTIONARY" in columns[name]
