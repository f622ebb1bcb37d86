"""Independent pieces of NumPy work side by side: NumPy lets go of the interpreter while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")
WORTH_IT = 1 << 14  # rows, or pairs: fewer are done sooner than a thread is started
MOST_WORKERS = 4  # more do not pay: what lies between two NumPy calls is Python's, one thread at a time


def workers() -> int:
    """How many threads `in_threads` uses: the processors that this process may use, at most MOST_WORKERS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MOST_WORKERS)


def in_threads(tasks: Sequence[Callable[[], T]], *, size: int) -> list[T]:
    """The results of all tasks, in their order, whichever ran when; raises what the first that failed raised.

    `size`: how many rows or pairs each works on; below WORTH_IT the caller's thread, which works too, works alone.
    """
    results: dict[int, T] = {}
    failed: list[BaseException] = []
    waiting, lock = iter(range(len(tasks))), threading.Lock()

    def work() -> None:
        while not failed:
            with lock:
                i = next(waiting, None)
            if i is None:
                return
            try:
                results[i] = tasks[i]()
            except BaseException as error:  # raised again below, in the caller's thread
                failed.append(error)

    helpers = min(workers(), len(tasks)) - 1 if size >= WORTH_IT else 0
    others = [thread for _ in range(helpers) if (thread := started(work))]
    try:
        work()
        for thread in others:
            thread.join()
    except BaseException as error:  # Ctrl-C between two tasks, or while waiting: the others end with what they do
        failed.append(error)
        raise
    if failed:
        raise failed[0]
    return [results[i] for i in range(len(tasks))]


def started(work: Callable[[], object], *, daemon: bool = False) -> threading.Thread | None:
    """A thread that does this; None where the system gives no more threads, and nothing is done."""
    thread = threading.Thread(target=work, daemon=daemon)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def both(one: Callable[[], T], other: Callable[[], U], *, size: int) -> tuple[T, U]:
    """The results of two different tasks, as `in_threads`."""
    tasks: list[Callable[[], Any]] = [one, other]
    first, second = in_threads(tasks, size=size)
    return first, second
