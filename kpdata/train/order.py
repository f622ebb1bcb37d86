"""In which order people come: images shuffled, the people of an image together, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import TrainError

Ints = NDArray[np.int64]
Place = tuple[int, int]  # epoch, index; see Batches

_ORDER = 2**32  # keeps the stream of the order apart from those of the samples, as kpdata.augment.rng does


@dataclass
class Batches:
    """Batches of `(epoch, index)`, epoch after epoch: the batch sampler of a `DataLoader`. Each iteration is an epoch.

    image, source (N,): of each person. shares (S,): how often the people of a source come in an epoch. index: the
    person, plus N for each time that they came before in the same epoch (each time is drawn anew). shuffle: images in
    an order of their own each epoch, from `seed`; else the table's order, everybody once.

    rank, world: a batch of `batch` people for each of `world` processes is cut from one common order, so that `world`
    processes see together what one process with the batch `batch * world` sees. drop_last: the rest of an epoch that
    is no whole batch is dropped (it is another one each epoch); else the order's first people fill it up to equally
    many a rank, or, without shuffle, nothing: the last ranks may then have a batch less.

    position: (epoch, people used in it by all ranks); set it, and the next iteration goes on from there. It must be at
    the edge of a batch. Nothing changes until the first batch is asked for: torch makes iterators it never uses.

    TrainError for nobody, numbers out of range, or fewer people than a batch with drop_last.
    """

    image: Ints
    source: Ints
    batch: int
    seed: int = 0
    shuffle: bool = True
    shares: tuple[float, ...] = ()
    rank: int = 0
    world: int = 1
    drop_last: bool = False
    position: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seed < 0 or not 0 <= self.rank < self.world:
            found = f"batch {self.batch}, seed {self.seed}, rank {self.rank} of {self.world}"
            raise TrainError(f"{found}: expected a batch of at least 1, a seed from 0 on and a rank below their number")
        if not self.people:
            raise TrainError("nobody to train on: an epoch has no people")
        if not len(self):
            raise TrainError(
                f"{self.people:,} people an epoch, fewer than a batch of {self.batch} x {self.world}",
                hint=f"a batch of at most {max(1, self.people // self.world)} fits",
            )

    @property
    def people(self) -> int:
        """People of an epoch, of all ranks, before any are dropped."""
        return sum(self._counts()) if self.shuffle else len(self.image)

    @property
    def per_epoch(self) -> int:
        """Batches of a whole epoch for this rank."""
        return self._batches(self.people)

    def __len__(self) -> int:
        """Batches of the coming epoch for this rank: fewer where `position` is inside of it."""
        return self._batches(self.people - self.start()[1])

    def start(self) -> tuple[int, int]:
        """`position`, which at an epoch's end is the beginning of the next. TrainError where it is no edge."""
        (epoch, used), step = self.position, self.batch * self.world
        whole = self.people // step * step if self.drop_last else self.people
        if used >= whole > 0:
            return epoch + 1, 0
        if epoch < 0 or used < 0 or used % step:
            raise TrainError(
                f"position (epoch {epoch}, {used:,} people): expected a multiple of the {step} people of a step",
                hint="resume with the batch size and number of processes that the checkpoint was trained with",
            )
        return epoch, used

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, used = self.start()
        self.position = (epoch + 1, 0)  # an iteration that breaks off still ends its epoch
        order = self.order(epoch)
        step = self.batch * self.world
        for at in range(used, len(order), step):
            part = order[at : at + step]
            if len(part) < step:
                if self.drop_last:
                    return
                each = -(-len(part) // self.world)
                part = np.resize(np.concatenate([part, order]), each * self.world) if self.shuffle else part
                mine = part[self.rank * each : (self.rank + 1) * each]
            else:
                mine = part[self.rank * self.batch : (self.rank + 1) * self.batch]
            if len(mine):
                yield [(epoch, index) for index in mine.tolist()]

    def order(self, epoch: int) -> Ints:
        """(people,) the indices of an epoch, of all ranks."""
        count = len(self.image)
        if not self.shuffle:
            return np.arange(count)
        chosen = np.concatenate([self._of(number, epoch) for number in range(len(self._counts()))])
        images = int(self.image.max()) + 1
        key = self.image[chosen % count] + images * (chosen // count)  # a second time is another place
        place = self._rng(epoch).permutation(int(key.max()) + 1)[key]
        return chosen[np.lexsort((chosen, place))]

    def _of(self, number: int, epoch: int) -> Ints:
        """The people of a source in an epoch: the next ones of an order that all epochs go round."""
        own, (wanted, count) = np.flatnonzero(self.source == number), (self._counts()[number], len(self.image))
        if wanted == len(own):
            return own
        images = self.image[own]
        turn = self._rng(_ORDER + number).permutation(int(images.max()) + 1)[images]
        round_trip = own[np.lexsort((own, turn))]
        at = epoch * wanted + np.arange(wanted)
        return round_trip[at % len(own)] + count * (np.arange(wanted) // len(own))

    def _counts(self) -> list[int]:
        """People that each source gives an epoch."""
        sizes = np.bincount(self.source, minlength=len(self.shares)).tolist()
        shares = self.shares or (1.0,) * len(sizes)
        return [max(1, round(size * share)) if size else 0 for size, share in zip(sizes, shares, strict=True)]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, stream, _ORDER]))

    def _batches(self, people: int) -> int:
        step = self.batch * self.world
        whole, rest = divmod(people, step)
        if not rest or self.drop_last:
            return whole
        each = -(-rest // self.world)
        return whole + int(self.shuffle or self.rank * each < rest)
