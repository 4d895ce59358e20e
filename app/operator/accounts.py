"""Which accounts a visitor sees: the rule of the API's ``/v1/ledger/accounts``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from app.delegation.queries import find_owners
from app.ledger.service import ESCROW, agent_account
from app.operator.web import Visitor
from app.registry.queries import find_owners_of


def may_see(connection: Connection, visitor: Visitor, account_id: str) -> bool:
    """Tell whether a visitor sees an account, should there be such an account."""
    kind, _, holder = account_id.partition(":")
    if kind == ESCROW and not visitor.is_admin:
        return visitor.principal.owner_id in find_owners(connection, holder)
    return account_id in linked(connection, visitor, [account_id])


def linked(connection: Connection, visitor: Visitor, account_ids: Iterable[str]) -> set[str]:
    """Return those of some accounts that a page of the visitor links to.

    Pages name other accounts without a link, since it would lead to nothing. Escrow is shown as
    its delegation, so it is not asked about here.
    """
    asked = set(account_ids)
    if visitor.is_admin:
        return asked
    agents = {one.partition(":")[2] for one in asked if one.startswith(agent_account(""))}
    owners = find_owners_of(connection, agents)
    mine = {agent_account(one) for one, owner in owners.items() if owner == visitor.owner_scope}
    return asked & mine


def sides(entries: Iterable[Any]) -> set[str]:
    """Return the accounts of both sides of rows of a statement."""
    return {account for one in entries for account in (one.debit_account, one.credit_account)}
