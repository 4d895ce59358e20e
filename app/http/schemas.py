"""Base schema of all requests and answers, and the schemas every scope shares."""

from __future__ import annotations

from typing import Any, ClassVar

import marshmallow as ma


class Schema(ma.Schema):
    """A closed object. ``example`` is shown in the OpenAPI document and held valid by a test.

    One that is ``one_of`` several others has no members of its own.
    """

    example: ClassVar[dict[str, Any]]
    one_of: ClassVar[tuple[type[Schema], ...]] = ()

    class Meta:
        unknown = ma.RAISE

    error_messages = {"type": "expected an object"}

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        known = ", ".join(sorted(self.load_fields)) or "none"
        self.error_messages = {
            **self.error_messages,
            "unknown": f"unknown member; known are: {known}",
        }


def build(schema: ma.Schema) -> None:
    """Build what a schema holds inside, which marshmallow puts off until it is first used.

    Requests share the schemas of their bodies, and the first ones may come at once.
    """
    for field in schema.fields.values():
        inner = field.inner if isinstance(field, ma.fields.List) else field
        if isinstance(inner, ma.fields.Nested):
            build(inner.schema)


class ProblemEntryOut(Schema):
    """One violation: where it is and what was expected there."""

    pointer = ma.fields.String(metadata={"description": "JSON Pointer (RFC 6901) into the body"})
    parameter = ma.fields.String(metadata={"description": "Name of a query parameter"})
    code = ma.fields.String(required=True)
    detail = ma.fields.String(required=True)

    example = {
        "pointer": "/manifest/identity/name",
        "code": "min_length",
        "detail": "expected at least 3 characters",
    }


class ProblemOut(Schema):
    """An error (RFC 9457). ``code`` is the stable word to act on; other members may be added."""

    type = ma.fields.String(required=True)
    title = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    detail = ma.fields.String(required=True)
    code = ma.fields.String(required=True)
    request_id = ma.fields.String(required=True)
    errors = ma.fields.List(ma.fields.Nested(ProblemEntryOut()))

    class Meta:
        unknown = ma.INCLUDE

    example = {
        "type": "/problems/version_exists",
        "title": "Conflict with the present state",
        "status": 409,
        "detail": "@acme:invoice-summarizer already has version 1.0.0; publish a higher one",
        "code": "version_exists",
        "request_id": "01981f0e-7b5a-7c3e-9d52-3f1f6f7f9a10",
    }


class PaginationOut(Schema):
    """Where a page stands. ``total`` and ``offset`` belong to mode ``offset``."""

    mode = ma.fields.String(required=True, validate=ma.validate.OneOf(("offset", "cursor")))
    offset = ma.fields.Integer()
    limit = ma.fields.Integer(required=True)
    total = ma.fields.Integer()
    next_cursor = ma.fields.String(required=True, allow_none=True)

    example = {"mode": "offset", "offset": 0, "limit": 20, "total": 1, "next_cursor": None}
