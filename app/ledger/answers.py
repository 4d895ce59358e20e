"""What the ledger's endpoints answer, for the OpenAPI document."""

from __future__ import annotations

import marshmallow as ma

from app.http.schemas import PaginationOut, Schema

_TRANSACTION_ID = "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"
_HASH = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


class AccountOut(Schema):
    """An account. Money that comes in is credited; money that goes out is debited."""

    account_id = ma.fields.String(required=True)
    kind = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("agent", "escrow", "system"))
    )
    balance_usd = ma.fields.Float(required=True)
    debits_usd = ma.fields.Float(required=True)
    credits_usd = ma.fields.Float(required=True)
    opened_at = ma.fields.AwareDateTime(required=True)

    example = {
        "account_id": "agent:@acme:invoice-summarizer",
        "kind": "agent",
        "balance_usd": 250.5,
        "debits_usd": 0,
        "credits_usd": 250.5,
        "opened_at": "2026-11-20T09:30:00.000000Z",
    }


class EntryOut(Schema):
    """One line of a statement: positive came in from the counterparty, negative went out to it."""

    transaction_id = ma.fields.String(required=True)
    seq = ma.fields.Integer(required=True)
    leg = ma.fields.Integer(required=True)
    kind = ma.fields.String(required=True)
    amount_usd = ma.fields.Float(required=True)
    counterparty = ma.fields.String(required=True)
    delegation_id = ma.fields.String(required=True, allow_none=True)
    effective_at = ma.fields.AwareDateTime(required=True)

    example = {
        "transaction_id": _TRANSACTION_ID,
        "seq": 1,
        "leg": 1,
        "kind": "topup",
        "amount_usd": 250.5,
        "counterparty": "sys:world",
        "delegation_id": None,
        "effective_at": "2026-11-20T09:30:00.000000Z",
    }


class StatementOut(Schema):
    """A page of an account's postings, newest first."""

    account_id = ma.fields.String(required=True)
    entries = ma.fields.List(ma.fields.Nested(EntryOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "account_id": "agent:@acme:invoice-summarizer",
        "entries": [EntryOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class PostingOut(Schema):
    """One leg: the amount left the debited account and entered the credited one."""

    leg = ma.fields.Integer(required=True)
    debit_account = ma.fields.String(required=True)
    credit_account = ma.fields.String(required=True)
    amount_usd = ma.fields.Float(required=True)

    example = {
        "leg": 1,
        "debit_account": "sys:world",
        "credit_account": "agent:@acme:invoice-summarizer",
        "amount_usd": 250.5,
    }


class TransactionOut(Schema):
    """One movement of money."""

    id = ma.fields.String(required=True)
    seq = ma.fields.Integer(required=True)
    kind = ma.fields.String(required=True)
    dedupe_key = ma.fields.String(required=True)
    delegation_id = ma.fields.String(required=True, allow_none=True)
    actor = ma.fields.String(required=True)
    reverses_id = ma.fields.String(required=True, allow_none=True)
    meta = ma.fields.Dict(required=True)
    effective_at = ma.fields.AwareDateTime(required=True)
    created_at = ma.fields.AwareDateTime(required=True)
    postings = ma.fields.List(ma.fields.Nested(PostingOut()), required=True)

    example = {
        "id": _TRANSACTION_ID,
        "seq": 1,
        "kind": "topup",
        "dedupe_key": "topup:01a20500-1111-7c3e-9d52-3f1f6f7f9a10:invoice-2026-117",
        "delegation_id": None,
        "actor": "01a20500-1111-7c3e-9d52-3f1f6f7f9a10",
        "reverses_id": None,
        "meta": {},
        "effective_at": "2026-11-20T09:30:00.000000Z",
        "created_at": "2026-11-20T09:30:00.000000Z",
        "postings": [PostingOut.example],
    }


class TransactionListOut(Schema):
    """A page of transactions, in order."""

    transactions = ma.fields.List(ma.fields.Nested(TransactionOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "transactions": [TransactionOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class MeteringEventOut(Schema):
    """One use of a resource and its cost. ``actor`` is the agent that did the work."""

    timestamp = ma.fields.AwareDateTime(required=True)
    actor = ma.fields.String(required=True)
    operation = ma.fields.String(required=True)
    cost_usd = ma.fields.Float(required=True)
    metadata = ma.fields.Dict(required=True)
    delegation_id = ma.fields.String(required=True, allow_none=True)
    source = ma.fields.String(
        required=True, metadata={"description": "What ``event_id`` is unique in, for ever"}
    )
    event_id = ma.fields.String(required=True)

    example = {
        "timestamp": "2026-11-20T09:30:00.000000Z",
        "actor": "@globex:invoice-summarizer",
        "operation": "llm_call",
        "cost_usd": 0.0045,
        "metadata": {"model": "small"},
        "delegation_id": _TRANSACTION_ID,
        "source": f"@globex:invoice-summarizer/{_TRANSACTION_ID}",
        "event_id": "call-17",
    }


class MeteringListOut(Schema):
    """A page of metering events, newest first."""

    data = ma.fields.List(ma.fields.Nested(MeteringEventOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "data": [MeteringEventOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class DigestOut(Schema):
    """The newest sealed block; keep it elsewhere to prove later that history is still the same."""

    block = ma.fields.Integer(required=True)
    hash = ma.fields.String(required=True)
    last_seq = ma.fields.Integer(required=True)
    sealed_at = ma.fields.AwareDateTime(required=True, allow_none=True)

    example = {
        "block": 1,
        "hash": _HASH,
        "last_seq": 40,
        "sealed_at": "2026-11-20T09:30:30.000000Z",
    }


class BlockOut(Schema):
    """A sealed block without its transactions."""

    block = ma.fields.Integer(required=True)
    root = ma.fields.String(required=True)
    first_seq = ma.fields.Integer(required=True)
    last_seq = ma.fields.Integer(required=True)
    previous_hash = ma.fields.String(required=True)
    hash = ma.fields.String(required=True)

    example = {
        "block": 1,
        "root": _HASH,
        "first_seq": 1,
        "last_seq": 40,
        "previous_hash": "0" * 64,
        "hash": _HASH,
    }


class ProofOut(Schema):
    """Proof that a transaction is in a sealed block (RFC 9162, section 2.1.3)."""

    transaction_id = ma.fields.String(required=True)
    entry = ma.fields.String(
        required=True, metadata={"description": "What the leaf is the hash of: canonical JSON"}
    )
    leaf_index = ma.fields.Integer(required=True)
    tree_size = ma.fields.Integer(required=True)
    path = ma.fields.List(ma.fields.String(), required=True)
    block = ma.fields.Nested(BlockOut(), required=True)

    example = {
        "transaction_id": _TRANSACTION_ID,
        "entry": "{...}",
        "leaf_index": 0,
        "tree_size": 40,
        "path": [_HASH],
        "block": BlockOut.example,
    }


class RuleOut(Schema):
    """One rule of reconciliation and what breaks it."""

    number = ma.fields.String(required=True)
    statement = ma.fields.String(required=True)
    findings = ma.fields.List(ma.fields.String(), required=True)

    example = {
        "number": "R2",
        "statement": "no account of an agent or an escrow is overdrawn",
        "findings": [],
    }


class ReconciliationOut(Schema):
    """Whether every rule holds."""

    clean = ma.fields.Boolean(required=True)
    rules = ma.fields.List(ma.fields.Nested(RuleOut()), required=True)

    example = {"clean": True, "rules": [RuleOut.example]}
