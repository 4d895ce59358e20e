"""Fixtures of delegation's tests: two owners with an agent each, money, and a clock to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import clock
from tests.client import Api
from tests.registry.manifests import build_manifest

CLERK, READER = "@acme:clerk", "@globex:reader"
DELEGATIONS = "/v1/delegations"


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

    def advance(self, **interval: float) -> None:
        """Move the clock on by a ``timedelta`` of these arguments."""
        self.now += timedelta(**interval)


@pytest.fixture
def time() -> Iterator[Clock]:
    """The one clock of the process, standing still."""
    still = Clock()
    with clock.frozen(lambda: still.now):
        yield still


@pytest.fixture
def operator(caller: Callable[..., Api]) -> Api:
    """An admin, who owns no agent."""
    return caller("operator", role="admin")


@pytest.fixture
def agents(acme: Api, globex: Api, operator: Api) -> None:
    """``@acme:clerk`` with 100 USD, and ``@globex:reader``."""
    for api, namespace, slug in ((acme, "@acme", "clerk"), (globex, "@globex", "reader")):
        body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
        assert api.post("/v1/agents", body).status_code == 200
    top_up(operator, CLERK, 100)


def top_up(operator: Api, agent_id: str, amount: float) -> None:
    """Bring money into an agent's account."""
    body = {"agent_id": agent_id, "amount_usd": amount}
    assert operator.post("/v1/ledger/topups", body).status_code == 200


def balance(api: Api, agent_id: str) -> float:
    """Return an agent's balance as its owner sees it."""
    found: float = api.get(f"/v1/ledger/accounts/agent:{agent_id}").get_json()["balance_usd"]
    return found


def request(**changes: Any) -> dict[str, Any]:
    """Return a valid request for inline work of 10 USD, with the given members replaced."""
    return {
        "requester_agent_id": CLERK,
        "delegate_agent_id": READER,
        "task_spec": "Read the invoices of November",
        "estimated_cost_usd": 10,
        "max_budget_usd": 20,
    } | changes


def offer(api: Api, **changes: Any) -> dict[str, Any]:
    """Offer remote work and return the delegation."""
    response = api.post(DELEGATIONS, request(execution="remote", **changes))
    assert response.status_code == 200, response.get_json()
    document: dict[str, Any] = response.get_json()
    return document


class Worker:
    """The delegate's side of one delegation, holding its lease."""

    def __init__(self, api: Api, delegation_id: str, token: str) -> None:
        self.api = api
        self.path = f"{DELEGATIONS}/{delegation_id}"
        self.token = token

    def send(self, command: str, **members: Any) -> Any:
        """Give a command with the lease token and return the response."""
        body = {"lease_token": self.token, **members}
        return self.api.post(f"{self.path}/{command}", body)

    def meter(self, *costs: float, prefix: str = "call") -> Any:
        """Report costs as events ``prefix-1``, ``prefix-2`` and so on."""
        events = [
            {"event_id": f"{prefix}-{number}", "cost_usd": cost}
            for number, cost in enumerate(costs, start=1)
        ]
        return self.send("meter", events=events)


def accept(api: Api, delegation_id: str) -> Worker:
    """Take a task on."""
    response = api.post(f"{DELEGATIONS}/{delegation_id}/accept", {})
    assert response.status_code == 200, response.get_json()
    return Worker(api, delegation_id, response.get_json()["lease_token"])


def problem(response: Any) -> tuple[int, str]:
    """Return an error's status and code."""
    return response.status_code, response.get_json()["code"]
