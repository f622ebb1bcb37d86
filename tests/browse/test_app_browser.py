"""The App in a headless Chromium on loopback: what a reviewer sees and clicks."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kpdata import schema
from kpdata.browse import app
from kpdata.errors import BrowseError

PATIENCE = 90_000  # ms: two busy cores


@pytest.fixture(scope="module")
def opened(room, people, chromium):
    """(the App, a page that shows it, addresses outside that the page asked for)."""
    with app.open_app(people, browser=False, remote=True) as running:
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE)
        outside = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(running.url)
        page.get_by_text("Dismiss", exact=True).click()
        page.locator("text=People by kind of error").wait_for()
        yield running, page, outside
        page.close()


def count(page, wanted, patience=PATIENCE):
    """Wait until the grid says that it shows so many people; TimeoutError."""
    from playwright.sync_api import TimeoutError as TimedOut

    words = f"{wanted} sample{'' if wanted == 1 else 's'}"
    try:
        page.get_by_text(re.compile(rf"^{words}$")).first.wait_for(timeout=patience)
    except TimedOut as late:
        raise TimeoutError(f"{words}: not after {patience / 1000:g} s") from late


def picture(page, name):
    """A screenshot for the eye, in the folder that KPDATA_SCREENSHOTS names."""
    if folder := os.environ.get("KPDATA_SCREENSHOTS"):
        page.wait_for_timeout(4000)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_each_view_shows_its_people(opened, people):
    """The grid counts what the table's view counts; the panel is there beside it."""
    running, page, _ = opened
    count(page, people.table.num_rows)
    picture(page, "everybody")
    for name in ("missed", "false positives"):
        (view,) = [view for view in people.views if view.name == name]
        running.show(name)
        count(page, len(view.rows))
    running.show(None)
    count(page, people.table.num_rows)


def choose_bar(page, plot, place, wanted):
    """Click the bar number `place` of the plot number `plot` of the panel; the grid then shows `wanted` people. A click
    while the App is drawing is lost: then once more, which shows the same."""
    for left in reversed(range(4)):
        click_bar(page, plot, place)
        try:
            count(page, wanted, PATIENCE if not left else PATIENCE / 4)
            return
        except TimeoutError:
            if not left:
                raise


def click_bar(page, plot, place):
    chart = page.locator(".js-plotly-plot").nth(plot)
    chart.scroll_into_view_if_needed()
    bars = chart.locator(".barlayer .point path")
    shown: list[Any] = []
    until = time.monotonic() + 30
    while len(shown) <= place and time.monotonic() < until:  # a busy machine draws them later
        page.wait_for_timeout(100)
        shown = [bar for bar in bars.all() if (box := bar.bounding_box()) is not None and box["height"] > 2]
    box = shown[place].bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()


def test_a_bar_shows_the_people_that_it_counts(opened, people):
    """The first part of the bars of kinds: as many people as have that kind at that keypoint."""
    _, page, _ = opened
    classes = schema.matrix(people.table["classes"], 17)
    jitter = (classes == 1).sum(0)
    first = int((jitter > 0).argmax())
    choose_bar(page, 0, 0, int(jitter[first]))
    picture(page, "bar")
    page.get_by_text("Everybody", exact=True).click()
    count(page, people.table.num_rows)


def test_a_bar_of_the_histogram(opened, people):
    """The first bar of all keypoints: people with a keypoint off by less than 0.02 √area."""
    running, page, _ = opened
    wanted = sum(
        any(k and e / row["area"] ** 0.5 < 0.02 for k, e in zip(row["visibility"], row["error_px"], strict=True))
        for row in people.table.to_pylist()
        if row["classes"]
    )
    choose_bar(page, 2, 0, wanted)
    picture(page, "histogram")
    running.show(None)
    count(page, people.table.num_rows)


def test_the_panel_follows_the_view(opened, people):
    """Of a view the bars count its people alone, and a bar shows those of them; another view is another count."""
    running, page, _ = opened
    (view,) = [view for view in people.views if view.name == "inversions"]
    running.show("inversions")
    page.get_by_text(f"{len(view.rows)} of {people.table.num_rows} people, of this view").first.wait_for()
    classes = schema.matrix(schema.take(people.table, view.rows)["classes"], 17)
    jitter = (classes == 1).sum(0)
    choose_bar(page, 0, 0, int(jitter[(jitter > 0).argmax()]))
    page.get_by_text(f"{len(view.rows)} of {people.table.num_rows} people, of this view").first.wait_for()
    picture(page, "view")
    running.show(None)
    count(page, people.table.num_rows)
    page.get_by_text(re.compile(rf"^{people.table.num_rows} people")).first.wait_for()


def test_a_filter_of_the_sidebar(opened, people):
    """It filters grid and panel, and stays when the panel is drawn anew; a bar then shows people of the filter."""
    _, page, _ = opened
    kinds = people.table["kind"].to_pylist()
    wanted = max({"miss", "jitter", "inversion"} & set(kinds), key=kinds.count)
    page.locator('[data-cy="sidebar-field-arrow-enabled-failure"]').first.click()
    page.get_by_placeholder("+ filter by failure").click()
    page.locator('[data-cy^="selector-result-"]').filter(has_text=re.compile(f"^{wanted}$")).first.click()
    words = f"{kinds.count(wanted)} of {len(kinds)} people, of this view"
    page.get_by_text(words).first.wait_for()
    count(page, kinds.count(wanted))
    page.wait_for_timeout(4000)  # the App loads again after a panel has drawn
    count(page, kinds.count(wanted))
    picture(page, "filter")
    rows = [row for row in people.table.to_pylist() if row["kind"] == wanted]
    jitter = [sum(row["classes"][k] == 1 for row in rows) for k in range(17)]
    choose_bar(page, 0, 0, next(n for n in jitter if n))
    page.get_by_text("Everybody", exact=True).click()
    count(page, len(kinds))


def test_what_is_shown_is_not_deleted(opened, room, people):
    """Neither by --forget nor by an import of changed people under its name, while an App shows it."""
    running, _, _ = opened
    with pytest.raises(BrowseError, match="is shown by an App now: not deleted"):
        app.forget(running.name, room.folder)
    with pytest.raises(BrowseError, match="shown by another App now, and what it shows has changed"):
        app.import_people(replace(people, notes=("changed",)), room, name=running.name)
    assert running.name in app.datasets(room.folder)


def test_a_person_large(opened):
    """A click on a person opens it: the crop with both skeletons, the facts beside it."""
    _, page, _ = opened
    person = page.locator('[data-cy="fo-grid"] [data-cy="looker"]').first
    large = page.locator('[data-cy="modal-looker-container"]').first
    for _ in range(10):  # a click before the picture is there is lost
        box = person.bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"], steps=5)
        page.wait_for_timeout(1000)
        page.mouse.down()
        page.wait_for_timeout(100)
        page.mouse.up()
        page.wait_for_timeout(2000)
        if large.is_visible():
            break
    assert large.is_visible()
    picture(page, "person")
    page.keyboard.press("Escape")
    large.wait_for(state="hidden")


def test_nothing_is_asked_of_anybody_else(opened):
    """Beside the App's own fonts, which it does without, no address outside this machine is asked for."""
    _, _, outside = opened
    own = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "https://fonts.googleapis.com/")
    assert [address for address in outside if not address.startswith(own)] == []


def test_the_port_is_free_again(opened, room, people):
    """After `close` nothing listens there, the dataset stays, and a second browse would import nobody."""
    running, _, _ = opened
    port = int(running.url.strip("/").rsplit(":", 1)[1])
    assert running.ssh.startswith(f"ssh -N -L {port}:127.0.0.1:{port} ")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == 0
    running.close()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.2)
    else:
        pytest.fail(f"something still listens on port {port}")
    assert running.name in app.datasets(room.folder)
    assert app.import_people(people, room)[1] == 0
