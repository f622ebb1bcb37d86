"""People of other formats as LabelMe files: LabelMe's own keys, every loss by name, and no file in the way."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import coco, labelme
from kpdata.errors import (
    DestinationExists,
    LossyWrite,
    SchemaError,
    WriteError,
)
from kpdata.skeleton import Skeleton


def shape(label: str, *points: list[float], group: Any = 1, kind: str | None = None, **more: Any) -> dict[str, Any]:
    kind = kind or {1: "point", 2: "rectangle"}.get(len(points), "polygon")
    return {"label": label, "points": list(points), "group_id": group, "shape_type": kind, "flags": {}, **more}


def document(*shapes: Any, **more: Any) -> dict[str, Any]:
    head = {"version": "5.5.0", "flags": {}, "shapes": list(shapes)}
    return {**head, "imagePath": "a.jpg", "imageData": None, "imageHeight": 100, "imageWidth": 200, **more}


def decoded(*shapes: Any, more: dict[str, Any] | None = None, **options: Any) -> ds.Dataset:
    return labelme.decode({"files": {"a.json": document(*shapes, **(more or {}))}}, **options)


def written(dataset: ds.Dataset) -> dict[str, Any]:
    documents: dict[str, Any] = labelme.encode(dataset)[0]["files"]
    return documents


BOX = shape("person", [10, 10], [50, 90])
NOSE = shape("nose", [20.5, 21.25])


def foreign(count: int = 2, **columns: pa.Array) -> ds.Dataset:
    """Two images, one person each, of another format."""
    k = 2
    xy = np.arange(count * k * 2, dtype=float).reshape(count, k * 2) + 1
    persons = {
        "annotation_id": schema.fixed(np.arange(count) + 1, pa.int64()),
        "image_id": schema.fixed(np.arange(count) % 2 + 1, pa.int64()),
        "skeleton": schema.constant("dog_2", count),
        "keypoints": schema.rows(xy),
        "visibility": schema.rows(np.tile([1, 2], (count, 1)), kind=pa.int8()),
        "bbox": schema.rows(np.tile([1.0, 2.0, 30.0, 40.0], (count, 1))),
        "bbox_source": schema.constant("annotated", count),
        "category": schema.constant("dog", count),
        **columns,
    }
    images = {"image_id": schema.fixed([1, 2], pa.int64()), "file_name": schema.strings(["a/x.jpg", "b/x.jpg"])}
    facts = {"source_format": "other"}
    skeleton = Skeleton("dog_2", ("left_ear", "right_ear"), flip_pairs=frozenset({("left_ear", "right_ear")}))
    return ds.build(
        images, persons, num_images=2, num_persons=count, name="other", provenance=facts, skeletons=[skeleton]
    )


def test_foreign_people_as_labelme_writes_them() -> None:
    """Rectangle and points of one group_id with all keys of LabelMe 5; imagePath counts from the JSON file."""
    raw, losses = labelme.encode(foreign())
    assert not losses
    assert list(raw["files"]) == ["a/x.json", "b/x.json"]
    first = raw["files"]["a/x.json"]
    assert {k: v for k, v in first.items() if k != "shapes"} == {
        "version": "5.5.0", "flags": {}, "imagePath": "x.jpg", "imageData": None,
        "imageHeight": None, "imageWidth": None,
    }  # fmt: skip
    rest = {"group_id": 0, "description": "", "mask": None}
    assert first["shapes"] == [
        {"label": "dog", "points": [[1, 2], [31, 42]], "shape_type": "rectangle", "flags": {}, **rest},
        {"label": "left_ear", "points": [[1, 2]], "shape_type": "point", "flags": {"occluded": True}, **rest},
        {"label": "right_ear", "points": [[3, 4]], "shape_type": "point", "flags": {"occluded": False}, **rest},
    ]
    assert raw["pose_classes"]["classes"] == {"dog": ["left_ear", "right_ear"]}


def test_coco_people_survive(real_data: Path, tmp_path: Path) -> None:
    """COCO's people keep keypoints, visibility, box and polygons; the report names what LabelMe cannot hold."""
    source = coco.read(real_data / "coco_mini" / "person_keypoints_val2017.json")
    with pytest.raises(LossyWrite, match="area: 118"):
        labelme.write(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    losses = labelme.write(source, tmp_path / "out", allow_lossy=True)
    assert {"area", "ids", "rle", "iscrowd", "category_id", "extras of images", "top-level keys"} == set(losses.losses)
    back = labelme.read(tmp_path / "out")
    raw = json.loads((real_data / "coco_mini" / "person_keypoints_val2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in raw["images"]}
    by_name: dict[str, list[Any]] = {}
    for annotation in raw["annotations"]:
        by_name.setdefault(names[annotation["image_id"]], []).append(annotation)
    expected = [annotation for name in sorted(by_name) for annotation in by_name[name]]
    assert len(back) == len(expected) == 118
    triples = np.array([annotation["keypoints"] for annotation in expected], float).reshape(118, 17, 3)
    assert np.array_equal(back.visibility, triples[..., 2])
    assert np.array_equal(np.nan_to_num(back.keypoints), triples[..., :2] * (triples[..., 2:] > 0))
    boxes = np.array(back.persons["bbox"].to_pylist())
    assert np.abs(boxes - [annotation["bbox"] for annotation in expected]).max() < 1e-9
    polygons = [a["segmentation"] if isinstance(a["segmentation"], list) else None for a in expected]
    assert back.persons["segmentation"].to_pylist() == polygons


def test_scores_are_kept_and_the_rest_is_counted() -> None:
    """X-AnyLabeling's score key holds scores; columns without a key are counted by name."""
    data = foreign(
        score=schema.fixed([0.5, 0.25], pa.float64()), keypoint_scores=schema.rows(np.array([[0.1, 0.2], [0.3, 0.4]])),
        area=schema.fixed([1.0, 2.0], pa.float64()), track_id=schema.fixed([1, 0], pa.int64(), np.array([True, False])),
        iscrowd=schema.fixed([True, False], pa.bool_()),
    )  # fmt: skip
    raw, losses = labelme.encode(data)
    assert losses.losses == {"area": 2, "track_id": 1, "iscrowd": 1}
    back = labelme.decode(raw)
    assert back.persons["score"].to_pylist() == [0.5, 0.25]
    assert back.keypoint_scores.tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_unknown_beside_known_visibility_is_counted() -> None:
    """Unknown visibility is silence: alone it comes back, beside marks it would be read as visible."""
    alone = foreign(visibility=schema.rows(np.array([[3, 3], [3, 0]]), kind=pa.int8()))
    raw, losses = labelme.encode(alone)
    assert "visibility unknown" not in losses.losses
    assert labelme.decode(raw).visibility.tolist() == [[3, 3], [3, 0]]
    _, losses = labelme.encode(foreign(visibility=schema.rows(np.array([[3, 3], [3, 1]]), kind=pa.int8())))
    assert losses.losses["visibility unknown"] == 3


def test_names_stay_below_the_folder_and_apart() -> None:
    """`..` never leaves the folder, absolute names become stems, equal stems go to a sub-folder."""
    images = {
        "image_id": schema.fixed([1, 2, 3, 4], pa.int64()),
        "file_name": schema.strings(["../../x.jpg", "/etc/y.png", "C:\\z\\y.jpg", None]),
    }
    data = ds.build(images, {}, num_images=4, num_persons=0, name="other", provenance={"source_format": "other"})
    raw, losses = labelme.encode(data)
    assert list(raw["files"]) == ["2/y.json", "image_4.json", "x.json", "y.json"]
    assert losses.additions["file in a sub-folder"] == 1
    assert raw["files"]["image_4.json"]["imagePath"] == ""  # LabelMe refuses null
    outside = labelme.decode({"files": {"../a.JSON": document(), "sub/b.JSON": document()}})
    assert list(written(outside)) == ["a.JSON", "sub/b.JSON"]


def test_existing_folder_keeps_what_is_in_it(tmp_path: Path) -> None:
    """Photographs and notes beside the files survive a forced write; without force nothing is touched."""
    target = tmp_path / "photos"
    target.mkdir()
    (target / "a.jpg").write_bytes(b"photo")
    with pytest.raises(DestinationExists, match="--force"):
        labelme.write(decoded(BOX, NOSE), target)
    labelme.write(decoded(BOX, NOSE), target, force=True)
    assert sorted(path.name for path in target.iterdir()) == ["a.jpg", "a.json"]
    assert json.loads((target / "a.json").read_text()) == document(BOX, NOSE)


def test_single_file(tmp_path: Path) -> None:
    """One image goes to a .json name; two images are refused, and so is a folder's name that is a file."""
    labelme.write(decoded(BOX, NOSE), tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text()) == document(BOX, NOSE)
    with pytest.raises(SchemaError, match=r"2 images, a \.json file of LabelMe holds one"):
        labelme.write(foreign(), tmp_path / "two.json")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="is a file, expected a folder"):
        labelme.write(decoded(BOX, NOSE), tmp_path / "file", force=True)


@st.composite
def people(draw: st.DrawFn) -> ds.Dataset:
    """People of another format as LabelMe can hold them: in file order, labelled or absent, with a box."""
    count, k = draw(st.integers(1, 4)), 2
    grid = st.integers(0, 800).map(lambda n: n / 8)  # exact sums: x + w - x is w
    xy = np.array(draw(st.lists(grid, min_size=4 * count, max_size=4 * count))).reshape(count, k, 2)
    alphabet = draw(st.sampled_from([(0, 1, 2), (0, 3)]))
    flags = np.array(
        draw(st.lists(st.sampled_from(alphabet), min_size=2 * count, max_size=2 * count)), np.int8
    ).reshape(count, k)
    xy[flags == 0] = np.nan
    box = np.array(draw(st.lists(grid, min_size=4 * count, max_size=4 * count))).reshape(count, 4)
    data = foreign(
        count,
        bbox=schema.rows(box),
        keypoints=schema.rows(xy.reshape(count, 4)),
        visibility=schema.rows(flags, kind=pa.int8()),
    )
    image_id = np.sort(np.arange(count) % 2 + 1)
    persons = data.persons.set_column(1, schema.PERSONS.field("image_id"), schema.fixed(image_id, pa.int64()))
    return replace(data, persons=persons)


@given(people())
def test_round_trip_of_other_people(dataset: ds.Dataset) -> None:
    """Hidden keypoints stay hidden, unknown ones unknown, absent ones absent, with boxes, names and order."""
    raw, losses = labelme.encode(dataset)
    assert not losses
    back = labelme.decode(raw)
    for name in ("annotation_id", "image_id", "category", "skeleton", "keypoints", "visibility", "bbox", "bbox_source"):
        assert schema.same(back.persons[name], dataset.persons[name]), name
    assert schema.same(back.images["file_name"], dataset.images["file_name"])
    assert all(back.skeletons[name] == skeleton for name, skeleton in dataset.skeletons.items())
    assert labelme.encode(back)[0]["files"] == raw["files"]


def test_changed_values_are_written() -> None:
    """A moved keypoint and a renamed file are written; every other word of the file stays."""
    extra = {"attributes": {"a": 1}, "locked": True, "description": None}
    source = document(
        shape("car", [1, 1], [5, 5], group=None),
        BOX,
        {**NOSE, **extra},
        shape("left_eye", [25, 20]),
        other=[1],
        lineColor=[0, 255, 0],
    )
    found = labelme.decode({"files": {"a.json": source}})
    xy = found.keypoints.copy()
    xy[0, 0] = [33, 44]
    columns = {name: found.persons[name] for name in found.persons.schema.names}
    columns["keypoints"] = schema.rows(xy.reshape(1, -1))
    visibility = found.visibility.copy()
    visibility[0, 1], visibility[0, 2] = 0, 1
    xy[0, 2] = [7, 8]
    columns |= {"keypoints": schema.rows(xy.reshape(1, -1)), "visibility": schema.rows(visibility, kind=pa.int8())}
    changed = replace(found, persons=schema.table(schema.PERSONS, 1, columns))
    back = written(changed)["a.json"]
    expected = copy.deepcopy(source)
    expected["shapes"][2]["points"] = [[33, 44]]
    expected["shapes"][3] = {
        "label": "right_eye", "points": [[7, 8]], "group_id": 1, "description": "", "shape_type": "point",
        "flags": {"occluded": True}, "mask": None,
    }  # fmt: skip
    assert back == expected


def test_removed_people_leave_with_their_shapes() -> None:
    """A selection writes the remaining people and all shapes that are no one's."""
    other = shape("car", [1, 1], [5, 5], group=None)
    found = decoded(BOX, NOSE, other, shape("person", [5, 5], [9, 9], group=2), shape("nose", [6, 6], group=2))
    left = written(found.select(persons=np.array([1])))["a.json"]["shapes"]
    assert [(s["label"], s["group_id"]) for s in left] == [("car", None), ("person", 2), ("nose", 2)]
