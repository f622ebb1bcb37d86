"""Training beside the official recipe's execution: the same losses first, then steps, loaders and memory.

    make bench BENCH=train
    python -m benchmarks.bench_train [--repeat 2] [--subjects step,load] [--device cpu|cuda]

Each run is a process of its own. Both executions start from the same weights and people, and must give the same losses
in the first two steps (`LIMIT`), else the benchmark fails. On a CPU there is one thread, networks and batches are small
and times are CPU time: enough to see that nothing is slower, and no word about GPUs. With CUDA: HRNet-W32 at 192 x 256
with batches of 64 to 256, eager, bf16, NHWC, graph and compile, from disk to weights, and the share of the memory
floor. A run of everything in two rounds or more stores its figures (results/train.jsonl, README.md).
"""

from __future__ import annotations

import argparse
import json
import sys
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
GRAPHED = ("kpdata bf16 NHWC", "kpdata bf16 NHWC graph", "kpdata bf16 NHWC compile", "kpdata bf16 NHWC compile graph")
GPU_TOOLS = (OFFICIAL, "kpdata fp32 NCHW", "kpdata bf16", *GRAPHED)
VARIABLES = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "PYTHONPATH": str(HERE.parent),
}
COLUMNS = {
    "what": "---", "tool": "---", "median ms": "---:", "best ms": "---:", "people a second": "---:",
    "official time ÷ this": "---:", "peak MB": "---:", "share of the floor": "---:",
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
    steps = [_step("hrnet_w32", "192x256", batch, device, GPU_TOOLS, FLOOR) for batch in (64, 128, 256)]
    ends = [
        Subject(
            f"disk to weights, hrnet_w32 192 x 256, batch {batch}", "end", GRAPHED,
            ("hrnet_w32", "192x256", str(batch), device), batch, FLOOR,
        ) for batch in (64, 128, 256)
    ]  # fmt: skip
    return [*steps, *ends, loading]


def _step(
    model: str, size: str, batch: int, device: str, tools: tuple[str, ...], floor: float | None = None
) -> Subject:
    title = f"step, {model} {size.replace('x', ' x ')}, batch {batch}"
    return Subject(title, "step", tools, (model, size, str(batch), device), batch, floor)


def run(tool: str, subject: Subject, device: str) -> Row:
    """One run in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.train_runners", subject.kind, tool, *subject.arguments]
    variables = VARIABLES if device == "cpu" or subject.kind == "load" else {"PYTHONPATH": str(HERE.parent)}
    row = common.measure(line, memory=True, variables=variables)
    if "error" in row:
        return row
    told = json.loads(row["stdout"].strip().splitlines()[-1])
    return {"peak_mb": row.get("peak_mb"), **told}


def disagreement(tool: str, found: Row, official: Row) -> str | None:
    """In words, where a tool's first losses are not the official execution's."""
    limit = LIMIT["bf16" if "bf16" in tool else "fp32"]
    for one, other in zip(found.get("losses", ()), official.get("losses", ()), strict=True):
        if not abs(one - other) <= limit * abs(other):
            return f"{tool}: losses {found['losses']}, the official execution's are {official['losses']}"
    return None


def rows_of(subject: Subject, repeat: int, device: str) -> list[Row]:
    """The rows of a subject. SystemExit where the losses differ."""
    found = common.rounds({tool: partial(run, tool, subject, device) for tool in subject.tools}, repeat)
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
        lines.append({**line, **({"floor": subject.floor} if subject.floor else {})})
    return lines


def table(lines: Sequence[Row]) -> str:
    """The rows as Markdown; memory is the GPU's where the step ran there."""
    rows = []
    for line in lines:
        if "error" in line:
            rows.append((line["subject"], line["tool"], *("–",) * 5, line["error"]))
            continue
        alike = {r["tool"]: r["seconds"] for r in lines if r["subject"] == line["subject"] and "seconds" in r}
        official, speed = alike.get(OFFICIAL) or alike.get(LOADERS[0]), line["people"] / line["seconds"]
        memory = line.get("gpu_mb", line.get("peak_mb"))
        rows.append((
            line["subject"], line["tool"], f"{line['seconds'] * 1e3:.2f}", f"{line['min_s'] * 1e3:.2f}",
            f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
            f"{official / line['seconds']:.2f}" if official else "–", f"{memory:,.0f}" if memory else "–",
            f"{speed / line['floor']:.0%}" if line.get("floor") else "–",
        ))  # fmt: skip
    return common.markdown(COLUMNS, rows)


def has_gpu() -> bool:
    """Asked in another process: this one stays without torch."""
    code = "import torch; print(torch.cuda.is_available())"
    return "True" in common.measure([sys.executable, "-c", code]).get("stdout", "")


def main(arguments: Sequence[str] | None = None) -> None:
    """All subjects; prints and stores JSON lines. Exit code 1 where a row of kpdata's is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2, help="rounds, 1 or more")
    parser.add_argument("--subjects", default="", help="some of step,load,end, with commas between them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None, help="a GPU where there is one")
    given = parser.parse_args(arguments)
    device = given.device or ("cuda" if has_gpu() else "cpu")
    if device == "cpu":
        print(NO_GPU)
    chosen = [s for s in subjects(device) if not given.subjects or s.kind in given.subjects.split(",")]
    if not chosen:
        parser.error(f"--subjects {given.subjects}: nothing to measure on {device}, expected some of step,load,end")
    facts = common.machine("numpy", "torch", "opencv-python-headless", "simplejpeg")
    lines = [{**line, **facts} for s in chosen for line in rows_of(s, max(1, given.repeat), device)]
    print(table(lines))
    if not given.subjects and given.repeat >= 2:
        common.store("train", lines)
        common.into_readme("train", (f"{NO_GPU}\n\n" if device == "cpu" else "") + table(lines))
    if failed := [line["tool"] for line in lines if "error" in line and line["tool"].startswith(OURS)]:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
