"""Claiming is fair: the owners whose tasks wait for an agent take turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, select, text

from app import clock, ids
from app.delegation import queries
from app.delegation.models import Delegation
from app.http.context import Services
from app.statements import RowInsert
from tests.client import Api, Contract
from tests.delegation.conftest import (
    DELEGATIONS,
    READER,
    Clock,
    offer,
    problem,
    top_up,
)
from tests.registry.manifests import build_manifest

pytestmark = pytest.mark.usefixtures("agents")
Make = Callable[[str], Callable[..., str]]


@pytest.fixture
def requester(caller: Callable[..., Api], operator: Api) -> Make:
    """Make further owners, each as a function that offers a task and returns its id."""

    def make(owner: str) -> Callable[..., str]:
        api, agent = caller(owner), f"@{owner}:clerk"
        body = {"namespace": f"@{owner}", "manifest": build_manifest(slug="clerk")}
        assert api.post("/v1/agents", body).status_code == 200
        top_up(operator, agent, 100)

        def send(**changes: Any) -> str:
            terms = {"estimated_cost_usd": 0.01, "max_budget_usd": 1, **changes}
            return str(offer(api, requester_agent_id=agent, **terms)["delegation_id"])

        return send

    return make


def claim(globex: Api) -> str:
    response = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER})
    assert response.status_code == 200, response.get_json()
    return str(response.get_json()["delegation_id"])


def flood(services: Services, delegation_id: str, number: int) -> None:
    """Put as many copies of an offer into the database."""
    table: Any = Delegation.__table__
    with services.database.transaction() as session:
        one = session.execute(select(table).where(table.c.id == delegation_id)).one()
        rows = [dict(one._mapping) | {"id": ids.new_id()} for _ in range(number)]
        RowInsert(table).run(session, rows)


def test_owners_take_turns_and_each_gets_its_oldest_first(globex: Api, requester: Make) -> None:
    first, second, third = (requester(name) for name in ("initech", "umbrella", "hooli"))
    a1, a2, a3 = first(), first(), first()
    b1, b2 = second(), second()
    c1 = third()
    assert [claim(globex) for _ in range(6)] == [a1, b1, c1, a2, b2, a3]
    nothing = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER})
    assert problem(nothing) == (404, "no_task_offered")


def test_who_had_a_turn_waits_for_who_had_none(globex: Api, requester: Make) -> None:
    first, second = requester("initech"), requester("umbrella")
    a1, a2, a3 = first(), first(), first()
    assert [claim(globex), claim(globex)] == [a1, a2]
    b1 = second()
    assert [claim(globex), claim(globex)] == [b1, a3]


def test_a_turn_counts_while_nothing_waits(globex: Api, requester: Make) -> None:
    first, second = requester("initech"), requester("umbrella")
    for _ in range(5):
        first()
        claim(globex)
    second()
    claim(globex)
    # Both have had turns; the one of the first was longer ago.
    b, a = second(), first()
    assert [claim(globex), claim(globex)] == [a, b]


def test_a_flood_of_offers_delays_another_owner_by_one_claim(
    globex: Api, requester: Make, services: Services
) -> None:
    attacker, victim = requester("initech"), requester("umbrella")
    flood(services, attacker(), 999)
    claim(globex)
    mine = {victim() for _ in range(5)}
    claimed = [claim(globex) for _ in range(10)]
    assert mine == set(claimed[::2])


def test_a_task_that_a_worker_left_has_its_turn_in_a_flood(
    globex: Api, requester: Make, services: Services, time: Clock
) -> None:
    attacker, victim = requester("initech"), requester("umbrella")
    left = victim(lease_seconds=30)
    assert claim(globex) == left
    flood(services, attacker(), 100)
    time.advance(seconds=31)
    assert left in (claim(globex), claim(globex))


def test_what_has_expired_is_nobodys_turn(globex: Api, requester: Make, time: Clock) -> None:
    first, second = requester("initech"), requester("umbrella")
    first(accept_within_seconds=5)
    time.advance(seconds=5)
    waiting = second()
    assert claim(globex) == waiting


def test_workers_that_claim_at_once_get_different_tasks(
    app: Flask, contract: Contract, globex: Api, requester: Make
) -> None:
    send = requester("initech")
    offers = [send() for _ in range(8)]

    def work(_: int) -> str:
        return claim(Api(app.test_client(), contract, globex.key))

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(work, range(8)))
    assert sorted(claimed) == sorted(offers)


def test_the_turns_of_one_agent_are_not_those_of_another(globex: Api, requester: Make) -> None:
    body = {"namespace": "@globex", "manifest": build_manifest(slug="other")}
    assert globex.post("/v1/agents", body).status_code == 200
    first, second = requester("initech"), requester("umbrella")
    first(delegate_agent_id="@globex:other")
    globex.post(f"{DELEGATIONS}/claim", {"agent_id": "@globex:other"})
    a, b = first(), second()
    assert [claim(globex), claim(globex)] == [a, b]


def test_the_cost_of_a_claim_does_not_depend_on_how_many_offers_wait(
    globex: Api, requester: Make, services: Services
) -> None:
    attacker, victim = requester("initech"), requester("umbrella")
    wanted, one = victim(), attacker()
    costs = []
    for more in (100, 20_000):
        flood(services, one, more)
        with services.database.writer.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("ANALYZE delegation_delegations"))
            costs.append(cost_of_choosing(connection))
    assert costs[1] < 2 * costs[0]
    assert wanted in (claim(globex), claim(globex))


def cost_of_choosing(connection: Connection) -> int:
    """Return what choosing among waiting owners costs: rows read, or steps of SQLite's machine."""
    statement: Any = queries.WAITING_OWNERS
    parameters = {"agent_id": READER, "now": clock.now()}
    if connection.dialect.name == "sqlite":
        steps: list[None] = []
        driver: Any = connection.connection.dbapi_connection
        driver.set_progress_handler(lambda: steps.append(None), 1)
        assert len(connection.execute(statement, parameters).all()) == 2
        driver.set_progress_handler(None, 1)
        return len(steps)
    compiled = statement.compile(connection)
    explained = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}", compiled.construct_params(parameters)
    ).scalar_one()
    plan = explained if isinstance(explained, list) else json.loads(explained)
    return sum(rows_read(plan[0]["Plan"]))


def rows_read(node: dict[str, Any]) -> list[int]:
    """Return how many rows each scan of delegations read, those that it dropped included."""
    found = []
    if node.get("Relation Name") == "delegation_delegations":
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        found.append(int(read * node["Actual Loops"]))
    for below in node.get("Plans", ()):
        found += rows_read(below)
    return found


def test_turns_are_numbered_upwards(globex: Api, requester: Make, services: Services) -> None:
    first, second = requester("initech"), requester("umbrella")
    numbers = []
    for send in (first, second, first):
        send()
        claim(globex)
        with services.database.read() as connection:
            rows = connection.execute(text("SELECT max(turn) FROM delegation_offer_queues"))
            numbers.append(rows.scalar_one())
    assert all(later > earlier for earlier, later in pairwise(numbers))
