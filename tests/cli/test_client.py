"""The developer's commands, against a running service over HTTP."""

from __future__ import annotations

import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import OVER_HTTP, main
from app.client import profile
from app.client import worker as client_worker
from app.client.hub import Hub, HubError, Refused
from app.client.manifests import faults_of, read_file
from app.client.openapi import capabilities_of
from app.client.worker import Worker
from tests.reliability.server import Server, group_of, make_client, running, wait_for

DOCS = Path(__file__).resolve().parents[2] / "docs"
Told = list[tuple[str, str | None]]
COUNTER = "@acme:counter"
BOSS = "@globex:boss"
COUNT = """#!/bin/sh
read -r input
echo '{"cost_usd": 0.02, "operation": "count"}' > "$AGENTHUB_TASK_METER"
case "$input" in
  *fail*) echo "cannot count that" >&2; exit 3;;
  *slow*) sleep 60;;
  *mute*) exit 0;;
esac
echo '{"words": 3}'
"""
OPENAPI = """
openapi: 3.0.3
info: {title: Pet Store, description: Sells pets to people., version: 1.0.0}
servers: [{url: https://pets.example.com/v1}]
components:
  securitySchemes: {key: {type: apiKey, in: header, name: X-Key}}
  schemas:
    Pet:
      type: object
      required: [name]
      properties:
        name: {type: string, example: Rex}
        age: {type: integer, minimum: 0, exclusiveMinimum: true}
        tag: {type: string, nullable: true, enum: [cat, dog]}
        mother: {$ref: '#/components/schemas/Pet'}
paths:
  /pets/{petId}:
    parameters: [{name: petId, in: path, required: true, schema: {type: string}}]
    get:
      operationId: showPetById
      responses:
        '200':
          description: ok
          content: {application/json: {schema: {$ref: '#/components/schemas/Pet'}}}
    delete: {summary: x, responses: {'204': {description: gone}}}
  /pets:
    post:
      operationId: createPet
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: '#/components/schemas/Pet'}}}
      responses: {201: {description: ok}}
"""


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose agents begin with money, on one database: no client sees which."""
    with running(sqlite_template, tmp_path_factory.mktemp("client")) as one:
        yield one


class Desk:
    """A developer at a terminal, with a profile of its own and a key of ``owner``."""

    def __init__(self, server: Server, folder: Path, owner: str) -> None:
        self.url = f"http://127.0.0.1:{server.port}"
        self.key = make_client(server, owner).api_key
        self.folder = folder
        self.environ = {"AGENTHUB_URL": self.url, "AGENTHUB_API_KEY": self.key}
        self.hub = Hub(self.url, self.key)

    def run(self, *arguments: str, code: int = 0, given: str | None = None, **more: Any) -> Result:
        """Run a command that ends with ``code``."""
        environ = {"AGENTHUB_URL": None, "AGENTHUB_API_KEY": None, **self.environ, **more}
        result = CliRunner().invoke(main, arguments, input=given, env=environ)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command and return the JSON that it prints."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def write(self, name: str, text: str) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def change(self, name: str, version: str, **members: Any) -> None:
        """Change the version and the one capability of a manifest in a file."""
        path = self.folder / name
        document = json.loads(path.read_text())
        document["manifest"]["identity"]["version"] = version
        document["manifest"]["capabilities"][0] |= members
        path.write_text(json.dumps(document))


@pytest.fixture
def desk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Desk]:
    """Make desks, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile, "profile_path", lambda: tmp_path / "settings" / "profile.json")
    return lambda owner: Desk(server, tmp_path, owner)


@pytest.fixture
def counter(desk: Callable[[str], Desk]) -> Desk:
    """The publisher of ``COUNTER``, which counts words, with its program."""
    acme = desk("acme")
    acme.run("init", "counter.json", "--namespace", "@acme", "--name", "Counter", "--force")
    acme.run("publish", "counter.json")
    acme.write("count.sh", COUNT)
    return acme


@pytest.fixture
def boss(desk: Callable[[str], Desk]) -> Desk:
    """The owner of ``BOSS``, who has work for others."""
    globex = desk("globex")
    globex.environ["AGENTHUB_AGENT"] = BOSS
    globex.run("init", "boss.json", "--namespace", "globex", "--name", "Boss")
    globex.run("publish", "boss.json")
    return globex


def test_a_login_is_kept_for_its_owner_alone(desk: Callable[[str], Desk]) -> None:
    acme = desk("acme")
    nobody = {"AGENTHUB_URL": None, "AGENTHUB_API_KEY": None}
    path = profile.profile_path()
    refused = acme.run("login", "--url", acme.url, given="ah_wrong\n", code=2, **nobody)
    assert "API key" in refused.stderr
    assert not path.exists()
    acme.run("login", "--url", acme.url, "--namespace", "@acme", given=f"{acme.key}\n", **nobody)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    # The profile says where and who, what is said on the spot counts before it.
    acme.run("init", "one.json", "--name", "Of a profile", **nobody)
    acme.run("publish", "one.json", **nobody)
    # The key of one service is not sent to another.
    elsewhere = {"AGENTHUB_URL": "http://127.0.0.1:1", "AGENTHUB_API_KEY": None}
    assert "needs an API key" in acme.run("publish", "one.json", code=2, **elsewhere).stderr
    path.chmod(0o644)
    assert "chmod 600" in acme.run("publish", "one.json", code=2, **nobody).stderr
    path.chmod(0o600)
    acme.run("logout", **nobody)
    assert not path.exists()


def test_a_manifest_is_written_checked_and_published(desk: Callable[[str], Desk]) -> None:
    acme = desk("acme")
    named = ("--namespace", "@acme", "--name", "Word Tool", "--description", "Tells words apart.")
    assert "say it with --name" in acme.run("init", "--namespace", "@acme", code=2).stderr
    acme.run("init", *named)
    assert "use --force" in acme.run("init", *named, code=2).stderr
    assert "breaks nobody" in acme.run("check").stdout
    first = acme.json("publish")
    assert (first["agent_id"], first["outcome"]) == ("@acme:word-tool", "registered")
    assert acme.json("publish") == first | {"outcome": "unchanged"}
    published = acme.hub.get("/v1/agents/@acme:word-tool/versions/1.0.0")
    assert published["digest"] == first["digest"]

    acme.change("agent.json", "1.1.0", input_schema={"type": "object", "required": ["text"]})
    found = acme.json("check")
    assert (found["valid"], found["compatibility"]) == (True, "breaking")
    assert found["compared_with"] == "1.0.0"
    assert "input required added: text" in acme.run("check", "--fail-on-breaking", code=1).stdout
    assert acme.json("publish")["outcome"] == "published"
    acme.change("agent.json", "1.0.0")
    other = acme.run("publish", code=2).stderr
    assert "published with other content" in other
    acme.run("deprecate", "@acme:word-tool")
    acme.change("agent.json", "1.1.0")
    assert acme.json("publish")["outcome"] == "unchanged"

    assert "deprecated" in acme.run("show", "@acme:word-tool").stdout
    assert acme.json("show", "@acme:word-tool@1.0.0")["version"] == "1.0.0"
    for base, target in (
        ("@acme:word-tool@1.0.0", "@acme:word-tool"),
        ("@acme:word-tool@1.0.0", "agent.json"),
    ):
        assert acme.json("diff", base, target, code=1)["compatibility"] == "breaking"
    acme.run("fork", "@acme:word-tool", "@acme:word-copy")
    assert acme.json("show", "@acme:word-copy")["forked_from"]["version"] == "1.1.0"
    assert "no agent has the id" in acme.run("show", "@acme:none", code=2).stderr
    # An agent to begin with.
    acme.run("init", "copy.json", "--from-agent", "@acme:word-tool", "--namespace", "@acme")
    assert acme.json("publish", "copy.json")["outcome"] == "unchanged"


def test_everything_that_is_wrong_is_said_at_once(desk: Callable[[str], Desk]) -> None:
    acme = desk("acme")
    path = acme.write("bad.json", json.dumps({"identity": {"version": "one"}, "more": 1}))
    found = acme.json("check", path, code=1)
    told = {one["pointer"]: one["detail"] for one in found["errors"]}
    assert "a SemVer 2.0 version such as 1.0.0" in told["/identity/version"]
    assert {"/identity/name", "/capabilities", "/more"} <= set(told)
    assert "/identity/name" in acme.run("publish", path, "--namespace", "@acme", code=2).stderr
    for text, words in (("rubbish", "is no JSON"), ("[]", "holds no manifest")):
        assert words in acme.run("check", acme.write("bad.json", text), code=2).stderr
    assert "No such file" in acme.run("check", "none.json", code=2).stderr
    alone = {"type": "object", "properties": {"n": {"type": "string", "pattern": "(["}}}
    acme.run("init", "alone.json", "--namespace", "@acme", "--name", "Alone")
    acme.change("alone.json", "1.0.0", input_schema=alone)
    assert "/capabilities/0/input_schema" in acme.run("check", "alone.json", code=1).stdout


def test_an_openapi_document_becomes_capabilities(desk: Callable[[str], Desk]) -> None:
    acme = desk("acme")
    source = acme.write("openapi.yaml", OPENAPI)
    acme.run("init", "pets.json", "--from-openapi", source, "--namespace", "@acme")
    manifest = read_file(acme.folder / "pets.json").manifest
    assert faults_of(read_file(acme.folder / "pets.json")) == []
    assert manifest["interfaces"][0]["endpoint"] == "https://pets.example.com/v1"
    assert manifest["interfaces"][0]["auth"] == "api_key"
    by_id = {one["id"]: one for one in manifest["capabilities"]}
    assert set(by_id) == {"show-pet-by-id", "delete-pets-pet-id", "create-pet"}
    read, create = by_id["show-pet-by-id"], by_id["create-pet"]
    assert read["input_schema"]["required"] == ["petId"]
    pet = read["output_schema"]["$defs"]["Pet"]["properties"]
    assert pet["tag"] == {"type": ["string", "null"], "enum": ["cat", "dog", None]}
    assert pet["age"] == {"type": "integer", "exclusiveMinimum": 0}
    assert pet["name"] == {"type": "string"}
    assert create["input_schema"]["properties"]["body"]["$ref"] == "#/$defs/Pet"
    assert (read["side_effect_level"], create["side_effect_level"]) == ("none", "low")
    assert by_id["delete-pets-pet-id"]["side_effect_level"] == "high"
    assert acme.json("publish", "pets.json")["outcome"] == "registered"
    with pytest.raises(HubError, match="no operation"):
        capabilities_of({"paths": {}})
    broken = acme.write("broken.yaml", "{")
    told = acme.run("init", "x.json", "--from-openapi", broken, "--namespace", "@a1", code=2)
    assert "neither JSON nor YAML" in told.stderr


def test_a_shell_script_is_a_paid_worker(counter: Desk, boss: Desk) -> None:
    given = ("--capability", "counter", "--budget", "0.5")
    made = [
        boss.json("delegate", COUNTER, *given, "--input", json.dumps({"text": text}))
        for text in ("one", "fail", "mute")
    ]
    ran = counter.run("worker", COUNTER, "--until-idle", "--json", "--", "./count.sh")
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["event"] for one in events if one["delegation_id"] == made[0]["delegation_id"]] == [
        "claimed",
        "metered",
        "delivered",
    ]
    ended = [boss.hub.get(f"/v1/delegations/{one['delegation_id']}") for one in made]
    assert [one["status"] for one in ended] == ["delivered", "failed", "failed"]
    assert ended[0]["deliverable"] == {"output": {"words": 3}}
    assert ended[0]["actual_cost_usd"] == 0.02
    failed = boss.hub.get(f"/v1/delegations/{made[1]['delegation_id']}/events")["events"][-1]
    assert failed["details"]["reason"] == "cannot count that"
    mute = boss.hub.get(f"/v1/delegations/{made[2]['delegation_id']}/events")["events"][-1]
    assert mute["details"]["reason"] == "the worker's program did not print one JSON value"


def test_a_requester_waits_for_the_result_and_accepts_it(counter: Desk, boss: Desk) -> None:
    asked = ("delegate", COUNTER, "--task", "Count these words", "--budget", "0.5", "--accept")
    worker = start(counter, "--max-tasks", "2", "--text", "--", "cat")
    path = boss.write("input.json", '{"text": "one"}')
    done = boss.run(*asked, "--input", f"@{path}")
    assert json.loads(done.stdout) == '{"text": "one"}'
    assert "delivered; 0 USD used" in done.stderr
    assert "accepted" in done.stderr
    settled = boss.json(*asked, "--input", "[1]")
    assert (settled["status"], settled["settlement"]) == ("completed", "settled")
    assert worker.wait(20) == 0
    # What happened, from the beginning to the end, of which the stream knows.
    told = boss.run("tail", settled["delegation_id"]).stdout.splitlines()
    assert [line.split()[1] for line in told] == ["created", "accepted", "delivered", "closed"]
    lines = boss.run("tail", settled["delegation_id"], "--json").stdout.splitlines()
    assert json.loads(lines[-1])["kind"] == "closed"


def start(desk: Desk, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a worker in a process of its own, which writes to the file ``worker.log``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTHUB_")}
    with (desk.folder / "worker.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", "worker", COUNTER, *arguments],
            env=kept | {name: value for name, value in desk.environ.items() if value},
            cwd=desk.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def offer(boss: Desk, text: str, **changes: Any) -> str:
    """Offer a task for the counter and return its id."""
    body = {
        "execution": "remote",
        "requester_agent_id": BOSS,
        "delegate_agent_id": COUNTER,
        "task_spec": "Count these words",
        "task_input": {"text": text},
        "estimated_cost_usd": 0.5,
        "max_budget_usd": 1,
    }
    return str(boss.hub.write("POST", "/v1/delegations", body | changes)["delegation_id"])


def is_in(boss: Desk, delegation_id: str, status: str) -> Callable[[], bool]:
    return lambda: boss.hub.get(f"/v1/delegations/{delegation_id}")["status"] == status


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def work(
    counter: Desk, told: Told, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Worker]]:
    """Start workers in threads of this process; all are stopped in the end."""
    # A claim that waits is waited for.
    monkeypatch.setattr(client_worker, "CLAIM_SECONDS", 1)
    started: list[tuple[Worker, threading.Thread]] = []

    def begin(*command: str, **options: Any) -> Worker:
        def tell(event: str, delegation_id: str | None, **_: Any) -> None:
            told.append((event, delegation_id))

        one = Worker(counter.hub, COUNTER, command, tell, drain_seconds=0, **options)
        thread = threading.Thread(target=one.run)
        started.append((one, thread))
        thread.start()
        return one

    yield begin
    for one, thread in started:
        one.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_a_program_is_held_until_more_is_authorized(
    boss: Desk, counter: Desk, work: Callable[..., Worker], told: Told
) -> None:
    program = counter.write(
        "dear.sh",
        "#!/bin/sh\necho '{\"cost_usd\": 0.5}' > $AGENTHUB_TASK_METER\nsleep 0.5\n"
        "touch went-on\necho true\n",
    )
    work(program)
    delegation_id = offer(boss, "one", auto_reauthorize=False, lease_seconds=2)
    wait_for(lambda: ("paused", delegation_id) in told)
    time.sleep(1.5)
    # It is held, and its lease rests.
    assert not (counter.folder / "went-on").exists()
    path = f"/v1/delegations/{delegation_id}"
    boss.hub.write("POST", f"{path}/reauthorize", {"new_estimate_usd": 1})
    wait_for(is_in(boss, delegation_id, "delivered"))
    events = [event for event, of in told if of == delegation_id]
    assert events == ["claimed", "metered", "paused", "resumed", "delivered"]


def test_a_program_ends_with_what_it_is_for(
    boss: Desk, counter: Desk, work: Callable[..., Worker], told: Told
) -> None:
    """When the task is called off, and when its budget is used up by far."""
    program = counter.write(
        "long.sh",
        "#!/bin/sh\nread -r input\necho $$ >> pids\n"
        'case "$input" in *dear*) echo \'{"cost_usd": 0.7}\' > $AGENTHUB_TASK_METER;; esac\n'
        "sleep 60 & wait\n",
    )
    work(program, parallel=2)
    cancelled = offer(boss, "one", lease_seconds=2)
    stopped = offer(boss, "dear", auto_reauthorize=False)
    wait_for(is_in(boss, stopped, "failed_hard_stop"))
    wait_for(lambda: ("claimed", cancelled) in told)
    boss.hub.write("POST", f"/v1/delegations/{cancelled}/cancel", {"reason": "no longer needed"})
    wait_for(is_in(boss, cancelled, "cancelled"))
    wait_for(lambda: {("lost", cancelled), ("lost", stopped)} <= set(told))
    pids = [int(line) for line in (counter.folder / "pids").read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        assert group_of(pid) == []


def test_a_worker_that_is_told_to_stop_leaves_its_task_to_others(
    boss: Desk, counter: Desk, work: Callable[..., Worker]
) -> None:
    delegation_id = offer(boss, "slow", lease_seconds=2)
    first = start(counter, "--drain-seconds", "0.5", "--", "./count.sh")
    wait_for(is_in(boss, delegation_id, "in_progress"))
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert "another one takes the task over" in (counter.folder / "worker.log").read_text()
    work("echo", "2")
    wait_for(is_in(boss, delegation_id, "delivered"))


def test_a_result_that_breaks_the_capability_fails_the_task(
    boss: Desk, counter: Desk, work: Callable[..., Worker]
) -> None:
    work("echo", '"no object"')
    delegation_id = offer(boss, "one", capability_id="counter")
    wait_for(is_in(boss, delegation_id, "failed"))
    events = boss.hub.get(f"/v1/delegations/{delegation_id}/events")["events"]
    assert "the result was refused" in events[-1]["details"]["reason"]


def test_a_service_that_is_away_for_a_while_loses_no_result(
    boss: Desk, counter: Desk, server: Server, work: Callable[..., Worker], told: Told
) -> None:
    """It is killed while the program works; what was metered and done arrives once it is back."""
    program = counter.write(
        "patient.sh",
        "#!/bin/sh\ntouch begun\nwhile [ ! -e go-on ]; do sleep 0.1; done\n"
        "echo '{\"cost_usd\": 0.02}' > $AGENTHUB_TASK_METER\necho '{\"words\": 3}'\n",
    )
    counter.hub = Hub(counter.url, counter.key, attempts=0)
    work(program)
    delegation_id = offer(boss, "one")
    wait_for((counter.folder / "begun").exists)
    server.kill()
    (counter.folder / "go-on").touch()
    wait_for(lambda: ("waiting", delegation_id) in told)
    server.start()
    wait_for(is_in(boss, delegation_id, "delivered"))
    found = boss.hub.get(f"/v1/delegations/{delegation_id}")
    assert (found["actual_cost_usd"], found["deliverable"]) == (0.02, {"output": {"words": 3}})


def test_what_no_parser_takes_fails_the_task_and_not_the_worker(
    boss: Desk, counter: Desk, work: Callable[..., Worker]
) -> None:
    deep = counter.write("deep.sh", f"#!/bin/sh\necho '{'[' * 100_000}'\n")
    work(deep)
    for _ in range(2):
        wait_for(is_in(boss, offer(boss, "one"), "failed"))


def test_who_may_not_work_for_an_agent_is_told(boss: Desk, counter: Desk) -> None:
    refused = boss.run("worker", COUNTER, "--", "true", code=2).stderr
    assert "belongs to another owner" in refused
    nobody = {"AGENTHUB_API_KEY": None}
    assert "needs an API key" in boss.run("worker", COUNTER, "--", "true", code=2, **nobody).stderr
    missing = counter.run("worker", COUNTER, "--until-idle", "--", "/no/such/program")
    assert missing.stdout == ""


def test_requests_are_repeated_under_their_key_until_they_are_answered() -> None:
    """An answer that asks to wait, a busy service, and then the answer."""
    keys: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Idempotency-Key"])
            status = (409, 503, 429, 200)[min(len(keys), 4) - 1]
            self.send_response(status)
            if status != 200:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        hub = Hub(f"http://127.0.0.1:{stub.server_port}", "key")
        assert hub.write("POST", "/v1/agents", {}) == {}
        assert len(keys) == 4
        assert len(set(keys)) == 1
        keys.clear()
        with pytest.raises(Refused):
            Hub(hub.url, "key", attempts=0).write("POST", "/v1/agents", {})
        stub.shutdown()
    with pytest.raises(HubError, match="no AgentHub answers"):
        Hub("http://127.0.0.1:1", attempts=0).get("/v1/agents")


def test_every_shell_gets_its_completion() -> None:
    for shell in ("bash", "zsh", "fish"):
        result = CliRunner().invoke(main, ["completion", shell])
        assert result.exit_code == 0
        assert "_AGENTHUB_COMPLETE" in result.stdout


def test_every_command_is_documented() -> None:
    page = (DOCS / "cli.md").read_text()
    for name in OVER_HTTP:
        assert f"`agenthub {name}" in page, name
