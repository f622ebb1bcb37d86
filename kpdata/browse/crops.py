"""People cut out of their pictures, as JPEG files in a folder: cut once, found again the next time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.browse.pictures import Pictures
from kpdata.errors import BrowseError, FormatError

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_SIDE, _QUALITY = 640, 88  # longest side of a crop, px, and JPEG quality: about 30 kB
_GREY = (118, 118, 118)  # where there is no picture


@dataclass(frozen=True, slots=True)
class Crops:
    """A picture for each row of a table of people.

    files (R,): the JPEG files. windows (R, 4): left, top, right, bottom: whole pixels of the image that they show.
    sizes (R, 2): width and height of the files, px. notes: a sentence where some have no picture (they are grey).
    """

    files: tuple[Path, ...]
    windows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    notes: tuple[str, ...]

    def relative(self, points: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """points (M, K, 2) of these rows, px of the image, as shares of the crops: an integer is a pixel's centre."""
        windows = self.windows[rows].astype(np.float64)
        low, span = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
        shares: NDArray[np.float64] = (points + 0.5 - low) / span
        return shares


def cut_crops(table: pa.Table, pictures: Pictures, folder: Path, *, progress: Progress | None = None) -> Crops:
    """The people of a table of `people.PEOPLE` as files in `folder` (made where it is not there).

    Where a picture is missing or cannot be read, people are on grey. A
    file is named by the picture (place, size and time of change) and the window, so a change of either cuts anew. A
    picture of another size than the table states is taken for a scaled copy; beyond its edges a crop is black.
    BrowseError where `folder` cannot be written.
    """
    windows = _windows(table)
    spans = windows[:, 2:] - windows[:, :2]
    shrink = np.minimum(1.0, _SIDE / spans.max(axis=1, initial=1, keepdims=True))
    sizes = np.maximum(np.rint(spans * shrink), 1).astype(np.int64)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files, problems = _cut_all(table, windows, sizes, pictures, folder, progress)
    except OSError as error:
        reason = error.strerror or error
        raise BrowseError(f"{folder}: crops cannot be written ({reason})", hint="--database: another folder") from error
    notes: tuple[str, ...] = ()
    if problems and pictures:
        blank = sum(count for count, _ in problems)
        notes = (f"{blank:,} of {len(files):,} people are shown without their picture, such as {problems[0][1]}",)
    return Crops(tuple(files), windows, sizes, notes)


def _windows(table: pa.Table) -> NDArray[np.int64]:
    """(R, 4): the whole pixels that the crop boxes touch, at least two each way; (0, 0, 2, 2) without a box."""
    box = np.stack([schema.values(table[name], missing=np.nan) for name in ("x0", "y0", "x1", "y1")], axis=1)
    box = np.where(np.isfinite(box).all(axis=1, keepdims=True), box, 0.0)
    low = np.floor(box[:, :2])
    high = np.maximum(np.ceil(box[:, 2:]), low + 2)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _cut_all(
    table: pa.Table,
    windows: NDArray[np.int64],
    sizes: NDArray[np.int64],
    pictures: Pictures,
    folder: Path,
    progress: Progress | None,
) -> tuple[list[Path], list[tuple[int, str]]]:
    """The file of each row, and (people, what is wrong) of each picture that could not be used."""
    names = schema.texts(table["file_name"])
    stated = np.stack([schema.values(table[name]) for name in ("width", "height")], axis=1)
    by_picture: dict[tuple[int, str | None], list[int]] = {}
    for row, key in enumerate(zip(schema.values(table["image_id"]).tolist(), names, strict=True)):
        by_picture.setdefault(key, []).append(row)
    out, done, problems = [folder] * len(names), 0, []

    def cut(key: tuple[int, str | None]) -> tuple[int, str]:
        rows, name = np.array(by_picture[key]), key[1]
        source = pictures.find(*key)
        places = [(tuple(windows[row].tolist()), tuple(sizes[row].tolist())) for row in rows]
        known = None if source is None else (source, pictures.identity(source))
        files, problem = _cut(known, tuple(stated[rows[0]].tolist()), places, folder)
        for row, file in zip(rows.tolist(), files, strict=True):
            out[row] = file
        if source is None:
            problem = f"{name}: not found in {pictures.folder}" if name is not None else "an image without a file name"
        return len(rows), problem

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for count, problem in pool.map(cut, by_picture):
            done += count
            if problem:
                problems.append((count, problem))
            if progress is not None:
                progress("Cutting people out", done, len(names))
    return out, problems


_Place = tuple[tuple[int, ...], tuple[int, ...]]  # window and size of a crop
_Source = tuple[Path, tuple[str, int, int]]  # a picture and its identity


def _cut(source: _Source | None, stated: tuple[int, int], places: list[_Place], folder: Path) -> tuple[list[Path], str]:
    """The files of one picture's people, and what is wrong with it ("": nothing). Existing ones are not cut again."""
    files = [folder / f"{_digest(source, stated, place)}.jpg" for place in places]
    wanted = [n for n, file in enumerate(files) if not file.exists()]
    if not wanted:
        return files, ""
    picture, problem = _picture(None if source is None else source[0], stated)
    if problem:  # under another name: once the picture can be read, it is cut
        files = [folder / f"{_digest(None, stated, place)}.jpg" for place in places]
    for n in wanted:
        window, size = places[n]
        if picture is None:
            from PIL import Image

            made = Image.new("RGB", (size[0], size[1]), _GREY)
        else:
            made = _crop(picture, stated, window, size)
        temporary = files[n].with_suffix(f".{os.getpid()}")
        made.save(temporary, "JPEG", quality=_QUALITY)
        temporary.replace(files[n])
    return files, problem


def _digest(source: _Source | None, stated: tuple[int, int], place: _Place) -> str:
    facts: list[Any] = [stated, place, _QUALITY]
    if source is not None:
        facts += source[1]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _picture(source: Path | None, stated: tuple[int, int]) -> tuple[Image.Image | None, str]:
    from PIL import Image

    from kpdata.draw import load_image

    if source is None:
        return None, ""
    try:
        return Image.fromarray(load_image(source, size=stated if all(stated) else None)), ""
    except FormatError as error:
        return None, error.message


def _crop(picture: Image.Image, stated: tuple[int, int], window: tuple[int, ...], size: tuple[int, ...]) -> Image.Image:
    from PIL import Image

    scale = (picture.width / stated[0], picture.height / stated[1]) if all(stated) else (1.0, 1.0)
    left, top, right, bottom = (edge * scale[n % 2] for n, edge in enumerate(window))
    inside = left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height
    if inside and size != (right - left, bottom - top):
        return picture.resize(
            (size[0], size[1]), Image.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=2.0
        )
    cut = picture.crop((round(left), round(top), round(right), round(bottom)))
    return cut if cut.size == size else cut.resize((size[0], size[1]), Image.Resampling.BILINEAR)


def remove_crops(folder: Path) -> int:
    """Delete the crops of a folder, and the folder once it is empty; how many there were."""
    files: Mapping[Path, None] = dict.fromkeys(folder.glob("*.jpg"))
    for file in files:
        file.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return len(files)
