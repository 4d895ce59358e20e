"""Money: integers of micro-USD inside, JSON numbers of USD with at most six decimals outside."""

from __future__ import annotations

from decimal import Decimal

DECIMALS = 6
MICROS_PER_USD = 1_000_000
MAX_USD = 1_000_000_000
MAX_MICROS = MAX_USD * MICROS_PER_USD


def to_micros(usd: int | float | Decimal) -> int:
    """Return a JSON number of USD as micro-USD, exactly.

    Up to ``MAX_USD`` every amount of six decimals has a double of its own, and ``repr`` gives that
    amount back, so nothing is lost on the way through a JSON parser. Raises ``ValueError`` for more
    decimals, for NaN and infinities, and beyond ``MAX_USD`` on either side of zero.
    """
    amount = Decimal(repr(usd)) if isinstance(usd, float) else Decimal(usd)
    if not amount.is_finite() or abs(amount) > MAX_USD:
        raise ValueError(f"expected an amount of at most {MAX_USD} USD")
    # Digits are looked at, since arithmetic would round them to 28 first.
    _, digits, exponent = amount.as_tuple()
    excess = -DECIMALS - int(exponent)
    if excess > 0 and any(digits[-excess:]):
        raise ValueError(f"expected at most {DECIMALS} decimals")
    return int(amount * MICROS_PER_USD)


def to_usd(micros: int) -> int | float:
    """Return micro-USD as the JSON number of USD that ``to_micros`` takes back exactly."""
    whole, rest = divmod(micros, MICROS_PER_USD)
    return micros / MICROS_PER_USD if rest else whole
