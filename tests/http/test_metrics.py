"""What is measured: true, of every process, cheap to ask for, and not for everybody."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text

from app import create_app
from app.config import Settings
from app.delegation.lifecycle import LIVE
from app.http.context import EXTENSION, Services
from app.ops import gauges
from app.ops.maintenance import sweep
from app.scopes import SCOPES
from tests.client import Api
from tests.conftest import rule_of
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    Clock,
    accept,
    offer,
    request,
)
from tests.delegation.conftest import agents as agents
from tests.delegation.conftest import operator as operator
from tests.delegation.conftest import time as time

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOKEN = "token-of-the-metrics-0123456789abcdef"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(api: Api) -> Samples:
    """Return every sample by its name and labels."""
    response = api.get("/metrics")
    assert response.status_code == 200
    return parse(response.text)


def parse(page: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the database be read at every scrape."""
    monkeypatch.setattr(gauges, "CACHE_SECONDS", 0.0)


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


@pytest.mark.usefixtures("agents", "fresh")
def test_delegations_and_money_are_measured(
    acme: Api, globex: Api, operator: Api, services: Services, time: Clock
) -> None:
    before = samples(operator)
    acme.post(DELEGATIONS, request(), idempotency_key="one")
    acme.post(DELEGATIONS, request(), idempotency_key="one")
    worker = accept(globex, offer(acme)["delegation_id"])
    worker.meter(8.5, 4)
    offer(acme, accept_within_seconds=60)
    after = samples(operator)

    assert grown(before, after, "agenthub_idempotent_replays_total", route=DELEGATIONS) == 1
    for kind, number in {"created": 3, "accepted": 2, "closed": 2, "threshold": 4}.items():
        assert grown(before, after, "agenthub_delegation_events_total", kind=kind) == number
    for status in ("completed", "failed_hard_stop"):
        assert grown(before, after, "agenthub_delegations_closed_total", status=status) == 1
    trips = "agenthub_breaker_trips_total"
    for threshold, number in {"80": 2, "100": 1, "120": 1}.items():
        assert grown(before, after, trips, threshold=threshold) == number
    assert value(after, "agenthub_delegations_live", status="offered") == 1
    assert {s for s in LIVE if ("agenthub_delegations_live", (("status", s),)) in after} == set(
        LIVE
    )
    # The offer, and what is in review of the work that was stopped.
    assert value(after, "agenthub_escrow_micro_usd") == 20_000_000
    unsettled = "agenthub_delegations_unsettled"
    assert value(after, unsettled, settlement="in_review") == 1
    assert (unsettled, (("settlement", "disputed"),)) in after
    assert value(after, "agenthub_sweeper_lag_seconds") == 0

    time.advance(seconds=100)
    assert value(samples(operator), "agenthub_sweeper_lag_seconds") == 40
    sweep(services.database)
    assert value(samples(operator), "agenthub_sweeper_lag_seconds") == 0


@pytest.mark.usefixtures("agents", "fresh")
def test_what_was_undone_is_not_counted(
    acme: Api, operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = samples(operator)

    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("app.idempotency.service.store_answer", fail)
        assert acme.post(DELEGATIONS, request()).status_code == 500
    after = samples(operator)
    assert grown(before, after, "agenthub_delegation_events_total", kind="created") == 0
    labels = {"method": "POST", "route": DELEGATIONS, "status": "500"}
    assert grown(before, after, "agenthub_http_requests_total", **labels) == 1


@pytest.mark.usefixtures("fresh")
def test_clients_cannot_make_up_labels(anyone: Api, caller: Callable[..., Api]) -> None:
    admin = caller("operator", role="admin")
    before = samples(admin)
    for number in range(5):
        anyone.get(f"/no/such/page-{number}")
        anyone.get(f"/v1/agents/@acme:agent-{number}")
        anyone.request(f"MADEUP{number}", f"/other/{number}")
    after = samples(admin)
    name = "agenthub_http_requests_total"
    unmatched = {"route": "unmatched", "status": "404"}
    assert grown(before, after, name, method="GET", **unmatched) == 5
    assert grown(before, after, name, method="other", **unmatched) == 5
    route = "/v1/agents/<agent_id>"
    assert grown(before, after, name, method="GET", route=route, status="404") == 5
    seconds = "agenthub_http_request_duration_seconds_count"
    assert grown(before, after, seconds, method="GET", route=route) == 5
    assert not [key for key in after if "MADEUP" in str(key) or "agent-1" in str(key)]


@pytest.mark.usefixtures("fresh")
def test_tracks_are_shown_with_their_state(services: Services, caller: Callable[..., Api]) -> None:
    admin = caller("operator", role="admin")
    found = samples(admin)
    for scope in SCOPES:
        assert value(found, "agenthub_track_state", scope=scope, state="current") == 1
        assert value(found, "agenthub_track_state", scope=scope, state="behind") == 0
    with services.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'ledger_0001'"
                             " WHERE version_num LIKE 'ledger%'"))  # fmt: skip
    found = samples(admin)
    assert value(found, "agenthub_track_state", scope="ledger", state="behind") == 1
    assert value(found, "agenthub_track_state", scope="ledger", state="current") == 0


def test_the_database_is_asked_at_most_every_ten_seconds(
    services: Services, caller: Callable[..., Api]
) -> None:
    admin = caller("operator", role="admin")
    samples(admin)
    seen: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        seen.append(statement)

    event.listen(services.database.reader, "before_cursor_execute", note)
    samples(admin)
    event.remove(services.database.reader, "before_cursor_execute", note)
    assert [statement for statement in seen if "access_api_keys" not in statement] == []


@pytest.mark.usefixtures("agents")
def test_no_scrape_reads_what_has_ended(services: Services, dialect: str) -> None:
    queries: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        queries.append((statement, parameters))

    event.listen(services.database.reader, "before_cursor_execute", note)
    list(gauges.DatabaseGauges(services.database).collect())
    event.remove(services.database.reader, "before_cursor_execute", note)
    for statement, parameters in queries:
        if "_delegations" not in statement and "notification_" not in statement:
            continue
        with services.database.read() as connection:
            if dialect == "postgresql":
                # A table this small is read in whole unless it must not be.
                connection.exec_driver_sql("SET enable_seqscan = off")
            explain = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN "
            plan = connection.exec_driver_sql(explain + statement, parameters).all()  # type: ignore[arg-type]
            if dialect == "postgresql":
                connection.exec_driver_sql("RESET enable_seqscan")
        shown = " ".join(str(row) for row in plan)
        assert "ix_" in shown
        assert "Seq Scan" not in shown
        assert not re.search(r"SCAN (delegation|notification)_\w+'?\)?$", shown)


def token_app(settings: Settings) -> Flask:
    app = create_app(replace(settings, metrics_token=TOKEN))
    rule_of(app)
    return app


def test_the_metrics_are_not_for_everybody(
    settings: Settings, caller: Callable[..., Api], anyone: Api, acme: Api
) -> None:
    assert anyone.get("/metrics").status_code == 401
    for api in (acme, caller("acme", role="viewer")):
        assert api.get("/metrics").status_code == 403
    # Without a token, none is right: neither an empty one nor the word for none.
    for given in ("", "None", TOKEN):
        headers = {"Authorization": f"Bearer {given}"}
        assert anyone.get("/metrics", headers=headers).status_code == 401

    app = token_app(settings)
    client = app.test_client()

    def status(authorization: str) -> int:
        return client.get("/metrics", headers={"Authorization": authorization}).status_code

    assert status(f"Bearer {TOKEN}") == 200
    assert status(f"bearer  {TOKEN}") == 200
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer \u00e9"):
        assert status(wrong) == 401
    app.extensions[EXTENSION].database.dispose()


def test_a_database_that_is_away_is_shown_to_whoever_has_the_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = token_app(settings)
    services = app.extensions[EXTENSION]
    services.database.dispose()
    away = create_app(
        replace(
            settings,
            metrics_token=TOKEN,
            database_url=settings.url.set(database="/nowhere/agenthub.db")
            if settings.is_sqlite
            else settings.url.set(port=1),
        )
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = away.test_client().get("/metrics", headers=headers)
    assert response.status_code == 200
    found = parse(response.text)
    assert value(found, "agenthub_database_up") == 0
    assert ("agenthub_escrow_micro_usd", ()) not in found
    away.extensions[EXTENSION].database.dispose()


def names_in(page: str) -> set[str]:
    return set(re.findall(r"\bagenthub_[a-z_]+\b", page))


@pytest.mark.usefixtures("agents", "fresh")
def test_dashboard_and_alerts_use_what_there_is(acme: Api, operator: Api) -> None:
    acme.post(DELEGATIONS, request(), idempotency_key="one")
    acme.post(DELEGATIONS, request(), idempotency_key="one")
    page = operator.get("/metrics").text
    exported = {name for name, _ in parse(page)} | {
        f"{name}_total" for name in re.findall(r"# TYPE (agenthub_\w+?)(?:_total)? counter", page)
    }
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    alerts = (DOCS / "prometheus-alerts.yml").read_text()
    described = (DOCS / "operations.md").read_text()
    for text_ in (" ".join(expressions), alerts):
        assert len(names_in(text_)) > 5
        assert names_in(text_) <= exported
    families = set(re.findall(r"# TYPE (agenthub_\w+) ", page))
    families = {name for name in families if not name.endswith("_created")}
    assert families <= names_in(described)
    assert {CLERK, READER}.isdisjoint(page.split('"'))


def test_the_command_loads_nothing_that_counts_before_its_server_has_a_folder() -> None:
    program = "import sys, app.commands; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
