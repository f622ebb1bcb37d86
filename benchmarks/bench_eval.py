"""Evaluators of COCO keypoints beside each other: equal to pycocotools first, then time and memory.

    make bench                                   # makes the peers' environments, then everything
    python -m benchmarks.bench_eval [--repeat 5] [--only kpdata,hotcoco] [--subjects whole,evaluate] [--x10]

Each run is a process of its own. A tool's first run keeps its arrays, which must be pycocotools' to the bit: where
kpdata's are not, the benchmark fails; where a peer's are not, its row says so. Then come rounds, every tool once a
round. What takes longer than 20 s runs once. A run of everything in three rounds or more stores its figures
(results/eval.jsonl, README.md); others only print them. --x10 adds a workload ten times as large (1.1 GB of results;
pycocotools needs 6 minutes and 4 GB for it).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import common
from benchmarks.common import HERE, WORK, Row, failure, make_environment, middle, python_of
from benchmarks.eval_runners import ANALYSES, NUMBERS

DATA = WORK / "data" / "val"
PEERS = {
    "faster-coco-eval": ["faster-coco-eval==1.8.0"],
    "hotcoco": ["hotcoco==1.3.0"],
    "ultrafast-pycocotools": ["ultrafast-pycocotools==0.1.14"],
    "vernier": ["vernier==0.5.4", "pycocotools==2.0.11"],  # its COCOeval takes pycocotools' COCO
    "xtcocotools": ["xtcocotools==1.14.3", "numpy<2"],  # built against NumPy 1
}
NATIVE = "vernier native"  # a tool of vernier's environment
PURE = "kpdata pure Python"  # without the compiled reader: as it is where no compiler was there
ARRAYS = ("precision", "recall", "scores")
COLUMNS = {
    "what": "---",
    "tool": "---",
    "median s": "---:",
    "best s": "---:",
    "CPU s": "---:",
    "peak MB": "---:",
    "time ÷ kpdata's": "---:",
    "pycocotools' time ÷ this": "---:",
    "equal to pycocotools": "---",
}


@dataclass(frozen=True)
class Subject:
    """What is measured: `tools` on one pair of files. how: what `eval_runners.py` calls it."""

    title: str
    tools: tuple[str, ...]
    results: str = "dt"
    gt: str = "gt"
    how: str = "whole"


DROP_INS = ("pycocotools", "hotcoco", "ultrafast-pycocotools", "vernier", "faster-coco-eval", "xtcocotools")
OURS = ("kpdata", "kpdata eval")
SUBJECTS = {
    "whole": Subject("whole process", (*OURS, "kpdata .kp", "kpdata eval .kp", PURE, *DROP_INS, NATIVE)),
    "bbox": Subject(
        "whole process, results with bbox",
        (*OURS, "pycocotools", "hotcoco", "ultrafast-pycocotools", NATIVE),
        results="dt_bbox",
    ),
    "evaluate": Subject(
        "evaluate + accumulate", ("kpdata arrays", "kpdata", "kpdata COCOeval", *DROP_INS), how="evaluate"
    ),
    "analyses": Subject("analyses", ("kpdata",), how="analyses"),
    "x10": Subject(
        "whole process × 10",
        (*OURS, "kpdata .kp", "pycocotools", "hotcoco", "ultrafast-pycocotools"),
        results="dt_x10",
        gt="gt_x10",
    ),
}


def files(tool: str, subject: Subject) -> tuple[Path, Path]:
    """Ground truth and results of a tool: tools on `.kp` read predictions that were converted to Parquet."""
    return DATA / f"{subject.gt}.json", DATA / f"{subject.results}{'.kp' if tool.endswith('.kp') else '.json'}"


def command(tool: str, subject: Subject, out: Path | None = None) -> list[str | Path] | None:
    """The command line of one run, None where the tool is not installed. out: keep the arrays there."""
    gt, results = files(tool, subject)
    name = "kpdata" if tool == PURE else tool.removesuffix(" .kp")
    if name == "kpdata eval":
        kept: list[str | Path] = ["--arrays", out, "--force"] if out else []
        return [Path(sys.executable).with_name("kpdata"), "eval", results, "--gt", gt, "--json", *kept]
    python = python_of("vernier" if name == NATIVE else name, PEERS)
    if python is None:
        return None
    return [python, HERE / "eval_runners.py", name, subject.how, gt, results, *([out] if out else [])]


def run(tool: str, subject: Subject, out: Path | None = None) -> Row:
    """One run: `seconds`, `cpu_s`, `stats` (ten numbers), `laps`; with `out` `peak_mb` too. Or an `error`."""
    line = command(tool, subject, out)
    if line is None:
        return {"error": "not installed: python -m benchmarks.bench_eval makes its environment"}
    variables = {"KPDATA_PURE_PYTHON": "1"} if tool == PURE else None
    row = common.measure(line, memory=out is not None, timeout=1800, variables=variables)
    if "error" in row:
        return row
    told = json.loads(row.pop("stdout"))
    stats = told["stats"]
    return {**row, **told, "stats": [stats[key] for key in NUMBERS] if isinstance(stats, dict) else stats}


def reference(subject: Subject) -> Path:
    """pycocotools' arrays and numbers for the subject's files, made once."""
    gt, results = files("pycocotools", subject)
    kept = results.with_suffix(".reference.npz")
    if not kept.exists() or kept.stat().st_mtime < max(gt.stat().st_mtime, results.stat().st_mtime):
        print(f"pycocotools on {results.name}, for the others to be compared with", file=sys.stderr)
        partial_file = kept.with_name(f"unfinished_{kept.name}")
        row = run("pycocotools", subject, partial_file)
        if "error" in row:
            raise SystemExit(f"pycocotools: {row['error']}")
        partial_file.replace(kept)
    return kept


def differences(found: Path, row: Row, truth: Path) -> list[str]:
    """In what a run's arrays and numbers are not the reference's, to the bit; empty where they are."""
    right, left = dict(np.load(truth)), dict(np.load(found)) if found.exists() else {}
    out = [
        f"{name}: {int((left[name] != right[name]).sum()):,} of {right[name].size:,}"
        if left[name].shape == right[name].shape
        else f"{name}: shape {left[name].shape}"
        for name in ARRAYS
        if name in left and not np.array_equal(left[name], right[name])
    ]
    wrong = [name for name, a, b in zip(NUMBERS, row["stats"], right["stats"], strict=True) if a != b]
    return [*out, *wrong]


def check(tool: str, subject: Subject, truth: Path) -> Row:
    """A tool's first run: its row with `peak_mb`, `differs` (what is not pycocotools') and `compared` (with what)."""
    out = WORK / "scratch" / f"{tool.replace(' ', '_')}.npz"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    row = run(tool, subject, out)
    if "error" in row:
        return row
    arrays = out.exists() and set(np.load(out).files) >= set(ARRAYS)
    return {
        **row,
        "differs": differences(out, row, truth),
        "compared": "to the bit" if arrays else "ten numbers, to the bit",
    }


def rows_of(subject: Subject, tools: Sequence[str], repeat: int) -> list[Row]:
    """The rows of a subject. SystemExit where kpdata's numbers are not pycocotools'."""
    truth = reference(subject)
    first = {tool: check(tool, subject, truth) for tool in tools}
    for tool, row in first.items():
        if tool.startswith("kpdata") and row.get("differs"):
            raise SystemExit(f"{tool} is not equal to pycocotools, so nothing is timed: {', '.join(row['differs'])}")
    quick = [tool for tool in tools if "error" not in first[tool] and first[tool]["seconds"] <= common.SLOW]
    again = common.rounds({tool: partial(run, tool, subject) for tool in quick}, repeat)
    rows = []
    for tool in tools:
        found = again.get(tool) or [first[tool]]
        if problem := failure(found):
            rows.append({"subject": subject.title, "tool": tool, "error": problem})
            continue
        kept: Row = {key: first[tool][key] for key in ("differs", "compared", "peak_mb") if key in first[tool]}
        laps = {name: middle([{"seconds": r["laps"][name]} for r in found], ["seconds"])["seconds"]
                for name in found[0].get("laps", ())}  # fmt: skip
        row = {"subject": subject.title, "tool": tool, **middle(found, ("seconds", "cpu_s")), "laps": laps, **kept}
        rows += [row] if subject.how == "whole" else _inside(row, found)
    return rows


def _inside(row: Row, found: Sequence[Row]) -> list[Row]:
    """Rows of what was timed inside the process, cold (the first time) and warm (medians of each process's runs)."""
    kept = {key: row[key] for key in ("tool", "differs", "compared", "laps")}
    cold = middle([{"seconds": r["laps"]["evaluate"]} for r in found], ["seconds"])
    rows = [{"subject": f"{row['subject']}, cold", **kept, **cold}]
    if found[0]["warm"]:
        warm = middle([{"seconds": seconds} for r in found for seconds in r["warm"]], ["seconds"])
        rows.append({"subject": f"{row['subject']}, warm", **kept, **warm})
    return rows


def analyses(subject: Subject, repeat: int) -> list[Row]:
    """Rows of kpdata's analyses: each of ANALYSES, and all of them together."""
    found = common.rounds({"kpdata": partial(run, "kpdata", subject)}, max(1, repeat))["kpdata"]
    if problem := failure(found):
        return [{"subject": subject.title, "tool": "kpdata", "error": problem}]
    for row in found:
        row["laps"]["all of them"] = sum(row["laps"][name] for name in ANALYSES)
    return [
        {"subject": subject.title, "tool": f"kpdata: {name}",
         **middle([{"seconds": row["laps"][name]} for row in found], ["seconds"])}
        for name in (*ANALYSES, "all of them")
    ]  # fmt: skip


def make_data(subjects: Iterable[Subject], tools: Sequence[str]) -> None:
    """The files that the subjects and tools need, where they are missing."""
    from kpdata import converters

    for subject in subjects:
        results = DATA / f"{subject.results}.json"
        if not results.exists() or not (DATA / f"{subject.gt}.json").exists():
            times = "10" if "x10" in subject.results else "1"
            made: list[str | Path] = [sys.executable, "-m", "benchmarks.eval_workload", DATA, "--times", times]
            subprocess.run(made, check=True, cwd=HERE.parent)
        if any(tool.endswith(".kp") and tool in tools for tool in subject.tools):  # anew: the schema may have changed
            found = converters.read(results, "coco_results", hashed=False)
            converters.write(found, results.with_suffix(".kp"), "kp", force=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """All subjects; prints and stores JSON lines. Exit code 1 where a row of kpdata's is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; 0: first runs alone")
    parser.add_argument("--only", default="", help="tools, with commas between them")
    parser.add_argument("--subjects", default="", help=f"some of {','.join(SUBJECTS)}, with commas between them")
    parser.add_argument("--x10", action="store_true", help="the workload ten times as large, too")
    given = parser.parse_args(arguments)
    wanted = given.subjects.split(",") if given.subjects else [name for name in SUBJECTS if name != "x10" or given.x10]
    if unknown := set(wanted) - set(SUBJECTS):
        parser.error(f"--subjects: {', '.join(sorted(unknown))}, expected some of {', '.join(SUBJECTS)}")
    only = given.only.split(",") if given.only else sorted({tool for s in SUBJECTS.values() for tool in s.tools})
    for tool, requirements in PEERS.items():
        if tool in only or (tool == "vernier" and NATIVE in only):
            make_environment(tool, requirements)
    make_data((SUBJECTS[name] for name in wanted), only)
    lines: list[Row] = []
    for name in wanted:
        subject = SUBJECTS[name]
        tools = [tool for tool in subject.tools if tool in only]
        if tools:
            lines += analyses(subject, given.repeat) if name == "analyses" else rows_of(subject, tools, given.repeat)
    facts = common.machine("numpy", "pyarrow", "pycocotools")
    lines = [{**line, **facts, **_version(line["tool"])} for line in lines]
    print(table(lines))
    if not (given.only or given.subjects) and given.repeat >= 3:
        common.store("eval", lines)
        common.into_readme("eval", table(lines))
    if failed := [line["tool"] for line in lines if "error" in line and line["tool"].startswith("kpdata")]:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _version(tool: str) -> Row:
    """What pip was told to install for a peer."""
    return {"installed": PEERS[name]} if (name := tool.removesuffix(" native")) in PEERS else {}


def table(lines: Sequence[Row]) -> str:
    """The rows as Markdown, with each time as a ratio to kpdata's own and to pycocotools'."""
    rows = []
    for line in lines:
        if "error" in line:
            rows.append((line["subject"], line["tool"], *"––––––", line["error"]))
            continue
        alike = [r for r in lines if r["subject"] == line["subject"] and "seconds" in r]
        ours = next((r["seconds"] for r in alike if r["tool"].startswith("kpdata")), None)
        theirs = next((r["seconds"] for r in alike if r["tool"] == "pycocotools"), None)
        rows.append((
            line["subject"], line["tool"], f"{line['seconds']:.3f}", f"{line['min_s']:.3f}",
            f"{line['cpu_s']:.2f}" if "cpu_s" in line else "–", f"{line['peak_mb']:.0f}" if "peak_mb" in line else "–",
            f"{line['seconds'] / ours:.2f}" if ours and "compared" in line else "–",
            f"{theirs / line['seconds']:.1f}" if theirs else "–", _equality(line),
        ))  # fmt: skip
    return common.markdown(COLUMNS, rows)


def _equality(line: Row) -> str:
    differs = line.get("differs")
    return f"no ({', '.join(differs)})" if differs else line.get("compared", "–")


if __name__ == "__main__":
    main()
