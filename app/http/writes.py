"""Running a write: its effect and its stored answer commit together, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flask import Response, request
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from app.access.audit import record_request
from app.access.service import Principal
from app.engines import is_lock_timeout, is_retryable
from app.errors import DomainError, Overtaken
from app.http.context import request_id, services
from app.http.problems import domain_problem
from app.idempotency import service as idempotency
from app.idempotency.errors import KeyInUse
from app.idempotency.service import Answer, WriteRequest

MAX_ATTEMPTS = 3
# Headers of an answer that belong to the answer, not to the connection or the moment it is sent.
STORED_HEADERS = ("Content-Type", "Content-Location", "ETag")

# The effect of a write: does it in the session's transaction and returns the response. It also gets
# what was prepared for it, if anything was.
Effect = Callable[..., Response]


def identify(principal: Principal, path: Mapping[str, str], body: Any) -> WriteRequest:
    """Return the identity of the current request under its idempotency key.

    Raises ``KeyMissing`` and ``KeyMalformed``.
    """
    key = idempotency.check_key(request.headers.get("Idempotency-Key"))
    route = str(request.url_rule)
    query = list(request.args.items(multi=True))
    request_hash = idempotency.fingerprint(request.method, route, path, query, body)
    return WriteRequest(principal.owner_id, key, request_hash, request.method, route)


def run_write(
    principal: Principal,
    identity: WriteRequest,
    effect: Effect,
    prepare: Callable[[], Any] | None = None,
) -> Response:
    """Run ``effect`` once under its key, or replay the answer it gave before.

    ``prepare`` is for what takes long or asks the network: it runs where no answer is stored yet,
    before the transaction, and ``effect`` gets what it returns. What it raises leaves the key
    unused. It is repeated where ``effect`` finds that others have changed what it rests on.

    A ``DomainError`` that settles the request undoes the effect and is stored as its answer; any
    other exception undoes everything, so that the key stays unused. A transaction that PostgreSQL
    cancelled because it met another, or whose connection was lost, is run again as a whole: should
    it have been committed after all, its answer is found under its key.
    """
    with services().database.read() as connection:
        stored = idempotency.find_answer(connection, identity)
    if stored is not None:
        return _replay(stored)
    try:
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(Overtaken):
                return _prepared(principal, identity, effect, prepare)
        return _prepared(principal, identity, effect, prepare)
    except DomainError as error:
        if not error.settled:
            raise
        refusal = domain_problem(error)
    # The effect is undone. That it was refused is stored in a transaction of its own; a rival with
    # the same key that came between had its effect, and then its answer is the one that counts.
    return _in_transaction(principal, identity, lambda _: refusal)


def _prepared(
    principal: Principal,
    identity: WriteRequest,
    effect: Effect,
    prepare: Callable[[], Any] | None,
) -> Response:
    prepared = () if prepare is None else (prepare(),)
    return _in_transaction(principal, identity, lambda session: effect(session, *prepared))


def _in_transaction(principal: Principal, identity: WriteRequest, effect: Effect) -> Response:
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return _attempt(principal, identity, effect)
        except DBAPIError as error:
            if not is_retryable(error):
                raise
    return _attempt(principal, identity, effect)


def _attempt(principal: Principal, identity: WriteRequest, effect: Effect) -> Response:
    with services().database.transaction() as session:
        if not _claim(session, identity):
            # The rival committed while we waited, so its answer is visible now.
            stored = idempotency.find_answer(session, identity)
            if stored is None:
                raise KeyInUse("a request with this Idempotency-Key is under way")
            return _replay(stored)
        try:
            response = effect(session)
        except DomainError as error:
            if not error.keeps_effect:
                raise
            response = domain_problem(error)
        if principal.has_role("admin"):
            target = request.full_path.rstrip("?")
            action = f"{identity.method} {identity.route}"
            record_request(session, principal, action, target, response.status_code, request_id())
        idempotency.store_answer(session, identity, _answer(response))
    return response


def _claim(session: Session, identity: WriteRequest) -> bool:
    # The first statement of a SQLite transaction takes the one write lock, which says nothing about
    # this key; only PostgreSQL's wait on the unique index does.
    session.connection()
    try:
        return idempotency.claim(session, identity, services().idempotency_retention)
    except OperationalError as error:
        if is_lock_timeout(error):
            raise KeyInUse("a request with this Idempotency-Key is under way") from None
        raise


def _answer(response: Response) -> Answer:
    headers = {name: response.headers[name] for name in STORED_HEADERS if name in response.headers}
    resource = headers.get("Content-Location")
    return Answer(response.status_code, response.get_data(), headers, resource)


def _replay(answer: Answer) -> Response:
    response = Response(answer.body, status=answer.status_code)
    response.headers.update(answer.headers)
    response.headers["Idempotent-Replayed"] = "true"
    return response
