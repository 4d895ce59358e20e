"""What the access scope refuses."""

from app.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)


class ApiKeyMissing(Unauthenticated):
    """The request needs an API key, in ``X-API-Key`` or as a Bearer token."""

    code = "api_key_missing"


class ApiKeyInvalid(Unauthenticated):
    """The API key is unknown, revoked or expired."""

    code = "api_key_invalid"


class RoleRequired(Forbidden):
    """The API key's role does not reach what the request needs."""

    code = "role_required"


class RateLimited(TooManyRequests):
    """The API key, or the address of a caller without one, made all the requests of its minute."""

    code = "rate_limited"


class OwnerNameInvalid(Invalid):
    """An owner's name breaks the naming rule."""

    code = "owner_name_invalid"


class KeyNotFound(NotFound):
    """No API key has this id."""

    code = "api_key_not_found"


class KeyRevoked(Conflict):
    """The API key is revoked already."""

    code = "api_key_revoked"


class KeyExpired(Conflict):
    """The API key is over, so that a successor would be over, too."""

    code = "api_key_expired"


class KeyRotated(Conflict):
    """The API key has a successor already."""

    code = "api_key_rotated"


class KeyAltered(Conflict):
    """The API key's row was edited by somebody without the pepper."""

    code = "api_key_altered"
