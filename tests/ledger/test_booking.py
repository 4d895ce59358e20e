"""Booking several movements at once: in order, all or none, as many statements as for one."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import event, select

from app.ledger import queries, service
from app.ledger.errors import InsufficientFunds, TransactionExists
from app.ledger.models import Transaction
from app.ledger.service import (
    WORLD,
    Leg,
    Movement,
    escrow_account,
    lock_balances,
    open_account,
)
from tests.ledger.book import ACTOR, Book, account

A, B = account("a"), account("b")


def hold(number: int, micros: int) -> Movement:
    """Put an amount of ``a`` into the escrow of a delegation."""
    name = f"d{number}"
    return Movement("hold", f"hold:{name}", [Leg(A, escrow_account(name), micros)], name)


def close(number: int, charge: int, refund: int) -> Movement:
    """Pay ``b`` out of the escrow of a delegation and give the rest back to ``a``."""
    name = f"d{number}"
    escrow = escrow_account(name)
    return Movement(
        "close", f"close:{name}", [Leg(escrow, B, charge), Leg(escrow, A, refund)], name
    )


def booked(ledger: Book, *movements: Movement) -> list[str]:
    """Book in a transaction of its own."""
    with ledger.database.transaction() as session:
        return service.book(session, movements, ACTOR)


@contextmanager
def counted(ledger: Book) -> Iterator[list[str]]:
    """Collect the statements that are sent inside the block."""
    statements: list[str] = []

    def note(_c: object, _u: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(ledger.database.writer, "before_cursor_execute", note)
    yield statements
    event.remove(ledger.database.writer, "before_cursor_execute", note)


def test_money_goes_through_an_escrow(book: Book) -> None:
    book.top_up("a", 100)
    booked(book, hold(1, 60))
    assert [book.balance(name) for name in (A, "escrow:d1")] == [40, 60]
    booked(book, close(1, 45, 15))
    assert [book.balance(name) for name in (A, B, "escrow:d1")] == [55, 45, 0]
    assert book.broken_rules() == {}


def test_a_delegations_money_can_be_followed(book: Book) -> None:
    book.top_up("a", 100)
    held = booked(book, hold(1, 60), hold(2, 5))
    closed = booked(book, close(1, 45, 15))
    with book.database.read() as connection:
        transactions = queries.list_delegation_transactions(connection, "d1", limit=9, after=0)
        assert queries.list_delegation_transactions(connection, "d3", limit=9, after=0) == []
        escrows = connection.execute(queries.escrow_balances()).all()
        paid = connection.execute(queries.closing_payments()).all()
    assert [found["id"] for found in transactions] == [held[0], closed[0]]
    assert [len(found["postings"]) for found in transactions] == [1, 2]
    assert transactions == [book.transaction(name) for name in (held[0], closed[0])]
    assert sorted(escrows) == [("d1", 0), ("d2", 5)]
    assert sorted(paid) == [("d1", A, 15), ("d1", B, 45)]


def test_a_transaction_says_what_was_booked(book: Book) -> None:
    book.top_up("a", 100)
    movement = Movement("hold", "hold:x", [Leg(A, "escrow:x", 1)], "x", meta={"b": 1, "a": None})
    transaction = book.transaction(booked(book, movement)[0])
    assert transaction["delegation_id"] == "x"
    assert (transaction["kind"], transaction["dedupe_key"]) == ("hold", "hold:x")
    assert (transaction["actor"], transaction["meta"]) == (ACTOR, '{"a":null,"b":1}')
    assert transaction["reverses_id"] is None
    assert transaction["postings"] == [
        {"leg": 1, "debit_account": A, "credit_account": "escrow:x", "amount_micros": 1}
    ]


def test_transactions_are_numbered_in_the_order_given(book: Book) -> None:
    book.top_up("a", 10_000)
    numbers = random.Random(1).sample(range(1000), 150)
    ids = booked(book, *(hold(number, 1) for number in numbers))
    with book.database.read() as connection:
        rows = connection.execute(
            select(Transaction.id, Transaction.dedupe_key, Transaction.seq)
            .where(Transaction.kind == "hold")
            .order_by(Transaction.seq)
        ).all()
    assert [row.id for row in rows] == ids
    assert [row.dedupe_key for row in rows] == [f"hold:d{number}" for number in numbers]
    first = rows[0].seq
    assert [row.seq for row in rows] == list(range(first, first + 150))


def test_what_is_held_and_released_at_once_is_weighed_together(book: Book) -> None:
    book.top_up("a", 100)
    booked(book, *(step for n in range(5) for step in (hold(n, 90), close(n, 10, 80))))
    assert [book.balance(name) for name in (A, B)] == [50, 50]
    assert [book.balance(f"escrow:d{n}") for n in range(5)] == [0] * 5
    assert book.broken_rules() == {}


def test_nothing_to_book_is_nothing(book: Book) -> None:
    before = book.contents()
    assert booked(book) == []
    assert book.contents() == before


@pytest.mark.parametrize(
    ("movements", "refusal"),
    [
        ([hold(1, 60), hold(2, 41)], InsufficientFunds),
        ([hold(1, 60), close(1, 60, 1)], InsufficientFunds),
        ([hold(1, 60), close(2, 1, 1)], InsufficientFunds),
        ([hold(1, 60), hold(0, 1)], TransactionExists),
        ([hold(1, 60), hold(1, 1)], TransactionExists),
        # What happened already is told before what cannot be paid: a repetition is no overdraft.
        ([hold(0, 5000)], TransactionExists),
    ],
)
def test_all_or_none(book: Book, movements: list[Movement], refusal: type[Exception]) -> None:
    book.top_up("a", 105)
    booked(book, hold(0, 5))
    before = book.contents()
    with pytest.raises(refusal):
        booked(book, *movements)
    assert book.contents() == before


def test_a_refusal_names_what_it_is_about(book: Book) -> None:
    book.top_up("a", 10)
    with pytest.raises(InsufficientFunds, match=f"^the balance of {A} does not cover the amount$"):
        booked(book, hold(1, 6), hold(2, 5))
    booked(book, hold(1, 6))
    with pytest.raises(TransactionExists, match=r"^the movement 'hold:d1' has happened already$"):
        booked(book, hold(2, 1), hold(1, 1))


def test_a_hundred_cost_as_many_statements_as_one(book: Book) -> None:
    book.top_up("a", 10_000)
    counts = []
    for first, number in ((0, 1), (1, 100)):
        steps = [(hold(n, 5), close(n, 3, 2)) for n in range(first, first + number)]
        with counted(book) as statements:
            booked(book, *(movement for pair in steps for movement in pair))
        counts.append(len(statements))
    expected = 6 if book.settings.is_sqlite else 1
    assert counts == [expected, expected]


def test_balances_are_told_for_every_agent_asked_for(book: Book) -> None:
    book.top_up("b", 7)
    book.top_up("a", 100)
    booked(book, hold(1, 40))
    with book.database.transaction() as session:
        found = lock_balances(session, ["@acme:nobody", "@acme:b", "@acme:a", "@acme:b"])
        assert found == {"@acme:a": 60, "@acme:b": 7, "@acme:nobody": 0}
        assert lock_balances(session, []) == {}


def test_balances_stay_locked_until_the_transaction_ends(book: Book) -> None:
    book.top_up("a", 100)
    locked, rival_done = threading.Event(), threading.Event()

    def rival() -> None:
        locked.wait()
        try:
            book.pay_out("a", 100)
        except InsufficientFunds:
            rival_done.set()

    thread = threading.Thread(target=rival)
    thread.start()
    with book.database.transaction() as session:
        assert lock_balances(session, ["@acme:a"]) == {"@acme:a": 100}
        locked.set()
        assert not rival_done.wait(0.3)
        # Nobody took it meanwhile, so it is still there.
        transfer = Movement("test", "after the lock", [Leg(A, B, 100)])
        assert len(service.book(session, [transfer], ACTOR)) == 1
    thread.join()
    assert rival_done.is_set()
    assert [book.balance(name) for name in (A, B)] == [0, 100]


def test_opposite_directions_do_not_wait_for_each_other(book: Book) -> None:
    names = [account(name) for name in "abcd"]
    for name in "abcd":
        book.top_up(name, 1000)

    def run(seed: int) -> int:
        chance, moved = random.Random(seed), 0
        for step in range(25):
            chosen = chance.sample(names, 4)
            pairs = list(zip(chosen, chosen[1:] + chosen[:1], strict=True))
            movements = [
                Movement("test", f"{seed}:{step}:{place}", [Leg(*pair, chance.randint(1, 400))])
                for place, pair in enumerate(pairs)
            ]
            try:
                moved += len(booked(book, *movements))
            except InsufficientFunds:
                continue
        return moved

    with ThreadPoolExecutor(8) as pool:
        # A deadlock would raise here: nothing tries again.
        moved = sum(pool.map(run, range(8)))
    assert moved >= 8 * 25 * 4 // 2
    assert book.transactions() == moved + 4
    assert sum(book.balance(name) for name in names) == 4000
    assert book.broken_rules() == {}


def test_rivals_that_open_the_same_accounts(book: Book) -> None:
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        for step in range(5):
            legs = [Leg(WORLD, account(f"new{step}"), 2), Leg(account(f"new{step}"), B, 1)]
            booked(book, Movement("test", f"{number}:{step}", legs))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert [book.balance(account(f"new{step}")) for step in range(5)] == [8] * 5
    assert book.balance(B) == 40
    assert book.broken_rules() == {}


def test_a_rival_that_pays_in_is_waited_for(book: Book) -> None:
    # The row that the statement saw when it began does not cover what the newest row covers.
    book.top_up("a", 10)
    paid, waiting = threading.Event(), threading.Event()

    def spend() -> list[str]:
        paid.wait()
        waiting.set()
        return booked(book, hold(1, 15))

    with ThreadPoolExecutor(1) as pool:
        spending = pool.submit(spend)
        with book.database.transaction() as session:
            service.book(session, [Movement("test", "in", [Leg(WORLD, A, 10)])], ACTOR)
            paid.set()
            waiting.wait()
            threading.Event().wait(0.2)
        assert len(spending.result()) == 1
    assert book.balance(A) == 5
    assert book.broken_rules() == {}


def test_accounts_opened_before_are_used(book: Book) -> None:
    book.top_up("a", 10)
    with book.database.transaction() as session:
        open_account(session, "escrow:d1")
        open_account(session, A)
    booked(book, hold(1, 10))
    assert [book.balance(name) for name in (A, "escrow:d1")] == [0, 10]
