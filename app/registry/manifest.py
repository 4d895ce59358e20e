"""Validation of agent manifests, format 0.1.

A manifest is held against the JSON Schema shipped beside this module, the meta-schemas of the JSON
Schemas its capabilities carry, and the rules no schema can express: unique capability ids and no
inline secrets. All violations are reported at once. Nothing is ever fetched from the network. What
else the capabilities' schemas may not be is found by ``app.json_schema.form``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import jsonschema_rs

from app.canonical import Canonical
from app.json_schema.evaluation import MAX_REPORTED as MAX_REPORTED
from app.json_schema.evaluation import Finding, Judge
from app.json_values import pointer_to, walk
from app.plain_text import text_fault
from app.registry.inline_secrets import holds_secret
from app.registry.manifest_format import MAX_ITEMS, fill, in_words, resolved, schema

MAX_DEPTH = 200
"""The deepest nesting that a service can be told to read; nothing below it is looked at."""

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


class _ManifestJudge(Judge):
    """Says in words what a member is expected to be, where a pattern or a format would not."""

    def _expected(self, keyword: str, uri: str, tokens: list[str]) -> str:
        rule = self._rule(uri, tokens[:-1])
        # A condition has no type; what it demands is in its description.
        is_described = "description" in rule and "type" not in rule
        if keyword in ("pattern", "format") or is_described:
            return f"Must be {in_words(rule)}."
        return super()._expected(keyword, uri, tokens)

    def _missing(self, name: str, uri: str, tokens: list[str]) -> str:
        known = self._rule(uri, tokens[:-1]).get("properties", {})
        return _missing(known[name]) if name in known else super()._missing(name, uri, tokens)


def _missing(rule: dict[str, Any]) -> str:
    return f"This member is required: {in_words(rule)}."


_JUDGE = _ManifestJudge(_SCHEMA, _MANIFEST)
# Every name of a member that the format knows, wherever.
_NAMES = frozenset(
    name
    for _, place, value in walk(_SCHEMA, MAX_DEPTH)
    if place and place[1] == "properties"
    for name in value
)
_MAY_BE_AT_FAULT = re.compile(
    r'"(\$(ref|dynamicRef|recursiveRef|id|anchor|dynamicAnchor)|pattern|patternProperties)": '
    r'|"\$schema": .*"\$schema": |draft-04',
    re.DOTALL,
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

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_IN_SCHEMA = re.compile("/capabilities/[0-9]+/(input|output)_schema/")


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
    numbers that can be stored. Members that have defaults may be missing. Returns at most
    ``MAX_REPORTED`` violations and raises nothing.
    """
    # A further violation of a kind would not be reported, however many there are.
    findings = chain.from_iterable(
        islice(kind(manifest), MAX_REPORTED)
        for kind in (_schema_findings, _capability_findings, _inline_secrets)
    )
    found: dict[tuple[str, str], str] = {}
    for pointer, code, detail in findings:
        found.setdefault((pointer, code), detail)
    # What else is wrong with a text, or with what holds it, says enough of it.
    known = {pointer for pointer, _ in found}
    texts = (text for text in _text_findings(manifest) if known.isdisjoint(_way_to(text[0])))
    for pointer, code, detail in islice(texts, MAX_REPORTED):
        found[pointer, code] = detail
    ordered = sorted(found, key=lambda key: (_document_order(key[0]), key[1]))
    return [Violation(*key, found[key]) for key in ordered[:MAX_REPORTED]]


def _way_to(pointer: str) -> Iterator[str]:
    """Yield a JSON Pointer and those of everything that holds the value."""
    while pointer:
        yield pointer
        pointer = pointer.rpartition("/")[0]
    yield pointer


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


def _schema_findings(manifest: object) -> Iterator[Finding]:
    """Hold the manifest against its schema; for a missing or unknown member, name the member.

    What is required below a missing object is reported with it, so that nobody has to try again to
    learn of it.
    """
    if _MANIFEST.is_valid(manifest):
        return
    missing: dict[str, str] = {}
    whole = _with_missing(_SCHEMA, fill(_SCHEMA, _cut(manifest)), "", missing)
    for pointer, detail in missing.items():
        yield pointer, "required", detail
    # The objects that were put where some are missing have defaults, too.
    yield from _JUDGE.findings(fill(_SCHEMA, whole))


def _with_missing(rule: dict[str, Any], value: Any, at: str, missing: dict[str, str]) -> Any:
    """Return a value with empty objects where objects, or lists of them, are missing.

    ``missing`` gets the pointer of each, with the sentence that says so.
    """
    rule = resolved(rule)
    if isinstance(value, list):
        below = rule.get("items", {})
        return [
            _with_missing(below, item, f"{at}/{index}", missing) for index, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    known = rule.get("properties", {})
    filled = dict(value)
    for name in rule.get("required", ()):
        empty = _empty(known.get(name, {})) if name not in value else None
        if empty is not None:
            filled[name] = empty
            missing[f"{at}/{name}"] = _missing(known[name])
    for name in known.keys() & filled.keys():
        filled[name] = _with_missing(known[name], filled[name], f"{at}/{name}", missing)
    return filled


def _empty(rule: dict[str, Any]) -> Any:
    """Return an object without members, or a list of one; None for what is neither."""
    rule = resolved(rule)
    if rule.get("type") == "object":
        return {}
    is_list_of_objects = resolved(rule.get("items", {})).get("type") == "object"
    return [{}] if is_list_of_objects else None


def _cut(value: Any) -> Any:
    """Return a value of the manifest without what lies beyond the violations that are reported.

    What is left of a list is still too long; the members that the format knows all stay.
    """
    if isinstance(value, list):
        return [_cut(item) for item in value[: MAX_ITEMS + 1]]
    if not isinstance(value, dict):
        return value
    unknown = islice((name for name in value if name not in _NAMES), MAX_REPORTED)
    return {name: _cut(value[name]) for name in chain(_NAMES & value.keys(), unknown)}


def capability_schemas(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the schemas of a valid manifest's capabilities that may be at fault in their form.

    Each comes as JSON text, with its pointer. What refers to nothing, has no pattern and names
    nothing by an identifier is valid once it is valid by its meta-schema.
    """
    for index, capability in enumerate(manifest["capabilities"]):
        for member in ("input_schema", "output_schema"):
            schema = capability[member]
            text = json.dumps(schema)
            if "$ref_uri" not in schema and _MAY_BE_AT_FAULT.search(text):
                yield f"/capabilities/{index}/{member}", text


def _capability_findings(manifest: object) -> Iterator[Finding]:
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
    if validator.is_valid(inline):
        return
    for error in validator.evaluate(inline).errors():
        yield error["instanceLocation"], _expected_by_meta_schema(error)


def _expected_by_meta_schema(error: Mapping[str, Any]) -> str:
    """Say what a meta-schema expects; the message begins with the value, which is not repeated."""
    if re.search("/type(/[0-9]+)?$", error["instanceLocation"]):
        return f"Must be a type of JSON Schema: {', '.join(_TYPES)}, or a list of these."
    kinds = re.search(r" is not of types? ((?:\"[a-z]+\"(?:, )?)+)$", error["error"])
    if kinds is not None:
        return f"Must be of type {kinds[1]}, as JSON Schema demands of this keyword."
    keyword = error["schemaLocation"].rpartition("/")[2]
    return f"Must be valid JSON Schema; its own rule {keyword} is broken here."


def _inline_secrets(manifest: object) -> Iterator[Finding]:
    detail = "Must not hold a secret; name where it is kept in a member whose name ends in _ref."
    for _, place, value in walk(manifest, MAX_DEPTH):
        if holds_secret(place, value):
            yield pointer_to(place), "inline_secret", detail


# Members of a schema that people read; all other text in a schema is data.
_SCHEMA_TEXT = ("title", "description", "$comment")


def _text_findings(manifest: object) -> Iterator[Finding]:
    """Check that text shows something and hides nothing; a description may have several lines.

    In the schemas of capabilities that is what people read of them, and it may be blank.
    """
    for _, place, value in walk(manifest, MAX_DEPTH):
        if not isinstance(value, str) or value == "":
            continue
        name = place[1] if place else None
        fault = text_fault(value, lines=name == "description")
        if fault is None:
            continue
        pointer = pointer_to(place)
        if _IN_SCHEMA.match(pointer):
            if name not in _SCHEMA_TEXT:
                continue
            fault = text_fault(value, lines=True, may_be_blank=True)
        if fault is not None:
            yield pointer, *fault
