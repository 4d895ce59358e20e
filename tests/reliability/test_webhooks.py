"""Webhooks of real servers: killed between sending and recording, and several on one database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.registry.manifests import build_manifest
from tests.reliability.server import Client, Server, make_client, opened, start_all, wait_for


class Hooks(ThreadingHTTPServer):
    """A receiver that keeps message ids, and answers when ``open`` is set."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[str] = []
        self.paths: set[str] = set()
        self.open = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Its clients are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hooks)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(self.headers["webhook-id"])
        self.server.paths.add(self.path)
        self.server.open.wait(20)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    """A receiver on a free port."""
    server = Hooks()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def hanging() -> Iterator[Hooks]:
    """Another one, whose answers nobody lives to see."""
    server = Hooks()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


def subscribe(client: Client, hooks: Hooks) -> str:
    body = {"url": f"http://127.0.0.1:{hooks.server_port}/"}
    answer = client.request("POST", "/v1/webhooks", body)
    assert answer.status == 200, answer.body
    return str(answer.document["id"])


def register(client: Client, *slugs: str) -> None:
    for slug in slugs:
        body = {"namespace": "@acme", "manifest": build_manifest(slug)}
        assert client.request("POST", "/v1/agents", body).status == 200


def statuses(client: Client, webhook_id: str) -> list[str]:
    answer = client.request("GET", f"/v1/webhooks/{webhook_id}/deliveries")
    return [one["status"] for one in json.loads(answer.body)["data"]]


def test_a_kill_between_sending_and_recording_repeats_and_loses_nothing(
    make_server: Callable[..., Server], hooks: Hooks
) -> None:
    server = make_server(WEBHOOK_ALLOW_PRIVATE="true").start()
    client = make_client(server)
    webhook_id = subscribe(client, hooks)
    slugs = [f"agent-{number}" for number in range(4)]
    register(client, *slugs)
    # They have arrived, and their answers are still awaited.
    wait_for(lambda: len(hooks.received) == 4)
    sent = set(hooks.received)
    server.kill()
    hooks.open.set()
    with opened(server) as database, database.transaction() as session:
        leased = "SELECT count(*) FROM notification_deliveries WHERE status = 'pending'"
        assert session.scalar(text(leased)) == 4
        # The leases of the dead run out.
        session.execute(text("UPDATE notification_deliveries SET next_attempt_at = created_at"))
    server.start()
    wait_for(lambda: statuses(client, webhook_id) == ["delivered"] * 4)
    assert set(hooks.received) == sent
    assert sorted(hooks.received) == sorted(2 * list(sent))


def test_servers_on_one_database_share_the_work(
    make_server: Callable[..., Server], hooks: Hooks
) -> None:
    servers = [make_server(WEBHOOK_ALLOW_PRIVATE="true") for _ in range(2)]
    servers[0].start()
    start_all(servers[1:])
    client = make_client(servers[0])
    hooks.open.set()
    webhook_id = subscribe(client, hooks)
    slugs = [f"agent-{number}" for number in range(20)]
    other = servers[1].client(client.api_key)
    register(client, *slugs[:10])
    register(other, *slugs[10:])
    wait_for(lambda: statuses(client, webhook_id) == ["delivered"] * 20)
    assert len(hooks.received) == len(set(hooks.received)) == 20


def test_an_owner_whose_receivers_hang_delays_no_other(
    make_server: Callable[..., Server], hooks: Hooks, hanging: Hooks
) -> None:
    server = make_server(WEBHOOK_ALLOW_PRIVATE="true").start()
    acme, globex = make_client(server), make_client(server, "globex")
    hooks.open.set()
    for _ in range(20):
        subscribe(acme, hanging)
    theirs = subscribe(globex, hooks)
    register(acme, *(f"agent-{number}" for number in range(8)))
    # Every process of the server has as many of them under way as one owner may have.
    wait_for(lambda: len(hanging.received) >= 20)

    for number in range(1, 4):
        assert globex.request("POST", f"/v1/webhooks/{theirs}/ping", {}).status == 200
        wait_for(lambda number=number: len(hooks.received) == number, 10)  # type: ignore[misc]


SILENT = """
import socket, time
ask = socket.getaddrinfo
def answer(host, *arguments, **named):
    if str(host).endswith(".silent.test") and not named.get("flags"):
        time.sleep(20)
    return ask(host, *arguments, **named)
socket.getaddrinfo = answer
"""


def test_names_whose_servers_are_silent_do_not_stop_the_service(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SILENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = make_server().start()
    client, other = make_client(server), make_client(server, "globex")
    answers: list[tuple[int, str]] = []

    def make(number: int) -> None:
        body = {"url": f"https://n{number}.silent.test/", "event_types": ["*"]}
        answer = client.request("POST", "/v1/webhooks", body)
        answers.append((answer.status, answer.document["code"]))

    makers = [threading.Thread(target=make, args=(number,)) for number in range(12)]
    for maker in makers:
        maker.start()
    served = 0
    while any(maker.is_alive() for maker in makers):
        # While they wait, half of the threads are free; the resolver would take 20 seconds.
        assert other.request("GET", "/v1/agents?limit=1", timeout=2.5).status == 200
        served += 1
    assert served > 5
    assert set(answers) == {(422, "validation_failed"), (429, "too_many_lookups")}
