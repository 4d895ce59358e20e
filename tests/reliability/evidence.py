"""What a database must show after whatever was done to the service."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sqlalchemy import BigInteger, Connection, case, cast, func, select

from app.db import Base, Database
from app.delegation.reconciliation import RULES
from app.idempotency.models import IdempotencyKey
from app.ledger.models import Account, Posting, Transaction
from app.ledger.reconciliation import reconcile
from app.operator.evidence import compare
from app.registry.models import Agent, AgentCount, Evaluation, EvaluationSummary, Version
from app.registry.service import count_buckets


def contents(database: Database) -> dict[str, list[str]]:
    """Return every row of every table, comparable with another moment's."""
    with database.read() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(select(table)))
            for table in Base.metadata.sorted_tables
        }


def assert_consistent(database: Database) -> None:
    """Fail unless everything that is derived or written together agrees."""
    with database.read() as connection:
        _assert_agents_whole(connection)
        _assert_counters_exact(connection)
        _assert_evidence_summed(connection)
        _assert_answers_stored(connection)
    with database.snapshot() as connection:
        assert_reconciled(connection)
        assert_conserved(connection)
        # What trust rests on is what delegations and reports tell.
        assert compare(connection).found == []


def assert_reconciled(reader: Connection) -> None:
    """Fail unless every rule of reconciliation, R1 to R12, holds."""
    rules = reconcile(reader, RULES)
    assert {rule.number for rule in rules} == {f"R{number}" for number in range(1, 13)}
    assert {rule.number: rule.findings for rule in rules if rule.findings} == {}


def assert_conserved(reader: Connection) -> None:
    """Fail unless all balances together are nothing, and none but the world's is negative.

    A system account's balance is derived from postings; those of agents and escrows are rows. So
    what agents and escrows have together must be what was brought in.
    """
    kept = reader.execute(
        select(
            _sum_of(Account.credits_micros - Account.debits_micros),
            func.coalesce(func.min(Account.credits_micros - Account.debits_micros), 0),
        ).where(Account.kind != "system")
    ).one()
    total, least = map(int, kept)
    assert least >= 0
    assert total + _system_balance(reader) == 0
    assert total == brought_in(reader)


def _system_balance(reader: Connection) -> int:
    gain = case((Posting.credit_account.like("sys:%"), Posting.amount_micros), else_=0)
    loss = case((Posting.debit_account.like("sys:%"), Posting.amount_micros), else_=0)
    return int(reader.scalar(select(_sum_of(gain - loss))) or 0)


def _sum_of(amount: Any) -> Any:
    return cast(func.coalesce(func.sum(amount), 0), BigInteger)


def brought_in(reader: Connection) -> int:
    """Return all money that was ever topped up, in micro-USD."""
    return int(
        reader.scalar(
            select(_sum_of(Posting.amount_micros))
            .join(Transaction, Transaction.seq == Posting.seq)
            .where(Transaction.kind == "topup")
        )
        or 0
    )


def _assert_agents_whole(connection: Connection) -> None:
    agents = {row.id: row for row in connection.execute(select(Agent))}
    versions: dict[str, list[Any]] = {}
    for row in connection.execute(select(Version).order_by(Version.sequence)):
        assert json.loads(row.manifest)["identity"]["version"] == row.version
        versions.setdefault(row.agent_id, []).append(row)
    assert agents.keys() == versions.keys()
    for agent_id, published in versions.items():
        assert [row.sequence for row in published] == list(range(1, len(published) + 1))
        assert agents[agent_id].latest_version in {row.version for row in published}


def _assert_counters_exact(connection: Connection) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for agent_id, status in connection.execute(select(Agent.id, Agent.status)):
        expected.update((bucket, status) for bucket in count_buckets(agent_id))
    stored = {
        (row.bucket, row.status): row.agents for row in connection.execute(select(AgentCount))
    }
    assert {place: count for place, count in stored.items() if count} == dict(expected)


def _assert_evidence_summed(connection: Connection) -> None:
    sums = connection.execute(
        select(
            Evaluation.agent_id,
            func.sum(Evaluation.cases_passed),
            func.sum(Evaluation.cases_total),
        ).group_by(Evaluation.agent_id)
    )
    expected = {agent_id: (int(passed), int(total)) for agent_id, passed, total in sums}
    for row in connection.execute(select(Agent)):
        stored = (row.eval_cases_passed, row.eval_cases_total)
        assert stored == expected.get(row.id, (0, 0))
    counts = connection.execute(
        select(Evaluation.agent_id, Evaluation.version, func.count()).group_by(
            Evaluation.agent_id, Evaluation.version
        )
    )
    summaries = connection.execute(select(EvaluationSummary))
    assert {(row.agent_id, row.version): row.evaluations for row in summaries} == {
        (agent_id, version): count for agent_id, version, count in counts
    }


def _assert_answers_stored(connection: Connection) -> None:
    """A committed key has its answer, and a stored success has what it answers about."""
    agents = set(connection.scalars(select(Agent.id)))
    for row in connection.execute(select(IdempotencyKey)):
        assert row.status_code is not None
        assert row.response_body is not None
        document = json.loads(row.response_body)
        if row.status_code == 200 and row.method == "POST" and row.route == "/v1/agents":
            assert document["id"] in agents
