"""Manifests made from their JSON Schema, so that no optional member can be forgotten.

``minimal`` has what the format requires, ``fullest`` whatever it allows, ``some`` a random part.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from app.registry.manifest_format import schema

# What stands for a text, by its pattern or format, or by the name of its rule.
_TEXTS = {
    "slug": "sample",
    "semver": "1.0.0",
    "permissions": "invoices.read",
    "address": "https://agents.example.com/sample",
    "uri": "https://schemas.example.com/sample.json",
    "instant": "2026-01-05T09:30:00Z",
    "secret_ref": "vault://finance/sample",
    "currency": "USD",
    "commit": "0a1b2c3d4e",
    "maintainer_contact": "finance@example.com",
}
_PLAIN = "Sample text of a manifest"
Choice = Callable[[str], bool]


class Generator:
    """Builds values that the schema allows; ``chosen`` decides whether a member is there."""

    def __init__(self, chosen: Choice, seed: int = 0) -> None:
        self.schema = schema()
        self.chosen = chosen
        self.random = random.Random(seed)

    def manifest(self, slug: str, version: str) -> dict[str, Any]:
        """Return a valid manifest of an agent's version."""
        document: dict[str, Any] = self.value(self.schema, "manifest", "")
        document["identity"] |= {"id": slug, "version": version}
        return document

    def value(self, rule: dict[str, Any], name: str, path: str) -> Any:
        """Return a value that a rule allows."""
        if "$ref" in rule:
            name = rule["$ref"].rpartition("/")[2]
            rule = self.schema["$defs"][name]
        if name == "dataSchema":
            return self.data_schema(path)
        if "const" in rule:
            return rule["const"]
        if "enum" in rule:
            return self.random.choice(rule["enum"])
        made = getattr(self, rule["type"])
        return made(rule, name, path)

    def data_schema(self, path: str) -> dict[str, Any]:
        """Return a schema of a capability: a bare type, a reference, or one with members."""
        kinds: list[dict[str, Any]] = [
            {"$ref_uri": _TEXTS["uri"]},
            {"type": "string"},
            {"type": ["object", "null"]},
            {"type": "object", "properties": {"items": {"type": ["string", "null"]}, "any": True}},
            {"type": "object", "properties": {"text": {}}, "required": ["text"]},
        ]
        return self.random.choice(kinds[1:]) if self.chosen(path) else kinds[0]

    def object(self, rule: dict[str, Any], name: str, path: str) -> dict[str, Any]:
        """Return an object with what is required, and what is chosen."""
        required = set(rule.get("required", ()))
        found = {
            member: self.value(inner, member, f"{path}/{member}")
            for member, inner in rule["properties"].items()
            if member in required or self.chosen(f"{path}/{member}")
        }
        if name == "interface":
            self._interface(found, path)
        elif name == "capability" and found["side_effect_level"] != "none":
            found["idempotency_key_required"] = True
        elif name == "composition" and found["type"] != "single":
            steps = rule["properties"]["steps"]["items"]
            found["steps"] = [self.value(steps, "step", f"{path}/steps") for _ in range(2)]
        return found

    def _interface(self, found: dict[str, Any], path: str) -> None:
        if not self.chosen(f"{path}/endpoint"):
            found["protocol"] = "INTERNAL"
        if found["protocol"] == "INTERNAL":
            found.pop("endpoint", None)
        else:
            found["endpoint"] = _TEXTS["address"]
        if found["privileged"] or "permissions" in found:
            found["permissions"] = [_TEXTS["permissions"]]

    def array(self, rule: dict[str, Any], name: str, path: str) -> list[Any]:
        """Return as few items as are allowed, or one more; the items of a set differ."""
        least = rule.get("minItems", 0)
        number = max(least, 1) if self.chosen(path) else least
        return [self.value(rule["items"], name, path) for _ in range(number)]

    def string(self, rule: dict[str, Any], name: str, path: str) -> str:
        """Return a text; one whose form is prescribed is a known one."""
        if "pattern" in rule or "format" in rule or name == "address":
            return _TEXTS[name]
        return _PLAIN[: rule.get("maxLength", len(_PLAIN))]

    def number(self, rule: dict[str, Any], name: str, path: str) -> float:
        """Return a number within its limits."""
        return float(rule.get("minimum", 0)) + 0.5

    def integer(self, rule: dict[str, Any], name: str, path: str) -> int:
        """Return a whole number within its limits."""
        return int(rule.get("minimum", 0))

    def boolean(self, rule: dict[str, Any], name: str, path: str) -> bool:
        """Return a truth value."""
        return self.chosen(path)


def minimal(slug: str = "sample", version: str = "1.0.0", seed: int = 0) -> dict[str, Any]:
    """Return a manifest of required members alone."""
    return Generator(lambda _: False, seed).manifest(slug, version)


def fullest(slug: str = "sample", version: str = "1.0.0", seed: int = 0) -> dict[str, Any]:
    """Return a manifest with every member that the format knows."""
    return Generator(lambda _: True, seed).manifest(slug, version)


def some(slug: str, version: str, seed: int) -> dict[str, Any]:
    """Return a manifest with some of the members, the same for the same seed."""
    dice = random.Random(seed)
    share = dice.random()
    return Generator(lambda _: dice.random() < share, seed).manifest(slug, version)
