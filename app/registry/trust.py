"""Trust in an agent, computed from evidence and from nothing else."""

from __future__ import annotations

import math
from typing import TypedDict

# 95 % confidence.
_Z = 1.96
# Lowest score of each tier, highest tier first, with the badge shown for it.
_TIERS = ((80, "high", "gold"), (50, "medium", "silver"), (0, "low", "bronze"))


class Trust(TypedDict):
    """``score`` is 0 to 100; ``tier`` unrated, low, medium or high; ``badge`` what a page shows."""

    score: int
    tier: str
    badge: str


def trust_from_evaluations(passed: int, total: int) -> Trust:
    """Return the trust that ``passed`` of ``total`` evaluation cases support.

    The score is 100 times the lower bound of the Wilson score interval (Wilson 1927), so that few
    cases count for little however well they went. Without any case the agent is unrated.
    """
    if total == 0:
        return {"score": 0, "tier": "unrated", "badge": "none"}
    share = passed / total
    centre = share + _Z**2 / (2 * total)
    margin = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    score = max(0, math.floor(100 * (centre - margin) / (1 + _Z**2 / total)))
    tier, badge = next((tier, badge) for least, tier, badge in _TIERS if score >= least)
    return {"score": score, "tier": tier, "badge": badge}
