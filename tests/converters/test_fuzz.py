"""Damage of every kind to files of the COCO family and to a `.kp` folder: a Dataset or a sentence, nothing else."""

from __future__ import annotations

import copy
import gzip
import json
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpdata import converters
from kpdata.dataset import Dataset
from kpdata.errors import KpdataError
from kpdata.skeleton import load

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 139, "file_name": "a.jpg", "width": 640, "height": 426, "license": 3},
        {"id": 285, "file_name": "b.jpg", "width": 586, "height": 640},
    ],
    "annotations": [
        {
            "id": 1, "image_id": 139, "category_id": 1, "keypoints": [1, 2, 2, 3.5, 4, 1, 0, 0, 0], "num_keypoints": 2,
            "bbox": [1, 2, 30.5, 40], "area": 500.25, "iscrowd": 0, "segmentation": [[1, 2, 3, 4.5, 5, 6]],
        },
        {
            "id": 900100000139, "image_id": 139, "category_id": 1, "keypoints": [0] * 9, "num_keypoints": 0,
            "bbox": [0, 0, 640, 426], "area": 9000, "iscrowd": 1, "face_box": [0.0, 1.0],
            "segmentation": {"counts": [0, 3, 99], "size": [426, 640]},
        },
    ],
    "categories": [
        {"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"], "skeleton": [[1, 3], [2, 3]]}
    ],
}  # fmt: skip
CROWDPOSE = copy.deepcopy(COCO)
CROWDPOSE["categories"][0]["keypoints"] = list(load("crowdpose_14").keypoint_names)
for _image, _row in zip(CROWDPOSE["images"], CROWDPOSE["annotations"], strict=True):
    _image["crowdIndex"] = 0.25
    _row["keypoints"] = [1, 2.5, 2, 3, 4, 1] * 7
RESULTS = [
    {"image_id": 139, "category_id": 1, "keypoints": [1.5, 2, 0.9] * 17, "score": 0.75, "bbox": [1, 2, 3, 4]},
    {"image_id": "b", "category_id": 1, "keypoints": [3, 2.5, 1] * 17, "score": 1, "center": [1.5, 2]},
]
DOCUMENTS = {"coco": COCO, "crowdpose": CROWDPOSE, "coco_results": RESULTS}
STRANGERS = [
    None, True, "", "x", "\ud800", "1", -1, 0, 3, 1.5, float("nan"), float("inf"), -(2**63), 2**63, 2**70, 10**400,
    1e308, [], [[]], [1], ["a"], [None], [True], [[1, 2], [3]], {}, {"id": 1}, {"": []}, [[[[[]]]]], [2**70], [10**400],
]  # fmt: skip


def read(path: Path, format: str | None) -> Dataset | None:
    """What reading gives; None for a refusal. Any other exception fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found = converters.read(path, format, hashed=False)
    except KpdataError as error:
        assert str(error)
        return None
    assert len(found) == found.persons.num_rows
    return found


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += [(value, key), *places(item)]
    return found


def swapped(document: Any, rng: random.Random) -> bytes:
    """One or two values of another type, keys gone or added, anywhere in the document."""
    found = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2])):
        container, key = rng.choice(places(found))
        what = rng.random()
        if what < 0.15:
            del container[key]
        elif what < 0.2 and isinstance(container, dict):
            container[rng.choice(["id", "keypoints", "zusätzlich", ""])] = copy.deepcopy(rng.choice(STRANGERS))
        else:
            container[key] = copy.deepcopy(rng.choice(STRANGERS))
    text = json.dumps(found)
    if rng.random() < 0.1:  # a key twice
        text = text.replace('"id"', '"id": 7, "id"', rng.randint(1, 3))
    return text.encode()


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, or swapped for what means something in JSON."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        out[rng.randrange(len(out))] = rng.choice([rng.randrange(256), *b'"[]{},:-.e0\\nN'])
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end, the beginning or a piece of the middle is missing."""
    a, b = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return rng.choice([data[:a], data[b:], data[:a] + data[b:]])


def damages(document: Any, rng: random.Random) -> Iterator[bytes]:
    data = json.dumps(document).encode()
    while True:
        yield swapped(document, rng)
        yield flipped(data, rng)
        yield cut(data, rng)
        if rng.random() < 0.1:
            yield flipped(gzip.compress(data), rng)


@pytest.mark.parametrize("format", DOCUMENTS)
def test_damaged_json(tmp_path, format, cases=400):
    """A damaged file is a dataset or a KpdataError, whether its format is named or detected; and both happen."""
    path, rng = tmp_path / "x.json", random.Random(f"2017 {format}")
    kinds = damages(DOCUMENTS[format], rng)
    found = []
    for number in range(cases):
        path.write_bytes(next(kinds))
        found.append(read(path, format if number % 2 else None))
    refused = sum(dataset is None for dataset in found)
    assert 0.2 * cases < refused < 0.95 * cases


@pytest.mark.parametrize("format", DOCUMENTS)
def test_what_can_be_read_can_be_written(tmp_path, format, cases=60):
    """Odd values that a reader keeps come back when the file is written: the documents are equal."""
    path, rng = tmp_path / "x.json", random.Random(f"1234 {format}")
    written = 0
    for _ in range(cases):
        data = swapped(DOCUMENTS[format], rng)
        path.write_bytes(data)
        dataset = read(path, format)
        if dataset is None:
            continue
        report = converters.write(dataset, tmp_path / "y.json", format, force=True)
        back, raw = json.loads((tmp_path / "y.json").read_text()), json.loads(data)
        assert not report.losses
        assert same(back, raw), (back, raw)
        written += 1
    assert written > 5


def same(left: Any, right: Any) -> bool:
    """Equal JSON values; NaN equals NaN."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right or (left != left and right != right))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x.json").write_text(json.dumps(COCO))
    converters.read(folder / "x.json").save(folder / "x.kp")
    return folder / "x.kp"


def test_damaged_kp(saved, tmp_path, cases=300):
    """A .kp folder with a damaged or missing file is refused, or still the same: pages carry check sums."""
    whole, rng = converters.read(saved), random.Random(7)
    refused = 0
    for _ in range(cases):
        shutil.rmtree(tmp_path / "y.kp", ignore_errors=True)
        shutil.copytree(saved, tmp_path / "y.kp")
        victim = tmp_path / "y.kp" / rng.choice(["images.parquet", "persons.parquet", "persons.parquet", "meta.json"])
        data = victim.read_bytes()
        victim.write_bytes(flipped(data, rng) if rng.random() < 0.8 else cut(data, rng))
        found = read(tmp_path / "y.kp", rng.choice(["kp", None]))
        refused += found is None
    assert refused > cases / 3
    assert len(whole) == 2
