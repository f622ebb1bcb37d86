"""Everybody predicted by a network that has not seen them: K trainings, each without a part of the pictures.

    found = folds(config, 5)
    found.parts[0].suspects            # labels that such predictions contradict, most suspicious first

A network that has memorised a label cannot contradict it, so the labels of a training set are judged out of fold: the
pictures are dealt into K parts, and each part is predicted by the network that learnt from the others. The weights are
those of the last epoch, or the best by `config.val` where there is one: chosen by the part itself they would have seen
its labels after all. The folder gets `fold-1` … (a training each), `out-of-fold.kp` (the predictions, under the ids of
the people), `ledger` (the mean of the trainings' ledgers) and `folds.json`; a fold that is finished is not trained
again, and one that was interrupted goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.errors import DestinationExists, EvaluationError, TrainError
from kpdata.eval.evaluation import Evaluation, evaluate, evaluate_oks
from kpdata.eval.suspects import SCHEMA
from kpdata.train import distributed, ledger, lint
from kpdata.train.checkpoint import open_network
from kpdata.train.config import Config, SourceConfig
from kpdata.train.data import Crops
from kpdata.train.logs import Line
from kpdata.train.loop import BEST, LAST
from kpdata.train.mixed import Source
from kpdata.train.setup import NONE, recipe, workers
from kpdata.train.training import RUN, train
from kpdata.train.validation import Validator, under

Log = Callable[[Line], None]
Ints = NDArray[np.int64]

RECORD = "folds.json"
PREDICTIONS = "out-of-fold"
SUSPECTS = 1000  # rows that are kept at most
_WEAK = 0.01  # score from which suspicions of weak networks are listed
_NAME = "predictions"  # of the predictions in provenance
_APART = ("out", "resume", "device", "workers", "tensorboard", "ledger", "compile", "graph")
"""Values that make no other network."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One training. trained, held: pictures that it saw, and did not. metrics: of its own predictions of the latter."""

    number: int
    checkpoint: Path
    trained: int
    held: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """The predictions for one source. images: its folder of pictures, None where they lie in it. path: where the
    predictions lie. stats: of `kpdata.evaluate`, by the metric that it chooses; empty where it cannot score them.

    suspects: rows of `eval.suspects.SCHEMA` of all skeletons, most suspicious first. Where networks are wrong too often
    to contradict anybody surely, only people whose sides look exchanged, at small scores, and a note says so.
    """

    source: SourceConfig
    images: Path | None
    path: Path
    people: Dataset
    stats: dict[str, float]
    suspects: pa.Table
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """What came of it. finished: False after Ctrl-C, and nothing else then. hardest: of `ledger.hardest_people`."""

    finished: bool
    folds: tuple[Fold, ...] = ()
    parts: tuple[OutOfFold, ...] = ()
    hardest: pa.Table | None = None
    ledger: Path | None = None


def folds(config: Config, count: int, *, by: str | None = None, log: Log | None = None, force: bool = False) -> Folds:
    """Trains `count` networks, each without one part of the pictures, and predicts everybody with the one that has not
    seen them.

    by: a column of images (or `extras.KEY`) whose equal values stay together, as in `Dataset.split`; the parts are
    those of its seed, `config.seed`. Several sources are each dealt out; a picture that two sources share may be held
    out of one and learnt from the other: merge them first. log: takes the lines of the trainings, with `fold`.
    force: folds of other values in `config.out` go.

    Raises TrainError for fewer than 2 folds or pictures, several processes, `config.resume` (folds go on by themselves)
    and a folder that holds a plain training; DestinationExists for folds of other data or values; and what `train` and
    reading raise.
    """
    _expect(config, count)
    reads = [lint.read_source(one, config.skeleton) for one in config.data]
    dealt = [_deal(one, count, config.seed, by) for one in reads]
    _claim(config, reads, {"folds": count, "by": by}, force)
    heard = _heard(log)
    for number in range(count):
        if not _trained(config, reads, dealt, number, heard):
            return Folds(finished=False)
    done, found = [], [[] for _ in reads]  # type: ignore[var-annotated]  # of each source, the datasets of its parts
    for number in range(count):
        fold, predicted = _held_out(config, reads, dealt, number)
        done.append(fold)
        for mine, more in zip(found, predicted, strict=True):
            mine.extend(more)
    parts = [_part(config, reads, number, each) for number, each in enumerate(found)]
    where = _merge_ledgers([config.out / _name(number) for number in range(count)], config.out)
    return Folds(True, tuple(done), tuple(parts), ledger.hardest_people(ledger.read_ledger(where)), where)


def _expect(config: Config, count: int) -> None:
    if count < 2:
        raise TrainError(f"{count} folds, expected 2 or more", hint="5 are usual")
    if config.resume is not None:
        raise TrainError("resume and folds are both given", hint="the same command again goes on where folds stopped")
    if distributed.from_environment().world > 1:
        raise TrainError("folds in several processes", hint="start `kpdata train --folds` by itself, without torchrun")


def _deal(read: lint.Read, count: int, seed: int, by: str | None) -> Ints:
    """(I,) the part, from 0, of each image of a source."""
    dataset = read.source.dataset
    ids, part = schema.values(dataset.images["image_id"]), np.zeros(dataset.images.num_rows, np.int64)
    names = [_name(number) for number in range(count)]
    for number, found in enumerate(dataset.split(dict.fromkeys(names, 1 / count), seed=seed, by=by).values()):
        part[np.isin(ids, schema.values(found.images["image_id"]))] = number
    return part


def _name(number: int) -> str:
    return f"fold-{number + 1}"


def _heard(log: Log | None) -> Callable[[int], Log]:
    """A log for each fold: lines get its number, and a sentence that another fold has said already is left out."""
    said: set[str] = set()

    def of(number: int) -> Log:
        def hear(line: Line) -> None:
            text = line.get("text")
            if log is not None and text not in said:
                log({**line, "fold": number + 1})
            if text:
                said.add(text)

        return hear

    return of


# ----------------------------------------------------------------------------------------------------------- the folder


def _claim(config: Config, reads: Sequence[lint.Read], facts: dict[str, Any], force: bool) -> None:
    """The folder for these folds: new, or with those of the same data and values. What differs is said."""
    out, values = config.out, {k: v for k, v in config.to_json().items() if k not in _APART}
    for one, value in zip(reads, values["data"], strict=True):
        value |= {"people": len(one.source.dataset), "pictures": one.source.dataset.images.num_rows}
        value["sha256"] = [f.get("sha256") for d in one.source.dataset.datasets.values() for f in d.get("files") or ()]
    record = {**facts, **values}
    if any((out / name).exists() for name in (BEST, LAST)):
        raise TrainError(f"{out}: holds a training of its own", hint="folds want a folder of theirs: another --out")
    before = _record(out / RECORD)
    if before is not None and before != json.loads(json.dumps(record)):
        if not force:
            differ = sorted(key for key in {*before, *record} if before.get(key) != record.get(key))
            problem = DestinationExists(out / RECORD)
            problem.message = f"{out}: holds folds of other values ({', '.join(differ)})"
            problem.hint = "--force trains them anew, or another --out"
            raise problem
        for path in [*out.glob("fold-*"), out / ledger.FOLDER]:
            if path.name == ledger.FOLDER or path.name.removeprefix("fold-").isdecimal():
                shutil.rmtree(path, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    files.write_bytes(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False).encode(), force=True)


def _record(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# ------------------------------------------------------------------------------------------------------------- training


def _trained(
    config: Config, reads: Sequence[lint.Read], dealt: Sequence[Ints], number: int, heard: Callable[[int], Log]
) -> bool:
    """Trains one fold, or the rest of it; False where somebody interrupted it."""
    out = config.out / _name(number)
    if _is_finished(out, config):
        return True
    out.mkdir(parents=True, exist_ok=True)
    data = tuple(
        _without(read, part == number, out / (f"train-{place}.kp" if len(reads) > 1 else "train.kp"))
        for place, (read, part) in enumerate(zip(reads, dealt, strict=True), 1)
    )
    begun = (out / LAST).is_file()
    fold = replace(
        config, data=data, out=out, ledger=True, packed=config.packed and config.packed / _name(number),
        resume=out / LAST if begun else None, init=None if begun else config.init,
    )  # fmt: skip
    return train(fold, log=heard(number), force=True).reason != "interrupted"


def _without(read: lint.Read, held: NDArray[np.bool_], path: Path) -> SourceConfig:
    """A source without the images that are held out, written to `path`; its pictures stay where they are."""
    images = read.source.images
    read.source.dataset.select(images=~held, op="hold out").save(path, force=True)
    return replace(read.config, path=path, format="kp", images=None if images is None else images.resolve())


def _is_finished(out: Path, config: Config) -> bool:
    """The training in this folder came to its end, or to the step limit."""
    result = (_record(out / RUN) or {}).get("result") or {}
    limit = config.max_steps is not None and result.get("steps", 0) >= config.max_steps
    return _checkpoint(out, config).is_file() and (result.get("reason") in ("finished", "early stop") or limit)


def _checkpoint(out: Path, config: Config) -> Path:
    return out / (BEST if config.val else LAST)


# ----------------------------------------------------------------------------------------------------------- predicting


def _held_out(
    config: Config, reads: Sequence[lint.Read], dealt: Sequence[Ints], number: int
) -> tuple[Fold, list[list[Dataset]]]:
    """Predictions of the part that a fold has not seen, of each source; several where people use several skeletons."""
    path = _checkpoint(config.out / _name(number), config)
    spec, net, _ = open_network(path)
    sources = [
        Source(read.source.dataset.select(images=part == number), read.source.images, name=read.source.name)
        for read, part in zip(reads, dealt, strict=True)
    ]
    crops = Crops(sources, spec.skeleton, recipe(NONE, spec), augment=False, missing=config.missing_images)
    device = distributed.pick_device(config.device)
    validator = Validator(
        crops, sources, spec, batch=min(config.batch, 64), workers=workers(config), flip_test=config.flip_test,
        device=device,
    )  # fmt: skip
    points, scores, _ = validator.predict(net.to(device).eval())
    predicted: list[list[Dataset]] = [[] for _ in reads]
    for part in validator.parts:
        ids = crops.people.annotation_ids[part.people]
        owner = int(crops.people.source[part.people[0]])
        predicted[owner].append(under(ids, validator.predictions(part, points, scores)))
    held = sum(int((part == number).sum()) for part in dealt)
    trained = sum(len(part) for part in dealt) - held
    return Fold(number + 1, path, trained, held, validator.numbers(points, scores)), predicted


def _part(config: Config, reads: Sequence[lint.Read], number: int, predicted: Sequence[Dataset]) -> OutOfFold:
    """The predictions of all folds for one source, in the order of its people, written and scored."""
    read = reads[number]
    if not predicted:
        raise TrainError(
            f"{read.source.name}: nobody in it could be predicted", hint=f"`kpdata validate {read.source.name}`"
        )
    people = _joined(read.source.dataset, predicted).with_history("out of fold", source=read.source.name)
    path = config.out / (f"{PREDICTIONS}-{number + 1}.kp" if len(reads) > 1 else f"{PREDICTIONS}.kp")
    people.save(path, force=True)
    stats, unscored = _numbers(read.source.dataset, people)
    try:
        found = evaluate_oks(read.source.dataset, people, metric="oks")
        tables, words = _suspects(found)
    except EvaluationError as problem:  # no sigmas
        nothing = schema.table(SCHEMA, 0, {})
        notes = (*unscored, f"no label is judged: {problem}")
        return OutOfFold(read.config, read.source.images, path, people, stats, nothing, notes)
    suspects = pa.concat_tables(tables)
    order = np.argsort(-schema.values(suspects["score"]), kind="stable")[:SUSPECTS]
    ordered = schema.take(suspects, order)
    notes = (*unscored, *found.notes, *words)
    return OutOfFold(read.config, read.source.images, path, people, stats, ordered, notes)


def _numbers(dataset: Dataset, people: Dataset) -> tuple[dict[str, float], tuple[str, ...]]:
    """What `kpdata eval` says of these predictions; nothing, and why, where it cannot score them."""
    try:
        return dict(evaluate(dataset, people).stats), ()
    except EvaluationError as problem:
        return {}, (f"not scored: {problem}",)


def _suspects(found: Evaluation) -> tuple[list[pa.Table], list[str]]:
    """The suspicions of each skeleton, and a sentence where they are weak.

    A network that misses many keypoints says little about single ones; that a whole pose fits better with left and
    right exchanged is seldom chance all the same.
    """
    tables = found.suspect_tables(limit=SUSPECTS)
    if any(table.num_rows for table in tables):
        return tables, []
    weak = found.suspect_tables(least=_WEAK, limit=None)
    rows = [np.flatnonzero(schema.among(table["kind"], ("left_right",))) for table in weak]
    note = "no label is contradicted surely: the networks are wrong too often to tell"
    more = "; the likeliest exchanges of left and right are listed" if any(len(some) for some in rows) else ""
    return [schema.take(table, some) for table, some in zip(weak, rows, strict=True)], [note + more]


def _joined(dataset: Dataset, predicted: Sequence[Dataset]) -> Dataset:
    """Several predictions for people of one dataset as one, in the order of its people."""
    persons = pa.concat_tables([one.persons for one in predicted])
    rows = np.argsort(schema.values(dataset.persons["annotation_id"]), kind="stable")
    ids = schema.values(dataset.persons["annotation_id"])[rows]
    order = np.argsort(rows[np.searchsorted(ids, schema.values(persons["annotation_id"]))], kind="stable")
    facts: dict[str, Any] = {"source_format": "kpdata", "area_kind": "none"}
    masks = {
        skeleton: mask for one in predicted
        for skeleton, mask in (one.datasets[_NAME].get("keypoint_mask") or {}).items()
    }  # fmt: skip
    return Dataset(
        dataset.images, schema.take(persons, order),
        {name: skeleton for one in predicted for name, skeleton in one.skeletons.items()},
        {**dataset.datasets, _NAME: {**facts, "keypoint_mask": masks} if masks else facts},
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- ledger


def _merge_ledgers(trainings: Sequence[Path], out: Path) -> Path:
    """One ledger of several trainings: each person's mean over the networks that learnt from them, epoch by epoch.

    The last epochs of all trainings are one epoch, so that one which stopped early is not left out of the latest.
    """
    found = [ledger.read_ledger(folder) for folder in trainings]
    names = tuple(dict.fromkeys(name for one in found for name in one.keypoints))
    last = max(int(one.epochs.max()) for one in found)
    late = [one.epochs + (last - int(one.epochs.max())) for one in found]
    for epoch in np.unique(np.concatenate(late)).tolist():
        rows = [np.flatnonzero(when == epoch) for when in late]
        wide = [_wide(one.losses[mine], one.keypoints, names) for one, mine in zip(found, rows, strict=True)]
        pairs = [np.stack([one.annotation_ids[m], one.image_ids[m]], 1) for one, m in zip(found, rows, strict=True)]
        people, place = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
        ledger.write_epoch(
            out / ledger.FOLDER, int(epoch), people[:, 0], people[:, 1],
            _means(np.concatenate(wide), place.reshape(-1), len(people)), names,
        )  # fmt: skip
    return out / ledger.FOLDER


def _wide(losses: ledger.Floats, own: Sequence[str], names: Sequence[str]) -> ledger.Floats:
    """(R, K) of one training in the columns of all."""
    out = np.full((len(losses), len(names)), np.nan, np.float32)
    out[:, [names.index(name) for name in own]] = losses
    return out


def _means(losses: ledger.Floats, group: Ints, groups: int) -> ledger.Floats:
    """(G, K) mean of the finite losses (R, K) of each group (R,); NaN where there is none."""
    known = np.isfinite(losses)
    total, count = np.zeros((groups, losses.shape[1])), np.zeros((groups, losses.shape[1]))
    np.add.at(total, group, np.where(known, losses, 0))
    np.add.at(count, group, known)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
