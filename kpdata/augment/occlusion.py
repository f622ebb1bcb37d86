"""Things in front of people: rectangles, grids and discs that hide pixels, and what they do to the labels.

Every transform makes a cover, (H, W) bool, paints it, and treats the labels by the same rules (`occlude`):

- A keypoint is **covered** where its pixel lies under the cover. One outside the picture, or without a coordinate, is
  not; an absent one (visibility 0) stays absent, whatever happens.
- `covered` says what becomes of a covered keypoint. "occluded" (the default): 2 and 3 become 1, 1 stays. "absent": it
  becomes 0 and its coordinate stays as data. "keep": visible stays visible, which is what other libraries do without
  a word, and wrong as a label.
- Boxes and areas stay those of the whole person, so that OKS and crops do not change with what stands in front. With
  `modal=True` a person of whom pixels were covered gets box and area of the pixels that are left.
- Masks lose the covered pixels. Polygons cannot have holes: where a cover touches one, all polygons of the sample
  become masks (rasterised as pycocotools does) and `polygons` becomes None; where it touches none they stay.

The random numbers of a draw depend on the size of the picture and the labels, never on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError
from kpdata.geometry import box_area, box_from_keypoints
from kpdata.schema import Visibility

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

Covered = Literal["occluded", "absent", "keep"]
Fill = tuple[int, int, int] | Literal["mean", "noise"]  # RGB; the mean colour of the picture; each byte at random
Range = tuple[float, float]

_ALL = np.iinfo(np.int64).max


# ---------------------------------------------------------------------------------------------------------- kernels


def covered_keypoints(xy: NDArray[np.floating], cover: Mask) -> Mask:
    """(P, K) bool: the pixel of the keypoint lies under the cover; xy (P, K, 2) px, cover (H, W).

    The pixel of x is floor(x + 0.5): integers are the centres of pixels. False outside the picture and for NaN.
    """
    points = np.asarray(xy, np.float64) + 0.5
    high = np.array(cover.shape[::-1], np.float64)
    inside = np.asarray(((points >= 0) & (points < high)).all(-1))  # (P, K)
    column, row = np.moveaxis(np.where(inside[..., None], points, 0).astype(np.intp), -1, 0)
    if not cover.size:
        return np.zeros(inside.shape, bool)
    under: Mask = inside & cover[row, column]
    return under


def hide(visibility: NDArray[np.integer], under: Mask, covered: Covered) -> NDArray[np.int8]:
    """(P, K) visibility with the keypoints of `under` (P, K) treated as `covered` says; see the module. 0 stays 0."""
    before = np.asarray(visibility, np.int8)
    if covered == "keep":
        return before
    becomes = Visibility.ABSENT if covered == "absent" else Visibility.OCCLUDED
    return np.where(under & (before != Visibility.ABSENT), np.int8(becomes), before)


def occlude(sample: Sample, cover: Mask, image: Pixels, covered: Covered = "occluded", modal: bool = False) -> Sample:
    """The sample with the picture `image` (H, W, 3), in which `cover` (H, W) hides what was there; see the module.

    modal: a person of whom the cover takes pixels gets box and area of the rest; without a rest, box NaN and area 0.
    SchemaError for a cover or an image of another size, and for `modal` without masks or polygons to measure.
    """
    check_covered(covered)
    if cover.shape != sample.image.shape[:2] or image.shape != sample.image.shape:
        raise SchemaError(f"a cover {cover.shape} and image {image.shape} for an image {sample.image.shape}")
    under = covered_keypoints(sample.keypoints, cover)
    values: dict[str, Any] = {"image": image, "visibility": hide(sample.visibility, under, covered)}
    masks = segmentation(sample)
    if masks is None:
        if modal and len(sample.keypoints):
            hint = "give the sample masks or polygons, or leave modal=False"
            raise SchemaError("modal=True: no masks and no polygons to measure the visible part with", hint=hint)
        return sample.changed(**values)
    touched = np.asarray((masks & cover).any((1, 2)))  # (P,)
    if touched.any():
        left = masks & ~cover
        values |= {"masks": left, "polygons": None}
        if modal:
            values["area"] = np.where(touched, left.sum((1, 2)), np.asarray(sample.area))
            values["bbox"] = np.where(touched[:, None], boxes_of_masks(left), np.asarray(sample.bbox))
    return sample.changed(**values)


def segmentation(sample: Sample) -> Mask | None:
    """(P, H, W) bool: the sample's masks, or its polygons rasterised; None without either."""
    if sample.masks is not None or sample.polygons is None:
        return sample.masks
    return rasterise(sample.polygons, sample.size)


def rasterise(outlines: Sequence[Sequence[NDArray[np.floating]]], size: tuple[int, int]) -> Mask:
    """(P, H, W) bool of the polygons (n, 2), continuous edges, of P people in a picture of (W, H), by pycocotools.

    Several polygons of a person are one mask; a polygon of fewer than 3 points has no pixels. SchemaError names the
    person whose polygon has a coordinate that is not finite.
    """
    from pycocotools import mask as coco_masks

    width, height = size
    out = np.zeros((len(outlines), height, width), bool)
    flat = [(i, np.ravel(polygon)) for i, person in enumerate(outlines) for polygon in person if len(polygon) >= 3]
    for person, points in flat:
        if not np.isfinite(points).all():
            raise SchemaError(f"polygons of person {person}: a coordinate is not a finite number")
    if flat and out.size:
        owner = np.array([person for person, _ in flat])
        codes = coco_masks.frPyObjects([points.tolist() for _, points in flat], height, width)
        first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
        drawn = coco_masks.decode(codes).astype(bool).transpose(2, 0, 1)
        out[owner[first]] = np.logical_or.reduceat(drawn, first, axis=0)
    return out


def boxes_of_masks(masks: Mask) -> Floats:
    """(P, 4) `x, y, w, h` of the pixels of each mask (P, H, W), continuous edges; NaN where there is none."""
    low, high = [], []
    for axis in (1, 2):  # columns that hold a pixel, then rows
        line = np.asarray(masks.any(axis))
        reverse = line[:, ::-1]
        if line.shape[1] == 0:
            return np.full((len(masks), 4), np.nan)
        low.append(line.argmax(1))
        high.append(line.shape[1] - reverse.argmax(1))
    x0, y0, x1, y1 = (np.asarray(edge, np.float64) for edge in (*low, *high))
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1)
    some = np.asarray(masks.any((1, 2)))
    return np.where(some[:, None], boxes, np.nan)


def person_scale(sample: Sample) -> Floats:
    """(P,) px, the size of each person: the root of the area, as in OKS; without one of the box's area; without a box
    of the extent of the labelled keypoints. NaN where there is none of these above 0."""
    with np.errstate(over="ignore"):  # an absurd coordinate: the person is of no finite size, and is left out
        extent = box_area(box_from_keypoints(sample.keypoints, sample.visibility))
    size = np.full(len(sample.keypoints), np.nan)
    for area in (extent, box_area(np.asarray(sample.bbox)), np.asarray(sample.area)):
        size = np.where(area > 0, area, size)
    root: Floats = np.sqrt(size)
    return root


def paint(image: Pixels, cover: Mask, fill: Fill, noise: int) -> Pixels:
    """A copy of image (H, W, 3) with the pixels of cover (H, W) filled. noise: the seed of fill="noise"."""
    out = image.copy()
    where = np.flatnonzero(cover)
    if not len(where):
        return out
    if fill == "noise":
        colour: Any = np.random.default_rng(noise).integers(0, 256, (len(where), 3), np.uint8)
    elif fill == "mean":
        sums = image.sum(0, dtype=np.uint32).sum(0)  # ten times as fast as mean((0, 1))
        colour = np.rint(sums / (image.shape[0] * image.shape[1])).astype(np.uint8)
    else:
        colour = np.array(fill, np.uint8)
    out.reshape(-1, 3)[where] = colour
    return out


# --------------------------------------------------------------------------------------------------- checking options


def check_covered(covered: str) -> None:
    """SchemaError unless `covered` is the name of a policy."""
    if covered not in get_args(Covered):
        raise SchemaError(f"covered={covered!r}, expected one of {', '.join(map(repr, get_args(Covered)))}")


def check_look(fill: object, covered: str) -> None:
    """SchemaError unless `fill` is a colour of whole numbers 0 to 255, "mean" or "noise", and `covered` a policy."""
    colour = isinstance(fill, tuple) and len(fill) == 3 and all(type(c) is int and 0 <= c <= 255 for c in fill)
    if not colour and not (isinstance(fill, str) and fill in ("mean", "noise")):
        raise SchemaError(f"fill={fill!r}, expected 'mean', 'noise' or a colour (r, g, b) of whole numbers 0 to 255")
    check_covered(covered)


def check_range(name: str, pair: object, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """SchemaError unless `pair` is (least, most), finite, with low <= least <= most <= high; whole: whole numbers."""
    kinds = int if whole else int | float
    numbers = pair if isinstance(pair, tuple) and all(isinstance(v, kinds) for v in pair) else ()
    if len(numbers) != 2 or not (low <= numbers[0] <= numbers[1] <= high and numbers[1] < math.inf):
        what = "whole numbers" if whole else "numbers"
        until = "on" if high == math.inf else f"to {high:g}"
        raise SchemaError(f"{name}={pair!r}, expected (least, most), {what} from {low:g} {until}")


def check_share(name: str, value: object) -> None:
    """SchemaError unless `value` is a number from 0 to 1."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SchemaError(f"{name}={value!r}, expected a number from 0 to 1")


def seed_of(rng: np.random.Generator) -> int:
    """A seed for what is drawn later, when it is known how much of it is needed."""
    return int(rng.integers(_ALL))


# ---------------------------------------------------------------------------------------------------------- rectangles


@dataclass(frozen=True, slots=True, eq=False)
class Rectangles:
    """What `CoarseDropout` drew: edges (n, 4), px, the columns x0..x1-1 and rows y0..y1-1; the seed of the noise."""

    edges: Ints
    noise: int


@dataclass(frozen=True, slots=True)
class CoarseDropout:
    """Rectangles that hide parts of the picture (DeVries and Taylor, Cutout, arXiv:1708.04552; as a set of holes:
    albumentations' CoarseDropout).

    count: fewest and most rectangles. width, height: least and most, as shares of the picture's width and height, or
    with unit="px" in px; rounded to whole pixels, at least 1 and at most the picture. A rectangle lies wholly within
    the picture, everywhere equally likely. fill, covered, modal: see the module.

    RTMPose's is `CoarseDropout(count=(1, 1), width=(0.2, 0.4), height=(0.2, 0.4))`, on the crop, for every sample and
    in the last 30 epochs for every second (open-mmlab/mmpose, projects/rtmpose/rtmpose/body_2d_keypoint).
    """

    count: tuple[int, int] = (1, 8)
    width: Range = (0.05, 0.2)
    height: Range = (0.05, 0.2)
    unit: Literal["share", "px"] = "share"
    fill: Fill = "mean"
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        if self.unit not in ("share", "px"):
            raise SchemaError(f"unit={self.unit!r}, expected 'share' or 'px'")
        check_range("count", self.count, 0, whole=True)
        for name, pair in (("width", self.width), ("height", self.height)):
            check_range(name, pair, 0, 1 if self.unit == "share" else math.inf)
        check_look(self.fill, self.covered)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Rectangles:
        """The rectangles; the same amount of random numbers is used whatever their count."""
        count = rng.integers(self.count[0], self.count[1] + 1)
        dice = rng.random((self.count[1], 4))[:count]
        full = np.array(sample.size)
        low, high = np.array([self.width, self.height], np.float64).T
        size = (low + (high - low) * dice[:, :2]) * (full if self.unit == "share" else 1)
        size = np.clip(np.rint(size), np.minimum(1, full), full).astype(np.int64)
        start = (dice[:, 2:] * (full - size + 1)).astype(np.int64)
        return Rectangles(np.concatenate([start, start + size], axis=1), seed_of(rng))

    def cover(self, sample: Sample, drawn: Rectangles) -> Mask:
        """(H, W) bool: the hidden pixels."""
        out = np.zeros(sample.image.shape[:2], bool)
        for x0, y0, x1, y1 in drawn.edges.tolist():
            out[y0:y1, x0:x1] = True
        return out

    def apply(self, sample: Sample, drawn: Rectangles) -> Sample:
        """The sample behind the rectangles."""
        cover = self.cover(sample, drawn)
        return occlude(sample, cover, paint(sample.image, cover, self.fill, drawn.noise), self.covered, self.modal)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


# --------------------------------------------------------------------------------------------------------------- grids


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What `HideAndSeek` drew: the side of a cell, px (0: none); hidden (rows, columns); the seed of the noise."""

    side: int
    hidden: Mask
    noise: int


@dataclass(frozen=True, slots=True)
class HideAndSeek:
    """Square cells from the top left corner, each hidden with probability p (Singh and Lee, ICCV 2017; the sides are
    those of kkanshul/Hide-and-Seek, made for pictures of 224 px).

    sides: px, one of them drawn for each picture; 0 hides nothing. Cells at the right and lower edge are cut.
    fill, covered, modal: see the module.
    """

    sides: tuple[int, ...] = (0, 16, 32, 44, 56)
    p: float = 0.5
    fill: Fill = "mean"
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.sides, tuple) and all(type(side) is int and side >= 0 for side in self.sides)
        if not whole or not self.sides:
            raise SchemaError(f"sides={self.sides!r}, expected a tuple of whole numbers from 0 on")
        check_share("p", self.p)
        check_look(self.fill, self.covered)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Cells:
        """The side of the cells, and which are hidden."""
        side = self.sides[int(rng.integers(len(self.sides)))]
        noise = seed_of(rng)
        width, height = sample.size
        shape = (-(-height // side), -(-width // side)) if side else (0, 0)
        return Cells(side, rng.random(shape) < self.p, noise)

    def cover(self, sample: Sample, drawn: Cells) -> Mask:
        """(H, W) bool: the hidden pixels."""
        height, width = sample.image.shape[:2]
        if not drawn.side:
            return np.zeros((height, width), bool)
        return drawn.hidden.repeat(drawn.side, 0)[:height].repeat(drawn.side, 1)[:, :width]

    def apply(self, sample: Sample, drawn: Cells) -> Sample:
        """The sample behind the cells."""
        cover = self.cover(sample, drawn)
        return occlude(sample, cover, paint(sample.image, cover, self.fill, drawn.noise), self.covered, self.modal)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


@dataclass(frozen=True, slots=True)
class Grid:
    """What `GridMask` drew: period, px; offset of the grid, px; angle, degrees; the seed of the noise."""

    period: float
    offset: tuple[float, float]
    angle: float
    noise: int


@dataclass(frozen=True, slots=True)
class GridMask:
    """A regular grid of hidden squares (Chen et al., GridMask, arXiv:2001.04086; Jia-Research-Lab/GridMask).

    period: px, least and most distance of neighbouring squares (the paper: 96 to 224 on pictures of 224 px). ratio:
    the side of a square as a share of the period, so that about ratio² of the picture is hidden; 0 nothing, 1 all.
    angle: degrees, least and most; the grid turns about the picture's centre. Its offset is drawn within a period.
    fill, covered, modal: see the module.
    """

    period: Range = (96.0, 224.0)
    ratio: float = 0.5
    angle: Range = (0.0, 0.0)
    fill: Fill = "mean"
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        check_range("period", self.period, 1)
        check_share("ratio", self.ratio)
        check_range("angle", self.angle, -360, 360)
        check_look(self.fill, self.covered)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Grid:
        """Period, offset and angle; the sample decides nothing."""
        period, angle = float(rng.uniform(*self.period)), float(rng.uniform(*self.angle))
        x, y = (rng.random(2) * period).tolist()
        return Grid(period, (x, y), angle, seed_of(rng))

    def cover(self, sample: Sample, drawn: Grid) -> Mask:
        """(H, W) bool: the hidden pixels, those whose centre lies in a square."""
        height, width = sample.image.shape[:2]
        x, y = np.arange(width)[None] - (width - 1) / 2, np.arange(height)[:, None] - (height - 1) / 2
        (x0, y0), period = drawn.offset, drawn.period
        cos, sin = math.cos(math.radians(drawn.angle)), math.sin(math.radians(drawn.angle))
        u, v = (cos * x - x0) / period, (cos * y - y0) / period  # in periods along the grid: (1, W) and (H, 1) …
        if drawn.angle:  # … or (H, W), in single precision: ten times as fast, and 1e-5 of a period is no pixel
            u, v = (np.float32(a) + np.float32(b) for a, b in ((u, sin * y / period), (v, -sin * x / period)))
        ratio = self.ratio if self.ratio < 1 else 2.0
        hidden: Mask = (u - np.floor(u) < ratio) & (v - np.floor(v) < ratio)
        return hidden

    def apply(self, sample: Sample, drawn: Grid) -> Sample:
        """The sample behind the grid."""
        cover = self.cover(sample, drawn)
        return occlude(sample, cover, paint(sample.image, cover, self.fill, drawn.noise), self.covered, self.modal)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


# ------------------------------------------------------------------------------------------------------------ keypoints


@dataclass(frozen=True, slots=True, eq=False)
class Spots:
    """What `KeypointCutout` drew: centres (n, 2) px, radii (n,) px, the seed of the noise."""

    centers: Floats
    radii: Floats
    noise: int


@dataclass(frozen=True, slots=True)
class KeypointCutout:
    """Discs or squares on keypoints (keypoint masking of Ke et al., ECCV 2018, arXiv:1803.09894, without its pasting).

    p: probability that a labelled keypoint inside the picture is hit. radius: least and most, as shares of the
    person's size (`person_scale`: the root of the area, box or extent); a person without a size is not hit. A square
    has the radius as half its side. jitter: a centre lies up to so many radii beside its keypoint, 0 to 1: with 0 the
    middle of a patch gives the keypoint away, and a network can learn that. keypoints: the names of those that may be
    hit; None: all. A patch hides whatever it lies on, other people too. fill, covered, modal: see the module.

    SchemaError from `draw` for names that the sample's skeleton does not have.
    """

    p: float = 0.2
    radius: Range = (0.05, 0.15)
    shape: Literal["disc", "square"] = "disc"
    jitter: float = 0.0
    keypoints: tuple[str, ...] | None = None
    fill: Fill = "mean"
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        if self.shape not in ("disc", "square"):
            raise SchemaError(f"shape={self.shape!r}, expected 'disc' or 'square'")
        check_share("p", self.p)
        check_share("jitter", self.jitter)
        check_range("radius", self.radius, 0)
        check_look(self.fill, self.covered)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Spots:
        """Which keypoints are hit, how large and where; random numbers for every keypoint, hit or not."""
        dice = rng.random((*sample.visibility.shape, 4))  # (P, K, 4): hit, radius, distance, direction
        noise = seed_of(rng)
        wanted = self._columns(sample)
        size = person_scale(sample)[:, None]  # (P, 1)
        inside = covered_keypoints(sample.keypoints, np.ones(sample.image.shape[:2], bool))
        hit = (dice[..., 0] < self.p) & wanted & inside & (sample.visibility > 0) & np.isfinite(size)
        low, high = self.radius
        radius = (low + (high - low) * dice[..., 1]) * size
        far = self.jitter * radius * np.sqrt(dice[..., 2])  # the root: everywhere in the disc equally likely
        turn = 2 * np.pi * dice[..., 3]
        beside = np.stack([far * np.cos(turn), far * np.sin(turn)], axis=-1)
        return Spots((sample.keypoints + beside)[hit], radius[hit], noise)

    def _columns(self, sample: Sample) -> Mask:
        names = sample.skeleton.keypoint_names
        if self.keypoints is None:
            return np.ones(len(names), bool)
        if strangers := sorted(set(self.keypoints) - set(names)):
            raise SchemaError(f"keypoints {strangers}: skeleton {sample.skeleton.name!r} has {list(names)}")
        return np.isin(names, self.keypoints)

    def cover(self, sample: Sample, drawn: Spots) -> Mask:
        """(H, W) bool: the hidden pixels, those whose centre is at most the radius from a spot's; at least the pixel
        that holds the spot's centre."""
        return _spots(drawn.centers, drawn.radii, self.shape == "disc", sample.size)

    def apply(self, sample: Sample, drawn: Spots) -> Sample:
        """The sample behind the spots."""
        cover = self.cover(sample, drawn)
        return occlude(sample, cover, paint(sample.image, cover, self.fill, drawn.noise), self.covered, self.modal)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


def _spots(centers: Floats, radii: Floats, disc: bool, size: tuple[int, int]) -> Mask:
    """(H, W) bool of discs or squares: each is a run of columns in each of its rows; all runs are added up at once."""
    width, height = size
    (x, y), radius = centers.T[..., None], radii[:, None]  # (n, 1) each
    middle, rows = np.floor(centers + 0.5).T[..., None], np.arange(height)  # middle: the pixel of the centre
    down = np.abs(rows - y)  # (n, H)
    half = np.sqrt(np.maximum(radius**2 - down**2, 0)) if disc else np.broadcast_to(radius, down.shape)
    own, used = rows == middle[1], down <= radius
    first = np.where(used, np.ceil(x - half), middle[0])
    last = np.where(used, np.floor(x + half), middle[0])
    first, last = np.where(own, np.minimum(first, middle[0]), first), np.where(own, np.maximum(last, middle[0]), last)
    spot, row = np.nonzero((used | own) & (first <= last))
    steps = np.zeros((height, width + 1), np.int32)
    np.add.at(steps, (row, np.clip(first[spot, row], 0, width).astype(np.intp)), 1)
    np.add.at(steps, (row, np.clip(last[spot, row] + 1, 0, width).astype(np.intp)), -1)
    out: Mask = np.cumsum(steps, axis=1)[:, :width] > 0
    return out
