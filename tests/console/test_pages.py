"""The pages: each shows what the API answers, empty and filled, and leads on."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.http.context import Services
from app.operator import paging
from tests.console.conftest import Visitor
from tests.console.world import AGENTS, ANALYST, CLERK, READER, World
from tests.delegation.conftest import Clock


def plain(page: str) -> str:
    """Return the words that a page shows."""
    main = re.sub(r"<(script|style|svg|pre).*?</\1>", " ", page.partition("<main")[2], flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


def links(page: str, prefix: str) -> list[str]:
    """Return where the links of a page's content lead, of those that begin with ``prefix``."""
    found = re.findall(r'href="([^"]+)"', page.partition("<main")[2])
    return [html.unescape(one) for one in found if one.startswith(prefix)]


EMPTY = {
    "/operator/agents": "No agent is registered yet",
    "/operator/agents?q=none": "No agent’s id has all of that",  # noqa: RUF001
    "/operator/versioning": "Name an agent with two versions",
    "/operator/delegations": "No delegation yet",
    "/operator/delegations?status=disputed": "No delegation is like that",
    "/operator/ledger": "Nothing is sealed yet",
    "/operator/operations": "Nothing was imported",
}


def test_empty_pages_say_so(admin: Visitor) -> None:
    for path, words in EMPTY.items():
        assert words in plain(admin.see(path)), path


def test_agents_are_found_by_words_of_their_ids(world: World, admin: Visitor) -> None:
    world.register()

    def found(query: str) -> list[str]:
        page = admin.see(f"/operator/agents?{query}")
        return [path.rpartition("/")[2] for path in links(page, "/operator/agents/@")]

    assert found("") == sorted(AGENTS)
    assert found("q=reader") == [READER]
    assert found("q=GLOBEX+trans") == ["@globex:contract-translator"]
    assert found("q=%25") == found("q=_") == found("q=%00") == found("q=%C3%A9") == []
    assert found("status=deprecated") == ["@acme:audit-helper"]
    assert found("mine=1") == []


def test_agents_are_listed_with_what_they_are_and_who_publishes_them(
    world: World, admin: Visitor
) -> None:
    world.register()
    world.live()
    text = plain(admin.see("/operator/agents?q=globex+reader"))
    for words in (
        "@globex:invoice-reader Invoice Reader,",
        "finance invoices active unrated 2.0.0 of 2 20 Nov",
        "min ago globex 0 delegations",
    ):
        assert words in text


def test_an_agent_shows_what_is_known_of_it(world: World, admin: Visitor) -> None:
    world.register()
    world.live()
    page = admin.see(f"/operator/agents/{READER}")
    text = plain(page)
    for words in (
        "Invoice Reader",
        "owner globex",
        "Extract an invoice",
        "3 breaking, 2 other",
        "acceptance 49/50",
        "No more than 49: new publisher.",
        "self reported only",
        "Balance",
        "250.00",
        "deterministic workflow",
    ):
        assert words in text
    delegations = links(page, "/operator/delegations/")
    assert len(delegations) == 8
    assert admin.get("/operator/agents/@globex:nobody").status_code == 404


def test_an_agent_shows_what_it_takes_from_others(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    path = f"/operator/agents/{READER}"
    for words in ("Owners let in everybody", "Inline work is taken", "Shortest lease any"):
        assert words in plain(admin.see(path))
    rules = {
        "allowed_owners": ["@acme"],
        "denied_owners": ["initech"],
        "takes_inline": False,
        "smallest_estimate_usd": 0.000002,
        "shortest_lease_seconds": 30,
        "most_live_offers": 0,
    }
    world.send(world.callers["globex"], "PUT", f"/v1/agents/{READER}/acceptance-rules", rules)
    text = plain(admin.see(path))
    for words in (
        "Owners let in @acme",
        "Owners kept out initech",
        "Inline work is refused",
        "Smallest estimate 0.000002 USD",
        "Shortest deadline any",
        "Shortest lease 30 s",
        "none: no remote work",
    ):
        assert words in text
    others = plain(visitor("initech", "viewer").see(path))
    assert "Your offers are refused" in others
    assert "kept out" not in others


def test_every_optional_part_of_a_manifest_is_shown(world: World, admin: Visitor) -> None:
    from tests.registry.manifests import build_full_manifest

    body = {"namespace": "@acme", "manifest": build_full_manifest()}
    world.send(world.callers["acme"], "POST", "/v1/agents", body)
    text = plain(admin.see("/operator/agents/@acme:invoice-summarizer"))
    for words in ("vault://finance/erp", "@acme:ocr", "on failure retry", "0a1b2c3d4e"):
        assert words in text


def test_versions_are_compared(world: World, admin: Visitor) -> None:
    world.register()
    assert READER in plain(admin.see("/operator/versioning"))
    text = plain(admin.see(f"/operator/versioning?agent_id={READER}"))
    assert "Breaks callers" in text
    breaking, _, other = text.partition("Not breaking")
    for words in ("Requires more input", "Has a stronger side effect", "none → low"):
        assert words in breaking
    assert "Removes a capability classify-expense" in breaking
    assert "Adds a capability detect-duplicates" in other
    assert "+0.04" in text
    swapped = f"/operator/versioning?agent_id={READER}&base=2.0.0&target=1.0.0"
    assert "Adds a capability classify-expense" in plain(admin.see(swapped))
    same = f"/operator/versioning?agent_id={READER}&base=2.0.0&target=2.0.0"
    assert "Nothing changes for callers" in plain(admin.see(same))
    single = plain(admin.see(f"/operator/versioning?agent_id={CLERK}"))
    assert "Nothing changes for callers" in single
    assert admin.get("/operator/versioning?agent_id=@a:b").status_code == 404


def test_delegations_are_filtered(world: World, admin: Visitor) -> None:
    world.register()
    known = world.live()

    def found(query: str) -> set[str]:
        page = admin.see(f"/operator/delegations?{query}")
        return {path.rpartition("/")[2] for path in links(page, "/operator/delegations/")}

    assert found("") == set(known.values())
    assert found("status=disputed") == {known["disputed"]}
    assert found(f"agent_id={ANALYST}") == {known["delivered"]}
    assert found(f"agent_id={ANALYST}&role=delegate") == set()
    assert found("from=2026-11-20&to=2026-11-20") == set(known.values())
    assert found("from=2026-11-21") == found("to=2026-11-19") == set()
    nonsense = "from=9999-99-99&to=9999-12-31&status=x&role=y"
    assert found(nonsense) == set(known.values())
    assert found("agent_id=%00") == found("agent_id=nobody") == set()
    both = {known["disputed"], known["declined"]}
    assert found("status=disputed&status=declined") == both
    assert found("status=disputed&status=offered") == {known["disputed"], known["offered"]}


def test_delegations_are_filtered_by_ranges_that_end_now(
    world: World, admin: Visitor, time: Clock
) -> None:
    world.register()
    made = []
    for hours in (40 * 24, 10 * 24, 2 * 24, 5):
        made.append(world.offer())
        time.advance(hours=hours)
    made.append(world.offer())
    # The session has ended meanwhile.
    admin.sign_in()
    for span, number in (("1h", 1), ("24h", 2), ("7d", 3), ("30d", 4), ("1y", 5)):
        page = admin.see(f"/operator/delegations?range={span}&from=2026-11-20")
        shown = [path[-36:] for path in links(page, "/operator/delegations/")]
        assert shown == made[::-1][:number], span


def test_a_list_keeps_all_its_states_from_page_to_page(
    world: World, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("paging", "delegations"):
        monkeypatch.setattr(f"app.operator.{module}.PAGE_SIZE", 1)
    world.register()
    known = world.live()
    page = admin.see("/operator/delegations?status=disputed&status=offered")
    following = html.unescape(re.findall(r'rel="next" href="([^"]+)"', page)[0])
    seen = links(page, "/operator/delegations/") + links(
        admin.see(following), "/operator/delegations/"
    )
    shown = {path.partition("?")[0][-36:] for path in seen if "?" not in path}
    assert shown == {known["disputed"], known["offered"]}


def test_a_list_shows_the_task_its_budget_and_how_long_it_took(
    world: World, admin: Visitor, time: Clock
) -> None:
    world.register()
    one = world.offer(task_spec="Read <b>this</b> " + "x" * 400)
    worker = world.accept(one)
    world.meter(worker, 1.0)
    time.advance(minutes=3)
    page = admin.see("/operator/delegations")
    assert "Read &lt;b&gt;this&lt;/b&gt; xxx" in page
    assert "x" * 200 not in page
    text = plain(page)
    assert "1.00 of 4.00, 25 %" in text
    assert re.search(r"\d min so far", text)
    assert worker.send("deliver", output={"total": 1}).status_code == 200
    world.command(one, "accept-result", {})
    time.advance(minutes=30)
    assert re.search(r"3 min \d+ s 20 Nov", plain(admin.see("/operator/delegations")))


def test_a_rare_state_is_searched_for_in_steps(
    world: World, admin: Visitor, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operator.delegations.SEARCHED", 4)
    world.register()
    oldest = world.offer()
    world.command(oldest, "decline", {"reason": "no capacity"}, READER)
    for _ in range(9):
        time.advance(seconds=1)
        world.offer()
    at, steps = "/operator/delegations?status=declined", 0
    while True:
        page = admin.see(at)
        if links(page, f"/operator/delegations/{oldest}"):
            break
        steps += 1
        at = html.unescape(re.findall(r'href="([^"]+)">Search further back', page)[0])
    assert steps == 2
    assert "Search further back" not in page
    live = admin.see("/operator/delegations?status=offered")
    assert len(links(live, "/operator/delegations/")) == 9
    end = admin.see("/operator/delegations?status=declined&to=2026-11-19")
    assert "Search further back" not in end


def test_long_lists_have_pages(
    world: World, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agents", "delegations", "ledger", "operations"):
        monkeypatch.setattr(f"app.operator.{module}.PAGE_SIZE", 3)
    monkeypatch.setattr(paging, "PAGE_SIZE", 3)
    world.register()
    world.live()
    account = f"/operator/ledger/accounts/agent:{CLERK}"
    for path, prefix, total in (
        ("/operator/agents", "/operator/agents/@", len(AGENTS)),
        ("/operator/delegations", "/operator/delegations/", 9),
        ("/operator/ledger", "/operator/ledger/accounts/agent:", len(AGENTS)),
        (account, "/operator/ledger/transactions/", 12),
    ):
        seen: list[str] = []
        at: str | None = path
        while at is not None:
            page = admin.see(at)
            seen += [one for one in links(page, prefix) if "?" not in one]
            following = re.search(r'rel="next" href="([^"]+)"', page)
            at = html.unescape(following[1]) if following else None
            if at is not None:
                # A cursor belongs to the list that it was given with.
                assert admin.get(f"{at}&status=completed").status_code == 422, path
        assert len(seen) == len(set(seen)) == total, path
        assert admin.get(f"{path}?cursor=nonsense").status_code == 422


def test_a_delegation_shows_its_whole_life(
    world: World, admin: Visitor, services: Services
) -> None:
    world.register()
    known = world.live()
    world.seal()
    page = admin.see(f"/operator/delegations/{known['disputed']}")
    text = plain(page)
    for words in (
        "delivery 20 Nov",
        "settlement not reached",
        "3.35 used of 4.00 authorized, 83.8 %",
        "Soft alert: 80 % is used",
        "Two of the twelve totals are those of other invoices",
        "an operator decides what of 3.35 USD is paid",
        "block 1, leaf",
    ):
        assert words in text
    transaction = links(page, "/operator/ledger/transactions/")[0]
    proof = plain(admin.see(transaction))
    assert "in block 1" in proof
    for state in ("pending_reauthorization", "failed", "declined", "cancelled", "offered"):
        assert "Audit trail" in admin.see(f"/operator/delegations/{known[state]}")
    assert admin.get("/operator/delegations/nothing").status_code == 404
    assert admin.get("/operator/delegations/%00").status_code == 404


def test_a_dispute_shows_what_it_is_decided_on(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    one = world.offer()
    worker = world.accept(one)
    world.meter(worker, 0.5)
    assert worker.send("ask", question="Which currency?").status_code == 200
    world.command(one, "answer", {"answer": "Euro <b>only</b>"})
    assert worker.send("deliver", output={"total": [1, {"eur": 4120.5}]}).status_code == 200
    before = plain(admin.see(f"/operator/delegations/{one}"))
    assert "Disputed by" not in before
    world.command(one, "dispute", {"reason": "Two totals are <i>those</i> of other invoices"})
    path = f"/operator/delegations/{one}"
    for address, who in (
        (path, admin),
        (f"{path}/resolve", admin),
        (path, visitor("globex", "viewer")),
    ):
        page = who.see(address)
        for words in (
            "Disputed</strong> by @acme:payables-clerk",
            "Two totals are &lt;i&gt;those&lt;/i&gt; of other invoices",
            "Which currency?",
            "Euro &lt;b&gt;only&lt;/b&gt;",
            "s3://invoices/2026-11-16",
            "&#34;eur&#34;: 4120.5",
        ):
            assert words in page, (address, words)
    bare = world.offer(task_input=None)
    page = plain(admin.see(f"/operator/delegations/{bare}"))
    assert "The task has no input beside its text" in page
    assert "Nothing was delivered yet" in page


def test_the_world_outside_has_a_statement(world: World, admin: Visitor) -> None:
    world.register()
    text = plain(admin.see("/operator/ledger/accounts/sys:world"))
    assert text.count("top-up") == len(AGENTS)
    assert "\N{MINUS SIGN}250.00" in text


def test_keys_are_shown_without_secrets(world: World, admin: Visitor) -> None:
    page = admin.see("/operator/operations")
    assert admin.key.split("_")[1] in page
    assert admin.key.split("_", 2)[2] not in page
    assert plain(page).count("developer") == 3


def test_webhooks_show_what_fails_first(world: World, admin: Visitor, time: Clock) -> None:
    assert "Nobody subscribed to anything yet" in plain(admin.see("/operator/operations"))
    world.register()
    world.webhooks()
    world.live()
    world.attempt()
    text = plain(admin.see("/operator/operations")).partition(" Webhooks Webhooks 3")[2]
    for words in (
        "Deliveries that wait 3",
        "Deliveries given up 3",
        "the receiver answered 410 Gone",
        "delegation.disputed",
        "https://hooks.globex.example/old 1 HTTP 410",
    ):
        assert words in text
    shown = [text.index(words) for words in ("disabled", "failing", "active")]
    assert shown == sorted(shown)
    assert "3 webhook deliveries were given up in 24 hours" in plain(admin.see("/operator"))
    time.advance(hours=25)
    assert "given up in 24 hours" not in plain(admin.see("/operator"))


class TestSnapshots:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "snapshots"

    @pytest.fixture
    def settings(self, settings: Settings, folder: Path) -> Settings:
        return replace(settings, snapshot_dir=folder)

    def test_they_are_listed_newest_first(
        self, world: World, admin: Visitor, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.mkdir()
        empty = plain(admin.see("/operator/operations"))
        assert f"There is no snapshot in {folder} yet" in empty
        folder.rmdir()
        world.register()
        world.snapshot()
        os.mkfifo(folder / "pipe.snapshot")
        (folder / "folder.snapshot").mkdir()
        (folder / "gone.snapshot").symlink_to("nowhere")
        text = plain(admin.see("/operator/operations"))
        for words in ("readable 20 Nov, 09:30", "kB", "the file is no snapshot"):
            assert words in text
        assert not re.search("(pipe|folder|gone).snapshot", text)
        assert text.index("20261120") < text.index("20261119")
        monkeypatch.setattr("app.operator.operations.SHOWN_SNAPSHOTS", 1)
        assert "and 1 more" in plain(admin.see("/operator/operations"))

    def test_a_folder_that_is_not_there_is_said_to_be(self, admin: Visitor, folder: Path) -> None:
        text = plain(admin.see("/operator/operations"))
        assert f"The service cannot read {folder}" in text


def test_without_a_folder_of_snapshots_the_page_says_how_to_name_one(admin: Visitor) -> None:
    assert "AGENTHUB_SNAPSHOT_DIR names the folder" in plain(admin.see("/operator/operations"))


def test_a_page_that_fails_says_so(
    admin: Visitor, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("app.operator.agents.queries.search_agents", fail)
    response = admin.get("/operator/agents")
    assert response.status_code == 500
    assert "secret detail" not in response.text
    assert "nothing was changed" in response.text
    assert admin.get("/operator/agents", **{"X-Console-Live": "1"}).data == b""


def test_a_database_that_is_away_is_said_to_be(
    admin: Visitor, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr("app.operator.web.find_principal", away)
    response = admin.get("/operator")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert "connection refused" not in response.text
