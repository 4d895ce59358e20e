"""``agenthub ledger``: what operators and scripts see, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import Settings
from tests.cli.test_commands import Shell
from tests.client import Api
from tests.ledger.book import Book, account


@pytest.fixture
def shell(settings: Settings, tmp_path: Path) -> Shell:
    """A shell on the database of ``book``."""
    return Shell(settings, tmp_path)


def test_a_digest_seals_what_is_pending(shell: Shell, book: Book) -> None:
    empty = json.loads(shell.run("ledger", "digest").stdout)
    assert empty == {"block": 0, "hash": "0" * 64, "last_seq": 0, "sealed_at": None}
    book.top_up("a", 5)
    book.top_up("a", 5)
    done = shell.run("ledger", "digest")
    assert done.returncode == 0
    assert json.loads(done.stdout) == book.digest()
    assert book.digest()["last_seq"] == 2
    again = shell.run("ledger", "digest")
    assert again.stdout == done.stdout


def test_verify(shell: Shell, book: Book, tmp_path: Path) -> None:
    book.top_up("a", 5)
    book.top_up("a", 6)
    file = tmp_path / "digest.json"
    file.write_text(shell.run("ledger", "digest").stdout)
    kept = ("ledger", "verify", "--digest", str(file))

    done = shell.run(*kept)
    assert (done.returncode, done.stdout) == (
        0,
        "Every transaction up to 2 is what was sealed.\n",
    )
    assert shell.json(*kept) == {"faults": [], "digest": book.digest()}

    book.tamper("UPDATE ledger_transactions SET actor = 'x' WHERE seq = 2")
    done = shell.run("ledger", "verify")
    fault = "the transaction is not the one that was sealed"
    assert (done.returncode, done.stdout) == (1, f"block 1, transaction 2: {fault}\n")
    done = shell.run("ledger", "verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["faults"] == [{"block": 1, "seq": 2, "detail": fault}]

    # A history that was sealed anew is only told from the first one by the kept digest.
    book.tamper("DELETE FROM ledger_seals WHERE block = 1")
    book.seal()
    assert shell.run("ledger", "verify").returncode == 0
    done = shell.run(*kept)
    assert (done.returncode, done.stdout) == (
        1,
        "block 1: the block's hash is not the one in the kept digest\n",
    )


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "5", "null", '"x"', "{}", '{"block": 1}', '{"block": 1, "hash": 5}',
        '{"block": 1, "hash": "abc"}', f'{{"block": -1, "hash": "{"0" * 64}"}}',
        f'{{"block": "one", "hash": "{"0" * 64}"}}', f'{{"block": null, "hash": "{"0" * 64}"}}',
        f'{{"block": 1.5, "hash": "{"0" * 64}"}}', f'{{"block": true, "hash": "{"0" * 64}"}}',
        f'{{"block": 0, "hash": "{"1" * 64}"}}', "\x00\xff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_file_that_is_no_digest(shell: Shell, tmp_path: Path, content: str) -> None:
    file = tmp_path / "digest.json"
    file.write_bytes(content.encode("latin-1"))
    done = shell.run("ledger", "verify", "--digest", str(file))
    assert done.returncode == 2
    assert "is not a digest made by: agenthub ledger digest" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_digest_file_that_is_not_there(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("ledger", "verify", "--digest", str(tmp_path / "none.json"))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "none.json" in done.stderr


def test_a_digest_of_a_later_state_is_missed(shell: Shell, book: Book, tmp_path: Path) -> None:
    file = tmp_path / "digest.json"
    file.write_text(json.dumps({"block": 7, "hash": "0" * 64}))
    done = shell.run("ledger", "verify", "--digest", str(file))
    assert (done.returncode, done.stdout) == (
        1,
        "block 7: the block in the kept digest is missing\n",
    )


def test_reconcile(shell: Shell, book: Book, caller: Callable[..., Api]) -> None:
    book.top_up("a", 5)
    done = shell.run("ledger", "reconcile")
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        [f"R{number}", "yes"] for number in range(1, 13)
    ]
    found = shell.json("ledger", "reconcile")
    assert found["clean"] is True
    assert {rule["number"] for rule in found["rules"]} >= {"R1", "R11"}

    book.tamper(f"UPDATE ledger_accounts SET credits_micros = 6 WHERE id = '{account('a')}'")
    done = shell.run("ledger", "reconcile")
    assert done.returncode == 1
    finding = f"{account('a')}: the account's sums are not those of its postings"
    assert f"R1: {finding}" in done.stdout.splitlines()
    done = shell.run("ledger", "reconcile", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["clean"], found["rules"][0]["findings"]) == (False, [finding])
    told = caller("operator", role="admin").get("/v1/ledger/reconciliation").get_json()
    assert found == told
