"""Delivering webhooks: due deliveries are claimed, sent by a few threads, and recorded."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

import structlog

from app import clock
from app.db import Database
from app.metrics import count_webhook_attempts
from app.notification import deliveries
from app.notification.deliveries import Claim, Outcome
from app.notification.lookups import Lookups
from app.notification.sender import Result, send
from app.notification.signing import signature
from app.ops.maintenance import Periodic
from app.ops.restored import held_copy

DELIVER_SECONDS = 1.0
# How many attempts one process has under way at most.
SLOTS = 40
log = structlog.get_logger("agenthub.webhooks")


class Deliverer(Periodic):
    """Delivers due webhooks, every second."""

    def __init__(
        self, database: Database, pepper: bytes, interval: float = DELIVER_SECONDS
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._pepper = pepper
        self._lookups = lookups_of_names()

    def round(self) -> None:
        """Deliver everything that is due."""
        deliver_due(self._database, self._pepper, self._lookups, self._stopped.is_set)

    def stop(self) -> None:
        """Begin no further attempt and wait a little for those under way.

        One that takes longer is repeated by another server, or after the next start.
        """
        self.ask_to_stop()
        self._thread.join(timeout=5)


def lookups_of_names() -> Lookups:
    """Return what looks up the names of receivers: of one owner's no more than it has slots."""
    return Lookups(per_owner=SLOTS // 2, total=10 * SLOTS)


def deliver_due(
    database: Database,
    pepper: bytes,
    lookups: Lookups | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Counter[str]:
    """Attempt every delivery that is due, until none is; count what came of it.

    The counts are ``delivered``, ``failed`` (to be tried again) and ``dead``. While a receiver
    takes its time, others are served, and nothing is locked. A restored copy that is held attempts
    nothing.
    """
    under_way: list[Claim] = []
    finished: SimpleQueue[Outcome] = SimpleQueue()
    counts: Counter[str] = Counter()
    lookups = lookups or lookups_of_names()
    while True:
        for claim in () if stopped() else _claim(database, under_way):
            under_way.append(claim)
            look_up = partial(lookups.resolve, claim.owner_id)
            sending = partial(
                send, allow_private=database.settings.webhook_allow_private, look_up=look_up
            )
            arguments = (claim, pepper, sending, finished)
            # Daemons, so that a receiver that hangs does not keep the process from ending.
            threading.Thread(target=_attempt, args=arguments, daemon=True).start()
        if not under_way:
            return counts
        outcomes = _gather(finished)
        if outcomes:
            recorded = _record(database, outcomes)
            count_webhook_attempts(recorded)
            counts += recorded
            ended = {outcome.claim.delivery_id for outcome in outcomes}
            under_way = [claim for claim in under_way if claim.delivery_id not in ended]


def _claim(database: Database, under_way: list[Claim]) -> list[Claim]:
    if len(under_way) >= SLOTS:
        return []
    with database.read() as connection:
        due = deliveries.list_due(connection, clock.now())
        if due and held_copy(connection):
            return []
    # When more owners wait than there are slots, all of them have the same chance.
    random.shuffle(due)
    wanted = deliveries.share(due, under_way, SLOTS)
    if not wanted:
        return []
    with database.transaction() as session:
        return deliveries.claim(session, wanted)


def _attempt(
    claim: Claim,
    pepper: bytes,
    sending: Callable[[str, dict[str, str], bytes], Result],
    finished: SimpleQueue[Outcome],
) -> None:
    body = claim.payload.encode()
    timestamp = int(clock.now().timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "AgentHub-Webhooks/1",
        "webhook-id": claim.message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(
            pepper, claim.subscription_id, claim.salts, claim.message_id, timestamp, body
        ),
    }
    try:
        result = sending(claim.url, headers, body)
        outcome = Outcome(claim, result.status, result.error)
    except Exception as error:
        # A fault of this program must not hold its slot for ever.
        log.error("webhook.attempt_failed", delivery_id=claim.delivery_id, exc_info=error)
        outcome = Outcome(claim, None, "the attempt failed within the service")
    finished.put(outcome)


def _gather(finished: SimpleQueue[Outcome]) -> list[Outcome]:
    """Wait a moment for outcomes, and return all there are, to be recorded together."""
    try:
        outcomes = [finished.get(timeout=0.5)]
    except Empty:
        return []
    time.sleep(0.005)
    while not finished.empty():
        outcomes.append(finished.get())
    return outcomes


def _record(database: Database, outcomes: list[Outcome]) -> Counter[str]:
    with database.transaction() as session:
        dead = deliveries.record(session, outcomes)
    for outcome in outcomes:
        known = {
            "delivery_id": outcome.claim.delivery_id,
            "webhook_id": outcome.claim.subscription_id,
            "attempt": outcome.claim.attempt,
        }
        if outcome.succeeded:
            log.debug("webhook.delivered", **known)
        else:
            log.warning("webhook.failed", error=outcome.error, dead=outcome in dead, **known)
    delivered = sum(outcome.succeeded for outcome in outcomes)
    failed = len(outcomes) - delivered - len(dead)
    return Counter(delivered=delivered, failed=failed, dead=len(dead))
