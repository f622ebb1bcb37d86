"""Who is to be predicted: the boxes of a ground truth, or those that a detector found in its images."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import arrays, converters, geometry, schema
from kpdata.augment import kernels
from kpdata.augment.trial import MARGIN
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError, TrainError
from kpdata.eval.prepare import UnknownImages, on_the_same_images
from kpdata.train.mixed import Placed, onto
from kpdata.train.predictor import croppable
from kpdata.train.spec import NetworkSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PERSON = 1  # COCO's category


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """N boxes, by the row of their image. scores: the detector's, 1 for true boxes."""

    image: Ints  # (N,) row in the dataset's images
    boxes: Floats  # (N, 4) x, y, w, h px
    scores: Floats  # (N,)
    category_id: Ints  # (N,)

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: NDArray[Any]) -> Targets:
        """Those at these positions, or of this mask."""
        return replace(self, **{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def true_boxes(dataset: Dataset, spec: NetworkSpec) -> tuple[Targets, list[str]]:
    """The people of a ground truth, and sentences about who is left out.

    As the official evaluation with true boxes takes them (`lib/dataset/coco.py` of
    leoxiaobin/deep-high-resolution-net.pytorch): no crowds, nobody without a labelled keypoint. Where nobody at all has
    one, everybody with a box: pictures that are still to be labelled. People without a box get MPII's crop where the
    dataset has `center` and `scale`, else the extent of their keypoints, a fifth larger.
    """
    persons, image, placed = dataset.persons, dataset.image_rows(), onto(dataset, spec.skeleton)
    labelled = ((placed.visibility > 0) & np.isfinite(placed.keypoints).all(axis=2)).any(axis=1)
    boxes = _boxes(dataset, spec, placed)
    reasons = {
        "crowds": ~schema.values(persons["iscrowd"]), "people whose image is not listed": image >= 0,
        "people without a labelled keypoint that the network knows": labelled | ~labelled.any(),
        "people without a box that has an extent": croppable(boxes),
    }  # fmt: skip
    left, notes = np.ones(len(dataset), bool), []
    for what, fine in reasons.items():
        notes += _left_out(left & ~fine, len(dataset), what)
        left &= fine
    categories = schema.values(persons["category_id"], PERSON)
    return _by_image(Targets(image, boxes, np.ones(len(dataset)), categories), left), notes


def detected_boxes(
    dataset: Dataset,
    found: Path | Dataset,
    *,
    above: float = 0.0,
    unknown_images: UnknownImages = "refuse",
) -> tuple[Targets, list[str]]:
    """A detector's boxes in the images of a dataset, and sentences about those left out.

    found: a COCO results file, a `.kp` folder, or what was read from one: people with `bbox` and `score`. Only those of
    the categories that people of the dataset have (COCO's 1 where it has none), with a score above `above`; the
    official configuration takes all (IMAGE_THRE 0.0). Images are brought together as `kpdata eval` does.

    Raises TrainError for a file without boxes or scores or of other categories, EvaluationError for boxes in images
    that the dataset does not list, unless `unknown_images` is "ignore".
    """
    name = str(found) if isinstance(found, Path) else "boxes"
    detections = converters.read(found, hashed=False) if isinstance(found, Path) else found
    _require(detections, name)
    notes: list[str] = []
    try:
        detections = on_the_same_images(dataset, detections, unknown_images, notes)
    except EvaluationError as problem:
        raise EvaluationError(f"{name}: {problem.message}", hint=problem.hint) from problem
    persons, image = detections.persons, _rows_in(dataset, detections)
    boxes, scores = schema.matrix(persons["bbox"], 4), schema.values(persons["score"])
    categories = schema.values(persons["category_id"], PERSON)
    wanted = _categories(dataset)
    of_people = np.isin(categories, wanted)
    if len(scores) and not of_people.any():
        raise TrainError(
            f"{name}: boxes of categories {np.unique(categories)[:5].tolist()}, expected {wanted.tolist()}, the people"
        )
    left = np.ones(len(scores), bool)
    for what, fine in (
        ("of other categories", of_people), (f"with a score of {above:g} or less", scores > above),
        ("without an extent", croppable(boxes)),
    ):  # fmt: skip
        notes += _left_out(left & ~fine, len(scores), f"boxes {what}")
        left &= fine
    return _by_image(Targets(image, boxes, scores, categories), left), notes


def _require(detections: Dataset, name: str) -> None:
    """TrainError unless every row has a box and a score."""
    for column, hint in (("bbox", "keypoints alone are no boxes"), ("score", "true boxes need no file")):
        there = schema.valid(detections.persons[column])
        if len(there) and not there.all():
            some = f"{int((~there).sum()):,} of {len(there):,} rows have no {column!r}"
            raise TrainError(f"{name}: {some}, expected a detector's boxes, each with a score", hint=hint)


def _rows_in(dataset: Dataset, detections: Dataset) -> Ints:
    ids = schema.values(detections.persons["image_id"])
    return np.asarray(arrays.lookup(schema.values(dataset.images["image_id"]), ids), np.int64)


def _categories(dataset: Dataset) -> Ints:
    """Of the people with keypoints."""
    posed = schema.valid(dataset.persons["keypoints"]) & schema.valid(dataset.persons["category_id"])
    found = np.unique(schema.values(dataset.persons["category_id"])[posed])
    return found if len(found) else np.array([PERSON])


def _boxes(dataset: Dataset, spec: NetworkSpec, placed: Placed) -> Floats:
    """(N, 4) boxes whose padded crops are those of `augment.crops.TopDown`; NaN for who has none."""
    persons, ratio = dataset.persons, spec.input_size[0] / spec.input_size[1]
    boxes = schema.matrix(persons["bbox"], 4)
    tight = geometry.box_from_keypoints(placed.keypoints, placed.visibility)
    margin = tight[:, 2:] * (MARGIN / 2)
    around = np.concatenate([tight[:, :2] - margin, tight[:, 2:] + 2 * margin], axis=1)
    boxes = np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, around)
    center, extent = kernels.mpii_crop(schema.matrix(persons["center"], 2), schema.values(persons["scale"]))
    sides = kernels.fix_aspect(extent, ratio) / spec.padding  # MPII's crop is padded already
    given = np.concatenate([center - sides / 2, sides], axis=1)
    return np.where(np.isfinite(given).all(axis=1, keepdims=True), given, boxes)


def _by_image(targets: Targets, kept: Bools) -> Targets:
    rows = np.flatnonzero(kept)
    return targets.take(rows[np.argsort(targets.image[rows], kind="stable")])


def _left_out(mask: Bools, count: int, what: str) -> list[str]:
    return [f"{int(mask.sum()):,} of {count:,} left out: {what}"] if mask.any() else []
