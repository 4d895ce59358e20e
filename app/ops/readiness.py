"""Launch readiness: whether a running service may be opened to those it is for.

Each check looks at one thing and passes, fails, or warns. Only what fails says no-go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from app import clock
from app.access.pepper import known_pepper
from app.access.service import BOOTSTRAP_OWNER, list_keys
from app.config import Settings
from app.db import Database
from app.delegation.reconciliation import RULES
from app.ledger.reconciliation import reconcile
from app.ops.client import CallFailed
from app.ops.funnel import rates, read_funnel
from app.ops.journey import Journey
from app.ops.restored import ACTIVATE, held_copy
from app.ops.snapshot.listing import list_files, look_at
from app.ops.tracks import CURRENT, read_tracks

PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at; ``remedy`` says what to do about a warning or a failure."""

    group: str
    subject: str
    outcome: str
    detail: str
    remedy: str | None = None


def is_go(checks: list[Check]) -> bool:
    """Tell whether nothing failed."""
    return all(check.outcome != FAIL for check in checks)


def check_journey(journey: Journey) -> Iterator[Check]:
    """Make the journey; what comes after a step that failed is not tried."""
    for name, step in journey.steps():
        try:
            yield Check("journey", name, PASS, step())
        except CallFailed as error:
            yield Check("journey", name, FAIL, str(error), "see the service's log")
            return
        except (LookupError, TypeError) as error:
            detail = f"the answer is not an AgentHub's: {error!r}"
            yield Check("journey", name, FAIL, detail, "check --url")
            return


def check_database(settings: Settings, database: Database) -> Iterator[Check]:
    """Look at the tracks, the keys, and whether the books agree."""
    with database.read() as connection:
        for track in read_tracks(connection):
            detail = f"{track.state} at {track.revision or 'no revision'}"
            yield _check("tracks", track.scope, track.state == CURRENT, detail, track.remedy)
        copy = held_copy(connection)
        if copy is not None:
            yield Check("database", "restored copy", FAIL, str(copy), ACTIVATE)
        yield from _keys(connection, settings)
        yield from _durability(connection, settings)
    with database.snapshot() as connection:
        for rule in reconcile(connection, RULES):
            detail = "; ".join(rule.findings[:3]) or rule.statement
            remedy = "agenthub ledger reconcile"
            yield _check("reconciliation", rule.number, not rule.findings, detail, remedy)


def _check(group: str, subject: str, ok: bool, detail: str, remedy: str | None) -> Check:
    return Check(group, subject, PASS if ok else FAIL, detail, None if ok else remedy)


def _keys(connection: Connection, settings: Settings) -> Iterator[Check]:
    now = clock.now()

    def is_live(key: Mapping[str, Any]) -> bool:
        expires_at = key["expires_at"]
        return key["revoked_at"] is None and (expires_at is None or expires_at > now)

    found: list[dict[str, Any]] = list_keys(connection, known_pepper(settings))
    live = [key for key in found if is_live(key)]
    altered = [str(key["id"]) for key in live if key["genuine"] is False]
    yield _check(
        "keys",
        "rows",
        not altered,
        f"edited in the database, or of another pepper: {', '.join(altered) or 'none'}",
        "agenthub doctor",
    )
    first = [str(key["id"]) for key in live if key["owner"] == BOOTSTRAP_OWNER]
    yield _check(
        "keys",
        "first start",
        not first,
        f"the key of the first start is in use: {', '.join(first)}" if first else "not in use",
        "agenthub keys create --owner NAME --role admin, then: agenthub keys revoke KEY_ID",
    )
    admins = [key for key in live if key["role"] == "admin"]
    remedy = "agenthub keys create --owner NAME --role admin"
    yield _check("keys", "admins", bool(admins), f"{len(admins)} admin keys in use", remedy)
    forever = [str(key["id"]) for key in admins if key["expires_at"] is None]
    yield Check(
        "keys",
        "expiry",
        WARN if forever else PASS,
        f"admin keys that never expire: {', '.join(forever) or 'none'}",
        "agenthub keys create --role admin --expires-days 90 ..." if forever else None,
    )


def _durability(connection: Connection, settings: Settings) -> Iterator[Check]:
    yield _check(
        "configuration",
        "database",
        not settings.is_sqlite,
        settings.url.get_backend_name(),
        "move to PostgreSQL: docs/operations.md",
    )
    if settings.is_sqlite:
        return
    values = {
        name: connection.scalar(text(f"SHOW {name}"))
        for name in ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    }
    durable = values["fsync"] == values["full_page_writes"] == "on"
    durable = durable and values["synchronous_commit"] not in ("off", "local")
    detail = ", ".join(f"{name} {value or 'none'}" for name, value in values.items())
    remedy = "set fsync, full_page_writes and synchronous_commit to on"
    yield _check("configuration", "durability", durable, detail, remedy)
    alone = not values["synchronous_standby_names"]
    yield Check(
        "configuration",
        "standby",
        WARN if alone else PASS,
        "no synchronous standby: a lost disk loses what no backup has" if alone else "synchronous",
        "docs/operations.md, A cluster" if alone else None,
    )


def check_configuration(settings: Settings, url: str) -> Iterator[Check]:
    """Look at what an operator can set, and at how clients reach the service."""
    tls = url.startswith("https://")
    yield _check(
        "configuration", "TLS", tls, f"clients reach {url}", "give --url the https:// address"
    )
    limit = settings.rate_limit_per_minute
    yield Check(
        "configuration",
        "rate limit",
        PASS if limit else WARN,
        f"{limit} requests of a key in a minute" if limit else "none",
        None if limit else "set AGENTHUB_RATE_LIMIT_PER_MINUTE",
    )
    debug = settings.log_level == "debug"
    yield Check(
        "configuration",
        "log level",
        WARN if debug else PASS,
        settings.log_level,
        "set AGENTHUB_LOG_LEVEL to info" if debug else None,
    )


def check_backups(database: Database, folder: Path | None, max_age: timedelta) -> Iterator[Check]:
    """Look for the newest backup: a snapshot in ``folder``, or the last archived WAL segment."""
    remedy = "docs/operations.md, Backup"
    moments = []
    for found in map(look_at, list_files(folder)) if folder else ():
        if found.taken_at is None:
            detail = found.problem or ""
            yield Check("backups", found.name, FAIL, detail, "agenthub snapshot verify")
        else:
            moments.append(found.taken_at)
    if not database.settings.is_sqlite:
        with database.read() as connection:
            archived = connection.scalar(text("SELECT last_archived_time FROM pg_stat_archiver"))
        moments += [archived] if archived else []
    if not moments:
        yield Check("backups", "age", FAIL, "none found", remedy)
        return
    newest = max(moments)
    detail = f"the newest is of {clock.isoformat(newest.astimezone(UTC))}"
    yield _check("backups", "age", clock.now() - newest <= max_age, detail, remedy)


def check_funnel(path: Path, least: Mapping[str, float]) -> Iterator[Check]:
    """Hold the onboarding funnel of a file to its thresholds. Raises ``FunnelUnusable``."""
    for rate in rates(read_funnel(path), least):
        detail = f"{rate.share:.1%}, at least {rate.least:.1%}"
        remedy = "find out where people leave"
        yield _check("funnel", rate.name, rate.reached, detail, remedy)
