"""The commands of ``agenthub ledger``."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from app.delegation.reconciliation import RULES
from app.ledger import seals
from app.ledger.merkle import GENESIS
from app.ledger.reconciliation import document, reconcile
from app.ops.terminal import Failure, console, json_option, new_table, open_database, print_json


@click.group()
def ledger() -> None:
    """The ledger: digest, verify, reconcile."""


@ledger.command("digest")
def ledger_digest() -> None:
    """Seal all unsealed transactions and print the newest block as JSON, to be kept elsewhere."""
    with open_database() as (_, database):
        with database.transaction() as session:
            seals.seal_pending(session)
        with database.read() as connection:
            print_json(seals.read_digest(connection))


@ledger.command("verify")
@click.option(
    "--digest",
    "kept",
    type=click.File(),
    help="A digest kept elsewhere; its block must still have its hash.",
)
@json_option
def ledger_verify(kept: Any, as_json: bool) -> None:
    """Hold every sealed transaction to its seal. Exit code 1 when one is not what was sealed."""
    digest = _read_digest(kept) if kept else None
    with open_database() as (_, database), database.snapshot() as session:
        faults = list(seals.verify(session, digest))
        newest = seals.read_digest(session)
    if as_json:
        print_json({"faults": [vars(fault) for fault in faults], "digest": newest})
    for fault in [] if as_json else faults:
        where = f"block {fault.block}" + (f", transaction {fault.seq}" if fault.seq else "")
        console.print(f"{where}: {fault.detail}")
    if not faults and not as_json:
        console.print(f"Every transaction up to {newest['last_seq']} is what was sealed.")
    sys.exit(1 if faults else 0)


def _read_digest(file: Any) -> dict[str, Any]:
    try:
        digest = json.load(file)
        block, hash_ = digest["block"], digest["hash"]
        possible = hash_ == GENESIS if block == 0 else block > 0
        if type(block) is int and possible and re.fullmatch("[0-9a-f]{64}", hash_):
            return {"block": block, "hash": hash_}
    except (ValueError, KeyError, TypeError):
        pass
    raise Failure(f"{file.name} is not a digest made by: agenthub ledger digest")


@ledger.command("reconcile")
@json_option
def ledger_reconcile(as_json: bool) -> None:
    """Check every rule that must hold of the ledger. Exit code 1 when one does not."""
    with open_database() as (_, database), database.snapshot() as session:
        rules = reconcile(session, RULES)
    if as_json:
        print_json(document(rules))
    else:
        table = new_table("rule", "holds", "statement")
        for rule in rules:
            table.add_row(rule.number, "no" if rule.findings else "yes", rule.statement)
        console.print(table)
        for rule in rules:
            for finding in rule.findings:
                console.print(f"{rule.number}: {finding}")
    sys.exit(1 if any(rule.findings for rule in rules) else 0)
