"""Signing in to the console with an API key, and out of it."""

from __future__ import annotations

import structlog
from flask import Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app import clock
from app.access.audit import record_sign_in
from app.access.errors import ApiKeyInvalid, RateLimited
from app.access.service import authenticate, find_claim
from app.access.sessions import end_session
from app.http.context import request_id, services
from app.http.gate import gate
from app.operator.errors import FormRefused
from app.operator.session import SESSION_SECONDS, Session
from app.operator.web import (
    COOKIE,
    FORM_COOKIE,
    OVERVIEW,
    check_form,
    console,
    destination,
    pages,
    set_cookie,
    show_sign_in,
    visitor,
)

log = structlog.get_logger("agenthub.console")


@pages.get("/sign-in")
def sign_in() -> AnyResponse:
    """Show the form, or the console to somebody who is signed in."""
    wanted = request.args.get("next", OVERVIEW)
    if visitor() is not None:
        return redirect(destination(wanted), 303)
    return show_sign_in(wanted)


@pages.post("/sign-in")
def begin_session() -> AnyResponse:
    """Exchange an API key for a session."""
    wanted = request.form.get("next", OVERVIEW)
    try:
        check_form(request.cookies.get(FORM_COOKIE, ""))
        session = _authenticated(request.form.get("api_key", "").strip())
    except RateLimited as error:
        response = show_sign_in(wanted, "Too many attempts. Wait a minute and try again.", 429)
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    except FormRefused:
        return show_sign_in(wanted, "The form was too old. Please try once more.", 403)
    except ApiKeyInvalid:
        problem = "That key is not accepted. It is unknown, revoked or expired."
        return show_sign_in(wanted, problem, 401)
    response = redirect(destination(wanted), 303)
    set_cookie(response, COOKIE, console().signer.seal(session), SESSION_SECONDS)
    return response


def _authenticated(presented: str) -> Session:
    """Return a new session of a key. Raises ``ApiKeyInvalid`` and ``RateLimited``.

    The attempt goes on record. Only refused ones are limited by address, which behind a proxy is
    everybody's: nobody can keep the holder of a key out.
    """
    with services().database.read() as connection:
        claim = find_claim(connection, services().pepper, presented)
        try:
            principal = authenticate(connection, services().pepper, presented)
        except ApiKeyInvalid:
            principal = None
    if principal is not None:
        services().rate_limiter.admit(principal.key_id)
    else:
        console().refused.forget_past()
        console().refused.admit(gate().party())
    outcome = "signed in" if principal else "refused"
    # An id that no key has is nobody's attempt; a record of it would be anybody's to fill.
    log.info("console.sign_in", outcome=outcome, key_id=claim and claim.key_id)
    if claim is not None:
        with services().database.transaction() as session:
            record_sign_in(session, claim, request.path, outcome, request_id())
    if principal is None:
        raise ApiKeyInvalid("the API key is unknown, revoked or expired")
    return Session.begin(principal.key_id, clock.now())


@pages.post("/sign-out")
def sign_out() -> AnyResponse:
    """End the session, on every server and for whoever has a copy of its cookie."""
    who = visitor()
    if who is not None:
        check_form(who.session.id)
        with services().database.transaction() as session:
            end_session(session, who.session.id, who.session.over_at)
    g.signed_out = True
    response: Response | AnyResponse = redirect(url_for("console.sign_in"), 303)
    set_cookie(response, COOKIE, "", 0)
    return response
