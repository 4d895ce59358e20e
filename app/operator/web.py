"""Pages of the console: who looks at them, how they are declared, and what every one of them sends.

``page`` and ``action`` declare a page and a form's target as ``app.http.blueprint`` declares
endpoints: they find out who asks, open the connection, call the view and build the response.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Response,
    current_app,
    g,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from sqlalchemy import Connection
from werkzeug.wrappers import Response as AnyResponse

from app import clock, ids
from app.access.errors import ApiKeyInvalid, RoleRequired
from app.access.limits import RateLimiter
from app.access.service import Principal, find_principal
from app.http.blueprint import check_path
from app.http.context import services
from app.http.gate import gate
from app.logs import surviving
from app.operator.errors import FormRefused
from app.operator.history import Figures, History
from app.operator.remembered import Remembered
from app.operator.session import SESSION_SECONDS, Session, Signer

HERE = Path(__file__).parent
COOKIE = "agenthub_console"
# Holds what the sign-in form is bound to, as there is no session yet.
FORM_COOKIE = "agenthub_sign_in"
FORM_SECONDS = 3600
OVERVIEW = "/operator"
EXTENSION = "agenthub_console"
# The script of an open page sends this header. It asks for the changing parts only, and such a
# request does not keep the session alive.
LIVE_HEADER = "X-Console-Live"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
NO_STORE, KEEP = "no-store", "public, max-age=31536000, immutable"
View = Callable[..., Any]

pages = Blueprint(
    "console",
    __name__,
    url_prefix="/operator",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page: a principal, in a session that began with its API key."""

    principal: Principal
    session: Session

    @property
    def is_admin(self) -> bool:
        """Whether the visitor sees everything, and may act."""
        return self.principal.has_role("admin")

    @property
    def owner_scope(self) -> str | None:
        """The owner whose delegations and money the visitor sees; None stands for everybody's."""
        return None if self.is_admin else self.principal.owner_id


@dataclass(frozen=True)
class Console:
    """The long-lived objects of the console in one application."""

    signer: Signer
    history: History
    refused: RateLimiter
    versions: Remembered[int]


def console() -> Console:
    """Return the console of the application that handles the current request."""
    found: Console = current_app.extensions[EXTENSION]
    return found


def read_figures(connection: Connection, owner_id: str | None) -> Figures:
    """Return the figures over all of history; what is missing is then read behind the view."""
    found = console().history.read(connection, owner_id)
    if found.missing:
        console().history.catch_up(services().database.read)
    return found


def is_live() -> bool:
    """Tell whether an open page asks for what has changed."""
    return LIVE_HEADER in request.headers


def visitor() -> Visitor | None:
    """Return who looks, None if nobody is signed in.

    Whether the key and the session still live is asked every time. Raises ``RateLimited``, as the
    API does.
    """
    if "visitor" not in g:
        g.visitor = _find_visitor()
    found: Visitor | None = g.visitor
    return found


def _find_visitor() -> Visitor | None:
    session = console().signer.open(request.cookies.get(COOKIE, ""), clock.now())
    if session is None:
        return None
    try:
        with services().database.read() as connection:
            principal = find_principal(connection, services().pepper, session.key_id, session.id)
    except ApiKeyInvalid:
        gate().charge_address()
        return None
    services().key_usage.record(principal.key_id)
    services().rate_limiter.admit(principal.key_id)
    return Visitor(principal, session)


def is_secure() -> bool:
    """Tell whether the browser came by HTTPS, perhaps to a trusted proxy before this server."""
    if request.is_secure:
        return True
    by_proxy = gate().clients.is_trusted(request.remote_addr or "")
    return by_proxy and request.headers.get("X-Forwarded-Proto") == "https"


def is_signed_in() -> bool:
    """Tell whether a page is asked for in a session, of whose key ``visitor`` keeps count."""
    if request.blueprint != pages.name:
        return False
    return console().signer.open(request.cookies.get(COOKIE, ""), clock.now()) is not None


def set_cookie(response: AnyResponse, name: str, value: str, seconds: int) -> None:
    """Set a cookie of the console, which no script reads and no other site's page sends."""
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path="/operator",
        secure=is_secure(),
        httponly=True,
        samesite="Strict",
    )


def page(rule: str, *, role: str = "viewer", greets: bool = False) -> Callable[[View], View]:
    """Declare a page: ``view(connection, visitor, **path)`` returns its HTML or a response.

    Somebody who is not signed in is sent to the form, or shown it here where the page ``greets``.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def endpoint(**path: str) -> AnyResponse:
            who = visitor()
            if who is None:
                return _to_sign_in(greets)
            require(who, role)
            check_path(path)
            with services().database.read() as connection:
                return respond(view(connection, who, **path))

        pages.add_url_rule(rule, view.__name__, endpoint, methods=["GET"])
        return view

    return decorate


def require(who: Visitor, role: str) -> None:
    """Raise ``RoleRequired`` for a visitor below ``role``."""
    if not who.principal.has_role(role):
        raise RoleRequired(
            f"this page needs an API key of role {role}; yours is of role {who.principal.role}",
            required_role=role,
        )


def _to_sign_in(greets: bool) -> AnyResponse:
    if is_live():
        return Response(status=401)
    wanted = request.full_path.rstrip("?")
    return (
        show_sign_in(wanted) if greets else redirect(url_for("console.sign_in", next=wanted), 303)
    )


def destination(wanted: str) -> str:
    """Return where to go after signing in: a page of the console, whatever was asked for."""
    is_ours = wanted == OVERVIEW or wanted.startswith((f"{OVERVIEW}/", f"{OVERVIEW}?"))
    # Browsers read a backslash, or two slashes, as the beginning of another site's name.
    is_plain = wanted.isascii() and wanted.isprintable() and not re.search(r"\\|//", wanted)
    return wanted if is_ours and is_plain else OVERVIEW


def show_sign_in(wanted: str, problem: str | None = None, status: int = 200) -> AnyResponse:
    """Show the form to sign in with, and what went wrong with the last attempt."""
    nonce = request.cookies.get(FORM_COOKIE) or ids.new_secret()
    html = render(
        "sign_in.html",
        wanted=destination(wanted),
        problem=problem,
        sign_in_token=console().signer.form_token(nonce),
    )
    response = make_response(html, status)
    set_cookie(response, FORM_COOKIE, nonce, FORM_SECONDS)
    return response


def action(rule: str, *, role: str = "admin") -> Callable[[View], View]:
    """Declare the target of a form: ``view(visitor, **path)`` does it and returns a response.

    Raises ``FormRefused`` for a form that is not from a page of the visitor's session.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def endpoint(**path: str) -> AnyResponse:
            who = visitor()
            if who is None:
                return redirect(url_for("console.sign_in"), 303)
            check_form(who.session.id)
            require(who, role)
            check_path(path)
            return respond(view(who, **path))

        pages.add_url_rule(rule, f"{view.__name__}_action", endpoint, methods=["POST"])
        return view

    return decorate


def check_form(session_id: str) -> None:
    """Raise ``FormRefused`` unless the form carries its session's token and came from this site."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise FormRefused("the form came from another site")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise FormRefused("the form came from another site")
    if not console().signer.is_form_token(session_id, request.form.get("form_token", "")):
        raise FormRefused("the page with this form is too old; reload it and try again")


def respond(content: Any) -> AnyResponse:
    """Build the response of a page; one that an open page asks for is empty unless it changed."""
    if isinstance(content, AnyResponse):
        return content
    response = Response(content, content_type="text/html; charset=utf-8")
    if is_live():
        response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
        response.headers["Cache-Control"] = "no-cache"
        response.make_conditional(request)
    return response


def render(template: str, **context: Any) -> str:
    """Return a template's HTML, or, for a page that is open, only what changes of it."""
    layout = "operator/live.html" if is_live() else "operator/layout.html"
    return render_template(f"operator/{template}", layout=layout, now=clock.now(), **context)


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """Return the address of a static file, which changes with its content."""
    return url_for("console.static", filename=name, v=_fingerprint(name))


@pages.app_template_global("form_token")
def form_token() -> str:
    """Return what the forms of the current page carry."""
    who: Visitor | None = g.get("visitor")
    return console().signer.form_token(who.session.id) if who else ""


@pages.app_template_global("idempotency_key")
def idempotency_key() -> str:
    """Return a name for what a form does, so that it is done once however often it is sent."""
    return f"console-{ids.new_id()}"


@pages.context_processor
def context() -> dict[str, Any]:
    """Give every template who looks and what shapes addresses."""
    # As far as it was found out: the database may be away.
    return {"visitor": g.get("visitor"), "asset": asset}


@pages.after_request
def finish(response: Response) -> Response:
    """Send what every page sends, and keep the session of somebody who is there alive."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if request.endpoint == "console.static":
        response.headers["Cache-Control"] = KEEP if request.args.get("v") else "no-cache"
        return response
    response.headers.setdefault("Cache-Control", NO_STORE)
    # What a form did is committed by now; a session that is not renewed is no reason to deny it.
    with surviving("session"):
        _renew_session(response)
    return response


def _renew_session(response: Response) -> None:
    who: Visitor | None = g.get("visitor")
    if who is not None and not is_live() and "signed_out" not in g:
        renewed = who.session.renewed(clock.now())
        if renewed is not None:
            set_cookie(response, COOKIE, console().signer.seal(renewed), SESSION_SECONDS)
