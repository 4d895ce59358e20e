"""Parsed JSON values: walking them, naming places in them (RFC 6901), what can be exchanged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

# Larger integers lose digits in every client that keeps numbers as IEEE 754 doubles.
MAX_SAFE_INTEGER = 2**53 - 1
# RFC 8785 writes floats below this without an exponent, so that they are read as integers again.
MIN_EXPONENT_FORM = 1e21
UNSTORABLE = "expected text without U+0000 and without lone surrogates"

# Where a value is: the place of what holds it, and its name or index there; () is the root. A text
# for every value would multiply the length of a name by the number of values below it.
Place = tuple[Any, ...]
Found = tuple[Place, Any]


def walk(root: Any, max_depth: int) -> Iterator[tuple[int, Place, Any]]:
    """Yield every value with its depth (the root's is 1) and its place, without recursion.

    Arrays and objects below ``max_depth`` are yielded and not entered.
    """
    levels: list[Iterator[Found]] = [iter((((), root),))]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        place, value = found
        depth = len(levels)
        yield depth, place, value
        if isinstance(value, (dict, list)) and depth <= max_depth:
            levels.append(_members(place, value))


def _members(place: Place, value: dict[str, Any] | list[Any]) -> Iterator[Found]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return (((place, name), member) for name, member in items)


def pointer_to(place: Place) -> str:
    """Return the JSON Pointer to a place."""
    tokens: list[str] = []
    while place:
        place, name = place
        tokens.append("/" + token(name))
    return "".join(reversed(tokens))


def token(name: object) -> str:
    """Return one reference token of a JSON Pointer, escaped (RFC 6901, section 3).

    A lone surrogate, which no answer could carry, is shown as U+FFFD.
    """
    escaped = str(name).replace("~", "~0").replace("/", "~1")
    if escaped.isascii():
        return escaped
    return escaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def scalar_fault(value: Any) -> tuple[str, str] | None:
    """Return the code and sentence of a fault in a text, number, boolean or null."""
    if isinstance(value, str):
        return None if is_storable(value) else ("character", UNSTORABLE)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not_finite", "expected a finite number"
        if MAX_SAFE_INTEGER < abs(value) < MIN_EXPONENT_FORM:
            return "number_too_large", "expected a whole number of at most 2^53 - 1 in size"
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return "number_too_large", "expected a whole number of at most 2^53 - 1 in size"
    return None


def is_storable(text: str) -> bool:
    """Tell whether both databases and every UTF-8 encoder can hold ``text``."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
