"""A dataset on another skeleton: what moves, what is lost, and the mask that says which keypoints nobody can have."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import converters, schema
from kpdata import dataset as ds
from kpdata.errors import SkeletonError
from kpdata.merging import merge
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton, load, names
from tests.strategies import datasets

COCO, MPII, CROWDPOSE, WHOLEBODY = (load(n) for n in ("coco_17", "mpii_16", "crowdpose_14", "coco_wholebody_133"))
SQUARE = Skeleton("square_4", ("left_hip", "right_hip", "nose", "badge"))
HIPS = Skeleton("hips_4", ("pelvis", "left_hip", "star", "badge"), landmarks=("mid_hips", "left_hip", "", ""))
NAN = float("nan")
FEW = settings(max_examples=12)  # drawing a dataset takes longer than looking at it


def made(skeleton, poses, *, name="mine", columns=None, provenance=None):
    """A dataset of one image; poses: (N, K, 3) of x, y, visibility, or None for a person without one."""
    rows = {
        "annotation_id": list(range(len(poses))),
        "image_id": [1] * len(poses),
        "skeleton": [None if pose is None else skeleton.name for pose in poses],
        "keypoints": [None if pose is None else [float(v) for point in pose for v in point[:2]] for pose in poses],
        "visibility": [None if pose is None else [point[2] for point in pose] for pose in poses],
        **(columns or {}),
    }
    return ds.build(
        {"image_id": pa.array([1])}, {key: pa.array(v, schema.PERSONS.field(key).type) for key, v in rows.items()},
        num_images=1, num_persons=len(poses), name=name, skeletons=[skeleton], provenance=provenance or {},
    )  # fmt: skip


def numbered(skeleton, flag=2, *, start=0.0):
    """A pose whose keypoint k is at (start + k, 100 + k)."""
    return [(start + k, 100.0 + k, flag) for k in range(len(skeleton))]


def column(dataset, name):
    return dataset.persons[name].to_pylist()


# One person's four points: both hips, an unlabelled nose, and a point of our own.
POSE = [(10, 20, 2), (30, 40, 1), (7, 7, 0), (50, 60, 3)]


def test_one_person_by_hand():
    """Copied, computed half-way, absent, copied by name: numbers, flags and scores of a person worked out by hand."""
    dataset = made(SQUARE, [POSE], columns={"keypoint_scores": [[0.5, 0.25, 0.75, 1.0]], "num_keypoints": [3]})
    moved, losses = remap(dataset, HIPS)
    assert column(moved, "skeleton") == ["hips_4"]
    assert moved.skeletons == {"hips_4": HIPS}
    xy = moved.keypoints[0]
    assert xy[[0, 1, 3]].tolist() == [[20, 30], [10, 20], [50, 60]]
    assert np.isnan(xy[2]).all()
    assert moved.visibility.tolist() == [[1, 2, 0, 3]]  # a midpoint is as sure as its less sure parent
    assert np.array_equal(moved.keypoint_scores, [[0.25, 0.5, NAN, 1.0]], equal_nan=True)
    assert column(moved, "num_keypoints") == [3]
    assert moved.keypoint_mask("mine", "hips_4").tolist() == [True, True, False, True]
    assert moved.history == (
        {"op": "remap", "from": "square_4", "to": "hips_4", "dropped": ["nose"], "absent": ["star"], "approximate": [],
         "derived": ["pelvis"]},
    )  # fmt: skip
    assert moved.datasets["mine"]["remapped"] is True
    assert losses.losses == {}  # the nose was not labelled: nothing was lost with it
    assert losses.additions == {"derived keypoints": 1, "keypoints without a source": 1}


def test_losses_counted_by_hand():
    """Three people: what has no place is counted where it was labelled, what is made where it came to be."""
    poses = [
        [(1, 1, 2), (2, 2, 2), (3, 3, 2), (4, 4, 2)],  # a nose to lose, a midpoint to make
        [(1, 1, 0), (2, 2, 2), (3, 3, 1), (4, 4, 0)],  # a nose to lose, a parent missing
        None,
    ]
    columns = {"visibility_raw": [[2, 2, 7, 2], None, None], "num_keypoints": [4, None, 9]}
    moved, losses = remap(made(SQUARE, poses, columns=columns), HIPS)
    assert losses.losses == {"keypoints without a place": 2, "raw visibility": 1}
    assert losses.additions == {"derived keypoints": 1, "keypoints without a source": 2}
    assert "'nose'" in losses.examples["keypoints without a place"]
    assert column(moved, "visibility") == [[2, 2, 0, 2], [0, 0, 0, 0], None]
    assert column(moved, "visibility_raw") == [None, None, None]
    assert column(moved, "num_keypoints") == [
        3,
        None,
        9,
    ]  # counted anew; not told stays so; nobody's pose, nobody's count
    assert column(moved, "skeleton") == ["hips_4", "hips_4", None]
    assert column(moved, "keypoints")[2] is None


def test_wholebody_to_coco():
    """The first 17 of 133 keypoints are COCO's: they come over as they are, and the labelled others are counted."""
    poses = [numbered(WHOLEBODY, 2), [(k, k, 1 if k < 25 else 0) for k in range(133)]]
    moved, losses = remap(made(WHOLEBODY, poses, columns={"num_keypoints": [17, 17], "area": [9.5, None]}), "coco_17")
    assert moved.keypoints[0].tolist() == [[k, 100 + k] for k in range(17)]
    assert moved.visibility.tolist() == [[2] * 17, [1] * 17]
    assert losses.losses == {"keypoints without a place": 116 + 8}
    assert losses.additions == {}
    assert moved.keypoint_mask("mine", "coco_17").all()
    assert column(moved, "area") == [9.5, None]


def test_coco_to_mpii():
    """Twelve limbs are shared, pelvis and thorax are midpoints, neck and head have no source: no point is guessed."""
    moved, losses = remap(made(COCO, [numbered(COCO)]), MPII)
    at = dict(zip(MPII.keypoint_names, moved.keypoints[0].tolist(), strict=True))
    place = COCO.keypoint_names.index
    assert at["pelvis"] == [
        (place("left_hip") + place("right_hip")) / 2,
        100 + (place("left_hip") + place("right_hip")) / 2,
    ]
    assert at["right_ankle"] == [place("right_ankle"), 100 + place("right_ankle")]
    absent = {name for name, seen in zip(MPII.keypoint_names, moved.visibility[0].tolist(), strict=True) if not seen}
    assert absent == {"upper_neck", "head_top"}
    assert losses.losses == {"keypoints without a place": 5}  # nose, eyes, ears
    assert losses.additions == {"derived keypoints": 2, "keypoints without a source": 2}


def test_approximate_is_asked_for_and_counted():
    """A neck of another protocol is taken only when asked, and then it is a loss that is told."""
    dataset = made(MPII, [numbered(MPII)])
    strict, strict_losses = remap(dataset, CROWDPOSE)
    loose, losses = remap(dataset, CROWDPOSE, approximate=True)
    assert strict_losses.losses == {"keypoints without a place": 4}  # pelvis, thorax, upper neck, head top
    assert losses.losses == {"keypoints without a place": 2, "approximate keypoints": 2}
    near = [not seen for seen in strict.visibility[0].tolist()]
    assert {name for name, one in zip(CROWDPOSE.keypoint_names, near, strict=True) if one} == {"top_head", "neck"}
    assert loose.visibility.all()
    assert strict.keypoint_mask("mine", "crowdpose_14").tolist() == [not one for one in near]
    assert set(loose.history[-1]["approximate"]) == {"top_head", "neck"}


# --------------------------------------------------------------------------------------------------------------- masks


def masked(dataset, name="mine"):
    skeleton = next(iter(dataset.skeletons.values()))
    return {
        k for k, here in zip(skeleton.keypoint_names, dataset.keypoint_mask(name, skeleton.name), strict=True) if here
    }


def test_chained_remaps_keep_the_mask_honest():
    """There and back a keypoint does not come to life: what the way had no column for stays out of the mask."""
    there, _ = remap(made(COCO, [numbered(COCO)]), MPII)
    back, losses = remap(there, COCO)
    limbs = set(COCO.keypoint_names) - {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}
    assert masked(back) == limbs
    assert losses.losses == {"keypoints without a place": 2}  # the midpoints
    again, _ = remap(back, MPII)
    assert masked(again) == set(MPII.keypoint_names) - {"upper_neck", "head_top"}
    assert masked(remap(again, MPII)[0]) == masked(again)  # onto itself, too


@settings(max_examples=40)
@given(st.lists(st.sampled_from(names()), min_size=2, max_size=4), st.booleans())
def test_the_mask_is_what_a_fully_labelled_person_has(way, approximate):
    """On any way over the built-in skeletons the mask equals the keypoints that a complete person ends with."""
    dataset = made(load(way[0]), [numbered(load(way[0]))])
    for target in way[1:]:
        dataset, _ = remap(dataset, target, approximate=approximate)
    assert dataset.keypoint_mask("mine", way[-1]).tolist() == (dataset.visibility[0] > 0).tolist()


def test_masks_of_several_sources():
    """Each source has the mask of its own skeletons; where its people use two, what either gives."""
    both, _ = merge([made(COCO, [numbered(COCO)], name="coco"), made(MPII, [numbered(MPII)], name="mpii")])
    moved, losses = remap(both, CROWDPOSE)
    assert masked(moved, "coco") == masked(moved, "mpii") == set(CROWDPOSE.keypoint_names) - {"top_head", "neck"}
    assert losses.losses == {"keypoints without a place": 5 + 4}
    assert [entry["from"] for entry in moved.history if entry["op"] == "remap"] == ["coco_17", "mpii_16"]
    on_coco, _ = remap(both, COCO)
    assert masked(on_coco, "coco") == set(COCO.keypoint_names)
    assert masked(on_coco, "mpii") == set(COCO.keypoint_names) - set(COCO.keypoint_names[:5])
    one_source = ds.build(
        {"image_id": pa.array([1])},
        {n: both.persons[n] for n in schema.PERSONS.names if n not in ("dataset",)},
        num_images=1, num_persons=2, name="mixed", provenance={}, skeletons=both.skeletons.values(),
    )  # fmt: skip
    assert masked(remap(one_source, COCO)[0], "mixed") == set(COCO.keypoint_names)


def test_a_source_without_people_keeps_its_images():
    """Images without people pass; the dataset is on the new skeleton."""
    moved, losses = remap(made(COCO, []), MPII)
    assert moved.images.num_rows == 1
    assert moved.skeletons == {"mpii_16": MPII}
    assert moved.keypoints.shape == (0, 16, 2)
    assert (losses.losses, losses.additions) == ({}, {})


# -------------------------------------------------------------------------------------------------------- any dataset

_OTHER = [name for name in schema.PERSONS.names if name not in (
    "skeleton", "keypoints", "visibility", "visibility_raw", "keypoint_scores", "num_keypoints"
)]  # fmt: skip


@FEW
@given(datasets(), st.sampled_from(["coco_17", "mpii_16", "crowdpose_14"]), st.booleans())
def test_only_keypoints_change(dataset, target, approximate):
    """Images, boxes, masks, ids, extras stay; the dataset given is not touched; people without a pose get none."""
    before = schema.take(dataset.persons, np.arange(len(dataset)))
    moved, _ = remap(dataset, target, approximate=approximate)
    assert schema.same(dataset.persons, before)
    assert schema.same(moved.images, dataset.images)
    for name in _OTHER:
        assert schema.same(moved.persons[name], dataset.persons[name]), name
    assert [pose is None for pose in column(moved, "keypoints")] == [
        pose is None for pose in column(dataset, "keypoints")
    ]
    told = zip(
        column(dataset, "num_keypoints"), column(moved, "num_keypoints"), column(moved, "visibility"), strict=True
    )
    for old, new, flags in told:
        assert new == (old if old is None or flags is None else sum(flag > 0 for flag in flags))
    for old, new in zip(column(dataset, "keypoint_scores"), column(moved, "keypoint_scores"), strict=True):
        assert (old is None) == (new is None)


@FEW
@given(datasets(), st.sampled_from(["coco_17", "mpii_16", "crowdpose_14"]))
def test_labelled_keypoints_are_kept_or_counted(dataset, target):
    """Without approximation each labelled keypoint is copied, is a parent of a midpoint, or stands in the losses."""
    goal = load(target)
    moved, losses = remap(dataset, target)
    parents = {"pelvis": ("left_hip", "right_hip"), "thorax": ("left_shoulder", "right_shoulder")}
    lost = 0
    for person, flags in zip(dataset.persons.to_pylist(), column(moved, "visibility"), strict=True):
        if not person["keypoints"]:
            continue
        own = dataset.skeletons[person["skeleton"]].keypoint_names
        old = dict(zip(own, person["visibility"], strict=True))
        new = dict(zip(goal.keypoint_names, flags, strict=True))
        for name in own:
            place = name.replace(" ", "_")  # "left ear" of the strategy's own skeleton is a left ear
            same_protocol = target == "crowdpose_14" or name not in ("neck", "top_head")
            if place in new and same_protocol:
                assert new[place] == old[name], name
            elif not any(name in twins and middle in new for middle, twins in parents.items()):
                lost += old[name] > 0
    assert losses.losses.get("keypoints without a place", 0) == lost


@FEW
@given(datasets())
def test_a_remap_onto_itself_changes_no_pose(dataset):
    """People of the target's own skeleton keep every number, flag and score."""
    moved, _ = remap(dataset, "coco_17")
    rows = [i for i, name in enumerate(column(dataset, "skeleton")) if name == "coco_17"]
    for name in ("keypoints", "visibility", "keypoint_scores"):
        old, new = (schema.take(d.persons.select([name]), np.array(rows, int))[name] for d in (dataset, moved))
        assert schema.same(old, new)


# -------------------------------------------------------------------------------------------------------------- targets


def test_targets(tmp_path):
    """A name, a file and a Skeleton say the same; what is none of them is refused with the known names."""
    path = tmp_path / "hips.json"
    path.write_text(json.dumps(HIPS.to_json()))
    dataset = made(SQUARE, [POSE])
    assert remap(dataset, path)[0] == remap(dataset, str(path))[0] == remap(dataset, HIPS)[0]
    assert remap(dataset, "coco_17")[0] == remap(dataset, COCO)[0]
    with pytest.raises(SkeletonError, match=r"no skeleton is named 'coco17'.*did you mean"):
        remap(dataset, "coco17")


def test_real_wholebody(real_data):
    """Whole-body people on COCO: the body's labels as the file has them, for every person."""
    path = real_data / "coco_mmpose4" / "test_coco_wholebody.json"
    raw = json.loads(path.read_text())["annotations"]
    moved, losses = remap(converters.read(path), "coco_17")
    dropped = 0
    for row, xy, flags in zip(raw, moved.keypoints, moved.visibility.tolist(), strict=True):
        triples = np.array(row["keypoints"], float).reshape(-1, 3)[:17]
        assert flags == triples[:, 2].astype(int).tolist()
        labelled = triples[:, 2] > 0
        assert np.array_equal(xy[labelled], triples[labelled, :2])
        parts = (row[key][2::3] for key in ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"))
        dropped += sum(flag > 0 for part in parts for flag in part)
    assert losses.losses["keypoints without a place"] == dropped
