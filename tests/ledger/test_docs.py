"""What docs/ledger.md tells readers to run works, and fails when it should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.ledger.seals import prove
from tests.ledger.book import Book
from tests.migrations.project import ROOT

PAGE = (ROOT / "docs" / "ledger.md").read_text()


def check(folder: Path, proof: dict[str, Any], digest: dict[str, Any]) -> str:
    """Run the page's program on a proof and a digest; return what it prints or its last line."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "proof.json").write_text(json.dumps(proof))
    (folder / "digest.json").write_text(json.dumps(digest))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_the_program_that_checks_a_proof(book: Book, tmp_path: Path) -> None:
    ids = [book.top_up("a", amount) for amount in range(1, 12)]
    book.seal()
    with book.database.read() as connection:
        proofs = [prove(connection, transaction_id) for transaction_id in ids]
    digest = book.digest()
    for transaction_id, proof in zip(ids, proofs, strict=True):
        expected = f"transaction {transaction_id} is in block 1"
        assert check(tmp_path, proof, digest) == expected
    proof = proofs[4]
    entry = proof["entry"].replace('"amount_micros":5', '"amount_micros":6')
    for wrong in (
        {"entry": entry},
        {"leaf_index": 5},
        {"tree_size": 40},
        {"path": [*proof["path"], "00" * 32]},
        {"block": {**proof["block"], "last_seq": 99}},
    ):
        assert check(tmp_path, {**proof, **wrong}, digest).startswith("AssertionError: "), wrong
    forged = {**digest, "hash": "0" * 64}
    assert check(tmp_path, proof, forged) == "AssertionError: another history"
