"""Claim a key, store the answer with the effect, replay it.

A write inserts its key row first and completes it last, in one transaction. A rival with the same
key waits on the unique index (PostgreSQL) or on the write lock (SQLite) and then finds the finished
answer, so there is no in-progress state to clean up after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from app import clock
from app.canonical import Canonical, canonical_json
from app.idempotency.errors import KeyMalformed, KeyMissing, KeyReused, ResponseExpired
from app.idempotency.models import IdempotencyKey
from app.statements import Statement

MAX_KEY_LENGTH = 255


@dataclass(frozen=True)
class WriteRequest:
    """The identity of one write: the key, its owner, and the hash of the request."""

    principal: str
    key: str
    request_hash: str
    method: str
    route: str


@dataclass(frozen=True)
class Answer:
    """A stored response. A repeated write gets the same bytes."""

    status_code: int
    body: bytes
    headers: dict[str, str]
    resource: str | None = None


def check_key(header: str | None) -> str:
    """Return the key of an ``Idempotency-Key`` header.

    Raises ``KeyMissing`` when it is absent or blank and ``KeyMalformed`` when it cannot be a key.
    """
    if header is None:
        raise KeyMissing("every write needs an Idempotency-Key header with a value of your choice")
    key = header.strip()
    if not key:
        raise KeyMissing("the Idempotency-Key header is blank; give it a value of your choice")
    if not key.isascii():
        raise KeyMalformed("the Idempotency-Key has characters that are not ASCII")
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise KeyMalformed(
            f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        )
    return key


def fingerprint(
    method: str,
    route: str,
    path: Mapping[str, str],
    query: Sequence[tuple[str, str]],
    body: Any,
) -> str:
    """Return the SHA-256, in hexadecimal, of what a request asks for.

    ``body`` is the parsed request with its defaults filled in, so that field order and spelled-out
    defaults make no difference; the order of query parameters makes none either. Members that are
    ``Canonical`` are not made canonical again.
    """
    identity = {
        "method": method,
        "route": route,
        "path": dict(path),
        "query": sorted([name, value] for name, value in query),
        "body": Canonical.of(body),
    }
    return hashlib.sha256(canonical_json(identity)).hexdigest()


_find = Statement(
    select(
        IdempotencyKey.request_hash,
        IdempotencyKey.status_code,
        IdempotencyKey.response_body,
        IdempotencyKey.response_headers,
        IdempotencyKey.resource,
        IdempotencyKey.body_expires_at,
    ).where(
        IdempotencyKey.principal == bindparam("principal"), IdempotencyKey.key == bindparam("key")
    )
)


def find_answer(connection: Connection | Session, request: WriteRequest) -> Answer | None:
    """Return the stored answer to ``request``, None when its key was never used.

    Raises ``KeyReused`` when the key belongs to another request and ``ResponseExpired`` when the
    answer's body is past its retention time.
    """
    row = _find.first(connection, {"principal": request.principal, "key": request.key})
    if row is None:
        return None
    if row.request_hash != request.request_hash:
        raise KeyReused(
            "this Idempotency-Key was used for a different request; use a new key for a new request"
        )
    if row.response_body is None or row.body_expires_at <= clock.now():
        raise ResponseExpired(
            "this write ran before, and its stored answer is past its retention time; "
            "read the resource instead of repeating the write",
            resource=row.resource,
        )
    return Answer(
        row.status_code, row.response_body, orjson.loads(row.response_headers), row.resource
    )


_keys: Any = IdempotencyKey.__table__
_claimed = {
    name: bindparam(name, type_=_keys.c[name].type)
    for name in (
        "principal",
        "key",
        "request_hash",
        "method",
        "route",
        "created_at",
        "body_expires_at",
    )
}
_claim = Statement(
    {
        dialect: insert(_keys).values(_claimed).on_conflict_do_nothing()
        for dialect, insert in (("sqlite", sqlite_insert), ("postgresql", postgresql_insert))
    }
)
_store_answer = Statement(
    update(_keys)
    .where(_keys.c.principal == bindparam("of"), _keys.c.key == bindparam("under"))
    .values(
        status_code=bindparam("status_code"),
        response_body=bindparam("response_body"),
        response_headers=bindparam("response_headers"),
        resource=bindparam("resource"),
    )
)


def claim(session: Session, request: WriteRequest, retention: timedelta) -> bool:
    """Insert the key row of a write about to run; False when another request holds the key.

    Waits for a rival that is under way. The row is completed by ``store_answer`` in the same
    transaction.
    """
    created_at: datetime = clock.now()
    row = {
        "principal": request.principal,
        "key": request.key,
        "request_hash": request.request_hash,
        "method": request.method,
        "route": request.route,
        "created_at": created_at,
        "body_expires_at": created_at + retention,
    }
    return _claim.run(session, row) == 1


def store_answer(session: Session, request: WriteRequest, answer: Answer) -> None:
    """Complete the key row with the answer that will be sent after the commit."""
    # What the effect left in the session is written first, so that it fails before this does.
    session.flush()
    _store_answer.run(
        session,
        {
            "of": request.principal,
            "under": request.key,
            "status_code": answer.status_code,
            "response_body": answer.body,
            "response_headers": orjson.dumps(answer.headers).decode(),
            "resource": answer.resource,
        },
    )


def drop_expired_bodies(session: Session, limit: int = 500) -> int:
    """Drop up to ``limit`` stored bodies past their retention and return how many.

    The rows stay: their keys can never run a write again.
    """
    expired = session.execute(
        select(IdempotencyKey.principal, IdempotencyKey.key)
        .where(
            IdempotencyKey.response_body.is_not(None), IdempotencyKey.body_expires_at <= clock.now()
        )
        .order_by(IdempotencyKey.body_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for principal, key in expired:
        session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.principal == principal, IdempotencyKey.key == key)
            .values(response_body=None, response_headers=None)
        )
    return len(expired)
