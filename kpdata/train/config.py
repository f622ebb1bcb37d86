"""All values of a training, resolved: what the command line and a TOML file fill, and `run.json` repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kpdata.codec import Absent, Occluded, Target

Optimizer = Literal["adam", "adamw"]
Schedule = Literal["step", "cosine"]
Loss = Literal["mse", "ohkm"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A dataset to learn from, or to measure on. images: folder of the pictures; None: beside or in the dataset."""

    path: Path
    images: Path | None = None
    weight: float = 1.0  # of its people in the loss, and in how often they are drawn
    occluded: Occluded = "target"
    absent: Absent = "ignore"


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults are the published HRNet recipe for one GPU (docs/train.md has the source of each number)."""

    data: tuple[SourceConfig, ...]
    out: Path
    val: tuple[SourceConfig, ...] = ()
    model: str = "hrnet_w32"
    size: tuple[int, int] = (192, 256)  # width, height px
    target: Target = "gaussian"
    sigma: float | None = None  # cells; None: 2 at 256 x 192, in proportion to the height
    skeleton: str | None = None  # name or file; None: the data's, or the union of several
    preset: str = "hrnet"  # of kpdata.augment.presets
    init: Path | None = None  # weights to start from
    resume: Path | None = None  # a checkpoint of an interrupted training
    epochs: int = 210
    batch: int = 128
    accumulate: int = 1  # batches a step
    optimizer: Optimizer = "adam"
    lr: float | None = None  # None: 1e-3 for a batch of 128, in proportion to batch x accumulate x ranks
    weight_decay: float = 0.0  # AdamW's alone: Adam has none, as published
    schedule: Schedule = "step"
    milestones: tuple[float, ...] = (170 / 210, 200 / 210)  # shares of the epochs at which lr drops to a tenth
    warmup: int = 500  # steps, from lr / 1000
    clip: float | None = None  # largest norm of the gradient
    ema: float | None = None  # decay a step
    loss: Loss = "mse"
    hard: int = 8  # of ohkm: keypoints that count
    keypoint_weights: dict[str, float] = field(default_factory=dict)  # by name; 1 for the others
    precision: Precision = "auto"  # bf16 on CUDA, fp32 on the CPU
    device: str | None = None  # None: cuda where there is one
    workers: int | None = None  # None: one a core but one, at most 8
    packed: Path | None = None  # folder of packed crops, made if it is not there
    warp: Literal["auto", "cpu", "device"] = "auto"  # where crops are warped: the device for packed crops on CUDA
    seed: int = 0
    eval_every: int = 1  # epochs
    patience: int | None = None  # evaluations without a better one until it stops
    flip_test: bool = True
    missing_images: Literal["refuse", "skip"] = "refuse"
    ledger: bool = False  # write the loss of every (person, keypoint, epoch)
    tensorboard: bool = False
    max_steps: int | None = None  # stop after so many: trials and tests
    compile: bool = False  # torch.compile per unit
    graph: bool = False  # one CUDA graph a step
