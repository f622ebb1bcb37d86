"""`kpdata info`: the numbers against a count by hand, and the picture."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image


def test_numbers_are_those_of_the_file(run, made):
    """Counts, visibility per keypoint and people per image, counted from the JSON by a loop."""
    raw = json.loads((made / "coco.json").read_text())
    facts = json.loads(run("info", made / "coco.json", "--json").out)
    flags = np.array([a["keypoints"] for a in raw["annotations"]])[:, 2::3]
    assert facts["format"] == "coco"
    assert facts["counts"]["images"] == len(raw["images"])
    assert facts["counts"]["people"] == len(raw["annotations"])
    assert facts["counts"]["labelled keypoints"] == int((flags > 0).sum())
    assert facts["counts"]["occluded keypoints"] == int((flags == 1).sum())
    nose = facts["visibility"]["coco_17"]["nose"]
    assert [nose[s] for s in ("absent", "occluded", "visible")] == [int((flags[:, 0] == v).sum()) for v in (0, 1, 2)]
    per_image = [sum(a["image_id"] == i["id"] for a in raw["annotations"]) for i in raw["images"]]
    assert facts["sizes"]["people in an image"]["max"] == max(per_image)
    heights = [a["bbox"][3] for a in raw["annotations"]]
    assert facts["sizes"]["box height"]["median"] == float(np.median(heights))


def test_tables(run, made):
    """Format and why, and the three tables, in plain text."""
    done = run("info", made / "coco.json")
    assert done.code == 0
    assert done.out.startswith(f"{made / 'coco.json'}: coco (a JSON object with 'images' and 'annotations')")
    for words in ("Counts", "Visibility: coco_17", "right_ankle", "Sizes", "people in an image", "source_format coco"):
        assert words in done.out
    assert "\x1b" not in done.out


def test_plot_is_a_picture(run, made, tmp_path):
    """It opens, is of a size worth looking at, and holds more than a background."""
    done = run("info", made / "people.kp", "--plot", tmp_path / "a.png")
    assert done.code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) >= 500
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_plot_refuses_before_it_reads(run, made, tmp_path):
    """An existing picture stays, an unknown ending is named; --force overwrites."""
    target = tmp_path / "a.png"
    target.write_bytes(b"precious")
    done = run("info", made / "people.kp", "--plot", target)
    assert (done.code, target.read_bytes()) == (1, b"precious")
    assert run("info", made / "people.kp", "--plot", target, "--force").code == 0
    assert target.read_bytes()[:4] == b"\x89PNG"
    done = run("info", made / "people.kp", "--plot", tmp_path / "a.doc")
    assert done.code == 1
    assert "a.doc: no picture format that is known" in done.err


def test_an_empty_file_of_each_kind(run, tmp_path):
    """No people, no images: zeros and a picture, no division by zero."""
    source = tmp_path / "a.json"
    source.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert json.loads(run("info", source, "--json", "--plot", tmp_path / "a.png").out)["counts"]["people"] == 0
    assert (tmp_path / "a.png").exists()
    source.write_text("[]")
    assert run("info", source).code == 0


def test_skeleton_for_a_source_that_names_none(run, made, tmp_path):
    """It names the keypoints; a source that names its own refuses it."""
    source, skeleton = tmp_path / "a.json", tmp_path / "five.toml"
    row = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2] * 5}
    source.write_text(json.dumps({"images": [{"id": 1}], "annotations": [row], "categories": [{"id": 1}]}))
    skeleton.write_text('name = "five"\nkeypoints = ["v", "w", "x", "y", "z"]\n')
    assert list(json.loads(run("info", source, "--json", "--skeleton", skeleton).out)["visibility"]) == ["five"]
    done = run("info", made / "coco.json", "--skeleton", "mpii_16")
    assert done.code == 1
    assert "coco.json: --skeleton mpii_16 (16 keypoints), but the file's own is coco_17 (17 keypoints)" in done.err


def test_images_is_for_formats_that_look_at_them(run, made, tmp_path):
    """YOLO's fractions need the photographs' sizes; for COCO the option is wrong usage."""
    labels = tmp_path / "labels"
    labels.mkdir()
    text = next((made / "yolo").rglob("000001.txt"))
    (labels / "000001.txt").write_text(text.read_text())
    done = run("info", labels)
    assert done.code == 1
    assert "--images" in done.err
    assert run("info", labels, "--images", made / "images").code == 0
    assert run("info", made / "coco.json", "--images", made / "images").code == 2
