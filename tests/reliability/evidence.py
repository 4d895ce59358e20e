"""What a database must show after whatever was done to the service."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sqlalchemy import Connection, func, select

from app.db import Base, Database
from app.idempotency.models import IdempotencyKey
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
