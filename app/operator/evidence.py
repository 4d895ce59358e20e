"""Holding trust and statistics to history: what is kept of every agent against what there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.delegation.queries import count_outcomes
from app.registry.recount import (
    Difference,
    differences,
    lock,
    mend,
    mend_counts,
    mend_usage,
    wrong_counts,
    wrong_usage,
)

# Agents repaired by one request, so that it holds its locks for moments; and those it lists.
MAX_REPAIRED, MAX_LISTED = 500, 100


@dataclass(frozen=True)
class Report:
    """What was compared, and what differs (or did, before it was repaired).

    ``wrong_counts`` names the lists of agents whose number was not kept right, ``wrong_usage`` the
    owners whose quotas were held to wrong figures.
    """

    agents: int
    found: list[Difference]
    wrong_counts: list[str]
    wrong_usage: list[str]
    remaining: int = 0
    recounted: int = 0
    measured: int = 0

    def document(self) -> dict[str, Any]:
        """Return the report as clients read it."""
        return {
            "compared_agents": self.agents,
            "repaired_total": len(self.found),
            "remaining": self.remaining,
            "recounted_lists": self.recounted,
            "recounted_owners": self.measured,
            "repaired": [
                {"agent_id": one.agent_id, "kept": one.kept, "history": one.history}
                for one in self.found[:MAX_LISTED]
            ],
        }


def compare(connection: Connection) -> Report:
    """Compare every agent. Reads all of history, so give it a connection that sees one instant.

    It locks nothing: on a large database it takes seconds.
    """
    agents, found = differences(connection, count_outcomes(connection))
    return Report(agents, found, wrong_counts(connection), wrong_usage(connection))


def repair(session: Session, report: Report) -> Report:
    """Repair what was found to differ, each compared again once it is locked."""
    repaired = []
    for suspect in report.found[:MAX_REPAIRED]:
        agent_id = suspect.agent_id
        lock(session, agent_id)
        _, found = differences(session, count_outcomes(session, [agent_id]), [agent_id])
        for difference in found:
            mend(session, difference)
            repaired.append(difference)
    return replace(
        report,
        found=repaired,
        remaining=max(0, len(report.found) - MAX_REPAIRED),
        recounted=mend_counts(session, report.wrong_counts),
        measured=mend_usage(session, report.wrong_usage),
    )
