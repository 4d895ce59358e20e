"""The example documents shown in the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.registry.trust import Evidence, assess

MANIFEST: dict[str, Any] = {
    "schema_version": "0.1",
    "identity": {
        "id": "invoice-summarizer",
        "name": "Invoice Summarizer",
        "version": "1.0.0",
        "description": "Reads supplier invoices and summarizes amounts, dates and terms.",
        "owner": "acme-finance",
        "type": "service",
        "tags": ["finance", "invoices"],
    },
    "capabilities": [
        {
            "id": "summarize",
            "name": "Summarize an invoice",
            "category": "transformation",
            "description": "Turns one invoice into a short structured summary.",
            "input_schema": {
                "type": "object",
                "properties": {"invoice": {"type": "string"}},
                "required": ["invoice"],
            },
            "output_schema": {
                "type": "object",
                "properties": {"summary": {"type": "string"}, "total": {"type": "number"}},
                "required": ["summary"],
            },
            "protocols": ["HTTP"],
            "permissions": ["invoices.read"],
            "idempotency_key_required": False,
            "side_effect_level": "none",
            "cost": {"mode": "usage", "estimated_cost": 0.02, "unit": "invoice"},
        }
    ],
    "interfaces": [
        {
            "name": "rest",
            "protocol": "HTTP",
            "endpoint": "https://agents.acme.example/invoice-summarizer",
            "auth": "api_key",
            "privileged": False,
        }
    ],
    "trust": {
        "minimum_trust_score": 0.5,
        "allowed_trust_sources": ["first_party", "partner"],
        "policy": {
            "injection_protection": "strict",
            "pii_handling": "mask",
            "data_retention_days": 30,
            "high_risk_approval_required": True,
        },
        "budget_guardrails": {
            "soft_alert_pct": 80,
            "reauthorization_pct": 100,
            "hard_stop_pct": 120,
        },
        "credential_policy": {"short_lived_credentials": True, "max_ttl_minutes": 60},
    },
    "runtime": {
        "execution_mode": "deterministic_workflow",
        "sandbox": "container",
        "max_retries": 2,
        "timeout_seconds": 60,
        "idempotency_required": True,
        "replay_safe": True,
        "observability": {
            "log_privileged_actions": True,
            "emit_cost_metrics": True,
            "emit_latency_metrics": True,
        },
    },
}

CHANGES: dict[str, Any] = {
    "compatibility": "breaking",
    "risk_level": "medium",
    "regression_risk_score": 3,
    "capability_delta": {"added": ["translate"], "removed": [], "modified": ["summarize"]},
    "breaking_changes": [
        {"capability_id": "summarize", "type": "input_required_added", "fields": ["currency"]}
    ],
    "non_breaking_changes": [{"type": "capabilities_added", "capability_ids": ["translate"]}],
}

SUMMARY: dict[str, Any] = {
    "status": "evaluated",
    "evaluation_id": "01981f0e-7b5a-7c3e-9d52-3f1f6f7f9a10",
    "evaluations": 1,
    "suite": "invoices-2026-11",
    "evaluated_at": "2026-11-20T09:30:00.000000Z",
    "cases": {"passed": 47, "total": 50},
    "metrics": {"accuracy": 0.94, "p95_latency_ms": 830},
}

CAPABILITY: dict[str, Any] = {
    "capability_id": "summarize",
    "capability_name": "Summarize an invoice",
    "description": "Turns one invoice into a short structured summary.",
    "protocols": ["HTTP"],
    "permissions": ["invoices.read"],
    "input_schema": {"type": "object", "required": ["invoice"]},
    "output_schema": {"type": "object", "required": ["summary"]},
}

EVALUATION: dict[str, Any] = {
    "id": SUMMARY["evaluation_id"],
    "agent_id": "@acme:invoice-summarizer",
    "version": "1.0.0",
    "suite": "invoices-2026-11",
    "metrics": SUMMARY["metrics"],
    "cases": {"passed": 47, "total": 50},
    "evaluated_at": "2026-11-20T09:30:00.000000Z",
    "recorded_at": "2026-11-20T09:31:12.401928Z",
}

TRUST: dict[str, Any] = {
    "agent_id": "@acme:invoice-summarizer",
    **assess(
        Evidence(
            delegations_completed=240,
            delegations_failed=6,
            delegations_unpaid=4,
            completed_milli=75_600,
            failed_milli=2_400,
            say_milli=7_800,
            paying_owners=9,
            own_micros=412_500_000,
            usage_succeeded=540,
            usage_failed=8,
            usage_reporters=4,
            usage_payers=3,
            usage_good_milli=29_300,
            usage_bad_milli=700,
            usage_over_limit=498,
            usage_unpaid=20,
            cases_passed=47,
            cases_total=50,
            published_since=int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()),
            versions=4,
        ),
        datetime(2026, 11, 20, tzinfo=UTC),
    ),
}

USAGE: dict[str, Any] = {
    "id": "01981f0e-7b5a-7c3e-9d52-3f1f6f7f9a11",
    "agent_id": "@acme:invoice-summarizer",
    "outcome": "success",
    "count": 25,
    "note": "Invoices of the first week.",
    "reported_at": "2026-11-20T09:30:00.000000Z",
    "independent": True,
    "to_date": {"succeeded": 190, "failed": 10},
    "counted": {"succeeded": 9, "failed": 0},
    "trust": {name: TRUST[name] for name in ("score", "tier", "badge")},
}
