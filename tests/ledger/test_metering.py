"""Metering events: each counts once, and both sides of the work see them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.ledger import metering
from app.ledger.errors import MeteringEventReused
from app.ledger.metering import MeteringEvent
from app.registry.queries import find_owner
from tests.client import Api
from tests.ledger.book import Book
from tests.registry.manifests import build_manifest

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKER, PAYER, OTHER = (f"00000000-0000-7000-8000-00000000000{n}" for n in (1, 2, 3))
DELEGATION = "00000000-0000-7000-8000-0000000000d1"


def event(name: str, **changes: Any) -> MeteringEvent:
    """Return an event of a delegation's work."""
    usual = MeteringEvent(
        source="@acme:mailer",
        event_id=name,
        operation="llm_call",
        cost_micros=5,
        actor="@acme:mailer",
        owner_id=WORKER,
        payer_owner_id=PAYER,
        delegation_id=DELEGATION,
        metadata={"tokens": 12, "model": "m"},
        occurred_at=MOMENT,
    )
    return replace(usual, **changes)


def record(book: Book, *events: MeteringEvent) -> list[str]:
    """Record those of the events that are not recorded yet and return their ids."""
    with book.database.transaction() as session:
        new = metering.unseen(session, events)
        metering.record_events(session, new)
    return [found.event_id for found in new]


def seen_by(book: Book, owner_id: str | None, limit: int = 100, before: int | None = None) -> Any:
    """Return the rows that an owner sees, newest first."""
    with book.database.read() as connection:
        return metering.list_metering(connection, owner_id=owner_id, limit=limit, before=before)


@contextmanager
def counted(book: Book, engine: str = "writer") -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements of an engine inside the block, with parameters."""
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _u: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    target = getattr(book.database, engine)
    sa.event.listen(target, "before_cursor_execute", note)
    yield statements
    sa.event.remove(target, "before_cursor_execute", note)


class TestRecording:
    def test_an_event_is_kept_as_reported(self, book: Book) -> None:
        record(book, event("e1"))
        with book.database.read() as connection:
            (row,) = metering.list_delegation_events(connection, DELEGATION, limit=1000)
        assert (row.event_id, row.actor, row.operation) == ("e1", "@acme:mailer", "llm_call")
        assert (row.cost_micros, row.meta) == (5, '{"tokens":12,"model":"m"}')
        assert (row.delegation_id, row.occurred_at) == (DELEGATION, MOMENT)

    def test_an_event_counts_once(self, book: Book) -> None:
        assert record(book, event("e1"), event("e2")) == ["e1", "e2"]
        before = book.contents()
        assert record(book, event("e2"), event("e1")) == []
        assert book.contents() == before
        assert record(book, event("e3"), event("e1"), event("e3")) == ["e3"]

    def test_the_time_is_not_part_of_what_was_reported(self, book: Book) -> None:
        record(book, event("e1"))
        assert record(book, event("e1", occurred_at=MOMENT + timedelta(hours=1))) == []
        assert [row.occurred_at for row in seen_by(book, WORKER)] == [MOMENT]

    def test_the_order_of_members_is_not_either(self, book: Book) -> None:
        record(book, event("e1"))
        assert record(book, event("e1", metadata={"model": "m", "tokens": 12.0})) == []

    @pytest.mark.parametrize(
        "change",
        [
            {"operation": "tool_call"},
            {"cost_micros": 6},
            {"actor": "@acme:other"},
            {"owner_id": OTHER},
            {"payer_owner_id": None},
            {"delegation_id": None},
            {"metadata": {}},
        ],
    )
    def test_another_event_under_the_same_id_is_refused(
        self, book: Book, change: dict[str, Any]
    ) -> None:
        record(book, event("e1"))
        before = book.contents()
        with pytest.raises(MeteringEventReused, match="as 'e1'"):
            record(book, event("e2"), event("e1", **change))
        with pytest.raises(MeteringEventReused, match="as 'e3'"):
            record(book, event("e3"), event("e3", **change))
        assert book.contents() == before

    def test_every_source_names_its_own(self, book: Book) -> None:
        record(book, event("e1"))
        assert record(book, event("e1", source="@globex:mailer", cost_micros=9)) == ["e1"]

    def test_nothing_is_nothing(self, book: Book) -> None:
        with counted(book) as statements:
            assert record(book) == []
        assert statements == []

    def test_a_hundred_cost_as_many_statements_as_one(self, book: Book) -> None:
        for first, number in ((0, 1), (1, 100)):
            with counted(book) as statements:
                record(book, *(event(f"e{n}") for n in range(first, first + number)))
            assert len(statements) == 2
        with book.database.read() as connection:
            rows = metering.list_delegation_events(connection, DELEGATION, limit=1000)
        assert [row.event_id for row in rows] == [f"e{n}" for n in range(101)]

    def test_of_rivals_that_report_one_event_one_records_it(self, book: Book) -> None:
        start = threading.Barrier(8)

        def report(_: int) -> str:
            with book.database.transaction() as session:
                new = metering.unseen(session, [event("e1"), event("e2")])
                if not book.settings.is_sqlite:
                    # On SQLite a transaction has the database to itself.
                    start.wait()
                try:
                    metering.record_events(session, new)
                except MeteringEventReused:
                    session.rollback()
                    return "refused"
            return "recorded" if new else "seen"

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(report, range(8)))
        assert outcomes.count("recorded") == 1
        assert set(outcomes) == {"recorded", "seen" if book.settings.is_sqlite else "refused"}
        assert len(seen_by(book, None)) == 2

    def test_a_cost_below_zero_is_refused_by_the_database(self, book: Book) -> None:
        with pytest.raises(sa.exc.IntegrityError, match="cost_not_negative"):
            record(book, event("e1", cost_micros=-1))

    @pytest.mark.parametrize(
        "statement",
        ["UPDATE ledger_metering_events SET cost_micros = 0", "DELETE FROM ledger_metering_events"],
    )
    def test_an_event_never_changes(self, book: Book, statement: str) -> None:
        record(book, event("e1"))
        with (
            pytest.raises(sa.exc.DatabaseError, match="append-only"),
            book.database.transaction() as session,
        ):
            session.execute(sa.text(statement))


class TestReading:
    def test_both_sides_see_an_event_once_and_others_do_not(self, book: Book) -> None:
        record(book, event("e1"), event("e2", payer_owner_id=WORKER), event("e3", owner_id=OTHER))
        for owner, expected in (
            (WORKER, ["e2", "e1"]),
            (PAYER, ["e3", "e1"]),
            (OTHER, ["e3"]),
            (None, ["e3", "e2", "e1"]),
            (DELEGATION, []),
        ):
            assert [row.event_id for row in seen_by(book, owner)] == expected

    @pytest.mark.parametrize("owner", [WORKER, None])
    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    def test_pages_neither_repeat_nor_leave_out(
        self, book: Book, owner: str | None, limit: int
    ) -> None:
        sides = [{}, {"owner_id": PAYER, "payer_owner_id": WORKER}, {"payer_owner_id": WORKER}]
        record(book, *(event(f"e{n}", **sides[n % 3]) for n in range(8)))
        found: list[str] = []
        before = None
        while rows := seen_by(book, owner, limit, before):
            assert len(rows) <= limit
            found += [row.event_id for row in rows]
            before = rows[-1].seq
        assert found == [f"e{n}" for n in reversed(range(8))]

    def test_old_events_are_found_without_walking_through_newer_ones(self, book: Book) -> None:
        record(book, event("old"))
        others = {"owner_id": OTHER, "payer_owner_id": OTHER, "delegation_id": None}
        with book.database.transaction() as session:
            metering.record_events(session, [event(f"e{n}", **others) for n in range(3000)])
            session.execute(sa.text("ANALYZE"))
        explain = "EXPLAIN QUERY PLAN " if book.settings.is_sqlite else "EXPLAIN "
        for owner in (WORKER, PAYER):
            with book.database.read() as connection, counted(book, "reader") as statements:
                rows = metering.list_metering(connection, owner_id=owner, limit=10, before=None)
            assert [row.event_id for row in rows] == ["old"]
            ((statement, parameters),) = statements
            with book.database.read() as connection:
                plan = "\n".join(
                    str(row[-1])
                    for row in connection.exec_driver_sql(explain + statement, parameters)
                )
            assert "ix_ledger_metering_events_owner_id_seq" in plan
            assert "ix_ledger_metering_events_payer_owner_id_seq" in plan
            assert "pk_ledger_metering_events" not in plan
            assert "seq<?" in plan or not book.settings.is_sqlite

    def test_what_was_metered_is_summed_for_each_delegation(self, book: Book) -> None:
        other = DELEGATION.replace("d1", "d2")
        record(
            book,
            event("e1"),
            event("e2", cost_micros=7),
            event("e3", delegation_id=other),
            event("e4", delegation_id=None),
        )
        with book.database.read() as connection:
            rows = connection.execute(sa.select(metering.metered_by_delegation())).all()
        assert sorted(rows) == [(DELEGATION, 12, 2), (other, 5, 1)]

    def test_what_the_service_does_costs_nothing(self, book: Book) -> None:
        for _ in range(2):
            with book.database.transaction() as session:
                metering.record_operation(session, WORKER, "acme", "agent.publish", {"a": 1})
        first, second = seen_by(book, WORKER)
        assert first.event_id != second.event_id
        assert first.event_id.startswith("agent.publish:")
        assert (first.actor, first.cost_micros, first.meta) == ("acme", 0, '{"a":1}')


class TestOverHttp:
    """``GET /v1/cost/metering``."""

    def register(self, api: Api, namespace: str = "@acme") -> None:
        body = {"namespace": namespace, "manifest": build_manifest(slug="mailer")}
        assert api.post("/v1/agents", body).status_code == 200

    def rows(self, api: Api) -> list[dict[str, Any]]:
        """Follow the pages to the end."""
        found: list[dict[str, Any]] = []
        path = "/v1/cost/metering?limit=2"
        while path:
            response = api.get(path)
            assert response.status_code == 200
            page = response.get_json()
            assert len(page["data"]) == 2 or page["pagination"]["next_cursor"] is None
            found += page["data"]
            path = response.headers.get("Link", "<>").split(">")[0][1:]
        return found

    def test_what_the_service_did_is_told(self, acme: Api) -> None:
        agent = "@acme:mailer"
        self.register(acme)
        manifest = build_manifest(slug="mailer", version="2.0.0")
        assert acme.put(f"/v1/agents/{agent}", {"manifest": manifest}).status_code == 200
        fork = {"namespace": "@acme", "new_slug": "copy"}
        assert acme.post(f"/v1/agents/{agent}/fork", fork).status_code == 200
        assert acme.delete(f"/v1/agents/{agent}").status_code == 200
        rows = self.rows(acme)
        assert [(row["operation"], row["metadata"]) for row in rows] == [
            ("agent.deprecate", {"agent_id": agent}),
            ("agent.fork", {"agent_id": "@acme:copy", "source_agent_id": agent}),
            ("agent.publish", {"agent_id": agent, "version": "2.0.0"}),
            ("agent.register", {"agent_id": agent}),
        ]
        for row in rows:
            assert (row["actor"], row["cost_usd"], row["delegation_id"]) == ("acme", 0, None)
            assert row["event_id"].startswith(row["operation"] + ":")
            assert row["timestamp"].endswith("Z")

    def test_what_was_refused_or_repeated_was_not_done(self, acme: Api, globex: Api) -> None:
        body = {"namespace": "@acme", "manifest": build_manifest(slug="mailer")}
        for _ in range(2):
            assert acme.post("/v1/agents", body, idempotency_key="once").status_code == 200
        assert acme.post("/v1/agents", body).status_code == 409
        assert (
            acme.put("/v1/agents/@acme:mailer", {"manifest": body["manifest"]}).status_code == 409
        )
        assert globex.delete("/v1/agents/@acme:mailer").status_code == 403
        assert [row["operation"] for row in self.rows(acme)] == ["agent.register"]
        assert self.rows(globex) == []

    def test_an_owner_sees_its_own_and_an_admin_all(
        self, acme: Api, globex: Api, operator: Api, caller: Callable[..., Api]
    ) -> None:
        self.register(acme)
        self.register(globex, "@globex")
        assert [row["actor"] for row in self.rows(acme)] == ["acme"]
        assert self.rows(caller("acme", role="viewer")) == self.rows(acme)
        assert [row["actor"] for row in self.rows(operator)] == ["globex", "acme"]

    def test_both_sides_see_what_a_delegation_cost(
        self, book: Book, acme: Api, globex: Api, operator: Api
    ) -> None:
        self.register(acme)
        self.register(globex, "@globex")
        with book.database.read() as connection:
            worker, payer = (
                find_owner(connection, agent) for agent in ("@acme:mailer", "@globex:mailer")
            )
        record(book, event("e1", owner_id=worker, payer_owner_id=payer, cost_micros=1_500_001))
        for api in (acme, globex, operator):
            row = self.rows(api)[0]
            assert row == {
                "event_id": "e1",
                "timestamp": "2026-01-02T03:04:05.000000Z",
                "actor": "@acme:mailer",
                "operation": "llm_call",
                "cost_usd": 1.500001,
                "metadata": {"tokens": 12, "model": "m"},
                "delegation_id": DELEGATION,
                "source": "@acme:mailer",
            }

    def test_it_needs_a_key(self, anyone: Api) -> None:
        response = anyone.get("/v1/cost/metering")
        assert (response.status_code, response.get_json()["code"]) == (401, "api_key_missing")

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=101", "limit=x", "cursor=", "cursor=x", "cursor=LTE", "cursor=MS4x",
         "owner_id=acme",
         # 9999999999999999999, which no column holds
         "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OQ"],
    )  # fmt: skip
    def test_a_page_that_is_none(self, acme: Api, query: str) -> None:
        response = acme.get(f"/v1/cost/metering?{query}")
        assert (response.status_code, response.get_json()["code"]) == (422, "validation_failed")
