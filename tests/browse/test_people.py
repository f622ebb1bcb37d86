"""The one table behind the page and the App: what stands in it is what the data say."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kpdata import read, schema
from kpdata.browse.people import PEOPLE, data_key, gather, narrowed, worst
from kpdata.browse.pictures import Pictures, missing_pictures
from kpdata.errors import BrowseError, EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.errors import KINDS
from kpdata.eval.report.points import from_points
from kpdata.skeleton import load
from kpdata.synth import simulate_predictions, synthesize, write_images


@pytest.fixture(scope="module")
def gt():
    return synthesize(40, seed=7)


@pytest.fixture(scope="module")
def predictions(gt):
    return simulate_predictions(gt, seed=1)[0]


@pytest.fixture(scope="module")
def people(gt, predictions):
    return gather(gt, predictions, compare=simulate_predictions(gt, seed=2)[0])


def _with_keypoints(dataset, xy, visibility):
    persons = dataset.persons
    for name, column in (("keypoints", schema.rows(xy)), ("visibility", schema.rows(visibility, kind=pa.int8()))):
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)
    return replace(dataset, persons=persons)


def test_rows_are_the_evaluations_failures(gt, predictions, people):
    """Nothing is lost or made up: everybody who counts and every prediction of nobody, in the order of the failures."""
    failures = evaluate(gt, predictions).failures()
    assert people.table.schema.equals(PEOPLE)
    assert schema.same(people.table.select(failures.schema.names), failures)
    assert people.stats == evaluate(gt, predictions).stats
    assert len(people.table) > len(gt)


def test_surroundings_by_a_naive_loop(gt, people):
    """Crowding is the greatest IoU with another's box, truncated a box at the edge, both by hand."""
    rows = gt.persons.to_pylist()
    expected = {}
    for one in rows:
        x, y, w, h = one["bbox"]
        most = 0.0
        for other in rows:
            if other is not one and other["image_id"] == one["image_id"]:
                a, b, c, d = other["bbox"]
                wide, tall = min(x + w, a + c) - max(x, a), min(y + h, b + d) - max(y, b)
                common = max(wide, 0) * max(tall, 0)
                most = max(most, common / (w * h + c * d - common))
        expected[one["annotation_id"]] = (most, x <= 1 or y <= 1 or x + w >= 639 or y + h >= 479)
    seen = 0
    for row in people.table.to_pylist():
        if row["annotation_id"] is None:
            assert row["crowding"] is row["truncated"] is row["occluded_share"] is None
            continue
        crowding, cut = expected[row["annotation_id"]]
        assert row["crowding"] == pytest.approx(crowding, abs=1e-9)
        assert row["truncated"] == cut
        assert row["occluded_share"] == row["visibility"].count(1) / sum(v > 0 for v in row["visibility"])
        seen += 1
    assert seen == len(gt)
    assert any(crowding > 0.3 for crowding, _ in expected.values())


def test_the_other_models_oks(gt, people):
    """other_oks is what the other model's own evaluation says; lost is there where that is better."""
    other = evaluate(gt, simulate_predictions(gt, seed=2)[0]).failures().to_pylist()
    theirs = {row["annotation_id"]: row["oks"] for row in other if row["annotation_id"] is not None}
    better = 0
    for row in people.table.to_pylist():
        expected = theirs.get(row["annotation_id"])
        assert row["other_oks"] == expected
        gain = None if expected is None else expected - (row["oks"] or 0)
        assert row["lost"] == (gain if gain is not None and gain > 0 else None)
        better += row["lost"] is not None
    assert 0 < better < len(gt)


def test_suspicions_propose_the_true_label(gt, predictions):
    """A label whose twins were exchanged, and one that was moved, are suspected, and the proposals undo the damage."""
    xy, visibility = gt.keypoints.copy(), gt.visibility.copy()
    first, second = np.flatnonzero((visibility > 0).all(1))[:2]
    xy[first], xy[second] = xy[first][gt.skeleton.flip_index()], xy[second] + [60, 5]
    found = gather(_with_keypoints(gt, xy, visibility), predictions)
    ids = gt.persons["annotation_id"].to_pylist()
    rows = {row["annotation_id"]: row for row in found.table.to_pylist() if row["suspicion"] is not None}
    for person, words in ((first, "exchanged"), (second, "shifted")):
        row = rows[ids[person]]
        proposed = np.array(row["proposed_keypoints"]).reshape(-1, 2)
        moved = np.isfinite(proposed).all(1)
        assert words in row["suspect"]
        assert row["suspect_keypoints"] == np.flatnonzero(moved).tolist()
        after = np.where(moved[:, None], proposed, xy[person])
        before, now = (np.hypot(*(p - gt.keypoints[person]).T)[moved].mean() for p in (xy[person], after))
        assert now < before / 4
    assert {view.name for view in found.views} >= {"suspicious"}


def test_an_unlabelled_person_is_proposed_whole(gt, predictions):
    """Somebody without a label is suspected where the prediction is sure: all predicted keypoints inside the image."""
    rows = [
        row for row in gather(gt, predictions).table.to_pylist() if row["suspicion"] and row["annotation_id"] is None
    ]
    for row in rows:
        predicted = np.array(row["predicted_keypoints"]).reshape(-1, 2)
        inside = ((predicted >= 0) & (predicted <= [639, 479])).all(1)
        proposed = np.array(row["proposed_keypoints"]).reshape(-1, 2)
        np.testing.assert_array_equal(proposed[inside], predicted[inside])
        assert np.isnan(proposed[~inside]).all()
    assert rows


def test_the_key_knows_the_labels(gt, tmp_path):
    """Equal in two formats, another with one keypoint moved by a hair."""
    gt.save(tmp_path / "a.kp")
    assert data_key(read(tmp_path / "a.kp")) == data_key(gt)
    xy = gt.keypoints.copy()
    person, keypoint = np.argwhere(gt.visibility > 0)[0]
    xy[person, keypoint, 0] += 1e-9
    assert data_key(_with_keypoints(gt, xy, gt.visibility)) != data_key(gt)


def test_limit_shows_every_kind(gt, predictions, people):
    """The worst of each kind in turn: no kind is crowded out, and the rest is told."""
    kinds = set(people.table["kind"].to_pylist())
    few = gather(gt, predictions, limit=2 * len(kinds))
    assert len(few.table) == 2 * len(kinds)
    assert set(few.table["kind"].to_pylist()) >= kinds - {"good"}
    assert f"the worst {2 * len(kinds)} of {len(people.table)} people are shown" in few.notes
    chosen = worst(people.table, 10)
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_without_predictions(gt):
    """A dataset alone: a row a person, the lint's words, and nothing of predictions."""
    xy, keypoint = gt.keypoints.copy(), int(np.argmax(gt.visibility[5] > 0))
    xy[5, keypoint, 0] = np.inf
    people = gather(_with_keypoints(gt, xy, gt.visibility))
    rows = people.table.to_pylist()
    assert [row["kind"] for row in rows] == ["annotation"] * len(gt)
    assert rows[0]["annotation_id"] == gt.persons["annotation_id"][5].as_py()
    name = gt.skeleton.keypoint_names[keypoint]
    assert rows[0]["findings"].startswith(f"error: keypoint-not-finite: {name} ")
    assert all(row[name] is None for row in rows for name in ("oks", "score", "severity", "classes", "suspicion"))
    assert people.stats["people"] == len(gt)
    table = people.per_keypoint["coco_17"].to_pylist()
    assert [row["labelled"] for row in table[:-1]] == (gt.visibility > 0).sum(0).tolist()
    assert table[-1]["occluded"] == int((gt.visibility == 1).sum())
    for row in rows:  # the crop holds everything of the person
        places = np.array(row["keypoints"]).reshape(-1, 2)
        seen = places[np.isfinite(places).all(1)]
        assert (seen >= [row["x0"] - 0.5, row["y0"] - 0.5]).all()  # a whole number is the middle of a pixel
        assert (seen <= [row["x1"], row["y1"]]).all()


def test_per_keypoint_bars_add_up(gt, predictions, people):
    """The counts of error kinds in the bars are those of the rows."""
    classes = Counter(c for row in people.table.to_pylist() for c in row["classes"] or [] if c >= 0)
    whole = people.per_keypoint["coco_17"].to_pylist()[-1]
    assert whole["keypoint"] == "all"
    assert whole["good"] + whole["jitter"] + whole["inversion"] + whole["swap"] + whole["miss"] == sum(classes.values())
    assert [len(x) == len(y) for _, x, y in people.curves] == [True] * len(people.curves) != []


def _ledger(path, ids, losses, epochs):
    columns = [schema.fixed(np.array(ids), pa.int64()), schema.fixed(np.array(epochs), pa.int64()), schema.rows(losses)]
    pq.write_table(pa.Table.from_arrays(columns, ["annotation_id", "epoch", "loss"]), path)


def test_a_ledger_of_losses(gt, predictions, tmp_path):
    """The mean over a person's keypoints in the last five epochs; NaN does not count, strangers are told."""
    ids = gt.persons["annotation_id"].to_pylist()
    folder = tmp_path / "run" / "ledger"
    folder.mkdir(parents=True)
    for epoch in range(1, 8):
        loss = (
            np.array([[90.0, 9, 9], [5, 5, 5], [7, 7, 7]])
            if epoch < 3
            else np.array([[epoch, 2 * epoch, np.nan], [5, 5, 5], [np.nan] * 3])
        )
        _ledger(folder / f"epoch-{epoch:04d}.parquet", [ids[0], ids[1], 10**9], loss, [epoch] * 3)
    expected = {ids[0]: sum(3 * epoch for epoch in range(3, 8)) / 10, ids[1]: 5.0, ids[2]: None}
    for place in (tmp_path / "run", folder):
        found = gather(gt, predictions, ledger=place)
        rows = {row["annotation_id"]: row["loss"] for row in found.table.to_pylist()}
        assert {person: rows[person] for person in expected} == expected
    assert "2 of the 3 people in ledger are in the data shown" in found.notes
    _ledger(tmp_path / "strange.parquet", [10**9], loss[:1], [1])
    with pytest.raises(BrowseError, match="none of its 1 people is in the data shown"):
        gather(gt, predictions, ledger=tmp_path / "strange.parquet")
    pq.write_table(gt.images, tmp_path / "images.parquet")
    with pytest.raises(BrowseError, match=r"images.parquet: not a training's ledger .*annotation_id, epoch and loss"):
        gather(gt, predictions, ledger=tmp_path / "images.parquet")
    with pytest.raises(BrowseError, match="no such ledger"):
        gather(gt, ledger=tmp_path / "none.parquet")


def test_pictures_that_are_not_there(gt, tmp_path):
    """All missing is an error with a path that was tried; some missing a note; file names without folders are found."""
    table = gather(gt).table
    with pytest.raises(BrowseError, match=r"0 of 40 pictures found in .*: tried .*0000\d\d\.jpg"):
        missing_pictures(table, Pictures(tmp_path))
    with pytest.raises(BrowseError, match="no such folder"):
        missing_pictures(table, Pictures(tmp_path / "none"))
    write_images(gt.select(images=np.arange(3)), tmp_path)
    assert missing_pictures(table, Pictures(tmp_path))[0].startswith(
        f"3 of 40 pictures found in {tmp_path}: tried {tmp_path}/"
    )


def test_what_cannot_be_gathered(gt, predictions):
    """Nobody, another model without one, a limit of none, other images: words, no traceback."""
    with pytest.raises(BrowseError, match="nobody to show"):
        gather(gt.select(persons=[]))
    with pytest.raises(BrowseError, match="no predictions"):
        gather(gt, compare=predictions)
    with pytest.raises(BrowseError, match="limit 0"):
        gather(gt, predictions, limit=0)
    with pytest.raises(EvaluationError, match="image"):
        gather(gt.select(images=np.arange(5)), predictions)


def test_one_view_alone(gt, people):
    """Narrowed to a view there are its people in its order, and a note that says so."""
    view = next(view for view in people.views if view.name == "lost")
    found = narrowed(people, "lost", 5)
    expected = [people.table["annotation_id"][int(row)].as_py() for row in view.rows[:5]]
    assert found.table["annotation_id"].to_pylist() == expected
    assert found.notes[0].startswith(f"5 of {len(view.rows)} people of the view 'lost'")
    with pytest.raises(BrowseError, match=r"no view 'lots' .*worst"):
        narrowed(people, "lots")


def _same_as_the_evaluation(people, result):
    """The same rows, kinds and counts: of the table, of the bars, and of what `kpdata eval --why` and its page show."""
    failures = result.failures()
    assert schema.same(people.table.select(failures.schema.names), failures)
    told = {row["keypoint"]: row for row in result.errors().to_pylist()}
    (bars,) = people.per_keypoint.values()
    kinds = [kind.name.lower() for kind in KINDS]
    for row in bars.to_pylist():
        assert {kind: row[kind] for kind in kinds} == {kind: told[row["keypoint"]][kind] for kind in kinds}
    counted = Counter(number for row in people.table.to_pylist() for number in row["classes"] or [] if number >= 0)
    assert {kind: counted[number] for number, kind in enumerate(kinds)} == {kind: told["all"][kind] for kind in kinds}
    cards = from_points(result, slices=result.slices("size")).failures
    assert Counter(people.table["kind"].to_pylist()) == Counter(cards["kind"].to_pylist())
    assert people.stats.items() <= result.stats.items() and "AP" not in people.stats and people.curves == ()
    assert f"a keypoint is good within {result.why.reach}" in people.notes[0]


@pytest.fixture(scope="module")
def mpii():
    """People of MPII, and predictions with mistakes of all kinds."""
    gt = synthesize(40, seed=3, people=(1, 3), skeleton="mpii_16")
    return gt, simulate_predictions(gt, seed=1, jitter=0.3, miss=0.1, inversion=0.1, swap=0.1, missed_people=0.1)[0]


@pytest.mark.parametrize("options", [{}, {"metric": "pck"}, {"metric": "epe"}, {"metric": "pcp"}])
def test_people_judged_by_pckh_and_its_family(mpii, options):
    """One table of failures behind everything: whom eval shows, and what it counts, browse shows and counts."""
    people = gather(*mpii, **options)
    _same_as_the_evaluation(people, evaluate(*mpii, **options))
    assert {"miss", "swap", "inversion", "missed person", "background"} <= set(people.table["kind"].to_pylist())
    rows = people.table.to_pylist()
    wrong = [sum(kind > 0 for kind in row["classes"] or []) / max(row["labelled"] or 0, 1) for row in rows]
    assert next(v for v in people.views if v.name == "worst").rows.tolist() == [
        i for i, share in enumerate(wrong) if share > 0.25
    ]
    lsp = synthesize(20, seed=5, skeleton="lsp_14")
    found = simulate_predictions(lsp, seed=1)[0]
    _same_as_the_evaluation(gather(lsp, found), evaluate(lsp, found))


def test_where_the_metric_of_the_data_cannot_be_measured(mpii):
    """No sigmas: PCK; no head boxes: PCK of the extent. A note says why, and how eval is asked for the same."""
    mine = replace(load("coco_17"), name="mine", sigmas=None, sigma_source=None)
    gt = synthesize(20, seed=3, skeleton=mine)
    predictions = simulate_predictions(gt, seed=1)[0]
    people = gather(gt, predictions)
    _same_as_the_evaluation(people, evaluate(gt, predictions, metric="pck"))
    assert people.notes[0].startswith("'mine' has no official sigmas")
    assert "`kpdata eval --metric pck --why`" in people.notes[0]
    assert "AP" in gather(gt, predictions, skeleton="coco_17").stats
    with pytest.raises(EvaluationError, match="no official OKS sigmas"):
        gather(gt, predictions, metric="oks")
    truth, found = mpii
    at = truth.persons.schema.get_field_index("head_bbox")
    nobodys = schema.rows(np.zeros((len(truth), 4)), np.zeros(len(truth), bool))
    headless = replace(truth, persons=truth.persons.set_column(at, schema.PERSONS.field("head_bbox"), nobodys))
    people = gather(headless, found)
    _same_as_the_evaluation(people, evaluate(headless, found, metric="pck", normalize="extent"))
    assert "0.6 × diagonal of the head box: people are judged by PCK" in people.notes[0]
    assert "`kpdata eval --metric pck --normalize extent --why`" in people.notes[0]
    for options, words in (({"metric": "pckh"}, "length to normalise by"), ({"area": "bbox"}, "has no option area")):
        with pytest.raises(EvaluationError, match=words):
            gather(headless, found, **options)


def test_the_other_model_of_single_people(mpii):
    """lost is the share of keypoints that the other model has more right; it is no OKS."""
    gt, predictions = mpii
    other = simulate_predictions(gt, seed=2)[0]
    people = gather(gt, predictions, compare=other)
    shares = []
    for result in (evaluate(gt, predictions), evaluate(gt, other)):
        rows = [row for row in result.failures().to_pylist() if row["annotation_id"] is not None and row["classes"]]
        shares.append({row["annotation_id"]: 1 - row["severity"] for row in rows})
    better = 0
    for row in people.table.to_pylist():
        mine, theirs = (share.get(row["annotation_id"]) for share in shares)
        gain = 0 if theirs is None else theirs - (mine or 0)
        assert row["other_oks"] is None
        assert (row["lost"] or 0) == pytest.approx(max(gain, 0), abs=1e-12)
        better += gain > 0
    assert better > 0
    assert "lost" in {view.name for view in people.views}


def test_labels_of_single_people_are_suspected(mpii):
    """By the reach of PCKh: exchanged twins and a label that was moved aside are undone by what is suggested."""
    gt, _ = mpii
    exact = simulate_predictions(gt, seed=1, jitter=0.05, miss=0, inversion=0, swap=0, missed_people=0)[0]
    xy, whole = gt.keypoints.copy(), np.flatnonzero((gt.visibility > 0).all(1))
    first, second = whole[:2]
    xy[first], xy[second] = xy[first][gt.skeleton.flip_index()], xy[second] + [90, 5]
    people = gather(_with_keypoints(gt, xy, gt.visibility), exact)
    ids = gt.persons["annotation_id"].to_pylist()
    rows = {row["annotation_id"]: row for row in people.table.to_pylist() if row["suspicion"] is not None}
    for person, words in ((first, "exchanged"), (second, "shifted")):
        row = rows[ids[person]]
        proposed = np.array(row["proposed_keypoints"]).reshape(-1, 2)
        moved = np.isfinite(proposed).all(1)
        assert words in row["suspect"]
        before, now = (np.hypot(*(p - gt.keypoints[person]).T)[moved].mean() for p in (xy[person], proposed))
        assert now < before / 4


def test_the_published_numbers_of_arrays_without_scores(real_data):
    """MPII's and LSP's arrays are browsed by their order: the published PCKh 89.09 (HRNet) and PCK 81.5, everybody
    once, and the counts of the evaluation."""
    cases = (
        ("mpii/detections_our_format.mat", "mpii/preds/bearpaw-hg_s8_b1.mat", 2958, "PCKh@0.5", 0.8909),
        ("lsp/lsp-joints-OC.mat", "lsp/pred_keypoints_lsp_oc.mat", 1000, "PCK@0.2", 0.815),
    )
    for truth, arrays, count, name, published in cases:
        gt, predictions = read(real_data / truth), read(real_data / arrays)
        found = gather(gt, predictions)
        _same_as_the_evaluation(found, evaluate(gt, predictions))
        assert found.stats[name] == pytest.approx(published, abs=5e-5)
        assert found.key == data_key(gt)
        ids = found.table["annotation_id"].drop_null().to_pylist()
        assert len(ids) == len(set(ids)) == count
        assert found.table["score"].null_count == len(found.table)


def test_predictions_without_scores(gt, predictions):
    """Where OKS judges, all count as equally sure, and a note says so."""
    persons = predictions.persons
    at = persons.schema.get_field_index("score")
    blank = schema.fixed(np.zeros(len(persons)), pa.float64(), np.zeros(len(persons), bool))
    bare = replace(predictions, persons=persons.set_column(at, persons.schema.field("score"), blank))
    with pytest.raises(EvaluationError, match="score"):
        evaluate(gt, bare)
    found = gather(gt, bare)
    assert found.notes[0] == "the predictions have no scores: all count as equally sure"
    assert set(found.table["score"].drop_null().to_pylist()) == {1.0}


def test_a_thousand_people():
    """Speed: 1,000 people with another model to compare take 0.3 s of one quiet core; 5,000 take 1 s."""
    gt = synthesize(330, seed=3)
    first, second = (simulate_predictions(gt, seed=seed)[0] for seed in (1, 2))
    start = time.process_time()
    people = gather(gt, first, compare=second)
    assert len(people.table) > 1000
    assert time.process_time() - start < 5
