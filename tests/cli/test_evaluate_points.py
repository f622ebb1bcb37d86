"""`kpdata eval` by PCKh and its family: analyses, intervals, slices, files and the page, as for metrics by OKS."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from kpdata.eval import evaluate
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    """People of MPII's skeleton and predictions for them, as datasets on disk and in memory."""
    folder = tmp_path_factory.mktemp("mpii")
    gt = synthesize(20, seed=3, size=(320, 240), people=(1, 3), skeleton="mpii_16")
    found = simulate_predictions(gt, seed=1, jitter=0.3, miss=0.1, inversion=0.1, missed_people=0.1)[0]
    gt.save(folder / "gt.kp")
    found.save(folder / "found.kp")
    return folder, evaluate(gt, found)


def test_tables_say_why(run, mpii):
    """Numbers, intervals, keypoints with median and kinds of error, slices, and what would help."""
    folder, result = mpii
    done = run("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--bootstrap", 20, "--slice", "size")
    assert done.code == 0
    for words in ("PCKh@0.5 [%]", "95 % intervals, 20 resamples", "How they fail", "good is within 0.5 head sizes",
                  "Slices, the worst first", "What would help most", result.helps()[0]):  # fmt: skip
        assert words in done.out, words
    quiet = run("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--no-why").out
    assert "How they fail" not in quiet and "What would help" not in quiet and "PCKh@0.5" in quiet


def test_json_has_the_same(run, mpii):
    """Keys with --why, --bootstrap and --slice; without them none."""
    folder, result = mpii
    arguments = ("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--json")
    plain = json.loads(run(*arguments).out)
    assert not {"helps", "distances", "errors", "reach", "opportunity", "bootstrap", "slices"} & set(plain)
    full = json.loads(run(*arguments, "--why", "--bootstrap", 20, "--slice", "size").out)
    assert full["helps"] == result.helps()
    assert full["errors"] == result.errors().to_pylist()
    assert full["distances"] == result.distances().to_pylist()
    assert full["opportunity"] == result.opportunity().to_pylist()
    assert full["reach"] == "0.5 head sizes (0.6 × diagonal of the head box)"
    assert set(full["bootstrap"]["intervals"]) == set(result.stats)
    assert full["slices"] == result.slices("size", n=20).to_pylist()
    assert "opportunity" not in json.loads(run(*arguments, "--why", "--metric", "pcp").out)


def test_files_and_page(run, mpii, tmp_path):
    """--failures, --matches, --suspects, --plot and --report of every metric of the family."""
    folder, result = mpii
    arguments = ("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--no-why")
    tables = {"failures": result.failures(), "matches": result.matches, "suspects": result.suspects()}
    files = {name: tmp_path / f"{name}.parquet" for name in tables}
    done = run(*arguments, *(word for name, path in files.items() for word in (f"--{name}", path)))
    assert done.code == 0
    assert tables["suspects"].num_rows
    for name, table in tables.items():
        saved = pq.read_table(files[name])
        assert saved.schema.equals(table.schema)
        assert repr(saved.to_pylist()) == repr(table.to_pylist())  # NaN is NaN
    for metric in ("pckh", "pck", "pcp", "auc", "epe", "nme"):
        page, plot = tmp_path / f"{metric}.html", tmp_path / f"{metric}.png"
        assert run(*arguments, "--metric", metric, "--report", page, "--plot", plot).code == 0
        assert "The worst people" in page.read_text(encoding="utf-8")
        assert plot.stat().st_size > 10_000


def test_an_auc_is_printed_with_its_range(run, mpii):
    """Two ranges are two headings, and only the benchmark's own is official."""
    folder, _ = mpii
    arguments = ("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--no-why", "--metric", "auc")
    own, other = run(*arguments), run(*arguments, "--threshold", 0.2)
    assert "AUC on mpii_16, as official\n" in own.out and "; AUC from 0 to 0.5 of the length\n" in own.out
    assert "AUC on mpii_16\n" in other.out and "; AUC from 0 to 0.2 of the length\n" in other.out
    assert "over the same range" in other.err and "over the same range" not in own.err
    assert "AUC" not in run(*arguments[:-1], "pck", "--normalize", "head").out


def test_a_page_is_not_overwritten(run, mpii, tmp_path):
    """Without --force, before anything is read; options that are matches' alone are refused by name."""
    folder, _ = mpii
    page = tmp_path / "why.html"
    page.write_text("mine")
    done = run("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--report", page)
    assert (done.code, page.read_text()) == (1, "mine")
    done = run("eval", folder / "found.kp", "--gt", folder / "gt.kp", "--calibration", "--report", tmp_path / "b.html")
    assert (done.code, "PCKh has no --calibration" in done.err) == (1, True)
    assert not (tmp_path / "b.html").exists()


def test_two_models_by_slices(run, mpii):
    """--slice of compare: differences of kinds of people, in the JSON and where they are clear in words."""
    folder, _ = mpii
    done = run("compare", folder / "found.kp", folder / "found.kp", "--gt", folder / "gt.kp", "--slice", "size",
               "--bootstrap", 20, "--json")  # fmt: skip
    found = json.loads(done.out)
    assert {row["by"] for row in found["slices"]} == {"size"}
    assert {row["delta"] for row in found["slices"]} == {0.0}
