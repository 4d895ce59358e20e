"""What Prometheus is told of the database: read when it asks, at most every ten seconds.

Every statement reads an index that holds live rows only, or a few rows by their key, so that a
scrape costs the same whatever the history holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app import clock
from app.db import Database
from app.delegation.lifecycle import DISPUTED, IN_REVIEW, LIVE
from app.delegation.queries import summarize_live
from app.notification.queries import count_waiting
from app.ops.tracks import ABSENT, BEHIND, CURRENT, UNKNOWN, read_tracks

CACHE_SECONDS = 10.0
log = structlog.get_logger("agenthub.metrics")


class DatabaseGauges(Collector):
    """The gauges of one database, kept for ten seconds by each process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._gauges: list[GaugeMetricFamily] = []

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: the names are known when the values are read."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauges; while the database is away, only that it is."""
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= CACHE_SECONDS:
                self._gauges = self._read()
                self._read_at = now
            return self._gauges

    def _read(self) -> list[GaugeMetricFamily]:
        up = GaugeMetricFamily("agenthub_database_up", "Whether the database answers.")
        try:
            with self._database.read() as connection:
                found = [*_tracks(connection), *_delegations(connection), *_webhooks(connection)]
        except SQLAlchemyError as error:
            log.warning("metrics.database_away", error=str(getattr(error, "orig", error)))
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]


def _tracks(connection: Connection) -> Iterator[GaugeMetricFamily]:
    gauge = GaugeMetricFamily(
        "agenthub_track_state",
        "1 for the state that a scope's migration track is in.",
        labels=("scope", "state"),
    )
    for track in read_tracks(connection):
        for state in (CURRENT, BEHIND, ABSENT, UNKNOWN):
            gauge.add_metric([track.scope, state], track.state == state)
    yield gauge


def _delegations(connection: Connection) -> Iterator[GaugeMetricFamily]:
    summary = summarize_live(connection)
    live = GaugeMetricFamily(
        "agenthub_delegations_live",
        "Delegations that have not ended, by state.",
        labels=("status",),
    )
    for status in LIVE:
        live.add_metric([status], summary.counts.get(status, 0))
    yield live
    unsettled = GaugeMetricFamily(
        "agenthub_delegations_unsettled",
        "Delegations that have ended and are not settled yet, by state of settlement.",
        labels=("settlement",),
    )
    for settlement in (IN_REVIEW, DISPUTED):
        unsettled.add_metric([settlement], summary.unsettled.get(settlement, 0))
    yield unsettled
    yield GaugeMetricFamily(
        "agenthub_escrow_micro_usd", "Money held in escrow, in micro-USD.", summary.held_micros
    )
    overdue = (clock.now() - summary.first_due_at).total_seconds() if summary.first_due_at else 0.0
    yield GaugeMetricFamily(
        "agenthub_sweeper_lag_seconds",
        "How long the delegation that is longest overdue has been so.",
        max(0.0, overdue),
    )


def _webhooks(connection: Connection) -> Iterator[GaugeMetricFamily]:
    gauge = GaugeMetricFamily(
        "agenthub_webhook_deliveries",
        "Webhook deliveries that wait (pending) or were given up (dead).",
        labels=("status",),
    )
    for status, count in zip(("pending", "dead"), count_waiting(connection), strict=True):
        gauge.add_metric([status], count)
    yield gauge
