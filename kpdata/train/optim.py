"""What a step of the optimiser is made of: learning rate, parameter groups, clipping, the moving average of weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kpdata.errors import TrainError
from kpdata.train.config import Config, Schedule

BASE_LR, BASE_BATCH = 1e-3, 128
"""The published pair of HRNet and Simple Baseline: Adam at 1e-3 for 4 GPUs x 32 people (`experiments/coco/*.yaml`)."""
WARMUP_START = 1e-3  # of the learning rate: mmpose's LinearLR(start_factor=0.001)
DROP = 0.1  # at a milestone


def learning_rate(config: Config, world: int = 1) -> tuple[float, str]:
    """The learning rate at its highest, and a sentence that says where it comes from.

    Unless `config.lr` says it: 1e-3 at 128 people a step, in proportion to batch x accumulate x processes.
    """
    people = config.batch * config.accumulate * world
    if config.lr is not None:
        return config.lr, f"lr {config.lr:.3g}, as asked for, at {people} people a step"
    rate = BASE_LR * people / BASE_BATCH
    parts = [f"{config.batch} a batch"]
    parts += [f"{config.accumulate} batches"] if config.accumulate > 1 else []
    parts += [f"{world} processes"] if world > 1 else []
    count = f"{people} people a step" + (f" ({' x '.join(parts)})" if len(parts) > 1 else "")
    return rate, f"lr {rate:.3g} = {BASE_LR:g} x {people}/{BASE_BATCH}: in proportion to {count}"


def lr_at(
    step: int,
    *,
    lr: float,
    steps: int,
    schedule: Schedule = "step",
    milestones: tuple[float, ...] = (),
    warmup: int = 0,
) -> float:
    """Learning rate of step 0, 1, …, steps - 1: nothing but arithmetic, so that resuming cannot lose its place.

    warmup: the first so many steps rise in a straight line from lr / 1000 (they are cut to a tenth of a training that
    is shorter than ten times that); the schedule runs underneath. step: a tenth from each milestone, a share of
    `steps`, on. cosine: down to 0 at `steps` (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
    """
    warmup = min(warmup, steps // 10)
    if schedule == "cosine":
        rate = lr * 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1)))
    else:
        rate = lr * DROP ** sum(step >= round(share * steps) for share in milestones)
    if step < warmup:
        rate *= WARMUP_START + (1 - WARMUP_START) * step / warmup
    return rate


def make_optimizer(net: nn.Module, config: Config, device: torch.device) -> torch.optim.Optimizer:
    """Adam, or AdamW whose decay spares norms and biases, fused.

    Its learning rate is a tensor on the device, set by `set_lr`: a captured step would read the new value. TrainError
    for a weight decay with Adam: Adam's is L2 on the gradient, which is another thing, and the published recipe has
    none (with 1e-4 of it a re-implementation fell from 74.4 to 12.0 AP, HRNet-Human-Pose-Estimation issue 10).
    """
    if config.optimizer == "adam" and config.weight_decay:
        raise TrainError(
            f"weight_decay {config.weight_decay:g} with adam, which has none, as published",
            hint="--optimizer adamw decays weights, or leave weight_decay out",
        )
    lr = torch.tensor(config.lr or BASE_LR, dtype=torch.float32, device=device)
    parameters = [p for p in net.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": lr, "fused": True, "capturable": device.type == "cuda"}
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **options)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], **options)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any], device: torch.device) -> None:
    """The optimiser as it was saved; its learning rate comes from the CPU and belongs on the device."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device).clone()


def precision(config: Config, device: torch.device) -> Literal["fp32", "bf16"]:
    """What networks compute in: bf16 (by autocast) on CUDA unless told otherwise, fp32 on the CPU. Weights and loss are
    fp32 always; float16 would need its gradients scaled, and NaN threads are about it (mmpose issue 200)."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Writes the learning rate into the optimiser's tensor: a fill, no copy from the host and no wait."""
    for group in optimizer.param_groups:
        group["lr"].fill_(lr)


def clip(net: nn.Module, limit: float | None) -> None:
    """Scales the gradients so that the norm of all together is at most `limit`; None: leaves them. No wait."""
    if limit is not None:
        nn.utils.clip_grad_norm_(net.parameters(), limit)


class Ema:
    """Exponential moving average of a network's weights: what is evaluated and published where it is asked for.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), so that the random weights of the start are soon
    forgotten (TensorFlow's `ExponentialMovingAverage(num_updates=…)`). Buffers (the statistics of batch norms, which
    are averages already) are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise TrainError(f"ema {decay!r}, expected a decay of 0 to below 1, such as 0.999")
        self.decay = decay
        self.updates = 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.net.parameters())
        self._buffers = list(self.net.buffers())

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Moves the average toward the weights of `net`, a network of the same kind."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights: list[Tensor] = list(net.parameters())
        torch._foreach_lerp_(self._averages, weights, 1 - decay)
        if self._buffers:
            torch._foreach_copy_(self._buffers, list(net.buffers()))
