"""Putting the console into an application."""

from __future__ import annotations

from flask import Flask
from jinja2 import StrictUndefined

from app.access.limits import RateLimiter
from app.http.context import EXTENSION as SERVICES
from app.http.context import Services
from app.http.gate import EXTENSION as GATE

# Imported for the pages they declare.
from app.operator import (
    agents,
    delegations,
    ledger,
    money,
    operations,
    overview,
    problems,
    search,
    signin,
    text,
)
from app.operator.history import History
from app.operator.remembered import Remembered
from app.operator.session import Signer
from app.operator.web import EXTENSION, Console, is_signed_in, pages

DECLARING = (agents, delegations, ledger, money, operations, overview, problems, search, signin)
# Refused attempts to sign in from one address in a minute, in each process. Keys cannot be guessed;
# this spares the record and the log.
REFUSED_PER_MINUTE = 30
VERSIONS_SECONDS = 60


def register_console(app: Flask) -> None:
    """Serve the console below ``/operator``."""
    services: Services = app.extensions[SERVICES]
    app.extensions[EXTENSION] = Console(
        Signer(services.pepper),
        History(),
        RateLimiter(REFUSED_PER_MINUTE),
        Remembered(VERSIONS_SECONDS),
    )
    app.extensions[GATE].is_known = is_signed_in
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters |= {
        "usd": text.usd,
        "kind": text.kind,
        "account": text.account,
        "lasted": text.lasted,
        "percent": text.percent,
        "size": text.size,
        "when": text.when,
        "ago": text.ago,
        "words": text.words,
        "series": text.series,
        "state": text.state,
        "segment": text.segment,
        "pretty": text.pretty,
        "known": text.known,
    }
    app.register_blueprint(pages)
