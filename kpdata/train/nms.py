"""Two predictions of one person: which of them stay, and what score a predicted person has. NumPy alone.

As the official top-down evaluation does (leoxiaobin/deep-high-resolution-net.pytorch, `lib/nms/nms.py` and
`lib/dataset/coco.py`): a detector's boxes overlap, the poses in them are compared by OKS, as if the better one were the
truth. All images at once: a round looks at the best person left in each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import TrainError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SURE = 0.2
"""A keypoint's score from which it counts for its person's: IN_VIS_THRE of `experiments/coco/*.yaml`."""
OVERLAP = 0.9
"""OKS from which two poses are one person's: OKS_THRE of the same files."""
MOST = 20
"""People of an image that soft NMS keeps: as many as COCO scores."""


def rescored(keypoint_scores: Floats, box_scores: Floats | float = 1.0) -> Floats:
    """(P,) a person's score: the mean of its keypoint scores (P, K) above 0.2, times that of its box (P,).

    0 where no keypoint is above 0.2, as in `COCODataset.evaluate`.
    """
    sure = keypoint_scores > SURE
    mean = np.where(sure, keypoint_scores, 0).sum(axis=1) / np.maximum(sure.sum(axis=1), 1)
    return np.asarray(mean * box_scores, np.float64)


def oks(keypoints: Floats, others: Floats, areas: Floats, other_areas: Floats, sigmas: Floats) -> Floats:
    """(P,) OKS of poses (P, K, 2) with others (P, K, 2), by the mean of their areas (P,), px² (`oks_iou`).

    All keypoints count, whatever their scores. sigmas (K,) as in `Skeleton.sigmas`.
    """
    squared = np.square(keypoints - others).sum(axis=-1)
    area = ((areas + other_areas) / 2 + np.spacing(1))[:, None]
    similar: Floats = np.exp(-squared / np.square(2 * sigmas) / area / 2)
    return np.asarray(similar.sum(axis=1) / similar.shape[1], np.float64)


def oks_nms(
    keypoints: Floats,
    scores: Floats,
    areas: Floats,
    sigmas: Floats,
    *,
    images: Ints | None = None,
    threshold: float = OVERLAP,
) -> Ints:
    """Rows that stay, by image, the best of each first: nobody's OKS with a better one who stays is above `threshold`.

    keypoints (P, K, 2) px; scores, areas (P,), px² of the padded crops; images (P,): people of different ones never
    meet; None: all are in one. Equal scores: the first row wins. TrainError where shapes do not fit.
    """

    def suppress(left: Ints, overlap: Floats, values: Floats) -> tuple[Ints, Floats]:
        stays = overlap <= threshold
        return left[stays], values[stays]

    return _rounds(keypoints, scores, areas, sigmas, images, suppress, None)[0]


def soft_oks_nms(
    keypoints: Floats,
    scores: Floats,
    areas: Floats,
    sigmas: Floats,
    *,
    images: Ints | None = None,
    threshold: float = OVERLAP,
    most: int = MOST,
) -> tuple[Ints, Floats]:
    """Rows that stay, as of `oks_nms`, and their lowered scores: at most `most` an image, nobody is refused outright.

    Each who stays multiplies the scores of those behind by exp(-OKS² / threshold), which then are put in order again
    (`soft_oks_nms`; the official code uses that order, and writes the scores as they were).
    """

    def lower(left: Ints, overlap: Floats, values: Floats) -> tuple[Ints, Floats]:
        return left, values * np.exp(-np.square(overlap) / threshold)

    return _rounds(keypoints, scores, areas, sigmas, images, lower, most)


def _rounds(
    keypoints: Floats,
    scores: Floats,
    areas: Floats,
    sigmas: Floats,
    images: Ints | None,
    change: Callable[[Ints, Floats, Floats], tuple[Ints, Floats]],
    most: int | None,
) -> tuple[Ints, Floats]:
    """The best of each image, then the best of those whom that leaves, and so on: rows and scores by image."""
    left, values = np.arange(len(scores)), np.asarray(scores, np.float64)
    image = np.zeros(len(scores), np.int64) if images is None else np.asarray(images)
    _check(keypoints, values, areas, sigmas, image)
    kept, final, done = [left[:0]], [values[:0]], 0
    while len(left) and (most is None or done < most):
        order = np.lexsort((-values, image[left]))
        left, values = left[order], values[order]
        of = image[left]
        first = np.concatenate([[True], of[1:] != of[:-1]])
        kept.append(left[first])
        final.append(values[first])
        best = left[first][np.cumsum(first) - 1][~first]  # the best of one's own image
        left, values = left[~first], values[~first]
        left, values = change(left, oks(keypoints[best], keypoints[left], areas[best], areas[left], sigmas), values)
        done += 1
    rows, found = np.concatenate(kept), np.concatenate(final)
    order = np.argsort(image[rows], kind="stable")
    return rows[order], found[order]


def _check(keypoints: Floats, scores: Floats, areas: Floats, sigmas: Floats, images: Ints) -> None:
    count, width = len(scores), np.shape(sigmas)[0] if np.ndim(sigmas) == 1 else -1
    if keypoints.shape != (count, width, 2) or np.shape(areas) != (count,) or images.shape != (count,):
        shapes = (
            f"keypoints {keypoints.shape}, areas {np.shape(areas)}, images {images.shape}, sigmas {np.shape(sigmas)}"
        )
        raise TrainError(f"OKS-NMS of {count} people: {shapes}; expected (P, K, 2), (P,), (P,) and (K,)")
