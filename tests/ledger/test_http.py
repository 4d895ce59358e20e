"""The ledger over HTTP: who sees what, who moves money, pages, and input of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Api
from tests.ledger.book import Book

MINE, THEIRS = "agent:@acme:mailer", "agent:@globex:mailer"
LEDGER = "/v1/ledger"
UNKNOWN = "00000000-0000-7000-8000-00000000ffff"

pytestmark = pytest.mark.usefixtures("agents")


def code(response: Any) -> tuple[int, str]:
    """Return an error's status and code."""
    return response.status_code, response.get_json()["code"]


def balance(api: Api, account: str = MINE) -> float:
    """Return the balance that an account shows."""
    found: float = api.get(f"{LEDGER}/accounts/{account}").get_json()["balance_usd"]
    return found


def move(
    api: Api, way: str, amount: Any, key: str | None = None, agent: str = "@acme:mailer"
) -> Any:
    """Top up or pay out and return the response."""
    body = {"agent_id": agent, "amount_usd": amount}
    return api.post(f"{LEDGER}/{way}", body, idempotency_key=key)


class TestMovingMoney:
    def test_a_top_up_answers_the_transaction(self, operator: Api) -> None:
        response = move(operator, "topups", 250.5, "invoice-1")
        assert response.status_code == 200
        document = response.get_json()
        transaction_id = document["id"]
        assert response.headers["Content-Location"] == f"{LEDGER}/transactions/{transaction_id}"
        owner = document["actor"]
        assert document["dedupe_key"] == f"topup:{owner}:invoice-1"
        assert (document["kind"], document["meta"]) == ("topup", {})
        assert document["postings"] == [
            {
                "leg": 1,
                "debit_account": "sys:world",
                "credit_account": MINE,
                "amount_usd": 250.5,
            }
        ]
        assert operator.get(f"{LEDGER}/transactions/{transaction_id}").get_json() == document

    def test_an_account_shows_what_came_in_and_went_out(self, operator: Api, acme: Api) -> None:
        move(operator, "topups", 250.5)
        move(operator, "payouts", 0.25)
        document = acme.get(f"{LEDGER}/accounts/{MINE}").get_json()
        assert document.pop("opened_at").endswith("Z")
        assert document == {
            "account_id": MINE,
            "kind": "agent",
            "balance_usd": 250.25,
            "debits_usd": 0.25,
            "credits_usd": 250.5,
        }
        assert balance(operator, "sys:world") == -250.25

    def test_a_reversal_is_once_and_says_why(self, operator: Api, acme: Api) -> None:
        topup = move(operator, "topups", 5).get_json()["id"]
        path = f"{LEDGER}/transactions/{topup}/reversal"
        document = operator.post(path, {"reason": "wrong agent"}).get_json()
        assert (document["reverses_id"], document["kind"]) == (topup, "reversal")
        assert document["meta"] == {"reason": "wrong agent"}
        assert balance(acme) == 0
        again = operator.post(path, {"reason": "wrong agent"})
        assert code(again) == (409, "ledger_transaction_exists")
        unknown = operator.post(f"{LEDGER}/transactions/{UNKNOWN}/reversal", {"reason": "none"})
        assert code(unknown) == (404, "ledger_transaction_not_found")

    def test_a_refusal_is_the_answer_for_good(self, operator: Api, acme: Api, book: Book) -> None:
        move(operator, "topups", 5)
        before = book.contents()
        first = move(operator, "payouts", 5.000001, "pay-1")
        assert code(first) == (400, "insufficient_funds")
        assert book.contents() == before
        move(operator, "topups", 100)
        second = move(operator, "payouts", 5.000001, "pay-1")
        assert second.headers["Idempotent-Replayed"] == "true"
        assert (second.status_code, second.data) == (400, first.data)
        assert balance(acme) == 105
        assert move(operator, "payouts", 5.000001, "pay-2").status_code == 200

    @pytest.mark.parametrize("way", ["topups", "payouts"])
    def test_a_repeated_request_is_answered_byte_for_byte(
        self, operator: Api, acme: Api, way: str
    ) -> None:
        move(operator, "topups", 10)
        before = balance(acme)
        first = move(operator, way, 3, "again")
        for amount in (3, 3.0):
            second = move(operator, way, amount, "again")
            assert (second.status_code, second.data) == (200, first.data)
            assert second.headers["Content-Location"] == first.headers["Content-Location"]
            assert second.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers
        assert abs(balance(acme) - before) == 3
        assert code(move(operator, way, 4, "again")) == (409, "idempotency_key_reused")

    @pytest.mark.parametrize(
        "amount",
        [0.000001, 0.1, 0.3, 1, 999.999999, 123456789.012345, 999999999.999999, 1e9],
    )
    def test_amounts_are_exact(self, operator: Api, acme: Api, amount: float) -> None:
        document = move(operator, "topups", amount).get_json()
        assert document["postings"][0]["amount_usd"] == amount
        assert balance(acme) == amount
        statement = acme.get(f"{LEDGER}/accounts/{MINE}/statement").get_json()
        assert statement["entries"][0]["amount_usd"] == amount
        assert move(operator, "payouts", amount).status_code == 200
        assert balance(acme) == 0

    def test_a_micro_is_not_lost_in_a_billion(self, operator: Api, acme: Api, book: Book) -> None:
        move(operator, "topups", 999999999.999999)
        move(operator, "topups", 0.000001)
        assert balance(acme) == 1e9
        assert code(move(operator, "payouts", 1e9 + 1))[0] == 422
        move(operator, "payouts", 0.000001)
        assert balance(acme) == 999999999.999999
        assert book.balance(MINE) == 999_999_999_999_999

    def test_ten_dimes_are_a_dollar(self, operator: Api, acme: Api) -> None:
        for _ in range(10):
            move(operator, "topups", 0.1)
        assert balance(acme) == 1


class TestRoles:
    @pytest.mark.parametrize("role", ["viewer", "developer"])
    def test_only_an_admin_moves_money(
        self, caller: Callable[..., Api], book: Book, role: str
    ) -> None:
        topup = book.top_up("mailer", 5)
        before = book.contents()
        api = caller("acme", role=role)
        for response in (
            move(api, "topups", 5),
            move(api, "payouts", 1),
            api.post(f"{LEDGER}/transactions/{topup}/reversal", {"reason": "mine"}),
            api.get(f"{LEDGER}/reconciliation"),
        ):
            assert code(response) == (403, "role_required")
        assert book.contents() == before

    @pytest.mark.parametrize("role", ["viewer", "developer", "admin"])
    def test_every_role_reads_its_own(
        self, caller: Callable[..., Api], book: Book, role: str
    ) -> None:
        topup = book.top_up("mailer", 5)
        book.seal()
        api = caller("acme", role=role)
        for path in (
            f"accounts/{MINE}",
            f"accounts/{MINE}/statement",
            f"transactions/{topup}",
            f"transactions/{topup}/proof",
            "digest",
        ):
            assert api.get(f"{LEDGER}/{path}").status_code == 200, path

    def test_nobody_reads_without_a_key(self, anyone: Api, book: Book) -> None:
        topup = book.top_up("mailer", 5)
        for path in (
            f"accounts/{MINE}",
            f"accounts/{MINE}/statement",
            f"transactions/{topup}",
            f"transactions/{topup}/proof",
            "digest",
            "reconciliation",
        ):
            assert code(anyone.get(f"{LEDGER}/{path}")) == (401, "api_key_missing")
        for path in ("topups", "payouts", f"transactions/{topup}/reversal"):
            assert code(anyone.post(f"{LEDGER}/{path}", {})) == (401, "api_key_missing")

    @pytest.mark.parametrize("role", ["viewer", "developer"])
    def test_what_is_anothers_is_not_told_from_what_is_not(
        self, caller: Callable[..., Api], book: Book, role: str
    ) -> None:
        api, topup = caller("globex", role=role), book.top_up("mailer", 5)
        book.post((MINE, "escrow:1", 2), ("escrow:1", "sys:fees", 1))
        for suffix in ("", "/statement"):
            answers = [
                api.get(f"{LEDGER}/accounts/{name}{suffix}").get_json()
                for name in (
                    MINE,
                    "agent:@acme:nobody",
                    "escrow:1",
                    "escrow:2",
                    "sys:world",
                    "sys:fees",
                )
            ]
            for answer in answers:
                del answer["request_id"]
                answer["detail"] = answer["detail"].partition(" id ")[0]
            assert all(answer == answers[0] for answer in answers)
            assert answers[0]["code"] == "ledger_account_not_found"
        for suffix in ("", "/proof"):
            answers = [
                api.get(f"{LEDGER}/transactions/{name}{suffix}").get_json()
                for name in (topup, UNKNOWN)
            ]
            for answer in answers:
                del answer["request_id"]
                answer["detail"] = answer["detail"].partition(" id ")[0]
            assert answers[0] == answers[1]
            assert answers[0]["code"] == "ledger_transaction_not_found"

    def test_a_transaction_is_seen_by_all_it_touches(
        self, acme: Api, globex: Api, caller: Callable[..., Api], book: Book
    ) -> None:
        book.top_up("mailer", 5)
        moved = book.post((MINE, THEIRS, 2))
        path = f"{LEDGER}/transactions/{moved}"
        assert acme.get(path).get_json() == globex.get(path).get_json()
        assert caller("initech").get(path).status_code == 404
        entries = globex.get(f"{LEDGER}/accounts/{THEIRS}/statement").get_json()["entries"]
        assert [entry["transaction_id"] for entry in entries] == [moved]

    def test_an_admin_sees_all(self, operator: Api, book: Book) -> None:
        topup = book.top_up("mailer", 5)
        book.post((MINE, "escrow:1", 2), ("escrow:1", "sys:fees", 1))
        for name in (MINE, THEIRS, "escrow:1", "sys:world", "sys:fees"):
            assert operator.get(f"{LEDGER}/accounts/{name}").status_code == 200
        assert operator.get(f"{LEDGER}/transactions/{topup}").status_code == 200
        unknown = operator.get(f"{LEDGER}/accounts/agent:@acme:nobody")
        assert code(unknown) == (404, "ledger_account_not_found")
        unknown = operator.get(f"{LEDGER}/accounts/escrow:2/statement")
        assert code(unknown) == (404, "ledger_account_not_found")


class TestStatement:
    def entries(self, api: Api, limit: int) -> list[dict[str, Any]]:
        """Follow the pages of a statement to the end."""
        found: list[dict[str, Any]] = []
        path = f"{LEDGER}/accounts/{MINE}/statement?limit={limit}"
        while path:
            response = api.get(path)
            assert response.status_code == 200
            page = response.get_json()
            assert page["account_id"] == MINE
            assert len(page["entries"]) == limit or page["pagination"]["next_cursor"] is None
            found += page["entries"]
            path = response.headers.get("Link", "<>").split(">")[0][1:]
        return found

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    def test_pages_neither_repeat_nor_leave_out(self, acme: Api, book: Book, limit: int) -> None:
        book.top_up("mailer", 9_000_000)
        # Legs of one transaction on two pages, and between them one of another account.
        book.post(
            (MINE, THEIRS, 1), (THEIRS, "sys:fees", 1), (MINE, "sys:fees", 2), (MINE, THEIRS, 3)
        )
        book.pay_out("mailer", 4)
        book.post((THEIRS, MINE, 3))
        found = self.entries(acme, limit)
        assert [round(entry["amount_usd"] * 1e6) for entry in found] == [
            3,
            -4,
            -3,
            -2,
            -1,
            9_000_000,
        ]
        assert [entry["leg"] for entry in found] == [1, 1, 4, 3, 1, 1]
        assert [entry["counterparty"] for entry in found] == [
            THEIRS, "sys:world", THEIRS, "sys:fees", THEIRS, "sys:world",
        ]  # fmt: skip
        assert [entry["kind"] for entry in found] == ["test", "payout", *["test"] * 3, "topup"]

    def test_pages_stay_put_while_money_moves(self, acme: Api, book: Book) -> None:
        for amount in range(1, 6):
            book.top_up("mailer", amount)
        page = acme.get(f"{LEDGER}/accounts/{MINE}/statement?limit=2").get_json()
        book.top_up("mailer", 100)
        cursor = page["pagination"]["next_cursor"]
        rest = acme.get(f"{LEDGER}/accounts/{MINE}/statement?cursor={cursor}").get_json()
        seen = [round(e["amount_usd"] * 1e6) for e in page["entries"] + rest["entries"]]
        assert seen == [5, 4, 3, 2, 1]
        assert rest["pagination"]["next_cursor"] is None

    def test_an_account_without_postings_has_an_empty_one(self, acme: Api) -> None:
        document = acme.get(f"{LEDGER}/accounts/{MINE}/statement").get_json()
        assert document["entries"] == []

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0", "limit=101", "limit=-1", "limit=1e1", "limit=x", "limit=", "cursor=",
            "cursor=x", "cursor=MS4x!", "cursor=MQ", "cursor=LTEuMQ", "cursor=%00", "unknown=1",
            # 9999999999999999999.1, which no column holds
            "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OS4x",
        ],
    )  # fmt: skip
    def test_a_page_that_is_none(self, acme: Api, query: str) -> None:
        response = acme.get(f"{LEDGER}/accounts/{MINE}/statement?{query}")
        assert code(response) == (422, "validation_failed")


class TestBadInput:
    @pytest.mark.parametrize(
        ("amount", "status"),
        [
            ("0", 422), ("-0.0", 422), ("-1", 422), ("0.0000001", 422), ("1.0000001", 422),
            ("1e308", 422), ("1000000000.000001", 422), ("1e10", 422), ("9007199254740991", 422),
            ("1e400", 422), ("9007199254740993", 422), ("1" + "0" * 400, 422), ("NaN", 422),
            ("Infinity", 422), ("-Infinity", 422), ('"5"', 422), ("true", 422), ("null", 422),
            ("[5]", 422), ("{}", 422), ("", 400), ("0x5", 400), ("5,0", 400),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("way", ["topups", "payouts"])
    def test_amounts_that_are_none(
        self, operator: Api, book: Book, way: str, amount: str, status: int
    ) -> None:
        before = book.contents()
        body = f'{{"agent_id": "@acme:mailer", "amount_usd": {amount}}}'.encode()
        response = operator.request("POST", f"{LEDGER}/{way}", data=body)
        assert response.status_code == status, response.text
        assert book.contents() == before

    @pytest.mark.parametrize(
        ("agent", "status"),
        [
            ("@acme:nobody", 404), ("@nobody:mailer", 404), ("mailer", 404), ("sys:world", 404),
            ("agent:@acme:mailer", 404), ("@acme:mailer\n", 404), ("@ACME:mailer", 404),
            ("' OR 1=1 --", 404), ("é", 404), ("", 422), ("x" * 194, 422), ("a\u0000", 422),
            (5, 422), (None, 422), (["@acme:mailer"], 422),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("way", ["topups", "payouts"])
    def test_agents_that_are_none(
        self, operator: Api, book: Book, way: str, agent: Any, status: int
    ) -> None:
        before = book.contents()
        response = move(operator, way, 1, agent=agent)
        assert response.status_code == status, response.text
        assert book.contents() == before

    @pytest.mark.parametrize(
        "body",
        [None, [], 5, {}, {"amount_usd": 1}, {"agent_id": "@acme:mailer"},
         {"agent_id": "@acme:mailer", "amount_usd": 1, "to": "sys:fees"}],
    )  # fmt: skip
    def test_bodies_that_are_none(self, operator: Api, book: Book, body: Any) -> None:
        before = book.contents()
        assert operator.post(f"{LEDGER}/topups", body).status_code in (400, 415, 422)
        assert book.contents() == before

    @pytest.mark.parametrize("reason", [None, "", "no", "x" * 501, 5, "a\u0000b"])
    def test_reasons_that_are_none(self, operator: Api, book: Book, reason: Any) -> None:
        topup = book.top_up("mailer", 5)
        path = f"{LEDGER}/transactions/{topup}/reversal"
        assert operator.post(path, {"reason": reason}).status_code == 422
        assert book.transactions() == 1

    @pytest.mark.parametrize(
        "name",
        [
            "%00", "agent:@acme:mailer%00", "agent:@acme:mailer%0A", "agent:%40acme%3Amailer%20",
            "agent:", "agent:@", "agent:mailer", "escrow:", "sys:", "bank:1", "..", "%2e%2e", "%FF",
            "agent:@acme:" + "x" * 5000, "agent:@ACME:mailer", "é", "'", "%25", "agent:@acme:a:b",
            "agent:@acme:mailer;", "{}", "-1", "0",
        ],
    )  # fmt: skip
    def test_odd_ids_in_paths(self, operator: Api, acme: Api, name: str) -> None:
        for api in (operator, acme):
            for path in (
                f"accounts/{name}",
                f"accounts/{name}/statement",
                f"transactions/{name}",
                f"transactions/{name}/proof",
            ):
                assert 400 <= api.get(f"{LEDGER}/{path}").status_code < 500, path
        path = f"{LEDGER}/transactions/{name}/reversal"
        assert 400 <= operator.post(path, {"reason": "odd"}).status_code < 500
