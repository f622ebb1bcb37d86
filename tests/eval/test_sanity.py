"""Files that are wrong as a whole: each is told for what it is, and good or merely bad models raise no alarm."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import converters, schema
from kpdata.converters import coco as coco_format
from kpdata.converters import coco_results
from kpdata.eval import sanity as checks
from kpdata.eval.part import pair
from kpdata.eval.prepare import prepare
from kpdata.eval.sanity import unmet_ids
from kpdata.eval.suspects import suspects
from kpdata.skeleton import Skeleton, load
from kpdata.synth import simulate_predictions, synthesize

FLIP = load("coco_17").flip_index()


@pytest.fixture(scope="module")
def people():
    return synthesize(60, seed=1)


@pytest.fixture(scope="module")
def found(people):
    return simulate_predictions(people, seed=2)[0]


def sanity(sides, stats=None, *, seed=0):
    return checks.told(sides, checks.findings(sides, seed=seed), stats)


def column(dataset, name, array):
    index = dataset.persons.schema.get_field_index(name)
    return replace(dataset, persons=dataset.persons.set_column(index, name, array))


def posed(dataset, xy):
    return column(dataset, "keypoints", schema.rows(np.ascontiguousarray(xy, float).reshape(len(dataset), -1)))


def numbered(dataset, name, values, kind=None):
    return column(dataset, name, schema.fixed(np.asarray(values), kind or pa.float64()))


def told(gt, predictions, stats=None):
    return sanity(prepare(gt, predictions, []), stats)


def image_sizes(dataset):
    rows = dataset.image_rows()
    return np.stack([schema.values(dataset.images[name])[rows] for name in ("width", "height")], axis=1)[:, None]


# ------------------------------------------------------------------------------------------------------ no false alarm

REAL = {
    ("coco_mini/person_keypoints_val2017.json", "coco_mini/movenet_multipose_val2017_results.json"): (),
    ("coco_mini/person_keypoints_val2017.json", "coco_mini/movenet_thunder_gtbox_val2017_results.json"): (),
    ("coco_mini/person_keypoints_train2017.json", "coco_mini/movenet_multipose_train2017_results.json"): (),
    ("coco_mini/person_keypoints_train2017.json", "coco_mini/movenet_thunder_gtbox_train2017_results.json"): (),
    ("coco_mmpose4/test_coco.json", "coco_mmpose4/hrnet_preds_xtcocoapi.json"): (),
    # True of these two: visibilities for scores, and scores that sum keypoints.
    (
        "coco_fakekeypoints100/DERIVED_person_keypoints_val2014_100.json",
        "coco_fakekeypoints100/person_keypoints_val2014_fakekeypoints100_results.json",
    ): ("third values are all 0, 1, 2",),
    ("crowdpose/example_crowdpose_val.json", "crowdpose/example_crowdpose_preds.json"): ("scores go up to 1.79",),
}


@pytest.mark.parametrize("files", REAL, ids=lambda files: files[1].rpartition("/")[2])
def test_real_files_raise_no_false_alarm(real_data, files):
    """Real models of any quality: nothing is said but what is true."""
    sentences = told(*(converters.read(real_data / name) for name in files))
    assert len(sentences) == len(REAL[files])
    for sentence, words in zip(sentences, REAL[files], strict=True):
        assert words in sentence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"jitter": 0.4, "inversion": 0.3, "swap": 0.05, "miss": 0.2},
        {"missed_people": 0.5, "false_positives": 1.0},
        {"jitter": 0.0, "inversion": 0.0, "swap": 0.0, "miss": 0.9},
    ],
    ids=["good", "confused", "half-blind", "hopeless"],
)
def test_bad_models_are_no_faulty_files(seed, model):
    """Errors of models, however many, are not explained by a fault of the files."""
    gt = synthesize(20, seed=seed)
    assert told(gt, simulate_predictions(gt, seed=seed, **model)[0]) == []


def test_small_and_empty_data(people, found):
    """Two people, no predictions: nothing can be said, and nothing breaks."""
    few = np.arange(2)
    assert told(people, found.select(persons=few)) == []
    assert told(people, found.select(persons=np.empty(0, np.int64))) == []
    assert told(people.select(persons=few), found.select(persons=np.empty(0, np.int64)), {"AP": 0.0}) == []


# ------------------------------------------------------------------------------------------------- poses all misplaced

SCALED = np.array([192, 256])
POSES = {
    "half the size": (lambda xy, size: xy / 2, "look 0.5 x the ground truth's size"),
    "larger": (lambda xy, size: xy * 1.25, "look 1.2 x the ground truth's size"),
    "exchanged axes": (lambda xy, size: xy[..., ::-1], "x and y are exchanged"),
    "left and right": (lambda xy, size: xy[:, FLIP], "left and right are exchanged: for 9"),
    "normalised": (lambda xy, size: xy / size, "the predictions' coordinates are normalised"),
    "nothing": (lambda xy, size: xy * 0, "all coordinates of the predictions are 0"),
    "padded": (lambda xy, size: xy + np.array([0, 80]), r"predictions are shifted by -0, +80 px"),
    "flipped image": (
        lambda xy, size: np.stack([size[..., 0] - 1 - xy[:, FLIP, 0], xy[:, FLIP, 1]], -1),
        "predictions are mirrored, left and right exchanged",
    ),
    "mirrored": (
        lambda xy, size: np.stack([size[..., 0] - 1 - xy[..., 0], xy[..., 1]], -1),
        "predictions are mirrored (x became width - 1 - x)",
    ),
    "stretched": (lambda xy, size: xy * SCALED / size, "resized to about 192 x 25"),
    "cropped": (
        lambda xy, size: (xy - xy.min(1, keepdims=True)) / np.ptp(xy, axis=1)[:, None].max(-1, keepdims=True) * 250,
        "pixels of each person's crop",
    ),
    "feet and knees": (
        lambda xy, size: xy[:, [*range(13), 15, 16, 13, 14]],
        "column 13 (left_knee) holds left_ankle, column 14 (right_knee) holds right_ankle, column 15",
    ),
}


@pytest.mark.parametrize("case", POSES)
def test_every_pose_is_wrong_in_one_way(people, found, case):
    """The one transformation of all predictions is named, and nothing else with it."""
    change, words = POSES[case]
    sentences = told(people, posed(found, change(found.keypoints, image_sizes(found))))
    assert len(sentences) == 1, sentences
    assert words in sentences[0]


def test_images_letterboxed_to_one_size():
    """Images of several sizes in a network's square: the side of the square and the padding are found."""
    wide, tall = synthesize(30, seed=1), synthesize(30, seed=2, size=(360, 500))
    from kpdata.merging import merge

    gt = merge([wide, tall])[0]
    predictions = simulate_predictions(gt, seed=1)[0]
    size = image_sizes(predictions)
    ratio = 512 / size.max(2, keepdims=True)
    boxed = predictions.keypoints * ratio + (512 - size * ratio) / 2
    assert "resized to 512 px on the longer side and padded to a square" in told(gt, posed(predictions, boxed))[0]
    assert "resized to 512 px on the longer side:" in told(gt, posed(predictions, predictions.keypoints * ratio))[0]


def test_openpose_order(people, found):
    """Columns in OpenPose's order without its neck: the skeleton is recognised, the columns are named."""
    names, order = load("coco_17").keypoint_names, load("openpose_coco_18").keypoint_names
    xy = found.keypoints[:, [names.index(name) for name in order if name != "neck"]]
    (sentence,) = told(people, posed(found, xy))
    assert "column 1 (left_eye) holds right_shoulder" in sentence
    assert "the order is that of openpose_coco_18 without neck" in sentence


def test_another_data_set_order():
    """CrowdPose people in the order of LSP: 14 columns both, the order is recognised."""
    gt = synthesize(40, seed=3, skeleton="crowdpose_14")
    predictions = simulate_predictions(gt, seed=1)[0]
    theirs = [mark.partition("/")[0] for mark in load("lsp_14").landmarks]
    mine = [mark.partition("/")[0] for mark in load("crowdpose_14").landmarks]
    (sentence,) = told(gt, posed(predictions, predictions.keypoints[:, [mine.index(point) for point in theirs]]))
    assert "another order than crowdpose_14's" in sentence
    assert sentence.endswith("the order is that of lsp_14")


def test_one_based_coordinates(people):
    """A pixel aside in x and y, where predictions are good enough to see it."""
    rng = np.random.default_rng(0)
    predictions, truth = simulate_predictions(people, seed=2, jitter=0, inversion=0, swap=0, miss=0, false_positives=0)
    from kpdata.arrays import lookup

    rows = lookup(schema.values(people.persons["annotation_id"]), schema.values(truth["gt_annotation_id"]))
    exact = people.keypoints[rows] + rng.normal(0, 1, (len(rows), 17, 2))
    assert told(people, posed(predictions, exact)) == []
    (sentence,) = told(people, posed(predictions, exact + 1))
    assert "are they 1-based? shift them by -1 px" in sentence
    (sentence,) = told(people, posed(predictions, exact - 1))
    assert "are they 0-based, the ground truth 1-based? shift them by +1 px" in sentence


@pytest.mark.parametrize("step", [1, -1])
def test_ids_shifted_by_one(people, found, step):
    """Every id is the neighbour's: ids that are listed all the same are not believed."""
    ids = schema.values(found.persons["image_id"]) - step
    kept = np.isin(ids, schema.values(people.images["image_id"]))
    moved = numbered(found, "image_id", ids, pa.int64()).select(persons=kept)
    (sentence,) = told(people, moved)
    assert f"add {step} to each image_id" in sentence


def test_the_same_seed_says_the_same(people, found):
    """Deterministic, with images drawn or not."""
    sides = prepare(people, posed(found, found.keypoints / 2), [])
    assert sanity(sides, seed=3) == sanity(sides, seed=3)


# -------------------------------------------------------------------------------------------------- fields and ids


def fields(people, found):
    """case -> (ground truth, predictions, words)."""
    n, m = len(people), len(found)
    flat = schema.ragged(people.persons["bbox"])[0].reshape(-1, 4)
    corners = np.concatenate([flat[:, :2], flat[:, :2] + flat[:, 2:]], axis=1)
    first = np.flatnonzero(np.diff(schema.values(found.persons["image_id"]), prepend=-1))
    cut = schema.values(found.persons["image_id"]) <= schema.values(people.images["image_id"])[30]
    third = np.random.default_rng(0).choice([0.0, 1.0, 2.0], (m, 17))
    most = schema.values(people.persons["num_keypoints"])
    area = schema.values(people.persons["area"])
    score = schema.values(found.persons["score"])
    visible = people.visibility.copy()
    visible[::2] = 0
    return {
        "one area": (numbered(people, "area", np.full(n, 9000.0)), found, f"all {n} people have the area 9000"),
        "area 1": (numbered(people, "area", np.ones(n)), found, "the area of 100% of the people is 1 or less (a place"),
        "area share": (numbered(people, "area", area / 640 / 480), found, "1 or less (normalised to the image?)"),
        "area of another unit": (numbered(people, "area", area / 400), found, "times the box around the labelled"),
        "no num_keypoints": (numbered(people, "num_keypoints", most * 0, pa.int32()), found, "is 0 for all"),
        "wrong num_keypoints": (numbered(people, "num_keypoints", most + 20, pa.int32()), found, "the skeleton has 17"),
        "lost visibility": (
            column(people, "visibility", schema.rows(visible, kind=pa.int8())), found,
            "num_keypoints is larger than the number of labelled keypoints",
        ),
        "zero scores": (people, numbered(found, "score", np.zeros(m)), f"all {m} predictions have the score 0"),
        "large scores": (people, numbered(found, "score", 3.2 * score), "scores go up to"),
        "flags": (people, column(found, "keypoint_scores", schema.rows(third)), "third values are all 0, 1, 2: flags"),
        "one an image": (people, found.select(persons=first), "one prediction an image, while"),
        "stopped": (people, found.select(persons=cut), "they end at image 31 of 60: did the run stop?"),
        "corners": (
            column(people, "bbox", schema.rows(corners)), found, "the ground truth's boxes fit the keypoints as x0, y0"
        ),
        "twice": (people, replace(found, persons=pa.concat_tables([found.persons] * 2)), f"{m} of {2 * m} predictions"),
        "normalised truth": (
            numbered(posed(people, people.keypoints / image_sizes(people)), "area", area), found,
            "the ground truth's coordinates are normalised",
        ),
    }  # fmt: skip


FIELDS = (
    "one area", "area 1", "area share", "area of another unit", "no num_keypoints", "wrong num_keypoints",
    "lost visibility", "zero scores", "large scores", "flags", "one an image", "stopped", "corners", "twice",
    "normalised truth",
)  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_cannot_be(people, found, case):
    """Each wrong field has its sentence."""
    gt, predictions, words = fields(people, found)[case]
    sentences = told(gt, predictions)
    assert any(words in sentence for sentence in sentences), sentences


def test_a_low_number_has_a_because(people, found):
    """AP near 0 or -1 is told with its cause; without a fault of the files, what the poses look like is said."""
    ones = numbered(people, "area", np.ones(len(people)))
    assert told(ones, found, {"AP": 0.0012})[0].startswith("AP is 0.001 because the area of 100%")
    zeros = numbered(people, "num_keypoints", np.zeros(len(people)), pa.int32())
    assert told(zeros, found, {"AP": -1.0})[0].startswith("AP is -1 because num_keypoints is 0 for all")
    assert told(ones, found, {"AP": 0.7})[0].startswith("the area")
    hopeless = simulate_predictions(people, seed=1, jitter=0, inversion=0, swap=0, miss=1.0)[0]
    (sentence,) = told(people, hopeless, {"AP": 0.0})
    assert sentence.startswith("AP is 0.000 and no fault of the files explains it")


def test_several_skeletons_are_told_apart(people, found):
    """With more than one skeleton a sentence says which it is about."""
    sides = prepare(people, posed(found, found.keypoints / 2), [])
    sentences = sanity(replace(sides, parts=sides.parts * 2))
    assert len(sentences) == 2
    assert all(sentence.startswith("coco_17: predictions look 0.5 x") for sentence in sentences)


def test_ids_that_do_not_meet(people, found):
    """Shifted ids, ids from file names, file names without ending: each is seen in the ids alone."""
    assert unmet_ids(people, found) == []
    ids = schema.values(found.persons["image_id"])
    listed = schema.values(people.images["image_id"])
    moved = numbered(found, "image_id", ids - 1, pa.int64())
    assert unmet_ids(people, moved)[1].startswith("with +1 on each")
    names = schema.strings([f"val/{i * 1000 + 7:012d}.jpg" for i in listed.tolist()])
    index = people.images.schema.get_field_index("file_name")
    gt = replace(people, images=people.images.set_column(index, "file_name", names))
    by_name = unmet_ids(gt, numbered(found, "image_id", ids * 1000 + 7, pa.int64()))
    assert any("are the numbers in its file names" in sentence for sentence in by_name)
    stems = schema.strings([f"{i * 1000 + 7:012d}" for i in listed.tolist()])
    index = found.images.schema.get_field_index("source_image_id")
    texts = replace(found, images=found.images.set_column(index, "source_image_id", stems))
    assert any("when endings and folders are left out" in sentence for sentence in unmet_ids(gt, texts))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_whatever_stands_in_the_files(coco, seed, strange):
    """Crowds, repeated ids, no people, NaN and infinite numbers: sentences or none, never an error."""
    case = coco.random_case(seed, strange=strange)
    k = len(case.settings["sigmas"])
    bones = Skeleton("any", tuple(f"k{i}" for i in range(k)), sigmas=(0.05,) * k)
    if not case.truth["annotations"] or not case.results:
        return
    gt = coco_format.decode(case.truth, source="gt.json")
    sides = prepare(gt, coco_results.decode(case.results, source="dt.json"), [], skeleton=bones)
    for stats in (None, {"AP": -1.0}, {"AP": 0.0}):
        assert all(isinstance(sentence, str) and sentence for sentence in sanity(sides, stats))
    part = sides.parts[0] if sides.parts else None
    if part is not None:
        table = suspects(part, pair(part), sides.gt, sides.predictions, least=0.0, limit=None)
        assert not np.isnan(schema.values(table["score"])).any()


def test_it_is_fast():
    """Looking costs little beside scoring: a sample is looked at where that is enough."""
    gt = synthesize(100, seed=5, people=(2, 4))
    predictions = simulate_predictions(gt, seed=1)[0]
    sides = prepare(gt, predictions, [])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        sanity(sides)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.4
