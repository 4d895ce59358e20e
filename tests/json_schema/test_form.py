"""Which schemas are refused when they are published, and where they are at fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.json_schema.evaluation import UNUSABLE, compile_schema
from app.json_schema.form import MAX_EXPANDED, MAX_STEPS, form_faults
from tests.json_schema.schemas import (
    CIRCLES,
    ENDLESS,
    EXPLOSIVE,
    LIST,
    USELESS,
    Schema,
    chain,
    line,
)

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


def faults(schema: Schema) -> list[str]:
    """Return where a schema is at fault."""
    return [pointer for pointer, _ in form_faults(schema)]


@pytest.mark.parametrize(("schema", "pointer"), USELESS.values(), ids=USELESS)
def test_what_cannot_be_applied(schema: Schema, pointer: str) -> None:
    assert faults(schema) == [pointer]
    with pytest.raises(UNUSABLE):
        compile_schema(schema)


@pytest.mark.parametrize(("schema", "pointer"), CIRCLES.values(), ids=CIRCLES)
def test_a_circle_at_one_place_of_the_value(schema: Schema, pointer: str) -> None:
    assert faults(schema)[0] == pointer


@pytest.mark.parametrize("schema", [schema for schema, _ in EXPLOSIVE.values()], ids=EXPLOSIVE)
def test_what_explodes(schema: Schema) -> None:
    (pointer,) = faults(schema)
    assert pointer.startswith("/$defs/s")


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_references_may_lead_through_so_many(keyword: str) -> None:
    # Each step has itself, two references, and what they lead to.
    length = 0
    while 3 * (2 ** (length + 1) - 1) + 2**length + 3 <= MAX_EXPANDED:
        length += 1
    assert faults(chain(length - 2, keyword)) == []
    assert faults(chain(length + 1, keyword)) != []


@pytest.mark.parametrize(
    "step",
    [
        lambda to: {"properties": {"a": to, "b": to}},
        lambda to: {"items": {"allOf": [to, to]}},
        lambda to: {"if": to, "then": to},
        lambda to: {"not": {"not": to}, "else": to, "if": True},
        lambda to: {"dependentSchemas": {"a": to, "b": to}},
        lambda to: {"patternProperties": {"^a": to}, "additionalProperties": to},
        lambda to: {"contains": to, "prefixItems": [to]},
        lambda to: {"unevaluatedItems": to, "unevaluatedProperties": to},
        lambda to: {"propertyNames": to, "oneOf": [to]},
        lambda to: {"$dynamicRef": to["$ref"], **to},
    ],
)
def test_every_keyword_counts(step: Any) -> None:
    steps: Schema = {f"s{n}": step({"$ref": f"#/$defs/s{n + 1}"}) for n in range(40)}
    schema = {"type": "object", "$ref": "#/$defs/s0", "$defs": {**steps, "s40": {}}}
    assert len(faults(schema)) == 1


def test_steps_in_a_row() -> None:
    assert faults(line(MAX_STEPS - 5)) == []
    assert len(faults(line(MAX_STEPS + 5))) == 1


def test_what_is_written_out_does_not_explode() -> None:
    assert faults({"type": "object", "properties": {f"p{n}": {} for n in range(12_000)}}) == []


@pytest.mark.parametrize("schema", [schema for schema, _ in ENDLESS.values()], ids=ENDLESS)
def test_what_only_a_value_makes_endless_is_let_pass(schema: Schema) -> None:
    assert faults(schema) == []


TREE = {
    "$id": "https://x.example/tree",
    "$dynamicAnchor": "node",
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
}


@pytest.mark.parametrize(
    "schema",
    [
        LIST,
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
        {"$ref": "#an", "$defs": {"a": {"$anchor": "an"}}},
        {"$id": "https://x.example/a", "$ref": "b", "$defs": {"b": {"$id": "b"}}},
        {"$id": "https://x.example/a", "$ref": "https://x.example/a#/$defs/b", "$defs": {"b": {}}},
        {"$id": "https://x.example/a", "$ref": "#/$defs/b/$defs/c"}
        | {"$defs": {"b": {"$id": "b", "$defs": {"c": {}}}}},
        {"$id": "urn:x:y", "$ref": "urn:x:y#/$defs/a", "$defs": {"a": {}}},
        {"$ref": "#/$defs/a%20b~1c%25", "$defs": {"a b/c%": True}},
        {"$ref": "#/x-own/0", "x-own": [{"$ref": "#/x-own/1"}, {"type": "object"}]},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$schema": DRAFT_7, "$ref": DRAFT_7},
        {"$schema": DRAFT_7, "definitions": {"a": {"$id": "#foo"}}, "allOf": [{"$ref": "#foo"}]},
        {"$schema": DRAFT_4, "id": "http://x.example/y", "items": {"$ref": "y#"}},
        {"$schema": DRAFT_2019, "$recursiveAnchor": True, "items": {"$recursiveRef": "#"}},
        TREE,
        {"$id": "https://x.example/strict", "$dynamicAnchor": "node", "$ref": "tree"}
        | {"unevaluatedProperties": False, "$defs": {"tree": TREE}},
        # What only looks like a reference, a pattern or an identifier.
        {"default": {"$ref": "#/none"}, "enum": [{"$ref": "https://evil.example/"}]},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"const": "("}}},
        {"allOf": [{"id": "https://x.example/", "$ref": "#/$defs/a"}], "$defs": {"a": {}}},
        {"pattern": "^[\\w-]{1,255}$", "patternProperties": {"^x-": {}}},
    ],
)
def test_what_can_be_applied_is_let_pass(schema: Schema) -> None:
    assert list(form_faults(schema)) == []
    compile_schema(schema)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"patternProperties": {"(": {}, "a/b(": {}}},
            ["/patternProperties/(", "/patternProperties/a~1b("],
        ),
        ({"$defs": {"unused": {"pattern": "(["}}}, ["/$defs/unused/pattern"]),
        ({"$defs": {"unused": {"$ref": "#/none"}}}, ["/$defs/unused/$ref"]),
        ({"$ref": "#none"}, ["/$ref"]),
        ({"$ref": "#/title", "title": "x"}, ["/$ref"]),
        ({"$ref": "#/enum/0", "enum": ["x"]}, ["/$ref"]),
        ({"$ref": "#/allOf/7", "allOf": [{}]}, ["/$ref"]),
        ({"$ref": "http://[/"}, ["/$ref"]),
        ({"items": {"$ref": "other.json"}}, ["/items/$ref"]),
        ({"$dynamicRef": "#none"}, ["/$dynamicRef"]),
        ({"$schema": DRAFT_7, "$ref": DRAFT_2019}, ["/$ref"]),
        ({"$ref": "https://json-schema.org/draft/none"}, ["/$ref"]),
        (
            {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}},
            ["/$defs/a/not/$ref"],
        ),
        # Found by the engine alone.
        ({"$schema": DRAFT_7, "definitions": {"a": {"$anchor": "f"}}, "not": {"$ref": "#f"}}, [""]),
        ({"$ref": "#/$defs/a b", "$defs": {"a b": {}}}, [""]),
    ],
)
def test_what_is_refused(schema: Schema, expected: list[str]) -> None:
    assert faults(schema) == expected


names = st.sampled_from(["a", "b", "c"])
references = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/$defs/c", "#/properties/a", "#b"])
schemas = st.recursive(
    st.one_of(
        st.booleans(),
        st.fixed_dictionaries({"$ref": references}),
        st.fixed_dictionaries({"$anchor": names}),
        st.fixed_dictionaries({"pattern": st.sampled_from(["a", "(", "(?=a)"])}),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"properties": st.dictionaries(names, inner)}),
        st.fixed_dictionaries({"items": inner}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=5,
)


@given(schemas, st.dictionaries(names, schemas), st.sampled_from([{}, {"a": [{"a": 1}]}, 1]))
def test_what_is_let_pass_is_never_refused_when_used(
    rule: Schema | bool, definitions: dict[str, Any], value: Any
) -> None:
    schema = {"$defs": definitions, "properties": {"a": rule}}
    if list(form_faults(schema)):
        return
    found = compile_schema(schema).evaluate(value)
    assert found.valid in (True, False)
