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


def _capability(identifier: str, name: str, category: str, description: str,
                takes: dict[str, str], gives: dict[str, str], **overrides: Any) -> JsonObject:  # fmt: skip
    def schema(members: dict[str, str]) -> JsonObject:
        properties = {member: {"type": kind} for member, kind in members.items()}
        return {"type": "object", "properties": properties, "required": sorted(members)}

    return {
        "id": identifier,
        "name": name,
        "category": category,
        "description": description,
        "input_schema": schema(takes),
        "output_schema": schema(gives),
        "protocols": ["HTTP", "MCP"],
        "permissions": [],
        "idempotency_key_required": False,
        "side_effect_level": "none",
        "cost": {"mode": "usage", "estimated_cost": 0.02, "unit": "call"},
    } | overrides


def _manifest(slug: str, name: str, kind: str, description: str, tags: list[str],
              capabilities: list[JsonObject], version: str = "1.0.0") -> JsonObject:  # fmt: skip
    manifest = copy.deepcopy(MANIFEST)
    manifest["identity"] = {
        "id": slug,
        "name": name,
        "version": version,
        "description": description,
        "owner": "demo",
        "type": kind,
        "tags": tags,
    }
    manifest["capabilities"] = capabilities
    manifest["interfaces"][0]["endpoint"] = f"https://agents.demo.example/{slug}"
    return manifest


def manifests() -> dict[str, JsonObject]:
    """Return the manifests of the demonstration by name."""
    extract = _capability(
        "extract-invoice", "Extract an invoice", "transformation",
        "Reads a scanned supplier invoice and returns its fields.",
        {"document_uri": "string"}, {"supplier": "string", "total": "number"},
        permissions=["documents.read"],
    )  # fmt: skip
    extract_in_currency = copy.deepcopy(extract)
    extract_in_currency["input_schema"]["properties"]["currency"] = {"type": "string"}
    extract_in_currency["input_schema"]["required"].append("currency")
    classify = _capability(
        "classify-expense", "Classify an expense", "reasoning",
        "Assigns an expense to an account of the chart of accounts.",
        {"description": "string", "total": "number"}, {"account": "string"},
    )  # fmt: skip
    pay = _capability(
        "schedule-payment", "Schedule a payment", "action",
        "Queues a supplier payment for the next payment run.",
        {"supplier": "string", "total": "number"}, {"payment_id": "string"},
        permissions=["payments.write"], side_effect_level="high", idempotency_key_required=True,
    )  # fmt: skip
    reader = ("invoice-reader", "Invoice Reader", "service",
              "Reads supplier invoices of any layout into structured data.", ["finance", "documents"])  # fmt: skip
    return {
        "reader": _manifest(*reader, [extract]),
        "reader-2": _manifest(*reader, [extract_in_currency, classify], version="2.0.0"),
        "classifier": _manifest(
            "expense-classifier", "Expense Classifier", "tool",
            "Books expenses to accounts the way the finance team would.", ["finance"], [classify],
        ),
        "payables": _manifest(
            "payables-clerk", "Payables Clerk", "orchestrator",
            "Takes invoices from receipt to scheduled payment.", ["finance", "payments"],
            [pay, classify],
        ),
    }  # fmt: skip


def calls() -> Iterator[Call]:
    """Yield the demonstration's calls in order. Running it again replays every answer."""
    documents = manifests()
    reader = f"{NAMESPACE}:invoice-reader"
    for name in ("reader", "classifier", "payables"):
        manifest = documents[name]
        yield Call(
            f"Register {manifest['identity']['name']}",
            "POST",
            "/v1/agents",
            {"namespace": NAMESPACE, "manifest": manifest},
            f"demo-register-{manifest['identity']['id']}",
        )
    yield Call(
        "Publish a second version of Invoice Reader, which asks its callers for more",
        "PUT",
        f"/v1/agents/{reader}",
        {"manifest": documents["reader-2"]},
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
