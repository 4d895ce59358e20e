"""What the ledger's endpoints read."""

from __future__ import annotations

import marshmallow as ma

from app.http.fields import Usd
from app.http.schemas import Schema


class MoveMoney(Schema):
    """Money that comes in from outside, or goes out."""

    agent_id = ma.fields.String(required=True, validate=ma.validate.Length(min=1, max=193))
    amount_usd = Usd(required=True)

    example = {"agent_id": "@acme:invoice-summarizer", "amount_usd": 250.5}


class ReverseTransaction(Schema):
    """Why a transaction is reversed; kept with the new one."""

    reason = ma.fields.String(required=True, validate=ma.validate.Length(min=3, max=500))

    example = {"reason": "topped up the wrong agent"}
