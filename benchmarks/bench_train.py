"""Training beside the official recipe's execution: the same losses first, then steps, loaders and memory.

    make bench BENCH=train
    python -m benchmarks.bench_train [--repeat 2] [--subjects step,load] [--device cpu|cuda] [--minutes 8] [--table]

Each run is a process of its own. Both executions start from the same weights and people, and must give the same losses
in the first two steps (`LIMIT`), else the benchmark fails. On a CPU there is one thread, networks and batches are small
and times are CPU time: enough to see that nothing is slower, and no word about GPUs. With CUDA: HRNet-W32 at 192 x 256
with batches of 64 to 256, eager, bf16, NHWC, graph and compile, from disk to weights, and the share of the memory
floor; in one round, since a GPU has nobody else to serve, and in 8 minutes: what is not done by then is left out, the
most telling rows come first. A run of everything (on a CPU in two rounds or more) stores its figures, of a CPU in
results/train.jsonl and of a GPU in results/train_gpu.jsonl, and puts their table into README.md; --table does that
alone, with the figures that are stored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import common
from benchmarks.common import HERE, Row, failure

OFFICIAL, OURS = "official execution", "kpdata"
FLOOR = 6130
"""Training people a second of W32 at 256 x 192 that the memory of an H100 (3.35 TB/s) allows: 546 MB a person, counted
as reads and writes of bf16 convolutions, batch norms as 3 passes forward and 5 backward, relu and sums fused away."""
LIMIT = {"fp32": 1e-4, "bf16": 5e-2}  # of losses, relative to the official execution's
NO_GPU = "Measured without a GPU: these figures say nothing about one."
LOADERS = (
    "official loader", "kpdata from JPEG", "kpdata packed JPEG", "kpdata packed raw", "kpdata packed JPEG for the GPU",
    "kpdata packed raw for the GPU",
)  # fmt: skip
EAGER, GRAPH = "kpdata bf16 NHWC", "kpdata bf16 NHWC graph"
COMPILE, BOTH = "kpdata bf16 NHWC compile", "kpdata bf16 NHWC compile graph"
ON_GPU = {  # of the step at each batch; compiling takes two minutes a batch size, once
    256: (OFFICIAL, BOTH, GRAPH, EAGER, f"{GRAPH}, cuDNN alone", f"{GRAPH}, one stream"),
    64: (OFFICIAL, GRAPH, EAGER),
    128: (OFFICIAL, GRAPH, EAGER, "kpdata bf16", "kpdata fp32 NCHW", BOTH, COMPILE),
}
FULL = (BOTH, GRAPH)  # from disk to weights, at the largest batch
MARKS = {"cpu": "train", "cuda": "train_gpu"}
LATE = "not done: the time was over"
LEAST = 20.0  # seconds that a run needs at least
VARIABLES = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "PYTHONPATH": str(HERE.parent),
}
COLUMNS = {
    "what": "---", "tool": "---", "median ms": "---:", "best ms": "---:", "people a second": "---:",
    "official time ÷ this": "---:", "peak memory": "---:", "share of the floor": "---:",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is measured. arguments: of the runner after the tool; people: in one `seconds`; floor: people a second."""

    title: str
    kind: str
    tools: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    people: int = 1
    floor: float | None = None


def subjects(device: str) -> list[Subject]:
    """What there is to measure on a device."""
    loading = Subject("disk to crop, a person", "load", LOADERS)
    if device == "cpu":
        sizes = (("hrnet_tiny", 16), ("hrnet_w32", 2))
        return [_step(model, "96x128", batch, device, (OFFICIAL, OURS)) for model, batch in sizes] + [loading]
    first, *steps = [_step("hrnet_w32", "192x256", batch, device, tools, FLOOR) for batch, tools in ON_GPU.items()]
    largest = max(ON_GPU)
    end = Subject(
        f"disk to weights, hrnet_w32 192 x 256, batch {largest}", "end", FULL,
        ("hrnet_w32", "192x256", str(largest), device), largest, FLOOR,
    )  # fmt: skip
    return [first, end, *steps, loading]


def _step(
    model: str, size: str, batch: int, device: str, tools: tuple[str, ...], floor: float | None = None
) -> Subject:
    title = f"step, {model} {size.replace('x', ' x ')}, batch {batch}"
    return Subject(title, "step", tools, (model, size, str(batch), device), batch, floor)


def run(tool: str, subject: Subject, device: str, ends: float) -> Row:
    """One run in a process of its own; `LATE` where it is not done by `ends`, of the monotonic clock."""
    left = ends - time.monotonic()
    if left < LEAST:
        return {"error": LATE}
    line = [sys.executable, "-m", "benchmarks.train_runners", subject.kind, tool, *subject.arguments]
    variables = VARIABLES if device == "cpu" or subject.kind == "load" else {"PYTHONPATH": str(HERE.parent)}
    row = common.measure(line, memory=True, variables=variables, timeout=min(900.0, left))
    if "error" in row:
        return {"error": LATE} if time.monotonic() >= ends else row
    told = json.loads(row["stdout"].strip().splitlines()[-1])
    return {"peak_mb": row.get("peak_mb"), **told}


def disagreement(tool: str, found: Row, official: Row) -> str | None:
    """In words, where a tool's first losses are not the official execution's."""
    limit = LIMIT["bf16" if "bf16" in tool else "fp32"]
    for one, other in zip(found.get("losses", ()), official.get("losses", ()), strict=True):
        if not abs(one - other) <= limit * abs(other):
            return f"{tool}: losses {found['losses']}, the official execution's are {official['losses']}"
    return None


def rows_of(subject: Subject, repeat: int, device: str, ends: float) -> list[Row]:
    """The rows of a subject. SystemExit where the losses differ."""
    found = common.rounds({tool: partial(run, tool, subject, device, ends) for tool in subject.tools}, repeat)
    if subject.kind == "step" and not failure(found[OFFICIAL]):
        for tool, rows in found.items():
            for row in rows:
                if "error" not in row and (wrong := disagreement(tool, row, found[OFFICIAL][0])):
                    raise SystemExit(f"{subject.title}: not the same training, so no time counts: {wrong}")
    lines: list[Row] = []
    for tool, rows in found.items():
        line: Row = {"subject": subject.title, "tool": tool, "device": device, "people": subject.people}
        if problem := failure(rows):
            lines.append({**line, "error": problem})
            continue
        line |= common.middle(rows, ("seconds", "setup_s", "gpu_mb", "peak_mb"))
        line["min_s"] = min(row["best"] for row in rows)
        line |= {name: rows[0][name] for name in ("gpu", "cuda", "cudnn") if name in rows[0]}
        lines.append({**line, **({"floor": subject.floor} if subject.floor else {})})
    return lines


def table(lines: Sequence[Row]) -> str:
    """The rows as Markdown."""
    rows = []
    for line in lines:
        if "error" in line:
            rows.append((line["subject"], line["tool"], *("–",) * 5, line["error"]))
            continue
        alike = {r["tool"]: r["seconds"] for r in lines if r["subject"] == line["subject"] and "seconds" in r}
        official, speed = alike.get(OFFICIAL) or alike.get(LOADERS[0]), line["people"] / line["seconds"]
        rows.append((
            line["subject"], line["tool"], f"{line['seconds'] * 1e3:.2f}",
            f"{line['min_s'] * 1e3:.2f}" if "min_s" in line else "–",
            f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
            f"{official / line['seconds']:.2f}" if official else "–", _memory(line),
            f"{speed / line['floor']:.0%}" if line.get("floor") else "–",
        ))  # fmt: skip
    return common.markdown(COLUMNS, rows)


def _memory(line: Row) -> str:
    """The GPU's where the step ran there, else the process's."""
    if "gpu_mb" in line:
        return f"{line['gpu_mb'] / 1024:.1f} GB"
    return f"{line['peak_mb']:,.0f} MB" if "peak_mb" in line and line["device"] == "cpu" else "–"


def has_gpu() -> bool:
    """Asked in another process: this one stays without torch."""
    code = "import torch; print(torch.cuda.is_available())"
    return "True" in common.measure([sys.executable, "-c", code]).get("stdout", "")


def text(device: str, lines: Sequence[Row]) -> str:
    """What README.md says between the marks: the table, and on what it was measured."""
    if device == "cpu":
        return f"{NO_GPU}\n\n{table(lines)}"
    facts = next((line for line in lines if "gpu" in line), {})
    named = (("", "gpu"), ("CUDA ", "cuda"), ("cuDNN ", "cudnn"), ("PyTorch ", "torch"))
    told = [f"{title}{facts[name]}" for title, name in named if facts.get(name)]
    noted = f" Noted {facts['noted']}." if "noted" in facts else ""
    return f"{', '.join(told)}; memory is the GPU's.{noted}\n\n{table(lines)}"


def stored(device: str) -> list[Row]:
    """The rows of the last run of everything on such a device. SystemExit where there is none."""
    path = common.RESULTS / f"{MARKS[device]}.jsonl"
    if not path.is_file():
        raise SystemExit(f"{path}: no figures are stored; run without --table")
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Subject]]:
    """What was asked for, with the device that it is for, and the subjects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=None, help="rounds, 1 or more; 2 on a CPU, 1 on a GPU")
    parser.add_argument("--subjects", default="", help="some of step,load,end, with commas between them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None, help="a GPU where there is one")
    parser.add_argument("--minutes", type=float, default=None, help="what is not done by then is left out; 8 on a GPU")
    parser.add_argument("--table", action="store_true", help="measure nothing: the stored figures into README.md")
    given = parser.parse_args(arguments)
    given.device = given.device or ("cuda" if has_gpu() else "cpu")
    given.repeat = max(1, given.repeat or (1 if given.device == "cuda" else 2))
    given.minutes = given.minutes or (8.0 if given.device == "cuda" else float("inf"))
    chosen = [s for s in subjects(given.device) if not given.subjects or s.kind in given.subjects.split(",")]
    if not chosen:
        what = f"nothing to measure on {given.device}, expected some of step,load,end"
        parser.error(f"--subjects {given.subjects}: {what}")
    return given, chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """All subjects; prints and stores JSON lines. Exit code 1 where a row of kpdata's is an error."""
    given, chosen = options(arguments)
    if given.table:
        common.into_readme(MARKS[given.device], text(given.device, stored(given.device)))
        return
    if given.device == "cpu":
        print(NO_GPU)
    facts, ends = common.machine("numpy", "torch", "opencv-python-headless", "simplejpeg"), 60 * given.minutes
    ends += time.monotonic()
    lines = [{**line, **facts} for s in chosen for line in rows_of(s, given.repeat, given.device, ends)]
    if late := [line["tool"] for line in lines if line.get("error") == LATE]:
        print(f"{LATE}: {', '.join(late)}", file=sys.stderr)
        lines = [line for line in lines if line.get("error") != LATE]
    print(table(lines))
    if not given.subjects and (given.repeat >= 2 or given.device == "cuda"):
        common.store(MARKS[given.device], lines)
        common.into_readme(MARKS[given.device], text(given.device, lines))
    if failed := [line["tool"] for line in lines if "error" in line and line["tool"].startswith(OURS)]:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
