"""What docs/migrations.md shows is what happens: its commands are run and their output compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from app.config import Settings
from tests.migrations.project import ROOT, connect, copy_migrations, environ, revisions_of
from tests.migrations.rows import insert_rows

PAGE = ROOT / "docs" / "migrations.md"
INSTALLED, DATABASE = "/opt/agenthub", "/var/lib/agenthub/agenthub.db"

# Alembic lists tracks in an order that varies from run to run.
IN_ANY_ORDER = ("alembic current", "alembic upgrade heads", "agenthub tracks")


def set_registry_revision(settings: Settings, revision: str) -> None:
    """Write what a release with that revision would have left in the version table."""
    with connect(settings) as connection:
        connection.exec_driver_sql(
            "UPDATE alembic_version SET version_num = ? WHERE version_num LIKE 'registry%'",
            (revision,),
        )


# What a comment of the page, <!-- test: NAME -->, does to the database before the next command.
PREPARATIONS: dict[str, Callable[[Settings], None]] = {
    "an agent is registered": lambda settings: insert_rows(settings, "registry"),
    "a later release was here": lambda settings: set_registry_revision(settings, "registry_9999"),
    "the later release went back": lambda settings: set_registry_revision(
        settings, revisions_of("registry")[-1]
    ),
}


def read_page(text: str) -> Iterator[tuple[str, str]]:
    """Yield ``("test", preparation)`` and ``(command line, output shown)`` in the page's order."""
    for note, block in re.findall(r"<!-- test: (.+?) -->|```console\n(.*?)```", text, re.DOTALL):
        if note:
            yield "test", note
            continue
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = entry.partition("\n")
            yield command, output


def normalise(output: str, settings: Settings, home: Path) -> str:
    """Replace what differs from run to run by what the page shows."""
    output = output.replace(str(home), INSTALLED).replace(str(settings.url.database), DATABASE)
    output = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "TIME", output)
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+$", "", output, flags=re.MULTILINE)).strip()


def matches(shown: str, printed: str) -> bool:
    """Compare output with what the page shows of it; a line ``...`` stands for any lines."""
    pattern = re.sub(r"([*?\[])", r"[\1]", shown)
    pattern = re.sub(r"^\.\.\.$", "*", pattern, flags=re.MULTILINE)
    return fnmatchcase(printed, pattern)


def run_command(command: str, settings: Settings, home: Path) -> str:
    """Run a command line of the page and return what a terminal would show."""
    program, *arguments = shlex.split(command)
    executable = [sys.executable, "-m", "alembic"]
    if program != "alembic":
        executable = [str(Path(sys.executable).parent / program)]
    done = subprocess.run(
        [*executable, *arguments],
        cwd=home,
        env=environ(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    failed = "FAILED:" in done.stdout
    assert program != "alembic" or (done.returncode != 0) == failed, done.stdout
    return normalise(done.stdout, settings, home)


def runs_here(command: str) -> bool:
    """Tell whether a command line can be run: Alembic's, and the service's own if installed."""
    if command.startswith("alembic "):
        return True
    return (
        command.startswith("agenthub tracks")
        and (Path(sys.executable).parent / "agenthub").exists()
    )


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_every_command_of_the_page_prints_what_the_page_shows(
    empty_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "release").mkdir()
    home = copy_migrations(tmp_path / "release")
    commands = []

    for command, shown in read_page(PAGE.read_text()):
        if command == "test":
            PREPARATIONS[shown](empty_settings)
        elif runs_here(command):
            printed = run_command(command, empty_settings, home)
            expected = normalise(shown, empty_settings, home)
            if command.startswith(IN_ANY_ORDER):
                assert sorted(expected.split("\n")) == sorted(printed.split("\n"))
            else:
                assert matches(expected, printed), f"$ {command}\n{printed}"
            commands.append(command)

    for needed in (
        "upgrade heads",
        "upgrade registry@head",
        "upgrade registry@+1",
        "upgrade registry@head --sql",
        "downgrade registry@-1",
        "downgrade registry@base",
        "downgrade registry-1",
        "-x allow-data-loss=registry downgrade registry@base",
        "current -v",
        "heads",
        "history -r registry@base:",
        "check",
        "stamp registry@head",
    ):
        assert f"alembic {needed}" in commands


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\nb", "a\nb", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a [b]*", "a [b]*", True),
        ("a*", "ab", False),
        ("", "a", False),
    ],
)
def test_output_is_compared_line_by_line(shown: str, printed: str, expected: bool) -> None:
    assert matches(shown, printed) is expected
