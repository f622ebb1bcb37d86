"""mmpose's PCK, AUC, EPE and NME of made-up people and of MPII's stored predictions: writes mmpose.json beside it.

    python tests/golden/make_mmpose.py --mmpose MMPOSE --data REAL_DATA

--mmpose is a checkout of github.com/open-mmlab/mmpose (1.3.2): mmpose/evaluation/functional/keypoint_eval.py runs as it
is, without torch or mmcv: the two modules that it imports for other functions are empty here. --data is the folder of
real data that the tests' fixture `real_data` reads. The people come from `random.Random(seed).random()`, whose numbers
Python promises to keep, on a coarse grid with lengths that make many distances fall on a threshold, so that the tests
make the same ones; bits of float32 and float64 are kept by JSON's shortest numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SEEDS = range(60)
THRESHOLDS = (0.05, 0.1, 0.2, 0.5)
STEPS = ((0, 0), (3, 4), (0, 5), (5, 0), (6, 8), (0, 10), (7, 24), (20, 15), (2, 0), (17, 31))  # px
MPII = ("bearpaw-hg_s8_b1.mat", "tompson.h5")


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N, K, 2) truth and prediction, (N, K) labelled, (N,) lengths, some of them 0."""
    rng = random.Random(seed)
    n, k = 1 + int(9 * rng.random()), 1 + int(7 * rng.random())

    truth = np.array([float(int(40 * rng.random())) for _ in range(n * k * 2)]).reshape(n, k, 2)
    steps = np.array([STEPS[int(len(STEPS) * rng.random())] for _ in range(n * k)], np.float64).reshape(n, k, 2)
    found = truth + steps
    labelled = np.array([rng.random() < 0.8 for _ in range(n * k)]).reshape(n, k)
    lengths = np.array([[0.0, 10.0, 20.0, 25.0, 50.0, 65.0, 100.0][int(7 * rng.random())] for _ in range(n)])
    return truth, found, labelled, lengths


def mpii(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same of MPII's 2,958 validation people: labels and head boxes of the .mat, kpdata's only part in this."""
    import kpdata

    truth = kpdata.read(folder / "detections_our_format.mat")
    found = kpdata.read(folder / "preds" / name)
    heads = np.array(truth.persons["head_bbox"].to_pylist(), np.float64)
    labels = np.array(truth.persons["visibility"].to_pylist()) > 0
    return np.nan_to_num(truth.keypoints), np.array(found.keypoints), labels, 0.6 * np.hypot(heads[:, 2], heads[:, 3])


def mmpose(checkout: Path) -> Any:
    """The module of the checkout, alone."""
    for name, functions in (
        ("mmpose", ()), ("mmpose.codecs", ()), ("mmpose.codecs.utils", ("get_heatmap_maximum", "get_simcc_maximum")),
        ("functional", ()), ("functional.mesh_eval", ("compute_similarity_transform",)),
    ):  # fmt: skip
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update({"__path__": [], **dict.fromkeys(functions)})
    file = checkout / "mmpose" / "evaluation" / "functional" / "keypoint_eval.py"
    spec = importlib.util.spec_from_file_location("functional.keypoint_eval", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(tool: Any, truth: Any, found: Any, labelled: Any, lengths: Any, thresholds: tuple[float, ...]) -> Any:
    """PCK a keypoint (-1: nobody) and its mean, at each threshold; AUC at 30 px; EPE; NME."""
    sides = np.repeat(lengths[:, None], 2, axis=1)
    pck = [tool.keypoint_pck_accuracy(found, truth, labelled, limit, sides.copy()) for limit in thresholds]
    return {
        "pck": [[float(rate) for rate in rates] for rates, _, _ in pck],
        "mean": [float(mean) for _, mean, _ in pck],
        "auc": float(tool.keypoint_auc(found, truth, labelled, 30)),
        "epe": float(tool.keypoint_epe(found, truth, labelled)),
        "nme": float(tool.keypoint_nme(found, truth, labelled, sides.copy())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmpose", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    tool = mmpose(options.mmpose)
    found: dict[str, Any] = {"cases": [numbers(tool, *case(seed), THRESHOLDS) for seed in SEEDS], "mpii": {}}
    for name in MPII:
        found["mpii"][name] = numbers(tool, *mpii(options.data / "mpii", name), (0.5, 0.1))
    (HERE / "mmpose.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
