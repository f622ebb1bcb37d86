"""CrowdPose: its own counts and edges stay as the files have them; other skeletons are remapped and counted."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from kpdata import converters
from kpdata.converters import coco, crowdpose
from kpdata.errors import LossyWrite
from kpdata.skeleton import load

NAMES = [
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
]  # fmt: skip


def document(*rows, **more):
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[16, 14], [14, 12]]}
    images = [{"id": 100, "file_name": "100.jpg", "height": 4, "width": 6, "crowdIndex": 0.5}]
    return {"images": images, "annotations": list(rows), "categories": [category], **more}


def row(**more):
    return {
        "id": 1, "image_id": 100, "category_id": 1, "keypoints": [5, 6, 2] * 12 + [1, 1, 1] * 2, "num_keypoints": 12,
        "iscrowd": 0, "bbox": [0, 0, 4, 5.5], **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def val(real_data):
    path = real_data / "crowdpose" / "crowdpose_val.json"
    return converters.read(path), json.loads(path.read_text())


def test_detected_by_crowd_index(tmp_path):
    """`crowdIndex` on images tells it from COCO; named as COCO, the file is read as COCO."""
    (tmp_path / "x.json").write_text(json.dumps(document(row())))
    assert converters.detect(tmp_path / "x.json") == ("crowdpose", "a COCO-shaped JSON whose images carry 'crowdIndex'")
    assert list(converters.read(tmp_path / "x.json", "coco").datasets) == ["coco"]
    plain = document(row(), images=[{"id": 100}])
    (tmp_path / "y.json").write_text(json.dumps(plain))
    assert converters.detect(tmp_path / "y.json")[0] == "coco"


def test_real_validation_set(val):
    """Keypoints, flags, crowd index and num_keypoints of all 8,527 people equal the JSON's own numbers."""
    dataset, raw = val
    block = np.array([r["keypoints"] for r in raw["annotations"]], float).reshape(-1, 14, 3)
    np.testing.assert_array_equal(dataset.visibility, block[..., 2])
    given = (block != 0).any(-1)
    np.testing.assert_array_equal(dataset.keypoints[given], block[..., :2][given])
    assert np.isnan(dataset.keypoints[~given]).all()
    assert dataset.persons["num_keypoints"].to_pylist() == [r["num_keypoints"] for r in raw["annotations"]]
    assert dataset.images["crowd_index"].to_pylist() == [image["crowdIndex"] for image in raw["images"]]
    assert dataset.persons["area"].null_count == len(dataset)


def test_facts_of_the_format(val):
    """0.53 x w x h is said, not stored; the skeleton is the built-in one, not COCO-17's edges that the file lists."""
    dataset, raw = val
    assert dataset.datasets["crowdpose"]["area_kind"] == "box×0.53"
    assert dataset.skeleton == load("crowdpose_14")
    assert max(end for edge in raw["categories"][0]["skeleton"] for end in edge) > 14
    assert dataset.datasets["crowdpose"]["categories_raw"] == raw["categories"]


def test_head_and_neck_are_never_visible(val):
    """What the authors' labels are like: head and neck carry 1, the limbs 1 and 2."""
    dataset, _ = val
    assert not (dataset.visibility[:, 12:] == 2).any()
    assert Counter(dataset.visibility[:, :12].ravel().tolist())[2] > 0


def test_written_as_it_was(tmp_path):
    """num_keypoints of 12 for 14 labels, edges beyond the keypoints, no area: nothing is mended on the way."""
    raw = document(row())
    dataset = crowdpose.decode(raw)
    assert not converters.write(dataset, tmp_path / "x.json", "crowdpose").losses
    assert json.loads((tmp_path / "x.json").read_text()) == raw
    assert crowdpose.decode(crowdpose.encode(dataset)[0]) == dataset


def test_files_with_other_keypoints_come_back(tmp_path):
    """ExLPose and others have CrowdPose's shape with keypoints of their own: read and written without a remap."""
    raw = document(row(keypoints=[1, 2, 2] * 2), categories=[{"id": 1, "name": "p", "keypoints": ["a", "b"]}])
    (tmp_path / "x.json").write_text(json.dumps(raw))
    dataset = converters.read(tmp_path / "x.json")
    assert list(dataset.datasets) == ["crowdpose"]
    assert not converters.write(dataset, tmp_path / "y.json", "crowdpose").losses
    assert json.loads((tmp_path / "y.json").read_text()) == raw


def test_coco_becomes_crowdpose(tmp_path):
    """COCO's limbs move, its face is counted; head and neck have no source; the category names 14 keypoints."""
    coco17 = list(load("coco_17").keypoint_names)
    person = row(keypoints=[3, 4, 2] * 17, num_keypoints=17, area=12.5)
    raw = {**document(person), "categories": [{"id": 1, "name": "person", "keypoints": coco17}]}
    dataset = coco.decode(raw)
    with pytest.raises(LossyWrite, match="keypoints without a place: 5"):
        converters.write(dataset, tmp_path / "x.json", "crowdpose")
    report = converters.write(dataset, tmp_path / "x.json", "crowdpose", allow_lossy=True)
    assert report.losses == {"keypoints without a place": 5, "keypoint masks": 1}
    written = json.loads((tmp_path / "x.json").read_text())
    (found,) = written["annotations"]
    assert found["keypoints"] == [3, 4, 2] * 12 + [0] * 6
    assert found["num_keypoints"] == 12
    assert found["area"] == 12.5
    assert len(written["categories"][0]["keypoints"]) == 14


def test_nobody_needs_no_remap(tmp_path):
    """A file without people and categories is written as it is."""
    raw = {**document(), "categories": []}
    assert not converters.write(crowdpose.decode(raw), tmp_path / "x.json", "crowdpose").losses
    assert json.loads((tmp_path / "x.json").read_text()) == raw
