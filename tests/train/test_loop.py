"""The loop: resuming is exact, nothing waits within a step, and every way to end is told in a sentence."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kpdata import synthesize  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train import loop as training  # noqa: E402
from kpdata.train import watch  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.hrnet import BatchNorm  # noqa: E402
from kpdata.train.ledger import read_ledger  # noqa: E402
from kpdata.train.loop import Loader, Result, Run, fit  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from kpdata.train.validation import Validator  # noqa: E402

BONES = Skeleton("three", ("head", "left_hand", "right_hand"), flip_pairs=frozenset({("left_hand", "right_hand")}))
SPEC = NetworkSpec("hrnet_tiny", BONES, HeatmapCodec(input_size=(64, 64)))
PEOPLE, BATCH = 24, 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The machine is shared, and bit-equality is promised for equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class InMemory:
    """A loader of bright dots on noise, drawn anew each epoch: people in an order that depends on the epoch."""

    def __init__(self, people: int = PEOPLE, batch: int = BATCH) -> None:
        self.people, self.batch, self.position = people, batch, (0, 0)
        self.spoil: int | None = None  # number of a batch whose keypoints make the loss infinite
        self.after: Any = None  # called with the number of batches that were given
        self.given = 0

    @property
    def per_epoch(self) -> int:
        return self.people // self.batch

    def __iter__(self) -> Iterator[Batch]:
        epoch, used = self.position
        order = np.random.default_rng([epoch, 1]).permutation(self.people)
        for at in range(used, self.people, self.batch):
            self.given += 1
            if self.after is not None:
                self.after(self.given)
            yield self.make(order[at : at + self.batch], epoch)

    def make(self, index: np.ndarray, epoch: int) -> Batch:
        rng = np.random.default_rng([epoch, int(index[0]), 2])
        count, k = len(index), len(BONES)
        xy = rng.uniform(8, 56, (count, k, 2))
        images = rng.integers(0, 60, (count, 64, 64, 3))
        for channel in range(k):  # a dot of its own colour for each keypoint
            x, y = xy[:, channel].round().astype(int).T
            images[np.arange(count)[:, None, None], y[:, None, None] + np.arange(-3, 4)[:, None],
                   x[:, None, None] + np.arange(-3, 4), channel] = 255  # fmt: skip
        if self.spoil is not None and self.given == self.spoil:
            images[0] = 255
        visibility = np.where(rng.random((count, k)) < 0.9, 2, 0).astype(np.int8)
        return Batch(
            images=torch.from_numpy(images.astype(np.uint8)),
            keypoints=torch.from_numpy(np.where(visibility[..., None] > 0, xy, np.nan).astype(np.float32)),
            visibility=torch.from_numpy(visibility),
            known=torch.ones(count, k, dtype=torch.bool),
            source=torch.zeros(count, dtype=torch.int64),
            index=torch.from_numpy(index.astype(np.int64)),
            epoch=torch.full((count,), epoch),
            image_ids=torch.from_numpy(index + 1000),
            annotation_ids=torch.from_numpy(index + 5000),
            crop=torch.eye(3, dtype=torch.float64).repeat(count, 1, 1),
            mirrored=torch.zeros(count, dtype=torch.bool),
        )


def config(out: Path, **values: Any) -> Config:
    defaults: dict[str, Any] = {"model": "hrnet_tiny", "size": (64, 64), "epochs": 3, "batch": BATCH, "lr": 2e-3}
    return Config(data=(SourceConfig(Path("train.kp")),), out=out, **{**defaults, "warmup": 0, **values})


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4, padding=2, bias=False), BatchNorm(8), nn.ReLU(), nn.Conv2d(8, len(BONES), 1)
    )


def make_run(settings: Config, net: nn.Module | None = None, loader: Loader | None = None, **values: Any) -> Run:
    ids = np.arange(PEOPLE)
    return Run(
        settings, SPEC, small_net() if net is None else net, InMemory() if loader is None else loader,
        annotation_ids=ids + 5000, image_ids=ids + 1000, **values,
    )  # fmt: skip


def interrupted(settings: Config, after: int, **values: Any) -> Result:
    """A training that gets SIGINT while batch `after` is fetched."""
    loader = InMemory()
    loader.after = lambda given: os.kill(os.getpid(), signal.SIGINT) if given == after else None
    return fit(make_run(settings, loader=loader, **values))


def resumed(settings: Config, **values: Any) -> Result:
    """A new process would do the same: everything is made anew but the file."""
    torch.manual_seed(99)
    net = small_net()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.123)
    return fit(make_run(settings, net, **values), load_checkpoint(settings.out / "last.pt"))


def contents(path: Path) -> dict[str, Any]:
    found = load_checkpoint(path)
    return {"weights": found.weights, "state": found.state, "metrics": found.metrics}


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Nested dicts, lists and tensors are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one.nan_to_num(-7.0), other.nan_to_num(-7.0)), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} {other}"


def validator() -> Any:
    """A number that depends on every weight and on the statistics of batch norms."""

    def validate(net: nn.Module) -> dict[str, float]:
        assert not net.training
        out = net(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))
        return {"score": float(out.sum()), "other": float(out.std())}

    return validate


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


# ------------------------------------------------------------------------------------------------------------ resuming


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
    for error, match in (
        (torch.OutOfMemoryError("CUDA out of memory"), r"too little memory for hrnet_tiny at 64 x 64.*--batch 2 --acc"),
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

        with pytest.raises(TrainError if "memory" in str(error) else RuntimeError, match=match):
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
