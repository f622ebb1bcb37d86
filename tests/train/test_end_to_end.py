"""Data in, a network out that finds people: short forms of what docs/train.md has figures of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

import torch

from kpdata import converters, read, synthesize
from kpdata.eval.evaluation import evaluate_oks
from kpdata.synth import write_images
from kpdata.train.config import Config, SourceConfig
from kpdata.train.predict import predict
from kpdata.train.predictor import Predictor
from kpdata.train.training import train


@pytest.fixture(autouse=True)
def one_thread():
    """Two that wait for each other are slower than one on a busy machine; what other tests set comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(data: Path, val: Path, out: Path, **values: Any) -> Config:
    usual = {
        "model": "hrnet_tiny", "preset": "none", "schedule": "cosine", "warmup": 20, "flip_test": False, "workers": 1,
        "device": "cpu", "eval_every": 1000,
    }  # fmt: skip
    return Config(data=(SourceConfig(data),), val=(SourceConfig(val),), out=out, **{**usual, **values})


def synthetic(folder: Path, images: int, seed: int) -> Path:
    made = synthesize(images, seed=seed, people=(1, 1), size=(96, 128), height=(0.7, 0.9), objects=0.0, truncation=0.0)
    write_images(made, folder / "images")
    converters.write(made, folder / "coco.json", "coco", allow_lossy=True)
    return folder / "coco.json"


def test_held_out_people_are_found(tmp_path):
    """A minute of training on synthetic people: more than half of the keypoints of others are within 0.2 torsos, where
    the untrained network finds few; and what `predict` writes of the same checkpoint scores the very same AP."""
    data, val = synthetic(tmp_path / "a", 500, 1), synthetic(tmp_path / "b", 24, 2)
    learnt = {"size": (64, 64), "target": "dark", "sigma": 1.0, "batch": 8, "lr": 2e-3, "epochs": 8}
    result = train(config(data, val, tmp_path / "run", **learnt))
    assert result.metrics["PCK@0.2"] >= 0.5
    truth = read(val)
    found = predict(Predictor(tmp_path / "run" / "best.pt", flip_test=False), truth, val.parent / "images")
    assert evaluate_oks(truth, found.people, metric="oks").stats["AP"] == pytest.approx(result.metrics["AP"], abs=1e-3)


def test_real_people_are_learnt_by_heart(tmp_path, real_data):
    """About a minute on two quiet cores: 86 people of 28 photographs of COCO, seen 54 times with DARK targets,
    are found with an AP of 0.6 and more; six minutes of it, at twice the pixels, are in docs/train.md."""
    folder = real_data / "coco_mini"
    people = SourceConfig(folder / "person_keypoints_train2017.json", folder / "train2017")
    learnt = {"size": (64, 96), "target": "dark", "sigma": 1.0, "batch": 11, "lr": 3e-3, "epochs": 54}
    setting = config(people.path, people.path, tmp_path / "run", **learnt)
    result = train(replace(setting, data=(people,), val=(people,)))
    assert result.metrics["AP"] >= 0.6
