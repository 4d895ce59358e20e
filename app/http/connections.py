"""Connections: how long one may wait for a request, and which one goes when there are too many.

uvicorn's protocol has no deadline for headers, no limit of their size, and one limit for all
connections that refuses whoever comes last. Here a whole header has to come in time, an answer has
to be taken in time, and where there are too many connections the address that has most of them
loses the one that has waited longest: whoever holds many idle ones shuts out nobody else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import ids
from app.config import Settings
from app.http.clients import party
from app.http.hooks import record
from app.http.problems import CONTENT_TYPE, http_document

# Bytes of a request's line and headers, and their number.
MAX_URL_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 128
# Of the path of a refused request as many are logged.
MAX_LOGGED_BYTES = 200
SWEEP_SECONDS = 1.0
# How long a client has to read what is sent to it before more is sent.
WRITE_SECONDS = 60.0
# How long what a client still sends is read once its request was refused.
LINGER_SECONDS = 1.0


class HeaderRefused(Exception):
    """A request's line and headers are too large."""


class Server(uvicorn.Server):
    """uvicorn's server, stopped by whoever runs it: ``should_exit`` makes it finish and return."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would end the process by them, before it can tidy up."""
        yield


class Connections:
    """The connections of one process, by address."""

    def __init__(self, settings: Settings) -> None:
        self.header_seconds = settings.header_seconds
        self._limit = settings.max_connections
        self._of: dict[str, dict[Connection, None]] = {}
        self._number = 0
        self._sweeping = False

    def add(self, connection: Connection) -> None:
        """Take a connection in; where there are too many, another one goes."""
        self._of.setdefault(connection.party, {})[connection] = None
        self._number += 1
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(SWEEP_SECONDS, self._sweep, connection.loop)
        if self._number > self._limit:
            self._make_room(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        own = self._of.get(connection.party, {})
        if own.pop(connection, connection) is None:
            self._number -= 1
        if not own:
            self._of.pop(connection.party, None)

    def _make_room(self, newest: Connection) -> None:
        least = len(self._of[newest.party])
        for own in sorted(self._of.values(), key=len, reverse=True):
            if len(own) < least:
                # Nobody who has fewer makes room.
                break
            waiting = (one for one in own if one is not newest and one.waits_for_client)
            oldest = next(waiting, None)
            if oldest is not None:
                oldest.transport.abort()
                return
        newest.transport.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [one for own in self._of.values() for one in own]:
            connection.check(now)
        self._sweeping = bool(self._of)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with deadlines and limits."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = connections
        self.party = ""
        # By when a whole header has to be here, what was sent has to be read, and the end reached.
        self._header_by = self._read_by = self._end_by = math.inf
        self._in_header = False
        self._url_bytes = self._header_bytes = self._unparsed_bytes = 0
        self._refused = False
        self._begun = 0.0

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is being done for this connection: its client has to send, or to read."""
        cycle = self.cycle
        if self.transport.is_closing():
            return False
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a header."""
        super().connection_made(transport)
        self._begun = time.perf_counter()
        self._header_by = self.loop.time() + self._all.header_seconds
        self.party = party(self.client[0] if self.client else "")
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless the request was refused already."""
        if self._refused:
            return
        super().data_received(data)
        if self._in_header:
            # Of a header that is not whole, the parser tells nothing.
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > MAX_URL_BYTES + MAX_HEADER_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._header_by == math.inf and self.waits_for_header:
            # Empty lines before a request; uvicorn takes them for activity.
            self._header_by = self.loop.time() + self._all.header_seconds

    @property
    def waits_for_header(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        """Note that a header has begun."""
        super().on_message_begin()
        self._begun = time.perf_counter()
        self._in_header = True
        self._url_bytes = self._header_bytes = self._unparsed_bytes = 0
        if self._header_by == math.inf:
            self._header_by = self.loop.time() + self._all.header_seconds

    def on_url(self, url: bytes) -> None:
        """Raise ``HeaderRefused`` for a URL that is too long."""
        super().on_url(url)
        self._url_bytes += len(url)
        if self._url_bytes > MAX_URL_BYTES:
            raise HeaderRefused

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raise ``HeaderRefused`` for headers that are too many or too large."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            raise HeaderRefused

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        self._in_header = False
        self._header_by = math.inf
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or one of the limits above, refused."""
        if self._url_bytes > MAX_URL_BYTES:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self._header_bytes > MAX_HEADER_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer with a problem, and end once the client had time to read it."""
        request_id = ids.new_id()
        # What cannot be parsed has no method that could be told, and perhaps no path.
        url = self.url[:MAX_LOGGED_BYTES] if self._in_header else b""
        path = url.partition(b"?")[0].decode("latin-1")
        record("", path, None, status, self._begun, request_id=request_id)
        document = http_document(status, request_id)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(document)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self._refused = True
        self.transport.write(head.encode() + document)
        self.transport.write_eof()
        self._end_by = self.loop.time() + LINGER_SECONDS

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._read_by = self.loop.time() + WRITE_SECONDS

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._read_by = math.inf

    def check(self, now: float) -> None:
        """End the connection if its client had time enough."""
        if self.transport.is_closing() and self._end_by == math.inf:
            self._end_by = now + WRITE_SECONDS
        if now >= min(self._read_by, self._end_by):
            self.transport.abort()
        elif now >= self._header_by and self.waits_for_header and not self._refused:
            if self._in_header:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
            else:
                self.transport.close()
