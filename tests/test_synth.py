"""Synthetic people: the annotation says what a naive painter sees, and simulated errors are what their record says."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.cocoeval import Params

from kpdata import schema, synth
from kpdata.errors import DestinationExists, SchemaError, SkeletonError
from kpdata.skeleton import Skeleton
from kpdata.synth.body import PARTS
from kpdata.synth.predict import Kind
from kpdata.synth.scene import Options, block, paint


@pytest.fixture(scope="module")
def people():
    return synth.synthesize(40, seed=3)


@pytest.fixture(scope="module")
def crowded():
    return synth.synthesize(24, seed=5, people=(2, 8), height=(0.4, 0.9))


def masks_of(dataset):
    return [mask.decode(json.loads(text)) for text in schema.texts(dataset.persons["rle"])]


def depth_inside(circles, points):
    """How far (M,) points lie inside the convex hull of circles (4, 3), negative outside, by its support.

    The least is found in the direction away from a centre, or across a line that touches two circles.
    """
    centres, radii = circles[:, :2], circles[:, 2]
    depth = np.full(len(points), np.inf)
    away = [(points - c) / np.maximum(np.hypot(*(points - c).T), 1e-12)[:, None] for c in centres]
    across = []
    for i, j in itertools.combinations(range(len(circles)), 2):
        gap = math.hypot(*(centres[j] - centres[i]))
        if gap > abs(radii[i] - radii[j]):
            along = math.atan2(*(centres[j] - centres[i])[::-1])
            turn = math.acos((radii[i] - radii[j]) / gap)
            across += [np.tile((math.cos(a), math.sin(a)), (len(points), 1)) for a in (along + turn, along - turn)]
    for direction in away + across:
        reach = (direction @ centres.T + radii).max(1)
        depth = np.minimum(depth, reach - (direction * points).sum(1))
    return depth


# ---------------------------------------------------------------------------------------------------- the same again


def test_same_seed_same_dataset(people):
    """The seed is all that chance depends on."""
    assert synth.synthesize(40, seed=3) == people
    assert synth.synthesize(40, seed=4) != people


def test_image_does_not_depend_on_how_many_are_asked_for():
    """Image 66 of 70 is image 66 made alone, across the blocks that images are made in."""
    whole, alone = synth.synthesize(70, seed=1), synth.synthesize(1, seed=1, first=66)
    part = whole.select(images=np.arange(70) == 66)
    assert schema.same(part.persons, alone.persons)
    assert schema.same(part.images, alone.images)


def test_same_people_in_every_skeleton(people):
    """Shared keypoints have the same coordinates and visibility; MPII's thorax and pelvis are the midpoints."""
    coco = people.skeleton.keypoint_names
    for name in ("mpii_16", "lsp_14", "crowdpose_14", "halpe_26"):
        other = synth.synthesize(40, seed=3, skeleton=name)
        names = other.skeleton.keypoint_names
        common = [n for n in names if n in coco]
        assert len(common) >= 12
        here, there = [names.index(n) for n in common], [coco.index(n) for n in common]
        assert np.array_equal(other.keypoints[:, here], people.keypoints[:, there], equal_nan=True)
        assert np.array_equal(other.visibility[:, here], people.visibility[:, there])
    mpii = synth.synthesize(40, seed=3, skeleton="mpii_16")
    at = mpii.skeleton.keypoint_names.index
    for middle, joint in (("thorax", "shoulder"), ("pelvis", "hip")):
        halves = mpii.keypoints[:, [at(f"left_{joint}"), at(f"right_{joint}")]].mean(1)
        known = ~np.isnan(halves).any(1)
        assert np.abs(mpii.keypoints[known, at(middle)] - halves[known]).max() < 0.02  # two decimals


def test_pictures_are_the_same_bytes(tmp_path):
    """Twice the same JPEG files, without EXIF, named by image id; a selection gives its own pictures only."""
    from PIL import Image

    few = synth.synthesize(3, seed=2, size=(96, 64))
    first = synth.write_images(few, tmp_path / "a")
    second = synth.write_images(few.select(images=np.array([2])), tmp_path / "b")
    assert (
        [p.name for p in first] == schema.texts(few.images["file_name"]) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    )
    assert [p.name for p in second] == ["000003.jpg"]
    assert second[0].read_bytes() == first[2].read_bytes()
    with Image.open(first[0]) as picture:
        assert picture.size == (96, 64) and picture.mode == "RGB" and not dict(picture.getexif())
    with pytest.raises(DestinationExists, match="000001"):
        synth.write_images(few, tmp_path / "a")
    assert synth.write_images(few, tmp_path / "a", force=True) == first


# ------------------------------------------------------------------------------------------------- what can be seen


def test_painter_agrees_with_a_naive_one():
    """At each pixel the last part whose outline holds the pixel's centre, by testing all parts at all pixels."""
    scenes = block(9, 0, 2, Options(size=(80, 60), people=(2, 4), objects=1.0, crowds=0.4))
    pixels = np.stack(np.meshgrid(np.arange(80), np.arange(60), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)
    for image in range(2):
        expected = np.zeros(len(pixels), int)
        clear = np.ones(len(pixels), bool)
        for number, row in enumerate(np.flatnonzero(scenes.part_image == image)):
            depth = depth_inside(scenes.circles[row], pixels)
            expected[depth >= 0] = number + 1
            clear &= np.abs(depth) > 1e-9  # a centre on an outline may be taken for either side
        assert clear.mean() > 0.99 and (expected > 0).mean() > 0.02
        assert np.array_equal(paint(scenes, image).reshape(-1)[clear], expected[clear])


OWN = {
    "shoulder": ["upper_arm"], "elbow": ["upper_arm", "forearm"], "wrist": ["forearm", "hand"],
    "hip": ["thigh"], "knee": ["thigh", "shin"], "ankle": ["shin", "foot"],
}  # fmt: skip
FACE = {"nose", "mouth", "left_eye", "right_eye", "left_pupil", "right_pupil", "left_ear", "right_ear"}


def may_show(keypoint, top, parts_before_skull):
    """A part (its name) on top lets a keypoint of the same person be seen."""
    if keypoint in FACE:
        if keypoint in parts_before_skull:  # at the back of the head: only its own part, where it sticks out
            return top == keypoint
        return top in FACE - parts_before_skull
    side, joint = keypoint.split("_")
    return top in {f"{side}_{part}" for part in OWN[joint]}


def test_visibility_is_what_a_naive_painter_sees(crowded):
    """VISIBLE, OCCLUDED and ABSENT by looking through all outlines at each keypoint's pixel, one by one."""
    scenes = block(5, 0, 24, Options(people=(2, 8), height=(0.4, 0.9)))
    names = crowded.skeleton.keypoint_names
    ids = schema.values(crowded.persons["annotation_id"])
    counts = dict.fromkeys(range(3), 0)
    for person, (xy, seen) in enumerate(zip(crowded.keypoints, crowded.visibility, strict=True)):
        image, number = divmod(int(ids[person]), 100)
        if image > 14:
            break  # the rest is for other tests
        (row,) = np.flatnonzero((scenes.image == image - 1) & (scenes.number == number - 1))
        parts = np.flatnonzero(scenes.part_image == image - 1)
        own = [PARTS[k] for k in scenes.part_kind[parts[scenes.part_person[parts] == row]]]
        before_skull = set(own[: own.index("skull")]) & FACE
        pixel = np.rint(xy)
        depth = np.stack([depth_inside(scenes.circles[part], np.nan_to_num(pixel)) for part in parts])
        for k, name in enumerate(names):
            counts[int(seen[k])] += 1
            if seen[k] == 0:
                assert np.isnan(xy[k]).all()
                continue
            assert 0 <= pixel[k, 0] < 640 and 0 <= pixel[k, 1] < 480
            if (np.abs(depth[:, k]) < 1e-9).any():
                continue
            top = parts[np.flatnonzero(depth[:, k] > 0)[-1]]
            mine = scenes.part_person[top] == row and may_show(name, PARTS[scenes.part_kind[top]], before_skull)
            assert seen[k] == (2 if mine else 1), (ids[person], name)
    assert min(counts.values()) > 40


def test_absent_means_outside_the_image():
    """Truncation: whoever an edge cuts touches it and lacks keypoints; nobody is cut where it is off."""
    cut = synth.synthesize(12, seed=8, truncation=1.0, people=(1, 1))
    boxes = schema.matrix(cut.persons["bbox"], 4)
    at_edge = (boxes[:, 0] == 0) | (boxes[:, 0] + boxes[:, 2] == 640) | (boxes[:, 1] + boxes[:, 3] == 480)
    assert at_edge.all() and (cut.visibility == 0).any(1).mean() > 0.8
    whole = synth.synthesize(12, seed=8, truncation=0.0, height=(0.2, 0.4))
    assert (whole.visibility > 0).all()


def test_box_and_area_are_those_of_the_mask(people):
    """Counted on the decoded masks: tight continuous box, pixels, no overlap, visible limbs on their person."""
    boxes, areas = schema.matrix(people.persons["bbox"], 4), schema.values(people.persons["area"])
    seen = np.zeros((40, 480, 640), int)
    for row, picture in enumerate(masks_of(people)):
        y, x = np.nonzero(picture)
        assert boxes[row].tolist() == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert areas[row] == len(x)
        seen[people.image_rows()[row]] += picture
        visible = np.rint(people.keypoints[row][people.visibility[row] == 2]).astype(int)
        assert picture[visible[:, 1], visible[:, 0]].all()
    assert seen.max() == 1
    assert schema.values(people.persons["num_keypoints"]).tolist() == (people.visibility > 0).sum(1).tolist()


def test_pictures_show_the_annotation():
    """Left shoes are yellow and right ones blue, wherever a visible toe is annotated."""
    feet = synth.synthesize(8, seed=6, skeleton="halpe_26", people=(1, 3), height=(0.6, 0.9))
    names = feet.skeleton.keypoint_names
    found = {"left": [], "right": []}
    for image in range(8):
        picture = synth.render(6, image, people=(1, 3), height=(0.6, 0.9)).astype(int)
        assert picture.shape == (480, 640, 3) and picture.std() > 15
        for row in np.flatnonzero(feet.image_rows() == image):
            for side in found:
                k = names.index(f"{side}_big_toe")
                if feet.visibility[row, k] == 2:
                    x, y = np.rint(feet.keypoints[row, k]).astype(int)
                    found[side].append(picture[y, x, 0] - picture[y, x, 2])  # red minus blue
    assert min(found["left"]) > 40 and max(found["right"]) < -40 and len(found["left"]) > 3


# ---------------------------------------------------------------------------------------------- other data sets' fields


def test_crowdpose_fields(crowded):
    """No area, 12 keypoints counted, and the paper's CrowdIndex by two loops."""
    crowd = synth.synthesize(24, seed=5, people=(2, 8), height=(0.4, 0.9), skeleton="crowdpose_14")
    assert not schema.valid(crowd.persons["area"]).any() and not schema.valid(crowd.persons["rle"]).any()
    assert schema.values(crowd.persons["num_keypoints"]).tolist() == (crowd.visibility[:, :12] > 0).sum(1).tolist()
    boxes, rows = schema.matrix(crowd.persons["bbox"], 4), crowd.image_rows()
    for image, found in enumerate(schema.values(crowd.images["crowd_index"])):
        ratios = []
        here = np.flatnonzero(rows == image)
        for a in here:
            x, y, w, h = boxes[a]

            def inside(b, x=x, y=y, w=w, h=h):
                points = crowd.keypoints[b][crowd.visibility[b] > 0]
                return sum(x <= px <= x + w and y <= py <= y + h for px, py in points)

            if inside(a):
                ratios.append(sum(inside(b) for b in here if b != a) / inside(a))
        assert found == pytest.approx(np.mean(ratios) if ratios else 0.0)
    assert len(crowd) == len(crowded)


def test_mpii_fields(people):
    """Head boxes hold the same person's nose and eyes; scale is standing height / 200 px; there are no person boxes."""
    mpii = synth.synthesize(40, seed=3, skeleton="mpii_16")
    heads, scale = schema.matrix(mpii.persons["head_bbox"], 4), schema.values(mpii.persons["scale"])
    face = people.keypoints[:, :3]
    low, high = heads[:, None, :2], heads[:, None, :2] + heads[:, None, 2:]
    margin = 200 * scale[:, None, None] * 0.03  # a nose in profile reaches beyond the skull
    known = people.visibility[:, :3] > 0
    assert (((face > low - margin) & (face < high + margin)).all(-1) | ~known).all()
    assert (scale > 0.29 * 480 / 200).all() and (scale < 0.91 * 480 / 200).all()
    assert not schema.valid(mpii.persons["bbox"]).any() and schema.valid(mpii.persons["center"]).all()


def test_crowds_are_rows_with_a_mask_only():
    """One row a crowd: its mask meets nobody else's, no keypoint counts."""
    crowd = synth.synthesize(6, seed=2, crowds=1.0)
    rows = np.flatnonzero(schema.values(crowd.persons["iscrowd"]))
    assert len(rows) == 6 and (crowd.visibility[rows] == 0).all() and np.isnan(crowd.keypoints[rows]).all()
    together = np.zeros((6, 480, 640), int)
    for image, picture in zip(crowd.image_rows(), masks_of(crowd), strict=True):
        together[image] += picture
    assert together.max() == 1
    plain = synth.synthesize(6, seed=2)
    assert np.isin(schema.values(plain.persons["annotation_id"]), schema.values(crowd.persons["annotation_id"])).all()


def test_empty_datasets():
    """No images, and images without people, are data too."""
    assert len(synth.synthesize(0)) == 0
    nobody = synth.synthesize(3, people=(0, 0))
    assert nobody.images.num_rows == 3 and len(nobody) == 0
    predictions, truth = synth.simulate_predictions(nobody)
    assert len(predictions) == 0 and truth.num_rows == 0
    assert synth.render(0, 0, people=(0, 0), size=(64, 48)).shape == (48, 64, 3)


def test_provenance_says_how_to_make_it_again(people, tmp_path):
    """The generator's options are plain JSON and survive on disk."""
    from kpdata.dataset import open_dataset

    people.save(tmp_path / "people.kp")
    back = open_dataset(tmp_path / "people.kp")
    assert back == people
    made = back.datasets["synth"]
    assert made["licence"] == "CC0-1.0" and made["area_kind"] == "mask" and made["generator"]["seed"] == 3
    assert back.history[0]["op"] == "synth"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"people": (3, 1)}, "people=.*fewest"),
        ({"people": 3}, "people=3: expected two whole numbers"),
        ({"people": (0, 200)}, "90"),
        ({"size": (10, 480)}, "size=.*32"),
        ({"height": (0.5, 0.1)}, "height="),
        ({"truncation": 1.5}, "truncation=1.5: expected a share"),
        ({"crowds": "many"}, "crowds='many'"),
        ({"crowds": 0.5, "skeleton": "mpii_16"}, "mpii_16 has neither"),
        ({"seed": -1}, "seed=-1"),
        ({"skeleton": "coco_wholebody_133"}, "have no face"),
        ({"skeleton": Skeleton("mine", ("tail", "left_wrist"))}, "no tail"),
    ],
)
def test_bad_options_are_refused(options, words):
    """A sentence with the option and what was expected."""
    with pytest.raises(SchemaError, match=words):
        synth.synthesize(1, **options)


def test_pictures_need_a_synthetic_dataset(people, tmp_path):
    """A dataset from elsewhere has no pictures to draw."""
    from dataclasses import replace

    with pytest.raises(SchemaError, match="generator"):
        synth.write_images(replace(people, datasets={"synth": {}}), tmp_path)
    with pytest.raises(SkeletonError):
        synth.synthesize(1, skeleton="no_such_skeleton")


# ------------------------------------------------------------------------------------------------------- predictions


def similarity(a, b, area, sigma):
    return math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * area * (2 * sigma) ** 2))


def classify(gt, prediction, row, rows, k, twin, sigmas, *, by_place):
    """The kind by similarity to everything in the image, one pair at a time; by_place: with the area of the person
    whose keypoint it is (Ronchi & Perona), else with the area of the person who is meant."""
    xy, seen, area = gt

    def to(person, j):
        size = area[person if by_place else row]
        return similarity(prediction, xy[person, j], size, sigmas[k]) if seen[person, j] else 0.0

    own = to(row, k)
    inversion = to(row, twin[k]) if twin[k] != k else 0.0
    swap = max([to(b, j) for b in rows if b != row for j in {k, twin[k]}], default=0.0)
    best = max(own, inversion, swap)
    if own >= best:
        return Kind.GOOD if own >= 0.85 else Kind.JITTER if own >= 0.5 else Kind.MISS
    if best < 0.5:
        return Kind.MISS
    return Kind.INVERSION if inversion == best else Kind.SWAP


@pytest.mark.parametrize("by_place", [True, False])
def test_recorded_kinds_are_what_geometry_says(crowded, by_place):
    """Every keypoint's kind, recomputed from the official formula and sigmas by either area; all kinds occur."""
    predictions, truth = synth.simulate_predictions(
        crowded, seed=1, jitter=0.2, inversion=0.15, swap=0.15, miss=0.15, missed_people=0.1
    )
    sigmas = Params(iouType="keypoints").kpt_oks_sigmas
    twin = [0, *(j + 1 if j % 2 else j - 1 for j in range(1, 17))]
    ids = {a: row for row, a in enumerate(schema.values(crowded.persons["annotation_id"]).tolist())}
    counts = dict.fromkeys(Kind, 0)
    gt = (crowded.keypoints, crowded.visibility, schema.values(crowded.persons["area"]))
    images = crowded.image_rows()
    for xy, fact in zip(predictions.keypoints, truth.to_pylist(), strict=True):
        if fact["gt_annotation_id"] is None:
            assert fact["kinds"] is None
            continue
        row = ids[fact["gt_annotation_id"]]
        rows = np.flatnonzero(images == images[row])
        for k, kind in enumerate(fact["kinds"]):
            counts[Kind(kind)] += 1
            if gt[1][row, k] == 0:
                assert kind == Kind.UNLABELLED
            else:
                found = classify(gt, xy[k], row, rows, k, twin, sigmas, by_place=by_place)
                assert kind == found, (fact["gt_annotation_id"], k)
    assert min(counts.values()) > 20
    labelled = sum(counts.values()) - counts[Kind.UNLABELLED]
    assert 0.15 < counts[Kind.JITTER] / labelled < 0.24 and counts[Kind.INVERSION] / labelled < 0.18


def test_predictions_read_like_results(people):
    """Visibility 3, scores, no boxes, in the images' order; people missed and invented as often as asked."""
    predictions, truth = synth.simulate_predictions(people, seed=2, missed_people=0.2, false_positives=0.3)
    assert (predictions.visibility == 3).all() and not np.isnan(predictions.keypoints).any()
    assert not schema.valid(predictions.persons["bbox"]).any()
    assert (np.diff(predictions.image_rows()) >= 0).all()
    scores = schema.values(predictions.persons["score"])
    assert scores == pytest.approx(predictions.keypoint_scores.mean(1), abs=1e-3) and scores.min() > 0
    found = schema.valid(truth["gt_annotation_id"])
    matched = schema.values(truth["gt_annotation_id"])[found]
    assert len(set(matched.tolist())) == len(matched)
    assert 0.7 < len(matched) / len(people) < 0.9
    assert (~found).sum() == round(0.3 * len(people))
    assert (
        schema.values(truth["annotation_id"]).tolist() == schema.values(predictions.persons["annotation_id"]).tolist()
    )
    gt_image = dict(
        zip(*(schema.values(people.persons[c]).tolist() for c in ("annotation_id", "image_id")), strict=True)
    )
    ours = schema.values(predictions.persons["image_id"])[found]
    assert [gt_image[a] for a in matched.tolist()] == ours.tolist()


def test_a_perfect_model_makes_no_errors(people):
    """With all shares 0 everybody is found and everything is GOOD; the same seed gives the same predictions."""
    none = {"jitter": 0, "inversion": 0, "swap": 0, "miss": 0, "missed_people": 0, "false_positives": 0}
    predictions, truth = synth.simulate_predictions(people, **none)
    kinds = np.array(truth["kinds"].to_pylist())
    gt_ids = schema.values(people.persons["annotation_id"])
    order = np.argsort(gt_ids)[np.argsort(np.argsort(schema.values(truth["gt_annotation_id"])))]
    assert len(predictions) == len(people) and set(kinds[people.visibility[order] > 0].tolist()) == {0}
    again, _ = synth.simulate_predictions(people, **none)
    assert again == predictions
    assert synth.simulate_predictions(people, seed=1, **none)[0] != predictions


def test_nobody_to_swap_with():
    """Alone in the image, a swap becomes GOOD; without flip pairs or areas or sigmas it works all the same."""
    alone = synth.synthesize(10, people=(1, 1), skeleton="lsp_14")
    _, truth = synth.simulate_predictions(alone, swap=1.0, jitter=0, inversion=0, miss=0)
    assert {kind for kinds in truth["kinds"].to_pylist() if kinds for kind in kinds} <= {Kind.GOOD, Kind.UNLABELLED}
    wrists = Skeleton("mine", ("left_wrist", "right_wrist"), landmarks=("left_wrist", "right_wrist"))
    unpaired = synth.synthesize(10, people=(1, 1), skeleton=wrists)
    _, truth = synth.simulate_predictions(unpaired, inversion=1.0, jitter=0, swap=0, miss=0)
    assert Kind.INVERSION not in {kind for kinds in truth["kinds"].to_pylist() if kinds for kind in kinds}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jitter": 1.2}, "jitter=1.2: expected a share"),
        ({"jitter": 0.6, "miss": 0.6}, "add up to 1.2"),
        ({"score_noise": -1}, "score_noise=-1"),
    ],
)
def test_bad_shares_are_refused(people, options, words):
    """A sentence with the option and what was expected."""
    with pytest.raises(SchemaError, match=words):
        synth.simulate_predictions(people, **options)
