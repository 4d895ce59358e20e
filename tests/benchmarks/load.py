"""wrk, the load generator: one thread of it keeps eight connections busy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPT = Path(__file__).with_name("requests.lua")
CONNECTIONS = 8


class Unusable(Exception):
    """The benchmark cannot be run, or a measurement means nothing; the message says why."""


@dataclass(frozen=True)
class Sample:
    """What one burst of requests came to; ``cpu_ms`` is CPU time for one request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    finished_per_second: float = 0.0


def require_wrk() -> str:
    """Return the path of wrk. Raises ``Unusable``."""
    found = shutil.which("wrk")
    if found is None:
        raise Unusable("the load generator wrk is missing; install it: apt-get install -y wrk")
    return found


def burst(
    url: str,
    seconds: int,
    processes: Iterable[int],
    *arguments: str,
    script: Path = SCRIPT,
    environ: Mapping[str, str] | None = None,
) -> Sample:
    """Send as many requests as 8 connections can in ``seconds`` and return what they came to.

    ``processes`` and all below them are what the CPU time is taken of; ``arguments`` are those of
    ``script``. Raises ``Unusable`` if any request failed.
    """
    command = [
        require_wrk(), "--threads", "1", "--connections", str(CONNECTIONS),
        "--duration", f"{seconds}s", "--timeout", "10s", "--script", str(script), url, "--",
        *arguments,
    ]  # fmt: skip
    before = _cpu_seconds(processes)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        env={**os.environ, **(environ or {})},
    )
    used = _cpu_seconds(processes) - before
    if done.returncode != 0:
        raise Unusable(f"wrk failed: {done.stdout}{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    if result["failed"] or not result["requests"]:
        raise Unusable(f"{result['failed']} of {result['requests']} requests failed: {arguments}")
    return Sample(
        per_second=result["requests"] / result["seconds"],
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        cpu_ms=1000 * used / result["requests"],
        finished_per_second=result.get("finished", 0) / result["seconds"],
    )


def _cpu_seconds(processes: Iterable[int]) -> float:
    """Return the CPU time that these processes and all below them have used so far.

    What a process has used by its end counts for its parent, as where a connection was closed.
    """
    used = 0.0
    for root in map(psutil.Process, processes):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
                used += times.children_user + times.children_system
    return used
