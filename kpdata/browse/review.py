"""Reviews back into the data: decisions about suspicious labels, moved keypoints and visibility marks.

A review is one JSON document, `review.json`, whoever made it (the page, tags of the App, corrected LabelMe files):

    {
      "kpdata_review": 1,
      "key": "…",                        People.key of what was reviewed: a review for other data is refused
      "people": [                        only people that the reviewer touched
        {
          "annotation_id": 12,           null: a person whom nobody labelled (the prediction `detection_id` shows them)
          "image_id": 3,
          "detection_id": 4,             null: no prediction; below -1: somebody added by hand
          "skeleton": "coco_17",         as in the table of people
          "decision": "accept",          "accept", "reject" or null
          "keypoints": {                 by name; only those that shall change
            "left_wrist": {"x": 10.5, "y": 20.0, "visibility": 2}
          },
          "note": ""
        }
      ]
    }

x and y are pixels of the whole image, an integer is the centre of a pixel. Each of x and y (together) and visibility (0
not labelled, 1 occluded, 2 visible) may be absent: it stays as it is. A keypoint that gets a place and was not labelled
becomes visible unless the review says otherwise.

What the decisions mean, of a person with a suspicion (`suspicion` in the table of people is not null):

accept  The suspicion is right, the label is wrong: it takes the suggested places (`proposed_keypoints` of the table of
        people, NaN where the label stays). A keypoint that the review places itself goes where the review says. Of a
        person whom nobody labelled: a new person is added, at the places of the prediction.
reject  The label is right as it is. Nothing changes but what "keypoints" moves; the history remembers it, and the label
        is not suspected again. Of a person whom nobody labelled: nobody is there.
null    Not decided; "keypoints" counts all the same.

Of people without a suspicion only "keypoints" counts: there is nothing to accept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kpdata import files, schema
from kpdata.errors import BrowseError

if TYPE_CHECKING:
    from kpdata.browse.people import People
    from kpdata.dataset import Dataset

VERSION = 1
DECISIONS = ("accept", "reject")
_FARTHEST = 1e9  # px: beyond it no place is meant
REVIEWED = pa.schema(
    [
        ("annotation_id", pa.int64()),
        ("image_id", pa.int64()),
        ("detection_id", pa.int64()),
        ("skeleton", pa.string()),
        ("decision", pa.string()),
        ("note", pa.string()),
    ]
)
POINTS = pa.schema(
    [
        ("row", pa.int64()),  # of the people
        ("keypoint", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("visibility", pa.int8()),
    ]
)


@dataclass(frozen=True, slots=True)
class Review:
    """A review as tables. key: of the data reviewed; people: rows of REVIEWED; points: rows of POINTS, nulls where the
    review says nothing; source: where it came from, for messages."""

    key: str
    people: pa.Table
    points: pa.Table
    source: str = "review"

    def __len__(self) -> int:
        """Number of people that the review says something of."""
        return int(self.people.num_rows)


def read_review(path: Path | str) -> Review:
    """A `review.json`. FormatError where it cannot be read; BrowseError where it is no review, or a wrong one."""
    source = Path(path)
    try:
        raw = json.loads(files.read_bytes(source))
    except (ValueError, RecursionError) as error:
        raise BrowseError(f"{source}: not JSON that can be read ({error})", hint=_EXPECTED) from error
    return decode(raw, source=str(source))


def apply_review(dataset: Dataset, review: Review, people: People | None = None) -> tuple[Dataset, pa.Table]:
    """The corrected dataset, with the review in its history, and a table of what changed (`applying.CHANGES`).

    people: what was shown (`gather`); its suggestions are taken where an accepted row says no places itself.
    A place counts as new where it is more than 1e-6 px from the old one. Raises BrowseError where the review is of
    other data, names people, images or keypoints that are not there, or marks a keypoint that has no place; and where
    somebody is accepted without places, and `people` is not given.
    """
    from kpdata.browse import applying

    return applying.apply_review(dataset, review, people)


# ------------------------------------------------------------------------------------------------------------- decoding

_EXPECTED = "expected the review.json that the page downloads"


def decode(raw: Any, *, source: str = "review") -> Review:
    """A parsed document (see the top of this file) as a Review. BrowseError names the person and field at fault."""
    if not isinstance(raw, Mapping) or raw.get("kpdata_review") != VERSION:
        found = raw.get("kpdata_review") if isinstance(raw, Mapping) else type(raw).__name__
        raise BrowseError(f"{source}: no review of version {VERSION} ('kpdata_review' is {found!r})", hint=_EXPECTED)
    key, listed = raw.get("key"), raw.get("people")
    if not isinstance(key, str) or not isinstance(listed, list):
        raise BrowseError(f"{source}: expected a text 'key' and a list 'people'", hint=_EXPECTED)
    people: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for number, entry in enumerate(listed):
        where = f"{source}: people[{number}]"
        people.append(_person(entry, where))
        points += _points(entry.get("keypoints") or {}, len(people) - 1, where)
    _refuse_repeated(people, source)
    return Review(key, _table(REVIEWED, people), _table(POINTS, points), source)


def _person(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise BrowseError(f"{where}: {type(entry).__name__}, expected an object", hint=_EXPECTED)
    found: dict[str, Any] = {}
    for name in REVIEWED.names:
        value, wanted = entry.get(name), (int if REVIEWED.field(name).type == pa.int64() else str)
        if value is not None and type(value) is not wanted:
            raise BrowseError(f"{where}: {name!r} is {value!r}, expected {wanted.__name__} or null")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BrowseError(f"{where}: {name!r} is {value}, expected an id below 2^63")
        found[name] = value
    if found["decision"] not in (None, *DECISIONS):
        raise BrowseError(f"{where}: 'decision' is {found['decision']!r}, expected {' or '.join(DECISIONS)} or null")
    if found["annotation_id"] is None and found["detection_id"] is None:
        raise BrowseError(f"{where}: neither 'annotation_id' nor 'detection_id' says who it is about")
    return found


def _points(entry: Any, row: int, where: str) -> list[dict[str, Any]]:
    if not isinstance(entry, Mapping):
        raise BrowseError(f"{where}: 'keypoints' is {type(entry).__name__}, expected an object by name")
    found = []
    for name, value in entry.items():
        here = f"{where}, keypoint {name!r}"
        if not isinstance(value, Mapping):
            raise BrowseError(f"{here}: {value!r}, expected an object with x, y and visibility")
        place = {axis: _number(value.get(axis), axis, here) for axis in "xy"}
        if (place["x"] is None) != (place["y"] is None):
            raise BrowseError(f"{here}: one of 'x' and 'y' without the other")
        visibility = value.get("visibility")
        if visibility is not None and (type(visibility) is not int or visibility not in (0, 1, 2)):
            raise BrowseError(f"{here}: 'visibility' is {visibility!r}, expected 0, 1 or 2")
        found.append({"row": row, "keypoint": str(name), **place, "visibility": visibility})
    return found


def _number(value: Any, axis: str, where: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= _FARTHEST:  # NaN too
        raise BrowseError(f"{where}: {axis!r} is {repr(value)[:60]}, expected a number of pixels")
    return float(value)


def _refuse_repeated(people: Sequence[Mapping[str, Any]], source: str) -> None:
    seen = set()
    for person in people:
        which = ("annotation_id", person["annotation_id"])
        who = which if person["annotation_id"] is not None else ("detection_id", person["detection_id"])
        if who in seen:
            raise BrowseError(f"{source}: {who[0]} {who[1]} stands twice", hint="each person has one entry")
        seen.add(who)


def _table(wanted: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {}
    for field in wanted:
        items = [row[field.name] for row in rows]
        if field.type == pa.string():
            columns[field.name] = schema.strings(items)
        else:
            present = np.array([item is not None for item in items], bool)
            columns[field.name] = schema.fixed(np.array([item or 0 for item in items]), field.type, present)
    return schema.table(wanted, len(rows), columns)
