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

# What becomes of the money, beside the status: nobody has a claim yet, the requester may contest
# the claim, an operator has to decide (DISPUTED, too), or it is paid.
OPEN, IN_REVIEW, SETTLED = "open", "in_review", "settled"
SETTLEMENTS = (OPEN, IN_REVIEW, DISPUTED, SETTLED)
# Why it was settled as it was. What the first four did not allow pays a delegate nothing.
ACCEPTED, REVIEWED, RESOLVED, REPORTED = "accepted", "reviewed", "resolved", "inline"
NOTHING_DUE = "nothing_due"
# Settled by a release that paid at once for work that ended without a delivery.
BEFORE_REVIEWS = "before_reviews"
GROUNDS = (ACCEPTED, REVIEWED, RESOLVED, REPORTED, NOTHING_DUE, BEFORE_REVIEWS)

INLINE, REMOTE = "inline", "remote"
REQUESTER, DELEGATE, OPERATOR, SYSTEM = "requester", "delegate", "operator", "system"

# A worker that has not renewed its lease may be replaced by another one of the same agent; after
# this many leases without a sign of life the work counts as lost.
LOST_AFTER_LEASES = 3
# So often in a row may work be taken over without a sign of life in between.
MAX_SILENT_TAKEOVERS = 3
CANCEL_GRACE = timedelta(seconds=30)
RESOLVE_WITHIN = timedelta(days=7)
# Who waives the review of what is delivered has not waived that of work that is not.
LEAST_REVIEW_OF_ENDING = timedelta(hours=1)

DEFAULT_ACCEPT_SECONDS = 15 * 60
DEFAULT_LEASE_SECONDS = 60
DEFAULT_DEADLINE_SECONDS = 60 * 60
DEFAULT_REVIEW_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Command:
    """A command: which side may give it, in which states, and whether an operator may as well.

    ``settlement`` is the state of settlement that allows it once the work has ended.
    """

    side: str
    states: tuple[str, ...]
    by_operator: bool = False
    settlement: str | None = None


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
    "accept-result": Command(REQUESTER, (DELIVERED,), settlement=IN_REVIEW),
    "dispute": Command(REQUESTER, (DELIVERED,), settlement=IN_REVIEW),
    "resolve": Command(OPERATOR, (DISPUTED,), by_operator=True, settlement=DISPUTED),
}


def allowed_commands(
    status: str, execution: str = REMOTE, settlement: str | None = None
) -> list[str]:
    """Return the commands that a delegation in ``status`` can be given, by anybody.

    Inline work is done when it is reported, so nobody accepts, meters or delivers it.
    ``settlement`` is what it is in once the work has ended.
    """
    if status in TERMINAL:
        return sorted(
            name
            for name, command in COMMANDS.items()
            if command.settlement is not None and command.settlement == settlement
        )
    names = ("reauthorize", "cancel") if execution == INLINE else tuple(COMMANDS)
    return sorted(name for name in names if status in COMMANDS[name].states)


def commands_for(delegation: Any) -> list[str]:
    """Return the commands that a delegation can be given now, by anybody.

    Takes anything with the columns of a delegation. Where the whole maximum budget is used, no
    amount can be authorized any more. Then the work ends as it is: remote work can be delivered,
    and inline work, which is done, can be accepted.
    """
    allowed = allowed_commands(delegation.status, delegation.execution, delegation.settlement)
    if delegation.status != PENDING_REAUTHORIZATION or (
        delegation.metered_micros < delegation.max_budget_micros
    ):
        return allowed
    ending = "accept-result" if delegation.execution == INLINE else "deliver"
    return sorted({*allowed, ending} - {"reauthorize"})


def claim_of(delegation: Any) -> int:
    """Return what the delegate has a claim to: what was metered, but no more than is held."""
    return int(min(delegation.metered_micros, delegation.held_micros))


def settlement_of_ending(delegation: Any) -> str:
    """Return what work is in that ends now without an accepted delivery.

    The requester may contest what was metered before it is paid. Of inline work it reported itself
    what that cost.
    """
    is_reviewed = delegation.execution == REMOTE and claim_of(delegation) > 0
    return IN_REVIEW if is_reviewed else SETTLED


def ground_of_ending(delegation: Any) -> str:
    """Return why work is settled at once that ends without an accepted delivery."""
    return REPORTED if delegation.execution == INLINE else NOTHING_DUE


def review_of_ending(delegation: Any) -> timedelta:
    """Return how long the requester may contest what is charged for work without a delivery."""
    return max(timedelta(seconds=delegation.review_seconds), LEAST_REVIEW_OF_ENDING)


@dataclass(frozen=True)
class Due:
    """What the system does by itself at ``at``: the states it leads to, and why."""

    at: datetime
    status: str
    settlement: str
    reason: str


def next_due(delegation: Any) -> Due | None:
    """Return what the system will do with a delegation and when; None for a closed one.

    Takes anything with the columns of a delegation. While work is under way several clocks run, and
    the first to be reached decides. A dispute ends by an operator's decision alone: of that the
    system reminds.
    """
    status, at = delegation.status, delegation.due_at
    if delegation.settlement == SETTLED:
        return None
    if delegation.settlement == DISPUTED:
        return Due(at, status, DISPUTED, "nobody has resolved the dispute yet")
    if delegation.settlement == IN_REVIEW:
        ended = COMPLETED if status == DELIVERED else status
        return Due(at, ended, SETTLED, "the review period ended")
    ending = settlement_of_ending(delegation)
    if status == OFFERED:
        return Due(at, EXPIRED, ending, "not accepted in time")
    if status in (PENDING_REAUTHORIZATION, INPUT_REQUIRED):
        return Due(at, EXPIRED, ending, "the requester did not answer before the deadline")
    clocks = [
        Due(delegation.deadline_at, FAILED, ending, "the deadline passed"),
        _lost(delegation, ending),
    ]
    if delegation.cancel_requested_at is not None:
        end = delegation.cancel_requested_at + CANCEL_GRACE
        clocks.append(Due(end, CANCELLED, ending, "cancelled by the requester"))
    return min(clocks, key=lambda due: due.at)


def _lost(delegation: Any, settlement: str) -> Due:
    """Return when work counts as lost: nobody may take it over any more, or nobody did in time."""
    end = delegation.lease_expires_at
    if delegation.silent_takeovers >= MAX_SILENT_TAKEOVERS:
        reason = f"{MAX_SILENT_TAKEOVERS} workers took it over and none gave a sign of life"
        return Due(end, FAILED, settlement, reason)
    end += timedelta(seconds=delegation.lease_seconds * (LOST_AFTER_LEASES - 1))
    return Due(end, FAILED, settlement, "the worker gave no sign of life")


def overdue(delegation: Any, now: datetime) -> Due | None:
    """Return what should have happened to a delegation by now, None if nothing."""
    if delegation.due_at is None or now < delegation.due_at:
        return None
    return next_due(delegation)
