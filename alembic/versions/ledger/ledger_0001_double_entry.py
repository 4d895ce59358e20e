"""Accounts, transactions, postings and seals."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "ledger_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("ledger",)
depends_on: None = None

# What was booked or sealed never changes; a correction is a further transaction.
APPEND_ONLY = ("ledger_transactions", "ledger_postings", "ledger_seals")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("id", bytewise(208), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("debits_micros", sa.BigInteger(), nullable=False),
        sa.Column("credits_micros", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('agent', 'escrow', 'system')", name=op.f("ck_ledger_accounts_kind_known")
        ),
        sa.CheckConstraint(
            "debits_micros >= 0 AND credits_micros >= debits_micros",
            name=op.f("ck_ledger_accounts_overdraft"),
        ),
        sa.CheckConstraint(
            "kind <> 'system' OR (debits_micros = 0 AND credits_micros = 0)",
            name=op.f("ck_ledger_accounts_system_derived"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_accounts")),
    )
    create_transactions()
    op.create_table(
        "ledger_seals",
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("block", name=op.f("pk_ledger_seals")),
        sa.UniqueConstraint("last_seq", name=op.f("uq_ledger_seals_last_seq")),
    )
    for table in APPEND_ONLY:
        make_append_only(table)


def create_transactions() -> None:
    op.create_table(
        "ledger_transactions",
        sa.Column("seq", NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("dedupe_key", bytewise(512), nullable=False),
        sa.Column("delegation_id", bytewise(36), nullable=True),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("reverses_id", bytewise(36), nullable=True),
        sa.Column("meta", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["reverses_id"],
            ["ledger_transactions.id"],
            name=op.f("fk_ledger_transactions_reverses_id"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ledger_transactions")),
        sa.UniqueConstraint("id", name=op.f("uq_ledger_transactions_id")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_ledger_transactions_dedupe_key")),
        sa.UniqueConstraint("reverses_id", name=op.f("uq_ledger_transactions_reverses_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_ledger_transactions_delegation_id_seq", "ledger_transactions", ["delegation_id", "seq"]
    )
    op.create_table(
        "ledger_postings",
        sa.Column("seq", NUMBER, autoincrement=False, nullable=False),
        sa.Column("leg", sa.Integer(), nullable=False),
        sa.Column("debit_account", bytewise(208), nullable=False),
        sa.Column("credit_account", bytewise(208), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_micros > 0", name=op.f("ck_ledger_postings_amount_positive")),
        sa.CheckConstraint(
            "debit_account <> credit_account", name=op.f("ck_ledger_postings_two_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["credit_account"],
            ["ledger_accounts.id"],
            name=op.f("fk_ledger_postings_credit_account"),
        ),
        sa.ForeignKeyConstraint(
            ["debit_account"], ["ledger_accounts.id"], name=op.f("fk_ledger_postings_debit_account")
        ),
        sa.ForeignKeyConstraint(
            ["seq"], ["ledger_transactions.seq"], name=op.f("fk_ledger_postings_seq")
        ),
        sa.PrimaryKeyConstraint("seq", "leg", name=op.f("pk_ledger_postings")),
    )
    for side in ("debit_account", "credit_account"):
        op.create_index(
            f"ix_ledger_postings_{side}_seq_leg", "ledger_postings", [side, "seq", "leg"]
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
    for table in ("ledger_seals", "ledger_postings", "ledger_transactions", "ledger_accounts"):
        op.drop_table(table)
    if op.get_context().dialect.name != "sqlite":
        for table in APPEND_ONLY:
            op.execute(f"DROP FUNCTION {table}_refuse()")
