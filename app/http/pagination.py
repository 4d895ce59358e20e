"""Keyset pagination: opaque cursors, pages of limited size, and the link to the next one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import marshmallow as ma
import orjson
from flask import Response, g, request

from app import clock
from app.http.errors import ValidationFailed
from app.http.responses import json_response
from app.http.schemas import Schema

# A page ends before the entry that would make it larger, so that no answer is without limit.
MAX_PAGE_BYTES = 2 * 1024 * 1024
# What chooses a page of a list, and not the list.
PLACE = ("limit", "cursor", "offset")
_TAG_LENGTH = 8
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PageQuery(Schema):
    """A page of a list."""

    limit = ma.fields.Integer(load_default=100, validate=ma.validate.Range(min=1, max=100))
    cursor = ma.fields.String(
        load_default=None,
        validate=ma.validate.Length(min=1, max=512),
        metadata={"description": "`next_cursor` of the page before"},
    )

    example = {"limit": 100}


def _filters() -> dict[str, str]:
    """Return the parameters that choose the list of the current request, without its page.

    They are those that the endpoint's schema read, defaults included, where it has one.
    """
    given: dict[str, Any] = g.get("query") or request.args
    return {
        name: _text(value)
        for name, value in sorted(given.items())
        if name not in PLACE and value is not None
    }


def _text(value: Any) -> str:
    """Return the value of a filter as it can be asked for again."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return clock.isoformat(value) if isinstance(value, datetime) else str(value)


def list_tag(rule: str, path: dict[str, str], filters: dict[str, str]) -> str:
    """Return what tells the cursors of one list from those of others: its route and filters."""
    # A namespace is the same with and without its sign.
    named = {name: value.removeprefix("@") for name, value in sorted(path.items())}
    digest = hashlib.sha256(orjson.dumps([rule, named, filters])).digest()
    return base64.urlsafe_b64encode(digest).decode()[:_TAG_LENGTH]


def _tag() -> str:
    return list_tag(str(request.url_rule), dict(request.view_args or {}), _filters())


def pack_cursor(tag: str, position: str) -> str:
    """Return the cursor of a position in the list that ``list_tag`` tells."""
    return base64.urlsafe_b64encode((tag + position).encode()).decode().rstrip("=")


def encode_cursor(position: str) -> str:
    """Return an opaque cursor for the position in the current list after which a page begins."""
    return pack_cursor(_tag(), position)


def decode_cursor(cursor: str, form: str = r"[!-~]+") -> str:
    """Return the position of a cursor made by ``encode_cursor``; ``form`` is its pattern.

    Raises ``ValidationFailed`` for anything else, and for a cursor of another list: one of another
    route, path or filter. A position is only compared with keys, so a forged one can select no more
    than an honest one.
    """
    try:
        text = base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, ValueError):
        text = ""
    position = text[_TAG_LENGTH:]
    if not re.fullmatch(form, position) or encode_cursor(position) != cursor:
        raise ValidationFailed(
            "the cursor is not one this service gave out for this list",
            errors=[
                {
                    "parameter": "cursor",
                    "code": "cursor",
                    "detail": "expected the next_cursor of an earlier page of the same list with"
                    " the same filters, unchanged",
                }
            ],
        )
    return position


def encode_moment(at: datetime, identifier: str) -> str:
    """Return the cursor of a position in a list by time, where ids break ties."""
    return encode_cursor(f"{(at - EPOCH) // timedelta(microseconds=1)}|{identifier}")


def decode_moment(cursor: str) -> tuple[datetime, str]:
    """Return what a cursor of ``encode_moment`` holds. Raises ``ValidationFailed``."""
    micros, _, identifier = decode_cursor(cursor, "[0-9]{1,16}[|][!-~]{1,128}").partition("|")
    return EPOCH + timedelta(microseconds=int(micros)), identifier


def fitting(rows: Sequence[Any], limit: int) -> int:
    """Return how many agents a page for people shows: as many as a page of the API would.

    ``rows`` are agents, more than ``limit`` or beyond ``MAX_PAGE_BYTES`` if there is a next page.
    """
    size = 0
    for place, row in enumerate(rows[:limit]):
        size += len(row.manifest.encode())
        if place and size > MAX_PAGE_BYTES:
            return place
    return min(limit, len(rows))


def page_response(
    rows: Sequence[Any],
    document: Callable[[Any], dict[str, Any]],
    cursor: Callable[[Any], str],
    *,
    limit: int,
    member: str = "data",
    leading: dict[str, Any] | None = None,
    **pagination: Any,
) -> Response:
    """Answer with a page of a list: its entries in ``member``, after the members ``leading``.

    ``rows`` holds more than ``limit`` if there is a next page. The page ends early before the entry
    that would take its entries over ``MAX_PAGE_BYTES``, but has one at least. ``cursor`` returns
    the position after a row; ``pagination`` is put in that member of the answer. The header
    ``Link`` leads to the next page (RFC 8288).
    """
    entries: list[orjson.Fragment] = []
    size = 0
    for row in rows[:limit]:
        entry = orjson.dumps(document(row))
        size += len(entry)
        if entries and size > MAX_PAGE_BYTES:
            break
        entries.append(orjson.Fragment(entry))
    following = link = None
    if len(entries) < len(rows):
        following = cursor(rows[len(entries) - 1])
        query = {**_filters(), "limit": limit, "cursor": following}
        link = f'<{request.path}?{urlencode(query)}>; rel="next"'
    shown = {"mode": "cursor", "limit": limit, "next_cursor": following, **pagination}
    return json_response({**(leading or {}), member: entries, "pagination": shown}, link=link)
