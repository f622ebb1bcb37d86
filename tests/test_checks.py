"""The lint: each fault, planted alone in a clean dataset, is found; clean and real files have no errors."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kpdata import checks, schema
from kpdata.converters import coco, coco_results, crowdpose
from kpdata.dataset import Dataset, open_dataset
from kpdata.errors import FormatError, SchemaError
from kpdata.skeleton import load

NAMES = list(load("coco_17").keypoint_names)
# A person who stands upright and faces the camera, drawn by hand: left is on the right-hand side of the image.
STANDING = [
    *[(100, 50), (105, 45), (95, 45), (110, 48), (90, 48)],
    *[(120, 80), (80, 80), (130, 110), (70, 110), (135, 140), (65, 140)],
    *[(112, 150), (88, 150), (114, 190), (86, 190), (115, 230), (85, 230)],
]


def person(number: int, *, dx: float = 0, **fields: Any) -> dict[str, Any]:
    """A clean annotation; person `number` is in image `number`, moved by `dx` px."""
    flat = [value for x, y in STANDING for value in (x + dx, y, 2)]
    own = {"id": number, "image_id": number, "category_id": 1, "keypoints": flat, "num_keypoints": 17, "iscrowd": 0}
    return {**own, "bbox": [60 + dx, 30, 80, 210], "area": 9000, **fields}


def document(*people: dict[str, Any], **category: Any) -> dict[str, Any]:
    """A COCO document with an image of 300 x 250 px for each person and an ordinary category."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 300, "height": 250} for n in range(1, len(people) + 1)]
    own = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[16, 14], [14, 12]]}
    return {"images": images, "annotations": list(people), "categories": [{**own, **category}]}


def clean() -> dict[str, Any]:
    """Three people without a fault; the third has an occluded and an absent keypoint."""
    third = person(3, dx=20, num_keypoints=16)
    third["keypoints"][9 * 3 + 2] = 1
    third["keypoints"][10 * 3 : 11 * 3] = [0, 0, 0]
    return document(person(1), person(2, dx=10), third)


def found(raw: dict[str, Any] | Dataset, **options: Any) -> list[tuple[Any, ...]]:
    """(level, code, image, annotation, keypoint) of all findings."""
    dataset = raw if isinstance(raw, Dataset) else coco.decode(raw)
    rows = checks.validate(dataset, **options).to_pylist()
    return [(r["level"], r["code"], r["image_id"], r["annotation_id"], r["keypoint"]) for r in rows]


NAN, INF = float("nan"), float("inf")
OF_PERSON = (2, 2, None)  # image, annotation, keypoint
OF_DATASET = (None, None, None)
IDENTITY = list(range(17))


def nose(*values: float) -> Any:
    """A fault: the second person's nose, 110, 50, 2 when clean, becomes `values`."""

    def plant(raw: dict[str, Any]) -> None:
        raw["annotations"][1]["keypoints"][:3] = values

    return plant


def field(key: str, value: Any) -> Any:
    """A fault: the second person's field becomes `value`."""
    return lambda raw: raw["annotations"][1].__setitem__(key, value)


def category(key: str, value: Any) -> Any:
    """A fault of the category."""
    return lambda raw: raw["categories"][0].__setitem__(key, value)


# Plant it, the finding (and others that are right, too) at the nose, the person or the dataset, words of its message.
# The second person's bbox is 70, 30, 80, 210 (10 % of its width are 8 px) in an image of 300 x 250 px.
AT_NOSE = [
    (nose(110, 50, 7), "error visibility-value", "v is 7, expected 0, 1 or 2"),
    (nose(110, 50, 0.4), "error visibility-value", "v is 0.4, expected 0, 1 or 2"),
    (nose(110, 50, 3), "error visibility-value", "v is 3, expected 0, 1 or 2"),
    (nose(NAN, 50, 2), "error keypoint-not-finite", "at (nan, 50) with v 2, expected finite"),
    (nose(110, INF, 2), "error keypoint-not-finite", "at (110, inf)"),
    (nose(158.5, 50, 1), "warning keypoint-outside-bbox", "11% of a side outside bbox 70, 30, 80, 210"),
]
OF_THE_PERSON = [
    (field("bbox", [70, NAN, 80, 210]), "error number-not-finite", "bbox is 70, nan, 80, 210, expected finite numbers"),
    (field("area", INF), "error number-not-finite", "area is inf, expected finite numbers"),
    (field("category_id", 4), "error category-unknown", "category 4 is not listed, expected one of [1]"),
    (field("num_keypoints", 5), "warning num-keypoints", "num_keypoints is 5, expected 17"),
    (field("bbox", [70, 30, 0, 210]), "warning bbox-size", "bbox 70, 30, 0, 210: width and height expected above 0"),
    (field("bbox", [70, 30, 80, -5]), "warning bbox-size", "bbox 70, 30, 80, -5"),
    (field("bbox", [70, 30, 232, 210]), "warning bbox-outside-image", "leaves by 2 px the image of 300 x 250 px"),
    (field("area", 0), "warning area-not-positive", "area is 0, expected square px above 0"),
    (field("area", -3), "warning area-not-positive", "area is -3"),
    (field("area", 17000), "warning area-above-bbox", "area is 17000, expected at most its bbox's 16800"),
]
OF_THE_DATASET = [
    (category("skeleton", [[16, 14], [14, 18]]), "error category-edges", "[[14, 18]], expected pairs of whole numbers"),
    (
        category("skeleton", [[1, 2, 3]]),
        "error category-edges",
        "[[1, 2, 3]], expected pairs of whole numbers from 1 to",
    ),
    (
        category("skeleton", [[0, 1], [3, 17]]),
        "error category-edges",
        "[[3, 17]], expected pairs of whole numbers from 0",
    ),
    (category("flip_idx", [1, 2, 0, *IDENTITY[3:]]), "error category-flips", "an order that flipping twice undoes"),
    (category("flip_indices", [1, 0]), "error category-flips", "flip_indices [1, 0], expected 0 to 16"),
    (
        category("flip_pairs", [[1, 2], [2, 3]]),
        "error category-flips",
        "name 2 more than once, expected each keypoint in",
    ),
    (category("sigmas", [0.1] * 16), "error category-sigmas", "16 sigmas, 16 of them numbers above 0, expected 17"),
    (category("sigmas", [0.1] * 16 + [0]), "error category-sigmas", "17 sigmas, 16 of them numbers above 0"),
]
PLANTED = [
    *[(plant, code, (2, 2, "nose"), words) for plant, code, words in AT_NOSE],
    *[(plant, code, OF_PERSON, words) for plant, code, words in OF_THE_PERSON],
    *[(plant, code, OF_DATASET, words) for plant, code, words in OF_THE_DATASET],
    (field("image_id", 9), "error image-unknown", (9, 2, None), "image 9 is not listed"),
]


def test_clean_dataset_has_no_finding() -> None:
    """People without a fault give an empty table of the findings' own schema."""
    findings = checks.validate(coco.decode(clean()))

    assert findings.num_rows == 0
    assert findings.schema == checks.FINDINGS
    assert checks.summary(findings) == {"error": {}, "warning": {}, "note": {}}


@pytest.mark.parametrize(("plant", "code", "place", "words"), PLANTED)
def test_one_planted_fault(plant: Any, code: str, place: tuple[Any, ...], words: str) -> None:
    """One fault gives one finding, at its place, which says what was found and what was expected."""
    raw = clean()
    plant(raw)

    assert found(raw) == [(*code.split(), *place)]
    assert words in checks.validate(coco.decode(raw))["message"].to_pylist()[0]


@pytest.mark.parametrize(
    ("plant", "codes", "words"),
    [
        (nose(110, 50, 0), ["num-keypoints", "unlabelled-with-coordinates"], "v is 0 at (110, 50), expected 0, 0 or"),
        (nose(0, 50, 0), ["num-keypoints", "unlabelled-with-coordinates"], "v is 0 at (0, 50)"),
        (nose(300, 50, 2), ["keypoint-outside-bbox", "keypoint-outside-image"], "inside the image of 300 x 250 px"),
        (nose(110, -0.6, 2), ["keypoint-outside-bbox", "keypoint-outside-image"], "at (110, -0.6), expected inside"),
        (nose(0, 0, 2), ["keypoint-outside-bbox", "labelled-at-origin"], "v is 2 at (0, 0), expected a v of 0 there"),
    ],
)
def test_one_fault_of_two_kinds(plant: Any, codes: list[str], words: str) -> None:
    """A lost flag changes the count as well, and what leaves the image leaves the box."""
    raw = clean()
    plant(raw)
    messages = {r["code"]: r["message"] for r in checks.validate(coco.decode(raw)).to_pylist()}

    assert sorted(messages) == codes
    assert words in messages[codes[-1]]


def test_all_faults_in_one_run() -> None:
    """Nothing hides behind another fault, and errors come first."""
    raw = clean()
    for plant in (nose(NAN, 50, 2), field("num_keypoints", 5), category("sigmas", [1.0])):
        plant(raw)
    raw["annotations"][2]["keypoints"][2] = 9
    raw["annotations"][2]["area"] = 0

    assert found(raw) == [
        ("error", "category-sigmas", *OF_DATASET),
        ("error", "keypoint-not-finite", 2, 2, "nose"),
        ("error", "visibility-value", 3, 3, "nose"),
        ("warning", "num-keypoints", *OF_PERSON),
        ("warning", "area-not-positive", 3, 3, None),
    ]
    assert checks.summary(checks.validate(coco.decode(raw))) == {
        "error": {"category-sigmas": 1, "keypoint-not-finite": 1, "visibility-value": 1},
        "warning": {"num-keypoints": 1, "area-not-positive": 1},
        "note": {},
    }


def test_file_is_the_image_or_the_annotation_file() -> None:
    """A finding about a person names the image; one about the dataset names the annotation file."""
    raw = clean()
    raw["annotations"][1]["area"] = 0
    raw["annotations"][2]["image_id"] = 77
    raw["categories"][0]["sigmas"] = [1.0]
    dataset = coco.decode(raw, provenance={"files": [{"name": "train.json"}]})

    files = {r["code"]: (r["dataset"], r["file"]) for r in checks.validate(dataset).to_pylist()}

    expected = {"area-not-positive": ("coco", "2.jpg"), "image-unknown": ("coco", "train.json")}
    assert files == {**expected, "category-sigmas": ("coco", "train.json")}


# ------------------------------------------------------------------------------------------------------ ids, categories


def test_repeated_annotation_id_is_the_later_one() -> None:
    """The first holder of an id is no fault; each later one is."""
    raw = clean()
    raw["annotations"][1]["id"] = raw["annotations"][2]["id"] = 1

    assert found(raw) == [("error", "annotation-id-repeated", n, 1, None) for n in (2, 3)]


def test_ids_are_of_their_dataset() -> None:
    """Two datasets side by side may use the same annotation ids."""
    one, other = coco.decode(clean(), name="one"), coco.decode(document(person(3)) | {"images": []}, name="other")
    persons = pa.concat_tables([one.persons, other.persons])
    both = Dataset(one.images, persons, one.skeletons, {**one.datasets, **other.datasets})

    assert found(both, checks=["annotation-id-repeated", "category-unknown"]) == []


def test_file_without_categories() -> None:
    """No category at all is one error, not one a person: pycocotools would evaluate nobody."""
    raw = clean() | {"categories": []}

    assert found(raw) == [("error", "category-unknown", *OF_DATASET)]


def test_two_skeletons_in_one_category() -> None:
    """A category whose people have 17 and 133 keypoints."""
    raw = clean()
    for key, count in (("foot_kpts", 6), ("face_kpts", 68), ("lefthand_kpts", 21), ("righthand_kpts", 21)):
        raw["annotations"][1][key] = [0] * 3 * count
    [row] = checks.validate(coco.decode(raw), checks=["category-skeletons"]).to_pylist()

    assert (row["level"], row["code"]) == ("warning", "category-skeletons")
    assert "coco_17 (17 keypoints, 2 people)" in row["message"]
    assert "coco_wholebody_133 (133 keypoints, 1 people)" in row["message"]


def test_crowdpose_edges_are_a_known_fault() -> None:
    """COCO's edges on CrowdPose's 14 keypoints are a note; any other edge beyond 14 is an error."""
    names = [*load("crowdpose_14").keypoint_names]
    one = person(1, keypoints=[v for x, y in STANDING[:14] for v in (x, y, 2)], num_keypoints=12)
    known = document(one, keypoints=names, skeleton=[[16, 14], [14, 12], [6, 8]])
    other = document(one, keypoints=names, skeleton=[[15, 1]])

    assert ("note", "category-edges", *OF_DATASET) in found(crowdpose.decode(known))
    assert ("error", "category-edges", *OF_DATASET) in found(crowdpose.decode(other))


def test_correct_flips_and_sigmas_pass() -> None:
    """What a careful exporter writes beside its category is no fault."""
    raw = clean()
    raw["categories"][0] |= {"flip_idx": [0, 2, 1, *IDENTITY[3:]], "sigmas": [0.1] * 17, "flip_pairs": [[1, 2], [3, 4]]}

    assert found(raw) == []


def test_reader_findings_are_kept() -> None:
    """What the reader saw (an image listed twice, differently) is in the table, with its image."""
    raw = clean()
    raw["images"].append({**raw["images"][0], "width": 999})

    assert found(raw) == [("error", "image-repeated", 1, None, None)]
    assert checks.validate(coco.decode(raw))["file"].to_pylist() == ["1.jpg"]
    assert found(raw, checks=["bbox-size"]) == []


# ------------------------------------------------------------------------------------------------- visibility dialects


def wholebody(part: str, number: int, v: float) -> dict[str, Any]:
    """A clean whole-body document but for one keypoint of a part, which has flag `v`."""
    one = person(1)
    for key, count in (("foot_kpts", 6), ("face_kpts", 68), ("lefthand_kpts", 21), ("righthand_kpts", 21)):
        one[key] = [90, 100, 1] * count
    own = one[part]
    own[3 * number + 2] = v
    return document(one)


@pytest.mark.parametrize(
    ("part", "v", "faults"),
    [
        ("keypoints", 0.5, ["nose"]),
        ("foot_kpts", 0.5, ["left_big_toe"]),
        ("face_kpts", 0.5, []),
        ("lefthand_kpts", 7.25, []),
        ("righthand_kpts", -0.5, ["right_hand_root"]),
        ("righthand_kpts", NAN, ["right_hand_root"]),
        ("righthand_kpts", INF, ["right_hand_root"]),
    ],
)
def test_wholebody_flags(part: str, v: float, faults: list[str]) -> None:
    """Face and hands of COCO-WholeBody take any number from 0 up; body and feet 0, 1, 2."""
    rows = checks.validate(coco.decode(wholebody(part, 0, v)), checks=["visibility-value"]).to_pylist()

    assert [row["keypoint"] for row in rows] == faults


def test_results_have_no_flags() -> None:
    """The third number of a result is a score, and a model may put two people on one place."""
    row = {"image_id": 1, "category_id": 1, "keypoints": [*person(1)["keypoints"][:-1], 7.5], "score": 0.3}

    assert found(coco_results.decode([{**row, "num_keypoints": 3}] * 2)) == []


def test_score_must_be_finite() -> None:
    """A NaN score of a result sorts anywhere."""
    rows = [{"image_id": 1, "category_id": 1, "keypoints": person(1)["keypoints"], "score": NAN}]

    assert found(coco_results.decode(rows)) == [("error", "number-not-finite", 1, 1, None)]


@pytest.mark.parametrize(
    ("skeleton", "k", "counted"),
    [
        ("crowdpose_14", 14, 12),
        ("halpe_26", 26, 17),
        ("halpe_136", 136, 17),
        ("coco_wholebody_133", 133, 17),
        ("mpii_16", 16, 16),
    ],
)
def test_num_keypoints_rule_of_each_format(skeleton: str, k: int, counted: int) -> None:
    """CrowdPose counts its first 12, whole-body files the 17 of the body, others all."""
    for stated in (counted, k + 1):
        one = person(1, keypoints=[100, 100, 2] * k, num_keypoints=stated)
        rows = checks.validate(coco.decode(document(one), skeleton=skeleton), checks=["num-keypoints"]).to_pylist()

        assert len(rows) == (stated != counted)
        if rows:
            assert f"num_keypoints is {stated}, expected {counted}" in rows[0]["message"]


# ------------------------------------------------------------------------------------------------------- coordinates


def test_zero_is_a_legal_coordinate() -> None:
    """x = 0 and y = 0 are pixels, and so is W - 1; only 0, 0 together is suspicious."""
    raw = clean()
    raw["annotations"][1]["bbox"] = [0, 0, 300, 250]
    for column, (x, y) in enumerate([(0, 45), (105, 0), (299, 45), (110, 249)]):
        raw["annotations"][1]["keypoints"][3 * column : 3 * column + 2] = [x, y]
    assert found(raw, checks=["keypoint-outside-image", "labelled-at-origin"]) == []

    raw["annotations"][1]["keypoints"][:2] = [0, 0]
    assert found(raw, checks=["keypoint-outside-image", "labelled-at-origin"]) == [
        ("warning", "labelled-at-origin", 2, 2, "nose")
    ]


def test_all_keypoints_at_one_point() -> None:
    """Three keypoints on one pixel are no body; two may be."""
    raw = clean()
    raw["annotations"][1]["keypoints"] = [100, 90, 2] * 3 + [0] * 42
    raw["annotations"][2]["keypoints"] = [100, 90, 2] * 2 + [0] * 45

    assert found(raw, checks=["keypoints-at-one-point"]) == [("warning", "keypoints-at-one-point", 2, 2, None)]


def test_rough_boxes_are_not_judged() -> None:
    """A box made from MPII's centre and scale does not claim to hold the person."""
    raw = clean()
    raw["annotations"][1]["bbox"] = [110, 30, 20, 500]
    assert {code for _, code, *_ in found(raw)} == {"bbox-outside-image", "keypoint-outside-bbox"}

    raw["annotations"][1]["bbox_source"] = "center_scale"
    assert found(raw) == []


def test_bbox_wholly_outside() -> None:
    """A box that does not touch its image is told apart from one that leaves it."""
    raw = clean()
    raw["annotations"][1]["bbox"] = [400, 30, 80, 210]
    table = checks.validate(coco.decode(raw), checks=["bbox-outside-image"])

    assert table["message"].to_pylist() == ["bbox 400, 30, 80, 210 is wholly outside the image of 300 x 250 px"]


def test_area_equal_to_bbox_in_a_whole_dataset() -> None:
    """One note where all areas are the boxes'; none where one differs."""
    raw = clean()
    for one in raw["annotations"]:
        one["area"] = 80 * 210
    assert found(raw) == [("note", "area-is-bbox", *OF_DATASET)]

    raw["annotations"][1]["area"] = 9000
    assert found(raw) == []


# -------------------------------------------------------------------------------------------------------------- people


def test_crowds_need_no_keypoints() -> None:
    """A crowd with all-zero keypoints is no fault; a person without keypoints is counted in one note."""
    raw = clean()
    raw["annotations"][1] |= {"keypoints": [0] * 51, "num_keypoints": 0, "iscrowd": 1}
    assert found(raw) == []

    raw["annotations"][1]["iscrowd"] = 0
    del raw["annotations"][2]["keypoints"]
    raw["annotations"][2]["num_keypoints"] = 0
    [row] = checks.validate(coco.decode(raw)).to_pylist()
    assert (row["level"], row["code"]) == ("note", "people-without-keypoints")
    assert row["message"].startswith("2 of 3 people")


def moved(raw: dict[str, Any], dx: float) -> None:
    """Put a copy of the first person, moved by dx px, into the first image, in place of the second."""
    raw["annotations"][1] = person(2, dx=dx) | {"image_id": 1}


def naive_oks(a: list[float], b: list[float], area: float) -> float:
    """OKS of two fully labelled COCO people, keypoint by keypoint."""
    from pycocotools.cocoeval import Params

    terms = []
    for k, sigma in enumerate(Params("keypoints").kpt_oks_sigmas):
        d2 = (a[3 * k] - b[3 * k]) ** 2 + (a[3 * k + 1] - b[3 * k + 1]) ** 2
        terms.append(np.exp(-d2 / (2 * area * (2 * sigma) ** 2)))
    return float(np.mean(terms))


@pytest.mark.parametrize("dx", [0, 1, 3, 5, 12])
def test_the_same_person_twice(dx: float) -> None:
    """The later of two people is found where OKS is above 0.95 and box IoU above 0.9, by a loop of our own."""
    raw = clean()
    moved(raw, dx)
    oks = naive_oks(person(1)["keypoints"], person(2, dx=dx)["keypoints"], 0.53 * 80 * 210)
    iou = (80 - dx) / (80 + dx)
    rows = checks.validate(coco.decode(raw)).to_pylist()

    if oks > 0.95 and iou > 0.9:
        [row] = rows
        assert (row["code"], row["annotation_id"]) == ("duplicate-people", 2)
        assert f"the same person as annotation 1: OKS {oks:.3f}, box IoU {iou:.3f}" in row["message"]
    else:
        assert rows == []
    assert (dx <= 1) == bool(rows)  # the cases fall on both sides


def test_the_same_pose_in_another_image_or_half_labelled() -> None:
    """Equal people of two images are two; of one image they need half of the keypoints in common."""
    raw = clean()
    raw["annotations"][1] = person(2)
    assert found(raw) == []

    moved(raw, 0)
    raw["annotations"][1]["keypoints"][: 3 * 9] = [0] * 27
    raw["annotations"][1]["num_keypoints"] = 8
    assert found(raw) == []

    raw["annotations"][1]["keypoints"][3 * 8 : 3 * 9] = person(2)["keypoints"][3 * 8 : 3 * 9]
    raw["annotations"][1]["num_keypoints"] = 9
    assert found(raw) == [("warning", "duplicate-people", 1, 2, None)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_duplicates_agree_with_every_pair(people: list[tuple[int, int, int]]) -> None:
    """The sweep finds what comparing every pair finds, in any order of images and boxes."""
    raw = document(*(person(n + 1) | {"image_id": image} for n, (image, _, _) in enumerate(people)))
    raw["images"] = [{"id": n, "file_name": f"{n}.jpg", "width": 300, "height": 400} for n in (1, 2, 3)]
    for one, (_, dx, dy) in zip(raw["annotations"], people, strict=True):
        one["bbox"][0] += dx  # 3 or 4 px are as far apart as two boxes of IoU 0.9 can be
        one["bbox"][1] += dy
        one["keypoints"][1::3] = [y + dy for y in one["keypoints"][1::3]]

    expected = []
    for j, b in enumerate(raw["annotations"]):
        for a in raw["annotations"][:j]:
            common = max(80 - abs(a["bbox"][0] - b["bbox"][0]), 0) * max(210 - abs(a["bbox"][1] - b["bbox"][1]), 0)
            same = naive_oks(a["keypoints"], b["keypoints"], 0.53 * 80 * 210) > 0.95
            if a["image_id"] == b["image_id"] and same and common / (2 * 80 * 210 - common) > 0.9:
                expected.append((b["id"], a["id"]))
                break
    rows = checks.validate(coco.decode(raw), checks=["duplicate-people"]).to_pylist()

    assert [(r["annotation_id"], int(r["message"].split("annotation ")[1].split(":")[0])) for r in rows] == expected


def swap(flat: list[float], *pairs: tuple[int, int]) -> list[float]:
    """The keypoints with some columns exchanged."""
    block = np.array(flat).reshape(-1, 3)
    for a, b in pairs:
        block[[a, b]] = block[[b, a]]
    return block.ravel().tolist()


TORSO = ((5, 6), (11, 12))


@pytest.mark.parametrize(
    ("pairs", "hidden", "swapped"),
    [
        (TORSO, None, True),
        (((1, 2), (3, 4), *TORSO), None, True),  # a mirrored picture whose labels were not swapped
        (((5, 6),), None, False),  # shoulders alone: a twisted body
        (TORSO, 0, False),  # no nose: seen from behind
        (TORSO, 5, False),
        ((), None, False),
    ],
)
def test_left_and_right_swapped(pairs: tuple[tuple[int, int], ...], hidden: int | None, swapped: bool) -> None:
    """Only a visible face above shoulders and hips that are both crossed is suspicious."""
    raw = clean()
    flat = swap(raw["annotations"][1]["keypoints"], *pairs)
    if hidden is not None:
        flat[3 * hidden + 2] = 1
    raw["annotations"][1]["keypoints"] = flat

    assert found(raw) == ([("warning", "left-right-swapped", 2, 2, None)] if swapped else [])


def test_swap_is_not_judged_lying_or_in_profile() -> None:
    """A body that is not upright, and a nose that is not between the eyes, say nothing about left and right."""
    lying, profile = clean(), clean()
    flat = np.array(swap(lying["annotations"][1]["keypoints"], *TORSO)).reshape(-1, 3)
    flat[:, :2] = flat[:, 1::-1]
    flat[:, 0] = 300 - flat[:, 0]
    lying["annotations"][1]["keypoints"] = flat.ravel().tolist()
    profile["annotations"][1]["keypoints"] = swap(profile["annotations"][1]["keypoints"], *TORSO)
    profile["annotations"][1]["keypoints"][0] = 130

    assert found(lying, checks=["left-right-swapped"]) == found(profile, checks=["left-right-swapped"]) == []


def test_limb_length_outlier() -> None:
    """A wrist on the other side of the image is found by the forearm; a set without spread makes nobody else one."""
    rng = np.random.default_rng(0)
    people = [person(n) for n in range(1, 41)]
    for one in people:
        one["keypoints"][0::3] = (np.array(one["keypoints"][0::3]) + rng.normal(0, 2, 17)).tolist()
    people[6]["keypoints"][3 * 9 : 3 * 9 + 2] = [290, 240]
    [row] = checks.validate(coco.decode(document(*people)), checks=["limb-length"]).to_pylist()

    assert (row["level"], row["annotation_id"], row["keypoint"]) == ("warning", 7, None)
    assert row["message"].startswith(("left_wrist to left_elbow", "left_elbow to left_wrist"))
    assert found(document(*people[:29]), checks=["limb-length"]) == []  # too few people to say what is usual


def test_limb_z_is_that_of_a_loop() -> None:
    """The robust z-score in the message is (x - median) / (1.4826 MAD) of the log lengths, person by person."""
    rng = np.random.default_rng(1)
    people = [person(n) for n in range(1, 42)]
    for one in people:  # shins of about 40 px, some half as long again
        one["keypoints"][3 * 15 + 1] = 190 + 40 * float(np.exp(rng.normal(0, 0.2)))
    people[3]["keypoints"][3 * 15 : 3 * 15 + 3] = [0, 0, 0]  # not labelled: left out of the median
    people[5]["keypoints"][3 * 15 : 3 * 15 + 2] = [290, 20]
    [row] = checks.validate(coco.decode(document(*people)), checks=["limb-length"]).to_pylist()

    shins = [p[45:47] + p[39:41] for p in (one["keypoints"] for one in people) if p[47] > 0]
    logs = [np.log(np.hypot(x1 - x0, y1 - y0) / np.sqrt(80 * 210)) for x1, y1, x0, y0 in shins]
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    assert spread > 0.1
    assert f"(z {(max(logs) - np.median(logs)) / spread:.1f}, expected at most 6)" in row["message"]


# ---------------------------------------------------------------------------------------------------- unused classes


def many(count: int, column: int, v: int, other: int = 1) -> dict[str, Any]:
    """`count` people with one keypoint flagged `v` throughout and the first one's left ear flagged `other`."""
    people = [person(n) for n in range(1, count + 1)]
    for one in people:
        one["keypoints"][3 * column : 3 * column + 3] = [0, 0, 0] if v == 0 else [100, 50, v]
        one["num_keypoints"] = 17 - (v == 0)
    people[0]["keypoints"][3 * 3 + 2] = other
    return document(*people)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (many(50, 0, 1), [("warning", "nose")]),
        (many(50, 0, 0), [("warning", "nose")]),
        (many(49, 0, 1), []),
        (many(49, 0, 0), []),
        (many(50, 0, 2), []),
        (many(50, 0, 2, other=2), [("note", None)]),
    ],
    ids=["never visible", "never labelled", "too few 1", "too few 0", "in use", "nothing occluded"],
)
def test_visibility_class_never_used(raw: dict[str, Any], expected: list[tuple[str, str | None]]) -> None:
    """A keypoint never visible or never labelled among 50 people, and a dataset without occlusion, are told."""
    rows = checks.validate(coco.decode(raw), checks=["visibility-unused"]).to_pylist()

    assert [(r["level"], r["keypoint"]) for r in rows] == expected


# -------------------------------------------------------------------------------------------------------------- images


def test_images_without_name_or_size() -> None:
    """One note for names and one for sizes, with counts; unknown sizes judge no box."""
    raw = clean()
    raw["images"][0] = {"id": 1}
    raw["images"][1] = {"id": 2, "file_name": "2.jpg"}
    raw["annotations"][1]["bbox"] = [60, 20, 800, 300]
    messages = checks.validate(coco.decode(raw))["message"].to_pylist()

    assert [m.split(" images")[0] for m in messages] == ["1 of 3", "2 of 3"]
    assert "file name" in messages[0] and "width and height" in messages[1]


def pictures(folder: Path, raw: dict[str, Any]) -> None:
    """A gray JPEG of the stated size for every image."""
    for image in raw["images"]:
        Image.effect_noise((image["width"], image["height"]), 40).convert("RGB").save(folder / image["file_name"])


def rotated(path: Path, size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def test_sound_pictures(tmp_path: Path) -> None:
    """Files that are there, whole, upright and of the stated size give nothing."""
    pictures(tmp_path, clean())

    assert found(clean(), images=tmp_path) == []


def test_missing_picture(tmp_path: Path) -> None:
    """Each missing file is an error, which says how many there are."""
    pictures(tmp_path, clean())
    (tmp_path / "2.jpg").unlink()
    [row] = checks.validate(coco.decode(clean()), images=tmp_path).to_pylist()

    assert (row["level"], row["code"], row["image_id"], row["file"]) == ("error", "image-missing", 2, "2.jpg")
    assert row["message"] == f"no such file: {tmp_path / '2.jpg'} (1 of 3 are missing)"


def test_wrong_folder(tmp_path: Path) -> None:
    """A folder that has none of the files is one error, with an example."""
    [row] = checks.validate(coco.decode(clean()), images=tmp_path).to_pylist()

    assert (row["level"], row["code"], row["image_id"]) == ("error", "image-missing", None)
    assert f"none of 3 image files is in {tmp_path}, e.g. {tmp_path / '1.jpg'}" in row["message"]


@pytest.mark.parametrize(
    ("size", "orientation", "expected", "words"),
    [
        ((299, 250), 1, [("error", "image-size")], "has 299 x 250 px, the annotations say 300 x 250 px"),
        ((250, 300), 1, [("error", "image-size")], "width and height are swapped"),
        (
            (250, 300),
            6,
            [("warning", "image-rotated")],
            "EXIF orientation 6 on 250 x 300 px, the annotations say 300 x",
        ),
        ((300, 250), 6, [("warning", "image-rotated")], "EXIF orientation 6"),
        ((300, 250), 3, [("warning", "image-rotated")], "EXIF orientation 3"),
        ((250, 300), 3, [("error", "image-size"), ("warning", "image-rotated")], "swapped"),
        ((300, 250), 1, [], ""),
    ],
)
def test_picture_size_and_rotation(
    tmp_path: Path, size: tuple[int, int], orientation: int, expected: list[tuple[str, str]], words: str
) -> None:
    """Another size is an error, unless it is the stated one before rotation; a rotated picture is a warning."""
    pictures(tmp_path, clean())
    rotated(tmp_path / "2.jpg", size, orientation)
    rows = checks.validate(coco.decode(clean()), images=tmp_path).to_pylist()

    assert [(r["level"], r["code"]) for r in rows] == expected
    assert all(r["file"] == "2.jpg" for r in rows)
    assert words in "".join(r["message"] for r in rows)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_unreadable_picture(tmp_path: Path, damage: str) -> None:
    """A file that breaks off half-way has a good header: only decoding finds it."""
    pictures(tmp_path, clean())
    data = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "text": b"404 not found"}[damage]
    )

    assert found(clean(), images=tmp_path) == [("error", "image-unreadable", 2, None, None)]


# ------------------------------------------------------------------------------------------------- the door, odd tables


def test_unknown_check_and_missing_folder(tmp_path: Path) -> None:
    """A wrong code is refused with the closest ones, a picture check without a folder says what it lacks."""
    dataset = coco.decode(clean())
    with pytest.raises(SchemaError, match=r"no check is named 'bbox-sise'. did you mean bbox-size"):
        checks.validate(dataset, checks=["bbox-sise"])
    with pytest.raises(SchemaError, match=r"'image-size' opens the pictures. say which folder"):
        checks.validate(dataset, checks=["image-size"])
    with pytest.raises(FormatError, match="there is no such folder"):
        checks.validate(dataset, images=tmp_path / "nowhere")


def test_chosen_checks_alone() -> None:
    """With codes, only those run."""
    raw = clean()
    raw["annotations"][1] |= {"area": 0, "num_keypoints": 3}

    assert [code for _, code, *_ in found(raw, checks=["area-not-positive"])] == ["area-not-positive"]


def test_empty_dataset_and_null_columns(tmp_path: Path) -> None:
    """No people, no images, or nothing but ids: every check runs and raises nothing."""
    (tmp_path / "a").mkdir()
    nothing = Dataset(schema.table(schema.IMAGES, 0, {}), schema.table(schema.PERSONS, 0, {}))
    ids = {"annotation_id": schema.fixed([1, 2], pa.int64()), "image_id": schema.fixed([1, 1], pa.int64())}
    images = schema.table(schema.IMAGES, 1, {"image_id": schema.fixed([1], pa.int64())})
    bare = Dataset(images, schema.table(schema.PERSONS, 2, ids))

    assert found(nothing, images=tmp_path / "a") == []
    assert [code for _, code, *_ in found(bare)] == ["people-without-keypoints", *["image-without-facts"] * 2]


def test_mixed_skeletons() -> None:
    """Two categories with other keypoints in one file: each is judged by its own names."""
    raw = clean()
    horse = {"id": 2, "name": "horse", "keypoints": ["nose", "withers", "tail"], "skeleton": [[1, 2], [2, 3]]}
    raw["categories"].append(horse)
    raw["annotations"][1] |= {"category_id": 2, "keypoints": [75, 40, 2, 100, 50, 9, 140, 60, 2], "num_keypoints": 3}

    assert found(raw) == [("error", "visibility-value", 2, 2, "withers")]


def test_findings_survive_saving(tmp_path: Path) -> None:
    """A dataset saved and opened again has the same findings: nothing hangs on the reader's own objects."""
    raw = clean()
    raw["annotations"][1]["keypoints"][:3] = [NAN, 50, 7]
    raw["annotations"][2]["image_id"] = 8
    dataset = coco.decode(raw)
    dataset.save(tmp_path / "a.kp")

    assert found(open_dataset(tmp_path / "a.kp")) == found(dataset) != []


@given(st.data())
def test_any_numbers_are_judged_and_none_raises(data: Any) -> None:
    """Whatever a JSON file can hold, each bad flag, NaN label and non-finite box or area is one error."""
    number = st.sampled_from([0, 1, 2, 3, 0.5, -1, 100, 1e300, NAN, INF, -INF])
    raw = clean()
    for one in raw["annotations"]:
        one["keypoints"] = data.draw(st.lists(number, min_size=51, max_size=51))
        one["bbox"] = data.draw(st.lists(number, min_size=4, max_size=4))
        one["area"] = data.draw(number)
    before = copy.deepcopy(raw)

    counts = Counter(code for level, code, *_ in found(raw) if level == "error")

    triples = [one["keypoints"][i : i + 3] for one in before["annotations"] for i in range(0, 51, 3)]
    assert counts["visibility-value"] == sum(v not in (0, 1, 2) for _, _, v in triples)
    wrong = [any(abs(c) == INF for c in (x, y)) or (v > 0 and (x != x or y != y)) for x, y, v in triples]
    assert counts["keypoint-not-finite"] == sum(wrong)
    lists = [[one["area"]] for one in before["annotations"]] + [one["bbox"] for one in before["annotations"]]
    assert counts["number-not-finite"] == sum(not np.isfinite(numbers).all() for numbers in lists)


def test_pandas_stays_out() -> None:
    """Linting imports neither pandas nor, without pictures, an image library."""
    code = (
        "import sys; from kpdata import checks; from kpdata.converters import coco; "
        "person = {'id': 1, 'image_id': 1, 'keypoints': [0, 0, 7] * 17}; "
        "raw = {'images': [], 'annotations': [person], 'categories': []}; "
        "assert checks.validate(coco.decode(raw)).num_rows > 17; "
        "print([m for m in ('pandas', 'PIL', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )

    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------- real files

REAL = [
    "coco_mini/person_keypoints_val2017.json",
    "coco_mini/person_keypoints_train2017.json",
    "coco_val2017_538img_dupimages.json",
    "coco_mmpose4/test_coco.json",
    "coco_mmpose4/test_coco_wholebody.json",
    "coco_mmpose4/wholebody_val_5img.json",
    "coco_mmpose4/test_halpe.json",
    "crowdpose/crowdpose_val.json",
    "crowdpose/example_crowdpose_val.json",
    "other/aic/test_aic.json",
    "other/humanart/test_humanart.json",
    "other/jhmdb/test_jhmdb_sub1.json",
    "other/ochuman/test_ochuman.json",
    "other/posetrack18/test_posetrack18_val.json",
]


def read(path: Path) -> Dataset:
    return crowdpose.read(path) if "crowdpose" in path.name else coco.read(path)


@pytest.mark.parametrize("name", REAL)
def test_published_files_have_no_error(real_data: Path, name: str) -> None:
    """Nothing that the data sets' authors published is called an error."""
    assert checks.summary(checks.validate(read(real_data / name)))["error"] == {}


def test_real_pictures(real_data: Path) -> None:
    """79 photographs, two of them gray, are as their annotations say."""
    dataset = read(real_data / "coco_mini/person_keypoints_val2017.json")

    assert found(dataset, images=real_data / "coco_mini/val2017", checks=list(checks.PICTURE_CHECKS)) == []


def test_crowdpose_val(real_data: Path) -> None:
    """The facts of CrowdPose's validation set that were counted by hand."""
    path = real_data / "crowdpose/crowdpose_val.json"
    findings = checks.validate(read(path))
    summary = checks.summary(findings)
    rows = findings.to_pylist()

    assert "num-keypoints" not in summary["warning"]  # 8,527 of 8,527 right by CrowdPose's rule
    assert "labelled-at-origin" not in summary["warning"]  # 29 labelled at x = 0 or y = 0, none at both
    assert summary["warning"]["keypoint-outside-image"] == 9  # 8 negative, 1 at the far edge
    assert "bbox-outside-image" not in summary["warning"]
    never = [r["keypoint"] for r in rows if r["code"] == "visibility-unused"]
    assert never == ["top_head", "neck"]  # 7,178 and 7,392 times 1, never 2
    assert summary["note"]["category-edges"] == 1
    twice = {r["annotation_id"]: r["message"] for r in rows if r["code"] == "duplicate-people"}
    assert "annotation 131234: OKS 1.000" in twice[144344]
    lone = sum(not any(a["keypoints"][2::3]) and not a["iscrowd"] for a in json.loads(path.read_bytes())["annotations"])
    assert next(r["message"] for r in rows if r["code"] == "people-without-keypoints").startswith(f"{lone} of ")


def test_keypoints_outside_their_box_as_a_loop_counts(real_data: Path) -> None:
    """CrowdPose's 1,832 keypoints more than a tenth outside their box, counted one by one from the JSON."""
    path = real_data / "crowdpose/crowdpose_val.json"
    expected = []
    for one in json.loads(path.read_bytes())["annotations"]:
        x0, y0, w, h = one["bbox"]
        if w > 0 and h > 0:
            for k in range(14):
                x, y, v = one["keypoints"][3 * k : 3 * k + 3]
                beyond = max((x0 - x) / w, (x - x0 - w) / w, (y0 - y) / h, (y - y0 - h) / h)
                expected += [(one["id"], k)] if v > 0 and beyond > 0.1 else []
    rows = checks.validate(read(path), checks=["keypoint-outside-bbox"]).to_pylist()
    names = load("crowdpose_14").keypoint_names

    assert [(r["annotation_id"], names.index(r["keypoint"])) for r in rows] == expected
    assert len(expected) > 1000


def test_538_images(real_data: Path) -> None:
    """Identical image entries are a note; crowds and people without keypoints are told apart."""
    path = real_data / "coco_val2017_538img_dupimages.json"
    findings = checks.validate(read(path)).to_pylist()
    notes = {r["code"]: r["message"] for r in findings if r["level"] == "note"}
    people = [a for a in json.loads(path.read_bytes())["annotations"] if not a["iscrowd"]]

    assert notes["image-repeated"] == "2,213 image entries for 538 images: identical repeats"
    lone = sum(a["num_keypoints"] == 0 for a in people)
    assert notes["people-without-keypoints"].startswith(f"{lone} of {len(people):,} people")


def test_halpe_and_wholebody_flags(real_data: Path) -> None:
    """Halpe: 39 unlabelled points with coordinates, its counts right for the body; WholeBody: float flags pass."""
    halpe = checks.summary(checks.validate(read(real_data / "coco_mmpose4/test_halpe.json")))
    whole = read(real_data / "coco_mmpose4/wholebody_val_5img.json")

    assert halpe["warning"] == {"unlabelled-with-coordinates": 39}
    assert schema.valid(whole.persons["visibility_raw"]).any()
    assert found(whole, checks=["visibility-value", "num-keypoints"]) == []


def test_full_box_areas(real_data: Path) -> None:
    """OCHuman and Human-Art state the whole box as area; COCO the mask's."""
    for name, expected in (("ochuman/test_ochuman", 1), ("humanart/test_humanart", 1)):
        assert len(found(read(real_data / f"other/{name}.json"), checks=["area-is-bbox"])) == expected
    assert found(read(real_data / "coco_mmpose4/test_coco.json"), checks=["area-is-bbox"]) == []


def test_results_with_flags_for_scores(real_data: Path) -> None:
    """Predictions of a real model have no error either."""
    predictions = coco_results.read(real_data / "coco_mini/movenet_multipose_val2017_results.json")

    assert checks.summary(checks.validate(predictions))["error"] == {}
