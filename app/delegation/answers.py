"""What delegation's endpoints answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, ClassVar

import marshmallow as ma
import orjson

from app.delegation import lifecycle
from app.delegation.contract import CONTRACT, SCHEMA
from app.delegation.schemas import Lease
from app.http.fields import JsonDocument
from app.http.schemas import PaginationOut, Schema

_ID = "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"
_TIME = "2026-11-20T09:30:00.000000Z"
_PAGE = {"mode": "cursor", "limit": 100, "next_cursor": None}
CONTRACT_SCHEMA = {name: value for name, value in SCHEMA.items() if name != "$schema"}


class BudgetControlsOut(Schema):
    """The breaker: the share of the authorized amount that is used, and what that means."""

    state = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(("ok", "soft_alert", "reauthorization_required", "hard_stop")),
    )
    soft_alert = ma.fields.Boolean(required=True)
    reauthorization_required = ma.fields.Boolean(required=True)
    hard_stop = ma.fields.Boolean(required=True)
    ratio = ma.fields.Float(required=True)

    example = {
        "state": "soft_alert",
        "soft_alert": True,
        "reauthorization_required": False,
        "hard_stop": False,
        "ratio": 0.92,
    }


class PolicyReasonOut(Schema):
    """One reason of a policy decision."""

    code = ma.fields.String(required=True)
    message = ma.fields.String(required=True)
    type = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("violation", "warning", "information"))
    )
    field = ma.fields.String()
    expected = JsonDocument({}, allow_none=True)
    observed = JsonDocument({}, allow_none=True)

    example = {
        "code": "policy.allow",
        "message": "Budget, trust and permissions allow the delegation.",
        "type": "information",
    }


class PolicyDecisionOut(Schema):
    """Whether policy allows a delegation, and why; the same input gives the same document."""

    policy_version = ma.fields.String(required=True)
    context = ma.fields.String(required=True)
    action = ma.fields.String(required=True)
    actor = ma.fields.String(required=True)
    subject = ma.fields.String(required=True)
    decision = ma.fields.String(required=True, validate=ma.validate.OneOf(("allow", "deny")))
    allowed = ma.fields.Boolean(required=True)
    reasons = ma.fields.List(ma.fields.Nested(PolicyReasonOut()), required=True)
    violated_constraints = ma.fields.List(ma.fields.String(), required=True)
    evaluated_constraints = ma.fields.Dict(required=True)
    input_hash = ma.fields.String(required=True)

    example = {
        "policy_version": "delegation-policy-v1",
        "context": "delegation.create",
        "action": "delegate",
        "actor": "@acme:payables-clerk",
        "subject": "@globex:invoice-summarizer",
        "decision": "allow",
        "allowed": True,
        "reasons": [PolicyReasonOut.example],
        "violated_constraints": [],
        "evaluated_constraints": {
            "budget": {"estimated_cost_usd": 0.5, "max_budget_usd": 1, "ratio": 0.5},
            "trust": {"min_delegate_trust_score": None, "delegate_trust_score": None},
            "permissions": {"required": [], "granted": ["invoices.read"]},
        },
        "input_hash": "sha256:" + "0f" * 32,
    }


class StageOut(Schema):
    """A stage that a delegation has reached."""

    stage = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(
            ("discovery", "negotiation", "execution", "delivery", "settlement", "feedback")
        ),
    )
    timestamp = ma.fields.AwareDateTime(required=True)
    details = ma.fields.Dict(required=True)

    example = {
        "stage": "settlement",
        "timestamp": _TIME,
        "details": {"actor": "system", "charged_usd": 0.46, "refunded_usd": 0.04},
    }


class DueOutcomeOut(Schema):
    """What the system does by itself when the delegation's time runs out."""

    status = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.STATUSES))
    settlement = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.SETTLEMENTS))
    reason = ma.fields.String(required=True)

    example = {"status": "expired", "settlement": "settled", "reason": "not accepted in time"}


class DelegationSummaryOut(Schema):
    """A delegation as lists show it."""

    delegation_id = ma.fields.String(required=True)
    execution = ma.fields.String(
        required=True, validate=ma.validate.OneOf((lifecycle.INLINE, lifecycle.REMOTE))
    )
    status = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.STATUSES))
    a2a_state = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(sorted(set(lifecycle.A2A_STATES.values()))),
        metadata={"description": "The state of the task in the Agent2Agent protocol"},
    )
    requester_agent_id = ma.fields.String(required=True)
    delegate_agent_id = ma.fields.String(required=True)
    delegate_version = ma.fields.String(required=True)
    delegate_digest = ma.fields.String(required=True)
    capability_id = ma.fields.String(required=True, allow_none=True)
    task_spec = ma.fields.String(required=True)
    simulated = ma.fields.Boolean(required=True)
    estimated_cost_usd = ma.fields.Float(required=True)
    max_budget_usd = ma.fields.Float(required=True)
    authorized_usd = ma.fields.Float(required=True)
    actual_cost_usd = ma.fields.Float(
        required=True, metadata={"description": "What was used, never cut"}
    )
    held_usd = ma.fields.Float(required=True)
    in_review_usd = ma.fields.Float(
        required=True,
        metadata={"description": "What the delegate gets unless it is contested, or has been"},
    )
    charged_usd = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "Null until it is settled"}
    )
    refunded_usd = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "What went back so far"}
    )
    settlement = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(lifecycle.SETTLEMENTS),
        metadata={"description": "What becomes of the money, beside the status"},
    )
    settled_by = ma.fields.String(
        required=True, allow_none=True, validate=ma.validate.OneOf(lifecycle.GROUNDS)
    )
    budget_controls = ma.fields.Nested(BudgetControlsOut(), required=True)
    allowed_commands = ma.fields.List(ma.fields.String(), required=True)
    cancel_requested = ma.fields.Boolean(required=True)
    silent_takeovers = ma.fields.Integer(
        required=True,
        metadata={"description": "How often it was taken over since the last sign of life"},
    )
    due_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    due_outcome = ma.fields.Nested(DueOutcomeOut(), required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(required=True)
    updated_at = ma.fields.AwareDateTime(required=True)
    closed_at = ma.fields.AwareDateTime(required=True, allow_none=True)

    example: ClassVar[dict[str, Any]] = {
        "delegation_id": _ID,
        "execution": "inline",
        "status": "completed",
        "a2a_state": "completed",
        "requester_agent_id": "@acme:payables-clerk",
        "delegate_agent_id": "@globex:invoice-summarizer",
        "delegate_version": "1.0.0",
        "delegate_digest": "sha256:" + "0f" * 32,
        "capability_id": None,
        "task_spec": "Summarize the invoice of November",
        "simulated": True,
        "estimated_cost_usd": 0.5,
        "max_budget_usd": 1,
        "authorized_usd": 0.5,
        "actual_cost_usd": 0.46,
        "held_usd": 0,
        "in_review_usd": 0,
        "charged_usd": 0.46,
        "refunded_usd": 0.04,
        "settlement": "settled",
        "settled_by": "inline",
        "budget_controls": BudgetControlsOut.example,
        "allowed_commands": [],
        "cancel_requested": False,
        "silent_takeovers": 0,
        "due_at": None,
        "due_outcome": None,
        "created_at": _TIME,
        "updated_at": _TIME,
        "closed_at": _TIME,
    }


class DelegationOut(DelegationSummaryOut):
    """A delegation with its task, its terms, the policy decision and the stages reached."""

    task_input = JsonDocument({}, required=True, allow_none=True)
    deliverable = ma.fields.Dict(required=True, allow_none=True)
    question = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What the delegate asked last"},
    )
    answer = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The answer to that question; null while it is awaited"},
    )
    contract = JsonDocument(CONTRACT_SCHEMA, required=True)
    policy_decision = ma.fields.Nested(PolicyDecisionOut(), required=True)
    lifecycle = ma.fields.List(ma.fields.Nested(StageOut()), required=True)

    example = {
        **DelegationSummaryOut.example,
        "task_input": None,
        "deliverable": None,
        "question": None,
        "answer": None,
        "contract": CONTRACT,
        "policy_decision": PolicyDecisionOut.example,
        "lifecycle": [StageOut.example],
    }


class AuditEntryOut(Schema):
    """A transition, or a metering event, and who made it."""

    type = ma.fields.String(required=True, validate=ma.validate.OneOf(("transition", "metering")))
    at = ma.fields.AwareDateTime(required=True)
    actor = ma.fields.String(required=True)
    event = ma.fields.String(required=True)
    status = ma.fields.String()
    cost_usd = ma.fields.Float()
    event_id = ma.fields.String()
    details = ma.fields.Dict(required=True)

    example = {
        "type": "transition",
        "at": _TIME,
        "actor": "@acme:payables-clerk",
        "event": "created",
        "status": "offered",
        "details": {"held_usd": 0.5},
    }


class DelegationWithTrailOut(DelegationOut):
    """A delegation with its audit trail, at most the latest 1000 entries of it."""

    audit_trail = ma.fields.List(ma.fields.Nested(AuditEntryOut()), required=True)

    example = {**DelegationOut.example, "audit_trail": [AuditEntryOut.example]}


class LeasedDelegationOut(DelegationOut):
    """A delegation taken on: what a worker needs to do it."""

    lease_token = ma.fields.String(required=True)
    lease_expires_at = ma.fields.AwareDateTime(required=True)

    example = {**DelegationOut.example, **Lease.example, "lease_expires_at": _TIME}


class HeartbeatOut(Schema):
    """What a worker must know while it works."""

    delegation_id = ma.fields.String(required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.STATUSES))
    cancel_requested = ma.fields.Boolean(required=True)
    lease_expires_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    deadline_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    budget_controls = ma.fields.Nested(BudgetControlsOut(), required=True)
    actual_cost_usd = ma.fields.Float(required=True)
    remaining_usd = ma.fields.Float(
        required=True, metadata={"description": "What is left of the authorized amount"}
    )

    example = {
        "delegation_id": _ID,
        "status": "in_progress",
        "cancel_requested": False,
        "lease_expires_at": _TIME,
        "deadline_at": _TIME,
        "budget_controls": BudgetControlsOut.example,
        "actual_cost_usd": 0.46,
        "remaining_usd": 0.04,
    }


class ReportResultOut(Schema):
    """What became of one reported event."""

    event_id = ma.fields.String(required=True)
    result = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("accepted", "duplicate", "refused"))
    )
    cost_usd = ma.fields.Float(required=True)

    example = {"event_id": "call-17", "result": "accepted", "cost_usd": 0.0045}


class MeterResultOut(HeartbeatOut):
    """What became of the reported events, and the breaker after them."""

    events = ma.fields.List(ma.fields.Nested(ReportResultOut()), required=True)

    example = {**HeartbeatOut.example, "events": [ReportResultOut.example]}


class DelegationListOut(Schema):
    """A page of delegations, newest first."""

    data = ma.fields.List(ma.fields.Nested(DelegationSummaryOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {"data": [DelegationSummaryOut.example], "pagination": _PAGE}


class DelegationEventOut(Schema):
    """Something that happened to a delegation; ``status`` is the one after it."""

    number = ma.fields.Integer(required=True)
    kind = ma.fields.String(required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.STATUSES))
    actor = ma.fields.String(required=True)
    key_id = ma.fields.String(required=True, allow_none=True)
    at = ma.fields.AwareDateTime(required=True)
    details = ma.fields.Dict(required=True)

    example = {
        "number": 1,
        "kind": "created",
        "status": "offered",
        "actor": "@acme:payables-clerk",
        "key_id": "3f1f6f7f9a10c0de",
        "at": _TIME,
        "details": {"held_usd": 0.5},
    }


class StreamedEventOut(Schema):
    """A server-sent event: something that happened to a delegation, as JSON text in ``data``."""

    id = ma.fields.String(required=True)
    event = ma.fields.String(
        validate=ma.validate.OneOf(("message",)),
        metadata={"description": "Not sent: every event is of the default type"},
    )
    data = ma.fields.String(
        required=True,
        metadata={
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/DelegationEvent"},
        },
    )

    example = {"id": "1", "data": orjson.dumps(DelegationEventOut.example).decode()}


class DelegationEventListOut(Schema):
    """A page of a delegation's events, oldest first."""

    delegation_id = ma.fields.String(required=True)
    events = ma.fields.List(ma.fields.Nested(DelegationEventOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "delegation_id": _ID,
        "events": [DelegationEventOut.example],
        "pagination": _PAGE,
    }


class BatchItemOut(Schema):
    """What became of one delegation of a batch: the delegation, or the problem that refused it."""

    index = ma.fields.Integer(required=True)
    succeeded = ma.fields.Boolean(required=True)
    delegation = ma.fields.Nested(DelegationOut(), allow_none=True, required=True)
    problem = ma.fields.Dict(required=True, allow_none=True)

    example = {
        "index": 0,
        "succeeded": True,
        "delegation": DelegationOut.example,
        "problem": None,
    }


class BatchOut(Schema):
    """What became of each delegation of a batch, in the order they were given."""

    succeeded = ma.fields.Integer(required=True)
    failed = ma.fields.Integer(required=True)
    results = ma.fields.List(ma.fields.Nested(BatchItemOut()), required=True)

    example = {"succeeded": 1, "failed": 0, "results": [BatchItemOut.example]}


class AcceptanceRulesOut(Schema):
    """What an agent takes from other owners; who is let in, only its owner and operators see."""

    agent_id = ma.fields.String(required=True)
    takes_your_offers = ma.fields.Boolean(
        required=True, metadata={"description": "Whether the caller's owner may offer at all"}
    )
    allowed_owners = ma.fields.List(ma.fields.String(), allow_none=True)
    denied_owners = ma.fields.List(ma.fields.String())
    takes_inline = ma.fields.Boolean(required=True)
    smallest_estimate_usd = ma.fields.Float(required=True)
    shortest_deadline_seconds = ma.fields.Integer(required=True, allow_none=True)
    shortest_lease_seconds = ma.fields.Integer(required=True, allow_none=True)
    most_live_offers = ma.fields.Integer(required=True)
    min_deadline_seconds = ma.fields.Integer(
        required=True,
        metadata={"description": "The delegate is not to blame for missing a shorter deadline"},
    )

    example = {
        "agent_id": "@globex:invoice-summarizer",
        "takes_your_offers": True,
        "takes_inline": False,
        "smallest_estimate_usd": 0.05,
        "shortest_deadline_seconds": 300,
        "shortest_lease_seconds": 30,
        "most_live_offers": 20,
        "min_deadline_seconds": 300,
    }


class ContractOut(Schema):
    """The contract that every delegation is made under."""

    version = ma.fields.String(required=True)
    idempotency_required = ma.fields.Boolean(required=True)
    sla = ma.fields.Dict(required=True)
    timeouts_ms = ma.fields.Dict(required=True)
    retry_matrix = ma.fields.Dict(required=True)
    circuit_breakers = ma.fields.Dict(required=True)

    example = CONTRACT


class ContractSchemaOut(Schema):
    """The JSON Schema (Draft 2020-12) of the contract."""

    class Meta:
        unknown = ma.INCLUDE

    example = SCHEMA
