"""Batches: many inline delegations under one key, each settled or refused on its own."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from app.http.context import Services
from tests.client import Api
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    balance,
    problem,
    request,
)

pytestmark = pytest.mark.usefixtures("agents")
BATCH = f"{DELEGATIONS}/batch"


def send(api: Api, *items: dict[str, Any], key: str | None = None) -> Any:
    return api.post(BATCH, {"delegations": list(items)}, idempotency_key=key)


def test_each_succeeds_or_is_refused_on_its_own(acme: Api, globex: Api) -> None:
    response = send(
        acme,
        request(simulated_actual_cost_usd=4),
        request(delegate_agent_id="@globex:nobody"),
        request(max_budget_usd=1),
        request(required_permissions=["payments.write"]),
        request(simulated_actual_cost_usd=12),
    )
    assert response.status_code == 200
    document = response.get_json()
    assert (document["succeeded"], document["failed"]) == (2, 3)
    results = document["results"]
    assert [entry["index"] for entry in results] == [0, 1, 2, 3, 4]
    assert [entry["problem"] and entry["problem"]["code"] for entry in results] == [
        None,
        "agent_not_found",
        "policy_denied",
        "policy_forbidden",
        None,
    ]
    assert results[2]["problem"]["policy_decision"]["decision"] == "deny"
    assert results[0]["delegation"]["status"] == "completed"
    assert results[4]["delegation"]["status"] == "failed_hard_stop"
    assert (balance(acme, CLERK), balance(globex, READER)) == (86, 14)
    stored = acme.get(f"{DELEGATIONS}/{results[0]['delegation']['delegation_id']}").get_json()
    assert stored == results[0]["delegation"]


def test_each_sees_the_funds_that_those_before_it_left(acme: Api) -> None:
    big = request(estimated_cost_usd=60, max_budget_usd=60, simulated_actual_cost_usd=55)
    document = send(acme, big, big, request(simulated_actual_cost_usd=1)).get_json()
    assert [entry["succeeded"] for entry in document["results"]] == [True, False, True]
    assert document["results"][1]["problem"]["code"] == "insufficient_funds"
    assert balance(acme, CLERK) == 44


def test_what_a_delegate_earns_it_can_spend_at_once(acme: Api, caller: Any) -> None:
    for slug in ("first", "second"):
        from tests.registry.manifests import build_manifest

        body = {"namespace": "@acme", "manifest": build_manifest(slug=slug)}
        assert acme.post("/v1/agents", body).status_code == 200
    chain = [
        request(delegate_agent_id="@acme:first", simulated_actual_cost_usd=10),
        request(
            requester_agent_id="@acme:first",
            delegate_agent_id="@acme:second",
            simulated_actual_cost_usd=10,
        ),
    ]
    assert send(acme, *chain).get_json()["succeeded"] == 2
    assert [balance(acme, f"@acme:{slug}") for slug in ("first", "second")] == [0, 10]


def test_a_repeated_batch_replays(acme: Api) -> None:
    first = send(acme, request(), request(), key="once")
    again = send(acme, request(), request(), key="once")
    assert again.data == first.data
    assert again.headers["Idempotent-Replayed"] == "true"
    assert problem(send(acme, request(), key="once")) == (409, "idempotency_key_reused")
    assert balance(acme, CLERK) == 81.6


def test_a_hundred_cost_as_many_statements_as_two(acme: Api, services: Services) -> None:
    counted: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        counted.append(statement)

    numbers = []
    event.listen(services.database.writer, "before_cursor_execute", note)
    for size in (2, 100):
        counted.clear()
        items = [request(estimated_cost_usd=0.1, max_budget_usd=1) for _ in range(size)]
        assert send(acme, *items).get_json()["succeeded"] == size
        numbers.append(len(counted))
    event.remove(services.database.writer, "before_cursor_execute", note)
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("items", "pointer"),
    [
        ([], "/delegations"),
        ([request()] * 101, "/delegations"),
        ([request(), request(execution="remote")], "/delegations/1/execution"),
        ([request(), request(estimated_cost_usd=-1)], "/delegations/1/estimated_cost_usd"),
    ],
)
def test_a_malformed_batch_does_nothing(acme: Api, items: Any, pointer: str) -> None:
    response = send(acme, *items)
    assert problem(response) == (422, "validation_failed")
    assert response.get_json()["errors"][0]["pointer"] == pointer
    assert balance(acme, CLERK) == 100
