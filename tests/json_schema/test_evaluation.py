"""What is said of a value that breaks a schema: where, by which rule, and what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from app.json_schema.evaluation import MAX_DETAIL, Judge, compile_schema
from tests.json_schema.schemas import Schema

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
ONE = {"properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def found(schema: Any, value: Any) -> list[tuple[str, str, str]]:
    """Return all that a value breaks."""
    return list(Judge(schema, compile_schema(schema)).findings(value))


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        # A member that is missing, wherever the engine places that.
        ({"required": ["a", "b"]}, {"b": 1}, [("/a", "required")]),
        ({"type": "object", **ONE}, {}, [("/a", "required")]),
        (ONE, {"z": 1}, [("/z", "additional_properties"), ("/a", "required")]),
        ({"items": ONE}, [{"a": ""}, {}], [("/1/a", "required")]),
        ({"required": ['d"e/~']}, {}, [('/d"e~1~0', "required")]),
        ({"$ref": "#/$defs/a", "$defs": {"a": ONE}}, {}, [("/a", "required")]),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, [("/b", "dependent_required")]),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, [("/b", "required")]),
        ({"$schema": DRAFT_7, "dependencies": {"a": ["b"]}}, {"a": 1}, [("/b", "dependencies")]),
        ({"if": {"required": ["a"]}, "else": {"required": ["c"]}}, {}, [("/c", "required")]),
        # A member that is not allowed.
        ({"additionalProperties": False}, {"it's": 1}, [("/it's", "additional_properties")]),
        (
            {
                "patternProperties": {"^a": {}},
                "properties": {"k": {}},
                "additionalProperties": False,
            },
            {"a1": 1, "z/~": 2, "k": 3, "y": 4},
            [("/z~1~0", "additional_properties"), ("/y", "additional_properties")],
        ),
        ({"additionalProperties": {"type": "string"}}, {"a": 1}, [("/a", "type")]),
        (
            {"properties": {"a": {}}, "unevaluatedProperties": False},
            {"a": 1, "b', 'c": 2},
            [("/b', 'c", "unevaluated_properties")],
        ),
        ({"unevaluatedProperties": {"type": "string"}}, {"a": 1}, [("/a", "type")]),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1, 2], [("/1", "unevaluated_items")]),
        ({"properties": {"a": False}}, {"a": 1}, [("/a", "false_schema")]),
        ({"prefixItems": [{}], "items": False}, [1, 2], [("/1", "false_schema")]),
        (
            {"$schema": DRAFT_7, "items": [{}], "additionalItems": False},
            [1, 2],
            [("", "additional_items")],
        ),
        (False, 1, [("", "false_schema")]),
        # A name.
        ({"propertyNames": {"maxLength": 1}}, {"ab": 2, "c": 1}, [("/ab", "property_names")]),
        ({"propertyNames": False}, {"a": 2}, [("", "property_names")]),
        (
            {"properties": {"propertyNames": {"type": "string"}}},
            {"propertyNames": 1},
            [("/propertyNames", "type")],
        ),
        # A value.
        (
            {"properties": {"007": {"minLength": 3}, "7": {}}},
            {"007": "a"},
            [("/007", "min_length")],
        ),
        ({"anyOf": [{"type": "string"}, {"maximum": 0}]}, 1, [("", "type"), ("", "maximum")]),
        ({"oneOf": [{}, True]}, 1, [("", "one_of")]),
        ({"not": {}}, 1, [("", "not")]),
        ({"contains": {"type": "string"}}, [1], [("", "contains")]),
        (
            {"multipleOf": 2, "exclusiveMinimum": 9},
            1,
            [("", "exclusive_minimum"), ("", "multiple_of")],
        ),
        ({"maxProperties": 0}, {"a": 1}, [("", "max_properties")]),
        # Nothing: a format is an annotation.
        ({"format": "date-time"}, "not a date", []),
    ],
)
def test_the_place_and_the_rule(schema: Any, value: Any, expected: list[tuple[str, str]]) -> None:
    assert [(pointer, code) for pointer, code, _ in found(schema, value)] == expected


@pytest.mark.parametrize(
    ("schema", "detail"),
    [
        ({"type": ["string", "null"]}, 'Must be of type "string", "null".'),
        ({"$id": "https://x.example/a", "maximum": 5}, "Must be at most 5."),
        (
            {
                "$id": "https://x.example/a",
                "$ref": "b#/$defs/c",
                "$defs": {"b": {"$id": "b", "$defs": {"c": {"enum": [1, 2]}}}},
            },
            "Must be one of 1, 2.",
        ),
        ({"const": "x"}, 'Must be "x".'),
        ({"multipleOf": 4}, "Must be a multiple of 4."),
        ({"enum": list(range(60))}, f"Must be one of {', '.join(map(str, range(50)))}, ...."),
    ],
)
def test_the_sentence_says_what_was_expected(schema: Schema, detail: str) -> None:
    assert [text for _, _, text in found(schema, 66.6)] == [detail]


def test_the_sentence_never_shows_the_value_and_has_an_end() -> None:
    marker = "s3cr3t-marker"
    schema = {
        "type": "object",
        "properties": {
            "a": {"enum": ["x" * 900], "minLength": 99, "pattern": "^x", "type": "null"}
        },
        "propertyNames": {"maxLength": 3},
        "additionalProperties": {"not": {}},
    }
    texts = [text for _, _, text in found(schema, {"a": marker, marker: marker})]
    assert len(texts) == 6
    assert not [text for text in texts if marker in text]
    assert max(map(len, texts)) == MAX_DETAIL
