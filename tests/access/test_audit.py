"""What administrators do leaves a record; what others do does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT = "@acme:invoice-summarizer"
REGISTRATION = {"namespace": "@acme", "manifest": build_manifest()}


@pytest.fixture
def admin(caller: Callable[..., Api]) -> Api:
    """An administrator."""
    return caller("operator", "admin")


def actions(admin: Api) -> list[dict[str, Any]]:
    """Return what is recorded, newest first."""
    response = admin.get("/v1/audit")
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.get_json()["actions"]
    return found


def test_every_write_of_an_admin_is_recorded_once(acme: Api, admin: Api) -> None:
    assert acme.post("/v1/agents", REGISTRATION).status_code == 200
    topup = {"agent_id": AGENT, "amount_usd": 5}
    for _ in range(2):
        done = admin.post("/v1/ledger/topups", topup, idempotency_key="k")
        assert done.status_code == 200
    payout = {"agent_id": AGENT, "amount_usd": 50}
    refused = admin.post("/v1/ledger/payouts", payout, idempotency_key="p")
    assert refused.status_code == 400
    invalid = admin.post("/v1/ledger/payouts", {"agent_id": AGENT, "amount_usd": -1})
    assert invalid.status_code == 422
    found = actions(admin)
    assert [(one["action"], one["outcome"]) for one in found] == [
        ("POST /v1/ledger/payouts", "400"),
        ("POST /v1/ledger/topups", "200"),
    ]
    first = found[-1]
    assert (first["actor"], first["target"]) == ("operator", "/v1/ledger/topups")
    assert first["key_id"] == str(admin.key).split("_")[1]
    assert first["request_id"]


def test_pages_go_back_to_the_first(admin: Api, acme: Api) -> None:
    assert acme.post("/v1/agents", REGISTRATION).status_code == 200
    for amount in range(1, 6):
        body = {"agent_id": AGENT, "amount_usd": amount}
        assert admin.post("/v1/ledger/topups", body).status_code == 200
    seen, path = [], "/v1/audit?limit=2"
    while path:
        page = admin.get(path).get_json()
        seen += [one["id"] for one in page["actions"]]
        cursor = page["pagination"]["next_cursor"]
        path = f"/v1/audit?limit=2&cursor={cursor}" if cursor else ""
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 5
    assert admin.get("/v1/audit?cursor=forged").status_code == 422


def test_only_admins_may_read_it(acme: Api, anyone: Api, services: Services) -> None:
    assert acme.get("/v1/audit").status_code == 403
    assert anyone.get("/v1/audit").status_code == 401
