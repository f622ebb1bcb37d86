"""Published tables of MPII and LSP, from the predictions that they were made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from kpdata import schema
from kpdata.converters import lsp, mpii
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.points import PointsEvaluation, evaluate_points
from kpdata.skeleton import load

LSP_ORDER = ["rank", "rkne", "rhip", "lhip", "lkne", "lank", "neck", "head", "rwri", "relb", "rsho", "lsho", "lelb",
             "lwri"]  # fmt: skip
STICKS = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (12, 13)]  # keypoints2sticks.m, 0-based


def percent(result: PointsEvaluation, name: str) -> list[float]:
    row = result.rows[name]
    return [round(100 * row[key], 2) for key in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")]


def moved(dataset: Dataset, xy: np.ndarray) -> Dataset:
    """The same people with other coordinates."""
    column = dataset.persons.schema.get_field_index("keypoints")
    rows = schema.rows(np.ascontiguousarray(xy).reshape(len(xy), -1))
    return replace(dataset, persons=dataset.persons.set_column(column, "keypoints", rows))


@pytest.fixture(scope="module")
def mpii_pair(real_data: Path) -> tuple[Dataset, Dataset]:
    folder = real_data / "mpii"
    return mpii.read(folder / "detections_our_format.mat"), mpii.read(folder / "preds" / "bearpaw-hg_s8_b1.mat")


def test_pckh_is_the_published_table(mpii_pair: tuple[Dataset, Dataset]) -> None:
    """bearpaw/pytorch-pose's table of hg_s8_b1 to its printed decimals, its mean, and HRNet's count-weighted one."""
    result = evaluate_points(*mpii_pair)
    assert percent(result, "PCKh@0.5") == [96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73]
    assert round(100 * result.stats["mean"], 2) == 88.64
    assert round(100 * result.stats["PCKh@0.5"], 2) == round(100 * result.stats["total"], 2) == 89.09
    assert result.facts["left_out"] == ["pelvis", "thorax"] and result.facts["comparison"] == "<="
    assert result.lines()[1].split() == [
        "PCKh@0.5", "[%]", "96.79", "95.19", "90.08", "85.32", "87.48", "84.26", "80.73", "88.64", "89.09",
    ]  # fmt: skip


def hrnet(real_data: Path) -> dict[str, float]:
    """Mean and Mean@0.1 as lib/dataset/mpii.py prints them: jnt_missing, head boxes and threshold 11 of 0, 0.01, …"""
    gt = loadmat(real_data / "mpii" / "detections_our_format.mat")
    found = loadmat(real_data / "mpii" / "preds" / "bearpaw-hg_s8_b1.mat")["preds"]
    truth, seen = gt["pos_gt_src"].transpose(2, 0, 1), 1 - gt["jnt_missing"].T
    order = [[str(cell[0]) for cell in gt["dataset_joints"].ravel()].index(name) for name in LSP_ORDER]
    mpii_ids = [*range(6), 8, 9, *range(10, 16)]
    size = 0.6 * np.linalg.norm(gt["headboxes_src"][1] - gt["headboxes_src"][0], axis=0)
    found = found if found.shape[-1] == 2 else found.transpose(2, 1, 0)
    far = np.linalg.norm(truth[:, order] - found[:, mpii_ids], axis=2) / size[:, None]
    seen = seen[:, order]
    upper = [8, 9, 10, 11, 12, 13]
    return {
        "mean": 100 * ((far <= 0.5) * seen).sum() / seen.sum(),
        "at 11": 100 * ((far <= np.arange(0, 0.51, 0.01)[11]) * seen).sum() / seen.sum(),
        "at 10": 100 * ((far <= 0.1) * seen).sum() / seen.sum(),
        "upper body": 100 * ((far <= 0.5) * seen)[:, upper].sum() / seen[:, upper].sum(),
        "Head": 100 * np.mean([((far <= 0.5) * seen)[:, k].sum() / seen[:, k].sum() for k in (6, 7)]),
        "auc": float(np.mean([  # the trapezoid of 51 points: half of the ends
            weight * ((far <= 0.01 * t) * seen).sum() / seen.sum()
            for t, weight in enumerate([0.5, *[1.0] * 49, 0.5])
        ]) * 51 / 50),
    }  # fmt: skip


def test_three_evaluations_of_mpii(mpii_pair: tuple[Dataset, Dataset], real_data: Path) -> None:
    """HRNet's 0.1 is at 0.11, MPII's Head has the neck and its table an upper body; each note says the other's."""
    expected = hrnet(real_data)
    of = {name: evaluate_points(*mpii_pair, variant=name) for name in ("hrnet", "official", "mmpose")}
    stats = {name: {key: 100 * value for key, value in result.stats.items()} for name, result in of.items()}
    assert {round(numbers["PCKh@0.5"], 9) for numbers in stats.values()} == {round(expected["mean"], 9)}
    assert stats["hrnet"]["PCKh@0.11"] == pytest.approx(expected["at 11"], abs=1e-9)
    for name in of:
        assert stats[name]["PCKh@0.1"] == pytest.approx(expected["at 10"], abs=1e-9)
    assert stats["official"]["Head"] == pytest.approx(expected["Head"], abs=1e-9)
    assert stats["official"]["UBody"] == pytest.approx(expected["upper body"], abs=1e-9)
    assert "UBody" not in stats["hrnet"] and "PCKh@0.11" not in stats["official"]
    assert any("'Mean@0.1' is measured at 0.11" in note for note in of["hrnet"].notes)
    assert any(f"with the upper neck: {expected['Head']:.2f} %" in note for note in of["hrnet"].notes)
    assert any("head top alone: 96.79 %" in note for note in of["official"].notes)
    assert evaluate_points(*mpii_pair, metric="auc").stats["AUC"] == pytest.approx(expected["auc"], abs=1e-9)


def test_pck_and_pcp_of_lsp_are_published(real_data: Path) -> None:
    """Yang et al. (CVPR 2016), observer-centric: PCK@0.2 mean 81.5; PCP by eval_pcp.m's loop, the mean 81.1."""
    gt = lsp.read(real_data / "lsp" / "lsp-joints-OC.mat", centric="observer")
    predictions = lsp.read(real_data / "lsp" / "pred_keypoints_lsp_oc.mat")
    result = evaluate_points(gt, predictions, metric="pck")
    assert round(100 * result.stats["PCK@0.2"], 1) == 81.5
    assert result.facts["normalizer"]["name"] == "torso" and result.facts["counts"]["people"] == 1000
    assert any("those of the split 'test'" in note for note in result.notes)

    truth = loadmat(real_data / "lsp" / "lsp-joints-OC.mat")["joints"][:2, :, 1000:]
    found = loadmat(real_data / "lsp" / "pred_keypoints_lsp_oc.mat")["pred"]
    right = np.zeros((10, 1000), bool)
    for n in range(1000):
        ends = [[(xy[:, a, n], xy[:, b, n]) for a, b in STICKS] for xy in (truth, found)]
        for stick, xy in zip(ends, (truth, found), strict=True):
            stick.append((xy[:, 2:4, n].mean(1), xy[:, 8:10, n].mean(1)))
        for stick, (true, predicted) in enumerate(zip(*ends, strict=True)):
            length = math.dist(*true)
            right[stick, n] = all(math.dist(*end) <= 0.5 * length for end in zip(true, predicted, strict=True))
    parts = evaluate_points(gt, predictions, metric="pcp")
    names = ["right_lower_leg", "right_upper_leg", "left_upper_leg", "left_lower_leg", "right_lower_arm",
             "right_upper_arm", "left_upper_arm", "left_lower_arm", "head", "torso"]  # fmt: skip
    rates = {row["limb"]: row["PCP@0.5"] for row in parts.per_keypoint().to_pylist()}
    assert [rates[name] for name in names] == right.mean(1).tolist()
    assert parts.stats["PCP@0.5"] == pytest.approx(right.mean()) and round(100 * right.mean(), 1) == 81.1


def test_wrong_annotations_are_told(mpii_pair: tuple[Dataset, Dataset], real_data: Path) -> None:
    """Predictions of other people, and left and right exchanged, are numbers without meaning: a note says so."""
    gt, predictions = mpii_pair
    assert not any("median error" in note for note in evaluate_points(gt, predictions).notes)
    order = load("mpii_16").flip_index()
    flipped = moved(predictions, predictions.keypoints[:, order])
    assert any("left and right look swapped" in note for note in evaluate_points(gt, flipped).notes)
    shuffled = moved(predictions, predictions.keypoints[::-1])
    assert any("of these people (paired by the order" in note for note in evaluate_points(gt, shuffled).notes)
    half = gt.select(persons=np.arange(100))
    with pytest.raises(EvaluationError, match=r"2,958 predictions known by their order alone.*100 people"):
        evaluate_points(half, predictions)


def test_keypoints_that_stay_in_one_place_are_told(mpii_pair: tuple[Dataset, Dataset], real_data: Path) -> None:
    """Tompson's network has no pelvis and no thorax: its file holds the crop's corner for both, which ruins EPE; and
    0, 0 for everybody is found too."""
    tompson = mpii.read(real_data / "mpii" / "preds" / "tompson.h5")
    notes = evaluate_points(mpii_pair[0], tompson, metric="epe").notes
    assert any(note.startswith("pelvis and thorax are predicted at one place, each time") for note in notes)
    xy = mpii_pair[1].keypoints.copy()
    xy[:, 3] = 0
    notes = evaluate_points(mpii_pair[0], moved(mpii_pair[1], xy)).notes
    assert any(note.startswith("all predictions of left_hip lie at one place") for note in notes)
    assert not any("at one place" in note for note in evaluate_points(*mpii_pair).notes)
