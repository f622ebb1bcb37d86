"""Exit codes, sentences instead of tracebacks, streams, colours, interruption: what every command shares."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from kpdata import __version__
from kpdata.cli.main import app
from kpdata.errors import KpdataError

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.list_commands(None))
KPDATA = (sys.executable, "-m", "kpdata.cli.main")
DAMAGE = {
    "empty.json": b"",
    "blank.json": b"  \n",
    "cut.json": b'{"images": [{"id": 1}], "annotations": [{"id": 1, "keyp',
    "text.json": b'"hello"',
    "numbers.json": b"[1, 2, 3]",
    "nested.json": b"[" * 100_000,
    "not_utf8.json": '{"images": [{"id": 1, "file_name": "é"}], "annotations": []}'.encode("latin-1"),
    "not_a.mat": bytes(range(256)) * 4,
    "not_a.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "half.json.gz": b"\x1f\x8b\x08\x00\x00\x00",
    "photo.jpg": b"\xff\xd8\xff\xe0" + bytes(64),
}


def people(**changes):
    """A COCO file of one person, with another value for some keys."""
    row = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2] * 17, "num_keypoints": 17, "area": 9.0}
    images = [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}]
    categories = [{"id": 1, "name": "person", "keypoints": []}]
    return json.dumps({"images": images, "annotations": [row | changes], "categories": categories}).encode()


DAMAGE |= {
    "wrong_k.json": people(keypoints=[1, 2, 2] * 16 + [1]),
    "text_for_numbers.json": people(keypoints="abc"),
    "text_among_numbers.json": people(keypoints=[1, 2, "2"] * 17),
    "no_image.json": people(image_id=None),
    "list_for_area.json": people(area=[1, 2]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(run, made, tmp_path, name):
    """convert, info, merge, split, validate and eval: exit 1, a sentence with the file's name, nothing left behind."""
    source = tmp_path / "in" / name
    source.parent.mkdir()
    source.write_bytes(DAMAGE[name])
    out = tmp_path / "out.kp"
    commands = [
        ("convert", source, out), ("info", source), ("validate", source), ("split", source, "-o", tmp_path / "parts"),
        ("merge", made / "people.kp", source, "-o", out), ("eval", made / "predictions.json", "--gt", source),
        ("eval", source, "--gt", made / "coco.json"),
    ]  # fmt: skip
    for command in commands:
        done = run(*command)
        assert done.code == 1, command
        assert name in done.out + done.err, command
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in source.parent.iterdir()] == [name]


def test_what_is_not_there(run, made, tmp_path):
    """A missing source is named by every command that reads one."""
    gone, out = tmp_path / "gone.json", tmp_path / "out.kp"
    for command in (
        ("convert", gone, out), ("info", gone), ("validate", gone), ("split", gone, "-o", out), ("eval", gone),
        ("merge", gone, made / "coco.json", "-o", out), ("eval", made / "predictions.json", "--gt", gone),
    ):  # fmt: skip
        done = run(*command)
        assert (done.code, done.out) == (1, "")
        assert f"Error  {gone}: there is no such file or folder" in done.err


def test_a_target_that_cannot_be_made(run, made, tmp_path):
    """A file in the way of a folder: exit 1 and the target's name."""
    (tmp_path / "file").write_text("")
    done = run("convert", made / "coco.json", tmp_path / "file" / "a.kp")
    assert done.code == 1
    assert "a.kp" in done.err


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("convert",), ("info", "--bogus", "x"), ("validate", "x", "--limit", "y")]
)
def test_wrong_usage(run, arguments):
    """Exit 2, on stderr, with the way to help."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "kpdata" in done.err
    assert "-h' for help" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example(run, command):
    """The last paragraph of every help text is an example of that command, and it stands there once."""
    done = run(command, "--help")
    last = " ".join(done.out.rstrip().rpartition("\n\n")[2].split())
    assert done.code == 0
    assert last.startswith(f"Example: kpdata {command} ")
    assert done.out.count("Example:") == 1
    assert run(command, "-h").out == done.out


def test_help_and_version(run):
    """The app's own help lists every command and ends with an example too; --version says it."""
    done = run("--help")
    assert all(f"\n  {command} " in done.out for command in COMMANDS)
    assert done.out.rstrip().rpartition("\n")[2].startswith("  Example: kpdata ")
    assert run("--version").out == f"kpdata {__version__}\n"


class Odd(Exception):
    """An error that nobody foresaw."""


@pytest.mark.parametrize(("problem", "words"), [
    (Odd("x is 3"), "a.json: kpdata itself failed (Odd: x is 3)"),
    (MemoryError(), "a.json: not enough memory"),
    (PermissionError(13, "Permission denied", "b.json"), "b.json: cannot be read (Permission denied)"),
    (KpdataError("keypoints are odd"), "a.json: keypoints are odd"),
    (KpdataError("a.json: keypoints are odd"), "Error  a.json: keypoints are odd"),
])  # fmt: skip
def test_unforeseen_errors_are_sentences(monkeypatch, capfd, problem, words):
    """Whatever is raised while reading becomes one line that names the file, exit 1."""
    from kpdata import converters

    def broken(*_args, **_options):
        raise problem

    monkeypatch.setattr(converters, "detect", lambda _path: ("coco", ""))
    monkeypatch.setattr(converters, "read", broken)
    with pytest.raises(SystemExit) as stop:
        app(["info", "a.json"], prog_name="kpdata")
    assert stop.value.code == 1
    told = capfd.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_debug_shows_the_traceback(monkeypatch):
    """KPDATA_DEBUG lets an unforeseen error through, for a report."""
    monkeypatch.setenv("KPDATA_DEBUG", "1")
    monkeypatch.setattr("kpdata.converters.detect", lambda _path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app(["info", "a.json"], prog_name="kpdata")


# -------------------------------------------------------------------------------------------------- in its own process


def kpdata(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    command = [*KPDATA, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def test_results_and_notes_go_apart(made):
    """stdout of --json is one JSON object and nothing else; stderr of a pipe has no colours and no spinner."""
    done = kpdata("eval", made / "predictions.json", "--json")
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) >= {"metric", "stats", "sigmas", "counts", "files"}
    assert b"\x1b" not in done.stderr


def test_a_closed_pipe(made):
    """`kpdata info … | head -1` ends without a word on stderr."""
    reader = subprocess.Popen(
        [*KPDATA, "info", str(made / "coco.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert reader.stderr.read() == b""
    reader.wait(30)
    reader.stderr.close()


def test_an_encoding_that_lacks_characters(made, tmp_path):
    """On a console of cp1252 what it lacks is escaped: text still comes, and --json stays JSON that says the same."""
    from kpdata import converters

    path = tmp_path / "日本 √ 😀.kp"
    converters.write(converters.read(made / "people.kp"), path)
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = kpdata("info", path, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u65e5\u672c \u221a \U0001f600.kp" in done.stdout
    assert json.loads(kpdata("info", path, "--json", env=environment).stdout)["source"] == str(path)


def on_a_terminal(*arguments: object, **environment: str) -> bytes:
    """What a pseudo-terminal of 100 columns shows of a command, stdout and stderr together."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment = {**inherited, "TERM": "xterm", "COLUMNS": "100", **environment}
    command = [*KPDATA, *map(str, arguments)]
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while data := os.read(ours, 1 << 16):
            shown += data
    os.close(ours)
    assert running.wait(30) == 0
    return shown


def test_colours_on_a_terminal_only_and_never_with_no_color(made):
    """Tables are drawn on a terminal; NO_COLOR gives the plain ones."""
    shown = on_a_terminal("info", made / "coco.json")
    assert "─".encode() in shown
    assert b"\x1b[" in shown
    plain = on_a_terminal("info", made / "coco.json", NO_COLOR="1")
    assert b"\x1b[" not in plain
    assert plain.replace(b"\r\n", b"\n") == kpdata("info", made / "coco.json").stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interruption_leaves_the_old_file(tmp_path):
    """Ctrl-C in the middle of a write: exit 130, the old bytes, no temporary file."""
    target = tmp_path / "out.json"
    target.write_text("precious")
    slow = (
        "import time\nfrom kpdata import files\nfrom kpdata.cli import main\nfrom kpdata.converters import coco\n"
        "def write(dataset, path, **_):\n"
        "    with files.replacing(path, force=True) as temporary:\n"
        "        temporary.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "def with_options(dataset, path, *, allow_lossy=False, force=False): return write(dataset, path)\n"
        "coco.write = with_options\nmain.main()"
    )
    source = tmp_path / "in.json"
    source.write_bytes(people())
    command = [sys.executable, "-c", slow, "convert", str(source), str(target), "--to", "coco", "--force"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "writing\n"
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert target.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.json"]


@pytest.mark.parametrize("module", ["typer._click.exceptions", "click.exceptions", "typer"])
def test_what_is_not_ours_to_tell(module, monkeypatch):
    """Help and wrong usage end in an exception of typer's, or of click's where typer still stands on it (< 0.26)."""
    ended = type("Exit", (RuntimeError,), {"__module__": module})

    def invoke(*_: Any) -> None:
        raise ended

    monkeypatch.setattr(typer.core.TyperGroup, "invoke", invoke)
    with pytest.raises(ended):
        GROUP.invoke(None)


def test_the_console_script_is_this_app():
    """`kpdata` in a shell is what is tested here, begun by `start`."""
    import tomllib

    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["project"]["scripts"] == {"kpdata": "kpdata.cli.start:main"}
