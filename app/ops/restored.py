"""Whether a database is a restored copy that may not act yet.

What a snapshot holds was about to happen elsewhere: messages that wait are sent there, delegations
whose time runs out are closed there. A copy that did the same, in a drill, say, would do it twice.
So restoring marks the database, and until somebody takes the mark away the copy sends no webhook
and closes no delegation by itself. The mark is of no scope and in no snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import clock
from app.access import audit
from app.db import UTCDateTime

ACTIVATE = "agenthub snapshot activate"
_metadata = sa.MetaData()
_MARK = sa.Table(
    "restored_copy",
    _metadata,
    sa.Column("taken_at", sa.String(32), primary_key=True),
    sa.Column("restored_at", UTCDateTime, nullable=False),
)


@dataclass(frozen=True)
class RestoredCopy:
    """When the snapshot was taken that a held database was restored from, and when that was."""

    taken_at: str
    restored_at: datetime

    def __str__(self) -> str:
        return (
            f"a copy of {self.taken_at}, restored {clock.isoformat(self.restored_at)}: it sends no"
            " webhook and closes no delegation by itself"
        )


class CopyHeld(Exception):
    """A restored copy was told to act before it was activated; the message says how."""


def hold(connection: sa.Connection, taken_at: str) -> None:
    """Mark the database as a copy, in the transaction that fills it."""
    _MARK.create(connection, checkfirst=True)
    connection.execute(_MARK.delete())
    connection.execute(_MARK.insert().values(taken_at=taken_at, restored_at=clock.now()))


def held_copy(reader: sa.Connection | Session) -> RestoredCopy | None:
    """Return what the database is a copy of, if it is held.

    Whoever acts on what it has read asks after reading: the mark and the rows come at one instant.
    """
    connection = reader.connection() if isinstance(reader, Session) else reader
    if not connection.dialect.has_table(connection, _MARK.name):
        return None
    row = connection.execute(sa.select(_MARK)).first()
    return RestoredCopy(*row) if row else None


def require_active(connection: sa.Connection) -> None:
    """Raise ``CopyHeld`` when the database is a copy that is held."""
    copy = held_copy(connection)
    if copy is not None:
        raise CopyHeld(f"the database is {copy}; to let it: {ACTIVATE}")


def activate(session: Session) -> RestoredCopy | None:
    """Let a copy act from now on, and record who said so; None when none is held."""
    copy = held_copy(session)
    if copy is not None:
        session.execute(_MARK.delete())
        audit.record_command(session, "snapshot activate", f"copy of {copy.taken_at}")
    return copy
