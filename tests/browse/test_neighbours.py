"""The nearest training poses: equal to a loop over all of them, blind to place, size and mirror."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema
from kpdata.browse import neighbours
from kpdata.browse.neighbours import Poses, familiarity, framed, nearest
from kpdata.browse.page import write_page
from kpdata.browse.people import gather
from kpdata.browse.views import find
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.skeleton import Skeleton, load
from kpdata.synth import simulate_predictions, synthesize

COCO = load("coco_17")
TORSO = [COCO.keypoint_names.index(f"{side}_{part}") for part in ("shoulder", "hip") for side in ("left", "right")]


def some(count: int, seed: int, picture: int = -1) -> tuple[np.ndarray, np.ndarray, Poses]:
    rng = np.random.default_rng(seed)
    xy, labelled = rng.normal(200, 60, (count, 17, 2)), rng.random((count, 17)) < 0.8
    return xy, labelled, framed(xy, labelled, np.full(count, picture), COCO)


def frame(xy: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """One pose, written out: torso in the middle, its spread 1."""
    own = [k for k in TORSO if labelled[k]]
    own = own if len(own) >= 3 else list(np.flatnonzero(labelled))
    centre = np.mean([xy[k] for k in own], axis=0)
    spread = np.sqrt(np.mean([np.sum((xy[k] - centre) ** 2) for k in own]))
    return (xy - centre) / spread


def by_loop(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """The distance of two poses as the module's docstring has it, the nearer of the pose and its mirror image."""
    found, twin = [], COCO.flip_index()
    for mirror in (False, True):
        xy, mask = frame(*a), a[1]
        if mirror:
            xy, mask = xy[twin] * (-1, 1), mask[twin]
        other, terms = frame(*b), []
        for k in np.flatnonzero(mask):
            terms.append(float(np.sum((xy[k] - other[k]) ** 2)) if b[1][k] else 1.0)
        found.append(float(np.sqrt(np.mean(terms))))
    return min(found)


def test_the_nearest_are_those_of_a_loop(monkeypatch):
    """Rows and distances of the three nearest among all, over the edges of blocks."""
    monkeypatch.setattr(neighbours, "_QUERIES", 7)
    monkeypatch.setattr(neighbours, "_POSES", 16)
    xy, labelled, poses = some(90, 1)
    own, mask, asked = some(20, 2)
    found = nearest(asked, poses, twin=COCO.flip_index())
    for i in range(len(asked)):
        far = [by_loop((own[i], mask[i]), (xy[j], labelled[j])) for j in range(len(poses))]
        assert found.rows[i].tolist() == np.argsort(far)[:3].tolist()
        assert found.distance[i] == pytest.approx(np.sort(far)[:3])


def test_place_size_and_mirror_play_no_part():
    """A pose moved, larger and mirrored is itself: distance 0, told as a mirror image; without twins it is another."""
    xy, labelled, poses = some(50, 3)
    changed, seen = xy[7] * 3.7 * (-1, 1) + (1000, -40), labelled[7]
    twin = COCO.flip_index()
    asked = framed(changed[None, twin], seen[None, twin], np.array([-1]), COCO)
    found = nearest(asked, poses, twin=twin)
    assert (found.rows[0, 0], found.mirrored[0, 0]) == (7, True)
    assert found.distance[0, 0] == pytest.approx(0, abs=1e-9)
    assert len(set(found.rows[0].tolist())) == 3  # nobody twice, as both images
    assert nearest(asked, poses).distance[0, 0] > 0.1


def test_odd_cases():
    """The same picture does not count; fewer poses than asked for, or none; nobody asked; no labels, or on one spot."""
    xy, labelled, poses = some(2, 4, picture=5)
    asked = framed(xy, labelled, np.array([5, -1]), COCO)
    found = nearest(asked, poses)
    assert found.rows.tolist() == [[-1, -1, -1], [1, 0, -1]]
    assert np.isinf(found.distance[0]).all()
    assert nearest(asked, poses.take(np.zeros(2, bool))).rows.tolist() == [[-1] * 3] * 2
    assert nearest(asked.take(np.zeros(2, bool)), poses).rows.shape == (0, 3)
    spot = framed(np.full((1, 17, 2), 9.0), np.ones((1, 17), bool), np.array([-1]), COCO)
    assert nearest(spot, poses).rows.tolist() == [[-1] * 3]
    assert nearest(framed(xy, labelled & False, np.array([-1, -1]), COCO), poses).rows.max() == -1


@pytest.fixture(scope="module")
def train() -> Dataset:
    return synthesize(120, seed=11, people=(1, 2))


def upside_down(dataset: Dataset, rows: list[int]) -> Dataset:
    """The same people, some standing on their heads within their boxes."""
    xy = dataset.keypoints.copy()
    for row in rows:
        top, bottom = np.nanmin(xy[row, :, 1]), np.nanmax(xy[row, :, 1])
        xy[row, :, 1] = top + bottom - xy[row, :, 1]
    place = dataset.persons.schema.get_field_index("keypoints")
    column = schema.rows(xy.reshape(len(dataset), -1))
    return replace(dataset, persons=dataset.persons.set_column(place, schema.PERSONS.field(place), column))


def test_strange_poses_are_told(train, tmp_path):
    """Some people on their heads, badly predicted: they lead the view, and the page says who is nearest to them."""
    plain = synthesize(30, seed=12, people=(1, 1), truncation=0.0, objects=0.0)
    labels = (plain.visibility > 0).sum(1)
    strange = np.flatnonzero(labels >= 15)[:3].tolist()
    gt = upside_down(plain, strange)
    predictions, _ = simulate_predictions(gt, seed=1, miss=0.4, missed_people=0.0, false_positives=0.0)
    people = gather(gt, predictions, train=train)
    view = find(people, "never seen")
    ids = schema.values(gt.persons["annotation_id"])
    shown = schema.values(people.table["annotation_id"])[view.rows]
    assert set(shown[:3].tolist()) == set(ids[strange].tolist())
    table = people.table.to_pylist()
    row = table[int(view.rows[0])]
    assert row["novelty"] > 0.95
    assert set(row["train_ids"]) <= set(schema.values(train.persons["annotation_id"]).tolist())
    assert row["nearest"].startswith(f"nearest training poses: {row['train_ids'][0]}")
    usual = [one["novelty"] for one in table if one["novelty"] is not None and one["annotation_id"] not in shown]
    assert 0.25 < np.median(usual) < 0.85  # of the same distribution: as far as training poses from each other
    write_page(people, tmp_path / "p.html")
    assert json.dumps(row["nearest"]) in (tmp_path / "p.html").read_text()


def test_a_training_set_beside_itself(train):
    """Nobody is their own neighbour, nor is anyone of their picture."""
    table = gather(train).table
    columns, _ = familiarity(table, train.skeletons, train)
    picture = dict(zip(*(schema.values(train.persons[n]).tolist() for n in ("annotation_id", "image_id")), strict=True))
    rows = zip(schema.values(table["image_id"]).tolist(), columns["train_ids"].to_pylist(), strict=True)
    told = [(image, ids) for image, ids in rows if ids]
    assert len(told) > 50
    assert all(picture[one] != image for image, ids in told for one in ids)
    assert schema.values(columns["train_distance"], missing=1.0).min() > 0


def test_other_skeletons_and_none(train):
    """Poses of MPII are compared on what both have; a training without a common keypoint is a sentence."""
    mpii = synthesize(20, seed=11, people=(1, 1), skeleton="mpii_16")
    table = gather(train, train=mpii).table
    assert schema.valid(table["novelty"]).sum() > 50
    horse = Skeleton("horse", ("muzzle", "tail"))
    strangers = replace(
        mpii.select(persons=np.arange(0)), skeletons={"horse": horse}, persons=schema.table(schema.PERSONS, 0, {})
    )
    with pytest.raises(BrowseError, match="no labelled pose"):
        gather(train, train=strangers)


def test_few_labels_are_not_judged(train):
    """Fewer than five labelled keypoints say nothing of a pose: null."""
    flags = train.visibility.copy()
    flags[0, 4:] = 0
    place = train.persons.schema.get_field_index("visibility")
    column = schema.rows(flags, kind=pa.int8())
    few = replace(train, persons=train.persons.set_column(place, schema.PERSONS.field(place), column))
    table = gather(few, train=train).table
    row = schema.values(table["annotation_id"]).tolist().index(int(schema.values(few.persons["annotation_id"])[0]))
    assert table["novelty"][row].as_py() is None
    assert table["nearest"][row].as_py() is None
