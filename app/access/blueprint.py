"""The access scope's endpoints: the record of what administrators did."""

from __future__ import annotations

from typing import Any

from flask import Response
from sqlalchemy import Connection

from app import clock
from app.access import answers, audit
from app.access.service import Principal
from app.http.blueprint import Blueprint
from app.http.pagination import PageQuery, decode_cursor, encode_cursor, page_response

blueprint = Blueprint(
    "audit", __name__, url_prefix="/v1/audit", description="What administrators did."
)


@blueprint.read("", query=PageQuery(), returns=answers.AuditOut(), problems=(422,), role="admin")
def list_admin_actions(
    connection: Connection, principal: Principal, query: dict[str, Any]
) -> Response:
    """List what administrators did, newest first.

    For operators. The record cannot be changed or deleted.
    """
    limit, cursor = query["limit"], query["cursor"]
    before = decode_cursor(cursor, "[0-9a-f-]{36}") if cursor else None
    rows = audit.list_actions(connection, limit=limit + 1, before=before)
    return page_response(
        rows,
        lambda row: {**row._mapping, "at": clock.isoformat(row.at)},
        lambda row: encode_cursor(row.id),
        limit=limit,
        member="actions",
    )
