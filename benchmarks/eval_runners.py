"""One evaluator scores one results file in a process of its own, and says how long each step took.

    python benchmarks/eval_runners.py TOOL whole GT RESULTS [OUT.npz]
    python benchmarks/eval_runners.py TOOL evaluate GT RESULTS [OUT.npz]
    python benchmarks/eval_runners.py kpdata analyses GT RESULTS
    python benchmarks/eval_runners.py kpdata arrays GT RESULTS OUT.npz

`whole`: everything once. `evaluate`: evaluate and accumulate alone, once cold and then warm, on data that are loaded.
`analyses`: what kpdata says beyond the numbers, from one evaluation. `arrays`: the files as arrays, to start from.
With OUT.npz the arrays precision, recall and scores and the ten numbers are kept, to be compared. Only the standard
library stands outside the tools' functions, so that each tool runs in its own environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

NUMBERS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
ANALYSES = ("errors", "per keypoint", "1,000 resamples")
WARM_RUNS, WARM_SECONDS = 9, 5.0  # warm runs stop at either; who needs longer for the cold one has none

# A tool loads the two files, naming its laps, and gives back: how to score, and how to read a score.
Lap = Callable[[str], None]
Score = Callable[[], Any]
Look = Callable[[Any], tuple[list[float], dict[str, Any]]]  # the ten numbers, the arrays
Loaded = tuple[Score, Look]


def pycocotools(gt: str, results: str, lap: Lap) -> Loaded:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def kpdata_drop_in(gt: str, results: str, lap: Lap) -> Loaded:
    """pycocotools' own objects, kpdata's COCOeval."""
    from pycocotools.coco import COCO

    from kpdata.eval.coco import COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def faster_coco_eval(gt: str, results: str, lap: Lap) -> Loaded:
    from faster_coco_eval import COCO, COCOeval_faster

    lap("import")
    return _as_pycocotools(COCO, COCOeval_faster, gt, results, lap)


def hotcoco(gt: str, results: str, lap: Lap) -> Loaded:
    from hotcoco import COCO, COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def ultrafast(gt: str, results: str, lap: Lap) -> Loaded:
    from ultrafast_pycocotools import COCO, COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def xtcocotools(gt: str, results: str, lap: Lap) -> Loaded:
    from xtcocotools.coco import COCO
    from xtcocotools.cocoeval import COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def vernier(gt: str, results: str, lap: Lap) -> Loaded:
    """pycocotools' own objects, vernier's COCOeval."""
    from pycocotools.coco import COCO
    from vernier import COCOeval

    lap("import")
    return _as_pycocotools(COCO, COCOeval, gt, results, lap)


def vernier_native(gt: str, results: str, lap: Lap) -> Loaded:
    """vernier's own evaluator: bytes in, parsed while it evaluates. It gives the ten numbers and no arrays."""
    from pathlib import Path

    from vernier.instance import CocoDataset, Evaluator, Keypoints

    lap("import")
    truth = CocoDataset.from_json(Path(gt).read_bytes())
    lap("gt")
    found = Path(results).read_bytes()
    lap("results")
    evaluator = Evaluator(iou=Keypoints(), parity_mode="strict")
    return lambda: evaluator.evaluate(truth, found), lambda summary: ([float(x) for x in summary.stats], {})


def _as_pycocotools(coco: Any, evaluator: Any, gt: str, results: str, lap: Lap) -> Loaded:
    """Whoever has pycocotools' classes."""
    truth = coco(gt)
    lap("gt")
    load = truth.load_res if hasattr(truth, "load_res") else truth.loadRes
    found = load(results)
    lap("results")

    def score() -> Any:
        scored = evaluator(truth, found, "keypoints")
        scored.evaluate()
        scored.accumulate()
        return scored

    def look(scored: Any) -> tuple[list[float], dict[str, Any]]:
        scored.summarize()
        return [float(number) for number in scored.stats[:10]], scored.eval

    return score, look


def kpdata(gt: str, results: str, lap: Lap) -> Loaded:
    """The public way: `read`, `read`, `evaluate`. `evaluate` is the whole of it, from two Datasets."""
    import kpdata.converters.coco_results  # part of the start, not of the reading
    import kpdata.eval

    lap("import")
    truth = kpdata.read(gt, hashed=False)
    lap("gt")
    found = kpdata.read(results, hashed=False)
    lap("results")

    def look(scored: Any) -> tuple[list[float], dict[str, Any]]:
        return [scored.stats[key] for key in NUMBERS], _arrays(scored.curves)

    return lambda: kpdata.evaluate(truth, found), look


def kpdata_arrays(gt: str, results: str, lap: Lap) -> Loaded:
    """The array core, cold: another process brings the files into arrays, as `kpdata.evaluate` does."""
    import subprocess
    import tempfile

    import numpy as np

    from kpdata.eval import Detections, GroundTruth, Params, evaluate_arrays, summarize

    lap("import")
    with tempfile.NamedTemporaryFile(suffix=".npz") as kept:
        subprocess.run([sys.executable, __file__, "kpdata", "arrays", gt, results, kept.name], check=True)
        columns = dict(np.load(kept.name))
    truth, found = ({name.removeprefix(side): column for name, column in columns.items() if name.startswith(side)}
                    for side in ("truth.", "detections."))  # fmt: skip
    people, detections, params = GroundTruth(**truth), Detections(**found), Params(sigmas=columns["sigmas"])
    lap("results")

    def score() -> Any:
        return evaluate_arrays(people, detections, columns["image_ids"], columns["category_ids"], params)

    def look(curves: Any) -> tuple[list[float], dict[str, Any]]:
        numbers = summarize(curves, params)
        return [numbers[key] for key in NUMBERS], _arrays(curves)

    return score, look


def keep_arrays(gt: str, results: str, out: str) -> None:
    """The columns of the one Part of two files as .npz."""
    import numpy as np

    import kpdata
    from kpdata.eval.prepare import prepare

    (part,) = prepare(kpdata.read(gt, hashed=False), kpdata.read(results, hashed=False), []).parts
    columns: dict[str, Any] = {
        f"{side}.{name}": getattr(getattr(part, side), name)
        for side in ("truth", "detections")
        for name in getattr(part, side).__slots__
    }
    rest: dict[str, Any] = {
        "image_ids": part.image_ids,
        "category_ids": part.category_ids,
        "sigmas": part.params.sigmas,
    }
    np.savez(out, **columns, **rest)


def _arrays(curves: Any) -> dict[str, Any]:
    return {"precision": curves.precision, "recall": curves.recall, "scores": curves.scores}


TOOLS: dict[str, Callable[[str, str, Lap], Loaded]] = {
    "kpdata": kpdata,
    "kpdata arrays": kpdata_arrays,
    "kpdata COCOeval": kpdata_drop_in,
    "pycocotools": pycocotools,
    "faster-coco-eval": faster_coco_eval,
    "hotcoco": hotcoco,
    "ultrafast-pycocotools": ultrafast,
    "vernier": vernier,
    "vernier native": vernier_native,
    "xtcocotools": xtcocotools,
}


def run(tool: str, subject: str, gt: str, results: str, out: str) -> dict[str, Any]:
    """Load and score: laps in seconds, the ten numbers. `cold` and `warm` (a list) where the subject is `evaluate`."""
    laps: dict[str, float] = {}
    last = [time.perf_counter()]

    def lap(name: str) -> None:
        now = time.perf_counter()
        laps[name], last[0] = now - last[0], now

    score, look = TOOLS[tool](gt, results, lap)
    last[0] = time.perf_counter()
    scored = score()
    lap("evaluate")
    found: dict[str, Any] = {"laps": laps}
    if subject == "evaluate":
        found["warm"] = _again(score) if laps["evaluate"] < WARM_SECONDS else []
    if subject == "analyses":
        _analyse(scored.sides.parts, lap)
    numbers, arrays = look(scored)
    if out:
        import numpy as np

        kept: dict[str, Any] = {
            key: np.asarray(arrays[key]) for key in ("precision", "recall", "scores") if key in arrays
        }
        np.savez(out, stats=np.array(numbers), **kept)
    return {**found, "stats": numbers}


def _analyse(parts: Any, lap: Lap) -> None:
    """The laps ANALYSES on the parts of an evaluation, and the one matching they share as a lap of its own."""
    from kpdata.eval.bootstrap import bootstrap
    from kpdata.eval.errors import classify, count_errors, count_people, missed_people
    from kpdata.eval.keypoints import keypoint_ap, per_keypoint
    from kpdata.eval.opportunity import opportunity
    from kpdata.eval.part import pair

    lap("import of the analyses")
    pairings = [(part, pair(part)) for part in parts]
    lap("pair")
    for part, pairing in pairings:
        errors = classify(part, pairing)
        count_errors(part, pairing, errors)
        opportunity(part, pairing, errors)
        count_people(part, pairing)
        missed_people(part, pairing)
    lap("errors")
    for part, pairing in pairings:
        per_keypoint(part, pairing)
        keypoint_ap(part)
    lap("per keypoint")
    bootstrap(parts, 1000)
    lap("1,000 resamples")


def _again(score: Score) -> list[float]:
    """Seconds of warm runs: some, or as many as fit."""
    times: list[float] = []
    while len(times) < WARM_RUNS and sum(times) < WARM_SECONDS:
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run one tool and print one JSON line; what the tool itself prints goes nowhere."""
    tool, subject, gt, results, out = (*sys.argv[1:], "")[:5]
    terminal, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if subject == "arrays":
        keep_arrays(gt, results, out)
        return
    found = run(tool, subject, gt, results, out)
    sys.stdout.flush()
    os.dup2(terminal, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
