"""The example documents shown in the OpenAPI document."""

from __future__ import annotations

from typing import Any

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
