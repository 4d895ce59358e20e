"""Reading delegations: one statement for each table, whatever a page holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    cast,
    extract,
    func,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from app.db import UTCDateTime
from app.delegation.breaker import THRESHOLDS
from app.delegation.errors import DelegationNotFound
from app.delegation.lifecycle import (
    DELEGATE,
    DISPUTED,
    IN_PROGRESS,
    LIVE,
    OFFERED,
    REQUESTER,
    SETTLED,
)
from app.delegation.models import Delegation, DelegationEvent, ImportRun, LegacyRecord, OfferQueue
from app.ledger.queries import closing_transactions
from app.registry.queries import Counterparty, agents_of
from app.statements import Statement, is_one_of, to_json

Reader = Connection | Session
AnyRow = Row[*tuple[Any, ...]]

MAX_LIVE = 2**31 - 1

_columns = tuple(Delegation.__table__.c)
# As much of a task as a line of a list shows, in characters.
BRIEF = 160
# What no list shows, and may be a megabyte.
_UNLISTED = ("task_input", "deliverable", "policy_decision")
_listed_columns = tuple(column for column in _columns if column.name not in _UNLISTED)
_brief_columns = (
    *(column for column in _listed_columns if column.name != "task_spec"),
    func.substr(Delegation.task_spec, 1, BRIEF).label("task_spec"),
)
_in_escrow = Delegation.held_micros - Delegation.released_micros
_find_delegation = select(*_columns).where(Delegation.id == bindparam("delegation_id"))
_list_events = (
    select(*DelegationEvent.__table__.c)
    .where(
        DelegationEvent.delegation_id == bindparam("delegation_id"),
        DelegationEvent.number > bindparam("after"),
    )
    .order_by(DelegationEvent.number)
    .limit(bindparam("limit"))
)
_find_legacy_record = select(*LegacyRecord.__table__.c).where(
    LegacyRecord.id == bindparam("delegation_id")
)
_find_owners = select(Delegation.requester_owner_id, Delegation.delegate_owner_id).where(
    Delegation.id == bindparam("delegation_id")
)


def find_delegation(reader: Reader, delegation_id: str) -> AnyRow:
    """Return a delegation's row. Raises ``DelegationNotFound``."""
    row = reader.execute(_find_delegation, {"delegation_id": delegation_id}).first()
    if row is None:
        raise DelegationNotFound(f"no delegation has the id {delegation_id!r}")
    return row


def find_legacy_record(reader: Reader, delegation_id: str) -> AnyRow:
    """Return an imported record. Raises ``DelegationNotFound``."""
    row = reader.execute(_find_legacy_record, {"delegation_id": delegation_id}).first()
    if row is None:
        raise DelegationNotFound(f"no delegation has the id {delegation_id!r}")
    return row


def list_legacy_records(
    reader: Reader, *, owner_id: str | None, limit: int, before: tuple[datetime, str] | None
) -> list[AnyRow]:
    """Return up to ``limit`` imported records, newest first, older than the position ``before``.

    ``owner_id`` limits them to those with an agent on either side that is the owner's now.
    """
    statement = select(*LegacyRecord.__table__.c)
    if owner_id is not None:
        mine = agents_of(owner_id)
        sides = (LegacyRecord.requester_agent_id, LegacyRecord.delegate_agent_id)
        statement = statement.where(or_(*(side.in_(mine) for side in sides)))
    if before is not None:
        statement = statement.where(tuple_(LegacyRecord.created_at, LegacyRecord.id) < before)
    newest = (LegacyRecord.created_at.desc(), LegacyRecord.id.desc())
    return list(reader.execute(statement.order_by(*newest).limit(limit)))


def find_owners(reader: Reader, delegation_id: str) -> tuple[str, ...]:
    """Return the ids of the owners of both sides; nothing for a delegation that does not exist."""
    row = reader.execute(_find_owners, {"delegation_id": delegation_id}).first()
    return tuple(row) if row else ()


def list_events(
    reader: Reader, delegation_id: str, *, limit: int = 1_000_000, after: int = 0
) -> list[AnyRow]:
    """Return up to ``limit`` events of a delegation in order, those after the number ``after``."""
    parameters = {"delegation_id": delegation_id, "limit": limit, "after": after}
    return list(reader.execute(_list_events, parameters))


def list_delegations(
    reader: Reader,
    *,
    owner_id: str | None,
    agent_id: str | None = None,
    role: str | None = None,
    status: str | Collection[str] | None = None,
    settlement: str | None = None,
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    limit: int,
    before: tuple[datetime, str] | None = None,
    brief: bool = False,
) -> list[AnyRow]:
    """Return up to ``limit`` delegations, newest first, older than the position ``before``.

    ``status`` is one state or several. The task's input, its result and the policy's decision are
    left out; with ``brief`` all but the beginning of ``task_spec``, too.

    ``owner_id`` limits them to those with an agent of that owner on either side. Each side has an
    index in the order of the list, so that the two short runs of a page are all that is read. Those
    that are not settled are few, however many there are in all, and are found among themselves.
    """
    filters: list[ColumnElement[bool]] = []
    statuses = {status} if isinstance(status, str) else set(status or ())
    if statuses:
        filters.append(Delegation.status.in_(sorted(statuses)))
    if settlement is not None:
        filters.append(Delegation.settlement == settlement)
    if created_from is not None:
        filters.append(Delegation.created_at >= created_from)
    if created_before is not None:
        filters.append(Delegation.created_at < created_before)
    if before is not None:
        filters.append(tuple_(Delegation.created_at, Delegation.id) < before)
    sides = [role] if role else [REQUESTER, DELEGATE]
    if owner_id is None and agent_id is None:
        # Every delegation has both sides, so that one of them finds them all.
        sides = [REQUESTER]
    is_live = bool(statuses) and statuses.issubset(LIVE)
    unsettled = is_live or settlement not in (None, SETTLED)
    if unsettled and agent_id is None and role is None:
        runs = [_live_run(owner_id, filters, limit)]
    else:
        runs = [_run(side, owner_id, agent_id, filters, limit) for side in sides]
    newest = union_all(*runs).subquery() if len(runs) > 1 else runs[0].subquery()
    statement = (
        select(*(_brief_columns if brief else _listed_columns))
        .where(Delegation.id.in_(select(newest.c.id)))
        .order_by(Delegation.created_at.desc(), Delegation.id.desc())
        .limit(limit)
    )
    return list(reader.execute(statement))


def _run(
    side: str,
    owner_id: str | None,
    agent_id: str | None,
    filters: list[ColumnElement[bool]],
    limit: int,
) -> Select[Any]:
    """Select the newest ids with the agent, else with an agent of the owner, on one side."""
    table = Delegation.__table__.c
    conditions = list(filters)
    if agent_id is not None:
        conditions.append(table[f"{side}_agent_id"] == agent_id)
        if owner_id is not None:
            mine = (Delegation.requester_owner_id, Delegation.delegate_owner_id)
            conditions.append(or_(*(column == owner_id for column in mine)))
    elif owner_id is not None:
        conditions.append(table[f"{side}_owner_id"] == owner_id)
    run = (
        select(Delegation.id)
        .where(*conditions)
        .order_by(Delegation.created_at.desc(), Delegation.id.desc())
        .limit(limit)
        .subquery()
    )
    return select(run.c.id)


@dataclass(frozen=True)
class LiveSummary:
    """How many delegations are in each live state, how many that have ended are in which state of
    settlement, what all of them hold, and when the first is due.
    """

    counts: dict[str, int]
    unsettled: dict[str, int]
    held_micros: int
    first_due_at: datetime | None


def summarize_live(reader: Reader) -> LiveSummary:
    """Sum up the delegations that are not settled; reads those only, through their index."""
    statement = (
        select(
            Delegation.status,
            Delegation.settlement,
            func.count().label("delegations"),
            func.sum(_in_escrow).label("held"),
            func.min(Delegation.due_at).label("due_at"),
        )
        .where(Delegation.due_at.is_not(None))
        .group_by(Delegation.status, Delegation.settlement)
    )
    rows = reader.execute(statement).all()
    unsettled: Counter[str] = Counter()
    for row in rows:
        if row.status not in LIVE:
            unsettled[row.settlement] += row.delegations
    return LiveSummary(
        {row.status: row.delegations for row in rows if row.status in LIVE},
        unsettled,
        sum(int(row.held) for row in rows),
        min((row.due_at for row in rows), default=None),
    )


def _live_run(owner_id: str | None, filters: list[ColumnElement[bool]], limit: int) -> Select[Any]:
    """Select the newest ids of delegations that are not settled."""
    # A limit, even one that nothing reaches, has both databases read these rows first. They would
    # rather walk through all delegations in the order of the list until they meet enough.
    live = (
        select(Delegation.id, Delegation.created_at)
        .where(Delegation.due_at.is_not(None), *_of_owner(owner_id), *filters)
        .limit(MAX_LIVE)
        .subquery()
    )
    run = select(live.c.id).order_by(live.c.created_at.desc(), live.c.id.desc()).limit(limit)
    return select(run.subquery().c.id)


_newest = Statement(select(func.max(Delegation.created_at).label("created_at")))


def next_moment(session: Session, now: datetime) -> datetime:
    """Return when a delegation counts as created that is made now: after every one there is.

    Lists are in the order of creation. A clock that was set back would put what is new behind what
    is old, so time stands still here until the clock is past the last one again.
    """
    newest = _newest.first(session, {}).created_at
    return now if newest is None or newest < now else newest + timedelta(microseconds=1)


def find_window(
    reader: Reader, *, size: int, before: tuple[datetime, str] | None
) -> datetime | None:
    """Return when the oldest of the ``size`` newest delegations before a position was made.

    None where there are not as many. Reads an index alone, so that a search for a state that is
    rare can be kept to as many rows at a time.
    """
    statement = select(Delegation.created_at)
    if before is not None:
        statement = statement.where(tuple_(Delegation.created_at, Delegation.id) < before)
    newest = (Delegation.created_at.desc(), Delegation.id.desc())
    statement = statement.order_by(*newest).offset(size - 1).limit(1)
    found: datetime | None = reader.execute(statement).scalar_one_or_none()
    return found


def list_overdue(reader: Reader, now: datetime, *, limit: int) -> list[str]:
    """Return the ids of up to ``limit`` overdue delegations, longest overdue first."""
    statement = (
        select(Delegation.id)
        .where(Delegation.due_at <= now)
        .order_by(Delegation.due_at)
        .limit(limit)
    )
    return list(reader.execute(statement).scalars())


def is_waiting(status: str, owner_id: Any) -> list[ColumnElement[bool]]:
    """Return the conditions that a task of an owner waits for ``:agent_id`` at ``:now``.

    It is an offer, or the lease of whoever took it on has run out. To be read ``IN_LINE``.
    """
    conditions = [
        Delegation.delegate_agent_id == bindparam("agent_id"),
        Delegation.status == status,
        # A range where an equality would do. It leaves the column part of the order, which only the
        # index of what waits has. PostgreSQL would rather walk through another one until it meets
        # what it looks for, past 100,000 offers of somebody else.
        Delegation.requester_owner_id >= owner_id,
        Delegation.requester_owner_id <= owner_id,
        Delegation.due_at > bindparam("now"),
    ]
    if status == IN_PROGRESS:
        conditions.append(Delegation.lease_expires_at <= bindparam("now"))
    return conditions


def count_waiting(reader: Reader, agent_ids: Collection[str], now: datetime) -> dict[str, int]:
    """Return how many tasks wait for each agent that any wait for."""
    parameters = {"ids": to_json(sorted(agent_ids)), "now": now}
    rows = _count_waiting.all(reader, parameters)
    return {row.delegate_agent_id: row.tasks for row in rows}


_count_waiting = Statement(
    {
        dialect: select(Delegation.delegate_agent_id, func.count().label("tasks"))
        .where(
            named,
            Delegation.due_at > bindparam("now", type_=UTCDateTime),
            or_(
                Delegation.status == OFFERED,
                and_(
                    Delegation.status == IN_PROGRESS,
                    Delegation.lease_expires_at <= bindparam("now", type_=UTCDateTime),
                ),
            ),
        )
        .group_by(Delegation.delegate_agent_id)
        for dialect, named in is_one_of(Delegation.delegate_agent_id, "ids").items()
    }
)


def find_progress(reader: Reader, delegation_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return of each delegation how many events it has, and its metered cost in micro-USD."""
    rows = _find_progress.all(reader, {"ids": to_json(sorted(delegation_ids))})
    return {row.id: progress(row) for row in rows}


def progress(row: Any) -> tuple[int, int]:
    """Return what grows as a delegation goes on: its number of events, and its metered cost."""
    return row.events, row.metered_micros


_find_progress = Statement(
    {
        dialect: select(Delegation.id, Delegation.events, Delegation.metered_micros).where(named)
        for dialect, named in is_one_of(Delegation.id, "ids").items()
    }
)


# The order of what waits: by owner, oldest first.
IN_LINE = (Delegation.requester_owner_id, Delegation.id)


def _owners_with(status: str) -> CTE:
    """Select the owners that have live tasks of a status at an agent, then one None.

    Goes from one owner to the next in the index, so that the cost depends on how many owners there
    are, and not on how many tasks they have.
    """
    columns = Delegation.__table__.c
    first = (
        select(columns.requester_owner_id)
        .where(
            columns.delegate_agent_id == bindparam("agent_id"),
            columns.status == status,
            columns.due_at.is_not(None),
        )
        .order_by(*IN_LINE)
        .limit(1)
    )
    owners = select(first.scalar_subquery().label("owner_id"))
    found = owners.cte(f"owners_{status}", recursive=True)
    following = first.where(columns.requester_owner_id > found.c.owner_id).correlate(found)
    return found.union_all(select(following.scalar_subquery()).where(found.c.owner_id.is_not(None)))


def _oldest_waiting(status: str) -> Select[Any]:
    """Select the oldest task of a status that each owner has waiting at an agent."""
    owners = _owners_with(status)
    oldest = (
        select(Delegation.id)
        .where(*is_waiting(status, owners.c.owner_id))
        .order_by(*IN_LINE)
        .limit(1)
        .correlate(owners)
    )
    return select(owners.c.owner_id, oldest.scalar_subquery().label("oldest"))


_candidates = union_all(*map(_oldest_waiting, (OFFERED, IN_PROGRESS))).subquery()
WAITING_OWNERS = (
    select(_candidates.c.owner_id)
    .outerjoin(
        OfferQueue,
        and_(
            OfferQueue.delegate_agent_id == bindparam("agent_id"),
            OfferQueue.requester_owner_id == _candidates.c.owner_id,
        ),
    )
    .where(_candidates.c.oldest.is_not(None))
    .group_by(_candidates.c.owner_id, OfferQueue.turn)
    .order_by(func.coalesce(OfferQueue.turn, 0), func.min(_candidates.c.oldest))
)
_list_waiting_owners = Statement(WAITING_OWNERS)


def list_waiting_owners(reader: Reader, agent_id: str, now: datetime) -> list[str]:
    """Return the owners whose tasks wait for an agent, the one whose turn it is first.

    That is who had its last turn longest ago; of those that never had one, who waits longest.
    """
    rows = _list_waiting_owners.all(reader, {"agent_id": agent_id, "now": now})
    return [row.owner_id for row in rows]


def _of_owner(owner_id: str | None) -> list[ColumnElement[bool]]:
    """Return the condition that an owner's agent is on either side, for reading live rows.

    Written so that no database takes it for a reason to read all that the owner ever did.
    """
    if owner_id is None:
        return []
    sides = (Delegation.requester_owner_id, Delegation.delegate_owner_id)
    return [case(*((side == owner_id, 1) for side in sides), else_=0) == 1]


def count_live(reader: Reader, owner_id: str | None = None) -> list[AnyRow]:
    """Return how many unsettled delegations are in each state and what they hold in micro-USD.

    The states are ``status`` and ``settlement``. Of an owner: those with its agent on either side,
    and what its own agents have in escrow. Reads unsettled rows alone, which a partial index finds.
    """
    held: Any = _in_escrow
    if owner_id is not None:
        held = case((Delegation.requester_owner_id == owner_id, held), else_=0)
    statement = (
        select(
            Delegation.status,
            Delegation.settlement,
            func.count().label("number"),
            cast(func.sum(held), BigInteger).label("held_micros"),
        )
        .where(Delegation.due_at.is_not(None), *_of_owner(owner_id))
        .group_by(Delegation.status, Delegation.settlement)
    )
    return list(reader.execute(statement))


def list_due(
    reader: Reader, statuses: tuple[str, ...], *, owner_id: str | None = None, limit: int
) -> list[AnyRow]:
    """Return up to ``limit`` delegations of these live statuses, or disputed after they ended.

    Those due soonest come first.
    """
    statement = (
        select(*_columns)
        .where(
            Delegation.due_at.is_not(None),
            or_(Delegation.status.in_(statuses), Delegation.settlement == DISPUTED),
            *_of_owner(owner_id),
        )
        .order_by(Delegation.due_at)
        .limit(limit)
    )
    return list(reader.execute(statement))


def count_overdue(reader: Reader, before: datetime, *, limit: int) -> int:
    """Return how many delegations the system should have closed ``before``; counts to ``limit``."""
    found = select(Delegation.id).where(Delegation.due_at <= before).limit(limit).subquery()
    return int(reader.execute(select(func.count()).select_from(found)).scalar_one())


def sum_closings(reader: Reader, first_seq: int, last_seq: int) -> list[AnyRow]:
    """Return what the closing transactions of a range of the ledger's numbers ended.

    One row for each hour (since 1970), status, breaker level and pair of owners: how many
    delegations, and what they charged and refunded in micro-USD.
    """
    closing = closing_transactions(first_seq, last_seq).subquery()
    statement = _sum_endings(Delegation.held_micros - Delegation.charged_micros).join(
        closing, closing.c.delegation_id == Delegation.id
    )
    return list(reader.execute(statement))


def sum_unsettled(reader: Reader) -> list[AnyRow]:
    """Return what has ended and is not settled yet, in rows like those of ``sum_closings``."""
    statement = _sum_endings(Delegation.released_micros).where(Delegation.due_at.is_not(None))
    return list(reader.execute(statement))


def _sum_endings(refunded: Any) -> Select[*tuple[Any, ...]]:
    hour = (cast(extract("epoch", Delegation.closed_at), BigInteger) // 3600).label("hour")
    keys = (
        hour,
        Delegation.status,
        Delegation.breaker_level,
        Delegation.requester_owner_id,
        Delegation.delegate_owner_id,
    )
    charged = func.coalesce(func.sum(Delegation.charged_micros), 0)
    return (
        select(
            *keys,
            func.count().label("number"),
            cast(charged, BigInteger).label("charged_micros"),
            cast(func.sum(refunded), BigInteger).label("refunded_micros"),
        )
        .where(Delegation.closed_at.is_not(None))
        .group_by(*keys)
    )


def list_imports(reader: Reader) -> list[AnyRow]:
    """Return the files of an earlier service that were imported, oldest first."""
    return list(reader.execute(select(*ImportRun.__table__.c).order_by(ImportRun.finished_at)))


def count_outcomes(
    reader: Reader, agent_ids: Collection[str] | None = None
) -> dict[str, dict[str, Counterparty]]:
    """Return what delegations say of each delegate, by the requester's owner, from rows alone.

    Of all of history, or of that of some agents. What each says was decided by
    ``settlement.verdict`` when it was closed.
    """
    own = func.coalesce(Delegation.own_micros, 0)
    paid_at = case((own > 0, Delegation.closed_at))
    statement = (
        select(
            Delegation.delegate_agent_id,
            Delegation.requester_owner_id,
            cast(func.sum(case((Delegation.evidence > 0, 1), else_=0)), BigInteger),
            cast(func.sum(case((Delegation.evidence < 0, 1), else_=0)), BigInteger),
            cast(func.sum(own), BigInteger),
            func.min(paid_at, type_=UTCDateTime()),
            func.max(paid_at, type_=UTCDateTime()),
        )
        .where(Delegation.evidence != 0, Delegation.settlement == SETTLED)
        .group_by(Delegation.delegate_agent_id, Delegation.requester_owner_id)
    )
    if agent_ids is not None:
        statement = statement.where(Delegation.delegate_agent_id.in_(agent_ids))
    found: dict[str, dict[str, Counterparty]] = {}
    for agent_id, owner_id, *dealings in reader.execute(statement):
        found.setdefault(agent_id, {})[owner_id] = Counterparty(*dealings)
    return found


# What the breaker did, as events tell it: a threshold, by its per cent, and what came of it.
PAUSED, REAUTHORIZED = "paused", "reauthorized"
_alert = case(
    *(
        (DelegationEvent.details.startswith(f'{{"threshold_pct":{threshold}'), str(threshold))
        for threshold in THRESHOLDS
    ),
    else_=DelegationEvent.kind,
)
_hour_of_alert = cast(extract("epoch", DelegationEvent.at), BigInteger) // 3600
_alerts = and_(
    DelegationEvent.delegation_id == Delegation.id,
    DelegationEvent.kind.in_(("threshold", PAUSED, REAUTHORIZED)),
)
# Others never reached a threshold, so that their events need not be read.
_has_alerts = or_(
    Delegation.breaker_level > 0, Delegation.authorized_micros != Delegation.estimated_micros
)


def sum_alerts(reader: Reader, first_seq: int, last_seq: int) -> list[AnyRow]:
    """Return what the breaker did to delegations that a range of the ledger's numbers closed.

    One row for each hour (since 1970), alert (a threshold in per cent, ``PAUSED`` or
    ``REAUTHORIZED``) and pair of owners, with how many there were.
    """
    closing = closing_transactions(first_seq, last_seq).subquery()
    closed = select(closing.c.delegation_id)
    return _count_alerts(reader, closed, Delegation.due_at.is_(None))


def count_live_alerts(reader: Reader, since: datetime) -> list[AnyRow]:
    """Return the same of delegations that the ledger has not closed yet, from a moment on."""
    live = aliased(Delegation)
    return _count_alerts(
        reader, select(live.id).where(live.due_at.is_not(None)), DelegationEvent.at >= since
    )


def _count_alerts(
    reader: Reader, delegations: Select[Any], condition: ColumnElement[bool]
) -> list[AnyRow]:
    """Count alerts of some delegations, which are looked up first: there are far more events."""
    keys = (
        _hour_of_alert.label("hour"),
        _alert.label("alert"),
        Delegation.requester_owner_id,
        Delegation.delegate_owner_id,
    )
    statement = (
        select(*keys, func.count().label("number"))
        .join(DelegationEvent, _alerts)
        .where(Delegation.id.in_(delegations), _has_alerts, condition)
        .group_by("hour", "alert", *keys[2:])
    )
    return list(reader.execute(statement))
