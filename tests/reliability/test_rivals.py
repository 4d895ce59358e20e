"""Many processes at once: one key has one effect, and one name has one winner."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import func, select

from app.idempotency.models import IdempotencyKey
from app.registry.models import Agent, Evaluation
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import assert_consistent
from tests.reliability.rivals import race
from tests.reliability.server import Client, Server, make_client, opened

RIVALS = 12
AGENT = "/v1/agents/@acme:invoice-summarizer"
EVALS = AGENT + "/versions/1.0.0/evals"
REGISTRATION = {"namespace": "@acme", "manifest": build_manifest()}


def test_rivals(make_server: Callable[..., Server]) -> None:
    """Twelve processes race on two servers that share one database."""
    servers = [make_server().start(), make_server().start()]
    client = make_client(servers[0])
    rivals = [Client(servers[n % 2].port, client.api_key) for n in range(RIVALS)]

    answers = race(rivals, [f"own-{n}" for n in range(RIVALS)], "/v1/agents", REGISTRATION)
    assert sorted(int(str(status)) for status, _, _ in answers) == [200] + [409] * (RIVALS - 1)
    codes = {json.loads(str(text))["code"] for status, _, text in answers if status == 409}
    assert codes == {"agent_exists"}

    body = {"suite": "race", "metrics": {"accuracy": 1}, "cases": {"passed": 1, "total": 2}}
    answers = race(rivals, ["shared"] * RIVALS, EVALS, body)
    assert {status for status, _, _ in answers} == {200}
    assert len({text for _, _, text in answers}) == 1
    assert sorted(str(replayed) for _, replayed, _ in answers) == ["None"] + ["true"] * (RIVALS - 1)

    answers = race(rivals, [f"many-{n}" for n in range(RIVALS)], EVALS, body)
    assert {status for status, _, _ in answers} == {200}
    with opened(servers[0]) as database:
        with database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(Agent)) == 1
            assert connection.scalar(select(func.count()).select_from(Evaluation)) == RIVALS + 1
            keys = connection.scalar(select(func.count()).select_from(IdempotencyKey))
            assert keys == 2 * RIVALS + 1
        assert_consistent(database)
    assert client.request("GET", AGENT).document["eval_summary"]["evaluations"] == RIVALS + 1


def test_a_second_server_sees_every_write_at_once(make_server: Callable[..., Server]) -> None:
    first, second = make_server().start(), make_server().start()
    writer = make_client(first)
    reader = second.client(writer.api_key)
    written = writer.request("POST", "/v1/agents", REGISTRATION, key="k")
    read = reader.request("GET", AGENT)
    assert (read.body, read.headers["etag"]) == (written.body, written.headers["etag"])
    replay = reader.request("POST", "/v1/agents", REGISTRATION, key="k")
    assert (replay.is_replay, replay.body) == (True, written.body)

    version = AGENT + "/versions/1.0.0"
    tags = {reader.request("GET", version).headers["etag"]}
    for number in range(1, 21):
        body = {"suite": f"s{number}", "metrics": {"accuracy": number}}
        assert writer.request("POST", EVALS, body).status == 200
        seen = reader.request("GET", version)
        assert seen.document["eval_summary"]["suite"] == f"s{number}"
        assert seen.document["eval_summary"]["evaluations"] == number
        tags.add(seen.headers["etag"])
        agent = reader.request("GET", AGENT)
        assert agent.headers["etag"] == f'"{number + 1}"'
        stale = {"If-None-Match": f'"{number}"'}
        assert reader.request("GET", AGENT, headers=stale).status == 200
        current = {"If-None-Match": f'"{number + 1}"'}
        assert reader.request("GET", AGENT, headers=current).status == 304
    assert len(tags) == 21
    listed = reader.request("GET", "/v1/agents?namespace=@acme").document
    assert listed["pagination"]["total"] == 1
    stale = {"If-Match": '"20"'}
    assert reader.request("DELETE", AGENT, headers=stale).status == 412
    assert reader.request("DELETE", AGENT, headers={"If-Match": '"21"'}).status == 200
    assert writer.request("GET", AGENT).document["status"] == "deprecated"
