"""What administrators do on pages: asked once, done once, on record, and nobody else's to do."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from sqlalchemy import text

from app.http.context import Services
from tests.console.conftest import ORIGIN, Visitor, hidden_fields
from tests.console.test_pages import plain
from tests.console.world import CLERK, READER, World
from tests.delegation.conftest import Clock, balance


@pytest.fixture
def disputed(world: World) -> str:
    """A delegation in dispute, of which 3.35 USD of 4 were used."""
    world.register()
    return world.disputed()


def path_of(delegation_id: str, command: str) -> str:
    """Return the address of an action."""
    return f"/operator/delegations/{delegation_id}/{command}"


def audit(admin: Visitor) -> str:
    """Return what the record of administrators' actions shows."""
    return plain(admin.see("/operator/operations")).partition(
        "What administrators did Newest first"
    )[2]


def test_a_dispute_is_decided_once(world: World, admin: Visitor, disputed: str) -> None:
    path = path_of(disputed, "resolve")
    assert path in admin.see(f"/operator/delegations/{disputed}")
    before = balance(world.callers["globex"], READER)
    form = hidden_fields(admin.see(path), path)
    sent = form | {"charge_usd": "1.25", "reason": "ten of twelve were usable"}
    for _ in range(2):
        response = admin.client.post(path, data=sent, headers={"Origin": ORIGIN})
        assert response.status_code == 303
    page = plain(admin.see(response.headers["Location"]))
    for words in ("The dispute is decided", "completed", "ten of twelve were usable", "operator"):
        assert words in page
    assert balance(world.callers["globex"], READER) == before + 1.25
    assert audit(admin).count("POST /v1/delegations/<delegation_id>/resolve") == 1
    changed = admin.client.post(path, data=sent | {"charge_usd": "2"}, headers={"Origin": ORIGIN})
    assert changed.status_code == 409
    assert balance(world.callers["globex"], READER) == before + 1.25


REFUSED = (
    ("4.1", "all of it", 400, "at most 3.35"),
    ("", "all of it", 422, "Amount"),
    ("a lot", "all of it", 422, "Amount: expected a number"),
    ("nan", "all of it", 422, "Amount"),
    ("-1", "all of it", 422, "Amount: expected at least 0"),
    ("0.0000001", "all of it", 422, "at most 6 decimals"),
    ("1", "", 422, "Reason"),
    ("1", "\0", 422, "Reason"),
)


def test_a_decision_that_cannot_be_is_refused(admin: Visitor, disputed: str) -> None:
    path = path_of(disputed, "resolve")
    for charge, reason, status, says in REFUSED:
        response = admin.send(path, path, charge_usd=charge, reason=reason)
        assert response.status_code == status, (charge, reason)
        assert says in plain(response.text)
    assert "disputed" in plain(admin.see(f"/operator/delegations/{disputed}"))


def test_an_operator_cancels_for_a_requester_who_cannot(world: World, admin: Visitor) -> None:
    world.register()
    delegation_id = world.offer()
    path = path_of(delegation_id, "cancel")
    response = admin.send(path, path, reason="the requester is gone")
    page = plain(admin.see(response.headers["Location"]))
    assert "The delegation is cancelled" in page
    assert "closed cancelled operator" in page
    assert balance(world.callers["acme"], CLERK) == 250
    assert "does not take this" in plain(admin.see(path))


def test_a_worker_at_work_has_time_to_confirm(world: World, admin: Visitor, time: Clock) -> None:
    world.register()
    delegation_id = world.offer()
    worker = world.accept(delegation_id)
    world.meter(worker, 1.5)
    path = path_of(delegation_id, "cancel")
    response = admin.send(path, path, reason="")
    page = plain(admin.see(response.headers["Location"]))
    assert "Cancellation is under way" in page
    assert "in progress" in page
    time.advance(seconds=31)
    assert "cancelled" in plain(admin.see(f"/operator/delegations/{delegation_id}"))


def test_the_api_lets_operators_cancel_and_nobody_else(world: World) -> None:
    world.register()
    delegation_id = world.offer()
    path = f"/v1/delegations/{delegation_id}/cancel"
    for stranger in ("globex", "initech"):
        assert world.callers[stranger].post(path, {}).status_code == 403
    done = world.send(world.callers["operator"], "POST", path, {"reason": "gone"})
    assert done["status"] == "cancelled"


def test_only_administrators_act(
    world: World, visitor: Callable[..., Visitor], disputed: str
) -> None:
    requester = visitor("acme")
    page = requester.see(f"/operator/delegations/{disputed}")
    path = path_of(disputed, "resolve")
    assert path not in page
    assert requester.get(path).status_code == 403
    form = hidden_fields(page, "/operator/sign-out")
    for target in (path, path_of(disputed, "cancel"), "/operator/refresh"):
        response = requester.client.post(
            target,
            data=form | {"charge_usd": "0", "reason": "mine", "idempotency_key": "k"},
            headers={"Origin": ORIGIN},
        )
        assert response.status_code == 403
    assert "disputed" in plain(requester.see(f"/operator/delegations/{disputed}"))


def test_nobody_signed_in_acts(world: World, admin: Visitor, disputed: str) -> None:
    path = path_of(disputed, "resolve")
    form = hidden_fields(admin.see(path), path)
    admin.client.delete_cookie("agenthub_console", path="/operator")
    sent = form | {"charge_usd": "0", "reason": "mine"}
    response = admin.client.post(path, data=sent, headers={"Origin": ORIGIN})
    assert response.headers["Location"] == "/operator/sign-in"
    admin.sign_in()
    assert "disputed" in plain(admin.see(f"/operator/delegations/{disputed}"))


def test_the_books_are_checked(world: World, admin: Visitor, services: Services) -> None:
    world.register()
    action = "/operator/ledger/reconcile"
    assert admin.send("/operator/ledger", action).status_code == 303
    assert "All rules hold" in plain(admin.see("/operator/ledger"))
    with services.database.transaction() as session:
        statement = "UPDATE ledger_accounts SET credits_micros = credits_micros + 1 WHERE id = :id"
        session.execute(text(statement), {"id": f"agent:{CLERK}"})
    admin.send("/operator/ledger", action)
    page = admin.see("/operator/ledger")
    assert "1 of 12 rules broken" in plain(page)
    assert f"R1: agent:{CLERK}" in page
    overview = plain(admin.see("/operator"))
    assert "Something is wrong The last reconciliation found: 1 of 12 rules broken" in overview
    assert audit(admin).count("reconcile") == 2


def test_an_agent_is_topped_up_once(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    path = f"/operator/agents/{CLERK}/top-up"
    assert path in admin.see(f"/operator/agents/{CLERK}")
    form = hidden_fields(admin.see(path), path)
    for _ in range(2):
        sent = form | {"amount_usd": "1,012.25"}
        response = admin.client.post(path, data=sent, headers={"Origin": ORIGIN})
        assert response.status_code == 303
    assert "top-up" in plain(admin.see(response.headers["Location"]))
    assert balance(world.callers["acme"], CLERK) == 250 + 1012.25
    assert audit(admin).count("POST /operator/agents/<agent_id>/top-up") == 1
    for amount, says in (("", "Amount"), ("x", "expected a number"), ("-1", "Amount")):
        refused = admin.send(path, path, amount_usd=amount)
        assert refused.status_code == 422
        assert says in plain(refused.text)
    assert admin.get("/operator/agents/@acme:nobody/top-up").status_code == 404
    publisher = visitor("acme")
    assert path not in publisher.see(f"/operator/agents/{CLERK}")
    assert publisher.get(path).status_code == 403
    stolen = hidden_fields(publisher.see("/operator"), "/operator/sign-out")
    stolen |= {"amount_usd": "5", "idempotency_key": "mine"}
    response = publisher.client.post(path, data=stolen, headers={"Origin": ORIGIN})
    assert response.status_code == 403
    assert balance(world.callers["acme"], CLERK) == 250 + 1012.25


def test_a_delivery_that_was_given_up_is_replayed(world: World, admin: Visitor) -> None:
    world.register()
    world.webhooks()
    world.live()
    world.attempt()
    page = admin.see("/operator/operations")
    assert "Deliveries given up 3" in plain(page)
    path = re.findall(r'action="([^"]+/replay)"', page)[0]
    # The receiver that is gone had its webhook disabled: nobody is asked there again.
    response = admin.send("/operator/operations", path)
    assert "make it active first" in plain(admin.see(response.headers["Location"]))
    webhook = f"/v1/webhooks/{path.split('/')[3]}"
    world.send(world.callers["globex"], "PATCH", webhook, {"status": "active"})
    form = hidden_fields(admin.see("/operator/operations"), path)
    for _ in range(2):
        response = admin.client.post(path, data=form, headers={"Origin": ORIGIN})
        after = plain(admin.see(response.headers["Location"]))
        assert "The delivery is attempted again" in after
        assert "Deliveries given up 2" in after
    # The refused attempt is on record, too.
    assert audit(admin).count("POST /operator/webhooks/<webhook_id>") == 2
    again = admin.client.post(
        path, data=form | {"idempotency_key": "another"}, headers={"Origin": ORIGIN}
    )
    assert "under way" in plain(admin.see(again.headers["Location"]))
    gone = path.replace(path.split("/")[3], "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10")
    lost = admin.client.post(
        gone, data=form | {"idempotency_key": "third"}, headers={"Origin": ORIGIN}
    )
    assert "no webhook" in plain(admin.see(lost.headers["Location"]))
