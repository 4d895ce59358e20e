"""Reading changes nothing: not a row, not a byte, and the database itself would refuse it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import contents

AGENT = "/v1/agents/@acme:invoice-summarizer"
# But for /readyz, which finds out by writing whether the database takes writes.
READS = (
    "/healthz",
    "/openapi.json",
    "/docs",
    "/problems/version_exists",
    "/v1/agents",
    "/v1/agents?namespace=@acme&status=active&limit=1",
    AGENT,
    AGENT + "/capabilities",
    AGENT + "/versions",
    AGENT + "/versions/1.0.0",
    AGENT + "/versions/1.0.0/evals",
    AGENT + "/versions/1.0.0/behavioral-diff/1.1.0",
    AGENT + "/compare/1.0.0/1.1.0",
    "/v1/namespaces/acme",
    "/v1/namespaces/nobody",
    "/v1/agents/@acme:missing",
)


@pytest.fixture
def registry(acme: Api) -> Api:
    """A registry of an agent with two versions and an evaluation."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    publication = {"manifest": build_manifest(version="1.1.0")}
    assert acme.put(AGENT, publication).status_code == 200
    result = {"suite": "s", "metrics": {"accuracy": 1}}
    assert acme.post(AGENT + "/versions/1.0.0/evals", result).status_code == 200
    return acme


def digests(folder: Path) -> dict[str, str]:
    """Return what the database and its log hold, byte for byte."""
    paths = [folder / "agenthub.db", folder / "agenthub.db-wal"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def next_transaction(connection: Connection) -> int:
    """Return the number that the next writing transaction of the PostgreSQL server will get."""
    return int(connection.scalar(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")))


def test_reads_never_write(
    registry: Api, services: Services, app: Flask, dialect: str, tmp_path: Path
) -> None:
    before = contents(services.database)
    statements: list[str] = []
    for engine in (services.database.reader, services.database.writer):
        event.listen(
            engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: statements.append(statement),
        )
    event.listen(services.database.writer, "checkout", lambda *_: statements.append("writer used"))

    def read_everything() -> None:
        for path in READS:
            # A registry's reader may or may not present a key; neither is stored by a read.
            for headers in ({}, {"X-API-Key": registry.key or ""}):
                with registry.client.get(path, headers=headers) as response:
                    assert response.status_code in (200, 404)

    if dialect == "sqlite":
        held = digests(tmp_path)
        read_everything()
        assert digests(tmp_path) == held
    else:
        with services.database.read() as connection:
            # The server's own housekeeping may take a number now and then, but not every time.
            for _ in range(3):
                first = next_transaction(connection)
                read_everything()
                if next_transaction(connection) == first:
                    break
            else:
                raise AssertionError("every round of reads wrote something")
    assert {statement.split()[0] for statement in statements} <= {"SELECT", "PRAGMA"}
    assert contents(services.database) == before


def test_the_connection_of_a_read_refuses_to_write(registry: Api, services: Services) -> None:
    before = contents(services.database)
    for statement in (
        "DELETE FROM registry_agents",
        "UPDATE registry_agents SET revision = 9",
        "INSERT INTO registry_namespaces (name, owner_id, created_at) VALUES ('@x', 'y', NULL)",
        "CREATE TABLE intruder (id INTEGER)",
        "DROP TABLE registry_evaluations",
    ):
        with services.database.read() as connection, pytest.raises(DBAPIError) as refusal:
            connection.execute(text(statement))
        assert "read" in str(refusal.value.orig).lower()
    assert contents(services.database) == before


def test_a_stored_time_of_use_is_no_part_of_a_write(
    registry: Api, services: Services, caller: Callable[..., Api]
) -> None:
    before = contents(services.database)["access_api_keys"]
    registry.post("/v1/agents", {})
    assert contents(services.database)["access_api_keys"] == before
    with services.database.transaction() as session:
        assert services.key_usage.flush(session) == 1
    assert contents(services.database)["access_api_keys"] != before
