"""What a server of several processes tells of itself: all of its counts, and no secret."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.access.service import list_keys
from app.config import Settings
from tests.conftest import PEPPER
from tests.http.test_metrics import Samples, parse, value
from tests.registry.manifests import build_manifest
from tests.reliability.server import Client, Server, make_client, opened, wait_for
from tests.reliability.test_webhooks import Hooks
from tests.reliability.test_webhooks import hooks as hooks

TOKEN = "token-of-the-metrics-0123456789abcdef"
SCRAPER = {"Authorization": f"Bearer {TOKEN}"}


def scrape(client: Client) -> Samples:
    answer = client.request("GET", "/metrics", headers=SCRAPER)
    assert answer.status == 200, answer.body
    return parse(answer.body.decode())


def counted(client: Client) -> float:
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    return value(scrape(client), "agenthub_http_requests_total", **labels)


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("agenthub-counts-*")}


def test_all_processes_count_together_those_that_died_included(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(METRICS_TOKEN=TOKEN, LOG_LEVEL="info").start()
    assert server.process is not None
    wait_for(lambda: server.log.count("server.ready") == 2)
    client = server.client()
    for _ in range(40):
        assert client.request("GET", "/healthz").status == 200
    assert counted(client) == counted(client) == 40
    dead, *_ = server.workers()
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: server.log.count("server.ready") == 3)
    for _ in range(10):
        assert client.request("GET", "/healthz").status == 200
    assert counted(client) == 50
    mine = f"agenthub-counts-{server.process.pid}-"
    assert any(name.startswith(mine) for name in folders())
    server.terminate()
    server.wait()
    assert not any(name.startswith(mine) for name in folders())

    # A server that was killed leaves its folder to the next one, which begins at nothing.
    server.start()
    killed = f"agenthub-counts-{server.process.pid}-"
    server.kill()
    server.start()
    assert not any(name.startswith(killed) for name in folders())
    assert counted(client) == 0


def test_a_stop_stores_and_sends_what_was_gathered(
    make_server: Callable[..., Server], hooks: Hooks
) -> None:
    hooks.open.set()
    endpoint = f"http://127.0.0.1:{hooks.server_port}"
    server = make_server(OTLP_ENDPOINT=endpoint).start()
    client = make_client(server)
    assert client.request("GET", "/v1/webhooks").status == 200
    server.terminate()
    server.wait()
    with opened(server) as database, database.read() as connection:
        used = {row["owner"]: row["last_used_at"] for row in list_keys(connection, None)}
    assert used["acme"] is not None
    assert hooks.paths == {"/v1/traces"}


def test_no_log_line_holds_a_secret(make_server: Callable[..., Server], settings: Settings) -> None:
    server = make_server(
        METRICS_TOKEN=TOKEN,
        LOG_LEVEL="debug",
        WEBHOOK_ALLOW_PRIVATE="true",
        OTLP_ENDPOINT="http://127.0.0.1:1",
    ).start()
    client = make_client(server)
    operator = make_client(server, "operator", "admin")
    secrets = {
        PEPPER,
        TOKEN,
        client.api_key,
        operator.api_key,
        "marker-of-a-body",
        "key-of-a-write",
    }

    def send(method: str, path: str, body: object, key: str | None = None) -> dict[str, object]:
        answer = client.request(method, path, body, key)
        found: dict[str, object] = answer.document
        return found

    for slug in ("clerk", "reader"):
        send("POST", "/v1/agents", {"namespace": "@acme", "manifest": build_manifest(slug)})
    topup = {"agent_id": "@acme:clerk", "amount_usd": 10}
    assert operator.request("POST", "/v1/ledger/topups", topup).status == 200
    # A port that nobody listens on, so that attempts fail and are logged.
    webhook = send("POST", "/v1/webhooks", {"url": "http://127.0.0.1:1/marker-of-a-body"})
    secrets.add(str(webhook["secret"]))
    work = {
        "execution": "remote",
        "requester_agent_id": "@acme:clerk",
        "delegate_agent_id": "@acme:reader",
        "task_spec": "marker-of-a-body",
        "estimated_cost_usd": 1,
        "max_budget_usd": 2,
    }
    offered = send("POST", "/v1/delegations", work, "key-of-a-write")
    send("POST", "/v1/delegations", work, "key-of-a-write")
    taken = send("POST", f"/v1/delegations/{offered['delegation_id']}/accept", {})
    secrets.add(str(taken["lease_token"]))
    # What is refused, and what is broken.
    send("POST", "/v1/delegations", {"task_spec": "marker-of-a-body"})
    send("POST", "/v1/delegations", b'{"marker-of-a-body')
    send("POST", "/v1/webhooks", {"url": "http://marker-of-a-body@127.0.0.1/"})
    for key in (client.api_key + "x", client.api_key[:-1]):
        server.client(key).request("POST", "/v1/agents", {"marker-of-a-body": 1})
        secrets.add(key)
    wait_for(lambda: "webhook.failed" in server.log)
    server.terminate()
    server.wait()

    lines = [line for line in server.log.splitlines() if line.startswith("{")]
    write = next(line for line in lines if '"replayed": true' in line)
    for expected in (
        '"owner": "acme"',
        '"key_id": "',
        '"idempotency_key_hash": "',
        '"trace_id": "',
    ):
        assert expected in write
    for secret in secrets:
        assert secret not in server.log
        assert secret.removeprefix("whsec_").rpartition("_")[2] not in server.log
    password = settings.url.password
    assert not password or password not in server.log
    # The first start shows the operator a key; that is not a line of the log.
    assert not re.search(r"whsec_|ah_[0-9a-f]{16}_", "".join(lines))
