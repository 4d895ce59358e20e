"""The demonstration: three realistic agents, registered over HTTP like any client would."""

from __future__ import annotations

import copy
import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.registry.examples import MANIFEST

NAMESPACE = "@demo"
JsonObject = dict[str, Any]


class DemoFailed(Exception):
    """The service could not be reached, or refused a call; the message says which and why."""


@dataclass(frozen=True)
class Call:
    """One request of the demonstration and why it is made."""

    purpose: str
    method: str
    path: str
    body: JsonObject | None = None
    idempotency_key: str | None = None

    def as_curl(self, url: str) -> str:
        """Return the call as a command line; the key is taken from ``$AGENTHUB_API_KEY``."""
        parts = ["curl", "-sS"]
        if self.method != "GET":
            parts += ["-X", self.method]
        line = " ".join(parts) + " " + shlex.quote(url + self.path)
        if self.idempotency_key:
            line += ' \\\n  -H "X-API-Key: $AGENTHUB_API_KEY"'
            line += f" \\\n  -H {shlex.quote(f'Idempotency-Key: {self.idempotency_key}')}"
        if self.body is not None:
            line += " \\\n  -H 'Content-Type: application/json'"
            line += f" \\\n  -d {shlex.quote(json.dumps(self.body))}"
        return line


def _capability(
    identifier: str,
    name: str,
    description: str,
    takes: dict[str, str],
    gives: dict[str, str],
    **overrides: Any,
) -> JsonObject:
    """Return a capability whose schemas require every member of ``takes`` and ``gives``."""

    def schema(members: dict[str, str]) -> JsonObject:
        properties = {member: {"type": kind} for member, kind in members.items()}
        return {"type": "object", "properties": properties, "required": sorted(members)}

    return {
        "id": identifier,
        "name": name,
        "category": "transformation",
        "description": description,
        "input_schema": schema(takes),
        "output_schema": schema(gives),
        "protocols": ["HTTP", "MCP"],
        "permissions": [],
        "idempotency_key_required": False,
        "side_effect_level": "none",
        "cost": {"mode": "usage", "estimated_cost": 0.02, "unit": "call"},
    } | overrides


def _manifest(identity: JsonObject, *capabilities: JsonObject) -> JsonObject:
    manifest = copy.deepcopy(MANIFEST)
    manifest["identity"] = {"version": "1.0.0", "owner": "demo", "tags": ["finance"]} | identity
    manifest["capabilities"] = list(capabilities)
    manifest["interfaces"][0]["endpoint"] = f"https://agents.demo.example/{identity['id']}"
    return manifest


EXTRACT = _capability(
    "extract-invoice",
    "Extract an invoice",
    "Reads a scanned supplier invoice and returns its fields.",
    {"document_uri": "string"},
    {"supplier": "string", "total": "number"},
    permissions=["documents.read"],
)
EXTRACT_IN_CURRENCY = _capability(
    "extract-invoice",
    "Extract an invoice",
    "Reads a scanned supplier invoice and returns its fields in one currency.",
    {"document_uri": "string", "currency": "string"},
    {"supplier": "string", "total": "number"},
    permissions=["documents.read"],
)
CLASSIFY = _capability(
    "classify-expense",
    "Classify an expense",
    "Assigns an expense to an account of the chart of accounts.",
    {"description": "string", "total": "number"},
    {"account": "string"},
    category="reasoning",
)
PAY = _capability(
    "schedule-payment",
    "Schedule a payment",
    "Queues a supplier payment for the next payment run.",
    {"supplier": "string", "total": "number"},
    {"payment_id": "string"},
    category="action",
    permissions=["payments.write"],
    side_effect_level="high",
    idempotency_key_required=True,
)
READER = {
    "id": "invoice-reader",
    "name": "Invoice Reader",
    "type": "service",
    "description": "Reads supplier invoices of any layout into structured data.",
}
CLASSIFIER = {
    "id": "expense-classifier",
    "name": "Expense Classifier",
    "type": "tool",
    "description": "Books expenses to accounts the way the finance team would.",
}
CLERK = {
    "id": "payables-clerk",
    "name": "Payables Clerk",
    "type": "orchestrator",
    "description": "Takes invoices from receipt to scheduled payment.",
}


def calls() -> Iterator[Call]:
    """Yield the demonstration's calls in order. Running it again replays every answer."""
    for manifest in (
        _manifest(READER, EXTRACT),
        _manifest(CLASSIFIER, CLASSIFY),
        _manifest(CLERK, PAY, CLASSIFY),
    ):
        yield Call(
            f"Register {manifest['identity']['name']}",
            "POST",
            "/v1/agents",
            {"namespace": NAMESPACE, "manifest": manifest},
            f"demo-register-{manifest['identity']['id']}",
        )
    reader = f"{NAMESPACE}:{READER['id']}"
    second = _manifest({**READER, "version": "2.0.0"}, EXTRACT_IN_CURRENCY, CLASSIFY)
    yield Call(
        "Publish a second version of Invoice Reader, which asks its callers for more",
        "PUT",
        f"/v1/agents/{reader}",
        {"manifest": second},
        "demo-publish-invoice-reader-2.0.0",
    )
    yield Call(
        "See whom the new version breaks",
        "GET",
        f"/v1/agents/{reader}/versions/1.0.0/behavioral-diff/2.0.0",
    )
    yield Call("List the agents of the namespace", "GET", f"/v1/namespaces/{NAMESPACE}")


def send(url: str, api_key: str, call: Call) -> JsonObject:
    """Make one call and return the answer. Raises ``DemoFailed``."""
    headers = {"Content-Type": "application/json", "X-API-Key": api_key}
    if call.idempotency_key:
        headers["Idempotency-Key"] = call.idempotency_key
    body = json.dumps(call.body).encode() if call.body is not None else None
    request = urllib.request.Request(  # noqa: S310 (the operator names the address)
        url + call.path, data=body, headers=headers, method=call.method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer: JsonObject = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        detail = error.read().decode("utf-8", "replace")
        raise DemoFailed(
            f"{call.method} {call.path} was refused ({error.code}): {detail}"
        ) from None
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DemoFailed(
            f"no AgentHub answers at {url} ({reason}); start one: agenthub up"
        ) from None
