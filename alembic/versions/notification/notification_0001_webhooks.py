"""Subscriptions, events and deliveries of webhooks."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "notification_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("notification",)
depends_on: None = None

SUBSCRIPTIONS, EVENTS, DELIVERIES = (
    "notification_subscriptions",
    "notification_events",
    "notification_deliveries",
)


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def moment(name: str, *, nullable: bool = False) -> sa.Column:
    """Return a column that holds a time."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        SUBSCRIPTIONS,
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("owner_id", bytewise(36), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", sa.Text(), nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("disabled_reason", sa.String(255), nullable=True),
        sa.Column("secret_salt", sa.String(43), nullable=False),
        sa.Column("previous_salt", sa.String(43), nullable=True),
        moment("previous_expires_at", nullable=True),
        moment("failing_since", nullable=True),
        moment("created_at"),
        moment("updated_at"),
        sa.CheckConstraint(
            "status IN ('active', 'paused', 'disabled')",
            name=op.f(f"ck_{SUBSCRIPTIONS}_status_known"),
        ),
        sa.CheckConstraint(
            "(previous_salt IS NULL) = (previous_expires_at IS NULL)",
            name=op.f(f"ck_{SUBSCRIPTIONS}_previous"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{SUBSCRIPTIONS}")),
    )
    op.create_index(f"ix_{SUBSCRIPTIONS}_owner_id_id", SUBSCRIPTIONS, ["owner_id", "id"])
    op.create_table(
        EVENTS,
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        moment("occurred_at"),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{EVENTS}")),
    )
    op.create_index(op.f(f"ix_{EVENTS}_occurred_at"), EVENTS, ["occurred_at"])
    create_deliveries()
    create_search()


def create_deliveries() -> None:
    op.create_table(
        DELIVERIES,
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("event_id", bytewise(36), nullable=False),
        sa.Column("subscription_id", bytewise(36), nullable=False),
        sa.Column("status", sa.String(9), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        moment("next_attempt_at", nullable=True),
        moment("last_attempt_at", nullable=True),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("last_error", sa.String(255), nullable=True),
        moment("created_at"),
        moment("finished_at", nullable=True),
        sa.CheckConstraint(
            "(status = 'pending' AND next_attempt_at IS NOT NULL AND finished_at IS NULL)"
            " OR (status IN ('delivered', 'dead') AND next_attempt_at IS NULL"
            " AND finished_at IS NOT NULL)",
            name=op.f(f"ck_{DELIVERIES}_pending_or_finished"),
        ),
        sa.CheckConstraint(
            "attempts >= failures AND failures >= 0", name=op.f(f"ck_{DELIVERIES}_attempts")
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], [f"{EVENTS}.id"], name=op.f(f"fk_{DELIVERIES}_event_id")
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            [f"{SUBSCRIPTIONS}.id"],
            name=op.f(f"fk_{DELIVERIES}_subscription_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{DELIVERIES}")),
        sa.UniqueConstraint(
            "event_id", "subscription_id", name=op.f(f"uq_{DELIVERIES}_event_id_subscription_id")
        ),
    )
    for columns, rows in (
        (["subscription_id", "id"], None),
        (["subscription_id", "status", "id"], None),
        (["subscription_id", "next_attempt_at"], "next_attempt_at IS NOT NULL"),
        (["finished_at"], "finished_at IS NOT NULL"),
        (["id"], "status = 'dead'"),
    ):
        name = "dead" if columns == ["id"] else "_".join(columns)
        where = sa.text(rows) if rows else None
        op.create_index(
            f"ix_{DELIVERIES}_{name}",
            DELIVERIES,
            columns,
            sqlite_where=where,
            postgresql_where=where,
        )


def create_search() -> None:
    """Let PostgreSQL find who is to be told of a change, and hold off changes of that meanwhile.

    A transaction that changes subscriptions takes the same lock exclusively: so it waits for those
    that have looked for subscriptions and not ended yet, and those that look later wait for it. One
    call does both, since a statement sees what was committed before it began, not before its lock
    was free; each statement within a volatile function sees what was committed before that.
    """
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE FUNCTION notification_find_subscriptions(owners text[])"
        " RETURNS TABLE (id varchar, owner_id varchar, event_types text)"
        " LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
        " PERFORM pg_advisory_xact_lock_shared(7236840201374061);"
        " RETURN QUERY SELECT s.id, s.owner_id, s.event_types FROM notification_subscriptions s"
        " WHERE s.owner_id = ANY (owners) AND s.status = 'active' ORDER BY s.id;"
        " END $$"
    )


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION notification_find_subscriptions(text[])")
    op.drop_table(DELIVERIES)
    op.drop_table(EVENTS)
    op.drop_table(SUBSCRIPTIONS)
