"""A failures table as cards: each person's crop with both skeletons over it and what is wrong in words."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.errors import FormatError
from kpdata.eval.errors import Kind
from kpdata.eval.failures import worst_of_each
from kpdata.eval.report import figures
from kpdata.skeleton import Skeleton

Window = tuple[int, int, int, int]
_FEW = 120  # cards up to here have large crops …
_LARGE, _SMALL = (420, 80), (250, 68)  # … longer side in px, and JPEG quality; a small one takes 6 kB
_WRONG = 4  # keypoints that a card names
_NAMES = {int(kind): kind.name.lower() for kind in Kind}
_UNLABELLED, _GOOD = int(Kind.UNLABELLED), int(Kind.GOOD)


@dataclass(frozen=True, slots=True)
class Card:
    """What a card shows. Places are pixels of the crop, `width` × `height`; the others are texts and SVG path data."""

    kind: str  # of failures.KINDS
    numbers: str
    source: str
    wrong: tuple[tuple[str, str], ...]  # (class of the error kind, words), the worst first
    width: int
    height: int
    picture: str  # a data URI; "" where there is none
    truth_limbs: str
    truth_dots: str
    predicted_limbs: str
    predicted_dots: tuple[tuple[str, str], ...]  # (class of the error kind, path data)
    links: str  # from wrong keypoints to where they belong


def cards(
    table: pa.Table, skeletons: Mapping[str, Skeleton], *, images: Path | None = None, limit: int = 50
) -> tuple[list[Card], list[str]]:
    """At most `limit` cards of a failures table, the worst of each kind, and a sentence for all that stays blank.

    images: folder of the pictures; a `file_name` that is not in it is looked for without its own folders. Pictures that
    are missing or cannot be read leave their cards without one. A picture of another size than the images table states
    is taken for a scaled copy.
    """
    chosen = schema.take(table, worst_of_each(table, limit))
    rows: list[dict[str, Any]] = chosen.to_pylist()
    windows = [window(row) for row in rows]
    side, quality = _LARGE if len(rows) <= _FEW else _SMALL
    cut, notes = crops(rows, windows, images, side, quality) if images is not None else ([b""] * len(rows), [])
    many = zip(rows, windows, cut, strict=True)
    return [_card(row, skeletons[row["skeleton"]], box, data_uri(jpeg)) for row, box, jpeg in many], notes


def data_uri(jpeg: bytes) -> str:
    """A picture inside a page; "" of no bytes."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode() if jpeg else ""


def window(row: Mapping[str, Any]) -> Window:
    """left, top, right, bottom of the crop of a failures row: the whole pixels that its box touches, at least two each
    way. The place `x` of a keypoint is at `x + 0.5 - left` of the crop: a whole number is the middle of a pixel.
    """
    if row["x0"] is None:
        return 0, 0, 2, 2
    left, top = int(np.floor(row["x0"])), int(np.floor(row["y0"]))
    return left, top, max(int(np.ceil(row["x1"])), left + 2), max(int(np.ceil(row["y1"])), top + 2)


# --------------------------------------------------------------------------------------------------------------- crops


def crops(
    rows: Sequence[Mapping[str, Any]], windows: Sequence[Window], folder: Path, side: int, quality: int
) -> tuple[list[bytes], list[str]]:
    """A JPEG for each row of a failures table (b"" where there is none), and what to say of those that have none.

    rows: need `file_name`, `width`, `height` (of the image, px or None), `x0` (None: no picture). windows: see
    `window`. side: of the longer side, px, at most; quality: of the JPEG, 1 to 95. Each file is read once.
    """
    by_file: dict[str | None, list[int]] = {}
    for number, row in enumerate(rows):
        if row["x0"] is not None:
            by_file.setdefault(row["file_name"], []).append(number)
    out, problems = [b""] * len(rows), []

    def cut(name: str | None) -> str:
        numbers = by_file[name]
        try:
            found = _cut(_file(folder, name), rows[numbers[0]], [windows[n] for n in numbers], side, quality)
        except FormatError as error:
            return str(error.message)
        for number, jpeg in zip(numbers, found, strict=True):
            out[number] = jpeg
        return ""

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        problems = [problem for problem in pool.map(cut, by_file) if problem]
    blank = sum(not jpeg for jpeg in out)
    if not problems:
        return out, []
    return out, [f"{blank:,} of {len(rows):,} people are shown without their picture, such as {problems[0]}"]


def _file(folder: Path, name: str | None) -> Path:
    if name is None:
        raise FormatError(folder, "an image without a file name")
    whole = folder / name
    short = folder / PurePosixPath(name.replace("\\", "/")).name
    return short if not whole.is_file() and short.is_file() else whole


def _cut(file: Path, row: Mapping[str, Any], windows: Sequence[Window], side: int, quality: int) -> list[bytes]:
    """The windows of one picture as JPEGs, their longer side at most `side` px. FormatError: unreadable."""
    from PIL import Image

    from kpdata.draw import load_image

    stated = (row["width"], row["height"])
    size = stated if all(stated) else None
    pixels = load_image(file, size=size)
    scale = (pixels.shape[1] / stated[0], pixels.shape[0] / stated[1]) if size else (1.0, 1.0)
    picture, out = Image.fromarray(pixels), []
    for left, top, right, bottom in windows:
        box = (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
        shrink = min(1.0, side / max(box[2] - box[0], box[3] - box[1]))
        fitted = (max(round((box[2] - box[0]) * shrink), 1), max(round((box[3] - box[1]) * shrink), 1))
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= picture.width and box[3] <= picture.height
        if inside and shrink < 1:
            crop = picture.resize(fitted, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        else:  # beyond the edges a crop is black
            x0, y0, x1, y1 = (round(edge) for edge in box)
            crop = picture.crop((x0, y0, x1, y1)).resize(fitted, Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=quality)
        out.append(buffer.getvalue())
    return out


# --------------------------------------------------------------------------------------------------------------- cards


def _card(row: Mapping[str, Any], skeleton: Skeleton, box: Window, picture: str) -> Card:
    corner = np.array(box[:2]) - 0.5  # a keypoint's whole number is the middle of a pixel
    own, theirs = (
        figures.spots(_points(row[name], len(skeleton)) - corner) for name in ("keypoints", "predicted_keypoints")
    )
    kinds: list[int] = row["classes"] or [_UNLABELLED] * len(skeleton)
    of_kind: dict[int, list[int]] = {}
    for k, kind in enumerate(kinds):
        of_kind.setdefault(kind, []).append(k)
    wrong = [k for kind, those in of_kind.items() if kind > _GOOD for k in those]
    return Card(
        kind=row["kind"],
        numbers=_numbers(row),
        source=_source(row),
        wrong=_wrong(row, skeleton, wrong),
        width=box[2] - box[0],
        height=box[3] - box[1],
        picture=picture,
        truth_limbs=figures.limbs(own, skeleton.edges),
        truth_dots=figures.dots(own, range(len(own))),
        predicted_limbs=figures.limbs(theirs, skeleton.edges),
        predicted_dots=tuple(
            (_NAMES[kind], path) for kind in sorted(of_kind) if (path := figures.dots(theirs, of_kind[kind]))
        ),
        links=figures.links(theirs, own, wrong),
    )


def _points(flat: list[float] | None, count: int) -> NDArray[np.float64]:
    return np.full((count, 2), np.nan) if flat is None else np.array(flat, np.float64).reshape(count, 2)


def _numbers(row: Mapping[str, Any]) -> str:
    parts = [f"{word} {row[key]:.2f}" for word, key in (("OKS", "oks"), ("score", "score"))
             if row[key] is not None and row[key] == row[key]]  # fmt: skip
    if row["oks"] is None and row["classes"]:  # of a metric of single people
        known = [kind for kind in row["classes"] if kind != _UNLABELLED]
        parts.append(f"{known.count(_GOOD)} of {len(known)} right")
    if row["labelled"] is not None:
        hidden = f", {row['occluded']} hidden" if row["occluded"] else ""
        parts.append(f"{row['size']}, {row['labelled']} labelled{hidden}")
    return " · ".join(parts)


def _source(row: Mapping[str, Any]) -> str:
    ids = [f"{word} {row[key]}" for word, key in (("person", "annotation_id"), ("prediction", "detection_id"))
           if row[key] is not None]  # fmt: skip
    return " · ".join([row["file_name"] or f"image {row['image_id']}", *ids])


def _wrong(row: Mapping[str, Any], skeleton: Skeleton, wrong: list[int]) -> tuple[tuple[str, str], ...]:
    """The keypoints in `wrong` in words, farthest off first: in sigma units, of a skeleton without sigmas in pixels."""
    words = []
    off_by = row["error_sigma"] or row["error_px"]
    for k in sorted(wrong, key=lambda k: -off_by[k])[:_WRONG]:
        off, kind = f"{row['error_px'][k]:.0f} px off", _NAMES[row["classes"][k]]
        off = "no place" if off.startswith("inf") else off
        words.append((kind, f"{skeleton.keypoint_names[k].replace('_', ' ')}: {kind}, {off}"))
    if len(wrong) > _WRONG:
        words.append(("", f"and {len(wrong) - _WRONG} more"))
    return tuple(words)
