"""kpdata's own folder `NAME.kp`: the tables as they are (see `kpdata.dataset`)."""

from __future__ import annotations

from pathlib import Path

from kpdata import dataset as ds
from kpdata.converters._source import Source
from kpdata.losses import LossReport


def detect(source: Source) -> str | None:
    """A folder with the two tables, or one that a crash left renamed aside."""
    path = source.path
    if (path / "persons.parquet").is_file() or (path.parent / f".{path.name}.old" / "persons.parquet").is_file():
        return "a folder with images.parquet and persons.parquet"
    return None


def read(path: Path | Source) -> ds.Dataset:
    """Open a `.kp` folder."""
    return decode(Source.of(path).path)


def decode(folder: Path) -> ds.Dataset:
    """The dataset of a `.kp` folder."""
    return ds.open_dataset(folder)


def encode(dataset: ds.Dataset) -> tuple[ds.Dataset, LossReport]:
    """The dataset itself: nothing is lost."""
    return dataset, LossReport("kp")


def write(dataset: ds.Dataset, path: Path, *, allow_lossy: bool = False, force: bool = False) -> LossReport:
    """Save a `.kp` folder; `allow_lossy` changes nothing, since nothing is lost."""
    dataset.save(path, force=force)
    return LossReport("kp")
