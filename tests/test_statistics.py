"""Counts and quantiles against plain loops over the same file, and the picture that shows them."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from kpdata import converters
from kpdata.converters import coco
from kpdata.errors import DestinationExists
from kpdata.plots import plot_statistics
from kpdata.statistics import labelled_per_person, people_per_image, statistics
from tests.strategies import datasets

RAW = {
    "images": [{"id": i, "width": 100 * i, "height": 50} for i in (1, 2, 3)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 1, 2, 2, 2, 1, 0, 0, 0], "area": 16, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "keypoints": [1, 1, 0.5, 0, 0, 0, 0, 0, 0], "bbox": [0, 0, 3, 40]},
        {"id": 3, "image_id": 9, "category_id": 1, "keypoints": [0] * 9, "iscrowd": 1},
        {"id": 4, "image_id": 2, "category_id": 1},
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b", "c"]}],
}


def test_counts_by_hand():
    """A file small enough to count: an orphan counts as a person and not in any image."""
    found = statistics(coco.decode(RAW))
    assert found["counts"] == {
        "images": 3, "images without people": 1, "people": 4, "people with a labelled keypoint": 2, "crowds": 1,
        "labelled keypoints": 3, "absent keypoints": 6, "occluded keypoints": 1, "visible keypoints": 1,
        "unknown keypoints": 1,
    }  # fmt: skip
    (bones,) = found["visibility"].values()
    assert bones["a"] == {"absent": 1, "occluded": 0, "visible": 1, "unknown": 1, "labelled": 1.0}
    assert bones["b"] == {"absent": 2, "occluded": 1, "visible": 0, "unknown": 0, "labelled": 0.5}
    assert found["sizes"]["√area"] == {"count": 1, "min": 4, "p10": 4, "median": 4, "p90": 4, "max": 4}
    assert found["sizes"]["people in an image"]["median"] == 1
    assert found["sizes"]["image width"]["max"] == 300
    assert sum(found["people_by_skeleton"].values()) == 3
    json.dumps(found)


def test_nothing_to_count():
    """No images and no people: zeros and None, no warning and no division by zero."""
    found = statistics(coco.decode({"images": [], "annotations": [], "categories": []}))
    assert set(found["counts"].values()) == {0}
    assert found["sizes"]["image width"] == {
        "count": 0, "min": None, "p10": None, "median": None, "p90": None, "max": None,
    }  # fmt: skip


@settings(max_examples=30)
@given(datasets())
def test_any_dataset_by_loops(dataset):
    """Per image and per person counts equal plain loops, whatever the nulls, orphans and skeletons."""
    flags = dataset.persons["visibility"].to_pylist()
    assert labelled_per_person(dataset).tolist() == [sum(v > 0 for v in row or ()) for row in flags]
    people = Counter(dataset.persons["image_id"].to_pylist())
    assert people_per_image(dataset).tolist() == [people[i] for i in dataset.images["image_id"].to_pylist()]
    found = statistics(dataset)
    assert sum(found["people_by_skeleton"].values()) == sum(
        s is not None for s in dataset.persons["skeleton"].to_pylist()
    )


def test_real_file(real_data):
    """CrowdPose's validation set: 8,527 people, its 106 crowds, and visibility counted from the JSON."""
    path = real_data / "crowdpose" / "crowdpose_val.json"
    found = statistics(converters.read(path))
    raw = json.loads(path.read_text())
    flags = Counter(v for row in raw["annotations"] for v in row["keypoints"][2::3])
    assert found["counts"]["people"] == 8527
    assert found["counts"]["crowds"] == 106
    assert found["counts"]["occluded keypoints"] == flags[1]
    assert found["counts"]["visible keypoints"] == flags[2]
    heights = np.quantile([row["bbox"][3] for row in raw["annotations"]], [0, 0.1, 0.5, 0.9, 1])
    shown = found["sizes"]["box height"]
    assert [shown[key] for key in ("min", "p10", "median", "p90", "max")] == pytest.approx(heights.tolist())
    assert not any(isinstance(v, float) and math.isnan(v) for row in found["sizes"].values() for v in row.values())


@pytest.mark.parametrize("raw", [RAW, {"images": [], "annotations": [], "categories": []}])
def test_picture(tmp_path, raw):
    """A PNG with something drawn on it, also where there is nothing to draw; an existing one is not replaced."""
    target = tmp_path / "x.png"
    plot_statistics(coco.decode(raw), target)
    with Image.open(target) as picture:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture.convert("L")))) > 5
    with pytest.raises(DestinationExists):
        plot_statistics(coco.decode(raw), target)
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
