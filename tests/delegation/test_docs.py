"""What docs/delegation.md shows is what the service does, command by command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from app.delegation import errors, lifecycle
from app.http.context import Services
from app.ledger.seals import seal_pending
from app.ops.demo import calls
from app.ops.demo_delegation import PARTNER_MANIFEST, PARTNER_NAMESPACE, REQUESTER
from tests.client import Api
from tests.migrations.project import ROOT

PAGE = (ROOT / "docs" / "delegation.md").read_text()
SERVICE = "http://127.0.0.1:8080"
# What differs from one run to the next, and what a run shows instead.
CHANGING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "TIME"),
    (r"1\.[A-Za-z0-9_-]{43}", "TOKEN"),
    (r'"(block|last_seq|leaf_index|tree_size)":\d+', r'"\1":0'),
)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of the page with the lines it prints."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = command.splitlines()
            length = 1 + next(
                (n for n, line in enumerate(lines[1:]) if not line.startswith("    ")),
                len(lines) - 1,
            )
            yield "\n".join(lines[:length]).replace("\\\n", " "), lines[length:]


def pick(expression: str, document: Any) -> list[Any]:
    """Do what ``jq -c`` does with the few expressions that the page uses."""
    *way, members = expression.split(" | ")
    values = [document]
    for name, index in re.findall(r"\.(\w+)\[(\d*)\]", " ".join(way)):
        values = [document[name][int(index)]] if index else document[name]
    picked = []
    for value in values:
        shown = {}
        for member in members.strip("{}").split(", "):
            name, _, path = member.partition(": .")
            found = value
            for part in (path or name).split("."):
                found = found.get(part)
            shown[name] = found
        picked.append(shown)
    return picked


def comparable(lines: list[str]) -> list[Any]:
    """Return printed lines of JSON without what differs from run to run."""
    text = "\n".join(lines)
    for pattern, shown in CHANGING:
        text = re.sub(pattern, shown, text)
    return [json.loads(line) for line in text.splitlines()]


class Reader:
    """Somebody who types the page's commands after the demonstration."""

    def __init__(self, keys: dict[str, Api], seal: Callable[[], Any]) -> None:
        self.keys = keys
        self.seal = seal
        self.variables: dict[str, str] = {}
        self.told: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []

    def type(self, command: str, expected: list[str]) -> list[Any] | None:
        """Run one command and return what it prints; None for one that prints nothing."""
        assigned = re.fullmatch(r"([A-Z]+)=(\S+)", command)
        if assigned:
            # The page names a value of its last answer: take the same member of ours.
            name, value = assigned.groups()
            (member,) = [key for key, told in self.told[-1].items() if told == value]
            self.variables[name] = self.seen[-1][member]
            return None
        command, _, expression = command.partition("|\n    jq -c ")
        if command.startswith("agenthub ledger digest"):
            expression = shlex.split(command)[-1]
            document = self.seal()
        else:
            document = self.curl(command)
        expression = shlex.split(expression)[0] if expression.startswith("'") else expression
        self.told = [json.loads(line) for line in expected]
        self.seen = pick(expression, document)
        return self.seen

    def curl(self, command: str) -> Any:
        """Send the request that a curl command sends."""
        (key,) = re.findall(r"X-API-Key: \$(\w+)", command)
        for name, value in self.variables.items():
            command = command.replace(f"${name}", value)
        words = shlex.split(command)
        assert words[:2] == ["curl", "-s"]
        options = list(pairwise(words))
        method = next((value for word, value in options if word == "-X"), "GET")
        (url,) = [word for word in words if word.startswith(SERVICE)]
        body = next((value.encode() for word, value in options if word == "-d"), None)
        sent = dict(value.split(": ", 1) for word, value in options if word == "-H")
        del sent["X-API-Key"]
        api = self.keys[key]
        return api.request(method, url.removeprefix(SERVICE), data=body, headers=sent).get_json()


@pytest.fixture
def reader(caller: Callable[..., Api], services: Services) -> Reader:
    """A reader for whom the demonstration has registered its agents and brought money in."""
    clerk, partner = caller("demo"), caller("demo-partner")
    operator = caller("demo-operator", role="admin")
    for call in calls():
        if call.body is not None:
            assert clerk.request(call.method, call.path, json=call.body).status_code == 200
    body: dict[str, Any] = {"namespace": PARTNER_NAMESPACE, "manifest": PARTNER_MANIFEST}
    assert partner.post("/v1/agents", body).status_code == 200
    body = {"agent_id": REQUESTER, "amount_usd": 5}
    assert operator.post("/v1/ledger/topups", body).status_code == 200

    def seal() -> Any:
        with services.database.transaction() as session:
            seal_pending(session)
        return operator.get("/v1/ledger/digest").get_json()

    keys = {"AGENTHUB_API_KEY": clerk, "AGENTHUB_WORKER_KEY": partner}
    return Reader(keys, seal)


def test_the_walk_through_prints_what_the_page_shows(reader: Reader) -> None:
    typed = 0
    for command, expected in commands():
        printed = reader.type(command, expected)
        if printed is not None:
            assert comparable([json.dumps(p, separators=(",", ":")) for p in printed]) == (
                comparable(expected)
            ), command
            typed += 1
    assert typed == 19


def test_the_table_of_commands_is_the_code() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (`[^|]+`) \|", PAGE, re.MULTILINE)
    told = {name: (side, tuple(re.findall(r"`(\w+)`", states))) for name, side, states in rows}
    assert told == {
        name: (command.side, command.states) for name, command in lifecycle.COMMANDS.items()
    }


def test_the_picture_shows_every_state_and_every_way_out_of_it() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    arrows = re.findall(r"^    (\w+) --> (\w+): (.*)$", picture, re.MULTILINE)
    assert {state for arrow in arrows for state in arrow[:2]} == set(lifecycle.STATUSES)
    told = {(start, label) for start, _, labels in arrows for label in labels.split(", ")}
    stays = {("in_progress", "accept")}
    for name in lifecycle.COMMANDS.keys() - {"heartbeat", "meter"}:
        for state in lifecycle.COMMANDS[name].states:
            assert (state, name) in told | stays
    assert {start for start, label in told if label == "time"} == (
        set(lifecycle.LIVE) - {lifecycle.DISPUTED}
    )


def test_the_states_of_the_agent2agent_protocol() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| `([a-z-]+)` \|$", PAGE, re.MULTILINE)
    told = {state: shown for states, shown in rows for state in re.findall(r"`(\w+)`", states)}
    assert told == lifecycle.A2A_STATES


def test_every_refusal_is_explained() -> None:
    codes = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and error.__doc__ and error.__module__ == errors.__name__
    }
    told = set(re.findall(r"^\| `(\w+)` \| \d{3} \|", PAGE, re.MULTILINE))
    assert codes <= told
