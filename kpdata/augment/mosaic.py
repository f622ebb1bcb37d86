"""Several pictures side by side in one, with everybody's labels.

Mosaics come from object detection (Bochkovskiy et al., YOLOv4, arXiv:2004.10934) and serve detectors of people and
bottom-up models, which see whole pictures. No top-down recipe uses them, nor pasted people: a top-down network sees one
crop at a time, which a mosaic leaves as it was, only smaller. For pasting people from other pictures see
`kpdata.augment.paste`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpdata.augment import kernels
from kpdata.augment.image import Border
from kpdata.augment.kernels import Size
from kpdata.augment.maps import move
from kpdata.augment.occlusion import Covered, Floats, Ints, Mask, Range, check_covered, check_look, check_range, hide
from kpdata.augment.sample import Sample
from kpdata.augment.samples import PER_PERSON
from kpdata.errors import SchemaError
from kpdata.geometry import clip_boxes

_GREY = (114, 114, 114)  # of YOLO's letterboxes
_LINES = 0.4  # the farthest that an inner line may move, in tiles: neighbours then never meet
_SMALLEST = 8  # px of a tile before the lines move


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """What `Mosaic` drew. members (T,): rows of the pool, one more than needed; place: the tile of the sample itself.

    edges (T, 4): x0, y0, x1, y1 of each tile, px; slack (T, 2) 0 to 1: where in its tile a picture lies; zoom (T,).
    """

    members: Ints
    place: int
    edges: Ints
    slack: Floats
    zoom: Floats


@dataclass(frozen=True, slots=True)
class Mosaic:
    """The sample and others of a pool as one picture of `size` (W, H) px: layout (rows, columns) of tiles.

    pool: the samples to choose from, without repeating one; any sequence, which may load them when asked (a picture
    with the sample's own `image_id` is replaced by another). lines: how far the lines between the tiles move, at most,
    in tiles, up to 0.4. fit: a picture is scaled so that it lies whole in its tile ("contain", the rest is `fill`) or
    fills it ("cover", the tile cuts it); where it lies, or is cut, is drawn. zoom: least and most factor on top.

    A tile is a picture of its own: what lies beyond its edge is not seen. `outside` says what becomes of labelled
    keypoints that the tile cuts off: "absent" (the default; the coordinate stays as data), "occluded", or "keep", which
    lets a label point into a neighbour's picture. Boxes are cut to the tile, polygons and masks too. The area follows
    the scale; where a person has a mask or polygons, also their share that is still seen. People of whom nothing is
    left in their tile leave.

    The result has no `image_id`, and its `matrix` is NaN: there is no single picture to go back to. annotation ids
    stay, in the order of the tiles. `extras["mosaic"]` says where all is from: `image_ids` and `tiles` (x0, y0, x1, y1)
    of each tile, row by row; `matrices` (T, 3, 3) from the pictures as they were read; `mirrored` (T,); `tile` (P,) and
    `row` (P,) of each person: the tile, and the row in its sample; `extras`: those of the samples. What these hold of
    each person (`samples.PER_PERSON`) is joined where all have it.

    SchemaError for options out of range, a pool of fewer pictures than tiles, samples of several skeletons, and
    ids, masks or polygons that some of the samples with people have and others lack.
    """

    pool: Sequence[Sample]
    size: Size
    layout: tuple[int, int] = (2, 2)
    lines: float = 0.25
    fit: Literal["contain", "cover"] = "contain"
    zoom: Range = (1.0, 1.0)
    fill: tuple[int, int, int] = _GREY
    outside: Covered = "absent"

    def __post_init__(self) -> None:
        if not isinstance(self.fill, tuple):
            raise SchemaError(f"fill={self.fill!r}, expected a colour (r, g, b) of whole numbers 0 to 255")
        check_look(self.fill, self.outside)
        check_range("zoom", self.zoom, 0.05)
        if not isinstance(self.lines, int | float) or not 0 <= self.lines <= _LINES:
            raise SchemaError(f"lines={self.lines!r}, expected a number from 0 to {_LINES}")
        for name, pair in (("layout", self.layout), ("size", self.size)):
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int and n > 0 for n in pair)):
                raise SchemaError(f"{name}={pair!r}, expected two whole numbers above 0")
        rows, columns = self.layout
        if self.fit not in ("contain", "cover"):
            raise SchemaError(f"fit={self.fit!r}, expected 'contain' or 'cover'")
        if self.size[0] < _SMALLEST * columns or self.size[1] < _SMALLEST * rows:
            raise SchemaError(
                f"size={self.size!r}, expected at least {_SMALLEST} px for each of {columns} x {rows} tiles"
            )
        if len(self.pool) < rows * columns:
            raise SchemaError(f"a pool of {len(self.pool)} pictures for {rows * columns} tiles", hint="give it more")

    def draw(self, sample: Sample, rng: np.random.Generator) -> Tiles:
        """Which pictures, and where they lie; no picture is looked at."""
        rows, columns = self.layout
        count = rows * columns
        x, y = (_lines(side, n, self.lines, rng) for side, n in ((self.size[0], columns), (self.size[1], rows)))
        left, top = np.tile(np.arange(columns), rows), np.repeat(np.arange(rows), columns)
        edges = np.stack([x[left], y[top], x[left + 1], y[top + 1]], axis=1)
        members = rng.choice(len(self.pool), count, replace=False)
        place = int(rng.integers(count))
        return Tiles(members, place, edges, rng.random((count, 2)), rng.uniform(*self.zoom, count))

    def apply(self, sample: Sample, drawn: Tiles) -> Sample:
        """The mosaic."""
        samples = self._members(sample, drawn)
        matrices = [
            _placement(one.size, edges, self.fit, float(zoom), slack)
            for one, edges, zoom, slack in zip(samples, drawn.edges, drawn.zoom, drawn.slack, strict=True)
        ]
        return mosaic(samples, matrices, drawn.edges, self.size, fill=self.fill, outside=self.outside)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))

    def _members(self, sample: Sample, drawn: Tiles) -> list[Sample]:
        """The sample at its place among others of the pool; pictures are loaded only as far as they are needed."""
        others: list[Sample] = []
        for row in drawn.members.tolist():
            if len(others) == len(drawn.edges) - 1:
                break
            member = self.pool[row]
            if sample.image_id is None or member.image_id != sample.image_id:
                others.append(member)
        if len(others) < len(drawn.edges) - 1:
            raise SchemaError(
                f"image {sample.image_id} stands in the pool more than once: {len(others)} others, expected "
                f"{len(drawn.edges) - 1}",
                hint="each image once",
            )
        return [*others[: drawn.place], sample, *others[drawn.place :]]


def _lines(side: int, count: int, lines: float, rng: np.random.Generator) -> Ints:
    """(count + 1,) px: the edges of `count` tiles along a side; the inner ones move by up to `lines` tiles."""
    edges = np.arange(count + 1) * side / count
    edges[1:-1] += rng.uniform(-lines, lines, count - 1) * side / count
    return np.rint(edges).astype(np.int64)


def _placement(size: Size, edges: Ints, fit: str, zoom: float, slack: Floats) -> Floats:
    """(3, 3) pixel of a picture of (W, H) -> pixel of the mosaic."""
    tile, own = (edges[2:] - edges[:2]).astype(np.float64), np.array(size, np.float64)
    factor = zoom * float((tile / own).min() if fit == "contain" else (tile / own).max())
    first = edges[:2] + slack * (tile - factor * own)  # continuous edges: half a pixel off the pixels' centres
    return kernels.translate(first[0] - 0.5, first[1] - 0.5) @ kernels.scale(factor) @ kernels.translate(0.5, 0.5)


# ------------------------------------------------------------------------------------------------------------- kernels


def mosaic(
    samples: Sequence[Sample],
    matrices: Sequence[Floats],
    edges: NDArray[np.integer],
    size: Size,
    *,
    fill: tuple[int, int, int] = _GREY,
    outside: Covered = "absent",
) -> Sample:
    """T samples as one of `size` (W, H) px; see `Mosaic` for labels, `extras` and errors.

    matrices: T of (3, 3), pixel of the sample -> pixel of the mosaic; edges (T, 4): x0, y0, x1, y1 of the tiles, px,
    within the picture and at least 1 px wide and high.
    """
    check_covered(outside)
    skeletons = {sample.skeleton.name for sample in samples}
    if not samples or any(sample.skeleton != samples[0].skeleton for sample in samples):
        raise SchemaError(f"samples of the skeletons {sorted(skeletons)}, expected one")
    whole = [name for name in ("annotation_ids", "masks", "polygons") if _all_have(samples, name)]
    tiles, kept = [], []
    for sample, matrix, (x0, y0, x1, y1) in zip(samples, matrices, np.asarray(edges).tolist(), strict=True):
        to_tile, tile_size = kernels.translate(-x0, -y0) @ matrix, (x1 - x0, y1 - y0)
        # A picture that fills its tile must not fade into the fill at the rim, as bilinear weights would have it.
        border: Border = "replicate" if _fills(sample.size, to_tile, tile_size) else fill
        local = move(sample, to_tile, tile_size, border)
        cut, rows = _cut(sample, local, outside)
        tiles.append(_shifted(cut, x0, y0))
        kept.append(rows)
    width, height = size
    image = np.full((height, width, 3), np.array(fill, np.uint8))
    for tile, (x0, y0, x1, y1) in zip(tiles, np.asarray(edges).tolist(), strict=True):
        image[y0:y1, x0:x1] = tile.image
    notes = _notes(samples, tiles, kept, np.asarray(edges))
    return Sample(
        image=image,
        skeleton=samples[0].skeleton,
        matrix=np.full((3, 3), np.nan),
        extras=notes,
        **_joined(tiles, whole, edges, size),
    )


def _joined(tiles: Sequence[Sample], whole: Sequence[str], edges: NDArray[np.integer], size: Size) -> dict[str, Any]:
    """The people's columns of all tiles, one after the other; `whole`: the optional ones that there are."""
    values: dict[str, Any] = {
        name: np.concatenate([getattr(tile, name) for tile in tiles])
        for name in ("keypoints", "visibility", "bbox", "area", "center", "scale")
    }
    if "annotation_ids" in whole:
        none = np.zeros(0, np.int64)
        values["annotation_ids"] = np.concatenate(
            [none if t.annotation_ids is None else t.annotation_ids for t in tiles]
        )
    if "polygons" in whole:
        values["polygons"] = tuple(person for tile in tiles for person in tile.polygons or ())
    if "masks" in whole:
        values["masks"] = _masks(tiles, edges, size)
    return values


def _fills(size: Size, matrix: Floats, tile: Size) -> bool:
    """A picture of (W, H) leaves nothing of the tile (W', H') free; False for maps that turn."""
    if matrix[0, 1] or matrix[1, 0]:
        return False
    x, y, width, height = kernels.warp_boxes(np.array([0.0, 0, *size]), matrix).tolist()
    return bool(max(x, y) < 1e-6 and x + width > tile[0] - 1e-6 and y + height > tile[1] - 1e-6)


def _all_have(samples: Sequence[Sample], name: str) -> bool:
    """Every sample with people has this optional column; SchemaError where only some have."""
    has = [getattr(sample, name) is not None for sample in samples if len(sample.keypoints)]
    if any(has) and not all(has):
        hint = f"give {name} to all samples of a mosaic, or to none"
        raise SchemaError(f"Sample.{name}: {sum(has)} of {len(has)} samples with people have it", hint=hint)
    return any(has)


def _cut(sample: Sample, tile: Sample, outside: Covered) -> tuple[Sample, Ints]:
    """What the tile, a picture of its own, leaves of its people, and (P',) the rows of those who stay."""
    size = tile.size
    bbox, beyond = np.asarray(tile.bbox), kernels.outside(tile.keypoints, size)  # (P, 4), (P, K)
    labelled = tile.visibility > 0
    far, low = bbox[:, :2] + bbox[:, 2:], bbox[:, :2]
    boxed = np.isfinite(bbox).all(1)
    inside = ((far > 0) & (low < size)).all(1) | ((low >= 0) & (far <= size)).all(1)
    unseen = labelled.any(1) & ~(labelled & ~beyond).any(1)
    rows = np.flatnonzero(np.where(boxed, inside, ~unseen))
    area, polygons = np.asarray(tile.area), tile.polygons
    if polygons is not None:
        polygons = tuple(kernels.cut_polygons(person, size) for person in polygons)
        if tile.masks is None:
            area = area * _outline_shares(tile.polygons or (), polygons)
        polygons = tuple(polygons[row] for row in rows)
    optional = {name: getattr(tile, name) for name in ("masks", "annotation_ids")}
    values = {name: None if value is None else value[rows] for name, value in optional.items()}
    return tile.changed(
        keypoints=tile.keypoints[rows],
        visibility=hide(tile.visibility, beyond, outside)[rows],
        bbox=clip_boxes(bbox, *size)[rows],
        area=area[rows],
        center=np.asarray(tile.center)[rows],
        scale=np.asarray(tile.scale)[rows],
        polygons=polygons,
        **values,
    ), rows


def _outline_shares(before: Sequence[Sequence[Floats]], after: Sequence[Sequence[Floats]]) -> Floats:
    """(P,) share of each person's polygons that is left; 1 for a person without."""
    was, now = (np.array([sum(map(_outline_area, person)) for person in people]) for people in (before, after))
    shares: Floats = np.divide(now, was, out=np.ones(len(was)), where=was > 0)
    return shares


def _outline_area(points: Floats) -> float:
    """Square px inside a polygon (n, 2), by the shoelace formula."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _shifted(tile: Sample, x: int, y: int) -> Sample:
    """The labels in the pixels of the mosaic; picture and masks stay those of the tile."""
    offset = np.array([x, y], np.float64)
    polygons = tile.polygons
    if polygons is not None:
        polygons = tuple(tuple(polygon + offset for polygon in person) for person in polygons)
    return tile.changed(
        keypoints=tile.keypoints + offset,
        bbox=np.asarray(tile.bbox) + np.array([x, y, 0, 0]),
        center=np.asarray(tile.center) + offset,
        polygons=polygons,
        matrix=kernels.translate(x, y) @ tile.matrix,
    )


def _masks(tiles: Sequence[Sample], edges: NDArray[np.integer], size: Size) -> Mask:
    """(P, H, W) bool: the tiles' masks at their places."""
    out = np.zeros((sum(len(tile.keypoints) for tile in tiles), size[1], size[0]), bool)
    start = 0
    for tile, (x0, y0, x1, y1) in zip(tiles, np.asarray(edges).tolist(), strict=True):
        stop = start + len(tile.keypoints)
        if tile.masks is not None:
            out[start:stop, y0:y1, x0:x1] = tile.masks
        start = stop
    return out


def _notes(samples: Sequence[Sample], tiles: Sequence[Sample], kept: Sequence[Ints], edges: Ints) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "mosaic": {
            "image_ids": tuple(sample.image_id for sample in samples),
            "tiles": edges.astype(np.int64),
            "matrices": np.stack([tile.matrix for tile in tiles]),
            "mirrored": np.array([tile.mirrored for tile in tiles]),
            "tile": np.repeat(np.arange(len(kept)), [len(rows) for rows in kept]),
            "row": np.concatenate(kept),
            "extras": tuple(sample.extras for sample in samples),
        }
    }
    for name in PER_PERSON:
        if all(name in sample.extras for sample in samples):
            columns = [np.asarray(s.extras[name])[rows] for s, rows in zip(samples, kept, strict=True)]
            extras[name] = np.concatenate(columns)
    return extras
