"""The training's benchmark: its tables are those of stored figures, and on a GPU it is done in time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

common = pytest.importorskip("benchmarks.common", reason="the benchmarks are in the checkout alone")

from benchmarks import bench_train  # noqa: E402  (after the skip)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_readmes_tables_are_the_stored_figures(device: str) -> None:
    """Nobody writes a number into README.md by hand."""
    readme = (common.HERE / "README.md").read_text()
    between = readme.partition(f"<!-- {bench_train.MARKS[device]} -->\n")[2].partition("\n<!-- end -->")[0]
    assert between == bench_train.text(device, bench_train.stored(device))
    assert between.count("\n| ") >= len(bench_train.stored(device))


def test_a_row_says_what_it_is() -> None:
    """Times, people a second, the ratio to the official execution, memory and the share of the floor."""
    line = {"subject": "step", "device": "cuda", "people": 256, "floor": 6130.0}
    lines = [
        {**line, "tool": bench_train.OFFICIAL, "seconds": 0.5, "min_s": 0.4, "gpu_mb": 2048.0, "peak_mb": 9.0},
        {**line, "tool": bench_train.BOTH, "seconds": 0.1, "min_s": 0.09, "gpu_mb": 1024.0},
    ]
    last = bench_train.table(lines).splitlines()[-1]
    assert last == f"| step | {bench_train.BOTH} | 100.00 | 90.00 | 2,560 | 5.00 | 1.0 GB | 42% |"


def test_on_a_gpu_all_runs_are_stored_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of everything, the largest batch and the whole way first; stored without a word, beside the figures of
    a CPU; what is not begun in time is left out, and is no failure."""
    began, now, kept = [], [0.0], {}

    def measured(command: Any, **options: Any) -> dict[str, Any]:
        kind, tool = command[3:5]
        began.append((kind, tool, command[7] if kind != "load" else ""))
        now[0] += 60.0
        assert kept or options["timeout"] <= 8 * 60
        told = {"seconds": 0.1, "best": 0.1, "gpu": "a GPU", "gpu_mb": 1024.0}
        return {"stdout": json.dumps({**told, "losses": [1.0, 0.5]} if kind == "step" else told)}

    monkeypatch.setattr(common, "measure", measured)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(common, "store", lambda name, lines: kept.update({name: lines}))
    monkeypatch.setattr(common, "into_readme", lambda mark, text: kept.update({f"{mark}.md": text}))
    bench_train.main(["--device", "cuda"])
    assert set(kept) == {"train_gpu", "train_gpu.md"}
    assert began[0] == ("step", bench_train.OFFICIAL, "256") and ("end", bench_train.BOTH, "256") in began
    assert len(began) == len(kept["train_gpu"]) == 8  # eight minutes, a minute each
    assert "a GPU" in kept["train_gpu.md"]
    bench_train.main(["--device", "cuda", "--minutes", "600"])
    whole = [line["tool"] for line in kept["train_gpu"]]
    assert len(whole) == sum(len(subject.tools) for subject in bench_train.subjects("cuda"))


def test_a_run_that_the_time_ends_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was begun and broken off: no figure and no failure; one that fails in time is a failure."""
    now = [0.0]

    def measured(*_: Any, timeout: float, **__: Any) -> dict[str, Any]:
        now[0] += timeout if timeout < 900 else 1.0
        return {"error": "it failed"}

    monkeypatch.setattr(common, "measure", measured)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = bench_train.subjects("cuda")[0]
    assert bench_train.run(bench_train.BOTH, first, "cuda", 30.0) == {"error": bench_train.LATE}
    assert bench_train.run(bench_train.BOTH, first, "cuda", now[0] + 9999.0) == {"error": "it failed"}


def test_every_tool_of_a_gpu_is_one_of_the_runners() -> None:
    """A name that the runner does not know would be measured as something else."""
    runners = pytest.importorskip("benchmarks.train_runners", reason="needs kpdata[train]")
    asked = {tool for subject in bench_train.subjects("cuda") if subject.kind != "load" for tool in subject.tools}
    assert asked <= {*runners.GPU_TOOLS, bench_train.OFFICIAL}
    assert all("compile" not in runners.GPU_TOOLS.get(tool, ()) for tool in bench_train.ON_GPU[64])
