"""What closed delegations are evidence of, and what owners earned and spent."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "delegation_0005"
down_revision: str | None = "delegation_0004"
branch_labels: Sequence[str] | None = None
depends_on: None = None

DELEGATIONS, TURNOVERS = "delegation_delegations", "delegation_owner_turnovers"
CHUNK = 1000


def upgrade() -> None:
    op.add_column(DELEGATIONS, sa.Column("evidence", sa.SmallInteger(), nullable=True))
    op.add_column(DELEGATIONS, sa.Column("own_micros", sa.BigInteger(), nullable=True))
    op.create_table(
        TURNOVERS,
        sa.Column(
            "owner_id",
            sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("earned_micros", sa.BigInteger(), nullable=False),
        sa.Column("spent_micros", sa.BigInteger(), nullable=False),
        sa.Column("own_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "earned_micros >= 0 AND spent_micros >= 0 AND own_micros >= 0"
            " AND own_micros <= spent_micros",
            name=op.f(f"ck_{TURNOVERS}_sums"),
        ),
        sa.PrimaryKeyConstraint("owner_id", name=op.f(f"pk_{TURNOVERS}")),
    )
    # The release of this revision would have said so of the delegations that are closed already,
    # but for the deadlines that delegates name, which another track holds.
    op.execute(
        f"UPDATE {DELEGATIONS} SET evidence = CASE"
        " WHEN execution <> 'remote' OR requester_owner_id = delegate_owner_id THEN 0"
        " WHEN status = 'completed' AND charged_micros > 0 THEN 1"
        " WHEN status = 'completed' AND metered_micros > 0 THEN -1"
        " WHEN status = 'failed' AND (cancel_requested_at IS NOT NULL OR lease_seconds < 10) THEN 0"
        " WHEN status IN ('failed', 'failed_hard_stop') THEN -1"
        " ELSE 0 END WHERE closed_at IS NOT NULL"
    )
    if not op.get_context().as_sql:
        replay(op.get_bind())


def replay(connection: sa.Connection) -> None:
    """Count what owners earned and spent, in order, and what of each payment was their own."""
    columns = ("id", "evidence", "requester_owner_id", "delegate_owner_id", "charged_micros")
    table = sa.table(DELEGATIONS, *(sa.column(name) for name in (*columns, "own_micros")))
    closed = connection.execute(
        sa.text(
            f"SELECT {', '.join(columns)} FROM {DELEGATIONS} WHERE charged_micros > 0"
            " AND requester_owner_id <> delegate_owner_id ORDER BY closed_at, id"
        )
    )
    change = (
        table.update()
        .where(table.c.id == sa.bindparam("delegation"))
        .values(own_micros=sa.bindparam("own"))
    )
    earned: defaultdict[str, int] = defaultdict(int)
    spent: defaultdict[str, int] = defaultdict(int)
    own: defaultdict[str, int] = defaultdict(int)
    changes: list[dict[str, Any]] = []
    for row in closed.all():
        payer, charge = row.requester_owner_id, row.charged_micros
        earned[row.delegate_owner_id] += charge
        spent[payer] += charge
        more = max(0, spent[payer] - earned[payer] - own[payer])
        own[payer] += more
        if row.evidence:
            changes.append({"delegation": row.id, "own": more})
    for start in range(0, len(changes), CHUNK):
        connection.execute(change, changes[start : start + CHUNK])
    turnovers = sa.table(
        TURNOVERS,
        *(sa.column(name) for name in ("owner_id", "earned_micros", "spent_micros", "own_micros")),
    )
    rows = [
        {
            "owner_id": owner_id,
            "earned_micros": earned[owner_id],
            "spent_micros": spent[owner_id],
            "own_micros": own[owner_id],
        }
        for owner_id in sorted(earned.keys() | spent.keys())
    ]
    if rows:
        connection.execute(turnovers.insert(), rows)


def downgrade() -> None:
    op.drop_table(TURNOVERS)
    op.drop_column(DELEGATIONS, "own_micros")
    op.drop_column(DELEGATIONS, "evidence")
