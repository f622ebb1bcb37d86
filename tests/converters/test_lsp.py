"""LSP and LSPET: one shape, two meanings; bit-equal ways back; refusals and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from kpdata import converters, schema
from kpdata.converters import _mat5, coco, lsp
from kpdata.converters._source import Source
from kpdata.dataset import Dataset, open_dataset
from kpdata.errors import DestinationExists, FormatError, KpdataError, LossyWrite, SchemaError, UnknownFormat


def facts(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.datasets["lsp"])


def codes(dataset: Dataset) -> list[str]:
    return [finding["code"] for finding in facts(dataset).get("findings", [])]


def joints(count: int = 3, dataset: str = "lsp", seed: int = 0, share: float | None = None) -> np.ndarray:
    """Random joints of either layout; a share of ones as the real files have it."""
    rng = np.random.default_rng(seed)
    share = share if share is not None else {"lsp": 0.07, "lspet": 0.88}[dataset]
    block = np.concatenate([rng.uniform(-20, 200, (count, 14, 2)), rng.random((count, 14, 1)) < share], axis=2)
    return block.transpose(2, 1, 0) if dataset == "lsp" else block.transpose(1, 2, 0)


# ------------------------------------------------------------------------------------------------------- the real files


def test_lsp_third_number_is_occluded(real_data: Path) -> None:
    """LSP: 1 is occluded, 0 visible, nothing absent; coordinates are not shifted."""
    path = real_data / "lsp" / "lsp-joints-OC.mat"
    raw, dataset = loadmat(path)["joints"], lsp.read(path, dataset="lsp", centric="observer")
    np.testing.assert_array_equal(dataset.keypoints, raw[:2].transpose(2, 1, 0))
    np.testing.assert_array_equal(dataset.visibility, np.where(raw[2].T == 1, 1, 2))
    assert np.bincount(dataset.visibility.ravel()).tolist() == [0, 2044, 25956]
    said = facts(dataset)
    assert (said["coordinate_base"], said["coordinate_shift"], said["centric"]) == ("unknown", 0, "observer")
    assert "findings" not in said


def test_lspet_third_number_is_visible(real_data: Path) -> None:
    """LSPET: 1 is visible, 0 not labelled, and coordinates at 0 are kept as they stand."""
    path = real_data / "lspet" / "joints.mat"
    raw, dataset = loadmat(path)["joints"], lsp.read(path, dataset="lspet")
    np.testing.assert_array_equal(dataset.keypoints, raw[:, :2].transpose(2, 0, 1))
    np.testing.assert_array_equal(dataset.visibility, np.where(raw[:, 2].T == 1, 2, 0))
    assert (dataset.keypoints[dataset.visibility == 0] != 0).any()
    assert facts(dataset)["centric"] == "unknown"


def test_image_names_and_splits(real_data: Path) -> None:
    """Names and splits by position: 4 digits and a test half for LSP, 5 digits and training only for LSPET."""
    small = lsp.read(real_data / "lsp" / "lsp-joints-OC.mat").images
    large = lsp.read(real_data / "lspet" / "joints.mat").images
    assert [small["file_name"][i].as_py() for i in (0, 1999)] == ["im0001.jpg", "im2000.jpg"]
    assert [large["file_name"][i].as_py() for i in (0, 9999)] == ["im00001.jpg", "im10000.jpg"]
    assert [small["split"][i].as_py() for i in (999, 1000)] == ["train", "test"]
    assert set(large["split"].to_pylist()) == {"train"}
    assert all((real_data / "lspet" / "images" / name).exists() for name in large["file_name"].to_pylist()[:40])


@pytest.mark.parametrize(("name", "meaning"), [("lsp/lsp-joints-OC.mat", "lsp"), ("lspet/joints.mat", "lspet")])
@pytest.mark.parametrize("told", [True, False])
def test_written_back_bit_equal(real_data: Path, tmp_path: Path, name: str, meaning: str, told: bool) -> None:
    """Nothing is lost: the file, a .kp folder, the file: same shape, dtype, order and bits; told or guessed."""
    dataset = converters.read(real_data / name, **({"dataset": meaning} if told else {}))
    dataset.save(tmp_path / "x.kp")
    again = open_dataset(tmp_path / "x.kp")
    assert again == dataset
    report = lsp.write(again, tmp_path / "back.mat")
    before, after = loadmat(real_data / name)["joints"], loadmat(tmp_path / "back.mat")["joints"]
    assert not report and after.dtype == before.dtype and after.shape == before.shape
    assert after.tobytes() == before.tobytes()
    assert ("meaning-by-shape" in codes(dataset)) is not told


def test_published_pck_of_predictions(real_data: Path) -> None:
    """Truth and predictions share origin and order: PCK@0.2 over the 1,000 test people is the published 81.5."""
    truth = lsp.read(real_data / "lsp" / "lsp-joints-OC.mat").keypoints[1000:]
    dataset = lsp.read(real_data / "lsp" / "pred_keypoints_lsp_oc.mat")
    torso = np.linalg.norm(truth[:, 9] - truth[:, 2], axis=1)
    near = np.linalg.norm(truth - dataset.keypoints, axis=2) <= 0.2 * torso[:, None]
    # the published figure is the mean over head, shoulders, elbows, wrists, hips, knees, ankles
    groups = [[12, 13], [8, 9], [7, 10], [6, 11], [2, 3], [1, 4], [0, 5]]
    assert 100 * np.mean([near[:, group].mean() for group in groups]) == pytest.approx(81.5, abs=0.1)
    assert (dataset.visibility == 3).all() and dataset.persons["score"].null_count == 1000
    assert facts(dataset)["join"] == "order" and dataset.images["file_name"].null_count == 1000


def test_predictions_come_back_bit_equal(real_data: Path, tmp_path: Path) -> None:
    """The variable's name, axes and bits are the file's own."""
    path = real_data / "lsp" / "pred_keypoints_lsp_oc.mat"
    assert not converters.write(converters.read(path), tmp_path / "p.mat", "lsp")
    before, after = loadmat(path)["pred"], loadmat(tmp_path / "p.mat")["pred"]
    assert after.dtype == before.dtype and after.shape == before.shape and after.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", ["lsp/lsp-joints-OC.mat", "lspet/joints.mat", "lsp/pred_keypoints_lsp_oc.mat"])
def test_detected_by_content(real_data: Path, tmp_path: Path, name: str) -> None:
    """A file of any name is known by its one variable."""
    (tmp_path / "x").write_bytes((real_data / name).read_bytes())
    assert converters.detect(tmp_path / "x")[0] == "lsp"


def test_our_reader_and_scipy_agree(real_data: Path) -> None:
    """Our own reader of .mat files gives scipy's arrays, bit for bit."""
    for name in ("lsp/lsp-joints-OC.mat", "lspet/joints.mat"):
        ours, theirs = _mat5.load((real_data / name).read_bytes())["joints"], loadmat(real_data / name)["joints"]
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


# ----------------------------------------------------------------------------------------- which meaning, which options


@pytest.mark.parametrize(("dataset", "share", "percent"), [("lsp", 0.9, "9"), ("lspet", 0.05, "")])
def test_a_contradiction_asks_for_the_option(dataset: str, share: float, percent: str) -> None:
    """The shape of one data set with the ones of the other is refused, in a sentence that names --dataset."""
    with pytest.raises(FormatError, match=rf"'joints' of .*{dataset.upper()}'s shape, but .* {percent}\d?%") as error:
        lsp.decode({"joints": joints(200, dataset, share=share)})
    assert "--dataset lsp (1 = occluded) or --dataset lspet (1 = visible)" in error.value.hint


@pytest.mark.parametrize("shape", ["lsp", "lspet"])
@pytest.mark.parametrize("meaning", ["lsp", "lspet"])
def test_the_option_decides_over_the_shape(shape: str, meaning: str) -> None:
    """`dataset` says what the third number means, whatever the axes; the axes come back as they were."""
    raw = joints(20, shape, share=0.5)
    dataset = lsp.decode({"joints": raw}, dataset=meaning)
    third = raw[2].T if shape == "lsp" else raw[:, 2].T
    np.testing.assert_array_equal(dataset.visibility, np.where(third == 1, *((1, 2) if meaning == "lsp" else (2, 0))))
    again = lsp.encode(dataset)[0]["joints"]
    assert again.shape == raw.shape and again.tobytes() == np.ascontiguousarray(raw).tobytes()


def test_options_are_checked() -> None:
    with pytest.raises(SchemaError, match="dataset 'lsq', expected 'lsp' or 'lspet'"):
        lsp.decode({"joints": joints()}, dataset="lsq")
    with pytest.raises(SchemaError, match="centric 'camera', expected 'person' or 'observer'"):
        lsp.decode({"joints": joints()}, centric="camera")


def test_another_number_of_people_is_noted() -> None:
    """A part of the file has names by position: a note says so."""
    assert codes(lsp.decode({"joints": joints(5)}, dataset="lsp")) == ["people-not-as-published"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 14])
@pytest.mark.parametrize("dataset", ["lsp", "lspet"])
def test_few_people(tmp_path: Path, count: int, dataset: str) -> None:
    """One person loses the last axis in MATLAB; 3 and 14 people confuse no axis."""
    raw = joints(count, dataset)
    savemat(tmp_path / "a.mat", {"joints": raw[..., 0] if count == 1 else raw})
    found = converters.read(tmp_path / "a.mat", "lsp", dataset=dataset)
    assert len(found) == count
    np.testing.assert_array_equal(lsp.encode(found)[0]["joints"], raw)


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, np.nan])
@pytest.mark.parametrize("meaning", ["lsp", "lspet"])
def test_a_third_number_that_is_neither_is_a_finding(value: float, meaning: str) -> None:
    """Neither 0 nor 1: an error that names person and keypoint, the number kept and written back."""
    raw = joints(4, meaning)
    raw[(2, 3, 1) if meaning == "lsp" else (3, 2, 1)] = value
    dataset = lsp.decode({"joints": raw}, dataset=meaning)
    finding = facts(dataset)["findings"][0]
    assert (finding["level"], finding["annotation_id"], finding["keypoint"]) == ("error", 2, "left_hip")
    np.testing.assert_equal(dataset.persons["visibility_raw"][1].as_py()[3], value)
    assert dataset.persons["visibility_raw"].null_count == 3
    np.testing.assert_array_equal(lsp.encode(dataset)[0]["joints"], raw)


def test_negative_zero_and_nan_keep_their_bits() -> None:
    """-0.0 among coordinates and flags, NaN coordinates: the same bits come back, the NaN is reported."""
    raw = joints(4)
    raw[0, 0, 0], raw[2, 1, 0], raw[:2, 2, 1] = -0.0, -0.0, np.nan
    dataset = lsp.decode({"joints": raw}, dataset="lsp")
    assert "not-finite" in codes(dataset)
    assert lsp.encode(dataset)[0]["joints"].tobytes() == np.ascontiguousarray(raw).tobytes()


@pytest.mark.parametrize("dtype", ["f4", "i2", "u1"])
def test_the_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    """single and integer classes are written as such."""
    raw = np.abs(joints(4)).astype(dtype)
    savemat(tmp_path / "a.mat", {"joints": raw})
    converters.write(converters.read(tmp_path / "a.mat", dataset="lsp"), tmp_path / "b.mat", "lsp")
    again = loadmat(tmp_path / "b.mat")["joints"]
    assert again.dtype == raw.dtype and (again == raw).all()


def test_other_variables_come_back(tmp_path: Path) -> None:
    """Numbers, texts and cells beside `joints` are kept."""
    cells = np.empty((1, 2), object)
    cells[0, :] = ["a", "b"]
    savemat(
        tmp_path / "a.mat",
        {"joints": joints(4), "info": "by me", "sizes": np.arange(6.0).reshape(2, 3), "names": cells},
    )
    assert not converters.write(converters.read(tmp_path / "a.mat", dataset="lsp"), tmp_path / "b.mat", "lsp")
    again = loadmat(tmp_path / "b.mat")
    assert again["info"] == ["by me"] and again["sizes"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [cell[0] for cell in again["names"].ravel()] == ["a", "b"]


# -------------------------------------------------------------------------------------------------------------- foreign


def foreign(*flags: int) -> Dataset:
    """A COCO person on LSP's skeleton whose v are `flags`, repeated over the 14 keypoints."""
    names = list(lsp.decode({"joints": joints()}, dataset="lsp").skeleton.keypoint_names)
    triples = [n for k, v in enumerate((list(flags) * 14)[:14]) for n in ((k + 1, 2 * k + 1, v) if v else (0, 0, 0))]
    return coco.decode({
        "images": [{"id": 5, "file_name": "z.jpg"}], "categories": [{"id": 1, "name": "person", "keypoints": names}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1,
                         "keypoints": triples}],
    }, skeleton="lsp_14")  # fmt: skip


def test_foreign_people_lose_names_and_absence_in_lsp() -> None:
    """LSP cannot say absent: NaN and occluded, counted; image names are implied by order, counted."""
    raw, report = lsp.encode(foreign(2, 1, 0))
    assert raw["joints"].shape == (3, 14, 1)
    assert raw["joints"][2, :3, 0].tolist() == [0, 1, 1] and np.isnan(raw["joints"][:2, 2, 0]).all()
    assert report.losses == {"absent keypoints": 4, "file_name": 1, "ids": 1}


def test_foreign_people_lose_occlusion_in_lspet() -> None:
    """LSPET says labelled or not: occluded ones are counted, absent ones are not."""
    raw, report = lsp.encode(foreign(2, 1, 0), dataset="lspet")
    assert raw["joints"].shape == (14, 3, 1) and raw["joints"][:3, 2, 0].tolist() == [1, 1, 0]
    assert report.losses == {"occluded keypoints": 5, "file_name": 1, "ids": 1}
    again = lsp.decode(raw, dataset="lspet")
    np.testing.assert_array_equal(again.visibility > 0, foreign(2, 1, 0).visibility > 0)
    np.testing.assert_array_equal(again.keypoints, foreign(2, 1, 0).keypoints)


def test_unknown_visibility_is_counted(real_data: Path) -> None:
    """Predictions written as joints: unknown becomes visible, and the report says how often."""
    predicted = lsp.read(real_data / "lsp" / "pred_keypoints_lsp_oc.mat")
    for dataset in ("lsp", "lspet"):
        assert lsp.encode(predicted, dataset=dataset)[1].losses == {"visibility unknown": 14000}


def test_lspet_written_as_lsp_says_what_it_costs(real_data: Path) -> None:
    """Absent joints, names and split are lost in the other data set's file; the visible ones keep their bits."""
    dataset = lsp.read(real_data / "lspet" / "joints.mat", dataset="lspet")
    raw, report = lsp.encode(dataset, dataset="lsp")
    assert report.losses["absent keypoints"] == 16787 and report.losses["split"] == 9000
    np.testing.assert_array_equal(raw["joints"][:2].transpose(2, 1, 0), dataset.keypoints)


def test_a_part_of_the_people_loses_its_names(real_data: Path, tmp_path: Path) -> None:
    """The test half written alone would be read as im0001.jpg …: counted, and refused without --allow-lossy."""
    dataset = lsp.read(real_data / "lsp" / "lsp-joints-OC.mat", dataset="lsp")
    half = dataset.select(images=np.arange(2000) >= 1000)
    with pytest.raises(LossyWrite, match=r"file_name: 1,000, split: 1,000"):
        lsp.write(half, tmp_path / "half.mat")
    lsp.write(half, tmp_path / "half.mat", allow_lossy=True)
    np.testing.assert_array_equal(
        loadmat(tmp_path / "half.mat")["joints"],
        loadmat(real_data / "lsp" / "lsp-joints-OC.mat")["joints"][:, :, 1000:],
    )


def test_another_skeleton_is_refused() -> None:
    person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2] * 17}
    raw = {"images": [{"id": 1}], "annotations": [person], "categories": [{"id": 1, "name": "person"}]}
    people = coco.decode(raw, skeleton="coco_17")
    with pytest.raises(SchemaError, match="1 people on the skeleton 'coco_17', expected 'lsp_14'"):
        lsp.encode(people)


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_text("mine")
    with pytest.raises(DestinationExists):
        lsp.write(lsp.decode({"joints": joints()}, dataset="lsp"), tmp_path / "a.mat")
    assert (tmp_path / "a.mat").read_text() == "mine"


# -------------------------------------------------------------------------------------------------- refusals and damage


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"speed": np.ones((2, 3)), "joints": np.ones((3, 16, 5))},
            "the variables 'speed' 2x3, 'joints' 3x16x5; expected 'joints' of 3x14xN",
        ),
        ({}, r"no variables; expected 'joints'"),
        ({"joints": np.full((3, 14, 2), "a")}, "'joints' holds text, expected numbers"),
        ({"joints": np.ones((3, 14, 2), complex)}, "'joints' holds complex numbers, expected numbers"),
        (
            {"a": np.ones((2, 14, 5)), "b": np.ones((14, 2, 5))},
            "2 of them can be predictions, expected one of 2x14xN, 14x2xN or Nx14x2",
        ),
    ],
)
def test_refusals_name_the_variables(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        lsp.decode(raw, dataset="lsp")


def test_a_foreign_mat_is_neither_lsp_nor_anything(tmp_path: Path) -> None:
    """A .mat of another kind: no format claims it, and with LSP named its variables are."""
    savemat(tmp_path / "a.mat", {"speed": np.ones((2, 3))})
    assert lsp.detect(Source(tmp_path / "a.mat")) is None
    with pytest.raises(UnknownFormat):
        converters.read(tmp_path / "a.mat")
    with pytest.raises(FormatError, match="the variables 'speed' 2x3; expected 'joints'"):
        converters.read(tmp_path / "a.mat", "lsp")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 600, b"{}", b"MATLAB 5.0 MAT-file", np.random.default_rng(0).bytes(5000)]
)
def test_garbage_is_refused_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(data)
    assert lsp.detect(Source(tmp_path / "a.mat")) is None
    with pytest.raises(FormatError):
        converters.read(tmp_path / "a.mat", "lsp")


def test_a_cut_file_says_so(real_data: Path, tmp_path: Path) -> None:
    """Half a download of the real file."""
    data = (real_data / "lsp" / "lsp-joints-OC.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"a \.mat file that is cut off or damaged \(it ends .* bytes too early\)"):
        converters.read(tmp_path / "a.mat", "lsp")


@given(st.integers(0, 6), st.sampled_from(["lsp", "lspet"]), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_round_trip(count: int, dataset: str, seed: int, share: float) -> None:
    """Nothing is lost: any joints come back bit-equal, and so does the dataset."""
    raw = joints(count, dataset, seed, share)
    found = lsp.decode({"joints": raw}, dataset=dataset)
    again, report = lsp.encode(found)
    assert not report and again["joints"].tobytes() == np.ascontiguousarray(raw).tobytes()
    assert lsp.decode(again, dataset=dataset) == found
    assert json.loads(schema.document(found.metadata()))["datasets"]["lsp"]["dataset"] == dataset


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_end_in_a_dataset_or_a_sentence(tmp_path: Path) -> None:
    """Cut files and flipped bytes raise nothing but a KpdataError, compressed or not."""
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    for compressed in (True, False):
        savemat(path, {"joints": joints(3), "info": "text"}, do_compression=compressed)
        data = path.read_bytes()
        for _ in range(150):
            out = bytearray(data[: rng.integers(0, len(data))] if rng.random() < 0.3 else data)
            for place in rng.integers(0, max(len(out), 1), rng.integers(0, 10)) if out else ():
                out[place] = rng.integers(0, 256)
            path.write_bytes(bytes(out))
            for name in (None, "lsp"):
                try:
                    converters.read(path, name)
                except KpdataError:
                    continue
