"""Sessions that are ended before their time, on both databases."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask
from sqlalchemy import select, update

from app import create_app
from app.access.models import ApiKey, EndedSession
from app.config import Settings
from app.http.context import EXTENSION, Services
from app.operator.session import SESSION_SECONDS
from app.operator.web import COOKIE
from app.ops.maintenance import Maintenance
from tests.console.conftest import ORIGIN, Visitor, hidden_fields
from tests.console.test_sign_in import cookie
from tests.delegation.conftest import Clock


def test_a_session_that_was_signed_out_ends_on_every_server(
    app: Flask, admin: Visitor, settings: Settings, services: Services, time: Clock
) -> None:
    stolen = [cookie(admin)]
    time.advance(seconds=120)
    admin.see("/operator")
    stolen.append(cookie(admin))
    assert stolen[0] != stolen[1]
    hidden = hidden_fields(admin.see("/operator"), "/operator/sign-out")
    admin.send("/operator", "/operator/sign-out")
    other = create_app(settings)
    for server in (app, other):
        for token in stolen:
            thief = Visitor(server)
            thief.client.set_cookie(COOKIE, token, path="/operator")
            assert "API key</label>" in thief.see("/operator")
            assert thief.get("/operator/agents").status_code == 303
            assert thief.get("/operator", **{"X-Console-Live": "1"}).status_code == 401
            sent = thief.client.post("/operator/refresh", data=hidden, headers={"Origin": ORIGIN})
            assert sent.headers["Location"] == "/operator/sign-in"
    other.extensions[EXTENSION].database.dispose()
    assert admin.sign_in().status_code == 303
    assert "Overview</h1>" in admin.see("/operator")


def test_a_session_that_was_signed_out_is_forgotten_when_it_would_be_over(
    admin: Visitor, services: Services, time: Clock
) -> None:
    admin.send("/operator", "/operator/sign-out")

    def kept() -> int:
        Maintenance(services.database, services.key_usage).run_once()
        with services.database.read() as connection:
            return len(connection.execute(select(EndedSession.id)).all())

    time.advance(seconds=SESSION_SECONDS - 1)
    assert kept() == 1
    time.advance(seconds=1)
    assert kept() == 0


def test_editing_the_database_promotes_no_session(
    visitor: Callable[..., Visitor], services: Services
) -> None:
    viewer = visitor("acme", "viewer")
    with services.database.transaction() as session:
        session.execute(update(ApiKey).values(role="admin"))
    assert "API key</label>" in viewer.see("/operator")
