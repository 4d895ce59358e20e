"""What becomes of the money, beside the status, and why it was paid as it was."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision: str = "delegation_0006"
down_revision: str | None = "delegation_0005"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE, CUTOVERS = "delegation_delegations", "delegation_cutovers"
ADDED = ("released_micros", "settlement", "settled_by")
LIVE = (
    "('offered', 'in_progress', 'pending_reauthorization', 'input_required', 'delivered',"
    " 'disputed')"
)
CLOSED = "('completed', 'failed_hard_stop', 'failed', 'declined', 'expired', 'cancelled')"

# Every other CHECK of the table, which SQLite makes anew with it.
KEPT = {
    "execution_known": "execution IN ('inline', 'remote')",
    "estimate": "estimated_micros > 0 AND estimated_micros <= max_budget_micros",
    "authorized": "authorized_micros > 0 AND authorized_micros <= max_budget_micros",
    "held": "held_micros > 0 AND held_micros <= max_budget_micros",
    "metered": "metered_micros >= 0",
    "charged": (
        "charged_micros IS NULL OR (charged_micros >= 0 AND charged_micros <= held_micros"
        " AND charged_micros <= metered_micros)"
    ),
    "breaker_level": "breaker_level IN (0, 80, 100, 120)",
    "two_agents": "requester_agent_id <> delegate_agent_id",
}
BEFORE = {
    "live_or_closed": (
        f"(status IN {LIVE} AND due_at IS NOT NULL AND closed_at IS NULL"
        f" AND charged_micros IS NULL) OR (status IN {CLOSED} AND due_at IS NULL"
        " AND closed_at IS NOT NULL AND charged_micros IS NOT NULL)"
    ),
}
AFTER = {
    "live_or_closed": (
        f"(status IN {LIVE} AND closed_at IS NULL)"
        f" OR (status IN {CLOSED} AND closed_at IS NOT NULL)"
    ),
    "settlement": (
        f"(settlement = 'settled' AND status NOT IN {LIVE}"
        " AND due_at IS NULL AND charged_micros IS NOT NULL AND settled_by IS NOT NULL)"
        " OR (due_at IS NOT NULL AND charged_micros IS NULL AND settled_by IS NULL AND ("
        "(settlement = 'open' AND status IN ('offered', 'in_progress',"
        " 'pending_reauthorization', 'input_required'))"
        " OR (settlement = 'in_review' AND status IN ('delivered', 'failed_hard_stop',"
        " 'failed', 'expired', 'cancelled'))"
        " OR (settlement = 'disputed' AND status IN ('disputed', 'failed_hard_stop',"
        " 'failed', 'expired', 'cancelled'))))"
    ),
    "settled_by": (
        "settled_by IS NULL OR settled_by IN ('accepted', 'reviewed', 'resolved', 'inline',"
        " 'before_reviews') OR (settled_by = 'nothing_due' AND charged_micros = 0)"
    ),
    "released": (
        "released_micros >= 0 AND released_micros + COALESCE(charged_micros, 0) <= held_micros"
    ),
}


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column(TABLE, released())
    op.add_column(TABLE, settlement())
    op.add_column(TABLE, settled_by())
    # What was paid was paid by the rules of its time; what was offered is held to the new ones.
    op.execute(
        f"UPDATE {TABLE} SET settlement = CASE"
        " WHEN status = 'delivered' THEN 'in_review' WHEN status = 'disputed' THEN 'disputed'"
        f" WHEN status IN {CLOSED} THEN 'settled' ELSE 'open' END,"
        f" settled_by = CASE WHEN status IN {LIVE} THEN NULL"
        " WHEN execution = 'inline' THEN 'inline' WHEN charged_micros = 0 THEN 'nothing_due'"
        " ELSE 'before_reviews' END"
    )
    change_checks(BEFORE, AFTER)
    op.create_table(
        CUTOVERS,
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("name IN ('reviews')", name=op.f(f"ck_{CUTOVERS}_name_known")),
        sa.PrimaryKeyConstraint("name", name=op.f(f"pk_{CUTOVERS}")),
    )
    op.execute(
        f"INSERT INTO {CUTOVERS} (name, at) SELECT 'reviews', max(closed_at) FROM {TABLE}"
        " WHERE settled_by = 'before_reviews' HAVING count(*) > 0"
    )
    make_append_only(CUTOVERS)


def released() -> sa.Column[int]:
    return sa.Column("released_micros", sa.BigInteger(), nullable=False, server_default="0")


def settlement() -> sa.Column[str]:
    return sa.Column("settlement", sa.String(12), nullable=False, server_default="open")


def settled_by() -> sa.Column[str]:
    return sa.Column("settled_by", sa.String(16), nullable=True)


def change_checks(dropped: dict[str, str], added: dict[str, str], lost: Sequence[str] = ()) -> None:
    """Drop and add CHECKs, and drop columns; SQLite makes the table anew for it."""
    present = table(KEPT | dropped)
    with op.batch_alter_table(TABLE, copy_from=present, recreate="auto") as batch:
        for name in dropped:
            batch.drop_constraint(op.f(f"ck_{TABLE}_{name}"), type_="check")
        for column in lost:
            batch.drop_column(column)
        for name, condition in added.items():
            batch.create_check_constraint(op.f(f"ck_{TABLE}_{name}"), sa.text(condition))


def table(checks: dict[str, str]) -> sa.Table:
    """Return the table as it is, with these CHECKs."""
    made = sa.Table(
        TABLE,
        sa.MetaData(),
        *columns(),
        *(
            sa.CheckConstraint(text, name=op.f(f"ck_{TABLE}_{name}"))
            for name, text in checks.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{TABLE}")),
    )
    at = ("created_at", "id")
    sides = ("requester_agent_id", "requester_owner_id", "delegate_agent_id", "delegate_owner_id")
    for names in (at, *((side, *at) for side in sides)):
        sa.Index(op.f(f"ix_{TABLE}_{'_'.join(names)}"), *(made.c[name] for name in names))
    live = made.c.due_at.is_not(None)
    for name, names in (
        ("waiting", ("delegate_agent_id", "status", "requester_owner_id", "id")),
        ("due_at", ("due_at",)),
    ):
        sa.Index(
            op.f(f"ix_{TABLE}_{name}"),
            *(made.c[one] for one in names),
            sqlite_where=live,
            postgresql_where=live,
        )
    return made


def columns() -> list[sa.Column[object]]:
    """Return every column of the table at this revision."""
    integer, micros, text = sa.Integer(), sa.BigInteger(), sa.Text()
    moment = sa.DateTime(timezone=True)
    required = {
        "id": bytewise(36),
        "execution": sa.String(8),
        "status": sa.String(24),
        "revision": integer,
        "events": integer,
        "requester_agent_id": bytewise(193),
        "requester_owner_id": sa.String(36),
        "delegate_agent_id": bytewise(193),
        "delegate_owner_id": sa.String(36),
        "delegate_version": bytewise(128),
        "delegate_digest": sa.String(71),
        "task_spec": text,
        "estimated_micros": micros,
        "max_budget_micros": micros,
        "authorized_micros": micros,
        "metered_micros": micros,
        "held_micros": micros,
        "breaker_level": sa.SmallInteger(),
        "auto_reauthorize": sa.Boolean(),
        "simulated": sa.Boolean(),
        "policy_decision": text,
        "lease_seconds": integer,
        "deadline_seconds": integer,
        "review_seconds": integer,
        "lease_number": integer,
        "created_at": moment,
        "updated_at": moment,
    }
    optional = {
        "capability_id": sa.String(128),
        "task_input": text,
        "charged_micros": micros,
        "delegate_min_deadline_seconds": integer,
        "lease_token": sa.String(64),
        "lease_expires_at": moment,
        "deadline_at": moment,
        "cancel_requested_at": moment,
        "due_at": moment,
        "deliverable": text,
        "closed_at": moment,
        "evidence": sa.SmallInteger(),
        "own_micros": micros,
    }
    return [
        *(sa.Column(name, kind, nullable=False) for name, kind in required.items()),
        *(sa.Column(name, kind, nullable=True) for name, kind in optional.items()),
        sa.Column("silent_takeovers", integer, nullable=False, server_default="0"),
        released(),
        settlement(),
        settled_by(),
    ]


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
    if not op.get_context().as_sql:
        require_none_in_review()
    op.drop_table(CUTOVERS)
    if op.get_context().dialect.name != "sqlite":
        op.execute(f"DROP FUNCTION {CUTOVERS}_refuse()")
    change_checks(AFTER, BEFORE, lost=ADDED)


def require_none_in_review() -> None:
    """Refuse to go back while money is in review: the earlier release could not say whose it is."""
    found = op.get_bind().scalar(
        sa.text(f"SELECT count(*) FROM {TABLE} WHERE due_at IS NOT NULL AND closed_at IS NOT NULL")
    )
    if found:
        raise CommandError(
            f"{found} delegations have ended and are not settled yet, which the earlier release"
            " cannot keep; accept or resolve them, or wait until they are settled"
        )
