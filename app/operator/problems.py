"""Errors of the console, as pages."""

from __future__ import annotations

import structlog
from flask import make_response, request
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from app.errors import DomainError
from app.http.context import request_id
from app.http.problems import kind_of, phrase_of
from app.operator.errors import PageNotFound
from app.operator.web import is_live, pages, render, visitor

log = structlog.get_logger("agenthub.console")


@pages.route("/<path:rest>", methods=["GET", "POST"])
def unknown(rest: str) -> Response:
    """Say that there is no such page."""
    visitor()
    raise PageNotFound("the console has no such page")


@pages.errorhandler(DomainError)
def _refused(error: DomainError) -> Response:
    kind = kind_of(type(error))
    response = _page(int(kind.status), kind.title, error.detail)
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


@pages.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:
        return error.get_response()
    return _page(error.code, phrase_of(error.code), error.description or "")


@pages.errorhandler(OperationalError)
@pages.errorhandler(InterfaceError)
@pages.errorhandler(PoolTimeout)
def _database_away(error: Exception) -> Response:
    log.warning("database.unavailable", error=str(getattr(error, "orig", None) or error))
    response = _page(503, "Try again later", "The database does not answer at the moment.")
    response.headers["Retry-After"] = "2"
    return response


@pages.errorhandler(Exception)
def _failed(error: Exception) -> Response:
    log.error("request.failed", exc_info=error)
    return _page(500, "Internal error", "The service failed; nothing was changed.")


def _page(status: int, heading: str, detail: str) -> Response:
    if is_live():
        return make_response("", status)
    # Who looks cannot be asked while the database is away.
    html = render(
        "problem.html",
        title=heading,
        area="",
        status=status,
        detail=detail[:1].upper() + detail[1:],
        request_id=request_id(),
        again=request.method == "GET" and status >= 500,
    )
    return make_response(html, status)
