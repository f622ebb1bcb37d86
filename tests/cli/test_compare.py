"""`kpdata compare`: the verdict, the JSON, the people, and what is refused."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from kpdata import read
from kpdata.eval import evaluate


@pytest.fixture(scope="module")
def worse(run, made, tmp_path_factory):
    """Predictions for the people of `made` by a model with many more errors."""
    folder = tmp_path_factory.mktemp("worse") / "synth"
    done = run(
        "synth", folder, "-n", 6, "--size", "320x240", "--seed", 3, "--jitter", 0.1, "--miss", 0.8, "--no-pictures"
    )
    assert done.code == 0, done.err
    return folder / "predictions.json"


def test_json_has_both_models_numbers(run, made, worse):
    """a and b are what `evaluate` gives for each file; the ground truth comes from the note beside A."""
    done = run("compare", made / "predictions.json", worse, "--bootstrap", 100, "--seed", 4, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    for side, path in (("a", made / "predictions.json"), ("b", worse)):
        stats = evaluate(read(made / "coco.json"), read(path)).stats
        for name, value in stats.items():
            assert report["stats"][name][side] == pytest.approx(value if value > -1 else None, abs=1e-12)
    assert report["metric"].startswith("COCO OKS AP/AR")
    assert report["verdict"].startswith("no difference that 6 images could show: AP −")
    assert report["files"] == {"a": str(made / "predictions.json"), "b": str(worse), "gt": str(made / "coco.json")}
    assert (report["resamples"], report["seed"]) == (100, 4)
    assert run("compare", made / "predictions.json", worse, "--bootstrap", 100, "--seed", 4, "--json").out == done.out


def test_what_is_printed(run, made, worse):
    """In a pipe: a plain table of ten numbers in points, the keypoints, and the verdict as a line of its own."""
    done = run("compare", made / "predictions.json", worse, "--gt", made / "coco.json", "--bootstrap", 100, "--seed", 4)
    lines = done.out.splitlines()
    assert "\x1b" not in done.out
    assert lines[0] == f"A: {made / 'predictions.json'}"
    assert [line.split()[0] for line in lines if line.startswith(("AP", "AR"))] == [
        "AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl",
    ]  # fmt: skip
    assert any(line.startswith("no difference that 6 images could show: AP −") for line in lines)
    assert any("people: OKS more than 0.05 better in B for" in line for line in lines)


def test_people_are_saved(run, made, worse, tmp_path):
    """Everybody that counts, in Parquet; an existing file stops the command unless --force."""
    out = tmp_path / "people.parquet"
    arguments = ("compare", made / "predictions.json", worse, "--bootstrap", 10, "--people", out)
    refused = run(*arguments[:-1], tmp_path / "people.csv")
    assert (refused.code, "would be a Parquet file" in refused.err) == (1, True)
    assert run(*arguments).code == 0
    table = pq.read_table(out)
    assert table.column_names[:2] == ["annotation_id", "image_id"]
    assert table["change"].to_pylist() == sorted(table["change"].to_pylist())
    done = run(*arguments)
    assert (done.code, done.out) == (1, "")
    assert "exists already" in done.err
    assert run(*arguments, "--force").code == 0


def test_slices_that_the_user_names(run, made, worse):
    """--slice takes kinds and columns, several times; an unknown one lists what there is."""
    arguments = ("compare", made / "predictions.json", worse, "--bootstrap", 10, "--json")
    report = json.loads(run(*arguments, "--slice", "size", "--slice", "image.width").out)
    assert {row["by"] for row in report["slices"]} == {"size", "image.width"}
    done = run(*arguments, "--slice", "mood")
    assert done.code == 1
    assert "slices by 'mood'" in done.err
    assert "occlusion" in done.err


def test_the_same_file_twice(run, made):
    """No difference, said in words that hold for so few images."""
    done = run("compare", made / "predictions.json", made / "predictions.json", "--bootstrap", 10)
    assert "no difference that 6 images could show" in done.out


def test_what_cannot_be_compared(run, made, worse):
    """No resamples is wrong usage; annotations in B's place, and options of other metrics, are errors in words."""
    a = made / "predictions.json"
    assert run("compare", a, worse, "--bootstrap", 0).code == 2
    done = run("compare", a, made / "coco.json")
    assert (done.code, "coco.json: these are annotations" in done.err) == (1, True)
    done = run("compare", a, worse, "--metric", "pck", "--slice", "shoes")
    assert (done.code, "neither a kind of people nor a column" in done.err) == (1, True)
    done = run("compare", a, worse, "--metric", "pck", "--area", "bbox")
    assert (done.code, "no option area" in done.err) == (1, True)
    done = run("compare", a, worse, "--normalize", "torso")
    assert (done.code, "no option normalize" in done.err) == (1, True)
    done = run("compare", a, worse, "--gt", made / "crowdpose.json")
    assert done.code == 1
    assert "17 keypoints" in done.err
    done = run("compare", a, worse, "--people", worse, "--force")
    assert (done.code, "would overwrite" in done.err) == (1, True)


def test_options_of_the_score(run, made, worse, tmp_path):
    """--unknown-images, --area, --mode and --max-dets mean what they mean to `kpdata eval`; notes are in the JSON."""
    rows = json.loads(worse.read_bytes())
    (tmp_path / "b.json").write_text(json.dumps([*rows, {**rows[0], "image_id": 99}]))
    options = ("--unknown-images", "ignore", "--area", "bbox", "--mode", "fixed", "--max-dets", 2)
    files = (made / "predictions.json", tmp_path / "b.json", "--gt", made / "coco.json")
    report = json.loads(run("compare", *files, *options, "--bootstrap", 5, "--json").out)
    for side, path in zip("ab", files, strict=False):
        alone = json.loads(run("eval", path, "--gt", made / "coco.json", *options, "--json").out)["stats"]
        assert report["stats"]["AP"][side] == pytest.approx(alone["AP"], abs=1e-12)
    assert any(note.startswith("B: 1 prediction for 1 image") for note in report["notes"])
    assert run("compare", *files, "--mode", "x").code == 2


def test_single_people(run, made, worse, tmp_path):
    """By PCK: both models' numbers are those of `kpdata eval` with the same options; the people are saved."""
    options = ("--metric", "pck", "--normalize", 40, "--threshold", 0.25)
    files = (made / "predictions.json", worse)
    out = tmp_path / "people.parquet"
    report = json.loads(run("compare", *files, *options, "--bootstrap", 50, "--json", "--people", out).out)
    assert report["metric"] == "PCK"
    assert report["verdict"].startswith("A is better: PCK@0.25 −")
    for side, path in zip("ab", files, strict=True):
        alone = json.loads(run("eval", path, "--gt", made / "coco.json", *options, "--json").out)
        for name in ("PCK@0.25", "mean", "total", "Wrist"):
            assert report["stats"][name][side] == pytest.approx(alone["stats"][name], abs=1e-12)
        rows = {row["keypoint"]: row["PCK@0.25"] for row in alone["per_keypoint"]}
        assert {row["keypoint"]: row[side] for row in report["keypoints"]} == pytest.approx(rows, abs=1e-12)
    table = pq.read_table(out)
    assert table.num_rows == report["people"]["count"]
    assert table["change"].to_pylist() == sorted(table["change"].to_pylist())
    printed = run("compare", *files, *options, "--bootstrap", 50).out
    assert "by PCK" in printed
    assert report["verdict"] in printed
    assert "Keypoints that changed most (PCK@0.25)" in printed


def test_errors_in_pixels(run, made, worse):
    """EPE is told in pixels, and less is better."""
    done = run("compare", made / "predictions.json", worse, "--metric", "epe", "--bootstrap", 50)
    assert done.code == 0, done.err
    assert "Differences in pixels" in done.out
    assert any(line.startswith("missing, % ") for line in done.out.splitlines())
    assert "A is better: EPE +" in done.out


@pytest.mark.parametrize("metric", [(), ("--metric", "pck"), ("--metric", "epe"), ("--metric", "pcp")])
def test_picture(run, made, worse, tmp_path, metric):
    """--plot draws both models' differences; a wrong ending is told before anything is read, and a file is kept."""
    arguments = ("compare", made / "predictions.json", worse, "--bootstrap", 5, *metric)
    done = run(*arguments, "--plot", tmp_path / "c.svg")
    assert (done.code, "c.svg" in done.err) == (0, True)
    picture = (tmp_path / "c.svg").read_text(encoding="utf-8")
    names = ["/".join(path.parts[-3:]) for path in (made / "predictions.json", worse)]  # pytest's folders differ there
    assert f"A: {names[0]}" in picture and f"B: {names[1]}, against coco.json" in picture
    assert ("upper leg" if "pcp" in metric else "left ankle") in picture
    done = run(*arguments, "--plot", tmp_path / "c.svg")
    assert (done.code, "exists already" in done.err) == (1, True)
    assert run(*arguments, "--plot", tmp_path / "c.svg", "--force", "--json").code == 0
    done = run("compare", made / "nothing.json", worse, "--gt", made / "coco.json", "--plot", tmp_path / "c.txt")
    assert (done.code, "not written as '.txt'" in done.err) == (1, True)
    done = run(*arguments, "--plot", worse, "--force")
    assert (done.code, "would overwrite" in done.err) == (1, True)
    printed = run(*arguments).out
    assert ("Limbs that changed most" if "pcp" in metric else "Keypoints that changed most") in printed
