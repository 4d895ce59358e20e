"""A viewer or developer sees on pages what the API shows, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.console.conftest import Visitor
from tests.console.test_pages import links, plain
from tests.console.world import AGENTS, CLERK, READER, World

VISITORS = Callable[..., Visitor]


@pytest.fixture
def known(world: World) -> dict[str, str]:
    """Delegations of ``@acme`` and ``@initech`` to ``@globex``, by state."""
    world.register()
    return world.live()


def test_delegations_are_those_of_both_sides(known: dict[str, str], visitor: VISITORS) -> None:
    everything = set(known.values())
    of_initech = {known["delivered"]}
    for owner, role, visible in (
        ("acme", "viewer", everything - of_initech),
        ("globex", "developer", everything),
        ("initech", "viewer", of_initech),
    ):
        who = visitor(owner, role)
        listed = links(who.see("/operator/delegations"), "/operator/delegations/")
        assert {path.rpartition("/")[2] for path in listed} == visible
        for delegation_id in everything:
            status = 200 if delegation_id in visible else 403
            assert who.get(f"/operator/delegations/{delegation_id}").status_code == status


def test_money_is_its_owners(known: dict[str, str], visitor: VISITORS, world: World) -> None:
    acme = visitor("acme", "viewer")
    assert "Balance" in plain(acme.see(f"/operator/agents/{CLERK}"))
    assert "Its owner and administrators see its account" in plain(
        acme.see(f"/operator/agents/{READER}")
    )
    listed = links(acme.see("/operator/ledger"), "/operator/ledger/accounts/")
    mine = sorted(agent_id for agent_id in AGENTS if agent_id.startswith("@acme"))
    assert [path.rpartition("agent:")[2] for path in listed] == mine
    for account, status in (
        (f"agent:{CLERK}", 200),
        (f"agent:{READER}", 404),
        (f"escrow:{known['disputed']}", 200),
        (f"escrow:{known['delivered']}", 404),
        ("sys:world", 404),
        ("agent:@nobody:nothing", 404),
    ):
        assert acme.get(f"/operator/ledger/accounts/{account}").status_code == status, account
    other = f"/operator/delegations/{known['delivered']}"
    page = visitor("initech").see(other)
    transaction = links(page, "/operator/ledger/transactions/")[0]
    assert acme.get(transaction).status_code == 404


def test_operations_are_for_administrators(visitor: VISITORS, admin: Visitor) -> None:
    for role in ("viewer", "developer"):
        who = visitor("acme", role)
        assert who.get("/operator/operations").status_code == 403
        assert "/operator/operations" not in who.see("/operator")
        assert "Do the books agree" not in who.see("/operator/ledger")
    assert "/operator/operations" in admin.see("/operator")


def test_the_registry_is_everybodys(known: dict[str, str], visitor: VISITORS) -> None:
    page = visitor("stranger", "viewer").see("/operator/agents")
    assert len(links(page, "/operator/agents/@")) == len(AGENTS)
    agent = visitor("stranger", "viewer").see(f"/operator/agents/{READER}")
    assert links(agent, "/operator/delegations/") == []
