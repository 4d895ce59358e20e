"""What the ledger's endpoints read."""

from __future__ import annotations

import marshmallow as ma

from app.http.fields import FullMatch, PlainText, Usd
from app.http.pagination import PageQuery
from app.http.schemas import Schema


class MoveMoney(Schema):
    """Money that comes in from outside, or goes out."""

    agent_id = ma.fields.String(required=True, validate=ma.validate.Length(min=1, max=193))
    amount_usd = Usd(required=True)

    example = {"agent_id": "@acme:invoice-summarizer", "amount_usd": 250.5}


class ReverseTransaction(Schema):
    """Why a transaction is reversed; kept with the new one."""

    reason = ma.fields.String(
        required=True, validate=[ma.validate.Length(min=3, max=500), PlainText(lines=True)]
    )

    example = {"reason": "topped up the wrong agent"}


class TransactionListQuery(PageQuery):
    """The transactions of one delegation."""

    delegation_id = ma.fields.String(
        required=True, validate=FullMatch("[0-9a-f-]{36}", "the id of a delegation")
    )

    example = {"delegation_id": "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10", "limit": 100}
