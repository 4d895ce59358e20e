"""Delegations: the list, one of them, and what an operator decides about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from flask import redirect, request, url_for
from sqlalchemy import Connection
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app import clock
from app.access.service import Principal
from app.delegation import breaker, documents, lifecycle, queries, schemas, service
from app.delegation.errors import DelegationNotFound, NotAParty
from app.delegation.settlement import budget_of
from app.delegation.transitions import Actor
from app.http.context import services
from app.http.pagination import encode_moment
from app.ledger import seals
from app.ledger.errors import NotSealed
from app.ledger.metering import list_delegation_events
from app.ledger.queries import list_delegation_transactions
from app.operator.accounts import linked
from app.operator.actions import Refusal, load_form, perform
from app.operator.paging import (
    PAGE_SIZE,
    Pager,
    moment_cursor,
    moment_position,
)
from app.operator.text import pretty, words
from app.operator.web import Visitor, action, page, render
from app.registry.queries import find_parties, is_agent_id

STAGES = ("discovery", "negotiation", "execution", "delivery", "settlement", "feedback")
# The trail of a page; the API has all of it.
NOBODY = "-"
# Every id comes after it.
FIRST_ID = "!"
# A search for one of the states that delegations end in looks through as many at a time.
SEARCHED = 100_000
FIRST_YEAR, LAST_YEAR = 1970, 9000
MAX_TRAIL, MAX_TRANSACTIONS, MAX_DOCUMENT, MAX_SAID = 200, 20, 20_000, 20
# The kind of the event with which the requester contests a result.
DISPUTED = "disputed"


def _day(name: str) -> datetime | None:
    """Return a day of the filter as its first moment, None if it is no day."""
    try:
        day = datetime.fromisoformat(request.args.get(name, "")[:10]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return day if FIRST_YEAR <= day.year <= LAST_YEAR else None


# Ranges that end now, by the name that addresses carry.
RANGES = {
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(hours=24)),
    "7d": ("last 7 days", timedelta(days=7)),
    "30d": ("last 30 days", timedelta(days=30)),
}


@dataclass(frozen=True)
class Filters:
    """What a list of delegations is narrowed to; ``begin`` and ``end`` are days of one's own."""

    statuses: tuple[str, ...]
    settlement: str | None
    agent_id: str | None
    role: str | None
    span: str | None
    begin: datetime | None
    end: datetime | None

    @classmethod
    def given(cls) -> Filters:
        """Return the filters of the request; what is none of the choices counts as not given."""
        asked = request.args.getlist("status")
        settlement, role = request.args.get("settlement"), request.args.get("role")
        span = request.args.get("range")
        span = span if span in RANGES else None
        return cls(
            tuple(name for name in lifecycle.STATUSES if name in asked),
            settlement if settlement in lifecycle.SETTLEMENTS else None,
            request.args.get("agent_id", "").strip() or None,
            role if role in (lifecycle.REQUESTER, lifecycle.DELEGATE) else None,
            span,
            None if span else _day("from"),
            None if span else _day("to"),
        )

    @property
    def number(self) -> int:
        """How many filters are set."""
        created = self.span or self.begin or self.end
        return sum(map(bool, (self.statuses, self.settlement, self.agent_id, created)))

    def created_from(self, now: datetime) -> datetime | None:
        """Return the first moment that the list covers, None if it covers all."""
        return now - RANGES[self.span][1] if self.span else self.begin

    def created_before(self) -> datetime | None:
        """Return the moment that the list ends before, None if it ends now."""
        return self.end + timedelta(days=1) if self.end else None

    def needs_search(self) -> bool:
        """Tell whether rows may be few among all that there are: those of an ended state."""
        has_ended = any(name in lifecycle.TERMINAL for name in self.statuses)
        return has_ended and self.settlement in (None, lifecycle.SETTLED)


@page("/delegations")
def delegations(connection: Connection, visitor: Visitor) -> str:
    """List delegations, newest first."""
    now, filters, before = clock.now(), Filters.given(), moment_position()
    agent_id, begin, end = filters.agent_id, filters.created_from(now), filters.created_before()
    window = None
    if filters.needs_search():
        latest = before or ((end, FIRST_ID) if end else None)
        window = queries.find_window(connection, size=SEARCHED, before=latest)
    rows = queries.list_delegations(
        connection,
        owner_id=visitor.owner_scope,
        # An id that no agent can have finds nothing.
        agent_id=agent_id if agent_id is None or is_agent_id(agent_id) else NOBODY,
        role=filters.role if agent_id else None,
        status=filters.statuses,
        settlement=filters.settlement,
        created_from=max(filter(None, (begin, window)), default=None),
        created_before=end,
        limit=PAGE_SIZE + 1,
        before=before,
        brief=True,
    )
    return render(
        "delegations.html",
        title="Delegations",
        area="delegations",
        statuses=lifecycle.STATUSES,
        settlements=lifecycle.SETTLEMENTS,
        ranges=[(name, label) for name, (label, _) in RANGES.items()],
        filters=filters,
        rows=[documents.effective(row, now) for row in rows[:PAGE_SIZE]],
        pager=Pager.of(rows, moment_cursor),
        searched_to=window if window and (begin is None or window > begin) else None,
        further=Pager.to(encode_moment(window, FIRST_ID)) if window else None,
    )


def _visible(connection: Connection, visitor: Visitor, delegation_id: str) -> Any:
    """Return a delegation as it is now. Raises ``NotAParty`` for one of other owners."""
    row = queries.find_delegation(connection, delegation_id)
    owners = (row.requester_owner_id, row.delegate_owner_id)
    if not visitor.is_admin and visitor.principal.owner_id not in owners:
        raise NotAParty("the delegation is between agents of other owners")
    return documents.effective(row, clock.now())


@page("/delegations/<delegation_id>")
def delegation(connection: Connection, visitor: Visitor, delegation_id: str) -> str:
    """Show one delegation: its stages, its budget, all that happened, and its money."""
    try:
        row = _visible(connection, visitor, delegation_id)
    except DelegationNotFound:
        return _imported(connection, visitor, delegation_id)
    events = queries.list_events(connection, delegation_id)
    use = list_delegation_events(connection, delegation_id, limit=MAX_TRAIL)
    transactions = list_delegation_transactions(
        connection, delegation_id, limit=MAX_TRANSACTIONS, after=0
    )
    accounts = {
        posting[side]
        for one in transactions
        for posting in one["postings"]
        for side in ("debit_account", "credit_account")
    }
    return render(
        "delegation.html",
        title=f"Delegation {delegation_id[-8:]}",
        area="delegations",
        row=row,
        budget=breaker.controls(budget_of(row)),
        next_due=lifecycle.next_due(row),
        claim=lifecycle.claim_of(row),
        stages=_stages(row, events),
        trail=_trail(events, use),
        **_documents(row, events),
        decision=orjson.loads(row.policy_decision),
        transactions=[one | {"seal": _seal(connection, one)} for one in transactions],
        accounts=linked(connection, visitor, accounts),
        commands=_commands(visitor, row),
        done=request.args.get("done", ""),
    )


def _commands(visitor: Visitor, row: Any) -> list[str]:
    """Return what the visitor may do here: operators decide, requesters use the API."""
    allowed = lifecycle.commands_for(row)
    return [name for name in ("resolve", "cancel") if visitor.is_admin and name in allowed]


def _stages(row: Any, events: Sequence[Any]) -> list[dict[str, Any]]:
    """Return all six stages, each with the moment it began if it did."""
    reached = {
        stage["stage"]: datetime.fromisoformat(stage["timestamp"])
        for stage in documents.delegation_document(row, events)["lifecycle"]
    }
    newest = next((name for name in reversed(STAGES) if name in reached), None)
    return [{"name": name, "at": reached.get(name), "is_newest": name == newest} for name in STAGES]


def _trail(events: Sequence[Any], use: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what happened and what was used, newest first."""
    happened = [
        {
            "at": event.at,
            "order": (event.at, 0, event.number),
            "what": words(event.kind),
            "status": event.status,
            "actor": event.actor,
            "cost": None,
            "details": orjson.loads(event.details),
        }
        for event in events
    ]
    used = [
        {
            "at": event.recorded_at,
            "order": (event.recorded_at, 1, event.seq),
            "what": event.operation,
            "status": None,
            "actor": event.actor,
            "cost": event.cost_micros,
            "details": orjson.loads(event.meta),
        }
        for event in use
    ]
    newest_first = sorted(happened + used, key=lambda one: one["order"], reverse=True)
    return newest_first[:MAX_TRAIL]


# Members of events that hold what somebody said.
SAID = ("question", "answer", "reason")


def _documents(row: Any, events: Sequence[Any]) -> dict[str, Any]:
    """Return what a dispute is decided on: what was said, the task's input and its result."""
    said = []
    for event in events:
        details = orjson.loads(event.details)
        said += [
            {
                "what": words(event.kind),
                "name": name,
                "by": event.actor,
                "at": event.at,
                "text": text,
            }
            for name in SAID
            if isinstance(text := details.get(name), str)
        ]
    disputes = [one for one in said if one["what"] == DISPUTED]
    return {
        "said": [one for one in said if one not in disputes[-1:]][-MAX_SAID:],
        "dispute": disputes[-1] if disputes else None,
        "task_input": _pretty(row.task_input),
        "deliverable": _pretty(row.deliverable),
    }


def _pretty(text: str | None) -> str | None:
    if text is None:
        return None
    shown = pretty(text)
    return shown if len(shown) <= MAX_DOCUMENT else f"{shown[:MAX_DOCUMENT]}\n…"


def _seal(connection: Connection, transaction: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return seals.prove(connection, transaction["id"])
    except NotSealed:
        return None


def _imported(connection: Connection, visitor: Visitor, delegation_id: str) -> str:
    record = queries.find_legacy_record(connection, delegation_id)
    parties = find_parties(connection, (record.requester_agent_id, record.delegate_agent_id))
    mine = {party.owner_id for party in parties.values()}
    if not visitor.is_admin and visitor.principal.owner_id not in mine:
        raise NotAParty("the delegation is between agents of other owners")
    return render(
        "imported.html",
        title=f"Imported delegation {delegation_id}",
        area="delegations",
        row=record,
        record=_pretty(record.record),
    )


@page("/delegations/<delegation_id>/resolve", role="admin")
def resolve_form(connection: Connection, visitor: Visitor, delegation_id: str) -> str:
    """Ask once what a disputed result is worth."""
    return _form(connection, visitor, delegation_id, "resolve", {})


@page("/delegations/<delegation_id>/cancel", role="admin")
def cancel_form(connection: Connection, visitor: Visitor, delegation_id: str) -> str:
    """Ask once whether to call a delegation off."""
    return _form(connection, visitor, delegation_id, "cancel", {})


def _form(
    connection: Connection,
    visitor: Visitor,
    delegation_id: str,
    command: str,
    given: dict[str, str],
    problem: str | None = None,
) -> str:
    row = _visible(connection, visitor, delegation_id)
    return render(
        f"{command}.html",
        title=f"{command.capitalize()} delegation {delegation_id[-8:]}",
        area="delegations",
        row=row,
        charge=lifecycle.claim_of(row),
        **_documents(row, queries.list_events(connection, delegation_id)),
        allowed=command in _commands(visitor, row),
        given=given,
        problem=problem,
    )


def _actor(principal: Principal) -> Actor:
    return Actor(principal.owner_id, principal.key_id, principal.has_role("admin"))


def _decide(visitor: Visitor, delegation_id: str, command: str, schema: Any, effect: Any) -> Any:
    """Give a command as the API would, and lead back to the delegation."""
    given = {name: request.form.get(name, "") for name in ("charge_usd", "reason")}
    route = f"/v1/delegations/<delegation_id>/{command}"
    try:
        body = load_form(schema, given)

        def run(session: Session) -> Any:
            found = effect(session, _actor(visitor.principal), delegation_id, body)
            events = queries.list_events(session, found.id)
            return documents.delegation_document(found, events)

        perform(visitor, route, {"delegation_id": delegation_id}, schema.dump(body), run)
    except Refusal as refusal:
        with services().database.read() as connection:
            html = _form(connection, visitor, delegation_id, command, given, refusal.detail)
        return Response(html, refusal.status, content_type="text/html; charset=utf-8")
    path = url_for("console.delegation", delegation_id=delegation_id, done=command)
    return redirect(path, 303)


@action("/delegations/<delegation_id>/resolve")
def resolve(visitor: Visitor, delegation_id: str) -> Any:
    """Decide a dispute."""
    return _decide(
        visitor,
        delegation_id,
        "resolve",
        schemas.Resolve(),
        lambda session, actor, identifier, body: service.resolve(
            session, actor, identifier, body["charge_usd"], body["reason"]
        ),
    )


@action("/delegations/<delegation_id>/cancel")
def cancel(visitor: Visitor, delegation_id: str) -> Any:
    """Call a delegation off."""
    return _decide(
        visitor,
        delegation_id,
        "cancel",
        schemas.Cancel(),
        lambda session, actor, identifier, body: service.cancel(
            session, actor, identifier, None, body["reason"]
        ),
    )
