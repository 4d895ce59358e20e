"""Policy: may this agent delegate that task? A pure function of its input to a decision document.

The same input gives the same document, byte for byte, so that an auditor can repeat a decision from
what is stored with the delegation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.canonical import canonical_json, digest
from app.money import to_usd

POLICY_VERSION = "delegation-policy-v1"

BUDGET_HARD_STOP = "budget.hard_stop_120"
BUDGET_REAUTHORIZATION = "budget.reauthorization_required_100"
BUDGET_SOFT_ALERT = "budget.soft_alert_80"
TRUST_FLOOR = "trust.floor_not_met"
TRUST_MISSING = "trust.delegate_score_missing"
PERMISSIONS_MISSING = "permissions.missing_required"
ALLOW = "policy.allow"
_VIOLATION, _WARNING, _INFORMATION = "violation", "warning", "information"


@dataclass(frozen=True)
class PolicyInput:
    """What a decision depends on. Amounts are micro-USD.

    ``trust_score`` is 0 to 100, None for a delegate without any evidence; ``minimum_trust`` is a
    share of 1, None for no demand. ``auto_reauthorize`` matters only where the estimate is the
    whole budget.
    """

    requester: str
    delegate: str
    delegate_version: str
    estimated_micros: int
    max_budget_micros: int
    minimum_trust: float | None
    trust_score: int | None
    required_permissions: tuple[str, ...]
    granted_permissions: tuple[str, ...]
    auto_reauthorize: bool = True

    @property
    def is_dead_end(self) -> bool:
        """Tell whether work that costs its estimate would wait for what nobody can authorize."""
        return self.estimated_micros == self.max_budget_micros and not self.auto_reauthorize


# A decision document, and in it the reasons: ``code``, ``message``, ``type`` (violation, warning or
# information) and, where a member of the input is at fault, ``field``, ``expected``, ``observed``.
Decision = dict[str, Any]
Reason = dict[str, Any]


def decide(given: PolicyInput) -> Decision:
    """Return the decision document for a delegation about to be created."""
    reasons = [*_budget(given), *_trust(given), *_permissions(given)]
    violated = [reason["code"] for reason in reasons if reason["type"] == _VIOLATION]
    allowed = not violated
    if allowed:
        message = "Budget, trust and permissions allow the delegation."
        reasons.append({"code": ALLOW, "message": message, "type": _INFORMATION})
    return {
        "policy_version": POLICY_VERSION,
        "context": "delegation.create",
        "action": "delegate",
        "actor": given.requester,
        "subject": given.delegate,
        "decision": "allow" if allowed else "deny",
        "allowed": allowed,
        "reasons": reasons,
        "violated_constraints": violated,
        "evaluated_constraints": {
            "budget": {
                "estimated_cost_usd": to_usd(given.estimated_micros),
                "max_budget_usd": to_usd(given.max_budget_micros),
                "ratio": given.estimated_micros * 10_000 // given.max_budget_micros / 10_000,
            },
            "trust": {
                "min_delegate_trust_score": given.minimum_trust,
                "delegate_trust_score": _share(given.trust_score),
            },
            "permissions": {
                "required": sorted(given.required_permissions),
                "granted": sorted(given.granted_permissions),
            },
        },
        "input_hash": digest(canonical_json(_plain(given))),
    }


def only_budget(decision: Decision) -> bool:
    """Tell whether a refusal rests on the budget and on nothing else."""
    return all(code.startswith("budget.") for code in decision["violated_constraints"])


def _share(score: int | None) -> float | None:
    return None if score is None else score / 100


def _plain(given: PolicyInput) -> dict[str, Any]:
    """Return the input with what has no order put in order, so that equal inputs hash alike.

    What no decision before this release rested on is left out where none rests on it now, so that
    the decisions that are stored can be repeated with the same hash.
    """
    document = dict(vars(given))
    if not given.is_dead_end:
        del document["auto_reauthorize"]
    for name in ("required_permissions", "granted_permissions"):
        document[name] = sorted(document[name])
    return document


def _budget(given: PolicyInput) -> Sequence[Reason]:
    estimated, maximum = given.estimated_micros, given.max_budget_micros
    shown = {
        "field": "estimated_cost_usd",
        "expected": f"at most {to_usd(maximum)}",
        "observed": to_usd(estimated),
    }
    if estimated * 100 >= maximum * 120:
        message = "The estimate is at least 120 % of the maximum budget."
        return [{"code": BUDGET_HARD_STOP, "message": message, "type": _VIOLATION, **shown}]
    if estimated > maximum:
        message = "The estimate is above the maximum budget."
        return [{"code": BUDGET_REAUTHORIZATION, "message": message, "type": _VIOLATION, **shown}]
    if given.is_dead_end:
        message = (
            "The estimate is the whole maximum budget, so that without auto_reauthorize the work"
            " would stop at its end for an authorization that nobody can give."
        )
        shown["expected"] = f"less than {to_usd(maximum)}, or auto_reauthorize"
        return [{"code": BUDGET_REAUTHORIZATION, "message": message, "type": _VIOLATION, **shown}]
    if estimated * 100 >= maximum * 80:
        message = "The estimate is at least 80 % of the maximum budget."
        return [{"code": BUDGET_SOFT_ALERT, "message": message, "type": _WARNING, **shown}]
    return []


def _trust(given: PolicyInput) -> Sequence[Reason]:
    if given.minimum_trust is None:
        return []
    expected = f"at least {given.minimum_trust}"
    if given.trust_score is None:
        return [
            {
                "code": TRUST_MISSING,
                "message": "There is no evidence yet to compute the delegate's trust from.",
                "type": _VIOLATION,
                "field": "min_delegate_trust_score",
                "expected": expected,
                "observed": None,
            }
        ]
    if given.trust_score / 100 < given.minimum_trust:
        return [
            {
                "code": TRUST_FLOOR,
                "message": "The delegate's trust is below what the requester demands.",
                "type": _VIOLATION,
                "field": "min_delegate_trust_score",
                "expected": expected,
                "observed": _share(given.trust_score),
            }
        ]
    return []


def _permissions(given: PolicyInput) -> Sequence[Reason]:
    missing = sorted(set(given.required_permissions) - set(given.granted_permissions))
    if not missing:
        return []
    return [
        {
            "code": PERMISSIONS_MISSING,
            "message": f"The delegate's manifest does not declare: {', '.join(missing)}.",
            "type": _VIOLATION,
            "field": "required_permissions",
            "expected": sorted(given.required_permissions),
            "observed": sorted(given.granted_permissions),
        }
    ]
