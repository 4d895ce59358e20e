"""Errors as ``application/problem+json`` (RFC 9457), from one table of domain error families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from flask import Flask, Response
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from app import errors
from app.engines import is_full, is_lock_timeout, is_read_only
from app.files import DatabaseFileReplaced
from app.http.context import request_id
from app.http.credentials import CHALLENGE

CONTENT_TYPE = "application/problem+json"
# HTTP's own refusals: of the router, and of the server before the application is asked.
# Reason phrases that newer versions of Python changed. Codes of problems are made of them and stay.
_PHRASES = {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
    422: "Unprocessable Entity",
}
HTTP_CODES = (400, 404, 405, 408, 413, 414, 415, 429, 431, 500)
log = structlog.get_logger("agenthub.http")


@dataclass(frozen=True)
class Kind:
    """How a family of domain errors appears in HTTP."""

    status: HTTPStatus
    title: str


# The single table: every domain error belongs to exactly one of these families.
KINDS: dict[type[errors.DomainError], Kind] = {
    errors.MalformedRequest: Kind(HTTPStatus.BAD_REQUEST, "The request cannot be read"),
    errors.Unauthenticated: Kind(HTTPStatus.UNAUTHORIZED, "Authentication is needed"),
    errors.Forbidden: Kind(HTTPStatus.FORBIDDEN, "Not allowed"),
    errors.Misdirected: Kind(HTTPStatus.MISDIRECTED_REQUEST, "Not for this service"),
    errors.NotFound: Kind(HTTPStatus.NOT_FOUND, "Not found"),
    errors.Refused: Kind(HTTPStatus.BAD_REQUEST, "Refused by funds or budget"),
    errors.Conflict: Kind(HTTPStatus.CONFLICT, "Conflict with the present state"),
    errors.KeyConflict: Kind(HTTPStatus.CONFLICT, "Conflict with an earlier request"),
    errors.PreconditionFailed: Kind(HTTPStatus.PRECONDITION_FAILED, "Precondition failed"),
    errors.Invalid: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "The request breaks a rule"),
    errors.TooManyRequests: Kind(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    errors.Unavailable: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Try again later"),
}


class DatabaseBusy(errors.Unavailable):
    """The database was locked by other writes for longer than a request may wait."""

    code = "database_busy"


class DatabaseUnavailable(errors.Unavailable):
    """The database cannot be reached at the moment; repeat a write with the same key."""

    code = "database_unavailable"
    retry_after = 2


class StorageFull(errors.Unavailable):
    """The database's disk is full: writes are refused until there is space, reads go on."""

    code = "storage_full"
    retry_after = 10


class FileReplaced(errors.Unavailable):
    """The file of the embedded database was moved, deleted or replaced while it was served, so that
    writes into it would be lost; the operator has to put it back or to start the service anew."""

    code = "database_file_replaced"
    retry_after = 10


class DatabaseReadOnly(errors.Unavailable):
    """The database takes no writes at the moment; reads go on."""

    code = "database_read_only"
    retry_after = 10


def kind_of(error: type[errors.DomainError]) -> Kind:
    """Return the table's entry for a domain error class."""
    return next(KINDS[base] for base in error.__mro__ if base in KINDS)


def known_codes() -> dict[str, tuple[Kind, str]]:
    """Return every problem code with its kind and description, HTTP's own included."""
    codes = {
        cls.code: (kind_of(cls), " ".join((cls.__doc__ or "").split()))
        for cls in _subclasses(errors.DomainError)
        if "code" in vars(cls)
    }
    for status in map(HTTPStatus, HTTP_CODES):
        kind = Kind(status, phrase_of(status))
        codes[_code(status)] = (kind, f"{status.description or phrase_of(status)}.")
    return dict(sorted(codes.items()))


def _subclasses(cls: type[errors.DomainError]) -> Iterator[type[errors.DomainError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def _code(status: HTTPStatus) -> str:
    return phrase_of(status).lower().replace(" ", "_").replace("-", "_")


def phrase_of(status: int) -> str:
    """Return the reason phrase of a status, which is the same in every version of Python."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def response_name(status: int) -> str:
    """Return the name of a status's response in the OpenAPI document."""
    return phrase_of(status).upper().replace(" ", "_").replace("-", "_").replace("'", "")


def problem(
    status: int, code: str, title: str, detail: str, members: dict[str, Any] | None = None
) -> Response:
    """Build a problem response; ``members`` are extension members such as ``errors``."""
    body = _document(status, code, title, detail, request_id(), members)
    return Response(body, status=status, content_type=CONTENT_TYPE)


def _document(
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    members: dict[str, Any] | None = None,
) -> bytes:
    document = {
        "type": f"/problems/{code}",
        "title": title,
        "status": int(status),
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    return orjson.dumps(document | {k: v for k, v in (members or {}).items() if v is not None})


def problem_document(error: errors.DomainError, request_id: str) -> bytes:
    """Return a domain error as a problem document, where no application is at hand."""
    kind = kind_of(type(error))
    return _document(kind.status, error.code, kind.title, error.detail, request_id, error.members)


def http_document(status: HTTPStatus, request_id: str) -> bytes:
    """Return one of HTTP's own refusals as a problem document, where no application is at hand."""
    phrase = phrase_of(status)
    detail = f"{status.description or phrase}."
    return _document(status, _code(status), phrase, detail, request_id)


def domain_problem(error: errors.DomainError) -> Response:
    """Build the response for a domain error."""
    kind = kind_of(type(error))
    response = problem(kind.status, error.code, kind.title, error.detail, error.members)
    if isinstance(error, errors.Unauthenticated):
        response.headers["WWW-Authenticate"] = CHALLENGE
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _http_problem(error: HTTPException) -> Response:
    """Turn Werkzeug's own refusals (routing, size, media type) into problems.

    Headers such as ``Allow`` of a 405 and ``Location`` of a redirect are kept.
    """
    base = error.get_response()
    if base.status_code < 400:
        return Response(base.get_data(), base.status_code, base.headers)
    status = HTTPStatus(base.status_code)
    response = problem(
        status, _code(status), phrase_of(status), error.description or status.description
    )
    for name, value in base.headers.items():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _database_problem(error: Exception) -> Response:
    log.warning("database.unavailable", error=str(getattr(error, "orig", None) or error))
    if is_lock_timeout(error):
        return domain_problem(
            DatabaseBusy("other writes held the database for too long; nothing was changed")
        )
    if isinstance(error, DatabaseFileReplaced):
        return domain_problem(FileReplaced("the database's file is gone; nothing was changed"))
    if is_full(error):
        return domain_problem(StorageFull("the database's disk is full; nothing was changed"))
    if is_read_only(error):
        return domain_problem(DatabaseReadOnly("the database takes no writes; nothing was changed"))
    # A connection lost during COMMIT leaves open whether the write happened; its key settles that.
    return domain_problem(
        DatabaseUnavailable(
            "the database did not answer; a write repeated with its Idempotency-Key happens once"
        )
    )


def _statement_problem(error: DBAPIError) -> Response:
    """Answer for a server that went away, or takes no writes because another is the primary."""
    return _database_problem(error) if error.connection_invalidated else _internal_problem(error)


def _internal_problem(error: Exception) -> Response:
    log.error("request.failed", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        _code(HTTPStatus.INTERNAL_SERVER_ERROR),
        "Internal error",
        "the service failed; nothing was changed. Please report the request_id",
    )


def register_error_handlers(app: Flask) -> None:
    """Make every error of ``app`` a problem document."""
    app.register_error_handler(errors.DomainError, domain_problem)
    app.register_error_handler(HTTPException, _http_problem)
    for unavailable in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(unavailable, _database_problem)
    app.register_error_handler(DBAPIError, _statement_problem)
    app.register_error_handler(Exception, _internal_problem)
