"""Counts of requests, shared by servers, and the record of what administrators did."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "access_0002"
down_revision: str | None = "access_0001"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE = "access_admin_actions"


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_request_counts",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("requests > 0", name=op.f("ck_access_request_counts_requests_counted")),
        sa.ForeignKeyConstraint(
            ["key_id"], ["access_api_keys.id"], name=op.f("fk_access_request_counts_key_id")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_access_request_counts")),
    )
    op.create_table(
        TABLE,
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=True),
        sa.Column("action", sa.String(255), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{TABLE}")),
    )
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
    op.drop_table("access_request_counts")
