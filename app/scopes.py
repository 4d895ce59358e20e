"""The scopes: each owns its tables and its migration track.

The order is the one tracks are listed in; no track depends on another.
"""

from __future__ import annotations

from importlib import import_module

from sqlalchemy import MetaData

SCOPES: tuple[str, ...] = (
    "access",
    "idempotency",
    "registry",
    "ledger",
    "delegation",
    "notification",
)


def metadata() -> MetaData:
    """Return the metadata that holds the tables of every scope."""
    for scope in SCOPES:
        import_module(f"app.{scope}.models")
    from app.db import Base

    return Base.metadata


def scope_of_table(table: str) -> str | None:
    """Return the scope that owns ``table`` by its prefix, or None for a table of no scope."""
    return next((scope for scope in SCOPES if table.startswith(f"{scope}_")), None)
