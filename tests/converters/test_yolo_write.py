"""People of other formats as YOLO-pose labels: a folder that trains, and every loss by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import coco, yolo
from kpdata.errors import DestinationExists, LossyWrite, SchemaError, WriteError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton

ROW = "0 0.5 0.5 0.25 0.5 0.25 0.25 2 0.75 0.5 1 0 0 0"  # three keypoints of a person in 200 x 100 px


def folder(path: Path, files: dict[str, str], size: tuple[int, int] = (200, 100)) -> Path:
    """A data set on disk: texts, and a photograph where the text is "photo"."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if text == "photo":
            Image.new("L", size).save(path / name)
        else:
            (path / name).write_text(text)
    return path


def test_coco_people_survive(real_data: Path, tmp_path: Path) -> None:
    """COCO to a folder that trains: keypoints within 0.001 px, photographs in place, and every loss by name."""
    path = real_data / "coco_mini" / "person_keypoints_val2017.json"
    source = coco.read(path)
    with pytest.raises(LossyWrite, match="crowds: 1"):
        yolo.write(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    losses = yolo.write(source, tmp_path / "out", allow_lossy=True, images=real_data / "coco_mini" / "val2017")
    assert set(losses.losses) == {
        "crowds",
        "top-level keys",
        "category_id",
        "precision",
        "area",
        "segmentation",
        "rle",
        "ids",
        "extras of images",
    }
    assert losses.losses["crowds"] == 1
    back = yolo.read(tmp_path / "out")
    raw = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in raw["images"]}
    people = sorted((a for a in raw["annotations"] if not a["iscrowd"]), key=lambda a: names[a["image_id"]])
    triples = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
    assert np.array_equal(back.visibility, triples[..., 2])
    assert np.abs(np.nan_to_num(back.keypoints) - triples[..., :2]).max() < 1e-3
    assert np.abs(np.array(back.persons["bbox"].to_pylist()) - [a["bbox"] for a in people]).max() < 2e-3
    document = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert document["flip_idx"] == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]  # coco-pose.yaml
    assert (document["kpt_shape"], document["names"]) == ([17, 3], {0: "person"})
    assert "path" not in document  # Ultralytics would count `.` from the working directory
    for split in ("train", "val"):
        pictures = list((tmp_path / "out" / document[split]).iterdir())
        assert len(pictures) == len(raw["images"])
    assert yolo.write(back, tmp_path / "again").losses == {}
    assert yolo.read(tmp_path / "again", images=tmp_path / "out") == back


def foreign(count: int = 2, **columns: Any) -> ds.Dataset:
    """People of another format in two images of 200 x 100 px."""
    images = {
        "image_id": schema.fixed([1, 2], pa.int64()), "file_name": schema.strings(["a.jpg", "b.jpg"]),
        "width": schema.fixed([200, 200], pa.int32()), "height": schema.fixed([100, 100], pa.int32()),
        "split": schema.strings(["train", "val"]),
    }  # fmt: skip
    persons = {
        "annotation_id": schema.fixed(np.arange(count) + 1, pa.int64()),
        "image_id": schema.fixed(np.arange(count) * 2 // max(count, 1) + 1, pa.int64()),
        "skeleton": schema.constant("dog_2", count),
        "keypoints": schema.rows(np.arange(4.0 * count).reshape(count, 4) + 1),
        "visibility": schema.rows(np.tile([1, 2], (count, 1)), kind=pa.int8()),
        "bbox": schema.rows(np.tile([10.0, 20.0, 50.0, 40.0], (count, 1))),
        "bbox_source": schema.constant("annotated", count),
        "category": schema.constant("dog", count),
    }
    chosen = {key: columns.get(key, images.get(key)) for key in images}
    persons |= {key: column for key, column in columns.items() if key not in images}
    skeleton = Skeleton("dog_2", ("left_ear", "right_ear"), flip_pairs=frozenset({("left_ear", "right_ear")}))
    facts = {"source_format": "other"}
    return ds.build(
        chosen, persons, num_images=2, num_persons=count, name="other", provenance=facts, skeletons=[skeleton]
    )


def test_folder_of_another_format(tmp_path: Path) -> None:
    """labels/<split>, the right flip_idx, names, and rows in centre form."""
    report = yolo.write(foreign(), tmp_path / "out")
    assert not report
    assert (tmp_path / "out/labels/train/a.txt").read_text() == "0 0.175 0.4 0.25 0.4 0.005 0.02 1 0.015 0.04 2\n"
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text()) == {
        "train": "images/train", "val": "images/val", "names": {0: "dog"}, "kpt_shape": [2, 3], "flip_idx": [1, 0],
        "kpt_names": {0: ["left_ear", "right_ear"]},
    }  # fmt: skip
    back = yolo.read(folder(tmp_path / "out", {"images/train/a.jpg": "photo", "images/val/b.jpg": "photo"}))
    assert np.allclose(back.keypoints, foreign().keypoints, rtol=0, atol=1e-12)
    assert back.skeleton == foreign().skeleton
    assert back.images["split"].to_pylist() == ["train", "val"]


def losses_of(**columns: Any) -> LossReport:
    return yolo.encode(foreign(**columns))[1]


def test_losses_are_counted() -> None:
    """Each thing without a place is counted by name, and what is made up is an addition."""
    two = np.array([True, False])
    report = losses_of(
        iscrowd=schema.fixed(two, pa.bool_()), area=schema.fixed([1.0, 2.0], pa.float64()),
        score=schema.fixed([0.5, 0], pa.float64(), two), track_id=schema.fixed([1, 1], pa.int64()),
        split=schema.strings(["train2017", None]), extras=schema.strings([None, None]),
    )  # fmt: skip
    assert report.losses == {"crowds": 1, "area": 2, "score": 1, "track_id": 2, "split names": 1, "ids": 1}
    assert report.additions == {"split": 1, "file_name": 2, "data.yaml": 1}
    unknown = schema.rows(np.array([[3, 3], [3, 0]]), kind=pa.int8())
    assert losses_of(visibility=unknown).losses == {"visibility unknown": 3}
    assert losses_of(annotation_id=schema.fixed([7, 2], pa.int64())).losses == {"ids": 1}
    assert losses_of(keypoints=schema.rows(np.array([[1, 2, 3, 4], [1, 2, 1 / 3, 4]]))).losses == {"precision": 1}
    outside = losses_of(keypoints=schema.rows(np.array([[1.0, 2, 3, 4], [203, 2, 3, 4]])))
    assert outside.losses == {"images that training skips": 1}
    same = {"image_id": schema.fixed([1, 2], pa.int64()), "keypoints": schema.rows(np.ones((2, 4)))}
    assert losses_of(**same).losses == {}


def test_boxes_are_made_where_there_are_none() -> None:
    """A person without box gets the extent of the keypoints; one without either is left out; both are counted."""
    none = schema.rows(np.zeros((2, 4)), np.array([False, False]))
    absent = schema.rows(np.array([[1, 2], [0, 0]]), kind=pa.int8())
    raw, report = yolo.encode(foreign(bbox=none, bbox_source=schema.strings([None, None]), visibility=absent))
    assert report.losses["people without a box"] == 1
    assert report.additions["bbox"] == 1
    assert raw["files"][0]["text"] == "0 0.01 0.03 0.01 0.02 0.005 0.02 1 0.015 0.04 2\n"  # from 1, 2 to 3, 4
    assert raw["files"][1]["text"] == ""


def test_people_without_labelled_keypoints_stay() -> None:
    """A box with all keypoints 0 is a row that Ultralytics takes (`verify_image_label` looks at ranges only)."""
    data = foreign(
        visibility=schema.rows(np.zeros((2, 2)), kind=pa.int8()), keypoints=schema.rows(np.full((2, 4), np.nan))
    )
    raw, report = yolo.encode(data)
    assert not report
    assert raw["files"][0]["text"] == "0 0.175 0.4 0.25 0.4 0 0 0 0 0 0\n"


def test_unknown_as() -> None:
    """Unknown visibility becomes 2, or 1 where asked for."""
    data = foreign(visibility=schema.rows(np.full((2, 2), 3), kind=pa.int8()))
    assert yolo.encode(data)[0]["files"][0]["text"].split()[7] == "2"
    assert yolo.encode(data, unknown_as="occluded")[0]["files"][0]["text"].split()[7] == "1"
    with pytest.raises(SchemaError, match="expected 'visible' or 'occluded'"):
        yolo.encode(data, unknown_as="hidden")


def test_unknown_twins_are_left_out() -> None:
    """No identity is invented: without twins there is no flip_idx, and the report says so."""
    data = replace(foreign(), skeletons={"dog_2": Skeleton("dog_2", ("left_ear", "right_ear"))})
    raw, report = yolo.encode(data)
    assert "flip_idx" not in raw["config"]
    assert report.additions["flip_idx"] == 1


def test_sizes_come_from_the_photographs(tmp_path: Path) -> None:
    """Without sizes the rows cannot be written; --images reads them, and puts the photographs in place."""
    none = schema.fixed([0, 0], pa.int32(), np.array([False, False]))
    data = foreign(width=none, height=none)
    with pytest.raises(SchemaError, match=r"image 1 \(a\.jpg\): no width and height.*\(2 such images\)\. --images"):
        yolo.write(data, tmp_path / "out")
    folder(tmp_path / "photos", {"a.jpg": "photo", "b.jpg": "photo"})
    yolo.write(data, tmp_path / "out", images=tmp_path / "photos")
    assert yolo.read(tmp_path / "out").images["file_name"].to_pylist() == ["images/train/a.jpg", "images/val/b.jpg"]


def test_names_stay_below_the_folder_and_apart(tmp_path: Path) -> None:
    """`..` never leaves the folder; labels of a.jpg and a.png do not share a file."""
    data = foreign(file_name=schema.strings(["../../a.jpg", "a.png"]), split=schema.strings([None, None]))
    raw, _ = yolo.encode(data)
    assert [e["label"] for e in raw["files"]] == ["labels/train/2/a.txt", "labels/train/a.txt"]
    assert [e["image"] for e in raw["files"]] == ["images/train/2/a.png", "images/train/a.jpg"]


def test_existing_folder(tmp_path: Path) -> None:
    """Photographs in the folder survive a forced write, and older labels are told of."""
    target = folder(tmp_path / "set", {"images/train/a.jpg": "photo", "labels/train/old.txt": ROW})
    with pytest.raises(DestinationExists, match="--force"):
        yolo.write(foreign(), target)
    report = yolo.write(foreign(), target, force=True)
    assert report.additions["older label files"] == 1
    assert (target / "images/train/a.jpg").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="expected a folder"):
        yolo.write(foreign(), tmp_path / "file", force=True)


def test_two_skeletons_are_refused() -> None:
    """Rows have one number of keypoints: two skeletons are named, with what to do."""
    skeletons = {"dog_2": foreign().skeleton, "cat_3": Skeleton("cat_3", ("a", "b", "c"))}
    xy, flags = np.arange(10.0), np.ones(5)
    lengths = np.array([2, 3])
    data = foreign()
    columns = {name: data.persons[name] for name in data.persons.schema.names}
    columns |= {
        "skeleton": schema.strings(["dog_2", "cat_3"]), "keypoints": schema.lists(xy, 2 * lengths),
        "visibility": schema.lists(flags, lengths, kind=pa.int8()), "category": schema.strings(["dog", "cat"]),
    }  # fmt: skip
    mixed = replace(data, persons=schema.table(schema.PERSONS, 2, columns), skeletons=skeletons)
    with pytest.raises(SchemaError, match=r"dog_2 \(2\), cat_3 \(3\).*--skeleton"):
        yolo.encode(mixed)
