"""Writing rows of the trail again, in other files, without losing any.

with Rewriting(trail, attempt) as rewriting:
    part = rewriting.begin(source, day)
    part.write(table)
    file = rewriting.finish(part, source, keys)   # refused if what lies there now has other rows than those
    upkeep.put(Change(files=[file], …), attempt)
    rewriting.keep()                              # else what was written is deleted
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow.parquet as pq

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.known import Keys, key_numbers
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.audit.writing import Part
from mlsec_dagster.errors import StoreError


class Rewriting:
    """Files that are being written, and are deleted unless somebody says that they were committed.

    Args:
        trail: Where they go.
        attempt: Identity of the commit, part of their names.
    """

    def __init__(self, trail: Trail, attempt: str) -> None:
        self.trail = trail
        self.attempt = attempt
        self._paths: list[str] = []
        self._open: Part | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._open is not None:
            self._open.sink.close()
        for path in self._paths:
            self.trail.storage.remove(path)

    def begin(self, source: str, day: str) -> Part:
        """A new file."""
        path = f"source={source}/day={day}/{self.attempt}-{len(self._paths) + 1}.parquet"
        self._paths.append(path)
        self._open = Part(path, day, self.trail.storage.create(path), keep_keys=False)
        return self._open

    def finish(self, part: Part, source: str, keys: Sequence[Keys]) -> TrailFile:
        """Bring it to its end, and read from the storage whether it has all rows.

        Args:
            part: The file.
            source: The log.
            keys: The keys of the rows that it has to have.

        Raises:
            StoreError: It has others, more or less.
        """
        try:
            file = part.close(source)
        except OSError as error:
            raise StoreError(f"The trail's file {part.path} cannot be written ({error}). Nothing was done; make room.") from error
        self._open = None
        with self.trail.storage.open(part.path) as opened:
            found = key_numbers(pq.ParquetFile(opened).read(columns=["key"]).column("key"))
        expected = np.concatenate(keys)
        if not np.array_equal(_in_order(found), _in_order(expected)):
            raise StoreError(
                f"The file {part.path} was written again with {len(found):,} rows, not the {len(expected):,} that it should have, or with "
                "others. Nothing was changed; please report this."
            )
        return file

    def keep(self) -> None:
        """They are in the table now, or somebody else decides that."""
        self._paths = []


def _in_order(keys: Keys) -> Keys:
    return keys[np.lexsort((keys[:, 1], keys[:, 0]))]
