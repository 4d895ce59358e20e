"""Fixtures of notification's tests: a receiver that listens, and what happens to be told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app import clock
from app.config import Settings
from app.http.context import Services
from app.ops.deliverer import deliver_due
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER
from tests.registry.manifests import build_manifest

WEBHOOKS = "/v1/webhooks"


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent; ``answer`` gives the status of each request."""

    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], int] = lambda _: 204
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hooks?from=hub"

    @property
    def ids(self) -> list[str]:
        """The message ids received, in order."""
        return [headers["webhook-id"] for headers, _ in self.requests]


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    """Start receivers on free ports."""
    servers = []

    def make() -> Receiver:
        receiver = Receiver()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append((known | {":path": self.path}, body))
                status = receiver.answer(self)
                if status:
                    self.send_response(status)
                    self.send_header("Location", receiver.url)
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            # As many as a deliverer has under way at once.
            request_queue_size = 64

        server = Server(("127.0.0.1", 0), Handler)
        receiver.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return receiver

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    """One receiver."""
    return make_receiver()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that let webhooks lead to this machine."""
    return replace(settings, webhook_allow_private=True)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

    def advance(self, **interval: float) -> None:
        """Move the clock on by a ``timedelta`` of these arguments."""
        self.now += timedelta(**interval)


@pytest.fixture
def time() -> Iterator[Clock]:
    """The one clock of the process, standing still."""
    still = Clock()
    with clock.frozen(lambda: still.now):
        yield still


@pytest.fixture
def deliver(services: Services) -> Callable[[], dict[str, int]]:
    """Attempt everything that is due, and count what came of it."""
    return lambda: dict(deliver_due(services.database, services.pepper))


@pytest.fixture
def operator(caller: Callable[..., Api]) -> Api:
    """An admin, who owns no agent."""
    return caller("operator", role="admin")


@pytest.fixture
def agents(acme: Api, globex: Api, operator: Api) -> None:
    """``@acme:clerk`` with 100 USD, and ``@globex:reader``."""
    register(acme, CLERK)
    register(globex, READER)
    body = {"agent_id": CLERK, "amount_usd": 100}
    assert operator.post("/v1/ledger/topups", body).status_code == 200


def register(api: Api, agent_id: str) -> None:
    """Register an agent."""
    namespace, _, slug = agent_id.partition(":")
    body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
    assert api.post("/v1/agents", body).status_code == 200


def subscribe(api: Api, url: str, *event_types: str) -> dict[str, Any]:
    """Make a webhook and return it with its secret."""
    body = {"url": url, "event_types": list(event_types or ("*",))}
    response = api.post(WEBHOOKS, body)
    assert response.status_code == 200, response.get_json()
    found: dict[str, Any] = response.get_json()
    return found


def deliveries(api: Api, webhook: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    """Return a webhook's deliveries, newest first."""
    parameters = "&".join(f"{name}={value}" for name, value in query.items())
    response = api.get(f"{WEBHOOKS}/{webhook['id']}/deliveries?{parameters}")
    found: list[dict[str, Any]] = response.get_json()["data"]
    return found


def delegate(api: Api, **changes: Any) -> dict[str, Any]:
    """Have ``@acme:clerk`` report inline work of ``@globex:reader``."""
    body = {
        "requester_agent_id": CLERK,
        "delegate_agent_id": READER,
        "task_spec": "Read the invoices of November",
        "estimated_cost_usd": 1,
        "max_budget_usd": 2,
    } | changes
    response = api.post(DELEGATIONS, body)
    assert response.status_code == 200, response.get_json()
    found: dict[str, Any] = response.get_json()
    return found
