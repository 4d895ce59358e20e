"""Reading a request body: strict JSON (RFC 8259, I-JSON RFC 7493) within limits.

Python's own parser is used instead of a faster one because it can be made to notice member names
that repeat, and because what it accepts beyond JSON (NaN, lone surrogates) is then found in the
parsed value, where its JSON Pointer (RFC 6901) is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from app.http.context import services
from app.http.errors import MalformedJson, ValidationFailed

# Larger integers lose digits in every client that keeps numbers as IEEE 754 doubles.
MAX_SAFE_INTEGER = 2**53 - 1
MAX_REPORTED = 100


def read_json_body() -> Any:
    """Return the parsed body of the current request.

    Raises ``MalformedJson`` for what is not JSON, ``ValidationFailed`` with pointers for values
    that cannot be stored or canonicalised, ``UnsupportedMediaType``, and Werkzeug's
    ``RequestEntityTooLarge`` beyond the size limit.
    """
    data = request.get_data(cache=False)
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
            names = [name for name, _ in members]
            repeated.append((built, next(n for n in names if names.count(n) > 1)))
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
    violations = list(_inspect(value, max_depth, repeated))
    if violations:
        raise _invalid(violations)
    return value


def _invalid(violations: list[dict[str, str]]) -> ValidationFailed:
    return ValidationFailed(
        "the body holds values that JSON clients cannot exchange", errors=violations[:MAX_REPORTED]
    )


def _violation(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}


def _too_deep(pointer: str, max_depth: int) -> dict[str, str]:
    return _violation(pointer, "too_deep", f"expected at most {max_depth} levels of nesting")


def _inspect(
    root: Any, max_depth: int, repeated: list[tuple[dict[str, Any], str]]
) -> Iterator[dict[str, str]]:
    """Yield every violation in a parsed value, walking it without recursion."""
    duplicates = {id(built): name for built, name in repeated}
    stack: list[tuple[str, int, Any]] = [("", 1, root)]
    while stack:
        pointer, depth, value = stack.pop()
        if isinstance(value, str):
            if not _is_storable(value):
                yield _violation(pointer, "character", UNSTORABLE)
        elif isinstance(value, (dict, list)):
            if depth > max_depth:
                yield _too_deep(pointer, max_depth)
                continue
            if isinstance(value, dict):
                yield from _inspect_names(pointer, value, duplicates.get(id(value)))
                children: Any = value.items()
            else:
                children = enumerate(value)
            stack.extend(
                (f"{pointer}/{pointer_token(name)}", depth + 1, child) for name, child in children
            )
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield _violation(pointer, "not_finite", "expected a finite number")
        elif isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
            yield _violation(
                pointer, "number_too_large", "expected an integer of at most 2^53 - 1 in size"
            )


def _inspect_names(
    pointer: str, value: dict[str, Any], duplicate: str | None
) -> Iterator[dict[str, str]]:
    if duplicate is not None and _is_storable(duplicate):
        yield _violation(
            f"{pointer}/{pointer_token(duplicate)}",
            "duplicate_member",
            "expected every member name once",
        )
    if not all(map(_is_storable, value)):
        yield _violation(pointer, "character", f"member names: {UNSTORABLE}")


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
