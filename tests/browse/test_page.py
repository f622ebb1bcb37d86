"""The page: what stands in the file, read by an HTML parser. What it does is in `test_page_browser.py`."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kpdata import schema, synth
from kpdata.browse.page import embed, write_page
from kpdata.browse.people import PEOPLE, View, gather
from kpdata.browse.pictures import Pictures
from kpdata.errors import BrowseError, DestinationExists

EVIL = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, and the texts of scripts by their id ("" of the one that runs)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.style = ""
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or "" if tag == "script" else "style" if tag == "style" else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside == "style":
            self.style += text
        elif self._inside is not None:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + text

    @property
    def data(self):
        return json.loads(self.scripts["data"])

    @property
    def pictures(self):
        return json.loads(self.scripts["pictures"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A ground truth with pictures, and predictions with every kind of error."""
    folder = tmp_path_factory.mktemp("pictures")
    gt = synth.synthesize(12, seed=3, size=(320, 240))
    synth.write_images(gt, folder)
    return gt, synth.simulate_predictions(gt, seed=1)[0], folder


@pytest.fixture(scope="module")
def people(scenes):
    gt, predictions, folder = scenes
    return gather(gt, predictions, images=folder, title="synthetic")


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert write_page(people, path) == []
    return Page(path.read_text(encoding="utf-8"))


def lists(column, i):
    return column["flat"][column["ends"][i] : column["ends"][i + 1]]


# ------------------------------------------------------------------------------------------------------------ the data


def test_everybody_is_on_the_page_as_in_the_table(people, written):
    """Nothing is lost: ids, texts and numbers of each row, and its keypoints within half a hundredth of a pixel."""
    columns = written.data["people"]
    rows = people.table.to_pylist()
    assert len(columns["kind"]) == len(rows) > 20
    for i, row in enumerate(rows):
        for name in ("image_id", "annotation_id", "detection_id"):
            assert columns[name][i] == (None if row[name] is None else str(row[name]))
        for name in ("kind", "skeleton", "file_name", "size", "suspect", "findings"):
            assert columns[name][i] == row[name]
        assert columns["oks"][i] == (None if row["oks"] is None else pytest.approx(row["oks"], abs=6e-6))
        for name in ("keypoints", "predicted_keypoints", "proposed_keypoints"):
            shown = np.array(lists(columns[name], i), np.float64)
            wanted = np.array(row[name] or [], np.float64)
            np.testing.assert_allclose(shown, wanted, atol=0.00501)
        assert lists(columns["visibility"], i) == (row["visibility"] or [])
        assert lists(columns["classes"], i) == (row["classes"] or [])


def test_views_point_at_the_same_people_when_the_page_holds_fewer(people, tmp_path):
    """A limit keeps the order, and the rows of a view are the same annotations as in the table, those that are left."""
    write_page(people, tmp_path / "page.html", limit=20)
    data = Page((tmp_path / "page.html").read_text()).data
    shown = list(zip(data["people"]["annotation_id"], data["people"]["detection_id"], strict=True))
    assert len(shown) == 20 and data["total"] == people.table.num_rows
    everybody = [
        tuple(None if row[name] is None else str(row[name]) for name in ("annotation_id", "detection_id"))
        for row in people.table.to_pylist()
    ]
    assert shown == [one for one in everybody if one in set(shown)]
    assert len(people.views) > 3
    for view, found in zip(people.views, data["views"], strict=True):
        assert found["total"] == len(view.rows)
        wanted = [everybody[row] for row in view.rows.tolist() if everybody[row] in set(shown)]
        assert [shown[place] for place in found["rows"]] == wanted


def test_a_limit_keeps_every_kind(people, tmp_path):
    write_page(people, tmp_path / "page.html", limit=12)
    data = Page((tmp_path / "page.html").read_text()).data
    kinds = set(schema.texts(people.table["kind"])) - {"good"}
    assert len(kinds) > 4
    assert kinds <= set(data["people"]["kind"])
    assert dict(data["kinds"]) == {
        kind: schema.texts(people.table["kind"]).count(kind) for kind in set(schema.texts(people.table["kind"]))
    }


def test_bars_are_the_counts_of_the_table(people, written):
    """The worst keypoint first; the parts of a bar are the evaluation's counts."""
    (bars,) = written.data["bars"]
    table = {row["keypoint"]: row for row in people.per_keypoint["coco_17"].to_pylist()}
    assert len(bars["rows"]) == 17
    good = []
    for bar in bars["rows"]:
        parts = dict(bar["parts"])
        assert parts == {kind: table[bar["keypoint"]][kind] for kind in ("miss", "swap", "inversion", "jitter", "good")}
        good.append(parts["good"] / sum(parts.values()))
    assert good == sorted(good)


def test_a_dataset_without_predictions_has_a_page(scenes, tmp_path):
    gt, _, folder = scenes
    found = gather(gt, images=folder)
    write_page(found, tmp_path / "page.html")
    data = Page((tmp_path / "page.html").read_text()).data
    assert set(data["people"]["kind"]) == {"annotation"}
    assert data["people"]["score"] == [None] * found.table.num_rows
    visibility = schema.matrix(gt.persons["visibility"], 17)
    (bars,) = data["bars"]
    assert [row["labelled"] for row in bars["rows"]] == (visibility > 0).sum(0).tolist()
    assert ["people", str(len(gt))] in data["stats"]


# ------------------------------------------------------------------------------------------------------------- pictures


def test_a_crop_shows_what_lies_under_the_keypoints(scenes, tmp_path):
    """A white dot painted at a keypoint of a black picture is where the page will draw that keypoint."""
    gt, predictions, _ = scenes
    found = gather(gt, predictions)
    row = next(row for row in found.table.to_pylist() if row["kind"] == "jitter")
    x, y = next(
        (x, y)
        for x, y in np.reshape(row["keypoints"], (-1, 2)).round().astype(int, casting="unsafe").tolist()
        if 8 < x < 310 and 8 < y < 230
    )
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[y - 2 : y + 3, x - 2 : x + 3] = 255
    Image.fromarray(pixels).save(tmp_path / row["file_name"].replace(".jpg", ".png"))
    (tmp_path / row["file_name"].replace(".jpg", ".png")).rename(tmp_path / row["file_name"])
    notes = write_page(found, tmp_path / "page.html", images=tmp_path)
    assert "are shown without their picture" in notes[0]
    page = Page((tmp_path / "page.html").read_text())
    place = page.data["people"]["detection_id"].index(str(row["detection_id"]))
    left, top, right, bottom = page.data["windows"][place]
    crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.pictures[place]))).convert("L"), np.float64)
    weight = np.where(crop > 100, crop, 0)
    rows, columns = np.indices(crop.shape)
    centre = [(axis + 0.5) @ weight.ravel() / weight.sum() for axis in (columns.ravel(), rows.ravel())]
    scale = crop.shape[1] / (right - left), crop.shape[0] / (bottom - top)
    expected = [(x + 0.5 - left) * scale[0], (y + 0.5 - top) * scale[1]]
    np.testing.assert_allclose(centre, expected, atol=0.6)


def test_a_folder_beside_embedded_pictures(scenes, tmp_path):
    """What the folder does not have, the dataset's own pictures show."""
    gt, _, folder = scenes
    names = zip(gt.images["image_id"].to_pylist(), gt.images["file_name"].to_pylist(), strict=True)
    own = Pictures(embedded={number: folder / name for number, name in names})
    assert write_page(replace(gather(gt), pictures=own), tmp_path / "page.html", images=tmp_path) == []
    assert all(Page((tmp_path / "page.html").read_text(encoding="utf-8")).pictures)


def test_pictures_that_are_missing_are_counted(people, tmp_path):
    """The page is written all the same, and one sentence, on it too, says how many and which file was tried."""
    found = replace(people, pictures=Pictures())
    notes = write_page(found, tmp_path / "page.html", images=tmp_path)
    (note,) = notes
    count = people.table.num_rows
    assert note.startswith(f"{count} of {count} people are shown without their picture, such as {tmp_path}")
    page = Page((tmp_path / "page.html").read_text())
    assert note in page.data["notes"]
    assert page.pictures == [""] * count
    assert write_page(found, tmp_path / "blank.html") == []


def test_a_thousand_people_make_about_11_megabytes(real_data, tmp_path):
    """Photographs, as they are: noise compresses worse and drawings better."""
    import kpdata

    folder = real_data / "coco_mini"
    gt = kpdata.read(folder / "person_keypoints_train2017.json")
    predictions = kpdata.read(folder / "movenet_multipose_train2017_results.json")
    found = gather(gt, predictions, images=folder / "train2017")
    many = np.arange(500) % found.table.num_rows
    write_page(replace(found, table=schema.take(found.table, many), views=()), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size / 500 < 11_500


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_page_needs_nothing_but_itself(written):
    """No address is loaded: no link, no source, no import; and its policy forbids all but its own script and style."""
    assert not [tag for tag, _ in written.tags if tag in ("link", "iframe", "img", "object", "embed")]
    assert not [attributes for _, attributes in written.tags if "src" in attributes or "style" in attributes]
    assert not [name for _, attributes in written.tags for name in attributes if name.startswith("on")]
    code = written.scripts[""] + written.style
    assert set(re.findall(r"\w+://[^\"'` )]*", code)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in written.style and "url(" not in written.style
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)


def test_the_policy_names_the_hashes_of_what_runs(written):
    """SHA-256 of the very text of the script and of the style, as a browser computes them."""
    policy = next(a["content"] for tag, a in written.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (written.style, written.scripts[""])
    ]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_texts_of_the_data_are_no_markup(people, tmp_path):
    """A title, file, view, keypoint, note or finding that is a script closes and opens nothing."""
    table = people.table
    for name in ("file_name", "suspect", "findings", "source"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, PEOPLE.field(name), schema.repeated([EVIL] * table.num_rows))
    skeleton = people.skeletons["coco_17"]
    names = (EVIL, *skeleton.keypoint_names[1:])
    found = replace(
        people,
        table=table,
        title=EVIL,
        pictures=Pictures(),
        notes=(EVIL,),
        stats={EVIL: 0.5},
        views=(View(EVIL, EVIL, np.arange(3)),),
        skeletons={"coco_17": replace(skeleton, keypoint_names=names, flip_pairs=frozenset(), landmarks=())},
        curves=((EVIL, np.array([0.0, 1.0]), np.array([1.0, 0.0])),),
    )
    write_page(found, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    assert html.count("<script") == html.count("</script>") == 3
    assert set(page.scripts) == {"data", "pictures", ""}
    assert page.data["skeletons"]["coco_17"]["keypoints"][0] == EVIL
    assert page.data["views"][0]["sentence"] == page.data["notes"][0] == page.data["people"]["source"][0] == EVIL


@settings(max_examples=25)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_json_is_the_same_value_and_has_no_markup(document):
    found = embed(document)
    assert json.loads(found) == document
    assert not set(found) & set("<>&")


def test_numbers_that_are_not_finite_are_null():
    assert json.loads(embed({"a": np.array([1.5, np.nan, np.inf])})) == {"a": [1.5, None, None]}


def test_ids_beyond_a_scripts_numbers_stay_whole(people, tmp_path):
    """2^53 + 1 is no number of a script: ids are texts there."""
    index = people.table.schema.get_field_index("annotation_id")
    ids = np.arange(people.table.num_rows) + 2**53 + 1
    table = people.table.set_column(
        index, PEOPLE.field("annotation_id"), schema.fixed(ids, PEOPLE.field("annotation_id").type)
    )
    write_page(replace(people, table=table, pictures=Pictures()), tmp_path / "page.html")
    data = Page((tmp_path / "page.html").read_text()).data
    assert data["people"]["annotation_id"][0] == "9007199254740993"


def test_an_existing_page_stays(people, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(DestinationExists, match="exists already"):
        write_page(people, path)
    assert path.read_text() == "mine"
    write_page(people, path, limit=3, force=True)
    assert len(Page(path.read_text()).pictures) == 3


def test_a_page_can_be_gzipped(people, tmp_path):
    write_page(people, tmp_path / "page.html.gz", limit=3)
    assert gzip.decompress((tmp_path / "page.html.gz").read_bytes()).startswith(b"<!doctype html>")


def test_nobody_to_show_is_refused(people, tmp_path):
    nobody = replace(people, table=people.table.slice(0, 0), views=())
    with pytest.raises(BrowseError, match="nobody to show"):
        write_page(nobody, tmp_path / "page.html")
    with pytest.raises(BrowseError, match="limit 0: expected at least 1"):
        write_page(people, tmp_path / "page.html", limit=0)
    assert not list(tmp_path.iterdir())
