"""MPII as the JSON list of Microsoft's and HRNet's repositories: a person a row, 16 joints in the order of their ids.

`joints_vis` says labelled, not visible (microsoft/human-pose-estimation.pytorch issue 7); a missing joint is (-1, -1),
as is a missing centre (HRNet lib/dataset/mpii.py tests `c[0] != -1`). Test files hold `image`, `center`, `scale` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import simdjson
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import geometry, schema
from kpdata.converters import _columns, _json, _matlab, _rows
from kpdata.errors import FormatError
from kpdata.losses import LossReport
from kpdata.schema import Visibility
from kpdata.skeleton import load

Floats = NDArray[np.float64]

FORMAT = "mpii"
SKELETON = "mpii_16"
COUNT = 16
BASE = 1.0  # MATLAB's first pixel; ours is 0
COORDINATES = {"coordinate_base": 1, "coordinate_shift": -1}
_MISSING = -1.0


# -------------------------------------------------------------------------------------------------------------- decode


class _Joints:
    """Lists of 16 pairs of numbers, copied as raw float64 (a collector of `_rows.collect`)."""

    def __init__(self, key: str, extras: _rows.Extras, source: str) -> None:
        self.key, self.extras, self.source = key, extras, source
        self.rows: list[int] = []
        self.data = bytearray()
        self.saw_integer = self.exact = False

    def extend(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Take the joints of these rows; an explicit null goes to extras. FormatError for anything but 16 pairs."""
        for row, value in zip(rows, values, strict=True):
            if value is None:
                self.extras.add(row, self.key, None)
                continue
            is_list = isinstance(value, list | simdjson.Array)
            lengths, body, self.saw_integer = _rows.joined_numbers(list(value) if is_list else [None], self.saw_integer)
            if lengths is None:
                found = f"'joints' is a JSON {_json.kind(value)}, expected a list of {COUNT} pairs of numbers"
                raise FormatError(self.source, f"{where(row)}: {found}")
            if len(lengths) != COUNT:
                found = f"{len(lengths)} keypoints in 'joints', expected {COUNT}"
                hint = f"only files of MPII's {COUNT} keypoints can be read"
                raise FormatError(self.source, f"{where(row)}: {found}", hint=hint)
            if set(lengths) != {2}:
                odd = next(length for length in lengths if length != 2)
                raise FormatError(self.source, f"{where(row)}: a joint of {odd} numbers, expected x and y")
            self.rows.append(row)
            self.data += body

    def points(self) -> Floats:
        """(n, 16, 2) joints of `rows`."""
        return np.frombuffer(self.data).reshape(-1, COUNT, 2)

    def undecided(self) -> NDArray[np.int64]:
        """As `_rows.NumberLists.undecided`: rows with an integral number while no integer was seen."""
        points = self.points().reshape(-1, 2 * COUNT)
        found = _matlab.some(points == np.floor(points)) & (not self.saw_integer)
        return np.array(self.rows, np.int64)[found]


class _People:
    """The rows of the list as collected columns."""

    def __init__(self, rows: Any, source: str) -> None:
        self.source = source
        self.extras = _rows.Extras()
        self.joints = _Joints("joints", self.extras, source)
        self.flags = _rows.NumberLists("joints_vis", self.extras, source)
        self.center = _rows.NumberLists("center", self.extras, source)
        self.scale = _rows.Scalars("scale", self.extras)
        self.image = _rows.Scalars("image", self.extras)
        columns = (self.joints, self.flags, self.center, self.scale, self.image)
        self.count = _rows.collect(rows, {column.key: column for column in columns}, self.extras, self._no_object)

    def _no_object(self, row: int, found: Any) -> FormatError:
        return FormatError(self.source, f"{where(row)}: a JSON {_json.kind(found)}, expected an object")

    def points(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """(N, 16, 2) joints and (N, 16) flags as in the file, NaN where a person (N,) has none."""
        if one_sided := set(self.flags.rows.tolist()) ^ set(self.joints.rows):
            row = min(one_sided)
            have, lack = ("joints", "joints_vis") if row in self.joints.rows else ("joints_vis", "joints")
            raise FormatError(self.source, f"{where(row)}: {have!r} without {lack!r}, expected both or neither")
        flags, labelled = self._lists(self.flags, COUNT, f"{COUNT}")
        xy = np.full((self.count, COUNT, 2), np.nan)
        xy[self.joints.rows] = self.joints.points()
        return xy, flags, labelled

    def centers(self) -> tuple[Floats, NDArray[np.bool_]]:
        """(N, 2) centres as in the file, and (N,) which people have one."""
        return self._lists(self.center, 2, "x and y")

    def _lists(self, column: _rows.NumberLists, width: int, expected: str) -> tuple[Floats, NDArray[np.bool_]]:
        """(N, width) lists, NaN without, and (N,) which people have one. FormatError for another length."""
        for row, length in zip(column.rows.tolist(), column.lengths.tolist(), strict=True):
            if length != width:
                message = f"{where(row)}: {length} numbers in {column.key!r}, expected {expected}"
                raise FormatError(self.source, message)
        present, found = np.zeros(self.count, bool), np.full((self.count, width), np.nan)
        present[column.rows] = True
        found[column.rows] = column.flat().reshape(-1, width)
        return found, present

    def images(self) -> tuple[list[str | None], NDArray[np.int64]]:
        """File name of each image in the order of first use, and (N,) each person's image row."""
        self.image.refuse((str,), "a file name", self.source, where)
        names: list[str | None] = [None] * self.count
        for row, item in zip(self.image.rows.tolist(), self.image.items, strict=True):
            names[row] = item
        return distinct(names)


def where(row: int) -> str:
    """Names a row in a message; people are counted from 1, as their annotation ids are."""
    return f"person {row + 1}"


def distinct(names: list[str | None]) -> tuple[list[str | None], NDArray[np.int64]]:
    """Image names in the order of first use, and (N,) each person's; a person without a name has an image alone."""
    numbers: dict[Any, int] = {}
    rows = [numbers.setdefault((row,) if name is None else name, len(numbers)) for row, name in enumerate(names)]
    return [name if isinstance(name, str) else None for name in numbers], np.array(rows, np.int64)


def decode(raw: Any, source: str) -> ds.Dataset:
    """The dataset of a parsed list. FormatError names the person and the field."""
    if not isinstance(raw, list | _json.Rows):
        raise FormatError(source, f"a JSON {_json.kind(raw)}, expected a list of people")
    people = _People(raw, source)
    joints, third, labelled = people.points()
    center, centred = people.centers()
    names, image_of = people.images()
    findings = _findings(joints, third, labelled)
    keypoints = _keypoints(joints, third, labelled)
    scale = people.scale.floats(people.count, source, where)
    shifted = _shifted(center)
    _keep_inexact(people, joints, center)
    facts = {
        "source_format": FORMAT, "variant": "json", "ids": "assigned", "area_kind": "none", **COORDINATES,
"number_style": _rows.styles(raw, cast(Any, [people.joints, people.flags, people.center]), [people.scale]),
        **({"findings": findings} if findings else {}),
    }  # fmt: skip
    images, persons = _matlab.id_columns(image_of, len(names))
    persons |= {
        **keypoints,
        "center": schema.rows(shifted, centred),
        "scale": scale,
        "extras": people.extras.column(people.count),
    }
    return ds.build(
        {**images, "file_name": schema.strings(names)}, persons, num_images=len(names), num_persons=people.count,
        name=FORMAT, provenance=facts, skeletons=[load(SKELETON)],
    )  # fmt: skip


def _shifted(xy: Floats) -> Floats:
    """0-based points, NaN where the file holds its empty value (-1, -1)."""
    out = xy - BASE
    out[(xy == _MISSING).all(-1)] = np.nan
    return out


def _keypoints(joints: Floats, third: Floats, labelled: NDArray[np.bool_]) -> dict[str, pa.Array]:
    flags = np.where(third > 0, Visibility.UNKNOWN, Visibility.ABSENT).astype(np.int8)
    xy = np.where((flags == Visibility.ABSENT)[..., None], _shifted(joints), joints - BASE)
    odd = labelled & ~_matlab.every(np.isin(third, (0, 1)))
    return _matlab.keypoint_columns(xy, flags, SKELETON, present=labelled, raw=third, odd=odd)


def _findings(joints: Floats, third: Floats, labelled: NDArray[np.bool_]) -> list[dict[str, Any]]:
    names, flagged = load(SKELETON).keypoint_names, (third > 0) & labelled[:, None]
    odd = ~np.isin(third, (0, 1)) & labelled[:, None]
    kept = "person {person}, {keypoint}: joints_vis is neither 0 nor 1; it is kept in visibility_raw"
    empty = "person {person}, {keypoint}: labelled (joints_vis 1) at (-1, -1), which stands for a missing joint"
    return [
        *_matlab.point_findings(odd, names, "error", "joints-vis-not-0-or-1", kept),
        *_matlab.point_findings(
            flagged & (joints == _MISSING).all(-1), names, "warning", "labelled-without-coordinate", empty
        ),
        *not_finite(joints, flagged),
    ]


def not_finite(points: Floats, labelled: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Findings about labelled keypoints (N, 16) whose coordinate is NaN or infinite."""
    message = "person {person}, {keypoint}: labelled, but its coordinate is NaN or infinite"
    bad = labelled & ~np.isfinite(points).all(-1)
    return _matlab.point_findings(bad, load(SKELETON).keypoint_names, "error", "not-finite", message)


def _keep_inexact(people: _People, joints: Floats, center: Floats) -> None:
    """Lists with a number that subtracting 1 rounds (below 0.5 only) also go to extras, in the file's own digits."""
    for key, values in (("joints", joints), ("center", center)):
        flat = values.reshape(people.count, np.prod(values.shape[1:], dtype=int))
        rounded = np.isfinite(flat) & ((flat - BASE) + BASE != flat)
        for row in np.flatnonzero(rounded.any(1)).tolist():
            people.extras.add(row, key, values[row].tolist())


# -------------------------------------------------------------------------------------------------------------- encode


def encode(dataset: ds.Dataset) -> tuple[list[dict[str, Any]], LossReport]:
    """The list of a dataset's people as plain Python, and what it could not hold; see `document`."""
    text, losses = document(dataset)
    return _columns.parsed(text), losses


def document(dataset: ds.Dataset) -> tuple[bytes, LossReport]:
    """The JSON text of the list of a dataset's people, and what it could not hold. Pure.

    People without centre or scale get the centre of their box and its height / 200 px (the keypoints' extent where
    there is no box); an image without a file name is named by its id. Both are counted as additions.
    """
    losses = LossReport(f"{FORMAT} json")
    persons, native = (
        dataset.persons,
        _matlab.rows_of(dataset, source_format=FORMAT, variant="json"),
    )
    style = _style(dataset)
    flags, joints, present = _joint_items(dataset, native, style, losses)
    center, scale, centred, scaled = framing(dataset, ~native, losses)
    shifted = np.where(_matlab.every(np.isnan(center))[:, None], _MISSING, center + BASE)
    names, named = file_names(dataset, ~native, losses)
    columns = [
        ("joints_vis", flags, present), ("joints", joints, present), ("image", _columns.texts(names), named),
        ("scale", _columns.scalars(np.where(scaled, scale, 0), style.get("scale")), scaled),
        ("center", _columns.matrix(np.where(centred[:, None], shifted, 0), style.get("center")), centred),
    ]  # fmt: skip
    _matlab.count_columns(dataset, losses, held=("center", "scale", "file_name"), own=native)
    losses.lose(
        "other variables", _matlab.foreign_variables(dataset, {}), "a JSON list of people has no place for them"
    )
    extras = _own_extras(dataset, native, persons["extras"], shifted)
    return _columns.document(_columns.assemble(len(dataset), columns, extras)), losses


def _style(dataset: ds.Dataset) -> dict[str, str]:
    """Number style by field: the JSON sources' own where they agree; HRNet's (1.0 for one) for other data."""
    found = [
        d["number_style"]
        for d in dataset.datasets.values()
        if d.get("source_format") == FORMAT and d.get("variant") == "json"
    ]
    if found and all(style == found[0] for style in found):
        return dict(found[0])
    return {"joints": "float", "center": "float", "scale": "float"}


def _joint_items(
    dataset: ds.Dataset, native: NDArray[np.bool_], style: dict[str, str], losses: LossReport
) -> tuple[_columns.Texts, _columns.Texts, NDArray[np.bool_]]:
    """`joints_vis` and `joints` of each person, and who has them."""
    xy, flags, present = _matlab.points_of(dataset, SKELETON)
    raw_column = dataset.persons["visibility_raw"]
    kept = schema.valid(raw_column) & native
    third = (flags > 0).astype(np.float64)
    if kept.any():
        third[kept] = schema.matrix(
            schema.take(dataset.persons.select(["visibility_raw"]), np.flatnonzero(kept))["visibility_raw"], COUNT
        )
    stated = np.isin(flags, (Visibility.OCCLUDED, Visibility.VISIBLE))
    losses.lose("visibility", int(stated.sum()), "occluded or visible: joints_vis says labelled or not")
    written = np.where((np.isnan(xy).all(-1) & (flags == 0))[..., None], _MISSING, xy + BASE)
    ones = _columns.matrix(np.where(present[:, None], third, 0), style.get("joints_vis"))
    return ones, _columns.matrix(np.where(present[:, None, None], written, 0), style.get("joints")), present


def framing(
    dataset: ds.Dataset, wanted: NDArray[np.bool_], losses: LossReport
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, 2) 0-based centre, (N,) scale, and who has each; made from a box for `wanted` people without them.

    Centre of the box and height / 200 px (MPII's definition of scale); the extent of the labelled keypoints where there
    is no box. Additions are counted.
    """
    persons = dataset.persons
    center, scale = schema.matrix(persons["center"], 2).copy(), schema.values(persons["scale"]).copy()
    centred, scaled = schema.valid(persons["center"]), schema.valid(persons["scale"])
    boxes = schema.matrix(persons["bbox"], 4)
    xy, flags, _ = _matlab.points_of(dataset, SKELETON)
    boxes = np.where(_matlab.every(np.isfinite(boxes))[:, None], boxes, geometry.box_from_keypoints(xy, flags))
    usable = wanted & _matlab.every(np.isfinite(boxes))
    new_center, new_scale = usable & ~centred, usable & ~scaled
    center[new_center] = (boxes[:, :2] + boxes[:, 2:] / 2)[new_center]
    scale[new_scale] = boxes[new_scale, 3] / 200
    losses.add("center", int(new_center.sum()), "made: the middle of the person's box, or of the labelled keypoints")
    losses.add(
        "scale", int(new_scale.sum()), "made: height of the person's box, or of the labelled keypoints, / 200 px"
    )
    return center, scale, centred | new_center, scaled | new_scale


def file_names(
    dataset: ds.Dataset, wanted: NDArray[np.bool_], losses: LossReport
) -> tuple[list[str], NDArray[np.bool_]]:
    """File name of each person's image, and who has one; `wanted` people without get their image's id as a name."""
    names = [*schema.texts(dataset.images["file_name"]), None]  # row -1 is a person whose image is not listed
    found = [names[row] for row in dataset.image_rows().tolist()]
    present = np.array([name is not None for name in found], bool)
    ids = schema.values(dataset.persons["image_id"]).tolist()
    made = wanted & ~present
    losses.add("file names", int(made.sum()), "people whose image has no file name: the image's id stands for it")
    return [str(i) if name is None else name for name, i in zip(found, ids, strict=True)], present | made


def _own_extras(dataset: ds.Dataset, native: NDArray[np.bool_], column: pa.ChunkedArray, center: Floats) -> pa.Array:
    """Extras of JSON people; a file's own digits of `joints` and `center` leave where the columns now say otherwise."""
    texts: list[str | None] = [
        text if mine else None for text, mine in zip(schema.texts(column), native.tolist(), strict=True)
    ]
    xy, flags, _ = _matlab.points_of(dataset, SKELETON)
    for row, text in enumerate(texts):
        if text is None or not ('"joints"' in text or '"center"' in text):
            continue
        extras = json.loads(text)
        if extras.get("joints") is not None and not _says(
            np.array(extras["joints"], np.float64), xy[row], flags[row] == 0
        ):
            del extras["joints"]
        if extras.get("center") is not None and not _says(
            np.array(extras["center"], np.float64), center[row] - BASE, np.array(True)
        ):
            del extras["center"]
        texts[row] = json.dumps(extras)
    return schema.strings(texts)


def _says(kept: Floats, now: Floats, may_miss: NDArray[np.bool_]) -> bool:
    """The kept numbers of a file, read again, are the points that the columns hold now."""
    again = np.where(may_miss[..., None], _shifted(kept), kept - BASE)
    return np.array_equal(again, now, equal_nan=True)
