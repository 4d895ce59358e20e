"""``agenthub readiness``: go or no-go, as a table or as JSON."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click

from app.ops.funnel import RATES, FunnelUnusable
from app.ops.journey import Journey
from app.ops.readiness import (
    FAIL,
    Check,
    check_backups,
    check_configuration,
    check_database,
    check_funnel,
    check_journey,
    is_go,
)
from app.ops.terminal import Failure, console, json_option, new_table, open_database, print_json

MARKS = {"pass": "ok", "warn": "?", "fail": "!!"}
_share = click.FloatRange(0, 1)


@click.command()
@click.option(
    "--url", envvar="AGENTHUB_URL", default="http://127.0.0.1:8080", show_default=True,
    help="Where clients reach the service.",
)  # fmt: skip
@click.option(
    "--operator-key", envvar="AGENTHUB_OPERATOR_KEY", required=True,
    help="Key of role admin, which makes the journey.",
)  # fmt: skip
@click.option(
    "--backups", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of snapshots (*.snapshot); default: AGENTHUB_SNAPSHOT_DIR.",
)  # fmt: skip
@click.option(
    "--backup-hours", default=26, show_default=True, type=click.IntRange(1),
    help="How old the newest backup may be.",
)  # fmt: skip
@click.option(
    "--funnel", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON file of the onboarding funnel.",
)  # fmt: skip
@click.option("--min-signup", default=RATES["signup"][2], show_default=True, type=_share,
              help="Least share of visitors that sign up.")  # fmt: skip
@click.option("--min-activation", default=RATES["activation"][2], show_default=True, type=_share,
              help="Least share of signups that become active.")  # fmt: skip
@click.option("--min-paid", default=RATES["paid"][2], show_default=True, type=_share,
              help="Least share of active that pay.")  # fmt: skip
@json_option
def readiness(
    url: str,
    operator_key: str,
    backups: Path | None,
    backup_hours: int,
    funnel: Path | None,
    min_signup: float,
    min_activation: float,
    min_paid: float,
    as_json: bool,
) -> None:
    """Say whether the running service may be opened: go (exit code 0) or no-go (1).

    Run it with the settings of the service, on a machine that reaches its database.
    """
    url = url.rstrip("/")
    least = {"signup": min_signup, "activation": min_activation, "paid": min_paid}
    with open_database() as (settings, database):
        checks = [
            *check_journey(Journey(url, operator_key)),
            *check_database(settings, database),
            *check_configuration(settings, url),
            *check_backups(
                database, backups or settings.snapshot_dir, timedelta(hours=backup_hours)
            ),
        ]
    try:
        checks += check_funnel(funnel, least) if funnel else []
    except FunnelUnusable as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json({"go": is_go(checks), "checks": [vars(check) for check in checks]})
    else:
        _show(checks)
    sys.exit(0 if is_go(checks) else 1)


def _show(checks: list[Check]) -> None:
    table = new_table("", "looked at", "found", "what to do")
    for check in checks:
        subject = f"{check.group}: {check.subject}"
        table.add_row(MARKS[check.outcome], subject, check.detail, check.remedy or "")
    console.print(table)
    failed = sum(check.outcome == FAIL for check in checks)
    console.print(f"\nNo-go: {failed} of {len(checks)} checks failed." if failed else "\nGo.")
