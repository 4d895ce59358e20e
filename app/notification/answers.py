"""What notification's endpoints answer, for the OpenAPI document."""

from __future__ import annotations

import marshmallow as ma

from app.http.schemas import PaginationOut, Schema
from app.notification.service import ACTIVE, DEAD, DELIVERED, DISABLED, PAUSED, PENDING

_ID = "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"
_TIME = "2026-11-20T09:30:00.000000Z"
_PAGE = {"mode": "cursor", "limit": 100, "next_cursor": None}


class WebhookOut(Schema):
    """A webhook, without its secret."""

    id = ma.fields.String(required=True)
    owner_id = ma.fields.String(required=True)
    url = ma.fields.String(required=True)
    event_types = ma.fields.List(ma.fields.String(), required=True)
    description = ma.fields.String(required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf((ACTIVE, PAUSED, DISABLED)))
    disabled_reason = ma.fields.String(required=True, allow_none=True)
    failing_since = ma.fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "The first of the failures since a delivery last succeeded"},
    )
    previous_secret_expires_at = ma.fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "Until then the secret before the present one signs, too"},
    )
    created_at = ma.fields.AwareDateTime(required=True)
    updated_at = ma.fields.AwareDateTime(required=True)

    example = {
        "id": _ID,
        "owner_id": _ID,
        "url": "https://example.com/agenthub",
        "event_types": ["delegation.closed", "delegation.created"],
        "description": "bookkeeping",
        "status": "active",
        "disabled_reason": None,
        "failing_since": None,
        "previous_secret_expires_at": None,
        "created_at": _TIME,
        "updated_at": _TIME,
    }


class WebhookWithSecretOut(WebhookOut):
    """A webhook with its secret, which no other answer shows."""

    secret = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "Shown once: null when the stored answer is given again. Where it was"
            " lost, rotate it."
        },
    )

    example = {**WebhookOut.example, "secret": "whsec_plJ3nmyCDGBKInavdOK15jsl"}


class WebhookListOut(Schema):
    """Webhooks, oldest first."""

    data = ma.fields.List(ma.fields.Nested(WebhookOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {"data": [WebhookOut.example], "pagination": _PAGE}


class WebhookDeletedOut(Schema):
    """A webhook that is no more."""

    id = ma.fields.String(required=True)
    deleted = ma.fields.Boolean(required=True)

    example = {"id": _ID, "deleted": True}


class MessageOut(Schema):
    """The body that is sent."""

    type = ma.fields.String(required=True)
    timestamp = ma.fields.AwareDateTime(required=True)
    data = ma.fields.Dict(required=True)

    example = {
        "type": "agent.status_changed",
        "timestamp": _TIME,
        "data": {"agent_id": "@acme:invoice-summarizer", "status": "deprecated"},
    }


class DeliveryOut(Schema):
    """One message on its way to one webhook."""

    id = ma.fields.String(required=True)
    webhook_id = ma.fields.String(required=True)
    message_id = ma.fields.String(
        required=True, metadata={"description": "The header webhook-id, the same at every attempt"}
    )
    message = ma.fields.Nested(MessageOut(), required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf((PENDING, DELIVERED, DEAD)))
    attempts = ma.fields.Integer(required=True)
    last_attempt_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    last_status = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "HTTP status of the last answer, if there was one"},
    )
    last_error = ma.fields.String(required=True, allow_none=True)
    next_attempt_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(required=True)
    finished_at = ma.fields.AwareDateTime(required=True, allow_none=True)

    example = {
        "id": _ID,
        "webhook_id": _ID,
        "message_id": _ID,
        "message": MessageOut.example,
        "status": "dead",
        "attempts": 10,
        "last_attempt_at": _TIME,
        "last_status": 500,
        "last_error": "HTTP 500",
        "next_attempt_at": None,
        "created_at": _TIME,
        "finished_at": _TIME,
    }


class DeliveryListOut(Schema):
    """Deliveries of a webhook, newest first."""

    data = ma.fields.List(ma.fields.Nested(DeliveryOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {"data": [DeliveryOut.example], "pagination": _PAGE}
