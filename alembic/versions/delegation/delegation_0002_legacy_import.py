"""Records of the service before this one, and the journal of their import."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "delegation_0002"
down_revision: str | None = "delegation_0001"
branch_labels: Sequence[str] | None = None
depends_on: None = None

RUNS, RECORDS = "delegation_import_runs", "delegation_legacy_records"


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        RUNS,
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("total_micros", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('records', 'balances')", name=op.f(f"ck_{RUNS}_kind_known")),
        sa.PrimaryKeyConstraint("kind", name=op.f(f"pk_{RUNS}")),
    )
    op.create_table(
        RECORDS,
        sa.Column("id", bytewise(128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("requester_agent_id", bytewise(193), nullable=False),
        sa.Column("delegate_agent_id", bytewise(193), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{RECORDS}")),
    )
    op.create_index(f"ix_{RECORDS}_created_at_id", RECORDS, ["created_at", "id"])
    for side in ("requester_agent_id", "delegate_agent_id"):
        op.create_index(f"ix_{RECORDS}_{side}_created_at_id", RECORDS, [side, "created_at", "id"])
    for table in (RUNS, RECORDS):
        make_append_only(table)


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
    for table in (RECORDS, RUNS):
        op.drop_table(table)
        if op.get_context().dialect.name != "sqlite":
            op.execute(f"DROP FUNCTION {table}_refuse()")
