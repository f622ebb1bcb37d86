"""Why single people are missed: kinds of error, distances, gains and the table of failures, against loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.errors import Kind
from kpdata.eval.failures import FAILURES, MATCHES
from kpdata.synth import simulate_predictions, synthesize

REACH = {"pckh": 0.5, "auc": 0.5}


@pytest.fixture(scope="module")
def gt():
    return synthesize(40, seed=3, size=(320, 240), people=(1, 3), skeleton="mpii_16")


@pytest.fixture(scope="module")
def found(gt):
    return simulate_predictions(
        gt, seed=1, jitter=0.3, miss=0.05, inversion=0.1, swap=0.1, false_positives=0.1, missed_people=0.1
    )[0]


@pytest.fixture(scope="module")
def scored(gt, found):
    return evaluate(gt, found, metric="pckh")


def similarity(a, b, reach):
    """1 at the place, 0.85 at one reach of the person whose place it is."""
    far = math.dist(a, b) if np.isfinite([*a, *b]).all() else math.inf
    return 0.85 ** ((far / reach) ** 2)


def naive_kind(points, images, reach, n, k, twin):
    """The kind of one keypoint by the rules of errors.py, with the reach of each person for a size."""
    place = points.predicted[n, k]
    if math.dist(place, points.truth[n, k]) <= reach[n]:
        return Kind.GOOD
    same_image = [m for m in range(len(images)) if images[m] == images[n]]

    def near(person, column):
        return similarity(place, points.truth[person, column], reach[person]) if points.labelled[person, column] else 0

    own = near(n, k)
    own_twin = near(n, twin[k]) if twin[k] != k else own
    others = max((near(m, k) for m in same_image if m != n), default=0)
    others_twin = max((near(m, twin[k]) for m in same_image if m != n), default=0)
    best = max(own, own_twin, others, others_twin)
    if best < 0.5:
        return Kind.MISS
    if own == best:
        return Kind.JITTER
    if others == best:
        return Kind.SWAP
    return Kind.INVERSION if own_twin == best else Kind.SWAP


def test_kinds_are_those_of_a_loop(scored):
    """Every keypoint of everybody with a prediction, by the reach of 0.5 head sizes; all kinds happen."""
    points, why = scored.points, scored.why
    images = schema.values(points.gt.persons["image_id"])[points.truth_rows]
    reach, twin = 0.5 * scored.length.px, points.skeleton.flip_index()
    wanted = np.full(why.errors.kind.shape, int(Kind.UNLABELLED))
    for row, n in enumerate(why.pairing.truth.tolist()):
        for k in np.flatnonzero(points.labelled[n]).tolist():
            wanted[row, k] = naive_kind(points, images, reach, n, k, twin)
    np.testing.assert_array_equal(why.errors.kind, wanted)
    assert set(wanted.ravel().tolist()) == {-1, 0, 1, 2, 3, 4}


@pytest.mark.parametrize("options", [{"metric": "pckh"}, {"metric": "pckh", "variant": "mmpose"},
                                     {"metric": "pck", "normalize": "torso", "threshold": 0.3}])  # fmt: skip
def test_good_is_what_the_metric_counts(gt, found, options):
    """The share of good keypoints of all that are measured is the metric's own number a keypoint."""
    result = evaluate(gt, found, **options)
    errors = result.errors().to_pylist()[:-1]
    first = next(iter(result.measured.values))
    for row, rate, labelled in zip(errors, result.measured.values[first], result.measured.labelled, strict=True):
        assert row["good"] == pytest.approx(rate * labelled)
        assert row["found"] + row["undetected"] == labelled


def test_gains_are_counts_over_keypoints(scored):
    """Of a pooled share each corrected keypoint adds one; sentences name the greatest; all kinds together reach 1."""
    rows = {row["error"]: row for row in scored.opportunity().to_pylist()}
    inside = scored.measured.columns.in_mean
    labelled = int(scored.measured.labelled[inside].sum())
    for row in rows.values():
        assert row["gain"] == pytest.approx(row["count"] / labelled, abs=1e-12)
    assert scored.stats["PCKh@0.5"] + sum(row["gain"] for row in rows.values()) == pytest.approx(1)
    best = max(rows.values(), key=lambda row: row["gain"])
    assert f"would add {100 * best['gain']:.1f} points of PCKh@0.5" in scored.helps()[0]
    assert f"{best['count']:,} keypoint" in scored.helps()[0]


def test_epe_gains_are_pixels(gt, found):
    """Without one kind of error the mean distance is that of the others, with 0 in its place."""
    result = evaluate(gt, found, metric="epe")
    rows = {row["error"]: row for row in result.opportunity().to_pylist()}
    far, kinds = result.measured.each["EPE"], np.full(result.measured.each["EPE"].shape, -1)
    kinds[result.why.pairing.truth] = result.why.errors.kind
    known = ~np.isnan(far)
    assert rows["miss"]["value"] == pytest.approx(np.where(kinds == Kind.MISS, 0, far)[known].mean())
    assert rows["missing"]["gain"] == 0
    assert "px off EPE" in result.helps()[0]


def test_limbs_have_no_kinds(gt, found):
    """PCP says so, and still has slices, intervals and failures of its people."""
    result = evaluate(gt, found, metric="pcp")
    with pytest.raises(EvaluationError, match="limbs have no kinds of error"):
        result.opportunity()
    assert result.helps() == []
    assert result.failures().num_rows and result.slices("size").num_rows


def test_distances_by_keypoint_and_visibility(scored):
    """Median and 90th percentile in pixels, head sizes and √area, person by person; no sigmas, so none in sigma."""
    table = scored.distances().to_pylist()
    points, part = scored.points, scored.why.part
    far = np.hypot(*np.moveaxis(points.truth - points.predicted, 2, 0))
    paired = points.prediction_rows >= 0
    for name, level in (("all", None), ("occluded", 1), ("visible", 2)):
        shown = points.labelled if level is None else points.labelled & (part.visibility == level)
        for k, keypoint in enumerate(points.skeleton.keypoint_names):
            row = next(r for r in table if (r["keypoint"], r["visibility"]) == (keypoint, name))
            chosen = shown[:, k] & paired
            assert (row["labelled"], row["found"]) == (shown[:, k].sum(), chosen.sum())
            values = {"px": far[:, k], "length": far[:, k] / scored.length.px, "area": far[:, k] / part.truth.area**0.5}
            for unit, of in values.items():
                given = np.where(np.isnan(of), np.inf, of)[chosen]
                if len(given) and np.isfinite(given).all():
                    assert row[f"error_{unit}_median"] == pytest.approx(np.median(given))
                    assert row[f"error_{unit}_p90"] == pytest.approx(np.percentile(given, 90))
    assert {row["error_sigma_median"] for row in table} == {None} == {row["oks"] for row in table}


def test_skeletons_with_sigmas_have_sigma_units():
    """COCO's keypoints by PCK: the same numbers as the analysis of matches by OKS, where all are paired alike."""
    gt = synthesize(30, seed=5, people=(1, 1))
    found = simulate_predictions(gt, seed=2, false_positives=0, missed_people=0)[0]
    pck, oks = evaluate(gt, found, metric="pck"), evaluate(gt, found)
    ours = {(r["keypoint"], r["visibility"]): r for r in pck.distances().to_pylist()}
    rows = oks.per_keypoint().to_dict("records")
    assert {row["found_share"] for row in rows if row["labelled"]} == {1.0}
    for row in rows:
        mine = ours[row["keypoint"], row["visibility"]]["error_sigma_p90"]
        assert (np.nan if mine is None else mine) == pytest.approx(row["error_sigma_p90"], nan_ok=True)


def test_failures_are_people_worst_first(scored):
    """A row for everybody that counts and every prediction of nobody; severity is the share of wrong keypoints."""
    table, why = scored.failures(), scored.why
    assert table.schema.equals(FAILURES) and scored.matches.schema.equals(MATCHES)
    rows = table.to_pylist()
    counts = scored.facts["counts"]
    assert len(rows) == counts["people scored"] + counts["predictions of nobody"]
    assert [row["severity"] for row in rows] == sorted((row["severity"] for row in rows), reverse=True)
    assert sum(row["kind"] == "missed person" for row in rows) == counts["people without a prediction"] > 0
    for row in rows:
        assert row["oks"] is None and row["error_sigma"] is None
        if row["classes"] is not None:
            known = [kind for kind in row["classes"] if kind >= 0]
            assert row["severity"] == pytest.approx(1 - known.count(0) / len(known))
    assert len(why.pairing.spurious) == counts["predictions of nobody"] > 0
    people = {row["annotation_id"] for row in rows if row["annotation_id"] is not None}
    assert len(people) == counts["people scored"]


def test_people_without_a_length_are_in_no_analysis(gt, found):
    """Who has no head box is not scored, is no failure and has no kinds of error."""
    heads = [None if n == 0 else value for n, value in enumerate(gt.persons["head_bbox"].to_pylist())]
    column = schema.rows(np.array([[np.nan] * 4 if value is None else value for value in heads]),
                         np.array([value is not None for value in heads]))  # fmt: skip
    index = gt.persons.schema.get_field_index("head_bbox")
    result = evaluate(replace(gt, persons=gt.persons.set_column(index, "head_bbox", column)), found, metric="pckh")
    first = gt.persons["annotation_id"][0].as_py()
    assert first not in result.failures()["annotation_id"].to_pylist()
    assert result.facts["counts"]["people without a length"] == 1


def test_who_has_a_head_of_no_size_is_missed(gt, found):
    """PCKh counts all keypoints of a head box of 0 px as wrong, and so do the analyses; EPE knows no size."""
    boxes = np.array(gt.persons["head_bbox"].to_pylist())
    boxes[0, 2:] = 0
    index = gt.persons.schema.get_field_index("head_bbox")
    flat = replace(gt, persons=gt.persons.set_column(index, "head_bbox", schema.rows(boxes)))
    result = evaluate(flat, found, metric="pckh")
    person = gt.persons["annotation_id"][0].as_py()
    (row,) = [row for row in result.failures().to_pylist() if row["annotation_id"] == person]
    assert row["severity"] == 1 and not {0} & set(row["classes"])
    gains = sum(row["gain"] for row in result.opportunity().to_pylist())
    assert result.stats["PCKh@0.5"] + gains == pytest.approx(1)
    assert person not in evaluate(flat, found, metric="epe").failures()["annotation_id"].to_pylist()


def test_the_page_says_what_the_metric_found(scored, tmp_path):
    """Numbers in percent with intervals, curves, kinds, slices and people; PCP and EPE have pages too."""
    page = tmp_path / "why.html"
    scored.to_html(page, intervals=scored.bootstrap(20), n=20)
    html = page.read_text(encoding="utf-8")
    assert f"{100 * scored.stats['PCKh@0.5']:.2f}" in html
    for words in (
        "Right keypoints over the tolerance",
        "0.5 head sizes",
        "Kinds of people",
        "The worst people",
        " right",
    ):
        assert words in html
    assert "AP50" not in html and "mean OKS" not in html
    for metric in ("epe", "pcp", "auc", "nme", "pck"):
        evaluate(scored.points.gt, scored.points.predictions, metric=metric).to_html(page, force=True)
