"""The reads that go to the driver directly, and what they do when that does not work."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.http.context import Services
from app.registry.errors import VersionNotFound
from app.registry.queries import _find_versions, find_versions
from app.statements import Statement
from tests.client import Api
from tests.registry.manifests import build_manifest

ID = "@acme:invoice-summarizer"
AGENT = f"/v1/agents/{ID}"
PATHS = (AGENT, f"{AGENT}/versions/1.0.0", f"{AGENT}/compare/1.0.0/1.0.0")


@pytest.fixture
def agent(acme: Api) -> Api:
    """The owner of an agent whose manifest is not only ASCII."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    body["manifest"]["identity"]["name"] = "Résumé 発票"
    assert acme.post("/v1/agents", body).status_code == 200
    return acme


@pytest.mark.parametrize("path", PATHS)
def test_both_ways_answer_the_same(
    agent: Api, services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the other way was taken")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "execute", refuse)
        direct = agent.get(path)
    failure = services.database.reader.dialect.loaded_dbapi.OperationalError

    def fail(*_: Any) -> None:
        raise failure("the connection is broken")

    with monkeypatch.context() as patch:
        patch.setattr(Statement, "_run_directly", fail)
        ordinary = agent.get(path)
    assert direct.status_code == 200
    assert direct.data == ordinary.data
    assert direct.headers.get("ETag") == ordinary.headers.get("ETag")


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "harm", ["DEALLOCATE ALL", "SELECT pg_terminate_backend(pg_backend_pid())"]
)
def test_a_connection_that_lost_its_statements_is_replaced(
    agent: Api, services: Services, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    before = agent.get(AGENT)
    with services.database.read() as connection:
        driver: Any = connection.connection.driver_connection
        with suppress(services.database.reader.dialect.loaded_dbapi.Error):
            driver.execute(harm)
    assert agent.get(AGENT).data == before.data
    # From then on the direct way works again.
    monkeypatch.setattr(Connection, "execute", None)
    assert agent.get(AGENT).data == before.data


def test_inside_a_transaction_it_is_part_of_it(agent: Api, services: Services) -> None:
    with services.database.snapshot() as connection:
        connection.execute(text("SELECT 1 FROM registry_versions")).all()
        assert agent.put(AGENT, {"manifest": build_manifest(version="1.1.0")}).status_code == 200
        with pytest.raises(VersionNotFound):
            find_versions(connection, ID, "1.1.0")


def test_a_parameter_does_not_end_at_a_nul(agent: Api, services: Services) -> None:
    rows: Any = []
    with suppress(DBAPIError), services.database.read() as connection:
        found = find_versions(connection, ID, "1.0.0")
        assert [row.version for row in found] == ["1.0.0"]
        parameters = {"agent_id": f"{ID}\0", "first": "1.0.0", "last": "1.0.0"}
        rows = _find_versions.all(connection, parameters)
    assert rows == []


def test_texts_are_unicode_whatever_the_environment_says(
    agent: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    services.database.dispose()
    assert agent.get(AGENT).get_json()["manifest"]["identity"]["name"] == "Résumé 発票"
