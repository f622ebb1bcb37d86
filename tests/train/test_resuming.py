"""Resuming is exact: a training that was interrupted ends as if nothing had been."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402

from kpdata import synthesize  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.ledger import read_ledger  # noqa: E402
from kpdata.train.loop import fit  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.run import Result, Run  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from kpdata.train.validation import Validator  # noqa: E402
from tests.train.loops import (  # noqa: E402
    PEOPLE,
    SPEC,
    InMemory,
    assert_equal,
    config,
    contents,
    interrupted,
    make_run,
    resumed,
    small_net,
    validator,
)
from tests.train.loops import one_thread as one_thread  # noqa: E402  (for all tests here)


@pytest.mark.parametrize("after", [2, 9, 12, 13])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_is_exact(tmp_path: Path, after: int, ema: float | None) -> None:
    """Interrupted within or between epochs, a training ends with the same bits: weights, optimiser, average, ledger."""
    values: dict[str, Any] = {"ema": ema, "ledger": True, "epochs": 3, "optimizer": "adamw", "weight_decay": 0.1}
    whole = fit(make_run(config(tmp_path / "whole", **values), validate=validator()))
    settings = config(tmp_path / "parts", **values)
    first = interrupted(settings, after, validate=validator())
    assert first.reason == "interrupted"
    assert first.steps == after
    second = resumed(settings, validate=validator())
    assert (second.reason, second.steps, second.best, second.loss) == ("finished", 18, whole.best, whole.loss)
    assert_equal(contents(tmp_path / "whole/last.pt"), contents(tmp_path / "parts/last.pt"))
    assert_equal(contents(tmp_path / "whole/best.pt"), contents(tmp_path / "parts/best.pt"))
    books = [read_ledger(tmp_path / name) for name in ("whole", "parts")]
    assert books[0].epochs.tolist() == np.repeat([0, 1, 2], PEOPLE).tolist()
    for column in ("annotation_ids", "image_ids", "epochs", "losses"):
        np.testing.assert_array_equal(getattr(books[0], column), getattr(books[1], column))


def test_resuming_the_real_thing_is_exact(tmp_path: Path) -> None:
    """hrnet_tiny on augmented crops of pictures, two workers, accumulation, average, ledger and the evaluator: stopped
    in the middle of the second epoch, it ends with the same bits."""
    pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")
    dataset = synthesize(6, seed=1, size=(160, 120), people=(1, 2))
    write_images(dataset, tmp_path / "pictures")
    sources = [Source(dataset, tmp_path / "pictures")]
    bones = dataset.skeleton
    spec = NetworkSpec("hrnet_tiny", bones, HeatmapCodec(input_size=(64, 64)))

    def train(out: str, limit: int | None, resume: Path | None = None) -> Result:
        torch.manual_seed(0 if resume is None else 5)
        settings = config(tmp_path / out, epochs=2, ema=0.99, accumulate=2, ledger=True, batch=2, max_steps=limit)
        crops = Crops(sources, bones, hrnet(size=(64, 64)), seed=3)
        plain = Crops(sources, bones, hrnet(size=(64, 64)), augment=False)
        loader = make_loader(crops, batch=2, workers=2, drop_last=False)
        run = Run(
            settings, spec, build("hrnet_tiny", len(bones)), loader, validate=Validator(plain, sources, spec),
            annotation_ids=crops.people.annotation_ids, image_ids=crops.people.image_ids,
        )  # fmt: skip
        return fit(run, None if resume is None else load_checkpoint(resume))

    whole = train("whole", None)
    limit = whole.steps // 2 + 1
    first = train("parts", limit)
    assert (first.reason, first.epochs, first.steps) == ("step limit", 1, limit)
    # An evaluation at the limit is one more than the whole training had: its checkpoint is left, its numbers are not.
    second = train("parts", None, tmp_path / "parts/last.pt")
    assert second.steps == whole.steps
    assert second.metrics == whole.metrics
    one, other = (contents(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for key in ("best", "best_epoch", "worse"):
        one["state"].pop(key), other["state"].pop(key)
    assert_equal(one, other)
    books = [read_ledger(tmp_path / name) for name in ("whole", "parts")]
    np.testing.assert_array_equal(books[0].losses, books[1].losses)
    np.testing.assert_array_equal(books[0].annotation_ids, books[1].annotation_ids)
    assert len(books[0].losses) == 2 * len(dataset)


def test_the_best_survives_resuming(tmp_path: Path) -> None:
    """A resumed training whose numbers are worse does not replace `best.pt`, nor forget the value to beat."""
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.6])
    settings = config(tmp_path, epochs=3)
    fit(make_run(settings, validate=lambda net: {"AP": next(scores)}))
    before = (tmp_path / "best.pt").read_bytes()
    result = resumed(replace(settings, epochs=5), validate=lambda net: {"AP": next(scores)})
    assert (result.best, result.best_epoch, result.metrics) == ({"AP": 0.9}, 1, {"AP": 0.6})
    assert (tmp_path / "best.pt").read_bytes() == before
    assert load_checkpoint(tmp_path / "best.pt").metrics == {"AP": 0.9}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_batch_norms_are_told_how_many_batches_there_were(tmp_path: Path, ema: float | None) -> None:
    """As torch's own count them: every batch of every epoch, accumulated ones too, before and after resuming."""
    settings = config(tmp_path, epochs=2, accumulate=2, ema=ema, max_steps=2)
    fit(make_run(settings, small_net(), InMemory(people=16), validate=lambda net: {"AP": 0.1}))
    assert _counts(tmp_path / "last.pt") == {4}
    net = small_net()
    run = make_run(replace(settings, max_steps=None), net, InMemory(people=16), validate=lambda net: {"AP": 0.2})
    fit(run, load_checkpoint(tmp_path / "last.pt"))
    assert _counts(tmp_path / "last.pt") == _counts(tmp_path / "best.pt") == {8}
    assert {int(b) for n, b in net.state_dict().items() if n.endswith("num_batches_tracked")} == {8}


def _counts(path: Path) -> set[int]:
    return {int(b) for n, b in load_checkpoint(path).weights.items() if n.endswith("num_batches_tracked")}


def test_best_is_for_use_and_last_for_going_on(tmp_path: Path) -> None:
    """`best.pt` has no state, and resuming it says which file to take."""
    settings = config(tmp_path, epochs=1)
    fit(make_run(settings, validate=validator()))
    best = load_checkpoint(tmp_path / "best.pt")
    assert best.state is None
    with pytest.raises(TrainError, match=r"for use, not a training.*last\.pt"):
        fit(make_run(settings), best)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    """What differs is named: the place in an epoch would mean other people."""
    fit(make_run(config(tmp_path, epochs=1)))
    found = load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(TrainError, match=r"batches_per_epoch 6, not 12.*batch 4, not 2"):
        fit(make_run(config(tmp_path, batch=2), loader=InMemory(batch=2)), found)
    with pytest.raises(TrainError, match="hrnet_tiny, not hrnet_w32"):
        fit(replace(make_run(config(tmp_path)), spec=SPEC.changed(model="hrnet_w32")), found)


def test_an_interrupted_evaluation_is_done_again(tmp_path: Path) -> None:
    """Ctrl-C within an evaluation loses neither the epoch nor its evaluation."""
    calls = []

    def validate(net: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        return validator()(net)

    settings = config(tmp_path / "parts", ledger=True)
    assert fit(make_run(settings, validate=validate)).reason == "interrupted"
    lines: list[dict[str, Any]] = []
    resumed(settings, validate=validate, log=lines.append)
    fit(make_run(config(tmp_path / "whole", ledger=True), validate=validator()))
    assert [line["epoch"] for line in lines if line["event"] == "evaluation"] == [1, 2]
    assert_equal(contents(tmp_path / "whole/last.pt"), contents(tmp_path / "parts/last.pt"))
