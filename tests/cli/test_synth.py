"""`kpdata synth`: every option has effect, and the same seed the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kpdata import converters
from kpdata.cli.synth import TARGETS
from kpdata.synth.predict import Kind

SMALL = ("-n", 4, "--size", "160x120", "--seed", 1)


def synth(run, folder, *options, size="160x120"):
    done = run("synth", folder, "-n", 4, "--size", size, "--seed", 1, *options, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_all_formats(made):
    """--formats all: each is there, read back as what it says, with the people of its pictures."""
    for name, (skeleton, file) in TARGETS.items():
        assert converters.detect(made / file)[0] == name
        assert converters.read(made / file).skeleton.name == skeleton
    assert len(list((made / "images").iterdir())) == 6
    with Image.open(made / "images" / "000001.jpg") as picture:
        assert picture.size == (320, 240)


def test_formats_in_a_list(run, tmp_path):
    """Only what is named is written; names that are none are wrong usage and leave nothing."""
    synth(run, tmp_path / "a", "--formats", "kp, labelme", "--no-pictures", "--no-predictions")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["labelme", "people.kp"]
    for odd in ("coco,cocoa", "", "coco,"):
        done = run("synth", tmp_path / "b", "--formats", odd)
        assert done.code == 2
        assert "expected all or some of kp, coco" in done.err
    assert not (tmp_path / "b").exists()


def test_the_same_seed_the_same_bytes(run, tmp_path):
    """Annotations, pictures and predictions of one seed are equal; another seed gives other people."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run("synth", tmp_path / name, "-n", 2, "--size", "160x120", "--seed", seed).code == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert all(
        (tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes() for f in files if f.suffix == ".jpg"
    )


def test_scene_options(run, tmp_path):
    """--images, --people, --size, --crowds are what the file and the pictures say."""
    synth(run, tmp_path / "a", "--people", "2-2", "--crowds", 1, size="200x150")
    raw = json.loads((tmp_path / "a" / "coco.json").read_text())
    assert len(raw["images"]) == 4
    assert {(i["width"], i["height"]) for i in raw["images"]} == {(200, 150)}
    people = [a for a in raw["annotations"] if not a["iscrowd"]]
    assert len(people) <= 8
    assert max(np.bincount([a["image_id"] for a in people])) == 2
    assert sum(a["iscrowd"] for a in raw["annotations"]) > 0
    synth(run, tmp_path / "b", "--people", "3", "--formats", "mpii,crowdpose", "--crowds", 0.5, "--no-pictures")
    assert not (tmp_path / "b" / "images").exists()


def shares(folder):
    """Share of labelled keypoints of each kind of error, from the truth about the predictions."""
    kinds = pq.read_table(folder / "predictions.truth.parquet")["kinds"].to_pylist()
    flat = np.array([kind for row in kinds if row is not None for kind in row])
    return {kind.name.lower(): float((flat == kind).mean()) for kind in Kind}


@pytest.mark.parametrize("kind", ["jitter", "inversion", "swap", "miss"])
def test_errors_of_predictions(run, tmp_path, kind):
    """Each share moves the errors of its own kind, and 0 leaves none of them."""
    others = [word for name in ("jitter", "inversion", "swap", "miss") if name != kind for word in (f"--{name}", 0)]
    synth(run, tmp_path / "with", "--no-pictures", *others, f"--{kind}", 0.4)
    synth(run, tmp_path / "none", "--no-pictures", *others, f"--{kind}", 0)
    assert shares(tmp_path / "with")[kind] > 0.02
    assert shares(tmp_path / "none")[kind] == 0


def test_missed_people_and_false_positives(run, tmp_path):
    """All missed leaves the false positives, two for each person; neither leaves one prediction a person."""
    synth(run, tmp_path / "a", "--no-pictures", "--missed-people", 1, "--false-positives", 2)
    people = len(json.loads((tmp_path / "a" / "coco.json").read_text())["annotations"])
    assert len(json.loads((tmp_path / "a" / "predictions.json").read_text())) == 2 * people
    synth(run, tmp_path / "b", "--no-pictures", "--missed-people", 0, "--false-positives", 0)
    assert len(json.loads((tmp_path / "b" / "predictions.json").read_text())) == people


def test_json_says_what_was_written(made, run, tmp_path):
    """Path, people and losses of each file."""
    report = synth(run, tmp_path / "a", "--formats", "coco,lsp", "--no-pictures")
    by_name = {entry["what"]: entry for entry in report["written"]}
    assert list(by_name) == ["coco", "lsp", "predictions", "their errors"]
    assert by_name["coco"]["losses"] == {}
    assert by_name["coco"]["people"] == len(converters.read(tmp_path / "a" / "coco.json"))
    assert by_name["lsp"]["path"] == str(tmp_path / "a" / "joints.mat")


def test_contradictions_leave_nothing(run, tmp_path):
    """Options that cannot be are refused before a byte is written: exit 2 for their form, 1 for what they mean."""
    for options, code in (
        (("--people", "many"), 2), (("--size", "big"), 2), (("--jitter", 2), 2), (("-n", -1), 2),
        (("--people", "5-1"), 1), (("--size", "0x0"), 1), (("--jitter", 0.9, "--miss", 0.9), 1),
    ):  # fmt: skip
        done = run("synth", tmp_path / "a", "-n", 2, *options)
        assert done.code == code, options
        assert not (tmp_path / "a").exists()


def test_an_existing_folder(run, tmp_path):
    """It is kept without --force; with it what has the same names is replaced and the rest stays."""
    synth(run, tmp_path / "a", "--no-pictures")
    (tmp_path / "a" / "mine.txt").write_text("precious")
    assert run("synth", tmp_path / "a", *SMALL).code == 1
    assert run("synth", tmp_path / "a", *SMALL, "--force").code == 0
    assert (tmp_path / "a" / "mine.txt").read_text() == "precious"
    assert len(list((tmp_path / "a" / "images").iterdir())) == 4


def test_no_images(run, tmp_path):
    """Nothing is a data set too."""
    done = run("synth", tmp_path / "a", "-n", 0, "--formats", "kp,coco")
    assert done.code == 0
    assert json.loads((tmp_path / "a" / "predictions.json").read_text()) == []
