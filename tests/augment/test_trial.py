"""The pass over people: who is taken, with which box, and what is measured of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kpdata import schema
from kpdata.augment.presets import hrnet, simple_baseline
from kpdata.augment.sample import Sample
from kpdata.augment.trial import Trial, measure, spread_out, usable, with_box
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton
from kpdata.synth import synthesize, write_images

PAIR = Skeleton("pair_2", ("a", "b"), flip_pairs=frozenset())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six made-up images with their dataset: (dataset, folder)."""
    dataset, folder = synthesize(6, seed=2, size=(160, 120), crowds=0.5), tmp_path_factory.mktemp("photos")
    write_images(dataset, folder)
    return dataset, folder


def test_who_is_taken(photos):
    """Everybody with a labelled keypoint, in the table's order; nobody else."""
    dataset, _ = photos
    labelled = (dataset.visibility > 0).any(1) & ~schema.values(dataset.persons["iscrowd"])
    assert 0 < labelled.sum() < len(dataset)  # a crowd is among them
    assert usable(dataset).tolist() == np.flatnonzero(labelled).tolist()
    with pytest.raises(SchemaError, match="nobody to augment: of 0 people"):
        usable(dataset.select(persons=np.zeros(len(dataset), bool)))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_evenly_spread(count, expected):
    """First and last are among them, none twice, and no more than there are."""
    assert spread_out(np.arange(10), count).tolist() == expected


def test_each_row_has_its_own_numbers(photos):
    """Rows are those of the whole dataset, and a row's draws are the same whoever else is taken."""
    dataset, folder = photos
    rows = usable(dataset)
    everybody = {case.row: case for case in Trial(hrnet(), 2, seed=4).cases(dataset, rows, folder)}
    assert sorted(everybody) == rows.tolist()
    for case in Trial(hrnet(), 2, seed=4).cases(dataset, rows[1::2], folder):
        assert case.drawn == everybody[case.row].drawn
        assert case.before.annotation_ids[0] == schema.values(dataset.persons["annotation_id"])[case.row]
    assert len({case.drawn for case in everybody.values()}) == len(rows)


def test_the_plain_crop_of_mpii(tmp_path):
    """Without boxes: MPII's centre, 15 times the scale lower, and 200 px of scale times 1.25, as HRNet crops it."""
    dataset = synthesize(2, seed=3, size=(160, 120), skeleton="mpii_16")
    write_images(dataset, tmp_path)
    centers, scales = schema.matrix(dataset.persons["center"], 2), schema.values(dataset.persons["scale"])
    cases = list(Trial(simple_baseline((256, 256)), 1).cases(dataset, usable(dataset), tmp_path))
    assert cases
    for case in cases:
        factor = 256 / (scales[case.row] * 1.25 * 200)
        middle = centers[case.row] + (0, 15 * scales[case.row])
        expected = np.array([[factor, 0, 128 - factor * middle[0]], [0, factor, 128 - factor * middle[1]]])
        np.testing.assert_allclose(case.plain.matrix[:2], expected, rtol=1e-9)


def test_boxes_of_keypoints():
    """No box: the extent of the labelled keypoints, a tenth more on each side; one point makes none."""

    def one(visibility, bbox=None):
        xy = np.array([[[10.0, 20], [30, 60]]])
        return Sample(np.zeros((80, 80, 3), np.uint8), xy, np.array([visibility], np.int8), PAIR, bbox=bbox)

    assert with_box(one((2, 1))).bbox.tolist() == [[8, 16, 24, 48]]
    assert with_box(one((2, 0))) is None
    given = one((2, 0), np.array([[1.0, 2, 3, 4]]))
    assert with_box(given) is given
    assert with_box(one((2, 1), np.zeros((1, 4)))).bbox.tolist() == [[8, 16, 24, 48]]


def test_measured_is_what_was_drawn(photos):
    """Turn, flip and scale read off the maps are those of the draw; points outside are counted one by one."""
    dataset, folder = photos
    preset = hrnet(half_body=0)
    seen = 0
    for case in Trial(preset, 5, seed=1).cases(dataset, usable(dataset), folder):
        found, drawn = measure(preset, case), [numbers.crop for numbers in case.drawn]
        np.testing.assert_allclose(found.turn, [crop.rotation for crop in drawn], atol=1e-6)
        np.testing.assert_allclose(found.scale, [crop.factor for crop in drawn], rtol=1e-9)
        assert found.flipped.tolist() == [crop.flip for crop in drawn]
        lost = [
            sum(
                v > 0 and not (-0.5 <= x < 191.5 and -0.5 <= y < 255.5)
                for (x, y), v in zip(after.keypoints[0].tolist(), after.visibility[0].tolist(), strict=True)
            )
            for after in case.after
        ]
        assert found.lost.tolist() == lost
        seen += sum(lost)
    assert seen > 0


def test_half_bodies_are_measured(photos):
    """With half body at every draw, each who may has one, and upper is told from lower."""
    dataset, folder = photos
    preset = hrnet(half_body=1)
    preset = replace(preset, crop=replace(preset.crop, half_body=replace(preset.crop.half_body, upper_p=1.0)))
    for case in Trial(preset, 2).cases(dataset, usable(dataset), folder):
        found = measure(preset, case)
        enough = int((case.before.visibility > 0).sum()) > 8
        assert found.half.tolist() == found.may_half.tolist() == [enough] * 2
        assert found.upper[found.half].all()
        assert np.isnan(found.shift).all() == enough
