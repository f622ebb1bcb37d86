"""Resampled single people: loops over the drawn images, person by person, give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import compare, evaluate
from kpdata.eval.bootstrap import drawn
from kpdata.eval.comparison import SLICES as COMPARED
from kpdata.eval.points.resampling import SLICES
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def gt():
    return synthesize(30, seed=4, size=(320, 240), people=(1, 3), skeleton="mpii_16")


@pytest.fixture(scope="module")
def found(gt):
    return simulate_predictions(gt, seed=1, jitter=0.3, miss=0.05, missed_people=0.1)[0]


def expanded(result, seed, n):
    """(draw) -> rows of people, each as often as its image was drawn."""
    image = schema.values(result.points.gt.persons["image_id"])[result.points.truth_rows]
    images, place = np.unique(image, return_inverse=True)
    for _, block in drawn(n, len(images), seed):
        for weight in block:
            yield np.repeat(np.arange(len(image)), weight[place])


@pytest.mark.parametrize("metric", ["pckh", "pck", "pcp", "auc", "epe", "nme"])
def test_every_number_has_its_interval(gt, found, metric):
    """The names and values of `stats`, each inside its interval."""
    result = evaluate(gt, found, metric=metric)
    intervals = result.bootstrap(200, seed=2)
    assert intervals.names == tuple(result.stats)
    np.testing.assert_array_equal(intervals.estimate, list(result.stats.values()))
    assert (intervals.low <= intervals.estimate + 1e-12).all() and (intervals.estimate <= intervals.high + 1e-12).all()
    assert (intervals.low < intervals.high).sum() > len(intervals.names) // 2


def test_people_of_one_image_have_no_interval(gt, found):
    """Resamples of one image are all alike: neither the numbers nor the slices get ends."""
    rows = schema.values(gt.persons["image_id"])
    one = gt.select(persons=rows == rows[0])
    result = evaluate(one, found, metric="pck", unknown_images="ignore")
    intervals = result.bootstrap(20)
    assert np.isnan(intervals.low).all() and np.isnan(intervals.high).all()
    assert intervals.images.max() == 1
    assert set(result.slices(n=20)["low"].to_pylist()) == {None}


def test_medians_and_missing_are_those_of_the_drawn_people(gt, found):
    """EPE median by np.median of all drawn keypoints, the mean by keypoints, and the share without a prediction."""
    result = evaluate(gt, found, metric="epe")
    samples = result.bootstrap(70, seed=9).samples
    column = {name: samples[:, at] for at, name in enumerate(result.stats)}
    far, silent = result.measured.each["EPE"], result.measured.silent
    for number, rows in enumerate(expanded(result, 9, 70)):
        values = far[rows]
        assert column["EPE median"][number] == pytest.approx(np.nanmedian(values), abs=1e-12)
        assert column["EPE"][number] == pytest.approx(np.nanmean(values))
        assert column["mean"][number] == pytest.approx(np.nanmean(np.nanmean(values, axis=0)))
        share = silent[rows].sum() / (silent[rows] | ~np.isnan(values)).sum()
        assert column["missing"][number] == pytest.approx(share)


def test_slices_are_means_of_their_people(gt, found):
    """Each slice of PCKh by hand, worst first; the intervals of one by a loop over the drawn images."""
    result = evaluate(gt, found, metric="pckh")
    table = result.slices(["size", "keypoints"], n=64, seed=3)
    assert table.schema.equals(SLICES)
    rows = table.to_pylist()
    assert [row["value"] for row in rows] == sorted(row["value"] for row in rows)
    right = result.measured.each["PCKh@0.5"][:, result.measured.columns.in_mean]
    area = result.why.part.truth.area
    sizes = np.where(area < 32**2, "small", np.where(area < 96**2, "medium", "large"))
    seen = 0
    for row in (row for row in rows if row["by"] == "size"):
        chosen = (sizes == row["slice"]) & ~np.isnan(right).all(axis=1)
        assert row["people"] == chosen.sum()
        assert row["value"] == pytest.approx(np.nanmean(right[chosen]))
        pixels = result.why.far[chosen]
        assert row["error_px_median"] == pytest.approx(np.median(pixels[np.isfinite(pixels)]))
        assert row["error_px_p90"] == pytest.approx(np.percentile(pixels[np.isfinite(pixels)], 90))
        values = [np.nanmean(right[people[chosen[people]]]) for people in expanded(result, 3, 64)]
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.nanpercentile(values, (2.5, 97.5))))
        seen += row["people"]
    assert seen == result.facts["counts"]["people scored"]


def test_of_errors_the_greatest_comes_first(gt, found):
    """EPE and NME: worst is largest; a column that is none is refused."""
    rows = evaluate(gt, found, metric="epe").slices("size").to_pylist()
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    assert all(row["low"] is None for row in rows)
    with pytest.raises(EvaluationError, match="neither a kind of people nor a column"):
        evaluate(gt, found, metric="epe").slices("shoes")


def test_two_models_by_slices_and_medians(gt, found):
    """Differences of slices and medians are those of the evaluations; those that B lost most stand first."""
    other = simulate_predictions(gt, seed=8, jitter=0.5, miss=0.1)[0]
    for metric, name, sign in (("pckh", "PCKh@0.5", 1), ("epe", "EPE median", -1)):
        sides = [evaluate(gt, one, metric=metric) for one in (found, other)]
        result = compare(*sides, n=30, by="size")
        assert result.slices.schema.equals(COMPARED)
        alone = [{row["slice"]: row["value"] for row in side.slices("size").to_pylist()} for side in sides]
        changes = [row["delta"] * sign for row in result.slices.to_pylist()]
        assert changes == sorted(changes) and len(changes) == len(alone[0])
        for row in result.slices.to_pylist():
            assert row["delta"] == pytest.approx(alone[1][row["slice"]] - alone[0][row["slice"]])
        at = result.names.index(name)
        assert result.numbers.delta[at] == pytest.approx(sides[1].stats[name] - sides[0].stats[name])
        assert result.to_json()["slices"] == result.slices.to_pylist()
        assert len(compare(*sides, n=5).slices) >= len(result.slices)  # without names all that the data can tell
