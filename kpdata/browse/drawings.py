"""People as plain JPEG files, label and prediction side by side: for mail, for a wiki, for eyes without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import files
from kpdata.browse.people import People
from kpdata.browse.pictures import Pictures
from kpdata.draw import draw, load_image, save_image
from kpdata.errors import BrowseError, FormatError
from kpdata.skeleton import Skeleton

_SIDE = 420  # longer side of a panel, px
_GAP = 8
_PAPER = 246  # grey between the panels, and where there is no picture: 118
_BLANK = 118
_CAPTION = 26  # height of the line of text, px


def draw_people(people: People, folder: Path, *, force: bool = False) -> tuple[int, list[str]]:
    """Write a JPEG for every row, named by place, kind, picture and person; how many, and what is to say of them.

    The label is left, the prediction right; who has only one of them has one panel. Pictures that are missing or cannot
    be read leave grey panels and are counted in a sentence. DestinationExists without `force`; BrowseError where the
    folder holds other things than such drawings, which `force` would delete.
    """
    files.refuse_existing(folder, force)
    if folder.is_dir() and (strangers := [entry.name for entry in folder.iterdir() if entry.suffix != ".jpg"]):
        raise BrowseError(f"{folder}: holds {strangers[0]!r}, which --draw did not write: not replaced",
                          hint="choose another folder")  # fmt: skip
    rows: list[dict[str, Any]] = people.table.to_pylist()
    width = len(str(len(rows)))
    problems: list[str] = []
    with files.replacing_folder(folder, force=force) as fresh:
        for number, picture in _pictures(rows, people.pictures, problems):
            row = rows[number]
            panels = _panels(row, people.skeletons[row["skeleton"]], picture)
            if panels:
                save_image(_captioned(_beside(panels), _words(row)), fresh / _name(row, number + 1, width))
    if not problems:
        return len(rows), []
    return len(rows), [
        f"{len(problems):,} of {len(rows):,} people are drawn without their picture, such as {problems[0]}"
    ]


def _pictures(rows: list[dict[str, Any]], pictures: Pictures, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """(number of the row, its picture or None), each picture read once."""
    by_image: dict[tuple[int, str | None], list[int]] = {}
    for number, row in enumerate(rows):
        by_image.setdefault((row["image_id"], row["file_name"]), []).append(number)
    for key, numbers in by_image.items():
        first, picture = rows[numbers[0]], None
        path = pictures.find(*key)
        if path is not None:
            stated = (first["width"], first["height"])
            try:
                picture = load_image(path, size=stated if all(stated) else None)
            except FormatError as error:
                problems += [str(error.message)] * len(numbers)
        elif pictures:
            problems += [f"{key[1]}: not found in {pictures.folder}"] * len(numbers)
        yield from ((number, picture) for number in numbers)


def _panels(row: Mapping[str, Any], skeleton: Skeleton, picture: Any) -> list[NDArray[np.uint8]]:
    if row["x0"] is None:
        return []
    corner = np.floor([row["x0"], row["y0"]])
    size = np.maximum(np.ceil([row["x1"], row["y1"]]) - corner, 2)
    scale = _SIDE / size.max()
    crop = _crop(row, picture, corner, size, scale)
    panels = []
    for name in ("keypoints", "predicted_keypoints"):
        if row[name] is None:
            continue
        xy = np.array(row[name], np.float64).reshape(1, -1, 2)
        seen = row["visibility"] if name == "keypoints" else np.isfinite(xy[0]).all(1) * 2
        marks = np.array([seen], np.int8)
        # A whole number is the middle of a pixel: scaled about the crop's edge, half a pixel before it.
        placed = (xy - corner + 0.5) * scale - 0.5
        panels.append(draw(crop, placed, marks, skeleton))
    return panels


def _words(row: Mapping[str, Any]) -> str:
    """label 12 | prediction 3, score 0.91, OKS 0.43 | miss"""
    label = "" if row["annotation_id"] is None else f"label {row['annotation_id']}"
    numbers = [f"{word} {row[key]:.2f}" for word, key in (("score", "score"), ("OKS", "oks")) if row[key] is not None]
    found = "" if row["detection_id"] is None else ", ".join([f"prediction {row['detection_id']}", *numbers])
    return " | ".join(part for part in (label, found, row["kind"]) if part)


def _captioned(image: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    """The picture with a line of text under it, as wide as the text needs."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=14)
    width = max(image.shape[1], int(font.getlength(words)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, image.shape[0] + _CAPTION), (_PAPER,) * 3)
    sheet.paste(Image.fromarray(image), ((width - image.shape[1]) // 2, 0))
    ImageDraw.Draw(sheet).text((width / 2, image.shape[0] + 4), words, fill=(20, 20, 24), anchor="ma", font=font)
    return np.asarray(sheet).copy()


def _crop(
    row: Mapping[str, Any], picture: Any, corner: NDArray[np.float64], size: NDArray[np.float64], scale: float
) -> NDArray[np.uint8]:
    """The window as a picture whose longer side has `_SIDE` px."""
    from PIL import Image

    shape = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    if picture is None:
        return np.full((shape[1], shape[0], 3), _BLANK, np.uint8)
    stated = np.array([row["width"] or picture.shape[1], row["height"] or picture.shape[0]], np.float64)
    ratio = np.array([picture.shape[1], picture.shape[0]]) / stated  # of a scaled copy
    box = np.round(np.concatenate([corner, corner + size]) * np.tile(ratio, 2)).astype(int).tolist()
    cut = Image.fromarray(picture).crop(tuple(box)).resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(cut).copy()


def _beside(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((panels[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    return np.concatenate([piece for panel in panels for piece in (gap, panel)][1:], axis=1)


def _name(row: Mapping[str, Any], number: int, width: int) -> str:
    stem = Path(str(row["file_name"] or f"image_{row['image_id']}").replace("\\", "/")).stem
    who = row["annotation_id"] if row["annotation_id"] is not None else f"prediction_{row['detection_id']}"
    text = f"{number:0{width}d}_{row['kind']}_{stem}_{who}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:120] + ".jpg"
