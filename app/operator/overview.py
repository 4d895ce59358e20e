"""The overview: whether the fleet is healthy, where the money is, what needs a decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import request
from sqlalchemy import Connection

from app import clock
from app.access.audit import find_last
from app.delegation import documents, lifecycle
from app.delegation.breaker import HARD_STOP, REAUTHORIZATION, SOFT_ALERT
from app.delegation.queries import count_live, count_overdue, list_delegations, list_due
from app.ledger.seals import read_digest
from app.notification.queries import count_dead
from app.operator import charts
from app.operator.history import Figures, Sums, Tally
from app.operator.text import percent
from app.operator.web import Visitor, console, page, read_figures, render
from app.ops.restored import ACTIVATE, held_copy
from app.ops.tracks import CURRENT, read_tracks
from app.registry.queries import count_agents, count_versions
from app.registry.service import ACTIVE, DEPRECATED

RECONCILED = "reconcile"
CLEAN = "clean"
# States in which somebody has to decide before work or money goes on.
DECISIONS = (lifecycle.DISPUTED, lifecycle.PENDING_REAUTHORIZATION, lifecycle.INPUT_REQUIRED)
FAILURES = (lifecycle.FAILED, lifecycle.FAILED_HARD_STOP)
# The sweeper comes every two seconds; what is this late was not swept.
LATE = timedelta(seconds=30)
DAY = timedelta(days=1)
MANY_FAILURES, FEW_CLOSED = 0.1, 20
COUNTED_TO = 1000
# Thresholds of the breaker, in per cent of what was authorized.
TRIPS = {str(SOFT_ALERT): "at_80", str(REAUTHORIZATION): "at_100", str(HARD_STOP): "at_120"}
PERIODS = {"24h": (24, 1), "30d": (30 * 24, 24)}


@dataclass(frozen=True)
class Notice:
    """Something to know: in a tone (bad, warn, idle), with the page where it is dealt with."""

    tone: str
    text: str
    path: str


@page("", greets=True)
def overview(connection: Connection, visitor: Visitor) -> str:
    """Show the state of everything the visitor may see."""
    owner_id = visitor.owner_scope
    figures = read_figures(connection, owner_id)
    live = count_live(connection, owner_id)
    now = clock.now()
    period = request.args.get("period")
    period = period if period in PERIODS else "24h"
    day = figures.sums.between(_hour(now) - 23, _hour(now))
    due = list_due(connection, DECISIONS, owner_id=owner_id, limit=6)
    newest = list_delegations(connection, owner_id=owner_id, limit=8, brief=True)
    service = _service(connection) if visitor.is_admin else None
    notices = list(_notices(connection, live, day, service))
    return render(
        "overview.html",
        title="Overview",
        area="overview",
        agents={status: count_agents(connection, status=status) for status in (ACTIVE, DEPRECATED)},
        versions=console().versions.get(lambda: count_versions(connection)),
        figures=figures,
        states=_states(live, figures.sums.total),
        live=sum(row.number for row in live if row.status in lifecycle.LIVE),
        day=day,
        failures=sum(day.statuses[status] for status in FAILURES),
        failure_rate=percent(sum(day.statuses[status] for status in FAILURES), day.closed),
        cash=_money(live, figures),
        period=period,
        outcomes=_outcomes(figures.sums, now, period),
        payments=_payments(figures.sums, now, period),
        trips=_trips(figures.sums, now, period),
        reached=sum(day.alerts[threshold] for threshold in TRIPS),
        decisions=sum(row.number for row in live if _needs_decision(row)),
        due=due,
        newest=[documents.effective(row, now) for row in newest],
        notices=notices,
        service=service,
    )


def _needs_decision(row: Any) -> bool:
    return row.status in DECISIONS or row.settlement == lifecycle.DISPUTED


def _hour(moment: datetime) -> int:
    return int(moment.timestamp()) // 3600


def _states(live: list[Any], total: Tally) -> list[tuple[str, int]]:
    counted = Counter(total.statuses)
    for row in live:
        # What has ended is in the total.
        if row.status in lifecycle.LIVE:
            counted[row.status] += row.number
    return [(status, counted[status]) for status in lifecycle.STATUSES]


def _money(live: list[Any], figures: Figures) -> dict[str, int]:
    held = sum(row.held_micros for row in live)
    total = figures.sums.total
    inside = figures.brought_in - figures.paid_out
    return {
        "inside": inside,
        "held": held,
        "available": inside - held,
        "spent": total.spent,
        "earned": total.earned,
        "refunded": total.refunded,
        "brought_in": figures.brought_in,
        "paid_out": figures.paid_out,
    }


def _series(sums: Sums, now: datetime, period: str) -> Iterator[tuple[str, Tally]]:
    """Yield the label and the tally of each step of a period, oldest first."""
    hours, step = PERIODS[period]
    last = _hour(now)
    if step > 1:
        # Days of the calendar, the present one included.
        last += 23 - last % 24
    for first in range(last - hours + 1, last + 1, step):
        begin = datetime.fromtimestamp(first * 3600, UTC)
        label = begin.strftime("%H:00" if step == 1 else "%-d %b")
        yield label, sums.between(first, first + step - 1)


def _outcomes(sums: Sums, now: datetime, period: str) -> charts.Chart:
    series = []
    for label, tally in _series(sums, now, period):
        completed = tally.statuses[lifecycle.COMPLETED]
        failed = sum(tally.statuses[status] for status in FAILURES)
        other = tally.closed - completed - failed
        series.append((label, {"completed": completed, "failed": failed, "other": other}))
    return charts.columns(series, ("completed", "failed", "other"))


def _payments(sums: Sums, now: datetime, period: str) -> charts.Chart:
    series = [
        (label, {"settled": tally.spent, "refunded": tally.refunded})
        for label, tally in _series(sums, now, period)
    ]
    return charts.columns(series, ("settled", "refunded"))


def _trips(sums: Sums, now: datetime, period: str) -> charts.Chart:
    series = [
        (label, {name: tally.alerts[threshold] for threshold, name in TRIPS.items()})
        for label, tally in _series(sums, now, period)
    ]
    return charts.columns(series, tuple(TRIPS.values()))


def _service(connection: Connection) -> dict[str, Any]:
    """Return what only operators see: the schema, the books, the clockwork, the webhooks."""
    return {
        "given_up": count_dead(connection, clock.now() - DAY, limit=COUNTED_TO),
        "tracks": read_tracks(connection),
        "restored_copy": held_copy(connection),
        "reconciled": find_last(connection, RECONCILED),
        "digest": read_digest(connection),
        "late": count_overdue(connection, clock.now() - LATE, limit=COUNTED_TO),
    }


def _notices(
    connection: Connection, live: list[Any], day: Tally, service: dict[str, Any] | None
) -> Iterator[Notice]:
    counted = {row.status: row.number for row in live}
    disputed = sum(row.number for row in live if row.settlement == lifecycle.DISPUTED)
    if service is not None:
        for track in service["tracks"]:
            if track.state != CURRENT:
                text = f"Migration track {track.scope} is {track.state}: {track.remedy}"
                yield Notice("bad", text, "/operator/operations")
        if service["restored_copy"] is not None:
            text = f"This is {service['restored_copy']}, until: {ACTIVATE}"
            yield Notice("warn", text, "/operator/operations")
        reconciled = service["reconciled"]
        if reconciled is not None and reconciled.outcome != CLEAN:
            text = f"The last reconciliation found: {reconciled.outcome}"
            yield Notice("bad", text, "/operator/ledger")
        if service["late"]:
            text = f"{service['late']} delegations are past their time and not closed"
            yield Notice("warn", text, "/operator/delegations")
        if service["given_up"]:
            text = f"{service['given_up']} webhook deliveries were given up in 24 hours"
            yield Notice("warn", text, "/operator/operations#webhooks")
    failed = sum(day.statuses[status] for status in FAILURES)
    if day.closed >= FEW_CLOSED and failed >= MANY_FAILURES * day.closed:
        text = f"{percent(failed, day.closed)} of what ended in 24 hours failed"
        yield Notice("warn", text, "/operator/delegations?status=failed")
    if disputed:
        path = f"/operator/delegations?settlement={lifecycle.DISPUTED}"
        yield Notice("warn", f"{disputed:,} disputed: an operator decides what is paid", path)
    for status, text in (
        (lifecycle.PENDING_REAUTHORIZATION, "paused: the requester has to authorize more"),
        (lifecycle.INPUT_REQUIRED, "waiting: the requester was asked something"),
    ):
        if counted.get(status):
            path = f"/operator/delegations?status={status}"
            yield Notice("warn", f"{counted[status]:,} {text}", path)
