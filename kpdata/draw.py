"""Skeletons and boxes on pictures, contact sheets, and loading pictures. Pillow is imported when something is drawn.

Colours are Okabe and Ito's, safe for the colour-blind (<https://jfly.uni-koeln.de/color/>): sky blue is the person's
left, orange the right, green the middle. A filled dot is visible, a ring is occluded, an absent keypoint is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError
from kpdata.schema import Visibility
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

LEFT: Colour = (86, 180, 233)
RIGHT: Colour = (230, 159, 0)
MIDDLE: Colour = (0, 158, 115)
BOX: Colour = (240, 228, 66)
_INK: Colour = (20, 20, 24)
_PAPER: Colour = (246, 246, 244)
_FINE = 3  # overlays are drawn at three times the resolution …
_LARGEST = 36_000_000  # … unless they would have more cells than this
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


# --------------------------------------------------------------------------------------------------- on one picture


def draw(
    image: Pixels,
    xy: NDArray[np.floating],
    visibility: NDArray[np.integer],
    skeleton: Skeleton,
    *,
    boxes: NDArray[np.floating] | None = None,
    labels: Sequence[str] | None = None,
    names: bool = False,
) -> Pixels:
    """A copy of `image` (H, W, 3) with people on it: xy (N, K, 2) px, visibility (N, K), boxes (N, 4) x, y, w, h.

    labels: a text for each person, at its top left; names: write the keypoints' names beside them. Lines are as wide as
    the person is large. NaN coordinates and boxes are not drawn. SchemaError where the shapes do not fit together.
    """
    canvas = _checked(image)
    n, k = len(xy), len(skeleton)
    if np.shape(xy) != (n, k, 2) or np.shape(visibility) != (n, k):
        raise SchemaError(
            f"xy {np.shape(xy)} and visibility {np.shape(visibility)}: expected (N, {k}, 2) and (N, {k}) "
            f"for {skeleton.name!r}"
        )
    if (boxes is not None and np.shape(boxes) != (n, 4)) or (labels is not None and len(labels) != n):
        raise SchemaError(f"boxes and labels: expected ({n}, 4) and {n}, one for each person")
    colours = _sides(skeleton)
    for i in range(n):
        box = None if boxes is None else np.asarray(boxes[i], np.float64)
        _Person(np.asarray(xy[i], np.float64), np.asarray(visibility[i]), box).onto(
            canvas, skeleton, colours, labels[i] if labels else "", names
        )
    return canvas


def draw_image(
    image: Pixels, dataset: Dataset, image_id: int, *, boxes: bool = True, scores: bool = True, names: bool = False
) -> Pixels:
    """A copy of `image` (H, W, 3) with everybody that `dataset` has on the image `image_id`, in any skeleton."""
    out = _checked(image)
    here = schema.values(dataset.persons["image_id"]) == image_id
    for name, rows in dataset.groups():
        rows = rows[here[rows] & schema.valid(dataset.persons["keypoints"])[rows]]
        if name is None or not len(rows):
            continue
        people, skeleton = schema.take(dataset.persons, rows), dataset.skeletons[name]
        xy = schema.matrix(people["keypoints"], 2 * len(skeleton)).reshape(len(rows), -1, 2)
        found = schema.values(people["score"])
        labels = ["" if np.isnan(score) else f"{score:.2f}" for score in found.tolist()]
        out = draw(
            out,
            xy,
            schema.matrix(people["visibility"], len(skeleton)),
            skeleton,
            boxes=schema.matrix(people["bbox"], 4) if boxes else None,
            labels=labels if scores else None,
            names=names,
        )
    return out


def _checked(image: Pixels) -> Pixels:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SchemaError(f"an image of shape {image.shape} and type {image.dtype}, expected (H, W, 3) uint8")
    return image.copy()


def _sides(skeleton: Skeleton) -> list[Colour]:
    """The colour of each keypoint, by the side that its landmark, or else its name, begins with."""
    marks = skeleton.landmarks or skeleton.keypoint_names
    texts = [(m or n).lower() for m, n in zip(marks, skeleton.keypoint_names, strict=True)]
    return [LEFT if t.startswith(("left", "l_")) else RIGHT if t.startswith(("right", "r_")) else MIDDLE for t in texts]


class _Person:
    """One person's overlay: drawn large on a transparent patch, then laid over the picture."""

    def __init__(
        self, xy: NDArray[np.float64], visibility: NDArray[np.integer], box: NDArray[np.float64] | None
    ) -> None:
        self.xy, self.visibility = xy, visibility
        self.drawn = (visibility > 0) & np.isfinite(xy[:, 0]) & np.isfinite(xy[:, 1])
        self.box = None if box is None or not np.isfinite(box).all() else box
        points = [xy[self.drawn]]
        if self.box is not None:
            points.append(np.array([self.box[:2], self.box[:2] + self.box[2:]]) - 0.5)
        self.extent = np.concatenate(points)
        size = float(np.hypot(*np.ptp(self.extent, axis=0))) if len(self.extent) else 0.0
        self.width = float(np.clip(size / 130, 1.2, 14.0))  # px, of limbs
        self.radius = 1.35 * self.width + 0.5  # px, of dots

    def onto(self, canvas: Pixels, skeleton: Skeleton, colours: list[Colour], label: str, names: bool) -> None:
        """Draw into `canvas` in place."""
        from PIL import Image, ImageDraw

        if not len(self.extent):
            return
        height, width = canvas.shape[:2]
        margin = self.radius + 3 + (16 + 8 * self.width if label or names else 0)
        extra = (12 * max(map(len, skeleton.keypoint_names)), 0) if names else (90 if label else 0, 0)
        low = np.clip(np.floor(self.extent.min(0) - margin), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(self.extent.max(0) + margin + extra) + 1, 0, (width, height)).astype(int)
        if (high <= low).any():
            return  # wholly outside
        fine = _FINE if np.prod(high - low) * _FINE**2 <= _LARGEST else 1
        patch = Image.new("RGBA", tuple(((high - low) * fine).tolist()))
        pen = ImageDraw.Draw(patch)
        self._box(pen, low, fine)
        self._limbs(pen, skeleton, colours, low, fine)
        self._dots(pen, colours, low, fine)
        self._texts(pen, skeleton, label, names, low, fine)
        _lay(canvas[low[1] : high[1], low[0] : high[0]], patch)

    def _at(self, points: NDArray[np.float64], low: NDArray[np.intp], fine: int) -> list[tuple[float, float]]:
        """Pixel indices of the picture as those of the patch: a pixel's centre is the centre of its cells."""
        moved = (points - low + 0.5) * fine - 0.5
        return [(float(x), float(y)) for x, y in moved]

    def _box(self, pen: ImageDraw.ImageDraw, low: NDArray[np.intp], fine: int) -> None:
        if self.box is None:
            return
        corners = np.array([self.box[:2], self.box[:2] + np.maximum(self.box[2:], 1)]) - 0.5  # edges to pixel indices
        pen.rectangle(self._at(corners, low, fine), outline=(*BOX, 230), width=max(1, round(0.8 * self.width * fine)))

    def _limbs(
        self, pen: ImageDraw.ImageDraw, skeleton: Skeleton, colours: list[Colour], low: NDArray[np.intp], fine: int
    ) -> None:
        places = self._at(np.nan_to_num(self.xy), low, fine)
        for a, b in skeleton.edges:
            if not (self.drawn[a] and self.drawn[b]):
                continue
            one_side = colours[a] == colours[b] or MIDDLE in (colours[a], colours[b])
            colour = (colours[a] if colours[b] == MIDDLE else colours[b]) if one_side else MIDDLE
            hidden = Visibility.OCCLUDED in (self.visibility[a], self.visibility[b])
            pen.line(
                [places[a], places[b]], fill=(*colour, 140 if hidden else 235), width=max(1, round(self.width * fine))
            )

    def _dots(self, pen: ImageDraw.ImageDraw, colours: list[Colour], low: NDArray[np.intp], fine: int) -> None:
        radius, ring = self.radius * fine, max(1, round(0.62 * self.width * fine))
        places = self._at(np.nan_to_num(self.xy), low, fine)
        hidden = self.visibility == Visibility.OCCLUDED
        for j in [*np.flatnonzero(self.drawn & hidden).tolist(), *np.flatnonzero(self.drawn & ~hidden).tolist()]:
            x, y = places[j]  # rings first: a ring's empty middle must not wipe out a dot
            around = (x - radius, y - radius, x + radius, y + radius)
            if hidden[j]:
                pen.ellipse(around, fill=(0, 0, 0, 0), outline=(*colours[j], 255), width=ring)
            else:
                pen.ellipse(around, fill=(*colours[j], 255), outline=(*_INK, 255), width=max(1, ring // 2))

    def _texts(
        self, pen: ImageDraw.ImageDraw, skeleton: Skeleton, label: str, names: bool, low: NDArray[np.intp], fine: int
    ) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size=(10 + self.width) * fine)

        def write(x: float, y: float, text: str, anchor: str) -> None:
            pen.text((x, y), text, (255, 255, 255, 255), font, anchor, stroke_width=fine, stroke_fill=(*_INK, 255))

        if label:
            ((x, y),) = self._at(self.extent.min(0)[None], low, fine)
            write(max(x, 0), max(y, 14 * fine), label, "ld")
        if names:
            for j, (x, y) in enumerate(self._at(np.nan_to_num(self.xy), low, fine)):
                if self.drawn[j]:
                    write(x + 1.4 * self.radius * fine, y, skeleton.keypoint_names[j], "lm")


def _lay(region: Pixels, patch: Image.Image) -> None:
    """Lay an RGBA patch of `fine` times the size over `region` (h, w, 3), in place (premultiplied: clean edges)."""
    h, w = region.shape[:2]
    cells = np.asarray(patch, np.float32).reshape(h, patch.height // h, w, patch.width // w, 4)
    alpha = cells[..., 3:].mean((1, 3)) / 255  # (h, w, 1)
    colour = (cells[..., :3] * cells[..., 3:]).mean((1, 3)) / 255
    region[:] = np.where(alpha > 0, np.rint(region * (1 - alpha) + colour), region).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- many pictures


def grid(
    images: Sequence[Pixels], columns: int = 4, *, captions: Sequence[str] | None = None, cell: int = 360
) -> Pixels:
    """A contact sheet (H, W, 3): pictures of any size, shrunk to cells `cell` px wide and 3/4 as high, with captions.

    Small pictures keep their size. SchemaError without pictures, or with another number of captions.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not images or columns < 1 or cell < 16 or (captions is not None and len(captions) != len(images)):
        raise SchemaError(
            f"{len(images)} pictures, {len(captions or ())} captions, {columns} columns of {cell} px: expected a "
            "picture, a caption for each or none, a column, and 16 px or more"
        )
    gap, text, tall = 8, 22 if captions else 0, cell * 3 // 4
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (gap + columns * (cell + gap), gap + rows * (tall + text + gap)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        picture = Image.fromarray(_checked(image))
        picture.thumbnail((cell, tall), Image.Resampling.LANCZOS)
        x, y = gap + i % columns * (cell + gap), gap + i // columns * (tall + text + gap)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y + (tall - picture.height) // 2))
        if captions:
            short = captions[i] if len(captions[i]) <= cell // 7 else f"…{captions[i][-(cell // 7 - 1) :]}"
            pen.text((x + cell / 2, y + tall + 4), short, fill=_INK, anchor="ma", font=ImageFont.load_default(size=13))
    return np.asarray(sheet).copy()


def draw_dataset(
    dataset: Dataset,
    images_folder: Path | str,
    out_path: Path | str,
    *,
    limit: int = 12,
    columns: int = 4,
    names: bool = False,
    force: bool = False,
) -> int:
    """Write a contact sheet (`.png` or `.jpg`) of the first `limit` images that have people; how many it shows.

    Raises FormatError for a picture that cannot be read or another ending, SchemaError where no image has people or one
    has no file name, DestinationExists where `out_path` is there.
    """
    target = Path(out_path)
    _format(target)
    files.refuse_existing(target, force)
    rows = np.unique(dataset.image_rows())
    rows = rows[rows >= 0][: max(limit, 0)]
    if not len(rows):
        raise SchemaError(f"no image with people to draw (limit {limit})", hint="is it an empty selection?")
    pictures, captions = [], []
    chosen = schema.take(dataset.images, rows)
    width, height = schema.values(chosen["width"]), schema.values(chosen["height"])
    ids = schema.values(chosen["image_id"]).tolist()
    for i, name in enumerate(schema.texts(chosen["file_name"])):
        if name is None:
            raise SchemaError(f"image {ids[i]} has no file name: there is nothing to draw on")
        image = load_image(Path(images_folder) / name, size=(int(width[i]), int(height[i])))
        pictures.append(draw_image(image, dataset, ids[i], names=names))
        captions.append(name)
    save_image(grid(pictures, columns, captions=captions), target, force=force)
    return len(pictures)


# ------------------------------------------------------------------------------------------------------------ files


def load_image(path: Path | str, *, size: tuple[int, int] | None = None) -> Pixels:
    """A picture file as (H, W, 3) uint8 RGB, in the orientation that it is stored in.

    size: width and height, px, that the annotation states. A rotation in the EXIF data is applied only where it makes
    the picture that size and the stored one is not: most annotations were made on the pixels as stored. Grey, palette,
    alpha (dropped), CMYK and 16-bit pictures (their upper eight bits) become RGB. FormatError names a file that is
    missing, damaged, of an unknown kind, too large to be safe, or of floating-point pixels.
    """
    from PIL import Image, ImageOps

    file = Path(path)
    try:
        with Image.open(file) as opened:
            opened.load()
            picture: Image.Image = opened
            if size is not None and opened.size != size:
                turned = ImageOps.exif_transpose(opened)
                picture = turned if turned.size == size else opened
            return _rgb(picture, file)
    except FileNotFoundError as error:
        raise files.unreadable(file, error) from error
    except Image.DecompressionBombError as error:
        raise FormatError(file, f"too large a picture ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for damaged files
        raise FormatError(file, f"not a picture that can be read ({error})", hint="is the file damaged?") from error


def _rgb(picture: Image.Image, file: Path) -> Pixels:
    if picture.mode == "F":
        raise FormatError(file, "its pixels are floating-point numbers", hint="expected 8 or 16 bits: convert it first")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        eight = np.clip(values >> 8 if values.max(initial=0) > 255 else values, 0, 255).astype(np.uint8)
        return np.repeat(eight[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB")).copy()


def save_image(image: Pixels, path: Path | str, *, force: bool = False) -> None:
    """Write (H, W, 3) uint8 as PNG or JPEG, by the ending of the name, in one piece. DestinationExists, FormatError."""
    from PIL import Image

    target = Path(path)
    kind = _format(target)
    with files.replacing(target, force=force) as temporary:
        Image.fromarray(_checked(image)).save(temporary, kind, quality=92)


def _format(target: Path) -> str:
    if target.suffix.lower() not in _FORMATS:
        raise FormatError(target, f"pictures are written as {', '.join(_FORMATS)}, not as {target.suffix!r}")
    return _FORMATS[target.suffix.lower()]
