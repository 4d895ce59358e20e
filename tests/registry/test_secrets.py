"""Secrets in a manifest are refused by their names and by their forms, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from app.registry import manifest as rules
from tests.registry.manifests import build_manifest

SCHEMA = "/capabilities/0/input_schema"
SECRET_PROPERTIES = ("api_key", "password", "token", "clientSecret", "private-key", "access_token")
HARMLESS_DATA: list[dict[str, Any]] = [
    {"token_limit": 5},
    {"max_tokens": 4096},
    {"max_token": 4096},
    {"tokens_per_minute": 90_000},
    {"token_cost_usd": 0.002},
    {"token_window": 8192},
    {"token_required": True},
    {"tokenLimit": 5},
    {"password_min_length": 12},
    {"password_attempts": 3},
    {"secret_rotation_days": 30},
    {"api_key_rotation_days": 90},
    {"has_password": False},
    {"requires_api_key": True},
    {"use_token": True},
    {"token_expires": None},
    {"token_type": "bearer"},
    {"token_url": "https://id.example.com/token"},
    {"tokenEndpoint": "https://id.example.com/token"},
    {"password_policy": "at least twelve characters"},
    {"api_key_header": "X-Api-Key"},
    {"secret_name": "erp"},
    {"secretary": "Ada"},
    {"tokenizer": "cl100k"},
    {"tokenization": "words"},
    {"passage": "x"},
    {"keyboard": "qwerty"},
]
SECRET_DATA: list[dict[str, Any]] = [
    {"token": "x"},
    {"token": 5},
    {"api_key": "x"},
    {"api_key_prod": "x"},
    {"tokens": ["x"]},
    {"password": 123456},
    {"old_password": "x"},
    {"passwordValue": "x"},
]
# In parts, so that this file holds none.
SHAPES = [
    "AKIA" + "IOSFODNN7" + "EXAMPLE",
    "ASIA" + "ABCDEFGHIJKLMNOP",
    "ghp_" + "a1B2" * 9,
    "gho_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" + "abcdefghijkl",
    "glpat-" + "abcDEF123456_-abcDEF",
    "xoxb-" + "123456789012-abcdef",
    "sk_live_" + "4eC39HqLyjWDarjt",
    "sk-" + "proj-Abc123Def456Ghi789Jkl",
    "sk-" + "ant-api03-AbcDef0123456789AbcDef",
    "npm_" + "a1B2" * 9,
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "-----BEGIN " + "PRIVATE KEY-----",
    "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE",
    "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "ah_" + "0123456789abcdef_" + "A" * 43,
]
NO_SHAPES = [
    "risk-assessment-of-suppliers-2026-Q4",
    "task-Runner-for-the-month-of-May-2026",
    "sk-learn classifier of documents",
    "sk-loading-spinner-container-large",
    "AKIA is how keys of AWS begin",
    "ghp_ is how tokens begin",
    "-----BEGIN PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "^AKIA[0-9A-Z]{16}$",
    "eyJ is the beginning of a JWT.",
    "sha256:" + "0f" * 32,
    "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10",
    "https://agents.example.com/token?limit=5",
    "Bearer token of the caller",
]


def with_schema(**members: Any) -> dict[str, Any]:
    """Return a manifest whose capability's input schema has further members."""
    manifest = build_manifest()
    manifest["capabilities"][0]["input_schema"] |= members
    return manifest


def found(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where the manifest breaks which rule."""
    return [(one.pointer, one.code) for one in rules.validate(manifest)]


@pytest.mark.parametrize("data", HARMLESS_DATA, ids=repr)
def test_no_false_alarm(data: dict[str, Any]) -> None:
    assert found(with_schema(default=data)) == []
    ((name, value),) = data.items()
    assert found(with_schema(properties={name: {"default": value, "enum": [value]}})) == []
    assert found(with_schema(properties={name: {"const": value}})) == []


@pytest.mark.parametrize("data", SECRET_DATA, ids=repr)
def test_data_with_the_name_of_a_secret(data: dict[str, Any]) -> None:
    (name,) = data
    for keyword, below in (("default", data), ("const", data), ("examples", [data])):
        index = "/0" if keyword == "examples" else ""
        assert found(with_schema(**{keyword: below})) == [
            (f"{SCHEMA}/{keyword}{index}/{name}", "inline_secret")
        ]


@pytest.mark.parametrize("name", SECRET_PROPERTIES)
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("default", "hunter2"),
        ("const", "hunter2"),
        ("enum", ["hunter2"]),
        ("enum", [None, "hunter2"]),
        ("examples", ["hunter2"]),
        ("default", 12345),
    ],
)
def test_values_in_the_schema_of_a_property_named_like_a_secret(
    name: str, keyword: str, value: object
) -> None:
    schema = {"type": ["string", "integer"], keyword: value}
    for below, path in (
        (schema, ""),
        ({"anyOf": [{"type": "null"}, schema]}, "/anyOf/1"),
        ({"items": schema}, "/items"),
        ({"allOf": [{"if": True, "then": schema}]}, "/allOf/0/then"),
    ):
        where = f"{SCHEMA}/properties/{name}{path}/{keyword}"
        assert found(with_schema(properties={name: below})) == [(where, "inline_secret")]
    definitions = with_schema(**{"$defs": {name: schema}})
    assert found(definitions) == [(f"{SCHEMA}/$defs/{name}/{keyword}", "inline_secret")]


@pytest.mark.parametrize("name", SECRET_PROPERTIES)
def test_a_property_named_like_a_secret_is_described(name: str) -> None:
    for schema in (
        True,
        {"type": "string", "minLength": 20, "description": "Sent in a header.", "title": "Key"},
        {"type": "string", "default": ""},
        {"type": ["string", "null"], "default": None},
        {"type": "boolean", "default": True},
        {"type": "string", "pattern": "^[a-z]{20}$", "format": "password"},
        {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}},
    ):
        assert found(with_schema(properties={name: schema})) == []
    assert found(with_schema(dependentRequired={name: ["locale"]}, required=[name])) == []
    assert found(with_schema(properties={f"{name}_ref": {"default": "vault://x"}})) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_values_that_are_secrets_by_their_form(shape: str) -> None:
    for text in (shape, f"key={shape} and more", f"({shape})"):
        manifest = build_manifest()
        manifest["identity"]["description"] = f"Reads invoices. {text}".replace("\n", " ")
        assert found(manifest) == [("/identity/description", "inline_secret")]
        where = f"{SCHEMA}/properties/locale/description"
        schema = {"locale": {"type": "string", "description": text}}
        assert found(with_schema(properties=schema)) == [(where, "inline_secret")]
        assert found(with_schema(enum=["a", text])) == [(f"{SCHEMA}/enum/1", "inline_secret")]


@pytest.mark.parametrize("text", NO_SHAPES)
def test_forms_that_are_none(text: str) -> None:
    assert found(with_schema(description=text, examples=[text])) == []


@pytest.mark.parametrize("unit", ["eyJ", "eyJ-", "-eyJ", "sk-", "eyJabcdefghij.", "-----BEGIN A "])
def test_looking_for_forms_takes_time_linear_in_the_text(unit: str) -> None:
    def seconds(length: int) -> float:
        manifest = with_schema(description=unit * (length // len(unit)))
        begun = time.process_time()
        rules.validate(manifest)
        return time.process_time() - begun

    # Quadratic it would be a thousand times as long.
    assert seconds(300_000) < 1000 * max(seconds(1000), 0.001)


def test_a_refusal_does_not_repeat_the_secret() -> None:
    manifest = with_schema(properties={"password": {"default": "hunter2"}})
    assert "hunter2" not in repr(rules.validate(manifest))
