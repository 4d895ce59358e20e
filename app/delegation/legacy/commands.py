"""The command ``agenthub import-legacy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.config import Settings
from app.delegation.legacy.files import BALANCES, RECORDS, Fault
from app.delegation.legacy.service import ImportRefused, Report, import_files, open_patiently
from app.ops.terminal import (
    Failure,
    console,
    json_option,
    new_table,
    open_database,
    print_json,
)

MAX_SHOWN = 100
MAX_NAMED = 10
_path = click.Path(dir_okay=False, path_type=Path)


@click.command("import-legacy")
@click.option("--records", type=_path, help="Default: AGENTHUB_DELEGATION_RECORDS_PATH.")
@click.option("--balances", type=_path, help="Default: AGENTHUB_DELEGATION_BALANCES_PATH.")
@click.option("--dry-run", is_flag=True, help="Check the files and import nothing.")
@json_option
def import_legacy(
    records: Path | None, balances: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Import delegations and balances of an earlier service: once, and all of them or nothing.

    Exit code 2 when a file is malformed, or another one was imported before.
    """
    with open_database() as (settings, _):
        pass
    given = {RECORDS: records, BALANCES: balances}
    paths = settings.legacy_paths | {kind: path for kind, path in given.items() if path}
    if not paths:
        raise Failure("name a file: --records FILE, --balances FILE")
    import_and_report(settings, paths, dry_run=dry_run, as_json=as_json)


def import_and_report(
    settings: Settings, paths: dict[str, Path], *, dry_run: bool = False, as_json: bool = False
) -> None:
    """Import files and print what became of them. Raises ``Failure``."""
    database = open_patiently(settings)
    try:
        report = import_files(database, paths, dry_run=dry_run)
    except ImportRefused as error:
        _print_faults(error.faults, as_json)
        raise Failure(str(error)) from None
    finally:
        database.dispose()
    if as_json:
        print_json({**vars(report), "files": [vars(one) for one in report.files]})
    else:
        _print_report(report)


def _print_report(report: Report) -> None:
    for one in report.files:
        total = "" if one.total_usd is None else f", {one.total_usd} USD"
        console.print(f"{one.file}: {one.rows} {one.kind} {one.state}{total}", soft_wrap=True)
    found = report.unregistered_agents
    if found:
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        console.print(
            f"{len(found)} agents with a balance are not registered; whoever registers one has its"
            f" money: {', '.join(found[:MAX_NAMED])}{more}",
            soft_wrap=True,
        )


def _print_faults(faults: list[Fault], as_json: bool) -> None:
    if as_json:
        print_json({"faults": [vars(fault) for fault in faults]})
    elif faults:
        table = new_table("file", "row", "field", "reason")
        for fault in faults[:MAX_SHOWN]:
            table.add_row(fault.file, _shown(fault.index), _shown(fault.field), fault.reason)
        console.print(table)
        if len(faults) > MAX_SHOWN:
            console.print(f"... and {len(faults) - MAX_SHOWN} more")


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
