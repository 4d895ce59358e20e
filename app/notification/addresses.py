"""Where a webhook may lead: its URL, and the addresses that its name has when somebody asks.

A receiver's URL is chosen by a client, so it must not reach what only this machine or its network
can reach (server-side request forgery). The name is resolved here, at every delivery anew, and the
connection goes to the very address that was checked, so that a name cannot be made to mean another
address in between (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2000
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62}(?<!-))?(\.[a-z0-9_]([a-z0-9_-]{0,62}(?<!-))?)*\.?"
)
_PRINTABLE = re.compile(r"[!-~]+")
# All of IPv6 that is routed on the internet (RFC 4291), but for what wraps an IPv4 address in it.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# What Python's library calls global although no single host on the internet has it: protocol
# assignments (RFC 6890), relays of 6to4 (RFC 7526), documentation (RFC 9637), and the address at
# which Azure serves its virtual machines.
_ASSIGNED = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20"),
    )
)
# One sentence for whatever is wrong with a name's addresses: who may tell "there is none" from "it
# is not on the internet" can ask which names a private network has.
NOWHERE = "the name does not lead to the internet: expected one with public addresses only"


class UrlRefused(ValueError):
    """The URL cannot be a webhook's; the message says what was expected."""


class AddressRefused(Exception):
    """The name has no address that may be connected to; the message does not say why."""

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__("the name has no address" if allow_private else NOWHERE)


@dataclass(frozen=True)
class Target:
    """A checked URL in parts. ``host`` has no brackets; ``path`` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header: a port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = {"https": 443, "http": 80}[self.scheme]
        return host if self.port == own else f"{host}:{self.port}"


def parse_url(url: str, *, allow_private: bool) -> Target:
    """Return the parts of a webhook's URL; raises ``UrlRefused``.

    Unencrypted HTTP is for receivers on the same machine or network only, so it needs
    ``allow_private``.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    if len(url) > MAX_URL_LENGTH or not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise UrlRefused(f"expected at most {MAX_URL_LENGTH} printable ASCII characters, no space")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UrlRefused("expected a URL such as https://example.com/hooks") from None
    if parts.scheme not in schemes:
        raise UrlRefused(
            f"expected a URL that begins with {' or '.join(s + '://' for s in schemes)}"
        )
    if "@" in parts.netloc or "#" in url:
        raise UrlRefused("expected a URL without user, password and fragment")
    if not (_HOST_NAME.fullmatch(host) or _is_ipv6(host)) or port == 0:
        raise UrlRefused("expected a host name or an IP address, and a port from 1 to 65535 if any")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def _is_ipv6(host: str) -> bool:
    try:
        # A zone, as in fe80::1%eth0, names an interface of this machine.
        return "%" not in host and ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def is_numeric(host: str) -> bool:
    """Tell whether a host is an address however it is written, for which no resolver is asked."""
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """Return the addresses of a target's host, in the order to try them.

    Takes as long as the resolver does. Raises ``AddressRefused`` when there is none, and when any
    of them may not be connected to: a name that has both kinds was made to be misunderstood.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefused(allow_private=allow_private) from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and not all(is_public(address) for address in addresses):
        raise AddressRefused(allow_private=allow_private)
    return addresses


def is_public(address: str) -> bool:
    """Tell whether an address is one of a single host on the internet.

    It is not where it is private, loopback, link-local, shared (RFC 6598), multicast, reserved, for
    documentation, unspecified, or an IPv6 address that stands for an IPv4 one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _ASSIGNED):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not (ip.is_multicast or ip.is_reserved)
    wraps = ip.ipv4_mapped or ip.sixtofour or ip.teredo
    return ip in _GLOBAL_UNICAST and ip.is_global and not wraps
