"""Operations: schema and history, snapshots, webhooks, keys, imports, what administrators did.

The page is a list of panels, so that a scope with something to operate adds one without touching
the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import orjson
from flask import redirect, request, url_for
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock
from app.access.audit import list_actions
from app.access.service import find_owner_names, list_keys
from app.delegation.queries import list_imports
from app.http.context import services
from app.http.pagination import encode_cursor
from app.notification.queries import (
    count_subscriptions,
    count_waiting,
    find_subscription,
    list_dead,
    list_troubled,
)
from app.notification.service import replay
from app.operator.actions import Refusal, perform
from app.operator.evidence import compare, repair
from app.operator.paging import PAGE_SIZE, Pager, cursor
from app.operator.web import Visitor, action, console, page, render
from app.ops.snapshot.listing import list_files, look_at
from app.ops.tracks import read_journal, read_tracks

SHOWN_STEPS, SHOWN_SNAPSHOTS, SHOWN_WEBHOOKS = 12, 10, 20
REFRESH_ROUTE = "/v1/operator/refresh"
REPLAY_ROUTE = "/operator/webhooks/<webhook_id>/deliveries/<delivery_id>/replay"


def _schema(connection: Connection) -> dict[str, Any]:
    journal = read_journal(connection)
    return {
        "tracks": read_tracks(connection),
        "journal": journal[::-1][:SHOWN_STEPS],
        "steps": len(journal),
    }


def _keys(connection: Connection) -> dict[str, Any]:
    now = clock.now()
    found = []
    for key in reversed(list_keys(connection, services().pepper)):
        expires: Any = key["expires_at"]
        if key["revoked_at"] is not None:
            state = "revoked"
        elif not key["genuine"]:
            state = "altered"
        elif expires is not None and expires <= now:
            state = "expired"
        else:
            state = "rotated" if key["replaced_by"] else "live"
        found.append(key | {"state": state})
    found.sort(key=lambda key: key["state"] not in ("live", "rotated"))
    return {"api_keys": found[:PAGE_SIZE], "more_keys": max(0, len(found) - PAGE_SIZE)}


def _webhooks(connection: Connection) -> dict[str, Any]:
    pending, dead = count_waiting(connection)
    shown = list_troubled(connection, limit=SHOWN_WEBHOOKS)
    return {
        "webhooks": shown,
        "event_types": {row.id: orjson.loads(row.event_types) for row in shown},
        "owners": find_owner_names(connection, {row.owner_id for row in shown}),
        "more_webhooks": count_subscriptions(connection) - len(shown),
        "pending": pending,
        "dead": dead,
        "replayed": request.args.get("replayed") == "1",
        "given_up": list_dead(connection, limit=SHOWN_WEBHOOKS),
    }


def _snapshots(_: Connection) -> dict[str, Any]:
    folder = services().settings.snapshot_dir
    files = list_files(folder) if folder else []
    return {
        "folder": folder,
        "is_readable": folder is not None and os.access(folder, os.R_OK | os.X_OK),
        "snapshots": [look_at(path) for path in files[:SHOWN_SNAPSHOTS]],
        "more_snapshots": max(0, len(files) - SHOWN_SNAPSHOTS),
    }


def _imports(connection: Connection) -> dict[str, Any]:
    return {"imports": list_imports(connection)}


def _trust(_: Connection) -> dict[str, Any]:
    names = ("refreshed", "compared", "recounted", "measured")
    return {name: request.args.get(name) for name in names}


def _actions(connection: Connection) -> dict[str, Any]:
    rows = list_actions(connection, limit=PAGE_SIZE + 1, before=cursor("[0-9a-f-]{36}"))
    return {
        "actions": rows[:PAGE_SIZE],
        "pager": Pager.of(rows, lambda row: encode_cursor(row.id)),
    }


# What an operator looks after, in the order of the page: template, heading, what it shows.
PANELS: list[tuple[str, str, Callable[[Connection], dict[str, Any]]]] = [
    ("schema", "Schema", _schema),
    ("trust", "Trust and statistics", _trust),
    ("snapshots", "Snapshots", _snapshots),
    ("webhooks", "Webhooks", _webhooks),
    ("keys", "API keys", _keys),
    ("imports", "Imports", _imports),
    ("actions", "What administrators did", _actions),
]


@page("/operations", role="admin")
def operations(connection: Connection, visitor: Visitor) -> str:
    """Show what an operator looks after."""
    return render(
        "operations.html",
        title="Operations",
        area="operations",
        panels=[(name, heading, show(connection)) for name, heading, show in PANELS],
        problem=request.args.get("problem"),
    )


@action("/webhooks/<webhook_id>/deliveries/<delivery_id>/replay")
def replay_delivery(visitor: Visitor, webhook_id: str, delivery_id: str) -> Any:
    """Have a delivery that was given up attempted anew, for whoever owns the webhook."""

    def run(session: Session) -> dict[str, str]:
        owner_id = find_subscription(session, webhook_id, None).owner_id
        replay(session, owner_id, webhook_id, delivery_id)
        return {"delivery_id": delivery_id}

    path = {"webhook_id": webhook_id, "delivery_id": delivery_id}
    try:
        perform(visitor, REPLAY_ROUTE, path, None, run)
    except Refusal as refusal:
        return redirect(url_for("console.operations", problem=refusal.detail), 303)
    return redirect(url_for("console.operations", replayed="1", _anchor="webhooks"), 303)


@action("/refresh")
def refresh(visitor: Visitor) -> Any:
    """Hold trust evidence and numbers of agents to history, and repair what differs."""
    with services().database.snapshot() as connection:
        report = compare(connection)
    try:
        done = perform(
            visitor, REFRESH_ROUTE, {}, None, lambda session: repair(session, report).document()
        )
    except Refusal as refusal:
        return redirect(url_for("console.operations", problem=refusal.detail), 303)
    console().versions.forget()
    return redirect(
        url_for(
            "console.operations",
            refreshed=done["repaired_total"],
            compared=done["compared_agents"],
            recounted=done["recounted_lists"],
            measured=done["recounted_owners"],
            _anchor="trust",
        ),
        303,
    )
