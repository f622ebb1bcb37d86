"""Has the training seen such a pose? The nearest training poses of a person, and how unusual their distance is.

Place and size in the picture play no part: a pose is centred on the middle of its torso (shoulders and hips) and scaled
by the root mean square distance of these from it, its *spread*, about half a torso. Where fewer than three of the four
are labelled, or a skeleton has none, all labelled keypoints stand for them. Poses are not turned: a handstand is no
standing. The distance is the root mean square, over the labelled keypoints of the person asked about, of

- how far the keypoint is off, in spreads;
- 1 where the training pose lacks the keypoint: a face in close-up is not near everything.

A pose and its mirror image, left and right exchanged, are one where twins are known: trainings mirror people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError, SkeletonError
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEAREST = 3  # training poses that are named
LEAST = 5  # labelled keypoints from which on a pose is asked about
REFERENCE = 500  # training poses whose own distances say what is usual
_TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_MISSING = 1.0  # square spreads for a keypoint that the training pose lacks
_QUERIES, _POSES = 256, 4096  # of a block: 4 MB of temporaries each


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """N poses in spreads (`framed`): xy (N, K, 2), labelled (N, K), picture (N,): people of the same picture, numbers
    from 0 on, are not compared."""

    xy: Floats
    labelled: Bools
    picture: Ints

    def __len__(self) -> int:
        return len(self.xy)

    def take(self, rows: NDArray[np.generic]) -> Poses:
        """The poses at these positions, or of this mask."""
        return Poses(self.xy[rows], self.labelled[rows], self.picture[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """The C nearest of N poses to each of Q, nearest first. rows (Q, C), -1 where there are fewer; distance (Q, C),
    spreads, infinite there; mirrored (Q, C)."""

    rows: Ints
    distance: Floats
    mirrored: Bools


def framed(xy: Floats, labelled: Bools, picture: Ints, bones: Skeleton) -> Poses:
    """Poses (N, K, 2) px, labelled (N, K), as they are compared; one whose labels lie on one spot has none then."""
    torso = np.isin([*bones.landmarks] or [""] * len(bones), _TORSO)
    frame = labelled & torso
    frame = np.where((frame.sum(1) >= 3)[:, None], frame, labelled)[..., None]
    count = np.maximum(frame.sum(1), 1)
    xy = np.where(labelled[..., None], xy, 0.0)
    xy = xy - (np.where(frame, xy, 0).sum(1) / count)[:, None]
    spread = np.sqrt(np.square(np.where(frame, xy, 0)).sum((1, 2)) / count[:, 0])
    labelled = labelled & (spread > 0)[:, None]
    scaled = xy / np.where(spread > 0, spread, 1)[:, None, None]
    return Poses(np.where(labelled[..., None], scaled, 0.0), labelled, picture)


def nearest(asked: Poses, poses: Poses, *, twin: NDArray[np.intp] | None = None, count: int = NEAREST) -> Near:
    """The nearest of `poses` to each of `asked`, in blocks of bounded memory.

    twin (K,): the column of each keypoint's left or right twin, to compare mirror images as well; None: as they are.
    An asked pose without labels has no nearest. 1,000 poses among 100,000 of 17 keypoints take seconds.
    """
    xy, mask, keep = poses.xy, poses.labelled, count + 2  # float32 may change the order of near ones
    square = np.square(xy).sum(2)
    terms = np.concatenate([mask, np.where(mask, square - _MISSING, 0), xy[..., 0], xy[..., 1]], axis=1)
    others = np.ascontiguousarray(terms, np.float32)
    sides = [asked] if twin is None else [asked, _mirrored(asked, twin)]
    found = [_candidates(_terms(side), asked.picture, others, poses.picture, keep) for side in sides]
    flips = np.repeat(np.arange(len(found)) > 0, keep)[None].repeat(len(asked), 0)
    return _sorted(asked, poses, np.concatenate(found, 1), flips, twin, count)


def _mirrored(poses: Poses, twin: NDArray[np.intp]) -> Poses:
    return Poses(poses.xy[:, twin] * (-1, 1), poses.labelled[:, twin], poses.picture)


def _terms(asked: Poses) -> Singles:
    """(Q, 4K) whose product with the poses' terms orders them: labels x square distance - labels, of every pair.

    The sum over common keypoints of |a - b|² is that of |a|² + |b|² - 2 a·b: three products of matrices, in one.
    """
    square = np.square(asked.xy).sum(2)
    parts = [square, asked.labelled, -2 * asked.xy[..., 0], -2 * asked.xy[..., 1]]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def _candidates(asked: Singles, own: Ints, poses: Singles, pictures: Ints, keep: int) -> Ints:
    """(Q, keep) rows of the poses that are nearest in float32, in any order; -1 where there are fewer."""
    rows = np.full((len(own), keep), -1)
    for start in range(0, len(own), _QUERIES):
        part = slice(start, start + _QUERIES)
        best = np.full(rows[part].shape, np.inf, np.float32)
        for first in range(0, len(pictures), _POSES):
            far = asked[part] @ poses[first : first + _POSES].T
            q, p = np.nonzero(far < best.max(1, keepdims=True) if first else _first(far, own[part], pictures, keep))
            other = (own[part][q] < 0) | (own[part][q] != pictures[first + p])
            q, p = q[other], p[other]
            _merge(best, rows[part], q, first + p, far[q, p])
    return rows


def _first(far: Singles, own: Ints, pictures: Ints, keep: int) -> Bools:
    """(Q, N) the `keep` nearest of the first block, which would else all be sorted: nothing is far yet."""
    far = np.where((own[:, None] == pictures[: far.shape[1]]) & (own[:, None] >= 0), np.inf, far)
    most = min(keep, far.shape[1]) - 1
    return np.asarray(far <= np.partition(far, most, axis=1)[:, most, None])


def _merge(best: Singles, rows: Ints, q: Ints, fresh: Ints, far: Singles) -> None:
    """Puts poses `fresh` at distances `far` among the nearest (best, rows) of the asked ones q, which ascend."""
    if not len(q):
        return
    order = np.lexsort((far, q))
    q, fresh, far = q[order], fresh[order], far[order]
    turn = np.arange(len(q)) - np.searchsorted(q, q)
    few = turn < best.shape[1]
    more, which = np.full(best.shape, np.inf, np.float32), np.full(best.shape, -1)
    more[q[few], turn[few]], which[q[few], turn[few]] = far[few], fresh[few]
    both, places = np.concatenate([best, more], 1), np.concatenate([rows, which], 1)
    first = np.argsort(both, axis=1, kind="stable")[:, : best.shape[1]]
    best[:], rows[:] = np.take_along_axis(both, first, 1), np.take_along_axis(places, first, 1)


def _sorted(asked: Poses, poses: Poses, rows: Ints, flips: Bools, twin: NDArray[np.intp] | None, count: int) -> Near:
    """Candidates measured again in float64, pair by pair, and put in order, each once; equal ones by row."""
    q, c = np.nonzero(rows >= 0)
    far = np.full(rows.shape, np.inf)
    far[q, c] = pairs(asked.take(q), poses.take(rows[q, c]), twin, flips[q, c])
    for _ in range(2):
        order = np.lexsort((flips, rows, far), axis=1)
        rows, far, flips = (np.take_along_axis(column, order, 1) for column in (rows, far, flips))
        same = (rows[:, :, None] == rows[:, None, :]) & np.tri(rows.shape[1], k=-1, dtype=bool)
        far[same.any(2)] = np.inf  # again, as a mirror image: to the end
    nowhere = ~np.isfinite(far)
    return Near(np.where(nowhere, -1, rows)[:, :count], far[:, :count], (flips & ~nowhere)[:, :count])


def pairs(asked: Poses, poses: Poses, twin: NDArray[np.intp] | None, mirrored: Bools) -> Floats:
    """(P,) distances of pairs of poses, row by row; mirrored (P,): of the mirror image of the asked one. Infinite for
    one without labels."""
    xy, mask = asked.xy, asked.labelled
    if twin is not None:
        image = _mirrored(asked, twin)
        xy = np.where(mirrored[:, None, None], image.xy, xy)
        mask = np.where(mirrored[:, None], image.labelled, mask)
    off = np.where(poses.labelled, np.square(xy - poses.xy).sum(2), _MISSING)
    labels = mask.sum(1)
    return np.asarray(np.sqrt(np.where(labels > 0, (off * mask).sum(1) / np.maximum(labels, 1), np.inf)))


# ------------------------------------------------------------------------------------------------------------ the table


def familiarity(
    table: pa.Table, skeletons: Mapping[str, Skeleton], train: Dataset
) -> tuple[dict[str, pa.Array], list[str]]:
    """train_distance, novelty, train_ids and nearest for the labelled people of a table of `people.PEOPLE`; notes.

    train: what the network learnt from; people in the picture of the person asked about do not count (its image_id and
    file name), so that a training set can be compared with itself. novelty: the share of `REFERENCE` training poses
    that are nearer to one of another picture than this person is to any: above 0.95 few training people are so alone.
    Null for fewer than `LEAST` labelled keypoints. BrowseError where the training has no pose to compare with.
    """
    rows = table.num_rows
    far, novelty = np.full((rows, NEAREST), np.inf), np.full(rows, np.nan)
    ids, mirrored = np.full((rows, NEAREST), -1), np.zeros((rows, NEAREST), bool)
    picture, total = _pictures(table, train), 0
    for name, bones in skeletons.items():
        poses, people = _of_training(train, bones)
        mine = np.flatnonzero(schema.among(table["skeleton"], (name,)) & schema.valid(table["keypoints"]))
        if not len(poses) or not len(mine):
            continue
        total += len(poses)
        asked = _of_table(table, mine, bones, picture, np.asarray(poses.labelled.any(0)))
        judged = asked.labelled.sum(1) >= LEAST
        mine, asked = mine[judged], asked.take(judged)
        twin = bones.flip_index() if bones.flip_pairs is not None else None
        found = nearest(asked, poses, twin=twin)
        far[mine], mirrored[mine] = found.distance, found.mirrored
        ids[mine] = np.where(found.rows >= 0, people[found.rows], -1)
        usual = _usual(poses, twin)
        novelty[mine] = np.searchsorted(usual, found.distance[:, 0], side="left") / max(len(usual), 1)
    if not total:
        raise BrowseError(
            "the training data have no labelled pose of a skeleton that is shown",
            hint="--train takes the annotations that the network learnt from",
        )
    return _columns(far, novelty, ids, mirrored), [f"compared with {total:,} training poses"]


def _pictures(table: pa.Table, train: Dataset) -> Ints:
    """(R,) the row of each person's picture in the training's images; -1 where it is not there."""
    wanted = schema.values(table["image_id"], missing=-1).astype(np.int64)
    place = lookup(schema.values(train.images["image_id"]), wanted)
    theirs = np.array([*schema.texts(train.images["file_name"]), None], object)[place]
    same = theirs == np.array([*schema.texts(table["file_name"]), None], object)[:-1]
    return np.where(same, place, -1)


def _of_training(train: Dataset, bones: Skeleton) -> tuple[Poses, Ints]:
    """The training's poses of 2 and more labelled keypoints on a skeleton, and their annotation ids."""
    try:
        moved, _ = remap(train, bones)
    except SkeletonError as problem:
        raise BrowseError(f"the training data: {problem.message}", hint=problem.hint) from problem
    rows = next((rows for name, rows in moved.groups() if name == bones.name), np.empty(0, np.int64))
    people = schema.take(moved.persons.select(["keypoints", "visibility", "annotation_id", "iscrowd"]), rows)
    xy = schema.matrix(people["keypoints"], 2 * len(bones)).reshape(-1, len(bones), 2)
    labelled = (schema.matrix(people["visibility"], len(bones)) > 0) & np.isfinite(xy).all(2)
    kept = (labelled.sum(1) >= 2) & ~schema.values(people["iscrowd"])
    poses = framed(xy, labelled, moved.image_rows()[rows], bones)
    return poses.take(kept), schema.values(people["annotation_id"])[kept]


def _of_table(table: pa.Table, rows: Ints, bones: Skeleton, picture: Ints, known: Bools) -> Poses:
    """Labelled people; of the keypoints (K,) that some training pose has."""
    width = len(bones)
    xy = schema.matrix(schema.take(table.select(["keypoints"]), rows)["keypoints"], 2 * width).reshape(-1, width, 2)
    return framed(xy, np.isfinite(xy).all(2) & known, picture[rows], bones)


def _usual(poses: Poses, twin: NDArray[np.intp] | None) -> Floats:
    """(≤ REFERENCE,) distances of training poses, evenly taken, to the nearest of another picture, in order."""
    fit = np.flatnonzero(poses.labelled.sum(1) >= LEAST)
    some = fit[np.unique(np.linspace(0, len(fit) - 1, min(REFERENCE, len(fit))).round().astype(np.int64))]
    found = nearest(poses.take(some), poses, twin=twin, count=1).distance[:, 0]
    return np.sort(found[np.isfinite(found)])


def _columns(far: Floats, novelty: Floats, ids: Ints, mirrored: Bools) -> dict[str, pa.Array]:
    known = np.isfinite(far)
    some = known[:, 0]
    told = zip(far.tolist(), novelty.tolist(), ids.tolist(), mirrored.tolist(), known.sum(1).tolist(), strict=True)
    return {
        "train_distance": schema.fixed(np.where(some, far[:, 0], 0), pa.float64(), some),
        "novelty": schema.fixed(np.where(some, novelty, 0), pa.float64(), some),
        "train_ids": schema.lists(ids[known], known.sum(1), some, pa.int64()),
        "nearest": schema.strings([_words(*one) for one in told]),
    }


def _words(far: list[float], novelty: float, ids: list[int], mirrored: list[bool], count: int) -> str | None:
    if not count:
        return None
    each = zip(ids[:count], mirrored[:count], far[:count], strict=True)
    named = ", ".join(f"{person}{' mirrored' if flip else ''} ({d:.2f})" for person, flip, d in each)
    return f"nearest training poses: {named}; {novelty:.0%} of training poses are nearer to theirs"
