"""One HTML file to review people in: no server, no network, no other file; it opens from disk in any browser.

`page.html.j2` is the page, `page.css` its looks; the scripts do the work: `page_model.js` what the reviewer decides,
`page_draw.js` skeletons over crops, `page_grid.js` filters and cards, `page_person.js` one person, large. They are put
into the page as they are, and its content security policy names their hashes: no other script runs, and nothing is
loaded. What comes from data is text in two blocks of JSON, never markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from kpdata import files, schema
from kpdata.browse.people import ANNOTATION, People, worst
from kpdata.browse.pictures import Pictures
from kpdata.errors import BrowseError
from kpdata.eval.errors import KINDS as ERRORS
from kpdata.eval.errors import Kind
from kpdata.eval.oks import Floats, Ints
from kpdata.eval.report import figures
from kpdata.eval.report.cards import Window, crops, window
from kpdata.eval.report.sections import MEANINGS, legend, text

LIMIT = 1000
_SIZES = ((120, 560, 80), (400, 360, 74))  # up to so many people: longer side of a crop in px, quality of its JPEG …
_SMALLEST = (280, 72)  # … and of more: 1,000 people make about 10 MB
_PLACES, _ERRORS = 2, 2  # decimals of px, and of sigma units and scores
_NUMBERS = {  # columns and the decimals that are shown
    "oks": 5, "score": 5, "area": 0, "labelled": 0, "occluded": 0, "crowding": 5, "truncated": 0, "occluded_share": 5,
    "suspicion": 5, "other_oks": 5, "lost": 5, "loss": 5, "novelty": 5,
}  # fmt: skip
_TEXTS = ("skeleton", "file_name", "kind", "size", "source", "suspect", "nearest", "findings")
_IDS = ("image_id", "annotation_id", "detection_id")
_LISTS = {
    "keypoints": _PLACES, "visibility": 0, "predicted_keypoints": _PLACES, "keypoint_scores": _ERRORS, "error_px": 1,
    "error_sigma": _ERRORS, "classes": 0, "suspect_keypoints": 0, "proposed_keypoints": _PLACES,
}  # fmt: skip
_STYLES = ("page.css",)
_SCRIPTS = ("page_model.js", "page_draw.js", "page_grid.js", "page_person.js")


def write_page(
    people: People, path: Path | str, *, images: Path | str | None = None, limit: int = LIMIT, force: bool = False
) -> list[str]:
    """Write the page, in one piece (gzip where the name ends in `.gz`); a sentence for what it lacks.

    images: folder of the pictures; None: `people.pictures`; without either people are drawn on blank cards. limit: how
    many people are on the page, the worst of each kind in turn. Crops are 560 px wide of up to 120 people, 360 px of up
    to 400, else 280 px: 1,000 people make about 10 MB. Reviews are kept by the browser under `people.key` and leave
    as `review.json` (`kpdata.browse.review` says what stands in it).

    Raises BrowseError for nobody to show or a limit below 1, DestinationExists without `force`, WriteError where the
    disk refuses.
    """
    files.refuse_existing(Path(path), force)
    people = people if images is None else replace(people, pictures=replace(people.pictures, folder=Path(images)))
    page, notes = render(people, limit=limit)
    files.write_bytes(Path(path), page.encode("utf-8", "replace"), force=force)
    return notes


def render(people: People, *, limit: int = LIMIT) -> tuple[str, list[str]]:
    """The page as text, and sentences for what it lacks; see `write_page`."""
    if limit < 1:
        raise BrowseError(f"limit {limit}: expected at least 1 person")
    if not people.table.num_rows:
        raise BrowseError("nobody to show: the table of people is empty")
    rows = worst(people.table, limit) if limit < people.table.num_rows else np.arange(people.table.num_rows)
    shown = schema.take(people.table, rows)
    windows, pictures, notes = _pictures(shown, people.pictures)
    document = _document(people, shown, rows, notes) | {"windows": windows}
    embedded = {"data": embed(document), "pictures": embed([base64.b64encode(jpeg).decode() for jpeg in pictures])}
    return _page(people, embedded), notes


def embed(document: Any) -> str:
    """JSON that can stand in a `<script type="application/json">`: no `<`, `>` or `&`, which would be markup there.

    NumPy arrays become lists, and numbers that are not finite null.

    >>> embed({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    plain = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ------------------------------------------------------------------------------------------------------------ the page


def _page(people: People, embedded: Mapping[str, str]) -> str:
    import jinja2
    from markupsafe import Markup

    from kpdata import __version__

    folder = resources.files("kpdata.browse")
    read = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html.j2", *_STYLES, *_SCRIPTS)}
    style = "\n" + "\n".join(read[name] for name in _STYLES)
    script = '\n"use strict";\n(() => {\n' + "\n".join(read[name] for name in _SCRIPTS) + "\n})();\n"
    lines = [figures.Line(name, x, y) for name, x, y in people.curves]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(read["page.html.j2"]).render(
        title=people.title or "People to look at",
        version=__version__,
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),  # ours, not data's
        script=Markup(script),
        curves=Markup(figures.chart(lines, "recall", "precision")) if lines else "",  # escapes its texts
        legend=legend(lines),
        data=Markup(embedded["data"]),
        pictures=Markup(embedded["pictures"]),
    )


def _hash(body: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()


# ------------------------------------------------------------------------------------------------------------ the data


def _document(people: People, shown: pa.Table, rows: Ints, notes: Sequence[str]) -> dict[str, Any]:
    """All that the scripts read but the pictures; positions of people are those on the page."""
    kinds = schema.texts(people.table["kind"])
    return {
        "key": people.key,
        "proposals": _proposals(people.table),
        "total": people.table.num_rows,
        "notes": [*people.notes, *notes],
        "stats": [[name, _number(value, ANNOTATION in kinds)] for name, value in people.stats.items()],
        "kinds": [[kind, kinds.count(kind)] for kind in dict.fromkeys(kinds)],
        "errors": [kind.name.lower() for kind in ERRORS],  # by their number, from 0
        "meanings": MEANINGS,
        "skeletons": {
            name: {"keypoints": skeleton.keypoint_names, "edges": skeleton.edges}
            for name, skeleton in people.skeletons.items()
        },
        "views": [
            {"name": view.name, "sentence": view.sentence, "rows": _on_page(view.rows, rows), "total": len(view.rows)}
            for view in people.views
        ],
        "bars": [{"skeleton": name, "rows": _bars(table)} for name, table in people.per_keypoint.items()],
        "people": _columns(shown),
    }


def _number(value: float, count: bool) -> str:
    return f"{value:,.0f}" if count else text(value)


def _proposals(table: pa.Table) -> str:
    """Identity of what is suggested: the browser keeps a review by it, as "accept" of other predictions is another."""
    digest = hashlib.sha256()
    for name in ("annotation_id", "detection_id"):
        digest.update(np.where(schema.valid(table[name]), schema.values(table[name]), -1).astype("<i8").tobytes())
    for name in ("predicted_keypoints", "proposed_keypoints"):
        flat, offsets = schema.ragged(table[name])
        digest.update(offsets.astype("<i8").tobytes() + flat.astype("<f8").tobytes())
    return digest.hexdigest()[:16]


def _on_page(wanted: Ints, rows: Ints) -> Ints:
    """Positions on the page of those wanted rows of the table that are there, in their order. rows: ascending."""
    place = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.asarray(place[rows[place] == wanted], np.int64)


def _columns(table: pa.Table) -> dict[str, Any]:
    """Ids as texts (they may exceed what a script's numbers hold), numbers with null, lists as one flat list and where
    each person's ends."""
    columns: dict[str, Any] = {name: schema.texts(table[name]) for name in _TEXTS}
    columns |= {name: _ids(table[name]) for name in _IDS}
    for name, decimals in _NUMBERS.items():
        values = np.asarray(schema.values(table[name]), np.float64)
        columns[name] = _rounded(np.where(schema.valid(table[name]), values, np.nan), decimals)
    for name, decimals in _LISTS.items():
        flat, offsets = schema.ragged(table[name])
        whole = flat.dtype.kind == "i"
        columns[name] = {"flat": flat if whole else _rounded(flat, decimals), "ends": offsets - offsets[0]}
    return columns


def _ids(column: pa.ChunkedArray) -> list[str | None]:
    known = zip(schema.values(column).tolist(), schema.valid(column).tolist(), strict=True)
    return [str(number) if there else None for number, there in known]


def _rounded(values: Floats, decimals: int) -> Floats:
    """Contiguous, as orjson wants it; nothing below zero's sign."""
    return np.ascontiguousarray(np.round(values, decimals) + 0.0)


def _bars(table: pa.Table) -> list[dict[str, Any]]:
    """A keypoint each, the worst first: counts of the error kinds, or, without predictions, of the visibilities."""
    columns = {name: schema.chunk(table[name]).to_pylist() for name in table.schema.names}
    parts = [kind.name.lower() for kind in ERRORS if kind is not Kind.GOOD]
    judged = all(name in columns for name in parts)
    parts = [*parts[::-1], "good"] if judged else ["occluded", "visible"]
    bars = [
        {
            "keypoint": name,
            "parts": [[part, columns[part][i] or 0] for part in parts],
            "labelled": columns["labelled"][i],
        }
        for i, name in enumerate(columns["keypoint"][:-1])  # the last is all of them
    ]
    return sorted(bars, key=_worse) if judged else bars


def _worse(bar: dict[str, Any]) -> float:
    """Share of a keypoint's labels that are good: 1 where there is none."""
    total = sum(count for _, count in bar["parts"])
    return float(bar["parts"][-1][1] / total) if total else 1.0


def _pictures(table: pa.Table, found: Pictures) -> tuple[list[Window], list[bytes], list[str]]:
    """Window and JPEG of each person; b"" where there is no picture."""
    columns = ["image_id", "file_name", "width", "height", "x0", "y0", "x1", "y1"]
    rows = table.select(columns).to_pylist()
    windows = [window(row) for row in rows]
    if not found:
        return windows, [b""] * len(rows), []
    for row in rows if found.embedded else ():
        path = found.find(row["image_id"], row["file_name"])
        if path is not None:  # embedded ones by their own path, which no folder changes
            row["file_name"] = str(path.absolute())
        elif found.folder is None:
            row["x0"] = None  # nowhere to look
    side, quality = next(((side, quality) for most, side, quality in _SIZES if len(rows) <= most), _SMALLEST)
    jpegs, notes = crops(rows, windows, found.folder or Path(), side, quality)
    return windows, jpegs, notes
