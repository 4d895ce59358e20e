"""How Alembic reaches the database; runs for every ``alembic`` command and for ``agenthub up``.

Every scope has its own track (branch label). Steps are journalled in their own transaction, and a
command that changes the database holds a lock so that several servers may start at once.
"""

from __future__ import annotations

import logging
import re
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from app import scopes
from app.config import Settings, SettingsError
from app.ops.journal import record_step
from app.ops.tracks import migrating, migration_engine

config = context.config
if config.config_file_name is not None and config.attributes.get("configure_logging", True):
    fileConfig(config.config_file_name, disable_existing_loggers=False)
logger = logging.getLogger("alembic.env")

try:
    settings: Settings = config.attributes.get("settings") or Settings.from_env()
except SettingsError as error:
    raise CommandError(str(error)) from None
metadata = scopes.metadata()


def command_scope() -> str | None:
    """Return the scope named by ``--branch-label``, ``--head scope@...`` or ``-x scope=...``."""
    options = config.cmd_opts
    label = getattr(options, "branch_label", None)
    head = getattr(options, "head", None) or ""
    scope = label or head.partition("@")[0] if "@" in head or label else None
    scope = scope or context.get_x_argument(as_dictionary=True).get("scope")
    if scope is not None and scope not in scopes.SCOPES:
        raise CommandError(f"unknown scope {scope!r}; scopes are {', '.join(scopes.SCOPES)}")
    return scope


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Compare only tables of a scope, and only of this command's scope when it names one."""
    if kind != "table":
        return True
    scope = scopes.scope_of_table(name or "")
    return scope is not None and scope == (command_scope() or scope)


def include_object(_object: Any, name: str | None, kind: str, _reflected: bool, _to: Any) -> bool:
    """Apply ``include_name`` to tables of the models too, which Alembic does not."""
    return include_name(name, kind, {})


def shape_revision(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """Number a new revision within its scope; refuse one on another track and an empty one.

    Tables of other scopes need no refusal here: ``include_name`` keeps them out of the comparison.
    """
    if not hasattr(config.cmd_opts, "autogenerate"):
        return  # ``alembic check`` compares without writing a revision.
    script = directives[0]
    if config.cmd_opts.autogenerate and script.upgrade_ops.is_empty():
        directives[:] = []
        logger.warning("Models and database agree; no revision was written.")
        return
    scope = command_scope()
    if scope is None:
        raise CommandError("name the track of the revision: --head SCOPE@head")
    for parent in context.script.get_revisions(script.head):
        if parent is not None and scope not in parent.branch_labels:
            raise CommandError(f"{parent.revision} is no revision of the track {scope}")
    existing = [
        int(match[1])
        for revision in context.script.walk_revisions()
        if (match := re.fullmatch(rf"{scope}_([0-9]{{4}})", revision.revision))
    ]
    script.rev_id = f"{scope}_{max(existing, default=0) + 1:04d}"


class DataLossGuard:
    """Refuse a downgrade step that drops a column or a table holding rows, unless told to.

    The command says so with ``-x allow-data-loss=yes``. Raising inside the hook rolls back the
    whole downgrade, the dropped objects included: DDL is transactional on both databases.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.columns: dict[str, set[str]] = {}

    def look(self) -> None:
        """Note the columns of every table that holds rows, in the transaction of the steps."""
        self.columns = {
            table: columns
            for table, columns in self._reflect().items()
            if self.connection.scalar(
                sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)
            )
        }

    def _reflect(self) -> dict[str, set[str]]:
        inspector = sa.inspect(self.connection)
        inspector.clear_cache()
        return {
            table: {column["name"] for column in inspector.get_columns(table)}
            for table in inspector.get_table_names()
            if scopes.scope_of_table(table)
        }

    def __call__(self, *, ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        if step.is_stamp or step.is_upgrade:
            return
        present = self._reflect()
        lost = [
            table if table not in present else f"{table}.{column}"
            for table, columns in sorted(self.columns.items())
            for column in sorted(columns - present.get(table, set()))
        ]
        if lost:
            raise CommandError(
                f"downgrade of {step.up_revision_id} would destroy the data in"
                f" {', '.join(dict.fromkeys(lost))}; nothing was changed. Take a backup, then"
                " repeat with: alembic -x allow-data-loss=yes downgrade ..."
            )


def options() -> dict[str, Any]:
    """Return what online and offline runs configure alike.

    One transaction holds the whole command, so that an upgrade or a downgrade of several steps and
    tracks happens entirely or not at all.
    """
    return {
        "target_metadata": metadata,
        "include_name": include_name,
        "include_object": include_object,
        "transactional_ddl": True,
        "transaction_per_migration": False,
        "render_as_batch": True,
        "compare_server_default": True,
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        "process_revision_directives": shape_revision,
    }


def changes_database() -> bool:
    """Tell whether the command applies or stamps revisions; others need no lock."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run_online() -> None:
    """Run the command on the configured database, one at a time if it changes anything.

    Who gives a connection of its own has the lock, and decides when its transaction ends.
    """
    given: sa.Connection | None = config.attributes.get("connection")
    if given is not None:
        run_on(given)
    elif changes_database():
        with migrating(settings) as connection:
            run_on(connection)
    else:
        with migration_engine(settings, exclusive=False).connect() as connection:
            run_on(connection)


def run_on(connection: sa.Connection) -> None:
    """Run the command on a connection."""
    guard = DataLossGuard(connection)
    context.configure(
        connection=connection,
        on_version_apply=[record_step, guard],
        **options(),
    )
    with context.begin_transaction():
        if changes_database():
            allowed = context.get_x_argument(as_dictionary=True).get("allow-data-loss")
            if allowed != "yes":
                guard.look()
        context.run_migrations()
        if settings.is_sqlite and changes_database():
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            if broken:
                raise CommandError(f"the step leaves dangling references: {broken[:5]}")


def run_offline() -> None:
    """Write the SQL of the command to standard output (``--sql``)."""
    context.configure(
        url=settings.url,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        on_version_apply=record_step,
        **options(),
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
