"""Metering events."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "ledger_0002"
down_revision: str | None = "ledger_0001"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE = "ledger_metering_events"


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        TABLE,
        sa.Column("seq", number, autoincrement=True, nullable=False),
        sa.Column("source", bytewise(258), nullable=False),
        sa.Column("event_id", bytewise(128), nullable=False),
        sa.Column("payload_hash", sa.String(64), nullable=False),
        sa.Column("delegation_id", bytewise(36), nullable=True),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("owner_id", bytewise(36), nullable=False),
        sa.Column("payer_owner_id", bytewise(36), nullable=True),
        sa.Column("operation", sa.String(128), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cost_micros >= 0", name=op.f(f"ck_{TABLE}_cost_not_negative")),
        sa.PrimaryKeyConstraint("seq", name=op.f(f"pk_{TABLE}")),
        sa.UniqueConstraint("source", "event_id", name=op.f(f"uq_{TABLE}_source_event_id")),
        sqlite_autoincrement=True,
    )
    for column in ("delegation_id", "owner_id", "payer_owner_id"):
        op.create_index(f"ix_{TABLE}_{column}_seq", TABLE, [column, "seq"])
    make_append_only()


def make_append_only() -> None:
    """Refuse UPDATE, DELETE and (where it exists) TRUNCATE in the database itself."""
    message = f"{TABLE} is append-only"
    if op.get_context().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {TABLE}_no_{action.lower()} BEFORE {action} ON {TABLE}"
                f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    for action, level in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {TABLE}_no_{action.lower()} BEFORE {action} ON {TABLE}"
            f" FOR EACH {level} EXECUTE FUNCTION {TABLE}_refuse()"
        )


def downgrade() -> None:
    op.drop_table(TABLE)
    if op.get_context().dialect.name != "sqlite":
        op.execute(f"DROP FUNCTION {TABLE}_refuse()")
