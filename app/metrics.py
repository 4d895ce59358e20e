"""What a process counts for Prometheus. Values read from the database are in ``app.ops.gauges``.

The library decides when it is loaded whether the processes of a server add up their counts: it
does when the variable ``PROMETHEUS_MULTIPROC_DIR`` names a folder. A server sets that before it
starts its processes, so nothing here loads the library before an application is built.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True)
class Metrics:
    """The counters of one process. No label has values that a client can choose."""

    requests: Counter
    duration: Histogram
    replays: Counter
    delegation_events: Counter
    delegations_closed: Counter
    breaker_trips: Counter
    webhook_attempts: Counter


_lock = threading.Lock()
_made: Metrics | None = None


def metrics() -> Metrics:
    """Return the counters of this process, made once; ``create_app`` asks for them first."""
    global _made
    if _made is None:
        with _lock:
            if _made is None:
                _made = _make()
    return _made


def _make() -> Metrics:
    from prometheus_client import Counter, Histogram

    return Metrics(
        requests=Counter(
            "agenthub_http_requests",
            "Requests answered, by method, route template and status.",
            ("method", "route", "status"),
        ),
        duration=Histogram(
            "agenthub_http_request_duration_seconds",
            "How long requests took, in seconds, from the first hook to the last.",
            ("method", "route"),
            buckets=SECONDS,
        ),
        replays=Counter(
            "agenthub_idempotent_replays",
            "Writes that were answered with the answer stored under their idempotency key.",
            ("route",),
        ),
        delegation_events=Counter(
            "agenthub_delegation_events",
            "Committed events of delegations, by kind.",
            ("kind",),
        ),
        delegations_closed=Counter(
            "agenthub_delegations_closed",
            "Delegations that ended, by the state they ended in.",
            ("status",),
        ),
        breaker_trips=Counter(
            "agenthub_breaker_trips",
            "Thresholds of budgets that were reached, by per cent of what is authorized.",
            ("threshold",),
        ),
        webhook_attempts=Counter(
            "agenthub_webhook_attempts",
            "Attempts to deliver a webhook's message, by what came of them.",
            ("outcome",),
        ),
    )


def count_webhook_attempts(outcomes: Mapping[str, int]) -> None:
    """Count attempts by outcome: delivered, failed or dead."""
    for outcome, number in outcomes.items():
        metrics().webhook_attempts.labels(outcome).inc(number)
