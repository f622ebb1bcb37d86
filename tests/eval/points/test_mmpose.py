"""PCK, AUC, EPE and NME by mmpose's rules, against numbers that mmpose's own functions gave (golden/make_mmpose.py)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kpdata
from kpdata.eval import evaluate
from kpdata.eval.points import PointsEvaluation, arrays, measures
from kpdata.eval.points.lengths import Length
from kpdata.eval.points.people import Points
from kpdata.skeleton import Skeleton

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
EXPECTED = json.loads((GOLDEN / "mmpose.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_mmpose", GOLDEN / "make_mmpose.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def points(truth: np.ndarray, found: np.ndarray, labelled: np.ndarray) -> Points:
    """People as `measure` takes them; the datasets behind them are not read."""
    n, k = labelled.shape
    bones = Skeleton(f"grid_{k}", tuple(f"k{i}" for i in range(k)))
    nothing: Any = None
    return Points(
        bones, np.ones(k, bool), truth, labelled, found, np.arange(n), np.arange(n), nothing, nothing, "row by row"
    )


def rates(values: np.ndarray) -> list[float]:
    return np.where(np.isnan(values), -1, values).tolist()


@pytest.mark.parametrize("seed", range(len(EXPECTED["cases"])))
def test_numbers_of_made_up_people(maker: Any, seed: int) -> None:
    """PCK to the last bit, where many distances fall on the threshold; EPE and NME to float32, in which mmpose adds."""
    truth, found, labelled, lengths = maker.case(seed)
    wanted, people = EXPECTED["cases"][seed], points(truth, found, labelled)
    for number, limit in enumerate(maker.THRESHOLDS):
        got = measures.measure(people, "pck", "mmpose", limit, Length("pair", "", lengths))
        values = got.values[f"PCK@{limit:g}"]
        assert rates(values) == wanted["pck"][number]
        mean = got.summary(f"PCK@{limit:g}")["mean"]
        assert mean == wanted["mean"][number] or (np.isnan(mean) and wanted["mean"][number] == 0)  # mmpose: 0 of nobody
    auc = measures.measure(people, "auc", "mmpose", None, Length("constant", "", np.full(len(truth), 30.0)))
    if not auc.measured.any():
        return  # mmpose gives 0 of nobody
    assert auc.summary("AUC")["mean"] == pytest.approx(wanted["auc"], abs=1e-14)
    epe = measures.measure(people, "epe", None, None, None)
    assert epe.summary("EPE")["total"] == pytest.approx(wanted["epe"], rel=1e-6)
    nme = measures.measure(people, "nme", None, None, Length("pair", "", lengths))
    if nme.measured.any():
        assert nme.summary("NME")["total"] == pytest.approx(wanted["nme"], rel=1e-6)


def test_distances_fall_on_thresholds(maker: Any) -> None:
    """The cases above would tell < from <=: hundreds of distances are a threshold exactly."""
    ties = 0
    for seed in maker.SEEDS:
        truth, found, labelled, lengths = maker.case(seed)
        far = np.hypot(*np.moveaxis(truth - found, 2, 0))
        for limit in maker.THRESHOLDS:
            ties += int((labelled & (far == limit * lengths[:, None]) & (far > 0)).sum())
    assert ties > 100


@pytest.mark.parametrize("name", list(EXPECTED["mpii"]))
def test_numbers_of_mpii(real_data: Path, name: str) -> None:
    """Both stored predictions: PCKh@0.5 and 0.1 of all 16 keypoints to the last bit, AUC, EPE and NME."""
    folder, wanted = real_data / "mpii", EXPECTED["mpii"][name]
    truth, found = kpdata.read(folder / "detections_our_format.mat"), kpdata.read(folder / "preds" / name)

    def scored(**options: Any) -> PointsEvaluation:
        result = evaluate(truth, found, **options)
        assert isinstance(result, PointsEvaluation)
        return result

    pckh = scored(metric="pckh", variant="mmpose")
    assert [rates(pckh.measured.values[key]) for key in ("PCKh@0.5", "PCKh@0.1")] == wanted["pck"]
    every = np.ones(16, bool)  # mmpose's mean keeps pelvis and thorax; its table of MPII does not print it
    values = pckh.measured.values["PCKh@0.5"]
    assert arrays.mean_and_total(values, pckh.measured.labelled, every)[0] == pytest.approx(
        wanted["mean"][0], abs=1e-14
    )
    assert scored(metric="auc", variant="mmpose").stats["AUC"] == pytest.approx(wanted["auc"], abs=1e-13)
    assert scored(metric="epe").stats["EPE"] == pytest.approx(wanted["epe"], rel=1e-6)
    nme = scored(metric="nme", normalize="head").measured.each["NME"]
    assert np.nanmean(nme) == pytest.approx(wanted["nme"], rel=1e-6)
