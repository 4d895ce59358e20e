"""No owner keeps others from being told: slots are shared, and names are looked up apart."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.context import Services
from app.notification import lookups, sender
from app.notification.addresses import AddressRefused, parse_url
from app.notification.deliveries import PER_SUBSCRIPTION, Claim, share
from app.notification.lookups import Lookups, LookupsBusy
from app.ops.deliverer import SLOTS, deliver_due
from tests.client import Api
from tests.notification.conftest import WEBHOOKS, Receiver, deliveries, subscribe
from tests.reliability.server import wait_for


def claimed(owner_id: str, subscription_id: str) -> Claim:
    return Claim("", 1, subscription_id, owner_id, "", "", (), "")


def due_of(*counts: int) -> list[tuple[str, str]]:
    """Return due subscriptions: so many of each owner."""
    return [
        (f"o{owner}", f"o{owner}-{number}")
        for owner, count in enumerate(counts)
        for number in range(count)
    ]


def by_owner(wanted: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for subscription_id, count in wanted.items():
        found[subscription_id.partition("-")[0]] += count
    return found


@pytest.mark.parametrize(
    ("webhooks", "slots", "expected"),
    [
        ((20,), 20, {"o0": 10}),
        ((20, 20), 20, {"o0": 7, "o1": 7}),
        ((20, 1), 20, {"o0": 8, "o1": 4}),
        ((20, 20, 20), 20, {"o0": 5, "o1": 5, "o2": 5}),
        ((1,), 20, {"o0": 4}),
        ((), 20, {}),
    ],
)
def test_slots_are_shared_among_owners(
    webhooks: tuple[int, ...], slots: int, expected: dict[str, int]
) -> None:
    assert by_owner(share(due_of(*webhooks), [], slots)) == expected


def test_the_webhooks_of_an_owner_take_turns() -> None:
    assert set(share(due_of(20), [], 20).values()) == {1}


@given(st.lists(st.integers(0, 20), max_size=6), st.lists(st.integers(0, 20), max_size=6))
def test_there_is_a_slot_for_whoever_comes_next(first: list[int], second: list[int]) -> None:
    under_way: list[Claim] = []
    for webhooks in (first, second):
        for subscription_id, count in share(due_of(*webhooks), under_way, 20).items():
            owner = subscription_id.partition("-")[0]
            under_way += [claimed(owner, subscription_id)] * count
    busy = Counter(claim.subscription_id for claim in under_way)
    assert max(busy.values(), default=0) <= PER_SUBSCRIPTION
    assert len(under_way) < 20
    newcomer = share([("new", "new-0")], under_way, 20)
    assert newcomer["new-0"] >= 1


def ping(api: Api, webhook: dict[str, Any], times: int = 1) -> None:
    for _ in range(times):
        assert api.post(f"{WEBHOOKS}/{webhook['id']}/ping", {}).status_code == 200


def test_an_owner_whose_receivers_all_hang_delays_nobody(
    acme: Api,
    globex: Api,
    make_receiver: Callable[[], Receiver],
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "TOTAL_SECONDS", 30.0)
    hanging, quick = make_receiver(), make_receiver()
    gone = threading.Event()

    def hang(_: BaseHTTPRequestHandler) -> int:
        gone.wait(30)
        return 204

    hanging.answer = hang
    webhooks = [subscribe(acme, hanging.url) for _ in range(20)]
    for webhook in webhooks:
        ping(acme, webhook, times=5)
    prompt = subscribe(globex, quick.url)
    worker = threading.Thread(target=lambda: deliver_due(services.database, services.pepper))
    worker.start()
    wait_for(lambda: len(hanging.requests) == SLOTS // 2)
    ping(globex, prompt, times=2)
    wait_for(lambda: len(quick.requests) == 2)
    # Not one of the others has ended meanwhile.
    assert len(hanging.requests) == SLOTS // 2
    gone.set()
    worker.join(timeout=60)
    assert len(hanging.requests) == 100


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that says nothing about names below ``silent.test`` until the event is set."""
    ended = threading.Event()
    original = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if str(host).endswith(".silent.test") and not named.get("flags"):
            ended.wait(30)
            host = "127.0.0.1"
        if str(host).endswith(".known.test") and not named.get("flags"):
            host = "127.0.0.1"
        return original(host, port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(lookups, "DEADLINE_SECONDS", 0.1)
    yield ended
    ended.set()


def test_a_name_whose_servers_are_silent_is_refused(
    acme: Api, globex: Api, silence: threading.Event, services: Services
) -> None:
    def make(api: Api, name: str) -> Any:
        return api.post(WEBHOOKS, {"url": f"http://{name}/", "event_types": ["*"]})

    for number in range(2):
        refused = make(acme, f"n{number}.silent.test")
        assert (refused.status_code, refused.get_json()["errors"][0]["pointer"]) == (422, "/url")
    # The resolver is still at both, and asks for no third one of the same owner.
    busy = make(acme, "n2.silent.test")
    assert (busy.status_code, busy.get_json()["code"]) == (429, "too_many_lookups")
    assert int(busy.headers["Retry-After"]) > 0
    # Others, and addresses for which nobody is asked, are not concerned.
    made = make(acme, "127.0.0.1:9")
    assert made.status_code == 200
    path = f"{WEBHOOKS}/{made.get_json()['id']}"
    change = acme.request("PATCH", path, json={"url": "http://a.silent.test/"})
    assert change.status_code == 429
    assert make(globex, "n.known.test").status_code == 200
    silence.set()
    wait_for(lambda: make(acme, "n3.known.test").status_code == 200)


def test_no_more_callers_wait_than_may(silence: threading.Event) -> None:
    found = Lookups(per_owner=5, total=10, waiting=1)
    target = parse_url("http://n.silent.test/", allow_private=True)
    outcomes: Counter[type[Exception]] = Counter()

    def look(owner_id: str) -> None:
        try:
            found.resolve(owner_id, target, allow_private=True)
        except (AddressRefused, LookupsBusy) as error:
            outcomes[type(error)] += 1

    lookups.DEADLINE_SECONDS = 5.0
    first = threading.Thread(target=look, args=("a",))
    first.start()
    wait_for(lambda: bool(found._waited_for))
    look("b")
    assert outcomes == {LookupsBusy: 1}
    silence.set()
    first.join()
    look("b")
    assert outcomes == {LookupsBusy: 1}


def test_lookups_that_end_soon_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "PATIENCE_SECONDS", 20.0)
    turn = threading.Event()
    original = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if named.get("flags"):
            return original(host, port, *arguments, **named)
        turn.wait(20)
        return original("127.0.0.1", port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = Lookups(per_owner=1, total=10)
    target = parse_url("http://n.known.test/", allow_private=True)
    answers: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(found.resolve("a", target, allow_private=True))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    turn.set()
    for thread in threads:
        thread.join()
    assert answers == [["127.0.0.1"]] * 3


def test_a_silent_resolver_holds_no_slot_and_nobody_elses_messages(
    acme: Api,
    globex: Api,
    receiver: Receiver,
    silence: threading.Event,
    services: Services,
) -> None:
    prompt = subscribe(globex, f"http://n.known.test:{receiver.port}/")
    webhooks = [subscribe(acme, f"http://n{number}.known.test/") for number in range(12)]
    for webhook in webhooks:
        path = f"{WEBHOOKS}/{webhook['id']}"
        with services.database.transaction() as session:
            session.connection().exec_driver_sql(
                "UPDATE notification_subscriptions SET url = replace(url, 'known', 'silent')"
                f" WHERE id = '{webhook['id']}'"
            )
        assert ".silent.test" in acme.get(path).get_json()["url"]
        ping(acme, webhook, times=4)
    ping(globex, prompt)
    counts: Counter[str] = Counter()
    worker = threading.Thread(
        target=lambda: counts.update(deliver_due(services.database, services.pepper))
    )
    worker.start()
    wait_for(lambda: bool(receiver.requests))
    ping(globex, prompt)
    wait_for(lambda: len(receiver.requests) == 2)
    worker.join(timeout=60)
    # The resolver is still silent, and every attempt has ended.
    assert not silence.is_set()
    assert counts == {"delivered": 2, "failed": 48}
    assert {d["last_error"] for webhook in webhooks for d in deliveries(acme, webhook)} == {
        "the name has no address",
        "too many of the owner's names are being looked up",
    }
