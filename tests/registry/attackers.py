"""The best that attackers can make of keys, money and time, and what honest agents reach.

Pure: everything is computed from the formula that the service uses, over the dealings that such
people can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from app.registry.trust import SUMS, Counterparty, Evidence, Rating, contribution, rate

NOW = datetime(2026, 11, 20, tzinfo=UTC)
USD = 1_000_000
# More than anybody counts for, so that the limits decide.
MANY = 10**6


def customer(
    micros: int, days: int, completed: int = MANY, failed: int = 0, used: int = 0, broken: int = 0
) -> Counterparty:
    """Return an owner who paid ``micros`` of its own, first ``days`` ago and again just now."""
    return Counterparty(
        completed=completed,
        failed=failed,
        own_micros=micros,
        first_paid_at=NOW - timedelta(days=days) if micros else None,
        last_paid_at=NOW if micros else None,
        usage_succeeded=used,
        usage_failed=broken,
    )


def evidence(
    parties: Iterable[Counterparty],
    days: int,
    *,
    cases: tuple[int, int] = (0, 0),
    versions: int = 5,
) -> Evidence:
    """Return what counterparties say of an agent whose publisher came ``days`` ago."""
    sums = dict.fromkeys(SUMS, 0)
    for party in parties:
        for name, figure in asdict(contribution(party)).items():
            sums[name] += figure
    since = int((NOW - timedelta(days=days)).timestamp())
    passed, total = cases
    return Evidence(
        **sums, cases_passed=passed, cases_total=total, published_since=since, versions=versions
    )


def bought(shares: Sequence[int], days: int) -> Rating:
    """Return the rating of an agent praised by owners who each paid a share, in micro-USD.

    One more key is the publisher's, who stores evaluations that are perfect.
    """
    parties = [customer(share, days, used=MANY) for share in shares]
    return rate(evidence(parties, days, cases=(10**9, 10**9)), NOW)


def best_bought(keys: int, usd: float, days: int) -> Rating:
    """Return the best rating that so many keys, the publisher's among them, can buy."""
    micros = round(usd * USD)
    ratings = [bought([micros // few] * few, days) for few in range(1, keys)]
    return max(ratings, key=lambda rating: rating["score"], default=bought([], days))


def honest(
    customers: int, usd: float, days: int, *, percent: int = 100, self_praise: bool = False
) -> Evidence:
    """Return the evidence of an agent whose customers each paid ``usd`` and got good work.

    ``percent`` of it was good; with ``self_praise`` customers report their usage, and the publisher
    has stored 50 evaluation cases.
    """
    good = percent * 2
    bad = 200 - good
    usage = (good, bad) if self_praise else (0, 0)
    parties = [customer(round(usd * USD), days, good, bad, *usage) for _ in range(customers)]
    return evidence(parties, days, cases=(50, 50) if self_praise else (0, 0))


def slandered(victims: int, keys: int, usd: float, days: int) -> Rating:
    """Return the rating left to an agent of ``victims`` contented customers under attack.

    The attackers share the money, fail everything they order but what they have to pay for, and
    report failures only.
    """
    content = [customer(10 * USD, 180, 200, 0, 200, 0) for _ in range(victims)]
    share = round(usd * USD) // keys if keys else 0
    enemies = [customer(share, days, int(share > 0), MANY, 0, MANY) for _ in range(keys)]
    return rate(evidence([*content, *enemies], 180, cases=(50, 50)), NOW)
