"""What the registry offers to delegations: the parties, and the evidence that comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, select

from app.http.context import Services
from app.registry.models import TrustEvidence
from app.registry.queries import find_parties
from app.registry.service import Outcome, record_outcome
from tests.client import Api
from tests.registry.manifests import build_manifest

READER, WRITER = "@acme:reader", "@globex:writer"


@pytest.fixture
def agents(acme: Api, globex: Api) -> None:
    """An agent of each of two owners; acme's has two versions and ten passed cases."""
    for api, namespace, slug in ((acme, "@acme", "reader"), (globex, "@globex", "writer")):
        body = {"namespace": namespace, "manifest": build_manifest(slug)}
        assert api.post("/v1/agents", body).status_code == 200
    acme.put(f"/v1/agents/{READER}", {"manifest": build_manifest("reader", "1.1.0")})
    cases = {"suite": "nightly", "metrics": {"accuracy": 1}, "cases": {"passed": 10, "total": 10}}
    assert acme.post(f"/v1/agents/{READER}/versions/1.1.0/evals", cases).status_code == 200


@pytest.fixture
def statements(services: Services) -> list[str]:
    """Collect the SQL statements of the test."""
    found: list[str] = []

    def note(_c: object, _u: object, statement: str, *_: object) -> None:
        found.append(statement)

    for engine in (services.database.reader, services.database.writer):
        event.listen(engine, "before_cursor_execute", note)
    return found


def outcome(agent_id: str, good: bool = True, owner: str = "customer") -> Outcome:
    """Return an outcome that was paid with five dollars, if it was good."""
    at = datetime(2026, 11, 20, tzinfo=UTC)
    return Outcome(agent_id, owner, good, 5_000_000 if good else 0, at)


def record(services: Services, *outcomes: Outcome) -> None:
    """Record outcomes in a transaction of their own."""
    with services.database.transaction() as session:
        for one in outcomes:
            record_outcome(session, one)


def recorded(services: Services) -> dict[str, tuple[int, int]]:
    """Return the delegations counted for every agent that has a row."""
    columns = (TrustEvidence.delegations_completed, TrustEvidence.delegations_failed)
    with services.database.read() as connection:
        rows = connection.execute(select(TrustEvidence.agent_id, *columns))
        return {row[0]: (row[1], row[2]) for row in rows}


def test_a_party_is_the_agent_with_its_latest_version(
    agents: None, anyone: Api, services: Services
) -> None:
    with services.database.read() as connection:
        party = find_parties(connection, [READER])[READER]
    shown = anyone.get(f"/v1/agents/{READER}/versions/1.1.0")
    document = shown.get_json()
    assert (party.id, party.status, party.version) == (READER, "active", "1.1.0")
    assert party.digest == document["digest"]
    assert f'"manifest":{party.manifest}' in shown.text
    assert party.evidence.versions == 2
    agent = anyone.get(f"/v1/agents/{READER}").get_json()
    assert {name: party.trust[name] for name in agent["trust"]} == agent["trust"]  # type: ignore[literal-required]


@pytest.mark.parametrize("unknown", [[], ["@acme:nobody"]])
def test_parties_of_several_owners_in_one_statement(
    agents: None, services: Services, statements: list[str], unknown: list[str]
) -> None:
    malformed = ["no id", "@acme:\0", "@acme:reader\n", "", "@acme:" + "x" * 200]
    with services.database.read() as connection:
        statements.clear()
        found = find_parties(connection, [WRITER, READER, READER, *malformed, *unknown])
    assert found.keys() == {READER, WRITER}
    assert len({party.owner_id for party in found.values()}) == 2
    assert len(statements) == 1


def test_many_ids_are_one_statement(
    agents: None, services: Services, statements: list[str]
) -> None:
    with services.database.transaction() as session:
        statements.clear()
        found = find_parties(session, [READER, *(f"@acme:agent-{n}" for n in range(500))])
        assert [text for text in statements if "SELECT" in text] == statements[-1:]
        assert find_parties(session, ["nonsense"]) == find_parties(session, []) == {}
        assert len([text for text in statements if "SELECT" in text]) == 1
    assert found.keys() == {READER}


def test_outcomes_add_up_by_owner(agents: None, services: Services) -> None:
    record(services, outcome(READER))
    record(services, outcome(READER, good=False), outcome(READER, owner="another"))
    record(services, outcome(WRITER, good=False))
    assert recorded(services) == {READER: (2, 1), WRITER: (0, 1)}
    with services.database.read() as connection:
        found = find_parties(connection, [READER, WRITER])
    evidence = found[READER].evidence
    assert (evidence.paying_owners, evidence.own_micros) == (2, 10_000_000)
    assert (evidence.say_milli, evidence.completed_milli) == (250, 625 + 1000)
    assert evidence.failed_milli == 625
    assert found[WRITER].evidence.delegations_unpaid == 1


def test_outcomes_leave_the_revision(agents: None, acme: Api, services: Services) -> None:
    before = acme.get(f"/v1/agents/{READER}").headers["ETag"]
    record(services, outcome(READER))
    body = {"manifest": build_manifest("reader", "2.0.0")}
    assert acme.put(f"/v1/agents/{READER}", body, headers={"If-Match": before}).status_code == 200


def test_writers_of_the_same_agents_do_not_lose_or_block_each_other(
    acme: Api, services: Services
) -> None:
    names = [f"@acme:agent-{number}" for number in range(4)]
    for name in names:
        body = {"namespace": "@acme", "manifest": build_manifest(name.partition(":")[2])}
        assert acme.post("/v1/agents", body).status_code == 200
    failures: list[BaseException] = []

    def write(owner: str, order: Callable[[list[str]], list[str]]) -> None:
        try:
            for _ in range(15):
                for name in order(names):
                    record(services, outcome(name, owner=owner), outcome(name, False, owner))
        except BaseException as error:
            failures.append(error)

    orders: list[Callable[[list[str]], list[str]]] = [list, lambda given: given[::-1]] * 2
    threads = [
        threading.Thread(target=write, args=(owner, order))
        for owner, order in zip("abab", orders, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert recorded(services) == dict.fromkeys(names, (60, 60))
    with services.database.read() as connection:
        found = find_parties(connection, names)
    assert {party.evidence.say_milli for party in found.values()} == {500}
