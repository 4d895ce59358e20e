"""JSON Schemas as tables and examples, whatever publishers write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalogue.fields import MAX_ROWS, MAX_SAMPLE_TEXT, MAX_TEXT, sample, table

NAMES = ["type", "properties", "items", "$ref", "enum", "const", "anyOf", "required", "default"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "#/properties/a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "a"]), inner)
    ),
    max_leaves=12,
)


def rows(schema: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(one.name, one.kind, one.required) for one in table(schema).fields]


def test_members_are_rows_with_those_below_them() -> None:
    schema = {
        "type": "object",
        "required": ["lines"],
        "properties": {
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"total": {"type": "number"}}},
            },
            "party": {"$ref": "#/$defs/party"},
            "state": {"enum": ["open", "paid"]},
            "note": {"type": ["string", "null"], "description": "Anything else."},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "version": {"const": 1},
            "free": True,
            "never": False,
        },
        "$defs": {"party": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    assert rows(schema) == [
        ("lines", "list of object", True),
        ("lines[].total", "number", False),
        ("party", "object", False),
        ("party.name", "string", False),
        ("state", '"open", "paid"', False),
        ("note", "string or null", False),
        ("either", "string or integer", False),
        ("version", "1", False),
        ("free", "anything", False),
        ("never", "nothing", False),
    ]
    assert table(schema).fields[5].description == "Anything else."
    assert sample(schema) == {"lines": []}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "date"}, "2026-11-20"),
        ({"type": "integer", "minimum": 7}, 7),
        ({"type": ["null", "string"]}, None),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "string", "examples": ["INV-1"]}, "INV-1"),
        ({"type": "object", "properties": {"a": {"default": 3}, "b": {}}}, {"a": 3}),
        ({"type": "array", "minItems": 1, "items": {"type": "boolean"}}, [True]),
        ({"type": "object"}, {}),
    ],
)
def test_a_sample_is_simple_and_valid(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema) == value


def test_what_is_long_deep_or_circular_is_cut() -> None:
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(500)}}
    assert len(table(wide).fields) == MAX_ROWS
    assert table(wide).more
    circle = {"type": "object", "properties": {"next": {"$ref": "#"}, "self": {"$ref": "#/x"}}}
    assert table(circle | {"x": {"$ref": "#/x"}}).fields[0].name == "next"
    long = {"type": "object", "properties": {"n" * 9999: {"enum": ["v" * 9999]}}}
    (field,) = table(long).fields
    assert (len(field.name), len(field.kind)) == (MAX_TEXT, MAX_TEXT)


def test_a_sample_is_short_however_much_a_schema_describes() -> None:
    names = [f"p{number}" for number in range(MAX_ROWS)]
    node = {"properties": {name: {"$ref": "#/$defs/n"} for name in names}, "required": names}
    whole = sample({"type": "object", **node, "$defs": {"n": {"type": "object", **node}}})
    assert 0 < len(json.dumps(whole)) <= MAX_SAMPLE_TEXT
    assert sample({"type": "string", "default": "v" * (MAX_SAMPLE_TEXT + 1)}) == {}
    kept = "v" * (MAX_SAMPLE_TEXT - len('""'))
    assert sample({"type": "string", "default": kept}) == kept


def test_a_reference_is_shown_as_one() -> None:
    assert table({"$ref_uri": "https://a.example/s.json"}).reference == "https://a.example/s.json"


@given(json_values)
def test_no_schema_fails(value: Any) -> None:
    schema = value if isinstance(value, dict) else {"properties": {"a": value}}
    assert len(table(schema).fields) <= MAX_ROWS
    sample(schema)
