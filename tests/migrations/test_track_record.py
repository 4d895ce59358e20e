"""The upgrade that says what closed delegations are evidence of, with rows before and after."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from alembic import command

from app.config import Settings
from tests.migrations.project import config, connect
from tests.migrations.rows import NOW, rows_of

BEFORE = {"delegation": "delegation_0004", "registry": "registry_0003"}
A, B, C = "owner-a", "owner-b", "owner-c"


def upgrade(settings: Settings, revision: str) -> None:
    command.upgrade(config(settings), revision)


def insert(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    with connect(settings) as connection:
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        for row in rows:
            known = {column: row[column] for column in row if column in table.c}
            connection.execute(table.insert(), known)


def read(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    with connect(settings) as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def delegation(number: int, payer: str, payee: str, charge: int, **changes: Any) -> dict[str, Any]:
    """Return a delegation that was closed ``number`` minutes after the first."""
    (row,) = rows_of("delegation", "delegation_delegations")
    return (
        row
        | {
            "id": f"00000000-0000-7000-8000-{number:012}",
            "status": "completed",
            "requester_owner_id": payer,
            "delegate_owner_id": payee,
            "charged_micros": charge,
            "metered_micros": charge,
            "held_micros": max(charge, 1),
            "estimated_micros": 1,
            "authorized_micros": 1,
            "max_budget_micros": 10**9,
            "due_at": None,
            "closed_at": NOW + timedelta(minutes=number),
        }
        | changes
    )


def test_closed_delegations_are_judged_and_replayed(empty_settings: Settings) -> None:
    upgrade(empty_settings, BEFORE["delegation"])
    rows = [
        # In another order than they were closed in.
        delegation(2, B, A, 30),
        delegation(1, A, B, 50),
        delegation(3, A, B, 20),
        delegation(4, A, B, 25),
        delegation(5, A, C, 7, execution="inline"),
        delegation(6, A, A, 9),
        delegation(7, A, B, 0, status="failed"),
        delegation(8, A, B, 0, status="failed", lease_seconds=9),
        delegation(9, A, B, 0, status="failed", cancel_requested_at=NOW),
        delegation(10, A, B, 5, status="failed_hard_stop"),
        delegation(11, A, B, 0, metered_micros=4),
        delegation(12, A, B, 0),
        delegation(13, A, B, 3, status="cancelled"),
        rows_of("delegation", "delegation_delegations")[0] | {"id": "still-open"},
    ]
    insert(empty_settings, "delegation_delegations", rows)

    upgrade(empty_settings, "delegation@head")

    found = read(
        empty_settings,
        "SELECT evidence, own_micros FROM delegation_delegations"
        " WHERE closed_at IS NOT NULL ORDER BY closed_at",
    )
    assert found == [
        (1, 50),
        # What B pays with it earned from A; then A has 20 left of what came back.
        (1, 0),
        (1, 0),
        (1, 15),
        (0, None),
        (0, None),
        (-1, None),
        (0, None),
        (0, None),
        (-1, 5),
        (-1, None),
        (0, None),
        (0, None),
    ]
    open_one = "SELECT evidence, own_micros FROM delegation_delegations WHERE closed_at IS NULL"
    assert read(empty_settings, open_one) == [(None, None)]
    turnovers = "SELECT * FROM delegation_owner_turnovers ORDER BY owner_id"
    assert read(empty_settings, turnovers) == [(A, 30, 110, 80), (B, 103, 30, 0), (C, 7, 0, 0)]

    command.downgrade(
        config(empty_settings, allow_data_loss="delegation"), f"delegation@{BEFORE['delegation']}"
    )
    left = read(empty_settings, "SELECT count(*), sum(charged_micros) FROM delegation_delegations")
    assert left == [(len(rows), 149)]


def test_old_evidence_is_kept_and_weighs_nothing(empty_settings: Settings) -> None:
    upgrade(empty_settings, BEFORE["registry"])
    names = ("namespaces", "agents", "versions", "trust_evidence")
    for name in names:
        insert(empty_settings, f"registry_{name}", rows_of("registry", f"registry_{name}"))
    (report,) = rows_of("registry", "registry_usage_reports")
    reports = [
        report | {"id": f"report-{owner}-{number}", "reported_by": owner, "sequence": number}
        | {"succeeded_to_date": 2 * number, "failed_to_date": 1, "independent": owner != A}
        for owner, last in ((A, 2), (B, 3), (C, 1))
        for number in range(1, last + 1)
    ]  # fmt: skip
    insert(empty_settings, "registry_usage_reports", reports)

    upgrade(empty_settings, "registry@head")

    parties = "SELECT * FROM registry_trust_counterparties ORDER BY owner_id"
    agent = report["agent_id"]
    assert read(empty_settings, parties) == [
        (agent, B, 0, 0, 0, None, None, 6, 1),
        (agent, C, 0, 0, 0, None, None, 2, 1),
    ]
    (evidence,) = read(
        empty_settings,
        "SELECT delegations_completed, delegations_failed, delegations_unpaid, usage_succeeded,"
        " usage_failed, usage_unpaid, say_milli, completed_milli, usage_good_milli"
        " FROM registry_trust_evidence",
    )
    assert evidence == (3, 1, 4, 8, 2, 10, 0, 0, 0)

    command.downgrade(
        config(empty_settings, allow_data_loss="registry"), f"registry@{BEFORE['registry']}"
    )
    kept = read(empty_settings, "SELECT delegations_completed FROM registry_trust_evidence")
    assert kept == [(3,)]
