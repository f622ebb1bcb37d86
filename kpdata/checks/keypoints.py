"""Checks of keypoints: flags, coordinates, and poses that no body takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpdata import schema
from kpdata.checks.view import Bools, Faults, Floats, Group, Ints, View

# COCO-WholeBody: from this column on (face and hands) any number from 0 up is a flag (jin-s13/COCO-WholeBody
# data_format.md: a confidence); body and feet keep 0, 1, 2.
FREE_FLAGS_FROM = {"coco_wholebody_133": 23}
# A pixel's centre is a whole number, so the image covers -0.5 to W - 0.5.
PIXEL_EDGE = 0.5
# 5 % of real keypoints lie outside their box, most of them just: boxes hold the visible part, joints lie under cloth.
BBOX_MARGIN = 0.10
# Two keypoints of one person can share a pixel; three of different places do not.
ONE_POINT_COUNT = 3
# Left of right, across the body's axis, by at least this share of the torso's length: a person seen from the side, or
# nearly, is not judged.
CROSSED_SHARE = 0.25
# A robust z-score: 6 is out of reach of any natural spread, and foreshortening only makes limbs short.
LIMB_Z = 6.0
# A spread of the log below this (lengths within a tenth) is that of a drawn or copied set: 6 of it would be no fault.
LIMB_SPREAD = 0.1
# So many people make a median and a spread that one of them can be held against.
LIMB_PEOPLE = 30
# A class that a keypoint has in 1 of 10 cases is missing by chance in 50 with 0.5 %.
UNUSED_COUNT = 50


def visibility_value(view: View) -> Iterator[Faults]:
    """error: a flag that is not of the format: 0, 1 or 2; any number from 0 up on WholeBody's face and hands.

    Also a visibility above 3 or below 0 in kpdata's own tables. Predictions have no flags.
    """
    stored = schema.valid(view.dataset.persons["visibility_raw"])
    for group in view.groups:
        strange = ~np.isin(group.visibility, (0, 1, 2, 3))
        yield group.faults("error", strange, "visibility is {v}, expected 0 to 3")
        some = np.flatnonzero(stored[group.rows])
        if not len(some):
            continue
        part = Group(group.skeleton, group.rows[some], group.xy[some], group.visibility[some])
        raw = schema.matrix(view.rows_of("visibility_raw", part.rows), len(group.skeleton))
        known = np.isin(raw, (0, 1, 2))
        free = np.arange(raw.shape[1]) >= FREE_FLAGS_FROM.get(group.skeleton.name, len(group.skeleton))  # (K,)
        known |= free & (raw >= 0) & np.isfinite(raw)
        expected = np.broadcast_to(np.where(free, "0 or above", "0, 1 or 2"), raw.shape)
        yield part.faults("error", ~known, "v is {raw:g}, expected {expected}", raw=raw, expected=expected)


def keypoint_not_finite(view: View) -> Iterator[Faults]:
    """error: a labelled keypoint with a NaN coordinate, any keypoint with an infinite one."""
    for group in view.groups:
        wrong = (np.isnan(group.xy).any(-1) & group.labelled) | np.isinf(group.xy).any(-1)
        yield group.faults("error", wrong, "at ({x:g}, {y:g}) with v {v}, expected finite coordinates")


def unlabelled_with_coordinates(view: View) -> Iterator[Faults]:
    """warning: not labelled (v 0), yet with coordinates other than 0, 0: a lost flag, or numbers that mean nothing."""
    for group in view.groups:
        wrong = ~group.labelled & np.isfinite(group.xy).all(-1) & (group.xy != 0).any(-1)
        yield group.faults("warning", wrong, "v is 0 at ({x:g}, {y:g}), expected 0, 0 or a v above 0")


def labelled_at_origin(view: View) -> Iterator[Faults]:
    """warning: labelled at 0, 0, the top-left pixel: many tools write that for a keypoint that is not there."""
    for group in view.groups:
        wrong = group.labelled & (group.xy == 0).all(-1)
        yield group.faults("warning", wrong, "v is {v} at (0, 0), expected a v of 0 there, or a coordinate")


def keypoint_outside_image(view: View) -> Iterator[Faults]:
    """warning: a labelled keypoint outside the pixels of its image, `-0.5 <= x <= W - 0.5`: 0 and W - 1 are inside.

    Of an image without a size, only what is left of it or above it.
    """
    message = "at ({x:g}, {y:g}), expected inside the image{size}"
    for group in view.groups:
        size = view.person_size[group.rows]  # (n, 2)
        low, high = group.xy < -PIXEL_EDGE, group.xy > size[:, None] - PIXEL_EDGE
        wrong = group.labelled & (low | high).any(-1) & np.isfinite(group.xy).all(-1)
        named = np.full(len(group.rows), "", object)
        for p in np.flatnonzero(wrong.any(1)).tolist():
            named[p] = "" if np.isnan(size[p]).any() else f" of {size[p, 0]:g} x {size[p, 1]:g} px"
        yield group.faults("warning", wrong, message, size=named)


def keypoint_outside_bbox(view: View) -> Iterator[Faults]:
    """warning: a labelled keypoint that lies outside its person's box by more than `BBOX_MARGIN` of that side."""
    message = "at ({x:g}, {y:g}), {share:.0%} of a side outside bbox {left:g}, {top:g}, {w:g}, {h:g}; expected at most "
    message += f"{BBOX_MARGIN:.0%}"
    for group in view.groups:
        box = np.where(view.tight_bbox[group.rows, None], view.bbox[group.rows], np.nan)  # (n, 4)
        low, side = box[:, None, :2], box[:, None, 2:]
        share = (np.maximum(low - group.xy, group.xy - low - side) / side).max(-1)  # (n, K), of the side
        wrong = group.labelled & (share > BBOX_MARGIN) & np.isfinite(share)
        named = {"left": box[:, 0], "top": box[:, 1], "w": box[:, 2], "h": box[:, 3]}
        yield group.faults("warning", wrong, message, share=share, **named)


def keypoints_at_one_point(view: View) -> Iterator[Faults]:
    """warning: `ONE_POINT_COUNT` or more labelled keypoints, all at the same place."""
    for group in view.groups:
        inside = group.labelled & np.isfinite(group.xy).all(-1)
        low = np.where(inside[..., None], group.xy, np.inf).min(1)
        high = np.where(inside[..., None], group.xy, -np.inf).max(1)
        count = inside.sum(1)
        found = np.flatnonzero((count >= ONE_POINT_COUNT) & (low == high).all(1))
        words = [
            f"all {count[p]} labelled keypoints are at ({low[p, 0]:g}, {low[p, 1]:g}), expected a body"
            for p in found.tolist()
        ]
        yield Faults("warning", "persons", group.rows[found], words)


# -------------------------------------------------------------------------------------------------------------- poses


def left_right_swapped(view: View) -> Iterator[Faults]:
    """warning: the face is to the camera, but shoulders and hips are as seen from behind: left and right swapped?

    Judged only where nose, both eyes, both shoulders and both hips are marked visible, the nose is between the eyes (a
    face from the front), the shoulders are above the hips (within 60 degrees of upright), and shoulders and hips both
    lie the wrong way round by `CROSSED_SHARE` of the torso. Somebody who looks straight back can still be flagged.
    """
    for group in view.groups:
        column = {mark: k for k, mark in enumerate(group.skeleton.landmarks) if mark}
        if not set(_FRONT) <= column.keys():
            continue
        seen = (group.visibility[:, [column[mark] for mark in _FRONT]] == schema.Visibility.VISIBLE).all(1)
        nose, *points = (group.xy[:, column[mark]] for mark in _FRONT)
        with np.errstate(divide="ignore"):
            wrong = seen & _frontal(nose, *points[:2]) & (_crossing(*points[2:]) >= CROSSED_SHARE)
        rows = np.flatnonzero(wrong)
        message = "nose and eyes are visible, yet shoulders and hips have left and right as seen from behind: swapped?"
        yield Faults("warning", "persons", group.rows[rows], [message] * len(rows))


_FRONT = ("nose", "left_eye", "right_eye", "left_shoulder", "right_shoulder", "left_hip", "right_hip")


def _frontal(nose: Floats, left_eye: Floats, right_eye: Floats) -> Bools:
    """(n,) bool: the nose (n, 2) lies between the eyes along the line that joins them."""
    eyes = left_eye - right_eye
    along = ((nose - right_eye) * eyes).sum(1) / np.square(eyes).sum(1)  # 0 at the right eye, 1 at the left
    between: Bools = (along > 0) & (along < 1)
    return between


def _crossing(left_shoulder: Floats, right_shoulder: Floats, left_hip: Floats, right_hip: Floats) -> Floats:
    """(n,) how far left is on the wrong side of right, in torso lengths: the lesser of shoulders and hips.

    0 where the shoulders are not above the hips within 60 degrees; NaN where something is not known.
    """
    up = (left_shoulder + right_shoulder - left_hip - right_hip) / 2  # (n, 2), hips to shoulders; y grows downwards
    across = np.stack([left_shoulder - right_shoulder, left_hip - right_hip], 1)  # (n, 2, 2), right to left
    # Seen from the front and upright, up is (0, -1) and across (1, 0): the cross product is then above 0.
    cross = up[:, None, 0] * across[..., 1] - up[:, None, 1] * across[..., 0]  # (n, 2)
    torso = np.square(up).sum(1)
    upright = -up[:, 1] >= 0.5 * np.sqrt(torso)
    return np.where(upright, (-cross / torso[:, None]).min(1), 0.0)


def limb_length(view: View) -> Iterator[Faults]:
    """warning: a limb (edge of the skeleton) far too long for its person: robust z-score above `LIMB_Z`.

    Of log(length / root of the box's area) over all people of the skeleton in the dataset: (x - median) / (1.4826 x the
    median absolute deviation, at least `LIMB_SPREAD`) (Iglewicz and Hoaglin 1993). Only too long: seen end-on, any limb
    is short. Needs `LIMB_PEOPLE` people who have that limb.
    """
    for group in view.groups:
        edges = np.array(group.skeleton.edges, np.int64).reshape(-1, 2)
        if not len(edges) or len(group.rows) < LIMB_PEOPLE:
            continue
        box = view.size_box[group.rows]
        logs = _log_lengths(group, edges, box[:, 2] * box[:, 3])
        middle, spread = _robust(logs)
        z = (logs - middle) / np.maximum(spread, LIMB_SPREAD)
        person, edge = np.nonzero(z > LIMB_Z)
        names, words = group.skeleton.keypoint_names, []
        for p, e in zip(person.tolist(), edge.tolist(), strict=True):
            a, b = edges[e].tolist()
            times = np.exp(logs[p, e] - middle[e])
            words.append(
                f"{names[a]} to {names[b]} is {times:.1f} times as long as is "
                f"usual for the person's size (z {z[p, e]:.1f}, expected at most {LIMB_Z:g})"
            )
        yield Faults("warning", "persons", group.rows[person], words)


def _log_lengths(group: Group, edges: Ints, area: Floats) -> Floats:
    """(n, E) log of length over root of area; NaN where an end is not labelled or a size is 0."""
    a, b = edges.T
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        d2 = np.square(group.xy[:, a] - group.xy[:, b]).sum(-1) / area[:, None]
        counted: Bools = group.labelled[:, a] & group.labelled[:, b] & (d2 > 0) & np.isfinite(d2)
        return np.asarray(np.where(counted, np.log(d2) / 2, np.nan))


def _robust(logs: Floats) -> tuple[Floats, Floats]:
    """(E,) median, (E,) 1.4826 x median absolute deviation, NaN left out; NaN for fewer than LIMB_PEOPLE values."""
    middle = _median(logs)
    return middle, 1.4826 * _median(np.abs(logs - middle))


def _median(columns: Floats) -> Floats:
    count = np.isfinite(columns).sum(0)
    ordered = np.sort(columns, axis=0)  # NaN last; np.nanmedian is 10 times slower
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(columns) - 1)
    edge = np.arange(columns.shape[1])
    return np.where(count >= LIMB_PEOPLE, (ordered[low, edge] + ordered[high, edge]) / 2, np.nan)


# ------------------------------------------------------------------------------------------------------------ classes


def visibility_unused(view: View) -> Iterator[Faults]:
    """warning: a keypoint never labelled, or never visible while others are, among `UNUSED_COUNT` people or more.

    note: a dataset that marks nothing as occluded, or nothing as visible: slices by occlusion mean nothing there.
    Keypoints that a remap could not fill are not judged, nor predictions.
    """
    for group in view.groups:
        for number, name in enumerate(view.names):
            own = (view.person_dataset[group.rows] == number) & ~view.predicted[group.rows]
            flags = group.visibility[own & group.labelled.any(1)]
            if not len(flags):
                continue
            occluded, visible = (flags == 1).sum(0), (flags == 2).sum(0)  # (K,)
            mask = view.dataset.keypoint_mask(name or "", group.skeleton.name)
            yield _unused_keypoints(group, number, flags, mask)
            for used, unused, word in ((visible, occluded, "occluded (v 1)"), (occluded, visible, "visible (v 2)")):
                if used.sum() >= UNUSED_COUNT and not unused.any():
                    message = f"none of {used.sum():,} labelled keypoints is marked {word}: that class is not used"
                    yield Faults("note", "datasets", np.array([number]), [message])


def _unused_keypoints(group: Group, number: int, flags: Ints, mask: Bools) -> Faults:
    occluded, visible, unknown = ((flags == v).sum(0) for v in (1, 2, 3))
    labelled = occluded + visible + unknown
    never_labelled = mask & (labelled == 0) & (len(flags) >= UNUSED_COUNT)
    never_visible = (occluded >= UNUSED_COUNT) & (visible + unknown == 0) & bool(visible.any())
    found = np.flatnonzero(never_labelled | never_visible)
    words = [
        f"never visible (v 2), occluded (v 1) {occluded[k]:,} times: expected both; its visibility says nothing"
        if labelled[k]
        else f"never labelled among {len(flags):,} people, expected some"
        for k in found.tolist()
    ]
    names = [group.skeleton.keypoint_names[k] for k in found.tolist()]
    return Faults("warning", "datasets", np.full(len(found), number), words, names)
