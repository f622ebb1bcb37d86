"""Training in several processes, one a GPU, as `torchrun` starts them: who am I, and what is shared.

    torchrun --nproc-per-node 4 -m kpdata.cli.main train --data train.kp --out runs/a

Every process learns from its share of the people, gradients are averaged by DistributedDataParallel at each step, and
process 0 alone writes and reports. Batch norms keep statistics of their own process, as in the published trainings;
they are averaged before an evaluation and a checkpoint, which need one network. NCCL on CUDA, Gloo on the CPU.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from kpdata.errors import TrainError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `world`; `local`: its number on this machine, and that of its GPU."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """The process that writes and reports."""
        return self.rank == 0


ALONE = Ranks()


def from_environment() -> Ranks:
    """What `torchrun` said in RANK, WORLD_SIZE and LOCAL_RANK; ALONE where it did not start this process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    said = {name: os.environ[name] for name in names if name in os.environ}
    if "WORLD_SIZE" not in said:
        return ALONE
    try:
        ranks = Ranks(int(said["RANK"]), int(said["WORLD_SIZE"]), int(said.get("LOCAL_RANK", said["RANK"])))
    except (KeyError, ValueError) as problem:
        hint = "torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; unset them to train in one process"
        raise TrainError(f"environment {said}, expected the numbers of a process", hint=hint) from problem
    if not 0 <= ranks.rank < ranks.world:
        raise TrainError(f"environment {said}, expected a rank below the world's size")
    return ranks


def pick_device(name: str | None, ranks: Ranks = ALONE) -> torch.device:
    """The device asked for; without a name this process's GPU where there is one, else the CPU. TrainError for none."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as problem:
        raise TrainError(f"device {name!r}, expected cpu, cuda or cuda:1") from problem
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", ranks.local if device.index is None else device.index)
        if device.index is None or device.index >= count:
            hint = "--device cpu, or fewer processes a machine" if count else "--device cpu trains without"
            raise TrainError(f"device {device}, but torch sees {count} GPUs here", hint=hint)
    return device


def join(ranks: Ranks, device: torch.device) -> None:
    """Meets the other processes; nothing for one alone."""
    if ranks.world == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=ranks.rank, world_size=ranks.world)


def leave(ranks: Ranks) -> None:
    """Parts from the other processes."""
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def wrap(net: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The network as it is trained: its gradients are averaged over all processes, which start with equal weights."""
    if ranks.world == 1:
        return net
    devices = [device.index] if device.type == "cuda" else None
    kind = nn.parallel.DistributedDataParallel
    # torch renamed it; either way buffers are not sent before every step.
    renamed = "forward_sync_buffers" in inspect.signature(kind.__init__).parameters
    apart_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return kind(net, device_ids=devices, gradient_as_bucket_view=True, **apart_buffers)


def apart(net: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Within, gradients stay with their process where `wanted`: for batches that are not the last of a step."""
    if wanted and isinstance(net, nn.parallel.DistributedDataParallel):
        return cast(AbstractContextManager[None], net.no_sync())
    return nullcontext()


# ------------------------------------------------------------------------------- what all processes call, or none does


@torch.no_grad()
def average_buffers(net: nn.Module, ranks: Ranks) -> None:
    """Gives all processes the mean of the batch norms' statistics: one network to evaluate and to save."""
    if ranks.world == 1:
        return
    floats = [b for b in net.buffers() if b.is_floating_point()]
    if not floats:
        return
    flat = torch.cat([b.flatten() for b in floats])
    dist.all_reduce(flat)
    flat /= ranks.world
    for buffer, part in zip(floats, torch.split(flat, [b.numel() for b in floats]), strict=True):
        buffer.copy_(part.view_as(buffer))


def any_of(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether the flag is up in any process."""
    if ranks.world == 1:
        return flag
    up = torch.tensor(int(flag), device=device)
    dist.all_reduce(up, op=dist.ReduceOp.MAX)
    return bool(up.item())


def mean_of(value: Tensor, ranks: Ranks) -> Tensor:
    """The mean of a tensor over the processes."""
    if ranks.world > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= ranks.world
    return value


def merge_losses(losses: Tensor, ranks: Ranks) -> Tensor:
    """One (N, K) of those of all processes: each has losses of its own people, and NaN for the others."""
    if ranks.world == 1:
        return losses
    everyone = losses.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    dist.all_reduce(everyone, op=dist.ReduceOp.MAX)
    return everyone.masked_fill(everyone.isinf(), torch.nan)


def gather_texts(texts: Sequence[str], ranks: Ranks) -> list[str]:
    """The texts of process 0, then those of 1, …"""
    if ranks.world == 1:
        return list(texts)
    parts: list[Any] = [None] * ranks.world
    dist.all_gather_object(parts, list(texts))
    return [text for part in parts for text in part]


def gather_rows(rows: NDArray[Any], ranks: Ranks) -> NDArray[Any]:
    """The rows (n, …) of process 0, then those of 1, …: n may differ."""
    if ranks.world == 1:
        return rows
    parts: list[Any] = [None] * ranks.world
    dist.all_gather_object(parts, rows)
    return np.concatenate(parts)


def from_first(value: Any, ranks: Ranks) -> Any:
    """What process 0 has."""
    if ranks.world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
