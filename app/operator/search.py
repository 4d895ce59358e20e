"""Finding anything by its id, agents by words of their ids, and tasks by their words."""

from __future__ import annotations

from typing import Any

from flask import request, url_for
from sqlalchemy import Connection
from werkzeug.utils import redirect

from app import clock
from app.delegation.documents import effective
from app.delegation.queries import find_owners, list_delegations
from app.http.pagination import MAX_PAGE_BYTES, fitting
from app.ledger.errors import TransactionNotFound
from app.ledger.queries import find_balances, find_transaction
from app.operator.accounts import may_see
from app.operator.agents import entry, search_words
from app.operator.web import Visitor, page, render
from app.registry.errors import AgentNotFound
from app.registry.names import is_agent_id
from app.registry.queries import find_agent, search_agents

# So many of the newest delegations are looked through for words of their tasks.
SEARCHED = 500
SHOWN = 20


@page("/search")
def search(connection: Connection, visitor: Visitor) -> Any:
    """Go to what has the id that is searched for, else list agents and tasks with its words."""
    text = request.args.get("q", "").strip()
    # No database takes U+0000 in a text, and nothing has it.
    words = search_words(text) if text.isprintable() else []
    place = _place_of(connection, visitor, text) if words else None
    if place is not None:
        return redirect(place, 303)
    rows = (
        search_agents(connection, words, limit=SHOWN + 1, max_bytes=MAX_PAGE_BYTES) if words else []
    )
    shown = fitting(rows, SHOWN)
    tasks = _tasks(connection, visitor, [word.lower() for word in words]) if words else []
    return render(
        "search.html",
        title="Search",
        area="search",
        text=text,
        agents=[entry(row) for row in rows[:shown]],
        has_more_agents=len(rows) > shown,
        tasks=tasks[:SHOWN],
        has_more_tasks=len(tasks) > SHOWN,
        searched=SEARCHED,
    )


def _place_of(connection: Connection, visitor: Visitor, text: str) -> str | None:
    """Return the page of what has an id, None where the visitor sees no such thing."""
    if is_agent_id(text):
        return _agent(connection, text)
    if _is_party(visitor, find_owners(connection, text)):
        return url_for("console.delegation", delegation_id=text)
    if may_see(connection, visitor, text) and find_balances(connection, [text]):
        return url_for("console.account", account_id=text)
    try:
        found = find_transaction(connection, text)
    except TransactionNotFound:
        return None
    owners = find_owners(connection, found["delegation_id"] or "")
    if visitor.is_admin or _is_party(visitor, owners):
        return url_for("console.transaction", transaction_id=text)
    return None


def _agent(connection: Connection, agent_id: str) -> str | None:
    try:
        find_agent(connection, agent_id)
    except AgentNotFound:
        return None
    return url_for("console.agent", agent_id=agent_id)


def _is_party(visitor: Visitor, owner_ids: tuple[str, ...]) -> bool:
    return bool(owner_ids) and (visitor.is_admin or visitor.principal.owner_id in owner_ids)


def _tasks(connection: Connection, visitor: Visitor, words: list[str]) -> list[Any]:
    """Return the newest delegations that the visitor sees whose task has every word."""
    rows = list_delegations(connection, owner_id=visitor.owner_scope, limit=SEARCHED, brief=True)
    now = clock.now()
    return [
        effective(row, now) for row in rows if all(word in row.task_spec.lower() for word in words)
    ][: SHOWN + 1]
