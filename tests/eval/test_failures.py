"""The failures table against the errors that synth put on record, and against loops over its rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import schema
from kpdata.converters import coco as coco_format
from kpdata.converters import coco_results
from kpdata.errors import DestinationExists, EvaluationError, WriteError
from kpdata.eval import evaluate
from kpdata.eval.errors import KeypointErrors, Kind, classify
from kpdata.eval.failures import FAILURES, KINDS, MATCHES, dominant, failures, matches, worst_of_each, write_parquet
from kpdata.eval.part import pair
from kpdata.skeleton import Skeleton
from kpdata.synth import simulate_predictions, synthesize

HAND = Skeleton("hand_5", ("thumb", "index", "middle", "ring", "little"), sigmas=(0.03, 0.04, 0.05, 0.06, 0.07))
NO_ERRORS = dict.fromkeys(("jitter", "inversion", "swap", "miss", "missed_people", "false_positives"), 0.0)


def analysed(gt, predictions, **options):
    """(sides, pairings, classifications)"""
    sides = evaluate(gt, predictions, **options).sides
    pairings = [pair(part) for part in sides.parts]
    return sides, pairings, [classify(part, found) for part, found in zip(sides.parts, pairings, strict=True)]


@pytest.fixture(scope="module")
def scene():
    gt = synthesize(40, seed=3)
    predictions, truth = simulate_predictions(gt, seed=4, missed_people=0.2, false_positives=0.2)
    return gt, predictions, truth, analysed(gt, predictions)


@pytest.fixture(scope="module")
def rows(scene):
    return failures(*scene[3]).to_pylist()


def person(number, image, x=50.0, k=17, **more):
    place = np.arange(k) * 80 / k
    flat = np.stack([x + place, 20 + place[::-1], np.full(k, 2.0)], 1).ravel().tolist()
    row = {"id": number, "image_id": image, "category_id": 1, "keypoints": flat, "num_keypoints": k}
    return row | {"bbox": [x, 20.0, 80.0, 80.0], "area": 4000.0, "iscrowd": 0} | more


def truth_of(people, categories=({"id": 1, "name": "person"},), sizes=((640, 480),)):
    images = [{"id": i + 1, "file_name": f"{i + 1}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    raw = {"images": images, "annotations": people, "categories": [dict(row) for row in categories]}
    return coco_format.decode(raw, source="gt.json")


def results_of(people, score=0.5, shift=0.0):
    """A result for each person, moved by `shift` px."""
    found = []
    for number, row in enumerate(people):
        flat = np.reshape(row["keypoints"], (-1, 3)).astype(float)
        flat[:, :2] += shift
        value = score[number] if isinstance(score, list) else score
        own = {key: row[key] for key in ("image_id", "category_id")}
        found.append(own | {"keypoints": flat.ravel().tolist(), "score": value})
    return coco_results.decode(found, source="dt.json")


# ------------------------------------------------------------------------------------------------------- who is there


def test_everybody_has_one_row(scene, rows):
    """Every person with labelled keypoints and every unmatched detection stands in the table, once."""
    gt, predictions, _, (sides, pairings, _) = scene
    people = schema.values(gt.persons["annotation_id"])[schema.values(gt.persons["num_keypoints"]) > 0]
    assert sorted(row["annotation_id"] for row in rows if row["annotation_id"] is not None) == sorted(people.tolist())
    detections = [row["detection_id"] for row in rows if row["detection_id"] is not None]
    assert sorted(detections) == sorted(schema.values(predictions.persons["annotation_id"]).tolist())
    assert len(rows) == len(people) + len(pairings[0].spurious)
    assert len(sides.parts) == 1


def test_matches_are_those_that_synth_made():
    """Without swaps and crowds every prediction stands beside the person that it was made from."""
    gt = synthesize(40, seed=8, people=(1, 1))
    predictions, truth = simulate_predictions(gt, seed=1, swap=0.0, miss=0.0, missed_people=0.3)
    table = failures(*analysed(gt, predictions))
    made = dict(zip(truth["annotation_id"].to_pylist(), truth["gt_annotation_id"].to_pylist(), strict=True))
    pairs = {row["detection_id"]: row["annotation_id"] for row in table.to_pylist() if row["detection_id"] is not None}
    assert pairs == made
    missed = {row["annotation_id"] for row in table.to_pylist() if row["kind"] == "missed person"}
    assert missed == set(schema.values(gt.persons["annotation_id"]).tolist()) - set(made.values())


@pytest.mark.parametrize("kind", ["jitter", "inversion", "swap", "miss"])
def test_a_single_kind_of_error_is_recognised(kind):
    """Where synth makes errors of one kind only, everybody is of that kind who has such a keypoint on record, and good
    who has none. (Not those whose prediction was matched with somebody else.)"""
    gt = synthesize(30, seed=5)
    predictions, truth = simulate_predictions(gt, seed=2, **{**NO_ERRORS, kind: 0.1})
    code = int(Kind[kind.upper()])
    recorded = {
        (row["gt_annotation_id"], row["annotation_id"]): kind if code in row["kinds"] else "good"
        for row in truth.to_pylist()
    }
    rows = failures(*analysed(gt, predictions)).to_pylist()
    found = {(row["annotation_id"], row["detection_id"]): row["kind"] for row in rows}
    same = [found[pair] == recorded[pair] for pair in recorded if pair in found]
    assert len(same) > 0.95 * len(recorded)
    assert all(same)
    assert {"good", kind} <= set(found.values())


def test_background_is_what_synth_invented(scene, rows):
    """Detections of nobody are the false positives of the truth; all others are matched or resemble somebody."""
    truth = scene[2].to_pylist()
    invented = {row["annotation_id"] for row in truth if row["gt_annotation_id"] is None}
    assert {row["detection_id"] for row in rows if row["kind"] == "background"} == invented


def test_a_second_pose_is_a_duplicate():
    """Two predictions of one person: the one of lower score is a duplicate, not background."""
    people = [person(7, 1)]
    table = failures(*analysed(truth_of(people), results_of(people * 2, score=[0.4, 0.9])))
    kinds = {row["detection_id"]: row["kind"] for row in table.to_pylist()}
    assert kinds == {1: "duplicate", 2: "good"}


# ----------------------------------------------------------------------------------------------------- what is said


def test_errors_equal_a_loop(scene, rows):
    """Pixels, sigma units and OKS of each matched row, from its own keypoints, area and the skeleton's sigmas."""
    sigmas = np.array(scene[0].skeleton.sigmas)
    for row in (row for row in rows if row["oks"] is not None):
        own, theirs = (np.reshape(row[name], (-1, 2)) for name in ("keypoints", "predicted_keypoints"))
        labelled = np.array(row["visibility"]) > 0
        distance = np.sqrt(((own - theirs) ** 2).sum(1))
        np.testing.assert_allclose(np.array(row["error_px"])[labelled], distance[labelled])
        assert np.isnan(np.array(row["error_px"])[~labelled]).all()
        units = distance / (2 * sigmas * np.sqrt(row["area"]))
        np.testing.assert_allclose(np.array(row["error_sigma"])[labelled], units[labelled])
        assert row["oks"] == pytest.approx(np.exp(-(units[labelled] ** 2) / 2).mean())
        assert row["labelled"] == labelled.sum()
        assert row["occluded"] == (np.array(row["visibility"]) == 1).sum()
        assert (np.array(row["classes"]) >= 0).tolist() == labelled.tolist()


def test_the_kind_that_costs_most_names_the_person():
    """Loss of similarity is summed by kind; equal losses go to the graver kind; nothing wrong is good."""
    similarity = np.array([[0.6, 0.6, 0.6, 0.0], [0.5, 0.7, 0.2, 0.9], [0.5, 0.5, 0.9, 0.9], [0.9, 1.0, np.nan, 0.9]])
    kind = np.array(
        [
            [Kind.JITTER, Kind.JITTER, Kind.JITTER, Kind.MISS],  # 1.2 against 1.0
            [Kind.JITTER, Kind.JITTER, Kind.INVERSION, Kind.GOOD],  # 0.8 against 0.8
            [Kind.SWAP, Kind.MISS, Kind.GOOD, Kind.GOOD],  # 0.5 against 0.5
            [Kind.GOOD, Kind.GOOD, Kind.UNLABELLED, Kind.GOOD],
        ],
        np.int8,
    )
    found = KeypointErrors(kind, similarity, similarity, np.full(kind.shape, -1))
    assert [KINDS[number] for number in dominant(found)] == ["jitter", "inversion", "miss", "good"]


def test_nulls_say_who_is_missing(rows):
    """Missed people have no prediction, background has no ground truth; nothing is filled in."""
    for row in rows:
        missed, alone = row["kind"] == "missed person", row["kind"] in ("background", "duplicate")
        assert all((row[name] is None) == missed for name in ("detection_id", "score", "predicted_keypoints"))
        absent = [row[name] is None for name in ("annotation_id", "area", "keypoints", "visibility", "size")]
        assert set(absent) == {alone}
        assert all((row[name] is None) == (missed or alone) for name in ("oks", "error_px", "error_sigma", "classes"))
        assert (row["keypoint_scores"] is None) == missed


def test_worst_first_by_the_stated_order(scene, rows):
    """severity is confidence × (1 - OKS), confidence, or size × labelled share, each by a loop; rows fall with it."""
    scores = schema.values(scene[1].persons["score"])
    areas = np.array([row["area"] for row in rows if row["annotation_id"] is not None])
    for row in rows:
        if row["detection_id"] is None:
            expected = (areas <= row["area"]).mean() * row["labelled"] / 17
        else:
            expected = (scores <= row["score"]).mean() * (1 if row["oks"] is None else 1 - row["oks"])
        assert row["severity"] == pytest.approx(expected)
    severities = [row["severity"] for row in rows]
    assert severities == sorted(severities, reverse=True)


def test_sizes_have_cocos_bounds():
    """1024 and 9216 square pixels are both medium."""
    areas = {1: 1023.0, 2: 1024.0, 3: 9216.0, 4: 9217.0}
    people = [person(number, 1, x=100.0 * number, area=area) for number, area in areas.items()]
    sizes = {
        row["annotation_id"]: row["size"]
        for row in failures(*analysed(truth_of(people), results_of(people))).to_pylist()
    }
    assert sizes == {1: "small", 2: "medium", 3: "medium", 4: "large"}


# ------------------------------------------------------------------------------------------------------------ crops


def test_the_crop_holds_both_skeletons_inside_the_image(rows):
    """Every keypoint that is inside the image is inside the crop, with air around it, and the crop in the image."""
    for row in rows:
        assert 0 <= row["x0"] < row["x1"] <= row["width"] == 640
        assert 0 <= row["y0"] < row["y1"] <= row["height"] == 480
        points = [np.reshape(row[n], (-1, 2)) for n in ("keypoints", "predicted_keypoints") if row[n] is not None]
        xy = np.concatenate(points)
        xy = xy[((xy >= 0) & (xy < (640, 480))).all(1)]
        assert (xy >= np.maximum((row["x0"], row["y0"]), 0)).all()
        assert (xy <= (row["x1"], row["y1"])).all()


def test_a_crop_without_image_size_is_not_cut():
    """15 % of the longer side around the box 50…130 × 20…100 (both skeletons lie in it), beyond the edges too."""
    people = [person(1, 1)]
    gt = truth_of(people)
    for name in ("width", "height"):
        at, field = gt.images.schema.get_field_index(name), gt.images.schema.field(name)
        gt = replace(gt, images=gt.images.set_column(at, field, pa.nulls(1, pa.int32())))
    row = failures(*analysed(gt, results_of(people))).to_pylist()[0]
    assert (row["width"], row["height"]) == (None, None)
    assert [row[name] for name in ("x0", "y0", "x1", "y1")] == [38.0, 8.0, 142.0, 112.0]


def test_nothing_is_drawn_at_the_corner():
    """A results file writes an absent keypoint as 0, 0: it is no place to show, and does not widen the crop."""
    people = [person(1, 1, x=300.0)]
    absent = person(1, 1, x=300.0)
    absent["keypoints"][:3] = [0, 0, 0]
    row = failures(*analysed(truth_of(people), results_of([absent]))).to_pylist()[0]
    assert np.isnan(row["predicted_keypoints"][:2]).all()
    assert row["x0"] > 250
    assert row["error_px"][0] == pytest.approx(np.hypot(*people[0]["keypoints"][:2]))  # as scored


# ---------------------------------------------------------------------------------------------------------- matches


def test_matches_have_a_row_for_each_side_in_table_order(scene):
    """--matches: as many rows as people and predictions, ids in the order of the datasets, pairs in both halves."""
    gt, predictions, _, found = scene
    table = matches(*found)
    assert table.schema == MATCHES
    sides = np.array(table["side"].to_pylist())
    assert (sides == "ground truth").sum() == len(gt)
    ids = table["annotation_id"].to_pylist()[: len(gt)]
    assert ids == schema.values(gt.persons["annotation_id"]).tolist()
    ids = table["detection_id"].to_pylist()[len(gt) :]
    assert ids == schema.values(predictions.persons["annotation_id"]).tolist()
    pairs = [
        {
            (row["annotation_id"], row["detection_id"], row["oks"])
            for row in table.to_pylist()
            if row["side"] == side and row["oks"]
        }
        for side in ("ground truth", "prediction")
    ]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == len(found[1][0].truth)


def test_matches_tell_of_those_that_do_not_count():
    """A crowd, somebody without keypoints and what was matched with them are ignored; the 21st of an image is cut."""
    people = [person(1, 1), person(2, 1, x=200.0, iscrowd=1), person(3, 1, x=400.0)]
    people[2] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    poses = [people[0], people[1], *[person(9, 1, x=250.0)] * 19]
    scores = [0.9, 0.8, *np.linspace(0.7, 0.1, 19).tolist()]
    table = matches(*analysed(truth_of(people), results_of(poses, score=scores))).to_pylist()
    kinds = {(row["side"], row["annotation_id"] or row["detection_id"]): row["kind"] for row in table}
    assert [kinds["ground truth", number] for number in (1, 2, 3)] == ["good", "ignored", "ignored"]
    assert kinds["prediction", 1] == "good"
    assert kinds["prediction", 2] == "ignored"
    assert kinds["prediction", 21] == "cut"


def test_failures_and_matches_say_the_same(scene, rows):
    """A person's kind, score and error are equal in both tables."""
    known = {(r["annotation_id"], r["detection_id"]): r for r in matches(*scene[3]).to_pylist()}
    for row in rows:
        other = known[row["annotation_id"], row["detection_id"]]
        for name in ("kind", "oks", "score", "area", "classes", "image_id", "skeleton"):
            assert other[name] == row[name]


# -------------------------------------------------------------------------------------------------------- odd input


def test_people_and_hands_share_a_table():
    """Two skeletons: lists of 17 and of 5 keypoints, worst first all together."""
    grown = [person(1, 1), person(2, 1, x=200.0)]
    hands = [person(11, 1, x=400.0, k=5, category_id=2)]
    gt = truth_of(
        grown + hands, [{"id": 1, "name": "person"}, {"id": 2, "name": "h", "keypoints": list(HAND.keypoint_names)}]
    )
    found = results_of(grown + hands, shift=4.0)
    table = failures(*analysed(gt, found, skeleton=HAND))
    assert table.schema == FAILURES
    rows = table.to_pylist()
    assert {row["skeleton"]: len(row["visibility"]) for row in rows} == {"coco_17": 17, "hand_5": 5}
    assert [r["severity"] for r in rows] == sorted((r["severity"] for r in rows), reverse=True)
    with pytest.raises(EvaluationError, match="1 pairings and 2 classifications for 2 skeletons"):
        sides, pairings, errors = analysed(gt, found, skeleton=HAND)
        failures(sides, pairings[:1], errors)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_whatever_the_data_everybody_is_somewhere(seed):
    """Random people, crowds, unlabelled ones and predictions: no row is lost or doubled, and the two tables agree."""
    rng = np.random.default_rng(seed)
    people = [
        person(number + 1, int(rng.integers(1, 3)), x=float(rng.integers(0, 300)), iscrowd=int(rng.random() < 0.2))
        for number in range(int(rng.integers(1, 8)))
    ]
    for row in people:
        if rng.random() < 0.2:
            row |= {"keypoints": [0] * 51, "num_keypoints": 0}
    poses = [people[i] for i in rng.integers(0, len(people), int(rng.integers(0, 30)))]
    scores = rng.choice([0.1, 0.5, 0.9], len(poses)).tolist()
    found = results_of(poses, score=scores, shift=float(rng.choice([0.0, 3.0, 60.0])))
    analysis = analysed(truth_of(people, sizes=((640, 480), (640, 480))), found)
    table, rows = matches(*analysis).to_pylist(), failures(*analysis).to_pylist()
    assert [r["annotation_id"] for r in table if r["side"] == "ground truth"] == [row["id"] for row in people]
    assert [r["detection_id"] for r in table if r["side"] == "prediction"] == list(range(1, len(poses) + 1))
    for key, side in (("annotation_id", "ground truth"), ("detection_id", "prediction")):
        kept = {r[key]: r["kind"] for r in table if r["side"] == side and r["kind"] not in ("ignored", "cut")}
        assert {r[key]: r["kind"] for r in rows if r[key] is not None} == kept
        assert len(kept) == sum(r[key] is not None for r in rows)
    counted = {row["id"] for row in people if row["num_keypoints"] and not row["iscrowd"]}
    assert {r["annotation_id"] for r in rows} - {None} == counted
    assert all(0 <= r["severity"] <= 1 for r in rows)


def test_nobody_predicted_and_nobody_labelled():
    """Empty sides give their rows, not an error."""
    people = [person(1, 1)]
    rows = failures(*analysed(truth_of(people), results_of([]))).to_pylist()
    assert [row["kind"] for row in rows] == ["missed person"]
    nobody = [person(1, 1) | {"keypoints": [0] * 51, "num_keypoints": 0}]
    assert failures(*analysed(truth_of(nobody), results_of([]))).num_rows == 0


def test_strange_numbers_stay_finite_where_they_are_shown():
    """Infinite predictions, areas of 0 and NaN scores: a row, a crop and a severity all the same."""
    people = [person(1, 1), person(2, 1, x=300.0, area=0.0)]
    poses = [person(1, 1), person(2, 1, x=300.0)]
    poses[0]["keypoints"][0] = 1e300
    table = failures(*analysed(truth_of(people), results_of(poses, score=[0.5, float("nan")])))
    for row in table.to_pylist():
        assert np.isfinite(row["severity"])
        assert np.isfinite([row[name] for name in ("x0", "y0", "x1", "y1")]).all()


def test_the_worst_of_each_kind_come_in_turn(scene):
    """A short list shows every kind; good people only where nothing else is left; more than there are is all."""
    table = failures(*scene[3])
    kinds = np.array(table["kind"].to_pylist())
    chosen = worst_of_each(table, 10)
    assert len(chosen) == 10
    assert set(kinds[chosen]) == set(kinds) - {"good"}
    for kind in set(kinds[chosen]):  # of each kind the first ones
        own = np.flatnonzero(kinds == kind)
        assert set(own[: (kinds[chosen] == kind).sum()]) <= set(chosen)
    np.testing.assert_array_equal(worst_of_each(table, 10**6), np.arange(table.num_rows))
    assert len(worst_of_each(table, -1)) == 0


def test_parquet_round_trip(scene, tmp_path):
    """What is written is read back, by other readers too: plain lists, no dictionaries; an existing file stays."""
    table, path = failures(*scene[3]), tmp_path / "failures.parquet"
    write_parquet(table, path)
    assert schema.same(pq.ParquetFile(path).read(), table)
    assert len(table.to_pandas()) == table.num_rows
    with pytest.raises(DestinationExists):
        write_parquet(table, path)
    with pytest.raises(WriteError, match=r"failures.csv would be a Parquet file.* call it failures.parquet"):
        write_parquet(table, tmp_path / "failures.csv")
    assert not (tmp_path / "failures.csv").exists()


def test_no_pandas_is_imported():
    """The tables are built without it."""
    code = """
import sys
from kpdata.eval import evaluate
from kpdata.eval.errors import classify
from kpdata.eval.failures import failures, matches
from kpdata.eval.part import pair
from kpdata.synth import simulate_predictions, synthesize
gt = synthesize(4, seed=1)
sides = evaluate(gt, simulate_predictions(gt, seed=1)[0]).sides
pairings = [pair(part) for part in sides.parts]
errors = [classify(part, found) for part, found in zip(sides.parts, pairings)]
failures(sides, pairings, errors), matches(sides, pairings, errors)
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
