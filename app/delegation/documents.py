"""Delegation's answers: rows into the documents clients read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import orjson

from app import clock
from app.delegation import breaker, lifecycle
from app.delegation.acceptance import Rules, min_deadline_seconds
from app.delegation.contract import CONTRACT
from app.delegation.settlement import budget_of
from app.money import to_usd
from app.registry.queries import Party

# An audit trail in one answer holds at most this many entries; the events endpoints hold all.
MAX_TRAIL = 1000

# Which stages of the lifecycle an event begins. Each stage is shown once, by its first event.
_STAGES = {
    "created": ("discovery", "negotiation"),
    "accepted": ("execution",),
    "delivered": ("delivery",),
    "closed": ("settlement", "feedback"),
    "settled": ("settlement", "feedback"),
}


def effective(row: Any, now: datetime) -> Any:
    """Return a delegation as it is at ``now``, though the system may not have written it yet."""
    due = lifecycle.overdue(row, now)
    if due is None:
        return row
    shown = SimpleNamespace(
        # A row of a list has not all of them.
        **{name: getattr(row, name) for name in _COLUMNS if hasattr(row, name)},
    )
    shown.status, shown.settlement, shown.due_at = due.status, due.settlement, None
    claim = lifecycle.claim_of(row)
    if due.settlement == lifecycle.DISPUTED:
        shown.due_at = now + lifecycle.RESOLVE_WITHIN
        return shown
    if row.closed_at is None:
        shown.closed_at = due.at
    if due.settlement == lifecycle.IN_REVIEW:
        # The review begins when the system writes that the work has ended.
        shown.due_at = now + lifecycle.review_of_ending(row)
        shown.released_micros = row.held_micros - claim
        return shown
    shown.charged_micros = claim
    reviewed = row.settlement == lifecycle.IN_REVIEW
    shown.settled_by = lifecycle.REVIEWED if reviewed else lifecycle.ground_of_ending(row)
    return shown


_COLUMNS = (
    "id",
    "execution",
    "status",
    "revision",
    "events",
    "requester_agent_id",
    "requester_owner_id",
    "delegate_agent_id",
    "delegate_owner_id",
    "delegate_version",
    "delegate_digest",
    "capability_id",
    "task_spec",
    "task_input",
    "estimated_micros",
    "max_budget_micros",
    "authorized_micros",
    "metered_micros",
    "held_micros",
    "released_micros",
    "charged_micros",
    "settlement",
    "settled_by",
    "breaker_level",
    "auto_reauthorize",
    "simulated",
    "policy_decision",
    "lease_expires_at",
    "lease_seconds",
    "review_seconds",
    "silent_takeovers",
    "deadline_at",
    "cancel_requested_at",
    "due_at",
    "deliverable",
    "created_at",
    "updated_at",
    "closed_at",
    "evidence",
)


def _time(moment: datetime | None) -> str | None:
    return clock.isoformat(moment) if moment else None


def summary_document(row: Any) -> dict[str, Any]:
    """Return what every view of a delegation shows: who, what, its state and its money."""
    due = lifecycle.next_due(row)
    return {
        "delegation_id": row.id,
        "execution": row.execution,
        "status": row.status,
        "a2a_state": lifecycle.A2A_STATES[row.status],
        "requester_agent_id": row.requester_agent_id,
        "delegate_agent_id": row.delegate_agent_id,
        "delegate_version": row.delegate_version,
        "delegate_digest": row.delegate_digest,
        "capability_id": row.capability_id,
        "task_spec": row.task_spec,
        "simulated": row.simulated,
        "estimated_cost_usd": to_usd(row.estimated_micros),
        "max_budget_usd": to_usd(row.max_budget_micros),
        "authorized_usd": to_usd(row.authorized_micros),
        "actual_cost_usd": to_usd(row.metered_micros),
        **_money(row),
        "settlement": row.settlement,
        "settled_by": row.settled_by,
        "budget_controls": breaker.controls(budget_of(row)),
        "allowed_commands": lifecycle.commands_for(row),
        "cancel_requested": row.cancel_requested_at is not None,
        "silent_takeovers": row.silent_takeovers,
        "due_at": _time(due.at) if due else None,
        "due_outcome": _due_outcome(due),
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
        "closed_at": _time(row.closed_at),
    }


def rules_document(
    delegate: Party, rules: Rules, owner_id: str, *, is_whole: bool
) -> dict[str, Any]:
    """Return an agent's acceptance rules as ``owner_id`` sees them.

    Who is let in is part of them where ``is_whole``, for the agent's owner and for operators.
    """
    shown: dict[str, Any] = {
        "agent_id": delegate.id,
        "takes_your_offers": owner_id == delegate.owner_id or rules.lets_in(owner_id),
    }
    if is_whole:
        allowed = rules.allowed_owners
        shown["allowed_owners"] = None if allowed is None else list(allowed)
        shown["denied_owners"] = list(rules.denied_owners)
    return shown | {
        "takes_inline": rules.takes_inline,
        "smallest_estimate_usd": to_usd(rules.smallest_estimate_micros),
        "shortest_deadline_seconds": rules.shortest_deadline_seconds,
        "shortest_lease_seconds": rules.shortest_lease_seconds,
        "most_live_offers": rules.most_live_offers,
        "min_deadline_seconds": min_deadline_seconds(rules, orjson.loads(delegate.manifest)),
    }


def _money(row: Any) -> dict[str, float | None]:
    """Return where the money is: in escrow, claimed there by the delegate, paid, or back."""
    if row.settlement == lifecycle.SETTLED:
        held, refunded = 0, row.held_micros - row.charged_micros
    else:
        held = row.held_micros - row.released_micros
        refunded = row.released_micros if row.closed_at else None
    in_review = row.settlement in (lifecycle.IN_REVIEW, lifecycle.DISPUTED)
    return {
        "held_usd": to_usd(held),
        "in_review_usd": to_usd(lifecycle.claim_of(row) if in_review else 0),
        "charged_usd": None if row.charged_micros is None else to_usd(row.charged_micros),
        "refunded_usd": None if refunded is None else to_usd(refunded),
    }


def _due_outcome(due: lifecycle.Due | None) -> dict[str, str] | None:
    if due is None:
        return None
    return {"status": due.status, "settlement": due.settlement, "reason": due.reason}


def working_document(delegation: Any) -> dict[str, Any]:
    """Return what a worker must know while it works."""
    document = summary_document(delegation)
    budget = budget_of(delegation)
    shown = ("delegation_id", "status", "cancel_requested", "budget_controls", "actual_cost_usd")
    return {
        **{name: document[name] for name in shown},
        "lease_expires_at": _time(delegation.lease_expires_at),
        "deadline_at": _time(delegation.deadline_at),
        "remaining_usd": to_usd(max(0, budget.authorized - budget.metered)),
    }


def delegation_document(row: Any, events: Sequence[Any]) -> dict[str, Any]:
    """Return a delegation with its task, its terms, its decision and the stages it has reached."""
    return summary_document(row) | {
        "task_input": _json(row.task_input),
        "deliverable": _json(row.deliverable),
        **_last_question(events),
        "contract": CONTRACT,
        "policy_decision": orjson.Fragment(row.policy_decision),
        "lifecycle": list(_lifecycle(row, events)),
    }


def _last_question(events: Sequence[Any]) -> dict[str, str | None]:
    """Return what the delegate asked last, and the answer to that, None while it is awaited."""
    shown: dict[str, str | None] = {"question": None, "answer": None}
    for event in events:
        if event.kind == "asked":
            shown = {"question": orjson.loads(event.details)["question"], "answer": None}
        elif event.kind == "answered":
            shown["answer"] = orjson.loads(event.details)["answer"]
    return shown


def _json(text: str | None) -> Any:
    return None if text is None else orjson.Fragment(text)


def _lifecycle(row: Any, events: Iterable[Any]) -> Iterable[dict[str, Any]]:
    """Yield the stages reached, in order, each with the time of its first event."""
    reached: dict[str, Any] = {}
    for event in events:
        if event.kind == "closed" and _awaits_settlement(event):
            continue
        for stage in _STAGES.get(event.kind, ()):
            reached.setdefault(stage, event)
    for stage in dict.fromkeys(stage for stages in _STAGES.values() for stage in stages):
        if stage in reached:
            yield {
                "stage": stage,
                "timestamp": clock.isoformat(reached[stage].at),
                "details": _stage_details(stage, row, reached[stage]),
            }


def _awaits_settlement(closed: Any) -> bool:
    return orjson.loads(closed.details)["charged_usd"] is None


def _stage_details(stage: str, row: Any, event: Any) -> dict[str, Any]:
    details: dict[str, Any] = orjson.loads(event.details)
    if stage == "discovery":
        return {
            "delegate_agent_id": row.delegate_agent_id,
            "delegate_version": row.delegate_version,
            "delegate_digest": row.delegate_digest,
            "capability_id": row.capability_id,
        }
    if stage == "negotiation":
        return {
            "decision": "allow",
            "estimated_cost_usd": to_usd(row.estimated_micros),
            "max_budget_usd": to_usd(row.max_budget_micros),
            **details,
        }
    if stage == "execution":
        return {"actor": event.actor, "actual_cost_usd": to_usd(row.metered_micros)}
    if stage == "feedback":
        return {"outcome": row.status, "counts_as_evidence": bool(row.evidence)}
    return {"actor": event.actor, **details}


def event_document(event: Any, shown_keys: Container[str]) -> dict[str, Any]:
    """Return one event of a delegation, with the id of its key if that is one to show."""
    return {
        "number": event.number,
        "kind": event.kind,
        "status": event.status,
        "actor": event.actor,
        "key_id": event.key_id if event.key_id in shown_keys else None,
        "at": clock.isoformat(event.at),
        "details": orjson.Fragment(event.details),
    }


def audit_trail(events: Sequence[Any], metering: Sequence[Any]) -> list[dict[str, Any]]:
    """Return transitions and metering events in the order of time, at most the latest 1000."""
    transitions = [
        (
            event.at,
            0,
            event.number,
            {
                "type": "transition",
                "at": clock.isoformat(event.at),
                "actor": event.actor,
                "event": event.kind,
                "status": event.status,
                "details": orjson.Fragment(event.details),
            },
        )
        for event in events
    ]
    usage = [
        (
            event.recorded_at,
            1,
            event.seq,
            {
                "type": "metering",
                "at": clock.isoformat(event.recorded_at),
                "actor": event.actor,
                "event": event.operation,
                "cost_usd": to_usd(event.cost_micros),
                "event_id": event.event_id,
                "details": orjson.Fragment(event.meta),
            },
        )
        for event in metering
    ]
    merged = sorted(transitions + usage, key=lambda entry: entry[:3])
    return [entry for *_, entry in merged[-MAX_TRAIL:]]


def legacy_document(row: Any) -> dict[str, Any]:
    """Return an imported record as clients read it: what is known, and the record as it was."""
    record = orjson.loads(row.record)
    return {
        "delegation_id": row.id,
        "legacy": True,
        "status": row.status,
        "requester_agent_id": row.requester_agent_id,
        "delegate_agent_id": row.delegate_agent_id,
        "estimated_cost_usd": record.get("estimated_cost_usd"),
        "max_budget_usd": record.get("max_budget_usd"),
        "actual_cost_usd": record.get("actual_cost_usd"),
        "allowed_commands": [],
        "created_at": clock.isoformat(row.created_at),
        "updated_at": clock.isoformat(row.updated_at),
        "record": orjson.Fragment(row.record),
    }
