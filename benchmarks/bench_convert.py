"""Reading and writing COCO files beside the peers: each in a process of its own, equality first, then time and memory.

    make bench            # makes the peers' environments, then everything
    python -m benchmarks.bench_convert [--repeat 5] [--only kpdata,pycocotools] [--skip-x10]

Runs go round by round, every tool once a round, so that a busy machine slows them alike: trust the ratios. The figures
go to benchmarks/results/convert.jsonl, one JSON line a row, and as a table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import HERE, WORK, failure, last_line, make_environment, middle, python_of

PEERS = {"datumaro": "datumaro==1.13.12", "sleap-io": "sleap-io==0.9.5"}  # an environment each: they pin what we do not
READ = ("kpdata", "pycocotools", "json", "orjson", "datumaro", "sleap-io")
WRITE = ("kpdata write", "orjson write")
KEYS = ("import_s", "seconds", "peak_mb")
COLUMNS = {
    "what": "---",
    "tool": "---",
    "median s": "---:",
    "best s": "---:",
    "peak MB": "---:",
    "time ÷ kpdata's": "---:",
    "sees otherwise": "---",
}


def run(tool: str, file: Path, scratch: Path) -> dict[str, Any]:
    """One run of one tool: seconds, peak memory, what it saw. An error becomes the row's `error`."""
    python = python_of(tool, PEERS)
    if python is None:
        return {"tool": tool, "error": "not installed: make bench"}
    line: list[str | Path] = [python, HERE / "readers.py", tool, file, scratch]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, env=common.environment())
    if done.returncode:
        return {"tool": tool, "error": last_line(done.stderr)}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(tools: tuple[str, ...], file: Path, repeat: int, scratch: Path) -> list[dict[str, Any]]:
    """Rows of a subject: medians over rounds; `differs` names what a tool saw otherwise than the standard library."""
    truth = run("json", file, scratch)["seen"]
    runs = common.rounds({t: partial(run, t, file, scratch / t.replace(" ", "_")) for t in tools}, repeat)
    rows: list[dict[str, Any]] = []
    for tool, found in runs.items():
        if problem := failure(found):
            rows.append({"tool": tool, "error": problem})
            continue
        differs = [key for key in truth if abs(found[0]["seen"][key] - truth[key]) > 1e-6 * max(1, abs(truth[key]))]
        row: dict[str, Any] = {"tool": tool, **middle(found, KEYS), "differs": differs}
        rows.append(row)
    return rows


def start_up(repeat: int) -> list[dict[str, Any]]:
    """Wall time of `kpdata --help` and `import kpdata`, whole process."""
    commands: dict[str, list[str | Path]] = {
        "kpdata --help": [Path(sys.executable).with_name("kpdata"), "--help"],
        "import kpdata": [sys.executable, "-c", "import kpdata"],
    }
    rows = []
    for name, command in commands.items():
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=common.environment())
            times.append(time.perf_counter() - start)
        rows.append({"tool": name, "seconds": statistics.median(times), "min_s": min(times), "rounds": repeat})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """All subjects; prints and stores JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--skip-x10", action="store_true")
    given = parser.parse_args(arguments)
    chosen = tuple(t for t in READ if not given.only or t in given.only.split(","))
    for tool in chosen:
        if tool in PEERS:
            make_environment(tool, [PEERS[tool]])
    data = WORK / "data"
    if not (data / "gt_x10.json").exists():
        subprocess.run(
            [sys.executable, "-m", "benchmarks.workload", data, "--times", "10"], check=True, cwd=HERE.parent
        )
    from kpdata import converters

    for file in ("gt", "gt_x10"):
        if not (data / f"{file}.kp").exists():
            converters.write(converters.read(data / f"{file}.json", "coco"), data / f"{file}.kp", "kp")
    subjects: list[tuple[str, list[dict[str, Any]]]] = [
        ("read", rounds(chosen, data / "gt.json", given.repeat, WORK / "scratch")),
        ("write", rounds(WRITE, data / "gt.json", given.repeat, WORK / "scratch")),
        ("start", start_up(2 * given.repeat)),
    ]
    if not given.skip_x10:
        big = tuple(t for t in chosen if t not in PEERS)
        subjects.append(("read x10", rounds(big, data / "gt_x10.json", max(1, given.repeat // 2), WORK / "scratch")))
        opened = [run("kpdata open .kp", data / "gt_x10.json", data / "gt_x10.kp") for _ in range(given.repeat)]
        subjects.append(("read x10", [{"tool": "kpdata open .kp", **middle(opened, KEYS), "differs": []}]))
    facts = common.machine("numpy", "pyarrow")
    lines = [{"subject": subject, **row, **facts} for subject, rows in subjects for row in rows]
    common.store("convert", lines)
    print(table(lines))
    common.into_readme("convert", table(lines))


def table(lines: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with each tool's time as a ratio to kpdata's."""
    rows = []
    for line in lines:
        if "error" in line:
            rows.append((line["subject"], line["tool"], *"––––", line["error"]))
            continue
        ours = [r for r in lines if r["subject"] == line["subject"] and r["tool"] in ("kpdata", "kpdata write")]
        ratio = f"{line['seconds'] / ours[0]['seconds']:.2f}" if ours else "–"
        peak = f"{line['peak_mb']:.0f}" if "peak_mb" in line else "–"
        times = f"{line['seconds']:.3f}", f"{line['min_s']:.3f}"
        otherwise = ", ".join(line.get("differs", [])) or "–"
        rows.append((line["subject"], line["tool"], *times, peak, ratio, otherwise))
    return common.markdown(COLUMNS, rows)


if __name__ == "__main__":
    main()
