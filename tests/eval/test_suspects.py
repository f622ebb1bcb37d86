"""Labels that were spoiled on purpose come first; clean labels give few suspicions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema
from kpdata.browse.scoring import suspected
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.part import pair
from kpdata.eval.prepare import prepare
from kpdata.eval.suspects import KINDS, SCHEMA, suspects
from kpdata.skeleton import load
from kpdata.synth import simulate_predictions, synthesize

COCO = load("coco_17")
FLIP = COCO.flip_index()
MODELS = {
    "good": {"inversion": 0.01, "swap": 0.01, "miss": 0.01},
    "usual": {},
    "poor": {"jitter": 0.2, "inversion": 0.05, "swap": 0.05, "miss": 0.08, "false_positives": 0.2},
}


def column(dataset, name, array):
    index = dataset.persons.schema.get_field_index(name)
    return replace(dataset, persons=dataset.persons.set_column(index, name, array))


@dataclass
class Spoiled:
    """A ground truth with known faults: by kind, the (annotation id, column or None) that is wrong."""

    model: str
    clean: Dataset
    gt: Dataset
    predictions: Dataset
    truth: pa.Table
    faults: dict
    lost: set


def spoil(seed, model):
    """A twentieth of the people each: exchanged, shifted, not labelled, a keypoint displaced, a keypoint left out."""
    clean = synthesize(110, seed=seed)
    predictions, truth = simulate_predictions(clean, seed=seed, **MODELS[model])
    rng = np.random.default_rng(seed)
    xy, visibility = clean.keypoints.copy(), clean.visibility.copy()
    size = np.sqrt(schema.values(clean.persons["area"]))
    ids = schema.values(clean.persons["annotation_id"])
    rows = rng.permutation(np.flatnonzero((visibility > 1).sum(1) >= 8))
    turned, moved, lost, displaced, absent = rows[: len(rows) // 20 * 5].reshape(5, -1)
    angle = rng.uniform(0, 2 * np.pi, len(turned))
    aside = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    xy[turned], visibility[turned] = xy[turned][:, FLIP], visibility[turned][:, FLIP]
    xy[moved] += (0.4 * size[moved, None] * aside)[:, None]
    far = np.array([rng.choice(np.flatnonzero(visibility[row] > 1)) for row in displaced])
    gone = np.array([rng.choice(np.flatnonzero(visibility[row] > 1)) for row in absent])
    xy[displaced, far] += 0.8 * size[displaced, None] * aside
    visibility[absent, gone] = 0
    gt = column(clean, "keypoints", schema.rows(xy.reshape(len(clean), -1)))
    gt = column(gt, "visibility", schema.rows(visibility, kind=pa.int8()))
    faults = {
        "left_right": {(int(i), None) for i in ids[turned]},
        "shifted": {(int(i), None) for i in ids[moved]},
        "misplaced": {(int(i), int(k)) for i, k in zip(ids[displaced], far, strict=True)},
        "unlabelled_keypoint": {(int(i), int(k)) for i, k in zip(ids[absent], gone, strict=True)},
    }
    gt = gt.select(persons=~np.isin(np.arange(len(clean)), lost))
    return Spoiled(model, clean, gt, predictions, truth, faults, set(ids[lost].tolist()))


@pytest.fixture(scope="module", params=list(MODELS))
def case(request):
    return spoil(7, request.param)


@pytest.fixture(scope="module")
def good():
    return spoil(3, "good")


def rows_of(gt, predictions, **options):
    sides = prepare(gt, predictions, [])
    part = sides.parts[0]
    return suspects(part, pair(part), sides.gt, sides.predictions, **options)


def is_fault(case, row, of_prediction):
    """What the suspicion says is what was done to the labels."""
    if row["kind"] == "unlabelled_person":
        return of_prediction[row["detection_id"]] in case.lost
    kind = "misplaced" if row["kind"] == "wrong_person" else row["kind"]
    of_person = kind in ("left_right", "shifted")
    column = None if of_person else COCO.keypoint_names.index(row["keypoint"])
    return (row["annotation_id"], column) in case.faults[kind]


def test_spoiled_labels_come_first(case):
    """As many rows as there are faults hold most of them, the surest half nearly only them, of every kind some."""
    found = rows_of(case.gt, case.predictions, least=0.05).to_pylist()
    of_prediction = dict(
        zip(*(case.truth[name].to_pylist() for name in ("annotation_id", "gt_annotation_id")), strict=True)
    )
    good = [is_fault(case, row, of_prediction) for row in found]
    faults = sum(map(len, case.faults.values())) + len(case.lost)
    assert faults > 50
    bound = {"good": 0.8, "usual": 0.75, "poor": 0.6}
    assert np.mean(good[:faults]) > bound[case.model]
    assert np.mean(good[: faults // 2]) > 0.88
    hit = {row["kind"] for row, ok in zip(found[:faults], good, strict=False) if ok}
    assert hit >= {"left_right", "shifted", "misplaced", "unlabelled_keypoint", "unlabelled_person"}


def test_clean_labels_give_few(case):
    """Nothing was spoiled: of thousands of keypoints a handful is called suspicious."""
    found = rows_of(case.clean, case.predictions)
    assert len(found) <= 0.05 * len(case.clean)
    assert len(rows_of(case.clean, case.predictions, least=0.4)) <= 0.015 * len(case.clean)


def test_the_table(good):
    """Best first, scores in range, ids that lead back to people and predictions, positions of label and proposal."""
    table = rows_of(good.gt, good.predictions, least=0.0, limit=None)
    assert table.schema == SCHEMA
    rows = table.to_pylist()
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1
    ids = schema.values(good.gt.persons["annotation_id"])
    images = schema.values(good.gt.persons["image_id"])
    found = schema.values(good.predictions.persons["annotation_id"])
    for row in rows[:: max(1, len(rows) // 200)]:
        assert row["kind"] in KINDS
        assert found[row["detection_row"]] == row["detection_id"]
        assert row["words"]
        if row["kind"] == "unlabelled_person":
            assert row["annotation_id"] is row["truth_row"] is row["x"] is None
            continue
        assert ids[row["truth_row"]] == row["annotation_id"]
        assert images[row["truth_row"]] == row["image_id"]
        if row["keypoint"] is not None and row["kind"] != "unlabelled_keypoint":
            k = COCO.keypoint_names.index(row["keypoint"])
            assert (row["x"], row["y"]) == tuple(good.gt.keypoints[row["truth_row"], k])
        if row["kind"] in ("misplaced", "wrong_person", "unlabelled_keypoint"):
            k = COCO.keypoint_names.index(row["keypoint"])
            proposed = tuple(good.predictions.keypoints[row["detection_row"], k])
            assert (row["proposed_x"], row["proposed_y"]) == proposed
    assert table.slice(0, 5).equals(rows_of(good.gt, good.predictions, least=0.0, limit=5))


def test_each_keypoint_is_suspected_once(good):
    """A label that is exchanged or shifted as a whole is not told keypoint by keypoint too."""
    rows = rows_of(good.gt, good.predictions, limit=None).to_pylist()
    whole = {
        row["annotation_id"] for row in rows if row["kind"] in ("left_right", "shifted") and row["keypoint"] is None
    }
    single = [row["annotation_id"] for row in rows if row["kind"] in ("misplaced", "wrong_person")]
    told = [(row["annotation_id"], row["keypoint"]) for row in rows if row["annotation_id"]]
    assert len(set(told)) == len(told)
    shifted = {row["annotation_id"] for row in rows if row["kind"] == "shifted"}
    assert whole
    assert not shifted & set(single)


def exact(gt, seed=0):
    """Predictions that are the truth, nearly, and sure of it; keypoints that are not labelled score low."""
    predictions, truth = simulate_predictions(
        gt, seed=seed, jitter=0, inversion=0, swap=0, miss=0, missed_people=0, false_positives=0
    )
    return predictions, truth


def test_a_keypoint_on_another_person():
    """A wrist that was clicked on the neighbour's wrist is told as that, with where it belongs."""
    gt = synthesize(80, seed=11, people=(2, 2))
    predictions, _ = exact(gt)
    xy, image = gt.keypoints.copy(), schema.values(gt.persons["image_id"])
    k = COCO.keypoint_names.index("left_wrist")
    size = np.sqrt(schema.values(gt.persons["area"]))
    pairs = [
        (i, i + 1) for i in range(len(gt) - 1)
        if image[i] == image[i + 1] and (gt.visibility[[i, i + 1]][:, k] > 0).all() and (gt.visibility[i] > 0).sum() > 8
        and np.hypot(*(xy[i, k] - xy[i + 1, k])) > 2 * size[i]
    ]  # fmt: skip
    spoiled = [a for a, _ in pairs[:4]]
    for a, b in pairs[:4]:
        xy[a, k] = gt.keypoints[b, k]
    assert len(spoiled) == 4
    ids = schema.values(gt.persons["annotation_id"])
    spoiled_gt = column(gt, "keypoints", schema.rows(xy.reshape(len(gt), -1)))
    # One of the four has its hands together, so that its prediction might repeat the other wrist: it ranks lower.
    rows = rows_of(spoiled_gt, predictions, least=0.1).to_pylist()[:4]
    assert {(row["kind"], row["keypoint"], row["annotation_id"]) for row in rows} == {
        ("wrong_person", "left_wrist", int(ids[a])) for a in spoiled
    }
    for row in rows:
        person = row["truth_row"]
        off = np.array([row["proposed_x"], row["proposed_y"]]) - gt.keypoints[person, k]
        assert np.hypot(*off) < 0.3 * size[person]


def test_one_pair_of_twins_names_the_keypoint():
    """Two knees exchanged: one row, at the knee, with the other knee's place proposed."""
    gt = synthesize(80, seed=12)
    predictions, _ = exact(gt)
    a, b = (COCO.keypoint_names.index(f"{side}_knee") for side in ("left", "right"))
    apart = np.hypot(*(gt.keypoints[:, a] - gt.keypoints[:, b]).T) / np.sqrt(schema.values(gt.persons["area"]))
    row = int(np.where((gt.visibility[:, [a, b]] > 0).all(1) & ((gt.visibility > 0).sum(1) > 12), apart, 0).argmax())
    xy = gt.keypoints.copy()
    xy[row, [a, b]] = gt.keypoints[row, [b, a]]
    first = rows_of(column(gt, "keypoints", schema.rows(xy.reshape(len(gt), -1))), predictions).to_pylist()[0]
    assert (first["kind"], first["keypoint"], first["truth_row"]) == ("left_right", "left_knee", row)
    assert (first["x"], first["y"]) == tuple(xy[row, a])
    assert (first["proposed_x"], first["proposed_y"]) == tuple(xy[row, b])
    assert "left_knee, right_knee" in first["words"]


def test_crowds_and_covered_predictions():
    """A sure prediction inside a crowd's region is no unlabelled person, nor one inside somebody's box."""
    gt = synthesize(100, seed=13)
    predictions, truth = exact(gt)
    lost = np.flatnonzero((gt.visibility > 0).sum(1) > 10)[::9][:6]
    ids = schema.values(gt.persons["annotation_id"])
    gone = gt.select(persons=~np.isin(np.arange(len(gt)), lost))
    rows = [row for row in rows_of(gone, predictions).to_pylist() if row["kind"] == "unlabelled_person"]
    of_prediction = dict(zip(*(truth[name].to_pylist() for name in ("annotation_id", "gt_annotation_id")), strict=True))
    assert rows
    assert {of_prediction[row["detection_id"]] for row in rows} <= set(ids[lost].tolist())
    crowd = schema.values(gt.persons["iscrowd"]) | np.isin(np.arange(len(gt)), lost)
    nobody = schema.values(gt.persons["num_keypoints"]) * ~np.isin(np.arange(len(gt)), lost)
    crowded = column(gt, "iscrowd", schema.fixed(crowd, pa.bool_()))
    crowded = column(crowded, "num_keypoints", schema.fixed(nobody, pa.int32()))
    assert "unlabelled_person" not in rows_of(crowded, predictions)["kind"].to_pylist()


@pytest.mark.parametrize("flags", [None, 1.0, 2.0])
def test_predictions_without_keypoint_scores(good, flags):
    """No scores, or flags for scores: nothing is said of unlabelled keypoints; else the person's score stands in."""
    none = pa.nulls(len(good.predictions), pa.list_(pa.float64()))
    given = none if flags is None else schema.rows(np.full((len(good.predictions), 17), flags))
    kinds = rows_of(good.gt, column(good.predictions, "keypoint_scores", given), least=0.05)["kind"].to_pylist()
    assert "unlabelled_keypoint" not in kinds
    assert {"left_right", "shifted", "misplaced"} <= set(kinds)


def test_nothing_to_suspect():
    """No predictions, nobody labelled twice over, unknown twins: an empty table or one without left_right."""
    gt = synthesize(20, seed=1)
    predictions, _ = exact(gt)
    nobody = predictions.select(persons=np.empty(0, np.int64))
    assert rows_of(gt, nobody).num_rows == 0
    unknown = {"mine": replace(COCO, name="mine", flip_pairs=None)}
    index = gt.persons.schema.get_field_index("skeleton")
    sides = [
        replace(d, persons=d.persons.set_column(index, "skeleton", schema.constant("mine", len(d))), skeletons=unknown)
        for d in (gt, predictions)
    ]
    assert "left_right" not in rows_of(*sides, least=0.0)["kind"].to_pylist()


@pytest.mark.parametrize("options", [{"least": 1.5}, {"least": -0.1}, {"limit": 0}])
def test_bad_options_are_refused(options):
    """A score is from 0 to 1, and a list has at least one row."""
    gt = synthesize(3, seed=1)
    with pytest.raises(EvaluationError, match="expected a score from 0 to 1"):
        rows_of(gt, exact(gt)[0], **options)


@pytest.mark.parametrize("metric", ["pckh", "pck", "pcp", "epe"])
def test_of_single_people(metric):
    """By PCKh and its family too, as `browse` shows them: exchanged, moved and displaced labels come first."""
    clean = synthesize(120, seed=5, skeleton="mpii_16", people=(1, 1))
    predictions, _ = simulate_predictions(clean, seed=5, **MODELS["good"])
    bones = load("mpii_16")
    xy, ids = clean.keypoints.copy(), schema.values(clean.persons["annotation_id"])
    size = (np.nanmax(xy, axis=1) - np.nanmin(xy, axis=1)).max(axis=1) / 2  # MPII has no areas
    whole = np.flatnonzero((clean.visibility > 0).sum(1) >= 12)
    turned, moved, displaced = whole[:3], whole[3:6], whole[6:9]
    xy[turned] = xy[turned][:, bones.flip_index()]
    xy[moved] += 0.5 * size[moved, None, None]
    wrist = bones.keypoint_names.index("left_wrist")
    xy[displaced, wrist] += 1.5 * size[displaced, None]
    spoiled = column(clean, "keypoints", schema.rows(xy.reshape(len(clean), -1)))
    result = evaluate(spoiled, predictions, metric=metric)
    table = result.suspects()
    assert table.schema.equals(SCHEMA)
    assert table.equals(suspected(result)[0][1].slice(0, 1000))
    found = {(row["kind"], row["annotation_id"]) for row in table.to_pylist()[:14]}
    assert {("left_right", int(i)) for i in ids[turned]} <= found
    assert {("shifted", int(i)) for i in ids[moved]} <= found
    rows = result.suspects(least=0.02).to_pylist()  # wrists are what the model is least sure of
    told = {row["annotation_id"] for row in rows if row["keypoint"] == "left_wrist" and row["kind"] == "misplaced"}
    assert {int(i) for i in ids[displaced]} <= told
    assert len(result.suspects(limit=2)) == 2


def test_predictions_without_scores_are_no_surer_than_others():
    """Somebody who is not labelled is told without a score where the predictions have none."""
    gt = synthesize(40, seed=5, skeleton="mpii_16", people=(2, 2))
    predictions, _ = simulate_predictions(gt, seed=5, jitter=0.05, miss=0, inversion=0, swap=0, false_positives=0)
    predictions = column(predictions, "score", schema.fixed(np.full(len(predictions), np.nan), pa.float64()))
    gt = gt.select(persons=np.arange(len(gt)) > 2)
    rows = evaluate(gt, predictions).suspects(least=0.01).to_pylist()
    words = [row["words"] for row in rows if row["kind"] == "unlabelled_person"]
    assert words and all(text.startswith("nobody is labelled at a prediction (") for text in words)
