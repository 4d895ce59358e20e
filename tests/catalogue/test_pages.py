"""The catalogue's pages: what they show, to whom they answer what, and what they bear."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.client import Api
from tests.registry.generated import fullest
from tests.registry.manifests import build_capability, build_manifest
from tests.registry.test_defaults import TINY

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PROGRAM = {"Accept": "application/json"}
AGENT = "/agents/@acme:invoice-summarizer"
PAGES = ("/", "/agents", AGENT, f"{AGENT}/versions/1.0.0", "/namespaces/@acme", "/agents?q=invoice")


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser that nobody is signed in with."""
    return app.test_client()


@pytest.fixture
def filled(acme: Api, caller: Any) -> Api:
    """Two owners' agents: one with two versions, the smallest, the fullest, and a fork."""
    for manifest in (build_manifest(), TINY, fullest("fullest")):
        answer = acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest})
        assert answer.status_code == 200
    changed = build_capability()
    changed["input_schema"]["required"].append("locale")
    body = {"manifest": build_manifest(version="2.0.0", capabilities=[changed])}
    assert acme.put("/v1/agents/@acme:invoice-summarizer", body).status_code == 200
    fork = {"namespace": "@globex", "new_slug": "reader"}
    forked = caller("globex").post("/v1/agents/@acme:invoice-summarizer/fork", fork)
    assert forked.status_code == 200
    return acme


def text_of(client: FlaskClient, path: str) -> str:
    """Return what a page says, without its tags."""
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == 200, (path, answer.text)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def test_an_empty_service_says_how_to_begin(client: FlaskClient) -> None:
    front = text_of(client, "/")
    assert "There is no agent yet" in front
    assert "agenthub demo" in front
    assert "No agent is registered yet" in text_of(client, "/agents")
    assert "<loc>http://localhost/</loc>" in client.get("/sitemap.xml").text
    assert "<loc>http://localhost/</loc>" in client.get("/sitemap.xml?part=0").text
    for part in ("1", "9999", "x", "-1", "9" * 5000):
        assert client.get(f"/sitemap.xml?part={part}").status_code == 404


@pytest.mark.usefixtures("filled")
class TestFilled:
    def test_the_front_page_shows_what_is_here(self, client: FlaskClient) -> None:
        front = text_of(client, "/")
        for words in ("Invoice Summarizer", "Tiny agent", "@acme 3", "@globex 1", "4 agents"):
            assert words in front, words

    def test_an_agents_page_says_what_one_needs_to_call_it(self, client: FlaskClient) -> None:
        page = text_of(client, AGENT)
        for words in (
            "Invoice Summarizer 2.0.0",
            "@acme:invoice-summarizer",
            "Extracts totals and due dates from invoices.",
            "invoice_text string yes",
            "locale string yes",
            "summary string yes",
            "breaking",
            "input required added",
            "unrated",
            "Published by acme",
            "https://agents.example.com/mcp/invoice-summarizer",
        ):
            assert words in page, words

    def test_a_former_version_says_that_it_is_not_the_latest(self, client: FlaskClient) -> None:
        page = text_of(client, f"{AGENT}/versions/1.0.0")
        assert "This is version 1.0.0. The latest is 2.0.0" in page
        assert "first version" in page
        assert "locale string no" in page

    def test_a_deprecated_agent_says_so(self, client: FlaskClient, acme: Api) -> None:
        assert acme.delete("/v1/agents/@acme:tiny").status_code == 200
        assert "no longer recommends" in text_of(client, "/agents/@acme:tiny")
        assert "Tiny agent" not in text_of(client, "/")

    def test_a_fork_names_its_origin(self, client: FlaskClient) -> None:
        page = text_of(client, "/agents/@globex:reader")
        assert "Forked from @acme:invoice-summarizer 2.0.0" in page

    @pytest.mark.parametrize("path", [AGENT, "/agents/@acme:tiny", "/agents/@acme:fullest"])
    def test_the_delegation_to_copy_can_be_sent(
        self, client: FlaskClient, caller: Any, path: str
    ) -> None:
        shown = unescape(client.get(path, headers=BROWSER).text)
        body = json.loads(re.search(r"-d '(\{.*?\n\})'", shown, re.S)[1])  # type: ignore[index]
        compile(re.search(r"<pre[^>]*>(import json.*?)</pre>", shown, re.S)[1], path, "exec")  # type: ignore[index]
        globex, operator = caller("globex"), caller("operator", role="admin")
        top_up = {"agent_id": "@globex:reader", "amount_usd": 5}
        assert operator.post("/v1/ledger/topups", top_up).status_code == 200
        sent = globex.post("/v1/delegations", body | {"requester_agent_id": "@globex:reader"})
        # The fullest manifest asks for permissions that nobody granted.
        assert sent.status_code == 200 or sent.get_json()["code"].startswith("policy")

    @pytest.mark.parametrize("path", PAGES)
    def test_a_page_may_be_kept_and_asked_for_again(self, client: FlaskClient, path: str) -> None:
        first = client.get(path, headers=BROWSER)
        assert first.headers["Cache-Control"] == "no-cache"
        assert "Accept" in first.headers["Vary"]
        tag = first.headers["ETag"]
        again = client.get(path, headers=BROWSER | {"If-None-Match": tag})
        assert (again.status_code, again.data) == (304, b"")
        assert "script-src" not in first.headers["Content-Security-Policy"]
        assert "<script" not in first.text
        assert '<link rel="canonical"' in first.text

    @pytest.mark.parametrize(
        ("path", "same"),
        [
            ("/", "/v1"),
            ("/agents", "/v1/agents"),
            (AGENT, f"/v1{AGENT}"),
            (f"{AGENT}/versions/1.0.0", f"/v1{AGENT}/versions/1.0.0"),
            ("/namespaces/@acme", "/v1/namespaces/@acme"),
        ],
    )
    def test_programs_get_the_document_of_the_api(
        self, client: FlaskClient, path: str, same: str
    ) -> None:
        answer = client.get(path, headers=PROGRAM)
        assert answer.get_json() == client.get(same).get_json()
        assert "Accept" in answer.headers["Vary"]
        tag = answer.headers.get("ETag")
        if tag:
            repeated = client.get(path, headers=PROGRAM | {"If-None-Match": tag})
            assert repeated.status_code == 304

    def test_words_are_searched_for(self, client: FlaskClient) -> None:
        found = text_of(client, "/agents?q=acme+tiny")
        assert "Tiny agent" in found
        assert "Invoice Summarizer" not in found
        assert "has all of these words" in text_of(client, "/agents?q=nothing")

    def test_search_engines_find_every_agent(self, client: FlaskClient) -> None:
        assert "Sitemap: http://localhost/sitemap.xml" in client.get("/robots.txt").text
        places = re.findall("<loc>(.*?)</loc>", client.get("/sitemap.xml").text)
        assert len(places) == 6
        for place in places:
            assert client.get(place, headers=BROWSER).status_code == 200, place


def test_a_long_list_has_pages(client: FlaskClient, acme: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr("app.catalogue.pages.PAGE_SIZE", 2)
    monkeypatch.setattr("app.catalogue.pages.SITEMAP_SIZE", 2)
    for number in range(5):
        manifest = TINY | {"identity": TINY["identity"] | {"id": f"tiny-{number}"}}
        body = {"namespace": "@acme", "manifest": manifest}
        assert acme.post("/v1/agents", body).status_code == 200
    for start in ("/agents", "/namespaces/@acme", "/agents?q=tiny"):
        pages = pages_of(client, start)
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [one for page in pages for one in page] == [f"@acme:tiny-{n}" for n in range(5)]
    parts = re.findall("<loc>http://localhost(.*?)</loc>", client.get("/sitemap.xml").text)
    assert len(parts) == 3
    listed = "".join(client.get(part).text for part in parts)
    found = re.findall("@acme:[a-z0-9-]+", listed)
    assert found == [f"@acme:tiny-{number}" for number in range(5)]


def test_pages_of_large_manifests_are_cut_and_go_on(
    client: FlaskClient, acme: Api, monkeypatch: Any
) -> None:
    """However large manifests are, a page reads a bounded part of them, and none is skipped."""
    monkeypatch.setattr("app.catalogue.pages.MAX_PAGE_BYTES", 5_000)
    monkeypatch.setattr("app.http.pagination.MAX_PAGE_BYTES", 5_000)
    for number in range(5):
        manifest = TINY | {"identity": TINY["identity"] | {"id": f"large-{number}"}}
        manifest |= {"x-filler": "text " * 500}
        body = {"namespace": "@acme", "manifest": manifest}
        assert acme.post("/v1/agents", body).status_code == 200
    for start in ("/agents", "/namespaces/@acme"):
        pages = pages_of(client, start)
        assert len(pages) > 2
        assert [one for page in pages for one in page] == [f"@acme:large-{n}" for n in range(5)]


def pages_of(client: FlaskClient, start: str) -> list[list[str]]:
    """Return the ids on each page of a list."""
    found: list[list[str]] = []
    path: str | None = start
    while path:
        html = client.get(path, headers=BROWSER).text
        found.append(re.findall('href="/agents/(@[^"/]+)"', html))
        following = re.search(r'rel="next" href="(\?[^"]+)"', html)
        path = start.partition("?")[0] + unescape(following[1]) if following else None
    return found


@pytest.mark.parametrize(
    "path",
    ["/agents/@acme:nobody", "/agents/x", "/namespaces/z z", "/nowhere", f"{AGENT}/versions/9"],
)
def test_what_is_not_there_is_said_in_the_readers_form(client: FlaskClient, path: str) -> None:
    page = client.get(path, headers=BROWSER)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "Look through the catalogue" in page.text
    problem = client.get(path, headers=PROGRAM)
    assert (problem.status_code, problem.mimetype) == (404, "application/problem+json")


def test_unknown_addresses_of_the_api_stay_problems(client: FlaskClient) -> None:
    for path in ("/v1/nowhere", "/nowhere"):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert client.get("/v1/nowhere", headers=BROWSER).mimetype == "application/problem+json"


@pytest.mark.parametrize("cursor", ["x", "%00", "a" * 600, "e30"])
def test_a_wrong_cursor_is_said(client: FlaskClient, acme: Api, cursor: str) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": TINY})
    for path in ("/agents", "/namespaces/@acme"):
        answer = client.get(f"{path}?cursor={cursor}", headers=BROWSER)
        assert (answer.status_code, answer.mimetype) == (422, "text/html")


def test_what_publishers_write_stays_text(client: FlaskClient, acme: Api) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 12347*7 }}"
    capability = build_capability(name=hostile, description=hostile)
    capability["input_schema"] = {
        "type": "object",
        "properties": {hostile: {"type": "string", "description": hostile, "enum": [hostile]}},
    }
    manifest = build_manifest(capabilities=[capability])
    manifest["identity"] |= {"name": hostile, "description": hostile, "tags": [hostile]}
    assert acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest}).status_code == 200
    for path in ("/", "/agents", AGENT, "/namespaces/@acme", f"/agents?q={hostile}"):
        html = client.get(path, headers=BROWSER).text
        assert "<script>" not in html
        assert "<img src=x" not in html
        assert "86429" not in html


def test_the_icon_and_the_service_document(client: FlaskClient) -> None:
    icon = client.get("/favicon.ico")
    assert (icon.status_code, icon.mimetype) == (200, "image/svg+xml")
    document = client.get("/v1").get_json()
    assert document["name"] == "AgentHub"
    for path in document["links"].values():
        with client.get(path, headers=BROWSER) as answer:
            assert answer.status_code in (200, 401), path


def test_a_namespace_that_nobody_has_has_no_page(client: FlaskClient) -> None:
    assert client.get("/namespaces/@nobody", headers=BROWSER).status_code == 404
