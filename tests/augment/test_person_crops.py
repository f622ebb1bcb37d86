"""Crops straight from the files are those of whole pictures, in any order and any worker."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kpdata
from kpdata import schema
from kpdata.augment import EpochSampler, PersonCrops, Sample, Samples, TopDown, generator, people, presets
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError
from kpdata.synth import synthesize, write_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    dataset, folder = synthesize(4, seed=3, size=(320, 240)), tmp_path_factory.mktemp("photos")
    write_images(dataset, folder)
    return dataset, folder


def by_row(dataset: Dataset, folder: Path) -> dict[int, Sample]:
    return {int(one.extras["rows"][0]): one for whole in Samples(dataset, folder) for one in people(whole)}


def same(a: Sample, b: Sample) -> None:
    for name in ("image", "keypoints", "visibility", "bbox", "area", "matrix", "annotation_ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.mirrored, a.image_id, a.extras["top_down"]) == (b.mirrored, b.image_id, b.extras["top_down"])
    assert a.extras["file_name"] == b.extras["file_name"] and a.extras["rows"] == b.extras["rows"]


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_equal_to_whole_pictures(name: str, photos: tuple[Dataset, Path]) -> None:
    """With every preset: the same draws, pixels and targets as from the picture decoded as a whole."""
    dataset, folder = photos
    preset, whole = presets.named(name), by_row(dataset, folder)
    crops = PersonCrops(dataset, folder, preset, seed=5)
    for place in EpochSampler(len(crops), seed=1):
        epoch, index = place
        same(crops[place], preset(whole[int(crops.rows[index])], generator(5, epoch, index)))


def test_on_photographs(real_data: Path) -> None:
    """COCO's photographs: every person of val2017's, one epoch, bit by bit, most of them from fewer rows."""
    folder = real_data / "coco_mini"
    dataset = kpdata.read(folder / "person_keypoints_val2017.json")
    preset, crops = presets.hrnet(), PersonCrops(dataset, folder / "val2017", presets.hrnet())
    whole = by_row(dataset, folder / "val2017")
    assert len(crops) > 50
    for index, row in enumerate(crops.rows.tolist()):
        same(crops[2, index], preset(whole[row], generator(0, 2, index)))


def test_in_workers(photos: tuple[Dataset, Path]) -> None:
    """Sent to another process it gives the same crops; one place twice, too; another epoch does not."""
    crops = PersonCrops(*photos, presets.mmpose())
    other = pickle.loads(pickle.dumps(crops))
    same(crops[1, 2], other[1, 2])
    same(crops[1, 2], crops[1, 2])
    same(crops[0, 2], crops[2])
    assert not np.array_equal(crops[0, 2].image, crops[1, 2].image)


def test_sizes_that_are_not_known(photos: tuple[Dataset, Path]) -> None:
    """A dataset without widths and heights: the picture says them."""
    dataset, folder = photos
    images = dataset.images
    for side in ("width", "height"):
        nothing = np.zeros(images.num_rows, bool)
        none = schema.fixed(np.zeros(images.num_rows, np.int32), images.schema.field(side).type, nothing)
        images = images.set_column(images.schema.get_field_index(side), images.schema.field(side), none)
    plain = TopDown()
    same(PersonCrops(replace(dataset, images=images), folder, plain)[0], PersonCrops(dataset, folder, plain)[0])


def test_bad_input(photos: tuple[Dataset, Path], tmp_path: Path) -> None:
    """What is wrong is said where it is found."""
    dataset, folder = photos
    with pytest.raises(SchemaError, match="neither a preset nor a TopDown"):
        PersonCrops(dataset, folder, max)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="expected positions in a table of"):
        PersonCrops(dataset, folder, TopDown(), [len(dataset)])
    with pytest.raises(FormatError, match="no such picture"):
        PersonCrops(dataset, tmp_path, TopDown())[0]
    with pytest.raises(IndexError):
        crops = PersonCrops(dataset, folder, TopDown(), [0])
        crops[0, 1]
