"""Sessions of the console: signed tokens that hold the id of an API key and never the key.

Pure: every server that has the pepper can read a session that another began. Whether the key is
still alive, and whether the session was ended, is asked of the database at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app import ids

SESSION_SECONDS = 8 * 3600
IDLE_SECONDS = 3600
# How stale the time of the last activity may become before the token is made anew.
RENEW_SECONDS = 60
_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([0-9a-f]{16})\.([0-9]{1,12})\.([0-9]{1,12})")


@dataclass(frozen=True)
class Session:
    """``begun`` and ``seen`` (the last activity) are seconds since 1970."""

    id: str
    key_id: str
    begun: int
    seen: int

    @classmethod
    def begin(cls, key_id: str, now: datetime) -> Session:
        """Return a new session of a key."""
        moment = int(now.timestamp())
        return cls(ids.new_secret(), key_id, moment, moment)

    def is_over(self, now: datetime) -> bool:
        """Tell whether the session is too old, or nobody used it for too long."""
        moment = now.timestamp()
        return moment >= min(self.begun + SESSION_SECONDS, self.seen + IDLE_SECONDS)

    @property
    def over_at(self) -> datetime:
        """When the session is over, however much it is used."""
        return datetime.fromtimestamp(self.begun + SESSION_SECONDS, UTC)

    def renewed(self, now: datetime) -> Session | None:
        """Return the session as used now; None while its token is fresh enough."""
        moment = int(now.timestamp())
        return replace(self, seen=moment) if moment - self.seen >= RENEW_SECONDS else None


class Signer:
    """Signs sessions and the tokens of their forms (HMAC-SHA256).

    Its keys are derived from the pepper of API keys, one for each purpose (as HKDF expands a key,
    RFC 5869, section 2.3), so that no further secret has to be kept and none of them tells another.
    """

    def __init__(self, pepper: bytes) -> None:
        self._session_key = self._derive(pepper, b"agenthub console session")
        self._form_key = self._derive(pepper, b"agenthub console form")

    @staticmethod
    def _derive(pepper: bytes, purpose: bytes) -> bytes:
        return hmac.new(pepper, purpose + b"\x01", hashlib.sha256).digest()

    def seal(self, session: Session) -> str:
        """Return the token of a session."""
        content = f"{session.id}.{session.key_id}.{session.begun}.{session.seen}"
        return f"{content}.{self._sign(self._session_key, content)}"

    def open(self, token: str, now: datetime) -> Session | None:
        """Return the session of a token; None if it was not made here or is over."""
        content, _, signature = token.rpartition(".")
        match = _TOKEN.fullmatch(content)
        if match is None or not self._is_signed(self._session_key, content, signature):
            return None
        session = Session(match[1], match[2], int(match[3]), int(match[4]))
        return None if session.is_over(now) else session

    def form_token(self, session_id: str) -> str:
        """Return what a form of a session carries, to prove that it came from a page of it."""
        return self._sign(self._form_key, session_id)

    def is_form_token(self, session_id: str, token: str) -> bool:
        """Tell whether a form came from a page of the session."""
        return self._is_signed(self._form_key, session_id, token)

    @staticmethod
    def _sign(key: bytes, content: str) -> str:
        return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()

    def _is_signed(self, key: bytes, content: str, signature: str) -> bool:
        return hmac.compare_digest(self._sign(key, content).encode(), signature.encode())
