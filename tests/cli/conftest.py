"""The command line in this process, and a small made-up data set in every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kpdata.cli.main import app


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, results (stdout) and notes (stderr)."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


def _run(*arguments: object) -> Done:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="kpdata")
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    assert "kpdata itself failed" not in done.output
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def run() -> Run:
    """`run("info", path)`: no command may end in a traceback or in words about an unforeseen error."""
    return _run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with people, pictures, predictions and the truth in all formats: for reading only."""
    folder = tmp_path_factory.mktemp("made") / "synth"
    done = _run("synth", folder, "-n", 6, "--size", "320x240", "--seed", 3, "--formats", "all")
    assert done.code == 0, done.err
    return folder
