"""Before any route: which hosts are answered, who is limited by address, where redirects lead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.access.service import create_key, revoke_key
from app.config import Settings, SettingsError
from app.http.clients import Clients, party
from app.http.context import EXTENSION
from tests.client import Api, Contract
from tests.conftest import rule_of
from tests.delegation.conftest import problem

Make = Callable[..., FlaskClient]


@pytest.fixture
def make(settings: Settings) -> Iterator[Make]:
    """Make clients of applications with settings of their own."""
    apps: list[Flask] = []

    def client(**changes: Any) -> FlaskClient:
        app = create_app(replace(settings, **changes))
        rule_of(app)
        apps.append(app)
        return app.test_client()

    yield client
    for app in apps:
        app.extensions[EXTENSION].database.dispose()


def key_of(client: FlaskClient, owner: str = "acme") -> str:
    services = client.application.extensions[EXTENSION]
    with services.database.transaction() as session:
        return create_key(session, services.pepper, owner, "developer").secret


LOOPBACK = ("localhost", "LOCALHOST:80", "localhost.", "127.0.0.1", "127.8.9.10:8080", "[::1]:1")
FOREIGN = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]",
           "127.1", "2130706433", "0x7f000001", "example.com:80", "_", "evil.example:")  # fmt: skip
NO_HOSTS = ("", " ", "a b", "localhost,localhost", "localhost:x", "user@localhost", "local host",
            "[::1", "::1", "localhost/", "http://localhost", "localhost:123456", "é")  # fmt: skip


@pytest.mark.parametrize("path", ["/healthz", "/v1/agents", "/operator/sign-in", "/none"])
def test_a_service_answers_for_loopback_alone_unless_told(make: Make, path: str) -> None:
    client = make()
    expected = client.get(path).status_code
    for host in LOOPBACK:
        assert client.get(path, headers={"Host": host}).status_code == expected, host
    for host in FOREIGN:
        refused = client.get(path, headers={"Host": host})
        assert refused.status_code == 421, host
        assert "localhost" not in refused.headers.get("Location", "")
    for host in NO_HOSTS:
        assert client.get(path, headers={"Host": host}).status_code == 400, host


def test_the_refusal_is_a_problem_that_names_the_setting(make: Make) -> None:
    client = make()
    refused = client.get("/v1/agents", headers={"Host": "evil.example"})
    assert problem(refused) == (421, "host_not_allowed")
    assert "AGENTHUB_ALLOWED_HOSTS" in refused.get_json()["detail"]
    missing = client.get("/v1/agents", headers={"Host": ""})
    assert problem(missing) == (400, "host_malformed")
    Contract(client.application).check(refused)


def test_further_hosts_can_be_allowed(make: Make) -> None:
    def answered(client: FlaskClient, *hosts: str) -> list[int]:
        return [client.get("/healthz", headers={"Host": host}).status_code for host in hosts]

    read = Settings.from_env(
        {"AGENTHUB_ALLOWED_HOSTS": "hub.Example.com, *.hubs.example,10.1.0.0/16"}
    )
    client = make(allowed_hosts=read.allowed_hosts)
    right = ("hub.example.com:443", "HUB.EXAMPLE.COM", "a.hubs.example", "a.b.hubs.example:8080")
    assert set(answered(client, *right, "10.1.2.3", "localhost")) == {200}
    wrong = (
        "example.com",
        "hubs.example",
        "xhubs.example",
        "hub.example.com.evil.example",
        "10.2.0.1",
    )
    assert set(answered(client, *wrong)) == {421}
    # Where it listens explicitly is allowed; a wildcard is no host.
    assert answered(make(host="10.9.9.9"), "10.9.9.9:8080", "10.9.9.8") == [200, 421]
    assert answered(make(host="hub.internal"), "hub.internal") == [200]
    assert answered(make(host="0.0.0.0"), "0.0.0.0", "10.9.9.9") == [421, 421]
    assert answered(make(allowed_hosts=("*",)), "evil.example", "10.9.9.9", "") == [200, 200, 400]


@pytest.mark.parametrize("value", ["http://a", "a:80", "a b", "*.", "*a", "a,,b", "a/b", "-a", ","])
def test_hosts_that_are_none_are_refused_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="AGENTHUB_ALLOWED_HOSTS"):
        Settings.from_env({"AGENTHUB_ALLOWED_HOSTS": value})


def test_no_redirect_is_made_from_the_host_header(make: Make) -> None:
    client = make(allowed_hosts=("*",))
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Idempotency-Key": "k"}
    headers |= {"X-Forwarded-Proto": "https", "X-API-Key": key_of(client)}
    rules = {rule.rule for rule in client.application.url_map.iter_rules()}
    paths = {rule.replace("<", "").replace(">", "").replace("path:", "") for rule in rules}
    for path in sorted(paths):
        for asked in (
            path,
            f"{path}/",
            f"/{path}",
            path.replace("/", "//"),
            f"/evil.example/..{path}",
        ):
            for method in ("GET", "POST"):
                response = client.open(asked, method=method, headers=headers)
                location = response.headers.get("Location", "/")
                assert location.startswith("/"), (method, asked, location)
                assert not location.startswith("//"), (method, asked, location)
                response.close()
    answer = client.post("/v1//agents", headers=headers)
    assert problem(answer) == (404, "not_found")


def statuses(
    client: FlaskClient, number: int, path: str = "/v1/agents", **headers: str
) -> list[int]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.get(path, headers=sent).status_code for _ in range(number)]


def test_an_address_without_a_key_is_limited(make: Make) -> None:
    client = make(anonymous_limit_per_minute=5)
    key = key_of(client)
    assert statuses(client, 6) == [200] * 5 + [429]
    refused = client.get("/v1/agents")
    assert problem(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    for path in ("/docs", "/none", "/operator/sign-in", "/openapi.json", "/readyz"):
        assert statuses(client, 1, path) == [429]
    # Health is asked for by machines, and a genuine key is nobody unknown.
    assert statuses(client, 10, "/healthz") == [200] * 10
    assert statuses(client, 10, X_API_Key=key) == [200] * 10
    assert statuses(client, 10, "/none", X_API_Key=key) == [404] * 10
    # Nobody evades the limit by a key that is none, or by saying to come from elsewhere.
    assert statuses(client, 2, X_API_Key="ah_0000000000000000_" + "A" * 43) == [429] * 2
    assert statuses(client, 1, X_Forwarded_For="192.0.2.1") == [429]
    other = {"environ_base": {"REMOTE_ADDR": "192.0.2.1"}}
    assert client.get("/v1/agents", **other).status_code == 200


def test_a_wrong_key_is_limited_and_the_right_one_is_not(make: Make) -> None:
    client = make(failed_key_limit_per_minute=3)
    key = key_of(client)
    path = "/v1/cost/metering"
    assert statuses(client, 5, path, X_API_Key=key[:-1] + "_") == [401] * 3 + [429] * 2
    assert statuses(client, 5, path, X_API_Key=key) == [200] * 5
    assert statuses(client, 5) == [200] * 5


def test_the_limits_follow_that_of_keys(settings: Settings, acme: Api) -> None:
    assert (settings.anonymous_limit, settings.failed_key_limit) == (0, 0)
    usual = Settings.from_env({})
    assert (usual.anonymous_limit, usual.failed_key_limit) == (6000, 60)
    own = {"AGENTHUB_ANONYMOUS_LIMIT_PER_MINUTE": "7", "AGENTHUB_FAILED_KEY_LIMIT_PER_MINUTE": "0"}
    read = Settings.from_env(own)
    assert (read.anonymous_limit, read.failed_key_limit) == (7, 0)
    assert statuses(acme.client, 20) == [200] * 20


def test_a_session_of_the_console_is_not_its_address(make: Make) -> None:
    client = make(anonymous_limit_per_minute=3)
    page = client.get("/operator/sign-in").get_data(as_text=True)
    token = page.partition('name="form_token" value="')[2].partition('"')[0]
    form = {"api_key": key_of(client), "form_token": token}
    assert client.post("/operator/sign-in", data=form).status_code == 303
    assert statuses(client, 10, "/operator") == [200] * 10
    # Elsewhere a session is nobody's key.
    cookie = client.get_cookie("agenthub_console", path="/operator")
    assert cookie is not None
    found = statuses(client, 10, Cookie=f"agenthub_console={cookie.value}")
    assert found[-1] == 429
    # One that has ended is no session.
    services = client.application.extensions[EXTENSION]
    with services.database.transaction() as session:
        revoke_key(session, services.pepper, form["api_key"].split("_")[1])
    assert statuses(client, 10, "/operator")[-1] == 429


def test_behind_a_trusted_proxy_its_word_counts(make: Make) -> None:
    read = Settings.from_env({"AGENTHUB_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8"})
    client = make(anonymous_limit_per_minute=2, trusted_proxies=read.trusted_proxies)
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert statuses(client, 3, X_Forwarded_For=address) == [200, 200, 429]
    # What the client wrote itself stands left of what proxies add.
    for forged in ("192.0.2.9, 192.0.2.1", "x, 192.0.2.1", "192.0.2.9,192.0.2.1, 10.1.1.1"):
        assert statuses(client, 1, X_Forwarded_For=forged) == [429], forged
    assert statuses(client, 1, X_Forwarded_For="2001:db8::ffff:2") == [429]
    assert statuses(client, 1, X_Forwarded_For="2001:db8:0:1::1") == [200]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.2", "192.0.2.1"),
        ("10.0.0.1", "192.0.2.2", "192.0.2.2"),
        ("10.0.0.1", "192.0.2.2, 10.0.0.2", "192.0.2.2"),
        ("10.0.0.1", "192.0.2.3, 192.0.2.2, 10.0.0.2", "192.0.2.2"),
        ("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.2, nonsense", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.2:4711", "192.0.2.2"),
        ("10.0.0.1", '"[2001:db8::7]:4711"', "2001:db8::/64"),
        ("::ffff:10.0.0.1", "192.0.2.2", "192.0.2.2"),
        ("10.0.0.1", ",".join(["192.0.2.2"] * 5000), "192.0.2.2"),
    ],
)
def test_the_rightmost_address_that_is_no_trusted_proxy_counts(
    peer: str, forwarded: str, expected: str
) -> None:
    assert Clients(["10.0.0.0/8"]).party(peer, forwarded) == expected


def test_an_ipv6_subscriber_is_one_party() -> None:
    assert party("2001:db8::1") == party("2001:db8::ffff:ffff:ffff:ffff") != party("2001:db8:0:1::")
    assert party("::ffff:192.0.2.1") == party("192.0.2.1") != party("192.0.2.2")
