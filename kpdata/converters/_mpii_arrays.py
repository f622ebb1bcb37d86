"""MPII as arrays: the flat `.mat` of the evaluation, Newell's `.h5`, and predictions. Variables by name in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _matlab, _mpii_json
from kpdata.converters._mpii_json import BASE, COORDINATES, COUNT, FORMAT, SKELETON
from kpdata.errors import FormatError
from kpdata.losses import LossReport
from kpdata.schema import Visibility
from kpdata.skeleton import load

Floats = NDArray[np.float64]
Raw = dict[str, Any]

# Names of the flat file's rows (`dataset_joints`), in the order of MPII's ids; both spellings of the thorax are about.
_JOINTS = (
    "rank",
    "rkne",
    "rhip",
    "lhip",
    "lkne",
    "lank",
    "pelv",
    "thor",
    "neck",
    "head",
    "rwri",
    "relb",
    "rsho",
    "lsho",
    "lelb",
    "lwri",
)
_SPELLINGS = {"thrx": "thor"}
# Newell's crop tweak: y + 15 x scale, then scale x 1.25 (anewell/pose-hg-train src/misc/mpii.py).
_TWEAK_Y, _TWEAK_SCALE = 15.0, 1.25


# ------------------------------------------------------------------------------------------------------- flat: decode


def decode_flat(raw: Mapping[str, Any], source: str) -> ds.Dataset:
    """People of `pos_gt_src` (16, 2, N), `jnt_missing` (16, N) and `headboxes_src` (2, 2, N).

    Other arrays of numbers whose last axis counts the people (`pos_pred_src`) go to extras as they are, not shifted.
    """
    order, names = _joint_order(raw, source)
    points = _by_person(raw, "pos_gt_src", (COUNT, 2), source)[:, order]  # (N, 16, 2), 1-based
    third = _by_person(raw, "jnt_missing", (COUNT,), source, len(points))[:, order]
    empty = "nan" if np.isnan(points[third == 1]).any() else "zero"
    gone = (third == 1) & (points == 0).all(-1) & (empty == "zero")
    flags = np.where(third == 0, Visibility.UNKNOWN, Visibility.ABSENT).astype(np.int8)
    odd = ~np.isin(third, (0, 1))
    message = (
        "person {person}, {keypoint}: jnt_missing is neither 0 nor 1; it is kept in visibility_raw and read as missing"
    )
    findings = _matlab.point_findings(odd, load(SKELETON).keypoint_names, "error", "jnt-missing-not-0-or-1", message)
    findings += _mpii_json.not_finite(points, flags > 0)
    persons = _matlab.keypoint_columns(
        np.where(gone[..., None], np.nan, points - BASE), flags, SKELETON, raw=third, odd=_matlab.some(odd)
    )
    used = ["pos_gt_src", "jnt_missing", "dataset_joints"]
    if "headboxes_src" in raw:
        used.append("headboxes_src")
        persons["head_bbox"] = head_column(_by_person(raw, "headboxes_src", (2, 2), source, len(points)).reshape(-1, 4))
    own = {name: np.moveaxis(value, -1, 0) for name, value in _per_person(raw, used, -1, len(points)).items()}
    others, more = _matlab.leftovers(raw, {*used, *own})
    facts = {"variant": "flat", "missing": empty, "head_boxes": "headboxes_src" in raw, "joint_names": names}
    return _build(
        {**persons, "extras": _extras(own, len(points))}, len(points), facts, list(own), others, findings + more
    )


def _by_person(
    raw: Mapping[str, Any], name: str, shape: tuple[int, ...], source: str, count: int | None = None
) -> Floats:
    """(N, *shape) of a variable (*shape, N), whose last axis MATLAB drops for one person."""
    array = _matlab.numeric(raw, name, source).astype(np.float64)
    full = array[..., None] if array.shape == shape else array
    if full.shape[:-1] != shape or (count is not None and full.shape[-1] != count):
        wanted = "x".join(map(str, (*shape, "N" if count is None else count)))
        raise FormatError(source, f"{name!r} is {'x'.join(map(str, array.shape))}, expected {wanted}")
    return np.ascontiguousarray(np.moveaxis(full, -1, 0))


def _joint_order(raw: Mapping[str, Any], source: str) -> tuple[list[int], list[str]]:
    """Row of each MPII id in the file, and the file's own names of its rows (`dataset_joints`, else MPII's order)."""
    if "dataset_joints" not in raw:
        return list(range(COUNT)), []
    cells = np.asarray(raw["dataset_joints"])
    names = [_matlab.text(cell) or "" for cell in cells.ravel()] if cells.dtype.kind in "UO" else []
    found = [_SPELLINGS.get(name, name) for name in names]
    if sorted(found) != sorted(_JOINTS):
        raise FormatError(
            source,
            f"'dataset_joints' lists {len(names)} names ({', '.join(map(repr, names[:4]))} …), "
            f"expected the 16 of {', '.join(_JOINTS)}",
        )
    return [found.index(name) for name in _JOINTS], names


def head_column(corners: Floats) -> pa.Array:
    """`head_bbox` of 1-based corners (N, 4) x1, y1, x2, y2: x, y, w, h, 0-based; null where all four are NaN.

    w = x2 - x1: the diagonal stays what PCKh measures (anibali/eval-mpii-pose eval/util_get_head_size.m).
    """
    boxes = np.concatenate([corners[:, :2] - BASE, corners[:, 2:] - corners[:, :2]], axis=1)
    return schema.rows(boxes, ~_matlab.every(np.isnan(corners)))


def _per_person(raw: Mapping[str, Any], used: list[str], axis: int, count: int) -> dict[str, NDArray[Any]]:
    """Other variables of numbers with a value for each person along `axis`."""
    found = {}
    for name, value in raw.items():
        array = np.asarray(value)
        if name.startswith("__") or name in used or array.dtype.kind not in "fiub":
            continue
        if count and array.ndim and array.shape[axis] == count:
            found[name] = array
    return found


def _extras(values: Mapping[str, NDArray[Any]], count: int) -> pa.Array:
    """JSON text a person of arrays (N, ...); NaN as null."""
    if not values:
        return pa.nulls(count, pa.string())
    columns = [_without_nan(array) for array in values.values()]
    return schema.strings([json.dumps(dict(zip(values, row, strict=True))) for row in zip(*columns, strict=True)])


def _without_nan(array: NDArray[Any]) -> list[Any]:
    """Nested lists with None for NaN, which JSON has not."""
    items = array.astype(object)
    if array.dtype.kind == "f":
        items[np.isnan(array)] = None
    found: list[Any] = items.tolist()
    return found


def _build(
    persons: dict[str, pa.Array], count: int, facts: Raw, per_person: list[str], others: Raw, findings: list[Raw],
    names: list[str | None] | None = None, image_of: NDArray[np.int64] | None = None,
) -> ds.Dataset:  # fmt: skip
    """One image a person, joined by order, unless image names are given."""
    listed = count if names is None else len(names)
    images, ids = _matlab.id_columns(np.arange(count) if image_of is None else image_of, listed)
    if names is not None:
        images["file_name"] = schema.strings(names)
    provenance = {
        "source_format": FORMAT, "ids": "assigned", "area_kind": "none", **COORDINATES, **facts,
        **({"join": "order"} if names is None else {}), **({"person_variables": per_person} if per_person else {}),
        **({"variables": others} if others else {}), **({"findings": findings} if findings else {}),
    }  # fmt: skip
    return ds.build(
        images, {**ids, **persons}, num_images=listed, num_persons=count,
        name=FORMAT, provenance=provenance, skeletons=[load(SKELETON)],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- flat: encode


def encode_flat(dataset: ds.Dataset) -> tuple[Raw, LossReport]:
    """`pos_gt_src`, `jnt_missing`, `headboxes_src` and `dataset_joints` of a dataset, and what they cannot hold. Pure.

    A missing joint is (0, 0), a person without a head box has NaN corners.
    """
    losses = LossReport(f"{FORMAT} flat")
    own = _matlab.sole_source(dataset, source_format=FORMAT, variant="flat")
    native = _matlab.rows_of(dataset, source_format=FORMAT, variant="flat")
    xy, flags, present = _matlab.points_of(dataset, SKELETON)
    third = _own_third(dataset, native, (flags == 0).astype(np.float64))
    gone = np.isnan(xy).all(-1) & (flags == 0)
    points = np.where(gone[..., None], np.nan if own.get("missing") == "nan" else 0.0, xy + BASE)
    losses.lose("visibility", _stated(flags), "occluded or visible: jnt_missing says labelled or not")
    losses.lose("people without keypoints", int((~present).sum()), "written with all 16 missing")
    names = own.get("joint_names") or list(_JOINTS)
    order = np.argsort(_joint_order({"dataset_joints": np.array(names, object)}, "dataset_joints")[0])
    cells = np.empty((1, COUNT), object)
    cells[0, :] = names
    raw: Raw = {"pos_gt_src": points[:, order].transpose(1, 2, 0), "jnt_missing": third[:, order].T}
    heads = schema.matrix(dataset.persons["head_bbox"], 4)
    if own.get("head_boxes", True):
        corners = np.concatenate([heads[:, :2] + BASE, heads[:, :2] + heads[:, 2:] + BASE], axis=1)
        raw["headboxes_src"] = corners.reshape(-1, 2, 2).transpose(1, 2, 0)
    if own.get("joint_names") != []:
        raw["dataset_joints"] = cells
    extras = {name: np.moveaxis(value, 0, -1) for name, value in _own_variables(dataset, native, losses).items()}
    _matlab.count_columns(dataset, losses, held=("head_bbox",), own=native)
    losses.lose(
        "other variables", _matlab.foreign_variables(dataset, own), "variables of several files, or of another variant"
    )
    return {**raw, **extras, **_matlab.restored(own.get("variables", {}))}, losses


def _stated(flags: NDArray[np.int8]) -> int:
    return int(np.isin(flags, (Visibility.OCCLUDED, Visibility.VISIBLE)).sum())


def _own_third(dataset: ds.Dataset, native: NDArray[np.bool_], made: Floats) -> Floats:
    """(N, 16) third values: the source's own where `visibility_raw` keeps them, else the `made` ones."""
    column = dataset.persons["visibility_raw"]
    kept = schema.valid(column) & native
    if kept.any():
        made[kept] = schema.matrix(
            schema.take(dataset.persons.select(["visibility_raw"]), np.flatnonzero(kept))["visibility_raw"], COUNT
        )
    return made


def _own_variables(dataset: ds.Dataset, native: NDArray[np.bool_], losses: LossReport) -> dict[str, Floats]:
    """Per-person variables (N, ...) that the extras of native people hold; NaN for the other people."""
    found: dict[str, Floats] = {}
    for row, extras in _matlab.person_extras(dataset, native):
        for name, value in extras.items():
            array = np.array(value, np.float64)
            block = found.setdefault(name, np.full((len(dataset), *array.shape), np.nan))
            if block.shape[1:] == array.shape:
                block[row] = array
            else:
                losses.lose("extras of people", 1, f"{name!r} has another shape than in the people before")
    return found


# --------------------------------------------------------------------------------------------------------- h5: decode


def decode_h5(raw: Mapping[str, Any], source: str) -> ds.Dataset:
    """People of Newell's `part` (N, 16, 2), `visible` (N, 16), `center`, `scale`, `imgname`; `person` counts from 0.

    visible 0 is "occluded", together with (0, 0) it is "not labelled". Centre and scale come back raw: the crop tweak
    is recognised (undone, every centre is a whole pixel) and taken out. Provenance says as `center_scale` what the
    file held: `adjusted` (the columns are raw), `raw`, or `unknown` (the columns are as in the file).
    """
    points = _leading(raw, "part", (COUNT, 2), source)
    count = len(points)
    third = _leading(raw, "visible", (COUNT,), source, count)
    flags, odd, gone = _h5_visibility(points, third)
    message = "person {person}, {keypoint}: 'visible' is neither 0 nor 1; it is kept in visibility_raw"
    findings = _matlab.point_findings(odd, load(SKELETON).keypoint_names, "error", "visible-not-0-or-1", message)
    findings += _mpii_json.not_finite(points, flags > 0)
    persons = _matlab.keypoint_columns(
        np.where(gone[..., None], np.nan, points - BASE), flags, SKELETON, raw=third, odd=_matlab.some(odd)
    )
    framing, facts = _h5_framing(raw, source, count)
    used = ["part", "visible", "center", "scale", "imgname"]
    index, indexed = _person_index(raw, count)
    if index is not None:
        used.append("person")
    own = _per_person(raw, used, 0, count)
    others, more = _matlab.leftovers(raw, {*used, *own})
    names, image_of, style = _image_names(raw, count, source)
    facts |= {
        "variant": "h5", "imgname": style, "attributes": raw.get(_matlab.ATTRIBUTES, {}),
        "dtypes": {name: np.asarray(value).dtype.str.lstrip("<>=|") for name, value in raw.items()
                   if not name.startswith("__") and np.asarray(value).dtype.kind in "fiub"},
    }  # fmt: skip
    columns = {**persons, **framing, "extras": _extras(own, count)}
    if index is not None:
        columns["person_index"] = schema.fixed(index, pa.int32(), indexed)
    return _build(columns, count, facts, list(own), others, findings + more, names, image_of)


def _leading(
    raw: Mapping[str, Any], name: str, shape: tuple[int, ...], source: str, count: int | None = None
) -> Floats:
    """(N, *shape) float64 of a variable."""
    array = _matlab.numeric(raw, name, source).astype(np.float64)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or (count is not None and len(array) != count):
        wanted = "x".join(map(str, ("N" if count is None else count, *shape)))
        raise FormatError(source, f"{name!r} is {'x'.join(map(str, array.shape)) or 'one number'}, expected {wanted}")
    return array


def _h5_visibility(points: Floats, third: Floats) -> tuple[NDArray[np.int8], NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, 16) flags, which third values are neither 0 nor 1, and which joints are Newell's missing (0, 0)."""
    gone = (third == 0) & (points == 0).all(-1)
    flags = np.where(third == 1, Visibility.VISIBLE, np.where(third > 0, Visibility.UNKNOWN, Visibility.ABSENT))
    flags = np.where((third == 0) & ~gone, Visibility.OCCLUDED, flags).astype(np.int8)
    return flags, ~np.isin(third, (0, 1)), gone


def _h5_framing(raw: Mapping[str, Any], source: str, count: int) -> tuple[dict[str, pa.Array], Raw]:
    """`center` and `scale` columns, 0-based and raw where that can be told, and what was told."""
    columns: dict[str, pa.Array] = {}
    center = _leading(raw, "center", (2,), source, count) if "center" in raw else None
    scale = _leading(raw, "scale", (), source, count) if "scale" in raw else None
    kind = "unknown"
    if center is not None and scale is not None:
        marked = raw.get(_matlab.ATTRIBUTES, {}).get("center_scale")
        kind = marked if marked in ("adjusted", "raw") else _framing_kind(center, scale)
        if kind == "adjusted":
            center, scale = _untweaked(center, scale)
    if center is not None:
        columns["center"] = schema.rows(center - BASE, ~_matlab.every(np.isnan(center)))
    if scale is not None:
        columns["scale"] = schema.fixed(scale, pa.float64(), ~np.isnan(scale))
    return columns, {"center_scale": kind}


def _framing_kind(center: Floats, scale: Floats) -> str:
    """`adjusted` where undoing the crop tweak gives whole pixels (as objpos is), `raw` where they are so now."""
    known = np.isfinite(center).all(1) & np.isfinite(scale)
    if not known.any():
        return "unknown"
    undone = center[known, 1] - _TWEAK_Y * scale[known] / _TWEAK_SCALE
    if (np.abs(undone - np.round(undone)) < 1e-6).all():
        return "adjusted"
    return "raw" if (center[known, 1] == np.round(center[known, 1])).all() else "unknown"


def _untweaked(center: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Centre and scale before the crop tweak; whole pixels where the tweak gives the file's number back within 1e-9."""
    raw_scale = scale / _TWEAK_SCALE
    y = center[:, 1] - _TWEAK_Y * raw_scale
    whole = np.round(y)
    with np.errstate(invalid="ignore"):
        y = np.where(np.abs(whole + _TWEAK_Y * raw_scale - center[:, 1]) <= 1e-9, whole, y)
    return np.column_stack([center[:, 0], y]), raw_scale


def _person_index(raw: Mapping[str, Any], count: int) -> tuple[NDArray[np.int32] | None, NDArray[np.bool_]]:
    """`person` as int32 and where it is known (NaN is not); None where it is not there or holds other numbers."""
    value = np.asarray(raw.get("person", ()))
    if value.shape != (count,) or value.dtype.kind not in "fiu":
        return None, np.zeros(count, bool)
    known = np.isfinite(value)
    whole = np.where(known, value, 0)
    if (whole != np.floor(whole)).any() or (np.abs(whole) >= 2**31).any():
        return None, known
    return whole.astype(np.int32), known


def _image_names(
    raw: Mapping[str, Any], count: int, source: str
) -> tuple[list[str | None] | None, NDArray[np.int64] | None, Raw]:
    """Distinct image names, each person's, and how they were stored: fixed bytes, texts, or rows of character codes."""
    if "imgname" not in raw:
        return None, None, {}
    value = np.asarray(raw["imgname"])
    style: Raw = {"kind": "text"}
    if value.dtype.kind in "fiu" and value.ndim == 2:
        style = {"kind": "codes", "width": value.shape[1], "dtype": value.dtype.str.lstrip("<>=|")}
        codes = np.nan_to_num(value.astype(np.float64), posinf=0, neginf=0)
        value = np.array([bytes(row) for row in np.clip(codes, 0, 255).astype(np.uint8)], object)
    elif value.dtype.kind == "S":
        style = {"kind": "bytes", "width": value.dtype.itemsize}
    if value.shape != (count,) or value.dtype.kind not in "SOU":
        shape = "x".join(map(str, value.shape))
        raise FormatError(
            source, f"'imgname' is {shape} of {value.dtype}, expected {count} texts or rows of character codes"
        )
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in value.tolist()]
    names, image_of = _mpii_json.distinct([text.rstrip("\0") or None for text in texts])
    return names, image_of, style


# --------------------------------------------------------------------------------------------------------- h5: encode


def encode_h5(dataset: ds.Dataset) -> tuple[Raw, LossReport]:
    """Newell's arrays of a dataset, and what they cannot hold. Pure.

    Centre and scale are written with the crop tweak, as every reader of these files expects, unless the source's own
    were raw. What people lack is made as for JSON (`_mpii_json.encode`) and counted.
    """
    losses = LossReport(f"{FORMAT} h5")
    own = _matlab.sole_source(dataset, source_format=FORMAT, variant="h5")
    native = _matlab.rows_of(dataset, source_format=FORMAT, variant="h5")
    names, named = _mpii_json.file_names(dataset, ~native, losses)
    raw = {**_h5_points(dataset, native, losses), **_h5_framed(dataset, native, own, losses)}
    if not own or own.get("imgname"):
        raw["imgname"] = _stored_names(
            [name if has else "" for name, has in zip(names, named.tolist(), strict=True)], own.get("imgname", {})
        )
    index, indexed = schema.values(dataset.persons["person_index"]), schema.valid(dataset.persons["person_index"])
    if indexed.any():
        raw["person"] = np.where(indexed, index, np.nan)
    raw |= _own_variables(dataset, native, losses)
    dtypes = own.get("dtypes", {})
    raw = {k: _matlab.as_dtype(v, dtypes[k]) if k in dtypes and v.dtype.kind == "f" else v for k, v in raw.items()}
    attributes = dict(own.get("attributes", {}))
    if not own and not (raw.keys() >= {"center", "scale"} and _framing_kind(raw["center"], raw["scale"]) == "adjusted"):
        attributes["center_scale"] = "adjusted"  # the numbers alone do not show it
    _matlab.count_columns(dataset, losses, held=("center", "scale", "person_index", "file_name"), own=native)
    others = _h5_variables(own)
    lost = _matlab.foreign_variables(dataset, own) + len(own.get("variables", {})) - len(others)
    losses.lose("other variables", lost, "variables of several files, or of another variant")
    return {**raw, **others, _matlab.ATTRIBUTES: attributes}, losses


def _h5_variables(own: Mapping[str, Any]) -> Raw:
    """The kept variables that HDF5 takes: numbers and texts, not cells of other things."""
    found = {}
    for name, value in _matlab.restored(own.get("variables", {})).items():
        array = np.asarray(value)
        if array.dtype.kind in "fiub":
            found[name] = value
        elif all(isinstance(item, str) for item in array.ravel().tolist()):
            found[name] = value if isinstance(value, str) else array.ravel()
    return found


def _h5_points(dataset: ds.Dataset, native: NDArray[np.bool_], losses: LossReport) -> Raw:
    xy, flags, present = _matlab.points_of(dataset, SKELETON)
    kept = (schema.valid(dataset.persons["visibility_raw"]) & native)[:, None]
    third = _own_third(dataset, native, (flags >= Visibility.VISIBLE).astype(np.float64))
    absent = (flags == 0) & ~kept
    gone = absent | (np.isnan(xy).all(-1) & (flags == 0))
    points = np.where(gone[..., None], 0.0, xy + BASE)
    losses.lose("people without keypoints", int((~present).sum()), "written with all 16 missing")
    dropped = absent & np.isfinite(xy).any(-1)
    losses.lose(
        "coordinates of absent keypoints", int(dropped.sum()), "visible 0 with a coordinate would mean occluded"
    )
    losses.lose("visibility unknown", int(((flags == Visibility.UNKNOWN) & ~kept).sum()), "written as visible")
    swallowed = (flags == Visibility.OCCLUDED) & (points == 0).all(-1)
    losses.lose("occluded keypoints at the empty value", int(swallowed.sum()), "(0, 0) with visible 0 means missing")
    return {"part": points, "visible": third}


def _h5_framed(dataset: ds.Dataset, native: NDArray[np.bool_], own: Mapping[str, Any], losses: LossReport) -> Raw:
    center, scale, centred, scaled = _mpii_json.framing(dataset, ~native, losses)
    center = np.where(centred[:, None], center + BASE, np.nan)
    if own.get("center_scale", "adjusted") == "adjusted":
        center[:, 1] += _TWEAK_Y * scale
        scale = scale * _TWEAK_SCALE
    raw = {"center": center, "scale": np.where(scaled, scale, np.nan)}
    return {key: raw[key] for key in raw if not own or key in own.get("dtypes", {})}


def _stored_names(names: list[str], style: Mapping[str, Any]) -> NDArray[Any]:
    """Image names as the source stored them; NUL-padded bytes unless it did otherwise."""
    if style.get("kind") == "text":
        return np.array(names, object)
    encoded = [name.encode() for name in names]
    width = max([int(style.get("width", 1)), 1, *map(len, encoded)])
    if style.get("kind") == "codes":
        codes = np.frombuffer(b"".join(name.ljust(width, b"\0") for name in encoded), np.uint8)
        return codes.reshape(len(names), width).astype(style["dtype"])
    return np.array(encoded, f"S{width}")


# -------------------------------------------------------------------------------------------------------- predictions


def decode_predictions(raw: Mapping[str, Any], source: str) -> ds.Dataset:
    """People of one array of 16 predicted points: 1-based, as the evaluation expects them; joined by order."""
    points, stored, findings = _matlab.predictions(raw, COUNT, source)
    flags = np.where(np.isfinite(points).all(-1), Visibility.UNKNOWN, Visibility.ABSENT).astype(np.int8)
    persons = _matlab.keypoint_columns(points - BASE, flags, SKELETON)
    others, more = _matlab.leftovers(raw, {stored["variable"]})
    return _build(persons, len(points), {"variant": "predictions", "stored": stored}, [], others, findings + more)


def encode_predictions(dataset: ds.Dataset) -> tuple[Raw, LossReport]:
    """One array of points, in the source's axes and precision (`preds`, N x 16 x 2 double for other data). Pure."""
    losses = LossReport(f"{FORMAT} predictions")
    own = _matlab.sole_source(dataset, source_format=FORMAT, variant="predictions")
    xy, flags, present = _matlab.points_of(dataset, SKELETON)
    losses.lose("visibility", _stated(flags), "predictions are points alone")
    losses.lose(
        "coordinates of absent keypoints", int(((flags == 0) & np.isfinite(xy).all(-1)).sum()), "come back as predicted"
    )
    losses.lose("people without keypoints", int((~present).sum()), "written as NaN")
    _matlab.count_columns(dataset, losses, held=(), own=np.zeros(len(dataset), bool))
    losses.lose(
        "other variables", _matlab.foreign_variables(dataset, own), "variables of several files, or of another variant"
    )
    return {
        **_matlab.stored_predictions(xy + BASE, own.get("stored", {})),
        **_matlab.restored(own.get("variables", {})),
    }, losses
