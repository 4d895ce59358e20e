"""Deliveries: retries, dead letters, replays, receivers that hang, several servers at once."""

from __future__ import annotations

import threading
import time as wall
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from sqlalchemy import event

from app import clock
from app.db import Database
from app.http.context import Services
from app.notification import deliveries as queue
from app.notification import queries, sender
from app.ops.deliverer import deliver_due
from tests.client import Api
from tests.notification.conftest import (
    WEBHOOKS,
    Clock,
    Receiver,
    deliveries,
    register,
    subscribe,
)

Deliver = Callable[[], dict[str, int]]


def ping(api: Api, webhook: dict[str, Any], times: int = 1) -> None:
    for _ in range(times):
        assert api.post(f"{WEBHOOKS}/{webhook['id']}/ping", {}).status_code == 200


def test_a_failure_is_tried_again_later_and_later_then_dead_and_can_be_replayed(
    acme: Api, receiver: Receiver, deliver: Deliver, time: Clock
) -> None:
    webhook = subscribe(acme, receiver.url)
    receiver.answer = lambda _: 500
    ping(acme, webhook)
    begun, waits = time.now, []
    for _ in range(9):
        assert deliver() == {"failed": 1}
        assert deliver() == {}
        (delivery,) = deliveries(acme, webhook, status="pending")
        moment = clock.datetime.fromisoformat(delivery["next_attempt_at"])
        waits.append(moment - time.now)
        time.now = moment
    assert deliver() == {"dead": 1}

    assert all(
        least <= wait <= 1.2 * least for wait, least in zip(waits, queue.RETRY_AFTER, strict=True)
    )
    assert timedelta(days=3) < time.now - begun < timedelta(days=4)
    (dead,) = deliveries(acme, webhook, status="dead")
    assert (dead["attempts"], dead["last_status"], dead["last_error"]) == (10, 500, "HTTP 500")
    assert dead["next_attempt_at"] is None
    assert acme.get(f"{WEBHOOKS}/{webhook['id']}").get_json()["failing_since"] is not None

    receiver.answer = lambda _: 200
    path = f"{WEBHOOKS}/{webhook['id']}/deliveries/{dead['id']}/replay"
    assert acme.post(path, {}).get_json()["status"] == "pending"
    assert deliver() == {"delivered": 1}
    assert len(set(receiver.ids)) == 1
    assert len({body for _, body in receiver.requests}) == 1
    (delivered,) = deliveries(acme, webhook)
    assert (delivered["status"], delivered["attempts"]) == ("delivered", 11)
    assert acme.get(f"{WEBHOOKS}/{webhook['id']}").get_json()["failing_since"] is None
    # A delivery that arrived can be asked for again, too.
    assert acme.post(path, {}).status_code == 200
    assert deliver() == {"delivered": 1}


def test_a_receiver_that_is_gone_is_left_alone(
    acme: Api, receiver: Receiver, deliver: Deliver, time: Clock
) -> None:
    webhook = subscribe(acme, receiver.url)
    receiver.answer = lambda _: 410
    ping(acme, webhook)
    assert deliver() == {"dead": 1}
    found = acme.get(f"{WEBHOOKS}/{webhook['id']}").get_json()
    assert (found["status"], found["disabled_reason"]) == (
        "disabled",
        "the receiver answered 410 Gone",
    )
    register(acme, "@acme:clerk")
    assert deliver() == {}
    path = f"{WEBHOOKS}/{webhook['id']}"
    found = acme.request("PATCH", path, json={"status": "active"}).get_json()
    assert (found["disabled_reason"], found["failing_since"]) == (None, None)


def test_a_receiver_that_fails_for_days_is_disabled(
    acme: Api, receiver: Receiver, deliver: Deliver, time: Clock
) -> None:
    webhook = subscribe(acme, receiver.url)
    receiver.answer = lambda _: 503
    for _ in range(6):
        ping(acme, webhook)
        deliver()
        time.advance(days=1)
    found = acme.get(f"{WEBHOOKS}/{webhook['id']}").get_json()
    assert found["status"] == "disabled"
    assert "5 days" in found["disabled_reason"]
    sent = len(receiver.requests)
    assert deliver() == {}
    assert len(receiver.requests) == sent


def test_no_redirect_is_followed(acme: Api, receiver: Receiver, deliver: Deliver) -> None:
    webhook = subscribe(acme, receiver.url)
    receiver.answer = lambda _: 307
    ping(acme, webhook)
    assert deliver() == {"failed": 1}
    assert len(receiver.requests) == 1
    (delivery,) = deliveries(acme, webhook)
    assert delivery["last_error"] == "HTTP 307"


def drip(handler: BaseHTTPRequestHandler) -> int:
    """Answer byte by byte, for ever."""
    try:
        while True:
            handler.wfile.write(b"X")
            handler.wfile.flush()
            wall.sleep(0.02)
    except OSError:
        return 0


def test_receivers_that_take_their_time_delay_nobody_else(
    acme: Api,
    make_receiver: Callable[[], Receiver],
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "TOTAL_SECONDS", 1.0)
    slow, quick = make_receiver(), make_receiver()
    slow.answer = drip
    hanging, prompt = subscribe(acme, slow.url), subscribe(acme, quick.url)
    ping(acme, hanging, times=9)
    ping(acme, prompt)
    counts: Counter[str] = Counter()

    def run() -> None:
        counts.update(deliver_due(services.database, services.pepper))

    worker = threading.Thread(target=run)
    worker.start()
    while not quick.requests:
        wall.sleep(0.01)
    assert len(slow.requests) <= queue.PER_SUBSCRIPTION
    # What comes up meanwhile does not wait for the next round either.
    ping(acme, prompt, times=2)
    while len(quick.requests) < 3:
        wall.sleep(0.01)
    assert len(slow.requests) <= queue.PER_SUBSCRIPTION
    worker.join(timeout=30)
    assert counts == {"delivered": 3, "failed": 9}
    assert {d["last_error"] for d in deliveries(acme, hanging)} == {"no answer in time"}


def test_several_servers_at_once_deliver_each_message_once(
    acme: Api, make_receiver: Callable[[], Receiver], services: Services
) -> None:
    receivers = [make_receiver() for _ in range(3)]
    webhooks = [subscribe(acme, receiver.url) for receiver in receivers]
    for webhook in webhooks:
        ping(acme, webhook, times=10)
    databases = [Database(services.settings) for _ in range(3)]
    totals: list[Counter[str]] = []
    workers = [
        threading.Thread(
            target=lambda database=database: totals.append(deliver_due(database, services.pepper))
        )
        for database in databases
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    for database in databases:
        database.dispose()

    assert sum(totals, Counter()) == {"delivered": 30}
    for receiver in receivers:
        assert len(receiver.ids) == len(set(receiver.ids)) == 10


def test_a_server_that_dies_before_it_recorded_leaves_the_delivery_to_others(
    acme: Api, receiver: Receiver, deliver: Deliver, services: Services, time: Clock
) -> None:
    webhook = subscribe(acme, receiver.url)
    ping(acme, webhook)

    def claim() -> queue.Claim:
        with services.database.transaction() as session:
            (found,) = queue.claim(session, {webhook["id"]: 20})
        return found

    lost = claim()
    assert deliver() == {}
    time.advance(seconds=60)
    late = claim()
    assert (lost.message_id, lost.attempt, late.attempt) == (late.message_id, 1, 2)
    time.advance(seconds=60)
    assert deliver() == {"delivered": 1}

    # What the first two servers have to say no longer matters.
    with services.database.transaction() as session:
        assert (
            queue.record(session, [queue.Outcome(one, 500, "HTTP 500") for one in (lost, late)])
            == []
        )
    (delivery,) = deliveries(acme, webhook)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 3)


def test_a_webhook_that_is_gone_meanwhile_is_no_fault(
    acme: Api, receiver: Receiver, services: Services
) -> None:
    webhook = subscribe(acme, receiver.url)
    ping(acme, webhook)
    with services.database.transaction() as session:
        (claim,) = queue.claim(session, {webhook["id"]: 20})
    assert acme.delete(f"{WEBHOOKS}/{webhook['id']}").status_code == 200
    with services.database.transaction() as session:
        assert queue.record(session, [queue.Outcome(claim, 204, None)]) == []


def test_what_is_finished_is_dropped_after_some_time(
    acme: Api, receiver: Receiver, deliver: Deliver, services: Services, time: Clock
) -> None:
    kept, gone = subscribe(acme, receiver.url), subscribe(acme, receiver.url)
    ping(acme, kept)
    receiver.answer = lambda _: 410
    ping(acme, gone)
    # The one is delivered before the other receiver is heard.
    answers = iter((204, 410))
    receiver.answer = lambda _: next(answers)
    assert sum(deliver().values()) == 2

    def remaining() -> tuple[int, int]:
        with services.database.transaction() as session:
            queue.prune(session)
        with services.database.read() as connection:
            counts = [
                connection.exec_driver_sql(f"SELECT count(*) FROM notification_{name}").scalar()
                for name in ("deliveries", "events")
            ]
        return counts[0], counts[1]

    assert remaining() == (2, 2)
    time.advance(days=7)
    assert remaining() == (1, 1)
    time.advance(days=23)
    assert remaining() == (0, 0)


def test_nothing_is_sent_where_the_setting_no_longer_allows_it(
    acme: Api, receiver: Receiver, services: Services
) -> None:
    webhook = subscribe(acme, receiver.url)
    ping(acme, webhook)
    database = Database(replace(services.settings, webhook_allow_private=False))
    assert deliver_due(database, services.pepper) == {"failed": 1}
    database.dispose()
    assert receiver.requests == []
    (delivery,) = deliveries(acme, webhook)
    assert delivery["last_error"] == "expected a URL that begins with https://"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_what_is_counted_is_in_small_indexes(services: Services) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    with services.database.read() as connection:
        event.listen(connection, "before_cursor_execute", note)
        queries.count_waiting(connection)
        queries.count_dead(connection, clock.now(), limit=10)
        event.remove(connection, "before_cursor_execute", note)
        plans = []
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append(" ".join(str(row[3]) for row in plan))
    waiting, dead = plans
    assert "subscription_id_next_attempt_at" in waiting
    assert "ix_notification_deliveries_dead" in waiting
    assert "ix_notification_deliveries_dead" in dead
