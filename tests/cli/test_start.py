"""The console script: the same results, words and exit codes as the app itself, whatever it begins in advance."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from kpdata.cli import start
from kpdata.cli.main import app
from kpdata.converters import _ahead, _scanner


def spoken(module, *words):
    """(exit code, stdout, stderr) of a command line of its own."""
    line = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def lines(made, tmp_path):
    """Command lines of all ends: done, refused, wrong usage, help."""
    (tmp_path / "broken.json").write_text('[{"image_id": 1,')
    return {
        "numbers": ("eval", made / "predictions.json", "--gt", made / "coco.json", "--json"),
        "parquet": ("eval", made / "predictions.kp", "--gt", made / "coco.json", "--json"),
        "swapped": ("eval", made / "coco.json", "--gt", made / "predictions.json"),
        "broken": ("eval", tmp_path / "broken.json", "--gt", made / "coco.json"),
        "missing": ("eval", tmp_path / "none.json", "--gt", made / "coco.json"),
        "usage": ("eval", made / "predictions.json", "--gt", made / "coco.json", "--mode", "loose"),
        "help": ("eval", "--help"),
        "other": ("info", made / "coco.json"),
        "version": ("--version",),
    }


NAMES = ("numbers", "parquet", "swapped", "broken", "missing", "usage", "help", "other", "version")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_the_app(name, made, tmp_path, run):
    """What is begun early, and the quick end, show in nothing but the time."""
    if name == "parquet":
        folder = tmp_path / "predictions.kp"
        assert run("convert", made / "predictions.json", folder).code == 0
        words = ("eval", folder, "--gt", made / "coco.json", "--json")
    else:
        words = lines(made, tmp_path)[name]
    told = spoken("kpdata.cli.start", *words)
    assert told == spoken("kpdata.cli.main", *words)
    assert told[0] == {"swapped": 1, "broken": 1, "missing": 1, "usage": 2}.get(name, 0)
    assert "Traceback" not in told[2]


def test_what_is_begun(made, tmp_path, monkeypatch):
    """The ground truth first, wherever they stand; what is to be overwritten is not read."""
    begun = []
    monkeypatch.setattr(_ahead, "begin", lambda paths: begun.extend(paths))
    monkeypatch.setattr(start.os, "environ", dict(start.os.environ))
    monkeypatch.setattr(start.gc, "set_threshold", lambda _: None)
    monkeypatch.setattr(_scanner, "compiled", None)  # this process is not soon done: its memory is given back
    old = tmp_path / "old.html"
    old.write_text("<html>")
    gt, found = made / "coco.json", made / "predictions.json"
    words = [f"--gt={gt}", "--report", old, "--force", found, "--mode", "strict", "--images", made, ""]
    start._look_ahead([str(word) for word in words])
    assert begun == [gt, found]


def test_every_output_is_known():
    """The options that are told from the files to read are those whose value is a file to write."""
    group: Any = typer.main.get_command(app)
    options = group.get_command(None, "eval").params
    assert {p.opts[0] for p in options if (p.metavar or "").startswith("OUT")} == set(start._OUTPUTS)


def test_no_stream_to_write_to(made):
    """Started with closed streams, as from a service, it does its work and ends as ever."""
    files = f"{made / 'predictions.json'} --gt {made / 'coco.json'}"
    for closed, words in ((">&-", "--json"), (">&- 2>&-", "")):
        line = f"{sys.executable} -m kpdata.cli.start eval {files} {words} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "")
        assert "failed" not in done.stderr


def test_a_profiler_tells_what_it_saw():
    """Whoever looks into the process comes to speak: the quick end is for those who only want the numbers."""
    line = [sys.executable, "-m", "cProfile", "-m", "kpdata.cli.start", "eval", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "function calls" in done.stdout


def test_a_closed_pipe(made):
    """`| head` ends the reading, not in a traceback."""
    files = f"{made / 'predictions.json'} --gt {made / 'coco.json'}"
    words = f"{sys.executable} -m kpdata.cli.start eval {files} | head -c 1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=120)
    assert len(done.stdout) == 1
    assert "Traceback" not in done.stderr


def test_what_is_registered_for_the_end_runs(made):
    """The quick end is an end: exit functions run, and buffered output is written."""
    words = ["kpdata", "eval", str(made / "predictions.json"), "--gt", str(made / "coco.json"), "--json"]
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: sys.stderr.write('the end'))\n"
        f"sys.argv = {words}\n"
        "from kpdata.cli.start import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert json.loads(done.stdout)["stats"]
    assert done.stderr.endswith("the end")
