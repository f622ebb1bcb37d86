"""The length that a person's errors are divided by: head, torso, box, extent, two keypoints, or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval.oks import Floats
from kpdata.eval.points import arrays, groups
from kpdata.eval.points.people import Points

Normalize = str | float | Sequence[str] | None
NORMALIZERS = ("head", "torso", "bbox", "bbox_area", "extent")
MMPOSE_PX = 30.0  # the range of mmpose's AUC


@dataclass(frozen=True, slots=True)
class Length:
    """What a distance is divided by, always of the ground truth: its name, words, (N,) pixels, NaN without one."""

    name: str  # one of NORMALIZERS, "pair" or "constant"
    words: str
    px: Floats


def length_of(points: Points, normalize: Normalize, metric: str, variant: str | None) -> Length:
    """The length asked for, else the one that the metric has by custom.

    normalize: `head` (0.6 × diagonal of head_bbox), `torso` (left shoulder to right hip of the ground truth, as LSP's
    eval_pose), `bbox` (longer side, mmpose), `bbox_area` (√(w·h)), `extent` (longer side of the labelled keypoints'
    box), two keypoint names (a pair, or "a:b"), or pixels for everyone. EvaluationError where nobody has such a length.
    """
    chosen = _default(points, metric, variant) if normalize is None else _parsed(normalize)
    if metric == "pckh" and chosen != "head":
        raise EvaluationError(
            f"PCKh is measured in head sizes, not {normalize!r}", hint="--metric pck takes any length"
        )
    found = _length(points, chosen)
    if not (np.isfinite(found.px) & points.labelled.any(1)).any():
        raise EvaluationError(
            f"nobody in the ground truth has a length to normalise by: {found.words}",
            hint=_HINTS.get(found.name, "is another length at hand: head, torso, bbox, extent, two keypoints, pixels?"),
        )
    return found


_HINTS = {
    "head": "MPII's head boxes are in its .mat (RELEASE, or headboxes_src); HRNet's JSON has none: score against the "
    ".mat, or with --metric pck --normalize torso",
    "bbox": "--normalize extent takes the box around the labelled keypoints",
    "bbox_area": "--normalize extent takes the box around the labelled keypoints",
}


def _parsed(normalize: str | float | Sequence[str]) -> str | float | tuple[str, str]:
    """The choice in one shape. EvaluationError for what is none."""
    if isinstance(normalize, str):
        if normalize in NORMALIZERS:
            return normalize
        if ":" in normalize:
            normalize = normalize.split(":")
        else:
            try:
                normalize = float(normalize)
            except ValueError:
                raise _no_length(normalize) from None
    if isinstance(normalize, int | float):
        if not 0 < normalize < np.inf:
            raise _no_length(normalize)
        return float(normalize)
    if len(normalize) != 2:
        raise _no_length(normalize)
    return normalize[0], normalize[1]


def _no_length(found: object) -> EvaluationError:
    return EvaluationError(
        f"no length {found!r} to normalise by",
        hint=f"expected {', '.join(NORMALIZERS)}, two keypoints as left_shoulder:right_hip, or pixels above 0",
    )


def _default(points: Points, metric: str, variant: str | None) -> str | float:
    has = {name: schema.valid(points.gt.persons[name])[points.truth_rows].any() for name in ("bbox", "head_bbox")}
    if metric == "pckh":
        return "head"
    if metric == "auc" and variant == "mmpose":
        return MMPOSE_PX
    if metric == "auc" and has["head_bbox"]:
        return "head"
    if metric == "nme":
        return "head" if has["head_bbox"] and not has["bbox"] else "bbox_area"
    torso = points.skeleton.name in ("lsp_14", "jhmdb_15") and variant != "mmpose"
    return "torso" if torso or not has["bbox"] else "bbox"


def _length(points: Points, chosen: str | float | tuple[str, str]) -> Length:
    if isinstance(chosen, float):
        return Length("constant", f"{chosen:g} px", np.full(len(points.truth), chosen))
    if isinstance(chosen, tuple) or chosen == "torso":
        name, a, b = _pair(points, chosen)
        names = points.skeleton.keypoint_names
        words = f"distance from {names[a]} to {names[b]}"
        return Length(name, words, arrays.pair_lengths(points.truth, points.labelled, a, b))
    if chosen == "extent":
        words = "longer side of the labelled keypoints' extent"
        return Length(chosen, words, arrays.extents(points.truth, points.labelled))
    column = "head_bbox" if chosen == "head" else "bbox"
    boxes = schema.matrix(points.gt.persons[column], 4)[points.truth_rows]
    kernel, words = {
        "head": (arrays.head_sizes, f"{arrays.HEAD_SHARE} × diagonal of the head box"),
        "bbox": (arrays.box_sides, "longer side of the bbox"),
        "bbox_area": (arrays.box_roots, "√(w·h) of the bbox"),
    }[chosen]
    return Length(chosen, words, kernel(boxes))


def _pair(points: Points, chosen: str | tuple[str, str]) -> tuple[str, int, int]:
    """("torso" or "pair", two columns). EvaluationError for keypoints that the skeleton does not have."""
    bones = points.skeleton
    if isinstance(chosen, str):
        columns = [groups.landmark(bones, name) for name in ("left_shoulder", "right_hip")]
        if None in columns:
            raise EvaluationError(
                f"the skeleton {bones.name!r} has no left shoulder and right hip to measure a torso by",
                hint="--normalize A:B takes two of its keypoints: " + ", ".join(bones.keypoint_names),
            )
        return "torso", int(columns[0] or 0), int(columns[1] or 0)
    for name in chosen:
        if name not in bones.keypoint_names:
            raise EvaluationError(
                f"{bones.name!r} has no keypoint {name!r} to measure a length by",
                hint="expected two of " + ", ".join(bones.keypoint_names),
            )
    if chosen[0] == chosen[1]:
        raise EvaluationError(f"a length from {chosen[0]!r} to itself is 0", hint="expected two keypoints")
    return "pair", bones.keypoint_names.index(chosen[0]), bones.keypoint_names.index(chosen[1])
