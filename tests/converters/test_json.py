"""Big JSON in pieces: every cut is noticed, every doubt goes to the standard library, every fault is a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.converters import _json
from kpdata.converters._json import NotStreamable, Rows
from kpdata.errors import FormatError
from tests.strategies import NUMBERS, json_values


def rows(stream):
    return [_json.plain(row) for chunk in stream.chunks() for row in chunk]


def parsed(data):
    """A document by the fast path, rows as plain Python; None where it gives up."""
    try:
        found = _json.stream(data)
        if isinstance(found, dict):
            return {key: rows(value) if isinstance(value, Rows) else value for key, value in found.items()}
        return rows(found) if isinstance(found, Rows) else found
    except NotStreamable:
        return None


TRICKY = [
    '{"annotations": [{"a": "}, {"}, {"b": "}]"}]}',
    '{"annotations": [{"a": [{"b": 1}, {"c": 2}]}, {"d": [{}]}], "z": [{}]}',
    '{"annotations": [{"a": 1}], "annotations": [{"b": 2}]}',
    '{"annotations": [{"a": 1}], "annotations": []}',
    '{"info": {"annotations": [{"a": 1}]}, "annotations": []}',
    '{"info": {"annotations": [{"a": 1}]}, "annotations": [{"b": 2}]}',
    '{"info": {"annotations": [{"a": 1}]}}',
    '{"info": "\\"annotations\\": [{", "annotations": [{"a": "\\"}, {\\""}]}',
    '{"info": "annotations", "annotations": [{"a": {"annotations": [{"x": 1}]}}]}',
    '{"images": [{"a": [{"b": 1}]}, {}], "annotations": [{"a": 1}]}',
    '{"annotations": [{"images": [{"a": 1}]}], "images": [{"b": 2}]}',
    '{"annotations": [{"a": 1}], "images": [{"b": 2}], "x": {"images": [{"c": 3}]}}',
    '{"annotations" : [ {"a": 1} ,\n\t{"b": 2} ] , "c": "]"}',
    '[{"a": "]"}, {"b": "}, {"}]', "[]", "[ ]", "[1, 2]", '["}, {"]', "{}", '{"annotations": []}',
    '{"annotations": {}}',
    '{"annotations": [1, {"a": 2}]}', '{"annotations": [{"a": 1}, 2]}', '{"annotations": [{"a": 1}, [{"b": 2}]]}',
    '\ufeff{"annotations": [{"a": 1}]}', ' [{"a": 1}] ', '{"annotations": [{"a": 1}, {"a": 1, "a": 2}]}',
]  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 7, 1 << 19])
@pytest.mark.parametrize("text", TRICKY)
def test_tricky_documents(monkeypatch, chunk, text):
    """Braces in texts, lists in rows, keys twice, keys deeper down: the standard library's value, or given up."""
    monkeypatch.setattr(_json, "_CHUNK", chunk)
    wanted = json.loads(text.removeprefix("\ufeff"))
    assert parsed(text.encode()) in (wanted, None)


def test_the_fast_path_is_taken():
    """A plain document is not given up, in chunks of any size."""
    raw = {"images": [{"id": 1}], "annotations": [{"id": i, "x": [i, "}, {"]} for i in range(50)], "categories": []}
    assert parsed(json.dumps(raw).encode()) == raw
    assert parsed(json.dumps(raw["annotations"], indent=2).encode()) == raw["annotations"]


@given(st.lists(st.dictionaries(st.text(max_size=3), json_values(), max_size=3), max_size=4), st.integers(1, 40))
def test_any_rows_in_any_chunks(items, chunk):
    """Rows of any content, cut anywhere: the same values in the same order, or the standard library's turn."""
    before, _json._CHUNK = _json._CHUNK, chunk
    try:
        found = parsed(json.dumps({"annotations": items}).encode())
    finally:
        _json._CHUNK = before
    assert found in ({"annotations": items}, None)


@pytest.mark.parametrize(
    "broken", ["[{}", "[{}] x", '{"annotations": [{"a": 1}', '{"annotations": [{"a": 1}]', "[{},]", "[NaN]"]
)
def test_broken_documents_are_given_up(broken):
    """What simdjson does not take never comes out as something else."""
    assert parsed(broken.encode()) is None


@given(json_values(NUMBERS))
def test_one_text_whichever_parser(value):
    """The text of a value is the same from plain Python and from simdjson, and parses back to it."""
    import simdjson

    text = _json.text(value)
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps(value, sort_keys=True)
    try:
        parsed_value = simdjson.Parser().parse(json.dumps([value]).encode()).as_list()[0]
    except ValueError:
        return
    assert _json.text(parsed_value) == text


@given(json_values(NUMBERS), st.booleans())
def test_dump_keeps_every_number(value, indent):
    """NaN, Infinity, big integers and lone surrogates are written as Python reads them, never as null."""
    raw = {"value": value, "big": 2**80, "half": "\ud800"} if indent else {"value": value}
    assert json.dumps(json.loads(_json.dump(raw, indent=indent)), sort_keys=True) == json.dumps(raw, sort_keys=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"x\.json: is empty \(0 bytes\)"),
        (b" \n", r"is empty \(2 bytes\)"),
        (b'{"a": [1, 2', r"not valid JSON: .* at line 1, column 12 \(the file ends there: is it cut off\?\)"),
        (b'{"a": 1,\n "b" 2}', r"not valid JSON: Expecting ':' delimiter at line 2, column 6$"),
        ('{"name": "für"}'.encode("cp1252"), "byte 0xfc at position 11 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "byte 0xff at position 0 is not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 200 levels"),
        (b"1" * 5000, "not JSON that can be read"),
    ],
)
def test_faults_are_sentences(data, message):
    """Empty, cut off, wrong, in another encoding, too deep, too long a number: each says so."""
    with pytest.raises(FormatError, match=message):
        _json.load(data, "x.json")


def test_byte_order_mark():
    """Windows' editors write one before UTF-8."""
    assert _json.load(b"\xef\xbb\xbf[1]", "x") == [1]
    assert parsed(b'\xef\xbb\xbf [{"a": 1}]') == [{"a": 1}]


def test_kinds():
    """JSON's own words, not Python's."""
    words = {"text": "a", "number": 1.5, "true/false": True, "null": None, "list": [], "object": {}}
    assert {word: _json.kind(value) for word, value in words.items()} == {word: word for word in words}


def test_depth():
    """200 levels pass, 201 do not, whatever they are made of."""
    value: object = 1
    for level in range(200):
        value = [value] if level % 2 else {"a": value}
    _json.require_shallow(value)
    with pytest.raises(RecursionError):
        _json.require_shallow([value])
