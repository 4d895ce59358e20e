"""Manifests that are made from the schema are valid, and the fullest lacks nothing."""

from __future__ import annotations

from typing import Any

from app.registry.manifest import validate
from app.registry.manifest_format import schema, whole
from tests.registry.generated import fullest, minimal, some


def members(rule: dict[str, Any]) -> set[str]:
    """Return the name of every member that a schema describes."""
    found = set(rule.get("properties", {}))
    for inner in rule.values():
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                found |= members(one)
    return found


def names(value: Any) -> set[str]:
    """Return the name of every member in a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = set(value) if isinstance(value, dict) else set()
    return own.union(*map(names, inner))


def test_every_manifest_that_is_made_is_valid() -> None:
    for seed in range(200):
        for document in (minimal(seed=seed), fullest(seed=seed), some("sample", "1.0.0", seed)):
            assert validate(document) == [], seed


def test_the_fullest_has_every_member_and_the_minimal_none_that_is_optional() -> None:
    known = members(schema()) - {"$ref_uri"}
    assert set.union(*(names(fullest(seed=seed)) for seed in range(20))) >= known
    optional = {"tags", "idempotent", "cost", "endpoint", "permissions", "requirements"}
    optional |= {"rate_limit", "schema_ref", "human_approval_actions", "provenance", "composition"}
    assert not names(minimal()) & optional


def test_a_whole_manifest_has_every_member_of_the_format() -> None:
    assert names(whole(minimal())) >= {"tags", "cost", "rate_limit", "requirements", "endpoint"}
    document = minimal()
    document["capabilities"][0]["input_schema"] = {"type": "object", "properties": {"a": {}}}
    assert whole(document)["capabilities"][0]["input_schema"] == {
        "type": "object",
        "properties": {"a": {}},
    }
    assert "tags" not in document["identity"]
