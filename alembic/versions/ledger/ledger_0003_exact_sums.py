"""Sums of accounts are exact, or refused."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "ledger_0003"
down_revision: str | None = "ledger_0002"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE = "ledger_accounts"
EXACT = "credits_micros <= 9223372036854775807"
# Every other CHECK of the table, which SQLite makes anew with it.
KEPT = {
    "kind_known": "kind IN ('agent', 'escrow', 'system')",
    "overdraft": "debits_micros >= 0 AND credits_micros >= debits_micros",
    "system_derived": "kind <> 'system' OR (debits_micros = 0 AND credits_micros = 0)",
}


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def table(checks: dict[str, str]) -> sa.Table:
    """Return the table with these CHECKs; a script (--sql) has no database to ask for it."""
    return sa.Table(
        TABLE,
        sa.MetaData(),
        sa.Column("id", bytewise(208), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("debits_micros", sa.BigInteger(), nullable=False),
        sa.Column("credits_micros", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.CheckConstraint(text, name=op.f(f"ck_{TABLE}_{name}"))
            for name, text in checks.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{TABLE}")),
    )


def upgrade() -> None:
    with op.batch_alter_table(TABLE, copy_from=table(KEPT)) as batch:
        batch.create_check_constraint(op.f(f"ck_{TABLE}_exact"), sa.text(EXACT))


def downgrade() -> None:
    with op.batch_alter_table(TABLE, copy_from=table(KEPT | {"exact": EXACT})) as batch:
        batch.drop_constraint(op.f(f"ck_{TABLE}_exact"), type_="check")
