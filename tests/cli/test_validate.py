"""`kpdata validate`: every planted fault in one run, as table, JSON and Parquet."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest


@pytest.fixture
def faulty(made, tmp_path):
    """A COCO file with four faults of different kinds, and the ids that they are at."""
    raw = json.loads((made / "coco.json").read_text())
    first, second, third, fourth = (row for row in raw["annotations"][:4])
    first["keypoints"][2] = 7
    second["keypoints"][3] = float("nan")
    third["image_id"] = -5
    fourth["num_keypoints"] = 99
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps(raw))
    return path, [row["id"] for row in (first, second, third, fourth)]


def test_sound_files_pass(run, made):
    """What synth writes has no error: exit 0 and a line that says so (LSP cannot say that a keypoint is absent)."""
    for name in ("coco.json", "people.kp", "mpii.h5", "labelme", "yolo", "crowdpose.json", "predictions.json"):
        done = run("validate", made / name)
        assert done.code == 0, (name, done.out)
        assert f"{made / name}: 0 errors" in done.out


def test_every_fault_in_one_run(run, faulty):
    """Each planted fault has its finding, with file, ids and reason, and the keypoint where it is of one; exit 1."""
    path, ids = faulty
    done = run("validate", path, "--json")
    assert done.code == 1
    report = json.loads(done.out)
    found = {row["annotation_id"]: row for row in reversed(report["findings"])}
    assert set(ids) <= set(found)
    assert found[ids[0]]["keypoint"] == "nose"
    assert found[ids[1]]["keypoint"] == "left_eye"
    assert all(row["message"] and row["file"] for row in report["findings"])
    assert report["counts"]["error"] == sum(row["level"] == "error" for row in report["findings"]) >= 3


def test_table_shows_file_ids_and_keypoint(run, faulty):
    """The same as text: a summary by code, a row a finding, and the totals."""
    path, ids = faulty
    done = run("validate", path)
    row = next(line for line in done.out.splitlines() if f" {ids[0]} " in line and "nose" in line)
    assert row.startswith("error")
    assert ".jpg" in row
    assert done.out.rstrip().splitlines()[-1].startswith(f"{path}: ")


def test_parquet_holds_every_finding(run, faulty, tmp_path):
    """--out writes what --json prints; an existing file is refused before the work."""
    path, _ = faulty
    out = tmp_path / "findings.parquet"
    report = json.loads(run("validate", path, "--json", "--out", out).out)
    assert pq.read_table(out).to_pylist() == report["findings"]
    before = out.read_bytes()
    done = run("validate", path, "--out", out)
    assert done.code == 1
    assert f"{out}: exists already" in done.err
    assert out.read_bytes() == before
    assert run("validate", path, "--out", out, "--force").code == 1  # of the findings


def test_limit(run, faulty):
    """--limit 1 prints one finding and says how many more; 0 prints all; a negative one is wrong usage."""
    path, _ = faulty
    total = len(json.loads(run("validate", path, "--json").out)["findings"])
    assert f"and {total - 1:,} more" in run("validate", path, "--limit", 1).out
    assert "more:" not in run("validate", path, "--limit", 0).out
    assert run("validate", path, "--limit", -1).code == 2


def test_pictures_are_looked_at(run, made, tmp_path):
    """--images opens them: a missing one is an error; a folder that is not there is refused."""
    assert run("validate", made / "coco.json", "--images", made / "images").code == 0
    done = run("validate", made / "coco.json", "--images", tmp_path, "--json")
    assert done.code == 1
    assert {row["code"] for row in json.loads(done.out)["findings"] if row["level"] == "error"} == {"image-missing"}
    done = run("validate", made / "coco.json", "--images", tmp_path / "nowhere")
    assert done.code == 1
    assert "nowhere" in done.err


def test_what_cannot_be_read_is_a_finding(run, tmp_path):
    """A truncated file still gives one JSON object, with the file and the reason."""
    path = tmp_path / "cut.json"
    path.write_text('{"images": [], "annotations": [{"id": 1,')
    done = run("validate", path, "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert report["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert report["findings"][0]["code"] == "unreadable"
    assert "cut.json" in report["findings"][0]["message"]
