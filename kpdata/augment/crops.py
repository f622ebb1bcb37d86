"""Top-down crops: one person, turned and scaled to a fixed size, and the way back for predictions.

The order is the official recipe's (leoxiaobin/deep-high-resolution-net.pytorch, `lib/dataset/JointsDataset.py`): half
body, then scale and rotation, then the flip, which mirrors the crop's centre (`W - 1 - c`) after half body replaced it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdata.augment import kernels
from kpdata.augment.image import BLACK, Border, check_border, warp
from kpdata.augment.kernels import (
    Convention,
    Floats,
    Size,
    box_to_center_scale,
    clean_boxes,
    crop_matrix,
    fix_aspect,
    mpii_crop,
)
from kpdata.augment.maps import call, check_amounts, check_p, check_size, frames, targets_after
from kpdata.augment.rng import Distribution, check_distribution, spread
from kpdata.augment.sample import Sample
from kpdata.augment.samples import people
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

__all__ = [
    "LEAST_MMPOSE", "UPPER_MMPOSE", "UPPER_OFFICIAL", "UPPER_UNIFORM", "Crop", "HalfBody", "TopDown",
    "box_to_center_scale", "clean_boxes", "crop_matrix", "fix_aspect", "mpii_crop", "people", "to_image", "upper_body",
]  # fmt: skip

UPPER_OFFICIAL = 0.6914624612740131
"""The official chance of the upper half: it asks `randn() < 0.5`, a *normal* number, where `rand()` was meant."""
UPPER_UNIFORM = 0.5
"""The chance of the upper half as it was meant."""
UPPER_MMPOSE = 0.7
"""The chance of the upper half in mmpose (`RandomHalfBody.upper_prioritized_prob`)."""
LEAST_MMPOSE = (2, 3)
"""Labelled keypoints that a half needs in mmpose (`RandomHalfBody.min_upper_keypoints`, `min_lower_keypoints`)."""


def to_image(xy: ArrayLike, sample: Sample | ArrayLike) -> Floats:
    """Keypoints (..., K, 2) px of a crop, e.g. predictions, back in px of the picture as it was read. NaN stays NaN.

    sample: the Sample that the model saw, or its `matrix`. Of a mirrored Sample the columns are swapped back, so that
    left is the left of the person in the picture. A matrix does not know the columns: SchemaError where it mirrors, and
    for other shapes, or a number of keypoints that is not the skeleton's.
    """
    array = np.asarray(xy, np.float64)
    if array.shape[-1:] != (2,) or (isinstance(sample, Sample) and array.ndim < 2):
        raise SchemaError(f"to_image: keypoints of shape {array.shape}, expected (..., K, 2)")
    if isinstance(sample, Sample):
        if array.shape[-2] != len(sample.skeleton):
            names = f"{len(sample.skeleton)} of {sample.skeleton.name!r}"
            raise SchemaError(f"to_image: {array.shape[-2]} keypoints, expected the {names}")
        points = kernels.warp_keypoints(array, kernels.invert(sample.matrix))
        return kernels.swap(points, sample.skeleton, axis=-2) if sample.mirrored else points
    if kernels.mirrors(sample):
        raise SchemaError("this matrix mirrors and says not which columns are twins", hint="give the Sample itself")
    return kernels.warp_keypoints(array, kernels.invert(sample))


_LOWER = re.compile("hip|knee|ankle|toe|heel|foot|feet|pelvis")


def upper_body(skeleton: Skeleton) -> NDArray[np.bool_]:
    """(K,) bool: keypoints of the upper half. Hips, pelvis, knees, ankles, heels and toes, told by name, are the lower.

    Equal to the official lists of COCO (columns 0 to 10) and MPII (7 to 15). SchemaError where a half would be empty.
    """
    return _upper_body(skeleton).copy()


def _upper_body(skeleton: Skeleton) -> NDArray[np.bool_]:
    upper = _upper_names(skeleton.keypoint_names, skeleton.landmarks)
    if upper is None:
        raise SchemaError(
            f"skeleton {skeleton.name!r}: its names do not tell an upper from a lower body",
            hint="name the keypoints of the upper half: HalfBody(upper=(…))",
        )
    return upper


@cache  # by the names: a Skeleton takes 10 µs to be looked up
def _upper_names(keypoint_names: tuple[str, ...], landmarks: tuple[str, ...]) -> NDArray[np.bool_] | None:
    """(K,) bool, or None where a half would be empty."""
    names = zip(keypoint_names, landmarks, strict=True)
    lower = np.array([bool(_LOWER.search(f"{name} {landmark}".lower())) for name, landmark in names])
    return None if lower.all() or not lower.any() else ~lower


@dataclass(frozen=True, slots=True)
class HalfBody:
    """With probability p the crop of a person becomes that of the upper or the lower half of the body.

    `half_body_transform` of leoxiaobin/deep-high-resolution-net.pytorch (`lib/dataset/JointsDataset.py`): only people
    with more than `more_than` labelled keypoints. The upper half is preferred with probability `upper_p` (a quirk of
    the official code, see `UPPER_OFFICIAL`; `UPPER_UNIFORM`, `UPPER_MMPOSE`), and taken if it has at least
    `at_least[0]` labelled keypoints; else the lower one if that has at least `at_least[1]`; else the upper one. With
    fewer than 2, or all on one spot, nothing changes. `center` becomes their mean, `scale` their extent times `padding`
    (`TopDown` then fixes the proportions). Picture, keypoints and boxes stay as they are: what the crop cuts off stays
    labelled.

    at_least: officially 3 and 3; mmpose's RandomHalfBody has 2 and 3 (`LEAST_MMPOSE`). The two differ for people with
    2 labelled keypoints above and many below, whom COCO's 17 keypoints (6 below) do not have.
    upper: names of the upper half's keypoints; None: told by name (`upper_body`). SchemaError for numbers out of range;
    when drawn, for a skeleton whose halves are not clear.
    """

    p: float = 0.3
    more_than: int = 8
    upper_p: float = UPPER_OFFICIAL
    padding: float = 1.5
    upper: tuple[str, ...] | None = None
    at_least: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        check_p("HalfBody", p=self.p, upper_p=self.upper_p)
        if not (isinstance(self.at_least, tuple) and len(self.at_least) == 2 and min(self.at_least) >= 1):
            raise SchemaError(f"HalfBody: at_least {self.at_least!r}, expected (upper, lower), 1 or more each")
        check_amounts("HalfBody", more_than=self.more_than, padding=self.padding)
        if self.padding == 0:
            raise SchemaError("HalfBody: padding 0, expected above 0")

    def draw(self, sample: Sample, rng: np.random.Generator) -> NDArray[np.int8]:
        """(P,) 0: the whole body, 1: the upper half, 2: the lower one. Two numbers of the generator a person."""
        return self.drawn_crops(sample, rng)[0]

    def drawn_crops(self, sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.int8], Floats, Floats]:
        """What `draw` gives, and the centres and extents (P, 2) of the halves; NaN and 0 where the body stays whole."""
        is_upper, count = self._upper(sample.skeleton), len(sample.keypoints)
        chance = rng.random((2, count))
        whole = np.zeros(count, np.int8), np.full((count, 2), np.nan), np.zeros((count, 2))
        if not (chance[0] < self.p).any():
            return whole
        labelled = self._labelled(sample)
        wanted = (chance[0] < self.p) & (labelled.sum(axis=1) > self.more_than)
        if not wanted.any():
            return whole
        above, below = (labelled & is_upper).sum(axis=1), (labelled & ~is_upper).sum(axis=1)
        upper = ((chance[1] < self.upper_p) & (above >= self.at_least[0])) | (below < self.at_least[1])
        enough = np.where(upper, above, below) >= 2
        chosen = np.where(upper, 1, 2)
        center, extent = self._crops(sample, chosen)
        half = np.where(wanted & enough & (extent > 0).any(axis=1), chosen, 0).astype(np.int8)
        return half, np.where(half[:, None] > 0, center, np.nan), np.where(half[:, None] > 0, extent, 0)

    def apply(self, sample: Sample, drawn: NDArray[np.int8]) -> Sample:
        """The sample with other crops."""
        center, scale = self._crops(sample, drawn)
        half = (drawn > 0)[:, None]
        _, _, old_center, old_scale = frames(sample)
        return sample.changed(center=np.where(half, center, old_center), scale=np.where(half, scale, old_scale))

    __call__ = call

    def _upper(self, skeleton: Skeleton) -> NDArray[np.bool_]:
        if self.upper is None:
            return _upper_body(skeleton)
        if strangers := sorted(set(self.upper) - set(skeleton.keypoint_names)):
            raise SchemaError(f"HalfBody: upper names {strangers}, which skeleton {skeleton.name!r} does not have")
        return np.isin(skeleton.keypoint_names, self.upper)

    def _labelled(self, sample: Sample) -> NDArray[np.bool_]:
        labelled: NDArray[np.bool_] = (sample.visibility > 0) & np.isfinite(sample.keypoints).all(axis=2)
        return labelled

    def _crops(self, sample: Sample, half: NDArray[np.integer[Any]]) -> tuple[Floats, Floats]:
        """Centres and extents (P, 2) of the labelled keypoints of these halves; NaN and 0 where there are none."""
        own = self._upper(sample.skeleton) == (half == 1)[:, None]  # (P, K)
        used = (self._labelled(sample) & own)[..., None]
        count = used.sum(axis=1)  # (P, 1)
        total = np.where(used, sample.keypoints, 0).sum(axis=1)
        center = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        low = np.where(used, sample.keypoints, np.inf).min(axis=1, initial=np.inf)
        high = np.where(used, sample.keypoints, -np.inf).max(axis=1, initial=-np.inf)
        return center, np.where(count > 0, high - low, 0) * self.padding


@dataclass(frozen=True, slots=True)
class Crop:
    """What `TopDown` draws. center (x, y) and scale (width, height): px of the picture, before the flip."""

    center: tuple[float, float]
    scale: tuple[float, float]
    rotation: float = 0.0  # degrees, counter-clockwise
    flip: bool = False
    factor: float = 1.0  # the random part of the scale
    half_body: Literal["", "upper", "lower"] = ""  # "": the whole body


@dataclass(frozen=True, slots=True)
class TopDown:
    """One person turned, scaled and cut out to `size` (W, H) px, as top-down networks take it; no chance by default.

    The crop is `center` and `scale` of the sample where it has them (MPII, or after `HalfBody`), else its box, its
    proportions fixed to those of `size` and padded. clean: boxes are cut first as the official COCO loader does
    (`kernels.clean_boxes`). Then, in this order:
    - half_body: see `HalfBody`. It replaces the crop;
    - shift: with probability shift_p the centre moves by up to this share of the crop's sides (mmpose);
    - scale: with probability scale_p the crop's sides times 1 + up to this (below 1): the more, the smaller the person;
    - rotation: with probability rotation_p, degrees;
    - flip: the probability to mirror, which swaps left and right. The picture flips first, the crop's centre with it.
    distribution: how shift, scale and rotation are spread (`rng.spread`): `normal` is clipped at 1 shift, 1 scale and 2
    rotations. convention: see `kernels.crop_matrix`. border: beyond the picture (black unless given). antialias: see
    `image.warp`; the official code does not.

    Keypoints and visibility stay what they are, also outside of the crop: the codec weighs them. `to_image` is the way
    back. All of the sample is in px of the crop then, `center` and `scale` too; what they were in px of the picture
    stands in `extras["top_down"]`, the `Crop` that was drawn, as official metadata has it.

    SchemaError for options out of range; when drawn, for a sample that has not one person (`people` splits it), and for
    a person without box or whose box has no extent: named by annotation and image.
    """

    size: Size = (192, 256)
    padding: float = 1.25
    rotation: float = 0.0
    rotation_p: float = 0.6
    scale: float = 0.0
    scale_p: float = 1.0
    shift: float = 0.0
    shift_p: float = 0.3
    flip: float = 0.0
    half_body: HalfBody | None = None
    distribution: Distribution = "normal"
    convention: Convention = "official"
    clean: bool = False
    border: Border | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        check_size("TopDown", self.size)
        check_amounts("TopDown", padding=self.padding, rotation=self.rotation, scale=self.scale, shift=self.shift)
        check_p("TopDown", rotation_p=self.rotation_p, scale_p=self.scale_p, shift_p=self.shift_p, flip=self.flip)
        check_distribution("TopDown", self.distribution)
        check_border("TopDown", self.border)
        if self.padding == 0 or self.scale >= 1:
            raise SchemaError(f"TopDown: padding {self.padding}, scale {self.scale}, expected above 0, and below 1")
        if self.convention not in get_args(Convention):
            raise SchemaError(f"TopDown: convention {self.convention!r}, expected one of {list(get_args(Convention))}")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Crop:
        """The crop; equally many numbers of the generator whatever comes out. SkeletonError where it may not flip."""
        if self.flip > 0 and sample.skeleton.flip_pairs is None:
            sample.skeleton.flip_index()  # says so
        center, sides, half = *self._box(sample), 0
        if self.half_body is not None:
            halves, middle, extent = self.half_body.drawn_crops(sample, rng)
            half = int(halves[0])
            if half:
                center, sides = middle[0], fix_aspect(extent[0], self.size[0] / self.size[1])
        chance = rng.random(4)
        shift = spread(rng, self.distribution, count=2) * self.shift * (chance[0] < self.shift_p)
        factor = 1 + float(spread(rng, self.distribution)) * self.scale * bool(chance[1] < self.scale_p)
        rotation = float(spread(rng, self.distribution, clip=2.0)) * self.rotation * bool(chance[2] < self.rotation_p)
        (x, y), (width, height) = (center + shift * sides).tolist(), (sides * factor).tolist()
        name: Literal["", "upper", "lower"] = "lower" if half == 2 else "upper" if half else ""
        return Crop((x, y), (width, height), rotation, bool(chance[3] < self.flip), factor, name)

    def _box(self, sample: Sample) -> tuple[Floats, Floats]:
        """Centre and sides of the crop before any chance."""
        if len(sample.keypoints) != 1:
            found = f"a sample of {len(sample.keypoints)} people"
            raise SchemaError(f"TopDown: {found}, expected one", hint="crops.people(sample) gives one a person")
        boxes, _, middle, extent = frames(sample)
        ratio, given = self.size[0] / self.size[1], [*middle[0].tolist(), *extent[0].tolist()]
        if all(map(math.isfinite, given)):
            center, sides = middle[0], fix_aspect(extent[0], ratio)
        else:
            box = clean_boxes(boxes[0], sample.size) if self.clean else boxes[0]
            width, height = box[2:].tolist()
            if width < 0 or height < 0 or (self.clean and not (width and height)):
                box = np.array([np.nan] * 4)
            center, sides = box_to_center_scale(box, ratio, self.padding)
        if not (all(map(math.isfinite, [*center.tolist(), *sides.tolist()])) and min(sides.tolist()) > 0):
            who = "a person" if sample.annotation_ids is None else f"annotation {sample.annotation_ids[0]}"
            raise SchemaError(
                f"TopDown: {who} of image {sample.image_id}: bbox {boxes[0].tolist()}, center and scale "
                f"{given}: expected a box in the picture with an extent",
                hint="leave these people out, or give them a box (geometry.box_from_keypoints)",
            )
        return center, sides

    def matrix(self, sample: Sample, drawn: Crop) -> Floats:
        """(3, 3) px of the picture to px of the crop."""
        x, y = drawn.center
        flip = kernels.flip_horizontal(sample.size) if drawn.flip else kernels.identity()
        x = sample.size[0] - 1 - x if drawn.flip else x
        return crop_matrix((x, y), drawn.scale, drawn.rotation, self.size, self.convention) @ flip

    def size_after(self, sample: Sample, drawn: Crop) -> Size:
        """`size`."""
        return self.size

    def apply(self, sample: Sample, drawn: Crop) -> Sample:
        """The crop, with `extras["top_down"]`."""
        m = self.matrix(sample, drawn)
        image = warp(sample.image, m, self.size, self.border or BLACK, antialias=self.antialias)
        return cut_out(sample, m, drawn, image)

    __call__ = call


def cut_out(sample: Sample, m: Floats, drawn: Crop, image: NDArray[np.uint8]) -> Sample:
    """The sample after a top-down crop with the map `m` (3, 3), whose picture is `image`, with `extras["top_down"]`."""
    targets = targets_after(sample, m, (image.shape[1], image.shape[0]))
    return sample.changed(image=image, extras={**sample.extras, "top_down": drawn}, **targets)
