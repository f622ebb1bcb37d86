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
from kpdata.browse.scoring import lent
from kpdata.errors import BrowseError, EvaluationError
from kpdata.eval import evaluate
from kpdata.skeleton import Skeleton, load
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


def test_data_with_a_measure_of_their_own():
    """MPII has no sigmas: failures are told by COCO's of the same points, the numbers are PCKh, and a note says so."""
    gt = synthesize(10, seed=3, skeleton="mpii_16")
    predictions = simulate_predictions(gt, seed=1)[0]
    found = gather(gt, predictions)
    assert "AP" not in found.stats and found.curves == ()
    assert found.notes[0].startswith(
        "'mpii_16' has no official sigmas: people are sorted, and errors named, by OKS with"
    )
    assert set(found.table["kind"].to_pylist()) & {"miss", "inversion", "jitter"}
    own = gather(gt, predictions, skeleton=replace(gt.skeleton, sigmas=(0.05,) * 16))
    assert len(own.table) >= len(gt)
    assert not any("official sigmas" in note for note in own.notes)


def test_sigmas_of_a_skeleton_without_them():
    """COCO's where the point of the body is COCO's (cocoeval.py), CrowdPose's of head and neck, else 0.1."""
    coco = {"wrist": 0.62, "elbow": 0.72, "shoulder": 0.79, "hip": 1.07, "knee": 0.87, "ankle": 0.89}
    crowdpose = 0.79
    for name in ("mpii_16", "lsp_14"):
        bones = lent(load(name))
        for keypoint, sigma in zip(bones.keypoint_names, bones.sigmas, strict=True):
            middle = {"pelvis": coco["hip"], "thorax": coco["shoulder"]}.get(keypoint, crowdpose)
            assert sigma == pytest.approx(coco.get(keypoint.partition("_")[2], middle) / 10, abs=1e-12)
    assert lent(Skeleton("horse", ("withers", "left_eye"))).sigmas == (0.1, 0.025)
    assert lent(load("coco_17")) is load("coco_17")


def test_the_published_numbers_of_arrays_without_scores(real_data):
    """MPII's and LSP's arrays are browsed by their order and show the published PCKh 89.09 (HRNet) and PCK 81.5."""
    cases = (
        ("mpii/detections_our_format.mat", "mpii/preds/bearpaw-hg_s8_b1.mat", 2958, "PCKh@0.5", 0.8909),
        ("lsp/lsp-joints-OC.mat", "lsp/pred_keypoints_lsp_oc.mat", 1000, "PCK@0.2", 0.815),
    )
    for truth, arrays, count, name, published in cases:
        gt, predictions = read(real_data / truth), read(real_data / arrays)
        found = gather(gt, predictions)
        assert found.stats[name] == pytest.approx(published, abs=5e-5)
        assert found.key == data_key(gt)
        ids = found.table["annotation_id"].drop_null().to_pylist()
        assert len(ids) == len(set(ids)) == count
        assert "the predictions have no scores: all count as equally sure" in found.notes


def test_a_thousand_people():
    """Speed: 1,000 people with another model to compare take 0.3 s of one quiet core; 5,000 take 1 s."""
    gt = synthesize(330, seed=3)
    first, second = (simulate_predictions(gt, seed=seed)[0] for seed in (1, 2))
    start = time.process_time()
    people = gather(gt, first, compare=second)
    assert len(people.table) > 1000
    assert time.process_time() - start < 5
