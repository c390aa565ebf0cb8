"""What a storage's client raises, as a sentence that says what to do.

    for page in translated(pages, (BotoCoreError, ClientError), lambda error: failure("throttled", uri, code)):
        ...

Messages of clients hold addresses with presigned signatures and shared access tokens, so nothing of them is kept: neither their
text nor the exception itself as cause or context. An error code is.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, TypeVar

from mlsec_dagster.audit.objects import LogObject, ObjectChangedError
from mlsec_dagster.errors import StoreError

Item = TypeVar("Item")

Kind = Literal["changed", "throttled", "expired", "denied", "forbidden", "absent", "archived", "unreachable", "other"]

PIECE: Final = 1 << 20
"""Bytes in which an object is passed on."""

_ADVICE: Final[dict[Kind, str]] = {
    "throttled": "is throttled by the storage. Nothing is lost: the next tick goes on; raise the interval or the limits if it stays so",
    "expired": "was refused: the credentials are absent or expired. Renew those of the resource that gives the client",
    "denied": "was refused: the credentials do not allow it. Grant listing and reading of it, and of its key if it is encrypted",
    "forbidden": "was refused: the user of this process may not read it. Give that user the right to list and read it, or run as its owner",
    "absent": "is not there. Correct its name, or create it",
    "archived": "lies in an archive tier and cannot be read. Restore it, or keep logs out of the archive for as long as they are read",
    "unreachable": "could not be reached. Nothing is lost: the next tick tries again; check the network and the endpoint if it stays so",
    "other": "could not be read. Nothing is lost: the next tick tries again; look the code up if it stays so",
}
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")


def failure(kind: Kind, name: str, code: object = "") -> StoreError:
    """The error to raise.

    Args:
        kind: What went wrong; "changed" gives an `ObjectChangedError`.
        name: What was asked for: the place's URI, followed by the object's key.
        code: The storage's code or the exception's name; left out unless it is a plain word.
    """
    if kind == "changed":
        return changed(name)
    word = str(code)
    return StoreError(f"{printable(name)} {_ADVICE[kind]}{f' (code: {word})' if _CODE.fullmatch(word) else ''}.")


def changed(name: str, how: str = "was replaced or deleted since it was listed") -> ObjectChangedError:
    """The error for an object that is not what the listing said."""
    return ObjectChangedError(f"{printable(name)} {how}. List it again.")


def printable(name: str) -> str:
    """A key as it can be shown: whoever writes objects chooses it, terminal escapes and line ends included."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def by_status(status: int | None) -> Kind:
    """What an HTTP status means for storage that gave no code that is known.

    https://www.rfc-editor.org/rfc/rfc9110#section-15
    """
    match status:
        case 404 | 410 | 412 | 416:
            return "changed"
        case 429 | 503:
            return "throttled"
        case 401:
            return "expired"
        case 403:
            return "denied"
        case None | 408 | 500 | 502 | 504:
            return "unreachable"
        case _:
            return "other"


def translated(items: Iterable[Item], errors: tuple[type[Exception], ...], translate: Callable[[Exception], StoreError]) -> Iterator[Item]:
    """The items, with errors of these classes translated.

    Raises:
        StoreError: What `translate` made of an error. Raised outside of the handler, so that it has no context.
    """
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except errors as caught:
            error = translate(caught)
        else:
            yield item
            continue
        raise error


def exactly(pieces: Iterable[bytes], found: LogObject, start: int, name: str) -> Iterator[bytes]:
    """The pieces, which must be as many bytes as were asked for.

    Raises:
        ObjectChangedError: They are fewer or more.
    """
    expected = max(0, found.size - start)
    seen = 0
    for piece in pieces:
        seen += len(piece)
        if seen > expected:
            break
        if piece:
            yield piece
    if seen != expected:
        raise changed(name, f"gave {'more' if seen > expected else 'fewer'} than the {expected:,} bytes that were listed")


def ranges(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of `size` bytes or less from `start` up to `end`, as (first byte, length)."""
    for first in range(start, end, size):
        yield first, min(size, end - first)


def in_pieces(data: bytes) -> Iterator[bytes]:
    """Bytes that came at once, in pieces of `PIECE`."""
    if len(data) <= PIECE:
        yield data
    else:
        view = memoryview(data)
        for first in range(0, len(data), PIECE):
            yield bytes(view[first : first + PIECE])


def as_folder(prefix: str) -> str:
    """A prefix that all keys of a place begin with: empty, or ending in one "/"."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def small_letters(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """User metadata with names in small letters, as HTTP headers are compared."""
    return {name.lower(): value for name, value in (metadata or {}).items()}
