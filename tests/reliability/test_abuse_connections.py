"""Clients that are slow, idle or many: nobody else waits for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text

from tests.reliability.abuse import Owner, attack, connections, drip, repeat
from tests.reliability.server import Answer, Client, Server, make_client, opened, wait_for

SECONDS = 1.5


def head(path: str, length: int, *lines: str) -> bytes:
    """Return a POST's line and headers."""
    fields = ["Host: 127.0.0.1", f"Content-Length: {length}", *lines]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields, "", ""]).encode()


FORM = "Content-Type: application/x-www-form-urlencoded"
SIGN_IN = head("/operator/sign-in", 60_000, FORM)
SLOW_BODY = head("/v1/agents", 100_000, "Content-Type: application/json")
HALF_HEADER = b"GET /v1/agents HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


@pytest.fixture
def busy_server(make_server: Callable[..., Server]) -> Server:
    """A server as it comes, but for its rate limits."""
    return make_server().start()


@pytest.mark.alone
def test_slow_and_idle_clients_disturb_nobody(busy_server: Server) -> None:
    """The attack of strangers: no key, 555 connections, a byte a second on each that sends."""
    port = busy_server.port
    owner = Owner(make_client(busy_server, "victim"))
    attacker = make_client(busy_server, "attacker")
    with_key = head(
        "/v1/agents",
        1000,
        f"X-API-Key: {attacker.api_key}",
        "Idempotency-Key: k",
        "Content-Type: application/json",
    )
    undisturbed = owner.probe(SECONDS)
    with (
        connections(port, 5, SIGN_IN) as forms,
        connections(port, 300),
        connections(port, 200, HALF_HEADER) as headers,
        connections(port, 50, SLOW_BODY) as bodies,
        connections(port, 4, with_key + b"{") as halves,
        attack(lambda stop: drip([*forms, *headers, *bodies, *halves], stop)),
    ):
        owner.goes_on_as(undisturbed, 2 * SECONDS)


@pytest.mark.alone
def test_a_flood_of_requests_disturbs_nobody(busy_server: Server) -> None:
    """Eight clients of a stranger ask without pause; an owner's requests take turns with them."""
    owner = Owner(make_client(busy_server, "victim"))
    undisturbed = owner.probe(SECONDS)
    stranger = Client(busy_server.port)
    with attack(repeat(lambda: stranger.request("GET", "/v1/agents?limit=100"), threads=8)):
        owner.goes_on_as(undisturbed, SECONDS)


def test_requests_that_wait_leave_a_thread_to_others(
    make_server: Callable[..., Server],
) -> None:
    """A key whose writes all wait for the database holds up neither health nor another's reads."""
    server = make_server(WORKERS=1).start()
    owner = Owner(make_client(server, "victim"))
    slow = Owner(make_client(server, "attacker"), "attacker")
    _, method, path, body = slow.requests()[-1]
    lock = "UPDATE registry_agents SET revision = revision"
    with (
        opened(server) as database,
        database.writer.connect() as connection,
        connection.begin() as transaction,
    ):
        connection.execute(text(lock))
        with attack(repeat(lambda: slow.client.request(method, path, body), threads=20)):
            time.sleep(0.5)
            for _ in range(20):
                for _, verb, read, _ in owner.requests()[:2]:
                    assert owner.client.request(verb, read, timeout=3).status == 200
            transaction.rollback()


def test_too_many_connections_shut_out_nobody(make_server: Callable[..., Server]) -> None:
    server = make_server(MAX_CONNECTIONS=50, WORKERS=1).start()
    client = make_client(server)
    with connections(server.port, 300) as idle:
        for _ in range(20):
            assert client.request("GET", "/v1/agents", timeout=5).status == 200
        # Of those that only wait, the oldest went.
        assert wait_for(lambda: ended(idle[0])) is None
        assert not ended(idle[-1])
    assert client.request("GET", "/v1/agents").status == 200


def ended(one: socket.socket) -> bool:
    """Tell whether the server has closed a connection on which nothing was sent."""
    one.settimeout(0.01)
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.fixture
def quick_server(make_server: Callable[..., Server]) -> Server:
    """A server with deadlines of a second."""
    limits = {"HEADER_SECONDS": 1, "BODY_SECONDS": 1, "KEEP_ALIVE_SECONDS": 1}
    return make_server(WORKERS=1, MAX_BODY_BYTES=20_000, **limits).start()


def answer(port: int, *parts: bytes, seconds: float = 10) -> bytes:
    """Send parts and return everything that is answered until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), seconds) as one:
        for part in parts:
            with suppress(OSError):
                one.sendall(part)
        return b"".join(_received(one))


def _received(one: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionResetError):
        while part := one.recv(65536):
            yield part


def test_deadlines_and_limits_are_told(quick_server: Server) -> None:
    port = quick_server.port

    def check(status: int, code: str, *parts: bytes) -> None:
        found = answer(port, *parts)
        assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:200]
        assert b"content-type: application/problem+json" in found
        assert f'"code":"{code}"'.encode() in found
        assert b"x-request-id: " in found
        assert b"connection: close" in found

    def refused(*arguments: Any) -> None:
        checks.append(pool.submit(check, *arguments))

    checks: list[Future[None]] = []
    pool = ThreadPoolExecutor(12)
    json = "Content-Type: application/json"
    chunked = b"POST /v1/agents HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    too_large = "request_entity_too_large"
    refused(408, "request_timeout", head("/v1/agents", 1000, json), b"{")
    refused(408, "request_timeout", chunked, b"1\r\n{\r\n")
    refused(408, "request_timeout", HALF_HEADER)
    refused(413, too_large, head("/v1/agents", 20_001, json))
    refused(413, too_large, head("/v1/agents", 200_000, json), b"x" * 200_000)
    refused(413, too_large, chunked, b"6000\r\n" + b"x" * 0x6000 + b"\r\n")
    refused(431, "request_header_fields_too_large", get + b"X: " + b"x" * 200_000)
    refused(431, "request_header_fields_too_large", get + b"X: 1\r\n" * 1000 + b"\r\n")
    refused(414, "request_uri_too_long", b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
    refused(400, "bad_request", b"NONSENSE\r\n\r\n")
    refused(400, "bad_request", get + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n")
    for one_check in checks:
        one_check.result()
    # Nothing was sent, so there is nobody to answer.
    assert answer(port) == b""
    # An empty line now and then is no sign of life.
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        while time.monotonic() - begun < 10 and not ended(one):
            with suppress(OSError):
                one.send(b"\r\n")
            time.sleep(0.1)
        assert ended(one)
    # A connection that had its answer ends once it is idle.
    assert answer(port, get + b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_connection_carries_many_requests(quick_server: Server) -> None:
    get = b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n"
    health = get.replace(b"/v1/agents", b"/healthz")
    last = get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert answer(quick_server.port, get + health + get + last).count(b"HTTP/1.1 200 ") == 4


def test_a_client_that_goes_away_changes_nothing(quick_server: Server) -> None:
    client = make_client(quick_server)
    for number in range(20):
        with socket.create_connection(("127.0.0.1", quick_server.port), 5) as one:
            one.sendall(head("/v1/agents", 1000, f"X-API-Key: {client.api_key}") + b"{" * number)
    assert client.request("GET", "/v1/agents").document["data"] == []
    assert "Traceback" not in quick_server.log


def test_health_needs_no_thread_and_what_is_too_much_is_refused(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(WORKERS=1, THREADS=1, LOG_LEVEL="info", MAX_WAITING_REQUESTS=3).start()
    client = make_client(server)
    owner = Owner(client)
    health = client.request("GET", "/healthz", headers={"X-Request-Id": "known"})
    assert health.document == {"status": "ok"}
    assert health.headers["x-request-id"] == "known"
    # The front sends what the application does.
    other = client.request("GET", "/problems/bad_request")
    assert health.headers.keys() == other.headers.keys()
    own = {"content-length", "x-request-id", "date"}
    assert {n: v for n, v in health.headers.items() if n not in own} == {
        n: v for n, v in other.headers.items() if n not in own
    }
    assert "server" not in health.headers

    _, method, path, body = owner.requests()[-1]
    answers: list[Answer] = []

    def write(_: Event) -> None:
        answers.append(client.request(method, path, body, timeout=20))

    lock = "UPDATE registry_agents SET revision = revision"
    with (
        opened(server) as database,
        database.writer.connect() as connection,
        connection.begin() as transaction,
    ):
        connection.execute(text(lock))
        with attack(*[write] * 8):
            wait_for(lambda: len(answers) >= 4)
            for _ in range(10):
                assert client.request("GET", "/healthz", timeout=2).status == 200
            transaction.rollback()
    # One ran, three waited; nothing of the others happened.
    assert sorted(answer.status for answer in answers) == [200] * 4 + [503] * 4
    for busy in (answer for answer in answers if answer.status == 503):
        assert (busy.document["code"], busy.headers["retry-after"]) == ("server_busy", "1")
    assert '"route": "/healthz"' in server.log
    assert '"request_id": "known"' in server.log
