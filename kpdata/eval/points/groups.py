"""Columns of the published single-person tables: keypoints to Head, Shoulder, …, and the limbs of PCP.

Keypoints are known by their landmark (the point of the body, whatever a file calls it), so that the same tables come
out of MPII's order, LSP's and yours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kpdata.eval.oks import Bools
from kpdata.eval.points.arrays import Limb
from kpdata.skeleton import Skeleton

# MPII's thorax and pelvis are computed from shoulders and hips: every MPII evaluation leaves them out
# (anibali/eval-mpii-pose eval/annolist2matrix.m keeps 14 of 16).
DERIVED = ("mid_shoulders", "mid_hips")
PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
UPPER_BODY = ("shoulder", "elbow", "wrist")  # MPII's UBody column: pooled over these six (eval/computePCK.m)
# Sticks of bearpaw/eval_pose utils/keypoints2sticks.m: limb, column of the table, landmarks of either end.
_SIDED = (("lower_leg", "ankle", "knee"), ("upper_leg", "knee", "hip"), ("lower_arm", "wrist", "elbow"),
          ("upper_arm", "elbow", "shoulder"))  # fmt: skip


def derived(skeleton: Skeleton) -> Bools:
    """(K,) bool: keypoints that are the middle of two others by definition."""
    return np.array([mark in DERIVED for mark in skeleton.landmarks], bool)


def keypoint_groups(skeleton: Skeleton, *, neck: bool) -> dict[str, list[int]]:
    """Columns of each group that the skeleton has: Head, Shoulder, Elbow, Wrist, Hip, Knee, Ankle.

    neck: Head is the mean of head top and upper neck (MPII's eval/genTablePCK.m, LSP's eval_pose), else the head top
    alone (HRNet, mmpose). Sub-JHMDB's single head keypoint is its Head.
    """
    points = _columns(skeleton)
    head = [*(points.get("upper_neck", []) if neck else []), *points.get("head_top", []), *points.get("jhmdb_head", [])]
    found = {"Head": head} if points.get("head_top") or points.get("jhmdb_head") else {}
    for name in PAIRS:
        if columns := [k for side in ("right", "left") for k in points.get(f"{side}_{name}", [])]:
            found[name.capitalize()] = columns
    return found


def upper_body(skeleton: Skeleton) -> list[int]:
    """Columns of shoulders, elbows and wrists."""
    points = _columns(skeleton)
    return [k for name in UPPER_BODY for side in ("right", "left") for k in points.get(f"{side}_{name}", [])]


def landmark(skeleton: Skeleton, name: str) -> int | None:
    """Column of a landmark; None where the skeleton has none, or several."""
    columns = _columns(skeleton).get(name, [])
    return columns[0] if len(columns) == 1 else None


def limbs(skeleton: Skeleton) -> tuple[dict[str, Limb], dict[str, list[int]]]:
    """Limbs by name, and the table's columns as limb numbers.

    Lower and upper legs and arms, Head (upper neck to head top), Torso (middle of the hips to middle of the shoulders),
    as far as the skeleton has them; a skeleton without any of them: its edges, which form no groups.
    """
    points = _columns(skeleton)
    found: dict[str, Limb] = {}
    groups: dict[str, list[int]] = {}
    for limb, a, b in _SIDED:
        for side in ("right", "left"):
            ends = points.get(f"{side}_{a}", []), points.get(f"{side}_{b}", [])
            if all(ends):
                groups.setdefault(limb.capitalize().replace("_", " "), []).append(len(found))
                found[f"{side}_{limb}"] = ends
    whole = {"Head": (("upper_neck",), ("head_top",)),
             "Torso": (("right_hip", "left_hip"), ("right_shoulder", "left_shoulder"))}  # fmt: skip
    for title, (first, second) in whole.items():
        columns = [[k for mark in end for k in points.get(mark, [])] for end in (first, second)]
        if [len(c) for c in columns] == [len(first), len(second)]:
            groups[title] = [len(found)]
            found[title.lower()] = columns[0], columns[1]
    if found:
        return found, groups
    names = skeleton.keypoint_names
    return {f"{names[a]}–{names[b]}": ([a], [b]) for a, b in skeleton.edges}, {}


def _columns(skeleton: Skeleton) -> Mapping[str, list[int]]:
    """Columns by landmark, without the protocol after its slash: two protocols' head tops are both a head top."""
    found: dict[str, list[int]] = {}
    for column, mark in enumerate(skeleton.landmarks):
        if mark:
            found.setdefault(mark.partition("/")[0], []).append(column)
    return found
