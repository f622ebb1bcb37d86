"""`kpdata merge`: ids, duplicates, skeletons, and what stops it."""

from __future__ import annotations

import json

import numpy as np

from kpdata import converters


def test_ids_that_collide_are_new(run, made, tmp_path):
    """MPII's numbered images meet COCO's ids: everything is kept under ids that differ, and the change is told."""
    done = run("merge", made / "coco.json", made / "mpii.h5", "-o", tmp_path / "both.kp", "--json")
    report = json.loads(done.out)
    one, two = (converters.read(made / name) for name in ("coco.json", "mpii.h5"))
    both = converters.read(tmp_path / "both.kp")
    assert (report["images"], report["people"]) == (12, len(one) + len(two)) == (both.images.num_rows, len(both))
    ids = both.images["image_id"].to_pylist()
    assert len(set(ids)) == 12
    assert report["reassigned"]["mpii"]["image_id"] == 6
    assert ids[:6] == one.images["image_id"].to_pylist()


def test_the_same_file_twice(run, made, tmp_path):
    """Its images are shared, its people are reported as duplicates, and --drop-duplicates keeps each once."""
    people = len(converters.read(made / "coco.json"))
    done = run("merge", made / "coco.json", made / "coco.json", "-o", tmp_path / "a.kp", "--json")
    report = json.loads(done.out)
    assert (report["images"], report["people"], report["shared_images"]) == (6, 2 * people, 6)
    assert len(report["duplicate_people"]) == people
    arguments = ("-o", tmp_path / "b.kp", "--drop-duplicates")
    assert run("merge", made / "coco.json", made / "coco.json", *arguments).code == 0
    assert len(converters.read(tmp_path / "b.kp")) == people


def test_onto_one_skeleton(run, made, tmp_path):
    """--skeleton brings all people onto it; what that drops needs --allow-lossy."""
    arguments = (
        "merge",
        made / "coco.json",
        made / "crowdpose.json",
        "-o",
        tmp_path / "a.kp",
        "--skeleton",
        "crowdpose_14",
    )
    done = run(*arguments)
    assert done.code == 1
    assert "crowdpose_14 cannot hold all of this dataset (keypoints without a place:" in done.err
    assert not list(tmp_path.iterdir())
    done = run(*arguments, "--allow-lossy")
    assert done.code == 0
    assert converters.read(tmp_path / "a.kp").skeleton.name == "crowdpose_14"
    assert "keypoints without a place" in done.out


def test_tables(run, made, tmp_path):
    """Each source on stderr as it was read, the merge and the losses on stdout."""
    done = run("merge", made / "coco.json", made / "mpii.h5", "-o", tmp_path / "a.kp")
    assert f"Read  {made / 'mpii.h5'}: 6 images" in done.err
    assert "new image_id in mpii (collisions)" in done.out
    assert "Loss report (kp): nothing lost" in done.out


def test_refusals_come_before_the_work(run, made, tmp_path):
    """An existing target, an unknown format, a target that says no format, no source: nothing is read."""
    target = tmp_path / "a.kp"
    target.mkdir()
    for arguments, code, words in (
        ((made / "coco.json", "-o", target), 1, "exists already"),
        ((made / "coco.json", "-o", tmp_path / "b", "--to", "cocoa"), 1, "no such format"),
        ((made / "coco.json", "-o", tmp_path / "b.json"), 1, "--to names it"),
        ((made / "coco.json", "-o", tmp_path / "b.kp", "--images", "."), 2, "only labelme and yolo"),
        (("-o", tmp_path / "b.kp"), 2, "Missing argument"),
    ):
        done = run("merge", *arguments)
        assert done.code == code, done.err
        assert words in done.err
        assert "Read" not in done.err
    assert run("merge", made / "coco.json", "-o", target, "--force").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.kp"]


def test_images_reach_the_formats_that_look_at_them(run, made, tmp_path):
    """YOLO labels alone are read with the photographs' folder."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for text in (made / "yolo").rglob("*.txt"):
        (labels / text.name).write_text(text.read_text())
    assert run("merge", labels, "-o", tmp_path / "a.kp").code == 1
    assert run("merge", labels, "-o", tmp_path / "a.kp", "--images", made / "images").code == 0


def test_approximate_and_other_formats(run, made, tmp_path):
    """--to writes any format; --approximate takes close keypoints of another protocol."""
    shared = ("merge", made / "crowdpose.json", "--skeleton", "mpii_16", "--allow-lossy", "--to", "coco")
    assert run(*shared, "-o", tmp_path / "plain.json").code == 0
    assert run(*shared, "-o", tmp_path / "close.json", "--approximate").code == 0
    plain, close = (json.loads((tmp_path / f"{n}.json").read_text())["annotations"] for n in ("plain", "close"))
    labelled = [np.array([row["keypoints"] for row in rows])[:, 2::3].astype(bool).sum() for rows in (plain, close)]
    assert labelled[0] < labelled[1]
