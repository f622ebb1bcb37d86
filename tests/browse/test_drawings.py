"""The JPEGs show each person where the pictures have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kpdata.browse.drawings import draw_people
from kpdata.browse.people import gather
from kpdata.browse.pictures import Pictures
from kpdata.errors import BrowseError, DestinationExists
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One person, and a black picture with a white square around each labelled keypoint."""
    gt = synthesize(1, seed=5, people=(1, 1))
    folder = tmp_path_factory.mktemp("pictures")
    picture = np.zeros((480, 640, 3), np.uint8)
    for x, y in gt.keypoints[0][gt.visibility[0] > 0].round().astype(int):
        picture[max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7] = 255
    Image.fromarray(picture).save(folder / gt.images["file_name"][0].as_py(), quality=98)
    return gt, folder


def test_the_skeleton_lies_on_the_picture(one, tmp_path):
    """Label left and prediction right: each labelled keypoint's dot stands in its white square."""
    gt, folder = one
    exact = simulate_predictions(gt, seed=1, jitter=0.0)[0]
    people = gather(gt, exact, images=folder)
    count, notes = draw_people(people, tmp_path / "out")
    assert (count, notes) == (len(people.table), [])
    row = next(r for r in people.table.to_pylist() if r["annotation_id"] is not None and r["detection_id"] is not None)
    name = next(path for path in (tmp_path / "out").iterdir() if path.stem.endswith(f"_{row['annotation_id']}"))
    drawn = np.asarray(Image.open(name).convert("RGB")).astype(int)
    corner = np.floor([row["x0"], row["y0"]])
    scale = 420 / max(np.ceil(row["x1"]) - corner[0], np.ceil(row["y1"]) - corner[1])
    places = np.array(row["keypoints"]).reshape(-1, 2)
    for x, y in (places[np.isfinite(places).all(1)] - corner) * scale:
        left, top = int(x), int(y)
        around = drawn[max(top - 9, 0) : top + 10, max(left - 9, 0) : left + 10].reshape(-1, 3)
        assert around.max() > 200  # the square's white
        assert (around.max(1) - around.min(1)).max() > 60  # the dot's colour


def test_without_pictures_and_twice(one, tmp_path):
    """Grey panels and a sentence where pictures are missing; force replaces the folder, but no strangers."""
    gt, _ = one
    (tmp_path / "empty").mkdir()
    people = replace(gather(gt), pictures=Pictures(tmp_path / "empty"))
    count, notes = draw_people(people, tmp_path / "out")
    assert (count, len(list((tmp_path / "out").glob("*.jpg")))) == (1, 1)
    assert notes[0].startswith("1 of 1 people are drawn without their picture, such as ")
    with pytest.raises(DestinationExists):
        draw_people(people, tmp_path / "out")
    draw_people(people, tmp_path / "out", force=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(BrowseError, match=r"holds 'notes.txt'"):
        draw_people(people, tmp_path / "out", force=True)
