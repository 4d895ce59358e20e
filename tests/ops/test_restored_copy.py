"""A restored copy sends no webhook and closes no delegation until it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app import clock
from app.access.service import create_key
from app.config import Settings
from app.db import Database
from app.ops.deliverer import deliver_due
from app.ops.doctor import examine
from app.ops.maintenance import sweep
from app.ops.readiness import FAIL, check_database
from app.ops.restored import held_copy
from tests.conftest import PEPPER
from tests.console.conftest import Visitor
from tests.notification.conftest import *  # noqa: F403
from tests.notification.conftest import Receiver
from tests.ops.conftest import bring_back, take
from tests.ops.place import Place
from tests.ops.test_commands import agenthub
from tests.reliability.server import Client, Server, wait_for


@pytest.fixture
def copied(
    dialect: str,
    place: Place,
    receiver: Receiver,
    new_database: Callable[..., Settings],
    tmp_path: Path,
) -> Settings:
    """A restored copy, a year later: deliveries wait, and every delegation is overdue."""
    database = Database(place.settings)
    with database.transaction() as session:
        session.execute(
            text("UPDATE notification_subscriptions SET url = :url"), {"url": receiver.url}
        )
    database.dispose()
    take(place.settings, tmp_path / "place.snapshot")
    settings = replace(new_database(dialect), webhook_allow_private=True)
    bring_back(settings, tmp_path / "place.snapshot")
    return settings


def live(database: Database) -> list[tuple[str, str]]:
    with database.read() as connection:
        rows = connection.execute(text("SELECT id, status FROM delegation_delegations ORDER BY id"))
        return [(row.id, row.status) for row in rows]


def test_it_acts_only_once_it_is_activated(copied: Settings, receiver: Receiver) -> None:
    database = Database(copied)
    before = live(database)
    with clock.frozen(lambda: clock.datetime.now(clock.UTC) + timedelta(days=365)):
        assert sweep(database) == []
        assert deliver_due(database, PEPPER.encode()) == {}
        assert live(database) == before
        assert receiver.requests == []

        done = agenthub(copied, "snapshot", "activate", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"activated": True})

        assert sweep(database)
        assert live(database) != before
        assert deliver_due(database, PEPPER.encode())["delivered"] > 0
        assert receiver.requests
    database.dispose()


def test_everybody_who_looks_is_told(copied: Settings, place: Place) -> None:
    with place.open(copied) as shop:
        database = Database(copied)
        with database.read() as connection:
            copy = held_copy(connection)
        assert copy is not None
        ready = shop.caller("acme").get("/readyz")
        assert (ready.status_code, ready.get_json()["status"]) == (200, "ready")
        assert ready.get_json()["restored_copy"]["taken_at"] == copy.taken_at
        (finding,) = [one for one in examine(copied) if one.subject == "restored copy"]
        assert (finding.ok, finding.remedy) == (False, "agenthub snapshot activate")
        checks = [one for one in check_database(copied, database) if one.subject == finding.subject]
        assert [check.outcome for check in checks] == [FAIL]
        with database.transaction() as session:
            key = create_key(session, PEPPER.encode(), "watch", "admin").secret
        visitor = Visitor(shop.app, key)
        assert visitor.sign_in().status_code == 303
        assert "until: agenthub snapshot activate" in visitor.see("/operator")

        for command in ("sweep", "deliver-webhooks"):
            done = agenthub(copied, command)
            assert (done.returncode, "agenthub snapshot activate" in done.stderr) == (2, True)

        done = agenthub(copied, "snapshot", "activate")
        assert (done.returncode, copy.taken_at in done.stdout) == (0, True)
        assert shop.caller("acme").get("/readyz").get_json()["restored_copy"] is None
        actions = shop.caller("boss").get("/v1/audit?limit=1").get_json()["actions"]
        assert [(one["action"], one["target"]) for one in actions] == [
            ("snapshot activate", f"copy of {copy.taken_at}")
        ]
        done = agenthub(copied, "snapshot", "activate")
        assert (done.returncode, "no restored copy" in done.stdout) == (0, True)
        assert agenthub(copied, "sweep").returncode == 0
        database.dispose()


def test_a_snapshot_of_a_copy_does_not_carry_the_mark(
    copied: Settings, place: Place, tmp_path: Path
) -> None:
    assert (
        take(copied, tmp_path / "again.snapshot").rows
        == take(place.settings, tmp_path / "original.snapshot").rows
    )


def test_a_served_copy_stays_held_over_restarts(
    copied: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    url = copied.url.render_as_string(hide_password=False)
    allowed: dict[str, Any] = {"WEBHOOK_ALLOW_PRIVATE": "true", "LOG_LEVEL": "info"}
    server = Server(url, tmp_path, **allowed)
    try:
        for command in ("up", "serve"):
            server.command = command
            server.start()
            assert "until: agenthub snapshot activate" in server.log
            held = Client(server.port).request("GET", "/readyz").document
            assert held["restored_copy"] is not None
            server.terminate()
            server.wait()
            assert receiver.requests == []
        server.start()
        assert agenthub(copied, "snapshot", "activate").returncode == 0
        wait_for(lambda: bool(receiver.requests))
    finally:
        server.end()
