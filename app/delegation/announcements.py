"""Delegation's events as those that webhooks are told of, and as those that are counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import changes as committed
from app.db import after_commit
from app.delegation.lifecycle import OFFERED
from app.metrics import metrics
from app.notification.service import Event, publish

Row = Mapping[str, Any]
_OWNERS = ("requester_owner_id", "delegate_owner_id")


def announce(session: Session, changes: Iterable[tuple[Row, Iterable[Row]]]) -> None:
    """Tell the owners of both sides what happened: delegations, each with its new events.

    Takes the columns of both. It is written down in the same transaction, for those who want to
    know; when nobody does, it costs one look for that.
    """
    found = list(changes)
    _count(session, [one for _, events in found for one in events])
    topics = {topic for delegation, _ in found for topic in _topics(delegation)}
    after_commit(session, lambda: committed.tell(topics))
    owner_ids = {delegation[side] for delegation, _ in found for side in _OWNERS}
    publish(
        session,
        owner_ids,
        (_event(delegation, one) for delegation, events in found for one in events),
    )


def offers_of(agent_id: str) -> str:
    """Return the topic of tasks that wait for an agent."""
    return f"offers {agent_id}"


def progress_of(delegation_id: str) -> str:
    """Return the topic of what happens to a delegation."""
    return f"delegation {delegation_id}"


def _topics(delegation: Row) -> Iterable[str]:
    yield progress_of(delegation["id"])
    if delegation["status"] == OFFERED:
        yield offers_of(delegation["delegate_agent_id"])


def _count(session: Session, events: Iterable[Row]) -> None:
    """Have the events counted once they are committed."""
    counted: list[Row] | None = session.info.get(__name__)
    if counted is None:
        counted = session.info[__name__] = []
        after_commit(session, lambda: _count_committed(counted))
    counted += events


def _count_committed(events: Iterable[Row]) -> None:
    counters = metrics()
    for one in events:
        counters.delegation_events.labels(one["kind"]).inc()
        if one["kind"] == "closed":
            counters.delegations_closed.labels(one["status"]).inc()
        elif one["kind"] == "threshold":
            threshold = orjson.loads(one["details"])["threshold_pct"]
            counters.breaker_trips.labels(str(threshold)).inc()


def _event(delegation: Row, happened: Row) -> Event:
    return Event(
        f"delegation.{happened['kind']}",
        tuple(delegation[side] for side in _OWNERS),
        happened["at"],
        partial(_data, delegation, happened),
    )


def _data(delegation: Row, happened: Row) -> dict[str, Any]:
    return {
        "delegation_id": delegation["id"],
        "number": happened["number"],
        "status": happened["status"],
        "execution": delegation["execution"],
        "requester_agent_id": delegation["requester_agent_id"],
        "delegate_agent_id": delegation["delegate_agent_id"],
        "actor": happened["actor"],
        "details": orjson.Fragment(happened["details"]),
    }
