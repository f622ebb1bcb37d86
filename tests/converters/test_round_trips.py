"""Nothing is lost: every document that a COCO file can be, and every real file, comes back as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import converters
from kpdata.converters import coco, coco_results
from kpdata.converters._json import dump
from kpdata.converters._source import Source
from kpdata.dataset import open_dataset
from tests.strategies import FINITE, MIXED, coco_documents, datasets, json_values

FEW = settings(max_examples=40)

# Every file of the COCO family that is not ours, by folder; the numbers are images and people in it.
REAL = {
    "coco_fakekeypoints100/DERIVED_person_keypoints_val2014_100.json": "coco",
    "coco_mini/DERIVED_person_keypoints_val2017_all159.json": "coco",
    "coco_mini/person_keypoints_train2017.json": "coco",
    "coco_mini/person_keypoints_val2017.json": "coco",
    "coco_mini/subset_ccby_ccbysa_val2017.json": "coco",
    "coco_mmpose4/test_coco.json": "coco",
    "coco_mmpose4/test_coco_wholebody.json": "coco",
    "coco_mmpose4/test_halpe.json": "coco",
    "coco_mmpose4/wholebody_val_5img.json": "coco",
    "coco_val2017_538img_dupimages.json": "coco",
    "coco_val2017_full_kp_DERIVED.json.gz": "coco",
    "crowdpose/crowdpose_val.json": "crowdpose",
    "crowdpose/example_crowdpose_val.json": "crowdpose",
    "crowdpose/mmpose/test_crowdpose.json": "crowdpose",
    "labelme/triangle_v5.1.1/coco_sample.json": "coco",
    "labelme/xanylabeling_coco_export/coco_keypoints.json": "coco",
    "other/aic/test_aic.json": "coco",
    "other/humanart/test_humanart.json": "coco",
    "other/jhmdb/test_jhmdb_sub1.json": "coco",
    "other/ochuman/test_ochuman.json": "coco",
    "other/posetrack18/test_posetrack18_val.json": "coco",
    "pitfalls/cvat_one_category_per_keypoint_no_annotations.json": "coco",
    "alphapose/alphapose-results_old.json": "coco_results",
    "coco_fakekeypoints100/person_keypoints_val2014_fakekeypoints100_results.json": "coco_results",
    "coco_mini/movenet_multipose_train2017_results.json": "coco_results",
    "coco_mini/movenet_multipose_val2017_results.json": "coco_results",
    "coco_mini/movenet_thunder_gtbox_train2017_results.json": "coco_results",
    "coco_mini/movenet_thunder_gtbox_val2017_results.json": "coco_results",
    "coco_mini/subset_ccby_ccbysa_val2017_movenet_multipose_results.json": "coco_results",
    "coco_mini/subset_ccby_ccbysa_val2017_movenet_thunder_gtbox_results.json": "coco_results",
    "coco_mmpose4/hrnet_preds_xtcocoapi.json": "coco_results",
    "coco_mmpose4/test_coco_det_AP_H_56.json": "coco_results",
    "coco_mmpose4/wholebody_preds_5img.json": "coco_results",
    "crowdpose/example_crowdpose_preds.json": "coco_results",
    "crowdpose/mmpose/test_crowdpose_det_AP_40.json": "coco_results",
    "lspet/movenet_thunder_gtbox_first300_results.json": "coco_results",
    "other/humanart/test_humanart_det_AP_H_56.json": "coco_results",
    "other/posetrack18/test_posetrack18_human_detections.json": "coco_results",
    "pitfalls/results_with_flag_instead_of_score.json": "coco_results",
}


def loaded(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", REAL)
def test_real_files_come_back(real_data, tmp_path, name):
    """Detected, read on both paths alike, saved and opened equal, and written back equal in the same order."""
    path = real_data / name
    dataset = converters.read(path)
    raw = loaded(path)
    assert list(dataset.datasets) == [REAL[name]]
    assert len(dataset) == len(raw["annotations"] if isinstance(raw, dict) else raw)
    assert converters.module(REAL[name]).decode(raw) == dataset
    dataset.save(tmp_path / "x.kp")
    opened = open_dataset(tmp_path / "x.kp")
    assert opened == dataset
    report = converters.write(opened, tmp_path / "x.json", REAL[name])
    assert not report.losses
    assert loaded(tmp_path / "x.json") == raw


def test_every_real_file_is_in_the_list(real_data):
    """A JSON file of the COCO family that the list above lacks would go untested."""
    known = {real_data / name for name in REAL}
    files = [file for file in real_data.rglob("*.json*") if file.suffix in (".json", ".gz") and file not in known]
    family = ("coco", "crowdpose", "coco_results")
    assert not [file for file in files if any(converters.module(name).detect(_quiet(file)) for name in family)]


def _quiet(file: Path) -> Source:
    """A source whose broken JSON looks empty to detection."""
    source = Source(file)
    try:
        assert source.json is not None
    except converters.FormatError:
        source.json = None
    return source


@FEW
@given(coco_documents())
def test_any_document_comes_back(raw):
    """encode(decode(raw)) is raw, by value and in order; a second decode gives an equal dataset; nothing is lost."""
    dataset = coco.decode(raw)
    back, losses = coco.encode(dataset)
    assert back == raw
    assert list(back) == list(raw)
    assert not losses.losses
    assert coco.decode(back) == dataset


@FEW
@given(coco_documents())
def test_both_parsers_give_one_dataset(raw):
    """The fast path (simdjson, in chunks) and the standard library: the same dataset, styles and extras included."""
    data = json.dumps(raw, ensure_ascii=len(raw) % 2 == 0).encode()
    source = Source("x.json")
    source.data = data
    assert source.decode(coco.decode) == coco.decode(json.loads(data))


@FEW
@given(st.data())
def test_number_styles(data):
    """A field that is written in integers, or in floats, throughout comes back so: 1 is not 1.0."""
    kinds = {key: data.draw(st.sampled_from([st.integers(0, 500), FINITE])) for key in ("keypoints", "bbox", "area")}
    flags = data.draw(st.sampled_from([(0, 1), (False, True)]))
    rows = [
        {
            "id": number, "image_id": 1, "category_id": 1, "iscrowd": data.draw(st.sampled_from(flags)),
            "keypoints": data.draw(st.lists(kinds["keypoints"], min_size=3, max_size=3)),
            "bbox": data.draw(st.lists(kinds["bbox"], min_size=4, max_size=4)), "area": data.draw(kinds["area"]),
        }
        for number in range(data.draw(st.integers(1, 4)))
    ]  # fmt: skip
    raw = {"images": [{"id": 1}], "annotations": rows, "categories": [{"id": 1, "name": "a", "keypoints": ["tip"]}]}
    source = Source("x.json")
    source.data = json.dumps(raw).encode()
    back = coco.encode(source.decode(coco.decode))[0]

    def styled(document: Any) -> list[dict[str, str]]:
        return [{key: repr(row[key]) for key in sorted(row)} for row in document["annotations"]]

    # -0.0 and 0.0 are one number: NaN and signs of zero are no style.
    assert styled(json.loads(json.dumps(back).replace("-0.0", "0.0"))) == styled(
        json.loads(json.dumps(raw).replace("-0.0", "0.0"))
    )


@st.composite
def results(draw: Any) -> list[dict[str, Any]]:
    """A results list: poses, boxes alone or both, keys of its writer's own, ids or none, texts as image ids."""
    count = draw(st.sampled_from([1, 14, 17]))
    number = draw(st.sampled_from([st.integers(0, 9), FINITE, MIXED]))
    images = draw(st.sampled_from([st.integers(0, 9), st.sampled_from(["a", "ü.jpg", "[1]"])]))
    numbered = draw(st.booleans())
    rows = []
    for place in range(draw(st.integers(0, 4))):
        row: dict[str, Any] = {
            "image_id": draw(images),
            **draw(st.dictionaries(st.sampled_from(["box", "scale", "center"]), json_values(), max_size=2)),
        }
        if draw(st.booleans()):
            triple = draw(st.lists(number, min_size=3, max_size=3))
            row["keypoints"] = triple * count
        if draw(st.booleans()):
            row["bbox"] = draw(st.lists(number, min_size=4, max_size=4))
        if draw(st.booleans()):
            row["score"] = draw(st.one_of(st.none(), number))
        if draw(st.booleans()):
            row["category_id"] = draw(st.one_of(st.none(), st.integers(-3, 2**40), st.just("person")))
        if numbered:
            row["id"] = place + 7
        rows.append(row)
    return rows


@FEW
@given(results())
def test_any_results_come_back(raw):
    """encode(decode(raw)) is raw for results too, on both parsers."""
    dataset = coco_results.decode(raw)
    back, losses = coco_results.encode(dataset)
    assert back == raw
    assert not losses.losses
    source = Source("x.json")
    source.data = json.dumps(raw).encode()
    assert source.decode(coco_results.decode) == dataset


@settings(max_examples=25)
@given(datasets())
def test_any_dataset_can_be_written(dataset):
    """Whatever the tables hold, the document can be made, is JSON, and holds the same people on the same images."""
    for format in (coco, coco_results):
        raw, _ = format.encode(dataset)
        read = format.decode(json.loads(dump(raw)))
        rows = raw["annotations"] if isinstance(raw, dict) else raw
        assert len(read) == len(rows)
        if format is coco:
            assert len(rows) == len(dataset)
            assert [row["id"] for row in rows] == dataset.persons["annotation_id"].to_pylist()


@pytest.mark.parametrize("place", ["info", "image", "annotation", "area", "bbox", "crowdIndex", "segmentation"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks(tmp_path, place, number):
    """NaN and Infinity, which Python writes into JSON, come back wherever they stood: never as null."""
    row = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2], "bbox": [1, 2, 3, 4], "other": None}
    image = {"id": 1, "file_name": "a.jpg"}
    raw = {"info": {}, "images": [image], "annotations": [row], "categories": []}
    if place == "info":
        raw["info"]["x"] = [number]
    elif place in ("image", "annotation"):
        (image if place == "image" else row)["x"] = {"y": number}
    elif place == "crowdIndex":
        image["crowdIndex"] = number
    else:
        row[place] = {"area": number, "bbox": [1, number, 3, 4], "segmentation": [[1, number]]}[place]
    (tmp_path / "x.json").write_text(json.dumps(raw))
    dataset = converters.read(tmp_path / "x.json")
    dataset.save(tmp_path / "x.kp")
    converters.write(open_dataset(tmp_path / "x.kp"), tmp_path / "y.json", "coco")
    assert json.dumps(json.loads((tmp_path / "y.json").read_text()), sort_keys=True) == json.dumps(raw, sort_keys=True)
