"""Clients made by other people's generators: what docs/clients.md shows runs and compiles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.server import Server, make_client, running

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
# The newest that work together; the last of each line is what the page installs.
TYPESCRIPT = ("openapi-fetch@0.17.0", "openapi-typescript@7.13.0", "typescript@5.9.3")


def shown(language: str) -> str:
    """Return the code that the page shows in a language, all of it as one program."""
    return "\n".join(
        re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    )


def run(*command: str | Path, folder: Path, **environ: str) -> str:
    """Run a program that succeeds and return what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose agents begin with money."""
    with running(sqlite_template, tmp_path_factory.mktemp("clients")) as one:
        yield one


@pytest.fixture
def document(server: Server, tmp_path: Path) -> Path:
    """The service's own description, in a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(server.client().request("GET", "/openapi.json").body)
    return path


def test_a_python_client_runs_what_the_page_shows(
    server: Server, document: Path, tmp_path: Path
) -> None:
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    run(
        programs / "openapi-python-client",
        *("generate", "--path", document, "--output-path", "client", "--fail-on-warning"),
        folder=tmp_path,
        PATH=path,
    )
    program = shown("python").replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
    (tmp_path / "journey.py").write_text(program)
    printed = run(
        *(sys.executable, "-W", "error", "journey.py"),
        folder=tmp_path,
        PYTHONPATH=str(tmp_path / "client"),
        AGENTHUB_API_KEY=make_client(server, "acme").api_key,
    )
    assert printed.splitlines() == [
        "registered @acme:echo",
        "registered @acme:asker",
        "offered 1.0.0",
    ]


def test_a_typescript_client_compiles_what_the_page_shows(document: Path, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: apt-get install npm")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", *TYPESCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install the generator: {installed.stderr[-300:]}")
    tools = tmp_path / "node_modules" / ".bin"
    run(
        *(tools / "openapi-typescript", document, "--default-non-nullable=false", "-o", "hub.d.ts"),
        folder=tmp_path,
    )
    (tmp_path / "journey.ts").write_text(
        "declare const process: { env: Record<string, string | undefined> };\n" + shown("ts")
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options = ("--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "esnext")
    run(
        *(tools / "tsc", "--noEmit", *options, "--moduleResolution", "bundler", "journey.ts"),
        folder=tmp_path,
    )
