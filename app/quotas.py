"""Quotas: how much of a kind one owner may have, so that none fills the service for all."""

from __future__ import annotations

from app.errors import Forbidden


class QuotaExceeded(Forbidden):
    """The owner has as much of a kind as one owner may; the operator sets how much that is.

    ``quota`` names the kind, ``limit`` says how much of it is allowed and ``used`` how much there
    is. What was asked for would be more.
    """

    code = "quota_exceeded"


def require_room(quota: str, limit: int, used: int, added: int = 1) -> None:
    """Raise ``QuotaExceeded`` if ``added`` to ``used`` is over ``limit``; 0 sets no limit."""
    if limit and used + added > limit:
        raise QuotaExceeded(
            f"the quota {quota} allows {limit} of an owner; {used} are used and {added} more asked"
            " for",
            quota=quota,
            limit=limit,
            used=used,
        )
