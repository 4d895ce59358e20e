"""Marshmallow fields the scopes share. JSON types are taken as they are, never converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import marshmallow as ma

from app.money import MAX_USD, to_micros, to_usd
from app.plain_text import text_fault


class FullMatch(ma.validate.Regexp):
    """A pattern that the whole text must match; ``$`` alone would allow a final newline."""

    def __init__(self, pattern: str, expected: str) -> None:
        super().__init__(f"^{pattern}$", error=f"expected {expected}")

    def __call__(self, value: Any) -> Any:
        if not self.regex.fullmatch(value) or value.endswith("\n"):
            raise ma.ValidationError(self.error)
        return value


class PlainText(ma.validate.Validator):
    """Text that shows something and hides nothing: see ``app.plain_text.text_fault``."""

    def __init__(self, *, lines: bool = False, may_be_blank: bool = False) -> None:
        self.lines = lines
        self.may_be_blank = may_be_blank

    def __call__(self, value: str) -> str:
        fault = text_fault(value, lines=self.lines, may_be_blank=self.may_be_blank)
        if fault is not None:
            code, detail = fault
            raise ma.ValidationError([{"pointer": "", "code": code, "detail": detail}])
        return value


class AnyOf(ma.fields.List[Any]):
    """A parameter that names one or several of some choices: repeated, or with commas between.

    Deserialized to the choices in their order, each once.
    """

    def __init__(self, choices: Sequence[str], **arguments: Any) -> None:
        inner = ma.fields.String(validate=ma.validate.OneOf(choices))
        super().__init__(inner, **arguments)
        self.choices = choices

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> list[Any]:
        given = {part for text in value for part in str(text).split(",")}
        if not given.issubset(self.choices):
            raise ma.ValidationError(f"expected one or several of: {', '.join(self.choices)}")
        return [choice for choice in self.choices if choice in given]


class JsonDocument(ma.fields.Raw):
    """Any JSON value, described in the OpenAPI document by a JSON Schema."""

    def __init__(self, json_schema: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.json_schema = json_schema


class JsonBoolean(ma.fields.Boolean):
    """A JSON boolean: neither a number nor a text that could stand for one."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if not isinstance(value, bool):
            raise ma.ValidationError("expected true or false")
        return value


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


class Moment(ma.fields.AwareDateTime):
    """A time with its offset (RFC 3339), whose ``T`` and ``Z`` may be lower case (section 5.6)."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> datetime:
        text = value.upper() if isinstance(value, str) and value.isascii() else value
        return super()._deserialize(text, attr, data, **kwargs)


class Usd(ma.fields.Field[int]):
    """An amount: a JSON number of USD with at most six decimals outside, micro-USD inside.

    ``minimum_micros`` is the least amount allowed.
    """

    def __init__(self, *, minimum_micros: int = 1, **arguments: Any) -> None:
        metadata = {"type": "number", "minimum": to_usd(minimum_micros), "maximum": MAX_USD}
        super().__init__(metadata={**metadata, **arguments.pop("metadata", {})}, **arguments)
        self.minimum_micros = minimum_micros

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ma.ValidationError("expected a number")
        try:
            micros = to_micros(value)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from None
        if micros < self.minimum_micros:
            raise ma.ValidationError(f"expected at least {to_usd(self.minimum_micros):f}")
        return micros

    def _serialize(
        self, value: int | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> int | float | None:
        return None if value is None else to_usd(value)


class UnitPrice(ma.fields.Field[Decimal]):
    """A price: a JSON number of USD a unit with at most 12 decimals, kept exactly."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(metadata={"type": "number", "minimum": 0, "maximum": MAX_USD}, **arguments)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ma.ValidationError("expected a number")
        price = Decimal(repr(value))
        if not 0 <= price <= MAX_USD or price != round(price, 12):
            raise ma.ValidationError(f"expected 0 to {MAX_USD} with at most 12 decimals")
        return price

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **_: Any) -> Any:
        return None if value is None else float(value)
