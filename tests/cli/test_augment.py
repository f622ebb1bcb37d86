"""`kpdata augment`: a sheet to look at, numbers beside the recipe, and a dataset that other tools read."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from kpdata import converters, schema
from kpdata.draw import load_image

cv2 = pytest.importorskip("cv2")


def test_a_preview(run, made, tmp_path):
    """A row for each of the people, the original and its samples; the same seed gives the same bytes."""
    sheets = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for sheet, seed in zip(sheets, (1, 1, 2), strict=True):
        arguments = ("--images", made / "images", "--preview", sheet, "-n", 2, "--people", 3, "--seed", seed)
        done = run("augment", made / "coco.json", *arguments)
        assert done.code == 0, done.err
        assert "3 people" in done.err
    first, again, other = (sheet.read_bytes() for sheet in sheets)
    assert first == again != other
    assert load_image(sheets[0]).shape[0] == 30 + 3 * (256 + 40)


@pytest.mark.parametrize(
    "preset", ["hrnet", "simple_baseline", "mmpose", "vitpose", "occlusion_heavy", "finetune_small"]
)
def test_statistics_agree_with_the_recipe(run, made, preset):
    """Every number that a recipe states is drawn as it says."""
    done = run(
        "augment", made / "people.kp", "--images", made / "images", "--preset", preset, "--stats", "-n", 12, "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    lines = {line["what"]: line for line in found["stats"]["lines"]}
    assert [line["what"] for line in lines.values() if line["agrees"] is False] == []
    assert lines["flipped"]["recipe"] == 0.5
    assert lines["flipped"]["of"] == 12 * found["people"]
    assert ("shifted: mean size, crop sides" in lines) == (preset in ("mmpose", "occlusion_heavy", "finetune_small"))
    assert (lines["points hidden by the recipe"]["drawn"] > 0) == (preset in ("occlusion_heavy", "finetune_small"))
    assert "source" in found["stats"]["recipe"]


def test_the_table(run, made):
    """Without --json: the numbers in columns, and where the recipe is from."""
    done = run("augment", made / "coco.json", "--images", made / "images", "--stats", "-n", 3)
    assert done.code == 0, done.err
    assert "as the recipe" in done.out
    assert "Source of the recipe: leoxiaobin/deep-high-resolution-net.pytorch" in done.out


@pytest.mark.parametrize(("to", "labels"), [(None, "people.kp"), ("coco", "coco.json")])
def test_a_written_dataset(run, made, tmp_path, to, labels):
    """Pictures of the crop's size, labels within them, and nothing that `validate --images` calls an error."""
    out = tmp_path / "out"
    told = ("--to", to) if to else ()
    done = run("augment", made / "coco.json", "--images", made / "images", "--out", out, *told, "-n", 2, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)["written"]
    found = converters.read(out / labels)
    assert len(found) == report["people"] == report["pictures"] == len(list((out / "images").iterdir()))
    names = schema.texts(found.images["file_name"])
    assert load_image(out / "images" / names[0]).shape == (256, 192, 3)
    seen = found.visibility > 0
    assert (np.rint(found.keypoints[seen]) >= 0).all()
    assert (found.keypoints[seen] <= (191.5, 255.5)).all()
    checked = run("validate", out / labels, "--images", out / "images", "--json")
    assert checked.code == 0, checked.out


def test_written_labels_lie_on_the_person(run, made, tmp_path):
    """Taken back through the recorded map, every keypoint is where it was annotated, left and right too."""
    out = tmp_path / "out"
    assert run("augment", made / "coco.json", "--images", made / "images", "--out", out, "-n", 3).code == 0
    source, found = converters.read(made / "coco.json"), converters.read(out / "people.kp")
    row = {int(i): n for n, i in enumerate(schema.values(source.persons["annotation_id"]))}
    order = source.skeleton.flip_index()
    lost = mirrored = 0
    for n, text in enumerate(schema.texts(found.images["extras"])):
        facts = json.loads(text)["augmented_from"]
        back = np.linalg.inv(np.array(facts["matrix"]))
        points = np.c_[found.keypoints[n], np.ones(17)] @ back.T
        seen = found.visibility[n] > 0
        if facts["mirrored"]:
            points, seen, mirrored = points[order], seen[order], mirrored + 1
        truth, labelled = (
            source.keypoints[row[facts["annotation_id"]]],
            source.visibility[row[facts["annotation_id"]]] > 0,
        )
        np.testing.assert_allclose(points[seen, :2], truth[seen], atol=1e-5)
        assert not (seen & ~labelled).any()
        lost += int((labelled & ~seen).sum())
    assert lost > 0 < mirrored  # else nothing was looked at


def test_provenance(run, made, tmp_path):
    """The history names recipe, seed and what became of points outside; the licence of the source is kept."""
    out = tmp_path / "out"
    arguments = ("--images", made / "images", "--out", out, "--preset", "mmpose", "--seed", 9, "-n", 1, "--people", 2)
    assert run("augment", made / "people.kp", *arguments).code == 0
    found = converters.read(out / "people.kp")
    entry = next(e for e in found.history if e["op"] == "augment")
    assert (entry["preset"]["name"], entry["seed"], entry["samples"], entry["outside"]) == ("mmpose", 9, 1, "absent")
    assert entry["preset"]["rotation"]["factor"] == 80
    assert found.datasets["augmented"]["sources"]["synth"]["licence"] == "CC0-1.0"


def test_a_person_is_the_same_among_few_and_many(run, made, tmp_path):
    """Sample k of a person does not depend on who else is taken."""
    for name, people in (("few", 2), ("all", None)):
        told = ("--people", people) if people else ()
        run("augment", made / "coco.json", "--images", made / "images", "--out", tmp_path / name, "-n", 2, *told)
    few, every = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "images").iterdir()} for name in ("few", "all")
    )
    assert len(few) == 4 < len(every)
    assert few.items() <= every.items()


def test_pictures_that_cannot_be_used(run, made, tmp_path):
    """A missing and a damaged picture are counted and named, the others are used; without any it is an error."""
    photos = tmp_path / "photos"
    shutil.copytree(made / "images", photos)
    (photos / "000001.jpg").unlink()
    (photos / "000003.jpg").write_bytes((photos / "000003.jpg").read_bytes()[:600])
    done = run("augment", made / "coco.json", "--images", photos, "--stats", "-n", 1)
    assert done.code == 0, done.err
    assert "2 of 6 pictures cannot be used: 000001.jpg, 000003.jpg" in done.err
    found = json.loads(run("augment", made / "coco.json", "--images", photos, "--stats", "-n", 1, "--json").out)
    assert [row["file"] for row in found["unusable"]] == ["000001.jpg", "000003.jpg"]
    assert "no such picture" in found["unusable"][0]["reason"]
    (tmp_path / "empty").mkdir()
    done = run("augment", made / "coco.json", "--images", tmp_path / "empty", "--out", tmp_path / "out")
    assert done.code == 1
    assert "none of 6 pictures can be used; the first:" in done.err
    assert not (tmp_path / "out").exists()


def test_people_without_a_box(run, made, tmp_path):
    """A box is made of the keypoints where the file has none; where these are one point, the person is left out."""
    raw = json.loads((made / "coco.json").read_text())
    for person in raw["annotations"]:
        person.pop("bbox")
    flags = np.array(raw["annotations"][0]["keypoints"]).reshape(-1, 3)
    flags[1:] = 0
    flags[0] = (50, 50, 2)
    raw["annotations"][0] |= {"keypoints": flags.ravel().tolist(), "num_keypoints": 1}
    (tmp_path / "boxless.json").write_text(json.dumps(raw))
    out = tmp_path / "out"
    done = run("augment", tmp_path / "boxless.json", "--images", made / "images", "--out", out, "-n", 1)
    assert done.code == 0, done.err
    assert "left out, without a box and with one keypoint, which makes none: 1 people" in done.err
    assert len(converters.read(out / "people.kp")) == len(raw["annotations"]) - 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing to do: give --preview OUT.png, --stats or --out DST"),
        (("--stats", "--to", "coco"), 2, "--to is about the labels that --out writes"),
        (("--stats", "--preset", "hrnnet"), 1, "no preset is named 'hrnnet', expected one of hrnet, simple_baseline"),
        (("--preview", "grid.tiff"), 1, "a preview is written as .png, .jpg, .jpeg, not as '.tiff'"),
        (("--stats", "-n", "0"), 2, "'--samples'"),
        (("--stats", "--skeleton", "mpii_16"), 1, "--skeleton mpii_16 (16 keypoints), but the file's own is coco_17"),
    ],
)
def test_refused(run, made, tmp_path, monkeypatch, arguments, code, words):
    """Nothing asked for, options that would mean nothing, unknown names."""
    monkeypatch.chdir(tmp_path)
    done = run("augment", made / "coco.json", "--images", made / "images", *arguments)
    assert (done.code, words in " ".join(done.err.split())) == (code, True), done.err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(run, made, tmp_path):
    """A target that exists stays without --force; --force replaces what --out wrote, and never the source."""
    out, images = tmp_path / "out", made / "images"
    asked = ("augment", made / "coco.json", "--images", images, "-n", 1, "--people", 1, "--out")
    assert run(*asked, out).code == 0
    assert run(*asked, out).code == 1
    assert run(*asked, out, "--force").code == 0
    (out / "mine.txt").write_text("x")
    done = run(*asked, out, "--force")
    assert (done.code, "is no folder that --out wrote" in done.err) == (1, True)
    copy = tmp_path / "own"
    (copy / "images").mkdir(parents=True)
    shutil.copy(made / "coco.json", copy)
    done = run("augment", copy / "coco.json", "--images", images, "--out", copy, "--force")
    assert (done.code, "SRC" in done.err, (copy / "coco.json").exists()) == (1, True, True)


@pytest.mark.parametrize(("name", "photos"), [("mpii.h5", "images"), ("labelme", "images"), ("yolo", "yolo")])
def test_other_formats(run, made, name, photos):
    """Sources with centre and scale in place of boxes, and those that are read with their photographs."""
    done = run("augment", made / name, "--images", made / photos, "--stats", "-n", 1, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["people"] > 0
    assert found["unusable"] == []


def test_without_opencv(run, made, monkeypatch):
    """A missing extra is one line that says what to install."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = run("augment", made / "coco.json", "--images", made / "images", "--stats")
    assert done.code == 1
    assert "pip install 'kpdata[augment]'" in done.err


def test_real_photographs(run, real_data, tmp_path):
    """COCO's photographs, grey ones among them: the people with keypoints, crowds left out and said."""
    folder = real_data / "coco_mini"
    source, photos = folder / "person_keypoints_val2017.json", folder / "val2017"
    done = run("augment", source, "--images", photos, "--stats", "-n", 2, "--people", 20, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["unusable"] == []
    assert [line["what"] for line in found["stats"]["lines"] if line["agrees"] is False] == []
