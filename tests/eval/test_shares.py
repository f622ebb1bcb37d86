"""Slices of AI Challenger's measure: of everybody the whole, of images those images alone, of people a loop's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kpdata import schema
from kpdata.eval import evaluate
from kpdata.eval.comparison import compare
from kpdata.eval.part import pair
from kpdata.eval.protocols import ai_challenger_hits
from kpdata.eval.shares import SHARES, share_slices
from kpdata.eval.slices import slicings
from kpdata.synth import simulate_predictions, synthesize

NUMBERS = ("mAP", "mAP50", "mAP75")


@pytest.fixture(scope="module")
def gt():
    return synthesize(30, seed=8, size=(320, 240), people=(1, 4))


@pytest.fixture(scope="module")
def scored(gt):
    """Many predictions of nobody, also on an image whose people are all gone."""
    found = simulate_predictions(gt, seed=2, jitter=0.15, missed_people=0.2, false_positives=0.8)[0]
    image = schema.values(gt.persons["image_id"])
    return evaluate(gt.select(persons=image != image.max()), found, metric="aic", unknown_images="ignore")


def rows_of(result, by, **options):
    part = result.sides.parts[0]
    return share_slices(part, result.sides.gt, by, **options).to_pylist()


def test_a_slice_of_everybody_is_the_whole(scored):
    """mAP and the shares at 0.50 and 0.75, and the interval of the whole evaluation."""
    (row,) = rows_of(scored, "image.width", n=100, seed=4)
    assert {name: row[name] for name in NUMBERS} == pytest.approx(scored.stats, abs=1e-12)
    whole = scored.bootstrap(100, seed=4)
    assert (row["mAP_low"], row["mAP_high"]) == pytest.approx((whole.low[0], whole.high[0]), abs=1e-12)


def test_slices_of_images_are_those_images_alone(scored):
    """Each bin of images has the numbers of an evaluation that knows no others."""
    gt, predictions = scored.sides.gt, scored.sides.predictions
    part = scored.sides.parts[0]
    (kind,) = slicings(part, gt, "image.image_id")
    found = {row["slice"]: row for row in rows_of(scored, "image.image_id")}
    assert len(found) == 4
    for number, label in enumerate(kind.labels[:4]):
        own = part.image_ids[kind.image == number]
        alone = evaluate(
            gt.select(images=np.isin(schema.values(gt.images["image_id"]), own)),
            predictions.select(persons=np.isin(schema.values(predictions.persons["image_id"]), own)),
            metric="aic",
        )
        assert {name: found[label][name] for name in NUMBERS} == pytest.approx(alone.stats, abs=1e-12)


def test_slices_of_people_are_a_loop(scored):
    """Own people in numerator and denominator, and their part of the predictions that are too many."""
    part = scored.sides.parts[0]
    people, above, found = ai_challenger_hits(part)
    image_of, dt_image = part.truth.image_id[people].tolist(), part.detections.image_id[found].tolist()
    (kind,) = slicings(part, scored.sides.gt, "size")
    rows = {row["slice"]: row for row in rows_of(scored, "size")}
    assert len(rows) >= 2
    assert any(image not in image_of for image in dt_image)  # predictions where nobody is
    for number, label in enumerate(kind.labels):
        mine = [kind.person[p] == number for p in people.tolist()]
        if not any(mine):
            continue
        total = 0.0
        for image in set(part.image_ids.tolist()):
            here = [own for own, at in zip(mine, image_of, strict=True) if at == image]
            extra = max(0, dt_image.count(image) - len(here))
            total += sum(here) + extra * (sum(here) / len(here) if here else sum(mine) / len(mine))
        shares = above[np.array(mine)].sum(axis=0) / total
        assert rows[label]["mAP"] == pytest.approx(shares.mean(), abs=1e-12)
        assert rows[label]["mAP75"] == pytest.approx(shares[5], abs=1e-12)


def test_people_of_one_image_have_no_interval(scored):
    """A slice of one image has the numbers of that image, and nothing to say how sure they are; others have."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    first = schema.texts(gt.images["file_name"])[0]
    names = schema.strings([first] + ["others"] * (len(gt.images) - 1))
    index = gt.images.schema.get_field_index("split")
    marked = replace(gt, images=gt.images.set_column(index, "split", names))
    found = {row["slice"]: row for row in share_slices(part, marked, "split", n=20).to_pylist()}
    assert (found[first]["images"], found[first]["mAP_low"], found[first]["mAP_high"]) == (1, None, None)
    assert found["others"]["mAP_low"] < found["others"]["mAP_high"]


def test_the_table(scored):
    """The worst first, with the columns that say whose number it is, and the people found as in other slices."""
    table = share_slices(scored.sides.parts[0], scored.sides.gt)
    assert table.schema.equals(SHARES) and not {"AP", "AR"} & set(table.schema.names)
    values = table["mAP"].to_pylist()
    assert values == sorted(values)
    pairing = pair(scored.sides.parts[0])
    (row,) = rows_of(scored, "image.width")
    assert row["missed"] == pytest.approx(len(pairing.missed) / (len(pairing.missed) + len(pairing.truth)))
    assert share_slices(evaluate(*nobody(), metric="aic").sides.parts[0], nobody()[0]).num_rows == 0


def nobody():
    gt = synthesize(2, seed=1, size=(160, 120))
    index = gt.persons.schema.get_field_index("iscrowd")
    crowd = schema.fixed(np.ones(len(gt), bool), gt.persons.schema.field("iscrowd").type)
    return replace(gt, persons=gt.persons.set_column(index, "iscrowd", crowd)), simulate_predictions(gt)[0]


def test_two_models(gt, scored):
    """`compare` has the slices' own measure: a and b are those of each model, and of everybody the whole difference."""
    other = simulate_predictions(gt, seed=5, jitter=0.3)[0]
    second = evaluate(scored.sides.gt, other, metric="aic", unknown_images="ignore")
    found = compare(scored, second, n=50, by=["size", "image.width"])
    rows = {(row["by"], row["slice"]): row for row in found.slices.to_pylist()}
    for side, result in (("a", scored), ("b", second)):
        for row in rows_of(result, ["size", "image.width"]):
            assert rows[row["by"], row["slice"]][side] == pytest.approx(row["mAP"], abs=1e-12)
    whole = rows["image.width", "320"]
    assert whole["delta"] == pytest.approx(found.numbers.delta[0], abs=1e-12)
    assert (whole["low"], whole["high"]) == pytest.approx((found.numbers.low[0], found.numbers.high[0]), abs=1e-12)


def test_of_an_evaluation(scored, tmp_path):
    """`slices` of an evaluation by `aic`, and the page, have the metric's own numbers."""
    frame = scored.slices("size", n=20)
    assert list(frame.columns) == SHARES.names
    assert frame["mAP"].tolist() == [row["mAP"] for row in rows_of(scored, "size", n=20)]
    scored.to_html(tmp_path / "r.html", by="size")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "AI Challenger's shares of people found" in page.replace("&#39;", "'")
    assert "<th>mAP50</th>" in page


def test_one_image_has_no_interval(gt):
    """Its resamples are all alike, and say nothing about another image."""
    image = schema.values(gt.persons["image_id"])
    one = gt.select(persons=image == image[0])
    found = simulate_predictions(one, seed=2, jitter=0.15)[0]
    intervals = evaluate(one, found, metric="aic").bootstrap(20)
    assert np.isnan(intervals.low).all() and np.isnan(intervals.high).all()
    assert intervals.images.tolist() == [1] * len(intervals.names)
