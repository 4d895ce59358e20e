"""A small fleet with a month of history, made through the service as its clients would."""

from __future__ import annotations

import copy
import itertools
import random
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from app.access.models import Owner
from app.http.context import EXTENSION, Services
from app.ledger.seals import seal_pending
from app.notification.deliveries import Outcome, claim, list_due, record
from app.notification.service import subscribe
from app.ops.snapshot.create import create
from app.ops.snapshot.progress import Silence
from tests.client import Api
from tests.delegation.conftest import DELEGATIONS, Clock, Worker
from tests.registry.manifests import build_capability, build_interface, build_manifest

CLERK, READER = "@acme:payables-clerk", "@globex:invoice-reader"
TRANSLATOR, ANALYST = "@globex:contract-translator", "@initech:market-analyst"
AGENTS = {
    CLERK: ("Payables Clerk", "Takes invoices from receipt to scheduled payment.", "orchestrator"),
    "@acme:travel-desk": ("Travel Desk", "Books trips within policy and budget.", "assistant"),
    "@acme:audit-helper": ("Audit Helper", "Prepares samples for the auditors.", "tool"),
    READER: ("Invoice Reader", "Reads supplier invoices of any layout into data.", "service"),
    TRANSLATOR: ("Contract Translator", "Translates contracts and keeps their clauses.", "service"),
    ANALYST: ("Market Analyst", "Answers questions about markets with sources.", "assistant"),
    "@initech:shipment-tracker": ("Shipment Tracker", "Follows parcels to the door.", "tool"),
}
TASKS = (
    "Read the invoices that came in on Monday and return their totals",
    "Translate the framework contract with the supplier into German",
    "Summarise how the price of copper moved this quarter",
    "Extract every line item of the attached delivery notes",
    "Check the expense report against the travel policy",
)
TOLD = ["delegation.delivered", "delegation.disputed"]
RECEIVERS = {
    "work": "Starts a worker for each task that is offered",
    "archive": "Keeps a copy",
    "old": "The worker of last year",
}


def manifest(agent_id: str, version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
    """Return the manifest of one of ``AGENTS``."""
    name, description, kind = AGENTS[agent_id]
    slug = agent_id.partition(":")[2]
    document = build_manifest(slug, version)
    document["identity"] |= {"name": name, "description": description, "type": kind}
    document["identity"]["owner"] = agent_id[1:].partition(":")[0]
    document["interfaces"] = [build_interface(endpoint=f"https://agents.example.com/{slug}")]
    document["capabilities"] = [
        build_capability("extract-invoice", name="Extract an invoice"),
        build_capability(
            "classify-expense",
            name="Classify an expense",
            category="reasoning",
            description="Assigns an expense to an account of the chart of accounts.",
            protocols=["A2A"],
        ),
    ]
    return document | changes


def next_manifest() -> dict[str, Any]:
    """Return a second version of ``READER`` that breaks some of its callers."""
    document = copy.deepcopy(manifest(READER, "2.0.0"))
    extract, classify = document["capabilities"]
    extract["input_schema"]["required"] = ["invoice_text", "locale"]
    extract["protocols"] = ["MCP", "A2A", "HTTP"]
    extract |= {"side_effect_level": "low", "idempotency_key_required": True}
    classify |= {"id": "detect-duplicates", "name": "Detect duplicates", "protocols": ["A2A"]}
    return document


class World:
    """The callers of a service on a clock that stands where it was left."""

    def __init__(self, app: Any, time: Clock, callers: dict[str, Api]) -> None:
        self.services: Services = app.extensions[EXTENSION]
        self.time = time
        self.callers = callers
        self.random = random.Random(5)
        self.numbers = itertools.count(1)

    def of(self, agent_id: str) -> Api:
        """Return the owner of an agent."""
        return self.callers[agent_id[1:].partition(":")[0]]

    def send(self, api: Api, method: str, path: str, body: Any = None) -> Any:
        """Send a request that succeeds and return its answer."""
        response = api.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.get_json()

    def register(self) -> None:
        """Register every agent, and a second version of one of them; bring in money."""
        for agent_id in AGENTS:
            body = {"namespace": agent_id.partition(":")[0], "manifest": manifest(agent_id)}
            self.send(self.of(agent_id), "POST", "/v1/agents", body)
            money = {"agent_id": agent_id, "amount_usd": 250}
            self.send(self.callers["operator"], "POST", "/v1/ledger/topups", money)
        reader = self.of(READER)
        self.send(reader, "PUT", f"/v1/agents/{READER}", {"manifest": next_manifest()})
        for version, passed in (("1.0.0", 47), ("2.0.0", 49)):
            evaluation = {
                "suite": "acceptance",
                "metrics": {"accuracy": passed / 50, "p95_latency_ms": 900 - passed},
                "cases": {"passed": passed, "total": 50},
            }
            path = f"/v1/agents/{READER}/versions/{version}/evals"
            self.send(reader, "POST", path, evaluation)
        self.send(reader, "DELETE", "/v1/agents/@globex:contract-translator")
        body = {"manifest": manifest(TRANSLATOR, "1.1.0")}
        self.send(reader, "PUT", f"/v1/agents/{TRANSLATOR}", body)
        gone = "@acme:audit-helper"
        self.send(self.of(gone), "DELETE", f"/v1/agents/{gone}")
        usage = {"outcome": "success", "count": 40}
        self.send(self.callers["acme"], "POST", f"/v1/agents/{READER}/trust/usage", usage)

    def pair(self) -> tuple[str, str]:
        """Return a requester and a delegate of different owners."""
        requester = self.random.choice([CLERK, CLERK, "@acme:travel-desk", ANALYST])
        delegate = self.random.choice([READER, READER, TRANSLATOR, "@initech:shipment-tracker"])
        if requester[1] == delegate[1]:
            delegate = READER
        return requester, delegate

    def inline(self) -> None:
        """Report work that is done."""
        requester, delegate = self.pair()
        estimate = round(self.random.uniform(0.2, 2.5), 2)
        share = self.random.choice([0.4, 0.6, 0.7, 0.8, 0.9, 0.9, 0.95, 1.05, 1.3])
        body = {
            "requester_agent_id": requester,
            "delegate_agent_id": delegate,
            "task_spec": self.random.choice(TASKS),
            "estimated_cost_usd": estimate,
            "max_budget_usd": estimate * 2,
            "simulated_actual_cost_usd": round(estimate * share, 4),
        }
        self.send(self.of(requester), "POST", DELEGATIONS, body)

    def offer(self, requester: str = CLERK, delegate: str = READER, **changes: Any) -> str:
        """Offer a task and return the delegation's id."""
        body = {
            "execution": "remote",
            "requester_agent_id": requester,
            "delegate_agent_id": delegate,
            "task_spec": TASKS[0],
            "task_input": {"folder": "s3://invoices/2026-11-16", "locale": "en-GB"},
            "estimated_cost_usd": 4,
            "max_budget_usd": 6,
            "auto_reauthorize": False,
            "deadline_seconds": 86_400,
            "lease_seconds": 3_600,
        }
        offered = self.send(self.of(requester), "POST", DELEGATIONS, body | changes)
        return str(offered["delegation_id"])

    def accept(self, delegation_id: str, delegate: str = READER) -> Worker:
        """Take a task on."""
        path = f"{DELEGATIONS}/{delegation_id}/accept"
        token = self.send(self.of(delegate), "POST", path, {})["lease_token"]
        return Worker(self.of(delegate), delegation_id, token)

    def meter(self, worker: Worker, *costs: float) -> None:
        """Report costs of work, a moment apart."""
        for cost in costs:
            self.time.advance(seconds=self.random.randrange(5, 60))
            number = next(self.numbers)
            event = {
                "event_id": f"call-{number}",
                "operation": "llm_call",
                "cost_usd": cost,
                "metadata": {"model": "small", "pages": 3},
            }
            assert worker.send("meter", events=[event]).status_code == 200

    def command(self, delegation_id: str, name: str, body: Any, of: str = CLERK) -> None:
        """Give a command as the owner of an agent."""
        self.send(self.of(of), "POST", f"{DELEGATIONS}/{delegation_id}/{name}", body)

    def settled(self, requester: str = CLERK, delegate: str = READER) -> str:
        """Have a task done, delivered, accepted and paid."""
        delegation_id = self.offer(requester, delegate)
        worker = self.accept(delegation_id, delegate)
        self.meter(worker, 1.1, 1.45)
        assert worker.send("deliver", output={"invoices": 12}).status_code == 200
        self.command(delegation_id, "accept-result", {}, requester)
        return delegation_id

    def disputed(self) -> str:
        """Leave a delegation whose result the requester contests."""
        delegation_id = self.offer()
        self.time.advance(seconds=40)
        worker = self.accept(delegation_id)
        self.meter(worker, 0.8, 1.1, 1.45)
        self.time.advance(seconds=20)
        assert worker.send("deliver", output={"invoices": 12, "total": 4120.5}).status_code == 200
        self.time.advance(minutes=11)
        reason = "Two of the twelve totals are those of other invoices"
        self.command(delegation_id, "dispute", {"reason": reason})
        return delegation_id

    def live(self) -> dict[str, str]:
        """Leave a delegation in every live state, and one that failed; return them by state."""
        found = {"disputed": self.disputed()}
        found["pending_reauthorization"] = self.offer(estimated_cost_usd=2)
        self.meter(self.accept(found["pending_reauthorization"]), 1.2, 0.85)
        found["input_required"] = self.offer()
        worker = self.accept(found["input_required"])
        self.meter(worker, 0.3)
        assert worker.send("ask", question="Which currency should totals be in?").status_code == 200
        found["delivered"] = self.offer(ANALYST, READER)
        worker = self.accept(found["delivered"])
        self.meter(worker, 0.9)
        assert worker.send("deliver", output={"rows": 41}).status_code == 200
        found["in_progress"] = self.offer()
        self.meter(self.accept(found["in_progress"]), 1.5, 1.9)
        found["failed"] = self.offer()
        worker = self.accept(found["failed"])
        assert worker.send("fail", reason="the documents are encrypted").status_code == 200
        found["declined"] = self.offer()
        self.command(found["declined"], "decline", {"reason": "no capacity"}, READER)
        found["cancelled"] = self.offer()
        self.command(found["cancelled"], "cancel", {"reason": "no longer needed"})
        found["offered"] = self.offer(accept_within_seconds=3_600)
        return found

    def webhooks(self) -> None:
        """Have three URLs told of events: one takes them, one fails, one is gone."""
        with self.services.database.transaction() as session:
            owner_id = session.scalars(select(Owner.id).where(Owner.name == "globex")).one()
            for name, description in RECEIVERS.items():
                url = f"https://hooks.globex.example/{name}"
                subscribe(session, owner_id, url, TOLD, description)

    def attempt(self) -> None:
        """Attempt the deliveries that are due, as a server does, but with no receiver."""
        answers = {"work": (200, None), "archive": (503, "HTTP 503"), "old": (410, "HTTP 410")}
        with self.services.database.read() as connection:
            due = list_due(connection, self.time.now)
        with self.services.database.transaction() as session:
            claims = claim(session, dict.fromkeys((found[1] for found in due), 4))
            record(session, [Outcome(one, *answers[one.url.rpartition("/")[2]]) for one in claims])

    def snapshot(self) -> None:
        """Take a snapshot into the folder that the console lists, beside one that is cut off."""
        folder = self.services.settings.snapshot_dir
        assert folder is not None
        folder.mkdir()
        (folder / "agenthub-20261119T031500Z.snapshot").write_bytes(b"cut off")
        name = f"agenthub-{self.time.now:%Y%m%dT%H%M%SZ}.snapshot"
        create(self.services.database, folder / name, Silence())

    def seal(self) -> None:
        """Seal the ledger, as a server does twice a minute."""
        with self.services.database.transaction() as session:
            seal_pending(session)

    def fill(self, days: int = 30, each: int = 4) -> dict[str, str]:
        """Live through some days up to the clock's present; return what ``live`` does."""
        end = self.time.now
        self.time.now = end - timedelta(days=days)
        self.register()
        for _ in range(days * each):
            self.time.advance(hours=24 / each * self.random.uniform(0.6, 1.3))
            if self.time.now < end - timedelta(hours=24):
                self.inline()
        self.time.now = end - timedelta(hours=23)
        for _ in range(46):
            self.inline()
            self.time.advance(minutes=self.random.uniform(10, 45))
        self.seal()
        self.time.now = end - timedelta(minutes=26)
        self.webhooks()
        found = self.live()
        self.attempt()
        self.time.now = end
        if self.services.settings.snapshot_dir:
            self.snapshot()
        return found
