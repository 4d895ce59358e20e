"""Pages of long lists: forward by keyset, and back to the beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import request

from app.http.pagination import decode_cursor, decode_moment, encode_moment

PAGE_SIZE = 50


@dataclass(frozen=True)
class Pager:
    """Addresses of the first page, None on it, and of the next one, None on the last."""

    first: str | None
    following: str | None

    @classmethod
    def of(
        cls, rows: Sequence[Any], position: Callable[[Any], str], shown: int | None = None
    ) -> Pager:
        """Return the pager of a page of ``shown`` rows; if there is a next one, there are more.

        A page shows ``PAGE_SIZE`` rows unless it says otherwise.
        """
        shown = PAGE_SIZE if shown is None else shown
        more = len(rows) > shown
        first = cls.to(None) if "cursor" in request.args else None
        return cls(first, cls.to(position(rows[shown - 1])) if more else None)

    @staticmethod
    def to(cursor: str | None) -> str:
        """Return the address of the same list from a cursor on, or from its beginning."""
        kept = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
        query = [*kept, ("cursor", cursor)] if cursor else kept
        return f"{request.path}?{urlencode(query)}"


def cursor(form: str) -> str | None:
    """Return the position that the page begins after. Raises ``ValidationFailed``."""
    given = request.args.get("cursor")
    return decode_cursor(given, form) if given else None


def moment_cursor(row: Any) -> str:
    """Return the cursor of a row in a list by time of creation."""
    return encode_moment(row.created_at, row.id)


def moment_position() -> tuple[datetime, str] | None:
    """Return what ``moment_cursor`` gave out. Raises ``ValidationFailed``."""
    given = request.args.get("cursor")
    return decode_moment(given) if given else None
