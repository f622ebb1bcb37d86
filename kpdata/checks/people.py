"""Checks of people as a whole: boxes, areas, counts, the same person twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpdata import geometry, schema
from kpdata.checks.view import Bools, Faults, Floats, Group, Ints, View

# `num_keypoints` counts this many keypoints from the first on. CrowdPose: the 12 limbs, not head and neck (8,527 of
# 8,527 annotations of its validation set). Whole-body files: COCO's body. Other skeletons: all.
COUNTED = {"crowdpose_14": 12, "halpe_26": 17, "halpe_136": 17, "coco_wholebody_133": 17}
# A pixel: boxes are rounded, and some files count pixels from 1.
BBOX_SLACK = 1.0
# A mask lies inside its box but for rounding: 1 % and 1 square px.
AREA_SLACK = 1.01, 1.0
# Two of a crowd seldom share 0.9 of their boxes, nor have poses as near as two labels of one person.
DUPLICATE_IOU, DUPLICATE_OKS = 0.9, 0.95
# Mask area as a share of the box where the mask is not known: CrowdPose's and MMPose's stand-in
# (Jeff-sjtu/CrowdPose crowdposetools/cocoeval.py; 0.554 is the median of real people).
MASK_SHARE = 0.53
# In the range of COCO's own (0.025 to 0.107), for skeletons without sigmas.
DEFAULT_SIGMA = 0.05


def number_not_finite(view: View) -> Iterator[Faults]:
    """error: NaN or infinity in bbox, area or score."""
    persons = view.dataset.persons
    for key in ("bbox", "area", "score"):
        present = schema.valid(persons[key])
        found = view.bbox if key == "bbox" else schema.values(persons[key])[:, None]
        rows = np.flatnonzero(present & ~np.isfinite(found).all(1))
        words = [f"{key} is {_numbers(found[row])}, expected finite numbers" for row in rows.tolist()]
        yield Faults("error", "persons", rows, words)


def num_keypoints(view: View) -> Iterator[Faults]:
    """warning: `num_keypoints` is not the number of labelled keypoints by the rule of its skeleton (`COUNTED`).

    Not of predictions, nor of remapped people, who keep the number of their source.
    """
    column = view.dataset.persons["num_keypoints"]
    found, count = schema.values(column), np.zeros(len(view.dataset), np.int64)
    rule = np.full(len(view.dataset), "", object)
    for group in view.groups:
        first = COUNTED.get(group.skeleton.name, len(group.skeleton))
        count[group.rows] = group.labelled[:, :first].sum(1)
        if first < len(group.skeleton):
            rule[group.rows] = f" among the first {first}, which this format counts"
    judged = schema.valid(column) & ~view.predicted & ~view.per_dataset(lambda facts: facts.get("remapped"))
    rows = np.flatnonzero(judged & (found != count))
    words = [f"num_keypoints is {found[r]}, expected {count[r]}: so many are labelled{rule[r]}" for r in rows.tolist()]
    yield Faults("warning", "persons", rows, words)


# -------------------------------------------------------------------------------------------------------------- boxes


def bbox_size(view: View) -> Iterator[Faults]:
    """warning: a box whose width or height is 0 or below."""
    rows = np.flatnonzero((view.bbox[:, 2:] <= 0).any(1))
    words = [f"bbox {_numbers(view.bbox[r])}: width and height expected above 0" for r in rows.tolist()]
    yield Faults("warning", "persons", rows, words)


def bbox_outside_image(view: View) -> Iterator[Faults]:
    """warning: a box that leaves its image by more than `BBOX_SLACK` px."""
    box, size = view.bbox, view.person_size
    over = np.maximum(-box[:, :2], box[:, :2] + box[:, 2:] - size).max(1)  # (N,) px beyond the farthest edge
    rows = np.flatnonzero(view.tight_bbox & (over > BBOX_SLACK))
    words = []
    for row in rows.tolist():
        (x, y, w, h), (width, height) = box[row].tolist(), size[row].tolist()
        how = (
            "is wholly outside"
            if x >= width or y >= height or x + w <= 0 or y + h <= 0
            else f"leaves by {over[row]:g} px"
        )
        words.append(f"bbox {_numbers(box[row])} {how} the image of {width:g} x {height:g} px")
    yield Faults("warning", "persons", rows, words)


def area_not_positive(view: View) -> Iterator[Faults]:
    """warning: an area of 0 or below: the scale of OKS is its root."""
    area = schema.values(view.dataset.persons["area"])
    rows = np.flatnonzero(area <= 0)  # a null is NaN
    words = [f"area is {a:g}, expected square px above 0 (OKS divides by it)" for a in area[rows].tolist()]
    yield Faults("warning", "persons", rows, words)


def area_above_bbox(view: View) -> Iterator[Faults]:
    """warning: an area above that of the person's box (beyond `AREA_SLACK`): a mask lies inside its box."""
    area, box = schema.values(view.dataset.persons["area"]), geometry.box_area(view.bbox)
    rows = np.flatnonzero(view.tight_bbox & (area > AREA_SLACK[0] * box + AREA_SLACK[1]) & np.isfinite(area))
    words = [f"area is {area[r]:g}, expected at most its bbox's {box[r]:g} square px" for r in rows.tolist()]
    yield Faults("warning", "persons", rows, words)


def area_is_bbox(view: View) -> Iterator[Faults]:
    """note: in a whole dataset area is the box's: OKS is higher than with mask areas, and not comparable."""
    area, box = schema.values(view.dataset.persons["area"]), geometry.box_area(view.bbox)
    judged = view.tight_bbox & np.isfinite(area) & ~view.predicted
    equal = judged & (np.abs(area - box) <= 1e-3 * np.maximum(box, 1))
    for number in range(len(view.names)):
        own = view.person_dataset == number
        if (own & judged).any() and (equal | ~judged)[own].all():
            count = (own & judged).sum()
            message = f"area is w x h of the bbox for all {count:,} people: OKS is not comparable with mask areas'"
            yield Faults("note", "datasets", np.array([number]), [message])


# ------------------------------------------------------------------------------------------- counts, the same twice


def people_without_keypoints(view: View) -> Iterator[Faults]:
    """note: how many people of a dataset have no labelled keypoint. Crowds are not people."""
    for number in range(len(view.names)):
        own = (view.person_dataset == number) & ~view.crowd
        count = int((own & (view.labelled_count == 0)).sum())
        if count:
            message = f"{count:,} of {own.sum():,} people have no labelled keypoint: OKS evaluation ignores them"
            yield Faults("note", "datasets", np.array([number]), [message])


def duplicate_people(view: View) -> Iterator[Faults]:
    """warning: a person who is an earlier one of the same image again: box IoU above `DUPLICATE_IOU`, OKS above
    `DUPLICATE_OKS`. Predictions are not judged.

    OKS (Lin et al., COCO keypoint task) over the keypoints that both have labelled, of which there must be at least
    half of what the richer one has; sigmas of the skeleton (`DEFAULT_SIGMA` without); area `MASK_SHARE` of the smaller
    box. People without a box are compared by the extent of their keypoints. Same skeleton only.
    """
    ids = schema.values(view.dataset.persons["annotation_id"])
    for group in view.groups:
        partner = _partners(view, group)
        later = np.flatnonzero(partner < len(group.rows))
        oks, iou = _alike(view, group, partner[later], later)
        earlier = ids[group.rows[partner[later]]].tolist()
        words = [
            f"the same person as annotation {other}: OKS {a:.3f}, box IoU {b:.3f}, expected one annotation a person"
            for other, a, b in zip(earlier, oks.tolist(), iou.tolist(), strict=True)
        ]
        yield Faults("warning", "persons", group.rows[later], words)


def _partners(view: View, group: Group) -> Ints:
    """(n,) position in the group of the first earlier person that each repeats; n where there is none."""
    n, partner = len(group.rows), np.full(len(group.rows), len(group.rows))
    for i, j in _near_pairs(view, group):
        oks, iou = _alike(view, group, i, j)
        same = (oks > DUPLICATE_OKS) & (iou > DUPLICATE_IOU)
        np.minimum.at(partner, np.maximum(i, j)[same], np.minimum(i, j)[same])
    return np.where(partner < n, partner, n)


def _near_pairs(view: View, group: Group) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of one image whose boxes can reach `DUPLICATE_IOU`, in a few batches: a sweep, not N x N.

    Sorted by image and left edge, a box is compared with the next, the one after it, …, while that starts within
    (1 - IoU) of its width: farther right the common width alone is too small.
    """
    box, image = view.size_box[group.rows], schema.values(view.dataset.persons["image_id"])[group.rows]
    judged = np.flatnonzero(
        (box[:, 2:] > 0).all(1) & ~view.predicted[group.rows] & (view.labelled_count[group.rows] > 0)
    )
    order = judged[np.lexsort((box[judged, 0], image[judged]))]
    left = np.arange(len(order))
    for gap in range(1, len(order)):
        left = left[left + gap < len(order)]
        i, j = order[left], order[left + gap]
        close = (image[i] == image[j]) & (box[j, 0] - box[i, 0] <= (1 - DUPLICATE_IOU) * box[i, 2])
        left = left[close]
        if not len(left):
            return
        yield i[close], j[close]


def _alike(view: View, group: Group, i: Ints, j: Ints) -> tuple[Floats, Floats]:
    """(m,) OKS and (m,) box IoU of pairs of positions in the group; OKS 0 where too few keypoints are common."""
    box, labelled = view.size_box[group.rows], group.labelled
    sigmas = np.array(group.skeleton.sigmas or [DEFAULT_SIGMA] * len(group.skeleton))  # (K,)
    area = MASK_SHARE * np.minimum(geometry.box_area(box[i]), geometry.box_area(box[j]))  # (m,)
    both: Bools = labelled[i] & labelled[j]  # (m, K)
    with np.errstate(invalid="ignore", over="ignore"):
        d2 = np.square(group.xy[i] - group.xy[j]).sum(-1)  # (m, K)
    similar = np.exp(-np.where(both, d2, 0) / (2 * area[:, None] * np.square(2 * sigmas)))
    common, richer = both.sum(1), np.maximum(labelled[i].sum(1), labelled[j].sum(1))
    enough = (common > 0) & (2 * common >= richer)
    oks = np.where(enough, (similar * both).sum(1) / np.maximum(common, 1), 0.0)
    return oks, geometry.box_iou(box[i], box[j])


def _numbers(values: Floats) -> str:
    return ", ".join(f"{value:g}" for value in values.tolist())
