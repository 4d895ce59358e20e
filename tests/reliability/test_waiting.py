"""Requests that wait for a change, and streams of events, on a server of two processes."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from app.access.service import revoke_key
from tests.conftest import DIALECTS, PEPPER
from tests.delegation.conftest import DELEGATIONS, request
from tests.registry.manifests import build_manifest
from tests.reliability.abuse import Owner
from tests.reliability.server import Answer, Client, Server, make_client, opened, wait_for

# Longer than any of these tests: whoever gets an answer did not wait until the end.
LONG = 30


class Pair:
    """A requester with money and a delegate of another owner, whom nobody else knows."""

    numbers = itertools.count()

    def __init__(self, server: Server) -> None:
        number = next(self.numbers)
        requester, delegate = f"acme-{number}", f"globex-{number}"
        self.requester = make_client(server, requester)
        self.delegate = make_client(server, delegate)
        self.clerk, self.reader = f"@{requester}:clerk", f"@{delegate}:reader"
        for client, agent_id in ((self.requester, self.clerk), (self.delegate, self.reader)):
            namespace, _, slug = agent_id.partition(":")
            body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
            assert client.request("POST", "/v1/agents", body).status == 200

    def offer(self, **changes: Any) -> str:
        """Offer a task and return its id."""
        sides = {"requester_agent_id": self.clerk, "delegate_agent_id": self.reader}
        body = request(execution="remote", **sides, **changes)
        answer = self.requester.request("POST", DELEGATIONS, body)
        assert answer.status == 200, answer.body
        return str(answer.document["delegation_id"])

    def claim(self, seconds: int = 0, key: str | None = None) -> Answer:
        """Ask for a task, waiting for one if need be."""
        body = {"agent_id": self.reader, "wait_seconds": seconds}
        return self.delegate.request("POST", f"{DELEGATIONS}/claim", body, key)

    def give(self, task: dict[str, Any], command: str, **members: Any) -> None:
        """Give a command of the delegate that holds a task."""
        body = {"lease_token": task["lease_token"], **members}
        path = f"{DELEGATIONS}/{task['delegation_id']}/{command}"
        assert self.delegate.request("POST", path, body).status == 200


@pytest.fixture(scope="module", params=DIALECTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose agents begin with money, shared by the tests of this module."""
    folder = tmp_path_factory.mktemp("waiting")
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "agenthub.db")
        url = f"sqlite:///{folder / 'agenthub.db'}"
    else:
        name = request.getfixturevalue("postgresql_copies").take()
        url = request.getfixturevalue("postgres").url(name)
    one = Server(url, folder, OPENING_CREDIT_USD=1000, LOG_LEVEL="info").start()
    yield one
    one.end()


@pytest.fixture
def pair(server: Server) -> Pair:
    return Pair(server)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def assert_waits(*futures: Future[Any]) -> None:
    """Fail where one of these was answered although nothing has happened."""
    threading.Event().wait(1.2)
    assert not any(one.done() for one in futures)


def test_a_claim_waits_for_a_task(pair: Pair, server: Server, pool: ThreadPoolExecutor) -> None:
    """Of six workers that wait, at either process, each task goes to one."""
    workers = [pool.submit(pair.claim, LONG) for _ in range(6)]
    assert_waits(*workers)
    offered = {pair.offer() for _ in range(6)}
    answers = [one.result(LONG - 10) for one in workers]
    assert {one.document["delegation_id"] for one in answers} == offered
    # However often each was looked at again, it was one request.
    claims = [line for line in server.log.splitlines() if '"/v1/delegations/claim"' in line]
    assert (
        len([line for line in claims if f'"owner": "{pair.reader[1:].split(":")[0]}"' in line]) == 6
    )


def test_a_claim_that_waited_in_vain_leaves_its_key_unused(pair: Pair) -> None:
    refused = pair.claim(1, "one key")
    assert (refused.status, refused.document["code"]) == (404, "no_task_offered")
    pair.offer()
    # The same request, which finds a task this time.
    taken = pair.claim(1, "one key")
    assert taken.status == 200
    again = pair.claim(1, "one key")
    assert (again.body, again.is_replay) == (taken.body, True)


def test_a_worker_that_went_away_takes_nothing(pair: Pair, server: Server) -> None:
    body = json.dumps({"agent_id": pair.reader, "wait_seconds": LONG}).encode()
    head = (
        f"POST {DELEGATIONS}/claim HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: gone\r\n"
        f"X-API-Key: {pair.delegate.api_key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as one:
        one.sendall(head.encode() + body)
        threading.Event().wait(0.5)
    threading.Event().wait(0.5)
    pair.offer()
    threading.Event().wait(1.0)
    assert pair.claim().status == 200


def test_a_task_that_was_left_wakes_who_waits(pair: Pair, pool: ThreadPoolExecutor) -> None:
    delegation_id = pair.offer(lease_seconds=1)
    assert pair.claim().status == 200
    taken = pool.submit(pair.claim, LONG).result(LONG - 10)
    assert taken.document["delegation_id"] == delegation_id
    assert taken.document["silent_takeovers"] == 1


def test_a_read_waits_for_what_happens(pair: Pair, pool: ThreadPoolExecutor) -> None:
    path = f"{DELEGATIONS}/{pair.offer()}"

    def read(seconds: int, tag: str | None = None) -> Answer:
        headers = {"If-None-Match": tag} if tag else {}
        query = f"{path}?wait_seconds={seconds}"
        return pair.requester.request("GET", query, headers=headers, timeout=40)

    first = read(0)
    assert first.document["status"] == "offered"
    waiting = [pool.submit(read, LONG, tag) for tag in (None, first.headers["etag"])]
    assert_waits(*waiting)
    task = pair.claim().document
    for one in waiting:
        assert one.result(LONG - 10).document["status"] == "in_progress"
    # What the caller does not know yet is told at once.
    second = read(LONG, first.headers["etag"])
    assert second.document["status"] == "in_progress"
    # What is metered is news, too; a sign of life is none.
    waiting = [pool.submit(read, LONG, second.headers["etag"]), pool.submit(read, LONG)]
    pair.give(task, "heartbeat")
    assert_waits(*waiting)
    pair.give(task, "meter", events=[{"event_id": "one", "cost_usd": 1}])
    assert [one.result(LONG - 10).document["actual_cost_usd"] for one in waiting] == [1, 1]
    # Nothing happens: the state as it is known, or as it is.
    third = read(0)
    assert read(1, third.headers["etag"]).status == 304
    assert read(1).document["actual_cost_usd"] == 1
    pair.give(task, "deliver", output={"total": 1})
    delivered = read(LONG, third.headers["etag"]).document
    assert (delivered["status"], delivered["deliverable"]) == (
        "delivered",
        {"output": {"total": 1}},
    )
    accepted = pair.requester.request("POST", f"{path}/accept-result", {})
    assert accepted.document["settlement"] == "settled"
    # Nothing more will happen.
    assert read(LONG).document["status"] == "completed"


@contextmanager
def stream(client: Client, path: str, last: str | None = None) -> Iterator[HTTPResponse]:
    """Open a stream of events."""
    connection = HTTPConnection("127.0.0.1", client.port, timeout=LONG)
    headers = {"X-API-Key": client.api_key} | ({"Last-Event-ID": last} if last else {})
    with closing(connection):
        connection.request("GET", path, headers=headers)
        yield connection.getresponse()


def events(response: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a stream: their ids and data."""
    name = ""
    while line := response.readline():
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "id":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_events_are_streamed_as_they_happen(pair: Pair, server: Server) -> None:
    delegation_id = pair.offer()
    path = f"{DELEGATIONS}/{delegation_id}/events/stream"
    with stream(pair.requester, path) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        found = events(response)
        assert next(found)[1]["kind"] == "created"
        task = pair.claim().document
        name, accepted = next(found)
        assert (name, accepted["number"], accepted["kind"]) == ("2", 2, "accepted")
        # Of the other side's keys nothing is told.
        assert accepted["key_id"] is None
        pair.give(task, "deliver", output={})
        assert next(found)[1]["kind"] == "delivered"
        pair.requester.request("POST", f"{DELEGATIONS}/{delegation_id}/accept-result", {})
        assert next(found)[1]["kind"] == "closed"
        # It ends with what settles the delegation.
        assert list(found) == []
    with stream(pair.delegate, path, last="2") as response:
        assert [one["number"] for _, one in events(response)] == [3, 4]
    with stream(pair.delegate, path, last="4") as response:
        assert (response.status, response.read()) == (204, b"")
    with stream(pair.delegate, path, last="four") as response:
        assert (response.status, json.loads(response.read())["code"]) == (422, "validation_failed")
    # Who asks for the header alone is not kept.
    assert pair.requester.request("HEAD", path, timeout=5).body == b""
    other = f"{DELEGATIONS}/{pair.offer()}/events/stream"
    assert pair.requester.request("HEAD", other, timeout=5).body == b""
    with stream(make_client(server, "initech"), path) as response:
        assert response.status == 403


def test_who_may_read_no_longer_is_sent_nothing_more(pair: Pair, server: Server) -> None:
    delegation_id = pair.offer()
    with stream(pair.requester, f"{DELEGATIONS}/{delegation_id}/events/stream") as response:
        found = events(response)
        next(found)
        with opened(server) as database, database.transaction() as session:
            revoke_key(session, PEPPER.encode(), pair.requester.api_key.split("_")[1])
        assert pair.claim().status == 200
        assert list(found) == []


def test_a_server_that_stops_answers_who_waits(
    make_server: Callable[..., Server], pool: ThreadPoolExecutor
) -> None:
    server = make_server().start()
    pair = Pair(server)
    workers = [pool.submit(pair.claim, LONG) for _ in range(8)]
    assert_waits(*workers)
    server.terminate()
    assert server.wait(20) == 0
    assert {one.result(5).status for one in workers} == {404}


@pytest.mark.alone
def test_many_who_wait_disturb_nobody(pair: Pair, server: Server) -> None:
    """Five hundred clients of one key wait; another owner goes on, and each gets its task."""
    owner = Owner(make_client(server, "victim"))
    undisturbed = owner.probe(1.5)
    body = json.dumps({"agent_id": pair.reader, "wait_seconds": LONG}).encode()
    sockets = []
    try:
        for number in range(500):
            head = (
                f"POST {DELEGATIONS}/claim HTTP/1.1\r\nHost: localhost\r\n"
                f"Idempotency-Key: {number}-{uuid.uuid4().hex}\r\n"
                f"X-API-Key: {pair.delegate.api_key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            one = socket.create_connection(("127.0.0.1", server.port), 5)
            one.sendall(head.encode() + body)
            sockets.append(one)
        owner.goes_on_as(undisturbed, 1.5)
        offered = {pair.offer(estimated_cost_usd=1) for _ in range(20)}
        taken: set[str] = set()

        def collect() -> bool:
            for one in sockets:
                one.settimeout(0.001)
                try:
                    answer = one.recv(65536)
                except TimeoutError:
                    continue
                if answer.startswith(b"HTTP/1.1 200"):
                    taken.add(json.loads(answer.partition(b"\r\n\r\n")[2])["delegation_id"])
            return taken == offered

        wait_for(collect, 20)
    finally:
        for one in sockets:
            one.close()
