"""What was measured, as Markdown."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.benchmarks.load import Sample

LIBRARIES = ("flask", "werkzeug", "sqlalchemy", "uvicorn", "orjson", "psycopg")
# The samples of one route, round by round, each with one of the trivial route taken before it.
Pairs = Sequence[tuple[Sample, Sample]]
# Those of every route for one size of one database.
Samples = Mapping[str, Pairs]


def machine() -> str:
    """Return one line about the machine and the versions in use."""
    try:
        models = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        models = []
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"{libraries}, SQLite {sqlite3.sqlite_version}"
    )


def table(
    samples: Mapping[int, Samples], statements: Mapping[str, int], routes: Mapping[str, str]
) -> Iterator[str]:
    """Yield the lines of a database's table; ``routes`` maps names to descriptions."""
    yield (
        "| request | agents | requests/s | p50 ms | p99 ms | ratio | CPU ms | CPU ratio "
        "| SQL statements |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, description in routes.items():
        for agents, by_route in samples.items():
            pairs = by_route[name]
            yield (
                f"| {description} | {agents:,} "
                f"| {median(sample.per_second for sample, _ in pairs):,.0f} "
                f"| {median(sample.p50_ms for sample, _ in pairs):.1f} "
                f"| {median(sample.p99_ms for sample, _ in pairs):.1f} "
                f"| {median(sample.per_second / base.per_second for sample, base in pairs):.2f} "
                f"| {median(sample.cpu_ms for sample, _ in pairs):.2f} "
                f"| {median(base.cpu_ms / sample.cpu_ms for sample, base in pairs):.2f} "
                f"| {statements[name]} |"
            )


def growth(samples: Mapping[int, Samples], routes: Mapping[str, str]) -> Iterator[str]:
    """Yield a line a route on what it costs with the most agents against the fewest.

    A route's samples of all sizes are taken one after the other, so they are compared directly.
    """
    fewest, most = min(samples), max(samples)
    yield f"CPU time a request at {most:,} agents against {fewest:,}:\n"
    for name, description in routes.items():
        rounds = zip(samples[fewest][name], samples[most][name], strict=True)
        cost = median(many.cpu_ms / few.cpu_ms for (few, _), (many, _) in rounds)
        yield f"- {description}: {cost:.2f}"
