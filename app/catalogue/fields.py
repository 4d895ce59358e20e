"""JSON Schemas as tables and examples, for people who want to call a capability.

The schemas come from publishers. Whatever is valid JSON Schema is shown, as far as a reader can use
it: so many rows, so deep, and never more text than fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

MAX_ROWS, MAX_DEPTH, MAX_TEXT, MAX_CHOICES = 40, 4, 240, 8
# A schema that refers to itself describes far more values than it has bytes.
MAX_SAMPLE_VALUES, MAX_SAMPLE_TEXT = 60, 4_000
_SAMPLES = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "array": [],
    "object": {},
}
_FORMATS = {
    "date": "2026-11-20",
    "date-time": "2026-11-20T09:30:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "01981f0e-7b5a-7c3e-9d52-3f1f6f7f9a10",
}


@dataclass(frozen=True)
class Field:
    """A member of an input or an output, as a row of a table."""

    name: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True)
class Table:
    """The members of a schema; ``more`` tells that there are further ones."""

    kind: str
    fields: list[Field]
    more: bool
    reference: str | None

    @property
    def has_descriptions(self) -> bool:
        """Whether any of the members is described."""
        return any(field.description for field in self.fields)


def table(schema: dict[str, Any]) -> Table:
    """Return what a capability's schema describes; a mere reference has no fields."""
    if isinstance(schema.get("$ref_uri"), str):
        return Table("", [], False, schema["$ref_uri"])
    found = list(islice(_fields(schema, schema, "", MAX_DEPTH), MAX_ROWS + 1))
    return Table(kind_of(schema, schema), found[:MAX_ROWS], len(found) > MAX_ROWS, None)


def _fields(root: Any, rule: Any, prefix: str, depth: int) -> Iterator[Field]:
    rule = _resolved(root, rule)
    members = rule.get("properties")
    required = rule.get("required")
    if not isinstance(members, dict) or not depth:
        return
    for name, inner in members.items():
        path = f"{prefix}{_cut(name)}"
        shown = _resolved(root, inner)
        said = shown.get("description")
        is_required = isinstance(required, list) and name in required
        description = _cut(said) if isinstance(said, str) else ""
        yield Field(path, kind_of(root, inner), is_required, description)
        item = _resolved(root, shown.get("items"))
        yield from _fields(root, shown, f"{path}.", depth - 1)
        yield from _fields(root, item, f"{path}[].", depth - 1)


def kind_of(root: Any, rule: Any, depth: int = 2) -> str:
    """Return the type that a rule allows, in words."""
    if rule is False:
        return "nothing"
    rule = _resolved(root, rule)
    if "const" in rule:
        return _cut(json.dumps(rule["const"], ensure_ascii=False))
    if isinstance(rule.get("enum"), list):
        shown = [json.dumps(one, ensure_ascii=False) for one in rule["enum"][:MAX_CHOICES]]
        more = ["…"] if len(rule["enum"]) > MAX_CHOICES else []
        return _cut(", ".join(shown + more))
    for keyword in ("anyOf", "oneOf"):
        if isinstance(rule.get(keyword), list) and depth:
            kinds = [kind_of(root, one, depth - 1) for one in rule[keyword][:MAX_CHOICES]]
            return _cut(" or ".join(dict.fromkeys(kinds)))
    kind = rule.get("type", "anything")
    if isinstance(kind, list):
        kind = " or ".join(map(str, kind))
    if kind == "array" and depth and "items" in rule:
        return _cut(f"list of {kind_of(root, rule['items'], depth - 1)}")
    return _cut(str(kind))


def sample(schema: Any) -> Any:
    """Return a value to begin with: what the schema requires, in the simplest form.

    Where that is longer than a reader copies, it is an empty object.
    """
    value = _sample(schema, schema, MAX_DEPTH, iter(range(MAX_SAMPLE_VALUES)))
    return value if len(json.dumps(value)) <= MAX_SAMPLE_TEXT else {}


def _sample(root: Any, rule: Any, depth: int, left: Iterator[int]) -> Any:
    """Return a value that a rule allows; ``left`` has an item for each value that may follow."""
    if next(left, None) is None:
        return {}
    rule = _resolved(root, rule)
    for keyword in ("default", "const"):
        if keyword in rule:
            return rule[keyword]
    for keyword in ("examples", "enum"):
        if isinstance(rule.get(keyword), list) and rule[keyword]:
            return rule[keyword][0]
    kind = rule.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and "properties" in rule):
        return _sample_object(root, rule, depth, left)
    if kind == "string":
        return _FORMATS.get(str(rule.get("format")), _SAMPLES["string"])
    if kind in ("integer", "number") and isinstance(rule.get("minimum"), (int, float)):
        return rule["minimum"]
    if kind == "array" and rule.get("minItems") and depth:
        return [_sample(root, rule.get("items"), depth - 1, left)]
    return _SAMPLES.get(str(kind), {})


def _sample_object(
    root: Any, rule: dict[str, Any], depth: int, left: Iterator[int]
) -> dict[str, Any]:
    members, required = rule.get("properties"), rule.get("required")
    if not depth or not isinstance(members, dict):
        return {}
    demanded = []
    if isinstance(required, list):
        demanded = [name for name in required if isinstance(name, str) and name in members]
    chosen = demanded or list(members)[:1]
    return {name: _sample(root, members[name], depth - 1, left) for name in chosen[:MAX_ROWS]}


def _resolved(root: Any, rule: Any) -> dict[str, Any]:
    """Return a rule with what it refers to within its own schema; anything else allows anything."""
    for _ in range(MAX_DEPTH):
        reference = rule.get("$ref") if isinstance(rule, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found = root
        for part in reference[2:].split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            found = found.get(part) if isinstance(found, dict) else None
        rule = found
    return rule if isinstance(rule, dict) else {}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
