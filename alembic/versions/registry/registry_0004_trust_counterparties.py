"""Evidence by the owner it comes from, as far as that owner has paid."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "registry_0004"
down_revision: str | None = "registry_0003"
branch_labels: Sequence[str] | None = None
depends_on: None = None

EVIDENCE, PARTIES = "registry_trust_evidence", "registry_trust_counterparties"
REPORTS = "registry_usage_reports"
ADDED = (
    "delegations_unpaid",
    "completed_milli",
    "failed_milli",
    "say_milli",
    "paying_owners",
    "own_micros",
    "usage_payers",
    "usage_good_milli",
    "usage_bad_milli",
    "usage_unpaid",
)


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    for name in ADDED:
        op.add_column(
            EVIDENCE, sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        )
    op.create_table(
        PARTIES,
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("owner_id", bytewise(36), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("own_micros", sa.BigInteger(), nullable=False),
        sa.Column("first_paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("usage_succeeded", sa.BigInteger(), nullable=False),
        sa.Column("usage_failed", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "completed >= 0 AND failed >= 0 AND own_micros >= 0"
            " AND usage_succeeded >= 0 AND usage_failed >= 0",
            name=op.f(f"ck_{PARTIES}_not_negative"),
        ),
        sa.CheckConstraint(
            "(own_micros > 0) = (first_paid_at IS NOT NULL)"
            " AND (own_micros > 0) = (last_paid_at IS NOT NULL)",
            name=op.f(f"ck_{PARTIES}_paid_at_some_time"),
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["registry_agents.id"], name=op.f(f"fk_{PARTIES}_agent_id")
        ),
        sa.PrimaryKeyConstraint("agent_id", "owner_id", name=op.f(f"pk_{PARTIES}")),
    )
    # What was counted before is kept as it is and weighs nothing: who paid for it, and with whose
    # money, is known to another track. A refresh of evidence (POST /v1/operator/refresh) counts it
    # anew. Usage is summed as it was reported; on the way down a refresh of the older release
    # restores what that counted.
    op.execute(
        f"INSERT INTO {PARTIES} (agent_id, owner_id, completed, failed, own_micros,"
        " usage_succeeded, usage_failed)"
        f" SELECT agent_id, reported_by, 0, 0, 0, succeeded_to_date, failed_to_date FROM {REPORTS}"
        " AS newest WHERE independent AND NOT EXISTS"
        f" (SELECT 1 FROM {REPORTS} AS later WHERE later.agent_id = newest.agent_id"
        " AND later.reported_by = newest.reported_by AND later.sequence > newest.sequence)"
    )
    sums = {
        "usage_succeeded": "usage_succeeded",
        "usage_failed": "usage_failed",
        "usage_unpaid": "usage_succeeded + usage_failed",
    }
    changes = [
        f"{name} = (SELECT coalesce(sum({what}), 0) FROM {PARTIES}"
        f" WHERE {PARTIES}.agent_id = {EVIDENCE}.agent_id)"
        for name, what in sums.items()
    ]
    op.execute(
        f"UPDATE {EVIDENCE} SET {', '.join(changes)}, usage_over_limit = 0,"
        " delegations_unpaid = delegations_completed + delegations_failed"
    )


def downgrade() -> None:
    op.drop_table(PARTIES)
    for name in reversed(ADDED):
        op.drop_column(EVIDENCE, name)
