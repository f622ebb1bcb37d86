"""Scenes for `kpdata.synth`: who stands where, what hides what, the exact painter: which part is on top at a pixel.

A pixel belongs to a part if its centre lies inside the part's outline, the convex hull of circles; later parts cover
earlier ones. The same outlines give the annotation and, at twice the resolution, the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import SchemaError
from kpdata.synth.body import DRAWS, PART, PARTS, WIDE, Bodies, bodies

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_PEOPLE = 90  # in one image: annotation ids count to a hundred within it
_CROWD = 14  # people in a crowd
_SMALLEST = 0.75  # px; a circle of this radius always holds the pixel nearest to its centre (sqrt(2) / 2 would do)
OBJECTS = ("crate", "ball", "bush")
# Outlines of objects in a box of width and height 1 that stands on the ground: x, y (up), radius, four circles a part.
_OBJECT_PARTS = np.array(
    [
        [
            [(-0.44, 0.06, 0.06), (0.44, 0.06, 0.06), (-0.44, 0.94, 0.06), (0.44, 0.94, 0.06)],
            *([[(-0.44, y, 0.025)] * 2 + [(0.44, y, 0.025)] * 2 for y in (0.34, 0.66)]),
            *([[(x, 0.08, 0.04)] * 2 + [(x, 0.92, 0.04)] * 2 for x in (-0.42, 0.42)]),
        ],
        [
            [(0.0, 0.5, 0.5)] * 4,
            *([[(x, 0.5 - d, 0.03)] * 2 + [(x, 0.5 + d, 0.03)] * 2 for x, d in ((-0.22, 0.4), (0, 0.46), (0.22, 0.4))]),
            [(-0.18, 0.72, 0.09)] * 4,
        ],
        [
            *([[(x, 0.3, 0.3)] * 4 for x in (-0.3, 0.3)]),
            *([[(x, y, r)] * 4 for x, y, r in ((0, 0.62, 0.36), (-0.12, 0.3, 0.3), (0.18, 0.44, 0.26))]),
        ],
    ]
)  # fmt: skip
_IS_WIDE = np.array([*np.isin(PARTS, WIDE), *([True] * len(OBJECTS))])
_HEADS = [PART["skull"], PART["hair"]]


@dataclass(frozen=True, slots=True)
class Options:
    """What scenes look like; see `kpdata.synth.synthesize` for the meaning of each field."""

    people: tuple[int, int] = (1, 5)
    size: tuple[int, int] = (640, 480)
    height: tuple[float, float] = (0.3, 0.9)
    objects: float = 0.35
    truncation: float = 0.15
    crowds: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("people", int), ("size", int), ("height", int | float)):
            pair = getattr(self, name)
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(value, kind) for value in pair)):
                raise SchemaError(f"{name}={pair!r}: expected two {'whole ' if kind is int else ''}numbers, as (1, 2)")
        if not 0 <= self.people[0] <= self.people[1] <= MAX_PEOPLE:
            raise SchemaError(f"people={self.people}: expected 0 <= fewest <= most <= {MAX_PEOPLE}")
        if min(self.size) < 32 or max(self.size) > 8192:
            raise SchemaError(f"size={self.size}: expected width and height in px, each from 32 to 8192")
        if not 0.02 <= self.height[0] <= self.height[1] <= 4:
            raise SchemaError(f"height={self.height}: expected 0.02 <= smallest <= largest <= 4, in image heights")
        for name in ("objects", "truncation", "crowds"):
            share = getattr(self, name)
            if not (isinstance(share, int | float) and 0 <= share <= 1):
                raise SchemaError(f"{name}={share!r}: expected a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive images: N people (crowd members too) and T parts in painting order.

    image (N,) number within the block; place (N, 3) x, y of the ground under the pelvis and standing height, px;
    number (N,) within the image, from 0, crowd members all -1; points (N, P, 2), extent and head (N, 4) x, y, w, h, px.
    circles (T, 4, 3) px; part_image, part_kind (T,): index of PARTS, from len(PARTS) on OBJECTS; part_person (T,): row
    in the block, -1 for things.
    """

    options: Options
    image: Ints
    number: Ints
    place: Floats
    points: Floats
    extent: Floats
    head: Floats
    body: Bodies
    circles: Floats
    part_image: Ints
    part_kind: Ints
    part_person: Ints
    scene: Floats


def block(seed: int, first: int, count: int, options: Options) -> Block:
    """Images `first` … `first + count - 1`. Each takes its numbers from its own generator, seeded (seed, image)."""
    drawn = [_draw(np.random.default_rng([seed, index]), options) for index in range(first, first + count)]
    scene = np.array([d[0] for d in drawn]).reshape(count, 8)
    per_image = np.array([len(d[1]) for d in drawn], np.int64)
    number = np.concatenate([d[2] for d in drawn]) if drawn else np.empty(0, np.int64)
    draws = np.concatenate([d[1] for d in drawn]) if drawn else np.empty((0, DRAWS))
    image = np.repeat(np.arange(count), per_image)
    body = bodies(draws)
    place = _place(body, draws, scene[image], number < 0, options)
    things, thing_image, thing_kind, thing_depth = _things([d[3] for d in drawn], place, per_image)
    to_px = np.array([1.0, -1.0])
    circles = body.circles * place[:, 2, None, None, None]
    circles[..., :2] = circles[..., :2] * to_px + place[:, None, None, :2]
    n, parts = circles.shape[:2]
    all_circles = np.concatenate([circles.reshape(-1, 4, 3), things])
    all_circles[..., 2] = np.maximum(all_circles[..., 2], _SMALLEST)
    part_image = np.concatenate([np.repeat(image, parts), thing_image])
    part_kind = np.concatenate([np.tile(np.arange(parts), n), thing_kind])
    owner = np.where(np.arange(parts) == PART["seat"], -1, np.arange(n)[:, None]).reshape(-1)
    part_person = np.concatenate([owner, np.full(len(thing_image), -1)])
    depth = np.concatenate([np.repeat(place[:, 2], parts), thing_depth])
    within = np.concatenate([body.order.reshape(-1), np.arange(len(thing_image))])
    order = np.lexsort((within, depth, part_image))
    return Block(
        options=options,
        image=image,
        number=number,
        place=place,
        points=body.points * place[:, None, 2:] * to_px + place[:, None, :2],
        extent=_extent(circles[:, PART["seat"] + 1 :]),
        head=_extent(circles[:, _HEADS[:1]]),
        body=body,
        circles=all_circles[order],
        part_image=part_image[order],
        part_kind=part_kind[order],
        part_person=part_person[order],
        scene=scene,
    )


def _draw(rng: np.random.Generator, options: Options) -> tuple[Floats, Floats, Ints, Floats]:
    """One image's uniform numbers: of the scene (8,), people (n, DRAWS), their numbers, and things (m, 6)."""
    scene = rng.random(8)
    low, high = options.people
    n = low + int(scene[0] * (high - low + 1))
    people, things = rng.random((n, DRAWS)), rng.random((2, 6))
    number = np.arange(n)
    if scene[6] < options.crowds:
        people = np.concatenate([people, rng.random((_CROWD, DRAWS))])
        number = np.concatenate([number, np.full(_CROWD, -1)])
    m = int(scene[5] < options.objects) + int(scene[5] < 0.4 * options.objects)
    return scene, people, number, things[: m if n else 0]


def _extent(circles: Floats) -> Floats:
    """(N, 4) x, y, w, h that holds all circles (N, …, 3)."""
    flat = circles.reshape(len(circles), int(np.prod(circles.shape[1:-1])), 3)
    low = (flat[..., :2] - flat[..., 2:]).min(1, initial=np.inf)
    high = (flat[..., :2] + flat[..., 2:]).max(1, initial=-np.inf)
    return np.concatenate([low, high - low], axis=1)


def _place(body: Bodies, draws: Floats, scene: Floats, crowd: NDArray[np.bool_], options: Options) -> Floats:
    """(N, 3) where each person stands and how tall it is, px: nearer people are taller and stand lower in the image."""
    width, height = options.size
    small, large = options.height
    size = height * small * (large / small) ** draws[:, 3]
    size = np.where(crowd, height * min(0.5 * small, 0.2) * (0.8 + 0.3 * draws[:, 3]), size)
    cut = ~crowd & (draws[:, 12] < options.truncation)
    edge = (3 * draws[:, 13]).astype(np.int64)  # left, right, bottom: who is cut at the bottom stands near
    size = np.where(cut & (edge == 2), np.maximum(size, 0.75 * height * large), size)
    x = width * np.where(
        crowd, scene[:, 3] + 0.35 * (draws[:, 4] - 0.5), 0.5 + (draws[:, 4] - 0.5) * (0.5 + 0.5 * scene[:, 4])
    )
    y = horizon(scene, height) + size * (0.75 + 0.35 * scene[:, 2])
    box = _extent(body.circles[:, PART["seat"] + 1 :] * np.array([1, -1, 1])) * size[:, None]  # relative to (x, y)
    low_x, high_x = 2 - box[:, 0], width - 2 - box[:, 0] - box[:, 2]
    low_y, high_y = 2 - box[:, 1], height - 2 - box[:, 1] - box[:, 3]
    x_in = np.where(low_x <= high_x, np.clip(x, low_x, high_x), (low_x + high_x) / 2)
    y_in = np.where(low_y <= high_y, np.clip(y, low_y, high_y), (low_y + high_y) / 2)
    outside = 0.15 + 0.5 * draws[:, 14]  # share of the box beyond the edge
    x_cut = np.where(edge == 0, -box[:, 0] - outside * box[:, 2], width - box[:, 0] - (1 - outside) * box[:, 2])
    y_cut = height - box[:, 1] - (1 - outside) * box[:, 3]
    return np.stack(
        [
            np.where(crowd, x, np.where(cut & (edge < 2), x_cut, x_in)),
            np.where(crowd, y, np.where(cut & (edge == 2), y_cut, y_in)),
            size,
        ],
        axis=1,
    )


def horizon(scene: Floats, height: int) -> Floats:
    """(N,) row of the horizon, px, from the scene's numbers (N, 8)."""
    row: Floats = height * (0.22 + 0.25 * scene[:, 1])
    return row


def _things(drawn: list[Floats], place: Floats, per_image: Ints) -> tuple[Floats, Ints, Ints, Floats]:
    """Objects in front of people: circles (T, 4, 3) px, their image, kind (as in `Block`) and depth."""
    counts = np.array([len(d) for d in drawn], np.int64)
    u = np.concatenate([*drawn, np.empty((0, 6))])
    image = np.repeat(np.arange(len(drawn)), counts)
    start = np.cumsum(per_image) - per_image
    people = np.maximum(per_image[image], 1)
    x, y, size = place[start[image] + (u[:, 0] * people).astype(np.int64)].T if len(u) else np.empty((3, 0))
    kind = (u[:, 1] * len(OBJECTS)).astype(np.int64)
    wide = size * (0.14 + 0.3 * u[:, 2])
    tall = np.where(kind == OBJECTS.index("ball"), wide, size * (0.12 + 0.36 * u[:, 3]))
    foot = np.stack([x + size * 0.7 * (u[:, 4] - 0.5), y + size * (0.01 + 0.03 * u[:, 5])], axis=1)
    circles = _OBJECT_PARTS[kind].copy()  # (M, 5, 4, 3)
    circles[..., 0] = circles[..., 0] * wide[:, None, None] + foot[:, 0, None, None]
    circles[..., 1] = -circles[..., 1] * tall[:, None, None] + foot[:, 1, None, None]
    circles[..., 2] *= np.minimum(wide, tall)[:, None, None]
    parts = circles.shape[1]
    depth = np.repeat(size * (1 + 1e-9 * (1 + u[:, 5])), parts)
    return circles.reshape(-1, 4, 3), np.repeat(image, parts), np.repeat(kind + len(PARTS), parts), depth


# ---------------------------------------------------------------------------------------------------- painting


def paint(scene: Block, image: int, scale: int = 1) -> NDArray[np.int32]:
    """(W × scale, H × scale) of the part on top at each pixel: 1 + its row in the image's parts; 0 is background.

    Column-major like COCO's masks: the transpose of an image array. `scale` subdivides each pixel.
    """
    width, height = (side * scale for side in scene.options.size)
    start, stop = np.searchsorted(scene.part_image, (image, image + 1))
    circles = scene.circles[start:stop]
    if scale > 1:
        circles = circles * scale
        circles[..., :2] += (scale - 1) / 2  # the centre of a pixel is the centre of its scale × scale cells
    part, row, low, high = _spans(circles, _IS_WIDE[scene.part_kind[start:stop]], width, height)
    length = high - low + 1
    label = np.zeros(width * height, np.int32)
    begin = np.cumsum(length) - length
    column = np.arange(int(length.sum())) + np.repeat(low - begin, length)
    # Of repeated indices the last assignment stays: parts come back to front.
    label[column * height + np.repeat(row, length)] = np.repeat((part + 1).astype(np.int32), length)
    return label.reshape(width, height)


def _spans(circles: Floats, wide: NDArray[np.bool_], width: int, height: int) -> tuple[Ints, Ints, Ints, Ints]:
    """The rows of pixels inside each hull: part, row, first and last column, (R,) each, in the order of the parts."""
    top = np.clip(np.ceil((circles[..., 1] - circles[..., 2]).min(1)), 0, height)
    bottom = np.clip(np.floor((circles[..., 1] + circles[..., 2]).max(1)), -1, height - 1)
    count = np.maximum(bottom - top + 1, 0).astype(np.int64)
    part = np.repeat(np.arange(len(circles)), count)
    row = np.arange(len(part)) + np.repeat(top.astype(np.int64) - (np.cumsum(count) - count), count)
    low, high = np.full(len(part), np.inf), np.full(len(part), -np.inf)
    for chosen, corners in ((~wide, (0, 2)), (wide, (0, 1, 2, 3))):
        where = np.flatnonzero(chosen[part])
        low[where], high[where] = _interval(circles[:, corners], part[where], row[where])
    first = np.clip(np.ceil(low), 0, width).astype(np.int64)
    last = np.clip(np.floor(high), -1, width - 1).astype(np.int64)
    kept = first <= last
    return part[kept], row[kept], first[kept], last[kept]


def _interval(circles: Floats, part: Ints, row: Ints) -> tuple[Floats, Floats]:
    """Left and right end (R,) of row `row` inside the hull of the circles (T, M, 3) of part `part`; inf, -inf: none.

    The outline consists of arcs of the circles and of segments that touch two of them; all circles and all segments lie
    inside the hull, so the widest of their crossings with the row are the outline's.
    """
    low, high = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for x, y, r in np.moveaxis(circles, 0, -1):  # (T,) each: a loop over the two or four circles of a hull
        room = np.square(r)[part] - np.square(row - y[part])
        on, middle = room >= 0, x[part]
        half = np.sqrt(np.maximum(room, 0))
        low = np.minimum(low, np.where(on, middle - half, np.inf))
        high = np.maximum(high, np.where(on, middle + half, -np.inf))
    for i, j in combinations(range(circles.shape[1]), 2):
        for x0, y0, slope, top, bottom in _tangents(circles[:, i], circles[:, j]):
            on = (row >= top[part]) & (row <= bottom[part])
            cross = x0[part] + slope[part] * (row - y0[part])
            low = np.minimum(low, np.where(on, cross, np.inf))
            high = np.maximum(high, np.where(on, cross, -np.inf))
    return low, high


def _tangents(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The two outer segments that touch circles a and b (T, 3), each (5, T): x0, y0, slope dx / dy, least and most y.

    It holds no row where one circle lies inside the other, or where it is level: then its ends, which the circles give,
    are all that matters.
    """
    axis = b[:, :2] - a[:, :2]
    distance = np.hypot(axis[:, 0], axis[:, 1])
    sides = []
    with np.errstate(divide="ignore", invalid="ignore"):
        along = axis / distance[:, None]
        cos = (a[:, 2] - b[:, 2]) / distance
        sin = np.sqrt(1 - np.square(cos))  # NaN where |cos| > 1
        for sign in (sin, -sin):
            normal_x = cos * along[:, 0] - sign * along[:, 1]
            normal_y = cos * along[:, 1] + sign * along[:, 0]
            x0, y0 = a[:, 0] + a[:, 2] * normal_x, a[:, 1] + a[:, 2] * normal_y
            x1, y1 = b[:, 0] + b[:, 2] * normal_x, b[:, 1] + b[:, 2] * normal_y
            slope = (x1 - x0) / (y1 - y0)
            level = ~np.isfinite(slope)
            top, bottom = np.where(level, np.inf, np.minimum(y0, y1)), np.maximum(y0, y1)
            sides.append(np.stack([x0, y0, np.where(level, 0.0, slope), top, bottom]))
    return sides[0], sides[1]
