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

import click

from app.registry.examples import MANIFEST

NAMESPACE = "@demo"
MAX_SHOWN = 400
JsonObject = dict[str, Any]


class DemoFailed(Exception):
    """A call or a step did not do what it should; the message says which and why.

    ``code`` is the problem's, where the service refused a call.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Call:
    """One request of the demonstration and why it is made.

    ``public`` marks one that needs no API key. ``shows`` names the members of the answer that
    matter, where not all of them do.
    """

    purpose: str
    method: str
    path: str
    body: JsonObject | None = None
    idempotency_key: str | None = None
    public: bool = False
    shows: tuple[str, ...] = ()

    def as_curl(self, url: str, key_variable: str) -> str:
        """Return the call as a command line that takes the key from a variable of the shell."""
        parts = ["curl", "-sS"]
        if self.method != "GET":
            parts += ["-X", self.method]
        line = " ".join(parts) + " " + shlex.quote(url + self.path)
        if not self.public:
            line += f' \\\n  -H "X-API-Key: ${key_variable}"'
        if self.idempotency_key:
            line += f" \\\n  -H {shlex.quote(f'Idempotency-Key: {self.idempotency_key}')}"
        if self.body is not None:
            line += " \\\n  -H 'Content-Type: application/json'"
            line += f" \\\n  -d {shlex.quote(json.dumps(self.body))}"
        return line


@dataclass(frozen=True)
class Caller:
    """Somebody with an API key, which the curl lines take from the variable ``key_variable``."""

    url: str
    api_key: str
    key_variable: str = "AGENTHUB_API_KEY"

    def make(self, call: Call) -> JsonObject:
        """Show a call, make it, show the answer and return it. Raises ``DemoFailed``."""
        click.echo(f"# {call.purpose}")
        click.echo(call.as_curl(self.url, self.key_variable))
        answer = send(self.url, self.api_key, call)
        if call.shows:
            click.echo(json.dumps({name: answer[name] for name in call.shows}) + "\n")
        else:
            click.echo(json.dumps(answer)[:MAX_SHOWN] + "\n")
        return answer

    def make_once(self, call: Call) -> None:
        """Make a call whose effect may be there from an earlier run. Raises ``DemoFailed``."""
        try:
            self.make(call)
        except DemoFailed as error:
            if error.code != "idempotency_response_expired":
                raise
            click.echo("Done by an earlier run, whose answer is no longer kept.\n")


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
        message = f"{call.method} {call.path} was refused ({error.code}): {detail}"
        raise DemoFailed(message, _problem_code(detail)) from None
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DemoFailed(
            f"no AgentHub answers at {url} ({reason}); start one: agenthub up"
        ) from None


def _problem_code(body: str) -> str | None:
    """Return the code of a problem; None for an answer that is no problem document."""
    try:
        code = json.loads(body)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return str(code)
