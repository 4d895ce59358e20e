"""Marshmallow fields the scopes share. JSON types are taken as they are, never converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma


class JsonDocument(ma.fields.Raw):
    """Any JSON value, described in the OpenAPI document by a JSON Schema."""

    def __init__(self, json_schema: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.json_schema = json_schema


class JsonInteger(ma.fields.Integer):
    """A JSON integer: neither a string of digits nor a boolean nor a number with a fraction."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ma.ValidationError("expected an integer")
        return value


class JsonNumber(ma.fields.Float):
    """A JSON number: neither a string nor a boolean."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ma.ValidationError("expected a number")
        return float(value)
