"""The one table behind the page and the App: a row a person, worst first, and the views that pick from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.browse import facts, scoring
from kpdata.browse.annotations import annotation_statistics, annotation_table
from kpdata.browse.pictures import Pictures, missing_pictures, pictures_of
from kpdata.checks.view import View as Arrays
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.eval.failures import FAILURES, KINDS
from kpdata.eval.oks import Ints
from kpdata.eval.points import PointsEvaluation
from kpdata.skeleton import Skeleton

PEOPLE = pa.schema(
    [
        *FAILURES,
        ("source", pa.string()),  # of the image: the dataset's name
        ("crowding", pa.float64()),  # 0…1: largest overlap (IoU) of the person's box with another's in the image
        ("truncated", pa.bool_()),  # the box touches an edge of the image
        ("occluded_share", pa.float64()),  # of the labelled keypoints
        ("suspicion", pa.float64()),  # 0…1, of the label (eval.suspects); null: nothing contradicts it
        ("suspect", pa.string()),  # what is suspicious, in words
        ("suspect_keypoints", pa.list_(pa.int32())),  # columns
        ("proposed_keypoints", pa.list_(pa.float64())),  # 2K, px, the suggested label; NaN where it would stay
        ("other_oks", pa.float64()),  # of the same person with the model compared; null: none or not compared
        (
            "lost",
            pa.float64(),
        ),  # OKS (of single people: share of right keypoints) that the other model has more, or null
        ("loss", pa.float64()),  # of a training's ledger: mean of the keypoints in the last epochs; null: none
        ("train_distance", pa.float64()),  # to the nearest training pose (neighbours); null: none, or not compared
        ("novelty", pa.float64()),  # 0…1: share of training poses that are nearer to theirs
        ("train_ids", pa.list_(pa.int64())),  # annotation ids of the nearest training poses, nearest first
        ("nearest", pa.string()),  # the same in words
        ("findings", pa.string()),  # what the lint says of the person, in words; null: nothing
    ]
)
"""Without predictions, `kind` is "annotation" and the columns of predictions, matches and errors are null."""


@dataclass(frozen=True, slots=True)
class View:
    """Some of the people, with what they have in common. rows: positions in the table, in the order to be shown."""

    name: str
    sentence: str
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class People:
    """Everything that `browse` shows. Frozen.

    table: rows of PEOPLE, worst first. key: identity of the ground truth (a hash of its annotation ids, image ids and
    keypoints): a review says which data it reviewed. stats: the numbers of the evaluation by name, empty without.
    per_keypoint: an Arrow table a skeleton (`keypoints.per_keypoint` of all visibilities together, and counts of the
    error kinds), for bars; its last row is "all". Without predictions: keypoint, labelled, occluded, visible.
    curves: (name, recall, precision) lines at a few OKS thresholds. pictures: where they are. total: people there
    were before the worst were chosen.
    """

    table: pa.Table
    skeletons: Mapping[str, Skeleton]
    views: tuple[View, ...]
    key: str
    title: str = ""
    pictures: Pictures = field(default_factory=Pictures)
    stats: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    per_keypoint: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[tuple[str, NDArray[np.float64], NDArray[np.float64]], ...] = ()
    total: int = 0


ANNOTATION = "annotation"  # the kind of a row without predictions


def gather(
    gt: Dataset,
    predictions: Dataset | None = None,
    *,
    images: Path | None = None,
    compare: Dataset | None = None,
    ledger: Path | None = None,
    train: Dataset | None = None,
    limit: int | None = None,
    title: str = "",
    **options: Any,
) -> People:
    """Everything that `browse` shows of a ground truth, with predictions or without.

    images: the folder of the pictures. compare: another model's predictions, scored alike. ledger: losses of a training
    (`facts.losses`). train: what the network learnt from: whose pose has it not seen (`neighbours`)? limit: about how
    many people, the worst of each kind in turn; None: all. options: those of `kpdata.eval.evaluate` (metric, skeleton,
    unknown_images, …), whose failures these are (`scoring.scored`).

    Raises BrowseError where there is nobody to show, no picture is found in `images`, or `compare` is given without
    predictions; EvaluationError where the two cannot be scored together.
    """
    from kpdata.browse import views

    if limit is not None and limit < 1:
        raise BrowseError(f"limit {limit}: expected at least 1 person", hint="None shows all")
    if predictions is not None:
        found = _scored(gt, predictions, compare, options)
    elif compare is None and not options:
        found = _annotated(gt, images)
    else:
        what = "another model to compare with" if compare is not None else f"options {sorted(options)}"
        raise BrowseError(f"{what}, but no predictions", hint="give the predictions and their ground truth")
    table, notes = found.table, list(found.notes)
    if ledger is not None:
        table, more = _with_losses(table, ledger)
        notes.extend(more)
    if not table.num_rows:
        raise BrowseError("nobody to show: the dataset has no people with keypoints")
    whole = table.num_rows
    table = schema.take(table, worst(table, limit)) if limit is not None and limit < whole else table
    if table.num_rows < whole:
        notes.append(f"the worst {table.num_rows:,} of {whole:,} people are shown")
    if train is not None:
        table, more = _with_neighbours(table, found.skeletons, train)
        notes.extend(more)
    pictures = pictures_of(gt, images, schema.values(table["image_id"]).tolist())
    notes.extend(missing_pictures(table, pictures, schema.texts(gt.images["file_name"])))
    made = replace(
        found,
        table=table,
        pictures=pictures,
        total=whole,
        title=title,
        notes=tuple(dict.fromkeys(notes)),
        key=data_key(gt),
    )
    return replace(made, views=views.views(made))


def narrowed(people: People, view: str, limit: int | None = None) -> People:
    """Only the people of one view, in its order, at most `limit`. BrowseError lists the views that show somebody."""
    from kpdata.browse import views

    chosen = views.find(people, view)
    table = schema.take(people.table, chosen.rows[:limit])
    of = f" of {len(chosen.rows):,}" if len(chosen.rows) > table.num_rows else ""
    note = f"{table.num_rows:,}{of} people of the view {view!r}: {chosen.sentence}"
    made = replace(people, table=table, notes=(note, *people.notes))
    return replace(made, views=views.views(made))


def shell(gt: Dataset, title: str) -> People:
    """Nobody of a ground truth: its key and a title, for what is named by them."""
    return People(schema.table(PEOPLE, 0, {}), {}, (), data_key(gt), title)


def data_key(dataset: Dataset) -> str:
    """Identity of a ground truth: a hash of annotation ids, image ids, skeletons, keypoints and visibilities.

    The same for the same people in any format that holds them exactly; a moved keypoint changes it.
    """
    digest = hashlib.sha256()
    persons = dataset.persons
    for name in ("annotation_id", "image_id"):
        digest.update(facts.missing(persons[name]).astype("<i8").tobytes())
    for name in ("keypoints", "visibility"):
        flat, offsets = schema.ragged(persons[name])
        digest.update(offsets.astype("<i8").tobytes())
        digest.update((flat.astype("<f8") + 0.0).tobytes() if name == "keypoints" else flat.astype("i1").tobytes())
    digest.update("|".join(name or "" for name, _ in dataset.groups()).encode())
    return digest.hexdigest()[:32]


# ----------------------------------------------------------------------------------------------------- with predictions


def _scored(gt: Dataset, predictions: Dataset, compare: Dataset | None, options: Mapping[str, Any]) -> People:
    found, notes = scoring.scored(gt, predictions, options)
    failures = found.failures()
    count, ids = failures.num_rows, facts.missing(failures["annotation_id"])
    columns = {name: failures[name] for name in FAILURES.names} | _person_columns(gt, failures)
    columns |= facts.suspicions(gt, scoring.suspected(found), failures)
    listed, words, *_ = facts.findings(gt, None)
    columns["findings"] = _texts(words, lookup(listed, ids))
    if compare is not None:
        columns |= _compared(gt, found, scoring.scored(gt, compare, options)[0], ids)
    return People(
        table=schema.table(PEOPLE, count, columns),
        skeletons={part.skeleton.name: part.skeleton for part, *_ in scoring.analysed(found)},
        views=(),
        key="",
        stats={name: value for name, value in found.stats.items() if not math.isnan(value)},
        notes=notes,
        per_keypoint=scoring.bars(found),
        curves=tuple((line.name, line.x, line.y) for line in scoring.curves(found)),
    )


def _person_columns(gt: Dataset, table: pa.Table) -> dict[str, pa.Array]:
    """source, crowding, truncated and occluded_share of each row; null where it is nobody's."""
    arrays = Arrays(gt)
    crowding, cut, known = facts.surroundings(arrays)
    rows = lookup(schema.values(gt.persons["annotation_id"]), facts.missing(table["annotation_id"]))
    image = lookup(schema.values(gt.images["image_id"]), facts.missing(table["image_id"]))
    sources = np.array([*schema.texts(gt.images["dataset"]), None], object)[image]
    labelled, hidden = (schema.values(table[name]) for name in ("labelled", "occluded"))
    some = schema.valid(table["labelled"]) & (labelled > 0)
    return {
        "source": schema.repeated(sources.tolist()),
        "crowding": schema.fixed(facts.pick(crowding, rows), pa.float64(), rows >= 0),
        "truncated": schema.fixed(
            facts.pick(cut, rows), pa.bool_(), (rows >= 0) & facts.pick(known, rows).astype(bool)
        ),
        "occluded_share": schema.fixed(hidden / np.maximum(labelled, 1), pa.float64(), some),
    }


def _texts(words: list[str], place: Ints) -> pa.Array:
    return schema.strings([words[i] if i >= 0 else None for i in place.tolist()])


def _compared(gt: Dataset, found: scoring.Found, other: scoring.Found, ids: Ints) -> dict[str, pa.Array]:
    """other_oks and lost of the rows of these annotation ids."""
    (known, mine), (listed, values) = (scoring.fits(gt, one) for one in (found, other))
    ours, place = facts.pick(mine, lookup(known, ids)).astype(np.float64), lookup(listed, ids)
    theirs = facts.pick(values, place).astype(np.float64)
    lost, by_oks = theirs - ours, not isinstance(other, PointsEvaluation)
    return {
        "other_oks": schema.fixed(theirs, pa.float64(), (place >= 0) & by_oks),
        "lost": schema.fixed(lost, pa.float64(), (place >= 0) & (lost > 0)),
    }


def _with_losses(table: pa.Table, ledger: Path) -> tuple[pa.Table, list[str]]:
    ids, loss = facts.losses(ledger)
    place = lookup(ids, facts.missing(table["annotation_id"]))
    values = facts.pick(loss, place).astype(np.float64)
    known = (place >= 0) & np.isfinite(values)
    if not known.any():
        raise BrowseError(
            f"{ledger}: none of its {len(ids):,} people is in the data shown",
            hint="browse the data that the training used (its annotation ids)",
        )
    index = table.schema.get_field_index("loss")
    told = [f"{int(known.sum()):,} of the {len(ids):,} people in {ledger.name} are in the data shown"]
    return table.set_column(index, PEOPLE.field("loss"), schema.fixed(values, pa.float64(), known)), told


def _with_neighbours(table: pa.Table, skeletons: Mapping[str, Skeleton], train: Dataset) -> tuple[pa.Table, list[str]]:
    from kpdata.browse.neighbours import familiarity

    columns, told = familiarity(table, skeletons, train)
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), PEOPLE.field(name), column)
    return table, told


# -------------------------------------------------------------------------------------------------- without predictions


def _annotated(gt: Dataset, images: Path | None) -> People:
    """A row a person with a skeleton: most findings of the lint first, then in the order of the data."""
    ids, words, weight, spare, counts = facts.findings(gt, images)
    table = annotation_table(gt)
    place = lookup(ids, facts.missing(table["annotation_id"]))
    order = np.argsort(-facts.pick(weight, place).astype(np.float64), kind="stable")
    columns = {name: table[name] for name in FAILURES.names} | _person_columns(gt, table)
    columns["findings"] = _texts(words, place)
    stats, per_keypoint = annotation_statistics(gt)
    return People(
        table=schema.take(schema.table(PEOPLE, table.num_rows, columns), order),
        skeletons={name: gt.skeletons[name] for name, _ in gt.groups() if name is not None},
        views=(),
        key="",
        stats=stats | {f"{level}s of the lint": float(n) for level, n in counts.items()},
        notes=tuple(spare),
        per_keypoint=per_keypoint,
    )


# ----------------------------------------------------------------------------------------------------- choice, pictures


def worst(table: pa.Table, limit: int) -> Ints:
    """(≤ limit,) rows of a table of PEOPLE, in its order: the worst of each kind in turn, "good" last.

    The most suspicious labels, the people that another model found better and those of the highest loss take turns too.
    """
    kinds = {kind: i for i, kind in enumerate(KINDS)}
    kind = np.array([kinds.get(str(text), len(KINDS)) for text in schema.texts(table["kind"])], np.int64)
    turn = _turns(kind, np.arange(len(kind)))
    turn[kind == 0] += len(kind)
    for name in ("suspicion", "lost", "loss"):
        known = np.flatnonzero(schema.valid(table[name]))
        order = known[np.argsort(-schema.values(table[name])[known], kind="stable")]
        turn[order] = np.minimum(turn[order], np.arange(len(order)))
    chosen: Ints = np.sort(np.argsort(turn, kind="stable")[:limit])
    return chosen


def _turns(kind: Ints, rank: Ints) -> Ints:
    """(R,) how many rows of the same kind come before each, by rank."""
    order = np.lexsort((rank, kind))
    start = np.searchsorted(kind[order], kind[order])
    turn = np.empty(len(kind), np.int64)
    turn[order] = np.arange(len(kind)) - start
    return turn
