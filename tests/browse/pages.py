"""What the browser tests of the page share: windows, downloads, and where things are on the screen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from kpdata import schema, synth
from kpdata.browse.people import PEOPLE, View

OWN = ("file:", "data:", "blob:")
NAMES = synth.synthesize(1, seed=0).skeletons["coco_17"].keypoint_names


def suggested(found):
    rows = found.table.to_pylist()
    chosen = next(i for i, row in enumerate(rows) if row["annotation_id"] is not None and row["labelled"] > 8)
    k = next(k for k, value in enumerate(rows[chosen]["visibility"]) if value == 2)
    proposed = np.full(34, np.nan)
    proposed[2 * k : 2 * k + 2] = np.add(rows[chosen]["keypoints"][2 * k : 2 * k + 2], (9, 0))
    here = np.arange(len(rows)) == chosen
    columns = {
        "suspicion": schema.fixed(np.full(len(rows), 0.8), PEOPLE.field("suspicion").type, here),
        "suspect": schema.strings(["a keypoint lies elsewhere" if own else None for own in here.tolist()]),
        "suspect_keypoints": schema.rows(
            np.full((len(rows), 1), k), here, PEOPLE.field("suspect_keypoints").type.value_type
        ),
        "proposed_keypoints": schema.rows(np.tile(proposed, (len(rows), 1)), here),
    }
    table = found.table
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), PEOPLE.field(name), column)
    return replace(found, table=table, views=(View("suspicious", "Labels to doubt.", np.array([chosen])), *found.views))


def opened(browser, path, **options):
    """The page in a window of its own storage; any error, refused load or dialog fails the test."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    found, wrong = context.new_page(), []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda said: wrong.append(said.text))
    found.on("request", lambda request: request.url.startswith(OWN) or wrong.append(request.url))
    found.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.accept()))
    found.goto(path.as_uri())
    yield found
    context.close()
    assert wrong == []


def rows_of(people):
    return people.table.to_pylist()


def count(page):
    return int(page.inner_text("#count").split(" ")[0].replace(",", ""))


def download(page, tmp_path):
    with page.expect_download() as started:
        page.click("#save")
    assert started.value.suggested_filename == "review.json"
    started.value.save_as(tmp_path / "review.json")
    return json.loads((tmp_path / "review.json").read_text())


def download_open(page, tmp_path):
    """Close the large view, and download."""
    page.click("#close")
    return download(page, tmp_path)


def show(page, row):
    """Open a person of the table, found by their id."""
    page.fill("#search", str(row["annotation_id"] if row["annotation_id"] is not None else row["detection_id"]))
    kind = "person" if row["annotation_id"] is not None else "prediction"
    number = row["annotation_id"] if row["annotation_id"] is not None else row["detection_id"]
    page.get_by_role("button", name=f"{kind} {number}, ").first.click()
    assert f"{kind} {number}" in page.inner_text("#person-title")


def on_screen(page, row, x, y):
    """Where the pixel x, y of the image is on the screen, and how large a pixel is: the drawing fits its stage."""
    box = page.locator("#stage svg").bounding_box()
    left, top = np.floor(row["x0"]), np.floor(row["y0"])
    width, height = max(np.ceil(row["x1"]) - left, 2), max(np.ceil(row["y1"]) - top, 2)
    unit = min(box["width"] / width, box["height"] / height)
    corner = box["x"] + (box["width"] - unit * width) / 2, box["y"] + (box["height"] - unit * height) / 2
    return corner[0] + (x + 0.5 - left) * unit, corner[1] + (y + 0.5 - top) * unit, unit


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def lonely(people, apart=14.0):
    """A matched person with a visible keypoint that no other is near: row, column, x, y."""
    for row in rows_of(people):
        if row["annotation_id"] is None or row["suspicion"] is not None:
            continue
        xy = np.reshape(row["keypoints"], (-1, 2))
        for k in np.flatnonzero(np.array(row["visibility"]) == 2).tolist():
            away = np.hypot(*(np.delete(xy, k, 0) - xy[k]).T)
            inside = row["x0"] + 30 < xy[k, 0] < row["x1"] - 30 and row["y0"] + 30 < xy[k, 1] < row["y1"] - 30
            if np.nanmin(away) > apart and inside:
                return row, k, *xy[k].tolist()
    raise AssertionError("no such person in the scenes")
