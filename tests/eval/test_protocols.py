"""Other benchmarks' numbers, against their own evaluators: golden/make_xtcocotools.py, and loops from their papers."""

from __future__ import annotations

import copy
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import converters, schema
from kpdata.converters import coco, coco_results, crowdpose
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap, compare, evaluate, protocols
from kpdata.eval.average_precision import accumulate
from kpdata.skeleton import Skeleton, load

GOLDEN = Path(__file__).parents[1] / "golden"
TEN = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
NINE = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP(E)", "AP(M)", "AP(H)")
SKELETONS = {"oks": "coco_17", "crowdpose": "crowdpose_14", "aic": "aic_14", "wholebody": "coco_wholebody_133"}
SEEDS = range(6)


@pytest.fixture(scope="module")
def maker():
    """The script that made the golden numbers: it makes the same people here."""
    return runpy.run_path(str(GOLDEN / "make_xtcocotools.py"))


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "xtcocotools.json").read_text())


def scored(maker, kind, seed, *, change=lambda truth, found: None, **options):
    truth, found = copy.deepcopy(maker["case"](kind, seed))
    change(truth, found)
    reader = crowdpose if kind == "crowdpose" else coco
    gt = reader.decode(truth, source="gt.json", skeleton=SKELETONS[kind])
    return evaluate(gt, coco_results.decode(found, source="dt.json"), **options)


def test_the_golden_people_are_the_same(maker, golden):
    """The golden numbers belong to the people that these tests make."""
    assert golden["digests"] == {kind: maker["digest"](kind) for kind in SKELETONS}


# --------------------------------------------------------------------------------------------------------- xtcocotools


@pytest.mark.parametrize("seed", SEEDS)
def test_coco_like_xtcocotools(maker, golden, seed):
    """mmpose's COCO numbers: blank predictions dropped, num_keypoints counted, annotation id 0 an id."""
    result = scored(maker, "oks", seed, like="xtcocotools")
    assert list(result.stats.items()) == list(zip(TEN, golden["oks"][seed], strict=True))
    assert result.metric == "oks"
    assert any("dropped, as xtcocotools does" in note for note in result.notes)


@pytest.mark.parametrize("seed", SEEDS)
def test_wholebody(maker, golden, seed):
    """Ten numbers of six groups, chosen by the skeleton; scores of groups where results have them."""
    result = scored(maker, "wholebody", seed)
    expected = {
        f"{group}_{name}": value
        for group, ten in golden["wholebody"][seed].items()
        for name, value in zip(TEN, ten, strict=True)
    }
    assert result.stats == expected
    assert result.metric == "wholebody"
    mixed = any("foot_score: their score stands in" in note for note in result.notes)
    assert mixed == (seed in (2, 3))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("like", [None, "xtcocotools"])
def test_crowdpose(maker, golden, seed, like):
    """Both evaluators' nine numbers; the three of crowding are exact here and rounded there."""
    result = scored(maker, "crowdpose", seed, like=like)
    expected = golden["crowdpose" if like else "crowdpose_official"][seed]
    found = list(result.stats.values())
    assert list(result.stats) == list(NINE)
    assert found[:6] == expected[:6]
    assert [round(value, 4) for value in found[6:]] == expected[6:]
    (note,) = (note for note in result.notes if "third values are all 0" in note)
    assert ("dropped" in note) == bool(like)


@pytest.mark.parametrize("seed", SEEDS)
def test_aic_like_xtcocotools(maker, golden, seed):
    """mmpose's numbers for AI Challenger: COCO's AP with its sigmas and 0.53 x w x h, whatever the file's area."""
    result = scored(maker, "aic", seed, like="xtcocotools")
    assert list(result.stats.items()) == list(zip(TEN, golden["aic"][seed], strict=True))
    assert result.facts["area_rules"] == ["bbox×0.53"]


@pytest.mark.parametrize("kind", ["oks", "wholebody", "crowdpose"])
def test_real_files(real_data, maker, golden, kind):
    """The example files of xtcocotools and mmpose."""
    gt, predictions = (real_data / name for name in maker["REAL"][kind])
    found = evaluate(converters.read(gt), converters.read(predictions), like="xtcocotools").stats
    expected = golden["real"][kind]
    if kind == "wholebody":
        expected = [value for group in protocols.GROUPS for value in expected[group]]
    digits = 4 if kind == "crowdpose" else 16
    assert [round(value, digits) for value in found.values()] == [round(value, digits) for value in expected]


def test_like_nobody():
    """Another evaluator's name is refused, with the one that there is."""
    with pytest.raises(EvaluationError, match="no evaluator 'detectron2'") as refusal:
        protocols.protocol("oks", "detectron2")
    assert "xtcocotools" in refusal.value.hint


# ----------------------------------------------------------------------------------------------------------- CrowdPose


def test_crowdpose_ignores_the_files_area(maker, golden):
    """Its evaluator reads no area field: the numbers are the same without one."""

    def bare(truth, found):
        for row in truth["annotations"]:
            del row["area"]

    result = scored(maker, "crowdpose", 0, change=bare)
    assert list(result.stats.values())[:6] == golden["crowdpose_official"][0][:6]
    assert result.facts["area"] == "0.53 × w × h of the ground truth's bbox"


def test_crowdpose_without_crowd_index(maker):
    """By its provenance it is CrowdPose; the levels are -1, and two sentences say why."""

    def flat(truth, found):
        for row in truth["images"]:
            del row["crowdIndex"]

    result = scored(maker, "crowdpose", 0, change=flat)
    assert [result.stats[name] for name in ("AP(E)", "AP(M)", "AP(H)")] == [-1, -1, -1]
    assert "8 of 8 images have no crowdIndex: they are in none of easy, medium, hard" in result.notes
    assert "AP(E) is -1: nobody can be scored on images that are easy (crowdIndex < 0.2)" in result.notes


def test_crowdpose_of_several_categories(maker):
    """A level's AP is the mean over the categories that have people there, not over -1 of those that have none."""

    def second(truth, found):
        truth["categories"].append({"id": 2, "name": "nobody"})

    once, twice = scored(maker, "crowdpose", 0), scored(maker, "crowdpose", 0, change=second)
    assert once.stats == twice.stats


# ----------------------------------------------------------------------------------------------------------- WholeBody


def test_wholebody_of_the_body_alone_is_coco(maker):
    """Predictions of 17 keypoints are scored as COCO's, those of 133 by group; the metric can be said."""

    def body(truth, found):
        for row in found:
            for group in list(maker["GROUPS"])[1:]:
                del row[group]

    assert scored(maker, "wholebody", 0, change=body).metric == "oks"
    with pytest.raises(EvaluationError, match=r"the predictions have 17 keypoints \(coco_17\), expected 133"):
        scored(maker, "wholebody", 0, change=body, metric="wholebody")
    assert list(scored(maker, "wholebody", 0, metric="oks").stats) == list(TEN)


def test_wholebody_needs_133(maker):
    """Another skeleton has no such groups: both numbers, both names."""
    with pytest.raises(EvaluationError, match=r"scores 133 keypoints .* the ground truth has 17 \(coco_17\)"):
        scored(maker, "oks", 0, metric="wholebody")


def test_a_score_that_is_no_number(maker):
    """A group's score must be a number: the sentence has the key."""

    def spoil(truth, found):
        found[0]["face_score"] = "high"

    with pytest.raises(EvaluationError, match="'face_score' is 'high', expected a number"):
        scored(maker, "wholebody", 0, change=spoil)


def test_wholebody_groups_that_nobody_has(maker):
    """-1 of a whole group has its sentence."""

    def handless(truth, found):
        for row in truth["annotations"]:
            row["lefthand_kpts"] = [0] * 63

    result = scored(maker, "wholebody", 0, change=handless)
    assert {value for name, value in result.stats.items() if name.startswith("lefthand")} == {-1}
    assert "lefthand: -1, nobody has a labelled keypoint of it" in result.notes


# ------------------------------------------------------------------------------------------------------- AI Challenger


def by_loop(gt, predictions):
    """AI Challenger's keypoint_eval.py in words of its own: people by image, the best prediction of each."""
    deltas = 2 * np.array(load("aic_14").sigmas)
    best, total = [], 0
    for image in gt["images"]:
        people = [row for row in gt["annotations"] if row["image_id"] == image["id"] and not row["iscrowd"]]
        found = [row for row in predictions if row["image_id"] == image["id"]]
        total += max(len(people), len(found))
        for row in people:
            block = np.reshape(row["keypoints"], (14, 3))
            visible = block[:, 2] == 2
            scale = np.float32(row["bbox"][2] * row["bbox"][3])
            values = [0.0]
            for other in found if visible.any() else ():
                d = np.reshape(other["keypoints"], (14, 3))[:, :2] - block[:, :2]
                squared = (d**2).sum(1)[visible]
                values.append(float(np.mean(np.exp(-squared / 2 / deltas[visible] ** 2 / (scale + 1)))))
            best.append(max(values))
    shares = [sum(value > t for value in best) / total if total else -1.0 for t in np.linspace(0.5, 0.95, 10)]
    return {"mAP": float(np.mean(shares)), "mAP50": shares[0], "mAP75": shares[5]}


@pytest.mark.parametrize("seed", SEEDS)
def test_ai_challenger(maker, seed):
    """Its own score, chosen by the skeleton: visible keypoints, the whole box, everyone takes the best prediction."""
    result = scored(maker, "aic", seed)
    assert result.metric == "aic"
    assert result.stats == pytest.approx(by_loop(*maker["case"]("aic", seed)), abs=1e-12)
    assert result.facts["area_rules"] == ["bbox"]
    assert result.facts["metric"] == "AI Challenger OKS mAP"
    assert result.facts["matching"].endswith("everyone with the best of all predictions of the image")
    assert not any("bbox" in note or "best of each" in note for note in result.notes)
    assert result.lines()[0] == f" Share of people found @[ OKS > 0.50:0.95 ] = {result.stats['mAP']:0.3f}"


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_ai_challenger_in_blocks(maker, seed, block):
    """Blocks of pairs do not change the score."""
    truth, found = maker["case"]("aic", seed)
    gt = coco.decode(copy.deepcopy(truth), skeleton="aic_14")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "PAIRS_PER_BLOCK", block)
        stats = evaluate(gt, coco_results.decode(copy.deepcopy(found))).stats
    assert stats == pytest.approx(by_loop(truth, found), abs=1e-12)


def test_ai_challenger_has_intervals_and_differences(maker):
    """Shares of resamples are those of the drawn images as images of their own, image by image; two models too."""
    truth, found = maker["case"]("aic", 1)
    gt = coco.decode(copy.deepcopy(truth), skeleton="aic_14")
    sides = [evaluate(gt, coco_results.decode(copy.deepcopy(rows))) for rows in (found, found[::2])]
    images = sorted(image["id"] for image in truth["images"])
    names = ("mAP", "mAP50", "mAP75")
    samples = []
    for side, rows in zip(sides, (found, found[::2]), strict=True):
        intervals = side.bootstrap(20, seed=3)
        assert intervals.names == names and intervals.estimate.tolist() == list(side.stats.values())
        for weight, numbers in zip(bootstrap.weights(0, 20, len(images), 3), intervals.samples, strict=True):
            copies = [(image, copy_) for image, times in zip(images, weight, strict=True) for copy_ in range(times)]
            drawn = {
                "images": [{"id": at} for at, _ in enumerate(copies)],
                "annotations": [
                    {**row, "image_id": at} for at, (image, _) in enumerate(copies)
                    for row in truth["annotations"] if row["image_id"] == image
                ],
            }  # fmt: skip
            people = [{**row, "image_id": at} for at, (image, _) in enumerate(copies)
                      for row in rows if row["image_id"] == image]  # fmt: skip
            assert numbers.tolist() == pytest.approx([by_loop(drawn, people)[name] for name in names], abs=1e-12)
        samples.append(intervals.samples)
    compared = compare(*sides, n=20, seed=3)
    assert compared.names == names and ": mAP −4" in compared.verdict()
    assert compared.numbers.low.tolist() == np.percentile(samples[1] - samples[0], 2.5, axis=0).tolist()
    assert compared.notes == ()


def test_ai_challenger_has_no_engine_options(maker):
    """All predictions count and ids mean nothing: the options are refused, not ignored; like xtcocotools they work."""
    for options in ({"mode": "fixed"}, {"max_dets": 5}):
        with pytest.raises(EvaluationError, match=f"'aic'.* has no option {next(iter(options))}"):
            scored(maker, "aic", 0, **options)
        scored(maker, "aic", 0, like="xtcocotools", **options)
    assert not any("id 0" in note for note in scored(maker, "aic", 0).notes)


def test_ai_challenger_without_predictions_and_people(maker):
    """0 without predictions, -1 with neither; both with a sentence."""
    empty = scored(maker, "aic", 0, change=lambda truth, found: found.clear())
    assert set(empty.stats.values()) == {0.0}
    assert "no predictions: mAP is 0" in empty.notes

    def nobody(truth, found):
        truth["annotations"].clear()
        found.clear()

    result = scored(maker, "aic", 0, change=nobody)
    assert set(result.stats.values()) == {-1.0}
    assert any("the numbers are -1" in note for note in result.notes)


# -------------------------------------------------------------------------------------------------- choosing the metric


def of_skeleton(name):
    bones = load(name) if isinstance(name, str) else name
    row = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1.0, 2.0, 2] * len(bones), "iscrowd": 0}
    raw = {
        "images": [{"id": 1}],
        "annotations": [{**row, "num_keypoints": len(bones), "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(bones.keypoint_names)}],
    }
    return coco.decode(raw, skeleton=name if isinstance(name, str) else None)


@pytest.mark.parametrize(
    ("skeleton", "metric"),
    [
        ("coco_17", "oks"),
        ("mpii_16", "pckh"),
        ("lsp_14", "pck"),
        ("jhmdb_15", "pck"),
        ("aic_14", "aic"),
        ("crowdpose_14", "oks"),  # no crowdIndex, no CrowdPose file: somebody's own 14 keypoints
        ("coco_wholebody_133", "wholebody"),
        ("halpe_26", "oks"),
    ],
)
def test_chosen_by_skeleton(skeleton, metric):
    """What a data set stands for when nobody says."""
    gt = of_skeleton(skeleton)
    assert protocols.choose(gt, gt, None) == metric
    assert protocols.choose(gt, gt, "oks") == "oks"


def test_own_sigmas_mean_oks():
    """Who brings sigmas for MPII's keypoints wants OKS; the benchmark's own skeleton changes nothing."""
    gt = of_skeleton("mpii_16")
    own = Skeleton("mine", gt.skeleton.keypoint_names, sigmas=(0.1,) * 16)
    assert protocols.choose(gt, gt, None, own) == "oks"
    assert protocols.choose(gt, gt, None, gt.skeleton) == "pckh"


def test_crowdpose_by_crowd_index():
    """Images with a crowd index make a data set CrowdPose's, also without its file format."""
    gt = of_skeleton("crowdpose_14")
    index = gt.images.schema.get_field_index("crowd_index")
    images = gt.images.set_column(index, "crowd_index", schema.fixed(np.array([0.5]), pa.float64()))
    assert protocols.choose(replace(gt, images=images), gt, None) == "crowdpose"


def test_an_unknown_metric():
    """The sentence lists those that there are."""
    gt = of_skeleton("coco_17")
    with pytest.raises(EvaluationError, match="no metric 'map'") as refusal:
        evaluate(gt, gt, metric="map")
    assert "oks, crowdpose, wholebody, aic, pckh" in refusal.value.hint


def test_other_skeletons_and_sigmas_are_not_comparable(maker):
    """CrowdPose's rules on other keypoints, or with other sigmas: a sentence each."""
    notes = scored(maker, "oks", 0, metric="crowdpose").notes
    assert any("defined for crowdpose_14, this is coco_17" in note for note in notes)
    loose = replace(load("coco_17"), name="loose", sigmas=(0.1,) * 17)
    notes = scored(maker, "oks", 0, skeleton=loose).notes
    assert "sigmas of 'loose' instead of those of 'coco_17': not comparable with a leaderboard" in notes


# ---------------------------------------------------------------------------------------------------------- in the open


def test_levels_are_evaluations_of_their_images(maker):
    """The curves of the easy images are those of a ground truth that lists no others."""
    truth, found = maker["case"]("crowdpose", 5)
    easy = {image["id"] for image in truth["images"] if image["crowdIndex"] < 0.2}
    alone = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in easy],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in easy],
    }
    whole = scored(maker, "crowdpose", 5)
    gt = crowdpose.decode(alone, skeleton="crowdpose_14")
    part = evaluate(gt, coco_results.decode([row for row in found if row["image_id"] in easy]))
    np.testing.assert_array_equal(whole.groups["easy"].precision, part.curves.precision)
    assert part.stats["AP"] == whole.stats["AP(E)"]


def test_groups_do_not_change_the_parts(maker):
    """Analyses see the whole: its matches give the numbers named whole_."""
    result = scored(maker, "wholebody", 2)
    (part,) = result.sides.parts
    np.testing.assert_array_equal(accumulate(part.matches, part.params).precision, result.curves.precision)
    known = result.curves.precision[:, :, :, 0][result.curves.precision[:, :, :, 0] > -1]
    assert result.stats["whole_AP"] == float(np.mean(known))
    assert set(result.groups) == set(protocols.GROUPS) - {"whole"}


@pytest.mark.parametrize("kind", SKELETONS)
def test_facts_name_what_was_done(maker, kind):
    """Metric, sigmas with source, area rule, matching, mode and boxes stand in the plain data, with own keys."""
    document = json.loads(json.dumps(scored(maker, kind, 1, metric=kind).to_json()))
    assert document["protocol"] == kind
    assert document["metric"] == protocols.protocol(kind).title
    assert document["skeletons"][SKELETONS[kind]]["sigma_source"]
    assert document["area"] and document["area_rules"] and document["matching"]
    assert document["mode"] == "strict"
    assert document["detection_area"] == "w × h of each result's bbox"
    assert ("AP" in document["stats"]) == (kind in ("oks", "crowdpose"))


@pytest.mark.parametrize(("kind", "count"), [("oks", 10), ("crowdpose", 9), ("wholebody", 7), ("aic", 3)])
def test_lines(maker, kind, count):
    """One line a number, except WholeBody: a line a group."""
    lines = scored(maker, kind, 0).lines()
    assert len(lines) == count
    assert all(len(line) < 100 for line in lines)
