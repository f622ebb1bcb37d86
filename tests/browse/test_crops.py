"""Crops: the right pixels, cut once, grey where there is no picture."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kpdata import schema
from kpdata.browse.crops import cut_crops, remove_crops
from kpdata.browse.pictures import Pictures, pictures_of
from kpdata.errors import BrowseError


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(float)


def test_a_crop_shows_its_window_of_the_picture(people, tmp_path):
    """Each file is the window of its own picture, to JPEG's accuracy; small windows are not enlarged."""
    crops = cut_crops(people.table, people.pictures, tmp_path)
    for row, name in enumerate(schema.texts(people.table["file_name"])):
        left, top, right, bottom = crops.windows[row]
        whole = pixels(people.pictures.folder / name)[top:bottom, left:right]
        cut = pixels(crops.files[row])
        assert cut.shape == whole.shape
        assert np.abs(cut - whole).mean() < 6
    assert crops.notes == ()


def test_a_keypoint_is_where_it_was(people, tmp_path):
    """A share of the crop times its window, from its corner, less half a pixel, is the keypoint again."""
    crops = cut_crops(people.table, people.pictures, tmp_path)
    flat = schema.matrix(people.table["keypoints"], 34).reshape(-1, 17, 2)
    shares = crops.relative(flat, np.arange(len(flat)))
    for row in range(len(flat)):
        left, top, right, bottom = crops.windows[row]
        back = shares[row] * (right - left, bottom - top) + (left, top) - 0.5
        np.testing.assert_allclose(back, flat[row], atol=1e-9)


def test_cut_once(people, tmp_path):
    """The second time no file is written; a changed picture is cut anew."""
    first = cut_crops(people.table, people.pictures, tmp_path / "a")
    before = {file: file.stat().st_mtime_ns for file in first.files}
    again = cut_crops(people.table, people.pictures, tmp_path / "a")
    assert again.files == first.files
    assert {file: file.stat().st_mtime_ns for file in again.files} == before
    name = schema.texts(people.table["file_name"])[0]
    os.utime(people.pictures.folder / name, ns=(1, people.pictures.folder.joinpath(name).stat().st_mtime_ns + 1))
    assert cut_crops(people.table, people.pictures, tmp_path / "a").files[0] != first.files[0]
    assert remove_crops(tmp_path / "a") > 0
    assert not (tmp_path / "a").exists()


def test_missing_and_damaged_pictures_are_grey_and_told(people, tmp_path):
    """People stay, on grey; the sentence counts them and gives an example."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = sorted(set(schema.texts(people.table["file_name"])))
    for name in names[1:]:
        (folder / name).write_bytes((people.pictures.folder / name).read_bytes())
    (folder / names[1]).write_bytes(b"no picture")
    crops = cut_crops(people.table, Pictures(folder), tmp_path / "out")
    lost = [name in names[:2] for name in schema.texts(people.table["file_name"])]
    assert f"{sum(lost)} of {len(lost)} people are shown without their picture" in crops.notes[0]
    assert [bool(np.ptp(pixels(file)) < 4) for file in crops.files] == lost


def test_a_large_person_is_shrunk(people, tmp_path):
    """A window of 3,000 px becomes a file of 640 px, and beyond the picture's edges it is black."""
    row = schema.take(people.table, np.array([0]))
    for name, value in (("x0", -100.0), ("y0", 0.0), ("x1", 2900.0), ("y1", 1000.0)):
        column = row.schema.get_field_index(name)
        row = row.set_column(column, row.schema.field(name), schema.fixed([value], row.schema.field(name).type))
    crops = cut_crops(row, people.pictures, tmp_path)
    assert crops.sizes.tolist() == [[640, 213]]
    assert pixels(crops.files[0]).shape == (213, 640, 3)
    assert pixels(crops.files[0])[:, 200:].max() < 20


def test_a_folder_that_cannot_be_written(people, tmp_path):
    """Said in a sentence, with the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(BrowseError, match="crops cannot be written"):
        cut_crops(people.table, people.pictures, tmp_path / "file" / "crops")
    grey = cut_crops(people.table, Pictures(), tmp_path / "grey")
    assert grey.notes == ()


def test_pictures_inside_the_dataset(people, crowd, tmp_path):
    """They are found without a folder and cut as those of the folder are; read anew, the files have the same names."""
    gt, _, folder = crowd
    names = gt.images["file_name"].to_pylist()
    data = [base64.b64encode((folder / name).read_bytes()) for name in names]
    columns = {"image_id": gt.images["image_id"], "name": names, "data": data}
    blobs = pa.table(columns, schema=schema.BLOBS)
    ids = gt.images["image_id"].to_pylist()
    first, again = (
        cut_crops(people.table, pictures_of(replace(gt, blobs=blobs), None, ids), tmp_path / out) for out in "ab"
    )
    plain = cut_crops(people.table, people.pictures, tmp_path / "c")
    assert first.notes == () and [file.name for file in first.files] == [file.name for file in again.files]
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in plain.files]
