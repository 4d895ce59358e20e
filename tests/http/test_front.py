"""The front before the application: what it makes of a request, and how it sends an answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from flask import Flask, Response, request

from app.config import Settings
from app.http.front import Front, make_environ
from app.http.pool import Pool, ServerBusy
from tests.client import Api
from tests.registry.manifests import build_manifest

Headers = list[tuple[bytes, bytes]]
HOST: Headers = [(b"host", b"localhost")]


@dataclass
class Exchange:
    """One request to a front, in parts, and what was sent back."""

    front: Front
    sent: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self, method: str, path: bytes, headers: Headers = HOST, *parts: bytes, ends: bool = True
    ) -> Exchange:
        """Send a request; one that does not end lets its client go away after the parts."""
        scope = {
            "type": "http",
            "method": method,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 4711),
            "headers": headers,
        }
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages.append(
            {"type": "http.request", "body": b"", "more_body": False}
            if ends
            else {"type": "http.disconnect"}
        )
        messages.reverse()

        async def receive() -> dict[str, Any]:
            if not messages:
                await asyncio.sleep(3600)
            return messages.pop()

        async def send(message: Any) -> None:
            self.sent.append(message)

        asyncio.run(asyncio.wait_for(self.front(scope, receive, send), 20))
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


@pytest.fixture
def ask(app: Flask, settings: Settings) -> Callable[..., Exchange]:
    """Ask a front of the application, each time a new one, as each event loop needs its own."""

    def exchange(*arguments: Any, limits: dict[str, Any] | None = None, **named: Any) -> Exchange:
        own = replace(settings, threads=2, **(limits or {}))
        return Exchange(Front(app, own)).ask(*arguments, **named)

    return exchange


Ask = Callable[..., Exchange]


def writing(key: str | None, *more: tuple[bytes, bytes]) -> Headers:
    return [
        *HOST,
        (b"x-api-key", (key or "").encode()),
        (b"content-type", b"application/json"),
        *more,
    ]


def test_a_write_comes_in_any_number_of_parts(acme: Api, ask: Ask) -> None:
    body = json.dumps({"namespace": "@acme", "manifest": build_manifest()}).encode()
    for number, size in enumerate((1000, 7, len(body))):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        headers = writing(acme.key, (b"idempotency-key", b"k"), (b"transfer-encoding", b"chunked"))
        found = ask("POST", b"/v1/agents", headers, *parts)
        assert found.status == 200
        assert found.headers.get("idempotent-replayed") == (None if number == 0 else "true")
        assert int(found.headers["content-length"]) == len(found.body)


@pytest.mark.parametrize("name", [b"host", b"x-api-key", b"idempotency-key", b"content-type"])
def test_a_header_that_says_one_thing_comes_once(acme: Api, ask: Ask, name: bytes) -> None:
    headers = [*writing(acme.key, (b"idempotency-key", b"k")), (b"content-length", b"2")]
    assert ask("POST", b"/v1/agents", headers, b"{}").status == 422
    twice = [*headers, (name, dict(headers)[name])]
    found = ask("POST", b"/v1/agents", twice, b"{}")
    assert found.status == 400
    code = "host_malformed" if name == b"host" else "header_repeated"
    document = json.loads(found.body)
    assert document["code"] == code
    assert name.decode().title() in document["detail"].title()
    assert ask("GET", b"/healthz", [*HOST, *HOST]).status == 400


def test_a_header_with_an_underscore_is_another_one(acme: Api, ask: Ask) -> None:
    headers = [(n.replace(b"-", b"_") if n == b"x-api-key" else n, v) for n, v in writing(acme.key)]
    found = ask("POST", b"/v1/agents", [*headers, (b"idempotency-key", b"k")])
    assert (found.status, json.loads(found.body)["code"]) == (401, "api_key_missing")


def test_a_key_that_is_not_ascii_is_told_so(acme: Api, ask: Ask) -> None:
    headers = writing(acme.key, (b"idempotency-key", "schlüssel".encode()))
    found = json.loads(ask("POST", b"/v1/agents", headers).body)
    assert (found["code"], "ASCII" in found["detail"]) == ("idempotency_key_malformed", True)


def test_the_request_reaches_wsgi_as_it_was(app: Flask) -> None:
    seen = make_environ(
        {
            "method": "GET",
            "raw_path": b"/a%2Fb/%ff%20%25",
            "path": "ignored",
            "query_string": b"q=%C3%A9",
            "http_version": "1.0",
            "scheme": "http",
            "server": ("::1", 8080),
            "client": ("2001:db8::1", 4711),
            "headers": [
                (b"accept", b"a"),
                (b"accept", b"b"),
                (b"cookie", b"c=1"),
                (b"cookie", b"d=2"),
                (b"x-text", b"\xe9"),
                (b"content_length", b"7"),
            ],
        }
    )
    assert seen["PATH_INFO"] == "/a/b/\xff %"
    assert (seen["QUERY_STRING"], seen["SERVER_PROTOCOL"]) == ("q=%C3%A9", "HTTP/1.0")
    assert (seen["HTTP_ACCEPT"], seen["HTTP_COOKIE"]) == ("a,b", "c=1; d=2")
    assert (seen["HTTP_X_TEXT"], seen["REMOTE_ADDR"]) == ("\xe9", "2001:db8::1")
    assert "CONTENT_LENGTH" not in seen


def test_what_is_too_large_or_too_slow_is_refused(acme: Api, ask: Ask) -> None:
    headers = writing(acme.key, (b"idempotency-key", b"k"), (b"transfer-encoding", b"chunked"))
    large = ask("POST", b"/v1/agents", headers, *[b"x" * 1024] * 3, limits={"max_body_bytes": 2048})
    assert (large.status, large.headers["connection"]) == (413, "close")
    form = [
        *HOST,
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"content-length", b"70000"),
    ]
    assert ask("POST", b"/operator/sign-in", form).status == 413
    # A client that goes away has no answer.
    assert ask("POST", b"/v1/agents", headers, b"{", ends=False).sent == []


def test_a_stream_is_sent_while_it_is_made(app: Flask, ask: Ask) -> None:
    made: list[int] = []
    closed = threading.Event()

    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[bytes]:
            try:
                for number in range(3):
                    made.append(number)
                    yield b"%d" % number
            finally:
                closed.set()

        return Response(pieces(), headers={"X-Path": request.path})

    found = ask("GET", b"/stream")
    assert (found.status, found.body, made) == (200, b"012", [0, 1, 2])
    assert [message["body"] for message in found.sent[1:]] == [b"0", b"1", b"2", b""]
    assert found.headers["x-path"] == "/stream"
    assert closed.is_set()


def test_an_application_that_fails_has_its_say(app: Flask, ask: Ask) -> None:
    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("hidden")

    found = ask("GET", b"/boom")
    assert (found.status, json.loads(found.body)["code"]) == (500, "internal_server_error")


def test_those_who_wait_take_turns() -> None:
    order: list[str] = []
    gate = threading.Event()

    async def scenario() -> list[Any]:
        pool = Pool(threads=1, waiting=6)
        running = [pool.run(f"earlier-{number}", gate.wait) for number in range(2)]
        greedy = [pool.run("greedy", order.append, "greedy") for _ in range(5)]
        modest = pool.run("modest", order.append, "modest")
        # There is no more room; who waits for most makes it.
        late = pool.run("late", order.append, "late")
        with pytest.raises(ServerBusy):
            pool.run("greedy", order.append, "greedy")
        gate.set()
        return await asyncio.gather(*running, *greedy, modest, late, return_exceptions=True)

    results = asyncio.run(scenario())
    assert order == ["greedy", "modest", "late", "greedy", "greedy", "greedy"]
    assert [type(found) for found in results if isinstance(found, Exception)] == [ServerBusy]


def test_nobody_has_all_threads() -> None:
    gate = threading.Event()

    async def scenario() -> str:
        pool = Pool(threads=3, waiting=10)
        slow = [pool.run("slow", gate.wait) for _ in range(8)]
        found: str = await asyncio.wait_for(pool.run("quick", lambda: "done"), 10)
        assert not any(one.done() for one in slow)
        gate.set()
        await asyncio.gather(*slow)
        return found

    assert asyncio.run(scenario()) == "done"


def test_what_a_call_raises_is_raised_to_who_waits() -> None:
    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            await Pool(1, 1).run("one", lambda: 1 // 0)

    asyncio.run(scenario())
