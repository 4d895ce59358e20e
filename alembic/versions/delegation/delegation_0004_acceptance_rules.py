"""Acceptance rules of delegates, and whose turn it is among the owners that wait for one."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "delegation_0004"
down_revision: str | None = "delegation_0003"
branch_labels: Sequence[str] | None = None
depends_on: None = None

RULES, QUEUES = "delegation_acceptance_rules", "delegation_offer_queues"
DELEGATIONS, COLUMN = "delegation_delegations", "delegate_min_deadline_seconds"
WAITING = "ix_delegation_delegations_waiting"
WAITING_BEFORE = "ix_delegation_delegations_delegate_agent_id_status_id"


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        RULES,
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("allowed_owners", sa.Text(), nullable=True),
        sa.Column("denied_owners", sa.Text(), nullable=False),
        sa.Column("takes_inline", sa.Boolean(), nullable=False),
        sa.Column("smallest_estimate_micros", sa.BigInteger(), nullable=False),
        sa.Column("shortest_deadline_seconds", sa.Integer(), nullable=True),
        sa.Column("shortest_lease_seconds", sa.Integer(), nullable=True),
        sa.Column("most_live_offers", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", name=op.f(f"pk_{RULES}")),
    )
    op.create_table(
        QUEUES,
        sa.Column("delegate_agent_id", bytewise(193), nullable=False),
        sa.Column("requester_owner_id", sa.String(36), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "delegate_agent_id", "requester_owner_id", name=op.f(f"pk_{QUEUES}")
        ),
    )
    op.create_index(f"ix_{QUEUES}_delegate_agent_id_turn", QUEUES, ["delegate_agent_id", "turn"])
    # None for delegations that were made before: nobody wrote down what their delegates asked for.
    op.add_column(DELEGATIONS, sa.Column(COLUMN, sa.Integer(), nullable=True))
    make_index(WAITING, ["delegate_agent_id", "status", "requester_owner_id", "id"])
    op.drop_index(WAITING_BEFORE, DELEGATIONS)


def make_index(name: str, columns: list[str]) -> None:
    """Index the live delegations alone."""
    live = sa.text("due_at IS NOT NULL")
    op.create_index(name, DELEGATIONS, columns, sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    make_index(WAITING_BEFORE, ["delegate_agent_id", "status", "id"])
    op.drop_index(WAITING, DELEGATIONS)
    op.drop_column(DELEGATIONS, COLUMN)
    op.drop_table(QUEUES)
    op.drop_table(RULES)
