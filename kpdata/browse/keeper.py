"""Keeps a MongoDB server alive for as long as somebody uses its folder. A program of the standard library only.

    python keeper.py MONGOD FOLDER

Files in FOLDER: `db/` (the data), `mongod.log`, `server.json` (port and process id, there once connections are taken),
and three locks, which the kernel gives back however a process ends: `start.lock` (one process at a time looks for a
server and starts one), `keeper.lock` (held by the keeper: `server.json` is true), `users.lock` (shared by all users).
When the last user is gone the keeper stops the server and ends. FiftyOne's own way would take any database server of
the same user for the one wanted, whatever folder it serves.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

# The default log files take 300 MB before the first document; small ones serve a browser of failures as well.
_SMALL = "log=(prealloc=false,file_max=16MB)"
_READY = '"Waiting for connections"'


def lock(file: Path, *, shared: bool = False, wait: bool = True) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed; None where another has it and `wait` is False."""
    handle = file.open("ab")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        return None
    return handle


def main(mongod: str, folder: Path) -> int:
    """Start the server, wait until nobody uses it, stop it. 1 where it does not start: its log says why."""
    mine = lock(folder / "keeper.lock")
    log, state = folder / "mongod.log", folder / "server.json"
    state.unlink(missing_ok=True)
    server = subprocess.Popen(_command(mongod, folder, log), stdin=subprocess.DEVNULL, preexec_fn=_end_with_keeper)
    try:
        port = _port(server, log)
        if port is None:
            return 1
        fresh = state.with_suffix(".new")
        fresh.write_text(json.dumps({"port": port, "pid": server.pid}))
        fresh.replace(state)
        _alone = _until_alone(folder, server)  # held until this process ends, after the server
        return 0
    finally:
        state.unlink(missing_ok=True)
        server.terminate()
        server.wait()
        if mine is not None:
            mine.close()


def _command(mongod: str, folder: Path, log: Path) -> list[str]:
    (folder / "db").mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    quiet = ["--setParameter", "diagnosticDataCollectionEnabled=false", "--wiredTigerEngineConfigString", _SMALL]
    small = ["--wiredTigerCacheSizeGB", "0.5", "--nounixsocket", *quiet]
    return [
        mongod,
        "--dbpath",
        str(folder / "db"),
        "--logpath",
        str(log),
        "--port",
        "0",
        "--bind_ip",
        "127.0.0.1",
        *small,
    ]


def _end_with_keeper() -> None:
    """On Linux the kernel ends the server should the keeper be killed (prctl's PR_SET_PDEATHSIG, 1)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _port(server: subprocess.Popen[bytes], log: Path, patience: float = 60.0) -> int | None:
    """The port that the server says it listens on; None where it ends, or says nothing for too long."""
    end = time.monotonic() + patience
    while server.poll() is None and time.monotonic() < end:
        for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
            if _READY in line and line.endswith("}"):
                return int(json.loads(line)["attr"]["port"])
        time.sleep(0.05)
    return None


def _until_alone(folder: Path, server: subprocess.Popen[bytes]) -> list[IO[bytes] | None]:
    """Wait until nobody holds `users.lock`; gives it and `start.lock`, so that nobody comes in before all is over."""
    while True:
        users = lock(folder / "users.lock")  # waits for the last of them
        if users is not None:
            users.close()
        starting = lock(folder / "start.lock")
        last = lock(folder / "users.lock", wait=False)
        if last is not None or server.poll() is not None:
            return [starting, last]
        if starting is not None:
            starting.close()


if __name__ == "__main__":
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # Ctrl-C is for the command, which then ends, and the keeper after it
    os.umask(0o077)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
