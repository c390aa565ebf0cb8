"""The Merkle tree of RFC 9162: hashing, the growing edge, proofs and their verification.

    edge = Frontier()
    nodes = [edge.push(leaf_hash(data)) for data in entries]
    proof = inclusion_proof(2, edge.size, lambda indexes: {i: nodes[i] for i in indexes})
    assert verify_inclusion(leaf_hash(entries[2]), 2, edge.size, proof, edge.root())

Each entry keeps the hashes of all complete subtrees that end at it, lowest first (`Frontier.push` returns them in one byte
string). Any complete subtree is then part of one row, so that a proof costs O(log n) row reads and there is no second table.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Final

from mlsec_dagster.errors import LedgerError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()

NodeReader = Callable[[Collection[int]], Mapping[int, bytes]]
"""Given entry indexes, returns the stored subtree hashes of those entries."""


def leaf_hash(data: bytes) -> bytes:
    """RFC 9162, 2.1.1: SHA-256 over 0x00 and the entry."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162, 2.1.1: SHA-256 over 0x01 and both children."""
    return sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Hash of a range from the hashes of its complete subtrees, largest (leftmost) first."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


class Frontier:
    """The right edge of a tree: the roots of its complete subtrees. All that is needed to append."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)

    def push(self, leaf: bytes) -> bytes:
        """Append a leaf hash; returns the hashes of the complete subtrees that end at it, lowest first, 32 bytes each."""
        size, hashes = self.size, self.hashes
        self.size += 1
        if not size & 1:  # Every second leaf completes nothing but itself.
            hashes.append(leaf)
            return leaf
        nodes, node = [leaf], leaf
        while size & 1:
            node = sha256(b"\x01" + hashes.pop() + node).digest()
            nodes.append(node)
            size >>= 1
        hashes.append(node)
        return b"".join(nodes)

    def root(self) -> bytes:
        """Root of the tree at its present size."""
        return fold(self.hashes)

    def copy(self) -> "Frontier":
        return Frontier(self.size, self.hashes)


def _subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """Complete subtrees, largest first, that make up [start, end): (level, index of the last entry)."""
    parts: list[tuple[int, int]] = []
    while start < end:
        level = (end - start).bit_length() - 1
        start += 1 << level
        parts.append((level, start - 1))
    return parts


def _range_hashes(ranges: Sequence[tuple[int, int]], read: NodeReader) -> list[bytes]:
    """Hash of every range, with one call of `read`."""
    parts = [_subtrees(start, end) for start, end in ranges]
    rows = read({index for part in parts for _, index in part})

    def subtree(level: int, index: int) -> bytes:
        node = rows.get(index, b"")[level * HASH_BYTES : (level + 1) * HASH_BYTES]
        if len(node) != HASH_BYTES:
            raise LedgerError(
                f"Entry {index} or its tree hashes are missing from the store: it was removed or altered. Run `mlsec verify`."
            )
        return node

    return [fold([subtree(level, index) for level, index in part]) for part in parts]


def load_frontier(size: int, read: NodeReader) -> Frontier:
    """The frontier of the first `size` entries, from their stored hashes. The caller compares its root with a signed one.

    Raises:
        LedgerError: A row that it needs is missing or too short.
    """
    parts = _subtrees(0, size)
    return Frontier(size, _range_hashes([(index + 1 - (1 << level), index + 1) for level, index in parts], read))


def _split(count: int) -> int:
    """Largest power of two smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges of entries whose hashes form the inclusion proof (RFC 9162, 2.1.3.1), from the leaf upwards."""
    if not 0 <= index < size:
        raise LedgerError(f"There is no entry {index} in a ledger of {size} entries.")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def inclusion_proof(index: int, size: int, read: NodeReader) -> list[bytes]:
    """Audit path of entry `index` in the tree of the first `size` entries; O(log n) rows in one call of `read`."""
    return _range_hashes(inclusion_ranges(index, size), read)


def inclusion_rows(index: int, size: int) -> set[int]:
    """The entries whose rows `inclusion_proof` reads; for fetching many proofs at once."""
    return {last for start, end in inclusion_ranges(index, size) for _, last in _subtrees(start, end)}


def consistency_proof(old: int, new: int, read: NodeReader) -> list[bytes]:
    """Proof (RFC 9162, 2.1.4.1) that the tree of `old` entries is a prefix of the tree of `new` entries."""
    if not 0 <= old <= new:
        raise LedgerError(f"A tree of {old} entries cannot be a prefix of one of {new}.")
    if old in (0, new):
        return []
    ranges: list[tuple[int, int]] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, end))
    return _range_hashes(ranges[::-1], read)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2: whether `leaf` is entry `index` of the tree with this size and root."""
    if not 0 <= index < size:
        return False
    position, last, result = index, size - 1, leaf
    for node in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            result = node_hash(node, result)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            result = node_hash(result, node)
        position >>= 1
        last >>= 1
    return last == 0 and result == root


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """RFC 9162, 2.1.4.2: whether the tree (old, old_root) is a prefix of (new, new_root)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    first = second = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(node, first), node_hash(node, second)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            second = node_hash(second, node)
        position >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root
