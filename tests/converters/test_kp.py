"""The `.kp` folder as a format: detected, read, written, and everything any dataset holds comes back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from kpdata import converters
from kpdata.converters import coco, kp
from kpdata.errors import DestinationExists, FormatError, UnknownFormat
from tests.strategies import coco_documents, datasets

DOCUMENT = {
    "images": [{"id": 1}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]}],
    "categories": [{"id": 1, "name": "a", "keypoints": ["tip"]}],
}


@settings(max_examples=30)
@given(datasets())
def test_any_dataset_comes_back(dataset):
    """read(write(d)) == d, extras, blobs, NaN, nulls and odd ids included; nothing is lost or added."""
    with tempfile.TemporaryDirectory() as folder:
        report = converters.write(dataset, Path(folder) / "x.kp")
        assert report.to_json() == {"losses": {}, "additions": {}, "examples": {}}
        back = converters.read(Path(folder) / "x.kp")
    assert back == dataset
    assert back.history == dataset.history


@settings(max_examples=30)
@given(coco_documents())
def test_a_saved_document_is_written_back(raw):
    """COCO to .kp to COCO: the document again."""
    with tempfile.TemporaryDirectory() as folder:
        kp.write(coco.decode(raw), Path(folder) / "x.kp")
        assert coco.encode(kp.read(Path(folder) / "x.kp"))[0] == raw


def test_detected_by_its_tables(tmp_path):
    """By content, whatever the folder's name; the name alone is enough for writing."""
    dataset = coco.decode(DOCUMENT)
    kp.write(dataset, tmp_path / "data")
    assert converters.detect(tmp_path / "data")[0] == "kp"
    assert converters.read(tmp_path / "data") == dataset
    converters.write(dataset, tmp_path / "x.kp")
    assert (tmp_path / "x.kp" / "persons.parquet").is_file()
    with pytest.raises(UnknownFormat, match=r"x\.json: its name does not say which format to write.*--to"):
        converters.write(dataset, tmp_path / "x.json")


def test_a_crash_is_mended_on_reading(tmp_path):
    """Between the two renames of a forced save the folder has another name: reading finds it."""
    dataset = coco.decode(DOCUMENT)
    kp.write(dataset, tmp_path / "x.kp")
    (tmp_path / "x.kp").rename(tmp_path / ".x.kp.old")
    assert converters.read(tmp_path / "x.kp") == dataset
    assert [file.name for file in tmp_path.iterdir()] == ["x.kp"]


def test_refusals(tmp_path):
    """A folder without tables, a file, nothing at all; an existing folder without force."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"images\.parquet: there is no such file"):
        converters.read(tmp_path / "empty", "kp")
    with pytest.raises(UnknownFormat, match="no format recognises this folder"):
        converters.read(tmp_path / "empty")
    with pytest.raises(FormatError, match=r"nothing\.kp: there is no such file or folder"):
        converters.read(tmp_path / "nothing.kp", "kp")
    (tmp_path / "x.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(FormatError):
        converters.read(tmp_path / "x.json", "kp")
    kp.write(coco.decode(DOCUMENT), tmp_path / "x.kp")
    with pytest.raises(DestinationExists):
        kp.write(coco.decode(DOCUMENT), tmp_path / "x.kp")
    kp.write(coco.decode(DOCUMENT), tmp_path / "x.kp", force=True)


def test_readable_by_pandas_and_duckdb(tmp_path):
    """Plain Parquet: other tools read columns, lists and nulls as they are, with and without Arrow's schema."""
    import duckdb
    import pandas as pd

    kp.write(coco.decode(DOCUMENT), tmp_path / "x.kp")
    frame = pd.read_parquet(tmp_path / "x.kp" / "persons.parquet")
    assert frame["keypoints"].iloc[0].tolist() == [1, 2]
    assert frame["bbox"].isna().all()
    query = f"select image_id, keypoints[1], visibility[1], bbox from '{tmp_path}/x.kp/persons.parquet'"
    assert duckdb.sql(query).fetchall() == [(1, 1.0, 2, None)]
