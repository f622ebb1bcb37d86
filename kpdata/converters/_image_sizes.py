"""Width and height of photographs from their files, for formats that do not state them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from kpdata import dataset as ds
from kpdata import schema
from kpdata.errors import FormatError

SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm", ".heic"})
_ORIENTATION = 274  # the EXIF tag; 5 to 8 swap the sides


def size(path: Path) -> tuple[int, int]:
    """(width, height) px as displayed, EXIF rotation applied, from the file's header. FormatError for no image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(path, f"not an image that can be read ({error})") from error
    return (height, width) if turned else (width, height)


def listing(folder: Path) -> list[str]:
    """Paths of the image files below `folder`, relative, `/` separators, sorted; hidden ones left out."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = [name for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in inside]
    return sorted(found)


def require_folder(folder: Path) -> Path:
    """The folder of `--images`. FormatError where there is none."""
    if not folder.is_dir():
        raise FormatError(folder, "there is no such folder", hint="--images names the folder of the photographs")
    return folder


def find(folder: Path, file_name: str | None) -> Path | None:
    """The photograph of a file_name in `folder`: at its path, else under its bare name."""
    for name in (file_name, Path(file_name).name) if file_name else ():
        if (path := folder / name).is_file():
            return path
    return None


def fill(dataset: ds.Dataset, folder: Path) -> ds.Dataset:
    """The dataset with missing widths and heights from the photographs in `folder`; those not found stay null."""
    require_folder(folder)
    table = dataset.images
    known = schema.valid(table["width"]) & schema.valid(table["height"])
    sizes = np.column_stack([schema.values(table["width"], 0), schema.values(table["height"], 0)]).astype(np.int64)
    names = schema.texts(table["file_name"])
    for row in np.flatnonzero(~known).tolist():
        path = find(folder, names[row])
        if path is not None:
            sizes[row], known[row] = size(path), True
    columns = {name: table[name] for name in table.schema.names}
    for place, key in enumerate(("width", "height")):
        columns[key] = schema.fixed(sizes[:, place], pa.int32(), known | schema.valid(table[key]))
    return replace(dataset, images=schema.table(schema.IMAGES, table.num_rows, columns))
