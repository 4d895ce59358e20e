"""Which connection goes when there are too many, and when one has had time enough."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.config import Settings
from app.http.connections import LINGER_SECONDS, WRITE_SECONDS, Connection, Connections


class Transport:
    """The other end of a connection, which remembers what was done to it."""

    def __init__(self, address: str) -> None:
        self.peer = (address, 4711)
        self.written = b""
        self.aborted = self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return {"peername": self.peer, "sockname": ("127.0.0.1", 80)}.get(name)

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


async def answer_never(scope: Any, receive: Any, send: Any) -> None:
    """Take a request and work on it for ever."""
    await asyncio.sleep(3600)


class Process:
    """The connections of one server process."""

    def __init__(self, **limits: Any) -> None:
        self.all = Connections(replace(Settings(), **limits))
        self.config = uvicorn.Config(answer_never, interface="asgi3", ws="none", log_config=None)
        self.state = ServerState()

    def connect(self, address: str) -> Connection:
        connection = Connection(self.all, config=self.config, server_state=self.state, app_state={})
        connection.connection_made(Transport(address))  # type: ignore[arg-type]
        return connection

    @staticmethod
    def gone(connections: list[Connection]) -> list[int]:
        return [place for place, one in enumerate(connections) if one.transport.is_closing()]


def now() -> float:
    return asyncio.get_running_loop().time()


GET = b"GET /v1/agents HTTP/1.1\r\nhost: localhost\r\n"


async def too_many() -> None:
    process = Process(max_connections=4)
    many = [process.connect("192.0.2.1") for _ in range(3)]
    few = [process.connect("192.0.2.2")]
    assert process.gone(many + few) == []
    # Whoever has most makes room, with the one that has waited longest and is not worked on.
    many[0].data_received(GET + b"\r\n")
    few.append(process.connect("192.0.2.2"))
    assert process.gone(many + few) == [1]
    many[1].connection_lost(None)
    # All addresses of a subscriber of IPv6 are one.
    six = [process.connect(f"2001:db8::{number}") for number in range(3)]
    assert process.gone(many + few) == [1, 2, 3]
    assert process.gone(six) == [0]


async def all_at_work() -> None:
    process = Process(max_connections=10)
    busy = [process.connect("192.0.2.1") for _ in range(10)]
    for one in busy:
        one.data_received(GET + b"\r\n")
    modest = process.connect("192.0.2.2")
    assert process.gone([*busy, modest]) == [10]
    modest.connection_lost(None)
    late = process.connect("192.0.2.1")
    assert process.gone([*busy, late]) == [10]


async def deadlines() -> None:
    process = Process(header_seconds=10)
    silent, half, whole, slow = (process.connect("192.0.2.1") for _ in range(4))
    half.data_received(GET)
    whole.data_received(GET + b"\r\n")
    slow.pause_writing()
    everybody = [silent, half, whole, slow]
    for one in everybody:
        one.check(now() + 9)
    assert process.gone(everybody) == []
    for one in everybody[:3]:
        one.check(now() + 11)
    assert process.gone(everybody) == [0]
    assert b"408 Request Timeout" in half.transport.written  # type: ignore[attr-defined]
    half.data_received(b"x: y\r\n\r\n")
    assert half.cycle is None
    half.check(now() + LINGER_SECONDS + 1)
    assert half.transport.aborted  # type: ignore[attr-defined]
    # One that is worked on has no deadline; one whose client does not read has another.
    whole.check(now() + 3600)
    slow.resume_writing()
    slow.data_received(GET + b"\r\n")
    slow.check(now() + 3600)
    slow.pause_writing()
    slow.check(now() + WRITE_SECONDS - 1)
    assert process.gone([whole, slow]) == []
    slow.check(now() + WRITE_SECONDS + 1)
    assert process.gone([whole, slow]) == [1]
    # What is not read keeps no closed connection, either.
    silent.check(now() + 11)
    silent.check(now() + 12 + WRITE_SECONDS)
    assert silent.transport.aborted  # type: ignore[attr-defined]


async def refusals_are_recorded() -> None:
    """What the parser refuses is logged and counted as every answer is, without a query."""
    process = Process()
    with patch("app.http.connections.record") as record:
        for sent in (b"GET /v1/agents?q=secret HTTP/1.1\r\nbad\r\n\r\n", b"NONSENSE\r\n\r\n"):
            process.connect("192.0.2.1").data_received(sent)
    (method, path, route, status, _), more = record.call_args_list[0]
    assert (method, path, route, status) == ("", "/v1/agents", None, 400)
    assert len(more["request_id"]) == 36
    assert record.call_args_list[1].args[3] == 400


@pytest.mark.parametrize("scenario", [too_many, all_at_work, deadlines, refusals_are_recorded])
def test_connections(scenario: Any) -> None:
    async def run() -> None:
        await scenario()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(run())
