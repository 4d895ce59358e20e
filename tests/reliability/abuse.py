"""Abuse: strangers attack a running server while another owner uses it, whose figures are held.

A test probes the server undisturbed, then under an attack, and holds the second to the first: no
error, and a 99th percentile below three times the first or a floor that a busy machine may need. So
it compares, and asserts no time of its own. The machine may do something else for a moment; an
attack that harms does so all the time. So a comparison that fails is made again, twice at most.

    @pytest.mark.alone
    def test_a_flood_disturbs_nobody(server: Server) -> None:
        owner = Owner(make_client(server, "victim"))
        undisturbed = owner.probe(SECONDS)
        with attack(lambda stop: flood(server.port, stop)):
            owner.goes_on_as(undisturbed, SECONDS)
"""

from __future__ import annotations

import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.registry.manifests import build_manifest
from tests.reliability.server import Client

FACTOR = 3
FLOOR_SECONDS = 0.25
# A request that takes longer is an error, as it is for a client.
PATIENCE_SECONDS = 5.0
PAUSE_SECONDS = 0.005
COMPARISONS = 3
AGENT = "/v1/agents/@{name}:probed"
Attack = Callable[[threading.Event], object]


@dataclass(frozen=True)
class Probe:
    """What an owner saw: how long each kind of request took, in seconds, and what failed."""

    seconds: dict[str, list[float]]
    errors: list[str]

    def p99(self, kind: str) -> float:
        """Return the 99th percentile of one kind of request, in seconds."""
        ordered = sorted(self.seconds[kind])
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]

    def delays(self, undisturbed: Probe, floor_seconds: float) -> list[str]:
        """Return the kinds of requests that took longer than they may, each with its figures."""
        found = []
        for kind in undisturbed.seconds:
            bound = max(FACTOR * undisturbed.p99(kind), floor_seconds)
            if self.p99(kind) > bound:
                found.append(f"p99 of {kind}: {self.p99(kind):.3f} s, at most {bound:.3f} s")
        return found


@dataclass
class Owner:
    """An owner who does nothing unusual: asks for health, reads an agent, stores an evaluation."""

    client: Client
    name: str = "victim"
    _number: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        body = {"namespace": f"@{self.name}", "manifest": build_manifest("probed")}
        assert self.client.request("POST", "/v1/agents", body).status in (200, 409)

    def requests(self) -> list[tuple[str, str, str, Any]]:
        """Return a round of requests: kind, method, path and body."""
        agent = AGENT.format(name=self.name)
        result = {"suite": "s", "metrics": {"m": next(self._number)}}
        return [
            ("health", "GET", "/healthz", None),
            ("read", "GET", agent, None),
            ("write", "POST", f"{agent}/versions/1.0.0/evals", result),
        ]

    def goes_on_as(
        self, undisturbed: Probe, seconds: float, floor_seconds: float = FLOOR_SECONDS
    ) -> None:
        """Fail unless nothing fails now and every kind of request takes about as long as before."""
        assert not undisturbed.errors, undisturbed.errors[:3]
        delays = []
        for _ in range(COMPARISONS):
            probe = self.probe(seconds)
            assert not probe.errors, f"{len(probe.errors)} errors, such as {probe.errors[:3]}"
            delays.append(probe.delays(undisturbed, floor_seconds))
            if not delays[-1]:
                return
        raise AssertionError(f"delayed in each of {COMPARISONS} comparisons: {delays}")

    def probe(self, seconds: float) -> Probe:
        """Send round after round, each request on a connection of its own, and return what came."""
        found = Probe({kind: [] for kind, *_ in self.requests()}, [])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for kind, method, path, body in self.requests():
                begun = time.monotonic()
                try:
                    answer = self.client.request(method, path, body, timeout=PATIENCE_SECONDS)
                    if answer.status != 200:
                        found.errors.append(f"{kind}: {answer.status} {answer.body[:200]!r}")
                except (OSError, http.client.HTTPException) as error:
                    found.errors.append(f"{kind}: {error!r}")
                found.seconds[kind].append(time.monotonic() - begun)
            time.sleep(PAUSE_SECONDS)
        return found


@contextmanager
def attack(*attacks: Attack) -> Iterator[None]:
    """Run attacks beside the block, each in a thread that is told when to stop."""
    stop = threading.Event()
    threads = [threading.Thread(target=one, args=(stop,), daemon=True) for one in attacks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * PATIENCE_SECONDS)


@contextmanager
def connections(port: int, number: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections that send ``sent`` and then wait; a server may close them at any time."""
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            with suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
                stack.callback(one.close)
                opened.append(one)
                one.sendall(sent)
        yield opened


def drip(sockets: Sequence[socket.socket], stop: threading.Event, byte: bytes = b"x") -> None:
    """Send a byte a second on every connection until told to stop."""
    while not stop.wait(1):
        for one in sockets:
            with suppress(OSError):
                one.send(byte)


def repeat(request: Callable[[], object], threads: int = 4) -> Attack:
    """Return an attack of several threads that send a request over and over, whatever comes."""

    def run(stop: threading.Event) -> None:
        def loop() -> None:
            while not stop.is_set():
                with suppress(OSError, http.client.HTTPException):
                    request()

        workers = [threading.Thread(target=loop, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run
