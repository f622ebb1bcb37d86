"""What a tool of the augmentation benchmark does to the truth, in numbers: the equality that comes before the times."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.augment_recipe import (
    SIGMA,
    SIZE,
    STRIDE,
    Array,
    Person,
    Photo,
    official_crop,
    official_draw,
    official_targets,
    read_rgb,
)  # fmt: skip
from benchmarks.augment_runners import codec_passes, crops_of, kpdata_top_down, sample_of

FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def check(tool: str, subject: str, photos: list[Photo]) -> dict[str, Any]:
    """What a tool does to the truth, in numbers: see `blobs`, `as_official` and `codec_difference`."""
    if subject.startswith(("targets", "decoding")):
        return codec_difference(tool, subject, photos)
    if subject == "jpeg":
        return as_official(photos) if tool.startswith("kpdata") else {}
    return blobs(tool)


def blobs(tool: str) -> dict[str, Any]:
    """`off_px`: how far keypoints lie from the centroid of a blob drawn at them, at most, over 40 crops (geometry).

    `mirrored`: crops that show a mirrored person; `swapped`: in how many of them left and right were exchanged.
    """
    photo, person = _dotted()
    run = crops_of(tool, "geometry")
    made = [crop for _ in range(40) for crop in run([photo], np.random.default_rng(_))]
    if tool == "kornia":
        made = [pair for crops, keypoints in made for pair in zip(crops, keypoints, strict=True)]
    off, mirrored, swapped = 0.0, 0, 0
    for crop, keypoints in made:
        off = max(off, _off(crop, keypoints))
        straight, crossed = (_map(person.keypoints[order], keypoints) for order in (slice(None), FLIP))
        best = min(straight, crossed, key=lambda found: found[1])
        if best[0] < 0:
            mirrored, swapped = mirrored + 1, swapped + (crossed[1] < straight[1])
    return {"off_px": off, "mirrored": mirrored, "swapped": int(swapped)}


def _dotted() -> tuple[Photo, Person]:
    """A black 640 x 480 picture with 17 Gaussian blobs of sigma 5 px, not symmetric, and the person that they are."""
    places = np.array([[x, y] for y in (90, 165, 240, 315, 390) for x in (220, 287, 354, 421)], float)[:17]
    keypoints = places + np.random.default_rng(5).uniform(-6, 6, (17, 2))
    y, x = np.mgrid[:480, :640]
    light = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 50) for a, b in keypoints)
    image = np.repeat(np.rint(np.minimum(light, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    person = Person(keypoints, np.full(17, 2, np.int8), np.array([150.0, 40, 340, 420]))
    return Photo("", (640, 480), [person], image), person


def _off(crop: Array, keypoints: Array) -> float:
    """The largest distance of a keypoint well inside the crop from the centroid of the light around it, px."""
    worst, light = 0.0, crop[..., 0].astype(float)
    nearest = np.sort(np.linalg.norm(keypoints[:, None] - keypoints, axis=-1), axis=1)[:, 1].min()
    reach = int(nearest / 2)
    for x, y in keypoints:
        column, row = round(x), round(y)
        if not (reach <= column < light.shape[1] - reach and reach <= row < light.shape[0] - reach):
            continue
        part = light[row - reach : row + reach + 1, column - reach : column + reach + 1]
        if part.sum() > 0:
            steps = np.arange(-reach, reach + 1)
            at = column + part.sum(0) @ steps / part.sum(), row + part.sum(1) @ steps / part.sum()
            worst = max(worst, float(np.hypot(at[0] - x, at[1] - y)))
    return worst


def _map(source: Array, target: Array) -> tuple[float, float]:
    """The determinant of the affine map that takes source to target best, and what it leaves over."""
    solved, *_ = np.linalg.lstsq(np.c_[source, np.ones(len(source))], target, rcond=None)
    left = np.abs(np.c_[source, np.ones(len(source))] @ solved - target).max()
    return float(np.linalg.det(solved[:2])), float(left)


def as_official(photos: list[Photo]) -> dict[str, Any]:
    """kpdata beside the official recipe with the same 4 draws a person: the largest differences.

    `crop_levels`, and on average over a crop `crop_mean`: of pixels, 0 to 255, without the filter for strongly shrunk
    people, which the recipe does not have. OpenCV's warp counts in 1/32 px, so that the recipe's float32 matrix shows
    here and there. `keypoints_px`; `maps` and `weights` of the same keypoints, since one between two cells may fall to
    either side. `part_levels`: between the crops of a part of the file and of the whole picture.
    """
    from kpdata.augment import read_image
    from kpdata.augment.crops import Crop
    from kpdata.augment.image import warp
    from kpdata.augment.partial import read_part
    from kpdata.codec import HeatmapCodec

    transform, codec, rng = (
        kpdata_top_down(antialias=False),
        HeatmapCodec(SIZE, STRIDE, SIGMA),
        np.random.default_rng(0),
    )
    worst = dict.fromkeys(("crop_levels", "crop_mean", "keypoints_px", "maps", "weights", "part_levels"), 0.0)
    for photo in photos:
        photo.pixels, whole = read_rgb(photo.path), read_image(photo.path)
        for person in photo.people * 4:
            center, scale, rotation, flip = official_draw(person, rng)
            crop, keypoints, visibility = official_crop(photo.pixels, person, (center, scale, rotation, flip))
            (x, y), (width, height) = center.tolist(), (scale * 200).tolist()
            drawn = Crop((x, y), (width, height), rotation, flip)
            ours = transform.apply(sample_of(photo, [person], photo.pixels), drawn)
            part = read_part(photo.path, photo.size, ours.matrix, SIZE)
            from_part = warp(part.pixels, ours.matrix @ part.matrix, SIZE).astype(int)
            maps, weights = official_targets(ours.keypoints[0], ours.visibility[0])
            our_maps, our_weights = codec.encode(ours.keypoints, ours.visibility)
            levels = np.abs(crop.astype(int) - ours.image)
            found = {
                "crop_levels": levels.max(),
                "part_levels": np.abs(from_part - warp(whole, ours.matrix, SIZE)).max(),
                "crop_mean": levels.mean(),
                "keypoints_px": np.abs(keypoints - ours.keypoints[0])[visibility > 0].max(initial=0),
                "maps": np.abs(maps - our_maps[0]).max(),
                "weights": np.abs(weights[:, 0] - our_weights[0]).max() + (ours.visibility[0] != visibility).any(),
            }
            worst = {name: max(value, float(found[name])) for name, value in worst.items()}
    return worst


def codec_difference(tool: str, subject: str, photos: list[Photo]) -> dict[str, Any]:
    """`differs`: the largest difference from the loop, of labelled keypoints."""
    labelled = np.stack([person.visibility for photo in photos for person in photo.people]) > 0
    ours, loop = (np.stack(codec_passes(name, subject, photos)()) for name in ("kpdata", "official loop"))
    return {"differs": float(np.abs(ours - loop)[labelled].max())} if tool == "kpdata" else {}
