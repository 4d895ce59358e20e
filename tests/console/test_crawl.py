"""Every link that a page shows leads to a page, for everybody, whatever the service holds."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from flask import Flask

from app.config import Settings
from tests.cli.test_commands import Shell
from tests.console.conftest import Visitor, hidden_fields
from tests.console.crawler import Crawl, Get, Shown, crawl
from tests.console.world import World
from tests.registry.generated import fullest, minimal, some
from tests.reliability.server import Server, make_client, url_of

STARTS = ("/", "/operator", "/operator/agents", "/operator/delegations", "/docs", "/openapi.json")
SIGN_IN = "/operator/sign-in"
SETS = 6


def of_app(visitor: Visitor) -> Get:
    """Return what opens the pages of an application in this process."""

    def get(address: str, headers: dict[str, str]) -> Shown:
        found = visitor.get(address, **headers)
        fields = {name.lower(): value for name, value in found.headers}
        return Shown(found.status_code, fields, found.data)

    return get


class Browser:
    """Opens the pages of a real server, with the cookies it was given."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def send(self, method: str, address: str, headers: dict[str, str], body: str = "") -> Shown:
        """Send a request with the cookies, and keep those that come back."""
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, address, body or None, sent | headers)
            response = connection.getresponse()
            for cookie in response.headers.get_all("Set-Cookie") or ():
                name, value = re.findall(r"^([^=]+)=([^;]*)", cookie)[0]
                self.cookies[name] = value
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Shown(response.status, fields, response.read())
        finally:
            connection.close()

    def get(self, address: str, headers: dict[str, str]) -> Shown:
        """Open a page."""
        return self.send("GET", address, headers)

    def sign_in(self, key: str) -> None:
        """Sign in with a key."""
        form = hidden_fields(self.get(SIGN_IN, {}).body.decode(), SIGN_IN)
        fields = urlencode(form | {"api_key": key})
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert self.send("POST", SIGN_IN, kind, fields).status == 303


def everything_is_there(_: str, shown: Shown) -> bool:
    """Accept a page that is there."""
    return shown.status in (200, 304)


def or_asks_to_sign_in(address: str, shown: Shown) -> bool:
    """Accept, of somebody who is not signed in, being sent to the form."""
    leads = shown.status == 303 and shown.headers["location"].startswith(SIGN_IN)
    return everything_is_there(address, shown) or leads


def check(done: Crawl, *expected: str) -> None:
    """Fail on any page that was not there, and unless the expected kinds of pages were seen."""
    assert done.wrong == []
    for pattern in expected:
        assert any(re.fullmatch(pattern, address) for address in done.pages), pattern


DOCS = ("/docs", "/openapi.json", "/assets/swagger-ui/swagger-ui-bundle.js", "/assets/docs.js")
FILLED = (
    "/operator/agents/@[^/]+",
    "/operator/delegations/[^/?]+",
    r"/operator/versioning\?agent_id=.+",
    "/operator/ledger/transactions/[^/]+",
    "/operator/ledger/accounts/agent:[^/]+",
    r"/operator\?period=30d",
    r"/operator/static/console\.css.*",
    "/agents/@[^/]+/versions/[^/]+",
    "/namespaces/@[^/]+",
)


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """A server that the demonstration has run against."""
    server = Server(url_of(settings), tmp_path).start()
    done = Shell(settings, tmp_path).run("demo", "--url", f"http://127.0.0.1:{server.port}")
    assert done.returncode == 0, done.stderr
    yield server
    server.end()


def test_after_the_demonstration_every_link_leads_somewhere(server: Server) -> None:
    for owner, role in (("auditor", "admin"), ("demo", "developer"), ("demo-partner", "viewer")):
        browser = Browser(server.port)
        browser.sign_in(make_client(server, owner, role).api_key)
        found = crawl(browser.get, STARTS, everything_is_there)
        check(found, *DOCS, *FILLED)
        is_admin = role == "admin"
        assert ("/operator/operations" in found.pages) == is_admin
        assert ("/operator/ledger/accounts/sys:world" in found.pages) == is_admin
    stranger = Browser(server.port)
    stranger.sign_in(make_client(server, "stranger", "viewer").api_key)
    check(crawl(stranger.get, STARTS, everything_is_there), *DOCS, FILLED[0])
    check(crawl(Browser(server.port).get, STARTS, or_asks_to_sign_in), *DOCS, f"{SIGN_IN}.*")


def test_while_there_is_nothing_every_link_leads_somewhere(
    app: Flask, visitor: Callable[..., Visitor], admin: Visitor
) -> None:
    for who in (admin, visitor("acme"), visitor("acme", "viewer")):
        check(crawl(of_app(who), STARTS, everything_is_there), *DOCS, "/operator/ledger")
    check(crawl(of_app(Visitor(app)), STARTS, or_asks_to_sign_in), *DOCS)


def test_in_every_state_every_link_leads_somewhere(
    world: World, visitor: Callable[..., Visitor], admin: Visitor
) -> None:
    world.fill(days=2)
    world.seal()
    for who in (admin, visitor("acme", "viewer"), visitor("stranger")):
        check(crawl(of_app(who), STARTS, everything_is_there), *DOCS, FILLED[0], FILLED[2])
    decided = [f"/operator/delegations/{one}/resolve" for one in world.live().values()]
    assert crawl(of_app(admin), decided, everything_is_there).wrong == []


def test_any_valid_manifest_has_its_pages(
    world: World, visitor: Callable[..., Visitor], admin: Visitor
) -> None:
    acme = world.callers["acme"]
    made = [(f"least-{n}", minimal, n) for n in range(3)]
    made += [(f"most-{n}", fullest, n) for n in range(3)]
    made += [(f"some-{n}", some, n) for n in range(SETS)]
    for slug, make, seed in made:
        first = make(slug, "1.0.0", seed=seed)
        world.send(acme, "POST", "/v1/agents", {"namespace": "@acme", "manifest": first})
        # From the least to the most, and back: whatever can be added and taken away.
        for version, other in (("2.0.0", fullest), ("3.0.0", minimal)):
            body = {"manifest": other(slug, version, seed=seed + 1)}
            world.send(acme, "PUT", f"/v1/agents/@acme:{slug}", body)
    starts = ["/operator/agents"]
    starts += [f"/operator/agents/@acme:{slug}" for slug, *_ in made]
    starts += [f"/agents/@acme:{slug}" for slug, *_ in made]
    starts += [f"/agents/@acme:{slug}/versions/2.0.0" for slug, *_ in made]
    starts += [
        f"/operator/versioning?agent_id=@acme:{slug}&base={base}&target={target}"
        for slug, *_ in made
        for base, target in (("1.0.0", "2.0.0"), ("2.0.0", "3.0.0"), ("3.0.0", "1.0.0"))
    ]
    for who in (admin, visitor("acme"), visitor("stranger", "viewer")):
        wrong = [one for one in starts if who.get(one).status_code != 200]
        assert wrong == []


def test_the_example_and_the_fullest_manifest_show_all_that_they_say(
    world: World, admin: Visitor
) -> None:
    from app.registry.examples import MANIFEST

    for document in (MANIFEST, fullest("filled")):
        world.send(
            world.callers["acme"],
            "POST",
            "/v1/agents",
            {"namespace": "@acme", "manifest": document},
        )
    example = admin.see("/operator/agents/@acme:invoice-summarizer")
    assert "about 0.02 per invoice" in example
    filled = admin.see("/operator/agents/@acme:filled").partition("The manifest as JSON")[0]
    for words in (
        "vault://finance/sample",
        "finance@example.com",
        "permissions invoices.read",
        "monthly limit",
        "0a1b2c3d4e",
    ):
        assert words in filled
    assert "None" not in filled
