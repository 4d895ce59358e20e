"""Metering: what was used, by whom, and what it cost; each event counts once for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import BigInteger, Row, Select, bindparam, cast, func, select, tuple_, union_all
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import clock
from app.canonical import canonical_json
from app.ledger.errors import MeteringEventReused
from app.ledger.models import MeteringEvent as Recorded
from app.ledger.queries import Reader

AnyRow = Row[*tuple[Any, ...]]
# The source of what the service itself does.
SERVICE = "service"


@dataclass(frozen=True)
class MeteringEvent:
    """One use of something. ``source`` and ``event_id`` name it for ever; the cost is micro-USD.

    ``owner_id`` is whose work it is, ``payer_owner_id`` who pays for it, None where nobody does.
    """

    source: str
    event_id: str
    operation: str
    cost_micros: int
    actor: str
    owner_id: str
    payer_owner_id: str | None
    delegation_id: str | None
    metadata: Mapping[str, Any]
    occurred_at: datetime

    @property
    def payload_hash(self) -> str:
        """The SHA-256, in hexadecimal, of what a repetition must have in common with the event.

        When it occurred does not count: where nobody says so it is the time of the report.
        """
        payload = {
            "delegation_id": self.delegation_id,
            "operation": self.operation,
            "cost_micros": self.cost_micros,
            "metadata": dict(self.metadata),
        }
        return hashlib.sha256(canonical_json(payload)).hexdigest()


def unseen(session: Session, events: Sequence[MeteringEvent]) -> list[MeteringEvent]:
    """Return the events that are not recorded yet, in order, each once.

    Raises ``MeteringEventReused`` for an event whose name belongs to another one.
    """
    names = {(event.source, event.event_id) for event in events}
    rows = session.execute(
        select(Recorded.source, Recorded.event_id, Recorded.payload_hash).where(
            tuple_(Recorded.source, Recorded.event_id).in_(sorted(names))
        )
    )
    known = {(source, event_id): payload_hash for source, event_id, payload_hash in rows}
    fresh = []
    for event in events:
        name, payload_hash = (event.source, event.event_id), event.payload_hash
        if name not in known:
            known[name] = payload_hash
            fresh.append(event)
        elif known[name] != payload_hash:
            raise _reused(event.event_id)
    return fresh


def _reused(event_id: str) -> MeteringEventReused:
    return MeteringEventReused(
        f"the event id {event_id!r} was used for an event with another content"
    )


_insert = Recorded.__table__.insert()  # type: ignore[attr-defined]


def record_events(session: Session, events: Sequence[MeteringEvent]) -> None:
    """Record events with one statement.

    Raises ``MeteringEventReused`` when a rival has just used the name of one of them.
    """
    if not events:
        return
    now = clock.now()
    rows = [
        {
            "source": event.source,
            "event_id": event.event_id,
            "payload_hash": event.payload_hash,
            "delegation_id": event.delegation_id,
            "actor": event.actor,
            "owner_id": event.owner_id,
            "payer_owner_id": event.payer_owner_id,
            "operation": event.operation,
            "cost_micros": event.cost_micros,
            "metadata": orjson.dumps(dict(event.metadata)).decode(),
            "occurred_at": event.occurred_at,
            "recorded_at": now,
        }
        for event in events
    ]
    try:
        session.execute(_insert, rows)
    except IntegrityError as error:
        if "source" in str(error.orig):
            raise _reused(events[0].event_id) from None
        raise


_columns = tuple(Recorded.__table__.c)
_of_delegation = (
    select(*_columns)
    .where(Recorded.delegation_id == bindparam("delegation_id"))
    .order_by(Recorded.seq.desc())
    .limit(bindparam("limit"))
)


def list_delegation_events(reader: Reader, delegation_id: str, *, limit: int) -> list[AnyRow]:
    """Return the latest ``limit`` events of a delegation, oldest first."""
    parameters = {"delegation_id": delegation_id, "limit": limit}
    return list(reader.execute(_of_delegation, parameters))[::-1]


def list_metering(
    reader: Reader, *, owner_id: str | None, limit: int, before: int | None
) -> list[AnyRow]:
    """Return up to ``limit`` events, newest first, older than the number ``before``.

    ``owner_id`` limits them to what that owner did or pays for. Each of the two has an index in the
    order of the list, so that the two short runs of a page are all that is read.
    """
    if owner_id is None:
        chosen = _newest(limit, before)
        return list(reader.execute(chosen))
    runs = [
        _newest(limit, before).where(side == owner_id).subquery()
        for side in (Recorded.owner_id, Recorded.payer_owner_id)
    ]
    # Work for an agent of one's own is in both.
    seqs = union_all(*(select(run.c.seq) for run in runs)).subquery()
    return list(
        reader.execute(
            select(*_columns)
            .where(Recorded.seq.in_(select(seqs.c.seq)))
            .order_by(Recorded.seq.desc())
            .limit(limit)
        )
    )


def _newest(limit: int, before: int | None) -> Select[*tuple[Any, ...]]:
    statement = select(*_columns).order_by(Recorded.seq.desc()).limit(limit)
    return statement if before is None else statement.where(Recorded.seq < before)


def costs_by_delegation() -> Select[*tuple[Any, ...]]:
    """Select the sum of each delegation's events (``delegation_id``, ``cost``)."""
    return (
        select(
            Recorded.delegation_id,
            cast(func.sum(Recorded.cost_micros), BigInteger).label("cost"),
        )
        .where(Recorded.delegation_id.is_not(None))
        .group_by(Recorded.delegation_id)
    )
