"""All people of a dataset through a preset, by as many processes as the machine has cores: always in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.measured import Draws
from kpdata.augment.trial import Case, Trial, measure
from kpdata.augment.written import Written, save_picture, written
from kpdata.dataset import Dataset
from kpdata.errors import KpdataError

FEWEST = 2000
"""Samples below which no processes are started: they take longer to begin than the work does."""
SHARE = 32
"""Most pictures that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is wanted of each person. images: the folder of the photographs. shown: rows of people whose `Case` is to
    come back. stats: measure the samples. folder: where their pictures are written, None: nowhere."""

    images: Path
    shown: frozenset[int] = frozenset()
    stats: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of one person. outside: labelled keypoints that became absent in what was written."""

    case: Case | None = None
    draws: Draws | None = None
    written: tuple[Written, ...] = ()
    outside: int = 0


def outcomes(dataset: Dataset, trial: Trial, rows: NDArray[np.int64], job: Job) -> Iterator[Outcome]:
    """The people in these rows of `dataset.persons`, in the order of `Trial.cases`; `trial` counts on the way.

    Two processes or more where there are that many cores and `FEWEST` samples; the outcome is the same. KpdataError as
    `Trial.cases`, and where a process ends early.
    """
    cores, images = _cores(), len(np.unique(dataset.image_rows()[rows]))
    shares = trial.shares(dataset, rows, max(1, min(SHARE, images // (4 * cores))))
    count = min(cores, len(shares))
    if count < 2 or len(rows) * trial.samples < FEWEST:
        for case in trial.cases(dataset, rows, job.images):
            yield _outcome(case, trial, job)
        return
    fresh = replace(trial, pictures=0, boxless=0, unusable=[])
    # spawn: a fork of a process with threads (Arrow's, OpenCV's) may hang
    with ProcessPoolExecutor(count, get_context("spawn"), _begin, (dataset, fresh, job)) as pool:
        try:
            for found, counted in pool.map(_share, shares):
                trial.add(counted)
                yield from found
        except BrokenProcessPool as error:
            hint = "is there enough memory?"
            raise KpdataError("a process that augments ended early", hint=hint) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcome(case: Case, trial: Trial, job: Job) -> Outcome:
    files, outside = [], 0
    if job.folder is not None:
        before, stem = case.before, Path(str(case.before.extras.get("file_name", ""))).stem
        for k, sample in enumerate(case.after):
            name = f"{stem}_{case.row}_{k}.jpg"
            origin = {
                "file_name": before.extras.get("file_name"), "image_id": before.image_id,
                "annotation_id": None if before.annotation_ids is None else int(before.annotation_ids[0]),
                "draw": {"seed": trial.seed, "epoch": k, "index": case.row},
            }  # fmt: skip
            save_picture(sample, job.folder / name)
            files.append(written(sample, name, origin, case.split))
            outside += int((sample.visibility > 0).sum() - (files[-1].visibility > 0).sum())
    draws = measure(trial.preset, case) if job.stats else None
    return Outcome(case if case.row in job.shown else None, draws, tuple(files), outside)


# --------------------------------------------------------------------------------------- in a process that was started

_WORK: list[tuple[Dataset, Trial, Job]] = []


def _begin(dataset: Dataset, trial: Trial, job: Job) -> None:
    from kpdata.augment.image import opencv

    opencv("augmenting").setNumThreads(1)
    _WORK[:] = [(dataset, trial, job)]


def _share(rows: NDArray[np.int64]) -> tuple[list[Outcome], Trial]:
    dataset, fresh, job = _WORK[0]
    trial = replace(fresh, unusable=[])
    try:
        return [_outcome(case, trial, job) for case in trial.cases(dataset, rows, job.images)], trial
    except KpdataError as error:  # some of its children cannot be sent to another process
        raise KpdataError(error.message, hint=error.hint) from None
