"""The JSON behind the console."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
from flask import Response, request
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock
from app.access.service import ROLES, Principal
from app.delegation import documents as delegation_documents
from app.delegation.lifecycle import STATUSES
from app.delegation.queries import count_live, list_delegations
from app.http.blueprint import Blueprint
from app.http.context import services
from app.http.responses import json_response
from app.operator import answers
from app.operator.agents import search_words
from app.operator.errors import OperatorRoleRefused
from app.operator.evidence import Report, compare, repair
from app.operator.web import read_figures
from app.registry import documents, queries

blueprint = Blueprint(
    "operator", __name__, url_prefix="/v1/operator", description="The JSON behind the console."
)
FOUND, NEWEST = 50, 20


def _role(principal: Principal) -> str:
    """Return the role to act with. Raises ``OperatorRoleRefused``."""
    asked = request.headers.get("X-Operator-Role", principal.role).strip()
    if asked not in ROLES:
        raise OperatorRoleRefused(f"there is no role {asked!r}; known are {', '.join(ROLES)}")
    if not principal.has_role(asked):
        raise OperatorRoleRefused(
            f"X-Operator-Role asks for {asked}, which is above your API key's {principal.role}"
        )
    return asked


@blueprint.read(
    "/dashboard",
    query=answers.DashboardQuery(),
    returns=answers.DashboardOut(),
    problems=(404, 422),
    role="viewer",
    headers=(answers.OPERATOR_ROLE,),
)
def get_dashboard(connection: Connection, principal: Principal, query: dict[str, Any]) -> Response:
    """Show an agent, or all, as an operator looks at them.

    `X-Operator-Role` can only lower the role: below `admin` delegations are those of your agents.
    """
    role, agent_id = _role(principal), query["agent_id"]
    owner_id = None if role == "admin" else principal.owner_id
    row = queries.find_agent(connection, agent_id) if agent_id else None
    return json_response(
        {
            "role": role,
            "agent_id": agent_id,
            "sections": {
                "search": _search(connection, query["query"]),
                "agent_detail": documents.agent_document(row) if row else None,
                "eval": documents.agent_document(row)["eval_summary"] if row else None,
                "trust": documents.trust_document(row) if row else None,
                "delegations": _work(connection, owner_id, agent_id),
            },
        }
    )


def _search(connection: Connection, text: str | None) -> dict[str, Any]:
    words = search_words(text or "")
    # All of them, since this list has no further page.
    most = FOUND * services().settings.max_manifest_bytes
    rows = queries.search_agents(connection, words, limit=FOUND, max_bytes=most) if words else []
    return {
        "query": text,
        "results": [
            {
                "agent_id": row.id,
                "name": orjson.loads(row.manifest)["identity"]["name"],
                "status": row.status,
                "latest_version": row.latest_version,
                "trust": documents.agent_rating(row),
            }
            for row in rows
        ],
    }


def _work(connection: Connection, owner_id: str | None, agent_id: str | None) -> dict[str, Any]:
    live = Counter({row.status: row.number for row in count_live(connection, owner_id)})
    figures = read_figures(connection, owner_id)
    counted = live + figures.sums.total.statuses
    rows = list_delegations(connection, owner_id=owner_id, agent_id=agent_id, limit=NEWEST)
    now = clock.now()
    return {
        "counts": [{"status": status, "number": counted[status]} for status in STATUSES],
        "not_counted": figures.missing,
        "newest": [
            delegation_documents.summary_document(delegation_documents.effective(row, now))
            for row in rows
        ],
    }


def _compared(principal: Principal) -> Report:
    role = _role(principal)
    if role != "admin":
        raise OperatorRoleRefused(f"this needs the role admin; you act as {role}")
    with services().database.snapshot() as connection:
        return compare(connection)


@blueprint.write(
    "POST",
    "/refresh",
    returns=answers.RefreshedOut(),
    role="admin",
    prepare=_compared,
    headers=(answers.OPERATOR_ROLE,),
)
def refresh_evidence(session: Session, principal: Principal, report: Report) -> Response:
    """Hold kept figures to history, and repair what differs.

    For operators. Compares the sums that trust rests on, the numbers of agents in lists and what
    counts towards owners' quotas with the records behind them.
    """
    repaired = repair(session, report)
    return json_response({"status": "refreshed", "role": _role(principal), **repaired.document()})
