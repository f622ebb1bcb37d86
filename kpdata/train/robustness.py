"""How much a network loses on worse pictures: its number for every kind and severity of corruption, mPC and rPC.

    found = robustness(predictor, gather(predictor, dataset, "val2017"))
    found.mpc, found.rpc                                # mean over kinds and severities; its share of the clean number

After COCO-C (Wang et al., CVPR 2021; the measures are those of Michaelis et al., arXiv 1907.07484), with corruptions of
kpdata's own (`corrupt`): compare networks with them, not with published numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import files
from kpdata.dataset import Dataset
from kpdata.errors import TrainError
from kpdata.eval.evaluation import evaluate
from kpdata.remapping import remap
from kpdata.train.corrupt import KINDS, SEVERITIES, Kind, corruptions
from kpdata.train.predict import Job, Predicted, Watch, run, told
from kpdata.train.predictor import Predictor

_FIRST = ("AP", "whole_AP", "mAP")  # the number that a metric is known by; else its first
# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = {"blur": "#0072B2", "noise": "#E69F00", "compression": "#009E73", "occlusion": "#CC79A7"}


@dataclass(frozen=True, slots=True, eq=False)
class Robustness:
    """Numbers in [0, 1]. metric: AP, PCKh@0.5, … as the ground truth stands for. table: rows are `kinds`."""

    metric: str
    clean: float
    kinds: tuple[Kind, ...]
    table: NDArray[np.float64]  # (kinds, 5 severities)
    seed: int
    predicted: Predicted  # on the clean pictures

    @property
    def mpc(self) -> float:
        """Mean performance under corruption: the mean over kinds and severities."""
        return float(self.table.mean())

    @property
    def rpc(self) -> float:
        """Relative performance under corruption: mPC / clean; NaN where the clean number is not above 0."""
        return self.mpc / self.clean if self.clean > 0 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        numbers = {
            kind: dict(zip(map(str, SEVERITIES), row, strict=True))
            for kind, row in zip(self.kinds, self.table.tolist(), strict=True)
        }
        return {
            "metric": self.metric, "clean": self.clean, "mPC": self.mpc, "rPC": self.rpc, "seed": self.seed,
            "corruptions": numbers,
        }  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of a table: a kind a row, its five severities, their mean."""
        means = self.table.mean(axis=1)
        return [
            (kind, *(f"{value:.3f}" for value in row), f"{mean:.3f}")
            for kind, row, mean in zip(self.kinds, self.table.tolist(), means.tolist(), strict=True)
        ]


def robustness(
    predictor: Predictor, job: Job, *, kinds: Sequence[Kind] = KINDS, seed: int = 0, watch: Watch | None = None
) -> Robustness:
    """The number of a network on the job's pictures as they are, and corrupted in each kind at five severities.

    Each picture is decoded once. Predictions on another skeleton than the ground truth's are brought to it. Raises
    TrainError for an unknown kind, EvaluationError where the job's dataset cannot be scored.
    """
    wanted = corruptions(tuple(dict.fromkeys(kinds)), seed)
    if not wanted:
        raise TrainError("no corruption chosen", hint=f"some of {', '.join(KINDS)}")
    poses = run(predictor, job, wanted, watch=watch)
    clean = told(predictor, job, poses)
    metric, number = _score(job.dataset, clean.people)
    values = [_score(job.dataset, told(predictor, job, poses, v).people)[1] for v in range(1, 1 + len(wanted))]
    chosen = tuple(dict.fromkeys(one.kind for one in wanted))
    return Robustness(metric, number, chosen, np.array(values).reshape(len(chosen), -1), seed, clean)


def _score(truth: Dataset, people: Dataset) -> tuple[str, float]:
    """The number that the ground truth's metric is known by."""
    used = [truth.skeletons[name] for name, _ in truth.groups() if name is not None]
    own = next(iter(people.skeletons.values()))
    if len(used) == 1 and used[0].keypoint_names != own.keypoint_names:
        people = remap(people, used[0])[0]
    stats = evaluate(truth, people).stats
    name = next((name for name in _FIRST if name in stats), next(iter(stats)))
    return name, float(stats[name])


def plot(found: Robustness, target: Path, *, force: bool = False) -> None:
    """A curve a kind over the severities, beginning at the clean number, as a picture by matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kind, row in zip(found.kinds, found.table.tolist(), strict=True):
        axes.plot([0, *SEVERITIES], [found.clean, *row], marker="o", color=_COLOURS[kind], label=kind)
    axes.axhline(found.mpc, color="#666666", linestyle=":", label=f"mPC {found.mpc:.3f}")
    axes.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
    axes.set_xlabel("severity")
    axes.set_ylabel(found.metric)
    axes.set_ylim(bottom=0)
    share = f", {found.rpc:.0%} of it corrupted" if found.clean > 0 else ""
    axes.set_title(f"{found.metric} {found.clean:.3f} clean{share}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#EEEEEE")
    axes.legend(frameon=False)
    with files.replacing(target, force=force) as temporary:
        canvas.print_figure(temporary, format=target.suffix.lstrip(".") or "png", dpi=110)
