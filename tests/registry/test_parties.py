"""What the registry offers to delegations: the parties, and the evidence that comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event, select

from app.http.context import Services
from app.registry.models import TrustEvidence
from app.registry.queries import find_parties
from app.registry.service import Outcome, record_outcomes
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


def record(services: Services, outcomes: dict[str, Outcome]) -> None:
    """Record outcomes in a transaction of their own."""
    with services.database.transaction() as session:
        record_outcomes(session, outcomes)


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


def test_outcomes_add_up(agents: None, services: Services, statements: list[str]) -> None:
    record(services, {READER: Outcome(1, 0)})
    statements.clear()
    record(services, {WRITER: Outcome(2, 1), READER: Outcome(3, 4)})
    assert len([text for text in statements if "INSERT" in text]) == 1
    record(services, {})
    assert recorded(services) == {READER: (4, 4), WRITER: (2, 1)}
    with services.database.read() as connection:
        evidence = find_parties(connection, [READER])[READER].evidence
    assert (evidence.delegations_completed, evidence.delegations_failed) == (4, 4)


def test_outcomes_leave_the_revision(agents: None, acme: Api, services: Services) -> None:
    before = acme.get(f"/v1/agents/{READER}").headers["ETag"]
    record(services, {READER: Outcome(1, 0)})
    body = {"manifest": build_manifest("reader", "2.0.0")}
    assert acme.put(f"/v1/agents/{READER}", body, headers={"If-Match": before}).status_code == 200


def test_writers_of_the_same_agents_do_not_lose_or_block_each_other(
    acme: Api, services: Services
) -> None:
    names = [f"@acme:agent-{number}" for number in range(8)]
    for name in names:
        body = {"namespace": "@acme", "manifest": build_manifest(name.partition(":")[2])}
        assert acme.post("/v1/agents", body).status_code == 200
    failures: list[BaseException] = []

    def write(order: Callable[[list[str]], list[str]]) -> None:
        try:
            for _ in range(15):
                record(services, {name: Outcome(1, 2) for name in order(names)})
        except BaseException as error:
            failures.append(error)

    orders: list[Callable[[list[str]], list[str]]] = [list, lambda given: given[::-1]] * 2
    threads = [threading.Thread(target=write, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert recorded(services) == dict.fromkeys(names, (60, 120))
