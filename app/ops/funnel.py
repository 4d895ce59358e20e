"""The onboarding funnel: of those who came, how many signed up, became active, and paid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# Each rate with the two counts that it compares, and the least it should be.
RATES = {
    "signup": ("visitors", "signups", 0.15),
    "activation": ("signups", "activated", 0.40),
    "paid": ("activated", "paid", 0.20),
}
COUNTS = ("visitors", "signups", "activated", "paid")


class FunnelUnusable(Exception):
    """The file does not hold a funnel; the message names the member and what was expected."""


@dataclass(frozen=True)
class Rate:
    """One step of the funnel: ``share`` of those at the step before, from 0 to 1."""

    name: str
    share: float
    least: float

    @property
    def reached(self) -> bool:
        """Whether the share is at least what it should be."""
        return self.share >= self.least


def read_funnel(path: Path) -> dict[str, int]:
    """Return the counts of a JSON file with the members of ``COUNTS``, each no more than the last.

    Raises ``FunnelUnusable``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FunnelUnusable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise FunnelUnusable(f"{path} holds no JSON") from None
    if not isinstance(document, dict):
        raise FunnelUnusable(f"{path}: expected an object with {', '.join(COUNTS)}")
    if document.keys() != set(COUNTS):
        raise FunnelUnusable(
            f"{path}: expected exactly the members {', '.join(COUNTS)};"
            f" found {', '.join(sorted(document)) or 'none'}"
        )
    for name, count in document.items():
        if type(count) is not int or count < 0:
            raise FunnelUnusable(f"{path}: {name}: expected a whole number, 0 or more")
    for before, after in pairwise(COUNTS):
        if document[after] > document[before]:
            raise FunnelUnusable(f"{path}: {after}: expected no more than {before}")
    return document


def rates(counts: Mapping[str, int], least: Mapping[str, float]) -> Iterator[Rate]:
    """Yield each rate of the funnel; of nobody, nobody went on. ``least`` overrides thresholds."""
    for name, (of, came, default) in RATES.items():
        share = counts[came] / counts[of] if counts[of] else 0.0
        yield Rate(name, share, least.get(name, default))
