"""People in FiftyOne: all that is known of them, imported once, reviewed by tags; datasets there and back."""

from __future__ import annotations

import base64
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from kpdata import Skeleton, schema, synth
from kpdata.browse import app, panel, samples
from kpdata.browse.people import gather
from kpdata.converters import read
from kpdata.errors import BrowseError
from kpdata.eval.errors import Kind
from tests.strategies import datasets


@pytest.fixture(scope="module")
def shown(room, people):
    """The crowd in FiftyOne."""
    dataset, imported, notes = app.import_people(people, room)
    assert imported == people.table.num_rows and notes == ()
    return dataset


def test_a_sample_a_person_with_everything(shown, people):
    """Scalars, error and kind of each keypoint, and both skeletons over the crop equal the table's, a row at a time."""
    names = people.skeletons["coco_17"].keypoint_names
    for sample, row in zip(shown, people.table.to_pylist(), strict=True):
        assert (sample.failure, sample.oks, sample.score) == (row["kind"], row["oks"], row["score"])
        assert (sample.annotation_id, sample.image_id, sample.size) == (
            row["annotation_id"],
            row["image_id"],
            row["size"],
        )
        for k, name in enumerate(names):
            kind = row["classes"][k] if row["classes"] else int(Kind.UNLABELLED)
            known = kind != Kind.UNLABELLED
            assert (sample["kind"].to_dict().get(name)) == (Kind(kind).name.lower() if known else None)
            assert sample["err"].to_dict().get(name) == (
                pytest.approx(row["error_px"][k], abs=0.006) if known else None
            )
        low = np.floor([row["x0"], row["y0"]])
        span = np.maximum(np.ceil([row["x1"], row["y1"]]) - low, 2)
        for field, column in (("ground_truth", "keypoints"), ("predictions", "predicted_keypoints")):
            if row[column] is None:
                assert sample[field] is None
                continue
            (mark,) = sample[field].keypoints
            place = np.array(mark.points) * span + low - 0.5  # a whole number is the centre of a pixel
            np.testing.assert_allclose(place, np.array(row[column]).reshape(-1, 2), atol=2e-3)
        if row["keypoint_scores"]:
            np.testing.assert_allclose(sample.predictions.keypoints[0].confidence, row["keypoint_scores"], atol=6e-4)


def test_skeletons_colours_and_views(shown, people):
    """Names and edges of the skeleton, a colour for each side, a view for each of the table's with its sentence."""
    bones = people.skeletons["coco_17"]
    for field in ("ground_truth", "predictions"):
        assert shown.skeletons[field].labels == list(bones.keypoint_names)
        assert [tuple(edge) for edge in shown.skeletons[field].edges] == list(bones.edges)
    colours = {entry["path"]: entry["fieldColor"] for entry in shown.app_config.color_scheme.fields}
    assert len(set(colours.values())) == 3 and set(colours) == {"ground_truth", "predictions", "suggestion"}
    assert set(shown.list_saved_views()) == {view.name for view in people.views}
    for view in people.views:
        assert shown.get_saved_view_info(view.name)["description"] == view.sentence
    for view in people.views[:6]:
        assert shown.load_saved_view(view.name).values("rank") == (view.rows + 1).tolist()
    assert shown.get_field("oks").description


def test_the_second_time_nothing_is_imported(shown, people, room, crowd):
    """Unchanged people are there already; of another model's people under that name, the reviewer's tags stay."""
    again, imported, _ = app.import_people(people, room)
    assert (again.name, imported) == (shown.name, 0)
    gt, predictions, folder = crowd
    model = replace(gather(gt, predictions, images=folder), title="Changed")
    first, _, _ = app.import_people(model, room, name="changing")
    tagged = first.limit(2)
    tagged.tag_samples("accept")
    who = tagged.values("annotation_id"), tagged.values("detection_id")
    changed, imported, _ = app.import_people(replace(model, title="Changed again"), room, name="changing")
    assert imported == len(changed) == people.table.num_rows
    kept = changed.match_tags("accept")
    assert (kept.values("annotation_id"), kept.values("detection_id")) == who
    app.forget("changing", room.folder)


def test_names_in_use(shown, people, room, crowd):
    """Somebody else's dataset, and one of other data, are refused; neither is touched."""
    theirs = room.module.Dataset("theirs")
    with pytest.raises(BrowseError, match=r"'theirs': FiftyOne has a dataset of that name that is not kpdata's"):
        app.import_people(people, room, name="theirs")
    assert len(theirs) == 0
    with pytest.raises(BrowseError, match="shows other data under that name"):
        app.import_people(replace(people, key="other"), room, name=shown.name)
    assert len(shown) == people.table.num_rows
    with pytest.raises(BrowseError, match="no dataset 'theirs' of kpdata's"):
        app.forget("theirs", room.folder)
    theirs.delete()


def test_a_port_in_use_is_said_before_the_work(room, people):
    """Nobody is imported for an App that cannot open."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrowseError, match=f"port {port} is taken"):
            app.open_app(people, name="never shown", port=port, browser=False)
    assert "never shown" not in app.datasets(room.folder)


def test_tags_become_a_review(shown, people, room):
    """Accept and reject, in any case of letters; both at once are refused; other tags mean nothing."""
    ids = shown.values("id")
    shown.select(ids[0]).tag_samples("Accept")
    shown.select(ids[3]).tag_samples(["reject", "funny"])
    shown.select(ids[5]).tag_samples("funny")
    rows = people.table.to_pylist()
    review = app.pull_tags(shown.name, room.folder)
    assert (review["kpdata_review"], review["key"]) == (1, people.key)
    wanted = [(rows[0], "accept"), (rows[3], "reject")]
    assert [(p["annotation_id"], p["detection_id"], p["image_id"], p["decision"]) for p in review["people"]] == [
        (row["annotation_id"], row["detection_id"], row["image_id"], said) for row, said in wanted
    ]
    shown.select(ids[0]).tag_samples("reject")
    with pytest.raises(BrowseError, match="tagged both accept and reject"):
        app.pull_tags(shown.name, room.folder)
    shown.untag_samples(shown.distinct("tags"))
    assert app.pull_tags(shown.name, room.folder)["people"] == []


def test_forget_removes_people_and_crops(people, room):
    """The dataset and its files are gone; a second time there is nothing to forget."""
    dataset, imported, _ = app.import_people(people, room, name="short lived")
    files = [room.folder / path for path in dataset.values("filepath")]
    assert all(file.exists() for file in files)
    assert "short lived" in app.datasets(room.folder)
    assert app.forget("short lived", room.folder) == imported
    assert not any(file.exists() for file in files)
    with pytest.raises(BrowseError, match="no dataset 'short lived'"):
        app.forget("short lived", room.folder)


def test_odd_keypoint_names(room, tmp_path):
    """Markup, dots, FiftyOne's own attributes, digits and twins: each keypoint has a field of its own."""
    names = ("<script>alert(1)</script>", "a.b", "a b", "copy", "3d", "§", "nose")
    taken = [word for word in dir(room.module.DynamicEmbeddedDocument) if not word.startswith("_")]
    assert "copy" in taken
    fields = samples.sanitised(names, taken)
    assert len(set(fields)) == 7 and fields[0] == "script_alert_1_script" and fields[6] == "nose"
    gt = synth.synthesize(4, seed=1, people=(1, 2))
    bones = Skeleton("odd", names, ((0, 1), (5, 6)), flip_pairs=frozenset(), sigmas=(0.05,) * 7)
    flat = schema.matrix(gt.persons["keypoints"], 34)[:, :14]
    seen = schema.matrix(gt.persons["visibility"], 17)[:, :7]
    columns = {"keypoints": schema.rows(flat), "visibility": schema.rows(seen, kind=schema.pa.int8())}
    columns["skeleton"] = schema.constant("odd", len(gt))
    persons = schema.table(schema.PERSONS, len(gt), {n: columns.get(n, gt.persons[n]) for n in schema.PERSONS.names})
    odd = replace(gt, persons=persons, skeletons={"odd": bones})
    annotated = gather(odd, title="<b>odd</b>")
    dataset, imported, _ = app.import_people(annotated, room)
    assert imported == len(odd)
    assert set(dataset.get_field_schema(flat=True)) >= {f"kind.{name}" for name in fields}
    assert dataset.skeletons["ground_truth"].labels == list(names)
    assert "predictions" not in dataset.get_field_schema() and "oks" not in dataset.get_field_schema()
    app.forget(dataset.name, room.folder)


def test_the_bars_count_people(shown, people):
    """Kinds, quantiles and histogram equal a count with plain loops."""
    figures = samples.figures(people, samples.fields_of(people))
    rows = [row for row in people.table.to_pylist() if row["classes"]]
    for k, entry in enumerate(figures["keypoints"]):
        for kind in ("jitter", "inversion", "swap", "miss"):
            assert entry["kinds"][kind] == sum(row["classes"][k] == Kind[kind.upper()] for row in rows)
        shares = [row["error_px"][k] / row["area"] ** 0.5 for row in rows if row["classes"][k] != Kind.UNLABELLED]
        assert entry["median"] == pytest.approx(np.median(shares), abs=1e-3)
        assert sum(figures["histogram"]["counts"][entry["field"]]) == len(shares)
        assert figures["histogram"]["counts"][entry["field"]][-1] == sum(share >= 0.48 for share in shares)


def test_the_bars_of_a_view_count_its_people(shown, people):
    """Kinds, quantiles and histogram of a saved view, by a loop over its rows of the table; of all: those of all."""
    whole = samples.figures(people, samples.fields_of(people))
    for name in ("inversions", "missed"):
        (view,) = [view for view in people.views if view.name == name]
        found = panel._of_view(shown.load_saved_view(name), whole)
        rows = [row for row in schema.take(people.table, view.rows).to_pylist() if row["classes"]]
        assert found["people"] == len(view.rows) < whole["people"]
        for k, entry in enumerate(found["keypoints"]):
            for kind in ("jitter", "inversion", "swap", "miss"):
                assert entry["kinds"][kind] == sum(row["classes"][k] == Kind[kind.upper()] for row in rows)
            shares = [row["error_px"][k] / row["area"] ** 0.5 for row in rows if row["classes"][k] != Kind.UNLABELLED]
            assert sum(found["histogram"]["counts"][entry["field"]]) == len(shares)
            if shares:
                assert entry["p90"] == pytest.approx(np.quantile(shares, 0.9), abs=1e-3)
    everybody = panel._of_view(shown.sort_by("rank"), whole)
    assert everybody == whole


# ----------------------------------------------------------------------------------------------------- there and back


def test_there_and_back(room, crowd):
    """A ground truth and predictions with scores come back equal, coordinates to the bit."""
    gt, predictions, folder = crowd
    for dataset in (gt, predictions):
        made = app.to_fiftyone(dataset, folder)
        assert len(made) == dataset.images.num_rows
        assert app.from_fiftyone(made) == dataset
        made.delete()


def sized(dataset):
    """With 640 px where an image states no size: FiftyOne keeps shares."""
    images = dataset.images
    for name in ("width", "height"):
        values = [value or 640 for value in images[name].to_pylist()]
        images = images.set_column(images.schema.get_field_index(name), name, schema.pa.array(values, "int32"))
    return replace(dataset, images=images.cast(schema.IMAGES))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(dataset=datasets())
def test_any_dataset_there_and_back(room, tmp_path, dataset):
    """Nothing is lost: several skeletons or none, orphans, nulls, odd ids and texts, NaN, embedded pictures."""
    dataset = sized(dataset)
    made = app.to_fiftyone(dataset, tmp_path)
    assert app.from_fiftyone(made) == dataset
    made.delete()


def test_embedded_pictures_there_and_back(room, tmp_path):
    """They are shown from files of their own, come back to the byte, and are missed in words once deleted."""
    gt = synth.synthesize(2, seed=1, people=(1, 2), size=(64, 48))
    synth.write_images(gt, tmp_path)
    names, ids = schema.texts(gt.images["file_name"]), schema.values(gt.images["image_id"]).tolist()
    data = [base64.b64encode((tmp_path / name).read_bytes()) for name in names]
    blobs = schema.pa.table({"image_id": ids, "name": ["imageData"] * 2, "data": data}, schema=schema.BLOBS)
    whole = replace(gt, blobs=blobs)
    bare = gt.images.set_column(gt.images.schema.get_field_index("width"), "width", schema.pa.nulls(2, "int32"))
    with pytest.raises(BrowseError, match="its size is not stated and there is no picture"):
        app.to_fiftyone(replace(gt, images=bare), tmp_path / "elsewhere")
    made = app.to_fiftyone(whole, tmp_path / "elsewhere")
    for file, name in zip(made.values("filepath"), names, strict=True):
        assert Path(file).read_bytes() == (tmp_path / name).read_bytes()
    assert app.from_fiftyone(made) == whole
    assert app.from_fiftyone(made.limit(1)).blobs["image_id"].to_pylist() == ids[:1]
    shutil.rmtree(Path(file).parent)
    with pytest.raises(BrowseError, match="embedded pictures that were kept there are gone"):
        app.from_fiftyone(made)
    made.delete()


def test_real_data_there_and_back(room, real_data):
    """COCO with crowds, segmentations, RLE and people without keypoints comes back equal."""
    coco = read(real_data / "coco_mini" / "person_keypoints_val2017.json")
    made = app.to_fiftyone(coco, real_data / "coco_mini" / "val2017", "there and back")
    with pytest.raises(BrowseError, match="has a dataset of that name"):
        app.to_fiftyone(coco, real_data, "there and back")
    assert app.from_fiftyone(made) == coco
    made.delete()


def test_what_is_changed_in_fiftyone_is_changed(room, crowd):
    """A moved point moves by just that, the others stay to the bit; a deleted person is gone; views are selections."""
    gt, _, folder = crowd
    made = app.to_fiftyone(gt, folder)
    sample = made.first()
    mark = sample.ground_truth.keypoints[0]
    k = int(np.isfinite(np.array(mark.points)).all(1).argmax())
    width, height = schema.values(gt.images["width"])[0], schema.values(gt.images["height"])[0]
    mark.points[k] = [mark.points[k][0] + 2 / width, mark.points[k][1] - 3 / height]
    sample.save()
    back = app.from_fiftyone(made)
    moved = np.argwhere(~((back.keypoints == gt.keypoints) | np.isnan(gt.keypoints)))
    assert moved.tolist() == [[0, k, 0], [0, k, 1]]
    np.testing.assert_allclose(back.keypoints[0, k] - gt.keypoints[0, k], [2, -3], atol=1e-9)
    sample.ground_truth.keypoints = sample.ground_truth.keypoints[1:]
    sample.save()
    assert len(app.from_fiftyone(made)) == len(gt) - 1
    some = app.from_fiftyone(made.limit(2))
    assert schema.values(some.images["image_id"]).tolist() == schema.values(gt.images["image_id"])[:2].tolist()
    made.delete()


def test_a_dataset_of_somebody_elses(room, tmp_path):
    """Keypoints with a skeleton: pixels from shares, NaN is absent, confidence is a score; without names: refused."""
    fo = room.module
    dataset = fo.Dataset()
    points = [(0.5, 0.25), (float("nan"), float("nan"))]
    mark = fo.Keypoint(label="horse", points=points, confidence=[0.75, 0.5])
    size = fo.ImageMetadata(width=200, height=100)
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "1.jpg"), metadata=size, pose=fo.Keypoints(keypoints=[mark])))
    with pytest.raises(BrowseError, match="have no names"):
        app.from_fiftyone(dataset)
    dataset.skeletons = {"pose": fo.KeypointSkeleton(labels=["head", "tail"], edges=[[0, 1]])}
    found = app.from_fiftyone(dataset)
    np.testing.assert_array_equal(found.keypoints, [[[99.5, 24.5], [np.nan, np.nan]]])
    assert found.visibility.tolist() == [[3, 0]]
    assert found.keypoint_scores.tolist() == [[0.75, 0.5]]
    assert found.skeleton.keypoint_names == ("head", "tail")
    with pytest.raises(BrowseError, match="no field of Keypoints"):
        app.from_fiftyone(dataset, field="nose")
    dataset.delete()
