"""The tree is that of RFC 9162: its vectors, its proofs, and every prefix of every small tree."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity import merkle

# Entries, roots and proofs of the reference implementation of Certificate Transparency.
ENTRIES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
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
INCLUSION_OF_0_IN_8 = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]
CONSISTENCY_OF_6_AND_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


class Stored:
    """Entries with the hashes that a store keeps for them; counts what is read."""

    def __init__(self, entries: list[bytes]) -> None:
        self.edge = merkle.Frontier()
        self.roots = [merkle.EMPTY_ROOT]
        self.leaves = [merkle.leaf_hash(entry) for entry in entries]
        self.nodes: list[bytes] = []
        self.reads = 0
        for leaf in self.leaves:
            self.nodes.append(self.edge.push(leaf))
            self.roots.append(self.edge.root())

    def read(self, indexes):
        self.reads += len(indexes)
        return {index: self.nodes[index] for index in indexes}


def by_definition(entries: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word by word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\0" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return sha256(b"\1" + by_definition(entries[:k]) + by_definition(entries[k:])).digest()


def test_roots_and_proofs_are_those_of_the_reference_vectors():
    stored = Stored(ENTRIES)
    assert [root.hex() for root in stored.roots[1:]] == ROOTS
    assert [node.hex() for node in merkle.inclusion_proof(0, 8, stored.read)] == INCLUSION_OF_0_IN_8
    assert [node.hex() for node in merkle.consistency_proof(6, 8, stored.read)] == CONSISTENCY_OF_6_AND_8


def test_every_root_up_to_40_entries_is_that_of_the_definition():
    entries = [bytes([i]) * i for i in range(40)]
    assert Stored(entries).roots == [by_definition(entries[:size]) for size in range(41)]


def test_every_inclusion_proof_of_every_small_tree_verifies_only_where_it_belongs():
    stored = Stored([bytes([i]) for i in range(20)])
    for size in range(1, 21):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, stored.read)
            places = [i for i in range(size) if merkle.verify_inclusion(stored.leaves[index], i, size, proof, stored.roots[size])]
            assert places == [index]


def test_every_consistency_proof_of_every_small_tree_verifies_and_no_forged_prefix_does():
    stored = Stored([bytes([i]) for i in range(20)])
    for new in range(21):
        for old in range(new + 1):
            proof = merkle.consistency_proof(old, new, stored.read)
            assert merkle.verify_consistency(old, new, proof, stored.roots[old], stored.roots[new])
            if old > 0:
                assert not merkle.verify_consistency(old, new, proof, b"\1" * 32, stored.roots[new])
            if 0 < old < new:
                assert not merkle.verify_consistency(old, new, proof, stored.roots[old], b"\1" * 32)


@given(st.data())
def test_a_changed_proof_a_changed_leaf_or_a_longer_proof_does_not_verify(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    stored = Stored([bytes([i]) for i in range(size)])
    proof = merkle.inclusion_proof(index, size, stored.read)
    assert merkle.verify_inclusion(stored.leaves[index], index, size, proof, stored.roots[size])
    assert not merkle.verify_inclusion(stored.leaves[index][::-1], index, size, proof, stored.roots[size])
    assert not merkle.verify_inclusion(stored.leaves[index], index, size, [*proof, b"\0" * 32], stored.roots[size])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], bytes(32), *proof[place + 1 :]]
        assert not merkle.verify_inclusion(stored.leaves[index], index, size, changed, stored.roots[size])
        assert not merkle.verify_inclusion(stored.leaves[index], index, size, proof[:-1], stored.roots[size])


def test_a_proof_in_a_large_tree_reads_few_rows():
    stored = Stored([b"x"] * 100_000)
    merkle.inclusion_proof(77_777, 99_999, stored.read)
    merkle.consistency_proof(77_777, 99_999, stored.read)
    assert stored.reads < 4 * 17


def test_an_edge_is_rebuilt_from_stored_hashes_at_any_size():
    stored = Stored([bytes([i]) for i in range(70)])
    assert [merkle.load_frontier(size, stored.read).root() for size in range(71)] == stored.roots


def test_a_missing_row_is_named():
    with pytest.raises(LedgerError, match="Entry 3"):
        merkle.inclusion_proof(0, 4, lambda _: {1: b"\0" * 32})
