"""Reading a request body: strict JSON (RFC 8259, I-JSON RFC 7493) within limits.

Python's own parser is used instead of a faster one because it can be made to notice member names
that repeat, and because what it accepts beyond JSON (NaN, lone surrogates) is then found in the
parsed value, where its JSON Pointer (RFC 6901) is known.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.http.context import services
from app.http.errors import MalformedJson, ValidationFailed
from app.json_values import UNSTORABLE, Place, is_storable, pointer_to, scalar_fault, walk

# A pointer repeats every name on its way, so a name without limit would make errors without limit.
MAX_NAME_LENGTH = 200
MAX_REPORTED = 100


class BodyEncoded(UnsupportedMediaType):
    """The body is compressed, which this service does not read (RFC 9110, section 8.4)."""

    description = "the body must be sent without Content-Encoding"

    def get_headers(self, *arguments: Any) -> list[tuple[str, str]]:
        """Say which encodings are read (RFC 9110, section 12.5.3)."""
        return [*super().get_headers(*arguments), ("Accept-Encoding", "identity")]


def is_without_body() -> bool:
    """Tell whether the current request sends no body and claims to send none."""
    return not (
        request.content_length or request.content_type or "Transfer-Encoding" in request.headers
    )


def read_json_body() -> Any:
    """Return the parsed body of the current request.

    Raises ``MalformedJson`` for what is not JSON, ``ValidationFailed`` with pointers for values
    that cannot be stored or canonicalised, ``UnsupportedMediaType``, and Werkzeug's
    ``RequestEntityTooLarge`` beyond the size limit.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise BodyEncoded
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

    if data.startswith(BOM_UTF8):
        raise MalformedJson(
            "the body begins with a byte order mark; send UTF-8 without one (RFC 8259, section 8.1)"
        )
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


def _violation(at: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": at, "code": code, "detail": detail}


def _too_deep(at: str, max_depth: int) -> dict[str, str]:
    return _violation(at, "too_deep", f"expected at most {max_depth} levels of nesting")


def _inspect(
    root: Any, max_depth: int, repeated: list[tuple[dict[str, Any], str]]
) -> Iterator[dict[str, str]]:
    """Yield every violation in a parsed value; a name that is too long is the last one."""
    duplicates = {id(built): name for built, name in repeated}
    for depth, place, value in walk(root, max_depth):
        if isinstance(value, (dict, list)):
            if depth > max_depth:
                yield _too_deep(pointer_to(place), max_depth)
            elif isinstance(value, dict):
                if max(map(len, value), default=0) > MAX_NAME_LENGTH:
                    detail = f"expected member names of at most {MAX_NAME_LENGTH} characters"
                    yield _violation(pointer_to(place), "name_too_long", detail)
                    return
                yield from _inspect_names(place, value, duplicates.get(id(value)))
        elif fault := scalar_fault(value):
            yield _violation(pointer_to(place), *fault)


def _inspect_names(
    place: Place, value: dict[str, Any], duplicate: str | None
) -> Iterator[dict[str, str]]:
    if not all(map(is_storable, value)):
        yield _violation(pointer_to(place), "character", f"member names: {UNSTORABLE}")
    if duplicate is not None:
        detail = "expected every member name once"
        yield _violation(pointer_to((place, duplicate)), "duplicate_member", detail)
