"""AP and AR while a model is validated: batches in, and the numbers of one shot out, whatever the batches were.

    scores = StreamingEvaluation("coco_17")
    for batch in loader:
        people = model(batch["image"])                          # NumPy arrays or torch tensors, on any device
        scores.update(
            {"image_id": batch["person_image"], "keypoints": batch["keypoints"], "area": batch["area"]},
            {"image_id": people.image, "keypoints": people.keypoints, "score": people.score},
            image_ids=batch["image_id"],
        )
    print(scores.compute().stats["AP"])

Images do not influence each other, so that a batch is matched when it comes and only the matches are kept. Ranks make
one each, send it (it pickles; `torch.distributed.all_gather_object` does that) and `merge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import EvaluationError
from kpdata.eval.average_precision import Curves, accumulate, summarize
from kpdata.eval.matching import Matches, concatenate, match, without_images
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Mode, Params, detection_area
from kpdata.skeleton import Skeleton, load

Columns = Mapping[str, Any]
EITHER = ("image_id", "category_id", "keypoints", "area", "bbox")
TRUTH = (*EITHER, "annotation_id", "visibility", "num_keypoints", "iscrowd")
FOUND = (*EITHER, "score")
OWN_IDS = "leave annotation_id out, or use the mode 'fixed'"


class Numbers(NamedTuple):
    """The ten numbers by name (see `summarize`) and the curves that they are means of."""

    stats: dict[str, float]
    curves: Curves


class StreamingEvaluation:
    """COCO OKS AP/AR of batches, equal to the bit to `evaluate_arrays` of all at once.

    skeleton: a name or a Skeleton, whose sigmas are used; or the sigmas (K,); or `Params`, for other thresholds, area
    ranges, numbers of detections, or the mode "fixed". category_ids: those that are scored and averaged.
    The order of batches and of merging does not matter. What does is the order inside an image, as in a file (ties), so
    that an image must come whole. Raises EvaluationError where a skeleton has no sigmas.
    """

    def __init__(
        self, skeleton: str | Skeleton | Params | Sequence[float] | Floats, *, category_ids: Sequence[int] = (1,)
    ) -> None:
        self.params = skeleton if isinstance(skeleton, Params) else Params(sigmas=_sigmas(skeleton))
        self.category_ids: Ints = np.unique(np.asarray(category_ids, np.int64))
        if not len(self.category_ids):
            raise EvaluationError("no category ids: expected at least one", hint="people without a category are of 1")
        self.reset()

    def reset(self) -> None:
        """Forget all batches: the next epoch begins."""
        self._parts: list[Matches] = []
        self._images: set[int] = set()
        self._ids: dict[int, int] = {}  # image of each annotation id that was given
        self._area: str | None = None  # what detections' areas are made of: the same in every batch

    def __len__(self) -> int:
        """Number of images so far."""
        return len(self._images)

    def update(self, truth: Columns | None, found: Columns | None, *, image_ids: Any = None) -> None:
        """Add whole images: their people and all that was found in them, a row each, in arrays or tensors.

        truth: image_id (N,); keypoints (N, K, 3) as x, y, v, or (N, K, 2) with visibility (N, K), px, counted where
          v > 0; area (N,) in square pixels; where wanted bbox (N, 4) as x, y, w, h (needed by people without labelled
          keypoints), num_keypoints (N,) (else counted), iscrowd (N,), category_id (N,) (else the only one),
          annotation_id (N,).
        found: image_id (M,); keypoints (M, K, 2 or 3), of which x and y are read; score (M,); where wanted category_id.
          Their size range goes by `bbox` (w times h) or `area` if one is given, in every batch, else by the extent of
          the keypoints, as pycocotools does for results with a box and without.
        image_ids: images of the batch, if some have nobody on either side. None stands for nobody.

        Raises EvaluationError, and adds nothing, for an image that came before, a missing or unknown column, shapes
        that contradict each other, a category that is not scored, and an annotation id that comes twice (which in
        pycocotools replaces a person by another, so that no stream could be equal to it; with the mode "fixed" each
        is itself).
        """
        k = len(self.params.sigmas)
        gt, ids = _truth(_columns(truth, TRUTH, "truth"), k, self.category_ids)
        dt, area = _found(_columns(found, FOUND, "found"), k, self.category_ids, self.params.mode)
        own = [] if image_ids is None else [_whole("image_ids", image_ids)]
        images = np.unique(np.concatenate([gt.image_id, dt.image_id, *own]))
        self._refuse_repeated(
            "image", images, self._images, "an image must come whole, and once: is the loader padded?"
        )
        self._refuse_categories(gt, dt)
        if self.params.mode == "strict":
            self._refuse_repeated("annotation", ids, self._ids.keys(), OWN_IDS)
        matches = match(gt, dt, images, self.category_ids, self.params)
        self._agree_about_area(area)
        self._parts.append(matches)
        self._images.update(images.tolist())
        self._ids.update(zip(ids.tolist(), gt.image_id.tolist(), strict=False))

    def merge(self, other: StreamingEvaluation, *, skip_repeated: bool = False) -> None:
        """Add what another one, of another rank, has seen. `other` stays as it is.

        skip_repeated: images that both have are taken from this one. Loaders that give each rank as many images as the
        others repeat some (torch's DistributedSampler does). Without it they raise EvaluationError, as do other
        params, other categories, and annotation ids or areas that `update` would refuse.
        """
        if not _equal(self.params, other.params) or not np.array_equal(self.category_ids, other.category_ids):
            raise EvaluationError(
                "the two do not evaluate the same: their params or categories differ",
                hint="make both with the same arguments",
            )
        repeated = self._images & other._images
        parts, ids = other._parts, {i: image for i, image in other._ids.items() if image not in repeated}
        if repeated and skip_repeated:
            parts = [without_images(part, np.array(sorted(repeated))) for part in parts]
        elif repeated:
            raise EvaluationError(
                f"{len(repeated):,} images are in both, such as {min(repeated)}",
                hint="each rank needs its own images; merge(other, skip_repeated=True) takes repeated ones once",
            )
        if self.params.mode == "strict" and (twice := self._ids.keys() & ids):
            raise _repeated("annotation", twice, OWN_IDS)
        self._agree_about_area(other._area)
        self._parts = [*self._parts, *parts]
        self._images |= other._images
        self._ids |= ids

    def compute(self) -> Numbers:
        """The ten numbers and the curves of all images so far. -1 where there is nobody to find."""
        if len(self._parts) != 1:
            k, none = len(self.params.sigmas), np.empty(0, np.int64)
            gt, dt = _truth({}, k, self.category_ids)[0], _found({}, k, self.category_ids, self.params.mode)[0]
            empty = match(gt, dt, none, self.category_ids, self.params)
            self._parts = [concatenate([empty, *self._parts])]
        curves = accumulate(self._parts[0], self.params)
        return Numbers(summarize(curves, self.params), curves)

    def _refuse_repeated(self, what: str, new: Ints, known: Set[int], hint: str) -> None:
        values, counts = np.unique(new, return_counts=True)
        if twice := known & set(values.tolist()) | set(values[counts > 1].tolist()):
            raise _repeated(what, twice, hint)

    def _refuse_categories(self, gt: GroundTruth, dt: Detections) -> None:
        for name, rows in (("ground truth", gt), ("predictions", dt)):
            if len(strange := np.setdiff1d(rows.category_id, self.category_ids)):
                raise EvaluationError(
                    f"{name} of category {strange[0]}, expected {' or '.join(map(str, self.category_ids.tolist()))}",
                    hint="name all categories when making the StreamingEvaluation: category_ids=…",
                )

    def _agree_about_area(self, kind: str | None) -> None:
        if kind and self._area and kind != self._area:
            raise EvaluationError(
                f"predictions whose area is their {kind} beside others whose area is their {self._area}",
                hint="give bbox (or area) in every batch or in none",
            )
        self._area = self._area or kind


# -------------------------------------------------------------------------------------------------------------- columns


def _sigmas(skeleton: str | Skeleton | Sequence[float] | Floats) -> Floats:
    bones = load(skeleton) if isinstance(skeleton, str) else skeleton
    if not isinstance(bones, Skeleton):
        return np.asarray(array_of(bones), dtype=np.float64)
    if bones.sigmas is None:
        raise EvaluationError(
            f"the skeleton {bones.name!r} has no official OKS sigmas, and kpdata invents none",
            hint="give sigmas of your own: StreamingEvaluation([0.026, …])",
        )
    return np.array(bones.sigmas)


def array_of(values: Any) -> NDArray[Any]:
    """A NumPy array of anything like one; a torch tensor comes from its device, without torch being imported here."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:  # NumPy has no bfloat16; a 32-bit float holds each of them
        return np.asarray(tensor.float().numpy())


def _columns(given: Columns | None, known: Sequence[str], what: str) -> dict[str, NDArray[Any]]:
    """The columns as arrays of numbers. EvaluationError for unknown ones, and for what is no such array."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise EvaluationError(f"{what}: a {type(given).__name__}, expected columns by name: {', '.join(known)}")
    if strangers := sorted(set(given) - set(known)):
        raise EvaluationError(f"{what}: unknown column {strangers[0]!r}, expected some of {', '.join(known)}")
    columns = {}
    for name, values in given.items():
        try:
            column = array_of(values)
        except ValueError as error:  # rows of different lengths
            raise EvaluationError(f"{what}: column {name!r} is no array ({error})") from error
        if column.dtype.kind not in "biuf" and column.size:
            raise EvaluationError(
                f"{what}: column {name!r} is {column.dtype}, expected numbers", hint="number ids that are texts"
            )
        columns[name] = column
    return columns


def _need(columns: Columns, name: str, what: str, hint: str = "") -> NDArray[Any]:
    if columns and name not in columns:
        raise EvaluationError(f"{what}: no column {name!r}, found {', '.join(columns)}", hint=hint)
    return np.asarray(columns.get(name, np.empty(0)))


def _whole(name: str, values: Any) -> Ints:
    """(N,) int64. EvaluationError where they are no whole numbers."""
    array = array_of(values)
    if array.ndim != 1:
        raise EvaluationError(f"{name}: shape {array.shape}, expected a number a row")
    if array.dtype.kind not in "biu" and array.size and not (array.dtype.kind == "f" and (array % 1 == 0).all()):
        raise EvaluationError(f"{name}: {array.dtype} such as {array[0]!r}, expected whole numbers", hint="number them")
    return array.astype(np.int64)


def _pose(columns: Columns, what: str, k: int) -> Floats:
    """(N, K, 2 or 3). EvaluationError for any other shape."""
    pose = _need(columns, "keypoints", what)
    if not pose.size:
        return np.empty((0, k, 3))
    if pose.ndim != 3 or pose.shape[1] != k or pose.shape[2] not in (2, 3):
        raise EvaluationError(f"{what}: keypoints of shape {pose.shape}, expected (rows, {k}, 2 or 3)")
    return pose.astype(np.float64)


def _boxes(columns: Columns, what: str) -> Floats:
    """(N, 4). EvaluationError for any other shape."""
    boxes = np.asarray(columns["bbox"], np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise EvaluationError(f"{what}: bbox of shape {boxes.shape}, expected (rows, 4)")
    return boxes.reshape(-1, 4)


def _category(columns: Columns, rows: int, category_ids: Ints, what: str) -> Ints:
    if "category_id" not in columns and rows and len(category_ids) > 1:
        raise EvaluationError(f"{what}: no column 'category_id', and {len(category_ids)} categories are scored")
    return _whole("category_id", columns.get("category_id", np.full(rows, category_ids[0])))


def _truth(columns: Columns, k: int, category_ids: Ints) -> tuple[GroundTruth, Ints]:
    """Ground truth, and the annotation ids that were given. EvaluationError as `update`."""
    image = _whole("image_id", _need(columns, "image_id", "truth"))
    pose = _pose(columns, "truth", k)
    labelled = _labelled(columns, pose)
    count = columns.get("num_keypoints", labelled.sum(axis=1))
    if "bbox" not in columns and not labelled.any(axis=1).all():
        raise EvaluationError(
            f"truth: {int((~labelled.any(axis=1)).sum())} people without a labelled keypoint and no column 'bbox'",
            hint="predictions near them are ignored, near meaning their bbox: give it, or leave these people out",
        )
    ids = columns.get("annotation_id")
    truth = GroundTruth(
        image_id=image,
        category_id=_category(columns, len(image), category_ids, "truth"),
        annotation_id=np.arange(1, len(image) + 1) if ids is None else _whole("annotation_id", ids),
        keypoints=pose[..., :2],
        labelled=labelled,
        num_keypoints=_whole("num_keypoints", count),
        bbox=_boxes(columns, "truth") if "bbox" in columns else np.zeros((len(image), 4)),
        area=_need(columns, "area", "truth", "OKS is a distance relative to the size: COCO takes the mask's area"),
        iscrowd=np.asarray(columns.get("iscrowd", np.zeros(len(image))), np.bool_),
    )
    return truth, np.empty(0, np.int64) if ids is None else truth.annotation_id


def _labelled(columns: Columns, pose: Floats) -> Bools:
    """(N, K) whose v is above 0."""
    if "visibility" in columns and len(pose):
        return np.asarray(columns["visibility"] > 0)
    if pose.shape[2] == 2:
        raise EvaluationError("truth: keypoints (rows, K, 2) have no third number, and there is no column 'visibility'")
    return np.asarray(pose[..., 2] > 0)


def _found(columns: Columns, k: int, category_ids: Ints, mode: Mode) -> tuple[Detections, str | None]:
    """Detections, and what their area is (None without any)."""
    image = _whole("image_id", _need(columns, "image_id", "found"))
    xy = _pose(columns, "found", k)[..., :2]
    given = next((name for name in ("area", "bbox") if name in columns), None)
    if given == "area":
        area = np.asarray(columns["area"], np.float64)
    else:
        area = detection_area(xy, None if given is None else _boxes(columns, "found"), mode=mode)
    found = Detections(
        image_id=image,
        category_id=_category(columns, len(image), category_ids, "found"),
        keypoints=xy,
        score=_need(columns, "score", "found"),
        area=area,
    )
    return found, (given or "keypoints' extent") if len(image) else None


def _repeated(what: str, twice: Set[int], hint: str) -> EvaluationError:
    return EvaluationError(f"{len(twice):,} {what} ids that came before, such as {min(twice)}", hint=hint)


def _equal(a: Params, b: Params) -> bool:
    """The same to the bit, NaN with NaN."""
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(Params)]
    return all(np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y for x, y in pairs)
