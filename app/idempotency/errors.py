"""What the idempotency scope refuses."""

from app.errors import KeyConflict, MalformedRequest


class KeyMissing(MalformedRequest):
    """A write needs an ``Idempotency-Key`` header."""

    code = "idempotency_key_missing"


class KeyMalformed(MalformedRequest):
    """An idempotency key has 1 to 255 printable ASCII characters."""

    code = "idempotency_key_malformed"


class KeyReused(KeyConflict):
    """The key was used for another request; a new request needs a new key."""

    code = "idempotency_key_reused"


class KeyInUse(KeyConflict):
    """The first request with this key is still running; try again in a moment."""

    code = "idempotency_key_in_use"
    retry_after = 1


class ResponseExpired(KeyConflict):
    """The request ran, and its stored answer has been dropped after its retention time."""

    code = "idempotency_response_expired"
