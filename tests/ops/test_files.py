"""What holds tasks, answers and keys is readable by its owner alone, whatever the folder allows."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.config import Settings
from app.ops.doctor import examine
from tests.conftest import settings_for
from tests.migrations.project import alembic
from tests.ops.conftest import bring_back, take
from tests.ops.place import Place
from tests.ops.test_commands import agenthub
from tests.reliability.server import Server


@pytest.fixture
def dialect() -> str:
    """PostgreSQL keeps its own files."""
    return "sqlite"


@pytest.fixture(autouse=True)
def anybody() -> Iterator[None]:
    """Let files be made for everybody, as most systems do."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(".log")
    }


def test_a_server_makes_files_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "data"
    folder.parent.mkdir(mode=0o777)
    server = Server(f"sqlite:///{folder / 'agenthub.db'}", tmp_path, KEY_PEPPER=None)
    server.settings |= {"DATA_DIR": folder, "DATABASE_URL": None}
    try:
        server.start()
        found = modes(folder)
        assert {"agenthub.db", "agenthub.db-wal", "key-pepper", "admin-key"} <= found.keys()
        assert {mode for mode in found.values() if mode & 0o077} == set()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for pid in server.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Umask:\t0077" in status
    finally:
        server.end()


@pytest.mark.parametrize("make", ["alembic", "agenthub"])
def test_every_command_makes_files_for_its_owner_alone(
    make: str, place: Place, empty_settings: Settings, tmp_path: Path
) -> None:
    if make == "alembic":
        alembic(empty_settings, "upgrade", "heads")
        assert modes(tmp_path)["agenthub.db"] == 0o600
    else:
        file = tmp_path / "place.snapshot"
        assert agenthub(place.settings, "snapshot", "create", str(file)).returncode == 0
        target = settings_for(f"sqlite:///{tmp_path / 'restored.db'}", tmp_path)
        assert agenthub(target, "snapshot", "restore", str(file)).returncode == 0
        found = modes(tmp_path)
        assert (found["place.snapshot"], found["restored.db"]) == (0o600, 0o600)


def test_the_functions_behind_them_do_so_whoever_calls(
    place: Place, new_database: Callable[..., Settings], tmp_path: Path
) -> None:
    take(place.settings, tmp_path / "place.snapshot")
    settings = new_database("sqlite")
    bring_back(settings, tmp_path / "place.snapshot")
    assert stat.S_IMODE((tmp_path / "place.snapshot").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(str(settings.url.database)).stat().st_mode) == 0o600


def test_the_doctor_finds_what_others_may_read(settings: Settings) -> None:
    def found() -> tuple[bool, str, str | None]:
        (finding,) = [one for one in examine(settings) if one.subject == "files"]
        return finding.ok, finding.detail, finding.remedy

    path = Path(str(settings.url.database))
    assert found() == (True, "only their owner reads them", None)
    path.chmod(0o644)
    assert found() == (False, f"others may read {path}", f"chmod go= {path}")
