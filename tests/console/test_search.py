"""The search of the console: by id to the page of it, by words to agents and tasks."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from tests.console.conftest import Visitor
from tests.console.test_pages import links, plain
from tests.console.world import CLERK, READER, World


def place(visitor: Visitor, text: str) -> str:
    """Return where a search leads; nothing where it shows a page."""
    response = visitor.get(f"/operator/search?q={quote(text)}")
    assert response.status_code in (200, 303), response.status_code
    return response.headers.get("Location", "")


def test_an_id_leads_to_its_page(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    delegation_id = world.live()["disputed"]
    path = f"/v1/ledger/transactions?delegation_id={delegation_id}"
    transaction_id = world.callers["operator"].get(path).get_json()["transactions"][0]["id"]
    account_id = f"agent:{CLERK}"
    places = {
        READER: f"/operator/agents/{READER}",
        delegation_id: f"/operator/delegations/{delegation_id}",
        transaction_id: f"/operator/ledger/transactions/{transaction_id}",
        account_id: f"/operator/ledger/accounts/{account_id}",
    }
    parties = admin, visitor("acme", "viewer")
    for who in parties:
        for text, expected in places.items():
            assert place(who, text) == expected
            assert who.get(expected).status_code == 200
    # Of what somebody may not see, a search says as much as of what does not exist.
    stranger = visitor("stranger", "viewer")
    for text in (delegation_id, transaction_id, account_id):
        assert place(stranger, text) == ""
        page = plain(stranger.see(f"/operator/search?q={text}"))
        assert page == plain(stranger.see("/operator/search?q=0000-none"))
    assert place(stranger, READER) == places[READER]
    assert place(admin, "sys:world") == "/operator/ledger/accounts/sys:world"


def test_words_find_agents_and_tasks(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    assert "Type the id of an agent" in plain(admin.see("/operator/search"))
    world.register()
    world.live()
    page = admin.see("/operator/search?q=READER")
    assert links(page, "/operator/agents/@") == [f"/operator/agents/{READER}"]
    found = admin.see("/operator/search?q=invoices+monday")
    assert links(found, "/operator/delegations/") != []
    assert "Read the invoices that came in on Monday" in plain(found)
    mine = visitor("stranger", "viewer").see("/operator/search?q=invoices+monday")
    assert links(mine, "/operator/delegations/") == []
    for hostile in ("\0", "%00", "%", "_", "'", "<b>", "\u202e", "x" * 5000, "@", "agent:"):
        assert place(admin, hostile) == ""


def test_ids_are_copied_where_a_script_runs(world: World, admin: Visitor) -> None:
    world.register()
    assert f'data-copy="{READER}"' in admin.see(f"/operator/agents/{READER}")
