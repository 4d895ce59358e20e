"""What a running server meets: a database that goes away, and clients that are slow or too big."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.postgres import PostgresServer
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import assert_consistent
from tests.reliability.server import Answer, Client, Server, make_client, opened, wait_for

REGISTRATION = {"namespace": "@acme", "manifest": build_manifest()}
AGENT = "/v1/agents/@acme:invoice-summarizer"
AGENT_LIST = "/v1/agents"
EVALS = AGENT + "/versions/1.0.0/evals"
RESULT = {"suite": "s", "metrics": {"accuracy": 1}}
HUGE = 20_000_000
MEBIBYTE = 2**20


@pytest.fixture
def fragile_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may stop; its writes reach the disk."""
    server = PostgresServer(durable=True)
    yield server
    server.destroy()


def test_a_database_that_goes_away_and_comes_back(
    fragile_postgres: PostgresServer, tmp_path: Path
) -> None:
    server = Server(fragile_postgres.url(fragile_postgres.create_database()), tmp_path)
    try:
        server.start()
        client = make_client(server)
        written = client.request("POST", "/v1/agents", REGISTRATION, key="k")
        assert written.status == 200
        for mode in ("fast", "immediate"):
            fragile_postgres.stop(mode)
            _assert_unavailable(client)
            fragile_postgres.start()
            # Nobody restarts the server: each worker replaces its own broken connections.
            wait_for(lambda: _answers(client, 20))
            replay = client.request("POST", "/v1/agents", REGISTRATION, key="k")
            assert (replay.is_replay, replay.body) == (True, written.body)
            assert client.request("POST", EVALS, RESULT, key=f"while {mode}").status == 200
        with opened(server) as database:
            assert_consistent(database)
        assert server.process is not None
        assert server.process.poll() is None
    finally:
        server.end()


def test_workers_that_die_while_the_database_is_away_are_replaced(
    fragile_postgres: PostgresServer, tmp_path: Path
) -> None:
    server = Server(fragile_postgres.url(fragile_postgres.create_database()), tmp_path)
    try:
        server.start()
        client = make_client(server)
        wait_for(lambda: _answers(client, 20, AGENT_LIST))
        first = set(server.workers())
        fragile_postgres.stop("fast")
        for pid in first:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda gone=pid: len(set(server.workers()) - {gone}) == len(first))
        assert not first & set(server.workers())
        # Whoever answers now has never seen the database.
        wait_for(lambda: _is_alive(client), 60)
        _assert_unavailable(client)
        fragile_postgres.start()
        wait_for(lambda: _answers(client, 20, AGENT_LIST))
        assert client.request("POST", "/v1/agents", REGISTRATION).status == 200
        assert server.process is not None
        assert server.process.poll() is None
    finally:
        server.end()


def _is_alive(client: Client) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return client.request("GET", "/healthz").status == 200
    return False


def _assert_unavailable(client: Client) -> None:
    for _ in range(4):
        for answer in (
            client.request("GET", AGENT),
            client.request("POST", EVALS, RESULT, key="while away"),
        ):
            assert answer.status == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.document["code"] == "database_unavailable"
            assert "psycopg" not in answer.body.decode()
        assert client.request("GET", "/healthz").status == 200
        ready = client.request("GET", "/readyz")
        assert (ready.status, ready.document["status"]) == (503, "unavailable")


def _answers(client: Client, times: int, path: str = AGENT) -> bool:
    """Tell whether the service answers several times in a row, so that every worker has."""
    return all(
        client.request("GET", one).status == 200 for _ in range(times) for one in (path, "/readyz")
    )


def _memory(server: Server) -> int:
    return max(int(psutil.Process(pid).memory_info().rss) for pid in server.workers())


def _send_huge(client: Client, *, chunked: bool) -> Answer | None:
    """Send a body of 20 MB; None when the server closed the connection instead of reading on."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    headers = {
        "X-API-Key": client.api_key,
        "Idempotency-Key": "huge",
        "Content-Type": "application/json",
    }
    body = (b"[" * 50_000 for _ in range(HUGE // 50_000))
    if not chunked:
        headers["Content-Length"] = str(HUGE)
    try:
        # The answer may have come before the server stopped reading.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/v1/agents", body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def test_a_body_beyond_the_limit_is_not_taken_in(server: Server) -> None:
    client = make_client(server)
    assert client.request("POST", "/v1/agents", REGISTRATION).status == 200
    before = _memory(server)
    for chunked in (False, True):
        for _ in range(4):
            answer = _send_huge(client, chunked=chunked)
            if answer is not None:
                assert answer.status == 413
                assert answer.document["code"] == "request_entity_too_large"
            assert client.request("GET", AGENT).status == 200
    assert _memory(server) - before < 40 * MEBIBYTE
    # A body within the limit may come in chunks, and the key is still free.
    parts = [b'{"suite":"s",', b'"metrics":{"a":1}}']
    assert _send_in_chunks(client, "huge", parts) == 200
    # One beyond the limit is refused, and not cut to a beginning that happens to be valid.
    assert _send_in_chunks(client, "cut", [*parts, b" " * 2 * MEBIBYTE, b"!"]) in (413, None)
    with opened(server) as database:
        assert_consistent(database)
    agent = client.request("GET", AGENT).document
    assert agent["eval_summary"]["evaluations"] == 1


def _send_in_chunks(client: Client, key: str, parts: list[bytes]) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    headers = {
        "X-API-Key": client.api_key,
        "Idempotency-Key": key,
        "Content-Type": "application/json",
    }
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", EVALS, iter(parts), headers, encode_chunked=True)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _begin(client: Client, text: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
    connection.sendall(text)
    return connection


def test_slow_and_broken_clients_do_not_hold_others_up(server: Server) -> None:
    client = make_client(server)
    head = b"POST /v1/agents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    unknown = b"X-API-Key: nobody\r\nIdempotency-Key: k\r\nContent-Length: 1000\r\n\r\n{"
    known = b"X-API-Key: %s\r\nIdempotency-Key: k\r\nContent-Length: 1000\r\n\r\n{"
    with ExitStack() as stack:
        for text in (b"", b"POST", head, head + unknown):
            for _ in range(20):
                stack.enter_context(_begin(client, text))
        # Every thread that waits for a body is one less, so a known client must be alone here.
        stack.enter_context(_begin(client, head + known % client.api_key.encode()))
        time.sleep(0.2)
        for number in range(20):
            begun = time.monotonic()
            assert client.request("GET", "/v1/agents").status == 200
            if number % 5 == 0:
                body = {"namespace": "@acme", "manifest": build_manifest(f"agent-{number}")}
                assert client.request("POST", "/v1/agents", body).status == 200
            assert time.monotonic() - begun < 5
    # Clients that gave up halfway left nothing behind.
    for _ in range(20):
        assert client.request("GET", "/readyz").status == 200
    with opened(server) as database:
        assert_consistent(database)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_is_not_http_is_refused(server: Server) -> None:
    client = make_client(server)
    for text in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/agents HTTP/1.1\r\nHost: x\r\nA\x00B: c\r\n\r\n",
        b"POST /v1/agents HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/agents HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/agents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000 + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            try:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
            except OSError:
                # The server may close such a connection without a word.
                answer = b""
        assert not answer or answer.split(b" ")[1][:1] == b"4", answer[:200]
    assert client.request("GET", "/readyz").status == 200
