"""`python -m kpdata` is the command line."""

from __future__ import annotations

import subprocess
import sys

from kpdata import __version__


def spoken(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kpdata", *words], capture_output=True, text=True, timeout=120)


def test_the_command_line() -> None:
    """Version, results, errors and exit codes of `kpdata`, by its name; importing it runs nothing."""
    done = spoken("--version")
    assert (done.returncode, done.stdout) == (0, f"kpdata {__version__}\n")
    assert "Usage: kpdata eval" in spoken("eval", "--help").stdout
    done = spoken("info", "nothing.json")
    assert (done.returncode, "nothing.json" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    assert spoken("eval").returncode == 2
    done = subprocess.run([sys.executable, "-c", "import kpdata.__main__"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
