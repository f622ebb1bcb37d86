"""`kpdata sigmas`: two annotators' files to a skeleton file that the evaluator takes."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from kpdata.skeleton import load

NOISE = 0.05


@pytest.fixture(scope="session")
def pair(run, tmp_path_factory):
    """The labels of made-up people, and those of another annotator: noise of 0.05 roots of the area."""
    folder = tmp_path_factory.mktemp("pair")
    done = run("synth", folder / "a", "-n", 60, "--size", "320x240", "--seed", 4, "--no-pictures")
    assert done.code == 0, done.err
    raw = json.loads((folder / "a" / "coco.json").read_text())
    rng, other = np.random.default_rng(0), copy.deepcopy(raw)
    for row in other["annotations"]:
        block = np.reshape(row["keypoints"], (-1, 3)).astype(float)
        block[:, :2] += rng.normal(0, NOISE * np.sqrt(row["area"]), (len(block), 2)) * (block[:, 2:] > 0)
        row["keypoints"] = block.ravel().tolist()
    (folder / "a.json").write_text(json.dumps(raw))
    (folder / "b.json").write_text(json.dumps(other))
    return folder


def test_two_files_to_a_skeleton(run, pair, tmp_path):
    """The sigma is what the noise was made with; the written skeleton scores the predictions."""
    out = tmp_path / "own.toml"
    done = run("sigmas", pair / "a.json", pair / "b.json", "-o", out, "--name", "own", "--json", "--resamples", 200)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["files"] == [str(pair / "a.json"), str(pair / "b.json")]
    # One of the two is exact. d² of a pair is 2 NOISE² (two axes), and each label gets half of it.
    found = np.array([row["sigma"] for row in report["keypoints"]])
    np.testing.assert_allclose(found, NOISE, rtol=0.25)
    assert [row["low"] < NOISE < row["high"] for row in report["keypoints"]].count(False) <= 3
    assert report["matching"] == "by annotation id"
    assert load(out).name == "own"
    np.testing.assert_allclose(load(out).sigmas, found, atol=1e-6)
    scored = run("eval", pair / "a" / "predictions.json", "--gt", pair / "a.json", "--skeleton", out, "--json")
    assert scored.code == 0, scored.err


def test_the_table(run, pair):
    """Without --json: a line a keypoint, and what it rests on."""
    done = run("sigmas", pair / "a.json", pair / "b.json", "--minimum", 5000, "--resamples", 10)
    assert done.code == 0
    assert len([line for line in done.out.splitlines() if line.startswith(("left_", "right_", "nose"))]) == 17
    assert "area: the area field" in done.out
    assert "no sigma where fewer than 5000 people were labelled twice" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("a.json", "b.json", "--group", "who"), 2, "--group tells who is who in one file"),
        (("a.json", "b.json", "--name", "x"), 2, "--name is about the skeleton file"),
        (("a.json", "b.json", "--robust"), 2, "--robust is about the skeleton file"),
        (("a.json", "--group", "who"), 1, "people has a key 'who' in its extras"),
        (("a.json", "a.json"), 1, "are equal to the last bit"),
        (("a.json", "b.json", "-o", "own.toml", "--minimum", "5000"), 1, "17 of 17 keypoints have fewer than 5000"),
        (("a.json", "b.json", "-o", "own.json"), 1, "a skeleton file is TOML"),
        (("a.json", "b.json", "-o", "a.json"), 1, "exists already"),
        (("a.json", "b.json", "-o", "own.toml", "--name", "coco_17"), 1, "'coco_17' is a built-in skeleton's"),
        (("a.json", "missing.json"), 1, "missing.json"),
    ],
)
def test_refusals(run, pair, monkeypatch, arguments, code, words):
    """Options that mean nothing are wrong usage; what cannot be measured or written is an error in a sentence."""
    monkeypatch.chdir(pair)
    done = run("sigmas", *arguments)
    assert done.code == code
    assert words in " ".join(done.err.split())
    assert not (pair / "own.toml").exists()
