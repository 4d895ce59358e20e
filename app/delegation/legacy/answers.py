"""What is answered of imported delegations, for the OpenAPI document."""

from __future__ import annotations

import marshmallow as ma

from app.delegation import lifecycle
from app.delegation.answers import DelegationOut
from app.http.fields import JsonDocument
from app.http.schemas import PaginationOut, Schema

_TIME = "2024-11-20T09:30:00.000000Z"


class LegacyDelegationOut(Schema):
    """A delegation of an earlier service, as it was imported; nothing is done with it."""

    delegation_id = ma.fields.String(required=True)
    legacy = ma.fields.Boolean(required=True, validate=ma.validate.Equal(True))
    status = ma.fields.String(required=True, validate=ma.validate.OneOf(lifecycle.STATUSES))
    requester_agent_id = ma.fields.String(required=True)
    delegate_agent_id = ma.fields.String(required=True)
    estimated_cost_usd = ma.fields.Float(required=True, allow_none=True)
    max_budget_usd = ma.fields.Float(required=True, allow_none=True)
    actual_cost_usd = ma.fields.Float(required=True, allow_none=True)
    allowed_commands = ma.fields.List(ma.fields.String(), required=True)
    created_at = ma.fields.AwareDateTime(required=True)
    updated_at = ma.fields.AwareDateTime(required=True)
    record = JsonDocument(
        {"type": "object", "description": "The record as it was, unknown members included"},
        required=True,
    )

    example = {
        "delegation_id": "del-2024-0117",
        "legacy": True,
        "status": "completed",
        "requester_agent_id": "@acme:payables-clerk",
        "delegate_agent_id": "@globex:invoice-summarizer",
        "estimated_cost_usd": 0.5,
        "max_budget_usd": None,
        "actual_cost_usd": 0.46,
        "allowed_commands": [],
        "created_at": _TIME,
        "updated_at": _TIME,
        "record": {"delegation_id": "del-2024-0117", "status": "completed", "ticket": "OPS-17"},
    }


class LegacyDelegationListOut(Schema):
    """A page of imported delegations, newest first."""

    data = ma.fields.List(ma.fields.Nested(LegacyDelegationOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "data": [LegacyDelegationOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class AnyDelegationOut(Schema):
    """A delegation, or one of an earlier service, which says ``legacy``."""

    one_of = (DelegationOut, LegacyDelegationOut)
    example = DelegationOut.example
