"""What a reviewer said comes back into the data, that and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import evaluate, read, schema, write
from kpdata.browse import labelme_out
from kpdata.browse.people import data_key, gather
from kpdata.browse.review import apply_review, decode, read_review
from kpdata.errors import BrowseError, DestinationExists, FormatError
from kpdata.synth import simulate_predictions, synthesize, write_images

GT = synthesize(25, seed=7)
NAMES = GT.skeleton.keypoint_names
IDS = GT.persons["annotation_id"].to_pylist()
IMAGES = GT.persons["image_id"].to_pylist()


def _edited(dataset, xy, visibility):
    persons = dataset.persons
    for name, column in (("keypoints", schema.rows(xy)), ("visibility", schema.rows(visibility, kind=pa.int8()))):
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)
    return replace(dataset, persons=persons)


def _review(*people, key=None):
    return decode({"kpdata_review": 1, "key": key or data_key(GT), "people": list(people)})


def _person(row, decision=None, **keypoints):
    return {"annotation_id": IDS[row], "image_id": IMAGES[row], "decision": decision, "keypoints": keypoints}


def _rows(changes):
    names = ("annotation_id", "change", "keypoint")
    return sorted(tuple(row[name] for name in names) for row in changes.to_pylist())


def _labelled(row, wanted=True):
    """A keypoint of the person that is labelled, or one that is not."""
    return NAMES[int(np.argmax((GT.visibility[row] > 0) == wanted))]


CUT = int(np.argmax((GT.visibility == 0).any(1)))  # a person with an absent keypoint
HIDDEN = int(np.argmax((GT.visibility == 1).any(1)))


# ------------------------------------------------------------------------------------------------------------- applying


def test_a_moved_keypoint_and_nothing_else():
    """One place is new; everything else of the dataset, and its order, is as it was."""
    name = _labelled(3)
    new, changes = apply_review(GT, _review(_person(3, **{name: {"x": 12.5, "y": 34.25}})))
    expected = GT.keypoints.copy()
    expected[3, NAMES.index(name)] = [12.5, 34.25]
    assert new == _edited(GT, expected, GT.visibility)
    (row,) = changes.to_pylist()
    assert (row["annotation_id"], row["change"], row["keypoint"]) == (IDS[3], "moved", name)
    assert (row["x"], row["y"]) == tuple(GT.keypoints[3, NAMES.index(name)])
    assert (row["new_x"], row["new_y"], row["new_visibility"]) == (12.5, 34.25, row["visibility"])


@given(step=st.floats(0, 3e-6), angle=st.floats(0, 6.3))
def test_only_what_moved_is_new(step, angle):
    """Up to 1e-6 px nothing has moved: the bits stay; beyond it has."""
    name = _labelled(0)
    x, y = GT.keypoints[0, NAMES.index(name)]
    there = x + step * np.cos(angle), y + step * np.sin(angle)
    distance = np.hypot(there[0] - x, there[1] - y)
    new, changes = apply_review(GT, _review(_person(0, **{name: {"x": there[0], "y": there[1]}})))
    assert len(changes) == int(distance > 1e-6)
    assert (new == GT) == (distance <= 1e-6)


@settings(max_examples=25)
@given(st.data())
def test_the_list_is_the_difference(data):
    """Whatever is said: the data differ from before exactly where the list of changes says, and as it says."""
    rows = data.draw(st.lists(st.integers(0, len(GT) - 1), max_size=4, unique=True))
    place = st.integers(0, 400).map(lambda n: n / 4)
    point = st.fixed_dictionaries({"x": place, "y": place}, optional={"visibility": st.integers(0, 2)})
    said = [_person(row, **data.draw(st.dictionaries(st.sampled_from(NAMES), point, max_size=5))) for row in rows]
    new, changes = apply_review(GT, _review(*said))
    found = {(row["annotation_id"], row["keypoint"]): row for row in changes.to_pylist()}
    old_xy, old, new_xy, now = GT.keypoints, GT.visibility, new.keypoints, new.visibility
    for i, k in np.ndindex(old.shape):
        row = found.pop((IDS[i], NAMES[k]), None)
        before, after = (old_xy[i, k], old[i, k]), (new_xy[i, k], now[i, k])
        if row is None:
            assert before[0].tobytes() == after[0].tobytes()
            assert before[1] == after[1]
            continue
        told = [np.nan if row[name] is None else row[name] for name in ("x", "y", "new_x", "new_y")]
        np.testing.assert_array_equal(told, [*before[0], *after[0]])
        assert (row["visibility"], row["new_visibility"]) == (before[1], after[1])
        assert not np.array_equal(before[0], after[0]) or before[1] != after[1]
    assert not found


def test_marks_additions_and_removals():
    """Visible becomes occluded, an absent keypoint is added as visible, a labelled one is taken away with its place."""
    hide, add, drop = _labelled(1), _labelled(CUT, False), _labelled(2)
    new, changes = apply_review(
        GT,
        _review(
            _person(1, **{hide: {"visibility": 1 if GT.visibility[1, NAMES.index(hide)] == 2 else 2}}),
            _person(CUT, **{add: {"x": 5, "y": 6}}),
            _person(2, **{drop: {"visibility": 0}}),
        ),
    )
    expected = [(IDS[1], "marked", hide), (IDS[2], "removed", drop), (IDS[CUT], "added", add)]
    assert _rows(changes) == sorted(expected)
    assert new.visibility[1, NAMES.index(hide)] == 3 - GT.visibility[1, NAMES.index(hide)]
    assert new.visibility[CUT, NAMES.index(add)] == 2
    assert new.keypoints[CUT, NAMES.index(add)].tolist() == [5, 6]
    assert new.visibility[2, NAMES.index(drop)] == 0
    assert np.isnan(new.keypoints[2, NAMES.index(drop)]).all()
    counts = schema.values(new.persons["num_keypoints"])
    np.testing.assert_array_equal(counts, (new.visibility > 0).sum(1))  # it was that count before


def test_reject_confirms_the_label():
    """A rejected suspicion changes nothing and is remembered: the label is not suspected again."""
    xy = GT.keypoints.copy()
    person = int(np.argmax((GT.visibility > 0).all(1)))
    xy[person] = xy[person][GT.skeleton.flip_index()]
    bad, predictions = _edited(GT, xy, GT.visibility), simulate_predictions(GT, seed=1)[0]
    suspected = {row["annotation_id"] for row in gather(bad, predictions).table.to_pylist() if row["suspicion"]}
    assert IDS[person] in suspected
    new, changes = apply_review(bad, _review(_person(person, "reject"), key=data_key(bad)))
    assert new == bad
    assert _rows(changes) == [(IDS[person], "confirmed", None)]
    after = {row["annotation_id"] for row in gather(new, predictions).table.to_pylist() if row["suspicion"]}
    assert after == suspected - {IDS[person]}


def test_accept_takes_the_suggestion():
    """Exchanged twins go back, exactly; a keypoint that the reviewer dragged goes where it was dragged."""
    xy = GT.keypoints.copy()
    person = int(np.argmax((GT.visibility > 0).all(1)))
    pairs = GT.skeleton.flip_index()
    xy[person] = xy[person][pairs]
    bad = _edited(GT, xy, GT.visibility)
    people = gather(bad, simulate_predictions(GT, seed=1, jitter=0.0)[0])
    row = next(r for r in people.table.to_pylist() if r["annotation_id"] == IDS[person])
    exchanged = [k for k in row["suspect_keypoints"] if pairs[k] != k]
    dragged = exchanged[0]
    said = _review(_person(person, "accept", **{NAMES[dragged]: {"x": 1.0, "y": 2.0}}), key=people.key)
    new, _ = apply_review(bad, said, people)
    assert len(exchanged) >= 4
    np.testing.assert_array_equal(new.keypoints[person, exchanged[1:]], GT.keypoints[person, exchanged[1:]])
    assert new.keypoints[person, dragged].tolist() == [1, 2]
    with pytest.raises(BrowseError, match="does not say where the keypoints belong"):
        apply_review(bad, _review(_person(person, "accept"), key=people.key))


def test_an_accepted_stranger_becomes_a_person():
    """A new row with the next id, the image's dataset, the places of the prediction; COCO writes and scores it."""
    people = gather(GT, simulate_predictions(GT, seed=1)[0])
    rows = [r for r in people.table.to_pylist() if r["annotation_id"] is None and r["suspicion"]]
    entries = [{k: r[k] for k in ("annotation_id", "detection_id", "image_id", "skeleton")} for r in rows]
    decisions = ["accept"] + ["reject"] * (len(rows) - 1)
    said = [{**entry, "decision": decision} for entry, decision in zip(entries, decisions, strict=True)]
    new, changes = apply_review(GT, _review(*said), people)
    assert len(new) == len(GT) + 1
    added = new.persons.slice(len(GT)).to_pylist()[0]
    assert added["annotation_id"] == max(IDS) + 1
    assert added["image_id"] == rows[0]["image_id"]
    assert (added["category"], added["dataset"], added["skeleton"]) == ("person", "synth", "coco_17")
    np.testing.assert_array_equal(added["keypoints"], rows[0]["proposed_keypoints"])
    assert added["num_keypoints"] == sum(v > 0 for v in added["visibility"])
    assert ("person added", None) in [row[1:] for row in _rows(changes)]
    assert schema.same(new.persons.slice(0, len(GT)), GT.persons)
    assert evaluate(new, simulate_predictions(GT, seed=1)[0]).stats["AP"] > 0


def test_history_and_the_way_through_a_file(tmp_path):
    """The corrected dataset says which review it has taken, and comes back from disk equal; COCO holds it too."""
    name = _labelled(0)
    new, _ = apply_review(GT, _review(_person(0, **{name: {"x": 1.0, "y": 2.0}}), _person(1, "reject")))
    assert new.history[-1] == {
        "op": "review", "key": data_key(GT), "source": "review", "changes": {"moved": 1, "confirmed": 1},
        "confirmed": [IDS[1]],
    }  # fmt: skip
    new.save(tmp_path / "new.kp")
    again = read(tmp_path / "new.kp")
    assert again == new
    assert again.history[-1] == new.history[-1]
    write(new, tmp_path / "new.json", "coco", allow_lossy=True)
    assert read(tmp_path / "new.json").keypoints[0, NAMES.index(name)].tolist() == [1, 2]


# -------------------------------------------------------------------------------------------------------------- refused


def test_a_review_of_other_data(tmp_path):
    """Refused with both keys; one that has been applied says so."""
    said = _review(_person(0, **{_labelled(0): {"x": 1.0, "y": 2.0}}))
    new, _ = apply_review(GT, said)
    with pytest.raises(BrowseError, match=r"review: the review is of other data .*has been applied"):
        apply_review(new, said)
    with pytest.raises(BrowseError, match="is of other data") as found:
        apply_review(synthesize(25, seed=8), said)
    assert "ground truth that was browsed" in found.value.hint


GOOD = {
    "kpdata_review": 1,
    "key": "k",
    "people": [{"annotation_id": 1, "image_id": 1, "decision": None, "keypoints": {"nose": {"x": 1, "y": 2}}}],
}
POINT = ("people", 0, "keypoints", "nose")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("kpdata_review",), 7, "no review of version 1"),
        (("key",), 5, "text 'key'"),
        (("people",), {}, "list 'people'"),
        (("people", 0), "me", r"people\[0\]: str, expected an object"),
        (("people", 0, "annotation_id"), "1", "'annotation_id' is '1', expected int"),
        (("people", 0, "annotation_id"), True, "'annotation_id' is True"),
        (("people", 0, "annotation_id"), None, "neither 'annotation_id' nor 'detection_id'"),
        (("people", 0, "decision"), "maybe", "'decision' is 'maybe', expected accept or reject or null"),
        (("people", 0, "keypoints"), [1], "'keypoints' is list"),
        (POINT, 3, r"people\[0\], keypoint 'nose': 3, expected an object"),
        ((*POINT, "x"), float("nan"), "'x' is nan, expected a number of pixels"),
        ((*POINT, "x"), 10**400, "'x' is 1000"),
        (("people", 0, "annotation_id"), 10**30, "expected an id below 2"),
        ((*POINT, "y"), "2", "'y' is '2'"),
        ((*POINT, "y"), None, "one of 'x' and 'y' without the other"),
        ((*POINT, "visibility"), 3, "'visibility' is 3, expected 0, 1 or 2"),
        (("people",), GOOD["people"] * 2, "annotation_id 1 stands twice"),
    ],
)
def test_what_is_no_review(place, value, words):
    """Every wrong field is named with what was found and expected."""
    raw = copy.deepcopy(GOOD)
    inner = raw
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert len(decode(GOOD)) == 1
    with pytest.raises(BrowseError, match=words):
        decode(raw)


def test_files_that_are_no_review(tmp_path):
    """Not there, no JSON, another JSON."""
    with pytest.raises(FormatError, match="no such file"):
        read_review(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"{\xff")
    with pytest.raises(BrowseError, match=r"a.json: not JSON that can be read"):
        read_review(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(BrowseError, match=r"b.json: no review of version 1 .*list"):
        read_review(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**_person(0), "annotation_id": 5}, "annotation_id 5 is not in the data"),
        (_person(0, left_writs={"x": 1, "y": 2}), "no keypoint 'left_writs'. did you mean left_wrist"),
        (_person(CUT, **{_labelled(CUT, False): {"visibility": 2}}), "is marked, but has no place"),
        ({"detection_id": 3, "image_id": 999, "skeleton": "coco_17", "decision": "accept",
          "keypoints": {"nose": {"x": 1, "y": 2}}}, "image_id 999, which is not in the data"),
        ({"detection_id": 3, "image_id": 1, "skeleton": "fish", "decision": "accept"}, "skeleton 'fish'"),
    ],
)  # fmt: skip
def test_reviews_that_do_not_fit(entry, words):
    """People, keypoints, images and skeletons that are not there, and marks without a place."""
    with pytest.raises(BrowseError, match=words) as found:
        apply_review(GT, _review(entry))
    assert str(found.value)


def test_repeated_ids_cannot_be_joined():
    """Two people of one id: a review of it is refused, one of others is taken."""
    ids = np.array(IDS)
    ids[1] = ids[0]
    persons = GT.persons.set_column(0, schema.PERSONS.field(0), schema.fixed(ids, pa.int64()))
    twice = replace(GT, persons=persons)
    with pytest.raises(BrowseError, match="stands for several people"):
        apply_review(twice, _review(_person(0, nose={"x": 1, "y": 2}), key=data_key(twice)))
    _, changes = apply_review(twice, _review(_person(5, nose={"x": 1, "y": 2}), key=data_key(twice)))
    assert len(changes) == 1


# -------------------------------------------------------------------------------------------------------------- LabelMe


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A suspicious dataset and its folder for LabelMe."""
    folder = tmp_path_factory.mktemp("labelme")
    write_images(GT, folder / "images")
    xy = GT.keypoints.copy()
    person = int(np.argmax((GT.visibility > 0).all(1)))
    xy[person] = xy[person][GT.skeleton.flip_index()]
    bad = _edited(GT, xy, GT.visibility)
    people = gather(bad, simulate_predictions(GT, seed=1)[0], images=folder / "images")
    count = labelme_out.write_labelme(bad, people, folder / "out")
    return bad, person, folder / "out", count


def _file(folder, person):
    """The file that has the person."""
    return next(
        path
        for path in sorted(folder.glob("*.json"))
        if person in [shape["group_id"] for shape in json.loads(path.read_text()).get("shapes", ())]
    )


def _copy(folder, target):
    shutil.copytree(folder, target)
    return target


def test_suspicious_people_for_labelme(drawn):
    """A file beside its picture; group ids are annotation ids, and the rectangle says what is wrong."""
    bad, person, folder, (_, files) = drawn
    assert files == len(list(folder.glob("*.json"))) - 1
    document = json.loads(_file(folder, IDS[person]).read_text())
    assert (folder / document["imagePath"]).is_file()
    shapes = [shape for shape in document["shapes"] if shape["group_id"] == IDS[person]]
    points = {shape["label"]: shape["points"][0] for shape in shapes if shape["shape_type"] == "point"}
    assert points == dict(zip(NAMES, bad.keypoints[person].tolist(), strict=True))
    (box,) = [shape for shape in shapes if shape["shape_type"] == "rectangle"]
    assert "exchanged" in box["description"]


def test_people_whom_nobody_labelled_in_labelme(drawn, tmp_path):
    """They are proposed with a flag to set. Left alone or deleted nothing is added; accepted or moved, a person is."""
    bad, _, folder, (people, _) = drawn
    documents = {path: json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != "review.json"}
    boxes = [(path, n, shape) for path, d in documents.items() for n, shape in enumerate(d["shapes"])
             if shape["shape_type"] == "rectangle" and shape["group_id"] not in IDS]  # fmt: skip
    found = gather(bad, simulate_predictions(GT, seed=1)[0]).table.to_pylist()
    lone = {row["detection_id"]: row for row in found if row["annotation_id"] is None and row["suspect"]}
    assert len(boxes) == len(lone) == people - 1
    assert all(shape["flags"] == {"accept": False} and shape["description"] for *_, shape in boxes)
    mine = _copy(folder, tmp_path / "mine")
    accepted, moved, gone = boxes[0], boxes[1], boxes[2]
    documents[accepted[0]]["shapes"][accepted[1]]["flags"]["accept"] = True
    point = next(
        s for s in documents[moved[0]]["shapes"]
        if s["group_id"] == moved[2]["group_id"] and s["shape_type"] == "point"
    )  # fmt: skip
    point["points"] = [[3.5, 4.5]]
    documents[gone[0]]["shapes"] = [s for s in documents[gone[0]]["shapes"] if s["group_id"] != gone[2]["group_id"]]
    for path, document in documents.items():
        (mine / path.name).write_text(json.dumps(document))
    said = labelme_out.read_labelme(mine, bad)
    new, changes = apply_review(bad, said)
    assert [c for c in changes["change"].to_pylist() if c != "added"] == ["person added", "person added"]
    proposed = {tuple(np.reshape(row["proposed_keypoints"], (-1, 2))[k])
                for row in lone.values() for k in range(17)}  # fmt: skip
    fresh = {tuple(xy) for xy in new.keypoints[len(bad) :][new.visibility[len(bad) :] > 0].tolist()}
    assert fresh - proposed == {(3.5, 4.5)}


def test_untouched_files_say_nothing(drawn):
    """What nobody corrected is no review."""
    bad, _, folder, _ = drawn
    assert len(labelme_out.read_labelme(folder, bad)) == 0


def test_corrections_come_back(drawn, tmp_path):
    """Moved, hidden, deleted and added: each comes back as that; a new group is a new person."""
    bad, person, folder, _ = drawn
    mine = _copy(folder, tmp_path / "mine")
    file = _file(mine, IDS[person])
    document = json.loads(file.read_text())
    shapes = {shape["label"]: shape for shape in document["shapes"] if shape["group_id"] == IDS[person]}
    shapes["nose"]["points"] = [[7.5, 8.5]]
    hidden = bad.visibility[person, NAMES.index("left_hip")] == 1
    shapes["left_hip"]["flags"] = {} if hidden else {"occluded": True}
    document["shapes"].remove(shapes["left_knee"])
    document["shapes"].append({**copy.deepcopy(shapes["nose"]), "group_id": 77})
    file.write_text(json.dumps(document))
    new, changes = apply_review(bad, labelme_out.read_labelme(mine, bad))
    fresh = max(IDS) + 1
    expected = [
        (IDS[person], "marked", "left_hip"), (IDS[person], "moved", "nose"), (IDS[person], "removed", "left_knee"),
        (fresh, "added", "nose"), (fresh, "person added", None),
    ]  # fmt: skip
    assert sorted(_rows(changes), key=str) == sorted(expected, key=str)
    assert new.keypoints[person, 0].tolist() == [7.5, 8.5]
    assert new.visibility[person, NAMES.index("left_hip")] == (2 if hidden else 1)


def test_labelme_folders_that_do_not_fit(drawn, tmp_path):
    """A folder without its key, other data, nobody suspicious, a folder that is there: all in words."""
    bad, _, folder, _ = drawn
    (tmp_path / "empty").mkdir()
    with pytest.raises(BrowseError, match=r"no review.json, expected a folder that"):
        labelme_out.read_labelme(tmp_path / "empty", bad)
    people = gather(synthesize(3, seed=1, people=(1, 1)))
    with pytest.raises(DestinationExists):
        labelme_out.write_labelme(bad, people, folder)
    nobody = replace(people, table=people.table.filter(pa.nulls(len(people.table), pa.bool_())))
    with pytest.raises(BrowseError, match="nothing to correct"):
        labelme_out.write_labelme(bad, nobody, tmp_path / "new")


def test_names_that_climb_out_stay_below(tmp_path):
    """A file_name with `..` or a drive writes inside the folder; two images of one name get two files."""
    names = ["../../a.jpg", "C:\\x\\a.jpg", "a.jpg", None]
    found = labelme_out._paths(names, [1, 2, 3, 4])
    assert len(set(found)) == 4
    assert all(".." not in path and not path.startswith(("/", "C:")) for path in found)
