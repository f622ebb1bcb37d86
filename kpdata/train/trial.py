"""Before hours of training: what will the network see, how long will it take, and can it learn at all?

`dry_run` takes the very batches, targets and step of the training, and trains nothing. `overfit` learns a handful of
people by heart: where that fails, no amount of data will do (a learning rate too high, labels that do not move with the
picture, a keypoint that is never drawn).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kpdata.draw import grid, save_image
from kpdata.eval.points import arrays
from kpdata.train import optim
from kpdata.train.batch import Batch
from kpdata.train.config import Config
from kpdata.train.logs import beside, cell_of, heat, inputs, person, take
from kpdata.train.losses import heatmap_loss, weights_by_name
from kpdata.train.prepare import prepare
from kpdata.train.setup import NONE, Say, Setup, set_up
from kpdata.train.watch import Replaced, enough_memory

PICTURE = "dry-run.png"
SHOWN = 8  # people in the picture
_LOADER_SECONDS, _STEP_SECONDS, _STEP_PEOPLE = 4.0, 4.0, 2  # of measuring; people a step on the CPU
_CHECK = 20  # steps of an overfitting trial between two looks

LEARNT = 0.9
"""PCK@0.2 from which the people of an overfitting trial count as learnt."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run found. Speeds: people a second; memory: bytes; seconds: of all epochs, without evaluations.

    empty: of each keypoint by name, the share of the people looked at (`looked`) who give it no target: not labelled,
    ignored, or outside of the crop. memory: of a step at the training's batch: measured on a GPU, on the CPU what
    weights, gradients, the optimiser and the saved activations take by count.
    """

    picture: Path
    people: int
    looked: int
    empty: dict[str, float]
    loader: float
    step: float
    seconds: float
    memory: int
    parameters: int
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]


def dry_run(config: Config, *, say: Say = lambda text: None) -> DryRun:
    """Everything of a training but the training. Writes `dry-run.png` into `config.out`. Errors as `training.train`."""
    setup = set_up(config, say=say)
    config = setup.config
    with _closing(setup) as batches:
        first = next(batches)
        sheet = input_sheet(setup, first)
        looked, filled, loader = _through(setup, first, batches, say)
    config.out.mkdir(parents=True, exist_ok=True)
    save_image(sheet, config.out / PICTURE, force=True)
    if config.graph or config.compile:
        say("the step is timed without graph and compile, which make it quicker")
    with enough_memory(config):
        step, memory = _step_speed(setup, first)
    people = setup.loader().per_epoch * config.batch
    names = setup.spec.skeleton.keypoint_names
    # Loading and computing overlap, where there are processes to load.
    each = max(1 / loader, 1 / step) if config.workers != 0 else 1 / loader + 1 / step
    return DryRun(
        config.out / PICTURE, len(setup.crops), looked,
        {name: 1 - count / looked for name, count in zip(names, filled.tolist(), strict=True)},
        loader, step, config.epochs * people * each, memory, sum(p.numel() for p in setup.net.parameters()),
        setup.spec.input_size, setup.spec.codec.heatmap_size,
    )  # fmt: skip


def input_sheet(setup: Setup, batch: Batch) -> NDArray[np.uint8]:
    """Some people as the network gets them: each input with its keypoints, and beside it with its heatmaps over it."""
    few = Batch(**{n: _few(getattr(batch, n)) for n in batch.__dataclass_fields__})
    images, targets, weights = prepare(few.to(setup.device, non_blocking=False), setup.spec, setup.policies)
    pictures, maps, spec = inputs(images, setup.spec), targets.cpu().numpy(), setup.spec
    cells, captions = [], []
    people, total = setup.crops.people, len(spec.skeleton)
    for i, picture in enumerate(pictures):
        xy, seen = few.keypoints[i].numpy(), few.visibility[i].numpy()
        cells.append(beside(person(picture, xy, seen, spec), heat(picture, maps[i], spec)))
        image = int(people.image[int(few.index[i]) % len(people)])
        mirrored = ", mirrored" if bool(few.mirrored[i]) else ""
        count = int((weights[i] > 0).sum())
        captions.append(f"{Path(setup.crops.pictures.names[image]).name}: {count} of {total} targets{mirrored}")
    return grid(cells, 4, captions=captions, cell=cell_of(cells))


def _few(value: Any) -> Any:
    return value[:SHOWN] if isinstance(value, Tensor) else value


@contextmanager
def _closing(setup: Setup) -> Iterator[Iterator[Batch]]:
    """The batches of an epoch; worker processes end with the block."""
    batches = iter(setup.loader())
    try:
        yield batches
    finally:
        del batches


def _through(setup: Setup, first: Batch, batches: Iterator[Batch], say: Say) -> tuple[int, NDArray[np.float64], float]:
    """Goes through batches for some seconds: people seen, how many gave each keypoint a target, people a second.

    Pictures that cannot be read, whose people others stand in for, are told. The time of the first batch, which starts
    the workers, does not count, unless there is no other.
    """
    looked, filled = len(first), _filled(setup, first)
    broken = [*first.replaced]
    seconds, loaded, began = 0.0, 0, time.perf_counter()
    for batch in batches:
        broken += batch.replaced
        seconds, loaded = seconds + time.perf_counter() - began, loaded + len(batch)
        looked, filled = looked + len(batch), filled + _filled(setup, batch)
        if seconds > _LOADER_SECONDS:
            break
        began = time.perf_counter()
    if not loaded:
        began = time.perf_counter()
        take(setup.crops, [(1, i) for i in range(len(first))])
        seconds, loaded = time.perf_counter() - began, len(first)
    if text := Replaced().add(broken):
        say(text)
    return looked, filled, loaded / max(seconds, 1e-9)


def _filled(setup: Setup, batch: Batch) -> NDArray[np.float64]:
    """(K,) people of the batch with a target that is not empty."""
    _, targets, weights = prepare(batch.to(setup.device), setup.spec, setup.policies)
    there = (weights > 0) & (targets.amax(dim=(2, 3)) > 0)
    return there.sum(dim=0).cpu().numpy().astype(np.float64)


def _step_speed(setup: Setup, batch: Batch) -> tuple[float, int]:
    """People a second through a step of the training, and its memory. The network does not change."""
    on_gpu, device = setup.device.type == "cuda", setup.device
    count = len(batch) if on_gpu else min(len(batch), _STEP_PEOPLE)
    few = Batch(**{n: _first(getattr(batch, n), count) for n in batch.__dataclass_fields__}).to(device)
    net = _placed(setup).train()
    statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    saved = _pass(setup, net, few, count_saved=True)
    _wait(device)
    steps, began = 0, time.perf_counter()
    while steps < 2 or (time.perf_counter() - began < _STEP_SECONDS and steps < 50):
        _pass(setup, net, few)
        _wait(device)
        steps += 1
    speed = steps * count / (time.perf_counter() - began)
    net.zero_grad(set_to_none=True)
    for name, buffer in net.named_buffers():
        buffer.copy_(statistics[name])
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    states = weights * (4 if setup.config.ema is None else 5)  # weights, gradients, two moments; the average
    if on_gpu:
        return speed, int(torch.cuda.max_memory_allocated(device)) + states - 2 * weights
    return speed, saved * setup.config.batch // count + states


def _placed(setup: Setup) -> nn.Module:
    """The network on its device, laid out as the training has it."""
    layout = torch.channels_last if setup.device.type == "cuda" else torch.contiguous_format
    placed: nn.Module = setup.net.to(setup.device, memory_format=layout)  # type: ignore[call-overload]
    return placed


def _first(value: Any, count: int) -> Any:
    return value[:count] if isinstance(value, Tensor) else value


def _pass(setup: Setup, net: nn.Module, batch: Batch, *, count_saved: bool = False) -> int:
    """Forward and backward; the bytes of the activations that were kept in between, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    net.zero_grad(set_to_none=True)
    images, targets, weights = prepare(batch, setup.spec, setup.policies)
    bf16 = optim.precision(setup.config, setup.device) == "bf16"
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast(setup.device.type, torch.bfloat16, enabled=bf16):
        if count_saved:
            with hooks:
                maps = net(images)
        else:
            maps = net(images)
    heatmap_loss(maps, targets, weights, known=batch.known)[0].backward()  # type: ignore[no-untyped-call]
    return sum(storages.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------------------------------------------- overfitting


@dataclass(frozen=True, slots=True)
class Overfit:
    """What a trial came to. passed: the loss fell below a quarter, and PCK@0.2 of the very people is `LEARNT` or more.

    PCK@0.2: of a keypoint, less than 0.2 torsos (left shoulder to right hip) off; of people without a torso, 0.2
    diagonals of the extent of their keypoints.
    """

    passed: bool
    people: int
    steps: int
    first_loss: float
    loss: float
    pck: float
    seconds: float


def overfit(config: Config, count: int, *, steps: int = 400, say: Say = lambda text: None) -> Overfit:
    """Learns `count` people of the data by heart, evenly spread over it, from plain crops, in at most `steps` steps.

    With the network, targets, loss, optimiser and learning rate of the training (1e-3 where none is given, whatever the
    batch), without augmentation, schedule and average of weights. Ends as soon as it has passed. Says how long it may
    take before it begins; writes nothing. Errors as `training.train`.
    """
    setup = set_up(replace(config, preset=NONE, flip=None, val=(), packed=None, patience=None, warp="cpu"), say=say)
    if config.graph or config.compile:
        say("these people are learnt without graph and compile, which would take longer than they save")
    chosen = np.unique(np.linspace(0, len(setup.crops) - 1, min(count, len(setup.crops))).round().astype(int))
    with enough_memory(setup.config):
        return _by_heart(setup, chosen, steps, say)


def _by_heart(setup: Setup, chosen: NDArray[np.integer[Any]], steps: int, say: Say) -> Overfit:
    batches, net = _batches(setup, chosen), setup.net.to(setup.device).train()
    optimizer, lr = optim.make_optimizer(net, setup.config, setup.device), setup.config.lr or optim.BASE_LR
    began, done, losses, found = time.perf_counter(), 0, [float("nan")], 0.0
    while done < steps:
        optim.set_lr(optimizer, lr * min(1.0, (done + 1) / _CHECK))
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([_learn(setup, net, batch, len(chosen)) for batch in batches]).sum()
        optim.clip(net, setup.config.clip)
        optimizer.step()
        done += 1
        if done == 1:
            losses = [float(loss)]
        elif done == 2:
            each = (time.perf_counter() - began) / 2
            say(f"{len(chosen)} people, at most {steps} steps: about {each * steps:.0f} s, less if it passes sooner")
        if done % _CHECK == 0 or done == steps:
            losses.append(float(loss))
            found = _pck(setup, net, batches)
            say(f"step {done}: loss {losses[-1]:.3g}, PCK@0.2 {found:.3f}")
            if _passed(losses, found) or not np.isfinite(losses[-1]):
                break
    return Overfit(_passed(losses, found), len(chosen), done, losses[0], losses[-1], found, time.perf_counter() - began)


def _passed(losses: list[float], pck: float) -> bool:
    return losses[-1] < losses[0] / 4 and pck >= LEARNT


def _batches(setup: Setup, chosen: NDArray[np.integer[Any]]) -> list[Batch]:
    """The people, on the device, in batches no larger than the training's."""
    size = setup.config.batch
    parts = [chosen[at : at + size].tolist() for at in range(0, len(chosen), size)]
    return [take(setup.crops, [(0, index) for index in part]).to(setup.device) for part in parts]


def _learn(setup: Setup, net: nn.Module, batch: Batch, people: int) -> Tensor:
    """Adds the gradients of a batch, whose loss weighs as its share of the people; that loss."""
    images, targets, weights = prepare(batch, setup.spec, setup.policies)
    config, mixed = setup.config, setup.source_weights
    named = weights_by_name(config.keypoint_weights, setup.spec.skeleton, setup.device)
    loss, _ = heatmap_loss(
        net(images), targets, weights, kind=config.loss, hard=config.hard, known=batch.known, keypoint_weights=named,
        source=None if mixed is None else batch.source, source_weights=mixed,
    )  # fmt: skip
    share = loss * (len(batch) / people)
    share.backward()  # type: ignore[no-untyped-call]
    return share.detach()


def _pck(setup: Setup, net: nn.Module, batches: list[Batch]) -> float:
    """Share of the labelled keypoints of these people that the network finds."""
    hits, total = 0.0, 0
    net.eval()
    for batch in batches:
        with torch.no_grad():
            maps = net(prepare(batch, setup.spec, setup.policies)[0]).float().cpu().numpy()
        found, _ = setup.spec.codec.decode(maps)
        truth, labelled = batch.keypoints.cpu().numpy().astype(np.float64), (batch.visibility > 0).cpu().numpy()
        rates, counts = arrays.pck(
            arrays.distances(truth, found, labelled), _lengths(truth, labelled, setup), np.array([0.2])
        )
        hits, total = hits + float(np.nansum(rates[0] * counts)), total + int(counts.sum())
    net.train()
    return hits / max(total, 1)


def _lengths(xy: NDArray[np.float64], labelled: NDArray[np.bool_], setup: Setup) -> NDArray[np.float64]:
    """(N,) px: left shoulder to right hip, else the diagonal of the labelled keypoints' extent."""
    there = np.where(labelled[..., None], xy, np.nan)
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(there, axis=1), np.fmax.reduce(there, axis=1)
    length = np.hypot(*(high - low).T)
    marks = list(setup.spec.skeleton.landmarks)
    if "left_shoulder" in marks and "right_hip" in marks:
        torso = np.hypot(*(there[:, marks.index("left_shoulder")] - there[:, marks.index("right_hip")]).T)
        length = np.where(torso > 0, torso, length)
    return np.asarray(np.where(length > 0, length, np.nan), np.float64)
