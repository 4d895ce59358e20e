"""Validation of agent manifests, format 0.1.

A manifest is held against the JSON Schema shipped beside this module, the meta-schemas of the JSON
Schemas its capabilities carry, and the rules no schema can express: unique capability ids and no
inline secrets. All violations are reported at once. Nothing is ever fetched from the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice
from typing import Any

import jsonschema_rs

from app.canonical import Canonical
from app.json_values import pointer_to, token, walk

MAX_REPORTED = 100
"""At most this many violations are reported for one manifest."""

MAX_DEPTH = 200
"""The deepest nesting that a service can be told to read; nothing below it is looked at."""

_SOURCE = resources.files(__package__).joinpath("manifest-0.1.schema.json").read_text("utf-8")


def schema() -> dict[str, Any]:
    """Return a fresh copy of the JSON Schema (Draft 2020-12) of manifest 0.1."""
    document: dict[str, Any] = json.loads(_SOURCE)
    return document


_SCHEMA = schema()
MAX_CAPABILITIES: int = _SCHEMA["properties"]["capabilities"]["maxItems"]
"""A manifest declares at most this many capabilities."""

# Patterns run on an engine whose time is linear in the text, and references are never fetched.
_MANIFEST = jsonschema_rs.Draft202012Validator(
    _SCHEMA,
    validate_formats=True,
    pattern_options=jsonschema_rs.RegexOptions(),
    offline=True,
)

_DEFAULT_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS = {
    draft: jsonschema_rs.validator_for(
        {"$schema": draft, "$ref": draft}, validate_formats=False, offline=True
    )
    for draft in (
        _DEFAULT_DRAFT,
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema",
    )
}

# The texts name the rule and never the value found, which may be a secret or very long.
_EXPECTED = {
    "required": "This member is required.",
    "additionalProperties": "This member is not part of the format; remove it.",
    "type": "Must be of type {}.",
    "enum": "Must be one of {}.",
    "const": "Must be {}.",
    "minimum": "Must be at least {}.",
    "maximum": "Must be at most {}.",
    "minLength": "Must have at least {} character(s).",
    "maxLength": "Must have at most {} character(s).",
    "minItems": "Must have at least {} item(s).",
    "maxItems": "Must have at most {} item(s).",
    "uniqueItems": "Must not repeat an item.",
    "pattern": "Must match the regular expression {}.",
    "format": "Must have the format {}.",
}

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SECRET_WORD = re.compile(
    r"(?:secret|token|pass(?:word|wd|phrase)|(?:api|private|access|secret)_?key)(s?)(?![a-z])"
)
# The pointer, the code and the detail of a violation.
_Finding = tuple[str, str, str]


@dataclass(frozen=True)
class Violation:
    """One rule a manifest breaks.

    ``pointer`` is the JSON Pointer (RFC 6901) of the value at fault from the manifest's root, or of
    the member that is missing. ``code`` is a stable word, mostly the JSON Schema keyword in snake
    case. ``detail`` is a sentence that says what was expected.
    """

    pointer: str
    code: str
    detail: str


def validate(manifest: object) -> list[Violation]:
    """Return every rule a JSON value breaks as a manifest, ordered by pointer.

    The value is one that ``app.http.json_body`` let pass: nested within limits, with text and
    numbers that can be stored. Returns at most ``MAX_REPORTED`` violations and raises nothing.
    """
    # A further violation of a kind would not be reported, however many there are.
    findings = chain.from_iterable(
        islice(kind(manifest), MAX_REPORTED)
        for kind in (_schema_findings, _capability_findings, _inline_secrets)
    )
    found: dict[tuple[str, str], str] = {}
    for pointer, code, detail in findings:
        found.setdefault((pointer, code), detail)
    ordered = sorted(found, key=lambda key: (_document_order(key[0]), key[1]))
    return [Violation(*key, found[key]) for key in ordered[:MAX_REPORTED]]


def too_large(manifest: Canonical, limit: int) -> dict[str, str]:
    """Return what is wrong with a manifest that has more than ``limit`` bytes: code and detail."""
    return {
        "code": "too_large",
        "detail": f"expected at most {limit} bytes in canonical form (RFC 8785),"
        f" not {len(manifest.encoded)}",
    }


def _document_order(pointer: str) -> list[tuple[int, str]]:
    """Sort members by name, and items by index: 2 before 10."""
    return [(len(part) if part.isdecimal() else 0, part) for part in pointer.split("/")]


def _child(parent: str, name: str | int) -> str:
    """Extend a JSON Pointer."""
    return f"{parent}/{token(name)}"


def _resolve(document: Any, path: str) -> Any:
    """Return the value a JSON Pointer leads to (RFC 6901 section 4)."""
    for part in path.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def _schema_findings(manifest: object) -> Iterator[_Finding]:
    """Hold the manifest against its schema; for a missing or unknown member, name the member.

    The errors come from ``evaluate``: the paths of ``iter_errors`` turn a member named 007 into 7.
    """
    for error in _MANIFEST.evaluate(manifest).errors():
        pointer = error["instanceLocation"]
        location = error["schemaLocation"].partition("#")[2]
        parent, _, keyword = location.rpartition("/")
        rule = _resolve(_SCHEMA, location)
        code = re.sub(r"(?=[A-Z])", "_", keyword).lower()
        if rule is False and keyword != "additionalProperties":
            yield pointer, "false_schema", "Must be absent in this combination; remove it."
        elif keyword == "required":
            for name in rule:
                if name not in _resolve(manifest, pointer):
                    yield _child(pointer, name), code, _EXPECTED[keyword]
        elif keyword == "additionalProperties":
            known = _resolve(_SCHEMA, parent)["properties"]
            for name in sorted(_resolve(manifest, pointer).keys() - known):
                yield _child(pointer, name), code, _EXPECTED[keyword]
        else:
            values = rule if isinstance(rule, list) else [rule]
            yield pointer, code, _EXPECTED[keyword].format(", ".join(map(json.dumps, values)))


def _capability_findings(manifest: object) -> Iterator[_Finding]:
    """Check what the schema cannot: that ids are unique, and the schemas capabilities carry."""
    capabilities = manifest.get("capabilities") if isinstance(manifest, dict) else None
    seen: set[str] = set()
    for index, capability in enumerate(capabilities if isinstance(capabilities, list) else ()):
        if not isinstance(capability, dict):
            continue
        pointer = f"/capabilities/{index}"
        capability_id = capability.get("id")
        if isinstance(capability_id, str):
            if capability_id in seen:
                detail = "Must differ from the ids of the capabilities before it."
                yield f"{pointer}/id", "duplicate_capability_id", detail
            seen.add(capability_id)
        for member in ("input_schema", "output_schema"):
            inline = capability.get(member)
            if isinstance(inline, dict):
                for inner, detail in _inline_schema_faults(inline):
                    yield f"{pointer}/{member}{inner}", "invalid_json_schema", detail


def _inline_schema_faults(inline: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Hold an inline schema against the meta-schema of the draft it names.

    ``jsonschema_rs.meta`` is no help here: it fetches a meta-schema it does not know, and it stops
    at the first error.
    """
    draft = inline.get("$schema", _DEFAULT_DRAFT)
    validator = _DRAFTS.get(draft.removesuffix("#")) if isinstance(draft, str) else None
    if validator is None:
        yield "/$schema", f"Must be a known draft of JSON Schema: {', '.join(_DRAFTS)}."
        return
    for error in validator.evaluate(inline).errors():
        keyword = error["schemaLocation"].rpartition("/")[2]
        detail = f"Must be valid JSON Schema; the meta-schema's rule {keyword} is broken here."
        yield error["instanceLocation"], detail


def _inline_secrets(manifest: object) -> Iterator[_Finding]:
    detail = "Must not hold a secret; name where it is kept in a member whose name ends in _ref."
    for _, place, value in walk(manifest, MAX_DEPTH):
        name = place[1] if place else None
        if isinstance(name, str) and _is_inline_secret(name, value):
            yield pointer_to(place), "inline_secret", detail


def _is_inline_secret(name: str, value: object) -> bool:
    """Say whether a member has the name of a secret and a value that could be one.

    An object is a description (``properties: {token: {...}}``), and so is a list without text. A
    plural with a number, such as ``max_tokens``, counts secrets or tokens and holds none.
    """
    if name.endswith("_ref") or isinstance(value, dict):
        return False
    if isinstance(value, list) and not any(isinstance(item, str) for item in value):
        return False
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name)
    endings = _SECRET_WORD.findall(f"{plain} {_WORD_START.sub('_', plain)}".lower())
    return "" in endings or ("s" in endings and isinstance(value, str | list))
