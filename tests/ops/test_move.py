"""A team outgrows the embedded database: it moves to PostgreSQL while clients go on writing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, balance, request
from tests.migrations.project import ROOT, contents, environ
from tests.ops.place import Place
from tests.ops.test_snapshot import broken_rules

BATCHES = 30


def agenthub(settings: Settings, *arguments: str) -> Any:
    """Run a command that succeeds and return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--json"],
        cwd=ROOT, env=environ(settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_thousands_of_delegations_move_and_their_keys_still_replay(
    place: Place, new_database: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "place.snapshot"
    stop, after = threading.Event(), []

    def keep_writing() -> None:
        with place.open() as shop:
            while not stop.wait(0.02):
                key = uuid.uuid4().hex
                cheap = request(estimated_cost_usd=0.01)
                answer = shop.caller("acme").post(DELEGATIONS, cheap, idempotency_key=key)
                after.append((answer.status_code, key))

    with place.open(checked=False) as shop:
        batch = {"delegations": [request(estimated_cost_usd=0.01)] * 100}
        for number in range(BATCHES):
            shop.send("acme", f"{DELEGATIONS}/batch", batch, f"batch-{number}")
        writer = threading.Thread(target=keep_writing)
        writer.start()
        try:
            while len(after) < 3:
                assert writer.is_alive()
            taken = agenthub(place.settings, "snapshot", "create", str(file))
        finally:
            stop.set()
            writer.join()
        assert {status for status, _ in after} == {200}

    there = new_database("postgresql")
    restored = agenthub(there, "snapshot", "restore", str(file))
    assert restored["rows"] == sum(table["rows"] for table in taken["tables"])
    moved = contents(there)
    assert len(moved["delegation_delegations"]) > BATCHES * 100

    with place.open(there, checked=False) as shop:
        assert shop.replayed() == len(place.answers) > BATCHES
        assert contents(there)["ledger_postings"] == moved["ledger_postings"]
        acme, globex = shop.caller("acme"), shop.caller("globex")
        # A write after the snapshot is unknown here, so its key runs it: once.
        late = after[-1][1]
        assert late not in repr(moved["idempotency_keys"])
        cheap = request(estimated_cost_usd=0.01)
        answers = {acme.post(DELEGATIONS, cheap, idempotency_key=late).data for _ in range(2)}
        assert len(answers) == 1
        assert balance(acme, CLERK) < 1000
        assert balance(globex, READER) > 0
    assert broken_rules(there) == []
