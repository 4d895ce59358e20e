"""Schemas that ask for much work, or go round in circles."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def chain(length: int, keyword: str) -> Schema:
    """Return a schema that applies ``keyword`` to two references, each to two, and so on."""
    steps = {
        f"s{number}": {keyword: [{"$ref": f"#/$defs/s{number + 1}"}] * 2}
        for number in range(length)
    }
    last: Schema = {f"s{length}": {"type": "integer"}}
    return about({"$ref": "#/$defs/s0"}) | {"$defs": {**steps, **last}}


def line(length: int) -> Schema:
    """Return a schema that leads from one reference to the next."""
    steps: Schema = {f"s{number}": {"$ref": f"#/$defs/s{number + 1}"} for number in range(length)}
    return about({"$ref": "#/$defs/s0"}) | {"$defs": {**steps, f"s{length}": {}}}


def about(rule: Schema) -> Schema:
    """Return a schema of objects whose member ``x`` follows a rule."""
    return {"type": "object", "properties": {"x": rule}}


def nested(depth: int) -> Any:
    """Return an object in ``x`` of an object, and so on."""
    value: Any = {}
    for _ in range(depth):
        value = {"x": value}
    return value


TWICE = about({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})
# A schema and an input that no machine gets to the end of, or that ends the process which tries;
# those that are refused when they are published, and those that only a value makes endless.
EXPLOSIVE: dict[str, tuple[Schema, Any]] = {
    "alternatives": (chain(60, "anyOf"), {"x": "text"}),
    "all of them": (chain(60, "allOf"), {"x": 1}),
    "one of them": (chain(60, "oneOf"), {"x": 1}),
    "a long way": (line(25_000), {"x": 1}),
}
ENDLESS: dict[str, tuple[Schema, Any]] = {
    "a tree": (TWICE, nested(50)),
    "a large pattern": (about({"pattern": "(?:a?){90000}b"}), {"x": "a" * 900_000}),
}
# Schemas that cannot be applied without fetching something, or at all, and where that is.
USELESS: dict[str, tuple[Schema, str]] = {
    "remote": ({"type": "object", "$ref": "https://evil.example/schema.json"}, "/$ref"),
    "a file": ({"type": "object", "$ref": "file:///etc/passwd"}, "/$ref"),
    "a base elsewhere": (
        {"type": "object", "$id": "https://evil.example/a", "$ref": "b"},
        "/$ref",
    ),
    "nowhere": ({"type": "object", "$ref": "#/$defs/none"}, "/$ref"),
    "no pattern": (about({"pattern": "("}), "/properties/x/pattern"),
    "a look back": (about({"pattern": "(a)\\1"}), "/properties/x/pattern"),
    "a look ahead": (about({"pattern": "^(?=a)"}), "/properties/x/pattern"),
    "a huge pattern": (
        about({"pattern": "((a{0,1000}){0,1000}){0,1000}"}),
        "/properties/x/pattern",
    ),
}
# Schemas that go round in circles, and are nonetheless applied where an earlier release let them be
# published; and the reference that closes the circle.
CIRCLES: dict[str, tuple[Schema, str]] = {
    "itself": ({"type": "object", "$ref": "#"}, "/$ref"),
    "two": (
        {
            "type": "object",
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
        "/$defs/b/$ref",
    ),
    "alternatives": ({"type": "object", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "/anyOf/0/$ref"),
    "dynamic": ({"type": "object", "$dynamicAnchor": "a", "$dynamicRef": "#a"}, "/$dynamicRef"),
}
LIST = about({"$ref": "#"})
"""A circle that goes into a member of the value, and so comes to the value's end."""
