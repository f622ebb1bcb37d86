"""A network on a whole dataset: each picture decoded once for all its people, batches filled across pictures.

    found = predict(Predictor("best.pt"), dataset, "val2017")                       # the true boxes
    found = predict(predictor, dataset, "val2017", boxes=Path("detections.json"))   # a detector's, as published
    evaluate(dataset, found.people)

Which boxes makes whole points of AP (pose_resnet_50: 72.4 with true ones, 70.4 with a detector's; HRNet issue 15), so
`found.boxes` says it in words.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema, threads
from kpdata.augment.samples import Samples
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, TrainError
from kpdata.eval.prepare import UnknownImages
from kpdata.train.corrupt import Corruption
from kpdata.train.nms import OVERLAP, oks_nms, rescored, soft_oks_nms
from kpdata.train.predictor import Crops, Predictor, to_picture
from kpdata.train.targets import Targets, detected_boxes, true_boxes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Nms = Literal["oks", "soft", "soft-order", "none"]
Missing = Literal["refuse", "skip"]
Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes the items on, of which there are so many: a progress bar."""

NAME = "predictions"
_NAMED = 5  # missing pictures that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a network says about a dataset.

    people: the predictions, on the network's skeleton, in the images of the dataset: `keypoints`, `keypoint_scores`,
    `score`; visibility is unknown (3), and there are no boxes, which would change what evaluators take for their area.
    boxes: in words. notes: sentences about who and what was left out, and what the numbers mean.
    """

    people: Dataset
    boxes: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Whom to predict in which pictures; `gather` makes it. nms: None: none, else of the skeleton's sigmas."""

    dataset: Dataset
    pictures: Samples
    targets: Targets
    nms: Nms
    threshold: float
    missing: Missing
    boxes: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """What the network said about the N targets of a job in V versions of their pictures: as they are, then corrupted.

    read (N,): False for people of pictures that were skipped, whose rows are empty.
    """

    keypoints: Floats  # (V, N, K, 2) px of the picture
    scores: Floats  # (V, N, K)
    areas: Floats  # (N,) px² of the padded crops
    read: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def predict(
    predictor: Predictor,
    dataset: Dataset,
    images: Path | str | None,
    *,
    boxes: Literal["truth"] | Path | Dataset = "truth",
    box_score_above: float = 0.0,
    nms: Nms | None = None,
    nms_threshold: float = OVERLAP,
    missing: Missing = "refuse",
    unknown_images: UnknownImages = "refuse",
    watch: Watch | None = None,
) -> Predicted:
    """The poses of everybody in the boxes, scored by box and keypoints, without those that say the same twice.

    images: the folder that file names start from; None: pictures embedded in the dataset. boxes: "truth", the
    dataset's own (`targets.true_boxes`), or a detector's file or dataset (`targets.detected_boxes`), of which those
    with a score above `box_score_above` count. nms: `oks`, `soft` (lowers scores), `soft-order` (as
    the official code: scores stay, and order alone decides who of an image is kept) or `none`; None: `oks` where the
    skeleton has sigmas, as published. missing: pictures that are not there, or that cannot be read: `refuse`, or
    `skip` them with their people and say so. unknown_images: boxes in images that the dataset does not list.

    Raises TrainError, EvaluationError or FormatError: nobody to predict, no scores, missing pictures, no sigmas.
    """
    job = gather(
        predictor, dataset, images, boxes=boxes, box_score_above=box_score_above, nms=nms, nms_threshold=nms_threshold,
        missing=missing, unknown_images=unknown_images,
    )  # fmt: skip
    poses = run(predictor, job, watch=watch)
    return told(predictor, job, poses)


def gather(
    predictor: Predictor,
    dataset: Dataset,
    images: Path | str | None,
    *,
    boxes: Literal["truth"] | Path | Dataset = "truth",
    box_score_above: float = 0.0,
    nms: Nms | None = None,
    nms_threshold: float = OVERLAP,
    missing: Missing = "refuse",
    unknown_images: UnknownImages = "refuse",
) -> Job:
    """Whom `predict` would predict, checked; its options and errors."""
    chosen = _nms(predictor, nms, nms_threshold)
    if missing not in get_args(Missing):
        raise TrainError(f"missing is {missing!r}, expected refuse or skip")
    if isinstance(boxes, str):
        if boxes != "truth":
            raise TrainError(f"boxes is {boxes!r}, expected 'truth', a Path or a Dataset")
        targets, notes = true_boxes(dataset, predictor.spec)
        words = "true boxes"
    else:
        targets, notes = detected_boxes(dataset, boxes, above=box_score_above, unknown_images=unknown_images)
        words = (
            f"a detector's boxes{f' ({boxes})' if isinstance(boxes, Path) else ''}, scores above {box_score_above:g}"
        )
    pictures = _pictures(dataset, images, predictor)
    absent = _absent(dataset, pictures, np.unique(targets.image), missing)
    if absent.notes:
        notes, targets = [*notes, *absent.notes], targets.take(~np.isin(targets.image, absent.rows))
    if not len(targets):
        raise TrainError("nobody to predict: " + ("; ".join(notes) or "the dataset has no people"))
    notes += _on_skeletons(dataset, predictor)
    return Job(dataset, pictures, targets, chosen, nms_threshold, missing, words, (*predictor.notes, *notes))


def run(predictor: Predictor, job: Job, corruptions: Sequence[Corruption] = (), *, watch: Watch | None = None) -> Poses:
    """The poses of a job, and those in corrupted versions of its pictures; threads read ahead of the network."""
    count, width, versions = len(job.targets), len(predictor.spec.skeleton), 1 + len(corruptions)
    points, scores = np.empty((versions, count, width, 2)), np.zeros((versions, count, width))
    matrices, areas = np.tile(np.eye(3), (count, 1, 1)), np.zeros(count)
    read, notes = np.ones(count, bool), []
    rows, starts = np.unique(job.targets.image, return_index=True)
    people = np.split(np.arange(count), starts[1:])
    waiting = _Waiting(predictor, points.reshape(-1, width, 2), scores.reshape(-1, width))
    jobs = list(zip(rows.tolist(), people, strict=True))
    done = _ahead(lambda of: _cut(predictor, job, corruptions, *of), jobs)
    for (_, mine), found in (watch or _unwatched)(zip(jobs, done, strict=True), len(jobs)):
        if isinstance(found, FormatError):
            read[mine] = False
            notes.append(f"skipped: {found.message}")
            continue
        matrices[mine], areas[mine] = found[0].matrices, found[0].areas
        for version, crops in enumerate(found):
            waiting.add(version * count + mine, crops.pixels)
    waiting.finish()
    for version in range(versions):
        points[version] = to_picture(points[version], matrices)
    return Poses(points, scores, areas, read, tuple(notes))


def told(predictor: Predictor, job: Job, poses: Poses, version: int = 0) -> Predicted:
    """The predictions of one version of the pictures, after rescoring and NMS."""
    kept = np.flatnonzero(poses.read)
    points, each = poses.keypoints[version][kept], poses.scores[version][kept]
    targets = job.targets.take(kept)
    scores = rescored(each, targets.scores)
    if job.nms != "none":
        rows, scores = _apart(predictor, job, points, scores, poses.areas[kept], targets.image)
        points, each, targets = points[rows], each[rows], targets.take(rows)
    facts = {
        "model": predictor.spec.model, "checkpoint": Path(predictor.name).name, "boxes": job.boxes, "nms": job.nms,
        "flip_test": predictor.flip is not None, "persons": len(targets),
    }  # fmt: skip
    found = _as_dataset(job.dataset, predictor, points, each, scores, targets)
    return Predicted(found.with_history("predict", **facts), job.boxes, (*job.notes, *poses.notes))


# ------------------------------------------------------------------------------------------------------ the way there


class _Waiting:
    """Crops until there is a batch of them; results go to their rows of `points` (R, K, 2) and `scores` (R, K)."""

    def __init__(self, predictor: Predictor, points: Floats, scores: Floats) -> None:
        self.predictor, self.points, self.scores = predictor, points, scores
        self._rows: list[Ints] = []
        self._pixels: list[NDArray[np.uint8]] = []
        self._count = 0

    def add(self, rows: Ints, pixels: NDArray[np.uint8]) -> None:
        self._rows.append(rows)
        self._pixels.append(pixels)
        self._count += len(rows)
        if self._count >= self.predictor.batch:
            self._predict(self._count - self._count % self.predictor.batch)

    def finish(self) -> None:
        if self._count:
            self._predict(self._count)

    def _predict(self, count: int) -> None:
        rows, pixels = np.concatenate(self._rows), np.concatenate(self._pixels)
        self.points[rows[:count]], self.scores[rows[:count]] = self.predictor.poses(pixels[:count])
        self._rows, self._pixels, self._count = [rows[count:]], [pixels[count:]], len(rows) - count


def _cut(
    predictor: Predictor, job: Job, corruptions: Sequence[Corruption], row: int, mine: Ints
) -> list[Crops] | FormatError:
    """The crops of one picture's people in all its versions; the error instead where it may be skipped."""
    try:
        sample = job.pictures[row]
    except FormatError as problem:
        if job.missing == "skip":
            return problem
        raise
    boxes, number = job.targets.boxes[mine], int(sample.image_id or 0)
    versions = (sample.image, *(corrupt(sample.image, boxes, number) for corrupt in corruptions))
    return [predictor.cut(image, boxes) for image in versions]


def _ahead(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """The results in their order; as many threads as processors, each at most two items ahead of who takes them."""
    count = threads.workers()
    with ThreadPoolExecutor(count) as pool:
        running: deque[Future[Any]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > 2 * count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _unwatched(items: Iterable[Any], total: int) -> Iterable[Any]:
    return items


# ------------------------------------------------------------------------------------------------------------ pictures


def _pictures(dataset: Dataset, images: Path | str | None, predictor: Predictor) -> Samples:
    """The dataset's pictures, nobody in them: people are the targets' affair, on whatever skeletons."""
    if images is not None and not os.path.isdir(images):  # noqa: PTH112  # a text or a Path
        raise TrainError(f"{images}: no such folder of images", hint="say where the pictures are: --images DIR")
    bones = predictor.spec.skeleton
    alone = replace(dataset, persons=schema.table(schema.PERSONS, 0, {}), skeletons={bones.name: bones})
    return Samples(alone, images)


@dataclass(frozen=True, slots=True, eq=False)
class _Absent:
    rows: Ints
    notes: tuple[str, ...]


def _absent(dataset: Dataset, pictures: Samples, rows: Ints, missing: Missing) -> _Absent:
    """Which of these pictures are not there. TrainError counts and names them where that is not to be."""
    ids, names = schema.values(dataset.images["image_id"])[rows], schema.texts(dataset.images["file_name"])
    if pictures.folder is None:
        there = np.isin(ids, schema.values(dataset.blobs["image_id"]))
    else:
        there = np.array([bool(names[row]) and (pictures.folder / str(names[row])).is_file() for row in rows], bool)
    gone = rows[~there]
    if not len(gone):
        return _Absent(gone, ())
    some = [names[row] or f"image {number}" for row, number in zip(gone, ids[~there], strict=True)][:_NAMED]
    more = f" and {len(gone) - _NAMED:,} more" if len(gone) > _NAMED else ""
    what = f"{len(gone):,} of {len(rows):,} pictures are not there: {', '.join(some)}{more}"
    if missing == "refuse":
        hint = "--missing-images skip predicts the others; or is this the folder of another split?"
        raise TrainError(f"{pictures.folder or 'the dataset'}: {what}", hint=hint)
    return _Absent(gone, (what,))


# ---------------------------------------------------------------------------------------------------------- afterwards


def _nms(predictor: Predictor, nms: Nms | None, threshold: float) -> Nms:
    """What is to be done; `oks` unless told where there are sigmas."""
    bones = predictor.spec.skeleton
    if nms is None:
        return "oks" if bones.sigmas is not None else "none"
    if nms not in get_args(Nms):
        raise TrainError(f"nms is {nms!r}, expected oks, soft, soft-order or none")
    if not 0 < threshold <= 1:
        raise TrainError(f"nms_threshold is {threshold!r}, expected an OKS above 0, at most 1")
    if nms != "none" and bones.sigmas is None:
        raise TrainError(f"nms {nms}: the skeleton {bones.name!r} has no sigmas to compare poses by", hint="--nms none")
    return nms


def _apart(
    predictor: Predictor, job: Job, points: Floats, scores: Floats, areas: Floats, images: Ints
) -> tuple[Ints, Floats]:
    """Rows that stay, by image, and their scores."""
    sigmas = np.array(predictor.spec.skeleton.sigmas)
    if job.nms in ("soft", "soft-order"):
        rows, lowered = soft_oks_nms(points, scores, areas, sigmas, images=images, threshold=job.threshold)
        return rows, lowered if job.nms == "soft" else scores[rows]
    rows = oks_nms(points, scores, areas, sigmas, images=images, threshold=job.threshold)
    return rows, scores[rows]


def _on_skeletons(dataset: Dataset, predictor: Predictor) -> list[str]:
    """A sentence where the dataset's people are on other skeletons than the network's."""
    bones = predictor.spec.skeleton
    used = [name for name, _ in dataset.groups() if name is not None]
    if not used or any(dataset.skeletons[name].keypoint_names == bones.keypoint_names for name in used):
        return []
    return [
        f"the predictions are on the network's skeleton {bones.name!r}, the dataset's people on {', '.join(used)}: "
        "bring one to the other to score them (kpdata convert --skeleton)"
    ]


def _as_dataset(
    dataset: Dataset, predictor: Predictor, points: Floats, each: Floats, scores: Floats, targets: Targets
) -> Dataset:
    bones, (count, width) = predictor.spec.skeleton, each.shape
    known = zip(
        schema.values(dataset.persons["category_id"], -1).tolist(), schema.texts(dataset.persons["category"]),
        strict=True,
    )  # fmt: skip
    names = {number: name for number, name in dict(known).items() if number >= 0}
    people = {
        "annotation_id": schema.fixed(np.arange(1, count + 1), pa.int64()),
        "image_id": schema.fixed(schema.values(dataset.images["image_id"])[targets.image], pa.int64()),
        "dataset": schema.constant(NAME, count),
        "category_id": schema.fixed(targets.category_id, pa.int64()),
        "category": schema.repeated([names.get(number) for number in targets.category_id.tolist()]),
        "skeleton": schema.constant(bones.name, count),
        "keypoints": schema.rows(points),
        "visibility": schema.rows(np.full((count, width), schema.Visibility.UNKNOWN, np.int8), kind=pa.int8()),
        "score": schema.fixed(scores, pa.float64()),
        "keypoint_scores": schema.rows(each),
    }
    facts = {**dataset.datasets, NAME: {"source_format": "kpdata", "area_kind": "none"}}
    return Dataset(dataset.images, schema.table(schema.PERSONS, count, people), {bones.name: bones}, facts)
