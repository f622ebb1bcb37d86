"""MPII's official struct (`mpii_human_pose_v1_u12_1.mat`): `RELEASE.annolist`, or a bare `annolist`. Read only.

A person is an `annorect`: head corners x1 y1 x2 y2, `annopoints.point` (x, y, id, is_visible; in any order, fewer
than 16 where joints are not labelled), `scale`, `objpos`; any of them may be missing or a 0x0. is_visible is a number,
a char `0`/`1`, a 0x0 or missing (ids 8 and 9 hardly ever carry it). Test images have `scale` and `objpos` alone.
Fields: the data set's own README, quoted in wbenbihi/hourglasstensorflow notebooks/01 - Parsing MPII Dataset.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _matlab, _mpii_arrays, _mpii_json, _rows
from kpdata.converters._mpii_json import BASE, COORDINATES, COUNT, FORMAT, SKELETON
from kpdata.errors import FormatError
from kpdata.schema import Visibility
from kpdata.skeleton import load

Raw = dict[str, Any]

_HEAD = ("x1", "y1", "x2", "y2")
_RECT = (*_HEAD, "annopoints", "scale", "objpos")
_RELEASE_PERSON, _RELEASE_IMAGE = "RELEASE_person_index", "RELEASE_img_index"


class _People:
    """What one pass over the nested structs collects: a row a person, a row a point."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.image_rows: list[int] = []
        self.index: list[int] = []
        self.head: list[list[float | None]] = []
        self.center: list[list[float | None]] = []
        self.scale: list[float | None] = []
        self.labelled: list[bool] = []
        self.points: list[tuple[int, int, float, float, int]] = []  # person, id, x, y, visibility
        self.extras = _rows.Extras()
        self.findings: list[Raw] = []

    def add(self, rect: Raw, image: int, index: int) -> None:
        """One annorect."""
        row = len(self.index)
        self.image_rows.append(image)
        self.index.append(index)
        self.head.append([self._number(rect, key, row) for key in _HEAD])
        objpos = _matlab.structs(rect.get("objpos"))
        self.center.append([self._number(objpos[0], key, row) for key in ("x", "y")] if objpos else [None, None])
        self.scale.append(self._number(rect, "scale", row))
        annotated = _matlab.structs(rect.get("annopoints"))
        self.labelled.append(bool(annotated))
        for part in annotated:
            self._add_points(part, row)
        self._keep(row, rect, _RECT)
        head = self.head[-1]
        if None in head and head != [None] * 4:
            self.extras.add(row, "head", dict(zip(_HEAD, head, strict=True)))

    def _add_points(self, part: Raw, row: int) -> None:
        seen: set[int] = set()
        for place, point in enumerate(_matlab.structs(part.get("point")), 1):
            number, x, y = (self._number(point, key, row) for key in ("id", "x", "y"))
            fault = self._fault(number, x, y, seen)
            if fault or number is None or x is None or y is None:
                self._find(row, "point-not-read", f"a point {fault}; it is kept in extras")
                self.extras.add(row, f"point_{place}_not_read", _matlab.plain_row(point))
                continue
            seen.add(int(number))
            self.points.append((row, int(number), x, y, self._visibility(point, row, int(number))))
        self._keep(row, part, ("point",))

    @staticmethod
    def _fault(number: float | None, x: float | None, y: float | None, seen: set[int]) -> str | None:
        if number is None or not 0 <= number < COUNT or number != int(number):
            return f"has the id {number}, expected 0 to {COUNT - 1}"
        if number in seen:
            return f"has the id {number:.0f} again"
        return "has no x or y" if x is None or y is None else None

    def _visibility(self, point: Raw, row: int, number: int) -> int:
        """is_visible 0 is occluded, 1 visible; missing and empty are unknown, and so is any other value (a finding)."""
        value = self._number(point, "is_visible", row)
        if value not in (None, 0, 1):
            self._find(row, "is-visible-not-0-or-1", f"is_visible of point {number} is {value}; it is kept in extras")
            self.extras.add(row, f"is_visible_{number}", value)
        known = {0.0: Visibility.OCCLUDED, 1.0: Visibility.VISIBLE}
        return Visibility.UNKNOWN if value is None else known.get(value, Visibility.UNKNOWN)

    def _number(self, struct: Raw, key: str, row: int) -> float | None:
        try:
            return _matlab.number(struct.get(key, ()))
        except (ValueError, TypeError) as error:
            found = _matlab.plain(struct[key])
            raise FormatError(
                self.source, f"{_mpii_json.where(row)}: {key!r} is {str(found)[:40]!r}, expected a number"
            ) from error

    def _keep(self, row: int, struct: Raw, known: tuple[str, ...]) -> None:
        """Other fields that are not empty (part_occ, head_r, torso_r, …) go to extras."""
        for key, value in struct.items():
            if key not in known and np.size(value):
                self.extras.add(row, key, _matlab.plain(value))

    def _find(self, row: int, code: str, message: str) -> None:
        full = f"{_mpii_json.where(row)}: {message}"
        self.findings.append({"level": "error", "code": code, "annotation_id": row + 1, "message": full})

    def columns(self) -> dict[str, pa.Array]:
        """Person columns of everything collected."""
        count = len(self.index)
        xy, flags = np.full((count, COUNT, 2), np.nan), np.zeros((count, COUNT), np.int8)
        points = np.array(self.points, np.float64).reshape(-1, 5)
        person, number = points[:, 0].astype(int), points[:, 1].astype(int)
        xy[person, number], flags[person, number] = points[:, 2:4] - BASE, points[:, 4].astype(np.int8)
        self.findings += _mpii_json.not_finite(xy, flags > 0)
        heads, centers = _floats(self.head, 4), _floats(self.center, 2)
        scale = _floats([[value] for value in self.scale], 1)[:, 0]
        whole = np.isnan(heads).any(1)
        heads[whole] = np.nan
        return {
            **_matlab.keypoint_columns(xy, flags, SKELETON, present=np.array(self.labelled, bool)),
            "head_bbox": _mpii_arrays.head_column(heads),
            "center": schema.rows(centers - BASE, ~_matlab.every(np.isnan(centers))),
            "scale": schema.fixed(scale, pa.float64(), ~np.isnan(scale)),
            "person_index": schema.fixed(np.array(self.index, np.int64), pa.int32()),
            "extras": self.extras.column(count),
        }


def _floats(rows: list[list[float | None]], width: int) -> _mpii_arrays.Floats:
    return np.array(rows, np.float64).reshape(-1, width)  # None becomes NaN


# -------------------------------------------------------------------------------------------------------------- decode


def decode(raw: Mapping[str, Any], source: str) -> ds.Dataset:
    """The dataset of the loaded struct: one image an annolist entry, one person an annorect, in the file's order.

    images: `split` from img_train, `video_id` the name in video_list, `frame_index` the second frame_sec;
    single_person, act, vididx and other fields in extras. A person without annopoints has no keypoints;
    `person_index` counts from 0.
    """
    release = (_matlab.structs(raw.get("RELEASE")) or [{}])[0]
    annolist = release.get("annolist", raw.get("annolist"))
    entries = _matlab.structs(annolist)
    if not entries and np.size(annolist if annolist is not None else ()):
        raise FormatError(
            source, "'annolist' is no struct, expected one with 'annorect'", hint="is it MPII's own .mat?"
        )
    people = _People(source)
    for row, entry in enumerate(entries):
        for index, rect in enumerate(_matlab.structs(entry.get("annorect"))):
            people.add(rect, row, index)
    if _RELEASE_PERSON in raw:
        _published_index(raw, people)
    images, used = _images(entries, release, raw)
    persons = people.columns()
    others, more = _matlab.leftovers({**raw, **release}, used)
    findings = people.findings + more
    ids, person_ids = _matlab.id_columns(np.array(people.image_rows, np.int64), len(entries))
    provenance = {
        "source_format": FORMAT, "variant": "mat", "ids": "assigned", "area_kind": "none", **COORDINATES,
        **({"variables": others} if others else {}), **({"findings": findings} if findings else {}),
    }  # fmt: skip
    return ds.build(
        {**ids, **images}, {**person_ids, **persons}, num_images=len(entries), num_persons=len(people.index),
        name=FORMAT, provenance=provenance, skeletons=[load(SKELETON)],
    )  # fmt: skip


def _published_index(raw: Mapping[str, Any], people: _People) -> None:
    """A list of single people says beside it which rectangle of the release each one is, counted from 1."""
    value = np.asarray(raw[_RELEASE_PERSON])
    if (
        value.dtype.kind in "fiu"
        and value.size == len(people.index)
        and (value == np.floor(value)).all()
        and (np.abs(value) < 2**31).all()
    ):
        people.index = (value.ravel().astype(np.int64) - 1).tolist()


def _images(entries: list[Raw], release: Raw, raw: Mapping[str, Any]) -> tuple[dict[str, pa.Array], set[str]]:
    """Image columns, and the variables that they used up."""
    count, extras = len(entries), _rows.Extras()
    videos = [_matlab.text(name) for name in np.asarray(release.get("video_list", ())).ravel()]
    names: list[str | None] = [None] * count
    video_ids, seconds = list(names), np.full(count, np.nan)
    for row, entry in enumerate(entries):
        image = (_matlab.structs(entry.get("image")) or [{}])[0]
        names[row] = _matlab.text(image.get("name", ()))
        seconds[row] = _maybe_number(entry.get("frame_sec", ()))
        video = _maybe_number(entry.get("vididx", ()))
        if video == video and 1 <= video <= len(videos) and video == int(video):
            video_ids[row] = videos[int(video) - 1]
        known = {"annorect", "image", *(["frame_sec"] if _whole(seconds[row]) else [])}
        fields = {**{f"image.{key}": value for key, value in image.items() if key != "name"}, **entry}
        for key, value in fields.items():
            if key not in known and np.size(value):
                extras.add(row, key, _matlab.plain(value))
    used = {"RELEASE", "annolist", "img_train", "video_list", _RELEASE_PERSON}
    for name, items in _by_image(release, raw, used, count).items():
        used.add(name)
        for row, item in enumerate(items):
            if item is not None:
                extras.add(row, name, item)
    whole = np.array([_whole(second) for second in seconds.tolist()], bool)
    columns = {
        "file_name": schema.strings(names), "video_id": schema.strings(video_ids), "split": _split(release, count),
        "frame_index": schema.fixed(np.where(whole, seconds, 0).astype(np.int64), pa.int64(), whole),
        "extras": extras.column(count),
    }  # fmt: skip
    return columns, used


def _whole(number: float) -> bool:
    return abs(number) < 2**53 and number == int(number)


def _maybe_number(value: Any) -> float:
    """The number, NaN where there is none."""
    try:
        found = _matlab.number(value)
    except (ValueError, TypeError):
        return float("nan")
    return float("nan") if found is None else found


def _split(release: Raw, count: int) -> pa.Array:
    """`train` or `test` from img_train 1 or 0; null where it says neither."""
    flags = np.asarray(release.get("img_train", ())).ravel()
    if flags.size != count or flags.dtype.kind not in "fiub":
        return pa.nulls(count, pa.string())
    return schema.strings([{1.0: "train", 0.0: "test"}.get(flag) for flag in flags.astype(float).tolist()])


def _by_image(release: Raw, raw: Mapping[str, Any], used: set[str], count: int) -> dict[str, list[Any]]:
    """Other variables with an entry for each image (single_person, act, RELEASE_img_index, …) as JSON data by name."""
    found = {}
    for name, value in {**raw, **release}.items():
        if name.startswith("__") or name in used or np.size(value) != count or count < 2:
            continue
        if isinstance(value, list) or np.asarray(value).dtype.names:
            found[name] = [_matlab.plain_row(row) for row in _matlab.structs(value)]
        else:
            found[name] = [_matlab.plain(item) for item in np.asarray(value).ravel()]
    return found
