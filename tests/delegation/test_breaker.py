"""The breaker: thresholds, holds that follow the use, and what is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delegation.breaker import Budget, controls, level_of, meter, reauthorize

BUDGET = Budget(authorized=1000, maximum=1100, held=1000)


@pytest.mark.parametrize(
    ("metered", "level", "state", "ratio"),
    [
        (0, 0, "ok", 0.0),
        (799, 0, "ok", 0.799),
        (800, 80, "soft_alert", 0.8),
        (999, 80, "soft_alert", 0.999),
        (1000, 100, "reauthorization_required", 1.0),
        (1199, 100, "reauthorization_required", 1.199),
        (1200, 120, "hard_stop", 1.2),
        (9000, 120, "hard_stop", 9.0),
    ],
)
def test_thresholds_are_reached_exactly(metered: int, level: int, state: str, ratio: float) -> None:
    assert level_of(metered, 1000) == level
    shown = controls(replace(BUDGET, metered=metered))
    assert (shown["state"], shown["ratio"]) == (state, ratio)
    flags = (shown["soft_alert"], shown["reauthorization_required"], shown["hard_stop"])
    assert flags == (level >= 80, level >= 100, level >= 120)


def test_the_shown_ratio_reaches_a_threshold_only_with_the_breaker() -> None:
    shown = controls(Budget(authorized=10**15, maximum=10**15, held=10**15, metered=8 * 10**14 - 1))
    assert (shown["state"], shown["ratio"]) == ("ok", 0.7999)


def test_below_100_nothing_stops() -> None:
    run = meter(BUDGET, [500, 450], available=0)
    assert (run.accepted, run.paused, run.stopped, run.crossed) == (2, False, False, ((1, 80),))
    assert run.budget.held == 1000


def test_the_hold_follows_the_use_up_to_the_maximum() -> None:
    run = meter(BUDGET, [1050, 100], available=100)
    assert (run.budget.metered, run.budget.held, run.budget.charge) == (1150, 1100, 1100)
    assert not run.paused
    assert run.crossed == ((0, 80), (0, 100))


def test_without_funds_work_pauses() -> None:
    run = meter(BUDGET, [1050], available=49)
    assert (run.paused, run.budget.held, run.budget.charge) == (True, 1000, 1000)


def test_without_leave_work_pauses_at_exactly_100() -> None:
    budget = replace(BUDGET, auto_reauthorize=False)
    assert not meter(budget, [999], available=1000).paused
    assert meter(budget, [1000], available=1000).paused


def test_what_was_done_before_a_pause_is_still_taken() -> None:
    budget = replace(BUDGET, metered=1000, level=100)
    run = meter(budget, [100, 50], available=1000, paused=True)
    assert (run.accepted, run.paused, run.budget.held) == (2, True, 1000)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("auto_reauthorize", [False, True])
def test_120_stops_whatever_the_flags(paused: bool, auto_reauthorize: bool) -> None:
    budget = replace(BUDGET, auto_reauthorize=auto_reauthorize)
    run = meter(budget, [900, 400, 7], available=10**9, paused=paused)
    assert (run.accepted, run.stopped, run.paused) == (2, True, False)
    assert run.budget.metered == 1300
    assert run.budget.charge == 1000
    assert [threshold for _, threshold in run.crossed] == [80, 100, 120]


def test_reauthorization_begins_the_count_anew() -> None:
    paused = replace(BUDGET, metered=1020, level=100)
    budget = reauthorize(paused, 1100)
    assert (budget.authorized, budget.held, budget.level) == (1100, 1100, 80)
    run = meter(budget, [80], available=0)
    assert run.crossed == ((0, 100),)


def test_the_hold_never_shrinks() -> None:
    grown = replace(BUDGET, held=1100, metered=1010, level=100)
    assert reauthorize(grown, 1050).held == 1100


@pytest.mark.parametrize("estimate", [1101, 1020, 5])
def test_a_new_estimate_is_above_the_use_and_within_the_maximum(estimate: int) -> None:
    with pytest.raises(ValueError, match="estimate"):
        reauthorize(replace(BUDGET, metered=1020), estimate)


amounts = st.integers(min_value=1, max_value=10**15)
costs = st.lists(st.integers(min_value=0, max_value=10**15), max_size=12)


@given(amounts, amounts, costs, st.integers(0, 10**16), st.booleans(), st.booleans())
def test_money_stays_within_its_bounds(
    authorized: int, more: int, given_costs: list[int], available: int, auto: bool, paused: bool
) -> None:
    budget = Budget(authorized, authorized + more, authorized, auto_reauthorize=auto)
    run = meter(budget, given_costs, available, paused=paused)
    after = run.budget
    assert after.metered == sum(given_costs[: run.accepted])
    assert budget.held <= after.held <= budget.maximum
    assert after.held - budget.held <= available
    assert after.charge <= after.held
    assert after.charge <= after.metered
    assert len(run.crossed) == len({threshold for _, threshold in run.crossed})
    assert run.stopped == (after.metered * 100 >= 120 * authorized)
    assert run.stopped or run.accepted == len(given_costs)
    if not run.paused and not run.stopped:
        assert after.charge == min(after.metered, budget.maximum)


@given(amounts, costs, st.integers(0, 10**16))
def test_one_report_or_many_reach_the_same_state(
    authorized: int, given_costs: list[int], available: int
) -> None:
    budget = Budget(authorized, authorized * 2, authorized)
    together = meter(budget, given_costs, available)
    current, left, paused, accepted = budget, available, False, 0
    for cost in given_costs:
        run = meter(current, [cost], left, paused=paused)
        left -= run.budget.held - current.held
        current, paused, accepted = run.budget, run.paused, accepted + run.accepted
        if run.stopped:
            break
    assert (current, accepted) == (together.budget, together.accepted)
