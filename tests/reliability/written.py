"""Whether what a journal of acknowledged writes says is what the database holds, once each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from app.db import Database
from app.delegation.lifecycle import REMOTE, TERMINAL
from app.delegation.models import Delegation
from app.ledger.models import MeteringEvent, Transaction
from app.money import to_micros
from tests.reliability.evidence import brought_in
from tests.reliability.market import DELEGATIONS, Entry


def assert_written(database: Database, journal: Sequence[Entry]) -> None:
    """Fail unless the journal, which must be of every write, and the database agree.

    This asks the tables and not the stored answers: nothing acknowledged is missing, and nothing
    that was repeated after a lost answer is there twice.
    """
    done = [entry for entry in journal if entry.answer.status == 200]
    with database.snapshot() as connection:
        _assert_topped_up(connection, done)
        _assert_created(connection, done)
        _assert_ended(connection, done)
        _assert_metered(connection, done)


def _assert_topped_up(reader: Connection, done: Sequence[Entry]) -> None:
    entries = [entry for entry in done if entry.request.path == "/v1/ledger/topups"]
    told = {entry.answer.document["id"] for entry in entries}
    stored = reader.scalars(select(Transaction.id).where(Transaction.kind == "topup"))
    assert told == set(stored)
    amounts = (to_micros(entry.request.body["amount_usd"]) for entry in entries)
    assert sum(amounts) == brought_in(reader)


def _delegations(done: Sequence[Entry]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each delegation that an answer shows, with the path of its request."""
    for entry in done:
        path, document = entry.request.path, entry.answer.document
        if path == f"{DELEGATIONS}/batch":
            for result in document["results"]:
                if result["succeeded"]:
                    yield DELEGATIONS, result["delegation"]
        elif path.startswith(DELEGATIONS):
            yield path, document


def _assert_created(reader: Connection, done: Sequence[Entry]) -> None:
    told = [shown["delegation_id"] for path, shown in _delegations(done) if path == DELEGATIONS]
    assert sorted(told) == sorted(reader.scalars(select(Delegation.id)))


def _assert_ended(reader: Connection, done: Sequence[Entry]) -> None:
    """Fail unless what an answer called closed is closed in just that way."""
    rows = {row.id: row for row in reader.execute(select(*Delegation.__table__.c))}
    for _, shown in _delegations(done):
        row = rows[shown["delegation_id"]]
        if shown["status"] in TERMINAL:
            assert row.status == shown["status"]
            # What was in review then is settled since, or is not.
            if shown.get("charged_usd") is not None:
                assert row.charged_micros == to_micros(shown["charged_usd"])


def _assert_metered(reader: Connection, done: Sequence[Entry]) -> None:
    told: Counter[tuple[str, str, int]] = Counter()
    for entry in done:
        if entry.request.path.endswith("/meter"):
            document = entry.answer.document
            told.update(
                (document["delegation_id"], event["event_id"], to_micros(event["cost_usd"]))
                for event in document["events"]
                if event["result"] == "accepted"
            )
    stored = reader.execute(
        select(MeteringEvent.delegation_id, MeteringEvent.event_id, MeteringEvent.cost_micros)
        .join(Delegation, Delegation.id == MeteringEvent.delegation_id)
        .where(Delegation.execution == REMOTE)
    )
    assert told == Counter(map(tuple, stored))
