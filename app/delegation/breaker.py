"""The budget breaker: what a further cost does to a budget, at 80, 100 and 120 % of what is
authorized. Pure functions over integers of micro-USD; no rounding anywhere but in the shown ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

SOFT_ALERT, REAUTHORIZATION, HARD_STOP = 80, 100, 120
THRESHOLDS = (SOFT_ALERT, REAUTHORIZATION, HARD_STOP)
_STATES = {
    0: "ok",
    SOFT_ALERT: "soft_alert",
    REAUTHORIZATION: "reauthorization_required",
    HARD_STOP: "hard_stop",
}


@dataclass(frozen=True)
class Budget:
    """The money side of a delegation, in micro-USD.

    ``authorized`` is what the thresholds are shares of, ``maximum`` what no reauthorization may
    pass, ``held`` what escrow holds and ``metered`` what was truly used, which is never cut.
    ``level`` is the highest threshold reached under the present authorization, 0 below all.
    """

    authorized: int
    maximum: int
    held: int
    metered: int = 0
    level: int = 0
    auto_reauthorize: bool = True

    @property
    def charge(self) -> int:
        """What settling now would charge: the use, but no more than is held."""
        return min(self.metered, self.held)


class BudgetControls(TypedDict):
    """The breaker as clients see it."""

    state: str
    soft_alert: bool
    reauthorization_required: bool
    hard_stop: bool
    ratio: float


def level_of(metered: int, authorized: int) -> int:
    """Return the highest threshold that ``metered`` reaches, in per cent; 0 if none."""
    return max((t for t in THRESHOLDS if metered * 100 >= t * authorized), default=0)


def controls(budget: Budget) -> BudgetControls:
    """Return the breaker as clients see it.

    ``ratio`` is cut after four places, not rounded, so that it reaches a threshold exactly when the
    breaker does.
    """
    level = level_of(budget.metered, budget.authorized)
    return {
        "state": _STATES[level],
        "soft_alert": level >= SOFT_ALERT,
        "reauthorization_required": level >= REAUTHORIZATION,
        "hard_stop": level >= HARD_STOP,
        "ratio": budget.metered * 10_000 // budget.authorized / 10_000,
    }


@dataclass(frozen=True)
class Metered:
    """What a run of costs did to a budget.

    ``accepted`` is how many of the costs were taken, the one that crossed 120 % included;
    ``crossed`` holds each newly reached threshold with the index of the cost that reached it.
    ``paused`` tells that the requester must reauthorize, ``stopped`` that 120 % was crossed.
    """

    budget: Budget
    accepted: int
    crossed: tuple[tuple[int, int], ...]
    paused: bool
    stopped: bool


def meter(budget: Budget, costs: Sequence[int], available: int, *, paused: bool = False) -> Metered:
    """Add costs one after the other until they are used up or cross 120 %.

    ``available`` is what the requester could add to escrow now. From 100 % on the hold follows the
    use, up to the maximum, if the budget allows that by itself and the funds suffice; otherwise
    work is ``paused``, and the costs of work already done are still taken below 120 %. A budget
    that begins ``paused`` stays so.
    """
    crossed: list[tuple[int, int]] = []
    for index, cost in enumerate(costs):
        metered = budget.metered + cost
        level = level_of(metered, budget.authorized)
        crossed += [(index, t) for t in THRESHOLDS if budget.level < t <= level]
        budget = replace(budget, metered=metered, level=max(level, budget.level))
        if level >= HARD_STOP:
            return Metered(budget, index + 1, tuple(crossed), paused=False, stopped=True)
        if level >= REAUTHORIZATION and not paused:
            more = max(0, min(metered, budget.maximum) - budget.held)
            if budget.auto_reauthorize and more <= available:
                available -= more
                budget = replace(budget, held=budget.held + more)
            else:
                paused = True
    return Metered(budget, len(costs), tuple(crossed), paused=paused, stopped=False)


def reauthorize(budget: Budget, new_estimate: int) -> Budget:
    """Return the budget with a new authorization; the hold grows to it and never shrinks.

    Raises ``ValueError`` for an estimate above the maximum or not above what is used already.
    """
    if new_estimate > budget.maximum:
        raise ValueError("the new estimate is above the maximum budget")
    if new_estimate <= budget.metered:
        raise ValueError("the new estimate does not exceed what is used already")
    return replace(
        budget,
        authorized=new_estimate,
        held=max(budget.held, new_estimate),
        level=level_of(budget.metered, new_estimate),
    )
