"""What docs/webhooks.md says is what happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.notification import deliveries as queue
from app.notification.events import EVENT_TYPES
from tests.client import Api
from tests.notification.conftest import Receiver, register, subscribe

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def test_it_names_every_type() -> None:
    table = PAGE.partition("## Events")[2].partition("```json")[0]
    assert set(re.findall(r"`([a-z]+\.[a-z_]+)`", table)) == set(EVENT_TYPES)


def test_it_shows_the_waits() -> None:
    row = re.search(r"\| next attempt in \|(.*)\| none", PAGE)
    assert row is not None
    units = {"s": 1, "min": 60, "h": 3600}
    shown = [entry.split() for entry in row[1].strip(" |").split("|")]
    assert [int(number) * units[unit] for number, unit in shown] == [
        wait.total_seconds() for wait in queue.RETRY_AFTER
    ]


def test_its_program_verifies_a_message(
    acme: Api, receiver: Receiver, deliver: Callable[[], dict[str, int]]
) -> None:
    program = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
                   if "def verify" in code)  # fmt: skip
    names: dict[str, Any] = {}
    exec(program, names)
    webhook = subscribe(acme, receiver.url)
    register(acme, "@acme:clerk")
    assert deliver() == {"delivered": 1}
    ((headers, body),) = receiver.requests
    verify = names["verify"]
    assert verify(webhook["secret"], headers, body)
    assert not verify(webhook["secret"], headers, body + b" ")
    assert not verify(webhook["secret"], headers | {"webhook-timestamp": "1700000000"}, body)
    assert not verify("whsec_" + "A" * 44, headers, body)
