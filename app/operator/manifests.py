"""Manifests as templates read them: every member that the format knows is there."""

from __future__ import annotations

from typing import Any

from app.registry.manifest_format import schema

_SCHEMA = schema()


def whole(manifest: Any) -> Any:
    """Return a manifest in which each optional member that is absent is None.

    A template can then read whatever the format knows, and still fails on a name that it does not.
    What the format does not describe, such as the schemas of capabilities, stays as it is.
    """
    return _whole(_SCHEMA, manifest)


def _whole(rule: dict[str, Any], value: Any) -> Any:
    if "$ref" in rule:
        rule = _SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]
    if isinstance(value, dict) and "properties" in rule:
        known = rule["properties"]
        return dict.fromkeys(known) | {
            name: _whole(known.get(name, {}), member) for name, member in value.items()
        }
    if isinstance(value, list) and "items" in rule:
        return [_whole(rule["items"], item) for item in value]
    return value
