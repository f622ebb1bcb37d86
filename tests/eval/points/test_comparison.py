"""Two models of single people: a loop over people and resamples gives the same differences, for every metric."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import compare, evaluate
from kpdata.eval.bootstrap import drawn
from kpdata.eval.comparison import KEYPOINTS
from kpdata.eval.points.comparison import PEOPLE
from kpdata.synth import simulate_predictions, synthesize

WRIST = 10  # of MPII's 16


def moved(predictions, columns, pixels):
    """The predictions with some keypoints moved to the right."""
    xy = predictions.keypoints.copy()
    xy[:, columns] += [pixels, 0]
    index = predictions.persons.schema.get_field_index("keypoints")
    column = schema.rows(xy.reshape(len(xy), -1))
    return replace(predictions, persons=predictions.persons.set_column(index, "keypoints", column))


@pytest.fixture(scope="module")
def gt():
    return synthesize(40, seed=3, size=(320, 240), people=(1, 3), skeleton="mpii_16")


@pytest.fixture(scope="module")
def found(gt):
    return simulate_predictions(gt, seed=1, jitter=0.3, miss=0.05, false_positives=0, missed_people=0.1)[0]


@pytest.fixture(scope="module")
def both(gt, found):
    """By PCK at 20 pixels; B's right wrist is 30 pixels off, and nobody of the first image with people is found."""
    image = schema.values(found.persons["image_id"])
    worse = moved(found, [WRIST], 30.0).select(persons=image != image.min())
    return [evaluate(gt, one, metric="pck", normalize=100.0) for one in (found, worse)]


@pytest.fixture(scope="module")
def compared(both):
    return compare(*both, n=200, seed=5)


def correct(result):
    """(N, K) 1, 0 or NaN: within 20 px, from the coordinates alone, person by person."""
    points = result.points
    out = np.full(points.labelled.shape, np.nan)
    for n, k in np.argwhere(points.labelled).tolist():
        dx, dy = points.truth[n, k] - points.predicted[n, k]
        out[n, k] = float((dx**2 + dy**2) ** 0.5 <= 20)  # NaN is not
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "pckh"},
        {"metric": "pckh", "variant": "official"},
        {"metric": "pckh", "variant": "mmpose"},
        {"metric": "pck", "normalize": "torso", "threshold": 0.3},
        {"metric": "pck", "normalize": "extent", "variant": "mmpose"},
        {"metric": "pcp"},
        {"metric": "auc"},
        {"metric": "auc", "variant": "mmpose"},
        {"metric": "auc", "normalize": 33.0, "threshold": 0.7},
        {"metric": "epe"},
        {"metric": "nme", "normalize": "torso"},
    ],
)
def test_numbers_are_those_of_the_evaluations(gt, found, options):
    """Every number, in both models and in every metric and variant; one with itself does not differ."""
    sides = [evaluate(gt, one, **options) for one in (found, moved(found, [WRIST], 10.0))]
    result = compare(*sides, n=20)
    assert result.names == tuple(sides[0].stats)
    for number, name in enumerate(result.names):
        for values, side in zip((result.numbers.a, result.numbers.b), sides, strict=True):
            np.testing.assert_allclose(values[number], side.stats[name], rtol=1e-12, err_msg=name)
    table = sides[0].per_keypoint()
    np.testing.assert_allclose(
        schema.values(result.keypoints["a"]), schema.values(table[result.names[0]]), rtol=1e-12, atol=1e-15
    )
    same = compare(sides[0], sides[0], n=20)
    assert set(np.nan_to_num(same.numbers.delta).tolist()) == {0}
    assert same.numbers.p[0] == 1
    assert same.verdict().startswith("no difference that 40 images could show")


def test_resamples_are_a_loop_over_the_drawn_images(both, compared):
    """Percentiles and p of total, mean and one keypoint: every person weighs as often as the image was drawn."""
    right = [correct(side) for side in both]
    image = schema.values(both[0].points.gt.persons["image_id"])[both[0].points.truth_rows]
    place = {number: i for i, number in enumerate(sorted(set(image.tolist())))}
    deltas = {"total": [], "mean": [], "wrist": []}
    for weight in np.concatenate([rows for _, rows in drawn(200, len(place), 5)]):
        numbers = []
        for values in right:
            sums, counts = np.zeros(16), np.zeros(16)
            for n, k in np.argwhere(~np.isnan(values)).tolist():
                sums[k] += weight[place[image[n]]] * values[n, k]
                counts[k] += weight[place[image[n]]]
            numbers.append((sums.sum() / counts.sum(), (sums / counts).mean(), sums[WRIST] / counts[WRIST]))
        for name, a, b in zip(deltas, *numbers, strict=True):
            deltas[name].append(b - a)
    at = compared.names.index("mean")
    rows = compared.keypoints.to_pylist()
    wanted = {name: np.percentile(values, (2.5, 97.5)) for name, values in deltas.items()}
    found = compared.numbers
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(wanted["total"]), abs=1e-12)
    assert (found.low[at], found.high[at]) == pytest.approx(tuple(wanted["mean"]), abs=1e-12)
    assert (rows[WRIST]["low"], rows[WRIST]["high"]) == pytest.approx(tuple(wanted["wrist"]), abs=1e-12)
    tail = min(sum(d <= 0 for d in deltas["total"]), sum(d >= 0 for d in deltas["total"]))
    assert found.p[0] == pytest.approx(min(1, 2 * (1 + tail) / 201))


def test_what_changed_is_named(both, compared):
    """The verdict, the wrist, and the people with their shares; those that B lost most stand first."""
    assert compared.verdict().startswith("A is better: PCK@0.2 −")
    assert compare(*both[::-1], n=200, seed=5).verdict().startswith("B is better: PCK@0.2 +")
    assert compared.keypoints.schema.equals(KEYPOINTS)
    many = compare(*both, n=1000, seed=5)  # of fewer resamples p is never small enough for one keypoint of 16
    line = next(line for line in many.lines() if line.startswith("keypoints that differ beyond chance"))
    assert line.split(": ")[1].startswith("right_wrist −")
    people = compared.people
    assert people.schema.equals(PEOPLE)
    change = people["change"].to_pylist()
    assert change == sorted(change)
    right = [correct(side) for side in both]
    ids = schema.values(both[0].points.gt.persons["annotation_id"]).tolist()
    for row in people.to_pylist():
        n = ids.index(row["annotation_id"])
        assert row["value_a"] == pytest.approx(np.nanmean(right[0][n]), abs=1e-12)
        assert row["value_b"] == pytest.approx(np.nanmean(right[1][n]), abs=1e-12)
        assert row["measured"] == (~np.isnan(right[0][n])).sum()
        assert row["predicted_b"] == (both[1].points.prediction_rows[n] >= 0)
    worse = sum(value < -0.05 for value in change)
    alone = sum(row["predicted_a"] and not row["predicted_b"] for row in people.to_pylist())
    assert alone > 0
    assert f"worse for {worse:,}; predicted by A alone {alone}, by B alone 0" in compared.lines()[-1]


def test_of_errors_less_is_better(gt, found):
    """EPE in pixels: where everything is 3 px to the right, A is better, many got worse, and it says px."""
    exact = simulate_predictions(gt, seed=1, jitter=0, inversion=0, swap=0, miss=0, missed_people=0)[0]
    off = moved(exact, slice(None), 3.0)
    sides = [evaluate(gt, one, metric="epe") for one in (exact, off)]
    result = compare(*sides, n=50)
    assert result.verdict().startswith("A is better: EPE +")
    assert " px (95 % interval +" in result.verdict()
    far = [np.hypot(*np.moveaxis(side.points.truth - side.points.predicted, 2, 0)) for side in sides]
    far = [np.where(side.points.labelled, d, np.nan) for side, d in zip(sides, far, strict=True)]
    worse = sum(np.nanmean(b) - np.nanmean(a) > 1 for a, b in zip(*far, strict=True) if np.isfinite(b).any())
    assert worse > 40
    assert f"better in B for 0, worse for {worse};" in result.lines()[-1]
    report = json.loads(json.dumps(result.to_json()))
    assert (report["people"]["worse"], report["people"]["better"]) == (worse, 0)
    assert report["people"]["most_worse"][0]["change"] == max(schema.values(result.people["change"]))
    fewer = found.select(persons=np.arange(len(found)) % 2 == 0)
    silent = compare(*(evaluate(gt, one, metric="epe") for one in (exact, fewer)), n=10)
    assert any(note.startswith("EPE does not see what was not predicted: 0.0%") for note in silent.notes)


def test_what_cannot_be_compared(gt, found, both):
    """Other metrics, rules, people; slices by what is no column; no resamples."""
    pck, oks = both[0], evaluate(synthesize(3, seed=1), simulate_predictions(synthesize(3, seed=1))[0])
    epe = evaluate(gt, found, metric="epe")
    for a, b, words in (
        (pck, epe, "A was scored by PCK, B by EPE"),
        (pck, oks, "A was scored by PCK, B by COCO OKS"),
        (pck, evaluate(gt, found, metric="pck", normalize=50.0), "other rules: normalizer"),
        (pck, evaluate(gt, found, metric="pck", normalize=100.0, threshold=0.1), "other rules: thresholds"),
    ):
        with pytest.raises(EvaluationError, match=words):
            compare(a, b, n=5)
    half = gt.select(images=np.arange(20))
    fewer = evaluate(half, found, metric="pck", normalize=100.0, unknown_images="ignore")
    with pytest.raises(EvaluationError, match="scored on other people"):
        compare(pck, fewer, n=5)
    with pytest.raises(EvaluationError, match="neither a kind of people nor a column"):
        compare(pck, pck, n=5, by="shoes")
    with pytest.raises(EvaluationError, match="0 resamples"):
        compare(pck, pck, n=0)


def test_published_models(real_data):
    """Two stored sets of predictions for MPII's validation set: an early network and a stacked hourglass."""
    from kpdata import read

    folder = real_data / "mpii"
    truth = read(folder / "detections_our_format.mat")
    sides = [evaluate(truth, read(folder / "preds" / name)) for name in ("tompson.h5", "bearpaw-hg_s8_b1.mat")]
    result = compare(*sides, n=50)
    assert round(100 * float(result.numbers.b[result.names.index("total")]), 2) == 89.09  # its published table
    assert result.numbers.delta[0] == pytest.approx(sides[1].stats["PCKh@0.5"] - sides[0].stats["PCKh@0.5"])
    assert result.verdict().startswith("B is better: PCKh@0.5 +")
    assert result.images > 2000


@pytest.mark.parametrize("metric", ["pckh", "pck", "epe", "pcp"])
def test_few_images_show_little(gt, found, metric):
    """No p is below 2 / 2ᵐ for the m images on which people have that keypoint, column or kind, counted one by one."""
    few = gt.select(images=np.arange(4))
    image = schema.values(few.persons["image_id"])
    a, b = (
        evaluate(few, one.select(persons=np.isin(schema.values(one.persons["image_id"]), image)), metric=metric)
        for one in (found, moved(found, range(16), 200.0))
    )
    compared = compare(a, b, n=200, by="size")
    people = a.points.truth_rows
    for k, row in enumerate(compared.keypoints.to_pylist()):
        having = {int(image[people[n]]) for n in np.flatnonzero(a.measured.measured[:, k])}
        assert row["p"] is None or row["p"] >= min(1, 2 / 2 ** len(having)) - 1e-12
    whole = len(set(image.tolist()))
    assert compared.numbers.p[0] == pytest.approx(2 / 2**whole)
    assert all(row["p"] is None or row["p"] >= 2 / 2**whole for row in compared.slices.to_pylist())
    assert compared.verdict().startswith(f"no difference that {whole} images could show: ")
