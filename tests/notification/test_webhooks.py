"""Webhooks as clients manage them: their life, their secrets, and who may see what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.config import Settings
from app.http.context import Services
from tests.client import Api
from tests.migrations.project import contents
from tests.notification.conftest import (
    WEBHOOKS,
    Clock,
    Receiver,
    deliveries,
    register,
    subscribe,
)

Deliver = Callable[[], dict[str, int]]
ID = "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"


def test_a_webhook_is_told_of_what_it_subscribed_to_and_its_receiver_can_verify_it(
    acme: Api, receiver: Receiver, deliver: Deliver
) -> None:
    webhook = subscribe(acme, receiver.url, "agent.registered")
    register(acme, "@acme:clerk")
    acme.delete("/v1/agents/@acme:clerk")

    assert deliver() == {"delivered": 1}

    ((headers, body),) = receiver.requests
    message = Webhook(webhook["secret"]).verify(body, headers)
    assert message["type"] == "agent.registered"
    assert message["data"] == {"agent_id": "@acme:clerk", "version": "1.0.0"}
    assert headers[":path"] == "/hooks?from=hub"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    (delivery,) = deliveries(acme, webhook, status="delivered")
    assert delivery["message"] == json.loads(body)
    assert (delivery["message_id"], delivery["last_status"]) == (headers["webhook-id"], 204)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook["secret"]).verify(body + b" ", headers)


def test_no_name_is_looked_up_for_a_webhook_of_others(
    acme: Api,
    globex: Api,
    receiver: Receiver,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = subscribe(acme, receiver.url)
    asked = []
    monkeypatch.setattr(services.lookups, "resolve", lambda *target, **_: asked.append(target))
    change = {"url": "https://slow.example/hook"}
    for webhook_id in (webhook["id"], ID):
        refused = globex.request("PATCH", f"{WEBHOOKS}/{webhook_id}", json=change)
        assert (refused.status_code, refused.get_json()["code"]) == (404, "webhook_not_found")
    assert asked == []
    assert acme.request("PATCH", f"{WEBHOOKS}/{webhook['id']}", json=change).status_code == 200
    assert len(asked) == 1


def test_owners_are_told_of_their_own_agents_only(
    acme: Api, globex: Api, receiver: Receiver, deliver: Deliver
) -> None:
    subscribe(globex, receiver.url)
    register(acme, "@acme:clerk")
    assert deliver() == {}


def test_a_webhook_can_be_changed_paused_and_removed(
    acme: Api, receiver: Receiver, deliver: Deliver
) -> None:
    webhook = subscribe(acme, receiver.url)
    path = f"{WEBHOOKS}/{webhook['id']}"
    assert acme.post(f"{path}/ping", {}).status_code == 200

    paused = acme.request("PATCH", path, json={"status": "paused", "description": "later"})
    assert paused.get_json()["status"] == "paused"
    assert paused.get_json()["event_types"] == ["*"]
    register(acme, "@acme:one")
    assert deliver() == {}
    refused = acme.post(f"{path}/ping", {})
    assert (refused.status_code, refused.get_json()["code"]) == (409, "webhook_not_active")

    # What waited is sent, what happened meanwhile was not written down.
    acme.request("PATCH", path, json={"status": "active", "event_types": ["agent.registered"]})
    register(acme, "@acme:two")
    acme.delete("/v1/agents/@acme:two")
    assert deliver() == {"delivered": 2}
    assert [d["message"]["type"] for d in deliveries(acme, webhook)] == [
        "agent.registered",
        "webhook.ping",
    ]

    assert acme.delete(path).get_json() == {"id": webhook["id"], "deleted": True}
    assert acme.get(path).status_code == 404
    register(acme, "@acme:three")
    assert deliver() == {}


def test_lists_have_pages(acme: Api, receiver: Receiver) -> None:
    webhooks = [subscribe(acme, receiver.url)["id"] for _ in range(3)]
    for _ in range(3):
        acme.post(f"{WEBHOOKS}/{webhooks[0]}/ping", {})

    for path in (WEBHOOKS, f"{WEBHOOKS}/{webhooks[0]}/deliveries"):
        first = acme.get(f"{path}?limit=2").get_json()
        cursor = first["pagination"]["next_cursor"]
        last = acme.get(f"{path}?limit=2&cursor={cursor}").get_json()
        found = [entry["id"] for entry in first["data"] + last["data"]]
        assert len(set(found)) == 3
        assert found == sorted(found, reverse=path != WEBHOOKS)
        assert last["pagination"]["next_cursor"] is None
    assert deliveries(acme, {"id": webhooks[0]}, status="dead") == []


def test_others_webhooks_are_not_told_from_none(
    acme: Api, globex: Api, operator: Api, receiver: Receiver, caller: Callable[..., Api]
) -> None:
    webhook = subscribe(acme, receiver.url)
    path = f"{WEBHOOKS}/{webhook['id']}"
    delivery = acme.post(f"{path}/ping", {}).get_json()["id"]
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", path, {"status": "paused"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", {}),
        ("POST", f"{path}/ping", {}),
        ("POST", f"{path}/deliveries/{delivery}/replay", {}),
    ]
    for api in (globex, operator):
        for method, url, body in calls:
            response = api.request(method, url, json=body)
            assert (response.status_code, response.get_json()["code"]) == (404, "webhook_not_found")
    assert globex.get(WEBHOOKS).get_json()["data"] == []
    assert globex.get(path).status_code == 404
    assert globex.get(f"{path}/deliveries").status_code == 404
    for api in (operator, caller("acme", role="viewer")):
        assert [found["id"] for found in api.get(WEBHOOKS).get_json()["data"]] == [webhook["id"]]
        assert len(deliveries(api, webhook)) == 1
    viewer = caller("acme", role="viewer")
    assert viewer.request("DELETE", path).status_code == 403


def test_a_secret_is_shown_once_and_stored_nowhere(
    acme: Api, receiver: Receiver, settings: Settings
) -> None:
    body = {"url": receiver.url}
    first = acme.post(WEBHOOKS, body, idempotency_key="subscribe")
    secret = first.get_json()["secret"]
    assert secret.startswith("whsec_")

    again = acme.post(WEBHOOKS, body, idempotency_key="subscribe")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.get_json() == first.get_json() | {"secret": None}
    path = f"{WEBHOOKS}/{first.get_json()['id']}"
    rotated = acme.post(f"{path}/rotate-secret", {}).get_json()["secret"]
    assert rotated != secret
    assert "secret" not in acme.get(path).get_json()
    stored = repr(contents(settings))
    for each in (secret, rotated):
        assert each.removeprefix("whsec_") not in stored


def test_both_secrets_sign_during_the_grace_of_a_rotation(
    acme: Api, receiver: Receiver, deliver: Deliver, services: Services, time: Clock
) -> None:
    webhook = subscribe(acme, receiver.url)
    path = f"{WEBHOOKS}/{webhook['id']}"
    rotated = acme.post(f"{path}/rotate-secret", {"grace_hours": 2}).get_json()
    assert rotated["previous_secret_expires_at"] == "2026-11-20T11:30:00.000000Z"

    def entries() -> int:
        acme.post(f"{path}/ping", {})
        assert deliver() == {"delivered": 1}
        return len(receiver.requests[-1][0]["webhook-signature"].split())

    assert entries() == 2
    time.advance(hours=2)
    assert entries() == 1
    assert acme.get(path).get_json()["previous_secret_expires_at"] is None
    new = acme.post(f"{path}/rotate-secret", {"grace_hours": 0}).get_json()["secret"]
    assert entries() == 1
    headers, body = receiver.requests[-1]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}"
    assert content.startswith(headers["webhook-id"])
    expected = Webhook(new).sign(headers["webhook-id"], time.now, body.decode())
    assert headers["webhook-signature"] == expected


def test_an_owner_has_a_limited_number_of_webhooks(
    acme: Api, globex: Api, receiver: Receiver
) -> None:
    for _ in range(20):
        subscribe(acme, receiver.url)
    refused = acme.post(WEBHOOKS, {"url": receiver.url})
    assert (refused.status_code, refused.get_json()["code"]) == (403, "quota_exceeded")
    assert (refused.get_json()["quota"], refused.get_json()["used"]) == ("webhooks", 20)
    subscribe(globex, receiver.url)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": 7}, "/url"),
        ({"url": None}, "/url"),
        ({"url": "ftp://127.0.0.1/"}, "/url"),
        ({"url": "http://user:secret@127.0.0.1/"}, "/url"),
        ({"url": "http://127.0.0.1/#part"}, "/url"),
        ({"url": "http://127.0.0.1:0/"}, "/url"),
        ({"url": "http://127.0.0.1:99999/"}, "/url"),
        ({"url": "http://127.0.0.1/a b"}, "/url"),
        ({"url": "http://127.0.0.1/\r\nHost: x"}, "/url"),
        ({"url": "http://127.0.0.1/\u00e9"}, "/url"),
        ({"url": "http:///path"}, "/url"),
        ({"url": "http://[::1/"}, "/url"),
        ({"url": "http://[fe80::1%25lo]/"}, "/url"),
        ({"url": "http://exa_mple..com/"}, "/url"),
        ({"url": "http://no-such-host.invalid/"}, "/url"),
        ({"url": "http://127.0.0.1/" + "a" * 2000}, "/url"),
        ({"url": "http://127.0.0.1/", "event_types": []}, "/event_types"),
        ({"url": "http://127.0.0.1/", "event_types": ["agent.gone"]}, "/event_types/0"),
        ({"url": "http://127.0.0.1/", "event_types": "agent.registered"}, "/event_types"),
        ({"url": "http://127.0.0.1/", "description": "d" * 256}, "/description"),
        ({"url": "http://127.0.0.1/", "secret": "mine"}, "/secret"),
    ],
)
@pytest.mark.parametrize("dialect", ["sqlite"])
def test_what_cannot_be_a_webhook_is_refused_where_it_is_wrong(
    acme: Api, body: dict[str, Any], pointer: str
) -> None:
    response = acme.post(WEBHOOKS, body)
    assert response.status_code == 422
    assert {entry["pointer"] for entry in response.get_json()["errors"]} == {pointer}
    assert acme.get(WEBHOOKS).get_json()["data"] == []


def test_what_there_is_not_cannot_be_replayed(acme: Api, receiver: Receiver) -> None:
    one, other = subscribe(acme, receiver.url), subscribe(acme, receiver.url)
    delivery = acme.post(f"{WEBHOOKS}/{one['id']}/ping", {}).get_json()["id"]

    def replay(webhook: dict[str, Any], delivery_id: str) -> tuple[int, str]:
        path = f"{WEBHOOKS}/{webhook['id']}/deliveries/{delivery_id}/replay"
        response = acme.post(path, {})
        return response.status_code, response.get_json()["code"]

    assert replay(one, delivery) == (409, "delivery_pending")
    assert replay(other, delivery) == (404, "delivery_not_found")
    assert replay(one, ID) == (404, "delivery_not_found")
    assert replay({"id": ID}, delivery) == (404, "webhook_not_found")
