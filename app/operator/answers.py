"""What the console's endpoints read and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

import marshmallow as ma

from app.access.service import ROLES
from app.delegation.answers import DelegationSummaryOut
from app.http.schemas import Schema
from app.registry.answers import AgentOut, EvalSummaryOut, TrustOut, TrustReportOut

OPERATOR_ROLE: dict[str, Any] = {
    "name": "X-Operator-Role",
    "in": "header",
    "required": False,
    "description": "The role to act with: that of the API key, or a lower one.",
    "schema": {"type": "string", "enum": list(ROLES)},
    "example": "viewer",
}


class DashboardQuery(Schema):
    """What to look at."""

    agent_id = ma.fields.String(load_default=None, validate=ma.validate.Length(min=1, max=193))
    query = ma.fields.String(
        load_default=None,
        validate=ma.validate.Length(max=200),
        metadata={"description": "Words that an agent's id has to have"},
    )

    example = {"agent_id": "@acme:invoice-summarizer"}


class FoundAgentOut(Schema):
    """An agent as a search shows it."""

    agent_id = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    status = ma.fields.String(required=True)
    latest_version = ma.fields.String(required=True)
    trust = ma.fields.Nested(TrustOut(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "name": "Invoice Summarizer",
        "status": "active",
        "latest_version": "1.1.0",
        "trust": TrustOut.example,
    }


class SearchOut(Schema):
    """Up to 50 agents by id; nothing while nothing is asked for."""

    query = ma.fields.String(required=True, allow_none=True)
    results = ma.fields.List(ma.fields.Nested(FoundAgentOut()), required=True)

    example = {"query": "invoice", "results": [FoundAgentOut.example]}


class StateCountOut(Schema):
    """How many delegations are in a state."""

    status = ma.fields.String(required=True)
    number = ma.fields.Integer(required=True)

    example = {"status": "completed", "number": 1204}


class WorkOut(Schema):
    """Delegations that the caller may see: of the agent, or of all; the newest first."""

    counts = ma.fields.List(
        ma.fields.Nested(StateCountOut()),
        required=True,
        metadata={"description": "Of all that the caller may see, whichever agent is asked for"},
    )
    not_counted = ma.fields.Integer(
        required=True,
        metadata={
            "description": "Ledger transactions missing from the counts, for moments after a start"
        },
    )
    newest = ma.fields.List(ma.fields.Nested(DelegationSummaryOut()), required=True)

    example = {
        "counts": [StateCountOut.example],
        "not_counted": 0,
        "newest": [DelegationSummaryOut.example],
    }


class SectionsOut(Schema):
    """The parts of a dashboard; those of an agent are null while none is asked for."""

    search = ma.fields.Nested(SearchOut(), required=True)
    agent_detail = ma.fields.Nested(AgentOut(), required=True, allow_none=True)
    eval = ma.fields.Nested(EvalSummaryOut(), required=True, allow_none=True)
    trust = ma.fields.Nested(TrustReportOut(), required=True, allow_none=True)
    delegations = ma.fields.Nested(WorkOut(), required=True)

    example = {
        "search": SearchOut.example,
        "agent_detail": AgentOut.example,
        "eval": EvalSummaryOut.example,
        "trust": TrustReportOut.example,
        "delegations": WorkOut.example,
    }


class DashboardOut(Schema):
    """What an operator looks at; ``role`` is the one it was made for."""

    role = ma.fields.String(required=True, validate=ma.validate.OneOf(ROLES))
    agent_id = ma.fields.String(required=True, allow_none=True)
    sections = ma.fields.Nested(SectionsOut(), required=True)

    example = {
        "role": "viewer",
        "agent_id": "@acme:invoice-summarizer",
        "sections": SectionsOut.example,
    }


class RepairedOut(Schema):
    """An agent whose kept evidence differed from its history, in the figures shown."""

    agent_id = ma.fields.String(required=True)
    kept = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    history = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "kept": {"delegations_completed": 3},
        "history": {"delegations_completed": 4},
    }


class RefreshedOut(Schema):
    """Evidence and numbers of agents were held to history; lists up to 100 repaired agents."""

    status = ma.fields.Constant("refreshed", required=True)
    role = ma.fields.String(required=True, validate=ma.validate.OneOf(ROLES))
    compared_agents = ma.fields.Integer(required=True)
    repaired_total = ma.fields.Integer(required=True)
    remaining = ma.fields.Integer(
        required=True, metadata={"description": "Left for the next request, beyond 500"}
    )
    recounted_lists = ma.fields.Integer(
        required=True,
        metadata={"description": "Lists of agents whose number was wrong and was counted anew"},
    )
    recounted_owners = ma.fields.Integer(
        required=True,
        metadata={"description": "Owners whose use of quotas was wrong and was measured anew"},
    )
    repaired = ma.fields.List(ma.fields.Nested(RepairedOut()), required=True)

    example = {
        "status": "refreshed",
        "role": "admin",
        "compared_agents": 120,
        "repaired_total": 1,
        "remaining": 0,
        "recounted_lists": 0,
        "recounted_owners": 0,
        "repaired": [RepairedOut.example],
    }
