"""Does the picture go where the keypoints say? A Gaussian blob at each keypoint, and where its centroid ends up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.sample import Sample
from kpdata.skeleton import Skeleton

SIGMA = 3.0
# No pairs: the columns stay, so that each blob is compared with its own keypoint.
SKELETON = Skeleton("five_blobs", ("a", "b", "c", "d", "e"), flip_pairs=frozenset())


def blob(xy: tuple[float, float], size: tuple[int, int], sigma: float = SIGMA) -> NDArray[np.uint8]:
    """(H, W, 3) a grey Gaussian of this centre on black."""
    x, y = np.arange(size[0]) - xy[0], np.arange(size[1])[:, None] - xy[1]
    value = np.rint(255 * np.exp(-(x**2 + y**2) / (2 * sigma**2))).astype(np.uint8)
    return np.repeat(value[..., None], 3, axis=2)


def centroid(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """(2,) x, y of the picture's centre of intensity."""
    grey = image.astype(np.float64).sum(axis=2)
    total = grey.sum()
    return (
        np.array([(grey.sum(axis=0) * np.arange(grey.shape[1])).sum(), (grey.sum(axis=1) * np.arange(len(grey))).sum()])
        / total
    )


def blob_sample(size: tuple[int, int] = (160, 120), seed: int = 0) -> Sample:
    """One person with five keypoints at fractional places well inside, a box around them, and a black picture."""
    rng = np.random.default_rng(seed)
    places = 0.2 + 0.6 * np.array([[0.0, 0.0], [1, 0], [0.5, 0.5], [0, 1], [1, 1]])
    xy = places * size + rng.uniform(-3, 3, (5, 2))
    low, high = xy.min(axis=0), xy.max(axis=0)
    return Sample(
        np.zeros((size[1], size[0], 3), np.uint8), xy[None], np.full((1, 5), 2, np.int8), SKELETON,
        bbox=np.concatenate([low, high - low])[None], annotation_ids=np.array([1]), image_id=1,
    )  # fmt: skip


def blob_errors(
    transform: Any, size: tuple[int, int] = (160, 120), seed: int = 0, sigma: float = SIGMA
) -> NDArray[np.float64]:
    """(n,) px between each keypoint and the centroid of its blob after the transform, for blobs wholly in the picture.

    The parameters are drawn once and applied to a picture of each blob alone, with the keypoint on the blob's own
    centroid (rounding to 8 bits moves it by up to 0.01 px). Blobs that touch the edge are left out.
    """
    start = blob_sample(size, seed)
    drawn = transform.draw(start, np.random.default_rng(seed))
    errors = []
    for column, (x, y) in enumerate(start.keypoints[0].tolist()):
        picture = blob((x, y), size, sigma)
        keypoints = start.keypoints.copy()
        keypoints[0, column] = centroid(picture)
        after = transform.apply(start.changed(image=picture, keypoints=keypoints), drawn)
        frame = np.concatenate([after.image[0], after.image[-1], after.image[:, 0], after.image[:, -1]])
        if after.image.any() and not frame.any():
            errors.append(np.hypot(*(centroid(after.image) - after.keypoints[0, column])))
    return np.array(errors)


def blob_error(transform: Any, size: tuple[int, int] = (160, 120), seed: int = 0, sigma: float = SIGMA) -> float:
    """The largest of `blob_errors`, in px; NaN where no blob stays wholly in the picture."""
    errors = blob_errors(transform, size, seed, sigma)
    return float(errors.max()) if len(errors) else float("nan")


def place_errors(
    transform: Any, size: tuple[int, int] = (160, 120), seed: int = 0, sigma: float = 4.0
) -> NDArray[np.float64]:
    """(n,) px: as `blob_errors`, but of places alone, without what rounding to 8 bits does to a black picture.

    There a tail of a blob that moves by a hundredth of a pixel is rounded back to where it was, which hides the move.
    Here the blob lies on noise, other noise in each channel, and what the noise alone becomes is taken off again:
    rounding averages out, to some 0.004 px.
    """
    start, rng = blob_sample(size, seed), np.random.default_rng(seed)
    drawn = transform.draw(start, np.random.default_rng(seed))
    noise = rng.integers(10, 40, (size[1], size[0], 3), np.uint8)
    ground = transform.apply(start.changed(image=noise), drawn).image.astype(np.float64)
    errors = []
    for column, (x, y) in enumerate(start.keypoints[0].tolist()):
        dot = blob((x, y), size, sigma) // 2 + blob((x, y), size, sigma) // 4
        keypoints = start.keypoints.copy()
        keypoints[0, column] = centroid(dot)
        after = transform.apply(start.changed(image=noise + dot, keypoints=keypoints), drawn)
        light = after.image - ground
        frame = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
        if light.any() and not frame.any():
            errors.append(np.hypot(*(centroid(light) - after.keypoints[0, column])))
    return np.array(errors)
