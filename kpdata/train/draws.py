"""The parameters of many people at once, number for number those that `presets.Preset` draws for one.

`Preset` works on a `Sample`, which is checked and rebuilt at each step: fair for a look, but a good part of the time of
a loader that only decodes and warps. Here the numbers of a batch are drawn from the generator of each person, then
turned into crops by arrays; boxes, half bodies and columns of the upper body were made once, for the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kpdata.augment import kernels
from kpdata.augment.compose import Maybe
from kpdata.augment.crops import upper_body
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.maps import Transform
from kpdata.augment.occlusion import CoarseDropout, covered_keypoints, hide
from kpdata.augment.presets import Preset
from kpdata.augment.rng import generator, spread
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import ColorJitter
from kpdata.errors import TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.table import People

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Crops of B people: center, sides (B, 2) px of the picture, before the flip; rotation (B,) degrees; flip (B,);
    seed (B,) of the steps after the crop."""

    center: Floats
    sides: Floats
    rotation: Floats
    flip: Bools
    seed: Ints

    def matrix(self, one: int, picture: Size, crop: Size, convention: kernels.Convention) -> Floats:
        """(3, 3) px of the picture of (W, H) to px of the crop, as `TopDown.matrix`."""
        (x, y), flip = self.center[one].tolist(), bool(self.flip[one])
        x = picture[0] - 1 - x if flip else x
        straight = kernels.crop_matrix((x, y), self.sides[one], float(self.rotation[one]), crop, convention)
        return straight @ kernels.flip_horizontal(picture) if flip else straight


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """Of everybody, by half (0: upper, 1: lower): labelled (2, N), center and extent (2, N, 2), as `HalfBody`."""

    labelled: Ints
    center: Floats
    extent: Floats


class Chance:
    """Draws the crops of a preset. augment False: the plain crops, nothing random."""

    def __init__(self, people: People, skeleton: Skeleton, preset: Preset, *, augment: bool) -> None:
        self.crop, self.augment, self._people = preset.crop, augment, people
        self.halves = None
        if augment and self.crop.half_body is not None:
            self.halves = halves_of(people, skeleton, preset)

    def draw(self, rows: Ints, streams: Sequence[tuple[int, int, int]]) -> Drawn:
        """The crops of these rows of the table, each from the generator of its (seed, epoch, index)."""
        center, sides = self._people.center[rows], self._people.sides[rows]
        count = len(rows)
        if not self.augment:
            return Drawn(center, sides, np.zeros(count), np.zeros(count, bool), np.zeros(count, np.int64))
        crop = self.crop
        half, chance = np.ones((count, 2)), np.empty((count, 4))
        amount, seed = np.empty((count, 4)), np.empty(count, np.int64)
        for i, stream in enumerate(streams):  # the order of these lines is that of HalfBody, TopDown and Preset
            rng = generator(*stream)
            if self.halves is not None:
                half[i] = rng.random(2)
            chance[i] = rng.random(4)
            amount[i] = spread(rng, crop.distribution, clip=np.inf, count=4)  # shift x and y, scale, rotation
            seed[i] = rng.integers(2**63)
        if crop.distribution == "normal":
            np.clip(amount, (-1, -1, -1, -2), (1, 1, 1, 2), out=amount)
        center, sides = self._half_bodies(rows, half, center, sides)
        shift = amount[:, :2] * crop.shift * (chance[:, :1] < crop.shift_p)
        factor = 1 + amount[:, 2] * crop.scale * (chance[:, 1] < crop.scale_p)
        rotation = amount[:, 3] * crop.rotation * (chance[:, 2] < crop.rotation_p)
        return Drawn(center + shift * sides, sides * factor[:, None], rotation, chance[:, 3] < crop.flip, seed)

    def _half_bodies(self, rows: Ints, chance: Floats, center: Floats, sides: Floats) -> tuple[Floats, Floats]:
        """The crops with those of half a body in the place of some, as `HalfBody.draw` decides."""
        option, halves = self.crop.half_body, self.halves
        if option is None or halves is None:
            return center, sides
        above, below = halves.labelled[:, rows]
        wanted = (chance[:, 0] < option.p) & (above + below > option.more_than)
        least = option.at_least
        upper = ((chance[:, 1] < option.upper_p) & (above >= least[0])) | (below < least[1])
        which = np.where(upper, 0, 1)
        extent = halves.extent[which, rows]
        taken = (wanted & (np.where(upper, above, below) >= 2) & (extent > 0).any(axis=1))[:, None]
        fixed = kernels.fix_aspect(extent, self.crop.size[0] / self.crop.size[1])
        return np.where(taken, halves.center[which, rows], center), np.where(taken, fixed, sides)


def halves_of(people: People, skeleton: Skeleton, preset: Preset) -> Halves:
    """Everybody's halves, by `HalfBody` itself, as if all were in one picture. SchemaError where they are not clear."""
    option = preset.crop.half_body
    assert option is not None
    nothing = np.zeros((1, 1, 3), np.uint8)
    crowd = Sample(nothing, people.keypoints, people.visibility, skeleton, center=people.center, scale=people.sides)
    labelled = (people.visibility > 0) & np.isfinite(people.keypoints).all(axis=2)
    names = skeleton.keypoint_names
    is_upper = upper_body(skeleton) if option.upper is None else np.isin(names, option.upper)
    counts, centers, extents = [], [], []
    for number, own in ((1, is_upper), (2, ~is_upper)):
        after = option.apply(crowd, np.full(len(people), number, np.int8))
        assert after.center is not None and after.scale is not None
        counts.append((labelled & own).sum(axis=1))
        centers.append(after.center)
        extents.append(after.scale)
    return Halves(np.stack(counts), np.stack(centers), np.stack(extents))


# ------------------------------------------------------------------------------------- what the device is still to do


@dataclass(frozen=True, slots=True)
class Later:
    """The steps after the crop that the device can do: colours first, then holes of one colour a picture."""

    colour: Transform | None
    holes: Transform | None
    count: int  # most holes a person
    fill: tuple[int, int, int] | Literal["mean"]


def for_device(preset: Preset) -> Later:
    """The preset's steps, split for the device. TrainError where it cannot do one of them: say which.

    It can change colours (`ColorJitter`), then fill rectangles with one colour or the picture's mean (`CoarseDropout`),
    each once, perhaps by chance (`Maybe`); nothing else, and beyond the picture is black.
    """
    colour: Transform | None = None
    holes: Transform | None = None
    count: int = 0
    fill: tuple[int, int, int] | Literal["mean"] = (0, 0, 0)
    for step in preset.after:
        inner = step.transform if isinstance(step, Maybe) else step
        if isinstance(inner, ColorJitter) and colour is None and holes is None:
            colour = step
        elif isinstance(inner, CoarseDropout) and holes is None and inner.fill != "noise" and not inner.modal:
            holes, count, fill = step, inner.count[1], inner.fill
        else:
            raise _not_on_device(preset, f"{type(inner).__name__} ({inner})")
    if preset.crop.border not in (None, (0, 0, 0)):
        raise _not_on_device(preset, f"border {preset.crop.border!r}")
    return Later(colour, holes, count, fill)


def _not_on_device(preset: Preset, what: str) -> TrainError:
    message = f"preset {preset.recipe.name!r}: the device cannot do its step {what}"
    return TrainError(message, hint='`warp = "cpu"` in the file of --config, or leave warp out')


def draw_later(
    later: Later, crop: Sample, seed: int, colour: NDArray[np.float32] | None, holes: NDArray[np.float32] | None
) -> NDArray[np.int8]:
    """Visibility (K,) of the one person of `crop` after the steps; their parameters are written to `colour` (4,) and
    `holes` (R, 4), which say "nothing" before. The picture of `crop` plays no part but for its size."""
    rng, visibility = np.random.Generator(np.random.PCG64(seed)), crop.visibility
    if later.colour is not None and colour is not None:
        for drawn in _drawn(later.colour, crop, rng):
            colour[:] = drawn
    if later.holes is not None and holes is not None:
        inner = later.holes.transform if isinstance(later.holes, Maybe) else later.holes
        assert isinstance(inner, CoarseDropout)
        for drawn in _drawn(later.holes, crop, rng):
            edges = drawn.edges
            holes[: len(edges)] = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)
            visibility = hide(visibility, covered_keypoints(crop.keypoints, inner.cover(crop, drawn)), inner.covered)
    after: NDArray[np.int8] = visibility[0]
    return after


def _drawn(step: Transform, crop: Sample, rng: np.random.Generator) -> tuple:  # type: ignore[type-arg]  # any step's
    """What a step drew, in a tuple; an empty one where chance left it out."""
    drawn = step.draw(crop, rng)
    return drawn if isinstance(step, Maybe) else (drawn,)
