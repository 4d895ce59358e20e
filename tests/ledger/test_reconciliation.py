"""Reconciliation: silent after whatever the service did, and loud about what it did not do."""

from __future__ import annotations

import random

import pytest

from app.ledger import seals
from app.ledger.errors import InsufficientFunds, TransactionExists
from app.ledger.reconciliation import MAX_FINDINGS, RULES, reconcile
from app.ledger.service import FEES
from tests.client import Api
from tests.ledger.book import Book, account

A, B = account("a"), account("b")


@pytest.mark.parametrize("seed", range(3))
def test_clean_after_anything_the_service_does(
    book: Book, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "MAX_BLOCK", 4)
    chance = random.Random(seed)
    names, done, refused = ["a", "b", "c"], [book.top_up("a", 500)], 0
    for _ in range(40):
        name, other = chance.sample(names, 2)
        amount = chance.randint(1, 300)
        actions = (
            lambda name=name, amount=amount: book.top_up(name, amount),
            lambda name=name, amount=amount: book.pay_out(name, amount),
            lambda: book.reverse(chance.choice(done)),
            lambda name=name, other=other, amount=amount: book.post(
                (account(name), "escrow:1", amount), ("escrow:1", account(other), amount)
            ),
            lambda name=name, amount=amount: book.post((account(name), FEES, amount)),
        )
        try:
            done.append(chance.choice(actions)())
        except (InsufficientFunds, TransactionExists):
            refused += 1
        if chance.random() < 0.2:
            book.seal()
    assert refused
    assert len(done) > 15
    assert book.broken_rules() == {}


def test_an_empty_ledger_is_clean(book: Book) -> None:
    assert book.broken_rules() == {}
    assert [rule[0] for rule in RULES] == ["R1", "R2", "R9", "R11"]


@pytest.fixture
def kept(book: Book) -> Book:
    """A ledger with something in it, sealed."""
    book.top_up("a", 100)
    book.pay_out("a", 40)
    book.top_up("b", 7)
    book.seal()
    assert book.broken_rules() == {}
    return book


SUMS = "the account's sums are not those of its postings"


@pytest.mark.parametrize(
    "change",
    [
        "credits_micros = credits_micros + 1",
        "debits_micros = debits_micros - 1",
        # The balance stays what it was.
        "debits_micros = debits_micros + 5, credits_micros = credits_micros + 5",
        # It is not believed that the account is one whose sums are derived.
        "kind = 'system', debits_micros = 0, credits_micros = 0",
    ],
)
def test_r1_sums_that_are_not_those_of_the_postings(kept: Book, change: str) -> None:
    kept.tamper(f"UPDATE ledger_accounts SET {change} WHERE id = '{A}'")
    assert kept.broken_rules() == {"R1": [f"{A}: {SUMS}"]}


def test_r1_sums_of_an_account_without_postings(kept: Book) -> None:
    kept.tamper(
        "INSERT INTO ledger_accounts VALUES ('escrow:9', 'escrow', 0, 5, '2026-01-01 00:00:00')"
    )
    assert kept.broken_rules() == {"R1": [f"escrow:9: {SUMS}"]}


def test_r2_an_overdrawn_account(kept: Book) -> None:
    # Postings and sums agree that more was taken than came in.
    kept.tamper(
        f"UPDATE ledger_accounts SET debits_micros = debits_micros + 900 WHERE id = '{A}'",
        f"UPDATE ledger_accounts SET credits_micros = credits_micros + 900 WHERE id = '{B}'",
        "INSERT INTO ledger_transactions SELECT 90, 'added', kind, 'added', delegation_id, actor,"
        " reverses_id, meta, effective_at, created_at FROM ledger_transactions WHERE seq = 1",
        f"INSERT INTO ledger_postings VALUES (90, 1, '{A}', '{B}', 900)",
    )
    assert kept.broken_rules() == {"R2": [f"{A}: more was taken than came in"]}


def test_r9_a_transaction_that_moves_nothing(kept: Book) -> None:
    kept.tamper(
        "INSERT INTO ledger_transactions SELECT 90, 'added', kind, 'added', delegation_id, actor,"
        " reverses_id, meta, effective_at, created_at FROM ledger_transactions WHERE seq = 1"
    )
    assert kept.broken_rules() == {"R9": ["added: the transaction moves nothing"]}


def test_r11_an_edit_that_balances(kept: Book) -> None:
    kept.tamper("UPDATE ledger_transactions SET actor = 'x' WHERE seq = 2")
    assert kept.broken_rules() == {
        "R11": ["block 1, transaction 2: the transaction is not the one that was sealed"]
    }


def test_an_edited_amount_breaks_two_rules(kept: Book) -> None:
    kept.tamper("UPDATE ledger_postings SET amount_micros = 99 WHERE seq = 1")
    assert kept.broken_rules().keys() == {"R1", "R11"}


def test_findings_are_limited(book: Book) -> None:
    names = [f"a{number:02d}" for number in range(MAX_FINDINGS + 3)]
    for name in names:
        book.top_up(name, 5)
    book.tamper(
        *(
            f"UPDATE ledger_accounts SET credits_micros = 6 WHERE id = '{account(name)}'"
            for name in names
        )
    )
    assert len(book.broken_rules()["R1"]) == MAX_FINDINGS


def test_rules_of_other_scopes_join_by_their_numbers(kept: Book) -> None:
    found = [f"delegation {number}" for number in range(MAX_FINDINGS + 1)]
    more = (
        ("R10", "it is silent", lambda _: iter(())),
        ("R3", "it finds something in the same snapshot", lambda reader: found if reader else ()),
    )
    with kept.database.snapshot() as connection:
        results = reconcile(connection, [*RULES, *more])
    assert [result.number for result in results] == ["R1", "R2", "R3", "R9", "R10", "R11"]
    assert results[2].statement == "it finds something in the same snapshot"
    assert results[2].findings == found[:MAX_FINDINGS]
    assert [result.findings for result in results if result.number != "R3"] == [[]] * 5


def test_over_http(book: Book, operator: Api, acme: Api) -> None:
    book.top_up("a", 100)
    document = operator.get("/v1/ledger/reconciliation").get_json()
    assert document["clean"] is True
    assert [rule["number"] for rule in document["rules"]] == [
        f"R{number}" for number in range(1, 13)
    ]
    assert all(rule["findings"] == [] for rule in document["rules"])
    book.tamper(f"UPDATE ledger_accounts SET credits_micros = 101 WHERE id = '{A}'")
    document = operator.get("/v1/ledger/reconciliation").get_json()
    assert document["clean"] is False
    assert document["rules"][0]["findings"] == [f"{A}: {SUMS}"]
    assert acme.get("/v1/ledger/reconciliation").status_code == 403
