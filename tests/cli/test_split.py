"""`kpdata split`: parts that share no image, all of them or none."""

from __future__ import annotations

import json

import pytest

from kpdata import converters
from kpdata.errors import WriteError


def ids(path):
    return set(converters.read(path).images["image_id"].to_pylist())


def test_parts_share_no_image_and_lose_none(run, made, tmp_path):
    """Three parts with their names in the split column; together they are the source."""
    done = run("split", made / "people.kp", "-o", tmp_path, "--val", 0.34, "--test", 0.16, "--json")
    report = json.loads(done.out)
    assert [part["part"] for part in report["parts"]] == ["train", "val", "test"]
    assert [part["images"] for part in report["parts"]] == [3, 2, 1]
    found = [ids(part["path"]) for part in report["parts"]]
    assert set.union(*found) == ids(made / "people.kp")
    assert sum(map(len, found)) == 6
    assert set(converters.read(tmp_path / "val.kp").images["split"].to_pylist()) == {"val"}


def test_the_seed_decides(run, made, tmp_path):
    """The same seed gives the same parts; among ten others one differs."""
    for name, seed in (("a", 0), ("b", 0), *((f"s{i}", i + 1) for i in range(10))):
        assert run("split", made / "people.kp", "-o", tmp_path / name, "--val", 0.5, "--seed", seed).code == 0
    parts = {folder.name: ids(folder / "val.kp") for folder in tmp_path.iterdir()}
    assert parts["a"] == parts["b"]
    assert any(part != parts["a"] for part in parts.values())


def test_groups_stay_together(run, tmp_path):
    """--by extras.KEY: images of one video are all in one part; an unknown column is named."""
    images = [{"id": i, "file_name": f"{i}.jpg", "clip": i % 3} for i in range(12)]
    source = tmp_path / "a.json"
    source.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert run("split", source, "-o", tmp_path / "parts", "--val", 0.34, "--by", "extras.clip").code == 0
    clips = [{i % 3 for i in ids(tmp_path / "parts" / f"{name}.kp")} for name in ("train", "val")]
    assert not clips[0] & clips[1]
    done = run("split", source, "-o", tmp_path / "other", "--by", "nothing")
    assert done.code == 1
    assert "a.json: no column 'nothing'" in done.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("to", "suffix"), [("coco", ".json"), ("labelme", ""), ("kp", ".kp")])
def test_formats_of_parts(run, made, tmp_path, to, suffix):
    """--to writes each part in that format, under the name that suits it."""
    assert run("split", made / "people.kp", "-o", tmp_path / "d", "--to", to, "--allow-lossy").code == 0
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [f"train{suffix}", f"val{suffix}"]
    assert converters.detect(tmp_path / "d" / f"val{suffix}")[0] == to


def test_all_parts_or_none(run, made, monkeypatch, tmp_path):
    """The disk is full at the second part: the first is taken back, and the folders that were made for it with it."""
    write, seen = converters.write, []

    def full(dataset, path, *args, **options):
        if path.stem == "val":
            seen.append((tmp_path / "new" / "deep" / f"train{path.suffix}").exists())
            raise WriteError(f"{path}: cannot be written (No space left on device); it is as it was before")
        return write(dataset, path, *args, **options)

    monkeypatch.setattr(converters, "write", full)
    for to in ("kp", "coco"):
        done = run("split", made / "people.kp", "-o", tmp_path / "new" / "deep", "--to", to)
        assert done.code == 1
        assert "No space left on device" in done.err
        assert not list(tmp_path.iterdir())
    assert seen == [True, True]
    (tmp_path / "mine.txt").write_text("precious")
    assert run("split", made / "people.kp", "-o", tmp_path).code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_lossy_part_leaves_nothing(run, made, tmp_path):
    """A format that cannot hold the people: exit 1, and no folder."""
    done = run("split", made / "people.kp", "-o", tmp_path / "new", "--to", "lsp")
    assert done.code == 1
    assert "--allow-lossy" in done.err
    assert not list(tmp_path.iterdir())


def test_existing_parts_are_kept(run, made, tmp_path):
    """One part that is there stops all, before reading; --force replaces it."""
    (tmp_path / "val.kp").write_text("precious")
    done = run("split", made / "people.kp", "-o", tmp_path)
    assert done.code == 1
    assert "val.kp: exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["val.kp"]
    assert run("split", made / "people.kp", "-o", tmp_path, "--to", "coco").code == 0
    assert run("split", made / "people.kp", "-o", tmp_path, "--to", "coco", "--force").code == 0


def test_shares(run, made, tmp_path):
    """More than all is wrong usage; 0.7 and 0.3 leave no training part; too few images for the parts are counted."""
    assert run("split", made / "people.kp", "-o", tmp_path, "--val", 0.8, "--test", 0.3).code == 2
    assert run("split", made / "people.kp", "-o", tmp_path, "--val", 1.5).code == 2
    assert run("split", made / "people.kp", "-o", tmp_path, "--val", 0.7, "--test", 0.3).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.kp", "val.kp"]
    source = tmp_path / "one.json"
    source.write_text(json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}))
    done = run("split", source, "-o", tmp_path / "d")
    assert done.code == 1
    assert "one.json: 1 images, expected at least 2" in done.err
