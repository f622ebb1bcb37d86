"""Sigmas from repeated labels: known noise comes back, the estimator is its formula, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import schema
from kpdata.dataset import Dataset, build
from kpdata.errors import DestinationExists, EvaluationError, WriteError
from kpdata.eval.labels import Labels
from kpdata.eval.sigmas import estimate_sigmas, skeleton_toml, spread, write_skeleton
from kpdata.skeleton import Skeleton, load, names

FISH = Skeleton("fish_3", ("mouth", "left_fin", "right_fin"), flip_pairs=frozenset({("left_fin", "right_fin")}))
TRUE = np.array([0.03, 0.08, 0.15])


def dataset(xy, image, area=None, visibility=None, *, skeleton=FISH, ids=None, bbox=None, kind="mask", **columns):
    """People with keypoints xy (N, K, 2) on images (N,)."""
    n = len(xy)
    listed = np.unique(image)
    persons = {
        "annotation_id": schema.fixed(np.arange(1, n + 1) if ids is None else ids, pa.int64()),
        "image_id": schema.fixed(image, pa.int64()),
        "skeleton": schema.constant(skeleton.name, n),
        "keypoints": schema.rows(np.asarray(xy, float)),
        "visibility": schema.rows(
            np.full((n, len(skeleton)), 2, np.int8) if visibility is None else visibility, kind=pa.int8()
        ),
        **({} if area is None else {"area": schema.fixed(area, pa.float64())}),
        **({} if bbox is None else {"bbox": schema.rows(np.asarray(bbox, float))}),
        **columns,
    }
    return build(
        {"image_id": schema.fixed(listed, pa.int64())}, persons, num_images=len(listed), num_persons=n, name="d",
        provenance={"area_kind": kind}, skeletons=[skeleton],
    )  # fmt: skip


def annotators(n=400, count=2, seed=0, sigma=TRUE):
    """`count` labels of each of n people, one a picture: noise of the known sigma, in the plane. xy, area, image."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(2000, 20000, n)
    truth = rng.uniform(100, 900, (n, 1, 2)) + rng.uniform(-1, 1, (n, 3, 2)) * np.sqrt(area)[:, None, None]
    axis = sigma[None, :, None] / np.sqrt(2) * np.sqrt(area)[:, None, None]  # d² is of both axes together
    return [truth + rng.normal(0, 1, truth.shape) * axis for _ in range(count)], area, np.arange(n)


def two(n=400, seed=0, **more):
    (one, other), area, image = annotators(n, 2, seed)
    return dataset(one, image, area, **more), dataset(other, image, area)


@pytest.mark.parametrize("count", [2, 3])
def test_known_noise_comes_back(count):
    """Two annotators, or three labels in one file: the interval holds the sigma, and so does the robust one nearly."""
    labels, area, image = annotators(500, count, seed=3)
    if count == 2:
        estimate = estimate_sigmas(dataset(labels[0], image, area), dataset(labels[1], image, area))
    else:
        together = dataset(np.concatenate(labels), np.tile(image, 3), np.tile(area, 3))
        tracks = schema.fixed(np.tile(image, 3), pa.int64())
        index = together.persons.schema.get_field_index("track_id")
        estimate = estimate_sigmas(replace(together, persons=together.persons.set_column(index, "track_id", tracks)))
    assert (np.array(estimate.low) < TRUE).all()
    assert (np.array(estimate.high) > TRUE).all()
    np.testing.assert_allclose(estimate.robust, TRUE, rtol=0.15)
    assert estimate.pairs == (500, 500, 500)
    assert max(estimate.outliers) < 0.01
    assert estimate.people == 500
    assert estimate.labels == 500 * count


def test_the_interval_covers():
    """Of many repetitions with few people the 95 % interval misses the sigma about one time in twenty."""
    inside = []
    for seed in range(60):
        estimate = estimate_sigmas(*two(60, seed=seed), resamples=200)
        inside.append((np.array(estimate.low) < TRUE) & (np.array(estimate.high) > TRUE))
    assert 0.87 < np.mean(inside) <= 1.0


def naive(labels: Labels):
    """The module's formula, label by label."""
    k = labels.xy.shape[1]
    squares, freedom = np.zeros((len(labels.area), k)), np.zeros((len(labels.area), k), int)
    for g in range(len(labels.area)):
        for j in range(k):
            mine = [labels.xy[i, j] for i in range(len(labels.xy)) if labels.person[i] == g and labels.labelled[i, j]]
            if len(mine) > 1:
                middle = sum(mine) / len(mine)
                squares[g, j] = sum(float((p - middle) @ (p - middle)) for p in mine) / labels.area[g]
                freedom[g, j] = len(mine) - 1
    return squares, freedom


@given(st.integers(0, 2**32 - 1))
def test_the_estimator_is_its_formula(seed):
    """Any number of labels a person, any of them missing: a naive loop over labels gives the same sums."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(6), rng.integers(2, 5, 6)))
    xy = rng.normal(0, 20, (len(person), 3, 2))
    labels = Labels(FISH, xy, rng.random((len(person), 3)) < 0.7, person, rng.uniform(1, 100, 6), "", "")
    (squares, freedom), (want, counts) = spread(labels), naive(labels)
    np.testing.assert_allclose(squares, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(freedom, counts)


def test_two_labels_are_half_their_squared_distance():
    """With two labels sigma² is the mean of d² / 2 s²: the noise of one label, not of the difference."""
    a, b = two(50)
    d2 = np.square(a.keypoints - b.keypoints).sum(-1) / schema.values(a.persons["area"])[:, None]
    np.testing.assert_allclose(np.square(estimate_sigmas(a, b).sigmas), (d2 / 2).mean(0), rtol=1e-9)


def test_people_meet_by_box_where_ids_do_not():
    """Other ids, another order, people whom only one labelled: the same pairs as with ids, the rest told."""
    a, b = two(200)
    order = np.random.default_rng(1).permutation(200)[:150]
    ids = schema.fixed(np.arange(1000, 1150), pa.int64())
    shuffled = schema.take(b.persons, order)
    other = replace(b, persons=shuffled.set_column(0, "annotation_id", ids))
    by_box = estimate_sigmas(a, other)
    by_id = estimate_sigmas(a, replace(b, persons=shuffled))
    assert "annotation id" in by_id.facts["matching"]
    assert "extent of the keypoints" in by_box.facts["matching"]
    # A few small and very noisy people find no partner: extents of three keypoints overlap badly.
    assert 140 <= by_box.people <= 150
    np.testing.assert_allclose(by_box.sigmas, by_id.sigmas, rtol=0.1)
    assert any("50 labels of A" in note for note in by_id.notes)


def test_ids_that_meet_by_chance_are_not_believed():
    """Both number from 1, in another order: people are paired by their boxes, not by ids of strangers."""
    rng = np.random.default_rng(0)
    (one, other), area, _ = annotators(200, 2)
    image = np.repeat(np.arange(40), 5)
    one, other = (xy + (np.arange(200) % 5 * 3000)[:, None, None] for xy in (one, other))
    order = rng.permutation(5) + np.arange(0, 200, 5)[:, None]
    order = order.ravel()
    estimate = estimate_sigmas(dataset(one, image, area), dataset(other[order], image[order], area[order]))
    assert "overlapping" in estimate.facts["matching"]
    np.testing.assert_allclose(estimate.sigmas, TRUE, rtol=0.15)


def test_one_data_set_by_boxes_and_by_a_key():
    """Several labels of a person in one file: found by overlap, or by a key of the extras; chains are left out."""
    labels, area, image = annotators(100, 3)
    texts = schema.strings([f'{{"who": "p{i}"}}' for i in np.tile(image, 3)])
    box = np.concatenate([np.full((100, 2), 10.0), np.full((100, 2), 80.0)], axis=1)
    together = dataset(
        np.concatenate(labels), np.tile(image, 3), np.tile(area, 3), extras=texts, bbox=np.tile(box, (3, 1))
    )
    by_key, by_box = estimate_sigmas(together, group="who"), estimate_sigmas(together)
    assert by_key.sigmas == by_box.sigmas
    assert (by_key.facts["matching"], by_box.people) == ("by image and who", 100)
    moved = np.concatenate([box + np.array([step, 0, 0, 0]) for step in (0, 20, 40)])  # each overlaps the next only
    moved[2::100] = box[2]  # but those of one person are together
    chained = dataset(np.concatenate(labels), np.tile(image, 3), np.tile(area, 3), bbox=moved)
    estimate = estimate_sigmas(chained)
    assert estimate.people == 1
    assert any("297 labels overlap in chains" in note for note in estimate.notes)


def test_gross_errors_count_and_are_told():
    """Left and right swapped for every tenth person: the sigma says so, the robust one does not, a sentence does."""
    (one, other), area, image = annotators(400, 2)
    other[::10] = other[::10, [0, 2, 1]]
    estimate = estimate_sigmas(dataset(one, image, area), dataset(other, image, area))
    assert estimate.sigmas[1] > 2 * TRUE[1]
    np.testing.assert_allclose(estimate.robust[1], TRUE[1], rtol=0.2)
    assert 0.06 < estimate.outliers[1] < 0.11
    assert estimate.outliers[0] == 0
    assert any("left_fin" in note and "swapped" in note for note in estimate.notes)


def test_too_few_is_none_and_no_skeleton():
    """A keypoint with 29 people labelled twice has no sigma, and a skeleton with made-up ones is not given."""
    (one, other), area, image = annotators(60, 2)
    visibility = np.full((60, 3), 2, np.int8)
    visibility[29:, 2] = 0
    estimate = estimate_sigmas(dataset(one, image, area, visibility), dataset(other, image, area))
    assert estimate.pairs == (60, 60, 29)
    assert estimate.sigmas[2] is None
    assert estimate.low[2] is None
    assert estimate.table().column("sigma").null_count == 1
    assert any("right_fin (29)" in note for note in estimate.notes)
    with pytest.raises(EvaluationError, match=r"1 of 3 keypoints have fewer than 30 people .* right_fin \(29\)"):
        estimate.with_sigmas()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("far", "no person is labelled in both: 50 labels in A, 50 in B, on 0 common images"),
        ("k", r"A has 3 keypoints \(fish_3\), B 17 \(coco_17\)"),
        ("order", "column 1 is 'left_fin' in A .* and 'right_fin' in B"),
        ("area", "none of the 50 people labelled twice has an area"),
        ("copy", "the labels of all 50 people are equal to the last bit"),
        ("alone", "nobody is labelled twice: 50 labels"),
        ("key", "none of 50 people has a key 'who'"),
        ("empty", "none of 50 people has a labelled keypoint"),
        ("skeleton", r"'coco_17' \(17 keypoints\) was given, the labels have 'fish_3' \(3\)"),
        ("minimum", "minimum=1"),
    ],
)
def test_refusals_are_sentences(case, words):
    """What cannot be measured is refused with what was found."""
    (one, other), area, image = annotators(50, 2)
    a, b = dataset(one, image, area), dataset(other, image, area)
    mixed = replace(FISH, name="mixed", keypoint_names=("mouth", "right_fin", "left_fin"), landmarks=())
    cases: dict[str, tuple[tuple[Dataset, ...], dict]] = {
        "far": ((a, dataset(other, image + 1000, area)), {}),
        "k": ((a, dataset(np.ones((50, 17, 2)), image, area, skeleton=load("coco_17"))), {}),
        "order": ((a, dataset(other, image, area, skeleton=mixed)), {}),
        "area": ((dataset(one, image), dataset(other, image)), {}),
        "copy": ((a, a), {}),
        "alone": ((a,), {}),
        "key": ((a,), {"group": "who"}),
        "empty": ((a, dataset(other, image, area, np.zeros((50, 3), np.int8))), {}),
        "skeleton": ((a, b), {"skeleton": "coco_17"}),
        "minimum": ((a, b), {"minimum": 1}),
    }
    sides, options = cases[case]
    with pytest.raises(EvaluationError, match=words):
        estimate_sigmas(*sides, **options)


def test_areas_from_boxes_only_on_demand():
    """Without areas a share of the box is taken when asked for, or as the data set's own rule, and is named."""
    (one, other), area, image = annotators(50, 2)
    box = np.stack([np.zeros(50), np.zeros(50), np.sqrt(area), np.sqrt(area)], axis=1)
    want = np.array(estimate_sigmas(dataset(one, image, 0.53 * area), dataset(other, image, 0.53 * area)).sigmas)
    asked = estimate_sigmas(dataset(one, image, bbox=box), dataset(other, image, bbox=box), box_share=0.53)
    crowd = estimate_sigmas(*(dataset(xy, image, bbox=box, kind="box×0.53") for xy in (one, other)))
    for estimate in (asked, crowd):
        np.testing.assert_allclose(estimate.sigmas, want, rtol=1e-12)
        assert estimate.facts["area"] == "0.53 × w × h of the box"
    extent = np.stack([np.ptp(xy, axis=1).prod(-1) for xy in (one, other)]).mean(0)
    bare = estimate_sigmas(dataset(one, image), dataset(other, image), box_share=0.4)
    want = estimate_sigmas(dataset(one, image, 0.4 * extent), dataset(other, image, 0.4 * extent)).sigmas
    np.testing.assert_allclose(bare.sigmas, want, rtol=1e-12)
    assert "keypoints' extent" in bare.facts["area"]
    # One annotator's file has areas: they stand for the person, and nothing else does.
    half = estimate_sigmas(dataset(one, image, area), dataset(other, image), box_share=0.4)
    assert half.sigmas == estimate_sigmas(dataset(one, image, area), dataset(other, image, area)).sigmas


def test_the_same_seed_gives_the_same_intervals():
    """Everything is a function of the data and the seed."""
    sides = two(80)
    assert estimate_sigmas(*sides, seed=4).to_json() == estimate_sigmas(*sides, seed=4).to_json()
    assert estimate_sigmas(*sides, seed=4).low != estimate_sigmas(*sides, seed=5).low


@pytest.mark.parametrize("name", names())
def test_skeleton_files_come_back(name, tmp_path):
    """A written skeleton is read back as it was: every built-in one, bit for bit."""
    own = replace(load(name), name="own")
    write_skeleton(own, tmp_path / "own.toml")
    assert load(tmp_path / "own.toml") == own


def test_measured_sigmas_in_a_file(tmp_path):
    """The file of a measured skeleton holds ten times each sigma, names its source, and gives the same bits."""
    measured = estimate_sigmas(*two(100)).with_sigmas("my_fish")
    write_skeleton(measured, tmp_path / "fish.toml")
    text = (tmp_path / "fish.toml").read_text()
    assert "divisor = 10.0" in text
    assert load(tmp_path / "fish.toml") == measured
    assert "200 labels of 100 people" in (measured.sigma_source or "")
    with pytest.raises(DestinationExists):
        write_skeleton(measured, tmp_path / "fish.toml")
    with pytest.raises(WriteError, match=r"fish\.json: a skeleton file is TOML"):
        write_skeleton(measured, tmp_path / "fish.json")


def test_odd_names_in_a_file(tmp_path):
    """Quotes, backslashes, blanks and control characters of names survive TOML."""
    odd = Skeleton('a "b"\\\n', ("x\ty", "ü\x7f", "'"), aliases=(("'", "q\x01"),), sigmas=(0.1, 1 / 3, 1e-9))
    (tmp_path / "odd.toml").write_text(skeleton_toml(odd), encoding="utf-8")
    assert load(tmp_path / "odd.toml") == odd
