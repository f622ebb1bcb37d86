"""Where pictures are: in the folder that the user names, or in the dataset itself (LabelMe's `imageData`)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError

_TABLE = "blobs.parquet"
_HINT = "--images: the folder that file names start from"


def picture_path(folder: Path, file_name: str | None) -> Path | None:
    """The picture in a folder, with the folders of its own name or without them; None where it is not there."""
    if file_name is None:
        return None
    short = PurePosixPath(file_name.replace("\\", "/")).name
    return next((path for path in (folder / file_name, folder / short) if path.is_file()), None)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of images. folder: the user's; None: none. embedded: files of pictures that lay in the dataset, by
    image id, named by their content; they are there for as long as this is."""

    folder: Path | None = None
    embedded: Mapping[int, Path] = field(default_factory=dict)
    _home: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        """There may be pictures."""
        return self.folder is not None or bool(self.embedded)

    def find(self, image_id: int, file_name: str | None) -> Path | None:
        """The picture of an image: in the folder, else embedded; None where there is none."""
        found = None if self.folder is None else picture_path(self.folder, file_name)
        return found or self.embedded.get(image_id)

    def identity(self, path: Path) -> tuple[str, int, int]:
        """Place, size and time of change of a found picture; of an embedded one its content."""
        stat = path.stat()
        own = self._home is not None and path.parent == Path(self._home.name)
        return (path.name, stat.st_size, 0) if own else (str(path.absolute()), stat.st_size, stat.st_mtime_ns)


def pictures_of(dataset: Dataset, folder: Path | None, image_ids: Iterable[int]) -> Pictures:
    """The pictures of these images. What the folder does not have and the dataset embeds is written to a folder of its
    own, which goes with the result. Raises BrowseError where it cannot be written."""
    wanted = set(image_ids)
    ids = schema.values(dataset.blobs["image_id"])
    here = np.flatnonzero([number in wanted for number in ids.tolist()])
    names = dict(zip(schema.values(dataset.images["image_id"]).tolist(), schema.texts(dataset.images["file_name"]),
                     strict=True)) if len(here) else {}  # fmt: skip
    if folder is not None:
        here = here[[picture_path(folder, names.get(number)) is None for number in ids[here].tolist()]]
    if not len(here):
        return Pictures(folder)
    home = tempfile.TemporaryDirectory(prefix="kpdata-pictures-")
    found: dict[int, Path] = {}
    try:
        cells = schema.take(dataset.blobs, here)["data"]
        for number, cell in zip(ids[here].tolist(), cells, strict=True):
            data = _plain(cell.as_py())
            suffix = PurePosixPath(names.get(number) or "").suffix
            found[number] = Path(home.name) / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
            found[number].write_bytes(data)
    except OSError as error:
        reason = error.strerror or error
        raise BrowseError(
            f"{home.name}: embedded pictures cannot be written ({reason})", hint="free space there"
        ) from error
    return Pictures(folder, found, home)


def missing_pictures(table: pa.Table, pictures: Pictures, known: Iterable[str | None] = ()) -> list[str]:
    """A sentence where some pictures of these people are not found; BrowseError where none is, and none of `known`
    (file names of other images of the data) either."""
    folder = pictures.folder
    if folder is None:
        return []
    if not folder.is_dir():
        raise BrowseError(f"{folder}: there is no such folder", hint=_HINT)
    ids = schema.values(table["image_id"]).tolist()
    names = {name: number for name, number in zip(schema.texts(table["file_name"]), ids, strict=True) if name}
    lost = [name for name, number in names.items() if pictures.find(number, name) is None]
    if not lost:
        return [] if names else ["the data names no picture files: people are shown without their pictures"]
    tried = f"tried {folder / lost[0]}"
    if len(lost) == len(names) and not any(picture_path(folder, name) for name in known):
        raise BrowseError(f"0 of {len(names):,} pictures found in {folder}: {tried}", hint=_HINT)
    return [f"{len(names) - len(lost):,} of {len(names):,} pictures found in {folder}: {tried}"]


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
