"""A training from its values to its folder: data checked, network built, trained, measured, and all of it recorded.

    result = train(Config(data=(SourceConfig(Path("train.kp")),), val=(SourceConfig(Path("val.kp")),), out=Path("run")))

The folder gets `best.pt` and `last.pt` (checkpoints), `log.jsonl`, `run.json`, `predictions-<epoch>.png` at each
evaluation, and where asked for `ledger/` and `tensorboard/`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kpdata import __version__, files
from kpdata.draw import save_image
from kpdata.errors import DestinationExists, TrainError
from kpdata.train import distributed, optim
from kpdata.train.checkpoint import Checkpoint, load_checkpoint
from kpdata.train.config import Config, resumable
from kpdata.train.logs import LOG, Line, Logs, finite, prediction_sheet
from kpdata.train.loop import BEST, LAST, fit
from kpdata.train.run import Result, Run
from kpdata.train.setup import Setup, hashes, set_up, workers
from kpdata.train.validation import Validator

RUN = "run.json"
_OURS = (BEST, LAST, LOG, RUN, "predictions-*.png", "ledger", "tensorboard")
_PACKAGES = ("numpy", "pyarrow", "opencv-python-headless", "opencv-python", "simplejpeg")


def train(config: Config, *, log: Callable[[Line], None] | None = None, force: bool = False) -> Result:
    """Trains a network, and says what came of it.

    log: takes each line as it comes: those of `loop.fit`, and `{"event": "note", "text": …}` for what the user should
    know (who is left out, which weights were loaded, …). force: an older training in `config.out` goes.

    Started by `torchrun`, each process calls it with the same values. Raises TrainError and other KpdataErrors, before
    anything is written where the data, the values or the checkpoint are wrong; DestinationExists where `config.out`
    holds a training, unless it is resumed.
    """
    ranks = distributed.from_environment()
    config = config if config.resume is None else replace(config, resume=resumable(config.resume))
    before = None if config.resume is None else load_checkpoint(config.resume)
    if ranks.first:
        _refuse(config, force)
    heard: list[Line] = []

    def say(text: str) -> None:
        heard.append({"event": "note", "text": text})
        if log is not None and ranks.first:
            log(heard[-1])

    distributed.join(ranks, distributed.pick_device(config.device, ranks))
    try:
        return _trained(set_up(config, say=say, ranks=ranks), before, heard, log)
    finally:
        distributed.leave(ranks)


def _trained(setup: Setup, before: Checkpoint | None, heard: list[Line], log: Callable[[Line], None] | None) -> Result:
    """The training itself, with its records, which process 0 alone writes."""
    config, step = setup.config, None if before is None or before.state is None else int(before.state["step"])
    if not setup.ranks.first:
        return fit(_run(setup, None), before)
    if before is None:
        _clear(config.out)
    with Logs(config.out, step=step, tensorboard=config.tensorboard, also=log) as logs:
        for line in heard:
            logs.write(line)
        document = record(setup, step)
        _write(config.out, document)
        result = fit(_run(setup, logs), before)
        _write(config.out, {**document, "finished": _now(), "result": asdict(result)})
    return result


def _run(setup: Setup, logs: Logs | None) -> Run:
    """What the loop needs. Without logs: a process that does not write."""
    validator, people = _validator(setup), setup.crops.people
    if validator is not None and logs is not None:
        logs({"event": "note", "text": validator.words})

    def picture(net: nn.Module, epoch: int) -> None:
        assert setup.val is not None and logs is not None
        sheet = prediction_sheet(net, setup.spec, setup.val, setup.device)
        save_image(sheet, setup.config.out / f"predictions-{epoch:04d}.png", force=True)
        logs.picture("predictions", sheet, epoch)

    return Run(
        setup.config, setup.spec, setup.net, setup.loader(), setup.device, validator,
        policies=setup.policies, source_weights=setup.source_weights,
        annotation_ids=people.annotation_ids, image_ids=people.image_ids, absent=setup.crops.absent, ranks=setup.ranks,
        **({} if logs is None else {"log": logs, "picture": picture}),  # type: ignore[arg-type]
    )  # fmt: skip


def _validator(setup: Setup) -> Validator | None:
    """Measures the network on the people of `val`."""
    if setup.val is None:
        return None
    config, bf16 = setup.config, optim.precision(setup.config, setup.device) == "bf16"
    return Validator(
        setup.val, [one.source for one in setup.measured], setup.spec, batch=min(config.batch, 64),
        workers=workers(config), flip_test=config.flip_test, device=setup.device, bf16=bf16, ranks=setup.ranks,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the folder


def _refuse(config: Config, force: bool) -> None:
    """DestinationExists where the folder holds a training that is not to go."""
    out = config.out
    if out.exists() and not out.is_dir():
        raise TrainError(f"{out}: is a file, expected a folder for the training", hint="--out DIR")
    if config.resume is None and not force and _has_training(out):
        raise DestinationExists(out)


def _has_training(out: Path) -> bool:
    """Whether there is something to lose: one that failed in its first steps leaves a log, and may be tried again."""
    return any((out / name).exists() for name in (BEST, LAST))


def _clear(out: Path) -> None:
    """What an older training left there goes; other files stay."""
    if not _has_training(out):
        return
    for path in [found for name in _OURS for found in out.glob(name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(out: Path, document: dict[str, Any]) -> None:
    files.write_bytes(out / RUN, json.dumps(finite(document), indent=1, ensure_ascii=False).encode(), force=True)


def record(setup: Setup, step: int | None) -> dict[str, Any]:
    """What `run.json` says at the start: values, data, network, versions, machine. step: that a training resumes at."""
    config = setup.config
    return {
        "kpdata": __version__, "started": _now(), "resumed_at_step": step, "config": config.to_json(),
        "network": setup.spec.to_json(), "parameters": sum(p.numel() for p in setup.net.parameters()),
        "people": len(setup.crops), "people_measured": 0 if setup.val is None else len(setup.val),
        "data": hashes(setup.sources), "val": hashes(setup.measured), "versions": versions(), "machine": machine(setup),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that have a part in a training's numbers."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(setup: Setup) -> dict[str, Any]:
    """What computes: system, processor, cores, threads of torch, GPU."""
    gpu = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None
    return {
        "system": f"{platform.system()} {platform.release()}", "processor": platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(setup.device), "gpu": gpu, "processes": setup.ranks.world,
        "command": sys.argv[1:],
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
