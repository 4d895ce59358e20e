"""What the notification scope refuses."""

from app.errors import Conflict, NotFound, TooManyRequests


class WebhookNotFound(NotFound):
    """No webhook of yours has this id."""

    code = "webhook_not_found"


class DeliveryNotFound(NotFound):
    """The webhook has no delivery with this id; finished ones are dropped after some time."""

    code = "delivery_not_found"


class WebhookNotActive(Conflict):
    """The webhook is paused or disabled; make it active first."""

    code = "webhook_not_active"


class DeliveryPending(Conflict):
    """The delivery is not finished, so it is under way already."""

    code = "delivery_pending"


class TooManyLookups(TooManyRequests):
    """Too many names of webhooks are being looked up now, or names of yours whose servers are
    silent; the request was not carried out."""

    code = "too_many_lookups"
