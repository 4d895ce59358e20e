"""What the edge itself refuses before any domain is asked."""

from app.errors import Invalid, MalformedRequest, NotFound


class MalformedJson(MalformedRequest):
    """The request body is not a JSON text in UTF-8 (RFC 8259)."""

    code = "malformed_json"


class ValidationFailed(Invalid):
    """The request has members that are missing, unknown, or not what was expected.

    ``errors`` lists every violation: ``pointer`` (JSON Pointer into the body) or ``parameter``
    (query), a stable ``code``, and in ``detail`` what was expected.
    """

    code = "validation_failed"


class PathNotFound(NotFound):
    """A name in the path does not have the form that such names have, so nothing has it."""

    code = "path_not_found"
