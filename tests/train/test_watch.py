"""Signals: a training and its workers agree on who decides to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from kpdata import synthesize, write
from kpdata.errors import TrainError
from kpdata.synth import write_images
from kpdata.train import watch
from kpdata.train.checkpoint import load_checkpoint
from kpdata.train.config import Config, SourceConfig
from tests.train.loops import assert_equal, contents

SIGNALLED = """
import os, subprocess, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from kpdata import synthesize
from kpdata.augment.presets import hrnet
from kpdata.codec import HeatmapCodec
from kpdata.synth import write_images
from kpdata.train.config import Config, SourceConfig
from kpdata.train.data import Crops, Source, make_loader
from kpdata.train.loop import Run, fit
from kpdata.train.spec import NetworkSpec
folder, number = Path(sys.argv[1]), int(sys.argv[2])
people = synthesize(8, seed=1, size=(64, 64), people=(1, 1))
write_images(people, folder / "pictures")
crops = Crops([Source(people, folder / "pictures")], people.skeleton, hrnet(size=(64, 64)))
net = torch.nn.Conv2d(3, len(people.skeleton), 5, stride=4, padding=2)
steps = []
def step(*_):
    steps.append(1)
    if len(steps) == 3:
        # from a stranger: workers take a SIGTERM of their own parent for an orderly end
        kill = f"import os; os.killpg({os.getpgrp()}, {number})"
        subprocess.run([sys.executable, "-c", kill], start_new_session=True)
        time.sleep(0.3)  # their deaths would be heard of here
net.register_forward_hook(step)
config = Config((SourceConfig(Path("a.kp")),), folder / "run", model="hrnet_tiny", size=(64, 64), batch=2, epochs=9)
spec = NetworkSpec("hrnet_tiny", people.skeleton, HeatmapCodec((64, 64)))
result = fit(Run(config, spec, net, make_loader(crops, batch=2, workers=2)))
print(result.reason, result.steps)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_survive_a_signal_to_all_processes(tmp_path: Path, number: int) -> None:
    """Ctrl-C in a terminal, and a scheduler, signal the workers too: they finish the step in hand, and nothing more."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tmp_path), str(int(number))],
        capture_output=True, text=True, timeout=300, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "3"]
    assert load_checkpoint(tmp_path / "run" / "last.pt").state is not None


KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from torch.utils.data import get_worker_info
from kpdata.errors import TrainError
from kpdata.train.config import Config, SourceConfig
from kpdata.train.data import Crops
from kpdata.train.training import train
folder, deadly = Path(sys.argv[1]), sys.argv[2] == "kill"
made = Crops.__getitems__
def make(self, places):
    if get_worker_info() is not None:
        (folder / "workers" / str(os.getpid())).touch()
        if deadly and self.augment and places[0][0] == 1 and (1, 3) in places:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does for want of memory
    return made(self, places)
Crops.__getitems__ = make
out = folder / sys.argv[3]
resume = out / "last.pt" if (out / "last.pt").exists() else None
data = SourceConfig(folder / "people.kp", images=folder / "pictures")
config = Config((data,), out, model="hrnet_tiny", size=(64, 64), batch=2, epochs=3, warmup=0, workers=2, device="cpu",
                ema=0.9, resume=resume)
try:
    print(json.dumps([train(config).steps]))
except TrainError as problem:
    print(json.dumps([problem.message, problem.hint]))
"""


def test_a_killed_worker_leaves_a_resumable_training(tmp_path: Path) -> None:
    """SIGKILL to a worker in the second epoch: a sentence says what happened and what to do, its sibling ends with the
    process, and the training that goes on ends with the bits of one that nothing happened to."""
    people = synthesize(16, seed=1, size=(64, 64), people=(1, 1))
    write_images(people, tmp_path / "pictures")
    write(people, tmp_path / "people.kp")
    (tmp_path / "workers").mkdir()

    def run(*words: str) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), *words],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))

    message, hint = run("kill", "parts")
    assert "a worker of the loader died" in message
    assert "fewer --workers" in hint and "--resume" in hint
    workers = [int(path.name) for path in (tmp_path / "workers").iterdir()]
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    last = load_checkpoint(tmp_path / "parts" / "last.pt")
    assert last.state is not None and 8 <= last.state["step"] < 16
    assert run("live", "parts") == run("live", "whole") == [24]
    assert_equal(contents(tmp_path / "parts" / "last.pt"), contents(tmp_path / "whole" / "last.pt"))


def test_within_a_step_nothing_is_heard_of_a_worker() -> None:
    """What torch raises at a worker's death comes when the step is whole; other places hear it at once."""

    def raises(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before, done = signal.signal(signal.SIGCHLD, raises), []
    try:
        with pytest.raises(RuntimeError, match="pid 7"), watch.undisturbed():
            os.kill(os.getpid(), signal.SIGCHLD)
            done.append(1)
        assert done == [1] and signal.getsignal(signal.SIGCHLD) is raises
        with pytest.raises(RuntimeError, match="pid 7"):
            os.kill(os.getpid(), signal.SIGCHLD)
        with watch.undisturbed():
            done.append(2)
        assert done == [1, 2]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_second_ctrl_c_does_not_wait() -> None:
    """Who presses twice is obeyed at once."""
    with watch.Interruption() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_within_at_once_the_first_ctrl_c_breaks_off() -> None:
    """An evaluation is not waited for; and one that somebody wanted to stop before is not begun."""
    with watch.Interruption() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("begun")


def test_a_worker_that_the_system_killed_is_a_sentence(tmp_path: Path) -> None:
    """torch raises its error in the middle of anything: it becomes what to do; other errors stay what they are."""
    config = Config((SourceConfig(Path("a.kp")),), tmp_path, model="hrnet_tiny", size=(64, 64))
    torch_says = "DataLoader worker (pid 7) is killed by signal: Killed. "
    words = r"worker of the loader died \(DataLoader worker \(pid 7\).*fewer --workers"
    with pytest.raises(TrainError, match=words), watch.enough_memory(config):
        raise RuntimeError(torch_says)
    with pytest.raises(RuntimeError, match="shapes differ"), watch.enough_memory(config):
        raise RuntimeError("shapes differ")


def test_a_worker_may_be_gone_when_its_batch_is_fetched() -> None:
    """Pictures are fetched from the worker that made them: a connection that breaks is that worker's end."""
    for problem in (ConnectionResetError(104, "Connection reset by peer"), ConnectionRefusedError(), EOFError()):
        died = watch.worker_died(problem)
        assert died is not None and type(problem).__name__ in died.message
    assert watch.worker_died(RuntimeError("Pin memory thread exited unexpectedly")) is not None
    assert watch.worker_died(ValueError("shapes differ")) is None
