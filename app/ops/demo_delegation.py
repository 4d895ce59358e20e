"""The demonstration's second part: work handed to another owner's agent, done by a real worker."""

from __future__ import annotations

import subprocess
import sys

import click

from app.client.hub import JsonObject
from app.config import client_environment
from app.ids import new_id
from app.ops.client import Call, CallFailed
from app.ops.demo import CLASSIFIER, CLERK, NAMESPACE, Caller, build_capability, build_manifest

PARTNER_NAMESPACE = "@demo-partner"
REQUESTER = f"{NAMESPACE}:{CLERK['id']}"
DELEGATE = f"{PARTNER_NAMESPACE}:invoice-reader"
LEAST_BALANCE_USD = 1
TOP_UP_USD = 5
SECONDS_FOR_THE_WORKER = 120

READ_INVOICE = build_capability(
    "read-invoice",
    "Read an invoice",
    "Reads the text of a supplier invoice and returns its fields.",
    {"invoice_text": "string"},
    {"supplier": "string", "total": "number", "currency": "string", "due_date": "string"},
    permissions=["documents.read"],
)
PARTNER_MANIFEST = build_manifest(
    {
        "id": "invoice-reader",
        "name": "Partner's Invoice Reader",
        "owner": "demo-partner",
        "type": "service",
        "description": "Reads the text of supplier invoices into structured data.",
    },
    READ_INVOICE,
)
INVOICE = """\
Northwind Paper GmbH
Hafenstrasse 12, 20457 Hamburg

Invoice NP-2026-1187
Invoice date: 2026-11-18

Copy paper A4, 80 g      40 x   4.20     168.00
Envelopes C5             10 x   6.35      63.50
Delivery                                  12.50

Subtotal                             EUR 244.00
VAT 19 %                             EUR  46.36
Total                                EUR 290.36

Payment due: 2026-12-18
"""


Told = list[tuple[Caller, Call, JsonObject]]
"""Calls that tell most of what happened, each with who made it and its answer."""


def run(requester: Caller, partner: Caller, operator: Caller) -> Told:
    """Delegate inline, then remotely; return the offer, its acceptance and the payment.

    Raises ``CallFailed``.
    """
    partner.make_once(
        Call(
            "Another owner, demo-partner, registers an agent",
            "POST",
            "/v1/agents",
            {"namespace": PARTNER_NAMESPACE, "manifest": PARTNER_MANIFEST},
            "demo-register-partner-invoice-reader",
        )
    )
    _fund(requester, operator)
    _delegate_inline(requester)
    offer = _offer()
    offered = requester.make(offer)
    run_worker(partner)
    acceptance, accepted = _settle(requester, offered["delegation_id"])
    payment, paid = _show_record(requester, partner, offered["delegation_id"])
    return [
        (requester, offer, offered),
        (requester, acceptance, accepted),
        (partner, payment, paid),
    ]


def _fund(requester: Caller, operator: Caller) -> None:
    account = requester.make(
        Call("See what the clerk can spend", "GET", f"/v1/ledger/accounts/agent:{REQUESTER}")
    )
    if account["balance_usd"] < LEAST_BALANCE_USD:
        operator.make(
            Call(
                "The operator brings money into the clerk's account",
                "POST",
                "/v1/ledger/topups",
                {"agent_id": REQUESTER, "amount_usd": TOP_UP_USD},
                f"demo-topup-{new_id()}",
            )
        )


def _delegate_inline(requester: Caller) -> None:
    requester.make(
        Call(
            "Delegate inline: the work is done, so that one call holds, meters and settles",
            "POST",
            "/v1/delegations",
            {
                "requester_agent_id": REQUESTER,
                "delegate_agent_id": f"{NAMESPACE}:{CLASSIFIER['id']}",
                "capability_id": "classify-expense",
                "task_spec": "Assign the paper order to an account",
                "task_input": {"description": "Copy paper and envelopes", "total": 290.36},
                "estimated_cost_usd": 0.02,
                "max_budget_usd": 0.05,
                "metering_events": [{"operation": "llm_call", "cost_usd": 0.0125}],
            },
            f"demo-inline-{new_id()}",
            shows=("delegation_id", "status", "charged_usd", "refunded_usd", "lifecycle"),
        )
    )


def _offer() -> Call:
    return Call(
        "Offer a task to the partner's agent: the estimate is held in escrow from now on",
        "POST",
        "/v1/delegations",
        {
            "execution": "remote",
            "requester_agent_id": REQUESTER,
            "delegate_agent_id": DELEGATE,
            "capability_id": READ_INVOICE["id"],
            "task_spec": "Read the invoice of Northwind Paper",
            "task_input": {"invoice_text": INVOICE},
            "estimated_cost_usd": 0.2,
            "max_budget_usd": 0.5,
            "required_permissions": ["documents.read"],
        },
        f"demo-offer-{new_id()}",
        shows=("delegation_id", "status", "held_usd", "due_at", "due_outcome"),
    )


def run_worker(partner: Caller) -> None:
    """Let the partner's worker do what waits, in a process that gets its key and nothing else."""
    if partner.verbose:
        click.echo("# The partner's worker is a process of its own; these are the calls it makes\n")
    done = subprocess.run(  # noqa: S603 (this program itself)
        [sys.executable, "-m", "app.ops.demo_worker", DELEGATE],
        env=client_environment(AGENTHUB_URL=partner.url, AGENTHUB_API_KEY=partner.api_key),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_THE_WORKER,
        check=False,
    )
    if partner.verbose:
        click.echo(done.stdout, nl=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CallFailed(f"the worker ended with exit code {done.returncode}: {reason[-1]}")


def _settle(requester: Caller, delegation_id: str) -> tuple[Call, JsonObject]:
    path = f"/v1/delegations/{delegation_id}"
    shows = ("status", "actual_cost_usd", "deliverable", "due_at", "due_outcome")
    found = requester.make(Call("The clerk looks at the result", "GET", path, shows=shows))
    if found["status"] != "delivered":
        raise CallFailed(
            f"the worker should have delivered {delegation_id}, which is {found['status']}"
        )
    acceptance = Call(
        "The clerk accepts the result: the cost is paid, the rest of what is held goes back",
        "POST",
        f"{path}/accept-result",
        {},
        f"demo-accept-{new_id()}",
        shows=("status", "charged_usd", "refunded_usd"),
    )
    return acceptance, requester.make(acceptance)


def _show_record(requester: Caller, partner: Caller, delegation_id: str) -> tuple[Call, JsonObject]:
    requester.make(
        Call(
            "Who did what when, and what it cost",
            "GET",
            f"/v1/delegations/{delegation_id}/status",
            shows=("status", "charged_usd", "audit_trail"),
        )
    )
    payment = Call(
        "The partner sees the payment in its account",
        "GET",
        f"/v1/ledger/accounts/agent:{DELEGATE}/statement?limit=1",
        shows=("entries",),
    )
    statement = partner.make(payment)
    transaction_id = statement["entries"][0]["transaction_id"]
    partner.make(
        Call(
            "and the transaction that emptied the escrow",
            "GET",
            f"/v1/ledger/transactions/{transaction_id}",
            shows=("kind", "dedupe_key", "delegation_id", "postings"),
        )
    )
    return payment, statement
