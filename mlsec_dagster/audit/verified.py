"""A file of the trail as it was sealed, and nothing else.

    with verified_copy(trail, sealed) as opened:
        pq.ParquetFile(opened)

The storage is the attacker's too: what is digested there and read again may be another file by then. So the bytes are copied while they
are digested, into a file that has no name, and only the copy is read. Whoever is killed leaves nothing of it behind.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, Final

import pyarrow as pa
from blake3 import blake3

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import StoreError, VerificationError

_PIECE: Final = 1 << 20


class NotAsSealedError(VerificationError):
    """A file of the trail is not what was sealed."""


@contextmanager
def verified_copy(trail: Trail, sealed: TrailFile) -> Generator[Any]:
    """A file of the trail, open for random reading.

    Args:
        trail: The trail.
        sealed: The file, with the digest that was sealed.

    Raises:
        NotAsSealedError: It is another file now, or it is gone.
        StoreError: It cannot be read.
    """
    hashed, size = blake3(), 0
    with TemporaryFile() as copy:
        try:
            with trail.storage.open(sealed.path) as opened:
                while piece := opened.read(_PIECE):
                    hashed.update(piece)
                    copy.write(piece)
                    size += len(piece)
        except FileNotFoundError as error:
            raise NotAsSealedError(f"The file {sealed.path} of the trail is gone from the storage. Restore it from a backup.") from error
        except OSError as error:
            raise StoreError(f"The trail's file {sealed.path} cannot be copied to be verified ({error}). Nothing was done.") from error
        if f"blake3:{hashed.hexdigest()}" != sealed.digest:
            raise NotAsSealedError(
                f"The file {sealed.path} of the trail is not the one that was sealed: {size:,} bytes now, {sealed.size:,} then, with "
                "another digest. It was left alone; restore it from a backup."
            )
        copy.seek(0)
        yield pa.PythonFile(copy, "r")
