"""Columns from raw buffers and back: what Arrow itself builds and reads is the measure."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import schema
from kpdata.errors import SchemaError
from tests.strategies import INTEGERS, NUMBERS, TEXTS

FLOATS = pa.list_(pa.float64())


def equal(column: pa.Array, expected: pa.Array) -> bool:
    """Arrow's own comparison, after its own validation; NaN equals NaN."""
    column.validate(full=True)
    return column.type == expected.type and str(column.to_pylist()) == str(expected.to_pylist())


@given(st.lists(st.none() | NUMBERS))
def test_fixed_floats(items):
    """Numbers and nulls as Arrow builds them; back, nulls are NaN."""
    present = np.array([item is not None for item in items], bool)
    column = schema.fixed(np.array([0.0 if item is None else item for item in items]), pa.float64(), present)
    assert equal(column, pa.array(items, pa.float64()))
    wanted = [math.nan if item is None else item for item in items]
    np.testing.assert_array_equal(schema.values(column), np.array(wanted, float))
    np.testing.assert_array_equal(schema.valid(column), present)


@given(st.lists(st.none() | INTEGERS), st.integers(0, 3))
def test_fixed_integers_and_slices(items, start):
    """64-bit integers keep every bit, nulls become the value asked for, and a slice begins where it says."""
    present = np.array([item is not None for item in items], bool)
    column = schema.fixed(np.array([item or 0 for item in items], np.int64), pa.int64(), present)
    assert equal(column, pa.array(items, pa.int64()))
    part = column.slice(start)
    assert schema.values(part, missing=-7).tolist() == [-7 if item is None else item for item in items[start:]]
    assert schema.valid(part).tolist() == [item is not None for item in items[start:]]


@given(st.lists(st.none() | st.booleans()), st.integers(0, 9))
def test_fixed_booleans_and_slices(items, start):
    """Bits of a mask, from any offset."""
    present = np.array([item is not None for item in items], bool)
    column = schema.fixed(np.array([bool(item) for item in items], bool), pa.bool_(), present)
    assert equal(column, pa.array(items, pa.bool_()))
    assert schema.values(column.slice(start)).tolist() == [bool(item) for item in items[start:]]


@given(st.lists(st.none() | TEXTS))
def test_strings(items):
    """Texts of any script, empty texts and nulls."""
    assert equal(schema.strings(items), pa.array(items, pa.string()))
    assert equal(schema.repeated(items), pa.array(items, pa.string()))
    assert schema.texts(pa.chunked_array([schema.strings(items), schema.strings(items)])) == items + items


def test_lone_surrogates():
    """UTF-8 cannot hold half a character: it is a question mark in the column."""
    assert schema.strings(["a\ud800b"]).to_pylist() == ["a?b"]
    assert schema.constant("a\ud800b", 2).to_pylist() == ["a?b"] * 2


@pytest.mark.parametrize("text", [None, "", "ü"])
def test_constant(text):
    """The same text, or null, in every row; no rows work too."""
    assert equal(schema.constant(text, 3), pa.array([text] * 3, pa.string()))
    assert len(schema.constant(text, 0)) == 0


@given(st.lists(st.none() | st.lists(NUMBERS, max_size=3)), st.integers(0, 2))
def test_lists_and_ragged(items, start):
    """Lists of any length: null is not empty; ragged values and offsets are those of the slice."""
    flat = np.array([number for item in items for number in item or ()], float)
    lengths = np.array([len(item or ()) for item in items], np.int64)
    column = schema.lists(flat, lengths, np.array([item is not None for item in items], bool))
    assert equal(column, pa.array(items, FLOATS))
    values, offsets = schema.ragged(column.slice(start))
    np.testing.assert_array_equal(values, flat[lengths[:start].sum() :])
    assert np.diff(offsets).tolist() == lengths[start:].tolist()


def test_lists_of_lists():
    """Polygons: a null person, a person without polygons and an empty polygon are three things."""
    inner = schema.lists(np.arange(4.0), np.array([3, 0, 1]))
    column = schema.lists(inner, np.array([0, 2, 0, 1]), np.array([True, True, False, True]))
    assert equal(column, pa.array([[], [[0, 1, 2], []], None, [[3]]], pa.list_(FLOATS)))


def test_rows_and_matrix():
    """A matrix becomes lists of one length, and comes back with NaN (0 for integers) where a row is null."""
    block = np.arange(6).reshape(3, 2)
    column = schema.rows(block, np.array([True, False, True]), pa.int8())
    assert equal(column, pa.array([[0, 1], None, [4, 5]], pa.list_(pa.int8())))
    assert schema.matrix(column, 2).tolist() == [[0, 1], [0, 0], [4, 5]]
    floats = schema.rows(block.astype(float), np.array([True, False, True]))
    np.testing.assert_array_equal(schema.matrix(floats, 2)[1], [np.nan, np.nan])
    with pytest.raises(SchemaError, match="row 0: a list of 2 values, expected 3"):
        schema.matrix(column, 3)


def test_matrix_copies_nothing():
    """One chunk without nulls is a view of Arrow's memory."""
    column = schema.rows(np.arange(6.0).reshape(3, 2))
    memory = np.frombuffer(column.values.buffers()[1], np.float64)
    assert np.shares_memory(schema.matrix(column, 2), memory)
    assert np.shares_memory(schema.values(pa.chunked_array([column.values])), memory)


def test_too_many_values_for_a_list_column():
    """Offsets of Arrow's lists are 32 bits: more values are refused, not wrapped."""
    with pytest.raises(SchemaError, match="2,147,483,648 values in one column chunk"):
        schema.lists(np.empty(0), np.array([2**31 - 1, 1]))


def test_table_refuses_what_does_not_fit():
    """A stranger, another length and another type are named."""
    with pytest.raises(SchemaError, match=r"columns \['nose'\] are not in the schema"):
        schema.table(schema.IMAGES, 0, {"nose": pa.nulls(0)})
    with pytest.raises(SchemaError, match="column 'width': 1 rows of int32, expected 2"):
        schema.table(schema.IMAGES, 2, {"width": pa.array([1], pa.int32())})
    with pytest.raises(SchemaError, match="column 'width': 1 rows of int64, expected 1 of int32"):
        schema.table(schema.IMAGES, 1, {"width": pa.array([1], pa.int64())})


def test_same():
    """Chunks do not matter, NaN is itself, what lies behind a null does not count; null is neither empty nor zero."""
    column = pa.array([1.0, math.nan, None], pa.float64())
    chunked = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    assert schema.same(column, chunked)
    behind = [schema.fixed(np.array([1.0, number]), pa.float64(), np.array([True, False])) for number in (7, 8)]
    assert schema.same(*behind)
    for other in ([1.0, math.nan, 0.0], [1.0, math.nan], [1.0, 2.0, None]):
        assert not schema.same(column, pa.array(other, pa.float64()))
    lists = pa.array([[1.0], None, []], FLOATS)
    assert schema.same(lists, pa.chunked_array([lists.slice(0, 1), lists.slice(1)]))
    assert not schema.same(lists, pa.array([[1.0], [], None], FLOATS))
    nested = pa.array([[[1.0], []], None], pa.list_(FLOATS))
    assert not schema.same(nested, pa.array([[[1.0]], None], pa.list_(FLOATS)))


def test_document_round_trip():
    """Any JSON comes back, lone surrogates and NaN too; letters stay readable in the file."""
    document = {"version": "1.0.0", "datasets": {"ä": {"x": "\ud800", "y": [1, 1.5, None, True]}}, "skeletons": {}}
    assert schema.parse_document(schema.document(document), "x") == {**document, "history": []}
    plain = {"version": "1.9.0", "datasets": {"日本": {"nan": math.nan}}, "skeletons": {}, "history": [{"op": "x"}]}
    raw = schema.document(plain)
    assert "日本".encode() in raw
    assert math.isnan(schema.parse_document(raw, "x")["datasets"]["日本"]["nan"])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b'{"version": "1.0.0"}', "cannot be read"),
        (b"[" * 100000, "cannot be read"),
        (b'{"version": "2.0.0", "datasets": {}, "skeletons": {}}', "schema version 2.0.0, this kpdata reads 1"),
        (b'{"version": "1.0.0", "datasets": {"a": 1}, "skeletons": {}}', "'datasets' .*does not hold objects"),
        (b'{"version": "1.0.0", "datasets": {}, "skeletons": []}', "'skeletons' .*does not hold objects"),
        (b'{"version": "1.0.0", "datasets": {}, "skeletons": {}, "history": [1]}', "'history' .*does not hold objects"),
    ],
)
def test_damaged_documents(raw, message):
    """Every damage is a sentence that names the file."""
    with pytest.raises(SchemaError, match=f"x.parquet: .*{message}"):
        schema.parse_document(raw, "x.parquet")


def test_visibility_names():
    """The numbers of the alphabet are part of the file format."""
    assert {state.name: int(state) for state in schema.Visibility} == {
        "ABSENT": 0, "OCCLUDED": 1, "VISIBLE": 2, "UNKNOWN": 3,
    }  # fmt: skip
    assert json.dumps(schema.Visibility.VISIBLE) == "2"
