"""Object keypoint similarity (OKS) of detections with ground truth, in the order and to the bit of pycocotools.

The rules are those of `COCO.loadRes` and `COCOeval.computeOks` (cocodataset/cocoapi, PythonAPI/pycocotools, as released
in pycocotools 2.0.11). Plain arrays come in and go out; nothing here knows a file format.

Evaluation is three steps, one file each: pairs and their OKS (here), who is matched with whom (`matching`), and curves
and numbers (`average_precision`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import distinct, isin, lookup, pairs, runs
from kpdata.errors import EvaluationError
from kpdata.eval.kernels import TERMS_PER_BLOCK, extents, minus_e, minus_e_of_boxes, near
from kpdata.threads import WORTH_IT, in_threads, workers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Mode = Literal["strict", "fixed"]

PAIRS_PER_BLOCK = 1 << 20  # pairs listed at once: bounds memory where images hold thousands of people
MAX_THRESHOLD = 1 - 1e-10  # cocoeval.py:279: a threshold of 1 would match nothing but NaN


def _columns(owner: Any, dtypes: dict[str, tuple[Any, int]]) -> None:
    """Make the named columns contiguous and of these types; refuse those whose shapes contradict each other."""
    rows = len(getattr(owner, next(iter(dtypes))))
    for name, (dtype, ndim) in dtypes.items():
        column = np.ascontiguousarray(getattr(owner, name), dtype=dtype)
        if column.ndim != ndim or len(column) != rows:
            raise EvaluationError(
                f"{type(owner).__name__}.{name}: shape {column.shape}, expected {ndim} dimension(s) and {rows} rows"
            )
        object.__setattr__(owner, name, column)
    if owner.keypoints.shape[2] != 2:
        raise EvaluationError(f"{type(owner).__name__}.keypoints: shape {owner.keypoints.shape}, expected (rows, K, 2)")


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Annotated people in the order of the file: ties depend on it. All lengths are in pixels, areas in square pixels.

    `labelled` is v > 0; `num_keypoints` and `area` are the file's fields, not recomputed; `bbox` is x, y, w, h.
    A repeated `annotation_id` is read as pycocotools reads it: the last such row stands in for all of them (with
    `Params.mode` "fixed" every row is itself, whatever its id).
    Raises EvaluationError where the columns' shapes contradict each other.
    """

    image_id: Ints  # (N,)
    category_id: Ints  # (N,)
    annotation_id: Ints  # (N,)
    keypoints: Floats  # (N, K, 2)
    labelled: Bools  # (N, K)
    num_keypoints: Ints  # (N,)
    bbox: Floats  # (N, 4)
    area: Floats  # (N,)
    iscrowd: Bools  # (N,)

    def __post_init__(self) -> None:
        whole, real, flag = np.int64, np.float64, np.bool_
        ids: dict[str, tuple[Any, int]] = dict.fromkeys(("image_id", "category_id", "annotation_id"), (whole, 1))
        rest: dict[str, tuple[Any, int]] = {
            "keypoints": (real, 3),
            "labelled": (flag, 2),
            "num_keypoints": (whole, 1),
            "bbox": (real, 2),
            "area": (real, 1),
            "iscrowd": (flag, 1),
        }
        _columns(self, ids | rest)
        if self.labelled.shape != self.keypoints.shape[:2] or self.bbox.shape[1] != 4:
            raise EvaluationError(
                f"GroundTruth: labelled {self.labelled.shape}, bbox {self.bbox.shape} beside keypoints "
                f"{self.keypoints.shape}, expected (N, K), (N, 4) and (N, K, 2)"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Predicted people in the order of the file. `area` is what `detection_area` gives; scores need not lie in 0…1.

    Raises EvaluationError where the columns' shapes contradict each other.
    """

    image_id: Ints  # (M,)
    category_id: Ints  # (M,)
    keypoints: Floats  # (M, K, 2)
    score: Floats  # (M,)
    area: Floats  # (M,)

    def __post_init__(self) -> None:
        whole, real = np.int64, np.float64
        _columns(
            self,
            {
                "image_id": (whole, 1),
                "category_id": (whole, 1),
                "keypoints": (real, 3),
                "score": (real, 1),
                "area": (real, 1),
            },
        )


@dataclass(frozen=True, slots=True)
class Params:
    """What to evaluate at. The defaults are those of `COCOeval` for keypoints; `max_dets` is sorted at birth.

    `sigmas` (K,) are the falloff constants of the skeleton (k = 2 sigma in the COCO keypoint task's definition).
    The grids are np.linspace: 0.5 + 0.05 i differs from them in the last bit.

    `mode` "strict" gives pycocotools' outcome to the bit. "fixed" gives what its rules mean, and differs where
    - a person has annotation id 0: found like any other (strict: its detection counts as unmatched);
    - annotation ids repeat: every row is itself (strict: the last row of an id stands in for all of them);
    - a keypoint, an area or a sigma is NaN: that keypoint is infinitely far away (strict: OKS is NaN and matches
      anything), and `detection_area` takes the extent of the others;
    - `max_dets` is not 20: `summarize` takes the largest (strict: -1), and it finds the thresholds 0.5 and 0.75 of a
      grid that holds them only nearly;
    - `use_categories` is False: the people of all listed categories are one (strict: nothing matches, so AP is 0).
    NaN scores come last in both. On data that step into none of these the two modes agree to the bit.

    Raises EvaluationError on an empty grid, on ranges and labels that do not pair up, on a `max_dets` below 1, and on
    a mode that is none of the two.
    """

    sigmas: Floats
    iou_thresholds: Floats = field(default_factory=lambda: np.linspace(0.5, 0.95, 10))
    recall_thresholds: Floats = field(default_factory=lambda: np.linspace(0.0, 1.0, 101))
    area_ranges: Floats = field(default_factory=lambda: np.array([[0, 1e5**2], [32**2, 96**2], [96**2, 1e5**2]]))
    area_labels: tuple[str, ...] = ("all", "medium", "large")
    max_dets: tuple[int, ...] = (20,)
    mode: Mode = "strict"
    use_categories: bool = True

    def __post_init__(self) -> None:
        for name in ("sigmas", "iou_thresholds", "recall_thresholds"):
            grid = np.asarray(getattr(self, name), dtype=np.float64)
            if grid.ndim != 1 or not len(grid):
                raise EvaluationError(f"Params.{name}: shape {grid.shape}, expected at least one number in a row")
            object.__setattr__(self, name, grid)
        ranges = np.asarray(self.area_ranges, dtype=np.float64)
        labels = tuple(self.area_labels)
        if ranges.shape != (len(labels), 2) or len(set(labels)) != len(labels):
            raise EvaluationError(
                f"Params: area_ranges of shape {ranges.shape} with area_labels {labels}, "
                f"expected one (low, high) for each of the labels, which must differ"
            )
        if not self.max_dets or min(self.max_dets) < 1:
            raise EvaluationError(f"Params.max_dets: {self.max_dets}, expected one or more counts of at least 1")
        if self.mode not in ("strict", "fixed"):
            raise EvaluationError(f"Params.mode: {self.mode!r}, expected 'strict' or 'fixed'")
        object.__setattr__(self, "area_ranges", ranges)
        object.__setattr__(self, "area_labels", labels)
        object.__setattr__(self, "max_dets", tuple(sorted(int(m) for m in self.max_dets)))


def detection_area(keypoints: Floats, bbox: Floats | None = None, *, mode: Mode = "strict") -> Floats:
    """Areas that `COCO.loadRes` gives to results (coco.py:335–361), which decide their size range. (M,) square pixels.

    Without boxes: the extent of *all* keypoints (M, K, 2), also of those with a third value of 0; NaN where one is NaN.
    With `bbox` (M, 4) x, y, w, h: w * h. loadRes takes the boxes of all results if the *first* one has a box.
    With `mode` "fixed" the extent is that of the keypoints that are not NaN, and an area that would be NaN is 0.

    >>> detection_area(np.array([[[10.0, 20.0], [13.0, 24.0], [11.0, 21.0]]])).tolist()
    [12.0]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if bbox is not None:
            box = np.asarray(bbox, dtype=np.float64)
            area = np.asarray(box[:, 2] * box[:, 3])
        else:
            low, high = extents(np.asarray(keypoints, dtype=np.float64), skip_nan=mode == "fixed")
            area = np.asarray((high[:, 0] - low[:, 0]) * (high[:, 1] - low[:, 1]))
    return np.where(np.isnan(area), 0.0, area) if mode == "fixed" else area


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Which rows take part, and in which order. Group = category index * number of images + image index.

    Ground truth: by group, then file order (`gt_rows` (G,) into GroundTruth; a repeated id's last row may come twice).
    Detections: by group, then best score first, the best `max_dets` of each group (`dt_rows` (D,) into Detections,
    `dt_rank` 0 for the best of its group).
    """

    image_ids: Ints  # (I,) ascending
    category_ids: Ints  # (C,) ascending
    gt_rows: Ints  # (G,)
    gt_group: Ints  # (G,) ascending
    dt_rows: Ints  # (D,)
    dt_group: Ints  # (D,) ascending
    dt_rank: Ints  # (D,)


def order_rows(
    gt: GroundTruth, dt: Detections, image_ids: Ints, category_ids: Ints, max_dets: int, *, mode: Mode = "strict"
) -> Order:
    """Drop what is not listed and sort as pycocotools does (cocoeval.py:78–116, 197–200).

    Scores sort descending and stably: -0.0 ties with 0.0, NaN comes last.
    """
    images, categories = distinct(np.asarray(image_ids, np.int64)), distinct(np.asarray(category_ids, np.int64))
    gt_rows, gt_group = _order_ground_truth(gt, images, categories, mode)
    group = _groups(dt.image_id, dt.category_id, images, categories)
    rows = np.flatnonzero(group >= 0)
    rows = rows[best_first(dt.score[rows])]
    rows = rows[_stable_argsort(group[rows], len(images) * len(categories))]
    group = group[rows]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    best = rank < max_dets
    return Order(images, categories, gt_rows, gt_group, rows[best], group[best], rank[best])


def resolve_repeated_ids(gt: GroundTruth, image_ids: Ints, category_ids: Ints) -> GroundTruth:
    """The listed rows with those of a repeated annotation id replaced by the last of that id, as pycocotools sees them.

    It looks ids up in a dict (coco.py:96, 205), image by image: the last row comes as often as its id, also in the
    place of rows of other images. `match` does this by itself; call it before matching in batches, where the rows of
    an id would be in different batches. Without repeated ids `gt` comes back as it is; a second call changes nothing.
    """
    if len(distinct(gt.annotation_id)) == len(gt.annotation_id):
        return gt
    images, categories = distinct(np.asarray(image_ids, np.int64)), distinct(np.asarray(category_ids, np.int64))
    rows, _ = _order_ground_truth(gt, images, categories, "strict")
    return GroundTruth(**{name: getattr(gt, name)[rows] for name in gt.__slots__})


def _order_ground_truth(gt: GroundTruth, images: Ints, categories: Ints, mode: Mode) -> tuple[Ints, Ints]:
    """Rows and groups of the listed ground truth, by group, then by the place where their id was looked up."""
    group = _groups(gt.image_id, gt.category_id, images, categories)
    rows = np.flatnonzero(group >= 0)
    ids, last, inverse = np.unique(gt.annotation_id[::-1], return_index=True, return_inverse=True)
    if mode == "strict" and len(ids) < len(gt.annotation_id):
        rows = rows[np.argsort(gt.image_id[rows], kind="stable")]
        rows = (len(inverse) - 1 - last)[inverse[::-1]][rows]
        rows = rows[group[rows] >= 0]
    rows = rows[_stable_argsort(group[rows], len(images) * len(categories))]
    return rows, group[rows]


def _groups(image_id: Ints, category_id: Ints, images: Ints, categories: Ints) -> Ints:
    """(N,) group of each row, -1 where its image or its category is not listed."""
    if not len(images) or not len(categories):
        return np.full(len(image_id), -1)
    i, c = lookup(images, image_id), lookup(categories, category_id)
    return np.asarray(np.where((i >= 0) & (c >= 0), c * len(images) + i, -1))


def best_first(score: Floats) -> Ints:
    """np.argsort(-score, kind="stable"), which puts NaN last, in half its time: NumPy's other sort, then the ties."""
    order = np.argsort(-score)
    falling = score[order]
    tied = (falling[1:] == falling[:-1]) | (np.isnan(falling[1:]) & np.isnan(falling[:-1]))
    if tied.any():
        run = np.cumsum(np.append(True, ~tied))
        at = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        order[at] = order[at][np.lexsort((order[at], run[at]))]
    return order


def _stable_argsort(group: Ints, groups: int) -> Ints:
    """NumPy sorts 16-bit integers stably by radix, ten times faster than 64-bit ones."""
    return np.argsort(group.astype(np.uint16) if groups <= 1 << 16 else group, kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Detections beside ground truth of the same image and category, with their OKS, by detection, then ground truth.

    Holds every pair that can influence a match at `Params.iou_thresholds`: those that reach the least of them, and all
    pairs of a detection whose OKS may be NaN (NaN matches anything, and lets the next one match too).
    """

    dt: Ints  # (P,) position in Order.dt_rows
    gt: Ints  # (P,) position in Order.gt_rows
    oks: Floats  # (P,)


def candidate_pairs(gt: GroundTruth, dt: Detections, order: Order, params: Params) -> Pairs:
    """Find the pairs inside images, drop those too far apart, compute OKS, keep what reaches the least threshold."""
    groups, back = runs(order.dt_group)
    first = back(np.searchsorted(order.gt_group, groups, side="left"))
    counts = back(np.searchsorted(order.gt_group, groups, side="right")) - first
    least = float(np.minimum(params.iou_thresholds, MAX_THRESHOLD).min())
    people = CompactKeypoints.of(gt, order.gt_rows)
    gt_box, odd, sound = _gt_boxes(people, least, params.sigmas)
    findable = np.flatnonzero((counts > 0) & ~isin(order.dt_group, order.gt_group[odd])) if sound else counts[:0]

    def block(start: int, stop: int) -> tuple[Ints, Ints, Floats]:
        dt_box = _dt_boxes(dt, order, findable, start, stop)
        d, g = near(first[start:stop], counts[start:stop], dt_box, gt_box)
        oks = pair_oks(people, g, dt.keypoints, order.dt_rows[start + d], params.sigmas, mode=params.mode)
        kept = np.flatnonzero(~(oks < least) | np.isnan(dt_box[d, 0]))
        return start + d[kept], g[kept], oks[kept]

    limit = min(PAIRS_PER_BLOCK, max(WORTH_IT, -(-int(counts.sum()) // workers())))
    parts = in_threads([partial(block, *ends) for ends in _blocks(counts, limit)], size=limit)
    empty = np.empty(0, np.int64)
    d, g, oks = (np.concatenate(p) for p in zip((empty, empty, np.empty(0)), *parts, strict=True))
    return Pairs(d, g, oks)


def _blocks(counts: Ints, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive rows whose counts sum to at most `limit`, or of a single row that exceeds it."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield start, stop
        start = stop


@dataclass(frozen=True, slots=True, eq=False)
class CompactKeypoints:
    """Ground truth with the labelled keypoints moved to the front, in their order; K of them where none is labelled."""

    joints: Ints  # (G, K) keypoint index
    keypoints: Floats  # (G, K, 2)
    count: Ints  # (G,) labelled keypoints
    box: Floats  # (G, 4) x0, y0, x1, y1: bbox enlarged to three times its size
    area: Floats  # (G,) plus np.spacing(1)

    @classmethod
    def of(cls, gt: GroundTruth, rows: Ints) -> CompactKeypoints:
        labelled = gt.labelled[rows]
        joints = np.argsort(~labelled, axis=1, kind="stable")
        keypoints = pairs(gt.keypoints)[rows[:, None], joints].view(np.float64).reshape(*joints.shape, 2)
        x, y, w, h = gt.bbox[rows].T
        with np.errstate(invalid="ignore", over="ignore"):
            box = np.stack([x - w, y - h, x + w * 2, y + h * 2], axis=1)
        return cls(joints, keypoints, labelled.sum(axis=1), box, gt.area[rows] + np.spacing(1))


def pair_oks(
    people: CompactKeypoints, g: Ints, dt_keypoints: Floats, rows: Ints, sigmas: Floats, *, mode: Mode = "strict"
) -> Floats:
    """OKS (P,) of ground truth `g` (P,) with detections `rows` (P,), to the bit of cocoeval.py:192–233.

    Only labelled keypoints of the ground truth count. Where it has none, each keypoint's distance to its box enlarged
    three times stands in (0 inside). A NaN keypoint gives NaN; sizes of 0 give what the division gives. With `mode`
    "fixed" a NaN keypoint is infinitely far away, so that OKS is never NaN.
    """
    oks = np.empty(len(g))
    count = people.count[g]
    variances = (sigmas * 2) ** 2
    weights = (variances, people.area)
    with np.errstate(all="ignore"):
        for n in distinct(count).tolist():  # rows of equal length, so that NumPy's own sum adds in its own order
            which = np.flatnonzero(count == n)
            step = max(1, TERMS_PER_BLOCK // (n or len(sigmas)))
            for s in range(0, len(which), step):
                part = which[s : s + step]
                if n:
                    terms = minus_e(dt_keypoints, rows[part], people.keypoints, g[part], people.joints, n, *weights)
                else:
                    terms = minus_e_of_boxes(dt_keypoints, rows[part], people.box, g[part], *weights)
                if mode == "fixed":
                    terms[np.isnan(terms)] = -np.inf
                oks[part] = np.exp(terms, out=terms).sum(axis=1) / terms.shape[1]
    return oks


def _gt_boxes(people: CompactKeypoints, least: float, sigmas: Floats) -> tuple[Floats, Bools, bool]:
    """Boxes (G, 4) as x0, y0, x1, y1 such that detections whose boxes do not touch them cannot reach OKS `least`.

    OKS is a mean of exp(-e), so one term must reach the threshold, so one keypoint must lie within
    sqrt(2 * -ln(least) * variance * area) of its twin, which the ground truth's box is enlarged by.
    That argument needs finite numbers: second, (G,) for whom it fails; third, False where it fails for all.
    1e-9 is far above the rounding of the sum and of e.
    """
    labelled = (np.arange(people.joints.shape[1]) < people.count[:, None])[:, :, None]
    low, high = extents(np.where(labelled, people.keypoints, people.keypoints[:, :1]))
    none = (people.count == 0)[:, None]
    low = np.where(none, np.minimum(people.box[:, :2], people.box[:, 2:]), low)
    high = np.where(none, np.maximum(people.box[:, :2], people.box[:, 2:]), high)
    variances = (sigmas * 2) ** 2
    sound = least > 1e-12 and bool(np.all((variances > 1e-100) & (variances < 1e100)))
    odd = ~(np.isfinite(low) & np.isfinite(high)).all(axis=1) | ~((people.area > 0) & np.isfinite(people.area))
    with np.errstate(invalid="ignore", over="ignore"):
        farthest = 2 * (1e-9 - np.log(least if sound else 1.0)) * variances.max() * people.area
        reach = np.sqrt(farthest)[:, None] * (1 + 1e-9)
        return np.concatenate([low - reach, high + reach], axis=1), odd, sound


def _dt_boxes(dt: Detections, order: Order, findable: Ints, start: int, stop: int) -> Floats:
    """Boxes (D, 4) of detections start … stop - 1; NaN, which is apart from nothing, where a keypoint is NaN and for
    those that are not `findable` by boxes, because of someone in their image."""
    here = findable[slice(*np.searchsorted(findable, (start, stop)))]
    found = np.concatenate(extents(dt.keypoints, order.dt_rows[here]), axis=1)
    found[np.isnan(found).any(axis=1)] = np.nan
    box = np.full((stop - start, 4), np.nan)
    box[here - start] = found
    return box
