"""`kpdata eval`: the numbers of pycocotools, where the ground truth is found, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


@pytest.fixture(scope="session")
def judge(made):
    """pycocotools' evaluation of the made predictions, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(made / "coco.json"))
        judge = COCOeval(truth, truth.loadRes(str(made / "predictions.json")), "keypoints")
        judge.evaluate()
        judge.accumulate()
        with contextlib.redirect_stdout(printed):
            judge.summarize()
    return judge, printed.getvalue()


def test_json_arrays_and_lines_are_those_of_pycocotools(run, made, judge, tmp_path):
    """Ten numbers and three arrays to the last bit, and the printed lines to the last blank."""
    arrays = tmp_path / "out.npz"
    arguments = ("eval", made / "predictions.json", "--gt", made / "coco.json")
    report = json.loads(run(*arguments, "--json", "--arrays", arrays).out)
    assert list(report["stats"].items()) == list(zip(NAMES, judge[0].stats.tolist(), strict=True))
    assert report["metric"] == "COCO OKS AP/AR"
    assert report["sigmas"] == {"coco_17": judge[0].params.kpt_oks_sigmas.tolist()}
    assert report["files"] == {"predictions": str(made / "predictions.json"), "gt": str(made / "coco.json")}
    assert report["counts"]["images"] == 6
    with np.load(arrays) as saved:
        assert sorted(saved) == ["precision", "recall", "scores"]
        for name in saved:
            np.testing.assert_array_equal(saved[name], judge[0].eval[name])
    assert judge[1] in run(*arguments).out


def test_ground_truth_from_the_note(run, made, judge):
    """`kpdata synth` leaves a note beside the predictions, so that no option is needed."""
    report = json.loads(run("eval", made / "predictions.json", "--json").out)
    assert list(report["stats"].values()) == judge[0].stats.tolist()


def test_ground_truth_from_the_nearest_kpdata_toml(run, made, monkeypatch, tmp_path):
    """The file of the nearest folder above wins over one further up and over the note; the option wins over all."""
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    gone = tmp_path / "gone.json"
    (tmp_path / "kpdata.toml").write_text(f"gt = {json.dumps(str(gone))}")
    monkeypatch.chdir(here)
    done = run("eval", made / "predictions.json")
    assert done.code == 1
    assert "gone.json: there is no such file" in done.err
    (tmp_path / "a" / "kpdata.toml").write_text('gt = "truth.json"', encoding="utf-8")
    (tmp_path / "a" / "truth.json").write_bytes((made / "coco.json").read_bytes())
    report = json.loads(run("eval", made / "predictions.json", "--json").out)
    assert report["files"]["gt"] == str(tmp_path / "a" / "truth.json")
    report = json.loads(run("eval", made / "predictions.json", "--gt", made / "people.kp", "--json").out)
    assert report["files"]["gt"] == str(made / "people.kp")


@pytest.mark.parametrize(("name", "text", "words"), [
    ("kpdata.toml", "gt = ", "kpdata.toml: not TOML"),
    ("kpdata.toml", "gt = 3", "kpdata.toml: 'gt' is 3, expected a path"),
    ("p.json.note.json", "{", "p.json.note.json: not JSON"),
    ("p.json.note.json", '{"gt": 3}', "p.json.note.json: 'gt' is 3, expected a path"),
    ("p.json.note.json", "[]", "p.json.note.json: 'gt' is None, expected a path"),
])  # fmt: skip
def test_damaged_notes_are_named(run, made, monkeypatch, tmp_path, name, text, words):
    """Neither file is skipped in silence when it is damaged."""
    (tmp_path / "p.json").write_bytes((made / "predictions.json").read_bytes())
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    done = run("eval", "p.json")
    assert done.code == 1
    assert words in done.err


def test_no_ground_truth_names_the_three_ways(run, made, monkeypatch, tmp_path):
    """The option, the configuration and the note."""
    (tmp_path / "p.json").write_bytes((made / "predictions.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    done = run("eval", "p.json")
    assert done.code == 1
    assert all(words in done.err for words in ("p.json: no ground truth", "--gt GT", "kpdata.toml", "p.json.note.json"))


def test_a_wrong_pair_of_files_is_named(run, made):
    """Both files stand in the sentence when they do not fit, and swapped ones are told from others."""
    done = run("eval", made / "predictions.json", "--gt", made / "crowdpose.json")
    assert done.code == 1
    assert f"{made / 'predictions.json'} and {made / 'crowdpose.json'}: the predictions have 17 keypoints" in done.err
    done = run("eval", made / "coco.json", "--gt", made / "predictions.json")
    assert "coco.json: these are annotations, without scores" in done.err
    done = run("eval", made / "predictions.json", "--gt", made / "predictions.json")
    assert "predictions.json: these are predictions" in done.err
    assert "after --gt" in done.err


def test_own_skeleton_and_its_sigmas(run, tmp_path):
    """--skeleton brings sigmas to five keypoints that have no official ones; a perfect prediction then has AP 1."""
    row = {"image_id": 1, "category_id": 1, "keypoints": [10, 20, 2, 30, 40, 2, 50, 60, 2, 70, 80, 2, 90, 9, 2]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "hand"}],
             "annotations": [{**row, "id": 1, "num_keypoints": 5, "area": 4000.0, "bbox": [0, 0, 80, 80]}]}  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps([{**row, "score": 0.5}]))
    arguments = ("eval", tmp_path / "dt.json", "--gt", tmp_path / "gt.json")
    done = run(*arguments)
    assert done.code == 1
    assert "no official OKS sigmas" in done.err
    assert "--skeleton FILE.toml" in done.err
    skeleton = tmp_path / "five.toml"
    skeleton.write_text('name = "five"\nkeypoints = ["v", "w", "x", "y", "z"]\n[sigmas]\nvalues = [1, 1, 1, 1, 1]\n')
    done = run(*arguments, "--skeleton", skeleton, "--json")
    assert json.loads(done.out)["stats"]["AP"] == pytest.approx(1)
    done = run(*arguments, "--skeleton", "mpii_16")
    assert done.code == 1
    assert "'mpii_16' has 16 keypoints, the ground truth 5" in done.err


def test_arrays_are_not_overwritten(run, made, tmp_path):
    """An existing file stops the command before it scores; --force replaces it."""
    out = tmp_path / "a.npz"
    out.write_text("precious")
    done = run("eval", made / "predictions.json", "--arrays", out)
    assert (done.code, done.out, out.read_text()) == (1, "", "precious")
    assert run("eval", made / "predictions.json", "--arrays", out, "--force").code == 0
    assert np.load(out)["recall"].shape == (10, 1, 3, 1)


def test_empty_predictions(run, made, tmp_path):
    """Zeros with a sentence on stderr, exit 0."""
    (tmp_path / "dt.json").write_text("[]")
    done = run("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--json")
    assert json.loads(done.out)["stats"]["AP"] == 0
    done = run("eval", tmp_path / "dt.json", "--gt", made / "coco.json")
    assert "no predictions: AP and AR are 0" in done.err
