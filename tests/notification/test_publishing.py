"""What is written down for webhooks: everything that happens, with it or not at all."""

from __future__ import annotations

import threading
import time as wall
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from app.http.context import Services
from app.notification import service
from app.notification.events import EVENT_TYPES
from app.ops.maintenance import sweep
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, accept
from tests.notification.conftest import (
    WEBHOOKS,
    Clock,
    Receiver,
    delegate,
    deliveries,
    register,
    subscribe,
)
from tests.registry.manifests import build_manifest


def offer(api: Api, **changes: Any) -> str:
    return str(
        delegate(api, execution="remote", estimated_cost_usd=10, max_budget_usd=20, **changes)[
            "delegation_id"
        ]
    )


def types(api: Api, webhook: dict[str, Any]) -> list[str]:
    """Return the types of the messages to a webhook, oldest first."""
    return [one["message"]["type"] for one in reversed(deliveries(api, webhook))]


def test_registry_events_are_told(acme: Api, receiver: Receiver) -> None:
    webhook = subscribe(acme, receiver.url)
    register(acme, "@acme:clerk")
    agent = "/v1/agents/@acme:clerk"
    acme.post(f"{agent}/fork", {"namespace": "@acme", "new_slug": "copy"})
    result = {"suite": "s", "metrics": {"m": 1}, "cases": {"passed": 1, "total": 3}}
    acme.post(f"{agent}/versions/1.0.0/evals", result)
    acme.put(agent, {"manifest": build_manifest("clerk", "1.1.0")})
    acme.delete(agent)
    acme.delete(agent)
    acme.put(agent, {"manifest": build_manifest("clerk", "1.2.0")})
    assert acme.put(agent, {"manifest": build_manifest("clerk", "1.2.0")}).status_code == 409

    assert [
        (one["message"]["type"], one["message"]["data"])
        for one in reversed(deliveries(acme, webhook))
        if one["message"]["type"] != "evaluation.recorded"
    ] == [
        ("agent.registered", {"agent_id": "@acme:clerk", "version": "1.0.0"}),
        (
            "agent.registered",
            {"agent_id": "@acme:copy", "version": "1.0.0", "forked_from": "@acme:clerk"},
        ),
        ("version.published", {"agent_id": "@acme:clerk", "version": "1.1.0"}),
        ("agent.status_changed", {"agent_id": "@acme:clerk", "status": "deprecated"}),
        ("version.published", {"agent_id": "@acme:clerk", "version": "1.2.0"}),
        ("agent.status_changed", {"agent_id": "@acme:clerk", "status": "active"}),
    ]
    assert "evaluation.recorded" in types(acme, webhook)


@pytest.mark.usefixtures("agents")
def test_every_event_of_every_delegation_is_told_to_both_sides(
    acme: Api,
    globex: Api,
    operator: Api,
    receiver: Receiver,
    services: Services,
    time: Clock,
) -> None:
    webhooks = [(api, subscribe(api, receiver.url)) for api in (acme, globex)]

    # Inline: settled, paused, reauthorized; a batch.
    delegate(acme)
    paused = delegate(
        acme, estimated_cost_usd=1, auto_reauthorize=False, simulated_actual_cost_usd=1.1
    )["delegation_id"]
    acme.post(f"{DELEGATIONS}/{paused}/reauthorize", {"new_estimate_usd": 1.5})
    body = {
        "requester_agent_id": CLERK,
        "delegate_agent_id": READER,
        "task_spec": "Read the invoices of November",
        "estimated_cost_usd": 1,
        "max_budget_usd": 2,
    }
    assert acme.post(f"{DELEGATIONS}/batch", {"delegations": [body, body]}).status_code == 200
    # Remote: everything that can happen on the way to a dispute.
    worker = accept(globex, offer(acme, auto_reauthorize=False))
    worker.meter(8.5, 2.5)
    acme.post(f"{worker.path}/reauthorize", {"new_estimate_usd": 15})
    worker.send("ask", question="Which?")
    acme.post(f"{worker.path}/answer", {"answer": "That"})
    worker.send("deliver", output=1)
    acme.post(f"{worker.path}/dispute", {"reason": "wrong"})
    operator.post(f"{worker.path}/resolve", {"charge_usd": 1, "reason": "half"})
    # Hard stops, a cancellation, a takeover, a decline, a lapse by a command and by the sweeper.
    stopped, contested = (accept(globex, offer(acme)) for _ in range(2))
    for one in (stopped, contested):
        one.meter(13)
    acme.post(f"{stopped.path}/accept-result", {})
    acme.post(f"{contested.path}/dispute", {"reason": "nothing was delivered"})
    cancelled = accept(globex, offer(acme))
    acme.post(f"{cancelled.path}/cancel", {"reason": "later"})
    cancelled.send("cancel")
    taken = offer(acme)
    accept(globex, taken)
    time.advance(seconds=61)
    assert globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}).status_code == 200
    globex.post(f"{DELEGATIONS}/{offer(acme)}/decline", {"reason": "no"})
    late = offer(acme, accept_within_seconds=5)
    time.advance(seconds=6)
    assert globex.post(f"{DELEGATIONS}/{late}/accept", {}).status_code == 409
    time.advance(hours=2)
    assert sweep(services.database) == [taken]
    time.advance(days=7)
    assert contested.path.rpartition("/")[2] in sweep(services.database)

    with services.database.read() as connection:
        happened = {
            (row[0], row[1], f"delegation.{row[2]}")
            for row in connection.exec_driver_sql(
                "SELECT delegation_id, number, kind FROM delegation_events"
            )
        }
    for api, webhook in webhooks:
        told = [one["message"] for one in deliveries(api, webhook)]
        found = [(m["data"]["delegation_id"], m["data"]["number"], m["type"]) for m in told]
        assert len(found) == len(set(found))
        assert set(found) == happened
    assert {kind for *_, kind in happened} == {
        name for name in EVENT_TYPES if name.startswith("delegation.")
    }


@pytest.mark.usefixtures("agents")
def test_one_owner_on_both_sides_is_told_once(acme: Api, receiver: Receiver) -> None:
    register(acme, "@acme:reader")
    webhook = subscribe(acme, receiver.url, "delegation.closed")
    created = delegate(acme, delegate_agent_id="@acme:reader")
    (delivery,) = deliveries(acme, webhook)
    assert delivery["message"]["data"] == {
        "delegation_id": created["delegation_id"],
        "number": 5,
        "status": "completed",
        "execution": "inline",
        "requester_agent_id": CLERK,
        "delegate_agent_id": "@acme:reader",
        "actor": CLERK,
        "details": {"charged_usd": 0.92, "refunded_usd": 0.08},
    }


@pytest.mark.usefixtures("agents")
def test_what_did_not_happen_is_not_told(
    acme: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = subscribe(acme, receiver.url)
    body = {"namespace": "@acme", "manifest": build_manifest(slug="clerk")}
    assert acme.post("/v1/agents", body).status_code == 409
    assert delegate_refused(acme) == 400

    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.idempotency.service.store_answer", fail)
    assert acme.delete("/v1/agents/@acme:clerk").status_code == 500
    assert types(acme, webhook) == []


def delegate_refused(api: Api) -> int:
    """Ask for more than there is."""
    body = {
        "requester_agent_id": CLERK,
        "delegate_agent_id": READER,
        "task_spec": "Read everything",
        "estimated_cost_usd": 5000,
        "max_budget_usd": 5000,
    }
    return api.post(DELEGATIONS, body).status_code


@contextmanager
def statements(services: Services) -> Iterator[list[str]]:
    """Note the statements of writing transactions."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(services.database.writer, "before_cursor_execute", note)
    yield seen
    event.remove(services.database.writer, "before_cursor_execute", note)


@pytest.mark.usefixtures("agents")
def test_a_delegation_that_nobody_wants_to_know_of_costs_one_look(
    acme: Api, services: Services, receiver: Receiver, caller: Callable[..., Api]
) -> None:
    subscribe(caller("initech"), receiver.url)
    with statements(services) as seen:
        delegate(acme)
    assert len([statement for statement in seen if "notification_" in statement]) == 1
    with statements(services) as seen:
        subscribe(acme, receiver.url)
        delegate(acme)
    inserts = [s for s in seen if s.startswith("INSERT INTO notification_")]
    assert len(inserts) == 1 + 2


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_no_event_after_the_acknowledgement_is_missed(
    acme: Api, receiver: Receiver, services: Services
) -> None:
    """A transaction looks for webhooks, finds none, and ends late: who subscribes meanwhile waits.

    So its end comes before the acknowledgement; else its event would be one that was missed.
    """
    with services.database.read() as connection:
        owner_id = connection.exec_driver_sql("SELECT id FROM access_owners").scalar_one()
    looked, end = threading.Event(), threading.Event()
    order: list[str] = []

    def write() -> None:
        with services.database.transaction() as session:
            service.publish(session, [owner_id], [])
            looked.set()
            end.wait(10)
            order.append("ended")

    def make() -> None:
        subscribe(acme, receiver.url)
        order.append("acknowledged")

    threads = [threading.Thread(target=write), threading.Thread(target=make)]
    threads[0].start()
    assert looked.wait(10)
    threads[1].start()
    wall.sleep(0.3)
    assert order == []
    end.set()
    for thread in threads:
        thread.join(10)
    assert order == ["ended", "acknowledged"]


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_who_looks_while_a_webhook_is_made_waits_and_finds_it(
    acme: Api, receiver: Receiver, services: Services
) -> None:
    with services.database.read() as connection:
        owner_id = connection.exec_driver_sql("SELECT id FROM access_owners").scalar_one()
    found: list[int] = []

    def write() -> None:
        with services.database.transaction() as session:
            # Its snapshot, if it had only one, would be older than the webhook.
            session.execute(service.select(1))
            found.append(len(service._find_subscriptions(session, [owner_id])))

    with services.database.transaction() as session:
        service.subscribe(session, owner_id, receiver.url, ["*"], "")
        thread = threading.Thread(target=write)
        thread.start()
        wall.sleep(0.3)
        assert found == []
    thread.join(10)
    assert found == [1]


@pytest.mark.usefixtures("agents")
def test_webhooks_come_and_go_while_delegations_are_made(
    acme: Api, receiver: Receiver, caller: Callable[..., Api]
) -> None:
    again = [caller("acme") for _ in range(3)]
    statuses: list[int] = []

    def trade(api: Api) -> None:
        for _ in range(6):
            delegate(api, estimated_cost_usd=0.1)

    def manage(api: Api) -> None:
        for _ in range(6):
            webhook = subscribe(api, receiver.url)
            statuses.append(api.delete(f"{WEBHOOKS}/{webhook['id']}").status_code)

    threads = [
        threading.Thread(target=target, args=(api,))
        for target, api in zip((trade, trade, manage), again, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 6
