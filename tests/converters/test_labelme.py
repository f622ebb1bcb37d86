"""LabelMe: files come back as they were, people are read by the rule, and every odd file ends in a sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpdata import dataset as ds
from kpdata.converters import detect, labelme
from kpdata.converters._source import Source
from kpdata.errors import (
    FormatError,
    KpdataError,
    SchemaError,
    SkeletonError,
)
from kpdata.skeleton import load


def shape(label: str, *points: list[float], group: Any = 1, kind: str | None = None, **more: Any) -> dict[str, Any]:
    kind = kind or {1: "point", 2: "rectangle"}.get(len(points), "polygon")
    return {"label": label, "points": list(points), "group_id": group, "shape_type": kind, "flags": {}, **more}


def document(*shapes: Any, **more: Any) -> dict[str, Any]:
    head = {"version": "5.5.0", "flags": {}, "shapes": list(shapes)}
    return {**head, "imagePath": "a.jpg", "imageData": None, "imageHeight": 100, "imageWidth": 200, **more}


def decoded(*shapes: Any, more: dict[str, Any] | None = None, **options: Any) -> ds.Dataset:
    return labelme.decode({"files": {"a.json": document(*shapes, **(more or {}))}}, **options)


def codes(dataset: ds.Dataset) -> list[str]:
    return [finding["code"] for finding in dataset.datasets["labelme"].get("findings", ())]


def written(dataset: ds.Dataset) -> dict[str, Any]:
    documents: dict[str, Any] = labelme.encode(dataset)[0]["files"]
    return documents


BOX = shape("person", [10, 10], [50, 90])
NOSE = shape("nose", [20.5, 21.25])
EYE = shape("left_eye", [25, 20])


# ----------------------------------------------------------------------------------------------------------- real data

REAL = ["xanylabeling_human", "triangle_v5.1.1", "voc_groupid_polygons_v4.0.0", "primitives_v5.7.0", "."]


@pytest.mark.parametrize("group_by", ["group", "box"])
@pytest.mark.parametrize("folder", REAL)
def test_real_files_come_back_equal(real_data: Path, tmp_path: Path, folder: str, group_by: str) -> None:
    """Nothing is lost: every key of every version is written back as it was, in its order, saved in between or not."""
    source = real_data / "labelme" / folder
    found = labelme.read(source, group_by=group_by)
    found.save(tmp_path / "saved.kp")
    again = ds.open_dataset(tmp_path / "saved.kp")
    assert again == found
    report = labelme.write(again, tmp_path / "out")
    assert not report
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")}
    originals = {p: json.loads(p.read_text()) for p in source.rglob("*.json")}
    originals = {p: d for p, d in originals.items() if isinstance(d, dict) and "shapes" in d}
    assert names == {path.relative_to(source).as_posix() for path in originals}
    for path, expected in originals.items():
        back = json.loads((tmp_path / "out" / path.relative_to(source)).read_text())
        assert back == expected
        assert list(back) == list(expected)
        assert [list(s) for s in back["shapes"]] == [list(s) for s in expected["shapes"]]


def test_x_anylabeling_person(real_data: Path) -> None:
    """The photographed person: a four-corner box, 16 named points with scores, the right ear absent."""
    folder = real_data / "labelme" / "xanylabeling_human"
    found = labelme.read(folder / "human-pose.json")
    raw = json.loads((folder / "human-pose.json").read_text())
    points = {s["label"]: s for s in raw["shapes"] if s["shape_type"] == "point"}
    box = np.array(raw["shapes"][0]["points"])
    assert len(found) == 1
    assert found.skeleton == load("coco_17")
    for column, name in enumerate(load("coco_17").keypoint_names):
        if name in points:
            assert found.keypoints[0, column].tolist() == points[name]["points"][0]
            assert found.keypoint_scores[0, column] == points[name]["score"]
        else:
            assert name == "right_ear"
            assert np.isnan(found.keypoints[0, column]).all()
    # no shape of it says anything of occlusion: labelled keypoints are of unknown visibility
    assert set(found.visibility[0].tolist()) == {0, 3}
    assert found.persons["bbox"][0].as_py() == [*box.min(0).tolist(), *(box.max(0) - box.min(0)).tolist()]
    assert found.persons["score"][0].as_py() == raw["shapes"][0]["score"]
    assert found.images["file_name"][0].as_py() == "human-pose.jpeg"


def test_triangles_by_containment(real_data: Path) -> None:
    """Without group_id, points go to the box around them, as the Ultralytics rows of the same file say."""
    folder = real_data / "labelme" / "triangle_v5.1.1"
    found = labelme.read(folder, group_by="box")
    rows = np.array([line.split() for line in (folder / "DSC_0281.txt").read_text().splitlines()], float)
    expected = rows[:, 5:].reshape(2, 3, 3)[..., :2] * [5568, 3712]
    assert found.skeleton.keypoint_names == ("angle_30", "angle_60", "angle_90")
    # the rows were written from another labelling of the photograph: within 50 of its 5,568 px
    assert np.abs(np.sort(found.keypoints, axis=0) - np.sort(expected, axis=0)).max() < 50
    grouped = labelme.read(folder)
    assert len(grouped) == 0
    assert "--group-by box" in next(
        f["message"] for f in grouped.datasets["labelme"]["findings"] if "file" in f and f["code"] == "ungrouped-points"
    )


def test_image_data_is_kept_as_text(real_data: Path) -> None:
    """An embedded picture is the base64 text of the file, byte for byte, and in no row of the images."""
    path = real_data / "labelme" / "embedded_imagedata_v4.0.0.json"
    found = labelme.read(path)
    text = json.loads(path.read_text())["imageData"]
    assert found.blobs.to_pylist() == [{"image_id": 1, "name": "imageData", "data": text.encode()}]
    assert text not in found.images["extras"][0].as_py()


@pytest.mark.parametrize("path", [*REAL, "embedded_imagedata_v4.0.0.json", "xanylabeling_human/human-pose.json"])
def test_detected_by_content(real_data: Path, path: str) -> None:
    """Each of the real folders and files is seen to be LabelMe's."""
    assert detect(real_data / "labelme" / path)[0] == "labelme"


@pytest.mark.parametrize(
    "path",
    ["labelme/xanylabeling_coco_export", "lsp", "openpose", "pitfalls", "labelme/triangle_v5.1.1/coco_sample.json"],
)
def test_others_are_not_detected(real_data: Path, path: str) -> None:
    """Folders and files of other formats, or of none, are not LabelMe's."""
    assert labelme.detect(Source(real_data / path)) is None


# ------------------------------------------------------------------------------------------------------- reading rule


def test_corners_in_any_order() -> None:
    """A box drawn from the bottom right is the same box, and comes back as drawn."""
    found = decoded(shape("person", [50.1, 90.3], [10.7, 10.9]), NOSE)
    assert found.persons["bbox"][0].as_py() == [10.7, 10.9, 50.1 - 10.7, 90.3 - 10.9]
    assert written(found)["a.json"]["shapes"][0]["points"] == [[50.1, 90.3], [10.7, 10.9]]


def test_two_people_by_group_id() -> None:
    """Points of one group_id are one person; the label of the group's rectangle is the category."""
    found = decoded(NOSE, shape("nose", [60, 20], group=2), shape("player", [55, 5], [99, 99], group=2), BOX)
    assert found.persons["category"].to_pylist() == ["person", "player"]
    assert found.keypoints[:, 0].tolist() == [[20.5, 21.25], [60, 20]]
    assert found.persons["bbox"].to_pylist() == [[10, 10, 40, 80], [55, 5, 44, 94]]


def test_box_without_points() -> None:
    """A rectangle labelled as people are is a person without keypoints; any other rectangle is not."""
    found = decoded(
        BOX, NOSE, shape("person", [60, 10], [90, 90], group=None), shape("car", [1, 1], [9, 9], group=None)
    )
    assert len(found) == 2
    assert found.visibility[1].tolist() == [0] * 17
    assert found.persons["bbox"][1].as_py() == [60, 10, 30, 80]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"flags": {"occluded": True}}, 1),
        ({"flags": {"occluded": False}, "description": "1", "difficult": True}, 2),
        ({"label": "nose_occluded"}, 1),
        ({"label": "nose_occluded", "flags": {"occluded": False}}, 2),
        ({"description": "1"}, 1),
        ({"description": "occluded"}, 1),
        ({"description": "2"}, 2),
        ({"description": "2", "difficult": True}, 2),
        ({"difficult": True}, 1),
        ({"difficult": False}, 3),
        ({"description": "a note"}, 3),
        ({}, 3),
    ],
)
def test_occlusion(own: dict[str, Any], expected: int) -> None:
    """Flags win over suffix over description over difficult; silence in the whole source is unknown."""
    found = decoded(BOX, {**NOSE, **own})
    assert found.visibility[0, 0] == expected
    assert written(found)["a.json"] == document(BOX, {**NOSE, **own})


def test_silence_beside_a_mark_is_visible() -> None:
    """Where one keypoint of the source is marked occluded, the others are visible, in other files too."""
    marked = document(BOX, {**NOSE, "flags": {"occluded": True}})
    found = labelme.decode({"files": {"a.json": marked, "b.json": document(BOX, NOSE, EYE, imagePath="b.jpg")}})
    assert found.visibility[:, :2].tolist() == [[1, 0], [2, 2]]


def test_suffix_is_configurable() -> None:
    """`eye-right-occluded` of one guide is `occluded_suffix="-occluded"`."""
    found = decoded(BOX, NOSE, shape("right-eye-occluded", [5, 6]), occluded_suffix="-occluded")
    assert found.visibility[0, :3].tolist() == [2, 0, 1]
    assert written(found)["a.json"]["shapes"][2]["label"] == "right-eye-occluded"


def test_findings() -> None:
    """Each doubtful thing is reported, and what is not used comes back untouched."""
    shapes = [
        BOX, NOSE, shape("nose", [1, 2]), shape("left_eye", [0, 0]),
        shape("hat", [3, 3]), shape("person", [0, 0], [9, 9]),
        shape("nose", [7, 7], group=5), shape("nose", [8, 8], group=None), shape("left_ear", [4, 4], group=[1]),
        shape("person", *[[i, i * i] for i in range(17)], group=None), {"points": []},
        shape("nose", group=1, kind="point"),
    ]  # fmt: skip
    found = decoded(*shapes, skeleton="coco_17")
    assert sorted(codes(found)) == sorted(
        ["bad-group-id", "bad-shape", "bad-shape", "ungrouped-points", "several-boxes", "group-without-box",
         "duplicate-keypoint", "keypoint-at-origin", "unknown-keypoint", "polygon-like-a-pose"]
    )  # fmt: skip
    assert found.persons["bbox_source"].to_pylist() == ["annotated", "keypoints"]
    assert found.persons["bbox"][1].as_py() == [7, 7, 0, 0]
    assert written(found)["a.json"]["shapes"] == shapes


def test_point_in_two_boxes_goes_to_the_smaller() -> None:
    """Containment is reported where it is ambiguous; a point in no box belongs to no one."""
    big, small = shape("person", [0, 0], [100, 100], group=None), shape("person", [10, 10], [30, 30], group=None)
    found = decoded(
        big, small, shape("nose", [20, 20], group=None), shape("nose", [150, 50], group=None), group_by="box"
    )
    assert codes(found) == ["ungrouped-points", "ambiguous-points"]
    assert found.visibility[:, 0].tolist() == [0, 3]


def test_polygons_of_the_group_are_the_segmentation() -> None:
    """A polygon with the person's group_id and label is the person's outline; others stay what they are."""
    outline, other = shape("person", [1, 2], [3, 4], [5, 6]), shape("shirt", [1, 2], [3, 4], [5, 6])
    found = decoded(BOX, NOSE, outline, other, shape("person", [1, 2], [3, 4], [5, 6], group=None))
    assert found.persons["segmentation"].to_pylist() == [[[1, 2, 3, 4, 5, 6]]]


# ---------------------------------------------------------------------------------------------------------- skeletons


def test_pose_classes_beside_the_files(tmp_path: Path) -> None:
    """pose_classes.yaml gives order and number of keypoints, and comes back with the folder."""
    classes = {"has_visible": True, "classes": {"person": ["tail", "nose"], "horse": ["hoof_l", "hoof_r", "mane"]}}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "pose_classes.yaml").write_text(yaml.safe_dump(classes))
    horse = [shape("horse", [0, 0], [9, 9], group=2), shape("mane", [4, 4], group=2)]
    (tmp_path / "in" / "a.json").write_text(json.dumps(document(BOX, NOSE, *horse)))
    found = labelme.read(tmp_path / "in")
    assert [found.skeletons[n].keypoint_names for n in found.persons["skeleton"].to_pylist()] == [
        ("tail", "nose"), ("hoof_l", "hoof_r", "mane")
    ]  # fmt: skip
    assert found.persons["visibility"].to_pylist() == [[0, 3], [0, 0, 3]]
    labelme.write(found, tmp_path / "out")
    assert yaml.safe_load((tmp_path / "out" / "pose_classes.yaml").read_text()) == classes
    assert labelme.read(tmp_path / "out") == found


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["nose", "left_eye"], "coco_17"),
        (["LShoulder", "right-knee"], "coco_17"),
        (list(reversed(load("mpii_16").keypoint_names)), "mpii_16"),
        (["nose", "tail"], "person_2"),
        (["nose", "neck"], "person_2"),  # several built-ins have both, and their necks differ
    ],
)
def test_skeleton_of_the_labels(labels: list[str], name: str) -> None:
    """COCO first, then the built-in with exactly these keypoints, else a skeleton of the labels in their order."""
    found = decoded(BOX, *[shape(label, [i, i + 1]) for i, label in enumerate(labels)])
    assert found.skeleton.name == name
    if name == "person_2":
        assert found.skeleton.keypoint_names == tuple(labels)
    assert codes(found) == []


def test_twins_of_own_labels() -> None:
    """left/right labels are twins where every sided one has one."""
    found = decoded(BOX, *[shape(label, [1, 2]) for label in ("left_horn", "right_horn", "tail")])
    assert found.skeleton.flip_index().tolist() == [1, 0, 2]
    found = decoded(BOX, *[shape(label, [1, 2]) for label in ("left_horn", "tail")])
    assert found.skeleton.flip_pairs is None


# ---------------------------------------------------------------------------------------------------------- file names


@pytest.mark.parametrize(
    ("path", "image_path", "expected"),
    [
        ("a.json", "sub\\фото 1.jpg", "sub/фото 1.jpg"),
        ("sub/a.json", "a.jpg", "sub/a.jpg"),
        ("sub/a.json", "..\\photos\\a.jpg", "photos/a.jpg"),
        ("a.json", "../a.jpg", "../a.jpg"),
        ("a.json", "/data/a.jpg", "/data/a.jpg"),
        ("a.json", "C:\\data\\a.jpg", "C:/data/a.jpg"),
        ("a.json", "", None),
        ("a.json", None, None),
        ("a.json", "\udce9.jpg", "?.jpg"),
    ],
)
def test_image_path(tmp_path: Path, path: str, image_path: str | None, expected: str | None) -> None:
    """file_name has `/` and counts from the source's folder; the file gets its own spelling back."""
    raw = {"files": {path: document(BOX, NOSE, imagePath=image_path)}}
    found = labelme.decode(raw)
    assert found.images["file_name"][0].as_py() == expected
    assert written(found) == raw["files"]
    found.save(tmp_path / "x.kp")
    assert written(ds.open_dataset(tmp_path / "x.kp")) == raw["files"]


def test_sizes_absent_or_null(tmp_path: Path) -> None:
    """Old files have no size: it stays unknown, unless the photographs are named."""
    from PIL import Image

    old = {key: value for key, value in document(BOX, NOSE).items() if key not in ("imageHeight", "imageWidth")}
    raw = {"files": {"a.json": old, "b.json": document(imageHeight=None, imageWidth=None, imagePath="b.jpg")}}
    found = labelme.decode(raw)
    assert found.images["width"].null_count == 2
    assert written(found) == raw["files"]
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.json").write_text(json.dumps(old))
    turned = Image.new("L", (30, 20))
    exif = turned.getexif()
    exif[274] = 6  # rotated by 90 degrees: LabelMe shows it as 20 x 30
    turned.save(tmp_path / "a.jpg", exif=exif)
    sized = labelme.read(tmp_path / "json", images=tmp_path)
    assert (sized.images["width"][0].as_py(), sized.images["height"][0].as_py()) == (20, 30)
    assert labelme.encode(sized)[0]["files"]["a.json"]["imageWidth"] == 20


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shapes": [shape("nose", ["12", 3])]}, r"a\.json: shape 1 \('nose'\): 'points' holds text '12'"),
        (
            {"shapes": [shape("person", "12", [1, 2], kind="rectangle")]},
            r"shape 1 \('person'\): 'points' holds text '12'",
        ),
        ({"imageWidth": "200"}, r"a\.json: 'imageWidth' is '200', expected a whole number"),
        ({"imageHeight": 2.5}, r"'imageHeight' is '2\.5', expected a whole number"),
        ({"imageHeight": 2**31}, "'imageHeight' is '2147483648', expected a whole number"),
        ({"shapes": None}, "no list 'shapes'"),
    ],
)
def test_refused_with_file_and_field(more: dict[str, Any], message: str) -> None:
    """What the schema cannot hold is refused by file, shape and field."""
    with pytest.raises(FormatError, match=message):
        labelme.decode({"files": {"a.json": document(**more)}}, source="folder")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            json.dumps(document(shape("nez_caché", [1, 2]))).replace("\\u00e9", "é").encode("cp1252"),
            "0xe9 at position .* is not UTF-8.*cp1252 or gbk",
        ),
        (json.dumps(document(NOSE)).encode()[:-9], "not valid JSON"),
        (b"", "is empty"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, message: str) -> None:
    """Another encoding, a cut file and an empty one are named with what to do, alone and in a folder."""
    (tmp_path / "bad.json").write_bytes(data)
    for source in (tmp_path / "bad.json", tmp_path):
        with pytest.raises(FormatError, match=f"bad.json: .*{message}"):
            labelme.read(source)


def test_other_refusals(tmp_path: Path) -> None:
    """Unknown options and skeletons, a folder without files, a damaged pose_classes.yaml."""
    with pytest.raises(SchemaError, match="expected 'group' or 'box'"):
        decoded(group_by="order")
    with pytest.raises(SkeletonError, match="coco_18"):
        decoded(BOX, skeleton="coco_18")
    with pytest.raises(FormatError, match="no LabelMe file in this folder"):
        labelme.read(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(document(BOX)))
    for text, message in (
        ("classes: [", "not YAML"),
        ("a: 1", "no table 'classes'"),
        ("classes: {p: 3}", "list of keypoint names"),
    ):
        (tmp_path / "pose_classes.yaml").write_text(text)
        with pytest.raises(FormatError, match=message):
            labelme.read(tmp_path)
    (tmp_path / "pose_classes.yaml").unlink()
    with pytest.raises(FormatError, match="--images"):
        labelme.read(tmp_path, images=tmp_path / "none")


# --------------------------------------------------------------------------------------------------------- properties

LABELS = ["person", "nose", "nose_occluded", "left_eye", "tail", "__ignore__", "", "x\udc80"]
NUMBERS = st.one_of(st.integers(-5, 300), st.floats(-5, 300), st.just(0.1), st.integers(2**60, 2**70))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda x: st.lists(x, max_size=2))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kind, count = draw(st.sampled_from([("point", 1), ("rectangle", 2), ("rectangle", 4), ("polygon", 3), ("line", 2)]))
    points = draw(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=count, max_size=count))
    found = shape(draw(st.sampled_from(LABELS)), *points, group=draw(st.sampled_from([None, 1, 2, "a"])), kind=kind)
    optional = {
        "flags": st.sampled_from([{}, None, {"occluded": True}, {"occluded": False, "x": True}]),
        "description": st.sampled_from([None, "", "1", "visible"]),
        "score": st.sampled_from([None, 0.5, 1, "high", True]),
        "difficult": st.booleans(), "more": JSON,
    }  # fmt: skip
    return {**found, **draw(st.fixed_dictionaries({}, optional=optional))}


@given(
    st.lists(st.lists(shapes(), max_size=8), min_size=1, max_size=3), st.sampled_from(["group", "box"]),
    st.dictionaries(st.text(max_size=3), JSON, max_size=2),
)  # fmt: skip
def test_any_files_come_back(files: list[list[Any]], group_by: str, more: dict[str, Any]) -> None:
    """Nothing is lost: whatever the shapes are and say, the files are written back equal."""
    more = {key: value for key, value in more.items() if key not in ("shapes", "imagePath")}
    raw = {"files": {f"{i}.json": document(*found, **more) for i, found in enumerate(files)}}
    dataset = labelme.decode(raw, group_by=group_by)
    out, losses = labelme.encode(dataset)
    assert out["files"] == raw["files"]
    assert not losses
    assert labelme.decode(out, group_by=group_by) == dataset


def test_fuzz(real_data: Path, tmp_path: Path) -> None:
    """Damaged files end in a dataset or in a sentence, never in a traceback."""
    path = real_data / "labelme" / "xanylabeling_human" / "human-pose.json"
    original, rng = path.read_bytes(), random.Random(0)
    junk: list[Any] = [None, True, -1, 1e999, 2**80, "text", [], {}, [[1, 2]], [[None, "x"]], {"a": [1]}, float("nan")]
    for case in range(400):
        data = bytearray(original)
        if case % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif case % 3 == 1:
            for _ in range(rng.randrange(1, 9)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            tree = json.loads(original)
            holder = rng.choice([tree, rng.choice(tree["shapes"])])
            holder[rng.choice(list(holder))] = rng.choice(junk)
            data = bytearray(json.dumps(tree).encode())
        (tmp_path / "human-pose.json").write_bytes(data)
        try:
            labelme.detect(Source(tmp_path / "human-pose.json"))
            found = labelme.read(tmp_path / "human-pose.json", group_by=("group", "box")[case % 2])
            labelme.write(found, tmp_path / "out.json", force=True, allow_lossy=True)
        except KpdataError as error:
            assert "human-pose.json" in str(error)
