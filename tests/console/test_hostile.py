"""Text that others send is shown as text, in every field that anybody can fill."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from sqlalchemy import select, update

from app.access.models import Owner
from app.notification.models import Delivery, Subscription
from app.notification.service import subscribe
from tests.console.conftest import Visitor
from tests.console.world import World
from tests.registry.manifests import build_capability, build_full_manifest, build_interface

MARK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
# Breaks out of an attribute, in an address.
QUERY = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
HOSTILE = "@globex:reader"
# What a browser may find on a page: nothing that runs, nothing that styles, no other site.
EVENTS = re.compile(r"on[a-z]+")


class Inspector(HTMLParser):
    """Reads a page as a browser does, and finds what should not be there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note handlers, styles, foreign addresses and elements that carry code."""
        names = dict(attrs)
        if tag == "script":
            self.scripts += 1
            if not (names.get("src") or "").startswith("/operator/static/"):
                self.found.append(f"script {names}")
        if tag in ("style", "iframe", "object", "embed", "img", "base"):
            self.found.append(tag)
        for name, value in attrs:
            if EVENTS.fullmatch(name) or name == "style":
                self.found.append(f"{tag} {name}")
            local = (value or "").startswith(("/", "#")) or value == ""
            if name in ("href", "src", "action") and not local:
                self.found.append(f"{tag} {name}={value}")


def inspect(page: str) -> None:
    """Fail on anything that would run or load."""
    inspector = Inspector()
    inspector.feed(page)
    assert inspector.found == []
    assert inspector.scripts == 1


def hostile_manifest(slug: str, version: str = "1.0.0") -> dict[str, Any]:
    """Return a manifest with the mark in every member that takes free text."""
    document = build_full_manifest()
    document["identity"] |= {
        "id": slug,
        "version": version,
        "name": MARK,
        "description": MARK,
        "owner": MARK,
        "tags": [MARK],
    }
    schema = {"type": "object", "properties": {MARK: {"type": "string"}}, "required": [MARK]}
    document["capabilities"] = [
        build_capability(
            name=MARK,
            description=MARK,
            input_schema=schema,
            output_schema=schema,
            cost={"mode": "usage", "estimated_cost": 1, "unit": MARK},
        ),
        build_capability("other", output_schema={"$ref_uri": f"https://x.example/{slug}"}),
    ]
    document["interfaces"] = [
        build_interface(name=MARK, endpoint="https://x.example/%3Cscript%3E?a=%22%27")
    ]
    document["requirements"]["dependencies"][0] |= {"name": MARK, "version_constraint": MARK}
    document["requirements"]["secrets"][0] |= {"id": "one", "secret_ref": f"vault://{MARK}"}
    return document


def mark_everything(world: World) -> str:
    """Put the mark wherever somebody can send text; return the delegation that has it."""
    acme, globex = world.callers["acme"], world.callers["globex"]
    for api, namespace, slug in ((acme, "@acme", "clerk"), (globex, "@globex", "reader")):
        body = {"namespace": namespace, "manifest": hostile_manifest(slug)}
        world.send(api, "POST", "/v1/agents", body)
    reader, clerk = HOSTILE, "@acme:clerk"
    second = hostile_manifest("reader", "2.0.0")
    second["capabilities"][0]["input_schema"]["required"] = []
    second["capabilities"][0]["output_schema"]["required"] = [MARK, "more"]
    world.send(globex, "PUT", f"/v1/agents/{reader}", {"manifest": second})
    evaluation = {"suite": MARK, "metrics": {"accuracy": 1}, "cases": {"passed": 1, "total": 1}}
    world.send(globex, "POST", f"/v1/agents/{reader}/versions/2.0.0/evals", evaluation)
    usage = {"outcome": "failure", "count": 1, "note": MARK}
    world.send(acme, "POST", f"/v1/agents/{reader}/trust/usage", usage)
    money = {"agent_id": clerk, "amount_usd": 50}
    funded = world.send(world.callers["operator"], "POST", "/v1/ledger/topups", money)
    world.send(
        world.callers["operator"],
        "POST",
        f"/v1/ledger/transactions/{funded['id']}/reversal",
        {"reason": MARK},
    )
    world.send(world.callers["operator"], "POST", "/v1/ledger/topups", money)
    with world.services.database.transaction() as session:
        owner_id = session.scalars(select(Owner.id).where(Owner.name == "globex")).one()
        url = "https://x.example/%3Cscript%3E?a=%22%27"
        subscribe(session, owner_id, url, ["delegation.created"], MARK)
    one = world.offer(clerk, reader, task_spec=MARK, task_input={MARK: [MARK]})
    path = f"/v1/delegations/{one}"
    token = world.send(globex, "POST", f"{path}/accept", {})["lease_token"]
    lease = {"lease_token": token}
    event = {"event_id": "e-1", "operation": "run", "cost_usd": 1, "metadata": {MARK: {MARK: MARK}}}
    world.send(globex, "POST", f"{path}/meter", lease | {"events": [event]})
    world.send(globex, "POST", f"{path}/ask", lease | {"question": MARK})
    world.send(acme, "POST", f"{path}/answer", {"answer": MARK})
    world.send(globex, "POST", f"{path}/deliver", lease | {"output": {MARK: MARK}})
    world.send(acme, "POST", f"{path}/dispute", {"reason": MARK})
    with world.services.database.transaction() as session:
        session.execute(update(Subscription).values(disabled_reason=MARK, status="disabled"))
        dead = {"status": "dead", "next_attempt_at": None, "finished_at": world.time.now}
        session.execute(update(Delivery).values(last_error=MARK, **dead))
    return one


def pages_of(delegation_id: str) -> list[str]:
    """Return the addresses of pages that show the mark."""
    return [
        "/operator",
        "/operator/agents",
        f"/operator/agents?q={QUERY}",
        f"/operator/agents/{HOSTILE}",
        f"/operator/versioning?agent_id={HOSTILE}",
        f"/operator/delegations?agent_id={QUERY}&from={QUERY}&status={QUERY}",
        f"/operator/delegations/{delegation_id}",
        f"/operator/delegations/{delegation_id}?done={QUERY}",
        f"/operator/delegations/{delegation_id}/resolve",
        f"/operator/delegations/{delegation_id}/cancel",
        f"/operator/ledger?q={QUERY}",
        f"/operator/ledger/accounts/escrow:{delegation_id}",
        "/operator/operations",
        f"/operator/operations?problem={QUERY}&refreshed={QUERY}&compared={QUERY}",
    ]


def test_nothing_that_anybody_sends_is_markup(world: World, admin: Visitor) -> None:
    one = mark_everything(world)
    page = admin.see(f"/operator/delegations/{one}")
    transactions = re.findall(r'"(/operator/ledger/transactions/[^"]+)"', page)
    world_account = admin.see("/operator/ledger/accounts/sys:world")
    transactions += re.findall(r'"(/operator/ledger/transactions/[^"]+)"', world_account)
    for address in (
        *pages_of(one),
        f"/operator/agents/{QUERY}",
        f"/operator/versioning?agent_id={QUERY}",
        f"/operator/versioning?agent_id={HOSTILE}&base={QUERY}&target={QUERY}",
        f"/operator/delegations/{QUERY}",
        f"/operator/ledger/accounts/{QUERY}",
        f"/operator/sign-in?next=/operator/{QUERY}",
        f"/operator/{QUERY}",
        *transactions,
    ):
        response = admin.get(address)
        assert response.status_code in (200, 303, 404), address
        if response.status_code != 303:
            inspect(response.text)
    action = f"/operator/delegations/{one}/resolve"
    refused = admin.send(action, action, charge_usd=MARK, reason=MARK)
    assert refused.status_code == 422
    inspect(refused.text)
    stranger = Visitor(admin.client.application, MARK)
    refused = stranger.send("/operator/sign-in", "/operator/sign-in", api_key=MARK, next=MARK)
    assert refused.status_code == 401
    inspect(refused.text)
