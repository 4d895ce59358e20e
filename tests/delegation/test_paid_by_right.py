"""R12: no money leaves escrow to a delegate that nobody accepted, reviewed or awarded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.db import Database
from app.delegation.reconciliation import RULES
from app.http.context import Services
from app.ledger.reconciliation import reconcile
from app.ops.maintenance import sweep
from tests.client import Api
from tests.delegation.conftest import DELEGATIONS, Clock, Worker, accept, offer, request
from tests.ledger.book import Book

pytestmark = pytest.mark.usefixtures("agents")

ACCEPTED, REVIEWED, DELIVERED, AWARDED, INLINE, REPORTED = (
    "accepted",
    "reviewed",
    "delivered",
    "awarded",
    "inline",
    "reported",
)


class Case:
    """Delegations that were each paid by another right, and the book they are in."""

    def __init__(self, book: Book, ids: dict[str, str]) -> None:
        self.book = book
        self.ids = ids

    def edit(self, which: str, *statements: str) -> None:
        """Make edits, each of one row."""
        self.book.tamper(*(statement.format(id=self.ids[which]) for statement in statements))

    def broken(self) -> dict[str, list[str]]:
        """Return what reconciliation finds, by the number of the rule."""
        with self.book.database.snapshot() as connection:
            rules = reconcile(connection, RULES)
        return {rule.number: rule.findings for rule in rules if rule.findings}


def worked_on(acme: Api, globex: Api) -> tuple[str, Worker]:
    """Have a task taken on, and 2 USD of 10 used."""
    worker = accept(globex, offer(acme)["delegation_id"])
    assert worker.meter(2).status_code == 200
    return worker.path.rpartition("/")[2], worker


@pytest.fixture
def case(acme: Api, globex: Api, operator: Api, services: Services, time: Clock) -> Iterator[Case]:
    """One delegation for each right."""
    ids = {}
    for name in (ACCEPTED, REVIEWED, AWARDED, DELIVERED):
        ids[name], worker = worked_on(acme, globex)
        if name == DELIVERED:
            worker.send("deliver", output=1)
        else:
            worker.send("fail", reason="broken")
    acme.post(f"{DELEGATIONS}/{ids[ACCEPTED]}/accept-result", {})
    acme.post(f"{DELEGATIONS}/{ids[AWARDED]}/dispute", {"reason": "nothing came of it"})
    body = {"charge_usd": 1, "reason": "half of it was usable"}
    assert operator.post(f"{DELEGATIONS}/{ids[AWARDED]}/resolve", body).status_code == 200
    for name, cost in ((INLINE, 3), (REPORTED, 13)):
        reported = request(simulated_actual_cost_usd=cost, max_budget_usd=10.5)
        ids[name] = acme.post(DELEGATIONS, reported).get_json()["delegation_id"]
    time.advance(hours=24)
    assert sorted(sweep(services.database)) == sorted([ids[REVIEWED], ids[DELIVERED]])
    database = Database(services.settings)
    yield Case(Book(database), ids)
    database.dispose()


def test_every_right_is_on_record(case: Case) -> None:
    assert case.broken() == {}


EVENT = "delegation_id = '{{id}}' AND kind = '{kind}'"


def delete(kind: str) -> str:
    return f"DELETE FROM delegation_events WHERE {EVENT.format(kind=kind)}"


def change(kind: str, edit: str) -> str:
    return f"UPDATE delegation_events SET {edit} WHERE {EVENT.format(kind=kind)}"


def insert_dispute(number: float) -> str:
    return (
        "INSERT INTO delegation_events (delegation_id, number, kind, status, actor, details, at)"
        f" VALUES ('{{id}}', {number}, 'disputed', 'failed', '@acme:clerk', '{{{{}}}}',"
        " '2026-11-20 10:00:00.000000')"
    )


@pytest.mark.parametrize(
    ("which", "edit"),
    [
        # The event that paid it is gone, or is of somebody who may not pay.
        (ACCEPTED, delete("settled")),
        (ACCEPTED, change("settled", "actor = '@globex:reader'")),
        (ACCEPTED, change("settled", "key_id = NULL")),
        (ACCEPTED, change("settled", "kind = 'closed'")),
        (AWARDED, delete("settled")),
        (AWARDED, delete("disputed")),
        (AWARDED, change("settled", "actor = '@globex:reader'")),
        (AWARDED, change("settled", "key_id = NULL")),
        (REVIEWED, delete("settled")),
        (REVIEWED, change("settled", "actor = '@globex:reader'")),
        (DELIVERED, delete("closed")),
        (DELIVERED, change("closed", "actor = '@globex:reader'")),
        (DELIVERED, change("closed", "status = 'failed'")),
        # The review did not last, did not begin, or was contested.
        (REVIEWED, change("settled", "at = '2026-11-21 09:29:59.000000'")),
        (REVIEWED, change("closed", "at = '2026-11-20 09:30:01.000000'")),
        (REVIEWED, delete("closed")),
        (REVIEWED, insert_dispute(0)),
        (REVIEWED, "UPDATE delegation_delegations SET review_seconds = 90000 WHERE id = '{id}'"),
        (DELIVERED, change("closed", "at = '2026-11-21 09:29:59.000000'")),
        (DELIVERED, change("delivered", "at = '2026-11-20 09:30:01.000000'")),
        (DELIVERED, delete("delivered")),
        (DELIVERED, insert_dispute(0)),
        # Remote work does not become inline work, nor work of an earlier time, by saying so.
        (REPORTED, "DELETE FROM ledger_metering_events WHERE event_id = 'delegation.create:{id}'"),
        (
            REPORTED,
            "UPDATE ledger_metering_events SET metadata = '{{}}'"
            " WHERE event_id = 'delegation.create:{id}'",
        ),
        *(
            (
                which,
                "UPDATE delegation_delegations SET settled_by = 'before_reviews' WHERE id = '{id}'",
            )
            for which in (ACCEPTED, REVIEWED, DELIVERED, AWARDED, INLINE, REPORTED)
        ),
    ],
)
def test_a_payment_without_its_right_is_found(case: Case, which: str, edit: str) -> None:
    case.edit(which, edit)
    (finding,) = case.broken()["R12"]
    assert case.ids[which] in finding


@pytest.mark.parametrize("column", ["execution = 'inline'", "settled_by = 'inline'"])
def test_a_column_alone_proves_nothing(case: Case, column: str) -> None:
    row = f"UPDATE delegation_delegations SET {column} WHERE id = '{{id}}'"
    case.edit(REVIEWED, row, delete("settled"))
    assert "R12" in case.broken()


def test_money_that_leaves_by_another_kind_of_transaction_is_found(
    case: Case, acme: Api, globex: Api
) -> None:
    case.ids["live"], _ = worked_on(acme, globex)
    find = "seq = (SELECT seq FROM ledger_transactions WHERE dedupe_key = 'hold:{id}')"
    case.edit(
        "live",
        "UPDATE ledger_postings SET debit_account = 'escrow:{id}',"
        f" credit_account = 'agent:@globex:reader' WHERE {find}",
    )
    (finding,) = case.broken()["R12"]
    assert case.ids["live"] in finding


class TestBeforeReviews:
    """What was paid at once by an earlier release stands; nothing later is counted among it."""

    def date_back(self, case: Case, until: str) -> None:
        """Make a reviewed delegation one that was paid at its end, and reviews begin after it."""
        paid = "SELECT seq FROM ledger_transactions WHERE dedupe_key = 'close:{id}'"
        case.edit(
            REVIEWED,
            delete("settled"),
            "UPDATE delegation_delegations SET settled_by = 'before_reviews' WHERE id = '{id}'",
            "UPDATE ledger_transactions SET created_at = '2026-11-20 09:30:00.500000'"
            f" WHERE seq = ({paid})",
            f"INSERT INTO delegation_cutovers (name, at) VALUES ('reviews', '{until}')",
        )

    def test_it_stands(self, case: Case) -> None:
        self.date_back(case, "2026-11-20 09:30:00.000000")
        assert "R12" not in case.broken()

    @pytest.mark.parametrize(
        ("until", "edits"),
        [
            ("2026-11-20 09:29:59.999999", []),
            ("2026-11-20 09:30:00.000000", [change("closed", "at = '2026-11-20 09:30:01.000000'")]),
            (
                "2026-11-20 09:30:00.000000",
                [
                    "UPDATE ledger_transactions SET created_at = '2026-11-20 09:31:02.000000'"
                    " WHERE dedupe_key = 'close:{id}'"
                ],
            ),
            ("2026-11-20 09:30:00.000000", ["DELETE FROM delegation_cutovers"]),
        ],
    )
    def test_nothing_later_does(self, case: Case, until: str, edits: list[str]) -> None:
        self.date_back(case, until)
        case.edit(REVIEWED, *edits)
        assert "R12" in case.broken()
