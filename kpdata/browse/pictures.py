"""Pictures that lie in a dataset (LabelMe's `imageData`), as files for FiftyOne, which knows pictures by path only."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from pathlib import Path

import numpy as np

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError

_TABLE = "blobs.parquet"


def keep(dataset: Dataset, folder: Path) -> dict[int, Path]:
    """Write the embedded pictures into a folder, as they are and as picture files; the latter's paths by image id.

    BrowseError where the folder cannot be written.
    """
    import pyarrow.parquet as pq

    found: dict[int, Path] = {}
    if not dataset.blobs.num_rows:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(dataset.blobs, folder / _TABLE)
        cells = schema.chunk(dataset.blobs["data"])
        for image, cell in zip(schema.values(dataset.blobs["image_id"]).tolist(), cells, strict=True):
            found[image] = folder / f"image-{image}"
            found[image].write_bytes(_plain(cell.as_py()))
    except OSError as error:
        reason = error.strerror or error
        hint = "FIFTYONE_DEFAULT_DATASET_DIR names FiftyOne's own folder"
        raise BrowseError(f"{folder}: embedded pictures cannot be written ({reason})", hint=hint) from error
    return found


def kept(folder: Path, dataset: Dataset) -> Dataset:
    """The dataset with the pictures that `keep` wrote for its images. BrowseError where they are gone."""
    import pyarrow.parquet as pq

    file = folder / _TABLE
    if not file.is_file():
        hint = "put the folder back: FiftyOne's dataset only names it"
        raise BrowseError(f"{file}: the embedded pictures that were kept there are gone", hint=hint)
    try:
        blobs = pq.ParquetFile(file).read()
    except OSError as error:
        raise files.unreadable(file, error) from error
    here = np.isin(schema.values(blobs["image_id"]), schema.values(dataset.images["image_id"]))
    return replace(dataset, blobs=schema.take(blobs, np.flatnonzero(here)))


def _plain(data: bytes) -> bytes:
    """LabelMe keeps the Base64 of a picture file."""
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return data
