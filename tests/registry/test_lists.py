"""Lists of agents: filters, pages by offset and by cursor, totals, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select

from app.http.context import Services
from app.registry.models import Agent, AgentCount
from tests.client import Api
from tests.registry.manifests import build_manifest


def register(api: Api, namespace: str, slug: str) -> None:
    """Register an agent."""
    body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
    assert api.post("/v1/agents", body).status_code == 200


def ids(document: dict[str, Any]) -> list[str]:
    """Return the ids of a page."""
    return [agent["id"] for agent in document["data"]]


@pytest.fixture
def fleet(acme: Api, globex: Api) -> list[str]:
    """Seven agents of two owners, one of them deprecated, in the order of a list."""
    for slug in ("b", "a", "a-1", "a.1", "z"):
        register(acme, "@acme", slug)
    register(globex, "@globex", "a")
    register(globex, "@acme-2", "a")
    acme.delete("/v1/agents/@acme:z")
    return sorted(
        ["@acme:a", "@acme:a-1", "@acme:a.1", "@acme:b", "@acme:z", "@acme-2:a", "@globex:a"]
    )


@contextmanager
def counted(services: Services) -> Iterator[list[str]]:
    """Collect the SQL statements that reads run inside the block."""
    statements: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(services.database.reader, "before_cursor_execute", note)
    yield statements
    event.remove(services.database.reader, "before_cursor_execute", note)


def test_lists_by_id_with_a_total(fleet: list[str], anyone: Api) -> None:
    document = anyone.get("/v1/agents").get_json()
    assert ids(document) == fleet
    assert document["pagination"] == {
        "mode": "offset",
        "offset": 0,
        "limit": 20,
        "total": 7,
        "next_cursor": None,
    }


def test_an_entry_is_the_agent_itself(fleet: list[str], anyone: Api) -> None:
    (entry,) = anyone.get("/v1/agents?namespace=@globex").get_json()["data"]
    assert entry == anyone.get("/v1/agents/@globex:a").get_json()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("namespace=@acme", ["@acme:a", "@acme:a-1", "@acme:a.1", "@acme:b", "@acme:z"]),
        ("status=deprecated", ["@acme:z"]),
        ("namespace=@acme&status=active", ["@acme:a", "@acme:a-1", "@acme:a.1", "@acme:b"]),
        ("namespace=@globex&status=deprecated", []),
        ("namespace=@nobody", []),
    ],
)
def test_filters(fleet: list[str], anyone: Api, query: str, expected: list[str]) -> None:
    document = anyone.get(f"/v1/agents?{query}").get_json()
    assert ids(document) == expected
    assert document["pagination"]["total"] == len(expected)


def test_pages_by_offset(fleet: list[str], anyone: Api) -> None:
    document = anyone.get("/v1/agents?offset=2&limit=3").get_json()
    assert ids(document) == fleet[2:5]
    assert document["pagination"]["total"] == 7
    beyond = anyone.get("/v1/agents?offset=70").get_json()
    assert (beyond["data"], beyond["pagination"]["total"]) == ([], 7)


def test_pages_by_cursor_stay_put_while_agents_are_registered(
    fleet: list[str], acme: Api, anyone: Api
) -> None:
    first = anyone.get("/v1/agents?limit=3").get_json()
    register(acme, "@acme", "0-before-everything")
    seen, cursor = ids(first), first["pagination"]["next_cursor"]
    while cursor:
        page = anyone.get(f"/v1/agents?limit=3&cursor={cursor}").get_json()
        assert page["pagination"]["mode"] == "cursor"
        seen += ids(page)
        cursor = page["pagination"]["next_cursor"]
    assert seen == fleet


def test_the_link_header_leads_through_a_filtered_list(fleet: list[str], anyone: Api) -> None:
    seen, path = [], "/v1/agents?namespace=@acme&status=active&limit=1"
    while path:
        response = anyone.get(path)
        seen += ids(response.get_json())
        path = response.headers.get("Link", "<>").split(">")[0][1:]
    assert seen == ["@acme:a", "@acme:a-1", "@acme:a.1", "@acme:b"]


def test_a_namespace_with_and_without_its_sign(fleet: list[str], anyone: Api) -> None:
    document = anyone.get("/v1/namespaces/@acme?limit=2").get_json()
    assert document["namespace"] == "@acme"
    assert ids(document) == ["@acme:a", "@acme:a-1"]
    assert anyone.get("/v1/namespaces/acme?limit=2").get_json() == document
    cursor = document["pagination"]["next_cursor"]
    rest = anyone.get(f"/v1/namespaces/acme?cursor={cursor}").get_json()
    assert ids(rest) == ["@acme:a.1", "@acme:b", "@acme:z"]
    assert anyone.get("/v1/namespaces/nobody").get_json()["data"] == []
    assert anyone.get("/v1/namespaces/No%20Body").status_code == 404


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/v1/agents", 2),
        ("/v1/agents?namespace=@acme&status=active&limit=100", 2),
        ("/v1/agents/@acme:a", 1),
        ("/v1/agents/@acme:a/versions", 1),
        ("/v1/agents/@acme:a/versions/1.0.0", 1),
        ("/v1/agents/@acme:a/compare/1.0.0/1.0.0", 1),
        ("/v1/agents/@acme:a/versions/1.0.0/evals", 2),
        ("/v1/agents/@acme:a/capabilities", 1),
        ("/v1/namespaces/acme", 1),
    ],
)
def test_a_read_costs_one_or_two_statements(
    fleet: list[str], anyone: Api, services: Services, path: str, most: int
) -> None:
    anyone.get(path)
    with counted(services) as statements:
        assert anyone.get(path).status_code == 200
    assert 1 <= len(statements) <= most
    assert all(statement.lstrip().startswith("SELECT") for statement in statements)


def test_counters_equal_counting(
    fleet: list[str], acme: Api, caller: Callable[..., Api], services: Services
) -> None:
    acme.delete("/v1/agents/@acme:z")
    acme.put("/v1/agents/@acme:z", {"manifest": build_manifest(slug="z", version="2.0.0")})
    acme.delete("/v1/agents/@acme:b")
    acme.post("/v1/agents", {"namespace": "@globex", "manifest": build_manifest()})
    with services.database.read() as connection:
        real = dict(
            connection.execute(
                select(Agent.namespace.concat(" ").concat(Agent.status), func.count()).group_by(
                    Agent.namespace, Agent.status
                )
            ).all()  # type: ignore[arg-type]
        )
        kept = connection.execute(select(AgentCount.bucket, AgentCount.status, AgentCount.agents))
        counters = [tuple(row) for row in kept]
    by_namespace = {f"{b} {s}": n for b, s, n in counters if not b.startswith("#") and n}
    assert by_namespace == real
    for status in ("active", "deprecated"):
        shards = sum(n for b, s, n in counters if b.startswith("#") and s == status)
        assert shards == sum(n for name, n in real.items() if name.endswith(f" {status}"))
