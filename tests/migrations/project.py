"""Running Alembic as operators do, and on copies of the migrations that tests may change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config

from app.config import Settings

ROOT = Path(__file__).resolve().parents[2]

REVISION = '''"""A step that only a test has."""

import sqlalchemy as sa

from alembic import op

revision = {revision!r}
down_revision = {parent!r}
branch_labels = None
depends_on = None


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
'''


def copy_migrations(folder: Path) -> Path:
    """Copy ``alembic.ini`` and ``alembic/`` into ``folder``, where a test may add revisions."""
    shutil.copy(ROOT / "alembic.ini", folder)
    shutil.copytree(
        ROOT / "alembic", folder / "alembic", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def add_revision(home: Path, scope: str, upgrade: str = "pass", downgrade: str = "pass") -> str:
    """Write the next revision of a track in a copy of the migrations and return its id."""
    folder = home / "alembic" / "versions" / scope
    parent = max(path.name for path in folder.glob("*.py"))[: len(scope) + 5]
    revision = f"{scope}_{int(parent[-4:]) + 1:04d}"
    text = REVISION.format(revision=revision, parent=parent, upgrade=upgrade, downgrade=downgrade)
    (folder / f"{revision}_of_a_test.py").write_text(text)
    return revision


def config(settings: Settings, home: Path = ROOT, *, allow_data_loss: str | None = None) -> Config:
    """Return the configuration of an Alembic command that runs in this process."""
    options = Namespace(x=[f"allow-data-loss={allow_data_loss}"] if allow_data_loss else None)
    result = Config(str(home / "alembic.ini"), cmd_opts=options)
    result.attributes.update(settings=settings, configure_logging=False)
    return result


def environ(settings: Settings) -> dict[str, str]:
    """Return the environment of a command on the database of ``settings``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AGENTHUB_")}
    return inherited | {
        "AGENTHUB_DATABASE_URL": settings.url.render_as_string(hide_password=False),
        **({"AGENTHUB_KEY_PEPPER": settings.key_pepper} if settings.key_pepper else {}),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        # Messages and log lines in the order they are written.
        "PYTHONUNBUFFERED": "1",
    }


def start_alembic(settings: Settings, *arguments: str, home: Path = ROOT) -> subprocess.Popen[str]:
    """Start ``alembic`` with the given arguments in the folder that holds ``alembic.ini``."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=home,
        env=environ(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alembic(
    settings: Settings, *arguments: str, home: Path = ROOT, fails: bool = False
) -> tuple[str, str]:
    """Run ``alembic`` to its end and return what it wrote; it must succeed unless ``fails``."""
    process = start_alembic(settings, *arguments, home=home)
    out, err = process.communicate(timeout=120)
    assert (process.returncode != 0) is fails, out + err
    return out, err


@contextmanager
def connect(settings: Settings) -> Iterator[sa.Connection]:
    """Give a new connection in one transaction, which nothing of the application prepared."""
    engine = sa.create_engine(settings.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection


def contents(settings: Settings) -> dict[str, list[str]]:
    """Return every row of every table, the versions and the journal included."""
    with connect(settings) as connection:
        return {
            table: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {table}"))))
            for table in sorted(sa.inspect(connection).get_table_names())
        }


def revision_files() -> list[Path]:
    """Return the files of all revisions."""
    return sorted((ROOT / "alembic" / "versions").rglob("*.py"))


def revisions_of(scope: str) -> list[str]:
    """Return the ids of a track's revisions, oldest first, as their file names tell them."""
    found = (re.match(rf"{scope}_\d{{4}}", path.name) for path in revision_files())
    return sorted(match[0] for match in found if match)
