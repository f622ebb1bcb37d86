"""The page at work, in a headless Chromium: from disk, without network, with mouse, finger and keyboard."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kpdata import schema, synth
from kpdata.browse.page import write_page
from kpdata.browse.people import PEOPLE, gather
from kpdata.browse.pictures import Pictures
from kpdata.browse.review import apply_review, read_review
from tests.browse.pages import (
    NAMES,
    count,
    download,
    download_open,
    drag,
    lonely,
    on_screen,
    opened,
    rows_of,
    show,
    suggested,
)

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    gt = synth.synthesize(12, seed=3, size=(320, 240))
    synth.write_images(gt, folder)
    return gt, gather(gt, synth.simulate_predictions(gt, seed=1)[0], images=folder, title="synthetic")


@pytest.fixture(scope="module")
def people(scenes):
    """With suggestions whose places the test knows: of the first person with a label the first keypoint, 9 px off."""
    return suggested(scenes[1])


@pytest.fixture(scope="module")
def path(people, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "page.html"
    write_page(people, target)
    return target


@pytest.fixture
def page(chromium, path):
    yield from opened(chromium, path)


# ------------------------------------------------------------------------------------------------------------- filters


def test_everybody_is_counted_and_drawn(page, people):
    """Each card has its crop, and both skeletons as one path each."""
    assert count(page) == people.table.num_rows
    assert page.locator(".card").count() == people.table.num_rows
    first = rows_of(people)[0]
    card = page.locator(".card").first
    assert card.locator("image").count() == 1
    assert card.locator("path.tl").count() == (first["keypoints"] is not None)
    assert card.locator("path.pl").count() == (first["predicted_keypoints"] is not None)


def test_dots_lie_on_the_middles_of_their_pixels(page, people):
    """A keypoint x of the image is drawn at x + 0.5 of the picture, whose left edge is 0: labels and predictions."""
    row = next(row for row in rows_of(people) if row["oks"] is not None and row["suspicion"] is None)
    show(page, row)
    corner = np.floor([row["x0"], row["y0"]])
    for style, name in (("path.td", "keypoints"), ("path.dot, #stage path.pu", "predicted_keypoints")):
        drawn = "".join(path.get_attribute("d") for path in page.locator(f"#stage {style}").all())
        dots = np.array([dot.split(" ") for dot in drawn.replace("M", "").split("h0") if dot], np.float64)
        xy = np.reshape(row[name], (-1, 2))
        wanted = xy[np.isfinite(xy).all(1)] + 0.5 - corner
        np.testing.assert_allclose(np.sort(dots, 0), np.sort(wanted, 0), atol=0.0551)


def test_pictures_far_away_are_not_decoded(page, people):
    """Only cards near the window hold a picture; going down brings those there, and drops the first."""
    assert 0 < page.locator(".card image").count() < people.table.num_rows
    page.locator(".card").last.scroll_into_view_if_needed()
    page.locator(".card").last.locator("image").wait_for(state="attached")
    page.wait_for_function("!document.querySelector('.card').querySelector('image')")


def test_kinds_filter_and_their_counts_follow(page, people):
    kinds = schema.texts(people.table["kind"])
    for kind in dict.fromkeys(kinds):
        chip = page.locator(f".chip[data-kind='{kind}']")
        assert chip.locator("small").inner_text() == str(kinds.count(kind))
        chip.click()
        assert count(page) == kinds.count(kind)
        assert set(page.locator(".badge").all_text_contents()) == {kind}
        chip.click()
    assert count(page) == len(kinds)


def test_keypoints_filter_by_what_they_are(page, people):
    rows = rows_of(people)
    k = NAMES.index("left_wrist")
    classes = [row["classes"][k] if row["classes"] else -1 for row in rows]
    visibility = [row["visibility"][k] if row["visibility"] else 0 for row in rows]
    wanted = {
        "any": sum(kind > 0 for kind in classes),
        "jitter": classes.count(1),
        "good": classes.count(0),
        "occluded": visibility.count(1),
        "labelled": sum(value > 0 for value in visibility),
        "absent": sum(
            value == 0 and row["annotation_id"] is not None for value, row in zip(visibility, rows, strict=True)
        ),
    }
    assert wanted["any"] and wanted["occluded"]
    page.select_option("#keypoint", "left_wrist")
    for what, number in wanted.items():
        page.select_option("#what", what)
        assert count(page) == number, what


def test_views_and_slices_and_search(page, people):
    """A view shows its people in its order with its sentence; slices and the search narrow it."""
    rows = rows_of(people)
    view = max(people.views[1:], key=lambda view: len(view.rows) if view.name != "everybody" else 0)
    page.select_option("#view", view.name)
    assert page.inner_text("#sentence") == view.sentence
    files = [rows[i]["file_name"] for i in view.rows.tolist()]
    assert [text.split(" · ")[0] for text in page.locator(".card .words > .soft").all_text_contents()] == files
    whole = sum(rows[i]["occluded_share"] == 0 for i in view.rows.tolist())
    assert 0 < whole < len(files)
    page.select_option("#slice", "hidden keypoints\nnone")
    assert count(page) == whole
    page.click("#clear")
    assert count(page) == len(rows)
    page.fill("#search", files[0])
    assert count(page) == sum(row["file_name"] == files[0] for row in rows)
    page.fill("#search", "nobody is called this")
    assert count(page) == 0 and page.locator("#empty").is_visible()


def test_a_bar_filters_its_people(page, people):
    """The whole bar: all who are wrong there; a part of it: those with that kind of error."""
    rows = rows_of(people)
    k = NAMES.index("right_elbow")
    classes = [row["classes"][k] for row in rows if row["classes"]]
    bar = page.locator(".bar-row").filter(has_text="right elbow")
    bar.locator("span").first.click()
    assert count(page) == sum(kind > 0 for kind in classes) > 0
    kind = max((1, 2, 3, 4), key=classes.count)
    name = ("good", "jitter", "inversion", "swap", "miss")[kind]
    bar.locator(f".b-{name}").click()
    assert count(page) == classes.count(kind) > 0


def test_sorting_by_oks(page, people):
    page.select_option("#sort", "oks")
    words = page.locator(".card .words > div:nth-child(2)").all_text_contents()
    shown = [float(text.split("OKS ")[1].split(" ")[0]) for text in words if text.startswith("OKS")]
    oks = sorted(row["oks"] for row in rows_of(people) if row["oks"] is not None)
    np.testing.assert_allclose(shown, oks, atol=0.0051)


# -------------------------------------------------------------------------------------------------------------- review


def test_a_drag_is_what_the_review_says(page, scenes, people, tmp_path):
    """A keypoint dragged 40 and 25 px on the screen is moved so far in the image, and the dataset follows."""
    row, k, x, y = lonely(people)
    show(page, row)
    sx, sy, unit = on_screen(page, row, x, y)
    drag(page, (sx, sy), (sx + 40, sy + 25))
    review = download_open(page, tmp_path)
    (entry,) = review["people"]
    assert entry | {"keypoints": None} == {
        "annotation_id": row["annotation_id"], "image_id": row["image_id"], "detection_id": row["detection_id"],
        "skeleton": "coco_17", "decision": None, "keypoints": None, "note": "",
    }  # fmt: skip
    assert list(entry["keypoints"]) == [NAMES[k]]
    moved = entry["keypoints"][NAMES[k]]
    np.testing.assert_allclose([moved["x"], moved["y"]], [x + 40 / unit, y + 25 / unit], atol=0.02)
    assert "visibility" not in moved
    gt = scenes[0]
    changed, changes = apply_review(gt, read_review(tmp_path / "review.json"))
    place = schema.values(gt.persons["annotation_id"]).tolist().index(row["annotation_id"])
    before, after = (schema.matrix(data.persons["keypoints"], 34) for data in (gt, changed))
    expected = before.copy()
    expected[place, 2 * k : 2 * k + 2] = moved["x"], moved["y"]
    np.testing.assert_array_equal(after, expected)
    assert changes.num_rows == 1


def test_the_keyboard_alone_reviews(page, people, tmp_path):
    """Enter, k, arrows, o, r, u, n: what they do is what is exported; the mouse is not used but to download."""
    rows = rows_of(people)
    row = next(row for row in rows if row["suspicion"] is None and row["visibility"] and row["visibility"][0] > 0)
    page.keyboard.press("/")
    page.keyboard.type(str(row["annotation_id"]))
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "view":
            break
    page.keyboard.press("Enter")
    assert page.locator("#person").is_visible()
    page.keyboard.press("k")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    was = row["visibility"][0]
    page.keyboard.press("o")
    page.keyboard.press("Escape")
    assert page.locator("#person").is_visible()  # the first Escape lets go of the keypoint
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    assert not page.locator("#person").is_visible()
    assert page.evaluate("document.activeElement.className") == "view"
    (entry,) = download(page, tmp_path)["people"]
    x, y = row["keypoints"][:2]
    point = entry["keypoints"]["nose"]
    np.testing.assert_allclose([point["x"], point["y"]], [x + 2, y + 9], atol=0.011)
    assert point["visibility"] == (1 if was != 1 else 2)
    assert entry["decision"] == "reject"
    for _ in range(3):  # the decision, the mark, the moves together
        page.keyboard.press("u")
    assert page.locator("#save").is_disabled()
    assert page.inner_text("#progress").startswith("0 of ")


def test_arrows_walk_through_the_cards(page, people):
    page.locator(".card .view").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.closest('.card').dataset.position") == "2"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.closest('.card').dataset.position") == str(people.table.num_rows - 1)
    assert page.locator(".view[tabindex='0']").count() == 1
    page.select_option("#state", "reject")
    assert count(page) == 1
    page.keyboard.press("?")
    assert page.locator("#help-dialog").is_visible()


def test_an_accepted_suggestion_is_spelled_out(page, scenes, people, tmp_path):
    """Accept exports the suggested place, so that applying needs no predictions; a second `a` takes it back."""
    row = next(row for row in rows_of(people) if row["suspicion"] is not None)
    k = row["suspect_keypoints"][0]
    show(page, row)
    page.click("#accept")
    assert "takes the suggested places" in page.inner_text("#decide-words")
    (entry,) = download_open(page, tmp_path)["people"]
    assert entry["decision"] == "accept"
    ((name, place),) = entry["keypoints"].items()
    assert name == NAMES[k]
    np.testing.assert_allclose([place["x"], place["y"]], row["proposed_keypoints"][2 * k : 2 * k + 2], atol=0.00501)
    changed, _ = apply_review(scenes[0], read_review(tmp_path / "review.json"))
    place_of = schema.values(changed.persons["annotation_id"]).tolist().index(row["annotation_id"])
    assert schema.matrix(changed.persons["keypoints"], 34)[place_of, 2 * k] == place["x"]
    page.locator(".card .view").first.focus()
    page.keyboard.press("a")
    assert page.locator("#save").is_disabled()


def test_a_person_without_a_label_can_be_added(page, scenes, people, tmp_path):
    """`a` on a background adds the person where the prediction is; one keypoint taken away stays away."""
    row = next(row for row in rows_of(people) if row["kind"] == "background")
    show(page, row)
    page.keyboard.press("a")
    page.keyboard.press("k")
    page.keyboard.press("x")
    (entry,) = download_open(page, tmp_path)["people"]
    seen = np.isfinite(np.reshape(row["predicted_keypoints"], (-1, 2))).all(1)
    assert entry["annotation_id"] is None and entry["detection_id"] == row["detection_id"]
    assert entry["keypoints"]["nose"] == {"visibility": 0}
    assert {name for name, seen in zip(NAMES, seen.tolist(), strict=True) if seen} == set(entry["keypoints"])
    gt = scenes[0]
    changed, _ = apply_review(gt, read_review(tmp_path / "review.json"))
    assert len(changed) == len(gt) + 1
    added = schema.matrix(changed.persons["keypoints"], 34)[-1].reshape(-1, 2)
    theirs = np.reshape(row["predicted_keypoints"], (-1, 2))
    np.testing.assert_allclose(added[1:], theirs[1:], atol=0.00501)
    assert schema.matrix(changed.persons["visibility"], 17)[-1].tolist() == [0, *np.where(seen[1:], 2, 0).tolist()]


def test_nothing_can_be_accepted_where_nothing_is_suggested(page, people):
    row = next(row for row in rows_of(people) if row["annotation_id"] is not None and row["suspicion"] is None)
    show(page, row)
    assert page.locator("#accept").is_disabled()
    page.keyboard.press("a")
    assert "Nothing is suggested" in page.inner_text("#toast")
    assert page.inner_text("#progress").startswith("0 of ")


def test_a_review_can_be_loaded_again(chromium, path, people, tmp_path):
    """What was downloaded, loaded on a fresh page, downloads equal; people who are not on the page are kept."""
    for page in opened(chromium, path):
        row, _, x, y = lonely(people)
        show(page, row)
        sx, sy, _ = on_screen(page, row, x, y)
        drag(page, (sx, sy), (sx - 30, sy + 10))
        page.keyboard.press("o")
        page.fill("#note", 'the "left" one\n</script>')
        page.click("#close")
        page.fill("#search", "")
        page.locator(".card .view").nth(3).focus()
        page.keyboard.press("r")
        first = download(page, tmp_path)
    assert len(first["people"]) == 2
    other = {
        "annotation_id": 2**60 + 1, "image_id": 5, "detection_id": None, "skeleton": "coco_17", "decision": "reject",
        "keypoints": {"nose": {"x": 1.5, "y": 2, "visibility": 1}}, "note": "",
    }  # fmt: skip
    (tmp_path / "more.json").write_text(json.dumps(first | {"people": [*first["people"], other]}))
    for page in opened(chromium, path):
        page.set_input_files("#file", tmp_path / "more.json")
        page.wait_for_function("document.getElementById('progress').textContent.includes('elsewhere')")
        assert page.inner_text("#progress") == f"2 of {people.table.num_rows} reviewed, 1 elsewhere"
        assert download(page, tmp_path) == first | {"people": [*first["people"], other]}
        page.keyboard.press("u")
        assert page.locator("#save").is_disabled()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kpdata_review": 1, "key": "another", "people": []}', "This review is of other data"),
        ('{"people": []}', "no review of kpdata"),
        ("[1, 2", "not JSON"),
        (
            '{"kpdata_review": 1, "key": "KEY", "people": [{"annotation_id": 1, "decision": "maybe"}]}',
            "Person 1 of this review",
        ),
    ],
)
def test_what_is_no_review_of_this_data_is_refused_in_words(page, people, tmp_path, text, words):
    (tmp_path / "wrong.json").write_text(text.replace("KEY", people.key))
    page.set_input_files("#file", tmp_path / "wrong.json")
    page.wait_for_function("document.getElementById('toast').textContent !== ''")
    assert words in page.inner_text("#toast")
    assert page.inner_text("#progress").startswith("0 of ")


def test_a_review_outlives_the_window(page, people):
    """Reloaded, the page knows what was decided, and says so."""
    page.locator(".card .view").nth(1).focus()
    page.keyboard.press("r")
    page.reload()
    assert page.inner_text("#progress") == f"1 of {people.table.num_rows} reviewed"
    assert "earlier visit" in page.inner_text("#toast")
    assert page.locator(".card").nth(1).locator(".verdict").inner_text() == "rejected"


# --------------------------------------------------------------------------------------------------- phones, odd texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(chromium, path, people, scheme, tmp_path):
    """At 390 and 320 px, in the grid and in the large view; a tap puts a keypoint that was not labelled."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": scheme}
    for page in opened(chromium, path, **phone):
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        page.evaluate("document.querySelectorAll('details').forEach((found) => { found.open = true })")
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate(wide) == 0
        page.set_viewport_size({"width": 390, "height": 844})
        row = next(row for row in rows_of(people) if row["annotation_id"] is not None and 0 in row["visibility"])
        k = row["visibility"].index(0)
        show(page, row)
        for part in ("#person .person", "#person .side", "#person .head"):
            assert page.evaluate(f"(e => e.scrollWidth - e.clientWidth)(document.querySelector('{part}'))") == 0
        page.locator(".point").nth(k).tap()
        x, y = (row["x0"] + row["x1"]) / 2, (row["y0"] + row["y1"]) / 2
        page.touchscreen.tap(*on_screen(page, row, x, y)[:2])
        assert page.locator(".point").nth(k).locator(".soft").inner_text() == "visible, corrected"
        (entry,) = download_open(page, tmp_path)["people"]
        assert entry["keypoints"][NAMES[k]] == {
            "x": pytest.approx(x, abs=0.02), "y": pytest.approx(y, abs=0.02), "visibility": 2
        }  # fmt: skip


def test_a_finger_drags(chromium, path, people, tmp_path):
    """The picture does not scroll away under the finger: the keypoint follows it, and only the chosen one."""
    for page in opened(chromium, path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True):
        row, k, x, y = lonely(people)
        show(page, row)
        sx, sy, unit = on_screen(page, row, x, y)
        touch = page.context.new_cdp_session(page)
        for kind, step in (("touchStart", 0), ("touchMove", 10), ("touchMove", 30), ("touchEnd", None)):
            points = [] if step is None else [{"x": sx + step, "y": sy - step}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        (entry,) = download_open(page, tmp_path)["people"]
        assert list(entry["keypoints"]) == [NAMES[k]]
        moved = entry["keypoints"][NAMES[k]]
        np.testing.assert_allclose([moved["x"], moved["y"]], [x + 30 / unit, y - 30 / unit], atol=0.02)


def test_markup_in_names_is_shown_as_it_is(chromium, people, tmp_path):
    """A keypoint, file, title, note and finding named like a script are texts: no dialog opens, no element appears."""
    table = people.table
    for name in ("file_name", "findings"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, PEOPLE.field(name), schema.repeated([EVIL] * table.num_rows))
    skeleton = people.skeletons["coco_17"]
    evil = replace(skeleton, keypoint_names=(EVIL, *NAMES[1:]), flip_pairs=frozenset(), landmarks=())
    found = replace(people, table=table, title=EVIL, notes=(EVIL,), skeletons={"coco_17": evil}, pictures=Pictures())
    write_page(found, tmp_path / "page.html")
    for page in opened(chromium, tmp_path / "page.html"):
        assert page.inner_text("h1") == page.inner_text("#notes li") == EVIL
        assert EVIL in page.locator(".card").first.inner_text()
        page.select_option("#keypoint", EVIL)
        page.click("#clear")
        page.locator(".card .view").first.click()
        page.keyboard.press("k")
        assert page.inner_text("#chosen") == page.inner_text(".point >> nth=0 >> span >> nth=0") == EVIL
        assert page.locator("script").count() == 3


def test_everything_that_can_be_pressed_has_a_name(page):
    """Buttons, fields and pictures carry words for those who do not see them; focus shows."""
    page.locator(".card .view").first.click()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input:not([hidden]), select, textarea")].filter((found) =>
             !(found.textContent.trim() || found.getAttribute("aria-label") || (found.labels && found.labels.length))
           ).map((found) => found.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_dataset_without_predictions(chromium, scenes, tmp_path):
    """Its labels can be corrected like any others; nothing speaks of predictions."""
    found = gather(scenes[0])
    write_page(found, tmp_path / "page.html")
    for page in opened(chromium, tmp_path / "page.html"):
        assert count(page) == found.table.num_rows
        assert not page.locator("#kinds").is_visible()
        page.select_option("#keypoint", "left_knee")
        page.select_option("#what", "occluded")
        column = schema.matrix(found.table["visibility"], 17)[:, NAMES.index("left_knee")]
        assert count(page) == (column == 1).sum()


# ------------------------------------------------------------------------------------------------------- single people


@pytest.fixture
def judged(chromium, tmp_path):
    """(rows of MPII with another model, their page)"""
    gt = synth.synthesize(12, seed=3, skeleton="mpii_16")
    one, two = (synth.simulate_predictions(gt, seed=seed, miss=0.1)[0] for seed in (1, 2))
    people = gather(gt, one, compare=two)
    write_page(people, tmp_path / "page.html")
    for window in opened(chromium, tmp_path / "page.html"):
        yield rows_of(people), window


def test_single_people_say_how_many_keypoints_are_right(judged):
    """Cards count what PCKh counts, chips count the kinds, and the farthest in px comes first."""
    rows, window = judged
    for row, card in zip(rows, window.locator(".card").all_text_contents(), strict=True):
        known = [kind for kind in row["classes"] or [] if kind >= 0]
        assert (f"{known.count(0)} of {len(known)} right" in card) == bool(known)
        assert ("the other model: " in card) == (row["lost"] is not None)
        assert "OKS" not in card
    assert any(row["lost"] for row in rows)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chip = window.locator(f".chip[data-kind='{kind}'] small").inner_text()
        assert int(chip) == sum(row["kind"] == kind for row in rows)
    window.select_option("#sort", "far")
    far = [max((px for px in row["error_px"] or [] if np.isfinite(px)), default=-1.0) for row in rows]
    worst = rows[int(np.argmax(far))]
    assert f"person {worst['annotation_id']}" in window.locator(".card").first.text_content()
