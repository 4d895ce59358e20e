"""The database of an earlier release: its answers, its decisions and the offers that wait in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import clock
from app.config import Settings
from app.delegation.policy import PolicyInput, decide
from tests.delegation.conftest import DELEGATIONS, READER, offer
from tests.ops.conftest import bring_back
from tests.ops.place import Place, Shop

RELEASE_1 = Path(__file__).parents[1] / "ops" / "release-1.snapshot"


@pytest.fixture
def shop(empty_settings: Settings) -> Iterator[Shop]:
    """The earlier place of business under this release, a minute later."""
    bring_back(empty_settings, RELEASE_1)
    told = json.loads(RELEASE_1.with_suffix(".json").read_text())
    answers = {
        key: (path, body, answer.encode()) for key, (path, body, answer) in told["answers"].items()
    }
    now = datetime(2026, 11, 26, 1, 4, tzinfo=UTC)
    place = Place(empty_settings, told["keys"], answers)
    with clock.frozen(lambda: now), place.open() as opened:
        yield opened


def test_its_answers_are_replayed(shop: Shop) -> None:
    # What a request can say by now is no part of what it said then.
    assert shop.replayed() == 4


def test_its_decisions_can_be_repeated(shop: Shop) -> None:
    path, body, answer = shop.place.answers["acme-inline"]
    assert path == DELEGATIONS
    stored = json.loads(answer)["policy_decision"]
    shown = stored["evaluated_constraints"]
    for auto_reauthorize in (True, False):
        given = PolicyInput(
            requester=body["requester_agent_id"],
            delegate=body["delegate_agent_id"],
            delegate_version="1.0.0",
            estimated_micros=body["estimated_cost_usd"] * 1_000_000,
            max_budget_micros=body["max_budget_usd"] * 1_000_000,
            minimum_trust=None,
            trust_score=round(shown["trust"]["delegate_trust_score"] * 100),
            required_permissions=(),
            granted_permissions=tuple(shown["permissions"]["granted"]),
            auto_reauthorize=auto_reauthorize,
        )
        assert decide(given) == stored


def test_its_offers_are_claimed_and_new_ones_made(shop: Shop) -> None:
    acme, globex = shop.caller("acme"), shop.caller("globex")
    listed = globex.get(f"{DELEGATIONS}?role=delegate&status=offered").get_json()["data"]
    waiting = [entry["delegation_id"] for entry in listed][::-1]
    assert waiting
    waiting.append(offer(acme)["delegation_id"])
    claimed = [
        globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}).get_json()["delegation_id"]
        for _ in waiting
    ]
    assert claimed == waiting
