"""A worker of the demonstration: a process of its own that reads invoices for a living.

It knows the service's address, an agent's id and that agent's API key, as any worker does. It takes
on task after task until none waits for the agent.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from app.client.hub import JsonObject
from app.ids import new_id
from app.ops.client import Call, CallFailed
from app.ops.demo import Caller

UNIT_PRICE_USD = 0.00025
_TOTAL = re.compile(r"^\s*(?:grand\s+)?total\b.*?\b([A-Z]{3})\s+([\d,]+\.\d\d)\s*$", re.I | re.M)
_DUE = re.compile(r"^\s*(?:payment\s+)?due\b\D*(\d{4}-\d\d-\d\d)\s*$", re.I | re.M)


class NotAnInvoice(Exception):
    """The text lacks something that every invoice has; the message says what."""


def read_invoice(text: str) -> JsonObject:
    """Return supplier, total, currency and due date of an invoice. Raises ``NotAnInvoice``.

    The supplier is the first line with text in it. The last line that begins with "total" counts,
    so that a subtotal before it does not matter.
    """
    supplier = next((line.strip() for line in text.splitlines() if line.strip()), None)
    totals = _TOTAL.findall(text)
    due = _DUE.search(text)
    if supplier is None or not totals or due is None:
        raise NotAnInvoice("expected a supplier, a line with the total and one with the due date")
    currency, total = totals[-1]
    try:
        due_date = date.fromisoformat(due[1])
        amount = float(Decimal(total.replace(",", "")))
    except (ValueError, InvalidOperation):
        raise NotAnInvoice("expected a total and a due date that exist") from None
    return {
        "supplier": supplier,
        "total": amount,
        "currency": currency.upper(),
        "due_date": due_date.isoformat(),
    }


def work(caller: Caller, agent_id: str) -> int:
    """Do every task that waits for an agent, and return how many there were."""
    done = 0
    while (task := claim(caller, agent_id)) is not None:
        do_task(caller, task)
        done += 1
    return done


def claim(caller: Caller, agent_id: str) -> JsonObject | None:
    """Take on a task that waits for an agent; None if none does."""
    purpose = "The worker takes on a task that waits for its agent"
    shows = ("delegation_id", "status", "task_input", "lease_token", "lease_expires_at")
    try:
        return caller.make(_write(purpose, "claim", shows, {"agent_id": agent_id}))
    except CallFailed as error:
        if error.code != "no_task_offered":
            raise
        click.echo("No task waits any more, so the worker ends.\n")
        return None


def do_task(caller: Caller, task: Mapping[str, Any]) -> None:
    """Read one invoice: sign of life, work, report of its cost, result."""

    def give(command: str, purpose: str, *shows: str, **members: Any) -> None:
        body = {"lease_token": task["lease_token"], **members}
        caller.make(_write(purpose, f"{task['delegation_id']}/{command}", shows, body))

    text = task["task_input"]["invoice_text"]
    give(
        "heartbeat",
        "It gives a sign of life, which renews its lease, and learns whether to stop",
        "status",
        "cancel_requested",
        "lease_expires_at",
        "remaining_usd",
    )
    try:
        invoice = read_invoice(text)
    except NotAnInvoice as error:
        give("fail", "It cannot read this one", "status", "charged_usd", reason=str(error))
        return
    usage = {
        "event_id": "read-1",
        "operation": "read_text",
        "quantity": len(text),
        "unit_price_usd": UNIT_PRICE_USD,
        "metadata": {"unit": "character"},
    }
    give(
        "meter",
        "It has read the invoice and reports what that took: quantity times unit price",
        "events",
        "actual_cost_usd",
        "budget_controls",
        events=[usage],
    )
    give("deliver", "It delivers what it read", "status", "deliverable", output=invoice)


def _write(purpose: str, path: str, shows: tuple[str, ...], body: JsonObject) -> Call:
    return Call(purpose, "POST", f"/v1/delegations/{path}", body, f"demo-{new_id()}", shows=shows)


@click.command()
@click.argument("agent_id")
@click.option("--url", envvar="AGENTHUB_URL", required=True, help="Where the service answers.")
@click.option("--api-key", envvar="AGENTHUB_API_KEY", required=True, help="Key of the worker.")
def main(agent_id: str, url: str, api_key: str) -> None:
    """Do every task that waits for AGENT_ID, and end."""
    try:
        work(Caller(url, api_key, "AGENTHUB_WORKER_KEY"), agent_id)
    except CallFailed as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
