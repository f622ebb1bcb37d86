"""`kpdata train --folds`: from data to predictions out of fold that `eval` and `browse` take."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from kpdata import read, schema
from kpdata.cli._folds import _tell_part
from kpdata.eval.suspects import SCHEMA
from kpdata.train.config import SourceConfig


@pytest.fixture(scope="module")
def out(run, made, tmp_path_factory):
    """Two folds of a step each, for reading only; the folder and what the command said."""
    torch = pytest.importorskip("torch", reason="needs kpdata[train]")
    pytest.importorskip("cv2", reason="needs kpdata[train]")
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("folds") / "out"
    return folder, run(*command(made, folder), "--json")


def command(made, folder, *more):
    tiny = ("--model", "hrnet_tiny", "--size", "64x64", "--workers", 0, "--device", "cpu", "--batch", 8, "--epochs", 1)
    return ("train", "--data", made / "coco.json", *tiny, "--max-steps", 1, "--folds", 2, "-o", folder, *more)


def test_predictions_that_eval_and_browse_take(run, made, out, tmp_path):
    """Everybody under their own ids; a note leads to the truth; the line that is printed shows them."""
    folder, done = out
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [one["held"] for one in told["folds"]] == [3, 3]
    truth, found = read(made / "coco.json"), read(folder / "out-of-fold.kp")
    ids = set(schema.values(truth.persons["annotation_id"]).tolist())
    assert set(schema.values(found.persons["annotation_id"]).tolist()) <= ids
    scored = run("eval", folder / "out-of-fold.kp", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["stats"]["AP"] == pytest.approx(told["parts"][0]["stats"]["AP"])
    words = told["parts"][0]["look"].split()
    assert words[:2] == ["kpdata", "browse"]
    shown = run(*words[1:], "--html", tmp_path / "page.html", "--json")
    assert shown.code == 0, shown.err
    page = json.loads(shown.out)
    assert {"loss", "everybody"} <= set(page["views"])
    assert any(note.startswith("compared with") and note.endswith("training poses") for note in page["notes"])


def test_again_trains_nothing_and_says_it_in_words(run, made, out):
    """Finished folds are not trained again; tables of folds, suspicions and the hardest, and the line to look."""
    folder, _ = out
    when = (folder / "fold-1" / "last.pt").stat().st_mtime_ns
    done = run(*command(made, folder))
    assert done.code == 0, done.err
    assert (folder / "fold-1" / "last.pt").stat().st_mtime_ns == when
    assert "out of fold AP" in done.out
    assert "Hardest to learn" in done.out
    assert "kpdata browse" in done.err


@pytest.mark.parametrize("more", [("--by", "video_id"), ("--folds", 2, "--dry-run"), ("--folds", 2, "--overfit", 3)])
def test_options_that_mean_nothing_together(run, made, tmp_path, more):
    """Wrong usage."""
    assert run("train", "--data", made / "coco.json", "-o", tmp_path / "x", *more).code == 2


def test_nobody_has_no_number(capsys, made, tmp_path):
    """A person without a label has no id: a dash stands there, in JSON null."""
    folds = pytest.importorskip("kpdata.train.folds", reason="needs kpdata[train]")
    words = "a person whom nobody labelled"
    columns = {
        "kind": schema.strings(["unlabelled_person"]), "image_id": schema.fixed(np.array([7]), pa.int64()),
        "score": schema.fixed(np.array([0.9]), pa.float64()), "words": schema.strings([words]),
    }  # fmt: skip
    suspects = schema.table(SCHEMA, 1, columns)
    people = read(made / "coco.json")
    part = folds.OutOfFold(SourceConfig(made / "coco.json"), None, tmp_path, people, {"mAP": 0.5}, suspects, ())
    _tell_part(part)
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if words in line)
    assert line.split()[0] == "–" and "None" not in told
    assert "out of fold mAP 0.500" in told
