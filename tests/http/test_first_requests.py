"""A worker that has just started: its first requests, many at once; and what follows a commit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.config import Settings
from app.http.context import Services
from app.metrics import metrics
from tests.client import Api
from tests.conftest import PEPPER
from tests.delegation.conftest import DELEGATIONS, request
from tests.delegation.conftest import agents as agents
from tests.delegation.conftest import operator as operator

# What they share has nothing to do with the database, so the slower one gets fewer.
WORKERS = {"sqlite": 100, "postgresql": 25}
CLIENTS = 16

# One interpreter builds the application and then becomes, by fork, a hundred workers that have not
# answered anything yet. In each of them sixteen clients ask for different things at once.
PROGRAM = """
import os, sys, threading
sys.setswitchinterval(1e-4)
from app import create_app
from app.config import Settings

app = create_app(Settings.from_env())
key, clients = sys.argv[1], int(sys.argv[2])

def ask(number, barrier, statuses):
    client = app.test_client()
    headers = {"X-API-Key": key, "Idempotency-Key": f"{os.getpid()}-{number}"}
    asked = (
        lambda: client.get("/healthz"),
        lambda: client.get("/v1/agents?limit=1"),
        lambda: client.get("/readyz"),
        lambda: client.post("/v1/agents", json={"namespace": "@acme"}, headers=headers),
        lambda: client.get("/v1/agents/@acme:nobody"),
        lambda: client.post("/v1/delegations", json={"task_spec": 1}, headers=headers),
        lambda: client.get("/v1/cost/metering", headers=headers),
        lambda: client.delete("/v1/agents/@acme:nobody", headers=headers),
    )[number % 8]
    barrier.wait()
    statuses.append(asked().status_code)

def work():
    barrier, statuses = threading.Barrier(clients), []
    threads = [
        threading.Thread(target=ask, args=(number, barrier, statuses)) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(statuses) == clients and max(statuses) < 500

broken = 0
for _ in range(int(sys.argv[3])):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 1)
    broken += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
sys.exit(f"{broken} workers answered with an error" if broken else 0)
"""


def test_the_first_requests_of_a_worker_may_come_at_once(
    acme: Api, settings: Settings, services: Services, dialect: str
) -> None:
    services.database.dispose()
    environ = {
        "AGENTHUB_DATABASE_URL": settings.url.render_as_string(hide_password=False),
        "AGENTHUB_DATA_DIR": str(settings.data_dir),
        "AGENTHUB_KEY_PEPPER": PEPPER,
        "AGENTHUB_RATE_LIMIT_PER_MINUTE": "0",
        "AGENTHUB_THREADS": str(CLIENTS),
        "AGENTHUB_LOG_LEVEL": "error",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, acme.key or "", str(CLIENTS), str(WORKERS[dialect])],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def fail(*_: object, **__: object) -> None:
    """Fail as a full disk makes counting and logging fail."""
    raise OSError("no space left on the device")


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize(
    "part",
    ["app.http.hooks.metrics", "app.http.hooks.log.info", "app.delegation.announcements.metrics"],
)
def test_what_follows_a_commit_cannot_deny_it(
    acme: Api, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(part, fail)
        answer = acme.post(DELEGATIONS, request(), idempotency_key="k")
    assert answer.status_code == 200
    replay = acme.post(DELEGATIONS, request(), idempotency_key="k")
    assert (replay.headers["Idempotent-Replayed"], replay.data) == ("true", answer.data)


def test_the_counters_are_made_once() -> None:
    assert metrics() is metrics()
