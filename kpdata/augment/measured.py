"""What a recipe did to samples, in numbers, beside what it says it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.recipes import Recipe, Spread
from kpdata.augment.sample import Floats

CHANCE = 4.0
"""Standard errors that chance may explain: 1 line in 16,000 goes beyond."""
_LOOSE = 1.002  # UDP's factors in x and y differ by a thousandth: a turn measured from the map does too


@dataclass(frozen=True, slots=True)
class Draws:
    """What happened to M samples of one person each; arrays (M,). NaN: not to be told for this sample."""

    flipped: NDArray[np.bool_]
    turn: Floats  # degrees, 0 where not turned; from the map
    scale: Floats  # of the crop, 1 as the box says; above 1 more around it is seen
    shift: Floats  # (M, 2) of the crop's centre, in crop widths and heights; NaN for half bodies
    half: NDArray[np.bool_]  # the crop shows half a body,
    upper: NDArray[np.bool_]  # the upper one
    may_half: NDArray[np.bool_]  # has so many labelled keypoints that the recipe considers it
    either: NDArray[np.bool_]  # and either half has enough
    labelled: NDArray[np.int64]  # keypoints
    lost: NDArray[np.int64]  # of them, outside of the crop
    lost_plain: NDArray[np.int64]  # the same without augmentation
    covered: NDArray[np.int64]  # keypoints that something hid

    @classmethod
    def joined(cls, parts: Sequence[Draws]) -> Draws:
        """Several as one; at least one."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class Line:
    """A number as it was drawn and as the recipe has it (None: it says nothing); `of`: how many it rests on.

    agrees: the difference is within four standard errors, a largest amount within its limit; None: nothing to compare.
    """

    what: str
    drawn: float
    recipe: float | None
    of: int
    agrees: bool | None


def compare(recipe: Recipe, draws: Draws) -> list[Line]:
    """What was drawn beside the recipe's numbers, and what became of labelled points. No occasion: no line."""
    shifts = draws.shift[np.isfinite(draws.shift).all(1)]
    lines = [
        share("flipped", draws.flipped, recipe.flip),
        *amounts("turned", "degrees", draws.turn, recipe.rotation),
        *amounts("scaled", "1 ±", draws.scale - 1, recipe.scale),
        *amounts("shifted", "crop sides", shifts, recipe.shift),
        share("half body, of those labelled enough", draws.half[draws.may_half], recipe.half_body),
        share("upper half, of half bodies", draws.upper[draws.half & draws.either], recipe.upper),
        *_points(draws),
    ]
    return [line for line in lines if line.of]


def share(what: str, hits: NDArray[np.bool_], p: float) -> Line:
    """How often something happened, beside its probability; NaN where there was no occasion."""
    n = len(hits)
    if not n:
        return Line(what, math.nan, p, 0, None)
    drawn, error = float(hits.mean()), math.sqrt(p * (1 - p) / n)
    return Line(what, drawn, p, n, abs(drawn - p) <= CHANCE * error + 1e-12)


def amounts(what: str, unit: str, drawn: Floats, expected: Spread) -> list[Line]:
    """Lines on an amount: how often it was drawn, its mean size and its largest. drawn (M,) or (M, 2): 0 where not."""
    table = np.abs(drawn.reshape(len(drawn), -1))
    there: NDArray[np.bool_] = table.max(axis=1, initial=0.0) > 1e-9
    often = share(what, there, expected.p if expected.factor else 0.0)
    sizes = table[there].reshape(-1)
    if not expected.factor or not len(sizes):
        return [often]
    mean, deviation = expected.size()
    found, largest = float(sizes.mean()), float(sizes.max())
    error = CHANCE * deviation / math.sqrt(len(sizes)) + (_LOOSE - 1) * mean
    return [
        often,
        Line(f"{what}: mean size, {unit}", found, mean, len(sizes), abs(found - mean) <= error),
        Line(f"{what}: largest, {unit}", largest, expected.limit, len(sizes), largest <= expected.limit * _LOOSE),
    ]


def _points(draws: Draws) -> list[Line]:
    """Shares of labelled points; no recipe says how many may be lost."""
    labelled = int(draws.labelled.sum())
    counts = (
        ("points outside of the crop", draws.lost),
        ("points outside, if not augmented", draws.lost_plain),
        ("points hidden by the recipe", draws.covered),
    )
    return [Line(what, float(n.sum()) / labelled, None, labelled, None) for what, n in counts if labelled]
