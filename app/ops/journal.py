"""The schema journal: one row for every migration step that was ever applied to a database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app import clock
from app.db import UTCDateTime

# The journal belongs to no scope and to no track: it must exist before the first step of any.
_metadata = sa.MetaData()
JOURNAL = sa.Table(
    "schema_journal",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("scope", sa.String(32), nullable=False),
    sa.Column("revision", sa.String(32), nullable=False),
    sa.Column("direction", sa.String(9), nullable=False),
    sa.Column("applied_at", UTCDateTime, nullable=False),
    sa.CheckConstraint(
        "direction IN ('upgrade', 'downgrade', 'stamp')", name="ck_schema_journal_direction"
    ),
)


def record_step(*, ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    """Journal one applied step in the step's own transaction; an Alembic ``on_version_apply`` hook.

    With ``--sql`` the statements are rendered into the script like those of the step itself, and
    the database's clock tells when they were applied. The revision of a downgrade is the one
    undone, that of a stamp the newer of the two it moves between.
    """
    direction = "stamp" if step.is_stamp else "upgrade" if step.is_upgrade else "downgrade"
    ctx.impl.execute(sa.schema.CreateTable(JOURNAL, if_not_exists=True))
    for revision in step.up_revisions:
        (scope,) = revision.branch_labels
        ctx.impl.execute(
            JOURNAL.insert()
            .inline()
            .values(
                scope=scope,
                revision=revision.revision,
                direction=direction,
                applied_at=sa.func.now() if ctx.as_sql else clock.now(),
            )
        )
