"""Merkle trees and money: pure parts, held to published vectors and to properties."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.merkle import (
    GENESIS,
    block_hash,
    inclusion_path,
    leaf_hash,
    root_from_path,
    root_hash,
)
from app.money import MAX_MICROS, to_micros, to_usd

# The entries and roots that Certificate Transparency implementations test with.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES[:size]]
    assert root_hash(leaves).hex() == ROOTS[size - 1]


@given(LEAVES, st.data())
def test_every_leaf_has_a_path_and_no_other_leaf_fits_it(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = inclusion_path(leaves, index)
    root = root_hash(leaves)
    assert root_from_path(leaves[index], index, len(leaves), path) == root
    other = hashlib.sha256(leaves[index]).digest()
    assert root_from_path(other, index, len(leaves), path) != root
    for wrong in (path[1:], [*path, other]):
        if wrong == path:
            continue
        with pytest.raises(ValueError):
            root_from_path(leaves[index], index, len(leaves), wrong)


@given(LEAVES, st.data())
def test_any_change_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves]
    changed[index] = hashlib.sha256(leaves[index]).digest()
    assert root_hash(changed) != root_hash(leaves)


def test_a_blocks_hash_covers_everything_in_it() -> None:
    root, other = "11" * 32, "22" * 32
    base = block_hash(GENESIS, root, 1, 9)
    assert base == "af480a4683c8e0b6634e17279424e4f035d6b9cd60c69b6c5a557a78c5b0ce59"
    changed = {
        block_hash(other, root, 1, 9),
        block_hash(GENESIS, other, 1, 9),
        block_hash(GENESIS, root, 2, 9),
        block_hash(GENESIS, root, 1, 8),
    }
    assert len(changed | {base}) == 5


class TestMoney:
    @given(st.integers(-MAX_MICROS, MAX_MICROS))
    def test_every_amount_survives_json(self, micros: int) -> None:
        import json

        assert to_micros(json.loads(json.dumps(to_usd(micros)))) == micros

    @pytest.mark.parametrize(
        ("usd", "micros"),
        [(0, 0), (1, 1_000_000), (0.1, 100_000), (0.000001, 1), (1e9, 10**15),
         (999999999.999999, 999_999_999_999_999)],
    )  # fmt: skip
    def test_exact(self, usd: float, micros: int) -> None:
        assert to_micros(usd) == micros

    @pytest.mark.parametrize(
        "usd", [0.0000001, 1.1234567, 1e308, -1e308, 1e9 + 1, 10**30,
                float("nan"), float("inf"), float("-inf")],
    )  # fmt: skip
    def test_refused(self, usd: float) -> None:
        with pytest.raises(ValueError):
            to_micros(usd)
