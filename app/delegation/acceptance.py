"""Acceptance rules: what a delegate's owner lets others ask of an agent, and under what terms.

An owner's own agents are not bound by its rules. An agent without rules of its own has the default
``Rules``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Integer, bindparam, func, select, text
from sqlalchemy.orm import Session

from app import clock
from app.db import insert_if_absent
from app.delegation.errors import AcceptanceRuleBroken
from app.delegation.lifecycle import DEFAULT_DEADLINE_SECONDS, INLINE, OFFERED
from app.delegation.models import AcceptanceRules, Delegation
from app.delegation.queries import IN_LINE, Reader, is_waiting
from app.money import to_usd
from app.statements import Statement, is_one_of, to_json

DEFAULT_LIVE_OFFERS = 1_000
# Counting offers reads as many entries of an index.
MAX_LIVE_OFFERS = 10_000
MAX_OWNERS = 100


@dataclass(frozen=True)
class Rules:
    """What an agent takes; None sets no rule. Amounts are micro-USD.

    ``allowed_owners`` and ``denied_owners`` map the names that the rules were given with to ids of
    owners; with ``allowed_owners`` None every owner is allowed that is not denied.
    ``most_live_offers`` bounds how many offers of one owner wait for the agent at once.
    """

    allowed_owners: Mapping[str, str] | None = None
    denied_owners: Mapping[str, str] = field(default_factory=dict)
    takes_inline: bool = True
    smallest_estimate_micros: int = 1
    shortest_deadline_seconds: int | None = None
    shortest_lease_seconds: int | None = None
    most_live_offers: int = DEFAULT_LIVE_OFFERS

    def lets_in(self, owner_id: str) -> bool:
        """Tell whether an owner, other than the agent's own, may ask anything of the agent."""
        if owner_id in self.denied_owners.values():
            return False
        return self.allowed_owners is None or owner_id in self.allowed_owners.values()


def check_terms(rules: Rules, owner_id: str, body: Mapping[str, Any]) -> None:
    """Raise ``AcceptanceRuleBroken`` for the first rule that another owner's request breaks.

    A refused owner is not told whether it was denied or is not among those allowed.
    """
    if not rules.lets_in(owner_id):
        raise AcceptanceRuleBroken("the delegate takes no work from you", rule="owners")
    if body["execution"] == INLINE and not rules.takes_inline:
        raise _broken("inline", "execution", "remote", INLINE)
    estimate, least = body["estimated_cost_usd"], rules.smallest_estimate_micros
    if estimate < least:
        at_least = f"at least {to_usd(least)}"
        raise _broken("smallest_estimate", "estimated_cost_usd", at_least, to_usd(estimate))
    # Inline work is done: nobody waits for it, and nobody is at it.
    if body["execution"] == INLINE:
        return
    for rule, name in (
        ("shortest_deadline", "deadline_seconds"),
        ("shortest_lease", "lease_seconds"),
    ):
        seconds = getattr(rules, f"{rule}_seconds")
        if seconds is not None and body[name] < seconds:
            raise _broken(rule, name, f"at least {seconds}", body[name])


def _broken(
    rule: str, field_name: str | None, expected: str, observed: Any
) -> AcceptanceRuleBroken:
    named = f"{field_name}: " if field_name else ""
    return AcceptanceRuleBroken(
        f"the delegate's acceptance rule {rule} refuses the offer; {named}expected {expected}",
        rule=rule,
        field=field_name,
        expected=expected,
        observed=observed,
    )


def min_deadline_seconds(rules: Rules, manifest: Mapping[str, Any]) -> int:
    """Return the shortest deadline that the delegate can be held to, in seconds.

    It is the rule, else what the manifest says the agent may run for. That counts as at most the
    default deadline, since a delegate that needs longer has to refuse what is shorter: otherwise it
    could miss every deadline without blame.
    """
    if rules.shortest_deadline_seconds is not None:
        return rules.shortest_deadline_seconds
    return min(int(manifest["runtime"]["timeout_seconds"]), DEFAULT_DEADLINE_SECONDS)


_find_rules = Statement(
    {
        dialect: select(*AcceptanceRules.__table__.c).where(named)
        for dialect, named in is_one_of(AcceptanceRules.agent_id, "ids").items()
    }
)


def find_rules(reader: Reader, agent_ids: Collection[str]) -> dict[str, Rules]:
    """Return the rules of each agent, with one statement; the default ones where it has none."""
    rows = _find_rules.all(reader, {"ids": to_json(sorted(agent_ids))}) if agent_ids else ()
    found = {row.agent_id: _rules_of(row) for row in rows}
    return {agent_id: found.get(agent_id, Rules()) for agent_id in agent_ids}


def _rules_of(row: Any) -> Rules:
    values = {name: getattr(row, name) for name in _FIELDS}
    for name in ("allowed_owners", "denied_owners"):
        values[name] = None if values[name] is None else orjson.loads(values[name])
    return Rules(**values)


_FIELDS = tuple(one.name for one in fields(Rules))


def _columns_of(rules: Rules) -> dict[str, Any]:
    values = dict(vars(rules))
    for name in ("allowed_owners", "denied_owners"):
        values[name] = None if values[name] is None else orjson.dumps(values[name]).decode()
    return values | {"updated_at": clock.now()}


def change_rules(
    session: Session, agent_id: str, rules: Rules, check: Callable[[Rules], None]
) -> None:
    """Put ``rules`` in place of those that an agent has.

    ``check`` gets the present ones, locked, and raises what refuses the change.
    """
    columns = _columns_of(Rules())
    insert_if_absent(session, AcceptanceRules, agent_id=agent_id, **columns)
    row = session.get_one(AcceptanceRules, agent_id, with_for_update=True)
    check(_rules_of(row))
    for name, value in _columns_of(rules).items():
        setattr(row, name, value)
    session.flush()


# Keeps the owner's other offers to the agent waiting until the transaction ends, so that two at
# once cannot both be the last one that is allowed. The turn stays what it was.
_lock_queue = Statement(
    text(
        "INSERT INTO delegation_offer_queues (delegate_agent_id, requester_owner_id, turn)"
        " VALUES (:agent_id, :owner_id, 0) ON CONFLICT (delegate_agent_id, requester_owner_id)"
        " DO UPDATE SET turn = delegation_offer_queues.turn"
    )
)
_waiting = (
    select(Delegation.id)
    .where(*is_waiting(OFFERED, bindparam("owner_id")))
    .order_by(*IN_LINE)
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
_count_waiting = Statement(select(func.count().label("offers")).select_from(_waiting))


def require_place(
    session: Session, rules: Rules, agent_id: str, owner_id: str, now: datetime
) -> None:
    """Raise ``AcceptanceRuleBroken`` where as many of an owner's offers wait as an agent allows.

    Until the transaction ends no other offer of the owner to the agent is admitted.
    """
    named = {"agent_id": agent_id, "owner_id": owner_id}
    _lock_queue.run(session, named)
    most = rules.most_live_offers
    waiting = _count_waiting.first(session, {**named, "now": now, "most": most}).offers
    if waiting >= most:
        raise _broken("most_live_offers", None, f"fewer than {most} offers that wait", waiting)
