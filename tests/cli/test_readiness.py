"""Launch readiness: what it looks at, and that each thing can say no-go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app import clock
from app.access.service import bootstrap_admin
from app.config import Settings
from app.db import Database
from app.ops.funnel import FunnelUnusable, read_funnel
from app.ops.journey import REQUESTER, Journey
from app.ops.readiness import (
    check_backups,
    check_configuration,
    check_database,
    check_funnel,
    check_journey,
)
from app.ops.snapshot.create import create
from app.ops.snapshot.progress import Silence
from tests.cli.test_commands import Shell
from tests.conftest import PEPPER, settings_for
from tests.reliability.server import Server, make_client, url_of


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty registry."""
    server = Server(url_of(settings), tmp_path, command="serve").start()
    yield server
    server.end()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A database."""
    database = Database(settings)
    yield database
    database.dispose()


def outcomes(checks: Any) -> dict[str, str]:
    """Return each check's outcome by its subject."""
    return {f"{check.group}: {check.subject}": check.outcome for check in checks}


def test_a_running_service_is_judged(server: Server, settings: Settings, tmp_path: Path) -> None:
    shell = Shell(settings, tmp_path)
    admin = make_client(server, "operator", "admin")
    address = ("--url", f"http://127.0.0.1:{server.port}")
    funnel = tmp_path / "funnel.json"
    funnel.write_text('{"visitors": 1000, "signups": 150, "activated": 60, "paid": 11}')
    documents = []
    for _ in range(2):
        done = shell.run(
            "readiness", *address, "--json", "--funnel", str(funnel),
            AGENTHUB_OPERATOR_KEY=admin.api_key,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        documents.append(json.loads(done.stdout))
    assert documents[1]["go"] is False
    found = {f"{one['group']}: {one['subject']}": one for one in documents[1]["checks"]}
    failed = {name for name, one in found.items() if one["outcome"] == "fail"}
    expected = {"configuration: TLS", "backups: age", "funnel: paid"}
    if settings.is_sqlite:
        expected |= {"configuration: database"}
    else:
        # The tests' PostgreSQL does without durability.
        expected |= {"configuration: durability"}
    assert failed == expected
    assert all(one["remedy"] for one in found.values() if one["outcome"] != "pass")
    # Two journeys have paid a cent each, and left no money behind in the requester's account.
    account = admin.request("GET", f"/v1/ledger/accounts/agent:{REQUESTER}").document
    assert account["balance_usd"] == 0.02
    table = shell.run("readiness", *address, AGENTHUB_OPERATOR_KEY=admin.api_key)
    assert "No-go" in table.stdout
    assert "journey: settle" in table.stdout


def test_the_journey_ends_where_it_fails(server: Server) -> None:
    developer = make_client(server, "acme", "developer")
    checks = list(check_journey(Journey(f"http://127.0.0.1:{server.port}", developer.api_key)))
    assert [check.subject for check in checks] == ["health", "register", "get", "list", "fund"]
    assert [check.outcome for check in checks] == ["pass"] * 4 + ["fail"]
    assert "role_required" in checks[-1].detail


def test_books_that_disagree_are_no_go(database: Database) -> None:
    assert "fail" not in outcomes(
        check for check in check_database(database.settings, database)
        if check.group in ("tracks", "reconciliation")
    ).values()  # fmt: skip
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO ledger_accounts (id, kind, debits_micros, credits_micros, created_at)"
                " VALUES ('agent:@acme:a', 'agent', 0, 5, '2026-01-02 03:04:05')"
            )
        )
    found = outcomes(check_database(database.settings, database))
    assert found["reconciliation: R1"] == "fail"


def test_the_first_starts_key_is_no_go(database: Database) -> None:
    with database.transaction() as session:
        bootstrap_admin(session, PEPPER.encode())
    found = outcomes(check_database(database.settings, database))
    assert found["keys: first start"] == "fail"
    assert found["keys: admins"] == "pass"
    assert found["keys: expiry"] == "warn"


def test_settings_are_judged(settings: Settings) -> None:
    url = url_of(settings)
    careless = settings_for(url, settings.data_dir, log_level="debug")
    found = outcomes(check_configuration(careless, "http://hub"))
    assert list(found.values()) == ["fail", "warn", "warn"]
    careful = settings_for(url, settings.data_dir, rate_limit_per_minute=60)
    assert set(outcomes(check_configuration(careful, "https://hub")).values()) == {"pass"}


def test_a_backup_has_an_age(database: Database, tmp_path: Path) -> None:
    def look() -> list[tuple[str, str]]:
        checks = check_backups(database, tmp_path, timedelta(hours=26))
        return [(check.subject, check.outcome) for check in checks]

    assert look() == [("age", "fail")]
    create(database, tmp_path / "a.snapshot", Silence())
    assert look() == [("age", "pass")]
    tomorrow = clock.now() + timedelta(hours=27)
    with clock.frozen(lambda: tomorrow):
        assert look() == [("age", "fail")]
    (tmp_path / "b.snapshot").write_bytes(b"half a file")
    assert look() == [("b.snapshot", "fail"), ("age", "pass")]


FUNNEL = {"visitors": 100, "signups": 15, "activated": 6, "paid": 2}


def test_a_funnel_is_held_to_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "funnel.json"
    path.write_text(json.dumps(FUNNEL))
    assert set(outcomes(check_funnel(path, {})).values()) == {"pass"}
    found = outcomes(check_funnel(path, {"signup": 0.16, "activation": 0.4, "paid": 0.5}))
    assert list(found.values()) == ["fail", "pass", "fail"]
    path.write_text(json.dumps(dict.fromkeys(FUNNEL, 0)))
    assert set(outcomes(check_funnel(path, {})).values()) == {"fail"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "expected an object"),
        ('{"visitors": 1}', "exactly the members"),
        (json.dumps(FUNNEL | {"paid": -1}), "paid: expected a whole number"),
        (json.dumps(FUNNEL | {"paid": True}), "paid: expected a whole number"),
        (json.dumps(FUNNEL | {"paid": 0.5}), "paid: expected a whole number"),
        (json.dumps(FUNNEL | {"paid": 7}), "paid: expected no more than activated"),
    ],
)
def test_a_malformed_funnel_says_where(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "funnel.json"
    path.write_text(content)
    with pytest.raises(FunnelUnusable, match=reason):
        read_funnel(path)
