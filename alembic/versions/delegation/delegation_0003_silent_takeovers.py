"""How often work was taken over since its last sign of life."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "delegation_0003"
down_revision: str | None = "delegation_0002"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE, COLUMN = "delegation_delegations", "silent_takeovers"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column(COLUMN, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column(TABLE, COLUMN)
