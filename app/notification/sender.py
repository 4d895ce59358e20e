"""Sending one signed message to one receiver, within a time limit that holds whatever it does."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from app.notification.addresses import AddressRefused, Target, UrlRefused, parse_url, resolve
from app.notification.lookups import LookupsBusy

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 15.0
# An answer's body says nothing to this service; a receiver may still need to get rid of it.
MAX_ANSWER_BYTES = 4096
MAX_ADDRESSES = 3


@dataclass(frozen=True)
class Result:
    """What became of an attempt: the receiver's status, or why there is none."""

    status: int | None
    error: str | None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.status is not None and 200 <= self.status < 300


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that were checked before; the certificate is that of the name."""

    def __init__(self, target: Target, addresses: Sequence[str]) -> None:
        super().__init__(target.host, target.port)
        self._target = target
        self._addresses = addresses[:MAX_ADDRESSES]
        self.aborted = False

    def connect(self) -> None:
        """Connect to the first address that answers, and shake hands where the scheme says so."""
        self.sock = self._connect_any()
        if self._target.scheme == "https":
            # The handshake comes after, so that ``abort`` finds the socket meanwhile.
            self.sock = _tls_context().wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
        self.sock.settimeout(TOTAL_SECONDS)
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()

    def _connect_any(self) -> socket.socket:
        for address in self._addresses:
            try:
                return socket.create_connection((address, self._target.port), CONNECT_SECONDS)
            except OSError:
                if self.aborted or address == self._addresses[-1]:
                    raise
        raise AddressRefused(allow_private=True)

    def abort(self) -> None:
        """End whatever the connection is waiting for; to be called from another thread."""
        self.aborted = True
        if self.sock is not None:
            with suppress(OSError):
                # Of the socket itself: that of TLS would pull the state from under a read.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def send(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allow_private: bool,
    look_up: Callable[..., list[str]] = resolve,
) -> Result:
    """POST ``body`` to ``url`` and return what became of it.

    From when ``look_up`` has the addresses of its name, which are checked anew as the URL is, it
    takes about 15 seconds at most. No redirect is followed and no proxy used, since either would
    lead where nothing was checked.
    """
    try:
        target = parse_url(url, allow_private=allow_private)
        addresses = look_up(target, allow_private=allow_private)
    except (UrlRefused, AddressRefused) as error:
        return Result(None, str(error))
    except LookupsBusy:
        return Result(None, "too many of the owner's names are being looked up")
    connection = _Connection(target, addresses)
    # Time limits of a socket are for each single read, so a receiver that answers byte by byte
    # would pass them all.
    limit = threading.Timer(TOTAL_SECONDS, connection.abort)
    limit.daemon = True
    limit.start()
    try:
        connection.request("POST", target.path, body, {**headers, "Host": target.authority})
        response = connection.getresponse()
        with suppress(OSError, http.client.HTTPException):
            response.read(MAX_ANSWER_BYTES)
        result = Result(response.status, None)
        return result if result.succeeded else Result(response.status, f"HTTP {response.status}")
    except (OSError, http.client.HTTPException) as error:
        return Result(None, _reason(error, connection.aborted))
    finally:
        limit.cancel()
        connection.close()


def _reason(error: Exception, aborted: bool) -> str:
    """Say in a few words why there is no answer, and nothing of what was answered."""
    if aborted or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"[:255]
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, ssl.SSLError):
        return "TLS could not be agreed on"
    if isinstance(error, http.client.HTTPException):
        return "the answer is not HTTP"
    return "the connection failed"
