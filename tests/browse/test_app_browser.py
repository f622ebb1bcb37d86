"""The App in a headless Chromium on loopback: what a reviewer sees and clicks."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from kpdata import schema
from kpdata.browse import app

PATIENCE = 90_000  # ms: two busy cores


@pytest.fixture(scope="module")
def opened(room, people, chromium):
    """(the App, a page that shows it, addresses outside that the page asked for)."""
    with app.open_app(people, browser=False) as running:
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE)
        outside = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(running.url)
        page.get_by_text("Dismiss", exact=True).click()
        page.locator("text=People by kind of error").wait_for()
        yield running, page, outside
        page.close()


def count(page, wanted):
    """Wait until the grid says that it shows so many people."""
    words = f"{wanted} sample{'' if wanted == 1 else 's'}"
    page.get_by_text(re.compile(rf"^{words}$")).first.wait_for()


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
    for name in ("missed", "false positives", "inversions"):
        (view,) = [view for view in people.views if view.name == name]
        running.show(name)
        count(page, len(view.rows))
    picture(page, "inversions")
    running.show(None)
    count(page, people.table.num_rows)


def click_bar(page, plot, place):
    """Click the bar number `place` of the plot number `plot` of the panel."""
    chart = page.locator(".js-plotly-plot").nth(plot)
    chart.scroll_into_view_if_needed()
    bars = chart.locator(".barlayer .point path")
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
    click_bar(page, 0, 0)
    count(page, int(jitter[first]))
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
    click_bar(page, 2, 0)
    count(page, wanted)
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
    click_bar(page, 0, 0)
    count(page, int(jitter[(jitter > 0).argmax()]))
    page.get_by_text(f"{len(view.rows)} of {people.table.num_rows} people, of this view").first.wait_for()
    picture(page, "view")
    running.show(None)
    count(page, people.table.num_rows)
    page.get_by_text(re.compile(rf"^{people.table.num_rows} people")).first.wait_for()


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


def test_the_port_is_free_again(room, people):
    """After `close` nothing listens there, and the dataset stays."""
    import socket

    with app.open_app(people, browser=False, remote=True) as running:
        assert running.imported == 0
        port = int(running.url.strip("/").rsplit(":", 1)[1])
        assert running.ssh.startswith(f"ssh -N -L {port}:127.0.0.1:{port} ")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.2)
    else:
        pytest.fail(f"something still listens on port {port}")
    assert running.name in app.datasets(room.folder)
