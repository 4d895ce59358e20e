"""What a database's owner edits behind the service's back is found by reconciliation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.db import Database
from app.delegation.reconciliation import RULES
from app.http.context import Services
from app.ledger.reconciliation import reconcile
from tests.client import Api
from tests.delegation.conftest import DELEGATIONS, accept, offer, request
from tests.ledger.book import Book

pytestmark = pytest.mark.usefixtures("agents")


class Case:
    """One delegation that was completed, one that is under way, and the book they are in."""

    def __init__(self, book: Book, closed: str, live: str, offered: str) -> None:
        self.book = book
        self.ids = {"closed": closed, "live": live, "offered": offered}

    def edit(self, *statements: str) -> None:
        """Make edits, each of one row."""
        self.book.tamper(*(statement.format(**self.ids) for statement in statements))

    def broken(self) -> dict[str, list[str]]:
        """Return what reconciliation finds, by the number of the rule."""
        with self.book.database.snapshot() as connection:
            rules = reconcile(connection, RULES)
        return {rule.number: rule.findings for rule in rules if rule.findings}


@pytest.fixture
def case(acme: Api, globex: Api, services: Services) -> Iterator[Case]:
    """Three delegations of 10 USD each: 3 were paid for one, 2 are metered for another."""
    closed = acme.post(DELEGATIONS, request(simulated_actual_cost_usd=3)).get_json()
    worker = accept(globex, offer(acme)["delegation_id"])
    assert worker.meter(1, 1).status_code == 200
    live = worker.path.rpartition("/")[2]
    offered = offer(acme)["delegation_id"]
    database = Database(services.settings)
    yield Case(Book(database), closed["delegation_id"], live, offered)
    database.dispose()


def test_nothing_is_found_where_nothing_was_edited(case: Case) -> None:
    assert case.broken() == {}


ROW = "UPDATE delegation_delegations SET {edit} WHERE id = '{{{which}}}'"
SOME_TIME = "'2026-11-20 09:30:00.000000'"


# Which delegation is edited, the edit, and the rules that it breaks.
@pytest.mark.parametrize(
    ("which", "edit", "broken"),
    [
        ("closed", "metered_micros = metered_micros + 1", {"R5"}),
        ("live", "metered_micros = metered_micros - 1", {"R5"}),
        ("offered", "metered_micros = 1", {"R5"}),
        ("closed", "held_micros = held_micros + 1", {"R8"}),
        ("live", "held_micros = held_micros + 1", {"R4"}),
        ("offered", "held_micros = held_micros - 1", {"R4"}),
        ("closed", "charged_micros = charged_micros + 1", {"R8"}),
        ("closed", "charged_micros = 0", {"R8"}),
        (
            "live",
            f"status = 'cancelled', charged_micros = 0, closed_at = {SOME_TIME}, due_at = NULL,"
            " settlement = 'settled', settled_by = 'nothing_due'",
            {"R3", "R8", "R10"},
        ),
        (
            "closed",
            f"status = 'delivered', charged_micros = NULL, closed_at = NULL, due_at = {SOME_TIME},"
            " settlement = 'in_review', settled_by = NULL",
            {"R4", "R10"},
        ),
        ("live", "status = 'cancelled'", {"R10"}),
        ("closed", "status = 'delivered'", {"R10"}),
        ("live", "released_micros = 1", {"R4"}),
        ("closed", "requester_agent_id = '@acme:other'", {"R8"}),
        ("closed", "delegate_agent_id = '@globex:other'", {"R8"}),
        ("closed", "id = '00000000-0000-7000-8000-00000000dddd'", {"R5", "R7", "R8", "R10", "R12"}),
        ("live", "id = '00000000-0000-7000-8000-00000000dddd'", {"R3", "R4", "R5", "R7"}),
    ],
)
def test_an_edited_delegation_is_found(case: Case, which: str, edit: str, broken: set[str]) -> None:
    case.edit(ROW.format(edit=edit, which=which))
    found = case.broken()
    assert found.keys() == broken
    for finding in (finding for findings in found.values() for finding in findings):
        assert case.ids[which] in finding or "00000000dddd" in finding


# What is behind a delegation: one of its events, its closing transaction and its escrow's account.
EVENT = "event_id = 'call-1' AND delegation_id = '{live}'"
CLOSE = "seq = (SELECT seq FROM ledger_transactions WHERE dedupe_key = 'close:{closed}')"
TAKE_IN = "UPDATE ledger_accounts SET credits_micros = credits_micros + 1 WHERE id = 'escrow:"


# The edits, and for each rule that they break the delegations that it names.
@pytest.mark.parametrize(
    ("edits", "broken"),
    [
        ([f"DELETE FROM ledger_metering_events WHERE {EVENT}"], {"R5": ["live"]}),
        (
            [f"UPDATE ledger_metering_events SET cost_micros = cost_micros + 1 WHERE {EVENT}"],
            {"R5": ["live"]},
        ),
        (
            [f"UPDATE ledger_metering_events SET delegation_id = '{{closed}}' WHERE {EVENT}"],
            {"R5": ["closed", "live"]},
        ),
        (
            [f"UPDATE ledger_metering_events SET delegation_id = NULL WHERE {EVENT}"],
            {"R5": ["live"]},
        ),
        (
            [f"UPDATE ledger_transactions SET kind = 'gift' WHERE {CLOSE}"],
            {"R8": ["closed"], "R10": ["closed"]},
        ),
        (
            [f"UPDATE ledger_transactions SET delegation_id = NULL WHERE {CLOSE}"],
            {"R8": ["closed"], "R10": ["closed"]},
        ),
        (
            [
                f"DELETE FROM ledger_postings WHERE {CLOSE} AND leg = 1",
                f"DELETE FROM ledger_postings WHERE {CLOSE} AND leg = 2",
                f"DELETE FROM ledger_transactions WHERE {CLOSE}",
            ],
            {"R1": ["closed"], "R8": ["closed"], "R10": ["closed"]},
        ),
        ([TAKE_IN + "{live}'"], {"R1": ["live"], "R4": ["live"]}),
        ([TAKE_IN + "{closed}'"], {"R1": ["closed"], "R3": ["closed"]}),
    ],
)
def test_an_edit_of_what_is_behind_a_delegation_is_found(
    case: Case, edits: list[str], broken: dict[str, list[str]]
) -> None:
    case.edit(*edits)
    found = case.broken()
    assert found.keys() == broken.keys()
    for number, which in broken.items():
        for name in which:
            assert any(case.ids[name] in finding for finding in found[number]), found


def test_a_delegation_that_is_gone_is_missed(case: Case) -> None:
    case.edit(
        "DELETE FROM delegation_events WHERE delegation_id = '{offered}'",
        "DELETE FROM delegation_delegations WHERE id = '{offered}'",
    )
    found = case.broken()
    assert found.keys() == {"R3", "R7"}
    assert all(case.ids["offered"] in finding for rule in found.values() for finding in rule)
