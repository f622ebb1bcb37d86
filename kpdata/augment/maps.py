"""What every transform shares: the protocol, and the one function that takes a `Sample` through a map of the plane."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdata.augment import kernels
from kpdata.augment.image import BLACK, Border, warp
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError


class Transform(Protocol):
    """What `Compose`, `Maybe` and `OneOf` take."""

    def draw(self, sample: Sample, rng: np.random.Generator) -> Any: ...

    def apply(self, sample: Sample, drawn: Any) -> Sample: ...

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


@runtime_checkable
class Geometric(Transform, Protocol):
    """A transform that is a map of the plane."""

    def matrix(self, sample: Sample, drawn: Any) -> Floats: ...

    def size_after(self, sample: Sample, drawn: Any) -> Size: ...


def move(
    sample: Sample,
    matrix: ArrayLike,
    size: Size,
    border: Border | None = None,
    *,
    antialias: bool = True,
    diffuse: bool = True,
) -> Sample:
    """The sample after a map, its picture `size` (W, H) px: one warp of the picture, all targets with it.

    - keypoints move, absent ones too (NaN stays NaN); visibility stays; a map that mirrors swaps left and right
      (SkeletonError where the twins are not known).
    - boxes become the extent of their warped corners; `area` follows the determinant, and where a person has a mask,
      the share of it that the picture still shows.
    - `center` moves as a point and `scale` by the map's factors; polygons move and are not cut.
    - `matrix` and `mirrored` account for it.

    border: what lies beyond the picture (black unless given). antialias, diffuse: see `image.warp`.
    """
    m = kernels.check_matrix(matrix)
    targets = targets_after(sample, m, size)
    image = warp(sample.image, m, size, border or BLACK, antialias=antialias, diffuse=diffuse)
    return sample.changed(image=image, **targets)


def frames(sample: Sample) -> tuple[Floats, Floats, Floats, Floats]:
    """bbox, area, center and scale of a sample: never None, since Sample fills in NaN."""
    values = (sample.bbox, sample.area, sample.center, sample.scale)
    return cast("tuple[Floats, Floats, Floats, Floats]", values)


def targets_after(sample: Sample, m: Floats, size: Size) -> dict[str, Any]:
    """All fields of a sample but its picture, after a map to a picture of `size` (W, H): see `move`."""
    bbox, area, center, scale = frames(sample)
    keypoints, visibility, mirrored = kernels.warp_keypoints(sample.keypoints, m), sample.visibility, kernels.mirrors(m)
    if mirrored:
        order = sample.skeleton.flip_index()
        keypoints, visibility = keypoints[:, order], visibility[:, order]
    middle = bbox[:, :2] + bbox[:, 2:] / 2 - 0.5
    area, masks, polygons = kernels.warp_area(area, m, at=middle), sample.masks, sample.polygons
    if masks is not None:
        before, masks = masks, kernels.warp_masks(masks, m, size)
        area = area * _mask_shares(before, masks, m, middle)
    if polygons is not None:
        polygons = tuple(kernels.warp_polygons(outlines, m) for outlines in polygons)
    return {
        "keypoints": keypoints, "visibility": visibility, "bbox": kernels.warp_boxes(bbox, m), "area": area,
        "center": kernels.warp_keypoints(center, m),
        "scale": kernels.warp_extent(scale, m, at=center),
        "masks": masks, "polygons": polygons,
        "matrix": m @ sample.matrix, "mirrored": sample.mirrored != mirrored,
    }  # fmt: skip


def _mask_shares(before: NDArray[np.bool_], after: NDArray[np.bool_], m: Floats, middle: Floats) -> Floats:
    """(P,) share of each mask that the picture still shows; 1 for a person without a mask."""
    was, now = before.sum(axis=(1, 2)), after.sum(axis=(1, 2))
    full = kernels.warp_area(was.astype(np.float64), m, at=middle)
    shares: Floats = np.divide(now, full, out=np.ones(len(was)), where=was > 0)
    return shares


def apply_map(self: Geometric, sample: Sample, drawn: Any) -> Sample:
    """The sample after the map that was drawn."""
    m, size = self.matrix(sample, drawn), self.size_after(sample, drawn)
    return sample if size == sample.size and np.array_equal(m, np.eye(3)) else move(sample, m, size)


class Bordered(Geometric, Protocol):
    @property
    def border(self) -> Border | None: ...


def apply_bordered(self: Bordered, sample: Sample, drawn: Any) -> Sample:
    """The sample after the map that was drawn, `border` beyond its old picture."""
    return move(sample, self.matrix(sample, drawn), self.size_after(sample, drawn), self.border)


def call(self: Transform, sample: Sample, rng: np.random.Generator) -> Sample:
    """Draw the parameters and apply them."""
    return self.apply(sample, self.draw(sample, rng))


def same_size(self: object, sample: Sample, drawn: Any) -> Size:
    """The picture keeps its size."""
    return sample.size


def check_p(where: str, **chances: float) -> None:
    for name, value in chances.items():
        if not 0 <= value <= 1:
            raise SchemaError(f"{where}: {name} {value!r}, expected a probability of 0 to 1")


def check_members(where: str, transforms: Iterable[object]) -> None:
    """SchemaError that names `where`, unless each can draw, apply and be called."""
    for transform in transforms:
        if not (callable(transform) and all(callable(getattr(transform, name, None)) for name in ("draw", "apply"))):
            raise SchemaError(
                f"{where}: {transform!r} is no transform: it needs draw(sample, rng), apply(sample, drawn) and a call"
            )


def check_amounts(where: str, **amounts: float) -> None:
    for name, value in amounts.items():
        if not 0 <= value < math.inf:
            raise SchemaError(f"{where}: {name} {value!r}, expected 0 or more")


def check_size(where: str, size: Size) -> None:
    """SchemaError that names `where`, unless size is (width, height) in whole px, at least 1."""
    if not (
        isinstance(size, tuple) and len(size) == 2 and all(isinstance(n, int | np.integer) and n >= 1 for n in size)
    ):
        raise SchemaError(f"{where}: size {size!r}, expected (width, height) in whole px, at least 1")
