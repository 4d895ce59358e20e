"""Applying a JSON Schema, and what is said of a value that breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import jsonschema_rs

from app.json_values import token, walk

MAX_REPORTED = 100
"""At most this many violations are reported of one value."""

MAX_DETAIL = 300
"""A sentence of what was expected is cut here: a rule may be as long as its author likes."""

MAX_SHOWN = 50

Finding = tuple[str, str, str]
"""The pointer of what is at fault, a code, and a sentence that says what was expected."""

UNUSABLE = (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError)
"""What ``compile_schema`` raises for a schema that cannot be applied."""

# The texts name the rule and never the value found, which may be a secret or very long.
_EXPECTED = {
    "required": "This member is required.",
    "dependentRequired": "This member is required beside others that are there.",
    "dependencies": "This member is required beside others that are there.",
    "additionalProperties": "This member is not part of the format; remove it.",
    "unevaluatedProperties": "This member is not part of the format; remove it.",
    "unevaluatedItems": "This item is not part of the format; remove it.",
    "additionalItems": "Must have no further items.",
    "propertyNames": "Must have a name that the schema's propertyNames allows.",
    "type": "Must be of type {}.",
    "enum": "Must be one of {}.",
    "const": "Must be {}.",
    "minimum": "Must be at least {}.",
    "maximum": "Must be at most {}.",
    "exclusiveMinimum": "Must be more than {}.",
    "exclusiveMaximum": "Must be less than {}.",
    "multipleOf": "Must be a multiple of {}.",
    "minLength": "Must have at least {} character(s).",
    "maxLength": "Must have at most {} character(s).",
    "minItems": "Must have at least {} item(s).",
    "maxItems": "Must have at most {} item(s).",
    "minProperties": "Must have at least {} member(s).",
    "maxProperties": "Must have at most {} member(s).",
    "uniqueItems": "Must not repeat an item.",
    "contains": "Must have as many items of the form of contains as the schema demands.",
    "oneOf": "Must match exactly one of the schemas of oneOf.",
    "not": "Must not match the schema of not.",
    "pattern": "Must match the regular expression {}.",
    "format": "Must have the format {}.",
}
_ABSENT = "Must be absent in this combination; remove it."
_REQUIRED = " is a required property"
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def compile_schema(schema: Any) -> Any:
    """Return a validator: nothing is fetched, ``format`` is an annotation (JSON Schema 2020-12).

    Patterns run in time linear in the text: there is no look-around and no back reference. Raises
    one of ``UNUSABLE``.
    """
    return jsonschema_rs.validator_for(
        schema,
        validate_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def snake_case(keyword: str) -> str:
    """Return the code of a keyword's violations: ``max_length`` for ``maxLength``."""
    return re.sub(r"(?=[A-Z])", "_", keyword).lower()


def resolve(document: Any, tokens: list[str]) -> Any:
    """Return the value that the tokens of a JSON Pointer lead to (RFC 6901 section 4).

    Raises ``LookupError``, ``TypeError`` and ``ValueError`` where there is none.
    """
    for name in tokens:
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def tokens_of(pointer: str) -> list[str]:
    """Return the reference tokens of a JSON Pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


class Judge:
    """A schema that values are held to; ``validator`` is compiled of it."""

    def __init__(self, schema: Any, validator: Any) -> None:
        self._schema = schema
        self._validator = validator
        self._resources: dict[str, Any] | None = None

    def findings(self, value: Any) -> Iterator[Finding]:
        """Yield what a value breaks: of a member that is missing or not allowed, that member.

        The errors come from ``evaluate``: ``iter_errors`` takes time quadratic in their number, and
        its paths turn a member named 007 into 7.
        """
        for error in self._validator.evaluate(value).errors():
            yield from self._of(value, error)

    def _of(self, value: Any, error: dict[str, str]) -> Iterator[Finding]:
        at, message = error["instanceLocation"], error["error"]
        uri, tokens = _split(error["schemaLocation"])
        # What depends on members is counted after the keyword.
        counted = len(tokens) > 1 and tokens[-1].isdecimal() and tokens[-2].startswith("depend")
        keyword = tokens[-2] if counted else tokens[-1] if tokens else ""
        if message.endswith(_REQUIRED):
            # The engine joins required with a closed object's additionalProperties.
            name = json.loads(message.removesuffix(_REQUIRED))
            if keyword.startswith("depend"):
                yield f"{at}/{token(name)}", snake_case(keyword), _EXPECTED[keyword]
            else:
                yield f"{at}/{token(name)}", "required", self._missing(name, uri, tokens)
        elif keyword == "additionalProperties":
            for name in self._unknown(value, at, uri, tokens[:-1]):
                yield f"{at}/{token(name)}", snake_case(keyword), _EXPECTED[keyword]
        elif keyword.startswith("unevaluated"):
            # Reported once of the whole, which says nothing of where, and then of each.
            if not message.startswith("Unevaluated"):
                yield at, snake_case(keyword), _EXPECTED[keyword]
        elif _is_of_name(tokens):
            yield _named(value, at, message), "property_names", _EXPECTED["propertyNames"]
        elif message.startswith("False schema does not allow"):
            yield at, "false_schema", _ABSENT
        else:
            yield at, snake_case(keyword) or "schema", self._expected(keyword, uri, tokens)

    def _missing(self, name: str, uri: str, tokens: list[str]) -> str:
        """Say of the member ``name`` that the rule at ``tokens`` requires it."""
        return _EXPECTED["required"]

    def _expected(self, keyword: str, uri: str, tokens: list[str]) -> str:
        text = _EXPECTED.get(keyword, f"Must follow the schema's rule {keyword}.")
        rule = self._rule(uri, tokens)
        if "{}" not in text:
            return text
        values = rule if isinstance(rule, list) else [rule]
        shown = ", ".join(map(json.dumps, values[:MAX_SHOWN]))
        return text.format(shown + ", ..." if len(values) > MAX_SHOWN else shown)[:MAX_DETAIL]

    def _unknown(self, value: Any, at: str, uri: str, parent: list[str]) -> Iterator[str]:
        """Yield the members that a closed object does not know, in their order."""
        schema = self._rule(uri, parent)
        known, patterns = schema.get("properties", {}), schema.get("patternProperties")
        matcher = compile_schema(
            {
                "patternProperties": dict.fromkeys(patterns or (), True),
                "additionalProperties": False,
            }
        )
        for name in resolve(value, tokens_of(at)):
            if name not in known and not (patterns and matcher.is_valid({name: None})):
                yield name

    def _rule(self, uri: str, tokens: list[str]) -> Any:
        if uri and self._resources is None:
            self._resources = _resources(self._schema)
        return resolve((self._resources or {}).get(uri, self._schema), tokens)


def _split(location: str) -> tuple[str, list[str]]:
    """Return the resource and the tokens of a place in a schema."""
    if location.startswith("/") or not location:
        return "", tokens_of(location)
    uri, _, pointer = location.partition("#")
    return uri, tokens_of(pointer)


def _resources(schema: Any) -> dict[str, Any]:
    """Return every part of a schema that has an identifier of its own."""
    found: dict[str, Any] = {}
    bases: dict[Any, str] = {}
    for _, place, part in walk(schema, 200):
        base = bases.get(place[0], "") if place else ""
        if isinstance(part, dict):
            given = part.get("$id", part.get("id"))
            if isinstance(given, str) and not given.startswith("#"):
                base = urljoin(base, given).removesuffix("#")
                found[base] = part
        bases[place] = base
    return found


def _is_of_name(tokens: list[str]) -> bool:
    """Tell whether a place in a schema is about the names of members."""
    return any(
        name == "propertyNames" and (index == 0 or tokens[index - 1] not in _MAPS)
        for index, name in enumerate(tokens)
    )


def _named(value: Any, at: str, message: str) -> str:
    """Return the pointer of the member whose name is at fault, which the message begins with."""
    try:
        name, _ = json.JSONDecoder().raw_decode(message)
    except ValueError:
        return at
    known = isinstance(name, str) and name in resolve(value, tokens_of(at))
    return f"{at}/{token(name)}" if known else at
