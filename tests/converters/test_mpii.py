"""MPII in its five forms: independent parsing of the real files, every trap, every refusal, round trips, damage."""

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
from kpdata.converters import coco, mpii
from kpdata.converters._source import Source
from kpdata.dataset import Dataset, open_dataset
from kpdata.errors import DestinationExists, FormatError, KpdataError, SchemaError, UnknownFormat

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


# ------------------------------------------------------------------------------------------------------- the real files


def test_json_is_what_the_file_says(real_data: Path) -> None:
    """Joints, centre and scale are the file's numbers minus 1; joints_vis 1 is "unknown", (-1, -1) is NaN."""
    path = real_data / "mpii" / "test_mpii.json"
    rows = json.loads(path.read_text())
    dataset = mpii.read(path)

    joints = np.array([person["joints"] for person in rows])
    gone = (joints == -1).all(-1)
    assert gone.any()
    np.testing.assert_array_equal(dataset.keypoints, np.where(gone[..., None], np.nan, joints - 1))
    np.testing.assert_array_equal(dataset.visibility, np.array([person["joints_vis"] for person in rows]) * 3)
    np.testing.assert_array_equal(
        schema.matrix(dataset.persons["center"], 2), [np.array(p["center"]) - 1 for p in rows]
    )
    assert dataset.persons["scale"].to_pylist() == [person["scale"] for person in rows]
    assert dataset.images["file_name"].to_pylist() == [person["image"] for person in rows]
    assert dataset.persons["bbox"].null_count == dataset.persons["head_bbox"].null_count == len(rows)
    assert (facts(dataset)["coordinate_base"], facts(dataset)["coordinate_shift"]) == (1, -1)


def test_json_is_written_back_equal(real_data: Path, tmp_path: Path) -> None:
    """Nothing is lost: the file, a .kp folder and the file again are one."""
    path = real_data / "mpii" / "test_mpii.json"
    converters.read(path).save(tmp_path / "x.kp")
    report = converters.write(open_dataset(tmp_path / "x.kp"), tmp_path / "back.json", "mpii")

    text, again = path.read_text(), (tmp_path / "back.json").read_text()
    assert json.loads(again) == json.loads(text)
    assert json.dumps(json.loads(again)) == json.dumps(json.loads(text)), "1.0 stays 1.0 and 1 stays 1"
    assert not report and not report.additions


def test_newell_h5_center_and_scale_come_back_raw(real_data: Path, official: Dataset) -> None:
    """The crop tweak is taken out: centre and scale are objpos and scale of the official struct, person for person."""
    dataset = mpii.read(real_data / "mpii" / "valid.h5")
    assert facts(dataset)["center_scale"] == "adjusted"
    assert row(dataset, "center") == [965.0, 339.0], "JSON's 966, 340 of the same person, 0-based"
    for name, width in (("center", 2), ("scale", None)):
        ours, theirs = dataset.persons[name], official.persons[name]
        read = (lambda c: schema.values(c)) if width is None else (lambda c: schema.matrix(c, 2))
        np.testing.assert_allclose(read(ours), read(theirs), **CLOSE)


@pytest.mark.parametrize("name", ["mpii/valid.h5", "mpii/detections_our_format.mat"])
def test_arrays_come_back_within_a_billionth_of_a_pixel(real_data: Path, tmp_path: Path, name: str) -> None:
    """Nothing is lost: every variable of the file is in the one written back (a shift by 1 is not exact in binary)."""
    path = real_data / name
    converters.read(path).save(tmp_path / "x.kp")
    back = tmp_path / f"back{path.suffix}"
    report = converters.write(open_dataset(tmp_path / "x.kp"), back, "mpii")

    assert not report
    load = _h5 if path.suffix == ".h5" else loadmat
    before, after = load(path), load(back)
    for key in before.keys() | after.keys():
        if key.startswith("__"):
            continue
        if before[key].dtype.kind in "fiu":
            assert before[key].shape == after[key].shape
            np.testing.assert_allclose(after[key], before[key], **CLOSE)
        elif key == "dataset_joints":
            assert [c[0] for c in after[key].ravel()] == [c[0] for c in before[key].ravel()]
        else:
            assert (before[key] == after[key]).all() and before[key].dtype == after[key].dtype


def _h5(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def test_struct_agrees_with_the_flat_file_and_with_newell(real_data: Path, official: Dataset) -> None:
    """Three files of other people's programs say the same of 2,958 people: points, occlusion, head boxes."""
    struct = official
    flat = mpii.read(real_data / "mpii" / "detections_our_format.mat")
    newell = mpii.read(real_data / "mpii" / "valid.h5")

    np.testing.assert_array_equal(struct.visibility > 0, flat.visibility > 0)
    np.testing.assert_array_equal(struct.visibility == 1, newell.visibility == 1)
    zeros = flat.keypoints == -1  # 17 coordinates of labelled points are 0 in the flat file, and nowhere else
    assert (zeros & (flat.visibility > 0)[..., None]).sum() == 17
    np.testing.assert_allclose(struct.keypoints[~zeros], flat.keypoints[~zeros], atol=1e-3)
    limbs = [*range(8), *range(10, 16)]  # Newell's file cuts upper_neck and head_top to integers
    np.testing.assert_array_equal(struct.keypoints[:, limbs], newell.keypoints[:, limbs])
    heads = [schema.matrix(d.persons["head_bbox"], 4) for d in (struct, flat)]
    np.testing.assert_allclose(*heads, atol=1e-3)
    assert struct.persons["bbox"].null_count == 2958, "the head box is no person box"
    index = loadmat(real_data / "mpii" / "detections.mat", variable_names=["RELEASE_person_index"])
    assert (
        struct.persons["person_index"].to_pylist() == (index["RELEASE_person_index"].ravel().astype(int) - 1).tolist()
    )


def test_what_scipy_loads_is_read_the_same(real_data: Path, official: Dataset) -> None:
    """Our own reader of .mat files and scipy's `loadmat` give one dataset, for the struct and for the arrays."""
    assert mpii.decode(loadmat(real_data / "mpii" / "detections.mat", mat_dtype=True)) == official
    for name in ("detections_our_format.mat", "preds/bearpaw-hg_s8_b1.mat"):
        path = real_data / "mpii" / name
        assert mpii.decode(loadmat(path, mat_dtype=True)) == mpii.read(path)


def test_struct_visibility_states(official: Dataset) -> None:
    """is_visible 0, 1 and 0x0 stay three things, whether number or char: counts of a walk by scipy alone."""
    # 9,513 + 730 zeros; 26,244 + 1,889 + 2 ones (numbers, chars, chars of ids 8 and 9); 5,862 empties; 3,088 no point
    assert np.bincount(official.visibility.ravel()).tolist() == [3088, 10243, 28135, 5862]


def test_pckh_of_published_predictions(real_data: Path) -> None:
    """Ground truth and predictions share one pixel origin and one order: PCKh@0.5 is the published 88.64."""
    truth = mpii.read(real_data / "mpii" / "detections_our_format.mat")
    predicted = mpii.read(real_data / "mpii" / "preds" / "bearpaw-hg_s8_b1.mat")
    heads = schema.matrix(truth.persons["head_bbox"], 4)
    size = 0.6 * np.hypot(heads[:, 2], heads[:, 3])
    with np.errstate(invalid="ignore"):
        near = np.linalg.norm(truth.keypoints - predicted.keypoints, axis=2) / size[:, None] < 0.5
    seen = truth.visibility > 0
    rate = (near & seen).sum(0) / seen.sum(0)
    groups = [[9], [12, 13], [11, 14], [10, 15], [2, 3], [1, 4], [0, 5]]
    expected = [96.79, 95.19, 90.08, 85.32, 87.48, 83.26 + 1, 80.73]
    assert [round(100 * rate[group].mean(), 2) for group in groups] == pytest.approx(expected, abs=0.1)
    joints = [*range(6), 8, 9, *range(10, 16)]
    assert 100 * rate[joints].mean() == pytest.approx(88.64, abs=0.005)


@pytest.mark.parametrize("name", ["bearpaw-hg_s8_b1.mat", "tompson.h5"])
def test_predictions_in_both_axis_orders(real_data: Path, tmp_path: Path, name: str) -> None:
    """(N, 16, 2) and (2, 16, N) hold the same people; visibility is unknown, no score; written back equal."""
    path = real_data / "mpii" / "preds" / name
    raw = _h5(path)["preds"] if path.suffix == ".h5" else loadmat(path)["preds"]
    dataset = mpii.read(path)

    points = raw if raw.shape[2] == 2 else raw.transpose(2, 1, 0)
    np.testing.assert_array_equal(dataset.keypoints, points.astype(np.float64) - 1)
    assert (dataset.visibility == 3).all() and dataset.persons["score"].null_count == 2958
    back = tmp_path / f"back{path.suffix}"
    converters.write(dataset, back, "mpii")
    again = _h5(back)["preds"] if path.suffix == ".h5" else loadmat(back)["preds"]
    assert again.dtype == raw.dtype
    np.testing.assert_array_equal(again, raw)


@pytest.mark.parametrize(
    "name",
    [
        "mpii/test_mpii.json",
        "mpii/valid.h5",
        "mpii/detections.mat",
        "mpii/detections_our_format.mat",
        "mpii/preds/tompson.h5",
    ],
)
def test_detected_by_content(real_data: Path, tmp_path: Path, name: str) -> None:
    """A file of any name is known by what is in it, and opens again from a .kp folder as it was."""
    copy = tmp_path / "no_suffix"
    copy.write_bytes((real_data / name).read_bytes())
    assert converters.detect(copy)[0] == "mpii"
    dataset = converters.read(copy)
    dataset.save(tmp_path / "x.kp")
    assert open_dataset(tmp_path / "x.kp") == dataset


# ----------------------------------------------------------------------------------------------------------------- JSON


def person(**changes: Any) -> dict[str, Any]:
    base = {
        "joints_vis": [1] * 16,
        "joints": [[float(k + 2), 10.5 + k] for k in range(16)],
        "image": "a.jpg",
        "scale": 2.5,
        "center": [50.0, 60.0],
    }
    return {**base, **changes}


def test_numbers_that_a_shift_would_round_come_back() -> None:
    """0.1 - 1 + 1 is not 0.1 in binary: joints and centre are written with the file's own digits."""
    joints = [[0.1, -17.3], *person()["joints"][1:]]
    raw = [person(joints=joints, center=[0.3, -0.7]), person()]
    dataset = mpii.decode(raw)
    assert mpii.encode(dataset)[0] == raw
    assert dataset.keypoints[0, 0].tolist() == [0.1 - 1, -17.3 - 1]


def test_changed_keypoints_win_over_kept_digits() -> None:
    """After a change of the columns, the file's own digits of before are not written."""
    from dataclasses import replace

    dataset = mpii.decode([person(joints=[[0.1, 0.2], *person()["joints"][1:]])])
    column = dataset.persons.schema.get_field_index("keypoints")
    moved = schema.rows(dataset.keypoints.reshape(1, -1) + 7)
    changed = replace(dataset, persons=dataset.persons.set_column(column, "keypoints", moved))
    assert mpii.encode(changed)[0][0]["joints"][1] == [10.0, 18.5]


def test_coordinates_of_unlabelled_joints_are_kept() -> None:
    """joints_vis 0 with a coordinate keeps it; only (-1, -1) is empty."""
    raw = [person(joints_vis=[0, 0, *[1] * 14], joints=[[-1.0, -1.0], [3.0, 4.0], *person()["joints"][2:]])]
    dataset = mpii.decode(raw)
    assert np.isnan(dataset.keypoints[0, 0]).all() and dataset.keypoints[0, 1].tolist() == [2, 3]
    assert dataset.visibility[0, :3].tolist() == [0, 0, 3]
    assert mpii.encode(dataset)[0] == raw


def test_zero_is_a_coordinate() -> None:
    """A labelled joint at x = 0 stays labelled."""
    raw = [person(joints=[[0.0, 0.0], *person()["joints"][1:]])]
    dataset = mpii.decode(raw)
    assert dataset.visibility[0, 0] == 3 and dataset.keypoints[0, 0].tolist() == [-1, -1]
    assert mpii.encode(dataset)[0] == raw


def test_labelled_at_the_empty_value_is_a_finding() -> None:
    """joints_vis 1 at (-1, -1): kept as a labelled point, with a warning that names it."""
    dataset = mpii.decode([person(joints=[[-1.0, -1.0], *person()["joints"][1:]])])
    assert dataset.visibility[0, 0] == 3 and codes(dataset) == ["labelled-without-coordinate"]
    assert facts(dataset)["findings"][0]["keypoint"] == "right_ankle"


def test_joints_vis_of_another_value_is_kept() -> None:
    """2 and 0.5 are no joints_vis: findings, and the numbers come back."""
    raw = [person(joints_vis=[2, 0.5, *[1] * 14]), person()]
    dataset = mpii.decode(raw)
    assert codes(dataset) == ["joints-vis-not-0-or-1"] * 2
    assert mpii.encode(dataset)[0] == raw


def test_test_files_have_no_joints() -> None:
    """image, center and scale alone are MPII's test set: people without keypoints, written without them."""
    raw = [
        {"image": "a.jpg", "scale": 2.0, "center": [1.5, 2.0]},
        {"image": "b.jpg", "scale": 3.5, "center": [-1.0, -1.0]},
    ]
    dataset = mpii.decode(raw)
    assert dataset.persons["keypoints"].null_count == 2 and np.isnan(row(dataset, "center", 1)).all()
    assert mpii.encode(dataset)[0] == raw


def test_people_of_one_image_share_its_row() -> None:
    """Three people, two files: two images, in the order of first use."""
    dataset = mpii.decode([person(image="b.jpg"), person(image="a.jpg"), person(image="b.jpg")])
    assert dataset.images["file_name"].to_pylist() == ["b.jpg", "a.jpg"]
    assert dataset.persons["image_id"].to_pylist() == [1, 2, 1]


def test_present_null_and_absent_stay_three_things() -> None:
    """Unknown keys, nulls and absent keys come back as they were."""
    raw = [
        person(center=None, note={"a": [1, None]}),
        {"image": "a.jpg", "joints": None, "joints_vis": None},
        {"scale": 1},
    ]
    assert mpii.encode(mpii.decode(raw))[0] == raw


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": [[1, 2]] * 14, "joints_vis": [1] * 14}, r"person 2: 14 keypoints in 'joints', expected 16"),
        ({"joints_vis": [1] * 15}, r"person 2: 15 numbers in 'joints_vis', expected 16"),
        ({"joints": [[1, 2, 3]] * 16}, r"person 2: a joint of 3 numbers, expected x and y"),
        ({"joints": [["1", "2"]] * 16}, r"person 2: 'joints' is a JSON list, expected a list of 16 pairs of numbers"),
        ({"joints": "none"}, r"person 2: 'joints' is a JSON text"),
        ({"joints_vis": ["1"] * 16}, r"row 2.* found '1' at position 0"),
        ({"center": [1]}, r"person 2: 1 numbers in 'center', expected x and y"),
        ({"scale": "big"}, r"person 2: 'scale' is 'big', expected a number"),
        ({"image": 7}, r"person 2: 'image' is 7, expected a file name"),
        ({"joints": None}, r"person 2: 'joints_vis' without 'joints', expected both or neither"),
    ],
)
def test_json_refusals_name_person_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """What the schema cannot hold is refused with the file, the person, what was found and what was expected."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([person(), person(**changes)]))
    with pytest.raises(FormatError, match=message) as error:
        mpii.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("raw", [[[1, 2]], [7], ["x"]])
def test_rows_that_are_no_objects_are_refused(raw: Any) -> None:
    with pytest.raises(FormatError, match=r"person 1: a JSON \w+, expected an object"):
        mpii.decode(raw)


@pytest.mark.parametrize(
    "raw",
    ['{"a": 1}', "[]", '[{"image_id": 1, "keypoints": [1, 2, 3]}]', '[{"image": "a"}]', "[1]", "12", '{"images": []}'],
)
def test_foreign_json_is_not_mpii(tmp_path: Path, raw: str) -> None:
    (tmp_path / "a.json").write_text(raw)
    assert mpii.detect(Source(tmp_path / "a.json")) is None


# ------------------------------------------------------------------------------------------------------- foreign people


def coco_people() -> Dataset:
    names = list(mpii.decode([person()]).skeleton.keypoint_names)
    keypoints = [v for k in range(16) for v in (k, 2 * k, k % 3)]
    return coco.decode({
        "images": [{"id": 5, "file_name": "z.jpg", "width": 100, "height": 90}, {"id": 6, "file_name": "empty.jpg"}],
        "annotations": [{"id": 9, "image_id": 5, "category_id": 1, "keypoints": keypoints,
                         "bbox": [10, 20, 30, 40], "area": 7.0, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}],
    }, skeleton="mpii_16")  # fmt: skip


def test_foreign_people_get_center_and_scale_from_their_box() -> None:
    """Centre of the box, height / 200 px, both reported; joints are 1-based; what has no place is counted."""
    rows, report = mpii.encode(coco_people())
    assert rows[0]["center"] == [10 + 15 + 1, 20 + 20 + 1] and rows[0]["scale"] == 40 / 200
    assert rows[0]["joints"][1] == [2.0, 3.0] and rows[0]["joints_vis"] == [int(k % 3 > 0) for k in range(16)]
    assert rows[0]["joints"][0] == [-1.0, -1.0], "0, 0, 0 is COCO's empty value"
    assert report.additions == {"center": 1, "scale": 1}
    assert report.losses == {"visibility": 10, "bbox": 1, "area": 1, "width": 1,
                             "height": 1, "images without people": 1, "ids": 1}  # fmt: skip


@pytest.mark.parametrize("variant", ["json", "flat", "h5", "predictions"])
def test_foreign_people_survive_every_variant(variant: str) -> None:
    """Written and read again, the points are the same within 1e-9 and labelled ones stay labelled."""
    before = coco_people()
    after = mpii.decode(mpii.encode(before, variant=variant)[0])
    labelled = before.visibility > 0
    np.testing.assert_allclose(after.keypoints[labelled], before.keypoints[labelled], **CLOSE)
    if variant != "predictions":
        np.testing.assert_array_equal(after.visibility > 0, labelled)
    if variant in ("json", "h5"):
        assert row(after, "center") == pytest.approx([25, 40], abs=1e-9) and row(after, "scale") == pytest.approx(0.2)


def test_people_without_a_box_take_the_extent_of_their_points() -> None:
    """The flat file has neither box nor centre: the labelled points' extent stands for them; images are named by id."""
    points = np.ones((16, 2, 1)) * 11.0
    points[3, :, 0] = [31, 61]
    rows, report = mpii.encode(mpii.decode({"pos_gt_src": points, "jnt_missing": np.zeros((16, 1))}), variant="json")
    assert (rows[0]["center"], rows[0]["scale"], rows[0]["image"]) == ([21.0, 36.0], 50 / 200, "1")
    assert report.additions == {"center": 1, "scale": 1, "file names": 1}


def test_another_skeleton_is_refused() -> None:
    someone = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2] * 17}
    raw = {"images": [{"id": 1}], "annotations": [someone], "categories": [{"id": 1, "name": "person"}]}
    other = coco.decode(raw, skeleton="coco_17")
    with pytest.raises(SchemaError, match="1 people on the skeleton 'coco_17', expected 'mpii_16'"):
        mpii.encode(other)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(SchemaError, match="variant 'struct', expected one of json, flat, h5, predictions"):
        mpii.encode(mpii.decode([person()]), variant="struct")


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(DestinationExists):
        mpii.write(mpii.decode([person()]), tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "mine"


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    """No time of writing in a .mat: two writes are one file."""
    for name in ("a.mat", "b.mat"):
        mpii.write(mpii.decode([person()]), tmp_path / name, allow_lossy=True)
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


# ----------------------------------------------------------------------------------------------------------- properties

numbers = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-1000, 5000).map(float) | st.just(-1.0)
joints = st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=16, max_size=16)
full_rows = st.fixed_dictionaries(
    {"joints": joints, "joints_vis": st.lists(st.integers(0, 1), min_size=16, max_size=16)},
    optional={
        "image": st.sampled_from(["a.jpg", "b/c.png", "ü.jpg"]),
        "scale": st.floats(0, 50),
        "center": st.lists(numbers, min_size=2, max_size=2),
        "more": st.none() | st.text(max_size=4) | st.lists(st.integers(-(2**63), 2**63), max_size=2),
    },
)


@given(st.lists(full_rows, max_size=3))
def test_json_round_trip(raw: list[dict[str, Any]]) -> None:
    """Nothing is lost: any list of people comes back equal by value, and so does the dataset."""
    dataset = mpii.decode(raw)
    again, report = mpii.encode(dataset)
    assert again == raw and not report
    assert mpii.decode(again) == dataset


def test_damaged_json_ends_in_a_dataset_or_a_sentence(tmp_path: Path) -> None:
    """Cut files and flipped bytes raise nothing but a KpdataError."""
    data, rng, path = json.dumps([person(), person(image="b.jpg")]).encode(), np.random.default_rng(0), tmp_path / "a"
    for _ in range(200):
        out = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for place in rng.integers(0, len(out), rng.integers(0, 4)):
            out[place] = rng.choice(list(b'0123456789[]{},:"-.eN \xff'))
        path.write_bytes(bytes(out))
        for name in (None, "mpii"):
            try:
                converters.read(path, name)
            except KpdataError:
                continue


def test_swapped_types_end_in_a_dataset_or_a_sentence() -> None:
    """Any value in any field of a person is read or refused."""
    values = [
        None,
        0,
        -1.5,
        True,
        "x",
        [],
        [1],
        [[1]],
        {},
        {"a": 1},
        [None] * 16,
        [[1, 2]] * 16,
        [[None, 1]] * 16,
        1e308,
    ]
    for key in person():
        for value in values:
            try:
                again = mpii.encode(mpii.decode([person(), person(**{key: value})]))[0]
            except KpdataError:
                continue
            assert again[1][key] == value


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 500, b"MATLAB 5.0 MAT-file", b"MATLAB 5.0 MAT-file".ljust(128), b"\x89HDF\r\n\x1a\n"]
)
def test_garbage_is_refused_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    """Bytes that only look like a .mat or .h5 are no format, and with the format named a FormatError."""
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(FormatError):
        converters.read(tmp_path / "a.mat", "mpii")
    with pytest.raises((UnknownFormat, FormatError)):
        converters.read(tmp_path / "a.mat")


def test_a_mat_that_is_not_mpii_names_its_variables(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"speed": np.ones((2, 3)), "name": "x"})
    with pytest.raises(FormatError, match=r"the variables 'speed' 2x3, 'name' text; expected 'RELEASE'"):
        converters.read(tmp_path / "a.mat", "mpii")
    assert mpii.detect(Source(tmp_path / "a.mat")) is None
