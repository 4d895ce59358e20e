"""Follows every link of the pages a service shows, as one visitor sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import product
from typing import NamedTuple
from urllib.parse import urldefrag, urlencode, urljoin, urlsplit

# More pages than this are a list without end.
MAX_PAGES = 2000


class Shown(NamedTuple):
    """What came back for an address."""

    status: int
    headers: dict[str, str]
    body: bytes


Get = Callable[[str, dict[str, str]], Shown]


class _Reader(HTMLParser):
    """Finds where a page leads: links, what it loads, and forms that ask for another page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.form: tuple[str, dict[str, list[str]]] | None = None
        self.select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.form = (given["action"], {}) if given.get("method", "get") == "get" else None
        for name in ("href", "src"):
            if name in given and not given[name].startswith("data:"):
                self.found.append(given[name])
        if self.form is None:
            return
        fields = self.form[1]
        if tag == "input" and given.get("type") == "checkbox":
            fields.setdefault(given["name"], [""]).append(given.get("value", ""))
        elif tag == "input" and "name" in given:
            fields[given["name"]] = [given.get("value", "")]
        elif tag == "select":
            self.select = given["name"]
            fields[self.select] = []
        elif tag == "option":
            fields[self.select].append(given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self.form is not None:
            action, fields = self.form
            # Every choice of each list, the others as they are.
            for name, values in fields.items():
                for value in values:
                    sent = {other: found[0] for other, found in fields.items() if found}
                    self.found.append(f"{action}?{urlencode(sent | {name: value})}")
            self.form = None


def leads_to(address: str, page: str) -> list[str]:
    """Return the addresses on the same site that a page leads to."""
    reader = _Reader()
    reader.feed(page)
    found = [urldefrag(urljoin(address, one))[0] for one in reader.found]
    return [one for one in found if not urlsplit(one).netloc]


@dataclass
class Crawl:
    """What a crawl found: each page by its address, and what was wrong."""

    pages: dict[str, Shown]
    wrong: list[str]


def crawl(get: Get, starts: Iterable[str], accepted: Callable[[str, Shown], bool]) -> Crawl:
    """Follow every link from some addresses on; an answer that is not ``accepted`` is wrong.

    A page that an open window asks for again, and one with an entity tag, have to say 304.
    """
    waiting, seen = list(starts), set(starts)
    done = Crawl({}, [])
    while waiting and len(done.pages) < MAX_PAGES:
        address = waiting.pop(0)
        shown = done.pages[address] = get(address, {})
        leads = []
        if not accepted(address, shown):
            done.wrong.append(f"{shown.status} {address}")
        elif 300 <= shown.status < 400:
            leads = [urljoin(address, shown.headers["location"])]
        elif shown.headers["content-type"].startswith("text/html"):
            leads = leads_to(address, shown.body.decode())
            done.wrong += _not_unchanged(get, address)
        for one in leads:
            if one not in seen:
                seen.add(one)
                waiting.append(one)
    assert not waiting, f"more than {MAX_PAGES} pages"
    return done


def _not_unchanged(get: Get, address: str) -> list[str]:
    """Ask for what changes of a page, twice; the second time nothing has to."""
    if not address.startswith("/operator"):
        return []
    live = {"X-Console-Live": "1"}
    first = get(address, live)
    if first.status == 401:
        return []
    again = get(address, live | {"If-None-Match": first.headers.get("etag", "")})
    statuses = (first.status, again.status)
    return [] if statuses in product([200], [200, 304]) else [f"{statuses} live {address}"]
