"""Several skeletons as one: every point once, and what a source does not know is never told as absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")

from kpdata import skeleton as skeletons  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.errors import SkeletonError, TrainError  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402
from kpdata.synth import synthesize, write_images  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.mixed import onto, skeletons_of, union  # noqa: E402

SIZE = (48, 64)
FOUR = ("coco_17", "mpii_16", "crowdpose_14", "lsp_14")


def loaded(*names: str) -> list[Skeleton]:
    return [skeletons.load(name) for name in names]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same six scenes as COCO and as MPII would annotate them: (dataset, folder) each."""
    found = []
    for name in ("coco_17", "mpii_16"):
        dataset = synthesize(6, seed=3, size=(160, 120), skeleton=name, truncation=0.8)
        folder = tmp_path_factory.mktemp(name)
        write_images(dataset, folder)
        found.append((dataset, folder))
    return found


def test_a_union_has_every_landmark_once():
    """Of COCO, MPII, CrowdPose and LSP: COCO's columns first, no landmark twice, none lost."""
    parts = loaded(*FOUR)
    found = union(parts)
    marks = {mark for one in parts for mark in one.landmarks}
    assert found.keypoint_names[:17] == parts[0].keypoint_names
    assert sorted(found.landmarks) == sorted(marks)
    assert len(found) == len(marks) > 17
    for one in parts:
        assert skeletons.remap(one, found).dropped == ()


def test_left_and_right_stay_twins():
    """Each part's pairs are pairs of the union, by landmark; and nothing else is."""
    parts = loaded(*FOUR)
    found = union(parts)
    place = dict(zip(found.landmarks, found.keypoint_names, strict=True))
    wanted = set()
    for one in parts:
        mark = dict(zip(one.keypoint_names, one.landmarks, strict=True))
        wanted |= {frozenset(place[mark[side]] for side in pair) for pair in one.flip_pairs or ()}
    assert {frozenset(pair) for pair in found.flip_pairs or ()} == wanted
    assert len(found.flip_pairs or ()) == len(wanted)


def test_a_union_of_one_is_itself():
    """Equal skeletons need no union; an empty list has none."""
    coco = skeletons.load("coco_17")
    assert union([coco, skeletons.load("coco_17")]) is coco
    with pytest.raises(TrainError, match="no skeleton"):
        union([])


def test_names_of_different_points():
    """A name that means two points keeps the first; the second says whose it is. Unknown twins stay unknown."""
    one = Skeleton("one", ("nose", "neck"), landmarks=("nose", "neck/a"), flip_pairs=frozenset())
    two = Skeleton("two", ("neck", "tail"), landmarks=("neck/b", ""), flip_pairs=None)
    found = union([one, two])
    assert found.keypoint_names == ("nose", "neck", "neck_two", "tail")
    assert found.landmarks == ("nose", "neck/a", "neck/b", "")
    with pytest.raises(SkeletonError, match="twins are not known"):
        found.flip_index()


def test_sigmas_are_all_or_none():
    """COCO with CrowdPose has a sigma for all, the first one's where both have one; with LSP some have none."""
    coco, crowdpose, lsp = loaded("coco_17", "crowdpose_14", "lsp_14")
    found = union([coco, crowdpose])
    assert found.sigmas is not None and found.sigmas[:17] == coco.sigmas
    own = dict(zip(crowdpose.landmarks, crowdpose.sigmas or (), strict=True))
    assert found.sigmas[17:] == tuple(own[mark] for mark in found.landmarks[17:])
    assert union([coco, lsp]).sigmas is None


def test_what_a_source_knows(both):
    """COCO knows no head top, MPII no nose; both know ankles, and COCO the middle of its hips: computed here apart."""
    (coco, _), (mpii, _) = both
    found = union([coco.skeleton, mpii.skeleton])
    place = found.landmarks.index
    of_coco, of_mpii = onto(coco, found), onto(mpii, found)
    nose, top, pelvis, ankle = (place(mark) for mark in ("nose", "head_top/mpii", "mid_hips", "left_ankle"))
    assert of_coco.known[:, [nose, top, pelvis, ankle]].tolist() == [[True, False, True, True]] * len(coco)
    assert of_mpii.known[:, [nose, top, pelvis, ankle]].tolist() == [[False, True, True, True]] * len(mpii)
    for placed in (of_coco, of_mpii):
        assert not placed.visibility[~placed.known].any() and np.isnan(placed.keypoints[~placed.known]).all()
    hips = [coco.skeleton.landmarks.index(side) for side in ("left_hip", "right_hip")]
    labelled = (coco.visibility[:, hips] > 0).all(axis=1)
    assert labelled.any() and not labelled.all()
    middle = coco.keypoints[labelled][:, hips].mean(axis=1)
    np.testing.assert_allclose(of_coco.keypoints[labelled, pelvis], middle)
    assert not of_coco.visibility[~labelled, pelvis].any()


def test_an_earlier_remap_is_remembered(both):
    """A dataset that was remapped knows what it knew before, though its skeleton has more columns now."""
    from kpdata.remapping import remap

    coco = both[0][0]
    moved, _ = remap(coco, "mpii_16")
    top = moved.skeleton.landmarks.index("head_top/mpii")
    known = onto(moved, skeletons.load("mpii_16")).known
    assert not known[:, top].any() and known[:, moved.skeleton.landmarks.index("left_knee")].all()


def test_crops_of_two_sources(both):
    """Each person keeps its source; `known` is that of its data, also mirrored; crops are those of each alone."""
    (coco, _), (mpii, _) = both
    sources = [Source(*both[0], name="coco"), Source(*both[1], name="mpii")]
    found = union(skeletons_of(sources))
    crops = Crops(sources, found, hrnet(SIZE), seed=1)
    known = [onto(dataset, found).known[0] for dataset in (coco, mpii)]
    assert not np.array_equal(*known)
    for row in known:  # twins are known together
        assert np.array_equal(row, row[found.flip_index()])
    batches = list(make_loader(crops, batch=7, drop_last=False))
    source = torch.cat([batch.source for batch in batches])
    assert set(source.tolist()) == {0, 1} and any(batch.mirrored.any() for batch in batches)
    for batch in batches:
        for number, of in enumerate(batch.source.tolist()):
            assert batch.known[number].tolist() == known[of].tolist()
            assert not batch.visibility[number][~batch.known[number]].any()
    ids = {of: set(torch.cat([b.annotation_ids[b.source == of] for b in batches]).tolist()) for of in (0, 1)}
    assert ids[0] <= set(coco.persons["annotation_id"].to_pylist())
    assert ids[1] <= set(mpii.persons["annotation_id"].to_pylist())


def test_half_known_skeletons_mirror_columns(both):
    """Of a mirrored person the known columns change sides with the keypoints."""
    coco, folder = both[0]
    pair = Skeleton("pair", ("l", "r"), flip_pairs=frozenset({("l", "r")}), landmarks=("left_wrist", "right_wrist"))
    only = Skeleton("only", ("l",), flip_pairs=frozenset(), landmarks=("left_wrist",))
    left = coco.skeleton.landmarks.index("left_wrist")
    from kpdata.remapping import remap

    moved, _ = remap(coco, only)
    crops = Crops([Source(moved, folder)], pair, hrnet(SIZE, flip=1.0, half_body=0.0))
    batch = crops.__getitems__([(0, index) for index in range(len(crops))])
    assert batch.mirrored.all() and len(crops) == int((coco.visibility[:, left] > 0).sum())
    assert batch.known.tolist() == [[False, True]] * len(crops)
    assert (batch.visibility[:, 1] > 0).all() and not batch.visibility[:, 0].any()


def test_shares_are_checked(both):
    """A source cannot be drawn less than never."""
    with pytest.raises(TrainError, match="share 0"):
        replace(Source(*both[0]), share=0)
