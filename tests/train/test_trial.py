"""What is seen before a training: inputs and targets, empty targets by count, speed; and whether a net can learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

import torch

from kpdata import converters, synthesize
from kpdata.draw import load_image
from kpdata.synth import write_images
from kpdata.train.config import Config, SourceConfig
from kpdata.train.logs import take
from kpdata.train.setup import set_up
from kpdata.train.trial import LEARNT, dry_run, input_sheet, overfit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    made = synthesize(8, seed=5, people=(1, 1), size=(96, 96), objects=0.0)
    write_images(made, folder / "images")
    converters.write(made, folder / "a.json", "coco", allow_lossy=True)
    return folder / "a.json"


def config(people: Path, out: Path, **values: Any) -> Config:
    usual = {"model": "hrnet_tiny", "size": (64, 64), "batch": 4, "workers": 0, "device": "cpu", "preset": "none"}
    return Config(data=(SourceConfig(people),), out=out, **{**usual, **values})


def test_a_dry_run_counts_empty_targets(people, tmp_path):
    """The shares equal a count by hand of the labels whose Gaussian touches the map; nothing is trained."""
    found = dry_run(config(people, tmp_path / "run", epochs=10))
    setup = set_up(config(people, tmp_path / "x"), say=lambda text: None)
    batch = take(setup.crops, [(0, i) for i in range(8)])
    maps, _ = setup.spec.codec.encode(batch.keypoints.numpy(), batch.visibility.numpy())
    empty = {
        name: sum(maps[i, k].max() == 0 for i in range(8)) / 8
        for k, name in enumerate(setup.spec.skeleton.keypoint_names)
    }
    assert found.empty == pytest.approx(empty)
    assert found.looked == found.people == 8
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run.png"]
    each = 1 / found.loader + 1 / found.step
    assert found.seconds == pytest.approx(10 * 8 * each)
    assert found.memory > 4 * 4 * found.parameters


def test_a_dry_run_shows_inputs_and_targets(people, tmp_path):
    """Two panels a person, shown four times as large as the 64 px that the network gets."""
    found = dry_run(config(people, tmp_path / "run"))
    assert found.input_size == (64, 64)
    assert found.heatmap_size == (16, 16)
    sheet = load_image(found.picture)
    assert sheet.shape[1] > 4 * (2 * 256)
    setup = set_up(config(people, tmp_path / "x"), say=lambda text: None)
    batch = take(setup.crops, [(0, 0)])
    hidden = replace(batch, visibility=torch.zeros_like(batch.visibility))
    with_targets, without = (input_sheet(setup, one).astype(int) for one in (batch, hidden))
    changed = np.abs(with_targets - without).max(axis=2) > 0
    assert changed[:, changed.shape[1] // 2 :].any()  # the heat is gone
    assert changed[:, : changed.shape[1] // 2].any()  # and so are the points


def test_a_net_learns_two_people(people, tmp_path):
    """It says how long it may take before it begins, and ends when it has passed; nothing is written."""
    said: list[str] = []
    found = overfit(config(people, tmp_path / "run", sigma=1.5, lr=3e-3), 2, steps=200, say=said.append)
    assert found.passed
    assert found.pck >= LEARNT
    assert found.loss < found.first_loss / 4
    assert found.steps < 200
    assert next(i for i, text in enumerate(said) if "at most 200 steps: about" in text) < next(
        i for i, text in enumerate(said) if text.startswith("step ")
    )
    assert not (tmp_path / "run").exists()


def test_a_trial_that_cannot_pass_says_so(people, tmp_path):
    """Three steps are not enough; neither is a learning rate that is far too low."""
    found = overfit(config(people, tmp_path / "run", lr=1e-9), 4, steps=3)
    assert not found.passed
    assert (found.people, found.steps) == (4, 3)


def test_more_people_than_a_batch_are_learnt_in_parts(people, tmp_path):
    """The gradient of two batches of a step is that of both together: the loss of the first step is the mean."""
    whole = overfit(config(people, tmp_path / "run", batch=8), 6, steps=1)
    parts = overfit(config(people, tmp_path / "run", batch=3), 6, steps=1)
    assert parts.first_loss == pytest.approx(whole.first_loss, rel=0.2)  # batch norm sees other batches
