"""The commands of ``agenthub`` that are of no scope: the server, keys, tracks, the demonstration.

``app.cli`` loads them when one is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence, Set
from datetime import timedelta
from functools import wraps
from typing import Any

import click
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app import clock
from app.access import audit
from app.access import service as access
from app.access.files import write_secret
from app.access.pepper import find_pepper, load_pepper
from app.config import METRICS_FOLDER, PREFIX, Settings, SettingsError
from app.db import Database
from app.delegation.legacy.commands import import_and_report
from app.errors import DomainError
from app.ops import demo as demonstration
from app.ops import demo_delegation as delegation
from app.ops import doctor as diagnosis
from app.ops import tracks as migration
from app.ops.client import Call, CallFailed, send
from app.ops.deliverer import deliver_due
from app.ops.maintenance import sweep as sweep_overdue
from app.ops.restored import ACTIVATE, CopyHeld, held_copy, require_active
from app.ops.server import AddressUnavailable, StartFailed, require_address, shared_counts
from app.ops.server import serve as run_server
from app.ops.snapshot.errors import SnapshotRefused
from app.ops.terminal import (
    Failure,
    console,
    json_option,
    new_table,
    open_database,
    print_json,
    require_database_file,
    show_time,
)
from app.ops.tracks import OutdatedSchema

DEMO_KEYS_LIVE = timedelta(hours=1)

# What a command may find that the operator can mend; the message says how.
EXPECTED = (
    SettingsError,
    OutdatedSchema,
    AddressUnavailable,
    StartFailed,
    CommandError,
    SnapshotRefused,
    CopyHeld,
)


def explain(error: Exception) -> str | None:
    """Return what an operator can do about an error that a command raised; None if nothing."""
    if isinstance(error, EXPECTED):
        return str(error)
    if isinstance(error, DomainError):
        return error.detail
    if isinstance(error, SQLAlchemyError):
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return f"the database refused: {reason}; see: agenthub doctor"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename2 or error.filename}"
    return None


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that override settings for one server, and put them where workers look."""

    @click.option("--host", help="Address to listen on; default 127.0.0.1.")
    @click.option("--port", type=click.IntRange(1, 65535), help="Port; default 8080.")
    @click.option("--workers", type=click.IntRange(1, 256), help="Server processes; default 2.")
    @wraps(command)
    def with_options(host: str | None, port: int | None, workers: int | None) -> None:
        for name, value in (("HOST", host), ("PORT", port), ("WORKERS", workers)):
            if value is not None:
                os.environ[PREFIX + name] = str(value)
        command(Settings.from_env())

    return with_options


@click.command()
@server_options
def up(settings: Settings) -> None:
    """Bring the database to this release's schema and serve.

    On the first start an admin API key is made. It is shown on a terminal; where the output goes
    elsewhere, it is written to a file of the data folder that only its owner reads. Files of an
    earlier service that the settings name are imported once.
    """
    require_address(settings)
    # None is made before the upgrade, which needs the one that keys of an earlier release have.
    find_pepper(settings)
    migration.upgrade_all(settings)
    if settings.legacy_paths:
        import_and_report(settings, settings.legacy_paths)
    database = Database(settings)
    _make_first_key(settings, database, load_pepper(settings))
    _tell_of_copy(database)
    database.dispose()
    _serve(settings)


def _make_first_key(settings: Settings, database: Database, pepper: bytes) -> None:
    """Make the admin key of a database without keys, and hand it to whoever started the service.

    Output that is no terminal ends in logs, which others read and which are kept.
    """
    path = settings.data_dir / access.ADMIN_KEY_FILE
    shown = sys.stdout.isatty()
    with database.transaction() as session:
        key = access.bootstrap_admin(session, pepper)
        if key is None:
            return
        audit.record_command(session, "first start", f"{key.id} of {key.owner}, {key.role}")
        if not shown:
            # Before the key is anybody's. Should the commit fail, the next start writes another.
            write_secret(path, key.secret, replace=True)
    if shown:
        console.print("Admin API key, shown this once:\n\n    " + key.secret + "\n")
    else:
        console.print(f"Admin API key {key.id} is in {path.absolute()}; keep it elsewhere")


@click.command()
@server_options
def serve(settings: Settings) -> None:
    """Serve a database that is migrated already; refuse one that is not."""
    require_address(settings)
    with open_database() as (_, database):
        load_pepper(settings)
        _tell_of_copy(database)
    _serve(settings)


def _tell_of_copy(database: Database) -> None:
    """Say of a restored copy that it does not act by itself yet."""
    with database.read() as connection:
        copy = held_copy(connection)
    if copy is not None:
        console.print(f"This is {copy}, until: {ACTIVATE}")


def _serve(settings: Settings) -> None:
    address = settings.link
    where = settings.url.render_as_string(hide_password=True)
    console.print(
        f"AgentHub serves {where}\n  agents   {address}\n  API      {address}/v1\n"
        f"  docs     {address}/docs\n  console  {address}/operator"
    )
    if settings.listens_everywhere and settings.allowed_hosts is None:
        console.print("  Only loopback hosts are answered; allow others: AGENTHUB_ALLOWED_HOSTS")
    sys.stdout.flush()
    with shared_counts() as folder:
        os.environ[METRICS_FOLDER] = folder
        run_server(settings)


@click.group()
def keys() -> None:
    """API keys: create, list, revoke, rotate, bind."""


def _show_key(key: access.NewKey, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "key": key.secret,
                "id": key.id,
                "owner": key.owner,
                "role": key.role,
                "created_at": key.created_at,
                "expires_at": key.expires_at,
            }
        )
        return
    console.print(f"API key {key.id} of {key.owner} ({key.role}), shown this once:\n")
    console.print("    " + key.secret)


@keys.command("create")
@click.option("--owner", required=True, help="Who the key belongs to; made if there is no such.")
@click.option("--role", required=True, type=click.Choice(access.ROLES), help="What it may do.")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Days until it expires.")
@json_option
def create_key(owner: str, role: str, expires_days: int | None, as_json: bool) -> None:
    """Create an API key and show it once."""
    expires_at = clock.now() + timedelta(days=expires_days) if expires_days else None
    with open_database() as (settings, database), database.transaction() as session:
        key = access.create_key(
            session,
            load_pepper(settings),
            owner,
            role,
            expires_at,
            quota=settings.quota_keys,
        )
        audit.record_command(session, "keys create", f"{key.id} of {owner}, {role}")
    _show_key(key, as_json)


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List every key: whose, what role, when last used; never the key itself."""
    with open_database() as (settings, database), database.read() as connection:
        rows = access.list_keys(connection, load_pepper(settings))
    if as_json:
        print_json(rows)
        return
    table = new_table(
        "id", "owner", "role", "genuine", "created", "last used", "expires", "revoked"
    )
    for row in rows:
        times = (
            show_time(row[f"{name}_at"]) for name in ("created", "last_used", "expires", "revoked")
        )
        genuine = "yes" if row["genuine"] else "no"
        table.add_row(str(row["id"]), str(row["owner"]), str(row["role"]), genuine, *times)
    console.print(table)


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """Revoke a key: from now on it is refused."""
    with open_database() as (settings, database), database.transaction() as session:
        access.revoke_key(session, load_pepper(settings), key_id)
        audit.record_command(session, "keys revoke", key_id)
    console.print(f"API key {key_id} is revoked.")


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace-hours",
    type=click.IntRange(0, 24 * 90),
    default=0,
    show_default=True,
    help="Hours that the old key stays valid.",
)
@json_option
def rotate_key(key_id: str, grace_hours: int, as_json: bool) -> None:
    """Replace a key by a new one of the same owner and role, and show it once."""
    with open_database() as (settings, database), database.transaction() as session:
        grace = timedelta(hours=grace_hours)
        key = access.rotate_key(session, load_pepper(settings), key_id, grace)
        audit.record_command(session, "keys rotate", f"{key_id} to {key.id}")
    _show_key(key, as_json)


@keys.command("bind")
@click.argument("key_ids", nargs=-1, required=True, metavar="KEY_ID...")
def bind_keys(key_ids: tuple[str, ...]) -> None:
    """Accept keys as they are in the database, though their rows were written without the pepper.

    For keys that `agenthub keys list` shows as not genuine and whose owner, role and times you know
    to be right: after an upgrade by script, or with the wrong pepper.
    """
    with open_database() as (settings, database), database.transaction() as session:
        for key_id in key_ids:
            found = access.bind_key(session, load_pepper(settings), key_id)
            audit.record_command(
                session, "keys bind", f"{key_id} of {found.owner_name}, {found.role}"
            )
            console.print(f"API key {key_id} of {found.owner_name} ({found.role}) is accepted.")


@click.command()
@json_option
def tracks(as_json: bool) -> None:
    """Show every migration track and its journal.

    Exit code 0: all current. 1: one is behind or absent. 2: one has a revision this release does
    not know.
    """
    settings = Settings.from_env()
    require_database_file(settings)
    database = Database(settings)
    with database.read() as connection:
        found = migration.read_tracks(connection)
        journal = migration.read_journal(connection)
    database.dispose()
    if as_json:
        print_json({"tracks": [vars(track) for track in found], "journal": journal})
    else:
        _print_tracks(found, journal)
    states = {track.state for track in found}
    sys.exit(2 if migration.UNKNOWN in states else 0 if states == {migration.CURRENT} else 1)


def _print_tracks(found: Sequence[migration.Track], journal: Sequence[dict[str, Any]]) -> None:
    table = new_table("track", "state", "revision", "head", "what to do")
    for track in found:
        table.add_row(
            track.scope, track.state, track.revision or "-", track.head or "-", track.remedy or "-"
        )
    console.print(table)
    console.print()
    history = new_table("applied (UTC)", "track", "direction", "revision")
    for step in journal:
        history.add_row(
            show_time(step["applied_at"]), step["scope"], step["direction"], step["revision"]
        )
    console.print(history)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Look at settings, database, tracks, keys and disk, and say what to do. Exit code 1 if so."""
    settings = Settings.from_env()
    findings = diagnosis.examine(settings)
    if as_json:
        print_json(
            {
                "findings": [vars(finding) for finding in findings],
                "settings": {name: value for name, value, _ in settings.describe()},
            }
        )
    else:
        table = new_table("", "subject", "finding", "what to do")
        for finding in findings:
            mark = "ok" if finding.ok else "!!"
            table.add_row(mark, finding.subject, finding.detail, finding.remedy or "")
        console.print(table)
        console.print()
        values = new_table("setting", "value", "meaning")
        for row in settings.describe():
            values.add_row(*row)
        console.print(values)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@click.command()
@json_option
def sweep(as_json: bool) -> None:
    """Close the delegations whose time has run out. A running server does so every two seconds."""
    with open_database() as (_, database):
        with database.read() as connection:
            require_active(connection)
        closed = sweep_overdue(database)
    if as_json:
        print_json({"closed": closed})
    else:
        console.print(f"{len(closed)} overdue delegations closed.")


@click.command("deliver-webhooks")
@json_option
def deliver_webhooks(as_json: bool) -> None:
    """Attempt every webhook delivery that is due. A running server does so every second."""
    with open_database() as (settings, database):
        with database.read() as connection:
            require_active(connection)
        counts = deliver_due(database, load_pepper(settings))
    if as_json:
        print_json({name: counts[name] for name in ("delivered", "failed", "dead")})
    else:
        console.print(
            f"{counts['delivered']} delivered, {counts['failed']} to be tried again,"
            f" {counts['dead']} dead."
        )


@click.command()
@click.option(
    "--url", envvar="AGENTHUB_URL", default="http://127.0.0.1:8080", show_default=True,
    help="Where the service answers.",
)  # fmt: skip
@click.option(
    "--api-key", envvar="AGENTHUB_API_KEY",
    help="Key of role developer; without it all keys are made in the local database.",
)  # fmt: skip
@click.option(
    "--worker-key", envvar="AGENTHUB_WORKER_KEY",
    help="Key of role developer of another owner, whose worker does the delegated task.",
)  # fmt: skip
@click.option(
    "--operator-key", envvar="AGENTHUB_OPERATOR_KEY",
    help="Key of role admin, which brings money in.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show every call as a curl line.")
def demo(
    url: str,
    api_key: str | None,
    worker_key: str | None,
    operator_key: str | None,
    verbose: bool,
) -> None:
    """Register agents over HTTP, delegate work between them, and show calls as curl lines.

    It can be run again: agents are registered once, and each run delegates anew.
    """
    url = url.rstrip("/")
    keys = {
        "AGENTHUB_API_KEY": api_key,
        "AGENTHUB_WORKER_KEY": worker_key,
        "AGENTHUB_OPERATOR_KEY": operator_key,
    }
    try:
        send(url, "", Call("", "GET", "/healthz"))
        given = {name: key for name, key in keys.items() if key}
        if api_key is None:
            given |= _make_demo_keys(keys.keys() - given.keys())
        callers = {
            name: demonstration.Caller(url, key, name, verbose) for name, key in given.items()
        }
        requester = callers["AGENTHUB_API_KEY"]
        for call in demonstration.calls():
            requester.make_once(call)
        if len(callers) < len(keys):
            console.print("Give --worker-key and --operator-key to see work delegated, too.")
            return
        told = delegation.run(
            requester, callers["AGENTHUB_WORKER_KEY"], callers["AGENTHUB_OPERATOR_KEY"]
        )
        _tell_of_demo(url, told, verbose)
    except CallFailed as error:
        raise Failure(str(error)) from None


def _tell_of_demo(url: str, told: delegation.Told, verbose: bool) -> None:
    """Say what the demonstration did, where to look at it, and show the calls that tell most."""
    if not verbose:
        for caller, call, answer in told:
            caller.show(call, answer)
    _, _, offered = told[0]
    _, _, accepted = told[1]
    click.echo(
        f"{delegation.REQUESTER} delegated a task to another owner's {delegation.DELEGATE}.\n"
        f"A worker process did it, was paid {accepted['charged_usd']} USD, and"
        f" {accepted['refunded_usd']} USD went back. Look at it:\n\n"
        f"  the agent       {url}/agents/{delegation.DELEGATE}\n"
        f"  the delegation  {url}/operator/delegations/{offered['delegation_id']}\n"
    )
    if not verbose:
        click.echo("Repeat the calls above, or change them; --verbose shows all of them.")


def _make_demo_keys(variables: Set[str]) -> dict[str, str]:
    """Make keys of the demonstration in the local database and show them."""
    owners = {
        "AGENTHUB_API_KEY": ("demo", "developer"),
        "AGENTHUB_WORKER_KEY": ("demo-partner", "developer"),
        "AGENTHUB_OPERATOR_KEY": ("demo-operator", "admin"),
    }
    expires_at = clock.now() + DEMO_KEYS_LIVE
    made = {}
    with open_database() as (settings, database), database.transaction() as session:
        pepper = load_pepper(settings)
        for name in sorted(variables):
            owner, role = owners[name]
            made[name] = access.create_key(session, pepper, owner, role, expires_at).secret
    click.echo("# Keys for these calls; they expire in an hour")
    for name, key in made.items():
        click.echo(f"export {name}={key}")
    click.echo()
    return made
