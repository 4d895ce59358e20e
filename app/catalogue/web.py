"""Pages of the catalogue: how they are declared, and what every one of them sends.

A page and the document of the API have one address: a client that prefers ``application/json`` gets
what the API answers, and a browser gets the page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, cast

import structlog
from flask import Blueprint, Response, current_app, render_template, request, url_for
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.wrappers import Response as AnyResponse

from app.errors import DomainError
from app.http.blueprint import check_path
from app.http.context import request_id, services
from app.http.problems import domain_problem, kind_of
from app.operator.web import asset

View = Callable[..., Any]
HTML, JSON = "text/html", "application/json"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
log = structlog.get_logger("agenthub.catalogue")

pages = Blueprint(
    "catalogue",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/catalogue/static",
)


def prefers_json() -> bool:
    """Tell whether the client would rather have the API's document than a page."""
    return request.accept_mimetypes.best_match([HTML, JSON], default=HTML) == JSON


def page(rule: str, *, document: str) -> Callable[[View], View]:
    """Declare a page: ``view(connection, **path)`` returns its HTML.

    ``document`` is the endpoint of the API that answers clients which prefer JSON.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def endpoint(**path: str) -> AnyResponse:
            if prefers_json():
                return cast("Response", current_app.view_functions[document](**path))
            check_path(path)
            with services().database.read() as connection:
                return respond(view(connection, **path))

        pages.add_url_rule(rule, view.__name__, endpoint, methods=["GET"])
        return view

    return decorate


def respond(html: str, content_type: str = f"{HTML}; charset=utf-8") -> Response:
    """Return a page that may be kept and asked for again; 304 to whoever has it already."""
    response = Response(html, content_type=content_type)
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


def render(template: str, **context: Any) -> str:
    """Return a template's HTML; ``description`` says in one sentence what the page shows."""
    canonical = request.host_url.rstrip("/") + request.path
    return render_template(
        f"catalogue/{template}",
        canonical=canonical,
        asset=asset,
        stylesheet=url_for("catalogue.static", filename="catalogue.css"),
        **context,
    )


@pages.after_request
def finish(response: Response) -> Response:
    """Send what every page sends."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers.add("Vary", "Accept")
    return response


@pages.errorhandler(DomainError)
def _refused(error: DomainError) -> Response:
    if prefers_json():
        return domain_problem(error)
    kind = kind_of(type(error))
    response = problem_page(int(kind.status), kind.title, error.detail)
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


@pages.errorhandler(OperationalError)
@pages.errorhandler(InterfaceError)
@pages.errorhandler(PoolTimeout)
def _database_away(error: Exception) -> Response:
    log.warning("database.unavailable", error=str(getattr(error, "orig", None) or error))
    response = problem_page(503, "Try again later", "The database does not answer at the moment.")
    response.headers["Retry-After"] = "2"
    return response


def problem_page(status: int, heading: str, detail: str) -> Response:
    """Return a page that says what went wrong and leads back to the catalogue."""
    html = render(
        "problem.html",
        title=heading,
        description=heading,
        area="",
        detail=detail[:1].upper() + detail[1:],
        request_id=request_id(),
    )
    return Response(html, status, content_type=f"{HTML}; charset=utf-8")


def page_for_browsers(response: Response) -> Response:
    """Show a browser a page where nothing has the address; other clients keep the problem."""
    asks_for_page = HTML in request.accept_mimetypes.values()
    is_of_api = request.path.startswith(("/v1/", "/operator"))
    if response.status_code != 404 or request.url_rule or is_of_api or not asks_for_page:
        return response
    shown = problem_page(404, HTTPStatus.NOT_FOUND.phrase, "There is no such page here.")
    return finish(shown)
