"""Differences are B minus A on the same draws; what did not change differs by nothing, what did is found."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.bootstrap import bootstrap
from kpdata.eval.comparison import KEYPOINTS, PEOPLE, SLICES, compare
from kpdata.eval.slices import slices
from kpdata.skeleton import load
from kpdata.synth import simulate_predictions, synthesize

WRISTS = [9, 10]


def with_keypoints(predictions, xy):
    index = predictions.persons.schema.get_field_index("keypoints")
    column = schema.rows(xy.reshape(len(xy), -1))
    return replace(predictions, persons=predictions.persons.set_column(index, "keypoints", column))


@pytest.fixture(scope="module")
def gt():
    return synthesize(50, seed=3, size=(320, 240), people=(1, 4))


@pytest.fixture(scope="module")
def found(gt):
    return simulate_predictions(gt, seed=1, jitter=0.2, miss=0.0, inversion=0.0, swap=0.0)[0]


@pytest.fixture(scope="module")
def first(gt, found):
    return evaluate(gt, found)


@pytest.fixture(scope="module")
def second(gt, found):
    """The same predictions with the wrists moved by ten pixels, and nobody found on the first image with people."""
    xy = found.keypoints.copy()
    xy[:, WRISTS] += 10
    image = schema.values(found.persons["image_id"])
    return evaluate(gt, with_keypoints(found, xy).select(persons=image != image.min()))


@pytest.fixture(scope="module")
def compared(first, second):
    return compare(first, second, n=400, seed=2)


def test_a_model_and_itself_do_not_differ(first):
    """All differences and their intervals are 0, p is 1, and nobody changed."""
    found = compare(first, first, n=50)
    for name, values in found.numbers.columns().items():
        if name in ("delta", "low", "high"):
            assert np.nan_to_num(values).tolist() == [0] * 10
    assert found.numbers.p[0] == 1
    assert set(found.keypoints["p"].to_pylist()) == {1}
    assert set(found.slices["delta"].to_pylist()) == {0}
    assert set(found.people["change"].to_pylist()) == {0}
    assert found.verdict().startswith(
        "no difference that 50 images could show: AP +0.0 (95 % interval +0.0 … +0.0, p = 1)"
    )
    assert "no keypoint of 17 differs beyond chance" in found.lines()


def test_numbers_are_those_of_the_evaluations(first, second, compared):
    """a and b are the ten numbers; intervals and p-values are those of the differences of the same resamples."""
    stats = [np.array(list(side.stats.values())) for side in (first, second)]
    known = stats[0] > -1
    np.testing.assert_allclose(compared.numbers.a[known], stats[0][known], rtol=0, atol=1e-12)
    np.testing.assert_allclose(compared.numbers.b[known], stats[1][known], rtol=0, atol=1e-12)
    samples = [bootstrap(side.sides.parts, n=400, seed=2).samples for side in (first, second)]
    delta = (samples[1] - samples[0])[:, :3]
    low, high = np.percentile(delta, (2.5, 97.5), axis=0)
    np.testing.assert_allclose(compared.numbers.low[:3], low, atol=1e-12)
    np.testing.assert_allclose(compared.numbers.high[:3], high, atol=1e-12)
    for column in range(3):
        tail = min(sum(d <= 0 for d in delta[:, column]), sum(d >= 0 for d in delta[:, column]))
        assert compared.numbers.p[column] == pytest.approx(min(1, 2 * (tail + 1) / 401))


def test_the_worse_model_is_named(first, second, compared):
    """By AP, in points, with the least p that so many resamples can give; the other way round B is the better."""
    points = 100 * (second.stats["AP"] - first.stats["AP"])
    assert compared.verdict().startswith(f"A is better: AP −{-points:.1f} (95 % interval −")
    assert compared.verdict().endswith("p ≤ 0.005)")
    assert compare(second, first, n=50).verdict().startswith("B is better: AP +")


def test_chance_is_not_called_a_difference(gt):
    """Two runs of one made-up model differ by luck: over many such pairs p is below 0.05 in few of them."""
    runs = [evaluate(gt, simulate_predictions(gt, seed=seed)[0]) for seed in range(10)]
    p = [compare(a, b, n=100, by="size").numbers.p[0] for a, b in zip(runs[::2], runs[1::2], strict=True)]
    assert sum(value < 0.05 for value in p) <= 2
    assert max(p) > 0.2


def test_the_keypoints_that_changed_are_found(first, second, compared):
    """Mean OKS term of every labelled keypoint, 0 for missed people, beside a loop; the lines name the wrists first."""
    assert compared.keypoints.schema.equals(KEYPOINTS)
    rows = {row["keypoint"]: row for row in compared.keypoints.to_pylist()}
    names = load("coco_17").keypoint_names
    for side, result in (("a", first), ("b", second)):
        for k in (0, *WRISTS):
            assert rows[names[k]][side] == pytest.approx(naive_term(result.sides.parts[0], k), abs=1e-12)
    deltas = {name: row["delta"] for name, row in rows.items()}
    assert set(sorted(deltas, key=lambda name: deltas[name])[:2]) == {names[k] for k in WRISTS}
    assert all(rows[names[k]]["high"] < 0 for k in WRISTS)
    assert any(line.startswith("keypoints that differ beyond chance") and "wrist" in line for line in compared.lines())


def naive_term(part, k):
    """Mean of exp(-d² / (2 area (2 sigma)²)) of keypoint k over everybody who counts; 0 for those not found."""
    from kpdata.eval.part import pair

    pairing = pair(part)
    of = dict(zip(pairing.truth.tolist(), pairing.detection.tolist(), strict=True))
    terms = []
    for person in np.flatnonzero(part.counted() & part.truth.labelled[:, k]).tolist():
        if person not in of:
            terms.append(0.0)
            continue
        d2 = ((part.truth.keypoints[person, k] - part.detections.keypoints[of[person], k]) ** 2).sum()
        terms.append(np.exp(-d2 / (2 * part.truth.area[person] * (2 * part.params.sigmas[k]) ** 2)))
    return np.mean(terms)


def test_intervals_of_keypoints_are_those_of_the_drawn_images(first, second, compared):
    """A resample draws images: each person weighs as often as their image was drawn, in the sum and in the count."""
    from kpdata.eval.bootstrap import drawn
    from kpdata.eval.part import pair

    part, other = first.sides.parts[0], second.sides.parts[0]
    k, images = WRISTS[0], np.unique(part.image_ids)
    weight = np.concatenate([rows for _, rows in drawn(400, len(images), 2)])
    deltas = []
    people = np.flatnonzero(part.counted() & part.truth.labelled[:, k])
    terms = [{}, {}]
    for store, side in zip(terms, (part, other), strict=True):
        pairing = pair(side)
        for person, detection in zip(pairing.truth.tolist(), pairing.detection.tolist(), strict=True):
            d2 = ((side.truth.keypoints[person, k] - side.detections.keypoints[detection, k]) ** 2).sum()
            store[person] = np.exp(-d2 / (2 * side.truth.area[person] * (2 * side.params.sigmas[k]) ** 2))
    place = {image: i for i, image in enumerate(images.tolist())}
    for row in weight:
        w = np.array([row[place[int(part.truth.image_id[p])]] for p in people])
        change = np.array([terms[1].get(p, 0) - terms[0].get(p, 0) for p in people.tolist()])
        deltas.append((w * change).sum() / w.sum())
    row = compared.keypoints.to_pylist()[k]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(deltas, (2.5, 97.5))), abs=1e-12)


def test_people_that_changed(first, second, compared):
    """Everybody that counts, those that B lost first, with null for the score of a person nobody found."""
    people = compared.people
    assert people.schema.equals(PEOPLE)
    part = first.sides.parts[0]
    assert sorted(people["annotation_id"].to_pylist()) == sorted(part.truth.annotation_id[part.counted()].tolist())
    change = people["change"].to_pylist()
    assert change == sorted(change)
    image = schema.values(first.sides.predictions.persons["image_id"]).min()
    lost = [row for row in people.to_pylist() if row["image_id"] == image]
    assert lost
    for row in lost:
        assert (row["oks_b"], row["score_b"]) == (0, None)
    for row in people.to_pylist():
        assert row["change"] == row["oks_b"] - row["oks_a"]
        assert (row["oks_a"] == 0) == (row["score_a"] is None)


def test_slices_are_those_of_each_model(first, second, compared):
    """a and b are the slice's AP in each evaluation, and the same table by columns that the user names."""
    assert compared.slices.schema.equals(SLICES)
    for result, side in ((first, "a"), (second, "b")):
        own = {(r["by"], r["slice"]): r["AP"] for r in slices(result.sides.parts[0], result.sides.gt).to_pylist()}
        assert own == pytest.approx({(r["by"], r["slice"]): r[side] for r in compared.slices.to_pylist()}, abs=1e-12)
    named = compare(first, second, n=20, by=["image.width"]).slices.to_pylist()
    assert [(row["by"], row["slice"], row["people"]) for row in named] == [("image.width", "320", len(compared.people))]
    assert named[0]["delta"] == pytest.approx(compared.numbers.delta[0], abs=1e-12)


def test_json_is_plain(compared):
    """It holds the verdict, all numbers, and those people that changed most."""
    report = json.loads(json.dumps(compared.to_json()))
    assert report["verdict"] == compared.verdict()
    assert report["stats"]["AP"]["delta"] == compared.numbers.delta[0]
    assert len(report["keypoints"]) == 17
    assert report["people"]["count"] == len(compared.people)
    assert report["people"]["most_worse"][0] == compared.people.to_pylist()[0]
    assert (report["resamples"], report["seed"], report["images"]) == (400, 2, 50)


def test_another_ground_truth_is_refused(first, found, gt):
    """Other people, other sigmas: the numbers have nothing to do with each other."""
    other = evaluate(gt.select(images=np.arange(40)), found, unknown_images="ignore")
    with pytest.raises(EvaluationError, match="scored on other people"):
        compare(first, other, n=10)
    with pytest.raises(EvaluationError, match="other skeletons or sigmas"):
        compare(first, evaluate(gt, found, skeleton=wide()), n=10)
    with pytest.raises(EvaluationError, match="0 resamples"):
        compare(first, first, n=0)


def wide():
    bones = load("coco_17")
    return replace(bones, sigmas=tuple(2 * s for s in bones.sigmas), sigma_source="twice COCO's")


def test_people_without_an_area_are_the_same_people(gt, found):
    """NaN for somebody's area on both sides is no other ground truth."""
    area = schema.values(gt.persons["area"]).copy()
    area[0] = np.nan
    index = gt.persons.schema.get_field_index("area")
    odd = replace(gt, persons=gt.persons.set_column(index, "area", schema.fixed(area, pa.float64())))
    assert compare(evaluate(odd, found), evaluate(odd, found), n=5).numbers.delta[0] == 0


def test_nobody_to_compare():
    """Nobody of the ground truth counts: a sentence and no number."""
    gt = synthesize(2, seed=1, size=(160, 120))
    index = gt.persons.schema.get_field_index("num_keypoints")
    nobody = replace(
        gt, persons=gt.persons.set_column(index, "num_keypoints", schema.fixed(np.zeros(len(gt)), pa.int32()))
    )
    result = evaluate(nobody, simulate_predictions(gt)[0])
    found = compare(result, result, n=10)
    assert found.verdict() == "no AP to compare: nobody in the ground truth can be scored"
    assert found.people.num_rows == found.slices.num_rows == 0
    assert found.lines()


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_few_images_show_little(count):
    """No p is below that of a test which swaps A and B on any of the images, all 2ᵐ ways: one image shows nothing."""
    gt = synthesize(count, seed=5, size=(320, 240), people=(2, 2))
    good, bad = (simulate_predictions(gt, seed=1, jitter=off, missed_people=0.0)[0] for off in (0.02, 0.5))
    found = compare(evaluate(gt, good), evaluate(gt, bad), n=2000, by="size")
    lost = _mean_terms(found.people)  # (m,) of each image, all above 0
    assert (lost > 0).all() and len(lost) == count
    swapped = [abs(np.dot(signs, lost)) for signs in product((1, -1), repeat=count)]
    least = np.mean(np.array(swapped) >= lost.sum() - 1e-12)
    assert least == 2.0 ** (1 - count)
    rows = found.keypoints.to_pylist() + found.slices.to_pylist()
    p = np.array([*found.numbers.p, *(row["p"] for row in rows if row["p"] is not None)])
    assert np.nanmin(p) == pytest.approx(max(least, 2 / 2001))
    assert found.verdict().startswith("A is better: AP −" if count > 5 else "no difference that ")
    assert any("differ beyond chance" in line for line in found.lines()) == (count > 5)


def _mean_terms(people):
    """What B loses of OKS on each image."""
    image, change = (schema.values(people[name]) for name in ("image_id", "change"))
    return np.array([-change[image == one].sum() for one in np.unique(image)])


def test_a_kind_of_one_image_shows_nothing(gt, found):
    """A slice whose people are all on one image has p = 1, and is not named, however many images the whole has."""
    first = int(schema.values(gt.persons["image_id"]).min())
    width = np.where(schema.values(gt.images["image_id"]) == first, 321, 320)
    at = gt.images.schema.get_field_index("width")
    odd = replace(gt, images=gt.images.set_column(at, "width", schema.fixed(width, gt.images.schema.field(at).type)))
    a, b = (evaluate(odd, one) for one in (found, with_keypoints(found, found.keypoints + 30)))
    compared = compare(a, b, n=200, by="image.width")
    rows = {row["slice"]: row for row in compared.slices.to_pylist()}
    assert rows["321"]["delta"] < 0 and rows["321"]["p"] == 1 and rows["320"]["p"] < 0.05
    assert any(
        line == f"slices that differ beyond chance, 1 of 2: image.width 320 {_points(rows)}"
        for line in compared.lines()
    )


def _points(rows):
    return f"−{-100 * rows['320']['delta']:.1f}"


def test_few_resamples_are_told(first, second):
    """Where no test could pass with so few resamples, the sentence says so: 'none differs' would be untrue."""
    lines = compare(first, second, n=20).lines()
    assert "no keypoint of 17 differs beyond chance, as 20 resamples are too few to show for so many" in lines
    assert not any("too few" in line for line in compare(first, second, n=1000).lines())
