"""The types of events that a webhook can be told of, and how one is written down. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from app import clock

PING = "webhook.ping"
EVERYTHING = "*"
EVENT_TYPES = {
    "agent.registered": "one of your agents was registered, or forked into your namespace",
    "agent.status_changed": "one of your agents was deprecated, or made active again",
    "version.published": "a further version of one of your agents was published",
    "evaluation.recorded": "an evaluation of one of your agents was stored",
    "delegation.created": "a task was handed over, with one of your agents on either side",
    "delegation.accepted": "the delegate took the task on",
    "delegation.taken_over": "another worker of the delegate took the task on",
    "delegation.threshold": "use reached 80, 100 or 120 % of what is authorized",
    "delegation.paused": "work is paused until the requester authorizes more",
    "delegation.reauthorized": "the requester authorized more",
    "delegation.asked": "the delegate asked the requester something",
    "delegation.answered": "the requester answered",
    "delegation.cancel_requested": "the requester called the task off while a worker was at it",
    "delegation.delivered": "the delegate handed over a result",
    "delegation.disputed": "the requester contested the result, or what is charged without one",
    "delegation.dispute_overdue": "a dispute waits for an operator, for a further 7 days now",
    "delegation.closed": "the work ended, as `data.status` says",
    "delegation.settled": "what was in review after the end of the work was paid",
}


@dataclass(frozen=True)
class Event:
    """Something that happened to what ``owner_ids`` own.

    ``data`` gives what is told of it; it is asked only when somebody is to be told.
    """

    type: str
    owner_ids: tuple[str, ...]
    occurred_at: datetime
    data: Callable[[], Mapping[str, Any]]

    def payload(self) -> str:
        """Return the JSON text that is sent (Standard Webhooks: type, timestamp, data)."""
        document = {
            "type": self.type,
            "timestamp": clock.isoformat(self.occurred_at),
            "data": self.data(),
        }
        return orjson.dumps(document).decode()
