"""Liveness, readiness, request ids, common headers, and every error's place in the table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import text

from app import errors
from app.http import problems
from app.http.context import Services
from tests.client import Api


def test_health_asks_nothing_of_the_database(
    anyone: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.database, "reader", None)
    assert anyone.get("/healthz").get_json() == {"status": "ok"}


def test_ready_names_every_track(anyone: Api) -> None:
    response = anyone.get("/readyz")
    assert response.status_code == 200
    assert response.get_json()["status"] == "ready"
    assert {(t["scope"], t["state"]) for t in response.get_json()["tracks"]} == {
        ("access", "current"),
        ("idempotency", "current"),
        ("registry", "current"),
        ("ledger", "current"),
        ("delegation", "current"),
        ("notification", "current"),
    }


@pytest.mark.parametrize(
    ("change", "scope", "state", "remedy"),
    [
        ("DELETE FROM alembic_version WHERE version_num LIKE 'registry%'", "registry", "absent",
         "alembic stamp registry@head"),
        ("UPDATE alembic_version SET version_num = 'registry_9999'"
         " WHERE version_num LIKE 'registry%'", "registry", "unknown", "install the release"),
        ("INSERT INTO alembic_version VALUES ('billing_0001')", "billing", "unknown",
         "install the release"),
    ],
)  # fmt: skip
def test_not_ready_says_what_mends_it(
    anyone: Api, services: Services, change: str, scope: str, state: str, remedy: str
) -> None:
    with services.database.transaction() as session:
        session.execute(text(change))
    response = anyone.get("/readyz")
    assert (response.status_code, response.get_json()["status"]) == (503, "outdated")
    (track,) = [t for t in response.get_json()["tracks"] if t["scope"] == scope]
    assert track["state"] == state
    assert remedy in track["remedy"]


def test_a_request_keeps_a_usable_id_and_gets_one_otherwise(anyone: Api) -> None:
    kept = anyone.get("/nothing", headers={"X-Request-Id": "trace-1.2_3"})
    assert kept.headers["X-Request-Id"] == kept.get_json()["request_id"] == "trace-1.2_3"
    for unusable in ("", "a b", "x" * 129, 'x"', "é"):
        made = anyone.get("/nothing", headers={"X-Request-Id": unusable}).headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f-]{36}", made)


def test_every_answer_forbids_guessing_its_type(anyone: Api) -> None:
    for path in ("/healthz", "/v1/agents", "/nothing"):
        assert anyone.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_a_wrong_method_names_the_right_ones(acme: Api) -> None:
    response = acme.post("/v1/agents/@acme:a/versions")
    assert (response.status_code, response.get_json()["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]


def families(cls: type[errors.DomainError]) -> Iterator[type[errors.DomainError]]:
    """Return every subclass, the indirect ones too."""
    for child in cls.__subclasses__():
        yield child
        yield from families(child)


def test_every_domain_error_is_in_the_table_once(app: Flask) -> None:
    concrete = [cls for cls in families(errors.DomainError) if "code" in vars(cls)]
    assert len(concrete) > 15
    for cls in concrete:
        assert len([base for base in cls.__mro__ if base in problems.KINDS]) == 1, cls
    codes = [cls.code for cls in concrete]
    assert len(codes) == len(set(codes))


def test_an_unexpected_failure_tells_nothing(
    app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("SELECT secret FROM vault")

    response = app.test_client().get("/boom")
    assert response.status_code == 500
    assert response.mimetype == "application/problem+json"
    assert "vault" not in response.text
    assert "Traceback" not in response.text
    assert json.loads(response.text)["code"] == "internal_server_error"
    # The operator, unlike the caller, is told everything.
    assert "SELECT secret FROM vault" in "".join(capsys.readouterr())
