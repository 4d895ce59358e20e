"""How to call an agent: requests to copy, filled with its own ids and a value to begin with."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from app.catalogue.fields import sample

TASK, BUDGET_USD = "Say here what is to be done", 1


@dataclass(frozen=True)
class Ways:
    """A read of the agent and a task for it, as commands to copy, and the task's body alone."""

    root: str
    read: str
    delegate: str
    body: str


def ways(root: str, agent_id: str, manifest: dict[str, Any]) -> Ways:
    """Return how the service at ``root`` is asked for an agent and for work by it."""
    address = f"{root}/v1/agents/{agent_id}"
    body = json.dumps(task(agent_id, manifest), indent=2, ensure_ascii=False)
    delegate = "\n".join(
        (
            f"curl -s {root}/v1/delegations \\",
            '  -H "X-API-Key: $AGENTHUB_API_KEY" -H "Idempotency-Key: $(uuidgen)" \\',
            "  -H 'Content-Type: application/json' \\",
            f"  -d {shlex.quote(body)}",
        )
    )
    return Ways(root, f"curl -s {shlex.quote(address)}", delegate, body)


def task(agent_id: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a delegation to the agent's first capability; the requester is the reader's own."""
    capability = manifest["capabilities"][0]
    return {
        "requester_agent_id": "@you:your-agent",
        "delegate_agent_id": agent_id,
        "execution": "remote",
        "capability_id": capability["id"],
        "task_spec": TASK,
        "task_input": sample(capability["input_schema"]),
        "estimated_cost_usd": BUDGET_USD,
        "max_budget_usd": BUDGET_USD,
    }
