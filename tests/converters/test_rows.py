"""Collectors: any JSON rows become columns and come back as the same rows, and number styles are told by the text."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st

from kpdata.converters import _columns, _rows, _stores
from kpdata.converters._json import NotStreamable, Rows
from kpdata.errors import FormatError
from tests.strategies import FINITE, MIXED, json_values


def where(row):
    return f"row {row}"


def lists(items, **options):
    """A collector fed with the values of the rows that have one (None: the row lacks the key)."""
    extras = _rows.Extras()
    column = _rows.NumberLists("x", extras, "s", **options)
    rows = [row for row, item in enumerate(items) if item is not None]
    column.extend(rows, [items[row] for row in rows])
    return column, extras


@given(st.lists(st.none() | st.lists(MIXED, max_size=4), max_size=5))
def test_number_lists(items):
    """Rows, lengths and numbers as they stood, on both parsers."""
    column, extras = lists(items)
    parser = simdjson.Parser()
    parsed = list(parser.parse(json.dumps(items).encode()))
    fast, _ = lists([None if item is None else parsed[row] for row, item in enumerate(items)])
    for found in (column, fast):
        assert found.rows.tolist() == [row for row, item in enumerate(items) if item is not None]
        assert found.lengths.tolist() == [len(item) for item in items if item is not None]
        assert found.flat().tolist() == [number for item in items for number in item or ()]
    assert not extras.parts
    del parsed, fast


@pytest.mark.parametrize("value", ["1", 5, {"a": 1}, [1, "2"], [[1], [2]], [True], [None], [10**400], [1, [2], 3]])
def test_other_values_are_refused_or_kept(value):
    """Strict: a sentence that names the row; else verbatim in extras."""
    with pytest.raises(FormatError, match=r"s: row 2 \('x'\): found .*, expected a flat list of numbers"):
        lists([[1], value])
    column, extras = lists([[1], value], strict=False)
    assert column.rows.tolist() == [0]
    assert json.loads(extras.column(2).to_pylist()[1]) == {"x": value}


def test_spilled_lists_are_verbatim():
    """A list that its column cannot take goes to extras as the text had it: 1.0 stays 1.0."""
    rows = [{"x": [1.0, 2]}, {"x": [3.0]}, {}, {"x": [4, 5]}]
    column, extras = lists([row.get("x") for row in rows])
    column.spill(np.array([False, True, False]), rows)
    assert extras.column(4).to_pylist() == [None, '{"x":[3.0]}', None, None]
    assert column.flat().tolist() == [1, 2, 4, 5]
    assert column.rows.tolist() == [0, 3]


def test_nested_lists_are_noticed():
    """simdjson copies [1, [2]] as 1, 2: the count of brackets gives the document to the standard library."""
    data = b'[{"x": [1, [2], 3], "note": "[", "y": [[]]}, {"x": []}]'
    rows = Rows(data, 1, len(data) - 1)
    extras = _rows.Extras()
    column = _rows.NumberLists("x", extras, "s")
    _rows.collect(rows, {"x": column}, extras, lambda row, found: AssertionError())
    with pytest.raises(NotStreamable):
        _rows.require_flat(rows, [column], [], extras)


@given(
    st.lists(st.none() | st.one_of(st.integers(-(2**70), 2**70), FINITE), max_size=6),
    st.sampled_from(["floats", "integers"]),
)
def test_scalars_come_back(items, kind):
    """A column and what went to extras hold every number exactly: too big, or not whole, is kept verbatim."""
    extras = _rows.Extras()
    column = _rows.Scalars("x", extras)
    column.extend(list(range(len(items))), items)
    if kind == "floats":
        built = column.floats(len(items), "s", where)
    else:
        built = column.integers(len(items), pa.int32(), "s", where)
    back = [{} if value is None else {"x": value} for value in built.to_pylist()]
    for row, text in enumerate(extras.column(len(items)).to_pylist()):
        back[row] |= json.loads(text) if text else {}
    assert back == [{"x": item} for item in items]


@pytest.mark.parametrize(
    ("items", "style"),
    [([1, 2], None), ([1.0, 2.5], "float"), ([1.5, 2.5], None), ([1, 2.0], None), ([True, False], "bool"), ([], None)],
)
def test_scalar_styles(items, style):
    """`float` only where whole numbers are written 1.0 and none as 1; booleans are their own."""
    column = _rows.Scalars("x", _rows.Extras())
    column.extend(list(range(len(items))), items)
    assert column.style() == style


@pytest.mark.parametrize(
    "text", ["[1,2]", "[1.0,2]", "[1.0,2.0]", "[0.5,2]", "[0.5,2.0]", "[0.5]", "[1e2]", "[-3]", "[]"]
)
def test_list_styles(text):
    """Integers hidden behind a float are found in the text, by both parsers alike."""
    data = f'[{{"x": {text}}}]'.encode()
    rows = Rows(data, 1, len(data) - 1)
    extras = _rows.Extras()
    column = _rows.NumberLists("x", extras, "s")
    _rows.collect(rows, {"x": column}, extras, lambda row, found: AssertionError())
    plain, _ = lists([json.loads(text)])
    numbers = json.loads(text)
    wanted = {"x": "float"} if any(n == int(n) for n in numbers) and not any(type(n) is int for n in numbers) else {}
    assert _rows.styles(rows, [column], []) == wanted
    assert _rows.styles(json.loads(data), [plain], []) == wanted


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "ü", ""]), json_values(), max_size=3), max_size=5))
def test_extras_hold_any_object(rows):
    """Every key without a collector comes back; a row without any has null; keys of all layouts, in file order."""
    extras = _rows.Extras()
    seen = _rows.Scalars("a", extras)
    count = _rows.collect(rows, {"a": seen}, extras, lambda row, found: AssertionError())
    found = [json.loads(text) if text else {} for text in extras.column(count).to_pylist()]
    for row, item in zip(seen.rows.tolist(), seen.items, strict=True):
        found[row]["a"] = item
    assert found == rows
    assert seen.rows.tolist() == sorted(seen.rows.tolist())


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), max_size=6))
def test_assemble(rows):
    """Rows are put together from columns and extras; what is absent stays absent; a column's key in extras wins."""
    keys = ["a", "b"]
    columns = []
    for key in keys:
        values = np.array([row.get(key, 0) for row in rows], np.int64)
        columns.append((key, _columns.scalars(values), np.array([key in row for row in rows], bool)))
    texts = [
        json.dumps({"c": row["c"]} | ({"a": "own"} if row["c"] == 3 else {})) if "c" in row else None for row in rows
    ]
    wanted = [row | ({"a": "own"} if row.get("c") == 3 else {}) for row in rows]
    for pure in ("", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KPDATA_PURE_PYTHON", pure)
            found = _columns.assemble(len(rows), columns, pa.array(texts, pa.string()))
        assert json.loads(_columns.document(found)) == wanted
        assert [json.loads(piece) for piece in found.pieces()] == wanted


@given(st.lists(st.lists(st.lists(MIXED, max_size=3), max_size=3), max_size=5), st.sampled_from([None, "float"]))
def test_numbers_as_text(rows, style):
    """Lists and lists of lists of any numbers, empty ones too, woven both ways: every value in its place."""
    inner = [numbers for row in rows for numbers in row]
    flat = np.array([number for numbers in inner for number in numbers], np.float64)
    lengths, counts = [np.array(list(map(len, items)), np.int64) for items in (inner, rows)]
    deep = _columns.Texts(_columns.LISTS, _columns.lists(flat, lengths, style).body, lengths, counts)
    everybody = np.ones(len(rows), bool)
    for pure in ("", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KPDATA_PURE_PYTHON", pure)
            woven = _columns.assemble(
                len(rows), [("x", deep, everybody), ("n", _columns.scalars(counts), everybody)], None
            )
            single = _columns.assemble(len(inner), [("x", _columns.lists(flat, lengths, style), lengths >= 0)], None)
        assert [row["x"] for row in json.loads(_columns.document(woven))] == rows
        assert [row["n"] for row in json.loads(_columns.document(woven))] == counts.tolist()
        assert [row["x"] for row in json.loads(_columns.document(single))] == inner


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1, 3])), max_size=6, unique_by=lambda pair: pair[0]))
def test_spread(rows):
    """Blocks of different width laid out in row order, by a plain loop."""
    parts = []
    for width in (1, 3):
        mine = np.array(sorted(row for row, w in rows if w == width), np.int64)
        parts.append((mine, np.arange(len(mine) * width, dtype=float).reshape(-1, width) + 100 * width))
    flat, lengths, present = _rows.spread(parts, 10)
    wanted = {row: block.tolist() for rows_, blocks in parts for row, block in zip(rows_.tolist(), blocks, strict=True)}
    assert flat.tolist() == [n for row in range(10) for n in wanted.get(row, [])]
    assert lengths.tolist() == [len(wanted.get(row, [])) for row in range(10)]
    assert present.tolist() == [row in wanted for row in range(10)]


def test_more_expected_than_there_is_memory():
    """A first piece that is denser than all others asks for too much: lists grow as they come then."""
    column = _stores.Triples()
    for start in range(0, 60, 6):
        column.add(np.arange(start, start + 6.0), expected=10**18)
    assert column.whole().tolist() == list(range(60))


def test_no_triples_at_all():
    """Pieces without numbers, first or between others, change nothing."""
    column = _stores.Triples()
    assert [part.shape for part in column.apart()] == [(0, 2), (0,)]
    for piece in ([], [1.0, 2.0, 0.5], []):
        column.add(np.array(piece), expected=len(piece))
    assert column.whole().tolist() == [1.0, 2.0, 0.5]
