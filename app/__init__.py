"""AgentHub: the system of record for AI agents and for the work they hand to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Settings
    from app.http.context import Services


def create_app(settings: Settings | None = None) -> Flask:
    """Build the WSGI application; ``settings`` default to the environment's.

    The database must be migrated; ``app.wsgi`` checks that before a server starts to serve.
    """
    # Imported here, so that importing the package (as migrations do) loads no web framework.
    from flask import Flask

    from app.access.blueprint import blueprint as audit
    from app.catalogue.register import register_catalogue
    from app.config import Settings
    from app.delegation.blueprint import blueprints as delegation
    from app.http.context import EXTENSION
    from app.http.cors import register_cors
    from app.http.gate import register_gate
    from app.http.health import blueprint as health
    from app.http.hooks import register_hooks
    from app.http.metrics import register_metrics
    from app.http.openapi import make_api, register_documents
    from app.http.problems import register_error_handlers
    from app.http.tracing import make_provider, register_tracing
    from app.ledger.blueprint import blueprint as ledger
    from app.ledger.blueprint import metering_blueprint as metering
    from app.notification.blueprint import blueprint as notification
    from app.operator.blueprint import blueprint as operator
    from app.operator.register import register_console
    from app.registry.blueprint import blueprint as registry

    settings = settings or Settings.from_env()
    app = Flask("app", static_folder="http/static", static_url_path="/assets")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.extensions[EXTENSION] = _services(settings)
    register_hooks(app)
    if settings.otlp_endpoint is not None:
        register_tracing(app, make_provider(settings.otlp_endpoint))
    register_gate(app, settings)
    register_cors(app, settings)
    register_error_handlers(app)
    api = make_api(app)
    blueprints = (registry, ledger, metering, *delegation, notification, audit, operator, health)
    for blueprint in blueprints:
        api.register_blueprint(blueprint)
    register_documents(app, api)
    register_metrics(app, settings, app.extensions[EXTENSION].database)
    register_console(app)
    register_catalogue(app)
    _make_what_requests_share()
    return app


def _services(settings: Settings) -> Services:
    """Make the long-lived objects of an application."""
    from app.access.limits import RateLimiter
    from app.access.pepper import load_pepper
    from app.db import Database
    from app.http.context import Services
    from app.json_schema.pool import pool_of
    from app.notification.lookups import lookups_of_requests

    return Services(
        settings,
        Database(settings),
        load_pepper(settings),
        RateLimiter(settings.rate_limit_per_minute),
        checks=pool_of(settings),
        lookups=lookups_of_requests(settings.threads),
    )


def _make_what_requests_share() -> None:
    """Build shared objects before the first requests, which may come at the same time."""
    from sqlalchemy.orm import configure_mappers

    from app.metrics import metrics
    from app.ops.tracks import revisions_of
    from app.scopes import SCOPES

    metrics()
    configure_mappers()
    for scope in SCOPES:
        revisions_of(scope)
