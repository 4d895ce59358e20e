"""The console in a real browser: what only a browser can tell."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from app import clock, create_app
from app.access.service import create_key
from app.http.context import EXTENSION, Services
from tests.client import Api, Contract
from tests.conftest import settings_for
from tests.console.browser import MISSING, WAIT_SECONDS, Browser, binaries, browsing, serving
from tests.console.test_hostile import mark_everything, pages_of
from tests.console.world import CLERK, READER, World
from tests.delegation.conftest import Clock

pytestmark = pytest.mark.skipif(binaries() is None, reason=MISSING)
AXE = Path(__file__).with_name("axe-core") / "axe.min.js"


class Site:
    """A served fleet, its callers, and the keys to sign in with."""

    def __init__(self, world: World, keys: dict[str, str], known: dict[str, str]) -> None:
        self.world = world
        self.keys = keys
        self.known = known

    def pages(self) -> list[str]:
        """Return the address of every page, filled."""
        delegations = (self.known[name] for name in ("disputed", "pending_reauthorization"))
        account = f"/operator/ledger/accounts/agent:{CLERK}"
        return [
            "/operator",
            "/operator/agents",
            f"/operator/agents/{READER}",
            f"/operator/versioning?agent_id={READER}",
            "/operator/delegations",
            *(f"/operator/delegations/{one}" for one in delegations),
            f"/operator/delegations/{self.known['disputed']}/resolve",
            f"/operator/delegations/{self.known['offered']}/cancel",
            "/operator/ledger",
            account,
            "/operator/operations",
            "/operator/agents?q=nothing-like-it",
            "/operator/search?q=invoice",
            "/",
            "/agents",
            "/agents?q=nothing-like-it",
            f"/agents/{READER}",
            f"/agents/{READER}/versions/1.0.0",
            f"/namespaces/{READER.split(':')[0]}",
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the database and the browser's profile are."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def time() -> Iterator[Clock]:
    """The one clock of the process, moved on by the tests alone."""
    still = Clock()
    still.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    with clock.frozen(lambda: still.now):
        yield still


@pytest.fixture(scope="module")
def app(folder: Path, sqlite_template: Path) -> Iterator[Any]:
    """The application on a database of its own."""
    shutil.copy(sqlite_template, folder / "agenthub.db")
    url = f"sqlite:///{folder / 'agenthub.db'}"
    application = create_app(settings_for(url, folder, snapshot_dir=folder / "snapshots"))
    yield application
    application.extensions[EXTENSION].database.dispose()


@pytest.fixture(scope="module")
def site(app: Any, time: Clock) -> Site:
    """A fleet with a short history and a delegation in every live state."""
    services: Services = app.extensions[EXTENSION]
    contract, keys, callers = Contract(app), {}, {}
    for name in ("acme", "globex", "initech", "operator"):
        role = "admin" if name == "operator" else "developer"
        with services.database.transaction() as session:
            keys[name] = create_key(session, services.pepper, name, role).secret
        callers[name] = Api(app.test_client(), contract, keys[name])
    world = World(app, time, callers)
    return Site(world, keys, world.fill(days=2, each=2))


@pytest.fixture(scope="module")
def browser(app: Any, site: Site, folder: Path) -> Iterator[Browser]:
    """A window that nobody is signed in to yet; the only one, however many processes test."""
    with (folder.parent.parent / "browser.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with serving(app) as url, browsing(url, folder) as found:
            yield found


@pytest.fixture
def signed_in(browser: Browser, site: Site) -> Browser:
    """The window of an administrator who just signed in."""
    browser.resize(1280, 900)
    browser.driver.delete_all_cookies()
    browser.sign_in(site.keys["operator"])
    assert browser.text("h1") == "Overview"
    browser.driver.get_log("browser")
    return browser


def wait_for(browser: Browser, css: str, words: str) -> None:
    """Wait until an element shows some words, without reloading the page."""
    WebDriverWait(browser.driver, WAIT_SECONDS, 0.1).until(
        lambda _: (
            words
            in str(
                browser.driver.execute_script(
                    "return document.querySelector(arguments[0])?.innerText ?? ''", css
                )
            )
        ),
        f"{css} never shows {words!r}",
    )


def test_signing_in_with_a_wrong_key_and_the_right_one(browser: Browser, site: Site) -> None:
    browser.driver.delete_all_cookies()
    browser.sign_in("ah_0000000000000000_" + "x" * 43, "/operator/delegations")
    assert "not accepted" in browser.text("#problem")
    assert browser.driver.switch_to.active_element.get_attribute("id") == "api_key"
    field = browser.find("#api_key")
    browser.follow(lambda: field.send_keys(site.keys["operator"], Keys.ENTER))
    assert browser.text("h1") == "Delegations"
    assert browser.driver.execute_script("return document.cookie") == ""
    browser.follow(browser.find("form[action='/operator/sign-out'] button").click)
    browser.open("/operator")
    assert browser.text("h1") == "Operator console"


def test_a_delegation_appears_and_settles_before_the_readers_eyes(
    signed_in: Browser, site: Site
) -> None:
    browser, world = signed_in, site.world
    browser.driver.execute_script("window.unreloaded = true")
    first = browser.text("[data-live='newest'] tbody tr:first-child")
    delegation_id = world.offer(task_spec="Read one more invoice")
    assert delegation_id[-8:] not in first
    wait_for(browser, "[data-live='newest']", delegation_id[-8:])
    assert browser.driver.execute_script("return window.unreloaded") is True
    browser.open(f"/operator/delegations/{delegation_id}")
    assert "offered" in browser.text("[data-live='state']")
    browser.driver.execute_script("window.unreloaded = true")
    browser.find("[data-live='state'] a.id").send_keys("")
    worker = world.accept(delegation_id)
    wait_for(browser, "[data-live='state'] .badge", "in progress")
    world.meter(worker, 3.3)
    wait_for(browser, "[data-live='budget']", "Soft alert: 80 % is used")
    assert worker.send("deliver", output={"total": 12}).status_code == 200
    wait_for(browser, "[data-live='documents']", "total")
    world.command(delegation_id, "accept-result", {})
    wait_for(browser, "[data-live='state'] .badge", "completed")
    assert "completed" in browser.driver.execute_script(
        "return document.getElementById('announcements').textContent"
    )
    # The reader's focus stayed where it was, though its surroundings were replaced.
    assert browser.driver.switch_to.active_element.text == CLERK
    assert browser.driver.execute_script("return window.unreloaded") is True
    settled = browser.find("[data-live='stages'] li:nth-child(6)")
    assert "reached" in settled.get_attribute("class")
    assert browser.driver.get_log("browser") == []


def test_live_updates_can_be_paused(signed_in: Browser, site: Site) -> None:
    browser = signed_in
    switch = browser.find("[data-live-switch] button")
    switch.click()
    assert (switch.text, switch.get_attribute("aria-pressed")) == ("Paused", "false")
    delegation_id = site.world.offer()
    browser.driver.execute_async_script("setTimeout(arguments[0], 3500)")
    assert delegation_id[-8:] not in browser.text()
    switch.click()
    wait_for(browser, "[data-live='newest']", delegation_id[-8:])


def test_versions_are_compared_by_keyboard(signed_in: Browser) -> None:
    browser = signed_in
    browser.open("/operator/versioning")
    field = browser.find("#agent_id")
    browser.follow(lambda: field.send_keys(READER, Keys.ENTER))
    assert "Breaks callers" in browser.text()
    breaking, other = browser.find(".changes.bad"), browser.find(".changes.good")
    assert "Requires more input" in breaking.text
    assert "Speaks more protocols" in other.text
    # Side by side.
    assert breaking.location["y"] == other.location["y"]
    body = browser.find("body")
    body.send_keys(Keys.HOME)
    browser.driver.execute_script("document.activeElement.blur()")
    body.send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to content"


def test_an_operator_decides_a_dispute(signed_in: Browser, site: Site) -> None:
    browser = signed_in
    delegation_id = site.world.disputed()
    browser.open(f"/operator/delegations/{delegation_id}")
    browser.follow(browser.driver.find_element("link text", "Decide the dispute").click)
    browser.find("#charge_usd").send_keys("1.5")
    browser.find("#reason").send_keys("half of it was usable")
    browser.follow(browser.find("form[data-once] button").click)
    assert "The dispute is decided" in browser.text()
    assert "half of it was usable" in browser.text("[data-live='trail']")


def test_what_others_send_stays_text(signed_in: Browser, site: Site) -> None:
    browser = signed_in
    evil = "<img src=x onerror='document.title=\"owned\"'><script>alert(1)</script>"
    delegation_id = site.world.offer(task_spec=evil, task_input={evil: evil})
    browser.open(f"/operator/delegations/{delegation_id}")
    assert evil in browser.text(".task")
    wait = site.world.accept(delegation_id)
    assert wait.send("fail", reason=evil).status_code == 200
    # What is merged into an open page is text as well.
    wait_for(browser, "[data-live='trail']", evil)
    assert browser.driver.title != "owned"
    assert browser.driver.get_log("browser") == []


def test_nothing_that_anybody_sends_runs(signed_in: Browser, site: Site) -> None:
    browser = signed_in
    marked = mark_everything(site.world)
    for path in pages_of(marked):
        browser.open(path)
        # An alert, had one opened, would fail the next command.
        foreign = browser.driver.find_elements("css selector", "img, script:not([src])")
        assert foreign == [], path
    assert browser.driver.get_log("browser") == []


def test_a_developer_sees_its_own_and_decides_nothing(browser: Browser, site: Site) -> None:
    browser.resize(1280, 900)
    browser.driver.delete_all_cookies()
    browser.sign_in(site.keys["initech"])
    menu = browser.text("nav")
    assert "Ledger" in menu
    assert "Operations" not in menu
    assert "In the service" not in browser.text()
    browser.open("/operator/operations")
    assert "needs an API key of role admin" in browser.text()
    browser.open(f"/operator/delegations/{site.known['disputed']}")
    assert "between agents of other owners" in browser.text()
    browser.driver.delete_all_cookies()
    browser.sign_in(site.keys["acme"], f"/operator/delegations/{site.known['disputed']}")
    assert "disputed" in browser.text("[data-live='state']")
    assert "Decide" not in browser.text()
    browser.open(f"/operator/delegations/{site.known['disputed']}/resolve")
    assert "needs an API key of role admin" in browser.text()


def test_every_page_is_sound(signed_in: Browser, site: Site) -> None:
    """No violation that axe finds, nothing wider than the window, no error, no other site."""
    browser = signed_in
    axe = AXE.read_text()
    browser.driver.get_log("performance")
    problems: list[str] = []
    for scheme, width in (("light", 1600), ("dark", 1280), ("light", 360), ("dark", 360)):
        browser.prefer(scheme)
        browser.resize(width, 900)
        for path in site.pages():
            browser.open(path)
            found = look(browser, axe)
            problems += [f"{path} {scheme} {width}: {one}" for one in found]
    browser.driver.delete_all_cookies()
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open("/operator/sign-in")
        problems += [f"sign-in {scheme}: {one}" for one in look(browser, axe)]
    assert problems == []
    assert browser.driver.get_log("browser") == []
    assert requested_hosts(browser) == {urlsplit(browser.url).netloc}


def look(browser: Browser, axe: str) -> list[str]:
    """Return what is wrong with the page that is shown."""
    # Injected by the driver, which the page's policy does not bind.
    browser.driver.execute_script(axe)
    result = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']}).then(done, e => done(String(e)));"
    )
    assert isinstance(result, dict), result
    found = [
        f"{violation['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for violation in result["violations"]
        for node in violation["nodes"][:3]
    ]
    wide = browser.driver.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return [*found, *([f"{wide} pixels wider than the window"] if wide > 0 else [])]


def requested_hosts(browser: Browser) -> set[str]:
    """Return the hosts that the browser asked for anything."""
    hosts = set()
    for entry in browser.driver.get_log("performance"):
        message = orjson.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme in ("http", "https", "ws", "wss"):
                hosts.add(address.netloc)
    return hosts
