"""Sessions of the console on the server: whose they are, and that they were ended.

A session is a signed token that the browser keeps. What is kept here is which of them no server may
take any more.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app import clock
from app.access.models import EndedSession
from app.db import insert_if_absent


def end_session(session: Session, session_id: str, over_at: datetime) -> None:
    """End a session of the console, whose token would be taken until ``over_at``, everywhere."""
    insert_if_absent(session, EndedSession, id=session_id, over_at=over_at)


def forget_over(session: Session) -> None:
    """Forget ended sessions whose tokens are too old by now."""
    session.execute(delete(EndedSession).where(EndedSession.over_at <= clock.now()))
