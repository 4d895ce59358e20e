"""Metering events: the work, the agent that did it, and its cost. Events are only ever added.

Like the service, functions run in the caller's transaction and never commit; costs are micro-USD.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Integer,
    Select,
    String,
    Subquery,
    bindparam,
    func,
    select,
    tuple_,
    union,
)
from sqlalchemy.orm import Session

from app import clock, ids
from app.canonical import canonical_json
from app.db import Base, bounded_sum
from app.ledger import models
from app.ledger.errors import MeteringEventReused
from app.ledger.queries import AnyRow, Reader
from app.statements import RowInsert

# Who reports what the service itself does.
SERVICE = "service"
MAX_SEQ = 2**63 - 1


@dataclass(frozen=True)
class MeteringEvent:
    """One unit of reported work or cost.

    ``source`` says who reports it and ``event_id`` is the source's name for it, for ever.
    ``actor`` is shown to readers: an agent's id or an owner's name. ``owner_id`` is whose work is
    reported, ``payer_owner_id`` who pays for it; both may read the event.
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

    @cached_property
    def payload_hash(self) -> str:
        """The SHA-256, in hexadecimal, of what makes two reports under one id the same event.

        That is everything but the time: a source that names none gets the time of each attempt.
        """
        payload = (
            self.operation,
            self.cost_micros,
            self.actor,
            self.owner_id,
            self.payer_owner_id,
            self.delegation_id,
        )
        # Only what a source sends can spell one value in several ways.
        metadata = canonical_json(dict(self.metadata)) if self.metadata else b"{}"
        return hashlib.sha256(orjson.dumps(payload) + metadata).hexdigest()


_events: Any = Base.metadata.tables[models.MeteringEvent.__tablename__]
_find_recorded = select(_events.c.source, _events.c.event_id, _events.c.payload_hash).where(
    tuple_(_events.c.source, _events.c.event_id).in_(bindparam("names", expanding=True))
)


def unseen(session: Session, events: Sequence[MeteringEvent]) -> list[MeteringEvent]:
    """Return the events that are not recorded yet, in order; one given twice counts once.

    Raises ``MeteringEventReused`` when the source has reported another payload under the same id,
    earlier or in ``events``; see ``MeteringEvent.payload_hash``.
    """
    names = [(event.source, event.event_id) for event in events]
    recorded: dict[tuple[str, str], str] = {}
    if names:
        rows = session.connection().execute(_find_recorded, {"names": names})
        recorded = {(source, event_id): payload_hash for source, event_id, payload_hash in rows}
    new: dict[tuple[str, str], MeteringEvent] = {}
    for name, event in zip(names, events, strict=True):
        known = recorded.get(name) or new.setdefault(name, event).payload_hash
        if known != event.payload_hash:
            raise MeteringEventReused(f"another event was reported as {event.event_id!r}")
    return list(new.values())


_insert = RowInsert(_events, unless_present=True)


def record_events(session: Session, events: Sequence[MeteringEvent]) -> None:
    """Record events in the order given, with one statement.

    Raises ``MeteringEventReused`` when one of them is recorded already, perhaps by a rival since
    ``unseen`` was asked; the caller then has to roll back.
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
    if _insert.run(session, rows) < len(rows):
        raise MeteringEventReused("one of the events was reported by another request just now")


def record_operation(
    session: Session, owner_id: str, owner_name: str, operation: str, metadata: Mapping[str, Any]
) -> None:
    """Record something that the service itself did for an owner; it costs nothing."""
    event = MeteringEvent(
        source=SERVICE,
        event_id=f"{operation}:{ids.new_id()}",
        operation=operation,
        cost_micros=0,
        actor=owner_name,
        owner_id=owner_id,
        payer_owner_id=None,
        delegation_id=None,
        metadata=metadata,
        occurred_at=clock.now(),
    )
    record_events(session, [event])


_columns = (
    _events.c.seq,
    _events.c.source,
    _events.c.event_id,
    _events.c.actor,
    _events.c.operation,
    _events.c.cost_micros,
    _events.c["metadata"].label("meta"),
    _events.c.delegation_id,
    _events.c.occurred_at,
    _events.c.recorded_at,
)
# Put into the text, so that PostgreSQL knows how little it has to read of an owner's events.
_limit = bindparam("limit", type_=Integer, literal_execute=True)


_before = bindparam("before", type_=BigInteger)
_owner_id = bindparam("owner_id", type_=String)


def _newest(order: Sequence[Any], *conditions: Any) -> Any:
    newest_first = [column.desc() for column in order]
    return select(*_columns).where(*conditions).order_by(*newest_first).limit(_limit)


def _newest_of_owner(dialect: str) -> Any:
    """Select the newest events that an owner reports or pays for.

    Each side is cut before they are put together: one condition on both columns would read all of
    the owner's events. UNION shows once what an owner both reports and pays for.
    """
    sides = []
    for column in (_events.c.owner_id, _events.c.payer_owner_id):
        if dialect == "sqlite":
            conditions = [column == _owner_id, _events.c.seq < _before]
        else:
            # A range where an equality is meant. For an equality PostgreSQL might as well walk
            # through everybody's events by their number, which is all of them if these are old.
            place = tuple_(column, _events.c.seq)
            conditions = [column >= _owner_id, place < tuple_(_owner_id, _before)]
        side = _newest([column, _events.c.seq], *conditions).subquery()
        sides.append(select(side))
    both = union(*sides).subquery()
    return select(both).order_by(both.c.seq.desc()).limit(_limit)


_list_all = _newest([_events.c.seq], _events.c.seq < _before)
_list_of_owner = {dialect: _newest_of_owner(dialect) for dialect in ("sqlite", "postgresql")}


def list_metering(
    reader: Reader, *, owner_id: str | None, limit: int, before: int | None
) -> list[AnyRow]:
    """Return up to ``limit`` events, newest first, older than the number ``before``.

    Of an owner: what it reports or pays for. ``owner_id`` None stands for everybody.
    """
    parameters: dict[str, Any] = {"limit": limit, "before": MAX_SEQ if before is None else before}
    if owner_id is None:
        return list(reader.execute(_list_all, parameters))
    bind = reader.get_bind() if isinstance(reader, Session) else reader
    statement = _list_of_owner[bind.dialect.name]
    return list(reader.execute(statement, parameters | {"owner_id": owner_id}))


_list_of_delegation = (
    select(*_columns)
    .where(_events.c.delegation_id == bindparam("delegation_id"))
    .order_by(_events.c.seq.desc())
    .limit(_limit)
)


def list_delegation_events(reader: Reader, delegation_id: str, *, limit: int) -> list[AnyRow]:
    """Return the latest ``limit`` events of a delegation in the order they were recorded."""
    parameters = {"delegation_id": delegation_id, "limit": limit}
    return list(reader.execute(_list_of_delegation, parameters))[::-1]


def operation_of_service(event_id: Any, metadata: str) -> Select[*tuple[Any, ...]]:
    """Select the service's own event of this id, if its metadata has this part of JSON text."""
    found = _events.alias()
    return select(found.c.seq).where(
        found.c.source == SERVICE,
        found.c.event_id == event_id,
        found.c["metadata"].contains(metadata, autoescape=True),
    )


def metered_by_delegation() -> Subquery:
    """Return a subquery of what was metered: ``delegation_id``, ``metered_micros``, ``events``."""
    return (
        select(
            _events.c.delegation_id,
            bounded_sum(_events.c.cost_micros).label("metered_micros"),
            func.count().label("events"),
        )
        .where(_events.c.delegation_id.is_not(None))
        .group_by(_events.c.delegation_id)
        .subquery("metered")
    )
