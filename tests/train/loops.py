"""Small trainings: a loader of dots, a network of two layers, and all that is equal to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402

from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.hrnet import BatchNorm  # noqa: E402
from kpdata.train.loop import fit  # noqa: E402
from kpdata.train.run import Loader, Result, Run  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

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
