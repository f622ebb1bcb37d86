"""Datasets on another skeleton: what moves, what is masked, what is counted, and what stays as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kpdata import converters, schema
from kpdata.converters import coco, coco_results
from kpdata.dataset import open_dataset
from kpdata.errors import SkeletonError
from kpdata.merging import merge
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton, load

COCO = load("coco_17").keypoint_names
CROWDPOSE = load("crowdpose_14").keypoint_names
MPII = load("mpii_16").keypoint_names


def document(names, people, **more):
    """A COCO file of people given as {keypoint: (x, y, v)}."""
    rows = [
        {
            "id": number + 1, "image_id": 1, "category_id": 1, "num_keypoints": len(person), "bbox": [0, 0, 9, 9],
            "keypoints": [n for name in names for n in person.get(name, (0, 0, 0))], **more,
        }
        for number, person in enumerate(people)
    ]  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}
    return {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": rows, "categories": [category]}


def read(names, people, **more):
    return coco.decode(document(names, people, **more))


def row_of(dataset, name):
    return dataset.skeleton.keypoint_names.index(name)


def test_keypoints_move_by_name():
    """Coordinates and visibility of each limb arrive under its own name, an absent coordinate where v is 0 too."""
    person = {name: (10 * i + 1, 10 * i + 2, 1 + i % 2) for i, name in enumerate(CROWDPOSE[:12])}
    person["left_knee"] = (7, 8, 0)
    moved, _ = remap(read(CROWDPOSE, [person]), "coco_17")
    for name in CROWDPOSE[:12]:
        x, y, v = person[name]
        assert moved.keypoints[0, row_of(moved, name)].tolist() == [x, y]
        assert moved.visibility[0, row_of(moved, name)] == v
    face = [row_of(moved, name) for name in ("nose", "left_eye", "right_ear")]
    assert np.isnan(moved.keypoints[0, face]).all()
    assert not moved.visibility[0, face].any()


def test_derived_keypoints_are_midpoints():
    """MPII's thorax and pelvis from COCO's shoulders and hips; not where a parent is absent; counted as additions."""
    whole = {"left_shoulder": (10, 20, 2), "right_shoulder": (30, 40, 1), "left_hip": (1, 1, 2), "right_hip": (3, 5, 2)}
    half = {"left_shoulder": (10, 20, 2)}
    moved, losses = remap(read(COCO, [whole, half]), "mpii_16")
    thorax, pelvis = row_of(moved, "thorax"), row_of(moved, "pelvis")
    assert moved.keypoints[0, [thorax, pelvis]].tolist() == [[20, 30], [2, 3]]
    assert moved.visibility[:, thorax].tolist() == [1, 0]
    assert losses.additions["derived keypoints"] == 2
    # MPII has 16 keypoints; upper neck and head top have no source in COCO: two for each of two people.
    assert losses.additions["keypoints without a source"] == 4


def test_mask_says_what_can_be_there():
    """Targets without a source are False in provenance, all else True; people's labels do not matter."""
    moved, _ = remap(read(COCO, [{"nose": (1, 1, 2)}]), "mpii_16")
    mask = dict(zip(MPII, moved.keypoint_mask("coco", "mpii_16").tolist(), strict=True))
    assert {name for name, known in mask.items() if not known} == {"upper_neck", "head_top"}


def test_dropped_keypoints_are_counted():
    """Labelled keypoints that have no column; unlabelled ones are no loss."""
    people = [{"nose": (1, 1, 2), "left_eye": (2, 2, 1), "left_hip": (3, 3, 2)}, {"left_eye": (5, 5, 2)}]
    _, losses = remap(read(COCO, people), "crowdpose_14")
    assert losses.losses == {"keypoints without a place": 3}
    assert "crowdpose_14 has no column for" in losses.examples["keypoints without a place"]


def test_close_keypoints_only_on_demand():
    """CrowdPose's head and neck are close to MPII's: absent and masked, unless approximate, which is counted."""
    source = read(CROWDPOSE, [{CROWDPOSE[12]: (1, 2, 1), "neck": (3, 4, 1)}])
    without, plain = remap(source, "mpii_16")
    assert not without.visibility.any()
    assert plain.losses == {"keypoints without a place": 2}
    close, losses = remap(source, "mpii_16", approximate=True)
    assert close.keypoints[0, row_of(close, "head_top")].tolist() == [1, 2]
    assert losses.losses == {"approximate keypoints": 2}
    assert close.keypoint_mask("coco", "mpii_16").all()
    assert close.history[-1]["approximate"] == ["upper_neck", "head_top"]


def test_num_keypoints_is_counted_anew():
    """It counts keypoints of the skeleton; where the source has none, none is made."""
    people = [{"nose": (1, 1, 2), "left_hip": (3, 3, 1)}]
    moved, _ = remap(read(COCO, people), "crowdpose_14")
    assert moved.persons["num_keypoints"].to_pylist() == [1]
    raw = document(COCO, people)
    del raw["annotations"][0]["num_keypoints"]
    moved, _ = remap(coco.decode(raw), "crowdpose_14")
    assert moved.persons["num_keypoints"].to_pylist() == [None]


def test_raw_visibility_is_counted():
    """Third numbers that are no flags cannot follow; the flag they stand for does."""
    moved, losses = remap(read(COCO, [{"left_hip": (3, 3, 0.75)}]), "crowdpose_14")
    assert losses.losses == {"raw visibility": 1}
    assert moved.persons["visibility_raw"].null_count == 1
    assert moved.visibility.max() == schema.Visibility.UNKNOWN


def test_scores_follow():
    """Predictions keep each keypoint's score under its name; a midpoint takes the lower one."""
    scores = (np.arange(17) / 20 + 0.1).tolist()
    flat = [n for i in range(17) for n in (i, i, scores[i])]
    results = coco_results.decode([{"image_id": 1, "category_id": 1, "keypoints": flat, "score": 1.0}])
    moved, _ = remap(results, "mpii_16")
    left, right = COCO.index("left_hip"), COCO.index("right_hip")
    assert moved.keypoint_scores[0, row_of(moved, "left_hip")] == scores[left]
    assert moved.keypoint_scores[0, row_of(moved, "pelvis")] == min(scores[left], scores[right])
    assert np.isnan(moved.keypoint_scores[0, row_of(moved, "head_top")])


def test_chained_remaps_keep_the_mask_honest():
    """COCO to a skeleton without hips and back: hips exist there again as columns, but not for these people."""
    few = Skeleton("few_3", ("left_shoulder", "right_shoulder", "left_knee"))
    there, _ = remap(read(COCO, [{"left_hip": (1, 1, 2), "left_knee": (2, 2, 2)}]), few)
    back, _ = remap(there, "coco_17")
    known = dict(zip(COCO, back.keypoint_mask("coco", "coco_17").tolist(), strict=True))
    assert {name for name, yes in known.items() if yes} == {"left_shoulder", "right_shoulder", "left_knee"}
    on, _ = remap(back, "mpii_16")
    masked = dict(zip(MPII, on.keypoint_mask("coco", "mpii_16").tolist(), strict=True))
    assert {name for name, yes in masked.items() if yes} == {"left_shoulder", "right_shoulder", "left_knee", "thorax"}
    assert [record["op"] for record in on.history] == ["remap"] * 3


def test_a_parent_without_source_masks_the_midpoint():
    """The pelvis needs both hips: a source with one hip alone cannot have it."""
    one = Skeleton("one_hip_2", ("left_hip", "nose"))
    moved, _ = remap(remap(read(one.keypoint_names, [{"left_hip": (1, 1, 2)}]), "coco_17")[0], "mpii_16")
    known = dict(zip(MPII, moved.keypoint_mask("coco", "mpii_16").tolist(), strict=True))
    assert known["left_hip"]
    assert not known["right_hip"]
    assert not known["pelvis"]


def test_people_on_the_target_stay():
    """A remap onto the skeleton that they are on changes nothing: raw flags, num_keypoints and equality stay."""
    source = read(CROWDPOSE, [{CROWDPOSE[12]: (1, 2, 0.5), "left_hip": (0, 0, 2)}])
    moved, losses = remap(source, "crowdpose_14")
    assert moved == source
    assert not losses.losses
    assert not losses.additions


def test_two_skeletons_become_one():
    """Merged COCO and CrowdPose on COCO's 17: each source has its own mask, CrowdPose's num_keypoints changes alone."""
    one = read(COCO, [{"nose": (1, 1, 2)}])
    other = coco.decode(document(CROWDPOSE, [{"neck": (1, 1, 1), "left_hip": (2, 2, 2)}]), name="crowdpose")
    both, _ = merge([one, other])
    moved, losses = remap(both, "coco_17")
    assert list(moved.skeletons) == ["coco_17"]
    assert moved.keypoints.shape == (2, 17, 2)
    assert moved.keypoint_mask("coco", "coco_17").all()
    assert moved.keypoint_mask("crowdpose", "coco_17").sum() == 12
    assert moved.persons["num_keypoints"].to_pylist() == [1, 1]
    assert losses.losses == {"keypoints without a place": 1}
    assert moved.datasets["coco"] == both.datasets["coco"]
    assert moved.datasets["crowdpose"]["remapped"]


def test_people_without_keypoints_keep_their_row():
    """They have no skeleton afterwards, and nothing else of theirs changes."""
    raw = document(COCO, [{"nose": (1, 1, 2)}, {}])
    del raw["annotations"][1]["keypoints"]
    source = coco.decode(raw)
    moved, _ = remap(source, "crowdpose_14")
    assert moved.persons["keypoints"].is_valid().to_pylist() == [True, False]
    assert moved.persons["skeleton"].to_pylist() == ["crowdpose_14", None]
    assert moved.persons["bbox"].equals(source.persons["bbox"])
    nobody, _ = remap(source.select(np.array([False, True])), "crowdpose_14")
    assert list(nobody.skeletons) == ["crowdpose_14"]


def test_order_and_other_columns_stay(tmp_path):
    """Everything besides the pose is untouched, and the result can be saved and opened."""
    source = read(COCO, [{"nose": (i, i, 2)} for i in range(5)], area=3.5, note="x")
    moved, _ = remap(source, "mpii_16")
    pose = ("skeleton", "keypoints", "visibility", "num_keypoints")
    for name in set(schema.PERSONS.names) - set(pose):
        assert schema.same(moved.persons[name], source.persons[name]), name
    assert moved.images.equals(source.images)
    moved.save(tmp_path / "x.kp")
    assert open_dataset(tmp_path / "x.kp") == moved


def test_wholebody_to_coco(real_data):
    """The body of COCO-WholeBody is COCO's: the 17 keypoints of every person are those of the file."""
    path = real_data / "coco_mmpose4" / "wholebody_val_5img.json"
    moved, losses = remap(converters.read(path), "coco_17")
    rows = json.loads(path.read_text())["annotations"]
    body = np.array([row["keypoints"] for row in rows], float).reshape(-1, 17, 3)
    seen = body[..., 2] > 0
    np.testing.assert_array_equal(moved.visibility > 0, seen)
    np.testing.assert_array_equal(moved.keypoints[seen], body[..., :2][seen])
    parts = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    others = sum(number > 0 for row in rows for part in parts for number in row[part][2::3])
    assert losses.losses["keypoints without a place"] == others
    assert moved.keypoint_mask("coco", "coco_17").all()


def test_unknown_target():
    """A name that no skeleton has is refused with the known ones."""
    with pytest.raises(SkeletonError, match="no skeleton is named 'coco_18x'"):
        remap(read(COCO, []), "coco_18x")
