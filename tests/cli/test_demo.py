"""`kpdata demo`: the whole way, readable, and with everything that it promises."""

from __future__ import annotations

import shlex

from PIL import Image


def test_demo(run, tmp_path, monkeypatch):
    """Six steps in order, no format changed anything, pictures and a page that open, and last commands that work."""
    monkeypatch.chdir(tmp_path)
    done = run("demo", "d", "-n", 4, "--seed", 2)
    assert done.code == 0, done.err
    steps = [line for line in done.out.splitlines() if line[:1].isdigit() and ". " in line[:3]]
    assert [line[0] for line in steps] == ["1", "2", "3", "4", "5", "6"]
    assert done.out.count(" equal ") == 5
    assert "DIFFERENT" not in done.out
    assert "pycocotools says the same, to the last bit" in done.out
    page = (tmp_path / "d" / "report.html").read_text(encoding="utf-8")
    helps = [line.strip() for line in done.out.splitlines() if line.startswith("   1. ")]
    assert " would add " in helps[0]
    assert helps[0].removeprefix("1. ") in page
    assert page.count("data:image/jpeg") > 3
    for name in ("people.png", "predictions.png", "statistics.png"):
        with Image.open(tmp_path / "d" / name) as picture:
            assert min(picture.size) > 200
    commands = [line.strip() for line in done.out.splitlines() if line.startswith("  kpdata ")]
    assert len(commands) == 3
    for command in commands:
        again = run(*shlex.split(command)[1:])
        assert again.code == 0, again.err


def test_an_existing_folder_is_kept(run, tmp_path):
    """Exit 1, and nothing is touched without --force."""
    (tmp_path / "mine.txt").write_text("precious")
    done = run("demo", tmp_path)
    assert done.code == 1
    assert f"{tmp_path}: exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
