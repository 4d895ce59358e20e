"""One key that fills the registry, and strangers who list it: other owners go on as before."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.registry.test_size import KIB, manifest_of
from tests.reliability.abuse import FACTOR, FLOOR_SECONDS, Attack, Owner, attack, repeat
from tests.reliability.server import Client, Server, make_client

SECONDS = 1.5
# As large as they may be, but for a longer name of the copy.
LARGEST = 256 * KIB - 100
AGENT = "/v1/agents/@attacker:big"


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server as it comes, but for its rate limits: what holds here is not theirs."""
    return make_server(ANONYMOUS_LIMIT_PER_MINUTE=0).start()


def fill(client: Client, number: int = 20) -> float:
    """Register agents with manifests as large as they may be; return the shortest time of one."""
    seconds = []
    for index in range(number):
        slug = "big" if index == 0 else f"big-{index:03}"
        body = {"namespace": "@attacker", "manifest": manifest_of(LARGEST, slug=slug)}
        begun = time.monotonic()
        assert client.request("POST", "/v1/agents", body).status == 200
        seconds.append(time.monotonic() - begun)
    return min(seconds)


def forking(client: Client) -> Attack:
    """Fork the large agent over and over."""
    number = itertools.count()

    def fork() -> Any:
        body = {"namespace": "@attacker", "new_slug": f"fork-{next(number)}"}
        return client.request("POST", f"{AGENT}/fork", body)

    return repeat(fork, threads=3)


def publishing(client: Client) -> Attack:
    """Publish one large version after the other."""
    number = itertools.count(1)
    template = json.dumps({"manifest": manifest_of(LARGEST, slug="big", version="1.0.00000")})

    def publish() -> Any:
        body = template.replace("1.0.00000", f"1.0.{10000 + next(number)}").encode()
        return client.request("PUT", AGENT, body)

    return repeat(publish, threads=2)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["forks", "versions", "lists"])
def test_another_owner_goes_on(server: Server, kind: str) -> None:
    owner = Owner(make_client(server, "victim"))
    hostile = make_client(server, "attacker")
    one_write = fill(hostile)
    undisturbed = owner.probe(SECONDS)
    stranger = Client(server.port)
    attacks = {
        "forks": forking(hostile),
        "versions": publishing(hostile),
        "lists": repeat(lambda: stranger.request("GET", "/v1/agents?limit=100"), threads=4),
    }
    # Who meets the attacker's writes waits for some of them, on a slow machine longer.
    floor = FLOOR_SECONDS if kind == "lists" else max(FLOOR_SECONDS, FACTOR * one_write)
    with attack(attacks[kind]):
        owner.goes_on_as(undisturbed, 2 * SECONDS, floor)
    # The attack was one: what it asked for was done.
    listed = stranger.request("GET", "/v1/agents?namespace=@attacker&limit=1").document
    versions = hostile.request("GET", f"{AGENT}/versions").document["versions"]
    assert listed["pagination"]["total"] > 20 or kind != "forks"
    assert len(versions) > 1 or kind != "versions"


def test_a_page_has_2_mb_however_much_there_is(server: Server) -> None:
    fill(make_client(server, "attacker"))
    answer = Client(server.port).request("GET", "/v1/agents?limit=100")
    assert answer.status == 200
    assert len(answer.body) < 2 * KIB * KIB + KIB


def test_a_fork_loop_ends_at_the_quota(make_server: Callable[..., Server]) -> None:
    server = make_server(QUOTA_MANIFEST_BYTES=10 * LARGEST).start()
    hostile = make_client(server, "attacker")
    fill(hostile, 1)
    answers: list[int] = []
    lock = threading.Lock()

    def fork(number: int) -> None:
        body = {"namespace": "@attacker", "new_slug": f"fork-{number}"}
        status = hostile.request("POST", f"{AGENT}/fork", body).status
        with lock:
            answers.append(status)

    threads = [threading.Thread(target=fork, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The manifests of forks are some bytes larger than that of the first.
    assert sorted(set(answers)) == [200, 403]
    assert answers.count(200) in (8, 9)
