"""On whom a model fails: AP and AR of kinds of people, of the same matches as the whole evaluation.

The rules of a slice, which make slices comparable with each other and with the whole:

- Detections keep the match that they have in the whole evaluation. People outside the slice are ignored, and so are the
  detections matched with them. (COCO's area ranges match again in each range, so that a detection can change its
  person; here every person found is found in exactly one slice, and recall of the whole is the mean of the slices'.)
- A detection without a match is a false positive of the person that counts whom it resembles most, with OKS 0.1 or
  more, and belongs to that person's slice. (COCO's area ranges go by the detection's own area, which says nothing about
  occlusion or crowding.)
- One that resembles nobody has no slice of its own: where slices are made of images it belongs to its image's, else
  each slice takes a part of it, as large as its share of the people. A rare kind of people does not pay for all.

A slice that holds everybody has the AP of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap
from kpdata.eval.matching import Matches
from kpdata.eval.oks import Bools, Floats, Ints, Order, candidate_pairs
from kpdata.eval.part import ANALYSIS_OKS, Pairing, Part, pair
from kpdata.geometry import box_from_keypoints, box_iou

SLICES = pa.schema(
    [
        ("by", pa.string()),
        ("slice", pa.string()),
        ("people", pa.int64()),
        ("images", pa.int64()),
        ("AP", pa.float64()),
        ("AP_low", pa.float64()),
        ("AP_high", pa.float64()),
        ("AP50", pa.float64()),
        ("AR", pa.float64()),
        ("mean_oks", pa.float64()),
        ("missed", pa.float64()),
    ]
)
_MOST = 50  # values of a text column: more are no kinds of people
_FEW = 6  # values of a number column that are slices as they are; more are cut at quartiles
_BORDER = 1.0  # px: boxes are often rounded to whole pixels


@dataclass(frozen=True, slots=True)
class Slicing:
    """One way to cut the people in kinds. -1: in none of them."""

    name: str
    labels: tuple[str, ...]  # (S,)
    person: Ints  # (N,) slice of each person of `Part.truth`
    image: Ints | None = None  # (I,) slice of each of `Part.image_ids`, where slices are made of images


def slices(
    part: Part,
    gt: Dataset,
    by: str | Sequence[str] | None = None,
    *,
    n: int = 0,
    seed: int = 0,
    level: float = 0.95,
    pairing: Pairing | None = None,
) -> pa.Table:
    """AP, AP50 and AR of each kind of people, the worst AP first.

    gt: the dataset that `Part.truth_rows` points into (`Evaluation.sides.gt`). by: names of `KINDS`, or of any column
    of numbers, truths or texts of its persons or images (`image.NAME` where both have it); None takes all of `KINDS`
    that the data can tell. n: bootstrap resamples for the interval of AP at `level`; 0 leaves it null, as it is where
    all people of the slice are on one image.

    Returns a table of `SLICES`: `people` that count and the `images` that hold them; `mean_oks` of those found at OKS
    0.1 or more and the share `missed` (of `pairing`, made here unless given). Slices without people are left out.
    Raises EvaluationError for a column that is not there or makes no slices, and for a `gt` of other people.
    """
    kinds = slicings(part, gt, by)
    if not kinds or not part.counted().any():
        return schema.table(SLICES, 0, {})
    people = people_of(part, kinds, pairing or pair(part))
    matches, shared, shares = sliced_matches(part, kinds)
    images = np.unique(part.image_ids)
    curves = bootstrap.curves_of(matches, images, part.params, shared, shares)
    thresholds = part.params.recall_thresholds
    precision, recall = bootstrap.resample(curves, np.ones((1, len(images)), np.int32), thresholds)
    low = high = np.full(precision.shape[1], np.nan)
    if n != 0:
        bootstrap.check_settings(n, seed, level)
        drawn, _ = bootstrap.resampled(curves, images, thresholds, n, seed)
        low, high = bootstrap.percentiles(drawn.mean(axis=2), level, people["images"])
    half = bootstrap.same(part.params.iou_thresholds, 0.5)
    numbers = {
        "AP": precision[0].mean(axis=1),
        "AP_low": low,
        "AP_high": high,
        "AP50": precision[0][:, half].mean(axis=1) if half.any() else np.full(len(low), np.nan),
        "AR": recall[0].mean(axis=1),
    }
    return sorted_table(kinds, numbers | people, SLICES, "AP")


def people_of(part: Part, kinds: Sequence[Slicing], pairing: Pairing) -> dict[str, Any]:
    """people, images, mean_oks and missed of every slice, one after the other."""
    counted = part.counted()
    oks, missed = np.zeros(len(counted)), np.zeros(len(counted))
    oks[pairing.truth] = pairing.oks
    missed[pairing.missed] = 1
    columns: dict[str, list[Any]] = {name: [] for name in ("people", "images", "mean_oks", "missed")}
    for kind in kinds:
        rows = np.flatnonzero(counted & (kind.person >= 0))
        which, size = kind.person[rows], len(kind.labels)
        people = np.bincount(which, minlength=size)
        found = people - np.bincount(which, missed[rows], size)
        pairs = np.unique(np.stack([which, part.truth.image_id[rows]]), axis=1)
        columns["people"].append(people)
        columns["images"].append(np.bincount(pairs[0], minlength=size))
        with np.errstate(invalid="ignore"):
            columns["mean_oks"].append(np.bincount(which, oks[rows], size) / found)
            columns["missed"].append(1 - found / people)
    return {name: np.concatenate(values) for name, values in columns.items()}


def sorted_table(kinds: Sequence[Slicing], columns: dict[str, Floats], form: pa.Schema, first: str) -> pa.Table:
    """A table of the slices that have people, in the order of the column `first`; columns (S,) of all kinds."""
    kept = np.flatnonzero(columns["people"] > 0)
    order = kept[np.argsort(columns[first][kept], kind="stable")]
    names = [kind.name for kind in kinds for _ in kind.labels]
    labels = [label for kind in kinds for label in kind.labels]
    arrays = {"by": schema.strings([names[i] for i in order.tolist()])}
    arrays["slice"] = schema.strings([labels[i] for i in order.tolist()])
    for name, values in columns.items():
        chosen = values[order]
        arrays[name] = schema.fixed(chosen, form.field(name).type, ~np.isnan(chosen))
    return schema.table(form, len(order), arrays)


# --------------------------------------------------------------------------------------------- slices as area ranges


def sliced_matches(part: Part, kinds: Sequence[Slicing]) -> tuple[Matches, Bools, Floats]:
    """The matches with a slice in the place of each area range, and what `bootstrap.curves_of` takes beside them.

    shared (D,) are detections that resemble nobody; shares (S, C) is what each slice takes of each of them.
    """
    whole = part.params.area_labels.index("all") if "all" in part.params.area_labels else 0
    matches = part.matches
    ignored = matches.gt_ignored[whole]
    owner = _resembled(part, ignored)
    row, image = matches.gt_row, lookup(part.image_ids, matches.dt_image_id)
    counts = [np.bincount(matches.gt_category[~ignored], minlength=len(matches.category_ids))]
    outside_people, outside_detections, shares = [], [], []
    for kind in kinds:
        person = np.append(kind.person[row], -1)  # the last for a detection that resembles nobody
        detection = person[owner]
        if kind.image is not None:
            detection = np.where(owner >= 0, detection, kind.image[image])
        for s in range(len(kind.labels)):
            outside_people.append(ignored | (person[:-1] != s))
            outside_detections.append(detection != s)
            mine = np.bincount(matches.gt_category[~outside_people[-1]], minlength=len(counts[0]))
            shares.append(mine / np.maximum(counts[0], 1) if kind.image is None else np.zeros(len(mine)))
    sliced = replace(
        matches,
        gt_ignored=np.stack(outside_people),
        dt_outside=np.stack(outside_detections),
        matched=np.broadcast_to(matches.matched[whole], (len(shares), *matches.matched.shape[1:])),
    )
    return sliced, owner < 0, np.stack(shares)


def _resembled(part: Part, ignored: Bools) -> Ints:
    """(D,) position in the matches of the person that counts and has the greatest OKS with each detection; -1: none."""
    matches, images = part.matches, np.unique(part.image_ids)
    order = Order(
        image_ids=images,
        category_ids=matches.category_ids,
        gt_rows=matches.gt_row,
        gt_group=matches.gt_category * len(images) + np.searchsorted(images, matches.gt_image_id),
        dt_rows=matches.dt_row,
        dt_group=matches.dt_category * len(images) + np.searchsorted(images, matches.dt_image_id),
        dt_rank=matches.dt_rank,
    )
    low = replace(part.params, iou_thresholds=np.array([ANALYSIS_OKS]))
    pairs = candidate_pairs(part.truth, part.detections, order, low)
    able = np.flatnonzero(~ignored[pairs.gt])
    best = able[np.lexsort((pairs.oks[able], pairs.dt[able]))]  # the last of a detection wins
    owner = np.full(len(matches.dt_row), -1)
    owner[pairs.dt[best]] = pairs.gt[best]
    return owner


# ------------------------------------------------------------------------------------------------- kinds of people


def slicings(part: Part, gt: Dataset, by: str | Sequence[str] | None = None) -> list[Slicing]:
    """The ways to cut that are asked for, or with None all of `KINDS` that the data can tell and that cut at all."""
    if len(gt) <= part.truth_rows.max(initial=-1) or not np.array_equal(
        schema.values(gt.persons["image_id"])[part.truth_rows], part.truth.image_id
    ):
        raise EvaluationError(
            "slices: the dataset is not the ground truth that was scored", hint="give Evaluation.sides.gt"
        )
    if by is None:
        found = [make(part, gt) for make in KINDS.values()]
        return [kind for kind in found if kind is not None and len(np.unique(kind.person[kind.person >= 0])) > 1]
    out = []
    for name in [by] if isinstance(by, str) else by:
        made = KINDS[name](part, gt) if name in KINDS else _column(part, gt, name)
        if made is None:
            raise EvaluationError(f"slices by {name!r}: the ground truth does not say it", hint=_NEEDS[name])
        out.append(made)
    return out


def _size(part: Part, gt: Dataset) -> Slicing:
    """By area in square pixels, at COCO's bounds; a person on a bound is of the larger kind (in COCO: of both)."""
    return Slicing("size", ("small", "medium", "large"), np.digitize(part.truth.area, [32**2, 96**2]))


def _labelled(part: Part, gt: Dataset) -> Slicing:
    """By number of labelled keypoints: 1–5, 6–10, 11–15, 16–17 of COCO's 17, the bins of Ronchi & Perona (ICCV 2017,
    figure 8), and the same shares of other skeletons."""
    most = int(part.mask.sum())
    edges = np.unique((np.array([0.3, 0.6, 0.9]) * most).astype(int))
    bounds = [0, *(e for e in edges.tolist() if 0 < e < most), most]
    labels = tuple(f"{low + 1}–{high}" if low + 1 < high else str(high) for low, high in pairwise(bounds))
    count = part.truth.labelled.sum(axis=1)
    return Slicing("keypoints", labels, np.where(count > 0, np.digitize(count, np.array(bounds[1:-1]) + 1), -1))


def _occlusion(part: Part, gt: Dataset) -> Slicing | None:
    """By share of the labelled keypoints that are marked occluded; None where the labels never do that."""
    hidden = (part.visibility == schema.Visibility.OCCLUDED) & part.truth.labelled
    if not hidden.any():
        return None
    share = hidden.sum(axis=1) / np.maximum(part.truth.labelled.sum(axis=1), 1)
    labels = ("nothing hidden", "up to 25 % hidden", "25–50 % hidden", "over 50 % hidden")
    return Slicing("occlusion", labels, np.digitize(share, [0.0, 0.25, 0.5], right=True))


def _crowding(part: Part, gt: Dataset) -> Slicing:
    """By the greatest IoU of the person's box with another's in the image, crowds left out."""
    most = _greatest_iou(part)
    return Slicing("crowding", ("no overlap", "IoU up to 0.1", "IoU 0.1–0.3", "IoU over 0.3"),
                   np.where(most == 0, 0, 1 + np.digitize(most, [0.1, 0.3], right=True)))  # fmt: skip


def _greatest_iou(part: Part) -> Floats:
    """(N,) greatest IoU of each person's box with those of others, 0 where there are none."""
    boxes, order = _boxes(part), np.lexsort((np.arange(len(part.truth_rows)), part.truth.image_id))
    order = order[~part.truth.iscrowd[order]]
    image, most = part.truth.image_id[order], np.zeros(len(part.truth_rows))
    first = np.arange(len(order))
    for step in range(1, len(order)):  # as many steps as the fullest image has people
        first = first[: np.searchsorted(first, len(order) - step)]
        first = first[image[first] == image[first + step]]
        if not len(first):
            break
        a, b = order[first], order[first + step]
        iou = np.nan_to_num(box_iou(boxes[a], boxes[b]))
        most[a] = np.maximum(most[a], iou)
        most[b] = np.maximum(most[b], iou)  # not together: somebody may be in both
    return most


def _boxes(part: Part) -> Floats:
    """(N, 4) the file's box, the extent of the labelled keypoints where it has none."""
    has: Bools = np.asarray((part.truth.bbox[:, 2:] > 0).all(axis=1))
    extent = box_from_keypoints(part.truth.keypoints, part.truth.labelled.astype(np.int8))
    return np.where(has[:, None], part.truth.bbox, extent)


def _truncation(part: Part, gt: Dataset) -> Slicing | None:
    """Whether the box or a labelled keypoint touches the image's edge (within 1 px); None without image sizes."""
    known = schema.valid(gt.images["width"]) & schema.valid(gt.images["height"])
    sizes = np.stack([schema.values(gt.images[name]) for name in ("width", "height")], axis=1).astype(np.float64)
    if not known.any():
        return None
    row = lookup(schema.values(gt.images["image_id"]), part.truth.image_id)
    told = np.where(row >= 0, known[row], False)
    edge, boxes = sizes[row], _boxes(part)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    box = ((low <= _BORDER) | (high >= edge - _BORDER)).any(axis=1)
    xy = part.truth.keypoints
    keypoint = ((xy <= 0) | (xy >= edge[:, None] - 1)).any(axis=2) & part.truth.labelled
    cut = box | keypoint.any(axis=1)
    return Slicing("truncation", ("inside the image", "at the edge"), np.where(told, cut, -1).astype(np.int64))


def _crowd_index(part: Part, gt: Dataset) -> Slicing | None:
    """By the image's crowdIndex, at the bounds of CrowdPose's evaluator (easy < 0.2 <= medium < 0.8 <= hard)."""
    known = schema.valid(gt.images["crowd_index"])
    if not known.any():
        return None
    code = np.digitize(schema.values(gt.images["crowd_index"]), [0.2, 0.8])
    return _of_images(part, gt, "crowd_index", ("easy", "medium", "hard"), np.where(known, code, -1))


def _dataset(part: Part, gt: Dataset) -> Slicing | None:
    return _by_value(part, gt, "dataset", gt.images["dataset"], of_images=True)


def _split(part: Part, gt: Dataset) -> Slicing | None:
    known = schema.valid(gt.images["split"]).any()
    return _by_value(part, gt, "split", gt.images["split"], of_images=True) if known else None


KINDS: dict[str, Callable[[Part, Dataset], Slicing | None]] = {
    "size": _size,
    "keypoints": _labelled,
    "occlusion": _occlusion,
    "crowding": _crowding,
    "truncation": _truncation,
    "crowd_index": _crowd_index,
    "dataset": _dataset,
    "split": _split,
}
_NEEDS = {
    "occlusion": "it needs keypoints that are marked occluded",
    "truncation": "it needs the width and height of the images",
    "crowd_index": "it needs crowd_index of the images, as CrowdPose has it",
    "split": "it needs the split of the images: `kpdata convert --label-split NAME` writes it",
}


# ------------------------------------------------------------------------------------------------------ any column


def _column(part: Part, gt: Dataset, name: str) -> Slicing:
    """A column of the persons or, where they have none of that name or it is `image.NAME`, of the images."""
    plain = name.removeprefix("image.")
    of_images = name != plain or name not in gt.persons.schema.names
    table = gt.images if of_images else gt.persons
    if plain not in table.schema.names or pa.types.is_list(table.schema.field(plain).type):
        raise EvaluationError(
            f"slices by {name!r}: neither a kind of people nor a column of single values",
            hint=f"kinds: {', '.join(KINDS)}; columns: {_columns(gt)}",
        )
    column = table[plain]
    if not _told(gt, column, of_images):
        raise EvaluationError(
            f"slices by {name!r}: the ground truth does not say it",
            hint=f"nobody has a value in that column; columns with values: {_columns(gt)}",
        )
    if column.type in (pa.string(), pa.bool_()):
        return _by_value(part, gt, name, column, of_images)
    labels, code = _quartiles(
        schema.values(column).astype(np.float64), schema.valid(column), _rows(part, gt, of_images)
    )
    return _placed(part, gt, name, labels, code, of_images)


def _columns(gt: Dataset) -> str:
    """The columns of single values that say something about somebody."""
    found = {
        field.name
        for table in (gt.persons, gt.images)
        for field in table.schema
        if not pa.types.is_list(field.type) and _told(gt, table[field.name], table is gt.images)
    }
    return ", ".join(sorted(found - set(KINDS)))


def _told(gt: Dataset, column: Any, of_images: bool) -> bool:
    """Whether anybody, or the image of anybody, has a value. All skeletons: one of them alone may have it."""
    known = schema.valid(column)
    if pa.types.is_floating(column.type):
        known = known & ~np.isnan(schema.values(column))
    if of_images:
        known = np.append(known, False)[gt.image_rows()]  # the last for people on images that are not listed
    return bool(known.any())


def _by_value(part: Part, gt: Dataset, name: str, column: Any, of_images: bool) -> Slicing:
    items = schema.chunk(column).to_pylist()
    values = list(dict.fromkeys(items))
    if len(values) > _MOST:
        raise EvaluationError(f"slices by {name!r}: {len(values):,} different values, expected at most {_MOST}")
    number = {value: i for i, value in enumerate(values)}
    code = np.array([number[item] for item in items], np.int64)
    labels = tuple("no value" if value is None else str(value).lower() if value in (True, False) else str(value)
                   for value in values)  # fmt: skip
    return _placed(part, gt, name, labels, code, of_images)


def _rows(part: Part, gt: Dataset, of_images: bool) -> Ints:
    """The row in the persons or images table of each person that counts."""
    if not of_images:
        return part.truth_rows[part.counted()]
    return lookup(schema.values(gt.images["image_id"]), part.truth.image_id[part.counted()])


def _quartiles(values: Floats, known: Bools, people: Ints) -> tuple[tuple[str, ...], Ints]:
    """Labels and code (rows,) of numbers: each value of few, else four bins of about as many people each, called by
    the smallest and the greatest value of their people. A bin without people has no label."""
    known = known & ~np.isnan(values)
    inside = values[people[known[people]]]
    different = np.unique(inside)
    if len(different) <= _FEW:
        labels, code = [_text(value) for value in different.tolist()], np.searchsorted(different, values)
    else:
        inner = np.unique(np.quantile(inside, (0.25, 0.5, 0.75)))
        inner = inner[inner > different[0]]
        code, of = np.digitize(values, inner), np.digitize(different, inner)
        labels = [_span(different[of == bin_]) for bin_ in range(len(inner) + 1)]
    return (*labels, "no value"), np.where(known, code, len(labels))


def _span(values: Floats) -> str:
    """The first and the last of ascending values, or the only one."""
    return " … ".join(dict.fromkeys(_text(value) for value in values[[0, -1]].tolist())) if len(values) else ""


def _text(value: float) -> str:
    """Six digits, of whole numbers such as ids all."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"


def _placed(part: Part, gt: Dataset, name: str, labels: tuple[str, ...], code: Ints, of_images: bool) -> Slicing:
    if of_images:
        return _of_images(part, gt, name, labels, code)
    return Slicing(name, labels, code[part.truth_rows])


def _of_images(part: Part, gt: Dataset, name: str, labels: tuple[str, ...], code: Ints) -> Slicing:
    """Slices made of images; code (rows of `gt.images`,), -1 for an image in none."""
    padded: NDArray[np.int64] = np.append(code, -1).astype(np.int64)  # the last stands for an image that is not listed
    ids = schema.values(gt.images["image_id"])
    return Slicing(name, labels, padded[lookup(ids, part.truth.image_id)], padded[lookup(ids, part.image_ids)])
