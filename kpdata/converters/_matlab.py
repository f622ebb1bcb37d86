"""What the formats that live in MATLAB files share: `.mat` and HDF5 in and out, nested values, axes, losses.

`.mat` version 5 is read by `_mat5` and written by scipy, version 7.3 (which is HDF5) is read by h5py; what they raise
on a damaged file becomes a FormatError. Values are those of `_mat5`; what scipy's `loadmat` gives is taken as well.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata.converters import _mat5, _uncarried
from kpdata.converters._source import Source
from kpdata.errors import FormatError, SchemaError
from kpdata.losses import LossReport

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Raw = dict[str, Any]

_MAT73 = b"MATLAB 7.3 MAT-file"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# A fixed first line instead of scipy's, which holds the time of writing: the same data gives the same bytes.
_HEADER = _mat5.MAGIC + b" written by kpdata"
ATTRIBUTES = "__attributes__"  # key of an HDF5 file's attributes among its variables
# Axis orders of predicted points by name, with the transposition to (people, keypoints, 2).
LAYOUTS = {"2xKxN": (2, 1, 0), "Kx2xN": (2, 0, 1), "NxKx2": (0, 1, 2)}
_LISTED = 100  # findings of one kind that are listed one by one
_KEPT_NUMBERS = 10_000  # a variable without a column goes to provenance up to this many values


# ------------------------------------------------------------------------------------------------------ files to arrays


def is_mat(data: bytes) -> bool:
    """The bytes start as a MATLAB file of version 5, or of 7.3, does."""
    return data.startswith((_mat5.MAGIC, _MAT73))


def is_hdf5(data: bytes) -> bool:
    """The bytes are HDF5, or a MATLAB 7.3 file, which is HDF5 behind 512 bytes of its own."""
    return data.startswith((_HDF5, _MAT73))


def variables(source: Source) -> dict[str, tuple[int, ...]] | None:
    """Shape of each variable of a `.mat` or `.h5`, from the headers alone; None for anything else."""
    if source.is_folder or not (is_mat(source.data) or is_hdf5(source.data)):
        return None
    try:
        return _hdf5_shapes(source.data) if is_hdf5(source.data) else _mat5.shapes(source.data)
    except Exception:  # h5py raises anything on damaged bytes: `load` words it
        return None


def describe(source: Source) -> str | None:
    """What a `.mat` or `.h5` holds, for a message; None where the source is neither."""
    if source.is_folder or not (is_mat(source.data) or is_hdf5(source.data)):
        return None
    found = variables(source)
    if found is None:
        return f"a {kind(source.data)} file that is cut off or damaged"
    return f"a {kind(source.data)} file with {listed(found)}"


def kind(data: bytes) -> str:
    """`.h5` or `.mat`, for a message."""
    return ".h5" if data.startswith(_HDF5) else ".mat"


def listed(shapes: Mapping[str, Any]) -> str:
    """The variables of a file with their shapes, for a message."""
    names = [name for name in shapes if not name.startswith("__")]
    parts = [f"{name!r} {_extent(shapes[name])}" for name in names[:8]] + ["…"] * (len(names) > 8)
    return f"the variables {', '.join(parts)}" if parts else "no variables"


def _extent(value: Any) -> str:
    """`3x14x2000` of an array, or of a shape."""
    shape = value if isinstance(value, tuple) else np.shape(value)
    if shape or isinstance(value, tuple | float):
        return "x".join(map(str, shape)) or "1x1"
    return "text" if isinstance(value, str) else "struct"


def load(data: bytes, path: Path | str) -> Raw:
    """Every variable of a `.mat` or `.h5` by name. FormatError where it cannot be read, whatever the parser raised."""
    try:
        return _load_hdf5(data, path) if is_hdf5(data) else _mat5.load(data)
    except FormatError:
        raise
    except Exception as error:  # h5py raises anything on damaged bytes
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise FormatError(
            path, f"a {kind(data)} file that is cut off or damaged ({reason})", hint="download or export it again"
        ) from error


def _hdf5_shapes(data: bytes) -> dict[str, tuple[int, ...]]:
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        return {
            name: tuple(item.shape[::-1] if "MATLAB_class" in item.attrs else item.shape)
            if isinstance(item, h5py.Dataset)
            else ()
            for name, item in file.items()
            if not name.startswith("#")
        }


def _load_hdf5(data: bytes, path: Path | str) -> Raw:
    import h5py

    found: Raw = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        for key, item in file.items():
            name = key if isinstance(key, str) else key.decode("utf-8", "replace")  # h5py gives bytes for broken UTF-8
            if isinstance(item, h5py.Dataset):
                found[name] = _hdf5_value(file, item)
            elif not name.startswith("#"):
                hint = f"in MATLAB: load it, then save(file, '{name}', '-v7')" if data.startswith(_MAT73) else ""
                raise FormatError(
                    path, f"{name!r} is an HDF5 group (a struct of MATLAB v7.3), expected arrays", hint=hint
                )
        found[ATTRIBUTES] = {key: plain(np.asarray(value)) for key, value in file.attrs.items()}
    return found


def _hdf5_value(file: Any, item: Any) -> Any:
    """A dataset's array; MATLAB's own transposed back, its texts as texts, its cells as object arrays."""
    import h5py

    value = np.asarray(item[()])
    matlab = item.attrs.get("MATLAB_class")
    if matlab is None:
        return value
    if "MATLAB_empty" in item.attrs:
        return np.zeros(value.astype(int))
    if value.dtype == h5py.ref_dtype:
        cells = np.empty(value.shape, object)
        for place in np.ndindex(value.shape):
            cells[place] = _hdf5_value(file, file[value[place]])
        return cells.T
    if matlab == b"char":
        return np.array(["".join(map(chr, value.T.reshape(-1).tolist()))])
    return value.T


def numeric(raw: Mapping[str, Any], name: str, source: str) -> NDArray[Any]:
    """The array of numbers `raw[name]`. FormatError where it holds anything else."""
    value = np.asarray(raw[name])
    if value.dtype.kind not in "fiub":
        raise FormatError(source, f"{name!r} holds {_what(value)}, expected numbers")
    return value


def _what(value: NDArray[Any]) -> str:
    kinds = {"U": "text", "S": "text", "O": "cells or objects", "V": "structs", "c": "complex numbers"}
    return kinds.get(value.dtype.kind, str(value.dtype))


# ------------------------------------------------------------------------------------------------------ arrays to files


def every(mask: NDArray[Any]) -> Mask:
    """(N, K) -> (N,) bool: all of a row are true. (NumPy's own `all` is typed as if it could return one value.)"""
    return np.asarray(mask.all(axis=1), bool)


def some(mask: NDArray[Any]) -> Mask:
    """(N, K) -> (N,) bool: any of a row is true."""
    return np.asarray(mask.any(axis=1), bool)


def mat_bytes(raw: Mapping[str, Any]) -> bytes:
    """A compressed `.mat` of version 5 that holds these arrays; keys that start with `__` are left out."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(
        cast(Any, buffer),
        {k: v for k, v in raw.items() if not k.startswith("__")},
        do_compression=True,
        long_field_names=True,
    )
    data = buffer.getvalue()
    return _HEADER.ljust(116) + data[116:]


def hdf5_bytes(raw: Mapping[str, Any]) -> bytes:
    """An HDF5 file that holds these arrays, with the attributes under `ATTRIBUTES`."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in raw.items():
            if name != ATTRIBUTES:
                file.create_dataset(name, data=value)
        for key, value in raw.get(ATTRIBUTES, {}).items():
            file.attrs[key] = value
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------- nested values of structs


def structs(value: Any) -> list[dict[str, Any]]:
    """The elements of a struct, a struct array or a cell of structs, each as a dict; nothing for MATLAB's empties."""
    if isinstance(value, list):
        return [row for row in value if isinstance(row, dict)]
    if isinstance(value, np.void) and value.dtype.names:
        return [{name: value[name] for name in value.dtype.names}]
    if isinstance(value, np.ndarray) and value.dtype.names:
        return [dict(zip(value.dtype.names, item, strict=True)) for item in value.ravel().tolist()]
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [element for item in value.ravel() for element in structs(item)]
    return []


def number(value: Any) -> float | None:
    """The one number of a nested 0-d, 1x1 or char array; None for MATLAB's empties. ValueError for anything else."""
    if type(value) is float:
        return value
    array = np.asarray(value)
    if array.size == 0:
        return None
    if array.dtype.kind not in "fiub":
        if array.dtype.kind == "O" and array.flat[0] is not value:
            return number(array.flat[0])
        text = str(array.flat[0]).strip("\0 ")
        return float(text) if text else None
    return float(array.flat[0])


def text(value: Any) -> str | None:
    """The text of a char array, without the NULs and blanks that pad it; None where there is none."""
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "UO":
        return None
    if array.dtype.kind == "O":
        return None if array.flat[0] is value else text(array.flat[0])
    return str(array.flat[0]).strip("\0 ") or None


def plain_row(struct: Mapping[str, Any]) -> Raw:
    """One element of `structs` as JSON data."""
    return {key: plain(value) for key, value in struct.items()}


def plain(value: Any) -> Any:
    """Any loaded value as JSON data: structs as objects, vectors as flat lists, 1x1 as the value, empties as None."""
    if isinstance(value, np.void | np.ndarray) and value.dtype.names:
        rows = [plain_row(row) for row in structs(value)]
        return rows[0] if len(rows) == 1 else rows or None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        rows = [plain_row(row) for row in structs(value)]
        return rows[0] if len(rows) == 1 else rows or None
    if isinstance(value, dict):
        return plain_row(value)
    if type(value) is float:
        return _integral(np.array(value)).tolist()
    if not isinstance(value, np.ndarray | np.generic):
        return value if isinstance(value, str | int | float | bool | None) else str(value)
    array = np.asarray(value)
    if array.size == 0:
        return None
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind == "O":
        return [plain(item) for item in array.ravel()]
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    items = array.astype(str).tolist() if array.dtype.kind not in "fiubU" else _integral(array).tolist()
    return items[0] if array.size == 1 and array.ndim == 1 else items


def _integral(array: NDArray[Any]) -> NDArray[Any]:
    """Whole doubles as integers: MATLAB has no others."""
    if array.dtype.kind != "f" or not np.isfinite(array).all() or (np.abs(array) > 2**53).any():
        return array
    return array.astype(np.int64) if (array == np.floor(array)).all() else array


def leftovers(raw: Mapping[str, Any], used: Collection[str]) -> tuple[Raw, list[Raw]]:
    """Variables without a column: small ones as JSON data for provenance, and a finding for each that is too big."""
    kept, findings = {}, []
    for name, value in raw.items():
        if name.startswith("__") or name in used:
            continue
        if np.size(value) <= _KEPT_NUMBERS:
            kept[name] = plain(value)
        else:
            message = f"the variable {name!r} {np.shape(value)} has no place in the schema and was not kept"
            findings.append({"level": "note", "code": "variable-not-kept", "message": message})
    return kept, findings


def restored(kept: Mapping[str, Any]) -> Raw:
    """The variables that `leftovers` kept, as arrays again: lists of anything but numbers become cells."""
    found: Raw = {}
    for name, value in kept.items():
        if isinstance(value, list) and not _all_numbers(value):
            cells = np.empty((1, len(value)), object)
            cells[0, :] = value
            found[name] = cells
        else:
            found[name] = np.zeros((0, 0)) if value is None else value
    return found


def _all_numbers(value: Any) -> bool:
    return all(map(_all_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def sole_source(people: ds.Dataset, /, **facts: Any) -> Raw:
    """Provenance of the one source of a dataset, if it has these facts and was not remapped since; else empty."""
    own = next(iter(people.datasets.values())) if len(people.datasets) == 1 else {}
    fits = not own.get("remapped") and all(own.get(key) == value for key, value in facts.items())
    return dict(own) if fits else {}


def foreign_variables(dataset: ds.Dataset, own: Mapping[str, Any]) -> int:
    """Number of kept variables that a file does not get back: all but those of `own`, its one source."""
    return sum(len(d.get("variables", {})) for d in dataset.datasets.values()) - len(own.get("variables", {}))


# --------------------------------------------------------------------------------------------------------- axis orders


def layouts(shape: Sequence[int], count: int) -> list[str]:
    """The names in LAYOUTS that an array of points of this shape can have; MATLAB drops the last axis of one person."""
    full = (*shape, 1) if len(shape) == 2 else tuple(shape)
    if len(full) != 3:
        return []
    wanted = {"2xKxN": (2, count, full[2]), "Kx2xN": (count, 2, full[2]), "NxKx2": (full[0], count, 2)}
    return [name for name, fits in wanted.items() if full == fits]


def predictions(raw: Mapping[str, Any], count: int, source: str) -> tuple[Floats, dict[str, Any], list[dict[str, Any]]]:
    """(N, K, 2) predicted points of the one variable that can hold them, how it was stored, and findings.

    FormatError where no variable or several have K = `count` keypoints of two coordinates.
    """
    fitting = {name: found for name, value in raw.items()
               if not name.startswith("__") and (found := layouts(np.shape(value), count))}  # fmt: skip
    named = [name for name in fitting if name in ("preds", "pred")]
    chosen = named if len(named) == 1 else list(fitting)
    if len(chosen) != 1:
        raise FormatError(
            source,
            f"{listed(raw)}: {len(chosen)} of them can be predictions, "
            f"expected one of 2x{count}xN, {count}x2xN or Nx{count}x2",
        )
    name, found = chosen[0], fitting[chosen[0]]
    array = numeric(raw, name, source)
    block = np.atleast_3d(array).transpose(LAYOUTS[found[0]]).astype(np.float64)
    stored = {"variable": name, "layout": found[0], "dtype": array.dtype.str.lstrip("<>=|")}
    findings = []
    if len(found) > 1:
        message = f"{name!r} {array.shape} can be read as {' or '.join(found)}; it was read as {found[0]}"
        findings.append({"level": "warning", "code": "axes-ambiguous", "message": message})
    return np.ascontiguousarray(block), stored, findings


def stored_predictions(points: Floats, stored: Mapping[str, Any]) -> Raw:
    """The variable that holds points (N, K, 2), stored as `predictions` found them."""
    axes = np.argsort(LAYOUTS[stored.get("layout", "NxKx2")])
    array = np.ascontiguousarray(points.transpose(axes))
    return {str(stored.get("variable", "preds")): as_dtype(array, stored.get("dtype", "f8"))}


def as_dtype(array: Floats, dtype: str) -> NDArray[Any]:
    """The array in the source's own dtype; as it is where that one holds integers and the array does not."""
    kind = np.dtype(dtype)
    if kind.kind != "f" and not (np.isfinite(array).all() and np.array_equal(array.astype(kind), array)):
        return array
    return array.astype(kind)


# ------------------------------------------------------------------------------------------------- columns in and out


def point_findings(where: NDArray[np.bool_], names: Sequence[str], level: str, code: str, message: str) -> list[Raw]:
    """A finding for each True of (N, K), the first 100 one by one and the rest as one that counts them.

    message may hold `{person}`, `{keypoint}`. Person n of the file has annotation_id n.
    """
    people, keypoints = np.nonzero(where)
    found: list[Raw] = [
        {"level": level, "code": code, "annotation_id": n + 1, "keypoint": names[k],
         "message": message.format(person=n + 1, keypoint=names[k])}
        for n, k in zip(people[:_LISTED].tolist(), keypoints[:_LISTED].tolist(), strict=True)
    ]  # fmt: skip
    if len(people) > _LISTED:
        more = f"{len(people) - _LISTED:,} more keypoints like the {_LISTED} above"
        found.append({"level": level, "code": code, "message": more})
    return found


def keypoint_columns(
    xy: Floats, visibility: NDArray[np.integer], name: str, *, present: NDArray[np.bool_] | None = None,
    raw: Floats | None = None, odd: NDArray[np.bool_] | None = None,
) -> dict[str, pa.Array]:  # fmt: skip
    """Columns of points (N, K, 2) and flags (N, K); `raw` (N, K) goes to `visibility_raw` in the `odd` rows (N,)."""
    columns = {
        "skeleton": schema.constant(name, len(xy)),
        "keypoints": schema.rows(xy.reshape(len(xy), 2 * xy.shape[1]), present),
        "visibility": schema.rows(visibility, present, pa.int8()),
    }
    if raw is not None and odd is not None and odd.any():
        columns["visibility_raw"] = schema.rows(raw, odd)
    return columns


def id_columns(image_of: NDArray[np.integer], num_images: int) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """Image and person columns of ids counted from 1 in file order; `image_of` (N,) is each person's image row."""
    images = {"image_id": schema.fixed(np.arange(1, num_images + 1), pa.int64())}
    persons = {
        "annotation_id": schema.fixed(np.arange(1, len(image_of) + 1), pa.int64()),
        "image_id": schema.fixed(np.asarray(image_of, np.int64) + 1, pa.int64()),
    }
    return images, persons


def points_of(dataset: ds.Dataset, skeleton: str) -> tuple[Floats, NDArray[np.int8], NDArray[np.bool_]]:
    """(N, K, 2) points, (N, K) flags, (N,) who has keypoints at all. SchemaError for another skeleton."""
    for name, rows in dataset.groups():
        if name not in (None, skeleton):
            raise SchemaError(
                f"{len(rows):,} people on the skeleton {name!r}, expected {skeleton!r}",
                hint=f"remap the dataset to {skeleton!r} first",
            )
    from kpdata.skeleton import load as load_skeleton

    count, persons = len(load_skeleton(skeleton)), dataset.persons
    xy = schema.matrix(persons["keypoints"], 2 * count).reshape(len(dataset), count, 2)
    return xy, schema.matrix(persons["visibility"], count), schema.valid(persons["keypoints"])


def rows_of(people: ds.Dataset, /, **facts: Any) -> NDArray[np.bool_]:
    """(N,) bool: the person's dataset has these facts in its provenance and was not remapped since."""
    own = {name for name, d in people.datasets.items()
           if not d.get("remapped") and all(d.get(key) == value for key, value in facts.items())}  # fmt: skip
    return np.array([name in own for name in schema.texts(people.persons["dataset"])], bool)


_PERSON_COLUMNS = ("score", "keypoint_scores", "area", "iscrowd", "bbox", "head_bbox", "center", "scale",
                   "segmentation", "rle", "track_id", "person_index")  # fmt: skip
_IMAGE_COLUMNS = ("source_image_id", "file_name", "width", "height", "split", "video_id", "frame_index", "crowd_index")


def count_columns(dataset: ds.Dataset, losses: LossReport, *, held: Collection[str], own: NDArray[np.bool_]) -> None:
    """Count what lies in columns that the target has no place for.

    held: columns that it holds. own (N,): people whose extras and `visibility_raw` it holds.
    """
    persons, images = dataset.persons, dataset.images
    _uncarried.columns(
        dataset,
        losses,
        persons=[key for key in _PERSON_COLUMNS if key not in held],
        images=[key for key in _IMAGE_COLUMNS if key not in held],
    )
    _uncarried.num_keypoints(dataset, losses)
    raw = schema.valid(persons["visibility_raw"]) & ~own
    losses.lose("visibility_raw", int(raw.sum()), "the source's own third numbers")
    names = schema.texts(persons["category"])
    losses.lose("category", sum(name not in (None, "person") for name in names), "names other than 'person'")
    said = _uncarried.informative(persons["extras"]) & ~own
    losses.lose("extras of people", int(said.sum()), "keys of another format or variant")
    said = _uncarried.informative(images["extras"])
    losses.lose("extras of images", int(said.sum()), "keys of another format or variant")
    empty = ~np.isin(schema.values(images["image_id"]), schema.values(persons["image_id"]))
    losses.lose("images without people", int(empty.sum()), "the format lists people only")
    given = {name for name, d in dataset.datasets.items() if d.get("ids") == "source"}
    numbered = sum(name in given for name in schema.texts(persons["dataset"]))
    losses.lose("ids", numbered, "people and images are known by their order or name only")
    losses.lose("embedded pictures", dataset.blobs.num_rows, "the format holds no pixels")
    masks = sum(not all(mask) for d in dataset.datasets.values() for mask in d.get("keypoint_mask", {}).values())
    losses.lose("keypoint masks", masks, "which keypoints had a source in a remap")
    _uncarried.beside(dataset, losses, losses.format.split()[0])


def person_extras(dataset: ds.Dataset, own: NDArray[np.bool_]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, extras) of the `own` people that have any."""
    column = schema.chunk(dataset.persons["extras"])
    for row in np.flatnonzero(schema.valid(column) & own).tolist():
        yield row, json.loads(column[row].as_py())
