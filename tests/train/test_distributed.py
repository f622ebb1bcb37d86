"""Two processes over Gloo, started by torchrun: what each computes, what they agree on, and who writes.

This file is the script of those processes too: run as a program it trains and leaves what the tests look at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402

from kpdata import synthesize, write  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train import distributed, table  # noqa: E402
from kpdata.train import loop as training  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.distributed import ALONE, Ranks  # noqa: E402
from kpdata.train.ledger import read_ledger  # noqa: E402
from kpdata.train.loop import Loop, Run  # noqa: E402
from kpdata.train.setup import set_up  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from kpdata.train.validation import Validator  # noqa: E402
from kpdata.train.watch import Interruption  # noqa: E402

BATCH = 3


def make_run(folder: Path, out: str, ranks: Ranks, *, batch: int = BATCH, **values: Any) -> Run:
    """A small network with batch norms on crops of people, for `batch` people a process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = synthesize(8, seed=2, size=(160, 120), people=(1, 2))
    sources, bones = [Source(dataset, folder / "pictures")], dataset.skeleton
    spec = NetworkSpec("hrnet_tiny", bones, HeatmapCodec(input_size=(64, 64), sigma=1.0))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, len(bones), 1)
    )
    settings = Config(
        data=(SourceConfig(Path("train.kp")),), out=folder / out, model="hrnet_tiny", size=(64, 64), batch=batch,
        **{"epochs": 2, "lr": 1e-2, "warmup": 0, "ledger": True, **values},
    )  # fmt: skip
    crops = Crops(sources, bones, hrnet(size=(64, 64)), seed=1)
    plain = Crops(sources, bones, hrnet(size=(64, 64)), augment=False)
    loader = make_loader(crops, batch=batch, rank=ranks.rank, world=ranks.world, drop_last=False)
    return Run(
        settings, spec, net, loader, validate=Validator(plain, sources, spec, batch=BATCH, ranks=ranks), ranks=ranks,
        annotation_ids=crops.people.annotation_ids, image_ids=crops.people.image_ids,
    )  # fmt: skip


def flat(tensors: Any) -> Any:
    return torch.cat([t.detach().flatten() for t in tensors])


def process(folder: Path) -> None:
    """What one of the two processes does."""
    ranks = distributed.from_environment()
    device = distributed.pick_device("cpu", ranks)
    distributed.join(ranks, device)
    left: dict[str, Any] = {"ranks": [ranks.rank, ranks.world]}

    loop = Loop(make_run(folder, "step", ranks, accumulate=2))
    batches = [next(iter(loop.run.loader)) for _ in range(1)]
    left["index"] = batches[0].index
    left["loss"] = loop.forward_backward(batches[0], 1.0, last=True)
    left["gradient"] = flat(p.grad for p in loop.net.parameters())
    loop.optimizer.zero_grad()
    loop.forward_backward(batches[0], 1.0, last=False)
    left["alone"] = flat(p.grad for p in loop.net.parameters())

    lines: list[Any] = []
    run = replace(make_run(folder, "whole", ranks), log=lines.append)
    left["measured"] = run.validate(run.net.eval())  # type: ignore[misc]
    result = training.fit(run)
    left["weights"] = flat(run.net.parameters())
    left["lines"], left["metrics"] = json.dumps(lines), result.metrics
    left["steps"] = result.steps

    training.CHECK_EVERY = 2
    with Interruption() as stop:
        loop = Loop(make_run(folder, "stopped", ranks, epochs=9))
        stop.asked = ranks.rank == 1
        loop.train_epoch(stop)
        left["stopped"] = [stop.asked, loop.step]
        loop.save_last()
    torch.distributed.barrier()
    with Interruption() as stop:
        loop = Loop(make_run(folder, "stopped", ranks, epochs=9))
        loop.restore(load_checkpoint(folder / "stopped/last.pt"))
        loop.train_epoch(stop)
        assert loop.recorder is not None
        left["after"] = distributed.merge_losses(loop.recorder.losses, ranks)
    loop._count_replaced([f"picture of {ranks.rank}"] * (1 + ranks.rank), expect=False)
    left["broken"] = [loop.replaced.epoch, loop.replaced.total, *loop.replaced.broken]
    if ranks.rank == 1:
        table._unreadable = None  # type: ignore[assignment]  # it must not look
    people = (SourceConfig(folder / "people.kp", images=folder / "torn"),)
    settings = Config(people, folder / "torn run", model="hrnet_tiny", size=(64, 64), batch=2, missing_images="skip")
    left["absent"] = set_up(replace(settings, device="cpu"), say=lambda text: None, ranks=ranks).crops.absent
    torch.save(left, folder / f"rank{ranks.rank}.pt")
    distributed.leave(ranks)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what each of two processes left."""
    folder = tmp_path_factory.mktemp("two")
    people = synthesize(8, seed=2, size=(160, 120), people=(1, 2))
    write_images(people, folder / "pictures")
    write_images(people, folder / "torn")
    (folder / "torn" / people.images["file_name"].to_pylist()[3]).write_bytes(b"no picture")
    write(people, folder / "people.kp")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
               "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, str(folder)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_losses_and_gradients_are_those_of_two_half_batches(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """One process that runs the same two half-batches one after the other has the same losses, and as the mean of its
    gradients what both processes have."""
    folder, left = two
    loop = Loop(make_run(folder, "alone", ALONE, batch=2 * BATCH))
    whole = next(iter(loop.run.loader))
    assert torch.equal(whole.index, torch.cat([left[0]["index"], left[1]["index"]]))
    losses, gradients = [], []
    for half in (slice(0, BATCH), slice(BATCH, 2 * BATCH)):
        loop.optimizer.zero_grad()
        part = whole._each(lambda tensor, half=half: tensor[half])
        losses.append(loop.forward_backward(part, 1.0, last=True))
        gradients.append(flat(p.grad for p in loop.net.parameters()))
    assert [float(one["loss"]) for one in left] == [float(loss) for loss in losses]
    assert not torch.allclose(gradients[0], gradients[1])
    torch.testing.assert_close(left[0]["gradient"], (gradients[0] + gradients[1]) / 2, rtol=1e-5, atol=1e-8)
    assert torch.equal(left[0]["gradient"], left[1]["gradient"])
    for rank in (0, 1):  # a batch that is not the last of its step keeps its gradients to itself
        torch.testing.assert_close(left[rank]["alone"], gradients[rank], rtol=1e-5, atol=1e-8)


def test_both_end_with_one_network(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """Equal weights and numbers in both processes; the first alone reports."""
    folder, left = two
    assert torch.equal(left[0]["weights"], left[1]["weights"])
    assert left[0]["metrics"] == left[1]["metrics"]
    assert left[0]["steps"] == left[1]["steps"]
    lines = json.loads(left[0]["lines"])
    assert [line["event"] for line in lines] == ["start", *["train", "evaluation"] * 2, "end"]
    assert lines[0]["processes"] == 2
    assert left[1]["lines"] == "[]"
    saved = load_checkpoint(folder / "whole/last.pt")
    names = [name for name in saved.weights if name.endswith(("weight", "bias"))]
    assert torch.equal(flat(saved.weights[name] for name in names), left[0]["weights"])


def test_the_ledger_has_everybody(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """The losses of both processes lie in one file: each person once an epoch."""
    folder, _ = two
    book = read_ledger(folder / "whole")
    run = make_run(folder, "none", ALONE)
    everybody = sorted(run.annotation_ids.tolist())  # type: ignore[union-attr]
    for epoch in (0, 1):
        assert sorted(book.annotation_ids[book.epochs == epoch].tolist()) == everybody


def test_an_evaluation_in_two_processes_is_one(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """Shares of the people are brought together: the numbers equal those of one process."""
    folder, left = two
    run = make_run(folder, "none", ALONE)
    alone = run.validate(run.net.eval())  # type: ignore[misc]
    assert left[0]["measured"] == pytest.approx(alone, abs=1e-9)
    assert left[1]["measured"] == {}


def test_one_who_wants_to_stop_stops_both_at_the_same_step(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """A signal to the second process alone is agreed upon at the next look at the losses."""
    assert two[1][0]["stopped"] == two[1][1]["stopped"] == [True, 2]


def test_resuming_in_two_processes_goes_on_where_both_stood(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """After the rest of the interrupted epoch everybody has a loss: nobody was left out by either process."""
    for one in two[1]:
        assert one["after"].isfinite().any(1).all()


def test_pictures_that_cannot_be_read_are_counted_together(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """Each process meets its own; all know of all, so that they end together and one checkpoint has everything."""
    assert two[1][0]["broken"] == two[1][1]["broken"] == [3, 3, "picture of 0", "picture of 1"]


def test_all_leave_out_the_pictures_that_the_first_one_does(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """A picture that only one of them could not read would give it another table of people."""
    assert two[1][0]["absent"] == two[1][1]["absent"] == [[3]]


def test_resuming_in_one_process_what_two_began_is_refused(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """The place in an epoch is another one; the sentence says what differs."""
    folder, _ = two
    with pytest.raises(TrainError, match=r"processes 2, not 1"):
        training.fit(make_run(folder, "other", ALONE), load_checkpoint(folder / "whole/last.pt"))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables: alone. Odd ones are a sentence."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.from_environment() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="torchrun sets RANK"):
        distributed.from_environment()
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(TrainError, match="rank below"):
        distributed.from_environment()


def test_a_device_that_is_not_there_is_told() -> None:
    """Words that are no device, and GPUs that torch does not see."""
    assert distributed.pick_device("cpu").type == "cpu"
    with pytest.raises(TrainError, match="expected cpu, cuda"):
        distributed.pick_device("gpu0")
    with pytest.raises(TrainError, match=r"torch sees \d+ GPUs here"):
        distributed.pick_device("cuda:99")


def test_losses_of_processes_are_merged_by_person() -> None:
    """Alone nothing changes; NaN stays where nobody has a loss."""
    losses = torch.tensor([[1.0, torch.nan], [torch.nan, 2.0]])
    assert distributed.merge_losses(losses, ALONE) is losses
    np.testing.assert_array_equal(distributed.gather_rows(np.arange(3), ALONE), [0, 1, 2])


if __name__ == "__main__":
    process(Path(sys.argv[1]))
