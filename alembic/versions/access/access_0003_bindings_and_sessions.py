"""What keys' rows grant is tied to the pepper, and sessions of the console end on the server."""

import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision: str = "access_0003"
down_revision: str | None = "access_0002"
branch_labels: Sequence[str] | None = None
depends_on: None = None

TABLE = "access_api_keys"
PURPOSE = b"agenthub key binding\x01"
KEYS = sa.table(
    TABLE,
    sa.column("id", sa.String),
    sa.column("secret_hash", sa.String),
    sa.column("owner_id", sa.String),
    sa.column("role", sa.String),
    sa.column("expires_at", sa.DateTime(timezone=True)),
    sa.column("revoked_at", sa.DateTime(timezone=True)),
    sa.column("binding", sa.String),
)


def upgrade() -> None:
    op.create_table(
        "access_ended_sessions",
        sa.Column("id", sa.String(43), nullable=False),
        sa.Column("over_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_ended_sessions")),
    )
    op.add_column(TABLE, sa.Column("binding", sa.String(64), nullable=True))
    # A script knows neither the keys nor the pepper; ``agenthub keys bind`` then does this.
    if not context.is_offline_mode():
        bind(op.get_bind())


def bind(connection: sa.Connection) -> None:
    """Bind every key as it is."""
    rows = connection.execute(sa.select(*(c for c in KEYS.c if c.name != "binding"))).all()
    if not rows:
        return
    secret = pepper()
    connection.execute(
        sa.update(KEYS)
        .where(KEYS.c.id == sa.bindparam("key_id"))
        .values(binding=sa.bindparam("bound")),
        [{"key_id": row.id, "bound": binding(secret, row)} for row in rows],
    )


def binding(secret: bytes, row: sa.Row) -> str:
    """Return what ``app.access.binding`` returns."""
    times = [time(row.expires_at), time(row.revoked_at)]
    granted = json.dumps(
        [row.id, row.secret_hash, row.owner_id, row.role, *times],
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return hmac.digest(secret, PURPOSE + granted.encode(), "sha256").hex()


def time(moment: datetime | None) -> str | None:
    """Return a moment in UTC to the microsecond; SQLite keeps it without saying so."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds")


def pepper() -> bytes:
    """Return the pepper of the service whose keys these are."""
    found: bytes | None = context.config.attributes["known_pepper"]()
    if found is None:
        raise CommandError(
            "the keys in this database cannot be bound without the pepper of their service, so"
            " nothing was changed: set AGENTHUB_KEY_PEPPER to it, or AGENTHUB_DATA_DIR to the"
            " folder with its file key-pepper. If it is lost, no key works any more: set a new one"
        )
    return found


def downgrade() -> None:
    op.drop_column(TABLE, "binding")
    op.drop_table("access_ended_sessions")
