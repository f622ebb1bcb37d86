"""Numbers of xtcocotools and of CrowdPose's own evaluator for made-up people: writes xtcocotools.json beside this file.

xtcocotools needs NumPy 1, so it runs in an environment of its own:

    python -m venv env && env/bin/pip install "numpy<2" "xtcocotools==1.14.3"
    env/bin/python tests/golden/make_xtcocotools.py --crowdpose CrowdPose/crowdpose-api/PythonAPI --data REAL_DATA

--crowdpose is that folder of a checkout of github.com/Jeff-sjtu/CrowdPose: its cocoeval.py runs as it is, after
`numpy.float`, which NumPy 1.24 removed, is put back; its compiled masks are not needed. --data is the folder of real
data that the tests' fixture `real_data` reads. The people come from `random.Random(seed).random()`, whose numbers
Python promises to keep, so that the tests make the same ones; the file holds a digest of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import random
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEEDS = range(6)
COUNTS = {"oks": 17, "crowdpose": 14, "aic": 14, "wholebody": 133}
GROUPS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
SCORES = ("foot_score", "face_score", "lefthand_score", "righthand_score", "wholebody_score")
IOU_TYPES = {
    "body": "keypoints_body", "foot": "keypoints_foot", "face": "keypoints_face", "lefthand": "keypoints_lefthand",
    "righthand": "keypoints_righthand", "whole": "keypoints_wholebody",
}  # fmt: skip
REAL = {
    "wholebody": ("coco_mmpose4/wholebody_val_5img.json", "coco_mmpose4/wholebody_preds_5img.json"),
    "crowdpose": ("crowdpose/example_crowdpose_val.json", "crowdpose/example_crowdpose_preds.json"),
    "oks": ("coco_mmpose4/test_coco.json", "coco_mmpose4/hrnet_preds_xtcocoapi.json"),
}


def case(kind: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results of one made-up data set: crowds, unlabelled people and groups, people whose
    num_keypoints is wrong, an annotation id 0, results without third values, boxes in the results of odd seeds."""
    rng = random.Random(1000 * seed + len(kind))
    images = [{"id": i + 1, "file_name": f"{i + 1}.jpg", "width": 640, "height": 480} for i in range(8)]
    for image in images:
        image["crowdIndex"] = round(rng.random(), 2)
    rows = [_person(rng, number + seed % 2, kind) for number in range(24)]
    found = [_result(rng, row) for row in rows for _ in range(int(rng.random() * 3.2))]
    if seed % 2:
        for row in found:
            row["bbox"] = [1.0, 2.0, round(20 + 150 * rng.random(), 1), round(20 + 150 * rng.random(), 1)]
    if kind == "wholebody" and seed >= 2:
        for row in found:
            named = [key for key in SCORES if seed > 3 or rng.random() < 0.5]
            row.update({key: round(rng.random(), 3) for key in named})
    return {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}, found


def _person(rng: random.Random, number: int, kind: str) -> dict[str, Any]:
    w, h = 30 + 120 * rng.random(), 40 + 160 * rng.random()
    x, y = 400 * rng.random(), 250 * rng.random()
    shown = rng.random()
    groups = GROUPS if kind == "wholebody" else {"keypoints": COUNTS[kind]}
    row: dict[str, Any] = {}
    for name, count in groups.items():
        seen = 0.0 if rng.random() < 0.2 else shown
        row[name] = []
        for _ in range(count):
            u, v, draw = rng.random(), rng.random(), rng.random()
            flag = 2 if draw < 0.7 * seen else 1 if draw < seen else 0
            row[name] += [round(x + w * u), round(y + h * v), flag] if flag else [0, 0, 0]
    labelled = sum(flag > 0 for flag in row["keypoints"][2::3])
    return {
        **row,
        "id": number,
        "image_id": 1 + int(8 * rng.random()),
        "category_id": 1,
        "bbox": [round(x, 1), round(y, 1), round(w, 1), round(h, 1)],
        "area": round(w * h * (0.4 + 0.3 * rng.random()), 1),
        "num_keypoints": labelled if rng.random() < 0.9 else 0,
        "iscrowd": int(rng.random() < 0.08),
    }


def _result(rng: random.Random, person: dict[str, Any]) -> dict[str, Any]:
    noise = (0.5, 2.0, 6.0)[int(3 * rng.random())]
    scored = rng.random() > 0.1
    row = {"image_id": person["image_id"], "category_id": 1, "score": round(rng.random(), 2)}
    x, y, w, h = person["bbox"]
    for name in GROUPS:
        if name not in person:
            continue
        flat = person[name]
        empty = rng.random() < 0.1
        row[name] = []
        for k in range(0, len(flat), 3):
            at = flat[k : k + 2] if flat[k + 2] else (x + w * rng.random(), y + h * rng.random())
            u, v = rng.random() - 0.5, rng.random() - 0.5
            third = round(rng.random(), 2) if scored and not empty else 0
            row[name] += [round(at[0] + 6 * noise * u, 1), round(at[1] + 6 * noise * v, 1), third]
    return row


def digest(kind: str) -> str:
    """SHA-256 of the cases of a kind, as JSON."""
    text = json.dumps([case(kind, seed) for seed in SEEDS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- the two evaluators


def _sigmas(name: str) -> list[float]:
    """The sigmas of a skeleton file, checked against the evaluators' own by the tests of skeletons."""
    import tomllib

    table = tomllib.loads((HERE.parents[1] / "kpdata" / "skeletons" / f"{name}.toml").read_text("utf-8"))["sigmas"]
    return [value / table.get("divisor", 1.0) for value in table["values"]]


def by_xtcocotools(kind: str, truth: Path, results: Path) -> Any:
    """Ten numbers (crowdpose: nine; wholebody: ten for each group)."""
    import numpy as np
    from xtcocotools.coco import COCO
    from xtcocotools.cocoeval import COCOeval

    def stats(iou_type: str, sigmas: list[float], use_area: bool) -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            gt = COCO(str(truth))
            judge = COCOeval(gt, gt.loadRes(str(results)), iou_type, np.array(sigmas), use_area=use_area)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return [float(value) for value in judge.stats]

    if kind == "crowdpose":
        return stats("keypoints_crowd", _sigmas("crowdpose_14"), use_area=False)
    if kind == "aic":
        return stats("keypoints", _sigmas("aic_14"), use_area=False)
    if kind == "oks":
        return stats("keypoints", _sigmas("coco_17"), use_area=True)
    sigmas, bounds = _sigmas("coco_wholebody_133"), [0, 17, 23, 91, 112, 133]
    ranges = dict(zip(IOU_TYPES, [*itertools.pairwise(bounds), (0, 133)], strict=True))
    return {group: stats(kind, sigmas[slice(*ranges[group])], use_area=True) for group, kind in IOU_TYPES.items()}


def by_crowdpose(truth: Path, results: Path) -> list[float]:
    """AP, AP50, AP75, AR, AR50, AR75, AP(E), AP(M), AP(H) of CrowdPose's own evaluator."""
    import numpy as np

    setattr(np, "float", float)  # noqa: B010 (it is gone, and its name is a lint)
    sys.modules.setdefault("crowdposetools._mask", types.ModuleType("crowdposetools._mask"))
    for name in ("iou", "merge", "frPyObjects", "encode", "decode", "area", "toBbox"):
        setattr(sys.modules["crowdposetools._mask"], name, None)
    from crowdposetools.coco import COCO
    from crowdposetools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(truth))
        judge = COCOeval(gt, gt.loadRes(str(results)), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(judge.stats[slot]) for slot in (0, 1, 2, 5, 6, 7, 8, 9, 10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crowdpose", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    told = parser.parse_args()
    sys.path.insert(0, str(told.crowdpose))
    expected: dict[str, Any] = {"digests": {kind: digest(kind) for kind in COUNTS}, "real": {}}
    with tempfile.TemporaryDirectory() as folder:
        truth, results = Path(folder) / "truth.json", Path(folder) / "results.json"
        for kind in COUNTS:
            expected[kind] = []
            for seed in SEEDS:
                for path, content in zip((truth, results), case(kind, seed), strict=True):
                    path.write_text(json.dumps(content))
                expected[kind].append(by_xtcocotools(kind, truth, results))
                if kind == "crowdpose":
                    expected.setdefault("crowdpose_official", []).append(by_crowdpose(truth, results))
    for kind, names in REAL.items():
        paths = [told.data / name for name in names]
        expected["real"][kind] = by_xtcocotools(kind, *paths)
        if kind == "crowdpose":
            expected["real"]["crowdpose_official"] = by_crowdpose(*paths)
    (HERE / "xtcocotools.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
