"""Walking parsed JSON values, and JSON Pointers (RFC 6901) to what is found on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
