"""The two Arrow tables, the visibility alphabet, the metadata document, and builders that never import pandas.

`pa.array`, `pa.scalar` and `Array.to_numpy` import pandas when it is installed (0.4 s, 50 MB), so every column is made
from raw buffers here (`fixed`, `strings`, `lists`, `rows`) and read back with `values`, `valid`, `ragged`, `matrix` and
`texts`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata.errors import SchemaError

SCHEMA_VERSION = "1.0.0"
METADATA_KEY = b"kpdata"


class Visibility(IntEnum):
    """What a label says of a keypoint. It alone decides what counts; a coordinate never does (0 is a legal one)."""

    ABSENT = 0  # not labelled
    OCCLUDED = 1  # labelled, not visible
    VISIBLE = 2  # labelled and visible
    UNKNOWN = 3  # labelled; the source does not say whether it is visible


_FLOATS = pa.list_(pa.float64())

IMAGES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("source_image_id", pa.string()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        ("dataset", pa.string()),
        ("video_id", pa.string()),
        ("frame_index", pa.int64()),
        ("crowd_index", pa.float64()),
        ("extras", pa.string()),
    ]
)

PERSONS = pa.schema(
    [
        ("annotation_id", pa.int64()),
        ("image_id", pa.int64()),
        ("dataset", pa.string()),
        ("category_id", pa.int64()),
        ("category", pa.string()),
        ("skeleton", pa.string()),
        ("keypoints", _FLOATS),
        ("visibility", pa.list_(pa.int8())),
        ("visibility_raw", _FLOATS),
        ("score", pa.float64()),
        ("keypoint_scores", _FLOATS),
        ("num_keypoints", pa.int32()),
        ("area", pa.float64()),
        ("iscrowd", pa.bool_()),
        ("bbox", _FLOATS),
        ("bbox_source", pa.string()),
        ("head_bbox", _FLOATS),
        ("center", _FLOATS),
        ("scale", pa.float64()),
        ("segmentation", pa.list_(_FLOATS)),
        ("rle", pa.string()),
        ("track_id", pa.int64()),
        ("person_index", pa.int32()),
        ("extras", pa.string()),
    ]
)

# Data that belongs to an image but is too big for its row: LabelMe's embedded pictures.
BLOBS = pa.schema([("image_id", pa.int64()), ("name", pa.string()), ("data", pa.large_binary())])

_NUMPY = {
    pa.int8(): np.int8,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float64(): np.float64,
}


# ------------------------------------------------------------------------------------------------ arrays to columns


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array))


def _bitmap(mask: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if mask is None or mask.all() else _buffer(np.packbits(mask, bitorder="little"))


def fixed(data: Any, kind: pa.DataType, present: NDArray[np.bool_] | None = None) -> pa.Array:
    """A column of numbers or booleans. data (N,), present (N,) bool: False becomes null."""
    array = np.asarray(data)
    if kind == pa.bool_():
        body = _buffer(np.packbits(array.astype(bool), bitorder="little"))
    else:
        body = _buffer(array.astype(_NUMPY[kind], copy=False))
    return pa.Array.from_buffers(kind, len(array), [_bitmap(present), body])


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int32]:
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise SchemaError(
            f"{ends[-1]:,} values in one column chunk, at most {np.iinfo(np.int32).max:,} fit",
            hint="split the dataset and merge the parts' folders",
        )
    return np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])


def strings(items: Sequence[str | None]) -> pa.Array:
    """A column of texts; None becomes null. Lone surrogates (broken JSON escapes) become `?`."""
    encoded = [text.encode("utf-8", "replace") for text in items if text is not None]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    if len(encoded) == len(items):
        return texts_of_bytes(b"".join(encoded), sizes)
    present = np.array([text is not None for text in items], bool)
    lengths = np.zeros(len(items), np.int64)
    lengths[present] = sizes
    return texts_of_bytes(b"".join(encoded), lengths, present)


def texts_of_bytes(body: Any, lengths: NDArray[Any], present: NDArray[np.bool_] | None = None) -> pa.Array:
    """A column of texts from their UTF-8 bytes one after the other; present (N,) bool: False becomes null."""
    parts = [_bitmap(present), _buffer(_offsets(lengths)), pa.py_buffer(body)]
    return pa.Array.from_buffers(pa.string(), len(lengths), parts)


def repeated(items: Sequence[str | None]) -> pa.Array:
    """As `strings`, for few texts that many rows share."""
    unique = dict.fromkeys(items)
    if len(unique) == 1:
        return constant(next(iter(unique)), len(items))
    return strings(items)


def constant(text: str | None, count: int) -> pa.Array:
    """A text column that says the same in every row."""
    if text is None:
        return pa.nulls(count, pa.string())
    encoded = text.encode("utf-8", "replace")
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(encoded))
    return pa.Array.from_buffers(pa.string(), count, [None, _buffer(offsets), pa.py_buffer(encoded * count)])


def lists(
    flat: NDArray[Any] | pa.Array,
    lengths: NDArray[Any],
    present: NDArray[np.bool_] | None = None,
    kind: pa.DataType | None = None,
) -> pa.Array:
    """A column of lists. flat: all values one after the other; lengths (N,); present (N,) bool: False becomes null.

    kind: type of the values (float64 unless told); ignored where flat is an Arrow array already.
    """
    inner = flat if isinstance(flat, pa.Array) else fixed(flat, kind or pa.float64())
    offsets = pa.Array.from_buffers(pa.int32(), len(lengths) + 1, [None, _buffer(_offsets(lengths))])
    column = pa.ListArray.from_arrays(offsets, inner)
    bitmap = _bitmap(present)
    if bitmap is None:
        return column
    return pa.Array.from_buffers(column.type, len(column), [bitmap, column.buffers()[1]], children=[inner])


def rows(matrix: NDArray[Any], present: NDArray[np.bool_] | None = None, kind: pa.DataType | None = None) -> pa.Array:
    """A column of lists of one length from a matrix (N, L); rows that are not present become null."""
    width = int(np.prod(matrix.shape[1:]))
    lengths = np.full(len(matrix), width) if present is None else np.where(present, width, 0)
    flat = matrix if present is None else matrix[present]
    return lists(np.asarray(flat).reshape(-1), lengths, present, kind)


def table(schema: pa.Schema, count: int, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """`count` rows of `schema`: the columns given, nulls in the others. SchemaError names a column that doesn't fit."""
    if strangers := set(columns) - set(schema.names):
        raise SchemaError(f"columns {sorted(strangers)} are not in the schema", hint=f"it has {schema.names}")
    arrays = []
    for field in schema:
        column = columns.get(field.name)
        column = pa.nulls(count, field.type) if column is None else column
        if column.type != field.type or len(column) != count:
            raise SchemaError(
                f"column {field.name!r}: {len(column)} rows of {column.type}, expected {count} of {field.type}"
            )
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema)


def no_blobs() -> pa.Table:
    """An empty blobs table (`Schema.empty_table` would import pandas)."""
    return table(BLOBS, 0, {})


# ------------------------------------------------------------------------------------------------ columns to arrays


def chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array: copies only where it has several chunks."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def valid(column: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """(N,) bool: the row is not null."""
    array = chunk(column)
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return np.full(len(array), array.null_count == 0)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little", count=array.offset + len(array))
    return bits[array.offset :].astype(bool)


def values(column: pa.ChunkedArray | pa.Array, missing: Any = None) -> NDArray[Any]:
    """(N,) numbers or booleans of a column, zero-copy without nulls; nulls become `missing` (NaN or 0 unless told)."""
    array = chunk(column)
    if array.type == pa.bool_():
        body = array.buffers()[1]
        bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little", count=array.offset + len(array))
        out: NDArray[Any] = bits[array.offset :].astype(bool)
    elif len(array) == 0:
        return np.empty(0, _NUMPY[array.type])
    else:
        body = array.buffers()[1]
        out = np.frombuffer(body, _NUMPY[array.type], count=len(array) + array.offset)[array.offset :]
    if array.null_count:
        default = np.nan if array.type == pa.float64() else 0
        out = np.where(valid(array), out, default if missing is None else missing).astype(out.dtype, copy=False)
    return out


def ragged(column: pa.ChunkedArray | pa.Array) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A list column as (flat values, offsets (N + 1,)), zero-copy for the values; a null row has length 0."""
    array = chunk(column)
    if len(array) == 0:
        return np.empty(0, _NUMPY.get(array.type.value_type, np.float64)), np.zeros(1, np.int64)
    offsets = np.frombuffer(array.buffers()[1], np.int32, count=len(array) + 1 + array.offset)[array.offset :]
    offsets = offsets.astype(np.int64)
    return values(array.values)[offsets[0] : offsets[-1]], offsets - offsets[0]


def matrix(column: pa.ChunkedArray | pa.Array, width: int) -> NDArray[Any]:
    """(N, width) of a list column whose rows have `width` values; null rows become NaN (0 for integers).

    Zero-copy where no row is null. SchemaError names the first row of another length.
    """
    array = chunk(column)
    flat, offsets = ragged(array)
    lengths = np.diff(offsets)
    present = valid(array)
    if wrong := np.flatnonzero(present & (lengths != width)).tolist():
        raise SchemaError(f"row {wrong[0]}: a list of {lengths[wrong[0]]} values, expected {width}")
    if len(flat) == len(array) * width:
        return flat.reshape(len(array), width)
    out = np.full((len(array), width), np.nan if flat.dtype.kind == "f" else 0, flat.dtype)
    out[present] = flat.reshape(-1, width)
    return out


def texts(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """The texts of a string column; None where null."""
    result: list[str | None] = chunk(column).to_pylist()
    return result


def among(column: pa.ChunkedArray | pa.Array, names: Collection[str]) -> NDArray[np.bool_]:
    """(N,) bool: the text of the row is one of these; False where null."""
    array = chunk(column)
    if is_constant(array):
        return np.full(len(array), array[0].as_py() in names)
    return np.array([text in names for text in texts(array)], bool)


def is_constant(array: pa.Array) -> bool:
    """A text column without nulls says the same in every row; told from its bytes, without a look at each."""
    if not len(array) or array.null_count:
        return False
    offsets = np.frombuffer(array.buffers()[1], np.int32, count=len(array) + 1 + array.offset)[array.offset :]
    width = int(offsets[1] - offsets[0])
    if (np.diff(offsets) != width).any():
        return False
    if width == 0:
        return True
    body = array.buffers()[2].slice(int(offsets[0]), width * len(array)).to_pybytes()
    return bool(body == body[:width] * len(array))


def take(source: pa.Table, index: NDArray[Any]) -> pa.Table:
    """Rows of a table by position; `index` (M,) integers."""
    return source.take(fixed(index, pa.int64()))


# ---------------------------------------------------------------------------------------------- the metadata document


def same(left: Any, right: Any) -> bool:
    """Two Arrow columns or tables hold the same: nulls equal nulls and NaN equals NaN, whatever the chunking."""
    if isinstance(left, pa.Table):
        if left.schema.names != right.schema.names or len(left) != len(right):
            return False
        return all(same(left[name], right[name]) for name in left.schema.names)
    a, b = chunk(left), chunk(right)
    if a.type != b.type or len(a) != len(b) or not np.array_equal(valid(a), valid(b)):
        return False
    if pa.types.is_list(a.type):
        if not np.array_equal(lengths(a), lengths(b)):
            return False
        return same(inner(a), inner(b))
    if a.type == pa.float64():
        return np.array_equal(values(a), values(b), equal_nan=True)
    return bool(a.equals(b))


def lengths(array: pa.Array) -> NDArray[np.int64]:
    """(N,) lengths of the lists of a column; 0 where null."""
    if len(array) == 0:
        return np.empty(0, np.int64)
    offsets = np.frombuffer(array.buffers()[1], np.int32, count=len(array) + 1 + array.offset)[array.offset :]
    return np.where(valid(array), np.diff(offsets), 0)


def inner(array: pa.Array) -> pa.Array:
    """The values of a list column's rows, one after the other, without what may lie behind null rows."""
    if len(array) == 0:
        return array.values.slice(0, 0)
    offsets = np.frombuffer(array.buffers()[1], np.int32, count=len(array) + 1 + array.offset)[array.offset :]
    if np.diff(offsets)[~valid(array)].any():
        return array.flatten()  # imports pyarrow.compute, which takes as long as reading a file
    return array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def document(metadata: Mapping[str, Any]) -> bytes:
    """The metadata document as UTF-8 JSON, as it is stored under the Parquet key `kpdata` and in `meta.json`."""
    try:
        return json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates of broken JSON escapes: UTF-8 cannot hold them, escapes can
        return json.dumps(metadata).encode()


def parse_document(raw: bytes, source: str) -> dict[str, Any]:
    """The metadata document back; SchemaError where it is not one of a version that this kpdata reads."""
    try:
        found = json.loads(raw)
        version = str(found["version"])
        parts = {"datasets": found["datasets"], "skeletons": found["skeletons"], "history": found.get("history", [])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SchemaError(f"{source}: its metadata document cannot be read ({error!r})") from error
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        problem = f"{source}: schema version {version}, this kpdata reads {SCHEMA_VERSION}"
        raise SchemaError(problem, hint="update kpdata")
    for key, part in parts.items():
        rows = part.values() if isinstance(part, dict) else part
        if not isinstance(part, list if key == "history" else dict) or not all(isinstance(row, dict) for row in rows):
            raise SchemaError(f"{source}: {key!r} of its metadata document does not hold objects")
    return {**found, **parts}
