"""What a WSGI server loads: ``app.wsgi:application`` is a factory.

Under the product's own server it is loaded by ``agenthub serve``; any other server can load it as
``app.wsgi:application()``.
"""

from __future__ import annotations

import structlog
from flask import Flask
from sqlalchemy.exc import InterfaceError, OperationalError

from app import create_app
from app.config import Settings
from app.http.context import EXTENSION, Services
from app.logs import configure_logging
from app.ops.deliverer import Deliverer
from app.ops.maintenance import Maintenance, RateSharing, Sweeper, keep_house
from app.ops.timekeeping import continue_ids, watch_clock
from app.ops.tracks import require_current


def application() -> Flask:
    """Build the application, and begin its maintenance, if the schema is the one it was made for.

    Raises ``OutdatedSchema`` with the fixing command in the message, and ``SettingsError``. While
    the database is away the application is built all the same and answers that it is: a worker that
    is replaced then would otherwise take the whole server down with it.
    """
    settings = Settings.from_env()
    configure_logging(settings)
    app = create_app(settings)
    services: Services = app.extensions[EXTENSION]
    log = structlog.get_logger("agenthub")
    try:
        with services.database.read() as connection:
            require_current(connection)
            continue_ids(connection)
            watch_clock(services.database, connection)
    except (OperationalError, InterfaceError) as error:
        log.warning("database.unavailable", error=str(error.orig))
    keep_house(
        [
            Deliverer(services.database, services.pepper),
            Sweeper(services.database),
            RateSharing(services.database, services.rate_limiter),
            Maintenance(services.database, services.key_usage),
        ]
    )
    log.info("server.ready", database=settings.url.get_backend_name())
    return app
