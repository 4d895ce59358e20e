"""Evidence that trust is computed from, and reports of usage."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "registry_0002"
down_revision: str | None = "registry_0001"
branch_labels: Sequence[str] | None = None
depends_on: None = None


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "registry_trust_evidence",
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("delegations_completed", sa.BigInteger(), nullable=False),
        sa.Column("delegations_failed", sa.BigInteger(), nullable=False),
        sa.Column("usage_succeeded", sa.BigInteger(), nullable=False),
        sa.Column("usage_failed", sa.BigInteger(), nullable=False),
        sa.Column("usage_reporters", sa.BigInteger(), nullable=False),
        sa.Column("usage_over_limit", sa.BigInteger(), nullable=False),
        sa.Column("usage_by_publisher", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "delegations_completed >= 0 AND delegations_failed >= 0",
            name=op.f("ck_registry_trust_evidence_delegations_not_negative"),
        ),
        sa.CheckConstraint(
            "usage_succeeded >= 0 AND usage_failed >= 0 AND usage_reporters >= 0"
            " AND usage_over_limit >= 0 AND usage_by_publisher >= 0",
            name=op.f("ck_registry_trust_evidence_usage_not_negative"),
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["registry_agents.id"], name=op.f("fk_registry_trust_evidence_agent_id")
        ),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("pk_registry_trust_evidence")),
    )
    create_usage_reports()
    make_append_only("registry_usage_reports")


def create_usage_reports() -> None:
    op.create_table(
        "registry_usage_reports",
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("reported_by", bytewise(36), nullable=False),
        sa.Column("independent", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("succeeded_to_date", sa.BigInteger(), nullable=False),
        sa.Column("failed_to_date", sa.BigInteger(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('success', 'failure')",
            name=op.f("ck_registry_usage_reports_outcome_known"),
        ),
        sa.CheckConstraint(
            "count >= 1 AND sequence >= 1", name=op.f("ck_registry_usage_reports_count_positive")
        ),
        sa.CheckConstraint(
            "succeeded_to_date >= 0 AND failed_to_date >= 0"
            " AND succeeded_to_date + failed_to_date >= count",
            name=op.f("ck_registry_usage_reports_sums"),
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["registry_agents.id"], name=op.f("fk_registry_usage_reports_agent_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_usage_reports")),
        sa.UniqueConstraint(
            "agent_id",
            "reported_by",
            "sequence",
            name=op.f("uq_registry_usage_reports_agent_id_reported_by_sequence"),
        ),
    )


def make_append_only(table: str) -> None:
    """Refuse UPDATE, DELETE and (where it exists) TRUNCATE on ``table`` in the database itself."""
    message = f"{table} is append-only"
    if op.get_context().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    for action, level in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
            f" FOR EACH {level} EXECUTE FUNCTION {table}_refuse()"
        )


def downgrade() -> None:
    op.drop_table("registry_usage_reports")
    op.drop_table("registry_trust_evidence")
    if op.get_context().dialect.name != "sqlite":
        op.execute("DROP FUNCTION registry_usage_reports_refuse()")
