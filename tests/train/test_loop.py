"""The loop: steps are the textbook's, nothing waits within one, and every way to end is told in a sentence."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kpdata.errors import TrainError  # noqa: E402
from kpdata.train import loop as training  # noqa: E402
from kpdata.train import watch  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import SourceConfig  # noqa: E402
from kpdata.train.loop import fit  # noqa: E402
from tests.train.loops import (  # noqa: E402
    BATCH,
    PEOPLE,
    SPEC,
    InMemory,
    assert_equal,
    config,
    contents,
    make_run,
    resumed,
    small_net,
    validator,
)
from tests.train.loops import one_thread as one_thread  # noqa: E402  (for all tests here)

# ------------------------------------------------------------------------------------------------------------ learning


def test_it_learns(tmp_path: Path) -> None:
    """Maps of dots are learned: the mean loss of the last epoch is far below that of the first."""
    lines: list[dict[str, Any]] = []
    result = fit(make_run(config(tmp_path, epochs=12, lr=2e-2), log=lines.append))
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert result.reason == "finished"
    assert result.steps == 12 * PEOPLE // BATCH
    assert result.loss < 0.5 * losses[0]
    assert [line["event"] for line in lines] == ["start", *["train"] * 12, "end"]
    assert lines[0]["narrow"] == 0  # of a CPU
    json.dumps(lines)


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_a_step_is_the_textbook_one(tmp_path: Path, limit: float | None) -> None:
    """Two batches accumulated, and clipped, equal the gradients of both together and a step of torch.optim.Adam."""
    net = small_net()
    fit(make_run(config(tmp_path, epochs=1, accumulate=2, clip=limit, lr=1e-2), net, InMemory(people=8)))
    expected = small_net()
    adam = torch.optim.Adam(expected.parameters(), lr=1e-2)
    loss = torch.zeros(())
    for batch in InMemory(people=8):
        images, targets, weights = training.prepare(batch, SPEC)
        each = 0.5 * ((expected(images) - targets) * weights[..., None, None]).square().mean()
        loss = loss + each / 2
    loss.backward()
    if limit is not None:
        nn.utils.clip_grad_norm_(expected.parameters(), limit)
    adam.step()
    for (name, ours), theirs in zip(net.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
        torch.testing.assert_close(ours, theirs, msg=name)


def test_the_rest_of_an_epoch_is_a_step(tmp_path: Path) -> None:
    """Six batches in groups of four make two steps an epoch; the last divides by its own two batches."""
    lines: list[dict[str, Any]] = []
    result = fit(make_run(config(tmp_path, epochs=2, accumulate=4), log=lines.append))
    assert result.steps == 4
    assert lines[0]["steps"] == 4


# ------------------------------------------------------------------------------------------------------- ways to end


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    """As Ctrl-C: the step is finished, the file is there, the last line names it; handlers are put back."""
    loader, lines = InMemory(), []
    loader.after = lambda given: os.kill(os.getpid(), signal.SIGTERM) if given == 8 else None
    before = signal.getsignal(signal.SIGTERM)
    result = fit(make_run(config(tmp_path), loader=loader, log=lines.append))
    assert (result.reason, result.steps, result.epochs) == ("interrupted", 8, 1)
    assert f"--resume {tmp_path / 'last.pt'}" in lines[-1]["hint"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_patience_ends_it(tmp_path: Path) -> None:
    """Two evaluations in a row that are not better stop it; equal is not better, NaN never."""
    scores = iter([0.5, 0.6, 0.6, math.nan, 0.9])
    settings = replace(config(tmp_path, epochs=9, val=(SourceConfig(Path("val.kp")),)), patience=2)
    result = fit(make_run(settings, validate=lambda net: {"AP": next(scores)}))
    assert (result.reason, result.epochs, result.best_epoch) == ("early stop", 4, 1)


def test_a_tie_is_decided_by_the_loss(tmp_path: Path) -> None:
    """AP is 0 for a while in every training: a smaller loss is better then, a larger AP always."""
    numbers = iter([(0.0, 3.0), (0.0, 2.0), (0.0, 4.0), (0.1, 9.0)])
    lines: list[dict[str, Any]] = []
    run = make_run(
        config(tmp_path, epochs=4), validate=lambda net: dict(zip(("AP", "loss"), next(numbers), strict=True)),
        log=lines.append,
    )  # fmt: skip
    fit(run)
    assert [line["better"] for line in lines if line["event"] == "evaluation"] == [True, True, False, True]


def test_evaluations_come_every_n_epochs_and_at_the_end(tmp_path: Path) -> None:
    """Every 2 of 5 epochs: after epochs 1, 3 and 4, counted from 0; each has its picture."""
    lines: list[dict[str, Any]] = []
    pictures: list[int] = []
    settings = config(tmp_path, epochs=5, eval_every=2)
    fit(make_run(settings, validate=validator(), log=lines.append, picture=lambda net, epoch: pictures.append(epoch)))
    assert [line["epoch"] for line in lines if line["event"] == "evaluation"] == pictures == [1, 3, 4]


def test_an_evaluation_that_fails_does_not_lose_the_epoch(tmp_path: Path) -> None:
    """What it raised is raised, and `last.pt` has the whole epoch, whose evaluation resuming does."""
    settings = config(tmp_path, epochs=2)

    def fails(net: nn.Module) -> dict[str, float]:
        raise TrainError("a picture of val is broken")

    with pytest.raises(TrainError, match="picture of val"):
        fit(make_run(settings, validate=fails))
    lines: list[dict[str, Any]] = []
    result = resumed(settings, validate=validator(), log=lines.append)
    assert result.steps == 2 * PEOPLE // BATCH
    assert [(line["event"], line["epoch"]) for line in lines[:2]] == [("start", 0), ("evaluation", 0)]


def test_a_broken_picture_does_not_lose_the_epoch(tmp_path: Path) -> None:
    """The error of the loader is told with how to go on; once mended, the training ends as if nothing had been."""
    loader, settings = InMemory(), config(tmp_path / "parts")

    def breaks(given: int) -> None:
        if given == 9:
            raise TrainError("7.jpg: is empty", hint="is the file whole?")

    loader.after = breaks
    with pytest.raises(TrainError, match=r"7\.jpg: is empty") as caught:
        fit(make_run(settings, loader=loader))
    assert caught.value.hint.startswith(f"is the file whole?; --resume {tmp_path / 'parts/last.pt'}")
    assert load_checkpoint(tmp_path / "parts/last.pt").state["step"] == 8
    resumed(settings)
    fit(make_run(config(tmp_path / "whole")))
    assert_equal(contents(tmp_path / "whole/last.pt"), contents(tmp_path / "parts/last.pt"))


def test_a_loss_that_is_not_finite_names_the_images(tmp_path: Path) -> None:
    """The first batch with a bad loss is named, not the last; the checkpoint of before is not overwritten."""

    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, images: Any) -> Any:
            white = (images.mean(dim=(1, 2, 3)) > 2.0).float()
            return self.net(images) / (1 - white.amax())

    loader = InMemory()
    loader.spoil = 9
    with pytest.raises(TrainError, match=r"epoch 1, step 8: the loss is (nan|inf); images") as caught:
        fit(make_run(config(tmp_path), Overflows(), loader))
    order = np.random.default_rng([1, 1]).permutation(PEOPLE)
    assert f"images {', '.join(str(i + 1000) for i in order[8:12])}" in caught.value.message
    assert "--lr" in caught.value.hint
    assert str(tmp_path / "last.pt") not in caught.value.hint  # nothing had been saved yet
    assert not (tmp_path / "last.pt").exists()


def test_too_little_memory_says_which_batch_to_try(tmp_path: Path) -> None:
    """torch's own errors, on both kinds of devices, become a sentence; others stay what they are."""
    broken_off = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    broken_off.__context__ = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    for error, match in (
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory"),
            r"too little memory for hrnet_tiny at 64 x 64.*--batch 2 --acc",
        ),
        (broken_off, "--batch 2 --accumulate 2"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "--batch 2 --accumulate 2",
        ),
        (RuntimeError("shapes differ"), "shapes differ"),
    ):

        class Fails(nn.Module):
            def __init__(self, error: Exception) -> None:
                super().__init__()
                self.weight, self.error = nn.Parameter(torch.zeros(1)), error

            def forward(self, images: Any) -> Any:
                raise self.error

        with pytest.raises(RuntimeError if "shapes" in match else TrainError, match=match):
            fit(make_run(config(tmp_path), Fails(error)))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"keypoint_weights": {"nose": 2.0}}, "keypoint_weights name nose.*left_hand"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"graph": True}, "CUDA graph, and this training runs on cpu"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, Any], match: str) -> None:
    """No option is taken and ignored."""
    with pytest.raises(TrainError, match=match):
        fit(make_run(config(tmp_path, **values)))


# ----------------------------------------------------------------------------------------------------------- no waiting


class Waits(TorchDispatchMode):
    """Counts what fetches values from a device: `.item()`, `nonzero`, and copies that would leave it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.def")):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    """With ledger, average, clipping and keypoint weights, no step and no look at the losses fetches a value."""
    settings = config(
        tmp_path, epochs=1, ledger=True, ema=0.9, clip=1.0, loss="ohkm", hard=2, keypoint_weights={"head": 2.0}
    )
    found = []
    for people in (PEOPLE, PEOPLE * 8):
        ids = np.arange(people)
        run = replace(make_run(settings, loader=InMemory(people)), annotation_ids=ids, image_ids=ids)
        loop = training.Loop(run)
        with watch.Interruption() as stop, Waits() as waits:
            loop.train_epoch(stop)
        found.append(waits.found)
    assert found == [[], []]


def test_the_counter_of_waits_would_notice() -> None:
    """The mode above sees an `.item()`."""
    with Waits() as waits:
        torch.ones(3).sum().item()
    assert waits.found


class Parted(nn.Module):
    """A network of one part."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, images: Any) -> Any:
        return self.net(images)

    def parts(self) -> list[nn.Module]:
        return [self]


def test_compiled_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --compile each part goes through torch.compile in training, none in an evaluation, and the numbers stay."""
    whole, seen = training.fast.compile_parts, []

    def traced(graph: Any, inputs: Any) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(training.fast, "compile_parts", lambda net: whole(net, backend=traced))
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        settings = config(tmp_path / str(compile), epochs=1, ema=0.9, compile=compile)
        net = Parted()
        results.append(fit(make_run(settings, net, InMemory(people=8), validate=validator())))
        assert len(seen) == compile
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert results[1].metrics == pytest.approx(results[0].metrics, rel=1e-3)


def test_bf16_trains_with_a_float32_loss(tmp_path: Path) -> None:
    """Autocast is for the network alone; the weights stay float32."""
    net = small_net()
    seen: list[Any] = []
    net.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
    result = fit(make_run(config(tmp_path, epochs=1, precision="bf16"), net))
    assert seen[0] == (torch.float32, torch.bfloat16)
    assert math.isfinite(result.loss)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_it_says_how_fast_it_is_and_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves 3 seconds a batch of the loader and 1 a forward pass: 4 people in 4 s, 75 % waiting."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def tick(seconds: float) -> None:
        clock[0] += seconds

    loader, net = InMemory(), small_net()
    loader.after = lambda given: tick(3)
    net.register_forward_hook(lambda *_: tick(1))
    lines: list[dict[str, Any]] = []
    result = fit(make_run(config(tmp_path, epochs=1), net, loader, log=lines.append))
    assert (result.waits, result.images_per_second) == pytest.approx((0.75, BATCH / 4))
    told = [line for line in lines if line["event"] == "train"]
    assert len(told) > 1  # a look every 5 seconds
    assert all(line["images_per_second"] == pytest.approx(1) for line in told)
