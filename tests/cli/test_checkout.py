"""``python3 -m app``: what a checkout without an environment does before its first command.

The environment here is made of small scripts that write down how they were called, so that nothing
is downloaded. The README's commands go the whole way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.migrations.project import ROOT

# The interpreter below the virtual environment that runs the tests: it has no requirements.
PLAIN = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
VENV = """
import os, pathlib, sys
if not os.path.exists(os.environ["CALLS"] + ".apt"):
    sys.exit("The virtual environment was not created successfully because ensurepip is missing")
target = pathlib.Path(sys.argv[1], "bin")
target.mkdir(parents=True)
for name in ("python", "pip", "agenthub", "pytest"):
    path = target / name
    path.write_text(f'#!/bin/sh\\necho "{name} $*" >> "$CALLS"\\nexit ${{FAILURE:-0}}\\n')
    path.chmod(0o755)
"""
AS_ROOT = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\ntouch "$CALLS.apt"\n'

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of little more than the module under test, on a machine without ensurepip."""
    for name in ("app/__init__.py", "app/__main__.py", "setup.cfg"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    venv = tmp_path / "fakes" / "venv"
    venv.mkdir(parents=True)
    (venv / "__init__.py").write_text("")
    (venv / "__main__.py").write_text(VENV)
    for name in ("apt-get", "sudo"):
        path = tmp_path / "fakes" / name
        path.write_text(AS_ROOT)
        path.chmod(0o755)
    return tmp_path / "checkout"


@pytest.fixture
def run(checkout: Path) -> Run:
    """Run ``python3 -m app`` in the checkout and return what came of it."""
    fakes = checkout.parent / "fakes"

    def run_module(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{fakes}:{os.environ['PATH']}",
            "PYTHONPATH": str(fakes),
            "CALLS": str(checkout.parent / "calls"),
            **variables,
        }
        return subprocess.run(
            [PLAIN, "-m", "app", *arguments],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_module


def calls(checkout: Path) -> list[str]:
    """Return the programs that were called since the last time, without apt's."""
    path = checkout.parent / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [one for one in found if not one.startswith(("apt-get", "sudo"))]


def test_a_fresh_checkout_makes_its_environment_and_runs_the_command(
    checkout: Path, run: Run
) -> None:
    done = run("up", "--port", "9000")
    assert done.returncode == 0, done.stderr
    assert "python3-venv" in done.stderr
    installed, ran = calls(checkout)
    assert installed.startswith("python -m pip install")
    assert installed.endswith(f"-e {checkout}")
    assert ran == "agenthub up --port 9000"


def test_what_is_installed_is_installed_anew_only_when_the_requirements_change(
    checkout: Path, run: Run
) -> None:
    run("up")
    calls(checkout)
    done = run("demo")
    assert (calls(checkout), done.stderr) == (["agenthub demo"], "")
    with (checkout / "setup.cfg").open("a") as file:
        file.write("# A requirement more.\n")
    run("demo")
    assert [one.split()[0] for one in calls(checkout)] == ["python", "agenthub"]


def test_the_tests_install_what_they_need_besides(checkout: Path, run: Run) -> None:
    run("up")
    calls(checkout)
    run("pytest", "-q", "tests/cli")
    installed, ran = calls(checkout)
    assert installed.endswith(f"-e {checkout}[test]")
    assert ran == "pytest -q tests/cli"


def test_an_installation_that_fails_is_said_and_tried_again(checkout: Path, run: Run) -> None:
    done = run("up", FAILURE="1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{checkout}/.venv cannot be made" in done.stderr
    calls(checkout)
    assert run("up").returncode == 0
    assert [one.split()[0] for one in calls(checkout)] == ["python", "agenthub"]


def test_an_interpreter_that_has_the_requirements_runs_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("agenthub")
