"""Transforms of a `Sample`: parameters are drawn once, then applied to the picture and to all that belongs to it.

Each transform is a frozen dataclass of its options, checked when it is made (SchemaError), with

    draw(sample, rng) -> drawn         the parameters, from an explicit generator (`kpdata.augment.rng.generator`)
    apply(sample, drawn) -> Sample     deterministic
    transform(sample, rng) -> Sample   apply(sample, draw(sample, rng))

Geometric ones also tell `matrix(sample, drawn)`, (3, 3), and `size_after(sample, drawn)`, (W, H), so that `Geometry`
can fuse a chain of them to one resampling; `Compose` does so for neighbours. Every map that mirrors swaps left and
right; where the skeleton's twins are not known, it refuses (SkeletonError) whatever the dice say.

Keypoints and visibility stay what they are when points leave the picture: `kernels.absent_outside` is its own step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kpdata.augment import kernels
from kpdata.augment.compose import Compose, Geometry, Maybe, OneOf, is_geometric
from kpdata.augment.image import Border, check_border, recolour
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.maps import (
    Geometric,
    Transform,
    apply_bordered,
    apply_map,
    call,
    check_amounts,
    check_p,
    check_size,
    frames,
    move,
    same_size,
    targets_after,
)
from kpdata.augment.rng import Distribution, check_distribution, spread
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError
from kpdata.geometry import box_from_keypoints

__all__ = [
    "D4", "Affine", "BoxJitter", "ColorJitter", "Compose", "Geometric", "Geometry", "HorizontalFlip", "Letterbox",
    "Maybe", "OneOf", "Perspective", "RandomAffine", "RandomCropAroundPeople", "Resize", "Rotate90", "Transform",
    "Transpose", "VerticalFlip", "is_geometric", "move", "people_boxes", "targets_after",
]  # fmt: skip

# ---------------------------------------------------------------------------------------- flips and quarter turns (D4)
# All draw one of the 8 symmetries of `kernels.d4`: pixels are copied, never resampled.


def _d4_matrix(self: object, sample: Sample, drawn: int) -> Floats:
    """(3, 3) of the symmetry that was drawn."""
    return kernels.d4(sample.size, drawn)[0]


def _d4_size(self: object, sample: Sample, drawn: int) -> Size:
    """Width and height, exchanged by an odd number of quarter turns."""
    return kernels.d4(sample.size, drawn)[1]


@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """With probability p mirrored left to right: x becomes W - 1 - x, left and right swapped."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p("HorizontalFlip", p=self.p)

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The element of `kernels.d4`. SkeletonError where the twins are not known, whatever the dice say."""
        return _draw_mirror(sample, rng, self.p, 4)

    matrix, size_after, apply, __call__ = _d4_matrix, _d4_size, apply_map, call


@dataclass(frozen=True, slots=True)
class VerticalFlip:
    """With probability p mirrored top to bottom: y becomes H - 1 - y. A mirror too: left and right are swapped."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p("VerticalFlip", p=self.p)

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The element of `kernels.d4`. SkeletonError where the twins are not known, whatever the dice say."""
        return _draw_mirror(sample, rng, self.p, 6)

    matrix, size_after, apply, __call__ = _d4_matrix, _d4_size, apply_map, call


@dataclass(frozen=True, slots=True)
class Transpose:
    """With probability p x and y exchanged: a picture of (W, H) becomes one of (H, W). Left and right are swapped."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p("Transpose", p=self.p)

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The element of `kernels.d4`. SkeletonError where the twins are not known, whatever the dice say."""
        return _draw_mirror(sample, rng, self.p, 5)

    matrix, size_after, apply, __call__ = _d4_matrix, _d4_size, apply_map, call


@dataclass(frozen=True, slots=True)
class Rotate90:
    """One of these numbers of quarter turns counter-clockwise, each as likely. Nothing is mirrored."""

    turns: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        if not self.turns or not set(self.turns) <= {0, 1, 2, 3}:
            raise SchemaError(f"Rotate90: turns {self.turns!r}, expected some of 0, 1, 2, 3")

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The number of turns, which is the element of `kernels.d4`."""
        return self.turns[int(rng.integers(len(self.turns)))]

    matrix, size_after, apply, __call__ = _d4_matrix, _d4_size, apply_map, call


@dataclass(frozen=True, slots=True)
class D4:
    """One of the 8 flips and quarter turns, each as likely; those that mirror swap left and right."""

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The element of `kernels.d4`. SkeletonError where the twins are not known, whatever the dice say."""
        sample.skeleton.flip_index()
        return int(rng.integers(8))

    matrix, size_after, apply, __call__ = _d4_matrix, _d4_size, apply_map, call


def _draw_mirror(sample: Sample, rng: np.random.Generator, p: float, element: int) -> int:
    if p > 0:
        sample.skeleton.flip_index()
    return element if rng.random() < p else 0


# ---------------------------------------------------------------------------------------------------- maps of the plane


@dataclass(frozen=True, slots=True)
class Affine:
    """A fixed map about the middle of the picture, which goes to the middle of the new one.

    rotation: degrees, counter-clockwise. scale: factor of the content. translate: px (x, y) in the new picture. shear:
    degrees (x, y). size: (W, H) of the new picture; None: as it was. border: beyond the old one (black unless given).
    """

    rotation: float = 0.0
    scale: float = 1.0
    translate: tuple[float, float] = (0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    size: Size | None = None
    border: Border | None = None

    def __post_init__(self) -> None:
        numbers = (self.rotation, self.scale, *self.translate, *self.shear)
        if not all(map(math.isfinite, numbers)) or self.scale <= 0 or max(map(abs, self.shear)) >= 90:
            raise SchemaError(f"{self}: expected finite numbers, a scale above 0 and shears below 90 degrees")
        if abs(math.tan(math.radians(self.shear[0])) * math.tan(math.radians(self.shear[1])) - 1) < 1e-9:
            raise SchemaError(f"Affine: shear {self.shear} flattens the picture to a line")
        check_border("Affine", self.border)
        if self.size is not None:
            check_size("Affine", self.size)

    def draw(self, sample: Sample, rng: np.random.Generator) -> None:
        """Nothing is random."""

    def matrix(self, sample: Sample, drawn: None) -> Floats:
        """(3, 3): sheared, then scaled, then turned, then moved."""
        target = kernels.middle(self.size_after(sample, drawn))
        linear = kernels.rotate(self.rotation) @ kernels.scale(self.scale) @ kernels.shear(*self.shear)
        start = kernels.translate(*(-place for place in kernels.middle(sample.size)))
        return kernels.translate(target[0] + self.translate[0], target[1] + self.translate[1]) @ linear @ start

    def size_after(self, sample: Sample, drawn: None) -> Size:
        """`size`, or that of the picture."""
        return self.size or sample.size

    apply, __call__ = apply_bordered, call


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """A random map about the middle of the picture, which goes to the middle of the new one.

    rotation: degrees; scale: the content's factor is 1 plus up to about this (below 1); translate: share of the old
    width and height; shear: degrees. Each is spread as `distribution` says, see `rng.spread`; `normal` is clipped at 2
    rotations and 1 of the others, as the recipes do. rotation_p: the chance to turn at all. size, border: as `Affine`.
    """

    rotation: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    shear: float = 0.0
    rotation_p: float = 1.0
    distribution: Distribution = "normal"
    size: Size | None = None
    border: Border | None = None

    def __post_init__(self) -> None:
        check_amounts("RandomAffine", rotation=self.rotation, scale=self.scale, translate=self.translate)
        check_p("RandomAffine", rotation_p=self.rotation_p)
        check_distribution("RandomAffine", self.distribution)
        check_border("RandomAffine", self.border)
        if self.scale >= 1 or not 0 <= self.shear < 45:
            raise SchemaError(f"RandomAffine: scale {self.scale}, shear {self.shear}, expected below 1, 0 to below 45")
        if self.size is not None:
            check_size("RandomAffine", self.size)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Affine:
        """The fixed map; the generator gives equally many numbers whatever comes out."""
        turned = rng.random() < self.rotation_p
        turn = float(spread(rng, self.distribution, clip=2.0)) * self.rotation * turned
        factor, x, y, first, second = spread(rng, self.distribution, count=5).tolist()
        moved = (x * self.translate * sample.size[0], y * self.translate * sample.size[1])
        slant = (first * self.shear, second * self.shear)
        return Affine(turn, 1 + factor * self.scale, moved, slant, self.size, self.border)

    def matrix(self, sample: Sample, drawn: Affine) -> Floats:
        """(3, 3) of the map that was drawn."""
        return drawn.matrix(sample, None)

    def size_after(self, sample: Sample, drawn: Affine) -> Size:
        """`size`, or that of the picture."""
        return self.size or sample.size

    apply, __call__ = apply_bordered, call


@dataclass(frozen=True, slots=True)
class Perspective:
    """The corners pulled inwards, each by up to `distortion` of half a side, and stretched to the picture's old size.

    distortion: 0 to 0.9. The scale differs from place to place: areas and crop sizes follow that at their middle.
    """

    distortion: float = 0.2
    border: Border | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.distortion <= 0.9:
            raise SchemaError(f"Perspective: distortion {self.distortion!r}, expected 0 to 0.9")
        check_border("Perspective", self.border)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Floats:
        """(4, 2) how far each corner comes in, as a share of half the sides."""
        return rng.random((4, 2)) * self.distortion

    def matrix(self, sample: Sample, drawn: Floats) -> Floats:
        """(3, 3) that takes the drawn corners to those of the picture."""
        sides = np.array(sample.size, np.float64)
        signs = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
        corners = signs * sides - 0.5  # the outer edges of the corner pixels
        return kernels.perspective(corners + (1 - 2 * signs) * drawn * sides / 2, corners)

    size_after, apply, __call__ = same_size, apply_bordered, call


@dataclass(frozen=True, slots=True)
class Resize:
    """Stretched to `size` (W, H): edges go to edges, x to (x + 0.5) * factor - 0.5, as OpenCV's resize does."""

    size: Size

    def __post_init__(self) -> None:
        check_size("Resize", self.size)

    def draw(self, sample: Sample, rng: np.random.Generator) -> None:
        """Nothing is random."""

    def matrix(self, sample: Sample, drawn: None) -> Floats:
        """(3, 3) from the picture's size to `size`."""
        return kernels.resize(sample.size, self.size)

    def size_after(self, sample: Sample, drawn: None) -> Size:
        """`size`."""
        return self.size

    apply, __call__ = apply_map, call


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Put whole into `size` (W, H), proportions kept, in the middle; `border` fills the rest (black unless given)."""

    size: Size
    border: Border | None = None

    def __post_init__(self) -> None:
        check_size("Letterbox", self.size)
        check_border("Letterbox", self.border)

    def draw(self, sample: Sample, rng: np.random.Generator) -> None:
        """Nothing is random."""

    def matrix(self, sample: Sample, drawn: None) -> Floats:
        """(3, 3) from the picture's size into `size`."""
        return kernels.letterbox(sample.size, self.size)

    def size_after(self, sample: Sample, drawn: None) -> Size:
        """`size`."""
        return self.size

    apply, __call__ = apply_bordered, call


@dataclass(frozen=True, slots=True)
class RandomCropAroundPeople:
    """A random part of the picture that holds everybody (`people="all"`) or one of them (`"one"`) whole.

    Each side of the cut lies evenly between the picture's edge and the people's boxes (for people without a box, their
    labelled keypoints). Whole pixels are copied. A picture without people stays as it is.
    """

    people: Literal["all", "one"] = "all"

    def __post_init__(self) -> None:
        if self.people not in ("all", "one"):
            raise SchemaError(f"RandomCropAroundPeople: people {self.people!r}, expected 'all' or 'one'")

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """x, y, width, height of the part, in whole px; five numbers of the generator."""
        chosen, shares = rng.random(), rng.random(4)
        boxes = people_boxes(sample)
        boxes = boxes[np.isfinite(boxes).all(axis=1)]
        if not len(boxes):
            return (0, 0, *sample.size)
        if self.people == "one":
            boxes = boxes[[int(chosen * len(boxes))]]
        limits = np.array(sample.size, np.float64)
        low = np.clip(boxes[:, :2].min(axis=0), 0, limits - 1)
        high = np.clip((boxes[:, :2] + boxes[:, 2:]).max(axis=0), low + 1, limits)
        first = np.floor(low * shares[:2]).astype(int)
        last = np.ceil(high + (limits - high) * shares[2:]).astype(int)
        (x, y), (width, height) = first.tolist(), (last - first).tolist()
        return x, y, width, height

    def matrix(self, sample: Sample, drawn: tuple[int, int, int, int]) -> Floats:
        """(3, 3) a move by whole pixels."""
        return kernels.translate(-drawn[0], -drawn[1])

    def size_after(self, sample: Sample, drawn: tuple[int, int, int, int]) -> Size:
        """Width and height of the part."""
        return drawn[2], drawn[3]

    apply, __call__ = apply_map, call


def people_boxes(sample: Sample) -> Floats:
    """(P, 4) boxes `x, y, w, h`: the annotated ones with an extent, else around the labelled keypoints, else NaN."""
    bbox = frames(sample)[0]
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(bbox).all(axis=1, keepdims=True) & (bbox[:, 2:] > 0).all(axis=1, keepdims=True)
    tight = np.add(box_from_keypoints(sample.keypoints, sample.visibility), (0, 0, 1, 1))  # from pixels to edges
    return np.where(usable, bbox, tight)


@dataclass(frozen=True, slots=True)
class BoxJitter:
    """Person boxes moved and resized, as a detector would: the picture and the keypoints stay.

    shift: share of the box's width and height; scale: the sides' factor is 1 plus up to about this (below 1). Both are
    spread as `distribution` says (`rng.spread`, clip 1), for each person alone. A given crop (`center`, `scale`) moves
    with its box.
    """

    shift: float = 0.1
    scale: float = 0.1
    p: float = 1.0
    distribution: Distribution = "uniform"

    def __post_init__(self) -> None:
        check_amounts("BoxJitter", shift=self.shift, scale=self.scale)
        check_p("BoxJitter", p=self.p)
        check_distribution("BoxJitter", self.distribution)
        if self.scale >= 1:
            raise SchemaError(f"BoxJitter: scale {self.scale}, expected below 1")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Floats:
        """(P, 4) shares x, y by which each box moves, and factors of its width and height."""
        count = len(sample.keypoints)
        chosen = rng.random(count) < self.p
        amounts = spread(rng, self.distribution, count=4 * count).reshape(count, 4) * chosen[:, None]
        return amounts * (self.shift, self.shift, self.scale, self.scale) + (0, 0, 1, 1)

    def apply(self, sample: Sample, drawn: Floats) -> Sample:
        """The sample with other boxes."""
        bbox, _, center, scale = frames(sample)
        corner = bbox[:, :2] + bbox[:, 2:] * (drawn[:, :2] + (1 - drawn[:, 2:]) / 2)
        return sample.changed(
            bbox=np.concatenate([corner, bbox[:, 2:] * drawn[:, 2:]], axis=1),
            center=center + drawn[:, :2] * scale,
            scale=scale * drawn[:, 2:],
        )

    __call__ = call


# --------------------------------------------------------------------------------------------------------------- colour


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Brightness, contrast and saturation times 1 ± up to the amount, and the hue turned by up to `hue` degrees.

    All are spread evenly, all four are one linear map of (R, G, B), applied in this order with one rounding: brightness
    scales; contrast scales about the picture's mean grey; saturation scales about each pixel's grey (luma of ITU-R
    BT.601); hue turns the chroma plane of YIQ, which keeps the luma (HSV hue does not). Needs OpenCV (MissingExtra).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        check_amounts("ColorJitter", brightness=self.brightness, contrast=self.contrast, hue=self.hue)
        check_amounts("ColorJitter", saturation=self.saturation)
        if max(self.brightness, self.contrast, self.saturation) > 1 or self.hue > 180:
            raise SchemaError(f"{self}: expected amounts up to 1 and a hue up to 180 degrees")

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Factors of brightness, contrast and saturation, and degrees of hue."""
        b, c, s, h = spread(rng, "uniform", count=4).tolist()
        return 1 + b * self.brightness, 1 + c * self.contrast, 1 + s * self.saturation, h * self.hue

    def apply(self, sample: Sample, drawn: tuple[float, float, float, float]) -> Sample:
        """The sample with other colours."""
        return sample.changed(image=recolour(sample.image, *drawn))

    __call__ = call
