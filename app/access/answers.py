"""What the access scope's endpoints answer, for the OpenAPI document."""

from __future__ import annotations

import marshmallow as ma

from app.http.schemas import PaginationOut, Schema


class AdminActionOut(Schema):
    """Something an administrator did, over HTTP or with a command on the server's machine."""

    id = ma.fields.String(required=True)
    at = ma.fields.AwareDateTime(required=True)
    actor = ma.fields.String(
        required=True,
        metadata={"description": "owner of the key, user of the machine @localhost, or unknown"},
    )
    key_id = ma.fields.String(required=True, allow_none=True)
    action = ma.fields.String(required=True)
    target = ma.fields.String(required=True)
    outcome = ma.fields.String(required=True, metadata={"description": "HTTP status, or done"})
    request_id = ma.fields.String(required=True, allow_none=True)

    example = {
        "id": "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10",
        "at": "2026-11-20T09:30:00.000000Z",
        "actor": "operator",
        "key_id": "8f14e45fceea167a",
        "action": "POST /v1/ledger/topups",
        "target": "/v1/ledger/topups",
        "outcome": "200",
        "request_id": "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a11",
    }


class AuditOut(Schema):
    """A page of what administrators did, newest first."""

    actions = ma.fields.List(ma.fields.Nested(AdminActionOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "actions": [AdminActionOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }
