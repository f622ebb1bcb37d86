"""YOLO-pose: fractions of the image become pixels and come back, and data.yaml says what a trainer needs."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import detect, yolo
from kpdata.converters._source import Source
from kpdata.errors import FormatError, KpdataError
from kpdata.skeleton import load

ROW = "0 0.5 0.5 0.25 0.5 0.25 0.25 2 0.75 0.5 1 0 0 0"  # three keypoints of a person in 200 x 100 px
TWINS = {"kpt_names": {0: ["tail", "left_ear", "right_ear"]}}


def entry(*rows: str, label: str = "labels/train/a.txt", **more: Any) -> dict[str, Any]:
    image = label.replace("labels/", "images/").replace(".txt", ".jpg")
    text = "".join(f"{row}\n" for row in rows)
    return {"label": label, "text": text, "image": image, "width": 200, "height": 100, "split": "train", **more}


def decoded(*rows: str, config: dict[str, Any] | None = None, **options: Any) -> ds.Dataset:
    return yolo.decode({"config": config, "files": [entry(*rows)]}, **options)


def config(**more: Any) -> dict[str, Any]:
    return {"train": "images/train", "val": "images/val", "names": {0: "person"}, "kpt_shape": [3, 3], **more}


def codes(dataset: ds.Dataset) -> list[str]:
    return [finding["code"] for finding in dataset.datasets["yolo"].get("findings", ())]


def folder(path: Path, files: dict[str, str], size: tuple[int, int] = (200, 100)) -> Path:
    """A data set on disk: texts, and a photograph where the text is "photo"."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if text == "photo":
            Image.new("L", size).save(path / name)
        else:
            (path / name).write_text(text)
    return path


# ----------------------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def val2017(real_data: Path) -> dict[str, Any]:
    """The official annotations of all of COCO val2017."""
    document: dict[str, Any] = json.loads(
        gzip.decompress((real_data / "coco_val2017_full_kp_DERIVED.json.gz").read_bytes())
    )
    return document


@pytest.fixture
def photos(real_data: Path, val2017: dict[str, Any], tmp_path: Path) -> Path:
    """Blank pictures of the sizes of the photographs that the real labels belong to."""
    sizes = {Path(image["file_name"]).stem: (image["width"], image["height"]) for image in val2017["images"]}
    for label in (real_data / "yolo_pose").rglob("*.txt"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("L", sizes[label.stem]).save(tmp_path / "photos" / f"{label.stem}.png")
    return tmp_path / "photos"


def test_real_labels_are_coco_people(real_data: Path, val2017: dict[str, Any], photos: Path) -> None:
    """Every row is the person of COCO's own annotation: keypoints to a thousandth of a pixel, visibility exactly."""
    found = yolo.read(real_data / "yolo_pose", images=photos)
    assert found.skeleton == load("coco_17")
    stems = [Path(name).stem for name in found.images["file_name"].to_pylist()]
    image_of = dict(enumerate(stems, 1))
    official: dict[str, list[Any]] = {}
    names = {image["id"]: Path(image["file_name"]).stem for image in val2017["images"]}
    for annotation in val2017["annotations"]:
        official.setdefault(names[annotation["image_id"]], []).append(annotation["keypoints"])
    for row, image_id in enumerate(found.persons["image_id"].to_pylist()):
        triples = np.array(official[image_of[image_id]], float).reshape(-1, 17, 3)
        xy = np.nan_to_num(found.keypoints[row])
        distance = np.abs(triples[..., :2] - xy).max((1, 2))
        best = int(distance.argmin())
        assert distance[best] < 1e-3
        assert np.array_equal(triples[best, :, 2], found.visibility[row])
    assert len(found) == 35


def test_real_labels_come_back(real_data: Path, photos: Path, tmp_path: Path) -> None:
    """Nothing is lost: the same numbers in the same rows of the same files, saved in between."""
    found = yolo.read(real_data / "yolo_pose", images=photos)
    found.save(tmp_path / "saved.kp")
    assert ds.open_dataset(tmp_path / "saved.kp") == found
    report = yolo.write(ds.open_dataset(tmp_path / "saved.kp"), tmp_path / "out")
    assert not report
    originals = sorted((real_data / "yolo_pose").rglob("*.txt"))
    assert len(originals) == len(list((tmp_path / "out").rglob("*.*")))
    for path in originals:
        back = (tmp_path / "out" / path.relative_to(real_data / "yolo_pose")).read_text()
        assert [list(map(float, line.split())) for line in back.splitlines()] == [
            list(map(float, line.split())) for line in path.read_text().splitlines()
        ]
    assert yolo.read(tmp_path / "out", images=photos) == found


def test_x_anylabeling_row_is_the_labelled_person(real_data: Path) -> None:
    """The exported row of the photographed person is its LabelMe file: points to 0.001 px."""
    source = real_data / "labelme" / "xanylabeling_human"
    found = yolo.read(source)
    shapes = json.loads((source / "human-pose.json").read_text())["shapes"]
    points = {s["label"]: s["points"][0] for s in shapes if s["shape_type"] == "point"}
    for column, name in enumerate(load("coco_17").keypoint_names):
        expected = points.get(name, [np.nan, np.nan])
        assert np.allclose(found.keypoints[0, column], expected, atol=1e-3, equal_nan=True)
    box = np.array(shapes[0]["points"])
    assert np.allclose(found.persons["bbox"][0].as_py(), [*box.min(0), *np.ptp(box, axis=0)], atol=1e-2)


def test_missing_photographs(real_data: Path) -> None:
    """Without photographs there are no sizes: the message says how to name their folder."""
    with pytest.raises(FormatError, match=r"000000000139\.txt: .*photograph was not found\. --images"):
        yolo.read(real_data / "yolo_pose")


@pytest.mark.parametrize(
    ("path", "seen"),
    [("yolo_pose", True), ("labelme/triangle_v5.1.1/DSC_0281.txt", True), ("lspet", False), ("lsp", False),
     ("coco_fakekeypoints100", False), ("lspet/README.txt", False), ("coco_mini", False)],
)  # fmt: skip
def test_detection(real_data: Path, path: str, seen: bool) -> None:
    """Rows of labels are seen, README files and annotations of other formats are not."""
    assert bool(yolo.detect(Source(real_data / path))) == seen


# --------------------------------------------------------------------------------------------------------------- rows


def test_pixels() -> None:
    """x times width and y times height, no half pixel; the box from its centre; 0 0 0 is absent."""
    found = decoded(ROW)
    assert found.persons["bbox"][0].as_py() == [75, 25, 50, 50]
    assert found.keypoints[0, :2].tolist() == [[50, 25], [150, 50]]
    assert np.isnan(found.keypoints[0, 2]).all()
    assert found.visibility[0].tolist() == [2, 1, 0]


def test_two_dimensions() -> None:
    """Without flags a keypoint is absent where a coordinate is negative; 0, 0 is a place in the image."""
    found = decoded("0 .5 .5 .2 .2 0 0 -0.005 0.5 0.5 0.5", config=config(kpt_shape=[3, 2]))
    assert found.visibility[0].tolist() == [3, 0, 3]
    assert found.keypoints[0].tolist() == [[0, 0], [-1, 50], [100, 50]]
    raw, losses = yolo.encode(found)
    assert not losses
    assert raw["files"][0]["text"] == "0 0.5 0.5 0.2 0.2 0 0 -0.005 0.5 0.5 0.5\n"
    assert yolo.decode(raw) == found


def test_coordinates_of_absent_keypoints_stay() -> None:
    """v = 0 beside a coordinate keeps it; only 0, 0, 0 is the empty value."""
    found = decoded("0 .5 .5 .2 .2 0.25 0.5 0 0 0.5 0 0 0 1")
    assert found.visibility[0].tolist() == [0, 0, 1]
    assert found.keypoints[0].tolist() == [[50, 50], [0, 50], [0, 0]]
    assert yolo.decode(yolo.encode(found)[0]) == found


def test_flags_that_are_no_flags() -> None:
    """A confidence where v stands is labelled, visibility unknown, and comes back as it was."""
    found = decoded("0 .5 .5 .2 .2 0.25 0.5 0.98 0.5 0.5 2 0 0 0", config=config())
    assert found.visibility[0].tolist() == [3, 2, 0]
    assert found.persons["visibility_raw"][0].as_py() == [0.98, 2, 0]
    raw, losses = yolo.encode(found)
    assert not losses
    assert raw["files"][0]["text"] == "0 0.5 0.5 0.2 0.2 0.25 0.5 0.98 0.5 0.5 2 0 0 0\n"


@pytest.mark.parametrize(
    ("numbers", "skeleton", "expected"),
    [
        ("0.1 0.1 2 0.2 0.2 1", None, (2, 3)),  # 6 numbers: flags stand in every third place
        ("0.1 0.1 0.2 0.2 0.3 0.3", None, (3, 2)),  # they do not
        ("0.1 0.1 0.2 0.2", None, (2, 2)),
        ("0.1 0.1 0", None, (1, 3)),
    ],
)
def test_dimensions_without_kpt_shape(numbers: str, skeleton: str | None, expected: tuple[int, int]) -> None:
    """5 + 2K or 5 + 3K is decided by divisibility, then by what stands where v would."""
    found = decoded(f"0 .5 .5 .2 .2 {numbers}", skeleton=skeleton)
    assert (len(found.skeleton), found.datasets["yolo"]["dimensions"]) == expected


def test_images_without_people() -> None:
    """An empty label file and none at all are images without people, and stay two things."""
    raw = {"config": config(), "files": [
        entry(label="labels/train/a.txt", text=""), entry(label="labels/train/b.txt", text=None),
        entry(ROW, label="labels/val/c.txt", split="val")
    ]}  # fmt: skip
    found = yolo.decode(raw)
    assert found.persons["image_id"].to_pylist() == [3]
    back = yolo.encode(found)[0]
    assert [e["text"] for e in back["files"]][:2] == ["", None]
    assert yolo.decode(back) == found


@pytest.mark.parametrize("digits", [6, 9, 12, 15])
def test_long_numbers_come_back(digits: int) -> None:
    """As many digits are written as the source had, up to 15."""
    rng = np.random.default_rng(digits)
    numbers = " ".join(f"{x:.{digits}f}" for x in rng.uniform(0.1, 0.9, 4))
    points = " ".join(f"{x:.{digits}f} {y:.{digits}f} 2" for x, y in rng.uniform(0.1, 0.9, (3, 2)))
    row = f"0 {numbers} {points}"
    raw, losses = yolo.encode(decoded(row, config=config()))
    assert not losses
    assert list(map(float, raw["files"][0]["text"].split())) == list(map(float, row.split()))


def test_rows_that_training_refuses() -> None:
    """Points outside, strange classes and repeats are read and reported with their line."""
    outside = "0 0.5 0.5 0.25 0.5 1.02 0.25 2 0 0 0 0 0 0"
    found = decoded(ROW, outside, ROW, ROW.replace("0", "3", 1), config=config())
    assert len(found) == 4
    found_codes = {f["code"]: (f["annotation_id"], f["file"], f["message"]) for f in found.datasets["yolo"]["findings"]}
    assert found_codes["outside-image"][:2] == (2, "labels/train/a.txt")
    assert found_codes["unknown-class"][0] == 4
    assert found_codes["repeated-row"][2].startswith("line 3: ")
    assert len(found_codes) == 3
    report = yolo.encode(found)[1]
    assert not report
    assert report.additions["images that training skips"] == 1


# --------------------------------------------------------------------------------------------------------- data.yaml


def test_names_twins_and_sigmas() -> None:
    """kpt_names, flip_idx and kpt_oks_sigmas make the skeleton; a built-in is itself by its names."""
    found = decoded(ROW, config=config(**TWINS, flip_idx=[0, 2, 1], kpt_oks_sigmas=[0.1, 0.2, 0.2]))
    assert found.skeleton.keypoint_names == ("tail", "left_ear", "right_ear")
    assert found.skeleton.flip_index().tolist() == [0, 2, 1]
    assert found.skeleton.sigmas == (0.1, 0.2, 0.2)
    assert found.persons["category"].to_pylist() == ["person"]
    anonymous = decoded(ROW, config=config(flip_idx=[0, 2, 1]))
    assert anonymous.skeleton.flip_index().tolist() == [0, 2, 1]
    assert decoded(ROW, config=config()).skeleton.flip_pairs is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({**TWINS, "flip_idx": [0, 1, 2]}, "identity-flip-idx"),
        ({**TWINS, "flip_idx": [1, 0, 2]}, "wrong-flip-idx"),
        ({"flip_idx": [1, 2, 0]}, "bad-flip-idx"),  # not its own inverse
        ({"flip_idx": [0, 1]}, "bad-flip-idx"),
        ({"flip_idx": [0, 1, 7]}, "bad-flip-idx"),
        ({"flip_idx": "0 1 2"}, "bad-flip-idx"),
    ],
)
def test_wrong_flip_index_is_reported(more: dict[str, Any], code: str) -> None:
    """A flip_idx that would teach a trainer to mix up left and right is an error among the findings."""
    found = decoded(ROW, config=config(**more))
    assert codes(found) == [code]
    assert yolo.encode(found)[0]["config"] == config(**more)


def test_seventeen_without_names_are_coco() -> None:
    """As Ultralytics does, 17 keypoints are taken for COCO's, with a note; another flip_idx says that they are not."""
    row = "0 .5 .5 .2 .2" + " 0.5 0.5 2" * 17
    found = decoded(row, config=config(kpt_shape=[17, 3]))
    assert found.skeleton == load("coco_17")
    assert codes(found) == ["assumed-skeleton"]
    other = decoded(row, config=config(kpt_shape=[17, 3], flip_idx=[1, 0, *range(2, 17)]))
    assert other.skeleton.name == "keypoints_17"
    told = decoded(row, config=config(kpt_shape=[17, 3]), skeleton="posetrack18_17")
    assert told.skeleton == load("posetrack18_17")


def test_splits_of_data_yaml(tmp_path: Path) -> None:
    """Folders, list files, lists and Roboflow's `../` are found; an image without labels is one of the set."""
    document = config(path="set", train=["images/train", "more/images"], val="val.txt", test="../test/images")
    files = {
        "data.yaml": yaml.safe_dump(document), "set/images/train/a.jpg": "photo", "set/labels/train/a.txt": ROW,
        "set/images/train/sub/b.png": "photo", "set/more/images/c.jpg": "photo", "set/more/labels/c.txt": ROW,
        "set/val.txt": "./images/val/d.jpg\n", "set/images/val/d.jpg": "photo", "set/labels/val/d.txt": f"{ROW}\n{ROW}",
        "set/test/images/e.jpg": "photo", "set/test/labels/e.txt": "\ufeff" + ROW.replace(" ", "\t") + "\r\n",
        "set/labels/train/classes.txt": "person",
    }  # fmt: skip
    folder(tmp_path, files)
    (tmp_path / "set" / "labels" / "train" / "classes.txt").unlink()
    for source in (tmp_path, tmp_path / "data.yaml"):
        found = yolo.read(source)
        names, splits = found.images["file_name"].to_pylist(), found.images["split"].to_pylist()
        assert dict(zip(names, splits, strict=True)) == {
            "images/train/a.jpg": "train", "images/train/sub/b.png": "train", "more/images/c.jpg": "train",
            "images/val/d.jpg": "val", "test/images/e.jpg": "test",
        }  # fmt: skip
        assert found.datasets["yolo"]["images_root"] == str(tmp_path / "set")
        assert sorted(found.persons["image_id"].to_pylist()) == [
            names.index(n) + 1
            for n in (
                "images/train/a.jpg",
                "images/val/d.jpg",
                "images/val/d.jpg",
                "more/images/c.jpg",
                "test/images/e.jpg",
            )
        ]
    report = yolo.write(found, tmp_path / "out", images=tmp_path / "set")
    assert not report
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text()) == {
        **{k: v for k, v in document.items() if k != "path"}, "val": "images/val", "test": "test/images"
    }  # fmt: skip
    again = yolo.read(tmp_path / "out")
    assert schema.same(again.persons, found.persons)
    assert schema.same(again.images, found.images)


def test_bare_folder_of_labels(tmp_path: Path) -> None:
    """Labels and photographs side by side; classes.txt is no label file."""
    files = {"a.txt": ROW, "a.jpg": "photo", "b.txt": "", "b.jpg": "photo", "classes.txt": "person\n"}
    folder(tmp_path / "in", files)
    found = yolo.read(tmp_path / "in")
    assert found.images["file_name"].to_pylist() == ["a.jpg", "b.jpg"]
    assert codes(found) == ["not-labels"]
    assert detect(tmp_path / "in")[0] == "yolo"
    assert not yolo.write(found, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt"]


def test_rotated_photograph(tmp_path: Path) -> None:
    """A photograph that EXIF rotates is as wide as it is shown (Ultralytics `exif_size`)."""
    folder(tmp_path, {"a.txt": ROW})
    picture = Image.new("L", (100, 200))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    found = yolo.read(tmp_path / "a.txt")
    assert (found.images["width"][0].as_py(), found.images["height"][0].as_py()) == (200, 100)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([ROW, "0 0.5 0.5 0.2"], {}, r"labels/train/a\.txt, line 2: 4 numbers, the other rows have 14"),
        ([ROW.replace("2", "two")], {}, r"a\.txt, line 1: found '0\.two5', expected numbers"),
        ([ROW.replace("2", "nan", 1)], {}, "line 1: found '0.nan5', expected numbers"),
        ([ROW.replace("0.5", "1-2", 1)], {}, "line 1: found '1-2', expected a number"),
        ([ROW.replace("0.5", "1e999", 1)], {}, "line 1: found '1e999', a number too large"),
        ([ROW.replace("0", "0.5", 1)], {}, "line 1: class 0.5, expected a whole number"),
        (["0 0.5 0.5 0.2 0.2"], {}, r"5 numbers, expected 5 \+ 2K or 5 \+ 3K"),
        ([ROW], {"config": config(kpt_shape=[4, 3])}, r"14 numbers, expected 17 \(kpt_shape \[4, 3\]\)"),
        ([ROW], {"config": config(kpt_shape=3)}, "kpt_shape is 3, expected"),
        ([ROW], {"config": config(kpt_names={0: ["a", "b"]})}, "class 0: 2 names, expected 3"),
        ([ROW], {"config": config(kpt_names={0: ["a", "b", "b"]})}, "data.yaml, class 0: .*more than once"),
        ([ROW], {"config": config(kpt_oks_sigmas=[0.1])}, "data.yaml, class 0: .*1 sigmas, expected 3"),
        ([ROW], {"skeleton": "coco_17"}, "3 keypoints, the skeleton 'coco_17' has 17"),
    ],
)
def test_refused_with_file_and_line(rows: list[str], options: dict[str, Any], message: str) -> None:
    """What is no row of labels is refused by file, line and number."""
    with pytest.raises(FormatError, match=message):
        decoded(*rows, **options)


def test_damaged_folders(tmp_path: Path) -> None:
    """A data.yaml that is none, a folder without labels, a photograph that is none."""
    with pytest.raises(FormatError, match="no label file"):
        yolo.read(tmp_path)
    for text, message in (("a: [", "not YAML"), ("- 1", "no table of keys")):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(FormatError, match=message):
            yolo.read(tmp_path)
    folder(tmp_path, {"data.yaml": yaml.safe_dump(config()), "labels/train/a.txt": ROW, "images/train/a.jpg": "text"})
    with pytest.raises(FormatError, match=r"a\.jpg: not an image"):
        yolo.read(tmp_path)


# --------------------------------------------------------------------------------------------------------- properties

FRACTION = st.integers(-1000, 1_010_000).map(lambda n: n / 10**6)


@st.composite
def raws(draw: st.DrawFn) -> dict[str, Any]:
    """Any data set of three keypoints that the format can hold, files in sorted order."""
    dimensions = draw(st.sampled_from([2, 3]))
    files = []
    for number in range(draw(st.integers(1, 3))):
        rows = []
        for _ in range(draw(st.integers(0, 3))):
            numbers = [f"{draw(FRACTION):.6g}" for _ in range(4)]
            for _ in range(3):
                numbers += [f"{draw(FRACTION):.6g}" for _ in range(2)] + [str(draw(st.integers(0, 2)))][
                    : dimensions - 2
                ]
            rows.append(" ".join([str(draw(st.integers(0, 1))), *numbers]))
        split = draw(st.sampled_from(["train", "val"]))
        size = {"width": draw(st.integers(1, 5000)), "height": draw(st.integers(1, 5000))}
        files.append(entry(*rows, label=f"labels/{split}/{number}.txt", split=split, **size))
    files.sort(key=lambda e: str(e["label"]))
    return {"config": config(kpt_shape=[3, dimensions], names={0: "person", 1: "dog"}), "files": files}


@given(raws())
def test_any_labels_come_back(raw: dict[str, Any]) -> None:
    """Nothing is lost: the numbers of every row come back, and so does the dataset that they make."""
    dataset = yolo.decode(raw)
    back, losses = yolo.encode(dataset)
    assert not losses
    assert back["config"] == raw["config"]
    for before, after in zip(raw["files"], back["files"], strict=True):
        assert {**before, "text": ""} == {**{k: v for k, v in after.items() if k != "row"}, "text": ""}
        assert list(map(float, before["text"].split())) == list(map(float, after["text"].split()))
    assert yolo.decode(back) == dataset


def test_fuzz(tmp_path: Path) -> None:
    """Damaged labels and data.yaml end in a dataset or in a sentence, never in a traceback."""
    original = {
        "data.yaml": yaml.safe_dump(config(**TWINS, flip_idx=[0, 2, 1])),
        "labels/train/a.txt": f"{ROW}\n{ROW}\n",
    }
    folder(tmp_path, {**original, "images/train/a.jpg": "photo"})
    rng = random.Random(0)
    junk: list[Any] = [
        None,
        True,
        -1,
        1e999,
        "text",
        [],
        {},
        [[1]],
        {"a": 1},
        ["x", 2],
        "..",
        "\0",
        {0: None},
        [2**70, 3],
    ]
    for case in range(400):
        name = rng.choice(list(original))
        data = bytearray(original[name].encode())
        if case % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif case % 3 == 1 or name != "data.yaml":
            for _ in range(rng.randrange(1, 5)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            tree = yaml.safe_load(original[name])
            tree[rng.choice(list(tree))] = rng.choice(junk)
            data = bytearray(yaml.safe_dump(tree).encode())
        (tmp_path / name).write_bytes(data)
        try:
            yolo.detect(Source(tmp_path))
            yolo.encode(yolo.read(tmp_path))
        except KpdataError as error:
            assert str(tmp_path) in str(error) or "class" in str(error) or "skeleton" in str(error)
        (tmp_path / name).write_text(original[name])
