"""The official recipe of top-down training, written again as its authors run it: NumPy, OpenCV, loops over keypoints.

leoxiaobin/deep-high-resolution-net.pytorch: `lib/dataset/JointsDataset.py`, `lib/utils/transforms.py`,
`lib/core/inference.py`; DARK as in open-mmlab/mmpose `mmpose/codecs/utils/refinement.py`. Here it is what others are
compared with: COCO's 17 keypoints, 256 x 192 crops, heatmaps of 64 x 48 cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = Any
SIZE, CELLS, STRIDE, SIGMA = (192, 256), (48, 64), 4, 2
ROTATION, SCALE = 45, 0.35  # HRNet on COCO
UPPER = range(11)  # nose to wrists
Drawn = tuple[Array, Array, float, bool]  # centre px, sides in units of 200 px, degrees, flipped


@dataclass
class Person:
    """Arrays: keypoints (17, 2) px, visibility (17,), box (4,) x, y, w, h."""

    keypoints: Array
    visibility: Array
    box: Array


@dataclass
class Photo:
    """A picture file, its size in px, its people; `pixels` (H, W, 3) RGB where a subject starts from them."""

    path: str
    size: tuple[int, int]
    people: list[Person]
    pixels: Array = None


def read_rgb(path: str) -> Array:
    """(H, W, 3) by OpenCV, as the official loader reads."""
    return cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def center_scale(person: Person) -> tuple[Array, Array]:
    """The box fixed to 3:4 and padded: centre and side lengths in units of 200 px."""
    x, y, w, h = person.box
    if w > 0.75 * h:
        h = w / 0.75
    else:
        w = 0.75 * h
    return np.array([x + person.box[2] / 2, y + person.box[3] / 2]), np.array([w, h]) / 200 * 1.25


def official_matrix(center: Array, scale: Array, rotation: float) -> Array:
    """The official affine: three points, the third one the second turned by a right angle."""
    angle, (width, height) = np.pi * rotation / 180, SIZE
    half = -0.5 * scale[0] * 200
    up = np.array([-half * np.sin(angle), half * np.cos(angle)])
    source = np.array([center, center + up, [0, 0]], np.float32)
    target = np.array([[width / 2, height / 2], [width / 2, height / 2 - width / 2], [0, 0]], np.float32)
    for points in (source, target):
        points[2] = points[1] + np.array([points[1][1] - points[0][1], points[0][0] - points[1][0]])
    return cv2.getAffineTransform(source, target)


def official_draw(person: Person, rng: Array) -> Drawn:
    """Centre, scale, rotation, flip as the official data set class draws them; half body before."""
    center, scale = center_scale(person)
    seen = person.visibility > 0
    if seen.sum() > 8 and rng.random() < 0.3:
        upper = [k for k in range(17) if seen[k] and k in UPPER]
        lower = [k for k in range(17) if seen[k] and k not in UPPER]
        chosen = upper if (rng.standard_normal() < 0.5 and len(upper) > 2) or len(lower) <= 2 else lower
        points = person.keypoints[chosen]
        center, (w, h) = points.mean(axis=0), points.max(axis=0) - points.min(axis=0)
        w, h = (w, w / 0.75) if w > 0.75 * h else (0.75 * h, h)
        scale = np.array([w, h]) / 200 * 1.5
    scale = scale * np.clip(rng.standard_normal() * SCALE + 1, 1 - SCALE, 1 + SCALE)
    rotation = np.clip(rng.standard_normal() * ROTATION, -2 * ROTATION, 2 * ROTATION) if rng.random() <= 0.6 else 0
    return center, scale, float(rotation), bool(rng.random() <= 0.5)


def official_crop(image: Array, person: Person, drawn: Drawn) -> tuple[Array, Array, Array]:
    """Flip, affine, one product a keypoint: crop uint8, keypoints (17, 2), visibility (17,)."""
    center, scale, rotation, flip = drawn
    keypoints, visibility, center = person.keypoints.copy(), person.visibility.copy(), center.copy()
    if flip:
        image = image[:, ::-1, :]
        keypoints[:, 0] = image.shape[1] - keypoints[:, 0] - 1
        for left in range(1, 17, 2):
            keypoints[[left, left + 1]], visibility[[left, left + 1]] = (
                keypoints[[left + 1, left]],
                visibility[[left + 1, left]],
            )
        center[0] = image.shape[1] - center[0] - 1
    matrix = official_matrix(center, scale, rotation)
    crop = cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_LINEAR)
    for k in range(17):
        if visibility[k] > 0:
            keypoints[k] = np.dot(matrix, np.array([*keypoints[k], 1.0]))[:2]
    return crop, keypoints, visibility


def official_targets(keypoints: Array, visibility: Array) -> tuple[Array, Array]:
    """Heatmaps (17, 64, 48) and weights (17, 1), keypoint by keypoint."""
    (width, height), reach = CELLS, 3 * SIGMA
    maps, weights = np.zeros((17, height, width), np.float32), np.ones((17, 1), np.float32)
    weights[:, 0] = visibility > 0
    for k in range(17):
        x, y = int(keypoints[k][0] / STRIDE + 0.5), int(keypoints[k][1] / STRIDE + 0.5)
        low, high = [x - reach, y - reach], [x + reach + 1, y + reach + 1]
        if low[0] >= width or low[1] >= height or high[0] < 0 or high[1] < 0:
            weights[k] = 0
            continue
        across = np.arange(0, 2 * reach + 1, 1, np.float32)
        down = across[:, np.newaxis]
        patch = np.exp(-((across - reach) ** 2 + (down - reach) ** 2) / (2 * SIGMA**2))
        px, py = (max(0, -low[0]), min(high[0], width) - low[0]), (max(0, -low[1]), min(high[1], height) - low[1])
        mx, my = (max(0, low[0]), min(high[0], width)), (max(0, low[1]), min(high[1], height))
        if weights[k] > 0.5:
            maps[k][my[0] : my[1], mx[0] : mx[1]] = patch[py[0] : py[1], px[0] : px[1]]
    return maps, weights


def official_quarter(maps: Array) -> Array:
    """Keypoints (17, 2) in cells: argmax and a quarter toward the larger neighbour, keypoint by keypoint."""
    (width, height), found = CELLS, np.zeros((17, 2))
    for k in range(17):
        at = maps[k].argmax()
        found[k] = [at % width, at // width]
        x, y = int(found[k][0] + 0.5), int(found[k][1] + 0.5)
        if 1 < x < width - 1 and 1 < y < height - 1:
            step = [maps[k][y][x + 1] - maps[k][y][x - 1], maps[k][y + 1][x] - maps[k][y - 1][x]]
            found[k] += np.sign(step) * 0.25
    return found


def official_dark(maps: Array) -> Array:
    """Keypoints (17, 2) in cells by DARK with OpenCV's blur of 11 cells, keypoint by keypoint."""
    (width, height), found = CELLS, np.zeros((17, 2))
    for k in range(17):
        at = maps[k].argmax()
        found[k] = x, y = at % width, at // width
        blank = np.zeros((height + 10, width + 10), np.float32)
        blank[5:-5, 5:-5] = maps[k]
        p = cv2.GaussianBlur(blank, (11, 11), 0)[5:-5, 5:-5]
        p = np.log(np.maximum(p * maps[k].max() / p.max(), 1e-10))
        if 1 < x < width - 2 and 1 < y < height - 2:
            gradient = 0.5 * np.array([p[y][x + 1] - p[y][x - 1], p[y + 1][x] - p[y - 1][x]])
            dxx = 0.25 * (p[y][x + 2] - 2 * p[y][x] + p[y][x - 2])
            dyy = 0.25 * (p[y + 2][x] - 2 * p[y][x] + p[y - 2][x])
            dxy = 0.25 * (p[y + 1][x + 1] - p[y - 1][x + 1] - p[y + 1][x - 1] + p[y - 1][x - 1])
            if dxx * dyy - dxy**2 != 0:
                found[k] -= np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ gradient
    return found
