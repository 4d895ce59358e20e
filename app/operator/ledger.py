"""The ledger: who has what, every movement, and whether the books agree."""

from __future__ import annotations

from typing import Any

import orjson
from flask import redirect, request, url_for
from sqlalchemy import Connection

from app.access.audit import find_last, record_check
from app.delegation.queries import count_live
from app.delegation.reconciliation import RULES
from app.http.context import request_id, services
from app.http.pagination import encode_cursor
from app.ledger import queries, seals
from app.ledger.errors import AccountNotFound, NotSealed, TransactionNotFound
from app.ledger.reconciliation import reconcile
from app.ledger.service import SYSTEM, WORLD, account_kind, agent_account
from app.operator.accounts import linked, may_see, sides
from app.operator.agents import search_words
from app.operator.overview import CLEAN, RECONCILED
from app.operator.paging import PAGE_SIZE, Pager, cursor
from app.operator.web import Visitor, action, page, read_figures, render
from app.registry.queries import search_agent_ids

MAX_FINDINGS = 20


@page("/ledger")
def ledger(connection: Connection, visitor: Visitor) -> str:
    """Show the accounts of agents, the state of the books, and the digest to keep."""
    text = request.args.get("q", "").strip()
    agents = search_agent_ids(
        connection,
        search_words(text),
        owner_id=visitor.owner_scope,
        after=cursor(r"[!-~]+") or "",
        limit=PAGE_SIZE + 1,
    )
    ids = [agent_account(one) for one in agents[:PAGE_SIZE]]
    found = queries.find_balances(connection, [*ids, WORLD])
    figures = read_figures(connection, visitor.owner_scope)
    live = count_live(connection, visitor.owner_scope)
    return render(
        "ledger.html",
        title="Ledger",
        area="ledger",
        text=text,
        accounts=[(identifier, found.get(identifier)) for identifier in ids],
        pager=Pager.of(agents, encode_cursor),
        world=WORLD if visitor.is_admin and WORLD in found else None,
        digest=seals.read_digest(connection),
        reconciled=find_last(connection, RECONCILED) if visitor.is_admin else None,
        clean=CLEAN,
        rules=[(number, statement) for number, statement, _ in RULES],
        inside=figures.brought_in - figures.paid_out,
        held=sum(row.held_micros for row in live),
        figures=figures,
    )


@page("/ledger/accounts/<account_id>")
def account(connection: Connection, visitor: Visitor, account_id: str) -> str:
    """Show an account's statement, newest first."""
    row = None
    if may_see(connection, visitor, account_id):
        row = queries.find_balances(connection, [account_id]).get(account_id)
    if row is None:
        raise AccountNotFound(f"no account of yours has the id {account_id!r}")
    given = cursor("[0-9]{1,18}[.][0-9]{1,9}")
    before = None
    if given is not None:
        seq, leg = given.split(".")
        before = (int(seq), int(leg))
    entries = queries.list_entries(connection, account_id, limit=PAGE_SIZE + 1, before=before)
    return render(
        "account.html",
        title=f"Account {account_id}",
        area="ledger",
        account_id=account_id,
        # A system account's sums are not kept; adding its postings up takes as long as there are.
        account=row if account_kind(account_id) != SYSTEM else None,
        opened_at=row.created_at,
        entries=entries[:PAGE_SIZE],
        accounts=linked(connection, visitor, sides(entries[:PAGE_SIZE])),
        pager=Pager.of(entries, lambda one: encode_cursor(f"{one.seq}.{one.leg}")),
    )


@page("/ledger/transactions/<transaction_id>")
def transaction(connection: Connection, visitor: Visitor, transaction_id: str) -> str:
    """Show a transaction's postings, and the proof that nobody edited it."""
    found = queries.find_transaction(connection, transaction_id)
    accounts = {
        posting[side]
        for posting in found["postings"]
        for side in ("debit_account", "credit_account")
    }
    if not any(may_see(connection, visitor, account_id) for account_id in accounts):
        raise TransactionNotFound(f"no transaction has the id {transaction_id!r}")
    try:
        proof: dict[str, Any] | None = seals.prove(connection, transaction_id)
    except NotSealed:
        proof = None
    return render(
        "transaction.html",
        title=f"Transaction {found['seq']}",
        area="ledger",
        found=found,
        meta=orjson.loads(found["meta"]),
        accounts=linked(connection, visitor, accounts),
        proof=proof,
    )


@action("/ledger/reconcile")
def reconcile_books(visitor: Visitor) -> Any:
    """Check every rule on one instant of the books, and keep on record what was found."""
    with services().database.snapshot() as connection:
        broken = [rule for rule in reconcile(connection, RULES) if rule.findings]
    findings = [f"{rule.number}: {found}" for rule in broken for found in rule.findings]
    outcome = f"{len(broken)} of {len(RULES)} rules broken" if broken else CLEAN
    target = "\n".join(findings[:MAX_FINDINGS]) or f"{len(RULES)} rules"
    with services().database.transaction() as session:
        record_check(session, visitor.principal, RECONCILED, target, outcome, request_id())
    return redirect(url_for("console.ledger"), 303)
