"""Signing in: sessions, what ends them, and forms of other sites."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.access.service import revoke_key
from app.http.clients import Clients
from app.http.context import Services
from app.http.gate import EXTENSION as GATE
from app.operator.register import REFUSED_PER_MINUTE
from app.operator.session import IDLE_SECONDS, SESSION_SECONDS, Session, Signer
from app.operator.web import COOKIE
from tests.client import Api
from tests.console.conftest import ORIGIN, Visitor, hidden_fields
from tests.delegation.conftest import Clock

KEYS = Callable[..., str]


@pytest.fixture
def dialect() -> str:
    """The database makes no difference here."""
    return "sqlite"


def cookie(visitor: Visitor) -> str:
    """Return the session's token, empty if there is none."""
    found = visitor.client.get_cookie(COOKIE, path="/operator")
    return found.value if found else ""


def test_a_key_opens_the_console(app: Flask, key_of: KEYS, time: Clock) -> None:
    operator = Visitor(app, key_of("operator", "admin"))
    assert "API key" in operator.see("/operator")
    response = operator.sign_in()
    assert (response.status_code, response.headers["Location"]) == (303, "/operator")
    assert "Overview</h1>" in operator.see("/operator")


def test_the_cookie_is_for_the_browser_alone(app: Flask, key_of: KEYS) -> None:
    operator = Visitor(app, key_of("operator", "admin"))
    header = operator.sign_in().headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/operator"} <= set(header.split("; "))
    assert "Secure" not in header
    secret = operator.key.rpartition("_")[2]
    assert secret not in header


@pytest.mark.parametrize("trusted", [("127.0.0.0/8",), ("10.0.0.1",), ()])
def test_behind_tls_the_cookie_is_sent_by_tls_only(
    app: Flask, key_of: KEYS, trusted: tuple[str, ...]
) -> None:
    """A proxy that is trusted tells; anybody else may have written the header himself."""
    app.extensions[GATE].clients = Clients(trusted)
    operator = Visitor(app, key_of("operator", "admin"))
    operator.client.environ_base["HTTP_X_FORWARDED_PROTO"] = "https"
    is_secure = "; Secure" in operator.sign_in().headers["Set-Cookie"]
    assert is_secure == (trusted == ("127.0.0.0/8",))


def test_a_wrong_key_is_refused(app: Flask) -> None:
    for presented in ("", "ah_0000000000000000_" + "x" * 43, "nonsense", "é", "\0"):
        stranger = Visitor(app, presented)
        response = stranger.sign_in()
        assert response.status_code == 401
        assert "not accepted" in response.text
        assert cookie(stranger) == ""


def test_pages_lead_to_the_form_and_back(app: Flask, key_of: KEYS) -> None:
    operator = Visitor(app, key_of("operator", "admin"))
    response = operator.get("/operator/delegations?status=disputed")
    assert response.status_code == 303
    form = response.headers["Location"]
    response = operator.send(form, "/operator/sign-in", api_key=operator.key)
    assert response.headers["Location"] == "/operator/delegations?status=disputed"


def test_nobody_is_led_elsewhere(app: Flask, key_of: KEYS) -> None:
    key = key_of("operator", "admin")
    for wanted in (
        *("https://evil.example/", "//evil.example", "/operator//evil.example"),
        *("/operator/\\evil", "/operatorevil", "/", "/operator/\r\nSet-Cookie: a=b"),
    ):
        stranger = Visitor(app, key)
        fields = {"api_key": key, "next": wanted}
        response = stranger.send("/operator/sign-in", "/operator/sign-in", **fields)
        assert response.headers["Location"] == "/operator"


def test_a_session_ends_when_nobody_uses_it(admin: Visitor, time: Clock) -> None:
    for _ in range(3):
        time.advance(seconds=IDLE_SECONDS - 1)
        admin.see("/operator")
    time.advance(seconds=IDLE_SECONDS)
    assert "API key</label>" in admin.see("/operator")


def test_a_session_ends_however_much_it_is_used(admin: Visitor, time: Clock) -> None:
    for _ in range(SESSION_SECONDS // 1800 - 1):
        time.advance(seconds=1800)
        admin.see("/operator")
    time.advance(seconds=1800)
    assert "API key</label>" in admin.see("/operator")


def test_a_page_left_open_does_not_keep_a_session_alive(admin: Visitor, time: Clock) -> None:
    before = cookie(admin)
    time.advance(seconds=600)
    assert admin.get("/operator", **{"X-Console-Live": "1"}).status_code == 200
    assert cookie(admin) == before
    time.advance(seconds=IDLE_SECONDS - 600)
    assert admin.get("/operator", **{"X-Console-Live": "1"}).status_code == 401


def test_revoking_the_key_ends_its_sessions(admin: Visitor, services: Services) -> None:
    with services.database.transaction() as session:
        revoke_key(session, services.pepper, admin.key.split("_")[1])
    assert "API key</label>" in admin.see("/operator")


def test_signing_out(admin: Visitor) -> None:
    response = admin.send("/operator", "/operator/sign-out")
    assert response.status_code == 303
    assert cookie(admin) == ""
    assert "API key</label>" in admin.see("/operator")


def test_a_token_cannot_be_made_up(services: Services, time: Clock) -> None:
    signer, other = Signer(services.pepper), Signer(b"another pepper")
    session = Session.begin("0123456789abcdef", time.now)
    token = signer.seal(session)
    assert signer.open(token, time.now) == session
    content, _, signature = token.rpartition(".")
    longer = content.rpartition(".")[0] + f".{session.seen + 1}.{signature}"
    for forged in (other.seal(session), longer, content, "", "a.b.c.d.e", f"{token}\n"):
        assert signer.open(forged, time.now) is None
    assert not signer.is_form_token(session.id, signature)


def test_forms_of_other_sites_do_nothing(admin: Visitor) -> None:
    hidden = hidden_fields(admin.see("/operator"), "/operator/sign-out")
    for headers, fields in (
        ({"Origin": "https://evil.example"}, {}),
        ({"Origin": "null"}, {}),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, {}),
        ({"Origin": ORIGIN}, {"form_token": "0" * 64}),
        ({"Origin": ORIGIN}, {"form_token": ""}),
    ):
        sent = hidden | fields
        response = admin.client.post("/operator/sign-out", data=sent, headers=headers)
        assert response.status_code == 403
        assert "Overview</h1>" in admin.see("/operator")


def test_a_form_token_is_of_one_session(visitor: Callable[..., Visitor]) -> None:
    first, second = visitor("operator", "admin"), visitor("other", "admin")
    sent = hidden_fields(first.see("/operator"), "/operator/sign-out")
    response = second.client.post("/operator/sign-out", data=sent, headers={"Origin": ORIGIN})
    assert response.status_code == 403


def test_attempts_go_on_record(
    app: Flask, admin: Visitor, caller: Callable[..., Api], time: Clock
) -> None:
    genuine = admin.key
    _, key_id, _ = genuine.split("_", 2)
    thief = Visitor(app, genuine[:-1] + ("A" if genuine[-1] != "A" else "B"))
    assert thief.sign_in().status_code == 401
    auditor = caller("auditor", "admin")
    found = auditor.get("/v1/audit").get_json()["actions"]
    recorded = [(one["actor"], one["key_id"], one["action"], one["outcome"]) for one in found]
    assert recorded == [
        ("unknown", None, "sign in", "refused"),
        ("operator", key_id, "sign in", "signed in"),
    ]
    assert [one["target"] for one in found] == [
        f"/operator/sign-in, claimed key {key_id}",
        "/operator/sign-in",
    ]


def test_the_holder_of_a_key_that_is_over_is_known(
    app: Flask, admin: Visitor, caller: Callable[..., Api], services: Services
) -> None:
    with services.database.transaction() as session:
        revoke_key(session, services.pepper, admin.key.split("_")[1])
    assert Visitor(app, admin.key).sign_in().status_code == 401
    newest = caller("auditor", "admin").get("/v1/audit").get_json()["actions"][0]
    assert (newest["actor"], newest["outcome"]) == ("operator", "refused")


def test_refused_attempts_are_limited_and_keep_nobody_out(
    app: Flask, key_of: KEYS, time: Clock
) -> None:
    stranger, holder = Visitor(app, "ah_nobody"), Visitor(app, key_of("acme"))
    for _ in range(REFUSED_PER_MINUTE):
        assert stranger.sign_in().status_code == 401
    response = stranger.sign_in()
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 60
    # The same address, as behind a proxy.
    assert holder.sign_in().status_code == 303
    time.advance(seconds=60)
    assert stranger.sign_in().status_code == 401


def test_pages_may_load_nothing_from_elsewhere(admin: Visitor) -> None:
    for path in ("/operator", "/operator/sign-in", "/operator/none"):
        headers = admin.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"


def test_static_files_are_kept_as_long_as_they_are_the_same(admin: Visitor) -> None:
    paths = re.findall(r'"(/operator/static/[^"]+)"', admin.see("/operator"))
    assert len(paths) == 3
    for path in paths:
        assert "immutable" in admin.get(path).headers["Cache-Control"]
        assert admin.get(path.partition("?")[0]).headers["Cache-Control"] == "no-cache"


def test_there_is_no_other_page(admin: Visitor) -> None:
    response = admin.get("/operator/no/such/page")
    assert response.status_code == 404
    assert "no such page" in response.text
    assert response.mimetype == "text/html"
