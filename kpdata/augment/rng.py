"""Random numbers that any worker draws alike: from a seed, the epoch and the index of a sample, never from a clock.

The epoch reaches persistent workers because the sampler yields it: `EpochSampler` gives `(epoch, index)` pairs, and the
data set's `__getitem__` passes both to `generator`. Which worker and rank it is, and of how many, plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import SchemaError

Distribution = Literal["normal", "uniform", "truncated"]
"""How a recipe spreads an amount around its middle, in units of the recipe's factor; see `spread`."""


def generator(seed: int, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """The random numbers of one sample in one epoch: equal arguments give equal numbers on every machine and process.

    Streams of different arguments are independent (NumPy's SeedSequence mixes all three). SchemaError for what is no
    whole number of 0 or more.
    """
    if not all(isinstance(number, int | np.integer) and number >= 0 for number in (seed, epoch, index)):
        raise SchemaError(f"seed {seed!r}, epoch {epoch!r}, index {index!r}: expected whole numbers, 0 or more")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((int(seed), int(epoch), int(index)))))


def spread(
    rng: np.random.Generator, distribution: Distribution, clip: float = 1.0, count: int | None = None
) -> NDArray[np.float64]:
    """`count` random amounts in units of a recipe's factor (0-d without count); each uses one number of the stream.

    - `normal`: a standard normal *clipped* at ±clip, so that some mass sits on the ends (HRNet and Simple Baseline:
      `np.clip(np.random.randn() * rf, -rf * 2, rf * 2)`, clip 2 for the rotation and 1 for the scale).
    - `truncated`: a standard normal cut to (-1, 1), without mass on the ends (mmpose's RandomBBoxTransform:
      `truncnorm.rvs(-1, 1)`). clip plays no part.
    - `uniform`: even between -1 and 1. clip plays no part.
    """
    if distribution == "normal":
        amounts = np.asarray(rng.standard_normal(count))
        return np.minimum(np.maximum(amounts, -clip), clip)  # np.clip takes five times as long for one
    amount = np.asarray(rng.random(count))
    if distribution == "uniform":
        return 2 * amount - 1
    table = _truncated_normal()
    return np.asarray(np.interp(amount, table[0], table[1]))


def check_distribution(where: str, name: str) -> None:
    """SchemaError that names `where`, unless `name` is a `Distribution`."""
    if name not in get_args(Distribution):
        raise SchemaError(f"{where}: distribution {name!r}, expected one of {list(get_args(Distribution))}")


@cache
def _truncated_normal() -> NDArray[np.float64]:
    """(2, 4097) the inverse of the distribution function of a standard normal cut to (-1, 1), within 1e-7."""
    normal = NormalDist()
    share = np.linspace(0, 1, 4097)
    low, high = normal.cdf(-1), normal.cdf(1)
    return np.array([share, [normal.inv_cdf(low + (high - low) * value) for value in share.tolist()]])


@dataclass
class EpochSampler:
    """Yields `(epoch, index)` of a data set of `length` samples, epoch after epoch, in an order of its own each.

    It stands in for a sampler of `torch.utils.data.DataLoader(dataset, sampler=EpochSampler(len(dataset), seed=0))`
    without importing torch: each iteration over it is one epoch, and the next iteration is the next epoch, so there is
    no `set_epoch` to forget. `dataset[(epoch, index)]` draws with `generator(seed, epoch, index)`.

    rank, world: this process takes every `world`-th sample of the common order. All ranks get equally many: the order
    is filled up with its first samples, or, with `drop_last`, cut. Resume with
    `sampler.position = saved` where `saved` is what `position` said, as `(epoch, samples of this rank already used)`;
    count the samples that were trained on, since a DataLoader's workers run ahead of the training.

    SchemaError for a length below 1, a rank outside 0..world-1, a seed below 0, a position outside the epoch.
    """

    length: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    drop_last: bool = False
    epoch: int = 0
    start: int = 0  # samples of this rank to skip in the coming epoch

    def __post_init__(self) -> None:
        if self.length < 1 or self.world < 1 or not 0 <= self.rank < self.world:
            raise SchemaError(
                f"EpochSampler: length {self.length}, rank {self.rank} of world {self.world}; "
                "expected at least one sample and a rank below the world's size"
            )
        if self.seed < 0:
            raise SchemaError(f"EpochSampler: seed {self.seed}, expected 0 or more")
        if self.drop_last and self.length < self.world:
            raise SchemaError(f"EpochSampler: {self.length} samples for {self.world} ranks, and drop_last leaves none")
        self.position = (self.epoch, self.start)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, samples of this rank used in it): what the next iteration starts with."""
        return self.epoch, self.start

    @position.setter
    def position(self, value: tuple[int, int]) -> None:
        epoch, start = value
        if epoch < 0 or not 0 <= start <= self._per_rank():
            raise SchemaError(
                f"EpochSampler: position (epoch {epoch}, sample {start}), expected an epoch of 0 or more "
                f"and 0 to {self._per_rank()} samples"
            )
        if start == self._per_rank():
            epoch, start = epoch + 1, 0
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Samples that the coming iteration yields."""
        return self._per_rank() - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, start = self.position
        self.position = (epoch + 1, 0)  # before the first yield: an iteration that breaks off still ends its epoch
        return iter([(epoch, index) for index in self.order(epoch)[start:].tolist()])

    def order(self, epoch: int) -> NDArray[np.int64]:
        """(per rank,) indices of this rank in that epoch, from its start."""
        order = np.arange(self.length)
        if self.shuffle:  # 2**32 keeps the order's stream apart from that of sample 0
            np.random.Generator(np.random.PCG64([self.seed, epoch, 2**32])).shuffle(order)
        total = self._per_rank() * self.world
        return np.resize(order, total)[self.rank :: self.world]

    def _per_rank(self) -> int:
        return self.length // self.world if self.drop_last else -(-self.length // self.world)

    def state_dict(self) -> dict[str, Any]:
        """The position as a JSON-ready dictionary, for a checkpoint."""
        return {"epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.position = (int(state["epoch"]), int(state["start"]))
