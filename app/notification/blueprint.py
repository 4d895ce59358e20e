"""Webhooks' endpoints. An owner sees its own, an admin reads all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from flask import Response, after_this_request
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.access.service import Principal
from app.http.blueprint import Blueprint
from app.http.context import services
from app.http.errors import ValidationFailed
from app.http.pagination import PageQuery, decode_cursor, encode_cursor, page_response
from app.http.responses import json_response
from app.notification import answers, queries, schemas, service
from app.notification.addresses import AddressRefused, parse_url
from app.notification.documents import delivery_document, webhook_document
from app.notification.errors import TooManyLookups
from app.notification.lookups import LookupsBusy
from app.notification.models import Subscription
from app.notification.signing import secret_of

blueprint = Blueprint(
    "notification",
    __name__,
    url_prefix="/v1/webhooks",
    description="URLs that are told of what happens to your agents.",
)

Body = dict[str, Any]
_ID = "[0-9a-f-]{36}"


def _readable(principal: Principal) -> str | None:
    """Return whose webhooks the caller may read; None is everybody's."""
    return None if principal.has_role("admin") else principal.owner_id


def _response(subscription: Subscription, **more: Any) -> Response:
    return json_response(
        webhook_document(subscription) | more, location=f"/v1/webhooks/{subscription.id}"
    )


def _with_secret(subscription: Subscription) -> Response:
    """Answer with the secret, which the answer that is stored under the idempotency key lacks."""
    pepper = services().pepper
    secret = secret_of(pepper, subscription.id, subscription.secret_salt)

    @after_this_request
    def show(response: Response) -> Response:
        document = orjson.loads(response.get_data())
        if document.get("id") == subscription.id:
            response.set_data(orjson.dumps(document | {"secret": secret}))
        return response

    return _response(subscription, secret=None)


def _reachable(principal: Principal, body: Body, **path: str) -> Body:
    """Return the body if its URL leads where a webhook may; nobody looks for others' webhooks.

    Raises ``WebhookNotFound``, ``ValidationFailed`` and ``TooManyLookups``.
    """
    if path:
        with services().database.read() as connection:
            queries.find_subscription(connection, path["webhook_id"], principal.owner_id)
    allow_private = services().settings.webhook_allow_private
    try:
        if "url" in body:
            target = parse_url(body["url"], allow_private=allow_private)
            services().lookups.resolve(principal.owner_id, target, allow_private=allow_private)
    except LookupsBusy:
        raise TooManyLookups("too many names are being looked up", retry_after=5) from None
    except AddressRefused as error:
        entry = {"pointer": "/url", "code": "invalid", "detail": str(error)}
        raise ValidationFailed("the URL leads nowhere a webhook may", errors=[entry]) from None
    return body


@blueprint.write(
    "POST",
    "",
    body=schemas.CreateWebhook(),
    returns=answers.WebhookWithSecretOut(),
    problems=(422,),
    prepare=_reachable,
)
def create_webhook(session: Session, principal: Principal, body: Body) -> Response:
    """Have a URL told of events of your agents.

    The answer shows the secret that messages are signed with (Standard Webhooks), this once. The
    URL leads to a public address, by HTTPS.
    """
    subscription = service.subscribe(
        session,
        principal.owner_id,
        body["url"],
        body["event_types"],
        body["description"],
        services().settings.quota_webhooks,
    )
    return _with_secret(subscription)


@blueprint.read("", query=PageQuery(), returns=answers.WebhookListOut(), role="viewer")
def list_webhooks(connection: Connection, principal: Principal, query: Body) -> Response:
    """List your webhooks, oldest first.

    An operator's list has all. Secrets are not shown.
    """
    limit, cursor = query["limit"], query["cursor"]
    after = decode_cursor(cursor, _ID) if cursor else ""
    owner_id = _readable(principal)
    rows = queries.list_subscriptions(connection, owner_id, limit=limit + 1, after=after)
    return page_response(rows, webhook_document, lambda row: encode_cursor(row.id), limit=limit)


@blueprint.read("/<webhook_id>", returns=answers.WebhookOut(), problems=(404,), role="viewer")
def get_webhook(connection: Connection, principal: Principal, webhook_id: str) -> Response:
    """Show a webhook, without its secret.

    `status` and `failing_since` tell whether its receiver answers.
    """
    row = queries.find_subscription(connection, webhook_id, _readable(principal))
    return json_response(webhook_document(row))


@blueprint.write(
    "PATCH",
    "/<webhook_id>",
    body=schemas.ChangeWebhook(),
    returns=answers.WebhookOut(),
    problems=(404, 422),
    prepare=_reachable,
)
def update_webhook(session: Session, principal: Principal, body: Body, webhook_id: str) -> Response:
    """Change a webhook, pause it, or make it active again.

    What is left out stays as it is. Deliveries that wait are sent once it is active again.
    """
    return _response(service.change(session, principal.owner_id, webhook_id, body))


@blueprint.write("DELETE", "/<webhook_id>", returns=answers.WebhookDeletedOut(), problems=(404,))
def delete_webhook(session: Session, principal: Principal, webhook_id: str) -> Response:
    """Remove a webhook with its deliveries.

    What was not delivered by then never is.
    """
    service.unsubscribe(session, principal.owner_id, webhook_id)
    return json_response({"id": webhook_id, "deleted": True})


@blueprint.write(
    "POST",
    "/<webhook_id>/rotate-secret",
    body=schemas.RotateSecret(),
    returns=answers.WebhookWithSecretOut(),
    problems=(404, 422),
)
def rotate_webhook_secret(
    session: Session, principal: Principal, body: Body, webhook_id: str
) -> Response:
    """Give a webhook a new secret, shown once.

    During the grace messages are signed with the old one, too, so that receivers can change over.
    """
    grace = timedelta(hours=body["grace_hours"])
    return _with_secret(service.rotate_secret(session, principal.owner_id, webhook_id, grace))


@blueprint.write(
    "POST",
    "/<webhook_id>/ping",
    body=schemas.Nothing(),
    returns=answers.DeliveryOut(),
    problems=(404, 422),
)
def ping_webhook(session: Session, principal: Principal, _: Body, webhook_id: str) -> Response:
    """Have a message of type `webhook.ping` delivered.

    It takes the way of every other message; the deliveries show what became of it.
    """
    delivery_id = service.ping(session, principal.owner_id, webhook_id)
    return _delivery(session, webhook_id, delivery_id)


def _delivery(session: Session, webhook_id: str, delivery_id: str) -> Response:
    row = queries.find_delivery(session, webhook_id, delivery_id)
    return json_response(delivery_document(row))


@blueprint.read(
    "/<webhook_id>/deliveries",
    query=schemas.DeliveryListQuery(),
    returns=answers.DeliveryListOut(),
    problems=(404,),
    role="viewer",
)
def list_webhook_deliveries(
    connection: Connection, principal: Principal, query: Body, webhook_id: str
) -> Response:
    """List a webhook's deliveries, newest first.

    `status=dead` are those that were given up; they can be replayed.
    """
    queries.find_subscription(connection, webhook_id, _readable(principal))
    limit, cursor, status = query["limit"], query["cursor"], query["status"]
    before = decode_cursor(cursor, _ID) if cursor else None
    rows = queries.list_deliveries(
        connection, webhook_id, status=status, limit=limit + 1, before=before
    )
    return page_response(rows, delivery_document, lambda row: encode_cursor(row.id), limit=limit)


@blueprint.write(
    "POST",
    "/<webhook_id>/deliveries/<delivery_id>/replay",
    body=schemas.Nothing(),
    returns=answers.DeliveryOut(),
    problems=(404, 422),
)
def replay_webhook_delivery(
    session: Session, principal: Principal, _: Body, webhook_id: str, delivery_id: str
) -> Response:
    """Have a finished delivery attempted anew.

    The message has the same id, by which its receiver knows it again.
    """
    service.replay(session, principal.owner_id, webhook_id, delivery_id)
    return _delivery(session, webhook_id, delivery_id)
