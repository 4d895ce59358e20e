"""Owners and their API keys."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "access_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("access",)
depends_on: None = None


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_owners",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", bytewise(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_owners")),
        sa.UniqueConstraint("name", name=op.f("uq_access_owners_name")),
    )
    op.create_table(
        "access_api_keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_by", sa.String(16), nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'developer', 'admin')", name=op.f("ck_access_api_keys_role_known")
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["access_owners.id"], name=op.f("fk_access_api_keys_owner_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_api_keys")),
    )
    op.create_index(op.f("ix_access_api_keys_owner_id"), "access_api_keys", ["owner_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_access_api_keys_owner_id"), table_name="access_api_keys")
    op.drop_table("access_api_keys")
    op.drop_table("access_owners")
