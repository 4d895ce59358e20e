"""The life of a delegation: its states, who may command what in each, and what the clock does.

Pure: tables and functions over values. ``docs/delegation.md`` draws the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

OFFERED = "offered"
IN_PROGRESS = "in_progress"
PENDING_REAUTHORIZATION = "pending_reauthorization"
INPUT_REQUIRED = "input_required"
DELIVERED = "delivered"
DISPUTED = "disputed"
COMPLETED = "completed"
FAILED_HARD_STOP = "failed_hard_stop"
FAILED = "failed"
DECLINED = "declined"
EXPIRED = "expired"
CANCELLED = "cancelled"

LIVE = (OFFERED, IN_PROGRESS, PENDING_REAUTHORIZATION, INPUT_REQUIRED, DELIVERED, DISPUTED)
TERMINAL = (COMPLETED, FAILED_HARD_STOP, FAILED, DECLINED, EXPIRED, CANCELLED)
STATUSES = LIVE + TERMINAL
# The requester has to answer or to reauthorize before the delegate can go on.
AWAITING = (PENDING_REAUTHORIZATION, INPUT_REQUIRED)

# The state of the task in the Agent2Agent protocol (A2A), for clients that speak it.
A2A_STATES = {
    OFFERED: "submitted",
    IN_PROGRESS: "working",
    PENDING_REAUTHORIZATION: "input-required",
    INPUT_REQUIRED: "input-required",
    DELIVERED: "completed",
    DISPUTED: "completed",
    COMPLETED: "completed",
    FAILED_HARD_STOP: "failed",
    FAILED: "failed",
    DECLINED: "rejected",
    EXPIRED: "failed",
    CANCELLED: "canceled",
}

INLINE, REMOTE = "inline", "remote"
REQUESTER, DELEGATE, OPERATOR, SYSTEM = "requester", "delegate", "operator", "system"

# A worker that has not renewed its lease may be replaced by another one of the same agent; after
# this many leases without a sign of life the work counts as lost.
LOST_AFTER_LEASES = 3
# So often in a row may work be taken over without a sign of life in between.
MAX_SILENT_TAKEOVERS = 3
CANCEL_GRACE = timedelta(seconds=30)
RESOLVE_WITHIN = timedelta(days=7)

DEFAULT_ACCEPT_SECONDS = 15 * 60
DEFAULT_LEASE_SECONDS = 60
DEFAULT_DEADLINE_SECONDS = 60 * 60
DEFAULT_REVIEW_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Command:
    """A command: which side may give it, in which states, and whether an operator may as well."""

    side: str
    states: tuple[str, ...]
    by_operator: bool = False


_UNDER_WAY = (IN_PROGRESS, PENDING_REAUTHORIZATION, INPUT_REQUIRED)
COMMANDS = {
    "accept": Command(DELEGATE, (OFFERED, IN_PROGRESS)),
    "decline": Command(DELEGATE, (OFFERED,)),
    "heartbeat": Command(DELEGATE, _UNDER_WAY),
    "meter": Command(DELEGATE, (IN_PROGRESS, PENDING_REAUTHORIZATION)),
    "ask": Command(DELEGATE, (IN_PROGRESS,)),
    "deliver": Command(DELEGATE, (IN_PROGRESS,)),
    "fail": Command(DELEGATE, _UNDER_WAY),
    "answer": Command(REQUESTER, (INPUT_REQUIRED,)),
    "reauthorize": Command(REQUESTER, (PENDING_REAUTHORIZATION,)),
    "cancel": Command(REQUESTER, (OFFERED, *_UNDER_WAY), by_operator=True),
    "accept-result": Command(REQUESTER, (DELIVERED,)),
    "dispute": Command(REQUESTER, (DELIVERED,)),
    "resolve": Command(OPERATOR, (DISPUTED,), by_operator=True),
}


def allowed_commands(status: str, execution: str = REMOTE) -> list[str]:
    """Return the commands that a delegation in ``status`` can be given, by anybody.

    Inline work is done when it is reported, so nobody accepts, meters or delivers it.
    """
    names = ("reauthorize", "cancel") if execution == INLINE else tuple(COMMANDS)
    return sorted(name for name in names if status in COMMANDS[name].states)


def commands_for(delegation: Any) -> list[str]:
    """Return the commands that a delegation can be given now, by anybody.

    Takes anything with the columns of a delegation. Where the whole maximum budget is used, no
    amount can be authorized any more. Then the work ends as it is: remote work can be delivered,
    and inline work, which is done, can be accepted.
    """
    allowed = allowed_commands(delegation.status, delegation.execution)
    if delegation.status != PENDING_REAUTHORIZATION or (
        delegation.metered_micros < delegation.max_budget_micros
    ):
        return allowed
    ending = "accept-result" if delegation.execution == INLINE else "deliver"
    return sorted({*allowed, ending} - {"reauthorize"})


@dataclass(frozen=True)
class Due:
    """What the system does by itself at ``at``: the state it leads to, why, and who is paid.

    ``paid`` is False where everything held goes back to the requester, and True where what was
    metered is paid as far as it is held.
    """

    at: datetime
    status: str
    reason: str
    paid: bool


def next_due(delegation: Any) -> Due | None:
    """Return what the system will do with a delegation and when; None for a closed one.

    Takes anything with the columns of a delegation. While work is under way several clocks run, and
    the first to be reached decides. Where only the requester's silence held up the work, the work
    that was done is paid.
    """
    status, at = delegation.status, delegation.due_at
    if status == OFFERED:
        return Due(at, EXPIRED, "not accepted in time", paid=False)
    if status in (PENDING_REAUTHORIZATION, INPUT_REQUIRED):
        return Due(at, EXPIRED, "the requester did not answer before the deadline", paid=True)
    if status == DELIVERED:
        return Due(at, COMPLETED, "the review period ended", paid=True)
    if status == DISPUTED:
        return Due(at, COMPLETED, "the dispute was not resolved in time", paid=True)
    if status != IN_PROGRESS:
        return None
    clocks = [
        Due(delegation.deadline_at, FAILED, "the deadline passed", paid=False),
        _lost(delegation),
    ]
    if delegation.cancel_requested_at is not None:
        end = delegation.cancel_requested_at + CANCEL_GRACE
        clocks.append(Due(end, CANCELLED, "cancelled by the requester", paid=True))
    return min(clocks, key=lambda due: due.at)


def _lost(delegation: Any) -> Due:
    """Return when work counts as lost: nobody may take it over any more, or nobody did in time."""
    end = delegation.lease_expires_at
    if delegation.silent_takeovers >= MAX_SILENT_TAKEOVERS:
        reason = f"{MAX_SILENT_TAKEOVERS} workers took it over and none gave a sign of life"
        return Due(end, FAILED, reason, paid=False)
    end += timedelta(seconds=delegation.lease_seconds * (LOST_AFTER_LEASES - 1))
    return Due(end, FAILED, "the worker gave no sign of life", paid=False)


def overdue(delegation: Any, now: datetime) -> Due | None:
    """Return what should have happened to a delegation by now, None if nothing."""
    if delegation.due_at is None or now < delegation.due_at:
        return None
    return next_due(delegation)
