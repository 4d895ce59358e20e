"""Pages of every list: their size, and where their cursors belong. What takes no parameters."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from sqlalchemy import Connection

from app.access.service import authenticate, create_key
from app.http import pagination
from app.http.context import Services
from app.http.pagination import MAX_PAGE_BYTES
from app.notification import service as notification
from app.registry import blueprint as registry_blueprint
from tests.client import Api, Contract
from tests.delegation.conftest import CLERK, READER, request, top_up
from tests.registry.manifests import build_manifest
from tests.registry.test_size import KIB, manifest_of

AGENT = "/v1/agents/@acme:clerk"
# Lists with two entries at least, by the route that the OpenAPI document has.
LISTS = {
    "/v1/agents": "/v1/agents",
    "/v1/namespaces/{namespace}": "/v1/namespaces/@acme",
    "/v1/agents/{agent_id}/versions": f"{AGENT}/versions",
    "/v1/agents/{agent_id}/versions/{version}/evals": f"{AGENT}/versions/1.0.0/evals",
    "/v1/ledger/accounts/{account_id}/statement": f"/v1/ledger/accounts/agent:{CLERK}/statement",
    "/v1/ledger/transactions": "/v1/ledger/transactions?delegation_id={delegation}",
    "/v1/cost/metering": "/v1/cost/metering",
    "/v1/delegations": "/v1/delegations",
    "/v1/delegations/{delegation_id}/events": "/v1/delegations/{delegation}/events",
    "/v1/webhooks": "/v1/webhooks",
    "/v1/webhooks/{webhook_id}/deliveries": "/v1/webhooks/{webhook}/deliveries",
    "/v1/audit": "/v1/audit",
}
# The list of what was imported from an earlier service is empty here.
EMPTY = {"/v1/delegations/legacy"}


@pytest.fixture
def operator(acme: Api, services: Services, app: Flask, contract: Contract) -> Api:
    """An admin of the owner acme."""
    with services.database.transaction() as session:
        key = create_key(session, services.pepper, "acme", "admin")
    return Api(app.test_client(), contract, key.secret)


def owner_of(connection: Connection, services: Services, api: Api) -> str:
    """Return the id of a caller's owner."""
    return authenticate(connection, services.pepper, api.key or "").owner_id


@pytest.fixture
def lists(acme: Api, operator: Api, services: Services) -> dict[str, str]:
    """A world where every list has two entries: the paths by their routes."""
    for slug in ("clerk", "reader", "third"):
        body = {"namespace": "@acme", "manifest": build_manifest(slug=slug)}
        assert acme.post("/v1/agents", body).status_code == 200
    acme.put(AGENT, {"manifest": build_manifest(slug="clerk", version="1.1.0")})
    for _ in range(2):
        evaluation = {"suite": "s", "metrics": {"accuracy": 1}}
        assert acme.post(f"{AGENT}/versions/1.0.0/evals", evaluation).status_code == 200
        top_up(operator, CLERK, 100)
    made = [
        acme.post("/v1/delegations", request(delegate_agent_id="@acme:reader")).get_json()
        for _ in range(2)
    ]
    with services.database.transaction() as session:
        owner = owner_of(session.connection(), services, acme)
        hooks = [
            notification.subscribe(session, owner, "https://example.com/", ["*"], "").id
            for _ in range(2)
        ]
        for _ in range(2):
            notification.ping(session, owner, hooks[0])
    known = {"delegation": made[0]["delegation_id"], "webhook": hooks[0]}
    return {
        route: re.sub(r"{(\w+)}", lambda name: known[name[1]], path)
        for route, path in LISTS.items()
    }


def with_query(path: str, query: str) -> str:
    """Add parameters to a path."""
    return f"{path}{'&' if '?' in path else '?'}{query}"


def test_every_list_is_looked_at(contract: Contract) -> None:
    paged = {
        path
        for path, item in contract.document["paths"].items()
        if any(one.get("name") == "cursor" for one in item.get("get", {}).get("parameters", ()))
    }
    assert paged == LISTS.keys() | EMPTY


def test_a_cursor_leads_on_in_its_own_list_alone(lists: dict[str, str], operator: Api) -> None:
    cursors = {}
    for route, path in lists.items():
        first = operator.get(with_query(path, "limit=1"))
        cursors[route] = first.get_json()["pagination"]["next_cursor"]
        assert cursors[route], route
        following = first.headers["Link"].split(">")[0][1:]
        assert operator.get(following).status_code == 200, route
        # The size of a page is no part of the list.
        path = with_query(path, f"limit=2&cursor={cursors[route]}")
        assert operator.get(path).status_code == 200, route
    assert len(set(cursors.values())) == len(cursors)
    for route, path in lists.items():
        for other, cursor in cursors.items():
            if other != route:
                assert_cursor_refused(operator, with_query(path, f"cursor={cursor}"))
    for route in EMPTY:
        assert_cursor_refused(operator, f"{route}?cursor={cursors['/v1/delegations']}")


def assert_cursor_refused(api: Api, path: str) -> None:
    """Fail unless the answer is 422 and names the cursor."""
    answer = api.get(path)
    assert answer.status_code == 422, path
    assert [one["parameter"] for one in answer.get_json()["errors"]] == ["cursor"], path


@pytest.mark.usefixtures("lists")
def test_a_cursor_holds_for_the_filters_it_was_given_with(acme: Api) -> None:
    filtered = "/v1/agents?namespace=@acme&status=active"
    cursor = acme.get(f"{filtered}&limit=1").get_json()["pagination"]["next_cursor"]
    for same in (
        "namespace=@acme&status=active",
        "status=active&namespace=acme",
        "status=active&namespace=@acme&limit=7",
    ):
        page = acme.get(f"/v1/agents?{same}&cursor={cursor}").get_json()
        assert page["data"][0]["id"] == READER.replace("@globex", "@acme")
    for other in (
        "",
        "namespace=@acme",
        "status=active",
        "namespace=@acme&status=deprecated",
        "namespace=@aaa&status=active",
    ):
        assert_cursor_refused(acme, f"/v1/agents?{other}&cursor={cursor}")
    assert_cursor_refused(acme, f"{AGENT}/versions?cursor={cursor}")
    versions = acme.get(f"{AGENT}/versions?limit=1").get_json()["pagination"]["next_cursor"]
    assert_cursor_refused(acme, f"/v1/agents/@acme:reader/versions?cursor={versions}")
    listed = acme.get("/v1/delegations?limit=1&status=completed").get_json()
    cursor = listed["pagination"]["next_cursor"]
    assert acme.get(f"/v1/delegations?status=completed&cursor={cursor}").status_code == 200
    assert_cursor_refused(acme, f"/v1/delegations?cursor={cursor}")
    # A default that is written out chooses the same list.
    role = acme.get("/v1/delegations?limit=1").get_json()["pagination"]["next_cursor"]
    assert acme.get(f"/v1/delegations?limit=100&cursor={role}").status_code == 200


def test_a_namespace_is_filtered_by_with_or_without_its_sign(lists: object, acme: Api) -> None:
    bare = acme.get("/v1/agents?namespace=acme").get_json()
    assert bare == acme.get("/v1/agents?namespace=@acme").get_json()
    assert len(bare["data"]) == 3


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that end after 3 KB."""
    for module in (pagination, registry_blueprint):
        monkeypatch.setattr(module, "MAX_PAGE_BYTES", 3000)


@pytest.mark.usefixtures("small_pages")
def test_every_list_ends_a_page_early_and_leads_on(lists: dict[str, str], operator: Api) -> None:
    for route, path in lists.items():
        whole, pages = [], 0
        following: str | None = with_query(path, "limit=100")
        while following:
            answer = operator.get(following)
            document = answer.get_json()
            (entries,) = (
                value
                for name, value in document.items()
                if (isinstance(value, list) and name != "versions") or route.endswith("versions")
                if isinstance(value, list)
            )
            assert entries, route
            assert len(entries) == 1 or len(answer.data) < 3000 + 500, route
            whole += entries
            pages += 1
            following = answer.headers.get("Link", "<>").split(">")[0][1:]
            assert bool(following) == (document["pagination"]["next_cursor"] is not None)
        assert len(whole) >= 2, route
        distinct = {repr(entry) for entry in whole}
        assert len(distinct) == len(whole), route
        if route in ("/v1/agents", "/v1/namespaces/{namespace}"):
            assert pages == 3


def test_a_page_of_the_largest_manifests_has_2_mb(acme: Api, anyone: Api) -> None:
    slugs = [f"a{number:02}" for number in range(12)]
    for slug in slugs:
        body = {"namespace": "@acme", "manifest": manifest_of(256 * KIB, slug=slug)}
        assert acme.post("/v1/agents", body).status_code == 200
    for path in ("/v1/agents", "/v1/namespaces/@acme"):
        seen, following = [], f"{path}?limit=100"
        while following:
            answer = anyone.get(following)
            assert len(answer.data) < MAX_PAGE_BYTES + KIB
            seen += [agent["slug"] for agent in answer.get_json()["data"]]
            following = answer.headers.get("Link", "<>").split(">")[0][1:]
        assert seen == slugs
    page = anyone.get("/v1/agents?limit=100&offset=3").get_json()
    assert [agent["slug"] for agent in page["data"]] == slugs[3:10]
    assert page["pagination"]["total"] == 12


def test_one_entry_larger_than_a_page_is_a_page(
    acme: Api, anyone: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pagination, registry_blueprint):
        monkeypatch.setattr(module, "MAX_PAGE_BYTES", 100)
    for slug in ("a", "b", "c"):
        acme.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest(slug=slug)})
    seen, following = [], "/v1/agents?limit=2"
    while following:
        answer = anyone.get(following)
        seen.append([agent["slug"] for agent in answer.get_json()["data"]])
        following = answer.headers.get("Link", "<>").split(">")[0][1:]
    assert seen == [["a"], ["b"], ["c"]]


def test_what_takes_no_parameters_refuses_them(
    contract: Contract, lists: dict[str, str], operator: Api
) -> None:
    known = {
        "agent_id": CLERK,
        "version": "1.0.0",
        "base_version": "1.0.0",
        "target_version": "1.1.0",
        "namespace": "@acme",
        "account_id": f"agent:{CLERK}",
        "code": "agent_exists",
    }
    asked = 0
    for path, item in contract.document["paths"].items():
        if path in ("/healthz", "/readyz"):
            continue
        for method in item.keys() & {"get", "put", "post", "patch", "delete"}:
            named = re.sub(r"{(\w+)}", lambda name: known.get(name[1], "0" * 36), path)
            answer = operator.request(method.upper(), f"{named}?surprise=1")
            assert answer.status_code == 422, (method, path, answer.get_json())
            errors = {one.get("parameter"): one["code"] for one in answer.get_json()["errors"]}
            assert errors["surprise"] == "unknown_member", (method, path)
            asked += 1
    assert asked > 60


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_asked_with_whatever_parameters(anyone: Api, path: str) -> None:
    assert anyone.get(f"{path}?at=1").status_code == 200
