"""Statistics: every count and quantile is what a loop over the rows finds."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from kpdata import converters, schema
from kpdata import dataset as ds
from kpdata.schema import Visibility
from kpdata.skeleton import Skeleton
from kpdata.statistics import labelled_per_person, people_per_image, statistics, visibility_by_keypoint
from tests.strategies import datasets

PAIR = Skeleton("pair_2", ("left_a", "right_a"))
FEW = settings(max_examples=20)  # drawing a dataset takes longer than looking at it
NONE = {"count": 0, "min": None, "p10": None, "median": None, "p90": None, "max": None}


def made(people, images, **provenance):
    """people: rows of the persons table as dicts; images: rows of the images table."""

    def columns(fields, rows):
        return {f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in fields if f.name != "dataset"}

    return ds.build(
        columns(schema.IMAGES, images), columns(schema.PERSONS, people), num_images=len(images),
        num_persons=len(people), name="mine", skeletons=[PAIR], provenance=provenance,
    )  # fmt: skip


def pose(*flags, **fields):
    return {"skeleton": "pair_2", "keypoints": [1.0] * 2 * len(flags), "visibility": list(flags), **fields}


@pytest.fixture
def small():
    """Five people, one an orphan, on three images, one of them empty."""
    people = [
        {"annotation_id": 1, "image_id": 1, "bbox": [0, 0, 5, 10], "area": 16.0, "iscrowd": False, **pose(2, 1)},
        {"annotation_id": 2, "image_id": 1, "bbox": [0, 0, 5, 30], "area": 25.0, "iscrowd": True, **pose(0, 3)},
        {"annotation_id": 3, "image_id": 2, "bbox": [0, 0, 5, math.nan], "area": -4.0, **pose(0, 0)},
        {"annotation_id": 4, "image_id": 2},
        {"annotation_id": 5, "image_id": 99, "area": math.inf, **pose(2, 2)},
    ]
    images = [{"image_id": 1, "width": 640, "height": 480}, {"image_id": 2, "width": 100}, {"image_id": 3}]
    return made(people, images, source_format="test", number=3, listed=[1], findings=[{"code": "a"}, {"code": "b"}])


def test_counts_by_hand(small):
    """Images, people, crowds and keypoints by state, each counted by hand."""
    found = statistics(small)
    assert found["counts"] == {
        "images": 3,
        "images without people": 1,
        "people": 5,
        "people with a labelled keypoint": 3,
        "crowds": 1,
        "labelled keypoints": 5,
        "absent keypoints": 3,
        "occluded keypoints": 1,
        "visible keypoints": 3,
        "unknown keypoints": 1,
    }
    assert found["people_by_skeleton"] == {"pair_2": 4}
    assert found["datasets"] == {"mine": {"source_format": "test", "number": 3}}
    assert found["findings"] == 2


def test_sizes_by_hand(small):
    """Quantiles of what is there: nulls, NaN and infinity are no sizes; a negative area counts as 0."""
    sizes = statistics(small)["sizes"]
    assert sizes["image width"] == {"count": 2, "min": 100, "p10": 154, "median": 370, "p90": 586, "max": 640}
    assert sizes["image height"]["count"] == 1
    assert sizes["box height"] == pytest.approx({"count": 2, "min": 10, "p10": 12, "median": 20, "p90": 28, "max": 30})
    assert sizes["√area"] == pytest.approx({"count": 3, "min": 0, "p10": 0.8, "median": 4, "p90": 4.8, "max": 5})
    assert sizes["people in an image"]["max"] == 2
    assert sizes["labelled keypoints of a person"]["count"] == 5


def test_visibility_by_keypoint(small):
    """Per keypoint the people of each state; the share is of people who have any label at all."""
    assert visibility_by_keypoint(small) == {
        "pair_2": {
            "left_a": {"absent": 2, "occluded": 0, "visible": 2, "unknown": 0, "labelled": 2 / 3},
            "right_a": {"absent": 1, "occluded": 1, "visible": 1, "unknown": 1, "labelled": 1.0},
        }
    }


def test_nothing_at_all():
    """No images and no people: zeros and None, no division by zero."""
    found = statistics(made([], []))
    assert set(found["counts"].values()) == {0}
    assert all(size == NONE for size in found["sizes"].values())
    assert found["visibility"] == found["people_by_skeleton"] == {}
    nobody_posed = visibility_by_keypoint(made([{"annotation_id": 1, "image_id": 1, **pose(0, 0)}], []))
    assert nobody_posed["pair_2"]["left_a"]["labelled"] == 0


@FEW
@given(datasets())
def test_any_dataset_is_counted_as_by_a_loop(dataset):
    """Whatever the data, the counts equal a loop over its rows, and the whole is plain JSON."""
    people, images = dataset.persons.to_pylist(), dataset.images.to_pylist()
    found = statistics(dataset)
    json.dumps(found)
    flags = [person["visibility"] or [] for person in people]
    labelled = [sum(flag > 0 for flag in row) for row in flags]
    assert labelled_per_person(dataset).tolist() == labelled
    holders = Counter(person["image_id"] for person in people)
    assert people_per_image(dataset).tolist() == [holders[image["image_id"]] for image in images]
    states = Counter(flag for row in flags for flag in row)
    counts = found["counts"]
    assert {state: counts[f"{state.name.lower()} keypoints"] for state in Visibility} == {
        s: states[s] for s in Visibility
    }
    assert counts["labelled keypoints"] == sum(labelled)
    assert counts["people with a labelled keypoint"] == sum(count > 0 for count in labelled)
    assert counts["crowds"] == sum(bool(person["iscrowd"]) for person in people)
    assert counts["images without people"] == sum(holders[image["image_id"]] == 0 for image in images)
    by_skeleton = Counter(person["skeleton"] for person in people if person["skeleton"])
    assert found["people_by_skeleton"] == by_skeleton
    for name in by_skeleton:
        rows = [person["visibility"] for person in people if person["skeleton"] == name]
        posed = sum(any(row) for row in rows if row)
        for k, keypoint in enumerate(dataset.skeletons[name].keypoint_names):
            share = sum(row[k] > 0 for row in rows if row) / max(posed, 1)
            assert found["visibility"][name][keypoint]["labelled"] == pytest.approx(share)
    widths = [image["width"] for image in images if image["width"] is not None]
    areas = [math.sqrt(max(p["area"], 0)) for p in people if p["area"] is not None and math.isfinite(p["area"])]
    for key, numbers in (("image width", widths), ("√area", areas)):
        size = found["sizes"][key]
        assert size["count"] == len(numbers)
        assert size["max"] == (max(numbers) if numbers else None)
        assert size["median"] == (pytest.approx(np.median(numbers)) if numbers else None)


def test_real_coco(real_data):
    """80 training images, 172 people: each total equals what the JSON itself says."""
    path = real_data / "coco_mini" / "person_keypoints_train2017.json"
    raw = json.loads(path.read_text())
    rows = raw["annotations"]
    counts = statistics(converters.read(path))["counts"]
    flags = Counter(flag for row in rows for flag in row["keypoints"][2::3])
    assert (counts["images"], counts["people"]) == (80, 172)
    assert counts["images without people"] == 80 - len({row["image_id"] for row in rows})
    assert counts["crowds"] == sum(row["iscrowd"] for row in rows)
    assert counts["labelled keypoints"] == sum(row["num_keypoints"] for row in rows)
    assert (counts["occluded keypoints"], counts["visible keypoints"]) == (flags[1], flags[2])
