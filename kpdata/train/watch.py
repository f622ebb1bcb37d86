"""What a training keeps an eye on: the losses since the last look, somebody who wants it to stop, and memory."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpdata.errors import TrainError
from kpdata.train.batch import Batch
from kpdata.train.config import Config

MOST = 0.05
"""Share of an epoch's people whose pictures may turn out unreadable: above, a disk is gone and no picture."""
_NAMED = 20  # pictures that one sentence names
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # what torch says on any device


class Window:
    """The steps since the last look: losses on the device, ids and what was wrong with pictures on the host, time."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.image_ids: list[Tensor] = []
        self.at: list[int] = []
        self.replaced: list[str] = []
        self.images = 0
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, batch: Batch, step: int) -> None:
        self.losses.append(loss)
        self.image_ids.append(batch.image_ids)  # of the batch as the loader gave it, on the host
        self.at.append(step)
        self.replaced += batch.replaced
        self.images += len(batch)

    def steps(self, step: int) -> int:
        return step - self.at[0] if self.at else 0

    def age(self) -> float:
        return max(time.perf_counter() - self.began, 1e-9)

    def fetch(self) -> NDArray[np.float32] | None:
        """The losses on the host: the one wait for the device."""
        return torch.stack(self.losses).float().cpu().numpy() if self.losses else None


@dataclass
class Replaced:
    """People whose picture could not be read when their turn came (`Crops`, replace), each time counted: in this epoch,
    and in all. broken: what was wrong with their pictures, each once."""

    epoch: int = 0
    total: int = 0
    broken: dict[str, None] = field(default_factory=dict)

    def add(self, problems: Sequence[str]) -> str:
        """Counts; a sentence about the pictures that are new, the first by name, empty where none is."""
        self.epoch, self.total = self.epoch + len(problems), self.total + len(problems)
        new = list(dict.fromkeys(problem for problem in problems if problem not in self.broken))
        self.broken |= dict.fromkeys(new)
        if not new:
            return ""
        one = len(new) == 1
        what = f"{len(new):,} {'picture' if one else 'pictures'} can no longer be read"
        who = f"other people take the place of those in {'it' if one else 'them'}"
        more = f"; and {len(new) - _NAMED:,} more" if len(new) > _NAMED else ""
        return f"{what}, and {who}: {'; '.join(new[:_NAMED])}{more}"

    def too_many(self, people: int) -> TrainError | None:
        """What ends the training, where that is more than `MOST` of the people of an epoch."""
        if self.epoch <= MOST * people:
            return None
        which = next(iter(self.broken), "") + (" and others" if len(self.broken) > 1 else "")
        return TrainError(
            f"the pictures of {self.epoch:,} of this epoch's {people:,} people could not be read, which is more than "
            f"{MOST:.0%}: {which}",
            hint="is the disk, or the folder of the pictures, still there? a new training leaves them out",
        )


class Interruption:
    """Ctrl-C and SIGTERM as a wish: `asked` is looked at after each step. A second one, or one within `at_once`, raises
    KeyboardInterrupt. Outside the main thread signals are left as they are."""

    def __init__(self) -> None:
        self.asked = False
        self._now = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._now:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self, wanted: bool = True) -> Iterator[None]:
        """Within, the first Ctrl-C raises: for work that nothing is lost by breaking off."""
        if wanted and self.asked:
            raise KeyboardInterrupt
        self._now = wanted
        try:
            yield
        finally:
            self._now = False


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, nothing is heard of a worker that died; after it, at once. torch's handler of SIGCHLD raises wherever the
    training is at that moment, which would leave a step half done. Outside the main thread nothing raises anyway."""
    number = getattr(signal, "SIGCHLD", None)
    before = None if number is None else signal.getsignal(number)
    if number is None or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[FrameType | None] = []
    signal.signal(number, lambda _, frame: heard.append(frame))
    try:
        yield
    finally:
        signal.signal(number, before)
    if heard:
        before(number, heard[-1])


@contextmanager
def enough_memory(config: Config) -> Iterator[None]:
    """Too little memory as a sentence with the batch size to try, also where a worker of the loader was killed for it;
    another process's failure stays its own."""
    try:
        yield
    except RuntimeError as problem:
        if died := worker_died(problem):
            raise died from problem
        if not about_memory(problem):
            raise
        half = config.batch // 2
        hint = f"--batch {half} --accumulate {2 * config.accumulate} makes the same steps with about half of it"
        if not half:
            hint = "a smaller --size or --model needs less"
        width, height = config.size
        what = f"{config.model} at {width} x {height}, batches of {config.batch}"
        raise TrainError(f"too little memory for {what}", hint=hint) from problem


def about_memory(problem: BaseException | None) -> bool:
    """Whether this, or what it came of, is too little memory: a graph's recording that lacks it first tells that it was
    broken off."""
    while problem is not None and not any(words in str(problem) for words in _NO_MEMORY):
        problem = problem.__context__
    return problem is not None


def worker_died(problem: Exception) -> TrainError | None:
    """The sentence for a worker of the loader that died, None for another problem. torch says it by an exception that
    its handler of SIGCHLD raises wherever the training is at that moment; or, when what the worker had sent is fetched
    from it, the connection breaks."""
    broke = isinstance(problem, ConnectionError | EOFError)
    if not broke and not any(words in str(problem) for words in ("DataLoader worker", "Pin memory thread exited")):
        return None
    why = [*str(problem).splitlines(), repr(problem)][-1 if broke else 0]
    hint = "too little memory (or shared memory, in a container)? fewer --workers or a smaller --batch need less"
    return TrainError(f"a worker of the loader died ({why})", hint=hint)
