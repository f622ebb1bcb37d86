"""Pictures of two models and of scores: what is in them, in what order and colour, and what they refuse."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kpdata import schema
from kpdata.errors import DestinationExists, EvaluationError, FormatError
from kpdata.eval import evaluate
from kpdata.eval.comparison import beyond_chance, compare
from kpdata.eval.report import figures, plots
from kpdata.skeleton import load
from kpdata.synth import simulate_predictions, synthesize

BLUE, RED, GREY = "#0072b2", "#d55e00", "#aaaaaa"


@pytest.fixture(scope="module")
def gt():
    return synthesize(40, seed=3, size=(320, 240), people=(1, 3))


@pytest.fixture(scope="module")
def first(gt):
    return evaluate(gt, simulate_predictions(gt, seed=1, jitter=0.1)[0])


@pytest.fixture(scope="module")
def second(gt):
    """The same, with the ankles far off."""
    found = simulate_predictions(gt, seed=1, jitter=0.1)[0]
    xy = found.keypoints.copy()
    xy[:, [15, 16]] += 25
    index = found.persons.schema.get_field_index("keypoints")
    column = schema.rows(xy.reshape(len(xy), -1))
    return evaluate(gt, replace(found, persons=found.persons.set_column(index, "keypoints", column)))


def drawn(path):
    """The texts of an SVG, in order, and its markup. (matplotlib writes each text as a comment before its glyphs.)"""
    markup = path.read_text(encoding="utf-8")
    return re.findall(r"<!-- (.*?) -->", markup), markup


def test_two_models(first, second, tmp_path):
    """The verdict, every number with both values, slices, and the keypoints: what B lost most at the top, in red."""
    found = compare(first, second, n=100)
    found.plot(tmp_path / "c.svg", about="A: a.json\nB: b$b.json")
    texts, markup = drawn(tmp_path / "c.svg")
    assert found.verdict() in texts and "A: a.json" in texts and "B: b$b.json" in texts
    assert any(text.startswith("bars: 95 % intervals, 100 resamples of 40 images; ") for text in texts)
    for name, a, b in zip(found.names, found.numbers.a, found.numbers.b, strict=True):
        assert any(text.startswith(f"{name}  {100 * a:.1f} → {100 * b:.1f}") for text in texts) or np.isnan(a)
    names = [name.replace("_", " ") for name in load("coco_17").keypoint_names]
    keypoints = [text for text in texts if text in names]
    assert set(keypoints) == set(names) and set(keypoints[-2:]) == {"left ankle", "right ankle"}  # from below
    assert {f"{row['by']}: {row['slice']}" for row in found.slices.to_pylist()} <= set(texts)
    assert RED in markup.lower() and BLUE not in markup.lower() and "A is better" in texts
    compare(second, first, n=100).plot(tmp_path / "d.svg")
    texts, markup = drawn(tmp_path / "d.svg")
    assert BLUE in markup.lower() and RED not in markup.lower() and "B is better" in texts


def test_a_model_and_itself(first, tmp_path):
    """All in grey: nothing is beyond chance."""
    compare(first, first, n=20).plot(tmp_path / "c.svg")
    texts, markup = drawn(tmp_path / "c.svg")
    assert GREY in markup.lower() and RED not in markup.lower() and BLUE not in markup.lower()
    assert "could be chance" in texts and "A is better" not in texts


@pytest.mark.parametrize("metric", ["pck", "epe", "nme", "pcp"])
def test_of_single_people(gt, metric, tmp_path):
    """Of errors less is better; EPE is in pixels, and its `missing`, a share, is left out."""
    good, bad = (simulate_predictions(gt, seed=1, jitter=off, miss=off)[0] for off in (0.02, 0.4))
    compare(evaluate(gt, good, metric=metric), evaluate(gt, bad, metric=metric), n=50).plot(tmp_path / "c.svg")
    texts, markup = drawn(tmp_path / "c.svg")
    assert RED in markup.lower() and BLUE not in markup.lower()
    unit = "px" if metric == "epe" else "points"
    assert f"Numbers, B − A in {unit}" in texts
    assert any(text.startswith("missing ") for text in texts) == (metric != "epe")
    assert any(text.startswith("Limbs, PCP@0.5") for text in texts) == (metric == "pcp")


def test_many_keypoints_stand_in_columns(tmp_path):
    """133 rows are no picture of forty inches: columns of one scale, and every name once."""
    count = 133
    delta = np.linspace(-5, 5, count)
    names = [f"keypoint_{k}" for k in range(count)]
    rows = plots.Rows("Keypoints", names, delta, delta - 1, delta + 1, np.abs(delta) > 2, np.zeros(count, bool))
    few = plots.Rows("Numbers", ["AP"], *np.zeros((3, 1)), np.zeros(1, bool), np.zeros(1, bool))
    plots.plot_differences(["words"], [few], rows, tmp_path / "c.svg", unit="B − A")
    texts, markup = drawn(tmp_path / "c.svg")
    assert [texts.count(name.replace("_", " ")) for name in names] == [1] * count
    wide, high = (float(re.search(rf'{key}="([\d.]+)pt"', markup)[1]) / 72 for key in ("width", "height"))
    assert high < 16 and wide < 30
    assert texts.count("Keypoints, B − A") == 1


def test_long_names(gt, first, tmp_path):
    """Beginning and end of a name that would leave no room for the picture; a $ is no formula."""
    bones = load("coco_17")
    names = tuple(f"my_studio_keypoint_of_$version_two_{name}" for name in bones.keypoint_names)
    long = replace(bones, name="studio", keypoint_names=names, flip_pairs=frozenset(), edges=(), landmarks=("",) * 17)
    result = evaluate(gt, first.sides.predictions, skeleton=long)
    compare(result, result, n=5).plot(tmp_path / "c.svg")
    result.plot_keypoints(tmp_path / "k.svg")
    for name in ("c.svg", "k.svg"):
        assert "my studio keypoi…wo right wrist" in drawn(tmp_path / name)[0]
    assert max(len(figures.short(name)) for name in names) <= 31


def test_what_is_not_drawn(first, gt, tmp_path):
    """No picture's ending, a file that is there, nobody to compare."""
    found = compare(first, first, n=5)
    with pytest.raises(FormatError, match=r"not written as '\.txt'"):
        found.plot(tmp_path / "c.txt")
    found.plot(tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 800
    with pytest.raises(DestinationExists):
        found.plot(tmp_path / "c.png")
    index = gt.persons.schema.get_field_index("num_keypoints")
    nothing = schema.fixed(np.zeros(len(gt)), gt.persons.schema.field("num_keypoints").type)
    nobody = evaluate(
        replace(gt, persons=gt.persons.set_column(index, "num_keypoints", nothing)), first.sides.predictions
    )
    with pytest.raises(EvaluationError, match="no AP to compare"):
        compare(nobody, nobody, n=5).plot(tmp_path / "n.png")


def test_scores(first, tmp_path):
    """Reliability of people and keypoints with their ECE, the cuts, precision and recall, below them the keypoints."""
    scores = first.calibration()
    plots.plot_scores(first, scores, tmp_path / "s.svg")
    texts, _ = drawn(tmp_path / "s.svg")
    assert f"ECE {scores[0].persons.ece_50:.3f} at OKS 0.5" in texts
    assert f"ECE {scores[0].keypoints.ece_50:.3f} at term 0.5" in texts
    for words in (
        "Which scores to keep",
        "Precision and recall",
        "OKS 0.75",
        "F1",
        "OKS of found keypoints",
        "left ankle",
    ):
        assert words in texts, words


def test_scores_that_have_no_ece(gt, first, tmp_path):
    """Logits are drawn over their own range, no predictions as empty panels: both with the reason."""
    found = first.sides.predictions
    index = found.persons.schema.get_field_index("score")
    logits = schema.fixed(20 * schema.values(found.persons["score"]) - 8, found.persons.schema.field("score").type)
    odd = evaluate(gt, replace(found, persons=found.persons.set_column(index, "score", logits)))
    plots.plot_scores(odd, odd.calibration(), tmp_path / "s.svg")
    assert "no ECE: no probabilities" in drawn(tmp_path / "s.svg")[0]
    none = evaluate(gt, found.select(persons=np.zeros(len(found), bool)))
    plots.plot_scores(none, none.calibration(), tmp_path / "n.svg")
    texts = drawn(tmp_path / "n.svg")[0]
    assert "nothing was predicted" in texts and "no finite scores, or nobody to find" in texts
    assert not any(text.startswith("−") for text in texts)  # no axis of its own invention


def test_large_scores_leave_their_axes_readable(gt, first, tmp_path):
    """Scores of hundred thousands stand on the axes as few short numbers, and how many times more they are."""
    found = first.sides.predictions
    index = found.persons.schema.get_field_index("score")
    large = schema.fixed(7e5 * schema.values(found.persons["score"]), found.persons.schema.field("score").type)
    odd = evaluate(gt, replace(found, persons=found.persons.set_column(index, "score", large)))
    plots.plot_scores(odd, odd.calibration(), tmp_path / "s.svg")
    texts = drawn(tmp_path / "s.svg")[0]
    assert texts.count("1e5") == 2
    assert not [text for text in texts if text.isdigit() and len(text) > 3]


def test_tests_that_are_beyond_chance():
    """Benjamini and Hochberg's step-up rule, as a loop; NaN is no test."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = np.where(rng.random(30) < 0.2, np.nan, rng.random(30) ** 3)
        known = sorted(value for value in p.tolist() if value == value)
        passed = [value for i, value in enumerate(known, 1) if value <= 0.05 * i / len(known)]
        most = max(passed, default=-1.0)
        assert beyond_chance(p, 0.95).tolist() == [value <= most for value in p.tolist()]
    assert beyond_chance(np.array([np.nan]), 0.95).tolist() == [False]
