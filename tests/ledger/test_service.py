"""Moving money: what every transaction keeps true, and what the database itself refuses."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.ledger.errors import InsufficientFunds, TransactionExists, TransactionNotFound
from app.ledger.service import FEES, WORLD, account_kind, open_account, pay_out
from tests.ledger.book import ACTOR, Book, account

A, B = account("a"), account("b")


def test_money_comes_in_and_goes_out(book: Book) -> None:
    book.top_up("a", 100)
    book.pay_out("a", 30)
    assert book.balance(A) == 70
    assert book.balance(WORLD) == -70


def test_a_transaction_says_what_moved(book: Book) -> None:
    transaction = book.transaction(book.top_up("a", 100, "invoice-1"))
    assert transaction["kind"] == "topup"
    assert transaction["dedupe_key"] == f"topup:{ACTOR}:invoice-1"
    assert (transaction["actor"], transaction["meta"]) == (ACTOR, "{}")
    assert transaction["reverses_id"] is transaction["delegation_id"] is None
    assert transaction["created_at"] == transaction["effective_at"]
    assert transaction["postings"] == [
        {"leg": 1, "debit_account": WORLD, "credit_account": A, "amount_micros": 100}
    ]


def test_a_system_account_is_no_row_that_every_write_changes(book: Book) -> None:
    book.top_up("a", 100)
    with book.database.read() as connection:
        rows = connection.execute(
            sa.text("SELECT debits_micros, credits_micros FROM ledger_accounts WHERE id = :id"),
            {"id": WORLD},
        )
        assert rows.one() == (0, 0)


def test_several_legs_are_one_transaction(book: Book) -> None:
    book.top_up("a", 100)
    book.post((A, "escrow:1", 90), ("escrow:1", B, 60), ("escrow:1", FEES, 10))
    assert [book.balance(name) for name in (A, "escrow:1", B, FEES)] == [10, 20, 60, 10]


@pytest.mark.parametrize(
    "legs",
    [
        [(A, B, 101)],
        [(A, B, 60), (A, FEES, 41)],
        # The first leg alone would succeed.
        [(A, "escrow:1", 50), (B, A, 1)],
        [(A, B, 2**62)],
    ],
)
def test_funds_that_do_not_suffice_change_nothing(
    book: Book, legs: list[tuple[str, str, int]]
) -> None:
    book.top_up("a", 100)
    before = book.contents()
    with pytest.raises(InsufficientFunds):
        book.post(*legs)
    assert book.contents() == before


def test_the_last_micro_can_be_taken_and_not_one_more(book: Book) -> None:
    book.top_up("a", 100)
    book.pay_out("a", 100)
    with pytest.raises(InsufficientFunds):
        book.pay_out("a", 1)
    assert book.balance(A) == 0


def test_a_movement_happens_once(book: Book) -> None:
    book.top_up("a", 100, "first")
    before = book.contents()
    with pytest.raises(TransactionExists):
        book.top_up("a", 100, "first")
    assert book.contents() == before
    book.top_up("a", 100, "second")
    # Money that goes out has a name of its own.
    book.pay_out("a", 50, "first")
    assert book.balance(A) == 150


def test_a_reversal_is_the_opposite_and_names_its_transaction(book: Book) -> None:
    book.top_up("a", 100)
    moved = book.post((A, B, 60), (A, FEES, 10))
    reversal = book.transaction(book.reverse(moved))
    assert (reversal["kind"], reversal["reverses_id"]) == ("reversal", moved)
    assert reversal["meta"] == '{"reason":"a mistake"}'
    assert [tuple(leg.values()) for leg in reversal["postings"]] == [
        (1, B, A, 60),
        (2, FEES, A, 10),
    ]
    assert [book.balance(name) for name in (A, B, FEES)] == [100, 0, 0]


def test_a_transaction_is_reversed_once(book: Book) -> None:
    topup = book.top_up("a", 100)
    reversal = book.reverse(topup)
    with pytest.raises(TransactionExists):
        book.reverse(topup)
    assert book.balance(A) == 0
    # A reversal is a transaction as any other.
    book.reverse(reversal)
    assert book.balance(A) == 100


def test_what_is_spent_cannot_be_reversed(book: Book) -> None:
    topup = book.top_up("a", 100)
    book.pay_out("a", 1)
    before = book.contents()
    with pytest.raises(InsufficientFunds):
        book.reverse(topup)
    assert book.contents() == before


def test_nothing_reverses_what_is_not_there(book: Book) -> None:
    with pytest.raises(TransactionNotFound):
        book.reverse("00000000-0000-7000-8000-00000000ffff")


def test_opening_an_account_again_keeps_it(book: Book) -> None:
    book.top_up("a", 100)
    with book.database.transaction() as session:
        open_account(session, A)
        open_account(session, B)
    assert (book.balance(A), book.balance(B)) == (100, 0)


@pytest.mark.parametrize(
    ("name", "kind"), [(A, "agent"), ("escrow:1", "escrow"), (WORLD, "system"), (FEES, "system")]
)
def test_an_id_tells_the_kind(name: str, kind: str) -> None:
    assert account_kind(name) == kind


MOMENT = "'2026-01-01 00:00:00'"
INSERT_POSTING = "INSERT INTO ledger_postings VALUES (1, 2, {}, {}, {})"
INSERT_TRANSACTION = (
    "INSERT INTO ledger_transactions (id, kind, dedupe_key, actor, reverses_id, meta, effective_at,"
    f" created_at) VALUES ({{}}, 'test', {{}}, 'x', {{}}, '{{{{}}}}', {MOMENT}, {MOMENT})"
)
INSERT_ACCOUNT = f"INSERT INTO ledger_accounts VALUES ({{}}, {{}}, {{}}, {{}}, {MOMENT})"


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (f"UPDATE ledger_accounts SET debits_micros = 101 WHERE id = '{A}'", "overdraft"),
        (f"UPDATE ledger_accounts SET credits_micros = -1 WHERE id = '{A}'", "overdraft"),
        (f"UPDATE ledger_accounts SET debits_micros = -1 WHERE id = '{A}'", "overdraft"),
        (f"UPDATE ledger_accounts SET credits_micros = 1 WHERE id = '{WORLD}'", "system_derived"),
        (f"UPDATE ledger_accounts SET kind = 'bank' WHERE id = '{A}'", "kind_known"),
        (f"DELETE FROM ledger_accounts WHERE id = '{A}'", "fk_ledger_postings|FOREIGN KEY"),
        (INSERT_ACCOUNT.format(f"'{A}'", "'agent'", 0, 9), "pk_ledger_accounts|UNIQUE"),
        (INSERT_ACCOUNT.format("'escrow:9'", "'escrow'", 9, 8), "overdraft"),
        (INSERT_POSTING.format(f"'{WORLD}'", f"'{A}'", 0), "amount_positive"),
        (INSERT_POSTING.format(f"'{WORLD}'", f"'{A}'", -5), "amount_positive"),
        (INSERT_POSTING.format(f"'{A}'", f"'{A}'", 5), "two_accounts"),
        (INSERT_POSTING.format(f"'{WORLD}'", "'agent:@x:y'", 5), "credit_account|FOREIGN KEY"),
        (INSERT_POSTING.format("'agent:@x:y'", f"'{A}'", 5), "debit_account|FOREIGN KEY"),
        ("INSERT INTO ledger_postings SELECT seq + 9, leg, debit_account, credit_account,"
         " amount_micros FROM ledger_postings", "fk_ledger_postings_seq|FOREIGN KEY"),
        (INSERT_TRANSACTION.format("'t'", f"'topup:{ACTOR}:first'", "NULL"), "dedupe_key"),
        (INSERT_TRANSACTION.format("'t'", "'new'", "'nothing'"), "reverses_id|FOREIGN KEY"),
    ],
)  # fmt: skip
def test_the_database_itself_refuses(book: Book, statement: str, constraint: str) -> None:
    book.top_up("a", 100, "first")
    before = book.contents()
    with (
        pytest.raises(sa.exc.IntegrityError, match=constraint),
        book.database.transaction() as session,
    ):
        session.execute(sa.text(statement))
    assert book.contents() == before


def test_the_guards_are_tried_on_statements_that_would_work(book: Book) -> None:
    book.top_up("a", 100, "first")
    statements = (
        INSERT_POSTING.format(f"'{WORLD}'", f"'{A}'", 5),
        INSERT_TRANSACTION.format("'t'", "'new'", "NULL"),
        INSERT_ACCOUNT.format("'escrow:9'", "'escrow'", 8, 8),
    )
    for statement in statements:
        with book.database.transaction() as session:
            session.execute(sa.text(statement))


def test_a_rollback_takes_everything_back(book: Book) -> None:
    book.top_up("a", 100)
    before = book.contents()

    def pay_and_fail() -> None:
        with book.database.transaction() as session:
            pay_out(session, "@acme:a", 10, ACTOR, "x")
            raise LookupError

    with pytest.raises(LookupError):
        pay_and_fail()
    assert book.contents() == before
    book.pay_out("a", 10, "x")
    assert book.balance(A) == 90
