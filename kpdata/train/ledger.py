"""The loss of every (person, keypoint, epoch) of a training: which labels are hard, and which look wrong.

While an epoch runs the losses lie in one (N, K) tensor on the network's device, written with one `index_copy_` a step;
at its end they become `ledger/epoch-0007.parquet`. A file an epoch: nothing is rewritten, a file is whole or absent,
and an epoch that is trained again after a crash replaces its own.

A loss is what the network paid for a keypoint in that epoch's crop, before weights of keypoints and sources; NaN where
the keypoint was not a target. Crops are drawn anew each epoch, so that one number says little and a mean of some says
much. A network that has memorised a wrong label pays little for it: `noisy_labels` is about labels that even the
network which saw them resisted; predictions out of fold find the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor, device

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FOLDER = "ledger"
_NAME = re.compile(r"epoch-(\d+)\.parquet")
_COLUMNS = {
    "annotation_id": pa.int64(),
    "image_id": pa.int64(),
    "epoch": pa.int32(),
    "loss": pa.list_(pa.float32()),
}
_KEYPOINTS = b"keypoints"
UNLEARNED = 0.5
"""A label is "never learned" where its least loss is above this share of what the keypoint's typical label cost in the
first epoch. A heatmap without a peak costs 1 in such units, a peak elsewhere about 2; a learned one far less."""


class Recorder:
    """Gathers one epoch's losses on the device. annotation_ids, image_ids: (N,) of the loader's table of people."""

    def __init__(
        self, folder: Path, annotation_ids: Ints, image_ids: Ints, keypoints: Sequence[str], where: device | str = "cpu"
    ) -> None:
        import torch

        self.folder = folder
        self.annotation_ids, self.image_ids = np.asarray(annotation_ids), np.asarray(image_ids)
        self.keypoints = tuple(keypoints)
        shape = (len(self.annotation_ids), len(self.keypoints))
        self.losses: Tensor = torch.full(shape, torch.nan, dtype=torch.float32, device=where)

    def record(self, index: Tensor, losses: Tensor) -> None:
        """Keeps losses (B, K), NaN where no target was, of the people `index` (B,). One kernel, no wait."""
        self.losses.index_copy_(0, index, losses.detach().float())

    def write(self, epoch: int, losses: NDArray[np.floating] | None = None) -> None:
        """Writes the epoch's file and forgets its losses. losses: (N, K) of all processes, where there are several.

        People whose keypoints were no targets, or who were not drawn in this epoch, have no row.
        """
        everyone = self.losses.cpu().numpy() if losses is None else losses
        rows = np.flatnonzero(np.isfinite(everyone).any(1))
        write_epoch(self.folder, epoch, self.annotation_ids[rows], self.image_ids[rows], everyone[rows], self.keypoints)
        self.clear()

    def clear(self) -> None:
        """Forgets the losses of the epoch."""
        self.losses.fill_(float("nan"))


@dataclass(frozen=True, slots=True)
class Ledger:
    """R rows, sorted by epoch: losses (R, K) float32 (NaN: not a target) of a person's keypoints in an epoch."""

    keypoints: tuple[str, ...]
    annotation_ids: Ints
    image_ids: Ints
    epochs: Ints
    losses: Floats

    def last(self, epochs: int) -> Ledger:
        """The rows of the last so many epochs that the ledger has."""
        return self._rows(np.isin(self.epochs, np.unique(self.epochs)[-epochs:]))

    def people(self) -> tuple[Ints, Ints, Ints]:
        """annotation_id (P,) and image_id (P,) of each person, and for every row the number of its person (R,).

        Ids are unique within a data set, and a training may learn from several: the pair names a person.
        """
        order = np.lexsort((self.image_ids, self.annotation_ids))
        pairs = np.stack([self.annotation_ids, self.image_ids], 1)[order]
        fresh = np.ones(len(pairs), bool)
        fresh[1:] = (pairs[1:] != pairs[:-1]).any(1)
        number = np.empty(len(pairs), np.int64)
        number[order] = np.cumsum(fresh) - 1
        return pairs[fresh, 0], pairs[fresh, 1], number

    def _rows(self, keep: NDArray[np.bool_]) -> Ledger:
        return Ledger(
            self.keypoints, self.annotation_ids[keep], self.image_ids[keep], self.epochs[keep], self.losses[keep]
        )


# ------------------------------------------------------------------------------------------------------------- on disk


def write_epoch(
    folder: Path, epoch: int, annotation_ids: Ints, image_ids: Ints, losses: NDArray[np.floating], names: Sequence[str]
) -> None:
    """Writes one epoch's file of the ledger, in place of one that is there. losses (R, K). WriteError as `files`."""
    count = len(annotation_ids)
    flat = np.ascontiguousarray(losses, np.float32).reshape(-1)
    inner = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
    epochs = np.full(count, epoch, np.int32)
    columns = [
        schema.fixed(annotation_ids, pa.int64()),
        schema.fixed(image_ids, pa.int64()),
        schema.fixed(epochs, pa.int32()),
        schema.lists(inner, np.full(count, len(names))),
    ]
    kind = pa.schema(list(_COLUMNS.items()), metadata={_KEYPOINTS: "\n".join(names).encode()})
    with files.replacing(folder / f"epoch-{epoch:04d}.parquet", force=True) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=kind), temporary)


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a training's folder, or of its `ledger` folder. TrainError where there is none or it is damaged."""
    inside = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    found = sorted((int(m[1]), p) for p in inside.glob("epoch-*.parquet") if (m := _NAME.fullmatch(p.name)))
    if not found:
        raise TrainError(f"{folder}: no ledger of losses in it", hint="train with --ledger to have one written")
    parts = [_read_epoch(path) for _, path in found]
    if len({part.keypoints for part in parts}) > 1:
        raise TrainError(f"{inside}: its files are of different keypoints", hint="give each training its own folder")
    return Ledger(
        parts[0].keypoints,
        np.concatenate([part.annotation_ids for part in parts]),
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.epochs for part in parts]),
        np.concatenate([part.losses for part in parts]),
    )


def _read_epoch(path: Path) -> Ledger:
    try:
        table = pq.ParquetFile(path).read()
        names = tuple(table.schema.metadata[_KEYPOINTS].decode().split("\n"))
        if {field.name: field.type for field in table.schema} != _COLUMNS:
            raise TrainError(f"{path}: not a file of a ledger: its columns are {table.schema.names}")
        ids, images, epochs = (schema.values(table[key]).astype(np.int64) for key in list(_COLUMNS)[:3])
        flat = schema.chunk(table["loss"]).values
        losses = np.frombuffer(flat.buffers()[1], np.float32, count=len(flat)) if len(flat) else np.empty(0, np.float32)
        return Ledger(names, ids, images, epochs, losses.reshape(len(ids), len(names)))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        hint = "delete it: the ledger does without an epoch"
        raise TrainError(f"{path}: cannot be read as a ledger ({problem})", hint=hint) from problem


# ------------------------------------------------------------------------------------------------------------ rankings


def hardest_people(ledger: Ledger, *, epochs: int = 5) -> pa.Table:
    """People by the mean loss of their keypoints in the last `epochs`, hardest first.

    Columns annotation_id, image_id, loss, keypoints (targets that were averaged in an epoch, at most), epochs seen.
    """
    recent = ledger.last(epochs)
    ids, images, number = recent.people()
    total, count = _sums(recent.losses, number, len(ids))
    mean = _ratio(total.sum(1), count.sum(1))
    order = np.argsort(-mean, kind="stable")
    columns = {
        "annotation_id": schema.fixed(ids[order], pa.int64()),
        "image_id": schema.fixed(images[order], pa.int64()),
        "loss": schema.fixed(mean[order], pa.float64()),
        "keypoints": schema.fixed((count > 0).sum(1)[order], pa.int64()),
        "epochs": schema.fixed(np.bincount(number, minlength=len(ids))[order], pa.int64()),
    }
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def hardest_keypoints(ledger: Ledger, *, epochs: int = 5) -> pa.Table:
    """Keypoints by their mean loss in the last `epochs`, hardest first: keypoint, loss, labels (losses averaged)."""
    recent = ledger.last(epochs)
    total, count = _sums(recent.losses, np.zeros(len(recent.losses), np.int64), 1)
    mean = _ratio(total[0], count[0])
    order = np.argsort(np.where(np.isnan(mean), np.inf, -mean), kind="stable")
    columns = {
        "keypoint": schema.strings([ledger.keypoints[k] for k in order.tolist()]),
        "loss": schema.fixed(mean[order], pa.float64()),
        "labels": schema.fixed(count[0][order], pa.int64()),
    }
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def noisy_labels(ledger: Ledger, *, epochs: int = 5, limit: int | None = 1000) -> pa.Table:
    """Labels that the network resisted: those never learned first, then by how much dearer than usual they are.

    Columns annotation_id, image_id, keypoint; loss: mean over the last `epochs`; ratio: that, in medians of the same
    keypoint over all people (an ankle is always dearer than a nose); least: the least loss of any epoch; never_learned:
    it stayed above `UNLEARNED` of the keypoint's median in the ledger's first epoch. limit: rows at most.
    """
    ids, images, number = ledger.people()
    recent = np.isin(ledger.epochs, np.unique(ledger.epochs)[-epochs:])
    total, count = _sums(ledger.losses[recent], number[recent], len(ids))
    mean = _ratio(total, count)
    least = np.full(mean.shape, np.inf)
    np.fmin.at(least, number, ledger.losses)
    first = ledger.losses[ledger.epochs == ledger.epochs.min()] if len(ledger.epochs) else ledger.losses
    unlearned = least > UNLEARNED * _medians(first)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mean / _medians(mean)
    person, keypoint = np.nonzero(np.isfinite(ratio))
    order = np.lexsort((-ratio[person, keypoint], ~unlearned[person, keypoint]))[:limit]
    person, keypoint = person[order], keypoint[order]
    columns = {
        "annotation_id": schema.fixed(ids[person], pa.int64()),
        "image_id": schema.fixed(images[person], pa.int64()),
        "keypoint": schema.strings([ledger.keypoints[k] for k in keypoint.tolist()]),
        "loss": schema.fixed(mean[person, keypoint], pa.float64()),
        "ratio": schema.fixed(ratio[person, keypoint], pa.float64()),
        "least": schema.fixed(least[person, keypoint], pa.float64()),
        "never_learned": schema.fixed(unlearned[person, keypoint], pa.bool_()),
    }
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def _sums(losses: Floats, group: Ints, groups: int) -> tuple[NDArray[np.float64], Ints]:
    """Sum (G, K) and count (G, K) of the finite losses (R, K) of each group (R,)."""
    finite = np.isfinite(losses)
    total = np.zeros((groups, losses.shape[1]))
    count = np.zeros((groups, losses.shape[1]), np.int64)
    np.add.at(total, group, np.where(finite, losses, 0))
    np.add.at(count, group, finite)
    return total, count


def _ratio(total: NDArray[np.float64], count: Ints) -> NDArray[np.float64]:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _medians(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """(K,) median of each column's finite values; NaN where there are none."""
    return np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in values.T], np.float64)
