"""The views answer their questions: their rows are those that a loop over the table picks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kpdata import schema
from kpdata.browse.people import gather
from kpdata.browse.views import find, views
from kpdata.errors import BrowseError
from kpdata.eval.errors import Kind
from kpdata.synth import simulate_predictions, synthesize


@pytest.fixture(scope="module")
def people():
    gt = synthesize(60, seed=7, people=(2, 5))
    return gather(gt, simulate_predictions(gt, seed=1)[0], compare=simulate_predictions(gt, seed=2)[0])


@pytest.fixture(scope="module")
def rows(people):
    return people.table.to_pylist()


def _rows(people, name):
    return find(people, name).rows.tolist()


def test_kinds(people, rows):
    """Missed people and false positives are the rows of those kinds, in the table's order."""
    assert _rows(people, "missed") == [i for i, row in enumerate(rows) if row["kind"] == "missed person"]
    kinds = ("background", "duplicate")
    assert _rows(people, "false positives") == [i for i, row in enumerate(rows) if row["kind"] in kinds]
    assert _rows(people, "everybody") == list(range(len(rows)))


def test_sure_and_wrong(people, rows):
    """Worst: OKS below 0.75, and at least half of the predictions score no higher; the table's order."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    expected = []
    for i, row in enumerate(rows):
        if row["oks"] is not None and row["oks"] < 0.75:
            share = sum(score <= row["score"] for score in scores) / len(scores)
            expected += [i] if share >= 0.5 else []
    assert _rows(people, "worst") == expected != []


@pytest.mark.parametrize(("name", "kind"), [("inversions", Kind.INVERSION), ("swaps", Kind.SWAP)])
def test_confusions(people, rows, name, kind):
    """Whoever has such a keypoint, most keypoints first."""
    count = {i: (row["classes"] or []).count(int(kind)) for i, row in enumerate(rows)}
    found = _rows(people, name)
    assert sorted(found) == [i for i, number in count.items() if number]
    numbers = [count[i] for i in found]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1]


def test_misses_of_a_keypoint(people, rows):
    """One view a keypoint, the farthest first."""
    names = people.skeletons["coco_17"].keypoint_names
    shown = 0
    for k, name in enumerate(names):
        expected = [i for i, row in enumerate(rows) if row["classes"] and row["classes"][k] == Kind.MISS]
        if not expected:
            continue
        found = _rows(people, f"missed {name}")
        assert sorted(found) == expected
        far = [rows[i]["error_sigma"][k] for i in found]
        assert far == sorted(far, reverse=True)
        shown += 1
    assert shown > 10


@pytest.mark.parametrize(
    ("name", "column", "least"),
    [("lost", "lost", 0.05), ("crowded", "crowding", 0.3), ("occluded", "occluded_share", 0.5)],
)
def test_columns(people, rows, name, column, least):
    """Views of a number hold exactly those above its bound."""
    expected = [i for i, row in enumerate(rows) if row[column] is not None and row[column] > least]
    assert sorted(_rows(people, name)) == expected != []


def test_the_most_lost_come_first(people, rows):
    """People whom the other model found better are sorted by how much."""
    lost = [rows[i]["lost"] for i in _rows(people, "lost")]
    assert lost == sorted(lost, reverse=True)


def test_the_hardest_tenth(people):
    """Of a ledger's losses the top tenth, highest first."""
    count = people.table.num_rows
    loss = np.random.default_rng(0).random(count)
    index = people.table.schema.get_field_index("loss")
    table = people.table.set_column(index, people.table.schema.field("loss"), schema.fixed(loss, pa.float64()))
    found = find(replace(people, views=views(replace(people, table=table))), "loss").rows
    assert len(found) == pytest.approx(count / 10, abs=1)
    assert found.tolist() == np.argsort(-loss)[: len(found)].tolist()


def test_every_view_says_what_it_shows(people):
    """Names are unique, sentences end, nobody is shown twice, and an empty view is left out."""
    assert len({view.name for view in people.views}) == len(people.views)
    for view in people.views:
        assert view.sentence.endswith(".")
        assert len(view.rows) == len(set(view.rows.tolist())) > 0
    with pytest.raises(BrowseError, match="no view 'loss' shows anybody here"):
        find(people, "loss")


def test_annotations_alone():
    """Without predictions there are views of labels only."""
    people = gather(synthesize(30, seed=7))
    names = {view.name for view in people.views}
    assert names <= {"everybody", "findings", "few keypoints", "crowded", "occluded", "truncated"}
    assert {"everybody", "crowded", "truncated"} <= names


def test_real_failures(real_data):
    """MoveNet on COCO photographs: failures that were looked at by eye are where they belong."""
    from kpdata import read

    folder = real_data / "coco_mini"
    gt = read(folder / "person_keypoints_val2017.json")
    people = gather(gt, read(folder / "movenet_multipose_val2017_results.json"), images=folder / "val2017")
    ids = people.table["annotation_id"].to_pylist()
    shown = {view.name: [ids[i] for i in view.rows.tolist()] for view in people.views}
    assert 2157947 in shown["inversions"]  # a man seen from behind, taken for one who faces us
    assert 198481 in shown["worst"]  # a long robe: the skeleton lies on one half of it
    assert {2161544, 2161599} <= set(shown["missed"])  # a reader behind a book, and one behind the feet
    names = people.table["file_name"].to_pylist()
    assert "000000519611.jpg" in [names[i] for i in find(people, "false positives").rows.tolist()]  # a polar bear
