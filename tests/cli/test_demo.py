"""The demonstration, its curl lines, and its worker, against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app import clock
from app.config import Settings, client_environment
from app.idempotency.service import drop_expired_bodies
from app.ops import demo_delegation
from app.ops.client import CallFailed
from app.ops.demo import Caller
from app.ops.demo_delegation import DELEGATE, INVOICE, REQUESTER
from app.ops.demo_worker import NotAnInvoice, read_invoice
from tests.cli.test_commands import Shell
from tests.reliability.server import Client, Server, make_client, opened, url_of

DEMO_AGENTS = ["@demo:expense-classifier", "@demo:invoice-reader", "@demo:payables-clerk"]
KEYS = ("AGENTHUB_API_KEY", "AGENTHUB_OPERATOR_KEY", "AGENTHUB_WORKER_KEY")


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty registry."""
    server = Server(url_of(settings), tmp_path).start()
    yield server
    server.end()


@pytest.fixture
def demo(server: Server, settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Run ``agenthub demo`` against the server."""
    shell = Shell(settings, tmp_path)
    address = f"http://127.0.0.1:{server.port}"
    return lambda *options: shell.run("demo", "--url", address, *options)


def delegations(client: Client) -> list[dict[str, Any]]:
    """Return the delegations that a client sees, newest first."""
    found: list[dict[str, Any]] = client.request("GET", "/v1/delegations").document["data"]
    return found


def test_it_can_be_run_again_and_its_lines_copied(
    server: Server, demo: Callable[..., Any], settings: Settings, tmp_path: Path
) -> None:
    first, second = demo("--verbose"), demo("-v")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    listed = server.client().request("GET", "/v1/namespaces/demo").document["data"]
    assert [agent["id"] for agent in listed] == DEMO_AGENTS
    assert listed[1]["versions"] == ["1.0.0", "2.0.0"]
    keys = dict(re.findall(r"^export (\w+)=(.*)", second.stdout, re.MULTILINE))
    assert tuple(keys) == KEYS
    clerk = server.client(keys["AGENTHUB_API_KEY"])
    made = delegations(clerk)
    assert [one["execution"] for one in made] == ["remote", "inline"] * 2
    assert {one["status"] for one in made} == {"completed"}
    assert "/v1/ledger/topups" in first.stdout
    assert "/v1/ledger/topups" not in second.stdout
    assert Shell(settings, tmp_path).run("ledger", "reconcile").returncode == 0
    repeat_lines(second.stdout, keys)
    assert delegations(clerk) == made


def repeat_lines(shown: str, keys: dict[str, str]) -> None:
    """Run every curl line that a demonstration has shown once more."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    commands = re.findall(r"^curl (?:.*\\\n)*.*", shown, re.MULTILINE)
    assert len(commands) == 20
    for command in commands:
        ran = subprocess.run(
            ["/bin/sh", "-c", command.replace("curl -sS", "curl -sS --fail-with-body")],
            env={**keys, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        # The worker ends when no task waits any more, which is not found.
        assert ran.returncode == 0 or "no_task_offered" in ran.stdout, ran.stdout


def test_it_can_be_run_when_its_answers_are_no_longer_kept(
    server: Server, demo: Callable[..., Any]
) -> None:
    assert demo().returncode == 0
    later = clock.now() + timedelta(days=30)
    with opened(server) as database, clock.frozen(lambda: later), database.transaction() as session:
        assert drop_expired_bodies(session)
    again = demo("--verbose")
    assert again.returncode == 0, again.stderr
    assert "done by an earlier run" in again.stdout


def test_it_ends_in_a_few_lines_three_calls_and_links_to_what_it_made(
    server: Server, demo: Callable[..., Any]
) -> None:
    done = demo()
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^curl ", done.stdout, re.MULTILINE)) == 3
    prose = done.stdout.rpartition("}]}\n")[2].strip()
    assert len([line for line in prose.splitlines() if line]) <= 10
    assert len(done.stdout) < 5_000
    keys = dict(re.findall(r"^export (\w+)=(.*)", done.stdout, re.MULTILINE))
    links = re.findall(r"http://127\.0\.0\.1:\d+(/(?:agents|operator)/\S+)", prose)
    assert links[0] == f"/agents/{DELEGATE}"
    made = delegations(server.client(keys["AGENTHUB_API_KEY"]))
    assert links[1] == f"/operator/delegations/{made[0]['delegation_id']}"


def test_no_key_is_left_without_an_end(server: Server, demo: Callable[..., Any]) -> None:
    assert demo().returncode == 0
    with opened(server) as database, database.read() as connection:
        keys = connection.execute(
            sa.text(
                "SELECT k.expires_at FROM access_api_keys k JOIN access_owners o"
                " ON o.id = k.owner_id WHERE o.name LIKE 'demo%'"
            )
        ).all()
    assert len(keys) == 3
    assert all(expires_at is not None for (expires_at,) in keys)


def test_a_remote_server_needs_the_keys_of_all_three(
    server: Server, demo: Callable[..., Any]
) -> None:
    callers = (
        make_client(server, "demo"),
        make_client(server, "demo-operator", "admin"),
        make_client(server, "partner"),
    )
    clerk, operator, worker = (caller.api_key for caller in callers)
    alone = demo("--api-key", clerk)
    assert alone.returncode == 0, alone.stderr
    assert "--worker-key" in alone.stdout
    assert "--operator-key" in alone.stdout
    assert delegations(callers[0]) == []
    refused = demo("--api-key", clerk, "--operator-key", worker, "--worker-key", worker)
    assert refused.returncode == 2
    assert "role_required" in refused.stderr
    whole = demo("--api-key", clerk, "--operator-key", operator, "--worker-key", worker)
    assert whole.returncode == 0, whole.stderr
    assert not {key for key in (clerk, operator, worker) if key in whole.stdout + whole.stderr}
    remote, inline = delegations(callers[0])
    assert (remote["status"], remote["delegate_agent_id"]) == ("completed", DELEGATE)
    assert remote["charged_usd"] == round(len(INVOICE) * 0.00025, 6)
    assert (inline["status"], inline["charged_usd"]) == ("completed", 0.0125)


def test_the_worker_gives_up_what_it_cannot_read(server: Server, demo: Callable[..., Any]) -> None:
    assert demo().returncode == 0
    clerk, worker = make_client(server, "demo"), make_client(server, "demo-partner")
    for number, text in enumerate(("Dear Sirs", INVOICE)):
        body = {
            "execution": "remote",
            "requester_agent_id": REQUESTER,
            "delegate_agent_id": DELEGATE,
            "task_spec": f"Task {number}",
            "task_input": {"invoice_text": text},
            "estimated_cost_usd": 0.2,
            "max_budget_usd": 0.5,
        }
        assert clerk.request("POST", "/v1/delegations", body).status == 200
    address = f"http://127.0.0.1:{server.port}"
    refused = run_worker(address, "ah_unknown")
    assert (refused.returncode, "401" in refused.stderr) == (1, True)
    assert "Traceback" not in refused.stderr
    assert run_worker(address, worker.api_key).returncode == 0
    states = {one["task_spec"]: one["status"] for one in delegations(clerk)}
    assert (states["Task 0"], states["Task 1"]) == ("failed", "delivered")


def run_worker(address: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration's worker as the demonstration does."""
    return subprocess.run(
        [sys.executable, "-m", "app.ops.demo_worker", DELEGATE],
        env=client_environment(AGENTHUB_URL=address, AGENTHUB_API_KEY=key),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestTheWorkersProcess:
    """What the worker is given, and what becomes of a worker that fails."""

    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the worker's process was started with; the process itself fails."""
        seen: dict[str, Any] = {}

        def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            seen.update(options, arguments=arguments)
            return subprocess.CompletedProcess(arguments, 1, "", "first\nlast words\n")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setitem(os.environ, "AGENTHUB_KEY_PEPPER", "a secret of the service")
        return seen

    def test_its_key_is_in_its_environment_alone(self, given: dict[str, Any]) -> None:
        with pytest.raises(CallFailed, match="exit code 1: last words"):
            demo_delegation.run_worker(Caller("http://hub.example", "ah_key"))
        own = {name: v for name, v in given["env"].items() if name.startswith("AGENTHUB_")}
        assert own == {"AGENTHUB_URL": "http://hub.example", "AGENTHUB_API_KEY": "ah_key"}
        assert "ah_key" not in json.dumps(given["arguments"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INVOICE, ("Northwind Paper GmbH", 290.36, "EUR", "2026-12-18")),
        (
            "\n  A. Baker\nGRAND TOTAL: usd 1,234.50\nDue by 2027-01-02",
            ("A. Baker", 1234.5, "USD", "2027-01-02"),
        ),
        ("A\nTotal EUR 1.00\nTotal due EUR 2.00\nDue: 2026-12-18\n", ("A", 2, "EUR", "2026-12-18")),
    ],
)
def test_an_invoice_is_read(text: str, expected: tuple[Any, ...]) -> None:
    assert tuple(read_invoice(text).values()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dear Sirs",
        INVOICE.replace("Total  ", "Sum  "),
        INVOICE.replace("Payment due", "Payment"),
        INVOICE.replace("2026-12-18", "2026-12-48"),
        INVOICE.replace("EUR 290.36", "EUR"),
    ],
)
def test_what_is_no_invoice(text: str) -> None:
    with pytest.raises(NotAnInvoice):
        read_invoice(text)
