"""Keyset pagination: opaque cursors and the link to the next page."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import marshmallow as ma
from flask import request

from app.http.errors import ValidationFailed
from app.http.schemas import Schema

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


def encode_cursor(position: str) -> str:
    """Return an opaque cursor for the position after which a page begins."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, form: str = r"[!-~]+") -> str:
    """Return the position of a cursor made by ``encode_cursor``; ``form`` is its pattern.

    Raises ``ValidationFailed`` for anything else. A position is only compared with keys, so a
    forged one can select no more than an honest one.
    """
    try:
        position = base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, ValueError):
        position = ""
    if not re.fullmatch(form, position) or encode_cursor(position) != cursor:
        raise ValidationFailed(
            "the cursor is not one this service gave out",
            errors=[
                {
                    "parameter": "cursor",
                    "code": "cursor",
                    "detail": "expected the next_cursor of an earlier page, unchanged",
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


def next_link(cursor: str | None, **parameters: object) -> str | None:
    """Return the ``Link`` header (RFC 8288) to the page at ``cursor``; None on the last page."""
    if cursor is None:
        return None
    query = {name: value for name, value in parameters.items() if value is not None}
    return f'<{request.path}?{urlencode(query | {"cursor": cursor})}>; rel="next"'
