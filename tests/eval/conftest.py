"""pycocotools as the judge: the same plain COCO JSON goes to it and, as arrays, to kpdata."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kpdata.eval import (
    Curves,
    Detections,
    GroundTruth,
    Params,
    Part,
    detection_area,
    evaluate_arrays,
    summarize,
)
from kpdata.skeleton import Skeleton

COCO_SIGMAS = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


@dataclass
class Case:
    """One evaluation in the words of the file formats; `settings` are those of `Params`."""

    truth: dict[str, Any]
    results: list[dict[str, Any]]
    settings: dict[str, Any]
    image_ids: list[int] | None = None
    category_ids: list[int] | None = None

    def images(self) -> list[int]:
        return self.image_ids if self.image_ids is not None else [i["id"] for i in self.truth["images"]]

    def categories(self) -> list[int]:
        return self.category_ids if self.category_ids is not None else [c["id"] for c in self.truth["categories"]]


def run_pycocotools(case: Case) -> COCOeval:
    """The finished COCOeval. It cannot load an empty list of results: then it gets a file without annotations."""
    truth, results, params = copy.deepcopy(case.truth), copy.deepcopy(case.results), Params(**case.settings)
    gt, dt = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        gt.dataset, dt.dataset = truth, {**truth, "annotations": []}
        gt.createIndex()
        dt.createIndex()
        if results:
            dt = gt.loadRes(results)
        judge = COCOeval(gt, dt, "keypoints")
        judge.params.kpt_oks_sigmas = params.sigmas
        judge.params.iouThrs, judge.params.recThrs = params.iou_thresholds, params.recall_thresholds
        judge.params.areaRng, judge.params.areaRngLbl = params.area_ranges.tolist(), list(params.area_labels)
        judge.params.maxDets = list(case.settings.get("max_dets", (20,)))
        judge.params.imgIds, judge.params.catIds = case.images(), case.categories()
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def by_pycocotools(case: Case) -> tuple[Curves, list[float]]:
    judge = run_pycocotools(case)
    return Curves(judge.eval["precision"], judge.eval["recall"], judge.eval["scores"]), judge.stats.tolist()


def to_arrays(case: Case) -> tuple[GroundTruth, Detections, Params]:
    """Plain JSON to arrays, as a reader would: nothing is recomputed, the first result decides about the areas."""
    params = Params(**case.settings)
    k, rows, found = len(params.sigmas), case.truth["annotations"], case.results
    flat = np.array([a["keypoints"] for a in rows], dtype=float).reshape(-1, k, 3)
    gt = GroundTruth(
        *(np.array([a[name] for a in rows], dtype=np.int64) for name in ("image_id", "category_id", "id")),
        keypoints=flat[..., :2],
        labelled=flat[..., 2] > 0,
        num_keypoints=np.array([a["num_keypoints"] for a in rows], dtype=np.int64),
        bbox=np.array([a["bbox"] for a in rows], dtype=float).reshape(-1, 4),
        area=np.array([a["area"] for a in rows], dtype=float),
        iscrowd=np.array([a["iscrowd"] for a in rows], dtype=bool),
    )
    xy = np.array([r["keypoints"] for r in found], dtype=float).reshape(-1, k, 3)[..., :2]
    boxes = np.array([r["bbox"] for r in found], dtype=float) if found and found[0].get("bbox") else None
    dt = Detections(
        *(np.array([r[name] for r in found], dtype=np.int64) for name in ("image_id", "category_id")),
        keypoints=xy,
        score=np.array([r["score"] for r in found], dtype=float),
        area=detection_area(xy, boxes),
    )
    return gt, dt, params


def part_of(case: Case) -> Part:
    """The Part of a case, whose skeleton has no names worth knowing; keypoint scores are unknown."""
    truth, detections, params = to_arrays(case)
    images, categories = np.array(case.images()), np.unique(np.array(case.categories(), int))
    k = len(params.sigmas)
    return Part(
        skeleton=Skeleton("any", tuple(f"k{i}" for i in range(k))),
        mask=np.ones(k, bool),
        truth=truth,
        detections=detections,
        visibility=truth.labelled.astype(np.int8),
        keypoint_scores=np.full((len(detections.score), k), np.nan),
        truth_rows=np.arange(len(truth.area)),
        detection_rows=np.arange(len(detections.area)),
        image_ids=images,
        category_ids=categories,
        params=params,
    )


def by_kpdata(case: Case) -> tuple[Curves, list[float]]:
    gt, dt, params = to_arrays(case)
    curves = evaluate_arrays(gt, dt, np.array(case.images(), int), np.array(case.categories(), int), params)
    numbers = summarize(curves, params)
    return curves, [numbers[name] for name in NAMES]


def differences(case: Case) -> list[str]:
    """Names of what is not equal to the bit (NaN scores equal each other)."""
    (want, want_numbers), (got, got_numbers) = by_pycocotools(case), by_kpdata(case)
    unequal = [
        name
        for name in ("precision", "recall", "scores")
        if not np.array_equal(getattr(want, name), getattr(got, name), equal_nan=True)
    ]
    return unequal + [n for n, a, b in zip(NAMES, want_numbers, got_numbers, strict=True) if a != b]


SIZES = np.array([0.0, 500.0, 1024.0, 1500.5, 9216.0, 9216.000001, 20000.0])
STRANGE = np.array([np.nan, np.inf, -np.inf, 1e200, 3e154])


def random_case(seed: int, *, strange: bool = False, k: int | None = None) -> Case:
    """A small evaluation full of ties: crowds, unlabelled people, areas on the bounds, odd ids, shuffled rows.

    `strange` adds NaN and infinite keypoints, boxes, areas, scores and sigmas.
    """
    rng = np.random.default_rng(seed)
    k = k or int(rng.choice([1, 5, 14, 17, 17, 17, 133]))
    image_ids = (rng.choice(np.arange(-3, 40), int(rng.integers(1, 6)), replace=False)).tolist()
    category_ids = rng.choice(np.arange(0, 9), int(rng.choice([1, 1, 2, 4])), replace=False).tolist()
    settings = _random_settings(rng, k, strange)
    rows = _random_truth(rng, k, image_ids, category_ids, strange)
    results = _random_results(rng, rows, k, image_ids, category_ids, strange)
    truth = {
        "images": [{"id": i} for i in image_ids],
        "annotations": rows,
        "categories": [{"id": c} for c in category_ids],
    }
    case = Case(truth, results, settings)
    if rng.random() < 0.15:
        case.image_ids = rng.choice(image_ids, int(rng.integers(1, 4))).tolist()
    if rng.random() < 0.15:
        case.category_ids = [*category_ids[:1], 77]
    return case


def _random_settings(rng: np.random.Generator, k: int, strange: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"sigmas": rng.choice([0.026, 0.079, 0.107, 0.3], k)}
    if strange and rng.random() < 0.15:
        settings["sigmas"][rng.integers(k)] = rng.choice([0.0, np.nan, np.inf])
    if rng.random() < 0.25:
        settings["iou_thresholds"] = rng.permutation([0.0, 1e-13, 0.5, 0.75, 1.0, 0.3, -1.0])[: rng.integers(1, 7)]
    if rng.random() < 0.2:
        settings["recall_thresholds"] = rng.permutation([0.0, 0.1, 1 / 3, 0.5, 1.0, 1.1, -0.5])[: rng.integers(1, 7)]
    if rng.random() < 0.2:
        settings["area_ranges"] = [[0, 1e10], [500, 9216], [-10, 1024]]
        settings["area_labels"] = ["all", "large", "tiny"]
    if rng.random() < 0.3:
        settings["max_dets"] = tuple(rng.permutation([1, 3, 20, 25])[: rng.integers(1, 4)].tolist())
    return settings


def _random_truth(
    rng: np.random.Generator, k: int, image_ids: list[int], category_ids: list[int], strange: bool
) -> list[dict[str, Any]]:
    n = int(rng.choice([0, 2, 8, 20, 30], p=[0.04, 0.16, 0.3, 0.3, 0.2]))
    ids = rng.permutation(n) + int(rng.choice([0, 1, -3, 2**40]))
    if n and rng.random() < 0.2:
        ids = rng.choice(ids, n)
    rows = []
    base = rng.integers(0, 60, (3, k, 2))
    for i in range(n):
        xy = (base[rng.integers(3)] + rng.integers(-2, 3, (k, 2)) * rng.integers(0, 3)).astype(float)
        v = rng.choice(
            [0, 1, 2], k, p=[[0.1, 0.4, 0.5], [0.6, 0.2, 0.2], [1, 0, 0]][rng.choice(3, p=[0.5, 0.35, 0.15])]
        )
        flat = np.concatenate([xy, v[:, None]], axis=1)
        bbox = rng.integers(0, 60, 4).astype(float)
        area = float(rng.choice(SIZES))
        if strange and rng.random() < 0.2:
            flat[rng.integers(k), rng.integers(2)] = rng.choice(STRANGE)
        if strange and rng.random() < 0.1:
            bbox[rng.integers(4)] = rng.choice(STRANGE)
        if strange and rng.random() < 0.1:
            area = float(rng.choice([np.nan, np.inf, -5.0, -float(np.spacing(1))]))
        rows.append(
            {
                "id": int(ids[i]),
                "image_id": int(rng.choice([*image_ids, *image_ids, 99])),
                "category_id": int(rng.choice([*category_ids, *category_ids, 66])),
                "keypoints": flat.ravel().tolist(),
                "num_keypoints": int((v > 0).sum()) if rng.random() < 0.9 else int(rng.integers(0, 3)),
                "bbox": bbox.tolist(),
                "area": area,
                "iscrowd": int(rng.random() < 0.15),
            }
        )
    return rows


def _random_results(
    rng: np.random.Generator,
    rows: list[dict[str, Any]],
    k: int,
    image_ids: list[int],
    category_ids: list[int],
    strange: bool,
) -> list[dict[str, Any]]:
    m = int(rng.choice([0, 1, 4, 20, 60], p=[0.04, 0.06, 0.2, 0.4, 0.3]))
    boxes, noise = rng.random() < 0.3, rng.choice([0.0, 1.0, 3.0])
    results = []
    for _ in range(m):
        image_id, category_id = int(rng.choice(image_ids)), int(rng.choice([*category_ids, *category_ids, 66]))
        flat = np.concatenate([rng.integers(0, 60, (k, 2)), rng.random((k, 1))], axis=1)
        near = [a for a in rows if a["image_id"] == image_id and a["category_id"] == category_id]
        if near and rng.random() < 0.8:
            flat[:, :2] = np.reshape(near[rng.integers(len(near))]["keypoints"], (k, 3))[:, :2]
            flat[:, :2] += np.rint(rng.normal(0, 1, (k, 2)) * noise) + rng.normal(0, noise, (k, 2)) * (
                rng.random() < 0.5
            )
        score = float(rng.choice([0.1, 0.5, 0.5, 0.9, -0.0, 0.0, -2.0])) if rng.random() < 0.7 else float(rng.random())
        if strange and rng.random() < 0.15:
            flat[rng.integers(k), rng.integers(2)] = rng.choice(STRANGE)
        if strange and rng.random() < 0.1:
            score = float(rng.choice([np.nan, np.inf, -np.inf]))
        row = {"image_id": image_id, "category_id": category_id, "keypoints": flat.ravel().tolist(), "score": score}
        results.append(row | ({"bbox": rng.choice([0.0, 10.0, 32.0, 96.0], 4).tolist()} if boxes else {}))
    return results


def read_case(truth: Path, results: Path) -> Case:
    """The 17 COCO keypoints with the constants of `COCOeval`."""
    return Case(json.loads(truth.read_text()), json.loads(results.read_text()), {"sigmas": COCO_SIGMAS})


@pytest.fixture(scope="session")
def coco() -> SimpleNamespace:
    """pycocotools, kpdata, and cases to give to both."""
    return SimpleNamespace(
        Case=Case,
        judge=run_pycocotools,
        arrays=to_arrays,
        part=part_of,
        by_pycocotools=by_pycocotools,
        by_kpdata=by_kpdata,
        differences=differences,
        random_case=random_case,
        read_case=read_case,
        sigmas=COCO_SIGMAS,
        names=NAMES,
    )
