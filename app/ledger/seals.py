"""Seals: blocks of transactions that make any later edit show.

Sealing proves that history is the one that was sealed, to whoever kept a digest elsewhere. It does
not stop an owner of the database from writing a new history with new seals; only the kept digest
tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, bindparam, func, select, text
from sqlalchemy.orm import Session

from app import clock
from app.canonical import canonical_json
from app.ledger.errors import NotSealed
from app.ledger.merkle import GENESIS, block_hash, inclusion_path, leaf_hash, root_hash
from app.ledger.models import Seal, Transaction
from app.ledger.queries import Reader, find_transaction, read_transactions

MAX_BLOCK = 1000
# The service numbers from 1; whoever writes to the database directly could number below.
LEAST_SEQ = -(2**62)
SEALS_AT_ONCE = 100


def entry_bytes(transaction: dict[str, Any]) -> bytes:
    """Return the canonical JSON (RFC 8785) of a transaction, which its leaf is the hash of."""
    times = {name: clock.isoformat(transaction[name]) for name in ("effective_at", "created_at")}
    return canonical_json({**transaction, **times})


def seal_pending(session: Session) -> int:
    """Seal all unsealed transactions in blocks of at most ``MAX_BLOCK``; return how many blocks.

    A transaction takes its number before it commits. On PostgreSQL the table lock waits for those
    under way and holds back new ones, so that no smaller number can appear below a sealed one.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE ledger_transactions IN SHARE ROW EXCLUSIVE MODE"))
    last = session.scalar(select(Seal).order_by(Seal.block.desc()).limit(1))
    blocks = 0
    while True:
        seqs = session.scalars(
            select(Transaction.seq)
            .where(Transaction.seq > (last.last_seq if last else 0))
            .order_by(Transaction.seq)
            .limit(MAX_BLOCK)
        ).all()
        if not seqs:
            return blocks
        leaves = [
            leaf_hash(entry_bytes(entry)) for entry in read_transactions(session, seqs[0], seqs[-1])
        ]
        previous = last.hash if last else GENESIS
        root = root_hash(leaves).hex()
        last = Seal(
            block=last.block + 1 if last else 1,
            first_seq=seqs[0],
            last_seq=seqs[-1],
            leaves=b"".join(leaves),
            root=root,
            previous_hash=previous,
            hash=block_hash(previous, root, seqs[0], seqs[-1]),
            sealed_at=clock.now(),
        )
        session.add(last)
        session.flush()
        blocks += 1


def read_digest(reader: Reader) -> dict[str, Any]:
    """Return the newest block's number, hash and bounds; block 0 while nothing is sealed."""
    row = reader.execute(
        select(Seal.block, Seal.hash, Seal.last_seq, Seal.sealed_at)
        .order_by(Seal.block.desc())
        .limit(1)
    ).first()
    if row is None:
        return {"block": 0, "hash": GENESIS, "last_seq": 0, "sealed_at": None}
    return {
        "block": row.block,
        "hash": row.hash,
        "last_seq": row.last_seq,
        "sealed_at": clock.isoformat(row.sealed_at),
    }


def prove(reader: Reader, transaction_id: str) -> dict[str, Any]:
    """Return a transaction's proof of inclusion in its block (RFC 9162, section 2.1.3).

    Raises ``TransactionNotFound`` and ``NotSealed``.
    """
    transaction = find_transaction(reader, transaction_id)
    seal = reader.execute(
        select(
            Seal.block,
            Seal.first_seq,
            Seal.last_seq,
            Seal.leaves,
            Seal.root,
            Seal.previous_hash,
            Seal.hash,
        )
        .where(Seal.last_seq >= transaction["seq"])
        .order_by(Seal.last_seq)
        .limit(1)
    ).first()
    if seal is None:
        raise NotSealed("the transaction is not in a sealed block yet; ask again in a minute")
    index = reader.execute(
        select(func.count()).where(
            Transaction.seq >= seal.first_seq, Transaction.seq < transaction["seq"]
        )
    ).scalar_one()
    leaves = split_leaves(seal.leaves)
    return {
        "transaction_id": transaction_id,
        "entry": entry_bytes(transaction).decode(),
        "leaf_index": index,
        "tree_size": len(leaves),
        "path": [node.hex() for node in inclusion_path(leaves, index)],
        "block": {
            "block": seal.block,
            "root": seal.root,
            "first_seq": seal.first_seq,
            "last_seq": seal.last_seq,
            "previous_hash": seal.previous_hash,
            "hash": seal.hash,
        },
    }


def split_leaves(joined: bytes) -> list[bytes]:
    """Return the leaf hashes that a seal holds one after the other."""
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]


@dataclass(frozen=True)
class Fault:
    """A place where the ledger is not what was sealed; ``seq`` names the transaction if one is."""

    block: int
    seq: int | None
    detail: str


_seals = (
    select(
        Seal.block,
        Seal.first_seq,
        Seal.last_seq,
        Seal.leaves,
        Seal.root,
        Seal.previous_hash,
        Seal.hash,
    )
    .where(Seal.block > bindparam("after", type_=BigInteger))
    .order_by(Seal.block)
    .limit(bindparam("limit"))
)


def _read_seals(reader: Reader) -> Iterator[Any]:
    """Yield every seal in order, holding few: each has the hashes of up to 1000 transactions."""
    after = LEAST_SEQ
    while rows := reader.execute(_seals, {"after": after, "limit": SEALS_AT_ONCE}).all():
        yield from rows
        after = rows[-1].block


def verify(reader: Reader, kept: dict[str, Any] | None = None) -> Iterator[Fault]:
    """Yield every place whose transactions, root or place in the chain are not what was sealed.

    ``kept`` is a digest that was stored elsewhere (``read_digest``); the block it names must still
    have its hash.
    """
    previous, last_seq, block = GENESIS, LEAST_SEQ - 1, 0
    for seal in _read_seals(reader):
        block += 1
        if seal.block != block:
            yield Fault(block, None, "the block is missing")
            return
        yield from _verify_block(reader, seal, previous, last_seq)
        if kept and kept["block"] == block and kept["hash"] != seal.hash:
            yield Fault(block, None, "the block's hash is not the one in the kept digest")
        previous, last_seq = seal.hash, seal.last_seq
    if kept and kept["block"] > block:
        yield Fault(kept["block"], None, "the block in the kept digest is missing")


def _hash_of(seal: Any) -> str | None:
    """Return the hash of a seal's content; None if no seal could have such content."""
    try:
        return block_hash(seal.previous_hash, seal.root, seal.first_seq, seal.last_seq)
    except (ValueError, OverflowError):
        return None


def _leaf_of(entry: dict[str, Any]) -> bytes | None:
    """Return the hash of a transaction; None if it holds what JSON cannot, such as 2**60."""
    try:
        return leaf_hash(entry_bytes(entry))
    except ValueError:
        return None


def _verify_block(reader: Reader, seal: Any, previous: str, last_seq: int) -> Iterator[Fault]:
    leaves = split_leaves(seal.leaves)
    if seal.previous_hash != previous:
        yield Fault(seal.block, None, "the block does not follow the one before it")
    if seal.hash != _hash_of(seal):
        yield Fault(seal.block, None, "the block's hash is not that of its content")
    if not leaves or root_hash(leaves).hex() != seal.root:
        yield Fault(seal.block, None, "the block's leaves do not have its root")
    # From the end of the block before: a row slipped in between two blocks was never sealed.
    try:
        entries = list(read_transactions(reader, last_seq + 1, seal.last_seq))
    except ValueError as error:
        # SQLite keeps any text where a time should be.
        yield Fault(seal.block, None, f"the block's transactions cannot be read: {error}")
        return
    for entry, leaf in zip(entries, leaves, strict=False):
        if _leaf_of(entry) != leaf:
            yield Fault(seal.block, entry["seq"], "the transaction is not the one that was sealed")
            return
    if len(entries) != len(leaves):
        found = f"the block has {len(entries)} transactions instead of {len(leaves)}"
        yield Fault(seal.block, None, found)
