"""Which hosts a request may be for (RFC 9110, sections 7.2 and 7.4).

A web page can have its name lead to any address, this machine's included (DNS rebinding), and then
read what answers there; but it cannot have the browser send another name than its own. So a service
answers only for names that it knows.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

from app.config import Settings
from app.errors import MalformedRequest, Misdirected

LOOPBACK = ("localhost", "127.0.0.0/8", "::1")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
_MAX_KNOWN = 1000


class HostMalformed(MalformedRequest):
    """The request has no ``Host`` header, several, or one that is no host's name and port."""

    code = "host_malformed"


class HostNotAllowed(Misdirected):
    """The service does not answer for the host that the ``Host`` header names.

    Operators allow further hosts with ``AGENTHUB_ALLOWED_HOSTS``.
    """

    code = "host_not_allowed"


class Hosts:
    """The hosts that a service answers for: loopback, where it listens, and what it was told."""

    def __init__(self, settings: Settings) -> None:
        allowed = [*LOOPBACK, *(settings.allowed_hosts or ())]
        if not settings.listens_everywhere:
            allowed.append(settings.host)
        self._all = "*" in allowed
        self._suffixes = tuple(name[1:].lower() for name in allowed if name.startswith("*."))
        self._names = {name.lower() for name in allowed}
        self._networks = [
            ip_network(name) for name in allowed if re.fullmatch("[0-9a-f.:/]+", name)
        ]
        self._known: set[str] = set()

    def check(self, host: str | None) -> None:
        """Raise ``HostMalformed`` or ``HostNotAllowed`` unless the service answers for ``host``."""
        if host in self._known:
            return
        match = _HOST.fullmatch(host or "")
        if host is None or match is None:
            raise HostMalformed(
                "the request needs one Host header: a name or an address, and a port"
            )
        if not self._allows(match["six"] or match["name"]):
            raise HostNotAllowed(
                f"this service does not answer for the host {host!r};"
                " its operator allows hosts with AGENTHUB_ALLOWED_HOSTS"
            )
        if len(self._known) < _MAX_KNOWN:
            self._known.add(host)

    def _allows(self, name: str) -> bool:
        name = name.lower().removesuffix(".")
        if self._all or name in self._names or name.endswith(self._suffixes):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
