"""The record of what administrators did, kept with what they did."""

from __future__ import annotations

import getpass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from app import clock, ids
from app.access.models import AdminAction
from app.access.service import Claim, Principal

DONE = "done"
SIGN_IN = "sign in"
UNKNOWN = "unknown"


def record_request(
    session: Session, principal: Principal, action: str, target: str, status: int, request_id: str
) -> None:
    """Record a write that came over HTTP with an admin's key."""
    _record(
        session, principal.owner_name, principal.key_id, action, target, str(status), request_id
    )


def record_sign_in(
    session: Session, claim: Claim, target: str, outcome: str, request_id: str
) -> None:
    """Record an attempt to sign in to the console with a key, of any role, that exists.

    Whoever did not prove to hold the key is unknown, and the key is part of what was tried.
    """
    actor, key_id = (claim.owner_name, claim.key_id) if claim.is_proven else (UNKNOWN, None)
    tried = target if claim.is_proven else f"{target}, claimed key {claim.key_id}"
    _record(session, actor, key_id, SIGN_IN, tried, outcome, request_id)


def record_check(
    session: Session, principal: Principal, action: str, target: str, outcome: str, request_id: str
) -> None:
    """Record that an administrator checked something, and what was found."""
    _record(session, principal.owner_name, principal.key_id, action, target, outcome, request_id)


def record_command(session: Session, action: str, target: str) -> None:
    """Record what somebody did with a command on the server's machine."""
    _record(session, f"{getpass.getuser()}@localhost", None, action, target, DONE, None)


def _record(
    session: Session,
    actor: str,
    key_id: str | None,
    action: str,
    target: str,
    outcome: str,
    request_id: str | None,
) -> None:
    session.add(
        AdminAction(
            id=ids.new_id(),
            at=clock.now(),
            actor=actor,
            key_id=key_id,
            action=action,
            target=target,
            outcome=outcome,
            request_id=request_id,
        )
    )
    session.flush()


def list_actions(reader: Connection, *, limit: int, before: str | None) -> list[Any]:
    """Return up to ``limit`` actions, newest first, older than the id ``before``."""
    statement = select(AdminAction.__table__).order_by(AdminAction.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(AdminAction.id < before)
    return list(reader.execute(statement))


def find_last(reader: Connection, action: str, *, among: int = 2000) -> Any:
    """Return the last time something was done, if it is ``among`` the newest actions, else None."""
    newest = select(AdminAction.__table__).order_by(AdminAction.id.desc()).limit(among).subquery()
    statement = (
        select(newest).where(newest.c.action == action).order_by(newest.c.id.desc()).limit(1)
    )
    return reader.execute(statement).first()
