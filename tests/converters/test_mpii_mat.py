"""MPII's official struct in every dress: emptiness, order, dtypes, what the release says beside it, damage."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from kpdata import converters
from kpdata.converters import _mat5, mpii
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, KpdataError, LossyWrite

CLOSE = {"rtol": 0, "atol": 1e-9}


def facts(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.datasets["mpii"])


def codes(dataset: Dataset) -> list[str]:
    return [finding["code"] for finding in facts(dataset).get("findings", [])]


def extras(dataset: Dataset, row: int = 0, table: str = "persons") -> Any:
    text = getattr(dataset, table)["extras"][row].as_py()
    return None if text is None else json.loads(text)


@pytest.fixture(scope="module")
def official(real_data: Path) -> Dataset:
    """The 2,958 validation people of the official struct, read once."""
    return mpii.read(real_data / "mpii" / "detections.mat")


def row(dataset: Dataset, name: str, number: int = 0) -> Any:
    return dataset.persons[name][number].as_py()


# ---------------------------------------------------------------------------------------- the struct's many emptinesses

EMPTY = np.zeros((0, 0))


def struct(**fields: Any) -> np.ndarray:
    """A 1x1 MATLAB struct."""
    out = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        out[name][0, 0] = value
    return out


def array_of(*rows: dict[str, Any]) -> np.ndarray:
    """A 1xn MATLAB struct array; a field that a row lacks is a 0x0."""
    names = list(dict.fromkeys(name for r in rows for name in r))
    out = np.empty((1, len(rows)), [(name, object) for name in names])
    for place, r in enumerate(rows):
        for name in names:
            out[name][0, place] = r.get(name, EMPTY)
    return out


def cell(*items: Any) -> np.ndarray:
    out = np.empty((1, len(items)), object)
    for place, item in enumerate(items):
        out[0, place] = item
    return out


def released(*rects: Any, **fields: Any) -> dict[str, Any]:
    """Loaded variables of a RELEASE with one image an argument, through a real .mat file."""
    entries = [{"image": struct(name=f"{n:09d}.jpg"), "annorect": rect} for n, rect in enumerate(rects, 1)]
    buffer = io.BytesIO()
    savemat(buffer, {"RELEASE": struct(annolist=array_of(*entries), **fields)})
    return _mat5.load(buffer.getvalue())


def rect(*points: dict[str, Any], **fields: Any) -> np.ndarray:
    return array_of({"annopoints": struct(point=array_of(*points)), **fields})


def test_points_are_placed_by_id_not_by_order() -> None:
    """Three points in any order land on their ids; the other 13 are absent, without a coordinate."""
    dataset = mpii.decode(
        released(
            rect(
                {"x": 5, "y": 6, "id": 9},
                {"x": 1, "y": 2, "id": 0, "is_visible": 1},
                {"x": 3, "y": 4, "id": 15, "is_visible": 0},
            )
        )
    )
    assert dataset.visibility[0].tolist() == [2, *[0] * 8, 3, *[0] * 5, 1]
    assert dataset.keypoints[0, [0, 9, 15]].tolist() == [[0, 1], [4, 5], [2, 3]]
    assert np.isnan(dataset.keypoints[0, 1:9]).all()


@pytest.mark.parametrize(
    ("value", "visibility"),
    [(0, 1), (1, 2), ("0", 1), ("1", 2), (EMPTY, 3), (np.uint8(1), 2), (np.array([[False]]), 1), ("", 3)],
    ids=["0", "1", "char 0", "char 1", "0x0", "uint8", "logical", "empty char"],
)
def test_is_visible_in_every_dress(value: Any, visibility: int) -> None:
    """is_visible is a number, a char, a logical, or empty; empty is "unknown"."""
    dataset = mpii.decode(released(rect({"x": 5, "y": 6, "id": 3, "is_visible": value})))
    assert dataset.visibility[0, 3] == visibility and not codes(dataset)


def test_is_visible_may_be_absent_from_the_struct() -> None:
    """A single point without the field at all (one point is one struct, not an array)."""
    dataset = mpii.decode(released(rect({"x": 5, "y": 6, "id": 3})))
    assert dataset.visibility[0, 3] == 3


def test_is_visible_of_another_value_is_a_finding() -> None:
    """7 is neither: read as unknown, reported, kept."""
    dataset = mpii.decode(released(rect({"x": 5, "y": 6, "id": 3, "is_visible": 7})))
    assert dataset.visibility[0, 3] == 3 and codes(dataset) == ["is-visible-not-0-or-1"]
    assert extras(dataset) == {"is_visible_3": 7}


def test_small_unsigned_integers_do_not_wrap() -> None:
    """x 0 stored as uint8 becomes -1, not 255."""
    dataset = mpii.decode(
        released(
            rect(
                {"x": np.uint8(0), "y": np.uint8(200), "id": np.uint8(1)},
                x1=np.uint8(0),
                y1=np.uint8(1),
                x2=np.uint8(250),
                y2=np.uint16(300),
            )
        )
    )
    assert dataset.keypoints[0, 1].tolist() == [-1, 199]
    assert row(dataset, "head_bbox") == [-1, 0, 250, 299]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"annopoints": EMPTY},
        {"annopoints": EMPTY, "objpos": EMPTY, "scale": EMPTY, "x1": EMPTY},
        {"scale": 2.5, "objpos": struct(x=7, y=8)},
    ],
    ids=["nothing", "no points", "all empty", "test image"],
)
def test_missing_parts_of_a_person(fields: dict[str, Any]) -> None:
    """A rectangle without points is a person without keypoints; what it has is there."""
    dataset = mpii.decode(released(array_of(fields or {"x1": 1}), EMPTY))
    assert len(dataset) == 1 and dataset.images.num_rows == 2
    assert row(dataset, "keypoints") is None and row(dataset, "head_bbox") is None
    assert row(dataset, "center") == ([6, 7] if "x1" not in fields and "scale" in fields else None)
    assert row(dataset, "scale") == (2.5 if isinstance(fields.get("scale"), float) else None)


def test_images_without_people_stay() -> None:
    """An annorect of 0x0 is an image without people."""
    dataset = mpii.decode(released(EMPTY, rect({"x": 1, "y": 1, "id": 0}), EMPTY))
    assert dataset.images["file_name"].to_pylist() == ["000000001.jpg", "000000002.jpg", "000000003.jpg"]
    assert dataset.persons["image_id"].to_pylist() == [2]


def test_several_people_of_an_image_keep_their_index() -> None:
    """person_index counts the rectangles of an image from 0."""
    dataset = mpii.decode(released(array_of({"scale": 1.0}, {"scale": 2.0}), array_of({"scale": 3.0})))
    assert dataset.persons["person_index"].to_pylist() == [0, 1, 0]
    assert dataset.persons["scale"].to_pylist() == [1, 2, 3]


def test_names_lose_the_nuls_that_pad_them() -> None:
    """image.name padded with NULs is the name."""
    raw = {"annolist": array_of({"image": struct(name="a.jpg\0\0\0"), "annorect": EMPTY})}
    assert mpii.decode(raw).images["file_name"].to_pylist() == ["a.jpg"]


def test_the_release_says_split_video_and_activity() -> None:
    """img_train, video_list, vididx, frame_sec, single_person and act have their columns, or stand in extras."""
    raw = released(EMPTY, EMPTY, EMPTY, img_train=np.array([[1, 0, 1]]), version="12", video_list=cell("vidA", "vidB"),
                   single_person=cell(np.array([[1], [2]]), EMPTY, np.array([[1]])),
                   act=array_of({"act_name": "curling, …", "act_id": 5}, {"act_id": -1}, {"act_id": 7}))  # fmt: skip
    for entry, video, second in zip(raw["RELEASE"][0]["annolist"], (2.0, 1.0, 9.0), (15.0, 3.5, 4.0), strict=True):
        entry |= {"vididx": video, "frame_sec": second}
    dataset = mpii.decode(raw)

    assert dataset.images["split"].to_pylist() == ["train", "test", "train"]
    assert dataset.images["video_id"].to_pylist() == ["vidB", "vidA", None]
    assert dataset.images["frame_index"].to_pylist() == [15, None, 4]
    assert extras(dataset, 0, "images")["single_person"] == [1, 2]
    assert extras(dataset, 0, "images")["act"]["act_name"] == "curling, …"
    assert (
        extras(dataset, 1, "images")["frame_sec"] == 3.5 and extras(dataset, 1, "images").get("single_person") is None
    )
    assert extras(dataset, 2, "images")["vididx"] == 9
    assert facts(dataset)["variables"] == {"version": "12"}


def test_other_fields_of_a_person_are_kept() -> None:
    """part_occ, head_r, torso_r stand in extras; empty ones leave no trace."""
    dataset = mpii.decode(released(rect({"x": 1, "y": 1, "id": 0}, part_occ1="1", head_r11="0.98768", torso_r12=EMPTY)))
    assert extras(dataset) == {"part_occ1": "1", "head_r11": "0.98768"}


@pytest.mark.parametrize("point", [{"x": 1, "y": 1, "id": 16}, {"x": 1, "y": 1}, {"x": EMPTY, "y": 1, "id": 2}])
def test_points_that_cannot_be_placed_are_findings(point: dict[str, Any]) -> None:
    """An id outside 0..15, none, or no coordinate: reported and kept in extras, the rest is read."""
    dataset = mpii.decode(released(rect({"x": 5, "y": 5, "id": 0}, point)))
    assert codes(dataset) == ["point-not-read"] and "point_2_not_read" in extras(dataset)
    assert dataset.visibility[0].tolist() == [3, *[0] * 15]


def test_a_point_listed_twice_is_a_finding() -> None:
    """The first of two points with one id counts."""
    dataset = mpii.decode(released(rect({"x": 5, "y": 5, "id": 0}, {"x": 9, "y": 9, "id": 0})))
    assert dataset.keypoints[0, 0].tolist() == [4, 4] and codes(dataset) == ["point-not-read"]


def test_text_for_a_number_is_refused() -> None:
    """Text where a coordinate should be names person and field."""
    with pytest.raises(FormatError, match=r"person 1: 'x' is 'abc', expected a number"):
        mpii.decode(released(rect({"x": "abc", "y": 1, "id": 0})))


def test_an_annolist_that_is_no_struct_is_refused() -> None:
    with pytest.raises(FormatError, match="'annolist' is no struct"):
        mpii.decode({"annolist": np.ones((3, 3))})


def test_the_struct_is_written_as_json_and_as_flat_mat(real_data: Path, official: Dataset, tmp_path: Path) -> None:
    """Read only: JSON and the flat .mat say what they lose, and hold the file's own numbers."""
    with pytest.raises(LossyWrite, match="visibility: 38,378, head_bbox: 2,958"):
        converters.write(official, tmp_path / "a.json", "mpii")
    assert not (tmp_path / "a.json").exists()

    converters.write(official, tmp_path / "a.json", "mpii", allow_lossy=True)
    rows, first = (
        json.loads((tmp_path / "a.json").read_text()),
        json.loads((real_data / "mpii" / "test_mpii.json").read_text())[0],
    )
    assert (rows[0]["joints_vis"], rows[0]["center"]) == (first["joints_vis"], first["center"])
    np.testing.assert_allclose(rows[0]["joints"], first["joints"], atol=1e-4)
    converters.write(official, tmp_path / "a.mat", "mpii", allow_lossy=True)
    flat, published = loadmat(tmp_path / "a.mat"), loadmat(real_data / "mpii" / "detections_our_format.mat")
    for key in ("pos_gt_src", "jnt_missing", "headboxes_src"):
        said = published[key] != 0  # the official points have 17 stray zeros
        np.testing.assert_allclose(flat[key][said], published[key][said], atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_damaged_structs_end_in_a_dataset_or_a_sentence(tmp_path: Path) -> None:
    """Cut files and flipped bytes of a struct raise nothing but a KpdataError, compressed or not."""
    people = rect({"x": 1, "y": 2, "id": 3, "is_visible": "1"}, scale=2.5)
    entries = array_of({"image": struct(name="a.jpg"), "annorect": people})
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    for compressed in (True, False):
        savemat(path, {"RELEASE": struct(annolist=entries)}, do_compression=compressed)
        data = path.read_bytes()
        for _ in range(100):
            out = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.4 else data)
            for place in rng.integers(0, len(out), rng.integers(0, 12)):
                out[place] = rng.integers(0, 256)
            path.write_bytes(bytes(out))
            for name in (None, "mpii"):
                try:
                    converters.read(path, name)
                except KpdataError:
                    continue
