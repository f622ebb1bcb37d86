"""Several datasets as one training: a skeleton that has all their keypoints, and what each of them knows of it.

COCO has no head top and MPII no eyes: on the union of both, a person of COCO has no head top to learn from, which is
not the same as one that is hidden. `known` (N, K) says so, and what is not known is never a target, whatever the
policy for absent labels is. Points are equal where the skeletons call them the same landmark (`kpdata.skeleton`): the
two necks of the field stay two keypoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kpdata import schema, skeleton
from kpdata.dataset import Dataset
from kpdata.errors import TrainError
from kpdata.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset to take people from. images: the folder that its file names start from; None: embedded pictures.

    share: how often its people are drawn in an epoch: 1 everybody once, 2 twice, 0.5 half of them, the other half in
    the next. name: in messages. TrainError for a share that is not above 0.
    """

    dataset: Dataset
    images: Path | None = None
    share: float = 1.0
    name: str = "data"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1000:
            raise TrainError(f"{self.name}: share {self.share!r}, expected a number above 0, such as 1")


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """People of a dataset in the columns of a skeleton: keypoints (N, K, 2) px, visibility (N, K), known (N, K).

    Not known: absent (NaN, visibility 0). People without keypoints know nothing.
    """

    keypoints: NDArray[np.float64]
    visibility: NDArray[np.int8]
    known: NDArray[np.bool_]


def union(skeletons: Sequence[Skeleton], name: str = "union") -> Skeleton:
    """A skeleton with every keypoint of these, each landmark once: the first's columns first. One alone stays itself.

    Keypoints without a landmark are equal by name. A name that two skeletons give to different points gets that of its
    skeleton behind it. Left and right are known if they are in all. sigmas: each from the first skeleton that has one;
    None where one is missing. TrainError for none at all.
    """
    if not skeletons:
        raise TrainError("no skeleton to train on", hint="name at least one dataset whose people have keypoints")
    first = skeletons[0]
    if all(other == first for other in skeletons[1:]):
        return first
    column: dict[str, str] = {}  # landmark, or the name where there is none -> name in the union
    sigma: dict[str, float] = {}
    edges: dict[frozenset[str], None] = {}
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for one in skeletons:
        ours = [_place(column, key, own, one.name) for key, own in _keys(one)]
        mine = dict(zip(one.keypoint_names, ours, strict=True))
        for left, right in one.flip_pairs or ():
            pairs.setdefault(frozenset((mine[left], mine[right])), (mine[left], mine[right]))
        edges |= dict.fromkeys(frozenset((ours[a], ours[b])) for a, b in one.edges)
        sigma = {**dict(zip(ours, one.sigmas or (), strict=False)), **sigma}
    names = tuple(column.values())
    complete = all(each in sigma for each in names)
    place = {each: number for number, each in enumerate(names)}
    return Skeleton(
        name, names, tuple(sorted((min(e), max(e)) for e in ([place[n] for n in edge] for edge in edges))),
        None if any(one.flip_pairs is None for one in skeletons) else frozenset(pairs.values()),
        tuple(sigma[each] for each in names) if complete else None,
        f"of {', '.join(one.name for one in skeletons)}" if complete else None,
        landmarks=tuple("" if key.startswith(_OWN) else key for key in column),
    )  # fmt: skip


_OWN = "name:"  # of keypoints without a landmark


def _keys(one: Skeleton) -> Iterator[tuple[str, str]]:
    for mark, own in zip(one.landmarks, one.keypoint_names, strict=True):
        yield mark or _OWN + own, own


def _place(column: dict[str, str], key: str, own: str, owner: str) -> str:
    """The name in the union of this point; a new one where it is not there yet."""
    if key not in column:
        taken = set(column.values())
        column[key] = own if own not in taken else f"{own}_{owner}"
    return column[key]


def skeletons_of(sources: Sequence[Source]) -> list[Skeleton]:
    """The skeletons that people of these sources use, each once, in the order of first use."""
    found: dict[str, Skeleton] = {}
    for source in sources:
        for name, rows in source.dataset.groups():
            if name is not None and len(rows):
                one = source.dataset.skeletons[name]
                found.setdefault(str(one.to_json()), one)
    return list(found.values())


def onto(dataset: Dataset, target: Skeleton) -> Placed:
    """Everybody of the dataset on the skeleton `target`, and which keypoints the data can tell.

    A midpoint by definition (the middle of the hips) is computed where its parents are there. A keypoint is known where
    the person's skeleton has a source for it and an earlier remap of the dataset did not leave it empty
    (`Dataset.keypoint_mask`).
    """
    count, width = len(dataset), len(target)
    out = Placed(np.full((count, width, 2), np.nan), np.zeros((count, width), np.int8), np.zeros((count, width), bool))
    posed = schema.valid(dataset.persons["keypoints"])
    for name, rows in dataset.groups():
        rows = rows[posed[rows]]
        if name is None or not len(rows):
            continue
        mapping = skeleton.remap(dataset.skeletons[name], target)
        people = schema.take(dataset.persons.select(["keypoints", "visibility"]), rows)
        own = len(mapping.source)
        xy = schema.matrix(people["keypoints"], 2 * own).reshape(-1, own, 2)
        moved, seen, _ = mapping.apply(xy, schema.matrix(people["visibility"], own))
        out.keypoints[rows], out.visibility[rows] = moved, seen
        for owner in dataset.datasets:
            theirs = schema.among(dataset.persons["dataset"], [owner])[rows]
            before = dataset.keypoint_mask(owner, name)
            out.known[rows[theirs]] = mapping.mask & before[mapping.first] & before[mapping.second]
    out.visibility[~out.known] = 0
    out.keypoints[~out.known] = np.nan
    return out
