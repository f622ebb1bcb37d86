"""A whole dataset onto another skeleton: coordinates, mask, provenance, and a report of what had no place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema, skeleton
from kpdata.losses import LossReport
from kpdata.skeleton import Relation, Remap, Skeleton


@dataclass(frozen=True)
class _Part:
    """People of one skeleton in the target's columns: rows (n,), xy (n, 2K), visibility (n, K), scores (n, K)."""

    rows: NDArray[np.int64]
    xy: NDArray[np.float64]
    visibility: NDArray[np.int8]
    scores: NDArray[np.float64]
    scored: NDArray[np.bool_]  # (n,)


def remap(
    dataset: ds.Dataset, target: str | Path | Skeleton, *, approximate: bool = False
) -> tuple[ds.Dataset, LossReport]:
    """Every person on the skeleton `target` (a name, a file or a Skeleton), and the losses by kind.

    A keypoint is copied where both skeletons mean the same point, derived where it is a midpoint by definition, taken
    from a close one of another annotation protocol only with `approximate`, else absent. The mask of the targets that
    have any source goes into provenance (`keypoint_mask`): trainers and evaluators leave the others out.
    `num_keypoints` is counted anew, because it counts keypoints of the old skeleton. People who are on the target
    already stay as they are. Raises SkeletonError for a target that is not known.
    """
    goal = target if isinstance(target, Skeleton) else skeleton.load(target)
    losses = LossReport("remap")
    parts: list[_Part] = []
    history: list[dict[str, Any]] = []
    masks: dict[str, NDArray[np.bool_]] = {}
    moved: set[str] = set()
    for name, rows in dataset.groups():
        rows = rows[schema.valid(dataset.persons["keypoints"])[rows]]
        if name is None or not len(rows):
            continue
        stays = dataset.skeletons[name] == goal
        mapping = skeleton.remap(dataset.skeletons[name], goal, approximate=approximate)
        owners = {
            text or "" for text in schema.texts(schema.take(dataset.persons.select(["dataset"]), rows)["dataset"])
        }
        for owner in owners:
            known = _known(dataset, owner, mapping)
            masks[owner] = masks[owner] | known if owner in masks else known
        if not stays:
            parts.append(_moved(dataset, rows, mapping, losses))
            history.append(_record(mapping))
            moved |= owners
    out = replace(
        dataset,
        persons=_rebuilt(dataset, goal, parts),
        skeletons={goal.name: goal},
        datasets={name: _facts(d, goal, masks.get(name), name in moved) for name, d in dataset.datasets.items()},
    )
    for record in history:
        out = out.with_history("remap", **record)
    return out, losses


def _known(dataset: ds.Dataset, owner: str, mapping: Remap) -> NDArray[np.bool_]:
    """(K_target,) bool: the target has a source, and its people could have that (after an earlier remap maybe not)."""
    before = dataset.keypoint_mask(owner, mapping.source.name)
    known: NDArray[np.bool_] = mapping.mask & before[mapping.first] & before[mapping.second]
    return known


def _moved(dataset: ds.Dataset, rows: NDArray[np.int64], mapping: Remap, losses: LossReport) -> _Part:
    """These people in the target's columns; what is dropped, approximate, derived or absent is counted."""
    names = ["keypoints", "visibility", "visibility_raw", "keypoint_scores"]
    people, count = schema.take(dataset.persons.select(names), rows), len(mapping.source)
    xy = schema.matrix(people["keypoints"], 2 * count).reshape(-1, count, 2)
    visibility = schema.matrix(people["visibility"], count)
    scores = schema.matrix(people["keypoint_scores"], count)
    moved, seen, kept = mapping.apply(xy, visibility, scores)
    _count(mapping, visibility, seen, losses)
    raw = int(schema.valid(people["visibility_raw"]).sum())
    losses.lose("raw visibility", raw, "people with third numbers that are no flags")
    scored = schema.valid(people["keypoint_scores"])
    return _Part(
        rows,
        np.asarray(moved, np.float64).reshape(len(rows), -1),
        seen.astype(np.int8),
        np.asarray(kept, np.float64),
        scored,
    )


def _count(mapping: Remap, before: NDArray[Any], after: NDArray[Any], losses: LossReport) -> None:
    labelled = (before > 0).sum(0)
    for name in mapping.dropped:
        number = int(labelled[mapping.source.keypoint_names.index(name)])
        sentence = f"labelled keypoints that {mapping.target.name} has no column for, such as {name!r}"
        losses.lose("keypoints without a place", number, sentence)
    close = int((after[:, np.equal(mapping.relation, Relation.APPROXIMATE)] > 0).sum())
    losses.lose("approximate keypoints", close, "copied from a close point of another annotation protocol")
    made = int((after[:, np.equal(mapping.relation, Relation.DERIVED)] > 0).sum())
    losses.add("derived keypoints", made, "midpoints by definition")
    pairs = zip(mapping.target.keypoint_names, mapping.mask.tolist(), strict=True)
    missing = [name for name, known in pairs if not known]
    sentence = f"absent for everyone: {', '.join(missing[:6])}; the mask says so"
    losses.add("keypoints without a source", len(missing) * len(after), sentence)


def _rebuilt(dataset: ds.Dataset, goal: Skeleton, parts: Sequence[_Part]) -> pa.Table:
    count, width = len(dataset), len(goal)
    stays = schema.valid(dataset.persons["keypoints"])
    for part in parts:
        stays[part.rows] = False
    kept = _as_they_are(dataset, goal, np.flatnonzero(stays))
    xy, visibility = np.zeros((count, 2 * width)), np.zeros((count, width), np.int8)
    scores, present, scored = np.zeros((count, width)), np.zeros(count, bool), np.zeros(count, bool)
    for part in (*parts, kept):
        xy[part.rows], visibility[part.rows], scores[part.rows] = part.xy, part.visibility, part.scores
        present[part.rows], scored[part.rows] = True, part.scored
    told, moved = schema.valid(dataset.persons["num_keypoints"]), present & ~stays
    counts = np.where(moved, (visibility > 0).sum(1), schema.values(dataset.persons["num_keypoints"]))
    raw = dataset.persons["visibility_raw"]
    columns = {
        "skeleton": schema.strings([goal.name if here else None for here in present.tolist()]),
        "keypoints": schema.rows(xy, present),
        "visibility": schema.rows(visibility, present, pa.int8()),
        "visibility_raw": schema.rows(*_raw(raw, stays, width)),
        "keypoint_scores": schema.rows(scores, scored),
        "num_keypoints": schema.fixed(counts, pa.int32(), told),
    }
    return schema.table(schema.PERSONS, count, {**{n: dataset.persons[n] for n in schema.PERSONS.names}, **columns})


def _as_they_are(dataset: ds.Dataset, goal: Skeleton, rows: NDArray[np.int64]) -> _Part:
    people, width = schema.take(dataset.persons, rows), len(goal)
    return _Part(
        rows,
        schema.matrix(people["keypoints"], 2 * width),
        schema.matrix(people["visibility"], width),
        schema.matrix(people["keypoint_scores"], width),
        schema.valid(people["keypoint_scores"]),
    )


def _raw(
    column: pa.ChunkedArray, stays: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, K) third numbers, and who has them still: people who stay on their skeleton."""
    present = schema.valid(column) & stays
    out = np.zeros((len(stays), width))
    out[present] = schema.matrix(schema.chunk(column).take(schema.fixed(np.flatnonzero(present), pa.int64())), width)
    return out, present


def _record(mapping: Remap) -> dict[str, Any]:
    names = np.array(mapping.target.keypoint_names, object)
    by_relation = {
        r.name.lower(): names[np.equal(mapping.relation, r)].tolist() for r in Relation if r != Relation.SAME
    }
    return {"from": mapping.source.name, "to": mapping.target.name, "dropped": list(mapping.dropped), **by_relation}


def _facts(provenance: dict[str, Any], goal: Skeleton, mask: NDArray[np.bool_] | None, moved: bool) -> dict[str, Any]:
    """Provenance with the mask of the new skeleton in place of the old ones'; a full mask says nothing."""
    kept = {key: value for key, value in provenance.items() if key != "keypoint_mask"}
    told = {"keypoint_mask": {goal.name: mask.tolist()}} if mask is not None and (moved or not mask.all()) else {}
    return {**kept, **({"remapped": True} if moved else {}), **told}
