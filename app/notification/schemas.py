"""What notification's endpoints read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import marshmallow as ma

from app.http.context import services
from app.http.fields import JsonInteger, PlainText
from app.http.pagination import PageQuery
from app.http.schemas import Schema
from app.notification.addresses import UrlRefused, parse_url
from app.notification.events import EVENT_TYPES, EVERYTHING
from app.notification.service import ACTIVE, DEAD, DELIVERED, PAUSED, PENDING

MAX_DESCRIPTION = 255
MAX_GRACE_HOURS = 7 * 24


class WebhookUrl(ma.fields.String):
    """A URL that a webhook may have. Its host name is looked up later."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        url = str(super()._deserialize(value, attr, data, **kwargs))
        try:
            parse_url(url, allow_private=services().settings.webhook_allow_private)
        except UrlRefused as error:
            raise ma.ValidationError(str(error)) from None
        return url


def _url(**arguments: Any) -> WebhookUrl:
    return WebhookUrl(
        metadata={
            "format": "uri",
            "description": "HTTPS, leading to the internet unless the operator allows otherwise",
        },
        **arguments,
    )


def _event_types(**arguments: Any) -> ma.fields.List[str]:
    names = ", ".join(f"`{name}`: {meaning}" for name, meaning in EVENT_TYPES.items())
    return ma.fields.List(
        ma.fields.String(validate=ma.validate.OneOf((*EVENT_TYPES, EVERYTHING))),
        validate=ma.validate.Length(min=1, max=len(EVENT_TYPES) + 1),
        metadata={"description": f"`*` is all of them, later ones included; {names}"},
        **arguments,
    )


def _description(**arguments: Any) -> ma.fields.String:
    shown = PlainText(lines=True, may_be_blank=True)
    rules = [ma.validate.Length(max=MAX_DESCRIPTION), shown]
    return ma.fields.String(validate=rules, **arguments)


class CreateWebhook(Schema):
    """A webhook: a URL and the types of events that it receives."""

    url = _url(required=True)
    event_types = _event_types(load_default=lambda: [EVERYTHING])
    description = _description(load_default="")

    example = {
        "url": "https://example.com/agenthub",
        "event_types": ["delegation.created", "delegation.closed"],
        "description": "bookkeeping",
    }


class ChangeWebhook(Schema):
    """The members to change. Members that are left out stay as they are."""

    url = _url()
    event_types = _event_types()
    description = _description()
    status = ma.fields.String(validate=ma.validate.OneOf((ACTIVE, PAUSED)))

    example = {"status": PAUSED}


class RotateSecret(Schema):
    """How long the old secret signs beside the new one."""

    grace_hours = JsonInteger(
        load_default=24, validate=ma.validate.Range(min=0, max=MAX_GRACE_HOURS)
    )

    example = {"grace_hours": 24}


class Nothing(Schema):
    """Nothing needs to be said."""

    example: ClassVar[dict[str, Any]] = {}


class DeliveryListQuery(PageQuery):
    """Which deliveries, newest first."""

    status = ma.fields.String(
        load_default=None, validate=ma.validate.OneOf((PENDING, DELIVERED, DEAD))
    )

    example = {"status": DEAD, "limit": 20}
