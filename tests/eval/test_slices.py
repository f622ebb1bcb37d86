"""A slice is scored by the rules that the module states: on filtered data, and by a loop over people and detections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap, evaluate
from kpdata.eval.part import pair
from kpdata.eval.slices import KINDS, SLICES, Slicing, sliced_matches, slices, slicings
from kpdata.synth import simulate_predictions, synthesize


def with_column(dataset, table, name, column):
    old = getattr(dataset, table)
    return replace(dataset, **{table: old.set_column(old.schema.get_field_index(name), name, column)})


@pytest.fixture(scope="module")
def scored():
    """People in crowded images of two splits, some of them missed, and false positives; a part of it is unlabelled."""
    gt = synthesize(40, seed=3, size=(320, 240), people=(1, 6), crowds=0.3)
    split = ["train" if i % 3 else "val" for i in range(40)]
    gt = with_column(gt, "images", "split", schema.strings(split))
    gt = with_column(gt, "images", "crowd_index", schema.fixed(np.linspace(0, 0.99, 40), pa.float64()))
    counts = schema.values(gt.persons["num_keypoints"]).copy()
    counts[::9] = 0  # ignored, but there
    gt = with_column(gt, "persons", "num_keypoints", schema.fixed(counts, pa.int32()))
    found, _ = simulate_predictions(gt, seed=1, jitter=0.3, miss=0.1, missed_people=0.1, false_positives=0.4)
    return evaluate(gt, found)


def rows_of(table):
    return {(row["by"], row["slice"]): row for row in table.to_pylist()}


def images_only(dataset, mask):
    ids = schema.values(dataset.images["image_id"])[mask]
    people = np.isin(schema.values(dataset.persons["image_id"]), ids)
    kept = dataset.select(persons=people)
    return replace(kept, images=schema.take(kept.images, np.flatnonzero(mask)))


def test_slices_of_images_are_evaluations_of_those_images(scored):
    """AP, AP50 and AR of a split or a range of crowd_index: all predictions and people of its images and no others."""
    sides = scored.sides
    part = sides.parts[0]
    found = rows_of(slices(part, sides.gt, ["split", "crowd_index"]))
    split = np.array(schema.texts(sides.gt.images["split"]))
    crowded = schema.values(sides.gt.images["crowd_index"])
    own = np.array(schema.values(sides.gt.images["image_id"]))
    masks = {("split", "train"): split == "train", ("split", "val"): split == "val"}
    masks |= {("crowd_index", "easy"): crowded < 0.2, ("crowd_index", "hard"): crowded >= 0.8}
    assert np.array_equal(own, part.image_ids)
    for key, mask in masks.items():
        alone = evaluate(images_only(sides.gt, mask), images_only_of(sides.predictions, own[mask]))
        for name in ("AP", "AP50", "AR"):
            assert found[key][name] == pytest.approx(alone.stats[name], abs=1e-12), key


def images_only_of(predictions, ids):
    return predictions.select(images=np.isin(schema.values(predictions.images["image_id"]), ids))


def test_a_slice_of_everybody_is_the_whole(scored):
    """Its false positives are all there are, whether they resemble somebody or not."""
    table = slices(scored.sides.parts[0], scored.sides.gt, "category")
    assert table.num_rows == 1
    row = table.to_pylist()[0]
    for name in ("AP", "AP50", "AR"):
        assert row[name] == pytest.approx(scored.stats[name], abs=1e-12)
    assert row["people"] == scored.sides.parts[0].counted().sum()


@given(st.integers(0, 2**32 - 1))
def test_a_slice_of_everybody_is_the_whole_in_any_case(coco, seed):
    """Several categories, crowds, ties, odd areas, repeated ids: AP and AR of pycocotools, over all sizes."""
    case = coco.random_case(seed)
    case.settings = {"sigmas": case.settings["sigmas"]}
    part = coco.part(case)
    truth, params, images = part.truth, part.params, np.unique(part.image_ids)
    matches, shared, shares = sliced_matches(part, [Slicing("all", ("all",), np.zeros(len(truth.area), np.int64))])
    curves = bootstrap.curves_of(matches, images, params, shared, shares)
    once = np.ones((1, len(images)), np.int32)
    precision, recall = bootstrap.resample(curves, once, params.recall_thresholds)
    numbers = coco.by_pycocotools(case)[1]
    assert np.nan_to_num(precision.mean(), nan=-1) == pytest.approx(numbers[0], abs=1e-12)
    assert np.nan_to_num(recall.mean(), nan=-1) == pytest.approx(numbers[5], abs=1e-12)


# ----------------------------------------------------------------------------------------------- the rules, in a loop


def oks_of(part, person, detection):
    """Lin et al.'s formula for one person and one detection."""
    xy, guess = part.truth.keypoints[person], part.detections.keypoints[detection]
    terms = [
        np.exp(-np.sum((xy[k] - guess[k]) ** 2) / (2 * part.truth.area[person] * (2 * part.params.sigmas[k]) ** 2))
        for k in range(len(xy))
        if part.truth.labelled[person, k]
    ]
    return float(np.mean(terms))


def naive_slice(part, members):
    """AP and AR of the people with `members`, from the matches of the whole and the three rules of the module."""
    matches, counted = part.matches, part.counted()
    share = (counted & members).sum() / counted.sum()
    precisions, recalls = [], []
    for t in range(len(part.params.iou_thresholds)):
        entries = []
        for d in range(len(matches.dt_row)):
            at = matches.matched[0, t, d]
            if at >= 0:
                person = matches.gt_row[matches.pair_gt[at]]
                kind = (1, 0) if counted[person] and members[person] else None
            else:
                kind = (0, naive_false(part, matches.dt_row[d], members, share))
            if kind:
                entries.append((-matches.dt_score[d], d, *kind))
        entries.sort()
        true, false, curve = 0, 0.0, []
        for _, _, right, wrong in entries:
            true, false = true + right, false + wrong
            curve.append((true / (counted & members).sum(), true / max(true + false, 1e-9)))
        recalls.append(curve[-1][0])
        best = [max([p for r, p in curve if r >= at], default=0) for at in part.params.recall_thresholds]
        precisions.append(np.mean(best))
    return np.mean(precisions), np.mean(recalls)


def naive_false(part, detection, members, share):
    """What an unmatched detection weighs in the slice: 1 beside its people, 0 beside others, else the slice's share."""
    image = part.detections.image_id[detection]
    near = [
        (oks_of(part, person, detection), person)
        for person in np.flatnonzero(part.counted() & (part.truth.image_id == image))
    ]
    best, person = max(near, default=(0, -1))
    return share if best < 0.1 else float(members[person])


def test_slices_of_people_follow_the_rules(scored):
    """Large and small people beside a loop over every detection, threshold and recall."""
    part = scored.sides.parts[0]
    found = rows_of(slices(part, scored.sides.gt, "size"))
    for label, members in (("medium", (part.truth.area >= 1024) & (part.truth.area < 9216)),
                           ("small", part.truth.area < 1024)):  # fmt: skip
        ap, ar = naive_slice(part, members)
        assert found["size", label]["AP"] == pytest.approx(ap, abs=1e-9)
        assert found["size", label]["AR"] == pytest.approx(ar, abs=1e-12)


@pytest.mark.parametrize("by", ["size", "keypoints", "occlusion", "crowding", "truncation", "split"])
def test_slices_add_up(scored, by):
    """People, and people found, of all slices of a kind are those of the whole."""
    part = scored.sides.parts[0]
    rows = slices(part, scored.sides.gt, by).to_pylist()
    people = sum(row["people"] for row in rows)
    assert people == part.counted().sum()
    assert sum(row["people"] * row["AR"] for row in rows) / people == pytest.approx(scored.stats["AR"], abs=1e-12)
    missed = len(pair(part).missed)
    assert sum(row["people"] * row["missed"] for row in rows) == pytest.approx(missed)


def test_kinds_are_what_their_names_say(scored):
    """Every person's slice, found by a loop: counts of labels, hidden shares, overlaps and edges."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    assert part.image_ids.tolist() == schema.values(gt.images["image_id"]).tolist()
    kinds = {kind.name: [kind.labels[s] if s >= 0 else "" for s in kind.person] for kind in slicings(part, gt)}
    assert list(kinds) == [name for name in KINDS if name != "dataset"]
    split = dict(zip(part.image_ids.tolist(), schema.texts(gt.images["split"]), strict=True))
    seen = set()
    for i in np.flatnonzero(part.counted()):
        labels, image = int(part.truth.labelled[i].sum()), int(part.truth.image_id[i])
        hidden = int((part.visibility[i] == 1).sum()) / labels
        others = [
            j for j in range(len(part.truth.area))
            if j != i and part.truth.image_id[j] == image and not part.truth.iscrowd[j]
        ]  # fmt: skip
        overlap = max((iou(part.truth.bbox[i], part.truth.bbox[j]) for j in others), default=0.0)
        bounds = {"1–5": 5, "6–10": 10, "11–15": 15, "16–17": 17}
        expected = {
            "size": "small" if part.truth.area[i] < 1024 else "medium" if part.truth.area[i] < 9216 else "large",
            "keypoints": next(name for name, most in bounds.items() if labels <= most),
            "occlusion": ["nothing hidden", "up to 25 % hidden", "25–50 % hidden", "over 50 % hidden"][
                0 if hidden == 0 else 1 if hidden <= 0.25 else 2 if hidden <= 0.5 else 3
            ],
            "crowding": ["no overlap", "IoU up to 0.1", "IoU 0.1–0.3", "IoU over 0.3"][
                0 if overlap == 0 else 1 if overlap <= 0.1 else 2 if overlap <= 0.3 else 3
            ],
            "truncation": "at the edge" if at_edge(part, i, 320, 240) else "inside the image",
            "split": split[image],
        }
        for name, label in expected.items():
            assert kinds[name][i] == label, name
            seen.add((name, label))
    assert len(seen) >= 14  # the data show nearly all of them


def iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def at_edge(part, i, width, height):
    x, y, w, h = part.truth.bbox[i]
    if x <= 1 or y <= 1 or x + w >= width - 1 or y + h >= height - 1:
        return True
    xy = part.truth.keypoints[i][part.truth.labelled[i]]
    return any(x <= 0 or y <= 0 or x >= width - 1 or y >= height - 1 for x, y in xy)


def test_columns(scored):
    """Numbers in quartiles of the people that count, or each of few values; truths and texts by value."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    quarters = rows_of(slices(part, gt, "area"))
    assert len(quarters) == 4
    people = [row["people"] for row in quarters.values()]
    assert max(people) - min(people) <= 2
    assert {key[1] for key in rows_of(slices(part, gt, "image.width"))} == {"320"}
    assert {key[1] for key in rows_of(slices(part, gt, "iscrowd"))} == {"false"}
    few = with_column(
        gt, "persons", "track_id", schema.fixed(np.arange(len(gt)) % 3, pa.int64(), np.arange(len(gt)) > 9)
    )
    found = rows_of(slices(part, few, "track_id"))
    assert {key[1] for key in found} == {"0", "1", "2", "no value"}
    assert found["track_id", "no value"]["people"] == part.counted()[:10].sum()


def test_the_worst_comes_first_with_its_interval(scored):
    """Ascending AP; the interval holds the AP and is null without resamples, or of one image; the schema is as
    documented."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    table = slices(part, gt, n=40, seed=2)
    assert table.schema.equals(SLICES)
    ap = table["AP"].to_pylist()
    assert ap == sorted(ap)
    assert len(table) > 10
    for row in table.to_pylist():
        assert (row["AP_low"] is None) == (row["AP_high"] is None) == (row["images"] == 1)
        assert row["images"] == 1 or row["AP_low"] - 0.02 <= row["AP"] <= row["AP_high"] + 0.02
        assert row["images"] <= row["people"]
    plain = slices(part, gt, "size")
    assert plain["AP_low"].null_count == plain["AP_high"].null_count == plain.num_rows


def test_the_interval_of_images_is_that_of_their_evaluation(scored):
    """A slice of all images has the bootstrap of the whole."""
    part = scored.sides.parts[0]
    whole = bootstrap.bootstrap(part, n=50, seed=4)
    row = slices(part, scored.sides.gt, "image.dataset", n=50, seed=4).to_pylist()[0]
    assert (row["AP_low"], row["AP_high"]) == pytest.approx((whole.low[0], whole.high[0]), abs=1e-12)


def test_bins_are_called_by_their_own_values(scored):
    """A value stands in one label only, also where a third of the people have the greatest, or the least, value."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    for values in (np.minimum(np.arange(len(gt)), 2 * len(gt) // 3), np.maximum(np.arange(len(gt)), len(gt) // 3)):
        numbers = with_column(gt, "persons", "track_id", schema.fixed(values * 1_000_003, pa.int64()))
        (kind,) = slicings(part, numbers, "track_id")
        of_person = values[part.truth_rows] * 1_000_003
        counted, seen = part.counted(), []
        for number, label in enumerate(kind.labels[:-1]):
            mine = of_person[counted & (kind.person == number)]
            assert label == (f"{mine.min()} … {mine.max()}" if mine.min() < mine.max() else f"{mine.min()}")
            seen += [mine.min(), mine.max()]
        assert seen == sorted(seen)
        assert len(kind.labels) > 3


def test_bins_that_nobody_is_in_are_left_out(scored):
    """A quartile between two neighbours, with the greater as the next quartile, leaves a bin without a value."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    counted = part.truth_rows[part.counted()]
    values = np.full(len(gt), 100.0)
    least = (len(counted) - 1) // 4 + 1  # the first quartile lies after this many values, unless it hits one
    values[counted[:least]] = np.arange(least)
    values[counted[-3:]] = (101, 102, 103)
    other = with_column(gt, "persons", "area", schema.fixed(values, pa.float64()))
    assert "" in slicings(part, other, "area")[0].labels
    rows = rows_of(slices(part, other, "area"))
    assert ("area", "") not in rows
    assert sum(row["people"] for row in rows.values()) == len(counted)


@pytest.mark.parametrize("by", ["score", "person_index", "video_id", "image.frame_index"])
def test_columns_without_any_value_are_refused(scored, by):
    """As a kind that the data cannot tell; the hint lists columns that say something."""
    with pytest.raises(EvaluationError, match="the ground truth does not say it") as error:
        slices(scored.sides.parts[0], scored.sides.gt, by)
    listed = error.value.hint.split("columns with values: ")[1].split(", ")
    assert {"area", "num_keypoints", "width"} <= set(listed)
    assert by.removeprefix("image.") not in listed


def test_numbers_that_are_all_nan_are_no_values(scored):
    """A column of NaN is refused as an empty one is."""
    gt = scored.sides.gt
    nan = with_column(gt, "persons", "area", schema.fixed(np.full(len(gt), np.nan), pa.float64()))
    with pytest.raises(EvaluationError, match="the ground truth does not say it"):
        slices(scored.sides.parts[0], nan, "area")


def test_people_of_one_image_have_no_interval(scored):
    """Others have one; every resample that draws the image at all would give the same AP or nearly."""
    part, gt = scored.sides.parts[0], scored.sides.gt
    image = schema.values(gt.persons["image_id"])
    alone = image == part.truth.image_id[part.counted()][0]
    marked = with_column(gt, "persons", "track_id", schema.fixed(alone.astype(np.int64), pa.int64()))
    found = rows_of(slices(part, marked, "track_id", n=30))
    assert (found["track_id", "1"]["images"], found["track_id", "0"]["images"] > 1) == (1, True)
    assert [found["track_id", "1"][key] for key in ("AP_low", "AP_high")] == [None, None]
    assert found["track_id", "0"]["AP_low"] < found["track_id", "0"]["AP_high"]


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("colour", "neither a kind of people nor a column"),
        ("keypoint_scores", "neither a kind"),
        (["size", "nope"], "'nope'"),
    ],
)
def test_what_makes_no_slices_is_refused(scored, by, words):
    """An unknown name lists what there is."""
    with pytest.raises(EvaluationError, match=words) as error:
        slices(scored.sides.parts[0], scored.sides.gt, by)
    assert "occlusion" in error.value.hint
    assert "num_keypoints" in error.value.hint


def test_texts_that_are_no_kinds_are_refused(scored):
    """A column with another text for everybody has no slices."""
    names = schema.strings([str(i) for i in range(len(scored.sides.gt))])
    many = with_column(scored.sides.gt, "persons", "extras", names)
    with pytest.raises(EvaluationError, match="different values, expected at most 50"):
        slices(scored.sides.parts[0], many, "extras")


def test_what_the_data_cannot_tell_is_said():
    """Nothing is marked occluded, images have no size: asked for by name these are errors, else they are left out."""
    gt = synthesize(4, seed=1, size=(160, 120))
    visibility = np.where(gt.visibility > 0, 2, 0).astype(np.int8)
    gt = with_column(gt, "persons", "visibility", schema.rows(visibility, kind=pa.int8()))
    for name in ("width", "height"):
        gt = with_column(gt, "images", name, pa.nulls(4, pa.int32()))
    found = evaluate(gt, simulate_predictions(gt)[0])
    part = found.sides.parts[0]
    for by, words in (("occlusion", "marked occluded"), ("truncation", "width and height"), ("split", "--label-split"),
                      ("crowd_index", "CrowdPose")):  # fmt: skip
        with pytest.raises(EvaluationError) as error:
            slices(part, gt, by)
        assert words in error.value.hint
    assert not {"occlusion", "truncation", "split", "crowd_index"} & {kind.name for kind in slicings(part, gt)}


def test_other_people_are_refused(scored):
    """The dataset has to be the ground truth that the rows point into."""
    other = synthesize(2, seed=9, size=(160, 120))
    with pytest.raises(EvaluationError, match="not the ground truth that was scored"):
        slices(scored.sides.parts[0], other)


def test_no_predictions_and_nobody():
    """Everybody is missed: AP 0 in every slice; nobody there: an empty table."""
    gt = synthesize(3, seed=1, size=(160, 120))
    none = simulate_predictions(gt)[0].select(persons=[])
    part = evaluate(gt, none).sides.parts[0]
    for row in slices(part, gt, "size").to_pylist():
        assert (row["AP"], row["missed"], row["mean_oks"]) == (0, 1, None)
    nobody = with_column(gt, "persons", "num_keypoints", schema.fixed(np.zeros(len(gt)), pa.int32()))
    part = evaluate(nobody, none).sides.parts[0]
    assert slices(part, nobody).num_rows == 0
