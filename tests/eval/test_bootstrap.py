"""Resamples are what pycocotools gives for the drawn images; intervals are percentiles of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata.errors import EvaluationError
from kpdata.eval import bootstrap


def tidy(coco, seed):
    """A random case whose ids are unique and above 0 and whose scores differ inside each image, not between images."""
    case = coco.random_case(seed)
    case.image_ids = case.category_ids = None
    case.settings.pop("max_dets", None)  # pycocotools' summary prints -1 for other numbers than 20
    for number, row in enumerate(case.truth["annotations"], 1):
        row["id"] = number
    case.truth["annotations"] = [a for a in case.truth["annotations"] if a["image_id"] != 99]
    seen = {}
    for row in case.results:
        seen[row["image_id"]] = seen.get(row["image_id"], 0) + 1
        row["score"] = 1 / seen[row["image_id"]]
    return case


def drawn_apart(coco, case, weight):
    """The case with each image, in ascending order, as many times as its weight says, under ids of their own."""
    images, annotations, results = [], [], []
    for place, image in enumerate(sorted(case.images())):
        for copy in range(int(weight[place])):
            number = 1 + place * 1000 + copy
            images.append({"id": number})
            for source, target in ((case.truth["annotations"], annotations), (case.results, results)):
                target += [{**row, "image_id": number} for row in source if row["image_id"] == image]
    for number, row in enumerate(annotations, 1):
        row["id"] = number
    truth = {"images": images, "annotations": annotations, "categories": case.truth["categories"]}
    return coco.Case(truth, results, case.settings)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_resample_is_the_evaluation_of_the_drawn_images(coco, seed):
    """Ten numbers of pycocotools on the drawn images as separate images: crowds, ties between images, custom grids,
    several categories."""
    case = tidy(coco, seed)
    part = coco.part(case)
    images = np.unique(part.image_ids)
    weight = bootstrap.weights(0, 2, len(images), seed)
    curves = bootstrap.curves_of(part.matches, images, part.params)
    found = bootstrap.resample(curves, weight, part.params.recall_thresholds)
    numbers = np.nan_to_num(bootstrap.pick(*found, bootstrap.number_cells(part.params)), nan=-1)
    for row, times in zip(numbers, weight, strict=True):
        _, expected = coco.by_pycocotools(drawn_apart(coco, case, times))
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_samples_are_these_resamples(coco):
    """`bootstrap` gives the numbers of the weights that its seed draws, whatever the block they fall into."""
    part = coco.part(tidy(coco, 11))
    images = np.unique(part.image_ids)
    found = bootstrap.bootstrap(part, n=70, seed=3)
    curves = bootstrap.curves_of(part.matches, images, part.params)
    rows = [weight for _, weight in bootstrap.drawn(70, len(images), 3)]
    assert [len(rows[0]), len(rows[1])] == [64, 6]
    cells = bootstrap.number_cells(part.params)
    for number in (0, 63, 64, 69):
        one = np.concatenate(rows)[number : number + 1]
        expected = bootstrap.pick(*bootstrap.resample(curves, one, part.params.recall_thresholds), cells)[0]
        np.testing.assert_array_equal(found.samples[number], expected)


def test_each_image_is_drawn_as_often_as_any_other():
    """A resample has as many images as there are; the weights are those of a multinomial: mean 1, variance 1 - 1/I."""
    weight = np.concatenate([rows for _, rows in bootstrap.drawn(2000, 50, 7)])
    assert weight.shape == (2000, 50)
    assert (weight.sum(axis=1) == 50).all()
    np.testing.assert_allclose(weight.mean(axis=0), 1, atol=0.1)
    assert weight.var() == pytest.approx(1 - 1 / 50, rel=0.03)


def found_or_not(coco, people, found):
    """One person an image; the first `found` of them are found exactly, all others not at all."""
    rng = np.random.default_rng(0)
    rows, results = [], []
    for i in range(people):
        xy = rng.integers(0, 90, (17, 2))
        flat = np.hstack([xy, np.full((17, 1), 2)]).ravel().tolist()
        row = {"image_id": i + 1, "category_id": 1, "keypoints": flat}
        box = {"num_keypoints": 17, "area": 5000.0, "bbox": [0, 0, 90, 90], "iscrowd": 0}
        rows.append({**row, "id": i + 1, **box})
        results += [{**row, "score": 1 - i / 1000}] if i < found else []
    truth = {"images": [{"id": i + 1} for i in range(people)], "annotations": rows, "categories": [{"id": 1}]}
    return coco.Case(truth, results, {"sigmas": coco.sigmas})


def test_the_interval_of_a_share_is_the_binomial_one(coco):
    """AR of people found or not is a share p: its standard error is the root of p (1 - p) / n, which theory gives."""
    found = bootstrap.bootstrap(coco.part(found_or_not(coco, 200, 140)), n=1000, seed=1)
    ar = found.names.index("AR50")
    error = np.sqrt(0.7 * 0.3 / 200)
    assert found.estimate[ar] == 0.7
    assert found.samples[:, ar].std() == pytest.approx(error, rel=0.1)
    assert found.low[ar] == pytest.approx(0.7 - 1.96 * error, abs=0.012)
    assert found.high[ar] == pytest.approx(0.7 + 1.96 * error, abs=0.012)


def test_what_no_resample_can_average_has_no_interval(coco):
    """Everybody is medium here: APl is -1 as `summarize` has it, its interval NaN and null in JSON's place."""
    found = bootstrap.bootstrap(coco.part(found_or_not(coco, 5, 3)), n=20)
    large = found.names.index("APl")
    assert (found.estimate[large], np.isnan(found.low[large])) == (-1, True)
    report = found.to_json()
    assert (report["resamples"], report["seed"], report["level"]) == (20, 0, 0.95)
    assert list(report["intervals"]) == list(coco.names)
    assert report["intervals"]["AR50"]["value"] == 0.6


def test_the_same_seed_gives_the_same_samples(coco):
    """And a longer run begins with the shorter one; another seed gives others."""
    part = coco.part(found_or_not(coco, 40, 25))
    short, long = bootstrap.bootstrap(part, n=64, seed=5), bootstrap.bootstrap([part], n=100, seed=5)
    np.testing.assert_array_equal(short.samples, long.samples[:64])
    assert not np.array_equal(short.samples, bootstrap.bootstrap(part, n=64, seed=6).samples)


def test_percentiles_leave_nan_out():
    """Half the samples of one column are NaN: its interval is that of the others; a column of NaN has none, nor has one
    of people on a single image."""
    samples = np.stack([np.arange(101.0), np.where(np.arange(101) % 2, np.nan, np.arange(101.0)), np.full(101, np.nan)])
    low, high = bootstrap.percentiles(samples.T, 0.9)
    np.testing.assert_allclose((low[:2], high[:2]), ((5, 5), (95, 95)))
    assert np.isnan((low[2], high[2])).all()
    low, high = bootstrap.percentiles(samples.T, 0.9, np.array([1, 2, 0]))
    assert np.isnan((low[0], high[0])).all()
    assert (low[1], high[1]) == pytest.approx((5, 95))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "0 resamples"),
        ({"level": 1.0}, "level 1.0"),
        ({"level": -0.1}, "between 0 and 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(coco, options, words):
    """A number of resamples below 1 and a level that is no share, in words."""
    with pytest.raises(EvaluationError, match=words):
        bootstrap.bootstrap(coco.part(found_or_not(coco, 3, 2)), **options)


def test_nobody_to_resample():
    """Without parts every number is -1, as in the evaluation of nobody, and none has an interval."""
    found = bootstrap.bootstrap([], n=3, seed=2)
    assert (found.estimate == -1).all()
    assert (found.samples.shape, found.images.tolist()) == ((3, 10), [0] * 10)
    assert np.isnan([*found.low, *found.high, *found.samples.ravel()]).all()
    with pytest.raises(EvaluationError, match="0 resamples"):
        bootstrap.bootstrap([], n=0)


def on_images(case, image_of):
    """The case with its people, and who found them, on other images: those that `image_of` gives for the old."""
    for row in (*case.truth["annotations"], *case.results):
        row["image_id"] = image_of(row["image_id"])
    return case


def test_one_image_has_no_interval(coco):
    """Its resamples are all alike, so that low and high would be the number itself; images without people add none."""
    found = bootstrap.bootstrap(coco.part(on_images(found_or_not(coco, 5, 3), lambda image: 1)), n=20)
    ar = found.names.index("AR50")
    assert (found.estimate[ar], found.images[ar]) == (0.6, 1)
    assert np.isnan((found.low[ar], found.high[ar])).all()


def test_images_are_those_with_people_of_the_number(coco):
    """Medium people on two images and a large one on a third: AP has three images, APm two, and APl one, so that it has
    no interval."""
    case = on_images(found_or_not(coco, 5, 3), lambda image: min(image, 3))
    for row in case.truth["annotations"]:
        row["area"] = 5000.0 if row["image_id"] < 3 else 50000.0
    found = bootstrap.bootstrap(coco.part(case), n=20)
    images = dict(zip(found.names, found.images.tolist(), strict=True))
    assert images == {
        "AP": 3,
        "AP50": 3,
        "AP75": 3,
        "APm": 2,
        "APl": 1,
        "AR": 3,
        "AR50": 3,
        "AR75": 3,
        "ARm": 2,
        "ARl": 1,
    }
    known = {name for name, low in zip(found.names, found.low, strict=True) if not np.isnan(low)}
    assert known == set(found.names) - {"APl", "ARl"}


def test_columns_keep_their_images_side_by_side(coco):
    """The image counts go with the columns that are chosen; where nobody counted any, there are none."""
    found = bootstrap.bootstrap(coco.part(found_or_not(coco, 5, 3)), n=5)
    chosen = {"a": (found, found.names.index("APl")), "b": (found, found.names.index("AP"))}
    assert bootstrap.side_by_side(chosen).images.tolist() == [0, 5]
    assert bootstrap.side_by_side({**chosen, "c": (replace(found, images=None), 0)}).images is None


@pytest.mark.parametrize(
    ("people", "rows", "words"),
    [
        (20, [], []),
        (20, [{"by": "size", "slice": "small", "images": 10}], []),
        (9, [], ["8 of 8 numbers (AP on 9 images)"]),
        (20, [{"by": "size", "slice": "small", "images": 1}], ["1 of 1 slice (size small on 1 image)"]),
        (
            9,
            [{"by": "size", "slice": name, "images": count} for name, count in (("small", 9), ("large", 8), ("m", 10))],
            ["8 of 8 numbers (AP on 9 images), 2 of 3 slices (size large on 8 images)"],
        ),
    ],
)
def test_few_images_are_said(coco, people, rows, words):
    """One sentence counts the numbers that there are, and the slices, on fewer than ten images, and names the least."""
    found = bootstrap.on_few_images(bootstrap.bootstrap(coco.part(found_or_not(coco, people, 3)), n=2), rows)
    start = "intervals that rest on fewer than 10 images are too narrow, and one image gives none: "
    assert found == [start + tail for tail in words]


def test_few_images_are_not_said_of_intervals_that_do_not_know_theirs(coco):
    """`images` is None: nothing can be said of the numbers."""
    found = replace(bootstrap.bootstrap(coco.part(found_or_not(coco, 4, 3)), n=2), images=None)
    assert bootstrap.on_few_images(found, []) == bootstrap.on_few_images(None, []) == []


def test_no_predictions(coco):
    """All numbers are 0, in every resample, as they are without resampling."""
    found = bootstrap.bootstrap(coco.part(found_or_not(coco, 4, 0)), n=10)
    for name in ("AP", "AP50", "APm", "AR"):
        column = found.names.index(name)
        assert (found.samples[:, column] == 0).all()
        assert (found.low[column], found.high[column]) == (0, 0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_parts_are_averaged_as_categories_of_one(coco, seed):
    """A Part a category, as two skeletons make them, gives what one Part of all categories gives."""
    case = tidy(coco, seed)
    whole = coco.part(case)
    parts = []
    for category in whole.category_ids.tolist():
        case.category_ids = [category]
        parts.append(coco.part(case))
    one, several = bootstrap.bootstrap(whole, n=5, seed=seed), bootstrap.bootstrap(parts, n=5, seed=seed)
    np.testing.assert_allclose(several.estimate, one.estimate, rtol=0, atol=1e-12)
    np.testing.assert_allclose(several.samples, one.samples, rtol=0, atol=1e-12)
