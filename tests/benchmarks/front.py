"""``python -m tests.benchmarks.front``: what the server costs, and what slow clients cost others.

Two requests are measured against a baseline that does not change with the product, once as they
come and once under the attack of slow and idle clients; with ``--against`` another checkout's
server is measured in the same rounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

import click

from tests.benchmarks import data, report
from tests.benchmarks.load import Sample, Unusable, burst
from tests.benchmarks.server import HERE, Server, python_of
from tests.conftest import settings_for
from tests.postgres import free_port
from tests.reliability.abuse import attack, connections

AGENTS = 500
HEALTH, AGENT = "GET /healthz", "GET agent"
HALF_HEADER = b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\nX: "
SLOW_BODY = b"POST /operator/sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"


@contextmanager
def baseline() -> Iterator[str]:
    """Run the baseline and give its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.baseline", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            time.sleep(0.05)
            try:
                urllib.request.urlopen(url).close()
                break
            except OSError:
                continue
        yield url
    finally:
        process.terminate()
        process.wait()


def abuse(port: int, stop: threading.Event) -> None:
    """Keep 300 idle connections, 200 half-sent headers and 50 slow bodies at a server.

    They are opened anew before its deadlines end them.
    """
    while not stop.is_set():
        with (
            connections(port, 300),
            connections(port, 200, HALF_HEADER) as headers,
            connections(port, 50, SLOW_BODY) as bodies,
        ):
            for _ in range(8):
                for one in [*headers, *bodies]:
                    with suppress(OSError):
                        one.send(b"x")
                if stop.wait(1):
                    return


LOAD = """
import sys
from pathlib import Path
from tests.benchmarks import data
from tests.conftest import settings_for

folder = Path(sys.argv[1])
data.load(settings_for(f"sqlite:///{folder / 'agenthub.db'}", folder), int(sys.argv[2]))
"""


def start(folder: Path, checkout: Path) -> Server:
    """Load a database with what a checkout has for it, and start its server there."""
    folder.mkdir()
    command = [python_of(checkout), "-c", LOAD, str(folder), str(AGENTS)]
    subprocess.run(command, cwd=checkout, check=True)
    return Server(settings_for(f"sqlite:///{folder / 'agenthub.db'}", folder), folder, checkout)


def measure(
    servers: dict[str, Server], base: str, files: dict[str, str], rounds: int, seconds: int
) -> dict[tuple[str, str], list[tuple[Sample, Sample]]]:
    """Return samples of each server and request, each with one of the baseline before it."""
    found: dict[tuple[str, str], list[tuple[Sample, Sample]]] = {}
    for round_ in range(rounds + 1):
        for request, file in files.items():
            for name, server in servers.items():
                before = burst(base, seconds, [], files[HEALTH])
                sample = burst(server.url, seconds, [server.process.pid], file)
                if round_:
                    found.setdefault((name, request), []).append((sample, before))
        click.echo(f"round {round_} of {rounds}", err=True)
    return found


def show(found: dict[tuple[str, str], list[tuple[Sample, Sample]]]) -> None:
    """Print a table of what was measured."""
    click.echo("| server | request | requests/s | p99 ms | CPU ms | of the baseline |")
    click.echo("|---|---|---:|---:|---:|---:|")
    for (name, request), pairs in found.items():
        samples = [sample for sample, _ in pairs]
        click.echo(
            f"| {name} | {request} | {median(one.per_second for one in samples):,.0f} "
            f"| {median(one.p99_ms for one in samples):.1f} "
            f"| {median(one.cpu_ms for one in samples):.2f} "
            f"| {median(one.per_second / base.per_second for one, base in pairs):.2f} |"
        )


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=3, show_default=True, help="Length of one measurement.")
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="Another checkout.")
def main(rounds: int, seconds: int, against: Path | None) -> None:
    """Measure the server against a baseline, undisturbed and under slow clients."""
    try:
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="agenthub-front-"))
            )
            checkouts = {"this": HERE} | ({"other": against.resolve()} if against else {})
            servers = {}
            for name, checkout in checkouts.items():
                servers[name] = start(folder / name, checkout)
                stack.callback(servers[name].stop)
            base = stack.enter_context(baseline())
            files = {}
            for name, path in ((HEALTH, "/healthz"), (AGENT, f"/v1/agents/{data.agent_id(7)}")):
                files[name] = str(folder / f"{len(files)}.paths")
                Path(files[name]).write_text(f"{path}\n")
            click.echo(report.machine())
            show(measure(servers, base, files, rounds, seconds))
            click.echo("\nUnder 300 idle connections, 200 half-sent headers and 50 slow bodies:\n")
            port = int(servers["this"].url.rpartition(":")[2])
            with attack(lambda stop: abuse(port, stop)):
                show(measure({"this": servers["this"]}, base, files, rounds, seconds))
    except Unusable as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
