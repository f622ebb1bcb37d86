"""PCKh, PCK, PCP, AUC, EPE and NME of datasets: numbers by hand, who is paired with whom, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema, synth
from kpdata.dataset import Dataset, build
from kpdata.errors import EvaluationError
from kpdata.eval.points import evaluate_points
from kpdata.eval.points.people import pair_people
from kpdata.skeleton import Skeleton, load
from kpdata.synth.predict import simulate_predictions


def people(
    xy: Any,
    images: list[int] | None = None,
    *,
    skeleton: str | Skeleton = "mpii_16",
    visibility: Any = None,
    provenance: dict[str, Any] | None = None,
    splits: list[str] | None = None,
    **columns: Any,
) -> Dataset:
    """A dataset of these people; columns of the persons table as plain lists."""
    bones = load(skeleton) if isinstance(skeleton, str) else skeleton
    xy = np.asarray(xy, float).reshape(-1, len(bones), 2)
    images = list(range(1, len(xy) + 1)) if images is None else images
    listed = list(dict.fromkeys(images)) or [1]
    flags = np.full(xy.shape[:2], 2, np.int8) if visibility is None else np.asarray(visibility, np.int8)
    given = {name: pa.array(values, schema.PERSONS.field(name).type) for name, values in columns.items()}
    return build(
        {"image_id": schema.fixed(listed, pa.int64()), "split": schema.strings(splits or [None] * len(listed))},
        {
            "image_id": schema.fixed(images, pa.int64()),
            "annotation_id": schema.fixed(np.arange(1, len(xy) + 1), pa.int64()),
            "skeleton": schema.constant(bones.name, len(xy)),
            "keypoints": schema.rows(xy.reshape(len(xy), -1)),
            "visibility": schema.rows(flags, kind=pa.int8()),
            **given,
        },
        num_images=len(listed),
        num_persons=len(xy),
        name="made",
        provenance=provenance or {},
        skeletons=[bones],
    )


def grid(n: int = 6, k: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (n, k, 2)).astype(float)


def heads(n: int, size: float = 50.0) -> list[list[float]]:
    """Head boxes whose PCKh length is `size` px: 0.6 × the diagonal."""
    side = size / 0.6 / math.sqrt(2)
    return [[0.0, 0.0, side, side]] * n


# ------------------------------------------------------------------------------------------------------- small examples


def test_numbers_by_hand() -> None:
    """One keypoint at 10 px of a head of 50, one at 30, one not predicted, one not labelled, one exact."""
    truth = np.zeros((1, 16, 2))
    found = truth.copy()
    found[0, 0, 0], found[0, 1, 1], found[0, 2] = 10, 30, np.nan
    flags = np.zeros((1, 16))
    flags[0, [0, 1, 2, 4]] = 2
    gt = people(truth, visibility=flags, head_bbox=heads(1))
    predictions = people(found, provenance={"join": "order"})
    result = evaluate_points(gt, predictions, threshold=0.25)
    assert result.stats["PCKh@0.25"] == 2 / 4 and result.stats["missing"] == 1 / 4
    assert evaluate_points(gt, predictions, threshold=0.6).stats["PCKh@0.6"] == 3 / 4
    epe = evaluate_points(gt, predictions, metric="epe")
    assert epe.stats["EPE"] == pytest.approx(40 / 3) and epe.stats["EPE median"] == 10
    assert any("1 of 4 labelled keypoints have no prediction: in no mean" in note for note in epe.notes)
    nme = evaluate_points(gt, predictions, metric="nme", normalize="20")
    assert nme.stats["NME"] == pytest.approx(40 / 3 / 20) and nme.facts["normalizer"]["words"] == "20 px"
    rows = {row["keypoint"]: row for row in result.per_keypoint().to_pylist()}
    assert rows["right_hip"]["missing"] == 1 and rows["right_hip"]["PCKh@0.25"] == 0.0
    assert rows["pelvis"] == {"keypoint": "pelvis", "labelled": 0, "missing": 0, "in_mean": False, "PCKh@0.25": None}
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["stats"]["Wrist"] is None
    assert "–" in result.lines()[1]


def test_mmpose_counts_below_the_threshold_and_averages_keypoints() -> None:
    """A keypoint exactly at the threshold is right for MPII and LSP and wrong for mmpose (keypoint_eval.py)."""
    truth = np.zeros((2, 16, 2))
    found = truth.copy()
    found[:, 0, 0] = 25
    flags = np.full((2, 16), 2)
    flags[1, 1:] = 0
    gt = people(truth, visibility=flags, head_bbox=heads(2), bbox=[[0, 0, 125.0, 80.0]] * 2)
    predictions = people(found, provenance={"join": "order"})
    ours = evaluate_points(gt, predictions, metric="pck", normalize="head", threshold=0.5)
    theirs = evaluate_points(gt, predictions, metric="pck", normalize=50, threshold=0.5, variant="mmpose")
    assert ours.stats["PCK@0.5"] == 1.0
    assert theirs.stats["PCK@0.5"] == theirs.stats["mean"] == 15 / 16, "unweighted, over keypoints"
    assert theirs.stats["total"] == 15 / 17
    by_box = evaluate_points(gt, predictions, metric="pck", variant="mmpose")
    assert by_box.facts["normalizer"]["name"] == "bbox" and next(iter(by_box.stats)) == "PCK@0.05"
    # keypoint_auc: 30 px, the mean over 0, 1/20, … 19/20 of the share below; 25 px is below 0.85, 0.9, 0.95
    auc = evaluate_points(gt, predictions, metric="auc", variant="mmpose")
    ankle = auc.per_keypoint().to_pylist()[0]["AUC"]
    assert ankle == pytest.approx(sum(i / 20 > 25 / 30 for i in range(20)) / 20)
    assert auc.stats["AUC"] == pytest.approx((ankle + 15 * 19 / 20) / 16)


@pytest.mark.parametrize(
    ("normalize", "px"),
    [
        ("bbox", 80.0), ("bbox_area", 40.0), ("extent", 30.0), (("right_ankle", "left_ankle"), 30.0),
        ("right_ankle:left_ankle", 30.0), (12, 12.0), ("12", 12.0), ("head", 50.0),
    ],
)  # fmt: skip
def test_every_length_is_the_one_named(normalize: Any, px: float) -> None:
    """Everything 6 px off: NME is 6 over the length."""
    truth = np.zeros((3, 16, 2))
    truth[:, 5, 0] = 30
    gt = people(truth, bbox=[[0, 0, 20.0, 80.0]] * 3, head_bbox=heads(3))
    predictions = people(truth + np.array([6.0, 0]), provenance={"join": "order"})
    result = evaluate_points(gt, predictions, metric="nme", normalize=normalize)
    assert [result.stats["NME"], result.stats["NME median"]] == pytest.approx([6 / px, 6 / px])


def test_people_without_a_length_are_left_out_and_those_of_none_are_misses() -> None:
    """No head box: not measured. A head box of no size: a miss, as d / 0 <= t is in MATLAB; mmpose leaves it out."""
    truth = grid(3)
    gt = people(truth, head_bbox=[heads(1)[0], None, [5.0, 5, 0, 0]])
    predictions = people(truth, provenance={"join": "order"})
    result = evaluate_points(gt, predictions)
    assert result.stats["PCKh@0.5"] == 0.5 and result.facts["counts"]["people without a length"] == 1
    assert any("1 person is left out, without a length" in note for note in result.notes)
    assert any("length of 0 px" in note and "misses" in note for note in result.notes)
    assert evaluate_points(gt, predictions, variant="mmpose").stats["PCKh@0.5"] == 1.0
    nme = evaluate_points(gt, predictions, metric="nme")
    assert nme.stats["NME"] == 0.0 and nme.facts["counts"]["keypoints labelled"] == 14


# -------------------------------------------------------------------------------------------------------------- pairing


def test_pairing_by_annotation_id_and_by_person_index() -> None:
    """Shuffled rows find their people where both sides say who they are."""
    truth, images = grid(6), [1, 1, 2, 2, 3, 3]
    order = np.array([3, 0, 5, 1, 4, 2])
    gt = people(truth, images, head_bbox=heads(6), annotation_id=[10, 11, 12, 13, 14, 15])
    shuffled = [images[row] for row in order]
    by_id = people(truth[order], shuffled, annotation_id=[10 + row for row in order.tolist()])
    result = evaluate_points(gt, by_id)
    assert result.facts["pairing"] == "annotation id" and result.stats["PCKh@0.5"] == 1.0
    assert result.points.prediction_rows.tolist() == np.argsort(order).tolist()

    index = [0, 1] * 3
    gt = people(truth, images, head_bbox=heads(6), person_index=index)
    by_index = people(truth[order], shuffled, person_index=[index[row] for row in order], score=[0.5] * 6)
    result = evaluate_points(gt, by_index)
    assert result.facts["pairing"] == "image and person_index" and result.stats["PCKh@0.5"] == 1.0

    same = evaluate_points(gt, people(truth, images, provenance={"ids": "assigned"}))
    assert same.facts["pairing"].startswith("row by row") and same.stats["PCKh@0.5"] == 1.0


def test_ids_that_a_reader_gave_pair_nobody() -> None:
    """Results files have no ids of people: numbers from 1 on, equal by chance, decide nothing."""
    truth, images = grid(4), [1, 1, 2, 2]
    gt = people(truth, images, head_bbox=heads(4))
    swapped = people(truth[[1, 0, 3, 2]], images, score=[0.5] * 4, provenance={"source_format": "coco_results"})
    result = evaluate_points(gt, swapped)
    assert result.facts["pairing"].startswith("matched at OKS 0.1")
    assert result.points.prediction_rows.tolist() == [1, 0, 3, 2]


def test_images_of_one_person_take_the_best_score() -> None:
    """The best score, the first of equals, wherever it lies; NaN last; an image without any is a miss."""
    truth = np.zeros((4, 14, 2))
    gt = people(truth, [1, 2, 3, 4], skeleton="lsp_14", bbox=[[0, 0, 100.0, 100]] * 4)
    rows = [(1, 0.2, 3), (1, 0.9, 90), (2, 0.5, 5), (2, 0.5, 90), (3, math.nan, 90), (3, 0.1, 7)]
    found = np.zeros((6, 14, 2))
    found[..., 0] = np.array([x for _, _, x in rows])[:, None]
    predictions = people(found, [i for i, _, _ in rows], skeleton="lsp_14", score=[s for _, s, _ in rows],
                         provenance={"source_format": "coco_results"})  # fmt: skip
    result = evaluate_points(gt, predictions, metric="pck", normalize="bbox", threshold=0.1)
    assert result.points.prediction_rows.tolist() == [1, 2, 5, -1]
    assert result.stats["PCK@0.1"] == 0.5 and result.stats["missing"] == 0.25
    counts = result.facts["counts"]
    assert (counts["people without a prediction"], counts["predictions of nobody"]) == (1, 3)
    assert any("1 of 4 people have no prediction" in note for note in result.notes)
    assert any("3 predictions belong to nobody" in note for note in result.notes)


@pytest.mark.parametrize("skeleton", ["mpii_16", "coco_17"])
def test_crowded_images_are_paired_as_the_truth_says(skeleton: str) -> None:
    """Simulated predictions of up to five people an image: whom they were made of is whom they are paired with."""
    gt = synth.synthesize(100, seed=3, skeleton=skeleton)
    predictions, made = simulate_predictions(gt, seed=4)
    points = pair_people(gt, predictions, [])
    ids = schema.values(gt.persons["annotation_id"])
    source = schema.values(made["gt_annotation_id"], missing=-1)
    paired = points.prediction_rows >= 0
    right = source[points.prediction_rows[paired]] == ids[points.truth_rows[paired]]
    assert right.mean() > 0.98
    findable = np.isin(ids, source) & points.labelled.any(1)
    assert paired[findable].mean() > 0.98
    assert len(np.unique(points.prediction_rows[paired])) == paired.sum(), "a prediction serves one person"
    median = evaluate_points(gt, predictions, metric="epe").stats["EPE median"]
    known = np.linalg.norm(gt.keypoints[np.searchsorted(ids, source[source >= 0])] -
                           predictions.keypoints[source >= 0], axis=2)  # fmt: skip
    labelled = gt.visibility[np.searchsorted(ids, source[source >= 0])] > 0
    assert median == pytest.approx(np.median(known[labelled]), rel=0.05)


def test_order_of_rows_changes_nothing_where_predictions_are_matched() -> None:
    """People and predictions in any order: the same numbers to the bit of a mean."""
    gt = synth.synthesize(40, seed=1, skeleton="mpii_16")
    predictions, _ = simulate_predictions(gt, seed=2)
    before = evaluate_points(gt, predictions)
    rng = np.random.default_rng(5)
    turned = Dataset(
        gt.images, schema.take(gt.persons, rng.permutation(len(gt))), gt.skeletons, gt.datasets
    ), Dataset(
        predictions.images, schema.take(predictions.persons, rng.permutation(len(predictions))),
        predictions.skeletons, predictions.datasets,
    )  # fmt: skip
    after = evaluate_points(*turned)
    assert after.stats == pytest.approx(before.stats, nan_ok=True)


def test_unlisted_images_are_refused_or_ignored() -> None:
    """As for every other metric: refused by default, and left out where asked for."""
    truth = grid(2)
    gt = people(truth, head_bbox=heads(2))
    predictions = people(np.concatenate([truth, truth[:1]]), [1, 2, 99], score=[0.5, 0.5, 0.9])
    with pytest.raises(EvaluationError, match="99"):
        evaluate_points(gt, predictions)
    result = evaluate_points(gt, predictions, unknown_images="ignore")
    assert result.stats["PCKh@0.5"] == 1.0 and result.facts["counts"]["predictions"] == 2


def test_crowds_and_unlabelled_people_are_nobody() -> None:
    """A region marked as a crowd counts for nothing, though it has keypoints."""
    truth = grid(2)
    gt = people(truth, head_bbox=heads(2), iscrowd=[False, True])
    result = evaluate_points(gt, people(truth[:1] + 1000, [1], provenance={"join": "x"}))
    assert result.facts["counts"]["people scored"] == 1 and result.stats["PCKh@0.5"] == 0.0

    together = people(grid(2), [1, 1], head_bbox=heads(2), iscrowd=[False, True], bbox=[[0, 0, 200.0, 200]] * 2)
    on_the_crowd = people(grid(2)[[1, 1]], [1, 1], score=[0.9, 0.8], provenance={"source_format": "coco_results"})
    result = evaluate_points(together, on_the_crowd)
    assert result.points.prediction_rows[1] == -1 and result.facts["counts"]["people scored"] == 1


def test_absent_predictions_are_misses_whatever_their_coordinate() -> None:
    """Visibility alone says that a keypoint was not predicted: its coordinate, though perfect, is a miss."""
    truth = grid(2)
    flags = np.full((2, 16), 3)
    flags[:, 9] = 0
    predictions = people(truth, visibility=flags, provenance={"join": "order"})
    result = evaluate_points(people(truth, head_bbox=heads(2)), predictions)
    assert result.stats["Head"] == 0.0 and result.stats["Wrist"] == 1.0


# ----------------------------------------------------------------------------------------------------- other skeletons


def test_skeletons_of_your_own() -> None:
    """Keypoints without known landmarks: no groups, limbs from the edges, and a length by any pair."""
    bones = Skeleton("horse_3", ("ear", "withers", "tail"), edges=((0, 1), (1, 2)))
    truth = np.array([[[0.0, 0], [10, 0], [30, 0]]])
    gt = people(truth, skeleton=bones)
    predictions = people(truth + np.array([4.0, 0]), skeleton=bones, provenance={"join": "order"})
    result = evaluate_points(gt, predictions, metric="pck", normalize=("ear", "withers"), threshold=0.5)
    assert list(result.stats) == ["PCK@0.5", "mean", "total", "missing"] and result.stats["PCK@0.5"] == 1.0
    assert any("distance from ear to withers: comparable only" in note for note in result.notes)
    parts = evaluate_points(gt, predictions, metric="pcp", threshold=0.3)
    assert parts.per_keypoint()["limb"].to_pylist() == ["ear–withers", "withers–tail"]
    assert parts.per_keypoint()["PCP@0.3"].to_pylist() == [0.0, 1.0]
    named = evaluate_points(gt, predictions, metric="pck", normalize="a:c",
                            skeleton=Skeleton("cow_3", ("a", "b", "c")))  # fmt: skip
    assert named.stats["PCK@0.2"] == 1.0 and named.per_keypoint()["keypoint"].to_pylist() == ["a", "b", "c"]


def test_pckh_of_other_skeletons_is_not_mpiis() -> None:
    """Head boxes make PCKh possible anywhere, and a note says that it is not the leaderboard's."""
    truth = grid(2, 17)
    gt = people(truth, skeleton="posetrack18_17", head_bbox=heads(2))
    result = evaluate_points(gt, people(truth, skeleton="posetrack18_17", provenance={"join": "order"}))
    assert any("not comparable with MPII's numbers" in note for note in result.notes)
    fewer = evaluate_points(people(grid(2), head_bbox=heads(2)), people(grid(2), provenance={"join": "order"}))
    assert any("2 people: not comparable with published PCKh" in note for note in fewer.notes)


def test_a_remap_that_lacks_keypoints_leaves_them_out() -> None:
    """What the predictions cannot have is nobody's miss."""
    truth = grid(2)
    mask = [True] * 9 + [False] + [True] * 6
    predictions = people(truth, provenance={"join": "order", "keypoint_mask": {"mpii_16": mask}})
    result = evaluate_points(people(truth, head_bbox=heads(2)), predictions)
    assert result.stats["total"] == 1.0 and math.isnan(result.stats["Head"])
    assert "the predictions' own skeleton has no head_top: left out of the score" in result.notes


def test_rules_are_named_where_a_benchmark_has_the_number() -> None:
    """Another skeleton, metric, length, threshold or range than the benchmark's is nobody's official number."""
    boxes = [[0.0, 0, 100, 100]] * 2

    def rules(skeleton: str, k: int, **options: Any) -> str | None:
        gt = people(grid(2, k), skeleton=skeleton, head_bbox=heads(2), bbox=boxes)
        found = people(grid(2, k), skeleton=skeleton, provenance={"join": "order"})
        return evaluate_points(gt, found, **options).rules

    assert rules("mpii_16", 16) == rules("mpii_16", 16, threshold=0.5) == "hrnet"
    assert rules("mpii_16", 16, variant="official") == rules("mpii_16", 16, metric="auc") == "official"
    assert rules("lsp_14", 14, metric="pck") == rules("jhmdb_15", 15, metric="pck") == "official"
    assert rules("lsp_14", 14, metric="auc", normalize="torso") == "official"
    assert rules("coco_17", 17, metric="pck", variant="mmpose") == "mmpose"
    assert rules("coco_17", 17, metric="pck") is None and rules("coco_17", 17, metric="auc") is None
    assert rules("posetrack18_17", 17) is None and rules("mpii_16", 16, threshold=0.3) is None
    assert rules("lsp_14", 14, metric="pck", normalize=30) is None
    assert rules("lsp_14", 14, metric="auc", normalize="torso", threshold=0.5) is None
    assert rules("mpii_16", 16, metric="epe") is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "from 0 to 0.5 of the length"),
        ({"normalize": "torso"}, "from 0 to 0.2 of the length"),
        ({"normalize": "torso", "threshold": 0.5}, "from 0 to 0.5 of the length"),
        ({"normalize": 30}, "from 0 to 30 px"),
        ({"normalize": 30, "threshold": 0.5}, "from 0 to 15 px"),
        ({"variant": "mmpose"}, "from 0 to 30 px"),
    ],
)
def test_an_auc_says_its_range(options: dict[str, Any], words: str) -> None:
    """The end of the range in lengths, or in pixels; mmpose's last threshold lies below its end."""
    gt = people(grid(2), head_bbox=heads(2))
    found = people(grid(2), provenance={"join": "order"})
    result = evaluate_points(gt, found, metric="auc", **options)
    assert result.auc_range == words
    told = [note for note in result.notes if "over the same range" in note]
    assert len(told) == (1 if options else 0), "MPII's own is by the head, to 0.5"
    assert all(words in note for note in told)
    assert evaluate_points(gt, found).auc_range is None


def test_a_page_says_range_and_rules(tmp_path: Path) -> None:
    """The row of the AUC's comparison ends in its range, and rules are named only where they are a benchmark's."""
    gt = people(grid(2), head_bbox=heads(2))
    found = people(grid(2), provenance={"join": "order"})
    for threshold, words, official in (
        (None, "from 0 to 0.5 of the length", True),
        (0.2, "from 0 to 0.2 of the", False),
    ):
        evaluate_points(gt, found, metric="auc", threshold=threshold).to_html(tmp_path / f"{threshold}.html")
        text = (tmp_path / f"{threshold}.html").read_text(encoding="utf-8")
        assert "threshold, " + words in text
        assert ("official" in text) is official


@pytest.mark.parametrize("metric", ["pck", "pcp", "auc", "epe", "nme"])
def test_lsp_has_two_versions_of_left_and_right(metric: str) -> None:
    """Every metric of LSP says so, and one by another length than LSP's says that too."""
    gt = people(grid(2, 14), skeleton="lsp_14")
    found = people(grid(2, 14), skeleton="lsp_14", provenance={"join": "order"})
    length = {} if metric in ("pcp", "epe") else {"normalize": 30}
    notes = evaluate_points(gt, found, metric=metric, **length).notes
    assert any("the two versions of LSP are not comparable" in note for note in notes)
    assert any("by 30 px" in note and "same length" in note for note in notes) is bool(length)
    if metric in ("pck", "auc"):
        own = evaluate_points(gt, found, metric=metric).notes
        assert not any("same length" in note for note in own), "the torso is LSP's own"


def test_predictions_of_other_categories_are_left_out_and_counted() -> None:
    """Where one of several skeletons is chosen, the others' predictions count for nothing, whatever their keypoints."""
    one = people(grid(3), [1, 2, 3], head_bbox=heads(3), category_id=[1] * 3)
    horse = Skeleton("horse_3", ("ear", "withers", "tail"))
    two = people(grid(2, 3), [1, 2], skeleton=horse, category_id=[2] * 2)
    gt = replace(one, persons=pa.concat_tables([one.persons, two.persons]), skeletons=one.skeletons | two.skeletons)
    results = {"score": [0.5] * 3, "provenance": {"source_format": "coco_results"}}
    right = people(grid(3), [1, 2, 3], category_id=[1] * 3, **results)
    for other in (horse, "mpii_16"):  # of as many keypoints as its own, and of as many as the chosen
        width = 16 if other == "mpii_16" else 3
        wrong = people(grid(2, width), [1, 2], skeleton=other, category_id=[2] * 2, score=[0.9] * 2)
        both = replace(right, persons=pa.concat_tables([wrong.persons, right.persons]),
                       skeletons=wrong.skeletons | right.skeletons)  # fmt: skip
        result = evaluate_points(gt, both, skeleton="mpii_16")
        assert result.stats["PCKh@0.5"] == 1.0 and result.facts["counts"]["predictions"] == 3
        assert (
            "2 predictions of category 2, whose people have another skeleton than 'mpii_16', left out" in result.notes
        )


def test_predictions_without_a_category_are_kept() -> None:
    """Where categories do not tell whose a prediction is, nothing is left out."""
    one = people(grid(3), [1, 2, 3], head_bbox=heads(3))
    two = people(grid(2, 3), [1, 2], skeleton=Skeleton("horse_3", ("ear", "withers", "tail")), category_id=[1] * 2)
    gt = replace(one, persons=pa.concat_tables([one.persons, two.persons]), skeletons=one.skeletons | two.skeletons)
    found = people(grid(3), [1, 2, 3], category_id=[1] * 3, score=[0.5] * 3,
                   provenance={"source_format": "coco_results"})  # fmt: skip
    result = evaluate_points(gt, found, skeleton="mpii_16")
    assert result.stats["PCKh@0.5"] == 1.0 and not any("left out" in note for note in result.notes)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "pkch"}, "no metric 'pkch'. expected one of pckh, pck, pcp, auc, epe, nme"),
        ({"variant": "coco"}, "PCKh has no variant 'coco'. expected one of hrnet, official, mmpose"),
        ({"metric": "pck", "variant": "hrnet"}, "expected one of official, mmpose"),
        ({"metric": "epe", "variant": "mmpose"}, "it has one definition: leave variant out"),
        ({"metric": "nme", "threshold": 0.1}, "NME with threshold 0.1, expected none"),
        ({"threshold": 0.0}, "PCKh with threshold 0.0, expected a number above 0"),
        ({"threshold": math.nan}, "expected a number above 0"),
        ({"metric": "epe", "normalize": "head"}, "EPE is measured in pixels, not by 'head'"),
        ({"metric": "pcp", "normalize": "torso"}, "PCP is measured in lengths of the limb itself"),
        ({"normalize": "torso"}, "PCKh is measured in head sizes, not 'torso'"),
        ({"metric": "pck", "normalize": "arm"}, "no length 'arm' to normalise by"),
        ({"metric": "pck", "normalize": -3}, "no length -3 to normalise by"),
        ({"metric": "pck", "normalize": "left_knee:nose"}, "'mpii_16' has no keypoint 'nose'"),
        (
            {"metric": "pck", "normalize": "bbox"},
            "nobody in the ground truth has a length to normalise by: longer side",
        ),
        ({}, "by: 0.6 × diagonal of the head box. MPII's head boxes are in its .mat"),
        ({"skeleton": "coco_17"}, "--skeleton 'coco_17' has 17 keypoints, the ground truth's 'mpii_16' 16"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    """The message has what was found, what was expected, and what to do."""
    gt = people(grid(2))
    with pytest.raises(EvaluationError) as caught:
        evaluate_points(gt, people(grid(2), provenance={"join": "order"}), **options)
    assert message in str(caught.value)


def test_datasets_that_do_not_fit_are_refused() -> None:
    """Other keypoints, another order of them, arrays of another number, no labels, no keypoints, several skeletons."""
    gt = people(grid(3), head_bbox=heads(3))

    def refused(truth: Dataset, found: Dataset, message: str) -> None:
        with pytest.raises(EvaluationError) as caught:
            evaluate_points(truth, found)
        assert message in str(caught.value)

    refused(gt, people(grid(3, 17), skeleton="coco_17"),
            "the predictions have 17 keypoints (coco_17), expected 16 (mpii_16, the ground truth's)")  # fmt: skip
    names = load("mpii_16").keypoint_names
    turned = Skeleton("turned_16", (names[1], names[0], *names[2:]))
    refused(gt, people(grid(3), skeleton=turned),
            "column 0 is 'right_knee', expected 'right_ankle'")  # fmt: skip
    refused(gt, people(grid(2), provenance={"join": "order"}),
            "2 predictions known by their order alone, expected one for each of the ground truth's 3")  # fmt: skip
    unlabelled = people(grid(2), visibility=np.zeros((2, 16)), head_bbox=heads(2))
    refused(unlabelled, people(grid(2)), "none of the 2 people of the ground truth has a labelled keypoint")
    refused(gt, people(grid(1), [99], score=[1.0]), "image")
    boxes = people(grid(1), skeleton="mpii_16")
    column = boxes.persons.schema.get_field_index("skeleton")
    boxes = Dataset(boxes.images, boxes.persons.set_column(column, "skeleton", pa.nulls(1, pa.string())), {}, {})
    refused(boxes, people(grid(1)), "none of the ground truth's 1 people has keypoints")
    refused(people(grid(1), head_bbox=heads(1)), boxes, "1 of 1 predictions have no keypoints")


def test_scoring_needs_no_pandas() -> None:
    """It takes half a second to import: a score comes without."""
    code = (
        "import sys; from kpdata import synth; from kpdata.eval.points import evaluate_points as score\n"
        "from kpdata.synth.predict import simulate_predictions\n"
        "gt = synth.synthesize(3, skeleton='mpii_16'); score(gt, simulate_predictions(gt)[0]).to_json()\n"
        "assert 'pandas' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_predictions_are_zero_with_a_sentence() -> None:
    """Everything is missed: 0, not -1 and not NaN; EPE has nothing to measure."""
    gt = people(grid(2), head_bbox=heads(2))
    nothing = gt.select(persons=[])
    result = evaluate_points(gt, nothing)
    assert result.stats["PCKh@0.5"] == result.stats["mean"] == 0.0 and result.stats["missing"] == 1.0
    assert "there are no predictions" in result.notes
    assert math.isnan(evaluate_points(gt, nothing, metric="epe").stats["EPE"])
