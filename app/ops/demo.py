"""The demonstration: three realistic agents, registered over HTTP like any client would."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from app.client.hub import JsonObject
from app.ops.client import Call, CallFailed, send
from app.registry.examples import MANIFEST

NAMESPACE = "@demo"
MAX_SHOWN = 400


@dataclass(frozen=True)
class Caller:
    """Somebody with an API key, which the curl lines take from the variable ``key_variable``.

    A caller that is not ``verbose`` shows a call only when ``show`` is asked to.
    """

    url: str
    api_key: str
    key_variable: str = "AGENTHUB_API_KEY"
    verbose: bool = True

    def make(self, call: Call) -> JsonObject:
        """Make a call and return the answer. Raises ``CallFailed``."""
        if self.verbose:
            self._show_call(call)
        answer = send(self.url, self.api_key, call)
        if self.verbose:
            self._show_answer(call, answer)
        return answer

    def show(self, call: Call, answer: JsonObject) -> None:
        """Show a call as a curl line, and what matters of its answer."""
        self._show_call(call)
        self._show_answer(call, answer)

    def _show_call(self, call: Call) -> None:
        click.echo(f"# {call.purpose}")
        click.echo(call.as_curl(self.url, self.key_variable))

    def _show_answer(self, call: Call, answer: JsonObject) -> None:
        if call.shows:
            click.echo(json.dumps({name: answer[name] for name in call.shows}) + "\n")
        else:
            click.echo(json.dumps(answer)[:MAX_SHOWN] + "\n")

    def make_once(self, call: Call) -> None:
        """Make a call whose effect may be there from an earlier run. Raises ``CallFailed``."""
        try:
            self.make(call)
        except CallFailed as error:
            if error.code != "idempotency_response_expired":
                raise
            if self.verbose:
                click.echo(f"# {call.purpose}: done by an earlier run, its answer is gone\n")


def build_capability(
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


def build_manifest(identity: JsonObject, *capabilities: JsonObject) -> JsonObject:
    """Return a manifest of version 1.0.0 unless ``identity`` names another."""
    manifest = copy.deepcopy(MANIFEST)
    manifest["identity"] = {"version": "1.0.0", "owner": "demo", "tags": ["finance"]} | identity
    manifest["capabilities"] = list(capabilities)
    manifest["interfaces"][0]["endpoint"] = f"https://agents.demo.example/{identity['id']}"
    return manifest


EXTRACT = build_capability(
    "extract-invoice",
    "Extract an invoice",
    "Reads a scanned supplier invoice and returns its fields.",
    {"document_uri": "string"},
    {"supplier": "string", "total": "number"},
    permissions=["documents.read"],
)
EXTRACT_IN_CURRENCY = build_capability(
    "extract-invoice",
    "Extract an invoice",
    "Reads a scanned supplier invoice and returns its fields in one currency.",
    {"document_uri": "string", "currency": "string"},
    {"supplier": "string", "total": "number"},
    permissions=["documents.read"],
)
CLASSIFY = build_capability(
    "classify-expense",
    "Classify an expense",
    "Assigns an expense to an account of the chart of accounts.",
    {"description": "string", "total": "number"},
    {"account": "string"},
    category="reasoning",
)
PAY = build_capability(
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
        build_manifest(READER, EXTRACT),
        build_manifest(CLASSIFIER, CLASSIFY),
        build_manifest(CLERK, PAY, CLASSIFY),
    ):
        yield Call(
            f"Register {manifest['identity']['name']}",
            "POST",
            "/v1/agents",
            {"namespace": NAMESPACE, "manifest": manifest},
            f"demo-register-{manifest['identity']['id']}",
        )
    reader = f"{NAMESPACE}:{READER['id']}"
    second = build_manifest({**READER, "version": "2.0.0"}, EXTRACT_IN_CURRENCY, CLASSIFY)
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
        public=True,
    )
    yield Call(
        "List the agents of the namespace", "GET", f"/v1/namespaces/{NAMESPACE}", public=True
    )
