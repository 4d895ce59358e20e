"""The commands of ``agenthub snapshot``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from app.config import Settings
from app.ops.restored import ACTIVATE, activate
from app.ops.snapshot.archive import open_snapshot
from app.ops.snapshot.create import create, verify
from app.ops.snapshot.errors import SnapshotCorrupt
from app.ops.snapshot.manifest import Manifest
from app.ops.snapshot.progress import Report, Silence, Watch
from app.ops.snapshot.restore import restore
from app.ops.terminal import console, json_option, new_table, open_database, print_json

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def snapshot() -> None:
    """Snapshots: create, verify, inspect, restore, activate."""


@contextmanager
def _watching(as_json: bool) -> Iterator[Watch]:
    """Show progress, unless a program reads the output."""
    if as_json:
        yield Silence()
    else:
        with Report() as report:
            yield report


def _summary(manifest: Manifest) -> str:
    return (
        f"{manifest.rows:,} rows of {len(manifest.contents)} tables, taken {manifest.taken_at},"
        f" ledger sealed up to {manifest.ledger_digest.get('last_seq')}"
    )


def _print_manifest(manifest: Manifest, file: Path, as_json: bool, done: str) -> None:
    if as_json:
        print_json(manifest.document() | {"file": str(file), "bytes": file.stat().st_size})
    else:
        console.print(f"{file} {done}: {_summary(manifest)}.")


@snapshot.command("create")
@_file
@json_option
def create_snapshot(file: Path, as_json: bool) -> None:
    """Write everything the database holds now to FILE, which must not exist.

    The service goes on serving; the snapshot shows one instant. FILE holds the hashes of API keys
    and what agents told each other: only its owner may read it.
    """
    with open_database() as (_, database), _watching(as_json) as watch:
        manifest = create(database, file, watch)
    _print_manifest(manifest, file, as_json, "is complete")


@snapshot.command("verify")
@_file
@json_option
def verify_snapshot(file: Path, as_json: bool) -> None:
    """Hold every row in FILE to its manifest; needs no database. Exit code 1 if one differs."""
    try:
        with _watching(as_json) as watch, open_snapshot(file) as opened:
            verify(opened, watch)
            manifest = opened.manifest
    except SnapshotCorrupt as error:
        if as_json:
            print_json({"file": str(file), "fault": str(error)})
        else:
            console.print(f"{file} is corrupt: {error}", soft_wrap=True)
        sys.exit(1)
    _print_manifest(manifest, file, as_json, "is what was written")


@snapshot.command("inspect")
@_file
@json_option
def inspect_snapshot(file: Path, as_json: bool) -> None:
    """Show what FILE says it holds: tables, rows, revisions, the ledger's digest."""
    with open_snapshot(file) as opened:
        manifest = opened.manifest
    if as_json:
        print_json(manifest.document())
        return
    for name, value in _facts(manifest):
        console.print(f"{name:<14} {value}", soft_wrap=True)
    console.print()
    tables = new_table("table", "rows", "SHA-256 of its lines")
    for content in manifest.contents:
        tables.add_row(content.table.name, f"{content.rows:,}", content.sha256)
    console.print(tables)


def _facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    digest = {"block": None, "last_seq": None, "hash": None} | manifest.ledger_digest
    yield "taken at", manifest.taken_at
    yield "release", f"AgentHub {manifest.release} on {manifest.source}"
    yield "revisions", ", ".join(manifest.revisions.values())
    yield "ledger digest", f"block {digest['block']}, up to {digest['last_seq']}: {digest['hash']}"


@snapshot.command("restore")
@_file
@json_option
def restore_snapshot(file: Path, as_json: bool) -> None:
    """Fill the empty database of the settings with FILE, all of it and proven, or leave it.

    A database that is absent or not migrated is brought to the snapshot's revisions first, and
    after loading to those of this release.
    """
    settings = Settings.from_env()
    with _watching(as_json) as watch, open_snapshot(file) as opened:
        restored = restore(settings, opened, watch)
    if as_json:
        print_json(vars(restored))
        return
    where = settings.url.render_as_string(hide_password=True)
    console.print(
        f"{where} holds the {restored.rows:,} rows taken {restored.taken_at}; every rule of the"
        " ledger holds.\nThis copy sends no webhook and closes no delegation by itself until:"
        f" {ACTIVATE}",
        soft_wrap=True,
    )


@snapshot.command("activate")
@json_option
def activate_copy(as_json: bool) -> None:
    """Let a restored database send webhooks and close delegations whose time has run out.

    Do so when the copy takes the place of the database that the snapshot was taken from.
    """
    with open_database() as (_, database), database.transaction() as session:
        copy = activate(session)
    if as_json:
        print_json({"activated": copy is not None})
    elif copy is None:
        console.print("The database is no restored copy that is held.")
    else:
        console.print(f"The copy of {copy.taken_at} acts by itself from now on.")
