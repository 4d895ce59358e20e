"""Pages of long lists: forward by keyset, and back to the beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import request

from app.http.pagination import decode_cursor, encode_cursor

PAGE_SIZE = 50
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pager:
    """Addresses of the first page, None on it, and of the next one, None on the last."""

    first: str | None
    following: str | None

    @classmethod
    def of(cls, rows: Sequence[Any], position: Callable[[Any], str]) -> Pager:
        """Return the pager of a page that ``rows`` holds one more than, if there is a next one."""
        kept = [(name, value) for name, value in request.args.items() if name != "cursor"]
        more = len(rows) > PAGE_SIZE
        following = [*kept, ("cursor", position(rows[PAGE_SIZE - 1]))] if more else None
        first = f"{request.path}?{urlencode(kept)}" if "cursor" in request.args else None
        return cls(first, f"{request.path}?{urlencode(following)}" if following else None)


def cursor(form: str) -> str | None:
    """Return the position that the page begins after. Raises ``ValidationFailed``."""
    given = request.args.get("cursor")
    return decode_cursor(given, form) if given else None


def moment_cursor(row: Any) -> str:
    """Return the cursor of a row in a list by time of creation."""
    return encode_cursor(f"{(row.created_at - EPOCH) // timedelta(microseconds=1)}|{row.id}")


def moment_position() -> tuple[datetime, str] | None:
    """Return what ``moment_cursor`` gave out. Raises ``ValidationFailed``."""
    given = cursor("[0-9]{1,16}[|][!-~]{1,128}")
    if given is None:
        return None
    micros, _, identifier = given.partition("|")
    return EPOCH + timedelta(microseconds=int(micros)), identifier
