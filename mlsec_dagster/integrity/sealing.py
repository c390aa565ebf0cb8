"""Statements become leaves: encoded, signed and hashed, on as many threads as the key allows.

    for drafts, leaves in sealed_in_order([Draft(statement, position, key), …]):
        ...

Signing is most of what an entry costs, and everything that is signed is known beforehand: only the tree itself has to wait for
the leaves. The signature's own arithmetic runs without the interpreter's lock, so that two threads sign twice as fast.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

from mlsec_dagster.integrity.entries import envelope_bytes, pae
from mlsec_dagster.integrity.keys import SigningKey
from mlsec_dagster.integrity.merkle import leaf_hash
from mlsec_dagster.integrity.statements import Position, Statement, sealed_payload

PIECE: Final = 250
"""Statements that one thread takes at a time."""

_WORTH_A_THREAD: Final = 32
_THREADS: Final = min(4, os.cpu_count() or 1)


class Draft(NamedTuple):
    """What will be signed, where it will stand, and who signs it."""

    statement: Statement
    position: Position
    key: SigningKey


class Leaf(NamedTuple):
    """What was signed.

    Attributes:
        payload: The statement with its position.
        signature: Over its DSSE encoding.
        hash: Of the leaf in the tree.
    """

    payload: bytes
    signature: bytes
    hash: bytes


def sealed(draft: Draft) -> Leaf:
    """Sign one statement for its place."""
    statement, position, key = draft
    payload = sealed_payload(statement, position)
    signature = key.sign(pae(payload))
    return Leaf(payload, signature, leaf_hash(envelope_bytes(payload, key.public.fingerprint, signature)))


def sealed_in_order(drafts: Sequence[Draft]) -> Iterator[tuple[Sequence[Draft], list[Leaf]]]:
    """Sign statements piece by piece, in order; while the caller works on one piece the next ones are being signed.

    A key that is not `concurrent` signs in the caller's thread. Whatever a signature raises is raised here, and no thread is left.
    """
    size = len(drafts)
    if size == 1:
        yield drafts, [sealed(drafts[0])]
        return
    if size < _WORTH_A_THREAD or not all(draft.key.concurrent for draft in drafts):
        for start in range(0, size, PIECE):
            piece = drafts[start : start + PIECE]
            yield piece, _sealed_piece(piece)
        return
    step = min(PIECE, -(-size // _THREADS))
    pieces = (drafts[start : start + step] for start in range(0, size, step))
    waiting: deque[tuple[Sequence[Draft], Future[list[Leaf]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for piece in pieces:
                waiting.append((piece, threads.submit(_sealed_piece, piece)))
                if len(waiting) > 2 * _THREADS:  # No more than that is held in memory.
                    earlier, future = waiting.popleft()
                    yield earlier, future.result()
            while waiting:
                earlier, future = waiting.popleft()
                yield earlier, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _sealed_piece(piece: Sequence[Draft]) -> list[Leaf]:
    return [sealed(draft) for draft in piece]
