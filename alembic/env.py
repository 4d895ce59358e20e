"""How Alembic reaches the database; runs for every ``alembic`` command and for ``agenthub up``.

Every scope has its own track (branch label). Steps are journalled in their own transaction, and a
command that changes the database holds a lock so that several servers may start at once.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from functools import partial
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from app import scopes
from app.access.pepper import known_pepper
from app.config import Settings, SettingsError
from app.ops.downgrade import FLAG, DataLossGuard, require_applied, require_flag, track_of
from app.ops.journal import record_step
from app.ops.tracks import migrating, migration_engine, require_recorded

config = context.config
if config.config_file_name is not None and config.attributes.get("configure_logging", True):
    fileConfig(config.config_file_name, disable_existing_loggers=False)
logger = logging.getLogger("alembic.env")

try:
    settings: Settings = config.attributes.get("settings") or Settings.from_env()
except SettingsError as error:
    raise CommandError(str(error)) from None
metadata = scopes.metadata()
if hasattr(config.cmd_opts, "cmd"):
    # A process of its own: what it writes, its owner alone reads.
    os.umask(0o077)
# Revisions import nothing of the application; one that needs the pepper calls this.
config.attributes["known_pepper"] = partial(known_pepper, settings)


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


def tracks_of_revisions() -> dict[str, str]:
    """Return the track of every revision in this folder of migrations."""
    return {
        revision.revision: next(iter(revision.branch_labels))
        for revision in context.script.walk_revisions()
    }


def step_kind() -> str | None:
    """Return ``upgrade`` or ``downgrade``; None for a command that runs no steps."""
    name = getattr(context.get_context().opts.get("fn"), "__name__", "")
    return name if name in ("upgrade", "downgrade") else None


def downgraded_track() -> str:
    """Return the one track that this downgrade takes down.

    Raises ``CommandError`` for a target that names more than one track, or none, and for a flag
    that names another one.
    """
    given, known = context.get_context().opts, tracks_of_revisions()
    track = track_of(given["destination_rev"], known)
    start = given.get("starting_rev")
    if start not in (None, f"{track}@head") and track_of(start, known) != track:
        raise CommandError(f"{start} is no revision of the track {track}")
    require_flag(context.get_x_argument(as_dictionary=True).get(FLAG), track)
    return track


def upgraded_tracks() -> list[str]:
    """Return the tracks that this upgrade may touch: the one it names, or all."""
    target = str(context.get_context().opts["destination_rev"])
    named = tracks_of_revisions().get(target, target.partition("@")[0])
    return [named] if named in scopes.SCOPES else list(scopes.SCOPES)


def command_with_loss(track: str) -> str:
    """Return the command line that repeats this downgrade and lets the track lose data."""
    files = getattr(config.cmd_opts, "config", None) or []
    chosen = "".join(f" -c {shlex.quote(file)}" for file in files)
    target = context.get_context().opts["destination_rev"]
    return f"alembic{chosen} -x {FLAG}={track} downgrade {target}"


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
    try:
        if given is not None:
            run_on(given)
        elif changes_database():
            with migrating(settings) as connection:
                run_on(connection)
        else:
            with migration_engine(settings, exclusive=False).connect() as connection:
                run_on(connection)
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise CommandError(f"the database refused: {reason}; nothing was changed") from error


def run_on(connection: sa.Connection) -> None:
    """Run the command on a connection."""
    guard = DataLossGuard(connection)
    context.configure(
        connection=connection,
        on_version_apply=[record_step, guard],
        **options(),
    )
    with context.begin_transaction():
        recorded = context.get_context().get_current_heads()
        if step_kind() == "upgrade":
            require_recorded(connection, recorded, upgraded_tracks())
        if step_kind() == "downgrade":
            track = downgraded_track()
            require_recorded(connection, recorded, [track])
            require_applied(track, context.get_context().opts["destination_rev"], recorded)
            if context.get_x_argument(as_dictionary=True).get(FLAG) is None:
                guard.look(command_with_loss(track))
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
    if step_kind() == "downgrade":
        downgraded_track()
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
