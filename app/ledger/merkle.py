"""Merkle trees over transactions: RFC 9162, section 2.1, with SHA-256; and the chain of blocks.

Leaves, inner nodes and blocks are hashed with different first bytes, so that none can pass for
another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

GENESIS = "0" * 64


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two below ``size``, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; at least one."""
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return _node_hash(root_hash(leaves[:middle]), root_hash(leaves[middle:]))


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from the leaf at ``index`` to the root, lowest first."""
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_path(leaves[:middle], index), root_hash(leaves[middle:])]
    return [*inclusion_path(leaves[middle:], index - middle), root_hash(leaves[:middle])]


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that a path leads to from the leaf at ``index`` of ``size`` leaves.

    Raises ``ValueError`` for a path that no tree of that size has.
    """
    if not 0 <= index < size:
        raise ValueError("the index is outside the tree")
    if size == 1:
        if path:
            raise ValueError("the path is too long")
        return leaf
    if not path:
        raise ValueError("the path is too short")
    middle = _split(size)
    *below, sibling = path
    if index < middle:
        return _node_hash(root_from_path(leaf, index, middle, below), sibling)
    return _node_hash(sibling, root_from_path(leaf, index - middle, size - middle, below))


def block_hash(previous: str, root: str, first_seq: int, last_seq: int) -> str:
    """Return a block's hash in hexadecimal: over the hash before it, its root and its bounds."""
    bounds = first_seq.to_bytes(8, "big") + last_seq.to_bytes(8, "big")
    return hashlib.sha256(
        b"\x02" + bytes.fromhex(previous) + bytes.fromhex(root) + bounds
    ).hexdigest()
