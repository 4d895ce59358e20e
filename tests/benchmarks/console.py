"""``python -m tests.benchmarks.console``: how long the service takes for each page of the console.

A large database and a small one are served one after the other in one run, so that what a page
costs because there is much can be told from what it costs on this machine.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from sqlalchemy import insert, select, update

from app import create_app
from app.access.models import Owner
from app.access.service import create_key
from app.config import Settings
from app.db import Base, Database
from app.delegation.lifecycle import LIVE
from app.delegation.models import Delegation, DelegationEvent
from app.http.context import EXTENSION, Services
from app.ledger.models import Account, Posting, Transaction
from app.ledger.seals import seal_pending
from app.logs import configure_logging
from app.registry.models import Namespace
from tests.benchmarks import data
from tests.conftest import settings_for
from tests.console.conftest import Visitor
from tests.postgres import PostgresServer

CHUNK = 10_000
# One every 2.5 seconds: a million of them are a month.
APART = timedelta(seconds=2.5)
ENDED = ("completed",) * 93 + ("failed",) * 3 + ("failed_hard_stop",) * 2 + ("cancelled", "expired")
DELEGATE_OWNER, OPERATOR = "delegates", "operator"
POLICY = '{"decision":"allow","reasons":[{"code":"policy.allow","message":"allowed"}]}'
HELD, CHARGED = 500_000, 300_000
Row = dict[str, Any]


def fill(settings: Settings, agents: int, delegations: int) -> None:
    """Fill a database with agents of two owners, and delegations from the one's to the other's.

    Rows go straight into the tables. One in 500 delegations is live, of the newest 2 % every
    second one; one of all that ended was declined, long ago.
    """
    data.load(settings, agents)
    database = Database(settings)
    assert settings.key_pepper is not None
    with database.transaction() as session:
        create_key(session, settings.key_pepper.encode(), DELEGATE_OWNER, "developer")
        create_key(session, settings.key_pepper.encode(), OPERATOR, "admin")
        owners = dict(session.execute(select(Owner.name, Owner.id)).all())
        second = data.agent_id(agents // 2).partition(":")[0]
        moved = update(Namespace).where(Namespace.name >= second)
        session.execute(moved.values(owner_id=owners[DELEGATE_OWNER]))
        opened = datetime.now(UTC) - APART * delegations
        accounts = [
            account(f"agent:{data.agent_id(number)}", opened, credits=10**9)
            for number in range(agents)
        ]
        session.connection().execute(insert(Account), accounts)
    now, source = datetime.now(UTC), random.Random(1)
    for first in range(0, delegations, CHUNK):
        rows: defaultdict[type[Base], list[Row]] = defaultdict(list)
        for number in range(first, min(first + CHUNK, delegations)):
            for entity, row in delegation(number, agents, delegations, owners, now, source):
                rows[entity].append(row)
        with database.transaction() as session:
            for entity in (Delegation, DelegationEvent, Account, Transaction, Posting):
                session.connection().execute(insert(entity), rows[entity])
    sealed = 1
    while sealed:
        with database.transaction() as session:
            sealed = seal_pending(session)
    data.settle(database)
    database.dispose()


def account(identifier: str, opened: datetime, *, debits: int = 0, credits: int = 0) -> Row:
    """Return the row of an account."""
    return {
        "id": identifier,
        "kind": identifier.partition(":")[0],
        "debits_micros": debits,
        "credits_micros": credits,
        "created_at": opened,
    }


def identifier(number: int) -> str:
    """Return the id of the delegation of this number."""
    return f"{number:08d}-0000-7000-8000-000000000000"


def delegation(
    number: int, agents: int, of: int, owners: dict[str, str], now: datetime, source: random.Random
) -> Iterator[tuple[type[Base], Row]]:
    """Yield the rows of a delegation, its events and its money."""
    at, one = now - APART * (of - number), identifier(number)
    half = agents // 2
    requester, delegate = data.agent_id(number % half), data.agent_id(half + number * 7 % half)
    live = source.random() < (0.5 if number >= of * 0.98 else 0.002)
    status = source.choice(LIVE if live else ENDED) if number else "declined"
    live = live and number > 0
    charged = CHARGED if status == "completed" else 0
    yield (
        Delegation,
        {
            "id": one,
            "execution": "remote",
            "status": status,
            "revision": 3,
            "events": 3,
            "requester_agent_id": requester,
            "requester_owner_id": owners[data.OWNER],
            "delegate_agent_id": delegate,
            "delegate_owner_id": owners[DELEGATE_OWNER],
            "delegate_version": data.VERSION,
            "delegate_digest": "sha256:" + "0" * 64,
            "task_spec": "Read the invoices that came in on Monday and return their totals",
            "estimated_micros": HELD,
            "max_budget_micros": 2 * HELD,
            "authorized_micros": HELD,
            "metered_micros": CHARGED,
            "held_micros": HELD,
            "charged_micros": None if live else charged,
            "breaker_level": source.choice((0, 0, 0, 80, 100)),
            "auto_reauthorize": True,
            "simulated": False,
            "policy_decision": POLICY,
            "lease_seconds": 60,
            "deadline_seconds": 3600,
            "review_seconds": 3600,
            "lease_number": 1,
            "lease_expires_at": now + timedelta(days=1) if live else None,
            "deadline_at": now + timedelta(days=1) if live else None,
            "due_at": now + timedelta(days=1, seconds=number) if live else None,
            "created_at": at,
            "updated_at": at,
            "closed_at": None if live else at + timedelta(seconds=60),
        },
    )
    for place, kind in enumerate(("created", "accepted", "delivered"), 1):
        yield (
            DelegationEvent,
            {
                "delegation_id": one,
                "number": place,
                "kind": kind,
                "status": status,
                "actor": requester,
                "details": "{}",
                "at": at,
            },
        )
    escrow = f"escrow:{one}"
    yield Account, account(escrow, at, debits=0 if live else HELD, credits=HELD)
    moves = [("hold", [(f"agent:{requester}", escrow, HELD)])]
    if not live:
        back = [(escrow, f"agent:{requester}", HELD - charged)]
        paid = [(escrow, f"agent:{delegate}", charged)] if charged else []
        moves.append(("close", paid + back))
    for place, (kind, legs) in enumerate(moves):
        seq = 2 * number + place + 1
        yield (
            Transaction,
            {
                "seq": seq,
                "id": f"{seq:08d}-1111-7000-8000-000000000000",
                "kind": kind,
                "dedupe_key": f"{kind}:{one}",
                "delegation_id": one,
                "actor": requester,
                "meta": "{}",
                "effective_at": at,
                "created_at": at,
            },
        )
        for leg, (debit, credit, amount) in enumerate(legs, 1):
            yield (
                Posting,
                {
                    "seq": seq,
                    "leg": leg,
                    "debit_account": debit,
                    "credit_account": credit,
                    "amount_micros": amount,
                },
            )


def pages(agents: int, delegations: int) -> dict[str, str]:
    """Return the address of each page by what it shows."""
    agent = data.agent_id(agents // 2)
    newest = identifier(delegations - 5)
    day = f"{datetime.now(UTC) - timedelta(hours=5):%Y-%m-%d}"
    return {
        "overview, a day": "/operator",
        "overview, a month": "/operator?period=30d",
        "agents": "/operator/agents",
        "agents with two words": "/operator/agents?q=audit+0999",
        "agents, none found": "/operator/agents?q=zzzz",
        "agents, own": "/operator/agents?mine=1",
        "agents, deprecated": "/operator/agents?status=deprecated",
        "an agent": f"/operator/agents/{agent}",
        "versions": f"/operator/versioning?agent_id={agent}",
        "delegations": "/operator/delegations",
        "delegations, completed": "/operator/delegations?status=completed",
        "delegations, disputed": "/operator/delegations?status=disputed",
        "delegations, declined (one)": "/operator/delegations?status=declined",
        "delegations of an agent": f"/operator/delegations?agent_id={agent}",
        "of an agent, declined": f"/operator/delegations?agent_id={agent}&status=declined",
        "delegations of a day": f"/operator/delegations?from={day}&to={day}",
        "a delegation": f"/operator/delegations/{newest}",
        "ledger": "/operator/ledger",
        "ledger, none found": "/operator/ledger?q=zzzz",
        "an account": f"/operator/ledger/accounts/agent:{data.agent_id(0)}",
        "operations": "/operator/operations",
    }


@dataclass(frozen=True)
class Look:
    """Milliseconds of every page, of the first view, and until all of history was counted."""

    pages: dict[str, float]
    first: float
    counted: float


def look(settings: Settings, agents: int, delegations: int, owner: str, rounds: int) -> Look:
    """Time each page as an owner sees it; each view begins no earlier than the last one ended."""
    app = create_app(settings)
    services: Services = app.extensions[EXTENSION]
    with services.database.transaction() as session:
        role = "admin" if owner == OPERATOR else "developer"
        key = create_key(session, services.pepper, owner, role)
    visitor = Visitor(app, key.secret)
    assert visitor.sign_in().status_code == 303
    began = time.perf_counter()
    page = visitor.see("/operator")
    first = time.perf_counter() - began
    while "History is being counted" in page:
        time.sleep(0.1)
        page = visitor.see("/operator")
    counted = time.perf_counter() - began
    found = {}
    for name, path in pages(agents, delegations).items():
        if owner != OPERATOR and path == "/operator/operations":
            continue
        took = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            visitor.see(path)
            took.append(time.perf_counter() - began)
        # The first one reads what the others find in memory, and is not counted.
        found[name] = 1000 * statistics.median(took[1:])
    services.database.dispose()
    return Look(found, 1000 * first, 1000 * counted)


@click.command()
@click.option("--databases", default="sqlite,postgresql", show_default=True)
@click.option("--agents", default=100_000, show_default=True)
@click.option("--delegations", default=1_000_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(databases: str, agents: int, delegations: int, rounds: int) -> None:
    """Print a table in Markdown for each database."""
    sizes = ((agents // 100, delegations // 100), (agents, delegations))
    for name in databases.split(","):
        found: dict[tuple[str, int], Look] = {}
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            postgres = PostgresServer(durable=True) if name == "postgresql" else None
            if postgres is not None:
                stack.callback(postgres.destroy)
            for size in sizes:
                home = folder / str(size[1])
                home.mkdir()
                url = f"sqlite:///{home / 'agenthub.db'}"
                if postgres is not None:
                    url = postgres.url(postgres.create_database())
                settings = settings_for(url, home)
                configure_logging(settings)
                click.echo(f"{name}: filling {size[1]:,}", err=True)
                fill(settings, *size)
                for owner in (OPERATOR, data.OWNER):
                    found[owner, size[1]] = look(settings, *size, owner, rounds)
        report(name, found, sizes)


def report(
    name: str, found: dict[tuple[str, int], Look], sizes: tuple[tuple[int, int], ...]
) -> None:
    """Print the table of a database; each ratio is the large database to the small one."""
    (_, small), (_, large) = sizes
    heads = [f"{who}: {small:,} | {large:,} | ratio" for who in ("admin", "owner")]
    click.echo(f"\n### Console, {name}\n\n| page | {' | '.join(heads)} |")
    click.echo("|---|" + "---:|" * 6)
    for page in found[OPERATOR, large].pages:
        cells = ""
        for owner in (OPERATOR, data.OWNER):
            few, many = (found[owner, size].pages.get(page) for size in (small, large))
            cells += f" {few:.1f} | {many:.1f} | {many / few:.2f} |" if few and many else " | | |"
        click.echo(f"| {page} |{cells}")
    for title, what in (("first view after a start", "first"), ("all counted after", "counted")):
        cells = ""
        for owner in (OPERATOR, data.OWNER):
            few, many = (getattr(found[owner, size], what) for size in (small, large))
            cells += f" {few:.0f} | {many:.0f} | |"
        click.echo(f"| {title} |{cells}")


if __name__ == "__main__":
    sys.exit(main())
