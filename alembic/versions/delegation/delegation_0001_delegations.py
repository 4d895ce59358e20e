"""Delegations and what happened to them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "delegation_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("delegation",)
depends_on: None = None

SIDES = ("requester_agent_id", "requester_owner_id", "delegate_agent_id", "delegate_owner_id")


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    create_delegations()
    create_indexes()
    op.create_table(
        "delegation_events",
        sa.Column("delegation_id", bytewise(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("actor", bytewise(193), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["delegation_id"],
            ["delegation_delegations.id"],
            name=op.f("fk_delegation_events_delegation_id"),
        ),
        sa.PrimaryKeyConstraint("delegation_id", "number", name=op.f("pk_delegation_events")),
    )
    make_append_only("delegation_events")


def create_delegations() -> None:
    op.create_table(
        "delegation_delegations",
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("execution", sa.String(8), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("requester_agent_id", bytewise(193), nullable=False),
        sa.Column("requester_owner_id", sa.String(36), nullable=False),
        sa.Column("delegate_agent_id", bytewise(193), nullable=False),
        sa.Column("delegate_owner_id", sa.String(36), nullable=False),
        sa.Column("delegate_version", bytewise(128), nullable=False),
        sa.Column("delegate_digest", sa.String(71), nullable=False),
        sa.Column("capability_id", sa.String(128), nullable=True),
        sa.Column("task_spec", sa.Text(), nullable=False),
        sa.Column("task_input", sa.Text(), nullable=True),
        sa.Column("estimated_micros", sa.BigInteger(), nullable=False),
        sa.Column("max_budget_micros", sa.BigInteger(), nullable=False),
        sa.Column("authorized_micros", sa.BigInteger(), nullable=False),
        sa.Column("metered_micros", sa.BigInteger(), nullable=False),
        sa.Column("held_micros", sa.BigInteger(), nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=True),
        sa.Column("breaker_level", sa.SmallInteger(), nullable=False),
        sa.Column("auto_reauthorize", sa.Boolean(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("policy_decision", sa.Text(), nullable=False),
        sa.Column("lease_seconds", sa.Integer(), nullable=False),
        sa.Column("deadline_seconds", sa.Integer(), nullable=False),
        sa.Column("review_seconds", sa.Integer(), nullable=False),
        sa.Column("lease_number", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(64), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deliverable", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        *checks(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delegation_delegations")),
    )


def checks() -> list[sa.CheckConstraint]:
    texts = {
        "execution_known": "execution IN ('inline', 'remote')",
        "live_or_closed": (
            "(status IN ('offered', 'in_progress', 'pending_reauthorization', 'input_required',"
            " 'delivered', 'disputed') AND due_at IS NOT NULL AND closed_at IS NULL"
            " AND charged_micros IS NULL)"
            " OR (status IN ('completed', 'failed_hard_stop', 'failed', 'declined', 'expired',"
            " 'cancelled') AND due_at IS NULL AND closed_at IS NOT NULL"
            " AND charged_micros IS NOT NULL)"
        ),
        "estimate": "estimated_micros > 0 AND estimated_micros <= max_budget_micros",
        "authorized": "authorized_micros > 0 AND authorized_micros <= max_budget_micros",
        "held": "held_micros > 0 AND held_micros <= max_budget_micros",
        "metered": "metered_micros >= 0",
        "charged": (
            "charged_micros IS NULL OR (charged_micros >= 0 AND charged_micros <= held_micros"
            " AND charged_micros <= metered_micros)"
        ),
        "breaker_level": "breaker_level IN (0, 80, 100, 120)",
        "two_agents": "requester_agent_id <> delegate_agent_id",
    }
    return [
        sa.CheckConstraint(text, name=op.f(f"ck_delegation_delegations_{name}"))
        for name, text in texts.items()
    ]


def create_indexes() -> None:
    table = "delegation_delegations"
    op.create_index("ix_delegation_delegations_created_at_id", table, ["created_at", "id"])
    for side in SIDES:
        op.create_index(
            f"ix_delegation_delegations_{side}_created_at_id", table, [side, "created_at", "id"]
        )
    # The clock runs for live delegations only, and only these are looked for by workers.
    live = sa.text("due_at IS NOT NULL")
    for name, columns in (
        (
            "ix_delegation_delegations_delegate_agent_id_status_id",
            ["delegate_agent_id", "status", "id"],
        ),
        ("ix_delegation_delegations_due_at", ["due_at"]),
    ):
        op.create_index(name, table, columns, sqlite_where=live, postgresql_where=live)


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
    for table in ("delegation_events", "delegation_delegations"):
        op.drop_table(table)
    if op.get_context().dialect.name != "sqlite":
        op.execute("DROP FUNCTION delegation_events_refuse()")
