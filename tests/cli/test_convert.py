"""`kpdata convert`: what is read, what is written, what is lost, and what is refused."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from kpdata import converters
from kpdata.skeleton import load


def hand(tmp_path, k=5, names=True):
    """A COCO file of hands with K keypoints, and a skeleton file that names five."""
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1.0, 2.0, 2] * k, "area": 50.0}]
    category = {"id": 1, "name": "hand", **({"keypoints": list("abcde")} if names else {})}
    raw = {"images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}], "annotations": rows}
    (tmp_path / "hand.json").write_text(json.dumps({**raw, "categories": [category]}))
    (tmp_path / "hand.toml").write_text('name = "five"\nkeypoints = ["v", "w", "x", "y", "z"]\n')
    return tmp_path / "hand.json", tmp_path / "hand.toml"


def test_prints_what_was_read_written_and_lost(run, made, tmp_path):
    """Read and Wrote on stderr with counts, the loss report by kind on stdout."""
    done = run("convert", made / "coco.json", tmp_path / "a.kp")
    people = len(json.loads((made / "coco.json").read_text())["annotations"])
    assert done.code == 0
    assert f"coco, 6 images, {people} people, coco_17 (17 keypoints)" in done.err
    assert f"Wrote  {tmp_path / 'a.kp'}: kp, 6 images, {people} people" in done.err
    assert "Loss report (kp): nothing lost" in done.out
    assert converters.read(tmp_path / "a.kp") == converters.read(made / "coco.json")


def test_a_lossy_write_stops(run, made, tmp_path):
    """Without --allow-lossy: exit 1, each kind with its count, the way out, and no file."""
    target = tmp_path / "joints.mat"
    done = run("convert", made / "people.kp", target, "--to", "lsp")
    assert done.code == 1
    assert f"{target}: lsp cannot hold all of this dataset (" in done.err
    assert "--allow-lossy" in done.err
    assert not list(tmp_path.iterdir())


def test_a_lossy_write_that_is_allowed_is_counted(run, made, tmp_path):
    """The report counts what a reader of the written file no longer finds: nose, eyes and ears among 14 joints."""
    done = run("convert", made / "people.kp", tmp_path / "a.json", "--to", "crowdpose", "--allow-lossy", "--json")
    report = json.loads(done.out)
    before = converters.read(made / "people.kp")
    lost = int((before.visibility[:, :5] > 0).sum())  # nose, eyes, ears
    assert report["losses"]["keypoints without a place"] == lost
    after = converters.read(tmp_path / "a.json")
    assert (after.visibility > 0).sum() == (before.visibility[:, 5:] > 0).sum()
    assert (report["images"], report["people"]) == (6, len(before))


def test_remapping_by_the_user_is_a_loss_too(run, made, tmp_path):
    """--skeleton drops keypoints: that needs --allow-lossy, and names the skeleton that has no place for them."""
    done = run("convert", made / "people.kp", tmp_path / "a.kp", "--skeleton", "mpii_16")
    assert done.code == 1
    assert "mpii_16 cannot hold all of this dataset (keypoints without a place:" in done.err
    assert not list(tmp_path.iterdir())
    done = run("convert", made / "people.kp", tmp_path / "a.kp", "--skeleton", "mpii_16", "--allow-lossy")
    assert converters.read(tmp_path / "a.kp").skeleton.name == "mpii_16"


def test_approximate_takes_close_keypoints(run, made, tmp_path):
    """CrowdPose's neck becomes MPII's only with --approximate, and is counted as such."""
    source, people = made / "crowdpose.json", len(converters.read(made / "crowdpose.json"))
    plain, close = tmp_path / "plain.kp", tmp_path / "close.kp"
    assert run("convert", source, plain, "--skeleton", "mpii_16", "--allow-lossy").code == 0
    done = run("convert", source, close, "--skeleton", "mpii_16", "--allow-lossy", "--approximate", "--json")
    neck = load("mpii_16").keypoint_names.index("upper_neck")
    assert (converters.read(plain).visibility[:, neck] > 0).sum() == 0
    assert 0 < (converters.read(close).visibility[:, neck] > 0).sum() <= people
    assert json.loads(done.out)["losses"]["approximate keypoints"] > 0


def test_an_existing_destination_is_kept(run, made, tmp_path):
    """Exit 1 before anything is read, the old bytes stay; --force replaces them."""
    target = tmp_path / "a.json"
    target.write_text("precious")
    done = run("convert", made / "people.kp", target, "--to", "coco")
    assert (done.code, target.read_text()) == (1, "precious")
    assert f"{target}: exists already" in done.err
    assert "Read" not in done.err
    assert run("convert", made / "people.kp", target, "--to", "coco", "--force").code == 0
    assert "annotations" in json.loads(target.read_text())


def test_a_failed_write_with_force_keeps_the_old_file(run, made, tmp_path):
    """A lossy write that stops leaves what was there."""
    target = tmp_path / "joints.mat"
    target.write_bytes(b"precious")
    assert run("convert", made / "people.kp", target, "--to", "lsp", "--force").code == 1
    assert target.read_bytes() == b"precious"


def test_the_target_format_is_never_guessed(run, made, tmp_path):
    """A .json may be any of five formats: the error lists the names; an unknown name is refused before reading."""
    done = run("convert", made / "people.kp", tmp_path / "a.json")
    assert done.code == 1
    assert "--to names it: kp, crowdpose, coco" in done.err
    done = run("convert", made / "people.kp", tmp_path / "a.json", "--to", "cocoa")
    assert done.code == 1
    assert "cocoa: no such format" in done.err
    assert "Read" not in done.err


def test_gzip_both_ways(run, made, tmp_path):
    """A target that ends in .gz is packed, and read back as it is."""
    target = tmp_path / "a.json.gz"
    assert run("convert", made / "coco.json", target, "--to", "coco").code == 0
    assert json.loads(gzip.decompress(target.read_bytes())) == json.loads((made / "coco.json").read_text())
    assert run("convert", target, tmp_path / "b.json", "--to", "coco").code == 0
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads((made / "coco.json").read_text())


def test_names_of_any_script(run, made, tmp_path):
    """Spaces, accents, brackets and Chinese in paths."""
    target = tmp_path / "élan [1] 日本" / "ü.kp"
    done = run("convert", made / "coco.json", target)
    assert done.code == 0
    assert str(target) in done.err
    assert json.loads(run("info", target, "--json").out)["source"] == str(target)


def test_results_become_annotations(run, made, tmp_path):
    """Predictions written as COCO keep their scores."""
    target = tmp_path / "a.json"
    assert run("convert", made / "predictions.json", target, "--to", "coco", "--allow-lossy").code == 0
    found = [row["score"] for row in json.loads(target.read_text())["annotations"]]
    assert found == [row["score"] for row in json.loads((made / "predictions.json").read_text())]


def test_label_split(run, made, tmp_path):
    """Every image says the name."""
    assert run("convert", made / "coco.json", tmp_path / "a.kp", "--label-split", "val").code == 0
    assert set(converters.read(tmp_path / "a.kp").images["split"].to_pylist()) == {"val"}


def test_select_by_people_and_by_images(run, made, tmp_path):
    """A column of people keeps all images; image.COLUMN keeps images with their people; conditions add up."""
    raw = json.loads((made / "coco.json").read_text())
    wanted = [a["id"] for a in raw["annotations"] if a["num_keypoints"] >= 15 and a["image_id"] <= 4]
    run(
        "convert",
        made / "coco.json",
        tmp_path / "a.kp",
        "--select",
        "num_keypoints>=15",
        "--select",
        "image.image_id<=4",
    )
    found = converters.read(tmp_path / "a.kp")
    assert found.persons["annotation_id"].to_pylist() == wanted
    assert found.images.num_rows == 4
    run("convert", made / "coco.json", tmp_path / "b.kp", "--select", "num_keypoints>=15")
    assert converters.read(tmp_path / "b.kp").images.num_rows == 6


@pytest.mark.parametrize(("condition", "words"), [
    ("num_keypoints", "is no condition"),
    ("height_cm>3", "no column 'height_cm'"),
    ("area>big", "'big' is not a number"),
    ("keypoints=3", "a list cannot be compared"),
])  # fmt: skip
def test_select_in_words(run, made, tmp_path, condition, words):
    """A condition that cannot be is refused with the file's name; nothing is written."""
    done = run("convert", made / "coco.json", tmp_path / "a.kp", "--select", condition)
    assert done.code == 1
    assert words in done.err
    assert "coco.json" in done.err
    assert not list(tmp_path.iterdir())


def test_ids_above_2_to_the_53_are_compared_as_integers(run, tmp_path):
    """2^53 + 1 is no float."""
    big = 2**53 + 1
    images = [{"id": big - i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in (0, 1)]
    source = tmp_path / "a.json"
    source.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert run("convert", source, tmp_path / "a.kp", "--select", f"image.image_id={big}").code == 0
    assert converters.read(tmp_path / "a.kp").images["image_id"].to_pylist() == [big]


@pytest.mark.parametrize(("option", "source", "to"), [
    (("--centric", "person"), "coco.json", "kp"),
    (("--images", "."), "coco.json", "kp"),
    (("--dataset", "lsp"), "people.kp", "kp"),
    (("--layout", "flat"), "people.kp", "mpii"),
    (("--variant", "h5"), "people.kp", "coco"),
    (("--group-by", "box"), "coco.json", "coco"),
    (("--occluded-suffix", "_x"), "coco.json", "coco"),
    (("--unknown-as", "visible"), "coco.json", "kp"),
])  # fmt: skip
def test_an_option_that_means_nothing_is_wrong_usage(run, made, tmp_path, option, source, to):
    """No option is accepted and ignored: exit 2."""
    done = run("convert", made / source, tmp_path / "out", "--to", to, *option)
    assert done.code == 2
    assert f"{option[0]} means nothing for" in done.err


@pytest.mark.parametrize("option", ["--centric", "--dataset", "--layout", "--variant", "--group-by", "--unknown-as"])
def test_values_that_are_none_are_wrong_usage(run, made, tmp_path, option):
    """Exit 2, the value is quoted and the possible ones are listed; nothing is written."""
    done = run("convert", made / "people.kp", tmp_path / "out", "--to", "coco", option, "nonsense")
    assert done.code == 2
    assert "'nonsense' is not one of" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "source"), [(("--skeleton", "coco_18"), "people.kp"), (("--images", "nope"), "yolo")]
)
def test_what_is_not_there_is_named(run, made, tmp_path, option, source):
    """A skeleton or a folder that does not exist: exit 1, its name, and nothing written."""
    done = run("convert", made / source, tmp_path / "a.kp", *option)
    assert done.code == 1
    assert option[1] in done.err
    assert not list(tmp_path.iterdir())


def test_options_of_formats_have_effect(run, made, tmp_path):
    """Each format's own option changes what is written."""
    run("convert", made / "joints.mat", tmp_path / "person.kp", "--dataset", "lsp", "--centric", "person")
    run("convert", made / "joints.mat", tmp_path / "observer.kp", "--dataset", "lsp", "--centric", "observer")
    one, two = (next(iter(converters.read(tmp_path / f"{w}.kp").datasets.values())) for w in ("person", "observer"))
    assert one != two
    for kind, name in (("json", "a.json"), ("h5", "a.h5"), ("flat", "a.mat")):
        done = run("convert", made / "mpii.h5", tmp_path / name, "--to", "mpii", "--variant", kind, "--allow-lossy")
        assert done.code == 0
        assert next(iter(converters.read(tmp_path / name).datasets.values()))["variant"] == kind
    for state, flag in (("visible", 2), ("occluded", 1)):
        target = tmp_path / f"{state}.json"
        run("convert", made / "predictions.json", target, "--to", "coco", "--allow-lossy", "--unknown-as", state)
        flags = np.array([row["keypoints"] for row in json.loads(target.read_text())["annotations"]])[:, 2::3]
        assert set(flags.ravel().tolist()) <= {0, flag}


def test_keypoints_without_names_get_them(run, tmp_path):
    """--skeleton names the keypoints of a COCO category that does not, in place and without a loss."""
    source, skeleton = hand(tmp_path, names=False)
    done = run("convert", source, tmp_path / "a.kp", "--skeleton", skeleton)
    assert done.code == 0
    assert converters.read(tmp_path / "a.kp").skeleton.keypoint_names == ("v", "w", "x", "y", "z")
    assert converters.read(tmp_path / "a.kp").visibility.tolist() == [[2] * 5]


def test_names_that_do_not_fit_are_replaced(run, tmp_path):
    """Six numbers under five names: refused with the file's name, read with the skeleton that the user gives."""
    source, _ = hand(tmp_path, k=6)
    done = run("convert", source, tmp_path / "a.kp")
    assert done.code == 1
    assert "hand.json: annotation 1" in done.err
    assert "--skeleton" in done.err
    six = tmp_path / "six.toml"
    six.write_text('name = "six"\nkeypoints = ["a", "b", "c", "d", "e", "f"]\n')
    assert run("convert", source, tmp_path / "a.kp", "--skeleton", six).code == 0
    assert converters.read(tmp_path / "a.kp").skeleton.name == "six"


def test_faults_found_while_reading_are_told(run, tmp_path):
    """A file with a fault is converted, with a note that says how many and which command lists them."""
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    source = tmp_path / "a.json"
    source.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    done = run("convert", source, tmp_path / "a.kp", "--json")
    assert done.code == 0
    assert f"1 errors found while reading; `kpdata validate {source}`" in done.err
    assert json.loads(done.out)["findings"][0]["code"] == "image-repeated"
