"""Reliability by hand, and the numbers at a score threshold beside an evaluation of what is left."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.calibration import RELIABILITY, THRESHOLDS, calibration, reliability
from kpdata.eval.part import pair
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def gt():
    return synthesize(40, seed=5, size=(320, 240), people=(1, 5), crowds=0.2)


@pytest.fixture(scope="module")
def scored(gt):
    found, _ = simulate_predictions(gt, seed=2, jitter=0.4, miss=0.1, false_positives=0.6)
    scores = np.round(schema.values(found.persons["score"]), 2)  # ties
    return evaluate(gt, with_scores(found, scores))


@pytest.fixture(scope="module")
def calibrated(scored):
    part = scored.sides.parts[0]
    return calibration(part, pair(part))


def with_scores(predictions, scores):
    index = predictions.persons.schema.get_field_index("score")
    return replace(
        predictions, persons=predictions.persons.set_column(index, "score", schema.fixed(scores, pa.float64()))
    )


def test_reliability_by_hand():
    """Two bins: 0.2 and 0.4 with one of two right, 0.9 three times with all right; 1 belongs to the last bin."""
    scores = np.array([0.2, 0.4, 0.9, 0.9, 1.0])
    oks = np.array([0.6, 0.1, 0.8, 0.5, 0.9])
    found = reliability(scores, oks, bins=2)
    assert found.table.schema.equals(RELIABILITY)
    low, high = found.table.to_pylist()
    assert (low["low"], low["high"], low["count"], high["count"]) == (0, 0.5, 2, 3)
    assert low["mean_score"] == pytest.approx(0.3)
    assert low["mean_oks"] == pytest.approx(0.35)
    assert (low["share_50"], low["share_75"], high["share_50"]) == (0.5, 0, 1)
    assert high["share_75"] == pytest.approx(2 / 3)
    mean = 2.8 / 3
    assert found.ece_50 == pytest.approx(2 / 5 * 0.2 + 3 / 5 * (1 - mean))
    assert found.ece_75 == pytest.approx(2 / 5 * 0.3 + 3 / 5 * (mean - 2 / 3))
    assert found.ece_oks == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (mean - 2.2 / 3))
    assert found.why == ""


def test_scores_that_are_what_they_say_have_no_error():
    """Of 100,000 predictions with score s a share s is right: the error goes to 0; shifted scores err by the shift."""
    rng = np.random.default_rng(0)
    scores = rng.random(100_000)
    right = (rng.random(100_000) < scores).astype(float)
    assert reliability(scores, right).ece_50 < 0.01
    assert reliability(np.clip(scores + 0.2, 0, 1), right).ece_50 == pytest.approx(0.18, abs=0.01)


def test_scores_that_are_no_probabilities():
    """Logits: bins over their own range, no ECE and a sentence with the range."""
    found = reliability(np.array([-3.0, 0.5, 7.0]), np.array([0.0, 0.6, 1.0]), bins=2)
    assert (found.ece_50, found.ece_75, found.ece_oks) == (None, None, None)
    assert "-3 … 7, not in 0 … 1" in found.why
    assert [(row["low"], row["high"], row["count"]) for row in found.table.to_pylist()] == [(-3, 2, 2), (2, 7, 1)]


@pytest.mark.parametrize(
    ("scores", "words"), [([], "nothing was predicted"), ([np.nan, np.nan], "there are no scores")]
)
def test_nothing_to_bin(scores, words):
    """An empty table, no ECE, and why."""
    found = reliability(np.array(scores), np.zeros(len(scores)))
    assert (found.table.num_rows, found.ece_50, found.why) == (0, None, words)


def test_nan_and_infinite_scores():
    """NaN is left out; an infinite one is outside 0 … 1 and lies in the last bin."""
    found = reliability(np.array([0.1, np.nan, np.inf, 0.3]), np.array([0.0, 1.0, 1.0, 1.0]), bins=2)
    assert found.table["count"].to_pylist() == [1, 2]
    assert found.ece_50 is None


def test_persons_are_matched_and_spurious_predictions(scored, calibrated):
    """Counts and mean OKS of all bins are those of the pairing: matched at their OKS, the others at 0."""
    pairing = pair(scored.sides.parts[0])
    rows = calibrated.persons.table.to_pylist()
    count = sum(row["count"] for row in rows)
    assert count == len(pairing.oks) + len(pairing.spurious)
    assert sum(row["count"] * row["mean_oks"] for row in rows) == pytest.approx(pairing.oks.sum())
    assert sum(row["count"] * row["share_75"] for row in rows) == pytest.approx((pairing.oks >= 0.75).sum())


def test_keypoints_are_the_labelled_ones_of_matched_people(scored, calibrated):
    """Their scores beside their OKS term, in a loop; the made-up model's scores fall with its errors."""
    part = scored.sides.parts[0]
    pairing = pair(part)
    right, total, score = 0, 0, 0.0
    for person, detection in zip(pairing.truth.tolist(), pairing.detection.tolist(), strict=True):
        for k in np.flatnonzero(part.truth.labelled[person]).tolist():
            d2 = ((part.truth.keypoints[person, k] - part.detections.keypoints[detection, k]) ** 2).sum()
            term = np.exp(-d2 / (2 * part.truth.area[person] * (2 * part.params.sigmas[k]) ** 2))
            right, total, score = right + (term >= 0.5), total + 1, score + part.keypoint_scores[detection, k]
    rows = calibrated.keypoints.table.to_pylist()
    assert sum(row["count"] for row in rows) == total
    assert sum(row["count"] * row["share_50"] for row in rows) == pytest.approx(right)
    assert sum(row["count"] * row["mean_score"] for row in rows) == pytest.approx(score)
    shares = [row["share_50"] for row in rows if row["count"] > 30]
    assert shares[0] < shares[-1]


def test_numbers_at_a_threshold_are_those_of_the_predictions_left(gt, scored, calibrated):
    """AP, AR of an evaluation without the predictions below the score; precision and recall from its matches at 0.5."""
    assert calibrated.thresholds.schema.equals(THRESHOLDS)
    rows = calibrated.thresholds.to_pylist()
    assert [row["threshold"] for row in rows] == sorted({row["threshold"] for row in rows})
    predictions = scored.sides.predictions
    scores = schema.values(predictions.persons["score"])
    for row in rows[:: max(1, len(rows) // 8)]:
        left = evaluate(gt, predictions.select(persons=scores >= row["threshold"]))
        assert row["AP"] == pytest.approx(left.stats["AP"], abs=1e-12)
        assert row["AR"] == pytest.approx(left.stats["AR"], abs=1e-12)
        part = left.sides.parts[0]
        matched = part.matches.matched[0, 0]
        person = part.matches.pair_gt[matched[matched >= 0]]
        right = int((~part.matches.gt_ignored[0, person]).sum())
        false = int((matched < 0).sum())
        people = int(part.counted().sum())
        assert row["kept"] == pytest.approx(len(matched) / len(scored.sides.parts[0].matches.dt_row))
        assert (row["precision"], row["recall"]) == pytest.approx((right / (right + false), right / people))
        assert row["f1"] == pytest.approx(2 * right / (right + false + people))


def test_the_best_threshold_is_the_best_of_all_scores(gt, scored, calibrated):
    """A loop over every score: none has a greater F1, and it is a row of the table."""
    part = scored.sides.parts[0]
    matches, people = part.matches, int(part.counted().sum())
    matched = matches.matched[0, 0]
    ignored = np.array([at >= 0 and matches.gt_ignored[0, matches.pair_gt[at]] for at in matched])
    best = {}
    for threshold in np.unique(matches.dt_score).tolist():
        kept = (matches.dt_score >= threshold) & ~ignored
        right = int((kept & (matched >= 0)).sum())
        best[threshold] = 2 * right / (int(kept.sum()) + people)
    assert calibrated.best["f1"] == pytest.approx(max(best.values()))
    assert best[calibrated.best["threshold"]] == pytest.approx(max(best.values()))
    assert calibrated.best in calibrated.thresholds.to_pylist()


def test_curves_are_those_of_the_evaluation(scored, calibrated):
    """Precision of all sizes; the score of a recall is there as far as it is reached."""
    precision = scored.curves.precision[:, :, 0, 0, 0]
    np.testing.assert_array_equal(calibrated.precision, precision)
    reached = scored.curves.recall[:, 0, 0, 0][:, None] >= calibrated.recalls
    np.testing.assert_array_equal(np.isnan(calibrated.scores), ~reached)
    np.testing.assert_array_equal(calibrated.scores[reached], scored.curves.scores[:, :, 0, 0, 0][reached])
    assert calibrated.oks_thresholds.tolist() == np.linspace(0.5, 0.95, 10).tolist()


def test_json_is_plain(calibrated):
    """Everything as lists and numbers."""
    report = calibrated.to_json()
    text = json.loads(json.dumps(report))
    assert text["persons"]["ece_50"] == calibrated.persons.ece_50
    assert len(text["curves"]["precision"]) == 10
    assert text["best"] == calibrated.best


def test_without_predictions_or_people(gt, scored):
    """No predictions: nothing to bin and no thresholds; nobody that counts: no best threshold."""
    none = evaluate(gt, scored.sides.predictions.select(persons=[]))
    found = calibration(none.sides.parts[0], pair(none.sides.parts[0]))
    assert (found.thresholds.num_rows, found.best, found.persons.why) == (0, None, "nothing was predicted")
    assert (found.precision == 0).all()
    index = gt.persons.schema.get_field_index("num_keypoints")
    zero = schema.fixed(np.zeros(len(gt)), pa.int32())
    nobody = evaluate(
        replace(gt, persons=gt.persons.set_column(index, "num_keypoints", zero)), scored.sides.predictions
    )
    found = calibration(nobody.sides.parts[0], pair(nobody.sides.parts[0]))
    assert (found.thresholds.num_rows, found.best) == (0, None)
    assert np.isnan(found.precision).all()


def test_bins_below_one_are_refused(scored):
    """In words."""
    part = scored.sides.parts[0]
    with pytest.raises(EvaluationError, match="0 bins, expected at least 1"):
        calibration(part, pair(part), bins=0)
