"""Random delegations without pause: requesters of both owners, and workers for both."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from app.money import to_micros, to_usd
from tests.reliability.market import (
    DELEGATIONS,
    OPERATOR,
    OWNERS,
    USD,
    Market,
    other,
    task,
)

CLIENTS = 8
WORKERS = 4


class Requester:
    """A client of one owner: makes delegations of every kind and ends those it offered."""

    def __init__(self, market: Market, owner: str, seed: object) -> None:
        self.market = market
        self.owner = owner
        self.chance = random.Random(str(seed))
        self.offered: list[str] = []

    def step(self) -> None:
        """Do one thing."""
        actions: dict[Callable[[], object], int] = {
            self.inline: 30,
            self.batch: 10,
            self.offer: 25,
            self.follow_up: 30,
            self.top_up: 5,
        }
        (action,) = self.chance.choices(list(actions), list(actions.values()))
        action()

    def _inline(self) -> dict[str, Any]:
        """Return work whose cost may lie anywhere around the thresholds of its estimate."""
        requester = self.chance.choice(self.market.agents[self.owner])
        # Work between two agents of one owner is in it, too.
        side = self.chance.choice((self.owner, other(self.owner), other(self.owner)))
        delegate = self.chance.choice([a for a in self.market.agents[side] if a != requester])
        estimate = self.chance.randint(1, 30 * USD)
        shares = [self.chance.randint(0, 60) for _ in range(self.chance.randint(1, 3))]
        events = [{"cost_usd": to_usd(estimate * share // 100)} for share in shares]
        auto = self.chance.random() < 0.8
        return task(requester, delegate, estimate, metering_events=events, auto_reauthorize=auto)

    def inline(self) -> None:
        """Report work that is done."""
        self._note(self.market.send(self.owner, DELEGATIONS, self._inline()))

    def batch(self) -> None:
        """Report several pieces of work at once."""
        bodies = [self._inline() for _ in range(self.chance.randint(2, 8))]
        answer = self.market.send(self.owner, f"{DELEGATIONS}/batch", {"delegations": bodies})
        refusals = [one["problem"] for one in answer.document["results"] if one["problem"]]
        assert {refusal["code"] for refusal in refusals} <= {"insufficient_funds"}

    def offer(self) -> None:
        """Offer work; some offers and leases are so short that the clock ends them."""
        answer = self.market.offer(
            self.chance.choice(self.market.agents[self.owner]),
            self.chance.choice(self.market.agents[other(self.owner)]),
            self.chance.randint(1, 30 * USD),
            accept_within_seconds=self.chance.choice((1, 900)),
            lease_seconds=self.chance.choice((1, 60)),
            review_within_seconds=self.chance.choice((0, 1, 3600)),
            auto_reauthorize=self.chance.random() < 0.7,
        )
        self._note(answer)

    def _note(self, answer: Any) -> None:
        if answer.status == 200 and answer.document["due_at"] is not None:
            self.offered.append(answer.document["delegation_id"])

    def follow_up(self) -> None:
        """Give any command of the requester's side to something still open, or decide a dispute."""
        if not self.offered:
            return
        delegation_id = self.chance.choice(self.offered)
        commands: tuple[tuple[str, dict[str, Any]], ...] = (
            ("accept-result", {}),
            ("accept-result", {}),
            ("cancel", {}),
            ("answer", {"answer": "In euros"}),
            ("dispute", {"reason": "wrong total"}),
            ("reauthorize", {"new_estimate_usd": to_usd(self.chance.randint(1, 33 * USD))}),
            ("resolve", {"charge_usd": 0, "reason": "not usable"}),
        )
        command, members = self.chance.choice(commands)
        who = OPERATOR if command == "resolve" else self.owner
        answer = self.market.command(who, delegation_id, command, **members)
        if answer.status == 200 and answer.document["due_at"] is None:
            self.offered.remove(delegation_id)

    def top_up(self) -> None:
        """Bring in a little money."""
        agent = self.chance.choice(self.market.agents[self.owner])
        self.market.top_up(agent, self.chance.randint(1, 50 * USD))


class Worker:
    """A worker of one owner: takes whatever is offered to its agents, and now and then dies."""

    def __init__(self, market: Market, owner: str, seed: object) -> None:
        self.market = market
        self.owner = owner
        self.chance = random.Random(str(seed))

    def step(self) -> None:
        """Do one task, or wait a little."""
        agent = self.chance.choice(self.market.agents[self.owner])
        claim = self.market.send(self.owner, f"{DELEGATIONS}/claim", {"agent_id": agent})
        if claim.status != 200:
            time.sleep(0.02)
            return
        self._work(claim.document)

    def _work(self, claimed: dict[str, Any]) -> None:
        token, estimate = claimed["lease_token"], to_micros(claimed["estimated_cost_usd"])

        def send(command: str, **members: Any) -> Any:
            return self.market.command(
                self.owner, claimed["delegation_id"], command, lease_token=token, **members
            )

        for round_ in range(self.chance.randint(1, 3)):
            costs = [estimate * self.chance.randint(0, 30) // 100 for _ in range(3)]
            events = [
                {"event_id": f"{token[:1]}-{round_}-{number}", "cost_usd": to_usd(cost)}
                for number, cost in enumerate(costs)
            ]
            metered = send("meter", events=events)
            if metered.status != 200 or metered.document["status"] == "failed_hard_stop":
                return
            if metered.document["cancel_requested"]:
                send("cancel")
                return
        end = self.chance.random()
        if end < 0.6:
            send("deliver", output={"summary": "read", "total": 1})
        elif end < 0.75:
            send("fail", reason="the document is encrypted")
        elif end < 0.9:
            send("ask", question="Which currency?")


@contextmanager
def running(market: Market, seed: object = 0) -> Iterator[None]:
    """Let clients and workers of both owners go on while the block runs."""
    stop = threading.Event()
    actors: list[Requester | Worker] = [
        Requester(market, OWNERS[number % 2], f"requester-{seed}-{number}")
        for number in range(CLIENTS)
    ]
    actors += [
        Worker(market, OWNERS[number % 2], f"worker-{seed}-{number}") for number in range(WORKERS)
    ]

    def run(actor: Requester | Worker) -> None:
        try:
            while not stop.is_set():
                actor.step()
        finally:
            # One that fails ends the others, so that its error is the one that is told.
            stop.set()

    with ThreadPoolExecutor(len(actors)) as pool:
        futures = [pool.submit(run, actor) for actor in actors]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()
