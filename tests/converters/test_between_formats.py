"""Every format to every other one: what is lost, counted by hand, and what arrives, read without kpdata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

import kpdata
from kpdata.errors import LossyWrite, SchemaError

# ---------------------------------------------------------------------------------- what the sources say: three people
# The first two are in a.jpg, the third in b.jpg (LSP: each in its own). All five skeletons have these 12 keypoints.
LIMBS = [
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip
COCO = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", *LIMBS]
CROWDPOSE = [*LIMBS, "head", "neck"]
LEGS = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"]
ARMS = ["right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"]
LSP = [*LEGS, *ARMS, "neck", "head_top"]
MPII = [*LEGS, "pelvis", "thorax", "upper_neck", "head_top", *ARMS]
NAMES = {"coco": COCO, "crowdpose": CROWDPOSE, "mpii": MPII, "lsp": LSP, "labelme": COCO}
WIDTH, HEIGHT = 500, 400  # fractions of these are exact in six digits: YOLO rounds nothing
XY = [[(100 * p + 100 + 10 * i, 10 * p + 50 + 20 * i) for i in range(12)] for p in range(3)]  # 0-based px, by LIMBS
OTHER = [(100 * p + 105, 10 * p + 55) for p in range(3)]  # where any keypoint besides the limbs is

# Visibility of the limbs and of what else is labelled: 0 absent, 1 occluded, 2 visible, 3 unknown.
NONE: tuple[str, dict[str, int]] = ("000000000000", {})  # COCO's third is a crowd, MPII's has no points
SEEN: dict[str, list[tuple[str, dict[str, int]]]] = {
    "coco": [("221210222222", {"nose": 2, "left_eye": 1}), ("220000223000", {"nose": 2}), NONE],
    "crowdpose": [("221210222222", {"head": 1, "neck": 1}), ("220000222000", {}), (NONE[0], {"head": 1, "neck": 1})],
    "mpii": [
        ("221210222222", {"pelvis": 2, "thorax": 2, "upper_neck": 3, "head_top": 3}),
        ("220000223000", {"pelvis": 2}), NONE,
    ],
    "lsp": [(seen, {"neck": 2, "head_top": 2}) for seen in ("221212222222", "222222222222", "111222222222")],
    "labelme": [("221210222222", {"nose": 2}), ("220000222000", {}), ("220000000000", {})],
}  # fmt: skip
BOX = [[90, 40, 130, 260], [190, 50, 130, 250], [290, 60, 130, 250]]
# Person boxes, x, y, w, h: annotated, MPII's from centre and scale (200 px x scale around it), else the points' extent.
BOXES = {
    "coco": BOX, "crowdpose": BOX, "labelme": [*BOX[:2], [300, 70, 10, 20]],
    "mpii": [[30, 45, 250, 250], [130, 55, 250, 250], [280, 120, 150, 150]],
    "lsp": [[100, 50, 110, 220], [200, 60, 110, 220], [300, 70, 110, 220]],
}  # fmt: skip
POLYGON = [100, 50, 200, 60, 150, 290]


def points(source: str, person: int) -> dict[str, tuple[int, int, int]]:
    """x, y, visibility of each keypoint of a person that is not absent."""
    seen_limbs, others = SEEN[source][person]
    named = {name: (*xy, int(seen)) for name, xy, seen in zip(LIMBS, XY[person], seen_limbs, strict=True) if seen > "0"}
    return named | {name: (*OTHER[person], seen) for name, seen in others.items()}


# ------------------------------------------------------------------------------------------- the sources as real files
def coco_file(folder: Path, **top: Any) -> Path:
    """Polygons, areas, a crowd with a mask, a third number that is no flag, a coordinate where v is 0, two own keys."""
    rows = [annotation("coco", p, area=5000.5 + p, segmentation=[POLYGON]) for p in range(3)]
    rows[0]["keypoints"][30:32] = XY[0][5]  # right_wrist: absent, but with a coordinate
    rows[0]["annotator"] = "ann"
    rows[1]["keypoints"][41] = 0.5  # left_knee
    rows[2] |= {"id": 900100000285, "iscrowd": 1}
    rows[2]["segmentation"] = {"counts": [0, 3, WIDTH * HEIGHT - 3], "size": [HEIGHT, WIDTH]}
    return coco_shaped(folder / "coco.json", rows, COCO, [{"license": 3}, {}], top)


def crowdpose_file(folder: Path) -> Path:
    """num_keypoints of the first 12 alone, so 0 for a person with head and neck; neither area nor segmentation."""
    rows = [annotation("crowdpose", p, num_keypoints=count) for p, count in enumerate((11, 5, 0))]
    return coco_shaped(folder / "crowdpose.json", rows, CROWDPOSE, [{"crowdIndex": 0.25}, {"crowdIndex": 1.5}], {})


def annotation(source: str, p: int, **more: Any) -> dict[str, Any]:
    found = points(source, p)
    numbers = [number for name in NAMES[source] for number in found.get(name, (0, 0, 0))]
    row = {"id": 11 + p, "image_id": (139, 139, 285)[p], "category_id": 1, "bbox": BOX[p], "iscrowd": 0}
    return row | {"keypoints": numbers, "num_keypoints": len(found), **more}


def coco_shaped(path: Path, rows: list[Any], names: list[str], more: list[dict[str, Any]], top: dict[str, Any]) -> Path:
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2]]}
    listed = zip((139, 285), ("a.jpg", "b.jpg"), more, strict=True)
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT, **own} for i, name, own in listed]
    path.write_text(json.dumps({**top, "images": images, "annotations": rows, "categories": [category]}))
    return path


def mpii_file(folder: Path, **release: Any) -> Path:
    """The official struct: 1-based, head corners, empty is_visible, a person of objpos and scale alone."""
    people = []
    for p, (x, y, scale) in enumerate([(156, 171, 1.25), (256, 181, 1.25), (356, 196, 0.75)]):
        rect = {"objpos": structs({"x": x, "y": y}), "scale": scale}
        if p < 2:
            rect |= {"x1": 100 * p + 101, "y1": 31, "x2": 100 * p + 131, "y2": 71}
            found = [
                {"id": MPII.index(name), "x": px + 1, "y": py + 1, **({"is_visible": seen - 1} if seen < 3 else {})}
                for name, (px, py, seen) in points("mpii", p).items()
            ]
            rect["annopoints"] = structs({"point": structs(*found)})
        people.append(rect)
    people[1]["part_occ1"] = 1
    entries = [("a.jpg", people[:2]), ("b.jpg", people[2:])]
    annolist = structs(*({"image": structs({"name": name}), "annorect": structs(*rects)} for name, rects in entries))
    single = np.empty((2, 1), object)
    single[:, 0] = [np.array([[1.0], [2.0]]), np.zeros((0, 0))]
    fields = {"annolist": annolist, "img_train": np.ones((1, 2)), "single_person": single, **release}
    savemat(folder / "mpii.mat", {"RELEASE": structs(fields)})
    return folder / "mpii.mat"


def structs(*rows: dict[str, Any]) -> Any:
    """A 1xn MATLAB struct array; a field that a row lacks is a 0x0."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = np.empty((1, len(rows)), [(name, object) for name in names])
    for column, row in enumerate(rows):
        for name in names:
            found[name][0, column] = row.get(name, np.zeros((0, 0)))
    return found


def lsp_file(folder: Path) -> Path:
    """3 x 14 x 3; the third number 1 is occluded."""
    people = [[(x, y, seen == 1) for x, y, seen in (points("lsp", p)[name] for name in LSP)] for p in range(3)]
    savemat(folder / "joints.mat", {"joints": np.array(people, float).transpose(2, 1, 0)})
    return folder / "joints.mat"


def labelme_folder(folder: Path) -> Path:
    """Groups by group_id, the flag `occluded` and another, polygons of a person and of a car, an embedded picture."""
    shapes: list[list[dict[str, Any]]] = [[], [], []]
    for p in range(3):
        if p < 2:
            x, y, w, h = BOX[p]
            shapes[p].append(shape("person", [[x + w, y], [x, y + h]], "rectangle", p + 1))
        for name, (x, y, seen) in points("labelme", p).items():
            shapes[p].append(shape(name, [[x, y]], "point", p + 1, {"occluded": True} if seen == 1 else {}))
    pairs = [POLYGON[i : i + 2] for i in (0, 2, 4)]
    shapes[0].append(shape("person", pairs, "polygon", 1))
    shapes[1][-1]["flags"] = {"blurry": True}
    files = {"a": [shape("car", pairs, "polygon", None), *shapes[0], *shapes[1]], "b": shapes[2]}
    (folder / "labelme").mkdir()
    for stem, rows in files.items():
        top: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": rows, "imagePath": f"{stem}.jpg"}
        top |= {"imageData": "aGVsbG8=" if stem == "b" else None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / "labelme" / f"{stem}.json").write_text(json.dumps(top))
    return folder / "labelme"


def shape(label: str, xy: list[Any], kind: str, group: int | None, flags: dict[str, bool] | None = None) -> Any:
    row = {"label": label, "points": xy, "group_id": group, "description": "", "shape_type": kind, "mask": None}
    return row | {"flags": flags or {}}


FILES: dict[str, Callable[..., Path]] = {
    "coco": coco_file, "crowdpose": crowdpose_file, "mpii": mpii_file, "lsp": lsp_file, "labelme": labelme_folder,
}  # fmt: skip


# --------------------------------------------------------------------------------------------- what is lost, by hand
# The annotator's name and the license; part_occ1 and single_person; the blurry keypoint and the car.
EXTRAS = {"extras of people": 1, "extras of images": 1}
# What none of the MATLAB formats holds of a source, and none of their skeletons. `ids`: one a person.
OF_COCO = EXTRAS | {
    "width": 2, "height": 2, "area": 3, "bbox": 3, "segmentation": 2, "rle": 1, "iscrowd": 1, "ids": 3,
    "keypoint masks": 1, "raw visibility": 1, "keypoints without a place": 3,  # nose and left_eye, nose
}  # fmt: skip
OF_CROWDPOSE = {
    "width": 2, "height": 2, "bbox": 3, "crowd_index": 2, "ids": 3, "keypoint masks": 1,
    "keypoints without a place": 4,  # head and neck of two: other points than MPII's and LSP's
}  # fmt: skip
OF_MPII = {"head_bbox": 2, "center": 3, "scale": 3, "person_index": 3}
OF_LSP = {"keypoints without a place": 6, "keypoint masks": 1}
OF_LABELME = EXTRAS | {
    "width": 2, "height": 2, "bbox": 3, "segmentation": 1, "embedded pictures": 1, "keypoint masks": 1,
    "keypoints without a place": 1,
}  # fmt: skip
AS_LSP = {"file_name": 3, "shared images": 1}

# `visibility` of MPII's JSON counts the visible and occluded limbs, and pelvis and thorax, which a remap derives.
LOSSES: dict[tuple[str, str], dict[str, int]] = {
    ("coco", "crowdpose"): {
        "keypoints without a place": 3, "raw visibility": 1, "visibility unknown": 1, "keypoint masks": 1,
        "extras of people": 1,  # the image's license stays: both have COCO's images
    },
    ("coco", "mpii"): OF_COCO | {"visibility": 11 + 2 + 4 + 2},
    ("coco", "mpii h5"): OF_COCO | {"visibility unknown": 1, "coordinates of absent keypoints": 1},
    ("coco", "lsp"): OF_COCO | AS_LSP | {"absent keypoints": 3 * 14 - 11 - 5, "visibility unknown": 1},
    ("coco", "labelme"): EXTRAS | {
        "category_id": 3, "visibility_raw": 1, "visibility unknown": 1, "area": 3, "iscrowd": 1, "rle": 1,
        "ids": 2 + 3, "coordinates of absent keypoints": 1,
    },
    ("coco", "yolo"): EXTRAS | {
        "crowds": 1, "category_id": 2, "visibility_raw": 1, "visibility unknown": 1, "area": 3, "segmentation": 2,
        "rle": 1, "ids": 2 + 2,
    },
    ("coco", "coco_results"): {
        "occluded keypoints": 3, "visibility_raw": 1, "area": 3, "iscrowd": 3, "num_keypoints": 3, "segmentation": 2,
        "rle": 1, "bbox": 3, "images": 2, "ids": 3, "extras of people": 1,
    },
    ("crowdpose", "coco"): {},
    ("crowdpose", "mpii"): OF_CROWDPOSE | {"visibility": 11 + 2 + 5 + 2},
    ("crowdpose", "mpii h5"): OF_CROWDPOSE,
    ("crowdpose", "lsp"): OF_CROWDPOSE | AS_LSP | {"absent keypoints": 3 * 14 - 11 - 5},
    ("crowdpose", "labelme"): {"category_id": 3, "num_keypoints": 2, "crowd_index": 2, "ids": 2 + 3},
    ("crowdpose", "yolo"): {"category_id": 3, "num_keypoints": 2, "crowd_index": 2, "ids": 2 + 3},
    ("crowdpose", "coco_results"): {  # several skeletons have 14 keypoints, and results name none
        "occluded keypoints": 6, "iscrowd": 3, "num_keypoints": 3, "bbox": 3, "images": 2, "ids": 3, "skeleton": 1,
    },
    ("mpii", "coco"): EXTRAS | {"visibility unknown": 3},
    ("mpii", "crowdpose"): EXTRAS | {"keypoints without a place": 4 + 1, "visibility unknown": 1, "keypoint masks": 1},
    ("mpii", "lsp"): OF_MPII | EXTRAS | AS_LSP | {
        "keypoints without a place": 4 + 1, "keypoint masks": 1, "visibility unknown": 1,
        "absent keypoints": 3 * 14 - 11 - 5, "people without keypoints": 1,
    },
    ("mpii", "labelme"): OF_MPII | EXTRAS | {"split": 2, "visibility unknown": 3, "people without shapes": 1},
    ("mpii", "coco_results"): OF_MPII | {  # MHP has 16 keypoints too
        "extras of people": 1, "occluded keypoints": 2, "people without keypoints": 1, "images": 2, "skeleton": 1,
    },
    ("lsp", "coco"): {},
    ("lsp", "crowdpose"): OF_LSP,
    ("lsp", "mpii"): OF_LSP | {"visibility": 36 + 6, "split": 3},
    ("lsp", "mpii h5"): OF_LSP | {"split": 3},
    ("lsp", "labelme"): {"split": 3},
    ("lsp", "coco_results"): {"occluded keypoints": 2 + 3, "images": 3, "skeleton": 1},
    ("labelme", "coco"): EXTRAS | {"embedded pictures": 1},
    ("labelme", "crowdpose"): EXTRAS | {"embedded pictures": 1, "keypoints without a place": 1, "keypoint masks": 1},
    ("labelme", "mpii"): OF_LABELME | {"visibility": 11 + 2 + 5 + 2 + 2 + 1},
    ("labelme", "mpii h5"): OF_LABELME,
    ("labelme", "lsp"): OF_LABELME | AS_LSP | {"absent keypoints": 3 * 14 - 11 - 5 - 2},
    ("labelme", "yolo"): EXTRAS | {"segmentation": 1, "bbox_source": 1, "embedded pictures": 1},
    ("labelme", "coco_results"): {
        "occluded keypoints": 2, "bbox": 3, "segmentation": 1, "images": 2, "embedded pictures": 1,
        "extras of people": 1,
    },
}  # fmt: skip
PAIRS = [pytest.param(*pair, id=f"{pair[0]}-to-{pair[1].replace(' ', '-')}") for pair in LOSSES]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: kpdata.read(make(tmp_path_factory.mktemp(name))) for name, make in FILES.items()}


def convert(dataset: Any, target: str, folder: Path, **options: Any) -> tuple[Path, Any]:
    path = folder / TARGETS[target][0]
    return path, kpdata.write(dataset, path, target.split()[0], **options)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_losses_are_counted(datasets: dict[str, Any], source: str, target: str, tmp_path: Path) -> None:
    """The losses are those counted by hand, kind by kind, and none besides."""
    _, report = convert(datasets[source], target, tmp_path, allow_lossy=True)
    assert report.losses == LOSSES[source, target]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_loss_must_be_allowed(datasets: dict[str, Any], source: str, target: str, tmp_path: Path) -> None:
    """LossyWrite lists the same losses and nothing is left behind; what loses nothing is written unasked."""
    if not LOSSES[source, target]:
        assert not convert(datasets[source], target, tmp_path)[1] and list(tmp_path.iterdir())
        return
    with pytest.raises(LossyWrite, match="nothing was written") as caught:
        convert(datasets[source], target, tmp_path)

    counts = (item.rsplit(": ", 1) for item in caught.value.summary.split(", "))
    assert {kind: int(count) for kind, count in counts} == LOSSES[source, target]
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- what arrives, read without kpdata
LEFT_OUT = [("coco", "yolo"), ("mpii", "labelme"), ("mpii", "coco_results")]  # the crowd; the person without points
IMAGE_IDS = {"coco": [139, 139, 285], "crowdpose": [139, 139, 285], "lsp": [1, 2, 3]}  # others: 1, 1, 2
JSON_KEYS = ("joints", "joints_vis", "center", "scale", "image")
H5_KEYS = ("part", "visible", "center", "scale", "imgname")
Arrived = tuple[list[Any], list[Any], list[Any]]  # of each person: (12, 3) limbs, box, the image's name or id


def limbs(rows: Any, names: list[str]) -> Any:
    return np.reshape(rows, (-1, 3))[[names.index(name) for name in LIMBS]]


def from_coco(path: Path, source: str) -> Arrived:
    """Annotations, or results: a list without boxes, in the order of the source's keypoints."""
    document = json.loads(path.read_text())
    if isinstance(document, list):
        assert not any("bbox" in row for row in document)
        return [limbs(r["keypoints"], NAMES[source]) for r in document], [], [r["image_id"] for r in document]
    rows, files = document["annotations"], {i["id"]: i["file_name"] for i in document["images"]}
    (category,) = document["categories"]
    assert {row["category_id"] for row in rows} == {category["id"]}
    empty = [0] * (3 * len(category["keypoints"]))
    keypoints = [limbs(row.get("keypoints", empty), category["keypoints"]) for row in rows]
    return keypoints, [row["bbox"] for row in rows], [files[row["image_id"]] for row in rows]


def from_arrays(path: Path, source: str) -> Arrived:
    """LSP's .mat, MPII's JSON, and its .h5, whose centre and scale have the crops' y + 15 x scale and x 1.25."""
    if path.suffix == ".mat":
        return [limbs(person.T, LSP) for person in loadmat(path)["joints"].transpose(2, 0, 1)], [], []
    if path.suffix == ".json":
        rows = json.loads(path.read_text())
        joints, seen, center, scale, names = ([r[k] for r in rows] for k in JSON_KEYS)
    else:
        with h5py.File(path) as file:
            joints, seen, center, scale, names = (file[key][()] for key in H5_KEYS)
        scale, names = scale / 1.25, [name.decode() for name in names.tolist()]
        center = center - np.outer(15 * scale, [0, 1])
    keypoints = [limbs(row, MPII) for row in np.concatenate([joints, np.array(seen)[..., None]], 2)]
    return keypoints, list(np.column_stack([center, np.multiply(200, scale)])), names


def from_labelme(path: Path, source: str) -> Arrived:
    people: dict[Any, Any] = {}
    boxes = []
    for file in sorted(path.glob("*.json")):
        document = json.loads(file.read_text())
        for row in document["shapes"]:
            person = people.setdefault((document["imagePath"], row["group_id"]), np.zeros((12, 3)))
            low, high = np.min(row["points"], 0), np.max(row["points"], 0)
            if row["shape_type"] == "rectangle":
                boxes.append([*low, *(high - low)])
            elif row["label"] in LIMBS:
                mark = {True: 1, False: 2, None: 3}[row["flags"].get("occluded")]
                person[LIMBS.index(row["label"])] = [*low, mark]
    return list(people.values()), boxes, [name for name, _ in people]


def from_yolo(path: Path, source: str) -> Arrived:
    keypoints, boxes, names = [], [], []
    for file in sorted(path.glob("labels/train/*")):
        for line in file.read_text().splitlines():
            _, cx, cy, w, h, *rest = map(float, line.split())
            keypoints.append(limbs(rest, NAMES[source]) * [WIDTH, HEIGHT, 1])
            boxes.append(np.array([cx - w / 2, cy - h / 2, w, h]) * [WIDTH, HEIGHT, WIDTH, HEIGHT])
            names.append(f"{file.stem}.jpg")
    return keypoints, boxes, names


# Name, reader, third number (LabelMe: flag occluded 1, not 2, none 3) of absent, occluded, visible, unknown.
TARGETS: dict[str, tuple[str, Callable[[Path, str], Arrived], tuple[int, ...]]] = {
    "coco": ("out.json", from_coco, (0, 1, 2, 2)), "crowdpose": ("out.json", from_coco, (0, 1, 2, 2)),
    "mpii": ("out.json", from_arrays, (0, 1, 1, 1)), "mpii h5": ("out.h5", from_arrays, (0, 0, 1, 1)),
    "lsp": ("joints.mat", from_arrays, (1, 1, 0, 0)), "labelme": ("folder", from_labelme, (0, 1, 2, 3)),
    "yolo": ("folder", from_yolo, (0, 1, 2, 2)), "coco_results": ("out.json", from_coco, (0, 1, 1, 1)),
}  # fmt: skip


def expected(source: str, target: str) -> Arrived:
    count, base = 3 - ((source, target) in LEFT_OUT), int("mpii" in target)
    keypoints = np.full((count, 12, 3), {"mpii": -1.0, "lsp": np.nan}.get(target, 0.0))
    for p in range(count):
        for i, seen in enumerate(map(int, SEEN[source][p][0])):
            keypoints[p, i, 2] = TARGETS[target][2][seen]
            if seen or ((source, p, i) == ("coco", 0, 5) and target not in ("labelme", "mpii h5")):
                keypoints[p, i, :2] = np.add(XY[p][i], base)
    boxes = np.array(BOXES[source][:count], float)
    if base:  # centre and height
        boxes = np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2 + 1, boxes[:, 3]])
    elif target in ("lsp", "coco_results") or (target == "labelme" and source in ("mpii", "lsp")):
        boxes = boxes[:0]
    names: list[Any] = ["im0001.jpg", "im0002.jpg", "im0003.jpg"] if source == "lsp" else ["a.jpg", "a.jpg", "b.jpg"]
    names = {"coco_results": IMAGE_IDS.get(source, [1, 1, 2]), "lsp": []}.get(target, names)
    return list(keypoints), list(boxes), names[:count]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_keypoints_boxes_and_images_arrive(datasets: dict[str, Any], source: str, target: str, tmp_path: Path) -> None:
    """Coordinates in the target's base, its own visibility, boxes (or what it has for them) and images are right."""
    path, _ = convert(datasets[source], target, tmp_path, allow_lossy=True)
    found, wanted = TARGETS[target][1](path, source), expected(source, target)
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-9)
    assert found[2] == wanted[2]


@pytest.mark.parametrize("source", FILES)
def test_kp_holds_every_format(datasets: dict[str, Any], source: str, tmp_path: Path) -> None:
    """A .kp folder is written without allow_lossy and is the dataset again when opened."""
    assert kpdata.write(datasets[source], tmp_path / "out.kp").losses == {}
    assert kpdata.read(tmp_path / "out.kp") == datasets[source]


@pytest.mark.parametrize("source", ["mpii", "lsp"])
def test_yolo_needs_sizes(datasets: dict[str, Any], source: str, tmp_path: Path) -> None:
    """MPII and LSP know no image sizes: YOLO's fractions cannot be made, and nothing is written."""
    with pytest.raises(SchemaError, match=r"no width and height.*--images"):
        convert(datasets[source], "yolo", tmp_path, allow_lossy=True)
    assert list(tmp_path.iterdir()) == []


BESIDE: dict[str, Any] = {"coco": {"info": {"year": 2017}, "licenses": [{"id": 3}]}, "mpii": {"version": "12"}}


@pytest.mark.parametrize(("source", "target"), [p for p in LOSSES if p[0] in BESIDE and p != ("coco", "crowdpose")])
def test_other_keys_are_counted(datasets: dict[str, Any], source: str, target: str, tmp_path: Path) -> None:
    """COCO's `info` and `licenses`, the `version` of MPII's release: the report says that they have no place."""
    full = kpdata.read(FILES[source](tmp_path, **BESIDE[source]))
    _, report = convert(full, target, tmp_path / "full", allow_lossy=True)
    _, bare = convert(datasets[source], target, tmp_path / "bare", allow_lossy=True)
    assert sum(report.losses.values()) > sum(bare.losses.values())


def test_crowdpose_as_coco_is_the_same_file(datasets: dict[str, Any], tmp_path: Path) -> None:
    """crowdIndex, num_keypoints and the category as the source has them: the two formats have one shape."""
    path, _ = convert(datasets["crowdpose"], "coco", tmp_path)
    assert json.loads(path.read_text()) == json.loads(crowdpose_file(tmp_path).read_text())


def test_masks_crowds_and_areas_arrive_in_crowdpose(datasets: dict[str, Any], tmp_path: Path) -> None:
    """Keys of COCO that CrowdPose's own files lack are written along, and the ids with them."""
    path, _ = convert(datasets["coco"], "crowdpose", tmp_path, allow_lossy=True)
    pair = zip(*(json.loads(file.read_text())["annotations"] for file in (path, coco_file(tmp_path))), strict=True)
    for row, source in pair:
        for key in ("id", "image_id", "area", "iscrowd", "segmentation", "bbox"):
            assert row[key] == source[key]


def test_head_centre_and_scale_arrive_in_coco(datasets: dict[str, Any], tmp_path: Path) -> None:
    """MPII's own fields become keys of the annotation, 0-based; the made box says what it was made from."""
    path, _ = convert(datasets["mpii"], "coco", tmp_path, allow_lossy=True)
    rows = json.loads(path.read_text())["annotations"]
    assert [row.get("head_bbox") for row in rows] == [[100, 30, 30, 40], [200, 30, 30, 40], None]
    assert [row["center"] for row in rows] == [[155, 170], [255, 180], [355, 195]]
    assert [row["scale"] for row in rows] == [1.25, 1.25, 0.75]
    assert {row["bbox_source"] for row in rows} == {"center_scale"}


def test_pelvis_and_thorax_are_midpoints_in_mpii(datasets: dict[str, Any], tmp_path: Path) -> None:
    """Of hips and shoulders (1-based), as MPII made its own; missing where a parent is, as both are for the crowd."""
    path, _ = convert(datasets["coco"], "mpii", tmp_path, allow_lossy=True)
    joints = [row["joints"][6:8] for row in json.loads(path.read_text())]
    assert joints == [[[166, 181], [106, 61]], [[266, 191], [206, 71]], [[-1, -1], [-1, -1]]]


def test_a_polygon_arrives_in_coco(datasets: dict[str, Any], tmp_path: Path) -> None:
    """The person's polygon is the annotation's segmentation; the car is nobody's."""
    path, _ = convert(datasets["labelme"], "coco", tmp_path, allow_lossy=True)
    assert [row.get("segmentation") for row in json.loads(path.read_text())["annotations"]] == [[POLYGON], None, None]
