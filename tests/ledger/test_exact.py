"""Sums are exact to the largest number a column holds; what would be more is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import BigInteger, literal, select, text, union_all
from sqlalchemy.exc import DataError, IntegrityError

from app.config import Settings
from app.db import MAX_INTEGER, Database, bounded_sum
from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest

ACCOUNT = "agent:@acme:invoice-summarizer"


@pytest.fixture
def operator(caller: Callable[..., Api], acme: Api) -> Api:
    """An admin, and an agent whose account has room for 0.775807 USD."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    return caller("operator", role="admin")


def execute(services: Services, statement: str, **parameters: Any) -> Any:
    with services.database.transaction() as session:
        return session.execute(text(statement), parameters).all()


def fill(services: Services) -> None:
    with services.database.transaction() as session:
        statement = text("UPDATE ledger_accounts SET credits_micros = :sum WHERE id = :id")
        session.execute(statement, {"sum": 9223372036854000000, "id": ACCOUNT})


def sums(services: Services) -> list[Any]:
    statement = "SELECT credits_micros, debits_micros FROM ledger_accounts WHERE id = :id"
    return [tuple(row) for row in execute(services, statement, id=ACCOUNT)]


def top_up(operator: Api, usd: float, key: str | None = None) -> Any:
    body = {"agent_id": ACCOUNT.removeprefix("agent:"), "amount_usd": usd}
    return operator.post("/v1/ledger/topups", body, idempotency_key=key)


def test_an_account_that_is_full_takes_no_more(operator: Api, services: Services) -> None:
    assert top_up(operator, 1).status_code == 200
    fill(services)
    before = sums(services)

    for key in ("once", "once", "again"):
        refused = top_up(operator, 1, key)
        assert (refused.status_code, refused.get_json()["code"]) == (409, "ledger_account_full")
        assert sums(services) == before
        assert all(type(value) is int for value in before[0])

    assert top_up(operator, 0.775807).status_code == 200
    assert sums(services)[0][0] == MAX_INTEGER
    assert top_up(operator, 0.000001).status_code == 409
    found = operator.get(f"/v1/ledger/accounts/{ACCOUNT}")
    assert found.status_code == 200


def test_the_database_keeps_no_sum_that_is_not_exact(operator: Api, services: Services) -> None:
    fill(services)
    statement = text("UPDATE ledger_accounts SET credits_micros = credits_micros + 1000000")
    # PostgreSQL's columns hold no more; SQLite's would hold something else.
    refused = pytest.raises((IntegrityError, DataError))
    with refused, services.database.transaction() as session:
        session.execute(statement)
    assert sums(services)[0][0] == 9223372036854000000


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], None),
        ([0], 0),
        ([1, 2, 3], 6),
        ([999_999_999_999_999] * 5, 4_999_999_999_999_995),
        ([2**62, 2**62 - 1 - 10**12], 2**63 - 1 - 10**12),
        ([2**62, 2**62], MAX_INTEGER),
        ([MAX_INTEGER] * 5, MAX_INTEGER),
    ],
)
def test_a_sum_is_exact_and_ends_at_the_largest_number(
    numbers: list[int], expected: int | None, settings: Settings
) -> None:
    database = Database(settings)
    rows = union_all(
        *(select(literal(number, BigInteger).label("number")) for number in numbers or [0])
    ).subquery()
    statement = select(bounded_sum(rows.c.number))
    if not numbers:
        statement = statement.where(rows.c.number > 0)
    with database.read() as connection:
        found = connection.execute(statement).scalar()
    database.dispose()
    assert found == expected
    assert found is None or type(found) is int


def test_books_beyond_it_are_still_read_and_reconciled(
    operator: Api, services: Services, settings: Settings
) -> None:
    """More than a column holds has come in, to several accounts: no read of it fails."""
    assert top_up(operator, 1).status_code == 200
    with services.database.transaction() as session:
        (seq,) = session.execute(text("SELECT max(seq) FROM ledger_transactions")).one()
        for leg in range(2, 5):
            session.execute(
                text(
                    "INSERT INTO ledger_postings"
                    " (seq, leg, debit_account, credit_account, amount_micros)"
                    " VALUES (:seq, :leg, 'sys:world', :account, :amount)"
                ),
                {"seq": seq, "leg": leg, "account": ACCOUNT, "amount": 2**62},
            )
    for path in ("/v1/ledger/accounts/sys:world", f"/v1/ledger/accounts/{ACCOUNT}/statement"):
        answer = operator.get(path)
        assert answer.status_code == 200, answer.text
    found = operator.get("/v1/ledger/reconciliation")
    assert found.status_code == 200, found.text
