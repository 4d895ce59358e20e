"""Metering events: reported use, each counted once for ever."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "ledger_0002"
down_revision: str | None = "ledger_0001"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE = "ledger_metering_events"
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("seq", NUMBER, autoincrement=True, nullable=False),
        sa.Column("source", bytewise(260), nullable=False),
        sa.Column("event_id", bytewise(128), nullable=False),
        sa.Column("payload_hash", sa.String(64), nullable=False),
        sa.Column("delegation_id", bytewise(36), nullable=True),
        sa.Column("actor", bytewise(193), nullable=False),
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("payer_owner_id", sa.String(36), nullable=True),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cost_micros >= 0", name=op.f("ck_ledger_metering_events_cost")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ledger_metering_events")),
        sa.UniqueConstraint(
            "source", "event_id", name=op.f("uq_ledger_metering_events_source_event_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_ledger_metering_events_delegation_id_seq",
        TABLE,
        ["delegation_id", "seq"],
        sqlite_where=sa.text("delegation_id IS NOT NULL"),
        postgresql_where=sa.text("delegation_id IS NOT NULL"),
    )
    op.create_index("ix_ledger_metering_events_owner_id_seq", TABLE, ["owner_id", "seq"])
    op.create_index(
        "ix_ledger_metering_events_payer_owner_id_seq",
        TABLE,
        ["payer_owner_id", "seq"],
        sqlite_where=sa.text("payer_owner_id IS NOT NULL"),
        postgresql_where=sa.text("payer_owner_id IS NOT NULL"),
    )
    make_append_only(TABLE)


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
    op.drop_table(TABLE)
    if op.get_context().dialect.name != "sqlite":
        op.execute(f"DROP FUNCTION {TABLE}_refuse()")
