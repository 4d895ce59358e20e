"""Topping up: an administrator brings money from outside into an agent's account."""

from __future__ import annotations

from typing import Any

from flask import redirect, request, url_for
from sqlalchemy import Connection
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app.http.context import services
from app.ledger.schemas import MoveMoney
from app.ledger.service import top_up
from app.operator.actions import Refusal, load_form, perform
from app.operator.web import Visitor, action, page, render
from app.registry.queries import find_owner

# Not the API's own route: the answer that is stored here is another document.
ROUTE = "/operator/agents/<agent_id>/top-up"


@page("/agents/<agent_id>/top-up", role="admin")
def top_up_form(connection: Connection, visitor: Visitor, agent_id: str) -> str:
    """Ask how much comes into an agent's account."""
    return _form(connection, agent_id)


def _form(
    connection: Connection, agent_id: str, amount: str = "", problem: str | None = None
) -> str:
    find_owner(connection, agent_id)
    return render(
        "top_up.html",
        title=f"Top up {agent_id}",
        area="agents",
        agent_id=agent_id,
        amount=amount,
        problem=problem,
    )


@action("/agents/<agent_id>/top-up")
def top_up_agent(visitor: Visitor, agent_id: str) -> Any:
    """Book a top-up and show the transaction; a form that is refused is shown again."""
    amount = request.form.get("amount_usd", "")
    schema = MoveMoney()

    def run(session: Session) -> dict[str, str]:
        find_owner(session, agent_id)
        key = request.form["idempotency_key"].strip()
        owner_id = visitor.principal.owner_id
        return {"transaction_id": top_up(session, agent_id, body["amount_usd"], owner_id, key)}

    try:
        body = load_form(schema, {"agent_id": agent_id, "amount_usd": amount})
        done = perform(visitor, ROUTE, {"agent_id": agent_id}, schema.dump(body), run)
    except Refusal as refusal:
        with services().database.read() as connection:
            html = _form(connection, agent_id, amount, refusal.detail)
        return Response(html, refusal.status, content_type="text/html; charset=utf-8")
    path = url_for("console.transaction", transaction_id=done["transaction_id"])
    return redirect(path, 303)
