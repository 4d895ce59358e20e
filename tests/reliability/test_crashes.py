"""What is acknowledged survives; what ends by force leaves nothing half done and nobody behind."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from tests.registry.manifests import build_manifest
from tests.reliability.evidence import assert_consistent
from tests.reliability.server import (
    Answer,
    Client,
    Server,
    group,
    make_client,
    opened,
    wait_for,
)

# How often the server is killed under load; a soak run sets more.
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "2"))
SECONDS_OF_LOAD = 0.8
AGENT = "/v1/agents/@acme:invoice-summarizer"
REGISTRATION = {"namespace": "@acme", "manifest": build_manifest()}
Request = tuple[str, str, Any, str]


@dataclass
class Writer:
    """A caller that writes without pause and remembers what was acknowledged and what was not."""

    client: Client
    name: str
    acknowledged: list[tuple[Request, Answer]] = field(default_factory=list)
    open: list[Request] = field(default_factory=list)
    sent: int = 0

    def requests(self) -> list[Request]:
        """Return the next few writes, all about one new agent."""
        self.sent += 1
        slug = f"{self.name}-{self.sent}"
        agent = f"/v1/agents/@{self.name}:{slug}"
        result = {"suite": "s", "metrics": {"m": self.sent}, "cases": {"passed": 1, "total": 3}}
        registration = {"namespace": f"@{self.name}", "manifest": build_manifest(slug)}
        fork = {"namespace": f"@{self.name}", "new_slug": f"{slug}-fork"}
        return [
            ("POST", "/v1/agents", registration, f"{slug}-register"),
            ("POST", f"{agent}/versions/1.0.0/evals", result, f"{slug}-evaluate"),
            ("PUT", agent, {"manifest": build_manifest(slug, "1.1.0")}, f"{slug}-publish"),
            ("POST", "/v1/agents", registration, f"{slug}-again"),
            ("POST", f"{agent}/fork", fork, f"{slug}-fork"),
            ("DELETE", agent, None, f"{slug}-deprecate"),
        ]

    def run(self) -> None:
        """Write until the server is gone."""
        while True:
            for request in self.requests():
                try:
                    answer = self.client.request(*request, timeout=10)
                except (OSError, http.client.HTTPException):
                    self.open.append(request)
                    return
                assert answer.status == (409 if request[3].endswith("again") else 200), answer.body
                self.acknowledged.append((request, answer))


def test_a_kill_during_writes_loses_nothing_and_halves_nothing(server: Server) -> None:
    for number in range(ROUNDS):
        writers = []
        for place in range(4):
            name = f"w{number}-{place}"
            writers.append(Writer(make_client(server, name), name))
        threads = [threading.Thread(target=writer.run) for writer in writers]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS_OF_LOAD)
        server.kill()
        for thread in threads:
            thread.join()
        with opened(server) as database:
            assert_consistent(database)
        server.start()
        for writer in writers:
            assert len(writer.acknowledged) > 1
            for request, answer in writer.acknowledged:
                replay = writer.client.request(*request)
                assert replay.is_replay
                assert (replay.status, replay.body) == (answer.status, answer.body)
                assert replay.headers.get("etag") == answer.headers.get("etag")
            # The open write happened or did not; its key makes it happen once in either case.
            for request in writer.open:
                first, second = writer.client.request(*request), writer.client.request(*request)
                assert first.status in (200, 409)
                assert second.is_replay
                assert second.body == first.body
        with opened(server) as database:
            assert_consistent(database)


def test_workers_end_with_their_server(make_server: Callable[..., Server]) -> None:
    server = make_server()
    # A worker that still loads the application has no handlers of its own yet.
    for delay in (0.0, 0.3):
        server.spawn()
        wait_for(lambda: len(server.workers()) == 2)
        time.sleep(delay)
        _kill_main(server)
    server.start()
    assert len(server.workers()) == 2
    _kill_main(server)
    # The port is free, and the database is as it was.
    server.start()
    assert make_client(server).request("POST", "/v1/agents", REGISTRATION).status == 200
    with opened(server) as database:
        assert_consistent(database)


def _kill_main(server: Server) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    # What a worker has under way it finishes, within the 30 seconds that every stop allows.
    wait_for(lambda: not group(server.process), 40)


def test_a_killed_worker_is_replaced_and_service_goes_on(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(LOG_LEVEL="info").start()
    wait_for(lambda: server.log.count("server.ready") == 2)
    client = make_client(server)
    before = server.workers()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    answered = 0
    for _ in range(20):
        try:
            answered += client.request("GET", "/v1/agents").status == 200
        except (OSError, http.client.HTTPException):
            # Only a connection that the killed worker had taken may break.
            continue
    assert answered >= 18
    wait_for(lambda: len(server.workers()) == 2 and before[0] not in server.workers())
    for _ in range(20):
        assert client.request("GET", "/readyz").status == 200
    assert client.request("POST", "/v1/agents", REGISTRATION).status == 200


def test_a_stop_finishes_what_is_under_way(server: Server, dialect: str) -> None:
    client = make_client(server)
    assert client.request("POST", "/v1/agents", REGISTRATION).status == 200
    answers: list[Answer] = []
    # The write has to wait for the one lock it needs, and so is under way when the stop comes.
    lock = "UPDATE registry_agents SET revision = revision"
    with opened(server) as database:
        with database.writer.connect() as connection, connection.begin() as transaction:
            connection.execute(text(lock))
            write = threading.Thread(
                target=lambda: answers.append(client.request("DELETE", AGENT, key="k"))
            )
            write.start()
            time.sleep(0.7)
            begun = time.monotonic()
            server.terminate()
            time.sleep(0.7)
            assert server.process is not None
            assert server.process.poll() is None
            transaction.rollback()
        write.join()
        assert [answer.status for answer in answers] == [200]
        assert server.wait() == 0
        assert time.monotonic() - begun < 15
        assert not group(server.process)
        assert_consistent(database)
    server.start()
    replay = client.request("DELETE", AGENT, key="k")
    assert (replay.is_replay, replay.body) == (True, answers[0].body)


def test_a_stop_while_starting_ends_the_server(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.spawn()
    wait_for(lambda: len(server.workers()) == 2)
    begun = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    # Workers that still load do not wait for the end of the grace period.
    assert time.monotonic() - begun < 15
    assert not group(server.process)
