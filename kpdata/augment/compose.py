"""Transforms put together: by chance, by choice, one after the other, and chains of maps fused to one resampling."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from kpdata.augment import kernels
from kpdata.augment.image import Border, check_border
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.maps import Geometric, Transform, call, check_members, check_p, move, targets_after
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError


def is_geometric(transform: Transform) -> TypeGuard[Geometric]:
    """It can be a member of `Geometry`: it has a matrix, and so have all that it may choose from."""
    if isinstance(transform, Maybe):
        return is_geometric(transform.transform)
    if isinstance(transform, OneOf):
        return all(map(is_geometric, transform.transforms))
    return isinstance(transform, Geometric)


@dataclass(frozen=True, slots=True)
class Maybe:
    """`transform` with probability p, else nothing."""

    transform: Transform
    p: float = 0.5

    def __post_init__(self) -> None:
        check_members("Maybe", [self.transform])
        check_p("Maybe", p=self.p)

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[Any, ...]:
        """What was drawn, in a tuple; an empty one for nothing."""
        return (self.transform.draw(sample, rng),) if rng.random() < self.p else ()

    def matrix(self, sample: Sample, drawn: tuple[Any, ...]) -> Floats:
        """(3, 3) of the transform or of nothing. SchemaError where it is not geometric."""
        return _geometric(self.transform).matrix(sample, *drawn) if drawn else kernels.identity()

    def size_after(self, sample: Sample, drawn: tuple[Any, ...]) -> Size:
        """The size after the transform or nothing. SchemaError where it is not geometric."""
        return _geometric(self.transform).size_after(sample, *drawn) if drawn else sample.size

    def apply(self, sample: Sample, drawn: tuple[Any, ...]) -> Sample:
        """The transformed sample, or the sample itself."""
        return self.transform.apply(sample, *drawn) if drawn else sample

    __call__ = call


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of the transforms; weights: how likely each is, even unless given."""

    transforms: Sequence[Transform]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        check_members("OneOf", self.transforms)
        weights = self.weights or (1.0,) * len(self.transforms)
        if not self.transforms or len(weights) != len(self.transforms) or min(weights) < 0 or not sum(weights):
            raise SchemaError(
                f"OneOf: {len(self.transforms)} transforms, weights {weights}; expected one each, not all 0"
            )

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[int, Any]:
        """Which one, and what it drew."""
        shares = np.cumsum(self.weights or (1.0,) * len(self.transforms))
        chosen = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
        return chosen, self.transforms[chosen].draw(sample, rng)

    def matrix(self, sample: Sample, drawn: tuple[int, Any]) -> Floats:
        """(3, 3) of the one. SchemaError where it is not geometric."""
        return _geometric(self.transforms[drawn[0]]).matrix(sample, drawn[1])

    def size_after(self, sample: Sample, drawn: tuple[int, Any]) -> Size:
        """The size after the one. SchemaError where it is not geometric."""
        return _geometric(self.transforms[drawn[0]]).size_after(sample, drawn[1])

    def apply(self, sample: Sample, drawn: tuple[int, Any]) -> Sample:
        """The sample after the one."""
        return self.transforms[drawn[0]].apply(sample, drawn[1])

    __call__ = call


def _geometric(transform: Transform) -> Geometric:
    if not is_geometric(transform):
        raise SchemaError(f"{type(transform).__name__} is not a map of the plane: it has no matrix")
    return transform


@dataclass(frozen=True, slots=True)
class Geometry:
    """Geometric transforms one after the other, fused to one map: pixels are resampled once, at the last one's size.

    border, antialias: of that one resampling (`image.warp`); border None: what the members say, which must agree.
    SchemaError for a member that is not geometric, and for members with different borders.
    """

    transforms: Sequence[Geometric]
    border: Border | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        for transform in self.transforms:
            _geometric(transform)
        check_border("Geometry", self.border)
        if self.border is None:
            object.__setattr__(self, "border", _common_border(self.transforms))

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[Any, ...]:
        """What each member drew, each for the sample as the members before leave it."""
        drawn, state = [], sample
        for transform in self.transforms:
            drawn.append(transform.draw(state, rng))
            state = _outlined(state, transform.matrix(state, drawn[-1]), transform.size_after(state, drawn[-1]))
        return tuple(drawn)

    def matrix(self, sample: Sample, drawn: tuple[Any, ...]) -> Floats:
        """(3, 3) of all members together."""
        return self._fused(sample, drawn)[0]

    def size_after(self, sample: Sample, drawn: tuple[Any, ...]) -> Size:
        """The size after the last member."""
        return self._fused(sample, drawn)[1]

    def _fused(self, sample: Sample, drawn: tuple[Any, ...]) -> tuple[Floats, Size]:
        total, state = kernels.identity(), sample
        for transform, values in zip(self.transforms, drawn, strict=True):
            m, size = transform.matrix(state, values), transform.size_after(state, values)
            total, state = m @ total, _outlined(state, m, size)
        return total, state.size

    def apply(self, sample: Sample, drawn: tuple[Any, ...]) -> Sample:
        """The sample after all members, resampled once."""
        plain = not self.antialias  # then as the official recipes warp, in every respect
        return move(sample, *self._fused(sample, drawn), self.border, antialias=not plain, diffuse=not plain)

    __call__ = call


def _outlined(sample: Sample, m: Floats, size: Size) -> Sample:
    """The sample after a map without its pixels and outlines: enough to draw the next parameters from."""
    bare = sample.changed(masks=None, polygons=None)
    blank = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))  # no memory
    return bare.changed(image=blank, **targets_after(bare, m, size))


def _common_border(transforms: Sequence[Transform]) -> Border | None:
    """What the members want beyond the picture; None where none says. SchemaError where they differ."""
    found: list[Border] = []
    for transform in transforms:
        inner = transform.transforms if isinstance(transform, OneOf) else ()
        inner = (transform.transform,) if isinstance(transform, Maybe) else inner
        border = _common_border(inner) if inner else getattr(transform, "border", None)
        found += [border] if border is not None and border not in found else []
    if len(found) > 1:
        raise SchemaError(
            f"borders {found} in one map, expected one", hint="give the same border to each, or to Geometry"
        )
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Compose:
    """Transforms one after the other. Geometric neighbours are fused (`Geometry`), so that pixels are resampled once.

    An empty one changes nothing. `steps` shows what is run.
    """

    transforms: Sequence[Transform]
    steps: tuple[Transform, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        check_members("Compose", self.transforms)
        object.__setattr__(self, "steps", tuple(_fuse(self.transforms)))

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The seed of the steps' generator: what a step draws may depend on the picture that the steps before leave."""
        return int(rng.integers(2**63))

    def apply(self, sample: Sample, drawn: int) -> Sample:
        """The sample after all steps."""
        rng = np.random.Generator(np.random.PCG64(drawn))
        for step in self.steps:
            sample = step(sample, rng)
        return sample

    __call__ = call


def _fuse(transforms: Sequence[Transform]) -> Iterator[Transform]:
    for geometric, group in itertools.groupby(transforms, is_geometric):
        members = list(group)
        if geometric and len(members) > 1:
            yield Geometry([_geometric(member) for member in members])
        else:
            yield from members
