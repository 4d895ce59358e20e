"""One key whose capabilities' schemas never come to an end: other owners' checks go on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from threading import Event, Thread
from typing import Any

import pytest

from app.canonical import Canonical
from app.registry import service as registry
from app.registry.queries import find_owner
from tests.delegation.conftest import request
from tests.json_schema.schemas import TWICE, Schema, about, chain, nested
from tests.registry.manifests import build_capability, build_manifest
from tests.reliability.abuse import Attack, Owner, attack
from tests.reliability.server import Client, Server, make_client, opened

SECONDS = 2.0
# Each of the two cores is taken by a process that holds the attacker's values to a schema.
FLOOR_SECONDS = 0.5
BOMBS = 12
BATCH = 100
PAUSE_SECONDS = 0.5


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server as it comes, but for its rate limits, whose agents have money."""
    return make_server(OPENING_CREDIT_USD=1000).start()


class Delegator(Owner):
    """An owner who delegates, too, so that inputs are held to a schema."""

    def __post_init__(self) -> None:
        super().__post_init__()
        publish(self.client, self.name, "worker", about({"type": "string", "pattern": "^[a-z]+$"}))

    def requests(self) -> list[tuple[str, str, str, Any]]:
        """Return a round of requests with a delegation."""
        body = delegation(self.name, "worker", {"x": "text"}) | {
            "requester_agent_id": f"@{self.name}:probed"
        }
        return [*super().requests(), ("check", "POST", "/v1/delegations", body)]


def delegation(owner: str, slug: str, value: Any) -> dict[str, Any]:
    """Return a request for the capability of an owner's own agent."""
    return request(
        requester_agent_id=f"@{owner}:probed",
        delegate_agent_id=f"@{owner}:{slug}",
        capability_id="evil",
        task_input=value,
        estimated_cost_usd=0.000001,
        max_budget_usd=0.00001,
    )


def publish(client: Client, owner: str, slug: str, schema: Schema) -> None:
    """Register an agent whose capability ``evil`` takes what a schema lets in."""
    capability = build_capability("evil", input_schema=schema)
    body = {"namespace": f"@{owner}", "manifest": build_manifest(slug, capabilities=[capability])}
    answer = client.request("POST", "/v1/agents", body)
    assert answer.status == 200, answer.body


def publish_formerly(server: Server, agent_id: str, schema: Schema) -> None:
    """Have a version there that an earlier release published, which judged no schema."""
    capability = build_capability("evil", input_schema=schema)
    slug = agent_id.partition(":")[2]
    manifest = Canonical.of(build_manifest(slug, "1.1.0", capabilities=[capability]))
    with opened(server) as database, database.transaction() as session:
        owner_id = find_owner(session, agent_id)
        publication = registry.prepare_version(session, owner_id, agent_id, manifest)
        no_limits = registry.Quotas(*[0] * 5)
        registry.publish_version(session, owner_id, agent_id, publication, no_limits)


def bombing(client: Client, value: Callable[[int], Any]) -> Attack:
    """Send four batches of a hundred pieces of work at once, each for another of the bombs.

    Then comes a pause, so that what is held to another owner's figures is checks, and not a flood.
    """
    number = itertools.count()

    def send() -> None:
        turn = next(number)
        slug = f"bomb-{turn % BOMBS}"
        entries = [delegation("attacker", slug, value(turn * BATCH + n)) for n in range(BATCH)]
        with suppress(OSError, HTTPException):
            client.request("POST", "/v1/delegations/batch", {"delegations": entries})

    def run(stop: Event) -> None:
        while not stop.wait(PAUSE_SECONDS):
            batches = [Thread(target=send, daemon=True) for _ in range(4)]
            for batch in batches:
                batch.start()
            for batch in batches:
                batch.join()

    return run


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["of an earlier release", "published now"])
def test_schema_bombs_disturb_nobody(server: Server, kind: str) -> None:
    owner = Delegator(make_client(server, "victim"))
    attacker = make_client(server, "attacker")
    Owner(attacker, "attacker")
    for bomb in range(BOMBS):
        # Each has a schema of its own, so that none is known from another.
        schema = {**TWICE, "title": f"Bomb {bomb}"}
        publish(attacker, "attacker", f"bomb-{bomb}", schema)
        if kind == "of an earlier release":
            old = {**chain(40, "allOf"), "title": f"Bomb {bomb}"}
            publish_formerly(server, f"@attacker:bomb-{bomb}", old)
    # Their processes are there from the first check on.
    owner.probe(0.5)
    undisturbed = owner.probe(SECONDS)

    def value(turn: int) -> Any:
        if kind == "of an earlier release":
            return {"x": turn}
        return {"x": nested(40), "turn": turn}

    with attack(bombing(attacker, value)):
        owner.goes_on_as(undisturbed, 2 * SECONDS, FLOOR_SECONDS)


@pytest.mark.alone
def test_bombs_for_agents_of_others_cost_nothing(server: Server) -> None:
    """A key without any agent asks for work of everybody's: it is refused before any check."""
    owner = Delegator(make_client(server, "victim"))
    publisher = make_client(server, "attacker")
    Owner(publisher, "attacker")
    for bomb in range(BOMBS):
        publish(publisher, "attacker", f"bomb-{bomb}", {**TWICE, "title": f"Bomb {bomb}"})
    owner.probe(0.5)
    undisturbed = owner.probe(SECONDS)
    stranger = make_client(server, "stranger")
    with attack(bombing(stranger, lambda turn: {"x": nested(40), "turn": turn})):
        owner.goes_on_as(undisturbed, SECONDS, FLOOR_SECONDS)
