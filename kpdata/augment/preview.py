"""A sheet to look at before training: each sample as it is, and beside it what the network will see.

A swap of left and right that was forgotten, points half a limb off, hidden points that count as visible: all of them
are seen at once here. Pillow is imported when a sheet is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.kernels import outside
from kpdata.augment.rng import generator
from kpdata.augment.sample import Floats, Sample
from kpdata.draw import LEFT, MIDDLE, RIGHT, Colour, draw
from kpdata.errors import SchemaError
from kpdata.schema import Visibility

if TYPE_CHECKING:
    from PIL import ImageDraw

Pixels = NDArray[np.uint8]

_PAPER: Colour = (246, 246, 244)
_INK: Colour = (20, 20, 24)
_FADED: Colour = (110, 110, 116)
_GAP, _LINE, _TOP = 10, 15, 30  # px: between pictures, of a line of text, of the legend
_SMALLEST = 64  # px of height: less cannot be judged by eye


def preview(
    samples: Sequence[Sample],
    transform: Callable[[Sample, np.random.Generator], Sample],
    *,
    n: int = 4,
    seed: int = 0,
    titles: Sequence[str] | None = None,
    height: int = 256,
) -> Pixels:
    """A sheet (H, W, 3): a row for each sample, the original on the left, `n` augmented ones on its right.

    transform: anything that takes a sample and a generator; column k of row i is drawn with `generator(seed, k, i)`, so
    that the same seed gives the same sheet. titles: one for each sample. Otherwise as `sheet`, errors too.
    """
    rows = [(s, [transform(s, generator(seed, k, i)) for k in range(n)]) for i, s in enumerate(samples)]
    return sheet(rows, titles=titles, height=height)


def sheet(
    rows: Sequence[tuple[Sample, Sequence[Sample]]], *, titles: Sequence[str] | None = None, height: int = 256
) -> Pixels:
    """The sheet of samples that were augmented already: (original, its augmented ones) for each row.

    Pictures are shrunk or enlarged to `height` px, wide ones to at most twice that width. Sky blue is the person's
    left, orange the right; a ring is occluded; what is absent is not drawn. The text below says what `describe` says.
    SchemaError without rows, with another number of titles, or for a height below 64.
    """
    from PIL import Image, ImageDraw

    if not rows or height < _SMALLEST or (titles is not None and len(titles) != len(rows)):
        raise SchemaError(
            f"{len(rows)} samples, {len(titles or ())} titles, pictures {height} px high: expected a sample, a title "
            f"for each or none, and {_SMALLEST} px or more"
        )
    cells = [[_drawn(sample, height) for sample in (before, *after)] for before, after in rows]
    columns = max(map(len, cells))
    widths = [max(row[c].shape[1] for row in cells if c < len(row)) for c in range(columns)]
    tall = height + 2 * _LINE + _GAP
    canvas = Image.new("RGB", (_GAP + sum(widths) + _GAP * columns, _TOP + len(rows) * tall), _PAPER)
    pen = ImageDraw.Draw(canvas)
    _legend(pen)
    for r, (before, after) in enumerate(rows):
        x, y = _GAP, _TOP + r * tall
        title = titles[r] if titles else f"sample {r}"
        texts = [(title, _points(before)), *(describe(before, sample) for sample in after)]
        for c, (picture, lines) in enumerate(zip(cells[r], texts, strict=True)):
            left, top = x + (widths[c] - picture.shape[1]) // 2, y + (height - picture.shape[0]) // 2
            canvas.paste(Image.fromarray(picture), (left, top))
            _caption(pen, lines, (x + widths[c] / 2, y + height + 2), widths[c], is_name=c == 0)
            x += widths[c] + _GAP
    return np.asarray(canvas).copy()


def describe(before: Sample, after: Sample) -> tuple[str, str]:
    """Two lines on what became of a sample: the map (size, turn, flip, half of the body), and its points."""
    if not np.isfinite(after.matrix).all():  # a mosaic's: it has no one map
        return "several pictures", _points(after)
    scale, turn, mirrored = decompose(after.matrix @ np.linalg.inv(before.matrix))
    half = getattr(after.extras.get("top_down"), "half_body", "")  # the `Crop` that TopDown leaves there
    parts = (
        f"x{scale:.2f}",
        f"{turn:+.0f}°" if abs(turn) >= 0.5 else "",
        "flipped" if mirrored else "",
        f"{half} half" if half else "",
    )
    return "  ".join(part for part in parts if part), _points(after)


def decompose(matrix: Floats) -> tuple[float, float, bool]:
    """(scale, turn, mirrored) of a map (3, 3): root of |determinant|, degrees counter-clockwise in (-180, 180], flip.

    A mirroring map is read as a horizontal flip followed by the turn. Shear has no name of its own: the turn is that of
    the picture's horizontal. A map in perspective is read at the origin.
    """
    linear = np.asarray(matrix, np.float64)[:2, :2] / matrix[2, 2]
    determinant = float(np.linalg.det(linear))
    along = -linear[:, 0] if determinant < 0 else linear[:, 0]
    turn = float(np.degrees(np.arctan2(-along[1], along[0])))  # y points down
    return abs(determinant) ** 0.5, turn, determinant < 0


def _points(sample: Sample) -> str:
    """How many points there are, are hidden, and lie outside of the picture."""
    labelled = int((sample.visibility > 0).sum())
    hidden = int((sample.visibility == Visibility.OCCLUDED).sum())
    gone = int((outside(sample.keypoints, sample.size) & (sample.visibility > 0)).sum())
    parts = (f"{labelled} points", f"{hidden} hidden" if hidden else "", f"{gone} outside" if gone else "")
    return ", ".join(part for part in parts if part)


def _drawn(sample: Sample, height: int) -> Pixels:
    """The picture `height` px high with its people on it; they are drawn after the resize, so that lines stay sharp."""
    from PIL import Image

    wide, tall = sample.size
    factor = min(height / tall, 2 * height / wide)
    size = (max(1, round(wide * factor)), max(1, round(tall * factor)))
    picture = np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS))
    ratio = np.array(size) / (wide, tall)
    xy = (sample.keypoints + 0.5) * ratio - 0.5  # pixel centres: the edges of the picture map to each other
    boxes = sample.bbox * np.tile(ratio, 2) if sample.bbox is not None else None
    return draw(picture, xy, sample.visibility, sample.skeleton, boxes=boxes)


def _legend(pen: ImageDraw.ImageDraw) -> None:
    from PIL import ImageFont

    font, x, y = ImageFont.load_default(size=13), float(_GAP), _TOP / 2
    entries = ((LEFT, True, "left"), (RIGHT, True, "right"), (MIDDLE, True, "middle"), (_INK, False, "occluded"))
    for colour, filled, text in entries:
        around = (x, y - 5, x + 10, y + 5)
        pen.ellipse(around, fill=colour if filled else _PAPER, outline=colour, width=2)
        pen.text((x + 15, y), text, fill=_INK, font=font, anchor="lm")
        x += 15 + pen.textlength(text, font=font) + 18


def _caption(
    pen: ImageDraw.ImageDraw, lines: tuple[str, str], at: tuple[float, float], width: int, *, is_name: bool
) -> None:
    """Two lines, centred, cut to the width of their column; of a file's name the end is kept."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=12)
    for number, (text, colour) in enumerate(zip(lines, (_INK, _FADED), strict=True)):
        kept, short = len(text), text
        while kept and pen.textlength(short, font=font) > width:
            kept -= 1
            short = f"…{text[-kept:]}" if is_name else f"{text[:kept]}…"
        pen.text((at[0], at[1] + number * _LINE), short, fill=colour, font=font, anchor="ma")
