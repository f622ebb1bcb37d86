"""From the values of a training to what it is made of: data that was checked, a network with its weights, crops."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kpdata.augment import presets
from kpdata.augment.kernels import Convention
from kpdata.augment.presets import Preset
from kpdata.errors import TrainError
from kpdata.skeleton import Skeleton, load
from kpdata.train import fast, lint, mixed
from kpdata.train.checkpoint import Checkpoint, load_checkpoint, require_same
from kpdata.train.config import Config, SourceConfig
from kpdata.train.data import Crops, Loader, make_loader
from kpdata.train.distributed import ALONE, Ranks, from_first, pick_device
from kpdata.train.models import build
from kpdata.train.packed import Progress
from kpdata.train.prepare import policy_table
from kpdata.train.spec import NetworkSpec
from kpdata.train.weights import Source as Weights
from kpdata.train.weights import load_weights, read_weights

Say = Callable[[str], None]
_EVERY = 10.0  # seconds
NONE = "none"
"""The preset without chance: plain crops, as validation sees them."""


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """All that a training, a dry run or an overfitting trial starts from.

    config: `batch` fits the people there are. net: with its first weights, on the CPU. crops, val: people to learn
    from, and to measure on (None without `config.val`). sources, measured: as they were read.
    """

    config: Config
    spec: NetworkSpec
    net: nn.Module
    crops: Crops
    val: Crops | None
    device: torch.device
    ranks: Ranks
    sources: tuple[lint.Read, ...]
    measured: tuple[lint.Read, ...]

    @property
    def policies(self) -> Tensor:
        """(S, 4) what labels are worth in each source, on the device."""
        return policy_table((one.config.occluded, one.config.absent) for one in self.sources).to(self.device)

    @property
    def source_weights(self) -> Tensor | None:
        """(S,) of the sources in the loss, on the device; None where they are all 1."""
        weights = [one.config.weight for one in self.sources]
        return None if set(weights) == {1.0} else torch.tensor(weights, device=self.device)

    def loader(self) -> Loader:
        """The loader of the people to learn from."""
        config = self.config
        return make_loader(
            self.crops, batch=config.batch, workers=workers(config), seed=config.seed, shuffle=True,
            rank=self.ranks.rank, world=self.ranks.world, drop_last=config.graph or config.compile,
            pin=self.device.type == "cuda",
        )  # fmt: skip


def set_up(config: Config, *, say: Say, ranks: Ranks = ALONE) -> Setup:
    """Reads and checks the data, and makes network and crops. say: takes remarks, a sentence each.

    Raises TrainError for what makes a training meaningless (`lint`), and what reading, weights and crops raise.
    """
    device, say = pick_device(config.device, ranks), _once(say)
    fast.check(config, device, ranks.world)
    sources, measured = _read(config.data, config.skeleton), _read(config.val, config.skeleton)
    for number, one in enumerate((*sources, *measured)):
        for note in lint.lint(one, scored=number >= len(sources)):
            say(note)
    skeleton = _skeleton(config, sources)
    for one in measured:
        for note in lint.expect_val(one, skeleton):
            say(note)
    for note in lint.same_people(sources, measured):
        say(note)
    torch.manual_seed(config.seed)
    before = None if config.resume is None else load_checkpoint(config.resume)
    spec, net = _network(config, before, skeleton, say)
    preset = recipe(config.preset, spec, config.flip)
    lint.expect_recipe(skeleton, preset)
    if config.loss == "ohkm" and config.hard > len(skeleton):
        raise TrainError(f"hard is {config.hard}, but {skeleton.name} has {len(skeleton)} keypoints")
    crops = _crops(config, before, sources, skeleton, preset, ranks, say)
    val = _measured(config, measured, skeleton, preset, say)
    config = _fitting(config, crops, ranks, say)
    if config.packed is not None:
        crops = _packed(config, config.packed, crops, device, ranks, say)
    elif config.warp == "device":
        raise TrainError("warp is 'device', which needs packed crops", hint="--packed DIR")
    return Setup(config, spec, net, crops, val, device, ranks, sources, measured)


def _once(say: Say) -> Say:
    """Each sentence once: a file may be learnt from and measured on."""
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return once


def recipe(name: str, spec: NetworkSpec, flip: float | None = None) -> Preset:
    """The preset of that name for a network: its size and padding, and the crops that its targets belong with.

    `none` is the plain crop. flip: the chance to mirror, where it is not to be the preset's. TrainError lists the
    names.
    """
    known = presets.hrnet if name == NONE else presets.PRESETS.get(name)
    if known is None:
        names = (*presets.PRESETS, NONE)
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else ""
        raise TrainError(f"no preset is named {name!r}, expected one of {', '.join(names)}", hint=hint)
    changes: dict[str, Any] = {"rotation": 0.0, "scale": 0.0, "flip": 0.0, "half_body": 0.0} if name == NONE else {}
    if flip is not None:
        changes["flip"] = flip
    made = known(size=spec.input_size, padding=spec.padding, **changes)  # type: ignore[call-arg]  # all take these
    convention: Convention = spec.convention
    label = replace(made.recipe, name=name, convention=convention)
    return replace(made, recipe=label, crop=replace(made.crop, convention=convention))


def _read(sources: Sequence[SourceConfig], skeleton: str | None) -> tuple[lint.Read, ...]:
    return tuple(lint.read_source(one, skeleton) for one in sources)


def _skeleton(config: Config, sources: Sequence[lint.Read]) -> Skeleton:
    """The skeleton that was named, else the union of the data's."""
    if config.skeleton is not None:
        goal = load(config.skeleton)
        for one in sources:
            if not mixed.onto(one.source.dataset, goal).known.any():
                own = ", ".join(one.source.dataset.skeletons)
                raise TrainError(
                    f"{one.source.name}: its skeleton {own} has no keypoint of {goal.name}",
                    hint="another --skeleton, or none: then the network gets the keypoints of the data",
                )
        return goal
    return mixed.union(mixed.skeletons_of([one.source for one in sources]))


def _network(config: Config, before: Checkpoint | None, skeleton: Skeleton, say: Say) -> tuple[NetworkSpec, nn.Module]:
    """The network of a training: new, with the weights of `init`, or that of the checkpoint to go on from."""
    spec = NetworkSpec(config.model, skeleton, config.codec)
    if config.resume is not None and before is not None:
        had = before.spec
        spec = spec.changed(colour=had.colour, padding=had.padding, mean=had.mean, std=had.std)
        require_same(config.resume, had, spec)
        return spec, build(spec.model, len(skeleton))
    net = build(spec.model, len(skeleton))
    if config.init is None:
        say(f"{spec.model} starts from random weights: the published numbers start from ImageNet's (--init FILE)")
        return spec, net
    source = read_weights(config.init)
    # The stem has learnt what its channels are: a network of BGR goes on with BGR.
    spec = spec.changed(colour=source.colour, mean=source.mean, std=source.std)
    report = load_weights(net, source, model=spec.model, skeleton=skeleton)
    say(f"{config.init}: {report}")
    if differs := _other_targets(source, spec):
        say(f"{config.init}: {differs}")
    return spec, net


def _other_targets(source: Weights, spec: NetworkSpec) -> str:
    """What the head of a file has learnt to draw, where this training wants something else of it; "" where it does not.

    The targets are the training's: a network of one kind soon learns the other, but what it says before is off by up to
    a cell, and an evaluation that decodes it as the other loses AP.
    """
    had, has = source.codec, spec.codec
    if not source.num_keypoints or had.target == has.target:
        return ""
    return (
        f"it learnt targets of kind {had.target}, this training draws and decodes {has.target}: its head has that to "
        f"learn anew; --target {had.target} goes on with its own"
    )


def _crops(
    config: Config,
    before: Checkpoint | None,
    sources: Sequence[lint.Read],
    skeleton: Skeleton,
    preset: Preset,
    ranks: Ranks,
    say: Say,
) -> Crops:
    """The crops of the people to learn from; before: of the training that goes on, which knows whom it has left out.

    Several processes leave out the same pictures: the first one looks, so that a disk that fails one of them for a
    moment does not give it another table.
    """
    absent = (before.state or {}).get("absent") if before is not None else None
    together = config.missing_images == "skip" and ranks.world > 1
    if together and not ranks.first:
        absent = from_first(None, ranks)
    crops = Crops(
        [one.source for one in sources], skeleton, preset,
        augment=config.preset != NONE or bool(config.flip), seed=config.seed, missing=config.missing_images,
        absent=absent if absent is None or len(absent) == len(sources) else None,
        replace=config.missing_images == "skip",
    )  # fmt: skip
    if together and ranks.first:
        from_first(crops.absent, ranks)
    for note in crops.left_out:
        say(note)
    return crops


def _measured(
    config: Config, measured: Sequence[lint.Read], skeleton: Skeleton, preset: Preset, say: Say
) -> Crops | None:
    """The plain crops of the people to measure on."""
    if not measured:
        say("no val: nothing is measured, and there will be a last.pt alone (--val FILE)")
        return None
    crops = Crops(
        [one.source for one in measured], skeleton, preset,
        augment=False, seed=config.seed, missing=config.missing_images,
    )  # fmt: skip
    for note in crops.left_out:
        say(note)
    return crops


def _fitting(config: Config, crops: Crops, ranks: Ranks, say: Say) -> Config:
    """A batch that is not larger than the people there are."""
    most = max(1, len(crops) // ranks.world)
    if config.batch <= most:
        return config
    say(f"batch {config.batch} is more than the {len(crops):,} people there are: {most}")
    return replace(config, batch=most)


def _packed(config: Config, folder: Path, crops: Crops, device: torch.device, ranks: Ranks, say: Say) -> Crops:
    """The same people from packed crops, which the first process makes where they are not there yet."""
    began = time.perf_counter()
    if ranks.first:
        crops.pack_into(folder, workers=max(1, workers(config)), progress=_now_and_then(say))
    from_first(None, ranks)  # the others wait, and find them whole
    pack = crops.pack_into(folder)
    say(f"packed crops of {len(crops):,} people in {folder} ({time.perf_counter() - began:.0f} s)")
    if config.warp == "cpu" or (config.warp == "auto" and device.type != "cuda"):
        return crops.packed(pack)
    try:
        return crops.packed(pack, warp="device", side=pack.side)
    except TrainError as problem:
        if config.warp == "device":
            raise
        say(f"{problem.message}: crops are warped on the CPU")
        return crops.packed(pack)


def _now_and_then(say: Say) -> Progress:
    """Progress of packing, for who waits: a sentence every 10 seconds."""
    said = time.perf_counter()

    def tell(done: int, of: int) -> None:
        nonlocal said
        if time.perf_counter() - said > _EVERY and done < of:
            said = time.perf_counter()
            say(f"packed {done:,} of {of:,} people")

    return tell


def workers(config: Config) -> int:
    """Processes that load: what was asked for, else one a core but one, at most 8, and none on a single core."""
    if config.workers is not None:
        return config.workers
    return min(8, max(0, (os.cpu_count() or 1) - 1))


def hashes(reads: Sequence[lint.Read]) -> list[dict[str, Any]]:
    """Of each source what it was: path, images, people, files with SHA-256, values."""
    return [
        {
            "path": str(Path(one.source.name)), "images": None if one.source.images is None else str(one.source.images),
            "people": len(one.source.dataset), "pictures": one.source.dataset.images.num_rows,
            "files": [file for facts in one.source.dataset.datasets.values() for file in facts.get("files") or ()],
        }
        for one in reads
    ]  # fmt: skip
