"""Idempotency keys and the answers stored under them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "idempotency_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("idempotency",)
depends_on: None = None


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.String(36), nullable=False),
        sa.Column("key", bytewise(255), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("method", sa.String(8), nullable=False),
        sa.Column("route", sa.String(255), nullable=False),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("response_body", sa.LargeBinary(), nullable=True),
        sa.Column("response_headers", sa.Text(), nullable=True),
        sa.Column("resource", sa.String(512), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(
        op.f("ix_idempotency_keys_body_expires_at"),
        "idempotency_keys",
        ["body_expires_at"],
        sqlite_where=sa.text("response_body IS NOT NULL"),
        postgresql_where=sa.text("response_body IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_idempotency_keys_body_expires_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
