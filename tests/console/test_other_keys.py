"""Nobody learns the ids of other owners' keys."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from app.notification.models import Event
from tests.client import Api
from tests.console.conftest import Visitor
from tests.console.crawler import crawl
from tests.console.test_crawl import everything_is_there, of_app
from tests.console.world import CLERK, READER, World
from tests.delegation.conftest import DELEGATIONS


def key_id(key: str | None) -> str:
    """Return the id of a key."""
    return (key or "").split("_")[1]


def test_events_show_ones_own_keys_and_operators_all(world: World) -> None:
    world.register()
    one = world.disputed()
    acme, globex, operator = (world.callers[name] for name in ("acme", "globex", "operator"))
    decided = {"charge_usd": 1, "reason": "two of twelve are wrong"}
    world.send(operator, "POST", f"{DELEGATIONS}/{one}/resolve", decided)

    def keys(api: Api) -> list[str | None]:
        events = world.send(api, "GET", f"{DELEGATIONS}/{one}/events")["events"]
        return [event["key_id"] for event in events]

    everything = keys(operator)
    assert {key_id(api.key) for api in (acme, globex, operator)} <= set(everything)
    for api in (acme, globex):
        own = key_id(api.key)
        assert keys(api) == [own if one == own else None for one in everything]
        assert own in keys(api)


def test_no_page_no_answer_and_no_webhook_shows_a_key_of_the_other_side(
    world: World, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    world.webhooks()
    known = world.live()
    globex = world.callers["globex"]
    foreign = [key_id(world.callers[name].key) for name in ("acme", "initech", "operator")]
    seen = [
        shown.body
        for shown in crawl(
            of_app(visitor("globex", "viewer")), ["/operator"], everything_is_there
        ).pages.values()
    ]
    for one in known.values():
        for path in ("", "/status", "/events", "/metering"):
            seen.append(globex.get(f"{DELEGATIONS}/{one}{path}").data)
    for path in ("/v1/ledger/transactions", f"/v1/agents/{READER}", f"/v1/agents/{CLERK}"):
        seen.append(globex.get(path).data)
    with world.services.database.read() as connection:
        seen += [text.encode() for text in connection.scalars(select(Event.payload))]
    assert len(seen) > 50
    assert not [one for one in foreign if any(one.encode() in body for body in seen)]
