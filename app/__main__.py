"""``python3 -m app COMMAND``: the ``agenthub`` command of a checkout, installed where needed.

It makes the virtual environment ``.venv`` beside the package, installs what ``setup.cfg`` asks for,
and runs ``.venv/bin/agenthub COMMAND``. With ``pytest`` as the command it also installs what the
tests need, and runs them. An interpreter that has the requirements already runs the command itself.
Nothing but the standard library is imported before.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def run(arguments: Sequence[str]) -> int:
    """Run a command in the environment of this checkout, made where it is missing.

    Returns 2, after one line that says why, when the command cannot be started.
    """
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:2]))
        oldest = ".".join(map(str, OLDEST))
        return refuse(f"AgentHub needs Python {oldest} or newer; this is {found}")
    is_test = arguments[:1] == ["pytest"]
    if not is_checkout() or (has_requirements() and not is_test):
        return run_here()
    environment = ROOT / ".venv"
    try:
        prepare(environment, "test" if is_test else "")
    except (OSError, subprocess.CalledProcessError) as error:
        return refuse(f"{environment} cannot be made: {error}")
    program, *rest = arguments if is_test else ("agenthub", *arguments)
    return become(environment / "bin" / program, rest)


def become(program: Path, arguments: Sequence[str]) -> NoReturn:
    """Go on as another program, which gets this process's terminal and signals."""
    os.execv(program, [str(program), *arguments])  # noqa: S606 (the caller's own arguments)


def run_here() -> int:
    """Run the command in this interpreter."""
    from app.cli import main

    result: int = main(prog_name="agenthub")
    return result


def is_checkout() -> bool:
    """Tell whether the package lies in a checkout, not among installed packages."""
    return (ROOT / "setup.cfg").is_file()


def has_requirements() -> bool:
    """Tell whether this interpreter has what the package needs."""
    # The package itself is found from any interpreter that starts in the checkout.
    return find_spec("flask_smorest") is not None


def prepare(environment: Path, extra: str) -> None:
    """Install this checkout into a virtual environment, unless it is there already.

    ``extra`` names further requirements of ``setup.cfg``, such as ``test``. Raises
    ``CalledProcessError`` when a step fails, whose own output then says why.
    """
    mark = environment / f"installed{'-' + extra if extra else ''}"
    wanted = hashlib.sha256((ROOT / "setup.cfg").read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == wanted:
        return
    python = environment / "bin" / "python"
    if not (environment / "bin" / "pip").exists():
        say(f"making {environment}")
        make_environment(environment)
    say("installing what setup.cfg asks for; this takes about half a minute")
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    call(
        str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", target
    )
    mark.write_text(wanted)


def make_environment(environment: Path) -> None:
    """Make a virtual environment; on Debian and its kin, install the package that can."""
    command = (sys.executable, "-m", "venv", str(environment))
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0:  # noqa: S603
        return
    as_root = () if os.geteuid() == 0 else ("sudo",)
    say("Python's venv is missing; installing Debian's package python3-venv")
    call(*as_root, "apt-get", "update", "-qq")
    call(*as_root, "apt-get", "install", "-qq", "-y", "python3-venv")
    call(*command)


def call(*command: str) -> None:
    """Run a step; its output is shown. Raises ``CalledProcessError`` and ``OSError``."""
    subprocess.run(command, check=True)  # noqa: S603 (no part of it comes from outside)


def say(text: str) -> None:
    """Write a line about the preparation to standard error."""
    print(f"agenthub: {text}", file=sys.stderr, flush=True)


def refuse(reason: str) -> int:
    """Say why nothing was started, and return the exit code for it."""
    say(reason)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
