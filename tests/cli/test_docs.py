"""Commands and settings that documents name exist; docs/operations.md shows what they do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app.cli import COMMANDS, main
from app.config import CLIENT_VARIABLES, PREFIX, Settings
from tests.conftest import PEPPER
from tests.migrations.project import ROOT, alembic
from tests.migrations.test_docs import read_page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
UNITS = sorted((ROOT / "docs" / "deployment").iterdir())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each ``agenthub`` command that a page or a unit names."""
    text = page.read_text()
    if page.suffix == ".md":
        text = text.replace("python3 -m app pytest", "pytest").replace("python3 -m app", "agenthub")
        prompted = re.findall(r"^\$ (?:\S+/)?agenthub (.+)$", text, flags=re.MULTILINE)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        found = prompted + re.findall(r"`(?:\S+/)?agenthub ([^`]+)`", prose)
    else:
        found = re.findall(r"/bin/agenthub ([^\n']+)", text)
    for line in found:
        yield shlex.split(re.sub(r"\$?\$\([^)]*\)", "", line).partition(" | ")[0])


def require_known(arguments: list[str]) -> None:
    """Fail unless the program has the command and every option."""
    command: click.Command = main
    options = set()
    for argument in arguments:
        if argument == "--":
            # What follows is another program's.
            break
        options |= {name for parameter in command.params for name in parameter.opts}
        if isinstance(command, click.Group) and not argument.startswith("-"):
            found = command.get_command(click.Context(command), argument)
            assert found is not None, f"no command {argument!r}: {arguments}"
            command = found
        elif argument.startswith("-"):
            known = options | {"--help"} | {n for p in command.params for n in p.opts}
            assert argument.partition("=")[0] in known, f"no option {argument!r}: {arguments}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_what_it_says_itself(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    said = " ".join((command.help or "").split())
    assert (said + " ").startswith(COMMANDS[name].summary + " ")


def test_help_loads_no_command() -> None:
    program = (
        "import sys; from app.cli import main; main(['--help'], standalone_mode=False);"
        " sys.exit(bool({'sqlalchemy', 'flask', 'alembic', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, (_, summary) in COMMANDS.items():
        assert name in done.stdout
        assert summary.split()[-1] in done.stdout


@pytest.mark.parametrize("page", [*PAGES, *UNITS], ids=lambda page: page.name)
def test_every_command_and_setting_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for arguments in command_lines(page):
        require_known(arguments)
    known = {PREFIX + field.name.upper() for field in fields(Settings)} | CLIENT_VARIABLES
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+[A-Z]\b", text))
    assert named <= known, named - known


def test_commands_are_found_where_they_are_named() -> None:
    found = [" ".join(one[:2]) for page in PAGES for one in command_lines(page)]
    for name in ("up", "serve", "keys create", "snapshot restore", "ledger digest", "readiness"):
        assert any(one.startswith(name) for one in found), name
    with pytest.raises(AssertionError, match="no option '--aloud'"):
        require_known(["keys", "create", "--owner", "acme", "--aloud"])
    with pytest.raises(AssertionError, match="no command 'sing'"):
        require_known(["sing"])


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = OPERATIONS.partition("| variable | default | meaning |")[2].partition("\n\n")[0]
    shown = {
        variable: default
        for row in table.splitlines()[2:]
        for variables, default in [re.split(r" \| ", row.strip("| "))[:2]]
        for variable, default in zip(
            re.findall(r"`(\w+)`", variables),
            re.split(r", (?=`)", default) * len(re.findall(r"`(\w+)`", variables)),
            strict=False,
        )
    }
    for field in fields(Settings):
        default = shown.pop(PREFIX + field.name.upper())
        if isinstance(field.default, bool):
            assert default == f"`{str(field.default).lower()}`", field.name
        elif field.default is not None:
            assert default == f"`{field.default}`", field.name
    assert not shown


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_the_page_of_operations_shows_what_happens(settings: Settings, tmp_path: Path) -> None:
    url = settings.url.render_as_string(hide_password=False)
    environment = {"AGENTHUB_KEY_PEPPER": PEPPER, "AGENTHUB_DATABASE_URL": url}
    ran: list[str] = []
    key_id = ""
    alembic(settings, "downgrade", "registry@base")
    for command, shown in read_page(OPERATIONS):
        # A server that starts has nothing to show.
        is_shown = shown or command != "agenthub serve"
        if not re.match("agenthub (serve|keys|snapshot)", command) or not is_shown:
            continue
        line = command.replace("KEY_ID", key_id)
        line = re.sub(r"/var/backups/.*[.]snapshot", str(tmp_path / "agenthub.snapshot"), line)
        done = CliRunner().invoke(main, shlex.split(line)[1:], env=environment)
        assert done.exit_code == (2 if shown else 0), (command, done.output)
        if shown:
            assert done.output.strip() == shown.strip()
            alembic(settings, "upgrade", "heads")
        created = re.search(r"ah_([0-9a-f]{16})_", done.output)
        key_id = created[1] if created else key_id
        ran.append(command)
    assert [one.split()[1] for one in ran] == ["serve", *["keys"] * 5, *["snapshot"] * 2]
