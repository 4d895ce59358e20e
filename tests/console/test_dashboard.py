"""The JSON behind the console: the dashboard, and the refresh of evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flask import Flask
from sqlalchemy import text

from app.delegation.models import Delegation
from app.delegation.queries import count_outcomes
from app.delegation.settlement import verdict
from app.http.context import Services
from app.registry.queries import count_agents
from app.registry.recount import mend_counts, mend_usage, wrong_counts, wrong_usage
from app.registry.service import count_buckets
from tests.client import Api, Contract
from tests.console.conftest import Visitor
from tests.console.world import AGENTS, CLERK, READER, TRANSLATOR, World
from tests.delegation.conftest import problem
from tests.registry.manifests import build_manifest

DASHBOARD, REFRESH = "/v1/operator/dashboard", "/v1/operator/refresh"


def test_a_dashboard_has_its_sections(world: World) -> None:
    world.register()
    known = world.live()
    operator = world.callers["operator"]
    document = operator.get(f"{DASHBOARD}?agent_id={READER}&query=globex").get_json()
    assert (document["role"], document["agent_id"]) == ("admin", READER)
    sections = document["sections"]
    assert [one["agent_id"] for one in sections["search"]["results"]] == [TRANSLATOR, READER]
    assert sections["agent_detail"] == operator.get(f"/v1/agents/{READER}").get_json()
    assert sections["eval"]["cases"] == {"passed": 49, "total": 50}
    assert sections["trust"] == operator.get(f"/v1/agents/{READER}/trust").get_json()
    newest = [one["delegation_id"] for one in sections["delegations"]["newest"]]
    assert newest[0] == known["offered"]
    assert len(newest) == len(known)
    counts = {one["status"]: one["number"] for one in sections["delegations"]["counts"]}
    assert counts == dict.fromkeys(counts, 1) | dict.fromkeys(
        ("completed", "failed_hard_stop", "expired"), 0
    )


def test_without_an_agent_its_sections_are_null(world: World) -> None:
    document = world.callers["acme"].get(DASHBOARD).get_json()
    assert document["role"] == "developer"
    sections = document["sections"]
    assert sections["search"] == {"query": None, "results": []}
    assert [sections[name] for name in ("agent_detail", "eval", "trust")] == [None, None, None]


def test_an_owner_gets_what_is_his(world: World) -> None:
    world.register()
    known = world.live()
    found = world.callers["initech"].get(DASHBOARD).get_json()["sections"]["delegations"]
    assert [one["delegation_id"] for one in found["newest"]] == [known["delivered"]]
    assert sum(one["number"] for one in found["counts"]) == 1


def test_the_header_only_lowers_a_role(caller: Callable[..., Api]) -> None:
    for role, asked, expected in (
        ("admin", None, "admin"),
        ("admin", "viewer", "viewer"),
        ("admin", "developer", "developer"),
        ("viewer", "viewer", "viewer"),
        ("viewer", "admin", None),
        ("viewer", "developer", None),
        ("developer", "admin", None),
        ("admin", "root", None),
        ("admin", "", None),
    ):
        headers = {} if asked is None else {"X-Operator-Role": asked}
        response = caller("somebody", role).get(DASHBOARD, headers=headers)
        if expected is None:
            assert problem(response) == (403, "operator_role_refused")
        else:
            assert response.get_json()["role"] == expected


def test_a_lowered_administrator_sees_what_is_his(world: World) -> None:
    world.register()
    world.live()
    headers = {"X-Operator-Role": "viewer"}
    document = world.callers["operator"].get(DASHBOARD, headers=headers).get_json()
    assert document["sections"]["delegations"]["newest"] == []


def test_a_dashboard_refuses(world: World, anyone: Api) -> None:
    assert anyone.get(DASHBOARD).status_code == 401
    acme = world.callers["acme"]
    assert acme.get(f"{DASHBOARD}?agent_id=@no:body").status_code == 404
    assert acme.get(f"{DASHBOARD}?agent_id=%00").status_code == 404
    assert acme.get(f"{DASHBOARD}?query={'x' * 201}").status_code == 422
    assert acme.get(f"{DASHBOARD}?colour=red").status_code == 422
    assert acme.get(f"{DASHBOARD}?query=%00").status_code == 200


def test_only_administrators_refresh(caller: Callable[..., Api]) -> None:
    for role, headers, code in (
        ("viewer", {}, "role_required"),
        ("viewer", {"X-Operator-Role": "admin"}, "role_required"),
        ("developer", {}, "role_required"),
        ("admin", {"X-Operator-Role": "viewer"}, "operator_role_refused"),
        ("admin", {"X-Operator-Role": "owner"}, "operator_role_refused"),
    ):
        refused = caller("somebody", role).post(REFRESH, headers=headers)
        assert problem(refused) == (403, code)


def test_a_refresh_finds_nothing_where_nothing_is_wrong(world: World) -> None:
    world.register()
    for _ in range(8):
        world.inline()
    world.live()
    document = world.send(world.callers["operator"], "POST", REFRESH)
    assert document == {
        "status": "refreshed",
        "role": "admin",
        "compared_agents": 7,
        "repaired_total": 0,
        "remaining": 0,
        "recounted_lists": 0,
        "recounted_owners": 0,
        "repaired": [],
    }


def test_the_two_countings_of_outcomes_agree(world: World, services: Services) -> None:
    world.register()
    for _ in range(10):
        world.inline()
    for _ in range(3):
        world.settled()
    world.live()
    unpaid = world.disputed()
    decision = {"charge_usd": 0, "reason": "unusable"}
    world.send(world.callers["operator"], "POST", f"/v1/delegations/{unpaid}/resolve", decision)
    with services.database.read() as connection:
        rows = connection.execute(Delegation.__table__.select()).all()
        expected: dict[str, Counter[int]] = {}
        for row in rows:
            if row.closed_at and verdict(row):
                expected.setdefault(row.delegate_agent_id, Counter())[verdict(row)] += 1
        found = {
            name: Counter(
                {
                    +1: sum(one.completed for one in parties.values()),
                    -1: sum(one.failed for one in parties.values()),
                }
            )
            for name, parties in count_outcomes(connection).items()
        }
        assert found == expected
        assert expected[READER][-1] > 1


def test_a_refresh_repairs_what_differs(world: World, admin: Visitor, services: Services) -> None:
    world.register()
    for delegate in (READER, READER, TRANSLATOR):
        world.settled(delegate=delegate)
    acme, operator = world.callers["acme"], world.callers["operator"]
    for count in (50, 80):
        usage = {"outcome": "failure", "count": count}
        world.send(acme, "POST", f"/v1/agents/{READER}/trust/usage", usage)
    own = {"outcome": "success", "count": 7}
    world.send(world.callers["globex"], "POST", f"/v1/agents/{READER}/trust/usage", own)
    path = f"/v1/agents/{READER}/trust"
    before, tag = acme.get(path).get_json(), acme.get(f"/v1/agents/{READER}").headers["ETag"]
    assert world.send(operator, "POST", REFRESH)["repaired_total"] == 0
    changes = (
        "UPDATE registry_trust_evidence SET delegations_completed = 900, usage_reporters = 0,"
        " usage_over_limit = 3 WHERE agent_id = :id",
        "UPDATE registry_agents SET eval_cases_passed = 1 WHERE id = :id",
    )
    with services.database.transaction() as session:
        for change in changes:
            session.execute(text(change), {"id": READER})
        session.execute(
            text("DELETE FROM registry_trust_evidence WHERE agent_id = :id"), {"id": TRANSLATOR}
        )
    assert acme.get(path).get_json() != before
    document = world.send(operator, "POST", REFRESH)
    repaired = {one["agent_id"]: one for one in document["repaired"]}
    assert document["repaired_total"] == len(repaired) == 2
    assert set(repaired[READER]["kept"]) == {
        *("delegations_completed", "usage_reporters", "usage_over_limit", "eval_cases_passed"),
    }
    assert "say_milli" in repaired[TRANSLATOR]["history"]
    assert repaired[READER]["kept"]["delegations_completed"] == 900
    assert acme.get(path).get_json() == before
    assert acme.get(f"/v1/agents/{READER}").headers["ETag"] != tag
    assert world.send(operator, "POST", REFRESH)["repaired_total"] == 0
    assert CLERK not in repaired


def test_a_refresh_counts_lists_anew(world: World, services: Services) -> None:
    world.register()
    acme, operator = world.callers["acme"], world.callers["operator"]

    def totals() -> list[int]:
        queries = ("", "?namespace=@acme", "?namespace=@acme&status=active")
        pages = (acme.get(f"/v1/agents{query}").get_json() for query in queries)
        return [page["pagination"]["total"] for page in pages]

    before = totals()
    with services.database.transaction() as session:
        wrong = "UPDATE registry_agent_counts SET agents = 40 WHERE bucket = '@acme'"
        session.execute(text(wrong))
        session.execute(text("DELETE FROM registry_agent_counts WHERE bucket LIKE '#%'"))
    assert totals() != before
    shards = {count_buckets(agent_id)[0] for agent_id in AGENTS}
    document = world.send(operator, "POST", REFRESH)
    assert (document["repaired_total"], document["recounted_lists"]) == (0, len(shards) + 1)
    assert totals() == before
    assert world.send(operator, "POST", REFRESH)["recounted_lists"] == 0


def test_lists_are_counted_anew_while_agents_are_registered(
    world: World, services: Services, app: Flask, contract: Contract
) -> None:
    world.register()
    with services.database.transaction() as session:
        session.execute(text("UPDATE registry_agent_counts SET agents = agents + 5"))
        session.execute(text("UPDATE registry_owner_usage SET agents = agents + 5"))
        everybody = session.scalars(text("SELECT owner_id FROM registry_owner_usage")).all()

    def register(caller: Api, name: str) -> None:
        for number in range(12):
            body = {"namespace": "@acme", "manifest": build_manifest(f"{name}-{number}")}
            assert caller.post("/v1/agents", body).status_code == 200

    keys = [world.callers["acme"].key for _ in range(3)]
    callers = [Api(app.test_client(), contract, key) for key in keys]
    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(register, caller, f"agent-{place}") for place, caller in enumerate(callers)
        ]
        for _ in range(8):
            with services.database.snapshot() as connection:
                suspects, owners = wrong_counts(connection), wrong_usage(connection)
            # Those that are right are counted, too: that must not make them wrong.
            suspects += [*count_buckets("@acme:agent-1-1"), *count_buckets("@acme:agent-2-2")]
            with services.database.transaction() as session:
                mend_counts(session, suspects)
                mend_usage(session, owners or everybody)
        for one in running:
            one.result()
    with services.database.snapshot() as connection:
        assert wrong_counts(connection) == wrong_usage(connection) == []
        assert count_agents(connection, namespace="@acme") == 36 + 3


def test_a_refresh_measures_what_quotas_are_held_to(world: World, services: Services) -> None:
    world.register()
    operator = world.callers["operator"]

    def kept() -> list[tuple[int, ...]]:
        with services.database.read() as connection:
            query = "SELECT * FROM registry_owner_usage ORDER BY owner_id"
            return [tuple(row) for row in connection.execute(text(query))]

    before = kept()
    with services.database.transaction() as session:
        owner = "(SELECT min(owner_id) FROM registry_owner_usage)"
        session.execute(text(f"DELETE FROM registry_owner_usage WHERE owner_id = {owner}"))
        session.execute(text("UPDATE registry_owner_usage SET manifest_bytes = 1, agents = 900"))
    assert kept() != before
    assert world.send(operator, "POST", REFRESH)["recounted_owners"] == len(before)
    assert kept() == before
    assert world.send(operator, "POST", REFRESH)["recounted_owners"] == 0


def test_the_console_refreshes_too(world: World, admin: Visitor, services: Services) -> None:
    world.register()
    with services.database.transaction() as session:
        session.execute(text("UPDATE registry_trust_evidence SET usage_succeeded = 39"))
        wrong = "UPDATE registry_agent_counts SET agents = 40 WHERE bucket = '@acme'"
        session.execute(text(wrong))
    response = admin.send("/operator/operations", "/operator/refresh")
    page = admin.see(response.headers["Location"].partition("#")[0])
    told = "7 agents were compared; 1 agents were repaired, 1 lists of agents were counted anew."
    assert told in page
