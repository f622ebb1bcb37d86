"""What a training is made of, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kpdata.train.batch import Batch
from kpdata.train.config import Config
from kpdata.train.distributed import ALONE, Ranks
from kpdata.train.spec import NetworkSpec

Reason = Literal["finished", "early stop", "interrupted", "step limit"]
Line = dict[str, Any]
Validate = Callable[[nn.Module], dict[str, float]]


class Loader(Protocol):
    """Batches of people; `data.Loader` is one. position: (epoch, people of all processes used in it) of the next loop
    over it, set to resume; per_epoch: batches of a whole epoch."""

    position: tuple[int, int]

    @property
    def per_epoch(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Run:
    """All that a training is made of.

    validate: called with the network in `eval()` (the moving average's where there is one) on every process, of which
    the first one's numbers count; the first number decides what is best (larger is better), on a tie a smaller `loss`.
    log: takes a line, plain data with `event` of `start`, `train`, `evaluation`, `end`; on process 0 alone, as
    `picture`, which is called with the network and the epoch at each evaluation. policies, source_weights: of `prepare`
    and `heatmap_loss`, a row or number for each source. annotation_ids, image_ids (N,): of the loader's table of
    people, for the ledger. absent: `Crops.absent`, which a training that goes on has to leave out again.
    """

    config: Config
    spec: NetworkSpec
    net: nn.Module
    loader: Loader
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    validate: Validate | None = None
    log: Callable[[Line], None] = lambda line: None
    picture: Callable[[nn.Module, int], None] | None = None
    policies: Tensor | None = None
    source_weights: Tensor | None = None
    annotation_ids: NDArray[np.int64] | None = None
    image_ids: NDArray[np.int64] | None = None
    absent: Sequence[Sequence[int]] = ()
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Result:
    """What came of it. epochs: finished ones. metrics: of the last evaluation, best: of the best one (empty without).

    loss: mean of the last epoch's steps. images_per_second of all processes and waits, the share of the time in which
    the loop stood waiting for data, are those of this run's training without its evaluations. replaced: people whose
    picture could not be read when their turn came and whose place another took, counted each time; broken: what was
    wrong with these pictures, each once.
    """

    reason: Reason
    epochs: int
    steps: int
    loss: float
    metrics: dict[str, float]
    best: dict[str, float]
    best_epoch: int | None
    last_checkpoint: Path
    best_checkpoint: Path | None
    images_per_second: float
    waits: float
    replaced: int = 0
    broken: tuple[str, ...] = ()
