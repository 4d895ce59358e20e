"""The ASGI front of the WSGI application: nobody holds a thread by being slow.

A request's body is read in the event loop, within a limit of size and a deadline, before a thread
runs the application; its answer is sent from there, too. So threads are only for work. A route
that needs no thread at all is answered in the loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from contextvars import Context
from http import HTTPStatus
from io import BytesIO
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from flask import Flask

from app import ids
from app.config import Settings
from app.errors import DomainError
from app.http.context import EXTENSION as SERVICES
from app.http.context import REQUEST_ID
from app.http.credentials import presented_key
from app.http.gate import EXTENSION, REPEATED, Gate
from app.http.health import HEALTHY
from app.http.hooks import HEADERS, record
from app.http.pool import Pool
from app.http.problems import CONTENT_TYPE, http_document, kind_of, problem_document
from app.http.waiting import KEEP_ALIVE_SECONDS, WAITER, Waiter, Waiters

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Environ = dict[str, Any]
# Status, headers and body.
Answer = tuple[int, Headers, "bytes | Pieces"]

# A form of the console is small; whoever sends more has no form in mind.
FORM_BYTES = 64 * 1024
FORM = b"application/x-www-form-urlencoded"
# What one address may have under way of bodies that are not whole, in bodies of the largest size.
BODIES_OF_ONE = 16
# An answer of known length up to this is sent at once; what is longer goes piece by piece.
WHOLE_BYTES = 4 * 1024 * 1024
# How much of a refused body is read, so that its sender gets to read the refusal, and how long.
DRAIN_BYTES, DRAIN_SECONDS = 8 * 1024 * 1024, 2
# Headers that say one thing; two of them say nothing.
SINGLE = {b"host", b"idempotency-key", b"x-api-key", b"content-type", b"authorization"}


class BodyRefused(Exception):
    """The body is too large, or did not come in time."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Gone(Exception):
    """The client went away before its request was whole."""


class Asked:
    """A request that is whole: for whom it is run, and what the application is given of it."""

    def __init__(self, party: str, environ: Environ, body: bytes) -> None:
        self.party = party
        self.context = Context()
        self.waiter = Waiter()
        self._environ = {**environ, WAITER: self.waiter}
        self._body = body

    def environ(self) -> Environ:
        """Return the request as WSGI describes it, to be read from its beginning."""
        return {**self._environ, "wsgi.input": BytesIO(self._body)}


class Front:
    """An ASGI application in front of a Flask application, for one event loop."""

    def __init__(self, application: Flask, settings: Settings) -> None:
        self._application = application
        self._settings = settings
        self._gate: Gate = application.extensions[EXTENSION]
        self._pool = Pool(settings.threads, settings.max_waiting_requests)
        database = application.extensions[SERVICES].database
        self._waiters = Waiters(self._pool, database, settings.max_connections // 2)
        self._bodies: dict[str, int] = {}
        # What is answered in the event loop; the value is given the scope and answers it.
        self._in_loop: dict[str, Callable[[Scope, Send], Awaitable[bool]]] = {
            "/healthz": self._answer_health
        }

    def stop(self) -> None:
        """Have nobody wait any longer, so that the server can end. For any thread."""
        self._waiters.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = time.perf_counter()
        in_loop = self._in_loop.get(scope["path"])
        if in_loop is not None and await in_loop(scope, send):
            return
        environ = make_environ(scope)
        party = self._party(environ)
        try:
            body = b""
            if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
                body = await self._read(environ, party, receive)
                environ["CONTENT_LENGTH"] = str(len(body))
                # It came in chunks, perhaps, and is whole now.
                environ.pop("HTTP_TRANSFER_ENCODING", None)
            asked = Asked(party, environ, body)
            status, headers, answer = await self._work(asked, receive)
        except Gone:
            return
        except BodyRefused as refused:
            document = http_document(refused.status, _request_id(scope))
            await self._refuse(scope, receive, send, refused.status, document, begun)
        except DomainError as error:
            status = kind_of(type(error)).status
            document = problem_document(error, _request_id(scope))
            await self._refuse(scope, receive, send, status, document, begun, error)
        else:
            if asked.waiter.streams and isinstance(answer, bytes):
                await self._go_on(asked, headers, answer, receive, send)
                return
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if isinstance(answer, bytes):
                await send({"type": "http.response.body", "body": answer})
            else:
                await self._stream(asked, answer, receive, send)

    def _party(self, environ: Environ) -> str:
        """Return who takes turns with others: the holder of a genuine key, else an address."""
        presented = presented_key(
            environ.get("HTTP_X_API_KEY", ""), environ.get("HTTP_AUTHORIZATION", "")
        )
        if presented and self._gate.is_verified(presented):
            return f"key {hash(presented)}"
        forwarded_for = environ.get("HTTP_X_FORWARDED_FOR", "")
        return self._gate.clients.party(environ["REMOTE_ADDR"], forwarded_for)

    async def _read(self, environ: Environ, party: str, receive: Receive) -> bytes:
        """Return the body; raises ``BodyRefused`` and ``Gone``."""
        limit = self._settings.max_body_bytes
        if environ.get("CONTENT_TYPE", "").lower().startswith(FORM.decode()):
            limit = min(limit, FORM_BYTES)
        length = environ.get("CONTENT_LENGTH", "")
        if length.isdigit() and int(length) > limit:
            raise BodyRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        message = await self._first(receive)
        if not message.get("more_body"):
            body = cast("bytes", message.get("body", b""))
            if len(body) > limit:
                raise BodyRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return body
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                return await self._gather(message, party, limit, receive)
        except TimeoutError:
            raise BodyRefused(HTTPStatus.REQUEST_TIMEOUT) from None

    async def _first(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                message = await receive()
        except TimeoutError:
            raise BodyRefused(HTTPStatus.REQUEST_TIMEOUT) from None
        if message["type"] == "http.disconnect":
            raise Gone
        return message

    async def _gather(self, message: Message, party: str, limit: int, receive: Receive) -> bytes:
        parts, size = [], 0
        try:
            while True:
                part: bytes = message.get("body", b"")
                parts.append(part)
                size += len(part)
                held = self._bodies[party] = self._bodies.get(party, 0) + len(part)
                if size > limit:
                    raise BodyRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                if held > BODIES_OF_ONE * self._settings.max_body_bytes:
                    raise BodyRefused(HTTPStatus.TOO_MANY_REQUESTS)
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
        finally:
            self._bodies[party] -= size
            if not self._bodies[party]:
                del self._bodies[party]

    async def _work(self, asked: Asked, receive: Receive) -> Answer:
        """Run the application, again and again while it says that the request is to wait.

        Raises ``Gone`` where the client does not wait for the end.
        """
        answer = await self._once(asked)
        while asked.waiter.is_held:
            if isinstance(answer[2], Pieces):
                await self._pool.run(asked.party, asked.context.run, answer[2].close)
            if await self._wait(asked, asked.waiter.until - time.monotonic(), receive):
                raise Gone
            answer = await self._once(asked)
        return answer

    async def _once(self, asked: Asked) -> Answer:
        asked.waiter.watch = None
        asked.context = Context()
        answer: Answer = await self._pool.run(
            asked.party, asked.context.run, self._run, asked.environ()
        )
        return answer

    async def _wait(self, asked: Asked, seconds: float, receive: Receive) -> bool:
        """Wait for what the application said, at most so long; tell whether the client has gone."""
        asked.waiter.runs += 1
        woken = asyncio.Event()
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(lambda _: woken.set())
        try:
            await self._waiters.wait(asked.party, asked.waiter, seconds, woken)
            return gone.done()
        finally:
            gone.cancel()

    async def _go_on(
        self, asked: Asked, headers: Headers, answer: bytes, receive: Receive, send: Send
    ) -> None:
        """Send an answer that goes on, with each change that the application tells of."""
        headers = [field for field in headers if field[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with suppress(DomainError):
            while True:
                # A comment, so that the client and what is between see that the stream is alive.
                piece = answer or b":\n\n"
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if asked.waiter.watch is None or asked.waiter.ends_early:
                    break
                if await self._wait(asked, KEEP_ALIVE_SECONDS, receive):
                    return
                status, _, following = await self._once(asked)
                if status != HTTPStatus.OK or not isinstance(following, bytes):
                    break
                answer = following
        await send({"type": "http.response.body", "body": b""})

    def _run(self, environ: Environ) -> Answer:
        """Run the application, in a thread; an answer without a moderate length comes in pieces."""
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(line: str, fields: list[tuple[str, str]], _: Any = None) -> Any:
            started.append((line, fields))

        result = self._application(environ, start)
        line, fields = started[-1]
        length = None
        headers: Headers = []
        for name, value in fields:
            headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
            if headers[-1][0] == b"content-length":
                length = int(value)
        status = int(line[:3])
        without_body = status in (204, 304) or environ["REQUEST_METHOD"] == "HEAD"
        if without_body or (length is not None and length <= WHOLE_BYTES):
            return status, headers, _whole(result)
        return status, headers, Pieces(result)

    async def _stream(self, asked: Asked, pieces: Pieces, receive: Receive, send: Send) -> None:
        """Send an answer piece by piece; a thread makes the next one once the client has room."""
        party, run = asked.party, asked.context.run
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            while not gone.done():
                piece = await self._pool.run(party, run, pieces.next)
                await send(
                    {
                        "type": "http.response.body",
                        "body": piece or b"",
                        "more_body": piece is not None,
                    }
                )
                if piece is None:
                    return
        finally:
            gone.cancel()
            await self._pool.run(party, run, pieces.close)

    async def _answer_health(self, scope: Scope, send: Send) -> bool:
        """Answer ``GET /healthz`` as the application does, whatever its threads are doing."""
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        try:
            self._gate.hosts.check(hosts[0] if len(hosts) == 1 else None)
        except DomainError:
            return False
        if scope["method"] not in ("GET", "HEAD"):
            return False
        begun = time.perf_counter()
        request_id = _request_id(scope)
        # Whoever has the answer finds it counted.
        record(scope["method"], "/healthz", "/healthz", 200, begun, request_id=request_id)
        await _send_whole(send, 200, "application/json", HEALTHY, request_id)
        return True

    async def _refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: HTTPStatus,
        document: bytes,
        begun: float,
        error: DomainError | None = None,
    ) -> None:
        """Answer what never reached the application, and close the connection."""
        request_id = _request_id(scope)
        more: Headers = [(b"connection", b"close")]
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None or status == HTTPStatus.TOO_MANY_REQUESTS:
            more.append((b"retry-after", str(retry_after or 1).encode()))
        record(scope["method"], scope["path"], None, status, begun, request_id=request_id)
        await _send_whole(send, status, CONTENT_TYPE, document, request_id, more, last=False)
        # Closed now, with bytes on their way, the connection would be reset under the answer.
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await _drain(receive)
        await send({"type": "http.response.body", "body": b""})


async def _send_whole(
    send: Send,
    status: int,
    content_type: str,
    body: bytes,
    request_id: str,
    more: Iterable[tuple[bytes, bytes]] = (),
    *,
    last: bool = True,
) -> None:
    """Send an answer made in the event loop, with the headers that every answer has."""
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *_COMMON,
        *more,
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


_COMMON: Headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


async def _disconnected(receive: Receive) -> None:
    """Return once the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _drain(receive: Receive) -> None:
    read = 0
    while read <= DRAIN_BYTES:
        message = await receive()
        read += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def _whole(result: Iterable[bytes]) -> bytes:
    try:
        return b"".join(result)
    finally:
        _close(result)


class Pieces:
    """An answer that is made while it is sent."""

    def __init__(self, result: Iterable[bytes]) -> None:
        self._result = result
        self._iterator = iter(result)

    def next(self) -> bytes | None:
        """Return the next piece; None after the last one."""
        return next(self._iterator, None)

    def close(self) -> None:
        """Let the application end, whether or not everything was sent."""
        _close(self._result)


def _close(result: Iterable[bytes]) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


def _request_id(scope: Scope) -> str:
    """Return the caller's ``X-Request-Id`` when it is usable, else a new one, kept in the scope."""
    found: str | None = scope.get("agenthub.request_id")
    if found is None:
        offered = next((v for n, v in scope["headers"] if n == b"x-request-id"), b"")
        found = offered.decode("latin-1")
        if not REQUEST_ID.fullmatch(found):
            found = ids.new_id()
        scope["agenthub.request_id"] = found
    return found


# Names of headers as WSGI spells them; those that clients make up are not kept.
_NAMES: dict[bytes, str] = {}
_MAX_NAMES = 500


def _name(header: bytes) -> str:
    found = _NAMES.get(header)
    if found is None:
        found = header.decode("latin-1").upper().replace("-", "_")
        if found not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            found = f"HTTP_{found}"
        if len(_NAMES) < _MAX_NAMES:
            _NAMES[header] = found
    return found


def make_environ(scope: Scope) -> Environ:
    """Return a request as WSGI describes it (PEP 3333), with an empty body.

    A header whose name has an underscore is left out: WSGI would make it the one with a hyphen.
    """
    server, client = scope["server"] or ("", 0), scope["client"] or ("", 0)
    # A target such as http://host has no path; it means the root (RFC 9110, section 4.2.3).
    path: bytes = scope["raw_path"] or b"/"
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for header, value in scope["headers"]:
        if b"_" in header:
            continue
        name, text = _name(header), value.decode("latin-1")
        if name in environ:
            if header in SINGLE:
                environ[REPEATED] = header.decode()
            environ[name] += ("; " if header == b"cookie" else ",") + text
        else:
            environ[name] = text
    return environ
