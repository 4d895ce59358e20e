"""Sums of accounts are exact, or refused."""

from collections.abc import Sequence

from alembic import op

revision: str = "ledger_0003"
down_revision: str | None = "ledger_0002"
branch_labels: Sequence[str] | None = None
depends_on: None = None

NAME = "ck_ledger_accounts_exact"


def upgrade() -> None:
    with op.batch_alter_table("ledger_accounts") as batch:
        batch.create_check_constraint(op.f(NAME), "credits_micros <= 9223372036854775807")


def downgrade() -> None:
    with op.batch_alter_table("ledger_accounts") as batch:
        batch.drop_constraint(op.f(NAME), type_="check")
