"""Many hands at once: nobody spends what is spent, and no reader sees money between accounts."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text

from app.db import Database
from app.ledger import service
from app.ledger.errors import InsufficientFunds, TransactionExists
from app.ledger.models import Account
from tests.ledger.book import ACTOR, Book, account
from tests.reliability.server import wait_for

RIVALS = 12


def race(attempt: Callable[[int], object]) -> Counter[str]:
    """Let all rivals attempt at the same moment; count successes and errors by name."""
    start = threading.Barrier(RIVALS)

    def run(number: int) -> str:
        start.wait()
        try:
            attempt(number)
        except (InsufficientFunds, TransactionExists) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(RIVALS) as pool:
        return Counter(pool.map(run, range(RIVALS)))


def test_a_balance_is_spent_once(book: Book) -> None:
    book.top_up("a", 1000)
    outcome = race(lambda number: book.pay_out("a", 400, f"rival-{number}"))
    assert outcome == {"done": 2, "InsufficientFunds": RIVALS - 2}
    assert book.balance(account("a")) == 200
    assert book.broken_rules() == {}


def test_of_rivals_for_one_movement_one_moves(book: Book) -> None:
    book.top_up("a", 1000)
    outcome = race(lambda _: book.pay_out("a", 10, "the same"))
    assert outcome == {"done": 1, "TransactionExists": RIVALS - 1}
    assert book.balance(account("a")) == 990


def test_of_rivals_that_reverse_one_does(book: Book) -> None:
    topup = book.top_up("a", 1000)
    book.top_up("a", 1000)
    outcome = race(lambda _: book.reverse(topup))
    assert outcome == {"done": 1, "TransactionExists": RIVALS - 1}
    assert book.balance(account("a")) == 1000


def test_rivals_open_an_account_once(book: Book) -> None:
    outcome = race(lambda number: book.top_up("new", 1, f"rival-{number}"))
    assert outcome == {"done": RIVALS}
    assert book.balance(account("new")) == RIVALS


def test_no_reader_sees_money_on_its_way(book: Book) -> None:
    names, each = ["a", "b", "c", "d"], 1000
    for name in names:
        book.top_up(name, each)
    finished = threading.Event()

    def write(seed: int) -> int:
        # In one direction and the other at once, so that an order of locks is needed.
        chance, moved = random.Random(seed), 0
        for _ in range(12):
            legs = [(*pair(chance), chance.randint(1, 700)) for _ in range(chance.choice((1, 2)))]
            try:
                book.post(*legs)
            except InsufficientFunds:
                continue
            moved += 1
        return moved

    def pair(chance: random.Random) -> tuple[str, str]:
        debit, credit = chance.sample(names, 2)
        return account(debit), account(credit)

    def read() -> list[tuple[int, int]]:
        return list(observations(book, finished))

    with ThreadPoolExecutor(10) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            moved = sum(pool.map(write, range(8)))
        finally:
            finished.set()
        seen = [view for reader in readers for view in reader.result()]

    assert moved > 40
    assert len(seen) > 4
    assert {total for total, _ in seen} == {each * len(names)}
    assert min(least for _, least in seen) >= 0
    assert book.transactions() == moved + len(names)
    assert book.broken_rules() == {}


def observations(book: Book, finished: threading.Event) -> Iterator[tuple[int, int]]:
    """Yield the sum of all balances and the least of them until the writers have finished.

    Each balance is read by a statement of its own: only a snapshot makes them one picture.
    """
    balance = Account.credits_micros - Account.debits_micros
    while True:
        last = finished.is_set()
        with book.database.snapshot() as connection:
            names = connection.scalars(select(Account.id).where(Account.kind == "agent")).all()
            found = [
                connection.execute(select(balance).where(Account.id == name)).scalar_one()
                for name in names
            ]
            total = connection.execute(
                select(func.sum(balance)).where(Account.kind == "agent")
            ).scalar_one()
        assert total == sum(found)
        yield sum(found), min(found)
        if last:
            return


WAITING = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE datname = current_database() AND NOT granted AND mode = :mode
"""


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_sealer_does_not_come_between_a_balance_and_its_booking(book: Book) -> None:
    """Who holds a balance has announced its booking, so that a sealer waits for it.

    Else three wait in a circle: the rival for the balance, the sealer for the rival's booking, and
    the booking of who holds the balance for the sealer. PostgreSQL ends that only after a second,
    which is longer than the first writer waits here.
    """
    book.top_up("a", 1000)
    database = Database(replace(book.settings, lock_timeout_ms=400))
    leg = service.Leg(account("a"), account("b"), 5)
    with ThreadPoolExecutor(2) as pool:
        with database.transaction() as session:
            assert service.lock_balances(session, ["@acme:a"]) == {"@acme:a": 1000}
            rival = pool.submit(book.pay_out, "a", 7)
            wait_for(lambda: waiting(book, "ShareLock") == 1)
            sealer = pool.submit(book.seal)
            wait_for(lambda: waiting(book, "ShareRowExclusiveLock") == 1)
            service.book(session, [service.Movement("test", "first", [leg])], ACTOR)
        rival.result()
        assert sealer.result() == 1
    database.dispose()
    assert book.balance(account("a")) == 988
    assert book.broken_rules() == {}


def waiting(book: Book, mode: str) -> int:
    """Return how many wait for a lock of a kind: ShareLock is that of a row's last writer."""
    with book.database.read() as connection:
        return int(connection.execute(text(WAITING), {"mode": mode}).scalar_one())
