"""A journey through a running service, over HTTP, as an agent and its operator would make it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from app.client.hub import JsonObject
from app.ids import new_id
from app.ops.client import Call, CallFailed, send
from app.ops.demo import build_capability, build_manifest

NAMESPACE = "@agenthub-readiness"
REQUESTER, WORKER = f"{NAMESPACE}:requester", f"{NAMESPACE}:worker"
ESTIMATE_USD, CHARGE_USD = 0.02, 0.01
PAGES = ("/docs", "/operator")
ECHO = build_capability(
    "echo", "Echo a text", "Returns the text it was given.", {"text": "string"}, {"text": "string"}
)


@dataclass
class Journey:
    """The steps, in order; each depends on those before it.

    The two agents are registered once and stay; each journey moves a cent from one to the other and
    brings in the two that it holds. All of it belongs to the owner of ``api_key``, an admin's.
    """

    url: str
    api_key: str
    run_id: str = field(default_factory=new_id)
    delegation_id: str = ""

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield the name of each step and the function that runs it.

        The function returns a detail to show. It raises ``CallFailed`` when the service refuses a
        call, and ``LookupError`` or ``TypeError`` when an answer lacks what is documented.
        """
        yield "health", self.look_at_health
        yield "register", self.register
        yield "get", self.get
        yield "list", self.list
        yield "fund", self.fund
        yield "delegate", self.delegate
        yield "settle", self.settle
        yield "audit trail", self.look_at_trail
        yield "pages", self.look_at_pages

    def _send(
        self, method: str, path: str, body: JsonObject | None = None, key: str = ""
    ) -> JsonObject:
        return send(self.url, self.api_key, Call("", method, path, body, key or None))

    def look_at_health(self) -> str:
        """The service is up, and its database and schema are what it needs."""
        self._send("GET", "/healthz")
        status = self._send("GET", "/readyz")["status"]
        if status != "ready":
            raise CallFailed(f"/readyz says {status}")
        return "alive and ready"

    def register(self) -> str:
        """Both agents are registered, now or by an earlier journey."""
        for agent_id, name in ((REQUESTER, "Readiness Requester"), (WORKER, "Readiness Worker")):
            slug = agent_id.partition(":")[2]
            identity = {
                "id": slug,
                "name": name,
                "type": "service",
                "description": "Takes part in the journey of the readiness check.",
            }
            body = {"namespace": NAMESPACE, "manifest": build_manifest(identity, ECHO)}
            try:
                self._send("POST", "/v1/agents", body, f"readiness-register-{slug}")
            except CallFailed as error:
                if error.code != "idempotency_response_expired":
                    raise
        return f"{REQUESTER} and {WORKER}"

    def get(self) -> str:
        """One of them is found by its id."""
        found = self._send("GET", f"/v1/agents/{WORKER}")
        if found["status"] != "active":
            raise CallFailed(f"{WORKER} is {found['status']}")
        return f"{WORKER} {found['latest_version']}"

    def list(self) -> str:
        """Both are found in their namespace."""
        found = self._send("GET", f"/v1/namespaces/{NAMESPACE}")["data"]
        names = {agent["id"] for agent in found}
        if not {REQUESTER, WORKER} <= names:
            raise CallFailed(f"the namespace lists {', '.join(sorted(names)) or 'nothing'}")
        return f"{len(names)} agents in {NAMESPACE}"

    def fund(self) -> str:
        """Money comes in, which takes an admin's key."""
        body = {"agent_id": REQUESTER, "amount_usd": ESTIMATE_USD}
        self._send("POST", "/v1/ledger/topups", body, f"readiness-fund-{self.run_id}")
        return f"{ESTIMATE_USD} USD for {REQUESTER}"

    def delegate(self) -> str:
        """A task is offered, taken on, metered and delivered."""
        offer = {
            "execution": "remote",
            "requester_agent_id": REQUESTER,
            "delegate_agent_id": WORKER,
            "capability_id": ECHO["id"],
            "task_spec": "Return the text",
            "task_input": {"text": self.run_id},
            "estimated_cost_usd": ESTIMATE_USD,
            "max_budget_usd": ESTIMATE_USD,
        }
        offered = self._send("POST", "/v1/delegations", offer, f"readiness-offer-{self.run_id}")
        self.delegation_id = offered["delegation_id"]
        lease = {"lease_token": self._command("accept")["lease_token"]}
        used = {"event_id": "1", "operation": "echo", "cost_usd": CHARGE_USD}
        self._command("meter", {**lease, "events": [used]})
        self._command("deliver", {**lease, "output": {"text": self.run_id}})
        return self.delegation_id

    def _command(self, name: str, body: JsonObject | None = None) -> JsonObject:
        path = f"/v1/delegations/{self.delegation_id}/{name}"
        return self._send("POST", path, body or {}, f"readiness-{name}-{self.run_id}")

    def settle(self) -> str:
        """The result is accepted; the cost is paid and the rest goes back."""
        settled = self._command("accept-result")
        paid = (settled["status"], settled["charged_usd"], settled["refunded_usd"])
        if paid != ("completed", CHARGE_USD, round(ESTIMATE_USD - CHARGE_USD, 6)):
            raise CallFailed(f"the delegation ended as {paid}")
        return f"{CHARGE_USD} USD paid, the rest refunded"

    def look_at_trail(self) -> str:
        """Everything that happened is on record."""
        found = self._send("GET", f"/v1/delegations/{self.delegation_id}/status")["audit_trail"]
        if len(found) < 5:
            raise CallFailed(f"the audit trail has only {len(found)} entries")
        return f"{len(found)} entries"

    def look_at_pages(self) -> str:
        """People are shown pages."""
        for page in PAGES:
            try:
                with urllib.request.urlopen(self.url + page, timeout=30) as answer:  # noqa: S310
                    kind = answer.headers.get_content_type()
            except (urllib.error.URLError, TimeoutError) as error:
                raise CallFailed(f"GET {page}: {error}") from None
            if kind != "text/html":
                raise CallFailed(f"GET {page} answers {kind}")
        return " and ".join(PAGES)
