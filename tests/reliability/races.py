"""Trials of what must happen once; each returns figures and fails when something did not hold."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import psycopg
from sqlalchemy import func, select

from app.config import Settings
from app.db import Database
from app.delegation.breaker import THRESHOLDS
from app.delegation.models import Delegation, DelegationEvent
from app.ledger.models import MeteringEvent
from app.money import to_micros, to_usd
from tests.reliability.evidence import assert_consistent
from tests.reliability.load import running
from tests.reliability.market import (
    DELEGATIONS,
    OWNERS,
    USD,
    Entry,
    Market,
    Request,
    other,
    owner_of,
    task,
)
from tests.reliability.rivals import race
from tests.reliability.server import Answer, opened, wait_for
from tests.reliability.watch import watching
from tests.reliability.written import assert_written

RIVALS = 12
THREADS_OF_ONE_KEY = 50
METERING_WRITERS = 16
CLIENTS_IN_OPPOSITION = 12
Figures = dict[str, object]
Payment = tuple[str, str, int]


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Begin all calls at the same moment, each in a thread of its own, and return their results."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def bank(market: Market, seconds: float) -> Figures:
    """Let clients and workers trade while others add up all balances again and again."""
    with opened(market.servers[0], threads=4) as database:
        with watching(database) as watch, running(market):
            watch.wait(seconds)
        assert_consistent(database)
        assert_written(database, market.journal)
        with database.read() as connection:
            statuses = dict(
                connection.execute(
                    select(Delegation.status, func.count()).group_by(Delegation.status)
                ).all()
            )
    refused = sum(entry.answer.status != 200 for entry in market.journal)
    return {
        "writes acknowledged": len(market.journal),
        "of them refusals": refused,
        "delegations": sum(statuses.values()),
        "outcomes": statuses,
        "readings of all balances": watch.views,
        "wrong totals or negative balances": 0,
        "reconciliations meanwhile": watch.reconciliations,
        "blocks sealed and verified": watch.blocks,
    }


def rivals_for_a_balance(market: Market) -> Figures:
    """Let twelve processes each hold 400 of a balance of 1,000."""
    requester, delegate = market.agents["acme"][0], market.agents["globex"][0]
    clients = [market.client("acme", market.servers[n % 2]) for n in range(RIVALS)]
    body = task(requester, delegate, 400 * USD, execution="remote")
    keys = [f"rival-{number}" for number in range(RIVALS)]
    answers = race(clients, keys, DELEGATIONS, body)
    for key, (status, _, text) in zip(keys, answers, strict=True):
        answer = Answer(int(str(status)), {}, str(text).encode())
        market.journal.append(Entry(Request("acme", DELEGATIONS, body, key), answer))
    statuses = Counter(status for status, _, _ in answers)
    assert statuses == {200: 2, 400: RIVALS - 2}, statuses
    refused = {json.loads(str(text))["code"] for status, _, text in answers if status == 400}
    assert refused == {"insufficient_funds"}
    assert balance(market, requester) == 200 * USD
    return {"rivals": RIVALS, "holds that succeeded": statuses[200]}


def one_key(market: Market) -> Figures:
    """Send one write from fifty threads at once: an offer, a batch, a claim and a settlement."""
    requester, delegate = market.agents["acme"][1], market.agents["globex"][1]
    before = balance(market, requester)
    cost = {"simulated_actual_cost_usd": 1}
    items = [task(requester, delegate, 2 * USD, **cost) for _ in range(3)]
    zero = {"review_within_seconds": 0}
    offer = task(requester, delegate, 10 * USD, execution="remote", **zero)
    _one_effect(market, "acme", DELEGATIONS, offer)
    _one_effect(market, "acme", f"{DELEGATIONS}/batch", {"delegations": items})
    claimed = _one_effect(market, "globex", f"{DELEGATIONS}/claim", {"agent_id": delegate})
    token, path = (
        claimed.document["lease_token"],
        f"{DELEGATIONS}/" + claimed.document["delegation_id"],
    )
    events = [{"event_id": "call-1", "cost_usd": 4}]
    _one_effect(market, "globex", f"{path}/meter", {"lease_token": token, "events": events})
    _one_effect(market, "globex", f"{path}/deliver", {"lease_token": token, "output": 1})
    assert balance(market, requester) == before - 7 * USD
    return {"threads with one key": THREADS_OF_ONE_KEY, "effects of each key": 1}


def _one_effect(market: Market, owner: str, path: str, body: Any) -> Answer:
    request = Request(owner, path, body, uuid.uuid4().hex)
    answers: list[Answer] = at_once([lambda: market.attempt(request)] * THREADS_OF_ONE_KEY)
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.is_replay for answer in answers) == 1
    market.journal.append(Entry(request, answers[0]))
    return answers[0]


def breaker(market: Market, rounds: int) -> Figures:
    """Let sixteen writers meter one delegation at once, until it has stopped."""
    accepted = 0
    with opened(market.servers[0]) as database:
        for number in range(rounds):
            estimate = 10 * USD
            members = {"auto_reauthorize": number % 2 == 0}
            requester, delegate = (market.agents[owner][2] for owner in OWNERS)
            offered = market.offer(requester, delegate, estimate, **members).document
            delegation_id = offered["delegation_id"]
            lease = market.command("globex", delegation_id, "accept").document["lease_token"]
            writers = [
                partial(_meter, market, delegation_id, lease, seed)
                for seed in range(METERING_WRITERS)
            ]
            told = list(chain.from_iterable(at_once(writers)))
            accepted += _assert_stopped_once(database, delegation_id, estimate, told)
        assert_consistent(database)
    return {
        "writers of one delegation": METERING_WRITERS,
        "delegations metered to the stop": rounds,
        "events accepted": accepted,
    }


def _meter(market: Market, delegation_id: str, lease: str, seed: int) -> list[tuple[str, int]]:
    """Meter until the delegation stops; return the events that were accepted.

    Every writer also reports events that the others report, too.
    """
    chance, accepted = random.Random(seed), []
    for number in range(10_000):
        events = [
            {"event_id": f"{seed}-{number}-{place}", "cost_usd": to_usd(chance.randint(0, 60_000))}
            for place in range(chance.randint(0, 3))
        ]
        events.append({"event_id": f"shared-{number}", "cost_usd": 0.01})
        answer = market.command("globex", delegation_id, "meter", lease_token=lease, events=events)
        if answer.status != 200:
            assert answer.document["code"] == "budget_stopped", answer
            return accepted
        accepted += [
            (event["event_id"], to_micros(event["cost_usd"]))
            for event in answer.document["events"]
            if event["result"] == "accepted"
        ]
    raise AssertionError("the breaker never stopped")


def _assert_stopped_once(
    database: Database, delegation_id: str, estimate: int, told: list[tuple[str, int]]
) -> int:
    """Fail unless thresholds and events are there once and nothing came after the crossing."""
    with database.snapshot() as connection:
        row = connection.execute(
            select(*Delegation.__table__.c).where(Delegation.id == delegation_id)
        ).one()
        details = connection.scalars(
            select(DelegationEvent.details)
            .where(
                DelegationEvent.delegation_id == delegation_id, DelegationEvent.kind == "threshold"
            )
            .order_by(DelegationEvent.number)
        )
        crossed = [json.loads(text)["threshold_pct"] for text in details]
        stored = connection.execute(
            select(MeteringEvent.event_id, MeteringEvent.cost_micros)
            .where(MeteringEvent.delegation_id == delegation_id)
            .order_by(MeteringEvent.seq)
        ).all()
    assert crossed == list(THRESHOLDS)
    assert row.status == "failed_hard_stop"
    assert sorted(told) == sorted(map(tuple, stored))
    assert row.metered_micros == sum(cost for _, cost in stored)
    before_the_last = row.metered_micros - stored[-1].cost_micros
    assert before_the_last * 100 < 120 * estimate <= row.metered_micros * 100
    claim = min(row.metered_micros, row.held_micros)
    assert (row.settlement, row.released_micros) == ("in_review", row.held_micros - claim)
    return len(stored)


def opposite_directions(market: Market, rounds: int) -> Figures:
    """Let both owners' agents pay each other at once, in batches of opposite orders and remotely.

    Whoever loses an update, or locks in the order of its request, is found by the exact balances.
    """
    start = {agent: balance(market, agent) for owner in OWNERS for agent in market.agents[owner]}
    payers = [
        partial(_pay, market, OWNERS[seed % 2], seed, rounds)
        for seed in range(CLIENTS_IN_OPPOSITION)
    ]
    moved = list(chain.from_iterable(at_once(payers)))
    for payer, payee, amount in moved:
        start[payer] -= amount
        start[payee] += amount
    for agent, expected in start.items():
        assert balance(market, agent) == expected, agent
    with opened(market.servers[0]) as database:
        assert_consistent(database)
        assert_written(database, market.journal)
    return {"clients in opposite directions": CLIENTS_IN_OPPOSITION, "payments": len(moved)}


def _pay(market: Market, owner: str, seed: int, rounds: int) -> list[Payment]:
    chance, moved = random.Random(seed), []
    for _ in range(rounds):
        moved += _pay_in_a_batch(market, owner, chance)
        moved += _pay_after_a_pause(market, owner, chance)
        moved += _pay_until_the_stop(market, owner, chance)
    return moved


def _pay_in_a_batch(market: Market, owner: str, chance: random.Random) -> list[Payment]:
    pairs = list(zip(market.agents[owner], market.agents[other(owner)], strict=True))
    ordered = pairs if chance.random() < 0.5 else pairs[::-1]
    bodies = [
        task(payer, payee, 2 * USD, simulated_actual_cost_usd=to_usd(chance.randint(1, 2 * USD)))
        for payer, payee in ordered
    ]
    answer = market.send(owner, f"{DELEGATIONS}/batch", {"delegations": bodies})
    assert answer.document["failed"] == 0, answer
    return [_payment(result["delegation"]) for result in answer.document["results"]]


def _pay_after_a_pause(market: Market, owner: str, chance: random.Random) -> list[Payment]:
    """Report work that waits for an authorization, which grows the hold and closes at once."""
    payer, payee = (chance.choice(market.agents[side]) for side in (owner, other(owner)))
    body = task(payer, payee, USD, simulated_actual_cost_usd=1, auto_reauthorize=False)
    paused = market.send(owner, DELEGATIONS, body).document
    assert paused["status"] == "pending_reauthorization"
    more = {"new_estimate_usd": 1.1}
    return [
        _payment(market.command(owner, paused["delegation_id"], "reauthorize", **more).document)
    ]


def _pay_until_the_stop(market: Market, owner: str, chance: random.Random) -> list[Payment]:
    """Offer and meter beyond 120 % in one report, which grows the hold and closes at once."""
    payer, payee = (chance.choice(market.agents[side]) for side in (owner, other(owner)))
    offered = market.offer(payer, payee, USD).document
    worker, delegation_id = owner_of(payee), offered["delegation_id"]
    lease = market.command(worker, delegation_id, "accept").document["lease_token"]
    costs = {"grows": 1.05, "stops": chance.choice((0.1, 0.2))}
    events = [{"event_id": name, "cost_usd": cost} for name, cost in costs.items()]
    market.command(worker, delegation_id, "meter", lease_token=lease, events=events)
    market.command(worker, delegation_id, "deliver", lease_token=lease, output=1)
    settled = market.command(owner, delegation_id, "accept-result")
    if settled.status == 200:
        return [_payment(settled.document)]
    # It was stopped at 120 %: the charge is all that was held, which had grown to 1.05.
    return [(payer, payee, 1_050_000)]


def _payment(shown: dict[str, Any]) -> Payment:
    payer, payee = shown["requester_agent_id"], shown["delegate_agent_id"]
    return (payer, payee, to_micros(shown["charged_usd"]))


def balance(market: Market, agent_id: str) -> int:
    """Return an agent's balance in micro-USD."""
    client = market.client(owner_of(agent_id))
    account = client.request("GET", f"/v1/ledger/accounts/agent:{agent_id}").document
    return to_micros(account["balance_usd"])


def deadlocks(settings: Settings) -> int:
    """Return how many deadlocks a PostgreSQL database has seen; only once its servers have ended.

    A transaction that PostgreSQL undid for one is run again, so that no client sees it; but none
    need happen, because every transaction locks accounts in the order of their ids.
    """
    url = settings.url.set(drivername="postgresql").render_as_string(hide_password=False)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with psycopg.connect(url, autocommit=True) as connection:
        # What a connection has counted is published when it ends.
        wait_for(lambda: connection.execute(others).fetchone() == (1,))
        ((count,),) = connection.execute(counted).fetchall()
    return int(count)
