"""How the console writes money, times and states."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from app.delegation import lifecycle
from app.money import MICROS_PER_USD

MINUS, NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class State(NamedTuple):
    """How a state is shown: in words, with an icon, in a tone (good, bad, warn, info, idle)."""

    label: str
    icon: str
    tone: str


STATES = {
    lifecycle.OFFERED: State("offered", "inbox", "info"),
    lifecycle.IN_PROGRESS: State("in progress", "play", "info"),
    lifecycle.PENDING_REAUTHORIZATION: State("pending reauthorization", "pause", "warn"),
    lifecycle.INPUT_REQUIRED: State("input required", "question", "warn"),
    lifecycle.DELIVERED: State("delivered", "box", "info"),
    lifecycle.DISPUTED: State("disputed", "flag", "bad"),
    lifecycle.COMPLETED: State("completed", "check", "good"),
    lifecycle.FAILED_HARD_STOP: State("failed, hard stop", "stop", "bad"),
    lifecycle.FAILED: State("failed", "cross", "bad"),
    lifecycle.DECLINED: State("declined", "minus", "idle"),
    lifecycle.EXPIRED: State("expired", "clock", "idle"),
    lifecycle.CANCELLED: State("cancelled", "slash", "idle"),
    "active": State("active", "check", "good"),
    "deprecated": State("deprecated", "minus", "idle"),
    "current": State("current", "check", "good"),
    "behind": State("behind", "clock", "bad"),
    "absent": State("absent", "cross", "bad"),
    "unknown": State("unknown", "question", "bad"),
    "breaking": State("breaking", "warning", "bad"),
    "backward_compatible": State("backward compatible", "check", "good"),
    "live": State("live", "check", "good"),
    "revoked": State("revoked", "cross", "idle"),
    "rotated": State("rotated", "clock", "warn"),
    "altered": State("altered, refused", "warning", "bad"),
    "paused": State("paused", "pause", "idle"),
    "disabled": State("disabled", "stop", "bad"),
    "failing": State("failing", "warning", "warn"),
    "readable": State("readable", "check", "good"),
    "unreadable": State("unreadable", "cross", "bad"),
}


# What a movement of money is for.
_KINDS = {
    "opening": "opening credit",
    "topup": "top-up",
    "payout": "payout",
    "hold": "held for work",
    "release": "returned early",
    "close": "work settled",
    "reversal": "reversal",
}
# Accounts that belong to nobody here.
_SYSTEM_ACCOUNTS = {"sys:world": "the world outside", "sys:fees": "fees"}


def kind(name: str) -> str:
    """Return what a movement of money is for, in words."""
    return _KINDS.get(name, words(name))


def account(account_id: str) -> str:
    """Return whose an account is: an agent's id, or what the system keeps it for."""
    return _SYSTEM_ACCOUNTS.get(account_id, account_id.removeprefix("agent:"))


def state(name: str) -> State:
    """Return how a state is shown; one that is not known here is shown as it is."""
    return STATES.get(name, State(name.replace("_", " "), "minus", "idle"))


def usd(micros: int) -> str:
    """Return micro-USD as text: two decimals at least, six at most, none of them rounded away."""
    whole, rest = divmod(abs(micros), MICROS_PER_USD)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{MINUS if micros < 0 else ''}{whole:,}.{decimals}"


def size(count: int) -> str:
    """Return a number of bytes in the largest unit (SI) that it has at least one of."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def percent(part: int, whole: int) -> str:
    """Return a share in per cent, with one decimal below ten."""
    if not whole:
        return NOTHING
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def when(moment: datetime) -> str:
    """Return a moment in UTC to the second."""
    return moment.astimezone(UTC).strftime("%-d %b %Y, %H:%M:%S UTC")


def ago(moment: datetime, now: datetime) -> str:
    """Return how far a moment is from now, roughly."""
    seconds = int((now - moment).total_seconds())
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            amount = f"{abs(seconds) // size} {unit}"
            return f"{amount} ago" if seconds > 0 else f"in {amount}"
    return "just now" if seconds >= 0 else "in a moment"


def lasted(begin: datetime, end: datetime | None, now: datetime) -> str:
    """Return how long something took, in its two largest units; until now, if it has not ended.

    What goes on is told to the minute, so that a page does not change with each second.
    """
    seconds = max(0.0, ((end or now) - begin).total_seconds())
    if end is None and seconds < 60:
        return "under 1 min"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole, parts = int(seconds), []
    for size, unit in (*_UNITS, (1, "s")):
        amount, whole = divmod(whole, size)
        parts.append(f"{amount} {unit}" if amount else "")
    first = next(place for place, part in enumerate(parts) if part)
    shown = parts[first : first + 2] if end or first < 2 else parts[first : first + 1]
    return " ".join(part for part in shown if part)


def words(name: str) -> str:
    """Return a name of the API as words."""
    return name.replace("_", " ")


def series(name: str) -> str:
    """Return the name of a chart's part as words; ``at_80`` is a threshold."""
    return f"{name[3:]} %" if name.startswith("at_") else words(name)


def segment(name: str) -> str:
    """Return a name as a segment of an address."""
    return quote(name, safe="@:")


def pretty(text: str) -> str:
    """Return JSON text indented."""
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()


def known(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members of an object that are there: those that are not None."""
    return {name: value for name, value in members.items() if value is not None}
