"""Delegation's events as those that webhooks are told of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app.notification.service import Event, publish

Row = Mapping[str, Any]
_OWNERS = ("requester_owner_id", "delegate_owner_id")


def announce(session: Session, changes: Iterable[tuple[Row, Iterable[Row]]]) -> None:
    """Tell the owners of both sides what happened: delegations, each with its new events.

    Takes the columns of both. It is written down in the same transaction, for those who want to
    know; when nobody does, it costs one look for that.
    """
    found = list(changes)
    owner_ids = {delegation[side] for delegation, _ in found for side in _OWNERS}
    publish(
        session,
        owner_ids,
        (_event(delegation, event) for delegation, events in found for event in events),
    )


def _event(delegation: Row, event: Row) -> Event:
    return Event(
        f"delegation.{event['kind']}",
        tuple(delegation[side] for side in _OWNERS),
        event["at"],
        partial(_data, delegation, event),
    )


def _data(delegation: Row, event: Row) -> dict[str, Any]:
    return {
        "delegation_id": delegation["id"],
        "number": event["number"],
        "status": event["status"],
        "execution": delegation["execution"],
        "requester_agent_id": delegation["requester_agent_id"],
        "delegate_agent_id": delegation["delegate_agent_id"],
        "actor": event["actor"],
        "details": orjson.Fragment(event["details"]),
    }
