"""Bodies for `kpdata.synth`: joint angles, forward kinematics, the painter's circles; all people at once.

Lengths are fractions of the standing height: segments after Drillis and Contini (1966), as printed in Winter,
*Biomechanics and Motor Control of Human Movement*, fig. 4.1; neck and head tops where the data sets put them (medians
over real files, in torso lengths above the mid-shoulder point: MPII neck 0.123 and head top 0.681; CrowdPose 0.141 and
0.610; AIC, like Halpe, 0.135 and 0.562).

The body frame is x to the person's left, y up, z forward; the camera frame is u to the image's right, v up, d towards
the viewer. Every part is the convex hull of up to four circles: a capsule is two of them, a chest four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIDES = ("left", "right")
POINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *(f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES),
    *("thorax", "pelvis", "upper_neck", "neck_crowd", "neck_aic", "head_top", "head_crowd", "head_aic"),
    *(f"{side}_{joint}" for joint in ("big_toe", "small_toe", "heel") for side in SIDES),
)
PARTS = (
    *("seat", "neck", "chest", "pelvis"),
    *(f"{side}_{part}" for part in ("thigh", "shin", "foot", "upper_arm", "forearm", "hand") for side in SIDES),
    *("skull", "hair", "fringe", "long_hair", "nose", "mouth"),
    *(f"{side}_{part}" for part in ("eye", "pupil", "ear") for side in SIDES),
)
POINT = {name: i for i, name in enumerate(POINTS)}
PART = {name: i for i, name in enumerate(PARTS)}
WIDE = ("seat", "chest", "pelvis", "left_foot", "right_foot", "mouth")  # hulls of more than two circles

# The parts that a keypoint belongs to are those of its own limb: a torso does not own a shoulder.
_OWNERS = {
    "shoulder": ("upper_arm",),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh",),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
    "big_toe": ("foot",),
    "small_toe": ("foot",),
    "heel": ("foot",),
    "thorax": ("chest", "neck"),
    "pelvis": ("pelvis", "left_thigh", "right_thigh"),
    **dict.fromkeys(("upper_neck", "neck_crowd", "neck_aic"), ("neck", "skull")),
    **dict.fromkeys(("head_top", "head_crowd", "head_aic"), ("skull", "hair", "fringe", "long_hair")),
}
_FACE = ("nose", "mouth", "left_eye", "right_eye", "left_pupil", "right_pupil", "left_ear", "right_ear")

# ------------------------------------------------------------------------------------------------------ poses

_MIDDLE = ("lean", "roll", "spine", "twist", "head_yaw", "head_nod", "head_tilt", "lift")
_SIDED = ("arm_flex", "arm_abd", "arm_twist", "elbow", "leg_flex", "leg_abd", "knee", "ankle")
ANGLES = (*_MIDDLE, *(f"{side}_{name}" for name in _SIDED for side in SIDES))

# Degrees, lowest and highest; flexion is forwards, abduction away from the body. `lift` is percent of the height above
# the ground. A name without a side means both. A coin swaps left and right.
_STANDING = {
    "lean": (-3, 4), "roll": (-3, 3), "spine": (-4, 8), "twist": (-12, 12),
    "head_yaw": (-35, 35), "head_nod": (-12, 14), "head_tilt": (-10, 10), "lift": (0, 0),
    "arm_flex": (-15, 22), "arm_abd": (5, 17), "arm_twist": (-10, 35), "elbow": (6, 38),
    "leg_flex": (-6, 8), "leg_abd": (1, 9), "knee": (0, 8), "ankle": (-4, 4),
}  # fmt: skip
_KINDS: dict[str, dict[str, tuple[float, float]]] = {
    "standing": {},
    "walking": {
        "left_leg_flex": (18, 32), "left_knee": (0, 14), "right_leg_flex": (-28, -12), "right_knee": (8, 35),
        "left_arm_flex": (-36, -14), "right_arm_flex": (15, 40), "elbow": (10, 45), "lean": (0, 7),
    },
    "running": {
        "left_leg_flex": (45, 80), "left_knee": (45, 100), "right_leg_flex": (-36, -10), "right_knee": (25, 90),
        "left_arm_flex": (-60, -25), "right_arm_flex": (15, 60), "elbow": (70, 112), "lean": (6, 16), "lift": (0, 5),
    },
    "sitting": {
        "leg_flex": (76, 94), "knee": (70, 100), "leg_abd": (2, 16), "spine": (-4, 16), "arm_flex": (12, 45),
        "elbow": (20, 85),
    },
    "arms_raised": {"arm_abd": (115, 172), "arm_flex": (-8, 14), "elbow": (0, 60), "arm_twist": (-90, -40)},
    "waving": {
        "left_arm_abd": (95, 150), "left_arm_flex": (-5, 15), "left_elbow": (25, 100), "left_arm_twist": (-110, -70),
    },
    "akimbo": {"arm_abd": (36, 50), "arm_flex": (-12, 4), "arm_twist": (85, 110), "elbow": (78, 100)},
    "bowing": {"spine": (38, 75), "arm_flex": (20, 90), "leg_flex": (-4, 10), "head_nod": (-20, 10)},
    "crouching": {
        "spine": (18, 40), "leg_flex": (92, 118), "knee": (105, 132), "leg_abd": (6, 26), "arm_flex": (25, 75),
        "elbow": (20, 90), "ankle": (-28, -8),
    },
    "jumping": {
        "leg_abd": (8, 36), "knee": (0, 85), "leg_flex": (-10, 50), "arm_abd": (60, 165), "arm_twist": (-90, -20),
        "elbow": (0, 60), "lift": (6, 26), "ankle": (15, 45),
    },
    "lying": {
        "lean": (-96, -82), "leg_flex": (-4, 45), "knee": (0, 70), "arm_abd": (10, 120), "elbow": (5, 90),
        "head_nod": (-5, 30), "roll": (-2, 2),
    },
    "lunging": {
        "left_leg_flex": (60, 88), "left_knee": (70, 95), "right_leg_flex": (-32, -12), "right_knee": (15, 60),
        "arm_abd": (10, 95), "elbow": (5, 60),
    },
}  # fmt: skip
POSE_KINDS = tuple(_KINDS)
_SHARE = np.array([22, 14, 10, 12, 9, 7, 7, 5, 4, 7, 4, 4.0])  # how often each kind is drawn
_SIDEWAYS = np.isin(POSE_KINDS, ("running", "lying", "lunging", "bowing"))


def _ranges() -> tuple[Floats, Floats]:
    """(kinds, angles) lowest and highest value of each angle; degrees, but `lift` in percent."""
    table = np.zeros((2, len(_KINDS), len(ANGLES)))
    for k, kind in enumerate(_KINDS.values()):
        for a, name in enumerate(ANGLES):
            either = name.split("_", 1)[1] if name.startswith(SIDES) else name
            found = kind.get(name) or kind.get(either) or _STANDING[either]
            table[:, k, a] = found
    return table[0], table[1]


_LOW, _HIGH = _ranges()
_MIRROR = np.array(
    [ANGLES.index(n.replace("left", "L").replace("right", "left").replace("L", "right")) for n in ANGLES]
)
_ODD = np.isin(ANGLES, ("roll", "twist", "head_yaw", "head_tilt"))  # angles whose sign a mirror turns
# A direction from a uniform draw: mostly facing the camera, sometimes from the side or from behind.
_YAW = ((0.0, 0.10, 0.24, 0.76, 0.90, 1.0), (-180.0, -125.0, -60.0, 60.0, 125.0, 180.0))
DRAWS = len(ANGLES) + 16  # uniform numbers that one person takes


@dataclass(frozen=True, slots=True)
class Bodies:
    """N people as the camera sees them, in units of their standing height, the ground at v = 0 under the pelvis.

    points (N, len(POINTS), 2) u, v; circles (N, len(PARTS), 4, 3) u, v, radius; order (N, len(PARTS)): later is drawn
    over earlier; owners (N, len(POINTS)) bits of the parts that a keypoint belongs to; kind (N,) index of POSE_KINDS.
    """

    points: Floats
    circles: Floats
    order: Floats
    owners: NDArray[np.int64]
    kind: NDArray[np.int64]


def bodies(draws: Floats) -> Bodies:
    """People from uniform numbers: draws (N, DRAWS) in [0, 1)."""
    kind = np.searchsorted(np.cumsum(_SHARE) / _SHARE.sum(), draws[:, 0], side="right")
    angle = _angles(kind, draws)
    joints, frames = _joints(angle, kind, draws)
    spheres = _spheres(joints, frames, kind, draws)
    low = np.min([joints[name][:, 1] for name in joints], axis=0) - 0.025
    lift = angle[:, ANGLES.index("lift")] * (180 / np.pi) / 100 - low  # the lowest joint stands on the ground
    pitch = np.radians(3 + 9 * draws[:, 5])  # the camera looks down a little
    points = _camera(np.stack([joints[name] for name in POINTS], axis=1), lift, pitch)
    placed = _camera(spheres[..., :3], lift, pitch)
    circles = np.concatenate([placed[..., :2], spheres[..., 3:]], axis=-1)
    order, front = _order(placed[..., 2], frames["head"], pitch)
    return Bodies(points[..., :2], circles, order, _owners(front), kind)


def _angles(kind: NDArray[np.int64], draws: Floats) -> Floats:
    """(N, len(ANGLES)) radians."""
    low, high = _LOW[kind], _HIGH[kind]
    angle = np.radians(low + (high - low) * draws[:, -len(ANGLES) :])
    mirrored = np.where(_ODD, -1.0, 1.0) * angle[:, _MIRROR]
    return np.where(draws[:, 1, None] < 0.5, mirrored, angle)


def _yaw(kind: NDArray[np.int64], draws: Floats) -> Floats:
    """(N,) radians; 0 faces the camera, positive turns the person to the image's right."""
    anyhow = np.interp(draws[:, 2], *_YAW)
    sideways = np.where(draws[:, 2] < 0.5, -1, 1) * (45 + 90 * (2 * draws[:, 2] % 1))
    return np.radians(np.where(_SIDEWAYS[kind], sideways, anyhow))


def _rotation(axis: int, angle: Floats) -> Floats:
    """(N, 3, 3) right-handed rotation about x, y or z (0, 1, 2)."""
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    out = np.tile(np.eye(3), (len(angle), 1, 1))
    out[:, a, a] = out[:, b, b] = np.cos(angle)
    out[:, b, a] = np.sin(angle)
    out[:, a, b] = -np.sin(angle)
    return out


def _at(
    origin: Floats, frame: Floats, x: float | Floats = 0.0, y: float | Floats = 0.0, z: float | Floats = 0.0
) -> Floats:
    """(N, 3) the point `origin + frame @ (x, y, z)`; origin (N, 3), frame (N, 3, 3)."""
    local = np.stack(np.broadcast_arrays(x, y, z, np.empty(len(frame)))[:3], axis=-1)
    moved: Floats = origin + np.einsum("nij,nj->ni", frame, local)
    return moved


def _joints(angle: Floats, kind: NDArray[np.int64], draws: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Positions (N, 3) by point name with the pelvis at 0, and frames (N, 3, 3) of pelvis, chest, head and hands."""
    a = {name: angle[:, i] for i, name in enumerate(ANGLES)}
    vary = 0.94 + 0.12 * draws[:, 6:10]  # (N, 4) torso, arms, legs, shoulder width
    torso, arm, leg = 0.288 * vary[:, 0], vary[:, 1], vary[:, 2]
    root = _rotation(1, _yaw(kind, draws)) @ _rotation(0, a["lean"]) @ _rotation(2, a["roll"])
    chest = root @ _rotation(0, a["spine"]) @ _rotation(1, a["twist"])
    head = chest @ _rotation(1, a["head_yaw"]) @ _rotation(0, a["head_nod"]) @ _rotation(2, a["head_tilt"])
    joints = {"pelvis": np.zeros((len(angle), 3))}
    joints["thorax"] = _at(joints["pelvis"], chest, y=torso)
    for name, height in (("upper_neck", 0.123), ("neck_crowd", 0.141), ("neck_aic", 0.135)):
        joints[name] = _at(joints["thorax"], chest, y=height * torso)
    neck = joints["upper_neck"]
    for name, height in (("head_top", 0.681), ("head_crowd", 0.610), ("head_aic", 0.562)):
        joints[name] = _at(neck, head, y=(height - 0.123) * 0.288)
    joints["nose"] = _at(neck, head, y=0.064, z=0.072)
    frames = {"root": root, "chest": chest, "head": head}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        joints[f"{side}_eye"] = _at(neck, head, x=sign * 0.028, y=0.089, z=0.054)
        joints[f"{side}_ear"] = _at(neck, head, x=sign * 0.067, y=0.078, z=-0.006)
        joints[f"{side}_shoulder"] = _at(joints["thorax"], chest, x=sign * 0.108 * vary[:, 3])
        _limbs(joints, frames, a, side, sign, arm, leg)
    return joints, frames


def _limbs(
    joints: dict[str, Floats],
    frames: dict[str, Floats],
    a: dict[str, Floats],
    side: str,
    sign: float,
    arm: Floats,
    leg: Floats,
) -> None:
    """Add one side's elbow, wrist, hip, knee, ankle and foot, each from the frame of the segment above it."""
    upper = frames["chest"] @ _rotation(2, sign * a[f"{side}_arm_abd"]) @ _rotation(0, -a[f"{side}_arm_flex"])
    lower = upper @ _rotation(1, -sign * a[f"{side}_arm_twist"]) @ _rotation(0, -a[f"{side}_elbow"])
    joints[f"{side}_elbow"] = _at(joints[f"{side}_shoulder"], upper, y=-0.172 * arm)
    joints[f"{side}_wrist"] = _at(joints[f"{side}_elbow"], lower, y=-0.146 * arm)
    joints[f"{side}_hip"] = _at(joints["pelvis"], frames["root"], x=sign * 0.062)
    thigh = frames["root"] @ _rotation(2, sign * a[f"{side}_leg_abd"]) @ _rotation(0, -a[f"{side}_leg_flex"])
    shin = thigh @ _rotation(0, a[f"{side}_knee"])
    joints[f"{side}_knee"] = _at(joints[f"{side}_hip"], thigh, y=-0.245 * leg)
    ankle = joints[f"{side}_ankle"] = _at(joints[f"{side}_knee"], shin, y=-0.246 * leg)
    foot = shin @ _rotation(1, np.full(len(leg), sign * 0.15)) @ _rotation(0, a[f"{side}_ankle"])
    joints[f"{side}_big_toe"] = _at(ankle, foot, x=-sign * 0.016, y=-0.032, z=0.105)
    joints[f"{side}_small_toe"] = _at(ankle, foot, x=sign * 0.022, y=-0.032, z=0.082)
    joints[f"{side}_heel"] = _at(ankle, foot, y=-0.030, z=-0.030)
    frames[f"{side}_hand"] = lower


def _spheres(
    joints: dict[str, Floats],
    frames: dict[str, Floats],
    kind: NDArray[np.int64],
    draws: Floats,
) -> Floats:
    """(N, len(PARTS), 4, 4): x, y, z, radius of the spheres whose hull each part is; a capsule repeats its two."""
    build = 0.86 + 0.36 * draws[:, 10]
    out = np.zeros((len(draws), len(PARTS), 4, 4))

    def put(part: str, centres: list[Floats], radii: list[float | Floats]) -> None:
        repeat = {1: (0, 0, 0, 0), 2: (0, 0, 1, 1), 4: (0, 1, 2, 3)}[len(centres)]
        out[:, PART[part], :, :3] = np.stack([centres[i] for i in repeat], axis=1)
        out[:, PART[part], :, 3] = np.stack([np.broadcast_to(radii[i], build.shape) for i in repeat], axis=1)

    for side in SIDES:
        j = {name: joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")}
        heel, big, small = (joints[f"{side}_{name}"] for name in ("heel", "big_toe", "small_toe"))
        put(f"{side}_upper_arm", [j["shoulder"], j["elbow"]], [0.037 * build, 0.028 * build])
        put(f"{side}_forearm", [j["elbow"], j["wrist"]], [0.028 * build, 0.019 * build])
        put(f"{side}_hand", [j["wrist"], _at(j["wrist"], frames[f"{side}_hand"], y=-0.048)], [0.019, 0.021])
        put(f"{side}_thigh", [j["hip"], j["knee"]], [0.058 * build, 0.041 * build])
        put(f"{side}_shin", [j["knee"], j["ankle"]], [0.041 * build, 0.027])
        put(f"{side}_foot", [j["ankle"], heel, big, small], [0.027, 0.024, 0.020, 0.019])
    pelvis, thorax = joints["pelvis"], joints["thorax"]
    waist = pelvis + 0.36 * (thorax - pelvis)
    left, right = (_at(waist, frames["chest"], x=x * build) for x in (0.042, -0.042))
    put(
        "chest",
        [joints["left_shoulder"], joints["right_shoulder"], left, right],
        [0.042, 0.042, 0.052 * build, 0.052 * build],
    )
    put(
        "pelvis",
        [joints["left_hip"], joints["right_hip"], left, right],
        [0.058 * build, 0.058 * build, 0.046 * build, 0.046 * build],
    )
    put("neck", [thorax, _at(joints["upper_neck"], frames["head"], y=0.02)], [0.034, 0.030])
    _head(put, joints, frames["head"], draws)
    sits = np.where(kind == POSE_KINDS.index("sitting"), 1.0, 0.0)[:, None]
    corners = [np.array([x, y, 0.0]) * sits + pelvis for x in (-0.1, 0.1) for y in (-0.075, -0.30)]
    put("seat", [corners[0], corners[2], corners[1], corners[3]], [0.02 * sits[:, 0]] * 4)
    return out


def _head(
    put: Callable[[str, list[Floats], list[Any]], None], joints: dict[str, Floats], head: Floats, draws: Floats
) -> None:
    """Skull, hair and face; the face's parts lie on the front of the skull, so that turning away hides them."""
    neck = joints["upper_neck"]

    def at(x: float, y: float | Floats, z: float | Floats) -> Floats:
        return _at(neck, head, x, y, z)

    put("skull", [at(0, 0.095, 0.0), at(0, 0.042, 0.012)], [0.064, 0.041])
    put("hair", [at(0, 0.104, -0.012)], [0.071])
    put("fringe", [at(-0.036, 0.136, 0.028), at(0.036, 0.136, 0.028)], [0.024, 0.024])
    long = draws[:, 11] < 0.35
    put(
        "long_hair",
        [at(0, 0.09, -0.026), at(0, np.where(long, -0.03, 0.09), -0.042)],
        [np.where(long, 0.062, 0.05)] * 2,
    )
    put("nose", [at(0, 0.072, 0.066), joints["nose"]], [0.007, 0.0105])
    corners = [at(-0.019, 0.041, 0.05), at(0.019, 0.041, 0.05), at(-0.008, 0.032, 0.052), at(0.008, 0.032, 0.052)]
    put("mouth", corners, [0.0035, 0.0035, 0.005, 0.005])  # a smile
    for side in SIDES:
        put(f"{side}_eye", [joints[f"{side}_eye"]], [0.0135])
        put(f"{side}_pupil", [joints[f"{side}_eye"]], [0.008])
        put(f"{side}_ear", [joints[f"{side}_ear"]], [0.015])


def _camera(xyz: Floats, lift: Floats, pitch: Floats) -> Floats:
    """(N, P, …, 3) u, v, d of body points: raised by `lift` (N,), seen by a camera that looks down by `pitch` (N,)."""
    shape = (-1,) + (1,) * (xyz.ndim - 2)
    height, depth = xyz[..., 1] + lift.reshape(shape), xyz[..., 2]
    cos, sin = np.cos(pitch).reshape(shape), np.sin(pitch).reshape(shape)
    return np.stack([xyz[..., 0], height * cos - depth * sin, height * sin + depth * cos], axis=-1)


# Added to a part's depth: clothes lie over each other and an arm beside the chest is drawn over it until the body has
# turned by about 45 degrees.
_RAISED = {
    "chest": 0.05, "neck": 0.04, "thigh": 0.045, "shin": 0.03, "foot": 0.04, "upper_arm": 0.13, "forearm": 0.15,
    "hand": 0.16,
}  # fmt: skip
_RAISE = np.array([_RAISED.get(name.split("_", 1)[1] if name.startswith(SIDES) else name, 0.0) for name in PARTS])


def _order(depth: Floats, head: Floats, pitch: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Drawing key (N, parts) from the spheres' depth (N, parts, 4), and which face parts lie in front of the skull."""
    middle = depth.mean(-1)
    key = middle + _RAISE
    skull, chest = middle[:, PART["skull"]], key[:, PART["chest"]]
    base = skull + 0.06
    facing = (head[:, 2, 2] * np.cos(pitch) + head[:, 1, 2] * np.sin(pitch)) > 0.0
    front = np.zeros(key.shape, bool)
    for name in _FACE:
        front[:, PART[name]] = middle[:, PART[name]] > skull - (0.012 if name.endswith("ear") else 0.0)
        step = 0.003 if name.endswith("pupil") else 0.002
        key[:, PART[name]] = base + np.where(front[:, PART[name]], step, step - 0.006)
    key[:, PART["skull"]] = base
    turned = middle[:, PART["nose"]] - skull < 0.02
    key[:, PART["hair"]] = base + np.where(turned, 0.001, -0.001)
    key[:, PART["fringe"]] = base + np.where(facing, 0.0015, -0.0015)
    key[:, PART["long_hair"]] = np.where(facing, chest - 0.03, base + 0.0012)
    key[:, PART["seat"]] = -np.inf
    return key, front


def _owners(front: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, len(POINTS)) bits of the parts that each keypoint belongs to.

    Of the face's parts those in front of the skull own each other's keypoints: on a small face they share pixels.
    """
    bits = 1 << np.arange(len(PARTS), dtype=np.int64)
    face = (front * bits).sum(1)
    out = np.zeros((len(front), len(POINTS)), np.int64)
    for i, name in enumerate(POINTS):
        side, _, joint = name.partition("_")
        if name in PART and name in _FACE:
            out[:, i] = np.where(front[:, PART[name]], face, bits[PART[name]])
            continue
        parts = _OWNERS[name] if name in _OWNERS else tuple(f"{side}_{part}" for part in _OWNERS[joint])
        out[:, i] = sum(int(bits[PART[part]]) for part in parts)
    return out
