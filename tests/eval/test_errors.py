"""Kinds of mistakes: a loop written from the paper's definitions, the known mistakes of synth, hand-made people."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from kpdata import schema
from kpdata.eval.errors import (
    Kind,
    classify,
    count_errors,
    count_people,
    crowding,
    duplicates,
    missed_people,
    proximity,
    score_errors,
)
from kpdata.eval.evaluation import evaluate
from kpdata.eval.oks import Detections, GroundTruth, Params, detection_area
from kpdata.eval.part import Part, pair
from kpdata.skeleton import Skeleton, load
from kpdata.synth import simulate_predictions, synthesize

SEEDS = st.integers(0, 2**32 - 1)
BONES = load("coco_17")


def part_of(gt, dt, params, bones, images, categories=(1,)):
    images, categories = np.unique(images), np.unique(categories)
    n, m, k = len(gt.area), len(dt.score), len(bones)
    return Part(
        skeleton=bones, mask=np.ones(k, bool), truth=gt, detections=dt, visibility=gt.labelled.astype(np.int8) * 2,
        keypoint_scores=np.full((m, k), np.nan), truth_rows=np.arange(n), detection_rows=np.arange(m),
        image_ids=images, category_ids=categories, params=params,
    )  # fmt: skip


def random_part(coco, seed):
    """The ties, crowds and odd ids of `random_case`, on a skeleton with some twins."""
    case = coco.random_case(seed, k=(1, 5, 14, 17)[seed % 4])
    gt, dt, params = coco.arrays(case)
    k = len(params.sigmas)
    names = tuple(f"k{i}" for i in range(k))
    twins = np.random.default_rng(seed).permutation(k)[: k // 3 * 2].reshape(-1, 2)
    pairs = frozenset((names[a], names[b]) for a, b in twins)
    return part_of(gt, dt, params, Skeleton("any", names, flip_pairs=pairs), case.images(), case.categories())


def people(poses, image=1, labelled=None, area=4000.0, crowd=()):
    poses = np.asarray(poses, float)
    n, k = poses.shape[:2]
    labelled = np.ones((n, k), bool) if labelled is None else np.asarray(labelled)
    low, size = poses.min(1), np.ptp(poses, axis=1)
    return GroundTruth(
        np.broadcast_to(image, n), np.ones(n), np.arange(n) + 1, poses, labelled, labelled.sum(1),
        np.concatenate([low, size], 1), np.broadcast_to(area, n), np.isin(np.arange(n), crowd),
    )  # fmt: skip


def predicted(poses, scores, image=1):
    poses = np.asarray(poses, float)
    m = len(poses)
    return Detections(np.broadcast_to(image, m), np.ones(m), poses, np.asarray(scores), detection_area(poses))


def lower(pose, pixels):
    return pose + np.array([0, pixels])


def scene(gt, dt):
    return part_of(gt, dt, Params(sigmas=np.array(BONES.sigmas)), BONES, [*gt.image_id, *dt.image_id])


def places(part, t, d, j):
    """(ks, person, keypoint) of every place where keypoint j may be, in the order in which the first of equals wins."""
    truth, sigma = part.truth, part.params.sigmas[j]
    crowd = [t, *(o for o in range(len(truth.area)) if o != t and truth.image_id[o] == truth.image_id[t])]
    for column in (j, part.skeleton.flip_index()[j]):
        for person in crowd:
            if truth.labelled[person, column]:
                dx, dy = part.detections.keypoints[d, j] - truth.keypoints[person, column]
                area = truth.area[person] + np.spacing(1)
                yield math.exp(-(dx**2 + dy**2) / (sigma * 2) ** 2 / area / 2), person, column


def naive_kinds(part, pairing):
    """Kinds, keypoint by keypoint and place by place, from the definitions of the paper."""
    kinds = np.full((len(pairing.truth), len(part.skeleton)), -1)
    for p, (t, d) in enumerate(zip(pairing.truth.tolist(), pairing.detection.tolist(), strict=True)):
        for j in np.flatnonzero(part.truth.labelled[t]).tolist():
            ks, person, column = max(places(part, t, d, j), key=lambda place: place[0])
            if ks < 0.5:
                kinds[p, j] = Kind.MISS
            elif person != t:
                kinds[p, j] = Kind.SWAP
            elif column != j:
                kinds[p, j] = Kind.INVERSION
            else:
                kinds[p, j] = Kind.GOOD if ks >= 0.85 else Kind.JITTER
    return kinds


@given(SEEDS)
@settings(max_examples=30)
def test_naive_loop(coco, seed):
    """Any number of keypoints, any twins, ties, crowds, several categories: the loop's classes, to the keypoint."""
    part = random_part(coco, seed)
    pairing = pair(part)
    kinds, errors = naive_kinds(part, pairing), classify(part, pairing)
    np.testing.assert_array_equal(errors.kind, kinds)
    assert (errors.other[kinds != Kind.SWAP] == -1).all()
    for p, j in np.argwhere(kinds >= 0)[::7].tolist():
        t, d = int(pairing.truth[p]), int(pairing.detection[p])
        found = list(places(part, t, d, j))
        assert errors.nearest[p, j] == pytest.approx(max(ks for ks, _, _ in found), rel=1e-12, abs=1e-300)
        assert errors.similarity[p, j] == pytest.approx(found[0][0], rel=1e-12, abs=1e-300)
        if kinds[p, j] == Kind.SWAP:  # several people may hold the very same keypoint: then each is right
            assert any(who == errors.other[p, j] != t and ks >= errors.nearest[p, j] for ks, who, _ in found)


def test_a_large_scene_is_cut_into_blocks(monkeypatch, coco):
    """Blocks bound the memory and change nothing."""
    monkeypatch.setattr("kpdata.eval.errors.TERMS_PER_BLOCK", 64)
    part = random_part(coco, 9)
    pairing = pair(part)
    errors = classify(part, pairing)
    assert len(pairing.truth) > 3
    np.testing.assert_array_equal(errors.kind, naive_kinds(part, pairing))


def test_known_mistakes():
    """The kinds that simulate_predictions put in are the kinds found, every one."""
    gt = synthesize(60, seed=3, people=(2, 6))
    predictions, truth = simulate_predictions(gt, seed=4)
    part = evaluate(gt, predictions).sides.parts[0]
    pairing = pair(part)
    rows = part.detection_rows[pairing.detection]
    right = part.truth.annotation_id[pairing.truth] == schema.values(truth["gt_annotation_id"], -1)[rows]
    made, found = schema.matrix(truth["kinds"], 17)[rows], classify(part, pairing).kind
    assert right.mean() > 0.99
    for kind in Kind:
        assert (made[right] == kind).sum() > 20
    np.testing.assert_array_equal(found[right], made[right])


def test_perfect_and_mirrored():
    """The labels themselves are good; with left and right exchanged every keypoint that has a twin is inverted."""
    rng = np.random.default_rng(0)
    pose = (rng.permutation(np.arange(17)) * 40)[:, None] * [1, 0] + rng.integers(0, 9, (17, 2))
    labelled = np.ones((1, 17), bool)
    labelled[0, [5, 8]] = False  # left shoulder and right elbow: their twins have nobody to be mistaken for
    gt = people([pose], labelled=labelled)
    for guess, expected in ((pose, Kind.GOOD), (pose[BONES.flip_index()], Kind.INVERSION)):
        part = scene(gt, predicted([guess], [0.9]))
        kind = classify(part, pair(part, 1e-9)).kind[0]
        names = dict(zip(BONES.keypoint_names, kind.tolist(), strict=True))
        assert names.pop("nose") == Kind.GOOD
        assert names.pop("left_shoulder") == names.pop("right_elbow") == Kind.UNLABELLED
        twins = {names.pop("right_shoulder"), names.pop("left_elbow")}
        assert twins == {Kind.GOOD if expected == Kind.GOOD else Kind.MISS}
        assert set(names.values()) == {expected}


def test_no_twins_no_inversions():
    """A skeleton whose left and right are not known: a keypoint at its twin's place is a miss."""
    pose = np.arange(17)[:, None] * [40, 0]
    part = scene(people([pose]), predicted([pose[BONES.flip_index()]], [0.9]))
    bones = Skeleton("any", tuple(f"k{i}" for i in range(17)))
    unknown = part_of(part.truth, part.detections, part.params, bones, [1])
    assert (classify(part, pair(part, 1e-9)).kind == Kind.INVERSION).sum() == 16
    assert set(classify(unknown, pair(unknown, 1e-9)).kind[0].tolist()) == {Kind.GOOD, Kind.MISS}


def test_swapped_with_whom():
    """A wrist at another's wrist, a hip at a third one's other hip: both swaps, each with its person."""
    pose = np.arange(17)[:, None] * [40, 0]
    guess = pose.copy()
    guess[9], guess[11] = lower(pose[9], 500), lower(pose[12], 900)
    part = scene(people([pose, lower(pose, 500), lower(pose, 900)]), predicted([guess], [0.9]))
    errors = classify(part, pair(part))
    assert errors.kind[0, [9, 11]].tolist() == [Kind.SWAP, Kind.SWAP]
    assert errors.other[0, [9, 11]].tolist() == [1, 2]
    assert errors.nearest[0, [9, 11]].tolist() == [1.0, 1.0]
    assert errors.similarity[0, 9] == 0 and (errors.kind == Kind.GOOD).sum() == 15


def test_places_that_are_no_numbers():
    """A keypoint at NaN or infinity is a miss, and does not spoil the others."""
    pose = np.arange(17)[:, None] * [40.0, 0]
    guess = pose.copy()
    guess[3], guess[4, 1] = np.nan, np.inf
    part = scene(people([pose]), predicted([guess], [0.9]))
    kind = classify(part, pair(part)).kind[0]
    assert np.flatnonzero(kind == Kind.MISS).tolist() == [3, 4] and (kind == Kind.GOOD).sum() == 15


@given(SEEDS)
@settings(max_examples=10)
def test_counts(coco, seed):
    """Each row counts its keypoint, the last one all; missed people's keypoints are told apart."""
    part = random_part(coco, seed)
    pairing = pair(part)
    table = count_errors(part, pairing, classify(part, pairing)).to_pylist()
    kinds = naive_kinds(part, pairing)
    for column, row in enumerate(table):
        chosen = slice(None) if row["keypoint"] == "all" else column
        for kind in (Kind.GOOD, Kind.JITTER, Kind.INVERSION, Kind.SWAP, Kind.MISS):
            count = np.count_nonzero(kinds[:, chosen] == kind)
            assert row[kind.name.lower()] == count
            if row["found"]:
                assert row[f"{kind.name.lower()}_share"] == count / row["found"]
        assert row["found"] == part.truth.labelled[pairing.truth][:, chosen].sum()
        assert row["undetected"] == part.truth.labelled[pairing.missed][:, chosen].sum()
    assert len(table) == len(part.skeleton) + 1


POSE = np.arange(17)[:, None] * [40.0, 3]


def test_duplicates_background_and_scores():
    """Three people: one found twice, the worse pose with the better score; one found once; one missed."""
    gt = people([POSE, lower(POSE, 500), lower(POSE, 900)], image=[1, 1, 2])
    found = [lower(POSE, 4), POSE, lower(POSE, 501), lower(POSE, 3000)]
    dt = predicted(found, [0.9, 0.8, 0.7, 0.95], image=[1, 1, 1, 2])
    part = scene(gt, dt)
    pairing, near = pair(part), proximity(part)
    assert pairing.spurious.tolist() == [1, 3] and pairing.missed.tolist() == [2]
    assert duplicates(part, pairing, near).tolist() == [True, False]
    assert score_errors(near, dt.score).tolist() == [0]
    rows = {row.pop("kind"): row for row in count_people(part, pairing).to_pylist()}
    assert {kind: (row["count"], row["of"]) for kind, row in rows.items()} == {
        "found": (2, 3), "missed": (1, 3), "misscored": (1, 3), "duplicate": (1, 4), "background": (1, 4),
    }  # fmt: skip
    assert rows["found"]["median_score"] == pytest.approx(0.8) and rows["background"]["median_score"] == 0.95
    assert rows["background"]["confident"] == 1 and rows["missed"]["confident"] is None


@given(SEEDS)
@settings(max_examples=12)
def test_proximity(coco, seed):
    """Pairs of counted people and predictions, with OKS as pycocotools computes it."""
    case = coco.random_case(seed, k=17)
    case.settings = {"sigmas": coco.sigmas}
    gt, dt, params = coco.arrays(case)
    gt.annotation_id[:] = np.arange(len(gt.area)) + 1
    for number, row in enumerate(case.truth["annotations"], 1):
        row["id"] = number
    part = part_of(gt, dt, params, BONES, case.images(), case.categories())
    near = proximity(part)
    judge, expected = coco.judge(case), []
    for (image, category), oks in judge.ious.items():
        if not len(oks):
            continue
        found = judge._dts[image, category]
        found = [found[i] for i in np.argsort([-d["score"] for d in found], kind="mergesort")][:20]
        for i, d in enumerate(found):
            for j, g in enumerate(judge._gts[image, category]):
                if oks[i, j] >= 0.1 and not g["ignore"]:
                    expected.append((d["id"] - 1, g["id"] - 1, oks[i, j]))
    got = zip(near.detection.tolist(), near.truth.tolist(), near.oks.tolist(), strict=True)
    assert sorted(got) == sorted(expected)


def test_crowding():
    """Overlaps as pycocotools' mask library computes them; crowds do not crowd."""
    rng = np.random.default_rng(2)
    poses = rng.integers(0, 60, (40, 17, 2)) * rng.integers(1, 4, (40, 1, 1)) + rng.integers(0, 90, (40, 1, 2))
    image = rng.integers(1, 5, 40)
    gt = people(poses, image=image, crowd=[3, 7])
    part = scene(gt, predicted(poses[:1], [0.5], image=image[:1]))
    plain = [i for i in range(40) if i not in (3, 7)]
    iou = coco_mask.iou(gt.bbox[plain], gt.bbox[plain], [0] * 38)
    near = (iou > 0.1) & (image[plain][:, None] == image[plain]) & ~np.eye(38, dtype=bool)
    expected = np.zeros(40, int)
    expected[plain] = near.sum(1)
    assert crowding(part).tolist() == expected.tolist() and expected.max() > 3


def test_missed_people():
    """By size, by labelled keypoints and by crowding; every grouping counts everybody once."""
    areas = np.array([1023.0, 1024.0, 4096.0, 9216.0, 20000.0])
    labelled = np.arange(17) < np.array([1, 5, 6, 13, 17])[:, None]
    poses = [POSE, lower(POSE, 1000), lower(POSE, 1005), lower(POSE, 2000), lower(POSE, 3000)]
    part = scene(people(poses, labelled=labelled, area=areas), predicted([poses[0], poses[3]], [0.9, 0.8]))
    table = missed_people(part, pair(part)).to_pylist()
    rows = {(row["by"], row["group"]): (row["people"], row["missed"]) for row in table}
    assert rows == {
        ("size", "below 32²"): (1, 0), ("size", "32² to 64²"): (1, 1), ("size", "64² to 96²"): (1, 1),
        ("size", "96² to 128²"): (1, 0), ("size", "128² and above"): (1, 1),
        ("labelled keypoints", "1 to 5"): (2, 1), ("labelled keypoints", "6 to 9"): (1, 1),
        ("labelled keypoints", "10 to 13"): (1, 0), ("labelled keypoints", "14 to 17"): (1, 1),
        ("crowding", "nobody"): (3, 1), ("crowding", "1 or 2 people"): (2, 2), ("crowding", "3 people or more"): (0, 0),
    }  # fmt: skip
