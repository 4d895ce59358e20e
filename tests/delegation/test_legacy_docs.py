"""What docs/legacy-import.md shows is what happens: its commands are run, their output compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import Settings
from tests.conftest import settings_for
from tests.migrations.project import ROOT, environ
from tests.migrations.test_docs import read_page

PAGE = (ROOT / "docs" / "legacy-import.md").read_text()


def plain(text: str) -> str:
    """Return output without times and without the spaces that only align it."""
    return re.sub(r"\S+Z;", "TIME;", re.sub(r"[ \t]+", " ", re.sub(r" +$", "", text, flags=re.M)))


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_every_command_of_the_page_prints_what_the_page_shows(
    settings: Settings, sqlite_template: Path, tmp_path: Path
) -> None:
    records, balances = tmp_path / "records.json", tmp_path / "balances.json"
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (record,) = json.loads(example)
    records.write_text(json.dumps([record, record | {"delegation_id": "del-2024-0118"}]))
    money = {"@acme:clerk": 150.25, "@globex:reader": 12.5}
    balances.write_text(
        json.dumps([{"agent_id": name, "balance_usd": usd} for name, usd in money.items()])
    )
    ran = 0
    for command, shown in read_page(PAGE):
        if command == "test" and shown == "the records change":
            records.write_text(example)
        elif command == "test":
            (tmp_path / "new").mkdir()
            shutil.copy(sqlite_template, tmp_path / "new" / "agenthub.db")
            settings = settings_for(f"sqlite:///{tmp_path / 'new' / 'agenthub.db'}", tmp_path)
            records.write_text(json.dumps([record] * 3)[:-20])
            entry = '{"agent_id": "@acme:a%d", "balance_usd": %s}'
            values = enumerate(("0.0000001", "-1", "NaN"))
            balances.write_text(f"[{', '.join(entry % value for value in values)}]")
        else:
            done = subprocess.run(
                [sys.executable, "-m", "app.cli", *command.split()[1:]],
                cwd=tmp_path, env=environ(settings), text=True, check=False, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert plain(done.stdout).strip() == plain(shown).strip(), command
            ran += 1
    assert ran == 5
