"""Owners and API keys: create, verify, revoke, rotate."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, select, update
from sqlalchemy.orm import Session

from app import clock, ids
from app.access.binding import binding_of, is_bound
from app.access.errors import (
    ApiKeyInvalid,
    KeyAltered,
    KeyExpired,
    KeyNotFound,
    KeyRevoked,
    KeyRotated,
    OwnerNameInvalid,
)
from app.access.models import ApiKey, EndedSession, Owner
from app.db import after_commit, insert_if_absent
from app.quotas import require_room
from app.statements import Statement

ROLES = ("viewer", "developer", "admin")
BOOTSTRAP_OWNER = "admin"
# In the data folder, where the first start had no terminal to show the key on.
ADMIN_KEY_FILE = "admin-key"
OWNER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PRESENTED_KEY = re.compile(r"ah_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Principal:
    """Who makes a request: the owner behind an API key, with the key's role."""

    owner_id: str
    owner_name: str
    role: str
    key_id: str

    def has_role(self, role: str) -> bool:
        """Tell whether the principal's role is ``role`` or above (viewer < developer < admin)."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class NewKey:
    """A key just made. ``secret`` is what the caller presents; it is nowhere else."""

    id: str
    owner: str
    role: str
    secret: str
    created_at: datetime
    expires_at: datetime | None


def hash_secret(pepper: bytes, key_id: str, secret: str) -> str:
    """Return the HMAC-SHA256, in hexadecimal, that is stored for a key.

    The secret has 256 random bits, so a fast keyed hash suffices; a slow one is for passwords.
    """
    return hmac.new(pepper, f"{key_id}:{secret}".encode(), hashlib.sha256).hexdigest()


def create_key(
    session: Session,
    pepper: bytes,
    owner_name: str,
    role: str,
    expires_at: datetime | None = None,
    *,
    quota: int = 0,
) -> NewKey:
    """Create an API key, and its owner if no owner has the name.

    ``role`` is one of ``ROLES``. The owner may have ``quota`` live keys; 0 sets no limit. Raises
    ``OwnerNameInvalid`` and ``QuotaExceeded``.
    """
    if not OWNER_NAME.fullmatch(owner_name):
        raise OwnerNameInvalid(
            "an owner's name has 1 to 64 letters, digits, dots, underscores or hyphens "
            "and begins with a letter or digit"
        )
    _insert_owner(session, owner_name)
    # Locked, so that of two keys made at once none is let by.
    owner = select(Owner.id).where(Owner.name == owner_name).with_for_update()
    owner_id = session.scalars(owner).one()
    if quota:
        require_room("keys", quota, _count_live_keys(session, owner_id))
    return _add_key(session, pepper, owner_id, owner_name, role, expires_at)


def _count_live_keys(session: Session, owner_id: str) -> int:
    now = clock.now()
    unexpired = ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now)
    live = (ApiKey.owner_id == owner_id, ApiKey.revoked_at.is_(None), unexpired)
    return session.scalar(select(func.count()).select_from(ApiKey).where(*live)) or 0


def _insert_owner(session: Session, name: str) -> bool:
    inserted = insert_if_absent(session, Owner, id=ids.new_id(), name=name, created_at=clock.now())
    return inserted is not None


def _add_key(
    session: Session,
    pepper: bytes,
    owner_id: str,
    owner_name: str,
    role: str,
    expires_at: datetime | None,
) -> NewKey:
    key_id, secret = ids.new_key_id(), ids.new_secret()
    key = ApiKey(
        id=key_id,
        owner_id=owner_id,
        role=role,
        secret_hash=hash_secret(pepper, key_id, secret),
        created_at=clock.now(),
        expires_at=expires_at,
    )
    key.binding = binding_of(pepper, key)
    session.add(key)
    session.flush()
    presented = f"ah_{key_id}_{secret}"
    return NewKey(key_id, owner_name, role, presented, key.created_at, expires_at)


def bootstrap_admin(session: Session, pepper: bytes) -> NewKey | None:
    """Create the first admin key of a database without keys; None when it has any.

    Of several servers that start at once only one inserts the owner, so only one makes the key.
    """
    if session.scalar(select(func.count()).select_from(ApiKey)):
        return None
    if not _insert_owner(session, BOOTSTRAP_OWNER):
        return None
    owner_id = session.scalars(select(Owner.id).where(Owner.name == BOOTSTRAP_OWNER)).one()
    return _add_key(session, pepper, owner_id, BOOTSTRAP_OWNER, "admin", None)


def find_owner_ids(reader: Connection | Session, names: Collection[str]) -> dict[str, str]:
    """Return the ids of the owners with these names; a name that nobody has is left out."""
    rows = reader.execute(select(Owner.name, Owner.id).where(Owner.name.in_(names)))
    return {row.name: row.id for row in rows}


_key = (
    select(
        ApiKey.id,
        ApiKey.owner_id,
        Owner.name,
        ApiKey.role,
        ApiKey.secret_hash,
        ApiKey.expires_at,
        ApiKey.revoked_at,
        ApiKey.binding,
    )
    .join_from(ApiKey, Owner, ApiKey.owner_id == Owner.id)
    .where(ApiKey.id == bindparam("key_id"))
)
_find_key = Statement(_key)
_find_key_of_session = Statement(
    _key.where(~exists().where(EndedSession.id == bindparam("session_id")))
)


def authenticate(connection: Connection, pepper: bytes, presented: str) -> Principal:
    """Return the principal of a presented key.

    The key is found by its public id and its secret compared in constant time; an unknown id costs
    the same comparison. A row that somebody without the pepper edited is refused, too. Raises
    ``ApiKeyInvalid``, which does not tell unknown from revoked.
    """
    match = PRESENTED_KEY.fullmatch(presented)
    key_id, secret = match.groups() if match else ("", "")
    row = _find_key.first(connection, {"key_id": key_id}) if match else None
    expected = row.secret_hash if row else "0" * 64
    genuine = hmac.compare_digest(hash_secret(pepper, key_id, secret), expected)
    return _principal(row if genuine else None, pepper)


def find_principal(
    connection: Connection, pepper: bytes, key_id: str, session_id: str
) -> Principal:
    """Return the principal of a session of the console, which began with a key.

    Raises ``ApiKeyInvalid`` once the key is revoked or expired, or the session was ended.
    """
    named = {"key_id": key_id, "session_id": session_id}
    return _principal(_find_key_of_session.first(connection, named), pepper)


def _principal(row: Any, pepper: bytes) -> Principal:
    if row is None or row.revoked_at is not None or not is_bound(pepper, row):
        raise ApiKeyInvalid("the API key is unknown, revoked or expired")
    if row.expires_at is not None and row.expires_at <= clock.now():
        raise ApiKeyInvalid("the API key is unknown, revoked or expired")
    return Principal(row.owner_id, row.name, row.role, row.id)


@dataclass(frozen=True)
class Claim:
    """A key that somebody names: its id and owner, and whether its secret came along.

    Ids of keys are no secrets, so that a claim without proof says nothing about who made it.
    """

    key_id: str
    owner_name: str
    is_proven: bool


def find_claim(connection: Connection, pepper: bytes, presented: str) -> Claim | None:
    """Return the key that is presented, though it may be refused; None when no key has its id."""
    match = PRESENTED_KEY.fullmatch(presented)
    row = _find_key.first(connection, {"key_id": match[1]}) if match else None
    if match is None or row is None:
        return None
    proven = hmac.compare_digest(hash_secret(pepper, *match.groups()), row.secret_hash)
    return Claim(row.id, row.name, proven)


def find_own_keys(connection: Connection, owner_id: str, key_ids: Collection[str]) -> set[str]:
    """Return those of some ids that are of an owner's keys."""
    wanted = select(ApiKey.id).where(ApiKey.owner_id == owner_id, ApiKey.id.in_(key_ids))
    return set(connection.scalars(wanted))


def list_keys(connection: Connection, pepper: bytes | None) -> list[dict[str, object]]:
    """Return every key without its hash, oldest first.

    ``genuine`` is false for a key whose row was edited without the pepper; it is refused. It is
    None for who has no pepper to tell.
    """
    rows = connection.execute(
        select(ApiKey.__table__, Owner.name.label("owner"))
        .join_from(ApiKey, Owner, ApiKey.owner_id == Owner.id)
        .order_by(ApiKey.created_at, ApiKey.id)
    )
    return [
        {name: row._mapping[name] for name in _LISTED}
        | {"genuine": None if pepper is None else is_bound(pepper, row)}
        for row in rows
    ]


_LISTED = (
    "id",
    "owner",
    "role",
    "created_at",
    "last_used_at",
    "expires_at",
    "revoked_at",
    "replaced_by",
)


def find_owner_names(connection: Connection, owner_ids: Collection[str]) -> dict[str, str]:
    """Return the names of owners by their ids; an id that no owner has is left out."""
    rows = connection.execute(select(Owner.id, Owner.name).where(Owner.id.in_(owner_ids)))
    return {row.id: row.name for row in rows}


def revoke_key(session: Session, pepper: bytes, key_id: str) -> None:
    """Revoke a key at once. Raises ``KeyNotFound`` and ``KeyRevoked``."""
    key = _live_key(session, key_id)
    key.revoked_at = clock.now()
    key.binding = binding_of(pepper, key)


def rotate_key(session: Session, pepper: bytes, key_id: str, grace: timedelta) -> NewKey:
    """Make a new key of the same owner, role and end; the old one ends after ``grace``.

    Without grace the old key is revoked at once; grace never makes it last longer. Raises
    ``KeyNotFound``, ``KeyAltered``, ``KeyRevoked``, ``KeyExpired``, and ``KeyRotated`` for a key
    that has a successor.
    """
    old, now = _live_key(session, key_id), clock.now()
    if not is_bound(pepper, old):
        raise KeyAltered(f"API key {key_id} was edited in the database, so it has no successor")
    if old.replaced_by is not None:
        raise KeyRotated(
            f"API key {key_id} was rotated already: rotate its successor {old.replaced_by}"
        )
    if old.expires_at is not None and old.expires_at <= now:
        raise KeyExpired(f"API key {key_id} expired at {clock.isoformat(old.expires_at)}")
    owner = session.get_one(Owner, old.owner_id)
    new = _add_key(session, pepper, owner.id, owner.name, old.role, old.expires_at)
    old.replaced_by = new.id
    if grace:
        end = now + grace
        old.expires_at = min(end, old.expires_at) if old.expires_at else end
    else:
        old.revoked_at = now
    old.binding = binding_of(pepper, old)
    return new


def bind_key(session: Session, pepper: bytes, key_id: str) -> Principal:
    """Bind a key's row as it stands to the pepper; return what it grants.

    Raises ``KeyNotFound``.
    """
    key = _locked_key(session, key_id)
    key.binding = binding_of(pepper, key)
    owner = session.get_one(Owner, key.owner_id)
    return Principal(owner.id, owner.name, key.role, key.id)


def _locked_key(session: Session, key_id: str) -> ApiKey:
    """Return a key, locked."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise KeyNotFound(f"no API key has the id {key_id!r}; see: agenthub keys list")
    return key


def _live_key(session: Session, key_id: str) -> ApiKey:
    key = _locked_key(session, key_id)
    if key.revoked_at is not None:
        raise KeyRevoked(f"API key {key_id} was revoked at {clock.isoformat(key.revoked_at)}")
    return key


class KeyUsage:
    """When each key was last used, gathered in memory so that no read has to write.

    ``flush`` stores what was gathered; a server does so once a minute and when it stops.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_used: dict[str, datetime] = {}

    def record(self, key_id: str) -> None:
        """Note that a key was used now."""
        with self._lock:
            self._last_used[key_id] = clock.now()

    def pending(self) -> bool:
        """Tell whether anything was gathered since the last flush."""
        return bool(self._last_used)

    def flush(self, session: Session) -> int:
        """Store the gathered times and return how many keys they concern.

        A time never moves back, whichever server stores it first. Times stay gathered until the
        caller's transaction commits, so that one that fails loses none.
        """
        with self._lock:
            gathered = dict(self._last_used)
        # One order for every server, so that two of them cannot wait for each other.
        for key_id, moment in sorted(gathered.items()):
            session.execute(
                update(ApiKey)
                .where(
                    ApiKey.id == key_id,
                    (ApiKey.last_used_at.is_(None)) | (ApiKey.last_used_at < moment),
                )
                .values(last_used_at=moment)
            )
        after_commit(session, lambda: self._forget(gathered))
        return len(gathered)

    def _forget(self, stored: dict[str, datetime]) -> None:
        with self._lock:
            for key_id, moment in stored.items():
                if self._last_used.get(key_id) == moment:
                    del self._last_used[key_id]
