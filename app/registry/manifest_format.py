"""Manifest format 0.1: its JSON Schema, what it expects in words, and its defaults.

The defaults stand in the schema: a member's ``default``, or its ``const`` where only one value is
allowed. An object whose members all have defaults may be left out as a whole.
"""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

MAX_ITEMS = 200
"""No list of the format has more items."""

_NONE = object()
_WITH_SIDE_EFFECTS = ("low", "high")

_SOURCE = resources.files(__package__).joinpath("manifest-0.1.schema.json").read_text("utf-8")


def schema() -> dict[str, Any]:
    """Return a fresh copy of the JSON Schema (Draft 2020-12) of manifest 0.1."""
    document: dict[str, Any] = json.loads(_SOURCE)
    return document


_SCHEMA = schema()


def resolved(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule of the manifest's schema with the one that it refers to.

    The description is that of the latter, which tells the form.
    """
    named = _SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else {}
    return {**rule, **named}


def in_words(rule: dict[str, Any]) -> str:
    """Say what a rule of the manifest's schema expects, to follow "expected" or "must be"."""
    rule = resolved(rule)
    kind = rule.get("type")
    if "const" in rule:
        return json.dumps(rule["const"])
    if "enum" in rule:
        return f"one of {', '.join(map(json.dumps, rule['enum']))}"
    if "pattern" in rule or "format" in rule or kind is None:
        description: str = rule.get("description", "a value")
        return (description[0].lower() + description[1:]).removesuffix(".")
    if kind == "object":
        return "an object"
    if kind == "array":
        each = (
            "" if "properties" in resolved(rule["items"]) else f", each {in_words(rule['items'])}"
        )
        return f"a list of {_range(rule, 'Items')} items{each}"
    if kind == "string":
        return f"text of {_range(rule, 'Length')} characters"
    if kind == "boolean":
        return "true or false"
    number = "a whole number" if kind == "integer" else "a number"
    return f"{number} from {rule['minimum']} to {rule['maximum']}"


def _range(rule: dict[str, Any], of: str) -> str:
    least, most = rule.get(f"min{of}", 0), rule.get(f"max{of}")
    return f"at least {least}" if most is None else f"{least} to {most}"


def complete(manifest: object) -> object:
    """Return a manifest with the members that it leaves out; the one given is not changed.

    A manifest that has every member the format demands is returned as it is, so that its bytes and
    its digest stay. Any JSON value is taken: what is no manifest is left to ``validate``.
    """
    if fill(_SCHEMA, manifest) is manifest:
        return manifest
    return fill(_SCHEMA, manifest, optional=True)


def request_schema() -> dict[str, Any]:
    """Return the JSON Schema of what may be sent: members that have a default are not required."""
    found: dict[str, Any] = _relaxed(_SCHEMA)
    return found


def _relaxed(value: Any) -> Any:
    """Return a copy of a part of the schema whose objects require only what has no default."""
    if isinstance(value, list):
        return [_relaxed(item) for item in value]
    if not isinstance(value, dict):
        return value
    relaxed = {name: _relaxed(inner) for name, inner in value.items()}
    # What is required under a condition adds to a closed object and has no default.
    if "required" in value and "patternProperties" in value:
        known = value["properties"]
        demanded = [name for name in value["required"] if _default(known[name]) is _NONE]
        relaxed["required"] = demanded
        if not demanded:
            del relaxed["required"]
    return relaxed


def _default(rule: dict[str, Any]) -> Any:
    """Return the value of a member that is left out; ``_NONE`` if it has to be given."""
    rule = resolved(rule)
    for keyword in ("default", "const"):
        if keyword in rule:
            return copy.deepcopy(rule[keyword])
    if "properties" not in rule or not rule.get("required"):
        return _NONE
    members = {name: _default(rule["properties"][name]) for name in rule["required"]}
    return _NONE if any(value is _NONE for value in members.values()) else members


def fill(rule: dict[str, Any], value: Any, *, optional: bool = False) -> Any:
    """Return a value with the members that its rule demands and that have defaults.

    With ``optional``, other members that have a default are filled in, too. The value itself is
    returned if nothing is missing.
    """
    rule = resolved(rule)
    if isinstance(value, dict) and "properties" in rule:
        return _fill_object(rule, value, optional=optional)
    if isinstance(value, list) and "items" in rule and len(value) <= MAX_ITEMS:
        items = [fill(rule["items"], item, optional=optional) for item in value]
        is_same = all(new is old for new, old in zip(items, value, strict=True))
        return value if is_same else items
    return value


def _fill_object(rule: dict[str, Any], value: dict[str, Any], *, optional: bool) -> dict[str, Any]:
    known: dict[str, Any] = rule["properties"]
    filled = dict(value)
    for name in known if optional else rule.get("required", ()):
        if name in value:
            continue
        if name == "idempotency_key_required":
            default: Any = value.get("side_effect_level") in _WITH_SIDE_EFFECTS
        else:
            is_demanded = name in rule.get("required", ()) or "default" in known[name]
            default = _default(known[name]) if is_demanded else _NONE
        if default is not _NONE:
            filled[name] = default
    for name in known.keys() & value.keys():
        filled[name] = fill(known[name], value[name], optional=optional)
    is_same = len(filled) == len(value) and all(filled[name] is value[name] for name in value)
    return value if is_same else filled


def whole(manifest: Any) -> Any:
    """Return a manifest in which each optional member that is absent is None.

    A template can then read whatever the format knows, and still fails on a name that it does not.
    What the format does not describe, such as the schemas of capabilities, stays as it is.
    """
    return _whole(_SCHEMA, manifest)


def _whole(rule: dict[str, Any], value: Any) -> Any:
    rule = resolved(rule)
    if isinstance(value, dict) and "properties" in rule:
        known = rule["properties"]
        return dict.fromkeys(known) | {
            name: _whole(known.get(name, {}), member) for name, member in value.items()
        }
    if isinstance(value, list) and "items" in rule:
        return [_whole(rule["items"], item) for item in value]
    return value
