"""What every benchmark does alike: peers in environments of their own, runs in rounds, medians, tables, JSON lines."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK, RESULTS = HERE / ".work", HERE / "results"
SLOW = 20.0  # seconds: what takes longer runs once
SAMPLE = 0.01  # seconds between two looks at a process's memory

Row = dict[str, Any]


def python_of(tool: str, peers: Iterable[str]) -> Path | None:
    """The interpreter that has the tool: ours, or its own where it is one of the peers; None where that is missing."""
    if tool not in peers:
        return Path(sys.executable)
    folder = WORK / "envs" / tool
    python = folder / "bin" / "python"
    return python if python.exists() and (folder / "ready").exists() else None


def make_environment(tool: str, requirements: Sequence[str]) -> None:
    """A virtual environment for a peer, once. Where it does not install, the peer's rows will say so."""
    folder = WORK / "envs" / tool
    if (folder / "ready").exists():
        return
    python, quiet = folder / "bin" / "python", ["--quiet", "--disable-pip-version-check"]
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", *quiet, *requirements],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{tool} does not install: {last_line(done.stderr)}", file=sys.stderr)
            return
    (folder / "ready").touch()


def last_line(text: str) -> str:
    """What an error says, in one line."""
    return (text.strip().splitlines() or ["no message"])[-1][:200]


def environment() -> dict[str, str]:
    """Variables of a timed process: bytecode is kept (apart from the sources), as installing a package does."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(WORK / "bytecode")}


def measure(
    command: Sequence[str | Path],
    *,
    memory: bool = False,
    timeout: float = 900,
    variables: Mapping[str, str] | None = None,
) -> Row:
    """Run a command alone: wall `seconds` from its start to its end, `cpu_s` of it and its children, `stdout`.

    variables: of the environment, beside those of `environment`. memory: `peak_mb` too, which costs a look at /proc
    every 10 ms (Linux only). A failure becomes `error`.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    peak: dict[int, float] = {}
    pipe, surroundings = subprocess.PIPE, {**environment(), **(variables or {})}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=surroundings) as process:
        if memory:
            threading.Thread(target=_watch, args=(process, peak), daemon=True).start()
        try:
            out, problems = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"error": f"not done after {timeout:g} s"}
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        return {"error": last_line(problems) if problems.strip() else f"exit code {process.returncode}"}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_s": cpu, "stdout": out, **({"peak_mb": sum(peak.values())} if peak else {})}


def _watch(process: subprocess.Popen[str], peak: dict[int, float]) -> None:
    """Note the high-water mark of the process and of its descendants, each, until it ends: their sum is the peak."""
    while process.poll() is None:
        found = [process.pid]
        for pid in found:  # grows while it is walked
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM"):
                    peak[pid] = int(line.split()[1]) / 1024
        time.sleep(SAMPLE)


def rounds(runs: Mapping[str, Callable[[], Row]], repeat: int) -> dict[str, list[Row]]:
    """Every run once a round, so that a busy machine slows all alike. What failed or is slow is not run again."""
    found: dict[str, list[Row]] = {name: [] for name in runs}
    for number in range(repeat):
        for name, run in runs.items():
            if number and ("error" in found[name][0] or found[name][0]["seconds"] > SLOW):
                continue
            found[name].append(run())
    return found


def failure(found: Sequence[Row]) -> str | None:
    """What went wrong in the first round that failed; None where none did."""
    return next((row["error"] for row in found if "error" in row), None)


def middle(found: Sequence[Row], keys: Iterable[str]) -> Row:
    """Medians over the rounds of the numbers that were measured, the best `seconds` as `min_s`, how many rounds."""
    medians = {key: statistics.median(row[key] for row in found) for key in keys if all(key in row for row in found)}
    return {**medians, "min_s": min(row["seconds"] for row in found), "rounds": len(found)}


def machine(*packages: str) -> Row:
    """What the figures depend on: processor, cores, Python, versions of our own packages."""
    facts = {"machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count()}
    return {**facts, "python": platform.python_version(), **{name: version(name) for name in packages}}


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def store(name: str, lines: Sequence[Row]) -> None:
    """Keep the rows as JSON lines in results/NAME.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def markdown(titles: Mapping[str, str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. titles: text and alignment (`---` or `---:`) of each column."""
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join(titles.values()) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def into_readme(mark: str, text: str) -> None:
    """Put a table between `<!-- MARK -->` and the next `<!-- end -->` of README.md."""
    readme = HERE / "README.md"
    before, found, rest = readme.read_text().partition(f"<!-- {mark} -->\n")
    if not found:
        raise SystemExit(f"{readme}: no line <!-- {mark} --> to put the table after")
    readme.write_text(before + found + text + "\n" + rest[rest.index("<!-- end -->") :])
