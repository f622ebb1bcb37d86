"""MPII as arrays: the flat `.mat`, Newell's `.h5`, predictions; round trips, refusals, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from kpdata import converters, schema
from kpdata.converters import mpii
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, KpdataError

CLOSE = {"rtol": 0, "atol": 1e-9}


def facts(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.datasets["mpii"])


def codes(dataset: Dataset) -> list[str]:
    return [finding["code"] for finding in facts(dataset).get("findings", [])]


def extras(dataset: Dataset, row: int = 0, table: str = "persons") -> Any:
    text = getattr(dataset, table)["extras"][row].as_py()
    return None if text is None else json.loads(text)


def row(dataset: Dataset, name: str, number: int = 0) -> Any:
    return dataset.persons[name][number].as_py()


def _h5(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


# --------------------------------------------------------------------------------------------------------------- arrays


def test_newell_h5_is_what_the_file_says(real_data: Path) -> None:
    """visible 0 is occluded, with (0, 0) missing; other arrays stay as they are; `person` has its column."""
    path = real_data / "mpii" / "valid.h5"
    dataset = mpii.read(path)
    with h5py.File(path) as file:
        raw = {name: file[name][()] for name in file}

    gone = (raw["part"] == 0).all(-1) & (raw["visible"] == 0)
    np.testing.assert_array_equal(dataset.keypoints, np.where(gone[..., None], np.nan, raw["part"] - 1))
    np.testing.assert_array_equal(dataset.visibility, np.where(gone, 0, raw["visible"] + 1))
    assert (dataset.visibility == 1).sum() == 10243 and gone.sum() == 3088
    names = dataset.images["file_name"].to_pylist()
    assert [names[i] for i in dataset.image_rows()] == [name.decode() for name in raw["imgname"]]
    np.testing.assert_array_equal(schema.values(dataset.persons["person_index"]), raw["person"])
    assert [json.loads(t)["torsoangle"] for t in dataset.persons["extras"].to_pylist()] == raw["torsoangle"].tolist()


def test_h5_attributes_come_back(real_data: Path, tmp_path: Path) -> None:
    """Newell's file says its name in an attribute, and nothing else."""
    converters.write(mpii.read(real_data / "mpii" / "valid.h5"), tmp_path / "a.h5", "mpii")
    with h5py.File(tmp_path / "a.h5") as file:
        assert dict(file.attrs) == {"name": "mpii"}


def cell(*items: Any) -> np.ndarray:
    out = np.empty((1, len(items)), object)
    out[0, :] = items
    return out


def flat(count: int = 3, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    base = {
        "pos_gt_src": rng.uniform(2, 300, (16, 2, count)),
        "jnt_missing": np.zeros((16, count)),
        "headboxes_src": rng.uniform(2, 300, (2, 2, count)),
    }
    return {**base, **changes}


def test_flat_head_boxes_are_corner_to_corner() -> None:
    """w and h are differences of the 1-based corners, so that the diagonal is the head size that PCKh measures."""
    raw = flat(1, headboxes_src=np.array([[[11.0], [22.0]], [[41.0], [62.0]]]))
    assert row(mpii.decode(raw), "head_bbox") == [10, 21, 30, 40]


def test_flat_rows_are_placed_by_their_names() -> None:
    """dataset_joints in another order: rows go to their ids, and the file comes back in its own order."""
    names = [
        "rank",
        "rkne",
        "rhip",
        "lhip",
        "lkne",
        "lank",
        "pelv",
        "thrx",
        "neck",
        "head",
        "rwri",
        "relb",
        "rsho",
        "lsho",
        "lelb",
        "lwri",
    ]
    order = np.random.default_rng(0).permutation(16)
    raw = flat(4)
    shuffled = {
        **raw,
        "pos_gt_src": raw["pos_gt_src"][order],
        "jnt_missing": raw["jnt_missing"][order],
        "dataset_joints": cell(*[names[i] for i in order]),
    }
    dataset = mpii.decode(shuffled)
    np.testing.assert_array_equal(dataset.keypoints, mpii.decode(raw).keypoints)
    again = mpii.encode(dataset)[0]
    np.testing.assert_allclose(again["pos_gt_src"], shuffled["pos_gt_src"], **CLOSE)
    assert again["dataset_joints"].ravel().tolist() == [names[i] for i in order]


def test_flat_missing_is_a_mask_not_a_zero() -> None:
    """jnt_missing decides: a labelled (0, 0) is a point, a missing one with a coordinate keeps it."""
    raw = flat(1)
    raw["pos_gt_src"][:3, :, 0] = [[0, 0], [0, 0], [7, 8]]
    raw["jnt_missing"][1:3] = 1
    dataset = mpii.decode(raw)
    assert dataset.visibility[0, :4].tolist() == [3, 0, 0, 3]
    assert dataset.keypoints[0, [0, 2]].tolist() == [[-1, -1], [6, 7]] and np.isnan(dataset.keypoints[0, 1]).all()
    np.testing.assert_allclose(mpii.encode(dataset)[0]["pos_gt_src"], raw["pos_gt_src"], **CLOSE)


@pytest.mark.parametrize("count", [0, 1, 2, 16])
def test_flat_files_of_few_people(tmp_path: Path, count: int) -> None:
    """MATLAB drops the last axis of one person; 2 and 16 people confuse no axis."""
    savemat(tmp_path / "a.mat", {k: v[..., 0] if count == 1 and v.ndim == 3 else v for k, v in flat(count).items()})
    dataset = converters.read(tmp_path / "a.mat", "mpii")
    assert len(dataset) == count
    converters.write(dataset, tmp_path / "b.mat", "mpii")
    np.testing.assert_allclose(loadmat(tmp_path / "b.mat")["pos_gt_src"], flat(count)["pos_gt_src"], **CLOSE)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (flat(3, jnt_missing=np.zeros((16, 4))), "'jnt_missing' is 16x4, expected 16x3"),
        (flat(3, pos_gt_src=np.zeros((14, 2, 3))), "'pos_gt_src' is 14x2x3, expected 16x2xN"),
        (flat(3, headboxes_src=np.zeros((4, 3))), "'headboxes_src' is 4x3, expected 2x2x3"),
        (flat(3, pos_gt_src=cell("a")), "'pos_gt_src' holds cells or objects, expected numbers"),
        (
            flat(3, dataset_joints=cell("rank", "nose")),
            r"'dataset_joints' lists 2 names \('rank', 'nose' …\), expected the 16",
        ),
        ({"x": np.zeros((3, 3)), "speed": np.zeros(4)}, r"the variables 'x' 3x3, 'speed' 4; expected 'RELEASE'"),
        ({"a": np.zeros((2, 16, 5)), "b": np.zeros((2, 16, 5))}, "the variables 'a' 2x16x5, 'b' 2x16x5; expected"),
        ({"part": np.zeros((3, 16)), "visible": np.zeros((3, 16))}, "'part' is 3x16, expected Nx16x2"),
        ({"part": np.zeros((3, 16, 2)), "visible": np.zeros((2, 16))}, "'visible' is 2x16, expected 3x16"),
        (
            {"part": np.zeros((3, 16, 2)), "visible": np.zeros((3, 16)), "imgname": np.zeros(3)},
            "'imgname' is 3 of float64, expected 3 texts",
        ),
    ],
)
def test_array_refusals_name_the_variable(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        mpii.decode(raw, source="x.mat")


def newell(count: int = 4, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    base = {
        "part": rng.integers(1, 500, (count, 16, 2)).astype(float),
        "visible": rng.integers(0, 2, (count, 16)).astype(float),
        "center": rng.integers(1, 500, (count, 2)).astype(float), "scale": rng.uniform(1, 5, count),
        "imgname": np.array([f"{n}.jpg".encode() for n in range(count)]),
    }  # fmt: skip
    return {**base, **changes}


def test_h5_with_raw_center_and_scale_is_left_alone() -> None:
    """Whole-pixel centres are raw already: taken as they are, written back as they are."""
    raw = newell()
    dataset = mpii.decode(raw)
    assert facts(dataset)["center_scale"] == "raw"
    np.testing.assert_array_equal(schema.matrix(dataset.persons["center"], 2), raw["center"] - 1)
    np.testing.assert_array_equal(schema.values(dataset.persons["scale"]), raw["scale"])
    again = mpii.encode(dataset)[0]
    np.testing.assert_allclose(again["center"], raw["center"], **CLOSE)


def test_h5_tweak_is_undone_and_redone() -> None:
    """y + 15 x scale and scale x 1.25 are recognised, taken out, and put back within 1e-9."""
    plain = newell()
    tweaked = {
        **plain,
        "center": plain["center"] + np.column_stack([np.zeros(4), 15 * plain["scale"]]),
        "scale": 1.25 * plain["scale"],
    }
    dataset = mpii.decode(tweaked)
    np.testing.assert_array_equal(schema.matrix(dataset.persons["center"], 2), plain["center"] - 1)
    np.testing.assert_allclose(schema.values(dataset.persons["scale"]), plain["scale"], rtol=0, atol=1e-12)
    again = mpii.encode(dataset)[0]
    np.testing.assert_allclose(again["center"], tweaked["center"], **CLOSE)
    np.testing.assert_allclose(again["scale"], tweaked["scale"], **CLOSE)


def test_h5_that_cannot_be_told_is_taken_as_it_is() -> None:
    """Centres with fractions either way: stored as in the file, and provenance says unknown."""
    raw = newell(center=np.array([[1.2, 3.4]] * 4))
    dataset = mpii.decode(raw)
    assert facts(dataset)["center_scale"] == "unknown" and row(dataset, "center") == pytest.approx([0.2, 2.4])
    np.testing.assert_allclose(mpii.encode(dataset)[0]["center"], raw["center"], **CLOSE)


def test_image_names_as_character_codes() -> None:
    """Newell's own script stores names as rows of codes, padded with NULs: read as names, written as codes."""
    codes_ = np.zeros((4, 8))
    for n in range(4):
        codes_[n, :5] = list(f"{n}.jpg".encode())
    dataset = mpii.decode(newell(imgname=codes_))
    assert dataset.images["file_name"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    np.testing.assert_array_equal(mpii.encode(dataset)[0]["imgname"], codes_)


def test_h5_nan_in_other_arrays_comes_back(tmp_path: Path) -> None:
    """A NaN torso angle is null in extras and NaN in the file; scalars and texts beside the arrays come back too."""
    from kpdata.converters import _matlab

    raw = newell(torsoangle=np.array([1.0, np.nan, 3.0, np.inf]), maker="someone", version=3)
    (tmp_path / "a.h5").write_bytes(_matlab.hdf5_bytes(raw))
    dataset = converters.read(tmp_path / "a.h5")
    assert extras(dataset, 1)["torsoangle"] is None
    converters.write(dataset, tmp_path / "b.h5", "mpii")
    before, after = _h5(tmp_path / "a.h5"), _h5(tmp_path / "b.h5")
    assert before.keys() == after.keys() and after["maker"] == before["maker"] and after["version"] == 3
    np.testing.assert_array_equal(after["torsoangle"], before["torsoangle"])


@pytest.mark.parametrize("shape", [(2, 16, 7), (16, 2, 7), (7, 16, 2), (16, 2)])
def test_predictions_of_every_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The axes are told by their lengths, and written back as they were."""
    points = np.random.default_rng(1).uniform(1, 300, shape).astype(np.float32)
    savemat(tmp_path / "a.mat", {"pred": points})
    dataset = converters.read(tmp_path / "a.mat")
    full = np.atleast_3d(points)
    axes = {"2": (2, 1, 0), "16": (2, 0, 1), "7": (0, 1, 2)}[str(shape[0])]
    np.testing.assert_array_equal(dataset.keypoints + 1, full.transpose(axes).astype(float))
    converters.write(dataset, tmp_path / "b.mat", "mpii")
    assert loadmat(tmp_path / "b.mat")["pred"].tobytes() == full.tobytes()


def test_two_people_make_the_axes_ambiguous() -> None:
    """2 x 16 x 2 can be read two ways: a warning says which was taken."""
    dataset = mpii.decode({"preds": np.ones((2, 16, 2))})
    assert codes(dataset) == ["axes-ambiguous"] and "2xKxN or NxKx2" in facts(dataset)["findings"][0]["message"]


def test_matlab_73_predictions_are_read(tmp_path: Path) -> None:
    """A .mat of version 7.3 is HDF5 with reversed axes: arrays are read as MATLAB shows them."""
    points = np.random.default_rng(2).uniform(1, 9, (16, 2, 5))
    _save73(tmp_path / "a.mat", {"preds": points})
    dataset = converters.read(tmp_path / "a.mat")
    np.testing.assert_array_equal(dataset.keypoints + 1, points.transpose(2, 0, 1) - 1 + 1)


def test_matlab_73_struct_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A struct of version 7.3: one sentence says how to save it so that it can be read."""
    _save73(tmp_path / "a.mat", {"RELEASE": None})
    with pytest.raises(FormatError, match=r"'RELEASE' is an HDF5 group .* save\(file, 'RELEASE', '-v7'\)"):
        converters.read(tmp_path / "a.mat")


def _save73(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            if value is None:
                file.create_group(name).attrs["MATLAB_class"] = np.bytes_("struct")
            else:
                file.create_dataset(name, data=value.T).attrs["MATLAB_class"] = np.bytes_("double")
    data = bytearray(path.read_bytes())
    data[:128] = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(bytes(data))


@given(st.integers(0, 6), st.integers(0, 2**32 - 1), st.sampled_from(["flat", "h5"]))
def test_array_round_trip(count: int, seed: int, variant: str) -> None:
    """Every variable comes back within 1e-9, missing joints missing."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-50, 3000, (count, 16, 2)).round(rng.integers(0, 12))
    gone = rng.random((count, 16)) < 0.3
    points[gone] = 0
    if variant == "flat":
        raw = {
            "pos_gt_src": points.transpose(1, 2, 0),
            "jnt_missing": gone.T.astype(float),
            "headboxes_src": rng.uniform(0, 99, (2, 2, count)),
        }
    else:
        visible = np.where(gone, 0, rng.integers(0, 2, gone.shape)).astype(float)
        raw = {"part": points, "visible": visible, "scale": rng.uniform(0, 9, count)}
        raw |= {"center": rng.uniform(0, 999, (count, 2)), "person": rng.integers(0, 9, count).astype(float)}
    dataset = mpii.decode(raw)
    again, report = mpii.encode(dataset)
    assert not report
    for key, value in raw.items():
        np.testing.assert_allclose(again[key], value, **CLOSE) if count or key != "person" else None
    before, after = (schema.matrix(d.persons["keypoints"], 32) for d in (dataset, mpii.decode(again)))
    np.testing.assert_allclose(after, before, **CLOSE)
    np.testing.assert_array_equal(mpii.decode(again).visibility, dataset.visibility)


def _damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes cut somewhere, or with a few of them changed."""
    if rng.random() < 0.4:
        return data[: rng.integers(0, len(data))]
    out = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 12)):
        out[place] = rng.integers(0, 256)
    return bytes(out)


def _read_or_refuse(path: Path) -> None:
    for name in (None, "mpii"):
        try:
            converters.read(path, name)
        except KpdataError:
            continue


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["flat", "h5"])
def test_damaged_files_end_in_a_dataset_or_a_sentence(tmp_path: Path, kind: str) -> None:
    """Cut files and flipped bytes raise nothing but a KpdataError."""
    path = tmp_path / f"a.{kind}"
    mpii.write(mpii.decode(newell() if kind == "h5" else flat(3)), path, variant=kind)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(80):
        path.write_bytes(_damaged(data, rng))
        _read_or_refuse(path)
