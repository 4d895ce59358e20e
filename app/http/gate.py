"""What every request passes before its route: whose host it is for, how many came from there."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Flask, current_app, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import NotFound

from app.access.errors import ApiKeyInvalid
from app.access.limits import RateLimiter
from app.access.service import authenticate
from app.config import Settings
from app.errors import MalformedRequest
from app.http.clients import Clients
from app.http.context import services
from app.http.credentials import presented_key
from app.http.hosts import HostMalformed, Hosts

EXTENSION = "agenthub_gate"
# Where the front notes a header that came twice and may come once.
REPEATED = "agenthub.repeated_header"
# Asks nothing of anybody, and is asked often.
FREE = "/healthz"
# How long a key that was found genuine spares its requests another look, for limits only.
VERIFIED_SECONDS = 60.0
MAX_VERIFIED = 10_000
MAX_ADDRESSES = 20_000


class HeaderRepeated(MalformedRequest):
    """A header that says one thing was sent more than once."""

    code = "header_repeated"


class Gate:
    """The allowed hosts, the trusted proxies and the limits of addresses of one application.

    ``is_known`` tells of a request without a key whether somebody has proven who sends it.
    """

    def __init__(self, settings: Settings) -> None:
        self.hosts = Hosts(settings)
        self.clients = Clients(settings.trusted_proxies or ())
        self.is_known: Callable[[], bool] = lambda: False
        self._limits = bool(settings.anonymous_limit or settings.failed_key_limit)
        self._anonymous = RateLimiter(
            settings.anonymous_limit, "an address without a valid API key", MAX_ADDRESSES
        )
        self._failed = RateLimiter(
            settings.failed_key_limit, "an address with a wrong API key", MAX_ADDRESSES
        )
        # Of keys only hashes, which no other process shares.
        self._verified: dict[int, float] = {}

    def note_verified(self, presented: str) -> None:
        """Remember for a while that a key is genuine."""
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[hash(presented)] = time.monotonic() + VERIFIED_SECONDS

    def is_verified(self, presented: str) -> bool:
        """Tell whether a key was found genuine lately; nothing but limits may rest on it."""
        return self._verified.get(hash(presented), 0.0) > time.monotonic()

    def party(self) -> str:
        """Return what stands for the address that the current request comes from."""
        peer = request.remote_addr or ""
        return self.clients.party(peer, request.headers.get("X-Forwarded-For", ""))

    def admit(self) -> None:
        """Charge a request to its address, unless its key or its session is genuine.

        Raises ``RateLimited``. That a wrong key was tried too often is said only to wrong keys:
        nobody can keep the holder of one out.
        """
        headers = request.headers
        presented = presented_key(headers.get("X-API-Key", ""), headers.get("Authorization", ""))
        if not self._limits or request.path == FREE:
            return
        if self.is_verified(presented) if presented else self.is_known():
            return
        if presented:
            if self._is_genuine(presented):
                return
            self._failed.admit(self.party())
        self.charge_address()

    def charge_address(self) -> None:
        """Charge a request to its address. Raises ``RateLimited``."""
        self._anonymous.admit(self.party())

    def _is_genuine(self, presented: str) -> bool:
        try:
            with services().database.read() as connection:
                authenticate(connection, services().pepper, presented)
        except ApiKeyInvalid:
            return False
        except SQLAlchemyError:
            # The route says that the database is away, if it needs it.
            return True
        self.note_verified(presented)
        return True


def gate() -> Gate:
    """Return the gate of the application that handles the current request."""
    found: Gate = current_app.extensions[EXTENSION]
    return found


def register_gate(app: Flask, settings: Settings) -> None:
    """Have every request pass the gate before its route."""
    app.extensions[EXTENSION] = Gate(settings)
    # Flask would lead from /v1//agents to the host that the request names.
    app.url_map.merge_slashes = False

    @app.before_request
    def enter() -> None:
        repeated = request.environ.get(REPEATED)
        if repeated == "host":
            raise HostMalformed("the request has several Host headers")
        gate().hosts.check(request.environ.get("HTTP_HOST"))
        if not request.environ.get("PATH_INFO"):
            # Flask would lead to / on the host that the request names.
            raise NotFound
        if repeated is not None:
            raise HeaderRepeated(f"the header {repeated} is sent more than once; send one value")
        gate().admit()
