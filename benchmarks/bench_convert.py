"""Reading and writing COCO files beside the peers: each in a process of its own, equality first, then time and memory.

    make bench            # makes the peers' environments, then everything
    python -m benchmarks.bench_convert [--repeat 5] [--only kpdata,pycocotools] [--skip-x10]

Runs go round by round, every tool once a round, so that a busy machine slows them alike: trust the ratios. The figures
go to benchmarks/results/convert.jsonl, one JSON line a row, and as a table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK, RESULTS = HERE / ".work", HERE / "results"
PEERS = {"datumaro": "datumaro==1.13.12", "sleap-io": "sleap-io==0.9.5"}  # an environment each: they pin what we do not
READ = ("kpdata", "pycocotools", "json", "orjson", "datumaro", "sleap-io")
WRITE = ("kpdata write", "orjson write")


def python_of(tool: str) -> Path | None:
    """The interpreter that has the tool; None where its environment was not made."""
    if tool not in PEERS:
        return Path(sys.executable)
    python = WORK / "envs" / tool / "bin" / "python"
    return python if python.exists() else None


def make_environment(tool: str) -> None:
    """A virtual environment for a peer, once."""
    folder = WORK / "envs" / tool
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", PEERS[tool]], check=True)
        (folder / "ready").touch()


def run(tool: str, file: Path, scratch: Path) -> dict[str, Any]:
    """One run of one tool: seconds, peak memory, what it saw. An error becomes the row's `error`."""
    python = python_of(tool)
    if python is None:
        return {"tool": tool, "error": "not installed: make bench"}
    done = subprocess.run(
        [python, HERE / "readers.py", tool, file, scratch], capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        return {"tool": tool, "error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(tools: tuple[str, ...], file: Path, repeat: int, scratch: Path) -> list[dict[str, Any]]:
    """Rows of a subject: medians over rounds; `differs` names what a tool saw otherwise than the standard library."""
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    truth = run("json", file, scratch)["seen"]
    for number in range(repeat):
        for tool in tools:
            if number == 0 or "error" not in runs[tool][0]:
                slow = number > 0 and runs[tool][0].get("seconds", 0) > 20
                runs[tool].append(runs[tool][0] if slow else run(tool, file, scratch / tool.replace(" ", "_")))
    rows = []
    for tool, found in runs.items():
        if "error" in found[0]:
            rows.append({"tool": tool, "error": found[0]["error"]})
            continue
        middle = {key: statistics.median(r[key] for r in found) for key in ("import_s", "seconds", "peak_mb")}
        best = min(r["seconds"] for r in found)
        differs = [key for key in truth if abs(found[0]["seen"][key] - truth[key]) > 1e-6 * max(1, abs(truth[key]))]
        rows.append({"tool": tool, **middle, "min_s": best, "rounds": len(found), "differs": differs})
    return rows


def start_up(repeat: int) -> list[dict[str, Any]]:
    """Wall time of `kpdata --help` and `import kpdata`, whole process."""
    commands = {
        "kpdata --help": [Path(sys.executable).with_name("kpdata"), "--help"],
        "import kpdata": [sys.executable, "-c", "import kpdata"],
    }
    rows = []
    for name, command in commands.items():
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        rows.append({"tool": name, "seconds": statistics.median(times), "min_s": min(times), "rounds": repeat})
    return rows


def main() -> None:
    """All subjects; prints and stores JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--skip-x10", action="store_true")
    given = parser.parse_args()
    chosen = tuple(t for t in READ if not given.only or t in given.only.split(","))
    for tool in chosen:
        if tool in PEERS:
            make_environment(tool)
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
        middle = {key: statistics.median(r[key] for r in opened) for key in ("import_s", "seconds", "peak_mb")}
        subjects.append(
            (
                "read x10",
                [
                    {
                        "tool": "kpdata open .kp",
                        **middle,
                        "min_s": min(r["seconds"] for r in opened),
                        "rounds": len(opened),
                        "differs": [],
                    }
                ],
            )
        )
    machine = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "pyarrow": version("pyarrow"),
    }
    lines = [{"subject": subject, **row, **machine} for subject, rows in subjects for row in rows]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "convert.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))
    _into_readme(table(lines))


def table(lines: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with each tool's time as a ratio to kpdata's."""
    out = [
        "| what | tool | median s | best s | peak MB | time ÷ kpdata's | sees otherwise |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for line in lines:
        if "error" in line:
            out.append(f"| {line['subject']} | {line['tool']} | – | – | – | – | {line['error']} |")
            continue
        rows = [r for r in lines if r["subject"] == line["subject"] and r["tool"] in ("kpdata", "kpdata write")]
        ratio = f"{line['seconds'] / rows[0]['seconds']:.2f}" if rows else "–"
        peak = f"{line['peak_mb']:.0f}" if "peak_mb" in line else "–"
        times = f"{line['seconds']:.3f} | {line['min_s']:.3f}"
        otherwise = ", ".join(line.get("differs", [])) or "–"
        out.append(f"| {line['subject']} | {line['tool']} | {times} | {peak} | {ratio} | {otherwise} |")
    return "\n".join(out)


def _into_readme(text: str) -> None:
    readme = HERE / "README.md"
    before, mark, rest = readme.read_text().partition("<!-- convert -->\n")
    readme.write_text(before + mark + text + "\n" + rest[rest.index("<!-- end -->") :])


if __name__ == "__main__":
    main()
