"""`kpdata browse`: what is written, what comes back, and every way to ask for nonsense."""

from __future__ import annotations

import base64
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kpdata import read
from kpdata.browse import embedded
from kpdata.browse.people import data_key


@pytest.fixture
def arguments(made):
    return ("browse", made / "predictions.json", "--gt", made / "coco.json")


@pytest.fixture
def without_fiftyone(monkeypatch):
    monkeypatch.setattr(embedded, "available", lambda: "FiftyOne is not installed: pip install 'kpdata[browse]'")


def test_page_drawings_and_views(run, made, arguments, tmp_path):
    """--html and --draw write what they say; the JSON names the views with their people, and the key of the data."""
    done = run(
        *arguments, "--images", made / "images", "--html", tmp_path / "a.html", "--draw", tmp_path / "d", "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["key"] == data_key(read(made / "coco.json"))
    assert found["views"]["everybody"] == found["people"]
    assert found["written"] == {"html": str(tmp_path / "a.html"), "draw": str(tmp_path / "d")}
    assert (tmp_path / "a.html").read_text().lower().startswith("<!doctype html>")
    drawings = sorted((tmp_path / "d").iterdir())
    assert len(drawings) == found["people"]
    with Image.open(drawings[0]) as picture:
        assert max(picture.size) > 400
        assert np.asarray(picture).std() > 20  # a picture, not a grey card


def test_views_are_told_in_a_pipe(run, arguments, tmp_path):
    """A plain table of views; notes go to stderr."""
    done = run(*arguments, "-n", 3, "--html", tmp_path / "a.html")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert ["everybody", "3"] in [line.split() for line in done.out.splitlines()]
    assert "the worst 3 of" in done.err


def test_one_view_only(run, arguments, tmp_path):
    """--view narrows what is written; an unknown one lists those that show somebody."""
    done = run(*arguments, "--view", "inversions", "--html", tmp_path / "a.html", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["people"] == found["views"]["inversions"] > 0
    done = run(*arguments, "--view", "mood", "--html", tmp_path / "b.html")
    assert (done.code, "no view 'mood' shows anybody here" in done.err, "inversions" in done.err) == (1, True, True)


def test_a_dataset_alone(run, made, tmp_path):
    """Without predictions the annotations are shown, from any format."""
    done = run("browse", made / "coco.json", "--images", made / "images", "--html", tmp_path / "a.html", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["predictions"] is None
    assert found["people"] == len(read(made / "coco.json"))


def test_without_fiftyone_the_page_is_written(run, arguments, tmp_path, monkeypatch, without_fiftyone):
    """One line says what is missing and where the page is."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == 0, done.err
    assert "pip install 'kpdata[browse]'; predictions.browse.html is written instead" in done.err
    assert (tmp_path / "predictions.browse.html").is_file()
    done = run(*arguments)
    assert (done.code, "exists already" in done.err) == (1, True)
    assert run(*arguments, "--force").code == 0


def test_a_review_comes_back(run, made, arguments, tmp_path):
    """--pull writes the corrected data in the format asked for, and the list of changes beside it."""
    gt = read(made / "coco.json")
    person = gt.persons.slice(0, 1).to_pylist()[0]
    entry = {"annotation_id": person["annotation_id"], "image_id": person["image_id"], "decision": None,
             "keypoints": {"nose": {"x": 11.5, "y": 12.25}}}  # fmt: skip
    review = tmp_path / "review.json"
    review.write_text(json.dumps({"kpdata_review": 1, "key": data_key(gt), "people": [entry]}))
    for target in (tmp_path / "new.kp", tmp_path / "new.json"):
        more = ["--to", "coco"] if target.suffix == ".json" else []
        done = run(*arguments, "--pull", target, "--review", review, "--json", *more)
        assert done.code == 0, done.err
        assert json.loads(done.out)["people_reviewed"] == 1
        new = read(target)
        assert new.keypoints[0, 0].tolist() == [11.5, 12.25]
        np.testing.assert_array_equal(new.keypoints[1:], gt.keypoints[1:])
        changes = pq.read_table(f"{target}.changes.parquet").to_pylist()
        assert [(row["keypoint"], row["new_x"], row["new_y"]) for row in changes] == [("nose", 11.5, 12.25)]
    assert read(tmp_path / "new.kp").history[-1]["op"] == "review"
    done = run("browse", made / "crowdpose.json", "--pull", tmp_path / "other.kp", "--review", review)
    assert (done.code, "review is of other data" in done.err) == (1, True)
    assert not (tmp_path / "other.kp").exists()


def test_labelme_and_back(run, made, tmp_path):
    """What the lint finds goes to LabelMe; untouched it comes back as nothing, moved as that."""
    raw = json.loads((made / "coco.json").read_bytes())
    place = next(a for a in raw["annotations"] if a["keypoints"][2])
    place["keypoints"][:2] = [place["bbox"][0] + 5 * place["bbox"][2], place["bbox"][1]]
    (tmp_path / "odd.json").write_text(json.dumps(raw))
    source = ("browse", tmp_path / "odd.json")
    done = run(*source, "--images", made / "images", "--to-labelme", tmp_path / "lm")
    assert done.code == 0, done.err
    back = ("--pull", tmp_path / "new.kp", "--labelme", tmp_path / "lm")
    done = run(*source, *back)
    assert (done.code, "nothing to pull" in done.err) == (1, True)
    for path in (tmp_path / "lm").glob("*.json"):
        document = json.loads(path.read_text())
        for shape in document.get("shapes", []):
            if shape["label"] == "nose" and shape["group_id"] == place["id"]:
                shape["points"] = [[3.0, 4.0]]
        path.write_text(json.dumps(document))
    done = run(*source, *back)
    assert done.code == 0, done.err
    row = read(tmp_path / "new.kp").persons["annotation_id"].to_pylist().index(place["id"])
    assert read(tmp_path / "new.kp").keypoints[row, 0].tolist() == [3, 4]


def test_tags_come_back(run, made, arguments, tmp_path, monkeypatch):
    """Without --review and --labelme the tags in FiftyOne are the review."""
    gt = read(made / "coco.json")
    row = gt.persons.slice(2, 1).to_pylist()[0]
    person = {"annotation_id": row["annotation_id"], "image_id": row["image_id"], "detection_id": None,
              "skeleton": "coco_17", "decision": "reject", "keypoints": {}, "note": ""}  # fmt: skip
    asked = []

    def pull_tags(name, database):
        asked.append(name)
        return {"kpdata_review": 1, "key": data_key(gt), "people": [person]}

    fake = SimpleNamespace(pull_tags=pull_tags, dataset_name=lambda people: f"{people.title}-{people.key[:8]}")
    monkeypatch.setitem(sys.modules, "kpdata.browse.app", fake)
    done = run(*arguments, "--pull", tmp_path / "new.kp")
    assert done.code == 0, done.err
    assert asked == [f"predictions on coco-{data_key(gt)[:8]}"]
    assert read(tmp_path / "new.kp").history[-1]["confirmed"] == [row["annotation_id"]]


def test_pictures_that_are_elsewhere(run, arguments, tmp_path):
    """How many of how many were found, and a path that was tried."""
    done = run(*arguments, "--images", tmp_path, "--html", tmp_path / "a.html")
    assert done.code == 1
    assert f"0 of 6 pictures found in {tmp_path}: tried {tmp_path}" in done.err
    done = run(*arguments, "--images", tmp_path / "none", "--html", tmp_path / "a.html")
    assert (done.code, "no such folder" in done.err) == (1, True)


def test_predictions_without_ground_truth(run, made, tmp_path):
    """Said with the three places where it could stand; the note beside the predictions is one of them."""
    alone = tmp_path / "p.json"
    alone.write_bytes((made / "predictions.json").read_bytes())
    done = run("browse", alone, "--html", tmp_path / "a.html")
    assert (done.code, "no ground truth to score against" in done.err, "--gt GT" in done.err) == (1, True, True)
    done = run("browse", made / "predictions.json", "--html", tmp_path / "a.html")
    assert done.code == 0, done.err
    done = run("browse", made / "coco.json", "--gt", made / "predictions.json", "--html", tmp_path / "b.html")
    assert (done.code, "predictions come first" in done.err) == (1, True)


def test_comparison_and_ledger(run, made, arguments, tmp_path):
    """--compare adds the view of those lost; a file that is no ledger is refused in words."""
    rows = json.loads((made / "predictions.json").read_bytes())
    for row in rows[::2]:
        row["keypoints"] = [value + 25 * (i % 3 != 2) for i, value in enumerate(row["keypoints"])]
    (tmp_path / "worse.json").write_text(json.dumps(rows))
    worse = ("browse", tmp_path / "worse.json", "--gt", made / "coco.json", "--compare", made / "predictions.json")
    done = run(*worse, "--html", tmp_path / "a.html", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["views"]["lost"] >= 3
    done = run(*arguments, "--ledger", made / "coco.json", "--html", tmp_path / "b.html")
    assert (done.code, "not a training's ledger" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--review", "r.json"), "--review goes with --pull"),
        (("--pull", "d.kp", "--review", "r.json", "--labelme", "x"), "one of the two"),
        (("--pull", "d.kp", "--html", "a.html"), "leave out --html"),
        (("--forget", "--draw", "d"), "leave out --draw"),
        (("--forget", "--pull", "d.kp"), "one of the two"),
        (("--html", "a.html", "--port", "5151"), "--port is about FiftyOne's App"),
        (("--pull", "d.kp", "--remote"), "--remote is about FiftyOne's App"),
        (("--all", "-n", "5"), "one of the two"),
        (("--unknown-images", "maybe"), "refuse or ignore"),
    ],
)
def test_wrong_usage(run, arguments, options, words):
    """An option that means nothing beside the others is refused, not ignored."""
    done = run(*arguments, *options)
    assert done.code == 2
    assert words in " ".join(done.err.replace("│", " ").split())


def test_options_of_predictions_need_predictions(run, made):
    """--metric and --compare mean nothing for annotations; no source at all is wrong usage."""
    for options in (("--metric", "oks"), ("--compare", made / "predictions.json")):
        done = run("browse", made / "coco.json", *options, "--html", "x.html")
        assert (done.code, "is about predictions" in done.err) == (2, True)
    assert run("browse").code == 2


def test_inputs_are_not_overwritten(run, made, arguments, tmp_path):
    """--html onto an input, and a drawing folder that holds something else, stay untouched with --force too."""
    done = run(*arguments, "--html", made / "coco.json", "--force")
    assert (done.code, "would overwrite" in done.err) == (1, True)
    done = run(*arguments, "--pull", made / "coco.json", "--review", made / "coco.json", "--force")
    assert (done.code, "would overwrite" in done.err) == (1, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run(*arguments, "--draw", tmp_path / "mine", "--force")
    assert (done.code, "holds 'thesis.txt'" in done.err) == (1, True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


# ---------------------------------------------------------------------------------------- LabelMe, arrays, no sigmas


COLOUR = (200, 40, 40)


@pytest.fixture
def lamps(tmp_path):
    """(a folder of LabelMe files of a skeleton that nobody knows, the pictures inside; predictions of it)."""
    folder, results = tmp_path / "lamps", []
    folder.mkdir()
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (200, 150), COLOUR).save(buffer, "JPEG", quality=95)
        points = {"tip": (40.0, 30.0), "root": (90.0, 120.0), "hinge": (60.0, 70.0)}
        shapes = [{"label": "lamp", "points": [[30, 20], [100, 130]], "shape_type": "rectangle"}]
        shapes += [{"label": name, "points": [list(xy)], "shape_type": "point"} for name, xy in points.items()]
        picture = base64.b64encode(buffer.getvalue()).decode()
        document = {"version": "5.4.1", "flags": {}, "imagePath": f"{number}.jpg", "imageData": picture}
        document |= {"shapes": [{**shape, "group_id": 1, "flags": {}} for shape in shapes]}
        document |= {"imageWidth": 200, "imageHeight": 150}
        (folder / f"{number}.json").write_text(json.dumps(document))
        far = 40 * (number == 1)
        flat = [value for x, y in points.values() for value in (x + far, y, 1)]
        results.append({"image_id": number + 1, "category_id": 1, "keypoints": flat, "score": 0.5})
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    return folder, tmp_path / "predictions.json"


def test_a_skeleton_of_ones_own_with_pictures_inside(run, lamps, tmp_path):
    """LabelMe's embedded pictures are shown without --images; without sigmas PCK judges, as a note says: the one far
    off is the worst."""
    folder, predictions = lamps
    done = run("browse", predictions, "--gt", folder, "--html", tmp_path / "a.html", "--draw", tmp_path / "d", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert "AP" not in found["stats"] and found["stats"]["PCK@0.2"] == pytest.approx(2 / 3)
    assert "'lamp_3' has no official sigmas" in found["notes"][0]
    assert found["views"]["worst"] == 1 and "missed" not in found["views"]
    for drawing in sorted((tmp_path / "d").iterdir()):
        pixels = np.asarray(Image.open(drawing)).reshape(-1, 3)
        assert (np.abs(pixels - COLOUR) < 12).all(1).mean() > 0.3
    alone = run("browse", folder, "--html", tmp_path / "b.html", "--json")
    assert list(json.loads(alone.out)["views"]) == ["everybody"]  # three of three keypoints are not few


def test_pictures_beside_labelme_files(run, lamps, tmp_path):
    """Files beside the JSON are found without --images."""
    folder, _ = lamps
    for number in range(3):
        document = json.loads((folder / f"{number}.json").read_text())
        (folder / f"{number}.jpg").write_bytes(base64.b64decode(document["imageData"]))
        (folder / f"{number}.json").write_text(json.dumps({**document, "imageData": None}))
    assert run("browse", folder, "--draw", tmp_path / "d").code == 0
    pixels = np.asarray(Image.open(next((tmp_path / "d").iterdir()))).reshape(-1, 3)
    assert (np.abs(pixels - COLOUR) < 12).all(1).mean() > 0.3


def test_arrays_without_their_ground_truth(run, real_data, tmp_path):
    """Predictions as bare arrays are predictions: without --gt that is missing, they are not shown as labels."""
    done = run("browse", real_data / "lsp" / "pred_keypoints_lsp_oc.mat", "--html", tmp_path / "a.html")
    assert done.code == 1
    assert "no ground truth to score against" in done.err


def test_errors_name_their_own_file_alone(run, made, arguments, tmp_path):
    """A folder or a review that is wrong is named once, without predictions and ground truth before it."""
    done = run(*arguments, "--images", tmp_path / "none", "--html", tmp_path / "a.html")
    assert f"{tmp_path / 'none'}: there is no such folder" in done.err
    assert "coco.json" not in done.err
    (tmp_path / "r.json").write_text('{"kpdata_review": 1, "key": "abc", "people": [{"annotation_id": 1}]}')
    done = run(*arguments, "--pull", tmp_path / "out.kp", "--review", tmp_path / "r.json")
    assert "the review is of other data" in done.err
    assert "coco.json" not in done.err


def test_a_metric_asked_for_that_the_data_do_not_have(run, arguments, tmp_path):
    """PCKh by name needs head boxes: an error, while MPII's own default would only be noted."""
    done = run(*arguments, "--metric", "pckh", "--html", tmp_path / "a.html")
    assert done.code == 1
    assert "nobody in the ground truth has a length" in done.err
