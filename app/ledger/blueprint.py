"""The ledger's endpoints. An owner sees the accounts of its agents, an admin sees all."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock
from app.access.service import Principal
from app.delegation.queries import find_owners
from app.delegation.reconciliation import RULES
from app.http.blueprint import Blueprint
from app.http.context import services
from app.http.pagination import PageQuery, decode_cursor, encode_cursor, page_response
from app.http.responses import json_response
from app.ledger import answers, metering, queries, schemas, seals, service
from app.ledger.errors import AccountNotFound, TransactionNotFound
from app.ledger.queries import Reader
from app.ledger.reconciliation import document, reconcile
from app.money import to_usd
from app.registry.errors import AgentNotFound
from app.registry.queries import find_owner

blueprint = Blueprint(
    "ledger", __name__, url_prefix="/v1/ledger", description="Balances, postings and their proofs."
)
metering_blueprint = Blueprint(
    "metering", __name__, url_prefix="/v1/cost", description="What was used, and what it cost."
)


def _may_see(reader: Reader, principal: Principal, account_id: str) -> bool:
    if principal.has_role("admin"):
        return True
    kind, _, holder = account_id.partition(":")
    if kind == service.ESCROW:
        return principal.owner_id in find_owners(reader, holder)
    try:
        return kind == service.AGENT and find_owner(reader, holder) == principal.owner_id
    except AgentNotFound:
        return False


def _require_sight(reader: Reader, principal: Principal, account_id: str) -> None:
    """Raise ``AccountNotFound`` for an account the caller may not see: it is not told apart."""
    if not _may_see(reader, principal, account_id):
        raise AccountNotFound(f"no account of yours has the id {account_id!r}")


@blueprint.read(
    "/accounts/<account_id>", returns=answers.AccountOut(), problems=(404,), role="viewer"
)
def get_account(connection: Connection, principal: Principal, account_id: str) -> Response:
    """Show an account's balance.

    Amounts are USD. An owner sees its agents' accounts, an operator all.
    """
    _require_sight(connection, principal, account_id)
    row = queries.find_account(connection, account_id)
    return json_response(
        {
            "account_id": row.id,
            "kind": row.kind,
            "balance_usd": to_usd(row.credits_micros - row.debits_micros),
            "debits_usd": to_usd(row.debits_micros),
            "credits_usd": to_usd(row.credits_micros),
            "opened_at": clock.isoformat(row.created_at),
        }
    )


@blueprint.read(
    "/accounts/<account_id>/statement",
    query=PageQuery(),
    returns=answers.StatementOut(),
    problems=(404,),
    role="viewer",
)
def get_account_statement(
    connection: Connection, principal: Principal, query: dict[str, Any], account_id: str
) -> Response:
    """List an account's postings, newest first.

    Each with the transaction it belongs to, the account on the other side and the delegation.
    """
    _require_sight(connection, principal, account_id)
    queries.find_account(connection, account_id)
    limit, cursor = query["limit"], query["cursor"]
    before = None
    if cursor:
        seq, leg = decode_cursor(cursor, "[0-9]{1,18}[.][0-9]{1,9}").split(".")
        before = (int(seq), int(leg))
    rows = queries.list_entries(connection, account_id, limit=limit + 1, before=before)
    return page_response(
        rows,
        lambda row: _entry(row, account_id),
        lambda row: encode_cursor(f"{row.seq}.{row.leg}"),
        limit=limit,
        member="entries",
        leading={"account_id": account_id},
    )


def _entry(row: Any, account_id: str) -> dict[str, Any]:
    incoming = row.credit_account == account_id
    return {
        "transaction_id": row.transaction_id,
        "seq": row.seq,
        "leg": row.leg,
        "kind": row.kind,
        "amount_usd": to_usd(row.amount_micros if incoming else -row.amount_micros),
        "counterparty": row.debit_account if incoming else row.credit_account,
        "delegation_id": row.delegation_id,
        "effective_at": clock.isoformat(row.effective_at),
    }


@blueprint.write(
    "POST",
    "/topups",
    body=schemas.MoveMoney(),
    returns=answers.TransactionOut(),
    problems=(404,),
    role="admin",
)
def top_up(session: Session, principal: Principal, body: dict[str, Any]) -> Response:
    """Bring money from outside into an agent's account.

    For operators. The other side of the transaction is `sys:world`.
    """
    find_owner(session, body["agent_id"])
    transaction_id = service.top_up(
        session, body["agent_id"], body["amount_usd"], principal.owner_id, _request_key()
    )
    return _transaction_response(session, transaction_id)


@blueprint.write(
    "POST",
    "/payouts",
    body=schemas.MoveMoney(),
    returns=answers.TransactionOut(),
    problems=(404,),
    role="admin",
)
def pay_out(session: Session, principal: Principal, body: dict[str, Any]) -> Response:
    """Take money out of an agent's account.

    For operators. 400 `insufficient_funds` where the account has less; what is in escrow is not
    the account's.
    """
    find_owner(session, body["agent_id"])
    transaction_id = service.pay_out(
        session, body["agent_id"], body["amount_usd"], principal.owner_id, _request_key()
    )
    return _transaction_response(session, transaction_id)


def _request_key() -> str:
    return request.headers["Idempotency-Key"].strip()


@blueprint.write(
    "POST",
    "/transactions/<transaction_id>/reversal",
    body=schemas.ReverseTransaction(),
    returns=answers.TransactionOut(),
    problems=(404,),
    role="admin",
)
def reverse_transaction(
    session: Session, principal: Principal, body: dict[str, Any], transaction_id: str
) -> Response:
    """Post the opposite of a transaction; each can be reversed once.

    For operators. Nothing is deleted: both transactions stay. Those of a delegation cannot be
    reversed: a top-up and a payout move the money.
    """
    reversal_id = service.reverse(session, transaction_id, principal.owner_id, body["reason"])
    return _transaction_response(session, reversal_id)


@blueprint.read(
    "/transactions",
    query=schemas.TransactionListQuery(),
    returns=answers.TransactionListOut(),
    problems=(404,),
    role="viewer",
)
def list_transactions(
    connection: Connection, principal: Principal, query: dict[str, Any]
) -> Response:
    """List the transactions of a delegation in order.

    What was held, given back and paid. Both sides of the delegation see them.
    """
    delegation_id, limit, cursor = query["delegation_id"], query["limit"], query["cursor"]
    _require_sight(connection, principal, service.escrow_account(delegation_id))
    after = int(decode_cursor(cursor, "[0-9]{1,18}")) if cursor else 0
    found = queries.list_delegation_transactions(
        connection, delegation_id, limit=limit + 1, after=after
    )
    return page_response(
        found,
        _document,
        lambda transaction: encode_cursor(str(transaction["seq"])),
        limit=limit,
        member="transactions",
    )


@blueprint.read(
    "/transactions/<transaction_id>",
    returns=answers.TransactionOut(),
    problems=(404,),
    role="viewer",
)
def get_transaction(connection: Connection, principal: Principal, transaction_id: str) -> Response:
    """Show a transaction with its postings.

    Debits and credits of a transaction are equal.
    """
    return json_response(_document(_visible(connection, principal, transaction_id)))


@blueprint.read(
    "/transactions/<transaction_id>/proof",
    returns=answers.ProofOut(),
    problems=(404, 409),
    role="viewer",
)
def get_transaction_proof(
    connection: Connection, principal: Principal, transaction_id: str
) -> Response:
    """Prove that a transaction is in a sealed block.

    The answer has the transaction's leaf and the hashes up to the block's root (a Merkle proof as
    in RFC 9162). 409 `ledger_not_sealed` while the transaction is not in a block yet.
    """
    _visible(connection, principal, transaction_id)
    return json_response(seals.prove(connection, transaction_id))


def _visible(connection: Connection, principal: Principal, transaction_id: str) -> dict[str, Any]:
    """Return a transaction that touches an account the caller may see."""
    transaction = queries.find_transaction(connection, transaction_id)
    accounts = {
        posting[side]
        for posting in transaction["postings"]
        for side in ("debit_account", "credit_account")
    }
    if not any(_may_see(connection, principal, account) for account in accounts):
        # Word for word what ``find_transaction`` says of an id that nothing has.
        raise TransactionNotFound(f"no transaction has the id {transaction_id!r}")
    return transaction


def _transaction_response(session: Session, transaction_id: str) -> Response:
    return json_response(
        _document(queries.find_transaction(session, transaction_id)),
        location=f"/v1/ledger/transactions/{transaction_id}",
    )


def _document(transaction: dict[str, Any]) -> dict[str, Any]:
    return {
        **transaction,
        "meta": orjson.Fragment(transaction["meta"]),
        "effective_at": clock.isoformat(transaction["effective_at"]),
        "created_at": clock.isoformat(transaction["created_at"]),
        "postings": [
            {
                "leg": posting["leg"],
                "debit_account": posting["debit_account"],
                "credit_account": posting["credit_account"],
                "amount_usd": to_usd(posting["amount_micros"]),
            }
            for posting in transaction["postings"]
        ],
    }


@blueprint.read("/digest", returns=answers.DigestOut(), role="viewer")
def get_ledger_digest(connection: Connection, _: Principal) -> Response:
    """Show the newest sealed block.

    Kept elsewhere, it shows any later change of what is sealed by then.
    """
    return json_response(seals.read_digest(connection))


@blueprint.read("/reconciliation", returns=answers.ReconciliationOut(), role="admin")
def get_reconciliation(_: Connection, __: Principal) -> Response:
    """Check every rule that must hold of the ledger.

    For operators. Reads the whole ledger; `agenthub ledger reconcile --json` says the same.
    """
    with services().database.snapshot() as connection:
        found = document(reconcile(connection, RULES))
    return json_response(found)


@metering_blueprint.read(
    "/metering", query=PageQuery(), returns=answers.MeteringListOut(), role="viewer"
)
def list_metering_events(
    connection: Connection, principal: Principal, query: dict[str, Any]
) -> Response:
    """List what your agents used and what you paid for, newest first.

    An operator sees all. Costs are USD; an event counts once, however often it was reported.
    """
    limit, cursor = query["limit"], query["cursor"]
    before = int(decode_cursor(cursor, "[0-9]{1,18}")) if cursor else None
    owner_id = None if principal.has_role("admin") else principal.owner_id
    rows = metering.list_metering(connection, owner_id=owner_id, limit=limit + 1, before=before)
    return page_response(rows, _metering_row, lambda row: encode_cursor(str(row.seq)), limit=limit)


def _metering_row(row: Any) -> dict[str, Any]:
    return {
        "timestamp": clock.isoformat(row.occurred_at),
        "actor": row.actor,
        "operation": row.operation,
        "cost_usd": to_usd(row.cost_micros),
        "metadata": orjson.Fragment(row.meta),
        "delegation_id": row.delegation_id,
        "source": row.source,
        "event_id": row.event_id,
    }
