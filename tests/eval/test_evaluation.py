"""Two data sets to numbers: pycocotools is asked about the same JSON, and every trap has its sentence."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import converters, schema
from kpdata.converters import coco as coco_format
from kpdata.converters import coco_results, crowdpose
from kpdata.errors import EvaluationError
from kpdata.eval import evaluate
from kpdata.eval.evaluation import evaluate_oks
from kpdata.eval.points import evaluate_points
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton, load

SEEDS = st.integers(0, 2**32 - 1)
HAND = Skeleton("hand_5", ("thumb", "index", "middle", "ring", "little"), sigmas=(0.03, 0.04, 0.05, 0.06, 0.07))


def person(number, image, x=50.0, k=17, **more):
    """Somebody with every keypoint labelled, in a box of 80 x 80 with an area of its own."""
    place = np.arange(k) * 80 / k
    flat = np.stack([x + place, 20 + place[::-1], np.full(k, 2.0)], 1).ravel().tolist()
    row = {"id": number, "image_id": image, "category_id": 1, "keypoints": flat, "num_keypoints": k}
    return row | {"bbox": [x, 20.0, 80.0, 80.0], "area": 4000.0, "iscrowd": 0} | more


def truth(rows, categories=({"id": 1, "name": "person"},), images=(1, 2)):
    listed = [{"id": i, "file_name": f"val/{i}.jpg", "width": 640, "height": 480} for i in images]
    return {"images": listed, "annotations": rows, "categories": [dict(row) for row in categories]}


def results(raw, seed=0, noise=3.0, **more):
    """A noisy result for each person."""
    rng = np.random.default_rng(seed)
    found = []
    for row in raw["annotations"]:
        block = np.reshape(row["keypoints"], (-1, 3)).astype(float)
        block[:, :2] += rng.normal(0, noise, (len(block), 2))
        own = {key: row[key] for key in ("image_id", "category_id")} | {"keypoints": block.ravel().tolist()}
        found.append(own | {"score": float(rng.random())} | more)
    return found


def people(count=12, **more):
    return [person(i + 1, 1 + i % 2, x=40.0 * i, area=500.0 + 900.0 * i, **more) for i in range(count)]


def ours(raw, found, skeleton=None, reader=coco_format, **options):
    gt = reader.decode(copy.deepcopy(raw), source="gt.json")
    return evaluate(gt, coco_results.decode(copy.deepcopy(found), source="dt.json"), skeleton=skeleton, **options)


def judged(coco, raw, found, sigmas=None):
    """pycocotools' curves and ten numbers of the same JSON."""
    case = coco.Case(raw, found, {"sigmas": coco.sigmas if sigmas is None else np.array(sigmas)})
    return coco.by_pycocotools(case)


def assert_equal(result, expected):
    curves, numbers = expected
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(getattr(result.curves, name), getattr(curves, name), err_msg=name)
    assert list(result.stats.values()) == numbers


def assert_same_bits(coco, raw, found, *, skeleton=None, reader=coco_format, judge_raw=None, sigmas=None, **options):
    result = ours(raw, found, skeleton, reader, **options)
    assert_equal(result, judged(coco, judge_raw or raw, found, sigmas))
    return result


@given(SEEDS, st.booleans())
def test_random_files(coco, seed, strange):
    """Whatever stands in the two files (crowds, ties, repeated ids, unlisted images, NaN): pycocotools' bits."""
    case = coco.random_case(seed, strange=strange)
    sigmas = np.random.default_rng(seed).choice([0.026, 0.079, 0.107, 0.3], len(case.settings["sigmas"]))
    bones = Skeleton("any", tuple(f"k{i}" for i in range(len(sigmas))), sigmas=tuple(sigmas.tolist()))
    if case.truth["annotations"] and case.results:
        assert_same_bits(coco, case.truth, case.results, skeleton=bones, sigmas=sigmas)


@pytest.mark.parametrize("kind", ["multipose", "thunder_gtbox"])
def test_real_predictions(coco, real_data, kind):
    """MoveNet on COCO photographs: all bits, from files to the printed lines."""
    folder = real_data / "coco_mini"
    paths = folder / "person_keypoints_val2017.json", folder / f"movenet_{kind}_val2017_results.json"
    result = evaluate(*(converters.read(path) for path in paths))
    case = coco.read_case(*paths)
    assert_equal(result, coco.by_pycocotools(case))
    judge, printed = coco.judge(case), io.StringIO()
    with contextlib.redirect_stdout(printed):
        judge.summarize()
    assert result.lines() == printed.getvalue().splitlines()


def test_the_published_log(real_data):
    """The official fake results of val2014 give the ten numbers that were published with them."""
    folder = real_data / "coco_fakekeypoints100"
    gt = converters.read(folder / "DERIVED_person_keypoints_val2014_100.json")
    result = evaluate(gt, converters.read(folder / "person_keypoints_val2014_fakekeypoints100_results.json"))
    log = [0.372, 0.636, 0.348, 0.384, 0.386, 0.514, 0.734, 0.504, 0.508, 0.522]
    assert [round(number, 3) for number in result.stats.values()] == log


@pytest.mark.parametrize("sides", [("gt",), ("dt",), ("gt", "dt")])
def test_folders_give_the_same_bits(coco, tmp_path, sides):
    """A `.kp` folder as ground truth, predictions or both scores as the JSON that it was made from."""
    raw = truth([*people(), person(90, 1, iscrowd=1, num_keypoints=0, keypoints=[0] * 51)])
    files = {"gt": raw, "dt": results(raw, bbox=[1.0, 2.0, 40.5, 50.25])}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        converters.write(converters.read(tmp_path / f"{name}.json"), tmp_path / f"{name}.kp")
    paths = [tmp_path / f"{name}{'.kp' if name in sides else '.json'}" for name in ("gt", "dt")]
    assert_equal(evaluate(*(converters.read(path) for path in paths)), judged(coco, raw, files["dt"]))


def test_a_box_in_the_first_result_decides_the_sizes(coco):
    """Results with boxes: their area, not the extent of the keypoints, puts them into medium or large."""
    raw = truth(people())
    found = results(raw)
    for number, row in enumerate(found):
        row["bbox"] = [0.0, 0.0, 30.0 + 8 * number, 50.0]
    result = assert_same_bits(coco, raw, found)
    assert "w × h" in result.facts["detection_area"]
    assert any("results carry a bbox" in note for note in result.notes)
    del found[0]["bbox"]
    assert "extent" in assert_same_bits(coco, raw, found).facts["detection_area"]


def test_a_box_in_some_results_only(coco):
    """pycocotools stops at the first result without a box; the sentence says what to write."""
    raw = truth(people(2))
    found = results(raw)
    found[0]["bbox"] = [0, 0, 5, 5]
    with pytest.raises(EvaluationError, match="first result has a bbox and others have none"):
        ours(raw, found)


def test_annotation_id_0_and_repeated_ids(coco):
    """Both traps give pycocotools' numbers, and a sentence each."""
    raw = truth(people())
    raw["annotations"][3]["id"] = 0
    result = assert_same_bits(coco, raw, results(raw))
    assert any("annotation id 0" in note for note in result.notes)
    fixed = ours(raw, results(raw), mode="fixed")
    sane = copy.deepcopy(raw)
    sane["annotations"][3]["id"] = 99
    assert_equal(fixed, judged(coco, sane, results(raw)))
    effect = f"AP is {fixed.stats['AP']:.4f} instead of {result.stats['AP']:.4f} (mode 'fixed')"
    assert f"without the effect of annotation id 0 {effect}" in result.notes
    assert not any("id 0" in note for note in fixed.notes)
    assert fixed.facts["mode"] == "fixed"
    raw["annotations"][3]["id"] = 7
    result = assert_same_bits(coco, raw, results(raw))
    assert any("annotation ids repeat" in note for note in result.notes)


def test_a_repeated_id_in_an_unlisted_category(coco):
    """The last row of an id stands in even where its category is not listed: it is looked up among all rows."""
    raw = truth([*people(), person(5, 1, x=300.0, category_id=9)])
    assert_same_bits(coco, raw, results(truth(people())))


def test_a_repeated_id_of_two_skeletons(coco):
    """An id is looked up among the people of all skeletons, as pycocotools does, in listed and unlisted categories."""
    names = {number: [f"{number}_{k}" for k in range(17)] for number in (1, 2)}
    listed = tuple({"id": n, "name": f"p{n}", "keypoints": of} for n, of in names.items())
    both = [person(i + 1, 1 + i % 2, x=40.0 * i, category_id=2, area=700.0 + i) for i in range(4)]
    for rows in ([*people(), *both], [*both, *people()], [*both, *people(), person(3, 2, category_id=2), person(4, 9)]):
        raw = truth(rows, listed)
        result = assert_same_bits(coco, raw, [row for row in results(raw) if row["image_id"] < 9], skeleton="coco_17")
        assert "annotation ids repeat: as in pycocotools the last person of an id counts for all" in result.notes
        assert any(note.startswith("without the effect of repeated annotation ids AP") for note in result.notes)
        result.per_keypoint(), result.errors(), result.opportunity(), result.failures()


def test_nan_in_a_prediction(coco):
    """A labelled NaN matches anything, as in pycocotools, and the note says so."""
    raw = truth(people())
    found = results(raw)
    found[2]["keypoints"][4] = float("nan")
    result = assert_same_bits(coco, raw, found)
    assert "1 prediction holds NaN coordinates: as in pycocotools such a person matches anything" in result.notes
    assert any("without the effect of NaN coordinates AP" in note for note in result.notes)
    assert any("infinitely far away" in note for note in ours(raw, found, mode="fixed").notes)


def test_nan_for_a_score(coco):
    """It comes last, as in pycocotools, and the note counts it."""
    raw = truth(people())
    found = results(raw)
    found[4]["score"] = float("nan")
    notes = assert_same_bits(coco, raw, found).notes
    assert "1 prediction has NaN for a score: it comes last, after the least confident" in notes


def test_unlabelled_person_that_counts(coco):
    """num_keypoints above 0 without a labelled keypoint: the distance to the box, as the file says."""
    raw = truth([*people(), person(50, 1, x=400.0, keypoints=[0] * 51, num_keypoints=4)])
    found = [*results(truth(people())), {**results(truth([person(1, 1, x=400.0)]))[0], "score": 0.99}]
    words = (
        "1 person whose num_keypoints is above 0 has no labelled keypoint: the field decides, and whatever lies in "
        "their box finds them"
    )
    assert words in assert_same_bits(coco, raw, found).notes


def test_labelled_person_that_does_not_count(coco):
    """num_keypoints of 0 with labelled keypoints: a region to ignore, as the file says, and a note."""
    raw = truth([*people(), person(50, 1, x=400.0, num_keypoints=0)])
    words = "1 person whose num_keypoints is 0 has labelled keypoints: the field decides, and nobody has to find them"
    assert words in assert_same_bits(coco, raw, results(truth(people()))).notes


def test_people_without_the_field_keypoints():
    """pycocotools stops at a person who counts and has none; here a number, and a sentence about who matches them."""
    raw = truth([*people(), {**person(50, 1, num_keypoints=4)}])
    del raw["annotations"][-1]["keypoints"]
    notes = ours(raw, results(truth(people()))).notes
    assert any(
        note.startswith("1 person has num_keypoints above 0 and no keypoints: whatever lies in") for note in notes
    )


def test_paths_are_no_datasets():
    """Who gives the names of files learns how to open them."""
    for path in ("truth.json", Path("truth.json")):
        with pytest.raises(EvaluationError, match=r"ground truth: truth.json, expected a Dataset. kpdata.read\(path\)"):
            evaluate(path, path)


def test_an_evaluation_is_told_in_a_line():
    """Numbers and counts, where the arrays behind them would fill pages."""
    raw = truth(people())
    told = repr(ours(raw, results(raw)))
    assert told.startswith("<Evaluation by oks: AP ") and told.endswith(" predictions>") and len(told) < 300


def test_odd_boxes_of_unlabelled_people(coco):
    """Where the distance to the box stands in, NaN and infinite boxes go through as they are."""
    far = {**results(truth([person(1, 1, x=400.0)]))[0], "score": 0.99}
    for odd in (float("nan"), float("inf")):
        box = [3000.0, odd, 80.0, 80.0]
        raw = truth([*people(), person(50, 1, keypoints=[0] * 51, num_keypoints=4, bbox=box)])
        assert_same_bits(coco, raw, [*results(truth(people())), far])


def test_more_than_20_in_an_image(coco):
    """The 20 best of an image count, and the note says in how many images that cut."""
    raw = truth([person(i + 1, 1, x=10.0 * i) for i in range(25)])
    assert any("more than 20 predictions in 1 image:" in n for n in assert_same_bits(coco, raw, results(raw)).notes)


def with_areas(raw, measure):
    """The same with an area of this measure in every row, for the judge."""
    given = copy.deepcopy(raw)
    for row in given["annotations"]:
        row["area"] = measure(row)
    return given


def box_053(row):
    return row["bbox"][2] * row["bbox"][3] * 0.53


def box(row):
    return row["bbox"][2] * row["bbox"][3]


def extent(row):
    """w x h of the labelled keypoints; the box of somebody who has none."""
    xy = np.array([(x, y) for x, y, v in np.reshape(row["keypoints"], (-1, 3)) if v > 0])
    return float(np.prod(np.ptp(xy, axis=0))) if len(xy) else box(row)


def boxed_people(k=17):
    """Boxes of several sizes, areas that are none of the rules', a keypoint at 0, 0 that is not labelled, somebody who
    is only a region."""
    rows = [person(i + 1, 1 + i % 2, x=40.0 * i, k=k, bbox=[40.0 * i, 20, 31.3 + 9 * i, 88.7]) for i in range(10)]
    for row in rows[::3]:
        row["keypoints"][:3], row["num_keypoints"] = [0, 0, 0], k - 1
    return [*rows, person(11, 1, x=30.0, k=k, keypoints=[0] * 3 * k, num_keypoints=0)]


def test_another_number_of_predictions_counts(coco):
    """The 5 best of an image: pycocotools' curves with maxDets 5, numbers where it prints -1, and two sentences."""
    raw = truth([person(i + 1, 1, x=10.0 * i, area=500.0 + 900 * i) for i in range(12)])
    found = results(raw)
    result = ours(raw, found, max_dets=5)
    case = coco.Case(raw, found, {"sigmas": coco.sigmas, "max_dets": (5,)})
    curves, _ = coco.by_pycocotools(case)
    np.testing.assert_array_equal(result.curves.precision, curves.precision)
    known = curves.precision[:, :, :, 0][curves.precision[:, :, :, 0] > -1]
    assert result.stats["AP"] == float(np.mean(known))
    assert "maxDets=  5" in result.lines()[0]
    assert any("the 5 best of each count" in note for note in result.notes)
    assert any("not comparable with a leaderboard" in note for note in result.notes)
    with pytest.raises(EvaluationError, match="max_dets"):
        ours(raw, found, max_dets=0)


def test_crowdpose_files_have_the_rule_of_their_data_set(coco):
    """CrowdPose has no areas: 0.53 x w x h, equal to pycocotools when it is given that area and CrowdPose's sigmas."""
    raw = truth(boxed_people(14))
    given = with_areas(raw, box_053)
    for row in raw["annotations"]:
        del row["area"]
    raw["categories"][0]["keypoints"] = list(load("crowdpose_14").keypoint_names)
    sigmas = load("crowdpose_14").sigmas
    found = results(truth(boxed_people(14)[:10]))
    result = assert_same_bits(coco, raw, found, reader=crowdpose, judge_raw=given, sigmas=sigmas, metric="oks")
    assert result.facts["area"] == "0.53 × w × h of the ground truth's bbox, the data set's own rule"
    assert result.facts["sigmas"] == {"crowdpose_14": list(sigmas)}
    assert not any("comparable" in note for note in result.notes)


def test_crowdpose_as_published(real_data):
    """The example files' AP, AP50, AP75, AR, AR50, AR75 of CrowdPose's own evaluator."""
    folder = real_data / "crowdpose"
    names = ("example_crowdpose_val.json", "example_crowdpose_preds.json")
    gt = converters.read(folder / names[0])
    stats = evaluate(gt, converters.read(folder / names[1], skeleton="crowdpose_14")).stats
    found = [round(stats[name], 6) for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")]
    assert found == [0.787722, 0.988119, 0.731436, 0.822222, 1.0, 0.777778]


@pytest.mark.parametrize(
    ("rule", "name", "measure"),
    [
        ("bbox", "bbox", box),
        ("bbox×0.53", "bbox×0.53", box_053),
        ("bbox*0.53", "bbox×0.53", box_053),
        ("keypoints", "keypoints", extent),
    ],
)
def test_area_rules(coco, rule, name, measure):
    """Each rule gives what pycocotools gives for a file with that area; the numbers say that they are not COCO's."""
    raw = truth(boxed_people())
    found = results(truth(boxed_people()[:10]))
    result = assert_same_bits(coco, raw, found, judge_raw=with_areas(raw, measure), area=rule)
    assert name in result.facts["area_rules"]
    assert f"area by the rule {name!r}, not COCO OKS AP/AR's own: not comparable with others'" in result.notes


def test_area_rule_file(coco):
    """Said or not, COCO's rule is the file's field, and nothing is to be remarked."""
    raw = truth(boxed_people())
    result = assert_same_bits(coco, raw, results(truth(boxed_people()[:10])), area="file")
    assert result.facts["area_rules"] == ["file"]
    assert result.facts["area"] == "the ground truth's area field"
    assert not any("comparable" in note for note in result.notes)


def test_missing_areas_have_stand_ins(coco):
    """Who has no area: 0.53 x w x h of the box, else the extent of the keypoints; counted, and said."""
    raw = truth(boxed_people()[:10])
    given = copy.deepcopy(raw)
    for number in (1, 2, 5):
        given["annotations"][number]["area"] = (extent if number == 5 else box_053)(given["annotations"][number])
        del raw["annotations"][number]["area"]
    del raw["annotations"][5]["bbox"]
    result = assert_same_bits(coco, raw, results(truth(boxed_people()[:10])), judge_raw=given)
    assert result.facts["area_rules"] == ["file", "bbox×0.53", "keypoints"]
    assert "2 people have no area: 0.53 × w × h of the ground truth's bbox stands in" in " ".join(result.notes)
    assert "1 person has no area: the extent of the labelled keypoints stands in" in " ".join(result.notes)
    assert sum("not comparable with a leaderboard" in note for note in result.notes) == 2


def test_nothing_to_measure_somebody_by():
    """Neither area nor box nor labelled keypoint: the sentence counts, names, and says what to do."""
    raw = truth(people(3))
    for key in ("area", "bbox"):
        del raw["annotations"][1][key]
    raw["annotations"][1]["keypoints"] = [0] * 51
    words = "1 of 3 people, such as annotation 2, have no area, nor a bbox, nor a labelled keypoint"
    with pytest.raises(EvaluationError, match=words) as refusal:
        ours(raw, results(raw))
    assert "give them a bbox" in refusal.value.hint
    with pytest.raises(EvaluationError, match=r"annotation 2, have no bbox: .* here by the rule 'bbox'"):
        ours(raw, results(raw), area="bbox")
    with pytest.raises(EvaluationError, match="no labelled keypoint, nor a bbox"):
        ours(raw, results(raw), area="keypoints")


def test_area_of_the_file_alone():
    """The rule 'file' makes nothing up: the sentence counts and names."""
    raw = truth(people(3))
    del raw["annotations"][1]["area"]
    with pytest.raises(EvaluationError, match="no area for 1 of 3 people, such as annotation 2"):
        ours(raw, results(raw), area="file")


def test_the_area_by_keypoints_is_told_first():
    """The rule that was asked for, then what stands in for it: the box of who has no labelled keypoint."""
    raw = truth([*people(3), person(50, 1, keypoints=[0] * 51, num_keypoints=4)])
    facts = ours(raw, results(truth(people(3))), area="keypoints").facts
    assert list(facts["area_rules"]) == ["keypoints", "bbox"]
    assert facts["area"] == "the extent of the labelled keypoints, else w × h of the ground truth's bbox"


def test_an_unknown_area_rule():
    """The sentence lists those that there are."""
    raw = truth(people(3))
    with pytest.raises(EvaluationError, match="no area rule 'mask'") as refusal:
        ours(raw, results(raw), area="mask")
    assert "file, bbox, bbox×0.53, keypoints" in refusal.value.hint


def test_areas_that_are_whole_boxes(coco):
    """Human-Art and OCHuman store the box's area: pycocotools' numbers, and a sentence that they are not COCO's."""
    raw = with_areas(truth(boxed_people()[:10]), box)
    notes = assert_same_bits(coco, raw, results(raw)).notes
    assert any("area is the whole box" in note and "not comparable" in note for note in notes)


def test_areas_of_people_who_do_not_count_may_be_missing(coco):
    """An annotation of a category that is not listed needs no area."""
    raw = truth([*people(), person(50, 1, category_id=9)])
    judge_raw = copy.deepcopy(raw)
    del raw["annotations"][-1]["area"]
    assert_same_bits(coco, raw, results(truth(people())), judge_raw=judge_raw)


def test_wholebody_against_17_keypoints(coco, real_data):
    """133 keypoints in the ground truth, 17 in the results: the body part, as pycocotools reads the same file."""
    folder = real_data / "coco_mmpose4"
    paths = folder / "test_coco_wholebody.json", folder / "hrnet_preds_xtcocoapi.json"
    result = evaluate(*(converters.read(path) for path in paths))
    assert_equal(result, coco.by_pycocotools(coco.read_case(*paths)))
    assert any("scored on the 17 of the body" in note for note in result.notes)


def test_own_category_of_5_keypoints(coco, tmp_path):
    """Five keypoints and sigmas of a user's file: pycocotools with the same sigmas."""
    rows = [person(i + 1, 1 + i % 2, x=25.0 * i, k=5) for i in range(8)]
    raw = truth(rows, [{"id": 1, "name": "hand", "keypoints": list(HAND.keypoint_names)}])
    file = tmp_path / "hand.toml"
    numbers = ", ".join(map(str, HAND.sigmas))
    file.write_text(f'name = "hand_5"\nkeypoints = {list(HAND.keypoint_names)}\n[sigmas]\nvalues = [{numbers}]\n')
    result = assert_same_bits(coco, raw, results(raw), skeleton=str(file), sigmas=HAND.sigmas)
    assert 0 < result.stats["AP"] < 1
    with pytest.raises(EvaluationError, match="no official OKS sigmas") as refusal:
        ours(raw, results(raw))
    assert "--skeleton" in refusal.value.hint


def test_a_skeleton_in_another_order_is_refused():
    """The same names in another order would give the sigmas to the wrong keypoints."""
    raw = truth([person(1, 1, k=5)], [{"id": 1, "name": "hand", "keypoints": list(HAND.keypoint_names)}])
    turned = Skeleton("turned", HAND.keypoint_names[::-1], sigmas=HAND.sigmas)
    with pytest.raises(EvaluationError, match="another order: column 0 is 'little', expected 'thumb'"):
        ours(raw, results(raw), turned)


def test_a_skeleton_of_another_size_is_refused():
    """Both numbers and both names stand in the sentence."""
    raw = truth(people(2))
    with pytest.raises(EvaluationError, match=r"'hand_5' has 5 keypoints, the ground truth 17 \(coco_17\)"):
        ours(raw, results(raw), HAND)


def test_categories_of_different_skeletons(coco):
    """People with 17 and hands with 5 keypoints: each category as pycocotools scores it alone; AP is the mean."""
    grown = people(8)
    hands = [person(100 + i, 1 + i % 2, x=25.0 * i, k=5, category_id=2) for i in range(8)]
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "hand", "keypoints": list(HAND.keypoint_names)}]
    raw = truth(grown + hands, names)
    found = results(raw)
    result = ours(raw, found, HAND)
    for place, (rows, sigmas) in enumerate([(grown, None), (hands, HAND.sigmas)]):
        mine = [row for row in found if row["category_id"] == place + 1]
        curves, _ = judged(coco, truth(rows, [names[place]]), mine, sigmas)
        np.testing.assert_array_equal(result.curves.precision[:, :, place], curves.precision[:, :, 0])
        np.testing.assert_array_equal(result.curves.recall[:, place], curves.recall[:, 0])
        np.testing.assert_array_equal(result.curves.scores[:, :, place], curves.scores[:, :, 0])
    assert result.stats["AP"] == float(np.mean(result.curves.precision[..., 0, 0]))
    assert result.facts["category_ids"] == [1, 2]


def test_a_category_without_people(coco):
    """It keeps its place in the arrays with -1, whatever predictions of it look like."""
    raw = truth(people(), [{"id": 1, "name": "person"}, {"id": 4, "name": "hand"}])
    result = assert_same_bits(coco, raw, results(raw))
    assert (result.curves.recall[:, 1] == -1).all()
    stray = {"image_id": 1, "category_id": 4, "keypoints": [1.0, 2.0, 1.0] * 5, "score": 0.5}
    assert ours(raw, [*results(raw), stray]).stats == result.stats


def test_predictions_without_a_category(coco):
    """They belong to the only category that there is, whatever its id."""
    raw = truth([{**row, "category_id": 3} for row in people()], [{"id": 3, "name": "person"}])
    found = results(raw)
    bare = [{key: value for key, value in row.items() if key != "category_id"} for row in found]
    assert_equal(ours(raw, bare), judged(coco, raw, found))


def test_predictions_of_unlisted_categories(coco):
    """They are left out, as in pycocotools, and the note names both sides."""
    raw = truth(people())
    found = results(raw)
    for row in found[::2]:
        row["category_id"] = 7
    notes = assert_same_bits(coco, raw, found).notes
    assert any("categories [7] are left out: the ground truth lists [1]" in note for note in notes)


def test_no_predictions(coco):
    """0 for all ten where there are people of every size, and a sentence."""
    raw = truth(people(14))
    result = assert_same_bits(coco, raw, [])
    assert set(result.stats.values()) == {0.0}
    assert "no predictions: AP and AR are 0" in result.notes


@pytest.mark.parametrize("named", [True, False])
def test_no_people(coco, named):
    """-1 for all ten, and a sentence, whether or not the category says its keypoints."""
    raw = truth([], [{"id": 1, "name": "person", **({"keypoints": ["nose"]} if named else {})}])
    result = assert_same_bits(coco, raw, results(truth(people())))
    assert set(result.stats.values()) == {-1.0}
    assert any("the numbers are -1" in note for note in result.notes)


def test_nobody_of_a_size(coco):
    """A single -1 has its sentence."""
    raw = truth([person(1, 1, area=2000.0), person(2, 2, area=3000.0)])
    result = assert_same_bits(coco, raw, results(raw))
    assert result.stats["APl"] == result.stats["ARl"] == -1
    assert "APl and ARl are -1: nobody is large (96² px and more)" in result.notes


def test_nobody_is_labelled():
    """Nothing but -1, and the reason."""
    raw = truth([person(1, 1, num_keypoints=0, keypoints=[0] * 51)])
    notes = ours(raw, results(truth(people()))).notes
    assert any("can be scored (nobody has a labelled keypoint): nothing to average" in note for note in notes)


def test_only_crowds(coco):
    """People who are all ignored give -1 too."""
    raw = truth([person(1, 1, iscrowd=1), person(2, 1, num_keypoints=0, keypoints=[0] * 51)])
    result = assert_same_bits(coco, raw, results(truth(people())))
    assert result.facts["counts"]["people scored"] == 0
    assert any("the numbers are -1" in note for note in result.notes)


def test_boxes_are_no_ground_truth():
    """An annotation file without keypoints is refused in words, not scored."""
    raw = truth(people(2))
    for row in raw["annotations"]:
        del row["keypoints"], row["num_keypoints"]
    with pytest.raises(EvaluationError, match="none of the ground truth's 2 people has keypoints"):
        ours(raw, results(truth(people(2))))


def test_unknown_images_are_named():
    """How many, an example of both sides, and a guess at the reason."""
    raw = truth(people(3))
    found = [{**row, "image_id": 77 + i} for i, row in enumerate(results(raw))]
    with pytest.raises(EvaluationError, match=r"for 3 images .* such as 77 \(it lists 2, such as 1\)") as refusal:
        ours(raw, found)
    assert "another split" in refusal.value.hint


def test_unknown_images_can_be_ignored(coco):
    """The predictions on listed images as pycocotools scores them alone, the others counted with an example."""
    raw = truth(people())
    found = results(raw)
    strange = [{**found[0], "image_id": 77, "score": 0.99}, {**found[1], "image_id": 78}, {**found[2], "image_id": 77}]
    result = ours(raw, [strange[0], *found, *strange[1:]], unknown_images="ignore")
    assert_equal(result, judged(coco, raw, found))
    words = "3 predictions for 2 images that the ground truth does not list, such as 77, left out"
    assert words in result.notes
    named = [{**row, "image_id": f"{row['image_id']}.jpg"} for row in [*found, *strange]]
    result = ours(raw, named, unknown_images="ignore")
    assert_equal(result, judged(coco, raw, found))
    assert words.replace("77", "'77.jpg'") in result.notes
    with pytest.raises(EvaluationError, match="unknown_images is 'keep', expected 'refuse' or 'ignore'"):
        ours(raw, found, unknown_images="keep")


@pytest.mark.parametrize("spelled", ["val/{}.jpg", "{}.jpg"])
def test_images_by_file_name(coco, spelled):
    """AlphaPose writes file names for image ids: matched with the ground truth's, with or without their folder."""
    raw = truth(people())
    found = results(raw)
    named = [{**row, "image_id": spelled.format(row["image_id"])} for row in found]
    result = ours(raw, named)
    assert_equal(result, judged(coco, raw, found))
    assert any("file name" in note for note in result.notes)
    named[0]["image_id"] = "elsewhere.jpg"
    with pytest.raises(EvaluationError, match=r"for 1 image .* 'elsewhere.jpg' \(it lists 2, such as 'val/1.jpg'"):
        ours(raw, named)


def test_integers_beside_file_names(coco):
    """Where some ids are texts the integers still stand for themselves."""
    raw = truth(people())
    found = results(raw)
    mixed = [{**row, "image_id": "1.jpg" if row["image_id"] == 1 else 2} for row in found]
    assert_equal(ours(raw, mixed), judged(coco, raw, found))


def test_text_ids_on_both_sides(coco):
    """The same text is the same image, though each file numbers its own texts."""
    raw = truth(people())
    texts = {1: "b", 2: "a"}
    renamed = copy.deepcopy(raw)
    for row in renamed["images"]:
        row["id"] = texts[row["id"]]
    renamed["images"].append({"id": "0", "file_name": "0.jpg"})
    for row in renamed["annotations"]:
        row["image_id"] = texts[row["image_id"]]
    found = results(raw)
    named = [{**row, "image_id": texts[row["image_id"]]} for row in found]
    # pycocotools visits images in the order of their ids, which decides ties between scores: there are none here.
    assert list(ours(renamed, named).stats.values()) == judged(coco, raw, found)[1]


def test_readers_that_number_images_are_matched_by_name(coco):
    """Where a reader numbered the images its numbers mean nothing elsewhere: file names bind the two."""
    raw = truth(people())
    turned = copy.deepcopy(raw)
    for row in (*turned["images"], *turned["annotations"]):
        key = "id" if "file_name" in row else "image_id"
        row[key] = 3 - row[key]
    found = results(raw)
    for row, kept in zip(turned["annotations"], found, strict=True):
        row |= {"keypoints": kept["keypoints"], "score": kept["score"]}
    predictions = coco_format.decode(turned)
    predictions = replace(predictions, datasets={n: {**d, "ids": "assigned"} for n, d in predictions.datasets.items()})
    boxed = [{**row, "bbox": person["bbox"]} for row, person in zip(found, raw["annotations"], strict=True)]
    assert_equal(evaluate(coco_format.decode(copy.deepcopy(raw)), predictions), judged(coco, raw, boxed))


def test_wrong_number_of_keypoints():
    """Both numbers, both skeletons, and the command that mends it."""
    raw = truth(people(2))
    with pytest.raises(EvaluationError, match=r"have 21 keypoints \(humanart_21\), expected 17 \(coco_17") as refusal:
        ours(raw, results(truth([person(1, 1, k=21)])))
    assert "kpdata convert --skeleton" in refusal.value.hint


def test_people_of_two_skeletons_in_a_category():
    """One category cannot have two sets of sigmas."""
    raw = truth([person(1, 1), person(2, 1, k=5, category_id=2)], [{"id": 1}, {"id": 2}])
    gt = coco_format.decode(raw)
    index = gt.persons.schema.get_field_index("category_id")
    gt = replace(gt, persons=gt.persons.set_column(index, "category_id", schema.fixed(np.array([1, 1]), pa.int64())))
    with pytest.raises(EvaluationError, match="category 1 has people of two skeletons, 'coco_17' and 'keypoints_5'"):
        evaluate(gt, coco_results.decode(results(truth(people(2)))))


@pytest.mark.parametrize(("lacking", "words"), [("score", "1 of 4 predictions have no score"),
                                                ("keypoints", "1 of 4 predictions have no keypoints")])  # fmt: skip
def test_predictions_that_lack_something(lacking, words):
    """Counted, with the first image, and what it may be instead."""
    raw = truth(people(4))
    found = results(raw, bbox=[1, 2, 3, 4])
    del found[2][lacking]
    with pytest.raises(EvaluationError, match=f"{words}, the first on image 1") as refusal:
        ours(raw, found)
    assert refusal.value.hint


def test_absent_keypoints_of_predictions_do_not_match_anything(coco):
    """Annotations with scores as predictions: 0, 0, 0 is far away, not NaN, which would match everybody."""
    raw = truth(people())
    found = results(raw)
    for row in found:
        row["keypoints"][9:30] = [0.0] * 21
    scored = copy.deepcopy(raw)
    for row, kept in zip(scored["annotations"], found, strict=True):
        row |= {"keypoints": kept["keypoints"], "score": kept["score"]}
        del row["bbox"]
    result = evaluate(coco_format.decode(copy.deepcopy(raw)), coco_format.decode(scored))
    assert_equal(result, judged(coco, raw, found))


def test_keypoints_that_the_model_does_not_know_are_left_out(coco):
    """Predictions remapped from 14 joints: the face of COCO's 17 is left out on both sides, and the note names it."""
    face = np.arange(5)  # nose, eyes and ears, which CrowdPose has none of
    only_face = [1.0, 2.0, 2] * 5 + [0, 0, 0] * 12
    raw = truth([*people(), person(50, 1, keypoints=only_face, num_keypoints=5)])
    moved = remap(remap(coco_format.decode(copy.deepcopy(raw)), "crowdpose_14")[0], "coco_17")[0]
    facts = {"keypoint_mask": next(iter(moved.datasets.values()))["keypoint_mask"]}
    found = results(truth(people()))
    # Nobody is there: its own size, without the face at 0, 0, is what leaves it out of the medium range.
    found.append({**results(truth([person(1, 2, x=300.0)]), seed=9)[0], "score": 0.99})
    for row in found:
        row["keypoints"][:15] = [0.0, 0.0, 0.0] * 5
    predictions = replace(coco_results.decode(copy.deepcopy(found)), datasets={"coco_results": facts})
    result = evaluate(coco_format.decode(copy.deepcopy(raw)), predictions)
    # The judge gets the same without the face: not labelled in the truth, at a point inside the body in the results.
    for rows, third in ((raw["annotations"], 0), (found, 1)):
        for row in rows:
            flat = np.reshape(row["keypoints"], (17, 3)).astype(float)
            flat[face] = [*flat[6, :2], third]
            row["keypoints"] = flat.ravel().tolist()
    raw["annotations"][-1]["num_keypoints"] = 0
    assert_equal(result, judged(coco, raw, found))
    assert any("nose" in note and "left out" in note for note in result.notes)


def test_to_json_has_everything(coco):
    """Metric, ten numbers at full precision, sigmas, counts and notes, as plain data."""
    raw = truth(people(14))
    found = results(raw)
    document = json.loads(json.dumps(ours(raw, found).to_json()))
    assert list(document["stats"]) == list(coco.names)
    assert list(document["stats"].values()) == judged(coco, raw, found)[1]
    assert document["metric"] == "COCO OKS AP/AR"
    assert document["sigmas"]["coco_17"] == coco.sigmas.tolist()
    assert document["counts"] == {"images": 2, "people": 14, "people scored": 14, "predictions": 14}


def test_the_other_metrics():
    """A metric of single people is that module's own result; MPII stands for PCKh by itself."""
    raw = truth(people())
    gt, found = coco_format.decode(copy.deepcopy(raw)), coco_results.decode(results(raw))
    assert evaluate(gt, found, metric="epe").stats == evaluate_points(gt, found, metric="epe").stats
    result = evaluate(gt, found, metric="pck", threshold=0.3, normalize="bbox", variant="mmpose")
    told = evaluate_points(gt, found, metric="pck", threshold=0.3, normalize="bbox", variant="mmpose")
    assert result.to_json() == told.to_json()
    assert result.stats != evaluate(gt, found, metric="pck").stats
    with pytest.raises(EvaluationError, match="the metric is 'pck', expected one by OKS"):
        evaluate_oks(gt, found, metric="pck")


def test_no_option_is_ignored():
    """Options of the other family of metrics are refused by name."""
    raw = truth(people(2))
    gt, found = coco_format.decode(copy.deepcopy(raw)), coco_results.decode(results(raw))
    for options in ({"area": "bbox"}, {"like": "xtcocotools"}, {"mode": "fixed"}, {"max_dets": 5}):
        with pytest.raises(EvaluationError, match=f"the metric 'epe' has no option {next(iter(options))}"):
            evaluate(gt, found, metric="epe", **options)
    for options in ({"threshold": 0.5}, {"normalize": "bbox"}, {"variant": "mmpose"}):
        with pytest.raises(EvaluationError, match=f"'oks', which this .* has no option {next(iter(options))}"):
            evaluate(gt, found, **options)
