"""Owners whose agents give each other work, as callers of several servers on one database."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.money import to_usd
from tests.registry.manifests import build_manifest
from tests.reliability.server import Answer, Client, Server, make_client

DELEGATIONS = "/v1/delegations"
OWNERS = ("acme", "globex")
OPERATOR = "operator"
USD = 1_000_000
SECONDS_TO_ANSWER = 60

# Refusals that are outcomes, so that their answers are stored under the request's key.
OUTCOMES = {
    "insufficient_funds",
    "command_not_allowed",
    "delegation_overdue",
    "lease_lost",
    "budget_stopped",
    "reauthorization_refused",
    "charge_refused",
}
# What a caller meets while a server or its database is away, or its own first attempt still runs.
AWAY = {"database_unavailable", "database_busy", "idempotency_key_in_use"}
NOTHING_TO_DO = "no_task_offered"


@dataclass(frozen=True)
class Request:
    """A write, with the key that makes it happen once."""

    owner: str
    path: str
    body: Any
    key: str


@dataclass(frozen=True)
class Entry:
    """A write that was acknowledged, and the answer that said so."""

    request: Request
    answer: Answer


class Market:
    """Agents of two owners with money, an operator, and a journal of every acknowledged write.

    ``faulty`` tells that servers or the database may go away: then a write is repeated under its
    key until some server answers it, as a careful client does; else every failure is one.
    """

    def __init__(
        self, servers: Sequence[Server], *, agents: int = 3, funds: int = 1000 * USD
    ) -> None:
        self.servers = list(servers)
        self.faulty = False
        self.journal: list[Entry] = []
        self.repeated: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.keys = {owner: make_client(servers[0], owner).api_key for owner in OWNERS}
        self.keys[OPERATOR] = make_client(servers[0], OPERATOR, "admin").api_key
        self.agents: dict[str, list[str]] = {owner: [] for owner in OWNERS}
        for owner, number in itertools.product(OWNERS, range(agents)):
            body = {"namespace": f"@{owner}", "manifest": build_manifest(f"agent-{number}")}
            self.agents[owner].append(self.send(owner, "/v1/agents", body).document["id"])
            self.top_up(self.agents[owner][-1], funds)

    def client(self, owner: str, server: Server | None = None) -> Client:
        """Return an owner's client of one server, else of any."""
        return (server or random.choice(self.servers)).client(self.keys[owner])

    def send(self, owner: str, path: str, body: Any, key: str | None = None) -> Answer:
        """Write until it is acknowledged, always under the same key, and note the answer."""
        request = Request(owner, path, body, key or uuid.uuid4().hex)
        answer = self._acknowledged(request)
        if is_stored(answer):
            self.journal.append(Entry(request, answer))
        return answer

    def attempt(self, request: Request) -> Answer:
        """Send a request once, to any server."""
        client = self.client(request.owner)
        return client.request("POST", request.path, request.body, request.key)

    def _acknowledged(self, request: Request) -> Answer:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while True:
            try:
                answer = self.attempt(request)
            except (OSError, http.client.HTTPException):
                self._away("connection", deadline, 0.1)
                continue
            if answer.status == 200:
                return answer
            code = answer.document["code"]
            if code in AWAY:
                self._away(code, deadline, int(answer.headers["retry-after"]))
                continue
            assert code in OUTCOMES | {NOTHING_TO_DO}, (request, answer)
            return answer

    def _away(self, what: str, deadline: float, seconds: float) -> None:
        """Count that something is away and wait for up to ``seconds``."""
        assert self.faulty, what
        assert seconds > 0
        assert time.monotonic() < deadline, what
        with self._lock:
            self.repeated[what] += 1
        time.sleep(random.uniform(seconds / 4, seconds))

    def top_up(self, agent_id: str, micros: int) -> Answer:
        """Bring money into an agent's account."""
        body = {"agent_id": agent_id, "amount_usd": to_usd(micros)}
        return self.send(OPERATOR, "/v1/ledger/topups", body)

    def offer(self, requester: str, delegate: str, estimate: int, **members: Any) -> Answer:
        """Offer remote work."""
        body = task(requester, delegate, estimate, execution="remote", **members)
        return self.send(owner_of(requester), DELEGATIONS, body)

    def command(self, owner: str, delegation_id: str, command: str, **members: Any) -> Answer:
        """Give a command to a delegation."""
        return self.send(owner, f"{DELEGATIONS}/{delegation_id}/{command}", members)

    def replay(self, since: int = 0) -> int:
        """Send every acknowledged write again, those after the first ``since``; return how many.

        Fails unless each is answered with the very bytes of its first answer.
        """
        for entry in self.journal[since:]:
            again = self._acknowledged(entry.request)
            assert again.is_replay, entry
            assert again.status == entry.answer.status, (entry, again)
            assert again.body == entry.answer.body, (entry, again)
        return len(self.journal) - since


def is_stored(answer: Answer) -> bool:
    """Tell whether an answer is the outcome of its key: any but that there was nothing to do."""
    return answer.status == 200 or answer.document["code"] in OUTCOMES


def owner_of(agent_id: str) -> str:
    """Return the owner of an agent of the market."""
    return agent_id[1:].partition(":")[0]


def other(owner: str) -> str:
    """Return the other owner."""
    return OWNERS[owner == OWNERS[0]]


def task(requester: str, delegate: str, estimate: int, **members: Any) -> dict[str, Any]:
    """Return a request for inline work, which may cost a tenth more than estimated."""
    return {
        "requester_agent_id": requester,
        "delegate_agent_id": delegate,
        "task_spec": "Read the invoices of November",
        "estimated_cost_usd": to_usd(estimate),
        "max_budget_usd": to_usd(estimate + estimate // 10),
    } | members
