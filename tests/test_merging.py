"""Merging: nobody is lost, nobody is adopted by another image, ids change only where they collide, all is told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from kpdata import converters, schema
from kpdata import dataset as ds
from kpdata.errors import SchemaError
from kpdata.merging import merge
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton, load
from tests.strategies import datasets

PAIR = Skeleton("pair_2", ("left_a", "right_a"), ((0, 1),))
OTHER_PAIR = Skeleton("pair_2", ("left_b", "right_b"))
POSE = [1.0, 2.0, 3.0, 4.0]
FEW = settings(max_examples=8)  # drawing a dataset takes longer than looking at it


def made(images, people, *, name="a", skeleton=PAIR, ids="source", **provenance):
    """images: {id: (file name, width, height)}; people: [(annotation id, image id, keypoints, visibility)]."""
    columns = {
        "image_id": list(images),
        "file_name": [row[0] for row in images.values()],
        "width": [row[1] for row in images.values()],
        "height": [row[2] for row in images.values()],
    }
    people = [(*p, [2] * len(skeleton)) if len(p) == 3 else p for p in people]
    rows = {
        key: [p[i] for p in people] for i, key in enumerate(("annotation_id", "image_id", "keypoints", "visibility"))
    }
    rows["skeleton"] = [p[2] and skeleton.name for p in people]
    rows["category_id"] = [provenance["categories_raw"][0]["id"] if "categories_raw" in provenance else None] * len(
        people
    )
    return ds.build(
        {key: pa.array(column, schema.IMAGES.field(key).type) for key, column in columns.items()},
        {key: pa.array(column, schema.PERSONS.field(key).type) for key, column in rows.items()},
        num_images=len(images), num_persons=len(people), name=name, skeletons=[skeleton],
        provenance={"source_format": "test", "ids": ids, **provenance},
    )  # fmt: skip


def column(dataset, name, table="persons"):
    return getattr(dataset, table)[name].to_pylist()


def owners(dataset):
    """(file name of the image or None, keypoints) of every person: what must survive any renumbering."""
    names = dict(zip(column(dataset, "image_id", "images"), column(dataset, "file_name", "images"), strict=True))
    pairs = zip(column(dataset, "image_id"), column(dataset, "keypoints"), strict=True)
    return [(names.get(image), keypoints) for image, keypoints in pairs]


# ---------------------------------------------------------------------------------------------------------------- ids


def test_ids_that_do_not_collide_stay():
    """Nothing is renumbered without need, and nothing is on record then."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)])
    two = made({2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="b")
    merged, report = merge([one, two])
    assert column(merged, "image_id", "images") == [1, 2]
    assert column(merged, "annotation_id") == [1, 2]
    assert (report.shared_images, report.reassigned, report.duplicate_images, report.duplicate_people) == (
        0,
        {},
        [],
        [],
    )
    assert merged.history == ({"op": "merge", "inputs": ["a", "b"], "shared_images": 0},)


def test_colliding_ids_are_renumbered_and_recorded():
    """Only the later and only the colliding ids change; people follow their image; the history says old and new."""
    one = made({1: ("a.jpg", 9, 9), 5: ("b.jpg", 9, 9)}, [(7, 1, [1.0, 1, 1, 1]), (8, 5, [2.0, 2, 2, 2])])
    two = made({5: ("c.jpg", 9, 9), 6: ("d.jpg", 9, 9)}, [(8, 6, [3.0, 3, 3, 3]), (9, 5, [4.0, 4, 4, 4])], name="b")
    merged, report = merge([one, two])
    assert column(merged, "image_id", "images") == [1, 5, 7, 6]
    assert column(merged, "annotation_id") == [7, 8, 10, 9]
    assert owners(merged) == [
        ("a.jpg", [1, 1, 1, 1]), ("b.jpg", [2, 2, 2, 2]), ("d.jpg", [3, 3, 3, 3]), ("c.jpg", [4, 4, 4, 4])
    ]  # fmt: skip
    assert report.reassigned == {"b": {"image_id": 1, "annotation_id": 1}}
    assert merged.history[0] == {
        "op": "reassign", "dataset": "b", "image_id": [[5], [7]], "annotation_id": [[8], [10]]
    }  # fmt: skip


@FEW
@given(st.lists(datasets(), min_size=1, max_size=3))
def test_nobody_is_lost(parts):
    """Any datasets merge: every image that is not shared, every person and picture, in order, each with its numbers."""
    merged, report = merge(parts)
    assert len(merged) == sum(map(len, parts))
    assert merged.images.num_rows == sum(part.images.num_rows for part in parts) - report.shared_images
    moved = {
        "persons": {"annotation_id", "image_id", "category_id", "dataset", "skeleton"},
        "images": {"image_id", "dataset"},
    }  # fmt: skip
    for table in ("persons", "images") if not report.shared_images else ("persons",):
        for name in set(getattr(merged, table).schema.names) - moved[table]:
            assert repr(column(merged, name, table)) == repr([v for part in parts for v in column(part, name, table)])
    assert sorted(column(merged, "data", "blobs")) == sorted(v for part in parts for v in column(part, "data", "blobs"))
    names = [merged.skeletons[n].keypoint_names if n else None for n in column(merged, "skeleton")]
    assert names == [p.skeletons[n].keypoint_names if n else None for p in parts for n in column(p, "skeleton")]
    assert len(merged.datasets) == sum(len(part.datasets) for part in parts)
    assert [merged.datasets[n]["source_format"] for n in column(merged, "dataset")] == [
        part.datasets[n]["source_format"] for part in parts for n in column(part, "dataset")
    ]
    first = parts[0]
    for table in ("images", "persons"):
        ours = getattr(merged, table).slice(0, getattr(first, table).num_rows)
        assert schema.same(ours, getattr(first, table))


@FEW
@given(datasets(), datasets())
def test_ids_stay_apart_and_people_with_their_image(one, two):
    """No annotation of the second input has an id of the first's; people are on their own image, orphans on none."""
    merged, report = merge([one, two])
    found = column(merged, "annotation_id")
    assert found[: len(one)] == column(one, "annotation_id")
    assert not set(found[: len(one)]) & set(found[len(one) :])
    assert report.shared_images == 0  # the strategy's ids are not a source's
    own = two.image_rows()
    wanted = [*one.image_rows(), *np.where(own >= 0, own + one.images.num_rows, -1)]
    assert merged.image_rows().tolist() == wanted


def test_orphans_are_not_adopted():
    """A person whose image is not listed does not come to stand on another input's image of that number."""
    listed = made({5: ("c.jpg", 9, 9)}, [(1, 5, POSE)], ids="assigned")
    orphan = made({}, [(2, 5, POSE)], name="b", ids="assigned")
    for order in ([listed, orphan], [orphan, listed]):
        merged, _ = merge(order)
        assert sorted(owners(merged), key=repr) == [("c.jpg", POSE), (None, POSE)]


@pytest.mark.filterwarnings("error")
def test_the_largest_ids_merge():
    """Ids at the end of 64 bits collide as others do: no overflow, no id rounded, people with their image."""
    top, odd = 2**63 - 1, 2**60 + 1  # no float64 is 2^60 + 1
    one = made({top: ("a.jpg", 9, 9)}, [(top, top, [1.0] * 4)])
    two = made(
        {top: ("b.jpg", 9, 9), odd: ("c.jpg", 9, 9)}, [(top, top, [2.0] * 4), (odd, odd, [3.0] * 4)], name="b"
    )  # fmt: skip
    merged, _ = merge([one, two])
    assert owners(merged) == [("a.jpg", [1.0] * 4), ("b.jpg", [2.0] * 4), ("c.jpg", [3.0] * 4)]
    assert column(merged, "annotation_id")[::2] == [top, odd]
    assert len(set(column(merged, "annotation_id"))) == 3
    low = -(2**63)
    merged, _ = merge([made({low: ("a.jpg", 9, 9)}, []), made({low: ("b.jpg", 9, 9)}, [(1, low, POSE)], name="b")])
    assert owners(merged) == [("b.jpg", POSE)]


def test_three_inputs_with_the_same_ids():
    """Each later input is renumbered past all before it."""
    parts = [made({1: (f"{n}.jpg", 9, 9)}, [(1, 1, [float(n)] * 4)], name=f"d{n}") for n in range(3)]
    merged, report = merge(parts)
    assert column(merged, "image_id", "images") == column(merged, "annotation_id") == [1, 2, 3]
    assert owners(merged) == [(f"{n}.jpg", [float(n)] * 4) for n in range(3)]
    assert list(report.reassigned) == ["d1", "d2"]


def test_the_order_of_repeated_images_is_renumbered():
    """The order in which a file lists its images names them by their new ids."""
    one = made({1: ("a.jpg", 9, 9)}, [])
    two = made({1: ("b.jpg", 9, 9), 4: ("c.jpg", 9, 9)}, [], name="b", image_order=[1, 4, [1, {"id": 1}], 1])
    merged, _ = merge([one, two])
    assert column(merged, "image_id", "images") == [1, 5, 4]
    assert merged.datasets["b"]["image_order"] == [5, 4, [5, {"id": 1}], 5]


# ------------------------------------------------------------------------------------------- same images, same people


@pytest.mark.parametrize("change", [None, "file_name", "size", "ids", "id"])
def test_which_images_are_the_same(change):
    """Id, name and size equal, both ids the source's own: one row with the people of both. Anything else: two rows."""
    one = made({3: ("a.jpg", 640, 480), 4: ("b.jpg", 640, 480)}, [(1, 3, [1.0] * 4)])
    row = (
        ("z.jpg", 640, 480)
        if change == "file_name"
        else ("a.jpg", 640, 481)
        if change == "size"
        else ("a.jpg", 640, 480)
    )
    number = 8 if change == "id" else 3
    two = made({number: row}, [(2, number, [2.0] * 4)], name="b", ids="assigned" if change == "ids" else "source")
    merged, report = merge([one, two])
    assert report.shared_images == (change is None)
    assert merged.images.num_rows == (2 if change is None else 3)
    assert owners(merged) == [("a.jpg", [1.0] * 4), (row[0], [2.0] * 4)]
    pair = {"id": [(3, 8)], "ids": [(3, 5)]}.get(change, [])
    assert report.duplicate_images == pair


def test_duplicate_people():
    """Equal labelled keypoints in one image: told by their ids in order, dropped only when asked, the first stays."""
    images = {1: ("a.jpg", 9, 9), 2: ("b.jpg", 9, 9)}
    blank = [0.0, 0, 5, 5]
    people = [
        (10, 1, POSE), (11, 2, POSE), (12, 1, [1.0, 2, 3, 5]), (13, 1, POSE, [2, 1]), (14, 1, None), (15, 1, None),
        (16, 1, blank, [0, 0]), (17, 1, blank, [0, 0]), (18, 1, [9.0, 9, 5, 5], [0, 2]),
    ]  # fmt: skip
    again = [(30, 1, POSE), (31, 1, POSE), (32, 2, [1.0, 2, 3, 5]), (33, 1, [7.0, 7, 5, 5], [0, 2]), (34, 1, None)]
    one, two = made(images, people), made(images, again, name="b")
    kept, report = merge([one, two])
    assert report.duplicate_people == [(10, 30), (10, 31), (18, 33)]  # an unlabelled point's coordinate says nothing
    assert len(kept) == 14
    dropped, same_report = merge([one, two], drop_duplicates=True)
    assert same_report == report
    assert column(dropped, "annotation_id") == [*range(10, 19), 32, 34]
    assert dropped.images.num_rows == 2
    assert [entry["op"] for entry in dropped.history] == ["drop duplicates", "merge"]


@FEW
@given(datasets())
def test_duplicate_people_by_hand(dataset):
    """The pairs that a loop over all people finds, for ids and coordinates of any size."""

    def pose(person):
        points = zip(person["keypoints"][::2], person["keypoints"][1::2], person["visibility"], strict=True)
        return repr([(x + 0, y + 0, v) if v else 0 for x, y, v in points])

    merged, report = merge([dataset])
    people, first, pairs = merged.persons.to_pylist(), {}, set()
    for person in people:
        if person["keypoints"] and any(person["visibility"]):
            leader = first.setdefault((person["image_id"], person["skeleton"], pose(person)), person["annotation_id"])
            pairs.add((leader, person["annotation_id"]))
    assert set(report.duplicate_people) <= pairs
    assert {pair for pair in pairs if pair[0] != pair[1]} <= set(report.duplicate_people)


def test_people_of_images_with_huge_ids_are_no_duplicates():
    """Images 2^53 and 2^53 + 1 are two images, though a float64 cannot tell them apart."""
    images = {2**53: ("a.jpg", 9, 9), 2**53 + 1: ("b.jpg", 9, 9)}
    merged, report = merge([made(images, [(1, 2**53, POSE), (2, 2**53 + 1, POSE)])], drop_duplicates=True)
    assert report.duplicate_people == []
    assert len(merged) == 2


# ------------------------------------------------------------------------------- names: sources, skeletons, categories


def test_sources_of_one_name_stay_apart():
    """Two files of one format are `coco` and `coco_2`; rows and provenance follow."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)], name="coco", licence="one")
    two = made({2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="coco", licence="two")
    three = merge([one, two])[0]
    merged, _ = merge([three, made({3: ("c.jpg", 9, 9)}, [(3, 3, POSE)], name="coco", licence="three")])
    assert column(merged, "dataset") == column(merged, "dataset", "images") == ["coco", "coco_2", "coco_3"]
    assert [d["licence"] for d in merged.datasets.values()] == ["one", "two", "three"]
    nested, _ = merge([one, three])
    assert [nested.datasets[name]["licence"] for name in column(nested, "dataset")] == ["one", "one", "two"]


def test_skeletons_of_one_name_stay_apart():
    """Equal skeletons are one; another one under the same name is renamed with its people."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)])
    same = made({2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="b")
    other = made({3: ("c.jpg", 9, 9)}, [(3, 3, POSE)], name="c", skeleton=OTHER_PAIR)
    merged, _ = merge([one, same, other])
    assert column(merged, "skeleton") == ["pair_2", "pair_2", "pair_2_2"]
    assert merged.skeletons["pair_2"] == PAIR
    assert merged.skeletons["pair_2_2"] == replace(OTHER_PAIR, name="pair_2_2")


def test_a_renamed_skeleton_does_not_take_another_ones_name():
    """Where the input itself has the fresh name already, a third one is found: no people on the wrong keypoints."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)])
    third = Skeleton("pair_2_2", ("left_c", "right_c"))
    other = made({2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="b", skeleton=OTHER_PAIR)
    both, _ = merge([other, made({3: ("c.jpg", 9, 9)}, [(3, 3, POSE)], name="c", skeleton=third)])
    merged, _ = merge([one, both])
    found = [merged.skeletons[name].keypoint_names[0] for name in column(merged, "skeleton")]
    assert found == ["left_a", "left_b", "left_c"]


def test_a_renamed_skeleton_keeps_its_mask():
    """What keypoints a remapped source can have is still known under the skeleton's new name."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)])
    other = made(
        {2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="b", skeleton=OTHER_PAIR, keypoint_mask={"pair_2": [True, False]}
    )  # fmt: skip
    merged, _ = merge([one, other])
    assert merged.keypoint_mask("b", column(merged, "skeleton")[1]).tolist() == [True, False]
    assert merged.keypoint_mask("a", "pair_2").tolist() == [True, True]


def test_masks_of_remapped_sources_stay_apart():
    """COCO and MPII people on one skeleton: each source keeps its own mask."""
    coco, mpii = load("coco_17"), load("mpii_16")
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, [1.0] * 34)], name="coco", skeleton=coco)
    two = made({2: ("b.jpg", 9, 9)}, [(2, 2, [1.0] * 32)], name="mpii", skeleton=mpii)
    merged, _ = merge([one, remap(two, coco)[0]])
    assert merged.skeleton == coco
    assert merged.keypoint_mask("coco", "coco_17").all()
    missing = {
        n for n, known in zip(coco.keypoint_names, merged.keypoint_mask("mpii", "coco_17"), strict=True) if not known
    }
    assert missing == {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}


PERSON, HORSE, DOG = ({"id": 1, "name": name} for name in ("person", "horse", "dog"))


def test_categories_that_collide_are_renumbered():
    """One id for two things: the later gets a new one, its people with it; the same category stays one."""
    parts = [
        made({n: (f"{n}.jpg", 9, 9)}, [(n, n, POSE)], name=f"d{n}", categories_raw=[row])
        for n, row in enumerate((PERSON, HORSE, PERSON, DOG))
    ]
    merged, report = merge(parts)
    assert column(merged, "category_id") == [1, 2, 1, 3]
    assert [d["categories_raw"][0] for d in merged.datasets.values()] == [
        PERSON,
        {**HORSE, "id": 2},
        PERSON,
        {**DOG, "id": 3},
    ]
    assert report.reassigned == {"d1": {"category_id": 1}, "d3": {"category_id": 1}}
    assert merged.history[0] == {"op": "reassign", "dataset": "d1", "category_id": [[1], [2]]}


def test_a_new_category_id_is_new_to_both():
    """The fresh id is above those of both inputs: it becomes nobody else's."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)], categories_raw=[PERSON, {"id": 7, "name": "cat"}])
    two = made({2: ("b.jpg", 9, 9)}, [(2, 2, POSE)], name="b", categories_raw=[HORSE, {"id": 8, "name": "cow"}])
    merged, _ = merge([one, two])
    assert merged.datasets["b"]["categories_raw"] == [{**HORSE, "id": 9}, {"id": 8, "name": "cow"}]
    assert column(merged, "category_id") == [1, 9]


# ------------------------------------------------------------------------------------------------------------- the rest


def test_one_or_no_input():
    """One input stays what it is; none is refused."""
    one = made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)])
    assert merge([one])[0] == one
    with pytest.raises(SchemaError, match="nothing to merge"):
        merge([])


def test_inputs_without_people_or_images():
    """Images without people and people without images merge in any order."""
    empty, full = made({}, []), made({1: ("a.jpg", 9, 9)}, [(1, 1, POSE)], name="b")
    for order in ([empty, full], [full, empty], [empty, empty, full]):
        merged, report = merge(order)
        assert owners(merged) == [("a.jpg", POSE)]
        assert report.reassigned == {}


def test_pictures_follow_their_image():
    """An embedded picture has its image's new id."""

    def with_picture(dataset, number, data):
        columns = {
            "image_id": pa.array([number]),
            "name": pa.array(["imageData"]),
            "data": pa.array([data], pa.large_binary()),
        }
        return replace(dataset, blobs=schema.table(schema.BLOBS, 1, columns))

    one = with_picture(made({1: ("a.jpg", 9, 9)}, [], ids="assigned"), 1, b"one")
    two = with_picture(made({1: ("b.jpg", 9, 9)}, [], name="b", ids="assigned"), 1, b"two")
    merged, _ = merge([one, two])
    names = dict(zip(column(merged, "image_id", "images"), column(merged, "file_name", "images"), strict=True))
    found = zip(column(merged, "image_id", "blobs"), column(merged, "data", "blobs"), strict=True)
    assert {names[number]: data for number, data in found} == {"a.jpg": b"one", "b.jpg": b"two"}


def document(path, text):
    path.write_text(json.dumps(text))
    return converters.read(path)


def test_merged_coco_and_crowdpose_are_a_coco_file(tmp_path):
    """Two data sets with colliding ids written as one COCO file: pycocotools loads it, people are on their images."""
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [3, 4, 2] * 17, "num_keypoints": 17,
             "bbox": [1, 2, 30, 40], "area": 500.5, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"counts": [1, 3071], "size": [48, 64]},
             "keypoints": [0] * 51, "num_keypoints": 0, "bbox": [0, 0, 9, 9], "area": 9, "iscrowd": 1},
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(load("coco_17").keypoint_names), "skeleton": [[1, 2]]}
        ],
    }  # fmt: skip
    crowdpose = {
        "images": [{"id": 1, "file_name": "c.jpg", "width": 32, "height": 32, "crowdIndex": 0.5}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [5, 6, 1] * 14, "num_keypoints": 12,
             "bbox": [2, 2, 9, 9], "iscrowd": 0}
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(load("crowdpose_14").keypoint_names), "skeleton": [[1, 2]]}
        ],
    }  # fmt: skip
    parts = [document(tmp_path / "coco.json", coco), document(tmp_path / "crowd.json", crowdpose)]
    assert [list(part.datasets) for part in parts] == [["coco"], ["crowdpose"]]
    merged, report = merge(parts)
    assert report.reassigned == {"crowdpose": {"category_id": 1, "image_id": 1, "annotation_id": 1}}
    converters.write(merged, tmp_path / "both.json", "coco")

    official = COCO(tmp_path / "both.json")
    assert sorted(official.anns) == [1, 2, 3]
    assert {number: row["name"] for number, row in official.cats.items()} == {1: "person", 2: "person"}
    person = official.anns[3]
    assert official.imgs[person["image_id"]]["file_name"] == "c.jpg"
    assert person["keypoints"] == [5, 6, 1] * 14
    assert official.cats[person["category_id"]]["keypoints"] == crowdpose["categories"][0]["keypoints"]
    assert official.anns[1] == coco["annotations"][0]
    assert official.anns[2] == coco["annotations"][1]

    again = converters.read(tmp_path / "both.json", "coco")
    assert repr(owners(again)) == repr(owners(merged))  # NaN of the unlabelled person equals NaN
    assert column(again, "skeleton") == column(merged, "skeleton") == ["coco_17", "coco_17", "crowdpose_14"]
    assert column(again, "area") == [500.5, 9, None]


def test_real_coco_and_crowdpose(real_data, tmp_path):
    """79 COCO images with 118 people and 2 with CrowdPose people: all there, and each keypoint as its file has it."""
    paths = [
        real_data / "coco_mini" / "person_keypoints_val2017.json",
        real_data / "crowdpose" / "example_crowdpose_val.json",
    ]
    raw = [json.loads(path.read_text()) for path in paths]
    merged, _ = merge([converters.read(path) for path in paths])
    converters.write(merged, tmp_path / "both.json", "coco")
    written = json.loads((tmp_path / "both.json").read_text())
    assert len(written["images"]) == sum(len(one["images"]) for one in raw)
    names = {row["id"]: row["file_name"] for row in written["images"]}
    found = [(names[row["image_id"]], row.get("keypoints"), row["bbox"]) for row in written["annotations"]]
    expected = []
    for one in raw:
        own = {row["id"]: row["file_name"] for row in one["images"]}
        expected += [(own[row["image_id"]], row.get("keypoints"), row["bbox"]) for row in one["annotations"]]
    assert found == expected
