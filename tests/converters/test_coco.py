"""COCO and COCO-WholeBody: what each field becomes, every trap of real files, every refusal, what foreign data gets."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pycocotools.coco import COCO

from kpdata import converters, schema
from kpdata import dataset as ds
from kpdata.converters import coco, coco_results
from kpdata.dataset import open_dataset
from kpdata.errors import DestinationExists, FormatError, LossyWrite, SchemaError, WriteError
from kpdata.merging import merge
from kpdata.skeleton import load

PEOPLE = {"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"], "skeleton": [[1, 3]]}
XYV = [10, 20, 2, 30.5, 40, 1, 0, 0, 0]
NAN = float("nan")


def row(number=1, **more):
    return {"id": number, "image_id": 1, "category_id": 1, "keypoints": XYV, **more}


def document(*rows, **more):
    return {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": list(rows), "categories": [PEOPLE], **more}


def without(item, *keys):
    return {key: value for key, value in item.items() if key not in keys}


def column(dataset, name):
    return dataset.persons[name].to_pylist()


def plain(document):
    text = json.dumps(document, sort_keys=True)
    return json.loads(text, parse_constant=str)


def there_and_back(raw):
    """The dataset of a document that comes back as it was: by value, where 1 is 1.0 and NaN is NaN."""
    dataset = coco.decode(copy.deepcopy(raw), source="x.json")
    back, losses = coco.encode(dataset)
    assert plain(back) == plain(raw)
    assert not losses.losses
    return dataset


# -------------------------------------------------------------------------------------------------- what fields become


def test_fields_become_columns():
    """Every field of the official files in its column, with its number as it is."""
    box, polygon = [1, 2.5, 30, 40], [[1, 2, 3, 4, 5, 6.5], [7, 8, 9, 10, 11, 12]]
    person = row(5, bbox=box, area=123.25, iscrowd=0, num_keypoints=2, segmentation=polygon)
    crowd = row(900100000139, iscrowd=1, segmentation={"counts": [3, 4], "size": [1, 7]})
    dataset = there_and_back(document(person, crowd, info={"year": 2017}, licenses=[]))
    assert column(dataset, "annotation_id") == [5, 900100000139]
    assert column(dataset, "bbox") == [box, None]
    assert column(dataset, "area") == [123.25, None]
    assert column(dataset, "iscrowd") == [False, True]
    assert column(dataset, "num_keypoints") == [2, None]
    assert column(dataset, "segmentation") == [polygon, None]
    assert json.loads(column(dataset, "rle")[1]) == {"counts": [3, 4], "size": [1, 7]}
    assert column(dataset, "category") == ["person", "person"]
    assert column(dataset, "bbox_source") == ["annotated", None]
    assert dataset.skeleton.edges == ((0, 2),)


def test_keypoints_and_visibility():
    """0, 0, 0 is no coordinate; a coordinate with v 0 stays; visibility alone says what counts."""
    dataset = there_and_back(document(row(), row(2, keypoints=[0, 0, 1, 7, 8, 0, 0, 0, 2])))
    np.testing.assert_array_equal(dataset.keypoints[0], [[10, 20], [30.5, 40], [NAN, NAN]])
    np.testing.assert_array_equal(dataset.keypoints[1], [[0, 0], [7, 8], [0, 0]])
    assert dataset.visibility.tolist() == [[2, 1, 0], [1, 0, 2]]
    assert dataset.persons["visibility_raw"].null_count == 2


@pytest.mark.parametrize(("third", "state"), [(7, 3), (3, 3), (0.25, 3), (1.0, 1), (2.0, 2), (-1, 0), (0.0, 0)])
def test_third_numbers_that_are_no_flags(third, state):
    """Above 0 is labelled, visibility unknown; the source's own number is kept and written back."""
    dataset = there_and_back(document(row(keypoints=[1, 2, third, 3, 4, 2, 5, 6, 1])))
    assert dataset.visibility.tolist() == [[state, 2, 1]]
    kept = column(dataset, "visibility_raw")[0]
    assert kept == (None if third in (0, 1, 2) else [third, 2, 1])


def test_not_a_number_coordinates():
    """NaN and infinity, which Python's JSON allows, are read; with a label they come back."""
    raw = document(row(keypoints=[NAN, 1, 2, float("inf"), 2, 1, 3, 4, 0]))
    dataset = there_and_back(raw)
    assert np.isnan(dataset.keypoints[0, 0, 0])
    assert np.isinf(dataset.keypoints[0, 1, 0])


def test_present_null_and_absent_are_three_things():
    """An explicit null comes back as null, an absent key stays absent; in the column both are null."""
    keys = ("bbox", "area", "num_keypoints", "iscrowd", "segmentation", "keypoints", "score", "track_id")
    nulls = {**without(row(2), "keypoints"), **dict.fromkeys(keys)}
    dataset = there_and_back(document(without(row(), "keypoints"), nulls))
    for key in keys:
        assert column(dataset, key) == [None, None]
    assert [text and json.loads(text) for text in column(dataset, "extras")] == [None, dict.fromkeys(keys)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bbox", []), ("keypoints", []), ("segmentation", []), ("segmentation", [[]]), ("segmentation", "RLE"),
        ("segmentation", [[[1, 2], [3, 4]]]), ("num_keypoints", 1.5), ("num_keypoints", 2**40), ("area", 2**60 + 1),
        ("iscrowd", 2), ("track_id", "a"), ("track_id", 2**70), ("score", []), ("scale", [1.2, 1.2]),
        ("center", {"x": 1}), ("head_bbox", [1, 2, 3]), ("person_index", None), ("attributes", {"occluded": [1, {}]}),
        ("ünï \"key\"", "日本"), ("", 1), ("bbox_source", 3), ("note", "half \ud800"), ("bbox_source", "\ud800"),
    ],
)  # fmt: skip
def test_what_has_no_column_comes_back(key, value):
    """Foreign keys, odd lengths, numbers too big for the column and other tools' use of our own names are kept."""
    there_and_back(document(row(), row(2, **{key: value})))


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, True), (0, 1), (0.0, 1.0)])
def test_iscrowd_keeps_its_style(first, second):
    """PoseTrack writes true and false, COCO 0 and 1: types come back, not values alone."""
    raw = document(row(iscrowd=first), row(2, iscrowd=second))
    back = coco.encode(there_and_back(raw))[0]
    assert [repr(r["iscrowd"]) for r in back["annotations"]][1] in (repr(second), "1")
    if first is False:
        assert back["annotations"][0]["iscrowd"] is False


def test_images():
    """Sizes, names and our own extra columns; other keys, nulls and odd types come back from extras."""
    images = [
        {"id": 0, "file_name": "C:\\bilder\\ä b.jpg", "width": 640, "height": 480, "license": 3, "date_captured": ""},
        {"id": 2**40, "file_name": None, "width": 640.5, "height": 2**40, "crowdIndex": 1.5, "split": "val"},
        {"id": -7, "video_id": 12, "frame_index": 3, "split": 1},
    ]
    dataset = there_and_back({**document(), "images": images})
    assert dataset.images["image_id"].to_pylist() == [0, 2**40, -7]
    assert dataset.images["file_name"].to_pylist() == ["C:\\bilder\\ä b.jpg", None, None]
    assert dataset.images["width"].to_pylist() == [640, None, None]
    assert dataset.images["crowd_index"].to_pylist() == [None, 1.5, None]
    assert dataset.images["frame_index"].to_pylist() == [None, None, 3]


@pytest.mark.parametrize(
    ("area", "box", "segmentation", "kind"),
    [
        (12.0, [0, 0, 3, 4], None, "box"), (7.0, [0, 0, 3, 4], [[0, 0, 1, 1, 2, 2]], "mask"),
        (7.0, [0, 0, 3, 4], None, "unknown"),
        (None, [0, 0, 3, 4], None, "none"),
    ],
)  # fmt: skip
def test_area_kind(area, box, segmentation, kind):
    """Mask, whole box, unknown or none: what OKS may be compared with."""
    more = {"bbox": box, "area": area, "segmentation": segmentation}
    dataset = coco.decode(document(row(**{key: value for key, value in more.items() if value is not None})))
    assert dataset.datasets["coco"]["area_kind"] == kind


# ------------------------------------------------------------------------------------------------------------------ ids


def test_text_ids():
    """Texts are numbered in sorted order above the integers; the texts come back, for orphans too."""
    images = [{"id": "b"}, {"id": "a"}, {"id": 7}]
    rows = [row("x", image_id="b"), row("w", image_id=7), row(3, image_id="nowhere")]
    dataset = there_and_back({**document(*rows), "images": images})
    assert dataset.images["image_id"].to_pylist() == [9, 8, 7]
    assert dataset.images["source_image_id"].to_pylist() == ["b", "a", None]
    assert column(dataset, "image_id") == [9, 7, 10]
    assert column(dataset, "annotation_id") == [5, 4, 3]
    assert dataset.image_rows().tolist() == [0, 2, -1]


def test_text_ids_of_two_files_merge():
    """Two files with the same texts for other images stay apart, and are written without two of one id."""
    one = {**document(row("x", image_id="a")), "images": [{"id": "a", "file_name": "1.jpg"}]}
    two = {**document(row("x", image_id="a")), "images": [{"id": "a", "file_name": "2.jpg"}]}
    merged, report = merge([coco.decode(one), coco.decode(two)])
    assert report.shared_images == 0
    raw = coco.encode(merged)[0]
    ids = [image["id"] for image in raw["images"]]
    assert len(set(ids)) == 2
    assert [r["image_id"] for r in raw["annotations"]] == ids
    assert len({r["id"] for r in raw["annotations"]}) == 2
    assert [image["file_name"] for image in raw["images"]] == ["1.jpg", "2.jpg"]


def test_the_same_image_under_texts():
    """One text, name and size in two files is one image, though other texts shift its number."""
    one = {**document(row("x", image_id="b")), "images": [{"id": "b", "file_name": "b.jpg"}]}
    two = {
        **document(row("y", image_id="b")),
        "images": [{"id": "a", "file_name": "a.jpg"}, {"id": "b", "file_name": "b.jpg"}],
    }
    merged, report = merge([coco.decode(one), coco.decode(two)])
    assert report.shared_images == 1
    raw = coco.encode(merged)[0]
    assert [(image["id"], image["file_name"]) for image in raw["images"]] == [("b", "b.jpg"), ("a", "a.jpg")]
    assert [r["image_id"] for r in raw["annotations"]] == ["b", "b"]


def test_odd_ids_are_kept():
    """Orphans, repeated annotation ids, negative ones and zero are data; the evaluator's strict mode may want them."""
    rows = [row(0, image_id=0), row(0, image_id=99, category_id=55), row(-3, category_id=None), row(2**62)]
    dataset = there_and_back(document(*rows))
    assert column(dataset, "annotation_id") == [0, 0, -3, 2**62]
    assert column(dataset, "category_id") == [1, 55, None, 1]
    assert dataset.image_rows().tolist() == [-1, -1, 0, 0]


def test_annotations_without_ids():
    """They are numbered 1..N, and written without again."""
    dataset = there_and_back(document(without(row(), "id"), without(row(), "id")))
    assert column(dataset, "annotation_id") == [1, 2]


def test_images_listed_again():
    """Once an annotation: identical entries are one row and a note, another content is an error; order comes back."""
    image = {"id": 1, "file_name": "a.jpg", "width": 5}
    same = there_and_back({**document(row()), "images": [image, {"id": 2}, image, image]})
    assert same.images.num_rows == 2
    (finding,) = same.datasets["coco"]["findings"]
    assert (finding["level"], finding["code"]) == ("note", "image-repeated")
    assert "4 image entries for 2 images" in finding["message"]
    other = there_and_back({**document(row()), "images": [image, {"id": 1, "file_name": "b.jpg"}]})
    assert other.images["file_name"].to_pylist() == ["a.jpg"]
    (finding,) = other.datasets["coco"]["findings"]
    assert (finding["level"], finding["image_id"]) == ("error", 1)


def test_selected_and_merged_repeats_keep_their_order(tmp_path):
    """The order of repeats survives a selection, a merge and a saved folder."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (3, 1, 3, 2)]
    dataset = coco.decode({**document(row()), "images": images})
    chosen = dataset.select(images=np.array([True, False, True]))
    assert [image["id"] for image in coco.encode(chosen)[0]["images"]] == [3, 3, 2]
    first = coco.decode(
        {**document(row(5, image_id=8)), "images": [{"id": 8, "file_name": "8.jpg"}, {"id": 9, "file_name": "9.jpg"}]}
    )
    merged, _ = merge([first, dataset])
    merged.save(tmp_path / "x.kp")
    written = coco.encode(open_dataset(tmp_path / "x.kp"))[0]["images"]
    assert [image["id"] for image in written] == [8, 9, 3, 1, 3, 2]


# ------------------------------------------------------------------------------------------------ skeletons, categories


def test_two_skeletons_in_one_file():
    """A category each: both lists of lengths are right, the rows stay in the file's order."""
    horse = {"id": 2, "name": "horse", "keypoints": ["head", "tail"]}
    rows = [row(), row(2, category_id=2, keypoints=[1, 2, 2, 3, 4, 1]), row(3)]
    dataset = there_and_back({**document(*rows), "categories": [PEOPLE, horse]})
    assert {name: rows.tolist() for name, rows in dataset.groups()} == {"person_3": [0, 2], "horse_2": [1]}
    with pytest.raises(SchemaError, match="2 skeletons in this dataset"):
        _ = dataset.keypoints


def test_two_categories_of_one_name():
    """Two `person` categories with other keypoints of one number: the second skeleton takes the id into its name."""
    other = {"id": 7, "name": "person", "keypoints": ["a", "b", "c"]}
    dataset = there_and_back({**document(row(), row(2, category_id=7)), "categories": [PEOPLE, other]})
    assert sorted(dataset.skeletons) == ["person_3", "person_3_7"]
    assert dataset.skeletons["person_3_7"].keypoint_names == ("a", "b", "c")


def test_keypoints_as_categories():
    """An export with one category a keypoint is an error that says so; object classes and short lists are none."""

    def found(*names):
        rows = [{"id": i + 1, "name": name, "supercategory": "", "keypoints": []} for i, name in enumerate(names)]
        dataset = coco.decode({"images": [], "annotations": [], "categories": rows})
        return [f["code"] for d in dataset.datasets.values() for f in d.get("findings", ())]

    assert found("nose", "left_eye", "right_eye", "left_ear") == ["keypoints-as-categories"]
    assert found("person", "car", "dog", "nose") == found("nose", "left_eye") == []


def test_one_category_a_keypoint(real_data):
    """CVAT's export of points has a category each and no annotations: it is read as what it is, without people."""
    path = real_data / "pitfalls" / "cvat_one_category_per_keypoint_no_annotations.json"
    dataset = converters.read(path)
    raw = json.loads(path.read_text())
    assert len(dataset) == 0
    assert dataset.images.num_rows == len(raw["images"])
    assert dataset.datasets["coco"]["categories_raw"] == raw["categories"]


def test_skeleton_option():
    """The user's skeleton stands in for the category's; one of another size is refused with both counts."""
    seventeen = document(row(keypoints=[1, 2, 2] * 17), categories=[{"id": 1, "name": "person", "keypoints": []}])
    dataset = coco.decode(seventeen, skeleton="posetrack18_17")
    assert list(dataset.skeletons) == ["posetrack18_17"]
    with pytest.raises(FormatError, match=r"annotation 1: 51 numbers in 'keypoints', expected 42 \(14 keypoints of"):
        coco.decode(seventeen, skeleton="crowdpose_14")
    assert list(coco.decode(document(), skeleton="coco_17").skeletons) == ["coco_17"]


def test_declared_skeletons_without_people():
    """A file without annotations still says which keypoints it is about."""
    assert coco.decode(document()).skeleton.keypoint_names == ("left_eye", "right_eye", "nose")
    with pytest.raises(FormatError, match=r"x\.json: category 1: .*left_eye"):
        coco.decode(document(categories=[{**PEOPLE, "keypoints": ["left_eye"] * 2}]), source="x.json")


# ------------------------------------------------------------------------------------------------------------ WholeBody


def wholebody(person):
    parts = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    numbers = iter(range(1000))
    made = {"keypoints": [n for _ in range(17) for n in (next(numbers), 1, 2)]}
    made |= {key: [n for _ in range(count) for n in (next(numbers), 2, 1)] for key, count in parts.items()}
    return {**row(), **made, "face_box": [0.0, 0.0, 1.5, 2.0], "foot_valid": True, **person}


def body(*rows):
    return document(*rows, categories=[{"id": 1, "name": "person", "keypoints": list(load("coco_17").keypoint_names)}])


def test_wholebody_is_one_person_of_133():
    """Body, feet, face, left and right hand one after the other; written nested as it came, or flat when asked."""
    raw = body(wholebody({}))
    dataset = there_and_back(raw)
    assert dataset.skeleton == load("coco_wholebody_133")
    assert dataset.keypoints[0, :, 0].tolist() == list(range(133))
    assert dataset.visibility[0].tolist() == [2] * 17 + [1] * 116
    flat = coco.encode(dataset, layout="flat")[0]["annotations"][0]
    assert flat["keypoints"][::3] == list(range(133))
    assert "foot_kpts" not in flat
    assert coco.decode(body(flat)).datasets["coco"]["variant"] == "wholebody_flat"
    nested = coco.encode(coco.decode(body(flat)), layout="nested")[0]["annotations"][0]
    assert nested == raw["annotations"][0]
    with pytest.raises(SchemaError, match="layout 'round', expected 'nested' or 'flat'"):
        coco.encode(dataset, layout="round")


@pytest.mark.parametrize("damage", [{"foot_kpts": []}, {"foot_kpts": [1, 2, 2]}, {"face_kpts": None}])
def test_incomplete_wholebody(damage):
    """A group that is empty, short or null: the body is COCO's 17, the groups come back, other people stay whole."""
    dataset = there_and_back(body(wholebody({}), wholebody({"id": 2, **damage}), row(3, keypoints=[1, 2, 2] * 17)))
    assert {name: rows.tolist() for name, rows in dataset.groups()} == {"coco_wholebody_133": [0], "coco_17": [1, 2]}


def test_wholebody_with_a_skeleton_of_another_size():
    """133 keypoints are not 17: refused with both counts, no traceback."""
    with pytest.raises(FormatError, match="399 numbers in 'keypoints', expected 51"):
        coco.decode(body(wholebody({})), skeleton="coco_17")


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(), row(17, keypoints=XYV[:6])], r"annotation 17: 6 numbers in 'keypoints', expected 9"),
        ([row(keypoints=[1] * 50)], r"annotation 1: 50 numbers in 'keypoints', expected 9 \(3 keypoints\)"),
        ([row(keypoints=[1] * 12)], "annotation 1: .*3 names, but annotations of 4 keypoints"),
        ([row(keypoints=[1, 2, "2", 4, 5, 6, 7, 8, 9])], r"annotation 1 \('keypoints'\): found '2' at position 2"),
        ([row(keypoints=[[1, 2, 2]] * 3)], r"annotation 1 \('keypoints'\): found \[1,2,2\] at position 0"),
        ([row(keypoints=[[1]] * 9)], r"annotation 1 \('keypoints'\): found \[1\] at position 0"),
        ([row(keypoints=[True] * 9)], r"annotation 1 \('keypoints'\): found True at position 0"),
        ([row(keypoints=[1] * 8 + [10**400])], r"annotation 1 \('keypoints'\): found 1000+\.\.\. at position 8"),
        ([row(keypoints="1 2 2")], r"annotation 1 \('keypoints'\): found '1 2 2', expected a flat list of numbers"),
        ([row(bbox=[1, 2, 3])], r"annotation 1: 3 numbers in 'bbox', expected 4 \(x, y, w, h\)"),
        ([row(bbox="1")], r"annotation 1 \('bbox'\): found '1'"),
        ([row(area="12")], "annotation 1: 'area' is '12', expected a number"),
        ([row(num_keypoints=[2])], r"annotation 1: 'num_keypoints' is \[2\], expected an integer"),
        ([row(iscrowd="no")], "annotation 1: 'iscrowd' is 'no', expected 0, 1, true or false"),
        ([row(image_id=None)], "annotation 1: no 'image_id', expected an integer or a text"),
        ([row(), without(row(2), "image_id")], "annotation 2: no 'image_id'"),
        ([row(), without(row(2), "id")], "row 2: no 'id', expected an integer or a text"),
        ([row(image_id=[1])], r"annotation 1: 'image_id' is \[1\], expected an integer or a text"),
        ([row(image_id=True)], "annotation 1: 'image_id' is True"),
        ([row(category_id={})], r"annotation 1: 'category_id' is \{\}, expected an integer or a text"),
        ([row(2**63)], "id 9223372036854775808 is not an integer of 64 bits"),
        ([row(image_id=1.5)], "id 1.5 is not an integer of 64 bits"),
        ([row(image_id=NAN)], "id nan is not an integer of 64 bits"),
        ([row(2**63 - 1), row("a")], "ids that are texts beside the id 9223372036854775807"),
        ([1], "row 1: a JSON number, expected an object"),
        ([row(), None], "row 2: a JSON null, expected an object"),
    ],
)  # fmt: skip
def test_annotations_that_the_schema_cannot_hold(tmp_path, rows, message):
    """Wrong counts, text for numbers, ids that are none: file, annotation, field, found and expected are named."""
    (tmp_path / "x.json").write_text(json.dumps(document(*rows)))
    with pytest.raises(FormatError, match=r"x\.json: " + message):
        converters.read(tmp_path / "x.json", "coco")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": {}}, "'images' is a JSON object, expected a list"),
        ({"images": [3]}, "image 1: a JSON number, expected an object with an integer or a text as 'id'"),
        ({"images": [{"id": 1}, {"file_name": "a"}]}, "image 2: 'id' is None, expected an object"),
        ({"images": [{"id": 1.5}]}, r"image 1: 'id' is 1\.5"),
        ({"images": [{"id": 1, "width": "640"}]}, "image 1: 'width' is '640', expected an integer"),
        ({"images": [{"id": 1, "file_name": 5}]}, "image 1: 'file_name' is 5, expected a text"),
        ({"annotations": None}, "'annotations' is a JSON null, expected a list"),
        ({"annotations": "none"}, "'annotations' is a JSON text, expected a list"),
        ({"categories": [{"name": "person"}]}, "category 1: found no 'id'"),
        ({"categories": [5]}, "category 1: found no 'id'"),
        ({"categories": [{"id": 1, "keypoints": "nose"}]}, "category 1: 'keypoints' is not a list of names"),
        ({"categories": [{"id": 1, "keypoints": ["nose", 2]}]}, "category 1: 'keypoints' is not a list of names"),
    ],
)
def test_documents_that_the_schema_cannot_hold(more, message):
    """Images, annotations and categories that are no lists of objects with ids."""
    with pytest.raises(FormatError, match="memory: " + message):
        coco.decode({**document(row()), **more})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "a JSON list, expected an object with 'images' and 'annotations'"),
        ("text", "a JSON text, expected"), (5, "a JSON number, expected"), (None, "a JSON null, expected"),
        ({}, "no 'images' and 'annotations' in it"), ({"images": []}, "no 'images' and 'annotations' in it"),
    ],
)  # fmt: skip
def test_json_of_another_kind(tmp_path, raw, message):
    """A list, a text, a number: JSON, but no COCO file."""
    with pytest.raises(FormatError, match=message):
        coco.decode(raw)
    (tmp_path / "x.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError, match=message):
        converters.read(tmp_path / "x.json", "coco")


@pytest.mark.parametrize("where", ["info", "annotation", "image", "category"])
def test_deep_nesting(tmp_path, where):
    """Lists in lists, 1,000 and 100,000 deep, anywhere: a sentence, never a RecursionError."""
    for levels in (300, 1000, 100_000):
        deep = "[" * levels + "]" * levels
        parts = dict.fromkeys(("info", "annotation", "image", "category"), "1") | {where: deep}
        text = (
            f'{{"info": {parts["info"]}, "images": [{{"id": 1, "x": {parts["image"]}}}], '
            f'"annotations": [{{"id": 1, "image_id": 1, "category_id": 1, "x": {parts["annotation"]}}}], '
            f'"categories": [{{"id": 1, "name": "a", "x": {parts["category"]}}}]}}'
        )
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(FormatError, match=r"x\.json: its JSON is nested deeper than 200 levels"):
            converters.read(tmp_path / "x.json")


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["ä ö.json", "日本.json", "a b'c.json.gz", "plain"])
def test_names_and_gzip(tmp_path, name):
    """Any file name; `.json.gz` is written packed, and known by its bytes whatever its name."""
    raw, path = document(row()), tmp_path / name
    converters.write(coco.decode(raw), path, "coco")
    data = path.read_bytes()
    assert (data[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert json.loads(gzip.decompress(data) if name.endswith(".gz") else data) == raw
    path.rename(tmp_path / "other.bin")
    assert converters.read(tmp_path / "other.bin") == coco.decode(raw)


def test_damaged_files_name_themselves(tmp_path):
    """0 bytes, cut off, damaged gzip, UTF-16, cp1252: the file and the fault, also where the format is detected."""
    text = json.dumps(document(row(note="ä")), ensure_ascii=False)
    broken = gzip.compress(text.encode())
    cases = {
        b"": "is empty",
        text.encode()[:200]: "not valid JSON",
        broken[:-12]: "a damaged gzip file",
        broken[:20] + b"\xff\xff\xff" + broken[23:]: "a damaged gzip file",
        text.encode("utf-16"): "byte 0xff at position 0 is not UTF-8",
        text.encode("cp1252"): "byte 0xe4 at position .* is not UTF-8",
    }
    for data, message in cases.items():
        (tmp_path / "x.json").write_bytes(data)
        for format in (None, "coco"):
            with pytest.raises(FormatError, match=rf"x\.json: .*{message}"):
                converters.read(tmp_path / "x.json", format)


def test_byte_order_mark(tmp_path):
    """Windows' UTF-8 is read."""
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(document(row())).encode())
    assert converters.read(tmp_path / "x.json") == coco.decode(document(row()))


def test_writing_refuses_and_leaves_nothing(tmp_path, monkeypatch):
    """An existing target, a loss that was not allowed, a full disk: nothing is written, the old file stands."""
    dataset = coco.decode(document(row()))
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(DestinationExists, match="exists already"):
        converters.write(dataset, target, "coco")
    results = coco_results.decode([{"image_id": 1, "category_id": 1, "keypoints": [1, 2, 0.5] * 17, "score": 1}])
    with pytest.raises(LossyWrite, match="visibility unknown: 17, keypoint scores: 1"):
        converters.write(results, target, "coco", force=True)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"x\.json: cannot be written \(No space left on device\)"):
        converters.write(dataset, target, "coco", force=True)
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_writing_into_a_new_folder(tmp_path):
    """A missing folder is made; force replaces."""
    dataset = coco.decode(document(row()))
    for _ in range(2):
        converters.write(dataset, tmp_path / "a" / "b" / "x.json", "coco", force=True)
    assert converters.read(tmp_path / "a" / "b" / "x.json") == dataset


# -------------------------------------------------------------------------------------------------- data from elsewhere


def foreign(count, **columns):
    """People of no format: by Arrow's own builders, on crowdpose_14."""
    persons = {"annotation_id": list(range(1, count + 1)), "image_id": [4] * count, **columns}
    made = {key: pa.array(value, schema.PERSONS.field(key).type) for key, value in persons.items()}
    images = {"image_id": pa.array([4], pa.int64()), "file_name": pa.array(["a.jpg"])}
    return ds.build(
        images, made, num_images=1, num_persons=count, name="mine",
        provenance={"source_format": "test"}, skeletons=[load("crowdpose_14")],
    )  # fmt: skip


POSE = {
    "skeleton": ["crowdpose_14"],
    "keypoints": [[1.0, 2.0] * 12 + [NAN] * 4],
    "visibility": [[2] * 6 + [3] * 6 + [0, 0]],
}


def test_foreign_people_get_what_coco_demands(tmp_path):
    """A category with names and 1-based edges, counts, iscrowd 0, a box from the keypoints; never an area."""
    dataset = foreign(1, **POSE)
    raw, report = coco.encode(dataset)
    (category,) = raw["categories"]
    bones = load("crowdpose_14")
    assert category == {
        "supercategory": "person", "id": 1, "name": "person", "keypoints": list(bones.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in bones.edges],
    }  # fmt: skip
    (person,) = raw["annotations"]
    assert person == {
        "keypoints": [1, 2, 2] * 12 + [0] * 6, "image_id": 4, "id": 1, "category_id": 1, "num_keypoints": 12,
        "iscrowd": 0,
        "bbox": [1, 2, 0, 0], "bbox_source": "keypoints",
    }  # fmt: skip
    assert report.losses == {"visibility unknown": 6}
    assert report.additions == {"bbox": 1, "num_keypoints": 1, "iscrowd": 1, "no area": 1}
    assert coco.encode(dataset, unknown_as="occluded")[0]["annotations"][0]["keypoints"][18:21] == [1, 2, 1]
    with pytest.raises(SchemaError, match="unknown_as 'gone'"):
        coco.encode(dataset, unknown_as="gone")
    converters.write(dataset, tmp_path / "x.json", "coco", allow_lossy=True)
    assert COCO(str(tmp_path / "x.json")).loadAnns([1]) == [person]


def test_box_from_centre_and_scale():
    """MPII's scale is person height / 200 px: the square of that side about the centre, and its source is said."""
    dataset = foreign(1, **POSE, center=[[100.0, 60.0]], scale=[0.5])
    (person,) = coco.encode(dataset)[0]["annotations"]
    assert person["bbox"] == [50, 10, 100, 100]
    assert person["bbox_source"] == "center_scale"
    read = coco.decode(coco.encode(dataset)[0])
    assert column(read, "center") == [[100, 60]]
    assert column(read, "scale") == [0.5]
    assert column(read, "bbox_source") == ["center_scale"]


def test_foreign_losses_are_counted():
    """Scores of keypoints, extras, embedded pictures, both shapes of a mask: counted by kind."""
    dataset = foreign(
        2, extras=['{"a": 1}', None], keypoint_scores=[[0.5] * 14, None], skeleton=["crowdpose_14", None],
        keypoints=[[1.0] * 28, None], visibility=[[2] * 14, None],
        segmentation=[[[1.0, 2.0]], None], rle=['{"size": [1, 1], "counts": "1"}', None],
    )  # fmt: skip
    blobs = schema.table(schema.BLOBS, 1, {
        "image_id": pa.array([4], pa.int64()), "name": pa.array(["imageData"]),
        "data": pa.array([b"x"], pa.large_binary()),
    })  # fmt: skip
    raw, report = coco.encode(ds.replace(dataset, blobs=blobs))
    assert report.losses == {"extras of people": 1, "keypoint scores": 1, "segmentation": 1, "embedded pictures": 1}
    assert raw["annotations"][0]["segmentation"] == {"size": [1, 1], "counts": "1"}
    assert [row["category_id"] for row in raw["annotations"]] == [1, 1]
    assert "keypoints" not in raw["annotations"][1]


def test_results_become_annotations():
    """Results have neither categories nor annotation ids: COCO demands both, and pycocotools loads the file."""
    rows = [{"image_id": 5, "category_id": 1, "keypoints": [1, 2, 0.5] * 17, "score": 0.25, "bbox": [0, 0, 1, 1]}] * 2
    raw, report = coco.encode(coco_results.decode(rows))
    assert [row["id"] for row in raw["annotations"]] == [1, 2]
    assert [category["keypoints"] for category in raw["categories"]] == [list(load("coco_17").keypoint_names)]
    assert raw["annotations"][0]["score"] == 0.25
    assert report.losses == {"visibility unknown": 34, "keypoint scores": 2}
    assert [image["id"] for image in raw["images"]] == [5]


def test_merged_files(real_data, tmp_path):
    """COCO and CrowdPose in one file: each person under a category with the right keypoints, read back the same."""
    one = converters.read(real_data / "coco_mmpose4" / "test_coco.json")
    two = converters.read(real_data / "crowdpose" / "example_crowdpose_val.json")
    merged, _ = merge([one, two])
    converters.write(merged, tmp_path / "x.json", "coco", allow_lossy=True)
    back = converters.read(tmp_path / "x.json")
    assert [name for name, _ in back.groups()] == ["coco_17", "crowdpose_14"]
    assert len(back) == len(one) + len(two)
    for name in ("keypoints", "visibility", "bbox", "area", "num_keypoints", "iscrowd", "image_id", "annotation_id"):
        assert schema.same(back.persons[name], merged.persons[name]), name
    loaded = COCO(str(tmp_path / "x.json"))
    assert len(loaded.anns) == len(back)
    assert sorted(loaded.getCatIds()) == [1, 2]
