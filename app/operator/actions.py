"""What an administrator does on a page runs as the same write would over the API.

The page's form carries an idempotency key, so that sending it twice has one effect; the effect, the
record of who did it and the stored answer are committed together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import marshmallow as ma
import orjson
from flask import request
from sqlalchemy.orm import Session

from app.errors import DomainError
from app.http.problems import kind_of
from app.http.responses import json_response
from app.http.writes import run_write
from app.idempotency.service import WriteRequest, check_key, fingerprint
from app.json_values import UNSTORABLE, is_storable
from app.operator.web import Visitor


class Refusal(Exception):
    """What was asked for was not done, and why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def load_form(schema: ma.Schema, given: Mapping[str, str]) -> dict[str, Any]:
    """Return a form's fields as the API's schema loads them. Raises ``Refusal``."""
    body: dict[str, Any] = {}
    for name, text in given.items():
        if name not in schema.load_fields or not text.strip():
            continue
        if not is_storable(text):
            raise Refusal(422, f"{_LABELS[name]}: {UNSTORABLE}")
        body[name] = _number(text) if name.endswith("_usd") else text.strip()
    try:
        loaded: dict[str, Any] = schema.load(body)
    except ma.ValidationError as error:
        name, found = next(iter(error.normalized_messages().items()))  # type: ignore[no-untyped-call]
        detail = found[0] if isinstance(found, list) else str(found)
        raise Refusal(422, f"{_LABELS[name]}: {detail}") from None
    return loaded


_LABELS = {
    "charge_usd": "Amount",
    "amount_usd": "Amount",
    "agent_id": "Agent",
    "reason": "Reason",
}


def _number(text: str) -> float | str:
    try:
        return float(text.strip().replace(",", ""))
    except ValueError:
        return text


def perform(
    visitor: Visitor,
    route: str,
    path: Mapping[str, str],
    body: Any,
    effect: Callable[[Session], Any],
) -> Any:
    """Run a write once under the form's idempotency key; return the document it answers with.

    Sent again, it does nothing and returns the same. Raises ``Refusal``.
    """
    try:
        key = check_key(request.form.get("idempotency_key"))
        request_hash = fingerprint("POST", route, path, [], body)
        identity = WriteRequest(visitor.principal.owner_id, key, request_hash, "POST", route)
        response = run_write(
            visitor.principal, identity, lambda session: json_response(effect(session))
        )
    except DomainError as error:
        raise Refusal(int(kind_of(type(error)).status), error.detail) from None
    document = orjson.loads(response.get_data())
    if response.status_code >= 400:
        raise Refusal(response.status_code, document["detail"])
    return document
