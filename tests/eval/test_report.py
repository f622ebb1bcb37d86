"""The report page: well-formed, self-contained, safe, and saying the numbers that it was given."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kpdata import schema
from kpdata.errors import DestinationExists, FormatError
from kpdata.eval import bootstrap, evaluate
from kpdata.eval.calibration import calibration
from kpdata.eval.errors import classify, count_errors, count_people
from kpdata.eval.failures import FAILURES, KINDS, failures
from kpdata.eval.keypoints import keypoint_ap, per_keypoint
from kpdata.eval.opportunity import ERRORS, opportunity, opportunity_by_size
from kpdata.eval.part import pair
from kpdata.eval.report import ReportData, describe, figures, from_evaluation, precision_recall, render, report
from kpdata.eval.report.cards import cards
from kpdata.eval.report.sections import PartReport, text
from kpdata.eval.slices import slices
from kpdata.skeleton import Skeleton, load, names
from kpdata.synth import simulate_predictions, synthesize, write_images

VOID = {"meta", "input", "br", "link", "img", "hr"}
EVIL = "<script>alert('x')</script>\"'&"
LINE = Skeleton("line_2", ("a", "b"), edges=((0, 1),), sigmas=(0.05, 0.05))


class Page(HTMLParser):
    """What a test asks of a page; AssertionError where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: dict[str, str] = {}  # of each element with an id
        self.inside: list[str | None] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(found["id"])
        if tag not in VOID:
            self.open.append(tag)
            self.inside.append(found.get("id"))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside.pop()

    def handle_data(self, data):
        for name in filter(None, self.inside):
            self.words[name] = f"{self.words.get(name, '')} {data.strip()}".strip()

    def count(self, tag: str, css: str) -> int:
        return sum(t == tag and css in (a.get("class") or "").split() for t, a in self.tags)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(ground truth, folder of its pictures)"""
    gt, folder = synthesize(6, seed=5, size=(240, 180)), tmp_path_factory.mktemp("pictures")
    write_images(gt, folder)
    return gt, folder


@pytest.fixture(scope="module")
def full(pictures):
    """A report with everything in it."""
    gt = pictures[0]
    result = evaluate(gt, simulate_predictions(gt, seed=1, missed_people=0.2, false_positives=0.2)[0])
    part = result.sides.parts[0]
    pairing = pair(part)
    errors = classify(part, pairing)
    about_part = PartReport(
        part.skeleton,
        per_keypoint=per_keypoint(part, pairing),
        keypoint_ap=keypoint_ap(part),
        errors=count_errors(part, pairing, errors),
        people=count_people(part, pairing),
        opportunity=opportunity(part, pairing, errors),
        slices=slices(part, gt, n=20, pairing=pairing),
        calibration=calibration(part, pairing),
    )
    return from_evaluation(
        result,
        intervals=bootstrap.bootstrap(part, n=20),
        subtitle="predictions.json against gt.json",
        helps=["Do this.", "Then that."],
        notes=["Mind the gap."],
        parts=[about_part],
        failures=failures(result.sides, [pairing], [errors]),
    )


def one_row(**columns):
    """A failures table of one matched person on `line_2`."""
    row = {
        "skeleton": "line_2", "image_id": 1, "file_name": "a.png", "width": 40, "height": 30, "annotation_id": 5,
        "detection_id": 6, "kind": "miss", "severity": 0.5, "oks": 0.5, "score": 0.9, "area": 100.0, "size": "small",
        "labelled": 2, "occluded": 0, "x0": 4.0, "y0": 2.0, "x1": 36.0, "y1": 26.0,
        "keypoints": [10.0, 8.0, 20.0, 18.0], "visibility": [2, 2],
        "predicted_keypoints": [10.0, 8.0, 30.0, 18.0], "keypoint_scores": [0.9, 0.9],
        "error_px": [0.0, 10.0], "error_sigma": [0.0, 10.0], "classes": [0, 4],
    }  # fmt: skip
    return pa.Table.from_pylist([row | columns], schema=FAILURES)


# --------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_well_formed_and_has_every_section(full, pictures):
    """Tags close in order, ids are unique, every part that was given is there."""
    page = Page(render(full, images=pictures[1]))
    assert len(page.ids) == len(set(page.ids))
    sections = {"notes", "numbers", "helps", "about", "curves", "keypoints", "found", "errors", "opportunity"}
    assert sections | {"slices", "calibration", "people"} <= set(page.ids)


def test_the_page_needs_nothing_but_itself(full, pictures):
    """No script, no address, no other file: pictures are data, styles are inside, and a policy forbids the rest."""
    html = render(full, images=pictures[1])
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", html))
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [found[name] for _, found in page.tags for name in ("src", "href", "srcset", "data") if name in found]
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_numbers_are_those_given(full):
    """Each number with its interval, to three decimals; nothing to average is a dash."""
    page = Page(render(full))
    for name, value in full.stats.items():
        low, high = full.intervals[name]
        known = f"{name} {value:.3f} {low:.3f} – {high:.3f}"
        assert page.words[f"stat-{name}"] == (f"{name} –" if value == -1 else known)
    assert full.stats["AP"] > 0
    page = Page(render(ReportData(stats={"AP": -1.0, "PCKh@0.5 mean": 88.64})))
    assert page.words["stat-AP"] == "AP –"
    assert page.words["stat-PCKh-0.5-mean"] == "PCKh@0.5 mean 88.6"


def test_the_tables_are_those_given(full):
    """Labelled counts, shares of error kinds, gains and slices stand in the page."""
    page, part = Page(render(full)), full.parts[0]
    shown = [row for row in part.per_keypoint.to_pylist() if row["visibility"] == "all"]
    for row, alone in zip(shown, [*part.keypoint_ap, None], strict=True):
        cells = [row["keypoint"].replace("_", " "), f"{row['labelled']:,}", f"{100 * row['found_share']:.1f}"]
        assert f"{' '.join(cells)} {row['oks']:.3f}" in page.words["keypoints"]
        assert alone is None or f"{alone:.3f}" in page.words["keypoints"]
    for row in part.errors.to_pylist():
        name = "all keypoints" if row["keypoint"] == "all" else row["keypoint"].replace("_", " ")
        assert re.search(rf"{name} .*?{row['good_share']:.1%}", page.words["errors"])
        assert f"good: {row['good']:,}, {row['good_share']:.1%}" in page.words["errors"]
    for row in part.opportunity.to_pylist()[1:]:
        assert f"{100 * row['ap_gain']:+.1f} AP {100 * row['ar_gain']:+.1f} AR" in page.words["opportunity"]
    for row in part.slices.to_pylist():
        assert re.search(rf"{re.escape(row['slice'])} {row['by']} {row['AP']:.3f} ", page.words["slices"])
    for row in part.people.to_pylist():
        assert f"{row['count']:,} {100 * row['share']:.1f} %" in page.words["found"]


def test_numbers_and_slices_without_an_interval_do_not_look_certain(full):
    """The number says so, the bar is pale and the text tells why; without resamples nothing is pale."""
    table = full.parts[0].slices
    low, high = ([None, *table[f"AP_{end}"].to_pylist()[1:]] for end in ("low", "high"))
    for name, values in (("AP_low", low), ("AP_high", high)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.float64()))
    assert any(value is not None for value in low)
    part = replace(full.parts[0], slices=table)
    html = render(replace(full, intervals={**full.intervals, "AP": (np.nan, np.nan)}, parts=[part]))
    page = Page(html)
    assert page.words["stat-AP"] == f"AP {full.stats['AP']:.3f} no interval"
    assert "A pale bar has no interval: all its people are on one image." in page.words["slices"]
    without = sum(value is None for value in low)
    assert html.count("(no interval)") >= without
    assert page.count("rect", "pale") == sum(
        value is None and ap > 0 for value, ap in zip(low, table["AP"].to_pylist(), strict=True)
    )
    for name in ("AP_low", "AP_high"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table), pa.float64()))
    page = Page(render(replace(full, parts=[replace(part, slices=table)])))
    assert (page.count("rect", "pale"), "pale" in page.words["slices"]) == (0, False)


def test_few_images_are_a_note_of_the_page(pictures):
    """Six images: numbers and, where they have intervals, slices are counted; nothing without resamples."""
    gt = pictures[0]
    result = evaluate(gt, simulate_predictions(gt, seed=1)[0])
    part = result.sides.parts[0]
    made = {n: [PartReport(part.skeleton, slices=slices(part, gt, "size", n=n))] for n in (0, 20)}
    drawn = from_evaluation(result, intervals=bootstrap.bootstrap(part, n=5), parts=made[20]).notes
    assert drawn[:-1] == result.notes
    assert " numbers (" in drawn[-1] and " slice" in drawn[-1]
    assert " numbers (" not in from_evaluation(result, parts=made[20]).notes[-1]
    assert from_evaluation(result, parts=made[0]).notes == result.notes


def test_what_is_not_given_is_left_out(full):
    """Each field alone makes a page; a page of numbers has no other section, and nothing at all is a page too."""
    given = {field.name for field in fields(ReportData)} - {"stats", "skeletons"}
    for name in sorted(given):
        part = ReportData(stats={}, **{name: getattr(full, name)}, skeletons={"coco_17": full.parts[0].skeleton})
        Page(render(part))
    for field in fields(PartReport):
        if field.name not in ("skeleton", "places", "keypoint_ap", "made"):
            part = PartReport(full.parts[0].skeleton, **{field.name: getattr(full.parts[0], field.name)})
            assert len([i for i in Page(render(ReportData(stats={}, parts=[part]))).ids if i != "people"]) == 1
    assert Page(render(ReportData(stats={"AP": 0.5}))).ids == ["numbers", "stat-AP"]
    assert Page(render(ReportData(stats={}))).ids == []


def test_gains_of_sizes_stand_beside_those_of_everybody():
    """With a table by size: each correction once, with what it adds to APm and APl behind the count."""
    gt = synthesize(6, seed=5)
    part = evaluate(gt, simulate_predictions(gt, seed=1)[0]).sides.parts[0]
    pairing = pair(part)
    errors = classify(part, pairing)
    table = opportunity_by_size(part, pairing, errors)
    page = Page(render(ReportData(stats={}, parts=[PartReport(part.skeleton, opportunity=table)])))
    rows = {(row["size"], row["error"]): row for row in table.to_pylist()}
    for name in ERRORS:
        everybody, medium, large = (rows[size, name] for size in ("all", "medium", "large"))
        sizes = f"APm {100 * medium['ap_gain']:+.1f}, APl {100 * large['ap_gain']:+.1f}"
        assert f"{everybody['count']:,}; {sizes} " in page.words["opportunity"]
    assert page.words["opportunity"].count("APm") == len(ERRORS)


def test_whole_body_comes_first():
    """WholeBody's headline is the AP of all 133 keypoints, whatever the order of the numbers."""
    result = SimpleNamespace(
        stats={"body_AP": 0.7, "whole_AP": 0.6, "whole_AR": 0.5}, facts={}, notes=(), sides=SimpleNamespace(parts=())
    )
    page = Page(render(from_evaluation(result)))
    assert page.ids[:4] == ["numbers", "stat-whole-AP", "stat-whole-AR", "stat-body-AP"]


def test_two_skeletons_have_sections_of_their_own(full):
    """Their names are said, and ids stay unique."""
    part = full.parts[0]
    other = replace(part, skeleton=replace(part.skeleton, name="other one"))
    page = Page(render(replace(full, parts=[part, other])))
    assert len(page.ids) == len(set(page.ids))
    assert page.words["errors-coco_17".replace("_", "-")].startswith("Kinds of error of coco_17")
    assert page.words["errors-other-one"].startswith("Kinds of error of other one")


def test_names_in_the_data_are_no_markup(full):
    """A file name, a keypoint, a note or a slice that holds a script is shown, not run."""
    skeleton = Skeleton(EVIL, (EVIL, "b"), edges=((0, 1),), sigmas=(0.05, 0.05))
    part = full.parts[0]
    table = part.per_keypoint.to_pydict() | {"keypoint": [EVIL, *part.per_keypoint["keypoint"].to_pylist()[1:]]}
    keypoints = pa.Table.from_pydict(table)
    cut = part.slices.to_pydict() | {"slice": [EVIL] * part.slices.num_rows}
    data = ReportData(
        stats={EVIL: 0.5}, title=EVIL, subtitle=EVIL, metric=EVIL, about={EVIL: EVIL}, helps=[EVIL], notes=[EVIL],
        intervals={EVIL: (0.1, 0.2)}, curves=[figures.Line(EVIL, np.array([0.0, 1]), np.array([0.0, 1]))],
        failures=one_row(skeleton=EVIL, file_name=EVIL), skeletons={EVIL: skeleton},
        parts=[replace(part, per_keypoint=keypoints, slices=pa.Table.from_pydict(cut, schema=part.slices.schema))],
    )  # fmt: skip
    html = render(data)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in html
    assert html.count("alert(") > 12
    assert all(EVIL in page.words[name] for name in ("notes", "helps", "about", "people", "keypoints", "slices"))


def test_no_horizontal_scrolling_on_a_phone(full, pictures, tmp_path):
    """In windows of 390 and 320 px nothing is wider than the window, even with all details open."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser installed")
    report(full, tmp_path / "page.html", images=pictures[1])
    probe = tmp_path / "probe.html"
    probe.write_text(
        "".join(f'<iframe src="page.html" style="width: {width}px; height: 800px"></iframe>' for width in (390, 320))
        + """<script>onload = () => { document.title = [...document.querySelectorAll("iframe")].map(frame => {
            const page = frame.contentDocument
            page.querySelectorAll("details").forEach(found => { found.open = true })
            return page.documentElement.scrollWidth - page.documentElement.clientWidth
        }).join(" ") }</script>"""
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-web-security", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=3000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert re.search(r"<title>(.*)</title>", done.stdout).group(1) == "0 0"


def test_the_file_is_written_in_one_piece(full, tmp_path):
    """An existing report stays without force; `.gz` is packed."""
    target = tmp_path / "report.html"
    report(full, target)
    assert target.read_text(encoding="utf-8") == render(full)
    with pytest.raises(DestinationExists):
        report(full, target)
    report(full, target, force=True, limit=0)
    assert "The worst people" not in target.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- the people


def test_a_crop_shows_what_lies_under_the_keypoints(tmp_path):
    """A red pixel at each keypoint: red lies under the middle of each dot of the overlay, the rest is grey."""
    pixels = np.full((30, 40, 3), 128, np.uint8)
    pixels[8, 10] = pixels[18, 20] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (card,), notes = cards(one_row(), {"line_2": LINE}, images=tmp_path)
    assert notes == []
    assert (card.width, card.height) == (32, 24)
    crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.picture.split(",")[1]))), np.int64)
    assert crop.shape == (24, 32, 3)
    redness = crop[..., 0] - crop[..., 2]  # JPEG spreads colour over its neighbours, but its centre stays
    for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", card.truth_dots):
        near = redness[int(float(y)) - 3 : int(float(y)) + 4, int(float(x)) - 3 : int(float(x)) + 4]
        down, right = np.unravel_index(near.argmax(), near.shape)
        assert max(abs(down - 3), abs(right - 3)) <= 1
    assert card.truth_dots == "M6.5 6.5h0M16.5 16.5h0"  # pixel 10, 8 less the corner 4, 2, and its middle
    assert card.predicted_dots == (("good", "M6.5 6.5h0"), ("miss", "M26.5 16.5h0"))
    assert card.links == "M26.5 16.5L16.5 16.5"
    assert card.wrong == (("miss", "b: miss, 10 px off"),)


def test_a_picture_of_half_the_size_shows_the_same(tmp_path):
    """Pictures that were shrunk after labelling: the same part of the scene, in the same frame."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).resize((20, 15)).save(tmp_path / "a.png")
    (card,), _ = cards(one_row(), {"line_2": LINE}, images=tmp_path)
    crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.picture.split(",")[1]))), np.int64)[..., 0]
    assert (card.width, card.height, crop.shape) == (32, 24, (12, 16))
    assert crop[:, :6].max() < 60  # x below 4 + 12
    assert crop[:, 10:].min() > 195


def test_missing_and_broken_pictures_are_counted(tmp_path):
    """The cards stay, without a picture, and one sentence says how many and why."""
    (tmp_path / "b.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 30)).save(tmp_path / "c.png")
    files = ["a.png", "b.png", None, "deep/folder/c.png"]
    table = pa.concat_tables([one_row(file_name=name) for name in files])
    found, notes = cards(table, {"line_2": LINE}, images=tmp_path)
    assert [bool(card.picture) for card in found] == [False, False, False, True]
    assert len(notes) == 1
    assert notes[0].startswith("3 of 4 people are shown without their picture, such as ")
    assert "there is no such file" in notes[0]
    page = Page(render(ReportData(stats={}, failures=table, skeletons={"line_2": LINE}), images=tmp_path))
    assert "3 of 4 people are shown without their picture" in page.words["people"]
    assert page.count("article", "blank") == 3


def test_cards_without_pictures_draw_both_skeletons(full):
    """A blank card has the paths of both; a missed person has no prediction, background no ground truth."""
    found, notes = cards(full.failures, {"coco_17": load("coco_17")}, limit=1000)
    assert notes == []
    assert len(found) == full.failures.num_rows
    for card in found:
        assert not card.picture
        assert bool(card.truth_dots) == (card.kind not in ("background", "duplicate"))
        assert bool(card.predicted_dots) == (card.kind != "missed person")
        assert card.kind in KINDS


def test_a_limit_keeps_the_worst_of_each_kind(full):
    """As many cards as were asked for, and the filter counts them beside all there are."""
    page = Page(render(full, limit=5))
    assert page.count("article", "card") == 5
    assert f"5 of {full.failures.num_rows} people and predictions" in page.words["people"]


def test_a_thousand_people_stay_small(pictures):
    """About 11 kB a person, however large the crops."""
    gt, folder = pictures
    result = evaluate(gt, simulate_predictions(gt, seed=1)[0])
    part = result.sides.parts[0]
    pairing = pair(part)
    table = failures(result.sides, [pairing], [classify(part, pairing)])
    many = schema.take(table, np.arange(200) % table.num_rows)
    html = render(ReportData(stats={}, failures=many, skeletons={"coco_17": part.skeleton}), images=folder, limit=200)
    assert len(html) / 200 < 14_000


# ------------------------------------------------------------------------------------------------ from an evaluation


def test_facts_become_words(full):
    """What was scored is said in words; lists of numbers and machine names are left out."""
    words = describe({"counts": {"images": 1234, "people": 5}, "area": "the file's", "max_dets": [20], "metric": "oks",
                      "category_ids": [1], "sigmas": {"x": [0.1]}, "like": None,
                      "skeletons": {"x_3": {"keypoints": 3, "sigma_source": "a paper"}}})  # fmt: skip
    assert words == {
        "counts": "1,234 images, 5 people",
        "area": "the file's",
        "predictions an image": "20",
        "skeletons": "x_3, 3 keypoints, sigmas: a paper",
    }
    assert full.about["counts"].endswith("predictions")


def test_curves_are_those_of_the_evaluation(pictures):
    """Precision at OKS 0.5 averages to AP50, the mean line to AP; without people there is no curve."""
    gt = pictures[0]
    result = evaluate(gt, simulate_predictions(gt, seed=1)[0])
    lines = {line.name: line for line in precision_recall(result.curves, result.sides.parts[0].params)}
    assert list(lines) == ["OKS 0.5", "OKS 0.75", "OKS 0.9", "mean of 0.5 to 0.95"]
    assert lines["OKS 0.5"].y.mean() == pytest.approx(result.stats["AP50"])
    assert lines["OKS 0.75"].y.mean() == pytest.approx(result.stats["AP75"])
    assert lines["mean of 0.5 to 0.95"].y.mean() == pytest.approx(result.stats["AP"])
    empty = replace(result.curves, precision=np.full_like(result.curves.precision, -1))
    assert precision_recall(empty, result.sides.parts[0].params) == ()


# ---------------------------------------------------------------------------------------------------------- figures


def test_bars_are_as_long_as_their_shares():
    """Stacked: one after the other; single: from the left, with its whisker; nothing to show is an empty bar."""
    svg = figures.stacked_bar([("good", 0.5, "g"), ("miss", 0.25, "m"), ("swap", float("nan"), "s")])
    assert re.findall(r'class="k-(\w+)" x="([\d.]+)" width="([\d.]+)"', svg) == [
        ("good", "0.00", "50.00"),
        ("miss", "50.00", "25.00"),
    ]
    svg = figures.bar(0.4, "w", low=0.3, high=1.2)
    assert 'width="40.00"' in svg
    assert "M30.00 5H100.00" in svg
    assert "<rect" not in figures.bar(float("nan"), "w")
    assert 'class="f-s0 pale"' in figures.bar(0.4, "w", pale=True)


def test_a_line_is_where_its_numbers_are():
    """The corners of the axes are the ends of the ranges; a NaN breaks the line; long lines keep their ends."""
    line = figures.Line("x", np.array([0, 0.5, np.nan, 1]), np.array([0, 1, 0.5, 0.5]))
    path = re.search(r'class="line s0" d="([^"]+)"', figures.chart([line], "a", "b")).group(1)
    assert path == "M52.0 244.0L230.0 10.0M408.0 127.0"
    x = np.linspace(0, 1, 5000)
    long = re.search(r'class="line s0" d="([^"]+)"', figures.chart([figures.Line("x", x, x)], "a", "b")).group(1)
    assert long.startswith("M52.0 244.0")
    assert long.endswith("L408.0 10.0")
    assert long.count("L") < 300


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.93), (-3, 12), (0, 1e-4), (5, 5), (0, 4321)])
def test_ticks_are_few_round_and_inside(low, high):
    """Three to seven, evenly apart, none outside the range."""
    found = figures.ticks(low, high)
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    if high > low:
        assert 3 <= len(found) <= 7
        np.testing.assert_allclose(np.diff(found), found[1] - found[0])


@pytest.mark.parametrize("name", names())
def test_every_skeleton_can_be_laid_out(name):
    """As many places as keypoints; where the landmarks are known, left is right of right and nothing coincides."""
    skeleton = load(name)
    places = figures.layout(skeleton)
    assert places.shape == (len(skeleton), 2)
    assert np.isfinite(places).all()
    if len(skeleton) < 60:
        assert len(np.unique(places, axis=0)) == len(skeleton)
        for left, right in skeleton.flip_pairs or ():
            a, b = (places[skeleton.keypoint_names.index(side)] for side in (left, right))
            assert (a[0] > b[0]) == left.startswith("left")
            assert a[1] == b[1]


def test_an_unknown_skeleton_takes_the_pose_of_somebody():
    """The layout is a real pose, moved and scaled, of somebody with all keypoints; an outlier is not chosen."""
    rng = np.random.default_rng(0)
    shape = np.array([[0, 0], [30, 10], [10, 60], [50, 90.0]])
    people = 2.0 * shape + rng.normal(0, 0.5, (20, 4, 2)) + rng.uniform(0, 500, (20, 1, 2))
    people[7, 2] += 300
    labelled = np.ones((20, 4), bool)
    labelled[::2, 3] = False
    places = figures.layout(Skeleton("odd_4", tuple("abcd")), people, labelled)
    np.testing.assert_allclose(places, (shape - shape.min(0)) * 100 / 90, atol=3)


def test_the_figure_grows_with_the_error():
    """Radii follow the values; NaN is the smallest; words are there for the pointer and the worst is named."""
    svg = figures.skeleton_figure(
        np.array([[0, 0], [0, 50], [0, 100.0]]),
        [(0, 1), (1, 2)],
        np.array([0.0, 1.0, np.nan]),
        ["a – 1", "b<b – 2", "c"],
        name=1,
    )
    radius = {words: float(r) for r, words in re.findall(r'r="([\d.]+)"[^>]*><title>([^<]+)</title>', svg)}
    assert radius["b&lt;b – 2"] > radius["a – 1"] > radius["c"]
    assert re.findall(r">([^<]+)</text>", svg) == ["b&lt;b"]


def test_numbers_for_readers():
    """Three decimals below 1, one above, a dash for nothing."""
    assert [text(v) for v in (0.12345, 1.0, 88.64, -1.0, float("nan"), None)] == [
        "0.123",
        "1.000",
        "88.6",
        "–",
        "–",
        "–",
    ]


def test_a_plot_of_the_keypoints(full, tmp_path):
    """A PNG of some size; an ending that is no picture is refused, and an existing file stays."""
    table = full.parts[0].per_keypoint
    figures.plot_keypoints(table, tmp_path / "k.png")
    with Image.open(tmp_path / "k.png") as picture:
        assert min(picture.size) > 300
    with pytest.raises(FormatError, match=r"not written as '\.txt'"):
        figures.plot_keypoints(table, tmp_path / "k.txt")
    with pytest.raises(DestinationExists):
        figures.plot_keypoints(table, tmp_path / "k.png")


def test_json_of_the_data_is_not_in_the_page(full):
    """The page shows; it is no second copy of the tables."""
    assert json.dumps(full.failures["keypoints"][0].as_py())[1:40] not in render(full)
