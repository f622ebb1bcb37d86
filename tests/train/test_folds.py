"""Out of fold: nobody is predicted by a network that has seen them, and wrong labels are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

import torch

from kpdata import read, schema, synthesize
from kpdata.dataset import Dataset
from kpdata.errors import DestinationExists, TrainError
from kpdata.synth import write_images
from kpdata.train import folds as module
from kpdata.train.checkpoint import Checkpoint, save_checkpoint
from kpdata.train.config import Config, SourceConfig
from kpdata.train.folds import folds
from kpdata.train.ledger import read_ledger, write_epoch
from kpdata.train.lint import read_source
from kpdata.train.mixed import skeletons_of, union
from kpdata.train.models import build
from kpdata.train.spec import NetworkSpec
from kpdata.train.validation import Validator

torch.set_num_threads(1)
WRONG = (3, 17, 40)


def ids_of(dataset: Dataset) -> list[int]:
    return schema.values(dataset.persons["annotation_id"]).tolist()


def exchanged(dataset: Dataset, rows: tuple[int, ...]) -> Dataset:
    """Left and right of some people exchanged by a tired annotator."""
    twin, xy, seen = dataset.skeleton.flip_index(), dataset.keypoints.copy(), dataset.visibility.copy()
    for row in rows:
        xy[row], seen[row] = xy[row][twin], seen[row][twin]
    persons = dataset.persons
    for name, column in (
        ("keypoints", schema.rows(xy.reshape(len(xy), -1))), ("visibility", schema.rows(seen, kind=pa.int8())),
    ):  # fmt: skip
        place = persons.schema.get_field_index(name)
        persons = persons.set_column(place, schema.PERSONS.field(name), column)
    return replace(dataset, persons=persons)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """60 people in 60 pictures, of whom three are labelled wrong; the truth, and the folder of both."""
    folder = tmp_path_factory.mktemp("people")
    truth = synthesize(60, seed=5, people=(1, 1), size=(96, 96), objects=0.0, truncation=0.0, height=(0.7, 0.9))
    write_images(truth, folder / "images")
    exchanged(truth, WRONG).save(folder / "people.kp")
    return truth, folder


def config(folder: Path, out: Path, **values: Any) -> Config:
    usual = {"model": "hrnet_tiny", "size": (64, 64), "batch": 4, "workers": 0, "device": "cpu", "flip_test": False}
    data = (SourceConfig(folder / "people.kp", folder / "images"),)
    return Config(**{"data": data, "out": out, **usual, **values})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, people: tuple[Dataset, Path]) -> list[Config]:
    """A trainer that learns at once: it writes what a training leaves, and its network knows the truth within 2 px.

    The configs of its trainings; those whose `epochs` is 13 are interrupted.
    """
    truth, _ = people
    known = dict(zip(ids_of(truth), np.nan_to_num(truth.keypoints, nan=20.0), strict=True))
    seen: list[Config] = []

    def train(setting: Config, **_: Any) -> Any:
        seen.append(setting)
        reads = [read_source(one) for one in setting.data]
        spec = NetworkSpec(setting.model, union(skeletons_of([one.source for one in reads])), setting.codec)
        weights = dict(build(setting.model, len(spec.skeleton)).state_dict())
        save_checkpoint(setting.out / "last.pt", Checkpoint(spec, weights, {}, setting.to_json(), None))
        if setting.epochs == 13:
            return SimpleNamespace(reason="interrupted")
        ids = np.concatenate([ids_of(one.source.dataset) for one in reads])
        losses = np.tile(np.where(np.isin(ids, np.array(ids_of(truth))[[9]]), 5.0, 1.0)[:, None], len(spec.skeleton))
        write_epoch(
            setting.out / "ledger", setting.epochs - 1, ids, ids, losses + len(seen), spec.skeleton.keypoint_names
        )
        (setting.out / "run.json").write_text(json.dumps({"result": {"reason": "finished", "steps": 5}}))
        return SimpleNamespace(reason="finished")

    def predict(self: Validator, net: Any) -> Any:
        rng = np.random.default_rng(0)
        points = np.stack([known[i] for i in self.crops.people.annotation_ids.tolist()])
        shape = points.shape[:2]
        return points + rng.normal(0, 0.7, points.shape), rng.uniform(0.8, 0.95, shape), np.zeros(shape[0])

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(Validator, "predict", predict)
    return seen


def test_nobody_is_predicted_by_who_has_seen_them(stand_in, people, tmp_path):
    """Each training lacks a third of the pictures, everybody is held out once, and all predictions are for everybody:
    under their own ids, in the order of the data."""
    _, folder = people
    found = folds(config(folder, tmp_path / "out"), 3)
    data = read(folder / "people.kp")
    learnt = [set(ids_of(read(one.data[0].path))) for one in stand_in]
    assert [len(ids) for ids in learnt] == [40, 40, 40]
    assert sum((np.isin(ids_of(data), list(ids)).astype(int) for ids in learnt), np.zeros(60)).tolist() == [2] * 60
    assert [(f.number, f.trained, f.held) for f in found.folds] == [(1, 40, 20), (2, 40, 20), (3, 40, 20)]
    written = read(found.parts[0].path)
    assert ids_of(written) == ids_of(data)
    assert schema.same(written.persons["image_id"], data.persons["image_id"])
    assert np.linalg.norm(written.keypoints - np.nan_to_num(people[0].keypoints, nan=20.0), axis=2).max() < 5


def test_wrong_labels_come_first(stand_in, people, tmp_path):
    """The three people with exchanged sides are the three most suspicious, before 57 right ones."""
    truth, folder = people
    part = folds(config(folder, tmp_path / "out"), 3).parts[0]
    rows = part.suspects.to_pylist()
    first = list(dict.fromkeys(row["annotation_id"] for row in rows))[:3]
    assert set(first) == {ids_of(truth)[row] for row in WRONG}
    assert rows[0]["kind"] == "left_right"
    assert rows[0]["score"] > 0.5
    assert 0.7 < part.stats["AP"] < 0.97  # 5 % of the people cannot be right


def test_the_ledgers_become_one(stand_in, people, tmp_path):
    """Each person's loss is the mean of the two trainings that learnt from them; the hardest leads."""
    truth, folder = people
    found = folds(config(folder, tmp_path / "out", epochs=2), 3)
    one = read_ledger(tmp_path / "out")
    assert sorted(one.annotation_ids.tolist()) == sorted(ids_of(truth))
    learnt = [ids_of(read(setting.data[0].path)) for setting in stand_in]
    for person, losses in zip(one.annotation_ids.tolist(), one.losses, strict=True):
        own = 5.0 if person == ids_of(truth)[9] else 1.0
        expected = np.mean([own + number for number, ids in enumerate(learnt, 1) if person in ids])
        assert losses == pytest.approx(expected)
    assert found.hardest is not None
    assert found.hardest["annotation_id"][0].as_py() == ids_of(truth)[9]


def test_finished_folds_are_not_trained_again(stand_in, people, tmp_path):
    """Interrupted in one fold: the others stay, that one goes on from its checkpoint; other values are refused."""
    _, folder = people
    setting = config(folder, tmp_path / "out")
    folds(setting, 3)
    assert len(stand_in) == 3
    (tmp_path / "out" / "fold-2" / "run.json").unlink()
    again = folds(setting, 3)
    assert again.finished
    assert [one.out.name for one in stand_in[3:]] == ["fold-2"]
    assert stand_in[3].resume == tmp_path / "out" / "fold-2" / "last.pt"
    assert folds(setting, 3).folds[1].held == 20
    assert len(stand_in) == 4
    with pytest.raises(DestinationExists, match=r"folds of other values \(lr\)") as told:
        folds(replace(setting, lr=0.1), 3)
    assert "--force" in told.value.hint
    folds(replace(setting, lr=0.1), 3, force=True)
    assert len(stand_in) == 7
    assert stand_in[4].resume is None


def test_interrupted(stand_in, people, tmp_path):
    """Ctrl-C in the first fold: nothing else is trained, and nothing is said of the labels."""
    _, folder = people
    found = folds(config(folder, tmp_path / "out", epochs=13), 3)
    assert (found.finished, found.parts, found.hardest) == (False, (), None)
    assert len(stand_in) == 1


def test_pictures_of_one_value_stay_together(stand_in, people, tmp_path):
    """by a column: no value is learnt from and held out by the same training."""
    truth, folder = people
    place = truth.images.schema.get_field_index("video_id")
    videos = schema.strings([f"v{i // 6}" for i in range(60)])
    data = replace(truth, images=truth.images.set_column(place, schema.IMAGES.field("video_id"), videos))
    data.save(tmp_path / "videos.kp")
    source = (SourceConfig(tmp_path / "videos.kp", folder / "images"),)
    folds(config(folder, tmp_path / "out", data=source), 2, by="video_id")
    learnt = [set(schema.texts(read(one.data[0].path).images["video_id"])) for one in stand_in]
    assert not learnt[0] & learnt[1]
    assert learnt[0] | learnt[1] == {f"v{i}" for i in range(10)}


def test_several_sources(stand_in, people, tmp_path):
    """As COCO and as MPII would have them: each has predictions of its own, on its skeleton, under its ids."""
    truth, folder = people
    mpii = synthesize(
        60, seed=5, people=(1, 1), size=(96, 96), objects=0.0, truncation=0.0, height=(0.7, 0.9), skeleton="mpii_16"
    )
    mpii.save(tmp_path / "mpii.kp")
    sources = (*config(folder, tmp_path).data, SourceConfig(tmp_path / "mpii.kp", folder / "images", weight=0.5))
    wide = union([truth.skeleton, mpii.skeleton])
    points = np.full((60, len(wide), 2), 20.0)
    points[:, :17] = np.nan_to_num(truth.keypoints, nan=20.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Validator, "predict",
            lambda self, net: (
                np.stack([points[ids_of(truth).index(i)] for i in self.crops.people.annotation_ids.tolist()]),
                np.full((len(self.crops), len(wide)), 0.9), np.zeros(len(self.crops)),
            ),
        )  # fmt: skip
        found = folds(config(folder, tmp_path / "out", data=sources), 2)
    assert [one.path.name for one in found.parts] == ["out-of-fold-1.kp", "out-of-fold-2.kp"]
    assert [read(one.path).skeleton.name for one in found.parts] == ["coco_17", "mpii_16"]
    assert ids_of(read(found.parts[1].path)) == ids_of(mpii)
    assert [one.weight for one in stand_in[0].data] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("values", "count", "words"),
    [
        ({}, 1, "1 folds, expected 2 or more"),
        ({"resume": Path("last.pt")}, 3, "resume and folds are both given"),
        ({}, 61, "60 images, expected at least 61"),
    ],
)
def test_what_cannot_be(stand_in, people, tmp_path, values, count, words):
    """A sentence, and nothing is written."""
    with pytest.raises(Exception, match=words) as told:
        folds(config(people[1], tmp_path / "out", **values), count)
    assert type(told.value).__module__ == "kpdata.errors"
    assert not (tmp_path / "out").exists()


def test_a_training_in_the_folder_stays(stand_in, people, tmp_path):
    """Folds do not move in where a training of its own lies, whatever --force says."""
    (tmp_path / "best.pt").touch()
    with pytest.raises(TrainError, match="a training of its own"):
        folds(config(people[1], tmp_path), 2, force=True)


def test_weak_networks_say_less_and_say_so(stand_in, people, tmp_path, monkeypatch):
    """Where half of the keypoints are wrong no label is contradicted surely; who is listed is listed for exchanged
    sides, more often than chance (5 %) rightly."""
    truth, folder = people
    good = Validator.predict

    def predict(self: Validator, net: Any) -> Any:
        points, scores, losses = good(self, net)
        rng = np.random.default_rng(len(points) + int(self.crops.people.annotation_ids[0]))
        far = rng.normal(0, 12, points.shape) * (rng.random(points.shape[:2]) < 0.5)[..., None]
        return points + far, scores, losses

    monkeypatch.setattr(Validator, "predict", predict)
    part = folds(config(folder, tmp_path / "out"), 3).parts[0]
    assert any("wrong too often" in note for note in part.notes)
    rows = part.suspects.to_pylist()
    assert {row["kind"] for row in rows} == {"left_right"}
    wrong = {ids_of(truth)[row] for row in WRONG}
    assert sum(row["annotation_id"] in wrong for row in rows) / len(rows) > 0.15
    assert {row["annotation_id"] for row in rows[:4]} & wrong
