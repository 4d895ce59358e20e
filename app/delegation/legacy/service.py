"""Importing what the service before this one left behind: once, entirely, or not at all.

Records become history that is shown and never acted on: their rules were others, and no escrow
stands behind them. Money comes in only through balances, each an opening transaction of the ledger.
The journal ``delegation_import_runs`` remembers by its hash which file was imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app import clock
from app.config import Settings
from app.db import Database, insert_if_absent
from app.delegation.legacy.files import (
    BALANCES,
    KINDS,
    RECORDS,
    Fault,
    LegacyFile,
    Rows,
    parse,
    read_file,
)
from app.delegation.models import Delegation, ImportRun, LegacyRecord
from app.delegation.queries import Reader
from app.ledger import service as ledger
from app.money import to_usd
from app.registry.queries import find_parties

ACTOR = "legacy-import"
BATCH = 500
# Several servers that start at once wait for the one that imports.
PATIENCE_MS = 60_000
STATEMENT_MS = 600_000
IMPORTED, ALREADY, CHECKED = "imported", "imported before", "can be imported"


class ImportRefused(Exception):
    """Nothing was imported. ``faults`` lists the faults of the files, if they are the reason."""

    def __init__(self, reason: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(reason)
        self.faults = list(faults)


@dataclass(frozen=True)
class Outcome:
    """What became of one file; ``total_usd`` is the sum of balances, None of records."""

    kind: str
    file: str
    state: str
    rows: int
    total_usd: int | float | None


@dataclass(frozen=True)
class Report:
    """What became of all files, and which agents have money but are not registered yet."""

    files: list[Outcome]
    unregistered_agents: list[str]


def open_patiently(settings: Settings) -> Database:
    """Return the database with limits that an import, and waiting for one, can do with."""
    patient = replace(
        settings, lock_timeout_ms=PATIENCE_MS, statement_timeout_ms=STATEMENT_MS, threads=1
    )
    return Database(patient)


def import_files(database: Database, paths: dict[str, Path], *, dry_run: bool = False) -> Report:
    """Import the files of the given kinds in one transaction; with ``dry_run`` only check them.

    A file that was imported before is left out, and may be gone. Raises ``ImportRefused`` for a
    file that cannot be read or is malformed, and for one of a kind that was imported before with
    other content.
    """
    with database.snapshot() as connection:
        known = _runs(connection)
    done: list[Outcome] = []
    files: list[LegacyFile] = []
    for kind in KINDS:
        if kind not in paths:
            continue
        try:
            file = read_file(kind, paths[kind])
        except OSError as error:
            if kind not in known or not isinstance(error, FileNotFoundError):
                reason = f"{paths[kind]} cannot be read: {error.strerror}"
                raise ImportRefused(reason) from None
            done.append(_before(known[kind]))
            continue
        if kind in known:
            _require_same(known[kind], file)
            done.append(_before(known[kind]))
        else:
            files.append(file)
    parsed = {file.kind: parse(file, database.settings.max_json_depth) for file in files}
    _require_sound([fault for rows in parsed.values() for fault in rows.faults])
    if dry_run:
        with database.snapshot() as connection:
            unregistered = _examine(connection, files, parsed)
        done += [_outcome(file, parsed[file.kind], CHECKED) for file in files]
    elif files:
        with database.transaction() as session:
            outcomes, unregistered = _import(session, files, parsed)
        done += outcomes
    else:
        unregistered = []
    return Report(sorted(done, key=lambda one: KINDS.index(one.kind)), unregistered)


def _runs(reader: Reader) -> dict[str, Any]:
    return {row.kind: row for row in reader.execute(select(*ImportRun.__table__.c))}


def _before(run: Any) -> Outcome:
    total = None if run.total_micros is None else to_usd(run.total_micros)
    return Outcome(run.kind, run.file, ALREADY, run.rows, total)


def _outcome(file: LegacyFile, parsed: Rows, state: str) -> Outcome:
    total = to_usd(_total(parsed.rows)) if file.kind == BALANCES else None
    return Outcome(file.kind, file.name, state, len(parsed.rows), total)


def _total(rows: Iterable[dict[str, Any]]) -> int:
    return sum(row["micros"] for row in rows)


def _require_same(run: Any, file: LegacyFile) -> None:
    if run.sha256 != file.sha256:
        when = clock.isoformat(run.finished_at)
        raise ImportRefused(
            f"{file.name} is another file than the {run.kind} imported at {when}; {run.kind} are"
            " imported once"
        )


def _require_sound(faults: Sequence[Fault]) -> None:
    if faults:
        raise ImportRefused(f"nothing was imported: {len(faults)} faults in the files", faults)


def _examine(reader: Reader, files: Sequence[LegacyFile], parsed: dict[str, Rows]) -> list[str]:
    """Hold rows to what the database has already; return the agents that are not registered.

    Raises ``ImportRefused``.
    """
    faults: list[Fault] = []
    unregistered: list[str] = []
    for file in files:
        for rows in _batches(parsed[file.kind].rows):
            if file.kind == RECORDS:
                by_id = {row["id"]: row["number"] for row in rows}
                taken = reader.execute(select(Delegation.id).where(Delegation.id.in_(by_id)))
                faults += [
                    Fault(file.name, by_id[name], "delegation_id", "a delegation has this id")
                    for name in taken.scalars()
                ]
            else:
                agents = [row["agent_id"] for row in rows]
                unregistered += sorted(set(agents) - find_parties(reader, agents).keys())
    _require_sound(faults)
    return unregistered


def _batches(rows: Sequence[dict[str, Any]]) -> Iterable[Sequence[dict[str, Any]]]:
    return (rows[begin : begin + BATCH] for begin in range(0, len(rows), BATCH))


def _import(
    session: Session, files: Sequence[LegacyFile], parsed: dict[str, Rows]
) -> tuple[list[Outcome], list[str]]:
    outcomes: list[Outcome] = []
    mine: list[LegacyFile] = []
    for file in files:
        outcome = _outcome(file, parsed[file.kind], IMPORTED)
        if _claim(session, file, parsed[file.kind]):
            mine.append(file)
        else:
            # Another server came first; it has finished, since its row was waited for.
            run = _runs(session)[file.kind]
            _require_same(run, file)
            outcome = _before(run)
        outcomes.append(outcome)
    unregistered = _examine(session, mine, parsed)
    for file in mine:
        store = _store_balances if file.kind == BALANCES else _store_records
        store(session, file, parsed[file.kind].rows)
    return outcomes, unregistered


def _claim(session: Session, file: LegacyFile, parsed: Rows) -> bool:
    """Journal the import, unless another server has; the row exists only if all succeeds."""
    inserted = insert_if_absent(
        session,
        ImportRun,
        kind=file.kind,
        file=file.name,
        sha256=file.sha256,
        rows=len(parsed.rows),
        total_micros=_total(parsed.rows) if file.kind == BALANCES else None,
        finished_at=clock.now(),
    )
    return inserted is not None


def _store_records(session: Session, _: LegacyFile, rows: Sequence[dict[str, Any]]) -> None:
    for batch in _batches(rows):
        session.execute(insert(LegacyRecord), list(batch))


def _store_balances(session: Session, file: LegacyFile, rows: Sequence[dict[str, Any]]) -> None:
    """Open every agent's account with its balance.

    Accounts without money come last: who holds accounts must not wait for the ledger's sealer.
    """
    ordered = sorted(rows, key=lambda row: row["agent_id"])
    for batch in _batches([row for row in ordered if row["micros"]]):
        movements = [
            ledger.Movement(
                "opening",
                f"import:opening:{row['agent_id']}",
                [ledger.Leg(ledger.WORLD, ledger.agent_account(row["agent_id"]), row["micros"])],
                meta={"file": file.name, "row": row["number"], "sha256": file.sha256},
            )
            for row in batch
        ]
        ledger.book(session, movements, ACTOR)
    for row in ordered:
        if not row["micros"]:
            ledger.open_account(session, ledger.agent_account(row["agent_id"]))
