"""Seals: any edit of sealed history is found, by the service and by somebody who trusts nobody."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from app.access.service import KeyUsage
from app.ledger import seals
from app.ledger.errors import NotSealed
from app.ledger.merkle import GENESIS
from app.ledger.models import Posting, Seal, Transaction
from app.ledger.seals import Fault, prove
from app.ledger.service import top_up
from app.ops.maintenance import Maintenance
from tests.client import Api
from tests.ledger.book import ACTOR, Book, account

A, B, C = account("a"), account("b"), account("c")
EDITED = "the transaction is not the one that was sealed"


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "MAX_BLOCK", 3)
    monkeypatch.setattr(seals, "SEALS_AT_ONCE", 2)


@pytest.fixture
def history(book: Book) -> Book:
    """Seven transactions, numbered from 1, not sealed yet; number 4 has two legs."""
    for name in ("a", "b", "c"):
        book.top_up(name, 1000)
    book.post((A, B, 10), (A, C, 20))
    for amount in (1, 2, 3):
        book.post((B, C, amount))
    return book


@pytest.fixture
def sealed(history: Book) -> Book:
    """The same in blocks of transactions 1 to 3, 4 to 6, and 7."""
    assert history.seal() == 3
    return history


def seal_rows(book: Book) -> list[Any]:
    """Return every seal, oldest first."""
    with book.database.read() as connection:
        return list(connection.execute(select(Seal.__table__).order_by(Seal.block)))


def sha256(*parts: bytes) -> bytes:
    """Return the SHA-256 of the parts one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def includes(root: bytes, leaf: bytes, index: int, size: int, path: list[bytes]) -> bool:
    """Verify an inclusion proof as RFC 9162, section 2.1.3.2, says, step by step."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = sha256(b"\x01", p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha256(b"\x01", r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def holds(proof: dict[str, Any]) -> bool:
    """Verify a served proof up to its block's hash, with nothing of the service's own code."""
    block = proof["block"]
    hash_ = sha256(
        b"\x02",
        bytes.fromhex(block["previous_hash"]),
        bytes.fromhex(block["root"]),
        struct.pack(">QQ", block["first_seq"], block["last_seq"]),
    )
    return hash_.hex() == block["hash"] and includes(
        bytes.fromhex(block["root"]),
        sha256(b"\x00", proof["entry"].encode()),
        proof["leaf_index"],
        proof["tree_size"],
        [bytes.fromhex(node) for node in proof["path"]],
    )


def proofs(book: Book) -> list[dict[str, Any]]:
    """Return the proofs of all transactions in order."""
    with book.database.read() as connection:
        ids = connection.scalars(select(Transaction.id).order_by(Transaction.seq)).all()
        return [prove(connection, transaction_id) for transaction_id in ids]


class TestSealing:
    def test_blocks_follow_each_other(self, sealed: Book) -> None:
        rows = seal_rows(sealed)
        assert [(row.block, row.first_seq, row.last_seq) for row in rows] == [
            (1, 1, 3),
            (2, 4, 6),
            (3, 7, 7),
        ]
        assert [row.previous_hash for row in rows] == [GENESIS, rows[0].hash, rows[1].hash]
        assert [len(row.leaves) for row in rows] == [96, 96, 32]
        assert sealed.faults() == []

    def test_the_digest_is_the_newest_block(self, history: Book) -> None:
        assert history.digest() == {
            "block": 0,
            "hash": GENESIS,
            "last_seq": 0,
            "sealed_at": None,
        }
        history.seal()
        newest = seal_rows(history)[-1]
        digest = history.digest()
        assert (digest["block"], digest["hash"], digest["last_seq"]) == (3, newest.hash, 7)
        assert digest["sealed_at"].endswith("Z")

    def test_what_is_sealed_is_not_sealed_again(self, sealed: Book) -> None:
        before = seal_rows(sealed)
        assert sealed.seal() == 0
        sealed.top_up("a", 1)
        assert sealed.seal() == 1
        rows = seal_rows(sealed)
        assert rows[:-1] == before
        assert (rows[-1].block, rows[-1].first_seq, rows[-1].last_seq) == (4, 8, 8)

    def test_housekeeping_seals(self, history: Book) -> None:
        Maintenance(history.database, KeyUsage()).run_once()
        assert history.digest()["last_seq"] == 7

    def test_sealers_and_writers_at_once_leave_no_gap(self, book: Book) -> None:
        def write(number: int) -> None:
            for turn in range(6):
                book.top_up("a", 1, f"{number}-{turn}")

        def seal(_: int) -> int:
            return sum(book.seal() for _ in range(5))

        with ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, number) for number in range(4)]
            made = sum(pool.map(seal, range(4)))
            for writer in writers:
                writer.result()
        made += book.seal()

        rows = seal_rows(book)
        assert [row.block for row in rows] == list(range(1, made + 1))
        assert sum(len(row.leaves) // 32 for row in rows) == book.transactions() == 24
        assert book.faults() == []

    @pytest.mark.parametrize("dialect", ["postgresql"])
    def test_a_number_that_is_not_committed_holds_the_seal_back(self, book: Book) -> None:
        book.top_up("b", 1)
        with ThreadPoolExecutor(1) as pool:
            with book.database.transaction() as session:
                top_up(session, "@acme:a", 5, ACTOR, "late")
                # The rival has the greater number and commits first.
                book.top_up("b", 6, "early")
                sealer = pool.submit(book.seal)
                wait_for_a_waiting_lock(book)
                assert seal_rows(book) == []
            assert sealer.result() == 1
        keys = [json.loads(proof["entry"])["dedupe_key"] for proof in proofs(book)]
        assert [key.rpartition(":")[2] for key in keys[1:]] == ["late", "early"]
        assert [proof["leaf_index"] for proof in proofs(book)] == [0, 1, 2]

    @pytest.mark.parametrize("dialect", ["postgresql"])
    def test_a_sealer_that_waits_too_long_seals_nothing(self, history: Book) -> None:
        def seal_impatiently() -> None:
            with history.database.transaction() as session:
                session.execute(text("SET LOCAL lock_timeout = 50"))
                seals.seal_pending(session)

        with history.database.transaction() as session:
            session.execute(text("LOCK TABLE ledger_transactions IN ROW EXCLUSIVE MODE"))
            with pytest.raises(OperationalError, match="lock timeout"):
                seal_impatiently()
        assert seal_rows(history) == []


def wait_for_a_waiting_lock(book: Book) -> None:
    """Return when somebody waits for a lock on the transactions; fail after ten seconds."""
    waiting = text(
        "SELECT count(*) FROM pg_locks"
        " WHERE relation = 'ledger_transactions'::regclass AND NOT granted"
    )
    for _ in range(200):
        with book.database.read() as connection:
            if connection.execute(waiting).scalar():
                return
        time.sleep(0.05)
    raise AssertionError("nobody waits")


class TestProofs:
    def test_anybody_can_check_them(self, sealed: Book) -> None:
        found = proofs(sealed)
        assert [proof["block"]["block"] for proof in found] == [1, 1, 1, 2, 2, 2, 3]
        assert [proof["leaf_index"] for proof in found] == [0, 1, 2, 0, 1, 2, 0]
        assert all(map(holds, found))

    def test_they_lead_to_the_kept_digest(self, sealed: Book) -> None:
        blocks = {proof["block"]["block"]: proof["block"] for proof in proofs(sealed)}
        assert blocks[3]["hash"] == sealed.digest()["hash"]
        assert blocks[3]["previous_hash"] == blocks[2]["hash"]
        assert blocks[2]["previous_hash"] == blocks[1]["hash"]
        assert blocks[1]["previous_hash"] == "0" * 64

    def test_a_proof_of_something_else_does_not_hold(self, sealed: Book) -> None:
        for proof in proofs(sealed):
            entry = proof["entry"].replace('"leg":1', '"leg":9')
            assert entry != proof["entry"]
            assert not holds({**proof, "entry": entry})
            assert not holds({**proof, "leaf_index": proof["leaf_index"] + 1})
            assert not holds({**proof, "path": [*proof["path"], "00" * 32]})
            block = {**proof["block"], "last_seq": proof["block"]["last_seq"] + 1}
            assert not holds({**proof, "block": block})

    def test_the_entry_is_the_transaction(self, sealed: Book) -> None:
        proof = proofs(sealed)[3]
        entry = json.loads(proof["entry"])
        stored = sealed.transaction(proof["transaction_id"])
        assert entry.keys() == stored.keys()
        assert (entry["id"], entry["seq"]) == (proof["transaction_id"], 4)
        assert entry["postings"] == stored["postings"]
        assert len(entry["postings"]) == 2
        assert entry["created_at"].endswith("Z")
        assert proof["entry"] == json.dumps(entry, separators=(",", ":"), sort_keys=True)

    def test_what_is_not_sealed_has_none(self, sealed: Book) -> None:
        fresh = sealed.top_up("a", 1)
        with sealed.database.read() as connection, pytest.raises(NotSealed):
            prove(connection, fresh)

    def test_over_http(self, agents: list[str], acme: Api, globex: Api, book: Book) -> None:
        transaction_id = book.top_up("mailer", 5)
        path = f"/v1/ledger/transactions/{transaction_id}/proof"
        early = acme.get(path)
        assert (early.status_code, early.get_json()["code"]) == (409, "ledger_not_sealed")
        book.seal()
        kept = globex.get("/v1/ledger/digest").get_json()
        proof = acme.get(path).get_json()
        assert holds(proof)
        assert proof["block"]["hash"] == kept["hash"]
        assert json.loads(proof["entry"])["id"] == transaction_id
        assert globex.get(path).status_code == 404


# For every column of a transaction and of a posting: another value that could stand in it.
EDITS = {
    "ledger_transactions": {
        "seq": "1004",
        "id": "'00000000-0000-7000-8000-00000000ffff'",
        "kind": "'gift'",
        "dedupe_key": "dedupe_key || 'x'",
        "delegation_id": "'00000000-0000-7000-8000-00000000dddd'",
        "actor": "'somebody else'",
        "reverses_id": "(SELECT id FROM ledger_transactions WHERE seq = 1)",
        "meta": '\'{"reason":"none"}\'',
        "effective_at": "'2026-01-01 00:00:00.000001'",
        "created_at": "'2026-01-01 00:00:00.000001'",
    },
    "ledger_postings": {
        "seq": "5",
        "leg": "3",
        "debit_account": f"'{B}'",
        "credit_account": "'sys:world'",
        "amount_micros": "21",
    },
}
# The second leg of number 4, and number 4 itself: the first transaction of the second block.
TARGET = {
    "ledger_transactions": "seq = 4",
    "ledger_postings": "seq = 4 AND leg = 2",
}


class TestTampering:
    def test_every_column_is_tried(self) -> None:
        for entity in (Transaction, Posting):
            columns = set(entity.__table__.columns.keys())
            assert EDITS[entity.__tablename__].keys() == columns

    @pytest.mark.parametrize(
        ("table", "column"), [(table, column) for table in EDITS for column in EDITS[table]]
    )
    def test_every_edit_is_found_at_its_transaction(
        self, sealed: Book, table: str, column: str
    ) -> None:
        value = EDITS[table][column]
        sealed.tamper(f"UPDATE {table} SET {column} = {value} WHERE {TARGET[table]}")
        # A transaction that was given another number is missed where its number was.
        moved = (table, column) == ("ledger_transactions", "seq")
        assert sealed.faults()[:1] == [Fault(2, 5 if moved else 4, EDITED)]
        assert {fault.block for fault in sealed.faults()} == {2}

    @pytest.mark.parametrize("seq", range(1, 8))
    def test_every_transaction_is_covered(self, sealed: Book, seq: int) -> None:
        sealed.tamper(
            "UPDATE ledger_postings SET amount_micros = amount_micros + 1"
            f" WHERE seq = {seq} AND leg = 1"
        )
        assert sealed.faults() == [Fault((seq + 2) // 3, seq, EDITED)]

    def test_a_posting_added_or_removed(self, sealed: Book) -> None:
        sealed.tamper("DELETE FROM ledger_postings WHERE seq = 4 AND leg = 2")
        sealed.tamper(f"INSERT INTO ledger_postings VALUES (7, 2, '{A}', '{B}', 1)")
        assert sealed.faults() == [Fault(2, 4, EDITED), Fault(3, 7, EDITED)]

    @pytest.mark.parametrize(
        ("seq", "fault"),
        [
            (5, Fault(2, 6, EDITED)),
            (6, Fault(2, None, "the block has 2 transactions instead of 3")),
            (7, Fault(3, None, "the block has 0 transactions instead of 1")),
        ],
    )
    def test_a_row_removed(self, sealed: Book, seq: int, fault: Fault) -> None:
        sealed.tamper(
            f"DELETE FROM ledger_postings WHERE seq = {seq}",
            f"DELETE FROM ledger_transactions WHERE seq = {seq}",
        )
        assert sealed.faults()[0] == fault

    @pytest.mark.parametrize(("seq", "block"), [(5, 2), (4, 2), (0, 1), (-5, 1)])
    def test_a_row_added(self, history: Book, seq: int, block: int) -> None:
        # Numbers that were never committed leave gaps, within a block and between two.
        for gap in (4, 5):
            history.tamper(f"DELETE FROM ledger_transactions WHERE seq = {gap}")
        history.tamper(
            "DELETE FROM ledger_postings WHERE seq = 4 AND leg = 1",
            "DELETE FROM ledger_postings WHERE seq = 4 AND leg = 2",
            "DELETE FROM ledger_postings WHERE seq = 5",
        )
        history.seal()
        assert history.faults() == []
        history.tamper(
            "INSERT INTO ledger_transactions SELECT :seq, 'added', kind, 'added', delegation_id,"
            " actor, reverses_id, meta, effective_at, created_at"
            " FROM ledger_transactions WHERE seq = 7",
            f"INSERT INTO ledger_postings VALUES (:seq, 1, '{A}', '{B}', 1)",
            seq=seq,
        )
        assert [fault.block for fault in history.faults()][:1] == [block]
        assert history.faults()[0].seq in (seq, None)

    def test_a_row_added_at_the_end_is_not_history_yet(self, sealed: Book) -> None:
        sealed.top_up("a", 1)
        assert sealed.faults() == []

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("block", "9"),
            ("first_seq", "5"),
            ("first_seq", "-1"),
            ("last_seq", "5"),
            ("leaves", "CAST('' AS {blob})"),
            ("leaves", "CAST('0123456789012345678901234567890' AS {blob})"),
            ("root", "hash"),
            ("root", "'not hexadecimal'"),
            ("previous_hash", "hash"),
            ("previous_hash", "'zz'"),
            ("hash", "root"),
            ("hash", "''"),
        ],
    )
    def test_a_seal_edited(self, sealed: Book, column: str, value: str) -> None:
        value = value.format(blob="BLOB" if sealed.settings.is_sqlite else "BYTEA")
        sealed.tamper(f"UPDATE ledger_seals SET {column} = {value} WHERE block = 2")
        assert sealed.faults()[0].block == 2

    def test_a_seal_removed(self, sealed: Book) -> None:
        kept = sealed.digest()
        sealed.tamper("DELETE FROM ledger_seals WHERE block = 3")
        assert sealed.faults() == []
        assert sealed.faults(kept) == [Fault(3, None, "the block in the kept digest is missing")]
        sealed.tamper("DELETE FROM ledger_seals WHERE block = 1")
        assert sealed.faults() == [Fault(1, None, "the block is missing")]

    @pytest.mark.parametrize(
        ("table", "edit"),
        [
            ("ledger_postings", "amount_micros = 1152921504606846976"),
            ("ledger_transactions", "created_at = 'some day'"),
            ("ledger_transactions", "effective_at = ''"),
        ],
    )
    @pytest.mark.parametrize("dialect", ["sqlite"])
    def test_values_that_no_transaction_can_have(self, sealed: Book, table: str, edit: str) -> None:
        # SQLite stores any text in any column; verification reports it instead of failing.
        sealed.tamper(f"UPDATE {table} SET {edit} WHERE {TARGET[table]}")
        assert [fault.block for fault in sealed.faults()] == [2]
        assert sealed.broken_rules().keys() >= {"R11"}

    def test_only_a_kept_digest_tells_a_whole_new_history(self, history: Book) -> None:
        with history.database.transaction() as session:
            seals.seal_pending(session)
        kept = history.digest()
        history.tamper(
            "UPDATE ledger_postings SET amount_micros = 11 WHERE seq = 4 AND leg = 1",
            *(f"DELETE FROM ledger_seals WHERE block = {block}" for block in (1, 2, 3)),
        )
        assert history.seal() == 3
        assert history.faults() == []
        assert history.faults(kept) == [
            Fault(3, None, "the block's hash is not the one in the kept digest")
        ]

    def test_a_digest_vouches_for_what_was_sealed_before_it(self, book: Book) -> None:
        book.top_up("a", 5)
        book.seal()
        early = book.digest()
        book.top_up("a", 6)
        book.seal()
        late = book.digest()
        assert book.faults(early) == book.faults(late) == []
        book.tamper(
            "UPDATE ledger_postings SET amount_micros = 7 WHERE seq = 2",
            "DELETE FROM ledger_seals WHERE block = 2",
        )
        book.seal()
        assert book.faults(early) == []
        assert [fault.block for fault in book.faults(late)] == [2]
