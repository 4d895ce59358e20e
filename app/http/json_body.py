"""Reading a request body: strict JSON (RFC 8259, I-JSON RFC 7493) within limits.

Python's own parser is used instead of a faster one because it can be made to notice member names
that repeat, and because what it accepts beyond JSON (NaN, lone surrogates) is then found in the
parsed value, where its JSON Pointer (RFC 6901) is known.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.http.context import services
from app.http.errors import MalformedJson, ValidationFailed

# Larger integers lose digits in every client that keeps numbers as IEEE 754 doubles.
MAX_SAFE_INTEGER = 2**53 - 1
# RFC 8785 writes floats below this without an exponent, so that they are read as integers again.
MIN_EXPONENT_FORM = 1e21
# A pointer repeats every name on its way, so a name without limit would make errors without limit.
MAX_NAME_LENGTH = 200
MAX_REPORTED = 100


def read_json_body() -> Any:
    """Return the parsed body of the current request.

    Raises ``MalformedJson`` for what is not JSON, ``ValidationFailed`` with pointers for values
    that cannot be stored or canonicalised, ``UnsupportedMediaType``, and Werkzeug's
    ``RequestEntityTooLarge`` beyond the size limit.
    """
    data = request.get_data(cache=False)
    limit = services().settings.max_body_bytes
    # Werkzeug refuses a length above the limit, but cuts off a body that comes in chunks there.
    if request.content_length is None and len(data) >= limit:
        raise RequestEntityTooLarge
    if not data:
        raise MalformedJson("the request needs a JSON body")
    if not request.is_json:
        raise UnsupportedMediaType("the body must be sent as Content-Type: application/json")
    return parse_json(data, services().settings.max_json_depth)


def parse_json(data: bytes, max_depth: int) -> Any:
    """Return the value of a JSON text; raises as ``read_json_body`` does."""
    repeated: list[tuple[dict[str, Any], str]] = []

    def build(members: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(members)
        if len(built) < len(members):
            counted = Counter(name for name, _ in members)
            repeated.append((built, counted.most_common(1)[0][0]))
        return built

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=build)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _invalid([_too_deep("", max_depth)]) from None
    except ValueError:
        # CPython refuses to convert integers of more than some thousand digits.
        raise _invalid([_violation("", "number_too_large", "a number is too large")]) from None
    violations = list(islice(_inspect(value, max_depth, repeated), MAX_REPORTED))
    if violations:
        raise _invalid(violations)
    return value


def _invalid(violations: list[dict[str, str]]) -> ValidationFailed:
    return ValidationFailed(
        "the body holds values that JSON clients cannot exchange", errors=violations
    )


def _violation(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}


def _too_deep(pointer: str, max_depth: int) -> dict[str, str]:
    return _violation(pointer, "too_deep", f"expected at most {max_depth} levels of nesting")


# Where a value is: the place of what holds it, and its name or index there; () is the root.
_Place = tuple[Any, ...]


def _inspect(
    root: Any, max_depth: int, repeated: list[tuple[dict[str, Any], str]]
) -> Iterator[dict[str, str]]:
    """Yield every violation in a parsed value, walking it without recursion.

    Pointers are made for violations alone: one for every value would multiply the length of a name
    by the number of values below it.
    """
    duplicates = {id(built): name for built, name in repeated}
    stack: list[tuple[_Place, int, Any]] = [((), 1, root)]
    while stack:
        place, depth, value = stack.pop()
        if isinstance(value, (dict, list)):
            if depth > max_depth:
                yield _too_deep(_pointer(place), max_depth)
                continue
            children: Any = enumerate(value)
            if isinstance(value, dict):
                yield from _inspect_names(place, value, duplicates.get(id(value)))
                children = ((n, child) for n, child in value.items() if len(n) <= MAX_NAME_LENGTH)
            stack.extend(((place, name), depth + 1, child) for name, child in children)
        elif fault := _scalar_fault(value):
            yield _violation(_pointer(place), *fault)


def _scalar_fault(value: Any) -> tuple[str, str] | None:
    """Return the code of what is wrong with a text, a number, a boolean or null, and a sentence."""
    if isinstance(value, str):
        return None if _is_storable(value) else ("character", UNSTORABLE)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not_finite", "expected a finite number"
        if MAX_SAFE_INTEGER < abs(value) < MIN_EXPONENT_FORM:
            return "number_too_large", "expected a whole number of at most 2^53 - 1 in size"
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return "number_too_large", "expected a whole number of at most 2^53 - 1 in size"
    return None


def _inspect_names(
    place: _Place, value: dict[str, Any], duplicate: str | None
) -> Iterator[dict[str, str]]:
    if not all(map(_is_storable, value)):
        yield _violation(_pointer(place), "character", f"member names: {UNSTORABLE}")
    if max(map(len, value), default=0) > MAX_NAME_LENGTH:
        detail = f"expected member names of at most {MAX_NAME_LENGTH} characters"
        yield _violation(_pointer(place), "name_too_long", detail)
    elif duplicate is not None:
        detail = "expected every member name once"
        yield _violation(_pointer((place, duplicate)), "duplicate_member", detail)


def _pointer(place: _Place) -> str:
    tokens: list[str] = []
    while place:
        place, name = place
        tokens.append("/" + pointer_token(name))
    return "".join(reversed(tokens))


UNSTORABLE = "expected text without U+0000 and without lone surrogates"


def _is_storable(text: str) -> bool:
    """Tell whether both databases and every UTF-8 encoder can hold ``text``."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def pointer_token(name: object) -> str:
    """Return one reference token of a JSON Pointer, escaped (RFC 6901, section 3).

    A lone surrogate, which no answer could carry, is shown as U+FFFD.
    """
    token = str(name).replace("~", "~0").replace("/", "~1")
    return (
        token
        if token.isascii()
        else token.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
