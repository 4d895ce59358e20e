"""The contract that every delegation is made under, version 2: what both sides can rely on."""

from __future__ import annotations

from typing import Any

from app.delegation.breaker import HARD_STOP, REAUTHORIZATION, SOFT_ALERT

VERSION = "delegation-contract-v2"


def _retry(max_retries: int, *backoff_ms: int) -> dict[str, Any]:
    return {
        "max_retries": max_retries,
        "backoff_ms": list(backoff_ms),
        "idempotency_required": True,
    }


CONTRACT: dict[str, Any] = {
    "version": VERSION,
    "idempotency_required": True,
    "sla": {"p95_latency_ms_target": 3000, "max_end_to_end_timeout_ms": 8000},
    "timeouts_ms": {
        "discovery": 500,
        "negotiation": 800,
        "execution": 5000,
        "delivery": 800,
        "settlement": 900,
    },
    "retry_matrix": {
        "transient_network_error": _retry(2, 100, 250),
        "delegate_timeout": _retry(1, 200),
        "policy_denied": _retry(0),
        "hard_stop_budget": _retry(0),
    },
    "circuit_breakers": {
        "soft_alert_pct": SOFT_ALERT,
        "reauthorization_pct": REAUTHORIZATION,
        "hard_stop_pct": HARD_STOP,
    },
}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_COUNT = {"type": "integer", "minimum": 0}
_MILLISECONDS = {"type": "integer", "minimum": 1}
_RETRY = _closed(
    {
        "max_retries": _COUNT,
        "backoff_ms": {"type": "array", "items": _MILLISECONDS},
        "idempotency_required": {"const": True},
    }
)

# JSON Schema, Draft 2020-12. It stands alone, so that a client can pin it.
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Delegation contract, version 2",
    **_closed(
        {
            "version": {"const": VERSION},
            "idempotency_required": {"const": True},
            "sla": _closed(
                {"p95_latency_ms_target": _MILLISECONDS, "max_end_to_end_timeout_ms": _MILLISECONDS}
            ),
            "timeouts_ms": _closed(dict.fromkeys(CONTRACT["timeouts_ms"], _MILLISECONDS)),
            "retry_matrix": _closed(dict.fromkeys(CONTRACT["retry_matrix"], _RETRY)),
            "circuit_breakers": _closed(
                {name: {"const": share} for name, share in CONTRACT["circuit_breakers"].items()}
            ),
        }
    ),
}
